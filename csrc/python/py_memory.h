/*
 * Memory that Python may look into: what arrays and memoryviews over our bytes keep alive.
 *
 * A `_core.Memory` either owns a block or borrows bytes that its owner, another Python object,
 * keeps where they are. It has no methods; everything goes through the buffer protocol.
 */
#ifndef COG_PY_MEMORY_H
#define COG_PY_MEMORY_H

#include "python/py_module.h"

#include <stdbool.h>

/* Writable, uninitialised, 64-byte aligned. */
PyObject *cog_memory_new(struct cog_py_state *state, size_t size);
/*
 * Fresh memory that will be written from end to end, one of several pieces that come to `together`
 * bytes: where there is much of it, in huge pages, and many pieces with all their pages at once. 98
 * MB in pages of 4 KiB are 24,000 faults and take three times as long.
 */
void cog_memory_will_fill(void *data, size_t size, uint64_t together);
/* `size` bytes at `data`, which stay there while `owner` lives. */
PyObject *cog_memory_borrow(struct cog_py_state *state, void *data, size_t size, PyObject *owner,
                            bool read_only);
/* From here on views of it are read-only. */
void cog_memory_freeze(PyObject *memory);

bool cog_is_memory(const struct cog_py_state *state, PyObject *object);
unsigned char *cog_memory_data(PyObject *memory);
size_t cog_memory_size(PyObject *memory);

#endif
