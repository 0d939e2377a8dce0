/* Reading from the store: keys and digests to entries. See py_store.h. */
#include "python/py_store.h"

/* --- fetch: a key or digest to an opened entry --------------------------------------------- */

struct fetch_job {
    struct cog_py_store_job store;
    PyObject *key; /* bytes */
    unsigned flags;
    struct cog_object *object;
    enum cog_miss miss;
};

static int fetch_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "flags", NULL};
    struct fetch_job *job = (struct fetch_job *)base;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S|I:fetch", names, &job->key, &job->flags) ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    Py_INCREF(job->key);
    return 0;
}

static void fetch_run(struct cog_py_job *base)
{
    struct fetch_job *job = (struct fetch_job *)base;

    job->store.status = cog_store_get(job->store.store->handle, PyBytes_AS_STRING(job->key),
                                      (size_t)PyBytes_GET_SIZE(job->key),
                                      job->flags & ~(unsigned)COG_GET_NOWAIT, &job->object,
                                      &job->miss, &job->store.error);
}

/* A read found damage after the entry had been handed out: set that generation aside. */
void cog_py_store_on_damage(PyObject *self, struct cog_object *object)
{
    struct cog_py_store *store = (struct cog_py_store *)self;

    if (!store->closed) {
        cog_py_store_hold(store);
        Py_BEGIN_ALLOW_THREADS; /* it looks at the file once more, and moves it */
        cog_store_report_damage(store->handle, object);
        Py_END_ALLOW_THREADS;
        cog_py_store_drop(store);
    }
}

/* An Entry, which takes `object` over, or the reason word for a miss. */
PyObject *cog_py_store_outcome(struct cog_py_store *store, enum cog_status status,
                               struct cog_object *object, enum cog_miss miss)
{
    if (status == COG_OK) {
        struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(store));

        return cog_py_entry_from_object(state, object, (PyObject *)store, cog_py_store_on_damage);
    }
    if (status == COG_ERR_NOMEM) {
        return PyErr_NoMemory();
    }
    return PyUnicode_InternFromString(
        cog_miss_reason(status == COG_ABSENT ? miss : COG_MISS_UNAVAILABLE));
}

static PyObject *fetch_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct fetch_job *job = (struct fetch_job *)base;
    struct cog_object *object = job->object;

    job->object = NULL;
    return cog_py_store_outcome(job->store.store, job->store.status, object, job->miss);
}

static void fetch_release(struct cog_py_job *base)
{
    struct fetch_job *job = (struct fetch_job *)base;

    cog_object_free(job->object);
    Py_DECREF(job->key);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_fetch = {
    "fetch",      COG_LANE_READ, sizeof(struct fetch_job), fetch_parse, fetch_run,
    fetch_finish, fetch_release,
};

/* --- fetch_many and fetch_digests: a few at once ------------------------------------------- */

struct one_fetch {
    PyObject *key; /* bytes; NULL: by digest, whatever key the entry has */
    struct cog_digest digest;
    enum cog_status status;
    enum cog_miss miss;
    struct cog_object *object;
};

struct batch_job {
    struct cog_py_store_job store;
    unsigned flags;
    struct one_fetch *items;
    Py_ssize_t count;
};

static void batch_release(struct cog_py_job *base)
{
    struct batch_job *job = (struct batch_job *)base;

    for (Py_ssize_t i = 0; i < job->count; i++) {
        cog_object_free(job->items[i].object);
        Py_XDECREF(job->items[i].key);
    }
    PyMem_Free(job->items);
    cog_py_store_leave(&job->store);
}

static int take_key(struct one_fetch *item, PyObject *key)
{
    if (!PyBytes_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a key is bytes, not %s", Py_TYPE(key)->tp_name);
        return -1;
    }
    item->key = Py_NewRef(key);
    return 0;
}

static int take_digest(struct one_fetch *item, PyObject *digest)
{
    if (!PyBytes_Check(digest) || PyBytes_GET_SIZE(digest) != COG_DIGEST_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a digest is 16 bytes");
        return -1;
    }
    memcpy(item->digest.bytes, PyBytes_AS_STRING(digest), COG_DIGEST_SIZE);
    return 0;
}

static int batch_take(struct batch_job *job, PyObject *wanted,
                      int (*take)(struct one_fetch *item, PyObject *one))
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(wanted);

    job->items = PyMem_Calloc((size_t)count + 1, sizeof *job->items);
    if (job->items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; job->count < count; job->count++) {
        if (take(&job->items[job->count], PySequence_Fast_GET_ITEM(wanted, job->count)) < 0) {
            return -1;
        }
    }
    return 0;
}

static int batch_parse(struct batch_job *job, PyObject *args, PyObject *kwargs,
                       int (*take)(struct one_fetch *item, PyObject *one))
{
    static char *names[] = {"", "flags", NULL};
    PyObject *wanted;
    int result = -1;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|I", names, &wanted, &job->flags) ||
        (wanted = PySequence_Fast(wanted, "a sequence of bytes is needed")) == NULL) {
        return -1;
    }
    if (cog_py_store_enter(&job->store) == 0) {
        result = batch_take(job, wanted, take);
        if (result < 0) {
            batch_release(&job->store.base);
        }
    }
    Py_DECREF(wanted);
    return result;
}

static int keys_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    return batch_parse((struct batch_job *)base, args, kwargs, take_key);
}

static int digests_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    return batch_parse((struct batch_job *)base, args, kwargs, take_digest);
}

static void batch_run(struct cog_py_job *base)
{
    struct batch_job *job = (struct batch_job *)base;
    struct cog_store *store = job->store.store->handle;
    unsigned flags = job->flags & ~(unsigned)COG_GET_NOWAIT;

    /* Who cancels takes no outcome: what was not looked at never becomes one. */
    for (Py_ssize_t i = 0; i < job->count && !cog_job_is_cancelled(&base->job); i++) {
        struct one_fetch *item = &job->items[i];

        item->status = item->key != NULL ? cog_store_get(store, PyBytes_AS_STRING(item->key),
                                                         (size_t)PyBytes_GET_SIZE(item->key), flags,
                                                         &item->object, &item->miss, NULL)
                                         : cog_store_get_digest(store, &item->digest, flags,
                                                                &item->object, &item->miss, NULL);
    }
}

static PyObject *batch_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct batch_job *job = (struct batch_job *)base;
    PyObject *found = PyList_New(job->count);

    for (Py_ssize_t i = 0; found != NULL && i < job->count; i++) {
        struct one_fetch *item = &job->items[i];
        struct cog_object *object = item->object;
        PyObject *outcome;

        item->object = NULL;
        outcome = cog_py_store_outcome(job->store.store, item->status, object, item->miss);
        if (outcome == NULL) {
            Py_CLEAR(found);
        } else {
            PyList_SET_ITEM(found, i, outcome);
        }
    }
    return found;
}

const struct cog_py_operation cog_py_op_fetch_many = {
    "fetch_many", COG_LANE_READ, sizeof(struct batch_job), keys_parse, batch_run,
    batch_finish, batch_release,
};

const struct cog_py_operation cog_py_op_fetch_digests = {
    "fetch_digests", COG_LANE_READ, sizeof(struct batch_job), digests_parse, batch_run,
    batch_finish,    batch_release,
};
