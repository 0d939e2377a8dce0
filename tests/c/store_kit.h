/*
 * What the tests of the store share: a fresh directory per test and mode, values that prove which
 * write they come from, and small questions about the tree on disk.
 */
#ifndef COG_STORE_KIT_H
#define COG_STORE_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/fs.h"
#include "core/store.h"

struct kit {
    char base[256]; /* base_path of the store; does not exist yet */
    char root[280]; /* base/v1 */
    const char *mode;
    const struct cog_fs *fs;
    bool table_less;
    bool no_map;
    bool posix; /* nothing can be opened or read without the risk of waiting */
};

typedef void (*kit_test)(struct kit *kit);

/* Run the test in every mode (tables of calls x index mapped, index by pread, table-less), each
 * time in a directory of its own. */
void kit_run(const char *name, kit_test test);
/* The same, in the modes that have an index. */
void kit_run_indexed(const char *name, kit_test test);
/* Only with the system's table and a mapped index. */
void kit_run_once(const char *name, kit_test test);
#define KIT_RUN(test) kit_run(#test, test)
#define KIT_RUN_INDEXED(test) kit_run_indexed(#test, test)
#define KIT_RUN_ONCE(test) kit_run_once(#test, test)

/* Options of this mode: no limit, no free floor, every use recorded. */
struct cog_store_options kit_options(const struct kit *kit);
/* Opens; ends the program when that fails. NULL: kit_options. */
struct cog_store *kit_open(const struct kit *kit, const struct cog_store_options *options);

/* --- values -------------------------------------------------------------------------------- */

struct kit_tag {
    const char *name;
    uint64_t version;
};
struct kit_value {
    const void *data;
    size_t size;
    uint64_t ttl_ms;       /* 0 = never expires */
    uint64_t refreshed_ms; /* 0 = now by the store's clock */
    struct kit_tag tag;    /* name NULL = none */
    uint64_t token;        /* 0 = random */
    uint32_t chunk_size;   /* 0 = default */
    double cost_seconds;
    uint64_t source;
};
/*
 * Busy, after 200 ms, is a right answer on a loaded machine: opening, puts, deletes and sweeps ask
 * again then, within bounds.
 */
enum { KIT_PATIENCE = 100 };
enum cog_status kit_put_value(struct cog_store *store, const char *key,
                              const struct kit_value *value);
enum cog_status kit_put(struct cog_store *store, const char *key, const void *data, size_t size);
/* What a put makes while it writes: the context of kit_make, which is a cog_maker's `make`. The
 * same bytes each time it is called, so token and time of the value are not 0. */
struct kit_made {
    const char *key;
    struct kit_value value;
};
enum cog_status kit_make(void *context, struct cog_sink sink, struct cog_error *err);
/* kit_put, made while it is written. */
enum cog_status kit_put_made(struct cog_store *store, const char *key, const void *data,
                             size_t size);
/* cog_store_put_made with patience; the maker may do other things as well. */
enum cog_status kit_put_by(struct cog_store *store, const char *key, const struct cog_maker *maker);
/* Bytes that the container of a kit value of this size does not exceed. */
uint64_t kit_most(size_t size);
/* The bytes of the value under `key`, or NULL and `*miss`. The caller frees them. */
unsigned char *kit_get(struct cog_store *store, const char *key, unsigned flags, size_t *size,
                       enum cog_miss *miss);
bool kit_has(struct cog_store *store, const char *key, const void *data, size_t size);
enum cog_miss kit_miss(struct cog_store *store, const char *key); /* COG_MISS_NONE: it is there */
enum cog_status kit_delete(struct cog_store *store, const char *key);
enum cog_status kit_sweep(struct cog_store *store, bool force, uint64_t *removed);
/* `size` bytes that name their key and write; kit_is_whole tells whether they are of one write. */
void kit_fill(unsigned char *out, size_t size, uint64_t key, uint64_t write);
bool kit_is_whole(const unsigned char *bytes, size_t size, uint64_t key);

/* --- the tree ------------------------------------------------------------------------------ */

/* Absolute path of an entry's file. */
void kit_object(const struct kit *kit, const char *key, char out[400]);
void kit_path(const struct kit *kit, const char *below_root, char out[400]);
bool kit_exists(const char *path);
unsigned kit_count(const struct kit *kit, const char *below_root); /* names in a directory */
uint64_t kit_disk_bytes(const struct kit *kit); /* blocks of everything under the root */
void kit_flip(const char *path, int64_t offset, unsigned char mask); /* from the end if negative */
void kit_remove_tree(const char *path);
/*
 * May we give files away and act as somebody else, who reaches this directory? Not root, or root of
 * a container that may not: false, and standard error says that `what` was not run.
 */
bool kit_may_be_others(const struct kit *kit, const char *what);
/* Run in a forked child, as an unprivileged user if we are root; its exit status. */
int kit_in_child(const struct kit *kit, bool drop, int (*body)(const struct kit *kit));

#endif
