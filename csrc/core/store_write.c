#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/gather.h"
#include "core/store_internal.h"

enum { PREALLOCATE_FROM = 64 << 10, PUBLISH_TRIES = 8 };

/* --- a file being written ------------------------------------------------------------------ */

void cog_put_init(struct cog_put *put, struct cog_store *store, const void *key, size_t key_size)
{
    *put = (struct cog_put){.store = store, .process = store->fs->process_id(), .fd = -1};
    cog_hash128(key, key_size, &put->digest);
}

static bool is_ours(const struct cog_put *put)
{
    return put->process == put->store->fs->process_id() &&
           (put->reservation.file == NULL || cog_reservation_is_ours(&put->reservation));
}

void cog_put_drop(struct cog_put *put)
{
    struct cog_store *store = put->store;
    if (put->fd >= 0) {
        store->fs->close(put->fd);
        put->fd = -1;
    }
    int rc = 0;
    if (put->temp[0] != '\0' && is_ours(put)) {
        rc = store->fs->unlink(store->root, put->temp);
    }
    if (rc == 0 || rc == -ENOENT) {
        cog_index_release(&put->reservation);
    } else { /* it is still there, and must stay counted */
        cog_index_abandon(&put->reservation, put->temp);
    }
    put->temp[0] = '\0';
    put->reserved = 0;
}

enum cog_status cog_put_reserve(struct cog_put *put, uint64_t bytes, struct cog_error *err)
{
    struct cog_store *store = put->store;
    if (store->index != NULL) {
        enum cog_status status = cog_index_reserve(store->index, bytes, &put->reservation, err);
        if (status != COG_OK) {
            return status;
        }
    }
    put->reserved += bytes;
    return COG_OK;
}

enum cog_status cog_put_create(struct cog_put *put, struct cog_error *err)
{
    struct cog_store *store = put->store;
    if (store->index != NULL) {
        cog_index_temp_path(&put->reservation, put->temp);
    } else {
        cog_loose_temp_path(store, "put", put->temp);
    }
    unsigned mode = cog_store_file_mode(store);
    int flags = O_RDWR | O_CREAT | O_EXCL;
    int fd = store->fs->open(store->root, put->temp, flags, mode);
    if (fd == -ENOENT) { /* tmp/ was taken away */
        (void)cog_store_make_dir(store, "tmp");
        fd = store->fs->open(store->root, put->temp, flags, mode);
    }
    if (fd < 0) {
        put->temp[0] = '\0';
        return cog_store_write_error(store, -fd, "creating a file", err);
    }
    put->fd = fd;
    if (store->options.group_shared) { /* the umask may have taken the group's bits */
        int rc = store->fs->chmod(fd, mode);
        if (rc < 0) {
            return cog_store_write_error(store, -rc, "setting the mode of a file", err);
        }
    }
    return COG_OK;
}

enum cog_status cog_put_allocate(struct cog_put *put, uint64_t offset, uint64_t size,
                                 struct cog_error *err)
{
    int rc = 0;
    do {
        rc = put->store->fs->fallocate(put->fd, offset, size);
    } while (rc == -EINTR);
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -EIO) {
        return cog_store_write_error(put->store, -rc, "allocating a file", err);
    }
    return COG_OK; /* elsewhere it is only an optimisation */
}

static enum cog_status write_pieces(struct cog_put *put, const struct cog_image *image,
                                    struct cog_error *err)
{
    enum { BATCH = 64 };
    struct iovec pieces[BATCH];
    uint64_t offset = 0;
    for (size_t at = 0; at < image->count;) {
        size_t count = 0;
        uint64_t bytes = 0;
        for (; count < BATCH && at < image->count; count++, at++) {
            pieces[count].iov_base = (void *)(uintptr_t)image->pieces[at].data;
            pieces[count].iov_len = image->pieces[at].size;
            bytes += image->pieces[at].size;
        }
        int rc = cog_fs_writev_all(put->store->fs, put->fd, pieces, count, offset);
        if (rc < 0) {
            return cog_store_write_error(put->store, -rc, "writing a file", err);
        }
        offset += bytes;
    }
    return COG_OK;
}

/* --- publishing ---------------------------------------------------------------------------- */

/* The name of its shard's directory does not exist yet. */
static int make_shard(struct cog_put *put)
{
    struct cog_store *store = put->store;
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(put->digest.bytes[0], path);
    int rc = cog_store_make_dir(store, path);
    if (rc == -ENOENT) {
        (void)cog_store_make_dir(store, "objects");
        rc = cog_store_make_dir(store, path);
    }
    return rc;
}

