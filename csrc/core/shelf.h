/*
 * What a process keeps of entries that it reads again and again: expanded documents (documents.h),
 * parsed indexes (kept.h). Each kind of thing has a shelf, bounded in bytes and in number and
 * shared by all stores of the process; the least recently used things make room.
 *
 * A thing is found by the write that it belongs to, and is immutable. Every function may be called
 * from any thread; no lock is held across an allocation, a free or a system call. A forked child
 * starts with what its parent had.
 */
#ifndef COG_SHELF_H
#define COG_SHELF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cog_shelf { COG_SHELF_DOCUMENTS, COG_SHELF_INDEXES, COG_SHELVES };

enum { COG_SHELF_COUNT = 256 }; /* things on one shelf */

/* One write of one file. */
struct cog_write_id {
    uint64_t device, inode, length, token;
};

/* The first member of everything that is kept. */
struct cog_shelved {
    atomic_uint references;
    size_t size; /* what it counts */
    void (*release)(struct cog_shelved *thing);
};

/* A thing with one reference, the caller's; `release` is called when the last one goes. */
void cog_shelved_init(struct cog_shelved *thing, size_t size,
                      void (*release)(struct cog_shelved *thing));
void cog_shelved_ref(struct cog_shelved *thing);
void cog_shelved_unref(struct cog_shelved *thing); /* accepts NULL */

/* The thing kept of this write with a reference for the caller, or NULL. */
struct cog_shelved *cog_shelf_find(enum cog_shelf which, const struct cog_write_id *id);
/* Is there one? Takes no reference. */
bool cog_shelf_has(enum cog_shelf which, const struct cog_write_id *id);
/* Keep it, in place of what was kept of this write. The caller's reference stays. */
void cog_shelf_keep(enum cog_shelf which, const struct cog_write_id *id, struct cog_shelved *thing);

/* What is kept now. */
size_t cog_shelf_bytes(enum cog_shelf which);
void cog_shelf_clear(enum cog_shelf which); /* things in use live on */

#endif
