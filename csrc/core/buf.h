/*
 * A growable byte buffer. `{0}` is a valid empty one. Growth doubles.
 * Every append either happens whole or leaves the buffer as it was.
 */
#ifndef COG_BUF_H
#define COG_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

struct cog_buf {
    unsigned char *data;
    size_t size;     /* bytes in use */
    size_t capacity; /* bytes allocated */
};

/* room for `more` bytes beyond size */
enum cog_status cog_buf_reserve(struct cog_buf *buf, size_t more);
enum cog_status cog_buf_append(struct cog_buf *buf, const void *bytes, size_t size);
enum cog_status cog_buf_append_zeros(struct cog_buf *buf, size_t size);
/* uninitialised room */
enum cog_status cog_buf_extend(struct cog_buf *buf, size_t size, unsigned char **where);
enum cog_status cog_buf_append_u8(struct cog_buf *buf, uint8_t value);
/* little-endian */
enum cog_status cog_buf_append_u64(struct cog_buf *buf, uint64_t value);
void cog_buf_reset(struct cog_buf *buf);   /* size 0, memory kept */
void cog_buf_release(struct cog_buf *buf); /* frees; the buffer is empty and usable again */

#endif
