/*
 * The index of one root: ONE sparse, disposable file with 256 shard totals, 512 writer slots and
 * 256 tables of rows. It bounds the size, remembers uses and lets writers exclude each other; it
 * never says what a value is. The files are the truth: losing, truncating or garbling the index
 * costs accounting for a moment and never a value, an error or a crash.
 *
 * This module owns: the locks (one byte range of the index file per shard, slot and job), the
 * reservation that makes the size limit hard, the record of every published and removed file,
 * rebuild, growth, eviction of one entry, reaping of dead writers, and what fork needs. It lists
 * and stats `objects/`, unlinks victims and temp files; it never reads a value. Step names in
 * brackets (V1, P8, E4 ...) are those of docs/store.md.
 *
 * Threads: everything may be called from any thread between open and close. A lock is used by the
 * thread that took it. Nobody may hold two shards; reserve, evict, sweep, reap and warm-up must be
 * called with none held. Fork: handled inside (pthread_atfork, and a page that the kernel wipes for
 * the raw system call). In the child locks, slot and descriptor are dropped at once and come back
 * at the first need; the mapping stays.
 */
#ifndef COG_INDEX_H
#define COG_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/evict.h"
#include "core/fs.h"
#include "core/hash.h"
#include "core/shard.h"
#include "core/status.h"

struct cog_index;
struct cog_index_file; /* one opened index file; a handle moves to another one when the file was
                          replaced */

enum { COG_SHARDS = 256, COG_WRITER_SLOTS = 512 };

/* Slack of a reservation over the charge of the file [P1, P4]: a new or split directory, a late
 * extent block, the row. */
#define COG_RESERVE_SLACK UINT64_C(20480)
#define COG_CHARGE_SLACK \
    UINT64_C(16384) /* a file whose charge is over reserved - this must be discarded [P4] */
/* The least limit that leaves room for anything (settled at 17 MB). */
#define COG_INDEX_LEAST_LIMIT UINT64_C(17000000)

/*
 * The index is not there or was replaced while we worked on it (deleted, cut short, moved with its
 * directory, a descriptor closed by strangers). Nothing happened; the handle has let go of the old
 * file. Start the operation over, once, with a new reservation; temp files and reservations of
 * before are to be unlinked and released as usual.
 */
#define COG_INDEX_MOVED COG_ERR_CLOSED

/* --- names ----------------------------------------------------------------------------------- */

enum { COG_OBJECT_PATH_SIZE = 48, COG_TEMP_PATH_SIZE = 64 };
/* "objects/<2 hex>/<30 hex>" and "objects/<2 hex>", relative to the root. */
void cog_object_path(const struct cog_digest *digest, char out[COG_OBJECT_PATH_SIZE]);
/*
 * Is there a file of this name in pins/? Then no policy evicts the entry; deletes, new values and
 * the end of its life go on. What cannot be asked is not pinned.
 */
bool cog_object_is_pinned(const struct cog_fs *fs, int root, const struct cog_digest *digest);
void cog_shard_path(unsigned shard, char out[COG_OBJECT_PATH_SIZE]);
/* The digest that `name` (30 lower-case hex digits) stands for in `shard`; false: a stranger's
 * name. */
bool cog_object_name_parse(unsigned shard, const char *name, struct cog_digest *out);
/* Bytes on disk that a file or directory is charged with: blocks, or its size rounded up to a block
 * if that is more. */
uint64_t cog_charge(const struct cog_stat *stat, uint32_t block_size);

/* --- opening --------------------------------------------------------------------------------- */

struct cog_victim;
struct cog_index_hooks { /* all optional */
    void *context;
    /*
     * Called under the shard's lock, before an entry is unlinked because its row says that it has
     * expired: does its file say so too? `path` is relative to the root. False: it stays, and
     * `*expires` (Unix seconds, 0 = never) goes to the row.
     */
    bool (*is_expired)(void *context, const char *path, const struct cog_stat *stat,
                       uint32_t *expires);
    /* Called after an entry was unlinked by this handle (evict, expiry in a sweep), no lock held.
     */
    void (*removed)(void *context, const struct cog_victim *victim);
    /* Wall clock in milliseconds, where it is not the system's (tests of expiry). */
    uint64_t (*now_ms)(void *context);
};

