#include "entry_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/entry_layout.h"

/* --- noise --------------------------------------------------------------------------------- */

uint64_t kit_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15); /* splitmix64 */

    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

void kit_noise(void *out, size_t size, uint64_t seed)
{
    unsigned char *at = out;

    for (size_t i = 0; i < size; i++)
        at[i] = (unsigned char)(kit_random(&seed) >> 56);
}

/* --- memory -------------------------------------------------------------------------------- */

static size_t asked, refuse_from, live, peak;

/* Each block carries its size in front. */
enum { FRONT = 32 };

static void *counted_alloc(size_t size)
{
    unsigned char *block;

    if (++asked >= refuse_from && refuse_from)
        return NULL;
    block = malloc(FRONT + size);
    if (!block)
        return NULL;
    memcpy(block, &size, sizeof size);
    live += size;
    if (live > peak)
        peak = live;
    return block + FRONT;
}

static void counted_release(void *where)
{
    unsigned char *block = where;
    size_t size;

    if (!block)
        return;
    memcpy(&size, block - FRONT, sizeof size);
    live -= size;
    free(block - FRONT);
}

static void *counted_resize(void *where, size_t size)
{
    void *block = counted_alloc(size);
    size_t before;

    if (!block || !where)
        return block;
    memcpy(&before, (unsigned char *)where - FRONT, sizeof before);
    memcpy(block, where, before < size ? before : size);
    counted_release(where);
    return block;
}

void kit_count_memory(bool on)
{
    static const struct cog_alloc_hooks counting = {counted_alloc, counted_resize, counted_release};

    cog_codec_free_spares(); /* so that nothing is freed by another allocator than it came from */
    asked = refuse_from = live = peak = 0;
    cog_alloc_set_hooks(on ? &counting : NULL);
}

void kit_refuse_from(size_t n)
{
    asked = 0;
    refuse_from = n;
}

size_t kit_allocations(void)
{
    return asked;
}

size_t kit_live_bytes(void)
{
    return live;
}

size_t kit_peak_bytes(void)
{
    return peak;
}

/* --- sources ------------------------------------------------------------------------------- */

static enum cog_status remote_read(void *context, uint64_t offset, void *out, size_t size,
                                   struct cog_error *err)
{
    struct kit_remote *remote = context;

    remote->reads++;
    remote->last_offset = offset;
    remote->last_size = size;
    remote->bytes += size;
    if (remote->fail_at == remote->reads)
        return cog_fail(err, COG_ERR_IO, 5, "the network is down");
    if (offset > remote->size || size > remote->size - offset) {
        fprintf(stderr, "a read beyond the container\n");
        abort();
    }
    memcpy(out, remote->image + offset, size);
    return COG_OK;
}

struct cog_source kit_remote_source(struct kit_remote *remote)
{
    struct cog_source source = {remote, remote->size, remote_read, NULL, 0};

    return source;
}

/* --- samples ------------------------------------------------------------------------------- */

static const unsigned char created[] = {0x81, 0x01, 0xcf, 0, 0, 1, 0x9a, 0xa4, 0xb6, 0x45, 0};
static unsigned char noise[2][66000];
static unsigned char text[2][2048];
static unsigned char slope[2][600];
enum { PACKED = 600 };
static char frame_names[PACKED][12];
static struct kit_part frames[2][24], packed[2][PACKED + 1];

static void fill_samples(void)
{
    static bool done;
    static const char *const words[] = {"keyframe ", "speech ", "scene ", "model ", "vector "};
    uint64_t state = 7;

    if (done)
        return;
    done = true;
    for (unsigned v = 0; v < 2; v++) {
        size_t at = 0;
        kit_noise(noise[v], sizeof noise[v], 100 + v);
        while (at < sizeof text[v]) {
            const char *word = words[kit_random(&state) % 5];
            for (; *word && at < sizeof text[v]; word++)
                text[v][at++] = (unsigned char)*word;
        }
        for (size_t i = 0; i < sizeof slope[v] / 4; i++) {
            float value = (float)i * (v ? 0.25f : 0.5f);
            memcpy(slope[v] + 4 * i, &value, sizeof value);
        }
        for (size_t i = 0; i < PACKED; i++) {
            struct kit_part part = {COG_PART_FRAME, frame_names[i], {0}, noise[v] + 5 * i, 1};
            snprintf(frame_names[i], sizeof frame_names[i], "%u", (unsigned)(15 * i));
            packed[v][i] = part;
            if (i < 24) {
                /* Written backwards, so that file order is not lookup order. */
                part.size = 3 + i % 5;
                frames[v][23 - i] = part;
            }
        }
    }
}

