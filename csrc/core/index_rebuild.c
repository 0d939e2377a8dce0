/*
 * Counting a shard anew from its directory [R1-R9], growing and shrinking its table, warm-up and
 * sweep.
 *
 * A table is never repaired: on any doubt all of it is made again, in private memory, from names
 * and stat, and put in place of the old one while the stamp is odd. The old rows are only hints,
 * which give back what a file does not say.
 */
#include "core/index_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

/* --- private tables --- */

static void table_free(struct cog_shard *table)
{
    cog_free(table->hot);
    cog_free(table->row);
    *table = (struct cog_shard){0};
}

static bool table_new(struct cog_shard *table, uint32_t capacity)
{
    *table = (struct cog_shard){.capacity = capacity};
    if (!capacity)
        return true;
    table->hot = cog_alloc_zeroed(capacity, sizeof *table->hot);
    table->row = cog_alloc_zeroed(capacity, sizeof *table->row);
    if (table->hot && table->row)
        return true;
    table_free(table);
    return false;
}

/* A count that no earlier table of this shard can have used: the generation counter itself was
 * lost. */
static uint32_t fresh_count(struct cog_index_lock *lock)
{
    uint64_t seed[3] = {lock->shard, lock->index->options.fs->boottime_ns(), 0};
    (void)lock->index->options.fs->random(&seed[2], sizeof seed[2]);
    return (uint32_t)cog_hash64(seed, sizeof seed, 0);
}

/* --- hints [R2] --- */

struct hints {
    struct cog_shard table;
    bool same_boot; /* its times mean something */
};

static bool read_arrays(const struct cog_fs *fs, int fd, struct cog_shard *table, uint64_t region)
{
    uint64_t hot = region + sizeof(struct cog_region_head);
    uint64_t row = hot + (uint64_t)table->capacity * sizeof(struct cog_hot);
    return cog_fs_read_all(fs, fd, table->hot, table->capacity * sizeof *table->hot, hot) == 0 &&
           cog_fs_read_all(fs, fd, table->row, table->capacity * sizeof *table->row, row) == 0;
}

static void hints_from_table(struct cog_index_lock *lock, struct hints *hints)
{
    struct cog_index_file *file = lock->file;
    uint32_t capacity = cog_table_capacity(file, lock->shard);
    if (!capacity || !table_new(&hints->table, capacity))
        return;
    hints->same_boot = true;
    if (file->map) {
        struct cog_shard view;
        cog_table_view(file, lock->shard, &view);
        for (uint32_t slot = 0; slot < capacity && slot < view.capacity; slot++) {
            struct cog_sampled entry;
            cog_shard_get(&view, slot, &entry);
            cog_shard_set(&hints->table, slot, &entry);
        }
    } else if (!read_arrays(file->fs, atomic_load(&file->fd), &hints->table,
                            cog_region_at(file, lock->shard))) {
        table_free(&hints->table);
    }
}

/* The index of the boot before, read once, region by region, and freed behind us. */
static void hints_from_old_index(struct cog_index_lock *lock, struct hints *hints)
{
    const struct cog_fs *fs = lock->index->options.fs;
    struct cog_index_head head;
    uint32_t capacity = 0;
    int fd = fs->open(lock->index->options.root, "index.old", O_RDWR, 0);
    if (fd < 0)
        return;
    if (cog_fs_read_all(fs, fd, &head, sizeof head, 0) == 0 && head.magic == COG_INDEX_MAGIC &&
        head.version == COG_INDEX_VERSION && head.row_bytes == sizeof(struct cog_row) &&
        head.check == cog_hash64(&head, offsetof(struct cog_index_head, check), 0) &&
        cog_fs_read_all(fs, fd, &capacity, sizeof capacity, COG_AT_SHARD(capacity, lock->shard)) ==
            0 &&
        capacity >= COG_SHARD_LEAST_SLOTS && (capacity & (capacity - 1)) == 0 &&
        capacity <= cog_shard_capacity_in(head.region_bytes) && capacity <= COG_INDEX_MOST_SLOTS &&
        table_new(&hints->table, capacity)) {
        uint64_t region = COG_INDEX_REGIONS_AT + lock->shard * head.region_bytes;
        if (!read_arrays(fs, fd, &hints->table, region))
            table_free(&hints->table);
        fs->punch(fd, region, cog_shard_bytes(capacity));
    }
    fs->close(fd);
}

