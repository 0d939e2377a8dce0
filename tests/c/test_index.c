/* The index file on real directories: accounting, healing, sharing, and that losing it costs
 * nothing but a count. */
#define _GNU_SOURCE 1

#include "index_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define CHECK_AUDIT(root, index)                      \
    do {                                              \
        const char *wrong_ = root_audit(root, index); \
        if (!CHECK(wrong_ == NULL)) {                 \
            fprintf(stderr, "    %s\n", wrong_);      \
        }                                             \
    } while (0)

static uint64_t boot_offset_ns; /* a clock that tests may move */

static uint64_t shifted_boottime(void)
{
    return cog_fs_system()->boottime_ns() + boot_offset_ns;
}

static _Atomic uint64_t paused_us; /* by waits that take no time here */

static void pause_at_once(uint32_t microseconds)
{
    atomic_fetch_add(&paused_us, microseconds);
}

static uint64_t wall_ms;

static uint64_t given_now_ms(void *context)
{
    (void)context;
    return wall_ms;
}

/* --- accounting --- */

static void test_what_is_published_is_counted_to_the_block(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_AUDIT(root, index);
    for (uint64_t key = 0; key < 600; key++) {
        CHECK_EQ(entry_put(index, key, 100 + 37 * key), COG_OK);
    }
    CHECK_AUDIT(root, index);
    for (uint64_t key = 0; key < 600; key += 2) {
        CHECK_EQ(entry_put(index, key, 40000 - 31 * key), COG_OK); /* overwritten by another size */
    }
    for (uint64_t key = 1; key < 600; key += 3) {
        CHECK_EQ(entry_delete(index, key), COG_OK);
        CHECK_EQ(entry_delete(index, key), COG_ABSENT);
        CHECK(!entry_exists(root, key));
    }
    CHECK_EQ(entry_stream(index, 9999, 1 << 20, 7), COG_OK);
    CHECK_AUDIT(root, index);
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.entries, 401);
    CHECK_EQ(stats.mapped, !root->no_map);
    cog_index_close(index);
}

static void test_a_table_grows_with_its_shard_and_shrinks_in_the_sweep(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    enum { ROWS = 260 };
    uint64_t keys[ROWS];
    for (unsigned n = 0, key = 0; n < ROWS; key++) {
        struct cog_digest digest;
        key_digest(key, &digest);
        if (digest.bytes[0] == 0xa5) {
            keys[n++] = key;
        }
    }
    for (unsigned n = 0; n < ROWS; n++) {
        CHECK_EQ(entry_put(index, keys[n], 64), COG_OK);
    }
    struct cog_index_file *file = cog_index_enter(index);
    CHECK_EQ(cog_table_capacity(file, 0xa5), 512);
    cog_index_leave(index);
    CHECK_AUDIT(root, index);
    for (unsigned n = 10; n < ROWS; n++) {
        CHECK_EQ(entry_delete(index, keys[n]), COG_OK);
    }
    CHECK_EQ(cog_index_sweep_shard(index, 0xa5, false, NULL, NULL), COG_OK);
    CHECK_EQ(cog_table_capacity(file, 0xa5), 64);
    CHECK_AUDIT(root, index);
    for (unsigned n = 0; n < 10; n++) {
        CHECK_EQ(entry_delete(index, keys[n]), COG_OK); /* all rows came along */
    }
    cog_index_close(index);
}

static void test_a_put_over_the_limit_evicts_and_never_passes_it(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(17) << 20;
    struct cog_index *index = root_open(root, &options);
    struct cog_index_stats stats;
    for (uint64_t key = 0; key < 150; key++) {
        CHECK_EQ(entry_put(index, key, 300000), COG_OK);
        struct truth truth;
        root_truth(root, &truth, false);
        CHECK(truth.all <= options.limit);
    }
    cog_index_get_stats(index, &stats);
    CHECK(stats.evicted_policy > 80);
    CHECK(stats.entries > 30);
    CHECK_AUDIT(root, index);
    struct cog_reservation reservation = {0};
    struct cog_error err;
    CHECK_EQ(cog_index_reserve(index, UINT64_C(18) << 20, &reservation, &err), COG_ERR_TOO_LARGE);
    CHECK_EQ(cog_index_reserve(index, UINT64_C(16) << 20, &reservation, &err), COG_ERR_TOO_LARGE);
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 0);
    cog_index_close(index);
}

