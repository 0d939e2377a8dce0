#define _GNU_SOURCE /* nftw, setgroups */
#include "store_kit.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/msgpack.h"

/* --- modes --------------------------------------------------------------------------------- */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/*
 * An old kernel, a container that refuses openat2, a file system that cannot read without waiting
 * (overlayfs, NFS), or COGCACHE_PLAIN_POSIX=1: nothing is inline. `at` is of the test's own making.
 */
static bool serves_from_memory(const struct cog_fs *fs, const char *at)
{
    char path[300], byte = 'x';
    (void)snprintf(path, sizeof path, "%s/probe", at);
    int dir = open(at, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int made = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (dir < 0 || made < 0 || pwrite(made, &byte, 1, 0) != 1) {
        die(path);
    }
    int fd = fs->open_cached(dir, "probe", O_RDONLY);
    bool served = fd >= 0 && fs->pread_cached(fd, &byte, 1, 0) == 1;
    if (fd >= 0) {
        close(fd);
    }
    close(made);
    close(dir);
    (void)unlink(path);
    return served;
}

static void run_mode(const char *name, kit_test test, struct kit kit)
{
    const char *parent = getenv("TMPDIR");
    char dir[200];
    (void)snprintf(dir, sizeof dir, "%s/cog-store-XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(dir) == NULL || chmod(dir, 0755) != 0) {
        die(dir);
    }
    (void)snprintf(kit.base, sizeof kit.base, "%s/base", dir);
    (void)snprintf(kit.root, sizeof kit.root, "%s/v1", kit.base);
    kit.posix = !serves_from_memory(kit.fs, dir);
    if (getenv("KIT_VERBOSE") != NULL) {
        fprintf(stderr, "%s (%s)\n", name, kit.mode);
    }
    test(&kit);
    kit_remove_tree(dir);
}

void kit_run(const char *name, kit_test test)
{
    kit_run_indexed(name, test);
    run_mode(name, test,
             (struct kit){.mode = "table-less", .fs = cog_fs_system(), .table_less = true});
    run_mode(name, test,
             (struct kit){.mode = "table-less posix no_map",
                          .fs = cog_fs_posix(),
                          .table_less = true,
                          .no_map = true});
}

void kit_run_indexed(const char *name, kit_test test)
{
    kit_run_once(name, test);
    run_mode(name, test, (struct kit){.mode = "no_map", .fs = cog_fs_system(), .no_map = true});
    run_mode(name, test, (struct kit){.mode = "posix", .fs = cog_fs_posix()});
}

void kit_run_once(const char *name, kit_test test)
{
    run_mode(name, test, (struct kit){.mode = "mapped", .fs = cog_fs_system()});
}

struct cog_store_options kit_options(const struct kit *kit)
{
    return (struct cog_store_options){.fs = kit->fs,
                                      .table_less = kit->table_less,
                                      .no_map = kit->no_map,
                                      .touch_seconds = COG_TOUCH_ALWAYS};
}

struct cog_store *kit_open(const struct kit *kit, const struct cog_store_options *options)
{
    struct cog_store_options own = kit_options(kit);
    struct cog_store *store;
    struct cog_error err = {0};
    enum cog_status status = COG_ERR_BUSY; /* while another process makes the index */
    for (unsigned tries = 0; tries < KIT_PATIENCE && status == COG_ERR_BUSY; tries++) {
        status = cog_store_open(kit->base, options != NULL ? options : &own, &store, &err);
    }
    if (status != COG_OK) {
        fprintf(stderr, "opening %s (%s): %s: %s (errno %d)\n", kit->base, kit->mode,
                cog_status_text(status), err.text, err.sys_errno);
        exit(1);
    }
    return store;
}

/* --- values -------------------------------------------------------------------------------- */

static void encode_tag(const struct kit_tag *tag, unsigned char *out, size_t *size)
{
    size_t length = strlen(tag->name);
    unsigned char *at = out;
    *at++ = 0x81;          /* a map of one: */
    *at++ = COG_META_TAGS; /* the tags, */
    *at++ = 0x91;          /* an array of one */
    *at++ = 0x92;          /* pair */
    *at++ = 0xD9;
    *at++ = (unsigned char)length;
    memcpy(at, tag->name, length);
    at += length;
    *at++ = 0xCF;
    cog_store_be64(at, tag->version);
    *size = (size_t)(at + 8 - out);
}

static enum cog_status write_entry(struct cog_sink sink, const char *key,
                                   const struct kit_value *value, uint64_t now_ms,
                                   struct cog_error *err)
{
    struct cog_entry_writer *writer;
    unsigned char meta[300];
    size_t meta_size = 0;
    uint32_t number;
    uint64_t length;
    struct cog_freshness fresh = {.refreshed_ms = value->refreshed_ms != 0 ? value->refreshed_ms
                                                                           : now_ms,
                                  .ttl_ms = value->ttl_ms != 0 ? value->ttl_ms : COG_NEVER};
    if (value->tag.name != NULL) {
        encode_tag(&value->tag, meta, &meta_size);
    }
    enum cog_status status = cog_entry_writer_new(key, strlen(key), value->token, sink, &writer,
                                                  err);
    if (status != COG_OK) {
        return status;
    }
    const struct cog_part_options options = {.chunk_size = value->chunk_size};
    status = cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, &options, value->data, value->size,
                                true, &number, err);
    if (status == COG_OK) {
        status = cog_entry_finish(writer, meta, meta_size, &fresh, &length, err);
    }
    cog_entry_writer_free(writer);
    return status;
}

