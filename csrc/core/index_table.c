/*
 * One shard under its lock: lock and check [L1-L3], look up, publish, remove; and what goes without
 * the lock [G0, G2].
 */
#include "core/index_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"

/* --- numbers of a table --- */

uint64_t cog_table_share(uint32_t rows, uint32_t capacity)
{
    uint64_t by_rows = COG_ROW_SHARE * rows, allocated = cog_shard_bytes(capacity);
    allocated = allocated > COG_INDEX_REGION_FREE ? allocated - COG_INDEX_REGION_FREE : 0;
    return by_rows > allocated ? by_rows : allocated;
}

uint32_t cog_table_capacity(struct cog_index_file *file, unsigned shard)
{
    uint32_t capacity = cog_word32(file, COG_AT_SHARD(capacity, shard));
    bool fits = capacity >= COG_SHARD_LEAST_SLOTS && capacity <= file->most_slots &&
                (capacity & (capacity - 1)) == 0;
    return fits ? capacity : 0;
}

static size_t hot_at(const struct cog_index_file *file, unsigned shard)
{
    return cog_region_at(file, shard) + sizeof(struct cog_region_head);
}

static size_t row_at(const struct cog_index_file *file, unsigned shard, uint32_t capacity)
{
    return hot_at(file, shard) + (size_t)capacity * sizeof(struct cog_hot);
}

void cog_table_view(struct cog_index_file *file, unsigned shard, struct cog_shard *out)
{
    *out = (struct cog_shard){0};
    uint32_t capacity = file->map ? cog_table_capacity(file, shard) : 0;
    if (!capacity)
        return;
    out->capacity = capacity;
    out->hot = (struct cog_hot *)(void *)(file->map + hot_at(file, shard));
    out->row = (struct cog_row *)(void *)(file->map + row_at(file, shard, capacity));
}

/* --- tables without a map: private copies, filled by blocks and written back by slots --- */

enum { BLOCK = 64 };

struct scratch {
    struct cog_index_file *file;
    unsigned shard;
    uint32_t capacity;
    struct cog_hot *hot;
    struct cog_row *row;
    unsigned char *loaded; /* a byte per block */
    unsigned char *dirty;  /* a byte per slot */
};

static void scratch_read(struct scratch *scratch, void *out, size_t size, size_t at)
{
    struct cog_index_file *file = scratch->file;
    if (cog_fs_read_all(file->fs, atomic_load(&file->fd), out, size, at)) {
        atomic_store(&file->broken, true);
        memset(out, 0, size);
    }
}

static void scratch_load(void *context, uint32_t slot)
{
    struct scratch *scratch = context;
    uint32_t block = slot / BLOCK, first = block * BLOCK;
    if (scratch->loaded[block])
        return;
    scratch->loaded[block] = 1;
    scratch_read(scratch, scratch->hot + first, BLOCK * sizeof *scratch->hot,
                 hot_at(scratch->file, scratch->shard) + first * sizeof *scratch->hot);
    scratch_read(scratch, scratch->row + first, BLOCK * sizeof *scratch->row,
                 row_at(scratch->file, scratch->shard, scratch->capacity) +
                     first * sizeof *scratch->row);
}

static void scratch_changed(void *context, uint32_t slot)
{
    struct scratch *scratch = context;
    scratch->dirty[slot] = 1;
}

static void scratch_write(struct scratch *scratch, const void *data, size_t size, size_t at)
{
    struct cog_index_file *file = scratch->file;
    if (cog_fs_write_all(file->fs, atomic_load(&file->fd), data, size, at))
        atomic_store(&file->broken, true);
}

