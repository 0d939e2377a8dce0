/* Little loads and stores of fixed byte order, at any alignment. Compilers make one instruction of
 * each. */
#ifndef COG_BYTES_H
#define COG_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define COG_LE16(x) __builtin_bswap16(x)
#define COG_LE32(x) __builtin_bswap32(x)
#define COG_LE64(x) __builtin_bswap64(x)
#define COG_BE64(x) (x)
#else
#define COG_LE16(x) (x)
#define COG_LE32(x) (x)
#define COG_LE64(x) (x)
#define COG_BE64(x) __builtin_bswap64(x)
#endif

static inline uint16_t cog_load_le16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return COG_LE16(v);
}

static inline uint32_t cog_load_le32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return COG_LE32(v);
}

static inline uint64_t cog_load_le64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return COG_LE64(v);
}

static inline void cog_store_le16(void *p, uint16_t v)
{
    v = COG_LE16(v);
    memcpy(p, &v, sizeof v);
}

static inline void cog_store_le32(void *p, uint32_t v)
{
    v = COG_LE32(v);
    memcpy(p, &v, sizeof v);
}

static inline void cog_store_le64(void *p, uint64_t v)
{
    v = COG_LE64(v);
    memcpy(p, &v, sizeof v);
}

static inline void cog_store_be64(void *p, uint64_t v)
{
    v = COG_BE64(v);
    memcpy(p, &v, sizeof v);
}

static inline uint64_t cog_load_be64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return COG_BE64(v);
}

#endif
