/*
 * Blocking work for Python: one description of an operation serves the calling thread (the GIL
 * released) and the thread pool (its result delivered to a future through a Channel).
 *
 * A worker never takes the GIL. What needs it happens before (`parse`) and after (`finish`), on the
 * thread of the event loop. A Channel belongs to one loop: its descriptor is readable while results
 * wait there, and drain() hands them to their futures.
 */
#ifndef COG_PY_CHANNEL_H
#define COG_PY_CHANNEL_H

#include "python/py_module.h"

#include <stdbool.h>

#include "core/pool.h"

struct cog_py_channel;
struct cog_py_job;

struct cog_py_operation {
    const char *name;
    enum cog_lane lane;
    size_t job_size; /* of a struct that begins with struct cog_py_job */
    /* GIL. Take from the arguments what `run` needs. 0, or -1 with an exception; then no release.
     */
    int (*parse)(struct cog_py_job *job, PyObject *args, PyObject *kwargs);
    /* No GIL. Fills the job with the outcome. */
    void (*run)(struct cog_py_job *job);
    /* GIL. A new reference, or NULL with an exception, or NULL with `*again` set: run once more. */
    PyObject *(*finish)(struct cog_py_job *job, bool *again);
    /* GIL. Let go of all that the job holds; also when it never ran. */
    void (*release)(struct cog_py_job *job);
};

struct cog_py_job {
    struct cog_job job; /* first: the pool knows only this */
    const struct cog_py_operation *operation;
    PyObject *self;                 /* what the operation is a method of; a reference */
    PyObject *future;               /* a reference; NULL: nobody waits */
    struct cog_py_channel *channel; /* whose list it is on; NULL: none */
    struct cog_py_job *previous;
    struct cog_py_job *next;
};

/* Run `operation` in this thread, the GIL released. The result, or NULL with an exception set. */
PyObject *cog_py_call(const struct cog_py_operation *operation, PyObject *self, PyObject *args,
                      PyObject *kwargs);

/*
 * Hand `operation` to the pool. Its result or exception goes to `future` (asyncio.Future or alike)
 * through `channel`; both None: nobody waits. 0, or -1 with an exception set: nothing happened.
 */
int cog_py_submit(const struct cog_py_operation *operation, PyObject *self, PyObject *channel,
                  PyObject *future, PyObject *args, PyObject *kwargs);

/*
 * The method submit(channel, future, operation, *args, **kwargs): finds the operation by its name
 * in a list that ends with NULL. None, or NULL with an exception set.
 */
PyObject *cog_py_submit_named(const struct cog_py_operation *const *operations, PyObject *self,
                              PyObject *args, PyObject *kwargs);

/*
 * Wait until no job that works on `owner` waits or runs (NULL: no read or write at all), at most so
 * many seconds; True if that is so. Signals end it: NULL with the exception set.
 */
PyObject *cog_py_await_quiet(PyObject *owner, PyObject *seconds);

/* Set an exception of the class `name` of cogcache.exceptions; returns NULL. */
PyObject *cog_py_raise_ours(const char *name, const char *format, ...);

int cog_py_add_channel(PyObject *module);

#endif
