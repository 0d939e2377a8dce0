/*
 * Inside the index (index_*.c and its tests only): layout of the file, words of it, the opened
 * file, pins, fork.
 *
 * The file, all numbers little- or big-endian as the machine has them, since it never leaves the
 * boot it was made in:
 *
 * - at 0: struct cog_index_head, one page
 *
 * - at 4096: struct cog_index_shards, three pages; one element of each array per shard, written
 *   under its lock
 *
 * - at 16384: 512 slots of 64 bytes
 *
 * - at 49152: 256 regions of region_bytes; struct cog_region_head (64 bytes), hot[capacity],
 *   row[capacity]
 *
 * Sparse: head, shard words and slots are allocated at creation, a region as far as its table
 * reaches. Every number in it may be garbage at any time and is clamped before use.
 */
#ifndef COG_INDEX_FILE_H
#define COG_INDEX_FILE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "core/index.h"

#define COG_INDEX_MAGIC UINT64_C(0x316465786e69676f) /* "ogindex1" */
enum {
    COG_INDEX_VERSION = 1,
    COG_INDEX_SHARDS_AT = 4096,
    COG_INDEX_SLOTS_AT = 16384,
    COG_INDEX_REGIONS_AT = 49152,
    COG_INDEX_REGION_FREE = 8192, /* of each region, paid for by the fixed part */
    COG_INDEX_MOST_SLOTS = 65536, /* of one table: 16 million rows in all */
    COG_INDEX_LEAST_REGION_SLOTS = 512
};

/* A total not counted yet. 256 of them must not overflow a sum. */
#define COG_UNKNOWN (UINT64_C(1) << 54)
/* What one row may come to cost in index and directory [P8]: the row, prepaying growth and rebuild;
 * a directory split. */
#define COG_ROW_SHARE UINT64_C(256)
#define COG_DIRECTORY_SLACK UINT64_C(8192)

struct cog_index_head {
    uint64_t magic; /* constant after creation from here ... */
    uint32_t version, row_bytes;
    uint8_t boot_id[16];
    uint64_t index_inode, root_device, root_inode, region_bytes, created;
    uint64_t check; /* ... to here: XXH3-64 of the bytes before */
    _Atomic uint64_t limit, fixed_bytes, free_floor, max_files;
    _Atomic uint64_t bounds_check; /* of these four; see cog_bounds_read */
    /* Ceiling of the index before: bounds what is not counted yet. */
    _Atomic uint64_t inherited;
    /* Bound of the sum at any death of the machine; see cog_ceiling_pack. */
    _Atomic uint64_t ceiling;
    _Atomic uint64_t ceiling_durable; /* the same, known to be on disk */
    _Atomic uint64_t tag_counter;
    _Atomic uint32_t slots_high, sweep_cursor;
};

struct cog_index_shards {
    _Atomic uint64_t
        total[COG_SHARDS]; /* charges of files, directory and table share, or COG_UNKNOWN */
    _Atomic uint64_t first[COG_SHARDS];     /* total when it was counted first; 0 before */
    _Atomic uint64_t dir_mtime[COG_SHARDS]; /* of objects/<shard> after our last change */
    _Atomic uint32_t stamp[COG_SHARDS];     /* odd: somebody is or died inside */
    _Atomic uint32_t rows[COG_SHARDS];
    _Atomic uint32_t capacity[COG_SHARDS];
    _Atomic uint32_t dir_charge[COG_SHARDS];
};

struct cog_index_slot {
    _Atomic uint64_t held;
    _Atomic uint64_t nonce;
    _Atomic uint64_t since; /* Unix milliseconds, and whose: for people only */
    _Atomic uint64_t pid;
    uint64_t reserved[4];
};

struct cog_region_head {
    _Atomic uint64_t objects; /* charges of all names in the directory */
    _Atomic uint32_t rows_copy;
    _Atomic uint32_t next_count;
    uint64_t reserved[6];
};

_Static_assert(sizeof(struct cog_index_head) <= COG_INDEX_SHARDS_AT, "layout");
_Static_assert(COG_INDEX_SHARDS_AT + sizeof(struct cog_index_shards) <= COG_INDEX_SLOTS_AT,
               "layout");
_Static_assert(sizeof(struct cog_index_slot) == 64 && sizeof(struct cog_region_head) == 64,
               "layout");
_Static_assert(COG_INDEX_SLOTS_AT + 64 * COG_WRITER_SLOTS == COG_INDEX_REGIONS_AT, "layout");

