/* What a writer makes of its parts: their bytes, where they are cut, when they are compressed. */
#include "check.h"

#include <stdlib.h>

#include "core/entry_layout.h"
#include "entry_built.h"
#include "entry_kit.h"

/* --- the golden container ------------------------------------------------------------------ */

static size_t from_hex(const char *hex, unsigned char *out)
{
    size_t size = 0;

    for (; *hex; hex++) {
        unsigned value;
        if (*hex == ' ')
            continue;
        REQUIRE(sscanf(hex, "%2x", &value) == 1);
        out[size++] = (unsigned char)value;
        hex++;
    }
    return size;
}

static void test_the_golden_container(void)
{
    static const char golden_key[] = "6c05000000730100000064690100000000000000730d000000"
                                     "657461673a39623263663533357301000000786d00000000";
    static const char head[] = "894347430d0a1a0a 8877665544332211 dfadaea60482c0628aaddcfd0d880928";
    static const char doc[] = "a6616263646566";
    static const char counts[] = "310000000b00000001000000010000000000000000000000 01010000";
    static const char rest[] = "8101cf0000019aa4b64500 000000000000500000000000 00f0000007 "
                               "40ae7e655866a2d1 0045b6a49a010100 00840c2400000000 "
                               "0000000000000000 92d45ded24d9978f";
    static const char footer[] = "8877665544332211 0801000000000000 7100000071000000 "
                                 "ce3b72e96bf8e99c 010000004347431a 074ddc9d26b0be6b";
    unsigned char expected[264], bytes[64], meta[16];
    struct cog_image image = {0};
    struct cog_entry_writer *writer;
    size_t key_size = from_hex(golden_key, bytes), at = 0;
    uint64_t length;

    at += from_hex(head, expected + at);
    at += from_hex(doc, expected + at);
    at += from_hex(counts, expected + at);
    at += from_hex(golden_key, expected + at);
    at += from_hex(rest, expected + at);
    memset(expected + at, 0, COG_SLOT_SIZE);
    at += COG_SLOT_SIZE;
    at += from_hex(footer, expected + at);
    CHECK_EQ(at, 264);

    REQUIRE(cog_entry_writer_new(bytes, key_size, UINT64_C(0x1122334455667788),
                                 cog_image_sink(&image), &writer, NULL) == COG_OK);
    CHECK_EQ(cog_entry_part_put(writer, COG_PART_DOC, "", 0, NULL, expected + 32, 7, true, NULL,
                                NULL),
             COG_OK);
    CHECK_EQ(cog_entry_finish(writer, meta, from_hex("8101cf0000019aa4b64500", meta), &fresh,
                              &length, NULL),
             COG_OK);
    REQUIRE(cog_image_seal(&image) == COG_OK && image.count == 1);
    CHECK_BYTES(image.pieces[0].data, image.pieces[0].size, expected, at);
    CHECK_EQ(length, at);
    cog_entry_writer_free(writer);
    cog_image_release(&image);
}

static void test_every_write_has_its_own_token(void)
{
    struct cog_entry_writer *writers[8];
    struct cog_image images[8] = {{0}};

    for (size_t i = 0; i < 8; i++) {
        REQUIRE(cog_entry_writer_new(key, 3, 0, cog_image_sink(&images[i]), &writers[i], NULL) ==
                COG_OK);
        CHECK(cog_entry_writer_token(writers[i]) != 0);
        for (size_t j = 0; j < i; j++)
            CHECK(cog_entry_writer_token(writers[i]) != cog_entry_writer_token(writers[j]));
    }
    for (size_t i = 0; i < 8; i++) {
        cog_entry_writer_free(writers[i]);
        cog_image_release(&images[i]);
    }
}

/* --- cutting ------------------------------------------------------------------------------- */

