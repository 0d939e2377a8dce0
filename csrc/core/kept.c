#include "core/kept.h"

#include "core/alloc.h"
#include "core/shelf.h"

struct cog_kept {
    struct cog_shelved shelved;
    struct cog_entry *entry;
    int64_t mtime_ns, ctime_ns;
    size_t document_size; /* 0: there is none */
    unsigned char document[];
};

static struct cog_write_id id_of(const struct cog_stat *stat)
{
    /* The token is in the footer, which is compared when it is read. */
    return (struct cog_write_id){
        .device = stat->device, .inode = stat->inode, .length = stat->size, .token = 0};
}

static void release(struct cog_shelved *thing)
{
    struct cog_kept *kept = (struct cog_kept *)thing;
    cog_entry_free(kept->entry);
    cog_free(kept);
}

struct cog_kept *cog_kept_find(const struct cog_stat *stat)
{
    struct cog_write_id id = id_of(stat);
    struct cog_kept *kept = (struct cog_kept *)cog_shelf_find(COG_SHELF_INDEXES, &id);
    if (kept != NULL && (kept->mtime_ns != stat->mtime_ns || kept->ctime_ns != stat->ctime_ns)) {
        cog_kept_unref(kept);
        kept = NULL;
    }
    return kept;
}

/* Bytes of the document, where it is short and lies from `start` on; else 0. */
static size_t document_size(const struct cog_entry *entry, uint64_t start, uint32_t *number)
{
    struct cog_part part;
    if (cog_entry_find(entry, COG_PART_DOC, NULL, 0, number) != COG_OK ||
        cog_entry_part(entry, *number, &part) != COG_OK || !part.supported ||
        part.raw_size > COG_KEPT_DOCUMENT || part.offset < start) {
        return 0;
    }
    return (size_t)part.raw_size;
}

struct cog_kept *cog_kept_keep(const struct cog_stat *stat, uint64_t now_ms,
                               struct cog_entry *entry, const struct cog_source *source,
                               uint64_t start)
{
    int64_t changed_ns = stat->mtime_ns > stat->ctime_ns ? stat->mtime_ns : stat->ctime_ns;
    size_t footprint = cog_entry_footprint(entry);
    uint32_t number = 0;
    if ((int64_t)now_ms - changed_ns / 1000000 <= COG_SETTLED_MS || footprint > COG_KEPT_LARGEST) {
        return NULL;
    }
    size_t document = document_size(entry, start, &number);
    size_t size = sizeof(struct cog_kept) + document;
    struct cog_kept *kept = cog_alloc(size);
    if (kept == NULL) {
        return NULL;
    }
    if (document > 0 &&
        cog_entry_read(entry, source, NULL, number, 0, document, kept->document, NULL) != COG_OK) {
        cog_free(kept); /* for whoever loads it to find out */
        return NULL;
    }
    cog_shelved_init(&kept->shelved, size + footprint, release);
    kept->entry = entry;
    kept->mtime_ns = stat->mtime_ns;
    kept->ctime_ns = stat->ctime_ns;
    kept->document_size = document;
    struct cog_write_id id = id_of(stat);
    cog_shelf_keep(COG_SHELF_INDEXES, &id, &kept->shelved);
    return kept;
}

void cog_kept_unref(struct cog_kept *kept)
{
    cog_shelved_unref((struct cog_shelved *)kept);
}

struct cog_entry *cog_kept_entry(const struct cog_kept *kept)
{
    return kept->entry;
}

const unsigned char *cog_kept_document(const struct cog_kept *kept, size_t *size)
{
    *size = kept->document_size;
    return kept->document_size > 0 ? kept->document : NULL;
}
