/*
 * What the files of the store share: its state, and the steps that several operations need. Not for
 * callers.
 *
 *     store.c        open, close, options, the root and who is trusted in it
 *     store_read.c   get, objects, verified-once table, damage and quarantine
 *     store_write.c  put, overwrite, durability, what to do when the disk is full
 *     store_incoming.c  a container that arrives in pieces
 *     store_spool.c  files that outlive the entries they came from
 *     store_remove.c delete and refresh of one generation
 *     store_loose.c  table-less mode: network file systems, soft limit
 *     store_verify.c which of many entries are as they were written
 *     store_care.c   list, sweep, tags, stats
 *
 * Locks: the store itself has none. The index has one per shard (index.h), the table of tags one of
 * its own; nothing here holds two. Counters and the caches below are atomics, so a fork in another
 * thread leaves nothing locked behind.
 */
#ifndef COG_STORE_INTERNAL_H
#define COG_STORE_INTERNAL_H

#include <stdatomic.h>

#include "core/fs.h"
#include "core/index.h"
#include "core/store.h"
#include "core/tags.h"

enum {
    COG_SMALL_OBJECT = 256 << 10, /* up to here an object is read into memory, above it is mapped */
    /* What is nothing but a document is read up to here: it is decoded at once, and reading 1.4 MB
     * into memory at hand takes half as long as the page faults of a map. Room for a document of 2
     * MiB, from where on "auto" compresses them. */
    COG_MEDIUM_DOCUMENT = (2 << 20) + (128 << 10),
    COG_TAIL_PROBE = 16 << 10, /* of a large object: what is read to parse it and to see whether it
                                  is in memory */
    COG_QUARANTINE_FILES = 16,
    COG_LONGEST_TEMP = 160,     /* bytes of a path below tmp/, terminator included */
    COG_LARGE_UNLINK = 64 << 20 /* freed outside the shard's lock from here up */
};
#define COG_LEAST_LIMIT UINT64_C(17000000)

/* --- caches of one store --------------------------------------------------------------------- */

/*
 * Which parts of which writes have been verified in this process: fingerprints of (device, inode,
 * length, token, part). Bounded; forgetting one costs a second verification. A fingerprint is 64
 * bits that include the random token, so a false "verified" is as unlikely as a false checksum.
 */
enum { COG_VERIFIED_SETS = 2048, COG_VERIFIED_WAYS = 8 };
#define COG_ALL_PARTS UINT32_MAX
struct cog_verified {
    _Atomic uint64_t prints[COG_VERIFIED_SETS][COG_VERIFIED_WAYS];
};

/* Blocks for objects read into memory, kept for the next ones: fresh pages cost more than reading
 * them. */
enum { COG_RECYCLED_CLASSES = 3, COG_RECYCLED_BLOCKS = 4 };
struct cog_recycler {
    _Atomic(unsigned char *) blocks[COG_RECYCLED_CLASSES][COG_RECYCLED_BLOCKS];
};

struct cog_counters { /* as in struct cog_store_stats */
    _Atomic uint64_t hits, misses[COG_MISS_COUNT], inline_hits, would_block;
    _Atomic uint64_t puts, put_bytes, read_bytes, deletes, touches, refreshes;
    _Atomic uint64_t refused_full, refused_too_large, refused_busy, refused_read_only, io_errors;
    _Atomic uint64_t evicted_policy, evicted_expired, quarantined, swept;
};

/* Sizes as far as this process knows them, in table-less mode; see store_loose.c. */
struct cog_loose {
    _Atomic uint64_t charge[COG_SHARDS]; /* COG_LOOSE_UNKNOWN until listed */
    _Atomic uint32_t puts;
    _Atomic uint32_t cursor;
};
#define COG_LOOSE_UNKNOWN UINT64_MAX

/* --- the store ------------------------------------------------------------------------------- */

struct cog_store {
    const struct cog_fs *fs;
    struct cog_store_options options;
    _Atomic uint32_t references; /* the handle and every object */
    struct cog_store *next;      /* all open stores of the process, for fork */

