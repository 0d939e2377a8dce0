#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/store_internal.h"

/* --- tags ---------------------------------------------------------------------------------- */

static uint64_t now_us(const struct cog_store *store)
{
    return cog_store_now_ms(store) * 1000;
}

enum cog_status cog_store_check_tags(struct cog_store *store, const struct cog_entry *entry,
                                     bool may_read, struct cog_error *err)
{
    struct cog_meta meta;
    size_t size;
    const unsigned char *bytes = cog_entry_meta(entry, &size);
    if (size == 0) {
        return COG_OK;
    }
    enum cog_status status = cog_meta_parse(bytes, size, &meta);
    if (status != COG_OK || meta.tag_count == 0) {
        return status;
    }
    status = cog_tags_refresh(store->tags, may_read, err);
    if (status != COG_OK) {
        return status;
    }
    struct cog_tag_iter iter;
    struct cog_tag_ref tag;
    uint64_t now = now_us(store);
    cog_tag_iter_init(&iter, &meta);
    while ((status = cog_tag_iter_next(&iter, &tag)) == COG_OK) {
        if (!cog_tags_is_current(store->tags, tag.name, tag.name_size, tag.version, now)) {
            return COG_ABSENT;
        }
    }
    return status == COG_ABSENT ? COG_OK : status;
}

enum cog_status cog_store_invalidate_tags(struct cog_store *store, const struct cog_tag_name *tags,
                                          size_t count, uint64_t above, struct cog_error *err)
{
    return cog_tags_invalidate(store->tags, tags, count, above, err);
}

enum cog_status cog_store_tag_version(struct cog_store *store, const void *name, size_t size,
                                      uint64_t *version, struct cog_error *err)
{
    *version = 0;
    enum cog_status status = cog_tags_refresh(store->tags, true, err);
    if (status == COG_OK) {
        *version = cog_tags_version(store->tags, name, size);
    }
    return status;
}

/* --- list ---------------------------------------------------------------------------------- */

struct listing {
    struct cog_store *store;
    unsigned shard;
    uint64_t source;
    struct cog_listed *listed;
    size_t count, capacity;
    enum cog_status status;
};

/* When an entry was used last as far as that was recorded, in Unix milliseconds; 0 = unknown. By
 * the real clock, also where a test has moved that of the store. */
static uint64_t last_use(const struct cog_store *store, bool known, double idle_seconds,
                         uint64_t mtime_ms)
{
    if (!known) {
        return store->table_less ? mtime_ms : 0; /* without tables a use is the file's time */
    }
    double now = (double)store->fs->realtime_ms();
    return idle_seconds * 1000 < now ? (uint64_t)(now - idle_seconds * 1000) : 0;
}

static bool list_name(void *context, const char *name)
{
    struct listing *listing = context;
    struct cog_store *store = listing->store;
    struct cog_digest digest;
    struct cog_row row;
    struct cog_stat stat;
    char path[COG_OBJECT_PATH_SIZE];
    if (!cog_object_name_parse(listing->shard, name, &digest)) {
        return true;
    }
    double idle = 0;
    bool known = store->index != NULL &&
                 cog_index_peek(store->index, &digest, &row, &idle) == COG_OK;
    uint64_t source = known ? row.source : 0;
    if (listing->source != 0 && source != 0 && source != listing->source) {
        return true;
    }
    cog_object_path(&digest, path);
    if (store->fs->stat_at(store->root, path, &stat) < 0 || !S_ISREG(stat.mode) ||
        !cog_store_trusts(store, &stat)) {
        return true;
    }
    if (listing->count == listing->capacity) {
        size_t room = listing->capacity == 0 ? 64 : 2 * listing->capacity;
        struct cog_listed *more = cog_realloc(listing->listed, room * sizeof *more);
        if (more == NULL) {
            listing->status = COG_ERR_NOMEM;
            return false;
        }
        listing->listed = more;
        listing->capacity = room;
    }
    uint64_t mtime_ms = stat.mtime_ns > 0 ? (uint64_t)stat.mtime_ns / 1000000 : 0;
    listing->listed[listing->count++] = (struct cog_listed){digest, cog_store_charge(store, &stat),
                                                            source, mtime_ms,
                                                            last_use(store, known, idle, mtime_ms)};
    return true;
}

