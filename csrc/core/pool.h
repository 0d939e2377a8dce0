/*
 * The thread pool of the process and the completion queues that tell an event loop what is done.
 *
 * One pool per process, bounded to COG_POOL_THREADS. No thread exists before the first job asks for
 * one. Jobs of one lane start in the order in which they came; writes never take the last thread,
 * and reads leave one to writes that wait, so neither can starve the other. Background jobs run one
 * at a time, when nothing else waits, and nobody waits for them at the end of a process.
 *
 * A finished job waits on its queue. The queue has one descriptor (eventfd, or a pipe where there
 * is none) that is readable exactly while something waits there: completions that arrive together
 * cost one wake-up.
 *
 * Threads: every function may be called from any thread; the owner of a queue alone calls
 * cog_queue_next() and cog_queue_close() on it. Workers take no signals.
 *
 * Fork: idle threads are sent home first (the child of a program without busy threads is a child
 * of a single-threaded program). In the child pool and queues are as new: no threads, waiting and
 * finished jobs stay with their queue (cog_queue_close() returns them), a job that ran at the time
 * is lost with its thread and must not be touched. A queue from before the fork is dead: its
 * descriptor is closed, nothing arrives on it any more.
 */
#ifndef COG_POOL_H
#define COG_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

enum { COG_POOL_THREADS = 4 };

enum cog_lane { COG_LANE_READ = 0, COG_LANE_WRITE, COG_LANE_BACKGROUND, COG_LANE_COUNT };

struct cog_queue; /* opaque */
struct cog_job;

enum cog_job_state { COG_JOB_NEW = 0, COG_JOB_WAITING, COG_JOB_RUNNING, COG_JOB_DONE };

/*
 * A job: put this first in a struct of your own. Zero it, set `run`, `drop` and `lane`, submit it.
 * It is the pool's from cog_pool_submit() until it comes back through cog_queue_next(),
 * cog_pool_cancel() or cog_queue_close(); only cog_job_is_cancelled() may be asked meanwhile.
 */
struct cog_job {
    void (*run)(struct cog_job *job);  /* on a thread of the pool */
    void (*drop)(struct cog_job *job); /* nobody waits for it any more; by cog_pool_reap() */
    enum cog_lane lane;
    const void *owner; /* what it works on, for cog_pool_wait_for(); may be NULL */
    /* The pool's own from here on. */
    enum cog_job_state state;
    atomic_bool cancelled;
    struct cog_queue *queue;
    struct cog_job *previous;
    struct cog_job *next;
};

/*
 * Have `job` run and then wait on `queue`; NULL: nobody waits, cog_pool_reap() drops it. A job that
 * came back may be submitted again. COG_ERR_BUSY: the system gives us no thread at all; the job
 * stays the caller's.
 */
enum cog_status cog_pool_submit(struct cog_job *job, struct cog_queue *queue,
                                struct cog_error *err);

/*
 * Give up on a submitted job that has not come back yet. True: it never ran and is the caller's
 * again. False: it runs or has run; it still comes back through its queue, and `run` may notice by
 * cog_job_is_cancelled().
 */
bool cog_pool_cancel(struct cog_job *job);
bool cog_job_is_cancelled(const struct cog_job *job);

/* Drop the finished jobs that nobody waits for; the number of them. Cheap when there are none. */
unsigned cog_pool_reap(void);

/* Wait until no read or write waits or runs, at most `milliseconds`; whether that is so. */
bool cog_pool_drain(uint32_t milliseconds);

/* Wait until no job of `owner` waits or runs, at most `milliseconds`; whether that is so. */
bool cog_pool_wait_for(const void *owner, uint32_t milliseconds);

/* Send idle threads home and see them gone. They come back with the next job. */
void cog_pool_retire(void);

struct cog_pool_stats {
    unsigned threads; /* alive now */
    unsigned waiting;
    unsigned running;
    uint64_t started; /* threads, ever */
    uint64_t jobs;    /* finished, ever */
    uint64_t wakeups; /* writes to the descriptors of queues, ever */
};
void cog_pool_get_stats(struct cog_pool_stats *out);

/* COG_ERR_IO: no descriptor is to be had; errno in `err`. */
enum cog_status cog_queue_new(struct cog_queue **out, struct cog_error *err);
int cog_queue_fd(const struct cog_queue *queue); /* to watch for reading; -1 when dead */
bool cog_queue_is_dead(const struct cog_queue *queue);

/* The next finished job, in order of completion; NULL: none, and the descriptor is quiet again. */
struct cog_job *cog_queue_next(struct cog_queue *queue);

/*
 * Free the queue. Returns, linked by `next`, its jobs that wait (COG_JOB_NEW again) or are done,
 * which are the caller's again. What still runs is dropped by cog_pool_reap() when done. Accepts
 * NULL.
 */
struct cog_job *cog_queue_close(struct cog_queue *queue);

#endif