    char *base_path;
    char *root_path;
    int root; /* v1/ */
    uint32_t root_uid, root_gid, uid;
    uint32_t block_size;
    bool table_less;
    bool maps;      /* objects may be mapped */
    bool in_memory; /* tmpfs: no read waits for a disk, though it cannot say so itself */
    bool writable;  /* opened for writing; constant */
    /* the last write was refused by the system; a put that succeeds clears it */
    _Atomic bool read_only;
    _Atomic bool sweeps_end; /* the store is about to be closed */
    _Atomic uint64_t limit; /* of v1/: options.max_bytes less what other layouts occupy; 0 = none */
    uint64_t fixed_bytes;
    uint64_t quarantine_bytes;
    _Atomic int64_t clock_offset_ms;
    _Atomic uint64_t tags_swept;  /* newest tag version for which every entry has been looked at */
    _Atomic uint64_t measured_ns; /* when other layouts were measured last */

    struct cog_index *index; /* NULL: table-less, or read-only without one */
    struct cog_tags *tags;
    struct cog_counters counters;
    struct cog_loose loose;
    struct cog_recycler recycler;
    struct cog_verified verified;
};

void cog_store_ref(struct cog_store *store);
void cog_store_unref(struct cog_store *store);

static inline void cog_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Is a file of this owner ours to read: own uid, root, owner of the root directory, its group in a
 * shared root? */
bool cog_store_trusts(const struct cog_store *store, const struct cog_stat *stat);
/* Mode of files and directories made here. */
unsigned cog_store_file_mode(const struct cog_store *store);
unsigned cog_store_dir_mode(const struct cog_store *store);
/* Make a directory below the root (its mode whatever the umask). 0 also when it is there; -ENOTDIR
 * when that is no directory. */
int cog_store_make_dir(struct cog_store *store, const char *path);
/*
 * Directories of the root, or the root itself, were removed under us (somebody cleared the cache by
 * hand): make them again. False: that is not to be had.
 */
bool cog_store_mend_root(struct cog_store *store);
/* What other layouts beside the root occupy may have changed: once an hour, adjust the limit. */
void cog_store_adjust_limit(struct cog_store *store);
/* Bytes on disk. */
uint64_t cog_store_charge(const struct cog_store *store, const struct cog_stat *stat);
/* Answer for an errno of a write: FULL, BUSY, READ_ONLY or IO; counts it. */
enum cog_status cog_store_write_error(struct cog_store *store, int error, const char *what,
                                      struct cog_error *err);

/* --- reading (store_read.c) ------------------------------------------------------------------ */

struct cog_object {
    struct cog_store *store;
    struct cog_digest digest;
    struct cog_entry *entry;
    struct cog_kept *kept;         /* what `entry` borrows from, or is; or NULL */
    struct cog_source source;      /* context = this object */
    unsigned char *image;          /* the whole container, or NULL: read from `fd` */
    struct cog_document *document; /* kept from an earlier read of this write; there is no image */
    size_t capacity;               /* of an image in memory */
    int fd;                        /* -1 unless the object is read on demand */
    bool mapped;
    bool verified;                    /* every part, in this very image */
    _Atomic unsigned char *part_seen; /* one per part: verified in this image; NULL where the table
                                         of the store serves */
    struct cog_stat stat;
    struct cog_freshness fresh;
    enum cog_miss miss;
};

/* Freshness slots and token of an open file, without the entry: COG_ABSENT when no slot is valid,
 * COG_ERR_DAMAGED. */
enum cog_status cog_store_read_slots(const struct cog_store *store, int fd, uint64_t size,
                                     uint64_t *token, struct cog_freshness *fresh, unsigned *which);
uint32_t cog_store_seconds(
    uint64_t expires_ms); /* as a row keeps it: rounded up, 0 = never or beyond 2106 */

/* --- writing (store_write.c) ----------------------------------------------------------------- */

/*
 * One put under way: a temp file and what is reserved for it. In table-less mode nothing is
 * reserved. A child that was forked meanwhile has a copy, and owns nothing of it.
 */
struct cog_put {
    struct cog_store *store;
    struct cog_digest digest;
    struct cog_reservation reservation;
    uint64_t reserved;
    uint32_t process;
    int fd;
    char temp[COG_LONGEST_TEMP];
};