static void scratch_flush(struct scratch *scratch)
{
    for (uint32_t slot = 0; slot < scratch->capacity; slot++) {
        if (!scratch->dirty[slot])
            continue;
        uint32_t end = slot;
        while (end < scratch->capacity && scratch->dirty[end])
            scratch->dirty[end++] = 0;
        scratch_write(scratch, scratch->hot + slot, (end - slot) * sizeof *scratch->hot,
                      hot_at(scratch->file, scratch->shard) + slot * sizeof *scratch->hot);
        scratch_write(scratch, scratch->row + slot, (end - slot) * sizeof *scratch->row,
                      row_at(scratch->file, scratch->shard, scratch->capacity) +
                          slot * sizeof *scratch->row);
        slot = end;
    }
}

static void scratch_free(struct scratch *scratch)
{
    if (!scratch)
        return;
    cog_free(scratch->hot);
    cog_free(scratch->row);
    cog_free(scratch->loaded);
    cog_free(scratch->dirty);
    cog_free(scratch);
}

static struct scratch *scratch_new(struct cog_index_file *file, unsigned shard,
                                   struct cog_shard *out)
{
    uint32_t capacity = cog_table_capacity(file, shard);
    struct scratch *scratch = cog_alloc_zeroed(1, sizeof *scratch);
    if (!scratch)
        return NULL;
    scratch->file = file;
    scratch->shard = shard;
    scratch->capacity = capacity;
    if (capacity) {
        scratch->hot = cog_alloc(capacity * sizeof *scratch->hot);
        scratch->row = cog_alloc(capacity * sizeof *scratch->row);
        scratch->loaded = cog_alloc_zeroed(capacity / BLOCK, 1);
        scratch->dirty = cog_alloc_zeroed(capacity, 1);
        if (!scratch->hot || !scratch->row || !scratch->loaded || !scratch->dirty) {
            scratch_free(scratch);
            return NULL;
        }
    }
    *out = (struct cog_shard){.hot = scratch->hot,
                              .row = scratch->row,
                              .capacity = capacity,
                              .load = scratch_load,
                              .changed = scratch_changed,
                              .context = scratch};
    return scratch;
}

/* --- the lock's table --- */

enum cog_status cog_table_open(struct cog_index_lock *lock, struct cog_error *err)
{
    struct cog_index_file *file = lock->file;
    cog_table_close(lock);
    if (file->map) {
        cog_table_view(file, lock->shard, &lock->table);
    } else {
        lock->scratch = scratch_new(file, lock->shard, &lock->table);
        if (!lock->scratch)
            return cog_fail(err, COG_ERR_NOMEM, 0, NULL);
    }
    lock->table.rows = cog_word32(file, COG_AT_SHARD(rows, lock->shard));
    if (lock->table.capacity)
        lock->table.next_count = cog_word32(file, COG_AT_REGION(file, next_count, lock->shard));
    return COG_OK;
}

void cog_table_flush(struct cog_index_lock *lock)
{
    if (lock->scratch)
        scratch_flush(lock->scratch);
}

void cog_table_close(struct cog_index_lock *lock)
{
    scratch_free(lock->scratch);
    lock->scratch = NULL;
    lock->table = (struct cog_shard){0};
}

/* --- the stamp --- */

/*
 * A release store orders only what came before it; the fence keeps the changes that follow behind
 * the odd stamp for a reader that takes no lock [G0], on machines that reorder stores.
 */
void cog_stamp_inside(struct cog_index_lock *lock)
{
    size_t at = COG_AT_SHARD(stamp, lock->shard);
#ifdef COG_SEED_BUG_NO_STAMP
    (void)at;
#else
    cog_word32_set(lock->file, at, cog_word32(lock->file, at) | 1);
#endif
    atomic_thread_fence(memory_order_release);
    lock->inside = true;
}

void cog_stamp_outside(struct cog_index_lock *lock)
{
    size_t at = COG_AT_SHARD(stamp, lock->shard);
    cog_table_flush(lock);
    cog_word32_set(lock->file, at, (cog_word32(lock->file, at) | 1) + 1);
    lock->inside = false;
}

