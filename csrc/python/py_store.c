/*
 * The filesystem tier for Python. Each operation is described once (struct cog_py_operation): as a
 * method it runs in the calling thread with the GIL released, through submit() in the pool. What is
 * in py_store_inline.c keeps the GIL: it never blocks.
 */
#include "python/py_store.h"

#include <errno.h>

#include "core/fs.h"
#include "core/pool.h"

struct cog_py_state *cog_py_store_state(const struct cog_py_store *store)
{
    return cog_py_state_of_type(Py_TYPE(store));
}

/* --- what all operations share ------------------------------------------------------------- */

int cog_py_store_check(const struct cog_py_store *store)
{
    if (store->closed) {
        cog_py_raise_ours("ClosedError", "this store was closed: %U", store->root);
        return -1;
    }
    return 0;
}

void cog_py_store_hold(struct cog_py_store *store)
{
    store->users++;
}

void cog_py_store_drop(struct cog_py_store *store)
{
    if (--store->users == 0 && store->closed) {
        struct cog_store *handle = store->handle;

        store->handle = NULL;
        Py_BEGIN_ALLOW_THREADS;
        cog_store_close(handle);
        Py_END_ALLOW_THREADS;
    }
}

int cog_py_store_enter(struct cog_py_store_job *job)
{
    job->store = (struct cog_py_store *)job->base.self;
    if (cog_py_store_check(job->store) < 0) {
        return -1;
    }
    cog_py_store_hold(job->store);
    job->store->in_flight++;
    return 0;
}

void cog_py_store_leave(struct cog_py_store_job *job)
{
    job->store->in_flight--;
    cog_py_store_drop(job->store);
}

PyObject *cog_py_store_raise(const struct cog_py_store_job *job)
{
    const struct cog_error *error = &job->error;
    const char *text = error->text[0] != '\0' ? error->text : cog_status_text(job->status);
    PyObject *args;

    switch (job->status) {
    case COG_ERR_NOMEM: return PyErr_NoMemory();
    case COG_ERR_INVALID:
    case COG_ERR_LIMIT: PyErr_SetString(PyExc_ValueError, text); return NULL;
    default:
        args = Py_BuildValue("(isO)",
                             error->sys_errno == 0 && job->status == COG_ERR_READ_ONLY
                                 ? EROFS
                                 : error->sys_errno,
                             text, job->store->root);
        if (args != NULL) {
            PyErr_SetObject(PyExc_OSError, args);
            Py_DECREF(args);
        }
        return NULL;
    }
}

/* True for COG_OK, False for COG_ABSENT, an exception for anything else. */
PyObject *cog_py_store_finish_truth(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct cog_py_store_job *job = (struct cog_py_store_job *)base;

    if (job->status == COG_OK || job->status == COG_ABSENT) {
        return PyBool_FromLong(job->status == COG_OK);
    }
    return cog_py_store_raise(job);
}

void cog_py_store_release_none(struct cog_py_job *base)
{
    cog_py_store_leave((struct cog_py_store_job *)base);
}

int cog_py_store_check_entry(PyObject *self, PyObject *entry)
{
    struct cog_py_state *state = cog_py_state_of_type(Py_TYPE(self));

    if (state == NULL || !Py_IS_TYPE(entry, state->entry_type)) {
        PyErr_Format(PyExc_TypeError, "entry must be an Entry, not %s", Py_TYPE(entry)->tp_name);
        return -1;
    }
    return 0;
}

/* --- what needs no thread ------------------------------------------------------------------ */

static PyObject *store_tag_version(PyObject *self, PyObject *tag)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    struct cog_error error = {0};
    uint64_t version = 0;
    Py_ssize_t size;
    const char *name = PyUnicode_AsUTF8AndSize(tag, &size);
    enum cog_status status;

    if (name == NULL || cog_py_store_check(store) < 0) {
        return NULL;
    }
    status = cog_store_tag_version(store->handle, name, (size_t)size, &version, &error);
    if (status != COG_OK) {
        struct cog_py_store_job job = {.store = store, .status = status, .error = error};

        return cog_py_store_raise(&job);
    }
    return PyLong_FromUnsignedLongLong(version);
}

