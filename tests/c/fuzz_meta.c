/* Any bytes as metadata, as one MessagePack value, and as two slots: an answer, and nothing read
 * beyond them. */
#include <stdlib.h>
#include <string.h>

#include "core/meta.h"
#include "core/msgpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool held)
{
    if (!held)
        abort();
}

static bool is_inside(const unsigned char *at, size_t length, const uint8_t *data, size_t size)
{
    return at >= data && at <= data + size && length <= (size_t)(data + size - at);
}

static void read_metadata(const uint8_t *data, size_t size)
{
    struct cog_meta meta;
    struct cog_tag_iter iter;
    struct cog_tag_ref tag;
    uint32_t tags = 0;
    enum cog_status status = cog_meta_parse(data, size, &meta);

    require(status == COG_OK || status == COG_ERR_DAMAGED);
    cog_tag_iter_init(&iter, &meta);
    while ((status = cog_tag_iter_next(&iter, &tag)) == COG_OK) {
        require(is_inside(tag.name, tag.name_size, data, size));
        tags++;
    }
    /* What was accepted can be walked to its end. */
    require(status == COG_ABSENT && tags == meta.tag_count);
    require(!meta.artifact || is_inside(meta.artifact, meta.artifact_size, data, size));
}

/* Skipping a value and walking its tokens end at the same place. */
static void read_value(const uint8_t *data, size_t size)
{
    struct cog_mp_reader skip = {data, data + size}, walk = skip;
    struct cog_mp_token token;
    uint64_t left = 1;

    if (cog_mp_skip(&skip, COG_MP_DEPTH_LIMIT) != COG_OK)
        return;
    for (; left > 0; left--) {
        require(cog_mp_next(&walk, &token) == COG_OK);
        if (token.type == COG_MP_ARRAY)
            left += token.size;
        else if (token.type == COG_MP_MAP)
            left += 2 * (uint64_t)token.size;
        else if (token.type == COG_MP_STR || token.type == COG_MP_BIN || token.type == COG_MP_EXT)
            require(is_inside(token.data, token.size, data, size));
    }
    require(walk.at == skip.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char slots[2 * COG_SLOT_SIZE] = {0};
    struct cog_freshness fresh;
    unsigned which;

    read_metadata(data, size);
    read_value(data, size);
    if (size)
        memcpy(slots, data, size < sizeof slots ? size : sizeof slots);
    if (cog_slots_current(slots, 5, &fresh, &which) == COG_OK)
        require(which < 2 && fresh.ttl_ms <= COG_NEVER);
    return 0;
}
