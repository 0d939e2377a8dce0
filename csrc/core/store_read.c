#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/kept.h"
#include "core/store_internal.h"

/* --- verified once ------------------------------------------------------------------------- */

static uint64_t fingerprint(const struct cog_object *object, uint32_t part)
{
    unsigned char facts[36];
    cog_store_le64(facts, object->stat.device);
    cog_store_le64(facts + 8, object->stat.inode);
    cog_store_le64(facts + 16, object->stat.size);
    cog_store_le64(facts + 24, cog_entry_token(object->entry));
    cog_store_le32(facts + 32, part);
    uint64_t print = cog_hash64(facts, sizeof facts, 0);
    return print != 0 ? print : 1;
}

static bool print_is_known(struct cog_verified *verified, uint64_t print)
{
    _Atomic uint64_t *set = verified->prints[print % COG_VERIFIED_SETS];
    for (unsigned i = 0; i < COG_VERIFIED_WAYS; i++) {
        if (atomic_load_explicit(&set[i], memory_order_relaxed) == print) {
            return true;
        }
    }
    return false;
}

static void remember_print(struct cog_verified *verified, uint64_t print)
{
    _Atomic uint64_t *set = verified->prints[print % COG_VERIFIED_SETS];
    for (unsigned i = 0; i < COG_VERIFIED_WAYS; i++) {
        uint64_t there = atomic_load_explicit(&set[i], memory_order_relaxed);
        if (there == print || there == 0) {
            atomic_store_explicit(&set[i], print, memory_order_relaxed);
            return;
        }
    }
    /* Full: the newcomer's own bits choose who goes. */
    unsigned loser = (unsigned)(print >> 32) % COG_VERIFIED_WAYS;
    atomic_store_explicit(&set[loser], print, memory_order_relaxed);
}

static void forget_print(struct cog_verified *verified, uint64_t print)
{
    _Atomic uint64_t *set = verified->prints[print % COG_VERIFIED_SETS];
    for (unsigned i = 0; i < COG_VERIFIED_WAYS; i++) {
        uint64_t there = print;
        (void)atomic_compare_exchange_strong(&set[i], &there, 0);
    }
}

/* --- memory of small objects --------------------------------------------------------------- */

static const struct {
    size_t size;
    unsigned most; /* blocks kept */
} block_classes[COG_RECYCLED_CLASSES] = {{64 << 10, COG_RECYCLED_BLOCKS},
                                         {COG_SMALL_OBJECT, COG_RECYCLED_BLOCKS},
                                         {COG_MEDIUM_DOCUMENT, 1}};
enum { COG_PLAIN_BLOCK = 8 << 10 }; /* up to here the allocator is as fast */

static unsigned char *take_block(struct cog_store *store, size_t size, size_t *capacity)
{
    *capacity = size;
    if (size <= COG_PLAIN_BLOCK || size > COG_MEDIUM_DOCUMENT) {
        return cog_alloc(size);
    }
    unsigned class = 0;
    while (size > block_classes[class].size) {
        class ++;
    }
    *capacity = block_classes[class].size;
    for (unsigned i = 0; i < block_classes[class].most; i++) {
        unsigned char *block = atomic_exchange(&store->recycler.blocks[class][i], NULL);
        if (block != NULL) {
            return block;
        }
    }
    return cog_alloc(*capacity);
}

static void give_block(struct cog_store *store, unsigned char *block, size_t capacity)
{
    for (unsigned class = 0; class < COG_RECYCLED_CLASSES; class ++) {
        for (unsigned i = 0; block != NULL && capacity == block_classes[class].size &&
                             i < block_classes[class].most;
             i++) {
            unsigned char *none = NULL;
            if (atomic_compare_exchange_strong(&store->recycler.blocks[class][i], &none, block)) {
                return;
            }
        }
    }
    cog_free(block);
}

/* --- sources ------------------------------------------------------------------------------- */

static enum cog_status system_error(int rc, const char *what, struct cog_error *err)
{
    if (rc == -ENODATA) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "the file ends before its length");
    }
    return cog_fail(err, COG_ERR_IO, -rc, "%s", what);
}

