/* What py_key.c (the encoding of a key) and py_key_base.c (the object) share. */
#ifndef COG_PY_KEY_H
#define COG_PY_KEY_H

#include "python/py_module.h"

/*
 * The canonical encoding of profile, source, artifact and parameters, which are `fields[0]` to
 * `fields[3]`; NULL with an exception set. `*folded`: a new dict of the values that are in it as
 * digests, or NULL where there are none.
 */
PyObject *cog_py_encode_key(PyObject *const *fields, PyObject **folded);
/* Is it of this type of a module, where that was imported? 1, 0, or -1 with an exception set. */
int cog_py_is_instance(PyObject *value, const char *module_name, const char *name);
int cog_py_add_key_base(PyObject *module);

#endif
