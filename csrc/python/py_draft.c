/* Draft: a value on its way into an entry. Image: the finished container. */
#include "python/py_entry.h"

#include <string.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/meta.h"
#include "python/py_draft_jobs.h"
#include "python/py_memory.h"

enum {
    RELEASE_GIL_BYTES = 64 << 10, /* composing: zstd takes 150 us for as much */
    RELEASE_GIL_COPY = 1 << 20
};

struct py_draft {
    PyObject_HEAD struct cog_draft draft;
    struct cog_holds holds;
    uint64_t stored_bytes; /* 0 until it was composed */
};

struct py_image {
    PyObject_HEAD struct cog_image image;
    PyObject *owner; /* a Draft or an Entry, whose memory pieces and key borrow */
    struct cog_py_put about;
    uint64_t raw_bytes;
};

/* --- composing: no Python here ---------------------------------------------------------------- */

/* Of a document or blob of this size. */
static uint8_t text_codec(const struct cog_draft *draft, size_t size)
{
    return draft->compress && size >= draft->compress_from ? COG_CODEC_ZSTD : COG_CODEC_STORED;
}

/* How a part will be stored; the writer may still find that it does not gain. */
static struct cog_part_options options_of(const struct cog_draft *draft,
                                          const struct cog_draft_part *part)
{
    struct cog_part_options options = part->options;

    options.level = draft->level;
    if (part->kind == COG_PART_BLOB) {
        options.codec = text_codec(draft, part->size);
    }
    if (part->kind == COG_PART_FRAME && !draft->compress) {
        options.codec = COG_CODEC_STORED;
    }
    if (part->kind == COG_PART_ARRAY && draft->compress_arrays) {
        options.codec = COG_CODEC_ZSTD;
        options.filter = COG_FILTER_BITSHUFFLE;
    }
    return options;
}

static enum cog_status compose_part(const struct cog_draft *draft,
                                    const struct cog_draft_part *part, uint32_t index,
                                    struct cog_entry_writer *writer, struct cog_error *err)
{
    struct cog_part_options options = options_of(draft, part);
    char digits[12];
    const char *name = part->name;
    size_t name_size = part->name_size;

    if (name == NULL) {
        char *at = digits + sizeof digits;

        do {
            *--at = (char)('0' + index % 10);
            index /= 10;
        } while (index > 0);
        name = at;
        name_size = (size_t)(digits + sizeof digits - at);
    }
    return cog_entry_part_put(writer, part->kind, name, name_size, &options, part->data, part->size,
                              true, NULL, err);
}

static enum cog_status compose_into(const struct cog_draft *draft, struct cog_entry_writer *writer,
                                    struct cog_error *err)
{
    static const uint8_t kinds[] = {COG_PART_ARRAY, COG_PART_BLOB, COG_PART_FRAME};

    for (size_t k = 0; k < sizeof kinds; k++) {
        uint32_t index = 0;

        for (size_t i = 0; i < draft->part_count; i++) {
            if (draft->parts[i].kind == kinds[k]) {
                enum cog_status status = compose_part(draft, &draft->parts[i], index++, writer,
                                                      err);

                if (status != COG_OK) {
                    return status;
                }
            }
        }
    }
    struct cog_part_options options = {.codec = text_codec(draft, draft->doc.size),
                                       .level = draft->level};
    enum cog_status status = cog_entry_part_put(writer, COG_PART_DOC, NULL, 0, &options,
                                                draft->doc.data, draft->doc.size, true, NULL, err);
    uint64_t length;

    return status != COG_OK ? status
                            : cog_entry_finish(writer, draft->meta.data, draft->meta.size,
                                               &draft->fresh, &length, err);
}

/* The most that so many bytes come to with what the index says of their chunks: 12 bytes at most a
 * chunk of 128 KiB and more. A later chunk of a part that was worth compressing may gain nothing.
 */
