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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    COG_GET_ANY_AGE = 8
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
/* with COG_GET_ANY_AGE: why it would have been a miss */
/* Which write of which file it is. */
struct cog_write_id cog_object_write_id(const struct cog_object *object);
enum cog_miss cog_object_miss(const struct cog_object *object);
uint64_t cog_object_disk_bytes(const struct cog_object *object);
/*
 * Have the stored chunks of `part` been verified, by this call or by an earlier one of this process
 * for the same write (device, inode, length, token)? Verifies what is not: COG_OK or
 * COG_ERR_DAMAGED. `cog_object_is_verified` only asks.
 */
enum cog_status cog_object_verify_part(struct cog_object *object, uint32_t part,
                                       struct cog_error *err);
bool cog_object_is_verified(const struct cog_object *object, uint32_t part);
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

/* Put of unknown length: reserve in steps, write through the sink, then commit (publishes) or
 * abort. */
struct cog_put_stream;
enum cog_status cog_store_stream_begin(struct cog_store *store, const void *key, size_t key_size,
                                       struct cog_put_stream **out, struct cog_error *err);
struct cog_sink cog_store_stream_sink(struct cog_put_stream *stream);
enum cog_status cog_store_stream_commit(struct cog_put_stream *stream,
                                        const struct cog_put_info *info,
                                        struct cog_error *err); /* frees the stream in every case */
void cog_store_stream_abort(struct cog_put_stream *stream);     /* frees; accepts NULL */

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

/* --- tags ------------------------------------------------------------------------------------ */

/*
 * Change the version of each tag: entries captured before now are misses from here on, in every
 * process. Durable when it returns. COG_ERR_LIMIT: a tag is empty or longer than COG_TAG_LIMIT.
 */
enum cog_status cog_store_invalidate_tags(struct cog_store *store, const struct cog_tag_name *tags,
                                          size_t count, struct cog_error *err);
/* Current version of a tag in microseconds since the epoch (never below the floor of the log). */
enum cog_status cog_store_tag_version(struct cog_store *store, const void *name, size_t size,
                                      uint64_t *version, struct cog_error *err);

/* --- listing and care ------------------------------------------------------------------------ */

struct cog_listed {
    struct cog_digest digest;
    uint64_t disk_bytes;
    uint64_t source; /* from the row; 0 = unknown */
    uint64_t mtime_ms;
};
/*
 * Names of one shard (0..255) as the directory has them now. `source` != 0: leave out entries whose
 * row names another source. The array is the caller's (cog_free). Never blocks writers.
 */
enum cog_status cog_store_list_shard(struct cog_store *store, unsigned shard, uint64_t source,
                                     struct cog_listed **out, size_t *count, struct cog_error *err);

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
