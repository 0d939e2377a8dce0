#include "python/py_entry_jobs.h"

#include "core/store.h"
#include "python/py_load.h"

enum {
    /* Reading so much under the GIL, in fresh memory and checked, takes about 50 us ... */
    INLINE_BYTES = 256 * 1024,
    /* ... and so does expanding that much. */
    INLINE_PACKED = 64 * 1024
};

struct entry_job {
    struct cog_py_job base; /* base.self is the Entry */
    struct cog_load load;
    PyObject *frames;
    PyObject *bytes; /* of read() and read_container() */
    bool allocated;
    unsigned number;
    unsigned long long start;
    unsigned long long stop;
    enum cog_status status;
    struct cog_error error;
};

static struct cog_py_state *state_of(const struct entry_job *job)
{
    return cog_py_state_of_type(Py_TYPE(job->base.self));
}

static void entry_release(struct cog_py_job *base)
{
    struct entry_job *job = (struct entry_job *)base;

    cog_load_release(&job->load);
    Py_XDECREF(job->frames);
    Py_XDECREF(job->bytes);
}

/* Report what is damaged to the store that the entry came from, and raise. */
static PyObject *entry_failed(struct entry_job *job)
{
    cog_py_entry_loaded(job->base.self, &job->load, job->status);
    return cog_py_raise_entry(state_of(job), job->status, job->load.reason, &job->error);
}

/* The value itself does not hold: the same as a chunk that does not. */
static void report_bad_value(struct cog_py_state *state, PyObject *entry,
                             const struct cog_load *load)
{
    PyObject *type, *value, *traceback;

    if (PyErr_ExceptionMatches(state->damaged_error)) {
        PyErr_Fetch(&type, &value, &traceback);
        cog_py_entry_loaded(entry, load, COG_ERR_DAMAGED);
        PyErr_Restore(type, value, traceback);
    }
}

/* --- how long it will take ----------------------------------------------------------------- */

/* Bytes that filling `target` moves; an expanded one counts for as many as take that long. */
static uint64_t weight_of(const struct cog_load *load, const struct cog_load_target *target)
{
    struct cog_part part;

    if (cog_entry_part(load->entry, target->part, &part) != COG_OK) {
        return 0;
    }
    return part.codec == COG_CODEC_STORED ? part.raw_size
                                          : part.raw_size * (INLINE_BYTES / INLINE_PACKED);
}

static bool document_is_quick(const struct cog_load *load)
{
    uint32_t count = cog_entry_part_count(load->entry);
    struct cog_part part;

    if (load->image == NULL) {
        return cog_load_is_at_hand(load); /* else it would be read from a file, which may block */
    }
    if (count == 0 || cog_entry_part(load->entry, count - 1, &part) != COG_OK) {
        return true; /* no document: the load says what is wrong */
    }
    return part.kind != COG_PART_DOC ||
           (cog_part_is_plain(&part) && cog_load_is_known_good(load, count - 1)) ||
           part.raw_size <= (part.codec == COG_CODEC_STORED ? INLINE_BYTES : INLINE_PACKED) ||
           cog_load_is_at_hand(load);
}

/* Before allocation: is the memory that must be had in any case small? */
static bool allocation_is_small(const struct cog_load *load)
{
    bool lends = load->object != NULL && cog_object_is_mapped(load->object) && !load->no_lending;
    uint64_t weight = 0;

    for (size_t i = 0; i < load->target_count; i++) {
        if (!lends || load->targets[i].kind != COG_PART_ARRAY) {
            weight += weight_of(load, &load->targets[i]);
        }
    }
    return weight <= INLINE_BYTES;
}

/* After allocation: can the parts be filled and checked in the loop's thread? */
static bool fill_is_quick(const struct cog_load *load)
{
    uint64_t weight = 0;

    for (size_t i = 0; i < load->target_count; i++) {
        const struct cog_load_target *target = &load->targets[i];

        if (!target->in_place || load->object == NULL ||
            !cog_object_is_verified(load->object, target->part)) {
            weight += weight_of(load, target);
        }
    }
    return weight <= INLINE_BYTES;
}

