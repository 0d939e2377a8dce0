/*
 * XXH3 for Python: one call for what is in memory, `Hasher128` for what comes in pieces.
 */
#include "python/py_module.h"

#include "core/hash.h"

/* 64 KiB take about 2 us; below that, giving the GIL back and fighting for it costs more than it
 * frees. */
enum { RELEASE_GIL_SIZE = 64 * 1024 };

static PyObject *py_hash128(PyObject *Py_UNUSED(module), PyObject *data)
{
    Py_buffer view;
    struct cog_digest digest;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (view.len >= RELEASE_GIL_SIZE) {
        Py_BEGIN_ALLOW_THREADS cog_hash128(view.buf, (size_t)view.len, &digest);
        Py_END_ALLOW_THREADS
    } else {
        cog_hash128(view.buf, (size_t)view.len, &digest);
    }
    PyBuffer_Release(&view);
    return PyBytes_FromStringAndSize((const char *)digest.bytes, sizeof digest.bytes);
}

static PyObject *py_hash64(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "seed", NULL};
    Py_buffer view;
    PyObject *seed_object = NULL;
    uint64_t seed = 0;
    uint64_t hash;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|O!:hash64", names, &view, &PyLong_Type,
                                     &seed_object)) {
        return NULL;
    }
    if (seed_object != NULL) {
        seed = PyLong_AsUnsignedLongLong(seed_object);
        if (seed == UINT64_MAX && PyErr_Occurred()) {
            PyBuffer_Release(&view);
            return NULL;
        }
    }
    Py_BEGIN_ALLOW_THREADS hash = cog_hash64(view.buf, (size_t)view.len, seed);
    Py_END_ALLOW_THREADS PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(hash);
}

/* The lock is ours, not the GIL, since a long update lets the GIL go. */
struct py_hasher {
    PyObject_HEAD struct cog_hasher *hasher;
    PyThread_type_lock lock;
};

static void hasher_dealloc(PyObject *self)
{
    struct py_hasher *object = (struct py_hasher *)self;
    PyTypeObject *type = Py_TYPE(self);

    cog_hasher_free(object->hasher);
    if (object->lock != NULL) {
        PyThread_free_lock(object->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *hasher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    struct py_hasher *object;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Hasher128", names)) {
        return NULL;
    }
    object = (struct py_hasher *)type->tp_alloc(type, 0);
    if (object == NULL) {
        return NULL;
    }
    object->lock = PyThread_allocate_lock();
    if (object->lock == NULL || cog_hasher_new(&object->hasher) != COG_OK) {
        Py_DECREF(object);
        return PyErr_NoMemory();
    }
    return (PyObject *)object;
}

static void hasher_acquire(struct py_hasher *object)
{
    if (!PyThread_acquire_lock(object->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS(void) PyThread_acquire_lock(object->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
}

static PyObject *hasher_update(PyObject *self, PyObject *data)
{
    struct py_hasher *object = (struct py_hasher *)self;
    Py_buffer view;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    hasher_acquire(object);
    if (view.len >= RELEASE_GIL_SIZE) {
        Py_BEGIN_ALLOW_THREADS cog_hasher_update(object->hasher, view.buf, (size_t)view.len);
        Py_END_ALLOW_THREADS
    } else {
        cog_hasher_update(object->hasher, view.buf, (size_t)view.len);
    }
    PyThread_release_lock(object->lock);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *hasher_digest(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct py_hasher *object = (struct py_hasher *)self;
    struct cog_digest digest;

    hasher_acquire(object);
    cog_hasher_digest(object->hasher, &digest);
    PyThread_release_lock(object->lock);
    return PyBytes_FromStringAndSize((const char *)digest.bytes, sizeof digest.bytes);
}

static PyMethodDef hasher_methods[] = {
    {"update", hasher_update, METH_O, PyDoc_STR("update($self, data, /)\n--\n\nAdd bytes.")},
    {"digest", hasher_digest, METH_NOARGS,
     PyDoc_STR("digest($self, /)\n--\n\nThe 16 bytes for what was added so far; more may follow.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hasher_slots[] = {
    {Py_tp_doc,
     (void *)PyDoc_STR("XXH3-128 of bytes that come in pieces. Safe to share between threads.")},
    {Py_tp_new, hasher_new},
    {Py_tp_dealloc, hasher_dealloc},
    {Py_tp_methods, hasher_methods},
    {0, NULL},
};

static PyType_Spec hasher_spec = {
    .name = "cogcache._core.Hasher128",
    .basicsize = sizeof(struct py_hasher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hasher_slots,
};

static PyMethodDef hash_functions[] = {
    {"hash128", py_hash128, METH_O,
     PyDoc_STR("hash128($module, data, /)\n--\n\nXXH3-128 of a buffer: 16 canonical (big-endian) "
               "bytes.")},
    {"hash64", (PyCFunction)(void (*)(void))py_hash64, METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("hash64($module, data, seed=0)\n--\n\nXXH3-64 of a buffer.")},
    {NULL, NULL, 0, NULL},
};

int cog_py_add_hash(PyObject *module)
{
    PyObject *type;
    int result;

    if (PyModule_AddFunctions(module, hash_functions) < 0) {
        return -1;
    }
    type = PyType_FromModuleAndSpec(module, &hasher_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}
