/* Which of many entries are as they were written: see store.h. */
#define _POSIX_C_SOURCE 200809L /* S_ISREG and friends */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/store_internal.h"

enum {
    /* up to here a file is read with one call, into memory that stays warm ... */
    WHOLE = 256 << 10,
    WINDOW = 1 << 20 /* ... and above it piece by piece */
};

/* --- names --------------------------------------------------------------------------------- */

struct naming {
    struct cog_store *store;
    unsigned shard;
    uint64_t source;
    struct cog_buf *out;
    enum cog_status status;
};

static bool take_name(void *context, const char *name)
{
    struct naming *naming = context;
    struct cog_digest digest;
    struct cog_row row;
    if (!cog_object_name_parse(naming->shard, name, &digest)) {
        return true;
    }
    if (naming->source != 0 && naming->store->index != NULL &&
        cog_index_peek(naming->store->index, &digest, &row, NULL) == COG_OK && row.source != 0 &&
        row.source != naming->source) {
        return true;
    }
    naming->status = cog_buf_append(naming->out, digest.bytes, sizeof digest.bytes);
    return naming->status == COG_OK;
}

enum cog_status cog_store_names(struct cog_store *store, unsigned *shard, uint64_t source,
                                size_t enough, struct cog_buf *out, struct cog_error *err)
{
    struct naming naming = {.store = store, .source = source, .out = out};
    while (*shard < COG_SHARDS && out->size / COG_DIGEST_SIZE < enough) {
        char path[COG_OBJECT_PATH_SIZE];
        naming.shard = *shard;
        cog_shard_path(*shard, path);
        int rc = store->fs->list(store->root, path, take_name, &naming);
        if (naming.status != COG_OK) {
            return naming.status;
        }
        if (rc < 0 && rc != -ENOENT) {
            return cog_fail(err, COG_ERR_IO, -rc, "listing %s", path);
        }
        (*shard)++;
    }
    return COG_OK;
}

/* --- one file ------------------------------------------------------------------------------ */

struct reading {
    struct cog_store *store;
    const atomic_bool *cancelled; /* or NULL */
    int fd;
    struct cog_stat stat;
};

static bool is_cancelled(const struct reading *reading)
{
    return reading->cancelled != NULL && atomic_load(reading->cancelled);
}

static enum cog_status read_file(void *context, uint64_t offset, void *out, size_t size,
                                 struct cog_error *err)
{
    const struct reading *reading = context;
    if (is_cancelled(reading)) {
        return COG_ERR_CANCELLED;
    }
    int rc = cog_fs_read_all(reading->store->fs, reading->fd, out, size, offset);
    if (rc == -ENODATA) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "the file ends before its length");
    }
    return rc < 0 ? cog_fail(err, COG_ERR_IO, -rc, "reading an object") : COG_OK;
}

/*
 * COG_OK and an open file; COG_ABSENT: there is none that is an entry's; COG_ERR_IO. A stranger's
 * file is foreign whether or not the system lets us open it.
 */
static enum cog_status open_file(struct reading *reading, const struct cog_digest *name,
                                 struct cog_error *err)
{
    struct cog_store *store = reading->store;
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(name, path);
    int fd = store->fs->open(store->root, path, O_RDONLY | O_NONBLOCK, 0);
    int rc = fd < 0 ? store->fs->stat_at(store->root, path, &reading->stat)
                    : store->fs->stat(fd, &reading->stat);
    bool is_ours = rc == 0 && S_ISREG(reading->stat.mode) &&
                   cog_store_trusts(store, &reading->stat) && reading->stat.size <= SIZE_MAX / 2;
    reading->fd = fd;
    if (fd >= 0 && is_ours) {
        return COG_OK;
    }
    if (fd >= 0) {
        store->fs->close(fd);
    }
    if (rc < 0 && rc != -ENOENT) {
        return cog_fail(err, COG_ERR_IO, -rc, "looking at an object");
    }
    return rc == 0 && is_ours ? cog_fail(err, COG_ERR_IO, -fd, "opening an object") : COG_ABSENT;
}

