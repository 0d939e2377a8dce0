/*
 * Campaigns over processes: readers and writers that are really killed, forks under load, an index
 * that is spoiled while in use, a limit sampled from outside. Each first shows that it can fail:
 * the same campaign over a table of calls with one lie in it must be caught.
 *
 * COGCACHE_TORTURE=1 makes them long (20 s of 8 writers and 8 readers).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"
#include "core/bytes.h"

/*
 * What a campaign has to show it shows by counts: it goes on beyond its time until they are
 * reached, however slow the machine, and gives up after this.
 */
enum { PATIENCE_MS = 120000 };

static bool torture(void)
{
    const char *wish = getenv("COGCACHE_TORTURE");
    return wish != NULL && wish[0] != '\0' && strcmp(wish, "0") != 0;
}

static uint64_t monotonic_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- what all processes of a campaign share ------------------------------------------------ */

/*
 * Every key has one writer, which numbers its writes. A reader that saw `acked` before and
 * `started` after its get knows which writes it may have met. A miss is a fault once a write was
 * acknowledged, unless the campaign evicts or spoils.
 */
enum { WRITERS = 8, READERS = 8, KEYS_EACH = 24, KEYS = WRITERS * KEYS_EACH, FAULTS = 8 };

struct shared {
    _Atomic bool stop;
    _Atomic uint64_t started[KEYS], acked[KEYS];
    _Atomic uint64_t puts, refused, gets, hits;
    _Atomic uint32_t faults;
    char fault[FAULTS][160];
    size_t most, usual; /* bytes of the largest value, of most values */
    bool may_miss, may_refuse;
};

static struct shared *new_shared(size_t most)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    shared->most = most;
    shared->usual = most / 32;
    return shared;
}

static void fault(struct shared *shared, const char *what, unsigned key, uint64_t a, uint64_t b)
{
    uint32_t n = atomic_fetch_add(&shared->faults, 1);
    if (n < FAULTS) {
        snprintf(shared->fault[n], sizeof shared->fault[n], "%s: key %u (%llu, %llu)", what, key,
                 (unsigned long long)a, (unsigned long long)b);
    }
}

static bool enough(const struct shared *shared, uint64_t puts, uint64_t hits)
{
    return atomic_load(&shared->puts) > puts && atomic_load(&shared->hits) > hits;
}

/* Pass so much time, and more until there were so many puts and hits. */
static void pass_until(const struct shared *shared, uint64_t milliseconds, uint64_t puts,
                       uint64_t hits)
{
    uint64_t started = monotonic_ms(), ran = 0;
    while (ran < milliseconds || (!enough(shared, puts, hits) && ran < PATIENCE_MS)) {
        usleep(2000);
        ran = monotonic_ms() - started;
    }
}

static void pass_until_caught(const struct shared *shared)
{
    uint64_t end = monotonic_ms() + PATIENCE_MS;
    while (monotonic_ms() < end && atomic_load(&shared->faults) == 0) {
        usleep(2000);
    }
}

