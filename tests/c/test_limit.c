/*
 * The proof of the hard limit on real files: 8 processes put, overwrite, stream, delete and touch
 * in one small root and are killed wherever they happen to be, while the truth is sampled.
 *
 * At every sample all of them are stopped, so that a walk over the directories is the truth of one
 * instant: truth <= what may be granted   (I2, and truth of the whole root <= limit) sum of totals
 * + held >= truth  (I5) and, when all have died and every shard was healed and every slot reaped:
 * sum = truth, rows = files, no temp file, every file whole. Where a file system of our own can be
 * mounted, its usage is watched continuously as well.
 *
 * Called without arguments it proves the product, and then that it can fail: its twins beside it,
 * built with one seeded bug each (test_limit.<BUG>), must be caught. COG_LIMIT_SECONDS makes it run
 * longer.
 */
#define _GNU_SOURCE 1

#include "index_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "check.h"
#include "workers_kit.h"

enum { WORKERS = 8, KEYS = 1500, PATIENCE_SECONDS = 120 };
static const uint64_t limit = UINT64_C(32) << 20;

struct counters { /* in memory shared with the workers */
    _Atomic uint64_t samples;
    _Atomic uint64_t puts, refused, deletes, streams, evictions, failures;
};
static struct counters *counters;

struct proof {
    struct root root;
    bool own_mount;
    bool posix, no_map;
    uint64_t seconds;  /* at least */
    bool until_caught; /* a twin: stop at the first violation */
    struct workers workers;
    uint64_t samples, quick_samples;
    uint64_t over, under; /* violations of I2 and I5 */
    uint64_t most;        /* truth seen, in bytes */
};

static struct cog_index_options proof_options(const struct proof *proof)
{
    struct cog_index_options options = root_options(&proof->root);
    options.limit = limit;
    return options;
}

/* --- a worker --- */

static size_t random_size(uint64_t *seed)
{
    uint64_t kind = workers_random(seed) % 10, random = workers_random(seed);
    if (kind < 6) {
        return (size_t)(random % 30000);
    }
    if (kind < 9) {
        return (size_t)(random % 400000);
    }
    return (size_t)(random % (limit / 8 - 100000));
}

/*
 * In a twin: who is in the window of the seeded bug stays there until a sample was taken, so that
 * no luck is needed to meet it. Bounded, since the parent may be in a window, too.
 */
static void sleep_until_sampled(uint32_t microseconds)
{
    uint64_t before = atomic_load(&counters->samples);
    cog_fs_system()->sleep_us(microseconds);
    if (microseconds == COG_SEEDED_WINDOW_US) {
        for (unsigned i = 0; i < 200 && atomic_load(&counters->samples) == before; i++) {
            cog_fs_system()->sleep_us(1000);
        }
    }
}

static _Noreturn void work(const void *context, unsigned number, uint64_t seed)
{
    const struct proof *proof = context;
    (void)number;
    struct cog_index_options options = proof_options(proof);
    struct cog_index *index;
    struct cog_fs waiting = *options.fs;
    if (proof->until_caught) {
        waiting.sleep_us = sleep_until_sampled;
        options.fs = &waiting;
    }
    if (cog_index_open(&options, &index, NULL) != COG_OK) {
        _exit(3);
    }
    for (;;) {
        uint64_t key = workers_random(&seed) % KEYS, what = workers_random(&seed) % 20;
        struct cog_digest digest;
        enum cog_status status;
        key_digest(key, &digest);
        cog_index_touch(index, &digest);
        if (what == 0) {
            status = entry_delete(index, key);
            atomic_fetch_add(&counters->deletes, status == COG_OK);
        } else if (what < 4) {
            status = entry_stream(index, key, random_size(&seed), 5);
            atomic_fetch_add(&counters->streams, status == COG_OK);
        } else {
            status = entry_put(index, key, random_size(&seed));
            atomic_fetch_add(&counters->puts, status == COG_OK);
        }
        atomic_fetch_add(&counters->refused, status == COG_ERR_BUSY || status == COG_ERR_FULL);
        if (status != COG_OK && status != COG_ABSENT && status != COG_ERR_BUSY &&
            status != COG_ERR_FULL) {
            atomic_fetch_add(&counters->failures, 1);
        }
    }
}

