#include "python/py_memory.h"

#include "core/alloc.h"
#include "core/fs.h"

enum {
    ALIGNMENT = 64,       /* a cache line, as the arrays in a container */
    HUGE_BYTES = 4 << 20, /* from here on huge pages pay; numpy has the same limit */
    /* from here on pages may be cheaper together than fault by fault: they */
    MANY_BYTES = 16 << 10,
    /* are when so much is filled, as little comes from what was just freed */
    LARGE_BYTES = 32 << 20,
    PAGE = 4096
};

struct py_memory {
    PyObject_HEAD unsigned char *data;
    size_t size;
    void *block;     /* owned, or NULL */
    PyObject *owner; /* keeps borrowed bytes in place, or NULL */
    bool read_only;
};

static struct py_memory *memory_of(PyObject *object)
{
    return (struct py_memory *)object;
}

static struct py_memory *new_object(struct cog_py_state *state)
{
    PyTypeObject *type = state->memory_type;
    struct py_memory *memory = (struct py_memory *)type->tp_alloc(type, 0);

    if (memory != NULL) {
        memory->block = NULL;
        memory->owner = NULL;
    }
    return memory;
}

void cog_memory_will_fill(void *data, size_t size, uint64_t together)
{
    unsigned char *start = data;
    size_t skipped = -(uintptr_t)start & (PAGE - 1);

    if (data == NULL || size < MANY_BYTES) {
        return;
    }
    if (size >= HUGE_BYTES) {
        (void)cog_fs_system()->advise_huge(start + skipped, size - skipped);
    } else if (together >= LARGE_BYTES) {
        size -= skipped;
        (void)cog_fs_system()->populate(start + skipped, size - size % PAGE);
    }
}

PyObject *cog_memory_new(struct cog_py_state *state, size_t size)
{
    struct py_memory *memory = new_object(state);
    size_t room;

    if (memory == NULL) {
        return NULL;
    }
    memory->block = cog_add_overflows(size, ALIGNMENT, &room) ? NULL : cog_alloc(room);
    if (memory->block == NULL) {
        Py_DECREF(memory);
        return PyErr_NoMemory();
    }
    memory->data = (unsigned char *)memory->block;
    memory->data += -(uintptr_t)memory->data & (ALIGNMENT - 1);
    memory->size = size;
    memory->read_only = false;
    cog_memory_will_fill(memory->data, size, size);
    return (PyObject *)memory;
}

PyObject *cog_memory_borrow(struct cog_py_state *state, void *data, size_t size, PyObject *owner,
                            bool read_only)
{
    struct py_memory *memory = new_object(state);

    if (memory != NULL) {
        memory->data = data;
        memory->size = size;
        memory->owner = Py_NewRef(owner);
        memory->read_only = read_only;
    }
    return (PyObject *)memory;
}

void cog_memory_freeze(PyObject *memory)
{
    memory_of(memory)->read_only = true;
}

bool cog_is_memory(const struct cog_py_state *state, PyObject *object)
{
    return Py_TYPE(object) == state->memory_type;
}

unsigned char *cog_memory_data(PyObject *memory)
{
    return memory_of(memory)->data;
}

size_t cog_memory_size(PyObject *memory)
{
    return memory_of(memory)->size;
}

static int memory_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    struct py_memory *memory = memory_of(self);

    return PyBuffer_FillInfo(view, self, memory->data, (Py_ssize_t)memory->size, memory->read_only,
                             flags);
}

static void memory_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    cog_free(memory_of(self)->block);
    Py_XDECREF(memory_of(self)->owner);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("Bytes behind an array or a view; only a buffer.")},
    {Py_bf_getbuffer, (void *)memory_getbuffer},
    {Py_tp_dealloc, (void *)memory_dealloc},
    {0, NULL},
};

static PyType_Spec memory_spec = {
    .name = "cogcache._core.Memory",
    .basicsize = sizeof(struct py_memory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = memory_slots,
};

int cog_py_add_memory(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    state->memory_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &memory_spec, NULL);
    return state->memory_type == NULL ? -1 : PyModule_AddType(module, state->memory_type);
}
