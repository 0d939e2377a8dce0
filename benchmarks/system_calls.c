/*
 * The floor: what each operation of a cache on files cannot do without, as a program in C would do
 * it. The same system calls, the same checksum, nothing else: no index, no limit, no locks, no
 * metadata, no Python objects, one buffer for all reads. benchmarks/bench_floor.py builds it as an
 * extension, so that both sides run in one process, and loops are in here. Every function but key()
 * returns the seconds that its loop took.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { BUFFER = 16 << 20, TAIL = 16384, HEAD = 64, INDEX = 256, LARGE = 1 << 20, FIELDS = 32 };

static unsigned char *buffer;
static volatile uint64_t sink; /* so that no checksum is left out */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int open_warm(int dir, const char *path)
{
#if defined(__linux__) && defined(SYS_openat2)
    struct {
        uint64_t flags, mode, resolve;
    } how = {O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0, 0x20 /* RESOLVE_CACHED */};
    long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);

    if (fd >= 0)
        return (int)fd;
#endif
    return openat(dir, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

static ssize_t read_warm(int fd, size_t size, off_t offset)
{
#ifdef RWF_NOWAIT
    struct iovec part = {buffer, size};
    ssize_t got = preadv2(fd, &part, 1, offset, RWF_NOWAIT);

    if (got == (ssize_t)size)
        return got;
#endif
    return pread(fd, buffer, size, offset);
}

/* Whole file: read and checked. */
static int hit_one(int dir, const char *path)
{
    struct stat status;
    int fd = open_warm(dir, path);

    if (fd < 0)
        return -1;
    if (fstat(fd, &status) || status.st_size > BUFFER ||
        read_warm(fd, (size_t)status.st_size, 0) != status.st_size) {
        close(fd);
        return -1;
    }
    sink += XXH3_64bits(buffer, (size_t)status.st_size);
    return close(fd);
}

/* Whole file: mapped, and checked or not. */
static int map_one(int dir, const char *path, int checked)
{
    struct stat status;
    int fd = open_warm(dir, path);

    if (fd < 0)
        return -1;
    if (fstat(fd, &status)) {
        close(fd);
        return -1;
    }
    size_t size = (size_t)status.st_size;
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return -1;
    if (checked)
        sink += XXH3_64bits(map, size);
    return munmap(map, size);
}

/* One part of a file: the end, which tells where it is, then the part, checked. */
static int part_one(int dir, const char *path, size_t size, off_t offset)
{
    struct stat status;
    int fd = open_warm(dir, path);

    if (fd < 0)
        return -1;
    if (fstat(fd, &status) || read_warm(fd, TAIL, status.st_size - TAIL) != TAIL ||
        read_warm(fd, size, offset) != (ssize_t)size) {
        close(fd);
        return -1;
    }
    sink += XXH3_64bits(buffer, size);
    return close(fd);
}

/* A new file under a temporary name: head, payload, index in one write; then its name. */
static int put_one(int dir, const char *path, const void *data, size_t size)
{
    static unsigned char head[HEAD], index[INDEX];
    struct iovec parts[3] = {{head, HEAD}, {(void *)(uintptr_t)data, size}, {index, INDEX}};
    ssize_t whole = (ssize_t)(HEAD + size + INDEX);
    int fd = openat(dir, "temporary", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return -1;
#ifdef __linux__
    if (size >= LARGE && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, whole) && errno != EOPNOTSUPP) {
        close(fd);
        return -1;
    }
#endif
    uint64_t sum = XXH3_64bits(data, size);
    memcpy(index, &sum, sizeof sum);
    if (pwritev(fd, parts, 3, 0) != whole || renameat(dir, "temporary", dir, path)) {
        close(fd);
        return -1;
    }
    return close(fd);
}

static PyObject *answer(int failed, double began, const char *path)
{
    double seconds = now() - began;

    if (failed)
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    return PyFloat_FromDouble(seconds);
}

/* Calls OPERATION for each path of the list paths, as often as times says; gives result. */
#define LOOP(OPERATION)                                                      \
    const char *path = "";                                                   \
    int failed = 0;                                                          \
    double began = now();                                                    \
    for (int turn = 0; turn < times && !failed; turn++)                      \
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(paths) && !failed; i++) { \
            path = PyUnicode_AsUTF8(PyList_GET_ITEM(paths, i));              \
            failed = !path || (OPERATION);                                   \
        }                                                                    \
    PyObject *result = answer(failed, began, path)

