/*
 * Keys for Python: walks parameters and writes the canonical encoding of core/key.h, without an
 * object in between.
 *
 * What a type means is decided here: docs/keys.md has the table. Whatever is refused is raised by
 * the Python function cogcache.keys.refuse(kind, steps, value), so that texts and hints are written
 * in one place.
 */
#include "python/py_key.h"

#include <string.h>

#include "core/bytes.h"
#include "core/key.h"

enum { FEW_NAMES = 24, USUAL_SIZE = 256 };

/* Where the walk stands: a name or an index, and what it is inside of. The outermost has neither.
 */
struct step {
    const struct step *up;
    PyObject *name; /* borrowed */
    Py_ssize_t index;
    unsigned depth;
};

struct walk {
    struct cog_buf out;
    size_t long_total; /* encoded bytes of what was folded */
    PyObject *folded;  /* dict (name, ...) -> encoding of folded values, or NULL */
    bool collects;     /* into `folded`, which is made when the first one comes */
};

struct pair {
    PyObject *name;  /* owned */
    PyObject *value; /* owned */
    const char *utf8;
    Py_ssize_t size;
    uint64_t prefix; /* the first eight bytes as a number: decides most comparisons */
};

static int put_value(struct walk *walk, const struct step *step, PyObject *value);

/* --- refusing -------------------------------------------------------------------------------- */

static PyObject *steps_tuple(const struct step *step)
{
    PyObject *tuple;
    Py_ssize_t count = 0;

    for (const struct step *at = step; at->up != NULL; at = at->up) {
        count++;
    }
    tuple = PyTuple_New(count);
    for (const struct step *at = step; tuple != NULL && at->up != NULL; at = at->up) {
        PyObject *item = at->name != NULL ? Py_NewRef(at->name) : PyLong_FromSsize_t(at->index);
        if (item == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, --count, item);
    }
    return tuple;
}

/* Raise what cogcache.keys.refuse makes of it; -1 always. */
static int refuse(const struct step *step, const char *kind, PyObject *value)
{
    PyObject *module = PyImport_ImportModule("cogcache.keys");
    PyObject *steps = module != NULL ? steps_tuple(step) : NULL;
    PyObject *result = NULL;

    if (steps != NULL) {
        result = PyObject_CallMethod(module, "refuse", "sOO", kind, steps, value);
    }
    if (result != NULL) {
        PyErr_SetString(PyExc_SystemError, "cogcache.keys.refuse returned");
    }
    Py_XDECREF(result);
    Py_XDECREF(steps);
    Py_XDECREF(module);
    return -1;
}

static int check(const struct step *step, enum cog_status status, PyObject *value)
{
    if (status == COG_OK) {
        return 0;
    }
    if (status == COG_ERR_LIMIT) {
        return refuse(step, "long", value);
    }
    PyErr_NoMemory();
    return -1;
}

/* --- single values --------------------------------------------------------------------------- */

/* The UTF-8 of a str without lone surrogates and NUL; NULL with the error set. */
static const char *utf8_of(const struct step *step, PyObject *text, Py_ssize_t *size)
{
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, size);

    if (utf8 == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            (void)refuse(step, "surrogate", text);
        }
        return NULL;
    }
    if (memchr(utf8, 0, (size_t)*size) != NULL) {
        (void)refuse(step, "nul", text);
        return NULL;
    }
    return utf8;
}

static int put_str(struct walk *walk, const struct step *step, PyObject *value)
{
    Py_ssize_t size;
    const char *utf8 = utf8_of(step, value, &size);

    if (utf8 == NULL) {
        return -1;
    }
    if (size > COG_KEY_LONG_MAX) {
        return refuse(step, "long", value);
    }
    return check(step, cog_key_str(&walk->out, utf8, (size_t)size), value);
}

static int put_bytes(struct walk *walk, const struct step *step, PyObject *value)
{
    const Py_ssize_t size = PyBytes_GET_SIZE(value);

    if (size > COG_KEY_LONG_MAX) {
        return refuse(step, "long", value);
    }
    return check(step, cog_key_bytes(&walk->out, PyBytes_AS_STRING(value), (size_t)size), value);
}

