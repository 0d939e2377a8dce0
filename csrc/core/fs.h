/*
 * The only door to the operating system for the store: one replaceable table of calls.
 *
 * Conventions: results are >= 0 or -errno; nothing reads errno behind the caller's back. Tests wrap
 * the table to count, delay, fail or die at any single call. Linux-only calls are chosen at run
 * time: the default table tries the modern call once and remembers ENOSYS / EPERM / EINVAL from it
 * (a container's seccomp, an old kernel), then takes the POSIX way; `cog_fs_posix()` is the same
 * table with all of them switched off from the start. `COGCACHE_PLAIN_POSIX=1` chooses it. What a
 * signal can interrupt is repeated inside, but for pread and pwrite, which the helpers below
 * repeat.
 */
#ifndef COG_FS_H
#define COG_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "core/status.h"

struct cog_stat {
    uint64_t device, inode, size, blocks_bytes; /* blocks_bytes = st_blocks * 512 */
    uint64_t links;
    uint32_t mode, uid, gid;
    int64_t mtime_ns, atime_ns, ctime_ns;
};

struct cog_fs_space {
    uint64_t free_bytes; /* available to us */
    uint64_t total_bytes;
    uint64_t free_files;
    uint32_t block_size;
    uint64_t type; /* f_type where the system tells it, else 0 */
};

enum { COG_BOTH_NAMES = 1 };
enum cog_lock_mode { COG_LOCK_EXCLUSIVE, COG_UNLOCK };

/* One name of a directory; return false to stop. */
typedef bool (*cog_fs_visit)(void *context, const char *name);

struct cog_fs {
    /* files; every path is relative to a directory descriptor (or AT_FDCWD for the base path alone)
     */
    int (*open)(int dir, const char *path, int flags, unsigned mode);
    /* O_CLOEXEC, O_NOCTTY, O_NONBLOCK (a planted FIFO never blocks us) and, but for AT_FDCWD,
     * O_NOFOLLOW are added */
    int (*open_cached)(int dir, const char *path,
                       int flags); /* RESOLVE_CACHED; -EAGAIN: would block or unsupported */
    int (*close)(int fd);
    int (*retarget)(int fd, int onto); /* `onto` is what `fd` is from now on, at one instant; both
                                          stay open */
    int64_t (*pread)(int fd, void *out, size_t size,
                     uint64_t offset); /* may be short; -EINTR possible */
    int64_t (*pread_cached)(int fd, void *out, size_t size,
                            uint64_t offset); /* RWF_NOWAIT; -EAGAIN or short: would block */
    int64_t (*pwrite)(int fd, const void *data, size_t size, uint64_t offset);
    int64_t (*pwritev)(int fd, const struct iovec *pieces, int count, uint64_t offset);
    int (*fallocate)(int fd, uint64_t offset,
                     uint64_t size); /* blocks; the length stays. -EOPNOTSUPP where there is none */
    int (*punch)(int fd, uint64_t offset, uint64_t size); /* free blocks, keep the size */
    int (*truncate)(int fd, uint64_t size);
    int (*sync_data)(int fd);
    int (*sync)(int fd);
    int (*stat)(int fd, struct cog_stat *out);
    int (*stat_at)(int dir, const char *path, struct cog_stat *out); /* never follows */
    int (*set_mtime_now)(int fd);
    int (*chmod)(int fd, unsigned mode);
    /* names */
    int (*rename)(int from_dir, const char *from, int to_dir, const char *to);
    /* never replaces: -EEXIST; COG_BOTH_NAMES: done, but the old name could not be taken away */
    int (*rename_new)(int from_dir, const char *from, int to_dir, const char *to);
    int (*link)(int from_dir, const char *from, int to_dir, const char *to);
    int (*unlink)(int dir, const char *path);
    int (*mkdir)(int dir, const char *path, unsigned mode);
    int (*list)(int dir, const char *path, cog_fs_visit visit,
                void *context); /* without . and .. */
    int (*space)(int fd, struct cog_fs_space *out);
    /* locks on one byte of a file: OFD locks, else POSIX record locks; never waits: -EAGAIN */
    int (*lock)(int fd, uint64_t byte, enum cog_lock_mode mode);
    bool (*locks_are_per_description)(
        void); /* false: POSIX locks, one shared descriptor per file and process */
    int (*lock_whole)(
        int fd, enum cog_lock_mode mode); /* flock, for making the index; never waits: -EAGAIN */
    /* memory */
    void *(*map)(int fd, size_t size,
                 bool writable_shared); /* shared writable, or private copy-on-write; NULL */
    int (*unmap)(void *where, size_t size);
    int (*advise_huge)(void *where, size_t size);
    int (*populate)(void *where, size_t size); /* make whole pages of fresh memory present, at once
                                                  rather than one fault at a time */
    void *(*wiped_on_fork)(size_t size); /* zeroed pages, zero again in every forked child; NULL
                                            where there are none */
    /* a fresh file, shared and writable, in large pages; NULL where that is not to be had */
    void *(*map_to_fill)(int fd, size_t size);
    uint64_t (*faults)(void); /* page faults of this thread so far; 0 where nobody counts */
    /* time and chance */
    uint64_t (*realtime_ms)(void);
    uint64_t (*realtime_us)(void);
    uint64_t (*boottime_ns)(void);
    void (*sleep_us)(uint32_t microseconds);
    int (*random)(void *out, size_t size); /* getrandom; never a generator that fork copies */
    int (*boot_id)(unsigned char out[16]);
    uint32_t (*effective_uid)(void);
    bool (*in_group)(uint32_t gid);
    uint32_t (*process_id)(void);
};

const struct cog_fs *cog_fs_system(void); /* the default */
const struct cog_fs *cog_fs_posix(void);  /* without any Linux-only call */

/* Helpers over a table: whole reads and writes that loop on short results and EINTR. 0 or -errno;
 * -ENODATA: end of file. */
int cog_fs_read_all(const struct cog_fs *fs, int fd, void *out, size_t size, uint64_t offset);
int cog_fs_write_all(const struct cog_fs *fs, int fd, const void *data, size_t size,
                     uint64_t offset);
int cog_fs_writev_all(const struct cog_fs *fs, int fd, const struct iovec *pieces, size_t count,
                      uint64_t offset);

/* lock_whole, tried again for up to two seconds. 0 or -errno. */
int cog_fs_lock_whole_patiently(const struct cog_fs *fs, int fd);

#endif
