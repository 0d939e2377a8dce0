/*
 * Processes that work until they are killed, wherever they happen to be, and that are stopped all
 * at once so that what they have left on disk is the truth of one instant.
 */
#ifndef COG_WORKERS_KIT_H
#define COG_WORKERS_KIT_H

#include <stdint.h>
#include <sys/types.h>

enum { WORKERS_MOST = 8 };

struct workers {
    unsigned count;                                                    /* at most WORKERS_MOST */
    void (*work)(const void *context, unsigned number, uint64_t seed); /* never returns */
    const void *context;
    pid_t pids[WORKERS_MOST];
    uint64_t kills; /* of those that were replaced */
};

/* `seed` goes on with each that is begun, as everywhere here. */
void workers_begin(struct workers *workers, uint64_t *seed);
/* All of them stand still when this returns. */
void workers_stop(struct workers *workers);
/* One is killed where the stop has caught it; another, stopped too, takes its place. */
void workers_replace_one(struct workers *workers, uint64_t *seed);
void workers_go_on(const struct workers *workers);
void workers_kill(struct workers *workers);

/* The next of a row of random numbers; 40 bits. */
uint64_t workers_random(uint64_t *seed);
/* Microseconds of a clock that only goes forward. */
uint64_t workers_clock_us(void);

/*
 * Run the twin of this program that has a bug built in (`<self>.<bug>`), with "until-caught" as its
 * argument. It must end well: it does as soon as its bug has shown.
 */
void workers_expect_caught(const char *self, const char *bug);

#endif
