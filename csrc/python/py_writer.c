/*
 * EntryWriter: a value that arrives as a stream of bytes, of whatever length, to the bytes of its
 * container, strictly forward. The entry is the one that the same value as `bytes` makes: a blob
 * and the document that refers to it, or up to COG_PART_THRESHOLD bytes the document alone.
 *
 * What is held between two calls: the bytes of one chunk that is not full yet, and 8 to 12 bytes
 * for every chunk that was.
 */
#include "python/py_channel.h" /* first: Python.h chooses what the system headers offer */

#include <string.h>

#include "core/fs.h"
#include "core/msgpack.h"
#include "python/py_entry.h"
#include "python/py_memory.h"

enum {
    LEAST_CHUNK = 4096,
    CHUNK_STEP = 64 << 10,       /* chunks that grow to keep a limit are multiples of this */
    RELEASE_GIL_BYTES = 64 << 10 /* copying and hashing as much takes some 20 us */
};

/* Bytes on their way out: into room that the caller of the writer has made, then into `rest`. */
struct outbox {
    unsigned char *room;
    size_t left;
    size_t filled;
    struct cog_buf rest;
};

struct py_writer {
    PyObject_HEAD struct cog_draft about; /* everything but a value */
    struct cog_entry_writer *writer;
    struct cog_hasher *hasher; /* of the raw bytes */
    struct cog_buf first;      /* what may yet stay in the document: no part has begun */
    struct outbox out;
    uint64_t expected; /* raw bytes in all; UINT64_MAX: unknown */
    uint64_t max_chunks;
    uint64_t raw;
    uint64_t length; /* of the container so far */
    uint32_t chunk_size;
    uint32_t process;
    bool part_is_open;
    bool busy; /* a call is under way, here or in the pool */
    bool finished;
    bool lost; /* bytes of the container were produced that nobody received */
};

static struct py_writer *writer_of(PyObject *object)
{
    return (struct py_writer *)object;
}

static enum cog_status outbox_write(void *context, const void *data, size_t size, bool stable,
                                    struct cog_error *err)
{
    struct outbox *out = context;

    (void)stable;
    (void)err;
    if (size <= out->left && out->rest.size == 0) {
        memcpy(out->room + out->filled, data, size);
        out->filled += size;
        out->left -= size;
        return COG_OK;
    }
    return cog_buf_append(&out->rest, data, size);
}

/* --- writing: no Python here ------------------------------------------------------------------ */

static enum cog_status begin_part(struct py_writer *self, struct cog_error *err)
{
    struct cog_part_options options = {.chunk_size = self->chunk_size,
                                       .level = self->about.level,
                                       .codec = self->about.compress ? COG_CODEC_ZSTD
                                                                     : COG_CODEC_STORED};
    enum cog_status status = cog_entry_part_begin(self->writer, COG_PART_BLOB, "0", 1, &options,
                                                  NULL, err);

    if (status == COG_OK) {
        self->part_is_open = true;
        status = cog_entry_part_write(self->writer, self->first.data, self->first.size, false, err);
    }
    cog_buf_release(&self->first);
    return status;
}

static enum cog_status write_bytes(struct py_writer *self, const void *data, size_t size,
                                   struct cog_error *err)
{
    enum cog_status status = COG_OK;

    cog_hasher_update(self->hasher, data, size);
    if (!self->part_is_open && size <= COG_PART_THRESHOLD - self->first.size) {
        return cog_buf_append(&self->first, data, size);
    }
    if (!self->part_is_open) {
        status = begin_part(self, err);
    }
    return status == COG_OK ? cog_entry_part_write(self->writer, data, size, false, err) : status;
}

/* The document that a value of bytes has: the bytes themselves, or part 0 in the role of bytes. */
static enum cog_status write_document(struct py_writer *self, struct cog_error *err)
{
    static const unsigned char part_zero[5] = {0, 0, 0, 0, COG_ROLE_BYTES};
    struct cog_part_options options = {.level = self->about.level,
                                       .codec = self->about.compress ? COG_CODEC_ZSTD
                                                                     : COG_CODEC_STORED};
    struct cog_buf *document = &self->about.doc;
    enum cog_status status;

    if (self->part_is_open) {
        status = cog_entry_part_end(self->writer, err);
        if (status == COG_OK) {
            status = cog_mp_ext(document, COG_EXT_PART, part_zero, sizeof part_zero);
        }
    } else {
        status = cog_mp_bin(document, self->first.data, self->first.size);
    }
    if (status == COG_OK) {
        status = cog_entry_part_put(self->writer, COG_PART_DOC, NULL, 0, &options, document->data,
                                    document->size, false, NULL, err);
    }
    return status;
}

