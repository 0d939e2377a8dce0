/*
 * Kept indexes: a second hit reads no more than slots and footer, and whatever becomes of the file
 * (replaced, rewritten, cut, renamed over, refreshed, invalidated), no hit gives anything but the
 * value that is there, or a miss.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"
#include "core/kept.h"
#include "core/shelf.h"

enum { SIZE = 100000, INLINE = COG_GET_NOWAIT | COG_GET_INDEX_ONLY };
static unsigned char first[SIZE], second[SIZE];

/* --- the system, with what it was asked for noted, and with a clock that is ahead ----------- */

static const struct cog_fs *under;
static _Atomic uint64_t bytes_read;
static _Atomic bool recent; /* the clock says that every file has changed just now */
static _Atomic bool frozen; /* no file has a time stamp */

static int64_t noted_read(int fd, void *out, size_t size, uint64_t offset)
{
    int64_t n = under->pread_cached(fd, out, size, offset);
    atomic_fetch_add(&bytes_read, n > 0 ? (uint64_t)n : 0);
    return n;
}

static uint64_t clock_ahead(void)
{
    return atomic_load(&recent) ? under->realtime_ms() : under->realtime_ms() + 60000;
}

static int stat_without_times(int fd, struct cog_stat *out)
{
    int rc = under->stat(fd, out);
    if (atomic_load(&frozen)) {
        out->mtime_ns = out->ctime_ns = 0;
    }
    return rc;
}

static struct cog_store *open_noting(const struct kit *kit)
{
    static struct cog_fs fs;
    struct cog_store_options options = kit_options(kit);
    under = kit->fs;
    fs = *kit->fs;
    fs.pread_cached = noted_read;
    fs.realtime_ms = clock_ahead;
    fs.stat = stat_without_times;
    options.fs = &fs;
    atomic_store(&recent, false);
    atomic_store(&frozen, false);
    kit_fill(first, SIZE, 1, 1);
    kit_fill(second, SIZE, 1, 1000000007);
    cog_shelf_clear(COG_SHELF_INDEXES);
    return kit_open(kit, &options);
}

/* --- reading -------------------------------------------------------------------------------- */

/* One inline hit of the part of "k": its bytes into `out`; `*read` how many bytes were read. */
static enum cog_status hit(struct cog_store *store, unsigned flags, unsigned char *out,
                           enum cog_miss *miss)
{
    struct cog_object *object;
    enum cog_status status = cog_store_get(store, "k", 1, INLINE | flags, &object, miss, NULL);
    if (status == COG_OK) {
        status = cog_object_read_now(object, 0, out, NULL);
        cog_object_free(object);
    }
    return status;
}

/* What an inline hit gives, or a blocking one where that cannot tell: NULL is a miss. */
static const unsigned char *value_of(struct cog_store *store)
{
    static unsigned char out[SIZE];
    enum cog_miss miss;
    size_t size;
    enum cog_status status = hit(store, 0, out, &miss);
    if (status == COG_OK) {
        return out;
    }
    if (status == COG_ABSENT) {
        return NULL;
    }
    unsigned char *got = kit_get(store, "k", 0, &size, &miss);
    if (got != NULL) {
        CHECK_EQ(size, SIZE);
        memcpy(out, got, size);
        cog_free(got);
    }
    return got != NULL ? out : NULL;
}

/* Put `first` and hit it until its index is kept. */
static void keep_first(struct cog_store *store)
{
    CHECK_EQ(kit_put(store, "k", first, SIZE), COG_OK);
    for (unsigned i = 0; i < 2; i++) {
        const unsigned char *value = value_of(store);
        CHECK(value != NULL && memcmp(value, first, SIZE) == 0);
    }
    CHECK(cog_shelf_bytes(COG_SHELF_INDEXES) > 0);
}

static void check_second(struct cog_store *store)
{
    static unsigned char out[SIZE];
    enum cog_miss miss;
    CHECK(hit(store, 0, out, &miss) != COG_ERR_DAMAGED); /* not of the old index */
    for (unsigned i = 0; i < 3; i++) {
        const unsigned char *value = value_of(store);
        CHECK(value != NULL && memcmp(value, second, SIZE) == 0);
    }
}

