/* Files that outlive the entries they came from (store.h; docs/store.md). */
#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/store_internal.h"

enum {
    PATH_SIZE = sizeof COG_SPOOL_DIRECTORY + 2 * COG_DIGEST_SIZE + 2 + COG_SPOOL_LABEL_LIMIT,
    COPY_PIECE = 1 << 20
};

/* --- names --------------------------------------------------------------------------------- */

static bool is_label(const char *label)
{
    size_t size = strlen(label);
    return size > 0 && size <= COG_SPOOL_LABEL_LIMIT &&
           strspn(label, "abcdefghijklmnopqrstuvwxyz0123456789._-") == size;
}

static enum cog_status make_path(const struct cog_digest *digest, const char *label,
                                 char out[PATH_SIZE], struct cog_error *err)
{
    char hex[2 * COG_DIGEST_SIZE + 1];
    if (!is_label(label)) {
        return cog_fail(err, COG_ERR_INVALID, 0, "a label is 1 to %d of a-z, 0-9, '.', '_', '-'",
                        COG_SPOOL_LABEL_LIMIT);
    }
    cog_hex(digest->bytes, sizeof digest->bytes, hex);
    (void)snprintf(out, PATH_SIZE, COG_SPOOL_DIRECTORY "/%s-%s", hex, label);
    return COG_OK;
}

static bool parse_name(const char *name, struct cog_digest *digest)
{
    return cog_unhex(name, COG_DIGEST_SIZE, digest->bytes) && name[2 * COG_DIGEST_SIZE] == '-' &&
           is_label(name + 2 * COG_DIGEST_SIZE + 1);
}

/* --- steps --------------------------------------------------------------------------------- */

static enum cog_status moved(enum cog_status status, struct cog_error *err)
{
    return status == COG_INDEX_MOVED
               ? cog_fail(err, COG_ERR_BUSY, 0, "the index was replaced meanwhile")
               : status;
}

/* The name must survive a loss of power as well. */
static enum cog_status sync_directory(struct cog_store *store, struct cog_error *err)
{
    int fd = store->fs->open(store->root, COG_SPOOL_DIRECTORY, O_RDONLY | O_DIRECTORY, 0);
    int rc = fd < 0 ? fd : store->fs->sync(fd);
    if (fd >= 0) {
        store->fs->close(fd);
    }
    return rc < 0 && rc != -EINVAL
               ? cog_store_write_error(store, -rc, "syncing the spool directory", err)
               : COG_OK;
}

/* Give a file its name there: a link to `from`, or `from` itself. */
static int give_name(struct cog_store *store, const char *from, const char *to, bool link)
{
    const struct cog_fs *fs = store->fs;
    for (unsigned tries = 0;; tries++) {
        int rc = link ? fs->link(store->root, from, store->root, to)
                      : fs->rename(store->root, from, store->root, to);
        if (rc != -ENOENT || tries > 0) {
            return rc;
        }
        (void)cog_store_make_dir(store, COG_SPOOL_DIRECTORY);
    }
}

/* --- a file of our own --------------------------------------------------------------------- */

/* [X1-X3] The temp file of `put` is complete and synced: put it under `path`. */
static enum cog_status publish_locked(struct cog_put *put, struct cog_index_lock *lock,
                                      uint64_t charge, const char *path, struct cog_error *err)
{
    struct cog_store *store = put->store;
    struct cog_stat old = {0};
    int rc = store->fs->stat_at(store->root, path, &old);
    if (rc < 0 && rc != -ENOENT) {
        return cog_store_write_error(store, -rc, "looking into the spool", err);
    }
    uint64_t went = rc == 0 ? cog_store_charge(store, &old) : 0;
    enum cog_status status = cog_index_extra_begin(lock, charge, err);
    if (status != COG_OK) {
        return status;
    }
    rc = give_name(store, put->temp, path, false);
    if (rc == 0) {
        put->temp[0] = '\0';
        cog_index_extra_end(lock, true, charge, went);
        return COG_OK;
    }
    cog_index_extra_end(lock, false, 0, 0);
    return rc == -ENOENT ? COG_INDEX_MOVED
                         : cog_store_write_error(store, -rc, "naming a spooled file", err);
}

static enum cog_status publish(struct cog_put *put, const char *path, struct cog_error *err)
{
    struct cog_store *store = put->store;
    struct cog_index_lock lock;
    struct cog_stat stat;
    int rc = store->fs->sync_data(put->fd);
    rc = rc < 0 ? rc : store->fs->stat(put->fd, &stat);
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "syncing a spooled file", err);
    }
    uint64_t charge = cog_store_charge(store, &stat);
    if (store->index == NULL) {
        rc = give_name(store, put->temp, path, false);
        if (rc < 0) {
            return cog_store_write_error(store, -rc, "naming a spooled file", err);
        }
        put->temp[0] = '\0';
        return sync_directory(store, err);
    }
    if (charge > put->reserved - COG_CHARGE_SLACK) {
        return cog_fail(err, COG_ERR_FULL, 0, "the file takes %llu bytes on disk, reserved %llu",
                        (unsigned long long)charge, (unsigned long long)put->reserved);
    }
    enum cog_status status = cog_index_lock(store->index, put->digest.bytes[0], &put->reservation,
                                            &lock, err);
    if (status == COG_OK) {
        status = publish_locked(put, &lock, charge, path, err);
        cog_index_unlock(&lock);
    }
    return status == COG_OK ? sync_directory(store, err) : status;
}