static unsigned char hex_digit(char c)
{
    return (unsigned char)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* An int beyond 64 bits, by way of its hex text: the one public form that every version and
 * subclass has. */
static int put_big(struct walk *walk, const struct step *step, PyObject *value)
{
    PyObject *text = PyNumber_ToBase(value, 16);
    const char *digits;
    Py_ssize_t count;
    unsigned char *magnitude;
    size_t size = 0;
    bool negative;
    int result;

    if (text == NULL) {
        return -1;
    }
    digits = PyUnicode_AsUTF8AndSize(text, &count);
    if (digits == NULL) {
        Py_DECREF(text);
        return -1;
    }
    negative = digits[0] == '-';
    digits += negative ? 3 : 2;
    count -= negative ? 3 : 2;
    magnitude = PyMem_Malloc((size_t)count / 2 + 1);
    if (magnitude == NULL) {
        Py_DECREF(text);
        PyErr_NoMemory();
        return -1;
    }
    while (count > 0) {
        unsigned char byte = hex_digit(digits[--count]);
        if (count > 0) {
            byte |= (unsigned char)(hex_digit(digits[--count]) << 4);
        }
        magnitude[size++] = byte;
    }
    result = size > COG_KEY_SIZE_MAX
                 ? refuse(step, "size", value)
                 : check(step, cog_key_big(&walk->out, negative, magnitude, size), value);
    PyMem_Free(magnitude);
    Py_DECREF(text);
    return result;
}

static int put_int(struct walk *walk, const struct step *step, PyObject *value)
{
    int overflow;
    const long long small = PyLong_AsLongLongAndOverflow(value, &overflow);

    if (overflow) {
        return put_big(walk, step, value);
    }
    if (small == -1 && PyErr_Occurred()) {
        return -1;
    }
    return check(step, cog_key_int(&walk->out, small), value);
}

/* What `convert` makes of `value`, which must be an int, as an integer. */
static int put_converted(struct walk *walk, const struct step *step, PyObject *converted)
{
    int result = -1;

    if (converted == NULL) {
        return -1;
    }
    if (PyLong_Check(converted)) {
        result = put_int(walk, step, converted);
    } else if (PyFloat_Check(converted)) {
        result = check(step, cog_key_double(&walk->out, PyFloat_AS_DOUBLE(converted)), converted);
    } else {
        result = refuse(step, "type", converted);
    }
    Py_DECREF(converted);
    return result;
}

static int put_fraction(struct walk *walk, const struct step *step, PyObject *value)
{
    PyObject *numerator = PyObject_GetAttrString(value, "numerator");
    PyObject *denominator = numerator != NULL ? PyObject_GetAttrString(value, "denominator") : NULL;
    int result = -1;

    if (denominator != NULL && PyLong_Check(numerator) && PyLong_Check(denominator)) {
        int overflow;
        const bool whole = PyLong_AsLongLongAndOverflow(denominator, &overflow) == 1 && !overflow;
        result = whole ? 0 : check(step, cog_key_ratio(&walk->out), value);
        if (result == 0) {
            result = put_int(walk, step, numerator);
        }
        if (result == 0 && !whole) {
            result = put_int(walk, step, denominator);
        }
    } else if (denominator != NULL) {
        result = refuse(step, "type", value);
    }
    Py_XDECREF(numerator);
    Py_XDECREF(denominator);
    return result;
}

/* --- lists and maps -------------------------------------------------------------------------- */

static int enter(const struct walk *walk, const struct step *step, PyObject *value)
{
    if (step->depth >= COG_KEY_DEPTH_MAX) {
        return refuse(step, "depth", value);
    }
    /* Keeps the buffer bounded while a huge list is walked. */
    if (walk->out.size > COG_KEY_LONG_MAX + COG_KEY_SIZE_MAX) {
        return refuse(step, "long", value);
    }
    return 0;
}

static int put_list(struct walk *walk, const struct step *step, PyObject *value)
{
    const bool is_list = PyList_Check(value);
    const Py_ssize_t count = is_list ? PyList_GET_SIZE(value) : PyTuple_GET_SIZE(value);
    struct step inside = {step, NULL, 0, step->depth + 1};

    if (enter(walk, step, value) < 0 ||
        check(step, cog_key_list(&walk->out, (size_t)count), value) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item;
        int result;
        if (is_list && i >= PyList_GET_SIZE(value)) {
            PyErr_SetString(PyExc_RuntimeError, "a list changed size while its key was made");
            return -1;
        }
        item = Py_NewRef(is_list ? PyList_GET_ITEM(value, i) : PyTuple_GET_ITEM(value, i));
        inside.index = i;
        result = put_value(walk, &inside, item);
        Py_DECREF(item);
        if (result < 0) {
            return -1;
        }
        if (walk->out.size > COG_KEY_LONG_MAX + COG_KEY_SIZE_MAX) {
            return refuse(step, "long", value);
        }
    }
    return 0;
}

static void pairs_release(struct pair *pairs, Py_ssize_t count, const struct pair *few)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_DECREF(pairs[i].name);
        Py_DECREF(pairs[i].value);
    }
    if (pairs != few) {
        PyMem_Free(pairs);
    }
}

