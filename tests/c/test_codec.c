/* Filters give back every byte, zstd frames are exactly what they say, and nothing is tried in
 * vain. */
#include "check.h"

#include <pthread.h>
#include <stdlib.h>

#include <zstd.h>

#include "core/codec.h"
#include "core/filter_kernels.h"
#include "entry_kit.h"

enum { LARGE = 200000 };

/* --- filters ------------------------------------------------------------------------------- */

/* The filters as docs/format.md words them, byte by byte and bit by bit. */
static void filter_slowly(uint8_t filter, size_t e, const unsigned char *in, unsigned char *out,
                          size_t size)
{
    size_t n = size / e;

    memset(out, 0, size);
    for (size_t j = 0; j < e; j++) {
        unsigned char *plane = out + j * n;
        if (filter == COG_FILTER_SHUFFLE) {
            for (size_t i = 0; i < n; i++)
                plane[i] = in[i * e + j];
            continue;
        }
        for (size_t i = 0; i < n / 8 * 8; i++)
            for (size_t bit = 0; bit < 8; bit++)
                if (in[i * e + j] >> bit & 1)
                    plane[bit * (n / 8) + i / 8] |= (unsigned char)(1u << i % 8);
        for (size_t i = n / 8 * 8; i < n; i++)
            plane[i] = in[i * e + j];
    }
    memcpy(out + n * e, in + n * e, size - n * e);
}

static void check_filter(uint8_t filter, uint8_t e, const unsigned char *data, size_t size)
{
    unsigned char *out = malloc(size + 1), *expected = malloc(size + 1), *back = malloc(size + 1);

    REQUIRE(out && expected && back);
    out[size] = back[size] = 0x77;
    filter_slowly(filter, e, data, expected, size);
    CHECK_EQ(cog_filter_apply(filter, e, data, out, size), COG_OK);
    CHECK_BYTES(out, size, expected, size);
    CHECK_EQ(cog_filter_undo(filter, e, out, back, size), COG_OK);
    CHECK_BYTES(back, size, data, size);
    CHECK(out[size] == 0x77 && back[size] == 0x77);
    /* The loops as compiled for any processor, which this one may not take by itself. */
    memset(out, 0, size);
    filter_elements(filter, e, data, out, size / e);
    CHECK_BYTES(out, size / e * e, expected, size / e * e);
    unfilter_elements(filter, e, expected, back, size / e);
    CHECK_BYTES(back, size, data, size);
    free(out);
    free(expected);
    free(back);
}

static void test_filters_follow_the_specification(void)
{
    static const uint8_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 32, 255};
    static unsigned char data[LARGE];

    kit_noise(data, sizeof data, 1);
    for (uint8_t filter = COG_FILTER_SHUFFLE; filter <= COG_FILTER_BITSHUFFLE; filter++) {
        for (size_t i = 0; i < sizeof sizes; i++) {
            for (size_t size = 0; size < 150; size++)
                check_filter(filter, sizes[i], data, size);
            check_filter(filter, sizes[i], data, 8 * (size_t)sizes[i] * 3 + 5);
            check_filter(filter, sizes[i], data, sizeof data - 1);
        }
    }
}

static void test_bit_planes_of_the_example(void)
{
    static const unsigned char expected[] = {0x00, 0xaa, 0xcc, 0xf0, 0, 0, 0, 0,    0x10, 0xff,
                                             0xaa, 0xcc, 0xf0, 0,    0, 0, 0, 0x11, 0x12};
    unsigned char in[19], out[19];

    for (unsigned char i = 0; i < sizeof in; i++)
        in[i] = i;
    CHECK_EQ(cog_filter_apply(COG_FILTER_BITSHUFFLE, 2, in, out, sizeof in), COG_OK);
    CHECK_BYTES(out, sizeof out, expected, sizeof expected);
}