static void test_writes_in_flight_do_not_empty_the_cache(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(20) << 20;
    struct cog_index *index = root_open(root, &options);
    for (uint64_t key = 0; key < 60; key++) {
        CHECK_EQ(entry_put(index, key, 200000), COG_OK);
    }
    struct cog_reservation flights[8] = {{0}};
    unsigned granted = 0;
    enum cog_status last = COG_OK;
    while (granted < 8 && last == COG_OK) {
        last = cog_index_reserve(index, 2 << 20, &flights[granted], NULL);
        granted += last == COG_OK;
    }
    CHECK_EQ(last, COG_ERR_BUSY);
    CHECK(granted >= 2);
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK(stats.entries > 20);
    for (unsigned i = 0; i < granted; i++) {
        cog_index_release(&flights[i]);
        cog_index_release(&flights[i]); /* twice is once */
    }
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_the_number_of_files_and_the_free_floor_bound_too(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.max_files = 50;
    struct cog_index *index = root_open(root, &options);
    struct cog_index_stats stats;
    for (uint64_t key = 0; key < 80; key++) {
        CHECK_EQ(entry_put(index, key, 1000), COG_OK);
    }
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.entries, 50);
    CHECK_EQ(cog_index_set_limits(index, options.limit, 0, UINT64_C(1) << 60, 0, NULL), COG_OK);
    CHECK_EQ(entry_put(index, 100, 1000), COG_ERR_FULL); /* no disk has that much */
    CHECK_EQ(cog_index_set_limits(index, 0, 0, 0, 0, NULL), COG_OK);
    CHECK_EQ(entry_put(index, 100, 1000), COG_OK); /* no bound at all */
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_a_lowered_limit_is_met_as_puts_come(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    for (uint64_t key = 0; key < 100; key++) {
        CHECK_EQ(entry_put(index, key, 400000), COG_OK);
    }
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(18) << 20;
    struct cog_index *lower = root_open(root, &options);
    struct truth truth;
    for (uint64_t key = 200; key < 203; key++) {
        /* through the other handle: the bound is everybody's */
        CHECK_EQ(entry_put(index, key, 100), COG_OK);
    }
    root_truth(root, &truth, false);
    CHECK(truth.all <= options.limit);
    CHECK_AUDIT(root, lower);
    cog_index_close(lower);
    cog_index_close(index);
}

static void test_a_limit_beyond_the_tables_makes_another_index(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(20) << 20;
    struct cog_index *small = root_open(root, &options);
    for (uint64_t key = 0; key < 20; key++) {
        CHECK_EQ(entry_put(small, key, 10000), COG_OK);
    }
    CHECK_EQ(cog_index_set_limits(small, UINT64_C(40) << 30, 0, 0, 0, NULL), COG_OK);
    CHECK_EQ(entry_put(small, 20, 10000), COG_OK);
    struct cog_index_file *file = cog_index_enter(small);
    CHECK(file && file->most_slots >= 32768);
    cog_index_leave(small);
    CHECK_AUDIT(root, small);
    struct cog_index_stats stats;
    cog_index_get_stats(small, &stats);
    CHECK_EQ(stats.entries, 21);
    cog_index_close(small);
}

/* --- policies --- */

static void test_lru_is_exact_with_few_residents_and_every_use_recorded(struct root *root)
{
    struct cog_fs fs = *root->fs;
    fs.boottime_ns = shifted_boottime;
    struct cog_index_options options = root_options(root);
    options.fs = &fs;
    options.limit = UINT64_C(17) << 20;
    struct cog_index *index = root_open(root, &options);
    enum { KEYS = 90, SIZE = 300000 };
    const char *torture = getenv("COGCACHE_TORTURE");
    /* in four modes */
    const uint64_t operations = torture != NULL && strcmp(torture, "0") != 0 ? 25000 : 700;
    uint64_t used[KEYS] = {0}; /* 0 = not resident */
    uint32_t seed = 1;
    unsigned evicted = 0, wrong = 0;
    for (uint64_t i = 1; i <= operations; i++) {
        seed = seed * 1664525 + 1013904223;
        uint64_t key = (seed >> 16) % KEYS;
        boot_offset_ns += 2000; /* a use every two microseconds can be told apart */
        if (used[key] && seed >> 31) {
            struct cog_digest digest;
            key_digest(key, &digest);
            cog_index_touch(index, &digest);
            used[key] = i;
            continue;
        }
        CHECK_EQ(entry_put(index, key, SIZE), COG_OK);
        used[key] = i;
        for (;;) { /* what left must have been the oldest of the model, each time */
            unsigned gone = KEYS, oldest = KEYS;
            for (unsigned k = 0; k < KEYS; k++) {
                if (used[k] && k != key && (oldest == KEYS || used[k] < used[oldest])) {
                    oldest = k;
                }
                if (used[k] && k != key && !entry_exists(root, k)) {
                    gone = gone == KEYS || used[k] < used[gone] ? k : gone;
                }
            }
            if (gone == KEYS) {
                break;
            }
            wrong += gone != oldest;
            used[gone] = 0;
            evicted++;
        }
    }
    CHECK(evicted > 100);
    CHECK_EQ(wrong, 0);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_expired_entries_go_first_and_the_file_decides(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.hooks.now_ms = given_now_ms;
    wall_ms = 1000000;
    struct cog_index *index = root_open(root, &options);
    for (uint64_t key = 0; key < 40; key++) {
        struct cog_index_record record = {.expires = key == 30 ? 2000 : 0};
        CHECK_EQ(entry_put_as(index, key, 5000, &record), COG_OK);
    }
    struct cog_victim victim;
    struct cog_digest digest;
    CHECK_EQ(cog_index_sample(index, &victim), COG_OK);
    CHECK(!victim.expired);
    wall_ms = 2000000;
    CHECK_EQ(cog_index_sample(index, &victim), COG_OK);
    key_digest(30, &digest);
    CHECK(victim.expired && memcmp(&victim.digest, &digest, sizeof digest) == 0);
    uint64_t freed, removed = 0;
    CHECK_EQ(cog_index_evict_one(index, &freed, NULL), COG_OK);
    CHECK(!entry_exists(root, 30) && freed >= 5000);
    struct cog_index_record short_lived = {.expires = 2500};
    for (uint64_t key = 0; key < 10; key++) {
        CHECK_EQ(entry_put_as(index, key, 100, &short_lived), COG_OK);
    }
    wall_ms = 3000000;
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        CHECK_EQ(cog_index_sweep_shard(index, s, false, &removed, NULL), COG_OK);
    }
    CHECK_EQ(removed, 10);
    CHECK(!entry_exists(root, 3) && entry_exists(root, 20));
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static bool never_expired(void *context, const char *path, const struct cog_stat *stat,
                          uint32_t *expires)
{
    (void)path;
    (void)stat;
    ++*(unsigned *)context;
    *expires = 9999;
    return false;
}

static void test_a_refreshed_file_outlives_what_its_row_says(struct root *root)
{
    unsigned asked = 0;
    struct cog_index_options options = root_options(root);
    options.hooks = (struct cog_index_hooks){.context = &asked,
                                             .now_ms = given_now_ms,
                                             .is_expired = never_expired};
    wall_ms = 3000000;
    struct cog_index *index = root_open(root, &options);
    struct cog_index_record record = {.expires = 2000};
    struct cog_digest digest;
    struct cog_row row;
    uint64_t removed = 0;
    CHECK_EQ(entry_put_as(index, 1, 100, &record), COG_OK);
    key_digest(1, &digest);
    CHECK_EQ(cog_index_sweep_shard(index, digest.bytes[0], false, &removed, NULL), COG_OK);
    CHECK_EQ(removed, 0);
    CHECK_EQ(asked, 1);
    CHECK_EQ(cog_index_peek(index, &digest, &row, NULL), COG_OK);
    CHECK_EQ(row.expires, 9999);
    CHECK(entry_exists(root, 1));
    cog_index_close(index);
}

/* --- generations --- */

static void test_a_victim_replaced_meanwhile_is_left_alone(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    struct cog_victim victim;
    CHECK_EQ(entry_put(index, 1, 5000), COG_OK);
    CHECK_EQ(cog_index_sample(index, &victim), COG_OK);
    CHECK_EQ(entry_delete(index, 1), COG_OK);
    CHECK_EQ(entry_put(index, 1, 5000), COG_OK); /* often of the same inode number */
    CHECK_EQ(cog_index_remove_victim(index, &victim, NULL), COG_ABSENT);
    CHECK(entry_exists(root, 1));
    CHECK_EQ(cog_index_sample(index, &victim), COG_OK);
    CHECK_EQ(cog_index_remove_victim(index, &victim, NULL), COG_OK);
    CHECK(!entry_exists(root, 1));
    CHECK_EQ(cog_index_sample(index, &victim), COG_ABSENT);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_files_put_or_taken_by_hand_are_noticed(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    struct cog_digest digest;
    char path[COG_OBJECT_PATH_SIZE];
    for (uint64_t key = 0; key < 30; key++) {
        CHECK_EQ(entry_put(index, key, 9000), COG_OK);
    }
    key_digest(3, &digest);
    cog_object_path(&digest, path);
    REQUIRE(unlinkat(root->fd, path, 0) == 0);
    CHECK_EQ(entry_delete(index, 3), COG_ABSENT); /* rebuilds, and says what is true */
    key_digest(4, &digest);
    cog_object_path(&digest, path);
    REQUIRE(unlinkat(root->fd, path, 0) == 0);
    CHECK_EQ(entry_put(index, 4, 100), COG_OK);
    key_digest(1000, &digest);
    cog_object_path(&digest, path);
    char directory[COG_OBJECT_PATH_SIZE];
    cog_shard_path(digest.bytes[0], directory);
    (void)mkdirat(root->fd, directory, 0700);
    int fd = openat(root->fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && write(fd, "copied by hand", 14) == 14);
    close(fd);
    CHECK_EQ(entry_put(index, 1000, 700), COG_OK); /* EEXIST: nobody recorded it */
    CHECK_AUDIT(root, index);
    key_digest(5, &digest);
    cog_object_path(&digest, path);
    REQUIRE(unlinkat(root->fd, path, 0) == 0);
    CHECK_EQ(cog_index_sweep_shard(index, digest.bytes[0], false, NULL, NULL), COG_OK);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_strangers_in_objects_are_charged_and_never_touched(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, key_in_shard(0x11, 0), 5000), COG_OK);
    uint64_t key = key_in_shard(0x11, 1);
    struct cog_digest digest;
    char path[COG_OBJECT_PATH_SIZE];
    key_digest(key, &digest);
    cog_object_path(&digest, path);
    REQUIRE(symlinkat("/etc/passwd", root->fd, path) == 0);
    REQUIRE(mkfifoat(root->fd, "objects/11/0123", 0600) == 0);
    REQUIRE(mkdirat(root->fd, "objects/11/d", 0700) == 0);
    CHECK_EQ(cog_index_sweep_shard(index, 0x11, true, NULL, NULL), COG_OK);
    CHECK(entry_put(index, key, 100) < 0);
    CHECK(entry_delete(index, key) < 0);
    struct stat stat;
    CHECK(fstatat(root->fd, path, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(stat.st_mode));
    uint64_t freed;
    CHECK_EQ(cog_index_evict_one(index, &freed, NULL), COG_OK);
    CHECK_EQ(cog_index_evict_one(index, &freed, NULL), COG_ABSENT);
    CHECK(faccessat(root->fd, "objects/11/0123", F_OK, AT_SYMLINK_NOFOLLOW) == 0);
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK(stats.strangers >= 3);
    cog_index_close(index);
}

/* --- losing the index --- */

static void test_a_deleted_index_comes_back_with_all_entries(struct root *root)
{
    struct cog_index *index = root_open(root, NULL), *other = root_open(root, NULL);
    for (uint64_t round = 0; round < 10; round++) {
        for (uint64_t key = 0; key < 20; key++) {
            CHECK_EQ(entry_put(key % 2 ? index : other, round * 20 + key, 3000), COG_OK);
        }
        REQUIRE(unlinkat(root->fd, "index", 0) == 0);
        struct cog_digest digest;
        key_digest(round, &digest);
        cog_index_touch(index, &digest);
        CHECK(!cog_index_is_absent(other, &digest));
    }
    CHECK_AUDIT(root, index);
    CHECK_AUDIT(root, other);
    struct cog_index_stats stats;
    cog_index_get_stats(other, &stats);
    CHECK_EQ(stats.entries, 200);
    CHECK(stats.reopens >= 5);
    cog_index_close(index);
    cog_index_close(other);
}

static void test_a_stranger_in_place_of_the_index_is_replaced(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 1, 3000), COG_OK);
    cog_index_close(index);
    REQUIRE(unlinkat(root->fd, "index", 0) == 0);
    REQUIRE(symlinkat("/etc/passwd", root->fd, "index") == 0);
    index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 2, 3000), COG_OK);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
    REQUIRE(unlinkat(root->fd, "index", 0) == 0);
    REQUIRE(mkfifoat(root->fd, "index", 0600) == 0);
    index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 3, 3000), COG_OK);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
    REQUIRE(unlinkat(root->fd, "index", 0) == 0);
    REQUIRE(mkdirat(root->fd, "index", 0700) == 0);
    struct cog_index_options options = root_options(root);
    CHECK_EQ(cog_index_open(&options, &index, NULL), COG_ERR_IO); /* refused with an answer */
    REQUIRE(unlinkat(root->fd, "index", AT_REMOVEDIR) == 0);
}