/* --- the directory [R3, R4] --- */

struct listed {
    struct cog_digest digest;
    uint64_t inode, charge;
    uint64_t used_age_ns, stored_age_ns; /* by the wall clock, never negative */
};

struct listing {
    struct cog_index *index;
    unsigned shard;
    struct listed *names;
    size_t count, room;
    uint64_t now_ns, charges, strangers;
    int failed;
};

static uint64_t age_of(uint64_t now_ns, int64_t then_ns)
{
    return then_ns > 0 && (uint64_t)then_ns > now_ns
               ? 0
               : now_ns - (uint64_t)(then_ns > 0 ? then_ns : 0);
}

static bool list_name(void *context, const char *name)
{
    struct listing *listing = context;
    const struct cog_fs *fs = listing->index->options.fs;
    struct cog_stat stat;
    struct cog_digest digest;
    char path[COG_OBJECT_PATH_SIZE + 260];
    if (snprintf(path, sizeof path, "objects/%02x/%s", listing->shard, name) >= (int)sizeof path)
        return true;
    int failed = fs->stat_at(listing->index->options.root, path, &stat);
    if (failed == -ENOENT)
        return true;
    if (failed) {
        listing->failed = failed;
        return false;
    }
    uint64_t charge = cog_charge(&stat, listing->index->block_size);
    listing->charges += charge;
    if (!cog_object_name_parse(listing->shard, name, &digest) ||
        !cog_index_owns(listing->index, &stat)) {
        listing->strangers++; /* charged, never touched */
        return true;
    }
    if (listing->count == listing->room) {
        size_t room = listing->room ? listing->room * 2 : 256;
        struct listed *names = cog_realloc(listing->names, room * sizeof *names);
        if (!names) {
            listing->failed = -ENOMEM;
            return false;
        }
        listing->names = names;
        listing->room = room;
    }
    int64_t used = stat.atime_ns > stat.mtime_ns ? stat.atime_ns : stat.mtime_ns;
    listing->names[listing->count++] = (struct listed){
        .digest = digest,
        .inode = stat.inode,
        .charge = charge,
        .used_age_ns = age_of(listing->now_ns, used),
        .stored_age_ns = age_of(listing->now_ns, stat.mtime_ns),
    };
    return true;
}

/* A name in spool/ that begins with the digits of this shard. */
static bool list_extra(void *context, const char *name)
{
    struct listing *listing = context;
    const struct cog_fs *fs = listing->index->options.fs;
    struct cog_stat stat;
    char path[300], digits[4];
    snprintf(digits, sizeof digits, "%02x", listing->shard);
    if (strncmp(name, digits, 2) != 0 ||
        snprintf(path, sizeof path, COG_SPOOL_DIRECTORY "/%s", name) >= (int)sizeof path)
        return true;
    int failed = fs->stat_at(listing->index->options.root, path, &stat);
    if (failed && failed != -ENOENT) {
        listing->failed = failed;
        return false;
    }
    if (!failed)
        listing->charges += cog_charge(&stat, listing->index->block_size);
    return true;
}

static int list_shard(struct cog_index_lock *lock, struct listing *listing)
{
    const struct cog_fs *fs = lock->index->options.fs;
    char path[COG_OBJECT_PATH_SIZE];
    *listing = (struct listing){.index = lock->index,
                                .shard = lock->shard,
                                .now_ns = fs->realtime_us() * 1000};
    cog_shard_path(lock->shard, path);
    int failed = fs->list(lock->index->options.root, path, list_name, listing);
    if (!failed)
        failed = listing->failed;
    if (failed == -ENOENT || failed == -ENOTDIR || failed == -ELOOP) {
        /* nothing of ours; what stands there instead is charged as the directory */
        listing->count = 0;
        listing->charges = 0;
        failed = 0;
    }
    if (!failed) {
        failed = fs->list(lock->index->options.root, COG_SPOOL_DIRECTORY, list_extra, listing);
        failed = listing->failed                                               ? listing->failed
                 : failed == -ENOENT || failed == -ENOTDIR || failed == -ELOOP ? 0
                                                                               : failed;
    }
    return failed;
}