/* --- a call, in this thread or in the pool ---------------------------------------------------- */

struct writer_job {
    struct cog_py_job base; /* base.self is the writer */
    Py_buffer data;         /* of feed() */
    struct cog_buf meta;    /* of finish(), where it brings some */
    bool has_meta;
    bool taken;      /* the caller has what was produced */
    PyObject *bytes; /* room for it */
    uint64_t length; /* of the whole container */
    enum cog_status status;
    struct cog_error error;
};

static int refuse(const char *why)
{
    PyErr_SetString(PyExc_ValueError, why);
    return -1;
}

static int enter(struct py_writer *self)
{
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this EntryWriter is in use by another call");
        return -1;
    }
    if (self->finished) {
        return refuse("this EntryWriter has finished");
    }
    if (self->lost) {
        return refuse("a call of this EntryWriter failed or was cancelled: give the entry up");
    }
    if (self->process != cog_fs_system()->process_id()) {
        return refuse("this EntryWriter belongs to the parent process");
    }
    self->busy = true;
    return 0;
}

/* What nobody has taken is a hole in the container: then nothing more can come of it. */
static void writer_release(struct cog_py_job *base)
{
    struct writer_job *job = (struct writer_job *)base;
    struct py_writer *self = writer_of(base->self);

    if (job->data.obj != NULL) {
        PyBuffer_Release(&job->data);
    }
    cog_buf_release(&job->meta);
    Py_CLEAR(job->bytes);
    self->lost |= !job->taken;
    self->out.room = NULL;
    self->out.left = self->out.filled = 0;
    self->busy = false;
}

/* Room for what is waiting already and `most` bytes more. */
static int make_room(struct writer_job *job, size_t most)
{
    struct outbox *out = &writer_of(job->base.self)->out;

    job->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(out->rest.size + most));
    if (job->bytes == NULL) {
        return -1;
    }
    out->room = (unsigned char *)PyBytes_AS_STRING(job->bytes);
    out->filled = out->rest.size;
    out->left = most;
    cog_memory_will_fill(out->room, most, most);
    if (out->rest.size > 0) {
        memcpy(out->room, out->rest.data, out->rest.size);
        cog_buf_reset(&out->rest);
    }
    return 0;
}

/* A new reference to the bytes that were produced, or NULL with an exception set. */
static PyObject *take(struct writer_job *job)
{
    struct py_writer *self = writer_of(job->base.self);
    struct outbox *out = &self->out;
    PyObject *bytes = job->bytes;
    Py_ssize_t filled = (Py_ssize_t)out->filled;

    if (job->status != COG_OK) {
        return cog_py_raise_entry(cog_py_state_of_type(Py_TYPE(self)), job->status, NULL,
                                  &job->error);
    }
    job->bytes = NULL;
    if (_PyBytes_Resize(&bytes, filled + (Py_ssize_t)out->rest.size) < 0) {
        return NULL;
    }
    if (out->rest.size > 0) {
        memcpy(PyBytes_AS_STRING(bytes) + filled, out->rest.data, out->rest.size);
        cog_buf_reset(&out->rest);
    }
    job->taken = true;
    self->length += (uint64_t)PyBytes_GET_SIZE(bytes);
    return bytes;
}

/* Run `job` in this thread, after its parse(); the GIL released where it takes long. */
static PyObject *run_here(struct writer_job *job, void (*run)(struct cog_py_job *),
                          PyObject *(*finish)(struct cog_py_job *, bool *), bool is_long)
{
    PyObject *result;
    bool again = false;

    if (is_long) {
        Py_BEGIN_ALLOW_THREADS;
        run(&job->base);
        Py_END_ALLOW_THREADS;
    } else {
        run(&job->base);
    }
    result = finish(&job->base, &again);
    writer_release(&job->base);
    return result;
}

/* --- feed ------------------------------------------------------------------------------------- */

