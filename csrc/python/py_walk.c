/*
 * The walk: a Python value -> msgpack document + parts. Iterative, with its own stack: the depth of
 * a value costs heap, not C stack, and the path of an offender can be told at any time.
 */
#include "python/py_value.h"

#include <string.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/meta.h"
#include "core/msgpack.h"

enum walk_kind { WALK_LIST, WALK_TUPLE, WALK_SET, WALK_DICT };

enum {
    NO_EXT = -1,
    EXT_HEAD_ROOM = 6,     /* ext 32: what is reserved before a payload of unknown length */
    EXT_SHORT_LIMIT = 255, /* payloads up to here are moved together so that the head is short */
    PATH_FIRST = 20,       /* a longer path leaves out its middle */
    PATH_LAST = 10,
    STACK_START = 16
};

struct walk_frame {
    enum walk_kind kind;
    bool counted;        /* one level of the user's value, not of our own framing */
    bool is_key;         /* a tuple used as key of a map: only key types below */
    bool wrap;           /* our plain form of an object: not a step of the path */
    PyObject *identity;  /* the user's object, to find cycles; owned */
    PyObject *container; /* what is iterated: identity itself or its plain form; owned */
    Py_ssize_t at;       /* next item; for dicts the position of PyDict_Next */
    Py_ssize_t done, size;
    PyObject *key;   /* dicts: key of the current item; owned */
    PyObject *value; /* dicts: waits until its key, a tuple, is written; owned */
    size_t ext_at;   /* where the room for the ext head is, if `ext` is set */
    int ext;
    size_t *starts;  /* sets: where each element begins */
    size_t nan_keys; /* dicts: keys with a NaN, which Python cannot tell apart, and we neither */
};

struct walk {
    struct cog_py_state *state;
    struct cog_buf *doc;
    struct cog_draft *draft; /* NULL: plain document */
    struct cog_holds *holds;
    struct walk_frame *stack;
    size_t count, capacity;
    unsigned depth, max_depth;
    unsigned inline_only; /* inside a key or a set: nothing becomes a part */
    const char *root;
    const char *(*name_of)(int64_t key); /* of the fields of the outermost map; or NULL */
};

/* --- holds ----------------------------------------------------------------------------------- */