/* How the campaign ended; `expected` faults are wanted of a seeded bug. Frees. */
static void judge(struct shared *shared, bool seeded)
{
    uint32_t faults = atomic_load(&shared->faults);
    if (seeded) {
        CHECK(faults > 0); /* a campaign that cannot fail proves nothing */
    } else if (!CHECK_EQ(faults, 0)) {
        for (uint32_t i = 0; i < faults && i < FAULTS; i++) {
            fprintf(stderr, "    %s\n", shared->fault[i]);
        }
    }
    munmap(shared, sizeof *shared);
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t size_of(const struct shared *shared, unsigned key, uint64_t write)
{
    uint64_t mixed = (key * UINT64_C(0x9E3779B97F4A7C15)) ^ (write * UINT64_C(0xBF58476D1CE4E5B9));
    mixed ^= mixed >> 31;
    size_t most = mixed % 16 == 0 ? shared->most : shared->usual;
    return 16 + (size_t)(mixed >> 8) % most;
}

static void name_of(unsigned key, char out[16])
{
    snprintf(out, 16, "key-%u", key);
}

static void write_one(struct shared *shared, struct cog_store *store, unsigned key,
                      unsigned char *room)
{
    char name[16];
    name_of(key, name);
    uint64_t write = atomic_load(&shared->started[key]) + 1;
    size_t size = size_of(shared, key, write);
    kit_fill(room, size, key, write);
    atomic_store(&shared->started[key], write);
    enum cog_status status = kit_put(store, name, room, size);
    if (status == COG_OK) {
        atomic_store(&shared->acked[key], write);
        atomic_fetch_add(&shared->puts, 1);
    } else {
        atomic_fetch_add(&shared->refused, 1);
        if (!shared->may_refuse || (status != COG_ERR_BUSY && status != COG_ERR_FULL)) {
            fault(shared, "put answered", key, write, (uint64_t)-status);
        }
    }
}

static void read_one(struct shared *shared, struct cog_store *store, unsigned key)
{
    char name[16];
    size_t size;
    enum cog_miss miss = COG_MISS_NONE;
    name_of(key, name);
    uint64_t acked = atomic_load(&shared->acked[key]);
    unsigned char *bytes = kit_get(store, name, 0, &size, &miss);
    uint64_t started = atomic_load(&shared->started[key]);
    atomic_fetch_add(&shared->gets, 1);
    if (bytes == NULL) {
        if (miss != COG_MISS_ABSENT) {
            fault(shared, "a miss that is not absence", key, (uint64_t)miss, acked);
        } else if (acked != 0 && !shared->may_miss) {
            fault(shared, "an acknowledged value is gone", key, acked, started);
        }
        return;
    }
    atomic_fetch_add(&shared->hits, 1);
    uint64_t write = size >= 16 ? cog_load_le64(bytes + 8) : 0;
    if (!kit_is_whole(bytes, size, key) || write == 0 || size != size_of(shared, key, write)) {
        fault(shared, "not a value that was ever written", key, size, write);
    } else if (write > started || (write < acked && !shared->may_refuse)) {
        fault(shared, "an impossible generation", key, write, acked);
    }
    cog_free(bytes);
}

typedef void (*worker)(struct shared *shared, struct cog_store *store, unsigned id);

static void writer(struct shared *shared, struct cog_store *store, unsigned id)
{
    unsigned char *room = cog_alloc(shared->most + 32);
    uint64_t state = (uint64_t)getpid() * 0x9E3779B97F4A7C15 + 1;
    while (!atomic_load(&shared->stop)) {
        write_one(shared, store, id * KEYS_EACH + (unsigned)(next(&state) % KEYS_EACH), room);
    }
    cog_free(room);
}

static void reader(struct shared *shared, struct cog_store *store, unsigned id)
{
    uint64_t state = (uint64_t)getpid() * 0x9E3779B97F4A7C15 + 1;
    (void)id;
    while (!atomic_load(&shared->stop)) {
        read_one(shared, store, (unsigned)(next(&state) % KEYS));
    }
}

static pid_t start(struct shared *shared, const struct kit *kit,
                   const struct cog_store_options *options, worker work, unsigned id)
{
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        struct cog_store *store = kit_open(kit, options);
        work(shared, store, id);
        cog_store_close(store);
        _exit(0);
    }
    return child;
}

static void finish(struct shared *shared, const pid_t *children, unsigned count)
{
    atomic_store(&shared->stop, true);
    for (unsigned i = 0; i < count; i++) {
        int status = 0;
        REQUIRE(waitpid(children[i], &status, 0) == children[i]);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fault(shared, "a process died", i, (uint64_t)status, 0);
        }
    }
}

/* --- accounting ---------------------------------------------------------------------------- */

