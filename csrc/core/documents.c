#include "core/documents.h"

#include <pthread.h>
#include <stdatomic.h>

#include "core/alloc.h"
#include "core/hash.h"

struct cog_document {
    atomic_uint references;
    size_t size;
    unsigned char bytes[];
};

struct slot {
    struct cog_write_id id;
    struct cog_document *document; /* NULL: free */
    uint64_t used;                 /* turn of its last use */
};

enum { ASKED_PRINTS = 1024 };

/* All of it under the lock, except the prints: a lost or doubled note there costs one expansion. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot slots[COG_DOCUMENTS_COUNT];
static size_t kept_bytes;
static uint64_t turn;
static _Atomic uint64_t asked[ASKED_PRINTS];

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

static void enter(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, handle_forks);
    pthread_mutex_lock(&lock);
}

static void leave(void)
{
    pthread_mutex_unlock(&lock);
}

struct cog_document *cog_document_new(size_t size)
{
    size_t total;
    struct cog_document *document;
    if (cog_add_overflows(sizeof *document, size, &total)) {
        return NULL;
    }
    document = cog_alloc(total);
    if (document != NULL) {
        atomic_init(&document->references, 1);
        document->size = size;
    }
    return document;
}

unsigned char *cog_document_bytes(struct cog_document *document)
{
    return document->bytes;
}

size_t cog_document_size(const struct cog_document *document)
{
    return document->size;
}

void cog_document_ref(struct cog_document *document)
{
    atomic_fetch_add_explicit(&document->references, 1, memory_order_relaxed);
}

void cog_document_unref(struct cog_document *document)
{
    if (document != NULL &&
        atomic_fetch_sub_explicit(&document->references, 1, memory_order_acq_rel) == 1) {
        cog_free(document);
    }
}

static bool same_write(const struct cog_write_id *a, const struct cog_write_id *b)
{
    return a->token == b->token && a->inode == b->inode && a->length == b->length &&
           a->device == b->device;
}

static struct slot *slot_of(const struct cog_write_id *id)
{
    for (size_t i = 0; i < COG_DOCUMENTS_COUNT; i++) {
        if (slots[i].document != NULL && same_write(&slots[i].id, id)) {
            return &slots[i];
        }
    }
    return NULL;
}

struct cog_document *cog_documents_find(const struct cog_write_id *id)
{
    struct cog_document *found = NULL;
    enter();
    struct slot *slot = slot_of(id);
    if (slot != NULL) {
        slot->used = ++turn;
        found = slot->document;
        cog_document_ref(found);
    }
    leave();
    return found;
}

bool cog_documents_has(const struct cog_write_id *id)
{
    enter();
    bool has = slot_of(id) != NULL;
    leave();
    return has;
}

bool cog_documents_wants(const struct cog_write_id *id, size_t size)
{
    if (size > COG_DOCUMENT_LARGEST) {
        return false;
    }
    uint64_t print = cog_hash64(id, sizeof *id, 0) | 1; /* 0 is an empty place */
    uint64_t before = atomic_exchange_explicit(&asked[(print >> 1) % ASKED_PRINTS], print,
                                               memory_order_relaxed);
    return before == print;
}

/* The free slot, or the least recently used one. */
static struct slot *slot_to_take(void)
{
    struct slot *oldest = &slots[0];
    for (size_t i = 0; i < COG_DOCUMENTS_COUNT; i++) {
        if (slots[i].document == NULL) {
            return &slots[i];
        }
        if (slots[i].used < oldest->used) {
            oldest = &slots[i];
        }
    }
    return oldest;
}

static struct slot *least_recent(void)
{
    struct slot *oldest = NULL;
    for (size_t i = 0; i < COG_DOCUMENTS_COUNT; i++) {
        if (slots[i].document != NULL && (oldest == NULL || slots[i].used < oldest->used)) {
            oldest = &slots[i];
        }
    }
    return oldest;
}

static struct cog_document *take_out(struct slot *slot)
{
    struct cog_document *document = slot->document;
    if (document != NULL) {
        kept_bytes -= document->size;
        slot->document = NULL;
    }
    return document;
}

void cog_documents_keep(const struct cog_write_id *id, struct cog_document *document)
{
    struct cog_document *gone[COG_DOCUMENTS_COUNT];
    size_t gone_count = 0;
    if (document->size > COG_DOCUMENT_LARGEST) {
        return;
    }
    enter();
    if (slot_of(id) == NULL) {
        while (kept_bytes + document->size > COG_DOCUMENTS_BYTES) {
            gone[gone_count++] = take_out(least_recent());
        }
        struct slot *slot = slot_to_take();
        if (slot->document != NULL) {
            gone[gone_count++] = take_out(slot);
        }
        cog_document_ref(document);
        *slot = (struct slot){*id, document, ++turn};
        kept_bytes += document->size;
    }
    leave();
    for (size_t i = 0; i < gone_count; i++) {
        cog_document_unref(gone[i]);
    }
}

size_t cog_documents_kept_bytes(void)
{
    enter();
    size_t bytes = kept_bytes;
    leave();
    return bytes;
}

void cog_documents_clear(void)
{
    struct cog_document *gone[COG_DOCUMENTS_COUNT];
    enter();
    for (size_t i = 0; i < COG_DOCUMENTS_COUNT; i++) {
        gone[i] = take_out(&slots[i]);
    }
    leave();
    for (size_t i = 0; i < COG_DOCUMENTS_COUNT; i++) {
        cog_document_unref(gone[i]);
    }
}
