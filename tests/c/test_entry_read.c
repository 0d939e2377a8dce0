/* What a reader asks for and gives: exact ranges, few reads, little memory, and an answer where
 * memory is refused. */
#include "check.h"

#include <stdlib.h>

#include "core/entry_layout.h"
#include "entry_built.h"
#include "entry_kit.h"

/* --- reading (C09, C13-C15, C18) ------------------------------------------------------------ */

/* Every boundary of every chunk, and a few ranges in between: exactly what was asked. */
static void check_ranges(const struct built *built, const struct cog_source *source,
                         const unsigned char *data, uint64_t size, uint64_t chunk)
{
    uint64_t points[64], count = 0;
    unsigned char *out = malloc((size_t)size + 2);

    REQUIRE(out != NULL);
    for (uint64_t at = 0; at <= size + chunk && count < 60; at += chunk) {
        if (at > 0 && at - 1 <= size)
            points[count++] = at - 1;
        if (at <= size)
            points[count++] = at;
        if (at + 1 <= size)
            points[count++] = at + 1;
    }
    points[count++] = size;
    for (uint64_t i = 0; i < count; i++) {
        for (uint64_t j = 0; j < count; j++) {
            uint64_t start = points[i], stop = points[j];
            enum cog_status status;
            if (stop < start)
                continue;
            memset(out, 0x33, (size_t)(stop - start) + 1);
            status = cog_entry_read(built->entry, source, NULL, 0, start, stop, out, NULL);
            CHECK_EQ(status, COG_OK);
            CHECK_BYTES(out, (size_t)(stop - start), data + start, (size_t)(stop - start));
            CHECK(out[stop - start] == 0x33);
        }
    }
    CHECK_EQ(cog_entry_read(built->entry, source, NULL, 0, 0, size + 1, out, NULL),
             COG_ERR_INVALID);
    CHECK_EQ(cog_entry_read(built->entry, source, NULL, 0, 1, 0, out, NULL), COG_ERR_INVALID);
    CHECK_EQ(cog_entry_read(built->entry, source, NULL, 0, UINT64_MAX, UINT64_MAX, out, NULL),
             COG_ERR_INVALID);
    CHECK_EQ(cog_entry_read(built->entry, source, NULL, 99, 0, 0, out, NULL), COG_ERR_INVALID);
    free(out);
}

static void test_every_range_is_exact(void)
{
    const struct cog_part_options kinds[] = {
        {.chunk_size = 100},
        {.chunk_size = 100, .codec = COG_CODEC_ZSTD},
        {.chunk_size = 104, .filter = COG_FILTER_SHUFFLE, .element_size = 8},
        {.chunk_size = 99,
         .filter = COG_FILTER_BITSHUFFLE,
         .element_size = 2,
         .codec = COG_CODEC_ZSTD}};

    for (size_t i = 0; i < 1050; i++)
        large[i] = (unsigned char)(i / 30);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        struct built built = one_part(COG_PART_BLOB, &kinds[k], large, 1050);
        struct kit_remote remote = {.image = built.bytes, .size = built.size};
        struct cog_source far = kit_remote_source(&remote);
        CHECK_EQ(part_of(&built, 0).codec, kinds[k].codec);
        check_ranges(&built, &built.source, large, 1050, kinds[k].chunk_size);
        check_ranges(&built, &far, large, 1050, kinds[k].chunk_size);
        far.window = 1; /* one chunk at a time */
        check_ranges(&built, &far, large, 1050, kinds[k].chunk_size);
        release(&built);
    }
}

