#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY and friends */
#include "core/tags.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/buf.h"
#include "core/bytes.h"
#include "core/fs.h"
#include "core/hash.h"

#define LOG_NAME "tags.log"
#define LOG_MAGIC UINT64_C(0x0A1A474154474F43) /* "COGTAG" 1A 0A */
#define LOG_SEED UINT64_C(0x6C6F672E74616773)
enum {
    HEAD_SIZE = 64,
    COMMIT_SIZE = 32,
    RECORDS_AT = HEAD_SIZE + 2 * COMMIT_SIZE,
    RECORD_HEAD = 24, /* length u32, zero u32, sum u64, version u64; then the tag */
    UNWRITTEN_LIMIT = 65536,
    LOCK_TRIES = 400, /* 20 us doubling to 1 ms: about 400 ms in all */
    LOG_BOUND = COG_TAGS_LOG_LARGEST + RECORDS_AT
};
/* Without a shared counter that can be trusted to be of this very log, look at the log this often.
 */
#define LOOK_AGAIN_NS UINT64_C(1000000000)
/* A capture this far ahead of the clock was made by a clock that has been set back since. */
#define FUTURE_US (60 * UINT64_C(1000000))

/* --- the table ----------------------------------------------------------------------------- */

/*
 * Newest version by hash of the tag, open addressing. Two tags of one 64-bit hash would share the
 * newer version: one more miss, never a stale hit.
 */
struct version {
    uint64_t hash; /* 0 = empty */
    uint64_t version;
};

struct table {
    struct version *slots;
    size_t capacity; /* power of two */
    size_t count;
    uint64_t floor;
    uint64_t newest; /* of all versions, floor included */
};

static uint64_t tag_hash(const void *name, size_t size)
{
    uint64_t hash = cog_hash64(name, size, LOG_SEED);
    return hash != 0 ? hash : 1;
}

static enum cog_status table_grow(struct table *table)
{
    size_t capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
    struct version *slots = cog_alloc_zeroed(capacity, sizeof *slots);
    if (slots == NULL) {
        return COG_ERR_NOMEM;
    }
    for (size_t i = 0; i < table->capacity; i++) {
        size_t at = table->slots[i].hash & (capacity - 1);
        while (table->slots[i].hash != 0 && slots[at].hash != 0) {
            at = (at + 1) & (capacity - 1);
        }
        if (table->slots[i].hash != 0) {
            slots[at] = table->slots[i];
        }
    }
    cog_free(table->slots);
    table->slots = slots;
    table->capacity = capacity;
    return COG_OK;
}

static enum cog_status table_raise(struct table *table, uint64_t hash, uint64_t version)
{
    if (4 * (table->count + 1) > 3 * table->capacity) {
        enum cog_status status = table_grow(table);
        if (status != COG_OK) {
            return status;
        }
    }
    size_t at = hash & (table->capacity - 1);
    while (table->slots[at].hash != 0 && table->slots[at].hash != hash) {
        at = (at + 1) & (table->capacity - 1);
    }
    table->count += table->slots[at].hash == 0;
    table->slots[at].hash = hash;
    if (version > table->slots[at].version) {
        table->slots[at].version = version;
    }
    table->newest = version > table->newest ? version : table->newest;
    return COG_OK;
}

/* 0 when the tag was never invalidated, as far as the log remembers. */
static uint64_t table_find(const struct table *table, uint64_t hash)
{
    for (size_t at = hash, i = 0; i < table->capacity; i++, at++) {
        const struct version *slot = &table->slots[at & (table->capacity - 1)];
        if (slot->hash == hash) {
            return slot->version;
        }
        if (slot->hash == 0) {
            break;
        }
    }
    return 0;
}

/* --- the log as bytes ---------------------------------------------------------------------- */

struct log_head {
    uint64_t capacity, floor;
    uint64_t seq, used; /* of the current commit slot; used counts from the start of the file */
    unsigned which;
};

static void encode_head(unsigned char out[HEAD_SIZE], uint64_t capacity, uint64_t floor)
{
    memset(out, 0, HEAD_SIZE);
    cog_store_le64(out, LOG_MAGIC);
    cog_store_le32(out + 8, 1); /* version */
    cog_store_le64(out + 16, capacity);
    cog_store_le64(out + 24, floor);
    cog_store_le64(out + 56, cog_hash64(out, 56, LOG_SEED));
}