static void test_a_second_hit_reads_slots_and_footer_alone(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    static unsigned char out[SIZE];
    enum cog_miss miss;
    keep_first(store);
    atomic_store(&bytes_read, 0);
    CHECK_EQ(hit(store, COG_GET_NO_MAP, out, &miss), COG_OK);
    CHECK(memcmp(out, first, SIZE) == 0);
    CHECK_EQ(atomic_load(&bytes_read), COG_ENTRY_TAIL_SIZE + SIZE);
    cog_store_close(store);
}

static void test_what_looks_for_damage_reads_all_of_it(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    static unsigned char out[SIZE];
    enum cog_miss miss;
    keep_first(store);
    atomic_store(&bytes_read, 0);
    CHECK_EQ(hit(store, COG_GET_NO_MAP | COG_GET_NO_TOUCH, out, &miss), COG_OK);
    CHECK_EQ(atomic_load(&bytes_read), (16 << 10) + SIZE);
    cog_store_close(store);
}

static void test_a_file_that_changed_just_now_is_not_kept(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    atomic_store(&recent, true);
    CHECK_EQ(kit_put(store, "k", first, SIZE), COG_OK);
    struct cog_stat fresh = {.mtime_ns = 1000 * 1000000LL, .ctime_ns = 900 * 1000000LL};
    struct cog_object *object;
    REQUIRE(cog_store_get(store, "k", 1, COG_GET_INDEX_ONLY, &object, NULL, NULL) == COG_OK);
    struct cog_entry *entry = (struct cog_entry *)(uintptr_t)cog_object_entry(object);
    for (uint64_t now = 990; now <= 1000 + COG_SETTLED_MS; now++) {
        CHECK(cog_kept_keep(&fresh, now, entry, cog_object_source(object), 0) == NULL);
    }
    CHECK_EQ(cog_shelf_bytes(COG_SHELF_INDEXES), 0);
    cog_object_free(object);
    cog_store_close(store);
}

/* --- what may become of a file --------------------------------------------------------------- */

static void test_a_replaced_value_is_never_given(struct kit *kit)
{
    struct cog_store *store = open_noting(kit), *other = kit_open(kit, NULL);
    for (unsigned i = 0; i < 3; i++) {
        keep_first(store);
        CHECK_EQ(kit_put(other, "k", second, SIZE), COG_OK);
        check_second(store);
        CHECK_EQ(kit_delete(other, "k"), COG_OK);
        CHECK(value_of(store) == NULL);
    }
    cog_store_close(other);
    cog_store_close(store);
}

static int put_second(const struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    enum cog_status status = kit_put(store, "k", second, SIZE);
    cog_store_close(store);
    return status == COG_OK ? 0 : 1;
}

static void test_another_process_replaces_it(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    keep_first(store);
    CHECK_EQ(kit_in_child(kit, false, put_second), 0);
    check_second(store);
    cog_store_close(store);
}

static unsigned char *load(const char *path, size_t *size)
{
    struct stat found;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0 && fstat(fd, &found) == 0);
    unsigned char *bytes = cog_alloc((size_t)found.st_size);
    REQUIRE(bytes != NULL && read(fd, bytes, (size_t)found.st_size) == found.st_size);
    close(fd);
    *size = (size_t)found.st_size;
    return bytes;
}

static void overwrite(const char *path, const unsigned char *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK_EQ(pwrite(fd, bytes, size, 0), (ssize_t)size);
    close(fd);
}

/* The container of `second` under the same key and of the same length. */
static unsigned char *second_container(struct cog_store *store, const char *path, size_t *size)
{
    CHECK_EQ(kit_put(store, "k", second, SIZE), COG_OK);
    return load(path, size);
}

static void overwrite_and_look(struct kit *kit, bool without_times)
{
    struct cog_store *store = open_noting(kit);
    char path[400];
    size_t size;
    kit_object(kit, "k", path);
    unsigned char *other = second_container(store, path, &size);
    atomic_store(&frozen, without_times);
    keep_first(store);
    overwrite(path, other, size); /* the same inode and length, and maybe the same times */
    check_second(store);
    cog_free(other);
    cog_store_close(store);
}

