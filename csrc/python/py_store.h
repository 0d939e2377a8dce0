/*
 * What the files of the store's binding share: py_store.c (the type), py_store_read.c and
 * py_store_write.c (operations), py_incoming.c (containers that arrive in pieces), py_store_list.c
 * (listing and statistics), py_store_verify.c (looking for damage), py_store_inline.c (what never
 * blocks and keeps the GIL).
 */
#ifndef COG_PY_STORE_H
#define COG_PY_STORE_H

#include "python/py_channel.h" /* first: Python.h chooses what the system headers offer */

#include "core/store.h"
#include "python/py_entry.h"

struct cog_py_store {
    PyObject_HEAD struct cog_store *handle; /* NULL once closed and left by all */
    PyObject *root;
    bool closed;
    Py_ssize_t users;     /* of the handle; under the GIL */
    Py_ssize_t in_flight; /* operations begun and not yet let go of; under the GIL */
    uint64_t value_hits;
    uint64_t value_misses;
    uint64_t value_slow;
};

/* Every operation's job begins with this. */
struct cog_py_store_job {
    struct cog_py_job base;
    struct cog_py_store *store;
    enum cog_status status;
    struct cog_error error;
};

/* 0, or -1 with ClosedError set. */
int cog_py_store_check(const struct cog_py_store *store);
/* Keep the handle open meanwhile; the last one to leave a closed store closes it. */
void cog_py_store_hold(struct cog_py_store *store);
void cog_py_store_drop(struct cog_py_store *store);
/* The same from the end of a parse() to the end of a release(). 0, or -1 with ClosedError set. */
int cog_py_store_enter(struct cog_py_store_job *job);
void cog_py_store_leave(struct cog_py_store_job *job);

struct cog_py_state *cog_py_store_state(const struct cog_py_store *store);
/* Set the exception for job->status; NULL. */
PyObject *cog_py_store_raise(const struct cog_py_store_job *job);
/* A finish(): True for COG_OK, False for COG_ABSENT, else an exception. */
PyObject *cog_py_store_finish_truth(struct cog_py_job *base, bool *again);
/* A release() of a job that holds nothing but its store. */
void cog_py_store_release_none(struct cog_py_job *base);
/* 0, or -1 with TypeError set when `entry` is not an Entry. */
int cog_py_store_check_entry(PyObject *self, PyObject *entry);

/* An Entry, which takes `object` over, or the reason word for a miss. */
PyObject *cog_py_store_outcome(struct cog_py_store *store, enum cog_status status,
                               struct cog_object *object, enum cog_miss miss);
/* For entries: damage found after the fetch sets that generation aside. */
void cog_py_store_on_damage(PyObject *store, struct cog_object *object);

extern const struct cog_py_operation cog_py_op_fetch, cog_py_op_fetch_many, cog_py_op_fetch_digests,
    cog_py_op_put, cog_py_op_put_many, cog_py_op_delete, cog_py_op_delete_entries,
    cog_py_op_refresh, cog_py_op_incoming, cog_py_op_spool_link, cog_py_op_spool_write,
    cog_py_op_spool_remove, cog_py_op_invalidate_tags, cog_py_op_sweep, cog_py_op_list_shard,
    cog_py_op_names, cog_py_op_sift, cog_py_op_remove_damaged, cog_py_op_stats;

/* Methods that never block and keep the GIL. */
PyObject *cog_py_store_get_value(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *cog_py_store_get_values(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *cog_py_store_get_frame(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *cog_py_store_fetch_now(PyObject *self, PyObject *const *args, Py_ssize_t count);

#endif