static uint64_t stored_most(uint64_t size, uint8_t codec)
{
    return size + size / (codec == COG_CODEC_STORED ? 8192 : 256);
}

uint64_t cog_draft_most(const struct cog_draft *draft)
{
    /* The index has the key, the metadata and some 300 bytes a part. */
    uint64_t most = draft->key_size + draft->meta.size + (draft->part_count + 1) * 1024 +
                    (16 << 10) + stored_most(draft->doc.size, text_codec(draft, draft->doc.size));

    for (size_t i = 0; i < draft->part_count; i++) {
        const struct cog_draft_part *part = &draft->parts[i];

        most += stored_most(part->size, options_of(draft, part).codec);
    }
    return most;
}

enum cog_status cog_draft_make(const struct cog_draft *draft, struct cog_sink sink,
                               struct cog_error *err)
{
    struct cog_entry_writer *writer = NULL;
    enum cog_status status = cog_entry_writer_new(draft->key, draft->key_size, draft->token, sink,
                                                  &writer, err);

    if (status == COG_OK) {
        status = compose_into(draft, writer, err);
    }
    cog_entry_writer_free(writer);
    return status;
}

enum cog_status cog_draft_compose(const struct cog_draft *draft, struct cog_image *image,
                                  struct cog_error *err)
{
    enum cog_status status = cog_draft_make(draft, cog_image_sink(image), err);

    return status == COG_OK ? cog_image_seal(image) : status;
}

void cog_draft_release(struct cog_draft *draft)
{
    for (size_t i = 0; i < draft->part_count; i++) {
        cog_free(draft->parts[i].name);
    }
    cog_free(draft->parts);
    cog_free(draft->key);
    cog_buf_release(&draft->meta);
    cog_buf_release(&draft->doc);
    memset(draft, 0, sizeof *draft);
}

/* --- arguments ------------------------------------------------------------------------------- */

/* An unsigned number that must be below `limit`. */
static int read_number(PyObject *value, const char *name, uint64_t limit, uint64_t *out)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(value);

    if (PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Format(PyExc_ValueError, "%s: %R; 0 to %llu are possible", name, value,
                         (unsigned long long)limit);
        }
        return -1;
    }
    if (number > limit) {
        PyErr_Format(PyExc_ValueError, "%s: %R; 0 to %llu are possible", name, value,
                     (unsigned long long)limit);
        return -1;
    }
    *out = number;
    return 0;
}

/* A time span in milliseconds as the slots hold it; None is never. */
static int read_span(PyObject *value, const char *name, uint64_t *out)
{
    if (value == Py_None) {
        *out = COG_NEVER;
        return 0;
    }
    return read_number(value, name, COG_NEVER - 1, out);
}