/* Copies the pairs of a dict, or of a list of 2-tuples. Names are owned from here on: a callback
 * may change the map. */
static Py_ssize_t pairs_collect(PyObject *map, struct pair *pairs, Py_ssize_t room)
{
    Py_ssize_t count = 0;
    Py_ssize_t at = 0;
    PyObject *name;
    PyObject *value;

    if (PyDict_Check(map)) {
        while (count < room && PyDict_Next(map, &at, &name, &value)) {
            pairs[count].name = Py_NewRef(name);
            pairs[count++].value = Py_NewRef(value);
        }
        return count;
    }
    for (; count < room && count < PyList_GET_SIZE(map); count++) {
        PyObject *item = PyList_GET_ITEM(map, count);
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
            break;
        }
        pairs[count].name = Py_NewRef(PyTuple_GET_ITEM(item, 0));
        pairs[count].value = Py_NewRef(PyTuple_GET_ITEM(item, 1));
    }
    return count;
}

static uint64_t prefix_of(const char *utf8, Py_ssize_t size)
{
    unsigned char bytes[8] = {0};

    memcpy(bytes, utf8, size < 8 ? (size_t)size : sizeof bytes);
    return cog_load_be64(bytes);
}

static int pair_order(const void *a, const void *b)
{
    const struct pair *left = a;
    const struct pair *right = b;

    if (left->prefix != right->prefix) {
        return left->prefix < right->prefix ? -1 : 1;
    }
    return cog_key_compare(left->utf8, (size_t)left->size, right->utf8, (size_t)right->size);
}

/* Insertion sort: maps are small and often in order already; qsort for the others. */
static void pairs_sort(struct pair *pairs, Py_ssize_t count)
{
    if (count > FEW_NAMES) {
        qsort(pairs, (size_t)count, sizeof *pairs, pair_order);
        return;
    }
    for (Py_ssize_t i = 1; i < count; i++) {
        const struct pair moved = pairs[i];
        Py_ssize_t at = i;
        while (at > 0 && pair_order(&pairs[at - 1], &moved) > 0) {
            pairs[at] = pairs[at - 1];
            at--;
        }
        pairs[at] = moved;
    }
}

static int pairs_check(const struct step *step, struct pair *pairs, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyUnicode_Check(pairs[i].name)) {
            return refuse(step, "name", pairs[i].name);
        }
        pairs[i].utf8 = utf8_of(step, pairs[i].name, &pairs[i].size);
        if (pairs[i].utf8 == NULL) {
            return -1;
        }
        pairs[i].prefix = prefix_of(pairs[i].utf8, pairs[i].size);
    }
    pairs_sort(pairs, count);
    for (Py_ssize_t i = 1; i < count; i++) {
        if (pair_order(&pairs[i - 1], &pairs[i]) == 0) {
            return refuse(step, "duplicate", pairs[i].name);
        }
    }
    return 0;
}

/*
 * A map is either a value, or holds parameters: then each value is folded when long, and at the
 * outermost level no name may be empty and `params` is again a map of parameters.
 */
enum map_role { MAP_VALUE, MAP_PARAMETERS, MAP_SUB_PARAMETERS };

static int put_map(struct walk *walk, const struct step *step, PyObject *map, enum map_role role);

static int put_parameter(struct walk *walk, const struct step *step, PyObject *value,
                         enum map_role role);

