/* A container that arrives in pieces (store.h). */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "core/alloc.h"
#include "core/store_internal.h"

enum {
    LEAST_STEP = 1 << 20,
    MOST_STEP = 64 << 20,
    /* A shard is waited for 200 ms. What has been received already is worth a few more of them. */
    PUBLISH_AGAIN = 3
};

enum state { OPEN, COMMITTING, CLOSED };

struct cog_incoming {
    struct cog_put put;
    uint64_t length; /* COG_LENGTH_UNKNOWN */
    unsigned char *key;
    size_t key_size;
    pthread_mutex_t mutex; /* guards what follows, and what is reserved */
    enum state state;
    unsigned writing; /* threads inside a write: the descriptor must stay open */
    uint64_t allowed; /* bytes of the file that are reserved */
    uint64_t end;     /* behind the highest byte that was asked for */
    struct cog_range *ranges;
    size_t count, capacity;
};

/* --- what has been written ----------------------------------------------------------------- */

/* Room for what every write under way may add, one range or the two ends of a split one. */
static enum cog_status make_range_room(struct cog_incoming *incoming)
{
    size_t needed = incoming->count + 2 * ((size_t)incoming->writing + 1);
    if (needed <= incoming->capacity) {
        return COG_OK;
    }
    size_t capacity = 2 * needed;
    size_t bytes;
    struct cog_range *ranges = NULL;
    if (!cog_mul_overflows(capacity, sizeof *ranges, &bytes)) {
        ranges = cog_realloc(incoming->ranges, bytes);
    }
    if (ranges == NULL) {
        return COG_ERR_NOMEM;
    }
    incoming->ranges = ranges;
    incoming->capacity = capacity;
    return COG_OK;
}

/* Add a range; those it touches become one with it. */
static void note_range(struct cog_incoming *incoming, uint64_t start, uint64_t stop)
{
    struct cog_range *ranges = incoming->ranges;
    size_t first = incoming->count;
    while (first > 0 && ranges[first - 1].stop >= start) {
        first--;
    }
    size_t last = first; /* [first, last) are touched */
    while (last < incoming->count && ranges[last].start <= stop) {
        start = ranges[last].start < start ? ranges[last].start : start;
        stop = ranges[last].stop > stop ? ranges[last].stop : stop;
        last++;
    }
    memmove(ranges + first + 1, ranges + last, (incoming->count - last) * sizeof *ranges);
    ranges[first] = (struct cog_range){start, stop};
    incoming->count += 1 + first - last;
}

/* A write of this range failed: what it held before may be half gone. */
static void forget_range(struct cog_incoming *incoming, uint64_t start, uint64_t stop)
{
    struct cog_range before[2], *ranges = incoming->ranges;
    size_t kept = 0;
    for (size_t i = 0; i < incoming->count; i++) {
        struct cog_range range = ranges[i];
        size_t pieces = 0;
        if (range.start < start) {
            before[pieces++] = (struct cog_range){range.start,
                                                  range.stop < start ? range.stop : start};
        }
        if (range.stop > stop) {
            before[pieces++] = (struct cog_range){range.start > stop ? range.start : stop,
                                                  range.stop};
        }
        if (pieces == 2) { /* cut out of its middle: the only one that is touched */
            memmove(ranges + kept + 1, ranges + kept, (incoming->count - kept) * sizeof *ranges);
            incoming->count++;
            i++;
        }
        memcpy(ranges + kept, before, pieces * sizeof *ranges);
        kept += pieces;
    }
    incoming->count = kept;
}

static bool is_ours(const struct cog_incoming *incoming)
{
    return incoming->put.process == incoming->put.store->fs->process_id();
}

size_t cog_incoming_written(struct cog_incoming *incoming, struct cog_range *out, size_t most)
{
    if (!is_ours(incoming)) {
        return 0;
    }
    pthread_mutex_lock(&incoming->mutex);
    size_t count = incoming->count;
    if (count > 0 && most > 0) {
        memcpy(out, incoming->ranges, (count < most ? count : most) * sizeof *out);
    }
    pthread_mutex_unlock(&incoming->mutex);
    return count;
}

/* --- begin --------------------------------------------------------------------------------- */

static enum cog_status reserve(struct cog_incoming *incoming, uint64_t bytes, struct cog_error *err)
{
    enum cog_status status = cog_put_reserve(&incoming->put, bytes, err);
    if (status == COG_INDEX_MOVED && incoming->put.reservation.file == NULL) {
        status = cog_put_reserve(&incoming->put, bytes, err);
    }
    return status == COG_INDEX_MOVED
               ? cog_fail(err, COG_ERR_BUSY, 0, "the index was replaced during the put")
               : status;
}

