#include "core/shard.h"

#include <string.h>

#include "core/bytes.h"

/*
 * Rows are moved as eight relaxed words: a reader without the lock then sees words that somebody
 * wrote, torn rows at worst, and the compiler may invent no store that a reader could take for one.
 */
typedef uint64_t __attribute__((may_alias)) row_word;
enum { ROW_WORDS = sizeof(struct cog_row) / sizeof(row_word) };

static void row_load(const struct cog_row *from, struct cog_row *to)
{
    const row_word *in = (const row_word *)from;
    row_word *out = (row_word *)to;
    for (int i = 0; i < ROW_WORDS; i++)
        out[i] = __atomic_load_n(in + i, __ATOMIC_RELAXED);
}

static void row_store(struct cog_row *to, const struct cog_row *from)
{
    const row_word *in = (const row_word *)from;
    row_word *out = (row_word *)to;
    for (int i = 0; i < ROW_WORDS; i++)
        __atomic_store_n(out + i, in[i], __ATOMIC_RELAXED);
}

/* The digest words of a slot: all that a search looks at. */
static void digest_load(const struct cog_row *from, uint64_t out[2])
{
    out[0] = __atomic_load_n(&from->digest[0], __ATOMIC_RELAXED);
    out[1] = __atomic_load_n(&from->digest[1], __ATOMIC_RELAXED);
}

static uint64_t hot_load(const struct cog_hot *hot)
{
    return atomic_load_explicit(&hot->word, memory_order_relaxed);
}

static void hot_store(struct cog_hot *hot, uint64_t word)
{
    atomic_store_explicit(&hot->word, word, memory_order_relaxed);
}

static void will_look(const struct cog_shard *shard, uint32_t slot)
{
    if (shard->load)
        shard->load(shard->context, slot);
}

static void has_changed(const struct cog_shard *shard, uint32_t slot)
{
    if (shard->changed)
        shard->changed(shard->context, slot);
}

/* --- time --- */

uint64_t cog_shard_time(uint64_t boottime_ns, uint64_t age_ns)
{
    /* 2^20 / 10^9 = 2^11 / 5^9; the product of the whole seconds apart, so that nothing overflows
     */
    uint64_t now = (boottime_ns / 1000000000 << 20) + (boottime_ns % 1000000000 << 11) / 1953125;
    uint64_t age = (age_ns / 1000000000 << 20) + (age_ns % 1000000000 << 11) / 1953125;
    const uint64_t bias = UINT64_C(1) << 47, most = (UINT64_C(1) << 48) - 1;
    if (age >= now + bias)
        return 0;
    uint64_t time = now + bias - age;
    return time < most ? time : most;
}

double cog_shard_age(uint64_t now, uint64_t then)
{
    return then < now ? (double)(now - then) / (1 << 20) : 0.0;
}

void cog_row_set_stored(struct cog_row *row, uint64_t time)
{
    row->stored = (uint32_t)(time >> 16);
    row->stored_fraction = (uint16_t)time;
}

/* --- digests --- */

static void digest_words(const struct cog_digest *digest, uint64_t out[2])
{
    out[0] = cog_load_le64(digest->bytes);
    out[1] = cog_load_le64(digest->bytes + 8);
    if ((out[0] | out[1]) == 0)
        out[1] = 1;
}

void cog_row_set_digest(struct cog_row *row, const struct cog_digest *digest)
{
    digest_words(digest, row->digest);
}

void cog_row_digest(const struct cog_row *row, struct cog_digest *out)
{
    cog_store_le64(out->bytes, row->digest[0]);
    cog_store_le64(out->bytes + 8, row->digest[1]);
}

bool cog_row_is(const struct cog_row *row, const struct cog_digest *digest)
{
    uint64_t want[2];
    digest_words(digest, want);
    return row->digest[0] == want[0] && row->digest[1] == want[1];
}

/* --- sizes --- */

uint32_t cog_shard_capacity_for(uint32_t rows)
{
    uint64_t least = ((uint64_t)rows * 4 + 2) / 3, capacity = COG_SHARD_LEAST_SLOTS;
    while (capacity < least)
        capacity *= 2;
    return capacity > UINT32_C(1) << 31 ? UINT32_C(1) << 31 : (uint32_t)capacity;
}

uint64_t cog_shard_bytes(uint32_t capacity)
{
    if (!capacity)
        return 0;
    return (64 + (uint64_t)capacity * COG_SHARD_ROW_BYTES + 4095) / 4096 * 4096;
}

uint32_t cog_shard_capacity_in(uint64_t bytes)
{
    uint32_t capacity = COG_SHARD_LEAST_SLOTS;
    if (cog_shard_bytes(capacity) > bytes)
        return 0;
    while (capacity < UINT32_C(1) << 30 && cog_shard_bytes(capacity * 2) <= bytes)
        capacity *= 2;
    return capacity;
}

/* --- the table --- */

/* The shard is the digest's first byte, so the home slot is drawn from its other half. */
static uint32_t home(const struct cog_shard *shard, const uint64_t digest[2])
{
    return (uint32_t)digest[1] & (shard->capacity - 1);
}