bool cog_shard_settle(struct cog_index_lock *lock, uint64_t objects)
{
    const struct cog_fs *fs = lock->file->fs;
    struct cog_index_file *file = lock->file;
    struct cog_stat directory;
    char path[COG_OBJECT_PATH_SIZE];
    unsigned s = lock->shard;
    cog_shard_path(s, path);
    int failed = fs->stat_at(lock->index->options.root, path, &directory);
    if (failed == -ENOENT)
        directory = (struct cog_stat){0};
    else if (failed)
        return false;
    uint64_t charge = cog_charge(&directory, lock->index->block_size);
    charge = charge < UINT32_MAX ? charge : UINT32_MAX;
    cog_word64_set(file, COG_AT_SHARD(dir_mtime, s), (uint64_t)directory.mtime_ns);
    cog_word32_set(file, COG_AT_SHARD(dir_charge, s), (uint32_t)charge);
    if (lock->table.capacity) { /* else the region has no blocks yet */
        cog_word64_set(file, COG_AT_REGION(file, objects, s), objects);
        cog_word32_set(file, COG_AT_REGION(file, rows_copy, s), lock->table.rows);
        cog_word32_set(file, COG_AT_REGION(file, next_count, s), lock->table.next_count);
    }
    cog_word32_set(file, COG_AT_SHARD(rows, s), lock->table.rows);
    cog_word64_set(file, COG_AT_SHARD(total, s),
                   objects + charge + cog_table_share(lock->table.rows, lock->table.capacity));
    return true;
}

/* --- lock --- */

/* [L3] Anything in doubt? Words only; rows are compared with files when they are used. */
static bool in_doubt(struct cog_index_file *file, unsigned s)
{
    uint32_t capacity = cog_word32(file, COG_AT_SHARD(capacity, s)),
             rows = cog_word32(file, COG_AT_SHARD(rows, s));
    uint32_t stamp = cog_word32(file, COG_AT_SHARD(stamp, s));
    if (stamp & 1 || stamp == 0) /* 0: never counted; a file cut off and filled up again */
        return true;
    if (capacity != cog_table_capacity(file, s) || rows > capacity)
        return true;
    uint64_t total = cog_word64(file, COG_AT_SHARD(total, s));
    if (total >= COG_UNKNOWN)
        return true;
    if (capacity == 0) /* no table yet, so no region head that anybody wrote */
        return rows != 0 || total != cog_word32(file, COG_AT_SHARD(dir_charge, s));
    uint64_t objects = cog_word64(file, COG_AT_REGION(file, objects, s));
    return rows != cog_word32(file, COG_AT_REGION(file, rows_copy, s)) || objects >= COG_UNKNOWN ||
           total != objects + cog_word32(file, COG_AT_SHARD(dir_charge, s)) +
                        cog_table_share(rows, capacity);
}

static bool mutex_lock_patiently(const struct cog_fs *fs, pthread_mutex_t *mutex)
{
    const uint32_t most = 200000, longest = 1000;
    uint32_t pause = 20, waited = 0;
    while (pthread_mutex_trylock(mutex)) {
        if (waited >= most)
            return false;
        fs->sleep_us(pause);
        waited += pause;
        pause = pause * 2 < longest ? pause * 2 : longest;
    }
    return true;
}

/* [L1, L2] */
static enum cog_status take(struct cog_index_lock *lock, struct cog_error *err)
{
    struct cog_index_file *file = lock->file;
    enum cog_status status = COG_OK;
    if (atomic_load(&file->fd) < 0) /* a forked child */
        status = cog_file_check(lock->index, file, err);
    if (status != COG_OK)
        return status;
    if (!mutex_lock_patiently(file->fs, &file->shard_mutex[lock->shard]))
        return cog_fail(err, COG_ERR_BUSY, 0, "another thread holds shard %02x", lock->shard);
    int failed = cog_file_lock_patiently(file, COG_LOCK_SHARD(lock->shard));
    if (failed == -EAGAIN)
        status = cog_fail(err, COG_ERR_BUSY, 0, "another process holds shard %02x", lock->shard);
    else if (failed == -EBADF)
        status = cog_file_check(lock->index, file, err);
    else if (failed)
        status = cog_fail(err, COG_ERR_IO, -failed, "cannot lock shard %02x", lock->shard);
    if (status == COG_OK && !failed) {
        status = cog_file_check(lock->index, file, err);
        if (status != COG_OK && atomic_load(&file->fd) >= 0)
            file->fs->lock(atomic_load(&file->fd), COG_LOCK_SHARD(lock->shard), COG_UNLOCK);
    } else if (status == COG_OK) {
        status = cog_fail(err, COG_INDEX_MOVED, 0, NULL);
    }
    if (status != COG_OK)
        pthread_mutex_unlock(&file->shard_mutex[lock->shard]);
    return status;
}