enum cog_status kit_put_value(struct cog_store *store, const char *key,
                              const struct kit_value *value)
{
    struct cog_image image = {0};
    uint64_t now = value->refreshed_ms != 0 ? value->refreshed_ms : cog_store_now_ms(store);
    enum cog_status status = write_entry(cog_image_sink(&image), key, value, now, NULL);
    if (status == COG_OK) {
        status = cog_image_seal(&image);
    }
    if (status == COG_OK) {
        struct cog_put_info info = {.expires_ms = value->ttl_ms != 0 ? now + value->ttl_ms : 0,
                                    .cost_seconds = value->cost_seconds,
                                    .source = value->source};
        for (unsigned tries = 0; tries < KIT_PATIENCE; tries++) {
            status = cog_store_put(store, key, strlen(key), &image, &info, NULL);
            if (status != COG_ERR_BUSY) {
                break;
            }
        }
    }
    cog_image_release(&image);
    return status;
}

enum cog_status kit_put(struct cog_store *store, const char *key, const void *data, size_t size)
{
    struct kit_value value = {.data = data, .size = size};
    return kit_put_value(store, key, &value);
}

enum cog_status kit_make(void *context, struct cog_sink sink, struct cog_error *err)
{
    const struct kit_made *made = context;
    return write_entry(sink, made->key, &made->value, made->value.refreshed_ms, err);
}

uint64_t kit_most(size_t size)
{
    return size + size / 64 + 4096;
}

enum cog_status kit_put_by(struct cog_store *store, const char *key, const struct cog_maker *maker)
{
    enum cog_status status = COG_ERR_BUSY;
    uint64_t length;
    for (unsigned tries = 0; tries < KIT_PATIENCE && status == COG_ERR_BUSY; tries++) {
        status = cog_store_put_made(store, key, strlen(key), maker, NULL, &length, NULL);
    }
    return status;
}

enum cog_status kit_put_made(struct cog_store *store, const char *key, const void *data,
                             size_t size)
{
    struct kit_made made = {
        .key = key,
        .value = {.data = data, .size = size, .token = 1, .refreshed_ms = cog_store_now_ms(store)}};
    struct cog_maker maker = {&made, kit_make, kit_most(size)};
    return kit_put_by(store, key, &maker);
}

unsigned char *kit_get(struct cog_store *store, const char *key, unsigned flags, size_t *size,
                       enum cog_miss *miss)
{
    struct cog_object *object;
    struct cog_part part;
    *size = 0;
    if (cog_store_get(store, key, strlen(key), flags, &object, miss, NULL) != COG_OK) {
        return NULL;
    }
    unsigned char *out = NULL;
    if (cog_entry_part(cog_object_entry(object), 0, &part) == COG_OK) {
        out = cog_alloc((size_t)part.raw_size);
        *size = (size_t)part.raw_size;
        enum cog_status status = cog_entry_read(cog_object_entry(object), cog_object_source(object),
                                                NULL, 0, 0, part.raw_size, out, NULL);
        if (status != COG_OK) {
            cog_free(out);
            out = NULL;
            *miss = status == COG_ERR_IO ? COG_MISS_UNAVAILABLE : COG_MISS_DAMAGED;
        }
    }
    cog_object_free(object);
    return out;
}

bool kit_has(struct cog_store *store, const char *key, const void *data, size_t size)
{
    size_t got_size;
    enum cog_miss miss;
    unsigned char *got = kit_get(store, key, 0, &got_size, &miss);
    bool same = got != NULL && got_size == size && memcmp(got, data, size) == 0;
    cog_free(got);
    return same;
}

enum cog_miss kit_miss(struct cog_store *store, const char *key)
{
    struct cog_object *object;
    enum cog_miss miss = COG_MISS_NONE;
    if (cog_store_get(store, key, strlen(key), 0, &object, &miss, NULL) == COG_OK) {
        cog_object_free(object);
        return COG_MISS_NONE;
    }
    return miss;
}