static void test_unknown_filters_are_refused(void)
{
    unsigned char in[4] = "abc", out[4] = "xyz";

    CHECK_EQ(cog_filter_apply(3, 1, in, out, 4), COG_ERR_UNSUPPORTED);
    CHECK_EQ(cog_filter_undo(200, 1, in, out, 4), COG_ERR_UNSUPPORTED);
    CHECK_EQ(cog_filter_apply(COG_FILTER_SHUFFLE, 0, in, out, 4), COG_ERR_INVALID);
    CHECK_EQ(cog_filter_undo(COG_FILTER_BITSHUFFLE, 0, in, out, 4), COG_ERR_INVALID);
    CHECK_BYTES(out, 4, "xyz", 4);
    CHECK_EQ(cog_filter_apply(COG_FILTER_NONE, 0, in, out, 4), COG_OK);
    CHECK_BYTES(out, 4, "abc", 4);
}

/* --- zstd ---------------------------------------------------------------------------------- */

static struct cog_codec *codec;
static unsigned char text[8000], packed[20000];

static size_t pack_text(void)
{
    size_t written = 0;

    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (unsigned char)"the quick brown fox "[(i * i / 50) % 20];
    CHECK_EQ(cog_codec_compress(codec, 1, text, sizeof text, packed, sizeof packed, &written),
             COG_OK);
    return written;
}

static enum cog_status expand(const void *in, size_t in_size, size_t raw_size)
{
    unsigned char *exact = malloc(in_size ? in_size : 1), *out = malloc(raw_size + 1);
    enum cog_status status;

    REQUIRE(exact && out);
    memcpy(exact, in, in_size);
    out[raw_size] = 0x55;
    status = cog_codec_expand(codec, exact, in_size, out, raw_size);
    CHECK(out[raw_size] == 0x55);
    free(exact);
    free(out);
    return status;
}

static void test_a_frame_comes_back(void)
{
    static unsigned char out[sizeof text];
    size_t size = pack_text();

    CHECK(size < sizeof text / 2);
    CHECK_EQ(cog_codec_expand(codec, packed, size, out, sizeof out), COG_OK);
    CHECK_BYTES(out, sizeof out, text, sizeof text);
}

static void test_only_exact_frames_expand(void)
{
    static unsigned char frame[20000];
    size_t size = pack_text();

    for (size_t cut = 0; cut < size; cut++)
        CHECK_EQ(expand(packed, cut, sizeof text), COG_ERR_DAMAGED);
    CHECK_EQ(expand(packed, size, sizeof text - 1), COG_ERR_DAMAGED);
    CHECK_EQ(expand(packed, size, sizeof text + 1), COG_ERR_DAMAGED);
    memcpy(frame, packed, size);
    frame[size] = 0;
    CHECK_EQ(expand(frame, size + 1, sizeof text), COG_ERR_DAMAGED);
    memcpy(frame + size, packed, size);
    CHECK_EQ(expand(frame, 2 * size, 2 * sizeof text), COG_ERR_DAMAGED);
    CHECK_EQ(expand(frame, 2 * size, sizeof text), COG_ERR_DAMAGED);
}

static void test_other_frames_are_refused(void)
{
    static const unsigned char skippable[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    static const unsigned char legacy[] = {0x27, 0xb5, 0x2f, 0xfd, 0x20, 0x01, 0x09, 0, 0, 'x'};
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t size;

    CHECK_EQ(expand(skippable, sizeof skippable, 4), COG_ERR_DAMAGED);
    CHECK_EQ(expand(skippable, sizeof skippable, 0), COG_ERR_DAMAGED);
    CHECK_EQ(expand(legacy, sizeof legacy, 1), COG_ERR_DAMAGED);
    pack_text();
    REQUIRE(context != NULL);
    /* A checksum of its own, and no declared size: zstd would take both. */
    (void)ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    size = ZSTD_compress2(context, packed, sizeof packed, text, sizeof text);
    REQUIRE(!ZSTD_isError(size));
    CHECK_EQ(expand(packed, size, sizeof text), COG_ERR_DAMAGED);
    (void)ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 0);
    (void)ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
    size = ZSTD_compress2(context, packed, sizeof packed, text, sizeof text);
    REQUIRE(!ZSTD_isError(size));
    CHECK_EQ(expand(packed, size, sizeof text), COG_ERR_DAMAGED);
    (void)ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 1);
    size = ZSTD_compress2(context, packed, sizeof packed, text, sizeof text);
    REQUIRE(!ZSTD_isError(size));
    CHECK_EQ(expand(packed, size, sizeof text), COG_OK);
    ZSTD_freeCCtx(context);
}

