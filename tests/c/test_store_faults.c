/*
 * Every system call of every operation fails, once and from there on, with each errno that matters:
 * the answer is success, a miss or a typed error; the old value stands or the new one does; no
 * descriptor, temp file or byte of the accounts is lost; nothing is deleted because of an error.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store_faults.h"
#include "store_kit.h"

#include "core/alloc.h"

enum { LARGE = 300000, MOST_CALLS = 400 };
static unsigned char old_value[LARGE], new_value[LARGE];

static const int errors[] = {EIO,    ENOSPC, EMFILE, EACCES, EINTR, FAULT_SHORT,
                             EDQUOT, ENFILE, EROFS,  ENOMEM, ESTALE};
static unsigned error_count = 6; /* the long form takes all */

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir != NULL && readdir(dir) != NULL) {
        count++;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

struct trial {
    const struct kit *kit;
    struct cog_store *store;
    char key[32];
    size_t size;
    unsigned long n; /* which call fails */
    int error;
    bool always;
};

static void arm(const struct trial *trial)
{
    faults_set(trial->n, trial->error, trial->always);
}

static bool is_typed(enum cog_status status)
{
    return status == COG_ERR_IO || status == COG_ERR_FULL || status == COG_ERR_BUSY ||
           status == COG_ERR_READ_ONLY || status == COG_ERR_NOMEM;
}

static void explain(const struct trial *trial, const char *what, long long got)
{
    fprintf(stderr, "    %s: %s answered %lld; %s failed with %d%s (size %zu)\n", trial->kit->mode,
            what, got, faults_call(), trial->error, trial->always ? " for ever" : "", trial->size);
}

static bool holds(struct trial *trial, const unsigned char *value)
{
    return kit_has(trial->store, trial->key, value, trial->size);
}

/* --- operations: each leaves the old value or the new one ----------------------------------- */

static void try_put(struct trial *trial)
{
    arm(trial);
    enum cog_status status = kit_put(trial->store, trial->key, new_value, trial->size);
    faults_stop();
    bool right = status == COG_OK
                     ? holds(trial, new_value)
                     : is_typed(status) && kit_miss(trial->store, trial->key) == COG_MISS_ABSENT;
    if (!CHECK(right)) {
        explain(trial, "put", status);
    }
}

static void try_overwrite(struct trial *trial)
{
    arm(trial);
    enum cog_status status = kit_put(trial->store, trial->key, new_value, trial->size);
    faults_stop();
    bool right = status == COG_OK ? holds(trial, new_value)
                                  : is_typed(status) && holds(trial, old_value);
    if (!CHECK(right)) {
        explain(trial, "overwrite", status);
    }
}

static void try_made(struct trial *trial)
{
    arm(trial);
    enum cog_status status = kit_put_made(trial->store, trial->key, new_value, trial->size);
    faults_stop();
    bool right = status == COG_OK ? holds(trial, new_value)
                                  : is_typed(status) && holds(trial, old_value);
    if (!CHECK(right)) {
        explain(trial, "overwrite by what is made", status);
    }
}

/* The container of the new value, in two pieces, the second first. */
static enum cog_status bring(struct trial *trial, const unsigned char *bytes, size_t length)
{
    struct cog_incoming *incoming;
    const char *key = trial->key;
    enum cog_status status = cog_store_incoming(trial->store, key, strlen(key), length, &incoming,
                                                NULL);
    if (status != COG_OK) {
        return status;
    }
    size_t half = length / 2;
    status = cog_incoming_write(incoming, half, bytes + half, length - half, NULL);
    if (status == COG_OK) {
        status = cog_incoming_write(incoming, 0, bytes, half, NULL);
    }
    if (status == COG_OK) {
        status = cog_incoming_commit(incoming, false, NULL, NULL);
    }
    cog_incoming_free(incoming);
    return status;
}

static void try_incoming(struct trial *trial)
{
    struct cog_image image = {0};
    struct cog_entry_writer *writer;
    const char *key = trial->key;
    REQUIRE(cog_entry_writer_new(key, strlen(key), 0, cog_image_sink(&image), &writer, NULL) ==
            COG_OK);
    REQUIRE(cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, NULL, new_value, trial->size, true,
                               NULL, NULL) == COG_OK);
    REQUIRE(cog_entry_finish(writer, NULL, 0, NULL, NULL, NULL) == COG_OK);
    cog_entry_writer_free(writer);
    unsigned char *bytes = cog_alloc((size_t)image.length);
    REQUIRE(bytes != NULL && cog_image_seal(&image) == COG_OK &&
            cog_image_copy(&image, bytes) == COG_OK);
    arm(trial);
    enum cog_status status = bring(trial, bytes, (size_t)image.length);
    faults_stop();
    bool right = status == COG_OK ? holds(trial, new_value)
                                  : is_typed(status) && holds(trial, old_value);
    if (!CHECK(right)) {
        explain(trial, "incoming", status);
    }
    cog_free(bytes);
    cog_image_release(&image);
}

