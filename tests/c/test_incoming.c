/*
 * Containers that arrive in pieces: what counts as written, writes that fail, writers beside each
 * other, beside an end and beside a fork. Deaths and errors at every call are in test_crash and
 * test_store_faults, the limit in test_incoming_limit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store_faults.h"
#include "store_kit.h"

#include "core/alloc.h"

static const char key[] = "the key";

/* The bytes of a container of one blob. */
static unsigned char *container(const char *of_key, size_t size, uint64_t write, size_t *length)
{
    struct cog_image image = {0};
    struct cog_entry_writer *writer;
    unsigned char *value = cog_alloc(size), *out;
    REQUIRE(value != NULL);
    kit_fill(value, size, 1, write);
    REQUIRE(cog_entry_writer_new(of_key, strlen(of_key), 0, cog_image_sink(&image), &writer,
                                 NULL) == COG_OK);
    REQUIRE(cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, NULL, value, size, true, NULL,
                               NULL) == COG_OK);
    REQUIRE(cog_entry_finish(writer, NULL, 0, NULL, NULL, NULL) == COG_OK);
    REQUIRE(cog_image_seal(&image) == COG_OK);
    *length = (size_t)image.length;
    out = cog_alloc(*length);
    REQUIRE(out != NULL && cog_image_copy(&image, out) == COG_OK);
    cog_entry_writer_free(writer);
    cog_image_release(&image);
    cog_free(value);
    return out;
}

static bool has_write(struct cog_store *store, size_t size, uint64_t write)
{
    unsigned char *value = cog_alloc(size);
    kit_fill(value, size, 1, write);
    bool same = kit_has(store, key, value, size);
    cog_free(value);
    return same;
}

static struct cog_incoming *begin(struct cog_store *store, uint64_t length)
{
    struct cog_incoming *incoming;
    struct cog_error err = {0};
    enum cog_status status = COG_ERR_BUSY;
    for (unsigned tries = 0; tries < 10 && status == COG_ERR_BUSY; tries++) {
        status = cog_store_incoming(store, key, strlen(key), length, &incoming, &err);
    }
    if (!CHECK_EQ(status, COG_OK)) {
        fprintf(stderr, "    %s\n", err.text);
        exit(1);
    }
    return incoming;
}

static void check_nothing_left(const struct kit *kit, struct cog_store *store)
{
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.held_bytes, 0);
    CHECK_EQ(kit_count(kit, "tmp"), 0);
}

/* --- what is written ----------------------------------------------------------------------- */

enum { MODEL = 300 };

static void check_ranges(struct cog_incoming *incoming, const bool *model)
{
    struct cog_range got[MODEL];
    size_t count = cog_incoming_written(incoming, got, MODEL), at = 0;
    for (size_t i = 0; i < MODEL; i++) {
        if (model[i] && (i == 0 || !model[i - 1])) {
            size_t stop = i;
            while (stop < MODEL && model[stop]) {
                stop++;
            }
            CHECK(at < count && got[at].start == i && got[at].stop == stop);
            at++;
        }
    }
    CHECK_EQ(at, count);
    CHECK_EQ(cog_incoming_written(incoming, NULL, 0), count);
}

/* Against a map of single bytes; some writes fail, and what they touched is not written then. */
static void test_ranges_are_those_of_the_writes_that_succeeded(struct kit *kit)
{
    static const unsigned char bytes[MODEL];
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    uint64_t seed = 42;
    for (unsigned round = 0; round < 60; round++) {
        struct cog_incoming *incoming = begin(store, round % 2 ? MODEL : COG_LENGTH_UNKNOWN);
        bool model[MODEL] = {false};
        for (unsigned i = 0; i < 40; i++) {
            check_random(&seed);
            size_t start = (size_t)(seed >> 33) % MODEL;
            size_t size = (size_t)(seed >> 45) % (MODEL - start < 40 ? MODEL - start : 40);
            bool fails = (seed >> 60) % 4 == 0;
            faults_only("pwrite");
            faults_set(fails ? 1 : 0, EIO, false);
            enum cog_status status = cog_incoming_write(incoming, start, bytes, size, NULL);
            faults_stop();
            CHECK_EQ(status, fails && size > 0 ? COG_ERR_IO : COG_OK);
            memset(model + start, !fails, size);
            check_ranges(incoming, model);
        }
        cog_incoming_free(incoming);
    }
    check_nothing_left(kit, store);
    cog_store_close(store);
}

