#include "core/documents.h"

#include <stdatomic.h>

#include "core/alloc.h"
#include "core/hash.h"

struct cog_document {
    struct cog_shelved shelved; /* its size is that of the bytes */
    unsigned char bytes[];
};

enum { ASKED_PRINTS = 1024 };

static _Atomic uint64_t asked[ASKED_PRINTS]; /* a lost or doubled note costs one expansion */

static void free_document(struct cog_shelved *thing)
{
    cog_free(thing);
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
        cog_shelved_init(&document->shelved, size, free_document);
    }
    return document;
}

unsigned char *cog_document_bytes(struct cog_document *document)
{
    return document->bytes;
}

size_t cog_document_size(const struct cog_document *document)
{
    return document->shelved.size;
}

void cog_document_ref(struct cog_document *document)
{
    cog_shelved_ref(&document->shelved);
}

void cog_document_unref(struct cog_document *document)
{
    cog_shelved_unref((struct cog_shelved *)document);
}

struct cog_document *cog_documents_find(const struct cog_write_id *id)
{
    return (struct cog_document *)cog_shelf_find(COG_SHELF_DOCUMENTS, id);
}

bool cog_documents_has(const struct cog_write_id *id)
{
    return cog_shelf_has(COG_SHELF_DOCUMENTS, id);
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

void cog_documents_keep(const struct cog_write_id *id, struct cog_document *document)
{
    if (document->shelved.size <= COG_DOCUMENT_LARGEST) {
        cog_shelf_keep(COG_SHELF_DOCUMENTS, id, &document->shelved);
    }
}

size_t cog_documents_kept_bytes(void)
{
    return cog_shelf_bytes(COG_SHELF_DOCUMENTS);
}

void cog_documents_clear(void)
{
    cog_shelf_clear(COG_SHELF_DOCUMENTS);
}