static void encode_commit(unsigned char out[COMMIT_SIZE], uint64_t seq, uint64_t used)
{
    memset(out, 0, COMMIT_SIZE);
    cog_store_le64(out, seq);
    cog_store_le64(out + 8, used);
    cog_store_le64(out + 24, cog_hash64(out, 24, LOG_SEED + 1));
}

static bool decode_head(const unsigned char bytes[RECORDS_AT], struct log_head *head)
{
    if (cog_load_le64(bytes) != LOG_MAGIC || cog_load_le32(bytes + 8) != 1 ||
        cog_load_le64(bytes + 56) != cog_hash64(bytes, 56, LOG_SEED)) {
        return false;
    }
    head->capacity = cog_load_le64(bytes + 16);
    head->floor = cog_load_le64(bytes + 24);
    static const unsigned char never_written[COMMIT_SIZE];
    bool found = false;
    for (unsigned i = 0; i < 2; i++) {
        const unsigned char *slot = bytes + HEAD_SIZE + i * COMMIT_SIZE;
        uint64_t seq = cog_load_le64(slot);
        if (memcmp(slot, never_written, COMMIT_SIZE) == 0) {
            continue;
        }
        /* Falling back to the older slot would undo the invalidation that the damaged one says. */
        if (cog_load_le64(slot + 24) != cog_hash64(slot, 24, LOG_SEED + 1)) {
            return false;
        }
        if (!found || seq > head->seq) {
            head->seq = seq;
            head->used = cog_load_le64(slot + 8);
            head->which = i;
            found = true;
        }
    }
    return found && head->capacity <= LOG_BOUND && head->used >= RECORDS_AT &&
           head->used <= head->capacity;
}

static enum cog_status append_record(struct cog_buf *buf, const void *name, size_t size,
                                     uint64_t version)
{
    unsigned char *at;
    enum cog_status status = cog_buf_extend(buf, RECORD_HEAD + size, &at);
    if (status == COG_OK) {
        memset(at, 0, RECORD_HEAD);
        cog_store_le32(at, (uint32_t)(RECORD_HEAD + size));
        cog_store_le64(at + 16, version);
        memcpy(at + RECORD_HEAD, name, size);
        cog_store_le64(at + 8, cog_hash64(at + 16, 8 + size, LOG_SEED + 2));
    }
    return status;
}

/* The record at `at`; false where there is no whole, sound one. */
static bool next_record(const unsigned char *at, size_t left, size_t *length, uint64_t *version)
{
    if (left < RECORD_HEAD) {
        return false;
    }
    *length = cog_load_le32(at);
    *version = cog_load_le64(at + 16);
    return *length > RECORD_HEAD && *length <= left && *length <= RECORD_HEAD + COG_TAG_LIMIT &&
           cog_load_le32(at + 4) == 0 &&
           cog_load_le64(at + 8) == cog_hash64(at + 16, *length - 16, LOG_SEED + 2);
}

/* Every committed record into the table. COG_ERR_DAMAGED when the bytes do not bear it out. */
static enum cog_status parse_records(const unsigned char *bytes, size_t size, struct table *table)
{
    for (size_t at = 0; at < size;) {
        size_t length;
        uint64_t version;
        if (!next_record(bytes + at, size - at, &length, &version)) {
            return COG_ERR_DAMAGED;
        }
        enum cog_status status = table_raise(
            table, tag_hash(bytes + at + RECORD_HEAD, length - RECORD_HEAD), version);
        if (status != COG_OK) {
            return status;
        }
        at += length;
    }
    return COG_OK;
}

/* --- the open log -------------------------------------------------------------------------- */

struct cog_tags {
    const struct cog_fs *fs;
    struct cog_tags_options options;
    pthread_mutex_t table_mutex; /* the table; held for memory only */
    pthread_mutex_t log_mutex;   /* reading and writing the log; comes before the other */
    bool process_locks;          /* the lock of the log is the process', not a descriptor's */
    struct table table;          /* of the log */
    struct table unwritten;      /* what this process invalidated and the log could not be told */
    bool loaded;
    bool lost;          /* the log cannot be read as one and not be replaced: the floor stands in */
    uint64_t signal;    /* of the shared counter when the table was filled */
    uint64_t looked_ns; /* when the log itself was last looked at */
    uint64_t inode, seq; /* of the log that the table was filled from */
};

static void mutexes_init(struct cog_tags *tags)
{
    (void)pthread_mutex_init(&tags->table_mutex, NULL);
    (void)pthread_mutex_init(&tags->log_mutex, NULL);
}

