/* The store through its public face, on both tables of calls and in every mode. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"

/* --- values -------------------------------------------------------------------------------- */

static void test_what_is_put_is_got(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    static const size_t sizes[] = {0,      1,      4095,   4096,    65536,
                                   262000, 262144, 300000, 1 << 20, 6 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *data = cog_alloc(sizes[i]);
        kit_fill(data, sizes[i], i, 1);
        char key[16];
        snprintf(key, sizeof key, "key %zu", i);
        CHECK_EQ(kit_miss(store, key), COG_MISS_ABSENT);
        CHECK_EQ(kit_put(store, key, data, sizes[i]), COG_OK);
        CHECK(kit_has(store, key, data, sizes[i]));
        CHECK(kit_has(store, key, data, sizes[i])); /* large ones: from the verified-once table */
        cog_free(data);
    }
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_store_close(store);
    store = kit_open(kit, NULL);
    unsigned char first[4095];
    kit_fill(first, sizeof first, 2, 1);
    CHECK(kit_has(store, "key 2", first, sizeof first));
    cog_store_close(store);
}

static void test_overwrite_replaces_and_open_objects_keep_their_bytes(struct kit *kit)
{
    static unsigned char old[700000], new[500000];
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_object *object;
    unsigned char seen[1000];
    kit_fill(old, sizeof old, 7, 1);
    kit_fill(new, sizeof new, 7, 2);
    CHECK_EQ(kit_put(store, "k", old, sizeof old), COG_OK);
    REQUIRE(cog_store_get(store, "k", 1, 0, &object, NULL, NULL) == COG_OK);
    CHECK_EQ(kit_put(store, "k", new, sizeof new), COG_OK);
    CHECK(kit_has(store, "k", new, sizeof new));
    CHECK_EQ(cog_entry_read(cog_object_entry(object), cog_object_source(object), NULL, 0, 690000,
                            691000, seen, NULL),
             COG_OK);
    CHECK_BYTES(seen, sizeof seen, old + 690000, sizeof seen);
    CHECK_EQ(cog_store_delete_object(store, object, NULL), COG_ABSENT); /* not that one any more */
    CHECK(kit_has(store, "k", new, sizeof new));
    cog_store_close(store); /* the object outlives the store */
    CHECK_EQ(cog_entry_read(cog_object_entry(object), cog_object_source(object), NULL, 0, 0, 1000,
                            seen, NULL),
             COG_OK);
    cog_object_free(object);
}

static void test_an_image_handed_out_is_private_and_writable(struct kit *kit)
{
    static unsigned char data[400000];
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_object *object;
    size_t size;
    kit_fill(data, sizeof data, 1, 1);
    CHECK_EQ(kit_put(store, "k", data, sizeof data), COG_OK);
    REQUIRE(cog_store_get(store, "k", 1, 0, &object, NULL, NULL) == COG_OK);
    unsigned char *image = cog_object_image(object, &size);
    CHECK_EQ(image != NULL, !kit->no_map);
    CHECK_EQ(cog_object_is_mapped(object), !kit->no_map);
    if (image != NULL) {
        memset(image, 0, size);
        cog_store_report_damage(store, object); /* not damage of the file: it stays */
    }
    CHECK(kit_has(store, "k", data, sizeof data));
    CHECK_EQ(kit_count(kit, "quarantine"), 0);
    cog_object_free(object);
    cog_store_close(store);
}

/* --- delete and list ----------------------------------------------------------------------- */

static void test_delete(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct kit_value brief = {.data = "x", .size = 1, .ttl_ms = 1000};
    CHECK_EQ(kit_delete(store, "k"), COG_ABSENT);
    CHECK_EQ(kit_put(store, "k", "one", 3), COG_OK);
    CHECK_EQ(kit_delete(store, "k"), COG_OK);
    CHECK_EQ(kit_delete(store, "k"), COG_ABSENT);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_ABSENT);
    CHECK_EQ(kit_put_value(store, "brief", &brief), COG_OK);
    cog_store_set_clock_offset(store, 2000);
    CHECK_EQ(kit_delete(store, "brief"), COG_ABSENT); /* expired is absent, but its file goes */
    char path[400];
    kit_object(kit, "brief", path);
    CHECK(!kit_exists(path));
    cog_store_close(store);
}