struct cog_index_options {
    const struct cog_fs *fs; /* never NULL */
    int root;             /* the root, open; borrowed until close. objects/ and tmp/ exist in it */
    uint64_t limit;       /* hard bound in bytes on disk of everything under the root; 0 = none */
    uint64_t fixed_bytes; /* what the store keeps beside objects, tmp and index, at most:
                             quarantine, tags.log, memo ... */
    uint64_t free_floor;  /* least free bytes of the file system after a put; 0 = none */
    uint64_t max_files;   /* soft by the puts in flight; 0 = none */
    /* the four above are for an index that is made here; another one's stay */
    bool keep_bounds;
    enum cog_policy policy;
    uint64_t touch_ns; /* least age of a recorded use before it is recorded again; 0 = always */
    bool no_map;       /* tables by pread and pwrite */
    bool group_shared; /* mode 0660 instead of 0600, and files of the directory's group are ours */
    struct cog_index_hooks hooks;
};

/*
 * Attach to the root's index, creating it where there is none that fits [O3-O6]. Costs no count:
 * that is left to the first put. Where the disk has no room for it, or another process is making
 * it, the first put tries again. COG_ERR_READ_ONLY: the root takes no writes (gets need no index:
 * go on without). COG_ERR_UNSUPPORTED: no working locks here, so no hard limit (the store's
 * table-less mode). COG_ERR_IO, COG_ERR_NOMEM.
 */
enum cog_status cog_index_open(const struct cog_index_options *options, struct cog_index **out,
                               struct cog_error *err);
void cog_index_close(
    struct cog_index *index); /* accepts NULL; no call may be under way, no reservation open */

/* New bounds (last caller wins, for all processes); entries beyond them leave as puts evict. Limit
 * 0 = none. */
enum cog_status cog_index_set_limits(struct cog_index *index, uint64_t limit, uint64_t fixed_bytes,
                                     uint64_t free_floor, uint64_t max_files,
                                     struct cog_error *err);

struct cog_index_stats {
    uint64_t
        used_bytes; /* charges of everything published, directories, tables and the fixed part */
    uint64_t held_bytes; /* reserved by writers now, all processes */
    uint64_t limit, free_floor, max_files, fixed_bytes;
    uint64_t entries;
    unsigned unknown_shards; /* not yet counted since the index was made; their bytes are missing in
                                used_bytes */
    bool mapped;
    bool attached; /* false: no index file at the moment (it comes back with the next put) */
    /* this handle since open */
    uint64_t rebuilds, reopens, reaped, evicted_policy, evicted_expired,
        strangers; /* strangers: odd names seen in objects/ */
};
void cog_index_get_stats(struct cog_index *index, struct cog_index_stats *out);

/* --- reserving [V1-V4] ----------------------------------------------------------------------- */

struct cog_reservation { /* a value of the caller; all zeroes = none. Fields are this module's
                            business */
    struct cog_index *index;
    struct cog_index_file *file;
    uint64_t bytes;
    uint64_t
        fork_count; /* of the process that reserved: a child releases nothing of its parent's */
};

/*
 * Reserve `bytes` on disk before one of them is written; claims the process's writer slot at the
 * first call. Evicts by the policy until it fits, at most 64 entries plus one per 4 KiB. May be
 * called again on the same reservation: streams grow
 * (`bytes` more; on refusal what was reserved before stays).
 * COG_ERR_TOO_LARGE: over a quarter of the limit at once.
 * COG_ERR_FULL: no room could be made. COG_ERR_BUSY: too much in flight (over a quarter of the
 * limit), no free slot of 512, or the count after a lost index is still going on. COG_INDEX_MOVED:
 * as above.
 */
enum cog_status cog_index_reserve(struct cog_index *index, uint64_t bytes,
                                  struct cog_reservation *reservation, struct cog_error *err);
/* Give everything back [P14]; after the temp file is renamed or unlinked. Accepts an empty one and
 * leaves it empty. */
void cog_index_release(struct cog_reservation *reservation);
/*
 * Instead of release, when the temp file at `path` could not be unlinked: its bytes stay counted
 * until that succeeds, in a later sweep or, when this process has ended, in the reaping of its
 * slot.
 */
