#include "core/msgpack.h"

#include <string.h>

#include "core/bytes.h"

/* --- reading ------------------------------------------------------------------------------- */

static enum cog_status take(struct cog_mp_reader *reader, size_t size, const unsigned char **out)
{
    if (size > (size_t)(reader->end - reader->at))
        return COG_ERR_DAMAGED;
    *out = reader->at;
    reader->at += size;
    return COG_OK;
}

/* A big-endian number of 1, 2, 4 or 8 bytes. */
static enum cog_status take_number(struct cog_mp_reader *reader, size_t width, uint64_t *out)
{
    const unsigned char *bytes;
    uint64_t value = 0;

    if (take(reader, width, &bytes) != COG_OK)
        return COG_ERR_DAMAGED;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | bytes[i];
    *out = value;
    return COG_OK;
}

static void set_integer(struct cog_mp_token *token, int64_t value)
{
    token->type = COG_MP_INT;
    token->integer = value;
    token->unsigned_integer = value < 0 ? 0 : (uint64_t)value;
}

static enum cog_status read_unsigned(struct cog_mp_reader *reader, size_t width,
                                     struct cog_mp_token *token)
{
    uint64_t value;

    if (take_number(reader, width, &value) != COG_OK)
        return COG_ERR_DAMAGED;
    if (value <= INT64_MAX) {
        set_integer(token, (int64_t)value);
    } else {
        token->type = COG_MP_UINT;
        token->unsigned_integer = value;
    }
    return COG_OK;
}

static enum cog_status read_signed(struct cog_mp_reader *reader, size_t width,
                                   struct cog_mp_token *token)
{
    uint64_t value, sign;

    if (take_number(reader, width, &value) != COG_OK)
        return COG_ERR_DAMAGED;
    /* Sign-extend without leaving what C defines: x ^ s - s. */
    sign = UINT64_C(1) << (8 * width - 1);
    value = (value ^ sign) - sign;
    set_integer(token, value <= INT64_MAX ? (int64_t)value : -(int64_t)(~value) - 1);
    return COG_OK;
}

static enum cog_status read_float(struct cog_mp_reader *reader, size_t width,
                                  struct cog_mp_token *token)
{
    uint64_t bits;

    if (take_number(reader, width, &bits) != COG_OK)
        return COG_ERR_DAMAGED;
    token->type = COG_MP_FLOAT;
    if (width == 4) {
        uint32_t narrow = (uint32_t)bits;
        float value;
        memcpy(&value, &narrow, sizeof value);
        token->real = (double)value;
    } else {
        memcpy(&token->real, &bits, sizeof token->real);
    }
    return COG_OK;
}

static enum cog_status read_bytes(struct cog_mp_reader *reader, enum cog_mp_type type, size_t size,
                                  struct cog_mp_token *token)
{
    token->type = type;
    token->size = (uint32_t)size;
    return take(reader, size, &token->data);
}

static enum cog_status read_sized(struct cog_mp_reader *reader, enum cog_mp_type type, size_t width,
                                  struct cog_mp_token *token)
{
    uint64_t size;

    if (take_number(reader, width, &size) != COG_OK)
        return COG_ERR_DAMAGED;
    return read_bytes(reader, type, (size_t)size, token);
}

static enum cog_status read_ext(struct cog_mp_reader *reader, size_t size,
                                struct cog_mp_token *token)
{
    const unsigned char *code;

    if (take(reader, 1, &code) != COG_OK)
        return COG_ERR_DAMAGED;
    token->ext = (int8_t)(*code < 128 ? *code : *code - 256);
    return read_bytes(reader, COG_MP_EXT, size, token);
}

static enum cog_status read_sized_ext(struct cog_mp_reader *reader, size_t width,
                                      struct cog_mp_token *token)
{
    uint64_t size;

    if (take_number(reader, width, &size) != COG_OK)
        return COG_ERR_DAMAGED;
    return read_ext(reader, (size_t)size, token);
}

/* Every item takes at least a byte, so a count beyond the bytes left is a lie. */
static enum cog_status read_container(struct cog_mp_reader *reader, enum cog_mp_type type,
                                      uint64_t count, struct cog_mp_token *token)
{
    uint64_t items = type == COG_MP_MAP ? 2 * count : count;

    if (items > (uint64_t)(reader->end - reader->at))
        return COG_ERR_DAMAGED;
    token->type = type;
    token->size = (uint32_t)count;
    return COG_OK;
}

static enum cog_status read_sized_container(struct cog_mp_reader *reader, enum cog_mp_type type,
                                            size_t width, struct cog_mp_token *token)
{
    uint64_t count;

    if (take_number(reader, width, &count) != COG_OK)
        return COG_ERR_DAMAGED;
    return read_container(reader, type, count, token);
}

enum cog_status cog_mp_next(struct cog_mp_reader *reader, struct cog_mp_token *token)
{
    const unsigned char *at;
    unsigned lead;