/* [P9] One rename; EEXIST: a file that nobody recorded. */
static int rename_into_place(struct cog_put *put, const char *path, bool replace)
{
    const struct cog_fs *fs = put->store->fs;
    int root = put->store->root;
    for (unsigned tries = 0;; tries++) {
        int rc = replace ? fs->rename(root, put->temp, root, path)
                         : fs->rename_new(root, put->temp, root, path);
        if (rc != -ENOENT || tries > 0) {
            return rc;
        }
        rc = make_shard(put);
        if (rc < 0) {
            return rc;
        }
    }
}

/* A large old generation is held open, so that its blocks are freed after the lock is gone. */
static int hold_large(const struct cog_store *store, const struct cog_index_found *found,
                      const char *path)
{
    if (!found->present || found->charge < COG_LARGE_UNLINK) {
        return -1;
    }
    return store->fs->open(store->root, path, O_RDONLY | O_NONBLOCK, 0);
}

/* The name is taken by something that is not an entry: it is not ours to replace. */
static enum cog_status check_name(const struct cog_store *store, const char *path,
                                  struct cog_error *err)
{
    struct cog_stat stat;
    if (store->fs->stat_at(store->root, path, &stat) < 0 ||
        (S_ISREG(stat.mode) && cog_store_trusts(store, &stat))) {
        return COG_OK;
    }
    return cog_fail(err, COG_ERR_REFUSED, 0, "%s/%s is not a regular file of ours: remove it",
                    store->root_path, path);
}

static bool is_cancelled(const struct cog_put_info *info)
{
    return info->cancelled != NULL && atomic_load(info->cancelled);
}

static enum cog_status publish_locked(struct cog_put *put, struct cog_index_lock *lock,
                                      uint64_t charge, struct cog_index_record *record, int *held,
                                      struct cog_error *err)
{
    struct cog_index_found found;
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(&put->digest, path);
    for (unsigned tries = 0; tries < PUBLISH_TRIES; tries++) {
        enum cog_status status = cog_index_publish_begin(lock, &put->digest, charge, &found, err);
        if (status != COG_OK) {
            return status;
        }
        *held = hold_large(put->store, &found, path);
        int rc = rename_into_place(put, path, found.present);
        if (rc >= 0) {
            if (rc !=
                COG_BOTH_NAMES) { /* else cog_put_drop has it to unlink, and to keep counted */
                put->temp[0] = '\0';
            }
            cog_index_publish_end(lock, &put->digest, record, &found);
            return COG_OK;
        }
        cog_index_publish_cancel(lock);
        if (rc == -EEXIST) {
            status = check_name(put->store, path, err);
            if (status == COG_OK) {
                status = cog_index_rebuild(lock, err);
            }
            if (status != COG_OK) {
                return status;
            }
            continue;
        }
        if (rc == -ENOENT) { /* our temp file is gone: reaped with an index that was replaced */
            return COG_INDEX_MOVED;
        }
        return cog_store_write_error(put->store, -rc, "publishing a file", err);
    }
    return cog_fail(err, COG_ERR_BUSY, 0, "the name kept changing under the lock");
}

static enum cog_status publish_indexed(struct cog_put *put, const struct cog_stat *stat,
                                       uint64_t charge, const struct cog_put_info *info,
                                       struct cog_error *err)
{
    struct cog_store *store = put->store;
    struct cog_index_record record = {
        .inode = stat->inode,
        .charge = charge,
        .expires = cog_store_seconds(info->expires_ms),
        .cost = (float)info->cost_seconds,
        .kind = info->kind,
        .source = info->source,
    };
    struct cog_index_lock lock;
    int held = -1;
    enum cog_status status = cog_index_lock(store->index, put->digest.bytes[0], &put->reservation,
                                            &lock, err);
    if (status != COG_OK) {
        return status;
    }
    status = is_cancelled(info) ? COG_ERR_CANCELLED
                                : publish_locked(put, &lock, charge, &record, &held, err);
    cog_index_unlock(&lock);
    if (held >= 0) {
        store->fs->close(held);
    }
    return status;
}

/* `full`: the name itself must survive a loss of power. */
static enum cog_status sync_name(struct cog_put *put, struct cog_error *err)
{
    struct cog_store *store = put->store;
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(put->digest.bytes[0], path);
    const char *const dirs[] = {path, "objects"};
    for (size_t i = 0; i < 2; i++) {
        int fd = store->fs->open(store->root, dirs[i], O_RDONLY | O_DIRECTORY, 0);
        int rc = fd < 0 ? fd : store->fs->sync(fd);
        if (fd >= 0) {
            store->fs->close(fd);
        }
        if (rc < 0 && rc != -EINVAL) {
            return cog_store_write_error(store, -rc, "syncing a directory", err);
        }
    }
    return COG_OK;
}

