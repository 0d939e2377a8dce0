/* Changing the store: put, delete, refresh, tags, sweep. See py_store.h. */
#include "python/py_store.h"

/*
 * A put waits 200 ms for its shard. On a crowded machine whoever holds it may not run for longer;
 * trying again costs a thread of the pool that time, giving up costs computing the value anew.
 */
enum { PUT_TRIES = 3 };

/* From here up a draft is composed while it is written, with its bytes in the cache once. */
enum { MADE_FROM = 4 << 20 };

/* --- put ----------------------------------------------------------------------------------- */

struct one_put {
    PyObject *what; /* Draft or Image */
    struct cog_py_put put;
    enum cog_status status;
    uint64_t length;
};

struct put_job {
    struct cog_py_store_job store;
    struct cog_put_info info;
    struct one_put *items;
    Py_ssize_t count;
    bool is_batch;
};

static void put_release(struct cog_py_job *base)
{
    struct put_job *job = (struct put_job *)base;

    for (Py_ssize_t i = 0; i < job->count; i++) {
        Py_DECREF(job->items[i].what);
    }
    PyMem_Free(job->items);
    cog_py_store_leave(&job->store);
}

/* Take the drafts and images of `whats` (new references in a tuple or list) into the job. */
static int put_take(struct put_job *job, PyObject *const *whats, Py_ssize_t count)
{
    struct cog_py_state *state = cog_py_store_state(job->store.store);

    job->items = PyMem_Calloc((size_t)count + 1, sizeof *job->items);
    if (job->items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct one_put *item = &job->items[i];

        if (cog_py_put_of(state, whats[i], &item->put) < 0) {
            return -1;
        }
        item->what = Py_NewRef(whats[i]);
        job->count++;
    }
    return 0;
}

static int put_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "source", "kind", NULL};
    struct put_job *job = (struct put_job *)base;
    PyObject *what;
    unsigned long long source = 0;
    unsigned kind = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$KI:put", names, &what, &source, &kind) ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->info.source = source;
    job->info.kind = kind;
    if (put_take(job, &what, 1) < 0) {
        put_release(base);
        return -1;
    }
    return 0;
}

static int put_many_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct put_job *job = (struct put_job *)base;
    PyObject *whats;
    PyObject *fast;
    int result;

    job->is_batch = true;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:put_many", names, &whats)) {
        return -1;
    }
    fast = PySequence_Fast(whats, "put_many takes a sequence of Draft and Image");
    if (fast == NULL) {
        return -1;
    }
    result = cog_py_store_enter(&job->store);
    if (result == 0) {
        result = put_take(job, PySequence_Fast_ITEMS(fast), PySequence_Fast_GET_SIZE(fast));
        if (result < 0) {
            put_release(base);
        }
    }
    Py_DECREF(fast);
    return result;
}

struct put_made {
    struct put_job *job;
    struct one_put *item;
};

/*
 * The buffers of a draft are the caller's again once a cancelled call has returned, so what was
 * composed after that may be a mixture and must not be published. Cancelled later, the checksums
 * were taken from the value as it was: what is published is that value or fails its checks.
 */
static enum cog_status make_draft(void *context, struct cog_sink sink, struct cog_error *err)
{
    struct put_made *made = context;
    enum cog_status status = cog_draft_make(made->item->put.draft, sink, err);

    return status == COG_OK && cog_job_is_cancelled(&made->job->store.base.job) ? COG_ERR_CANCELLED
                                                                                : status;
}

/* One attempt to store what is there, or what is made now. */
static enum cog_status put_try(struct put_job *job, struct one_put *item,
                               const struct cog_image *image, const struct cog_put_info *info)
{
    struct cog_store *store = job->store.store->handle;

    if (image != NULL) {
        item->length = image->length;
        return cog_store_put(store, item->put.key, item->put.key_size, image, info,
                             &job->store.error);
    }
    struct put_made made = {job, item};
    struct cog_maker maker = {&made, make_draft, cog_draft_most(item->put.draft)};

    return cog_store_put_made(store, item->put.key, item->put.key_size, &maker, info, &item->length,
                              &job->store.error);
}

static void put_one(struct put_job *job, struct one_put *item)
{
    struct cog_put_info info = job->info;
    struct cog_image composed = {0};
    const struct cog_image *image = item->put.image;
    enum cog_status status = COG_OK;

    info.cost_seconds = item->put.cost_seconds;
    info.expires_ms = item->put.expires_ms;
    info.cancelled = &job->store.base.job.cancelled;
    if (image == NULL && item->put.draft->raw_bytes < MADE_FROM) {
        status = cog_draft_compose(item->put.draft, &composed, &job->store.error);
        image = &composed;
    }
    if (status == COG_OK && cog_job_is_cancelled(&job->store.base.job)) {
        status = COG_ERR_CANCELLED;
    }
    if (status == COG_OK) {
        int tries = PUT_TRIES;

        do {
            status = put_try(job, item, image, &info);
        } while (status == COG_ERR_BUSY && --tries > 0 &&
                 !cog_job_is_cancelled(&job->store.base.job));
    }
    item->status = status;
    cog_image_release(&composed);
}

