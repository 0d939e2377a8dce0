/* Entry: one generation of one entry, opened for reading from memory, a store or a function. */
#include "python/py_entry.h"

#include <string.h>

#include "core/alloc.h"
#include "core/meta.h"
#include "python/py_load.h"
#include "python/py_entry_jobs.h"
#include "python/py_memory.h"

enum {
    RELEASE_GIL_BYTES = 1 << 20,  /* verifying and copying as much takes 50 us */
    RELEASE_GIL_PACKED = 64 << 10 /* expanding as much takes 40 us */
};

struct py_entry {
    PyObject_HEAD struct cog_entry *entry; /* owned, unless it is the object's */
    const struct cog_source *source;
    struct cog_source own_source;
    struct cog_object *object; /* owned, or NULL */
    unsigned char *image;      /* the whole container in memory, or NULL */
    struct cog_freshness fresh;
    bool has_fresh;
    bool renewed; /* `slots` stand for those in the image */
    unsigned char slots[2 * COG_SLOT_SIZE];
    bool lent;      /* the value has our private map: these bytes are no longer ours */
    bool pinned;    /* an Image or a view borrows our bytes: they must not be lent */
    PyObject *keep; /* bytes, a read function, or the store */
    PyObject *meta; /* decoded on first use */
    PyObject *tail; /* bytes: the end of what is behind a read function, as far as it was read */
    void (*on_damage)(PyObject *store, struct cog_object *object);
};

static struct py_entry *entry_of(PyObject *object)
{
    return (struct py_entry *)object;
}

static const struct cog_entry *core_of(PyObject *object)
{
    return entry_of(object)->entry;
}

static struct cog_py_state *state_of(PyObject *object)
{
    return cog_py_state_of_type(Py_TYPE(object));
}

/* --- making one ------------------------------------------------------------------------------ */

static struct py_entry *new_entry(struct cog_py_state *state)
{
    return (struct py_entry *)state->entry_type->tp_alloc(state->entry_type, 0);
}