static enum cog_status object_read(void *context, uint64_t offset, void *out, size_t size,
                                   struct cog_error *err)
{
    const struct cog_object *object = context;
    if (offset > object->stat.size || size > object->stat.size - offset) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "a range beyond the end of the file");
    }
    if (object->image != NULL) {
        memcpy(out, object->image + offset, size);
        return COG_OK;
    }
    int rc = cog_fs_read_all(object->store->fs, object->fd, out, size, offset);
    return rc < 0 ? system_error(rc, "reading an object", err) : COG_OK;
}

static const unsigned char *object_view(void *context, uint64_t offset, size_t size)
{
    const struct cog_object *object = context;
    if (object->image == NULL || offset > object->stat.size || size > object->stat.size - offset) {
        return NULL;
    }
    return object->image + offset;
}

/* The end of a large object, read before anything of it is mapped. */
struct tail {
    struct cog_object *object;
    uint64_t start;
    bool nowait;
    unsigned char bytes[COG_TAIL_PROBE];
};

static enum cog_status read_cached(const struct cog_object *object, void *out, size_t size,
                                   uint64_t offset, bool nowait, struct cog_error *err)
{
    const struct cog_fs *fs = object->store->fs;
    if (nowait && !object->store->in_memory) {
        int64_t n = fs->pread_cached(object->fd, out, size, offset);
        if (n < 0 && n != -EAGAIN && n != -EINTR) {
            return system_error((int)n, "reading an object", err);
        }
        return n == (int64_t)size ? COG_OK : COG_ERR_WOULD_BLOCK;
    }
    int rc = cog_fs_read_all(fs, object->fd, out, size, offset);
    return rc < 0 ? system_error(rc, "reading an object", err) : COG_OK;
}

static enum cog_status tail_read(void *context, uint64_t offset, void *out, size_t size,
                                 struct cog_error *err)
{
    const struct tail *tail = context;
    uint64_t end = tail->object->stat.size;
    if (offset > end || size > end - offset) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "a range beyond the end of the file");
    }
    if (offset >= tail->start) {
        memcpy(out, tail->bytes + (offset - tail->start), size);
        return COG_OK;
    }
    return read_cached(tail->object, out, size, offset, tail->nowait, err);
}

/* --- objects ------------------------------------------------------------------------------- */

void cog_object_free(struct cog_object *object)
{
    if (object == NULL) {
        return;
    }
    struct cog_store *store = object->store;
    if (object->kept == NULL || object->entry != cog_kept_entry(object->kept)) {
        cog_entry_free(object->entry);
    }
    cog_kept_unref(object->kept);
    cog_document_unref(object->document);
    if (object->mapped) {
        (void)store->fs->unmap(object->image, (size_t)object->stat.size);
    } else if (object->image != NULL) {
        give_block(store, object->image, object->capacity);
    }
    if (object->fd >= 0) {
        store->fs->close(object->fd);
    }
    cog_free((void *)object->part_seen);
    cog_free(object);
    cog_store_unref(store);
}

static struct cog_object *new_object(struct cog_store *store, const struct cog_digest *digest)
{
    struct cog_object *object = cog_alloc_zeroed(1, sizeof *object);
    if (object != NULL) {
        cog_store_ref(store);
        object->store = store;
        object->digest = *digest;
        object->fd = -1;
        object->source = (struct cog_source){.context = object,
                                             .read = object_read,
                                             .view = object_view};
    }
    return object;
}

const struct cog_entry *cog_object_entry(const struct cog_object *object)
{
    return object->entry;
}

const struct cog_source *cog_object_source(const struct cog_object *object)
{
    return &object->source;
}

unsigned char *cog_object_image(const struct cog_object *object, size_t *size)
{
    *size = object->image != NULL ? (size_t)object->stat.size : 0;
    return object->image;
}

bool cog_object_is_mapped(const struct cog_object *object)
{
    return object->mapped;
}

const struct cog_freshness *cog_object_freshness(const struct cog_object *object)
{
    return &object->fresh;
}

struct cog_document *cog_object_document(const struct cog_object *object)
{
    return object->document;
}

const unsigned char *cog_object_short_document(const struct cog_object *object, size_t *size)
{
    *size = 0;
    return object->kept != NULL ? cog_kept_document(object->kept, size) : NULL;
}

