/* Entry.damage(): which parts and chunks of an entry do not hold. See py_entry_jobs.h. */
#include "python/py_entry_jobs.h"

#include "core/store.h"
#include "python/py_value.h"

enum { DAMAGES_MOST = 1024 }; /* places that one call names */

struct damage_job {
    struct cog_py_job base; /* base.self is the Entry */
    struct cog_load load;
    unsigned long first, stop;
    bool in_frame;
    uint32_t chunks[DAMAGES_MOST];
    size_t found;
    enum cog_status status;
    struct cog_error error;
};

static int damage_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"first", "stop", NULL};
    struct damage_job *job = (struct damage_job *)base;
    PyObject *stop = Py_None;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|kO:damage", names, &job->first, &stop)) {
        return -1;
    }
    job->stop = stop == Py_None ? UINT32_MAX : PyLong_AsUnsignedLong(stop);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (job->first > UINT32_MAX || job->stop > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "chunks have numbers below 2**32");
        return -1;
    }
    return cog_py_entry_load(base->self, COG_MODE_VIEW, &job->load);
}

static void damage_run(struct cog_py_job *base)
{
    struct damage_job *job = (struct damage_job *)base;
    const struct cog_load *load = &job->load;

    job->status = COG_OK;
    if (job->first == 0) {
        job->status = cog_entry_check_frame(load->entry, load->source, &job->error);
        job->in_frame = job->status == COG_ERR_DAMAGED;
    }
    if (job->status == COG_OK || job->in_frame) {
        job->status = cog_entry_find_damage(load->entry, load->source, (uint32_t)job->first,
                                            (uint32_t)job->stop, job->chunks, DAMAGES_MOST,
                                            &job->found, &job->error);
    }
    if (load->object != NULL && (job->in_frame || job->found > 0)) {
        cog_object_distrust(load->object);
    }
}

/* (part, chunk of that part): they come in order, so the part is looked for from the last one on.
 */
static PyObject *place_of(const struct cog_entry *entry, uint32_t chunk, uint32_t *part)
{
    struct cog_part about;

    for (; cog_entry_part(entry, *part, &about) == COG_OK; (*part)++) {
        if (chunk - about.first_chunk < about.chunk_count) {
            return Py_BuildValue("(II)", (unsigned)*part, (unsigned)(chunk - about.first_chunk));
        }
    }
    return PyErr_Format(PyExc_SystemError, "chunk %u is in no part", (unsigned)chunk);
}

static PyObject *damage_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct damage_job *job = (struct damage_job *)base;
    size_t listed = job->found < DAMAGES_MOST ? job->found : DAMAGES_MOST;
    uint32_t part = 0;
    PyObject *places, *place;

    if (job->status != COG_OK || PyErr_Occurred()) {
        return cog_py_raise_entry(cog_py_state_of_type(Py_TYPE(base->self)), job->status, NULL,
                                  &job->error);
    }
    places = job->in_frame ? Py_BuildValue("[(OO)]", Py_None, Py_None) : PyList_New(0);
    for (size_t i = 0; places != NULL && i < listed; i++) {
        place = place_of(job->load.entry, job->chunks[i], &part);
        if (place == NULL || PyList_Append(places, place) < 0) {
            Py_CLEAR(places);
        }
        Py_XDECREF(place);
    }
    return places;
}

static void damage_release(struct cog_py_job *base)
{
    cog_load_release(&((struct damage_job *)base)->load);
}

const struct cog_py_operation cog_py_op_damage = {
    "damage",      COG_LANE_READ,  sizeof(struct damage_job), damage_parse, damage_run,
    damage_finish, damage_release,
};

PyObject *cog_py_entry_damage(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return cog_py_call(&cog_py_op_damage, self, args, kwargs);
}
