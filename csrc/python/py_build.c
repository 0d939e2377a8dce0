/*
 * Building a value from its checked document: iterative, with its own stack. The bytes have passed
 * a checksum, which keeps out chance but not malice: every step may fail, none may overrun, recurse
 * or allocate more than the bytes at hand can ask for.
 */
#include "python/py_load.h"

#include <string.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/msgpack.h"
#include "python/py_memory.h"

enum {
    GC_PAUSE = 16 << 10, /* bytes of a document from which on garbage collection waits */
    SHORT_KEY = 32,      /* ASCII keys up to here are looked up among those of before */

    STACK_START = 16
};

enum build_kind { BUILD_LIST, BUILD_TUPLE, BUILD_DICT };

struct build_frame {
    enum build_kind kind;
    int ext;                        /* what the finished container is turned into; 0: nothing */
    PyObject *object;               /* owned: list, tuple or dict so far */
    PyObject *key;                  /* dicts: owned, waits for its value */
    uint32_t count, done;           /* items, pairs */
    const unsigned char *outer_end; /* extensions: where the bytes around it end */
};

struct build {
    struct cog_py_state *state;
    struct cog_load *load; /* NULL: plain document */
    PyObject *owner, *frames;
    PyObject *wanted; /* owned: the ids of the frames to build, where not all are; else NULL */
    struct cog_mp_reader reader;
    uint64_t items_left; /* that the document can still announce */
    struct build_frame *stack;
    size_t count, capacity;
};

/* --- verdicts -------------------------------------------------------------------------------- */

static PyObject *damaged(const struct build *build, const char *what)
{
    PyErr_Format(build->state->damaged_error, "document: %s", what);
    return NULL;
}

static PyObject *unsupported(const struct build *build, const char *reason, const char *what,
                             int number)
{
    PyObject *text = PyUnicode_FromFormat(what, number);
    PyObject *arguments = text != NULL ? Py_BuildValue("(sN)", reason, text) : NULL;

    if (arguments != NULL) {
        PyErr_SetObject(build->state->unsupported_error, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

/*
 * What a constructor makes of bytes nobody vouches for is damage, not an error of the caller's.
 * Lack of memory, an interrupt, an error of the system and what is already a verdict stay so.
 */
static PyObject *as_damage(const struct build *build)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception) || PyErr_ExceptionMatches(PyExc_MemoryError) ||
        PyErr_ExceptionMatches(PyExc_OSError) ||
        PyErr_ExceptionMatches(build->state->unsupported_error) ||
        PyErr_ExceptionMatches(build->state->damaged_error)) {
        return NULL;
    }
    PyObject *type, *error, *trace;

    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyErr_Format(build->state->damaged_error, "document: %S", error);
    PyObject *type_now, *error_now, *trace_now;

    PyErr_Fetch(&type_now, &error_now, &trace_now);
    PyErr_NormalizeException(&type_now, &error_now, &trace_now);
    PyException_SetCause(error_now, error); /* takes it over */
    PyErr_Restore(type_now, error_now, trace_now);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return NULL;
}

/* --- scalars --------------------------------------------------------------------------------- */

/* Are there only ASCII bytes? Sixteen at a time, which compilers turn into vector code. */
static inline bool is_ascii(const unsigned char *data, size_t size)
{
    uint64_t seen = 0;
    size_t i = 0;

    for (; i + 16 <= size; i += 16) {
        seen |= cog_load_le64(data + i) | cog_load_le64(data + i + 8);
    }
    for (; i < size; i++) {
        seen |= data[i];
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

static inline PyObject *build_str(const struct build *build, const unsigned char *data, size_t size)
{
    if (size > 1 && is_ascii(data, size)) {
        PyObject *text = PyUnicode_New((Py_ssize_t)size, 127);

        if (text != NULL) {
            memcpy(PyUnicode_1BYTE_DATA(text), data, size);
        }
        return text;
    }
    PyObject *text = PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)size, NULL);

    return text != NULL ? text : as_damage(build);
}

static PyObject *build_surrogates(const struct build *build, const unsigned char *data, size_t size)
{
    PyObject *text = PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)size, "surrogatepass");

    return text != NULL ? text : as_damage(build);
}

