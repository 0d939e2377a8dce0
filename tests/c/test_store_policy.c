/* What goes when room is needed: each policy, expiry first, the bounds besides the size. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

enum { SIZE = 100000, FAVOURITES = 10, OTHERS = 400 };
static unsigned char data[SIZE];

static void put_numbered(struct cog_store *store, const char *kind, unsigned n, double cost,
                         uint64_t ttl_ms)
{
    char key[32];
    struct kit_value value = {.data = data, .size = SIZE, .cost_seconds = cost, .ttl_ms = ttl_ms};
    snprintf(key, sizeof key, "%s %u", kind, n);
    CHECK_EQ(kit_put_value(store, key, &value), COG_OK);
}

static unsigned count_there(struct cog_store *store, const char *kind, unsigned count, bool use)
{
    unsigned there = 0;
    for (unsigned i = 0; i < count; i++) {
        char key[32];
        struct cog_object *object;
        snprintf(key, sizeof key, "%s %u", kind, i);
        unsigned flags = use ? 0 : COG_GET_NO_TOUCH;
        if (cog_store_get(store, key, strlen(key), flags, &object, NULL, NULL) == COG_OK) {
            there++;
            cog_object_free(object);
        }
    }
    return there;
}

/* Ten favourites, then four times what fits; `use` after each: how many favourites are left? */
static unsigned favourites_left(struct kit *kit, enum cog_policy policy, double cost,
                                bool used_once, bool use_always)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000;
    options.policy = policy;
    struct cog_store *store = kit_open(kit, &options);
    struct cog_store_stats stats;
    for (unsigned i = 0; i < FAVOURITES; i++) {
        put_numbered(store, "favourite", i, cost, 0);
    }
    for (unsigned i = 0; used_once && i < 5; i++) {
        (void)count_there(store, "favourite", FAVOURITES, true);
    }
    for (unsigned i = 0; i < OTHERS; i++) {
        put_numbered(store, "other", i, 1.0, 0);
        if (use_always) {
            (void)count_there(store, "favourite", FAVOURITES, true);
        }
    }
    unsigned left = count_there(store, "favourite", FAVOURITES, false);
    cog_store_get_stats(store, &stats);
    CHECK(stats.evicted_policy > 200 && stats.entries > 50);
    CHECK(stats.used_bytes <= stats.limit_bytes);
    cog_store_close(store);
    return left;
}

static void test_lru_keeps_what_is_used(struct kit *kit)
{
    CHECK_EQ(favourites_left(kit, COG_POLICY_LRU, 1.0, false, true), FAVOURITES);
}

static void test_lru_drops_what_is_not_used_any_more(struct kit *kit)
{
    CHECK_EQ(favourites_left(kit, COG_POLICY_LRU, 1000.0, true, false), 0);
}

static void test_fifo_drops_the_oldest_however_used(struct kit *kit)
{
    CHECK_EQ(favourites_left(kit, COG_POLICY_FIFO, 1.0, false, true), 0);
}

static void test_lfu_keeps_what_was_used_often(struct kit *kit)
{
    CHECK_EQ(favourites_left(kit, COG_POLICY_LFU, 1.0, true, false), FAVOURITES);
}

static void test_cost_keeps_what_is_dear_to_compute(struct kit *kit)
{
    CHECK(favourites_left(kit, COG_POLICY_COST, 100000.0, false, false) >= FAVOURITES - 1);
}

static void test_expired_entries_go_first(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000;
    struct cog_store *store = kit_open(kit, &options);
    struct cog_store_stats stats;
    for (unsigned i = 0; i < 40; i++) {
        put_numbered(store, "lasting", i, 1.0, 0);
    }
    for (unsigned i = 0; i < 60; i++) {
        put_numbered(store, "brief", i, 1.0, 1000);
    }
    cog_store_set_clock_offset(store, 3000);
    for (unsigned i = 0; i < 40; i++) {
        put_numbered(store, "new", i, 1.0, 0);
    }
    CHECK_EQ(count_there(store, "lasting", 40, false), 40); /* though they are the oldest */
    cog_store_get_stats(store, &stats);
    CHECK(stats.evicted_expired > 0);
    CHECK_EQ(stats.evicted_policy, 0);
    cog_store_close(store);
}

static void test_the_number_of_files_is_bounded(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_files = 50;
    struct cog_store *store = kit_open(kit, &options);
    struct cog_store_stats stats;
    for (unsigned i = 0; i < 200; i++) {
        put_numbered(store, "n", i, 1.0, 0);
    }
    cog_store_get_stats(store, &stats);
    CHECK(stats.entries >= 45 && stats.entries <= 51);
    cog_store_close(store);
}

static void test_the_floor_of_free_space_is_kept(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct statvfs space;
    REQUIRE(mkdir(kit->base, 0700) == 0);
    if (mount("tmpfs", kit->base, "tmpfs", 0, "size=40m,mode=0755") != 0) {
        fprintf(stderr, "not run (cannot mount a tmpfs: %s): %s\n", strerror(errno), __func__);
        return;
    }
    options.min_free_bytes = 16 << 20;
    struct cog_store *store = kit_open(kit, &options);
    for (unsigned i = 0; i < 400; i++) {
        put_numbered(store, "n", i, 1.0, 0);
        REQUIRE(statvfs(kit->base, &space) == 0);
        CHECK((uint64_t)space.f_bfree * space.f_frsize >= 16 << 20);
    }
    CHECK(count_there(store, "n", 400, false) > 50);
    cog_store_close(store);
    CHECK_EQ(umount(kit->base), 0);
}