static void test_an_index_cut_short_is_replaced_at_open(struct root *root)
{
    const off_t sizes[] = {0, 1, 100, 4096, 16384, 50000, 1 << 20};
    struct cog_index *index;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        index = root_open(root, NULL);
        CHECK_EQ(entry_put(index, i, 3000), COG_OK);
        cog_index_close(index);
        int fd = openat(root->fd, "index", O_RDWR | O_CLOEXEC);
        REQUIRE(fd >= 0 && ftruncate(fd, sizes[i]) == 0);
        close(fd);
    }
    index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 50, 3000), COG_OK);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void flip_bits(const struct root *root, size_t from, size_t to, unsigned count,
                      uint32_t *seed)
{
    int fd = openat(root->fd, "index", O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    for (unsigned i = 0; i < count; i++) {
        unsigned char byte;
        *seed = *seed * 1664525 + 1013904223;
        off_t at = (off_t)(from + (*seed >> 8) % (to - from));
        if (pread(fd, &byte, 1, at) == 1) {
            byte ^= (unsigned char)(1 << (*seed & 7));
            REQUIRE(pwrite(fd, &byte, 1, at) == 1);
        }
    }
    close(fd);
}

/*
 * Garbage costs accounting for a moment and never an entry, an error or a crash. Bits of the row's
 * content (costs, times) may be wrong and stay; what counts bytes and entries must be exact again
 * once every shard was looked at.
 */
static void test_bits_flipped_in_use_are_healed(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    uint32_t seed = 7;
    const size_t shards = COG_INDEX_SHARDS_AT, slots = COG_INDEX_SLOTS_AT;
    for (uint64_t key = 0; key < 400; key++) {
        CHECK_EQ(entry_put(index, key, 2000), COG_OK);
    }
    for (unsigned round = 0; round < 20; round++) {
        struct cog_index_file *file = cog_index_enter(index);
        size_t region = cog_region_at(file, seed % COG_SHARDS);
        cog_index_leave(index);
        flip_bits(root, shards, slots, 20, &seed);
        flip_bits(root, region, region + 4700, 40, &seed);
        for (uint64_t key = 0; key < 400; key += 1 + seed % 50) {
            struct cog_digest digest;
            struct cog_row row;
            key_digest(key, &digest);
            cog_index_touch(index, &digest);
            (void)cog_index_peek(index, &digest, &row, NULL);
            enum cog_status status = entry_put(index, key, 2000 + round);
            /* totals say that nothing fits: a sweep tells better */
            if (status == COG_ERR_BUSY || status == COG_ERR_FULL) {
                for (unsigned s = 0; s < COG_SHARDS; s++) {
                    CHECK_EQ(cog_index_sweep_shard(index, s, true, NULL, NULL), COG_OK);
                }
                status = entry_put(index, key, 2000 + round);
            }
            CHECK_EQ(status, COG_OK);
        }
        struct cog_victim victim;
        (void)cog_index_sample(index, &victim);
    }
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        CHECK_EQ(cog_index_sweep_shard(index, s, true, NULL, NULL), COG_OK);
    }
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

/* Each bit of each word that a reservation goes by: no put is refused, nothing is evicted for it.
 */
static void test_no_flipped_bit_makes_a_put_evict_or_fail(struct root *root)
{
    struct cog_fs fs = *root->fs;
    struct cog_index_options options = root_options(root);
    fs.sleep_us = pause_at_once; /* nobody is there to be waited for */
    options.fs = &fs;
    struct cog_index *index = root_open(root, &options);
    struct cog_index_stats before, after;
    for (uint64_t key = 0; key < 100; key++) {
        CHECK_EQ(entry_put(index, key, 2000), COG_OK);
    }
    struct cog_index_file *file = cog_index_enter(index);
    cog_word32_raise(file, COG_AT_HEAD(slots_high), 3, COG_WRITER_SLOTS);
    struct cog_digest digest;
    key_digest(50, &digest);
    const unsigned s = digest.bytes[0], pair = s & ~1u; /* two words of 32 bits at once */
    const size_t words[] = {
        COG_AT_HEAD(limit),           COG_AT_HEAD(fixed_bytes),
        COG_AT_HEAD(free_floor),      COG_AT_HEAD(max_files),
        COG_AT_HEAD(bounds_check),    COG_AT_HEAD(slots_high),
        COG_AT_SHARD(total, s),       COG_AT_SHARD(total, 200),
        COG_AT_SHARD(rows, pair),     COG_AT_SHARD(stamp, pair),
        COG_AT_SHARD(capacity, pair), COG_AT_SHARD(dir_charge, pair),
        COG_AT_SHARD(first, s),       COG_AT_SLOT(held, 0),
        COG_AT_SLOT(held, 2),         COG_AT_REGION(file, objects, s),
    };
    cog_index_leave(index);
    cog_index_get_stats(index, &before);
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
        for (unsigned bit = 0; bit < 64; bit++) {
            file = cog_index_enter(index);
            cog_word64_set(file, words[w], cog_word64(file, words[w]) ^ UINT64_C(1) << bit);
            cog_index_leave(index);
            CHECK_EQ(entry_put(index, w * 64 + bit, 2000), COG_OK);
        }
    }
    cog_index_get_stats(index, &after);
    CHECK_EQ(after.evicted_policy, before.evicted_policy);
    CHECK_EQ(after.limit, before.limit);
    for (uint64_t key = 0; key < 100; key++) {
        CHECK(entry_exists(root, key));
    }
    cog_index_reap(index);
    for (unsigned shard = 0; shard < COG_SHARDS; shard++) {
        CHECK_EQ(cog_index_sweep_shard(index, shard, true, NULL, NULL), COG_OK);
    }
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static _Atomic unsigned bounds_reads;

static int64_t noticing_pread(int fd, void *out, size_t size, uint64_t offset)
{
    uint64_t limit = COG_AT_HEAD(limit), check = COG_AT_HEAD(bounds_check);
    atomic_fetch_add(&bounds_reads, offset <= check && offset + size > limit);
    return cog_fs_system()->pread(fd, out, size, offset);
}

/* By pread each word is a system call: the bounds are one reading, judged as it was read. */
static void test_a_reservation_reads_the_bounds_once(struct root *root)
{
    struct cog_fs fs = *root->fs;
    struct cog_index_options options = root_options(root);
    struct cog_reservation reservation = {0};
    fs.pread = noticing_pread;
    options.fs = &fs;
    options.free_floor = 1;
    options.max_files = 1000;
    struct cog_index *index = root_open(root, &options);
    for (uint64_t key = 0; key < 300; key++) { /* counts every shard */
        CHECK_EQ(entry_put(index, key, 2000), COG_OK);
    }
    atomic_store(&bounds_reads, 0);
    CHECK_EQ(cog_index_reserve(index, 100000, &reservation, NULL), COG_OK);
    CHECK_EQ(atomic_load(&bounds_reads), root->no_map ? 1 : 0);
    cog_index_release(&reservation);
    cog_index_close(index);
}

static void test_a_garbled_row_does_not_keep_eviction_from_going_on(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    for (uint64_t key = 0; key < 60; key++) {
        CHECK_EQ(entry_put(index, key, 2000), COG_OK);
    }
    struct cog_victim victim; /* the oldest: its row loses its digest */
    CHECK_EQ(cog_index_sample(index, &victim), COG_OK);
    struct cog_index_lock lock;
    CHECK_EQ(cog_index_lock(index, victim.shard, NULL, &lock, NULL), COG_OK);
    uint32_t slot = cog_shard_find(&lock.table, &victim.digest);
    struct cog_sampled entry;
    cog_shard_get(&lock.table, slot, &entry);
    entry.row.digest[0] ^= 0xff; /* another shard's */
    entry.row.digest[1] ^= 0xf0f0f0f0f0;
    cog_shard_set(&lock.table, slot, &entry);
    cog_table_flush(&lock);
    cog_index_unlock(&lock);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t freed;
        CHECK_EQ(cog_index_evict_one(index, &freed, NULL), COG_OK);
    }
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_a_garbled_held_word_of_ours_is_put_right(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 1, 2000), COG_OK);
    struct cog_index_file *file = cog_index_enter(index);
    cog_word64_set(file, COG_AT_SLOT(held, (unsigned)atomic_load(&file->slot)), UINT64_C(1) << 60);
    cog_index_leave(index);
    CHECK_EQ(entry_put(index, 2, 2000), COG_OK);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