/* Blocks for [allowed, allowed + step); on a full disk once more after evicting. */
static enum cog_status allocate(struct cog_incoming *incoming, uint64_t step, struct cog_error *err)
{
    struct cog_put *put = &incoming->put;
    enum cog_status status = cog_put_allocate(put, incoming->allowed, step, err);
    if (status == COG_ERR_FULL && cog_put_make_room(put->store, step)) {
        status = cog_put_allocate(put, incoming->allowed, step, err);
    }
    return status;
}

/* [S1] Reserve up to `end`; without a known length in a step as large as what is there already. */
static enum cog_status grow(struct cog_incoming *incoming, uint64_t end, struct cog_error *err)
{
    uint64_t step = incoming->allowed;
    if (end <= incoming->allowed) {
        return COG_OK;
    }
    step = step < LEAST_STEP ? LEAST_STEP : step > MOST_STEP ? MOST_STEP : step;
    if (step < end - incoming->allowed) {
        step = cog_put_round(incoming->put.store, end - incoming->allowed);
    }
#ifdef COG_SEED_BUG_GROW_UNCOUNTED
    enum cog_status status = COG_OK;
#else
    enum cog_status status = reserve(incoming, step, err);
#endif
    if (status == COG_OK) {
        status = allocate(incoming, step, err);
    }
#ifdef COG_SEED_BUG_GROW_UNCOUNTED
    incoming->put.store->fs->sleep_us(20000); /* holds its window open for the test */
#endif
    if (status == COG_OK) {
        incoming->allowed += step;
    }
    return status;
}

static enum cog_status start(struct cog_incoming *incoming, struct cog_error *err)
{
    struct cog_store *store = incoming->put.store;
    bool known = incoming->length != COG_LENGTH_UNKNOWN;
    uint64_t bytes = known ? incoming->length : LEAST_STEP;
    enum cog_status status = cog_put_check_size(store, known ? bytes : 0, err);
    if (status == COG_OK) {
        status = reserve(incoming, cog_put_round(store, bytes) + COG_RESERVE_SLACK, err);
    }
    if (status == COG_OK) {
        status = cog_put_create(&incoming->put, err);
        if (status == COG_ERR_IO && err->sys_errno == ENOENT && cog_store_mend_root(store)) {
            status = cog_put_create(&incoming->put, err);
        }
    }
    if (status == COG_OK && known && bytes > 0) {
        status = allocate(incoming, bytes, err);
    }
    incoming->allowed = bytes;
    return status;
}

enum cog_status cog_store_incoming(struct cog_store *store, const void *key, size_t key_size,
                                   uint64_t length, struct cog_incoming **out,
                                   struct cog_error *err)
{
    struct cog_error own = {0};
    err = err != NULL ? err : &own;
    *out = NULL;
    if (!store->writable) {
        return cog_put_refuse_read_only(store, err);
    }
    struct cog_incoming *incoming = cog_alloc_zeroed(1, sizeof *incoming);
    unsigned char *copy = cog_alloc(key_size > 0 ? key_size : 1);
    if (incoming == NULL || copy == NULL || pthread_mutex_init(&incoming->mutex, NULL) != 0) {
        cog_free(incoming);
        cog_free(copy);
        return COG_ERR_NOMEM;
    }
    memcpy(copy, key, key_size);
    incoming->key = copy;
    incoming->key_size = key_size;
    incoming->length = length;
    cog_store_ref(store);
    cog_put_init(&incoming->put, store, key, key_size);
    enum cog_status status = start(incoming, err);
    if (status != COG_OK) {
        cog_put_count(store, status);
        cog_incoming_free(incoming);
        return status;
    }
    *out = incoming;
    return COG_OK;
}

/* --- write --------------------------------------------------------------------------------- */

static enum cog_status refuse_child(struct cog_error *err)
{
    return cog_fail(err, COG_ERR_INVALID, 0, "this put belongs to the parent process");
}

/* Under the mutex: may [offset, offset + size) be written now? Then it is this thread's to do. */
static enum cog_status enter(struct cog_incoming *incoming, uint64_t offset, uint64_t size,
                             struct cog_error *err)
{
    if (incoming->state != OPEN) {
        return cog_fail(err, COG_ERR_CLOSED, 0, "this put was committed or aborted");
    }
    if (offset > incoming->length || size > incoming->length - offset) {
        return cog_fail(err, COG_ERR_INVALID, 0, "bytes %llu..%llu, the length is %llu",
                        (unsigned long long)offset, (unsigned long long)(offset + size),
                        (unsigned long long)incoming->length);
    }
    enum cog_status status = cog_put_check_size(incoming->put.store, offset + size, err);
    if (status == COG_OK) {
        status = make_range_room(incoming);
    }
    if (status == COG_OK) {
        status = grow(incoming, offset + size, err);
    }
    if (status == COG_OK) {
        incoming->writing++;
        incoming->end = offset + size > incoming->end ? offset + size : incoming->end;
    }
    return status;
}

