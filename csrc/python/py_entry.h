/*
 * The Python types around a container: Draft (a value on its way in), Image (a finished container),
 * Entry (an opened one), and what the binding of the store needs of them.
 */
#ifndef COG_PY_ENTRY_H
#define COG_PY_ENTRY_H

#include "python/py_value.h"

/*
 * What a put needs to know about a Draft or an Image. Pointers stay valid while the Python object
 * lives; a store job keeps a reference to it until it has ended (dropped under the GIL).
 */
struct cog_py_put {
    const unsigned char *key;
    size_t key_size;
    const struct cog_draft *draft; /* compose it first (no GIL needed), or ... */
    const struct cog_image *image; /* ... put this; exactly one of the two is set */
    double cost_seconds;
    uint64_t expires_ms; /* 0 = never */
};
/* 0, or -1 with TypeError set when `what` is neither. */
int cog_py_put_of(struct cog_py_state *state, PyObject *what, struct cog_py_put *out);

/* The arguments of a Draft and of what else makes entries; objects are borrowed, NULL where not
 * given. */
struct cog_py_draft_arguments {
    PyObject *value, *meta, *refreshed, *ttl, *stale, *token, *compress_from;
    Py_buffer key;
    int compress, compress_arrays, level;
};
/* Everything but the value into `draft` (`{0}` before). 0, or -1 with an exception set. */
int cog_py_draft_fill(struct cog_py_state *state, const struct cog_py_draft_arguments *arguments,
                      struct cog_draft *draft);
/* Append `meta`, encoded such that every reader takes it. 0, or -1 with an exception set. */
int cog_py_take_meta(struct cog_py_state *state, PyObject *meta, struct cog_buf *out);

/*
 * An Image that takes `image` over (in every case) and tells about it what `about` says; `owner`
 * keeps alive what both borrow.
 */
PyObject *cog_py_image_new(struct cog_py_state *state, struct cog_image *image,
                           const struct cog_py_put *about, uint64_t raw_bytes, PyObject *owner);
/* Tell a Draft how long its container became (Draft.stored_bytes). */
void cog_py_draft_stored(PyObject *draft, uint64_t length);

/*
 * An Entry around an object of the store. Takes `object` over in every case, also when it fails.
 * `store` (may be NULL) is kept alive; `on_damage` (may be NULL) is called under the GIL, with
 * `store`, when a later read finds damage.
 */
PyObject *cog_py_entry_from_object(struct cog_py_state *state, struct cog_object *object,
                                   PyObject *store,
                                   void (*on_damage)(PyObject *store, struct cog_object *object));
/* The store's object behind `entry` (an Entry), borrowed; NULL: it does not come from a store. */
struct cog_object *cog_py_entry_object(PyObject *entry);
/* The arguments of Entry.read_container(): a range within the container, and room for it. */
struct cog_py_container {
    const struct cog_source *source;
    uint64_t offset, size;
    PyObject *bytes; /* a reference of the caller's */
};
/* 0, or -1 with an exception set. */
int cog_py_entry_container(PyObject *entry, PyObject *args, PyObject *kwargs,
                           struct cog_py_container *out);
/* Begin to load the value of `entry` (an Entry): fills what the caller of cog_load_document() must
 * set. */
int cog_py_entry_load(PyObject *entry, enum cog_value_mode mode, struct cog_load *load);
/*
 * Between the two, when the GIL was released since: what of the entry may still be lent? -1 with an
 * exception set when another load has its map by now.
 */
int cog_py_entry_recheck(PyObject *entry, struct cog_load *load);
/* After a load: remember that the map was given away or looked at, report damage to the store. */
void cog_py_entry_loaded(PyObject *entry, const struct cog_load *load, enum cog_status status);
/* Entry.value(): all steps, releasing the GIL where it pays. */
PyObject *cog_py_entry_value(PyObject *entry, enum cog_value_mode mode, uint64_t max_bytes,
                             PyObject *frames);

#endif