enum cog_status cog_store_list_shard(struct cog_store *store, unsigned shard, uint64_t source,
                                     struct cog_listed **out, size_t *count, struct cog_error *err)
{
    *out = NULL;
    *count = 0;
    if (shard >= COG_SHARDS) {
        return cog_fail(err, COG_ERR_INVALID, 0, "shard %u: 0 to 255", shard);
    }
    struct listing listing = {.store = store, .shard = shard, .source = source};
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(shard, path);
    int rc = store->fs->list(store->root, path, list_name, &listing);
    if (rc < 0 && rc != -ENOENT) {
        listing.status = cog_fail(err, COG_ERR_IO, -rc, "listing %s", path);
    }
    if (listing.status != COG_OK) {
        cog_free(listing.listed);
        return listing.status;
    }
    *out = listing.listed;
    *count = listing.count;
    return COG_OK;
}

/* --- sweep --------------------------------------------------------------------------------- */

bool cog_store_is_expired(void *context, const char *path, const struct cog_stat *stat,
                          uint32_t *expires)
{
    struct cog_store *store = context;
    struct cog_freshness fresh;
    uint64_t token;
    unsigned which;
    int fd = store->fs->open(store->root, path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        *expires = 0;
        return false;
    }
    enum cog_status status = cog_store_read_slots(store, fd, stat->size, &token, &fresh, &which);
    store->fs->close(fd);
    uint64_t now = cog_store_now_ms(store);
    if (status == COG_ERR_IO) {
        *expires = 0;
        return false;
    }
    if (status != COG_OK || cog_fresh_is_expired(&fresh, now)) {
        return true; /* without a slot it can never be a hit again */
    }
    uint64_t end = cog_fresh_expires(&fresh, now);
    *expires = end == UINT64_MAX ? 0 : cog_store_seconds(end);
    return false;
}

/* Open every entry of a shard and delete what can never be a hit again. */
static void reclaim_shard(struct cog_store *store, unsigned shard, uint64_t *removed)
{
    struct cog_listed *listed;
    size_t count;
    unsigned flags = COG_GET_INDEX_ONLY | COG_GET_NO_TOUCH | COG_GET_ANY_AGE;
    if (cog_store_list_shard(store, shard, 0, &listed, &count, NULL) != COG_OK) {
        return;
    }
    for (size_t i = 0; i < count && !atomic_load(&store->sweeps_end); i++) {
        struct cog_object *object;
        if (cog_store_get_digest(store, &listed[i].digest, flags, &object, NULL, NULL) != COG_OK) {
            continue;
        }
        enum cog_miss miss = cog_object_miss(object);
        if ((miss == COG_MISS_EXPIRED || miss == COG_MISS_TAG) &&
            cog_store_delete_object(store, object, NULL) == COG_OK) {
            ++*removed;
        }
        cog_object_free(object);
    }
    cog_free(listed);
}

enum { LOOSE_SHARDS_A_SWEEP = 16 };

static void sweep_loose(struct cog_store *store, bool force, uint64_t *removed)
{
    cog_loose_clean_temp(store);
    unsigned shards = force ? COG_SHARDS : LOOSE_SHARDS_A_SWEEP;
    for (unsigned i = 0; i < shards && !atomic_load(&store->sweeps_end); i++) {
        unsigned shard = atomic_fetch_add(&store->loose.cursor, 1) % COG_SHARDS;
        reclaim_shard(store, shard, removed);
    }
}

/* The first thing that went wrong is told; the other shards are looked after all the same. */
static enum cog_status sweep_shards(struct cog_store *store, bool force, uint64_t *removed,
                                    struct cog_error *err)
{
    enum cog_status result = COG_OK;
    uint64_t newest = cog_tags_newest(store->tags);
    bool tags_moved = newest != atomic_load(&store->tags_swept);
    for (unsigned i = 0; i < COG_SHARDS && !atomic_load(&store->sweeps_end); i++) {
        unsigned shard = cog_index_next_shard(store->index) % COG_SHARDS;
        enum cog_status status = cog_index_sweep_shard(store->index, shard, force, removed,
                                                       result == COG_OK ? err : NULL);
        result = result == COG_OK ? status : result;
        if (tags_moved || force) {
            reclaim_shard(store, shard, removed);
        }
    }
    if (!atomic_load(&store->sweeps_end)) {
        atomic_store(&store->tags_swept, newest);
    }
    return result;
}

void cog_store_end_sweeps(struct cog_store *store)
{
    atomic_store(&store->sweeps_end, true);
}

