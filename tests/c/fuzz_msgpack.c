/* Any bytes as MessagePack: tokens stay inside the input, and skipping agrees with reading. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "core/msgpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool held)
{
    if (!held) {
        abort();
    }
}

/* Read one value token by token; the depth is bounded by the counts alone. */
static bool read_value(struct cog_mp_reader *reader)
{
    uint64_t left = 1;

    while (left > 0) {
        struct cog_mp_token token;
        const unsigned char *before = reader->at;

        if (cog_mp_next(reader, &token) != COG_OK) {
            return false;
        }
        must(reader->at > before && reader->at <= reader->end);
        left--;
        switch (token.type) {
        case COG_MP_STR:
        case COG_MP_BIN:
        case COG_MP_EXT:
            must(token.data >= before && token.size <= (size_t)(reader->end - token.data));
            must(token.data + token.size == reader->at);
            break;
        case COG_MP_ARRAY: left += token.size; break;
        case COG_MP_MAP: left += 2 * (uint64_t)token.size; break;
        default: break;
        }
    }
    return true;
}

/* Extensions that are found by skipping lie inside the input, each behind the one before. */
static void find_extensions(const uint8_t *data, size_t size)
{
    struct cog_mp_reader reader = {data, data + size};
    const unsigned char *before = reader.at;
    struct cog_mp_token token;

    while (cog_mp_next_ext(&reader, &token) == COG_OK) {
        must(token.type == COG_MP_EXT && token.data > before);
        must(token.size <= (size_t)(reader.end - token.data));
        must(token.data + token.size == reader.at);
        before = reader.at;
    }
    must(reader.at <= reader.end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    data = size ? data : (const uint8_t *)""; /* no bytes come as NULL */
    struct cog_mp_reader reader = {data, data + size};

    while (reader.at < reader.end) {
        struct cog_mp_reader skipper = reader;
        enum cog_status skipped = cog_mp_skip(&skipper, COG_MP_DEPTH_LIMIT);

        if (!read_value(&reader)) {
            must(skipped != COG_OK);
            break;
        }
        /* A value too deep to skip may still be read flat. */
        if (skipped == COG_OK) {
            must(skipper.at == reader.at);
        }
    }
    find_extensions(data, size);
    return 0;
}
