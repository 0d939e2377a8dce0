/*
 * Table-less mode: for network file systems, and where locks do not work. No index, no lock: a put
 * is a rename, last use is the file's mtime (written when older than an hour), the limit is soft.
 *
 * How full it is, is known shard by shard: each process keeps what it saw when it last listed a
 * shard, plus its own puts since. Every 16th put lists a few more. Nothing is removed on a guess:
 * shards never listed count as empty. Over the limit, the oldest of 24 shards in turn go, until
 * 99 % of the limit are left.
 */
#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/store_internal.h"

enum {
    LIST_EVERY = 16,    /* puts between two looks at the directory */
    SHARDS_A_LOOK = 24, /* listed by one look, where shards are unknown or the limit is passed */
    TEMP_AGE_MS = 3600 * 1000
};

void cog_loose_init(struct cog_store *store)
{
    struct cog_loose *loose = &store->loose;
    for (unsigned i = 0; i < COG_SHARDS; i++) {
        atomic_store(&loose->charge[i], COG_LOOSE_UNKNOWN);
    }
    uint32_t start = 0;
    (void)store->fs->random(&start, sizeof start);
    atomic_store(&loose->cursor, start);
}

void cog_loose_temp_path(struct cog_store *store, const char *kind, char out[COG_LONGEST_TEMP])
{
    /* Names of two hosts on one export must differ: 96 random bits see to that, boots and pid
     * namespaces included; the pid is for people. */
    uint32_t chance[3] = {0};
    (void)store->fs->random(chance, sizeof chance);
    (void)snprintf(out, COG_LONGEST_TEMP, "tmp/%s-%u-%08x%08x%08x", kind, store->fs->process_id(),
                   chance[0], chance[1], chance[2]);
}

/* --- listing ------------------------------------------------------------------------------- */

struct resident {
    char path[COG_OBJECT_PATH_SIZE];
    struct cog_digest digest;
    unsigned shard;
    uint64_t inode, charge;
    int64_t mtime_ns;
};

struct listing {
    struct cog_store *store;
    unsigned shard;
    struct resident *residents;
    size_t count, capacity;
    uint64_t charge; /* of the shard being listed, everything in it */
    bool failed;
};

static bool note_resident(void *context, const char *name)
{
    struct listing *listing = context;
    char path[COG_LONGEST_TEMP], shard[COG_OBJECT_PATH_SIZE];
    struct cog_stat stat;
    cog_shard_path(listing->shard, shard);
    int size = snprintf(path, sizeof path, "%s/%s", shard, name);
    if (size < 0 || (size_t)size >= sizeof path ||
        listing->store->fs->stat_at(listing->store->root, path, &stat) < 0) {
        return true;
    }
    uint64_t charge = cog_store_charge(listing->store, &stat);
    listing->charge += charge;
    struct cog_digest digest;
    if (!cog_object_name_parse(listing->shard, name, &digest) || !S_ISREG(stat.mode) ||
        !cog_store_trusts(listing->store, &stat)) {
        return true; /* a stranger's: charged, never touched */
    }
    if (listing->count == listing->capacity) {
        size_t room = listing->capacity == 0 ? 64 : 2 * listing->capacity;
        struct resident *more = cog_realloc(listing->residents, room * sizeof *more);
        if (more == NULL) {
            listing->failed = true;
            return false;
        }
        listing->residents = more;
        listing->capacity = room;
    }
    struct resident *resident = &listing->residents[listing->count++];
    cog_object_path(&digest, resident->path);
    resident->digest = digest;
    resident->shard = listing->shard;
    resident->inode = stat.inode;
    resident->charge = charge;
    resident->mtime_ns = stat.mtime_ns;
    return true;
}

static int older(const void *a, const void *b)
{
    const struct resident *x = a, *y = b;
    return (x->mtime_ns > y->mtime_ns) - (x->mtime_ns < y->mtime_ns);
}

/* Add a shard to the listing. */
static bool list_shard(struct listing *listing, unsigned shard)
{
    struct cog_store *store = listing->store;
    char path[COG_OBJECT_PATH_SIZE];
    listing->shard = shard;
    listing->charge = 0;
    cog_shard_path(shard, path);
    int rc = store->fs->list(store->root, path, note_resident, listing);
    if ((rc < 0 && rc != -ENOENT) || listing->failed) {
        return false;
    }
    atomic_store(&store->loose.charge[shard], listing->charge);
    return true;
}