static enum cog_status write_bytes(struct cog_incoming *incoming, uint64_t offset, const void *data,
                                   size_t size, struct cog_error *err)
{
    struct cog_store *store = incoming->put.store;
    int rc = cog_fs_write_all(store->fs, incoming->put.fd, data, size, offset);
    if ((rc == -ENOSPC || rc == -EDQUOT) && cog_put_make_room(store, size)) {
        rc = cog_fs_write_all(store->fs, incoming->put.fd, data, size, offset);
    }
    return rc < 0 ? cog_store_write_error(store, -rc, "writing a file", err) : COG_OK;
}

/* At `*start`, or behind everything where that is NULL. */
static enum cog_status write_at(struct cog_incoming *incoming, const uint64_t *start,
                                const void *data, size_t size, struct cog_error *err)
{
    struct cog_error own = {0};
    err = err != NULL ? err : &own;
    if (!is_ours(incoming)) {
        return refuse_child(err);
    }
    if (size == 0) {
        return COG_OK;
    }
    pthread_mutex_lock(&incoming->mutex);
    uint64_t offset = start != NULL ? *start : incoming->end;
    enum cog_status status = enter(incoming, offset, size, err);
    pthread_mutex_unlock(&incoming->mutex);
    if (status == COG_OK) {
        status = write_bytes(incoming, offset, data, size, err);
        pthread_mutex_lock(&incoming->mutex);
        incoming->writing--;
        if (status != COG_OK) {
            forget_range(incoming, offset, offset + size);
        } else {
            note_range(incoming, offset, offset + size);
        }
        bool last = incoming->state == CLOSED && incoming->writing == 0;
        pthread_mutex_unlock(&incoming->mutex);
        if (last) { /* aborted meanwhile */
            cog_put_drop(&incoming->put);
        }
    }
    if (status != COG_OK && status != COG_ERR_INVALID && status != COG_ERR_CLOSED) {
        cog_put_count(incoming->put.store, status);
    }
    return status;
}

enum cog_status cog_incoming_write(struct cog_incoming *incoming, uint64_t offset, const void *data,
                                   size_t size, struct cog_error *err)
{
    return write_at(incoming, &offset, data, size, err);
}

enum cog_status cog_incoming_append(struct cog_incoming *incoming, const void *data, size_t size,
                                    struct cog_error *err)
{
    return write_at(incoming, NULL, data, size, err);
}

static enum cog_status sink_write(void *context, const void *data, size_t size, bool stable,
                                  struct cog_error *err)
{
    (void)stable;
    return cog_incoming_append(context, data, size, err);
}

struct cog_sink cog_incoming_sink(struct cog_incoming *incoming)
{
    return (struct cog_sink){.context = incoming, .write = sink_write};
}

/* --- end ----------------------------------------------------------------------------------- */

/* Under the mutex: is everything here? Then nothing more comes. */
static enum cog_status close_for_commit(struct cog_incoming *incoming, struct cog_error *err)
{
    bool known = incoming->length != COG_LENGTH_UNKNOWN;
    uint64_t length = known ? incoming->length : incoming->end;
    uint64_t first = 0; /* missing byte */
    if (incoming->count > 0 && incoming->ranges[0].start == 0) {
        first = incoming->ranges[0].stop;
    }
    if (incoming->state != OPEN) {
        return cog_fail(err, COG_ERR_CLOSED, 0, "this put was committed or aborted");
    }
    if (incoming->writing > 0) {
        return cog_fail(err, COG_ERR_INVALID, 0, "bytes are still being written");
    }
    if (first < length) {
        uint64_t next = first == 0 && incoming->count > 0 ? incoming->ranges[0].start
                        : incoming->count > 1             ? incoming->ranges[1].start
                                                          : length;
        return cog_fail(err, COG_ERR_INVALID, 0, "bytes %llu..%llu of %llu are missing",
                        (unsigned long long)first, (unsigned long long)next,
                        (unsigned long long)length);
    }
    incoming->state = COMMITTING;
    incoming->length = length;
    return COG_OK;
}

static enum cog_status read_back(void *context, uint64_t offset, void *out, size_t size,
                                 struct cog_error *err)
{
    const struct cog_put *put = context;
    int rc = cog_fs_read_all(put->store->fs, put->fd, out, size, offset);
    if (rc == -ENODATA) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "the file ends before its length");
    }
    return rc < 0 ? cog_fail(err, COG_ERR_IO, -rc, "reading a file back") : COG_OK;
}