static void test_delete_of_a_generation_spares_the_next_one(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_object *object;
    for (unsigned round = 0; round < 20; round++) { /* inode numbers are reused at once */
        CHECK_EQ(kit_put(store, "k", "old", 3), COG_OK);
        REQUIRE(cog_store_get(store, "k", 1, 0, &object, NULL, NULL) == COG_OK);
        if (round % 2 == 0) {
            CHECK_EQ(kit_delete(store, "k"), COG_OK);
        }
        CHECK_EQ(kit_put(store, "k", "new", 3), COG_OK);
        CHECK_EQ(cog_store_delete_object(store, object, NULL), COG_ABSENT);
        CHECK(kit_has(store, "k", "new", 3));
        cog_object_free(object);
    }
    cog_store_close(store);
}

static void test_listing_names_what_is_there(struct kit *kit)
{
    enum { COUNT = 100 };
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_listed *listed;
    size_t count, total = 0, of_seven = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        struct kit_value value = {.data = key, .size = 4, .source = i % 2 ? 7 : 8};
        CHECK_EQ(kit_put_value(store, key, &value), COG_OK);
    }
    for (unsigned shard = 0; shard < 256; shard++) {
        CHECK_EQ(cog_store_list_shard(store, shard, 0, &listed, &count, NULL), COG_OK);
        for (size_t i = 0; i < count; i++) {
            struct cog_object *object;
            CHECK_EQ(listed[i].digest.bytes[0], shard);
            CHECK(listed[i].disk_bytes >= 4096 && listed[i].mtime_ms > 0);
            CHECK(listed[i].used_ms > 0); /* the put counts as a use */
            REQUIRE(cog_store_get_digest(store, &listed[i].digest, COG_GET_INDEX_ONLY, &object,
                                         NULL, NULL) == COG_OK);
            size_t key_size;
            CHECK(cog_entry_key(cog_object_entry(object), &key_size) != NULL && key_size <= 2);
            cog_object_free(object);
        }
        total += count;
        cog_free(listed);
        CHECK_EQ(cog_store_list_shard(store, shard, 7, &listed, &count, NULL), COG_OK);
        of_seven += count;
        cog_free(listed);
    }
    CHECK_EQ(total, COUNT);
    CHECK_EQ(of_seven, kit->table_less ? COUNT : COUNT / 2); /* without rows nothing is left out */
    CHECK_EQ(cog_store_list_shard(store, 256, 0, &listed, &count, NULL), COG_ERR_INVALID);
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.entries, COUNT);
    CHECK_EQ(stats.table_less, kit->table_less);
    cog_store_close(store);
}

/* --- lives --------------------------------------------------------------------------------- */

static void test_expiry_follows_the_clock(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct kit_value week = {.data = "w", .size = 1, .ttl_ms = UINT64_C(604800000)};
    struct cog_object *object;
    enum cog_miss miss;
    CHECK_EQ(kit_put_value(store, "week", &week), COG_OK);
    CHECK_EQ(kit_put(store, "ever", "e", 1), COG_OK);
    cog_store_set_clock_offset(store, INT64_C(604799) * 1000);
    CHECK(kit_has(store, "week", "w", 1));
    cog_store_set_clock_offset(store, INT64_C(604801) * 1000);
    CHECK_EQ(kit_miss(store, "week"), COG_MISS_EXPIRED);
    CHECK(kit_has(store, "ever", "e", 1));
    CHECK_EQ(cog_store_get(store, "week", 4, COG_GET_ANY_AGE, &object, &miss, NULL), COG_OK);
    CHECK_EQ(cog_object_miss(object), COG_MISS_EXPIRED);
    CHECK_EQ(cog_object_freshness(object)->ttl_ms, 604800000);
    cog_object_free(object);
    /* touch and copies of the file change no life */
    char path[400];
    kit_object(kit, "week", path);
    CHECK_EQ(utimensat(-100, path, NULL, 0), 0);
    CHECK_EQ(kit_miss(store, "week"), COG_MISS_EXPIRED);
    cog_store_set_clock_offset(store, -INT64_C(3600000)); /* a clock set back makes it no longer */
    CHECK(kit_has(store, "week", "w", 1));
    cog_store_close(store);
}

