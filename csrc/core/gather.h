/*
 * A sink that writes a file from its beginning, in few large writes that begin and end where large
 * pages of the page cache do. Bytes that stay in place are written from where they lie.
 *
 * Whoever makes an entry into this sink hashes each chunk right before it is copied, while it is in
 * the processor's cache: making first and writing afterwards reads 100 MB from memory twice.
 */
#ifndef COG_GATHER_H
#define COG_GATHER_H

#include <sys/uio.h>

#include "core/entry.h"
#include "core/fs.h"

enum { COG_GATHER_PIECES = 64, COG_GATHER_COPIES = 64 << 10 };

struct cog_gather {
    const struct cog_fs *fs;
    int fd;
    uint64_t limit;   /* bytes that the file may have: so many are reserved */
    uint64_t written; /* all before is in the file */
    uint64_t pending; /* bytes in `pieces` */
    size_t count;
    struct iovec pieces[COG_GATHER_PIECES];
    unsigned char *copies; /* of bytes that do not stay in place */
    size_t copied;
};

/* COG_ERR_NOMEM, else COG_OK. Nothing is written before the sink is used. */
enum cog_status cog_gather_init(struct cog_gather *gather, const struct cog_fs *fs, int fd,
                                uint64_t limit);
void cog_gather_release(struct cog_gather *gather);

/* Its failures: COG_ERR_IO with the errno in `err`, COG_ERR_LIMIT: more than `limit` bytes. */
struct cog_sink cog_gather_sink(struct cog_gather *gather);
/* Write what is pending; `written` is the length of the file then. */
enum cog_status cog_gather_finish(struct cog_gather *gather, struct cog_error *err);

#endif
