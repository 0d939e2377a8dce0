/*
 * Values: a Python object <-> one msgpack document plus raw parts (docs/values.md is the
 * specification).
 *
 * On the way in, cog_walk_value() walks the object under the GIL and fills a `struct cog_draft`:
 * plain C data in which buffers over COG_PART_THRESHOLD are borrowed. cog_draft_compose() then
 * makes the container; it calls no Python function and may run in any thread without the GIL.
 *
 * On the way out, a value is loaded in four steps, so that the long ones need no GIL:
 *
 *     cog_load_document   any thread   read, verify and expand the document; find what it refers to
 *     cog_load_allocate   GIL          make the bytes, bytearrays and array memory that the parts
 * will fill cog_load_fill       any thread   verify and copy or expand the parts into that memory
 *     cog_load_build      GIL          build the value; every load gives a fresh one that shares
 * nothing with another
 *
 * Both ways keep their own stack on the heap: a value may be nested 1,000 deep in a thread with a
 * small C stack.
 */
#ifndef COG_PY_VALUE_H
#define COG_PY_VALUE_H

#include "python/py_module.h"

#include <stdbool.h>
#include <stdint.h>

#include "core/codec.h"
#include "core/entry.h"
#include "core/store.h"

enum {
    COG_PART_THRESHOLD = 4096, /* larger str, bytes, bytearray and arrays become parts */
    COG_VALUE_DEPTH = 1000,    /* containers within containers; more is a ValueTypeError */
    COG_FRAMING_DEPTH =
        4096, /* levels of framing that reading accepts: at most three a container */
    COG_META_DEPTH = 16,
    COG_KEY_CACHE = 512 /* short map keys kept between documents; a power of two */
};
#define COG_DOCUMENT_LIMIT \
    (UINT64_C(1) << 30) /* raw bytes of a document, unless the caller says otherwise */

/* Extension codes of the document. */
enum cog_value_ext {
    COG_EXT_PART = 1, /* u32 part number, u8 role */
    COG_EXT_TUPLE = 2,
    COG_EXT_SET = 3,
    COG_EXT_BIGINT = 4,
    COG_EXT_DATETIME = 5,
    COG_EXT_DATE = 6,
    COG_EXT_TIME = 7,
    COG_EXT_TIMEDELTA = 8,
    COG_EXT_DECIMAL = 9,
    COG_EXT_UUID = 10,
    COG_EXT_ENUM = 11,
    COG_EXT_OBJECT = 12,
    COG_EXT_ARRAY = 13,
    COG_EXT_SCALAR = 14,
    COG_EXT_IMAGE = 15,
    COG_EXT_BYTEARRAY = 16,
    COG_EXT_SURROGATES = 17,
    COG_EXT_FRACTION = 18,
    COG_EXT_COMPLEX = 19,
    COG_EXT_FROZENSET = 20,
    COG_EXT_PATH = 21,
    COG_EXT_TENSOR = 22, /* reserved */
    COG_EXT_BUNDLE = 23
};
enum cog_part_role { COG_ROLE_BYTES = 0, COG_ROLE_BYTEARRAY = 1, COG_ROLE_STR = 2 };

/* --- writing --------------------------------------------------------------------------------- */

struct cog_draft_part {
    const void *data; /* borrowed; what keeps it alive is in the holds of the walk */
    size_t size;
    size_t patch_at; /* where in the document the u32 part number goes */
    uint8_t kind;    /* enum cog_part_kind */
    uint8_t name_size;
    char *name; /* frames only; the others are named by their number within the kind */
    struct cog_part_options options;
};

/* A value ready to be laid out: plain C data. `{0}` is a valid empty one. */
struct cog_draft {
    unsigned char *key;
    size_t key_size;
    struct cog_buf meta;          /* encoded metadata document */
    struct cog_buf doc;           /* encoded value */
    struct cog_draft_part *parts; /* in document order */
    size_t part_count, part_capacity;
    struct cog_freshness fresh;
    uint64_t token; /* 0: drawn when it is composed */
    uint64_t raw_bytes;
    int level;
    bool compress;          /* documents and blobs ... */
    uint64_t compress_from; /* ... of at least so many bytes each */
    bool compress_arrays;   /* bit-shuffle and zstd instead of raw */
};

/*
 * Make the container of `draft` in `image` (`{0}` before), sealed. The image borrows from the draft
 * and what the draft borrows from. No Python call, no GIL needed; the draft is only read, so
 * several may run at once.
 */