static void test_chunks_are_full_but_the_last(void)
{
    static const struct {
        size_t size;
        uint32_t chunks;
    } cases[] = {{0, 0},
                 {1, 1},
                 {COG_CHUNK_DEFAULT, 1},
                 {COG_CHUNK_DEFAULT + 1, 2},
                 {2 * COG_CHUNK_DEFAULT, 2},
                 {3 * COG_CHUNK_DEFAULT + 1, 4}};

    kit_noise(large, sizeof large, 8);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct built built = one_part(COG_PART_BLOB, NULL, large, cases[i].size);
        struct cog_part part = part_of(&built, 0);
        CHECK_EQ(part.chunk_count, cases[i].chunks);
        CHECK_EQ(part.chunk_size, COG_CHUNK_DEFAULT);
        CHECK_EQ(part.raw_size, cases[i].size);
        CHECK_EQ(part.stored_size, cases[i].size);
        CHECK_EQ(part.offset, COG_ENTRY_HEAD_SIZE);
        check_reads_back(&built, 0, large, cases[i].size);
        release(&built);
    }
}

/* C03: 50 MiB are exactly ten chunks, and a byte more is an eleventh of one byte. */
static void test_fifty_mebibytes_are_ten_chunks(void)
{
    enum { SIZE = 52428800 };
    unsigned char *data = calloc(1, SIZE + 1);

    REQUIRE(data != NULL);
    for (size_t more = 0; more < 2; more++) {
        struct built built = one_part(COG_PART_BLOB, NULL, data, SIZE + more);
        uint64_t offset, size;
        uint32_t first, count;
        CHECK_EQ(part_of(&built, 0).chunk_count, 10 + more);
        CHECK_EQ(cog_entry_extent(built.entry, 0, SIZE - 1 + more, SIZE + more, &offset, &size,
                                  &first, &count),
                 COG_OK);
        CHECK_EQ(first, 9 + more);
        CHECK_EQ(size, more ? 1 : COG_CHUNK_DEFAULT);
        release(&built);
    }
    free(data);
}

/* C37: the image depends on the bytes, not on how they arrived. */
static void test_however_a_stream_arrives_the_image_is_the_same(void)
{
    static const size_t steps[] = {1, 7, 64, 100, 1000, 30000, 200000};
    enum { SIZE = 100000 };
    const struct cog_part_options kinds[] = {{.chunk_size = 1000},
                                             {.chunk_size = 4096, .codec = COG_CODEC_ZSTD},
                                             {0}};

    for (size_t i = 0; i < SIZE; i++)
        large[i] = (unsigned char)(i / 300 + (i % 7) * (i / 4096 % 2));
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        struct built first = {0};
        for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
            struct built built;
            begin(&built);
            REQUIRE(cog_entry_part_begin(built.writer, COG_PART_BLOB, "0", 1, &kinds[k], NULL,
                                         NULL) == COG_OK);
            for (size_t at = 0; at < SIZE; at += steps[s]) {
                size_t now = SIZE - at < steps[s] ? SIZE - at : steps[s];
                CHECK_EQ(cog_entry_part_write(built.writer, large + at, now, s % 2, NULL), COG_OK);
            }
            CHECK_EQ(cog_entry_part_end(built.writer, NULL), COG_OK);
            finish(&built);
            check_reads_back(&built, 0, large, SIZE);
            if (s == 0) {
                first = built;
                continue;
            }
            CHECK_BYTES(built.bytes, built.size, first.bytes, first.size);
            release(&built);
        }
        release(&first);
    }
}

static enum cog_status count_bytes(void *context, const void *data, size_t size, bool stable,
                                   struct cog_error *err)
{
    uint64_t *count = context;

    (void)data, (void)stable, (void)err;
    *count += size;
    return COG_OK;
}