/* What the index has counted is what a count from nothing gives, and no writer has left a trace. */
static void check_accounts(struct shared *shared, const struct kit *kit,
                           const struct cog_store_options *options)
{
    struct cog_store *store = kit_open(kit, options);
    struct cog_store_stats kept, counted;
    uint64_t removed;
    unsigned files = 0;
    char path[400];
    if (kit_sweep(store, false, &removed) != COG_OK) {
        fault(shared, "sweep", 0, 0, 0);
    }
    cog_store_get_stats(store, &kept);
    if (kit_sweep(store, true, &removed) != COG_OK) {
        fault(shared, "sweep by force", 0, 0, 0);
    }
    cog_store_get_stats(store, &counted);
    for (unsigned shard = 0; shard < 256; shard++) {
        snprintf(path, sizeof path, "objects/%02x", shard);
        files += kit_count(kit, path);
    }
    if (kept.used_bytes != counted.used_bytes || kept.entries != counted.entries) {
        fault(shared, "kept and counted differ", 0, kept.used_bytes, counted.used_bytes);
    }
    if (counted.entries != files) {
        fault(shared, "entries and files differ", 0, counted.entries, files);
    }
    if (kept.held_bytes != 0 || kit_count(kit, "tmp") != 0) {
        fault(shared, "left behind: held bytes, temp files", 0, kept.held_bytes,
              kit_count(kit, "tmp"));
    }
    if (kit_disk_bytes(kit) > counted.used_bytes) {
        fault(shared, "more on disk than counted", 0, kit_disk_bytes(kit), counted.used_bytes);
    }
    if (kept.limit_bytes != 0 && kit_disk_bytes(kit) > kept.limit_bytes) {
        fault(shared, "over the limit", 0, kit_disk_bytes(kit), kept.limit_bytes);
    }
    cog_store_close(store);
}

/* --- lies: tables of calls with one thing wrong -------------------------------------------- */

/* Files seem to take a quarter of what they take on disk (the index apart, which is larger). */
static int seem_small(int rc, struct cog_stat *out)
{
    if (rc == 0 && S_ISREG(out->mode) && out->size < (2 << 20)) {
        out->size /= 4;
        out->blocks_bytes /= 4;
    }
    return rc;
}

static int modest_stat(int fd, struct cog_stat *out)
{
    return seem_small(cog_fs_system()->stat(fd, out), out);
}

static int modest_stat_at(int dir, const char *path, struct cog_stat *out)
{
    return seem_small(cog_fs_system()->stat_at(dir, path, out), out);
}

/* A write that is whole only after the name is published: the second half comes late. */
static __thread int late_fd = -1;
static __thread uint64_t late_from, late_size;
static __thread unsigned char late_bytes[1 << 20];

static int64_t late_pwritev(int fd, const struct iovec *pieces, int count, uint64_t offset)
{
    int64_t n = cog_fs_system()->pwritev(fd, pieces, count, offset);
    if (n > 64 && n < (int64_t)sizeof late_bytes) {
        late_fd = fd;
        late_size = (uint64_t)n / 2;
        late_from = offset + (uint64_t)n - late_size;
        (void)cog_fs_system()->pread(fd, late_bytes, (size_t)late_size, late_from);
        unsigned char zero[256] = {0};
        (void)cog_fs_system()->pwrite(fd, zero, late_size < 256 ? (size_t)late_size : 256,
                                      late_from);
    }
    return n;
}

static int late_close(int fd)
{
    if (fd == late_fd) {
        (void)cog_fs_system()->pwrite(fd, late_bytes, (size_t)late_size, late_from);
        late_fd = -1;
    }
    return cog_fs_system()->close(fd);
}

/* A rename that loses the file: acknowledged and gone. */
static int losing_rename(int from_dir, const char *from, int to_dir, const char *to)
{
    static _Atomic unsigned calls;
    if (strncmp(to, "objects/", 8) == 0 && atomic_fetch_add(&calls, 1) % 64 == 63) {
        return cog_fs_system()->unlink(from_dir, from);
    }
    return cog_fs_system()->rename(from_dir, from, to_dir, to);
}

/* --- readers and writers ------------------------------------------------------------------- */