struct cog_write_id cog_object_write_id(const struct cog_object *object)
{
    return (struct cog_write_id){.device = object->stat.device,
                                 .inode = object->stat.inode,
                                 .length = object->stat.size,
                                 .token = cog_entry_token(object->entry)};
}

enum cog_miss cog_object_miss(const struct cog_object *object)
{
    return object->miss;
}

uint64_t cog_object_disk_bytes(const struct cog_object *object)
{
    return cog_store_charge(object->store, &object->stat);
}

bool cog_object_is_verified(const struct cog_object *object, uint32_t part)
{
    if (object->verified) {
        return true;
    }
    if (object->part_seen != NULL) {
        return part < cog_entry_part_count(object->entry) &&
               atomic_load_explicit(&object->part_seen[part], memory_order_relaxed) != 0;
    }
    struct cog_verified *verified = &object->store->verified;
    return object->mapped && (print_is_known(verified, fingerprint(object, COG_ALL_PARTS)) ||
                              print_is_known(verified, fingerprint(object, part)));
}

enum cog_status cog_object_read_now(const struct cog_object *object, uint32_t number, void *out,
                                    struct cog_error *err)
{
    struct cog_part part;
    enum cog_status status = cog_entry_part(object->entry, number, &part);
    if (status != COG_OK || !cog_part_is_plain(&part)) {
        return COG_ERR_INVALID;
    }
    if (object->image != NULL) {
        memcpy(out, object->image + part.offset, (size_t)part.raw_size);
    } else if (part.raw_size > 0) { /* a read of nothing at the end is a read of nothing */
        status = read_cached(object, out, (size_t)part.raw_size, part.offset, true, err);
    }
    return status == COG_OK ? cog_entry_check_plain(object->entry, number, out, err) : status;
}

enum cog_status cog_object_verify_part(struct cog_object *object, uint32_t part,
                                       struct cog_error *err)
{
    struct cog_part about;
    enum cog_status status = cog_entry_part(object->entry, part, &about);
    if (status != COG_OK || cog_object_is_verified(object, part)) {
        return status;
    }
    status = cog_entry_check_chunks(object->entry, &object->source, about.first_chunk,
                                    about.chunk_count, err);
    if (status != COG_OK) {
        return status;
    }
    if (object->part_seen != NULL) {
        atomic_store_explicit(&object->part_seen[part], 1, memory_order_relaxed);
    } else if (object->mapped) {
        remember_print(&object->store->verified, fingerprint(object, part));
    }
    return COG_OK;
}

void cog_object_distrust(const struct cog_object *object)
{
    struct cog_verified *verified = &object->store->verified;
    forget_print(verified, fingerprint(object, COG_ALL_PARTS));
    for (uint32_t i = 0; i < cog_entry_part_count(object->entry); i++) {
        forget_print(verified, fingerprint(object, i));
    }
}

/* Everything in the image holds: by what this process has seen before, or by looking now. */
static enum cog_status verify_all(struct cog_object *object, bool nowait, struct cog_error *err)
{
    struct cog_verified *verified = &object->store->verified;
    bool large = object->stat.size > COG_SMALL_OBJECT;
    uint64_t print = large ? fingerprint(object, COG_ALL_PARTS) : 0;
    if (object->mapped && print_is_known(verified, print)) {
        object->verified = true;
        return COG_OK;
    }
    if (object->document != NULL) {
        return COG_OK; /* verified when it was kept; what else is read is checked then */
    }
    if (large && nowait && (object->mapped || object->image == NULL)) {
        return COG_ERR_WOULD_BLOCK;
    }
    enum cog_status status = cog_entry_verify(object->entry, &object->source, err);
    if (status != COG_OK) {
        return status;
    }
    /* What is read on demand is checked at every reading. */
    object->verified = object->image != NULL;
    if (object->mapped) {
        remember_print(verified, print);
    }
    return COG_OK;
}

/* --- one attempt to read ------------------------------------------------------------------- */

struct request {
    struct cog_store *store;
    const struct cog_digest *digest;
    const void *key;
    size_t key_size;
    unsigned flags;
    enum cog_miss miss; /* of the attempt, where its status is COG_ABSENT */
    struct cog_error *err;
};

static bool nowait(const struct request *request)
{
    return (request->flags & COG_GET_NOWAIT) != 0;
}

