#define _GNU_SOURCE 1

#include "index_kit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/alloc.h"

#include "check.h"

/* --- roots --- */

void root_make(struct root *root, const char *parent)
{
    if (!parent) {
        parent = getenv("TMPDIR");
    }
    snprintf(root->path, sizeof root->path, "%s/cog-index-XXXXXX", parent ? parent : "/tmp");
    REQUIRE(mkdtemp(root->path) != NULL);
    root->fd = open(root->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    REQUIRE(root->fd >= 0);
    REQUIRE(mkdirat(root->fd, "objects", 0700) == 0);
    REQUIRE(mkdirat(root->fd, "tmp", 0700) == 0);
}

static int remove_one(const char *path, const struct stat *stat, int kind, struct FTW *where)
{
    (void)stat;
    (void)kind;
    (void)where;
    return remove(path);
}

void root_remove(struct root *root)
{
    close(root->fd);
    nftw(root->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *root_begin(struct root *root, const char *name, unsigned mode)
{
    static const char *const modes[ROOT_MODES] = {"mapped", "by pread", "plain POSIX, mapped",
                                                  "plain POSIX, by pread"};
    static char label[160];
    *root = (struct root){.fs = mode < 2 ? cog_fs_system() : cog_fs_posix(),
                          .no_map = mode % 2 == 1};
    root_make(root, NULL);
    snprintf(label, sizeof label, "%s (%s)", name, modes[mode]);
    return label;
}

struct cog_index_options root_options(const struct root *root)
{
    return (struct cog_index_options){
        .fs = root->fs,
        .root = root->fd,
        .limit = UINT64_C(64) << 20,
        .policy = COG_POLICY_LRU,
        .no_map = root->no_map,
    };
}

struct cog_index *root_open(const struct root *root, const struct cog_index_options *options)
{
    struct cog_index_options usual = root_options(root);
    struct cog_index *index;
    struct cog_error err = {0};
    enum cog_status status = cog_index_open(options ? options : &usual, &index, &err);
    if (status != COG_OK) {
        fprintf(stderr, "open: %d %s (errno %d)\n", status, err.text, err.sys_errno);
    }
    REQUIRE(status == COG_OK);
    return index;
}

/* --- entries --- */

unsigned kit_patience = 100;

void key_digest(uint64_t key, struct cog_digest *out)
{
    cog_hash128(&key, sizeof key, out);
}

uint64_t key_in_shard(unsigned shard, unsigned n)
{
    struct cog_digest digest;
    for (uint64_t key = 0;; key++) {
        key_digest(key, &digest);
        if (digest.bytes[0] == shard && n-- == 0) {
            return key;
        }
    }
}

struct stamp { /* at the head and at the end of every file */
    uint64_t key, write, size, check;
};

static struct stamp stamp_of(uint64_t key, uint64_t write, uint64_t size)
{
    struct stamp stamp = {key, write, size, 0};
    stamp.check = cog_hash64(&stamp, offsetof(struct stamp, check), 7);
    return stamp;
}

static size_t whole_size(size_t size)
{
    return size < 2 * sizeof(struct stamp) ? 2 * sizeof(struct stamp) : size;
}

static int write_range(const struct cog_fs *fs, int fd, size_t from, size_t to)
{
    static const unsigned char filling[1 << 16] = {1};
    int failed = 0;
#ifdef FALLOC_FL_KEEP_SIZE
    /* what was reserved and no more: XFS takes room ahead of a file that grows write by write */
    (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from));
#endif
    while (from < to && !failed) {
        size_t some = to - from < sizeof filling ? to - from : sizeof filling;
        failed = cog_fs_write_all(fs, fd, filling, some, from);
        from += some;
    }
    return failed;
}

static int write_stamps(const struct cog_fs *fs, int fd, uint64_t key, size_t size)
{
    static _Atomic uint64_t writes;
    struct stamp stamp = stamp_of(key,
                                  (atomic_fetch_add(&writes, 1) + 1) << 24 | (uint64_t)getpid(),
                                  size);
    int failed = cog_fs_write_all(fs, fd, &stamp, sizeof stamp, 0);
    return failed ? failed : cog_fs_write_all(fs, fd, &stamp, sizeof stamp, size - sizeof stamp);
}

/* A temp file goes with all others when an index is made. */
static enum cog_status gone_or_failed(int failed)
{
    return failed == -ENOENT ? COG_INDEX_MOVED : COG_ERR_IO;
}

static enum cog_status publish(struct cog_index *index, const struct cog_reservation *reservation,
                               const char *temp, const struct cog_stat *stat, uint64_t key,
                               const struct cog_index_record *as)
{
    const struct cog_fs *fs = index->options.fs;
    int root = index->options.root;
    struct cog_index_lock lock;
    struct cog_index_found found;
    struct cog_digest digest;
    char path[COG_OBJECT_PATH_SIZE], directory[COG_OBJECT_PATH_SIZE];
    key_digest(key, &digest);
    cog_object_path(&digest, path);
    cog_shard_path(digest.bytes[0], directory);
    struct cog_index_record record = as ? *as : (struct cog_index_record){0};
    record.inode = stat->inode;
    record.charge = cog_charge(stat, index->block_size);
    enum cog_status status = cog_index_lock(index, digest.bytes[0], reservation, &lock, NULL);
    if (status != COG_OK) {
        return status;
    }
    for (int tries = 0; tries < 4; tries++) {
        status = cog_index_publish_begin(&lock, &digest, record.charge, &found, NULL);
        if (status != COG_OK) {
            break;
        }
        int (*rename)(int, const char *, int, const char *) = found.present ? fs->rename
                                                                            : fs->rename_new;
        int failed = rename(root, temp, root, path);
        if (failed == -ENOENT && fs->mkdir(root, directory, 0700) == 0) {
            failed = rename(root, temp, root, path);
        }
        if (failed >= 0) {
            cog_index_publish_end(&lock, &digest, &record, &found);
            break;
        }
        cog_index_publish_cancel(&lock);
        status = gone_or_failed(failed);
        if (failed != -EEXIST || cog_index_rebuild(&lock, NULL) != COG_OK) {
            break;
        }
    }
    cog_index_unlock(&lock);
    return status;
}

static enum cog_status put_once(struct cog_index *index, uint64_t key, size_t size, unsigned steps,
                                const struct cog_index_record *as)
{
    const struct cog_fs *fs = index->options.fs;
    struct cog_reservation reservation = {0};
    struct cog_stat stat;
    char temp[COG_TEMP_PATH_SIZE];
    size = whole_size(size);
    uint64_t rounded = (size + 4095) / 4096 * 4096, step = rounded / steps / 4096 * 4096;
    uint64_t granted = steps == 1 ? rounded : step;
    enum cog_status status = cog_index_reserve(index, granted + COG_RESERVE_SLACK, &reservation,
                                               NULL);
    if (status != COG_OK) {
        return status;
    }
    cog_index_temp_path(&reservation, temp);
    int fd = fs->open(index->options.root, temp, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0) {
        cog_index_release(&reservation);
        return gone_or_failed(fd);
    }
    int failed = write_range(fs, fd, 0, granted < size ? granted : size);
    while (!failed && status == COG_OK && granted < rounded) {
        uint64_t more = rounded - granted < step ? rounded - granted : step;
        status = cog_index_reserve(index, more, &reservation, NULL);
        if (status == COG_OK) {
            failed = write_range(fs, fd, granted, granted + more < size ? granted + more : size);
            granted += more;
        }
    }
    if (status == COG_OK && !failed) {
        failed = write_stamps(fs, fd, key, size);
    }
    fs->close(fd);
    if (status == COG_OK && !failed) {
        /* by name, after closing: XFS keeps room behind the end of a file that may still grow */
        failed = fs->stat_at(index->options.root, temp, &stat);
    }
    if (status == COG_OK) {
        status = failed ? gone_or_failed(failed)
                        : publish(index, &reservation, temp, &stat, key, as);
    }
    if (status != COG_OK) {
        fs->unlink(index->options.root, temp);
    }
    cog_index_release(&reservation);
    return status;
}

static enum cog_status put(struct cog_index *index, uint64_t key, size_t size, unsigned steps,
                           const struct cog_index_record *as)
{
    enum cog_status status = put_once(index, key, size, steps, as);
    if (status == COG_INDEX_MOVED) {
        status = put_once(index, key, size, steps, as);
    }
    for (unsigned i = 0; i < kit_patience && status == COG_ERR_BUSY; i++) {
        status = put_once(index, key, size, steps, as);
    }
    return status;
}

enum cog_status entry_put(struct cog_index *index, uint64_t key, size_t size)
{
    return put(index, key, size, 1, NULL);
}

enum cog_status entry_put_as(struct cog_index *index, uint64_t key, size_t size,
                             const struct cog_index_record *as)
{
    return put(index, key, size, 1, as);
}

enum cog_status entry_stream(struct cog_index *index, uint64_t key, size_t size, unsigned steps)
{
    return put(index, key, size, size >= steps * UINT64_C(4096) ? steps : 1, NULL);
}

static enum cog_status delete_once(struct cog_index *index, uint64_t key)
{
    struct cog_index_lock lock;
    struct cog_index_found found;
    struct cog_digest digest;
    char path[COG_OBJECT_PATH_SIZE];
    key_digest(key, &digest);
    cog_object_path(&digest, path);
    enum cog_status status = cog_index_lock(index, digest.bytes[0], NULL, &lock, NULL);
    if (status != COG_OK) {
        return status;
    }
    status = cog_index_find(&lock, &digest, &found, NULL);
    if (status == COG_OK && !found.present) {
        status = COG_ABSENT;
    }
    if (status == COG_OK) {
        cog_index_remove_begin(&lock);
        int failed = index->options.fs->unlink(index->options.root, path);
        cog_index_remove_end(&lock, &digest, &found, failed == 0);
        status = failed ? COG_ERR_IO : COG_OK;
    }
    cog_index_unlock(&lock);
    return status;
}

enum cog_status entry_delete(struct cog_index *index, uint64_t key)
{
    enum cog_status status = delete_once(index, key);
    if (status == COG_INDEX_MOVED) {
        status = delete_once(index, key);
    }
    for (unsigned i = 0; i < kit_patience && status == COG_ERR_BUSY; i++) {
        status = delete_once(index, key);
    }
    return status;
}

bool entry_exists(const struct root *root, uint64_t key)
{
    struct cog_digest digest;
    char path[COG_OBJECT_PATH_SIZE];
    key_digest(key, &digest);
    cog_object_path(&digest, path);
    return faccessat(root->fd, path, F_OK, 0) == 0;
}

bool file_is_whole(int directory, const char *path)
{
    struct stamp head, end;
    struct stat stat;
    struct cog_digest digest;
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    bool whole = fd >= 0 && fstat(fd, &stat) == 0 && stat.st_size >= (off_t)(2 * sizeof head) &&
                 pread(fd, &head, sizeof head, 0) == sizeof head &&
                 pread(fd, &end, sizeof end, stat.st_size - (off_t)sizeof end) == sizeof end;
    if (fd >= 0) {
        close(fd);
    }
    if (!whole || memcmp(&head, &end, sizeof head) != 0 || head.size != (uint64_t)stat.st_size) {
        return false;
    }
    struct stamp expected = stamp_of(head.key, head.write, head.size);
    key_digest(head.key, &digest);
    char name[COG_OBJECT_PATH_SIZE];
    cog_object_path(&digest, name);
    return expected.check == head.check && strcmp(name + 11, path) == 0;
}

/* --- the truth --- */

static uint64_t charge_of(const struct stat *stat)
{
    uint64_t blocks = (uint64_t)stat->st_blocks * 512,
             size = ((uint64_t)stat->st_size + 4095) / 4096 * 4096;
    return blocks > size ? blocks : size;
}

/* The files that have names in spool/, one for each name. */
static ino_t spooled[4096];
static unsigned spooled_count;

static void list_spooled(int root)
{
    int fd = openat(root, COG_SPOOL_DIRECTORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *names = fd >= 0 ? fdopendir(fd) : NULL;
    spooled_count = 0;
    if (names == NULL) {
        return; /* there is none */
    }
    const struct dirent *one;
    while ((one = readdir(names)) != NULL) {
        REQUIRE(spooled_count < sizeof spooled / sizeof *spooled);
        spooled[spooled_count++] = one->d_ino;
    }
    closedir(names);
}

/*
 * How many names a file shares its charge with, itself among them. Names in spool/ are charged in
 * full beside it; but between link and unlink of a publish without renameat2 a file is in tmp/ and
 * in objects/: half each.
 */
static uint64_t names_that_share(const struct stat *stat)
{
    uint64_t names = S_ISREG(stat->st_mode) ? (uint64_t)stat->st_nlink : 1;
    for (unsigned i = 0; i < spooled_count; i++) {
        names -= names > 1 && spooled[i] == stat->st_ino;
    }
    return names ? names : 1;
}

static void walk(int parent, const char *name, struct truth *out, bool objects, bool temps,
                 bool look_inside)
{
    bool in_spool = strcmp(name, COG_SPOOL_DIRECTORY) == 0;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *names = fd >= 0 ? fdopendir(fd) : NULL;
    REQUIRE(names != NULL);
    const struct dirent *one;
    while ((one = readdir(names)) != NULL) {
        struct stat stat;
        if (strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0) {
            continue;
        }
        if (fstatat(fd, one->d_name, &stat, AT_SYMLINK_NOFOLLOW)) {
            continue;
        }
        uint64_t names_of_it = S_ISREG(stat.st_mode) && stat.st_nlink ? stat.st_nlink : 1;
        out->all += (uint64_t)stat.st_blocks * 512 / names_of_it;
        out->moving += in_spool           ? charge_of(&stat)
                       : objects || temps ? charge_of(&stat) / names_that_share(&stat)
                                          : 0;
        if (S_ISDIR(stat.st_mode)) {
            bool in_objects = objects || strcmp(one->d_name, "objects") == 0;
            walk(fd, one->d_name, out, in_objects, strcmp(one->d_name, "tmp") == 0, look_inside);
            continue;
        }
        out->files += objects;
        out->temps += temps;
        out->torn += objects && look_inside && !file_is_whole(fd, one->d_name);
    }
    closedir(names);
}

void root_truth(const struct root *root, struct truth *out, bool look_inside)
{
    *out = (struct truth){0};
    list_spooled(root->fd);
    walk(root->fd, ".", out, false, false, look_inside);
}

const char *root_audit(const struct root *root, struct cog_index *index)
{
    static char text[256];
    struct cog_index_stats stats;
    struct truth truth;
    cog_index_reap(index);
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        struct cog_index_lock lock;
        struct cog_error err = {0};
        enum cog_status status = cog_index_lock(index, s, NULL, &lock, &err);
        for (unsigned i = 0;
             i < kit_patience && (status == COG_INDEX_MOVED || status == COG_ERR_BUSY); i++) {
            status = cog_index_lock(index, s, NULL, &lock, &err);
        }
        if (status != COG_OK) {
            snprintf(text, sizeof text, "shard %02x: status %d %s", s, status, err.text);
            return text;
        }
        uint32_t flaws = cog_shard_flaws(&lock.table);
        cog_index_unlock(&lock);
        if (flaws) {
            snprintf(text, sizeof text, "shard %02x: %u flaws in its table", s, flaws);
            return text;
        }
    }
    cog_index_get_stats(index, &stats);
    root_truth(root, &truth, false);
    struct cog_index_file *file = cog_index_enter(index);
    uint64_t shares = 0;
    for (unsigned s = 0; file && s < COG_SHARDS; s++) {
        shares += cog_table_share(cog_word32(file, COG_AT_SHARD(rows, s)),
                                  cog_table_capacity(file, s));
    }
    cog_index_leave(index);
    uint64_t counted = stats.used_bytes - stats.fixed_bytes - shares;
    if (stats.unknown_shards || stats.held_bytes || truth.temps || stats.entries != truth.files ||
        counted != truth.moving || truth.all > stats.used_bytes) {
        snprintf(text, sizeof text,
                 "unknown %u, held %llu, temps %u, rows %llu of %u files, counted %llu of %llu, "
                 "all %llu of %llu",
                 stats.unknown_shards, (unsigned long long)stats.held_bytes, truth.temps,
                 (unsigned long long)stats.entries, truth.files, (unsigned long long)counted,
                 (unsigned long long)truth.moving, (unsigned long long)truth.all,
                 (unsigned long long)stats.used_bytes);
        return text;
    }
    return NULL;
}

/* --- somebody else --- */

int in_child(int (*body)(void *context), void *context)
{
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        int code = body(context);
        fflush(NULL);
        _exit(code);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}