static void put_run(struct cog_py_job *base)
{
    struct put_job *job = (struct put_job *)base;

    for (Py_ssize_t i = 0; i < job->count; i++) {
        put_one(job, &job->items[i]);
    }
}

static PyObject *put_outcome(struct one_put *item)
{
    if (item->put.draft != NULL && item->length != 0) {
        cog_py_draft_stored(item->what, item->length);
    }
    if (item->status == COG_OK) {
        Py_RETURN_NONE;
    }
    return PyUnicode_InternFromString(cog_status_reason(item->status));
}

static PyObject *put_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct put_job *job = (struct put_job *)base;
    PyObject *outcomes;

    if (!job->is_batch) {
        return put_outcome(&job->items[0]);
    }
    outcomes = PyList_New(job->count);
    for (Py_ssize_t i = 0; outcomes != NULL && i < job->count; i++) {
        PyObject *outcome = put_outcome(&job->items[i]);

        if (outcome == NULL) {
            Py_CLEAR(outcomes);
        } else {
            PyList_SET_ITEM(outcomes, i, outcome);
        }
    }
    return outcomes;
}

const struct cog_py_operation cog_py_op_put = {
    "put", COG_LANE_WRITE, sizeof(struct put_job), put_parse, put_run, put_finish, put_release,
};

const struct cog_py_operation cog_py_op_put_many = {
    "put_many", COG_LANE_WRITE, sizeof(struct put_job), put_many_parse, put_run,
    put_finish, put_release,
};

/* --- delete, refresh ----------------------------------------------------------------------- */

struct key_job {
    struct cog_py_store_job store;
    PyObject *key; /* bytes */
    uint64_t ttl_ms;
};

static int delete_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct key_job *job = (struct key_job *)base;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S:delete", names, &job->key) ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    Py_INCREF(job->key);
    return 0;
}

static void delete_run(struct cog_py_job *base)
{
    struct key_job *job = (struct key_job *)base;

    job->store.status = cog_store_delete(job->store.store->handle, PyBytes_AS_STRING(job->key),
                                         (size_t)PyBytes_GET_SIZE(job->key), &job->store.error);
}

static void key_release(struct cog_py_job *base)
{
    struct key_job *job = (struct key_job *)base;

    Py_DECREF(job->key);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_delete = {
    "delete",     COG_LANE_WRITE, sizeof(struct key_job),
    delete_parse, delete_run,     cog_py_store_finish_truth,
    key_release,
};

static int refresh_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", NULL};
    struct key_job *job = (struct key_job *)base;
    PyObject *ttl;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "SO:refresh", names, &job->key, &ttl)) {
        return -1;
    }
    job->ttl_ms = ttl == Py_None ? COG_NEVER : PyLong_AsUnsignedLongLong(ttl);
    if (PyErr_Occurred() || cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    Py_INCREF(job->key);
    return 0;
}

static void refresh_run(struct cog_py_job *base)
{
    struct key_job *job = (struct key_job *)base;

    job->store.status = cog_store_refresh(job->store.store->handle, PyBytes_AS_STRING(job->key),
                                          (size_t)PyBytes_GET_SIZE(job->key), job->ttl_ms,
                                          &job->store.error);
    if (job->store.status == COG_ERR_INVALID) {
        job->store.status = COG_ABSENT; /* it would shorten a life: nothing to do */
    }
}

const struct cog_py_operation cog_py_op_refresh = {
    "refresh",     COG_LANE_WRITE, sizeof(struct key_job),
    refresh_parse, refresh_run,    cog_py_store_finish_truth,
    key_release,
};

/* --- delete_entries: exactly these generations --------------------------------------------- */

struct entries_job {
    struct cog_py_store_job store;
    PyObject *entries; /* a tuple */
    struct cog_object **objects;
    Py_ssize_t count;
    unsigned long long removed;
};

static void entries_release(struct cog_py_job *base)
{
    struct entries_job *job = (struct entries_job *)base;

    PyMem_Free(job->objects);
    Py_XDECREF(job->entries);
    cog_py_store_leave(&job->store);
}

static int entries_take(struct entries_job *job)
{
    job->count = PyTuple_GET_SIZE(job->entries);
    job->objects = PyMem_Calloc((size_t)job->count + 1, sizeof *job->objects);
    if (job->objects == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < job->count; i++) {
        PyObject *entry = PyTuple_GET_ITEM(job->entries, i);

        if (cog_py_store_check_entry(job->store.base.self, entry) < 0) {
            return -1;
        }
        job->objects[i] = cog_py_entry_object(entry);
        if (job->objects[i] == NULL) {
            PyErr_SetString(PyExc_ValueError, "an entry that does not come from a store");
            return -1;
        }
    }
    return 0;
}