/* What an errno of open means for a lookup; nothing is ever deleted because of it. */
static enum cog_status open_verdict(struct request *request, int rc)
{
    request->miss = COG_MISS_ABSENT;
    switch (rc) {
    case -ENOENT: return COG_ABSENT;
    case -ELOOP: /* a symbolic link */
    case -ENXIO: /* a socket */
    case -ENODEV:
    case -ENOTDIR: request->miss = COG_MISS_FOREIGN; return COG_ABSENT;
    case -EAGAIN:
        if (nowait(request)) {
            return COG_ERR_WOULD_BLOCK;
        }
        break;
    default: break;
    }
    return cog_fail(request->err, COG_ERR_IO, -rc, "opening an object");
}

static enum cog_status open_object(struct request *request, struct cog_object *object)
{
    struct cog_store *store = request->store;
    char path[COG_OBJECT_PATH_SIZE];
    cog_object_path(request->digest, path);
    int flags = O_RDONLY | O_NONBLOCK; /* a planted FIFO must not hold us */
    int fd = nowait(request) ? store->fs->open_cached(store->root, path, flags)
                             : store->fs->open(store->root, path, flags, 0);
    if (fd < 0) {
        return open_verdict(request, fd);
    }
    object->fd = fd;
    int rc = store->fs->stat(fd, &object->stat);
    if (rc < 0) {
        return cog_fail(request->err, COG_ERR_IO, -rc, "fstat of an object");
    }
    if (!S_ISREG(object->stat.mode) || !cog_store_trusts(store, &object->stat) ||
        object->stat.size > SIZE_MAX / 2) {
        request->miss = COG_MISS_FOREIGN;
        return COG_ABSENT;
    }
    object->source.size = object->stat.size;
    return COG_OK;
}

/* Small: one read brings everything. */
static enum cog_status load_small(struct request *request, struct cog_object *object)
{
    size_t size = (size_t)object->stat.size;
    object->image = take_block(request->store, size, &object->capacity);
    if (object->image == NULL) {
        return COG_ERR_NOMEM;
    }
    enum cog_status status = read_cached(object, object->image, size, 0, nowait(request),
                                         request->err);
    if (status != COG_OK) {
        return status;
    }
    return cog_entry_open(&object->source, request->key, request->key_size, size, &object->entry,
                          request->err);
}

/* Nothing but a document, and not long? */
static bool is_medium_document(const struct request *request, const struct cog_object *object)
{
    struct cog_part part;
    return (request->flags & COG_GET_INDEX_ONLY) == 0 && object->stat.size <= COG_MEDIUM_DOCUMENT &&
           cog_entry_part_count(object->entry) == 1 &&
           cog_entry_part(object->entry, 0, &part) == COG_OK && part.kind == COG_PART_DOC;
}

/* The rest of a document whose tail has been read; nothing, where an inline hit finds it kept. */
static enum cog_status load_document(struct request *request, struct cog_object *object,
                                     const struct tail *tail)
{
    size_t size = (size_t)object->stat.size;
    if (nowait(request)) {
        struct cog_write_id id = cog_object_write_id(object);
        object->document = cog_documents_find(&id);
        if (object->document != NULL) {
            return COG_OK;
        }
    }
    object->image = take_block(request->store, size, &object->capacity);
    if (object->image == NULL) {
        return COG_ERR_NOMEM;
    }
    memcpy(object->image + tail->start, tail->bytes, sizeof tail->bytes);
    return read_cached(object, object->image, (size_t)tail->start, 0, nowait(request),
                       request->err);
}

/*
 * What this process has parsed before: then only slots and footer are read. COG_ABSENT: it has not,
 * or the file is another by now, or its end is wanted for itself. Only the inline hit does so: what
 * looks for damage reads all of it.
 */
static enum cog_status open_known(struct request *request, struct cog_object *object)
{
    unsigned char tail[COG_ENTRY_TAIL_SIZE];
    bool wanted = nowait(request) && (request->flags & COG_GET_NO_TOUCH) == 0;
    struct cog_kept *kept = wanted ? cog_kept_find(&object->stat) : NULL;
    if (kept == NULL) {
        return COG_ABSENT;
    }
    enum cog_status status = read_cached(object, tail, sizeof tail, object->stat.size - sizeof tail,
                                         true, request->err);
    if (status == COG_OK) {
        status = cog_entry_reopen(cog_kept_entry(kept), tail, request->key, request->key_size,
                                  &object->entry);
    }
    if (status == COG_OK && is_medium_document(request, object)) {
        cog_entry_free(object->entry);
        object->entry = NULL;
        status = COG_ABSENT;
    }
    if (status != COG_OK) {
        cog_kept_unref(kept);
        return status;
    }
    object->kept = kept;
    return COG_OK;
}

