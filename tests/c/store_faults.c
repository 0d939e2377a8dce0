#include "store_faults.h"

#include <errno.h>
#include <string.h>

static const struct cog_fs *under;
static struct cog_fs table;
static unsigned long countdown, calls;
static int wanted;
static bool for_ever, happened;
static const char *first, *only;
static uint64_t file_system;

void faults_set(unsigned long n, int error, bool always)
{
    countdown = n;
    wanted = error;
    for_ever = always;
    happened = false;
    first = "none";
}

void faults_stop(void)
{
    countdown = 0;
}

void faults_only(const char *name)
{
    only = name;
}

unsigned long faults_calls(void)
{
    return calls;
}

bool faults_happened(void)
{
    return happened;
}

const char *faults_call(void)
{
    return first;
}

void faults_file_system(uint64_t type)
{
    file_system = type;
}

/* 0, or what this call is to answer. */
static int due(const char *name)
{
    calls++;
    if (countdown == 0 || (only != NULL && strcmp(only, name) != 0)) {
        return 0;
    }
    if (countdown > 1) {
        countdown--;
        return 0;
    }
    if (!for_ever) {
        countdown = 0;
    }
    if (!happened) {
        first = name;
    }
    happened = true;
    return wanted == FAULT_SHORT ? FAULT_SHORT : -wanted;
}

/* Calls that cannot be interrupted or be short do as asked then. */
static int refusal(const char *name)
{
    int error = due(name);
    return error == FAULT_SHORT || error == -EINTR ? 0 : error;
}

#define REFUSE(name)                \
    do {                            \
        int error_ = refusal(name); \
        if (error_ < 0) {           \
            return error_;          \
        }                           \
    } while (0)

static int f_open(int dir, const char *path, int flags, unsigned mode)
{
    REFUSE("open");
    return under->open(dir, path, flags, mode);
}

static int f_open_cached(int dir, const char *path, int flags)
{
    REFUSE("open_cached");
    return under->open_cached(dir, path, flags);
}

static int64_t f_pread(int fd, void *out, size_t size, uint64_t offset)
{
    int error = due("pread");
    if (error == FAULT_SHORT) {
        size = (size + 1) / 2;
    } else if (error < 0) {
        return error;
    }
    return under->pread(fd, out, size, offset);
}

static int64_t f_pread_cached(int fd, void *out, size_t size, uint64_t offset)
{
    int error = due("pread_cached");
    if (error == FAULT_SHORT) {
        size /= 2;
    } else if (error < 0) {
        return error;
    }
    return under->pread_cached(fd, out, size, offset);
}

static int64_t f_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    int error = due("pwrite");
    if (error == FAULT_SHORT) {
        size = (size + 1) / 2;
    } else if (error < 0) {
        return error;
    }
    return under->pwrite(fd, data, size, offset);
}

static int64_t f_pwritev(int fd, const struct iovec *pieces, int count, uint64_t offset)
{
    int error = due("pwritev");
    if (error == FAULT_SHORT) {
        struct iovec half = {pieces[0].iov_base, (pieces[0].iov_len + 1) / 2};
        return under->pwritev(fd, &half, 1, offset);
    }
    return error < 0 ? error : under->pwritev(fd, pieces, count, offset);
}

static int f_fallocate(int fd, uint64_t offset, uint64_t size)
{
    REFUSE("fallocate");
    return under->fallocate(fd, offset, size);
}

static int f_punch(int fd, uint64_t offset, uint64_t size)
{
    REFUSE("punch");
    return under->punch(fd, offset, size);
}

static int f_truncate(int fd, uint64_t size)
{
    REFUSE("truncate");
    return under->truncate(fd, size);
}

static int f_sync_data(int fd)
{
    REFUSE("sync_data");
    return under->sync_data(fd);
}

static int f_sync(int fd)
{
    REFUSE("sync");
    return under->sync(fd);
}

static int f_stat(int fd, struct cog_stat *out)
{
    REFUSE("stat");
    return under->stat(fd, out);
}

static int f_stat_at(int dir, const char *path, struct cog_stat *out)
{
    REFUSE("stat_at");
    return under->stat_at(dir, path, out);
}

static int f_set_mtime_now(int fd)
{
    REFUSE("set_mtime_now");
    return under->set_mtime_now(fd);
}

static int f_chmod(int fd, unsigned mode)
{
    REFUSE("chmod");
    return under->chmod(fd, mode);
}

static int f_rename(int from_dir, const char *from, int to_dir, const char *to)
{
    REFUSE("rename");
    return under->rename(from_dir, from, to_dir, to);
}

static int f_rename_new(int from_dir, const char *from, int to_dir, const char *to)
{
    REFUSE("rename_new");
    return under->rename_new(from_dir, from, to_dir, to);
}

static int f_link(int from_dir, const char *from, int to_dir, const char *to)
{
    REFUSE("link");
    return under->link(from_dir, from, to_dir, to);
}

static int f_unlink(int dir, const char *path)
{
    REFUSE("unlink");
    return under->unlink(dir, path);
}

static int f_mkdir(int dir, const char *path, unsigned mode)
{
    REFUSE("mkdir");
    return under->mkdir(dir, path, mode);
}

static int f_list(int dir, const char *path, cog_fs_visit visit, void *context)
{
    REFUSE("list");
    return under->list(dir, path, visit, context);
}

static int f_space(int fd, struct cog_fs_space *out)
{
    REFUSE("space");
    int rc = under->space(fd, out);
    if (file_system != 0) {
        out->type = file_system;
    }
    return rc;
}

static int f_lock(int fd, uint64_t byte, enum cog_lock_mode mode)
{
    if (mode != COG_UNLOCK) { /* giving back does not fail */
        REFUSE("lock");
    }
    return under->lock(fd, byte, mode);
}

static void *f_map(int fd, size_t size, bool writable_shared)
{
    return refusal("map") < 0 ? NULL : under->map(fd, size, writable_shared);
}

/* Waiting takes no time: it moves the clock instead. */
static uint64_t slept_ns;

static void f_sleep_us(uint32_t microseconds)
{
    slept_ns += (uint64_t)microseconds * 1000;
}

void faults_pass_time(uint64_t seconds)
{
    slept_ns += seconds * UINT64_C(1000000000);
}

static uint64_t f_boottime_ns(void)
{
    return under->boottime_ns() + slept_ns;
}

const struct cog_fs *faults_over(const struct cog_fs *fs)
{
    under = fs;
    table = *fs;
    table.open = f_open;
    table.open_cached = f_open_cached;
    table.pread = f_pread;
    table.pread_cached = f_pread_cached;
    table.pwrite = f_pwrite;
    table.pwritev = f_pwritev;
    table.fallocate = f_fallocate;
    table.punch = f_punch;
    table.truncate = f_truncate;
    table.sync_data = f_sync_data;
    table.sync = f_sync;
    table.stat = f_stat;
    table.stat_at = f_stat_at;
    table.set_mtime_now = f_set_mtime_now;
    table.chmod = f_chmod;
    table.rename = f_rename;
    table.rename_new = f_rename_new;
    table.link = f_link;
    table.unlink = f_unlink;
    table.mkdir = f_mkdir;
    table.list = f_list;
    table.space = f_space;
    table.lock = f_lock;
    table.map = f_map;
    table.sleep_us = f_sleep_us;
    table.boottime_ns = f_boottime_ns;
    faults_set(0, 0, false);
    faults_only(NULL);
    faults_file_system(0);
    return &table;
}
