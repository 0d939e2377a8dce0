/* What the two halves of loading a value share; see py_value.h for the whole. */
#ifndef COG_PY_LOAD_H
#define COG_PY_LOAD_H

#include "python/py_value.h"

/* Is the payload of this extension itself msgpack? Both passes over a document descend alike. */
bool cog_ext_is_nested(int8_t code);

/*
 * The bytes of this part lie in memory of our own and were checked when they were read: a second
 * look could find nothing. (A map is another matter: its pages may be read again from the disk.)
 */
bool cog_load_is_known_good(const struct cog_load *load, uint32_t part);

/* Has the document been kept expanded, so that cog_load_document() is quick? */
bool cog_load_is_at_hand(const struct cog_load *load);

/* Name of the type of the document's value, of its first token alone; "unknown" where there is
 * none. */
const char *cog_load_type_name(const struct cog_load *load);

/* Verify the parts whose numbers `numbers` (a sequence) holds; GIL held, released meanwhile. */
enum cog_status cog_parts_check(const struct cog_load *load, PyObject *numbers,
                                struct cog_error *err);
/* A list with the verified bytes of each; parts near to each other are read with one read. */
PyObject *cog_parts_fetch(const struct cog_load *load, PyObject *numbers, enum cog_status *status,
                          struct cog_error *err);

#endif
