/* Choosing and removing one entry [E1-E5]. No ordered structure: the worst of a sample goes. */
#include "core/index_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE = 64, MOST_WINDOWS = 64, WINDOW = 64 };

/* Closing the last reference to something this large can take long: after the lock. */
static const uint64_t large_bytes = UINT64_C(64) << 20;

/* --- the sample [E1] --- */

struct sample {
    struct cog_index_file *file;
    int fd;
    struct cog_sampled seen[SAMPLE];
    unsigned shard[SAMPLE];
    uint32_t count;
};

static uint32_t clamped_rows(struct cog_index_file *file, unsigned shard)
{
    uint32_t rows = cog_word32(file, COG_AT_SHARD(rows, shard));
    return rows < file->most_slots ? rows : file->most_slots;
}

/* Without a map: the window by two reads, into memory that looks like a table of one window. */
static uint32_t window_unmapped(struct sample *sample, unsigned shard, uint32_t capacity,
                                uint32_t start, struct cog_sampled *out, uint32_t room)
{
    struct cog_hot hot[WINDOW];
    struct cog_row row[WINDOW];
    struct cog_index_file *file = sample->file;
    start &= ~(uint32_t)(WINDOW - 1); /* capacities are multiples of a window: no wrap */
    uint64_t hot_at = cog_region_at(file, shard) + sizeof(struct cog_region_head);
    uint64_t row_at = hot_at + (uint64_t)capacity * sizeof *hot + (uint64_t)start * sizeof *row;
    if (cog_fs_read_all(file->fs, sample->fd, hot, sizeof hot, hot_at + start * sizeof *hot) ||
        cog_fs_read_all(file->fs, sample->fd, row, sizeof row, row_at))
        return 0;
    struct cog_shard window = {.hot = hot, .row = row, .capacity = WINDOW};
    return cog_shard_sample(&window, 0, WINDOW, out, room);
}

static void look_at_window(struct sample *sample, unsigned shard, uint32_t random)
{
    uint32_t capacity = cog_table_capacity(sample->file, shard), room = SAMPLE - sample->count, got;
    struct cog_sampled *out = sample->seen + sample->count;
    if (!capacity)
        return;
    uint32_t start = random & (capacity - 1);
    if (sample->file->map) {
        struct cog_shard table;
        cog_table_view(sample->file, shard, &table);
        got = table.capacity ? cog_shard_sample(&table, start, WINDOW, out, room) : 0;
    } else {
        got = window_unmapped(sample, shard, capacity, start, out, room);
    }
    for (uint32_t i = 0; i < got; i++)
        sample->shard[sample->count + i] = shard;
    sample->count += got;
}

/*
 * A shard with probability rows / all rows, a random start, neighbours: digests are uniform, so
 * neighbours are a fair sample, and 64 rows are one or two pages instead of 64 cache misses. A root
 * of no more residents than a sample is looked at as a whole, and there the policy is exact.
 */
static void take_sample(struct cog_index *index, struct sample *sample)
{
    uint32_t rows[COG_SHARDS];
    uint64_t all = 0, random[2], total[COG_SHARDS];
    cog_words64(sample->file, COG_AT_SHARD(total, 0), sizeof total[0], COG_SHARDS, total);
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        rows[s] = total[s] < COG_UNKNOWN ? clamped_rows(sample->file, s) : 0;
        all += rows[s];
    }
    if (all <= SAMPLE) {
        for (unsigned s = 0; s < COG_SHARDS && sample->count < SAMPLE; s++) {
            uint32_t capacity = rows[s] ? cog_table_capacity(sample->file, s) : 0;
            for (uint32_t start = 0; start < capacity && sample->count < SAMPLE; start += WINDOW)
                look_at_window(sample, s, start);
        }
        return;
    }
    for (unsigned i = 0; i < MOST_WINDOWS && sample->count < SAMPLE; i++) {
        if (index->options.fs->random(random, sizeof random))
            return;
        uint64_t at = random[0] % all;
        unsigned s = 0;
        while (s < COG_SHARDS - 1 && at >= rows[s])
            at -= rows[s++];
        look_at_window(sample, s, (uint32_t)random[1]);
    }
}

/* --- the worst of it [E2] --- */