static int entries_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct entries_job *job = (struct entries_job *)base;
    PyObject *entries;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:delete_entries", names, &entries) ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->entries = PySequence_Tuple(entries);
    if (job->entries == NULL || entries_take(job) < 0) {
        entries_release(base);
        return -1;
    }
    return 0;
}

static void entries_run(struct cog_py_job *base)
{
    struct entries_job *job = (struct entries_job *)base;

    for (Py_ssize_t i = 0; i < job->count && !cog_job_is_cancelled(&base->job); i++) {
        enum cog_status status = cog_store_delete_object(job->store.store->handle, job->objects[i],
                                                         &job->store.error);

        if (status == COG_OK) {
            job->removed++;
        } else if (status != COG_ABSENT) {
            job->store.status = status;
        }
    }
}

static PyObject *entries_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct entries_job *job = (struct entries_job *)base;

    if (job->store.status != COG_OK && job->removed == 0) {
        return cog_py_store_raise(&job->store);
    }
    return PyLong_FromUnsignedLongLong(job->removed);
}

const struct cog_py_operation cog_py_op_delete_entries = {
    "delete_entries", COG_LANE_WRITE,  sizeof(struct entries_job), entries_parse, entries_run,
    entries_finish,   entries_release,
};

/* --- tags ---------------------------------------------------------------------------------- */

static PyObject *finish_none(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct cog_py_store_job *job = (struct cog_py_store_job *)base;

    if (job->status == COG_OK) {
        Py_RETURN_NONE;
    }
    return cog_py_store_raise(job);
}

struct tags_job {
    struct cog_py_store_job store;
    PyObject *tags; /* a list of str, which keep their UTF-8 alive */
    struct cog_tag_name *names;
    size_t count;
    uint64_t above;
};

static void tags_release(struct cog_py_job *base)
{
    struct tags_job *job = (struct tags_job *)base;

    PyMem_Free(job->names);
    Py_DECREF(job->tags);
    cog_py_store_leave(&job->store);
}

static int tags_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "above", NULL};
    struct tags_job *job = (struct tags_job *)base;
    unsigned long long above = 0;
    PyObject *tags;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|K:invalidate_tags", names, &tags, &above) ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->above = above;
    job->tags = PySequence_List(tags);
    if (job->tags == NULL) {
        cog_py_store_leave(&job->store);
        return -1;
    }
    job->count = (size_t)PyList_GET_SIZE(job->tags);
    job->names = PyMem_Calloc(job->count + 1, sizeof *job->names);
    if (job->names == NULL) {
        PyErr_NoMemory();
        tags_release(base);
        return -1;
    }
    for (size_t i = 0; i < job->count; i++) {
        Py_ssize_t size = 0;

        job->names[i].name = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(job->tags, (Py_ssize_t)i),
                                                     &size);
        if (job->names[i].name == NULL) {
            tags_release(base);
            return -1;
        }
        job->names[i].size = (size_t)size;
    }
    return 0;
}

static void tags_run(struct cog_py_job *base)
{
    struct tags_job *job = (struct tags_job *)base;

    job->store.status = cog_store_invalidate_tags(job->store.store->handle, job->names, job->count,
                                                  job->above, &job->store.error);
}

const struct cog_py_operation cog_py_op_invalidate_tags = {
    "invalidate_tags", COG_LANE_WRITE, sizeof(struct tags_job), tags_parse, tags_run,
    finish_none,       tags_release,
};
struct sweep_job {
    struct cog_py_store_job store;
    int force;
    uint64_t removed;
};

static int sweep_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"force", NULL};
    struct sweep_job *job = (struct sweep_job *)base;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p:sweep", names, &job->force)) {
        return -1;
    }
    return cog_py_store_enter(&job->store);
}

static void sweep_run(struct cog_py_job *base)
{
    struct sweep_job *job = (struct sweep_job *)base;

    job->store.status = cog_store_sweep(job->store.store->handle, job->force != 0, &job->removed,
                                        &job->store.error);
}

static PyObject *sweep_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct sweep_job *job = (struct sweep_job *)base;

    switch (job->store.status) {
    case COG_OK: return PyLong_FromUnsignedLongLong(job->removed);
    case COG_ERR_BUSY: /* another process sweeps */
    case COG_ERR_READ_ONLY: Py_RETURN_NONE;
    default: return cog_py_store_raise(&job->store);
    }
}

/* In the background lane: a process that ends does not wait for it. */
const struct cog_py_operation cog_py_op_sweep = {
    "sweep",   COG_LANE_BACKGROUND, sizeof(struct sweep_job),  sweep_parse,
    sweep_run, sweep_finish,        cog_py_store_release_none,
};
