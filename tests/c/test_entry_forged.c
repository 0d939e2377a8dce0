/* An index made in bad faith, with every checksum right, and entries of versions to come. */
#include "check.h"

#include <stdlib.h>

#include "core/entry_layout.h"
#include "entry_built.h"
#include "entry_kit.h"

/* --- an index made in bad faith: every checksum right ---------------------------------------- */

struct verdicts {
    unsigned long opened, damaged, foreign, other, unsupported, broken;
    size_t peak;
};

/* What must hold of anything that opens, however it came about. */
static bool is_sound(const struct cog_entry *entry, const struct cog_source *source)
{
    uint64_t end = COG_ENTRY_HEAD_SIZE;
    unsigned char out[64], name[COG_NAME_LIMIT];

    for (uint32_t i = 0; i < cog_entry_part_count(entry); i++) {
        struct cog_part part;
        uint32_t found;
        uint64_t stop;
        size_t size;
        enum cog_status status;
        if (cog_entry_part(entry, i, &part) != COG_OK || part.offset < end ||
            part.offset - end > 65535 || part.offset + part.stored_size > source->size)
            return false;
        end = part.offset + part.stored_size;
        if (cog_entry_part_name(entry, i, name, &size) != COG_OK ||
            cog_entry_find(entry, part.kind, name, size, &found) != COG_OK || found != i)
            return false;
        stop = part.raw_size < sizeof out ? part.raw_size : sizeof out;
        status = cog_entry_read(entry, source, NULL, i, 0, stop, out, NULL);
        if (status != COG_OK && status != COG_ERR_DAMAGED && status != COG_ERR_UNSUPPORTED)
            return false;
        if ((status == COG_ERR_UNSUPPORTED) != !part.supported && stop > 0)
            return false;
    }
    return true;
}

static void try_forged(unsigned char *image, size_t size, struct verdicts *verdicts)
{
    struct cog_source source = cog_memory_source(image, size);
    struct cog_entry *entry;
    enum cog_status status;

    kit_reseal(image, size);
    kit_count_memory(true);
    status = cog_entry_open(&source, NULL, 0, 0, &entry, NULL);
    if (kit_peak_bytes() > verdicts->peak)
        verdicts->peak = kit_peak_bytes();
    if (status == COG_OK) {
        verdicts->opened++;
        verdicts->broken += !is_sound(entry, &source);
    } else if (status == COG_ERR_DAMAGED) {
        verdicts->damaged++;
    } else if (status == COG_ERR_FOREIGN) {
        verdicts->foreign++;
    } else {
        verdicts->other++;
    }
    cog_entry_free(entry);
    kit_count_memory(false);
}

static struct verdicts forge(enum kit_which which, unsigned long rounds)
{
    size_t size, index;
    unsigned char *image = kit_build(&kit_real, kit_sample(which, false), &size);
    unsigned char *forged = malloc(size);
    size_t footer = size - COG_ENTRY_FOOTER_SIZE;
    struct verdicts verdicts = {0};
    uint64_t state = 11;
    static const unsigned char values[] = {0,  1,  2,  3,  4,   7,   8,   15,  16,
                                           17, 63, 64, 65, 127, 128, 240, 254, 255};

    REQUIRE(forged != NULL);
    index = size - COG_ENTRY_TAIL_SIZE - cog_load_le32(image + footer + COG_FOOTER_INDEX_STORED);
    for (size_t i = index; i < footer + COG_FOOTER_SUM; i++) {
        for (size_t v = 0; v < sizeof values; v++) {
            memcpy(forged, image, size);
            forged[i] = values[v];
            try_forged(forged, size, &verdicts);
        }
    }
    for (unsigned long round = 0; round < rounds; round++) {
        unsigned changes = 1 + (unsigned)(kit_random(&state) % 4);
        memcpy(forged, image, size);
        while (changes--) {
            size_t at = index + (size_t)(kit_random(&state) % (footer - index));
            uint64_t r = kit_random(&state);
            forged[at] = (unsigned char)(r & 1 ? values[(r >> 8) % sizeof values] : r >> 8);
        }
        try_forged(forged, size, &verdicts);
    }
    free(image);
    free(forged);
    return verdicts;
}

static void test_a_forged_index_gets_one_of_three_verdicts(void)
{
    static const enum kit_which samples[] = {KIT_PLAIN, KIT_MIXED, KIT_FRAMES, KIT_FILTERED,
                                             KIT_EMPTY};
    unsigned long rounds = getenv("COGCACHE_TORTURE") ? 1000000 : 40000;

    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        struct verdicts verdicts = forge(samples[i], rounds);
        CHECK_EQ(verdicts.other, 0);
        CHECK_EQ(verdicts.broken, 0);
        CHECK(verdicts.opened > 100 && verdicts.damaged > 1000 && verdicts.foreign > 10);
        /* An index of under 1 KiB never takes more than names written out can come to. */
        CHECK(verdicts.peak < 80 << 10);
    }
}

/* The check above can fail: a container that opens but reads as unsupported where it should not is
 * not sound. */