static void try_get(struct trial *trial)
{
    enum cog_miss miss = COG_MISS_NONE;
    size_t size;
    arm(trial);
    unsigned char *got = kit_get(trial->store, trial->key, 0, &size, &miss);
    faults_stop();
    bool right = got != NULL ? size == trial->size && memcmp(got, old_value, size) == 0
                             : miss == COG_MISS_UNAVAILABLE;
    if (!CHECK(right && holds(trial, old_value))) { /* nothing was deleted because of it */
        explain(trial, "get", miss);
    }
    cog_free(got);
}

static void try_get_nowait(struct trial *trial)
{
    struct cog_object *object;
    enum cog_miss miss = COG_MISS_NONE;
    arm(trial);
    enum cog_status status = cog_store_get(trial->store, trial->key, strlen(trial->key),
                                           COG_GET_NOWAIT, &object, &miss, NULL);
    faults_stop();
    bool right = status == COG_OK || status == COG_ERR_WOULD_BLOCK ||
                 (status == COG_ABSENT && miss == COG_MISS_UNAVAILABLE);
    if (!CHECK(right && holds(trial, old_value))) {
        explain(trial, "get without waiting", status);
    }
    cog_object_free(object);
}

static void try_delete(struct trial *trial)
{
    arm(trial);
    enum cog_status status = kit_delete(trial->store, trial->key);
    faults_stop();
    bool right = status == COG_OK ? kit_miss(trial->store, trial->key) == COG_MISS_ABSENT
                                  : is_typed(status) && holds(trial, old_value);
    if (!CHECK(right)) {
        explain(trial, "delete", status);
    }
}

static void try_refresh(struct trial *trial)
{
    arm(trial);
    enum cog_status status = cog_store_refresh(trial->store, trial->key, strlen(trial->key),
                                               COG_NEVER, NULL);
    faults_stop();
    if (!CHECK((status == COG_OK || is_typed(status)) && holds(trial, old_value))) {
        explain(trial, "refresh", status);
    }
}

static void try_invalidate(struct trial *trial)
{
    struct cog_tag_name tag = {"tag", 3};
    uint64_t before = 0, after = 0;
    CHECK_EQ(cog_store_tag_version(trial->store, "tag", 3, &before, NULL), COG_OK);
    arm(trial);
    enum cog_status status = cog_store_invalidate_tags(trial->store, &tag, 1, 0, NULL);
    faults_stop();
    CHECK_EQ(cog_store_tag_version(trial->store, "tag", 3, &after, NULL), COG_OK);
    if (!CHECK(status == COG_OK ? after > before : is_typed(status) && after >= before)) {
        explain(trial, "invalidate", status);
    }
}

/* --- the loop ------------------------------------------------------------------------------ */

typedef void (*operation)(struct trial *trial);

static void one_trial(struct trial *trial, operation operate, bool needs_old)
{
    static unsigned serial;
    snprintf(trial->key, sizeof trial->key, "key %u", serial++ % 40);
    if (needs_old) {
        REQUIRE(kit_put(trial->store, trial->key, old_value, trial->size) == COG_OK);
    } else {
        enum cog_status status = kit_delete(trial->store, trial->key);
        CHECK(status == COG_OK || status == COG_ABSENT);
    }
    unsigned before = open_descriptors();
    operate(trial);
    unsigned after = open_descriptors();
    if (!CHECK(after <= before + 1)) { /* one: the index may be open again, or for the first time */
        explain(trial, "leaked descriptors:", after);
    }
}

