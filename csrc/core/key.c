#include "core/key.h"

#include <math.h>
#include <string.h>

#include "core/bytes.h"

enum {
    FRAME_SIZE = 5,   /* tag and u32 */
    INT_SIZE = 9,     /* tag and int64 */
    DIGEST_ITEM = 22, /* tag, tag, digest, u32 */
    /* A double is an odd integer of at most 53 bits, shifted by at most 1,074 bits either way:
       2^1074 has 135 bytes. */
    DOUBLE_BYTES_MAX = 144
};

static enum cog_status put_tag(struct cog_buf *out, enum cog_key_tag tag)
{
    return cog_buf_append_u8(out, (uint8_t)tag);
}

/* Tag and u32, then room for `size` bytes, given back in `*body`. */
static enum cog_status put_frame(struct cog_buf *out, enum cog_key_tag tag, size_t number,
                                 size_t size, unsigned char **body)
{
    unsigned char *where;
    enum cog_status status;

    if (number > UINT32_MAX || size > UINT32_MAX)
        return COG_ERR_LIMIT;
    status = cog_buf_extend(out, FRAME_SIZE + size, &where);
    if (status != COG_OK)
        return status;
    where[0] = (unsigned char)tag;
    cog_store_le32(where + 1, (uint32_t)number);
    *body = where + FRAME_SIZE;
    return COG_OK;
}

static enum cog_status put_framed(struct cog_buf *out, enum cog_key_tag tag, const void *bytes,
                                  size_t size)
{
    unsigned char *body;
    enum cog_status status = put_frame(out, tag, size, size, &body);

    if (status == COG_OK && size)
        memcpy(body, bytes, size);
    return status;
}

enum cog_status cog_key_null(struct cog_buf *out)
{
    return put_tag(out, COG_KEY_NULL);
}

enum cog_status cog_key_bool(struct cog_buf *out, bool value)
{
    return put_tag(out, value ? COG_KEY_TRUE : COG_KEY_FALSE);
}

enum cog_status cog_key_int(struct cog_buf *out, int64_t value)
{
    unsigned char *where;
    enum cog_status status = cog_buf_extend(out, INT_SIZE, &where);

    if (status != COG_OK)
        return status;
    where[0] = COG_KEY_INT;
    cog_store_le64(where + 1, (uint64_t)value);
    return COG_OK;
}

enum cog_status cog_key_big(struct cog_buf *out, bool negative, const void *magnitude, size_t size)
{
    const unsigned char *bytes = magnitude;

    while (size && bytes[size - 1] == 0)
        size--;
    if (size <= 8) {
        const uint64_t limit = (uint64_t)INT64_MAX + (negative ? 1 : 0);
        uint64_t small = 0;
        for (size_t i = size; i-- > 0;)
            small = small << 8 | bytes[i];
        /* 0 - small wraps to the two's complement, which is right down to -2^63. */
        if (small <= limit)
            return cog_key_int(out, (int64_t)(negative ? 0 - small : small));
    }
    return put_framed(out, negative ? COG_KEY_BIG_NEGATIVE : COG_KEY_BIG, bytes, size);
}

/* mantissa * 2^shift as an integer. */
static enum cog_status put_shifted(struct cog_buf *out, bool negative, uint64_t mantissa,
                                   unsigned shift)
{
    unsigned char magnitude[DOUBLE_BYTES_MAX] = {0};
    unsigned char *where = magnitude + shift / 8;
    const unsigned bits = shift % 8;

    cog_store_le64(where, mantissa << bits);
    if (bits)
        where[8] = (unsigned char)(mantissa >> (64 - bits));
    return cog_key_big(out, negative, magnitude, (size_t)shift / 8 + 9);
}

/* 2^shift, which usually is a small integer. */
static enum cog_status put_power_of_two(struct cog_buf *out, unsigned shift)
{
    return shift < 63 ? cog_key_int(out, INT64_C(1) << shift) : put_shifted(out, false, 1, shift);
}

enum cog_status cog_key_double(struct cog_buf *out, double value)
{
    const size_t start = out->size;
    const bool negative = signbit(value) != 0;
    enum cog_status status;
    uint64_t mantissa;
    int exponent;
    unsigned twos;

    if (isnan(value))
        return put_tag(out, COG_KEY_NAN);
    if (isinf(value))
        return put_tag(out, negative ? COG_KEY_INF_NEGATIVE : COG_KEY_INF);
    if (value == 0)
        return cog_key_int(out, 0);
    /* |value| = mantissa * 2^exponent with an odd mantissa below 2^53; ldexp and frexp are exact
     * here. */
    mantissa = (uint64_t)ldexp(frexp(fabs(value), &exponent), 53);
    exponent -= 53;
    twos = (unsigned)__builtin_ctzll(mantissa);
    mantissa >>= twos;
    exponent += (int)twos;
    if (exponent >= 0)
        return put_shifted(out, negative, mantissa, (unsigned)exponent);
    /* An odd numerator over a power of two is in lowest terms. */
    status = cog_key_ratio(out);
    if (status == COG_OK)
        status = cog_key_int(out, negative ? -(int64_t)mantissa : (int64_t)mantissa);
    if (status == COG_OK)
        status = put_power_of_two(out, (unsigned)-exponent);
    if (status != COG_OK)
        out->size = start;
    return status;
}