static void test_a_stream_needs_no_more_than_a_chunk_of_memory(void)
{
    enum { CHUNK = 64 << 10, CHUNKS = 2000 };
    const struct cog_part_options options = {.chunk_size = CHUNK};
    struct cog_entry_writer *writer;
    uint64_t length, written = 0;
    struct cog_sink sink = {.context = &written, .write = count_bytes};

    kit_count_memory(true);
    REQUIRE(cog_entry_writer_new(key, 3, 5, sink, &writer, NULL) == COG_OK);
    REQUIRE(cog_entry_part_begin(writer, COG_PART_BLOB, "0", 1, &options, NULL, NULL) == COG_OK);
    for (size_t i = 0; i < CHUNKS * 10; i++)
        REQUIRE(cog_entry_part_write(writer, large, CHUNK / 10, false, NULL) == COG_OK);
    CHECK(kit_peak_bytes() < 2 * CHUNK + 20 * CHUNKS + 8192);
    CHECK_EQ(cog_entry_part_end(writer, NULL), COG_OK);
    CHECK_EQ(cog_entry_finish(writer, NULL, 0, &fresh, &length, NULL), COG_OK);
    CHECK_EQ(length, written);
    cog_entry_writer_free(writer);
    CHECK_EQ(kit_live_bytes(), 0);
    kit_count_memory(false);
}

static void test_arrays_are_cut_in_whole_rows(void)
{
    static const struct {
        uint64_t row;
        uint32_t chunk;
    } cases[] = {{0, 256 << 10},
                 {3000, 261000},
                 {262144, 262144},
                 {262145, 262145},
                 {5 << 20, 5 << 20},
                 {(5 << 20) + 1, 5 << 20},
                 {UINT64_C(1) << 40, 5 << 20}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cog_part_options options = {.row_size = cases[i].row};
        struct built built = one_part(COG_PART_ARRAY, &options, large, 1000);
        struct cog_part part = part_of(&built, 0);
        CHECK_EQ(part.chunk_size, cases[i].chunk);
        CHECK_EQ(part.offset % 64, 0);
        CHECK(cog_part_is_plain(&part));
        release(&built);
    }
}

/* Any number of arrays of any row sizes find room in the format table. */
static void test_many_shapes_share_the_format_table(void)
{
    struct built built;
    char name[12];

    begin(&built);
    for (unsigned i = 0; i < 500; i++) {
        struct cog_part_options options = {.row_size = 1000 + i};
        snprintf(name, sizeof name, "%u", i);
        put(&built, COG_PART_ARRAY, name, &options, large + i, 50);
    }
    finish(&built);
    for (unsigned i = 0; i < 500; i++)
        check_reads_back(&built, i, large + i, 50);
    release(&built);
}

/* --- deciding about compression (Z01-Z03) --------------------------------------------------- */

static void test_what_does_not_compress_is_stored(void)
{
    struct built built;

    kit_noise(large, sizeof large, 2);
    for (size_t size = 1; size < 6 << 20; size = size * 5 + 3) {
        for (uint8_t kind = COG_PART_BLOB; kind; kind = kind == COG_PART_BLOB ? COG_PART_DOC : 0) {
            struct built plain = one_part(kind, NULL, large, size);
            built = one_part(kind, &zstd, large, size);
            CHECK_EQ(part_of(&built, 0).codec, COG_CODEC_STORED);
            CHECK_EQ(built.size, plain.size);
            CHECK(built.size <= size + 64 + 208 + sizeof key + 8 * (size / COG_CHUNK_DEFAULT + 1));
            release(&plain);
            release(&built);
        }
    }
    memset(large, 'x', 100000);
    memcpy(large, "\xFF\xD8\xFF\xE0", 4);
    built = one_part(COG_PART_FRAME, &zstd, large, 100000);
    CHECK_EQ(part_of(&built, 0).codec, COG_CODEC_STORED);
    release(&built);
}

static void test_what_compresses_is_packed_and_comes_back(void)
{
    struct built built;

    for (size_t i = 0; i < 300000; i++)
        large[i] = (unsigned char)"{\"frame\": 1, \"text\": \"a man\"}"[(i + i / 290 % 9) % 29];
    built = one_part(COG_PART_DOC, &zstd, large, 300000);
    CHECK_EQ(part_of(&built, 0).codec, COG_CODEC_ZSTD);
    CHECK(part_of(&built, 0).stored_size < 300000 / 4);
    check_reads_back(&built, 0, large, 300000);
    release(&built);
}

