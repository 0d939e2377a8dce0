/*
 * Writer slots, the sum that makes the limit hard, reaping [V1-V4, A1-A2].
 *
 * Every byte on disk or granted is a token in some `held` word or in some `total`. Tokens move held
 * -> total -> gone, never back, and the arrival is written before the departure. A sum that reads
 * held before total therefore counts every token that exists throughout the reading; so of all
 * reservations alive at any instant, the one whose addition came last has counted all the others
 * and itself, and was within the limit.
 */
#include "core/index_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

/* --- the sum --- */

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t sum_held(struct cog_index_file *file)
{
    uint64_t held[COG_WRITER_SLOTS], sum = 0;
    unsigned high = cog_word32(file, COG_AT_HEAD(slots_high));
    high = high < COG_WRITER_SLOTS ? high : COG_WRITER_SLOTS;
    cog_words64(file, COG_AT_SLOT(held, 0), sizeof(struct cog_index_slot), high, held);
    for (unsigned i = 0; i < high; i++)
        sum = add_saturated(sum, held[i]);
    return sum;
}

/* What shards not yet counted can hold at most: the ceiling of before less what the counted ones
 * came to. */
static uint64_t uncounted_bound(struct cog_index_file *file)
{
    uint64_t ceiling = cog_ceiling_unpack(cog_word64(file, COG_AT_HEAD(inherited)));
    uint64_t first[COG_SHARDS], counted = 0;
    if (ceiling == UINT64_MAX)
        return UINT64_MAX;
    cog_words64(file, COG_AT_SHARD(first, 0), sizeof first[0], COG_SHARDS, first);
    for (unsigned s = 0; s < COG_SHARDS; s++)
        counted = add_saturated(counted, first[s]);
    return counted < ceiling ? ceiling - counted : 0;
}

void cog_index_sum(struct cog_index_file *file, struct cog_sum *sum)
{
    uint64_t total[COG_SHARDS], bound = 0;
    *sum = (struct cog_sum){0};
    /* Tokens also move uncounted -> total: that pool, too, is read before the totals. */
    if (!atomic_load(&file->counted))
        bound = uncounted_bound(file);
#ifdef COG_SEED_BUG_TOTALS_FIRST
    cog_words64(file, COG_AT_SHARD(total, 0), sizeof total[0], COG_SHARDS, total);
    file->fs->sleep_us(300);
    sum->held = sum_held(file);
#else
    sum->held = sum_held(file);
    cog_words64(file, COG_AT_SHARD(total, 0), sizeof total[0], COG_SHARDS, total);
#endif
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        if (total[s] >= COG_UNKNOWN)
            sum->unknown++;
        else
            sum->known += total[s];
    }
    sum->moving = add_saturated(sum->held, sum->known);
    if (sum->unknown)
        sum->moving = add_saturated(sum->moving, atomic_load(&file->counted) ? UINT64_MAX : bound);
    else
        atomic_store(&file->counted, true);
}

/* --- slots --- */

struct reaping {
    struct cog_index *index;
    char prefix[16];
    size_t length;
    bool left; /* one could not be unlinked */
};

static bool unlink_of_slot(void *context, const char *name)
{
    struct reaping *reaping = context;
    char path[300];
    if (strncmp(name, reaping->prefix, reaping->length) == 0 &&
        snprintf(path, sizeof path, "tmp/%s", name) < (int)sizeof path) {
        int failed = reaping->index->options.fs->unlink(reaping->index->options.root, path);
        reaping->left = reaping->left || (failed && failed != -ENOENT);
    }
    return true;
}

/*
 * [A1, A2] The lock of slot i is held, which proves its owner dead. Idempotent. What cannot be
 * listed or unlinked is not given back.
 */
