/* Opening, making, losing and sharing the index file [O3-O6], and what fork needs: see
 * index_file.h. */
#include "core/index_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/guard.h"

/* --- everything open in this process, for fork --- */

static pthread_mutex_t all_lock =
    PTHREAD_MUTEX_INITIALIZER; /* guards the lists and every close of an index descriptor */
static struct cog_index_file *all_files;
static struct cog_index *all_handles;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static atomic_uint
    *fork_page; /* reads 0 in a child that no handler has seen (raw clone); NULL: not to be had */

static void file_mutexes_init(struct cog_index_file *file)
{
    for (unsigned s = 0; s < COG_SHARDS; s++)
        pthread_mutex_init(&file->shard_mutex[s], NULL);
    pthread_mutex_init(&file->slot_mutex, NULL);
}

/*
 * In the child: the description is shared with the parent, so closing our descriptor frees none of
 * its locks; unlocking would. What other threads of the parent held does not exist here.
 */
static void forget_in_child(void)
{
    for (struct cog_index_file *file = all_files; file; file = file->next) {
        int fd = atomic_exchange(&file->fd, -1);
        if (fd >= 0)
            file->fs->close(fd);
        file_mutexes_init(file);
        atomic_store(&file->slot, -1);
        file->abandoned_count = 0;
        atomic_store(&file->mine, 0);
        atomic_store(&file->job, false);
        atomic_fetch_add(&file->fork_count, 1);
    }
    for (struct cog_index *index = all_handles; index; index = index->next) {
        pthread_mutex_init(&index->moving, NULL);
        atomic_store(&index->users, 0);
    }
    if (fork_page)
        atomic_store(fork_page, 1);
}

static void before_fork(void)
{
    pthread_mutex_lock(&all_lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&all_lock);
}

static void after_fork_in_child(void)
{
    forget_in_child();
    pthread_mutex_unlock(&all_lock); /* taken by this very thread in before_fork */
}

static void fork_setup(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    fork_page = cog_fs_system()->wiped_on_fork(4096);
    if (fork_page)
        atomic_store(fork_page, 1);
}

static void notice_raw_fork(void)
{
    if (!fork_page || atomic_load_explicit(fork_page, memory_order_relaxed))
        return;
    unsigned none = 0;
    if (!atomic_compare_exchange_strong(fork_page, &none,
                                        2)) /* another thread of the child is at it */
        return;
    pthread_mutex_init(&all_lock, NULL);
    forget_in_child();
}

/* --- references --- */

void cog_file_ref(struct cog_index_file *file)
{
    atomic_fetch_add(&file->refs, 1);
}

static void file_free(struct cog_index_file *file)
{
    int fd = atomic_exchange(&file->fd, -1);
    if (fd >= 0)
        file->fs->close(fd);
    if (file->map) {
        cog_guard_forget(file->map);
        file->fs->unmap(file->map, (size_t)file->size);
    }
    for (unsigned s = 0; s < COG_SHARDS; s++)
        pthread_mutex_destroy(&file->shard_mutex[s]);
    pthread_mutex_destroy(&file->slot_mutex);
    cog_free(file->abandoned);
    cog_free(file);
}

void cog_file_unref(struct cog_index_file *file)
{
    pthread_mutex_lock(
        &all_lock); /* a shared file must not be found while it goes; nor be closed during a fork */
    if (atomic_fetch_sub(&file->refs, 1) == 1) {
        for (struct cog_index_file **at = &all_files; *at; at = &(*at)->next) {
            if (*at == file) {
                *at = file->next;
                break;
            }
        }
        file_free(file);
    }
    pthread_mutex_unlock(&all_lock);
}

/* Let go of given-up files once nobody can still be about to take a reference. */
static void release_retired(struct cog_index *index)
{
    struct cog_index_file *gone[8];
    unsigned count = 0;
    pthread_mutex_lock(&index->moving);
    if (atomic_load(&index->users) == 0) {
        count = atomic_exchange(&index->retired_count, 0);
        memcpy(gone, index->retired, sizeof gone);
    }
    pthread_mutex_unlock(&index->moving);
    for (unsigned i = 0; i < count; i++)
        cog_file_unref(gone[i]);
}