static PyObject *store_now_ms(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct cog_py_store *store = (struct cog_py_store *)self;

    if (cog_py_store_check(store) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(cog_store_now_ms(store->handle));
}

static PyObject *store_set_clock_offset(PyObject *self, PyObject *argument)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    long long offset = PyLong_AsLongLong(argument);

    if ((offset == -1 && PyErr_Occurred()) || cog_py_store_check(store) < 0) {
        return NULL;
    }
    cog_store_set_clock_offset(store->handle, offset);
    Py_RETURN_NONE;
}

/* --- methods ------------------------------------------------------------------------------- */

static const struct cog_py_operation *const operations[] = {
    &cog_py_op_fetch,           &cog_py_op_fetch_many,
    &cog_py_op_fetch_digests,   &cog_py_op_put,
    &cog_py_op_put_many,        &cog_py_op_delete,
    &cog_py_op_delete_entries,  &cog_py_op_refresh,
    &cog_py_op_invalidate_tags, &cog_py_op_list_shard,
    &cog_py_op_names,           &cog_py_op_sift,
    &cog_py_op_remove_damaged,  &cog_py_op_sweep,
    &cog_py_op_stats,           &cog_py_op_incoming,
    &cog_py_op_spool_link,      &cog_py_op_spool_write,
    &cog_py_op_spool_remove,    NULL,
};

#define METHOD(name)                                                                \
    static PyObject *store_##name(PyObject *self, PyObject *args, PyObject *kwargs) \
    {                                                                               \
        return cog_py_call(&cog_py_op_##name, self, args, kwargs);                  \
    }

METHOD(fetch)
METHOD(fetch_many)
METHOD(fetch_digests)
METHOD(put)
METHOD(put_many)
METHOD(delete)
METHOD(delete_entries)
METHOD(refresh)
METHOD(invalidate_tags)
METHOD(list_shard)
METHOD(names)
METHOD(sift)
METHOD(remove_damaged)
METHOD(sweep)
METHOD(stats)
METHOD(incoming)
METHOD(spool_link)
METHOD(spool_write)
METHOD(spool_remove)
#undef METHOD

static PyObject *store_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return cog_py_submit_named(operations, self, args, kwargs);
}

/* --- opening and closing ------------------------------------------------------------------- */

static int choose(const char *field, const char *text, const char *const *names, int count,
                  int *choice)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0) {
            *choice = i;
            return 0;
        }
    }
    cog_py_raise_ours("ConfigError", "%s: unknown value '%s'", field, text);
    return -1;
}

static int choose_words(const char *policy, const char *durability, const char *access,
                        struct cog_store_options *options)
{
    static const char *const policies[] = {"lru", "lfu", "fifo", "cost"};
    static const char *const durabilities[] = {"none", "data", "full"};
    static const char *const accesses[] = {"rw", "ro", "auto"};
    int chosen[3] = {0, 0, 0};

    if (choose("policy", policy, policies, 4, &chosen[0]) < 0 ||
        choose("durability", durability, durabilities, 3, &chosen[1]) < 0 ||
        choose("access", access, accesses, 3, &chosen[2]) < 0) {
        return -1;
    }
    options->policy = (enum cog_policy)chosen[0];
    options->durability = (enum cog_durability)chosen[1];
    options->access = (enum cog_access)chosen[2];
    return 0;
}

/* None = `standard`; else a whole number up to `most`. */
static int optional_number(const char *field, PyObject *value, uint64_t standard, uint64_t most,
                           uint64_t *out)
{
    *out = standard;
    if (value == NULL || value == Py_None) {
        return 0;
    }
    *out = PyLong_AsUnsignedLongLong(value);
    if (PyErr_Occurred()) {
        return -1;
    }
    if (*out > most) {
        PyErr_Format(PyExc_ValueError, "%s is absurdly large", field);
        return -1;
    }
    return 0;
}

static PyObject *raise_open(enum cog_status status, const struct cog_error *error, const char *path)
{
    const char *text = error->text[0] != '\0' ? error->text : cog_status_text(status);
    PyObject *args;

    if (status == COG_ERR_READ_ONLY && error->sys_errno != 0) {
        status = COG_ERR_IO; /* EACCES, EROFS ...: the caller says what would help */
    }
    switch (status) {
    case COG_ERR_NOMEM: return PyErr_NoMemory();
    case COG_ERR_IO:
        args = Py_BuildValue("(iss)", error->sys_errno, text, path);
        if (args != NULL) {
            PyErr_SetObject(PyExc_OSError, args);
            Py_DECREF(args);
        }
        return NULL;
    default: return cog_py_raise_ours("ConfigError", "base_path %s: %s", path, text);
    }
}