/* The first and the last eight bytes, or all of a shorter text. Sizes 1 to 16 are known by them. */
static inline void ends_of(const void *data, size_t size, uint64_t *head, uint64_t *tail)
{
    const unsigned char *bytes = data;

    if (size >= 8) {
        *head = cog_load_le64(bytes);
        *tail = cog_load_le64(bytes + size - 8);
    } else {
        *head = size >= 4 ? cog_load_le32(bytes) : bytes[0];
        *tail = size >= 4 ? cog_load_le32(bytes + size - 4)
                          : (uint64_t)bytes[size / 2] << 8 | bytes[size - 1];
    }
}

static inline bool is_text(PyObject *kept, const unsigned char *data, size_t size, uint64_t head,
                           uint64_t tail)
{
    uint64_t kept_head, kept_tail;

    if (kept == Py_None || (size_t)PyUnicode_GET_LENGTH(kept) != size) {
        return false;
    }
    ends_of(PyUnicode_1BYTE_DATA(kept), size, &kept_head, &kept_tail);
    return kept_head == head && kept_tail == tail &&
           (size <= 16 || memcmp(PyUnicode_1BYTE_DATA(kept), data, size) == 0);
}

/*
 * Keys repeat, within a document and from one to the next: those that are short and ASCII are kept
 * in a small table, so that they are made and hashed once. A newcomer simply takes the place.
 */
static inline PyObject *build_key(const struct build *build, const unsigned char *data, size_t size)
{
    PyObject *cache = build->state->key_cache;
    uint64_t head, tail;

    if (size == 0 || size > SHORT_KEY) {
        return build_str(build, data, size);
    }
    ends_of(data, size, &head, &tail);
    uint64_t mix = (head ^ (tail << 7) ^ (tail >> 57) ^ size) * UINT64_C(0x9E3779B97F4A7C15);
    Py_ssize_t slot = (Py_ssize_t)(mix >> 32 & (COG_KEY_CACHE - 1));
    PyObject *kept = PyList_GET_ITEM(cache, slot);

    if (is_text(kept, data, size, head, tail)) {
        return Py_NewRef(kept);
    }
    PyObject *text = build_str(build, data, size);

    if (text != NULL && PyUnicode_IS_COMPACT_ASCII(text)) {
        PyList_SET_ITEM(cache, slot, Py_NewRef(text));
        Py_DECREF(kept);
    }
    return text;
}

/*
 * The commonest tokens without the detour over a token: small ints, short texts, floats, None and
 * bools. False: something else, for step(); nothing was read. `*value` NULL: an exception is set.
 */
static inline bool quick(struct build *build, bool as_key, PyObject **value)
{
    const unsigned char *at = build->reader.at;
    size_t left = (size_t)(build->reader.end - at);
    unsigned lead = left > 0 ? *at : 0xC1;
    size_t head = 1, size;

    if (lead < 0x80) {
        *value = PyLong_FromLong((long)lead);
        build->reader.at = at + 1;
        return true;
    }
    if ((lead & 0xE0) == 0xA0) {
        size = lead & 0x1F;
    } else if (lead == 0xD9 && left > 1) {
        size = at[1];
        head = 2;
    } else if (lead == 0xDA && left > 2) {
        size = (size_t)at[1] << 8 | at[2];
        head = 3;
    } else if (lead == 0xCB && left >= 9) {
        uint64_t bits = cog_load_be64(at + 1);
        double real;

        memcpy(&real, &bits, sizeof real);
        *value = PyFloat_FromDouble(real);
        build->reader.at = at + 9;
        return true;
    } else if (lead == 0xCD && left >= 3) {
        *value = PyLong_FromLong((long)at[1] << 8 | at[2]);
        build->reader.at = at + 3;
        return true;
    } else if (lead == 0xC0 || lead == 0xC2 || lead == 0xC3) {
        *value = Py_NewRef(lead == 0xC0 ? Py_None : lead == 0xC2 ? Py_False : Py_True);
        build->reader.at = at + 1;
        return true;
    } else {
        return false;
    }
    if (size > left - head) {
        return false;
    }
    *value = as_key ? build_key(build, at + head, size) : build_str(build, at + head, size);
    build->reader.at = at + head + size;
    return true;
}

/* --- arrays ---------------------------------------------------------------------------------- */

/* The dtype object for a stored name; borrowed from the cache. */
static PyObject *dtype_of(const struct build *build, PyObject *name)
{
    struct cog_py_state *state = build->state;

    if (!PyUnicode_CheckExact(name)) {
        return damaged(build, "a dtype that is not text");
    }
    PyObject *dtype = PyDict_GetItemWithError(state->dtypes, name);

    if (dtype == NULL && !PyErr_Occurred()) {
        PyObject *fresh = PyObject_CallOneArg(state->hook_dtype_of, name);

        if (fresh == NULL) {
            return as_damage(build);
        }
        if (PyDict_GET_SIZE(state->dtypes) >= 256) {
            PyDict_Clear(state->dtypes);
        }
        if (PyDict_SetItem(state->dtypes, name, fresh) == 0) {
            dtype = fresh; /* the dict keeps it alive */
        }
        Py_DECREF(fresh);
    }
    return dtype;
}