struct cog_index_file *cog_index_enter(struct cog_index *index)
{
    notice_raw_fork();
    atomic_fetch_add(&index->users, 1);
    return atomic_load(&index->file);
}

void cog_index_leave(struct cog_index *index)
{
    if (atomic_fetch_sub(&index->users, 1) == 1 && atomic_load(&index->retired_count))
        release_retired(index);
}

enum cog_status cog_index_lose(struct cog_index *index, struct cog_index_file *file,
                               struct cog_error *err)
{
    pthread_mutex_lock(&index->moving);
    unsigned count = atomic_load(&index->retired_count);
    const unsigned room = sizeof index->retired / sizeof index->retired[0];
    if (atomic_load(&index->file) == file && count < room) {
        if (file->map && atomic_load(&file->broken))
            index->broken_inode = file->inode;
        atomic_store(&index->file, NULL);
        index->retired[count] = file;
        atomic_store(&index->retired_count, count + 1);
    }
    pthread_mutex_unlock(&index->moving);
    return cog_fail(err, COG_INDEX_MOVED, 0, "the index file was replaced or lost");
}

/* --- opening --- */

static uint64_t head_check(const struct cog_index_head *head)
{
    return cog_hash64(head, offsetof(struct cog_index_head, check), 0);
}

static uint64_t file_size(uint64_t region_bytes)
{
    return COG_INDEX_REGIONS_AT + COG_SHARDS * region_bytes;
}

/* Slots of a table that a root of this limit can need: all of it in files of one block, three
 * quarters full. */
static uint32_t slots_for(const struct cog_index *index)
{
    uint64_t bytes = index->options.limit;
    struct cog_fs_space space;
    if (!bytes)
        bytes = index->options.fs->space(index->options.root, &space) ? UINT64_C(1) << 40
                                                                      : space.total_bytes;
    uint64_t rows = bytes / 4096 / COG_SHARDS;
    if (rows > COG_INDEX_MOST_SLOTS)
        return COG_INDEX_MOST_SLOTS;
    uint32_t slots = cog_shard_capacity_for((uint32_t)rows);
    if (slots > COG_INDEX_MOST_SLOTS)
        return COG_INDEX_MOST_SLOTS;
    return slots < COG_INDEX_LEAST_REGION_SLOTS ? COG_INDEX_LEAST_REGION_SLOTS : slots;
}

/* Is this a head of ours, whole, for this file and root? The boot is judged by the caller. */
static bool head_fits(const struct cog_index *index, const struct cog_index_head *head,
                      const struct cog_stat *stat)
{
    return head->magic == COG_INDEX_MAGIC && head->version == COG_INDEX_VERSION &&
           head->row_bytes == sizeof(struct cog_row) && head->check == head_check(head) &&
           head->region_bytes % 4096 == 0 &&
           cog_shard_capacity_in(head->region_bytes) >= COG_SHARD_LEAST_SLOTS &&
           head->region_bytes <= cog_shard_bytes(COG_INDEX_MOST_SLOTS) &&
           stat->size == file_size(head->region_bytes) && head->index_inode == stat->inode &&
           head->root_inode == index->root_stat.inode &&
           head->root_device == index->root_stat.device && cog_index_owns(index, stat);
}

struct candidate { /* what the name `index` holds */
    int fd;
    struct cog_stat stat;
    struct cog_index_head head;
    bool whole;     /* the head fits */
    bool this_boot; /* and is of this boot */
};

/* 0, or -errno of what forbids any index here; `fd` is -1 where there is nothing usable. */
static int look_at_index(struct cog_index *index, struct candidate *found)
{
    const struct cog_fs *fs = index->options.fs;
    unsigned char boot[16] = {0};
    *found = (struct candidate){.fd = -1};
    int fd = fs->open(index->options.root, "index", O_RDWR, 0);
    if (fd == -EACCES || fd == -EROFS || fd == -EPERM || fd == -EMFILE || fd == -ENFILE ||
        fd == -ENOMEM)
        return fd;
    if (fd < 0) /* ENOENT, or a stranger of another kind: the rename of the new one replaces it, if
                   that can be done */
        return 0;
    found->whole = fs->stat(fd, &found->stat) == 0 && found->stat.size >= sizeof found->head &&
                   cog_fs_read_all(fs, fd, &found->head, sizeof found->head, 0) == 0 &&
                   head_fits(index, &found->head, &found->stat);
    (void)fs->boot_id(
        boot); /* unknown is all zeroes: then the index is taken for one of this boot */
    found->this_boot = found->whole && memcmp(found->head.boot_id, boot, sizeof boot) == 0;
    found->fd = fd;
    return 0;
}

