#include "python/py_channel.h"

#include <stdarg.h>
#include <time.h>

/*
 * How long one drain() may hold the loop before the rest waits for the loop's next round. A single
 * result is never cut short: building the caller's own document takes what it takes.
 */
enum { DRAIN_NANOSECONDS = 2000000 };

struct cog_py_channel {
    PyObject_HEAD struct cog_queue *queue; /* NULL: closed */
    struct cog_py_job *first;              /* submitted and not yet delivered, oldest first */
    struct cog_py_job *last;
    Py_ssize_t pending;
};

/* --- jobs on their channel's list; all of it under the GIL ------------------------------------ */

static void attach(struct cog_py_channel *channel, struct cog_py_job *job)
{
    job->channel = channel;
    job->next = NULL;
    job->previous = channel->last;
    if (channel->last != NULL) {
        channel->last->next = job;
    } else {
        channel->first = job;
    }
    channel->last = job;
    channel->pending++;
}

static void detach(struct cog_py_job *job)
{
    struct cog_py_channel *channel = job->channel;

    if (channel == NULL) {
        return;
    }
    if (job->previous != NULL) {
        job->previous->next = job->next;
    } else {
        channel->first = job->next;
    }
    if (job->next != NULL) {
        job->next->previous = job->previous;
    } else {
        channel->last = job->previous;
    }
    channel->pending--;
    job->channel = NULL;
    job->previous = job->next = NULL;
}

static void job_run(struct cog_job *job)
{
    struct cog_py_job *mine = (struct cog_py_job *)job;

    mine->operation->run(mine);
}

static void job_free(struct cog_py_job *job)
{
    detach(job);
    Py_CLEAR(job->future);
    job->operation->release(job);
    Py_CLEAR(job->self);
    PyMem_Free(job);
}

static void job_drop(struct cog_job *job)
{
    job_free((struct cog_py_job *)job);
}

static struct cog_py_job *job_new(const struct cog_py_operation *operation, PyObject *self,
                                  PyObject *args, PyObject *kwargs)
{
    struct cog_py_job *job = PyMem_Calloc(1, operation->job_size);

    if (job == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    job->job.run = job_run;
    job->job.drop = job_drop;
    job->job.lane = operation->lane;
    job->job.owner = self;
    job->operation = operation;
    job->self = Py_NewRef(self);
    if (operation->parse(job, args, kwargs) < 0) {
        Py_DECREF(job->self);
        PyMem_Free(job);
        return NULL;
    }
    return job;
}

PyObject *cog_py_call(const struct cog_py_operation *operation, PyObject *self, PyObject *args,
                      PyObject *kwargs)
{
    struct cog_py_job *job = job_new(operation, self, args, kwargs);
    PyObject *result;
    bool again;

    if (job == NULL) {
        return NULL;
    }
    do {
        again = false;
        Py_BEGIN_ALLOW_THREADS;
        operation->run(job);
        Py_END_ALLOW_THREADS;
        result = operation->finish(job, &again);
    } while (again);
    job_free(job);
    return result;
}

static int refused(const struct cog_error *err)
{
    PyObject *args;

    if (err->status == COG_ERR_CLOSED) {
        PyErr_SetString(PyExc_RuntimeError, err->text);
        return -1;
    }
    args = Py_BuildValue("(is)", err->sys_errno, err->text);
    if (args != NULL) {
        PyErr_SetObject(PyExc_OSError, args);
        Py_DECREF(args);
    }
    return -1;
}

static struct cog_py_channel *channel_of(PyObject *self, PyObject *channel)
{
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(self));

    if (state == NULL) {
        return NULL;
    }
    if (!Py_IS_TYPE(channel, state->channel_type)) {
        PyErr_Format(PyExc_TypeError, "channel must be a Channel or None, not %.100s",
                     Py_TYPE(channel)->tp_name);
        return NULL;
    }
    if (((struct cog_py_channel *)channel)->queue == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this Channel is closed");
        return NULL;
    }
    return (struct cog_py_channel *)channel;
}