static enum cog_status log_error(int rc, const char *what, struct cog_error *err)
{
    switch (rc) {
    case -EROFS:
    case -EACCES:
    case -EPERM: return cog_fail(err, COG_ERR_READ_ONLY, -rc, "%s " LOG_NAME, what);
    case -ENOSPC:
    case -EDQUOT: return cog_fail(err, COG_ERR_FULL, -rc, "%s " LOG_NAME, what);
    default: return cog_fail(err, COG_ERR_IO, -rc, "%s " LOG_NAME, what);
    }
}

static int write_synced(struct cog_tags *tags, const char *temp, const unsigned char *head,
                        const struct cog_buf *records)
{
    const struct cog_fs *fs = tags->fs;
    int fd = fs->open(tags->options.root, temp, O_RDWR | O_CREAT | O_EXCL, tags->options.mode);
    if (fd < 0) {
        return fd;
    }
    int rc = fs->chmod(fd, tags->options.mode);
    if (rc == 0) {
        rc = cog_fs_write_all(fs, fd, head, RECORDS_AT, 0);
    }
    if (rc == 0 && records->size > 0) {
        rc = cog_fs_write_all(fs, fd, records->data, records->size, RECORDS_AT);
    }
    if (rc == 0) {
        rc = fs->sync(fd);
    }
    fs->close(fd);
    return rc;
}

/*
 * Replace the log: head with `floor`, then `records`. A process that makes a new index empties tmp/
 * under us: then once more.
 */
static enum cog_status write_log(struct cog_tags *tags, uint64_t floor, uint64_t seq,
                                 const struct cog_buf *records, struct cog_error *err)
{
    const struct cog_fs *fs = tags->fs;
    unsigned char head[RECORDS_AT] = {0};
    encode_head(head, tags->options.capacity, floor);
    encode_commit(head + HEAD_SIZE, seq, RECORDS_AT + records->size);
    int rc = -ENOENT;
    for (unsigned tries = 0; tries < 8 && rc == -ENOENT; tries++) {
        uint32_t chance[2] = {0};
        char temp[64];
        (void)fs->random(chance, sizeof chance);
        (void)snprintf(temp, sizeof temp, "tmp/" LOG_NAME "-%08x%08x", chance[0], chance[1]);
        rc = write_synced(tags, temp, head, records);
        if (rc == 0) {
            rc = fs->rename(tags->options.root, temp, tags->options.root, LOG_NAME);
        }
        if (rc < 0) {
            (void)fs->unlink(tags->options.root, temp);
        }
    }
    if (rc == 0) {
        rc = fs->sync(tags->options.root); /* the name, too, before anybody relies on it */
        rc = rc == -EINVAL || rc == -EBADF ? 0 : rc;
    }
    return rc < 0 ? log_error(rc, "writing", err) : COG_OK;
}

/* Whole and committed, or COG_ERR_DAMAGED. `records` gets the committed records. */
static enum cog_status read_log(struct cog_tags *tags, int fd, struct log_head *head,
                                struct cog_buf *records, struct cog_error *err)
{
    unsigned char bytes[RECORDS_AT];
    int rc = cog_fs_read_all(tags->fs, fd, bytes, sizeof bytes, 0);
    if (rc < 0) {
        return rc == -ENODATA ? COG_ERR_DAMAGED : log_error(rc, "reading", err);
    }
    if (!decode_head(bytes, head)) {
        return COG_ERR_DAMAGED;
    }
    unsigned char *where;
    size_t size = (size_t)(head->used - RECORDS_AT);
    enum cog_status status = cog_buf_extend(records, size, &where);
    if (status != COG_OK || size == 0) {
        return status;
    }
    rc = cog_fs_read_all(tags->fs, fd, where, size, RECORDS_AT);
    if (rc < 0) {
        return rc == -ENODATA ? COG_ERR_DAMAGED : log_error(rc, "reading", err);
    }
    return COG_OK;
}

/* A table of the log behind `fd`. */
static enum cog_status fill_table(struct cog_tags *tags, int fd, struct log_head *head,
                                  struct cog_buf *records, struct table *table,
                                  struct cog_error *err)
{
    enum cog_status status = read_log(tags, fd, head, records, err);
    if (status == COG_OK) {
        table->floor = table->newest = head->floor;
        status = parse_records(records->data, records->size, table);
    }
    return status;
}

static void take_table(struct cog_tags *tags, struct table *table)
{
    pthread_mutex_lock(&tags->table_mutex);
    struct table old = tags->table;
    tags->table = *table;
    tags->loaded = true;
    pthread_mutex_unlock(&tags->table_mutex);
    cog_free(old.slots);
}