/* A map that nobody guards is not used: cut short by somebody, it would be a death. */
static void map_file(struct cog_index_file *file)
{
    size_t size = (size_t)file->size;
    unsigned char *map = file->fs->map(atomic_load(&file->fd), size, true);
    if (map && !cog_guard_watch(map, size, &file->fd, &file->broken)) {
        file->fs->unmap(map, size);
        map = NULL;
    }
    file->map = map;
}

static struct cog_index_file *file_new(struct cog_index *index, const struct candidate *from)
{
    struct cog_index_file *file = cog_alloc_zeroed(1, sizeof *file);
    if (!file)
        return NULL;
    const struct cog_fs *fs = index->options.fs;
    file->fs = fs;
    file->device = from->stat.device;
    file->inode = from->stat.inode;
    file->size = from->stat.size;
    file->region_bytes = from->head.region_bytes;
    file->most_slots = cog_shard_capacity_in(file->region_bytes);
    file->shared = !fs->locks_are_per_description();
    atomic_init(&file->fd, from->fd);
    atomic_init(&file->slot, -1);
    atomic_init(&file->refs, 1);
    file_mutexes_init(file);
    if (!index->options.no_map)
        map_file(file);
    file->next = all_files;
    all_files = file;
    return file;
}

/* Where locks belong to processes, closing any descriptor of the file would drop them all: look by
 * name before opening. */
static struct cog_index_file *find_shared(const struct cog_index *index)
{
    const struct cog_fs *fs = index->options.fs;
    struct cog_stat stat;
    if (fs->locks_are_per_description() || fs->stat_at(index->options.root, "index", &stat))
        return NULL;
    for (struct cog_index_file *file = all_files; file; file = file->next) {
        if (file->shared && file->device == stat.device && file->inode == stat.inode &&
            stat.size == file->size && !atomic_load(&file->broken) && atomic_load(&file->fd) >= 0) {
            cog_file_ref(file);
            return file;
        }
    }
    return NULL;
}

static bool unlink_temp(void *context, const char *name)
{
    const struct cog_index *index = context;
    char path[300];
    if (snprintf(path, sizeof path, "tmp/%s", name) < (int)sizeof path)
        index->options.fs->unlink(index->options.root, path);
    return true;
}

static int zero_range(const struct cog_fs *fs, int fd, uint64_t at, uint64_t bytes)
{
    static const unsigned char zeroes[65536];
    int failed = 0;
    for (uint64_t done = 0; done < bytes && !failed; done += sizeof zeroes) {
        uint64_t left = bytes - done;
        failed = cog_fs_write_all(fs, fd, zeroes,
                                  left < sizeof zeroes ? (size_t)left : sizeof zeroes, at + done);
    }
    return failed;
}

/* Real blocks, never holes: a store to a hole on a full disk would be a SIGBUS. Where nothing
 * allocates, zeroes do. */
static int allocate(const struct cog_fs *fs, int fd, uint64_t at, uint64_t bytes)
{
    int failed = fs->fallocate(fd, at, bytes);
    return failed == -EOPNOTSUPP || failed == -ENOSYS || failed == -EINVAL
               ? zero_range(fs, fd, at, bytes)
               : failed;
}

int cog_file_allocate(struct cog_index_file *file, uint64_t at, uint64_t bytes)
{
    return allocate(file->fs, atomic_load(&file->fd), at, bytes);
}

static uint64_t fixed_total(const struct cog_index_options *options)
{
    /* head, words, slots; the free part of each region; directories and the index's own extent
     * blocks */
    const uint64_t ours = COG_INDEX_REGIONS_AT + COG_SHARDS * (uint64_t)COG_INDEX_REGION_FREE +
                          (UINT64_C(256) << 10);
    return ours + options->fixed_bytes;
}