static void test_fifty_refreshes_change_no_byte_and_keep_the_original_ttl(struct kit *kit)
{
    enum { SIZE = 300000, TTL = 60000 };
    static unsigned char data[SIZE];
    struct cog_store *store = kit_open(kit, NULL);
    struct kit_value value = {.data = data, .size = SIZE, .ttl_ms = TTL};
    kit_fill(data, SIZE, 3, 1);
    CHECK_EQ(kit_put_value(store, "k", &value), COG_OK);
    int64_t offset = 0;
    for (unsigned i = 0; i < 50; i++) {
        offset += 50000;
        cog_store_set_clock_offset(store, offset);
        CHECK_EQ(cog_store_refresh(store, "k", 1, TTL, NULL), COG_OK);
        CHECK(kit_has(store, "k", data, SIZE));
    }
    cog_store_set_clock_offset(store, offset + TTL - 2000);
    CHECK(kit_has(store, "k", data, SIZE));
    CHECK_EQ(cog_store_refresh(store, "k", 1, 1000, NULL), COG_ERR_INVALID); /* never shortens */
    cog_store_set_clock_offset(store, offset + TTL + 2000);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_EXPIRED);
    CHECK_EQ(cog_store_refresh(store, "k", 1, TTL, NULL), COG_ABSENT); /* the dead stay dead */
    CHECK_EQ(cog_store_refresh(store, "none", 4, TTL, NULL), COG_ABSENT);
    cog_store_close(store);
}

static void test_a_refreshed_entry_survives_the_sweep(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct kit_value brief = {.data = "x", .size = 1, .ttl_ms = 1000};
    uint64_t removed = 9;
    CHECK_EQ(kit_put_value(store, "goes", &brief), COG_OK);
    CHECK_EQ(kit_put_value(store, "stays", &brief), COG_OK);
    CHECK_EQ(kit_put(store, "ever", "e", 1), COG_OK);
    CHECK_EQ(cog_store_refresh(store, "stays", 5, UINT64_C(1) << 40, NULL), COG_OK);
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    CHECK_EQ(removed, 0);
    cog_store_set_clock_offset(store, 5000);
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    CHECK_EQ(removed, 1);
    CHECK_EQ(kit_miss(store, "goes"), COG_MISS_ABSENT);
    CHECK(kit_has(store, "stays", "x", 1));
    CHECK(kit_has(store, "ever", "e", 1));
    cog_store_close(store);
}

/* --- room taken ahead ---------------------------------------------------------------------- */

/* A file system that keeps a megabyte behind the end of a new file until it is cut to its size. */
static bool keeps_room;

static int generous_stat(int fd, struct cog_stat *out)
{
    int rc = cog_fs_posix()->stat(fd, out);
    if (rc == 0 && S_ISREG(out->mode) && keeps_room) {
        out->blocks_bytes += 1 << 20;
    }
    return rc;
}

static int cutting_truncate(int fd, uint64_t size)
{
    keeps_room = false;
    return cog_fs_posix()->truncate(fd, size);
}

static void test_room_taken_ahead_of_a_growing_file_is_given_back(struct kit *kit)
{
    struct cog_fs generous = *cog_fs_posix();
    struct cog_store_options options = kit_options(kit);
    struct cog_store_stats stats;
    generous.stat = generous_stat;
    generous.truncate = cutting_truncate;
    options.fs = &generous;
    struct cog_store *store = kit_open(kit, &options);
    keeps_room = true;
    CHECK_EQ(kit_put(store, "k", "value", 5), COG_OK);
    CHECK(!keeps_room);
    CHECK(kit_has(store, "k", "value", 5));
    uint64_t removed;
    cog_store_get_stats(store, &stats);
    uint64_t used = stats.used_bytes;
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.used_bytes, used); /* counted as what it takes */
    cog_store_close(store);
}