void cog_index_abandon(struct cog_reservation *reservation, const char *path);
/* False in a forked child: the temp file and the bytes belong to the parent, leave both alone. */
bool cog_reservation_is_ours(const struct cog_reservation *reservation);
/* A fresh name "tmp/<slot>-<nonce>-<n>" that names its owner: reaped with its slot when the owner
 * dies. */
void cog_index_temp_path(const struct cog_reservation *reservation, char out[COG_TEMP_PATH_SIZE]);

/* --- one shard, locked [L1-L3] --------------------------------------------------------------- */

struct cog_index_lock { /* a value on the caller's stack; fields are this module's business */
    struct cog_index *index;
    struct cog_index_file *file;
    unsigned shard;
    bool inside; /* stamp is odd by us: between a begin and its end */
    struct cog_shard table;
    void *scratch;
    uint64_t raised; /* what P8 added to the total */
};

/*
 * Lock the shard against all writers of all processes, check it and rebuild it where anything is in
 * doubt. `reservation` (may be NULL) ties a put to the index file it reserved in. Waits at most 200
 * ms: COG_ERR_BUSY. COG_INDEX_MOVED. COG_ERR_IO: the shard's directory cannot be listed, so nothing
 * may change in it. COG_ERR_FULL: no room for its table.
 */
enum cog_status cog_index_lock(struct cog_index *index, unsigned shard,
                               const struct cog_reservation *reservation,
                               struct cog_index_lock *lock, struct cog_error *err);
void cog_index_unlock(struct cog_index_lock *lock); /* [P15] */

/* What the name holds, table and directory agreeing. */
struct cog_index_found {
    bool present;
    struct cog_stat stat; /* of the file; valid if present */
    uint64_t charge;      /* 0 if absent */
    struct cog_row row;
    uint64_t hot;
};
/*
 * Look up row and file [P6, D1]; where they disagree, the shard is rebuilt and looked up again.
 * Never changes the file. Compare `stat.inode` with that of an open descriptor [Q2] or `row.count`
 * with a sampled one [E3] before removing.
 */
enum cog_status cog_index_find(struct cog_index_lock *lock, const struct cog_digest *digest,
                               struct cog_index_found *found, struct cog_error *err);
/* Count the shard anew from its directory [R1-R9], after the store met something that the table
 * does not know. */
enum cog_status cog_index_rebuild(struct cog_index_lock *lock, struct cog_error *err);

/*
 * Publishing: begin, the caller's rename [P9], then end or cancel.
 * begin [P5-P8]: makes room in the table, finds what is there, marks the shard, raises its total by
 * `charge` (of the temp file). Then, if found->present: fs->rename over it; else fs->rename_new,
 * and where that answers -EEXIST: cancel, rebuild, begin again; where -ENOENT: mkdir of
 * cog_shard_path and once more.
 */
enum cog_status cog_index_publish_begin(struct cog_index_lock *lock,
                                        const struct cog_digest *digest, uint64_t charge,
                                        struct cog_index_found *found, struct cog_error *err);
struct cog_index_record {
    uint64_t inode;
    uint64_t charge;
    uint32_t expires; /* Unix seconds, rounded up; 0 = never or beyond 2106 */
    float cost;
    uint32_t kind;
    uint64_t source;
};
/* [P10-P13] The rename has happened. Cannot fail: what cannot be recorded leaves the shard marked
 * for a rebuild. */
void cog_index_publish_end(struct cog_index_lock *lock, const struct cog_digest *digest,
                           const struct cog_index_record *record,
                           const struct cog_index_found *replaced);
void cog_index_publish_cancel(struct cog_index_lock *lock); /* the rename has not happened */

/*
 * Removing: find, compare the generation, begin (marks the shard), the caller's unlink (or rename
 * to quarantine/), end. `removed` false: the file is still there, nothing changes.
 */
void cog_index_remove_begin(struct cog_index_lock *lock);
void cog_index_remove_end(struct cog_index_lock *lock, const struct cog_digest *digest,
                          const struct cog_index_found *found, bool removed);
/*
 * Names that are no entries, in spool/, counted in the total of the shard whose two hex digits they
 * begin with [X1-X3]. begin makes room for a table and raises the total by `charge`; then the
 * caller makes, replaces or removes the name; end says what came and what went. `known` false:
 * nobody can say, the shard is counted anew by the next to lock it.
 */
