/*
 * KeyBase: the fields of a cogcache.keys.Key, and what is done with a key all the time: making one,
 * comparing, hashing. Everything else is in Python, in the one subclass.
 */
#include "python/py_key.h"

#include <structmember.h>

struct key_base {
    PyObject_HEAD PyObject *profile, *source, *artifact, *text, *encoded, *origin;
    PyObject *folded; /* NULL where nothing is folded */
};

static struct key_base *base_of(PyObject *object)
{
    return (struct key_base *)object;
}

/* --- making one ------------------------------------------------------------------------------ */

/* The 16 bytes of a source, new; `*origin` borrowed, or None. NULL with an exception set. */
static PyObject *take_source(PyObject *source, PyObject **origin)
{
    PyObject *fingerprint;

    *origin = Py_None;
    if (PyBytes_Check(source)) {
        return Py_NewRef(source);
    }
    fingerprint = PyObject_GetAttrString(source, "fingerprint");
    if (fingerprint == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return NULL;
    }
    if (fingerprint == NULL || !PyBytes_Check(fingerprint)) {
        PyErr_Clear();
        Py_XDECREF(fingerprint);
        return PyErr_Format(PyExc_TypeError, "source is a SourceRef or 16 bytes, not %s",
                            Py_TYPE(source)->tp_name);
    }
    *origin = source;
    return fingerprint;
}

/* The parameters as a mapping, new. NULL with an exception set. */
static PyObject *take_params(PyObject *params)
{
    int is_mapping;

    if (params == Py_None) {
        return PyDict_New();
    }
    if (PyDict_Check(params)) {
        return Py_NewRef(params);
    }
    is_mapping = cog_py_is_instance(params, "collections.abc", "Mapping");
    if (is_mapping == 0) {
        PyErr_Format(PyExc_TypeError, "params is a mapping, not %s", Py_TYPE(params)->tp_name);
    }
    return is_mapping > 0 ? Py_NewRef(params) : NULL;
}

static PyObject *make_key(PyTypeObject *type, PyObject *profile, PyObject *source,
                          PyObject *artifact, PyObject *params)
{
    PyObject *origin = NULL, *folded = NULL, *object = NULL;
    PyObject *fields[4] = {0};

    fields[0] = profile == Py_None ? PyUnicode_New(0, 0) : Py_NewRef(profile);
    fields[1] = fields[0] != NULL ? take_source(source, &origin) : NULL;
    fields[2] = Py_NewRef(artifact);
    fields[3] = fields[1] != NULL ? take_params(params) : NULL;
    PyObject *encoded = fields[3] != NULL ? cog_py_encode_key(fields, &folded) : NULL;

    if (encoded != NULL) {
        object = type->tp_alloc(type, 0);
    }
    if (object != NULL) {
        struct key_base *self = base_of(object);

        self->profile = Py_NewRef(fields[0]);
        self->source = Py_NewRef(fields[1]);
        self->artifact = Py_NewRef(fields[2]);
        self->text = Py_NewRef(Py_None);
        self->encoded = Py_NewRef(encoded);
        self->origin = Py_NewRef(origin);
        self->folded = Py_XNewRef(folded);
    }
    Py_XDECREF(encoded);
    Py_XDECREF(folded);
    for (size_t i = 0; i < 4; i++) {
        Py_XDECREF(fields[i]);
    }
    return object;
}

static PyObject *key_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"profile", "source", "artifact", "params", NULL};
    PyObject *profile, *source, *artifact, *params = Py_None;
    Py_ssize_t count = PyTuple_GET_SIZE(args);

    if (kwargs == NULL && (count == 3 || count == 4)) { /* at a tenth of what parsing takes */
        profile = PyTuple_GET_ITEM(args, 0);
        source = PyTuple_GET_ITEM(args, 1);
        artifact = PyTuple_GET_ITEM(args, 2);
        params = count == 4 ? PyTuple_GET_ITEM(args, 3) : Py_None;
    } else if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|O:Key", names, &profile, &source,
                                            &artifact, &params)) {
        return NULL;
    }
    return make_key(type, profile, source, artifact, params);
}

