/*
 * Loading a value, the half that needs no Python: read and check the document, find what it refers
 * to, fill memory from the parts. The other half is py_build.c.
 */
#include "python/py_load.h"

#include <string.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/msgpack.h"

/* Shorter plain ones are read anew: hashing 100 KB takes 2 us. */
enum { KEPT_PLAIN_BYTES = 256 << 10 };

/* --- step 1: the document -------------------------------------------------------------------- */

bool cog_ext_is_nested(int8_t code)
{
    switch (code) {
    case COG_EXT_TUPLE:
    case COG_EXT_SET:
    case COG_EXT_FROZENSET:
    case COG_EXT_ENUM:
    case COG_EXT_OBJECT:
    case COG_EXT_ARRAY:
    case COG_EXT_SCALAR:
    case COG_EXT_IMAGE:
    case COG_EXT_FRACTION:
    case COG_EXT_PATH:
    case COG_EXT_BUNDLE: return true;
    default: return false;
    }
}

static enum cog_status add_target(struct cog_load *load, const struct cog_mp_token *token,
                                  unsigned char **seen)
{
    struct cog_part part;
    uint32_t number;

    if (token->size != 5) {
        return COG_ERR_DAMAGED;
    }
    number = cog_load_le32(token->data);
    if (cog_entry_part(load->entry, number, &part) != COG_OK || part.kind == COG_PART_DOC ||
        token->data[4] > COG_ROLE_STR) {
        return COG_ERR_DAMAGED;
    }
    /* Each part once: a short document must not be able to ask for a large part a million times. */
    if (*seen == NULL) {
        *seen = cog_alloc_zeroed((size_t)cog_entry_part_count(load->entry) / 8 + 1, 1);
        if (*seen == NULL) {
            return COG_ERR_NOMEM;
        }
    }
    if ((*seen)[number / 8] & (1u << (number % 8))) {
        return COG_ERR_DAMAGED;
    }
    (*seen)[number / 8] |= (unsigned char)(1u << (number % 8));
    if (part.kind == COG_PART_FRAME) {
        return COG_OK; /* frames are read when somebody asks for them */
    }
    if (!part.supported) {
        load->reason = "unsupported-part";
        return COG_ERR_UNSUPPORTED;
    }
    if (part.raw_size > PTRDIFF_MAX) {
        return COG_ERR_DAMAGED;
    }
    if (load->target_count == load->target_capacity) {
        size_t wanted = load->target_capacity ? 2 * load->target_capacity : 8;
        struct cog_load_target *more = cog_realloc(load->targets, wanted * sizeof *more);

        if (more == NULL) {
            return COG_ERR_NOMEM;
        }
        load->targets = more;
        load->target_capacity = wanted;
    }
    load->targets[load->target_count++] = (struct cog_load_target){
        .part = number, .kind = part.kind, .role = token->data[4], .size = (size_t)part.raw_size};
    return COG_OK;
}

/*
 * Find the references in the order of the document. Only tokens are looked at; whether they make
 * sense together is for the build, which walks the same way.
 */
static enum cog_status find_targets(struct cog_load *load)
{
    struct cog_mp_reader reader = {load->doc, load->doc + load->doc_size};
    struct cog_mp_token token;
    unsigned char *seen = NULL;
    enum cog_status status = COG_OK;

    while (status == COG_OK && (status = cog_mp_next_ext(&reader, &token)) == COG_OK) {
        if (token.ext == COG_EXT_PART) {
            status = add_target(load, &token, &seen);
        } else if (cog_ext_is_nested(token.ext)) {
            reader.at = token.data;
        }
    }
    cog_free(seen);
    return status == COG_ABSENT ? COG_OK : status;
}

/* Is the document one frame bundle from its first byte? */
static bool starts_bundle(const struct cog_load *load)
{
    struct cog_mp_reader reader = {load->doc, load->doc + load->doc_size};
    struct cog_mp_token token;

    return cog_mp_next(&reader, &token) == COG_OK && token.type == COG_MP_EXT &&
           token.ext == COG_EXT_BUNDLE;
}

bool cog_load_is_known_good(const struct cog_load *load, uint32_t part)
{
    return load->image != NULL && load->object != NULL && !cog_object_is_mapped(load->object) &&
           cog_object_is_verified(load->object, part);
}