static void reap_slot(struct cog_index *index, struct cog_index_file *file, unsigned i)
{
    struct reaping reaping = {.index = index};
    reaping.length = (size_t)snprintf(reaping.prefix, sizeof reaping.prefix, "%u-", i);
#ifdef COG_SEED_BUG_REAP_KEEP_TMP
    cog_word64_set(file, COG_AT_SLOT(held, i), 0);
    file->fs->sleep_us(COG_SEEDED_WINDOW_US);
#endif
    int failed = index->options.fs->list(index->options.root, "tmp", unlink_of_slot, &reaping);
    if ((failed && failed != -ENOENT) || reaping.left)
        return;
    if (cog_word64(file, COG_AT_SLOT(held, i)))
        atomic_fetch_add(&index->reaped, 1);
    cog_word64_set(file, COG_AT_SLOT(held, i), 0);
}

static bool our_slot(const struct cog_index_file *file, unsigned i)
{
    return atomic_load(&file->slot) == (int)i;
}

/*
 * A try-lock of our own slot would succeed where locks belong to processes: skip it. slot_mutex
 * keeps two threads of one process from being in one dead slot, where even the lock of the file
 * could not tell them apart.
 */
static unsigned reap_all(struct cog_index *index, struct cog_index_file *file, bool only_with_bytes)
{
    unsigned reaped = 0, high = cog_word32(file, COG_AT_HEAD(slots_high));
    high = high < COG_WRITER_SLOTS ? high : COG_WRITER_SLOTS;
    pthread_mutex_lock(&file->slot_mutex);
    for (unsigned i = 0; i < high; i++) {
        uint64_t held = cog_word64(file, COG_AT_SLOT(held, i));
        if (our_slot(file, i) || (only_with_bytes && held == 0))
            continue;
        int fd = atomic_load(&file->fd);
        if (fd < 0 || file->fs->lock(fd, COG_LOCK_SLOT(i), COG_LOCK_EXCLUSIVE))
            continue;
        reap_slot(index, file, i);
        file->fs->lock(fd, COG_LOCK_SLOT(i), COG_UNLOCK);
        reaped += held != 0;
    }
    pthread_mutex_unlock(&file->slot_mutex);
    return reaped;
}

struct stray {
    struct cog_index *index;
    struct cog_index_file *file;
};

/* A temp file whose name tells of no slot at all is nobody's, unless somebody is just making an
 * index. */
static bool unlink_stray(void *context, const char *name)
{
    struct stray *stray = context;
    char path[300], *end;
    unsigned long slot = strtoul(name, &end, 10);
    if ((end != name && *end == '-' && slot < COG_WRITER_SLOTS) || strncmp(name, "index.", 6) == 0)
        return true;
    if (snprintf(path, sizeof path, "tmp/%s", name) < (int)sizeof path)
        stray->index->options.fs->unlink(stray->index->options.root, path);
    return true;
}

/* slot_mutex is held. */
static enum cog_status claim_slot(struct cog_index *index, struct cog_index_file *file,
                                  struct cog_error *err)
{
    int fd = atomic_load(&file->fd);
    for (unsigned i = 0; i < COG_WRITER_SLOTS; i++) {
        int failed = file->fs->lock(fd, COG_LOCK_SLOT(i), COG_LOCK_EXCLUSIVE);
        if (failed == -EAGAIN)
            continue;
        if (failed)
            return cog_fail(err, COG_ERR_IO, -failed, "cannot lock a writer slot");
        uint64_t nonce;
        failed = file->fs->random(&nonce, sizeof nonce);
        reap_slot(index, file, i);
        bool kept = cog_word64(file, COG_AT_SLOT(held, i)) != 0;
        if (failed || kept)
            file->fs->lock(fd, COG_LOCK_SLOT(i), COG_UNLOCK);
        if (failed)
            return cog_fail(err, COG_ERR_IO, -failed, "cannot clear a writer slot");
        if (kept) /* temp files of the dead are still there, and stay counted: leave it as it is */
            continue;
        file->nonce = nonce | 1;
        atomic_store(&file->mine, 0);
        cog_word64_set(file, COG_AT_SLOT(nonce, i), file->nonce);
        cog_word64_set(file, COG_AT_SLOT(since, i), file->fs->realtime_ms());
        cog_word64_set(file, COG_AT_SLOT(pid, i), file->fs->process_id());
        cog_word32_raise(file, COG_AT_HEAD(slots_high), i + 1, COG_WRITER_SLOTS);
        atomic_store(&file->slot, (int)i);
        return COG_OK;
    }
    return cog_fail(err, COG_ERR_BUSY, 0, "too many writers: all %d slots are taken",
                    COG_WRITER_SLOTS);
}