/* --- never blocking ------------------------------------------------------------------------ */

static void test_a_warm_hit_never_blocks_and_a_large_one_is_verified_first(struct kit *kit)
{
    static unsigned char large[2 << 20];
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_object *object = NULL;
    struct cog_store_stats stats;
    enum cog_miss miss;
    kit_fill(large, sizeof large, 1, 1);
    CHECK_EQ(kit_put(store, "small", "value", 5), COG_OK);
    CHECK_EQ(kit_put(store, "large", large, sizeof large), COG_OK);
    enum cog_status warm = kit->posix ? COG_ERR_WOULD_BLOCK : COG_OK;
    CHECK_EQ(cog_store_get(store, "small", 5, COG_GET_NOWAIT, &object, &miss, NULL), warm);
    cog_object_free(object);
    CHECK_EQ(cog_store_get(store, "large", 5, COG_GET_NOWAIT, &object, &miss, NULL),
             COG_ERR_WOULD_BLOCK);
    CHECK(object == NULL);
    CHECK(kit_has(store, "large", large, sizeof large));
    enum cog_status again = kit->posix || kit->no_map ? COG_ERR_WOULD_BLOCK : COG_OK;
    CHECK_EQ(cog_store_get(store, "large", 5, COG_GET_NOWAIT, &object, &miss, NULL), again);
    if (object != NULL) {
        CHECK(cog_object_is_verified(object, 0));
    }
    cog_object_free(object);
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.inline_hits, (warm == COG_OK) + (again == COG_OK));
    CHECK_EQ(stats.hits, stats.inline_hits + 1);
    cog_store_close(store);
}

static void test_index_only_verifies_part_by_part(struct kit *kit)
{
    static unsigned char data[300000];
    struct cog_store *store = kit_open(kit, NULL);
    kit_fill(data, sizeof data, 1, 1);
    static const size_t sizes[] = {100, 300000};
    for (unsigned i = 0; i < 2; i++) {
        struct cog_object *object;
        CHECK_EQ(kit_put(store, "k", data, sizes[i]), COG_OK);
        REQUIRE(cog_store_get(store, "k", 1, COG_GET_INDEX_ONLY, &object, NULL, NULL) == COG_OK);
        CHECK(!cog_object_is_verified(object, 0));
        CHECK_EQ(cog_object_verify_part(object, 0, NULL), COG_OK);
        CHECK_EQ(cog_object_is_verified(object, 0), cog_object_image(object, &(size_t){0}) != NULL);
        CHECK(cog_object_verify_part(object, 1, NULL) != COG_OK);
        cog_object_free(object);
    }
    cog_store_close(store);
}

/* --- streams ------------------------------------------------------------------------------- */

static enum cog_status stream_value(struct cog_store *store, const char *key,
                                    const unsigned char *data, size_t size, bool commit)
{
    struct cog_incoming *stream;
    struct cog_entry_writer *writer = NULL;
    uint32_t number;
    uint64_t length;
    enum cog_status status = cog_store_incoming(store, key, strlen(key), COG_LENGTH_UNKNOWN,
                                                &stream, NULL);
    if (status != COG_OK) {
        return status;
    }
    status = cog_entry_writer_new(key, strlen(key), 0, cog_incoming_sink(stream), &writer, NULL);
    if (status == COG_OK) {
        status = cog_entry_part_begin(writer, COG_PART_BLOB, "0", 1, NULL, &number, NULL);
    }
    for (size_t at = 0; at < size && status == COG_OK; at += 30000) {
        size_t piece = size - at < 30000 ? size - at : 30000;
        status = cog_entry_part_write(writer, data + at, piece, false, NULL);
    }
    if (status == COG_OK) {
        status = cog_entry_part_end(writer, NULL);
    }
    if (status == COG_OK) {
        status = cog_entry_finish(writer, NULL, 0, NULL, &length, NULL);
    }
    cog_entry_writer_free(writer);
    if (status == COG_OK && commit) {
        status = cog_incoming_commit(stream, true, NULL, NULL);
    }
    cog_incoming_free(stream);
    return status;
}