static int grow(void **items, size_t *capacity, size_t count, size_t item_size)
{
    if (count < *capacity) {
        return 0;
    }
    size_t wanted = *capacity ? 2 * *capacity : STACK_START;
    size_t bytes;
    void *more = cog_mul_overflows(wanted, item_size, &bytes) ? NULL : cog_realloc(*items, bytes);

    if (more == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *items = more;
    *capacity = wanted;
    return 0;
}

/* Keep `object` alive until the draft is gone. */
static int hold_object(struct cog_holds *holds, PyObject *object)
{
    if (grow((void **)&holds->objects, &holds->object_capacity, holds->object_count,
             sizeof *holds->objects) < 0) {
        return -1;
    }
    holds->objects[holds->object_count++] = Py_NewRef(object);
    return 0;
}

/* Take a view that the draft will own; NULL with an exception set. */
static Py_buffer *hold_view(struct cog_holds *holds, PyObject *object, int flags)
{
    if (grow((void **)&holds->views, &holds->view_capacity, holds->view_count,
             sizeof *holds->views) < 0) {
        return NULL;
    }
    Py_buffer *view = &holds->views[holds->view_count];

    if (PyObject_GetBuffer(object, view, flags) < 0) {
        return NULL;
    }
    holds->view_count++;
    return view;
}

static void drop_last_view(struct cog_holds *holds)
{
    PyBuffer_Release(&holds->views[--holds->view_count]);
}

void cog_holds_release(struct cog_holds *holds)
{
    while (holds->view_count > 0) {
        drop_last_view(holds);
    }
    while (holds->object_count > 0) {
        Py_DECREF(holds->objects[--holds->object_count]);
    }
    cog_free(holds->views);
    cog_free(holds->objects);
    memset(holds, 0, sizeof *holds);
}

/* --- errors with a path ---------------------------------------------------------------------- */

static bool is_identifier(PyObject *key)
{
    return PyUnicode_CheckExact(key) && PyUnicode_IsIdentifier(key) > 0;
}

/* One step of the path: `[3]`, `.name` or `['any other key']`; NULL with an exception set. */
static PyObject *path_step(const struct walk_frame *frame)
{
    if (frame->kind == WALK_DICT) {
        if (frame->key == NULL) {
            return PyUnicode_FromString("");
        }
        if (is_identifier(frame->key)) {
            return PyUnicode_FromFormat(".%U", frame->key);
        }
        PyObject *text = PyObject_Repr(frame->key);

        if (text == NULL) {
            PyErr_Clear();
            return PyUnicode_FromFormat("[<%s>]", Py_TYPE(frame->key)->tp_name);
        }
        PyObject *step = PyUnicode_FromFormat("[%.60U]", text);

        Py_DECREF(text);
        return step;
    }
    if (frame->kind == WALK_SET) {
        return PyUnicode_FromString("{}");
    }
    return PyUnicode_FromFormat("[%zd]", frame->at - 1);
}

/* A frame of the path that is a bundle shows the names of its two halves. */
static PyObject *bundle_step(const struct walk_frame *frame)
{
    return PyUnicode_FromString(frame->at <= 1 ? ".metadata" : ".frames");
}

/* The name of the field in the outermost map that a number stands for; NULL: there is none. */
static const char *named_field(const struct walk *walk)
{
    const struct walk_frame *frame = &walk->stack[0];
    int overflow = 0;

    if (walk->name_of == NULL || walk->count == 0 || frame->kind != WALK_DICT ||
        frame->key == NULL || !PyLong_CheckExact(frame->key)) {
        return NULL;
    }
    long long number = PyLong_AsLongLongAndOverflow(frame->key, &overflow);

    return overflow == 0 ? walk->name_of(number) : NULL;
}

static PyObject *walk_path(const struct walk *walk)
{
    const char *field = named_field(walk);
    PyObject *path = PyUnicode_FromString(field != NULL ? field : walk->root);

    for (size_t i = field != NULL; i < walk->count && path != NULL; i++) {
        const struct walk_frame *frame = &walk->stack[i];
        PyObject *step;

        if (i == PATH_FIRST && walk->count > PATH_FIRST + PATH_LAST) {
            step = PyUnicode_FromString("...");
            i = walk->count - PATH_LAST;
        } else if (frame->ext == COG_EXT_BUNDLE) {
            step = bundle_step(frame);
        } else if (frame->wrap) {
            continue;
        } else {
            step = path_step(frame);
        }
        PyObject *longer = step != NULL ? PyUnicode_Concat(path, step) : NULL;

        Py_XDECREF(step);
        Py_SETREF(path, longer);
    }
    return path;
}

/* Raise ValueTypeError("<path>: <message>"); takes `message` over. Always -1. */
static int refuse(const struct walk *walk, PyObject *message)
{
    PyObject *path = message != NULL ? walk_path(walk) : NULL;
    PyObject *module = path != NULL ? PyImport_ImportModule("cogcache.exceptions") : NULL;
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, "ValueTypeError") : NULL;
    PyObject *text = type != NULL ? PyUnicode_FromFormat("%U: %U", path, message) : NULL;
    PyObject *error = text != NULL ? PyObject_CallFunctionObjArgs(type, text, path, NULL) : NULL;

    if (error != NULL) {
        PyErr_SetObject(type, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(module);
    Py_XDECREF(path);
    Py_XDECREF(message);
    return -1;
}

/* A hook refused with a ValueTypeError of its own: say it again with the whole path. Other
 * exceptions pass. Always -1. */
static int refuse_again(const struct walk *walk)
{
    PyObject *type, *error, *trace;

    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyObject *name = type != NULL ? PyObject_GetAttrString(type, "__name__") : NULL;
    bool ours = name != NULL && PyUnicode_CompareWithASCIIString(name, "ValueTypeError") == 0;
    PyObject *message = ours ? PyObject_Str(error) : NULL;

    Py_XDECREF(name);
    PyErr_Clear();
    if (message == NULL) {
        PyErr_Restore(type, error, trace);
        return -1;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return refuse(walk, message);
}

static int check(enum cog_status status)
{
    if (status == COG_OK) {
        return 0;
    }
    PyErr_NoMemory();
    return -1;
}

/* --- scalars --------------------------------------------------------------------------------- */

/* The u32 part number is not known yet: arrays come before blobs and blobs before frames. */
static int write_part(struct walk *walk, uint8_t kind, uint8_t role, const void *data, size_t size,
                      const struct cog_part_options *options, struct cog_draft_part **out)
{
    struct cog_draft *draft = walk->draft;

    if (draft->part_count >= COG_PARTS_LIMIT - 1) {
        return refuse(walk,
                      PyUnicode_FromFormat("more than %d large pieces; stack the arrays into one",
                                           COG_PARTS_LIMIT - 1));
    }
    if (grow((void **)&draft->parts, &draft->part_capacity, draft->part_count,
             sizeof *draft->parts) < 0) {
        return -1;
    }
    unsigned char payload[5] = {0, 0, 0, 0, role};
    struct cog_draft_part *part = &draft->parts[draft->part_count];

    if (check(cog_mp_ext_head(walk->doc, COG_EXT_PART, sizeof payload)) < 0) {
        return -1;
    }
    *part = (struct cog_draft_part){
        .data = data, .size = size, .kind = kind, .patch_at = walk->doc->size};
    if (options != NULL) {
        part->options = *options;
    }
    if (check(cog_buf_append(walk->doc, payload, sizeof payload)) < 0) {
        return -1;
    }
    draft->part_count++;
    draft->raw_bytes += size;
    if (out != NULL) {
        *out = part;
    }
    return 0;
}

static bool as_part(const struct walk *walk, size_t size)
{
    return size > COG_PART_THRESHOLD && walk->draft != NULL && walk->inline_only == 0;
}

static int refuse_size(const struct walk *walk)
{
    return refuse(walk, PyUnicode_FromString("over 4 GiB inside a set, a key or plain metadata"));
}

static int walk_utf8(struct walk *walk, const char *utf8, size_t size, PyObject *owner)
{
    if (as_part(walk, size)) {
        if (hold_object(walk->holds, owner) < 0) {
            return -1;
        }
        return write_part(walk, COG_PART_BLOB, COG_ROLE_STR, utf8, size, NULL, NULL);
    }
    return size > UINT32_MAX ? refuse_size(walk) : check(cog_mp_str(walk->doc, utf8, size));
}

/* A text with lone surrogates, which UTF-8 proper does not have. */
static int walk_surrogates(struct walk *walk, PyObject *text)
{
    if (walk->draft == NULL) {
        return refuse(walk, PyUnicode_FromString("text with lone surrogates"));
    }
    PyObject *bytes = PyUnicode_AsEncodedString(text, "utf-8", "surrogatepass");

    if (bytes == NULL) {
        return -1;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    int result;

    if (as_part(walk, size)) {
        result = walk_utf8(walk, PyBytes_AS_STRING(bytes), size, bytes);
    } else if (size > UINT32_MAX) {
        result = refuse_size(walk);
    } else {
        result = check(cog_mp_ext(walk->doc, COG_EXT_SURROGATES, PyBytes_AS_STRING(bytes), size));
    }
    Py_DECREF(bytes);
    return result;
}

static int walk_str(struct walk *walk, PyObject *text)
{
    if (PyUnicode_IS_COMPACT_ASCII(text)) {
        return walk_utf8(walk, (const char *)PyUnicode_DATA(text),
                         (size_t)PyUnicode_GET_LENGTH(text), text);
    }
    /* Not PyUnicode_AsUTF8: it would keep a second copy inside the caller's object for as long as
     * that lives. */
    PyObject *bytes = PyUnicode_AsUTF8String(text);

    if (bytes == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return -1;
        }
        PyErr_Clear();
        return walk_surrogates(walk, text);
    }
    int result = walk_utf8(walk, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), bytes);

    Py_DECREF(bytes);
    return result;
}

static int walk_bytes(struct walk *walk, PyObject *bytes)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);

    if (as_part(walk, size)) {
        if (hold_object(walk->holds, bytes) < 0) {
            return -1;
        }
        return write_part(walk, COG_PART_BLOB, COG_ROLE_BYTES, PyBytes_AS_STRING(bytes), size, NULL,
                          NULL);
    }
    return size > UINT32_MAX ? refuse_size(walk)
                             : check(cog_mp_bin(walk->doc, PyBytes_AS_STRING(bytes), size));
}

