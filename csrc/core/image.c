/* The gathering sink: an entry as pieces in memory (entry.h). */
#include <string.h>

#include "core/alloc.h"
#include "core/entry.h"

enum {
    FIRST_PIECES = 4,
    FIRST_OWNED = 1024,
    SMALL_PIECE = 256 /* cheaper to copy than to gather */
};

/* Until the image is sealed, owned pieces have data NULL: `owned` may still move, and they lie in
 * it in order. */
static enum cog_status add_piece(struct cog_image *image, const void *data, size_t size)
{
    struct cog_piece *last = image->count ? &image->pieces[image->count - 1] : NULL;

    if (last && (data ? last->data && last->data + last->size == data : !last->data)) {
        last->size += size;
        return COG_OK;
    }
    if (image->count == image->capacity) {
        size_t capacity = image->capacity ? 2 * image->capacity : FIRST_PIECES;
        size_t bytes;
        struct cog_piece *pieces;
        if (cog_mul_overflows(capacity, sizeof *pieces, &bytes))
            return COG_ERR_NOMEM;
        pieces = cog_realloc(image->pieces, bytes);
        if (!pieces)
            return COG_ERR_NOMEM;
        image->pieces = pieces;
        image->capacity = capacity;
    }
    image->pieces[image->count].data = data;
    image->pieces[image->count].size = size;
    image->count++;
    return COG_OK;
}

static enum cog_status image_write(void *context, const void *data, size_t size, bool stable,
                                   struct cog_error *err)
{
    struct cog_image *image = context;
    enum cog_status status = COG_OK;

    if (image->sealed)
        return cog_fail(err, COG_ERR_INVALID, 0, "the image is sealed");
    if (size == 0)
        return COG_OK;
    if (stable && size >= SMALL_PIECE) {
        status = add_piece(image, data, size);
    } else {
        size_t before = image->owned.size;
        if (!image->owned.data)
            status = cog_buf_reserve(&image->owned, FIRST_OWNED);
        if (status == COG_OK)
            status = cog_buf_append(&image->owned, data, size);
        if (status == COG_OK)
            status = add_piece(image, NULL, size);
        if (status != COG_OK)
            image->owned.size = before;
    }
    if (status == COG_OK)
        image->length += size;
    return status;
}

struct cog_sink cog_image_sink(struct cog_image *image)
{
    struct cog_sink sink = {.context = image, .write = image_write};

    return sink;
}

enum cog_status cog_image_seal(struct cog_image *image)
{
    const unsigned char *owned = image->owned.data;

    if (image->sealed)
        return COG_OK;
    for (size_t i = 0; i < image->count; i++) {
        struct cog_piece *piece = &image->pieces[i];
        if (!piece->data) {
            piece->data = owned;
            owned += piece->size;
        }
    }
    image->sealed = true;
    return COG_OK;
}

void cog_image_release(struct cog_image *image)
{
    cog_free(image->pieces);
    cog_buf_release(&image->owned);
    memset(image, 0, sizeof *image);
}

enum cog_status cog_image_copy(const struct cog_image *image, void *out)
{
    unsigned char *at = out;

    if (!image->sealed)
        return COG_ERR_INVALID;
    for (size_t i = 0; i < image->count; i++) {
        memcpy(at, image->pieces[i].data, image->pieces[i].size);
        at += image->pieces[i].size;
    }
    return COG_OK;
}