static uint64_t bounds_check(const struct cog_bounds *bounds)
{
    return cog_hash64(bounds, offsetof(struct cog_bounds, check), COG_INDEX_MAGIC);
}

static struct cog_bounds bounds_of(const struct cog_index_options *options)
{
    struct cog_bounds bounds = {.limit = options->limit,
                                .fixed_bytes = fixed_total(options),
                                .free_floor = options->free_floor,
                                .max_files = options->max_files};
    bounds.check = bounds_check(&bounds);
    return bounds;
}

static int write_new_index(struct cog_index *index, int fd, uint64_t ceiling)
{
    const struct cog_fs *fs = index->options.fs;
    struct cog_stat stat;
    uint64_t totals[COG_SHARDS];
    const struct cog_bounds bounds = bounds_of(&index->options);
    struct cog_index_head head = {
        .magic = COG_INDEX_MAGIC,
        .version = COG_INDEX_VERSION,
        .row_bytes = sizeof(struct cog_row),
        .root_device = index->root_stat.device,
        .root_inode = index->root_stat.inode,
        .region_bytes = cog_shard_bytes(slots_for(index)),
        .limit = bounds.limit,
        .fixed_bytes = bounds.fixed_bytes,
        .free_floor = bounds.free_floor,
        .max_files = bounds.max_files,
        .bounds_check = bounds.check,
        .inherited = ceiling,
        .ceiling = ceiling,
        .ceiling_durable = ceiling,
    };
    int failed = fs->stat(fd, &stat);
    if (!failed)
        failed = fs->random(&head.created, sizeof head.created);
    if (!failed)
        failed = fs->random(&head.tag_counter,
                            sizeof head.tag_counter); /* no value of an earlier index */
    if (failed)
        return failed;
    (void)fs->boot_id(head.boot_id);
    head.index_inode = stat.inode;
    head.check = head_check(&head);
    for (unsigned s = 0; s < COG_SHARDS; s++)
        totals[s] = COG_UNKNOWN;
    failed = allocate(fs, fd, 0, COG_INDEX_REGIONS_AT);
    if (!failed)
        failed = cog_fs_write_all(fs, fd, &head, sizeof head, 0);
    if (!failed)
        failed = cog_fs_write_all(fs, fd, totals, sizeof totals, COG_AT_SHARD(total, 0));
    return failed ? failed : fs->truncate(fd, file_size(head.region_bytes));
}

/* By a second name, so that at no moment there is no index and its ceiling with it. */
static int keep_as_hints(struct cog_index *index)
{
    const struct cog_fs *fs = index->options.fs;
    int root = index->options.root;
    fs->unlink(root, "index.old");
    int failed = fs->link(root, "index", root, "index.old");
    return failed == -EPERM || failed == -EOPNOTSUPP || failed == -EMLINK
               ? fs->rename(root, "index", root, "index.old") /* no hard links here */
               : failed;
}

/*
 * [O5] With the root locked against other makers. Everybody who still maps the old inode meets
 * nlink = 0 at [L2]; an index of another boot is mapped by nobody and stays as `index.old`, a
 * source of hints for the count.
 */
static int make_index(struct cog_index *index, const struct candidate *old)
{
    const struct cog_fs *fs = index->options.fs;
    int root = index->options.root;
    uint64_t nonce, ceiling = 0;
    char path[64];
    if (old->whole)
        ceiling = old->head.ceiling;
    int failed = fs->random(&nonce, sizeof nonce);
    if (failed)
        return failed;
    fs->list(root, "tmp", unlink_temp, index);
    snprintf(path, sizeof path, "tmp/index.%016llx", (unsigned long long)nonce);
    int fd = fs->open(root, path, O_RDWR | O_CREAT | O_EXCL,
                      index->options.group_shared ? 0660 : 0600);
    if (fd < 0)
        return fd;
    if (index->options.group_shared)
        fs->chmod(fd, 0660);
    failed = write_new_index(index, fd, ceiling);
    if (!failed && old->whole && !old->this_boot)
        failed = keep_as_hints(index);
    if (!failed)
        failed = fs->rename(root, path, root, "index");
    if (failed)
        fs->unlink(root, path);
    fs->close(fd);
    return failed;
}

