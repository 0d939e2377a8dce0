#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/store_internal.h"

/* --- quarantine ---------------------------------------------------------------------------- */

/*
 * The directory has 16 places with fixed names and fixed allowances that sum up to its cap: one of
 * a half, one of a quarter, fourteen of a 56th. Taking a place is a rename that never replaces, so
 * the cap holds over all processes without a lock; its bytes are part of `fixed_bytes` for good.
 */
static uint64_t allowance(const struct cog_store *store, unsigned place)
{
    uint64_t cap = store->quarantine_bytes;
    return place == 0 ? cap / 2 : place == 1 ? cap / 4 : cap / 56;
}

int cog_store_set_aside(struct cog_store *store, const char *path, uint64_t charge)
{
    for (unsigned i = 0; i < COG_QUARANTINE_FILES; i++) {
        unsigned place = COG_QUARANTINE_FILES - 1 - i; /* the smallest that fits */
        if (charge > allowance(store, place)) {
            continue;
        }
        char to[32];
        (void)snprintf(to, sizeof to, "quarantine/%02u", place);
        int rc = store->fs->rename_new(store->root, path, store->root, to);
        if (rc == 0) {
            cog_count(&store->counters.quarantined, 1);
            return 0;
        }
        if (rc == COG_BOTH_NAMES) { /* the entry is where it was, and will be told as such below */
            (void)store->fs->unlink(store->root, to);
        }
        if (rc != -EEXIST) {
            break;
        }
    }
    int rc = store->fs->unlink(store->root, path);
    if (rc == 0) {
        cog_count(&store->counters.quarantined, 1);
    }
    return rc;
}

/* --- one generation ------------------------------------------------------------------------ */

static enum cog_status remove_failed(struct cog_store *store, int rc, struct cog_error *err)
{
    return cog_store_write_error(store, -rc, "removing a file", err);
}

/* [D1, D2, Q2, Q3] with the shard locked. */
static enum cog_status remove_locked(struct cog_store *store, struct cog_index_lock *lock,
                                     const struct cog_digest *digest, uint64_t inode,
                                     enum cog_remove how, struct cog_error *err)
{
    struct cog_index_found found;
    enum cog_status status = cog_index_find(lock, digest, &found, err);
    if (status != COG_OK) {
        return status;
    }
    if (!found.present || found.stat.inode != inode) {
        return COG_ABSENT; /* a newer one, or none: neither is ours to take */
    }
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(digest, path);
    cog_index_remove_begin(lock);
    int rc = how == COG_REMOVE_QUARANTINE ? cog_store_set_aside(store, path, found.charge)
                                          : store->fs->unlink(store->root, path);
    cog_index_remove_end(lock, digest, &found, rc == 0);
    if (rc < 0) {
        cog_index_set_stuck(lock, digest);
        return remove_failed(store, rc, err);
    }
    return COG_OK;
}

static enum cog_status remove_indexed(struct cog_store *store, const struct cog_digest *digest,
                                      uint64_t inode, enum cog_remove how, struct cog_error *err)
{
    enum cog_status status = COG_INDEX_MOVED;
    for (unsigned tries = 0; tries < 2 && status == COG_INDEX_MOVED; tries++) {
        struct cog_index_lock lock;
        status = cog_index_lock(store->index, digest->bytes[0], NULL, &lock, err);
        if (status == COG_OK) {
            status = remove_locked(store, &lock, digest, inode, how, err);
            cog_index_unlock(&lock);
        }
    }
    return status == COG_INDEX_MOVED ? COG_ERR_BUSY : status;
}

enum cog_status cog_store_remove_open(struct cog_store *store, const struct cog_digest *digest,
                                      int fd, enum cog_remove how, struct cog_error *err)
{
    struct cog_stat stat;
    if (!store->writable) {
        return COG_ERR_READ_ONLY;
    }
    int rc = store->fs->stat(fd, &stat);
    if (rc < 0) {
        return remove_failed(store, rc, err);
    }
    if (store->table_less) {
        return cog_loose_remove(store, digest, stat.inode, how, err);
    }
    return remove_indexed(store, digest, stat.inode, how, err);
}

