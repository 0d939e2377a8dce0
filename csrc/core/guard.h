/*
 * Survives that somebody cuts a mapped file short: the pages that went are a SIGBUS to whoever
 * looks at them next, in whatever thread, in the middle of any expression.
 *
 * A handler, installed at the first mapping and never taken out, puts private zero pages over the
 * whole mapping it was touched in and sets that file's `broken`; the access then goes on and reads
 * zeroes. Only for mappings whose user looks at `broken` afterwards and throws away what it read or
 * wrote: the index, which is disposable, and a file that is being filled. Never for values that
 * somebody reads, where zeroes would be a wrong value.
 *
 * Every other SIGBUS goes to the handler that was there before, with the mask and flags it asked
 * for, or has the default effect. A handler that came later and passes a fault on by restoring us
 * and raising the signal anew (Python's faulthandler) is understood: such a signal names no
 * address, so the files themselves are asked whether they were cut short.
 *
 * The one place outside fs.c that calls the system: a handler must not run through a table that
 * others replace.
 */
#ifndef COG_GUARD_H
#define COG_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * Watch a shared mapping of the whole of a file, before it is touched. `fd` (may hold -1: the file
 * is not asked whether it was cut) and `broken` must outlive it. False: no handler to be had here,
 * or 256 are watched already; then nothing keeps a fault in this mapping from being a death, so do
 * without it. What is watched while the process forks stays watched in the child.
 */
bool cog_guard_watch(void *start, size_t size, const atomic_int *fd, atomic_bool *broken);
/* Before it is unmapped, when nobody can touch it any more. Accepts what is not watched. */
void cog_guard_forget(const void *start);

#endif