enum cog_status cog_store_sweep(struct cog_store *store, bool force, uint64_t *removed,
                                struct cog_error *err)
{
    uint64_t own = 0;
    enum cog_status status;
    removed = removed != NULL ? removed : &own;
    *removed = 0;
    if (!store->writable) {
        return cog_fail(err, COG_ERR_READ_ONLY, 0, "%s is open read-only", store->root_path);
    }
    if (atomic_load(&store->sweeps_end)) {
        return COG_OK;
    }
    (void)cog_tags_refresh(store->tags, true, NULL);
    cog_store_adjust_limit(store);
    if (store->table_less) {
        sweep_loose(store, force, removed);
        status = COG_OK;
    } else {
        status = cog_index_job_begin(store->index, err);
        if (status != COG_OK) {
            return status == COG_INDEX_MOVED ? COG_ERR_BUSY : status;
        }
        (void)cog_index_reap(store->index);
        status = sweep_shards(store, force, removed, err);
        cog_index_job_end(store->index);
    }
    cog_count(&store->counters.swept, *removed);
    return status == COG_INDEX_MOVED ? COG_ERR_BUSY : status;
}

/* --- stats --------------------------------------------------------------------------------- */

static bool count_name(void *context, const char *name)
{
    (void)name;
    ++*(uint64_t *)context;
    return true;
}

static uint64_t count_names(struct cog_store *store, const char *path)
{
    uint64_t count = 0;
    (void)store->fs->list(store->root, path, count_name, &count);
    return count;
}

static uint64_t read_counter(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void counters_to_stats(const struct cog_counters *from, struct cog_store_stats *out)
{
    out->hits = read_counter(&from->hits);
    for (unsigned i = 0; i < COG_MISS_COUNT; i++) {
        out->misses[i] = read_counter(&from->misses[i]);
    }
    out->inline_hits = read_counter(&from->inline_hits);
    out->would_block = read_counter(&from->would_block);
    out->puts = read_counter(&from->puts);
    out->put_bytes = read_counter(&from->put_bytes);
    out->read_bytes = read_counter(&from->read_bytes);
    out->deletes = read_counter(&from->deletes);
    out->touches = read_counter(&from->touches);
    out->refreshes = read_counter(&from->refreshes);
    out->refused_full = read_counter(&from->refused_full);
    out->refused_too_large = read_counter(&from->refused_too_large);
    out->refused_busy = read_counter(&from->refused_busy);
    out->refused_read_only = read_counter(&from->refused_read_only);
    out->io_errors = read_counter(&from->io_errors);
    out->evicted_policy = read_counter(&from->evicted_policy);
    out->quarantined = read_counter(&from->quarantined);
    out->swept = read_counter(&from->swept);
}

static void index_to_stats(struct cog_store *store, struct cog_store_stats *out)
{
    struct cog_index_stats index;
    cog_index_get_stats(store->index, &index);
    out->rebuilds = index.rebuilds;
    out->reopens = index.reopens;
    out->reaped = index.reaped;
    out->evicted_policy = index.evicted_policy;
    out->evicted_expired = index.evicted_expired;
    out->used_bytes = index.used_bytes;
    out->fixed_bytes = index.fixed_bytes;
    out->held_bytes = index.held_bytes;
    out->limit_bytes = index.limit;
    out->entries = index.entries;
    out->mapped = index.mapped;
}

void cog_store_get_stats(struct cog_store *store, struct cog_store_stats *out)
{
    struct cog_fs_space space;
    *out = (struct cog_store_stats){0};
    counters_to_stats(&store->counters, out);
    out->limit_bytes = store->limit;
    if (store->index != NULL) {
        index_to_stats(store, out);
    } else {
        unsigned unknown;
        out->used_bytes = cog_loose_used(store, &unknown);
        out->fixed_bytes = store->fixed_bytes;
        for (unsigned shard = 0; shard < COG_SHARDS; shard++) {
            char path[COG_OBJECT_PATH_SIZE];
            cog_shard_path(shard, path);
            out->entries += count_names(store, path);
        }
    }
    out->quarantine_files = count_names(store, "quarantine");
    out->free_bytes = store->fs->space(store->root, &space) == 0 ? space.free_bytes : 0;
    out->table_less = store->table_less;
    out->read_only = atomic_load(&store->read_only);
    out->hard_limit = store->index != NULL && store->limit != 0;
}