/* Gains of 5 % are kept, less is not: the file is a byte-for-byte copy then, and can be mapped. */
static void test_a_gain_under_five_percent_is_not_taken(void)
{
    enum { SIZE = 4000 };
    unsigned kept = 0, dropped = 0;

    for (size_t zeros = 0; zeros < SIZE / 5; zeros += 20) {
        struct built built;
        struct cog_part part;
        kit_noise(large, SIZE, zeros);
        memset(large + 100, 0, zeros);
        built = one_part(COG_PART_BLOB, &zstd, large, SIZE);
        part = part_of(&built, 0);
        if (part.codec == COG_CODEC_ZSTD)
            kept++, CHECK(cog_codec_gains(SIZE, part.stored_size));
        else
            dropped++, CHECK(zeros < SIZE / 10);
        check_reads_back(&built, 0, large, SIZE);
        release(&built);
    }
    CHECK(kept > 10 && dropped > 5);
}

static void test_filters_go_with_the_codec_they_were_for(void)
{
    const struct cog_part_options shuffled = {
        .codec = COG_CODEC_ZSTD, .filter = COG_FILTER_BITSHUFFLE, .element_size = 4, .row_size = 4};
    struct built built;

    kit_noise(large, 400000, 4);
    built = one_part(COG_PART_ARRAY, &shuffled, large, 400000);
    CHECK_EQ(part_of(&built, 0).codec, COG_CODEC_STORED);
    CHECK_EQ(part_of(&built, 0).filter, COG_FILTER_NONE);
    CHECK_EQ(part_of(&built, 0).offset % 64, 0);
    release(&built);
    for (size_t i = 0; i < 100000; i++) {
        float value = (float)(i % 1000) / 1024;
        memcpy(large + 4 * i, &value, sizeof value);
    }
    built = one_part(COG_PART_ARRAY, &shuffled, large, 400000);
    CHECK_EQ(part_of(&built, 0).codec, COG_CODEC_ZSTD);
    CHECK_EQ(part_of(&built, 0).filter, COG_FILTER_BITSHUFFLE);
    CHECK_EQ(part_of(&built, 0).element_size, 4);
    check_reads_back(&built, 0, large, 400000);
    release(&built);
}

/* A part known as a whole is judged as a whole: an incompressible start does not speak for the
 * rest. */
static void test_a_long_part_is_judged_by_samples_of_it_all(void)
{
    const struct cog_part_options options = {.codec = COG_CODEC_ZSTD, .chunk_size = 100000};
    struct built built;

    memset(large, 'a', 1000000);
    kit_noise(large, 100000, 4);
    built = one_part(COG_PART_BLOB, &options, large, 1000000);
    CHECK_EQ(part_of(&built, 0).codec, COG_CODEC_ZSTD);
    CHECK(part_of(&built, 0).stored_size < 120000);
    check_reads_back(&built, 0, large, 1000000);
    release(&built);
}

/* --- names --------------------------------------------------------------------------------- */