static int walk_bytearray(struct walk *walk, PyObject *array)
{
    size_t size = (size_t)PyByteArray_GET_SIZE(array);

    if (as_part(walk, size)) {
        /* A view, so that the array cannot be resized under us. */
        Py_buffer *view = hold_view(walk->holds, array, PyBUF_SIMPLE);

        return view == NULL ? -1
                            : write_part(walk, COG_PART_BLOB, COG_ROLE_BYTEARRAY, view->buf,
                                         (size_t)view->len, NULL, NULL);
    }
    return size > UINT32_MAX ? refuse_size(walk)
                             : check(cog_mp_ext(walk->doc, COG_EXT_BYTEARRAY,
                                                PyByteArray_AS_STRING(array), size));
}

static int walk_big_int(struct walk *walk, PyObject *number)
{
    if (walk->draft == NULL) {
        return refuse(walk, PyUnicode_FromString("an int beyond 64 bits"));
    }
    PyObject *bits = PyObject_CallMethod(number, "bit_length", NULL);
    size_t count = bits != NULL ? PyLong_AsSize_t(bits) : 0;

    Py_XDECREF(bits);
    if (PyErr_Occurred()) {
        return -1;
    }
    PyObject *to_bytes = PyObject_GetAttrString(number, "to_bytes");
    PyObject *arguments = Py_BuildValue("(ns)", (Py_ssize_t)(count / 8 + 1), "little");
    PyObject *names = Py_BuildValue("{s:O}", "signed", Py_True);
    PyObject *bytes = to_bytes != NULL && arguments != NULL && names != NULL
                          ? PyObject_Call(to_bytes, arguments, names)
                          : NULL;
    int result = -1;

    if (bytes != NULL) {
        size_t size = (size_t)PyBytes_GET_SIZE(bytes);
        const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(bytes);

        /* Shortest: -2^k needs no sign byte of its own. */
        if (size > 1 && data[size - 1] == 0xFF && (data[size - 2] & 0x80) != 0) {
            size--;
        }
        result = check(cog_mp_ext(walk->doc, COG_EXT_BIGINT, data, size));
    }
    Py_XDECREF(to_bytes);
    Py_XDECREF(arguments);
    Py_XDECREF(names);
    Py_XDECREF(bytes);
    return result;
}

static int walk_int(struct walk *walk, PyObject *number)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);

    if (overflow == 0) {
        return value == -1 && PyErr_Occurred() ? -1 : check(cog_mp_int(walk->doc, value));
    }
    if (overflow > 0) {
        unsigned long long large = PyLong_AsUnsignedLongLong(number);

        if (large != (unsigned long long)-1 || !PyErr_Occurred()) {
            return check(cog_mp_uint(walk->doc, large));
        }
        PyErr_Clear();
    }
    return walk_big_int(walk, number);
}