static int put_pairs(struct walk *walk, const struct step *step, const struct pair *pairs,
                     Py_ssize_t count, enum map_role role)
{
    struct step inside = {step, NULL, 0, step->depth + 1};

    if (check(step, cog_key_map(&walk->out, (size_t)count), Py_None) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        int result;
        inside.name = pairs[i].name;
        if (check(&inside, cog_key_str(&walk->out, pairs[i].utf8, (size_t)pairs[i].size),
                  pairs[i].name) < 0) {
            return -1;
        }
        if (role == MAP_VALUE) {
            result = put_value(walk, &inside, pairs[i].value);
        } else {
            result = put_parameter(walk, &inside, pairs[i].value, role);
        }
        if (result < 0) {
            return -1;
        }
        if (walk->out.size > COG_KEY_LONG_MAX + COG_KEY_SIZE_MAX) {
            return refuse(step, "long", Py_None);
        }
    }
    return 0;
}

/* `map` is a dict, or the list of items of another mapping. */
static int put_map(struct walk *walk, const struct step *step, PyObject *map, enum map_role role)
{
    struct pair few[FEW_NAMES];
    struct pair *pairs = few;
    const Py_ssize_t room = PyDict_Check(map) ? PyDict_GET_SIZE(map) : PyList_GET_SIZE(map);
    Py_ssize_t count;
    int result;

    if (enter(walk, step, map) < 0) {
        return -1;
    }
    if (room > FEW_NAMES) {
        pairs = PyMem_New(struct pair, (size_t)room);
        if (pairs == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    count = pairs_collect(map, pairs, room);
    result = pairs_check(step, pairs, count);
    if (result == 0 && role == MAP_PARAMETERS && count > 0 && pairs[0].size == 0) {
        result = refuse(step, "empty", pairs[0].name);
    }
    if (result == 0) {
        result = put_pairs(walk, step, pairs, count, role);
    }
    pairs_release(pairs, count, few);
    return result;
}

/* --- types that are rarer -------------------------------------------------------------------- */

/*
 * Is `value` an instance of module.name? Never imports: of a module that nobody imported there are
 * no instances. 1, 0, or -1 with the error set.
 */
int cog_py_is_instance(PyObject *value, const char *module_name, const char *name)
{
    PyObject *key = PyUnicode_FromString(module_name);
    PyObject *module = key != NULL ? PyImport_GetModule(key) : NULL;
    PyObject *type;
    int result;

    Py_XDECREF(key);
    if (module == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    type = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    if (type == NULL) {
        /* A module that is still being imported, or a stand-in. */
        PyErr_Clear();
        return 0;
    }
    result = PyObject_IsInstance(value, type);
    Py_DECREF(type);
    return result;
}

static int put_numpy_scalar(struct walk *walk, const struct step *step, PyObject *value)
{
    int found;

    found = cog_py_is_instance(value, "numpy", "bool_");
    if (found != 0) {
        const int truth = found > 0 ? PyObject_IsTrue(value) : -1;
        return truth < 0 ? -1 : check(step, cog_key_bool(&walk->out, truth != 0), value);
    }
    found = cog_py_is_instance(value, "numpy", "integer");
    if (found != 0) {
        /* timedelta64 calls itself an integer. */
        const int duration = found > 0 ? cog_py_is_instance(value, "numpy", "timedelta64") : -1;
        if (duration < 0) {
            return -1;
        }
        return duration ? refuse(step, "type", value)
                        : put_converted(walk, step, PyNumber_Index(value));
    }
    found = cog_py_is_instance(value, "numpy", "floating");
    if (found != 0) {
        /* longdouble may hold what a double cannot. */
        const int extended = found > 0 ? cog_py_is_instance(value, "numpy", "longdouble") : -1;
        if (extended < 0) {
            return -1;
        }
        return extended ? refuse(step, "type", value)
                        : put_converted(walk, step, PyNumber_Float(value));
    }
    return refuse(step, "type", value);
}

static int put_other(struct walk *walk, const struct step *step, PyObject *value)
{
    int found;

    found = cog_py_is_instance(value, "fractions", "Fraction");
    if (found != 0) {
        return found < 0 ? -1 : put_fraction(walk, step, value);
    }
    found = cog_py_is_instance(value, "numpy", "generic");
    if (found != 0) {
        return found < 0 ? -1 : put_numpy_scalar(walk, step, value);
    }
    found = cog_py_is_instance(value, "collections.abc", "Mapping");
    if (found > 0) {
        PyObject *items = PyMapping_Items(value);
        int result = items != NULL ? put_map(walk, step, items, MAP_VALUE) : -1;
        Py_XDECREF(items);
        return result;
    }
    /* Arrays, memory views and the like are sequences too, but of what they hold in memory: not
     * guessed at. */
    if (found == 0 && !PyObject_CheckBuffer(value)) {
        found = cog_py_is_instance(value, "collections.abc", "Sequence");
        if (found > 0) {
            PyObject *items = PySequence_Tuple(value);
            int result = items != NULL ? put_list(walk, step, items) : -1;
            Py_XDECREF(items);
            return result;
        }
    }
    return found < 0 ? -1 : refuse(step, "type", value);
}

static int put_value(struct walk *walk, const struct step *step, PyObject *value)
{
    if (PyUnicode_Check(value)) {
        return put_str(walk, step, value);
    }
    if (PyBool_Check(value)) {
        return check(step, cog_key_bool(&walk->out, value == Py_True), value);
    }
    if (PyLong_Check(value)) {
        return put_int(walk, step, value);
    }
    if (PyFloat_Check(value)) {
        return check(step, cog_key_double(&walk->out, PyFloat_AS_DOUBLE(value)), value);
    }
    if (value == Py_None) {
        return check(step, cog_key_null(&walk->out), value);
    }
    if (PyBytes_Check(value)) {
        return put_bytes(walk, step, value);
    }
    if (PyList_Check(value) || PyTuple_Check(value)) {
        return put_list(walk, step, value);
    }
    if (PyDict_Check(value)) {
        return put_map(walk, step, value, MAP_VALUE);
    }
    return put_other(walk, step, value);
}

/* --- parameters ------------------------------------------------------------------------------ */

/* A cogcache.keys.LongValue stands for a value of which a printed key kept only the digest. */
static int put_long_value(struct walk *walk, const struct step *step, PyObject *value)
{
    PyObject *parts = PyObject_CallMethod(value, "parts", NULL);
    int tag;
    const char *digest;
    Py_ssize_t size;
    unsigned int length;
    struct cog_digest copy;
    int result = -1;

    if (parts == NULL) {
        return -1;
    }
    if (PyArg_ParseTuple(parts, "Cy#I", &tag, &digest, &size, &length)) {
        if (size == sizeof copy.bytes) {
            memcpy(copy.bytes, digest, sizeof copy.bytes);
            result = check(step, cog_key_digest(&walk->out, (enum cog_key_tag)tag, &copy, length),
                           value);
        } else {
            PyErr_SetString(PyExc_ValueError, "the digest of a long value has 16 bytes");
        }
    }
    Py_DECREF(parts);
    return result;
}

static int fold(struct walk *walk, const struct step *step, size_t start, PyObject *value)
{
    if (!cog_key_is_long(&walk->out, start)) {
        return 0;
    }
    walk->long_total += walk->out.size - start;
    if (walk->long_total > COG_KEY_LONG_MAX) {
        return refuse(step, "long", value);
    }
    if (walk->collects && walk->folded == NULL) {
        walk->folded = PyDict_New();
        if (walk->folded == NULL) {
            return -1;
        }
    }
    if (walk->folded != NULL) {
        PyObject *steps = steps_tuple(step);
        PyObject *encoding = PyBytes_FromStringAndSize((const char *)walk->out.data + start,
                                                       (Py_ssize_t)(walk->out.size - start));
        int result = -1;
        if (steps != NULL && encoding != NULL) {
            result = PyDict_SetItem(walk->folded, steps, encoding);
        }
        Py_XDECREF(steps);
        Py_XDECREF(encoding);
        if (result < 0) {
            return -1;
        }
    }
    cog_key_fold(&walk->out, start);
    return 0;
}

/* The sub-map `params`: its values are parameters too. */
static int put_sub_parameters(struct walk *walk, const struct step *step, PyObject *map)
{
    PyObject *items;
    int result;

    if (PyDict_Check(map)) {
        return put_map(walk, step, map, MAP_SUB_PARAMETERS);
    }
    items = PyMapping_Items(map);
    result = items != NULL ? put_map(walk, step, items, MAP_SUB_PARAMETERS) : -1;
    Py_XDECREF(items);
    return result;
}

static bool is_sub_map_name(PyObject *name)
{
    return PyUnicode_CompareWithASCIIString(name, "params") == 0;
}

/* Of a built-in type that put_value knows at sight. */
static bool is_plain(PyObject *value)
{
    return PyUnicode_Check(value) || PyLong_Check(value) || PyFloat_Check(value) ||
           value == Py_None || PyBytes_Check(value) || PyList_Check(value) ||
           PyTuple_Check(value) || PyDict_Check(value);
}

static int put_parameter(struct walk *walk, const struct step *step, PyObject *value,
                         enum map_role role)
{
    const size_t start = walk->out.size;

    if (role == MAP_PARAMETERS && PyDict_Check(value) && is_sub_map_name(step->name)) {
        return put_sub_parameters(walk, step, value);
    }
    if (!is_plain(value)) {
        int found = cog_py_is_instance(value, "cogcache.keys", "LongValue");
        if (found != 0) {
            return found < 0 ? -1 : put_long_value(walk, step, value);
        }
        if (role == MAP_PARAMETERS && is_sub_map_name(step->name)) {
            found = cog_py_is_instance(value, "collections.abc", "Mapping");
            if (found != 0) {
                return found < 0 ? -1 : put_sub_parameters(walk, step, value);
            }
        }
    }
    if (put_value(walk, step, value) < 0) {
        return -1;
    }
    return fold(walk, step, start, value);
}

/* --- functions ------------------------------------------------------------------------------- */

static PyObject *walk_result(struct walk *walk, int result)
{
    PyObject *bytes = NULL;

    if (result == 0) {
        bytes = PyBytes_FromStringAndSize((const char *)walk->out.data, (Py_ssize_t)walk->out.size);
    }
    cog_buf_release(&walk->out);
    return bytes;
}

/* Profile and artifact are not parameters: plain ValueErrors name them. */
static const char *field_utf8(const char *what, PyObject *text, Py_ssize_t *size)
{
    const char *utf8 = PyUnicode_AsUTF8AndSize(text, size);
    const char *fault = NULL;

    if (utf8 != NULL && memchr(utf8, 0, (size_t)*size) != NULL) {
        fault = "NUL character";
    } else if (utf8 == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        PyErr_Clear();
        fault = "lone surrogate";
    }
    if (fault != NULL) {
        PyErr_Format(PyExc_ValueError, "%s holds a %s, which no key can", what, fault);
        return NULL;
    }
    return utf8;
}

static int put_key(struct walk *walk, PyObject *const *args)
{
    const struct step top = {NULL, NULL, 0, 0};
    PyObject *items = NULL;
    Py_ssize_t profile_size;
    Py_ssize_t artifact_size;
    const char *profile = field_utf8("profile", args[0], &profile_size);
    const char *artifact = profile != NULL ? field_utf8("artifact", args[2], &artifact_size) : NULL;
    int result;

    if (artifact == NULL) {
        return -1;
    }
    if (artifact_size == 0) {
        PyErr_SetString(PyExc_ValueError, "artifact is an empty text");
        return -1;
    }
    if (cog_buf_reserve(&walk->out, USUAL_SIZE) != COG_OK ||
        cog_key_begin(&walk->out, profile, (size_t)profile_size,
                      (const unsigned char *)PyBytes_AS_STRING(args[1]), artifact,
                      (size_t)artifact_size) != COG_OK) {
        PyErr_NoMemory();
        return -1;
    }
    if (!PyDict_Check(args[3])) {
        items = PyMapping_Items(args[3]);
        if (items == NULL) {
            return -1;
        }
    }
    result = put_map(walk, &top, items != NULL ? items : args[3], MAP_PARAMETERS);
    Py_XDECREF(items);
    if (result < 0) {
        return -1;
    }
    if (cog_key_end(&walk->out) == COG_OK) {
        return 0;
    }
    if (profile_size > COG_KEY_SIZE_MAX / 2) {
        return refuse(&top, "profile", args[0]);
    }
    return artifact_size > COG_KEY_SIZE_MAX / 2 ? refuse(&top, "artifact", args[2])
                                                : refuse(&top, "size", args[3]);
}

/* 0, or -1 with an exception set. */
static int check_fields(PyObject *const *fields)
{
    if (!PyUnicode_Check(fields[0]) || !PyUnicode_Check(fields[2])) {
        PyErr_Format(PyExc_TypeError, "profile and artifact are str, not %s",
                     Py_TYPE(fields[PyUnicode_Check(fields[0]) ? 2 : 0])->tp_name);
        return -1;
    }
    if (!PyBytes_Check(fields[1]) || PyBytes_GET_SIZE(fields[1]) != COG_KEY_SOURCE_SIZE) {
        PyErr_Format(PyExc_TypeError, "the source of a key is 16 bytes, not %R", fields[1]);
        return -1;
    }
    return 0;
}

PyObject *cog_py_encode_key(PyObject *const *fields, PyObject **folded)
{
    struct walk walk = {.collects = true};
    PyObject *encoded = NULL;

    if (check_fields(fields) == 0) {
        encoded = walk_result(&walk, put_key(&walk, fields));
    }
    *folded = walk.folded;
    if (encoded == NULL) {
        Py_CLEAR(*folded);
    }
    return encoded;
}

static PyObject *py_encode_key(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    struct walk walk = {0};

    if (count < 4 || count > 5) {
        return PyErr_Format(PyExc_TypeError, "encode_key takes 4 or 5 arguments, not %zd", count);
    }
    if (check_fields(args) < 0) {
        return NULL;
    }
    if (count == 5 && args[4] != Py_None) {
        if (!PyDict_Check(args[4])) {
            return PyErr_Format(PyExc_TypeError, "folded is a dict to be filled, not %s",
                                Py_TYPE(args[4])->tp_name);
        }
        walk.folded = args[4];
    }
    return walk_result(&walk, put_key(&walk, args));
}

static PyObject *py_encode_key_value(PyObject *Py_UNUSED(module), PyObject *value)
{
    const struct step top = {NULL, NULL, 0, 0};
    struct walk walk = {0};

    return walk_result(&walk, put_value(&walk, &top, value));
}

static PyObject *py_raw_key(PyObject *Py_UNUSED(module), PyObject *text)
{
    struct cog_buf out = {0};
    PyObject *bytes = NULL;
    Py_ssize_t size;
    const char *utf8;
    enum cog_status status;

    if (!PyUnicode_Check(text)) {
        return PyErr_Format(PyExc_TypeError, "a key is a str or a Key, not %s",
                            Py_TYPE(text)->tp_name);
    }
    utf8 = PyUnicode_AsUTF8AndSize(text, &size);
    if (utf8 == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError,
                         "a key is text of 1 to %d UTF-8 bytes; this one (%zd characters) has a "
                         "lone surrogate",
                         COG_KEY_RAW_MAX, PyUnicode_GET_LENGTH(text));
        }
        return NULL;
    }
    status = cog_key_raw(utf8, (size_t)size, &out);
    if (status == COG_OK) {
        bytes = PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.size);
    } else if (status == COG_ERR_NOMEM) {
        PyErr_NoMemory();
    } else if (status == COG_ERR_INVALID && size > 0) {
        PyErr_Format(PyExc_ValueError, "a key holds no NUL character; this one (%zd bytes) does",
                     size);
    } else {
        PyErr_Format(PyExc_ValueError, "a key has 1 to %d UTF-8 bytes, this one has %zd",
                     COG_KEY_RAW_MAX, size);
    }
    cog_buf_release(&out);
    return bytes;
}

static PyMethodDef key_functions[] = {
    {"encode_key", (PyCFunction)(void (*)(void))py_encode_key, METH_FASTCALL,
     PyDoc_STR("encode_key($module, profile, source, artifact, params, folded=None, /)\n--\n\n"
               "The canonical encoding of a key; `folded`, a dict, receives {(name, ...): "
               "encoding} of long values.")},
    {"encode_key_value", py_encode_key_value, METH_O,
     PyDoc_STR("encode_key_value($module, value, /)\n--\n\nThe typed encoding of one value, never "
               "folded.")},
    {"raw_key", py_raw_key, METH_O,
     PyDoc_STR("raw_key($module, text, /)\n--\n\nThe encoding of a raw string key.")},
    {NULL, NULL, 0, NULL},
};

int cog_py_add_key(PyObject *module)
{
    if (PyModule_AddFunctions(module, key_functions) < 0 || cog_py_add_key_base(module) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "KEY_VERSION", COG_KEY_VERSION);
}