static uint64_t new_version(const struct cog_tags *tags, uint64_t newest)
{
    uint64_t now = tags->fs->realtime_us() + COG_TAGS_AHEAD_US;
    return now > newest ? now : newest + 1;
}

/* --- alone in the process ------------------------------------------------------------------ */

/*
 * Locks that belong to processes say nothing between the handles of one, and whoever closes any
 * descriptor of the log drops the lock of whoever has it. There, all handles of this process open
 * the log one after the other.
 */
static pthread_mutex_t alone = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t alone_once = PTHREAD_ONCE_INIT;

static void alone_in_child(void)
{
    (void)pthread_mutex_init(&alone, NULL); /* whoever had it is not in the child */
}

static void alone_handle_forks(void)
{
    (void)pthread_atfork(NULL, NULL, alone_in_child);
}

/* False: another handle is at it, and `may_wait` is false. */
static bool alone_begin(const struct cog_tags *tags, bool may_wait)
{
    if (!tags->process_locks) {
        return true;
    }
    (void)pthread_once(&alone_once, alone_handle_forks);
    return (may_wait ? pthread_mutex_lock(&alone) : pthread_mutex_trylock(&alone)) == 0;
}

static void alone_end(const struct cog_tags *tags)
{
    if (tags->process_locks) {
        (void)pthread_mutex_unlock(&alone);
    }
}

/* --- lock ---------------------------------------------------------------------------------- */

static int log_is_current(struct cog_tags *tags, int fd)
{
    struct cog_stat open, named;
    int rc = tags->fs->stat(fd, &open);
    if (rc == 0) {
        rc = tags->fs->stat_at(tags->options.root, LOG_NAME, &named);
    }
    return rc < 0 ? rc : open.inode == named.inode && open.device == named.device;
}

/* By name first: a child forked meanwhile holds a copy of the descriptor, and so of the lock. */
static void unlock_log(struct cog_tags *tags, int fd)
{
    (void)tags->fs->lock(fd, 0, COG_UNLOCK);
    tags->fs->close(fd);
}

/*
 * Open and lock the log against other writers. Where locks do not work (table-less roots) it goes
 * on without: appends then rest on the commit slots alone, and two of one instant may lose one.
 */
static enum cog_status lock_log(struct cog_tags *tags, int *out, struct cog_error *err)
{
    uint32_t pause = 20;
    for (unsigned tries = 0; tries < LOCK_TRIES; tries++) {
        int fd = tags->fs->open(tags->options.root, LOG_NAME, O_RDWR | O_NONBLOCK, 0);
        if (fd < 0) {
            return fd == -ENOENT ? COG_ABSENT : log_error(fd, "opening", err);
        }
        int rc = tags->fs->lock(fd, 0, COG_LOCK_EXCLUSIVE);
        bool is_held_by_another = rc == -EAGAIN || rc == -EACCES || rc == -EINTR;
        if (!is_held_by_another && log_is_current(tags, fd) == 1) { /* not compacted meanwhile */
            *out = fd;
            return COG_OK;
        }
        if (is_held_by_another) {
            tags->fs->close(fd);
        } else {
            unlock_log(tags, fd);
        }
        tags->fs->sleep_us(pause);
        pause = pause < 1000 ? 2 * pause : 1000;
    }
    return cog_fail(err, COG_ERR_BUSY, 0, LOG_NAME " is locked");
}

/* --- refresh ------------------------------------------------------------------------------- */

/*
 * Where to begin without a log that can be read. Lost or damaged: nobody can tell what it said, so
 * everything captured so far is out of date. None yet, in a root that never held an entry: 0.
 */
static uint64_t first_floor(const struct cog_tags *tags)
{
    struct cog_stat stat;
    bool first = !tags->loaded && tags->options.is_unused != NULL &&
                 tags->fs->stat_at(tags->options.root, LOG_NAME, &stat) == -ENOENT &&
                 tags->options.is_unused(tags->options.context);
    return first ? 0 : new_version(tags, tags->table.newest);
}

static enum cog_status start_over(struct cog_tags *tags, struct cog_error *err)
{
    struct cog_buf none = {0};
    uint32_t chance = 0;
    (void)tags->fs->random(&chance, sizeof chance);
    uint64_t floor = first_floor(tags);
    /* A random first seq: a process that knows the lost log must not take this one for it. */
    enum cog_status status = write_log(tags, floor, 1 + chance, &none, err);
    if (status == COG_OK && tags->options.notify != NULL) {
        tags->options.notify(tags->options.context);
    }
    return status;
}