static void run_operation(const struct kit *kit, struct cog_store *store, operation operate,
                          bool needs_old, size_t size)
{
    for (unsigned i = 0; i < 2 * error_count; i++) {
        struct trial trial = {.kit = kit,
                              .store = store,
                              .size = size,
                              .error = errors[i % error_count],
                              .always = i >= error_count};
        unsigned long n = 1;
        if (trial.always && trial.error == EINTR) {
            continue; /* would be tried again for ever, and rightly */
        }
        for (; n < MOST_CALLS; n++) {
            trial.n = n;
            one_trial(&trial, operate, needs_old);
            if (!faults_happened()) {
                break;
            }
        }
        CHECK(n < MOST_CALLS);
    }
}

/* A temp file that could not be unlinked stays counted, and held, until its writer is gone. */
static void check_accounts(const struct kit *kit, struct cog_store *store, bool reaped)
{
    struct cog_store_stats kept, counted;
    uint64_t removed;
    CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
    cog_store_get_stats(store, &kept);
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    cog_store_get_stats(store, &counted);
    if (!kit->table_less) {
        CHECK_EQ(kept.used_bytes, counted.used_bytes);
        if (reaped) {
            CHECK_EQ(kept.held_bytes, 0);
        }
    }
    CHECK_EQ(kept.entries, counted.entries);
    CHECK_EQ(counted.quarantine_files, 0);
}

static void with_faults(struct kit *kit, operation operate, bool needs_old)
{
    static const size_t sizes[] = {500, LARGE};
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    kit_fill(old_value, LARGE, 1, 1);
    kit_fill(new_value, LARGE, 1, 2);
    for (unsigned i = 0; i < 2; i++) {
        run_operation(kit, store, operate, needs_old, sizes[i]);
    }
    check_accounts(kit, store, false);
    cog_store_close(store);
    store = kit_open(kit, NULL); /* whose slot is free now: what it left is reaped */
    check_accounts(kit, store, true);
    if (!kit->table_less) {
        CHECK_EQ(kit_count(kit, "tmp"), 0);
    }
    cog_store_close(store);
}

static void test_put(struct kit *kit)
{
    with_faults(kit, try_put, false);
}

static void test_overwrite(struct kit *kit)
{
    with_faults(kit, try_overwrite, true);
}

static void test_made(struct kit *kit)
{
    with_faults(kit, try_made, true);
}

static void test_incoming(struct kit *kit)
{
    with_faults(kit, try_incoming, true);
}

static void test_get(struct kit *kit)
{
    with_faults(kit, try_get, true);
}

static void test_get_without_waiting(struct kit *kit)
{
    with_faults(kit, try_get_nowait, true);
}

static void test_delete(struct kit *kit)
{
    with_faults(kit, try_delete, true);
}

static void test_refresh(struct kit *kit)
{
    with_faults(kit, try_refresh, true);
}

static void test_invalidate(struct kit *kit)
{
    with_faults(kit, try_invalidate, true);
}

/* Opening: a store or a typed error, and the next opening finds everything as it was. */
static void test_open(struct kit *kit)
{
    struct cog_store *store;
    kit->fs = faults_over(kit->fs);
    struct cog_store_options options = kit_options(kit);
    store = kit_open(kit, NULL);
    kit_fill(old_value, LARGE, 1, 1);
    CHECK_EQ(kit_put(store, "k", old_value, 500), COG_OK);
    cog_store_close(store);
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < 2 * error_count; i++) {
        for (unsigned long n = 1; n < MOST_CALLS; n++) {
            if (i >= error_count && errors[i % error_count] == EINTR) {
                break;
            }
            struct cog_error err = {0};
            faults_set(n, errors[i % error_count], i >= error_count);
            enum cog_status status = cog_store_open(kit->base, &options, &store, &err);
            bool happened = faults_happened();
            faults_stop();
            CHECK(status == COG_OK || is_typed(status));
            cog_store_close(store);
            store = kit_open(kit, NULL);
            CHECK(kit_has(store, "k", old_value, 500));
            cog_store_close(store);
            CHECK_EQ(open_descriptors(), before);
            if (!happened) {
                break;
            }
        }
    }
}

/* --- both names ----------------------------------------------------------------------------- */

static bool unlinks_fail;

static int unlink_or_not(int dir, const char *path)
{
    return unlinks_fail ? -EIO : cog_fs_system()->unlink(dir, path);
}

static int link_and_unlink(int from_dir, const char *from, int to_dir, const char *to)
{
    int rc = cog_fs_system()->link(from_dir, from, to_dir, to);
    if (rc < 0) {
        return rc;
    }
    return unlink_or_not(from_dir, from) == 0 ? 0 : COG_BOTH_NAMES;
}