/* Bytes that a shape and an element size ask for; false when that cannot be. */
static bool shape_bytes(PyObject *shape, Py_ssize_t itemsize, size_t *bytes)
{
    size_t total = (size_t)itemsize;

    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(shape); i++) {
        PyObject *item = PyTuple_GET_ITEM(shape, i);
        Py_ssize_t length = PyLong_CheckExact(item) ? PyLong_AsSsize_t(item) : -1;

        if (length < 0 || cog_mul_overflows(total, (size_t)length, &total)) {
            PyErr_Clear();
            return false;
        }
    }
    *bytes = total;
    return true;
}

/* numpy.ndarray(shape, dtype, memory, 0, None, order): an array over memory that it keeps alive. */
static PyObject *wrap_array(const struct build *build, PyObject *shape, PyObject *dtype,
                            PyObject *memory, PyObject *order)
{
    struct cog_py_state *state = build->state;

    if (state->ndarray_type == NULL) {
        PyObject *numpy = PyImport_ImportModule("numpy");

        state->ndarray_type = numpy != NULL ? PyObject_GetAttrString(numpy, "ndarray") : NULL;
        Py_XDECREF(numpy);
        if (state->ndarray_type == NULL) {
            return NULL;
        }
    }
    PyObject *zero = PyLong_FromLong(0);

    if (zero == NULL) {
        return NULL;
    }
    PyObject *arguments[] = {shape, dtype, memory, zero, Py_None, order};
    PyObject *array = PyObject_Vectorcall(state->ndarray_type, arguments, 6, NULL);

    Py_DECREF(zero);
    return array != NULL ? array : as_damage(build);
}

/* [dtype, [shape], "C" | "F", memory of a part or bytes] */
static PyObject *build_array(const struct build *build, PyObject *fields)
{
    if (!PyList_CheckExact(fields) || PyList_GET_SIZE(fields) != 4 ||
        !PyList_CheckExact(PyList_GET_ITEM(fields, 1))) {
        return damaged(build, "an array that is none");
    }
    PyObject *order = PyList_GET_ITEM(fields, 2), *data = PyList_GET_ITEM(fields, 3);
    PyObject *dtype = dtype_of(build, PyList_GET_ITEM(fields, 0));

    if (dtype == NULL) {
        return NULL;
    }
    PyObject *size = PyObject_GetAttrString(dtype, "itemsize");
    Py_ssize_t itemsize = size != NULL ? PyLong_AsSsize_t(size) : -1;
    PyObject *shape = itemsize >= 0 ? PyList_AsTuple(PyList_GET_ITEM(fields, 1)) : NULL;
    PyObject *memory = NULL, *array = NULL;
    size_t wanted, there = 0;

    Py_XDECREF(size);
    if (shape == NULL) {
        return NULL;
    }
    if (PyBytes_CheckExact(data)) {
        there = (size_t)PyBytes_GET_SIZE(data);
    } else if (cog_is_memory(build->state, data)) {
        there = cog_memory_size(data);
    }
    if (!PyUnicode_CheckExact(order) || !shape_bytes(shape, itemsize, &wanted) || wanted != there ||
        (PyUnicode_CompareWithASCIIString(order, "C") != 0 &&
         PyUnicode_CompareWithASCIIString(order, "F") != 0) ||
        !(PyBytes_CheckExact(data) || cog_is_memory(build->state, data))) {
        Py_DECREF(shape);
        return damaged(build, "an array whose shape is not that of its bytes");
    }
    if (PyBytes_CheckExact(data)) {
        memory = cog_memory_new(build->state, there);
        if (memory != NULL) {
            memcpy(cog_memory_data(memory), PyBytes_AS_STRING(data), there);
            if (build->load != NULL && build->load->mode == COG_MODE_VIEW) {
                cog_memory_freeze(memory);
            }
        }
    } else {
        memory = Py_NewRef(data);
    }
    if (memory != NULL) {
        array = wrap_array(build, shape, dtype, memory, order);
    }
    Py_XDECREF(memory);
    Py_DECREF(shape);
    return array;
}

