#include "core/meta.h"

#include <string.h>

#include "core/bytes.h"
#include "core/hash.h"
#include "core/msgpack.h"

/* --- metadata ------------------------------------------------------------------------------ */

enum { META_DEPTH = 16 };

const char *cog_meta_name(int64_t key)
{
    static const char *const names[] = {
        [COG_META_CREATED] = "created_at",
        [COG_META_COST] = "cost_seconds",
        [COG_META_TAGS] = "tags",
        [COG_META_CONTENT_TYPE] = "content_type",
        [COG_META_USER] = "metadata",
        [COG_META_PRODUCER] = "producer",
        [COG_META_ARTIFACT] = "artifact",
        [COG_META_CONTENT_DIGEST] = "content_digest",
        [COG_META_SOURCE] = "source",
        [COG_META_STALE_IF_ERROR] = "stale_if_error",
        [COG_META_PARTIAL] = "partial",
        [COG_META_FULL_PARAMS] = "params",
        [COG_META_SOURCE_URI] = "source_uri",
    };
    return key >= 0 && key < (int64_t)(sizeof names / sizeof names[0]) ? names[key] : NULL;
}

/* The token of the value at `reader`, which is left behind the whole value. */
static enum cog_status next_value(struct cog_mp_reader *reader, struct cog_mp_token *first,
                                  const unsigned char **begin)
{
    struct cog_mp_reader ahead = *reader;
    enum cog_status status = cog_mp_next(&ahead, first);

    *begin = reader->at;
    if (status != COG_OK)
        return status;
    return cog_mp_skip(reader, META_DEPTH - 1);
}

static bool is_unsigned(const struct cog_mp_token *token)
{
    return token->type == COG_MP_UINT || (token->type == COG_MP_INT && token->integer >= 0);
}

static enum cog_status check_tags(const struct cog_meta *meta)
{
    struct cog_tag_iter iter;
    struct cog_tag_ref tag;
    enum cog_status status;

    cog_tag_iter_init(&iter, meta);
    do {
        status = cog_tag_iter_next(&iter, &tag);
    } while (status == COG_OK);
    return status == COG_ABSENT ? COG_OK : status;
}

/* One known field; `value` is its first token and [begin, end) the bytes of the whole. */
static enum cog_status take_field(struct cog_meta *out, int64_t key,
                                  const struct cog_mp_token *value, const unsigned char *begin,
                                  const unsigned char *end)
{
    switch (key) {
    case COG_META_CREATED:
    case COG_META_COST:
        if (!is_unsigned(value))
            return COG_ERR_DAMAGED;
        *(key == COG_META_CREATED ? &out->created_ms : &out->cost_ms) = value->unsigned_integer;
        return COG_OK;
    case COG_META_TAGS:
        if (value->type != COG_MP_ARRAY)
            return COG_ERR_DAMAGED;
        out->tags = begin;
        out->tags_size = (size_t)(end - begin);
        out->tag_count = value->size;
        return check_tags(out);
    case COG_META_ARTIFACT:
        if (value->type != COG_MP_STR)
            return COG_ERR_DAMAGED;
        out->artifact = value->data;
        out->artifact_size = value->size;
        return COG_OK;
    case COG_META_CONTENT_TYPE: return value->type == COG_MP_STR ? COG_OK : COG_ERR_DAMAGED;
    case COG_META_USER:
    case COG_META_FULL_PARAMS: return value->type == COG_MP_MAP ? COG_OK : COG_ERR_DAMAGED;
    default: return COG_OK;
    }
}

enum cog_status cog_meta_parse(const void *bytes, size_t size, struct cog_meta *out)
{
    struct cog_mp_reader reader = {bytes, (const unsigned char *)bytes + size};
    struct cog_mp_token head, key, value;
    struct cog_meta meta = {0};
    const unsigned char *begin;
    uint64_t seen = 0; /* a bit for each small key: a second time is damage */

    memset(out, 0, sizeof *out);
    if (size == 0) /* no document at all: nothing is known */
        return COG_OK;
    if (cog_mp_next(&reader, &head) != COG_OK || head.type != COG_MP_MAP)
        return COG_ERR_DAMAGED;
    for (uint32_t i = 0; i < head.size; i++) {
        enum cog_status status = cog_mp_next(&reader, &key);
        if (status != COG_OK)
            return status;
        if (key.type != COG_MP_INT && key.type != COG_MP_UINT && key.type != COG_MP_STR)
            return COG_ERR_DAMAGED;
        status = next_value(&reader, &value, &begin);
        if (status != COG_OK)
            return status;
        if (key.type != COG_MP_INT || key.integer < 0 || key.integer > 63)
            continue;
        if (seen >> key.integer & 1)
            return COG_ERR_DAMAGED;
        seen |= UINT64_C(1) << key.integer;
        status = take_field(&meta, key.integer, &value, begin, reader.at);
        if (status != COG_OK)
            return status;
    }
    if (reader.at != reader.end)
        return COG_ERR_DAMAGED;
    *out = meta;
    return COG_OK;
}