/* --- delete -------------------------------------------------------------------------------- */

enum cog_status cog_store_reopen(struct cog_store *store, const struct cog_object *object,
                                 int flags, int *out, struct cog_error *err)
{
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(&object->digest, path);
    int fd = store->fs->open(store->root, path, flags | O_NONBLOCK, 0);
    if (fd < 0) {
        return fd == -ENOENT ? COG_ABSENT
                             : cog_store_write_error(store, -fd, "opening an object", err);
    }
    struct cog_stat stat;
    uint64_t token = 0;
    unsigned which;
    struct cog_freshness fresh;
    enum cog_status status = COG_ABSENT;
    if (store->fs->stat(fd, &stat) == 0 && stat.inode == object->stat.inode &&
        stat.device == object->stat.device && stat.size == object->stat.size) {
        status = cog_store_read_slots(store, fd, stat.size, &token, &fresh, &which);
        status = status == COG_ERR_IO                      ? COG_ERR_IO
                 : token == cog_entry_token(object->entry) ? COG_OK
                                                           : COG_ABSENT;
    }
    if (status != COG_OK) {
        store->fs->close(fd);
        return status;
    }
    *out = fd;
    return COG_OK;
}

enum cog_status cog_store_delete_object(struct cog_store *store, struct cog_object *object,
                                        struct cog_error *err)
{
    int fd = -1;
    enum cog_status status = cog_store_reopen(store, object, O_RDONLY, &fd, err);
    if (status != COG_OK) {
        return status;
    }
    status = cog_store_remove_open(store, &object->digest, fd, COG_REMOVE_UNLINK, err);
    store->fs->close(fd); /* after the lock: freeing gigabytes takes its time */
    if (status == COG_OK) {
        cog_count(&store->counters.deletes, 1);
    }
    return status;
}

enum cog_status cog_store_delete(struct cog_store *store, const void *key, size_t key_size,
                                 struct cog_error *err)
{
    /* A few rounds: whoever overwrites in between is deleted as well, as if it had come before. */
    for (unsigned tries = 0; tries < 8; tries++) {
        struct cog_object *object = NULL;
        enum cog_miss miss;
        unsigned flags = COG_GET_INDEX_ONLY | COG_GET_NO_TOUCH | COG_GET_ANY_AGE;
        enum cog_status status = cog_store_get(store, key, key_size, flags, &object, &miss, err);
        if (status != COG_OK) {
            return status == COG_ABSENT && miss == COG_MISS_UNAVAILABLE ? COG_ERR_IO : status;
        }
        bool was_live = cog_object_miss(object) == COG_MISS_NONE;
        status = cog_store_delete_object(store, object, err);
        cog_object_free(object);
        if (status != COG_ABSENT) {
            return status == COG_OK && !was_live ? COG_ABSENT : status;
        }
    }
    return cog_fail(err, COG_ERR_BUSY, 0, "the entry is being rewritten all the time");
}

/* --- refresh ------------------------------------------------------------------------------- */

/*
 * Write the slot that is not current: if it gets torn or lost, the other one is still the truth of
 * before. Two refreshers at once (table-less mode) can spoil no more than that one slot.
 */