enum cog_status cog_index_lock(struct cog_index *index, unsigned shard,
                               const struct cog_reservation *reservation,
                               struct cog_index_lock *lock, struct cog_error *err)
{
    enum cog_status status = COG_OK;
    *lock = (struct cog_index_lock){.index = index, .shard = shard % COG_SHARDS};
    if (reservation) {
        if (!reservation->file || !cog_reservation_is_ours(reservation))
            return cog_fail(err, COG_INDEX_MOVED, 0, "nothing is reserved by this process");
        lock->file = reservation->file;
        cog_file_ref(lock->file);
    } else {
        status = cog_index_attach(index, &lock->file, err);
    }
    if (status != COG_OK)
        return status;
    status = take(lock, err);
    if (status != COG_OK) {
        cog_file_unref(lock->file);
        *lock = (struct cog_index_lock){0};
        return status;
    }
    status = in_doubt(lock->file, lock->shard) ? cog_rebuild(lock, err) : cog_table_open(lock, err);
    if (status == COG_OK && atomic_load(&lock->file->broken))
        status = cog_index_lose(index, lock->file, err);
    if (status != COG_OK)
        cog_index_unlock(lock);
    return status;
}

void cog_index_unlock(struct cog_index_lock *lock)
{
    struct cog_index_file *file = lock->file;
    if (!file)
        return;
    cog_table_close(lock);
    int fd = atomic_load(&file->fd);
    if (fd >= 0)
        file->fs->lock(fd, COG_LOCK_SHARD(lock->shard), COG_UNLOCK);
    pthread_mutex_unlock(&file->shard_mutex[lock->shard]);
    cog_file_unref(file);
    *lock = (struct cog_index_lock){0};
}

/* Without a lock a shard that somebody is just changing looks the same: its lock tells. */
unsigned cog_shards_heal(struct cog_index *index, struct cog_index_file *file, unsigned most)
{
    bool counted = atomic_load(&file->counted);
    unsigned healed = 0;
    for (unsigned s = 0; s < COG_SHARDS && healed < most; s++) {
        struct cog_index_lock lock;
        bool unknown = cog_word64(file, COG_AT_SHARD(total, s)) >= COG_UNKNOWN;
        if ((unknown && !counted) || !in_doubt(file, s) ||
            cog_index_lock(index, s, NULL, &lock, NULL) != COG_OK)
            continue;
        cog_index_unlock(&lock);
        healed++;
    }
    return healed;
}

enum cog_status cog_index_rebuild(struct cog_index_lock *lock, struct cog_error *err)
{
    return cog_rebuild(lock, err);
}

/* --- look up --- */

/* Row and file of one name agree? `trust_absence`: a row that is not there is not compared with the
 * directory. */