static void test_stream_of_unknown_length(struct kit *kit)
{
    enum { SIZE = 9 << 20 };
    unsigned char *data = cog_alloc(SIZE);
    struct cog_store *store = kit_open(kit, NULL);
    struct stat stat_of_file;
    char path[400];
    kit_fill(data, SIZE, 5, 1);
    static const size_t sizes[] = {0, 10, 100000, SIZE};
    for (unsigned i = 0; i < 4; i++) {
        CHECK_EQ(stream_value(store, "k", data, sizes[i], true), COG_OK);
        CHECK(kit_has(store, "k", data, sizes[i]));
        kit_object(kit, "k", path);
        REQUIRE(stat(path, &stat_of_file) == 0); /* the surplus of the last step went back */
        CHECK((uint64_t)stat_of_file.st_blocks * 512 <= sizes[i] + (64 << 10));
    }
    CHECK_EQ(stream_value(store, "k", data, 20, false), COG_OK); /* aborted: nothing happened */
    CHECK(kit_has(store, "k", data, SIZE));
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_free(data);
    cog_store_close(store);
}

/* --- limits and options -------------------------------------------------------------------- */

struct making {
    const unsigned char *data;
    size_t size;
    enum cog_status answer; /* after everything was made */
    unsigned calls;
};

static enum cog_status make_entry(void *context, struct cog_sink sink, struct cog_error *err)
{
    static const unsigned char no_meta[] = {0x80};
    struct making *making = context;
    struct cog_entry_writer *writer = NULL;
    uint64_t length;
    making->calls++;
    REQUIRE(cog_entry_writer_new("made", 4, 0, sink, &writer, err) == COG_OK);
    enum cog_status status = cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, NULL, making->data,
                                                making->size, true, NULL, err);
    if (status == COG_OK) {
        status = cog_entry_finish(writer, no_meta, sizeof no_meta, NULL, &length, err);
    }
    cog_entry_writer_free(writer);
    return status == COG_OK ? making->answer : status;
}

/* Made while it is written: whole under its name, or not at all and without a trace. */
static void test_an_entry_is_made_while_it_is_written(struct kit *kit)
{
    static unsigned char large[9 << 20];
    struct cog_store *store = kit_open(kit, NULL);
    struct making making = {large, sizeof large, COG_OK, 0};
    struct cog_maker maker = {&making, make_entry, sizeof large + (64 << 10)};
    struct cog_object *object = NULL;
    enum cog_status status = COG_ERR_BUSY;
    enum cog_miss miss;
    uint64_t length = 0;
    kit_fill(large, sizeof large, 1, 1);
    for (unsigned tries = 0; status == COG_ERR_BUSY && tries < KIT_PATIENCE; tries++) {
        status = cog_store_put_made(store, "made", 4, &maker, NULL, &length, NULL);
    }
    CHECK_EQ(status, COG_OK);
    CHECK(length > sizeof large && length < maker.most);
    REQUIRE(cog_store_get(store, "made", 4, 0, &object, &miss, NULL) == COG_OK);
    CHECK_EQ(cog_entry_length(cog_object_entry(object)), length);
    unsigned char *back = malloc(sizeof large);
    REQUIRE(back != NULL);
    CHECK_EQ(cog_entry_read(cog_object_entry(object), cog_object_source(object), NULL, 0, 0,
                            sizeof large, back, NULL),
             COG_OK);
    CHECK(memcmp(back, large, sizeof large) == 0);
    free(back);
    cog_object_free(object);

    making.answer = COG_ERR_CANCELLED;
    CHECK_EQ(cog_store_put_made(store, "made", 4, &maker, NULL, &length, NULL), COG_ERR_CANCELLED);
    maker.most = sizeof large; /* less than it has */
    making.answer = COG_OK;
    CHECK_EQ(cog_store_put_made(store, "made", 4, &maker, NULL, &length, NULL), COG_ERR_LIMIT);
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    CHECK_EQ(kit_miss(store, "made"), COG_MISS_NONE); /* the older one is untouched */
    cog_store_close(store);
}