static void readers_and_writers(struct kit *kit, const struct cog_store_options *options,
                                uint64_t milliseconds, bool evicts, bool seeded)
{
    struct shared *shared = new_shared(600000);
    pid_t children[WRITERS + READERS];
    shared->may_miss = shared->may_refuse = evicts;
    for (unsigned i = 0; i < WRITERS; i++) {
        children[i] = start(shared, kit, options, writer, i);
        children[WRITERS + i] = start(shared, kit, options, reader, i);
    }
    if (seeded) {
        pass_until_caught(shared);
    } else {
        pass_until(shared, milliseconds, 100, 100);
    }
    finish(shared, children, WRITERS + READERS);
    if (!seeded) {
        CHECK(enough(shared, 100, 100));
        check_accounts(shared, kit, options);
        printf("[%s: %llu puts, %llu refused, %llu gets, %llu hits] ", kit->mode,
               (unsigned long long)shared->puts, (unsigned long long)shared->refused,
               (unsigned long long)shared->gets, (unsigned long long)shared->hits);
    }
    judge(shared, seeded);
}

static void test_eight_writers_and_eight_readers(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    readers_and_writers(kit, &options, torture() ? 20000 : 2500, false, false);
}

static void test_eight_writers_and_eight_readers_with_eviction(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 18000000;
    readers_and_writers(kit, &options, torture() ? 20000 : 2500, true, false);
}

static void test_readers_and_writers_notice_a_late_write(struct kit *kit)
{
    struct cog_fs lie = *cog_fs_system();
    lie.pwritev = late_pwritev;
    lie.close = late_close;
    struct cog_store_options options = kit_options(kit);
    options.fs = &lie;
    readers_and_writers(kit, &options, 0, false, true);
}

static void test_readers_and_writers_notice_a_lost_file(struct kit *kit)
{
    struct cog_fs lie = *cog_fs_system();
    lie.rename = losing_rename;
    struct cog_store_options options = kit_options(kit);
    options.fs = &lie;
    readers_and_writers(kit, &options, 0, false, true);
}

/* --- kill -9 ------------------------------------------------------------------------------- */

static void kill_loop(struct kit *kit, const struct cog_store_options *options, unsigned kills,
                      bool seeded)
{
    enum { VICTIMS = 4 };
    struct shared *shared = new_shared(120000);
    pid_t children[VICTIMS + 1];
    uint64_t state = 88172645463325252;
    shared->may_refuse = true; /* a killed writer's slot and shard take a moment to be healed */
    for (unsigned i = 0; i < VICTIMS; i++) {
        children[i] = start(shared, kit, options, writer, i);
    }
    children[VICTIMS] = start(shared, kit, options, reader, 0);
    uint64_t end = monotonic_ms() + PATIENCE_MS;
    for (unsigned i = 0; i < kills; i++) {
        do { /* somewhere in a put, and one put was done for every kill */
            usleep(500 + (unsigned)(next(&state) % 6000));
        } while (atomic_load(&shared->puts) <= i + 1 && monotonic_ms() < end);
        unsigned who = (unsigned)(next(&state) % VICTIMS);
        REQUIRE(kill(children[who], SIGKILL) == 0 && waitpid(children[who], NULL, 0) >= 0);
        children[who] = start(shared, kit, options, writer, who);
    }
    finish(shared, children, VICTIMS + 1);
    struct cog_store *store = kit_open(kit, options);
    for (unsigned key = 0; key < KEYS; key++) {
        read_one(shared, store, key);
    }
    cog_store_close(store);
    check_accounts(shared, kit, options);
    if (!seeded) {
        CHECK(atomic_load(&shared->puts) > kills);
        printf("[%u kills, %llu puts] ", kills, (unsigned long long)shared->puts);
    }
    judge(shared, seeded);
}

static void test_three_hundred_kills_lose_nothing_acknowledged(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    kill_loop(kit, &options, 300, false);
}