static int take_key(struct cog_draft *draft, const Py_buffer *key)
{
    if (key->len < 1 || key->len > COG_KEY_LIMIT) {
        PyErr_Format(PyExc_ValueError, "key: %zd bytes; 1 to %d are possible", key->len,
                     COG_KEY_LIMIT);
        return -1;
    }
    draft->key = cog_alloc((size_t)key->len);
    if (draft->key == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(draft->key, key->buf, (size_t)key->len);
    draft->key_size = (size_t)key->len;
    return 0;
}

int cog_py_take_meta(struct cog_py_state *state, PyObject *meta, struct cog_buf *out)
{
    struct cog_meta parsed;

    if (cog_walk_meta(state, meta, out) < 0) {
        return -1;
    }
    if (out->size > COG_META_LIMIT) {
        PyErr_Format(PyExc_ValueError, "metadata: %zu bytes encoded; the limit is %d", out->size,
                     COG_META_LIMIT);
        return -1;
    }
    if (cog_meta_parse(out->data, out->size, &parsed) != COG_OK) {
        PyErr_SetString(PyExc_ValueError,
                        "metadata: not a mapping, or a known field with a value of the wrong type");
        return -1;
    }
    return 0;
}

/* What a put needs to know of a draft. */
static struct cog_py_put describe(const struct cog_draft *draft)
{
    struct cog_py_put about = {.key = draft->key, .key_size = draft->key_size, .draft = draft};
    struct cog_meta meta;

    if (cog_meta_parse(draft->meta.data, draft->meta.size, &meta) == COG_OK) {
        about.cost_seconds = (double)meta.cost_ms / 1000.0;
    }
    if (draft->fresh.ttl_ms != COG_NEVER) {
        about.expires_ms = draft->fresh.refreshed_ms + draft->fresh.ttl_ms;
    }
    return about;
}

/* --- Draft ----------------------------------------------------------------------------------- */

static int parse_draft(PyObject *args, PyObject *kwargs, struct cog_py_draft_arguments *out)
{
    static char *names[] = {"value",  "key",      "meta",          "refreshed_ms",
                            "ttl_ms", "stale_ms", "compress",      "compress_arrays",
                            "level",  "token",    "compress_from", NULL};

    *out = (struct cog_py_draft_arguments){.compress = 1, .level = COG_LEVEL_DEFAULT};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oy*|$OOOOppiOO:Draft", names, &out->value,
                                     &out->key, &out->meta, &out->refreshed, &out->ttl, &out->stale,
                                     &out->compress, &out->compress_arrays, &out->level,
                                     &out->token, &out->compress_from)) {
        return -1;
    }
    if (out->meta == NULL || out->refreshed == NULL || out->ttl == NULL) {
        PyBuffer_Release(&out->key);
        PyErr_SetString(PyExc_TypeError, "Draft: meta, refreshed_ms and ttl_ms are needed");
        return -1;
    }
    return 0;
}

int cog_py_draft_fill(struct cog_py_state *state, const struct cog_py_draft_arguments *arguments,
                      struct cog_draft *draft)
{
    draft->compress = arguments->compress;
    draft->compress_arrays = arguments->compress_arrays;
    draft->level = arguments->level;
    if (arguments->level < 1 || arguments->level > 19) {
        PyErr_Format(PyExc_ValueError, "level: %d; 1 to 19 are possible", arguments->level);
        return -1;
    }
    if (take_key(draft, &arguments->key) < 0 ||
        read_number(arguments->refreshed, "refreshed_ms", COG_NEVER - 1,
                    &draft->fresh.refreshed_ms) < 0 ||
        read_span(arguments->ttl, "ttl_ms", &draft->fresh.ttl_ms) < 0 ||
        (arguments->stale != NULL &&
         read_span(arguments->stale, "stale_ms", &draft->fresh.stale_ms) < 0) ||
        (arguments->token != NULL &&
         read_number(arguments->token, "token", UINT64_MAX, &draft->token) < 0) ||
        (arguments->compress_from != NULL && read_number(arguments->compress_from, "compress_from",
                                                         UINT64_MAX, &draft->compress_from) < 0) ||
        cog_py_take_meta(state, arguments->meta, &draft->meta) < 0) {
        return -1;
    }
    return 0;
}

static PyObject *draft_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct cog_py_state *state = cog_py_state_of_type(type);
    struct cog_py_draft_arguments arguments;

    if (state == NULL || parse_draft(args, kwargs, &arguments) < 0) {
        return NULL;
    }
    struct py_draft *self = (struct py_draft *)type->tp_alloc(type, 0);

    if (self != NULL && (cog_py_draft_fill(state, &arguments, &self->draft) < 0 ||
                         cog_walk_value(state, arguments.value, &self->draft, &self->holds) < 0)) {
        Py_CLEAR(self);
    }
    PyBuffer_Release(&arguments.key);
    return (PyObject *)self;
}