/* --- value --------------------------------------------------------------------------------- */

int cog_py_value_options(PyObject *args, PyObject *kwargs, PyObject **slow,
                         enum cog_value_mode *mode, unsigned long long *max_bytes,
                         PyObject **frames)
{
    static char *names[] = {"mode", "max_bytes", "frames", NULL};
    static char *names_now[] = {"", "mode", "max_bytes", "frames", NULL};
    static const char *const modes[] = {"cow", "view", "copy"};
    const char *text = "cow";

    *max_bytes = 0;
    *frames = Py_True;
    if (slow == NULL ? !PyArg_ParseTupleAndKeywords(args, kwargs, "|$sKO:value", names, &text,
                                                    max_bytes, frames)
                     : !PyArg_ParseTupleAndKeywords(args, kwargs, "O|$sKO:value_now", names_now,
                                                    slow, &text, max_bytes, frames)) {
        return -1;
    }
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, modes[i]) == 0) {
            *mode = (enum cog_value_mode)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "mode must be 'cow', 'view' or 'copy', not '%s'", text);
    return -1;
}

static int value_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    struct entry_job *job = (struct entry_job *)base;
    enum cog_value_mode mode = COG_MODE_COW;
    unsigned long long max_bytes;
    PyObject *frames;

    if (cog_py_value_options(args, kwargs, NULL, &mode, &max_bytes, &frames) < 0 ||
        cog_py_entry_load(base->self, mode, &job->load) < 0) {
        return -1;
    }
    job->load.max_bytes = max_bytes;
    job->frames = Py_NewRef(frames);
    return 0;
}

static void value_run(struct cog_py_job *base)
{
    struct entry_job *job = (struct entry_job *)base;

    job->status = job->allocated ? cog_load_fill(&job->load, &job->error)
                                 : cog_load_document(&job->load, &job->error);
}

/* After the document: allocate, and go back for the fill unless it is little. Then build. */
static PyObject *value_finish(struct cog_py_job *base, bool *again)
{
    struct entry_job *job = (struct entry_job *)base;
    struct cog_py_state *state = state_of(job);
    PyObject *value;

    if (job->status == COG_OK && !job->allocated) {
        if (cog_py_entry_recheck(base->self, &job->load) < 0 ||
            cog_load_allocate(state, &job->load, base->self) < 0) {
            return NULL;
        }
        cog_py_entry_loaded(base->self, &job->load, COG_OK);
        job->allocated = true;
        if (!fill_is_quick(&job->load)) {
            *again = true;
            return NULL;
        }
        job->status = cog_load_fill(&job->load, &job->error);
    }
    if (job->status != COG_OK) {
        return entry_failed(job);
    }
    value = cog_load_build(state, &job->load, base->self, job->frames);
    if (value == NULL) {
        report_bad_value(state, base->self, &job->load);
    }
    return value;
}

static const struct cog_py_operation op_value = {
    "value",      COG_LANE_READ, sizeof(struct entry_job), value_parse, value_run,
    value_finish, entry_release,
};

PyObject *cog_py_load_inline(struct cog_py_state *state, struct cog_load *load, PyObject *owner,
                             PyObject *frames, PyObject *slow)
{
    struct cog_error error = {0};
    enum cog_status status;

    if (!document_is_quick(load)) {
        return Py_NewRef(slow);
    }
    status = cog_load_document(load, &error);
    if (status == COG_OK && (!allocation_is_small(load) || (load->is_bundle && owner == NULL))) {
        return Py_NewRef(slow);
    }
    if (status == COG_OK && load->target_count > 0) {
        if (cog_load_allocate(state, load, owner) < 0) {
            return NULL;
        }
        if (!fill_is_quick(load)) {
            return Py_NewRef(slow);
        }
        if (owner != NULL) {
            cog_py_entry_loaded(owner, load, COG_OK);
        }
        status = cog_load_fill(load, &error);
    }
    if (status != COG_OK) {
        return cog_py_raise_entry(state, status, load->reason, &error);
    }
    return cog_load_build(state, load, owner, frames);
}

