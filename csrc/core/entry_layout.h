/* What the reader and the writer of entries share: the numbers of docs/format.md. Private to
 * entry*.c. */
#ifndef COG_ENTRY_LAYOUT_H
#define COG_ENTRY_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "core/bytes.h"
#include "core/entry.h"
#include "core/hash.h"

#define COG_HEAD_MAGIC UINT64_C(0x0A1A0A0D43474389) /* 89 43 47 43 0D 0A 1A 0A */
#define COG_END_MAGIC UINT32_C(0x1A434743)          /* 43 47 43 1A */

enum {
    COG_MAJOR = 1,
    COG_MINOR = 0,
    COG_INDEX_LIMIT = 64 << 20, /* stored and raw */
    COG_NAMES_LIMIT = 32 << 20, /* all part names, expanded */
    COG_FORMATS_LIMIT = 64,
    COG_FORMAT_SIZE = 12,
    COG_ALIGN_LIMIT = 16,
    COG_STORED_WIDTH_LIMIT = 4,
    COG_ORDER_WIDTH_LIMIT = 4,
    COG_RAW_WIDTH_LIMIT = 8,
    COG_INDEX_COUNTS = 28 /* six counts of 4 bytes, four of 1 */
};

/* Offsets in the footer. */
enum {
    COG_FOOTER_TOKEN = 0,
    COG_FOOTER_LENGTH = 8,
    COG_FOOTER_INDEX_STORED = 16,
    COG_FOOTER_INDEX_RAW = 20,
    COG_FOOTER_INDEX_SUM = 24,
    COG_FOOTER_MAJOR = 32,
    COG_FOOTER_MINOR = 33,
    COG_FOOTER_INDEX_CODEC = 34,
    COG_FOOTER_FEATURES = 35,
    COG_FOOTER_MAGIC = 36,
    COG_FOOTER_SUM = 40
};

/* One row of the format table. */
struct cog_format {
    uint8_t codec, filter, element_size, align_log2;
    uint32_t chunk_size;
    uint32_t dictionary;
};

static inline uint64_t cog_footer_sum(const unsigned char *footer)
{
    return cog_hash64(footer, COG_FOOTER_SUM, UINT64_C(0x9C6E6877736C46E3));
}

static inline uint64_t cog_index_sum(const void *index, size_t size, uint64_t token)
{
    return cog_hash64(index, size, token ^ UINT64_C(0x1D8E4E27C47D124F));
}

/* Every chunk of every write has its own seed: bytes of another place or another write never fit.
 */
static inline uint64_t cog_chunk_sum(const void *stored, size_t size, uint64_t token,
                                     uint32_t chunk)
{
    uint64_t seed = token + ((uint64_t)chunk + 1) * UINT64_C(0x9E3779B97F4A7C15);

    return cog_hash64(stored, size, seed);
}

/* Chunks of a part; not (raw + size - 1) / size, which overflows. */
static inline uint64_t cog_chunk_count(uint64_t raw, uint32_t chunk_size)
{
    if (raw <= chunk_size)
        return raw != 0;
    return raw / chunk_size + (raw % chunk_size != 0);
}

/* Stored bytes are as many as raw ones: their lengths are not listed. */
static inline bool cog_format_is_implied(const struct cog_format *format)
{
    return format->codec == COG_CODEC_STORED && format->filter <= COG_FILTER_BITSHUFFLE;
}

/*
 * Freshness slots and footer, behind the stored index that `tail` holds, which begins at `data_end`
 * of the container. `fresh` goes into slot A with seq 1; NULL: refreshed 0, ttl never.
 */
enum cog_status cog_entry_append_tail(struct cog_buf *tail, uint64_t token, uint64_t data_end,
                                      size_t raw_index, uint8_t index_codec,
                                      const struct cog_freshness *fresh);

#endif