static void test_parts_are_found_whatever_their_order_in_the_file(void)
{
    static const char *const names[] = {"frame 10",
                                        "9",
                                        "105",
                                        "",
                                        "10",
                                        "a",
                                        "frame 1",
                                        "100",
                                        "frame 2",
                                        "\xff\xfe",
                                        "b",
                                        "a long name, frame 2",
                                        "a long name, frame 1"};
    static const uint8_t kinds[] = {COG_PART_FRAME, COG_PART_BLOB, COG_PART_ARRAY, 0x99};
    enum { NAMES = sizeof names / sizeof names[0] };
    struct built built;
    uint32_t number;

    begin(&built);
    for (unsigned k = 0; k < sizeof kinds; k++)
        for (unsigned i = 0; i < NAMES; i++)
            put(&built, kinds[k], names[i], NULL, large + 64 * k + i, 1 + i);
    put(&built, COG_PART_DOC, "", NULL, "x", 1);
    finish(&built);
    for (unsigned k = 0; k < sizeof kinds; k++) {
        for (unsigned i = 0; i < NAMES; i++) {
            unsigned char name[COG_NAME_LIMIT];
            size_t size;
            CHECK_EQ(cog_entry_find(built.entry, kinds[k], names[i], strlen(names[i]), &number),
                     COG_OK);
            CHECK_EQ(number, k * NAMES + i);
            CHECK_EQ(cog_entry_part_name(built.entry, number, name, &size), COG_OK);
            CHECK_BYTES(name, size, names[i], strlen(names[i]));
            check_reads_back(&built, number, large + 64 * k + i, 1 + i);
        }
    }
    CHECK_EQ(cog_entry_find(built.entry, COG_PART_DOC, "", 0, &number), COG_OK);
    CHECK_EQ(cog_entry_find(built.entry, COG_PART_FRAME, "11", 2, &number), COG_ABSENT);
    CHECK_EQ(cog_entry_find(built.entry, COG_PART_ENTRY, "10", 2, &number), COG_ABSENT);
    release(&built);
}

static void test_misuse_of_the_writer_is_refused(void)
{
    struct built built;
    unsigned char name[300] = {0};
    struct cog_part_options bad = {.codec = 9};
    uint64_t length;

    begin(&built);
    CHECK_EQ(cog_entry_part_write(built.writer, "x", 1, false, NULL), COG_ERR_INVALID);
    CHECK_EQ(cog_entry_part_end(built.writer, NULL), COG_ERR_INVALID);
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_DOC, "x", 1, NULL, NULL, NULL),
             COG_ERR_INVALID);
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_BLOB, name, 256, NULL, NULL, NULL),
             COG_ERR_LIMIT);
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_BLOB, "x", 1, &bad, NULL, NULL),
             COG_ERR_INVALID);
    bad.codec = 0;
    bad.chunk_size = COG_CHUNK_LIMIT + 1;
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_BLOB, "x", 1, &bad, NULL, NULL),
             COG_ERR_LIMIT);
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_BLOB, name, 255, NULL, NULL, NULL),
             COG_OK);
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_BLOB, "y", 1, NULL, NULL, NULL),
             COG_ERR_INVALID);
    CHECK_EQ(cog_entry_finish(built.writer, NULL, 0, NULL, &length, NULL), COG_ERR_INVALID);
    CHECK_EQ(cog_entry_part_end(built.writer, NULL), COG_OK);
    CHECK_EQ(cog_entry_finish(built.writer, "\x90", 1, NULL, &length, NULL), COG_ERR_INVALID);
    put(&built, COG_PART_DOC, "", NULL, "x", 1);
    CHECK_EQ(cog_entry_part_begin(built.writer, COG_PART_BLOB, "z", 1, NULL, NULL, NULL),
             COG_ERR_INVALID);
    finish(&built); /* and after all that it is still a good entry */
    CHECK_EQ(cog_entry_part_count(built.entry), 2);
    CHECK_EQ(cog_entry_finish(built.writer, NULL, 0, NULL, &length, NULL), COG_ERR_INVALID);
    release(&built);
}

static void test_two_parts_of_one_name_are_refused(void)
{
    static const char *const names[] = {"b", "a", "b"};
    struct built built;
    struct cog_error err = {0};
    uint64_t length;

    begin(&built);
    for (unsigned i = 0; i < 3; i++)
        put(&built, COG_PART_BLOB, names[i], NULL, "x", 1);
    CHECK_EQ(cog_entry_finish(built.writer, NULL, 0, NULL, &length, &err), COG_ERR_INVALID);
    CHECK(strstr(err.text, "parts 0 and 2") != NULL);
    release(&built);
}

struct brittle_sink {
    size_t writes, fail_at;
};

static enum cog_status brittle_write(void *context, const void *data, size_t size, bool stable,
                                     struct cog_error *err)
{
    struct brittle_sink *sink = context;