/* Too many bytes are refused before one of them is taken. */
static int check_size(const struct py_writer *self, size_t size)
{
    uint64_t after = self->raw + size;

    if (after > self->expected) {
        PyErr_Format(PyExc_ValueError, "%llu bytes; %llu were announced", (unsigned long long)after,
                     (unsigned long long)self->expected);
        return -1;
    }
    if (after / self->chunk_size + (after % self->chunk_size != 0) > self->max_chunks) {
        PyErr_Format(PyExc_ValueError,
                     "over %llu chunks of %u bytes: give a larger chunk_size, or the length",
                     (unsigned long long)self->max_chunks, (unsigned)self->chunk_size);
        return -1;
    }
    return 0;
}

/* The most bytes that feeding `size` more can produce. */
static size_t most_produced(const struct py_writer *self, size_t size)
{
    uint64_t done = self->part_is_open ? self->raw / self->chunk_size : 0;
    uint64_t chunks = (self->raw + size) / self->chunk_size - done;
    bool begins = self->part_is_open || self->raw + size > COG_PART_THRESHOLD;

    return begins ? (size_t)chunks * cog_codec_bound(self->chunk_size) : 0;
}

static int feed_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    struct writer_job *job = (struct writer_job *)base;
    struct py_writer *self = writer_of(base->self);

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*:feed", names, &job->data)) {
        return -1;
    }
    if (check_size(self, (size_t)job->data.len) < 0 || enter(self) < 0) {
        PyBuffer_Release(&job->data);
        return -1;
    }
    if (make_room(job, most_produced(self, (size_t)job->data.len)) < 0) {
        writer_release(base);
        return -1;
    }
    return 0;
}

static void feed_run(struct cog_py_job *base)
{
    struct writer_job *job = (struct writer_job *)base;

    job->status = write_bytes(writer_of(base->self), job->data.buf, (size_t)job->data.len,
                              &job->error);
}

static PyObject *feed_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct writer_job *job = (struct writer_job *)base;
    PyObject *bytes = take(job);

    if (bytes != NULL) {
        writer_of(base->self)->raw += (uint64_t)job->data.len;
    }
    return bytes;
}

static PyObject *writer_feed(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct writer_job job = {.base.self = self};

    return feed_parse(&job.base, args, kwargs) < 0
               ? NULL
               : run_here(&job, feed_run, feed_finish,
                          job.data.len > RELEASE_GIL_BYTES || PyBytes_GET_SIZE(job.bytes) > 0);
}

/* --- finish ----------------------------------------------------------------------------------- */

static int finish_parse(struct cog_py_job *base, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"meta", NULL};
    struct writer_job *job = (struct writer_job *)base;
    struct py_writer *self = writer_of(base->self);
    PyObject *meta = Py_None;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:finish", names, &meta)) {
        return -1;
    }
    if (self->expected != UINT64_MAX && self->raw != self->expected) {
        PyErr_Format(PyExc_ValueError, "%llu bytes; %llu were announced",
                     (unsigned long long)self->raw, (unsigned long long)self->expected);
        return -1;
    }
    job->has_meta = meta != Py_None;
    if ((job->has_meta &&
         cog_py_take_meta(cog_py_state_of_type(Py_TYPE(self)), meta, &job->meta) < 0) ||
        enter(self) < 0) {
        cog_buf_release(&job->meta);
        return -1;
    }
    if (make_room(job, 0) < 0) {
        writer_release(base);
        return -1;
    }
    return 0;
}

static void finish_run(struct cog_py_job *base)
{
    struct writer_job *job = (struct writer_job *)base;
    struct py_writer *self = writer_of(base->self);
    const struct cog_buf *meta = job->has_meta ? &job->meta : &self->about.meta;

    job->status = write_document(self, &job->error);
    if (job->status == COG_OK) {
        job->status = cog_entry_finish(self->writer, meta->data, meta->size, &self->about.fresh,
                                       &job->length, &job->error);
    }
}

static PyObject *finish_finish(struct cog_py_job *base, bool *Py_UNUSED(again))
{
    struct py_writer *self = writer_of(base->self);
    PyObject *bytes = take((struct writer_job *)base);

    self->finished = bytes != NULL;
    return bytes;
}

static PyObject *writer_finish(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct writer_job job = {.base.self = self};

    return finish_parse(&job.base, args, kwargs) < 0
               ? NULL
               : run_here(&job, finish_run, finish_finish,
                          writer_of(self)->raw > RELEASE_GIL_BYTES);
}

static PyObject *writer_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const struct cog_py_operation feed = {
        "feed",      COG_LANE_WRITE, sizeof(struct writer_job), feed_parse, feed_run,
        feed_finish, writer_release,
    };
    static const struct cog_py_operation finish = {
        "finish",      COG_LANE_WRITE, sizeof(struct writer_job), finish_parse, finish_run,
        finish_finish, writer_release,
    };
    static const struct cog_py_operation *const operations[] = {&feed, &finish, NULL};

    return cog_py_submit_named(operations, self, args, kwargs);
}