enum cog_status cog_draft_compose(const struct cog_draft *draft, struct cog_image *image,
                                  struct cog_error *err);
/* The same into any sink: the store's, while it writes. */
enum cog_status cog_draft_make(const struct cog_draft *draft, struct cog_sink sink,
                               struct cog_error *err);
/* Bytes that the container will not exceed. */
uint64_t cog_draft_most(const struct cog_draft *draft);
void cog_draft_release(struct cog_draft *draft); /* frees the C data; the draft is empty again */

/* Python objects and buffer views that a draft borrows from; released under the GIL. */
struct cog_holds {
    Py_buffer *views;
    size_t view_count, view_capacity;
    PyObject **objects;
    size_t object_count, object_capacity;
};
void cog_holds_release(struct cog_holds *holds);

/* Encode `value` into draft->doc and draft->parts. 0, or -1 with an exception set (ValueTypeError
 * names the path). */
int cog_walk_value(struct cog_py_state *state, PyObject *value, struct cog_draft *draft,
                   struct cog_holds *holds);
/* Encode a plain document: no extensions, no parts, tuples as arrays. */
int cog_walk_plain(struct cog_py_state *state, PyObject *value, struct cog_buf *out);
/* The same of the metadata of an entry; paths begin with the names of its fields. */
int cog_walk_meta(struct cog_py_state *state, PyObject *meta, struct cog_buf *out);

/* --- reading --------------------------------------------------------------------------------- */

enum cog_value_mode {
    COG_MODE_COW,  /* arrays writable; large stored ones are the private map of the file itself */
    COG_MODE_VIEW, /* arrays read-only, not copied where they need not be */
    COG_MODE_COPY  /* arrays writable and independent of any file */
};

struct cog_load_target { /* one part that the document refers to */
    uint32_t part;
    uint8_t kind;
    uint8_t role;
    bool in_place;    /* `data` points into the container: nothing to copy */
    PyObject *object; /* bytes, bytearray or the memory of an array; NULL before allocation */
    unsigned char *data;
    size_t size;
};

struct cog_load {
    /* set by the caller, who keeps them alive; the rest zero */
    const struct cog_entry *entry;
    const struct cog_source *source;
    struct cog_object *object; /* NULL: not from a store */
    enum cog_value_mode mode;
    bool no_lending;    /* copy even where COG_MODE_COW would give away the map */
    uint64_t max_bytes; /* of the document; 0 = COG_DOCUMENT_LIMIT */

    unsigned char
        *image; /* the whole container in memory, or NULL; private and writable if `object` is */

    const unsigned char *doc;
    size_t doc_size;
    unsigned char *doc_memory;     /* owned, when the document is not read in place */
    struct cog_document *document; /* instead: a kept expansion of it, one reference */
    bool is_bundle;                /* the document is a frame bundle */
    struct cog_load_target *targets;
    size_t target_count, target_capacity;
    size_t next_target;  /* of the build */
    uint64_t fill_bytes; /* raw bytes that cog_load_fill will produce */
    bool lent;           /* the value has the private map of the object */
    bool viewed;         /* the value looks at the image: it must not change any more */
    const char *reason;  /* with COG_ERR_UNSUPPORTED: the reason word */
};

enum cog_status cog_load_document(struct cog_load *load, struct cog_error *err);
/* `owner` (a Python object, usually the Entry) keeps entry, source and object alive for memory that
 * is lent out. */
int cog_load_allocate(struct cog_py_state *state, struct cog_load *load, PyObject *owner);
enum cog_status cog_load_fill(struct cog_load *load, struct cog_error *err);
/*
 * The value, or NULL with DamagedError, UnsupportedError or an error of the system set. `frames`:
 * True, False or a sequence of ids, for bundles.
 */
PyObject *cog_load_build(struct cog_py_state *state, struct cog_load *load, PyObject *owner,
                         PyObject *frames);
void cog_load_release(struct cog_load *load); /* GIL; drops targets and the document */

/* Decode a plain document. A new reference, or NULL with DamagedError set. */
PyObject *cog_build_plain(struct cog_py_state *state, const void *data, size_t size);

/* Set the exception for a failed call of the core; returns NULL for `return cog_py_raise(...)`. */
PyObject *cog_py_raise_entry(struct cog_py_state *state, enum cog_status status, const char *reason,
                             const struct cog_error *err);

#endif