/* Open the container behind self->source. A new reference to self, or NULL and self is dropped. */
static PyObject *open_entry(struct cog_py_state *state, struct py_entry *self, PyObject *key)
{
    struct cog_error err = {0};
    Py_buffer view = {0};

    if (key != Py_None && PyObject_GetBuffer(key, &view, PyBUF_SIMPLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    size_t known = self->tail != NULL ? (size_t)PyBytes_GET_SIZE(self->tail) : 0;
    enum cog_status status = cog_entry_open(self->source, view.buf, (size_t)view.len,
                                            known < COG_ENTRY_COLD_READ ? known : 0, &self->entry,
                                            &err);

    if (view.obj != NULL) {
        PyBuffer_Release(&view);
    }
    if (status != COG_OK) {
        cog_py_raise_entry(state, status, NULL, &err);
        Py_DECREF(self);
        return NULL;
    }
    self->has_fresh = cog_entry_freshness(self->entry, &self->fresh, NULL) == COG_OK;
    return (PyObject *)self;
}

static PyObject *entry_from_bytes(PyObject *Py_UNUSED(cls), PyTypeObject *defining,
                                  PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    struct cog_py_state *state = PyType_GetModuleState(defining);

    if (count < 1 || count > 2 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "from_bytes(data, key=None, /)");
        return NULL;
    }
    /* Only bytes are sure not to change behind our checksums. */
    PyObject *bytes = PyBytes_CheckExact(args[0]) ? Py_NewRef(args[0])
                                                  : PyBytes_FromObject(args[0]);
    struct py_entry *self = bytes != NULL ? new_entry(state) : NULL;

    if (self == NULL) {
        Py_XDECREF(bytes);
        return NULL;
    }
    self->keep = bytes;
    self->image = (unsigned char *)PyBytes_AS_STRING(bytes);
    self->own_source = cog_memory_source(self->image, (uint64_t)PyBytes_GET_SIZE(bytes));
    self->source = &self->own_source;
    return open_entry(state, self, count > 1 ? args[1] : Py_None);
}

/* Where the freshness slots of a container in memory are. */
static unsigned char *slots_of(const struct py_entry *self)
{
    return self->image + (size_t)cog_entry_length(self->entry) - COG_ENTRY_TAIL_SIZE;
}

/* A new life in the slot that is not current, as a file gets it. */
static void renew(struct py_entry *self, const struct py_entry *from, uint64_t now_ms, uint64_t ttl)
{
    uint64_t token = cog_entry_token(self->entry);
    unsigned which = 1;

    memcpy(self->slots, from->renewed ? from->slots : slots_of(self), sizeof self->slots);
    (void)cog_slots_current(self->slots, token, &self->fresh, &which);
    self->fresh.seq++;
    self->fresh.refreshed_ms = now_ms;
    self->fresh.ttl_ms = ttl;
    cog_slot_encode(&self->fresh, token, self->slots + (1 - which) * COG_SLOT_SIZE);
    self->renewed = self->has_fresh = true;
}

static PyObject *entry_renewed(PyObject *object, PyObject *args)
{
    struct py_entry *self = entry_of(object);
    struct cog_py_state *state = state_of(object);
    unsigned long long now_ms, ttl_ms = COG_NEVER;
    PyObject *ttl;

    if (!PyArg_ParseTuple(args, "KO:renewed", &now_ms, &ttl)) {
        return NULL;
    }
    if (ttl != Py_None) {
        ttl_ms = PyLong_AsUnsignedLongLong(ttl);
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    if (now_ms >= COG_NEVER || ttl_ms > COG_NEVER) {
        PyErr_SetString(PyExc_ValueError, "refreshed_ms and ttl_ms have at most 48 bits");
        return NULL;
    }
    if (self->image == NULL || !PyBytes_CheckExact(self->keep)) {
        PyErr_SetString(PyExc_ValueError, "only an entry made from bytes can be renewed");
        return NULL;
    }
    struct py_entry *renewed = new_entry(state);

    if (renewed == NULL) {
        return NULL;
    }
    renewed->keep = Py_NewRef(self->keep);
    renewed->image = self->image;
    renewed->own_source = cog_memory_source(self->image, (uint64_t)PyBytes_GET_SIZE(self->keep));
    renewed->source = &renewed->own_source;
    if (open_entry(state, renewed, Py_None) == NULL) {
        return NULL;
    }
    renew(renewed, self, now_ms, ttl_ms);
    return (PyObject *)renewed;
}

/* Is the range in the kept end of the container? Copies it. */
static bool read_tail(const struct py_entry *self, uint64_t offset, void *out, size_t size)
{
    if (self->tail == NULL) {
        return false;
    }
    uint64_t start = self->own_source.size - (uint64_t)PyBytes_GET_SIZE(self->tail);

    if (offset < start) {
        return false;
    }
    memcpy(out, PyBytes_AS_STRING(self->tail) + (size_t)(offset - start), size);
    return true;
}

/*
 * A range through the Python function; called with or without the GIL. The end, which is read
 * first, is kept: the document lies there, and to ask a server for it again would cost a request.
 */
static enum cog_status read_through(void *context, uint64_t offset, void *out, size_t size,
                                    struct cog_error *err)
{
    struct py_entry *self = context;
    PyGILState_STATE gil = PyGILState_Ensure();
    enum cog_status status = COG_ERR_IO;
    Py_buffer view;

    if (read_tail(self, offset, out, size)) {
        PyGILState_Release(gil);
        return COG_OK;
    }
    PyObject *answer = PyObject_CallFunction(self->keep, "KK", (unsigned long long)offset,
                                             (unsigned long long)size);

    if (answer != NULL && PyObject_GetBuffer(answer, &view, PyBUF_SIMPLE) == 0) {
        if ((size_t)view.len == size) {
            memcpy(out, view.buf, size);
            status = COG_OK;
        } else {
            status = cog_fail(err, COG_ERR_DAMAGED, 0, "%zd bytes read where %zu were asked for",
                              view.len, size);
        }
        PyBuffer_Release(&view);
    }
    Py_XDECREF(answer);
    if (status == COG_OK && self->tail == NULL && offset + size == self->own_source.size) {
        self->tail = PyBytes_FromStringAndSize(out, (Py_ssize_t)size);
        if (self->tail == NULL) {
            status = COG_ERR_NOMEM;
        }
    }
    PyGILState_Release(gil); /* an exception stays set in this thread: see cog_py_raise_entry() */
    return status;
}

static PyObject *entry_from_reader(PyObject *Py_UNUSED(cls), PyTypeObject *defining,
                                   PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    struct cog_py_state *state = PyType_GetModuleState(defining);

    if (count < 2 || count > 4 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "from_reader(size, read, key=None, tail=None, /)");
        return NULL;
    }
    unsigned long long size = PyLong_AsUnsignedLongLong(args[0]);

    if (size == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!PyCallable_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "from_reader: `read` must be callable");
        return NULL;
    }
    PyObject *tail = count > 3 ? args[3] : Py_None;

    if (tail != Py_None && !PyBytes_Check(tail)) {
        PyErr_SetString(PyExc_TypeError, "from_reader: `tail` must be bytes");
        return NULL;
    }
    if (tail != Py_None && (unsigned long long)PyBytes_GET_SIZE(tail) > size) {
        PyErr_SetString(PyExc_ValueError, "from_reader: `tail` is longer than the container");
        return NULL;
    }
    struct py_entry *self = new_entry(state);

    if (self == NULL) {
        return NULL;
    }
    self->keep = Py_NewRef(args[1]);
    self->tail = tail != Py_None ? Py_NewRef(tail) : NULL;
    self->own_source = (struct cog_source){.context = self, .size = size, .read = read_through};
    self->source = &self->own_source;
    return open_entry(state, self, count > 2 ? args[2] : Py_None);
}

PyObject *cog_py_entry_from_object(struct cog_py_state *state, struct cog_object *object,
                                   PyObject *store,
                                   void (*on_damage)(PyObject *store, struct cog_object *object))
{
    struct py_entry *self = new_entry(state);
    const struct cog_freshness *fresh = cog_object_freshness(object);
    size_t size;

    if (self == NULL) {
        cog_object_free(object);
        return NULL;
    }
    self->object = object;
    self->entry = (struct cog_entry *)(uintptr_t)cog_object_entry(object);
    self->source = cog_object_source(object);
    self->image = cog_object_image(object, &size);
    self->keep = Py_XNewRef(store);
    self->on_damage = on_damage;
    if (fresh != NULL) {
        self->fresh = *fresh;
        self->has_fresh = cog_entry_freshness(self->entry, &self->fresh, NULL) == COG_OK;
    }
    return (PyObject *)self;
}