/* --- sampling --- */

static void watch_usage(struct proof *proof, uint64_t until_us)
{
    while (workers_clock_us() < until_us) {
        struct statvfs got;
        if (!proof->own_mount) {
            usleep(200);
            continue;
        }
        REQUIRE(fstatvfs(proof->root.fd, &got) == 0);
        uint64_t used = (uint64_t)(got.f_blocks - got.f_bfree) * got.f_frsize;
        proof->quick_samples++;
        proof->over += used > limit;
        proof->most = used > proof->most ? used : proof->most;
        sched_yield();
    }
}

static void sample_stopped(struct proof *proof, struct cog_index *index)
{
    struct truth truth;
    struct cog_sum sum;
    struct cog_index_file *file = cog_index_enter(index);
    REQUIRE(file != NULL);
    cog_index_sum(file, &sum);
    uint64_t fixed = cog_word64(file, COG_AT_HEAD(fixed_bytes));
    cog_index_leave(index);
    root_truth(&proof->root, &truth, true);
    proof->samples++;
    atomic_fetch_add(&counters->samples, 1);
    proof->most = truth.all > proof->most ? truth.all : proof->most;
    if (sum.unknown) {
        proof->over += truth.all > limit;
        return;
    }
    uint64_t grantable = limit - cog_limit_margin(limit) - fixed;
    bool over = truth.moving > grantable || truth.all > limit;
    bool under = sum.held + sum.known < truth.moving;
    proof->over += over;
    proof->under += under;
    CHECK_EQ(truth.torn, 0);
    if ((over || under) && !proof->until_caught) {
        fprintf(stderr, "    truth %llu (all %llu), grantable %llu, held %llu + totals %llu\n",
                (unsigned long long)truth.moving, (unsigned long long)truth.all,
                (unsigned long long)grantable, (unsigned long long)sum.held,
                (unsigned long long)sum.known);
    }
}

/* --- the proof --- */

/* The limit was in play, and often enough, however slow the machine. */
static bool enough(const struct proof *proof)
{
    return counters->puts > 50 && proof->workers.kills > 10 && proof->samples > 20 &&
           proof->most > limit / 2;
}

/* A twin runs until it is caught; the product for its time, and until that was enough. */
static bool goes_on(const struct proof *proof, uint64_t started_us)
{
    uint64_t ran_us = workers_clock_us() - started_us;
    if (proof->until_caught ? proof->over + proof->under > 0
                            : ran_us >= proof->seconds * 1000000 && enough(proof)) {
        return false;
    }
    return ran_us < (proof->seconds + PATIENCE_SECONDS) * 1000000;
}

static void run(struct proof *proof)
{
    struct cog_index_options options = proof_options(proof);
    struct cog_index *index = root_open(&proof->root, &options);
    uint64_t seed = 4711 + (uint64_t)proof->posix * 2 + proof->no_map, round = 0;
    while (cog_index_warm_up(index, COG_SHARDS, NULL) == COG_ERR_BUSY) {
        continue;
    }
    proof->workers = (struct workers){.count = WORKERS, .work = work, .context = proof};
    workers_begin(&proof->workers, &seed);
    uint64_t started_us = workers_clock_us();
    while (goes_on(proof, started_us)) {
        watch_usage(proof, workers_clock_us() + workers_random(&seed) % 6000);
        workers_stop(&proof->workers);
        sample_stopped(proof, index);
        for (uint64_t victims = workers_random(&seed) % 4; victims > 0; victims--) {
            workers_replace_one(&proof->workers, &seed);
        }
        /* the dead have left odd stamps and held bytes: still nothing may be missing */
        if (round++ % 8 == 0) {
            sample_stopped(proof, index);
        }
        workers_go_on(&proof->workers);
    }
    workers_kill(&proof->workers);
    const char *wrong = root_audit(&proof->root, index);
    if (!proof->until_caught && !CHECK(wrong == NULL)) {
        fprintf(stderr, "    at the end: %s\n", wrong);
    }
    struct truth truth;
    root_truth(&proof->root, &truth, true);
    CHECK_EQ(truth.torn, 0);
    cog_index_close(index);
}

static bool write_line(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written = fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line);
    if (fd >= 0) {
        close(fd);
    }
    return written;
}