/* What a row says of the container, from the container. */
static enum cog_status describe(const struct cog_entry *entry, struct cog_put_info *info,
                                struct cog_error *err)
{
    struct cog_freshness fresh;
    struct cog_meta meta;
    size_t size;
    const unsigned char *bytes = cog_entry_meta(entry, &size);
    if (cog_entry_freshness(entry, &fresh, NULL) != COG_OK) {
        return cog_fail(err, COG_ERR_DAMAGED, 0, "no freshness slot is valid");
    }
    if (cog_meta_parse(bytes, size, &meta) == COG_OK) {
        info->cost_seconds = (double)meta.cost_ms / 1000.0;
    }
    info->expires_ms = fresh.ttl_ms == COG_NEVER ? 0 : fresh.refreshed_ms + fresh.ttl_ms;
    return COG_OK;
}

/* [S3] Read the end back, and whatever has not been verified. */
static enum cog_status examine(struct cog_incoming *incoming, bool verified,
                               struct cog_put_info *info, struct cog_error *err)
{
    struct cog_source source = {.context = &incoming->put,
                                .size = incoming->length,
                                .read = read_back};
    struct cog_entry *entry = NULL;
    enum cog_status status = cog_entry_open(&source, incoming->key, incoming->key_size, 0, &entry,
                                            err);
    /* a small one is read as a whole by every hit, head and padding included */
    if (status == COG_OK && (!verified || incoming->length <= COG_SMALL_OBJECT)) {
        status = cog_entry_verify(entry, &source, err);
    }
    if (status == COG_OK) {
        status = describe(entry, info, err);
    }
    cog_entry_free(entry);
    return status;
}

static enum cog_status cut_surplus(struct cog_incoming *incoming, struct cog_error *err)
{
    struct cog_put *put = &incoming->put;
    if (incoming->allowed <= incoming->length) {
        return COG_OK;
    }
    int rc = put->store->fs->truncate(put->fd, incoming->length);
    return rc < 0 ? cog_store_write_error(put->store, -rc, "ending a file", err) : COG_OK;
}

static enum cog_status publish(struct cog_incoming *incoming, const struct cog_put_info *info,
                               struct cog_error *err)
{
    enum cog_status status = COG_ERR_BUSY;
    for (unsigned tries = 0; tries < PUBLISH_AGAIN && status == COG_ERR_BUSY; tries++) {
        status = cog_put_publish(&incoming->put, info, err);
    }
    return status == COG_INDEX_MOVED
               ? cog_fail(err, COG_ERR_BUSY, 0, "the index was replaced during the put")
               : status;
}

enum cog_status cog_incoming_commit(struct cog_incoming *incoming, bool verified,
                                    const struct cog_put_info *info, struct cog_error *err)
{
    struct cog_error own = {0};
    struct cog_put_info about = {0};
    err = err != NULL ? err : &own;
    if (!is_ours(incoming)) {
        return refuse_child(err);
    }
    pthread_mutex_lock(&incoming->mutex);
    enum cog_status status = close_for_commit(incoming, err);
    pthread_mutex_unlock(&incoming->mutex);
    if (status != COG_OK) {
        return status;
    }
    if (info != NULL) {
        about = *info;
    }
    status = cut_surplus(incoming, err);
    if (status == COG_OK) {
        status = examine(incoming, verified, &about, err);
    }
    if (status == COG_OK) {
        status = publish(incoming, &about, err);
    }
    if (status != COG_ERR_DAMAGED && status != COG_ERR_FOREIGN) { /* of no put, but of its bytes */
        cog_put_count(incoming->put.store, status);
    }
#ifdef COG_SEED_BUG_FAILED_KEPT
    if (status == COG_OK)
#endif
        cog_put_drop(&incoming->put);
    pthread_mutex_lock(&incoming->mutex);
    incoming->state = CLOSED;
    pthread_mutex_unlock(&incoming->mutex);
    return status;
}

void cog_incoming_abort(struct cog_incoming *incoming)
{
    if (!is_ours(incoming)) {
        return;
    }
    pthread_mutex_lock(&incoming->mutex);
    bool last = incoming->state == OPEN && incoming->writing == 0;
    if (incoming->state == OPEN) {
        incoming->state = CLOSED;
    }
    pthread_mutex_unlock(&incoming->mutex);
    if (last) { /* else whoever is writing does it */
        cog_put_drop(&incoming->put);
    }
}

void cog_incoming_free(struct cog_incoming *incoming)
{
    if (incoming == NULL) {
        return;
    }
    if (is_ours(incoming)) { /* else a thread of the parent may have the mutex */
        cog_incoming_abort(incoming);
        pthread_mutex_destroy(&incoming->mutex);
    } else {
        cog_put_drop(&incoming->put);
    }
    cog_store_unref(incoming->put.store);
    cog_free(incoming->ranges);
    cog_free(incoming->key);
    cog_free(incoming);
}