static enum cog_status write_once(struct cog_put *put, const char *path, const void *data,
                                  size_t size, struct cog_error *err)
{
    uint64_t bytes = cog_put_round(put->store, size) + COG_RESERVE_SLACK;
    enum cog_status status = cog_put_reserve(put, bytes, err);
    if (status == COG_OK) {
        status = cog_put_create(put, err);
    }
    if (status == COG_OK) {
        int rc = cog_fs_write_all(put->store->fs, put->fd, data, size, 0);
        status = rc < 0 ? cog_store_write_error(put->store, -rc, "writing a file", err) : COG_OK;
    }
    return status == COG_OK ? publish(put, path, err) : status;
}

enum cog_status cog_store_spool_write(struct cog_store *store, const struct cog_digest *digest,
                                      const char *label, const void *data, size_t size,
                                      struct cog_error *err)
{
    char path[PATH_SIZE];
    enum cog_status status = make_path(digest, label, path, err);
    if (status != COG_OK) {
        return status;
    }
    if (!store->writable) {
        return cog_put_refuse_read_only(store, err);
    }
    status = COG_INDEX_MOVED;
    for (unsigned tries = 0; tries < 2 && status == COG_INDEX_MOVED; tries++) {
        struct cog_put put;
        cog_put_init(&put, store, NULL, 0);
        put.digest = *digest;
        status = write_once(&put, path, data, size, err);
        cog_put_drop(&put);
    }
    return moved(status, err);
}

/* --- a link -------------------------------------------------------------------------------- */

/* Answers of link() that a copy gets around. */
static bool links_are_refused(int rc)
{
    return rc == -EPERM || rc == -EMLINK || rc == -EXDEV || rc == -EOPNOTSUPP || rc == -ENOSYS ||
           rc == -EACCES;
}

/* The label is taken: by this very generation? */
static enum cog_status judge_taken(const struct cog_store *store, const char *path, uint64_t inode,
                                   struct cog_error *err)
{
    struct cog_stat stat;
    return store->fs->stat_at(store->root, path, &stat) == 0 && stat.inode == inode
               ? COG_OK
               : cog_fail(err, COG_ERR_INVALID, 0, "%s is in use for another generation", path);
}

/* [X1-X3] `*refused`: there are no links here. */
static enum cog_status link_locked(struct cog_store *store, struct cog_index_lock *lock,
                                   const struct cog_digest *digest, uint64_t inode,
                                   const char *path, bool *refused, struct cog_error *err)
{
    struct cog_index_found found;
    char from[COG_OBJECT_PATH_SIZE];
    enum cog_status status = cog_index_find(lock, digest, &found, err);
    if (status != COG_OK) {
        return status;
    }
    if (!found.present || found.stat.inode != inode) {
        return COG_ABSENT;
    }
    cog_object_path(digest, from);
    status = cog_index_extra_begin(lock, found.charge, err);
    if (status != COG_OK) {
        return status;
    }
    int rc = give_name(store, from, path, true);
    *refused = links_are_refused(rc);
    cog_index_extra_end(lock, rc == 0 || rc == -EEXIST || *refused, rc == 0 ? found.charge : 0, 0);
    if (rc == -EEXIST) {
        return judge_taken(store, path, inode, err);
    }
    return rc == 0 || *refused ? COG_OK
                               : cog_store_write_error(store, -rc, "linking an entry", err);
}

static enum cog_status link_once(struct cog_put *put, int fd, const struct cog_stat *stat,
                                 const char *path, bool *refused, struct cog_error *err)
{
    struct cog_store *store = put->store;
    struct cog_index_lock lock;
    if (store->index == NULL) {
        char from[COG_OBJECT_PATH_SIZE];
        cog_object_path(&put->digest, from);
        int rc = give_name(store, from, path, true);
        *refused = links_are_refused(rc);
        return rc == 0 || *refused ? COG_OK
               : rc == -EEXIST     ? judge_taken(store, path, stat->inode, err)
               : rc == -ENOENT     ? COG_ABSENT
                                   : cog_store_write_error(store, -rc, "linking an entry", err);
    }
    (void)fd; /* open, so that the inode is no other file's */
    uint64_t charge = cog_store_charge(store, stat);
    enum cog_status status = cog_put_reserve(put, charge + COG_RESERVE_SLACK, err);
    if (status == COG_OK) {
        status = cog_index_lock(store->index, put->digest.bytes[0], &put->reservation, &lock, err);
    }
    if (status == COG_OK) {
        status = link_locked(store, &lock, &put->digest, stat->inode, path, refused, err);
        cog_index_unlock(&lock);
    }
    return status;
}

