/* The spool of a store: files that outlive the entries they came from. See core/store.h. */
#include "python/py_store.h"

struct spool_job {
    struct cog_py_store_job store;
    PyObject *entry;  /* of spool_link() */
    PyObject *digest; /* of spool_write(): bytes */
    Py_buffer data;
    PyObject *name; /* a str, which keeps its UTF-8 alive: a label or a name */
    const char *text;
};

static void spool_release(struct cog_py_job *base)
{
    struct spool_job *job = (struct spool_job *)base;

    Py_XDECREF(job->entry);
    Py_XDECREF(job->digest);
    Py_XDECREF(job->name);
    if (job->data.obj != NULL) {
        PyBuffer_Release(&job->data);
    }
    cog_py_store_leave(&job->store);
}

/* None, a reason word, or an exception for what the caller has done wrong. */
static PyObject *spool_outcome(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct spool_job *job = (struct spool_job *)base;

    switch (job->store.status) {
    case COG_OK: Py_RETURN_NONE;
    case COG_ERR_NOMEM:
    case COG_ERR_INVALID: return cog_py_store_raise(&job->store);
    default: return PyUnicode_InternFromString(cog_status_reason(job->store.status));
    }
}

/* `name` is borrowed; afterwards release is the caller's to do if anything more fails. */
static int take_name(struct spool_job *job, PyObject *name)
{
    job->text = PyUnicode_AsUTF8(name);
    if (job->text == NULL || cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    job->name = Py_NewRef(name);
    return 0;
}

/* --- link ------------------------------------------------------------------------------------- */

static int link_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", NULL};
    struct spool_job *job = (struct spool_job *)base;
    PyObject *entry, *label;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OU:spool_link", names, &entry, &label) ||
        cog_py_store_check_entry(base->self, entry) < 0) {
        return -1;
    }
    if (cog_py_entry_object(entry) == NULL) {
        PyErr_SetString(PyExc_ValueError, "an entry that does not come from a store");
        return -1;
    }
    if (take_name(job, label) < 0) {
        return -1;
    }
    job->entry = Py_NewRef(entry);
    return 0;
}

static void link_run(struct cog_py_job *base)
{
    struct spool_job *job = (struct spool_job *)base;

    job->store.status = cog_store_spool_link(job->store.store->handle,
                                             cog_py_entry_object(job->entry), job->text,
                                             &job->store.error);
}

const struct cog_py_operation cog_py_op_spool_link = {
    "spool_link",  COG_LANE_WRITE, sizeof(struct spool_job), link_parse, link_run,
    spool_outcome, spool_release,
};

/* --- write ------------------------------------------------------------------------------------ */

static int write_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", "", NULL};
    struct spool_job *job = (struct spool_job *)base;
    PyObject *digest, *label;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "SUy*:spool_write", names, &digest, &label,
                                     &job->data)) {
        return -1;
    }
    if (PyBytes_GET_SIZE(digest) != COG_DIGEST_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a digest is 16 bytes");
    } else if (take_name(job, label) == 0) {
        job->digest = Py_NewRef(digest);
        return 0;
    }
    PyBuffer_Release(&job->data);
    return -1;
}

static void write_run(struct cog_py_job *base)
{
    struct spool_job *job = (struct spool_job *)base;
    struct cog_digest digest;

    memcpy(digest.bytes, PyBytes_AS_STRING(job->digest), sizeof digest.bytes);
    job->store.status = cog_store_spool_write(job->store.store->handle, &digest, job->text,
                                              job->data.buf, (size_t)job->data.len,
                                              &job->store.error);
}

const struct cog_py_operation cog_py_op_spool_write = {
    "spool_write", COG_LANE_WRITE, sizeof(struct spool_job), write_parse, write_run,
    spool_outcome, spool_release,
};

/* --- remove ----------------------------------------------------------------------------------- */

static int remove_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct spool_job *job = (struct spool_job *)base;
    PyObject *name;

    return PyArg_ParseTupleAndKeywords(args, kwargs, "U:spool_remove", names, &name)
               ? take_name(job, name)
               : -1;
}

static void remove_run(struct cog_py_job *base)
{
    struct spool_job *job = (struct spool_job *)base;

    job->store.status = cog_store_spool_remove(job->store.store->handle, job->text,
                                               &job->store.error);
}

const struct cog_py_operation cog_py_op_spool_remove = {
    "spool_remove", COG_LANE_WRITE, sizeof(struct spool_job),
    remove_parse,   remove_run,     cog_py_store_finish_truth,
    spool_release,
};