static void draft_dealloc(PyObject *object)
{
    struct py_draft *self = (struct py_draft *)object;
    PyTypeObject *type = Py_TYPE(object);

    cog_draft_release(&self->draft);
    cog_holds_release(&self->holds);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *draft_compose(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct py_draft *self = (struct py_draft *)object;
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(object));
    struct cog_image image = {0};
    struct cog_error err = {0};
    enum cog_status status;

    if (state == NULL) {
        return NULL;
    }
    if (self->draft.raw_bytes > RELEASE_GIL_BYTES) {
        Py_BEGIN_ALLOW_THREADS status = cog_draft_compose(&self->draft, &image, &err);
        Py_END_ALLOW_THREADS
    } else {
        status = cog_draft_compose(&self->draft, &image, &err);
    }
    if (status != COG_OK) {
        cog_image_release(&image);
        return cog_py_raise_entry(state, status, NULL, &err);
    }
    self->stored_bytes = image.length;
    struct cog_py_put about = describe(&self->draft);

    return cog_py_image_new(state, &image, &about, self->draft.raw_bytes, object);
}

static PyObject *draft_key(PyObject *object, void *Py_UNUSED(closure))
{
    struct cog_draft *draft = &((struct py_draft *)object)->draft;

    return PyBytes_FromStringAndSize((const char *)draft->key, (Py_ssize_t)draft->key_size);
}

static PyObject *draft_raw_bytes(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct py_draft *)object)->draft.raw_bytes);
}

static PyObject *draft_stored_bytes(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct py_draft *)object)->stored_bytes);
}

static PyMethodDef draft_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))cog_py_draft_submit, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("submit($self, channel, future, operation, /, *args, **kwargs)\n--\n\nRun the "
               "method named `operation` (compose) in the thread pool.")},
    {"compose", draft_compose, METH_NOARGS,
     PyDoc_STR("compose($self, /)\n--\n\nThe container: checksums, compression, layout. Without "
               "the GIL.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef draft_getset[] = {
    {"key", draft_key, NULL, PyDoc_STR("The canonical key encoding."), NULL},
    {"raw_bytes", draft_raw_bytes, NULL, PyDoc_STR("Bytes of all parts before compression."), NULL},
    {"stored_bytes", draft_stored_bytes, NULL,
     PyDoc_STR("Length of the container; 0 before it was composed."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot draft_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A value on its way into an entry: walked and borrowed.")},
    {Py_tp_new, (void *)draft_new},
    {Py_tp_dealloc, (void *)draft_dealloc},
    {Py_tp_methods, draft_methods},
    {Py_tp_getset, draft_getset},
    {0, NULL},
};

static PyType_Spec draft_spec = {
    .name = "cogcache._core.Draft",
    .basicsize = sizeof(struct py_draft),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = draft_slots,
};

/* --- Image ----------------------------------------------------------------------------------- */

PyObject *cog_py_image_new(struct cog_py_state *state, struct cog_image *image,
                           const struct cog_py_put *about, uint64_t raw_bytes, PyObject *owner)
{
    PyTypeObject *type = state->image_type;
    struct py_image *self = (struct py_image *)type->tp_alloc(type, 0);

    if (self == NULL) {
        cog_image_release(image);
        return NULL;
    }
    self->image = *image;
    self->about = *about;
    self->about.draft = NULL;
    self->about.image = &self->image;
    self->raw_bytes = raw_bytes;
    self->owner = Py_NewRef(owner);
    return (PyObject *)self;
}

static void image_dealloc(PyObject *object)
{
    struct py_image *self = (struct py_image *)object;
    PyTypeObject *type = Py_TYPE(object);

    cog_image_release(&self->image);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

static Py_ssize_t image_length(PyObject *object)
{
    return (Py_ssize_t)((struct py_image *)object)->image.length;
}

static PyObject *image_tobytes(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct py_image *self = (struct py_image *)object;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, image_length(object));
    enum cog_status status;

    if (bytes == NULL) {
        return NULL;
    }
    if (self->image.length > RELEASE_GIL_COPY) {
        Py_BEGIN_ALLOW_THREADS status = cog_image_copy(&self->image, PyBytes_AS_STRING(bytes));
        Py_END_ALLOW_THREADS
    } else {
        status = cog_image_copy(&self->image, PyBytes_AS_STRING(bytes));
    }
    if (status != COG_OK) {
        Py_DECREF(bytes);
        return cog_py_raise_entry(cog_py_state_of_type(Py_TYPE(object)), status, NULL, NULL);
    }
    return bytes;
}

static PyObject *image_pieces(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct py_image *self = (struct py_image *)object;
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(object));
    PyObject *list = state != NULL ? PyList_New((Py_ssize_t)self->image.count) : NULL;

    for (size_t i = 0; list != NULL && i < self->image.count; i++) {
        const struct cog_piece *piece = &self->image.pieces[i];
        PyObject *memory = cog_memory_borrow(state, (void *)(uintptr_t)piece->data, piece->size,
                                             object, true);
        PyObject *view = memory != NULL ? PyMemoryView_FromObject(memory) : NULL;

        Py_XDECREF(memory);
        if (view == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, view);
        }
    }
    return list;
}

static PyObject *image_key(PyObject *object, void *Py_UNUSED(closure))
{
    const struct cog_py_put *about = &((struct py_image *)object)->about;

    return PyBytes_FromStringAndSize((const char *)about->key, (Py_ssize_t)about->key_size);
}

/* The token stands in the head, which is in the first piece. */
static PyObject *image_token(PyObject *object, void *Py_UNUSED(closure))
{
    const struct cog_piece *first = &((struct py_image *)object)->image.pieces[0];

    return PyLong_FromUnsignedLongLong(cog_load_le64(first->data + 8));
}

static PyObject *image_raw_bytes(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((struct py_image *)object)->raw_bytes);
}

