/*
 * Die or fail at any single system call of the core.
 *
 * `crash_table` wraps a table of calls and numbers every call made through it since `crash_arm`. At
 * the chosen number the process dies by SIGKILL before or after the call is made, or the call fails
 * with an error of choice, or reads or writes only half. The count and the name of the call live in
 * memory that forked children share, so a parent can ask what a child that died was about to do.
 * One process counts at a time; threads are counted together.
 *
 * Walk an operation with crash_walk(): it runs it once unharmed to learn how many calls it makes,
 * then once per call and action, each in a forked child (deaths) or in this process (errors).
 */
#ifndef COG_CRASH_HARNESS_H
#define COG_CRASH_HARNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/fs.h"

enum crash_action {
    CRASH_NONE, /* count only */
    CRASH_DIE_BEFORE,
    CRASH_DIE_AFTER,
    CRASH_FAIL,         /* once */
    CRASH_FAIL_FOREVER, /* from that call on, all calls of the same name */
    CRASH_SHORT         /* a read or write of half the bytes; other calls are made as they are */
};

const struct cog_fs *crash_table(const struct cog_fs *under);
void crash_arm(enum crash_action action, uint64_t call, int error);
void crash_disarm(void);
uint64_t crash_calls(void);        /* since crash_arm */
const char *crash_call_name(void); /* of the chosen call, "" if it was not reached */
bool crash_reached(void);

struct crash_case {
    enum crash_action action;
    uint64_t call;
    int error;
};
/*
 * One run of an operation: prepare, act, judge, each with `context`. `act` returns whether it
 * succeeded (for a death: only when the child lived). `judge` gets what happened and says what is
 * wrong, or NULL.
 */
struct crash_operation {
    const char *name;
    void *context;
    void (*prepare)(void *context);
    bool (*act)(void *context);
    const char *(*judge)(void *context, const struct crash_case *what, bool died, bool succeeded);
};
struct crash_tally {
    uint64_t runs, calls;
};
/* Every death, then every error of the list at every call. Failures are checks of check.h. */
void crash_walk_deaths(const struct crash_operation *operation, struct crash_tally *tally);
void crash_walk_errors(const struct crash_operation *operation, const int *errors, unsigned count,
                       struct crash_tally *tally);

#endif
