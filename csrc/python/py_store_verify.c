/* Looking for damage in the store: what needs no closer look, and what does. See py_store.h. */
#include "python/py_store.h"

#include "core/alloc.h"
#include "core/buf.h"

/* --- names --------------------------------------------------------------------------------- */

struct names_job {
    struct cog_py_store_job store;
    unsigned shard;
    Py_ssize_t enough;
    unsigned long long source;
    struct cog_buf found;
};

static int names_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", "source", NULL};
    struct names_job *job = (struct names_job *)base;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "In|K:names", names, &job->shard, &job->enough,
                                     &job->source)) {
        return -1;
    }
    if (job->enough < 1) {
        PyErr_SetString(PyExc_ValueError, "at least one name");
        return -1;
    }
    return cog_py_store_enter(&job->store);
}

static void names_run(struct cog_py_job *base)
{
    struct names_job *job = (struct names_job *)base;

    job->store.status = cog_store_names(job->store.store->handle, &job->shard, job->source,
                                        (size_t)job->enough, &job->found, &job->store.error);
}

static PyObject *names_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct names_job *job = (struct names_job *)base;

    if (job->store.status != COG_OK) {
        return cog_py_store_raise(&job->store);
    }
    return Py_BuildValue("(Iy#)", job->shard,
                         job->found.size > 0 ? (const char *)job->found.data : "",
                         (Py_ssize_t)job->found.size);
}

static void names_release(struct cog_py_job *base)
{
    struct names_job *job = (struct names_job *)base;

    cog_buf_release(&job->found);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_names = {
    "names",      COG_LANE_READ, sizeof(struct names_job), names_parse, names_run,
    names_finish, names_release,
};

/* --- sift ---------------------------------------------------------------------------------- */

struct sift_job {
    struct cog_py_store_job store;
    PyObject *names; /* bytes: digests, back to back */
    unsigned long long most;
    struct cog_sifted sifted;
};

static int sift_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "", NULL};
    struct sift_job *job = (struct sift_job *)base;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "SK:sift", names, &job->names, &job->most)) {
        return -1;
    }
    if (PyBytes_GET_SIZE(job->names) % COG_DIGEST_SIZE != 0 ||
        PyBytes_GET_SIZE(job->names) / COG_DIGEST_SIZE > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "names are digests of 16 bytes, back to back");
        return -1;
    }
    if (cog_py_store_enter(&job->store) < 0) {
        return -1;
    }
    Py_INCREF(job->names);
    return 0;
}

static void sift_run(struct cog_py_job *base)
{
    struct sift_job *job = (struct sift_job *)base;
    size_t count = (size_t)PyBytes_GET_SIZE(job->names) / COG_DIGEST_SIZE;

    /* A digest is bytes alone, so any place in memory is one for it. */
    const void *names = PyBytes_AS_STRING(job->names);

    job->sifted.left = cog_alloc((count + 1) * sizeof *job->sifted.left);
    job->store.status = job->sifted.left == NULL
                            ? COG_ERR_NOMEM
                            : cog_store_sift(job->store.store->handle, names, count, job->most,
                                             &base->job.cancelled, &job->sifted);
}

static PyObject *left_digests(const struct sift_job *job)
{
    const char *names = PyBytes_AS_STRING(job->names);
    PyObject *left = PyList_New((Py_ssize_t)job->sifted.left_count);

    for (size_t i = 0; left != NULL && i < job->sifted.left_count; i++) {
        PyObject *digest = PyBytes_FromStringAndSize(
            names + (size_t)job->sifted.left[i] * COG_DIGEST_SIZE, COG_DIGEST_SIZE);

        if (digest == NULL) {
            Py_CLEAR(left);
        } else {
            PyList_SET_ITEM(left, (Py_ssize_t)i, digest);
        }
    }
    return left;
}

static PyObject *sift_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct sift_job *job = (struct sift_job *)base;
    const struct cog_sifted *sifted = &job->sifted;

    if (job->store.status != COG_OK) {
        return cog_py_store_raise(&job->store);
    }
    PyObject *left = left_digests(job);

    if (left == NULL) {
        return NULL;
    }
    return Py_BuildValue("(nnKN)", (Py_ssize_t)sifted->done, (Py_ssize_t)sifted->entries,
                         (unsigned long long)sifted->bytes, left);
}

static void sift_release(struct cog_py_job *base)
{
    struct sift_job *job = (struct sift_job *)base;

    cog_free(job->sifted.left);
    Py_DECREF(job->names);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_sift = {
    "sift", COG_LANE_READ, sizeof(struct sift_job), sift_parse, sift_run, sift_finish, sift_release,
};

/* --- remove_damaged ------------------------------------------------------------------------ */

struct remove_job {
    struct cog_py_store_job store;
    struct cog_digest digest;
};

static int remove_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct remove_job *job = (struct remove_job *)base;
    PyObject *digest;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "S:remove_damaged", names, &digest)) {
        return -1;
    }
    if (PyBytes_GET_SIZE(digest) != COG_DIGEST_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a digest is 16 bytes");
        return -1;
    }
    memcpy(job->digest.bytes, PyBytes_AS_STRING(digest), COG_DIGEST_SIZE);
    return cog_py_store_enter(&job->store);
}

static void remove_run(struct cog_py_job *base)
{
    struct remove_job *job = (struct remove_job *)base;

    job->store.status = cog_store_remove_damaged(job->store.store->handle, &job->digest,
                                                 &base->job.cancelled, &job->store.error);
}

const struct cog_py_operation cog_py_op_remove_damaged = {
    "remove_damaged",
    COG_LANE_WRITE,
    sizeof(struct remove_job),
    remove_parse,
    remove_run,
    cog_py_store_finish_truth,
    cog_py_store_release_none,
};