/* We own a slot, and it is still ours: a stranger who closed our descriptor has freed its lock as
 * well. */
static enum cog_status ensure_slot(struct cog_index *index, struct cog_index_file *file,
                                   struct cog_error *err)
{
    int slot = atomic_load(&file->slot);
    if (slot >= 0) {
        if (cog_word64(file, COG_AT_SLOT(nonce, slot)) == file->nonce)
            return COG_OK;
        return cog_index_lose(index, file, err);
    }
    enum cog_status status = cog_file_check(index, file, err);
    if (status != COG_OK)
        return status;
    pthread_mutex_lock(&file->slot_mutex);
    if (atomic_load(&file->slot) < 0)
        status = claim_slot(index, file, err);
    pthread_mutex_unlock(&file->slot_mutex);
    return status;
}

/* --- our held word --- */

static _Atomic uint64_t *held_word(struct cog_index_file *file)
{
    size_t at = COG_AT_SLOT(held, (unsigned)atomic_load(&file->slot));
    return (_Atomic uint64_t *)(void *)(file->map + at);
}

/* [V1] `mine` first: it is never less than the word. */
static void held_add(struct cog_index_file *file, uint64_t bytes)
{
    atomic_fetch_add(&file->mine, bytes);
    if (file->map) {
        atomic_fetch_add(held_word(file), bytes);
        return;
    }
    pthread_mutex_lock(&file->slot_mutex); /* nobody else writes this word */
    size_t at = COG_AT_SLOT(held, (unsigned)atomic_load(&file->slot));
    cog_word64_set(file, at, add_saturated(cog_word64(file, at), bytes));
    pthread_mutex_unlock(&file->slot_mutex);
}

/* Never below zero, whatever somebody wrote there: a wrapped word would refuse every put of the
 * root. */
static void held_sub(struct cog_index_file *file, uint64_t bytes)
{
    if (file->map) {
        _Atomic uint64_t *word = held_word(file);
        uint64_t now = atomic_load(word);
        while (!atomic_compare_exchange_weak(word, &now, now > bytes ? now - bytes : 0))
            continue;
    } else {
        pthread_mutex_lock(&file->slot_mutex);
        size_t at = COG_AT_SLOT(held, (unsigned)atomic_load(&file->slot));
        uint64_t now = cog_word64(file, at);
        cog_word64_set(file, at, now > bytes ? now - bytes : 0);
        pthread_mutex_unlock(&file->slot_mutex);
    }
    atomic_fetch_sub(&file->mine, bytes);
}

/*
 * A garbled word of ours that says more than we hold would block everybody for as long as we live.
 * Read the word, then `mine`; if the word was more, and is unchanged when swapped, then no addition
 * or subtraction of ours came in between.
 */
static void held_heal(struct cog_index_file *file)
{
    size_t at = COG_AT_SLOT(held, (unsigned)atomic_load(&file->slot));
    uint64_t word = cog_word64(file, at), mine = atomic_load(&file->mine);
    if (word <= mine)
        return;
    if (file->map) {
        cog_word64_swap(file, at, word, mine);
        return;
    }
    pthread_mutex_lock(&file->slot_mutex);
    cog_word64_swap(file, at, word, atomic_load(&file->mine));
    pthread_mutex_unlock(&file->slot_mutex);
}

/* --- the ceiling --- */