int cog_py_submit(const struct cog_py_operation *operation, PyObject *self, PyObject *channel,
                  PyObject *future, PyObject *args, PyObject *kwargs)
{
    struct cog_py_channel *to = NULL;
    struct cog_py_job *job;
    struct cog_error err = {0};

    cog_pool_reap();
    if ((channel == Py_None) != (future == Py_None)) {
        PyErr_SetString(PyExc_TypeError, "give both a channel and a future, or None for both");
        return -1;
    }
    if (channel != Py_None && (to = channel_of(self, channel)) == NULL) {
        return -1;
    }
    job = job_new(operation, self, args, kwargs);
    if (job == NULL) {
        return -1;
    }
    if (to != NULL) {
        job->future = Py_NewRef(future);
        attach(to, job);
    }
    if (cog_pool_submit(&job->job, to != NULL ? to->queue : NULL, &err) != COG_OK) {
        job_free(job);
        return refused(&err);
    }
    return 0;
}

PyObject *cog_py_submit_named(const struct cog_py_operation *const *operations, PyObject *self,
                              PyObject *args, PyObject *kwargs)
{
    const char *name = NULL;
    PyObject *rest;
    int result = -1;

    if (PyTuple_GET_SIZE(args) < 3 || !PyUnicode_Check(PyTuple_GET_ITEM(args, 2)) ||
        (name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(args, 2))) == NULL) {
        PyErr_SetString(PyExc_TypeError, "submit(channel, future, operation, ...)");
        return NULL;
    }
    while (*operations != NULL && strcmp((*operations)->name, name) != 0) {
        operations++;
    }
    if (*operations == NULL) {
        PyErr_Format(PyExc_ValueError, "no operation '%s'", name);
        return NULL;
    }
    rest = PyTuple_GetSlice(args, 3, PyTuple_GET_SIZE(args));
    if (rest != NULL) {
        result = cog_py_submit(*operations, self, PyTuple_GET_ITEM(args, 0),
                               PyTuple_GET_ITEM(args, 1), rest, kwargs);
        Py_DECREF(rest);
    }
    return result == 0 ? Py_NewRef(Py_None) : NULL;
}

PyObject *cog_py_raise_ours(const char *name, const char *format, ...)
{
    PyObject *module = PyImport_ImportModule("cogcache.exceptions");
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, name) : NULL;
    va_list args;

    if (type != NULL) {
        va_start(args, format);
        PyErr_FormatV(type, format, args);
        va_end(args);
    }
    Py_XDECREF(type);
    Py_XDECREF(module);
    return NULL;
}

/* --- delivery --------------------------------------------------------------------------------- */

/* Whether somebody still waits for the future; an error in asking counts as nobody. */
static bool is_awaited(struct cog_py_state *state, PyObject *future)
{
    PyObject *done = future != NULL ? PyObject_CallMethodNoArgs(future, state->str_done) : NULL;
    int truth = done != NULL ? PyObject_IsTrue(done) : 1;

    Py_XDECREF(done);
    if (truth < 0 || (future != NULL && done == NULL)) {
        PyErr_WriteUnraisable(future);
        return false;
    }
    return truth == 0;
}

/* Give `result`, or the exception that is set when it is NULL, to `future`. */
static void resolve(struct cog_py_state *state, PyObject *future, PyObject *result)
{
    PyObject *answer;

    if (result != NULL) {
        answer = PyObject_CallMethodOneArg(future, state->str_set_result, result);
    } else {
        PyObject *type, *value, *traceback;

        PyErr_Fetch(&type, &value, &traceback);
        PyErr_NormalizeException(&type, &value, &traceback);
        answer = PyObject_CallMethodOneArg(future, state->str_set_exception, value);
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
    }
    if (answer == NULL) {
        PyErr_WriteUnraisable(future);
    }
    Py_XDECREF(answer);
}

/* Finish a job that has run: to its future, or back to the pool for its next step. */
static void deliver(struct cog_py_state *state, struct cog_py_channel *channel,
                    struct cog_py_job *job)
{
    PyObject *result = NULL;
    bool again = false;