static enum cog_status compare(struct cog_index_lock *lock, const struct cog_digest *digest,
                               bool trust_absence, bool *agree, struct cog_index_found *found,
                               struct cog_error *err)
{
    char path[COG_OBJECT_PATH_SIZE];
    uint32_t slot = cog_shard_find(&lock->table, digest);
    *found = (struct cog_index_found){0};
    *agree = true;
    if (slot == COG_SHARD_NONE && trust_absence)
        return COG_OK;
    cog_object_path(digest, path);
    int failed = lock->file->fs->stat_at(lock->index->options.root, path, &found->stat);
    if (failed == -EINTR)
        failed = lock->file->fs->stat_at(lock->index->options.root, path, &found->stat);
    if (failed && failed != -ENOENT)
        return cog_fail(err, COG_ERR_IO, -failed, "cannot look at %s", path);
    if (!failed && !cog_index_owns(lock->index, &found->stat))
        return cog_fail(err, COG_ERR_REFUSED, 0, "%s is not a file of ours", path);
    *agree = (slot != COG_SHARD_NONE) == !failed;
    if (failed || slot == COG_SHARD_NONE)
        return COG_OK;
    struct cog_sampled entry;
    cog_shard_get(&lock->table, slot, &entry);
    found->present = true;
    found->charge = cog_charge(&found->stat, lock->index->block_size);
    found->row = entry.row;
    found->hot = entry.hot;
    *agree = entry.row.inode == found->stat.inode && entry.row.sectors == found->charge / 512;
    return COG_OK;
}

static enum cog_status find(struct cog_index_lock *lock, const struct cog_digest *digest,
                            bool trust_absence, struct cog_index_found *found,
                            struct cog_error *err)
{
    for (int tries = 0; tries < 3; tries++) {
        bool agree;
        enum cog_status status = compare(lock, digest, trust_absence, &agree, found, err);
        if (status != COG_OK || agree)
            return status;
        status = cog_rebuild(lock, err);
        if (status != COG_OK)
            return status;
    }
    return cog_fail(err, COG_ERR_BUSY, 0, "somebody else changes shard %02x", lock->shard);
}

enum cog_status cog_index_find(struct cog_index_lock *lock, const struct cog_digest *digest,
                               struct cog_index_found *found, struct cog_error *err)
{
    return find(lock, digest, false, found, err);
}

/* --- publish --- */

static void total_raise(struct cog_index_lock *lock, uint64_t bytes)
{
    size_t at = COG_AT_SHARD(total, lock->shard);
    cog_word64_set(lock->file, at, cog_word64(lock->file, at) + bytes);
}

enum cog_status cog_index_publish_begin(struct cog_index_lock *lock,
                                        const struct cog_digest *digest, uint64_t charge,
                                        struct cog_index_found *found, struct cog_error *err)
{
    enum cog_status status = cog_table_room(lock, err); /* P5 */
    if (status == COG_OK)
        status = find(lock, digest, true, found, err); /* P6 */
    if (status == COG_OK)
        status = cog_table_room(lock, err); /* a rebuild may have filled it */
    if (status != COG_OK)
        return status;
    cog_stamp_inside(lock); /* P7 */
    /* P8, before the rename: then `held` of the dead may be dropped without knowing how far they
     * came */
#ifdef COG_SEED_BUG_TOTAL_LATE
    (void)charge;
#else
    total_raise(lock, charge + COG_ROW_SHARE + COG_DIRECTORY_SLACK);
#endif
    return COG_OK;
}

static uint64_t shard_objects(struct cog_index_lock *lock)
{
    return lock->table.capacity
               ? cog_word64(lock->file, COG_AT_REGION(lock->file, objects, lock->shard))
               : 0;
}

void cog_index_publish_end(struct cog_index_lock *lock, const struct cog_digest *digest,
                           const struct cog_index_record *record,
                           const struct cog_index_found *replaced)
{
    uint64_t now = cog_index_time(lock->index), objects = shard_objects(lock);
    struct cog_row row = {
        .inode = record->inode,
        .sectors = (uint32_t)(record->charge / 512),
        .expires = record->expires,
        .cost = record->cost,
        .kind = record->kind,
        .source = record->source,
    };
    cog_row_set_digest(&row, digest);
    cog_row_set_stored(&row, now);
#ifdef COG_SEED_BUG_TOTAL_LATE
    lock->file->fs->sleep_us(COG_SEEDED_WINDOW_US);
    total_raise(lock, record->charge + COG_ROW_SHARE + COG_DIRECTORY_SLACK);
#endif
    bool recorded = cog_shard_add(&lock->table, &row, now) != COG_SHARD_NONE; /* P10 */
    cog_table_flush(lock);
    objects += record->charge;
    objects -= replaced->charge < objects ? replaced->charge : objects;
    if (recorded && cog_shard_settle(lock, objects)) /* P11, P12 */
        cog_stamp_outside(lock);                     /* P13 */
    lock->inside = false;
}