/* --- another boot --- */

static unsigned char boot_number;

static int numbered_boot(unsigned char out[16])
{
    memset(out, boot_number, 16);
    return 0;
}

static void test_after_a_reboot_puts_go_on_and_costs_are_kept(struct root *root)
{
    struct cog_fs fs = *root->fs;
    fs.boot_id = numbered_boot;
    struct cog_index_options options = root_options(root);
    options.fs = &fs;
    options.limit = UINT64_C(20) << 20;
    boot_number = 1;
    struct cog_index *index = root_open(root, &options);
    struct cog_index_record dear = {.cost = 123.5f, .kind = 77, .source = 99, .expires = 0};
    for (uint64_t key = 0; key < 60; key++) {
        CHECK_EQ(entry_put_as(index, key, 200000, &dear), COG_OK);
    }
    cog_index_close(index);

    boot_number = 2;
    REQUIRE(openat(root->fd, "tmp/0-left-behind", O_CREAT | O_CLOEXEC, 0600) >= 0);
    index = root_open(root, &options);
    struct cog_index_stats stats;
    struct truth truth;
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.unknown_shards, COG_SHARDS);
    CHECK(faccessat(root->fd, "index.old", F_OK, 0) == 0);
    CHECK(faccessat(root->fd, "tmp/0-left-behind", F_OK, 0) != 0);
    CHECK_EQ(entry_put(index, 100, 50000), COG_OK); /* before all is counted */
    cog_index_get_stats(index, &stats);
    CHECK(stats.unknown_shards > 0);
    for (uint64_t key = 101; key < 140; key++) {
        CHECK_EQ(entry_put(index, key, 200000), COG_OK);
        root_truth(root, &truth, false);
        CHECK(truth.all <= options.limit);
    }
    while (cog_index_warm_up(index, 32, NULL) == COG_ERR_BUSY) {
        continue;
    }
    CHECK(faccessat(root->fd, "index.old", F_OK, 0) != 0);
    CHECK_AUDIT(root, index);
    unsigned kept = 0;
    for (uint64_t key = 0; key < 60; key++) {
        struct cog_digest digest;
        struct cog_row row;
        key_digest(key, &digest);
        if (entry_exists(root, key) && cog_index_peek(index, &digest, &row, NULL) == COG_OK) {
            kept += row.cost == 123.5f && row.kind == 77 && row.source == 99;
            CHECK(row.cost == 123.5f);
        }
    }
    CHECK(kept > 10);
    cog_index_close(index);
}