static void test_kills_under_a_limit_keep_it_and_the_accounts(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct shared *shared = new_shared(500000);
    enum { VICTIMS = 4 };
    pid_t children[VICTIMS];
    uint64_t state = 88172645463325252;
    options.max_bytes = 17000000;
    shared->may_refuse = shared->may_miss = true;
    for (unsigned i = 0; i < VICTIMS; i++) {
        children[i] = start(shared, kit, &options, writer, i);
    }
    for (unsigned i = 0; i < 100; i++) {
        usleep(500 + (unsigned)(next(&state) % 12000));
        unsigned who = (unsigned)(next(&state) % VICTIMS);
        REQUIRE(kill(children[who], SIGKILL) == 0 && waitpid(children[who], NULL, 0) >= 0);
        children[who] = start(shared, kit, &options, writer, who);
    }
    finish(shared, children, VICTIMS);
    check_accounts(shared, kit, &options);
    judge(shared, false);
}

static int keep_temp_files(int dir, const char *path)
{
    return strncmp(path, "tmp/", 4) == 0 ? 0 : cog_fs_system()->unlink(dir, path);
}

static void test_the_kill_loop_notices_temp_files_that_stay(struct kit *kit)
{
    struct cog_fs lie = *cog_fs_system();
    lie.unlink = keep_temp_files;
    struct cog_store_options options = kit_options(kit);
    options.fs = &lie;
    kill_loop(kit, &options, 60, true);
}

/* --- the limit from outside ---------------------------------------------------------------- */

static uint64_t blocks_in_use(const char *path)
{
    struct statvfs space;
    return statvfs(path, &space) == 0 ? (uint64_t)(space.f_blocks - space.f_bfree) * space.f_frsize
                                      : UINT64_MAX;
}

static bool on_its_own_file_system(struct kit *kit, const char *size)
{
    char option[64];
    snprintf(option, sizeof option, "size=%s,mode=0755", size);
    REQUIRE(mkdir(kit->base, 0700) == 0);
    if (mount("tmpfs", kit->base, "tmpfs", 0, option) != 0) {
        fprintf(stderr, "not run (cannot mount a tmpfs: %s): %s\n", strerror(errno), check_running);
        return false;
    }
    return true;
}

static uint64_t sample_the_limit(struct kit *kit, const struct cog_store_options *options,
                                 uint64_t milliseconds, bool seeded, uint64_t *samples)
{
    struct shared *shared = new_shared(1200000);
    pid_t children[WRITERS];
    uint64_t most = 0;
    shared->usual = 300000; /* all keys together are twice the limit */
    shared->may_miss = shared->may_refuse = true;
    cog_store_close(kit_open(kit, options));
    for (unsigned i = 0; i < WRITERS; i++) {
        children[i] = start(shared, kit, options, writer, i);
    }
    uint64_t started = monotonic_ms(), ran = 0;
    *samples = 0;
    while (ran < PATIENCE_MS &&
           (seeded ? most <= options->max_bytes
                   : ran < milliseconds || most <= options->max_bytes / 2 || *samples <= 1000)) {
        ran = monotonic_ms() - started;
        uint64_t now = blocks_in_use(kit->base);
        most = now > most ? now : most;
        ++*samples;
        if (*samples % 64 == 0) {
            usleep(100); /* two processors: the writers want to run, too */
        }
    }
    finish(shared, children, WRITERS);
    if (!seeded) {
        check_accounts(shared, kit, options);
        judge(shared, false);
    }
    return most;
}

static void test_the_limit_holds_at_every_instant(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    uint64_t samples = 0;
    if (!on_its_own_file_system(kit, "256m")) {
        return;
    }
    options.max_bytes = 20000000;
    uint64_t most = sample_the_limit(kit, &options, torture() ? 20000 : 3000, false, &samples);
    CHECK(most <= options.max_bytes);
    CHECK(most > options.max_bytes / 2); /* it was full enough to mean something */
    CHECK(samples > 1000);
    printf("[%llu samples, most %llu] ", (unsigned long long)samples, (unsigned long long)most);
    CHECK_EQ(umount(kit->base), 0);
}