/* One frame of a bundle from afar: the end, then exactly the frame. */
static void test_one_frame_is_two_reads(void)
{
    struct built built;
    struct kit_remote remote = {0};
    struct cog_source far;
    struct cog_entry *entry;
    struct cog_part part;
    unsigned char out[5000];
    uint32_t number;
    char name[12];

    begin(&built);
    kit_noise(large, sizeof large, 6);
    for (unsigned i = 0; i < 150; i++) {
        snprintf(name, sizeof name, "%u", 15 * i);
        put(&built, COG_PART_FRAME, name, &zstd, large + 31 * i, 4000 + 7 * i);
    }
    put(&built, COG_PART_DOC, "", NULL, large, 9000);
    finish(&built);
    remote.image = built.bytes;
    remote.size = built.size;
    far = kit_remote_source(&remote);

    CHECK_EQ(cog_entry_open(&far, key, sizeof key - 1, 0, &entry, NULL), COG_OK);
    CHECK_EQ(remote.reads, 1);
    CHECK_EQ(remote.bytes, 65536);
    CHECK_EQ(cog_entry_find(entry, COG_PART_FRAME, "1500", 4, &number), COG_OK);
    CHECK_EQ(number, 100);
    CHECK_EQ(cog_entry_part(entry, number, &part), COG_OK);
    CHECK_EQ(cog_entry_read(entry, &far, NULL, number, 0, part.raw_size, out, NULL), COG_OK);
    CHECK_BYTES(out, 4700, large + 3100, 4700);
    CHECK_EQ(remote.reads, 2);
    CHECK_EQ(remote.last_offset, part.offset);
    CHECK_EQ(remote.last_size, 4700);
    cog_entry_free(entry);
    release(&built);
}

static void test_a_small_entry_is_one_read_and_a_long_index_two(void)
{
    static const struct {
        unsigned parts;
        size_t reads;
    } cases[] = {{1, 1}, {3000, 1}, {10000, 2}};

    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct built built;
        struct kit_remote remote = {0};
        struct cog_source far;
        struct cog_entry *entry;
        char name[12];
        begin(&built);
        for (unsigned i = 0; i < cases[c].parts; i++) {
            snprintf(name, sizeof name, "%u", i);
            put(&built, COG_PART_FRAME, name, NULL, large + i, 3 + i * 7 % 400);
        }
        finish(&built);
        remote.image = built.bytes;
        remote.size = built.size;
        far = kit_remote_source(&remote);
        CHECK_EQ(cog_entry_open(&far, key, sizeof key - 1, 0, &entry, NULL), COG_OK);
        CHECK_EQ(remote.reads, cases[c].reads);
        CHECK(remote.bytes < 65536 + 40000);
        CHECK_EQ(cog_entry_part_count(entry), cases[c].parts);
        for (unsigned i = 0; i < cases[c].parts; i += 7) {
            uint32_t number;
            snprintf(name, sizeof name, "%u", i);
            CHECK_EQ(cog_entry_find(entry, COG_PART_FRAME, name, strlen(name), &number), COG_OK);
            CHECK_EQ(number, i);
        }
        cog_entry_free(entry);
        release(&built);
    }
}

