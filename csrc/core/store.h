/*
 * The filesystem tier: files are the truth. One directory shared by many processes, with a hard
 * limit in disk blocks, hits that need no index, no lock and no write, and puts that are atomic and
 * counted (docs/store.md is the protocol).
 *
 * Threads: every function may be called from any thread at any time between open and close; close
 * waits for nobody and must come last. Fork: handles survive; locks, slot and index are dropped in
 * the child and come back lazily. Every system call goes through `struct cog_fs` (fs.h), so that
 * tests can fail, delay or die at each of them.
 */
#ifndef COG_STORE_H
#define COG_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/documents.h"
#include "core/entry.h"
#include "core/evict.h"
#include "core/hash.h"
#include "core/meta.h"
#include "core/status.h"
#include "core/tags.h"

/*
 * Room counted in for `v1/memo`, which callers may keep for digests of sources: at most this, and a
 * 64th of the limit. Rebuildable, replaced by rename.
 */
#define COG_STORE_MEMO_BYTES (UINT64_C(4) << 20)

struct cog_fs; /* fs.h */
struct cog_store;

/* --- opening --------------------------------------------------------------------------------- */

enum cog_durability { COG_DURABILITY_NONE = 0, COG_DURABILITY_DATA, COG_DURABILITY_FULL };
enum cog_access {
    COG_ACCESS_READ_WRITE = 0,
    COG_ACCESS_READ_ONLY,
    COG_ACCESS_AUTO /* read-only where it must be */
};

#define COG_MIN_FREE_DEFAULT UINT64_MAX /* the smaller of 5 % and 2 GiB of the file system */
#define COG_TOUCH_DEFAULT 0u            /* 60 s between recorded uses of one entry */
#define COG_TOUCH_ALWAYS UINT32_MAX     /* every use (tests) */

/* zeroes are the defaults; where zero is a meaningful choice, the default is named */
struct cog_store_options {
    /* hard limit in blocks on disk of everything under the root; 0 = only the free floor */
    uint64_t max_bytes;
    /* free-space floor of the file system; COG_MIN_FREE_DEFAULT, 0 = none */
    uint64_t min_free_bytes;
    uint64_t max_files; /* soft by the puts in flight; 0 = none */
    /* leave the bounds that are in force as they are: the three above are for a new index only */
    bool keep_bounds;
    enum cog_policy policy;
    enum cog_durability durability;
    enum cog_access access;
    bool group_shared; /* 02770 / 0660 and the group's files are trusted */
    /* pread/pwrite tables and copies instead of maps (COGCACHE_NO_MMAP=1 says the same) */
    bool no_map;
    bool table_less;         /* as on a network file system: no index, soft limit */
    uint32_t touch_seconds;  /* COG_TOUCH_DEFAULT, COG_TOUCH_ALWAYS or seconds */
    const struct cog_fs *fs; /* NULL = the system */
};

/*
 * Open or make `base_path`/v1. COG_ERR_REFUSED: not a directory, foreign owner, writable by
 * strangers (text says which). COG_ERR_READ_ONLY: cannot be written and access is READ_WRITE.
 * COG_ERR_LIMIT: max_bytes under the minimum (17 MB).
 */
enum cog_status cog_store_open(const char *base_path, const struct cog_store_options *options,
                               struct cog_store **out, struct cog_error *err);
void cog_store_close(struct cog_store *store); /* accepts NULL; objects handed out stay valid */

/* Shift the wall clock that this store sees, for tests of expiry; 0 = the system's. */
void cog_store_set_clock_offset(struct cog_store *store, int64_t offset_ms);
uint64_t cog_store_now_ms(const struct cog_store *store);

/* --- reading --------------------------------------------------------------------------------- */

