#define _GNU_SOURCE 1

#include "crash_harness.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { NAMES = 4096 };
struct plan { /* shared with forked children */
    atomic_bool armed;
    atomic_int action, error;
    _Atomic uint64_t calls, chosen;
    atomic_bool reached;
    char name[24];
    const char *names[NAMES]; /* of the calls of an unharmed run */
};
static struct plan *plan;
static const struct cog_fs *real;

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) {
        pause();
    }
}

/* What a call of this name is to do now. */
static enum crash_action next_call(const char *name)
{
    if (!plan || !atomic_load(&plan->armed)) {
        return CRASH_NONE;
    }
    uint64_t number = atomic_fetch_add(&plan->calls, 1) + 1;
    enum crash_action action = (enum crash_action)atomic_load(&plan->action);
    if (action == CRASH_NONE && number < NAMES) {
        plan->names[number] = name;
    }
    if (number == atomic_load(&plan->chosen) && action != CRASH_NONE) {
        snprintf(plan->name, sizeof plan->name, "%s", name);
        atomic_store(&plan->reached, true);
        if (action == CRASH_DIE_BEFORE) {
            die();
        }
        return action;
    }
    if (action == CRASH_FAIL_FOREVER && atomic_load(&plan->reached) &&
        strcmp(name, plan->name) == 0) {
        return action;
    }
    return CRASH_NONE;
}

static int planned_error(void)
{
    return -atomic_load(&plan->error);
}

