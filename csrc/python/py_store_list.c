/* Looking over the store: names and numbers. See py_store.h. */
#include "python/py_store.h"

#include "core/alloc.h"

/* --- listing and care ---------------------------------------------------------------------- */

struct list_job {
    struct cog_py_store_job store;
    unsigned shard;
    unsigned long long source;
    struct cog_listed *found;
    size_t count;
};

static int list_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "source", NULL};
    struct list_job *job = (struct list_job *)base;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|K:list_shard", names, &job->shard,
                                     &job->source)) {
        return -1;
    }
    if (job->shard > 255) {
        PyErr_Format(PyExc_ValueError, "shards are 0..255, not %u", job->shard);
        return -1;
    }
    return cog_py_store_enter(&job->store);
}

static void list_run(struct cog_py_job *base)
{
    struct list_job *job = (struct list_job *)base;

    job->store.status = cog_store_list_shard(job->store.store->handle, job->shard, job->source,
                                             &job->found, &job->count, &job->store.error);
}

static PyObject *listed_object(struct cog_py_state *state, const struct cog_listed *listed)
{
    PyObject *object = PyStructSequence_New(state->listed_type);

    if (object == NULL) {
        return NULL;
    }
    PyStructSequence_SET_ITEM(object, 0,
                              PyBytes_FromStringAndSize((const char *)listed->digest.bytes,
                                                        sizeof listed->digest.bytes));
    PyStructSequence_SET_ITEM(object, 1, PyLong_FromUnsignedLongLong(listed->disk_bytes));
    PyStructSequence_SET_ITEM(object, 2, PyLong_FromUnsignedLongLong(listed->source));
    PyStructSequence_SET_ITEM(object, 3, PyLong_FromUnsignedLongLong(listed->mtime_ms));
    PyStructSequence_SET_ITEM(object, 4, PyLong_FromUnsignedLongLong(listed->used_ms));
    if (PyErr_Occurred()) {
        Py_CLEAR(object);
    }
    return object;
}

static PyObject *list_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct list_job *job = (struct list_job *)base;
    PyObject *found;

    if (job->store.status != COG_OK && job->store.status != COG_ABSENT) {
        return cog_py_store_raise(&job->store);
    }
    found = PyList_New((Py_ssize_t)job->count);
    for (size_t i = 0; found != NULL && i < job->count; i++) {
        PyObject *listed = listed_object(cog_py_store_state(job->store.store), &job->found[i]);

        if (listed == NULL) {
            Py_CLEAR(found);
        } else {
            PyList_SET_ITEM(found, (Py_ssize_t)i, listed);
        }
    }
    return found;
}

static void list_release(struct cog_py_job *base)
{
    struct list_job *job = (struct list_job *)base;

    cog_free(job->found);
    cog_py_store_leave(&job->store);
}

const struct cog_py_operation cog_py_op_list_shard = {
    "list_shard", COG_LANE_READ, sizeof(struct list_job), list_parse, list_run,
    list_finish,  list_release,
};

static int add_number(PyObject *dict, const char *name, uint64_t number)
{
    PyObject *value = PyLong_FromUnsignedLongLong(number);
    int result = value != NULL ? PyDict_SetItemString(dict, name, value) : -1;

    Py_XDECREF(value);
    return result;
}

static int add_numbers(PyObject *dict, const struct cog_store_stats *stats,
                       const struct cog_py_store *store)
{
    const struct {
        const char *name;
        uint64_t number;
    } numbers[] = {
        {"value_hits", store->value_hits},
        {"value_misses", store->value_misses},
        {"value_slow", store->value_slow},
        {"hits", stats->hits},
        {"inline_hits", stats->inline_hits},
        {"would_block", stats->would_block},
        {"puts", stats->puts},
        {"put_bytes", stats->put_bytes},
        {"read_bytes", stats->read_bytes},
        {"deletes", stats->deletes},
        {"touches", stats->touches},
        {"refreshes", stats->refreshes},
        {"refused_full", stats->refused_full},
        {"refused_too_large", stats->refused_too_large},
        {"refused_busy", stats->refused_busy},
        {"refused_read_only", stats->refused_read_only},
        {"io_errors", stats->io_errors},
        {"evicted_policy", stats->evicted_policy},
        {"evicted_expired", stats->evicted_expired},
        {"quarantined", stats->quarantined},
        {"rebuilds", stats->rebuilds},
        {"reopens", stats->reopens},
        {"swept", stats->swept},
        {"reaped", stats->reaped},
        {"used_bytes", stats->used_bytes},
        {"fixed_bytes", stats->fixed_bytes},
        {"held_bytes", stats->held_bytes},
        {"limit_bytes", stats->limit_bytes},
        {"entries", stats->entries},
        {"quarantine_files", stats->quarantine_files},
        {"free_bytes", stats->free_bytes},
    };

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (add_number(dict, numbers[i].name, numbers[i].number) < 0) {
            return -1;
        }
    }
    return 0;
}

static int add_misses(PyObject *dict, const struct cog_store_stats *stats)
{
    for (int miss = COG_MISS_NONE + 1; miss < COG_MISS_COUNT; miss++) {
        char name[40];

        PyOS_snprintf(name, sizeof name, "missed_%s", cog_miss_reason((enum cog_miss)miss));
        for (char *at = name; *at != '\0'; at++) {
            *at = *at == '-' ? '_' : *at;
        }
        if (add_number(dict, name, stats->misses[miss]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int add_states(PyObject *dict, const struct cog_store_stats *stats)
{
    const struct {
        const char *name;
        bool state;
    } states[] = {
        {"table_less", stats->table_less},
        {"read_only", stats->read_only},
        {"hard_limit", stats->hard_limit},
        {"mapped", stats->mapped},
    };

    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        if (PyDict_SetItemString(dict, states[i].name, states[i].state ? Py_True : Py_False) < 0) {
            return -1;
        }
    }
    return 0;
}

struct stats_job {
    struct cog_py_store_job store;
    struct cog_store_stats stats;
};

static int stats_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":stats", names)) {
        return -1;
    }
    return cog_py_store_enter((struct cog_py_store_job *)base);
}

static void stats_run(struct cog_py_job *base)
{
    struct stats_job *job = (struct stats_job *)base;

    cog_store_get_stats(job->store.store->handle, &job->stats);
}

static PyObject *stats_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct stats_job *job = (struct stats_job *)base;
    PyObject *dict = PyDict_New();

    if (dict != NULL && (add_numbers(dict, &job->stats, job->store.store) < 0 ||
                         add_misses(dict, &job->stats) < 0 || add_states(dict, &job->stats) < 0)) {
        Py_CLEAR(dict);
    }
    return dict;
}

const struct cog_py_operation cog_py_op_stats = {
    "stats",   COG_LANE_READ, sizeof(struct stats_job),  stats_parse,
    stats_run, stats_finish,  cog_py_store_release_none,
};