static void test_the_limit_campaign_notices_files_counted_too_small(struct kit *kit)
{
    struct cog_fs lie = *cog_fs_system();
    struct cog_store_options options = kit_options(kit);
    uint64_t samples = 0;
    if (!on_its_own_file_system(kit, "256m")) {
        return;
    }
    lie.stat = modest_stat;
    lie.stat_at = modest_stat_at;
    options.fs = &lie;
    options.max_bytes = 20000000;
    CHECK(sample_the_limit(kit, &options, 0, true, &samples) > options.max_bytes);
    CHECK_EQ(umount(kit->base), 0);
}

static void test_a_full_disk_evicts_and_never_fails_a_hit(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_store_stats stats;
    static unsigned char data[200000];
    if (!on_its_own_file_system(kit, "24m")) {
        return;
    }
    struct cog_store *store = kit_open(kit, &options);
    kit_fill(data, sizeof data, 1, 1);
    unsigned stored = 0;
    for (unsigned i = 0; i < 400; i++) { /* 80 MB through 24 */
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        enum cog_status status = kit_put(store, key, data, sizeof data);
        CHECK(status == COG_OK || status == COG_ERR_FULL);
        stored += status == COG_OK;
        if (status == COG_OK) {
            CHECK(kit_has(store, key, data, sizeof data));
        }
    }
    CHECK(stored > 380);
    cog_store_get_stats(store, &stats);
    CHECK(stats.evicted_policy > 200);
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_store_close(store);
    CHECK_EQ(umount(kit->base), 0);
}

/* --- threads and forks --------------------------------------------------------------------- */

struct thread_work {
    struct shared *shared;
    struct cog_store *store;
    unsigned id;
};

static void *thread_writer(void *context)
{
    struct thread_work *work = context;
    unsigned char *room = cog_alloc(work->shared->most + 32);
    uint64_t state = work->id + 1;
    while (!atomic_load(&work->shared->stop)) {
        unsigned key = work->id * KEYS_EACH + (unsigned)(next(&state) % KEYS_EACH);
        write_one(work->shared, work->store, key, room);
        read_one(work->shared, work->store, (unsigned)(next(&state) % KEYS));
    }
    cog_free(room);
    return NULL;
}

