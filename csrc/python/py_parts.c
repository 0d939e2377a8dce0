/* Many parts of one entry at once: the frames of a bundle. */
#include "python/py_load.h"

#include <string.h>

#include "core/alloc.h"

enum {
    GAP_LIMIT = 256 << 10, /* parts this near to each other are fetched with one read, */
    RUN_LIMIT = 16 << 20   /* of at most this much */
};

struct wanted {
    uint32_t number;
    struct cog_part part;
    unsigned char *out;
};

/* The numbers of a sequence; NULL with an exception set. `*count` of them. */
static struct wanted *read_numbers(const struct cog_load *load, PyObject *numbers, size_t *count)
{
    PyObject *items = PySequence_Fast(numbers, "part numbers: a sequence is needed");
    struct wanted *wanted = NULL;

    if (items == NULL) {
        return NULL;
    }
    *count = (size_t)PySequence_Fast_GET_SIZE(items);
    wanted = cog_alloc_zeroed(*count + 1, sizeof *wanted);
    if (wanted == NULL) {
        PyErr_NoMemory();
    }
    for (size_t i = 0; wanted != NULL && i < *count; i++) {
        unsigned long number = PyLong_AsUnsignedLong(
            PySequence_Fast_GET_ITEM(items, (Py_ssize_t)i));

        if ((number == (unsigned long)-1 && PyErr_Occurred()) || number > UINT32_MAX ||
            cog_entry_part(load->entry, (uint32_t)number, &wanted[i].part) != COG_OK) {
            if (!PyErr_Occurred()) {
                PyErr_Format(PyExc_IndexError, "no part %lu", number);
            }
        } else if (load->lent && wanted[i].part.kind == COG_PART_ARRAY) {
            PyErr_Format(PyExc_ValueError, "part %lu was given away as an array", number);
        }
        if (PyErr_Occurred()) {
            cog_free(wanted);
            wanted = NULL;
        } else {
            wanted[i].number = (uint32_t)number;
        }
    }
    Py_DECREF(items);
    return wanted;
}

enum cog_status cog_parts_check(const struct cog_load *load, PyObject *numbers,
                                struct cog_error *err)
{
    size_t count;
    struct wanted *wanted = read_numbers(load, numbers, &count);
    enum cog_status status = COG_OK;

    if (wanted == NULL) {
        return COG_ERR_INVALID; /* with the exception set */
    }
    Py_BEGIN_ALLOW_THREADS for (size_t i = 0; i < count && status == COG_OK; i++)
    {
        if (load->object != NULL) {
            status = cog_object_verify_part(load->object, wanted[i].number, err);
        } else {
            status = cog_entry_check_chunks(load->entry, load->source, wanted[i].part.first_chunk,
                                            wanted[i].part.chunk_count, err);
        }
    }
    Py_END_ALLOW_THREADS cog_free(wanted);
    return status;
}

/* --- reading runs ---------------------------------------------------------------------------- */

/* A piece of the container in memory, for the reader of parts. */
struct window {
    uint64_t offset;
    size_t size;
    const unsigned char *bytes;
};

static const unsigned char *window_view(void *context, uint64_t offset, size_t size)
{
    const struct window *window = context;

    if (offset < window->offset || offset - window->offset > window->size ||
        size > window->size - (size_t)(offset - window->offset)) {
        return NULL;
    }
    return window->bytes + (size_t)(offset - window->offset);
}

static enum cog_status window_read(void *context, uint64_t offset, void *out, size_t size,
                                   struct cog_error *err)
{
    const unsigned char *bytes = window_view(context, offset, size);

    if (bytes == NULL) {
        return cog_fail(err, COG_ERR_INVALID, 0, "outside the window");
    }
    memcpy(out, bytes, size);
    return COG_OK;
}

static int by_number(const void *left, const void *right)
{
    const struct wanted *a = left, *b = right;

    return (a->number > b->number) - (a->number < b->number);
}

/* How many of `wanted`, sorted, lie near enough together for one read. */
static size_t run_length(const struct wanted *wanted, size_t count)
{
    uint64_t start = wanted[0].part.offset;
    uint64_t end = start + wanted[0].part.stored_size;
    size_t length = 1;

    for (; length < count; length++) {
        const struct cog_part *part = &wanted[length].part;

        if (part->offset > end + GAP_LIMIT ||
            part->offset + part->stored_size > start + RUN_LIMIT) {
            break;
        }
        if (part->offset + part->stored_size > end) {
            end = part->offset + part->stored_size;
        }
    }
    return length;
}

static enum cog_status fetch_run(const struct cog_load *load, const struct wanted *wanted,
                                 size_t count, struct cog_error *err)
{
    const struct cog_part *last = &wanted[count - 1].part;
    struct window window = {.offset = wanted[0].part.offset};
    struct cog_source source = {
        .context = &window, .size = load->source->size, .read = window_read, .view = window_view};
    enum cog_status status = COG_OK;
    unsigned char *memory = NULL;

    if (count > 1 && load->image == NULL) {
        window.size = (size_t)(last->offset + last->stored_size - window.offset);
        window.bytes = memory = cog_alloc(window.size);
        if (memory == NULL) {
            return COG_ERR_NOMEM;
        }
        status = load->source->read(load->source->context, window.offset, memory, window.size, err);
    } else {
        source = *load->source; /* one part: the reader of parts knows best */
    }
    for (size_t i = 0; i < count && status == COG_OK; i++) {
        status = cog_entry_read(load->entry, &source, NULL, wanted[i].number, 0,
                                wanted[i].part.raw_size, wanted[i].out, err);
    }
    cog_free(memory);
    return status;
}

PyObject *cog_parts_fetch(const struct cog_load *load, PyObject *numbers, enum cog_status *status,
                          struct cog_error *err)
{
    size_t count;
    struct wanted *wanted = read_numbers(load, numbers, &count);
    PyObject *list = wanted != NULL ? PyList_New((Py_ssize_t)count) : NULL;

    *status = COG_ERR_INVALID; /* with the exception set */
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)wanted[i].part.raw_size);

        if (bytes == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, bytes);
            wanted[i].out = (unsigned char *)PyBytes_AS_STRING(bytes);
        }
    }
    if (list != NULL) {
        *status = COG_OK;
        Py_BEGIN_ALLOW_THREADS qsort(wanted, count, sizeof *wanted, by_number);
        for (size_t i = 0; i < count && *status == COG_OK;) {
            size_t length = run_length(&wanted[i], count - i);

            *status = fetch_run(load, &wanted[i], length, err);
            i += length;
        }
        Py_END_ALLOW_THREADS if (*status != COG_OK)
        {
            Py_CLEAR(list);
        }
    }
    cog_free(wanted);
    return list;
}