/* --- frames of the stack --------------------------------------------------------------------- */

static void drop_frame(struct walk_frame *frame)
{
    Py_XDECREF(frame->identity);
    Py_XDECREF(frame->container);
    Py_XDECREF(frame->key);
    Py_XDECREF(frame->value);
    cog_free(frame->starts);
}

static int check_nesting(const struct walk *walk, PyObject *identity, bool counted)
{
    for (size_t i = 0; i < walk->count; i++) {
        if (walk->stack[i].identity == identity) {
            return refuse(walk, PyUnicode_FromFormat("a %s that contains itself",
                                                     Py_TYPE(identity)->tp_name));
        }
    }
    if (counted && walk->depth >= walk->max_depth) {
        return refuse(walk, PyUnicode_FromFormat("nested more than %u deep", walk->max_depth));
    }
    return 0;
}

/*
 * Begin a container: room for the ext head if `ext` is set, then the head of the array or map.
 * `container` is iterated, `identity` is what the user gave; `wrap`: the former is our plain form
 * of the latter. Borrows both.
 */
static int push(struct walk *walk, enum walk_kind kind, PyObject *identity, PyObject *container,
                int ext, bool wrap)
{
    /* An object and its plain form are one level, whatever the form is. */
    bool counted = wrap || walk->count == 0 || !walk->stack[walk->count - 1].wrap;

    if (check_nesting(walk, identity, counted) < 0 ||
        grow((void **)&walk->stack, &walk->capacity, walk->count, sizeof *walk->stack) < 0) {
        return -1;
    }
    Py_ssize_t size = kind == WALK_DICT    ? PyDict_GET_SIZE(container)
                      : kind == WALK_TUPLE ? PyTuple_GET_SIZE(container)
                                           : PyList_GET_SIZE(container);
    struct walk_frame frame = {.kind = kind,
                               .counted = counted,
                               .wrap = wrap,
                               .size = size,
                               .ext = ext,
                               .ext_at = walk->doc->size};

    if ((size_t)size > UINT32_MAX) {
        return refuse(walk, PyUnicode_FromString("more than 2**32 - 1 items"));
    }
    if (kind == WALK_SET) {
        frame.starts = cog_alloc_zeroed((size_t)size + 1, sizeof *frame.starts);
        if (frame.starts == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    if ((ext != NO_EXT && check(cog_buf_append_zeros(walk->doc, EXT_HEAD_ROOM)) < 0) ||
        check(kind == WALK_DICT ? cog_mp_map(walk->doc, (size_t)size)
                                : cog_mp_array(walk->doc, (size_t)size)) < 0) {
        cog_free(frame.starts);
        return -1;
    }
    frame.identity = Py_NewRef(identity);
    frame.container = Py_NewRef(container);
    walk->stack[walk->count++] = frame;
    walk->depth += counted;
    walk->inline_only += kind == WALK_SET;
    return 0;
}

struct set_item {
    const unsigned char *data;
    size_t size;
};

static int compare_items(const void *left, const void *right)
{
    const struct set_item *a = left, *b = right;
    int order = memcmp(a->data, b->data, a->size < b->size ? a->size : b->size);

    return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

/* Sets have no order of their own: theirs is that of their encodings. */
static int sort_set(struct walk *walk, struct walk_frame *frame)
{
    size_t count = (size_t)frame->size;

    if (count < 2) {
        return 0;
    }
    size_t first = frame->starts[0], total = walk->doc->size - first;
    struct set_item *items = cog_alloc_zeroed(count, sizeof *items);
    unsigned char *copy = cog_alloc(total);

    if (items == NULL || copy == NULL) {
        cog_free(items);
        cog_free(copy);
        PyErr_NoMemory();
        return -1;
    }
    memcpy(copy, walk->doc->data + first, total);
    frame->starts[count] = walk->doc->size;
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct set_item){copy + (frame->starts[i] - first),
                                     frame->starts[i + 1] - frame->starts[i]};
    }
    qsort(items, count, sizeof *items, compare_items);
    unsigned char *to = walk->doc->data + first;

    for (size_t i = 0; i < count; i++) {
        memcpy(to, items[i].data, items[i].size);
        to += items[i].size;
    }
    cog_free(items);
    cog_free(copy);
    return 0;
}

/* The payload is complete: write its head, moving a short payload up to it. */
static int close_ext(struct walk *walk, size_t ext_at, int ext)
{
    struct cog_buf *doc = walk->doc;
    unsigned char *head = doc->data + ext_at;
    size_t size = doc->size - ext_at - EXT_HEAD_ROOM;

    if (size > UINT32_MAX) {
        return refuse(walk, PyUnicode_FromString("over 4 GiB in one piece"));
    }
    if (size > EXT_SHORT_LIMIT) {
        head[0] = 0xC9;
        for (int i = 0; i < 4; i++) {
            head[1 + i] = (unsigned char)(size >> (24 - 8 * i));
        }
        head[5] = (unsigned char)ext;
        return 0;
    }
    unsigned char payload[EXT_SHORT_LIMIT];

    memcpy(payload, head + EXT_HEAD_ROOM, size);
    doc->size = ext_at;
    if (check(cog_mp_ext(doc, (int8_t)ext, payload, size)) < 0) {
        return -1;
    }
    size_t moved = ext_at + EXT_HEAD_ROOM + size - doc->size;

    for (size_t i = walk->draft->part_count; i-- > 0 && walk->draft->parts[i].patch_at > ext_at;) {
        walk->draft->parts[i].patch_at -= moved;
    }
    return 0;
}

/* Two NaN are two keys to Python, yet one encoding: such a map would not come back. */
static int check_nan_keys(const struct walk *walk, const struct walk_frame *frame)
{
    if (frame->nan_keys < 2) {
        return 0;
    }
    return refuse(walk, PyUnicode_FromString("a dict with several keys that are or hold NaN"));
}

static int pop(struct walk *walk)
{
    struct walk_frame frame = walk->stack[walk->count - 1];

    if (check_nan_keys(walk, &frame) < 0 ||
        (frame.kind == WALK_SET && sort_set(walk, &frame) < 0) ||
        (frame.ext != NO_EXT && close_ext(walk, frame.ext_at, frame.ext) < 0)) {
        return -1;
    }
    walk->count--;
    walk->depth -= frame.counted;
    walk->inline_only -= (unsigned)(frame.kind == WALK_SET) + frame.is_key;
    drop_frame(&frame);
    return 0;
}

/* --- arrays ---------------------------------------------------------------------------------- */

/* The name that is stored for a dtype; borrowed from the cache. NULL with an exception set. */
static PyObject *dtype_name(struct walk *walk, PyObject *array)
{
    struct cog_py_state *state = walk->state;
    PyObject *dtype = PyObject_GetAttrString(array, "dtype");

    if (dtype == NULL) {
        return NULL;
    }
    PyObject *name = PyDict_GetItemWithError(state->dtype_names, dtype);

    if (name == NULL && !PyErr_Occurred()) {
        PyObject *fresh = PyObject_CallOneArg(state->hook_dtype_name, dtype);

        if (fresh == NULL) {
            (void)refuse_again(walk);
        } else {
            if (PyDict_GET_SIZE(state->dtype_names) >= 256) {
                PyDict_Clear(state->dtype_names);
            }
            if (PyDict_SetItem(state->dtype_names, dtype, fresh) == 0) {
                name = fresh; /* the dict keeps it alive */
            }
            Py_DECREF(fresh);
        }
    }
    Py_DECREF(dtype);
    return name;
}

static int write_array_bytes(struct walk *walk, const Py_buffer *shape, const void *data,
                             size_t size, bool f_order, bool *kept)
{
    *kept = as_part(walk, size);
    if (!*kept) {
        return size > UINT32_MAX ? refuse_size(walk) : check(cog_mp_bin(walk->doc, data, size));
    }
    struct cog_part_options options = {
        .codec = COG_CODEC_STORED,
        .element_size = shape->itemsize <= 255 ? (uint8_t)shape->itemsize : 1,
        .row_size = f_order || shape->ndim == 0 ? 0 : size / (size_t)shape->shape[0],
    };
    return write_part(walk, COG_PART_ARRAY, COG_ROLE_BYTES, data, size, &options, NULL);
}

/* [dtype, [shape], "C" | "F", bytes]; the view tells the shape, `data` the bytes. */
static int write_array(struct walk *walk, PyObject *array, const Py_buffer *view, const void *data,
                       bool f_order, bool *kept)
{
    PyObject *name = dtype_name(walk, array);
    Py_ssize_t name_size;
    const char *text = name != NULL ? PyUnicode_AsUTF8AndSize(name, &name_size) : NULL;
    size_t ext_at = walk->doc->size;

    *kept = false;
    if (text == NULL || check(cog_buf_append_zeros(walk->doc, EXT_HEAD_ROOM)) < 0 ||
        check(cog_mp_array(walk->doc, 4)) < 0 ||
        check(cog_mp_str(walk->doc, text, (size_t)name_size)) < 0 ||
        check(cog_mp_array(walk->doc, (size_t)view->ndim)) < 0) {
        return -1;
    }
    for (int i = 0; i < view->ndim; i++) {
        if (check(cog_mp_int(walk->doc, view->shape[i])) < 0) {
            return -1;
        }
    }
    if (check(cog_mp_str(walk->doc, f_order ? "F" : "C", 1)) < 0 ||
        write_array_bytes(walk, view, data, (size_t)view->len, f_order, kept) < 0) {
        return -1;
    }
    return close_ext(walk, ext_at, COG_EXT_ARRAY);
}

/* Neither C nor Fortran order: its bytes are copied in C order, its shape is read from a strided
 * view. */
static int walk_strided_array(struct walk *walk, PyObject *array)
{
    PyObject *bytes = PyObject_CallMethod(array, "tobytes", NULL);
    Py_buffer view;
    bool kept = false;
    int result = -1;

    if (bytes == NULL) {
        return -1;
    }
    if (PyObject_GetBuffer(array, &view, PyBUF_STRIDES) == 0) {
        result = write_array(walk, array, &view, PyBytes_AS_STRING(bytes), false, &kept);
        if (result == 0 && kept) {
            result = hold_object(walk->holds, bytes);
        }
        PyBuffer_Release(&view);
    }
    Py_DECREF(bytes);
    return result;
}

static int walk_array(struct walk *walk, PyObject *array)
{
    /* First the type: an array of objects has no buffer that could be taken. */
    if (dtype_name(walk, array) == NULL) {
        return -1;
    }
    bool f_order = false, kept = false;
    Py_buffer *view = hold_view(walk->holds, array, PyBUF_C_CONTIGUOUS);

    if (view == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
        f_order = true;
        view = hold_view(walk->holds, array, PyBUF_F_CONTIGUOUS);
    }
    if (view == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) {
            return -1;
        }
        PyErr_Clear();
        return walk_strided_array(walk, array);
    }
    int result = write_array(walk, array, view, view->buf, f_order, &kept);

    if (!kept) {
        drop_last_view(walk->holds);
    }
    return result;
}