    (void)data, (void)size, (void)stable;
    return ++sink->writes == sink->fail_at ? cog_fail(err, COG_ERR_FULL, 28, "no room") : COG_OK;
}

/* Whichever write the sink refuses: its answer comes through, and every later call repeats it. */
static void test_a_sink_that_fails_ends_the_entry(void)
{
    struct brittle_sink brittle = {0, 1};
    enum cog_status status;
    bool over = false;

    for (; !over && brittle.fail_at < 50; brittle.fail_at++) {
        struct cog_sink sink = {.context = &brittle, .write = brittle_write};
        struct cog_entry_writer *writer;
        struct cog_error err = {0};
        uint64_t length;
        brittle.writes = 0;
        status = cog_entry_writer_new(key, 3, 5, sink, &writer, &err);
        if (brittle.fail_at == 1) {
            CHECK(status == COG_ERR_FULL && writer == NULL && err.sys_errno == 28);
            continue;
        }
        REQUIRE(status == COG_OK);
        status = cog_entry_part_put(writer, COG_PART_ARRAY, "0", 1, NULL, large, 1 << 20, true,
                                    NULL, &err);
        if (status == COG_OK)
            status = cog_entry_part_put(writer, COG_PART_DOC, "", 0, NULL, large, 10, true, NULL,
                                        &err);
        if (status == COG_OK)
            status = cog_entry_finish(writer, NULL, 0, NULL, &length, &err);
        over = status == COG_OK;
        if (!over) {
            CHECK(status == COG_ERR_FULL && err.sys_errno == 28);
            CHECK_EQ(cog_entry_part_begin(writer, COG_PART_BLOB, "x", 1, NULL, NULL, NULL), status);
            CHECK_EQ(cog_entry_part_write(writer, "x", 1, true, NULL), status);
            CHECK_EQ(cog_entry_finish(writer, NULL, 0, NULL, &length, NULL), status);
        }
        cog_entry_writer_free(writer);
    }
    CHECK(over && brittle.fail_at > 6); /* head, padding, four chunks, document, tail */
}

/* The most chunks and the longest names there may be: one more is refused at once, not at the end.
 */
static void test_too_much_for_one_index_is_refused_early(void)
{
    const struct cog_part_options tiny = {.chunk_size = 1};
    struct brittle_sink counting = {0, 0};
    struct cog_sink sink = {.context = &counting, .write = brittle_write};
    struct cog_entry_writer *writer;
    struct cog_error err = {0};
    enum cog_status status = COG_OK;
    unsigned char name[COG_NAME_LIMIT] = {0};
    uint64_t length;
    uint32_t parts = 0;

    REQUIRE(cog_entry_writer_new(key, 3, 5, sink, &writer, NULL) == COG_OK);
    REQUIRE(cog_entry_part_begin(writer, COG_PART_BLOB, "0", 1, &tiny, NULL, NULL) == COG_OK);
    CHECK_EQ(cog_entry_part_write(writer, large, COG_CHUNKS_LIMIT, true, &err), COG_OK);
    CHECK_EQ(cog_entry_part_write(writer, large, 1, true, &err), COG_ERR_LIMIT);
    CHECK(strstr(err.text, "4194304") && strstr(err.text, "larger chunks"));
    cog_entry_writer_free(writer);

    REQUIRE(cog_entry_writer_new(key, 3, 5, sink, &writer, NULL) == COG_OK);
    for (; status == COG_OK && parts < COG_PARTS_LIMIT; parts++) {
        cog_store_le32(name, parts);
        status = cog_entry_part_put(writer, COG_PART_BLOB, name, sizeof name, NULL, "", 0, true,
                                    NULL, &err);
    }
    CHECK_EQ(status, COG_ERR_LIMIT);
    CHECK(strstr(err.text, "too many parts or names"));
    CHECK_EQ(parts - 1, COG_NAMES_LIMIT / COG_NAME_LIMIT);
    CHECK_EQ(cog_entry_finish(writer, NULL, 0, NULL, &length, NULL), COG_OK);
    cog_entry_writer_free(writer);
}