/* The slot of `want`, or the empty slot where its search ends (`*empty`), within `probes` steps. */
static uint32_t search(const struct cog_shard *shard, const uint64_t want[2], uint32_t probes,
                       uint32_t *empty)
{
    uint32_t mask = shard->capacity - 1;
    uint32_t slot = shard->capacity ? home(shard, want) : 0;
    if (empty)
        *empty = COG_SHARD_NONE;
    for (uint32_t i = 0; i < probes; i++, slot = (slot + 1) & mask) {
        uint64_t seen[2];
        will_look(shard, slot);
        digest_load(shard->row + slot, seen);
        if (seen[0] == want[0] && seen[1] == want[1])
            return slot;
        if ((seen[0] | seen[1]) == 0) {
            if (empty)
                *empty = slot;
            break;
        }
    }
    return COG_SHARD_NONE;
}

void cog_shard_clear(struct cog_shard *shard)
{
    static const struct cog_row nothing;
    for (uint32_t slot = 0; slot < shard->capacity; slot++) {
        will_look(shard, slot);
        row_store(shard->row + slot, &nothing);
        hot_store(shard->hot + slot, 0);
        has_changed(shard, slot);
    }
    shard->rows = 0;
}

uint32_t cog_shard_find(const struct cog_shard *shard, const struct cog_digest *digest)
{
    uint64_t want[2];
    digest_words(digest, want);
    return search(shard, want, shard->capacity, NULL);
}

void cog_shard_get(const struct cog_shard *shard, uint32_t slot, struct cog_sampled *out)
{
    slot &= shard->capacity - 1;
    will_look(shard, slot);
    row_load(shard->row + slot, &out->row);
    out->hot = hot_load(shard->hot + slot);
}

void cog_shard_set(struct cog_shard *shard, uint32_t slot, const struct cog_sampled *in)
{
    slot &= shard->capacity - 1;
    will_look(shard, slot);
    hot_store(shard->hot + slot, in->hot);
    row_store(shard->row + slot, &in->row);
    has_changed(shard, slot);
}

uint32_t cog_shard_add(struct cog_shard *shard, const struct cog_row *row, uint64_t hot)
{
    uint32_t empty;
    uint32_t slot = search(shard, row->digest, shard->capacity, &empty);
    if (slot == COG_SHARD_NONE) {
        if (empty == COG_SHARD_NONE)
            return COG_SHARD_NONE;
        slot = empty;
        shard->rows++;
    }
    struct cog_sampled entry = {.row = *row, .hot = hot};
    entry.row.count = shard->next_count++;
    cog_shard_set(shard, slot, &entry);
    return slot;
}

/*
 * Linear probing without tombstones (Knuth, The Art of Computer Programming 3, 6.4, algorithm R):
 * walk on from the hole to the end of the run and move into the hole whatever may stand there, that
 * is, whose home is not between hole and itself.
 */
void cog_shard_drop(struct cog_shard *shard, uint32_t slot)
{
    static const struct cog_sampled nothing;
    uint32_t mask = shard->capacity - 1;
    uint32_t hole = slot & mask;
    uint32_t next = hole;
    for (uint32_t i = 1; i < shard->capacity; i++) {
        struct cog_sampled entry;
        next = (next + 1) & mask;
        cog_shard_get(shard, next, &entry);
        if (!cog_row_live(&entry.row))
            break;
        uint32_t from_home = (next - home(shard, entry.row.digest)) & mask;
        if (from_home >= ((next - hole) & mask)) {
            cog_shard_set(shard, hole, &entry);
            hole = next;
        }
    }
    cog_shard_set(shard, hole, &nothing);
    if (shard->rows)
        shard->rows--;
}

uint32_t cog_shard_flaws(const struct cog_shard *shard)
{
    uint32_t flaws = 0, live = 0;
    for (uint32_t slot = 0; slot < shard->capacity; slot++) {
        struct cog_sampled entry;
        cog_shard_get(shard, slot, &entry);
        if (!cog_row_live(&entry.row))
            continue;
        live++;
        flaws += search(shard, entry.row.digest, shard->capacity, NULL) != slot;
    }
    return flaws + (live > shard->rows ? live - shard->rows : shard->rows - live);
}

/* --- without the lock --- */

bool cog_shard_touch(const struct cog_shard *shard, const struct cog_digest *digest, uint64_t now,
                     uint64_t least_age, uint32_t limit_probes)
{
    uint64_t want[2];
    digest_words(digest, want);
    uint32_t probes = limit_probes && limit_probes < shard->capacity ? limit_probes
                                                                     : shard->capacity;
    uint32_t slot = search(shard, want, probes, NULL);
    if (slot == COG_SHARD_NONE)
        return false;
    uint64_t word = hot_load(shard->hot + slot), then = cog_hot_time(word);
    uint64_t age = then < now ? now - then : 0;
    if (age < least_age)
        return false;
    uint64_t uses = cog_hot_uses(word);
    uses += uses < UINT16_MAX;
    hot_store(shard->hot + slot, uses << 48 | (then < now ? now : then));
    has_changed(shard, slot);
    return true;
}

uint32_t cog_shard_sample(const struct cog_shard *shard, uint32_t start, uint32_t width,
                          struct cog_sampled *out, uint32_t room)
{
    uint32_t seen = 0;
    if (width > shard->capacity)
        width = shard->capacity;
    for (uint32_t i = 0; i < width && seen < room; i++) {
        struct cog_sampled *entry = out + seen;
        cog_shard_get(shard, start + i, entry);
        seen += cog_row_live(&entry->row);
    }
    return seen;
}