/* An entry that nobody can ever hit is as little as it was written as one with other bytes. */
static enum cog_status judge_entry(const struct cog_entry *entry, const struct cog_digest *name,
                                   const struct cog_source *source, struct cog_error *err)
{
    struct cog_freshness fresh;
    struct cog_digest digest;
    struct cog_meta meta;
    size_t size;
    const unsigned char *bytes = cog_entry_key(entry, &size);
    cog_hash128(bytes, size, &digest);
    if (memcmp(digest.bytes, name->bytes, sizeof digest.bytes) != 0) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "under the name of another key");
    }
    bytes = cog_entry_meta(entry, &size);
    if (cog_meta_parse(bytes, size, &meta) != COG_OK) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "metadata that breaks a rule");
    }
    if (cog_entry_freshness(entry, &fresh, NULL) != COG_OK) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "no freshness slot is valid");
    }
    return cog_entry_verify(entry, source, err);
}

/*
 * Everything that an open file says, compared with its checksums. `scratch`: WHOLE bytes. COG_OK,
 * COG_ERR_DAMAGED, COG_ERR_FOREIGN (of a newer version), COG_ERR_IO, COG_ERR_NOMEM,
 * COG_ERR_CANCELLED.
 */
static enum cog_status judge_file(struct reading *reading, const struct cog_digest *name,
                                  unsigned char *scratch, struct cog_error *err)
{
    uint64_t size = reading->stat.size;
    struct cog_source source = {
        .context = reading, .size = size, .read = read_file, .window = WINDOW};
    struct cog_entry *entry;
    enum cog_status status = COG_OK;
    size_t cold_read = COG_TAIL_PROBE;
    if (size <= WHOLE) {
        status = read_file(reading, 0, scratch, (size_t)size, err);
        source = cog_memory_source(scratch, size);
        cold_read = WHOLE;
    }
    if (status == COG_OK) {
        status = cog_entry_open(&source, NULL, 0, cold_read, &entry, err);
    }
    if (status == COG_OK) {
        status = judge_entry(entry, name, &source, err);
        cog_entry_free(entry);
    }
    return status;
}

/* --- many files ---------------------------------------------------------------------------- */

static enum cog_status sift_one(struct reading *reading, const struct cog_digest *name,
                                uint64_t longest, unsigned char *scratch)
{
    struct cog_error own = {0}; /* what is wrong is found out by the closer look */
    enum cog_status status = open_file(reading, name, &own);
    if (status == COG_OK) {
        status = reading->stat.size > longest ? COG_ERR_TOO_LARGE
                                              : judge_file(reading, name, scratch, &own);
        reading->store->fs->close(reading->fd);
    }
    return status;
}

enum cog_status cog_store_sift(struct cog_store *store, const struct cog_digest *names,
                               size_t count, uint64_t most, const atomic_bool *cancelled,
                               struct cog_sifted *out)
{
    struct reading reading = {.store = store, .cancelled = cancelled};
    unsigned char *scratch = cog_alloc(WHOLE);
    enum cog_status status = scratch != NULL ? COG_OK : COG_ERR_NOMEM;
    out->done = out->entries = out->left_count = 0;
    out->bytes = 0;
    while (status == COG_OK && out->done < count && out->bytes < most) {
        if (is_cancelled(&reading)) {
            status = COG_ERR_CANCELLED;
            break;
        }
        status = sift_one(&reading, &names[out->done], most, scratch);
        if (status == COG_OK) {
            out->entries++;
            out->bytes += reading.stat.size;
        } else if (status != COG_ERR_NOMEM && status != COG_ERR_CANCELLED) {
            if (status == COG_ERR_DAMAGED || status == COG_ERR_IO || status == COG_ERR_TOO_LARGE) {
                out->left[out->left_count++] = (uint32_t)out->done;
            }
            status = COG_OK;
        }
        out->done += status == COG_OK;
    }
    cog_free(scratch);
    return status;
}

enum cog_status cog_store_remove_damaged(struct cog_store *store, const struct cog_digest *name,
                                         const atomic_bool *cancelled, struct cog_error *err)
{
    struct reading reading = {.store = store, .cancelled = cancelled};
    unsigned char *scratch = cog_alloc(WHOLE);
    enum cog_status status = scratch != NULL ? open_file(&reading, name, err) : COG_ERR_NOMEM;
    if (status == COG_OK) {
        status = judge_file(&reading, name, scratch, err);
        if (status == COG_ERR_DAMAGED) {
            status = cog_store_remove_open(store, name, reading.fd, COG_REMOVE_QUARANTINE, err);
        } else if (status == COG_OK || status == COG_ERR_FOREIGN) {
            status = COG_ABSENT;
        }
        store->fs->close(reading.fd);
    }
    cog_free(scratch);
    return status;
}