static void test_soundness_is_not_always_true(void)
{
    size_t size, other_size;
    unsigned char *image = kit_build(&kit_real, kit_sample(KIT_FRAMES, false), &size);
    unsigned char *other = kit_build(&kit_real, kit_sample(KIT_PLAIN, false), &other_size);
    struct cog_source source = cog_memory_source(image, size);
    struct cog_source wrong = cog_memory_source(other, other_size);
    struct cog_entry *entry;

    CHECK_EQ(cog_entry_open(&source, NULL, 0, 0, &entry, NULL), COG_OK);
    CHECK(is_sound(entry, &source));
    wrong.size = 40;
    CHECK(!is_sound(entry, &wrong));
    cog_entry_free(entry);
    free(image);
    free(other);
}

/*
 * Chunks changed and their checksums made right: zstd must refuse them or give exactly the raw
 * length, and nothing may be written beyond it. What an honest reader is told then is somebody
 * else's value; no checksum can help that.
 */
static void test_forged_chunks_stay_in_their_bounds(void)
{
    struct built built;
    struct cog_part part;
    unsigned char out[2064];
    unsigned long refused = 0, cases = 0;
    uint64_t token, sums;

    begin(&built);
    for (size_t i = 0; i < 2000; i++)
        large[i] = (unsigned char)"a forged frame "[(i + i / 90) % 15];
    put(&built, COG_PART_BLOB, "0", &zstd, large, 2000);
    finish(&built);
    part = part_of(&built, 0);
    CHECK_EQ(part.codec, COG_CODEC_ZSTD);
    token = cog_entry_token(built.entry);
    CHECK_EQ(cog_entry_length(built.entry), built.size);
    sums = built.size - COG_ENTRY_TAIL_SIZE - 8; /* one chunk, no extension: the last column */
    for (size_t i = 0; i < part.stored_size; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            unsigned char *stored = built.bytes + part.offset;
            struct cog_entry *entry;
            enum cog_status status;
            stored[i] ^= (unsigned char)(1u << bit);
            cog_store_le64(built.bytes + sums,
                           cog_chunk_sum(stored, (size_t)part.stored_size, token, 0));
            kit_reseal(built.bytes, built.size);
            REQUIRE(cog_entry_open(&built.source, NULL, 0, 0, &entry, NULL) == COG_OK);
            memset(out, 0x5A, sizeof out);
            /* into the output, and by way of scratch */
            for (uint64_t start = 0; start <= 1; start++) {
                status = cog_entry_read(entry, &built.source, NULL, 0, start, 2000, out, NULL);
                CHECK(status == COG_OK || status == COG_ERR_DAMAGED);
                CHECK(out[2000] == 0x5A && out[2063] == 0x5A);
                refused += status == COG_ERR_DAMAGED;
                cases++;
            }
            cog_entry_free(entry);
            stored[i] ^= (unsigned char)(1u << bit);
        }
    }
    CHECK(refused > cases / 4 && refused < cases);
    release(&built);
}

/* A compressed index that declares far more than it holds costs no memory. */
static void test_a_lying_compressed_index_costs_nothing(void)
{
    size_t size;
    unsigned char *image = kit_build(&kit_real, kit_sample(KIT_PACKED_INDEX, false), &size);
    unsigned char *footer = image + size - COG_ENTRY_FOOTER_SIZE;
    struct verdicts verdicts = {0};

    CHECK_EQ(footer[COG_FOOTER_INDEX_CODEC], COG_CODEC_ZSTD);
    cog_store_le32(footer + COG_FOOTER_INDEX_RAW, COG_INDEX_LIMIT);
    try_forged(image, size, &verdicts);
    CHECK_EQ(verdicts.damaged, 1);
    CHECK(verdicts.peak < 1024);
    free(image);
}

/* --- versions (M02) ------------------------------------------------------------------------- */

/* Rewrite one byte of the format table and see what becomes of its part and of the others. */
static void test_an_unknown_codec_costs_only_its_part(void)
{
    struct built built;
    struct cog_part_options other = {.chunk_size = 4096};
    struct cog_entry *entry;
    struct cog_error err = {0};
    struct cog_part part;
    unsigned char out[8];
    size_t table;

    begin(&built);
    for (size_t i = 0; i < 2000; i++)
        large[i] = (unsigned char)(i / 100);
    put(&built, COG_PART_BLOB, "0", &zstd, large, 2000);
    put(&built, COG_PART_BLOB, "1", &other, "abc", 3);
    finish(&built);
    table = built.size - COG_ENTRY_TAIL_SIZE -
            cog_load_le32(built.bytes + built.size - COG_ENTRY_FOOTER_SIZE +
                          COG_FOOTER_INDEX_STORED) +
            COG_INDEX_COUNTS + sizeof key - 1;
    CHECK_EQ(built.bytes[table], COG_CODEC_ZSTD);
    built.bytes[table] = 9;
    kit_reseal(built.bytes, built.size);
    CHECK_EQ(cog_entry_open(&built.source, key, sizeof key - 1, 0, &entry, &err), COG_OK);
    CHECK_EQ(cog_entry_part(entry, 0, &part), COG_OK);
    CHECK(!part.supported && part.codec == 9 && part.raw_size == 2000);
    CHECK_EQ(cog_entry_read(entry, &built.source, NULL, 0, 0, 8, out, &err), COG_ERR_UNSUPPORTED);
    CHECK(strstr(err.text, "codec 9") != NULL);
    CHECK_EQ(cog_entry_read(entry, &built.source, NULL, 1, 0, 3, out, NULL), COG_OK);
    CHECK_BYTES(out, 3, "abc", 3);
    /* its bytes can still be checked and copied */
    CHECK_EQ(cog_entry_verify(entry, &built.source, NULL), COG_OK);
    cog_entry_free(entry);
    release(&built);
}