enum cog_get_flags {
    /* never blocks: COG_ERR_WOULD_BLOCK where it might (page not in memory, large and unverified)
     */
    COG_GET_NOWAIT = 1,
    /* do not record a use, do not count hit or miss (explain, list, verify) */
    COG_GET_NO_TOUCH = 2,
    /* open and parse, do not load data: metadata, exists, open(part), ranges */
    COG_GET_INDEX_ONLY = 4,
    /* hand out what is expired or tag-invalidated too; see cog_object_miss() */
    COG_GET_ANY_AGE = 8,
    /* read through the descriptor, never through a map, whose pages would count as memory of the
     * process: for whoever reads a large value piece by piece */
    COG_GET_NO_MAP = 16,
    /* leave a damaged entry where it is, and with COG_GET_ANY_AGE hand out one without a valid
     * freshness slot: for whoever only looks (verify) */
    COG_GET_LEAVE = 32
};

/*
 * One generation of one entry, opened: immutable bytes that stay readable whatever happens to the
 * name. Small ones are in memory, large ones a private copy-on-write map (or, where maps are
 * unwelcome, a descriptor read on demand).
 */
struct cog_object;

/*
 * Look up a canonical key encoding. COG_OK: `*out`, the caller frees it. COG_ABSENT: a miss;
 * `*miss` (may be NULL) says why. COG_ERR_WOULD_BLOCK: ask again without COG_GET_NOWAIT. A damaged
 * entry is read again, then set aside: a miss. EMFILE, EACCES, EIO ...: a miss with
 * COG_MISS_UNAVAILABLE; nothing is deleted.
 */
enum cog_status cog_store_get(struct cog_store *store, const void *key, size_t key_size,
                              unsigned flags, struct cog_object **out, enum cog_miss *miss,
                              struct cog_error *err);
/* The same by digest, for listings: whatever key the file holds. */
enum cog_status cog_store_get_digest(struct cog_store *store, const struct cog_digest *digest,
                                     unsigned flags, struct cog_object **out, enum cog_miss *miss,
                                     struct cog_error *err);
void cog_object_free(struct cog_object *object); /* accepts NULL */

const struct cog_entry *cog_object_entry(const struct cog_object *object);
const struct cog_source *cog_object_source(const struct cog_object *object);
/* The whole container in memory (heap or private writable map), or NULL when it is read on demand.
 */
unsigned char *cog_object_image(const struct cog_object *object, size_t *size);
bool cog_object_is_mapped(const struct cog_object *object);
const struct cog_freshness *cog_object_freshness(const struct cog_object *object);
/* The expanded and verified document where one was kept, so that nothing else was read; or NULL.
 * The object's reference. */
struct cog_document *cog_object_document(const struct cog_object *object);
/* Its document, verified and expanded, where that is short and was kept with the index (kept.h);
 * else NULL. Lives as long as the object. */
const unsigned char *cog_object_short_document(const struct cog_object *object, size_t *size);
/* Which write of which file it is. */
struct cog_write_id cog_object_write_id(const struct cog_object *object);
/* with COG_GET_ANY_AGE: why it would have been a miss */
enum cog_miss cog_object_miss(const struct cog_object *object);
uint64_t cog_object_disk_bytes(const struct cog_object *object);
/*
 * All raw bytes of a plain part into `out`, read without waiting and checked: COG_OK, or what `out`
 * holds is worth nothing. COG_ERR_WOULD_BLOCK, COG_ERR_DAMAGED, COG_ERR_IO; COG_ERR_INVALID: no
 * such part, or not a plain one.
 */
enum cog_status cog_object_read_now(const struct cog_object *object, uint32_t number, void *out,
                                    struct cog_error *err);
/*
 * Have the stored chunks of `part` been verified, by this call or by an earlier one of this process
 * for the same write (device, inode, length, token)? Verifies what is not: COG_OK or
 * COG_ERR_DAMAGED. `cog_object_is_verified` only asks.
 */
enum cog_status cog_object_verify_part(struct cog_object *object, uint32_t part,
                                       struct cog_error *err);
bool cog_object_is_verified(const struct cog_object *object, uint32_t part);
/* Forget that any of it has been verified: somebody has found damage in the file. */
void cog_object_distrust(const struct cog_object *object);
/* Report damage found after the get (a chunk that fails later): the generation goes to quarantine
 * if it is still the one. */