/* --- references to parts --------------------------------------------------------------------- */

/* The number of a frame's part, as the type that nothing else in a document becomes. */
static PyObject *frame_ref(const struct build *build, uint32_t number)
{
    PyObject *plain = PyLong_FromUnsignedLong(number);
    PyObject *ref = plain != NULL ? PyObject_CallOneArg(build->state->frame_ref_type, plain) : NULL;

    Py_XDECREF(plain);
    return ref;
}

/* What the next reference of the document stands for. */
static PyObject *build_part(struct build *build, const struct cog_mp_token *token)
{
    struct cog_load *load = build->load;
    struct cog_part part;
    uint32_t number = cog_load_le32(token->data);

    /* find_targets() has been here: the size is right and the part exists. */
    if (cog_entry_part(load->entry, number, &part) != COG_OK) {
        return damaged(build, "a reference to no part");
    }
    if (part.kind == COG_PART_FRAME) {
        return load->is_bundle ? frame_ref(build, number)
                               : damaged(build, "a frame outside a bundle");
    }
    if (load->next_target >= load->target_count ||
        load->targets[load->next_target].part != number) {
        return damaged(build, "references out of order");
    }
    struct cog_load_target *target = &load->targets[load->next_target++];
    PyObject *object = target->object;

    target->object = NULL;
    if (object == NULL || target->kind == COG_PART_ARRAY || target->role != COG_ROLE_STR) {
        return object != NULL ? object : damaged(build, "a reference that was not loaded");
    }
    PyObject *text = build_surrogates(build, target->data, target->size);

    Py_DECREF(object);
    return text;
}

/* --- extensions ------------------------------------------------------------------------------ */

static PyObject *build_hooked(const struct build *build, int ext, PyObject *payload)
{
    PyObject *code = PyLong_FromLong(ext);
    PyObject *value = NULL;

    if (code != NULL && payload != NULL) {
        PyObject *arguments[] = {code, payload};

        value = PyObject_Vectorcall(build->state->hook_decode, arguments, 2, NULL);
        if (value == NULL) {
            (void)as_damage(build);
        }
    }
    Py_XDECREF(code);
    return value;
}

/* (metadata, Frames), or the metadata alone. */
static PyObject *build_bundle(const struct build *build, PyObject *fields)
{
    if (!PyList_CheckExact(fields) || PyList_GET_SIZE(fields) < 1) {
        return damaged(build, "a bundle that is none");
    }
    if (build->frames == Py_False) {
        return Py_NewRef(PyList_GET_ITEM(fields, 0));
    }
    if (PyList_GET_SIZE(fields) != 2) {
        return damaged(build, "a bundle without frames");
    }
    PyObject *arguments[] = {build->owner, PyList_GET_ITEM(fields, 0), PyList_GET_ITEM(fields, 1),
                             build->wanted != NULL ? build->wanted : Py_None};
    PyObject *value = PyObject_Vectorcall(build->state->hook_bundle, arguments, 4, NULL);

    return value != NULL ? value : as_damage(build);
}

static PyObject *build_set(const struct build *build, PyObject *items, int ext)
{
    PyObject *set = ext == COG_EXT_SET ? PySet_New(items) : PyFrozenSet_New(items);

    if (set == NULL) {
        return as_damage(build);
    }
    if (PySet_GET_SIZE(set) != PyList_GET_SIZE(items)) {
        Py_DECREF(set);
        return unsupported(build, "duplicate-key", "a set with equal elements", 0);
    }
    return set;
}

/* The payload of a nested extension is built: turn it into what it stands for. Takes it over. */
static PyObject *finish_ext(struct build *build, int ext, PyObject *payload)
{
    PyObject *value;

    switch (ext) {
    case COG_EXT_SET:
    case COG_EXT_FROZENSET: value = build_set(build, payload, ext); break;
    case COG_EXT_ARRAY: value = build_array(build, payload); break;
    case COG_EXT_BUNDLE: value = build_bundle(build, payload); break;
    default:
        if (cog_is_memory(build->state, payload)) {
            value = damaged(build, "an array part outside an array");
        } else {
            value = build_hooked(build, ext, payload);
        }
    }
    Py_DECREF(payload);
    return value;
}