static void test_an_object_over_an_eighth_of_the_limit_is_refused(struct kit *kit)
{
    enum { SIZE = 3 << 20 };
    unsigned char *data = cog_alloc_zeroed(1, SIZE);
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 20000000;
    struct cog_store *store = kit_open(kit, &options);
    struct cog_store_stats stats;
    CHECK_EQ(kit_put(store, "k", "small", 5), COG_OK);
    kit_fill(data, SIZE, 1, 1);
    CHECK_EQ(kit_put(store, "k", data, SIZE), COG_ERR_TOO_LARGE);
    CHECK_EQ(stream_value(store, "k", data, SIZE, true), COG_ERR_TOO_LARGE);
    CHECK(kit_has(store, "k", "small", 5)); /* the old generation is untouched */
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.refused_too_large, 2);
    CHECK_EQ(stats.hard_limit, !kit->table_less);
    cog_free(data);
    cog_store_close(store);
}

static void test_options_are_checked(struct kit *kit)
{
    struct cog_store *store;
    struct cog_error err = {0};
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 16999999;
    CHECK_EQ(cog_store_open(kit->base, &options, &store, &err), COG_ERR_LIMIT);
    CHECK(strstr(err.text, "17000000") != NULL);
    CHECK(store == NULL);
    options = kit_options(kit);
    options.policy = COG_POLICY_COUNT;
    CHECK_EQ(cog_store_open(kit->base, &options, &store, &err), COG_ERR_INVALID);
    CHECK_EQ(cog_store_open("", NULL, &store, &err), COG_ERR_INVALID);
    options = kit_options(kit);
    options.access = COG_ACCESS_READ_ONLY;
    CHECK_EQ(cog_store_open(kit->base, &options, &store, &err), COG_ERR_IO); /* nothing is made */
    CHECK(!kit_exists(kit->base));
}

static void test_durability_syncs_what_it_says(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    for (int level = COG_DURABILITY_NONE; level <= COG_DURABILITY_FULL; level++) {
        options.durability = (enum cog_durability)level;
        struct cog_store *store = kit_open(kit, &options);
        CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
        CHECK(kit_has(store, "k", "v", 1));
        cog_store_close(store);
    }
}

static void test_the_root_says_what_it_is(struct kit *kit)
{
    static const char *const names[] = {"VERSION", "CACHEDIR.TAG", ".gitignore", "tags.log"};
    struct cog_store *store = kit_open(kit, NULL);
    char path[400];
    struct stat stat_of_root;
    for (unsigned i = 0; i < 4; i++) {
        kit_path(kit, names[i], path);
        CHECK(kit_exists(path));
    }
    CHECK_EQ(stat(kit->base, &stat_of_root) == 0 ? stat_of_root.st_mode & 07777 : 0, 0700);
    CHECK_EQ(stat(kit->root, &stat_of_root) == 0 ? stat_of_root.st_mode & 07777 : 0, 0700);
    kit_path(kit, "..", path);
    CHECK_EQ(kit_count(kit, ".."), 1); /* base_path receives v1 and nothing else */
    CHECK(strcmp(cog_store_root(store), kit->root) == 0);
    cog_store_close(store);
}

static void test_table_less_is_a_property_of_the_root(struct kit *kit)
{
    struct cog_store *first = kit_open(kit, NULL);
    struct cog_store_options other = kit_options(kit);
    other.table_less = !kit->table_less;
    struct cog_store *second = kit_open(kit, &other);
    struct cog_store_stats stats;
    cog_store_get_stats(second, &stats);
    CHECK_EQ(stats.table_less, kit->table_less);
    CHECK_EQ(kit_put(first, "k", "v", 1), COG_OK);
    CHECK(kit_has(second, "k", "v", 1));
    cog_store_close(first);
    cog_store_close(second);
}

