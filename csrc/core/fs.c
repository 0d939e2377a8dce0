#if defined(__APPLE__)
#define _DARWIN_C_SOURCE 1
#else
#define _GNU_SOURCE 1
#endif

#include "core/fs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <sys/vfs.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "core/alloc.h"

#if defined(F_OFD_SETLK) && defined(__linux__)
#define HAVE_OFD_LOCKS 1
#else
#define HAVE_OFD_LOCKS 0
#endif
#if defined(__linux__) && defined(SYS_openat2)
#define HAVE_OPENAT2 1
#else
#define HAVE_OPENAT2 0
#endif
#if defined(__linux__) && defined(SYS_renameat2)
#define HAVE_RENAMEAT2 1
#else
#define HAVE_RENAMEAT2 0
#endif
#if defined(__linux__) && defined(SYS_getrandom)
#define HAVE_GETRANDOM 1
#else
#define HAVE_GETRANDOM 0
#endif

/* Once a modern call was refused as such, it is not tried again in this process. */
static atomic_bool no_openat2, no_nowait_reads, no_renameat2, no_getrandom, no_fallocate;
enum { LOCKS_UNASKED, LOCKS_PER_DESCRIPTION, LOCKS_PER_PROCESS };
static atomic_int lock_kind;

static bool is_refusal_of_the_call(int error)
{
    return error == ENOSYS || error == EPERM || error == EINVAL;
}

/* The result of a call in the convention of the table. */
#define ANSWER(call)                           \
    do {                                       \
        int answer_;                           \
        do                                     \
            answer_ = (int)(call);             \
        while (answer_ < 0 && errno == EINTR); \
        return answer_ < 0 ? -errno : answer_; \
    } while (0)

/* --- files --- */

static int fs_open(int dir, const char *path, int flags, unsigned mode)
{
    flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (dir == AT_FDCWD ? 0 : O_NOFOLLOW);
    ANSWER(openat(dir, path, flags, (mode_t)mode));
}

static int never_cached_open(int dir, const char *path, int flags)
{
    (void)dir;
    (void)path;
    (void)flags;
    return -EAGAIN;
}

static int fs_open_cached(int dir, const char *path, int flags)
{
#if HAVE_OPENAT2
    /* struct open_how and RESOLVE_CACHED of linux/openat2.h, which older headers lack */
    struct {
        uint64_t flags, mode, resolve;
    } how = {.resolve = 0x20};
    how.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
    if (atomic_load_explicit(&no_openat2, memory_order_relaxed))
        return -EAGAIN;
    long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    if (fd >= 0)
        return (int)fd;
    if (errno == EINTR)
        return -EAGAIN;
    if (!is_refusal_of_the_call(errno))
        return -errno;
    atomic_store_explicit(&no_openat2, true, memory_order_relaxed);
#endif
    return never_cached_open(dir, path, flags);
}