static enum cog_status write_slot(struct cog_store *store, int fd, uint64_t size, uint64_t ttl_ms,
                                  uint64_t *expires, struct cog_error *err)
{
    struct cog_freshness fresh;
    uint64_t token = 0, now = cog_store_now_ms(store);
    unsigned which = 0;
    enum cog_status status = cog_store_read_slots(store, fd, size, &token, &fresh, &which);
    if (status != COG_OK || cog_fresh_is_expired(&fresh, now)) {
        return status == COG_ERR_IO ? status : COG_ABSENT;
    }
    uint64_t old = cog_fresh_expires(&fresh, now);
    fresh.seq++;
    fresh.refreshed_ms = now;
    fresh.ttl_ms = ttl_ms < COG_NEVER ? ttl_ms : COG_NEVER;
    *expires = cog_fresh_expires(&fresh, now);
    if (*expires < old) {
        return cog_fail(err, COG_ERR_INVALID, 0,
                        "a refresh only lengthens a life; to shorten it, put or delete");
    }
    unsigned char slot[COG_SLOT_SIZE];
    cog_slot_encode(&fresh, token, slot);
    uint64_t offset = size - COG_ENTRY_TAIL_SIZE + (which == 0 ? COG_SLOT_SIZE : 0);
    int rc = cog_fs_write_all(store->fs, fd, slot, sizeof slot, offset);
    if (rc == 0 && store->options.durability == COG_DURABILITY_FULL) {
        rc = store->fs->sync_data(fd);
    }
    return rc < 0 ? cog_store_write_error(store, -rc, "refreshing a file", err) : COG_OK;
}

/* Under the shard's lock where there is one. */
static enum cog_status refresh_object(struct cog_store *store, const struct cog_object *object,
                                      uint64_t ttl_ms, uint64_t *expires, struct cog_error *err)
{
    int fd = -1;
    enum cog_status status = cog_store_reopen(store, object, O_RDWR, &fd, err);
    if (status == COG_OK) {
        status = write_slot(store, fd, object->stat.size, ttl_ms, expires, err);
        store->fs->close(fd);
    }
    return status;
}

static enum cog_status refresh_indexed(struct cog_store *store, const struct cog_object *object,
                                       uint64_t ttl_ms, struct cog_error *err)
{
    uint64_t expires = 0;
    enum cog_status status = COG_INDEX_MOVED;
    for (unsigned tries = 0; tries < 2 && status == COG_INDEX_MOVED; tries++) {
        struct cog_index_lock lock;
        status = cog_index_lock(store->index, object->digest.bytes[0], NULL, &lock, err);
        if (status != COG_OK) {
            continue;
        }
        status = refresh_object(store, object, ttl_ms, &expires, err);
        struct cog_index_found found;
        if (status == COG_OK && cog_index_find(&lock, &object->digest, &found, NULL) == COG_OK &&
            found.present && found.stat.inode == object->stat.inode) {
            uint32_t seconds = expires == UINT64_MAX ? 0 : cog_store_seconds(expires);
            cog_index_set_expires(&lock, &object->digest, seconds);
        }
        cog_index_unlock(&lock);
    }
    return status == COG_INDEX_MOVED ? COG_ERR_BUSY : status;
}

enum cog_status cog_store_refresh(struct cog_store *store, const void *key, size_t key_size,
                                  uint64_t ttl_ms, struct cog_error *err)
{
    if (!store->writable) {
        return cog_fail(err, COG_ERR_READ_ONLY, 0, "%s is open read-only", store->root_path);
    }
    enum cog_status status = COG_ABSENT;
    for (unsigned tries = 0; tries < 2 && status == COG_ABSENT; tries++) {
        struct cog_object *object = NULL;
        enum cog_miss miss;
        unsigned flags = COG_GET_INDEX_ONLY | COG_GET_NO_TOUCH;
        status = cog_store_get(store, key, key_size, flags, &object, &miss, err);
        if (status != COG_OK) {
            return status == COG_ABSENT && miss == COG_MISS_UNAVAILABLE ? COG_ERR_IO : status;
        }
        uint64_t expires = 0; /* of no use without a row */
        status = store->table_less ? refresh_object(store, object, ttl_ms, &expires, err)
                                   : refresh_indexed(store, object, ttl_ms, err);
        cog_object_free(object);
    }
    if (status == COG_OK) {
        cog_count(&store->counters.refreshes, 1);
    }
    return status;
}