static void raise_ceiling_word(struct cog_index_file *file, size_t at, uint64_t bytes)
{
    uint64_t now = cog_word64(file, at), packed = cog_ceiling_pack(bytes);
    if (!file->map) {
        cog_word64_set(file, at, packed);
        return;
    }
    for (;;) {
        uint64_t is = cog_ceiling_unpack(now);
        if ((is != UINT64_MAX && is >= bytes) || cog_word64_swap(file, at, now, packed))
            return;
        now = cog_word64(file, at);
    }
}

/*
 * Before the sum passes it, the ceiling is raised on disk, in steps of a 64th of the limit: after a
 * crash of the machine it bounds what the directories hold, so that puts need not wait until all of
 * them are counted. Failing to sync costs that.
 */
static void ensure_ceiling(struct cog_index_file *file, const struct cog_sum *sum,
                           const struct cog_bounds *bounds)
{
    uint64_t durable = cog_ceiling_unpack(cog_word64(file, COG_AT_HEAD(ceiling_durable)));
    if (durable != UINT64_MAX && sum->moving <= durable)
        return;
    uint64_t limit = bounds->limit;
    uint64_t most = limit > bounds->fixed_bytes ? limit - bounds->fixed_bytes : limit;
    /* a small root is soon counted, and need not wait for syncs */
    const uint64_t least_step = UINT64_C(16) << 20;
    uint64_t next = add_saturated(sum->moving, limit / 64 > least_step ? limit / 64 : least_step);
    next = (file->map && next < most) ? next : most;
    next = next > sum->moving ? next : sum->moving;
    raise_ceiling_word(file, COG_AT_HEAD(ceiling), next);
    if (file->fs->sync_data(atomic_load(&file->fd)) == 0)
        raise_ceiling_word(file, COG_AT_HEAD(ceiling_durable), next);
}

/* --- reserve --- */

enum verdict { GRANTED, MUST_EVICT, TOO_MUCH_IN_FLIGHT, INDEX_LOST };

static bool within_floor(struct cog_index *index, uint64_t floor, uint64_t bytes)
{
    struct cog_fs_space space;
    if (!floor || index->options.fs->space(index->options.root, &space))
        return true;
    return space.free_bytes >= floor && space.free_bytes - floor >= bytes;
}

static bool within_files(struct cog_index_file *file, uint64_t max_files)
{
    uint64_t rows = 0;
    for (unsigned s = 0; max_files && s < COG_SHARDS; s++)
        rows += cog_word32(file, COG_AT_SHARD(rows, s));
    return !max_files || rows < max_files;
}

struct effort { /* what one reserve goes by, and what it has spent */
    struct cog_bounds bounds;
    struct cog_sum sum;
    uint64_t unlinks, most_unlinks;
    unsigned rounds, busy, waited_us, heals;
    bool reaped, sound;
    struct cog_error last;
};

/* [V2, V3] By the bounds of this round. */
static enum verdict judge(struct cog_index *index, struct cog_index_file *file, uint64_t bytes,
                          struct effort *effort)
{
    const struct cog_bounds *bounds = &effort->bounds;
    struct cog_sum *sum = &effort->sum;
    uint64_t limit = bounds->limit;
    cog_index_sum(file, sum);
    bool floor_kept = within_floor(index, bounds->free_floor, bytes) &&
                      within_files(file, bounds->max_files);
    if (atomic_load(&file->broken))
        return INDEX_LOST;
    if (!limit)
        return floor_kept ? GRANTED : MUST_EVICT;
    uint64_t margin = cog_limit_margin(limit);
    uint64_t all = add_saturated(sum->moving, bounds->fixed_bytes);
    if (floor_kept && limit > margin && all <= limit - margin) {
        ensure_ceiling(file, sum, bounds);
        return GRANTED;
    }
    return sum->held > limit / 4 ? TOO_MUCH_IN_FLIGHT : MUST_EVICT;
}

static void reap_once(struct cog_index *index, struct cog_index_file *file, struct effort *effort)
{
    if (effort->reaped)
        return;
    effort->reaped = true;
    held_heal(file);
    reap_all(index, file, true);
}