/*
 * The rename was refused, or so it seems: a network or a failing disk may answer with an error and
 * have done it all the same. A directory that has changed since our last look leaves the shard
 * marked, and its total raised, for a rebuild.
 */
void cog_index_publish_cancel(struct cog_index_lock *lock)
{
    struct cog_index_file *file = lock->file;
    struct cog_stat directory = {0};
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(lock->shard, path);
    int failed = file->fs->stat_at(lock->index->options.root, path, &directory);
    bool unchanged = (!failed || failed == -ENOENT) &&
                     (uint64_t)directory.mtime_ns ==
                         cog_word64(file, COG_AT_SHARD(dir_mtime, lock->shard));
    if (unchanged && cog_shard_settle(lock, shard_objects(lock)))
        cog_stamp_outside(lock);
    lock->inside = false;
}

/* --- remove --- */

void cog_index_remove_begin(struct cog_index_lock *lock)
{
    cog_stamp_inside(lock);
#ifdef COG_SEED_BUG_SUB_FIRST
    cog_word64_set(lock->file, COG_AT_SHARD(total, lock->shard), 0);
    lock->file->fs->sleep_us(COG_SEEDED_WINDOW_US);
#endif
}

void cog_index_remove_end(struct cog_index_lock *lock, const struct cog_digest *digest,
                          const struct cog_index_found *found, bool removed)
{
    uint64_t objects = shard_objects(lock);
    if (removed) {
        uint32_t slot = cog_shard_find(&lock->table, digest);
        if (slot != COG_SHARD_NONE)
            cog_shard_drop(&lock->table, slot);
        cog_table_flush(lock);
        objects -= found->charge < objects ? found->charge : objects;
    }
    if (cog_shard_settle(lock, objects))
        cog_stamp_outside(lock);
    lock->inside = false;
}

/* --- names that are no entries --- */

enum cog_status cog_index_extra_begin(struct cog_index_lock *lock, uint64_t charge,
                                      struct cog_error *err)
{
    enum cog_status status = cog_table_room(lock, err); /* the region's head keeps the charges */
    if (status != COG_OK)
        return status;
    cog_stamp_inside(lock);
#ifdef COG_SEED_BUG_SPOOL_UNCOUNTED
    charge = 0;
#endif
    total_raise(lock, charge + COG_DIRECTORY_SLACK);
    return COG_OK;
}

void cog_index_extra_end(struct cog_index_lock *lock, bool known, uint64_t came, uint64_t went)
{
    uint64_t objects = shard_objects(lock) + came;
    objects -= went < objects ? went : objects;
    if (known && cog_shard_settle(lock, objects))
        cog_stamp_outside(lock);
    lock->inside = false;
}

static void change_row(struct cog_index_lock *lock, const struct cog_digest *digest, bool stuck,
                       uint32_t expires)
{
    uint32_t slot = cog_shard_find(&lock->table, digest);
    if (slot == COG_SHARD_NONE)
        return;
    struct cog_sampled entry;
    cog_shard_get(&lock->table, slot, &entry);
    if (stuck)
        entry.row.state = COG_ROW_STUCK;
    else
        entry.row.expires = expires;
    cog_stamp_inside(lock);
    cog_shard_set(&lock->table, slot, &entry);
    cog_stamp_outside(lock);
}

void cog_index_set_stuck(struct cog_index_lock *lock, const struct cog_digest *digest)
{
    change_row(lock, digest, true, 0);
}

