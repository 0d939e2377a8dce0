/*
 * One shard's table of rows, in memory: find, add, touch, drop, sample. Pure: no files, no clock,
 * no lock.
 *
 * Open addressing over a power of two of slots, linear probing, deletion by back-shift, no
 * tombstones. The table may be the shared mapping of the index file, so everything in it is taken
 * as any bytes at all: slots are masked, probes are bounded by the capacity, and nothing found in a
 * row is used as an offset, a length or a pointer. Whoever changes a table holds the shard's lock;
 * `touch`, `peek` and `sample` also run without one and then see at worst a stranger's row.
 *
 * Two arrays, not one: a hit writes nothing but 8 bytes of the dense array of recency, so a million
 * rows dirty 8 MB of pages instead of 64.
 */
#ifndef COG_SHARD_H
#define COG_SHARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/hash.h"
#include "core/status.h"

/*
 * Recency of one slot in one word, so that a touch is one relaxed store: time of the last recorded
 * use in the low 48 bits, in units of 2^-20 s of CLOCK_BOOTTIME biased by 2^47 (four years either
 * way; about a microsecond apart, so that the order of uses is exact); in the high 16 bits the
 * recorded re-uses, saturating.
 */
struct cog_hot {
    _Atomic uint64_t word;
};

enum cog_row_state {
    COG_ROW_NORMAL = 0,
    COG_ROW_STUCK = 1 /* cannot be unlinked: charged, never chosen again */
};

struct cog_row {
    uint64_t digest[2]; /* of the key, as read from its canonical bytes; 0,0 = empty (a digest of 0
                           is kept as 0,1) */
    uint64_t inode;     /* for a packed value (later): segment << 32 | offset / 64 */
    uint32_t sectors;   /* charge / 512 */
    uint32_t count;     /* generation: drawn from a counter of the table, never twice the same */
    uint32_t expires; /* Unix seconds from which it may be reclaimed; 0 = never. Nominates only: the
                         file decides */
    uint32_t stored;  /* when it was recorded: bits 16..47 of the time as in cog_hot */
    float cost;       /* seconds to compute it again; 0 = unknown */
    uint32_t kind;    /* hash of profile and artifact */
    uint64_t source;  /* hash of the canonical source URI; 0 = unknown */
    uint8_t state;    /* enum cog_row_state; other values count as normal */
    uint8_t pad;
    uint16_t stored_fraction; /* bits 0..15 of `stored` */
    uint32_t length;          /* of a packed value; 0 for a file */
};

_Static_assert(sizeof(struct cog_hot) == 8 && sizeof(struct cog_row) == 64,
               "layout of the index file");

enum { COG_SHARD_LEAST_SLOTS = 64, COG_SHARD_ROW_BYTES = 72 };

/*
 * A view of one table. `capacity` is a power of two (>= COG_SHARD_LEAST_SLOTS) or 0, already
 * clamped to the memory behind `hot` and `row`; `rows` counts the live ones and follows add and
 * drop.
 *
 * Where tables are not mapped, the arrays are a private copy filled on demand: `load` is called
 * before a slot is looked at, `changed` after one was written. Both NULL: plain memory.
 */
struct cog_shard {
    struct cog_hot *hot;
    struct cog_row *row;
    uint32_t capacity;
    uint32_t rows;
    uint32_t next_count;
    void (*load)(void *context, uint32_t slot);
    void (*changed)(void *context, uint32_t slot);
    void *context;
};

#define COG_SHARD_NONE UINT32_MAX

/* Time in the unit of cog_hot, from nanoseconds of CLOCK_BOOTTIME and an age (0 = now). */
uint64_t cog_shard_time(uint64_t boottime_ns, uint64_t age_ns);
/* Seconds from `then` to `now` (both as of cog_shard_time), never negative. */
double cog_shard_age(uint64_t now, uint64_t then);
static inline uint64_t cog_hot_time(uint64_t word)
{
    return word & ((UINT64_C(1) << 48) - 1);
}
static inline uint32_t cog_hot_uses(uint64_t word)
{
    return (uint32_t)(word >> 48);
}
static inline uint64_t cog_row_stored(const struct cog_row *row)
{
    return (uint64_t)row->stored << 16 | row->stored_fraction;
}
void cog_row_set_stored(struct cog_row *row, uint64_t time);
/* The digest as a row keeps it. */
void cog_row_set_digest(struct cog_row *row, const struct cog_digest *digest);
void cog_row_digest(const struct cog_row *row, struct cog_digest *out);
bool cog_row_is(const struct cog_row *row, const struct cog_digest *digest);
static inline bool cog_row_live(const struct cog_row *row)
{
    return (row->digest[0] | row->digest[1]) != 0;
}

/* Least capacity that holds `rows` at no more than three quarters full: a power of two, >=
 * COG_SHARD_LEAST_SLOTS. */
uint32_t cog_shard_capacity_for(uint32_t rows);
/* Bytes of a region of `capacity` slots, region head of 64 bytes included, rounded up to 4096; 0
 * for 0. */
uint64_t cog_shard_bytes(uint32_t capacity);
/* Largest capacity whose region fits `bytes`: a power of two, or 0 when not even the least fits. */
uint32_t cog_shard_capacity_in(uint64_t bytes);

/* A row and its recency, copied out of the table. */
struct cog_sampled {
    struct cog_row row;
    uint64_t hot;
};
/* Copy a slot (masked) out or in as it is. */
void cog_shard_get(const struct cog_shard *shard, uint32_t slot, struct cog_sampled *out);
void cog_shard_set(struct cog_shard *shard, uint32_t slot, const struct cog_sampled *in);
/* Empty every slot; next_count goes on. */
void cog_shard_clear(struct cog_shard *shard);
/* Slot of the digest, or COG_SHARD_NONE. */
uint32_t cog_shard_find(const struct cog_shard *shard, const struct cog_digest *digest);
/*
 * Record `row` (its `count` is drawn here) with recency `hot`, in place of a row of the same digest
 * if there is one. Returns the slot, or COG_SHARD_NONE when the table is full.
 */
uint32_t cog_shard_add(struct cog_shard *shard, const struct cog_row *row, uint64_t hot);
/* Take out the row at `slot` and close the gap; the recency words move along with their rows. */
void cog_shard_drop(struct cog_shard *shard, uint32_t slot);
/* Live rows that stand where a search would not find them, and twice the same digest: 0 in a sound
 * table. For tests. */
uint32_t cog_shard_flaws(const struct cog_shard *shard);

/*
 * Record a use now, if the recorded one is at least `least_age` (same unit as the times) old.
 * `limit_probes` bounds the search (0 = the capacity). Safe without the lock. Returns whether a
 * word was stored.
 */
bool cog_shard_touch(const struct cog_shard *shard, const struct cog_digest *digest, uint64_t now,
                     uint64_t least_age, uint32_t limit_probes);

/*
 * Copy the live rows of `width` consecutive slots from `start` on (masked), at most `room` of them.
 * Safe without the lock. Returns how many.
 */
uint32_t cog_shard_sample(const struct cog_shard *shard, uint32_t start, uint32_t width,
                          struct cog_sampled *out, uint32_t room);

#endif