static int fs_close(int fd)
{
    /* The descriptor is gone even after EINTR (Linux, macOS): closing again could close a
     * stranger's. */
    return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

static int fs_retarget(int fd, int onto)
{
#ifdef __linux__
    return dup3(fd, onto, O_CLOEXEC) < 0 ? -errno : 0;
#else
    if (dup2(fd, onto) < 0)
        return -errno;
    return fcntl(onto, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
#endif
}

static int64_t fs_pread(int fd, void *out, size_t size, uint64_t offset)
{
    ssize_t got = pread(fd, out, size > SSIZE_MAX ? SSIZE_MAX : size, (off_t)offset);
    return got < 0 ? -errno : (int64_t)got;
}

static int64_t never_cached_pread(int fd, void *out, size_t size, uint64_t offset)
{
    (void)fd;
    (void)out;
    (void)size;
    (void)offset;
    return -EAGAIN;
}

static int64_t fs_pread_cached(int fd, void *out, size_t size, uint64_t offset)
{
#if defined(RWF_NOWAIT)
    if (atomic_load_explicit(&no_nowait_reads, memory_order_relaxed))
        return -EAGAIN;
    struct iovec piece = {out, size};
    ssize_t got = preadv2(fd, &piece, 1, (off_t)offset, RWF_NOWAIT);
    if (got >= 0)
        return (int64_t)got;
    if (errno == EOPNOTSUPP || errno == EINTR) /* this file system cannot */
        return -EAGAIN;
    if (!is_refusal_of_the_call(errno))
        return -errno;
    atomic_store_explicit(&no_nowait_reads, true, memory_order_relaxed);
#endif
    return never_cached_pread(fd, out, size, offset);
}

static int64_t fs_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    ssize_t put = pwrite(fd, data, size > SSIZE_MAX ? SSIZE_MAX : size, (off_t)offset);
    return put < 0 ? -errno : (int64_t)put;
}

static int64_t fs_pwritev(int fd, const struct iovec *pieces, int count, uint64_t offset)
{
    ssize_t put = pwritev(fd, pieces, count, (off_t)offset);
    return put < 0 ? -errno : (int64_t)put;
}

static int no_allocation(int fd, uint64_t offset, uint64_t size)
{
    (void)fd;
    (void)offset;
    (void)size;
    return -EOPNOTSUPP;
}

static int fs_fallocate(int fd, uint64_t offset, uint64_t size)
{
#if defined(__linux__)
    if (atomic_load_explicit(&no_fallocate, memory_order_relaxed))
        return -EOPNOTSUPP;
    int failed;
    do
        failed = fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
    while (failed && errno == EINTR);
    if (!failed)
        return 0;
    if (errno == ENOSYS || errno == EPERM) {
        atomic_store_explicit(&no_fallocate, true, memory_order_relaxed);
        return -EOPNOTSUPP;
    }
    return -errno;
#else
    return no_allocation(fd, offset, size);
#endif
}

static int fs_punch(int fd, uint64_t offset, uint64_t size)
{
#if defined(__linux__) && defined(FALLOC_FL_PUNCH_HOLE)
    if (!atomic_load_explicit(&no_fallocate, memory_order_relaxed))
        ANSWER(
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size));
#endif
    return no_allocation(fd, offset, size);
}

static int fs_truncate(int fd, uint64_t size)
{
    ANSWER(ftruncate(fd, (off_t)size));
}

static int fs_sync_data(int fd)
{
#if defined(__APPLE__)
    if (fcntl(fd, F_FULLFSYNC) == 0) /* fsync alone leaves it in the drive's cache there */
        return 0;
    ANSWER(fsync(fd));
#else
    ANSWER(fdatasync(fd));
#endif
}

static int fs_sync(int fd)
{
#if defined(__APPLE__)
    if (fcntl(fd, F_FULLFSYNC) == 0)
        return 0;
#endif
    ANSWER(fsync(fd));
}

static int64_t nanoseconds(struct timespec at)
{
    return (int64_t)at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void copy_stat(const struct stat *from, struct cog_stat *out)
{
    *out = (struct cog_stat)
    {
        .device = (uint64_t)from->st_dev, .inode = (uint64_t)from->st_ino,
        .size = (uint64_t)from->st_size, .blocks_bytes = (uint64_t)from->st_blocks * 512,
        .links = (uint64_t)from->st_nlink, .mode = (uint32_t)from->st_mode,
        .uid = (uint32_t)from->st_uid, .gid = (uint32_t)from->st_gid,
#if defined(__APPLE__)
        .mtime_ns = nanoseconds(from->st_mtimespec), .atime_ns = nanoseconds(from->st_atimespec),
        .ctime_ns = nanoseconds(from->st_ctimespec),
#else
        .mtime_ns = nanoseconds(from->st_mtim), .atime_ns = nanoseconds(from->st_atim),
        .ctime_ns = nanoseconds(from->st_ctim),
#endif
    };
}

static int fs_stat(int fd, struct cog_stat *out)
{
    struct stat got;
    if (fstat(fd, &got))
        return -errno;
    copy_stat(&got, out);
    return 0;
}

static int fs_stat_at(int dir, const char *path, struct cog_stat *out)
{
    struct stat got;
    if (fstatat(dir, path, &got, AT_SYMLINK_NOFOLLOW))
        return -errno;
    copy_stat(&got, out);
    return 0;
}

static int fs_set_mtime_now(int fd)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};
    ANSWER(futimens(fd, times));
}

static int fs_chmod(int fd, unsigned mode)
{
    ANSWER(fchmod(fd, (mode_t)mode));
}

/* --- names --- */

static int fs_rename(int from_dir, const char *from, int to_dir, const char *to)
{
    ANSWER(renameat(from_dir, from, to_dir, to));
}