/* A table of the log as it is now, and which log that is. */
static enum cog_status read_table(struct cog_tags *tags, struct log_head *head,
                                  struct cog_stat *stat, struct table *table, struct cog_error *err)
{
    struct cog_buf records = {0};
    int fd = tags->fs->open(tags->options.root, LOG_NAME, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        return fd == -ENOENT || fd == -ELOOP ? COG_ERR_DAMAGED : log_error(fd, "opening", err);
    }
    int rc = tags->fs->stat(fd, stat);
    enum cog_status status = rc < 0                 ? log_error(rc, "fstat of", err)
                             : !S_ISREG(stat->mode) ? COG_ERR_DAMAGED
                                                    : COG_OK;
    if (status == COG_OK) {
        status = fill_table(tags, fd, head, &records, table, err);
    }
    tags->fs->close(fd);
    cog_buf_release(&records);
    return status;
}

static enum cog_status load_once(struct cog_tags *tags, struct cog_error *err)
{
    struct log_head head = {0};
    struct table table = {0};
    struct cog_stat stat;
    (void)alone_begin(tags, true);
    enum cog_status status = read_table(tags, &head, &stat, &table, err);
    alone_end(tags);
    if (status != COG_OK) {
        cog_free(table.slots);
        return status;
    }
    tags->inode = stat.inode;
    tags->seq = head.seq;
    take_table(tags, &table);
    return COG_OK;
}

/* One process at a time: a second one must find what the first has made. */
static enum cog_status replace_log(struct cog_tags *tags, struct cog_error *err)
{
    int fd = tags->fs->open(tags->options.root, ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd >= 0) {
        (void)cog_fs_lock_whole_patiently(tags->fs, fd);
    }
    enum cog_status status = load_once(tags, err);
    if (status == COG_ERR_DAMAGED) {
        status = start_over(tags, err);
        status = status == COG_OK ? load_once(tags, err) : status;
    }
    if (fd >= 0) {
        /* by name: a child forked meanwhile holds a copy of the descriptor */
        (void)tags->fs->lock_whole(fd, COG_UNLOCK);
        tags->fs->close(fd);
    }
    return status;
}

/* With log_mutex held. A read that meets an append in flight is tried again before it is judged. */
static enum cog_status load(struct cog_tags *tags, struct cog_error *err)
{
    enum cog_status status = COG_ERR_DAMAGED;
    for (unsigned tries = 0; tries < 3 && status == COG_ERR_DAMAGED; tries++) {
        status = load_once(tags, err);
    }
    bool damaged = status == COG_ERR_DAMAGED;
    if (damaged && tags->options.writable) {
        status = replace_log(tags, err);
    }
    if (damaged && status != COG_OK && !tags->lost) {
        struct table table = {0}; /* for this process alone, then */
        table.floor = table.newest = first_floor(tags);
        take_table(tags, &table);
    }
    tags->lost = damaged && status != COG_OK;
    return damaged ? COG_OK : status;
}

/*
 * The commit slots as they are now: has anything happened since the table was filled? Reads 128
 * bytes that are in memory, or says COG_ERR_WOULD_BLOCK to who must not wait for them.
 */
static enum cog_status look_alone(struct cog_tags *tags, bool may_block, bool *changed)
{
    const struct cog_fs *fs = tags->fs;
    unsigned char bytes[RECORDS_AT];
    struct log_head head = {0};
    struct cog_stat stat;
    int flags = O_RDONLY | O_NONBLOCK;
    *changed = true;
    int fd = may_block ? fs->open(tags->options.root, LOG_NAME, flags, 0)
                       : fs->open_cached(tags->options.root, LOG_NAME, flags);
    if (fd < 0) {
        return fd == -EAGAIN && !may_block ? COG_ERR_WOULD_BLOCK : COG_OK;
    }
    int64_t n = may_block ? cog_fs_read_all(fs, fd, bytes, sizeof bytes, 0)
                          : fs->pread_cached(fd, bytes, sizeof bytes, 0);
    bool whole = n == (may_block ? 0 : (int64_t)sizeof bytes);
    *changed = !(whole && fs->stat(fd, &stat) == 0 && stat.inode == tags->inode &&
                 decode_head(bytes, &head) && head.seq == tags->seq);
    fs->close(fd);
    return COG_OK;
}

static enum cog_status look_at_log(struct cog_tags *tags, bool may_block, bool *changed)
{
    if (!alone_begin(tags, may_block)) {
        return COG_ERR_WOULD_BLOCK;
    }
    enum cog_status status = look_alone(tags, may_block, changed);
    alone_end(tags);
    return status;
}

