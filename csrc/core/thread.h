/*
 * Threads of ours. They take no signals, which belong to the program; those that a thread brings
 * about itself stay open: a fault while blocked is a death that no handler sees (guard.h).
 */
#ifndef COG_THREAD_H
#define COG_THREAD_H

#include <pthread.h>

/* 0 or an errno. Whoever starts one joins or detaches it. */
int cog_thread_start(pthread_t *thread, void *(*run)(void *), void *context);

#endif