static PyObject *hit(PyObject *self, PyObject *args)
{
    int dir, times;
    PyObject *paths;

    if (!PyArg_ParseTuple(args, "iO!i", &dir, &PyList_Type, &paths, &times))
        return NULL;
    LOOP(hit_one(dir, path));
    return result;
}

static PyObject *map(PyObject *self, PyObject *args)
{
    int dir, times, checked;
    PyObject *paths;

    if (!PyArg_ParseTuple(args, "iO!ip", &dir, &PyList_Type, &paths, &times, &checked))
        return NULL;
    LOOP(map_one(dir, path, checked));
    return result;
}

static PyObject *part(PyObject *self, PyObject *args)
{
    int dir, times;
    PyObject *paths;
    Py_ssize_t size, count, number = 0;

    if (!PyArg_ParseTuple(args, "iO!inn", &dir, &PyList_Type, &paths, &times, &size, &count))
        return NULL;
    LOOP(part_one(dir, path, (size_t)size, (off_t)(size * (number++ % count))));
    return result;
}

static PyObject *put(PyObject *self, PyObject *args)
{
    int dir;
    const int times = 1;
    PyObject *paths;
    Py_buffer data;

    if (!PyArg_ParseTuple(args, "iO!y*", &dir, &PyList_Type, &paths, &data))
        return NULL;
    LOOP(put_one(dir, path, data.buf, (size_t)data.len));
    PyBuffer_Release(&data);
    return result;
}

static int by_name(const void *a, const void *b)
{
    PyObject *const *left = a, *const *right = b;

    return strcmp(PyUnicode_AsUTF8(*left), PyUnicode_AsUTF8(*right));
}

/* Tag, length, bytes. */
static unsigned char *frame(unsigned char *at, unsigned char tag, const void *bytes, size_t size)
{
    uint32_t length = (uint32_t)size;

    *at = tag;
    memcpy(at + 1, &length, sizeof length);
    memcpy(at + 5, bytes, size);
    return at + 5 + size;
}

/* key(fields) -> 16 bytes: a flat dict of text, integers and floats, its names in order. */
static PyObject *key(PyObject *self, PyObject *fields)
{
    PyObject *names[FIELDS], *name, *value;
    Py_ssize_t position = 0, count = 0, size;
    unsigned char *at = buffer;

    if (!PyDict_CheckExact(fields) || PyDict_GET_SIZE(fields) > FIELDS)
        return PyErr_Format(PyExc_ValueError, "a dict of up to %d fields", FIELDS);
    while (PyDict_Next(fields, &position, &name, &value))
        names[count++] = name;
    qsort(names, (size_t)count, sizeof names[0], by_name);
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *text = PyUnicode_AsUTF8AndSize(names[i], &size);

        at = frame(at, 's', text, (size_t)size);
        value = PyDict_GetItemWithError(fields, names[i]);
        if (value && PyUnicode_Check(value)) {
            text = PyUnicode_AsUTF8AndSize(value, &size);
            at = frame(at, 's', text, (size_t)size);
        } else if (value && PyLong_Check(value)) {
            int64_t number = PyLong_AsLongLong(value);

            at = frame(at, 'i', &number, sizeof number);
        } else if (value && PyFloat_Check(value)) {
            double number = PyFloat_AS_DOUBLE(value);

            at = frame(at, 'r', &number, sizeof number);
        } else {
            return PyErr_Format(PyExc_TypeError, "text, integers and floats");
        }
    }
    XXH128_hash_t digest = XXH3_128bits(buffer, (size_t)(at - buffer));
    return PyBytes_FromStringAndSize((const char *)&digest, sizeof digest);
}

static PyMethodDef methods[] = {
    {"hit", hit, METH_VARARGS, "hit(dir, paths, times): read and check whole files."},
    {"map", map, METH_VARARGS, "map(dir, paths, times, checked): map whole files."},
    {"part", part, METH_VARARGS, "part(dir, paths, times, size, count): read and check parts."},
    {"put", put, METH_VARARGS, "put(dir, paths, data): write a new file for each path."},
    {"key", key, METH_O, "key(fields): the digest of a flat dict."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "system_calls",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_system_calls(void)
{
    buffer = malloc(BUFFER);
    if (!buffer)
        return PyErr_NoMemory();
    memset(buffer, 1, BUFFER);
    return PyModule_Create(&module);
}
