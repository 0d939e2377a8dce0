#include "python/py_module.h"

/* What the module consists of, in the order in which it is added; ends with NULL. */
static int (*const cog_py_adders[])(PyObject *module) = {
    cog_py_add_hash,
    cog_py_add_key,
    cog_py_add_channel,
    cog_py_add_memory,
    cog_py_add_value,
    cog_py_add_draft,
    cog_py_add_writer,
    cog_py_add_entry,
    cog_py_add_store,
    cog_py_add_incoming,
    NULL,
};

struct cog_py_state *cog_py_state_of(PyObject *module)
{
    return PyModule_GetState(module);
}

struct cog_py_state *cog_py_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &cog_py_module);

    return module != NULL ? cog_py_state_of(module) : NULL;
}

static int module_exec(PyObject *module)
{
    for (size_t i = 0; cog_py_adders[i] != NULL; i++) {
        if (cog_py_adders[i](module) < 0) {
            return -1;
        }
    }
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct cog_py_state *state = cog_py_state_of(module);

    if (state != NULL) {
#define COG_PY_VISIT(type, name) Py_VISIT(state->name);
        COG_PY_STATE(COG_PY_VISIT)
#undef COG_PY_VISIT
    }
    (void)visit;
    (void)arg;
    return 0;
}

static int module_clear(PyObject *module)
{
    struct cog_py_state *state = cog_py_state_of(module);

    if (state != NULL) {
#define COG_PY_CLEAR(type, name) Py_CLEAR(state->name);
        COG_PY_STATE(COG_PY_CLEAR)
#undef COG_PY_CLEAR
    }
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear(module);
}

/*
 * The core keeps process-wide state (fork handlers, the thread pool, one index descriptor per
 * cache directory), so a second interpreter in one process is refused, not half supported.
 */
static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef cog_py_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "cogcache._core",
    .m_doc = PyDoc_STR("The C core of cogcache."),
    .m_size = sizeof(struct cog_py_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&cog_py_module);
}