/* Offsets of words in the file. */
#define COG_AT_HEAD(field) offsetof(struct cog_index_head, field)
#define COG_AT_SHARD(field, s)                                        \
    (COG_INDEX_SHARDS_AT + offsetof(struct cog_index_shards, field) + \
     (size_t)(s) * sizeof(((struct cog_index_shards *)0)->field[0]))
#define COG_AT_SLOT(field, i) \
    (COG_INDEX_SLOTS_AT + (size_t)(i)*64 + offsetof(struct cog_index_slot, field))
#define COG_AT_REGION(file, field, s) \
    (cog_region_at(file, s) + offsetof(struct cog_region_head, field))

/* Bytes of the index file whose locks stand for things: 2^40 + one of these. */
#define COG_LOCK_SHARD(s) ((UINT64_C(1) << 40) + (s))
#define COG_LOCK_SLOT(i) ((UINT64_C(1) << 40) + 4096 + (i))
#define COG_LOCK_JOB ((UINT64_C(1) << 40) + 8192)

struct cog_abandoned { /* a temp file of ours that could not be unlinked, and what it holds */
    char path[COG_TEMP_PATH_SIZE];
    uint64_t bytes;
};

/*
 * One opened index file. Locks of threads come before the locks of processes: threads of one handle
 * share the description. Where record locks belong to processes (no OFD locks), all handles of the
 * process on one file share one of these.
 */
struct cog_index_file {
    const struct cog_fs *fs;
    atomic_int fd; /* -1: dropped in a forked child, or lost; comes back by cog_file_descriptor */
    unsigned char *map; /* NULL: words and tables by pread and pwrite */
    uint64_t device, inode, size, region_bytes;
    uint32_t most_slots; /* of a table in a region */
    atomic_bool broken;  /* words could not be read or written, or memory was cut off under us: good
                            for nothing any more */
    atomic_bool counted; /* no shard is unknown */
    _Atomic uint64_t healed_ns; /* when cog_shards_heal last looked */
    atomic_uint refs;
    bool shared; /* by all handles of the process */
    pthread_mutex_t shard_mutex[COG_SHARDS];
    pthread_mutex_t slot_mutex; /* guards the slot and what follows */
    struct cog_abandoned *abandoned;
    unsigned abandoned_count;
    atomic_int slot; /* ours, or -1 */
    uint64_t nonce;  /* of our slot */
    atomic_uint next_temp;
    _Atomic uint64_t mine; /* what our reservations add up to; never less than our held word */
    _Atomic uint64_t fork_count;
    atomic_bool job;
    struct cog_index_file *next; /* of all in the process */
};

struct cog_index {
    struct cog_index_options options;
    struct cog_stat root_stat;
    uint32_t block_size;
    _Atomic(struct cog_index_file *) file; /* NULL: lost, comes back by cog_index_attach */
    atomic_uint users;                     /* calls between enter and leave */
    pthread_mutex_t moving;                /* guards attach, `retired` and the next one */
    uint64_t broken_inode; /* of a file whose mapped pages could not be had: it is replaced, not
                              attached again; 0: none */
    struct cog_index_file *retired[8]; /* given up, still to be released when no call is inside */
    atomic_uint retired_count;
    _Atomic uint64_t rebuilds, reopens, reaped, evicted_policy, evicted_expired, strangers;
    struct cog_index *next; /* of all in the process */
};

/*
 * --- words. Mapped: atomics. Else system calls. What cannot be had breaks the file and reads as 0,
 * in tables too (guard.h): look at `broken` after the reading, before what was read decides. ---
 */

uint64_t cog_word64(struct cog_index_file *file, size_t at);                 /* seq_cst */
uint32_t cog_word32(struct cog_index_file *file, size_t at);                 /* acquire */
void cog_word64_set(struct cog_index_file *file, size_t at, uint64_t value); /* release */
void cog_word32_set(struct cog_index_file *file, size_t at, uint32_t value); /* release */
/* At least `value` from here on. Without a map there is no compare-and-swap: `most` is stored,
 * which every reader allows. */
void cog_word64_raise(struct cog_index_file *file, size_t at, uint64_t value, uint64_t most);
void cog_word32_raise(struct cog_index_file *file, size_t at, uint32_t value, uint32_t most);
/* For words that only our process writes. */
bool cog_word64_swap(struct cog_index_file *file, size_t at, uint64_t from, uint64_t to);
/* `count` words that lie `stride` bytes apart, in ascending order, each seq_cst. */
void cog_words64(struct cog_index_file *file, size_t at, size_t stride, unsigned count,
                 uint64_t *out);

