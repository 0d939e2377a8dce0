/* The table of one shard against a model that cannot be wrong: a plain list. */
#include "core/shard.h"

#include <stdlib.h>
#include <string.h>

#include "core/hash.h"

#include "check.h"

enum { MOST = 4096 };

static uint64_t seed = 12345;

static uint32_t random32(void)
{
    return (uint32_t)(check_random(&seed) >> 33);
}

static struct cog_shard table_of(uint32_t capacity)
{
    struct cog_shard table = {.capacity = capacity};
    table.hot = calloc(capacity, sizeof *table.hot);
    table.row = calloc(capacity, sizeof *table.row);
    REQUIRE(table.hot && table.row);
    return table;
}

static void table_free(struct cog_shard *table)
{
    free(table->hot);
    free(table->row);
}

/* Digests whose home slots crowd at `base`, so that runs are long and wrap around the end. */
static struct cog_digest crowded(uint32_t n, uint32_t base, uint32_t spread)
{
    struct cog_digest digest = {{0}};
    uint32_t home = base + n % spread;
    memcpy(digest.bytes, &n, sizeof n);
    digest.bytes[7] = 1;
    memcpy(digest.bytes + 8, &home, sizeof home);
    return digest;
}

struct model {
    bool present[MOST];
    uint64_t inode[MOST];
    uint64_t hot[MOST];
};

static void compare(const struct cog_shard *table, const struct model *model, uint32_t keys,
                    uint32_t base, uint32_t spread)
{
    uint32_t live = 0;
    for (uint32_t n = 0; n < keys; n++) {
        struct cog_digest digest = crowded(n, base, spread);
        uint32_t slot = cog_shard_find(table, &digest);
        if (!CHECK((slot != COG_SHARD_NONE) == model->present[n])) {
            return;
        }
        live += model->present[n];
        if (slot == COG_SHARD_NONE) {
            continue;
        }
        struct cog_sampled entry;
        cog_shard_get(table, slot, &entry);
        CHECK(cog_row_is(&entry.row, &digest) && entry.row.inode == model->inode[n] &&
              entry.hot == model->hot[n]);
    }
    CHECK_EQ(table->rows, live);
    CHECK_EQ(cog_shard_flaws(table), 0);
}

static void against_model(uint32_t capacity, uint32_t keys, uint32_t base, uint32_t spread,
                          unsigned operations)
{
    struct cog_shard table = table_of(capacity);
    static struct model model;
    memset(&model, 0, sizeof model);
    for (unsigned i = 0; i < operations; i++) {
        uint32_t n = random32() % keys;
        struct cog_digest digest = crowded(n, base, spread);
        if (random32() % 2 && table.rows < capacity * 15 / 16) {
            struct cog_row row = {.inode = random32()};
            uint64_t hot = random32();
            cog_row_set_digest(&row, &digest);
            CHECK(cog_shard_add(&table, &row, hot) != COG_SHARD_NONE);
            model.present[n] = true;
            model.inode[n] = row.inode;
            model.hot[n] = hot;
        } else {
            uint32_t slot = cog_shard_find(&table, &digest);
            if (slot != COG_SHARD_NONE) {
                cog_shard_drop(&table, slot);
            }
            model.present[n] = false;
        }
        if (i % 64 == 0) {
            compare(&table, &model, keys, base, spread);
        }
    }
    compare(&table, &model, keys, base, spread);
    table_free(&table);
}

static void test_random_operations_match_the_model(void)
{
    against_model(64, 80, 0, 64, 20000);
    against_model(1024, 1500, 0, 1024, 20000);
}

static void test_long_runs_that_wrap_around_the_end_close_their_gaps(void)
{
    against_model(64, 70, 60, 2, 20000); /* all of them want the last slots */
    against_model(64, 62, 63, 1, 20000); /* all want the very last */
    against_model(256, 240, 250, 9, 20000);
}