static int entry_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(entry_of(object)->keep);
    Py_VISIT(entry_of(object)->meta);
    return 0;
}

static void entry_dealloc(PyObject *object)
{
    struct py_entry *self = entry_of(object);
    PyTypeObject *type = Py_TYPE(object);

    PyObject_GC_UnTrack(object);
    if (self->object != NULL) {
        cog_object_free(self->object); /* the core entry is its */
    } else {
        cog_entry_free(self->entry);
    }
    Py_XDECREF(self->keep);
    Py_XDECREF(self->meta);
    Py_XDECREF(self->tail);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- verdicts -------------------------------------------------------------------------------- */

static void report_damage(const struct py_entry *self)
{
    if (self->on_damage != NULL) {
        self->on_damage(self->keep, self->object);
    }
}

/* Raise for a failed call; damage is reported to the store that the entry came from. */
static PyObject *fail(PyObject *object, enum cog_status status, const char *reason,
                      const struct cog_error *err)
{
    if (status == COG_ERR_DAMAGED) {
        report_damage(entry_of(object));
    }
    return cog_py_raise_entry(state_of(object), status, reason, err);
}

/* Bytes that were given away writable may hold anything by now. */
static int refuse_lent(PyObject *object, const char *operation)
{
    if (!entry_of(object)->lent) {
        return 0;
    }
    PyErr_Format(PyExc_ValueError,
                 "%s: the arrays of an earlier value() live in this entry's memory; read the entry "
                 "again",
                 operation);
    return -1;
}

/* --- parts ----------------------------------------------------------------------------------- */

static const struct {
    uint8_t kind;
    const char *name;
} kind_names[] = {
    {COG_PART_ARRAY, "array"}, {COG_PART_BLOB, "blob"}, {COG_PART_FRAME, "frame"},
    {COG_PART_ENTRY, "entry"}, {COG_PART_DOC, "doc"},
};

static PyObject *kind_text(uint8_t kind)
{
    for (size_t i = 0; i < sizeof kind_names / sizeof *kind_names; i++) {
        if (kind_names[i].kind == kind) {
            return PyUnicode_FromString(kind_names[i].name);
        }
    }
    return PyUnicode_FromFormat("0x%02x", kind);
}

static int kind_of_text(const char *text, uint8_t *kind)
{
    for (size_t i = 0; i < sizeof kind_names / sizeof *kind_names; i++) {
        if (strcmp(kind_names[i].name, text) == 0) {
            *kind = kind_names[i].kind;
            return 0;
        }
    }
    char *end;
    unsigned long number = strncmp(text, "0x", 2) == 0 ? strtoul(text + 2, &end, 16) : 256;

    if (number > 255 || end == text + 2 || *end != '\0') {
        PyErr_Format(PyExc_ValueError,
                     "kind: %s is none; array, blob, frame, entry, doc and 0x00 to 0xff are", text);
        return -1;
    }
    *kind = (uint8_t)number;
    return 0;
}

static PyObject *part_info(struct cog_py_state *state, const struct cog_entry *entry,
                           uint32_t number)
{
    unsigned char name[COG_NAME_LIMIT];
    size_t size;
    struct cog_part part;

    if (cog_entry_part(entry, number, &part) != COG_OK ||
        cog_entry_part_name(entry, number, name, &size) != COG_OK) {
        PyErr_Format(PyExc_IndexError, "no part %lu", (unsigned long)number);
        return NULL;
    }
    PyObject *kind = kind_text(part.kind);
    PyObject *text = PyUnicode_DecodeUTF8((const char *)name, (Py_ssize_t)size, "backslashreplace");

    if (kind == NULL || text == NULL) {
        Py_XDECREF(kind);
        Py_XDECREF(text);
        return NULL;
    }
    PyObject *fields = Py_BuildValue("(INNKKIIII)", (unsigned int)number, kind, text,
                                     (unsigned long long)part.raw_size,
                                     (unsigned long long)part.stored_size, (unsigned int)part.codec,
                                     (unsigned int)part.filter, (unsigned int)part.chunk_size,
                                     (unsigned int)part.chunk_count);
    PyObject *info = fields != NULL ? PyObject_Call((PyObject *)state->part_info_type, fields, NULL)
                                    : NULL;

    Py_XDECREF(fields);
    return info;
}

static PyObject *entry_parts(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct cog_py_state *state = state_of(object);
    uint32_t count = cog_entry_part_count(core_of(object));
    PyObject *list = PyList_New((Py_ssize_t)count);

    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *info = part_info(state, core_of(object), i);

        if (info == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, info);
        }
    }
    return list;
}

static PyObject *entry_find(PyObject *object, PyObject *args)
{
    const char *kind_name, *name;
    Py_ssize_t size;
    uint32_t number;
    uint8_t kind;

    if (!PyArg_ParseTuple(args, "ss#:find", &kind_name, &name, &size) ||
        kind_of_text(kind_name, &kind) < 0) {
        return NULL;
    }
    if (cog_entry_find(core_of(object), kind, name, (size_t)size, &number) != COG_OK) {
        Py_RETURN_NONE;
    }
    return part_info(state_of(object), core_of(object), number);
}

/* Does reading this much of a part deserve the release of the GIL? */
static bool is_long(const struct cog_part *part, uint64_t size)
{
    return size > RELEASE_GIL_BYTES ||
           (part->codec != COG_CODEC_STORED && size > RELEASE_GIL_PACKED);
}