static PyObject *build_flat_ext(struct build *build, const struct cog_mp_token *token)
{
    switch (token->ext) {
    case COG_EXT_PART: return build_part(build, token);
    case COG_EXT_BYTEARRAY:
        return PyByteArray_FromStringAndSize((const char *)token->data, (Py_ssize_t)token->size);
    case COG_EXT_SURROGATES: return build_surrogates(build, token->data, token->size);
    case COG_EXT_BIGINT:
    case COG_EXT_DATETIME:
    case COG_EXT_DATE:
    case COG_EXT_TIME:
    case COG_EXT_TIMEDELTA:
    case COG_EXT_DECIMAL:
    case COG_EXT_UUID:
    case COG_EXT_COMPLEX: {
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)token->data,
                                                    (Py_ssize_t)token->size);
        PyObject *value = build_hooked(build, token->ext, bytes);

        Py_XDECREF(bytes);
        return value;
    }
    default: return unsupported(build, "unknown-ext", "extension code %d", token->ext);
    }
}

/* --- the stack ------------------------------------------------------------------------------- */

static void drop_frame(struct build_frame *frame)
{
    Py_XDECREF(frame->object);
    Py_XDECREF(frame->key);
}

/* Begin a container; on failure nothing is pushed. */
static int push(struct build *build, enum build_kind kind, int ext, uint32_t count,
                const unsigned char *outer_end)
{
    if (build->count >= COG_FRAMING_DEPTH) {
        (void)damaged(build, "nested too deep");
        return -1;
    }
    if (build->count == build->capacity) {
        size_t wanted = build->capacity ? 2 * build->capacity : STACK_START;
        struct build_frame *more = cog_realloc(build->stack, wanted * sizeof *more);

        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        build->stack = more;
        build->capacity = wanted;
    }
    /*
     * Every item takes a byte: a document cannot announce more items than it has bytes, in all its
     * containers together. So memory is taken for what can be there, at once and exactly.
     */
    uint64_t items = kind == BUILD_DICT ? 2 * (uint64_t)count : count;

    if (items > build->items_left) {
        (void)damaged(build, "more items announced than there are bytes");
        return -1;
    }
    build->items_left -= items;
    struct build_frame frame = {.kind = kind, .ext = ext, .count = count, .outer_end = outer_end};

    if (kind == BUILD_LIST) {
        frame.object = PyList_New((Py_ssize_t)count);
    } else if (kind == BUILD_TUPLE) {
        frame.object = PyTuple_New((Py_ssize_t)count);
    } else {
        frame.object = PyDict_New();
    }
    if (frame.object == NULL) {
        return -1;
    }
    build->stack[build->count++] = frame;
    return 0;
}

/* The innermost container is full: take it off the stack, finished. NULL with an exception set. */
static PyObject *pop(struct build *build)
{
    struct build_frame frame = build->stack[--build->count];
    PyObject *object = frame.object;

    if (frame.kind == BUILD_DICT && PyDict_GET_SIZE(object) != (Py_ssize_t)frame.count) {
        Py_DECREF(object);
        return unsupported(build, "duplicate-key", "a map with equal keys", 0);
    }
    if (frame.outer_end == NULL) {
        return object;
    }
    if (build->reader.at != build->reader.end) {
        Py_DECREF(object);
        return damaged(build, "an extension longer than its payload");
    }
    build->reader.end = frame.outer_end;
    return frame.kind == BUILD_TUPLE ? object : finish_ext(build, frame.ext, object);
}

/* --- the build itself ------------------------------------------------------------------------ */

/* A bundle begins: of which frames? */
static int take_wanted(struct build *build)
{
    if (build->count != 0) {
        (void)damaged(build, "a bundle inside a value");
        return -1;
    }
    if (build->frames != Py_True && build->frames != Py_False) {
        build->wanted = PyObject_CallOneArg(build->state->hook_wanted, build->frames);
        return build->wanted != NULL ? 0 : -1;
    }
    return 0;
}

/* Begin a nested extension. Tuples and sets go straight to their array. */
static int enter_ext(struct build *build, const struct cog_mp_token *token)
{
    const unsigned char *outer_end = build->reader.end;

    build->reader.at = token->data;
    build->reader.end = token->data + token->size;
    struct cog_mp_token head;

    if (cog_mp_next(&build->reader, &head) != COG_OK || head.type != COG_MP_ARRAY) {
        (void)damaged(build, "an extension that is not an array inside");
        return -1;
    }
    if (token->ext == COG_EXT_BUNDLE && take_wanted(build) < 0) {
        return -1;
    }
    enum build_kind kind = token->ext == COG_EXT_TUPLE ? BUILD_TUPLE : BUILD_LIST;

    return push(build, kind, token->ext, head.size, outer_end);
}