/*
 * Evicting on the word of a garbled index would empty the cache for nothing. More than the limit in
 * the totals alone is nothing that writers do, nor is a shard that is unknown again; less is looked
 * at now and then. True: something was counted anew, judge again.
 */
static bool heal_first(struct cog_index *index, struct cog_index_file *file, struct effort *effort)
{
    enum { AT_ONCE = 16, MOST_HEALS = 32 };
    const uint64_t interval_ns = UINT64_C(1000000000);
    const struct cog_bounds *bounds = &effort->bounds;
    const struct cog_sum *sum = &effort->sum;
    uint64_t now = file->fs->boottime_ns(), before = atomic_load(&file->healed_ns);
    bool absurd = (sum->unknown && atomic_load(&file->counted)) ||
                  (bounds->limit && add_saturated(sum->known, bounds->fixed_bytes) > bounds->limit);
    bool due = !before || now - before >= interval_ns;
    if (effort->sound || effort->heals >= MOST_HEALS || (!absurd && !due))
        return false;
    atomic_store(&file->healed_ns, now);
    effort->heals++;
    effort->sound = cog_shards_heal(index, file, AT_ONCE) == 0;
    return !effort->sound;
}

/* One step towards room. COG_OK: judge again. Otherwise the answer of the reserve. */
static enum cog_status make_room(struct cog_index *index, struct cog_index_file *file,
                                 enum verdict verdict, struct effort *effort, struct cog_error *err)
{
    enum { REAP_AFTER = 4, MOST_BUSY = 16, MOST_WAIT_US = 100000 };
    const struct cog_sum *sum = &effort->sum;
    if (verdict == TOO_MUCH_IN_FLIGHT) {
        /* evicting for it would empty the cache; but the dead may hold it, or it is about to be
         * published */
        if (!effort->reaped) {
            reap_once(index, file, effort);
        } else if (effort->waited_us < MOST_WAIT_US) {
            file->fs->sleep_us(1000);
            effort->waited_us += 1000;
        } else {
            return cog_fail(err, COG_ERR_BUSY, 0,
                            "writes in flight hold %llu bytes, over a quarter of the limit",
                            (unsigned long long)sum->held);
        }
        return COG_OK;
    }
    if (heal_first(index, file, effort))
        return COG_OK;
    if (++effort->rounds > REAP_AFTER)
        reap_once(index, file, effort);
    if (sum->unknown) { /* victims come from counted shards only */
        enum cog_status status = cog_index_warm_up(index, 1, &effort->last);
        if (status != COG_OK && status != COG_ERR_BUSY)
            return cog_fail(err, status, effort->last.sys_errno, "%s", effort->last.text);
    }
    uint64_t freed;
    enum cog_status status = effort->unlinks < effort->most_unlinks
                                 ? cog_index_evict_one(index, &freed, &effort->last)
                                 : COG_ABSENT;
    if (status == COG_OK) {
        effort->unlinks++;
        return COG_OK;
    }
    if (status == COG_ERR_BUSY && ++effort->busy < MOST_BUSY)
        return COG_OK;
    if (status == COG_ABSENT && !effort->reaped) {
        reap_once(index, file, effort);
        return COG_OK;
    }
    if (status == COG_ABSENT && sum->unknown && ++effort->busy < COG_SHARDS)
        return COG_OK; /* the next round counts one more shard */
    if (status == COG_ABSENT || status == COG_ERR_IO)
        return cog_fail(err, COG_ERR_FULL, 0,
                        "no room: nothing more can be evicted within one put");
    return cog_fail(err, status, effort->last.sys_errno, "%s", effort->last.text);
}

/* Shards not counted since the index was made: count on. Where nothing bounds them, a put has to
 * wait for all of it. */