void cog_store_report_damage(struct cog_store *store, struct cog_object *object);

/* --- writing --------------------------------------------------------------------------------- */

struct cog_put_info { /* what the row records; zeroes = unknown */
    double cost_seconds;
    /* end of life in Unix milliseconds, 0 = never; only nominates, the slot in the file decides */
    uint64_t expires_ms;
    uint64_t source; /* hash of the canonical source URI */
    uint32_t kind;   /* hash of profile and artifact */
    /* NULL, or: once this is true nothing is published, COG_ERR_CANCELLED. Asked last under the
     * lock, so that whoever sets it and then changes the key never finds this put's value after. */
    const atomic_bool *cancelled;
};

/*
 * Publish a finished image under its key (digest computed from `key`), atomically; an old
 * generation is replaced. COG_OK: readable by everybody. COG_ERR_FULL, COG_ERR_TOO_LARGE,
 * COG_ERR_READ_ONLY, COG_ERR_BUSY, COG_ERR_IO: not stored, the old generation untouched.
 */
enum cog_status cog_store_put(struct cog_store *store, const void *key, size_t key_size,
                              const struct cog_image *image, const struct cog_put_info *info,
                              struct cog_error *err);

/*
 * The same of an entry that is made while it is written: `make` puts it into the sink, with the
 * same bytes whenever it is called, since a put may have to begin anew. What it answers other than
 * COG_OK ends the put, unless the sink had failed. `most`: bytes that it will not exceed.
 * `*length`: those that it had.
 */
struct cog_maker {
    void *context;
    enum cog_status (*make)(void *context, struct cog_sink sink, struct cog_error *err);
    uint64_t most;
};
enum cog_status cog_store_put_made(struct cog_store *store, const void *key, size_t key_size,
                                   const struct cog_maker *maker, const struct cog_put_info *info,
                                   uint64_t *length, struct cog_error *err);

/*
 * A container that arrives in pieces, of any size and in any order, by several threads at once:
 * from another tier, or from a writer as its sink. It goes to a temp file, every byte counted in
 * the limit before it is written, and is seen by nobody until commit has found it whole.
 *
 * Threads: everything from any thread; free when no other call is under way. Fork: a child owns
 * nothing of it; its calls answer COG_ERR_INVALID and its free takes nothing away.
 */
struct cog_incoming;
#define COG_LENGTH_UNKNOWN UINT64_MAX

/*
 * `length` bytes of the container, reserved at once, or COG_LENGTH_UNKNOWN: reserved in steps that
 * double. COG_ERR_FULL, COG_ERR_TOO_LARGE, COG_ERR_READ_ONLY, COG_ERR_BUSY, COG_ERR_IO: nothing
 * happened.
 */
enum cog_status cog_store_incoming(struct cog_store *store, const void *key, size_t key_size,
                                   uint64_t length, struct cog_incoming **out,
                                   struct cog_error *err);
/*
 * Bytes at their place; again is allowed, and the last one counts. COG_ERR_INVALID: beyond the
 * length. COG_ERR_CLOSED: committed or aborted. Else as a put; the range is not written then, and
 * may be tried again.
 */
enum cog_status cog_incoming_write(struct cog_incoming *incoming, uint64_t offset, const void *data,
                                   size_t size, struct cog_error *err);
/* Behind the highest byte that was written so far. */
enum cog_status cog_incoming_append(struct cog_incoming *incoming, const void *data, size_t size,
                                    struct cog_error *err);
struct cog_sink cog_incoming_sink(struct cog_incoming *incoming);

struct cog_range {
    uint64_t start, stop;
};
/* The ranges that have been written, in order, apart from each other: up to `most` of them into
 * `out`; how many there are. */
size_t cog_incoming_written(struct cog_incoming *incoming, struct cog_range *out, size_t most);

