/*
 * A table of calls in which the n-th call fails, once or from then on: with an errno, or with half
 * of what was asked (short reads and writes). Over any other table. One thread at a time. Its
 * sleeps take no time: they move its clock.
 */
#ifndef COG_STORE_FAULTS_H
#define COG_STORE_FAULTS_H

#include <stdbool.h>

#include "core/fs.h"

enum { FAULT_SHORT = -1 }; /* in place of an errno: reads and writes do half */

const struct cog_fs *faults_over(const struct cog_fs *fs);
/* Fail the n-th call from now (1 = the next) with `error`; `always`: and all that follow. 0: none.
 */
void faults_set(unsigned long n, int error, bool always);
void faults_stop(void); /* no more; what happened is still told */
/* Only calls of this name count ("rename"); NULL: all. */
void faults_only(const char *name);
unsigned long faults_calls(void); /* calls so far, but for close and clocks */
bool faults_happened(void);
const char *faults_call(void);           /* the name of the first call that failed */
void faults_pass_time(uint64_t seconds); /* of the clock that waits are measured by */
/* What the file systems of the table say they are (f_type); 0: the truth. */
void faults_file_system(uint64_t type);

#endif