static void test_two_stores_and_many_threads_on_one_root(struct kit *kit)
{
    enum { THREADS = 4 };
    struct shared *shared = new_shared(100000);
    struct cog_store_options options = kit_options(kit);
    struct cog_store *stores[2] = {kit_open(kit, &options), kit_open(kit, &options)};
    struct thread_work work[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        work[i] = (struct thread_work){shared, stores[i % 2], i};
        REQUIRE(pthread_create(&threads[i], NULL, thread_writer, &work[i]) == 0);
    }
    pass_until(shared, 600, 50, 0);
    atomic_store(&shared->stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    cog_store_close(stores[0]);
    cog_store_close(stores[1]);
    check_accounts(shared, kit, &options);
    CHECK(atomic_load(&shared->puts) > 50);
    judge(shared, false);
}

static void test_forks_under_threads(struct kit *kit)
{
#ifdef __SANITIZE_ADDRESS__
    fprintf(stderr, "not run (a fork leaves the locks of this sanitizer's malloc behind): %s, %s\n",
            __func__, kit->mode);
    return;
#endif
    enum { THREADS = 3, FORKS = 40 };
    struct shared *shared = new_shared(100000);
    struct cog_store_options options = kit_options(kit);
    struct cog_store *store = kit_open(kit, &options);
    struct thread_work work[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        work[i] = (struct thread_work){shared, store, i};
        REQUIRE(pthread_create(&threads[i], NULL, thread_writer, &work[i]) == 0);
    }
    unsigned char room[128];
    struct cog_tag_name tag = {"t", 1};
    for (unsigned i = 0; i < FORKS; i++) {
        pid_t child = fork(); /* at any point of what the threads do */
        REQUIRE(child >= 0);
        if (child == 0) {
            alarm(300); /* a deadlock is a death by SIGALRM */
            uint64_t version = 0;
            char name[16];
            snprintf(name, sizeof name, "child-%u", i);
            read_one(shared, store, 0);
            kit_fill(room, 100, i, 1);
            bool good = kit_put(store, name, room, 100) == COG_OK &&
                        kit_has(store, name, room, 100) &&
                        cog_store_invalidate_tags(store, &tag, 1, 0, NULL) == COG_OK &&
                        cog_store_tag_version(store, "t", 1, &version, NULL) == COG_OK &&
                        kit_delete(store, name) == COG_OK;
            cog_store_close(store);
            _exit(good ? 0 : 1);
        }
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK_EQ(status, 0);
    }
    atomic_store(&shared->stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    cog_store_close(store);
    check_accounts(shared, kit, &options);
    judge(shared, false);
}

/* --- an index spoiled in use --------------------------------------------------------------- */

static void spoil(const char *index, unsigned how, uint64_t *state)
{
    struct stat about;
    int fd = open(index, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &about) != 0) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    uint64_t garbage = next(state);
    off_t at = (off_t)(next(state) % (uint64_t)about.st_size);
    switch (how % 5) {
    case 0: (void)unlink(index); break;
    case 1: /* anywhere in the first pages: head, totals, stamps, slots */
        (void)!pwrite(fd, &garbage, 8, at % 65536);
        break;
    case 2: (void)!pwrite(fd, &garbage, 8, at); break;
    case 4: (void)!ftruncate(fd, at / 4096 * 4096); break;
    default: /* replaced by another file of the same size */
        (void)unlink(index);
        close(fd);
        fd = open(index, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        (void)!ftruncate(fd, about.st_size);
        break;
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void test_an_index_spoiled_in_use_costs_no_value(struct kit *kit)
{
    enum { PROCESSES = 3 };
    struct shared *shared = new_shared(60000);
    struct cog_store_options options = kit_options(kit);
    pid_t children[2 * PROCESSES];
    uint64_t state = 1234567;
    char index[400];
    kit_path(kit, "index", index);
    shared->may_refuse =
        true; /* busy while shards are counted anew; never an error, never a miss */
    for (unsigned i = 0; i < PROCESSES; i++) {
        children[i] = start(shared, kit, &options, writer, i);
        children[PROCESSES + i] = start(shared, kit, &options, reader, i);
    }
    for (unsigned i = 0; i < (torture() ? 1000u : 60u); i++) {
        usleep(10000);
        spoil(index, i, &state);
    }
    pass_until(shared, 0, 100, 0);
    finish(shared, children, 2 * PROCESSES);
    CHECK(atomic_load(&shared->puts) > 100);
    (void)unlink(index);
    check_accounts(shared, kit, &options);
    printf("[%llu puts, %llu refused] ", (unsigned long long)shared->puts,
           (unsigned long long)shared->refused);
    judge(shared, false);
}

int main(void)
{
    /* In memory where there is such a place: more happens in the same time. */
    (void)setenv("TMPDIR", access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp", 0);
    KIT_RUN_ONCE(test_readers_and_writers_notice_a_late_write);
    KIT_RUN_ONCE(test_readers_and_writers_notice_a_lost_file);
    KIT_RUN_ONCE(test_eight_writers_and_eight_readers);
    KIT_RUN_ONCE(test_eight_writers_and_eight_readers_with_eviction);
    KIT_RUN_ONCE(test_the_kill_loop_notices_temp_files_that_stay);
    KIT_RUN_ONCE(test_three_hundred_kills_lose_nothing_acknowledged);
    KIT_RUN_ONCE(test_kills_under_a_limit_keep_it_and_the_accounts);
    KIT_RUN_ONCE(test_the_limit_campaign_notices_files_counted_too_small);
    KIT_RUN_ONCE(test_the_limit_holds_at_every_instant);
    KIT_RUN_ONCE(test_a_full_disk_evicts_and_never_fails_a_hit);
    KIT_RUN_INDEXED(test_two_stores_and_many_threads_on_one_root);
    KIT_RUN_INDEXED(test_forks_under_threads);
    KIT_RUN_INDEXED(test_an_index_spoiled_in_use_costs_no_value);
    return check_done();
}