static int by_cost(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* What an entry of unknown cost is taken for: the median of the others. 0: nobody knows. */
static double usual_cost(const struct sample *sample)
{
    float costs[SAMPLE];
    size_t known = 0;
    for (uint32_t i = 0; i < sample->count; i++)
        if (sample->seen[i].row.cost > 0.0f)
            costs[known++] = sample->seen[i].row.cost;
    if (!known)
        return 0.0;
    qsort(costs, known, sizeof *costs, by_cost);
    return (double)costs[known / 2];
}

static double score(const struct cog_index *index, const struct cog_sampled *entry, uint64_t now,
                    double usual)
{
    const struct cog_row *row = &entry->row;
    struct cog_resident resident = {
        .idle_seconds = cog_shard_age(now, cog_hot_time(entry->hot)),
        .age_seconds = cog_shard_age(now, cog_row_stored(row)),
        .uses = cog_hot_uses(entry->hot),
        .bytes = (uint64_t)row->sectors * 512,
        .cost_seconds = row->cost > 0.0f ? (double)row->cost : usual,
    };
    return cog_policy_score(index->options.policy, &resident);
}

static int worst_of(const struct cog_index *index, const struct sample *sample, bool *worst_expired)
{
    uint64_t now = cog_index_time(index), now_s = cog_index_now_ms(index) / 1000;
    double usual = usual_cost(sample), worst_score = 0.0;
    int worst = -1;
    *worst_expired = false;
    for (uint32_t i = 0; i < sample->count; i++) {
        const struct cog_row *row = &sample->seen[i].row;
        if (row->state == COG_ROW_STUCK)
            continue;
        bool expired = row->expires && row->expires <= now_s;
        double value = score(index, &sample->seen[i], now, usual);
        if (worst < 0 || (expired && !*worst_expired) ||
            (expired == *worst_expired && value < worst_score)) {
            worst = (int)i;
            worst_score = value;
            *worst_expired = expired;
        }
    }
    return worst;
}

/* The worst one that is not pinned; only of the worst it is asked. `*pinned`: some were. */
static enum cog_status choose(const struct cog_index *index, struct sample *sample,
                              struct cog_victim *victim, bool *pinned)
{
    for (;;) {
        bool expired;
        int worst = worst_of(index, sample, &expired);
        if (worst < 0)
            return COG_ABSENT;
        struct cog_row *row = &sample->seen[worst].row;
        *victim = (struct cog_victim){
            .shard = sample->shard[worst],
            .inode = row->inode,
            .count = row->count,
            .bytes = (uint64_t)row->sectors * 512,
            .expired = expired,
            .source = row->source,
            .kind = row->kind,
        };
        cog_row_digest(row, &victim->digest);
        if (expired ||
            !cog_object_is_pinned(index->options.fs, index->options.root, &victim->digest))
            return COG_OK;
        row->state = COG_ROW_STUCK; /* of the sample alone */
        *pinned = true;
    }
}

enum cog_status cog_index_sample(struct cog_index *index, struct cog_victim *victim)
{
    enum { MOST_SAMPLES = 16 };
    enum cog_status status = COG_ABSENT;
    bool pinned = true;
    for (int taken = 0; taken < MOST_SAMPLES && status != COG_OK && pinned; taken++) {
        struct sample sample = {.file = cog_index_enter(index)};
        if (sample.file)
            sample.fd = atomic_load(&sample.file->fd);
        if (sample.file && (sample.file->map || sample.fd >= 0))
            take_sample(index, &sample);
        cog_index_leave(index);
        pinned = false;
        status = choose(index, &sample, victim, &pinned);
        if (sample.count < SAMPLE)
            break; /* all that there is */
    }
    return status;
}

/* --- removing it [E3-E5] --- */

static enum cog_status unlink_victim(struct cog_index_lock *lock, const struct cog_victim *victim,
                                     const struct cog_index_found *found, struct cog_error *err)
{
    const struct cog_fs *fs = lock->index->options.fs;
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(&victim->digest, path);
    cog_index_remove_begin(lock);
    int failed = fs->unlink(lock->index->options.root, path);
    bool gone = !failed || failed == -ENOENT;
    cog_index_remove_end(lock, &victim->digest, found, gone);
    if (gone)
        return COG_OK;
    if (failed == -EINTR || failed == -ENOMEM)
        return cog_fail(err, COG_ERR_BUSY, -failed, "cannot unlink %s now", path);
    cog_index_set_stuck(lock, &victim->digest);
    return cog_fail(err, COG_ERR_IO, -failed, "cannot unlink %s", path);
}

/*
 * A sampled row that a search does not lead to: recorded anew or removed since, or else garbled
 * where it stands, and then it would be chosen again and again.
 */
static bool stands_astray(const struct cog_index_lock *lock, const struct cog_victim *victim)
{
    for (uint32_t slot = 0; slot < lock->table.capacity; slot++) {
        struct cog_sampled entry;
        cog_shard_get(&lock->table, slot, &entry);
        if (cog_row_live(&entry.row) && entry.row.count == victim->count &&
            entry.row.inode == victim->inode)
            return true;
    }
    return false;
}

/* Still the generation that was chosen [E3, E4], and, if it was chosen as expired, does its file
 * agree? */
static enum cog_status confirm(struct cog_index_lock *lock, struct cog_victim *victim,
                               struct cog_index_found *found, struct cog_error *err)
{
    const struct cog_index_hooks *hooks = &lock->index->options.hooks;
    enum cog_status status = COG_OK;
    *found = (struct cog_index_found){0};
    if (victim->digest.bytes[0] == lock->shard)
        status = cog_index_find(lock, &victim->digest, found, err);
    if (status != COG_OK)
        return status == COG_ERR_REFUSED ? COG_ABSENT : status;
    if (!found->present && stands_astray(lock, victim))
        (void)cog_rebuild(lock, NULL);
#ifdef COG_SEED_BUG_NO_REVALIDATE
    if (!found->present)
        return COG_ABSENT;
#else
    if (!found->present || found->row.inode != victim->inode || found->row.count != victim->count)
        return COG_ABSENT;
#endif
    if (!victim->expired &&
        cog_object_is_pinned(lock->index->options.fs, lock->index->options.root, &victim->digest))
        return COG_ABSENT; /* pinned since it was chosen */
    victim->bytes = found->charge;
    if (victim->expired && hooks->is_expired) {
        char path[COG_OBJECT_PATH_SIZE];
        uint32_t expires = 0;
        cog_object_path(&victim->digest, path);
        if (!hooks->is_expired(hooks->context, path, &found->stat, &expires)) {
            cog_index_set_expires(lock, &victim->digest, expires);
            return COG_ABSENT;
        }
    }
    return COG_OK;
}

enum cog_status cog_index_remove_victim(struct cog_index *index, struct cog_victim *victim,
                                        struct cog_error *err)
{
    struct cog_index_lock lock;
    struct cog_index_found found;
    int keep_open = -1;
    enum cog_status status = cog_index_lock(index, victim->shard, NULL, &lock, err);
    if (status != COG_OK)
        return status;
    status = confirm(&lock, victim, &found, err);
    if (status == COG_OK && found.charge >= large_bytes) {
        char path[COG_OBJECT_PATH_SIZE];
        cog_object_path(&victim->digest, path);
        keep_open = index->options.fs->open(index->options.root, path, O_RDONLY, 0);
    }
    if (status == COG_OK)
        status = unlink_victim(&lock, victim, &found, err);
    cog_index_unlock(&lock);
    if (keep_open >= 0)
        index->options.fs->close(keep_open);
    if (status != COG_OK)
        return status;
    atomic_fetch_add(victim->expired ? &index->evicted_expired : &index->evicted_policy, 1);
    if (index->options.hooks.removed)
        index->options.hooks.removed(index->options.hooks.context, victim);
    return COG_OK;
}

enum cog_status cog_index_evict_one(struct cog_index *index, uint64_t *freed, struct cog_error *err)
{
    enum { MOST_TRIES = 16 };
    enum cog_status status = COG_ABSENT;
    *freed = 0;
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        struct cog_victim victim;
        if (cog_index_sample(index, &victim) != COG_OK)
            return COG_ABSENT;
        status = cog_index_remove_victim(index, &victim, err);
        if (status == COG_OK) {
            *freed = victim.bytes;
            return COG_OK;
        }
        if (status != COG_ABSENT && status != COG_ERR_IO && status != COG_ERR_BUSY)
            return status;
    }
    return status;
}