static void test_a_root_removed_by_hand_is_made_again(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL), *other;
    struct cog_store_stats stats;
    char path[400];
    const char *const victims[] = {"", "objects", "tmp", "index", "."};
    for (unsigned i = 0; i < 5; i++) {
        CHECK_EQ(kit_put(store, "k", "before", 6), COG_OK);
        if (i == 4) {
            snprintf(path, sizeof path, "%s", kit->base);
        } else {
            kit_path(kit, victims[i], path);
        }
        kit_remove_tree(path);
        (void)kit_miss(store, "k");
        CHECK_EQ(kit_put(store, "k", "after", 5), COG_OK);
        CHECK(kit_has(store, "k", "after", 5));
        other = kit_open(kit, NULL); /* and a newcomer finds the same */
        CHECK(kit_has(other, "k", "after", 5));
        CHECK_EQ(kit_put(other, "k", "other", 5), COG_OK);
        CHECK(kit_has(store, "k", "other", 5));
        cog_store_close(other);
    }
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.entries, 1);
    kit_path(kit, "CACHEDIR.TAG", path);
    CHECK(kit_exists(path));
    cog_store_close(store);
}

static int no_room(int fd, uint64_t offset, uint64_t size)
{
    (void)fd, (void)offset, (void)size;
    return -ENOSPC;
}

/* After a restart of the machine the index has to be made anew: a full disk must not keep anybody
 * from the entries that are there. */
static void test_a_disk_too_full_for_an_index_still_gives_hits(struct kit *kit)
{
    char path[400];
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(kit_put(store, "k", "value", 5), COG_OK);
    cog_store_close(store);
    kit_path(kit, "index", path);
    REQUIRE(unlink(path) == 0);
    struct cog_fs full = *kit->fs;
    full.fallocate = no_room;
    kit->fs = &full;
    store = kit_open(kit, NULL);
    CHECK(kit_has(store, "k", "value", 5));
    CHECK_EQ(kit_put(store, "other", "value", 5), COG_ERR_FULL);
    CHECK(kit_has(store, "k", "value", 5));
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    full.fallocate = cog_fs_system()->fallocate; /* somebody made room */
    CHECK_EQ(kit_put(store, "other", "value", 5), COG_OK);
    CHECK(kit_has(store, "other", "value", 5));
    cog_store_close(store);
}

int main(void)
{
    KIT_RUN(test_what_is_put_is_got);
    KIT_RUN(test_overwrite_replaces_and_open_objects_keep_their_bytes);
    KIT_RUN(test_an_image_handed_out_is_private_and_writable);
    KIT_RUN(test_delete);
    KIT_RUN(test_delete_of_a_generation_spares_the_next_one);
    KIT_RUN(test_listing_names_what_is_there);
    KIT_RUN(test_expiry_follows_the_clock);
    KIT_RUN(test_fifty_refreshes_change_no_byte_and_keep_the_original_ttl);
    KIT_RUN(test_a_refreshed_entry_survives_the_sweep);
    KIT_RUN_ONCE(test_room_taken_ahead_of_a_growing_file_is_given_back);
    KIT_RUN(test_a_warm_hit_never_blocks_and_a_large_one_is_verified_first);
    KIT_RUN(test_index_only_verifies_part_by_part);
    KIT_RUN(test_stream_of_unknown_length);
    KIT_RUN(test_an_entry_is_made_while_it_is_written);
    KIT_RUN(test_an_object_over_an_eighth_of_the_limit_is_refused);
    KIT_RUN(test_options_are_checked);
    KIT_RUN(test_durability_syncs_what_it_says);
    KIT_RUN(test_the_root_says_what_it_is);
    KIT_RUN(test_a_root_removed_by_hand_is_made_again);
    KIT_RUN_INDEXED(test_a_disk_too_full_for_an_index_still_gives_hits);
    KIT_RUN(test_table_less_is_a_property_of_the_root);
    return check_done();
}