static PyMethodDef image_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))cog_py_image_submit, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("submit($self, channel, future, operation, /, *args, **kwargs)\n--\n\nRun the "
               "method named `operation` (tobytes) in the thread pool.")},
    {"tobytes", image_tobytes, METH_NOARGS,
     PyDoc_STR("tobytes($self, /)\n--\n\nThe whole container as bytes.")},
    {"pieces", image_pieces, METH_NOARGS,
     PyDoc_STR("pieces($self, /)\n--\n\nThe container as read-only views, in order.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef image_getset[] = {
    {"key", image_key, NULL, PyDoc_STR("The canonical key encoding."), NULL},
    {"token", image_token, NULL, PyDoc_STR("The write token."), NULL},
    {"raw_bytes", image_raw_bytes, NULL, PyDoc_STR("Bytes of all parts before compression."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot image_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A finished container in memory, in pieces; immutable.")},
    {Py_tp_dealloc, (void *)image_dealloc},
    {Py_tp_methods, image_methods},
    {Py_tp_getset, image_getset},
    {Py_sq_length, (void *)image_length},
    {0, NULL},
};

static PyType_Spec image_spec = {
    .name = "cogcache._core.Image",
    .basicsize = sizeof(struct py_image),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = image_slots,
};

/* --- for the store --------------------------------------------------------------------------- */

int cog_py_put_of(struct cog_py_state *state, PyObject *what, struct cog_py_put *out)
{
    if (Py_TYPE(what) == state->draft_type) {
        *out = describe(&((struct py_draft *)what)->draft);
        return 0;
    }
    if (Py_TYPE(what) == state->image_type) {
        *out = ((struct py_image *)what)->about;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "a Draft or an Image is needed, not %.100s",
                 Py_TYPE(what)->tp_name);
    return -1;
}

void cog_py_draft_stored(PyObject *draft, uint64_t length)
{
    ((struct py_draft *)draft)->stored_bytes = length;
}

int cog_py_add_draft(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->draft_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &draft_spec, NULL);
    state->image_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &image_spec, NULL);
    if (state->draft_type == NULL || state->image_type == NULL ||
        PyModule_AddType(module, state->draft_type) < 0) {
        return -1;
    }
    return PyModule_AddType(module, state->image_type);
}