/* What reading one token came to. */
enum taken { TAKEN_FAILED = -1, TAKEN_VALUE, TAKEN_CONTAINER };

static enum taken taken(PyObject *value)
{
    return value != NULL ? TAKEN_VALUE : TAKEN_FAILED;
}

static enum taken pushed(int result)
{
    return result == 0 ? TAKEN_CONTAINER : TAKEN_FAILED;
}

/* Read one token of any kind: a scalar into `*value`, a container onto the stack. */
static enum taken step(struct build *build, bool as_key, PyObject **value)
{
    struct cog_mp_token token;

    if (cog_mp_next(&build->reader, &token) != COG_OK) {
        (void)damaged(build, "ends or is spoilt within a value");
        return TAKEN_FAILED;
    }
    switch (token.type) {
    case COG_MP_STR:
        *value = as_key ? build_key(build, token.data, token.size)
                        : build_str(build, token.data, token.size);
        return taken(*value);
    case COG_MP_INT: return taken(*value = PyLong_FromLongLong(token.integer));
    case COG_MP_UINT: return taken(*value = PyLong_FromUnsignedLongLong(token.unsigned_integer));
    case COG_MP_FLOAT: return taken(*value = PyFloat_FromDouble(token.real));
    case COG_MP_NIL: return taken(*value = Py_NewRef(Py_None));
    case COG_MP_BOOL: return taken(*value = PyBool_FromLong(token.boolean));
    case COG_MP_BIN:
        *value = PyBytes_FromStringAndSize((const char *)token.data, (Py_ssize_t)token.size);
        return taken(*value);
    case COG_MP_ARRAY: return pushed(push(build, BUILD_LIST, 0, token.size, NULL));
    case COG_MP_MAP: return pushed(push(build, BUILD_DICT, 0, token.size, NULL));
    case COG_MP_EXT: break;
    }
    if (build->load == NULL) {
        (void)unsupported(build, "unknown-ext", "extension code %d in plain metadata", token.ext);
        return TAKEN_FAILED;
    }
    if (cog_ext_is_nested(token.ext)) {
        return pushed(enter_ext(build, &token));
    }
    return taken(*value = build_flat_ext(build, &token));
}

/* As step() for what begins with one byte, a short map or list, which are most containers. */
static inline enum taken step_quickly(struct build *build, bool as_key, PyObject **value)
{
    const unsigned char *at = build->reader.at;

    if (at < build->reader.end && *at >= 0x80 && *at < 0xA0) {
        build->reader.at = at + 1;
        return pushed(push(build, *at < 0x90 ? BUILD_DICT : BUILD_LIST, 0, *at & 15, NULL));
    }
    return step(build, as_key, value);
}

/* Only the metadata of a bundle is wanted: leave out what follows it. */
static void stop_at_metadata(struct build *build, struct build_frame *frame)
{
    if (frame->ext == COG_EXT_BUNDLE && build->frames == Py_False && frame->done == 1) {
        PyObject *first = PyList_GetSlice(frame->object, 0, 1);

        if (first != NULL) {
            Py_SETREF(frame->object, first);
            frame->count = 1;
            build->reader.at = build->reader.end;
        }
    }
}

/*
 * Is the frame that comes next, [id, ...], a wanted one? What looks like none, or has an id of many
 * digits, is for from_document() to judge.
 */
static int is_wanted(const struct build *build)
{
    struct cog_mp_reader reader = build->reader;
    struct cog_mp_token token;
    PyObject *id = NULL;

    if (cog_mp_next(&reader, &token) != COG_OK || token.type != COG_MP_ARRAY || token.size != 2 ||
        cog_mp_next(&reader, &token) != COG_OK) {
        return 1;
    }
    if (token.type == COG_MP_STR) {
        id = PyUnicode_DecodeUTF8((const char *)token.data, (Py_ssize_t)token.size, NULL);
    } else if (token.type == COG_MP_INT) {
        id = PyLong_FromLongLong(token.integer);
    } else if (token.type == COG_MP_UINT) {
        id = PyLong_FromUnsignedLongLong(token.unsigned_integer);
    } else {
        return 1;
    }
    if (id == NULL) {
        PyErr_Clear();
        return 1;
    }
    int found = PySet_Contains(build->wanted, id);

    Py_DECREF(id);
    return found;
}

