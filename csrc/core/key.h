/*
 * Keys: typed fields to one canonical byte string. The only place that defines what "same input"
 * means.
 *
 * The grammar, with byte examples, is docs/keys.md; no released encoding ever changes
 * (COG_KEY_VERSION would). A key is what the writers below append to one buffer:
 *
 *     cog_key_begin(out, profile, source, artifact), cog_key_map(out, n), n times {
 * cog_key_str(name), one value
 *     [, cog_key_fold] }, cog_key_end(out)
 *
 * Everything is framed by type and length, so no two different inputs share an encoding. Names of a
 * map are appended in the order of cog_key_compare, each once: that is the caller's duty, as are
 * valid UTF-8 and lowest terms.
 *
 * Every writer either appends one whole item or fails with COG_ERR_NOMEM and leaves the buffer as
 * it was; other statuses are named. No state but the buffer: any thread, one buffer each.
 */
#ifndef COG_KEY_H
#define COG_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/hash.h"
#include "core/status.h"

enum {
    COG_KEY_VERSION = 1, /* a constant of its own: neither container, nor library, nor chunk size */
    COG_KEY_SIZE_MAX = 65536, /* bytes of a whole encoding */
    COG_KEY_RAW_MAX = 65000,  /* UTF-8 bytes of a raw string key */
    COG_KEY_DEPTH_MAX = 32,   /* nested lists and maps, the parameter map among them */
    COG_KEY_INLINE_MAX = 64,  /* longer values are folded to their digest */
    COG_KEY_LONG_MAX =
        983040, /* encoded bytes of all folded values of a key: they must fit the metadata */
    COG_KEY_SOURCE_SIZE = 16
};

/* The first byte of an item. */
enum cog_key_tag {
    COG_KEY_NULL = 'n',
    COG_KEY_FALSE = 'f',
    COG_KEY_TRUE = 't',
    COG_KEY_INT = 'i',          /* int64, little-endian */
    COG_KEY_BIG = '+',          /* integers from 2^63: u32 size, magnitude little-endian */
    COG_KEY_BIG_NEGATIVE = '-', /* integers below -2^63, likewise */
    COG_KEY_RATIO = 'r',        /* two integers: numerator, denominator >= 2, lowest terms */
    COG_KEY_NAN = '?',
    COG_KEY_INF = '>',
    COG_KEY_INF_NEGATIVE = '<',
    COG_KEY_STR = 's',   /* u32 size, UTF-8 */
    COG_KEY_BYTES = 'b', /* u32 size, bytes */
    COG_KEY_LIST = 'l',  /* u32 count, items */
    COG_KEY_MAP = 'm',   /* u32 count, (str, item) pairs sorted by the bytes of the names */
    COG_KEY_DIGEST = 'd' /* a folded value: its tag, XXH3-128 of its encoding, u32 length */
};

enum cog_status cog_key_null(struct cog_buf *out);
enum cog_status cog_key_bool(struct cog_buf *out, bool value);
enum cog_status cog_key_int(struct cog_buf *out, int64_t value);
/* An integer of any size; `magnitude` is little-endian, leading zeros allowed. Small ones become
 * cog_key_int. */
enum cog_status cog_key_big(struct cog_buf *out, bool negative, const void *magnitude, size_t size);
/* The exact value: 30.0 is the integer 30, -0.0 is 0, 0.5 the ratio 1/2, all NaN are one. */
enum cog_status cog_key_double(struct cog_buf *out, double value);
/* Numerator and denominator follow, by cog_key_int or cog_key_big: lowest terms, denominator >= 2.
 */
enum cog_status cog_key_ratio(struct cog_buf *out);
/* COG_ERR_LIMIT: over 2^32 - 1 bytes or items. */
enum cog_status cog_key_str(struct cog_buf *out, const void *utf8, size_t size);
enum cog_status cog_key_bytes(struct cog_buf *out, const void *bytes, size_t size);
enum cog_status cog_key_list(struct cog_buf *out, size_t count); /* `count` items follow */
enum cog_status cog_key_map(struct cog_buf *out,
                            size_t count); /* `count` names and items follow, sorted */
/* A folded value as such, for keys that come back from their printed form. */
enum cog_status cog_key_digest(struct cog_buf *out, enum cog_key_tag tag,
                               const struct cog_digest *digest, uint32_t length);

/* The order of names in a map: as bytes, a prefix first. */
int cog_key_compare(const void *a, size_t a_size, const void *b, size_t b_size);

/*
 * If the one value that starts at `start` and ends the buffer is long, put its digest in its place.
 * Long is a str or bytes of more than COG_KEY_INLINE_MAX bytes, or a list or map whose encoding has
 * more than that.
 */
bool cog_key_is_long(const struct cog_buf *out, size_t start);
void cog_key_fold(struct cog_buf *out, size_t start);

/* The fields before the parameters; the parameter map follows. `profile` may be empty. */
enum cog_status cog_key_begin(struct cog_buf *out, const void *profile, size_t profile_size,
                              const unsigned char source[COG_KEY_SOURCE_SIZE], const void *artifact,
                              size_t artifact_size);
/* COG_ERR_LIMIT: the encoding, which is the whole buffer, exceeds COG_KEY_SIZE_MAX. */
enum cog_status cog_key_end(const struct cog_buf *out);

/*
 * The whole encoding of a raw string key, appended to `out`. COG_ERR_INVALID: empty, or a NUL in
 * it; COG_ERR_LIMIT: over COG_KEY_RAW_MAX.
 */
enum cog_status cog_key_raw(const char *utf8, size_t size, struct cog_buf *out);

#endif