/* A range of many chunks is one read of whole chunks; where memory is short, a chunk at a time. */
static void test_a_range_asks_for_the_chunks_it_needs_and_no_others(void)
{
    enum { CHUNK = 1000 };
    const struct cog_part_options options = {.chunk_size = CHUNK};
    struct built built;
    struct kit_remote remote = {0};
    struct cog_source far;
    unsigned char out[CHUNK * 3];
    uint64_t offset, size;
    uint32_t first, count;

    kit_noise(large, 10 * CHUNK, 6);
    built = one_part(COG_PART_BLOB, &options, large, 10 * CHUNK);
    remote.image = built.bytes;
    remote.size = built.size;
    far = kit_remote_source(&remote);
    /* C09: inside chunk 7. C14: a range that starts behind the first chunk. */
    CHECK_EQ(cog_entry_read(built.entry, &far, NULL, 0, 7100, 7900, out, NULL), COG_OK);
    CHECK_BYTES(out, 800, large + 7100, 800);
    CHECK_EQ(remote.reads, 1);
    CHECK_EQ(remote.last_offset, COG_ENTRY_HEAD_SIZE + 7 * CHUNK);
    CHECK_EQ(remote.last_size, CHUNK);
    CHECK_EQ(cog_entry_extent(built.entry, 0, 7100, 7900, &offset, &size, &first, &count), COG_OK);
    CHECK(offset == remote.last_offset && size == CHUNK && first == 7 && count == 1);
    /* C15: three chunks, the outer two trimmed. */
    CHECK_EQ(cog_entry_read(built.entry, &far, NULL, 0, 3999, 5001, out, NULL), COG_OK);
    CHECK_BYTES(out, 1002, large + 3999, 1002);
    CHECK_EQ(remote.reads, 2);
    CHECK_EQ(remote.last_size, 3 * CHUNK);
    far.window = CHUNK;
    kit_count_memory(true);
    CHECK_EQ(cog_entry_read(built.entry, &far, NULL, 0, 3999, 5001, out, NULL), COG_OK);
    CHECK_BYTES(out, 1002, large + 3999, 1002);
    CHECK_EQ(remote.reads, 5);
    CHECK(kit_peak_bytes() <= 2 * CHUNK);
    kit_count_memory(false);
    /* Nothing is asked for an empty range. */
    CHECK_EQ(cog_entry_read(built.entry, &far, NULL, 0, 500, 500, out, NULL), COG_OK);
    CHECK_EQ(remote.reads, 5);
    release(&built);
}

/* C18: a plan is two divisions and two places of an array; here that it is right, everywhere. */
static void test_plans_over_a_thousand_chunks_are_exact(void)
{
    enum { CHUNKS = 1000, CHUNK = 64 };
    const struct cog_part_options options = {.chunk_size = CHUNK};
    struct built built;

    kit_noise(large, CHUNKS * CHUNK, 6);
    built = one_part(COG_PART_BLOB, &options, large, CHUNKS * CHUNK);
    for (uint64_t start = 0; start < CHUNKS * CHUNK; start += 977) {
        for (uint64_t length = 1; start + length <= CHUNKS * CHUNK; length = length * 3 + 5) {
            uint64_t offset, size;
            uint32_t first, count;
            CHECK_EQ(cog_entry_extent(built.entry, 0, start, start + length, &offset, &size, &first,
                                      &count),
                     COG_OK);
            CHECK_EQ(first, start / CHUNK);
            CHECK_EQ(first + count, (start + length + CHUNK - 1) / CHUNK);
            CHECK_EQ(offset, COG_ENTRY_HEAD_SIZE + (start / CHUNK) * CHUNK);
            CHECK_EQ(size, (uint64_t)count * CHUNK);
        }
    }
    release(&built);
}

static void test_a_source_that_fails_is_not_damage(void)
{
    const struct kit_sample *sample = kit_sample(KIT_PACKED_INDEX, false);
    size_t size;
    unsigned char *image = kit_build(&kit_real, sample, &size), out[8];
    struct kit_remote remote = {.image = image, .size = size};
    struct cog_source far = kit_remote_source(&remote);
    struct cog_entry *entry;
    struct cog_error err = {0};

    for (remote.fail_at = 1; remote.fail_at <= 2; remote.fail_at++) {
        remote.reads = 0;
        CHECK_EQ(cog_entry_open(&far, NULL, 0, 200, &entry, &err), COG_ERR_IO);
        CHECK_EQ(err.sys_errno, 5);
        CHECK(entry == NULL);
    }
    remote.reads = 0;
    CHECK_EQ(cog_entry_open(&far, NULL, 0, 200, &entry, &err), COG_OK);
    CHECK_EQ(remote.reads, 2);
    CHECK_EQ(cog_entry_read(entry, &far, NULL, 3, 0, 1, out, &err), COG_ERR_IO);
    CHECK_EQ(cog_entry_read(entry, &far, NULL, 3, 0, 1, out, &err), COG_OK);
    /* An object that became shorter under a kept index. */
    far.size = 64;
    CHECK_EQ(cog_entry_read(entry, &far, NULL, 99, 0, 1, out, &err), COG_ERR_DAMAGED);
    cog_entry_free(entry);
    free(image);
}

