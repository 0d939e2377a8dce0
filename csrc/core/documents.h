/*
 * Expanded documents of entries that are read again and again.
 *
 * Expanding 100 KB of text costs more than everything else of a warm hit. A process that reads one
 * write of an entry a second time therefore keeps the expanded bytes, in a memory that is bounded
 * in bytes and in number and shared by all stores of the process. Bytes were verified when they
 * were expanded, and are found again only by device, inode, length and write token together, so
 * that a replaced file is another document: the same rule as "verified once" (store.h).
 *
 * Threads and forks: as for every shelf (shelf.h).
 */
#ifndef COG_DOCUMENTS_H
#define COG_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/shelf.h"

enum {
    COG_DOCUMENTS_BYTES = 32 << 20, /* of all kept documents together */
    COG_DOCUMENT_LARGEST = 4 << 20, /* larger ones are not kept */
    COG_DOCUMENTS_COUNT = COG_SHELF_COUNT
};

/* Immutable once kept; freed with its last reference. */
struct cog_document;

/* A document with room for `size` bytes and one reference, the caller's; NULL: no memory. */
struct cog_document *cog_document_new(size_t size);
unsigned char *cog_document_bytes(struct cog_document *document);
size_t cog_document_size(const struct cog_document *document);
void cog_document_ref(struct cog_document *document);
void cog_document_unref(struct cog_document *document); /* accepts NULL */

/* The kept document of this write with a reference for the caller, or NULL. */
struct cog_document *cog_documents_find(const struct cog_write_id *id);
/* Is it kept? Takes no reference. */
bool cog_documents_has(const struct cog_write_id *id);
/* Is a document of `size` bytes worth keeping: has this write been asked about before? Notes it. */
bool cog_documents_wants(const struct cog_write_id *id, size_t size);
/* Keep a filled document; the least recently used ones make room. The caller's reference stays. */
void cog_documents_keep(const struct cog_write_id *id, struct cog_document *document);

/* What is kept now. */
size_t cog_documents_kept_bytes(void);
void cog_documents_clear(void); /* documents in use live on until their references are gone */

#endif