static PyObject *read_part(PyObject *object, uint32_t number, const struct cog_part *part,
                           uint64_t start, uint64_t stop)
{
    struct py_entry *self = entry_of(object);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(stop - start));
    struct cog_error err = {0};
    enum cog_status status;

    if (bytes == NULL) {
        return NULL;
    }
    void *out = PyBytes_AS_STRING(bytes);

    cog_memory_will_fill(out, (size_t)(stop - start), cog_entry_length(self->entry));
    if (is_long(part, stop - start)) {
        Py_BEGIN_ALLOW_THREADS status = cog_entry_read(self->entry, self->source, NULL, number,
                                                       start, stop, out, &err);
        Py_END_ALLOW_THREADS
    } else {
        status = cog_entry_read(self->entry, self->source, NULL, number, start, stop, out, &err);
    }
    if (status != COG_OK) {
        Py_DECREF(bytes);
        return fail(object, status, NULL, &err);
    }
    return bytes;
}

static PyObject *entry_read(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "start", "stop", NULL};
    unsigned int number;
    unsigned long long start = 0;
    PyObject *stop_object = Py_None;
    struct cog_part part;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|KO:read", names, &number, &start,
                                     &stop_object)) {
        return NULL;
    }
    if (cog_entry_part(core_of(object), number, &part) != COG_OK) {
        PyErr_Format(PyExc_IndexError, "no part %u", number);
        return NULL;
    }
    unsigned long long stop = part.raw_size;

    if (stop_object != Py_None) {
        stop = PyLong_AsUnsignedLongLong(stop_object);
        if (stop == (unsigned long long)-1 && PyErr_Occurred()) {
            return NULL;
        }
        stop = stop < part.raw_size ? stop : part.raw_size;
    }
    if (part.kind == COG_PART_ARRAY && refuse_lent(object, "read") < 0) {
        return NULL;
    }
    return read_part(object, number, &part, start < stop ? start : stop, stop);
}

/* --- the value ------------------------------------------------------------------------------- */

struct cog_object *cog_py_entry_object(PyObject *object)
{
    return entry_of(object)->object;
}

/* What every load of this entry starts from. */
static struct cog_load load_of(const struct py_entry *self)
{
    return (struct cog_load){.entry = self->entry,
                             .source = self->source,
                             .object = self->object,
                             .image = self->image,
                             .no_lending = self->pinned,
                             .lent = self->lent};
}

int cog_py_entry_load(PyObject *object, enum cog_value_mode mode, struct cog_load *load)
{
    *load = load_of(entry_of(object));
    load->mode = mode;
    return refuse_lent(object, "value");
}

int cog_py_entry_recheck(PyObject *object, struct cog_load *load)
{
    load->no_lending |= entry_of(object)->pinned;
    return refuse_lent(object, "value");
}

void cog_py_entry_loaded(PyObject *object, const struct cog_load *load, enum cog_status status)
{
    struct py_entry *self = entry_of(object);

    self->lent |= load->lent;
    self->pinned |= load->viewed;
    if (status == COG_ERR_DAMAGED) {
        report_damage(self);
    }
}

/* Will reading the document take long enough to let others run meanwhile? */
static bool document_is_long(const struct py_entry *self)
{
    uint32_t number;
    struct cog_part part;

    return self->source->view == NULL ||
           (cog_entry_find(self->entry, COG_PART_DOC, NULL, 0, &number) == COG_OK &&
            cog_entry_part(self->entry, number, &part) == COG_OK && is_long(&part, part.raw_size));
}

static bool fill_is_long(const struct cog_load *load)
{
    uint64_t packed = 0, total = 0;

    for (size_t i = 0; i < load->target_count; i++) {
        const struct cog_load_target *target = &load->targets[i];
        struct cog_part part;

        if (cog_entry_part(load->entry, target->part, &part) != COG_OK) {
            return false;
        }
        if (part.codec != COG_CODEC_STORED) {
            packed += target->size;
        }
        if (!target->in_place || load->object == NULL ||
            !cog_object_is_verified(load->object, target->part)) {
            total += target->size;
        }
    }
    return total > RELEASE_GIL_BYTES || packed > RELEASE_GIL_PACKED || load->source->view == NULL;
}

static enum cog_status load_document(PyObject *object, struct cog_load *load, struct cog_error *err)
{
    enum cog_status status;

    if (!document_is_long(entry_of(object))) {
        return cog_load_document(load, err);
    }
    Py_BEGIN_ALLOW_THREADS status = cog_load_document(load, err);
    Py_END_ALLOW_THREADS return status;
}

static enum cog_status fill(struct cog_load *load, struct cog_error *err)
{
    enum cog_status status;

    if (!fill_is_long(load)) {
        return cog_load_fill(load, err);
    }
    Py_BEGIN_ALLOW_THREADS status = cog_load_fill(load, err);
    Py_END_ALLOW_THREADS return status;
}

