#define _POSIX_C_SOURCE 200809L /* O_DIRECTORY, pthread_atfork */
#include "core/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/store_internal.h"

#define LAYOUT "v1"
#define TMPFS 0x01021994u
#define VERSION_TABLES "cogcache store 1\nsize: hard limit, kept in the index\n"
#define VERSION_LOOSE "cogcache store 1\nsize: soft limit, no index\n"
#define CACHEDIR_TAG                                \
    "Signature: 8a477f597d28d172789f06886806bc55\n" \
    "# This directory holds a cache made by cogcache; backups may leave it out.\n"

/* --- fork ---------------------------------------------------------------------------------- */

/*
 * The child of a fork has one thread; a mutex that another thread held stays locked in it for
 * ever. The only ones here belong to the tags: the child makes them anew. The list is locked around
 * the fork so that the child finds it whole.
 */
static pthread_mutex_t stores_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static struct cog_store *stores;

static void before_fork(void)
{
    pthread_mutex_lock(&stores_mutex);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&stores_mutex);
}

static void after_fork_in_child(void)
{
    for (struct cog_store *store = stores; store != NULL; store = store->next) {
        cog_tags_after_fork(store->tags);
    }
    pthread_mutex_unlock(&stores_mutex);
}

static void watch_forks(void)
{
    (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void enlist(struct cog_store *store)
{
    pthread_once(&fork_once, watch_forks);
    pthread_mutex_lock(&stores_mutex);
    store->next = stores;
    stores = store;
    pthread_mutex_unlock(&stores_mutex);
}

static void delist(struct cog_store *store)
{
    pthread_mutex_lock(&stores_mutex);
    for (struct cog_store **at = &stores; *at != NULL; at = &(*at)->next) {
        if (*at == store) {
            *at = store->next;
            break;
        }
    }
    pthread_mutex_unlock(&stores_mutex);
}

/* --- trust --------------------------------------------------------------------------------- */

bool cog_store_trusts(const struct cog_store *store, const struct cog_stat *stat)
{
    return stat->uid == store->uid || stat->uid == 0 || stat->uid == store->root_uid ||
           (store->options.group_shared && stat->gid == store->root_gid);
}

unsigned cog_store_file_mode(const struct cog_store *store)
{
    return store->options.group_shared ? 0660 : 0600;
}

unsigned cog_store_dir_mode(const struct cog_store *store)
{
    return store->options.group_shared ? 02770 : 0700;
}

uint64_t cog_store_charge(const struct cog_store *store, const struct cog_stat *stat)
{
    return cog_charge(stat, store->block_size);
}

/* May this directory be the root, or hold it? */
static enum cog_status check_owner(const struct cog_store *store, const struct cog_stat *stat,
                                   const char *path, struct cog_error *err)
{
    bool shared = store->options.group_shared;
    if (stat->uid != store->uid && stat->uid != 0 && !(shared && store->fs->in_group(stat->gid)) &&
        store->options.access != COG_ACCESS_READ_ONLY) {
        return cog_fail(err, COG_ERR_REFUSED, 0,
                        "%s belongs to uid %u: use a directory of your own, shared=\"group\", or "
                        "open it read-only",
                        path, stat->uid);
    }
    if ((stat->mode & (shared ? 0002 : 0022)) != 0) {
        return cog_fail(err, COG_ERR_REFUSED, 0, "%s is writable by %s (mode %04o): chmod %s it",
                        path, shared ? "everybody" : "others", stat->mode & 07777,
                        shared ? "o-w" : "go-w");
    }
    return COG_OK;
}

/* --- directories and small files ----------------------------------------------------------- */

/* Make one directory; the mode whatever the umask. 1 when it is new, 0 when there is one. */
static int make_dir_at(const struct cog_fs *fs, int dir, const char *path, unsigned mode)
{
    int rc = fs->mkdir(dir, path, mode & 0777);
    if (rc == -EEXIST) {
        struct cog_stat stat;
        rc = fs->stat_at(dir, path, &stat);
        return rc < 0 ? rc : S_ISDIR(stat.mode) ? 0 : -ENOTDIR;
    }
    if (rc < 0) {
        return rc;
    }
    int fd = fs->open(dir, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK, 0);
    if (fd < 0) {
        return fd;
    }
    rc = fs->chmod(fd, mode);
    fs->close(fd);
    return rc < 0 ? rc : 1;
}

int cog_store_make_dir(struct cog_store *store, const char *path)
{
    int rc = make_dir_at(store->fs, store->root, path, cog_store_dir_mode(store));
    return rc < 0 ? rc : 0;
}

static int write_temp(struct cog_store *store, const char *temp, const char *content)
{
    unsigned mode = cog_store_file_mode(store);
    int fd = store->fs->open(store->root, temp, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (fd < 0) {
        return fd;
    }
    int rc = store->fs->chmod(fd, mode);
    if (rc == 0) {
        rc = cog_fs_write_all(store->fs, fd, content, strlen(content), 0);
    }
    store->fs->close(fd);
    return rc;
}

/*
 * Publish a small file of the root if there is none; the content is constant, so races are moot. A
 * process that makes a new index empties tmp/ under us: then once more.
 */
static int write_small_file(struct cog_store *store, const char *name, const char *content)
{
    struct cog_stat stat;
    int rc = -ENOENT;
    for (unsigned tries = 0; tries < 8 && rc == -ENOENT; tries++) {
        if (store->fs->stat_at(store->root, name, &stat) == 0) {
            return 0;
        }
        char temp[COG_LONGEST_TEMP];
        cog_loose_temp_path(store, "new", temp);
        rc = write_temp(store, temp, content);
        if (rc == 0) {
            rc = store->fs->rename(store->root, temp, store->root, name);
        }
        if (rc < 0) {
            (void)store->fs->unlink(store->root, temp);
        }
    }
    return rc;
}

/* Make every missing directory of the base path, and the base directory itself. */
static int make_base(const struct cog_store *store)
{
    unsigned mode = store->options.group_shared ? 0777 : 0700;
    size_t size = strlen(store->base_path) + 1;
    char *path = cog_alloc(size);
    if (path == NULL) {
        return -ENOMEM;
    }
    memcpy(path, store->base_path, size);
    int rc = 0;
    for (char *at = path + 1; *at != '\0' && rc == 0; at++) {
        if (*at != '/') {
            continue;
        }
        *at = '\0';
        rc = store->fs->mkdir(AT_FDCWD, path, mode);
        *at = '/';
        /* EROFS and EACCES are answered for directories that exist, too: the last one decides. */
        if (rc == -EEXIST || rc == -EROFS || rc == -EACCES || rc == -EISDIR) {
            rc = 0;
        }
    }
    cog_free(path);
    if (rc == 0) {
        rc = make_dir_at(store->fs, AT_FDCWD, store->base_path, cog_store_dir_mode(store));
    }
    return rc < 0 ? rc : 0;
}

static enum cog_status open_failed(int rc, const char *path, struct cog_error *err)
{
    if (rc == -ENOTDIR || rc == -ELOOP) {
        return cog_fail(err, COG_ERR_REFUSED, -rc, "%s is not a directory", path);
    }
    if (rc == -EROFS || rc == -EACCES || rc == -EPERM) {
        return cog_fail(err, COG_ERR_READ_ONLY, -rc, "%s cannot be made or opened", path);
    }
    return cog_fail(err, COG_ERR_IO, -rc, "opening %s", path);
}

/* The base directory may be reached through symbolic links; below it none is followed. */
static enum cog_status open_base(struct cog_store *store, int *base, struct cog_error *err)
{
    const struct cog_fs *fs = store->fs;
    int fd = fs->open(AT_FDCWD, store->base_path, O_RDONLY | O_DIRECTORY, 0);
    if (fd == -ENOENT && store->options.access != COG_ACCESS_READ_ONLY) {
        int rc = make_base(store);
        fd = rc < 0 ? rc : fs->open(AT_FDCWD, store->base_path, O_RDONLY | O_DIRECTORY, 0);
    }
    if (fd < 0) {
        return open_failed(fd, store->base_path, err);
    }
    *base = fd;
    return COG_OK;
}

static enum cog_status open_root(struct cog_store *store, int base, struct cog_error *err)
{
    const struct cog_fs *fs = store->fs;
    if (store->options.access != COG_ACCESS_READ_ONLY) {
        int rc = make_dir_at(fs, base, LAYOUT, cog_store_dir_mode(store));
        if (rc < 0 && rc != -EROFS && rc != -EACCES && rc != -EPERM) {
            return open_failed(rc, store->root_path, err);
        }
    }
    int fd = fs->open(base, LAYOUT, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) {
        return open_failed(fd, store->root_path, err);
    }
    store->root = fd;
    struct cog_stat stat;
    struct cog_fs_space space;
    int rc = fs->stat(fd, &stat);
    if (rc == 0) {
        rc = fs->space(fd, &space);
    }
    if (rc < 0) {
        return open_failed(rc, store->root_path, err);
    }
    store->root_uid = stat.uid;
    store->root_gid = stat.gid;
    store->block_size = space.block_size != 0 ? space.block_size : 4096;
    return check_owner(store, &stat, store->root_path, err);
}

/* --- the kind of root ---------------------------------------------------------------------- */

/* File systems whose locks, maps and block counts are known to be true. */
static bool is_local(uint64_t type)
{
    static const uint64_t local[] = {
        0,                      /* the system does not say (macOS) */
        0xEF53,                 /* ext2, ext3, ext4 */
        0x58465342,             /* XFS */
        0x9123683E,             /* btrfs */
        TMPFS,      0xF2F52010, /* F2FS */
        0x2FC12FC1,             /* ZFS */
        0x794C7630,             /* overlayfs */
    };
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        if ((type & UINT32_MAX) == local[i]) {
            return true;
        }
    }
    return false;
}

/* What VERSION says: 1 table-less, 0 with tables, -ENOENT, other errno. */
static int recorded_kind(const struct cog_store *store)
{
    int fd = store->fs->open(store->root, "VERSION", O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        return fd;
    }
    char text[sizeof VERSION_LOOSE] = {0};
    int64_t n = store->fs->pread(fd, text, sizeof text - 1, 0);
    store->fs->close(fd);
    return n < 0 ? (int)n : strcmp(text, VERSION_LOOSE) == 0;
}

static int write_small_files(struct cog_store *store)
{
    int rc = write_small_file(store, "VERSION", store->table_less ? VERSION_LOOSE : VERSION_TABLES);
    if (rc == 0) {
        rc = write_small_file(store, "CACHEDIR.TAG", CACHEDIR_TAG);
    }
    return rc < 0 ? rc : write_small_file(store, ".gitignore", "*\n");
}

/* Table-less is a property of the root, never of one process: who comes first records it. */
static enum cog_status settle_kind(struct cog_store *store, bool writable, struct cog_error *err)
{
    struct cog_fs_space space;
    int rc = store->fs->space(store->root, &space);
    if (rc < 0) {
        return cog_fail(err, COG_ERR_IO, -rc, "statfs of %s", store->root_path);
    }
    bool network = !is_local(space.type);
    store->in_memory = (space.type & UINT32_MAX) == TMPFS;
    int recorded = recorded_kind(store);
    store->table_less = network || recorded == 1 || (recorded < 0 && store->options.table_less);
    const char *no_map = getenv("COGCACHE_NO_MMAP");
    store->options.no_map |= no_map != NULL && strcmp(no_map, "1") == 0;
    store->maps = !network && !store->options.no_map;
    if (!writable) {
        return COG_OK;
    }
    if (recorded == 0 && store->table_less) { /* moved to a network file system */
        (void)store->fs->unlink(store->root, "VERSION");
    }
    rc = write_small_files(store);
    if (rc == 0 && !store->table_less && recorded_kind(store) == 1) {
        store->table_less = true; /* another process was first */
    }
    return rc < 0 ? cog_store_write_error(store, -rc, "preparing the root", err) : COG_OK;
}

static int make_dirs(struct cog_store *store, const char **which)
{
    static const char *const dirs[] = {"objects", "tmp", "quarantine"};
    int rc = 0;
    for (size_t i = 0; i < 3 && rc == 0; i++) {
        *which = dirs[i];
        rc = cog_store_make_dir(store, dirs[i]);
    }
    return rc;
}

/* Make what the root consists of. READ_ONLY when it cannot be written. */
static enum cog_status prepare_root(struct cog_store *store, struct cog_error *err)
{
    const char *which;
    int rc = make_dirs(store, &which);
    if (rc == -ENOTDIR) {
        return cog_fail(err, COG_ERR_REFUSED, ENOTDIR, "%s/%s is not a directory", store->root_path,
                        which);
    }
    if (rc < 0) {
        return cog_store_write_error(store, -rc, "preparing the root", err);
    }
    return settle_kind(store, true, err);
}

/* The root was removed: make it again, and let the descriptor that everybody uses mean the new one.
 */
static int renew_root(struct cog_store *store)
{
    const struct cog_fs *fs = store->fs;
    struct cog_stat stat;
    int base = -1;
    if (open_base(store, &base, NULL) != COG_OK) {
        return -ENOENT;
    }
    int rc = make_dir_at(fs, base, LAYOUT, cog_store_dir_mode(store));
    int fd = rc < 0 ? rc : fs->open(base, LAYOUT, O_RDONLY | O_DIRECTORY, 0);
    fs->close(base);
    if (fd < 0) {
        return fd;
    }
    rc = fs->stat(fd, &stat);
    if (rc == 0) {
        rc = check_owner(store, &stat, store->root_path, NULL) == COG_OK
                 ? fs->retarget(fd, store->root)
                 : -EACCES;
    }
    fs->close(fd);
    return rc;
}

bool cog_store_mend_root(struct cog_store *store)
{
    struct cog_stat stat;
    const char *which;
    int rc = store->fs->stat(store->root, &stat);
    if (rc == 0 && stat.links == 0) {
        rc = renew_root(store);
    }
    if (rc == 0) {
        rc = make_dirs(store, &which);
    }
    return rc == 0 && write_small_files(store) == 0;
}

/* --- limits -------------------------------------------------------------------------------- */

struct measure {
    const struct cog_store *store;
    int dir;
    int depth;
    uint64_t bytes;
};

/* Bytes on disk of everything below a directory of another layout. */
static bool measure_name(void *context, const char *name)
{
    struct measure *measure = context;
    const struct cog_fs *fs = measure->store->fs;
    struct cog_stat stat;
    if (fs->stat_at(measure->dir, name, &stat) < 0) {
        return true;
    }
    measure->bytes += cog_store_charge(measure->store, &stat);
    if (S_ISDIR(stat.mode) && measure->depth < 4) {
        int fd = fs->open(measure->dir, name, O_RDONLY | O_DIRECTORY, 0);
        if (fd >= 0) {
            struct measure below = {measure->store, fd, measure->depth + 1, 0};
            (void)fs->list(fd, ".", measure_name, &below);
            measure->bytes += below.bytes;
            fs->close(fd);
        }
    }
    return true;
}

static bool measure_layout(void *context, const char *name)
{
    const char *digit = name + 1;
    if (name[0] != 'v' || strcmp(name, LAYOUT) == 0 || *digit == '\0') {
        return true;
    }
    while (*digit >= '0' && *digit <= '9') {
        digit++;
    }
    return *digit != '\0' || measure_name(context, name);
}

/* Every layout bounds itself; ours takes what the others leave. */
static uint64_t other_layouts(const struct cog_store *store, int base)
{
    struct measure measure = {store, base, 0, 0};
    (void)store->fs->list(base, ".", measure_layout, &measure);
    return measure.bytes;
}

static uint64_t limit_beside(const struct cog_store *store, int base)
{
    uint64_t limit = store->options.max_bytes;
    uint64_t others = limit == 0 ? 0 : other_layouts(store, base);
    uint64_t left = limit > others ? limit - others : 0;
    return limit == 0 || left > COG_LEAST_LIMIT ? left : COG_LEAST_LIMIT;
}

static void bound_by(struct cog_store *store, uint64_t limit)
{
    atomic_store(&store->limit, limit);
    uint64_t quarantine = limit == 0 ? UINT64_MAX : limit / 32;
    store->quarantine_bytes = quarantine < (64 << 20) ? quarantine : 64 << 20;
}

static void settle_limits(struct cog_store *store, int base)
{
    bound_by(store, limit_beside(store, base));
    atomic_store(&store->measured_ns, store->fs->boottime_ns());
}

static uint64_t tags_capacity(const struct cog_store *store)
{
    uint64_t share = store->limit == 0 ? COG_TAGS_LOG_LARGEST : store->limit / 256;
    return share < COG_TAGS_LOG_SMALLEST  ? COG_TAGS_LOG_SMALLEST
           : share > COG_TAGS_LOG_LARGEST ? COG_TAGS_LOG_LARGEST
                                          : share;
}

/* The memo of source digests, kept by the callers of the store beside it. */
static uint64_t memo_bytes(const struct cog_store *store)
{
    return store->limit == 0 || store->limit / 64 > COG_STORE_MEMO_BYTES ? COG_STORE_MEMO_BYTES
                                                                         : store->limit / 64;
}

static uint64_t free_floor(const struct cog_store *store)
{
    struct cog_fs_space space;
    uint64_t floor = store->options.min_free_bytes;
    if (floor != COG_MIN_FREE_DEFAULT) {
        return floor;
    }
    if (store->fs->space(store->root, &space) < 0) {
        return 0;
    }
    uint64_t share = space.total_bytes / 20;
    return share < UINT64_C(2) << 30 ? share : UINT64_C(2) << 30;
}

void cog_store_adjust_limit(struct cog_store *store)
{
    const uint64_t hour_ns = UINT64_C(3600000000000);
    uint64_t now = store->fs->boottime_ns();
    if (store->options.max_bytes == 0 || now - atomic_load(&store->measured_ns) < hour_ns) {
        return;
    }
    atomic_store(&store->measured_ns, now);
    int base = store->fs->open(AT_FDCWD, store->base_path, O_RDONLY | O_DIRECTORY, 0);
    if (base < 0) {
        return;
    }
    uint64_t limit = limit_beside(store, base);
    store->fs->close(base);
    if (limit != atomic_load(&store->limit)) {
        atomic_store(&store->limit, limit);
        if (store->index != NULL) {
            (void)cog_index_set_limits(store->index, limit, store->fixed_bytes, free_floor(store),
                                       store->options.max_files, NULL);
        }
    }
}

/* --- index and tags ------------------------------------------------------------------------ */

static bool tags_signal(void *context, uint64_t *value)
{
    struct cog_store *store = context;
    return store->index != NULL && cog_index_tag_counter(store->index, value);
}

static void tags_notify(void *context)
{
    struct cog_store *store = context;
    if (store->index != NULL) {
        cog_index_bump_tag_counter(store->index);
    }
}

static uint64_t index_now(void *context)
{
    return cog_store_now_ms(context);
}

static enum cog_status open_index(struct cog_store *store, struct cog_error *err)
{
    uint64_t touch = store->options.touch_seconds;
    struct cog_index_options options = {
        .fs = store->fs,
        .root = store->root,
        .limit = store->limit,
        .fixed_bytes = store->fixed_bytes,
        .free_floor = free_floor(store),
        .max_files = store->options.max_files,
        .keep_bounds = store->options.keep_bounds,
        .policy = store->options.policy,
        .touch_ns = (touch == COG_TOUCH_ALWAYS    ? 0
                     : touch == COG_TOUCH_DEFAULT ? 60
                                                  : touch) *
                    UINT64_C(1000000000),
        .no_map = store->options.no_map,
        .group_shared = store->options.group_shared,
        .hooks = {.context = store, .is_expired = cog_store_is_expired, .now_ms = index_now},
    };
    enum cog_status status = cog_index_open(&options, &store->index, err);
    if (status == COG_OK && store->options.keep_bounds) {
        struct cog_index_stats stats;
        cog_index_get_stats(store->index, &stats);
        bound_by(store, stats.limit);
    }
    return status;
}

static bool stop_at_any(void *context, const char *name)
{
    (void)name;
    *(bool *)context = true;
    return false;
}

/* The first put makes the first directory below objects/, and nothing ever removes one. */
static bool never_held_an_entry(void *context)
{
    const struct cog_store *store = context;
    bool any = false;
    int rc = store->fs->list(store->root, "objects", stop_at_any, &any);
    return !any && (rc == 0 || rc == -ENOENT);
}

static enum cog_status open_tags(struct cog_store *store, bool writable, struct cog_error *err)
{
    struct cog_tags_options options = {
        .root = store->root,
        .capacity = tags_capacity(store),
        .mode = cog_store_file_mode(store),
        .writable = writable,
        .signal = tags_signal,
        .notify = tags_notify,
        .is_unused = never_held_an_entry,
        .context = store,
    };
    return cog_tags_open(store->fs, &options, &store->tags, err);
}

/* Everything below the root. On READ_ONLY the caller decides whether to go on without writing. */
static enum cog_status attach(struct cog_store *store, struct cog_error *err)
{
    enum cog_status status = prepare_root(store, err);
    if (status != COG_OK) {
        return status;
    }
    /* The log twice while it is compacted; files and directories of a block or two. */
    store->fixed_bytes = store->quarantine_bytes + tags_capacity(store) + tags_capacity(store) / 2 +
                         memo_bytes(store) + 16 * (uint64_t)store->block_size;
    if (!store->table_less) {
        status = open_index(store, err);
        if (status == COG_ERR_UNSUPPORTED) { /* no working locks: no hard limit is possible here */
            (void)store->fs->unlink(store->root, "VERSION");
            store->options.table_less = true;
            status = settle_kind(store, true, err);
        }
        if (status != COG_OK) {
            return status;
        }
    }
    int rc = store->table_less ? cog_loose_clean_temp(store) : 0;
    if (rc == -EROFS || rc == -EACCES || rc == -EPERM) {
        return cog_store_write_error(store, -rc, "writing", err);
    }
    status = open_tags(store, true, err);
    if (status == COG_OK) {
        atomic_store(&store->tags_swept, cog_tags_newest(store->tags));
    }
    return status;
}

/* --- open and close ------------------------------------------------------------------------ */

static enum cog_status check_options(const struct cog_store_options *options, const char *base_path,
                                     struct cog_error *err)
{
    if (base_path == NULL || base_path[0] == '\0') {
        return cog_fail(err, COG_ERR_INVALID, 0, "base_path is empty");
    }
    if (options->max_bytes != 0 && options->max_bytes < COG_LEAST_LIMIT) {
        return cog_fail(err, COG_ERR_LIMIT, 0, "max_bytes %llu: the least is %llu (17 MB)",
                        (unsigned long long)options->max_bytes,
                        (unsigned long long)COG_LEAST_LIMIT);
    }
    if ((unsigned)options->policy >= COG_POLICY_COUNT ||
        (unsigned)options->durability > COG_DURABILITY_FULL ||
        (unsigned)options->access > COG_ACCESS_AUTO) {
        return cog_fail(err, COG_ERR_INVALID, 0, "unknown policy, durability or access");
    }
    return COG_OK;
}

static char *join(const char *path, const char *name)
{
    size_t size = strlen(path), more = strlen(name);
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    char *out = cog_alloc(size + more + 2);
    if (out != NULL) {
        memcpy(out, path, size);
        memcpy(out + size, name, more + 1);
    }
    return out;
}

static enum cog_status attach_as_asked(struct cog_store *store, struct cog_error *err)
{
    enum cog_access access = store->options.access;
    enum cog_status status = COG_ERR_READ_ONLY;
    if (access != COG_ACCESS_READ_ONLY) {
        status = attach(store, err);
        store->writable = status == COG_OK;
    }
    if (status != COG_ERR_READ_ONLY || access == COG_ACCESS_READ_WRITE) {
        return status;
    }
    cog_tags_close(store->tags);
    store->tags = NULL;
    atomic_store(&store->read_only, true);
    atomic_store(&store->counters.refused_read_only, 0);
    status = settle_kind(store, false, err);
    return status == COG_OK ? open_tags(store, false, err) : status;
}

static enum cog_status open_into(struct cog_store *store, struct cog_error *err)
{
    int base = -1;
    enum cog_status status = open_base(store, &base, err);
    if (status == COG_OK) {
        status = open_root(store, base, err);
    }
    if (status == COG_OK) {
        settle_limits(store, base);
        status = attach_as_asked(store, err);
    }
    if (base >= 0) {
        store->fs->close(base);
    }
    return status;
}

enum cog_status cog_store_open(const char *base_path, const struct cog_store_options *options,
                               struct cog_store **out, struct cog_error *err)
{
    static const struct cog_store_options defaults;
    *out = NULL;
    options = options != NULL ? options : &defaults;
    enum cog_status status = check_options(options, base_path, err);
    if (status != COG_OK) {
        return status;
    }
    struct cog_store *store = cog_alloc_zeroed(1, sizeof *store);
    if (store == NULL) {
        return COG_ERR_NOMEM;
    }
    store->options = *options;
    store->fs = options->fs != NULL ? options->fs : cog_fs_system();
    store->root = -1;
    store->uid = store->fs->effective_uid();
    atomic_store(&store->references, 1);
    cog_loose_init(store);
    store->base_path = join(base_path, "");
    store->root_path = join(base_path, "/" LAYOUT);
    status = COG_ERR_NOMEM;
    if (store->base_path != NULL && store->root_path != NULL) {
        status = open_into(store, err);
    }
    if (status != COG_OK) {
        cog_store_close(store);
        return status;
    }
    enlist(store);
    *out = store;
    return COG_OK;
}

void cog_store_ref(struct cog_store *store)
{
    atomic_fetch_add_explicit(&store->references, 1, memory_order_relaxed);
}

void cog_store_unref(struct cog_store *store)
{
    if (atomic_fetch_sub_explicit(&store->references, 1, memory_order_acq_rel) != 1) {
        return;
    }
    for (unsigned i = 0; i < COG_RECYCLED_CLASSES; i++) {
        for (unsigned j = 0; j < COG_RECYCLED_BLOCKS; j++) {
            cog_free(atomic_load(&store->recycler.blocks[i][j]));
        }
    }
    cog_free(store->base_path);
    cog_free(store->root_path);
    cog_free(store);
}

void cog_store_close(struct cog_store *store)
{
    if (store == NULL) {
        return;
    }
    delist(store);
    cog_tags_close(store->tags);
    store->tags = NULL;
    cog_index_close(store->index);
    store->index = NULL;
    if (store->root >= 0) {
        store->fs->close(store->root);
        store->root = -1;
    }
    cog_store_unref(store);
}

/* --- small answers ------------------------------------------------------------------------- */

void cog_store_set_clock_offset(struct cog_store *store, int64_t offset_ms)
{
    atomic_store(&store->clock_offset_ms, offset_ms);
}

uint64_t cog_store_now_ms(const struct cog_store *store)
{
    int64_t offset = atomic_load_explicit(&store->clock_offset_ms, memory_order_relaxed);
    int64_t now = (int64_t)store->fs->realtime_ms() + offset;
    return now > 0 ? (uint64_t)now : 0;
}

const char *cog_store_root(const struct cog_store *store)
{
    return store->root_path;
}

enum cog_status cog_store_write_error(struct cog_store *store, int error, const char *what,
                                      struct cog_error *err)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT: return cog_fail(err, COG_ERR_FULL, error, "%s: no space left", what);
    case EMFILE:
    case ENFILE:
    case EAGAIN: return cog_fail(err, COG_ERR_BUSY, error, "%s: out of descriptors", what);
    case EROFS:
    case EACCES:
    case EPERM:
        return cog_fail(err, COG_ERR_READ_ONLY, error, "%s in %s is not permitted", what,
                        store->root_path);
    case ENOMEM: return cog_fail(err, COG_ERR_NOMEM, error, "%s", what);
    default: return cog_fail(err, COG_ERR_IO, error, "%s in %s", what, store->root_path);
    }
}