PyObject *cog_py_entry_value_now(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(self));
    enum cog_value_mode mode = COG_MODE_COW;
    struct cog_load load;
    unsigned long long max_bytes;
    PyObject *slow, *frames, *value;

    if (state == NULL ||
        cog_py_value_options(args, kwargs, &slow, &mode, &max_bytes, &frames) < 0 ||
        cog_py_entry_load(self, mode, &load) < 0) {
        return NULL;
    }
    load.max_bytes = max_bytes;
    value = cog_py_load_inline(state, &load, self, frames, slow);
    if (value == NULL) {
        report_bad_value(state, self, &load);
    }
    cog_load_release(&load);
    return value;
}

/* --- read and verify ----------------------------------------------------------------------- */

static int read_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", "", NULL};
    struct entry_job *job = (struct entry_job *)base;
    struct cog_part part;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IKK:read", names, &job->number, &job->start,
                                     &job->stop) ||
        cog_py_entry_load(base->self, COG_MODE_VIEW, &job->load) < 0) {
        return -1;
    }
    if (cog_entry_part(job->load.entry, job->number, &part) != COG_OK || job->start > job->stop ||
        job->stop > part.raw_size) {
        PyErr_Format(PyExc_ValueError, "no bytes %llu..%llu in part %u", job->start, job->stop,
                     job->number);
        return -1;
    }
    job->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(job->stop - job->start));
    return job->bytes != NULL ? 0 : -1;
}

static void read_run(struct cog_py_job *base)
{
    struct entry_job *job = (struct entry_job *)base;

    job->status = cog_entry_read(job->load.entry, job->load.source, NULL, job->number, job->start,
                                 job->stop, PyBytes_AS_STRING(job->bytes), &job->error);
}

static int container_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    struct entry_job *job = (struct entry_job *)base;
    struct cog_py_container range;

    if (cog_py_entry_container(base->self, args, kwargs, &range) < 0) {
        return -1;
    }
    job->load.source = range.source;
    job->bytes = range.bytes;
    job->start = range.offset;
    job->stop = range.offset + range.size;
    return 0;
}

static void container_run(struct cog_py_job *base)
{
    struct entry_job *job = (struct entry_job *)base;

    job->status = job->load.source->read(job->load.source->context, job->start,
                                         PyBytes_AS_STRING(job->bytes),
                                         (size_t)(job->stop - job->start), &job->error);
}

static int verify_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};

    return PyArg_ParseTupleAndKeywords(args, kwargs, ":verify", names)
               ? cog_py_entry_load(base->self, COG_MODE_VIEW, &((struct entry_job *)base)->load)
               : -1;
}

static void verify_run(struct cog_py_job *base)
{
    struct entry_job *job = (struct entry_job *)base;

    job->status = cog_entry_verify(job->load.entry, job->load.source, &job->error);
}

static PyObject *read_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct entry_job *job = (struct entry_job *)base;

    if (job->status != COG_OK) {
        return entry_failed(job);
    }
    return Py_NewRef(job->bytes != NULL ? job->bytes : Py_None);
}

static const struct cog_py_operation op_read = {
    "read",      COG_LANE_READ, sizeof(struct entry_job), read_parse, read_run,
    read_finish, entry_release,
};

static const struct cog_py_operation op_verify = {
    "verify",    COG_LANE_READ, sizeof(struct entry_job), verify_parse, verify_run,
    read_finish, entry_release,
};

static const struct cog_py_operation op_read_container = {
    "read_container", COG_LANE_READ, sizeof(struct entry_job), container_parse, container_run,
    read_finish,      entry_release,
};

static const struct cog_py_operation *const operations[] = {&op_value,          &op_read,
                                                            &op_read_container, &op_verify,
                                                            &cog_py_op_damage,  NULL};

PyObject *cog_py_entry_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return cog_py_submit_named(operations, self, args, kwargs);
}