static void test_a_full_table_refuses_and_stays_sound(void)
{
    struct cog_shard table = table_of(64);
    for (uint32_t n = 0; n < 64; n++) {
        struct cog_row row = {.inode = n};
        struct cog_digest digest = crowded(n, 7, 3);
        cog_row_set_digest(&row, &digest);
        CHECK(cog_shard_add(&table, &row, n) != COG_SHARD_NONE);
    }
    struct cog_row row = {0};
    struct cog_digest more = crowded(64, 7, 3), there = crowded(9, 7, 3);
    cog_row_set_digest(&row, &more);
    CHECK(cog_shard_add(&table, &row, 0) == COG_SHARD_NONE);
    /* and the search of a full table ends */
    CHECK(cog_shard_find(&table, &more) == COG_SHARD_NONE);
    cog_row_set_digest(&row, &there);
    CHECK(cog_shard_add(&table, &row, 0) != COG_SHARD_NONE); /* in place of itself */
    CHECK_EQ(table.rows, 64);
    cog_shard_drop(&table, cog_shard_find(&table, &there));
    CHECK_EQ(cog_shard_flaws(&table), 0);
    table_free(&table);
}

static void test_a_generation_is_never_given_twice(void)
{
    struct cog_shard table = table_of(64);
    struct cog_digest digest = crowded(1, 0, 1);
    uint32_t last = 0;
    for (uint32_t i = 0; i < 100; i++) {
        struct cog_row row = {.inode = 5};
        struct cog_sampled entry;
        cog_row_set_digest(&row, &digest);
        cog_shard_get(&table, cog_shard_add(&table, &row, 0), &entry);
        CHECK(i == 0 || entry.row.count == last + 1);
        last = entry.row.count;
        if (i % 3 == 0) {
            cog_shard_drop(&table, cog_shard_find(&table, &digest));
        } else if (i % 7 == 0) {
            cog_shard_clear(&table);
        }
    }
    table_free(&table);
}

static void test_a_digest_of_zeroes_is_an_entry_like_any_other(void)
{
    struct cog_shard table = table_of(64);
    struct cog_digest zero = {{0}};
    struct cog_row row = {.inode = 3};
    cog_row_set_digest(&row, &zero);
    CHECK(cog_shard_find(&table, &zero) == COG_SHARD_NONE);
    CHECK(cog_shard_add(&table, &row, 0) != COG_SHARD_NONE);
    CHECK(cog_shard_find(&table, &zero) != COG_SHARD_NONE);
    table_free(&table);
}

static void test_a_touch_counts_once_per_least_age_and_never_goes_back(void)
{
    struct cog_shard table = table_of(64);
    struct cog_digest digest = crowded(1, 0, 1), other = crowded(2, 0, 1);
    struct cog_row row = {0};
    struct cog_sampled entry;
    cog_row_set_digest(&row, &digest);
    cog_shard_add(&table, &row, 1000);
    CHECK(!cog_shard_touch(&table, &digest, 1099, 100, 0));
    CHECK(cog_shard_touch(&table, &digest, 1100, 100, 0));
    CHECK(!cog_shard_touch(&table, &digest, 900, 100, 0)); /* a clock that went back */
    CHECK(cog_shard_touch(&table, &digest, 900, 0, 0));
    CHECK(!cog_shard_touch(&table, &other, 5000, 0, 0));
    cog_shard_get(&table, cog_shard_find(&table, &digest), &entry);
    CHECK_EQ(cog_hot_time(entry.hot), 1100);
    CHECK_EQ(cog_hot_uses(entry.hot), 2);
    for (unsigned i = 0; i < 70000; i++) {
        cog_shard_touch(&table, &digest, 2000 + i, 0, 0);
    }
    cog_shard_get(&table, cog_shard_find(&table, &digest), &entry);
    CHECK_EQ(cog_hot_uses(entry.hot), UINT16_MAX); /* saturates */
    table_free(&table);
}

static void test_any_bytes_at_all_are_a_table(void)
{
    struct cog_shard table = table_of(256);
    for (unsigned round = 0; round < 200; round++) {
        for (uint32_t i = 0; i < 256 * 8; i++) {
            uint32_t noise[2] = {random32(), random32() % 4 ? random32() : 0};
            memcpy((unsigned char *)table.row + i * 8, noise, 8);
        }
        table.rows = random32();
        struct cog_sampled seen[64];
        for (uint32_t n = 0; n < 64; n++) {
            struct cog_digest digest = crowded(n, random32(), 1 + n);
            struct cog_row row = {0};
            cog_shard_touch(&table, &digest, random32(), 0, 32);
            cog_row_set_digest(&row, &digest);
            cog_shard_add(&table, &row, 1);
            uint32_t slot = cog_shard_find(&table, &digest);
            if (slot != COG_SHARD_NONE) {
                cog_shard_drop(&table, slot);
            }
            cog_shard_drop(&table, random32());
            CHECK(cog_shard_sample(&table, random32(), 64, seen, 64) <= 64);
        }
        (void)cog_shard_flaws(&table);
    }
    table_free(&table);
}