static int oldest_first(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;
    return (x->used_age_ns < y->used_age_ns) - (x->used_age_ns > y->used_age_ns);
}

/* [R7] No block left even for the table: the oldest eighth goes. */
static void unlink_oldest(struct cog_index_lock *lock, struct listing *listing)
{
    const struct cog_fs *fs = lock->index->options.fs;
    int root = lock->index->options.root;
    size_t victims = (listing->count + 7) / 8, gone = 0, kept = 0;
    qsort(listing->names, listing->count, sizeof *listing->names, oldest_first);
    for (size_t i = 0; i < listing->count; i++) {
        char path[COG_OBJECT_PATH_SIZE];
        cog_object_path(&listing->names[i].digest, path);
        if (gone < victims && !cog_object_is_pinned(fs, root, &listing->names[i].digest)) {
            if (fs->unlink(root, path) == 0) {
                listing->charges -= listing->names[i].charge;
                gone++;
                continue;
            }
            victims = gone; /* no more */
        }
        listing->names[kept++] = listing->names[i];
    }
    listing->count = kept;
    atomic_fetch_add(&lock->index->evicted_policy, gone);
}

/* --- rows [R6] --- */

static bool plausible_cost(float cost)
{
    return cost >= 0.0f && cost <= 1e9f;
}

static void row_from(struct cog_index_lock *lock, const struct listed *listed,
                     const struct hints *hints, struct cog_row *row, uint64_t *hot)
{
    uint64_t boot_ns = lock->index->options.fs->boottime_ns(), now = cog_shard_time(boot_ns, 0);
    *row = (struct cog_row){.inode = listed->inode, .sectors = (uint32_t)(listed->charge / 512)};
    cog_row_set_digest(row, &listed->digest);
    cog_row_set_stored(row, cog_shard_time(boot_ns, listed->stored_age_ns));
    *hot = cog_shard_time(boot_ns, listed->used_age_ns);
    uint32_t slot = hints->table.capacity ? cog_shard_find(&hints->table, &listed->digest)
                                          : COG_SHARD_NONE;
    if (slot == COG_SHARD_NONE)
        return;
    struct cog_sampled hint;
    cog_shard_get(&hints->table, slot, &hint);
    if (hint.row.inode != row->inode || hint.row.sectors != row->sectors)
        return;
    row->expires = hint.row.expires;
    row->cost = plausible_cost(hint.row.cost) ? hint.row.cost : 0.0f;
    row->kind = hint.row.kind;
    row->source = hint.row.source;
    uint64_t used = cog_hot_time(hint.hot);
    if (!hints->same_boot || used > now)
        used = *hot;
    *hot = (uint64_t)cog_hot_uses(hint.hot) << 48 | used;
    if (hints->same_boot && cog_row_stored(&hint.row) <= now)
        cog_row_set_stored(row, cog_row_stored(&hint.row));
}

/* --- putting a table in place [R5, R8, R9] --- */

static void write_table(struct cog_index_file *file, unsigned shard, struct cog_shard *table)
{
    uint64_t hot = cog_region_at(file, shard) + sizeof(struct cog_region_head);
    uint64_t row = hot + (uint64_t)table->capacity * sizeof(struct cog_hot);
    if (!file->map) {
        int fd = atomic_load(&file->fd);
        if (cog_fs_write_all(file->fs, fd, table->hot, table->capacity * sizeof *table->hot, hot) ||
            cog_fs_write_all(file->fs, fd, table->row, table->capacity * sizeof *table->row, row))
            atomic_store(&file->broken, true);
        return;
    }
    struct cog_shard place = {.hot = (struct cog_hot *)(void *)(file->map + hot),
                              .row = (struct cog_row *)(void *)(file->map + row),
                              .capacity = table->capacity};
    for (uint32_t slot = 0; slot < table->capacity; slot++) {
        struct cog_sampled entry;
        cog_shard_get(table, slot, &entry);
        cog_shard_set(&place, slot, &entry);
    }
}