enum cog_status cog_key_ratio(struct cog_buf *out)
{
    return put_tag(out, COG_KEY_RATIO);
}

enum cog_status cog_key_str(struct cog_buf *out, const void *utf8, size_t size)
{
    return put_framed(out, COG_KEY_STR, utf8, size);
}

enum cog_status cog_key_bytes(struct cog_buf *out, const void *bytes, size_t size)
{
    return put_framed(out, COG_KEY_BYTES, bytes, size);
}

enum cog_status cog_key_list(struct cog_buf *out, size_t count)
{
    unsigned char *body;
    return put_frame(out, COG_KEY_LIST, count, 0, &body);
}

enum cog_status cog_key_map(struct cog_buf *out, size_t count)
{
    unsigned char *body;
    return put_frame(out, COG_KEY_MAP, count, 0, &body);
}

enum cog_status cog_key_digest(struct cog_buf *out, enum cog_key_tag tag,
                               const struct cog_digest *digest, uint32_t length)
{
    unsigned char *where;
    enum cog_status status = cog_buf_extend(out, DIGEST_ITEM, &where);

    if (status != COG_OK)
        return status;
    where[0] = COG_KEY_DIGEST;
    where[1] = (unsigned char)tag;
    memcpy(where + 2, digest->bytes, sizeof digest->bytes);
    cog_store_le32(where + 2 + sizeof digest->bytes, length);
    return COG_OK;
}

int cog_key_compare(const void *a, size_t a_size, const void *b, size_t b_size)
{
    const size_t common = a_size < b_size ? a_size : b_size;
    const int order = common ? memcmp(a, b, common) : 0;

    if (order)
        return order;
    return (a_size > b_size) - (a_size < b_size);
}

/* What counts against COG_KEY_INLINE_MAX, and is kept beside the digest: the text or bytes alone,
 * else the encoding. */
static size_t value_length(const struct cog_buf *out, size_t start)
{
    const unsigned char tag = out->data[start];
    const size_t encoded = out->size - start;

    switch (tag) {
    case COG_KEY_STR:
    case COG_KEY_BYTES: return encoded - FRAME_SIZE;
    case COG_KEY_LIST:
    case COG_KEY_MAP: return encoded;
    default: return 0;
    }
}

bool cog_key_is_long(const struct cog_buf *out, size_t start)
{
    return value_length(out, start) > COG_KEY_INLINE_MAX;
}

void cog_key_fold(struct cog_buf *out, size_t start)
{
    const size_t length = value_length(out, start);
    const enum cog_key_tag tag = (enum cog_key_tag)out->data[start];
    struct cog_digest digest;

    if (length <= COG_KEY_INLINE_MAX)
        return;
    cog_hash128(out->data + start, out->size - start, &digest);
    out->size = start;
    /* Cannot fail: the digest is shorter than what it replaces, and lengths are framed by u32. */
    (void)cog_key_digest(out, tag, &digest, (uint32_t)length);
}

enum cog_status cog_key_begin(struct cog_buf *out, const void *profile, size_t profile_size,
                              const unsigned char source[COG_KEY_SOURCE_SIZE], const void *artifact,
                              size_t artifact_size)
{
    const size_t start = out->size;
    enum cog_status status = cog_key_list(out, 5);

    if (status == COG_OK)
        status = cog_key_int(out, COG_KEY_VERSION);
    if (status == COG_OK)
        status = cog_key_str(out, profile, profile_size);
    if (status == COG_OK)
        status = cog_key_bytes(out, source, COG_KEY_SOURCE_SIZE);
    if (status == COG_OK)
        status = cog_key_str(out, artifact, artifact_size);
    if (status != COG_OK)
        out->size = start;
    return status;
}

enum cog_status cog_key_end(const struct cog_buf *out)
{
    return out->size <= COG_KEY_SIZE_MAX ? COG_OK : COG_ERR_LIMIT;
}

enum cog_status cog_key_raw(const char *utf8, size_t size, struct cog_buf *out)
{
    static const char raw[] = "raw";
    const size_t start = out->size;
    enum cog_status status;

    if (size == 0 || memchr(utf8, 0, size))
        return COG_ERR_INVALID;
    if (size > COG_KEY_RAW_MAX)
        return COG_ERR_LIMIT;
    status = cog_key_list(out, 3);
    if (status == COG_OK)
        status = cog_key_int(out, COG_KEY_VERSION);
    if (status == COG_OK)
        status = cog_key_str(out, raw, sizeof raw - 1);
    if (status == COG_OK)
        status = cog_key_str(out, utf8, size);
    if (status != COG_OK)
        out->size = start;
    return status;
}