void cog_put_init(struct cog_put *put, struct cog_store *store, const void *key, size_t key_size);
/* Leave nothing behind: on every way out, after success too. */
void cog_put_drop(struct cog_put *put);
/* So many bytes more; before one of them is written. */
enum cog_status cog_put_reserve(struct cog_put *put, uint64_t bytes, struct cog_error *err);
enum cog_status cog_put_create(struct cog_put *put, struct cog_error *err);
/* Have the file system find the blocks now, where it can. */
enum cog_status cog_put_allocate(struct cog_put *put, uint64_t offset, uint64_t size,
                                 struct cog_error *err);
/* [P4-P15] The temp file is complete: check its charge, sync, publish. COG_INDEX_MOVED. */
enum cog_status cog_put_publish(struct cog_put *put, const struct cog_put_info *info,
                                struct cog_error *err);

/* [P1] The share that one object may take. */
enum cog_status cog_put_check_size(struct cog_store *store, uint64_t size, struct cog_error *err);
uint64_t cog_put_round(const struct cog_store *store, uint64_t size); /* up to a block */
/* The file system itself is full: evict at least `bytes`. Whether anything went. */
bool cog_put_make_room(struct cog_store *store, uint64_t bytes);
void cog_put_count(struct cog_store *store, enum cog_status status); /* what became of a put */
enum cog_status cog_put_refuse_read_only(struct cog_store *store, struct cog_error *err);

/* --- removing (store_remove.c) --------------------------------------------------------------- */

enum cog_remove { COG_REMOVE_UNLINK, COG_REMOVE_QUARANTINE };
/*
 * Take the name away if it still holds the generation that `fd` has open (the open descriptor pins
 * the inode number). COG_ABSENT: another generation or none. COG_ERR_BUSY, COG_ERR_READ_ONLY,
 * COG_ERR_IO.
 */
enum cog_status cog_store_remove_open(struct cog_store *store, const struct cog_digest *digest,
                                      int fd, enum cog_remove how, struct cog_error *err);

/*
 * The file behind the name, if it is still the write that `object` holds: COG_OK and a descriptor
 * of the caller's; COG_ABSENT: another write, or none.
 */
enum cog_status cog_store_reopen(struct cog_store *store, const struct cog_object *object,
                                 int flags, int *out, struct cog_error *err);

/* --- table-less mode (store_loose.c) --------------------------------------------------------- */

void cog_loose_init(struct cog_store *store);
void cog_loose_temp_path(struct cog_store *store, const char *kind, char out[COG_LONGEST_TEMP]);
/* Put `temp` under its name. */
enum cog_status cog_loose_publish(struct cog_store *store, const struct cog_digest *digest,
                                  const char *temp, uint64_t charge, struct cog_error *err);
enum cog_status cog_loose_remove(struct cog_store *store, const struct cog_digest *digest,
                                 uint64_t inode, enum cog_remove how, struct cog_error *err);
/* Free at least `bytes`, oldest of a few shards first; for a full disk. Returns whether anything
 * went. */
bool cog_loose_make_room(struct cog_store *store, uint64_t bytes);
/* Temp files of writers that are gone: older than an hour by the clock of the file system.
 * 0 or -errno: it writes a file of its own, so it also tells whether the root can be written. */
int cog_loose_clean_temp(struct cog_store *store);
/* Bytes on disk as far as known; `*unknown` shards have never been listed. */
uint64_t cog_loose_used(struct cog_store *store, unsigned *unknown);

/* Move or unlink objects/.. into quarantine/: 0 or -errno. Exact in bytes without a lock: see
 * store_remove.c. */
int cog_store_set_aside(struct cog_store *store, const char *path, uint64_t charge);

/* --- tags (store_care.c) --------------------------------------------------------------------- */

/* Are all tags of this metadata current? COG_OK, COG_ABSENT (invalidated), COG_ERR_WOULD_BLOCK,
 * COG_ERR_DAMAGED. */
enum cog_status cog_store_check_tags(struct cog_store *store, const struct cog_entry *entry,
                                     bool may_read, struct cog_error *err);
/* Hooks of the index: see index.h. */
bool cog_store_is_expired(void *context, const char *path, const struct cog_stat *stat,
                          uint32_t *expires);

#endif