static PyObject *store_open(PyTypeObject *type, const char *path,
                            const struct cog_store_options *options)
{
    struct cog_py_store *store = (struct cog_py_store *)type->tp_alloc(type, 0);
    struct cog_error error = {0};
    enum cog_status status;

    if (store == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    status = cog_store_open(path, options, &store->handle, &error);
    Py_END_ALLOW_THREADS;
    if (status != COG_OK) {
        Py_DECREF(store);
        return raise_open(status, &error, path);
    }
    store->root = PyUnicode_DecodeFSDefault(cog_store_root(store->handle));
    if (store->root == NULL) {
        Py_CLEAR(store);
    }
    return (PyObject *)store;
}

static PyObject *store_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"base_path",   "max_bytes",  "min_free_bytes", "max_files",
                            "policy",      "durability", "access",         "group_shared",
                            "no_map",      "table_less", "touch_seconds",  "plain_posix",
                            "keep_bounds", NULL};
    struct cog_store_options options = {0};
    unsigned long long max_bytes = 0;
    unsigned long long max_files = 0;
    const char *policy = "lru", *durability = "none", *access = "rw";
    PyObject *path = NULL, *min_free = NULL, *touch = NULL, *store;
    int group = 0, no_map = 0, table_less = 0, plain_posix = 0, keep_bounds = 0;
    uint64_t touch_seconds;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|$KOKssspppOpp:Store", names,
                                     PyUnicode_FSConverter, &path, &max_bytes, &min_free,
                                     &max_files, &policy, &durability, &access, &group, &no_map,
                                     &table_less, &touch, &plain_posix, &keep_bounds)) {
        return NULL;
    }
    if (choose_words(policy, durability, access, &options) < 0 ||
        optional_number("min_free_bytes", min_free, COG_MIN_FREE_DEFAULT, UINT64_MAX - 1,
                        &options.min_free_bytes) < 0 ||
        optional_number("touch_seconds", touch, UINT32_MAX, UINT32_MAX - 1, &touch_seconds) < 0) {
        Py_DECREF(path);
        return NULL;
    }
    options.max_bytes = max_bytes;
    options.max_files = max_files;
    options.group_shared = group != 0;
    options.no_map = no_map != 0;
    options.keep_bounds = keep_bounds != 0;
    options.table_less = table_less != 0;
    options.touch_seconds = touch_seconds == UINT32_MAX ? COG_TOUCH_DEFAULT
                            : touch_seconds == 0        ? COG_TOUCH_ALWAYS
                                                        : (uint32_t)touch_seconds;
    options.fs = plain_posix ? cog_fs_posix() : NULL;
    store = store_open(type, PyBytes_AS_STRING(path), &options);
    Py_DECREF(path);
    return store;
}

static PyObject *store_close(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct cog_py_store *store = (struct cog_py_store *)self;

    if (!store->closed) {
        store->closed = true;
        cog_store_end_sweeps(store->handle);
        cog_py_store_hold(store);
        cog_py_store_drop(store); /* closes the handle now, or lets the last operation do it */
    }
    Py_RETURN_NONE;
}

static PyObject *store_wait(PyObject *self, PyObject *seconds)
{
    return cog_py_await_quiet(self, seconds);
}

static void store_dealloc(PyObject *self)
{
    struct cog_py_store *store = (struct cog_py_store *)self;
    PyTypeObject *type = Py_TYPE(self);

    cog_store_close(store->handle); /* every operation holds a reference, so none is under way */
    Py_XDECREF(store->root);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *store_reduce(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none))
{
    PyErr_SetString(PyExc_TypeError, "a Store is of this process alone and cannot be pickled; "
                                     "pickle the cache or its configuration instead");
    return NULL;
}

static PyObject *store_repr(PyObject *self)
{
    struct cog_py_store *store = (struct cog_py_store *)self;

    return PyUnicode_FromFormat("<Store %R%s>", store->root, store->closed ? ", closed" : "");
}

static PyObject *store_get_root(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((struct cog_py_store *)self)->root);
}

static PyObject *store_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((struct cog_py_store *)self)->closed);
}

static PyObject *store_get_in_flight(PyObject *self, void *Py_UNUSED(closure))
{
    cog_pool_reap(); /* what has ended without anybody waiting for it is under way no more */
    return PyLong_FromSsize_t(((struct cog_py_store *)self)->in_flight);
}