    if (take(reader, 1, &at) != COG_OK)
        return COG_ERR_DAMAGED;
    lead = *at;
    if (lead < 0x80 || lead >= 0xe0) {
        set_integer(token, lead < 0x80 ? (int64_t)lead : (int64_t)lead - 256);
        return COG_OK;
    }
    if (lead < 0x90)
        return read_container(reader, COG_MP_MAP, lead & 15, token);
    if (lead < 0xa0)
        return read_container(reader, COG_MP_ARRAY, lead & 15, token);
    if (lead < 0xc0)
        return read_bytes(reader, COG_MP_STR, lead & 31, token);

    switch (lead) {
    case 0xc0: token->type = COG_MP_NIL; return COG_OK;
    case 0xc2:
    case 0xc3:
        token->type = COG_MP_BOOL;
        token->boolean = lead == 0xc3;
        return COG_OK;
    case 0xc4:
    case 0xc5:
    case 0xc6: return read_sized(reader, COG_MP_BIN, (size_t)1 << (lead - 0xc4), token);
    case 0xc7:
    case 0xc8:
    case 0xc9: return read_sized_ext(reader, (size_t)1 << (lead - 0xc7), token);
    case 0xca:
    case 0xcb: return read_float(reader, lead == 0xca ? 4 : 8, token);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf: return read_unsigned(reader, (size_t)1 << (lead - 0xcc), token);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3: return read_signed(reader, (size_t)1 << (lead - 0xd0), token);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8: return read_ext(reader, (size_t)1 << (lead - 0xd4), token);
    case 0xd9:
    case 0xda:
    case 0xdb: return read_sized(reader, COG_MP_STR, (size_t)1 << (lead - 0xd9), token);
    case 0xdc:
    case 0xdd: return read_sized_container(reader, COG_MP_ARRAY, lead == 0xdc ? 2 : 4, token);
    case 0xde:
    case 0xdf: return read_sized_container(reader, COG_MP_MAP, lead == 0xde ? 2 : 4, token);
    default: /* 0xc1 is the one byte that msgpack never uses */ return COG_ERR_DAMAGED;
    }
}

/* Bytes of a token that most values are made of; 0 for the others. */
static inline size_t common_size(unsigned lead)
{
    if (lead >= 0xa0 && lead < 0xc0)
        return 1 + (lead & 31); /* a short text */
    if (lead < 0xa0 || lead >= 0xe0)
        return 1; /* a small number, or the head of a short array or map */
    return lead == 0xcb ? 9 : 0;
}

enum cog_status cog_mp_next_ext(struct cog_mp_reader *reader, struct cog_mp_token *token)
{
    while (reader->at < reader->end) {
        size_t size = common_size(*reader->at);
        enum cog_status status;

        if (size > 0 && size <= (size_t)(reader->end - reader->at)) {
            reader->at += size;
            continue;
        }
        status = cog_mp_next(reader, token);
        if (status != COG_OK || token->type == COG_MP_EXT)
            return status;
    }
    return COG_ABSENT;
}

enum cog_status cog_mp_skip(struct cog_mp_reader *reader, unsigned max_depth)
{
    uint64_t left[COG_MP_DEPTH_LIMIT]; /* items still to come in each open array or map */
    unsigned depth = 0;
    struct cog_mp_token token;

    if (max_depth > COG_MP_DEPTH_LIMIT)
        max_depth = COG_MP_DEPTH_LIMIT;
    for (;;) {
        enum cog_status status = cog_mp_next(reader, &token);
        if (status != COG_OK)
            return status;
        if (token.type == COG_MP_ARRAY || token.type == COG_MP_MAP) {
            if (depth == max_depth)
                return COG_ERR_DAMAGED;
            left[depth++] = token.type == COG_MP_MAP ? 2 * (uint64_t)token.size : token.size;
        }
        /* Close what is full; an item that was not opened counts for the container around it. */
        while (depth > 0 && left[depth - 1] == 0)
            depth--;
        if (depth == 0)
            return COG_OK;
        left[depth - 1]--;
    }
}

/* --- writing ------------------------------------------------------------------------------- */

enum { HEAD_LIMIT = 9 };

/* A lead byte and a big-endian number of `width` bytes, with room made for `payload` bytes behind
 * it. */
static enum cog_status append_head(struct cog_buf *out, unsigned lead, uint64_t number,
                                   size_t width, size_t payload)
{
    unsigned char *at;
    size_t room;

    if (payload > SIZE_MAX - HEAD_LIMIT)
        return COG_ERR_LIMIT;
    room = 1 + width + payload;
    if (cog_buf_reserve(out, room) != COG_OK)
        return COG_ERR_NOMEM;
    at = out->data + out->size;
    *at = (unsigned char)lead;
    for (size_t i = 0; i < width; i++)
        at[1 + i] = (unsigned char)(number >> (8 * (width - 1 - i)));
    out->size += 1 + width;
    return COG_OK;
}