uint64_t cog_loose_used(struct cog_store *store, unsigned *unknown)
{
    uint64_t sum = store->fixed_bytes;
    *unknown = 0;
    for (unsigned i = 0; i < COG_SHARDS; i++) {
        uint64_t charge = atomic_load_explicit(&store->loose.charge[i], memory_order_relaxed);
        if (charge == COG_LOOSE_UNKNOWN) {
            ++*unknown;
        } else {
            sum += charge;
        }
    }
    return sum;
}

static void adjust(struct cog_store *store, unsigned shard, uint64_t plus, uint64_t minus)
{
    _Atomic uint64_t *charge = &store->loose.charge[shard];
    uint64_t old = atomic_load(charge);
    uint64_t next;
    do {
        if (old == COG_LOOSE_UNKNOWN) {
            return;
        }
        next = old + plus > minus ? old + plus - minus : 0;
    } while (!atomic_compare_exchange_weak(charge, &old, next));
}

/* --- removing ------------------------------------------------------------------------------ */

/*
 * Without a lock, the generation can only be looked at once the name is gone: take it to tmp/,
 * compare, and put it back if it was a newer one (unless a yet newer one took the name).
 */
static int remove_path(struct cog_store *store, const char *path, uint64_t inode,
                       enum cog_remove how)
{
    char trash[COG_LONGEST_TEMP];
    struct cog_stat stat;
    cog_loose_temp_path(store, "trash", trash);
    int rc = store->fs->rename(store->root, path, store->root, trash);
    if (rc < 0) {
        return rc;
    }
    rc = store->fs->stat_at(store->root, trash, &stat);
    if (rc < 0 || stat.inode != inode) {
        int back = store->fs->rename_new(store->root, trash, store->root, path);
        if (back != 0) {
            (void)store->fs->unlink(store->root, trash);
        }
        if (rc < 0) {
            return back < 0 ? 0 : rc;
        }
        return -ESTALE;
    }
    /* The name is gone, so the entry is; a file that stays in tmp/ is cleaned up by its age. */
    if (how == COG_REMOVE_QUARANTINE) {
        (void)cog_store_set_aside(store, trash, cog_store_charge(store, &stat));
    } else {
        (void)store->fs->unlink(store->root, trash);
    }
    return 0;
}

enum cog_status cog_loose_remove(struct cog_store *store, const struct cog_digest *digest,
                                 uint64_t inode, enum cog_remove how, struct cog_error *err)
{
    char path[COG_OBJECT_PATH_SIZE];
    struct cog_stat stat;
    cog_object_path(digest, path);
    int rc = store->fs->stat_at(store->root, path, &stat);
    if (rc == 0 && stat.inode == inode) {
        rc = remove_path(store, path, inode, how);
        if (rc == 0) {
            adjust(store, digest->bytes[0], 0, cog_store_charge(store, &stat));
            return COG_OK;
        }
    } else if (rc == 0) {
        rc = -ESTALE;
    }
    if (rc == -ENOENT || rc == -ESTALE) {
        return COG_ABSENT;
    }
    return cog_store_write_error(store, -rc, "removing a file", err);
}

/* Unlink from the oldest of the listing on, until `bytes` are free. */
static uint64_t thin_out(struct listing *listing, uint64_t bytes)
{
    struct cog_store *store = listing->store;
    uint64_t freed = 0;
    if (listing->count > 1) {
        qsort(listing->residents, listing->count, sizeof *listing->residents, older);
    }
    for (size_t i = 0; i < listing->count && freed < bytes; i++) {
        const struct resident *resident = &listing->residents[i];
        if (cog_object_is_pinned(store->fs, store->root, &resident->digest)) {
            continue;
        }
        if (remove_path(store, resident->path, resident->inode, COG_REMOVE_UNLINK) == 0) {
            freed += resident->charge;
            adjust(store, resident->shard, 0, resident->charge);
            cog_count(&store->counters.evicted_policy, 1);
        }
    }
    return freed;
}

