#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/gather.h"
#include "core/store_internal.h"

enum {
    PREALLOCATE_FROM = 64 << 10,
    STREAM_BUFFER = 1 << 20,
    STREAM_STEP_MOST = 64 << 20,
    LEAST_STEP = 1 << 20,
    PUBLISH_TRIES = 8
};

/* --- a file being written ------------------------------------------------------------------ */

/*
 * One put under way: a temp file and what is reserved for it. In table-less mode nothing is
 * reserved. `mine` is false in a child that was forked while its parent wrote.
 */
struct draft {
    struct cog_store *store;
    struct cog_digest digest;
    struct cog_reservation reservation;
    uint64_t reserved;
    int fd;
    char temp[COG_LONGEST_TEMP];
};

static void draft_init(struct draft *draft, struct cog_store *store, const void *key,
                       size_t key_size)
{
    *draft = (struct draft){.store = store, .fd = -1};
    cog_hash128(key, key_size, &draft->digest);
}

/* Leave nothing behind: on every way out, after success too. */
static void draft_drop(struct draft *draft)
{
    struct cog_store *store = draft->store;
    if (draft->fd >= 0) {
        store->fs->close(draft->fd);
        draft->fd = -1;
    }
    int rc = 0;
    if (draft->temp[0] != '\0' &&
        (store->index == NULL || cog_reservation_is_ours(&draft->reservation))) {
        rc = store->fs->unlink(store->root, draft->temp);
    }
    if (rc == 0 || rc == -ENOENT) {
        cog_index_release(&draft->reservation);
    } else { /* it is still there, and must stay counted */
        cog_index_abandon(&draft->reservation, draft->temp);
    }
    draft->temp[0] = '\0';
    draft->reserved = 0;
}

static enum cog_status reserve(struct draft *draft, uint64_t bytes, struct cog_error *err)
{
    struct cog_store *store = draft->store;
    if (store->index != NULL) {
        enum cog_status status = cog_index_reserve(store->index, bytes, &draft->reservation, err);
        if (status != COG_OK) {
            return status;
        }
    }
    draft->reserved += bytes;
    return COG_OK;
}

static enum cog_status create_temp(struct draft *draft, struct cog_error *err)
{
    struct cog_store *store = draft->store;
    if (store->index != NULL) {
        cog_index_temp_path(&draft->reservation, draft->temp);
    } else {
        cog_loose_temp_path(store, "put", draft->temp);
    }
    unsigned mode = cog_store_file_mode(store);
    int flags = O_RDWR | O_CREAT | O_EXCL;
    int fd = store->fs->open(store->root, draft->temp, flags, mode);
    if (fd == -ENOENT) { /* tmp/ was taken away */
        (void)cog_store_make_dir(store, "tmp");
        fd = store->fs->open(store->root, draft->temp, flags, mode);
    }
    if (fd < 0) {
        draft->temp[0] = '\0';
        return cog_store_write_error(store, -fd, "creating a file", err);
    }
    draft->fd = fd;
    if (store->options.group_shared) { /* the umask may have taken the group's bits */
        int rc = store->fs->chmod(fd, mode);
        if (rc < 0) {
            return cog_store_write_error(store, -rc, "setting the mode of a file", err);
        }
    }
    return COG_OK;
}

static enum cog_status preallocate(struct draft *draft, uint64_t offset, uint64_t size,
                                   struct cog_error *err)
{
    int rc = 0;
    do {
        rc = draft->store->fs->fallocate(draft->fd, offset, size);
    } while (rc == -EINTR);
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -EIO) {
        return cog_store_write_error(draft->store, -rc, "allocating a file", err);
    }
    return COG_OK; /* elsewhere it is only an optimisation */
}

static enum cog_status write_pieces(struct draft *draft, const struct cog_image *image,
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
        int rc = cog_fs_writev_all(draft->store->fs, draft->fd, pieces, count, offset);
        if (rc < 0) {
            return cog_store_write_error(draft->store, -rc, "writing a file", err);
        }
        offset += bytes;
    }
    return COG_OK;
}