/* The stamp is odd. Allocates the region first: on failure nothing has changed. 0 or -errno. */
static int install(struct cog_index_lock *lock, struct cog_shard *table, uint64_t objects)
{
    struct cog_index_file *file = lock->file;
    unsigned s = lock->shard;
    uint64_t region = cog_region_at(file, s);
    uint64_t before = cog_shard_bytes(cog_table_capacity(file, s)),
             after = cog_shard_bytes(table->capacity);
    bool unknown = cog_word64(file, COG_AT_SHARD(total, s)) >= COG_UNKNOWN;
    int failed = after ? cog_file_allocate(file, region, after) : 0;
    if (failed)
        return failed;
    write_table(file, s, table);
    cog_word32_set(file, COG_AT_SHARD(capacity, s), table->capacity);
    if (before > after)
        file->fs->punch(atomic_load(&file->fd), region + after, before - after);
    if (cog_table_open(lock, NULL) != COG_OK)
        return -ENOMEM;
    lock->table.rows = table->rows;
    lock->table.next_count = table->next_count;
    if (!cog_shard_settle(lock, objects))
        return -EIO;
    if (unknown) /* after the total: a sum in between counts it twice, not never */
        cog_word64_set(file, COG_AT_SHARD(first, s), cog_word64(file, COG_AT_SHARD(total, s)));
    cog_stamp_outside(lock);
    return 0;
}

static uint32_t capacity_for(const struct cog_index_file *file, size_t rows)
{
    uint32_t capacity = rows < file->most_slots ? cog_shard_capacity_for((uint32_t)rows)
                                                : file->most_slots;
    return capacity < file->most_slots ? capacity : file->most_slots;
}

static bool fill(struct cog_index_lock *lock, const struct listing *listing,
                 const struct hints *hints, struct cog_shard *table)
{
    bool any = listing->count || listing->charges;
    if (!table_new(table, any ? capacity_for(lock->file, listing->count) : 0))
        return false;
    uint32_t had = cog_table_capacity(lock->file, lock->shard);
    table->next_count = had ? cog_word32(lock->file,
                                         COG_AT_REGION(lock->file, next_count, lock->shard))
                            : fresh_count(lock);
    /* names beyond that are charged without a row */
    uint32_t most = table->capacity - table->capacity / 16;
    for (size_t i = 0; i < listing->count && table->rows < most; i++) {
        struct cog_row row;
        uint64_t hot;
        row_from(lock, &listing->names[i], hints, &row, &hot);
        cog_shard_add(table, &row, hot);
    }
    return true;
}

static enum cog_status rebuild_failed(struct cog_index_lock *lock, int failed,
                                      struct cog_error *err)
{
    if (failed == -ENOMEM)
        return cog_fail(err, COG_ERR_NOMEM, 0, NULL);
    if (failed == -ENOSPC || failed == -EDQUOT)
        return cog_fail(err, COG_ERR_FULL, -failed,
                        "no room on the disk for the table of shard %02x", lock->shard);
    return cog_fail(err, COG_ERR_IO, -failed, "objects/%02x cannot be counted", lock->shard);
}