/* Without links: the bytes, in pieces; what was reserved for the link is enough for them. */
static enum cog_status copy(struct cog_put *put, int fd, uint64_t size, const char *path,
                            struct cog_error *err)
{
    const struct cog_fs *fs = put->store->fs;
    unsigned char *piece = cog_alloc(COPY_PIECE);
    enum cog_status status = piece != NULL ? cog_put_create(put, err) : COG_ERR_NOMEM;
    for (uint64_t at = 0; status == COG_OK && at < size;) {
        size_t now = size - at < COPY_PIECE ? (size_t)(size - at) : COPY_PIECE;
        int rc = cog_fs_read_all(fs, fd, piece, now, at);
        rc = rc < 0 ? rc : cog_fs_write_all(fs, put->fd, piece, now, at);
        if (rc < 0) {
            status = cog_store_write_error(put->store, -rc, "copying an entry", err);
        }
        at += now;
    }
    cog_free(piece);
    return status == COG_OK ? publish(put, path, err) : status;
}

static enum cog_status keep(struct cog_store *store, const struct cog_digest *digest, int fd,
                            const char *path, struct cog_error *err)
{
    struct cog_stat stat;
    struct cog_put put;
    bool refused = false;
    int rc = store->fs->sync_data(fd);
    rc = rc < 0 ? rc : store->fs->stat(fd, &stat);
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "syncing an entry", err);
    }
    cog_put_init(&put, store, NULL, 0);
    put.digest = *digest;
    enum cog_status status = link_once(&put, fd, &stat, path, &refused, err);
    if (status == COG_OK) {
        status = refused ? copy(&put, fd, stat.size, path, err) : sync_directory(store, err);
    }
    cog_put_drop(&put);
    return status;
}

enum cog_status cog_store_spool_link(struct cog_store *store, const struct cog_object *object,
                                     const char *label, struct cog_error *err)
{
    char path[PATH_SIZE];
    int fd = -1;
    enum cog_status status = make_path(&object->digest, label, path, err);
    if (status != COG_OK) {
        return status;
    }
    if (!store->writable) {
        return cog_put_refuse_read_only(store, err);
    }
    status = cog_store_reopen(store, object, O_RDONLY, &fd, err);
    if (status != COG_OK) {
        return status;
    }
    status = COG_INDEX_MOVED;
    for (unsigned tries = 0; tries < 2 && status == COG_INDEX_MOVED; tries++) {
        status = keep(store, &object->digest, fd, path, err);
    }
    store->fs->close(fd);
    return moved(status, err);
}

/* --- removing ------------------------------------------------------------------------------ */

static enum cog_status remove_locked(struct cog_store *store, struct cog_index_lock *lock,
                                     const char *path, struct cog_error *err)
{
    struct cog_stat stat;
    int rc = store->fs->stat_at(store->root, path, &stat);
    if (rc == -ENOENT || rc == -ENOTDIR) {
        return COG_ABSENT;
    }
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "looking into the spool", err);
    }
    enum cog_status status = cog_index_extra_begin(lock, 0, err);
    if (status != COG_OK) {
        return status;
    }
#ifdef COG_SEED_BUG_SPOOL_GONE_EARLY
    cog_index_extra_end(lock, true, 0, cog_store_charge(store, &stat));
    rc = store->fs->unlink(store->root, path);
#else
    rc = store->fs->unlink(store->root, path);
    cog_index_extra_end(lock, rc == 0, 0, cog_store_charge(store, &stat));
#endif
    return rc < 0 ? cog_store_write_error(store, -rc, "removing a spooled file", err) : COG_OK;
}

enum cog_status cog_store_spool_remove(struct cog_store *store, const char *name,
                                       struct cog_error *err)
{
    struct cog_digest digest;
    char path[PATH_SIZE];
    if (!parse_name(name, &digest)) {
        return cog_fail(err, COG_ERR_INVALID, 0, "not the name of a spooled file");
    }
    if (!store->writable) {
        return cog_put_refuse_read_only(store, err);
    }
    (void)snprintf(path, sizeof path, COG_SPOOL_DIRECTORY "/%s", name);
    if (store->index == NULL) {
        int rc = store->fs->unlink(store->root, path);
        return rc == -ENOENT || rc == -ENOTDIR ? COG_ABSENT
               : rc < 0 ? cog_store_write_error(store, -rc, "removing a spooled file", err)
                        : COG_OK;
    }
    /* open meanwhile, so that its blocks are freed when the lock is gone */
    int fd = store->fs->open(store->root, path, O_RDONLY | O_NONBLOCK, 0);
    enum cog_status status = COG_INDEX_MOVED;
    for (unsigned tries = 0; tries < 2 && status == COG_INDEX_MOVED; tries++) {
        struct cog_index_lock lock;
        status = cog_index_lock(store->index, digest.bytes[0], NULL, &lock, err);
        if (status == COG_OK) {
            status = remove_locked(store, &lock, path, err);
            cog_index_unlock(&lock);
        }
    }
    if (fd >= 0) {
        store->fs->close(fd);
    }
    return moved(status, err);
}