/* The second name of a published file keeps its blocks when the first is gone: it stays counted. */
static void test_a_temp_name_that_stays_is_counted_until_it_goes(struct kit *kit)
{
    struct cog_fs table = *cog_fs_system();
    struct cog_store_stats stats;
    uint64_t removed;
    table.rename_new = link_and_unlink;
    table.unlink = unlink_or_not;
    kit->fs = &table;
    struct cog_store *store = kit_open(kit, NULL);
    kit_fill(new_value, LARGE, 1, 2);
    unlinks_fail = true;
    CHECK_EQ(kit_put(store, "key", new_value, LARGE), COG_OK);
    CHECK(kit_has(store, "key", new_value, LARGE));
    CHECK_EQ(kit_count(kit, "tmp"), 1);
    cog_store_get_stats(store, &stats);
    CHECK(stats.held_bytes >= LARGE);
    unlinks_fail = false;
    CHECK_EQ(kit_delete(store, "key"), COG_OK); /* the blocks are still there */
    cog_store_get_stats(store, &stats);
    CHECK(stats.held_bytes >= LARGE);
    CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.held_bytes, 0);
    check_accounts(kit, store, true);
    cog_store_close(store);
}

/* --- the loop itself can fail --------------------------------------------------------------- */

static int keep_temp_files(int dir, const char *path)
{
    return strncmp(path, "tmp/", 4) == 0 ? 0 : cog_fs_system()->unlink(dir, path);
}

static int keep_descriptors(int fd)
{
    (void)fd;
    return 0;
}

static int put_with_a_lie(const struct kit *kit)
{
    struct kit own = *kit;
    if (freopen("/dev/null", "w", stderr) == NULL) {
        return 90;
    }
    unsigned long before = atomic_load(&check_failures);
    test_put(&own);
    return atomic_load(&check_failures) > before ? 1 : 0;
}

static void test_the_loop_notices_what_an_operation_leaves_behind(struct kit *kit)
{
    struct cog_fs lie = *cog_fs_system();
    struct kit own = *kit;
    own.fs = &lie;
    lie.unlink = keep_temp_files;
    CHECK_EQ(kit_in_child(&own, false, put_with_a_lie), 1);
    kit_remove_tree(kit->base);
    lie = *cog_fs_system();
    lie.close = keep_descriptors;
    CHECK_EQ(kit_in_child(&own, false, put_with_a_lie), 1);
}

/* --- calls ---------------------------------------------------------------------------------- */

static unsigned long calls_of_a_hit(struct cog_store *store, const char *key, unsigned flags)
{
    struct cog_object *object = NULL;
    unsigned long before = faults_calls();
    CHECK_EQ(cog_store_get(store, key, strlen(key), flags, &object, NULL, NULL), COG_OK);
    cog_object_free(object);
    return faults_calls() - before;
}

/* And one close each, which the table does not count: four and five. None of them writes or locks.
 */
static void test_a_hit_makes_at_most_five_system_calls_and_changes_no_file(struct kit *kit)
{
    struct cog_store_stats before, after;
    struct stat small_before, small_after;
    char path[400];
    if (kit->posix) {
        fprintf(stderr, "not run (no openat2 here): %s\n", __func__);
        return;
    }
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(kit_put(store, "small", old_value, 5000), COG_OK);
    CHECK_EQ(kit_put(store, "large", old_value, LARGE), COG_OK);
    (void)calls_of_a_hit(store, "large", 0);
    kit_object(kit, "small", path);
    REQUIRE(stat(path, &small_before) == 0);
    cog_store_get_stats(store, &before);
    for (unsigned i = 0; i < 1000; i++) {
        CHECK_EQ(calls_of_a_hit(store, "small", COG_GET_NOWAIT), 3);
        CHECK_EQ(calls_of_a_hit(store, "large", COG_GET_NOWAIT), 4);
        CHECK_EQ(calls_of_a_hit(store, "small", 0), 3);
    }
    cog_store_get_stats(store, &after);
    REQUIRE(stat(path, &small_after) == 0);
    CHECK(memcmp(&small_before.st_mtim, &small_after.st_mtim, sizeof small_after.st_mtim) == 0);
    CHECK(memcmp(&small_before.st_ctim, &small_after.st_ctim, sizeof small_after.st_ctim) == 0);
    CHECK_EQ(after.touches - before.touches, 3000);
    cog_store_close(store);
}

/* --- surroundings that cannot be had for real ----------------------------------------------- */