/* An index that was kept is no way around the checks when another write took the place of its
 * object. */
static void test_a_kept_index_does_not_read_another_write(void)
{
    size_t size, other_size;
    unsigned char *image = kit_build(&kit_real, kit_sample(KIT_FRAMES, false), &size);
    unsigned char *other = kit_build(&kit_real, kit_sample(KIT_FRAMES, true), &other_size);
    struct cog_source source = cog_memory_source(image, size);
    struct cog_source replaced = cog_memory_source(other, other_size);
    struct cog_entry *entry;
    unsigned char out[8];

    CHECK_EQ(cog_entry_open(&source, NULL, 0, 0, &entry, NULL), COG_OK);
    for (uint32_t i = 0; i < cog_entry_part_count(entry); i++) {
        CHECK_EQ(cog_entry_read(entry, &source, NULL, i, 0, 1, out, NULL), COG_OK);
        CHECK_EQ(cog_entry_read(entry, &replaced, NULL, i, 0, 1, out, NULL), COG_ERR_DAMAGED);
    }
    CHECK_EQ(cog_entry_verify(entry, &replaced, NULL), COG_ERR_DAMAGED);
    cog_entry_free(entry);
    free(image);
    free(other);
}

static void check_verify_looks_at_everything(enum kit_which which)
{
    size_t size;
    unsigned char *image = kit_build(&kit_real, kit_sample(which, false), &size);
    struct cog_source source = cog_memory_source(image, size);
    struct cog_entry *entry;
    uint64_t data_end;
    const unsigned char *footer = image + size - COG_ENTRY_FOOTER_SIZE;

    data_end = size - COG_ENTRY_TAIL_SIZE - cog_load_le32(footer + COG_FOOTER_INDEX_STORED);
    CHECK_EQ(cog_entry_open(&source, NULL, 0, 0, &entry, NULL), COG_OK);
    CHECK_EQ(cog_entry_verify(entry, &source, NULL), COG_OK);
    for (size_t i = 0; i < data_end; i++) {
        image[i] ^= 4;
        CHECK_EQ(cog_entry_verify(entry, &source, NULL), COG_ERR_DAMAGED);
        image[i] ^= 4;
    }
    CHECK_EQ(cog_entry_check_chunks(entry, &source, 0, cog_entry_chunk_count(entry), NULL), COG_OK);
    CHECK_EQ(cog_entry_check_chunks(entry, &source, 0, cog_entry_chunk_count(entry) + 1, NULL),
             COG_ERR_INVALID);
    for (uint32_t chunk = 0; chunk < cog_entry_chunk_count(entry); chunk++) {
        CHECK_EQ(cog_entry_check_chunks(entry, &source, chunk, 1, NULL), COG_OK);
        CHECK_EQ(cog_entry_check_chunks(entry, &source, chunk, 0, NULL), COG_OK);
    }
    source.size--;
    CHECK_EQ(cog_entry_verify(entry, &source, NULL), COG_ERR_DAMAGED);
    cog_entry_free(entry);
    free(image);
}

/* Head, padding (of the mixed sample's array), chunks of every codec and filter. */
/* Flip every byte of one chunk in turn: that chunk is found, and no other. */
static void check_chunk_is_found(const struct cog_entry *entry, const struct cog_source *source,
                                 unsigned char *image, uint64_t offset, uint64_t size,
                                 uint32_t chunk)
{
    uint32_t found[4];
    size_t count;

    for (uint64_t at = offset; at < offset + size; at++) {
        image[at] ^= 8;
        CHECK_EQ(cog_entry_find_damage(entry, source, 0, UINT32_MAX, found, 4, &count, NULL),
                 COG_OK);
        CHECK(count == 1 && found[0] == chunk);
        CHECK_EQ(cog_entry_find_damage(entry, source, chunk + 1, UINT32_MAX, found, 4, &count,
                                       NULL),
                 COG_OK);
        CHECK_EQ(count, 0);
        CHECK_EQ(cog_entry_find_damage(entry, source, 0, chunk, found, 4, &count, NULL), COG_OK);
        CHECK_EQ(count, 0);
        CHECK_EQ(cog_entry_check_frame(entry, source, NULL), COG_OK);
        image[at] ^= 8;
    }
}

