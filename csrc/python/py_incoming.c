/*
 * Incoming: a container that arrives in pieces, on its way into a store (core/store.h).
 *
 * It keeps its store open until it was committed or aborted: a store that is closed meanwhile
 * closes its files then. Operations after that close are refused.
 */
#include "python/py_store.h"

struct py_incoming {
    PyObject_HEAD struct cog_py_store *store; /* a reference */
    struct cog_incoming *handle;
    struct cog_put_info info;
    PyObject *key;
    PyObject *length; /* None: not announced */
    bool holds;       /* the handle of the store */
    bool ended;       /* committed or aborted */
};

static struct py_incoming *incoming_of(PyObject *object)
{
    return (struct py_incoming *)object;
}

static void let_go(struct py_incoming *self)
{
    self->ended = true;
    if (self->holds) {
        self->holds = false;
        cog_py_store_drop(self->store);
    }
}

/* --- Store.incoming() ------------------------------------------------------------------------- */

struct begin_job {
    struct cog_py_store_job store;
    PyObject *key;
    PyObject *length_object;
    uint64_t length;
    struct cog_put_info info;
    struct cog_incoming *handle;
};

static int begin_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "length", "source", "kind", NULL};
    struct begin_job *job = (struct begin_job *)base;
    unsigned long long source = 0;
    unsigned kind = 0;
    PyObject *length = Py_None;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S|$OKI:incoming", names, &job->key, &length,
                                     &source, &kind)) {
        return -1;
    }
    job->length = length == Py_None ? COG_LENGTH_UNKNOWN : PyLong_AsUnsignedLongLong(length);
    if (PyErr_Occurred() || cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->info = (struct cog_put_info){.source = source, .kind = kind};
    job->length_object = Py_NewRef(length);
    Py_INCREF(job->key);
    return 0;
}

static void begin_run(struct cog_py_job *base)
{
    struct begin_job *job = (struct begin_job *)base;

    job->store.status = cog_store_incoming(job->store.store->handle, PyBytes_AS_STRING(job->key),
                                           (size_t)PyBytes_GET_SIZE(job->key), job->length,
                                           &job->handle, &job->store.error);
}

static PyObject *begin_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct begin_job *job = (struct begin_job *)base;
    struct cog_py_state *state = cog_py_store_state(job->store.store);
    struct py_incoming *self;

    if (job->store.status != COG_OK) {
        return PyUnicode_InternFromString(cog_status_reason(job->store.status));
    }
    self = (struct py_incoming *)state->incoming_type->tp_alloc(state->incoming_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->store = (struct cog_py_store *)Py_NewRef(job->store.store);
    cog_py_store_hold(self->store);
    self->holds = true;
    self->handle = job->handle;
    job->handle = NULL;
    self->info = job->info;
    self->key = Py_NewRef(job->key);
    self->length = Py_NewRef(job->length_object);
    return (PyObject *)self;
}

static void begin_release(struct cog_py_job *base)
{
    struct begin_job *job = (struct begin_job *)base;

    if (job->handle != NULL) { /* nobody waits for it any more */
        Py_BEGIN_ALLOW_THREADS;
        cog_incoming_free(job->handle);
        Py_END_ALLOW_THREADS;
    }
    Py_DECREF(job->key);
    Py_DECREF(job->length_object);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_incoming = {
    "incoming",   COG_LANE_WRITE, sizeof(struct begin_job), begin_parse, begin_run,
    begin_finish, begin_release,
};

/* --- writing ---------------------------------------------------------------------------------- */

struct incoming_job {
    struct cog_py_store_job store; /* store.base.self is the Incoming */
    Py_buffer data;
    unsigned long long offset;
    bool append;
    int verified;
};

/* As cog_py_store_enter(), for the store of an Incoming. */
static int enter(struct incoming_job *job)
{
    struct py_incoming *self = incoming_of(job->store.base.self);

    if (cog_py_store_check(self->store) < 0) {
        return -1;
    }
    if (self->ended) {
        cog_py_raise_ours("ClosedError", "this Incoming was committed or aborted");
        return -1;
    }
    job->store.store = self->store;
    cog_py_store_hold(self->store);
    self->store->in_flight++;
    return 0;
}

static void job_release(struct cog_py_job *base)
{
    struct incoming_job *job = (struct incoming_job *)base;

    if (job->data.obj != NULL) {
        PyBuffer_Release(&job->data);
    }
    cog_py_store_leave(&job->store);
}

/* None, a reason word, or an exception for what the caller has done wrong. */
static PyObject *outcome(struct incoming_job *job)
{
    switch (job->store.status) {
    case COG_OK: Py_RETURN_NONE;
    case COG_ERR_NOMEM:
    case COG_ERR_INVALID: return cog_py_store_raise(&job->store);
    case COG_ERR_CLOSED: return cog_py_raise_ours("ClosedError", "%s", job->store.error.text);
    default: return PyUnicode_InternFromString(cog_status_reason(job->store.status));
    }
}

static PyObject *write_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    return outcome((struct incoming_job *)base);
}