#define WITH_NAMES(function) (PyCFunction)(void (*)(void))(function), METH_VARARGS | METH_KEYWORDS
#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL

static PyMethodDef store_methods[] = {
    {"get_value", FAST(cog_py_store_get_value),
     PyDoc_STR("get_value($self, key, miss, slow, /)\n--\n\nThe value without waiting, `miss`, or "
               "`slow` where answering might block.")},
    {"get_values", FAST(cog_py_store_get_values),
     PyDoc_STR("get_values($self, keys, miss, slow, start=0, /)\n--\n\nget_value() of the first "
               "keys from `start`, as many as about 200 us allow, at least one.")},
    {"get_frame", FAST(cog_py_store_get_frame),
     PyDoc_STR("get_frame($self, key, token, name, slow, /)\n--\n\nThe bytes of one frame of this "
               "write without waiting; None where the key has another write by now, `slow` where "
               "only fetch() can tell.")},
    {"fetch", WITH_NAMES(store_fetch),
     PyDoc_STR("fetch($self, key, /, flags=0)\n--\n\nThe live entry of a key, or one word for why "
               "there is none.")},
    {"fetch_now", FAST(cog_py_store_fetch_now),
     PyDoc_STR("fetch_now($self, key, flags=0, /)\n--\n\nfetch() without waiting; None where "
               "answering might block.")},
    {"fetch_many", WITH_NAMES(store_fetch_many),
     PyDoc_STR("fetch_many($self, keys, /, flags=0)\n--\n\nfetch() of each, in one go; their "
               "outcomes.")},
    {"fetch_digests", WITH_NAMES(store_fetch_digests),
     PyDoc_STR("fetch_digests($self, digests, /, flags=0)\n--\n\nfetch() by digest, whatever "
               "key the entries have, for a few at once.")},
    {"put", WITH_NAMES(store_put),
     PyDoc_STR("put($self, what, /, *, source=0, kind=0)\n--\n\nPublish a Draft or an Image; None, "
               "or one word for why not.")},
    {"put_many", WITH_NAMES(store_put_many),
     PyDoc_STR("put_many($self, whats, /)\n--\n\nput() of each, in one go; their outcomes.")},
    {"incoming", WITH_NAMES(store_incoming),
     PyDoc_STR("incoming($self, key, /, *, length=None, source=0, kind=0)\n--\n\nBegin a put of a "
               "container that arrives in pieces: an Incoming, or the reason why not.")},
    {"spool_link", WITH_NAMES(store_spool_link),
     PyDoc_STR("spool_link($self, entry, label, /)\n--\n\nKeep exactly this generation as a file "
               "in spool/; None, or the reason why not.")},
    {"spool_write", WITH_NAMES(store_spool_write),
     PyDoc_STR("spool_write($self, digest, label, data, /)\n--\n\nWrite a small durable file "
               "into spool/; None, or the reason why not.")},
    {"spool_remove", WITH_NAMES(store_spool_remove),
     PyDoc_STR("spool_remove($self, name, /)\n--\n\nRemove a file of spool/; whether it was "
               "there.")},
    {"delete", WITH_NAMES(store_delete),
     PyDoc_STR("delete($self, key, /)\n--\n\nForget a key; whether there was a live entry.")},
    {"delete_entries", WITH_NAMES(store_delete_entries),
     PyDoc_STR("delete_entries($self, entries, /)\n--\n\nForget exactly these generations; how "
               "many were still there.")},
    {"refresh", WITH_NAMES(store_refresh),
     PyDoc_STR("refresh($self, key, ttl_ms, /)\n--\n\nBegin the life of an entry anew; never "
               "shortens it.")},
    {"invalidate_tags", WITH_NAMES(store_invalidate_tags),
     PyDoc_STR(
         "invalidate_tags($self, tags, /, above=0)\n--\n\nMake entries captured before now, or "
         "up to `above`, with one of these tags a miss.")},
    {"tag_version", store_tag_version, METH_O,
     PyDoc_STR("tag_version($self, tag, /)\n--\n\nMicroseconds since the epoch.")},
    {"list_shard", WITH_NAMES(store_list_shard),
     PyDoc_STR("list_shard($self, shard, /, source=0)\n--\n\nThe entries of one of the 256 "
               "shards, as the directory has them now.")},
    {"names", WITH_NAMES(store_names),
     PyDoc_STR("names($self, shard, enough, /, source=0)\n--\n\nNames of entries from this shard "
               "on, at least so many: (shard to go on with, digests).")},
    {"sift", WITH_NAMES(store_sift),
     PyDoc_STR("sift($self, names, most, /)\n--\n\nRead entries, until `most` bytes were read: "
               "(names done, entries that are whole,\ntheir bytes, digests of those to be looked "
               "at closer).")},
    {"remove_damaged", WITH_NAMES(store_remove_damaged),
     PyDoc_STR("remove_damaged($self, digest, /)\n--\n\nRead an entry once more and set it aside "
               "if it is damaged; whether it was.")},
    {"sweep", WITH_NAMES(store_sweep),
     PyDoc_STR("sweep($self, force=False)\n--\n\nReclaim what is expired, invalidated or left "
               "over; how many entries.\nNone: another process is at it, or nothing may be "
               "written.")},
    {"stats", WITH_NAMES(store_stats),
     PyDoc_STR("stats($self, /)\n--\n\nCounters of this process and the state of the root.")},
    {"now_ms", store_now_ms, METH_NOARGS,
     PyDoc_STR("now_ms($self, /)\n--\n\nUnix milliseconds by this store's clock.")},
    {"set_clock_offset", store_set_clock_offset, METH_O,
     PyDoc_STR("set_clock_offset($self, offset_ms, /)\n--\n\nShift the clock of this store.")},
    {"submit", WITH_NAMES(store_submit),
     PyDoc_STR("submit($self, channel, future, operation, /, *args, **kwargs)\n--\n\nRun the "
               "method named `operation` in the thread pool.")},
    {"close", store_close, METH_NOARGS,
     PyDoc_STR("close($self, /)\n--\n\nRefuse new operations; those under way end well, sweeps "
               "soon. May be called twice.")},
    {"wait", store_wait, METH_O,
     PyDoc_STR("wait($self, seconds, /)\n--\n\nWait until no thread of the pool is or will be "
               "busy with this store, at most so long;\nwhether that is so.")},
    {"__reduce__", store_reduce, METH_NOARGS, PyDoc_STR("Refuses.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef store_members[] = {
    {"root", store_get_root, NULL, PyDoc_STR("Absolute path of base_path/v1."), NULL},
    {"closed", store_get_closed, NULL, PyDoc_STR("Whether close() was called."), NULL},
    {"in_flight", store_get_in_flight, NULL,
     PyDoc_STR("Operations that have begun and whose results were not yet taken."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot store_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The filesystem tier of one root.")},
    {Py_tp_new, store_new},
    {Py_tp_dealloc, store_dealloc},
    {Py_tp_repr, store_repr},
    {Py_tp_methods, store_methods},
    {Py_tp_getset, store_members},
    {0, NULL},
};

static PyType_Spec store_spec = {
    .name = "cogcache._core.Store",
    .basicsize = sizeof(struct cog_py_store),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = store_slots,
};

static PyStructSequence_Field listed_fields[] = {
    {"digest", "The 16 bytes that name the entry."},
    {"disk_bytes", "Blocks on disk."},
    {"source", "Hash of the source's URI; 0 = unknown."},
    {"mtime_ms", "Unix milliseconds of the file."},
    {"used_ms", "Unix milliseconds of its last recorded use; 0 = unknown."},
    {NULL, NULL},
};

static PyStructSequence_Desc listed_description = {
    .name = "cogcache._core.Listed",
    .doc = "One name of a shard.",
    .fields = listed_fields,
    .n_in_sequence = 5,
};

int cog_py_add_store(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->store_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &store_spec, NULL);
    state->listed_type = PyStructSequence_NewType(&listed_description);
    if (state->store_type == NULL || state->listed_type == NULL ||
        PyModule_AddType(module, state->store_type) < 0 ||
        PyModule_AddType(module, state->listed_type) < 0) {
        return -1;
    }
    if (PyModule_AddIntConstant(module, "GET_NO_TOUCH", COG_GET_NO_TOUCH) < 0 ||
        PyModule_AddIntConstant(module, "GET_INDEX_ONLY", COG_GET_INDEX_ONLY) < 0 ||
        PyModule_AddIntConstant(module, "GET_ANY_AGE", COG_GET_ANY_AGE) < 0 ||
        PyModule_AddIntConstant(module, "GET_NO_MAP", COG_GET_NO_MAP) < 0 ||
        PyModule_AddIntConstant(module, "GET_LEAVE", COG_GET_LEAVE) < 0) {
        return -1;
    }
    return 0;
}