static enum cog_status open_with(size_t field, unsigned char value)
{
    size_t size;
    unsigned char *image = kit_build(&kit_real, kit_sample(KIT_PLAIN, false), &size);
    struct cog_source source = cog_memory_source(image, size);
    struct cog_entry *entry;
    enum cog_status status;

    image[size - COG_ENTRY_FOOTER_SIZE + field] = value;
    kit_reseal(image, size);
    status = cog_entry_open(&source, NULL, 0, 0, &entry, NULL);
    cog_entry_free(entry);
    free(image);
    return status;
}

static void test_newer_entries_are_foreign_and_newer_minors_are_read(void)
{
    CHECK_EQ(open_with(COG_FOOTER_MAJOR, 2), COG_ERR_FOREIGN);
    CHECK_EQ(open_with(COG_FOOTER_MAJOR, 0), COG_ERR_FOREIGN);
    CHECK_EQ(open_with(COG_FOOTER_FEATURES, 1), COG_ERR_FOREIGN);
    CHECK_EQ(open_with(COG_FOOTER_FEATURES, 0x80), COG_ERR_FOREIGN);
    CHECK_EQ(open_with(COG_FOOTER_INDEX_CODEC, 2), COG_ERR_FOREIGN);
    CHECK_EQ(open_with(COG_FOOTER_MINOR, 9), COG_OK);
}

/* Room for an extension is made by hand: behind the checksums, before the slots. */
static enum cog_status open_with_extension(const unsigned char *extension, size_t more)
{
    size_t size;
    unsigned char *image = kit_build(&kit_real, kit_sample(KIT_MIXED, false), &size);
    unsigned char *longer = malloc(size + more), *footer;
    size_t slots = size - COG_ENTRY_TAIL_SIZE;
    struct cog_source source;
    struct cog_entry *entry;
    enum cog_status status;
    uint32_t index;

    REQUIRE(longer != NULL);
    memcpy(longer, image, slots);
    memcpy(longer + slots, extension, more);
    memcpy(longer + slots + more, image + slots, COG_ENTRY_TAIL_SIZE);
    size += more;
    footer = longer + size - COG_ENTRY_FOOTER_SIZE;
    index = cog_load_le32(footer + COG_FOOTER_INDEX_STORED) + (uint32_t)more;
    cog_store_le32(footer + COG_FOOTER_INDEX_STORED, index);
    cog_store_le32(footer + COG_FOOTER_INDEX_RAW, index);
    cog_store_le64(footer + COG_FOOTER_LENGTH, size);
    kit_reseal(longer, size);
    source = cog_memory_source(longer, size);
    status = cog_entry_open(&source, NULL, 0, 0, &entry, NULL);
    if (status == COG_OK)
        CHECK_EQ(cog_entry_verify(entry, &source, NULL), COG_OK);
    cog_entry_free(entry);
    free(image);
    free(longer);
    return status;
}

static void test_unknown_extensions_are_skipped_unless_critical(void)
{
    static const unsigned char two[] = {7, 0, 3, 0, 0, 0, 'a', 'b', 'c', 8, 0, 0, 0, 0, 0};
    static const unsigned char critical[] = {7, 0x80, 1, 0, 0, 0, 'a'};
    static const unsigned char lying[] = {7, 0, 0xff, 0xff, 0xff, 0xff, 'a'};

    CHECK_EQ(open_with_extension(two, sizeof two), COG_OK);
    CHECK_EQ(open_with_extension(critical, sizeof critical), COG_ERR_FOREIGN);
    CHECK_EQ(open_with_extension(lying, sizeof lying), COG_ERR_DAMAGED);
    for (size_t cut = 1; cut < sizeof two; cut++)
        CHECK_EQ(open_with_extension(two, cut), cut == 9 ? COG_OK : COG_ERR_DAMAGED);
}

int main(void)
{
    RUN(test_a_forged_index_gets_one_of_three_verdicts);
    RUN(test_soundness_is_not_always_true);
    RUN(test_forged_chunks_stay_in_their_bounds);
    RUN(test_a_lying_compressed_index_costs_nothing);
    RUN(test_an_unknown_codec_costs_only_its_part);
    RUN(test_newer_entries_are_foreign_and_newer_minors_are_read);
    RUN(test_unknown_extensions_are_skipped_unless_critical);
    cog_codec_free_spares();
    return check_done();
}