/*
 * What the complete temp file takes on disk. A file system may have taken room ahead of a file that
 * grew (XFS, where nothing was preallocated): more than was reserved is given back first.
 */
static int charge_of_temp(const struct cog_put *put, struct cog_stat *stat, uint64_t *charge)
{
    const struct cog_store *store = put->store;
    int rc = store->fs->stat(put->fd, stat);
    *charge = rc < 0 ? 0 : cog_store_charge(store, stat);
    if (rc == 0 && store->index != NULL && *charge > put->reserved - COG_CHARGE_SLACK &&
        store->fs->truncate(put->fd, stat->size) == 0) {
        rc = store->fs->stat(put->fd, stat);
        *charge = rc < 0 ? 0 : cog_store_charge(store, stat);
    }
    return rc;
}

enum cog_status cog_put_publish(struct cog_put *put, const struct cog_put_info *info,
                                struct cog_error *err)
{
    struct cog_store *store = put->store;
    struct cog_stat stat;
    if (store->options.durability != COG_DURABILITY_NONE) {
        int rc = store->fs->sync_data(put->fd);
        if (rc < 0) { /* never tried again: the pages are marked clean by now */
            return cog_store_write_error(store, -rc, "syncing a file", err);
        }
    }
    uint64_t charge;
    int rc = charge_of_temp(put, &stat, &charge);
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "fstat of a new file", err);
    }
    if (store->index != NULL && charge > put->reserved - COG_CHARGE_SLACK) {
        return cog_fail(err, COG_ERR_FULL, 0, "the file takes %llu bytes on disk, reserved %llu",
                        (unsigned long long)charge, (unsigned long long)put->reserved);
    }
    enum cog_status status;
    if (store->index != NULL) {
        status = publish_indexed(put, &stat, charge, info, err);
    } else {
        char path[COG_OBJECT_PATH_SIZE];
        cog_object_path(&put->digest, path);
        status = check_name(store, path, err);
        if (status == COG_OK && is_cancelled(info)) { /* without a lock: but for a moment */
            status = COG_ERR_CANCELLED;
        }
        if (status == COG_OK) {
            status = cog_loose_publish(store, &put->digest, put->temp, charge, err);
        }
        if (status == COG_OK) {
            put->temp[0] = '\0';
        }
    }
    if (status == COG_OK) {
        cog_count(&store->counters.puts, 1);
        cog_count(&store->counters.put_bytes, stat.size);
    }
    if (status == COG_OK && store->options.durability == COG_DURABILITY_FULL) {
        status = sync_name(put, err);
    }
    return status;
}

/* --- put ----------------------------------------------------------------------------------- */

enum cog_status cog_put_check_size(struct cog_store *store, uint64_t size, struct cog_error *err)
{
    if (store->limit != 0 && size > store->limit / 8) {
        return cog_fail(err, COG_ERR_TOO_LARGE, 0,
                        "%llu bytes: one object may take an eighth of the limit, %llu",
                        (unsigned long long)size, (unsigned long long)(store->limit / 8));
    }
    return COG_OK;
}

uint64_t cog_put_round(const struct cog_store *store, uint64_t size)
{
    uint64_t block = store->block_size;
    return (size + block - 1) / block * block;
}

/* What a put writes: a finished image, or one that is made meanwhile. */
struct content {
    const struct cog_image *image;
    const struct cog_maker *maker;
    uint64_t most;   /* bytes to reserve */
    uint64_t length; /* bytes written */
};

static enum cog_status write_made(struct cog_put *put, struct content *content,
                                  struct cog_error *err)
{
    const struct cog_maker *maker = content->maker;
    struct cog_store *store = put->store;
    struct cog_gather gather;
    enum cog_status status = cog_gather_init(&gather, store->fs, put->fd, maker->most);
    if (status == COG_OK) {
        status = maker->make(maker->context, cog_gather_sink(&gather), err);
    }
#ifdef COG_SEED_BUG_FINISH_UNCHECKED
    (void)cog_gather_finish(&gather, err);
#else
    if (status == COG_OK) {
        status = cog_gather_finish(&gather, err);
    }
#endif
    if (status == COG_ERR_IO && err->sys_errno != 0) {
        status = cog_store_write_error(store, err->sys_errno, "writing a file", err);
    }
    content->length = gather.written;
    /* The surplus goes back, unless it is next to nothing: to cut a file that was written just now
     * takes 0.3 ms, and milliseconds where the journal is busy. What it keeps is counted. */
    if (status == COG_OK && content->most - content->length > content->length / 128) {
        int rc = store->fs->truncate(put->fd, content->length);
        status = rc < 0 ? cog_store_write_error(store, -rc, "ending a file", err) : COG_OK;
    }
    cog_gather_release(&gather);
    return status;
}