static void write_run(struct cog_py_job *base)
{
    struct incoming_job *job = (struct incoming_job *)base;
    struct cog_incoming *handle = incoming_of(base->self)->handle;
    size_t size = (size_t)job->data.len;

    job->store.status = job->append
                            ? cog_incoming_append(handle, job->data.buf, size, &job->store.error)
                            : cog_incoming_write(handle, job->offset, job->data.buf, size,
                                                 &job->store.error);
}

static int take_buffer(struct incoming_job *job)
{
    if (enter(job) < 0) {
        PyBuffer_Release(&job->data);
        return -1;
    }
    return 0;
}

static int write_at_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", NULL};
    struct incoming_job *job = (struct incoming_job *)base;
    PyObject *offset;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oy*:write_at", names, &offset, &job->data)) {
        return -1;
    }
    job->offset = PyLong_AsUnsignedLongLong(offset);
    if (PyErr_Occurred()) {
        PyBuffer_Release(&job->data);
        return -1;
    }
    return take_buffer(job);
}

static int append_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct incoming_job *job = (struct incoming_job *)base;

    job->append = true;
    return PyArg_ParseTupleAndKeywords(args, kwargs, "y*:append", names, &job->data)
               ? take_buffer(job)
               : -1;
}

static const struct cog_py_operation op_write_at = {
    "write_at",   COG_LANE_WRITE, sizeof(struct incoming_job), write_at_parse, write_run,
    write_finish, job_release,
};

static const struct cog_py_operation op_append = {
    "append",     COG_LANE_WRITE, sizeof(struct incoming_job), append_parse, write_run,
    write_finish, job_release,
};

/* --- the end ---------------------------------------------------------------------------------- */

static int commit_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"verified", NULL};
    struct incoming_job *job = (struct incoming_job *)base;

    job->store.status = COG_ERR_CANCELLED; /* until it runs */
    return PyArg_ParseTupleAndKeywords(args, kwargs, "|p:commit", names, &job->verified)
               ? enter(job)
               : -1;
}

static void commit_run(struct cog_py_job *base)
{
    struct incoming_job *job = (struct incoming_job *)base;
    struct py_incoming *self = incoming_of(base->self);

    if (!cog_job_is_cancelled(&base->job)) {
        struct cog_put_info info = self->info;

        info.cancelled = &base->job.cancelled;
        job->store.status = cog_incoming_commit(self->handle, job->verified != 0, &info,
                                                &job->store.error);
    }
}

static void commit_release(struct cog_py_job *base)
{
    struct incoming_job *job = (struct incoming_job *)base;
    enum cog_status status = job->store.status;

    /* missing bytes may still come, and what was cancelled before it began has changed nothing */
    if (status != COG_ERR_INVALID && status != COG_ERR_CLOSED && status != COG_ERR_CANCELLED) {
        let_go(incoming_of(base->self));
    }
    job_release(base);
}

static const struct cog_py_operation op_commit = {
    "commit",     COG_LANE_WRITE, sizeof(struct incoming_job), commit_parse, commit_run,
    write_finish, commit_release,
};

static int abort_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    struct incoming_job *job = (struct incoming_job *)base;
    struct py_incoming *self = incoming_of(base->self);

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":abort", names)) {
        return -1;
    }
    job->store.store = self->store; /* also when that was closed */
    cog_py_store_hold(self->store);
    self->store->in_flight++;
    return 0;
}

static void abort_run(struct cog_py_job *base)
{
    cog_incoming_abort(incoming_of(base->self)->handle);
}

static PyObject *abort_finish(struct cog_py_job *Py_UNUSED(base), bool *Py_UNUSED(again))
{
    Py_RETURN_NONE;
}

/* One that was cancelled before it ran has to be done all the same. */
static void abort_release(struct cog_py_job *base)
{
    Py_BEGIN_ALLOW_THREADS;
    abort_run(base);
    Py_END_ALLOW_THREADS;
    let_go(incoming_of(base->self));
    job_release(base);
}

static const struct cog_py_operation op_abort = {
    "abort",      COG_LANE_WRITE, sizeof(struct incoming_job), abort_parse, abort_run,
    abort_finish, abort_release,
};