/* Table-less: the bound is soft, but it is one, and the newest stay. */
static void test_the_soft_limit_is_kept_in_the_end(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000;
    options.table_less = true;
    struct cog_store *store = kit_open(kit, &options);
    for (unsigned i = 0; i < 600; i++) {
        put_numbered(store, "n", i, 1.0, 0);
    }
    CHECK(kit_disk_bytes(kit) < 18000000);
    unsigned newest = 0, all = count_there(store, "n", 600, false);
    for (unsigned i = 580; i < 600; i++) {
        char key[32];
        snprintf(key, sizeof key, "n %u", i);
        newest += kit_miss(store, key) == COG_MISS_NONE;
    }
    CHECK_EQ(newest, 20);
    CHECK(all > 80);
    cog_store_close(store);
}

/* As a user of the store pins: a file named by the digest of the key. */
static void pin(const struct kit *kit, const char *kind, unsigned n)
{
    char key[32], object[400], folder[400], path[500];
    snprintf(key, sizeof key, "%s %u", kind, n);
    kit_object(kit, key, object);
    const char *name = strrchr(object, '/') + 1;
    kit_path(kit, "pins", folder);
    CHECK(mkdir(folder, 0700) == 0 || errno == EEXIST);
    snprintf(path, sizeof path, "%s/%.2s%s", folder, name - 3, name);
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL);
    fclose(file);
}

/* Ten of the oldest are pinned, and still there when all others of their age are gone. */
static void pinned_ones_stay(struct kit *kit, bool table_less)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000;
    options.policy = COG_POLICY_FIFO;
    options.table_less |= table_less;
    struct cog_store *store = kit_open(kit, &options);
    for (unsigned i = 0; i < FAVOURITES; i++) {
        put_numbered(store, "favourite", i, 1.0, 0);
        put_numbered(store, "sibling", i, 1.0, 0);
        pin(kit, "favourite", i);
    }
    for (unsigned i = 0; i < (table_less ? 600 : OTHERS); i++) {
        put_numbered(store, "other", i, 1.0, 0);
    }
    CHECK_EQ(count_there(store, "favourite", FAVOURITES, false), FAVOURITES);
    CHECK_EQ(count_there(store, "sibling", FAVOURITES, false), 0);
    CHECK_EQ(kit_delete(store, "favourite 0"), COG_OK);
    put_numbered(store, "favourite", 1, 1.0, 0); /* a new value is pinned like the old one */
    CHECK_EQ(count_there(store, "favourite", FAVOURITES, false), FAVOURITES - 1);
    cog_store_close(store);
}

static void test_pinned_entries_are_not_evicted(struct kit *kit)
{
    pinned_ones_stay(kit, false);
}

static void test_pinned_entries_are_not_evicted_without_tables(struct kit *kit)
{
    pinned_ones_stay(kit, true);
}

static void test_where_all_is_pinned_puts_are_refused_and_hits_go_on(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000;
    struct cog_store *store = kit_open(kit, &options);
    enum cog_status status = COG_OK;
    unsigned there = 0;
    while (there < OTHERS && status == COG_OK) {
        char key[32];
        snprintf(key, sizeof key, "n %u", there);
        status = kit_put(store, key, data, SIZE);
        if (status == COG_OK) {
            pin(kit, "n", there++);
        }
    }
    CHECK_EQ(status, COG_ERR_FULL);
    CHECK(there > 50);
    CHECK_EQ(count_there(store, "n", there, false), there);
    CHECK_EQ(kit_delete(store, "n 3"), COG_OK);
    CHECK_EQ(kit_put(store, "instead", data, SIZE), COG_OK);
    cog_store_close(store);
}

static void test_the_end_of_a_life_counts_more_than_a_pin(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000;
    struct cog_store *store = kit_open(kit, &options);
    for (unsigned i = 0; i < 40; i++) {
        put_numbered(store, "brief", i, 1.0, 1000);
        pin(kit, "brief", i);
    }
    cog_store_set_clock_offset(store, 3000);
    for (unsigned i = 0; i < OTHERS; i++) {
        put_numbered(store, "new", i, 1.0, 0);
    }
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.evicted_expired, 40);
    cog_store_close(store);
}

int main(void)
{
    (void)setenv("TMPDIR", access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp", 0);
    memset(data, 7, sizeof data);
    for (unsigned i = 0; i < SIZE; i++) {
        data[i] = (unsigned char)((i * 2654435761u) >> 13);
    }
    KIT_RUN_INDEXED(test_lru_keeps_what_is_used);
    KIT_RUN_ONCE(test_lru_drops_what_is_not_used_any_more);
    KIT_RUN_ONCE(test_fifo_drops_the_oldest_however_used);
    KIT_RUN_ONCE(test_lfu_keeps_what_was_used_often);
    KIT_RUN_ONCE(test_cost_keeps_what_is_dear_to_compute);
    KIT_RUN_ONCE(test_expired_entries_go_first);
    KIT_RUN_INDEXED(test_the_number_of_files_is_bounded);
    KIT_RUN_ONCE(test_the_floor_of_free_space_is_kept);
    KIT_RUN_ONCE(test_the_soft_limit_is_kept_in_the_end);
    KIT_RUN_INDEXED(test_pinned_entries_are_not_evicted);
    KIT_RUN_ONCE(test_pinned_entries_are_not_evicted_without_tables);
    KIT_RUN_ONCE(test_where_all_is_pinned_puts_are_refused_and_hits_go_on);
    KIT_RUN_ONCE(test_the_end_of_a_life_counts_more_than_a_pin);
    return check_done();
}