/* --- everything else: through a hook --------------------------------------------------------- */

static int walk_one(struct walk *walk, PyObject *value);

/* An encoded frame: a part of its own under the frame's name, however small. */
static int walk_frame_part(struct walk *walk, PyObject *value)
{
    PyObject *name = PyObject_GetAttrString(value, "name");
    PyObject *data = name != NULL ? PyObject_GetAttrString(value, "data") : NULL;
    PyObject *compress = data != NULL ? PyObject_GetAttrString(value, "compress") : NULL;
    Py_ssize_t size = 0;
    const char *text = compress != NULL ? PyUnicode_AsUTF8AndSize(name, &size) : NULL;
    Py_buffer *view = text != NULL ? hold_view(walk->holds, data, PyBUF_SIMPLE) : NULL;
    struct cog_draft_part *part = NULL;
    int result = -1;

    if (view != NULL) {
        struct cog_part_options options = {.codec = compress == Py_True ? COG_CODEC_ZSTD
                                                                        : COG_CODEC_STORED};

        if (size < 1 || size > COG_NAME_LIMIT) {
            PyErr_Format(PyExc_ValueError, "a frame name of %zd bytes; 1 to %d are possible", size,
                         COG_NAME_LIMIT);
        } else {
            result = write_part(walk, COG_PART_FRAME, COG_ROLE_BYTES, view->buf, (size_t)view->len,
                                &options, &part);
        }
    }
    if (result == 0) {
        part->name = cog_alloc((size_t)size);
        part->name_size = (uint8_t)size;
        if (part->name == NULL) {
            PyErr_NoMemory();
            result = -1;
        } else {
            memcpy(part->name, text, (size_t)size);
        }
    }
    Py_XDECREF(name);
    Py_XDECREF(data);
    Py_XDECREF(compress);
    return result;
}

