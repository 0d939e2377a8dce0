#include "core/buf.h"

#include <string.h>

#include "core/alloc.h"
#include "core/bytes.h"

enum { SMALLEST_CAPACITY = 64 };

enum cog_status cog_buf_reserve(struct cog_buf *buf, size_t more)
{
    size_t wanted;
    size_t capacity = buf->capacity;
    unsigned char *data;

    if (cog_add_overflows(buf->size, more, &wanted))
        return COG_ERR_NOMEM;
    if (wanted <= capacity)
        return COG_OK;
    if (capacity > SIZE_MAX / 2)
        capacity = wanted;
    else
        capacity *= 2;
    if (capacity < wanted)
        capacity = wanted;
    if (capacity < SMALLEST_CAPACITY)
        capacity = SMALLEST_CAPACITY;
    data = cog_realloc(buf->data, capacity);
    if (!data)
        return COG_ERR_NOMEM;
    buf->data = data;
    buf->capacity = capacity;
    return COG_OK;
}

enum cog_status cog_buf_extend(struct cog_buf *buf, size_t size, unsigned char **where)
{
    enum cog_status status = cog_buf_reserve(buf, size);
    *where = NULL;
    if (status != COG_OK)
        return status;
    if (buf->data)
        *where = buf->data + buf->size;
    buf->size += size;
    return COG_OK;
}

enum cog_status cog_buf_append(struct cog_buf *buf, const void *bytes, size_t size)
{
    unsigned char *where;
    enum cog_status status = cog_buf_extend(buf, size, &where);
    if (status == COG_OK && size)
        memcpy(where, bytes, size);
    return status;
}

enum cog_status cog_buf_append_zeros(struct cog_buf *buf, size_t size)
{
    unsigned char *where;
    enum cog_status status = cog_buf_extend(buf, size, &where);
    if (status == COG_OK && size)
        memset(where, 0, size);
    return status;
}

enum cog_status cog_buf_append_u8(struct cog_buf *buf, uint8_t value)
{
    return cog_buf_append(buf, &value, 1);
}

enum cog_status cog_buf_append_u64(struct cog_buf *buf, uint64_t value)
{
    unsigned char bytes[8];
    cog_store_le64(bytes, value);
    return cog_buf_append(buf, bytes, sizeof bytes);
}

void cog_buf_reset(struct cog_buf *buf)
{
    buf->size = 0;
}

void cog_buf_release(struct cog_buf *buf)
{
    cog_free(buf->data);
    buf->data = NULL;
    buf->size = buf->capacity = 0;
}