enum cog_status kit_delete(struct cog_store *store, const char *key)
{
    enum cog_status status = COG_ERR_BUSY;
    for (unsigned tries = 0; tries < KIT_PATIENCE && status == COG_ERR_BUSY; tries++) {
        status = cog_store_delete(store, key, strlen(key), NULL);
    }
    return status;
}

enum cog_status kit_sweep(struct cog_store *store, bool force, uint64_t *removed)
{
    enum cog_status status = COG_ERR_BUSY;
    for (unsigned tries = 0; tries < KIT_PATIENCE && status == COG_ERR_BUSY; tries++) {
        status = cog_store_sweep(store, force, removed, NULL);
    }
    return status;
}

void kit_fill(unsigned char *out, size_t size, uint64_t key, uint64_t write)
{
    for (size_t i = 0; i + 16 <= size; i += 16) {
        cog_store_le64(out + i, key ^ i);
        cog_store_le64(out + i + 8, write + i);
    }
    memset(out + size / 16 * 16, 0x5A, size % 16);
}

bool kit_is_whole(const unsigned char *bytes, size_t size, uint64_t key)
{
    uint64_t write = size >= 16 ? cog_load_le64(bytes + 8) : 0;
    for (size_t i = 0; i + 16 <= size; i += 16) {
        if (cog_load_le64(bytes + i) != (key ^ i) || cog_load_le64(bytes + i + 8) != write + i) {
            return false;
        }
    }
    return true;
}

/* --- the tree ------------------------------------------------------------------------------ */

void kit_path(const struct kit *kit, const char *below_root, char out[400])
{
    (void)snprintf(out, 400, "%s/%s", kit->root, below_root);
}

void kit_object(const struct kit *kit, const char *key, char out[400])
{
    struct cog_digest digest;
    char hex[33];
    cog_hash128(key, strlen(key), &digest);
    cog_hex(digest.bytes, sizeof digest.bytes, hex);
    (void)snprintf(out, 400, "%s/objects/%.2s/%s", kit->root, hex, hex + 2);
}

bool kit_exists(const char *path)
{
    struct stat stat;
    return lstat(path, &stat) == 0;
}

unsigned kit_count(const struct kit *kit, const char *below_root)
{
    char path[400];
    unsigned count = 0;
    kit_path(kit, below_root, path);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return count;
}

static uint64_t summed;

static int add_blocks(const char *path, const struct stat *stat, int type, struct FTW *at)
{
    (void)path;
    (void)at;
    /* between link and unlink of a publish without renameat2 a file has two names: half each */
    uint64_t names = type == FTW_F && stat->st_nlink > 0 ? (uint64_t)stat->st_nlink : 1;
    summed += (uint64_t)stat->st_blocks * 512 / names;
    return 0;
}

uint64_t kit_disk_bytes(const struct kit *kit)
{
    summed = 0;
    (void)nftw(kit->root, add_blocks, 32, FTW_PHYS);
    return summed;
}

void kit_flip(const char *path, int64_t offset, unsigned char mask)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat stat;
    unsigned char byte;
    if (fd < 0 || fstat(fd, &stat) != 0) {
        die(path);
    }
    off_t at = offset < 0 ? stat.st_size + offset : offset;
    if (pread(fd, &byte, 1, at) != 1) {
        die(path);
    }
    byte ^= mask;
    if (pwrite(fd, &byte, 1, at) != 1) {
        die(path);
    }
    close(fd);
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *at)
{
    (void)stat;
    (void)type;
    (void)at;
    (void)remove(path);
    return 0;
}

void kit_remove_tree(const char *path)
{
    (void)nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

/* The directory that was made for the test, above the base. */
static void own_directory(const struct kit *kit, char out[256])
{
    (void)snprintf(out, 256, "%.*s", (int)(strrchr(kit->base, '/') - kit->base), kit->base);
}

static int reach_as_another(const struct kit *kit)
{
    char path[256];
    own_directory(kit, path);
    return setgroups(0, NULL) != 0 || setgid(4711) != 0 || setuid(65534) != 0 ||
           access(path, X_OK) != 0;
}

bool kit_may_be_others(const struct kit *kit, const char *what)
{
    char path[256];
    own_directory(kit, path);
    bool may = geteuid() == 0 && chown(path, 65534, 4711) == 0 && chown(path, 0, getegid()) == 0 &&
               kit_in_child(kit, false, reach_as_another) == 0;
    if (!may) {
        fprintf(stderr, "not run (needs root that may act as other users in %s): %s\n", path, what);
    }
    return may;
}

int kit_in_child(const struct kit *kit, bool drop, int (*body)(const struct kit *kit))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (drop && geteuid() == 0 &&
            (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0)) {
            _exit(99);
        }
        _exit(body(kit));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        die("child");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}