/* No flip of one bit may crash or write too far; where a frame still expands, a checksum elsewhere
 * must judge. */
static void test_flipped_frames_stay_in_their_bounds(void)
{
    static unsigned char frame[20000];
    size_t size = pack_text();

    for (size_t i = 0; i < size; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            enum cog_status status;
            memcpy(frame, packed, size);
            frame[i] ^= (unsigned char)(1u << bit);
            status = expand(frame, size, sizeof text);
            CHECK(status == COG_OK || status == COG_ERR_DAMAGED);
        }
    }
}

static void test_the_window_is_the_whole_document(void)
{
    enum { HALF = 3 << 19 }; /* 1.5 MiB, far beyond the 512 KiB that level 1 looks back by itself */
    unsigned char *document = malloc(2 * HALF);
    unsigned char *out = malloc(cog_codec_bound(2 * HALF));
    size_t written;

    REQUIRE(document && out);
    kit_noise(document, HALF, 5);
    memcpy(document + HALF, document, HALF);
    CHECK_EQ(cog_codec_compress(codec, 1, document, 2 * HALF, out, cog_codec_bound(2 * HALF),
                                &written),
             COG_OK);
    CHECK(written < HALF + HALF / 10);
    free(document);
    free(out);
}

static void test_too_little_room_is_an_error(void)
{
    size_t written = 1;

    pack_text();
    CHECK_EQ(cog_codec_compress(codec, 1, text, sizeof text, packed, 20, &written),
             COG_ERR_INVALID);
    CHECK_EQ(written, 0);
}

/* --- is it worth it? ----------------------------------------------------------------------- */

static void test_compressed_formats_are_not_tried(void)
{
    static const struct {
        const char *name;
        size_t size;
        const char *head;
    } formats[] = {{"JPEG", 3, "\xFF\xD8\xFF"},
                   {"PNG", 8, "\x89PNG\r\n\x1A\n"},
                   {"WebP", 12, "RIFF\x10\x20\x30\x40WEBP"},
                   {"MP4", 8,
                    "\0\0\0\x18"
                    "ftyp"},
                   {"zstd", 4, "\x28\xB5\x2F\xFD"},
                   {"gzip", 3, "\x1F\x8B\x08"}};
    static unsigned char data[20000]; /* zeros: nothing compresses better */

    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        memset(data, 0, sizeof data);
        memcpy(data, formats[i].head, formats[i].size);
        if (!CHECK(!cog_codec_worth_trying(codec, data, sizeof data)))
            fprintf(stderr, "    %s\n", formats[i].name);
        data[formats[i].size - 1] ^= 0x40; /* and one byte off it is data like any other */
        CHECK(cog_codec_worth_trying(codec, data, sizeof data));
    }
    CHECK(!cog_codec_worth_trying(codec, "RIFF", 4));
}

static void test_the_probe_sees_the_ends_and_the_middle(void)
{
    static unsigned char data[300000];

    kit_noise(data, sizeof data, 3);
    CHECK(!cog_codec_worth_trying(codec, data, sizeof data));
    memset(data, 'x', 4096);
    CHECK(cog_codec_worth_trying(codec, data, sizeof data));
    kit_noise(data, 4096, 4);
    memset(data + sizeof data / 2 - 2048, 'x', 4096);
    CHECK(cog_codec_worth_trying(codec, data, sizeof data));
    kit_noise(data, sizeof data, 5);
    memset(data + sizeof data - 4096, 'x', 4096);
    CHECK(cog_codec_worth_trying(codec, data, sizeof data));
    CHECK(!cog_codec_worth_trying(codec, data, 20)); /* too little to gain anything */
}

static void test_five_percent_is_the_line(void)
{
    CHECK(cog_codec_gains(100, 95));
    CHECK(!cog_codec_gains(100, 96));
    CHECK(!cog_codec_gains(99, 95));
    CHECK(cog_codec_gains(99, 94));
    CHECK(!cog_codec_gains(1, 1));
    CHECK(cog_codec_gains(UINT64_C(1) << 60, UINT64_C(1) << 59));
}

/* --- contexts ------------------------------------------------------------------------------ */

