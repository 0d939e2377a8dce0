/*
 * The methods submit(channel, future, operation) of Draft ("compose") and Image ("tobytes"): their
 * methods of those names as jobs of the thread pool.
 */
#ifndef COG_PY_DRAFT_JOBS_H
#define COG_PY_DRAFT_JOBS_H

#include "python/py_channel.h"

PyObject *cog_py_draft_submit(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *cog_py_image_submit(PyObject *self, PyObject *args, PyObject *kwargs);

#endif