static void test_without_a_bound_of_before_puts_wait_for_the_count(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(20) << 20;
    struct cog_index *index = root_open(root, &options);
    for (uint64_t key = 0; key < 70; key++) {
        CHECK_EQ(entry_put(index, key, 200000), COG_OK);
    }
    cog_index_close(index);
    REQUIRE(unlinkat(root->fd, "index", 0) == 0);
    index = root_open(root, &options);
    struct cog_index_stats stats;
    CHECK_EQ(entry_put(index, 100, 200000), COG_OK);
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.unknown_shards, 0);
    struct truth truth;
    root_truth(root, &truth, false);
    CHECK(truth.all <= options.limit);
    cog_index_close(index);
}

static void test_a_copied_root_gets_an_index_of_its_own(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 1, 2000), COG_OK);
    cog_index_close(index);
    struct root copy = *root;
    root_make(&copy, NULL);
    char command[700];
    snprintf(command, sizeof command, "cp -a %s/. %s/", root->path, copy.path);
    REQUIRE(system(command) == 0);
    index = root_open(&copy, NULL);
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.unknown_shards, COG_SHARDS); /* nothing of it was believed */
    CHECK_AUDIT(&copy, index);
    cog_index_close(index);
    root_remove(&copy);
}

/* --- sharing --- */