enum cog_status cog_rebuild(struct cog_index_lock *lock, struct cog_error *err)
{
    struct cog_index_file *file = lock->file;
    struct hints hints = {0};
    struct listing listing;
    struct cog_shard table = {0};
    cog_stamp_inside(lock); /* R1; odd may be odd already */
    cog_table_close(lock);
    hints_from_table(lock, &hints);
    if (!hints.table.capacity && cog_word64(file, COG_AT_SHARD(total, lock->shard)) >= COG_UNKNOWN)
        hints_from_old_index(lock, &hints);
    int failed = list_shard(lock, &listing);
    if (!failed)
        failed = fill(lock, &listing, &hints, &table) ? install(lock, &table, listing.charges)
                                                      : -ENOMEM;
    if ((failed == -ENOSPC || failed == -EDQUOT) && listing.count) {
        unlink_oldest(lock, &listing);
        table_free(&table);
        failed = fill(lock, &listing, &hints, &table) ? install(lock, &table, listing.charges)
                                                      : -ENOMEM;
    }
    atomic_fetch_add(&lock->index->rebuilds, 1);
    atomic_fetch_add(&lock->index->strangers, listing.strangers);
    table_free(&table);
    table_free(&hints.table);
    cog_free(listing.names);
    lock->inside = false;
    return failed ? rebuild_failed(lock, failed, err) : COG_OK;
}

/* --- growth and shrinking --- */

/* The same rows in another capacity. On failure the old table stands. */
static int resize(struct cog_index_lock *lock, uint32_t capacity)
{
    struct cog_shard table, *old = &lock->table;
    const uint32_t before = old->capacity;
    uint64_t objects = old->capacity
                           ? cog_word64(lock->file, COG_AT_REGION(lock->file, objects, lock->shard))
                           : 0;
    if (!table_new(&table, capacity))
        return -ENOMEM;
    for (uint32_t slot = 0; slot < old->capacity; slot++) {
        struct cog_sampled entry;
        cog_shard_get(old, slot, &entry);
        if (!cog_row_live(&entry.row))
            continue;
        table.next_count = entry.row.count; /* rows keep their generation */
        if (cog_shard_add(&table, &entry.row, entry.hot) == COG_SHARD_NONE)
            break;
    }
    table.next_count = old->capacity ? old->next_count : fresh_count(lock);
    bool sound = table.rows == old->rows; /* else the rows are not what the words say */
    cog_stamp_inside(lock);
    int failed = sound ? install(lock, &table, objects) : -EILSEQ;
    if (failed && failed != -EILSEQ && cog_table_capacity(lock->file, lock->shard) == before)
        cog_stamp_outside(lock);
    lock->inside = false;
    table_free(&table);
    return failed;
}

enum cog_status cog_table_room(struct cog_index_lock *lock, struct cog_error *err)
{
    uint64_t capacity = lock->table.capacity, needed = (uint64_t)lock->table.rows + 1;
    if (needed * 4 <= capacity * 3)
        return COG_OK;
    int failed = -ENOSPC;
    if (capacity * 2 <= lock->file->most_slots)
        failed = resize(lock, capacity ? (uint32_t)capacity * 2 : COG_SHARD_LEAST_SLOTS);
    if (failed == -EILSEQ)
        return cog_rebuild(lock, err);
    if (!failed || needed * 16 <= capacity * 15)
        return COG_OK;
    if (failed == -ENOMEM)
        return cog_fail(err, COG_ERR_NOMEM, 0, NULL);
    return cog_fail(err, COG_ERR_FULL, -failed, "the table of shard %02x is full", lock->shard);
}

/* --- warm-up --- */

enum cog_status cog_index_warm_up(struct cog_index *index, unsigned shards, struct cog_error *err)
{
    struct cog_index_file *file;
    enum cog_status status = cog_index_attach(index, &file, err);
    if (status != COG_OK)
        return status;
    uint64_t total[COG_SHARDS];
    unsigned left = 0, done = 0;
    cog_words64(file, COG_AT_SHARD(total, 0), sizeof total[0], COG_SHARDS, total);
    /* so that helpers do not queue at one shard */
    unsigned start = (unsigned)(index->options.fs->boottime_ns() >> 10);
    for (unsigned i = 0; i < COG_SHARDS && status == COG_OK; i++) {
        unsigned s = (start + i) % COG_SHARDS;
        struct cog_index_lock lock;
        if (total[s] < COG_UNKNOWN)
            continue;
        if (done == shards) {
            left++;
            continue;
        }
        enum cog_status locked = cog_index_lock(index, s, NULL, &lock, err); /* counts it */
        if (locked == COG_OK) {
            cog_index_unlock(&lock);
            done++;
        } else if (locked == COG_INDEX_MOVED || locked == COG_ERR_FULL) {
            status = locked;
        } else {
            left++;
        }
    }
    if (status == COG_OK && done && !left)
        index->options.fs->unlink(index->options.root, "index.old");
    if (status == COG_OK && left)
        status = cog_fail(done ? NULL : err, COG_ERR_BUSY, 0, "%u shards are not counted yet",
                          left);
    cog_file_unref(file);
    return status;
}