/* Some frames of a bundle are wanted: pass over the others, of which there may be thousands. */
static int skip_unwanted(struct build *build, struct build_frame *frame)
{
    if (build->wanted == NULL || build->count != 2 || build->stack[0].done != 1 ||
        frame->kind != BUILD_LIST || frame->ext != 0) {
        return 0;
    }
    while (frame->done < frame->count) {
        int found = is_wanted(build);

        if (found != 0) {
            return found < 0 ? -1 : 0;
        }
        if (cog_mp_skip(&build->reader, COG_MP_DEPTH_LIMIT) != COG_OK) {
            (void)damaged(build, "ends or is spoilt within a frame");
            return -1;
        }
        frame->count--;
    }
    return PyList_SetSlice(frame->object, (Py_ssize_t)frame->count, PyList_GET_SIZE(frame->object),
                           NULL);
}

/* Fill a list or tuple as far as quick() goes. */
static int fill_items(struct build *build, struct build_frame *frame)
{
    PyObject *value;

    while (frame->done < frame->count && quick(build, false, &value)) {
        if (value == NULL) {
            return -1;
        }
        if (frame->kind == BUILD_LIST) {
            PyList_SET_ITEM(frame->object, (Py_ssize_t)frame->done++, value);
        } else {
            PyTuple_SET_ITEM(frame->object, (Py_ssize_t)frame->done++, value);
        }
    }
    return 0;
}

/* Put a pair into a map; takes both over. */
static inline int add_pair(const struct build *build, struct build_frame *frame, PyObject *value)
{
    int result = PyDict_SetItem(frame->object, frame->key, value);

    Py_CLEAR(frame->key);
    Py_DECREF(value);
    frame->done++;
    if (result < 0) {
        (void)as_damage(build); /* such as a key that cannot be one */
    }
    return result;
}

/* Put a finished value (taken over) where it belongs. */
static int add(const struct build *build, struct build_frame *frame, PyObject *value)
{
    if (build->load != NULL && frame->ext != COG_EXT_ARRAY && cog_is_memory(build->state, value)) {
        Py_DECREF(value);
        (void)damaged(build, "an array part outside an array");
        return -1;
    }
    switch (frame->kind) {
    case BUILD_TUPLE: PyTuple_SET_ITEM(frame->object, (Py_ssize_t)frame->done++, value); break;
    case BUILD_LIST: PyList_SET_ITEM(frame->object, (Py_ssize_t)frame->done++, value); break;
    case BUILD_DICT:
        if (frame->key != NULL) {
            return add_pair(build, frame, value);
        }
        frame->key = value;
        break;
    }
    return 0;
}