static void test_a_file_is_overwritten_in_place(struct kit *kit)
{
    overwrite_and_look(kit, false);
}

static void test_a_file_is_overwritten_in_place_and_no_time_stamp_tells(struct kit *kit)
{
    overwrite_and_look(kit, true);
}

static void test_another_file_is_renamed_over_it(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    char path[400], aside[410];
    size_t size;
    kit_object(kit, "k", path);
    (void)snprintf(aside, sizeof aside, "%s-x", path);
    unsigned char *other = second_container(store, path, &size);
    keep_first(store);
    int fd = open(aside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    close(fd);
    overwrite(aside, other, size);
    CHECK_EQ(rename(aside, path), 0);
    check_second(store);
    cog_free(other);
    cog_store_close(store);
}

/* Damage at every place that a kept index would not look at, and at some that it does. */
static void damage_and_look(struct kit *kit, bool without_times)
{
    static const int64_t places[] = {-120, -140, -20, -48, 40, SIZE / 2};
    struct cog_store *store = open_noting(kit);
    char path[400];
    kit_object(kit, "k", path);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        atomic_store(&frozen, without_times);
        keep_first(store);
        kit_flip(path, places[i], 0x11);
        const unsigned char *value = value_of(store);
        if (without_times) { /* an index that was read before the damage is still the right one */
            CHECK(value == NULL || memcmp(value, first, SIZE) == 0);
        } else {
            CHECK(value == NULL);
            CHECK(!kit_exists(path)); /* set aside */
        }
    }
    cog_store_close(store);
}

static void test_damage_after_a_hit_is_a_miss(struct kit *kit)
{
    damage_and_look(kit, false);
}

static void test_damage_that_no_time_stamp_tells_is_never_a_wrong_value(struct kit *kit)
{
    damage_and_look(kit, true);
}

static void test_a_file_is_cut_or_longer(struct kit *kit)
{
    static const int changes[] = {-1, -112, -50000, 7};
    struct cog_store *store = open_noting(kit);
    char path[400];
    struct stat found;
    kit_object(kit, "k", path);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        keep_first(store);
        REQUIRE(stat(path, &found) == 0);
        CHECK_EQ(truncate(path, found.st_size + changes[i]), 0);
        CHECK(value_of(store) == NULL);
    }
    cog_store_close(store);
}

/* --- what may become of its life ------------------------------------------------------------- */

static void test_a_kept_index_has_the_life_of_the_file(struct kit *kit)
{
    struct cog_store *store = open_noting(kit), *other = kit_open(kit, NULL);
    static unsigned char out[SIZE];
    enum cog_miss miss;
    struct kit_value value = {.data = first, .size = SIZE, .ttl_ms = 100000};
    CHECK_EQ(kit_put_value(store, "k", &value), COG_OK);
    CHECK(value_of(store) != NULL);
    atomic_store(&frozen, true); /* so that a refresh does not make us read the index anew */
    CHECK(value_of(store) != NULL);
    CHECK(value_of(store) != NULL);
    cog_store_set_clock_offset(store, 200000);
    CHECK_EQ(hit(store, 0, out, &miss), COG_ABSENT);
    CHECK_EQ(miss, COG_MISS_EXPIRED);
    CHECK_EQ(cog_store_refresh(other, "k", 1, 1000000, NULL), COG_OK);
    atomic_store(&bytes_read, 0);
    CHECK_EQ(hit(store, COG_GET_NO_MAP, out, &miss), COG_OK);
    CHECK_EQ(atomic_load(&bytes_read), COG_ENTRY_TAIL_SIZE + SIZE);
    cog_store_close(other);
    cog_store_close(store);
}