static void test_limits_are_named(void)
{
    static unsigned char long_key[COG_KEY_LIMIT + 1], long_meta[COG_META_LIMIT + 1];
    struct built built;
    struct cog_entry_writer *writer;
    struct cog_error err = {0};
    uint64_t length;

    begin(&built);
    CHECK_EQ(cog_entry_writer_new(long_key, sizeof long_key, 1, cog_image_sink(&built.image),
                                  &writer, &err),
             COG_ERR_LIMIT);
    CHECK(writer == NULL && strstr(err.text, "65537") && strstr(err.text, "65536"));
    CHECK_EQ(cog_entry_finish(built.writer, long_meta, sizeof long_meta, NULL, &length, &err),
             COG_ERR_LIMIT);
    CHECK(strstr(err.text, "1048577") != NULL);
    for (unsigned i = 0; i < COG_FORMATS_LIMIT; i++) {
        struct cog_part_options options = {.chunk_size = 1000 + i};
        char name[12];
        snprintf(name, sizeof name, "%u", i);
        put(&built, COG_PART_BLOB, name, &options, "x", 1);
    }
    CHECK_EQ(cog_entry_part_put(built.writer, COG_PART_BLOB, "last", 4, NULL, "x", 1, true, NULL,
                                &err),
             COG_ERR_LIMIT);
    release(&built);
}

/* --- the gathering sink ---------------------------------------------------------------------- */

static void test_the_image_borrows_what_is_stable_and_copies_the_rest(void)
{
    struct built built;
    unsigned char passing[3000];
    bool borrowed = false, copied = true;

    begin(&built);
    kit_noise(large, 100000, 12);
    kit_noise(passing, sizeof passing, 13);
    put(&built, COG_PART_BLOB, "0", &(struct cog_part_options){.chunk_size = 1000}, large, 100000);
    CHECK_EQ(cog_entry_part_put(built.writer, COG_PART_BLOB, "1", 1, NULL, passing, sizeof passing,
                                false, NULL, NULL),
             COG_OK);
    memset(passing, 0, sizeof passing);
    finish(&built);
    CHECK_EQ(built.image.count, 3); /* head; the blob in one piece though in 100 chunks; the rest */
    for (size_t i = 0; i < built.image.count; i++) {
        borrowed |= built.image.pieces[i].data == large && built.image.pieces[i].size == 100000;
        copied &= built.image.pieces[i].data != passing;
    }
    CHECK(borrowed && copied);
    CHECK(built.image.owned.size < 8000);
    kit_noise(passing, sizeof passing, 13);
    check_reads_back(&built, 1, passing, sizeof passing);
    release(&built);
}

int main(void)
{
    RUN(test_the_golden_container);
    RUN(test_every_write_has_its_own_token);
    RUN(test_chunks_are_full_but_the_last);
    RUN(test_fifty_mebibytes_are_ten_chunks);
    RUN(test_however_a_stream_arrives_the_image_is_the_same);
    RUN(test_a_stream_needs_no_more_than_a_chunk_of_memory);
    RUN(test_arrays_are_cut_in_whole_rows);
    RUN(test_many_shapes_share_the_format_table);
    RUN(test_what_does_not_compress_is_stored);
    RUN(test_what_compresses_is_packed_and_comes_back);
    RUN(test_a_gain_under_five_percent_is_not_taken);
    RUN(test_filters_go_with_the_codec_they_were_for);
    RUN(test_a_long_part_is_judged_by_samples_of_it_all);
    RUN(test_parts_are_found_whatever_their_order_in_the_file);
    RUN(test_misuse_of_the_writer_is_refused);
    RUN(test_two_parts_of_one_name_are_refused);
    RUN(test_a_sink_that_fails_ends_the_entry);
    RUN(test_too_much_for_one_index_is_refused_early);
    RUN(test_limits_are_named);
    RUN(test_the_image_borrows_what_is_stable_and_copies_the_rest);
    cog_codec_free_spares();
    return check_done();
}
