/* Reading from the store: entries, values, parts. See py_store.h. */
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

/*
 * A read found damage after the entry had been handed out: set that generation aside. This moves
 * one file, under the GIL, and happens once in the life of an entry.
 */
void cog_py_store_on_damage(PyObject *self, struct cog_object *object)
{
    struct cog_py_store *store = (struct cog_py_store *)self;

    if (!store->closed) {
        cog_store_report_damage(store->handle, object);
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

/* --- fetch_digests: a few names of a listing at once --------------------------------------- */

struct one_digest {
    struct cog_digest digest;
    enum cog_status status;
    enum cog_miss miss;
    struct cog_object *object;
};

struct digests_job {
    struct cog_py_store_job store;
    unsigned flags;
    struct one_digest *items;
    Py_ssize_t count;
};

static void digests_release(struct cog_py_job *base)
{
    struct digests_job *job = (struct digests_job *)base;

    for (Py_ssize_t i = 0; i < job->count; i++) {
        cog_object_free(job->items[i].object);
    }
    PyMem_Free(job->items);
    cog_py_store_leave(&job->store);
}

static int digests_take(struct digests_job *job, PyObject *digests)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(digests);

    job->items = PyMem_Calloc((size_t)count + 1, sizeof *job->items);
    if (job->items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; job->count < count; job->count++) {
        PyObject *digest = PySequence_Fast_GET_ITEM(digests, job->count);

        if (!PyBytes_Check(digest) || PyBytes_GET_SIZE(digest) != COG_DIGEST_SIZE) {
            PyErr_SetString(PyExc_ValueError, "a digest is 16 bytes");
            return -1;
        }
        memcpy(job->items[job->count].digest.bytes, PyBytes_AS_STRING(digest), COG_DIGEST_SIZE);
    }
    return 0;
}

static int digests_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "flags", NULL};
    struct digests_job *job = (struct digests_job *)base;
    PyObject *digests;
    int result = -1;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|I:fetch_digests", names, &digests,
                                     &job->flags) ||
        (digests = PySequence_Fast(digests, "fetch_digests takes a sequence of bytes")) == NULL) {
        return -1;
    }
    if (cog_py_store_enter(&job->store) == 0) {
        result = digests_take(job, digests);
        if (result < 0) {
            digests_release(base);
        }
    }
    Py_DECREF(digests);
    return result;
}

static void digests_run(struct cog_py_job *base)
{
    struct digests_job *job = (struct digests_job *)base;
    unsigned flags = job->flags & ~(unsigned)COG_GET_NOWAIT;

    for (Py_ssize_t i = 0; i < job->count && !cog_job_is_cancelled(&base->job); i++) {
        struct one_digest *item = &job->items[i];

        item->status = cog_store_get_digest(job->store.store->handle, &item->digest, flags,
                                            &item->object, &item->miss, NULL);
    }
}

static PyObject *digests_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct digests_job *job = (struct digests_job *)base;
    PyObject *found = PyList_New(job->count);

    for (Py_ssize_t i = 0; found != NULL && i < job->count; i++) {
        struct one_digest *item = &job->items[i];
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

const struct cog_py_operation cog_py_op_fetch_digests = {
    "fetch_digests", COG_LANE_READ,   sizeof(struct digests_job), digests_parse, digests_run,
    digests_finish,  digests_release,
};

/* --- load: the value of an entry, the long steps without the GIL --------------------------- */

struct load_job {
    struct cog_py_store_job store;
    PyObject *entry;
    PyObject *frames;
    struct cog_load load;
    bool allocated;
};

static int parse_mode(const char *text, enum cog_value_mode *mode)
{
    static const char *const names[] = {"cow", "view", "copy"};

    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *mode = (enum cog_value_mode)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "mode must be 'cow', 'view' or 'copy', not '%s'", text);
    return -1;
}

/* `slow` is set when the caller takes one as second argument. */
int cog_py_store_parse_load(PyObject *self, PyObject *args, PyObject *kwargs,
                            struct cog_py_load_options *options, PyObject **slow)
{
    static char *names[] = {"", "mode", "max_bytes", "frames", NULL};
    static char *names_slow[] = {"", "", "mode", "max_bytes", "frames", NULL};
    const char *mode = "cow";
    int parsed;

    *options = (struct cog_py_load_options){.frames = Py_True};
    parsed = slow == NULL
                 ? PyArg_ParseTupleAndKeywords(args, kwargs, "O|$sKO:load", names, &options->entry,
                                               &mode, &options->max_bytes, &options->frames)
                 : PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$sKO:load_now", names_slow,
                                               &options->entry, slow, &mode, &options->max_bytes,
                                               &options->frames);
    return parsed ? parse_mode(mode, &options->mode) < 0
                        ? -1
                        : cog_py_store_check_entry(self, options->entry)
                  : -1;
}

static int load_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    struct load_job *job = (struct load_job *)base;
    struct cog_py_load_options options;

    if (cog_py_store_parse_load(base->self, args, kwargs, &options, NULL) < 0 ||
        cog_py_entry_load(options.entry, options.mode, &job->load) < 0 ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->load.max_bytes = options.max_bytes;
    job->entry = Py_NewRef(options.entry);
    job->frames = Py_NewRef(options.frames);
    return 0;
}

/* Reading so much, in fresh memory, checked or expanded, takes about 50 us. */
uint64_t cog_py_store_weight(const struct cog_load *load, const struct cog_load_target *target)
{
    struct cog_part part;

    if (cog_entry_part(load->entry, target->part, &part) != COG_OK) {
        return 0;
    }
    return part.codec == COG_CODEC_STORED
               ? part.raw_size
               : part.raw_size * (COG_PY_INLINE_BYTES / COG_PY_INLINE_PACKED);
}