/* Bytes of the shortest of the four sizes that holds `number`. */
static unsigned width_log2(uint64_t number)
{
    return number <= 0xff ? 0 : number <= 0xffff ? 1 : number <= 0xffffffff ? 2 : 3;
}

enum cog_status cog_mp_nil(struct cog_buf *out)
{
    return cog_buf_append_u8(out, 0xc0);
}

enum cog_status cog_mp_bool(struct cog_buf *out, bool value)
{
    return cog_buf_append_u8(out, value ? 0xc3 : 0xc2);
}

enum cog_status cog_mp_uint(struct cog_buf *out, uint64_t value)
{
    unsigned log2 = width_log2(value);

    if (value < 0x80)
        return cog_buf_append_u8(out, (uint8_t)value);
    return append_head(out, 0xcc + log2, value, (size_t)1 << log2, 0);
}

enum cog_status cog_mp_int(struct cog_buf *out, int64_t value)
{
    unsigned log2;

    if (value >= 0)
        return cog_mp_uint(out, (uint64_t)value);
    if (value >= -32)
        return cog_buf_append_u8(out, (uint8_t)(256 + value));
    log2 = value >= INT8_MIN ? 0 : value >= INT16_MIN ? 1 : value >= INT32_MIN ? 2 : 3;
    return append_head(out, 0xd0 + log2, (uint64_t)value, (size_t)1 << log2, 0);
}

enum cog_status cog_mp_float(struct cog_buf *out, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return append_head(out, 0xcb, bits, 8, 0);
}

static void append_payload(struct cog_buf *out, const void *bytes, size_t size)
{
    if (size)
        memcpy(out->data + out->size, bytes, size);
    out->size += size;
}

enum cog_status cog_mp_str(struct cog_buf *out, const void *utf8, size_t size)
{
    enum cog_status status;
    unsigned log2 = width_log2(size);

    if (size > UINT32_MAX)
        return COG_ERR_LIMIT;
    if (size < 32)
        status = append_head(out, 0xa0 + (unsigned)size, 0, 0, size);
    else
        status = append_head(out, 0xd9 + log2, size, (size_t)1 << log2, size);
    if (status == COG_OK)
        append_payload(out, utf8, size);
    return status;
}

enum cog_status cog_mp_bin(struct cog_buf *out, const void *bytes, size_t size)
{
    enum cog_status status;
    unsigned log2 = width_log2(size);

    if (size > UINT32_MAX)
        return COG_ERR_LIMIT;
    status = append_head(out, 0xc4 + log2, size, (size_t)1 << log2, size);
    if (status == COG_OK)
        append_payload(out, bytes, size);
    return status;
}

static enum cog_status append_container(struct cog_buf *out, unsigned small, unsigned wide,
                                        size_t count)
{
    if (count > UINT32_MAX)
        return COG_ERR_LIMIT;
    if (count < 16)
        return cog_buf_append_u8(out, (uint8_t)(small + count));
    if (count <= 0xffff)
        return append_head(out, wide, count, 2, 0);
    return append_head(out, wide + 1, count, 4, 0);
}

enum cog_status cog_mp_array(struct cog_buf *out, size_t items)
{
    return append_container(out, 0x90, 0xdc, items);
}

enum cog_status cog_mp_map(struct cog_buf *out, size_t pairs)
{
    return append_container(out, 0x80, 0xde, pairs);
}

enum cog_status cog_mp_ext_head(struct cog_buf *out, int8_t code, size_t size)
{
    unsigned char head[6];
    size_t used = 1;
    unsigned log2 = width_log2(size);

    if (size > UINT32_MAX)
        return COG_ERR_LIMIT;
    if (size == 1 || size == 2 || size == 4 || size == 8 || size == 16) {
        head[0] = (unsigned char)(size == 16  ? 0xd8
                                  : size == 8 ? 0xd7
                                  : size == 4 ? 0xd6
                                              : 0xd3 + size);
    } else {
        head[0] = (unsigned char)(0xc7 + log2);
        for (size_t width = (size_t)1 << log2; width > 0; width--)
            head[used++] = (unsigned char)(size >> (8 * (width - 1)));
    }
    head[used++] = (unsigned char)code;
    return cog_buf_append(out, head, used);
}

enum cog_status cog_mp_ext(struct cog_buf *out, int8_t code, const void *payload, size_t size)
{
    enum cog_status status;

    if (size > UINT32_MAX)
        return COG_ERR_LIMIT;
    if (cog_buf_reserve(out, size + HEAD_LIMIT) != COG_OK)
        return COG_ERR_NOMEM;
    status = cog_mp_ext_head(out, code, size);
    if (status == COG_OK)
        append_payload(out, payload, size);
    return status;
}