static void test_a_network_file_system_is_table_less_and_never_mapped(struct kit *kit)
{
    static const uint64_t types[] = {0x6969 /* NFS */, 0xFF534D42 /* CIFS */, 0x65735546 /* FUSE */,
                                     0x0BD00BD0 /* Lustre */};
    kit->fs = faults_over(kit->fs);
    kit_fill(old_value, LARGE, 1, 1);
    for (unsigned i = 0; i < 4; i++) {
        faults_file_system(types[i]);
        struct cog_store *store = kit_open(kit, NULL);
        struct cog_store_stats stats;
        struct cog_object *object;
        char index[400];
        CHECK_EQ(kit_put(store, "k", old_value, LARGE), COG_OK);
        REQUIRE(cog_store_get(store, "k", 1, 0, &object, NULL, NULL) == COG_OK);
        CHECK(!cog_object_is_mapped(object));
        cog_object_free(object);
        cog_store_get_stats(store, &stats);
        CHECK(stats.table_less && !stats.hard_limit && !stats.mapped);
        kit_path(kit, "index", index);
        CHECK(!kit_exists(index));
        cog_store_close(store);
    }
    faults_file_system(0); /* the root stays what it was made */
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    CHECK(stats.table_less);
    CHECK(kit_has(store, "k", old_value, LARGE));
    cog_store_close(store);
}

static uint64_t limit_of(struct cog_store *store)
{
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    return stats.limit_bytes;
}

static void test_other_layouts_beside_it_are_taken_off_the_limit(struct kit *kit)
{
    kit->fs = faults_over(kit->fs);
    struct cog_store_options options = kit_options(kit);
    uint64_t removed;
    char path[400];
    options.max_bytes = 40000000;
    struct cog_store *store = kit_open(kit, &options);
    CHECK_EQ(limit_of(store), 40000000);
    snprintf(path, sizeof path, "%s/v2", kit->base);
    REQUIRE(mkdir(path, 0700) == 0);
    snprintf(path, sizeof path, "%s/v2/file", kit->base);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < 10; i++) {
        CHECK_EQ(write(fd, old_value, LARGE), LARGE);
    }
    close(fd);
    CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
    CHECK_EQ(limit_of(store), 40000000);
    faults_pass_time(3601);
    CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
    CHECK(limit_of(store) <= 37000000 && limit_of(store) > 36800000);
    cog_store_close(store);
    store = kit_open(kit, &options);
    CHECK(limit_of(store) <= 37000000 && limit_of(store) > 36800000);
    cog_store_close(store);
}

static void test_a_root_without_working_locks_is_table_less(struct kit *kit)
{
    kit->fs = faults_over(kit->fs);
    struct cog_store_stats stats;
    faults_only("lock");
    faults_set(1, ENOLCK, true);
    struct cog_store *store = kit_open(kit, NULL);
    cog_store_get_stats(store, &stats);
    CHECK(stats.table_less);
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
    CHECK(kit_has(store, "k", "v", 1));
    cog_store_close(store);
}

static void test_a_stale_handle_is_tried_once_more(struct kit *kit)
{
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
    faults_only("open");
    faults_set(1, ESTALE, false);
    CHECK(kit_has(store, "k", "v", 1));
    faults_set(1, ESTALE, true);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_UNAVAILABLE);
    faults_stop();
    cog_store_close(store);
}

static void test_no_space_evicts_and_tries_once_more(struct kit *kit)
{
    kit->fs = faults_over(kit->fs);
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_store_stats stats;
    for (unsigned i = 0; i < 200; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        CHECK_EQ(kit_put(store, key, old_value, 500), COG_OK);
    }
    faults_only("pwritev");
    faults_set(1, ENOSPC, false);
    CHECK_EQ(kit_put(store, "k", "value", 5), COG_OK);
    cog_store_get_stats(store, &stats);
    CHECK(stats.evicted_policy > 0 && stats.evicted_policy < 100);
    faults_set(1, ENOSPC, true);
    CHECK_EQ(kit_put(store, "k", "other", 5), COG_ERR_FULL);
    faults_stop();
    CHECK(kit_has(store, "k", "value", 5));
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_store_close(store);
}

