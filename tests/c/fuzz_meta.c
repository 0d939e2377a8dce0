/* Any bytes as the metadata of an entry, and as its two freshness slots. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/meta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool held)
{
    if (!held) {
        abort();
    }
}

static bool lies_inside(const unsigned char *at, size_t length, const uint8_t *data, size_t size)
{
    return at >= data && at <= data + size && length <= (size_t)(data + size - at);
}

static void parse_document(const uint8_t *data, size_t size)
{
    struct cog_meta meta;
    struct cog_tag_iter iter;
    struct cog_tag_ref tag;
    uint32_t tags = 0;

    if (cog_meta_parse(data, size, &meta) != COG_OK) {
        return;
    }
    if (meta.artifact_size > 0) {
        must(lies_inside(meta.artifact, meta.artifact_size, data, size));
    }
    /* What the parser accepted, the iterator walks to its end. */
    enum cog_status status;
    cog_tag_iter_init(&iter, &meta);
    while ((status = cog_tag_iter_next(&iter, &tag)) == COG_OK) {
        must(lies_inside(tag.name, tag.name_size, data, size));
        tags++;
    }
    must(status == COG_ABSENT && tags == meta.tag_count);
}

static void read_slots(const uint8_t *data, size_t size)
{
    unsigned char slots[2 * COG_SLOT_SIZE], again[COG_SLOT_SIZE];
    struct cog_freshness fresh;
    unsigned which;
    uint64_t token = size;

    if (size < sizeof slots) {
        return;
    }
    memcpy(slots, data, sizeof slots);
    if (cog_slots_current(slots, token, &fresh, &which) == COG_OK) {
        must(which < 2);
        (void)cog_fresh_is_expired(&fresh, UINT64_MAX);
    }
    /* Any contents survive being written and read, under their own token only. */
    memcpy(&fresh.seq, data, sizeof fresh.seq);
    fresh.flags = 0;
    memcpy(&fresh.refreshed_ms, data + 8, 8);
    memcpy(&fresh.ttl_ms, data + 16, 8);
    memcpy(&fresh.stale_ms, data + 24, 8);
    fresh.refreshed_ms &= COG_NEVER;
    fresh.ttl_ms &= COG_NEVER;
    fresh.stale_ms &= COG_NEVER;
    cog_slot_encode(&fresh, token, again);
    struct cog_freshness read;
    must(cog_slot_decode(again, token, &read));
    must(read.seq == fresh.seq && read.refreshed_ms == fresh.refreshed_ms &&
         read.ttl_ms == fresh.ttl_ms && read.stale_ms == fresh.stale_ms);
    must(!cog_slot_decode(again, token + 1, &read));
    must(cog_fresh_expires(&fresh, 0) >= fresh.ttl_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    data = size ? data : (const uint8_t *)""; /* no bytes come as NULL */
    parse_document(data, size);
    read_slots(data, size);
    return 0;
}