/* Walk the plain form that stands for `value`; cycles are found by `value` itself. */
static int walk_stand_in(struct walk *walk, PyObject *value, PyObject *plain)
{
    if (PyList_CheckExact(plain)) {
        return push(walk, WALK_LIST, value, plain, NO_EXT, false);
    }
    if (PyDict_CheckExact(plain)) {
        return push(walk, WALK_DICT, value, plain, NO_EXT, false);
    }
    if (PyTuple_CheckExact(plain)) {
        return push(walk, WALK_TUPLE, value, plain, COG_EXT_TUPLE, false);
    }
    return walk_one(walk, plain);
}

/* The hook answers (None, what to store instead), (code, payload bytes) or (code, list to store
 * inside the extension). */
static int walk_hooked(struct walk *walk, PyObject *value)
{
    PyObject *answer = PyObject_CallOneArg(walk->state->hook_encode, value);

    if (answer == NULL) {
        return refuse_again(walk);
    }
    if (!PyTuple_CheckExact(answer) || PyTuple_GET_SIZE(answer) != 2) {
        Py_DECREF(answer);
        PyErr_SetString(PyExc_SystemError, "codecs.encode must return a pair");
        return -1;
    }
    PyObject *code = PyTuple_GET_ITEM(answer, 0), *payload = PyTuple_GET_ITEM(answer, 1);
    int result;

    if (code == Py_None) {
        result = walk_stand_in(walk, value, payload);
    } else {
        long ext = PyLong_AsLong(code);

        if (ext == COG_EXT_BUNDLE && walk->count > 0) {
            result = refuse(walk, PyUnicode_FromString("frames inside a value; they are one"));
        } else if (ext < 0 || ext > 127) {
            PyErr_SetString(PyExc_SystemError, "codecs.encode: no such extension code");
            result = -1;
        } else if (PyBytes_CheckExact(payload)) {
            result = check(cog_mp_ext(walk->doc, (int8_t)ext, PyBytes_AS_STRING(payload),
                                      (size_t)PyBytes_GET_SIZE(payload)));
        } else if (PyList_CheckExact(payload)) {
            result = push(walk, WALK_LIST, value, payload, (int)ext, true);
        } else {
            PyErr_SetString(PyExc_SystemError, "codecs.encode: a payload is bytes or a list");
            result = -1;
        }
    }
    Py_DECREF(answer);
    return result;
}

