/*
 * The hit on the loop's own thread: never blocks, keeps the GIL (giving it up for 3 us beside a
 * busy Python thread costs 5 ms), and leaves to the pool what would take over about 50 us.
 */
#include "python/py_store.h"

#include <time.h>

#include "python/py_entry_jobs.h"

/* How long get_values() may hold the loop before it returns what it has. */
enum { BATCH_NANOSECONDS = 200000 };

/* A longer frame takes too long to copy and check here. */
enum { FRAME_BYTES = 256 << 10 };

/* --- the inline hit ------------------------------------------------------------------------ */

/* What get_value() has in hand: the value, or `slow` also for what is wrong with the value. */
static PyObject *decode_inline(struct cog_py_state *state, struct cog_py_store *store,
                               struct cog_object *object, PyObject *slow)
{
    struct cog_load load = {.mode = COG_MODE_COW, .no_lending = true, .object = object};
    PyObject *entry = NULL;
    PyObject *value = NULL;
    size_t size;

    if (cog_object_is_mapped(object)) {
        entry = cog_py_entry_from_object(state, object, (PyObject *)store, cog_py_store_on_damage);
        if (entry == NULL || cog_py_entry_load(entry, COG_MODE_COW, &load) < 0) {
            Py_XDECREF(entry);
            return NULL;
        }
    } else {
        load.entry = cog_object_entry(object);
        load.source = cog_object_source(object);
        load.image = cog_object_image(object, &size);
    }
    value = cog_py_load_inline(state, &load, entry, Py_True, slow);
    if (value == NULL && (PyErr_ExceptionMatches(state->damaged_error) ||
                          PyErr_ExceptionMatches(state->unsupported_error))) {
        PyErr_Clear(); /* for the blocking way to look into, count and report */
        value = Py_NewRef(slow);
    }
    cog_load_release(&load);
    if (entry != NULL) {
        Py_DECREF(entry);
    } else {
        cog_object_free(object);
    }
    return value;
}

PyObject *cog_py_store_fetch_now(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    struct cog_object *object = NULL;
    enum cog_miss miss = COG_MISS_NONE;
    enum cog_status status;
    unsigned long flags = count > 1 ? PyLong_AsUnsignedLong(args[1]) : 0;

    if (count < 1 || count > 2 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "fetch_now(key, flags=0): key is bytes");
        return NULL;
    }
    if (PyErr_Occurred() || cog_py_store_check(store) < 0) {
        return NULL;
    }
    status = cog_store_get(store->handle, PyBytes_AS_STRING(args[0]),
                           (size_t)PyBytes_GET_SIZE(args[0]), (unsigned)flags | COG_GET_NOWAIT,
                           &object, &miss, NULL);
    if (status == COG_OK || (status == COG_ABSENT && miss != COG_MISS_UNAVAILABLE)) {
        return cog_py_store_outcome(store, status, object, miss);
    }
    Py_RETURN_NONE;
}

static PyObject *get_value(struct cog_py_state *state, struct cog_py_store *store, PyObject *key,
                           PyObject *miss, PyObject *slow)
{
    struct cog_object *object = NULL;
    enum cog_miss why = COG_MISS_NONE;
    enum cog_status status;
    PyObject *value;

    if (!PyBytes_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a key is bytes, not %s", Py_TYPE(key)->tp_name);
        return NULL;
    }
    status = cog_store_get(store->handle, PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key),
                           COG_GET_NOWAIT, &object, &why, NULL);
    if (status == COG_ABSENT && why != COG_MISS_UNAVAILABLE) {
        store->value_misses++;
        return Py_NewRef(miss);
    }
    if (status != COG_OK) {
        store->value_slow++;
        return Py_NewRef(slow);
    }
    value = decode_inline(state, store, object, slow);
    if (value == slow) {
        store->value_slow++;
    } else if (value != NULL) {
        store->value_hits++;
    }
    return value;
}

PyObject *cog_py_store_get_value(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(self));
    PyObject *value;

    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "get_value(key, miss, slow) takes three arguments");
        return NULL;
    }
    if (state == NULL || cog_py_store_check(store) < 0) {
        return NULL;
    }
    cog_py_store_hold(store); /* building a value may run code that closes the store */
    value = get_value(state, store, args[0], args[1], args[2]);
    cog_py_store_drop(store);
    return value;
}