static bool needs_another(const struct cog_index *index, const struct candidate *found)
{
    return !found->whole || !found->this_boot || found->stat.inode == index->broken_inode ||
           (index->options.limit &&
            cog_shard_capacity_in(found->head.region_bytes) < slots_for(index));
}

static int lock_root(struct cog_index *index, int *out)
{
    const struct cog_fs *fs = index->options.fs;
    int fd = fs->open(index->options.root, ".", O_RDONLY, 0);
    if (fd < 0)
        return fd;
    int failed = cog_fs_lock_whole_patiently(fs, fd);
    if (failed) {
        fs->close(fd);
        return failed;
    }
    *out = fd;
    return 0;
}

/* The name `index` holds a fitting one, or is made to [O3-O5]. all_lock is held: no fork meets it
 * half done. */
static int open_or_make(struct cog_index *index, struct candidate *found)
{
    const struct cog_fs *fs = index->options.fs;
    struct cog_stat root;
    int failed = fs->stat(index->options.root, &root);
    if (failed)
        return failed;
    index->root_stat.device = root.device; /* the root may have been made anew behind its number */
    index->root_stat.inode = root.inode;
    failed = look_at_index(index, found);
    if (failed || !needs_another(index, found))
        return failed;
    int lock;
    if (found->fd >= 0)
        fs->close(found->fd);
    found->fd = -1;
    failed = lock_root(index, &lock);
    if (failed)
        return failed;
    failed = look_at_index(index, found);
    if (!failed && needs_another(index, found)) {
        failed = make_index(index, found);
        if (found->fd >= 0)
            fs->close(found->fd);
        found->fd = -1;
        if (!failed)
            failed = look_at_index(index, found);
        if (!failed && needs_another(index, found))
            failed = -EAGAIN; /* spoiled again at once */
    }
    if (failed && found->fd >= 0)
        fs->close(found->fd);
    fs->lock_whole(
        lock, COG_UNLOCK); /* by name, since a child of ours may hold a copy of the descriptor */
    fs->close(lock);
    return failed;
}

static enum cog_status open_failed(int error, struct cog_error *err)
{
    if (error == -EACCES || error == -EROFS || error == -EPERM)
        return cog_fail(err, COG_ERR_READ_ONLY, -error, "the index cannot be opened for writing");
    if (error == -EAGAIN)
        return cog_fail(err, COG_ERR_BUSY, 0, "another process is making the index");
    if (error == -EMFILE || error == -ENFILE)
        return cog_fail(err, COG_ERR_BUSY, -error, "no descriptor left for the index");
    if (error == -ENOSPC || error == -EDQUOT)
        return cog_fail(err, COG_ERR_FULL, -error, "no room on the disk for the index");
    if (error == -ENOLCK || error == -ENOSYS || error == -EOPNOTSUPP || error == -EINVAL)
        return cog_fail(err, COG_ERR_UNSUPPORTED, -error, "locks do not work on this file system");
    if (error == -EISDIR)
        return cog_fail(err, COG_ERR_IO, -error, "'index' is a directory there: remove it");
    return cog_fail(err, COG_ERR_IO, -error, "the index cannot be opened or made");
}

/* Do record locks work here at all? Asked on a byte that stands for nothing. */
static int try_locks(const struct cog_fs *fs, int fd)
{
    int failed = fs->lock(fd, COG_LOCK_JOB + 1, COG_LOCK_EXCLUSIVE);
    if (!failed)
        fs->lock(fd, COG_LOCK_JOB + 1, COG_UNLOCK);
    return failed == -EAGAIN ? 0 : failed;
}

/* index->moving is held, so that the newest bounds of this handle are stored last. */
static struct cog_bounds store_bounds(struct cog_index *index, struct cog_index_file *file)
{
    const struct cog_bounds bounds = bounds_of(&index->options);
    cog_word64_set(file, COG_AT_HEAD(limit), bounds.limit);
    cog_word64_set(file, COG_AT_HEAD(fixed_bytes), bounds.fixed_bytes);
    cog_word64_set(file, COG_AT_HEAD(free_floor), bounds.free_floor);
    cog_word64_set(file, COG_AT_HEAD(max_files), bounds.max_files);
    cog_word64_set(file, COG_AT_HEAD(bounds_check), bounds.check);
    return bounds;
}