    if (is_awaited(state, job->future)) {
        result = job->operation->finish(job, &again);
        if (again) {
            struct cog_error err = {0};

            if (cog_pool_submit(&job->job, channel->queue, &err) == COG_OK) {
                return;
            }
            refused(&err);
        }
        /* finish() may have run any Python code, so ask once more. */
        if (job->future != NULL) {
            resolve(state, job->future, result);
        } else {
            PyErr_Clear();
        }
        Py_XDECREF(result);
    }
    job_free(job);
}

static int64_t monotonic_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static PyObject *channel_drain(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct cog_py_channel *channel = (struct cog_py_channel *)self;
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(self));
    int64_t until = monotonic_ns() + DRAIN_NANOSECONDS;
    Py_ssize_t count = 0;
    struct cog_job *job;

    if (state == NULL) {
        return NULL;
    }
    while (channel->queue != NULL && (job = cog_queue_next(channel->queue)) != NULL) {
        deliver(state, channel, (struct cog_py_job *)job);
        count++;
        if (monotonic_ns() >= until) {
            break; /* the descriptor is still readable */
        }
    }
    cog_pool_reap();
    return PyLong_FromSsize_t(count);
}

static PyObject *channel_cancel(PyObject *self, PyObject *future)
{
    struct cog_py_channel *channel = (struct cog_py_channel *)self;
    struct cog_py_job *job = channel->first;

    while (job != NULL && job->future != future) {
        job = job->next;
    }
    if (job == NULL) {
        Py_RETURN_FALSE;
    }
    if (cog_pool_cancel(&job->job)) {
        job_free(job);
    } else {
        Py_CLEAR(job->future); /* it comes through drain(), which lets go of it */
    }
    Py_RETURN_TRUE;
}

/* --- the type -------------------------------------------------------------------------------- */

static void channel_shut(struct cog_py_channel *channel)
{
    struct cog_queue *queue = channel->queue;
    struct cog_job *job;
    struct cog_job *following;

    channel->queue = NULL;
    for (job = cog_queue_close(queue); job != NULL; job = following) {
        following = job->next;
        job_free((struct cog_py_job *)job);
    }
    while (channel->first != NULL) { /* still running: the pool drops them; after a fork, nobody */
        Py_CLEAR(channel->first->future);
        detach(channel->first);
    }
}

static PyObject *channel_close(PyObject *self, PyObject *Py_UNUSED(none))
{
    channel_shut((struct cog_py_channel *)self);
    Py_RETURN_NONE;
}

static PyObject *channel_fileno(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct cog_py_channel *channel = (struct cog_py_channel *)self;

    return PyLong_FromLong(channel->queue != NULL ? cog_queue_fd(channel->queue) : -1);
}

static PyObject *channel_get_pending(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(((struct cog_py_channel *)self)->pending);
}

static PyObject *channel_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    struct cog_py_channel *channel = (struct cog_py_channel *)self;

    return PyBool_FromLong(channel->queue == NULL || cog_queue_is_dead(channel->queue));
}

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    struct cog_py_channel *channel;
    struct cog_error err = {0};

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Channel", names)) {
        return NULL;
    }
    cog_pool_reap();
    channel = (struct cog_py_channel *)type->tp_alloc(type, 0);
    if (channel == NULL) {
        return NULL;
    }
    if (cog_queue_new(&channel->queue, &err) != COG_OK) {
        Py_DECREF(channel);
        if (err.status == COG_ERR_NOMEM) {
            return PyErr_NoMemory();
        }
        refused(&err);
        return NULL;
    }
    return (PyObject *)channel;
}

static int channel_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct cog_py_channel *channel = (struct cog_py_channel *)self;

    Py_VISIT(Py_TYPE(self));
    for (struct cog_py_job *job = channel->first; job != NULL; job = job->next) {
        Py_VISIT(job->future);
    }
    return 0;
}

static int channel_clear(PyObject *self)
{
    for (struct cog_py_job *job = ((struct cog_py_channel *)self)->first; job != NULL;
         job = job->next) {
        Py_CLEAR(job->future);
    }
    return 0;
}