#define COG_SPOOL_DIRECTORY "spool"
enum cog_status cog_index_extra_begin(struct cog_index_lock *lock, uint64_t charge,
                                      struct cog_error *err);
void cog_index_extra_end(struct cog_index_lock *lock, bool known, uint64_t came, uint64_t went);
/* Note in the row that its file cannot be unlinked: still charged, never chosen again. */
void cog_index_set_stuck(struct cog_index_lock *lock, const struct cog_digest *digest);
/* After a refresh of the file's freshness slot. */
void cog_index_set_expires(struct cog_index_lock *lock, const struct cog_digest *digest,
                           uint32_t expires);

/* --- without a lock -------------------------------------------------------------------------- */

/* Record a use [G2]: one store in mapped memory, no system call. Nothing at all when there is no
 * table. */
void cog_index_touch(struct cog_index *index, const struct cog_digest *digest);
/* Certainly no such file [G0]? False = ask the file system. Files added by hand are unseen until
 * the next sweep. */
bool cog_index_is_absent(struct cog_index *index, const struct cog_digest *digest);
/* A copy of the row, for listings and explanations, and, unless NULL, the seconds since its last
 * recorded use. COG_ABSENT: none seen (which proves nothing). */
enum cog_status cog_index_peek(struct cog_index *index, const struct cog_digest *digest,
                               struct cog_row *row, double *idle_seconds);

/* A counter that changes whenever somebody bumps it: has tags.log changed since I read it? False:
 * no index, no answer. */
bool cog_index_tag_counter(struct cog_index *index, uint64_t *value);
void cog_index_bump_tag_counter(struct cog_index *index); /* after the log is written and synced */

/* --- evicting [E1-E5] ------------------------------------------------------------------------ */

struct cog_victim {
    struct cog_digest digest;
    unsigned shard;
    uint64_t inode;
    uint32_t count;
    uint64_t bytes; /* charge by the row; `remove_victim` sets it from the file */
    bool expired;   /* nominated because its row has expired, not by the policy */
    uint64_t source;
    uint32_t kind;
};

/* Choose one: the worst of 64 residents [E1, E2]. COG_ABSENT: nothing evictable was seen. */
enum cog_status cog_index_sample(struct cog_index *index, struct cog_victim *victim);
/*
 * Unlink that very generation [E3-E5]. COG_ABSENT: it is another one by now, or gone, or not
 * expired after all. COG_ERR_IO: cannot be unlinked (now stuck). COG_ERR_BUSY, COG_INDEX_MOVED.
 */
enum cog_status cog_index_remove_victim(struct cog_index *index, struct cog_victim *victim,
                                        struct cog_error *err);
/* sample + remove until one is gone. `*freed` = its bytes. COG_ABSENT: nothing evictable anywhere.
 */
enum cog_status cog_index_evict_one(struct cog_index *index, uint64_t *freed,
                                    struct cog_error *err);

/* --- care ------------------------------------------------------------------------------------ */

/* The one job of warm-up and sweep over all processes; COG_ERR_BUSY: somebody has it. */
enum cog_status cog_index_job_begin(struct cog_index *index, struct cog_error *err);
void cog_index_job_end(struct cog_index *index);

/*
 * Count up to `shards` shards that are unknown since the index was made [O6]; several threads may
 * help. COG_OK: none is unknown any more. COG_ERR_BUSY: some are left. Works without the job; the
 * job only saves doing it twice.
 */
enum cog_status cog_index_warm_up(struct cog_index *index, unsigned shards, struct cog_error *err);

/*
 * Sweep one shard: if its directory changed without us (or `force`), count it anew; shrink its
 * table; reclaim what has expired. `*removed` (may be NULL) is increased by the entries reclaimed.
 */
enum cog_status cog_index_sweep_shard(struct cog_index *index, unsigned shard, bool force,
                                      uint64_t *removed, struct cog_error *err);
/* Take the bytes and temp files of dead writers back [A1, A2], and temp files that belong to no
 * slot. Returns slots freed. */
unsigned cog_index_reap(struct cog_index *index);
/* Shards for the sweep in turn, over all processes: the next one to look at. */
unsigned cog_index_next_shard(struct cog_index *index);

#endif