static void test_a_write_that_was_half_done_is_not_published(struct kit *kit)
{
    size_t length;
    unsigned char *image = container(key, 500000, 7, &length);
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_incoming *incoming = begin(store, length);
    CHECK_EQ(cog_incoming_write(incoming, 0, image, length, NULL), COG_OK);
    faults_only("pwrite");
    faults_set(1, EIO, false);
    CHECK_EQ(cog_incoming_write(incoming, 1000, image, 2000, NULL), COG_ERR_IO);
    faults_stop();
    CHECK_EQ(cog_incoming_commit(incoming, true, NULL, NULL), COG_ERR_INVALID);
    CHECK_EQ(cog_incoming_write(incoming, 1000, image + 1000, 2000, NULL), COG_OK);
    CHECK_EQ(cog_incoming_commit(incoming, true, NULL, NULL), COG_OK);
    cog_incoming_free(incoming);
    CHECK(has_write(store, 500000, 7));
    cog_free(image);
    cog_store_close(store);
}

/* --- room ---------------------------------------------------------------------------------- */

static void test_a_full_disk_makes_room_once(struct kit *kit)
{
    static const char *const calls[] = {"fallocate", "pwrite"};
    size_t length;
    unsigned char *image = container(key, 500000, 7, &length);
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    for (unsigned i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", i);
        CHECK_EQ(kit_put(store, name, image, 50000), COG_OK);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct cog_store_stats before, after;
        cog_store_get_stats(store, &before);
        faults_only(calls[i]);
        faults_set(1, ENOSPC, false);
        struct cog_incoming *incoming = begin(store, length);
        CHECK_EQ(cog_incoming_write(incoming, 0, image, length, NULL), COG_OK);
        bool met = faults_happened();
        faults_stop();
        CHECK_EQ(cog_incoming_commit(incoming, false, NULL, NULL), COG_OK);
        cog_incoming_free(incoming);
        cog_store_get_stats(store, &after);
        CHECK(after.entries < before.entries + 1 || !met);
        CHECK(has_write(store, 500000, 7));
    }
    cog_free(image);
    cog_store_close(store);
}

static void test_growth_is_reserved_before_it_is_written(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 100 << 20;
    struct cog_store *store = kit_open(kit, &options);
    struct cog_incoming *incoming = begin(store, COG_LENGTH_UNKNOWN);
    static const unsigned char piece[100000];
    for (uint64_t end = 0; end < 12 << 20; end += sizeof piece) {
        struct cog_store_stats stats;
        CHECK_EQ(cog_incoming_append(incoming, piece, sizeof piece, NULL), COG_OK);
        cog_store_get_stats(store, &stats);
        CHECK(stats.held_bytes >= end + sizeof piece);
        CHECK(stats.held_bytes <= 2 * (end + sizeof piece) + (2 << 20));
    }
    CHECK_EQ(cog_incoming_write(incoming, options.max_bytes / 8, piece, 1, NULL),
             COG_ERR_TOO_LARGE);
    cog_incoming_free(incoming);
    check_nothing_left(kit, store);
    cog_store_close(store);
}

/* --- threads ------------------------------------------------------------------------------- */

enum { THREADS = 5 };

struct crowd {
    struct cog_store *store;
    struct cog_incoming *incoming;
    const unsigned char *image;
    size_t length;
    atomic_size_t next;
    atomic_uint refused, other;
};

static void *write_some(void *context)
{
    struct crowd *crowd = context;
    const size_t step = 30000;
    for (;;) {
        size_t at = atomic_fetch_add(&crowd->next, step);
        if (at >= crowd->length) {
            return NULL;
        }
        size_t size = crowd->length - at < step ? crowd->length - at : step;
        enum cog_status status = cog_incoming_write(crowd->incoming, at, crowd->image + at, size,
                                                    NULL);
        atomic_fetch_add(&crowd->refused, status == COG_ERR_CLOSED);
        atomic_fetch_add(&crowd->other, status != COG_OK && status != COG_ERR_CLOSED);
        (void)cog_incoming_written(crowd->incoming, NULL, 0);
    }
}

static void let_crowd_write(struct crowd *crowd, pthread_t *threads)
{
    for (unsigned i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, write_some, crowd) == 0);
    }
}

