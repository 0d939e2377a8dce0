#include "core/shelf.h"

#include <pthread.h>

#include "core/documents.h"
#include "core/kept.h"

struct slot {
    struct cog_write_id id;
    struct cog_shelved *thing; /* NULL: free */
    uint64_t used;             /* turn of its last use */
};

struct shelf {
    const size_t most; /* bytes */
    size_t bytes;
    uint64_t turn;
    uint32_t prints[COG_SHELF_COUNT]; /* of the ids: the search reads no more of the others */
    struct slot slots[COG_SHELF_COUNT];
};

/* All of it under the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct shelf shelves[COG_SHELVES] = {
    [COG_SHELF_DOCUMENTS] = {.most = COG_DOCUMENTS_BYTES},
    [COG_SHELF_INDEXES] = {.most = COG_KEPT_BYTES},
};

/* A child is forked only while nobody is inside, so it finds everything whole. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void handle_forks(void)
{
    (void)pthread_atfork(before_fork, after_fork, after_fork);
}

static struct shelf *enter(enum cog_shelf which)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, handle_forks);
    pthread_mutex_lock(&lock);
    return &shelves[which];
}

static void leave(void)
{
    pthread_mutex_unlock(&lock);
}

void cog_shelved_init(struct cog_shelved *thing, size_t size,
                      void (*release)(struct cog_shelved *thing))
{
    atomic_init(&thing->references, 1);
    thing->size = size;
    thing->release = release;
}

void cog_shelved_ref(struct cog_shelved *thing)
{
    atomic_fetch_add_explicit(&thing->references, 1, memory_order_relaxed);
}

void cog_shelved_unref(struct cog_shelved *thing)
{
    if (thing != NULL &&
        atomic_fetch_sub_explicit(&thing->references, 1, memory_order_acq_rel) == 1) {
        thing->release(thing);
    }
}

static uint32_t print_of(const struct cog_write_id *id)
{
    uint64_t mixed = (id->inode ^ id->token) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(mixed >> 32);
}

static bool same_write(const struct cog_write_id *a, const struct cog_write_id *b)
{
    return a->token == b->token && a->inode == b->inode && a->length == b->length &&
           a->device == b->device;
}

static struct slot *slot_of(struct shelf *shelf, const struct cog_write_id *id)
{
    uint32_t print = print_of(id);
    for (size_t i = 0; i < COG_SHELF_COUNT; i++) {
        if (shelf->prints[i] == print && shelf->slots[i].thing != NULL &&
            same_write(&shelf->slots[i].id, id)) {
            return &shelf->slots[i];
        }
    }
    return NULL;
}

struct cog_shelved *cog_shelf_find(enum cog_shelf which, const struct cog_write_id *id)
{
    struct cog_shelved *found = NULL;
    struct shelf *shelf = enter(which);
    struct slot *slot = slot_of(shelf, id);
    if (slot != NULL) {
        slot->used = ++shelf->turn;
        found = slot->thing;
        cog_shelved_ref(found);
    }
    leave();
    return found;
}

bool cog_shelf_has(enum cog_shelf which, const struct cog_write_id *id)
{
    bool has = slot_of(enter(which), id) != NULL;
    leave();
    return has;
}

/* The least recently used slot: of those that are free, where `or_free` and there is one. */
static struct slot *oldest(struct shelf *shelf, bool or_free)
{
    struct slot *found = NULL;
    for (size_t i = 0; i < COG_SHELF_COUNT; i++) {
        struct slot *slot = &shelf->slots[i];
        if (slot->thing == NULL && or_free) {
            return slot;
        }
        if (slot->thing != NULL && (found == NULL || slot->used < found->used)) {
            found = slot;
        }
    }
    return found;
}

static struct cog_shelved *take_out(struct shelf *shelf, struct slot *slot)
{
    struct cog_shelved *thing = slot->thing;
    if (thing != NULL) {
        shelf->bytes -= thing->size;
        slot->thing = NULL;
    }
    return thing;
}

void cog_shelf_keep(enum cog_shelf which, const struct cog_write_id *id, struct cog_shelved *thing)
{
    struct cog_shelved *gone[COG_SHELF_COUNT + 1];
    size_t count = 0;
    struct shelf *shelf = enter(which);
    if (thing->size <= shelf->most) {
        struct slot *slot = slot_of(shelf, id);
        if (slot != NULL) {
            gone[count++] = take_out(shelf, slot);
        }
        while (shelf->bytes + thing->size > shelf->most) {
            gone[count++] = take_out(shelf, oldest(shelf, false));
        }
        slot = oldest(shelf, true);
        if (slot->thing != NULL) {
            gone[count++] = take_out(shelf, slot);
        }
        cog_shelved_ref(thing);
        *slot = (struct slot){*id, thing, ++shelf->turn};
        shelf->prints[slot - shelf->slots] = print_of(id);
        shelf->bytes += thing->size;
    }
    leave();
    for (size_t i = 0; i < count; i++) {
        cog_shelved_unref(gone[i]);
    }
}

size_t cog_shelf_bytes(enum cog_shelf which)
{
    size_t bytes = enter(which)->bytes;
    leave();
    return bytes;
}

void cog_shelf_clear(enum cog_shelf which)
{
    struct cog_shelved *gone[COG_SHELF_COUNT];
    struct shelf *shelf = enter(which);
    for (size_t i = 0; i < COG_SHELF_COUNT; i++) {
        gone[i] = take_out(shelf, &shelf->slots[i]);
    }
    leave();
    for (size_t i = 0; i < COG_SHELF_COUNT; i++) {
        cog_shelved_unref(gone[i]);
    }
}
