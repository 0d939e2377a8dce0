/* Plain documents for Python, the verdicts on stored bytes, and what all of the value code keeps.
 */
#include "python/py_value.h"

#include <errno.h>

#include "core/alloc.h"

static PyObject *py_pack(PyObject *module, PyObject *value)
{
    struct cog_buf out = {0};
    PyObject *bytes = NULL;

    if (cog_walk_plain(cog_py_state_of(module), value, &out) == 0) {
        bytes = PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.size);
    }
    cog_buf_release(&out);
    return bytes;
}

static PyObject *py_unpack(PyObject *module, PyObject *data)
{
    Py_buffer view;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *value = cog_build_plain(cog_py_state_of(module), view.buf, (size_t)view.len);

    PyBuffer_Release(&view);
    return value;
}

PyObject *cog_py_raise_entry(struct cog_py_state *state, enum cog_status status, const char *reason,
                             const struct cog_error *err)
{
    const char *text = err != NULL && err->text[0] != '\0' ? err->text : cog_status_text(status);

    if (PyErr_Occurred()) {
        return NULL; /* a read function of Python's has said it better */
    }
    switch (status) {
    case COG_ERR_NOMEM: return PyErr_NoMemory();
    case COG_ERR_DAMAGED: PyErr_SetString(state->damaged_error, text); return NULL;
    case COG_ERR_FOREIGN: PyErr_SetString(state->foreign_error, text); return NULL;
    case COG_ERR_UNSUPPORTED: {
        PyObject *arguments = Py_BuildValue("(ss)", reason != NULL ? reason : "unsupported-part",
                                            text);

        if (arguments != NULL) {
            PyErr_SetObject(state->unsupported_error, arguments);
            Py_DECREF(arguments);
        }
        return NULL;
    }
    case COG_ERR_INVALID:
    case COG_ERR_LIMIT: PyErr_SetString(PyExc_ValueError, text); return NULL;
    default: {
        PyObject *arguments = Py_BuildValue("(is)",
                                            err != NULL && err->sys_errno ? err->sys_errno : EIO,
                                            text);

        if (arguments != NULL) {
            PyErr_SetObject(PyExc_OSError, arguments);
            Py_DECREF(arguments);
        }
        return NULL;
    }
    }
}

static PyMethodDef value_functions[] = {
    {"pack", py_pack, METH_O,
     PyDoc_STR("pack($module, value, /)\n--\n\nPlain msgpack of None, bool, int, float, str, "
               "bytes, list, tuple and dict.")},
    {"unpack", py_unpack, METH_O,
     PyDoc_STR("unpack($module, data, /)\n--\n\nThe value of a plain msgpack document.")},
    {NULL, NULL, 0, NULL},
};

static PyObject *add_error(PyObject *module, const char *name, const char *doc)
{
    PyObject *error = PyErr_NewExceptionWithDoc(name, doc, NULL, NULL);

    if (error != NULL && PyModule_AddType(module, (PyTypeObject *)error) < 0) {
        Py_CLEAR(error);
    }
    return error;
}

int cog_py_add_value(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->damaged_error = add_error(module, "cogcache._core.DamagedError",
                                     "The bytes fail a checksum or a rule of the format.");
    state->foreign_error = add_error(module, "cogcache._core.ForeignError",
                                     "Another key or another major version: a plain miss.");
    state->unsupported_error = add_error(
        module, "cogcache._core.UnsupportedError",
        "The value or part needs something that this build or process does not know; "
        "args[0] is the reason word.");
    state->dtypes = PyDict_New();
    state->key_cache = PyList_New(COG_KEY_CACHE);
    if (state->damaged_error == NULL || state->foreign_error == NULL ||
        state->unsupported_error == NULL || state->dtypes == NULL || state->key_cache == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < COG_KEY_CACHE; i++) {
        PyList_SET_ITEM(state->key_cache, i, Py_NewRef(Py_None));
    }
    return PyModule_AddFunctions(module, value_functions);
}