struct clock_reading {
    uint64_t signal;
    uint64_t now_ns;
    bool has_signal;
};

static struct clock_reading read_clocks(struct cog_tags *tags)
{
    struct clock_reading reading = {0};
    reading.has_signal = tags->options.signal != NULL &&
                         tags->options.signal(tags->options.context, &reading.signal);
    reading.now_ns = tags->fs->boottime_ns();
    return reading;
}

static bool is_fresh(struct cog_tags *tags, const struct clock_reading *reading)
{
    pthread_mutex_lock(&tags->table_mutex);
    bool fresh = tags->loaded && reading->has_signal && reading->signal == tags->signal &&
                 reading->now_ns - tags->looked_ns < LOOK_AGAIN_NS;
    pthread_mutex_unlock(&tags->table_mutex);
    return fresh;
}

/* With log_mutex held. */
static enum cog_status refresh_locked(struct cog_tags *tags, bool may_read, struct cog_error *err)
{
    struct clock_reading reading = read_clocks(tags); /* first: later changes are seen next time */
    bool changed = true;
    if (tags->loaded) {
        enum cog_status status = look_at_log(tags, may_read, &changed);
        if (status != COG_OK) {
            return status;
        }
    }
    if (changed && !may_read) {
        return COG_ERR_WOULD_BLOCK;
    }
    enum cog_status status = changed ? load(tags, err) : COG_OK;
    if (status == COG_OK) {
        pthread_mutex_lock(&tags->table_mutex);
        tags->signal = reading.signal;
        tags->looked_ns = reading.now_ns;
        pthread_mutex_unlock(&tags->table_mutex);
    }
    return status;
}

enum cog_status cog_tags_refresh(struct cog_tags *tags, bool may_read, struct cog_error *err)
{
    struct clock_reading reading = read_clocks(tags);
    if (is_fresh(tags, &reading)) {
        return COG_OK;
    }
    if (may_read) {
        pthread_mutex_lock(&tags->log_mutex);
    } else if (pthread_mutex_trylock(&tags->log_mutex) != 0) {
        return COG_ERR_WOULD_BLOCK;
    }
    enum cog_status status = refresh_locked(tags, may_read, err);
    pthread_mutex_unlock(&tags->log_mutex);
    return status;
}

/* --- answers ------------------------------------------------------------------------------- */

struct known {
    uint64_t version, floor;
};

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What the log says, and what it could not be told. */
static struct known find_known(struct cog_tags *tags, uint64_t hash)
{
    struct known known;
    pthread_mutex_lock(&tags->table_mutex);
    known.version = larger(table_find(&tags->table, hash), table_find(&tags->unwritten, hash));
    known.floor = larger(tags->table.floor, tags->unwritten.floor);
    pthread_mutex_unlock(&tags->table_mutex);
    return known;
}

uint64_t cog_tags_version(struct cog_tags *tags, const void *name, size_t size)
{
    struct known known = find_known(tags, tag_hash(name, size));
    return known.version > known.floor ? known.version : known.floor;
}

uint64_t cog_tags_newest(struct cog_tags *tags)
{
    pthread_mutex_lock(&tags->table_mutex);
    uint64_t newest = larger(tags->table.newest, tags->unwritten.newest);
    pthread_mutex_unlock(&tags->table_mutex);
    return newest;
}

bool cog_tags_is_current(struct cog_tags *tags, const void *name, size_t size, uint64_t captured,
                         uint64_t now_us)
{
    struct known known = find_known(tags, tag_hash(name, size));
    if (captured < known.version || captured < known.floor) {
        return false;
    }
    /* By a clock that ran ahead: it cannot be told which came first, capture or invalidation. */
    return known.version == 0 || captured == known.version || captured <= now_us + FUTURE_US;
}

/* --- invalidate ---------------------------------------------------------------------------- */

/* The newest record of each tag, newest first, as many as fit in half of the log. */
struct kept {
    const unsigned char *record;
    size_t length;
    uint64_t version;
};

static int newer(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;
    return (x->version < y->version) - (x->version > y->version);
}

/*
 * Full: write a log with one record a tag. If that is more than half of the log, the oldest are
 * dropped and the floor rises to the newest dropped: entries captured before it become misses.
 */