static void channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    channel_shut((struct cog_py_channel *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef channel_methods[] = {
    {"fileno", channel_fileno, METH_NOARGS,
     PyDoc_STR("fileno($self, /)\n--\n\nThe descriptor to watch for reading; -1 once closed.")},
    {"drain", channel_drain, METH_NOARGS,
     PyDoc_STR("drain($self, /)\n--\n\nHand finished jobs to their futures, for about 2 ms at "
               "most; how many.")},
    {"cancel", channel_cancel, METH_O,
     PyDoc_STR("cancel($self, future, /)\n--\n\nNobody waits for this future any more: a job that "
               "has not begun never will,\na put that runs publishes nothing unless it already "
               "has. Whether it was pending.")},
    {"close", channel_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nDrop what is pending: jobs that have not begun never will, "
               "and no future is resolved.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef channel_members[] = {
    {"pending", channel_get_pending, NULL, PyDoc_STR("Jobs submitted and not yet delivered."),
     NULL},
    {"closed", channel_get_closed, NULL,
     PyDoc_STR("Whether nothing arrives any more: closed, or made before a fork."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Where finished jobs arrive for one event loop.")},
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_clear, channel_clear},
    {Py_tp_methods, channel_methods},
    {Py_tp_getset, channel_members},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "cogcache._core.Channel",
    .basicsize = sizeof(struct cog_py_channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = channel_slots,
};

/* --- the pool, as Python sees it ------------------------------------------------------------- */

PyObject *cog_py_await_quiet(PyObject *owner, PyObject *argument)
{
    const double longest = 1e9; /* for ever, and still a number of nanoseconds */
    double seconds = PyFloat_AsDouble(argument);
    int64_t until;
    bool quiet = false;

    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    seconds = seconds > 0.0 ? seconds < longest ? seconds : longest : 0.0;
    until = monotonic_ns() + (int64_t)(seconds * 1e9);
    do { /* in short waits, so that Ctrl-C ends it at once */
        int64_t left = (until - monotonic_ns()) / 1000000;
        uint32_t wait = left > 50 ? 50 : left > 0 ? (uint32_t)left : 0;

        Py_BEGIN_ALLOW_THREADS;
        quiet = owner != NULL ? cog_pool_wait_for(owner, wait) : cog_pool_drain(wait);
        Py_END_ALLOW_THREADS;
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
    } while (!quiet && monotonic_ns() < until);
    cog_pool_reap();
    return PyBool_FromLong(quiet);
}

static PyObject *py_drain_pool(PyObject *Py_UNUSED(module), PyObject *argument)
{
    return cog_py_await_quiet(NULL, argument);
}

static PyObject *py_pool_stats(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    struct cog_pool_stats stats;

    cog_pool_get_stats(&stats);
    return Py_BuildValue("{s:I,s:I,s:I,s:K,s:K,s:K}", "threads", stats.threads, "waiting",
                         stats.waiting, "running", stats.running, "started",
                         (unsigned long long)stats.started, "jobs", (unsigned long long)stats.jobs,
                         "wakeups", (unsigned long long)stats.wakeups);
}

static PyMethodDef pool_functions[] = {
    {"drain_pool", py_drain_pool, METH_O,
     PyDoc_STR("drain_pool($module, seconds, /)\n--\n\nWait until no read or write is under way, "
               "at most so long; whether that is so.")},
    {"pool_stats", py_pool_stats, METH_NOARGS,
     PyDoc_STR("pool_stats($module, /)\n--\n\nThreads, jobs and wake-ups of this process' pool.")},
    {NULL, NULL, 0, NULL},
};

int cog_py_add_channel(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->str_done = PyUnicode_InternFromString("done");
    state->str_set_result = PyUnicode_InternFromString("set_result");
    state->str_set_exception = PyUnicode_InternFromString("set_exception");
    state->channel_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &channel_spec, NULL);
    if (state->str_done == NULL || state->str_set_result == NULL ||
        state->str_set_exception == NULL || state->channel_type == NULL) {
        return -1;
    }
    if (PyModule_AddFunctions(module, pool_functions) < 0) {
        return -1;
    }
    return PyModule_AddType(module, state->channel_type);
}