/*
 * A garbled limit would empty the cache, or let it fill the disk. Somebody who is just storing new
 * bounds is waited for; one who died over it is not.
 */
void cog_bounds_read(struct cog_index *index, struct cog_index_file *file, struct cog_bounds *out)
{
    enum { AT_ONCE = 3, MOST_TRIES = 20, PAUSE_US = 100 };
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        uint64_t words[sizeof *out / sizeof(uint64_t)];
        if (tries >= AT_ONCE)
            file->fs->sleep_us(PAUSE_US);
        cog_words64(file, COG_AT_HEAD(limit), sizeof words[0], sizeof words / sizeof words[0],
                    words);
        memcpy(out, words, sizeof *out);
        if (out->check == bounds_check(out) || atomic_load(&file->broken))
            return;
    }
    pthread_mutex_lock(&index->moving);
    *out = store_bounds(index, file);
    pthread_mutex_unlock(&index->moving);
}

/* index->moving and all_lock are held. */
static enum cog_status attach_locked(struct cog_index *index, struct cog_error *err)
{
    const struct cog_fs *fs = index->options.fs;
    struct candidate found = {.fd = -1};
    struct cog_index_file *file = find_shared(index);
    if (!file) {
        int failed = open_or_make(index, &found);
        if (!failed && (failed = try_locks(fs, found.fd)))
            fs->close(found.fd);
        if (failed)
            return open_failed(failed, err);
        file = file_new(index, &found);
    }
    if (!file) {
        fs->close(found.fd);
        return cog_fail(err, COG_ERR_NOMEM, 0, NULL);
    }
    if (!index->options.keep_bounds)
        (void)store_bounds(index, file);
    index->broken_inode = 0;
    atomic_store(&index->file, file);
    return COG_OK;
}

enum cog_status cog_index_attach(struct cog_index *index, struct cog_index_file **out,
                                 struct cog_error *err)
{
    *out = cog_index_enter(index);
    if (*out)
        cog_file_ref(*out);
    cog_index_leave(index);
    if (*out)
        return COG_OK;
    enum cog_status status = COG_OK;
    pthread_mutex_lock(&index->moving);
    pthread_mutex_lock(&all_lock);
    if (!atomic_load(&index->file)) {
        status = attach_locked(index, err);
        atomic_fetch_add(&index->reopens, status == COG_OK);
    }
    *out = atomic_load(&index->file);
    if (*out)
        cog_file_ref(*out);
    pthread_mutex_unlock(&all_lock);
    pthread_mutex_unlock(&index->moving);
    return *out ? COG_OK : status;
}

/* In a forked child, or after a stranger closed it: the name must still lead to the file that we
 * map. */
static int reopen(struct cog_index *index, struct cog_index_file *file)
{
    const struct cog_fs *fs = file->fs;
    struct cog_stat stat;
    int result = 0;
    pthread_mutex_lock(&all_lock);
    if (atomic_load(&file->fd) < 0) {
        int fd = fs->open(index->options.root, "index", O_RDWR, 0);
        if (fd >= 0 && fs->stat(fd, &stat) == 0 && stat.device == file->device &&
            stat.inode == file->inode) {
            atomic_store(&file->fd, fd);
        } else {
            result = fd < 0 ? fd : -ESTALE;
            if (fd >= 0)
                fs->close(fd);
        }
    }
    pthread_mutex_unlock(&all_lock);
    return result;
}

enum cog_status cog_file_check(struct cog_index *index, struct cog_index_file *file,
                               struct cog_error *err)
{
    struct cog_stat stat;
    if (atomic_load(&file->fd) < 0) {
        int failed = reopen(index, file);
        if (failed == -EMFILE || failed == -ENFILE)
            return cog_fail(err, COG_ERR_BUSY, -failed, "no descriptor left for the index");
        if (failed)
            return cog_index_lose(index, file, err);
    }
    int failed = file->fs->stat(atomic_load(&file->fd), &stat);
    if (failed && failed != -EBADF) /* the descriptor is ours still, with the locks on it */
        return cog_fail(err, COG_ERR_IO, -failed, "cannot look at the index");
    if (failed || stat.device != file->device || stat.inode != file->inode) {
        /* closed by strangers: the number is somebody else's by now, so leave it alone */
        atomic_store(&file->fd, -1);
        return cog_index_lose(index, file, err);
    }
    if (stat.links == 0 || stat.size != file->size || atomic_load(&file->broken))
        return cog_index_lose(index, file, err);
    return COG_OK;
}

