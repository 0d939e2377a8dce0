/*
 * Reading an Entry without holding the loop: the same work as its methods value(), read(), verify()
 * and damage(), as jobs of the thread pool, and value_now(), which never waits.
 */
#ifndef COG_PY_ENTRY_JOBS_H
#define COG_PY_ENTRY_JOBS_H

#include "python/py_channel.h" /* first: Python.h chooses what the system headers offer */

#include "python/py_entry.h"

/*
 * The value that `load` describes, `slow` where it would take over about 50 us or might block, or
 * NULL with an exception set. `owner` is the Entry; NULL: there is none, and nothing may be lent.
 */
PyObject *cog_py_load_inline(struct cog_py_state *state, struct cog_load *load, PyObject *owner,
                             PyObject *frames, PyObject *slow);

/*
 * The options of value() and value_now(); `slow` is the first argument of the latter, or NULL. 0,
 * or -1 with an exception set.
 */
int cog_py_value_options(PyObject *args, PyObject *kwargs, PyObject **slow,
                         enum cog_value_mode *mode, unsigned long long *max_bytes,
                         PyObject **frames);

extern const struct cog_py_operation cog_py_op_damage;

/* Methods of Entry: submit(channel, future, operation, ...), value_now(slow, ...) and
 * damage(first=0, stop=None). */
PyObject *cog_py_entry_damage(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *cog_py_entry_submit(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *cog_py_entry_value_now(PyObject *self, PyObject *args, PyObject *kwargs);

#endif