struct job {
    struct root *root;
    struct cog_index *index;
    uint64_t first;
    unsigned failures;
};

static int put_many_in_child(void *context)
{
    struct job *job = context;
    struct cog_index *index = job->index ? job->index : root_open(job->root, NULL);
    unsigned failures = 0;
    for (uint64_t key = job->first; key < job->first + 50; key++) {
        failures += entry_put(index, key, 3000) != COG_OK;
    }
    if (!job->index) {
        cog_index_close(index);
    }
    return (int)failures;
}

static void test_two_processes_share_one_index(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    struct job job = {.root = root, .first = 1000};
    CHECK_EQ(in_child(put_many_in_child, &job), 0);
    for (uint64_t key = 1000; key < 1050; key++) {
        struct cog_digest digest;
        struct cog_row row;
        key_digest(key, &digest);
        CHECK_EQ(cog_index_peek(index, &digest, &row, NULL), COG_OK);
        CHECK(!cog_index_is_absent(index, &digest));
    }
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.entries, 50);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void test_an_inherited_handle_works_in_the_child_and_in_the_parent(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 1, 2000), COG_OK);
    struct cog_reservation flight = {0};
    CHECK_EQ(cog_index_reserve(index, 1 << 20, &flight, NULL), COG_OK);
    struct job job = {.root = root, .index = index, .first = 500};
    CHECK_EQ(in_child(put_many_in_child, &job), 0);
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 1 << 20); /* the child has taken nothing of ours with it */
    job.first = 600;
    CHECK_EQ(put_many_in_child(&job), 0);
    cog_index_release(&flight);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static int release_in_child(void *context)
{
    struct cog_reservation *flight = context;
    if (cog_reservation_is_ours(flight)) {
        return 1;
    }
    if (cog_index_reserve(flight->index, 4096, flight, NULL) != COG_INDEX_MOVED) {
        return 2;
    }
    cog_index_release(flight);
    return flight->file ? 3 : 0;
}

static void test_a_child_gives_back_nothing_of_its_parents(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    struct cog_reservation flight = {0};
    struct cog_index_stats stats;
    CHECK_EQ(cog_index_reserve(index, 123 << 12, &flight, NULL), COG_OK);
    CHECK_EQ(in_child(release_in_child, &flight), 0);
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 123 << 12);
    cog_index_release(&flight);
    cog_index_close(index);
}

static int die_with_a_reservation(void *context)
{
    struct root *root = context;
    struct cog_index *index = root_open(root, NULL);
    struct cog_reservation flight = {0};
    char temp[COG_TEMP_PATH_SIZE];
    if (cog_index_reserve(index, 6 << 20, &flight, NULL) != COG_OK) {
        return 1;
    }
    cog_index_temp_path(&flight, temp);
    int fd = openat(root->fd, temp, O_CREAT | O_WRONLY, 0600);
    return fd >= 0 && write(fd, temp, sizeof temp) == sizeof temp ? 0 : 2;
}

static void test_what_the_dead_held_comes_back_when_it_is_needed(struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(20) << 20;
    struct cog_index *index = root_open(root, &options);
    /* ours is slot 0; the child's slot is 1 or, in its copy of us, another */
    CHECK_EQ(entry_put(index, 1, 1000), COG_OK);
    CHECK_EQ(in_child(die_with_a_reservation, root), 0);
    /* the child has set its own */
    CHECK_EQ(cog_index_set_limits(index, options.limit, 0, 0, 0, NULL), COG_OK);
    struct cog_index_stats stats;
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 6 << 20);
    for (uint64_t key = 10; key < 90; key++) {
        CHECK_EQ(entry_put(index, key, 200000), COG_OK);
    }
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 0);
    CHECK_EQ(stats.reaped, 1);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static const struct cog_fs *honest;
static bool temps_stay;

static int unlink_no_temps(int dir, const char *path)
{
    return temps_stay && strncmp(path, "tmp/", 4) == 0 ? -EIO : honest->unlink(dir, path);
}

/* Nor is it a reason to refuse puts: there are other slots. */
static void test_what_the_dead_left_stays_counted_while_it_cannot_be_unlinked(struct root *root)
{
    struct cog_fs table = *root->fs;
    struct cog_index_stats stats;
    honest = root->fs;
    CHECK_EQ(in_child(die_with_a_reservation, root), 0);
    root->fs = &table;
    table.unlink = unlink_no_temps;
    temps_stay = true;
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 1, 1000), COG_OK); /* its slot would be the dead one's */
    (void)cog_index_reap(index);
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 6 << 20);
    temps_stay = false;
    (void)cog_index_reap(index);
    cog_index_get_stats(index, &stats);
    CHECK_EQ(stats.held_bytes, 0);
    CHECK_EQ(entry_put(index, 2, 1000), COG_OK);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
    root->fs = honest;
}

