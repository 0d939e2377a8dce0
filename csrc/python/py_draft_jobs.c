/* Composing a Draft and copying an Image without holding the loop: jobs of the thread pool. */
#include "python/py_draft_jobs.h"

#include "python/py_entry.h"

struct draft_job {
    struct cog_py_job base; /* base.self is the Draft or the Image */
    struct cog_py_put put;
    struct cog_image image; /* composed */
    PyObject *bytes;        /* copied */
    enum cog_status status;
    struct cog_error error;
};

static struct cog_py_state *state_of(const struct draft_job *job)
{
    return cog_py_state_of_type(Py_TYPE(job->base.self));
}

static int compose_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    struct draft_job *job = (struct draft_job *)base;

    return PyArg_ParseTupleAndKeywords(args, kwargs, ":submit", names)
               ? cog_py_put_of(state_of(job), base->self, &job->put)
               : -1;
}

static void compose_run(struct cog_py_job *base)
{
    struct draft_job *job = (struct draft_job *)base;

    job->status = cog_draft_compose(job->put.draft, &job->image, &job->error);
}

static PyObject *compose_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct draft_job *job = (struct draft_job *)base;
    struct cog_image image = job->image;

    if (job->status != COG_OK) {
        return cog_py_raise_entry(state_of(job), job->status, NULL, &job->error);
    }
    job->image = (struct cog_image){0};
    cog_py_draft_stored(base->self, image.length);
    return cog_py_image_new(state_of(job), &image, &job->put, job->put.draft->raw_bytes,
                            base->self);
}

static void draft_release(struct cog_py_job *base)
{
    struct draft_job *job = (struct draft_job *)base;

    cog_image_release(&job->image);
    Py_XDECREF(job->bytes);
}

static int tobytes_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    struct draft_job *job = (struct draft_job *)base;

    if (compose_parse(base, args, kwargs) < 0) {
        return -1;
    }
    job->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)job->put.image->length);
    return job->bytes != NULL ? 0 : -1;
}

static void tobytes_run(struct cog_py_job *base)
{
    struct draft_job *job = (struct draft_job *)base;

    job->status = cog_image_copy(job->put.image, PyBytes_AS_STRING(job->bytes));
}

static PyObject *tobytes_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct draft_job *job = (struct draft_job *)base;

    return job->status == COG_OK
               ? Py_NewRef(job->bytes)
               : cog_py_raise_entry(state_of(job), job->status, NULL, &job->error);
}

static const struct cog_py_operation op_compose = {
    "compose",      COG_LANE_WRITE, sizeof(struct draft_job), compose_parse, compose_run,
    compose_finish, draft_release,
};

static const struct cog_py_operation op_tobytes = {
    "tobytes",      COG_LANE_WRITE, sizeof(struct draft_job), tobytes_parse, tobytes_run,
    tobytes_finish, draft_release,
};

PyObject *cog_py_draft_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const struct cog_py_operation *const operations[] = {&op_compose, NULL};

    return cog_py_submit_named(operations, self, args, kwargs);
}

PyObject *cog_py_image_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const struct cog_py_operation *const operations[] = {&op_tobytes, NULL};

    return cog_py_submit_named(operations, self, args, kwargs);
}