static inline size_t cog_region_at(const struct cog_index_file *file, unsigned shard)
{
    return COG_INDEX_REGIONS_AT + (size_t)shard * (size_t)file->region_bytes;
}

/* --- the opened file --- */

/* The file now, for one short call; NULL: none. Every enter needs its leave. */
struct cog_index_file *cog_index_enter(struct cog_index *index);
void cog_index_leave(struct cog_index *index);
/* The file now, or a new one [O3-O5], with a reference of the caller's. */
enum cog_status cog_index_attach(struct cog_index *index, struct cog_index_file **out,
                                 struct cog_error *err);
void cog_file_ref(struct cog_index_file *file);
void cog_file_unref(struct cog_index_file *file);
/* This file is no more: the next attach makes or finds another. */
enum cog_status cog_index_lose(struct cog_index *index, struct cog_index_file *file,
                               struct cog_error *err);
/* [L2] Is the descriptor open, the file linked, of the size and inode as mapped? Opens it again in
 * a forked child. */
enum cog_status cog_file_check(struct cog_index *index, struct cog_index_file *file,
                               struct cog_error *err);
/* What bounds the sums, as it lies in the head. */
struct cog_bounds {
    uint64_t limit, fixed_bytes, free_floor, max_files, check;
};
/* The bounds that somebody stored in the file, or else, garbled, this handle's, which are stored
 * there anew. All five are of one reading: decide by `out`, never by the single words. */
void cog_bounds_read(struct cog_index *index, struct cog_index_file *file, struct cog_bounds *out);
bool cog_index_owns(const struct cog_index *index, const struct cog_stat *stat); /* ours to use */
uint64_t cog_index_now_ms(const struct cog_index *index);
uint64_t cog_index_time(const struct cog_index *index); /* as cog_shard_time of now */
/* Allocate blocks for the first `bytes` of a region. 0 or -errno. */
int cog_file_allocate(struct cog_index_file *file, uint64_t at, uint64_t bytes);
/* Bugs that tests build in and that show for a moment only last so long; tests know them by it. */
enum { COG_SEEDED_WINDOW_US = 2999 };
/* Try to lock a byte for at most 200 ms. 0, -EAGAIN or -errno. */
int cog_file_lock_patiently(struct cog_index_file *file, uint64_t byte);

/* --- sums and slots --- */

struct cog_sum {
    uint64_t held;    /* all writers */
    uint64_t known;   /* totals of the counted shards */
    uint64_t moving;  /* held + known + what the uncounted ones are bounded by; UINT64_MAX: there is
                         no bound */
    unsigned unknown; /* shards */
};
void cog_index_sum(struct cog_index_file *file, struct cog_sum *sum);
/* A bound of bytes with its own check, in one word; 0 and damaged words unpack to UINT64_MAX
 * ("none"). */
uint64_t cog_ceiling_pack(uint64_t bytes);
uint64_t cog_ceiling_unpack(uint64_t word);
uint64_t cog_limit_margin(uint64_t limit);

/* --- tables --- */

/* [P12] Share of a table in the total. */
uint64_t cog_table_share(uint32_t rows, uint32_t capacity);
uint32_t cog_table_capacity(struct cog_index_file *file,
                            unsigned shard); /* clamped; 0 if out of range */
/* A view of the table in mapped memory; capacity 0 without a map. */
void cog_table_view(struct cog_index_file *file, unsigned shard, struct cog_shard *out);
/* The lock's view, mapped or by copies. */
enum cog_status cog_table_open(struct cog_index_lock *lock, struct cog_error *err);
void cog_table_flush(struct cog_index_lock *lock);
void cog_table_close(struct cog_index_lock *lock);
/* Lock, and so count anew, up to `most` shards whose words do not add up; how many that were. */
unsigned cog_shards_heal(struct cog_index *index, struct cog_index_file *file, unsigned most);
/* Stamp odd / even. */
void cog_stamp_inside(struct cog_index_lock *lock);
void cog_stamp_outside(struct cog_index_lock *lock);
/* [P11, P12] Directory words, head of the region, total in one store. False: the directory could
 * not be asked. */
bool cog_shard_settle(struct cog_index_lock *lock, uint64_t objects);
/* One more row is coming [P5]. */
enum cog_status cog_table_room(struct cog_index_lock *lock, struct cog_error *err);
enum cog_status cog_rebuild(struct cog_index_lock *lock, struct cog_error *err);

#endif
