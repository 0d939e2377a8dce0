/*
 * MessagePack primitives: append values to a buffer, read tokens from bounded memory. No tree, no
 * allocation on reading. Readers treat the bytes as hostile: every length is checked against the
 * bytes left before it is believed.
 */
#ifndef COG_MSGPACK_H
#define COG_MSGPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/status.h"

enum { COG_MP_DEPTH_LIMIT = 128 };

enum cog_mp_type {
    COG_MP_NIL,
    COG_MP_BOOL,
    COG_MP_INT /* fits int64 */,
    COG_MP_UINT /* above INT64_MAX */,
    COG_MP_FLOAT,
    COG_MP_STR,
    COG_MP_BIN,
    COG_MP_ARRAY,
    COG_MP_MAP,
    COG_MP_EXT
};

struct cog_mp_token {
    enum cog_mp_type type;
    bool boolean;
    int8_t ext;                /* application code of an ext */
    int64_t integer;           /* INT */
    uint64_t unsigned_integer; /* UINT, and INT where not negative */
    double real;               /* float 32 and 64; bits kept for 64 */
    const unsigned char *data; /* STR, BIN, EXT: `size` bytes inside the input */
    uint32_t size;             /* STR, BIN, EXT: bytes; ARRAY: items; MAP: pairs */
};

struct cog_mp_reader {
    const unsigned char *at;
    const unsigned char *end;
};

/* Next token. ARRAY and MAP only announce their items, which follow; a count above the bytes left
 * is COG_ERR_DAMAGED. */
enum cog_status cog_mp_next(struct cog_mp_reader *reader, struct cog_mp_token *token);
/*
 * Skip to the next extension and read it, whatever lies between. Looks at each token alone: that
 * counts of items are what follows them is for whoever reads the items. COG_ABSENT: the input ends
 * before there is one.
 */
enum cog_status cog_mp_next_ext(struct cog_mp_reader *reader, struct cog_mp_token *token);
/*
 * Skip one whole value with everything in it, without recursion. `max_depth` = arrays and maps that
 * may be open at once (0: a scalar only; at most COG_MP_DEPTH_LIMIT); deeper is COG_ERR_DAMAGED. On
 * failure the reader stands anywhere.
 */
enum cog_status cog_mp_skip(struct cog_mp_reader *reader, unsigned max_depth);

enum cog_status cog_mp_nil(struct cog_buf *out);
enum cog_status cog_mp_bool(struct cog_buf *out, bool value);
enum cog_status cog_mp_int(struct cog_buf *out, int64_t value); /* shortest form, all of them */
enum cog_status cog_mp_uint(struct cog_buf *out, uint64_t value);
enum cog_status cog_mp_float(struct cog_buf *out, double value); /* always 64 bits */
enum cog_status cog_mp_str(struct cog_buf *out, const void *utf8, size_t size);
enum cog_status cog_mp_bin(struct cog_buf *out, const void *bytes, size_t size);
enum cog_status cog_mp_array(struct cog_buf *out, size_t items);
enum cog_status cog_mp_map(struct cog_buf *out, size_t pairs);
enum cog_status cog_mp_ext(struct cog_buf *out, int8_t code, const void *payload, size_t size);
enum cog_status cog_mp_ext_head(struct cog_buf *out, int8_t code,
                                size_t size); /* payload follows by the caller */

#endif