static void test_an_invalidation_is_seen_by_a_kept_index(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    static unsigned char out[SIZE];
    enum cog_miss miss;
    struct cog_tag_name tag = {"t", 1};
    struct kit_value value = {.data = first, .size = SIZE, .tag = {"t", under->realtime_us()}};
    CHECK_EQ(kit_put_value(store, "k", &value), COG_OK);
    CHECK(value_of(store) != NULL);
    CHECK(value_of(store) != NULL);
    CHECK(cog_shelf_bytes(COG_SHELF_INDEXES) > 0);
    CHECK_EQ(cog_store_invalidate_tags(store, &tag, 1, 0, NULL), COG_OK);
    CHECK_EQ(hit(store, 0, out, &miss), COG_ABSENT);
    CHECK_EQ(miss, COG_MISS_TAG);
    cog_store_close(store);
}

/* --- bounds and threads ---------------------------------------------------------------------- */

static void test_indexes_are_kept_within_their_bounds(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    struct kit_value value = {.data = first, .size = SIZE, .chunk_size = 1};
    struct cog_object *object;
    char key[8];
    for (unsigned i = 0; i < 20; i++) { /* 2.4 MB of index and more: not kept */
        (void)snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(kit_put_value(store, key, &value), COG_OK);
        for (unsigned turn = 0; turn < 2; turn++) {
            CHECK_EQ(cog_store_get(store, key, strlen(key), INLINE, &object, NULL, NULL), COG_OK);
            cog_object_free(object);
        }
        value.chunk_size = 2;
    }
    CHECK(cog_shelf_bytes(COG_SHELF_INDEXES) <= COG_KEPT_BYTES);
    CHECK(cog_shelf_bytes(COG_SHELF_INDEXES) > COG_KEPT_BYTES / 2);
    cog_shelf_clear(COG_SHELF_INDEXES);
    CHECK_EQ(cog_shelf_bytes(COG_SHELF_INDEXES), 0);
    cog_store_close(store);
}

static void *look_on(void *store)
{
    unsigned char *out = cog_alloc(SIZE);
    enum cog_miss miss;
    REQUIRE(out != NULL);
    for (unsigned i = 0; i < 300; i++) {
        if (hit(store, COG_GET_NO_MAP, out, &miss) == COG_OK) {
            CHECK(kit_is_whole(out, SIZE, 1));
        }
    }
    cog_free(out);
    return NULL;
}

static void test_threads_read_while_another_writes(struct kit *kit)
{
    struct cog_store *store = open_noting(kit);
    pthread_t threads[3];
    keep_first(store);
    for (unsigned t = 0; t < 3; t++) {
        REQUIRE(pthread_create(&threads[t], NULL, look_on, store) == 0);
    }
    for (unsigned i = 0; i < 40; i++) {
        CHECK_EQ(kit_put(store, "k", i % 2 ? first : second, SIZE), COG_OK);
        (void)value_of(store);
    }
    for (unsigned t = 0; t < 3; t++) {
        pthread_join(threads[t], NULL);
    }
    cog_store_close(store);
}

int main(void)
{
    KIT_RUN_ONCE(test_a_second_hit_reads_slots_and_footer_alone);
    KIT_RUN_ONCE(test_what_looks_for_damage_reads_all_of_it);
    KIT_RUN_ONCE(test_a_file_that_changed_just_now_is_not_kept);
    KIT_RUN_ONCE(test_a_replaced_value_is_never_given);
    KIT_RUN_ONCE(test_another_process_replaces_it);
    KIT_RUN_ONCE(test_a_file_is_overwritten_in_place);
    KIT_RUN_ONCE(test_a_file_is_overwritten_in_place_and_no_time_stamp_tells);
    KIT_RUN_ONCE(test_another_file_is_renamed_over_it);
    KIT_RUN_ONCE(test_damage_after_a_hit_is_a_miss);
    KIT_RUN_ONCE(test_damage_that_no_time_stamp_tells_is_never_a_wrong_value);
    KIT_RUN_ONCE(test_a_file_is_cut_or_longer);
    KIT_RUN_ONCE(test_a_kept_index_has_the_life_of_the_file);
    KIT_RUN_ONCE(test_an_invalidation_is_seen_by_a_kept_index);
    KIT_RUN_ONCE(test_indexes_are_kept_within_their_bounds);
    KIT_RUN_ONCE(test_threads_read_while_another_writes);
    return check_done();
}
