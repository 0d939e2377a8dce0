/*
 * The metadata document of an entry and its two freshness slots: what a tier must know without
 * touching a value.
 *
 * Metadata is a msgpack map with integer keys for known fields; unknown keys are kept and skipped.
 * The slots are the only bytes of an entry that are ever rewritten; each checks itself, seeded with
 * the entry's write token.
 */
#ifndef COG_META_H
#define COG_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/status.h"

enum cog_meta_key {
    COG_META_CREATED = 1,
    COG_META_COST = 2,
    COG_META_TAGS = 3,
    COG_META_CONTENT_TYPE = 4,
    COG_META_USER = 5,
    COG_META_PRODUCER = 6,
    COG_META_ARTIFACT = 7,
    COG_META_CONTENT_DIGEST = 8,
    COG_META_SOURCE = 9,
    COG_META_STALE_IF_ERROR = 10,
    COG_META_PARTIAL = 11,
    COG_META_FULL_PARAMS = 12,
    COG_META_SOURCE_URI = 13
};
/* What a field is called where somebody gives or reads it; NULL: no field that we know. */
const char *cog_meta_name(int64_t key);

/* What the store itself reads from the metadata; 0 / empty when absent. Pointers lie inside the
 * metadata bytes. */
struct cog_meta {
    uint64_t created_ms;
    uint64_t cost_ms;
    const unsigned char *artifact; /* UTF-8, not terminated */
    size_t artifact_size;
    const unsigned char *tags; /* the msgpack array of [tag, version] pairs, or NULL */
    size_t tags_size;
    uint32_t tag_count;
};

/* COG_ERR_DAMAGED when the bytes break a rule (not a map, depth over 16, wrong type under a known
 * key). */
enum cog_status cog_meta_parse(const void *bytes, size_t size, struct cog_meta *out);

/* Walk the pairs: start with `*at` = meta->tags; COG_ABSENT at the end. */
struct cog_tag_ref {
    const unsigned char *name;
    size_t name_size;
    uint64_t version; /* capture time or tag version, microseconds since the epoch */
};
struct cog_tag_iter {
    const unsigned char *at;
    const unsigned char *end;
    uint32_t left;
};
void cog_tag_iter_init(struct cog_tag_iter *iter, const struct cog_meta *meta);
enum cog_status cog_tag_iter_next(struct cog_tag_iter *iter, struct cog_tag_ref *tag);

/* --- freshness ------------------------------------------------------------------------------- */

enum { COG_SLOT_SIZE = 32 };
#define COG_NEVER ((UINT64_C(1) << 48) - 1) /* of ttl_ms and stale_ms: no end */

struct cog_freshness {
    uint16_t seq;
    uint16_t flags;
    uint64_t refreshed_ms; /* Unix milliseconds, 48 bits */
    uint64_t ttl_ms;       /* 48 bits; COG_NEVER = no end */
    uint64_t stale_ms;     /* 48 bits; may be served stale until expires + stale */
};

void cog_slot_encode(const struct cog_freshness *fresh, uint64_t token,
                     unsigned char out[COG_SLOT_SIZE]);
bool cog_slot_decode(const unsigned char slot[COG_SLOT_SIZE], uint64_t token,
                     struct cog_freshness *out);
/* The current one of two slots: the valid one with the newest seq (16-bit circular). `*which` 0
 * or 1. COG_ABSENT: none. */
enum cog_status cog_slots_current(const unsigned char slots[2 * COG_SLOT_SIZE], uint64_t token,
                                  struct cog_freshness *out, unsigned *which);
/* Unix milliseconds of the end of life, UINT64_MAX for never. A refresh stamp in the future counts
 * as `now_ms`. */
uint64_t cog_fresh_expires(const struct cog_freshness *fresh, uint64_t now_ms);
bool cog_fresh_is_expired(const struct cog_freshness *fresh, uint64_t now_ms);

#endif