/* The end is read, which parses the entry and tells whether it is in memory. */
static enum cog_status open_anew(struct request *request, struct cog_object *object, bool *cold)
{
    struct tail tail; /* filled as far as it is read */
    tail.object = object;
    tail.nowait = nowait(request);
    tail.start = object->stat.size - COG_TAIL_PROBE;
    enum cog_status status = read_cached(object, tail.bytes, sizeof tail.bytes, tail.start, true,
                                         request->err);
    *cold = status == COG_ERR_WOULD_BLOCK;
    if (*cold && !tail.nowait) {
        status = read_cached(object, tail.bytes, sizeof tail.bytes, tail.start, false,
                             request->err);
    }
    if (status != COG_OK) {
        return status;
    }
    struct cog_source source = {.context = &tail, .size = object->stat.size, .read = tail_read};
    status = cog_entry_open(&source, request->key, request->key_size, COG_TAIL_PROBE,
                            &object->entry, request->err);
    if (status == COG_OK && is_medium_document(request, object)) {
        return load_document(request, object, &tail);
    }
    if (status == COG_OK && tail.nowait && (request->flags & COG_GET_NO_TOUCH) == 0) {
        object->kept = cog_kept_keep(&object->stat, object->store->fs->realtime_ms(), object->entry,
                                     &source, tail.start);
    }
    return status;
}

/*
 * Large: the end is read first; then the file is mapped, privately and writable, with huge pages
 * where it has to come from the disk.
 */
static enum cog_status load_large(struct request *request, struct cog_object *object)
{
    const struct cog_fs *fs = object->store->fs;
    bool cold = false;
    enum cog_status status = open_known(request, object);
    if (status == COG_ABSENT) {
        status = open_anew(request, object, &cold);
    }
    bool has_all = object->image != NULL || object->document != NULL;
    if (status != COG_OK || has_all || !request->store->maps ||
        (request->flags & COG_GET_NO_MAP) != 0) {
        return status;
    }
    object->image = fs->map(object->fd, (size_t)object->stat.size, false);
    if (object->image != NULL) {
        object->mapped = true;
        if (cold) {
            (void)fs->advise_huge(object->image, (size_t)object->stat.size);
        }
    }
    return COG_OK;
}

/*
 * Is its life over, by its slots and its tags? COG_ERR_EXPIRED: no slot is valid, look again; who
 * only looks at entries of any age does that himself.
 */
static enum cog_status judge_age(struct request *request, struct cog_object *object)
{
    struct cog_store *store = request->store;
    unsigned which;
    object->miss = COG_MISS_NONE;
    if (cog_entry_freshness(object->entry, &object->fresh, &which) != COG_OK) {
        unsigned only_looks = COG_GET_ANY_AGE | COG_GET_LEAVE;
        request->miss = object->miss = COG_MISS_EXPIRED;
        return (request->flags & only_looks) == only_looks ? COG_OK : COG_ERR_EXPIRED;
    }
    if (cog_fresh_is_expired(&object->fresh, cog_store_now_ms(store))) {
        object->miss = COG_MISS_EXPIRED;
    } else {
        enum cog_status status = cog_store_check_tags(store, object->entry, !nowait(request),
                                                      request->err);
        if (status == COG_ERR_WOULD_BLOCK || status == COG_ERR_NOMEM) {
            return status;
        }
        object->miss = status == COG_OK ? COG_MISS_NONE : COG_MISS_TAG;
    }
    request->miss = object->miss;
    bool wanted = object->miss == COG_MISS_NONE || (request->flags & COG_GET_ANY_AGE) != 0;
    return wanted ? COG_OK : COG_ABSENT;
}