static enum cog_status count_along(struct cog_index *index, struct cog_index_file *file,
                                   struct cog_bounds *bounds, struct cog_error *err)
{
    const uint64_t patience_ns = UINT64_C(2000000000);
    if (atomic_load(&file->counted) || bounds->limit == 0)
        return COG_OK;
    bool bounded = cog_ceiling_unpack(cog_word64(file, COG_AT_HEAD(inherited))) != UINT64_MAX;
    uint64_t start = index->options.fs->boottime_ns();
    enum cog_status status;
    do
        status = cog_index_warm_up(index, bounded ? 1 : 8, err);
    while (status == COG_ERR_BUSY && !bounded &&
           index->options.fs->boottime_ns() - start < patience_ns);
    cog_bounds_read(index, file, bounds); /* that took a while */
    if (status == COG_ERR_BUSY && !bounded)
        return cog_fail(err, COG_ERR_BUSY, 0,
                        "the index was lost; what is on disk is still being counted");
    return status == COG_ERR_CLOSED
               ? status
               : COG_OK; /* what cannot be counted is met again below, or at its shard */
}

/* `bounds` as just read; every further round reads its own. */
static enum cog_status reserve_in(struct cog_index *index, struct cog_index_file *file,
                                  const struct cog_bounds *bounds, uint64_t bytes,
                                  struct cog_error *err)
{
    struct effort effort = {.bounds = *bounds, .most_unlinks = 64 + bytes / 4096};
#ifdef COG_SEED_BUG_SUM_THEN_ADD
    for (;;) {
        enum verdict seeded = GRANTED;
        uint64_t limit = bounds->limit;
        cog_index_sum(file, &effort.sum);
        if (effort.sum.moving + bounds->fixed_bytes + bytes > limit - cog_limit_margin(limit))
            seeded = MUST_EVICT;
        if (seeded == GRANTED) {
            file->fs->sleep_us(300);
            held_add(file, bytes);
            return COG_OK;
        }
        enum cog_status status = make_room(index, file, seeded, &effort, err);
        if (status != COG_OK)
            return status;
    }
#endif
    held_heal(file);
    held_add(file, bytes);
    for (;;) {
        enum verdict verdict = judge(index, file, bytes, &effort);
        if (verdict == GRANTED)
            return COG_OK;
        enum cog_status status = verdict == INDEX_LOST
                                     ? cog_index_lose(index, file, err)
                                     : make_room(index, file, verdict, &effort, err);
        if (status != COG_OK) {
            held_sub(file, bytes);
            return status;
        }
        cog_bounds_read(index, file, &effort.bounds);
    }
}

enum cog_status cog_index_reserve(struct cog_index *index, uint64_t bytes,
                                  struct cog_reservation *reservation, struct cog_error *err)
{
    struct cog_index_file *file = reservation->file;
    enum cog_status status = COG_OK;
    if (bytes >= COG_UNKNOWN)
        return cog_fail(err, COG_ERR_TOO_LARGE, 0, NULL);
    if (file && !cog_reservation_is_ours(reservation))
        return cog_fail(err, COG_INDEX_MOVED, 0, "reserved by the parent process");
    if (file)
        cog_file_ref(file);
    else
        status = cog_index_attach(index, &file, err);
    if (status != COG_OK)
        return status;
    struct cog_bounds bounds;
    cog_bounds_read(index, file, &bounds);
    if (bounds.limit && reservation->bytes + bytes > bounds.limit / 4)
        status = cog_fail(err, COG_ERR_TOO_LARGE, 0, "over a quarter of the limit in one write");
    else
        status = ensure_slot(index, file, err);
    if (status == COG_OK)
        status = count_along(index, file, &bounds, err);
    if (status == COG_OK)
        status = reserve_in(index, file, &bounds, bytes, err);
    if (status == COG_OK && !reservation->file) {
        *reservation = (struct cog_reservation){.index = index,
                                                .file = file,
                                                .bytes = bytes,
                                                .fork_count = atomic_load(&file->fork_count)};
        return COG_OK; /* keeps the reference */
    }
    if (status == COG_OK)
        reservation->bytes += bytes;
    cog_file_unref(file);
    return status;
}