static int hold_a_shard(void *context)
{
    int *pipes = context;
    struct root *root = *(struct root **)(void *)(pipes + 4);
    struct cog_index *index = root_open(root, NULL);
    struct cog_index_lock lock;
    char byte = 0;
    if (cog_index_lock(index, 0x42, NULL, &lock, NULL) != COG_OK ||
        write(pipes[1], &byte, 1) != 1) {
        return 1;
    }
    return read(pipes[2], &byte, 1) == 1 ? 0 : 2; /* until told, or killed */
}

static void test_a_shard_held_by_another_process_answers_busy_until_it_dies(struct root *root)
{
    struct cog_fs fs = *root->fs;
    struct cog_index_options options = root_options(root);
    fs.sleep_us = pause_at_once;
    options.fs = &fs;
    struct cog_index *index = root_open(root, &options);
    uint64_t key = key_in_shard(0x42, 0);
    CHECK_EQ(entry_put(index, key, 1000), COG_OK);
    union {
        struct {
            int pipes[4];
            struct root *root;
        } named;
        int ints[6];
    } context = {.named = {.root = root}};
    REQUIRE(pipe(context.ints) == 0 && pipe(context.ints + 2) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        _exit(hold_a_shard(&context));
    }
    char byte;
    REQUIRE(read(context.ints[0], &byte, 1) == 1);
    unsigned patience = kit_patience;
    kit_patience = 0;
    atomic_store(&paused_us, 0);
    CHECK_EQ(entry_put(index, key, 2000), COG_ERR_BUSY);
    CHECK(atomic_load(&paused_us) >= 200000 && atomic_load(&paused_us) < 202000);
    CHECK_EQ(entry_delete(index, key), COG_ERR_BUSY);
    kit_patience = patience;
    CHECK_EQ(entry_put(index, key_in_shard(0x43, 0), 2000), COG_OK); /* the others do not care */
    REQUIRE(kill(child, SIGKILL) == 0);
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK_EQ(entry_put(index, key, 2000), COG_OK);
    CHECK_AUDIT(root, index);
    for (int i = 0; i < 4; i++) {
        close(context.ints[i]);
    }
    cog_index_close(index);
}

static void *put_many_in_thread(void *context)
{
    struct job *job = context;
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t key = job->first + i % 90;
        enum cog_status status = i % 5 == 4 ? entry_delete(job->index, key)
                                            : entry_put(job->index, key, 1000 + i);
        job->failures += status != COG_OK && status != COG_ABSENT && status != COG_ERR_BUSY;
        struct cog_digest digest;
        key_digest(key, &digest);
        cog_index_touch(job->index, &digest);
        (void)cog_index_is_absent(job->index, &digest);
    }
    return NULL;
}