/* The bytes of a part of a small image that nobody has verified are noted per image. */
static enum cog_status prepare_lazy(struct cog_object *object)
{
    if (object->image != NULL && !object->mapped) {
        object->part_seen = cog_alloc_zeroed(cog_entry_part_count(object->entry), 1);
        return object->part_seen != NULL ? COG_OK : COG_ERR_NOMEM;
    }
    return COG_OK;
}

/*
 * COG_OK, COG_ABSENT with request->miss, COG_ERR_WOULD_BLOCK, COG_ERR_NOMEM; COG_ERR_DAMAGED and
 * COG_ERR_EXPIRED (no valid slot) are judged by a second attempt, COG_ERR_IO by its errno. The
 * object keeps its descriptor until the caller has judged.
 */
static enum cog_status attempt(struct request *request, struct cog_object *object)
{
    enum cog_status status = open_object(request, object);
    if (status != COG_OK) {
        return status;
    }
    bool index_only = (request->flags & COG_GET_INDEX_ONLY) != 0;
    uint64_t whole = index_only ? COG_ENTRY_COLD_READ : COG_SMALL_OBJECT;
    status = object->stat.size <= whole ? load_small(request, object) : load_large(request, object);
    if (status == COG_ERR_FOREIGN || status == COG_ERR_UNSUPPORTED) {
        request->miss = COG_MISS_FOREIGN;
        return COG_ABSENT;
    }
    if (status == COG_OK) {
        status = judge_age(request, object);
    }
    if (status != COG_OK) {
        return status;
    }
    return index_only ? prepare_lazy(object) : verify_all(object, nowait(request), request->err);
}

/* --- get ----------------------------------------------------------------------------------- */

/* A use for the eviction policy: a store into the shared table, or once an hour the file's mtime.
 */
static void touch(struct request *request, const struct cog_object *object)
{
    struct cog_store *store = request->store;
    if (store->index != NULL) {
        cog_index_touch(store->index, request->digest);
        cog_count(&store->counters.touches, 1);
    } else if (object->fd >= 0 && !atomic_load(&store->read_only)) {
        int64_t age_ms = (int64_t)store->fs->realtime_ms() - object->stat.mtime_ns / 1000000;
        if (age_ms > 3600 * 1000 && store->fs->set_mtime_now(object->fd) == 0) {
            cog_count(&store->counters.touches, 1);
        }
    }
}

static void count_hit(struct request *request, const struct cog_object *object)
{
    struct cog_counters *counters = &request->store->counters;
    cog_count(&counters->hits, 1);
    if ((request->flags & COG_GET_INDEX_ONLY) == 0) { /* else only the end has been read */
        cog_count(&counters->read_bytes, object->stat.size);
    }
    if (nowait(request)) {
        cog_count(&counters->inline_hits, 1);
    }
    touch(request, object);
}

static enum cog_status deliver(struct request *request, struct cog_object *object,
                               struct cog_object **out)
{
    if ((request->flags & COG_GET_NO_TOUCH) == 0) {
        if (object->miss == COG_MISS_NONE) {
            count_hit(request, object);
        } else {
            cog_count(&request->store->counters.misses[object->miss], 1);
        }
    }
    if (object->image != NULL) { /* a map needs no descriptor */
        request->store->fs->close(object->fd);
        object->fd = -1;
    }
    *out = object;
    return COG_OK;
}

/* The answer to what a second look did not mend. */
static enum cog_status give_up(struct request *request, struct cog_object *object,
                               enum cog_status status)
{
    struct cog_store *store = request->store;
    if (status == COG_ERR_DAMAGED) {
        request->miss = COG_MISS_DAMAGED;
        if ((request->flags & COG_GET_LEAVE) == 0) {
            (void)cog_store_remove_open(store, request->digest, object->fd, COG_REMOVE_QUARANTINE,
                                        NULL);
        }
    } else if (status == COG_ERR_IO) {
        request->miss = COG_MISS_UNAVAILABLE;
        cog_count(&store->counters.io_errors, 1);
    } else if (status == COG_ERR_EXPIRED) {
        request->miss = COG_MISS_EXPIRED;
    } else if (status != COG_ABSENT) {
        return status;
    }
    if ((request->flags & COG_GET_NO_TOUCH) == 0) {
        cog_count(&store->counters.misses[request->miss], 1);
    }
    return COG_ABSENT;
}