static enum cog_status put_once(struct cog_put *put, struct content *content,
                                const struct cog_put_info *info, struct cog_error *err)
{
    uint64_t bytes = cog_put_round(put->store, content->most) + COG_RESERVE_SLACK;
    enum cog_status status = cog_put_reserve(put, bytes, err);
    if (status == COG_OK) {
        status = cog_put_create(put, err);
    }
    if (status == COG_OK && content->most >= PREALLOCATE_FROM) {
        status = cog_put_allocate(put, 0, content->most, err);
    }
    if (status == COG_OK) {
        status = content->image != NULL ? write_pieces(put, content->image, err)
                                        : write_made(put, content, err);
    }
    if (status == COG_OK) {
        status = cog_put_publish(put, info, err);
    }
    cog_put_drop(put);
    return status;
}

bool cog_put_make_room(struct cog_store *store, uint64_t bytes)
{
    if (store->index == NULL) {
        return cog_loose_make_room(store, bytes);
    }
    uint64_t freed = 0, one = 0;
    uint64_t most = 64 + bytes / 4096;
    for (uint64_t i = 0; i < most && freed < bytes; i++) {
        if (cog_index_evict_one(store->index, &one, NULL) != COG_OK) {
            break;
        }
        freed += one;
    }
    return freed > 0;
}

void cog_put_count(struct cog_store *store, enum cog_status status)
{
    struct cog_counters *counters = &store->counters;
    switch (status) {
    case COG_ERR_CANCELLED: break;
    case COG_OK: atomic_store_explicit(&store->read_only, false, memory_order_relaxed); break;
    case COG_ERR_FULL: cog_count(&counters->refused_full, 1); break;
    case COG_ERR_TOO_LARGE: cog_count(&counters->refused_too_large, 1); break;
    case COG_ERR_BUSY: cog_count(&counters->refused_busy, 1); break;
    case COG_ERR_READ_ONLY:
        cog_count(&counters->refused_read_only, 1);
        atomic_store_explicit(&store->read_only, true, memory_order_relaxed);
        break;
    default: cog_count(&counters->io_errors, 1); break;
    }
}

enum cog_status cog_put_refuse_read_only(struct cog_store *store, struct cog_error *err)
{
    cog_put_count(store, COG_ERR_READ_ONLY);
    return cog_fail(err, COG_ERR_READ_ONLY, 0, "%s is open read-only", store->root_path);
}

static enum cog_status put_content(struct cog_store *store, const void *key, size_t key_size,
                                   struct content *content, const struct cog_put_info *info,
                                   struct cog_error *err)
{
    static const struct cog_put_info unknown;
    if (!store->writable) {
        return cog_put_refuse_read_only(store, err);
    }
    enum cog_status status = cog_put_check_size(store, content->most, err);
    struct cog_put put;
    bool moved = false, made_room = false, mended = false;
    while (status == COG_OK) {
        cog_put_init(&put, store, key, key_size);
        err->sys_errno = 0;
        status = put_once(&put, content, info != NULL ? info : &unknown, err);
        if (status == COG_INDEX_MOVED && !moved) {
            moved = true;
            status = COG_OK;
        } else if (status == COG_ERR_FULL && err->sys_errno != 0 && !made_room &&
                   cog_put_make_room(store, content->most + COG_RESERVE_SLACK)) {
            made_room = true;
            status = COG_OK;
        } else if (status == COG_ERR_IO && err->sys_errno == ENOENT && !mended &&
                   cog_store_mend_root(store)) {
            mended = true;
            status = COG_OK;
        } else {
            break;
        }
    }
    if (status == COG_INDEX_MOVED) {
        status = cog_fail(err, COG_ERR_BUSY, 0, "the index was replaced twice during one put");
    }
    cog_put_count(store, status);
    return status;
}

enum cog_status cog_store_put(struct cog_store *store, const void *key, size_t key_size,
                              const struct cog_image *image, const struct cog_put_info *info,
                              struct cog_error *err)
{
    struct cog_error own = {0};
    struct content content = {.image = image, .most = image->length};
    err = err != NULL ? err : &own;
    if (!image->sealed) {
        return cog_fail(err, COG_ERR_INVALID, 0, "the image is not sealed");
    }
    return put_content(store, key, key_size, &content, info, err);
}

enum cog_status cog_store_put_made(struct cog_store *store, const void *key, size_t key_size,
                                   const struct cog_maker *maker, const struct cog_put_info *info,
                                   uint64_t *length, struct cog_error *err)
{
    struct cog_error own = {0};
    struct content content = {.maker = maker, .most = maker->most};
    enum cog_status status = put_content(store, key, key_size, &content, info,
                                         err != NULL ? err : &own);
    *length = content.length;
    return status;
}