static enum cog_status check_part(const struct cog_load *load, const struct cog_part *part,
                                  struct cog_error *err)
{
    return cog_entry_check_chunks(load->entry, load->source, part->first_chunk, part->chunk_count,
                                  err);
}

static enum cog_status copy_document(struct cog_load *load, uint32_t number,
                                     const struct cog_part *part, struct cog_error *err)
{
    load->doc_memory = cog_alloc((size_t)part->raw_size);
    if (load->doc_memory == NULL) {
        return COG_ERR_NOMEM;
    }
    load->doc = load->doc_memory;
    return cog_entry_read(load->entry, load->source, NULL, number, 0, part->raw_size,
                          load->doc_memory, err);
}

/* Expand into a document that is kept for the next load of this write. */
static enum cog_status keep_document(struct cog_load *load, const struct cog_write_id *id,
                                     uint32_t number, struct cog_error *err)
{
    enum cog_status status;

    load->document = cog_document_new(load->doc_size);
    if (load->document == NULL) {
        return COG_ERR_NOMEM;
    }
    load->doc = cog_document_bytes(load->document);
    status = cog_entry_read(load->entry, load->source, NULL, number, 0, load->doc_size,
                            cog_document_bytes(load->document), err);
    if (status == COG_OK) {
        cog_documents_keep(id, load->document);
    }
    return status;
}

/* A document that does not lie in the image as it is: from a file in memory of our own, or kept. */
static enum cog_status expand_document(struct cog_load *load, uint32_t number,
                                       const struct cog_part *part, struct cog_error *err)
{
    struct cog_write_id id;

    if (load->object != NULL && cog_object_document(load->object) != NULL) {
        load->document = cog_object_document(load->object);
        cog_document_ref(load->document);
        load->doc = cog_document_bytes(load->document);
        return COG_OK;
    }
    if (load->object == NULL || cog_part_is_plain(part)) {
        return copy_document(load, number, part, err);
    }
    id = cog_object_write_id(load->object);
    load->document = cog_documents_find(&id);
    if (load->document != NULL && cog_document_size(load->document) == load->doc_size) {
        load->doc = cog_document_bytes(load->document);
        return COG_OK;
    }
    cog_document_unref(load->document);
    load->document = NULL;
    return cog_documents_wants(&id, load->doc_size) ? keep_document(load, &id, number, err)
                                                    : copy_document(load, number, part, err);
}

/* A long document was read and verified: the next hits of this write need not do it again. */
static void keep_plain_document(const struct cog_load *load)
{
    struct cog_write_id id = cog_object_write_id(load->object);
    struct cog_document *document;

    if (load->doc_size < KEPT_PLAIN_BYTES || !cog_documents_wants(&id, load->doc_size)) {
        return;
    }
    document = cog_document_new(load->doc_size);
    if (document != NULL) { /* else the next hit reads it */
        memcpy(cog_document_bytes(document), load->doc, load->doc_size);
        cog_documents_keep(&id, document);
        cog_document_unref(document);
    }
}

bool cog_load_is_at_hand(const struct cog_load *load)
{
    struct cog_write_id id;

    if (load->object == NULL) {
        return false;
    }
    if (cog_object_document(load->object) != NULL) {
        return true;
    }
    id = cog_object_write_id(load->object);
    return load->image != NULL && cog_documents_has(&id);
}

enum cog_status cog_load_document(struct cog_load *load, struct cog_error *err)
{
    uint64_t limit = load->max_bytes ? load->max_bytes : COG_DOCUMENT_LIMIT;
    uint32_t number;
    struct cog_part part;

    if (cog_entry_find(load->entry, COG_PART_DOC, NULL, 0, &number) != COG_OK) {
        load->reason = "no-document";
        return COG_ERR_UNSUPPORTED;
    }
    enum cog_status status = cog_entry_part(load->entry, number, &part);

    if (status != COG_OK) {
        return status;
    }
    if (!part.supported || part.raw_size > limit) {
        load->reason = part.supported ? "too-large" : "unsupported-part";
        return cog_fail(err, COG_ERR_UNSUPPORTED, 0, "document of %llu bytes, codec %u",
                        (unsigned long long)part.raw_size, part.codec);
    }
    load->doc_size = (size_t)part.raw_size;
    size_t size;
    const unsigned char *known = load->object != NULL
                                     ? cog_object_short_document(load->object, &size)
                                     : NULL;