static enum cog_status look_up(struct request *request, struct cog_object **out)
{
    for (unsigned tries = 1;; tries++) {
        struct cog_object *object = new_object(request->store, request->digest);
        if (object == NULL) {
            return COG_ERR_NOMEM;
        }
        enum cog_status status = attempt(request, object);
        if (status == COG_OK) {
            return deliver(request, object, out);
        }
        bool again = status == COG_ERR_DAMAGED || status == COG_ERR_EXPIRED ||
                     (status == COG_ERR_IO && request->err->sys_errno == ESTALE);
        if (again && nowait(request)) {
            status = COG_ERR_WOULD_BLOCK; /* judging may take a lock: the blocking form does it */
        } else if (again && tries < 2) {
            cog_object_free(object);
            continue;
        }
        if (status == COG_ERR_WOULD_BLOCK) {
            cog_count(&request->store->counters.would_block, 1);
        } else {
            status = give_up(request, object, status);
        }
        cog_object_free(object);
        return status;
    }
}

static enum cog_status get(struct request *request, struct cog_object **out, enum cog_miss *miss,
                           struct cog_error *err)
{
    struct cog_error own = {0};
    request->err = err != NULL ? err : &own;
    request->miss = COG_MISS_NONE;
    *out = NULL;
    enum cog_status status = look_up(request, out);
    if (miss != NULL) {
        *miss = request->miss;
    }
    return status;
}

enum cog_status cog_store_get(struct cog_store *store, const void *key, size_t key_size,
                              unsigned flags, struct cog_object **out, enum cog_miss *miss,
                              struct cog_error *err)
{
    struct cog_digest digest;
    cog_hash128(key, key_size, &digest);
    struct request request = {
        .store = store, .digest = &digest, .key = key, .key_size = key_size, .flags = flags};
    return get(&request, out, miss, err);
}

enum cog_status cog_store_get_digest(struct cog_store *store, const struct cog_digest *digest,
                                     unsigned flags, struct cog_object **out, enum cog_miss *miss,
                                     struct cog_error *err)
{
    struct request request = {.store = store, .digest = digest, .flags = flags};
    return get(&request, out, miss, err);
}

/* --- damage found later -------------------------------------------------------------------- */

void cog_store_report_damage(struct cog_store *store, struct cog_object *object)
{
    struct cog_error err = {0};
    struct request request = {.store = store, .digest = &object->digest, .err = &err};
    struct cog_object *again = new_object(store, &object->digest);
    if (again == NULL) {
        return;
    }
    /* Read once more, from the file: a private map may have been written to by its owner. */
    enum cog_status status = open_object(&request, again);
    if (status == COG_OK && again->stat.inode == object->stat.inode) {
        status = cog_entry_open(&again->source, NULL, 0, 0, &again->entry, &err);
        if (status == COG_OK && cog_entry_token(again->entry) == cog_entry_token(object->entry)) {
            status = cog_entry_verify(again->entry, &again->source, &err);
        }
        if (status == COG_ERR_DAMAGED) {
            (void)cog_store_remove_open(store, &object->digest, again->fd, COG_REMOVE_QUARANTINE,
                                        NULL);
        }
    }
    cog_object_free(again);
}

/* --- slots --------------------------------------------------------------------------------- */

enum cog_status cog_store_read_slots(const struct cog_store *store, int fd, uint64_t size,
                                     uint64_t *token, struct cog_freshness *fresh, unsigned *which)
{
    unsigned char tail[COG_ENTRY_TAIL_SIZE];
    if (size < COG_ENTRY_SMALLEST) {
        return COG_ERR_DAMAGED;
    }
    int rc = cog_fs_read_all(store->fs, fd, tail, sizeof tail, size - sizeof tail);
    if (rc < 0) {
        return rc == -ENODATA ? COG_ERR_DAMAGED : COG_ERR_IO;
    }
    *token = cog_load_le64(tail + 2 * COG_SLOT_SIZE);
    return cog_slots_current(tail, *token, fresh, which);
}

uint32_t cog_store_seconds(uint64_t expires_ms)
{
    uint64_t seconds = expires_ms / 1000 + (expires_ms % 1000 != 0);
    return expires_ms == 0 || seconds > UINT32_MAX ? 0 : (uint32_t)seconds;
}
