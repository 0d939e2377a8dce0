/*
 * The extension module `cogcache._core`: its state and the list of what is in it.
 *
 * A family of functions or a type lives in one py_<thing>.c, which offers one function
 * `int cog_py_add_<thing>(PyObject *module)`: it adds its functions, types and constants to the
 * module and returns 0, or -1 with an exception set. Declare it here and name it in the table in
 * py_module.c; nothing else has to know. Python objects that the family must find again go into
 * COG_PY_STATE, so that traversing and clearing cannot forget one.
 */
#ifndef COG_PY_MODULE_H
#define COG_PY_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Every object the module holds on to: X(C type, name). All are NULL until their adder sets them.
 */
#define COG_PY_STATE(X)            \
    X(PyTypeObject, key_base_type) \
    X(PyTypeObject, channel_type)  \
    X(PyTypeObject, store_type)    \
    X(PyTypeObject, listed_type)   \
    X(PyTypeObject, incoming_type) \
    X(PyObject, str_done)          \
    X(PyObject, str_set_result)    \
    X(PyObject, str_set_exception) \
    COG_PY_VALUE_STATE(X)

/* Of the value code; the hooks are functions and types of cogcache.codecs, on first need. */
#define COG_PY_VALUE_STATE(X)                                          \
    X(PyTypeObject, memory_type)                                       \
    X(PyTypeObject, draft_type)                                        \
    X(PyTypeObject, image_type)                                        \
    X(PyTypeObject, writer_type)                                       \
    X(PyTypeObject, entry_type)                                        \
    X(PyTypeObject, part_info_type)                                    \
    X(PyObject, damaged_error)                                         \
    X(PyObject, foreign_error)                                         \
    X(PyObject, unsupported_error)                                     \
    X(PyObject, key_cache)    /* list of str or None */                \
    X(PyObject, dtypes)       /* stored name -> numpy.dtype */         \
    X(PyObject, dtype_names)  /* numpy.dtype -> stored name */         \
    X(PyObject, ndarray_type) /* numpy's, once somebody imported it */ \
    X(PyObject, frame_part_type)                                       \
    X(PyObject, frame_ref_type)                                        \
    X(PyObject, hook_encode)                                           \
    X(PyObject, hook_decode)                                           \
    X(PyObject, hook_dtype_name)                                       \
    X(PyObject, hook_dtype_of)                                         \
    X(PyObject, hook_bundle) /* cogcache.frames.from_document */       \
    X(PyObject, hook_wanted) /* cogcache.frames.wanted_ids */

/* The module state; one per module object. Valid from exec until the module is freed. */
struct cog_py_state {
#define COG_PY_MEMBER(type, name) type *name;
    COG_PY_STATE(COG_PY_MEMBER)
#undef COG_PY_MEMBER
    char unused; /* an empty struct is not C11 */
};

/* The definition, for PyType_GetModuleByDef in slots that receive no defining class. */
extern struct PyModuleDef cog_py_module;

/* The state of `module`, which is `cogcache._core`. Borrowed; never NULL. */
struct cog_py_state *cog_py_state_of(PyObject *module);

/*
 * The state behind `type`, a heap type made with PyType_FromModuleAndSpec for this module, or a
 * subclass of one. Borrowed; NULL with TypeError set when `type` is not ours.
 */
struct cog_py_state *cog_py_state_of_type(PyTypeObject *type);

/* What each family adds; see its file. */
int cog_py_add_hash(PyObject *module);
int cog_py_add_key(PyObject *module);
int cog_py_add_channel(PyObject *module);
int cog_py_add_memory(PyObject *module);
int cog_py_add_value(PyObject *module);
int cog_py_add_draft(PyObject *module);
int cog_py_add_writer(PyObject *module);
int cog_py_add_entry(PyObject *module);
int cog_py_add_incoming(PyObject *module);
int cog_py_add_store(PyObject *module);

#endif