void cog_index_set_expires(struct cog_index_lock *lock, const struct cog_digest *digest,
                           uint32_t expires)
{
    change_row(lock, digest, false, expires);
}

/* --- without the lock --- */

void cog_index_touch(struct cog_index *index, const struct cog_digest *digest)
{
    enum { PROBES = 32 };
    struct cog_index_file *file = cog_index_enter(index);
    uint64_t least = cog_shard_time(index->options.touch_ns, 0) - cog_shard_time(0, 0);
    unsigned s = digest->bytes[0];
    if (file && file->map) {
        struct cog_shard table;
        cog_table_view(file, s, &table);
        cog_shard_touch(&table, digest, cog_index_time(index), least, PROBES);
    } else if (file && atomic_load(&file->fd) >= 0) {
        struct cog_shard table;
        struct scratch *scratch = scratch_new(file, s, &table);
        if (scratch && cog_shard_touch(&table, digest, cog_index_time(index), least, PROBES))
            for (uint32_t slot = 0; slot < scratch->capacity; slot++)
                /* the 8 bytes of recency only: the row may be somebody else's by now */
                if (scratch->dirty[slot])
                    scratch_write(scratch, scratch->hot + slot, sizeof *scratch->hot,
                                  hot_at(file, s) + slot * sizeof *scratch->hot);
        scratch_free(scratch);
    }
    cog_index_leave(index);
}

/*
 * Is the file that we map the one that everybody writes? Asked last: then it was so, and no page
 * was missing, when whatever was read before was read.
 */
static bool is_linked(struct cog_index_file *file)
{
    struct cog_stat stat;
    int fd = atomic_load(&file->fd);
    return fd >= 0 && file->fs->stat(fd, &stat) == 0 && stat.inode == file->inode &&
           stat.device == file->device && stat.links > 0 && stat.size == file->size &&
           !atomic_load(&file->broken);
}

bool cog_index_is_absent(struct cog_index *index, const struct cog_digest *digest)
{
    struct cog_index_file *file = cog_index_enter(index);
    unsigned s = digest->bytes[0];
    bool absent = false;
    if (file && file->map) {
        struct cog_shard table;
        uint32_t stamp = cog_word32(file, COG_AT_SHARD(stamp, s));
        uint32_t capacity = cog_word32(file, COG_AT_SHARD(capacity, s));
        cog_table_view(file, s, &table);
        absent = (stamp & 1) == 0 && stamp != 0 && table.capacity == capacity &&
                 cog_word64(file, COG_AT_SHARD(total, s)) < COG_UNKNOWN &&
                 cog_shard_find(&table, digest) == COG_SHARD_NONE;
        atomic_thread_fence(memory_order_acquire);
        absent = absent && cog_word32(file, COG_AT_SHARD(stamp, s)) == stamp && is_linked(file);
    }
    cog_index_leave(index);
    return absent;
}

enum cog_status cog_index_peek(struct cog_index *index, const struct cog_digest *digest,
                               struct cog_row *row, double *idle_seconds)
{
    struct cog_index_file *file = cog_index_enter(index);
    struct cog_shard table = {0};
    struct scratch *scratch = NULL;
    struct cog_sampled entry = {0};
    if (file && file->map)
        cog_table_view(file, digest->bytes[0], &table);
    else if (file && atomic_load(&file->fd) >= 0)
        scratch = scratch_new(file, digest->bytes[0], &table);
    uint32_t slot = table.capacity ? cog_shard_find(&table, digest) : COG_SHARD_NONE;
    if (slot != COG_SHARD_NONE)
        cog_shard_get(&table, slot, &entry);
    scratch_free(scratch);
    uint64_t now = cog_index_time(index);
    cog_index_leave(index);
    if (slot == COG_SHARD_NONE || !cog_row_is(&entry.row, digest))
        return COG_ABSENT;
    *row = entry.row;
    if (idle_seconds)
        *idle_seconds = cog_shard_age(now, cog_hot_time(entry.hot));
    return COG_OK;
}