static void check_damage_is_found(enum kit_which which, size_t window)
{
    size_t size, count;
    unsigned char *image = kit_build(&kit_real, kit_sample(which, false), &size);
    struct cog_source source = cog_memory_source(image, size);
    struct cog_entry *entry;
    struct cog_part part;
    uint32_t found[2], chunks = 0;

    CHECK_EQ(cog_entry_open(&source, NULL, 0, 0, &entry, NULL), COG_OK);
    if (window != 0) { /* through reads of a few chunks, not in place */
        source.view = NULL;
        source.window = window;
    }
    CHECK_EQ(cog_entry_find_damage(entry, &source, 0, UINT32_MAX, found, 2, &count, NULL), COG_OK);
    CHECK_EQ(count, 0);
    for (uint32_t i = 0; cog_entry_part(entry, i, &part) == COG_OK; i++) {
        for (uint32_t c = 0; c < part.chunk_count; c++, chunks++) {
            uint64_t start = (uint64_t)c * part.chunk_size, offset, stored;
            uint32_t chunk, one;
            CHECK_EQ(cog_entry_extent(entry, i, start, start + 1, &offset, &stored, &chunk, &one),
                     COG_OK);
            CHECK_EQ(chunk, chunks);
            check_chunk_is_found(entry, &source, image, offset, stored, chunk);
        }
    }
    CHECK_EQ(chunks, cog_entry_chunk_count(entry));
    for (size_t i = COG_ENTRY_HEAD_SIZE; i < size - COG_ENTRY_TAIL_SIZE; i++)
        image[i] ^= 8;
    CHECK_EQ(cog_entry_find_damage(entry, &source, 0, UINT32_MAX, found, 2, &count, NULL), COG_OK);
    CHECK_EQ(count, chunks); /* all of them, of which two are named */
    CHECK(found[0] == 0 && found[1] == 1);
    cog_entry_free(entry);
    free(image);
}

static void test_damage_is_found_where_it_is(void)
{
    check_damage_is_found(KIT_MIXED, 0);
    check_damage_is_found(KIT_MIXED, 200);
    check_damage_is_found(KIT_FILTERED, 0);
    check_damage_is_found(KIT_FILTERED, 100000);
}

static void test_verify_looks_at_everything(void)
{
    check_verify_looks_at_everything(KIT_MIXED);
    check_verify_looks_at_everything(KIT_FILTERED);
}

/* --- memory that is refused ----------------------------------------------------------------- */

static enum cog_status write_and_read(const struct kit_sample *sample)
{
    struct cog_image image = {0};
    struct cog_entry_writer *writer = NULL;
    struct cog_entry *entry = NULL;
    struct kit_remote remote = {0};
    struct cog_source far;
    static unsigned char out[65536];
    unsigned char *bytes = NULL;
    uint64_t length;
    enum cog_status status = cog_entry_writer_new(sample->key, strlen(sample->key), 5,
                                                  cog_image_sink(&image), &writer, NULL);