/*
 * Without renameat2: link the new name, which never replaces, then unlink the old one. Who dies in
 * between leaves a second name of the same file among the temp files, which is reaped like any
 * other.
 */
static int plain_rename_new(int from_dir, const char *from, int to_dir, const char *to)
{
    if (linkat(from_dir, from, to_dir, to, 0) == 0)
        return unlinkat(from_dir, from, 0) == 0 || errno == ENOENT ? 0 : COG_BOTH_NAMES;
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
        return -errno;
    struct stat
        there; /* no hard links here: as good as it gets, and our writers hold the shard's lock */
    if (fstatat(to_dir, to, &there, AT_SYMLINK_NOFOLLOW) == 0)
        return -EEXIST;
    if (errno != ENOENT)
        return -errno;
    return fs_rename(from_dir, from, to_dir, to);
}

static int fs_rename_new(int from_dir, const char *from, int to_dir, const char *to)
{
#if HAVE_RENAMEAT2
    if (!atomic_load_explicit(&no_renameat2, memory_order_relaxed)) {
        const unsigned noreplace = 1; /* RENAME_NOREPLACE */
        long failed;
        do
            failed = syscall(SYS_renameat2, from_dir, from, to_dir, to, noreplace);
        while (failed && errno == EINTR);
        if (!failed)
            return 0;
        if (!is_refusal_of_the_call(errno))
            return -errno;
        int plain = plain_rename_new(from_dir, from, to_dir, to);
        if (plain >= 0) /* so it was the call, not the directory, that was refused */
            atomic_store_explicit(&no_renameat2, true, memory_order_relaxed);
        return plain;
    }
#endif
    return plain_rename_new(from_dir, from, to_dir, to);
}

static int fs_link(int from_dir, const char *from, int to_dir, const char *to)
{
    ANSWER(linkat(from_dir, from, to_dir, to, 0));
}

static int fs_unlink(int dir, const char *path)
{
    ANSWER(unlinkat(dir, path, 0));
}

static int fs_mkdir(int dir, const char *path, unsigned mode)
{
    ANSWER(mkdirat(dir, path, (mode_t)mode));
}

static int fs_list(int dir, const char *path, cog_fs_visit visit, void *context)
{
    int fd = fs_open(dir, path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    DIR *names = fdopendir(fd);
    if (!names) {
        int error = errno;
        fs_close(fd);
        return -error;
    }
    int result = 0;
    for (;;) {
        errno = 0;
        const struct dirent *one = readdir(names);
        if (!one) {
            result = -errno;
            break;
        }
        if (strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0)
            continue;
        if (!visit(context, one->d_name))
            break;
    }
    closedir(names);
    return result;
}

/* One call where it tells the type as well: every put asks, and to add up what is free takes a file
 * system a while. */
static int fs_space(int fd, struct cog_fs_space *out)
{
#if defined(__linux__)
    struct statfs got;
    if (fstatfs(fd, &got))
        return -errno;
    const uint64_t free_files = (uint64_t)got.f_ffree, type = (uint64_t)(uint32_t)got.f_type;
#else
    struct statvfs got;
    if (fstatvfs(fd, &got))
        return -errno;
    const uint64_t free_files = (uint64_t)got.f_favail, type = 0;
#endif
    uint64_t unit = got.f_frsize ? (uint64_t)got.f_frsize : (uint64_t)got.f_bsize;
    *out = (struct cog_fs_space){
        .free_bytes = (uint64_t)got.f_bavail * unit,
        .total_bytes = (uint64_t)got.f_blocks * unit,
        .free_files = free_files,
        .block_size = (uint32_t)unit,
        .type = type,
    };
    return 0;
}

/* --- locks --- */

static int record_lock(int fd, int command, uint64_t byte, enum cog_lock_mode mode)
{
    struct flock range = {
        .l_type = mode == COG_UNLOCK ? F_UNLCK : F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)byte,
        .l_len = 1,
    };
    int failed;
    do
        failed = fcntl(fd, command, &range);
    while (failed < 0 && errno == EINTR);
    if (failed >= 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

static int plain_lock(int fd, uint64_t byte, enum cog_lock_mode mode)
{
    return record_lock(fd, F_SETLK, byte, mode);
}

static bool plain_locks_are_per_description(void)
{
    return false;
}

static bool fs_locks_are_per_description(void)
{
#if HAVE_OFD_LOCKS
    int kind = atomic_load_explicit(&lock_kind, memory_order_relaxed);
    if (kind == LOCKS_UNASKED) {
        int fd = fs_open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY, 0);
        if (fd < 0) /* no descriptor left: the usual answer, and ask again next time */
            return true;
        struct flock range = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1};
        kind = fcntl(fd, F_OFD_GETLK, &range) == 0 ? LOCKS_PER_DESCRIPTION : LOCKS_PER_PROCESS;
        fs_close(fd);
        atomic_store_explicit(&lock_kind, kind, memory_order_relaxed);
    }
    return kind == LOCKS_PER_DESCRIPTION;
#else
    return false;
#endif
}