/* Mounts of our own: root's, or those of a user namespace in which we stay who we are. */
static bool own_mounts(void)
{
    unsigned uid = geteuid(), gid = getegid();
    char user[40], group[40];
    if (unshare(CLONE_NEWNS) == 0) {
        return true;
    }
    snprintf(user, sizeof user, "%u %u 1", uid, uid);
    snprintf(group, sizeof group, "%u %u 1", gid, gid);
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
           write_line("/proc/self/setgroups", "deny") && write_line("/proc/self/uid_map", user) &&
           write_line("/proc/self/gid_map", group);
}

static int mount_here(void *path)
{
    bool done = own_mounts() && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                mount("tmpfs", path, "tmpfs", 0, "size=512m") == 0;
    return done ? 0 : 1;
}

/* A file system of our own. A child tries it first: who is half in a namespace cannot get out. */
static bool mount_own(char *path)
{
    return in_child(mount_here, path) == 0 && mount_here(path) == 0;
}

static int prove(bool posix, bool no_map, uint64_t seconds, bool until_caught)
{
    static const char *const names[] = {"mapped", "by pread", "plain POSIX, mapped",
                                        "plain POSIX, by pread"};
    const char *temporary = getenv("TMPDIR");
    char parent[200];
    struct proof proof = {
        .posix = posix, .no_map = no_map, .seconds = seconds, .until_caught = until_caught};
    check_running = names[posix * 2 + no_map];
    memset(counters, 0, sizeof *counters);
    snprintf(parent, sizeof parent, "%s/cog-limit-XXXXXX", temporary ? temporary : "/tmp");
    REQUIRE(mkdtemp(parent) != NULL);
    proof.own_mount = mount_own(parent);
    proof.root.fs = posix ? cog_fs_posix() : cog_fs_system();
    proof.root.no_map = no_map;
    root_make(&proof.root, parent);
    run(&proof);
    root_remove(&proof.root);
    if (proof.own_mount) {
        umount(parent);
    }
    rmdir(parent);
    if (until_caught) {
        return proof.over + proof.under ? 0 : 1; /* caught is what is wanted */
    }
    printf("%s: %llu puts, %llu streams, %llu deletes, %llu refused, %llu kills, %llu samples of "
           "all stopped, %llu of "
           "the usage%s, at most %.1f %% of the limit\n",
           check_running, (unsigned long long)counters->puts, (unsigned long long)counters->streams,
           (unsigned long long)counters->deletes, (unsigned long long)counters->refused,
           (unsigned long long)proof.workers.kills, (unsigned long long)proof.samples,
           (unsigned long long)proof.quick_samples,
           proof.own_mount ? "" : " (no file system of our own can be mounted here: not run)",
           100.0 * (double)proof.most / (double)limit);
    CHECK_EQ(proof.over, 0);
    CHECK_EQ(proof.under, 0);
    CHECK_EQ(counters->failures, 0);
    CHECK(enough(&proof));
    return atomic_load(&check_failures) ? 1 : 0;
}

struct arguments {
    bool posix, no_map, until_caught;
    uint64_t seconds;
};

static int prove_in_child(void *context)
{
    const struct arguments *given = context;
    return prove(given->posix, given->no_map, given->seconds, given->until_caught);
}

int main(int count, char **arguments)
{
    const char *wish = getenv("COG_LIMIT_SECONDS");
    uint64_t seconds = wish ? strtoull(wish, NULL, 10) : 2;
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                    0);
    REQUIRE(counters != MAP_FAILED);
    if (count > 1) {
        return prove(false, false, 0, true);
    }
    for (unsigned mode = 0; mode < ROOT_MODES; mode++) {
        struct arguments given = {.posix = mode / 2, .no_map = mode % 2, .seconds = seconds};
        CHECK_EQ(in_child(prove_in_child, &given), 0);
    }
    static const char *const bugs[] = {"SUM_THEN_ADD", "TOTALS_FIRST", "TOTAL_LATE",
                                       "REAP_KEEP_TMP", "SUB_FIRST"};
    for (unsigned i = 0; i < sizeof bugs / sizeof *bugs; i++) {
        workers_expect_caught(arguments[0], bugs[i]);
    }
    return check_done();
}