/* After allocation: can the parts be filled and checked in the loop's thread? */
bool cog_py_store_fill_is_quick(const struct cog_load *load)
{
    uint64_t weight = 0;

    for (size_t i = 0; i < load->target_count; i++) {
        const struct cog_load_target *target = &load->targets[i];

        if (!target->in_place || load->object == NULL ||
            !cog_object_is_verified(load->object, target->part)) {
            weight += cog_py_store_weight(load, target);
        }
    }
    return weight <= COG_PY_INLINE_BYTES;
}

/* The value itself does not hold: the same as a chunk that does not. */
void cog_py_store_report_damage(PyObject *entry, const struct cog_load *load)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    cog_py_entry_loaded(entry, load, COG_ERR_DAMAGED);
    PyErr_Restore(type, value, traceback);
}

static void load_run(struct cog_py_job *base)
{
    struct load_job *job = (struct load_job *)base;

    job->store.status = job->allocated ? cog_load_fill(&job->load, &job->store.error)
                                       : cog_load_document(&job->load, &job->store.error);
}

static PyObject *load_finish(struct cog_py_job *base, bool *again)
{
    struct load_job *job = (struct load_job *)base;
    struct cog_py_state *state = cog_py_store_state(job->store.store);
    PyObject *value;

    if (job->store.status == COG_OK && !job->allocated) {
        if (cog_py_entry_recheck(job->entry, &job->load) < 0 ||
            cog_load_allocate(state, &job->load, job->entry) < 0) {
            return NULL;
        }
        cog_py_entry_loaded(job->entry, &job->load, COG_OK);
        job->allocated = true;
        if (!cog_py_store_fill_is_quick(&job->load)) {
            *again = true;
            return NULL;
        }
        job->store.status = cog_load_fill(&job->load, &job->store.error);
    }
    if (job->store.status != COG_OK) {
        cog_py_entry_loaded(job->entry, &job->load, job->store.status);
        return cog_py_raise_entry(state, job->store.status, job->load.reason, &job->store.error);
    }
    value = cog_load_build(state, &job->load, job->entry, job->frames);
    if (value == NULL && PyErr_ExceptionMatches(state->damaged_error)) {
        cog_py_store_report_damage(job->entry, &job->load);
    }
    return value;
}

static void load_release(struct cog_py_job *base)
{
    struct load_job *job = (struct load_job *)base;

    cog_load_release(&job->load);
    Py_DECREF(job->frames);
    Py_DECREF(job->entry);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_load = {
    "load", COG_LANE_READ, sizeof(struct load_job), load_parse, load_run, load_finish, load_release,
};

/* --- read_part and verify ------------------------------------------------------------------ */

struct part_job {
    struct cog_py_store_job store;
    PyObject *entry;
    struct cog_load load; /* only for what the entry reads from */
    unsigned number;
    unsigned long long start;
    unsigned long long stop;
    PyObject *bytes;
};

static int part_enter(struct part_job *job, PyObject *entry)
{
    if (cog_py_store_check_entry(job->store.base.self, entry) < 0 ||
        cog_py_entry_load(entry, COG_MODE_VIEW, &job->load) < 0 ||
        cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->entry = Py_NewRef(entry);
    return 0;
}

static void part_release(struct cog_py_job *base)
{
    struct part_job *job = (struct part_job *)base;

    cog_load_release(&job->load);
    Py_XDECREF(job->bytes);
    Py_DECREF(job->entry);
    cog_py_store_leave(&job->store);
}

static int read_part_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", "", "", NULL};
    struct part_job *job = (struct part_job *)base;
    PyObject *entry;
    struct cog_part part;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OIKK:read_part", names, &entry, &job->number,
                                     &job->start, &job->stop) ||
        part_enter(job, entry) < 0) {
        return -1;
    }
    if (cog_entry_part(job->load.entry, job->number, &part) != COG_OK || job->start > job->stop ||
        job->stop > part.raw_size) {
        PyErr_Format(PyExc_ValueError, "no bytes %llu..%llu in part %u", job->start, job->stop,
                     job->number);
        part_release(base);
        return -1;
    }
    job->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(job->stop - job->start));
    if (job->bytes == NULL) {
        part_release(base);
        return -1;
    }
    return 0;
}

static void read_part_run(struct cog_py_job *base)
{
    struct part_job *job = (struct part_job *)base;

    job->store.status = cog_entry_read(job->load.entry, job->load.source, NULL, job->number,
                                       job->start, job->stop, PyBytes_AS_STRING(job->bytes),
                                       &job->store.error);
}

static PyObject *part_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct part_job *job = (struct part_job *)base;

    if (job->store.status != COG_OK) {
        cog_py_entry_loaded(job->entry, &job->load, job->store.status);
        return cog_py_raise_entry(cog_py_store_state(job->store.store), job->store.status, NULL,
                                  &job->store.error);
    }
    return Py_NewRef(job->bytes != NULL ? job->bytes : Py_None);
}

const struct cog_py_operation cog_py_op_read_part = {
    "read_part", COG_LANE_READ, sizeof(struct part_job), read_part_parse, read_part_run,
    part_finish, part_release,
};

static int verify_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    PyObject *entry;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:verify", names, &entry)) {
        return -1;
    }
    return part_enter((struct part_job *)base, entry);
}

static void verify_run(struct cog_py_job *base)
{
    struct part_job *job = (struct part_job *)base;

    job->store.status = cog_entry_verify(job->load.entry, job->load.source, &job->store.error);
}

const struct cog_py_operation cog_py_op_verify = {
    "verify",    COG_LANE_READ, sizeof(struct part_job), verify_parse, verify_run,
    part_finish, part_release,
};