/* Fill a map as far as quick() goes; a key may be left over, whose value is something else. */
static int fill_pairs(struct build *build, struct build_frame *frame)
{
    PyObject *value;

    while (frame->done < frame->count) {
        if (frame->key == NULL && !quick(build, true, &frame->key)) {
            return 0;
        }
        if (frame->key == NULL) {
            return -1;
        }
        if (!quick(build, false, &value)) {
            return 0;
        }
        if (value == NULL || add_pair(build, frame, value) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *run(struct build *build)
{
    PyObject *value;
    enum taken what = step(build, false, &value);

    while (what != TAKEN_FAILED && build->count > 0) {
        struct build_frame *frame = &build->stack[build->count - 1];

        if (what == TAKEN_VALUE && add(build, frame, value) < 0) {
            return NULL;
        }
        if ((frame->kind == BUILD_DICT ? fill_pairs(build, frame) : fill_items(build, frame)) < 0) {
            return NULL;
        }
        stop_at_metadata(build, frame);
        if (skip_unwanted(build, frame) < 0) {
            return NULL;
        }
        if (frame->done == frame->count) {
            what = taken(value = pop(build));
        } else {
            what = step_quickly(build, frame->kind == BUILD_DICT && frame->key == NULL, &value);
        }
    }
    return what == TAKEN_VALUE ? value : NULL;
}

static PyObject *build_all(struct build *build)
{
    /* Thousands of new containers would set off collections that can find nothing. */
    int collecting = build->items_left > GC_PAUSE ? PyGC_Disable() : 0;
    PyObject *value = run(build);

    if (collecting) {
        PyGC_Enable();
    }
    while (build->count > 0) {
        drop_frame(&build->stack[--build->count]);
    }
    cog_free(build->stack);
    Py_CLEAR(build->wanted);
    if (value != NULL && build->reader.at != build->reader.end) {
        Py_DECREF(value);
        return damaged(build, "bytes after the value");
    }
    if (value != NULL && build->load != NULL && cog_is_memory(build->state, value)) {
        Py_DECREF(value);
        return damaged(build, "an array part outside an array");
    }
    return value;
}

static int load_hooks(struct cog_py_state *state)
{
    static const char *const modules[] = {"cogcache.codecs", "cogcache.codecs", "cogcache.codecs",
                                          "cogcache.frames", "cogcache.frames"};
    static const char *const names[] = {"dtype_of", "decode", "FrameRef", "from_document",
                                        "wanted_ids"};
    PyObject **slots[] = {&state->hook_dtype_of, &state->hook_decode, &state->frame_ref_type,
                          &state->hook_bundle, &state->hook_wanted};

    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        PyObject *module;

        if (*slots[i] != NULL) {
            continue;
        }
        module = PyImport_ImportModule(modules[i]);
        if (module == NULL) {
            return -1;
        }
        *slots[i] = PyObject_GetAttrString(module, names[i]);
        Py_DECREF(module);
        if (*slots[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

PyObject *cog_load_build(struct cog_py_state *state, struct cog_load *load, PyObject *owner,
                         PyObject *frames)
{
    struct build build = {.state = state,
                          .load = load,
                          .owner = owner,
                          .frames = frames,
                          .items_left = load->doc_size,
                          .reader = {load->doc, load->doc + load->doc_size}};

    return load_hooks(state) < 0 ? NULL : build_all(&build);
}

PyObject *cog_build_plain(struct cog_py_state *state, const void *data, size_t size)
{
    struct build build = {.state = state,
                          .items_left = size,
                          .reader = {data, (const unsigned char *)data + size}};

    return build_all(&build);
}

/* --- step 2: memory -------------------------------------------------------------------------- */

static bool is_aligned(const unsigned char *data)
{
    return ((uintptr_t)data & 15) == 0;
}

/* Memory of an array: the private map itself, a read-only view, or memory of its own. */
static int allocate_array(struct cog_py_state *state, struct cog_load *load,
                          struct cog_load_target *target, PyObject *owner)
{
    struct cog_part part;
    bool mapped = load->object != NULL && cog_object_is_mapped(load->object);

    (void)cog_entry_part(load->entry, target->part, &part);
    bool lies_ready = load->image != NULL && cog_part_is_plain(&part) && part.raw_size > 0 &&
                      is_aligned(load->image + part.offset);
    bool lend = lies_ready && load->mode == COG_MODE_COW && mapped && !load->no_lending;

    if (lend || (lies_ready && load->mode == COG_MODE_VIEW)) {
        target->data = load->image + part.offset;
        target->in_place = true;
        target->object = cog_memory_borrow(state, target->data, target->size, owner, !lend);
        load->lent |= lend;
        load->viewed |= !lend;
    } else {
        target->object = cog_memory_new(state, target->size);
        if (target->object != NULL) {
            target->data = cog_memory_data(target->object);
            if (load->mode == COG_MODE_VIEW) {
                cog_memory_freeze(target->object);
            }
        }
    }
    return target->object != NULL ? 0 : -1;
}

int cog_load_allocate(struct cog_py_state *state, struct cog_load *load, PyObject *owner)
{
    for (size_t i = 0; i < load->target_count; i++) {
        struct cog_load_target *target = &load->targets[i];

        if (target->kind == COG_PART_ARRAY) {
            if (allocate_array(state, load, target, owner) < 0) {
                return -1;
            }
        } else if (target->role == COG_ROLE_BYTEARRAY) {
            target->object = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)target->size);
            target->data = target->object != NULL
                               ? (unsigned char *)PyByteArray_AS_STRING(target->object)
                               : NULL;
        } else {
            target->object = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)target->size);
            target->data = target->object != NULL
                               ? (unsigned char *)PyBytes_AS_STRING(target->object)
                               : NULL;
        }
        if (target->object == NULL) {
            return -1;
        }
        if (target->kind != COG_PART_ARRAY) {
            cog_memory_will_fill(target->data, target->size, target->size);
        }
        load->fill_bytes += target->in_place ? 0 : target->size;
    }
    return 0;
}

void cog_load_release(struct cog_load *load)
{
    for (size_t i = 0; i < load->target_count; i++) {
        Py_CLEAR(load->targets[i].object);
    }
    cog_free(load->targets);
    cog_free(load->doc_memory);
    cog_document_unref(load->document);
    load->document = NULL;
    load->targets = NULL;
    load->target_count = load->target_capacity = load->next_target = 0;
    load->doc_memory = NULL;
    load->doc = NULL;
}