static void test_threads_of_two_handles_share_keys(struct root *root)
{
    struct cog_index *one = root_open(root, NULL), *two = root_open(root, NULL);
    pthread_t threads[4];
    struct job jobs[4];
    for (unsigned i = 0; i < 4; i++) {
        jobs[i] = (struct job){.index = i % 2 ? one : two, .first = 40 * (i / 2)};
        REQUIRE(pthread_create(&threads[i], NULL, put_many_in_thread, &jobs[i]) == 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(jobs[i].failures, 0);
    }
    CHECK_AUDIT(root, one);
    cog_index_close(one);
    CHECK_AUDIT(root, two);
    cog_index_close(two);
}

static void test_the_index_may_vanish_while_threads_work(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    pthread_t threads[3];
    struct job jobs[3];
    for (unsigned i = 0; i < 3; i++) {
        jobs[i] = (struct job){.index = index, .first = 50 * i};
        REQUIRE(pthread_create(&threads[i], NULL, put_many_in_thread, &jobs[i]) == 0);
    }
    for (unsigned i = 0; i < 20; i++) {
        (void)unlinkat(root->fd, "index", 0);
        /* may be refused; what is published is counted below */
        (void)entry_put(index, 5000 + i, 3000);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        enum cog_status status = cog_index_sweep_shard(index, s, true, NULL, NULL);
        CHECK(status == COG_OK || (status == COG_INDEX_MOVED && s == 0));
        s -= status == COG_INDEX_MOVED;
    }
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

/* --- the descriptor is not ours alone --- */

static void test_a_descriptor_closed_by_strangers_is_noticed(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    CHECK_EQ(entry_put(index, 1, 2000), COG_OK);
    struct cog_index_file *file = cog_index_enter(index);
    int fd = atomic_load(&file->fd);
    cog_index_leave(index);
    close(fd);
    CHECK_EQ(entry_put(index, 2, 2000), COG_OK);
    file = cog_index_enter(index);
    fd = atomic_load(&file->fd);
    cog_index_leave(index);
    int stranger = open("/dev/null", O_RDWR | O_CLOEXEC);
    REQUIRE(dup2(stranger, fd) == fd); /* closed, and the number given to another file */
    CHECK_EQ(entry_put(index, 3, 2000), COG_OK);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* which is left open */
    close(fd);
    close(stranger);
    CHECK_AUDIT(root, index);
    cog_index_close(index);
}

static void
test_tag_counter_changes_for_everybody_and_never_with_a_new_index_repeats(struct root *root)
{
    struct cog_index *one = root_open(root, NULL), *two = root_open(root, NULL);
    uint64_t before, after, other, fresh;
    CHECK(cog_index_tag_counter(one, &before) && cog_index_tag_counter(two, &other));
    CHECK_EQ(before, other);
    cog_index_bump_tag_counter(one);
    CHECK(cog_index_tag_counter(two, &after));
    CHECK(after != before);
    REQUIRE(unlinkat(root->fd, "index", 0) == 0);
    CHECK_EQ(entry_put(one, 1, 100), COG_OK);
    CHECK(cog_index_tag_counter(one, &fresh));
    CHECK(fresh != before && fresh != after);
    cog_index_close(one);
    cog_index_close(two);
}

static void test_the_job_is_one_for_all(struct root *root)
{
    struct cog_index *one = root_open(root, NULL), *two = root_open(root, NULL);
    CHECK_EQ(cog_index_job_begin(one, NULL), COG_OK);
    CHECK_EQ(cog_index_job_begin(two, NULL), COG_ERR_BUSY);
    CHECK_EQ(cog_index_job_begin(one, NULL), COG_ERR_BUSY);
    cog_index_job_end(one);
    CHECK_EQ(cog_index_job_begin(two, NULL), COG_OK);
    cog_index_job_end(two);
    cog_index_close(one);
    cog_index_close(two);
}

static void test_absence_is_certain_or_unsaid(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    struct cog_digest digest;
    key_digest(5, &digest);
    CHECK(!cog_index_is_absent(index, &digest)); /* nothing is counted yet */
    CHECK_EQ(entry_put(index, key_in_shard(digest.bytes[0], 3), 100), COG_OK);
    CHECK_EQ(cog_index_is_absent(index, &digest), !root->no_map);
    CHECK_EQ(entry_put(index, 5, 100), COG_OK);
    CHECK(!cog_index_is_absent(index, &digest));
    CHECK_EQ(entry_delete(index, 5), COG_OK);
    struct cog_index_lock lock;
    CHECK_EQ(cog_index_lock(index, digest.bytes[0], NULL, &lock, NULL), COG_OK);
    cog_index_remove_begin(&lock);
    CHECK(!cog_index_is_absent(index, &digest)); /* somebody is inside */
    struct cog_index_found nothing = {0};
    cog_index_remove_end(&lock, &digest, &nothing, false);
    CHECK_EQ(cog_index_is_absent(index, &digest), !root->no_map);
    cog_index_unlock(&lock);
    cog_index_close(index);
}

int main(void)
{
    /* where directories have blocks of their own, and grow */
    ROOT_RUN(test_what_is_published_is_counted_to_the_block);
    ROOT_RUN(test_a_table_grows_with_its_shard_and_shrinks_in_the_sweep);
    ROOT_RUN(test_a_put_over_the_limit_evicts_and_never_passes_it);
    ROOT_RUN_ONCE(test_a_deleted_index_comes_back_with_all_entries);
    ROOT_RUN_ONCE(test_bits_flipped_in_use_are_healed);
    ROOT_RUN_ONCE(test_threads_of_two_handles_share_keys);
    /* a disk that others keep busy makes each of their many puts wait, and shows nothing more */
    (void)setenv("TMPDIR", access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp", 0);
    ROOT_RUN(test_writes_in_flight_do_not_empty_the_cache);
    ROOT_RUN(test_the_number_of_files_and_the_free_floor_bound_too);
    ROOT_RUN(test_a_lowered_limit_is_met_as_puts_come);
    ROOT_RUN(test_a_limit_beyond_the_tables_makes_another_index);
    ROOT_RUN(test_lru_is_exact_with_few_residents_and_every_use_recorded);
    ROOT_RUN(test_expired_entries_go_first_and_the_file_decides);
    ROOT_RUN(test_a_refreshed_file_outlives_what_its_row_says);
    ROOT_RUN(test_a_victim_replaced_meanwhile_is_left_alone);
    ROOT_RUN(test_files_put_or_taken_by_hand_are_noticed);
    ROOT_RUN(test_strangers_in_objects_are_charged_and_never_touched);
    ROOT_RUN(test_a_deleted_index_comes_back_with_all_entries);
    ROOT_RUN(test_a_stranger_in_place_of_the_index_is_replaced);
    ROOT_RUN(test_an_index_cut_short_is_replaced_at_open);
    ROOT_RUN(test_bits_flipped_in_use_are_healed);
    ROOT_RUN(test_no_flipped_bit_makes_a_put_evict_or_fail);
    ROOT_RUN(test_a_reservation_reads_the_bounds_once);
    ROOT_RUN(test_a_garbled_row_does_not_keep_eviction_from_going_on);
    ROOT_RUN(test_a_garbled_held_word_of_ours_is_put_right);
    ROOT_RUN(test_after_a_reboot_puts_go_on_and_costs_are_kept);
    ROOT_RUN(test_without_a_bound_of_before_puts_wait_for_the_count);
    ROOT_RUN_ONCE(test_a_copied_root_gets_an_index_of_its_own);
    ROOT_RUN(test_two_processes_share_one_index);
    ROOT_RUN(test_an_inherited_handle_works_in_the_child_and_in_the_parent);
    ROOT_RUN(test_a_child_gives_back_nothing_of_its_parents);
    ROOT_RUN(test_what_the_dead_held_comes_back_when_it_is_needed);
    ROOT_RUN(test_what_the_dead_left_stays_counted_while_it_cannot_be_unlinked);
    ROOT_RUN(test_a_shard_held_by_another_process_answers_busy_until_it_dies);
    ROOT_RUN(test_threads_of_two_handles_share_keys);
    ROOT_RUN(test_the_index_may_vanish_while_threads_work);
    ROOT_RUN(test_a_descriptor_closed_by_strangers_is_noticed);
    ROOT_RUN(test_tag_counter_changes_for_everybody_and_never_with_a_new_index_repeats);
    ROOT_RUN(test_the_job_is_one_for_all);
    ROOT_RUN(test_absence_is_certain_or_unsaid);
    return check_done();
}