    if (known != NULL) {
        load->doc = known; /* verified when it was kept; and no page of a map is touched */
    } else if (cog_part_is_plain(&part) && load->image != NULL) {
        load->doc = load->image + part.offset; /* read where it lies */
        if (!cog_load_is_known_good(load, number)) {
            status = check_part(load, &part, err);
        } else {
            keep_plain_document(load);
        }
    } else {
        status = expand_document(load, number, &part, err);
    }
    if (status == COG_OK && cog_entry_part_count(load->entry) > 1) {
        load->is_bundle = starts_bundle(load);
        status = find_targets(load);
    }
    return status;
}

/* --- step 3: the parts ----------------------------------------------------------------------- */

static enum cog_status fill_target(struct cog_load *load, const struct cog_load_target *target,
                                   struct cog_error *err)
{
    struct cog_part part;
    enum cog_status status = cog_entry_part(load->entry, target->part, &part);

    if (status != COG_OK) {
        return status;
    }
    if (target->in_place) {
        return load->object != NULL ? cog_object_verify_part(load->object, target->part, err)
                                    : check_part(load, &part, err);
    }
    if (cog_part_is_plain(&part) && cog_load_is_known_good(load, target->part)) {
        memcpy(target->data, load->image + part.offset, target->size);
        return COG_OK;
    }
    return cog_entry_read(load->entry, load->source, NULL, target->part, 0, target->size,
                          target->data, err);
}

enum cog_status cog_load_fill(struct cog_load *load, struct cog_error *err)
{
    enum cog_status status = COG_OK;

    for (size_t i = 0; i < load->target_count && status == COG_OK; i++) {
        status = fill_target(load, &load->targets[i], err);
    }
    return status;
}

/* --- looking --------------------------------------------------------------------------------- */

static const char *ext_type_name(const struct cog_mp_token *token)
{
    static const char *const names[] = {
        [COG_EXT_TUPLE] = "tuple",         [COG_EXT_SET] = "set",
        [COG_EXT_BIGINT] = "int",          [COG_EXT_DATETIME] = "datetime",
        [COG_EXT_DATE] = "date",           [COG_EXT_TIME] = "time",
        [COG_EXT_TIMEDELTA] = "timedelta", [COG_EXT_DECIMAL] = "Decimal",
        [COG_EXT_UUID] = "UUID",           [COG_EXT_ENUM] = "enum",
        [COG_EXT_OBJECT] = "object",       [COG_EXT_ARRAY] = "ndarray",
        [COG_EXT_SCALAR] = "scalar",       [COG_EXT_IMAGE] = "image",
        [COG_EXT_BYTEARRAY] = "bytearray", [COG_EXT_SURROGATES] = "str",
        [COG_EXT_FRACTION] = "Fraction",   [COG_EXT_COMPLEX] = "complex",
        [COG_EXT_FROZENSET] = "frozenset", [COG_EXT_PATH] = "path",
        [COG_EXT_TENSOR] = "tensor",       [COG_EXT_BUNDLE] = "bundle",
    };
    static const char *const roles[] = {"bytes", "bytearray", "str"};

    if (token->ext == COG_EXT_PART) {
        return token->size == 5 && token->data[4] <= COG_ROLE_STR ? roles[token->data[4]]
                                                                  : "unknown";
    }
    if (token->ext < 0 || (size_t)token->ext >= sizeof names / sizeof *names ||
        names[token->ext] == NULL) {
        return "unknown";
    }
    return names[token->ext];
}

const char *cog_load_type_name(const struct cog_load *load)
{
    static const char *const names[] = {
        [COG_MP_NIL] = "NoneType", [COG_MP_BOOL] = "bool",   [COG_MP_INT] = "int",
        [COG_MP_UINT] = "int",     [COG_MP_FLOAT] = "float", [COG_MP_STR] = "str",
        [COG_MP_BIN] = "bytes",    [COG_MP_ARRAY] = "list",  [COG_MP_MAP] = "dict",
    };
    struct cog_mp_reader reader = {load->doc, load->doc + load->doc_size};
    struct cog_mp_token token;

    if (cog_mp_next(&reader, &token) != COG_OK) {
        return "unknown";
    }
    return token.type == COG_MP_EXT ? ext_type_name(&token) : names[token.type];
}