static int load_hooks(struct cog_py_state *state)
{
    if (state->hook_encode != NULL) {
        return 0;
    }
    PyObject *module = PyImport_ImportModule("cogcache.codecs");

    if (module == NULL) {
        return -1;
    }
    state->hook_dtype_name = PyObject_GetAttrString(module, "dtype_name");
    state->frame_part_type = PyObject_GetAttrString(module, "FramePart");
    state->dtype_names = PyDict_New();
    if (state->hook_dtype_name != NULL && state->frame_part_type != NULL &&
        state->dtype_names != NULL) {
        state->hook_encode = PyObject_GetAttrString(module, "encode");
    }
    Py_DECREF(module);
    if (state->hook_encode == NULL) {
        Py_CLEAR(state->hook_dtype_name);
        Py_CLEAR(state->frame_part_type);
        Py_CLEAR(state->dtype_names);
        return -1;
    }
    return 0;
}

/* Find numpy.ndarray if numpy was imported by somebody; who has an array has imported it. */
static int find_ndarray(struct cog_py_state *state)
{
    if (state->ndarray_type != NULL) {
        return 0;
    }
    PyObject *name = PyUnicode_FromString("numpy");
    PyObject *module = name != NULL ? PyImport_GetModule(name) : NULL;

    Py_XDECREF(name);
    if (module != NULL) {
        state->ndarray_type = PyObject_GetAttrString(module, "ndarray");
        Py_DECREF(module);
        PyErr_Clear(); /* a half-imported numpy has no arrays yet */
    }
    return PyErr_Occurred() ? -1 : 0;
}

static int walk_other(struct walk *walk, PyObject *value)
{
    struct cog_py_state *state = walk->state;

    if (walk->draft == NULL) {
        return refuse(walk, PyUnicode_FromFormat("%s cannot be stored here; None, bool, int, "
                                                 "float, str, bytes, list, tuple and dict can",
                                                 Py_TYPE(value)->tp_name));
    }
    if (load_hooks(state) < 0 || find_ndarray(state) < 0) {
        return -1;
    }
    if ((PyObject *)Py_TYPE(value) == state->ndarray_type) {
        return walk_array(walk, value);
    }
    if ((PyObject *)Py_TYPE(value) == state->frame_part_type) {
        return walk_frame_part(walk, value);
    }
    return walk_hooked(walk, value);
}

/* --- the walk itself ------------------------------------------------------------------------- */

static int walk_set(struct walk *walk, PyObject *value, int ext)
{
    if (walk->draft == NULL) {
        return walk_other(walk, value);
    }
    PyObject *items = PySequence_List(value);

    if (items == NULL) {
        return -1;
    }
    int result = push(walk, WALK_SET, value, items, ext, false);

    Py_DECREF(items);
    return result;
}

/* Write a scalar whole, or the head of a container and push its frame. */
static int walk_one(struct walk *walk, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);

    if (type == &PyUnicode_Type) {
        return walk_str(walk, value);
    }
    if (type == &PyLong_Type) {
        return walk_int(walk, value);
    }
    if (type == &PyFloat_Type) {
        return check(cog_mp_float(walk->doc, PyFloat_AS_DOUBLE(value)));
    }
    if (type == &PyDict_Type) {
        return push(walk, WALK_DICT, value, value, NO_EXT, false);
    }
    if (type == &PyList_Type) {
        return push(walk, WALK_LIST, value, value, NO_EXT, false);
    }
    if (value == Py_None) {
        return check(cog_mp_nil(walk->doc));
    }
    if (type == &PyBool_Type) {
        return check(cog_mp_bool(walk->doc, value == Py_True));
    }
    if (type == &PyTuple_Type) {
        return push(walk, WALK_TUPLE, value, value, walk->draft != NULL ? COG_EXT_TUPLE : NO_EXT,
                    false);
    }
    if (type == &PyBytes_Type) {
        return walk_bytes(walk, value);
    }
    if (type == &PyByteArray_Type && walk->draft != NULL) {
        return walk_bytearray(walk, value);
    }
    if (type == &PySet_Type) {
        return walk_set(walk, value, COG_EXT_SET);
    }
    if (type == &PyFrozenSet_Type) {
        return walk_set(walk, value, COG_EXT_FROZENSET);
    }
    return walk_other(walk, value);
}

static bool is_key_scalar(PyObject *key)
{
    return PyUnicode_Check(key) || PyLong_Check(key) || key == Py_None || PyFloat_Check(key) ||
           PyBytes_Check(key);
}

static int refuse_key(const struct walk *walk, PyObject *key)
{
    const char *hint = PyObject_HasAttrString(key, "item")    ? "; use .item()"
                       : PyObject_HasAttrString(key, "value") ? "; use .value"
                                                              : "";

    return refuse(walk,
                  PyUnicode_FromFormat(
                      "%s as a key; str, bytes, int, float, bool, None and tuples of these can "
                      "be keys%s",
                      Py_TYPE(key)->tp_name, hint));
}

/* A NaN under this key of the innermost map. */
static void count_nan(struct walk *walk, PyObject *key)
{
    if (PyFloat_Check(key) && PyFloat_AS_DOUBLE(key) != PyFloat_AS_DOUBLE(key)) {
        size_t i = walk->count;

        while (i-- > 0 && walk->stack[i].kind != WALK_DICT) {
        }
        walk->stack[i].nan_keys++;
    }
}