/*
 * Publish, if every byte from 0 to the end was written and they are a container of this key: its
 * end is read and parsed, and every chunk verified unless the caller has done so (`verified`).
 * COG_ERR_INVALID: bytes are missing, or somebody still writes: nothing happened. Any other answer
 * ends it: COG_OK, COG_ERR_DAMAGED, COG_ERR_FOREIGN, or as a put. Of `info`, source and kind are
 * used; the life and the cost are those of the container.
 */
enum cog_status cog_incoming_commit(struct cog_incoming *incoming, bool verified,
                                    const struct cog_put_info *info, struct cog_error *err);
/* Give everything back, when the last write under way has ended. */
void cog_incoming_abort(struct cog_incoming *incoming);
void cog_incoming_free(struct cog_incoming *incoming); /* aborts; accepts NULL */

/* COG_OK: deleted (durably as the rename is); COG_ABSENT: there was none. Expired ones are deleted
 * too: COG_ABSENT. */
enum cog_status cog_store_delete(struct cog_store *store, const void *key, size_t key_size,
                                 struct cog_error *err);
/* Delete only the generation that `object` holds; COG_ABSENT when the name holds another or none by
 * now. */
enum cog_status cog_store_delete_object(struct cog_store *store, struct cog_object *object,
                                        struct cog_error *err);
/* Lengthen a life in place: expires = now + ttl. Never shortens (COG_ERR_INVALID); COG_ABSENT: no
 * live entry. */
enum cog_status cog_store_refresh(struct cog_store *store, const void *key, size_t key_size,
                                  uint64_t ttl_ms, struct cog_error *err);

/* --- spool ----------------------------------------------------------------------------------- */

/*
 * Work for later that outlives the entry it is about and the process that left it: files in spool/
 * named "<32 hex digits of the digest>-<label>". They are counted in the limit like entries, but
 * nothing ever evicts or sweeps them: whoever adds them bounds them and removes them. A linked
 * generation is counted for each of its two names, so that it is still counted when the entry has
 * been evicted or replaced. Durable when the call returns. Read them as files.
 *
 * A label is 1 to COG_SPOOL_LABEL_LIMIT of a-z, 0-9, '.', '_' and '-'. COG_ERR_INVALID: it is not,
 * or it is in use for another generation.
 */
enum { COG_SPOOL_LABEL_LIMIT = 64 };

/*
 * Keep the generation that `object` holds: a hard link, a copy where the file system has none.
 * COG_OK also when it is there already. COG_ABSENT: the name holds another generation or none by
 * now. Else as a put.
 */
enum cog_status cog_store_spool_link(struct cog_store *store, const struct cog_object *object,
                                     const char *label, struct cog_error *err);
/* A small file of the caller's about the entry of that digest, atomically; replaces one of its
 * name. */
enum cog_status cog_store_spool_write(struct cog_store *store, const struct cog_digest *digest,
                                      const char *label, const void *data, size_t size,
                                      struct cog_error *err);
/* `name` as in the directory. COG_ABSENT: there is none. */
enum cog_status cog_store_spool_remove(struct cog_store *store, const char *name,
                                       struct cog_error *err);

/* --- tags ------------------------------------------------------------------------------------ */

/*
 * Change the version of each tag: entries captured before now are misses from here on, in every
 * process, and those that captured a version up to `above`. Durable when it returns. COG_ERR_LIMIT:
 * a tag is empty or longer than COG_TAG_LIMIT.
 */
enum cog_status cog_store_invalidate_tags(struct cog_store *store, const struct cog_tag_name *tags,
                                          size_t count, uint64_t above, struct cog_error *err);
/* Current version of a tag in microseconds since the epoch (never below the floor of the log). */
enum cog_status cog_store_tag_version(struct cog_store *store, const void *name, size_t size,
                                      uint64_t *version, struct cog_error *err);

/* --- listing --------------------------------------------------------------------------------- */