static enum cog_status compact(struct cog_tags *tags, const struct cog_buf *records,
                               const struct table *table, uint64_t seq, struct cog_error *err)
{
    struct kept *kept = cog_alloc_zeroed(table->count + 1, sizeof *kept);
    size_t count = 0;
    if (kept == NULL) {
        return COG_ERR_NOMEM;
    }
    size_t length;
    uint64_t version;
    for (size_t at = 0; at < records->size; at += length) {
        const unsigned char *record = records->data + at;
        if (!next_record(record, records->size - at, &length, &version)) {
            break; /* cannot be: the table was filled from these bytes */
        }
        uint64_t hash = tag_hash(record + RECORD_HEAD, length - RECORD_HEAD);
        if (table_find(table, hash) == version && count < table->count) {
            kept[count++] = (struct kept){record, length, version};
        }
    }
    if (count > 1) {
        qsort(kept, count, sizeof *kept, newer);
    }
    struct cog_buf out = {0};
    uint64_t floor = table->floor;
    enum cog_status status = COG_OK;
    for (size_t i = 0; i < count && status == COG_OK; i++) {
        if (RECORDS_AT + out.size + kept[i].length > tags->options.capacity / 2) {
            floor = kept[i].version > floor ? kept[i].version : floor;
            break;
        }
        status = cog_buf_append(&out, kept[i].record, kept[i].length);
    }
    if (status == COG_OK) {
        status = write_log(tags, floor, seq, &out, err);
    }
    cog_buf_release(&out);
    cog_free(kept);
    return status;
}

/* Records, then the commit slot that is not current, then one sync for both. */
static enum cog_status append(struct cog_tags *tags, int fd, const struct log_head *head,
                              const struct cog_buf *fresh, struct cog_error *err)
{
    unsigned char slot[COMMIT_SIZE];
    encode_commit(slot, head->seq + 1, head->used + fresh->size);
    uint64_t slot_at = HEAD_SIZE + (head->which == 0 ? COMMIT_SIZE : 0);
    int rc = cog_fs_write_all(tags->fs, fd, fresh->data, fresh->size, head->used);
    if (rc == 0) {
        rc = cog_fs_write_all(tags->fs, fd, slot, sizeof slot, slot_at);
    }
    if (rc == 0) {
        rc = tags->fs->sync_data(fd);
    }
    return rc < 0 ? log_error(rc, "writing", err) : COG_OK;
}

static enum cog_status encode_records(const struct cog_tag_name *names, size_t count,
                                      uint64_t version, struct cog_buf *out)
{
    enum cog_status status = COG_OK;
    for (size_t i = 0; i < count && status == COG_OK; i++) {
        status = append_record(out, names[i].name, names[i].size, version);
    }
    return status;
}

/* With the log locked. COG_ABSENT: it was compacted, start over with the new one. */
static enum cog_status invalidate_locked(struct cog_tags *tags, int fd,
                                         const struct cog_tag_name *names, size_t count,
                                         uint64_t above, struct cog_error *err)
{
    struct log_head head = {0};
    struct cog_buf records = {0}, fresh = {0};
    struct table table = {0};
    enum cog_status status = fill_table(tags, fd, &head, &records, &table, err);
    if (status == COG_OK) {
        status = encode_records(names, count, new_version(tags, larger(table.newest, above)),
                                &fresh);
    }
    uint64_t capacity = tags->options.capacity;
    capacity = head.capacity < capacity ? head.capacity : capacity;
    if (status == COG_OK && head.used + fresh.size > capacity) {
        status = compact(tags, &records, &table, head.seq + 1, err);
        status = status == COG_OK ? COG_ABSENT : status;
    } else if (status == COG_OK) {
        status = append(tags, fd, &head, &fresh, err);
    }
    cog_buf_release(&records);
    cog_buf_release(&fresh);
    cog_free(table.slots);
    return status;
}

/* With log_mutex held. */
static enum cog_status invalidate(struct cog_tags *tags, const struct cog_tag_name *names,
                                  size_t count, uint64_t above, struct cog_error *err)
{
    enum cog_status status = COG_ABSENT;
    for (unsigned tries = 0; tries < 4 && status == COG_ABSENT; tries++) {
        int fd = -1;
        (void)alone_begin(tags, true);
        status = lock_log(tags, &fd, err);
        if (status == COG_OK) {
            status = invalidate_locked(tags, fd, names, count, above, err);
            unlock_log(tags, fd);
        }
        alone_end(tags);
        if (status == COG_ERR_DAMAGED || status == COG_ABSENT) {
            struct cog_error ignored;
            enum cog_status loaded = load(tags, &ignored); /* replaces what is lost or damaged */
            status = loaded == COG_OK ? COG_ABSENT : loaded;
        }
    }
    return status == COG_ABSENT
               ? cog_fail(err, COG_ERR_IO, 0, LOG_NAME " is lost or damaged again and again")
               : status;
}