#define METHOD(name)                                                                   \
    static PyObject *incoming_##name(PyObject *self, PyObject *args, PyObject *kwargs) \
    {                                                                                  \
        return cog_py_call(&op_##name, self, args, kwargs);                            \
    }

METHOD(write_at)
METHOD(append)
METHOD(commit)
METHOD(abort)
#undef METHOD

static PyObject *incoming_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const struct cog_py_operation *const operations[] = {&op_write_at, &op_append,
                                                                &op_commit, &op_abort, NULL};

    return cog_py_submit_named(operations, self, args, kwargs);
}

/* --- attributes ------------------------------------------------------------------------------- */

/* A thread that reserves may hold up the answer: without the GIL. */
static size_t copy_ranges(struct cog_incoming *handle, struct cog_range **out)
{
    size_t count, most = 0;

    *out = NULL;
    Py_BEGIN_ALLOW_THREADS;
    while ((count = cog_incoming_written(handle, *out, most)) > most) {
        PyMem_RawFree(*out);
        most = 2 * count;
        *out = PyMem_RawCalloc(most, sizeof **out);
        if (*out == NULL) {
            break;
        }
    }
    Py_END_ALLOW_THREADS;
    return count;
}

static PyObject *incoming_written(PyObject *object, void *Py_UNUSED(closure))
{
    struct cog_range *ranges;
    size_t count = copy_ranges(incoming_of(object)->handle, &ranges);
    PyObject *list;

    if (count > 0 && ranges == NULL) {
        return PyErr_NoMemory();
    }
    list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *range = Py_BuildValue("(KK)", (unsigned long long)ranges[i].start,
                                        (unsigned long long)ranges[i].stop);

        if (range == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, range);
        }
    }
    PyMem_RawFree(ranges);
    return list;
}

static PyObject *incoming_key(PyObject *object, void *Py_UNUSED(closure))
{
    return Py_NewRef(incoming_of(object)->key);
}

static PyObject *incoming_length(PyObject *object, void *Py_UNUSED(closure))
{
    return Py_NewRef(incoming_of(object)->length);
}

static PyObject *incoming_ended(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(incoming_of(object)->ended);
}

static void incoming_dealloc(PyObject *object)
{
    struct py_incoming *self = incoming_of(object);
    PyTypeObject *type = Py_TYPE(object);

    Py_BEGIN_ALLOW_THREADS; /* freeing the blocks of a large file takes a while */
    cog_incoming_free(self->handle);
    Py_END_ALLOW_THREADS;
    let_go(self);
    Py_DECREF(self->store);
    Py_DECREF(self->key);
    Py_DECREF(self->length);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyGetSetDef incoming_getset[] = {
    {"key", incoming_key, NULL, PyDoc_STR("The canonical key encoding."), NULL},
    {"length", incoming_length, NULL, PyDoc_STR("As announced; None = unknown."), NULL},
    {"written", incoming_written, NULL,
     PyDoc_STR("What has been written: ranges (start, stop), in order, apart from each other."),
     NULL},
    {"ended", incoming_ended, NULL, PyDoc_STR("Whether it was committed or aborted."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define WITH_NAMES(f) (PyCFunction)(void (*)(void))(f), METH_VARARGS | METH_KEYWORDS

static PyMethodDef incoming_methods[] = {
    {"write_at", WITH_NAMES(incoming_write_at),
     PyDoc_STR("write_at($self, offset, data, /)\n--\n\nBytes at their place; None, or the reason "
               "why they are not there.")},
    {"append", WITH_NAMES(incoming_append),
     PyDoc_STR("append($self, data, /)\n--\n\nBytes behind all that was written so far.")},
    {"commit", WITH_NAMES(incoming_commit),
     PyDoc_STR("commit($self, verified=False)\n--\n\nPublish what has been written, if it is a "
               "whole container of the key; None, or the reason.")},
    {"abort", WITH_NAMES(incoming_abort),
     PyDoc_STR("abort($self, /)\n--\n\nGive everything back; nothing if it has ended already.")},
    {"submit", WITH_NAMES(incoming_submit),
     PyDoc_STR("submit($self, channel, future, operation, /, *args, **kwargs)\n--\n\nRun the "
               "method named `operation` in the thread pool.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot incoming_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A container that arrives in pieces, on its way into a store.")},
    {Py_tp_dealloc, (void *)incoming_dealloc},
    {Py_tp_methods, incoming_methods},
    {Py_tp_getset, incoming_getset},
    {0, NULL},
};

static PyType_Spec incoming_spec = {
    .name = "cogcache._core.Incoming",
    .basicsize = sizeof(struct py_incoming),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = incoming_slots,
};

int cog_py_add_incoming(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->incoming_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &incoming_spec, NULL);
    return state->incoming_type != NULL ? PyModule_AddType(module, state->incoming_type) : -1;
}
