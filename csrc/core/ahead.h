/*
 * Checksums of a long run of chunks, taken by a second thread while somebody writes them.
 *
 * Copying into the page cache waits for memory; a second processor that hashes the next few chunks
 * meanwhile costs the writer little, and leaves them in the shared cache for the copy. The writer
 * asks for the sums when it has written everything, and takes those itself that are not there by
 * then, from the last one backwards. So it works without the thread, too, only slower.
 *
 * Bytes that change while this goes on get a sum that fits one state of them or none: what was
 * written may then be refused when it is read, and is never taken for what it is not.
 */
#ifndef COG_AHEAD_H
#define COG_AHEAD_H

#include <stddef.h>
#include <stdint.h>

enum {
    COG_AHEAD_FROM = 8 << 20,  /* bytes from which a second thread is worth its start */
    COG_AHEAD_BYTES = 6 << 20, /* how far it runs ahead: less than a shared cache holds */
};

struct cog_ahead;

/*
 * Begin with the chunks of `data`: `chunk_size` bytes each but for the last, numbered from `first`.
 * They stay in place until cog_ahead_end(). NULL: no memory or no thread.
 */
struct cog_ahead *cog_ahead_begin(const void *data, size_t size, size_t chunk_size, uint64_t token,
                                  uint32_t first);
/* `count` chunks have been written: the thread may go so much further. */
void cog_ahead_move(struct cog_ahead *ahead, uint32_t count);
/* Every sum, little endian, one behind the other, into `out`. Once, before cog_ahead_end(). */
void cog_ahead_sums(struct cog_ahead *ahead, unsigned char *out);
void cog_ahead_end(struct cog_ahead *ahead); /* at any time; accepts NULL */

#endif