static int fs_lock(int fd, uint64_t byte, enum cog_lock_mode mode)
{
#if HAVE_OFD_LOCKS
    if (fs_locks_are_per_description())
        return record_lock(fd, F_OFD_SETLK, byte, mode);
#endif
    return plain_lock(fd, byte, mode);
}

static int fs_lock_whole(int fd, enum cog_lock_mode mode)
{
    ANSWER(flock(fd, mode == COG_UNLOCK ? LOCK_UN : LOCK_EX | LOCK_NB));
}

/* --- memory --- */

static void *fs_map(int fd, size_t size, bool writable_shared)
{
    int flags = writable_shared ? MAP_SHARED : MAP_PRIVATE;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
    void *where = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (where == MAP_FAILED)
        return NULL;
#if defined(POSIX_MADV_RANDOM)
    /* no reading ahead: a store into a page that came with its neighbours makes XFS allocate blocks
     * for the holes among them, which nobody has counted */
    if (writable_shared)
        (void)posix_madvise(where, size, POSIX_MADV_RANDOM);
#endif
    return where;
}

static int fs_unmap(void *where, size_t size)
{
    ANSWER(munmap(where, size));
}

static int no_advice(void *where, size_t size)
{
    (void)where;
    (void)size;
    return -EOPNOTSUPP;
}

static int fs_advise_huge(void *where, size_t size)
{
#if defined(MADV_HUGEPAGE)
    ANSWER(madvise(where, size, MADV_HUGEPAGE));
#else
    return no_advice(where, size);
#endif
}

/* where they are larger, the calls below refuse and nothing is lost */
enum { SMALLEST_PAGE = 4096 };

static int fs_populate(void *where, size_t size)
{
#if defined(MADV_POPULATE_WRITE)
    unsigned char present = 0;

    /* Memory that was used before is there already; to be told so page by page takes as long as
     * filling it. */
    if (size < SMALLEST_PAGE ||
        (mincore((unsigned char *)where + size - SMALLEST_PAGE, 1, &present) == 0 && (present & 1)))
        return 0;
    ANSWER(madvise(where, size, MADV_POPULATE_WRITE));
#else
    return no_advice(where, size);
#endif
}

static void *no_wiped_pages(size_t size)
{
    (void)size;
    return NULL;
}

static void *fs_wiped_on_fork(size_t size)
{
#if defined(MADV_WIPEONFORK)
    void *where = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (where == MAP_FAILED)
        return NULL;
    if (madvise(where, size, MADV_WIPEONFORK) == 0)
        return where;
    munmap(where, size);
#endif
    return no_wiped_pages(size);
}

static void *no_map_to_fill(int fd, size_t size)
{
    (void)fd;
    (void)size;
    return NULL;
}

static void *fs_map_to_fill(int fd, size_t size)
{
#if defined(MADV_HUGEPAGE)
    void *where = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (where == MAP_FAILED)
        return NULL;
    if (madvise(where, size, MADV_HUGEPAGE) == 0)
        return where;
    munmap(where, size);
#endif
    return no_map_to_fill(fd, size);
}

static uint64_t fs_faults(void)
{
#if defined(RUSAGE_THREAD)
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0)
        return (uint64_t)(usage.ru_minflt + usage.ru_majflt);
#endif
    return 0;
}

/* --- time and chance --- */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (uint64_t)nanoseconds(now);
}

static uint64_t fs_realtime_us(void)
{
    return clock_ns(CLOCK_REALTIME) / 1000;
}

static uint64_t fs_realtime_ms(void)
{
    return clock_ns(CLOCK_REALTIME) / 1000000;
}