int cog_file_lock_patiently(struct cog_index_file *file, uint64_t byte)
{
    const uint32_t most = 200000, longest = 1000;
    uint32_t pause = 20, waited = 0;
    for (;;) {
        int failed = file->fs->lock(atomic_load(&file->fd), byte, COG_LOCK_EXCLUSIVE);
        if ((failed != -EAGAIN && failed != -EINTR) || waited >= most)
            return failed;
        file->fs->sleep_us(pause);
        waited += pause;
        pause = pause * 2 < longest ? pause * 2 : longest;
    }
}

/* --- the handle --- */

/*
 * A full disk, or a process that is making the index: hits need no index, so neither keeps anybody
 * from opening. Every put tries again, and answers what it met.
 */
static bool is_passing(enum cog_status status)
{
    return status == COG_ERR_FULL || status == COG_ERR_BUSY;
}

enum cog_status cog_index_open(const struct cog_index_options *options, struct cog_index **out,
                               struct cog_error *err)
{
    struct cog_fs_space space;
    *out = NULL;
    struct cog_index *index = cog_alloc_zeroed(1, sizeof *index);
    if (!index)
        return cog_fail(err, COG_ERR_NOMEM, 0, NULL);
    index->options = *options;
    int failed = options->fs->stat(options->root, &index->root_stat);
    if (failed) {
        cog_free(index);
        return cog_fail(err, COG_ERR_IO, -failed, "the root cannot be looked at");
    }
    index->block_size = options->fs->space(options->root, &space) ? 4096 : space.block_size;
    pthread_mutex_init(&index->moving, NULL);
    pthread_once(&fork_once, fork_setup);
    pthread_mutex_lock(&all_lock);
    index->next = all_handles;
    all_handles = index;
    pthread_mutex_unlock(&all_lock);

    struct cog_index_file *file;
    enum cog_status status = cog_index_attach(index, &file, err);
    if (status == COG_OK)
        cog_file_unref(file);
    else if (!is_passing(status)) {
        cog_index_close(index);
        return status;
    }
    atomic_store(&index->reopens, 0);
    *out = index;
    return COG_OK;
}

void cog_index_close(struct cog_index *index)
{
    if (!index)
        return;
    notice_raw_fork();
    pthread_mutex_lock(&all_lock);
    for (struct cog_index **at = &all_handles; *at; at = &(*at)->next) {
        if (*at == index) {
            *at = index->next;
            break;
        }
    }
    pthread_mutex_unlock(&all_lock);
    atomic_store(&index->users, 0);
    release_retired(index);
    struct cog_index_file *file = atomic_exchange(&index->file, NULL);
    if (file)
        cog_file_unref(file);
    pthread_mutex_destroy(&index->moving);
    cog_free(index);
}

enum cog_status cog_index_set_limits(struct cog_index *index, uint64_t limit, uint64_t fixed_bytes,
                                     uint64_t free_floor, uint64_t max_files, struct cog_error *err)
{
    pthread_mutex_lock(&index->moving);
    index->options.limit = limit;
    index->options.fixed_bytes = fixed_bytes;
    index->options.free_floor = free_floor;
    index->options.max_files = max_files;
    pthread_mutex_unlock(&index->moving);
    struct cog_index_file *file;
    enum cog_status status = cog_index_attach(index, &file, err);
    if (status != COG_OK)
        return status;
    if (limit && file->most_slots < slots_for(index)) {
        (void)cog_index_lose(
            index, file, NULL); /* its tables are too small for that: another index, as at open */
        cog_file_unref(file);
        status = cog_index_attach(index, &file, err);
        if (status != COG_OK)
            return status;
    }
    pthread_mutex_lock(&index->moving);
    (void)store_bounds(index, file);
    pthread_mutex_unlock(&index->moving);
    cog_file_unref(file);
    return COG_OK;
}