/* --- publishing ---------------------------------------------------------------------------- */

/* The name of its shard's directory does not exist yet. */
static int make_shard(struct draft *draft)
{
    struct cog_store *store = draft->store;
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(draft->digest.bytes[0], path);
    int rc = cog_store_make_dir(store, path);
    if (rc == -ENOENT) {
        (void)cog_store_make_dir(store, "objects");
        rc = cog_store_make_dir(store, path);
    }
    return rc;
}

/* [P9] One rename; EEXIST: a file that nobody recorded. */
static int rename_into_place(struct draft *draft, const char *path, bool replace)
{
    const struct cog_fs *fs = draft->store->fs;
    int root = draft->store->root;
    for (unsigned tries = 0;; tries++) {
        int rc = replace ? fs->rename(root, draft->temp, root, path)
                         : fs->rename_new(root, draft->temp, root, path);
        if (rc != -ENOENT || tries > 0) {
            return rc;
        }
        rc = make_shard(draft);
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

static enum cog_status publish_locked(struct draft *draft, struct cog_index_lock *lock,
                                      uint64_t charge, struct cog_index_record *record, int *held,
                                      struct cog_error *err)
{
    struct cog_index_found found;
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(&draft->digest, path);
    for (unsigned tries = 0; tries < PUBLISH_TRIES; tries++) {
        enum cog_status status = cog_index_publish_begin(lock, &draft->digest, charge, &found, err);
        if (status != COG_OK) {
            return status;
        }
        *held = hold_large(draft->store, &found, path);
        int rc = rename_into_place(draft, path, found.present);
        if (rc >= 0) {
            if (rc != COG_BOTH_NAMES) { /* else draft_drop has it to unlink, and to keep counted */
                draft->temp[0] = '\0';
            }
            cog_index_publish_end(lock, &draft->digest, record, &found);
            return COG_OK;
        }
        cog_index_publish_cancel(lock);
        if (rc == -EEXIST) {
            status = check_name(draft->store, path, err);
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
        return cog_store_write_error(draft->store, -rc, "publishing a file", err);
    }
    return cog_fail(err, COG_ERR_BUSY, 0, "the name kept changing under the lock");
}

static enum cog_status publish_indexed(struct draft *draft, const struct cog_stat *stat,
                                       uint64_t charge, const struct cog_put_info *info,
                                       struct cog_error *err)
{
    struct cog_store *store = draft->store;
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
    enum cog_status status = cog_index_lock(store->index, draft->digest.bytes[0],
                                            &draft->reservation, &lock, err);
    if (status != COG_OK) {
        return status;
    }
    status = publish_locked(draft, &lock, charge, &record, &held, err);
    cog_index_unlock(&lock);
    if (held >= 0) {
        store->fs->close(held);
    }
    return status;
}

/* `full`: the name itself must survive a loss of power. */
static enum cog_status sync_name(struct draft *draft, struct cog_error *err)
{
    struct cog_store *store = draft->store;
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(draft->digest.bytes[0], path);
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
static int charge_of_temp(const struct draft *draft, struct cog_stat *stat, uint64_t *charge)
{
    const struct cog_store *store = draft->store;
    int rc = store->fs->stat(draft->fd, stat);
    *charge = rc < 0 ? 0 : cog_store_charge(store, stat);
    if (rc == 0 && store->index != NULL && *charge > draft->reserved - COG_CHARGE_SLACK &&
        store->fs->truncate(draft->fd, stat->size) == 0) {
        rc = store->fs->stat(draft->fd, stat);
        *charge = rc < 0 ? 0 : cog_store_charge(store, stat);
    }
    return rc;
}

/* [P4-P15] The temp file is complete: check its charge, sync, publish. */
static enum cog_status publish(struct draft *draft, const struct cog_put_info *info,
                               struct cog_error *err)
{
    struct cog_store *store = draft->store;
    struct cog_stat stat;
    if (store->options.durability != COG_DURABILITY_NONE) {
        int rc = store->fs->sync_data(draft->fd);
        if (rc < 0) { /* never tried again: the pages are marked clean by now */
            return cog_store_write_error(store, -rc, "syncing a file", err);
        }
    }
    uint64_t charge;
    int rc = charge_of_temp(draft, &stat, &charge);
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "fstat of a new file", err);
    }
    if (store->index != NULL && charge > draft->reserved - COG_CHARGE_SLACK) {
        return cog_fail(err, COG_ERR_FULL, 0, "the file takes %llu bytes on disk, reserved %llu",
                        (unsigned long long)charge, (unsigned long long)draft->reserved);
    }
    enum cog_status status;
    if (store->index != NULL) {
        status = publish_indexed(draft, &stat, charge, info, err);
    } else {
        char path[COG_OBJECT_PATH_SIZE];
        cog_object_path(&draft->digest, path);
        status = check_name(store, path, err);
        if (status == COG_OK) {
            status = cog_loose_publish(store, &draft->digest, draft->temp, charge, err);
        }
        if (status == COG_OK) {
            draft->temp[0] = '\0';
        }
    }
    if (status == COG_OK) {
        cog_count(&store->counters.puts, 1);
        cog_count(&store->counters.put_bytes, stat.size);
    }
    if (status == COG_OK && store->options.durability == COG_DURABILITY_FULL) {
        status = sync_name(draft, err);
    }
    return status;
}

/* --- put ----------------------------------------------------------------------------------- */

static enum cog_status check_size(struct cog_store *store, uint64_t size, struct cog_error *err)
{
    if (store->limit != 0 && size > store->limit / 8) {
        return cog_fail(err, COG_ERR_TOO_LARGE, 0,
                        "%llu bytes: one object may take an eighth of the limit, %llu",
                        (unsigned long long)size, (unsigned long long)(store->limit / 8));
    }
    return COG_OK;
}

static uint64_t round_to_block(const struct cog_store *store, uint64_t size)
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

static enum cog_status write_made(struct draft *draft, struct content *content,
                                  struct cog_error *err)
{
    const struct cog_maker *maker = content->maker;
    struct cog_store *store = draft->store;
    struct cog_gather gather;
    enum cog_status status = cog_gather_init(&gather, store->fs, draft->fd, maker->most);
    if (status == COG_OK) {
        status = maker->make(maker->context, cog_gather_sink(&gather), err);
    }
    if (status == COG_OK) {
        status = cog_gather_finish(&gather, err);
    }
    if (status == COG_ERR_IO && err->sys_errno != 0) {
        status = cog_store_write_error(store, err->sys_errno, "writing a file", err);
    }
    content->length = gather.written;
    if (status == COG_OK && content->length < content->most) { /* the surplus goes back */
        int rc = store->fs->truncate(draft->fd, content->length);
        status = rc < 0 ? cog_store_write_error(store, -rc, "ending a file", err) : COG_OK;
    }
    cog_gather_release(&gather);
    return status;
}

static enum cog_status put_once(struct draft *draft, struct content *content,
                                const struct cog_put_info *info, struct cog_error *err)
{
    uint64_t bytes = round_to_block(draft->store, content->most) + COG_RESERVE_SLACK;
    enum cog_status status = reserve(draft, bytes, err);
    if (status == COG_OK) {
        status = create_temp(draft, err);
    }
    if (status == COG_OK && content->most >= PREALLOCATE_FROM) {
        status = preallocate(draft, 0, content->most, err);
    }
    if (status == COG_OK) {
        status = content->image != NULL ? write_pieces(draft, content->image, err)
                                        : write_made(draft, content, err);
    }
    if (status == COG_OK) {
        status = publish(draft, info, err);
    }
    draft_drop(draft);
    return status;
}

/* The file system itself is full: take at least `bytes` from what is there. */
static bool make_room(struct cog_store *store, uint64_t bytes)
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

static void count_refusal(struct cog_store *store, enum cog_status status)
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

static enum cog_status refuse_read_only(struct cog_store *store, struct cog_error *err)
{
    count_refusal(store, COG_ERR_READ_ONLY);
    return cog_fail(err, COG_ERR_READ_ONLY, 0, "%s is open read-only", store->root_path);
}

static enum cog_status put(struct cog_store *store, const void *key, size_t key_size,
                           struct content *content, const struct cog_put_info *info,
                           struct cog_error *err)
{
    static const struct cog_put_info unknown;
    if (!store->writable) {
        return refuse_read_only(store, err);
    }
    enum cog_status status = check_size(store, content->most, err);
    struct draft draft;
    bool moved = false, made_room = false, mended = false;
    while (status == COG_OK) {
        draft_init(&draft, store, key, key_size);
        err->sys_errno = 0;
        status = put_once(&draft, content, info != NULL ? info : &unknown, err);
        if (status == COG_INDEX_MOVED && !moved) {
            moved = true;
            status = COG_OK;
        } else if (status == COG_ERR_FULL && err->sys_errno != 0 && !made_room &&
                   make_room(store, content->most + COG_RESERVE_SLACK)) {
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
    count_refusal(store, status);
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
    return put(store, key, key_size, &content, info, err);
}

enum cog_status cog_store_put_made(struct cog_store *store, const void *key, size_t key_size,
                                   const struct cog_maker *maker, const struct cog_put_info *info,
                                   uint64_t *length, struct cog_error *err)
{
    struct cog_error own = {0};
    struct content content = {.maker = maker, .most = maker->most};
    enum cog_status status = put(store, key, key_size, &content, info, err != NULL ? err : &own);
    *length = content.length;
    return status;
}

/* --- stream -------------------------------------------------------------------------------- */

/*
 * A put of unknown length. Bytes are reserved in steps that double, each before its first byte is
 * written; they pass through one buffer, so that the file is written in big pieces.
 */
struct cog_put_stream {
    struct draft draft;
    enum cog_status failed; /* sticky: what a write met */
    uint64_t allowed;       /* bytes of the file that are reserved */
    uint64_t flushed;
    size_t filled;
    unsigned char *buffer;
};

static void stream_free(struct cog_put_stream *stream)
{
    draft_drop(&stream->draft);
    cog_free(stream->buffer);
    cog_free(stream);
}

/* [S1] Reserve up to `end`, in a step as large as what is there already. */
static enum cog_status stream_grow(struct cog_put_stream *stream, uint64_t end,
                                   struct cog_error *err)
{
    while (stream->allowed < end) {
        uint64_t step = stream->allowed;
        step = step < LEAST_STEP ? LEAST_STEP : step > STREAM_STEP_MOST ? STREAM_STEP_MOST : step;
        if (step < end - stream->allowed) {
            step = round_to_block(stream->draft.store, end - stream->allowed);
        }
        enum cog_status status = reserve(&stream->draft, step, err);
        if (status == COG_OK) {
            status = preallocate(&stream->draft, stream->allowed, step, err);
        }
        if (status != COG_OK) {
            return status;
        }
        stream->allowed += step;
    }
    return COG_OK;
}

static enum cog_status stream_flush(struct cog_put_stream *stream, const void *data, size_t size,
                                    struct cog_error *err)
{
    uint64_t end = stream->flushed + size;
    enum cog_status status = check_size(stream->draft.store, end, err);
    if (status == COG_OK) {
        status = stream_grow(stream, end, err);
    }
    if (status != COG_OK) {
        return status;
    }
    int rc = cog_fs_write_all(stream->draft.store->fs, stream->draft.fd, data, size,
                              stream->flushed);
    if (rc < 0) {
        return cog_store_write_error(stream->draft.store, -rc, "writing a file", err);
    }
    stream->flushed = end;
    return COG_OK;
}

static enum cog_status stream_empty(struct cog_put_stream *stream, struct cog_error *err)
{
    size_t filled = stream->filled;
    stream->filled = 0;
    return filled == 0 ? COG_OK : stream_flush(stream, stream->buffer, filled, err);
}

static enum cog_status stream_write(void *context, const void *data, size_t size, bool stable,
                                    struct cog_error *err)
{
    struct cog_put_stream *stream = context;
    (void)stable;
    if (stream->failed != COG_OK) {
        return stream->failed;
    }
    enum cog_status status = COG_OK;
    if (size > STREAM_BUFFER - stream->filled) {
        status = stream_empty(stream, err);
    }
    if (status == COG_OK && size >= STREAM_BUFFER) {
        status = stream_flush(stream, data, size, err);
    } else if (status == COG_OK) {
        memcpy(stream->buffer + stream->filled, data, size);
        stream->filled += size;
    }
    if (status != COG_OK) {
        count_refusal(stream->draft.store, status);
        stream->failed = status;
    }
    return status;
}

static enum cog_status stream_start(struct cog_put_stream *stream, struct cog_error *err)
{
    enum cog_status status = COG_INDEX_MOVED;
    for (unsigned tries = 0; tries < 2 && status == COG_INDEX_MOVED; tries++) {
        status = reserve(&stream->draft, LEAST_STEP + COG_RESERVE_SLACK, err);
    }
    if (status == COG_OK) {
        stream->allowed = LEAST_STEP;
        status = create_temp(&stream->draft, err);
    }
    return status;
}

enum cog_status cog_store_stream_begin(struct cog_store *store, const void *key, size_t key_size,
                                       struct cog_put_stream **out, struct cog_error *err)
{
    *out = NULL;
    if (!store->writable) {
        return refuse_read_only(store, err);
    }
    struct cog_put_stream *stream = cog_alloc_zeroed(1, sizeof *stream);
    if (stream == NULL) {
        return COG_ERR_NOMEM;
    }
    draft_init(&stream->draft, store, key, key_size);
    stream->buffer = cog_alloc(STREAM_BUFFER);
    enum cog_status status = stream->buffer != NULL ? stream_start(stream, err) : COG_ERR_NOMEM;
    if (status != COG_OK) {
        count_refusal(store, status);
        stream_free(stream);
        return status == COG_INDEX_MOVED ? COG_ERR_BUSY : status;
    }
    *out = stream;
    return COG_OK;
}

struct cog_sink cog_store_stream_sink(struct cog_put_stream *stream)
{
    return (struct cog_sink){stream, stream_write};
}

enum cog_status cog_store_stream_commit(struct cog_put_stream *stream,
                                        const struct cog_put_info *info, struct cog_error *err)
{
    static const struct cog_put_info unknown;
    struct cog_store *store = stream->draft.store;
    enum cog_status status = stream->failed;
    if (status != COG_OK) {
        stream_free(stream);
        return status;
    }
    if (store->index != NULL && !cog_reservation_is_ours(&stream->draft.reservation)) {
        status = cog_fail(err, COG_ERR_INVALID, 0, "this put belongs to the parent process");
    }
    if (status == COG_OK) {
        status = stream_empty(stream, err);
    }
    if (status == COG_OK && stream->flushed < stream->allowed) { /* [S3] the surplus goes back */
        int rc = store->fs->truncate(stream->draft.fd, stream->flushed);
        status = rc < 0 ? cog_store_write_error(store, -rc, "ending a file", err) : COG_OK;
    }
    if (status == COG_OK) {
        status = publish(&stream->draft, info != NULL ? info : &unknown, err);
    }
    if (status == COG_INDEX_MOVED) {
        status = cog_fail(err, COG_ERR_BUSY, 0, "the index was replaced during the put");
    }
    count_refusal(store, status);
    stream_free(stream);
    return status;
}

void cog_store_stream_abort(struct cog_put_stream *stream)
{
    if (stream != NULL) {
        stream_free(stream);
    }
}