static uint64_t fs_boottime_ns(void)
{
#if defined(CLOCK_BOOTTIME)
    return clock_ns(CLOCK_BOOTTIME);
#else
    return clock_ns(CLOCK_MONOTONIC); /* macOS: counts sleep already */
#endif
}

static void fs_sleep_us(uint32_t microseconds)
{
    struct timespec left = {.tv_sec = (time_t)(microseconds / 1000000),
                            .tv_nsec = (long)(microseconds % 1000000) * 1000};
    while (nanosleep(&left, &left) && errno == EINTR)
        continue;
}

static int plain_random(void *out, size_t size)
{
    int fd = fs_open(AT_FDCWD, "/dev/urandom", O_RDONLY, 0);
    if (fd < 0)
        return fd;
    size_t done = 0;
    int result = 0;
    while (done < size && !result) {
        ssize_t got = read(fd, (char *)out + done, size - done);
        if (got > 0)
            done += (size_t)got;
        else if (got == 0)
            result = -EIO;
        else if (errno != EINTR)
            result = -errno;
    }
    fs_close(fd);
    return result;
}

static int fs_random(void *out, size_t size)
{
#if HAVE_GETRANDOM
    size_t done = 0;
    while (done < size && !atomic_load_explicit(&no_getrandom, memory_order_relaxed)) {
        long got = syscall(SYS_getrandom, (char *)out + done, size - done, 0);
        if (got > 0)
            done += (size_t)got;
        else if (errno != EINTR)
            atomic_store_explicit(&no_getrandom, true, memory_order_relaxed);
    }
    if (done == size)
        return 0;
#endif
    return plain_random(out, size);
}

#if !defined(__APPLE__)
static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return -1;
}
#endif

