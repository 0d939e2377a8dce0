/*
 * What the tests of the index share: a root of its own per test, a store of the simplest kind over
 * the index (its values are patterns), and the truth as the file system tells it.
 */
#ifndef COG_INDEX_KIT_H
#define COG_INDEX_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/index.h"
#include "core/index_file.h"

struct root {
    char path[300];
    int fd;
    const struct cog_fs *fs;
    bool no_map;
};

typedef void (*root_test)(struct root *root);
enum { ROOT_MODES = 4 }; /* both tables of calls, tables mapped and by pread */
/* A fresh root of this mode; returns what to call the run. */
const char *root_begin(struct root *root, const char *name, unsigned mode);
#define ROOT_RUN_MODES(test, modes)                           \
    do {                                                      \
        for (unsigned mode_ = 0; mode_ < (modes); mode_++) {  \
            struct root root_;                                \
            check_running = root_begin(&root_, #test, mode_); \
            test(&root_);                                     \
            root_remove(&root_);                              \
        }                                                     \
    } while (0)
#define ROOT_RUN(test) ROOT_RUN_MODES(test, ROOT_MODES)
#define ROOT_RUN_ONCE(test) ROOT_RUN_MODES(test, 1u) /* the system's calls, mapped */

void root_make(struct root *root, const char *parent); /* parent NULL: $TMPDIR */
void root_remove(struct root *root);

/* 64 MiB, lru, every use recorded. */
struct cog_index_options root_options(const struct root *root);
struct cog_index *root_open(const struct root *root, const struct cog_index_options *options);

/* --- entries: key numbers, files whose every part says which key and which write it is of --- */

/* How often a busy answer is asked again, as a loaded machine gives them; tests that want one set
 * 0. */
extern unsigned kit_patience;
void key_digest(uint64_t key, struct cog_digest *out);
/* A key of this shard, the n-th. */
uint64_t key_in_shard(unsigned shard, unsigned n);
enum cog_status entry_put(struct cog_index *index, uint64_t key, size_t size);
enum cog_status entry_put_as(struct cog_index *index, uint64_t key, size_t size,
                             const struct cog_index_record *as);
/* Reserved and written in `steps` pieces. */
enum cog_status entry_stream(struct cog_index *index, uint64_t key, size_t size, unsigned steps);
enum cog_status entry_delete(struct cog_index *index, uint64_t key);
bool entry_exists(const struct root *root, uint64_t key);
bool file_is_whole(int directory, const char *path);

/* --- the truth --- */

struct truth {
    /* charges of everything in objects/, spool/ and tmp/, the directories in objects/ */
    uint64_t moving;
    uint64_t all; /* blocks of everything under the root */
    unsigned files, temps, torn;
};
/* `look_inside`: count files that are not whole, too. Nobody may write meanwhile. */
void root_truth(const struct root *root, struct truth *out, bool look_inside);
/*
 * Lock every shard once, reap, and compare: total = truth, rows = files, nothing held, no temp
 * file, tables sound. Returns what is wrong, or NULL.
 */
const char *root_audit(const struct root *root, struct cog_index *index);

/* --- somebody else --- */

/* Run in a forked child; its exit code is returned. Ends the program when the child was killed. */
int in_child(int (*body)(void *context), void *context);

#endif