/* The most that one of 100 puts of a new name makes, when `entries` are there. */
static unsigned long calls_of_a_put(struct cog_store *store, unsigned entries)
{
    static unsigned names;
    unsigned long most = 0;
    char key[32];
    struct cog_store_stats stats;
    for (cog_store_get_stats(store, &stats); stats.entries < entries;) {
        for (unsigned i = 0; i < 1000; i++) {
            snprintf(key, sizeof key, "n%u", names++);
            REQUIRE(kit_put(store, key, old_value, 100) == COG_OK);
        }
        uint64_t before = stats.entries;
        cog_store_get_stats(store, &stats);
        REQUIRE(stats.entries > before); /* else it is full */
    }
    for (unsigned i = 0; i < 100; i++) {
        snprintf(key, sizeof key, "n%u", names++);
        unsigned long before = faults_calls();
        CHECK_EQ(kit_put(store, key, old_value, 100), COG_OK);
        unsigned long calls = faults_calls() - before;
        most = calls > most ? calls : most;
    }
    return most;
}

static unsigned long calls_of_a_look(struct cog_store *store)
{
    struct cog_store_stats stats;
    unsigned long before = faults_calls();
    cog_store_get_stats(store, &stats);
    return faults_calls() - before;
}

/*
 * No directory is walked and nothing is looked up one by one: the calls of a put do not grow with
 * the entries, nor do those of a put that has to evict. (A table that grows costs a few, once.)
 */
static void test_a_put_costs_the_same_however_much_there_is(struct kit *kit)
{
    const char *torture = getenv("COGCACHE_TORTURE");
    const unsigned many = torture != NULL && strcmp(torture, "0") != 0 ? 1000000 : 20000;
    struct cog_store_options options = kit_options(kit);
    kit->fs = faults_over(kit->fs);
    options.fs = kit->fs;
    struct cog_store *store = kit_open(kit, &options);
    unsigned long few = calls_of_a_put(store, 1000);
    unsigned long looked = calls_of_a_look(store);
    CHECK(calls_of_a_put(store, many) <= few + 4);
    CHECK(calls_of_a_look(store) <= looked); /* nor are statistics a walk */
    cog_store_close(store);
    struct cog_store_stats stats;
    options.max_bytes = UINT64_C(64) << 20; /* far below what is there */
    store = kit_open(kit, &options);
    for (unsigned i = 0; i < 400 + many / 8; i++) { /* at most 64 go with one put */
        char key[32];
        snprintf(key, sizeof key, "m%u", i);
        (void)kit_put(store, key, old_value, 100);
    }
    /* The tables of a million are larger than that by themselves, and shrink in a sweep. */
    uint64_t removed;
    CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
    CHECK_EQ(kit_put(store, "after", old_value, 100), COG_OK);
    cog_store_get_stats(store, &stats);
    CHECK(stats.used_bytes <= options.max_bytes && stats.evicted_policy > 0);
    CHECK(calls_of_a_put(store, 0) <= few + 40); /* and here each of them evicts */
    cog_store_close(store);
}

int main(void)
{
    const char *torture = getenv("COGCACHE_TORTURE");
    if (torture != NULL && strcmp(torture, "0") != 0) {
        error_count = (unsigned)(sizeof errors / sizeof errors[0]);
    }
    /* These on a disk, if there is one: files in memory cannot be read without the risk to wait. */
    KIT_RUN(test_get_without_waiting);
    KIT_RUN_ONCE(test_a_hit_makes_at_most_five_system_calls_and_changes_no_file);
    (void)setenv("TMPDIR", access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp", 0);
    KIT_RUN_ONCE(test_a_temp_name_that_stays_is_counted_until_it_goes);
    KIT_RUN_ONCE(test_the_loop_notices_what_an_operation_leaves_behind);
    KIT_RUN(test_put);
    KIT_RUN(test_overwrite);
    KIT_RUN(test_made);
    KIT_RUN(test_incoming);
    KIT_RUN(test_get);
    KIT_RUN(test_delete);
    KIT_RUN(test_refresh);
    KIT_RUN(test_invalidate);
    KIT_RUN(test_open);
    KIT_RUN_ONCE(test_a_put_costs_the_same_however_much_there_is);
    KIT_RUN_ONCE(test_a_network_file_system_is_table_less_and_never_mapped);
    KIT_RUN(test_other_layouts_beside_it_are_taken_off_the_limit);
    KIT_RUN_ONCE(test_a_root_without_working_locks_is_table_less);
    KIT_RUN(test_a_stale_handle_is_tried_once_more);
    KIT_RUN(test_no_space_evicts_and_tries_once_more);
    return check_done();
}