static int fs_boot_id(unsigned char out[16])
{
#if defined(__APPLE__)
    struct timeval booted;
    size_t size = sizeof booted;
    memset(out, 0, 16);
    if (sysctlbyname("kern.boottime", &booted, &size, NULL, 0))
        return -errno;
    memcpy(out, &booted.tv_sec, sizeof booted.tv_sec);
    return 0;
#else
    char text[40];
    int fd = fs_open(AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
    if (fd < 0)
        return fd;
    int64_t got = fs_pread(fd, text, sizeof text, 0);
    fs_close(fd);
    int digits = 0;
    memset(out, 0, 16);
    for (int64_t i = 0; i < got && digits < 32; i++) {
        int value = hex_digit(text[i]);
        if (value < 0)
            continue;
        out[digits / 2] = (unsigned char)(out[digits / 2] << 4 | value);
        digits++;
    }
    return got < 0 ? (int)got : digits == 32 ? 0 : -ENODATA;
#endif
}

static uint32_t fs_effective_uid(void)
{
    return (uint32_t)geteuid();
}

static bool fs_in_group(uint32_t gid)
{
    if ((uint32_t)getegid() == gid)
        return true;
    int count = getgroups(0, NULL);
    gid_t few[64], *all = few;
    if (count > 64 && !(all = cog_alloc((size_t)count * sizeof *all)))
        return false;
    count = count > 0 ? getgroups(count, all) : 0;
    bool found = false;
    for (int i = 0; i < count && !found; i++)
        found = (uint32_t)all[i] == gid;
    if (all != few)
        cog_free(all);
    return found;
}

static uint32_t fs_process_id(void)
{
    return (uint32_t)getpid();
}

/* --- the tables --- */

#define CALLS_OF_EVERY_SYSTEM                                                                     \
    .open = fs_open, .close = fs_close, .retarget = fs_retarget, .pread = fs_pread,               \
    .pwrite = fs_pwrite, .pwritev = fs_pwritev, .truncate = fs_truncate,                          \
    .sync_data = fs_sync_data, .sync = fs_sync, .stat = fs_stat, .stat_at = fs_stat_at,           \
    .set_mtime_now = fs_set_mtime_now, .chmod = fs_chmod, .rename = fs_rename, .link = fs_link,   \
    .unlink = fs_unlink, .mkdir = fs_mkdir, .list = fs_list, .space = fs_space,                   \
    .lock_whole = fs_lock_whole, .map = fs_map, .unmap = fs_unmap, .realtime_ms = fs_realtime_ms, \
    .realtime_us = fs_realtime_us, .boottime_ns = fs_boottime_ns, .sleep_us = fs_sleep_us,        \
    .boot_id = fs_boot_id, .effective_uid = fs_effective_uid, .in_group = fs_in_group,            \
    .process_id = fs_process_id, .faults = fs_faults

static const struct cog_fs modern = {
    CALLS_OF_EVERY_SYSTEM,
    .open_cached = fs_open_cached,
    .pread_cached = fs_pread_cached,
    .fallocate = fs_fallocate,
    .punch = fs_punch,
    .rename_new = fs_rename_new,
    .lock = fs_lock,
    .locks_are_per_description = fs_locks_are_per_description,
    .advise_huge = fs_advise_huge,
    .populate = fs_populate,
    .wiped_on_fork = fs_wiped_on_fork,
    .map_to_fill = fs_map_to_fill,
    .random = fs_random,
};

static const struct cog_fs plain = {
    CALLS_OF_EVERY_SYSTEM,
    .open_cached = never_cached_open,
    .pread_cached = never_cached_pread,
    .fallocate = no_allocation,
    .punch = no_allocation,
    .rename_new = plain_rename_new,
    .lock = plain_lock,
    .locks_are_per_description = plain_locks_are_per_description,
    .advise_huge = no_advice,
    .populate = no_advice,
    .wiped_on_fork = no_wiped_pages,
    .map_to_fill = no_map_to_fill,
    .random = plain_random,
};

const struct cog_fs *cog_fs_system(void)
{
    const char *wish = getenv("COGCACHE_PLAIN_POSIX");
    return wish && strcmp(wish, "1") == 0 ? &plain : &modern;
}

const struct cog_fs *cog_fs_posix(void)
{
    return &plain;
}

/* --- helpers --- */

int cog_fs_read_all(const struct cog_fs *fs, int fd, void *out, size_t size, uint64_t offset)
{
    char *to = out;
    while (size) {
        int64_t got = fs->pread(fd, to, size, offset);
        if (got == -EINTR)
            continue;
        if (got <= 0)
            return got ? (int)got : -ENODATA;
        to += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return 0;
}

int cog_fs_write_all(const struct cog_fs *fs, int fd, const void *data, size_t size,
                     uint64_t offset)
{
    const char *from = data;
    while (size) {
        int64_t put = fs->pwrite(fd, from, size, offset);
        if (put == -EINTR)
            continue;
        if (put <= 0)
            return put ? (int)put : -EIO; /* a write of nothing would never end */
        from += put;
        offset += (uint64_t)put;
        size -= (size_t)put;
    }
    return 0;
}

int cog_fs_writev_all(const struct cog_fs *fs, int fd, const struct iovec *pieces, size_t count,
                      uint64_t offset)
{
    enum { AT_ONCE = 64 };
    struct iovec batch[AT_ONCE];
    size_t next = 0, inside = 0; /* first piece not yet written, and how much of it is */
    while (next < count) {
        int used = 0;
        for (size_t i = next; i < count && used < AT_ONCE; i++, used++) {
            batch[used] = pieces[i];
            if (i == next) {
                batch[0].iov_base = (char *)pieces[i].iov_base + inside;
                batch[0].iov_len = pieces[i].iov_len - inside;
            }
        }
        while (used && batch[0].iov_len == 0) { /* an empty piece is not a write of nothing */
            memmove(batch, batch + 1, (size_t)--used * sizeof batch[0]);
            next++;
            inside = 0;
        }
        if (!used)
            continue;
        int64_t put = fs->pwritev(fd, batch, used, offset);
        if (put == -EINTR)
            continue;
        if (put <= 0)
            return put ? (int)put : -EIO;
        offset += (uint64_t)put;
        for (uint64_t left = (uint64_t)put; left;) {
            size_t room = pieces[next].iov_len - inside;
            if (left < room) {
                inside += (size_t)left;
                break;
            }
            left -= room;
            next++;
            inside = 0;
        }
    }
    return 0;
}

int cog_fs_lock_whole_patiently(const struct cog_fs *fs, int fd)
{
    enum { MOST_TRIES = 2000 };
    int failed = fs->lock_whole(fd, COG_LOCK_EXCLUSIVE);
    for (int tries = 0; failed == -EAGAIN && tries < MOST_TRIES; tries++) {
        fs->sleep_us(1000);
        failed = fs->lock_whole(fd, COG_LOCK_EXCLUSIVE);
    }
    return failed;
}