PyObject *cog_py_entry_value(PyObject *object, enum cog_value_mode mode, uint64_t max_bytes,
                             PyObject *frames)
{
    struct cog_py_state *state = state_of(object);
    struct cog_load load;
    struct cog_error err = {0};
    PyObject *value = NULL;
    enum cog_status status;

    if (cog_py_entry_load(object, mode, &load) < 0) {
        return NULL;
    }
    load.max_bytes = max_bytes;
    status = load_document(object, &load, &err);
    if (status == COG_OK && load.target_count > 0) {
        if (cog_py_entry_recheck(object, &load) < 0 ||
            cog_load_allocate(state, &load, object) < 0) {
            cog_load_release(&load);
            return NULL;
        }
        cog_py_entry_loaded(object, &load, COG_OK);
        status = fill(&load, &err);
    }
    if (status == COG_OK) {
        value = cog_load_build(state, &load, object, frames);
        if (value == NULL && PyErr_ExceptionMatches(state->damaged_error)) {
            report_damage(entry_of(object));
        }
    } else {
        (void)fail(object, status, load.reason, &err);
    }
    cog_load_release(&load);
    return value;
}

static PyObject *entry_value(PyObject *object, PyObject *args, PyObject *kwargs)
{
    enum cog_value_mode mode = COG_MODE_COW;
    unsigned long long max_bytes;
    PyObject *frames;

    return cog_py_value_options(args, kwargs, NULL, &mode, &max_bytes, &frames) < 0
               ? NULL
               : cog_py_entry_value(object, mode, max_bytes, frames);
}

/* --- many parts at once ---------------------------------------------------------------------- */

static PyObject *entry_check(PyObject *object, PyObject *numbers)
{
    struct cog_load load = load_of(entry_of(object));
    struct cog_error err = {0};
    enum cog_status status = cog_parts_check(&load, numbers, &err);

    if (status != COG_OK) {
        return fail(object, status, NULL, &err);
    }
    Py_RETURN_NONE;
}

static PyObject *entry_fetch(PyObject *object, PyObject *numbers)
{
    struct cog_load load = load_of(entry_of(object));
    struct cog_error err = {0};
    enum cog_status status = COG_OK;
    PyObject *list = cog_parts_fetch(&load, numbers, &status, &err);

    return list != NULL ? list : fail(object, status, NULL, &err);
}

/* --- the whole container --------------------------------------------------------------------- */

static PyObject *entry_tobytes(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct py_entry *self = entry_of(object);
    uint64_t length = cog_entry_length(self->entry);
    PyObject *bytes;
    struct cog_error err = {0};
    enum cog_status status;

    if (refuse_lent(object, "tobytes") < 0) {
        return NULL;
    }
    if (self->object == NULL && PyBytes_CheckExact(self->keep) && !self->renewed) {
        return Py_NewRef(self->keep);
    }
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (bytes == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS status = self->source->read(self->source->context, 0,
                                                       PyBytes_AS_STRING(bytes), (size_t)length,
                                                       &err);
    Py_END_ALLOW_THREADS if (status != COG_OK)
    {
        Py_DECREF(bytes);
        return fail(object, status, NULL, &err);
    }
    if (self->renewed) {
        memcpy(PyBytes_AS_STRING(bytes) + (size_t)length - COG_ENTRY_TAIL_SIZE, self->slots,
               sizeof self->slots);
    }
    return bytes;
}

int cog_py_entry_container(PyObject *object, PyObject *args, PyObject *kwargs,
                           struct cog_py_container *out)
{
    static char *names[] = {"", "", NULL};
    const struct py_entry *self = entry_of(object);
    uint64_t length = cog_entry_length(self->entry);
    PyObject *offset, *size;

    *out = (struct cog_py_container){.source = self->source};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:read_container", names, &offset, &size) ||
        refuse_lent(object, "read_container") < 0) {
        return -1;
    }
    out->offset = PyLong_AsUnsignedLongLong(offset);
    if (PyErr_Occurred()) {
        return -1;
    }
    out->size = PyLong_AsUnsignedLongLong(size);
    if (PyErr_Occurred()) {
        return -1;
    }
    out->offset = out->offset < length ? out->offset : length;
    out->size = out->size < length - out->offset ? out->size : length - out->offset;
    out->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)out->size);
    if (out->bytes == NULL) {
        return -1;
    }
    cog_memory_will_fill(PyBytes_AS_STRING(out->bytes), (size_t)out->size, out->size);
    return 0;
}