static void wait_for_crowd(const pthread_t *threads)
{
    for (unsigned i = 0; i < THREADS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
}

static void test_threads_write_beside_each_other(struct kit *kit)
{
    size_t length;
    unsigned char *image = container(key, 3 << 20, 9, &length);
    struct cog_store *store = kit_open(kit, NULL);
    pthread_t threads[THREADS];
    for (unsigned round = 0; round < 4; round++) {
        struct crowd crowd = {.store = store, .image = image, .length = length};
        crowd.incoming = begin(store, round % 2 ? length : COG_LENGTH_UNKNOWN);
        let_crowd_write(&crowd, threads);
        wait_for_crowd(threads);
        CHECK_EQ(crowd.refused + crowd.other, 0);
        CHECK_EQ(cog_incoming_commit(crowd.incoming, false, NULL, NULL), COG_OK);
        cog_incoming_free(crowd.incoming);
        CHECK(has_write(store, 3 << 20, 9));
    }
    cog_free(image);
    cog_store_close(store);
}

/* The descriptor must not be closed, and used for another file, under a write. */
static void test_an_abort_waits_for_writes_under_way(struct kit *kit)
{
    size_t length;
    unsigned char *image = container(key, 3 << 20, 9, &length);
    struct cog_store *store = kit_open(kit, NULL);
    pthread_t threads[THREADS];
    CHECK_EQ(kit_put(store, "beside", image, 50000), COG_OK);
    for (unsigned round = 0; round < 20; round++) {
        struct crowd crowd = {.store = store, .image = image, .length = length};
        crowd.incoming = begin(store, length);
        let_crowd_write(&crowd, threads);
        for (unsigned spins = 0; spins < round * 200 && atomic_load(&crowd.next) < length;) {
            spins++;
        }
        cog_incoming_abort(crowd.incoming);
        cog_incoming_abort(crowd.incoming);
        CHECK_EQ(kit_put(store, "beside", image, 50000), COG_OK);
        wait_for_crowd(threads);
        CHECK_EQ(crowd.other, 0);
        check_nothing_left(kit, store);
        CHECK_EQ(cog_incoming_commit(crowd.incoming, false, NULL, NULL), COG_ERR_CLOSED);
        cog_incoming_free(crowd.incoming);
        CHECK(kit_has(store, "beside", image, 50000));
        CHECK_EQ(kit_miss(store, key), COG_MISS_ABSENT);
    }
    cog_free(image);
    cog_store_close(store);
}

static void *commit_it(void *context)
{
    struct crowd *crowd = context;
    enum cog_status status = cog_incoming_commit(crowd->incoming, false, NULL, NULL);
    atomic_fetch_add(&crowd->refused, status == COG_ERR_CLOSED);
    atomic_fetch_add(&crowd->other, status != COG_OK && status != COG_ERR_CLOSED);
    return NULL;
}

static void *abort_it(void *context)
{
    cog_incoming_abort(((struct crowd *)context)->incoming);
    return NULL;
}

static void test_of_many_ends_one_counts(struct kit *kit)
{
    size_t length;
    unsigned char *image = container(key, 300000, 9, &length);
    struct cog_store *store = kit_open(kit, NULL);
    for (unsigned round = 0; round < 20; round++) {
        struct crowd crowd = {.store = store, .image = image, .length = length};
        pthread_t threads[3];
        CHECK(kit_delete(store, key) >= COG_OK);
        crowd.incoming = begin(store, length);
        CHECK_EQ(cog_incoming_append(crowd.incoming, image, length, NULL), COG_OK);
        REQUIRE(pthread_create(&threads[0], NULL, commit_it, &crowd) == 0);
        REQUIRE(pthread_create(&threads[1], NULL, commit_it, &crowd) == 0);
        REQUIRE(pthread_create(&threads[2], NULL, abort_it, &crowd) == 0);
        for (unsigned i = 0; i < 3; i++) {
            REQUIRE(pthread_join(threads[i], NULL) == 0);
        }
        CHECK_EQ(crowd.other, 0);
        CHECK_EQ(kit_miss(store, key), crowd.refused == 1 ? COG_MISS_NONE : COG_MISS_ABSENT);
        check_nothing_left(kit, store);
        cog_incoming_free(crowd.incoming);
    }
    cog_free(image);
    cog_store_close(store);
}

/* --- fork, close, read-only ---------------------------------------------------------------- */

static struct cog_incoming *inherited;

static int child_of(const struct kit *kit)
{
    (void)kit;
    struct cog_error err = {0};
    bool refused = cog_incoming_append(inherited, "x", 1, &err) == COG_ERR_INVALID &&
                   cog_incoming_commit(inherited, true, NULL, &err) == COG_ERR_INVALID &&
                   cog_incoming_written(inherited, NULL, 0) == 0;
    cog_incoming_abort(inherited);
    cog_incoming_free(inherited);
    return refused ? 0 : 1;
}

static void test_a_child_takes_nothing_away(struct kit *kit)
{
    size_t length;
    unsigned char *image = container(key, 300000, 9, &length);
    struct cog_store *store = kit_open(kit, NULL);
    inherited = begin(store, length);
    CHECK_EQ(cog_incoming_append(inherited, image, 1000, NULL), COG_OK);
    CHECK_EQ(kit_in_child(kit, false, child_of), 0);
    CHECK_EQ(kit_count(kit, "tmp"), 1);
    CHECK_EQ(cog_incoming_append(inherited, image + 1000, length - 1000, NULL), COG_OK);
    CHECK_EQ(cog_incoming_commit(inherited, false, NULL, NULL), COG_OK);
    cog_incoming_free(inherited);
    CHECK(has_write(store, 300000, 9));
    check_nothing_left(kit, store);
    cog_free(image);
    cog_store_close(store);
}

static int leave_one_open(const struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_incoming *incoming = begin(store, 1 << 20);
    return cog_incoming_append(incoming, "x", 1, NULL) == COG_OK ? 0 : 1;
}

static void test_what_a_process_left_open_is_reaped(struct kit *kit)
{
    uint64_t removed;
    CHECK_EQ(kit_in_child(kit, false, leave_one_open), 0);
    CHECK_EQ(kit_count(kit, "tmp"), 1);
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
    check_nothing_left(kit, store);
    cog_store_close(store);
}

static void test_an_index_that_is_replaced_costs_the_put_and_nothing_else(struct kit *kit)
{
    size_t length;
    char path[400];
    unsigned char *image = container(key, 300000, 9, &length);
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_incoming *incoming = begin(store, length);
    CHECK_EQ(cog_incoming_append(incoming, image, length, NULL), COG_OK);
    kit_path(kit, "index", path);
    REQUIRE(unlink(path) == 0);
    CHECK_EQ(kit_put(store, "beside", image, 1000), COG_OK); /* makes a new one */
    CHECK_EQ(cog_incoming_commit(incoming, false, NULL, NULL), COG_ERR_BUSY);
    cog_incoming_free(incoming);
    check_nothing_left(kit, store);
    incoming = begin(store, length);
    CHECK_EQ(cog_incoming_append(incoming, image, length, NULL), COG_OK);
    CHECK_EQ(cog_incoming_commit(incoming, false, NULL, NULL), COG_OK);
    cog_incoming_free(incoming);
    CHECK(has_write(store, 300000, 9));
    cog_free(image);
    cog_store_close(store);
}

static void test_a_root_that_was_removed_is_made_again(struct kit *kit)
{
    size_t length;
    unsigned char *image = container(key, 300000, 9, &length);
    struct cog_store *store = kit_open(kit, NULL);
    kit_remove_tree(kit->root);
    struct cog_incoming *incoming;
    if (cog_store_incoming(store, key, strlen(key), length, &incoming, NULL) == COG_OK) {
        CHECK_EQ(cog_incoming_append(incoming, image, length, NULL), COG_OK);
        CHECK_EQ(cog_incoming_commit(incoming, false, NULL, NULL), COG_OK);
        cog_incoming_free(incoming);
        CHECK(has_write(store, 300000, 9));
    } else { /* the put beside it mends it */
        CHECK_EQ(kit_put(store, "beside", image, 1000), COG_OK);
    }
    cog_free(image);
    cog_store_close(store);
}

int main(void)
{
    KIT_RUN(test_ranges_are_those_of_the_writes_that_succeeded);
    KIT_RUN(test_a_write_that_was_half_done_is_not_published);
    KIT_RUN_INDEXED(test_a_full_disk_makes_room_once);
    KIT_RUN_INDEXED(test_growth_is_reserved_before_it_is_written);
    KIT_RUN(test_threads_write_beside_each_other);
    KIT_RUN(test_an_abort_waits_for_writes_under_way);
    KIT_RUN(test_of_many_ends_one_counts);
    KIT_RUN(test_a_child_takes_nothing_away);
    KIT_RUN_INDEXED(test_what_a_process_left_open_is_reaped);
    KIT_RUN_INDEXED(test_an_index_that_is_replaced_costs_the_put_and_nothing_else);
    KIT_RUN(test_a_root_that_was_removed_is_made_again);
    return check_done();
}