void cog_tag_iter_init(struct cog_tag_iter *iter, const struct cog_meta *meta)
{
    struct cog_mp_token head;

    memset(iter, 0, sizeof *iter);
    if (!meta->tags)
        return;
    struct cog_mp_reader reader = {meta->tags, meta->tags + meta->tags_size};
    if (cog_mp_next(&reader, &head) != COG_OK)
        return;
    iter->at = reader.at;
    iter->end = reader.end;
    iter->left = meta->tag_count;
}

enum cog_status cog_tag_iter_next(struct cog_tag_iter *iter, struct cog_tag_ref *tag)
{
    struct cog_mp_reader reader = {iter->at, iter->end};
    struct cog_mp_token pair, name, version;

    if (iter->left == 0)
        return COG_ABSENT;
    if (cog_mp_next(&reader, &pair) != COG_OK || pair.type != COG_MP_ARRAY || pair.size != 2 ||
        cog_mp_next(&reader, &name) != COG_OK || name.type != COG_MP_STR ||
        cog_mp_next(&reader, &version) != COG_OK || !is_unsigned(&version))
        return COG_ERR_DAMAGED;
    tag->name = name.data;
    tag->name_size = name.size;
    tag->version = version.unsigned_integer;
    iter->at = reader.at;
    iter->left--;
    return COG_OK;
}

/* --- freshness ----------------------------------------------------------------------------- */

/* Seeds keep the kinds of checksum apart, so that no bytes of one kind can pass for another. */
static const uint64_t slot_seed = UINT64_C(0xEB44ACCAB455D165);

enum { SLOT_COVERED = 24 };

void cog_slot_encode(const struct cog_freshness *fresh, uint64_t token,
                     unsigned char out[COG_SLOT_SIZE])
{
    cog_store_le64(out, (uint64_t)fresh->seq << 48 | (fresh->refreshed_ms & COG_NEVER));
    cog_store_le64(out + 8, (uint64_t)fresh->flags << 48 | (fresh->ttl_ms & COG_NEVER));
    cog_store_le64(out + 16, fresh->stale_ms & COG_NEVER);
    cog_store_le64(out + SLOT_COVERED, cog_hash64(out, SLOT_COVERED, token ^ slot_seed));
}

bool cog_slot_decode(const unsigned char slot[COG_SLOT_SIZE], uint64_t token,
                     struct cog_freshness *out)
{
    uint64_t refreshed = cog_load_le64(slot);
    uint64_t ttl = cog_load_le64(slot + 8);

    if (cog_load_le64(slot + SLOT_COVERED) != cog_hash64(slot, SLOT_COVERED, token ^ slot_seed))
        return false;
    out->seq = (uint16_t)(refreshed >> 48);
    out->flags = (uint16_t)(ttl >> 48);
    out->refreshed_ms = refreshed & COG_NEVER;
    out->ttl_ms = ttl & COG_NEVER;
    out->stale_ms = cog_load_le64(slot + 16) & COG_NEVER;
    return true;
}

enum cog_status cog_slots_current(const unsigned char slots[2 * COG_SLOT_SIZE], uint64_t token,
                                  struct cog_freshness *out, unsigned *which)
{
    struct cog_freshness fresh[2];
    bool valid[2];
    unsigned current;

    valid[0] = cog_slot_decode(slots, token, &fresh[0]);
    valid[1] = cog_slot_decode(slots + COG_SLOT_SIZE, token, &fresh[1]);
    if (!valid[0] && !valid[1])
        return COG_ABSENT;
    if (valid[0] && valid[1]) {
        /* Newer on the circle of 2^16: less than half of it ahead. */
        uint16_t ahead = (uint16_t)(fresh[1].seq - fresh[0].seq);
        current = ahead != 0 && ahead < 0x8000;
    } else {
        current = valid[1];
    }
    *out = fresh[current];
    if (which)
        *which = current;
    return COG_OK;
}

uint64_t cog_fresh_expires(const struct cog_freshness *fresh, uint64_t now_ms)
{
    uint64_t since = fresh->refreshed_ms < now_ms ? fresh->refreshed_ms : now_ms;

    return fresh->ttl_ms == COG_NEVER ? UINT64_MAX : since + fresh->ttl_ms;
}

bool cog_fresh_is_expired(const struct cog_freshness *fresh, uint64_t now_ms)
{
    return now_ms >= cog_fresh_expires(fresh, now_ms);
}