bool cog_reservation_is_ours(const struct cog_reservation *reservation)
{
    (void)cog_index_enter(reservation->index); /* notices a fork that no handler saw */
    cog_index_leave(reservation->index);
    return reservation->fork_count == atomic_load(&reservation->file->fork_count);
}

void cog_index_release(struct cog_reservation *reservation)
{
    struct cog_index_file *file = reservation->file;
    if (!file)
        return;
    if (cog_reservation_is_ours(reservation)) {
        int slot = atomic_load(&file->slot);
        /* a slot that is not ours any more has been reaped, and may hold another's bytes */
        if (slot >= 0 && cog_word64(file, COG_AT_SLOT(nonce, slot)) == file->nonce)
            held_sub(file, reservation->bytes);
    }
    *reservation = (struct cog_reservation){0};
    cog_file_unref(file);
}

/* What cannot be noted stays counted as long as we live. */
static void note_abandoned(struct cog_index_file *file, const struct cog_abandoned *one)
{
    pthread_mutex_lock(&file->slot_mutex);
    struct cog_abandoned *more = cog_realloc(file->abandoned,
                                             (file->abandoned_count + 1) * sizeof *file->abandoned);
    if (more) {
        file->abandoned = more;
        more[file->abandoned_count++] = *one;
    }
    pthread_mutex_unlock(&file->slot_mutex);
}

void cog_index_abandon(struct cog_reservation *reservation, const char *path)
{
    struct cog_index_file *file = reservation->file;
    struct cog_abandoned one = {.bytes = reservation->bytes};
    if (file && cog_reservation_is_ours(reservation)) {
        snprintf(one.path, sizeof one.path, "%s", path);
        note_abandoned(file, &one);
    }
    *reservation = (struct cog_reservation){0};
    if (file)
        cog_file_unref(file);
}

/* Once more: each of those that are noted now, once. */
static void unlink_abandoned(struct cog_index *index, struct cog_index_file *file)
{
    pthread_mutex_lock(&file->slot_mutex);
    unsigned count = file->abandoned_count;
    pthread_mutex_unlock(&file->slot_mutex);
    for (; count; count--) {
        struct cog_abandoned one = {.bytes = 0};
        pthread_mutex_lock(&file->slot_mutex);
        if (file->abandoned_count) {
            one = file->abandoned[0];
            file->abandoned[0] = file->abandoned[--file->abandoned_count];
        }
        pthread_mutex_unlock(&file->slot_mutex);
        if (!one.bytes)
            return;
        int failed = index->options.fs->unlink(index->options.root, one.path);
        if (failed && failed != -ENOENT)
            note_abandoned(file, &one);
        else
            held_sub(file, one.bytes);
    }
}

unsigned cog_index_reap(struct cog_index *index)
{
    struct cog_index_file *file;
    unsigned reaped = 0;
    if (cog_index_attach(index, &file, NULL) != COG_OK)
        return 0;
    if (cog_file_check(index, file, NULL) == COG_OK) {
        struct stray stray = {.index = index, .file = file};
        unlink_abandoned(index, file);
        reaped = reap_all(index, file, false);
        index->options.fs->list(index->options.root, "tmp", unlink_stray, &stray);
    }
    cog_file_unref(file);
    return reaped;
}

void cog_index_temp_path(const struct cog_reservation *reservation, char out[COG_TEMP_PATH_SIZE])
{
    struct cog_index_file *file = reservation->file;
    snprintf(out, COG_TEMP_PATH_SIZE, "tmp/%d-%016llx-%x", atomic_load(&file->slot),
             (unsigned long long)file->nonce, atomic_fetch_add(&file->next_temp, 1));
}

/* --- the job, counters, statistics --- */