    for (size_t i = 0; i < sample->count && status == COG_OK; i++) {
        const struct kit_part *part = &sample->parts[i];
        status = cog_entry_part_begin(writer, part->kind, part->name, strlen(part->name),
                                      &part->options, NULL, NULL);
        if (status == COG_OK)
            status = cog_entry_part_write(writer, part->data, part->size / 2, false, NULL);
        if (status == COG_OK)
            status = cog_entry_part_write(writer, (const char *)part->data + part->size / 2,
                                          part->size - part->size / 2, false, NULL);
        if (status == COG_OK)
            status = cog_entry_part_end(writer, NULL);
    }
    if (status == COG_OK)
        status = cog_entry_finish(writer, sample->meta, sample->meta_size, &fresh, &length, NULL);
    if (status == COG_OK)
        status = cog_image_seal(&image);
    if (status == COG_OK) {
        bytes = malloc((size_t)length);
        REQUIRE(bytes != NULL && cog_image_copy(&image, bytes) == COG_OK);
        remote.image = bytes;
        remote.size = (size_t)length;
        far = kit_remote_source(&remote);
        status = cog_entry_open(&far, NULL, 0, 200, &entry, NULL);
    }
    for (uint32_t i = 0; entry && i < sample->count && status == COG_OK; i++)
        status = cog_entry_read(entry, &far, NULL, i, 0, sample->parts[i].size, out, NULL);
    if (entry && status == COG_OK)
        status = cog_entry_verify(entry, &far, NULL);
    cog_entry_free(entry);
    cog_entry_writer_free(writer);
    cog_image_release(&image);
    free(bytes);
    return status;
}

static void test_every_refused_allocation_is_answered(void)
{
    for (int which = 0; which < KIT_SAMPLES; which++) {
        const struct kit_sample *sample = kit_sample((enum kit_which)which, false);
        size_t n = 0;
        enum cog_status status;
        kit_count_memory(true);
        do {
            kit_refuse_from(++n);
            status = write_and_read(sample);
            CHECK(status == COG_OK || status == COG_ERR_NOMEM);
            kit_refuse_from(0);
            cog_codec_free_spares();
            CHECK_EQ(kit_live_bytes(), 0);
        } while (status == COG_ERR_NOMEM && n < 1000);
        CHECK_EQ(status, COG_OK);
        CHECK(n > 5);
        kit_count_memory(false);
    }
}

static void test_a_small_entry_opens_with_one_allocation(void)
{
    size_t size;
    unsigned char *image = kit_build(&kit_real, kit_sample(KIT_MIXED, false), &size);
    struct cog_source source = cog_memory_source(image, size);
    struct kit_remote remote = {.image = image, .size = size};
    struct cog_source far = kit_remote_source(&remote);
    struct cog_entry *entry;

    kit_count_memory(true);
    CHECK_EQ(cog_entry_open(&source, NULL, 0, 0, &entry, NULL), COG_OK);
    CHECK_EQ(kit_allocations(), 1);
    cog_entry_free(entry);
    CHECK_EQ(cog_entry_open(&far, NULL, 0, 4096, &entry, NULL), COG_OK);
    CHECK_EQ(kit_allocations(), 2);
    /* The entry stands alone: its source may go. */
    memset(image, 0xEE, size);
    {
        const unsigned char *stored;
        size_t key_size;
        stored = cog_entry_key(entry, &key_size);
        CHECK_BYTES(stored, key_size, kit_sample(KIT_MIXED, false)->key, key_size);
    }
    cog_entry_free(entry);
    kit_count_memory(false);
    free(image);
}

int main(void)
{
    RUN(test_every_range_is_exact);
    RUN(test_one_frame_is_two_reads);
    RUN(test_a_small_entry_is_one_read_and_a_long_index_two);
    RUN(test_a_range_asks_for_the_chunks_it_needs_and_no_others);
    RUN(test_plans_over_a_thousand_chunks_are_exact);
    RUN(test_a_source_that_fails_is_not_damage);
    RUN(test_a_kept_index_does_not_read_another_write);
    RUN(test_verify_looks_at_everything);
    RUN(test_damage_is_found_where_it_is);
    RUN(test_every_refused_allocation_is_answered);
    RUN(test_a_small_entry_opens_with_one_allocation);
    cog_codec_free_spares();
    return check_done();
}
