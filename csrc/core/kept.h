/*
 * Parsed indexes of large files that are read again and again.
 *
 * Of a file over 64 KiB every hit would read the last 16 KiB, check and parse them: for one picture
 * out of a bundle of hundreds that is most of the work. A process keeps what it has parsed, on a
 * shelf that is bounded in bytes and in number (shelf.h), with the document where it is short.
 *
 * What is kept was verified when it was parsed, and is used only while the file is the very same:
 * device, inode, length and both time stamps of a new fstat(), and the whole footer, read anew with
 * the freshness slots, byte for byte (cog_entry_reopen()). The footer holds the write token, which
 * no two writes share, and the checksum of the index. Chunks are checked as ever, and only chunks
 * of that write pass. So nothing that is kept can make a wrong value: not of a file that was
 * replaced, rewritten or cut, and a refresh or an invalidation is seen by every hit.
 *
 * A clock ticks up to COG_SETTLED_MS apart, and two changes within a tick have one time stamp: a
 * file that changed as recently is not kept.
 */
#ifndef COG_KEPT_H
#define COG_KEPT_H

#include <stddef.h>
#include <stdint.h>

#include "core/entry.h"
#include "core/fs.h"

enum {
    COG_KEPT_BYTES = 16 << 20,  /* of all kept indexes together */
    COG_KEPT_LARGEST = 2 << 20, /* larger ones are not kept */
    COG_KEPT_DOCUMENT = 4096,   /* documents up to here are kept beside the index */
    COG_SETTLED_MS = 20
};

struct cog_kept; /* immutable once kept */

/* What is kept of this very file with a reference for the caller, or NULL. */
struct cog_kept *cog_kept_find(const struct cog_stat *stat);
/*
 * Keep an index that was opened on a file of which `stat` was taken before; `now_ms` is the wall
 * clock. Gives a reference and takes `entry` over, or NULL: it is not to be kept, or there is no
 * memory. The document is read from `source` if it lies from `start` on.
 */
struct cog_kept *cog_kept_keep(const struct cog_stat *stat, uint64_t now_ms,
                               struct cog_entry *entry, const struct cog_source *source,
                               uint64_t start);
void cog_kept_unref(struct cog_kept *kept); /* accepts NULL */

struct cog_entry *cog_kept_entry(const struct cog_kept *kept); /* not the caller's to free */
/* The expanded document, verified; NULL where it is not kept. */
const unsigned char *cog_kept_document(const struct cog_kept *kept, size_t *size);

#endif