/* Key._of(profile, source, artifact, text, encoded, origin, folded): of what is known to fit. */
static PyObject *key_of(PyObject *type, PyObject *const *args, Py_ssize_t count)
{
    if (count != 7 || !PyBytes_Check(args[4]) || !PyDict_Check(args[6])) {
        PyErr_SetString(PyExc_TypeError, "_of takes seven fields");
        return NULL;
    }
    PyObject *object = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);

    if (object != NULL) {
        struct key_base *self = base_of(object);

        self->profile = Py_NewRef(args[0]);
        self->source = Py_NewRef(args[1]);
        self->artifact = Py_NewRef(args[2]);
        self->text = Py_NewRef(args[3]);
        self->encoded = Py_NewRef(args[4]);
        self->origin = Py_NewRef(args[5]);
        self->folded = Py_NewRef(args[6]);
    }
    return object;
}

static void key_dealloc(PyObject *object)
{
    struct key_base *self = base_of(object);
    PyTypeObject *type = Py_TYPE(object);

    Py_XDECREF(self->profile);
    Py_XDECREF(self->source);
    Py_XDECREF(self->artifact);
    Py_XDECREF(self->text);
    Py_XDECREF(self->encoded);
    Py_XDECREF(self->origin);
    Py_XDECREF(self->folded);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- the rest -------------------------------------------------------------------------------- */

static PyObject *key_folded(PyObject *object, void *Py_UNUSED(closure))
{
    PyObject *folded = base_of(object)->folded;

    return folded != NULL ? Py_NewRef(folded) : PyDict_New();
}

static Py_hash_t key_hash(PyObject *object)
{
    return PyObject_Hash(base_of(object)->encoded);
}

static PyObject *key_compare(PyObject *left, PyObject *right, int operation)
{
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(left));

    if (state == NULL) {
        return NULL;
    }
    if ((operation != Py_EQ && operation != Py_NE) ||
        !PyObject_TypeCheck(right, state->key_base_type)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return PyObject_RichCompare(base_of(left)->encoded, base_of(right)->encoded, operation);
}

static PyMemberDef key_members[] = {
    {"profile", T_OBJECT, offsetof(struct key_base, profile), READONLY, NULL},
    {"source", T_OBJECT, offsetof(struct key_base, source), READONLY, NULL},
    {"artifact", T_OBJECT, offsetof(struct key_base, artifact), READONLY, NULL},
    {"text", T_OBJECT, offsetof(struct key_base, text), READONLY, NULL},
    {"encoded", T_OBJECT, offsetof(struct key_base, encoded), READONLY, NULL},
    {"origin", T_OBJECT, offsetof(struct key_base, origin), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef key_getset[] = {
    {"_folded", key_folded, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef key_methods[] = {
    {"_of", (PyCFunction)(void (*)(void))key_of, METH_FASTCALL | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot key_slots[] = {
    {Py_tp_doc, "KeyBase(profile, source, artifact, params=None)\n--\n\nThe fields of a key."},
    {Py_tp_new, key_new},
    {Py_tp_dealloc, key_dealloc},
    {Py_tp_hash, key_hash},
    {Py_tp_richcompare, key_compare},
    {Py_tp_members, key_members},
    {Py_tp_getset, key_getset},
    {Py_tp_methods, key_methods},
    {0, NULL},
};

/* Without the garbage collector: no field of a key leads back to it. */
static PyType_Spec key_spec = {
    .name = "cogcache._core.KeyBase",
    .basicsize = sizeof(struct key_base),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = key_slots,
};

int cog_py_add_key_base(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->key_base_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &key_spec, NULL);
    return state->key_base_type != NULL ? PyModule_AddType(module, state->key_base_type) : -1;
}