/* The second write has other bytes of the same sizes. */
static const struct kit_part *parts_of(enum kit_which which, unsigned v, size_t *count)
{
    static struct kit_part plain[2][1], mixed[2][5], filtered[2][5];
    const struct cog_part_options chunked = {.chunk_size = 64};
    const struct cog_part_options zstd = {.codec = COG_CODEC_ZSTD, .chunk_size = 512};
    const struct cog_part_options shuffled = {.codec = COG_CODEC_ZSTD,
                                              .filter = COG_FILTER_BITSHUFFLE,
                                              .element_size = 4};
    const struct cog_part_options planes = {.filter = COG_FILTER_SHUFFLE, .element_size = 4};
    const struct cog_part_options bits = {.filter = COG_FILTER_BITSHUFFLE,
                                          .element_size = 2,
                                          .chunk_size = 38};
    const struct kit_part doc = {COG_PART_DOC, "", {.codec = COG_CODEC_ZSTD}, text[v], 400};
    const struct kit_part short_doc = {COG_PART_DOC,
                                       "",
                                       {0},
                                       v ? "\xa6"
                                           "ghijkl"
                                         : "\xa6"
                                           "abcdef",
                                       7};

    switch (which) {
    case KIT_PLAIN:
        plain[v][0] = short_doc;
        *count = 1;
        return plain[v];
    case KIT_MIXED:
        mixed[v][0] = (struct kit_part){COG_PART_ARRAY, "0", chunked, noise[v], 300};
        mixed[v][1] = (struct kit_part){COG_PART_BLOB, "0", chunked, noise[v] + 300, 128};
        mixed[v][2] = (struct kit_part){COG_PART_BLOB, "1", zstd, text[v], 1200};
        mixed[v][3] = (struct kit_part){COG_PART_BLOB, "2", {0}, "", 0};
        mixed[v][4] = short_doc;
        *count = 5;
        return mixed[v];
    case KIT_FRAMES: *count = 24; return frames[v];
    case KIT_FILTERED:
        filtered[v][0] = (struct kit_part){COG_PART_ARRAY, "a", shuffled, slope[v], 600};
        filtered[v][1] = (struct kit_part){COG_PART_ARRAY, "b", planes, noise[v], 83};
        filtered[v][2] = (struct kit_part){COG_PART_ARRAY, "c", bits, noise[v] + 90, 57};
        filtered[v][3] = (struct kit_part){0x85, "third party", {0}, noise[v] + 200, 20};
        filtered[v][4] = doc;
        *count = 5;
        return filtered[v];
    case KIT_PACKED_INDEX:
        /* A document that leaves no room for the index beside it in the first 64 KiB. */
        packed[v][PACKED] = (struct kit_part){COG_PART_DOC, "", {0}, noise[v], 60000};
        *count = PACKED + 1;
        return packed[v];
    default: *count = 0; return NULL;
    }
}

const struct kit_sample *kit_sample(enum kit_which which, bool other)
{
    static const char *const names[] = {"plain",    "mixed",        "frames",
                                        "filtered", "packed index", "empty"};
    static struct kit_sample samples[KIT_SAMPLES][2];
    struct kit_sample *sample = &samples[which][other];

    fill_samples();
    sample->what = names[which];
    sample->key = "video:9b2cf535:transcript:model=base";
    sample->token = other ? UINT64_C(0x99AABBCCDDEEFF01) : UINT64_C(0x1122334455667788);
    sample->parts = parts_of(which, other, &sample->count);
    sample->meta = created;
    sample->meta_size = sizeof created;
    sample->fresh.refreshed_ms = other ? UINT64_C(1763700009000) : UINT64_C(1763700000000);
    sample->fresh.ttl_ms = UINT64_C(604800000);
    return sample;
}

static void must(enum cog_status status, const char *what, const struct cog_error *err)
{
    if (status == COG_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, cog_status_text(status), err->text);
    exit(1);
}

unsigned char *kit_build(const struct kit_api *api, const struct kit_sample *sample, size_t *size)
{
    struct cog_image image = {0};
    struct cog_entry_writer *writer = NULL;
    struct cog_error err = {0};
    uint64_t length = 0;
    unsigned char *bytes;

    must(api->writer_new(sample->key, strlen(sample->key), sample->token, cog_image_sink(&image),
                         &writer, &err),
         sample->what, &err);
    for (size_t i = 0; i < sample->count; i++) {
        const struct kit_part *part = &sample->parts[i];
        must(api->part_begin(writer, part->kind, part->name, strlen(part->name), &part->options,
                             NULL, &err),
             sample->what, &err);
        must(api->part_write(writer, part->data, part->size, true, &err), sample->what, &err);
        must(api->part_end(writer, &err), sample->what, &err);
    }
    must(api->finish(writer, sample->meta, sample->meta_size, &sample->fresh, &length, &err),
         sample->what, &err);
    api->writer_free(writer);
    must(cog_image_seal(&image), sample->what, &err);
    bytes = malloc((size_t)length);
    if (!bytes || image.length != length)
        exit(1);
    must(cog_image_copy(&image, bytes), sample->what, &err);
    cog_image_release(&image);
    *size = (size_t)length;
    return bytes;
}

void kit_reseal(unsigned char *image, size_t size)
{
    unsigned char *footer = image + size - COG_ENTRY_FOOTER_SIZE;
    uint64_t token = cog_load_le64(footer + COG_FOOTER_TOKEN);
    uint64_t stored = cog_load_le32(footer + COG_FOOTER_INDEX_STORED);

    if (stored + COG_ENTRY_SMALLEST <= size)
        cog_store_le64(footer + COG_FOOTER_INDEX_SUM,
                       cog_index_sum(image + size - COG_ENTRY_TAIL_SIZE - stored, (size_t)stored,
                                     token));
    cog_store_le64(footer + COG_FOOTER_SUM, cog_footer_sum(footer));
}

const struct kit_api kit_real = {cog_entry_writer_new, cog_entry_part_begin, cog_entry_part_write,
                                 cog_entry_part_end,   cog_entry_finish,     cog_entry_writer_free,
                                 cog_entry_open,       cog_entry_free,       cog_entry_meta,
                                 cog_entry_freshness,  cog_entry_part_count, cog_entry_part,
                                 cog_entry_find,       cog_entry_read,       cog_entry_verify};