/* The log cannot be told: this process at least gives out nothing of it any more. */
static void keep_unwritten(struct cog_tags *tags, const struct cog_tag_name *names, size_t count,
                           uint64_t above)
{
    pthread_mutex_lock(&tags->table_mutex);
    uint64_t newest = larger(tags->table.newest, tags->unwritten.newest);
    uint64_t version = new_version(tags, larger(newest, above));
    for (size_t i = 0; i < count; i++) {
        uint64_t hash = tag_hash(names[i].name, names[i].size);
        if (tags->unwritten.count >= UNWRITTEN_LIMIT ||
            table_raise(&tags->unwritten, hash, version) != COG_OK) {
            tags->unwritten.floor = tags->unwritten.newest = version; /* no room: all of it */
        }
    }
    pthread_mutex_unlock(&tags->table_mutex);
}

enum cog_status cog_tags_invalidate(struct cog_tags *tags, const struct cog_tag_name *names,
                                    size_t count, uint64_t above, struct cog_error *err)
{
    enum { BATCH = 16 }; /* so that a batch fits into an empty log of the least capacity */
    for (size_t i = 0; i < count; i++) {
        if (names[i].size == 0 || names[i].size > COG_TAG_LIMIT) {
            return cog_fail(err, COG_ERR_LIMIT, 0, "a tag of %zu bytes: 1 to %d are allowed",
                            names[i].size, (int)COG_TAG_LIMIT);
        }
    }
    if (!tags->options.writable) {
        keep_unwritten(tags, names, count, above);
        return cog_fail(err, COG_ERR_READ_ONLY, 0, "the root is open read-only");
    }
    pthread_mutex_lock(&tags->log_mutex);
    enum cog_status status = COG_OK;
    for (size_t at = 0; at < count && status == COG_OK; at += BATCH) {
        status = invalidate(tags, names + at, count - at < BATCH ? count - at : BATCH, above, err);
    }
    if (status != COG_OK) {
        keep_unwritten(tags, names, count, above);
    }
    if (tags->options.notify != NULL) {
        tags->options.notify(tags->options.context);
    }
    struct cog_error ignored;
    enum cog_status loaded = load(tags, &ignored); /* this process sees it at once */
    pthread_mutex_unlock(&tags->log_mutex);
    return status == COG_OK ? loaded : status;
}

/* --- open and close ------------------------------------------------------------------------ */

enum cog_status cog_tags_open(const struct cog_fs *fs, const struct cog_tags_options *options,
                              struct cog_tags **out, struct cog_error *err)
{
    *out = NULL;
    struct cog_tags *tags = cog_alloc_zeroed(1, sizeof *tags);
    if (tags == NULL) {
        return COG_ERR_NOMEM;
    }
    tags->fs = fs;
    tags->options = *options;
    tags->process_locks = !fs->locks_are_per_description();
    mutexes_init(tags);
    struct cog_stat found;
    enum cog_status status = cog_tags_refresh(tags, true, err);
    if (status == COG_OK && tags->lost && fs->stat_at(options->root, LOG_NAME, &found) == 0 &&
        S_ISDIR(found.mode)) {
        status = cog_fail(err, COG_ERR_IO, EISDIR,
                          "'" LOG_NAME "' is a directory there: remove it");
    }
    if (status != COG_OK) {
        cog_tags_close(tags);
        return status;
    }
    *out = tags;
    return COG_OK;
}

void cog_tags_close(struct cog_tags *tags)
{
    if (tags != NULL) {
        (void)pthread_mutex_destroy(&tags->table_mutex);
        (void)pthread_mutex_destroy(&tags->log_mutex);
        cog_free(tags->table.slots);
        cog_free(tags->unwritten.slots);
        cog_free(tags);
    }
}

/* A thread that was filling the table is not in the child: forget what it may have half done. */
void cog_tags_after_fork(struct cog_tags *tags)
{
    if (tags != NULL) {
        mutexes_init(tags);
        tags->table = (struct table){0}; /* its memory may be half changed: left alone */
        tags->loaded = false;
        /* so may this one be, and no log has it: everything before the newest of it is outdated */
        uint64_t newest = tags->unwritten.newest;
        tags->unwritten = (struct table){.floor = newest, .newest = newest};
    }
}