/* --- sweep of one shard --- */

enum { EXPIRED_AT_ONCE = 64 };

/* Live rows that say they have expired, and count of them; the lock is held. */
static unsigned expired_rows(struct cog_index_lock *lock, uint32_t *from, struct cog_victim *out)
{
    uint64_t now_s = cog_index_now_ms(lock->index) / 1000;
    unsigned count = 0;
    uint32_t slot = *from;
    for (; slot < lock->table.capacity && count < EXPIRED_AT_ONCE; slot++) {
        struct cog_sampled entry;
        cog_shard_get(&lock->table, slot, &entry);
        const struct cog_row *row = &entry.row;
        if (!cog_row_live(row) || row->state == COG_ROW_STUCK || !row->expires ||
            row->expires > now_s)
            continue;
        out[count] = (struct cog_victim){.shard = lock->shard,
                                         .inode = row->inode,
                                         .count = row->count,
                                         .bytes = (uint64_t)row->sectors * 512,
                                         .expired = true,
                                         .source = row->source,
                                         .kind = row->kind};
        cog_row_digest(row, &out[count++].digest);
    }
    *from = slot;
    return count;
}

static enum cog_status care_for_table(struct cog_index_lock *lock, bool force,
                                      struct cog_error *err)
{
    struct cog_index *index = lock->index;
    struct cog_stat directory = {0};
    char path[COG_OBJECT_PATH_SIZE];
    cog_shard_path(lock->shard, path);
    int failed = index->options.fs->stat_at(index->options.root, path, &directory);
    if (failed && failed != -ENOENT)
        return cog_fail(err, COG_ERR_IO, -failed, "cannot look at %s", path);
    uint64_t known = cog_word64(lock->file, COG_AT_SHARD(dir_mtime, lock->shard));
    if (force || (uint64_t)directory.mtime_ns != known)
        return cog_rebuild(lock, err);
    uint32_t capacity = lock->table.capacity, rows = lock->table.rows;
    if (capacity > COG_SHARD_LEAST_SLOTS && rows < capacity / 8 &&
        resize(lock, cog_shard_capacity_for(rows)) == -EILSEQ)
        return cog_rebuild(lock, err);
    return COG_OK;
}

enum cog_status cog_index_sweep_shard(struct cog_index *index, unsigned shard, bool force,
                                      uint64_t *removed, struct cog_error *err)
{
    struct cog_victim victims[EXPIRED_AT_ONCE];
    uint32_t from = 0;
    for (bool first = true;; first = false) {
        struct cog_index_lock lock;
        enum cog_status status = cog_index_lock(index, shard, NULL, &lock, err);
        if (status != COG_OK)
            return status;
        if (first)
            status = care_for_table(&lock, force, err);
        unsigned count = status == COG_OK ? expired_rows(&lock, &from, victims) : 0;
        bool more = count == EXPIRED_AT_ONCE;
        cog_index_unlock(&lock);
        if (status != COG_OK)
            return status;
        for (unsigned i = 0; i < count; i++) {
            status = cog_index_remove_victim(index, &victims[i], err);
            if (status == COG_OK && removed)
                ++*removed;
            if (status == COG_INDEX_MOVED || status == COG_ERR_BUSY)
                return status;
        }
        if (!more)
            return COG_OK;
    }
}