enum cog_status cog_index_job_begin(struct cog_index *index, struct cog_error *err)
{
    struct cog_index_file *file;
    enum cog_status status = cog_index_attach(index, &file, err);
    if (status != COG_OK)
        return status;
    status = cog_file_check(index, file, err);
    if (status == COG_OK && atomic_exchange(&file->job, true))
        status = cog_fail(err, COG_ERR_BUSY, 0, "another thread has the job");
    else if (status == COG_OK &&
             file->fs->lock(atomic_load(&file->fd), COG_LOCK_JOB, COG_LOCK_EXCLUSIVE)) {
        atomic_store(&file->job, false);
        status = cog_fail(err, COG_ERR_BUSY, 0, "another process has the job");
    }
    cog_file_unref(file);
    return status;
}

void cog_index_job_end(struct cog_index *index)
{
    struct cog_index_file *file = cog_index_enter(index);
    if (file && atomic_load(&file->job)) {
        int fd = atomic_load(&file->fd);
        if (fd >= 0)
            file->fs->lock(fd, COG_LOCK_JOB, COG_UNLOCK);
        atomic_store(&file->job, false);
    }
    cog_index_leave(index);
}

unsigned cog_index_next_shard(struct cog_index *index)
{
    struct cog_index_file *file = cog_index_enter(index);
    unsigned shard = 0;
    if (file) {
        shard = cog_word32(file, COG_AT_HEAD(sweep_cursor)) % COG_SHARDS;
        cog_word32_set(file, COG_AT_HEAD(sweep_cursor), (shard + 1) % COG_SHARDS);
    }
    cog_index_leave(index);
    return shard;
}

bool cog_index_tag_counter(struct cog_index *index, uint64_t *value)
{
    struct cog_index_file *file = cog_index_enter(index);
    bool answer = file && (file->map || atomic_load(&file->fd) >= 0);
    *value = answer ? cog_word64(file, COG_AT_HEAD(tag_counter)) : 0;
    answer = answer && !atomic_load(&file->broken);
    cog_index_leave(index);
    return answer;
}

void cog_index_bump_tag_counter(struct cog_index *index)
{
    struct cog_index_file *file = cog_index_enter(index);
    uint64_t fresh;
    if (file && file->map)
        atomic_fetch_add((_Atomic uint64_t *)(void *)(file->map + COG_AT_HEAD(tag_counter)), 1);
    else if (file && file->fs->random(&fresh, sizeof fresh) == 0)
        cog_word64_set(file, COG_AT_HEAD(tag_counter),
                       fresh); /* another value is all that matters */
    cog_index_leave(index);
}

static void stats_of_file(struct cog_index_file *file, struct cog_index_stats *out)
{
    struct cog_sum sum;
    cog_index_sum(file, &sum);
    out->attached = true;
    out->mapped = file->map != NULL;
    out->fixed_bytes = cog_word64(file, COG_AT_HEAD(fixed_bytes));
    out->used_bytes = sum.known + out->fixed_bytes;
    out->held_bytes = sum.held;
    out->unknown_shards = sum.unknown;
    out->limit = cog_word64(file, COG_AT_HEAD(limit));
    out->free_floor = cog_word64(file, COG_AT_HEAD(free_floor));
    out->max_files = cog_word64(file, COG_AT_HEAD(max_files));
    for (unsigned s = 0; s < COG_SHARDS; s++)
        out->entries += cog_word32(file, COG_AT_SHARD(rows, s));
}

void cog_index_get_stats(struct cog_index *index, struct cog_index_stats *out)
{
    struct cog_index_stats counted = {0};
    struct cog_index_file *file = cog_index_enter(index);
    if (file && (file->map || atomic_load(&file->fd) >= 0))
        stats_of_file(file, &counted);
    *out = file && !atomic_load(&file->broken) ? counted : (struct cog_index_stats){0};
    cog_index_leave(index);
    out->rebuilds = atomic_load(&index->rebuilds);
    out->reopens = atomic_load(&index->reopens);
    out->reaped = atomic_load(&index->reaped);
    out->evicted_policy = atomic_load(&index->evicted_policy);
    out->evicted_expired = atomic_load(&index->evicted_expired);
    out->strangers = atomic_load(&index->strangers);
}