/* A key of a map, or an item of a tuple that is one. A tuple is pushed, everything else written
 * whole. */
static int walk_key(struct walk *walk, PyObject *key)
{
    if (is_key_scalar(key)) {
        count_nan(walk, key);
        walk->inline_only++;
        int result = walk_one(walk, key);

        walk->inline_only--;
        return result;
    }
    if (!PyTuple_CheckExact(key) || walk->draft == NULL) {
        return refuse_key(walk, key);
    }
    if (push(walk, WALK_TUPLE, key, key, COG_EXT_TUPLE, false) < 0) {
        return -1;
    }
    walk->stack[walk->count - 1].is_key = true;
    walk->inline_only++;
    return 0;
}

static int changed(void)
{
    PyErr_SetString(PyExc_RuntimeError, "the value changed while it was being stored");
    return -1;
}

static int step_dict(struct walk *walk, struct walk_frame *frame)
{
    PyObject *value = frame->value;

    if (value == NULL) {
        PyObject *key;

        if (PyDict_GET_SIZE(frame->container) != frame->size) {
            return changed();
        }
        if (!PyDict_Next(frame->container, &frame->at, &key, &value)) {
            return frame->done == frame->size ? pop(walk) : changed();
        }
        if (frame->done++ == frame->size) {
            return changed();
        }
        Py_XSETREF(frame->key, Py_NewRef(key));
        frame->value = Py_NewRef(value);
        size_t level = walk->count;

        if (walk_key(walk, key) < 0) {
            return -1;
        }
        if (walk->count != level) {
            return 0; /* the key is a tuple; its items come first */
        }
        frame = &walk->stack[level - 1]; /* hooks may have moved the stack */
    }
    value = frame->value;
    frame->value = NULL;
    int result = walk_one(walk, value);

    Py_DECREF(value);
    return result;
}

static int step_items(struct walk *walk, struct walk_frame *frame)
{
    bool is_tuple = frame->kind == WALK_TUPLE;

    if ((is_tuple ? PyTuple_GET_SIZE(frame->container) : PyList_GET_SIZE(frame->container)) !=
        frame->size) {
        return changed();
    }
    if (frame->at == frame->size) {
        return pop(walk);
    }
    PyObject *item = is_tuple ? PyTuple_GET_ITEM(frame->container, frame->at)
                              : PyList_GET_ITEM(frame->container, frame->at);

    if (frame->kind == WALK_SET) {
        frame->starts[frame->at] = walk->doc->size;
    }
    frame->at++;
    Py_INCREF(item);
    int result = frame->is_key ? walk_key(walk, item) : walk_one(walk, item);

    Py_DECREF(item);
    return result;
}

static int run(struct walk *walk, PyObject *value)
{
    int result = walk_one(walk, value);

    while (result == 0 && walk->count > 0) {
        struct walk_frame *frame = &walk->stack[walk->count - 1];

        result = frame->kind == WALK_DICT ? step_dict(walk, frame) : step_items(walk, frame);
    }
    if (result == 0 && walk->draft != NULL && walk->doc->size > COG_DOCUMENT_LIMIT) {
        result = refuse(walk, PyUnicode_FromString(
                                  "a document over 1 GiB; use arrays or bytes for what is large"));
    }
    while (walk->count > 0) {
        drop_frame(&walk->stack[--walk->count]);
    }
    cog_free(walk->stack);
    return result;
}

/* Parts lie in the file as arrays, blobs, frames, each in document order: now the numbers are
 * known. */
static void number_parts(struct cog_draft *draft)
{
    static const uint8_t kinds[] = {COG_PART_ARRAY, COG_PART_BLOB, COG_PART_FRAME};
    uint32_t number = 0;

    for (size_t k = 0; k < sizeof kinds; k++) {
        for (size_t i = 0; i < draft->part_count; i++) {
            if (draft->parts[i].kind == kinds[k]) {
                cog_store_le32(draft->doc.data + draft->parts[i].patch_at, number++);
            }
        }
    }
}

int cog_walk_value(struct cog_py_state *state, PyObject *value, struct cog_draft *draft,
                   struct cog_holds *holds)
{
    struct walk walk = {.state = state,
                        .doc = &draft->doc,
                        .draft = draft,
                        .holds = holds,
                        .max_depth = COG_VALUE_DEPTH,
                        .root = "$"};

    if (run(&walk, value) < 0) {
        return -1;
    }
    draft->raw_bytes += draft->doc.size;
    number_parts(draft);
    return 0;
}

int cog_walk_plain(struct cog_py_state *state, PyObject *value, struct cog_buf *out)
{
    struct walk walk = {.state = state, .doc = out, .max_depth = COG_VALUE_DEPTH, .root = "$"};

    return run(&walk, value);
}

int cog_walk_meta(struct cog_py_state *state, PyObject *meta, struct cog_buf *out)
{
    struct walk walk = {.state = state,
                        .doc = out,
                        .max_depth = COG_META_DEPTH,
                        .root = "metadata",
                        .name_of = cog_meta_name};

    return run(&walk, meta);
}