static void test_spare_contexts_are_used_again(void)
{
    struct cog_codec *first, *second, *again;

    CHECK_EQ(cog_codec_borrow(&first), COG_OK);
    CHECK_EQ(cog_codec_borrow(&second), COG_OK);
    CHECK(first != second);
    cog_codec_return(first);
    CHECK_EQ(cog_codec_borrow(&again), COG_OK);
    CHECK(again == first);
    cog_codec_return(again);
    cog_codec_return(second);
    cog_codec_return(NULL);
    cog_codec_free_spares();
}

/* A thread's share of the work: what it compresses it gets back, whoever had the context before. */
static void *work(void *seed)
{
    enum { SIZE = 1000 };
    unsigned char raw[SIZE], small[2 * SIZE], back[SIZE];

    for (unsigned round = 0; round < 300; round++) {
        struct cog_codec *mine;
        size_t written;
        memset(raw, (int)round, sizeof raw);
        kit_noise(raw, 300, *(uint64_t *)seed + round);
        REQUIRE(cog_codec_borrow(&mine) == COG_OK);
        CHECK_EQ(cog_codec_compress(mine, 1, raw, SIZE, small, sizeof small, &written), COG_OK);
        CHECK_EQ(cog_codec_expand(mine, small, written, back, SIZE), COG_OK);
        CHECK(memcmp(raw, back, SIZE) == 0);
        cog_codec_return(mine);
    }
    return NULL;
}

static void test_threads_share_the_spares(void)
{
    pthread_t threads[6];
    uint64_t seeds[6];

    for (size_t i = 0; i < 6; i++) {
        seeds[i] = 1000 * i;
        REQUIRE(pthread_create(&threads[i], NULL, work, &seeds[i]) == 0);
    }
    for (size_t i = 0; i < 6; i++)
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    cog_codec_free_spares();
}

static void test_scratch_grows_and_is_not_hoarded(void)
{
    struct cog_codec *borrowed;
    unsigned char *small, *large;

    kit_count_memory(true);
    CHECK_EQ(cog_codec_borrow(&borrowed), COG_OK);
    small = cog_codec_scratch(borrowed, COG_SCRATCH_RAW, 100);
    CHECK(small != NULL && cog_codec_scratch(borrowed, COG_SCRATCH_RAW, 50) == small);
    large = cog_codec_scratch(borrowed, COG_SCRATCH_STORED, 32 << 20);
    CHECK(large != NULL && kit_live_bytes() > 32 << 20);
    cog_codec_return(borrowed);
    CHECK(kit_live_bytes() < 1 << 20);
    CHECK_EQ(cog_codec_borrow(&borrowed), COG_OK);
    kit_refuse_from(1);
    CHECK(cog_codec_scratch(borrowed, COG_SCRATCH_FILTERED, 10) == NULL);
    kit_refuse_from(0);
    CHECK(cog_codec_scratch(borrowed, COG_SCRATCH_FILTERED, 10) != NULL);
    cog_codec_return(borrowed);
    cog_codec_free_spares();
    CHECK_EQ(kit_live_bytes(), 0);
    kit_refuse_from(1);
    CHECK_EQ(cog_codec_borrow(&borrowed), COG_ERR_NOMEM);
    kit_count_memory(false);
}

int main(void)
{
    REQUIRE(cog_codec_new(&codec) == COG_OK);
    RUN(test_filters_follow_the_specification);
    RUN(test_bit_planes_of_the_example);
    RUN(test_unknown_filters_are_refused);
    RUN(test_a_frame_comes_back);
    RUN(test_only_exact_frames_expand);
    RUN(test_other_frames_are_refused);
    RUN(test_flipped_frames_stay_in_their_bounds);
    RUN(test_the_window_is_the_whole_document);
    RUN(test_too_little_room_is_an_error);
    RUN(test_compressed_formats_are_not_tried);
    RUN(test_the_probe_sees_the_ends_and_the_middle);
    RUN(test_five_percent_is_the_line);
    RUN(test_spare_contexts_are_used_again);
    RUN(test_threads_share_the_spares);
    RUN(test_scratch_grows_and_is_not_hoarded);
    cog_codec_free(codec);
    return check_done();
}
