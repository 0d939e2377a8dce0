/* Any bytes as a compressed chunk; any bytes through filter and compression and back. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool held)
{
    if (!held) {
        abort();
    }
}

/* A block of exactly this size, so that a sanitizer sees one byte too many. */
static unsigned char *block(size_t size)
{
    unsigned char *memory = malloc(size ? size : 1);

    must(memory != NULL);
    return memory;
}

static void expand_hostile(struct cog_codec *codec, const uint8_t *data, size_t size, size_t raw)
{
    unsigned char *out = block(raw);

    if (cog_codec_expand(codec, data, size, out, raw) == COG_OK) {
        must(cog_codec_is_frame(data, size, raw));
    }
    free(out);
}

static void round_trip(struct cog_codec *codec, const uint8_t *data, size_t size, uint8_t filter,
                       uint8_t element)
{
    unsigned char *filtered = block(size), *back = block(size);
    unsigned char *stored = block(cog_codec_bound(size));
    size_t written = 0;

    must(cog_filter_apply(filter, element, data, filtered, size) == COG_OK);
    must(cog_codec_compress(codec, 1, filtered, size, stored, cog_codec_bound(size), &written) ==
         COG_OK);
    must(cog_codec_is_frame(stored, written, size));
    must(cog_codec_expand(codec, stored, written, back, size) == COG_OK);
    must(memcmp(back, filtered, size) == 0);
    must(cog_filter_undo(filter, element, filtered, back, size) == COG_OK);
    must(memcmp(back, data, size) == 0);
    free(stored);
    free(back);
    free(filtered);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cog_codec *codec;

    if (size < 4) {
        return 0;
    }
    must(codec != NULL || cog_codec_new(&codec) == COG_OK);
    uint8_t filter = data[0] % 3;
    uint8_t element = data[1] ? data[1] : 1;
    size_t raw = (size_t)data[2] << 8 | data[3];
    data += 4;
    size -= 4;
    expand_hostile(codec, data, size, raw);
    (void)cog_codec_worth_trying(codec, data, size);
    if (size > 0) {
        round_trip(codec, data, size, filter, element);
    }
    return 0;
}