/* --- making one ------------------------------------------------------------------------------- */

struct writer_arguments {
    struct cog_py_draft_arguments about;
    PyObject *length;
    unsigned long long chunk_size;
    unsigned long long max_chunks;
};

static int parse_arguments(PyObject *args, PyObject *kwargs, struct writer_arguments *out)
{
    static char *names[] = {"key",      "meta",       "refreshed_ms", "ttl_ms",
                            "stale_ms", "compress",   "level",        "token",
                            "length",   "chunk_size", "max_chunks",   NULL};
    struct cog_py_draft_arguments *about = &out->about;

    *out = (struct writer_arguments){.about = {.compress = 1, .level = COG_LEVEL_DEFAULT},
                                     .length = Py_None,
                                     .chunk_size = COG_CHUNK_DEFAULT,
                                     .max_chunks = COG_CHUNKS_LIMIT - 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|$OOOOpiOOKK:EntryWriter", names, &about->key,
                                     &about->meta, &about->refreshed, &about->ttl, &about->stale,
                                     &about->compress, &about->level, &about->token, &out->length,
                                     &out->chunk_size, &out->max_chunks)) {
        return -1;
    }
    if (about->meta == NULL || about->refreshed == NULL || about->ttl == NULL) {
        PyBuffer_Release(&about->key);
        PyErr_SetString(PyExc_TypeError, "EntryWriter: meta, refreshed_ms and ttl_ms are needed");
        return -1;
    }
    return 0;
}

/* Chunks grow with an announced length, so that there are at most so many. */
static int choose_chunk(struct py_writer *self, const struct writer_arguments *arguments)
{
    uint64_t chunk = arguments->chunk_size;

    self->expected = UINT64_MAX;
    self->max_chunks = arguments->max_chunks;
    if (chunk < LEAST_CHUNK || chunk > COG_CHUNK_LIMIT) {
        PyErr_Format(PyExc_ValueError, "chunk_size: %llu; %d to %d are possible",
                     (unsigned long long)chunk, LEAST_CHUNK, COG_CHUNK_LIMIT);
        return -1;
    }
    if (self->max_chunks < 1 || self->max_chunks >= COG_CHUNKS_LIMIT) {
        PyErr_Format(PyExc_ValueError, "max_chunks: %llu; 1 to %d are possible",
                     (unsigned long long)self->max_chunks, COG_CHUNKS_LIMIT - 1);
        return -1;
    }
    if (arguments->length != Py_None) {
        uint64_t length = PyLong_AsUnsignedLongLong(arguments->length);
        uint64_t least;

        if (PyErr_Occurred()) {
            return -1;
        }
        self->expected = length;
        least = length / self->max_chunks + (length % self->max_chunks != 0);
        if (least > COG_CHUNK_LIMIT) {
            PyErr_Format(PyExc_ValueError,
                         "length: %llu bytes; %llu chunks of at most %d bytes hold less",
                         (unsigned long long)length, (unsigned long long)self->max_chunks,
                         COG_CHUNK_LIMIT);
            return -1;
        }
        if (least > chunk) {
            chunk = (least + CHUNK_STEP - 1) / CHUNK_STEP * CHUNK_STEP;
        }
    }
    self->chunk_size = (uint32_t)chunk;
    return 0;
}

static int fill_writer(struct cog_py_state *state, struct py_writer *self,
                       const struct writer_arguments *arguments)
{
    struct cog_sink sink = {.context = &self->out, .write = outbox_write};
    struct cog_error err = {0};
    enum cog_status status;

    self->process = cog_fs_system()->process_id();
    if (cog_py_draft_fill(state, &arguments->about, &self->about) < 0 ||
        choose_chunk(self, arguments) < 0) {
        return -1;
    }
    status = cog_hasher_new(&self->hasher);
    if (status == COG_OK) {
        status = cog_entry_writer_new(self->about.key, self->about.key_size, self->about.token,
                                      sink, &self->writer, &err);
    }
    if (status != COG_OK) {
        (void)cog_py_raise_entry(state, status, NULL, &err);
        return -1;
    }
    return 0;
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct cog_py_state *state = cog_py_state_of_type(type);
    struct writer_arguments arguments;

    if (state == NULL || parse_arguments(args, kwargs, &arguments) < 0) {
        return NULL;
    }
    struct py_writer *self = (struct py_writer *)type->tp_alloc(type, 0);

    if (self != NULL && fill_writer(state, self, &arguments) < 0) {
        Py_CLEAR(self);
    }
    PyBuffer_Release(&arguments.about.key);
    return (PyObject *)self;
}