/* --- the soft limit ------------------------------------------------------------------------ */

static unsigned next_shard(struct cog_store *store)
{
    return atomic_fetch_add(&store->loose.cursor, 1) % COG_SHARDS;
}

static void list_more(struct listing *listing, unsigned shards)
{
    for (unsigned i = 0; i < shards && !listing->failed; i++) {
        (void)list_shard(listing, next_shard(listing->store));
    }
}

static void keep_limit(struct cog_store *store)
{
    unsigned unknown;
    uint64_t used = cog_loose_used(store, &unknown);
    struct listing listing = {.store = store};
    list_more(&listing, unknown != 0 || used > store->limit ? SHARDS_A_LOOK : 1);
    used = cog_loose_used(store, &unknown);
    if (used > store->limit) {
        (void)thin_out(&listing, used - (store->limit - store->limit / 100));
    }
    cog_free(listing.residents);
}

bool cog_loose_make_room(struct cog_store *store, uint64_t bytes)
{
    uint64_t freed = 0;
    for (unsigned i = 0; i < COG_SHARDS && freed < bytes; i += SHARDS_A_LOOK) {
        struct listing listing = {.store = store};
        list_more(&listing, SHARDS_A_LOOK);
        freed += thin_out(&listing, bytes - freed);
        cog_free(listing.residents);
    }
    return freed > 0;
}

enum cog_status cog_loose_publish(struct cog_store *store, const struct cog_digest *digest,
                                  const char *temp, uint64_t charge, struct cog_error *err)
{
    char path[COG_OBJECT_PATH_SIZE];
    struct cog_stat stat;
    cog_object_path(digest, path);
    uint64_t replaced = store->fs->stat_at(store->root, path, &stat) == 0 && S_ISREG(stat.mode)
                            ? cog_store_charge(store, &stat)
                            : 0;
    int rc = store->fs->rename(store->root, temp, store->root, path);
    if (rc == -ENOENT) {
        char shard[COG_OBJECT_PATH_SIZE];
        cog_shard_path(digest->bytes[0], shard);
        (void)cog_store_make_dir(store, "objects");
        rc = cog_store_make_dir(store, shard);
        if (rc == 0) {
            rc = store->fs->rename(store->root, temp, store->root, path);
        }
    }
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "publishing a file", err);
    }
    adjust(store, digest->bytes[0], charge, replaced);
    unsigned unknown;
    uint32_t puts = atomic_fetch_add(&store->loose.puts, 1);
    if (store->limit != 0 &&
        (puts % LIST_EVERY == 0 || cog_loose_used(store, &unknown) > store->limit)) {
        keep_limit(store);
    }
    return COG_OK;
}

/* --- temp files ---------------------------------------------------------------------------- */

struct cleaning {
    struct cog_store *store;
    int64_t now_ns; /* by the clock of the file system */
};

static bool clean_one(void *context, const char *name)
{
    struct cleaning *cleaning = context;
    const struct cog_fs *fs = cleaning->store->fs;
    char path[COG_LONGEST_TEMP];
    struct cog_stat stat;
    int size = snprintf(path, sizeof path, "tmp/%s", name);
    if (size > 0 && (size_t)size < sizeof path &&
        fs->stat_at(cleaning->store->root, path, &stat) == 0 && S_ISREG(stat.mode) &&
        cleaning->now_ns - stat.ctime_ns > TEMP_AGE_MS * INT64_C(1000000)) {
        (void)fs->unlink(cleaning->store->root, path);
    }
    return true;
}

int cog_loose_clean_temp(struct cog_store *store)
{
    char temp[COG_LONGEST_TEMP];
    struct cog_stat stat;
    cog_loose_temp_path(store, "now", temp);
    int fd = store->fs->open(store->root, temp, O_WRONLY | O_CREAT | O_EXCL,
                             cog_store_file_mode(store));
    if (fd < 0) {
        return fd;
    }
    int rc = store->fs->stat(fd, &stat);
    store->fs->close(fd);
    (void)store->fs->unlink(store->root, temp);
    if (rc == 0) {
        struct cleaning cleaning = {store, stat.ctime_ns};
        (void)store->fs->list(store->root, "tmp", clean_one, &cleaning);
    }
    return rc;
}