struct cog_listed {
    struct cog_digest digest;
    uint64_t disk_bytes;
    uint64_t source; /* from the row; 0 = unknown */
    uint64_t mtime_ms;
    uint64_t used_ms; /* last recorded use, Unix milliseconds; 0 = unknown (no row, no index) */
};
/*
 * Names of one shard (0..255) as the directory has them now. `source` != 0: leave out entries whose
 * row names another source. The array is the caller's (cog_free). Never blocks writers.
 */
enum cog_status cog_store_list_shard(struct cog_store *store, unsigned shard, uint64_t source,
                                     struct cog_listed **out, size_t *count, struct cog_error *err);

/* --- verifying ------------------------------------------------------------------------------- */

/*
 * Names of entries, appended to `out` as digests: those of `*shard` and of the shards behind it,
 * until there are `enough` of them. `*shard` is then where to go on; 256 = there are no more.
 * `source` as in cog_store_list_shard(). Looks at no file, so what is no entry may be among them.
 */
enum cog_status cog_store_names(struct cog_store *store, unsigned *shard, uint64_t source,
                                size_t enough, struct cog_buf *out, struct cog_error *err);

/* Which of many entries need no closer look. */
struct cog_sifted {
    size_t done;    /* the first so many names were looked at */
    size_t entries; /* those of them that are as they were written, ... */
    uint64_t bytes; /* ... and how long they are */
    uint32_t *left; /* room of the caller's, one per name: numbers of those that are left */
    size_t left_count;
};
/*
 * Read entries in their order, until `most` bytes were read, and compare everything in them with
 * its checksums, their keys with their names; the life must be told by a slot. What is left is not
 * as it was written, cannot be read, or is longer than `most`: somebody must look at it closer, and
 * once more, since it may have been replaced meanwhile. What is gone or foreign is neither. Changes
 * nothing, records no use. COG_OK, COG_ERR_NOMEM, COG_ERR_CANCELLED (`cancelled` may be NULL).
 */
enum cog_status cog_store_sift(struct cog_store *store, const struct cog_digest *names,
                               size_t count, uint64_t most, const atomic_bool *cancelled,
                               struct cog_sifted *out);
/*
 * Read an entry once more, and set it aside if it is not as it was written. COG_OK: it was, and is
 * gone. COG_ABSENT: nothing is there, nothing of ours, or what is as it was written. COG_ERR_IO,
 * COG_ERR_READ_ONLY, COG_ERR_BUSY, COG_ERR_NOMEM, COG_ERR_CANCELLED.
 */
enum cog_status cog_store_remove_damaged(struct cog_store *store, const struct cog_digest *name,
                                         const atomic_bool *cancelled, struct cog_error *err);

/* --- care ------------------------------------------------------------------------------------ */

/* One round of the sweep over all shards if the job is to be had (else COG_ERR_BUSY): outsiders'
 * files, expired and tag-invalidated entries, dead writers, old temp files. `*removed` = entries
 * reclaimed. `force`: rebuild every shard. */
enum cog_status cog_store_sweep(struct cog_store *store, bool force, uint64_t *removed,
                                struct cog_error *err);

/* The store is about to be closed: sweeps under way end soon, later ones do nothing. Any thread. */
void cog_store_end_sweeps(struct cog_store *store);

struct cog_store_stats {
    /* counters of this process since open */
    uint64_t hits, misses[COG_MISS_COUNT], inline_hits, would_block;
    uint64_t puts, put_bytes, read_bytes, deletes, touches, refreshes;
    uint64_t refused_full, refused_too_large, refused_busy, refused_read_only, io_errors;
    uint64_t evicted_policy, evicted_expired, quarantined, rebuilds, reopens, swept, reaped;
    /* the root now, all processes */
    uint64_t fixed_bytes; /* of used_bytes, what is set aside once and for all */
    uint64_t used_bytes, held_bytes, limit_bytes, entries, quarantine_files, free_bytes;
    bool table_less, read_only, hard_limit, mapped;
};
void cog_store_get_stats(struct cog_store *store, struct cog_store_stats *out);

/* Absolute path of the root (base_path/v1) as opened. */
const char *cog_store_root(const struct cog_store *store);

#endif