static void writer_dealloc(PyObject *object)
{
    struct py_writer *self = writer_of(object);
    PyTypeObject *type = Py_TYPE(object);

    cog_entry_writer_free(self->writer);
    cog_hasher_free(self->hasher);
    cog_draft_release(&self->about);
    cog_buf_release(&self->first);
    cog_buf_release(&self->out.rest);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- attributes ------------------------------------------------------------------------------- */

static PyObject *writer_key(PyObject *object, void *Py_UNUSED(closure))
{
    const struct cog_draft *about = &writer_of(object)->about;

    return PyBytes_FromStringAndSize((const char *)about->key, (Py_ssize_t)about->key_size);
}

enum number_field { FIELD_TOKEN, FIELD_RAW, FIELD_LENGTH, FIELD_CHUNK };

static PyObject *writer_number(PyObject *object, void *closure)
{
    const struct py_writer *self = writer_of(object);

    switch ((enum number_field)(intptr_t)closure) {
    case FIELD_TOKEN: return PyLong_FromUnsignedLongLong(cog_entry_writer_token(self->writer));
    case FIELD_RAW: return PyLong_FromUnsignedLongLong(self->raw);
    case FIELD_LENGTH: return PyLong_FromUnsignedLongLong(self->length);
    case FIELD_CHUNK: return PyLong_FromUnsignedLong(self->chunk_size);
    }
    Py_UNREACHABLE();
}

static PyObject *writer_digest(PyObject *object, void *Py_UNUSED(closure))
{
    const struct py_writer *self = writer_of(object);
    struct cog_digest digest;

    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this EntryWriter is in use by another call");
        return NULL;
    }
    cog_hasher_digest(self->hasher, &digest);
    return PyBytes_FromStringAndSize((const char *)digest.bytes, sizeof digest.bytes);
}

static PyObject *writer_finished(PyObject *object, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(writer_of(object)->finished);
}

#define NUMBER(name, field, doc)                                   \
    {                                                              \
        name, writer_number, NULL, PyDoc_STR(doc), (void *)(field) \
    }

static PyGetSetDef writer_getset[] = {
    {"key", writer_key, NULL, PyDoc_STR("The canonical key encoding."), NULL},
    NUMBER("token", FIELD_TOKEN, "The write token."),
    NUMBER("raw_bytes", FIELD_RAW, "Bytes fed so far."),
    NUMBER("length", FIELD_LENGTH, "Bytes of the container handed out so far."),
    NUMBER("chunk_size", FIELD_CHUNK, "Raw bytes of a chunk, as chosen."),
    {"digest", writer_digest, NULL, PyDoc_STR("XXH3-128 of the bytes fed so far."), NULL},
    {"finished", writer_finished, NULL, PyDoc_STR("Whether finish() has returned."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define WITH_NAMES(f) (PyCFunction)(void (*)(void))(f), METH_VARARGS | METH_KEYWORDS

static PyMethodDef writer_methods[] = {
    {"feed", WITH_NAMES(writer_feed),
     PyDoc_STR("feed($self, data, /)\n--\n\nTake bytes of the value; the bytes of the container "
               "that follow from them, often none.")},
    {"finish", WITH_NAMES(writer_finish),
     PyDoc_STR("finish($self, meta=None)\n--\n\nThe value is complete: the last bytes of the "
               "container. `meta` replaces the metadata given before.")},
    {"submit", WITH_NAMES(writer_submit),
     PyDoc_STR("submit($self, channel, future, operation, /, *args, **kwargs)\n--\n\nRun the "
               "method named `operation` (feed, finish) in the thread pool.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A value that arrives as a stream of bytes, to a container.")},
    {Py_tp_new, (void *)writer_new},
    {Py_tp_dealloc, (void *)writer_dealloc},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_getset},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "cogcache._core.EntryWriter",
    .basicsize = sizeof(struct py_writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};

int cog_py_add_writer(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->writer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &writer_spec, NULL);
    return state->writer_type != NULL ? PyModule_AddType(module, state->writer_type) : -1;
}