static PyObject *entry_read_container(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct cog_py_container range;
    struct cog_error err = {0};
    enum cog_status status;

    if (cog_py_entry_container(object, args, kwargs, &range) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = range.source->read(range.source->context, range.offset, PyBytes_AS_STRING(range.bytes),
                                (size_t)range.size, &err);
    Py_END_ALLOW_THREADS;
    if (status != COG_OK) {
        Py_DECREF(range.bytes);
        return fail(object, status, NULL, &err);
    }
    return range.bytes;
}

static PyObject *entry_verify(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct py_entry *self = entry_of(object);
    struct cog_error err = {0};
    enum cog_status status;

    if (refuse_lent(object, "verify") < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS status = cog_entry_verify(self->entry, self->source, &err);
    Py_END_ALLOW_THREADS if (status != COG_OK)
    {
        return fail(object, status, NULL, &err);
    }
    Py_RETURN_NONE;
}

static PyObject *entry_readdressed(PyObject *object, PyObject *args)
{
    struct py_entry *self = entry_of(object);
    unsigned char head[COG_ENTRY_HEAD_SIZE];
    struct cog_buf tail = {0};
    struct cog_error err = {0};
    uint64_t data_end = 0;
    Py_buffer key, meta;
    PyObject *answer = NULL;

    if (!PyArg_ParseTuple(args, "y*y*:readdressed", &key, &meta)) {
        return NULL;
    }
    enum cog_status status = cog_entry_readdress(self->entry, key.buf, (size_t)key.len, meta.buf,
                                                 (size_t)meta.len, head, &tail, &data_end, &err);

    if (status == COG_OK) {
        answer = Py_BuildValue("y#Ky#", (const char *)head, (Py_ssize_t)sizeof head,
                               (unsigned long long)data_end, (const char *)tail.data,
                               (Py_ssize_t)tail.size);
    } else {
        (void)fail(object, status, NULL, &err);
    }
    cog_buf_release(&tail);
    PyBuffer_Release(&meta);
    PyBuffer_Release(&key);
    return answer;
}

static uint64_t raw_bytes_of(const struct cog_entry *entry)
{
    uint64_t total = 0;
    struct cog_part part;

    for (uint32_t i = 0; cog_entry_part(entry, i, &part) == COG_OK; i++) {
        total += part.raw_size;
    }
    return total;
}

/* What a put needs to know: the key and what the metadata and the current slot say. */
static struct cog_py_put describe(const struct py_entry *self)
{
    struct cog_py_put about = {0};
    struct cog_meta meta;
    size_t size;
    const unsigned char *bytes = cog_entry_meta(self->entry, &size);

    if (cog_meta_parse(bytes, size, &meta) == COG_OK) {
        about.cost_seconds = (double)meta.cost_ms / 1000.0;
    }
    if (self->has_fresh && self->fresh.ttl_ms != COG_NEVER) {
        about.expires_ms = self->fresh.refreshed_ms + self->fresh.ttl_ms;
    }
    about.key = cog_entry_key(self->entry, &about.key_size);
    return about;
}

static enum cog_status write_image(const struct py_entry *self, const struct cog_sink *sink,
                                   const unsigned char *bytes, size_t length, struct cog_error *err)
{
    size_t before = self->renewed ? length - COG_ENTRY_TAIL_SIZE : length;
    size_t behind = before + sizeof self->slots;
    enum cog_status status = sink->write(sink->context, bytes, before, true, err);

    if (status == COG_OK && self->renewed) {
        status = sink->write(sink->context, self->slots, sizeof self->slots, true, err);
    }
    if (status == COG_OK && self->renewed) {
        status = sink->write(sink->context, bytes + behind, length - behind, true, err);
    }
    return status;
}

static PyObject *entry_to_image(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct py_entry *self = entry_of(object);
    struct cog_py_state *state = state_of(object);
    struct cog_image image = {0};
    struct cog_sink sink = cog_image_sink(&image);
    struct cog_error err = {0};
    size_t length = (size_t)cog_entry_length(self->entry);
    PyObject *owner = object;
    unsigned char *bytes = self->image;
    PyObject *memory = NULL;

    if (refuse_lent(object, "to_image") < 0) {
        return NULL;
    }
    enum cog_status status = COG_OK;

    if (bytes == NULL) {
        memory = cog_memory_new(state, length);
        if (memory == NULL) {
            return NULL;
        }
        bytes = cog_memory_data(memory);
        Py_BEGIN_ALLOW_THREADS status = self->source->read(self->source->context, 0, bytes, length,
                                                           &err);
        Py_END_ALLOW_THREADS owner = memory;
    }
    if (status == COG_OK) {
        status = write_image(self, &sink, bytes, length, &err);
    }
    if (status == COG_OK) {
        status = cog_image_seal(&image);
    }
    if (status != COG_OK) {
        Py_XDECREF(memory);
        cog_image_release(&image);
        return fail(object, status, NULL, &err);
    }
    self->pinned |= memory == NULL;
    struct cog_py_put about = describe(self);
    PyObject *owners = PyTuple_Pack(2, object, owner); /* the key is the entry's */
    PyObject *result = NULL;

    if (owners == NULL) {
        cog_image_release(&image);
    } else {
        result = cog_py_image_new(state, &image, &about, raw_bytes_of(self->entry), owners);
        Py_DECREF(owners);
    }
    Py_XDECREF(memory);
    return result;
}

static PyObject *entry_value_type(PyObject *object, PyObject *Py_UNUSED(none))
{
    struct cog_load load;
    struct cog_error err = {0};
    PyObject *name = NULL;

    if (cog_py_entry_load(object, COG_MODE_VIEW, &load) < 0) {
        return NULL;
    }
    enum cog_status status = load_document(object, &load, &err);

    if (status == COG_OK) {
        name = PyUnicode_FromString(cog_load_type_name(&load));
    } else {
        (void)fail(object, status, load.reason, &err);
    }
    cog_load_release(&load);
    return name;
}

static PyObject *entry_is_expired(PyObject *object, PyObject *now)
{
    const struct py_entry *self = entry_of(object);
    unsigned long long now_ms = PyLong_AsUnsignedLongLong(now);

    if (now_ms == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    return PyBool_FromLong(!self->has_fresh || cog_fresh_is_expired(&self->fresh, now_ms));
}

/* --- attributes ------------------------------------------------------------------------------ */

enum number_field {
    FIELD_TOKEN,
    FIELD_LENGTH,
    FIELD_DISK_BYTES,
    FIELD_CREATED,
    FIELD_COST,
    FIELD_REFRESHED,
    FIELD_TTL,
    FIELD_STALE,
    FIELD_EXPIRES
};

static PyObject *span(uint64_t milliseconds)
{
    if (milliseconds == COG_NEVER) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(milliseconds);
}

static PyObject *entry_number(PyObject *object, void *closure)
{
    const struct py_entry *self = entry_of(object);
    enum number_field field = (enum number_field)(intptr_t)closure;
    struct cog_meta meta = {0};
    size_t size;
    const unsigned char *bytes;

    switch (field) {
    case FIELD_TOKEN: return PyLong_FromUnsignedLongLong(cog_entry_token(self->entry));
    case FIELD_LENGTH: return PyLong_FromUnsignedLongLong(cog_entry_length(self->entry));
    case FIELD_DISK_BYTES:
        return PyLong_FromUnsignedLongLong(self->object != NULL
                                               ? cog_object_disk_bytes(self->object)
                                               : cog_entry_length(self->entry));
    case FIELD_CREATED:
    case FIELD_COST:
        bytes = cog_entry_meta(self->entry, &size);
        (void)cog_meta_parse(bytes, size, &meta);
        return PyLong_FromUnsignedLongLong(field == FIELD_COST ? meta.cost_ms : meta.created_ms);
    case FIELD_REFRESHED: return PyLong_FromUnsignedLongLong(self->fresh.refreshed_ms);
    case FIELD_TTL: return span(self->fresh.ttl_ms);
    case FIELD_STALE: return span(self->fresh.stale_ms);
    case FIELD_EXPIRES:
        return span(self->fresh.ttl_ms == COG_NEVER
                        ? COG_NEVER
                        : self->fresh.refreshed_ms + self->fresh.ttl_ms);
    }
    Py_UNREACHABLE();
}

static PyObject *entry_key(PyObject *object, void *Py_UNUSED(closure))
{
    size_t size;
    const unsigned char *key = cog_entry_key(core_of(object), &size);

    return PyBytes_FromStringAndSize((const char *)key, (Py_ssize_t)size);
}

static PyObject *entry_digest(PyObject *object, void *Py_UNUSED(closure))
{
    size_t size;
    const unsigned char *key = cog_entry_key(core_of(object), &size);
    struct cog_digest digest;

    cog_hash128(key, size, &digest);
    return PyBytes_FromStringAndSize((const char *)digest.bytes, sizeof digest.bytes);
}

static PyObject *entry_meta(PyObject *object, void *Py_UNUSED(closure))
{
    struct py_entry *self = entry_of(object);

    if (self->meta == NULL) {
        size_t size;
        const unsigned char *bytes = cog_entry_meta(self->entry, &size);

        self->meta = size > 0 ? cog_build_plain(state_of(object), bytes, size) : PyDict_New();
    }
    return Py_XNewRef(self->meta);
}

static PyObject *entry_miss(PyObject *object, void *Py_UNUSED(closure))
{
    const struct py_entry *self = entry_of(object);
    enum cog_miss miss = self->object != NULL ? cog_object_miss(self->object) : COG_MISS_NONE;

    if (miss == COG_MISS_NONE) {
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(cog_miss_reason(miss));
}

/* What no checksum tells. */
static PyObject *entry_flaw(PyObject *object, void *Py_UNUSED(closure))
{
    const struct py_entry *self = entry_of(object);
    struct cog_meta meta;
    size_t size;
    const unsigned char *bytes = cog_entry_meta(self->entry, &size);

    if (cog_meta_parse(bytes, size, &meta) != COG_OK) {
        return PyUnicode_InternFromString("metadata");
    }
    if (!self->has_fresh) {
        return PyUnicode_InternFromString("life");
    }
    Py_RETURN_NONE;
}

static PyObject *entry_mapped(PyObject *object, void *Py_UNUSED(closure))
{
    const struct py_entry *self = entry_of(object);

    return PyBool_FromLong(self->object != NULL && cog_object_is_mapped(self->object));
}

static PyObject *entry_in_memory(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(entry_of(object)->image != NULL);
}

#define NUMBER(name, field, doc)                                  \
    {                                                             \
        name, entry_number, NULL, PyDoc_STR(doc), (void *)(field) \
    }

static PyGetSetDef entry_getset[] = {
    {"key", entry_key, NULL, PyDoc_STR("The canonical key encoding that the entry holds."), NULL},
    {"digest", entry_digest, NULL, PyDoc_STR("XXH3-128 of the key."), NULL},
    {"meta", entry_meta, NULL, PyDoc_STR("The metadata; the same dict each time."), NULL},
    {"miss", entry_miss, NULL, PyDoc_STR("Why it would have been a miss, or None."), NULL},
    {"flaw", entry_flaw, NULL,
     PyDoc_STR("Why nobody can use it although its checksums hold: \"life\", \"metadata\", or "
               "None."),
     NULL},
    {"mapped", entry_mapped, NULL, PyDoc_STR("Is it a private map of a file?"), NULL},
    {"in_memory", entry_in_memory, NULL,
     PyDoc_STR("Can parts be read without I/O? False for entries behind a function."), NULL},
    NUMBER("token", FIELD_TOKEN, "The write token."),
    NUMBER("length", FIELD_LENGTH, "Bytes of the container."),
    NUMBER("disk_bytes", FIELD_DISK_BYTES, "Bytes of blocks on disk; the length, in memory."),
    NUMBER("created_ms", FIELD_CREATED, "Unix milliseconds of its making; 0 = unknown."),
    NUMBER("cost_ms", FIELD_COST, "What computing it took, in milliseconds; 0 = unknown."),
    NUMBER("refreshed_ms", FIELD_REFRESHED, "Unix milliseconds when its life began."),
    NUMBER("ttl_ms", FIELD_TTL, "Length of its life; None = for ever."),
    NUMBER("stale_ms", FIELD_STALE, "How much longer it may be served stale; None = for ever."),
    NUMBER("expires_ms", FIELD_EXPIRES, "End of its life; None = never."),
    {NULL, NULL, NULL, NULL, NULL},
};

#define FUNCTION(f) ((PyCFunction)(void (*)(void))(f))

static PyMethodDef entry_methods[] = {
    {"readdressed", entry_readdressed, METH_VARARGS,
     PyDoc_STR(
         "readdressed($self, key, meta, /)\n--\n\nThe same parts under another key: head, end of "
         "the parts, tail.")},
    {"from_bytes", FUNCTION(entry_from_bytes),
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS | METH_CLASS,
     PyDoc_STR("Open a container in memory; with a key, only that key's.")},
    {"from_reader", FUNCTION(entry_from_reader),
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS | METH_CLASS,
     PyDoc_STR("Open a container of `size` bytes through read(offset, size), which is never asked "
               "for the bytes of `tail`, its end.")},
    {"parts", entry_parts, METH_NOARGS,
     PyDoc_STR("parts($self, /)\n--\n\nAll parts in the order of the file.")},
    {"find", entry_find, METH_VARARGS,
     PyDoc_STR("find($self, kind, name, /)\n--\n\nThe part of that kind and name, or None.")},
    {"read", FUNCTION(entry_read), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("read($self, number, /, start=0, stop=None)\n--\n\nVerified bytes of a part.")},
    {"check", entry_check, METH_O,
     PyDoc_STR("check($self, numbers, /)\n--\n\nVerify parts, without handing them out.")},
    {"fetch", entry_fetch, METH_O,
     PyDoc_STR("fetch($self, numbers, /)\n--\n\nVerified bytes of many parts, with few reads.")},
    {"value_now", (PyCFunction)(void (*)(void))cog_py_entry_value_now, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("value_now($self, slow, /, *, mode='cow', max_bytes=0, frames=True)\n--\n\n"
               "value() without waiting; `slow` where it takes over about 50 us or might block.")},
    {"submit", (PyCFunction)(void (*)(void))cog_py_entry_submit, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "submit($self, channel, future, operation, /, *args, **kwargs)\n--\n\nRun the "
         "method named `operation` (value, read, read_container, verify, damage) in the thread "
         "pool.")},
    {"value", FUNCTION(entry_value), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("value($self, *, mode='cow', max_bytes=1073741824, frames=True)\n--\n\nThe value, "
               "decoded afresh.")},
    {"value_type", entry_value_type, METH_NOARGS,
     PyDoc_STR("value_type($self, /)\n--\n\nName of the value's type, without decoding it.")},
    {"is_expired", entry_is_expired, METH_O,
     PyDoc_STR("is_expired($self, now_ms, /)\n--\n\nIs its life over?")},
    {"renewed", entry_renewed, METH_VARARGS,
     PyDoc_STR("renewed($self, refreshed_ms, ttl_ms, /)\n--\n\nThe same bytes with another life, "
               "not copied; None = it never ends.")},
    {"verify", entry_verify, METH_NOARGS,
     PyDoc_STR("verify($self, /)\n--\n\nCheck every byte; DamagedError names what is wrong.")},
    {"damage", (PyCFunction)(void (*)(void))cog_py_entry_damage, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("damage($self, /, first=0, stop=None)\n--\n\nWhat does not hold of chunks "
               "[first, stop), as (part, chunk of it); (None, None): outside of them.")},
    {"tobytes", entry_tobytes, METH_NOARGS,
     PyDoc_STR("tobytes($self, /)\n--\n\nThe container as it is stored.")},
    {"read_container", FUNCTION(entry_read_container), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("read_container($self, offset, size, /)\n--\n\nSo many bytes of the container as "
               "they are stored, fewer at its end; not verified.")},
    {"to_image", entry_to_image, METH_NOARGS,
     PyDoc_STR("to_image($self, /)\n--\n\nThe container as it is stored, to be put elsewhere.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("One generation of one entry, opened for reading.")},
    {Py_tp_dealloc, (void *)entry_dealloc},
    {Py_tp_traverse, (void *)entry_traverse},
    {Py_tp_methods, entry_methods},
    {Py_tp_getset, entry_getset},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "cogcache._core.Entry",
    .basicsize = sizeof(struct py_entry),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = entry_slots,
};

int cog_py_add_entry(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);
    PyObject *collections = PyImport_ImportModule("collections");

    state->entry_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &entry_spec, NULL);
    if (collections != NULL) {
        state->part_info_type = (PyTypeObject *)PyObject_CallMethod(
            collections, "namedtuple", "s(sssssssss)", "PartInfo", "number", "kind", "name",
            "raw_size", "stored_size", "codec", "filter", "chunk_size", "chunk_count");
        Py_DECREF(collections);
    }
    if (state->entry_type == NULL || state->part_info_type == NULL ||
        PyModule_AddType(module, state->entry_type) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "PartInfo", (PyObject *)state->part_info_type);
}