/* The call itself: fails, or is made and perhaps the last thing that this process does. */
#define CALL(type, name, ...)                                     \
    enum crash_action action_ = next_call(#name);                 \
    if (action_ == CRASH_FAIL || action_ == CRASH_FAIL_FOREVER) { \
        return planned_error();                                   \
    }                                                             \
    type result_ = real->name(__VA_ARGS__);                       \
    if (action_ == CRASH_DIE_AFTER) {                             \
        die();                                                    \
    }                                                             \
    return result_

/* A call that releases something does so even when it reports an error, as the kernel's do. */
#define RELEASING_CALL(name, ...)                                 \
    enum crash_action action_ = next_call(#name);                 \
    int result_ = real->name(__VA_ARGS__);                        \
    if (action_ == CRASH_FAIL || action_ == CRASH_FAIL_FOREVER) { \
        return planned_error();                                   \
    }                                                             \
    if (action_ == CRASH_DIE_AFTER) {                             \
        die();                                                    \
    }                                                             \
    return result_

#define DATA_CALL(name, fd, data, size, offset)                                \
    enum crash_action action_ = next_call(#name);                              \
    if (action_ == CRASH_FAIL || action_ == CRASH_FAIL_FOREVER) {              \
        return planned_error();                                                \
    }                                                                          \
    size_t part_ = action_ == CRASH_SHORT && (size) > 1 ? (size) / 2 : (size); \
    int64_t result_ = real->name(fd, data, part_, offset);                     \
    if (action_ == CRASH_DIE_AFTER) {                                          \
        die();                                                                 \
    }                                                                          \
    return result_

static int crash_open(int dir, const char *path, int flags, unsigned mode)
{
    CALL(int, open, dir, path, flags, mode);
}
static int crash_open_cached(int dir, const char *path, int flags)
{
    CALL(int, open_cached, dir, path, flags);
}
static int crash_close(int fd)
{
    RELEASING_CALL(close, fd);
}
static int64_t crash_pread(int fd, void *out, size_t size, uint64_t offset)
{
    DATA_CALL(pread, fd, out, size, offset);
}
static int64_t crash_pread_cached(int fd, void *out, size_t size, uint64_t offset)
{
    DATA_CALL(pread_cached, fd, out, size, offset);
}
static int64_t crash_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    DATA_CALL(pwrite, fd, data, size, offset);
}
static int64_t crash_pwritev(int fd, const struct iovec *pieces, int count, uint64_t offset)
{
    enum crash_action action = next_call("pwritev");
    if (action == CRASH_FAIL || action == CRASH_FAIL_FOREVER) {
        return planned_error();
    }
    int64_t result;
    if (action == CRASH_SHORT && pieces[0].iov_len > 1) {
        result = real->pwrite(fd, pieces[0].iov_base, pieces[0].iov_len / 2, offset);
    } else {
        result = real->pwritev(fd, pieces, count, offset);
    }
    if (action == CRASH_DIE_AFTER) {
        die();
    }
    return result;
}
static int crash_fallocate(int fd, uint64_t offset, uint64_t size)
{
    CALL(int, fallocate, fd, offset, size);
}
static int crash_punch(int fd, uint64_t offset, uint64_t size)
{
    CALL(int, punch, fd, offset, size);
}
static int crash_truncate(int fd, uint64_t size)
{
    CALL(int, truncate, fd, size);
}
static int crash_sync_data(int fd)
{
    CALL(int, sync_data, fd);
}
static int crash_sync(int fd)
{
    CALL(int, sync, fd);
}
static int crash_stat(int fd, struct cog_stat *out)
{
    CALL(int, stat, fd, out);
}
static int crash_stat_at(int dir, const char *path, struct cog_stat *out)
{
    CALL(int, stat_at, dir, path, out);
}
static int crash_set_mtime_now(int fd)
{
    CALL(int, set_mtime_now, fd);
}
static int crash_chmod(int fd, unsigned mode)
{
    CALL(int, chmod, fd, mode);
}
static int crash_rename(int from_dir, const char *from, int to_dir, const char *to)
{
    CALL(int, rename, from_dir, from, to_dir, to);
}
static int crash_rename_new(int from_dir, const char *from, int to_dir, const char *to)
{
    CALL(int, rename_new, from_dir, from, to_dir, to);
}
static int crash_link(int from_dir, const char *from, int to_dir, const char *to)
{
    CALL(int, link, from_dir, from, to_dir, to);
}
static int crash_unlink(int dir, const char *path)
{
    CALL(int, unlink, dir, path);
}
static int crash_mkdir(int dir, const char *path, unsigned mode)
{
    CALL(int, mkdir, dir, path, mode);
}
static int crash_list(int dir, const char *path, cog_fs_visit visit, void *context)
{
    CALL(int, list, dir, path, visit, context);
}
static int crash_space(int fd, struct cog_fs_space *out)
{
    CALL(int, space, fd, out);
}
static int crash_lock(int fd, uint64_t byte, enum cog_lock_mode mode)
{
    if (mode == COG_UNLOCK) {
        RELEASING_CALL(lock, fd, byte, mode);
    }
    CALL(int, lock, fd, byte, mode);
}
static int crash_lock_whole(int fd, enum cog_lock_mode mode)
{
    if (mode == COG_UNLOCK) {
        RELEASING_CALL(lock_whole, fd, mode);
    }
    CALL(int, lock_whole, fd, mode);
}
static void *crash_map(int fd, size_t size, bool writable_shared)
{
    enum crash_action action = next_call("map");
    if (action == CRASH_FAIL || action == CRASH_FAIL_FOREVER) {
        return NULL;
    }
    void *result = real->map(fd, size, writable_shared);
    if (action == CRASH_DIE_AFTER) {
        die();
    }
    return result;
}
/* Two threads would share out the pieces of a long run anew each time; the walks number the calls.
 */
static void *no_map_to_fill(int fd, size_t size)
{
    (void)fd;
    (void)size;
    return NULL;
}
static int crash_unmap(void *where, size_t size)
{
    RELEASING_CALL(unmap, where, size);
}
static int crash_random(void *out, size_t size)
{
    CALL(int, random, out, size);
}

const struct cog_fs *crash_table(const struct cog_fs *under)
{
    static struct cog_fs table;
    if (!plan) {
        plan = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        REQUIRE(plan != MAP_FAILED);
    }
    real = under;
    table = *under;
    table.open = crash_open;
    table.open_cached = crash_open_cached;
    table.close = crash_close;
    table.pread = crash_pread;
    table.pread_cached = crash_pread_cached;
    table.pwrite = crash_pwrite;
    table.pwritev = crash_pwritev;
    table.fallocate = crash_fallocate;
    table.punch = crash_punch;
    table.truncate = crash_truncate;
    table.sync_data = crash_sync_data;
    table.sync = crash_sync;
    table.stat = crash_stat;
    table.stat_at = crash_stat_at;
    table.set_mtime_now = crash_set_mtime_now;
    table.chmod = crash_chmod;
    table.rename = crash_rename;
    table.rename_new = crash_rename_new;
    table.link = crash_link;
    table.unlink = crash_unlink;
    table.mkdir = crash_mkdir;
    table.list = crash_list;
    table.space = crash_space;
    table.lock = crash_lock;
    table.lock_whole = crash_lock_whole;
    table.map = crash_map;
    table.map_to_fill = no_map_to_fill;
    table.unmap = crash_unmap;
    table.random = crash_random;
    return &table;
}

void crash_arm(enum crash_action action, uint64_t call, int error)
{
    plan->name[0] = '\0';
    atomic_store(&plan->reached, false);
    atomic_store(&plan->action, (int)action);
    atomic_store(&plan->error, error);
    atomic_store(&plan->chosen, call);
    atomic_store(&plan->calls, 0);
    atomic_store(&plan->armed, true);
}

void crash_disarm(void)
{
    atomic_store(&plan->armed, false);
}

uint64_t crash_calls(void)
{
    return atomic_load(&plan->calls);
}

const char *crash_call_name(void)
{
    return plan->name;
}

bool crash_reached(void)
{
    return atomic_load(&plan->reached);
}

/* --- walking --- */

static const char *action_name(enum crash_action action)
{
    switch (action) {
    case CRASH_DIE_BEFORE: return "died before";
    case CRASH_DIE_AFTER: return "died after";
    case CRASH_FAIL: return "failed once";
    case CRASH_FAIL_FOREVER: return "failed for ever";
    case CRASH_SHORT: return "half done";
    case CRASH_NONE: break;
    }
    return "unharmed";
}

static void report(const struct crash_operation *operation, const struct crash_case *what,
                   const char *wrong)
{
    if (!CHECK(wrong == NULL)) {
        fprintf(stderr, "    %s, call %llu (%s) %s, errno %d: %s\n", operation->name,
                (unsigned long long)what->call, crash_call_name(), action_name(what->action),
                what->error, wrong);
    }
}

/* Long operations are walked in strides, unless all is asked for. */
static uint64_t stride(uint64_t calls)
{
    const uint64_t short_enough = 40;
    return getenv("COG_CRASH_FULL") || calls <= short_enough ? 1 : calls / short_enough + 1;
}

/* One death in a child; returns how many calls it made. */
static uint64_t die_once(const struct crash_operation *operation, const struct crash_case *what)
{
    operation->prepare(operation->context);
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        crash_arm(what->action, what->call, 0);
        bool succeeded = operation->act(operation->context);
        crash_disarm();
        _exit(succeeded ? 0 : 1);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    crash_disarm();
    bool died = WIFSIGNALED(status);
    CHECK(!died || WTERMSIG(status) == SIGKILL);
    CHECK_EQ(died, crash_reached() && what->action != CRASH_NONE);
    bool succeeded = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!died && !CHECK(succeeded)) {
        fprintf(stderr, "    %s: failed unharmed\n", operation->name);
    }
    report(operation, what, operation->judge(operation->context, what, died, succeeded));
    return crash_calls();
}

void crash_walk_deaths(const struct crash_operation *operation, struct crash_tally *tally)
{
    struct crash_case what = {.action = CRASH_NONE};
    uint64_t calls = die_once(operation, &what);
    tally->calls += calls;
    CHECK(calls > 0);
    for (what.call = 1; what.call <= calls; what.call += stride(calls)) {
        for (what.action = CRASH_DIE_BEFORE; what.action <= CRASH_DIE_AFTER; what.action++) {
            (void)die_once(operation, &what);
            tally->runs++;
        }
    }
}

static uint64_t fail_once(const struct crash_operation *operation, const struct crash_case *what)
{
    operation->prepare(operation->context);
    crash_arm(what->action, what->call, what->error);
    bool succeeded = operation->act(operation->context);
    uint64_t calls = crash_calls();
    crash_disarm();
    report(operation, what, operation->judge(operation->context, what, false, succeeded));
    return calls;
}

void crash_walk_errors(const struct crash_operation *operation, const int *errors, unsigned count,
                       struct crash_tally *tally)
{
    struct crash_case what = {.action = CRASH_NONE};
    uint64_t calls = fail_once(operation, &what);
    for (what.call = 1; what.call <= calls; what.call += stride(calls)) {
        for (unsigned i = 0; i < count; i++) {
            /* 0 stands for half a read or write */
            what.action = errors[i] ? CRASH_FAIL : CRASH_SHORT;
            what.error = errors[i];
            (void)fail_once(operation, &what);
            tally->runs++;
        }
    }
}