static int64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* get_value() of keys[start:], as many as the time allows; the list may change while values are
 * built. */
static PyObject *get_values(struct cog_py_state *state, struct cog_py_store *store, PyObject *keys,
                            Py_ssize_t start, PyObject *miss, PyObject *slow)
{
    int64_t until = monotonic_ns() + BATCH_NANOSECONDS;
    PyObject *values = PyList_New(0);

    for (Py_ssize_t i = start; values != NULL && i < PySequence_Fast_GET_SIZE(keys); i++) {
        PyObject *key = Py_NewRef(PySequence_Fast_GET_ITEM(keys, i));
        PyObject *value = get_value(state, store, key, miss, slow);

        Py_DECREF(key);
        if (value == NULL || PyList_Append(values, value) < 0) {
            Py_CLEAR(values);
        }
        Py_XDECREF(value);
        if (values != NULL && monotonic_ns() >= until) {
            break;
        }
    }
    return values;
}

PyObject *cog_py_store_get_values(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(self));
    Py_ssize_t start = count == 4 ? PyLong_AsSsize_t(args[3]) : 0;
    PyObject *values = NULL;

    if (count < 3 || count > 4) {
        PyErr_SetString(PyExc_TypeError,
                        "get_values(keys, miss, slow, start=0) takes three or four arguments");
        return NULL;
    }
    if ((start == -1 && PyErr_Occurred()) || state == NULL || cog_py_store_check(store) < 0) {
        return NULL;
    }
    if (start < 0) {
        PyErr_SetString(PyExc_ValueError, "start: not below 0");
        return NULL;
    }
    PyObject *keys = PySequence_Fast(args[0], "keys: a sequence of bytes is needed");

    if (keys != NULL) {
        cog_py_store_hold(store);
        values = get_values(state, store, keys, start, args[1], args[2]);
        cog_py_store_drop(store);
        Py_DECREF(keys);
    }
    return values;
}

/* The frame as bytes, or NULL without an exception: to be looked for in the blocking way. */
static PyObject *read_frame(const struct cog_object *object, const char *name, size_t size)
{
    const struct cog_entry *entry = cog_object_entry(object);
    struct cog_error err = {0};
    struct cog_part part;
    uint32_t number;

    if (cog_entry_find(entry, COG_PART_FRAME, name, size, &number) != COG_OK ||
        cog_entry_part(entry, number, &part) != COG_OK || part.raw_size > FRAME_BYTES) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)part.raw_size);

    if (bytes == NULL) {
        PyErr_Clear();
    } else if (cog_object_read_now(object, number, PyBytes_AS_STRING(bytes), &err) != COG_OK) {
        Py_CLEAR(bytes);
    }
    return bytes;
}

/* No identity of a source is compared here: the caller has done it for the write of this token. */
PyObject *cog_py_store_get_frame(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    struct cog_object *object = NULL;
    PyObject *bytes = NULL;
    Py_ssize_t size;

    if (count != 4 || !PyBytes_Check(args[0]) || !PyUnicode_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "get_frame(key, token, name, slow): key is bytes and name is str");
        return NULL;
    }
    unsigned long long token = PyLong_AsUnsignedLongLong(args[1]);

    if ((token == (unsigned long long)-1 && PyErr_Occurred()) || cog_py_store_check(store) < 0) {
        return NULL;
    }
    const char *name = PyUnicode_AsUTF8AndSize(args[2], &size);
    PyObject *answer = args[3];

    if (name == NULL) { /* a surrogate: no part has such a name */
        PyErr_Clear();
        return Py_NewRef(answer);
    }
    if (cog_store_get(store->handle, PyBytes_AS_STRING(args[0]), (size_t)PyBytes_GET_SIZE(args[0]),
                      COG_GET_NOWAIT | COG_GET_INDEX_ONLY | COG_GET_NO_MAP, &object, NULL,
                      NULL) == COG_OK) {
        if (cog_entry_token(cog_object_entry(object)) == token) {
            bytes = read_frame(object, name, (size_t)size);
        } else {
            answer = Py_None;
        }
        cog_object_free(object);
    }
    if (bytes == NULL) {
        return Py_NewRef(answer);
    }
    store->value_hits++;
    return bytes;
}