static void test_a_sample_wraps_and_takes_live_rows_only(void)
{
    struct cog_shard table = table_of(64);
    struct cog_sampled seen[64];
    for (uint32_t n = 0; n < 10; n++) {
        struct cog_row row = {.inode = n};
        struct cog_digest digest = crowded(n, 60, 1);
        cog_row_set_digest(&row, &digest);
        cog_shard_add(&table, &row, n);
    }
    CHECK_EQ(cog_shard_sample(&table, 60, 64, seen, 64), 10);
    CHECK_EQ(cog_shard_sample(&table, 60, 4, seen, 64), 4);
    CHECK_EQ(cog_shard_sample(&table, 0, 6, seen, 64), 6); /* those that wrapped */
    CHECK_EQ(cog_shard_sample(&table, 6, 54, seen, 64), 0);
    CHECK_EQ(cog_shard_sample(&table, 60, 64, seen, 3), 3);
    CHECK_EQ(cog_shard_sample(&table, 60 + 64 * 5, 200, seen, 64), 10);
    table_free(&table);
}

static void test_times_order_microseconds_and_clamp(void)
{
    const uint64_t second = 1000000000, year = second * 86400 * 365;
    CHECK(cog_shard_time(2000, 0) > cog_shard_time(1000, 0));
    double age = cog_shard_age(cog_shard_time(90 * second, 0),
                               cog_shard_time(90 * second, 30 * second));
    CHECK(age > 29.99 && age < 30.01);
    CHECK(cog_shard_age(cog_shard_time(second, 0), cog_shard_time(2 * second, 0)) == 0.0);
    /* older than the boot */
    CHECK(cog_shard_time(second, 3 * year) < cog_shard_time(second, 2 * year));
    CHECK_EQ(cog_shard_time(second, 300 * year), 0);
    CHECK(cog_shard_time(300 * year, 0) < UINT64_C(1) << 48);
}

static void test_capacities_keep_a_quarter_free_and_fit_their_region(void)
{
    CHECK_EQ(cog_shard_capacity_for(0), 64);
    CHECK_EQ(cog_shard_capacity_for(48), 64);
    CHECK_EQ(cog_shard_capacity_for(49), 128);
    for (uint32_t rows = 1; rows < 200000; rows = rows * 3 / 2 + 1) {
        uint32_t capacity = cog_shard_capacity_for(rows);
        CHECK((capacity & (capacity - 1)) == 0 && (uint64_t)rows * 4 <= (uint64_t)capacity * 3);
        CHECK(cog_shard_bytes(capacity) <= 8192 ||
              cog_shard_bytes(capacity) - 8192 <= 192 * (uint64_t)rows);
        CHECK_EQ(cog_shard_capacity_in(cog_shard_bytes(capacity)), capacity);
        CHECK(cog_shard_capacity_in(cog_shard_bytes(capacity) - 1) < capacity);
    }
    CHECK_EQ(cog_shard_capacity_in(4096), 0);
    CHECK_EQ(cog_shard_bytes(0), 0);
}

int main(void)
{
    RUN(test_random_operations_match_the_model);
    RUN(test_long_runs_that_wrap_around_the_end_close_their_gaps);
    RUN(test_a_full_table_refuses_and_stays_sound);
    RUN(test_a_generation_is_never_given_twice);
    RUN(test_a_digest_of_zeroes_is_an_entry_like_any_other);
    RUN(test_a_touch_counts_once_per_least_age_and_never_goes_back);
    RUN(test_any_bytes_at_all_are_a_table);
    RUN(test_a_sample_wraps_and_takes_live_rows_only);
    RUN(test_times_order_microseconds_and_clamp);
    RUN(test_capacities_keep_a_quarter_free_and_fit_their_region);
    return check_done();
}
