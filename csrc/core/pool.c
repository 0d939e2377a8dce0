#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* pipe2, pthread_setname_np */
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE
#endif

#include "core/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#include "core/alloc.h"
#include "core/thread.h"

struct list {
    struct cog_job *first;
    struct cog_job *last;
    unsigned length;
};

struct cog_queue {
    struct list done;
    int read_fd;
    int write_fd; /* = read_fd for an eventfd */
    bool signalled;
    bool dead; /* from before a fork */
    struct cog_queue *previous;
    struct cog_queue *next;
};

enum worker_state { WORKER_NONE = 0, WORKER_IDLE, WORKER_BUSY, WORKER_LEFT };

struct worker {
    pthread_t thread;
    enum worker_state state;
    struct cog_job *job;
};

/* Everything behind one mutex: it is held for a few list operations and one eventfd write. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t work;  /* a job waits, or idle workers shall leave */
    pthread_cond_t quiet; /* a job has ended, or a worker has left */
    struct worker workers[COG_POOL_THREADS];
    struct list waiting[COG_LANE_COUNT];
    struct list orphans;
    struct cog_queue *queues;
    unsigned running[COG_LANE_COUNT];
    unsigned retiring; /* calls of cog_pool_retire() under way */
    uint64_t started;
    uint64_t jobs;
    uint64_t wakeups;
} pool;

static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

/* --- lists --------------------------------------------------------------------------------- */

static void list_append(struct list *list, struct cog_job *job)
{
    job->previous = list->last;
    job->next = NULL;
    if (list->last != NULL) {
        list->last->next = job;
    } else {
        list->first = job;
    }
    list->last = job;
    list->length++;
}

static void list_remove(struct list *list, struct cog_job *job)
{
    if (job->previous != NULL) {
        job->previous->next = job->next;
    } else {
        list->first = job->next;
    }
    if (job->next != NULL) {
        job->next->previous = job->previous;
    } else {
        list->last = job->previous;
    }
    job->previous = job->next = NULL;
    list->length--;
}

static struct cog_job *list_pop(struct list *list)
{
    struct cog_job *job = list->first;

    if (job != NULL) {
        list_remove(list, job);
    }
    return job;
}

/* --- waiting with a deadline --------------------------------------------------------------- */

#ifdef __APPLE__
static const clockid_t wait_clock = CLOCK_REALTIME; /* no pthread_condattr_setclock there */
#else
static const clockid_t wait_clock = CLOCK_MONOTONIC;
#endif

static void cond_init(pthread_cond_t *cond)
{
#ifdef __APPLE__
    pthread_cond_init(cond, NULL);
#else
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, wait_clock);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
#endif
}

static struct timespec deadline_in(uint32_t milliseconds)
{
    struct timespec at;

    clock_gettime(wait_clock, &at);
    at.tv_sec += (time_t)(milliseconds / 1000);
    at.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    return at;
}

/* --- fork ---------------------------------------------------------------------------------- */

static void before_fork(void)
{
    cog_pool_retire();
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&pool.lock);
}

static void close_descriptors(struct cog_queue *queue)
{
    if (queue->read_fd >= 0) {
        close(queue->read_fd);
    }
    if (queue->write_fd >= 0 && queue->write_fd != queue->read_fd) {
        close(queue->write_fd);
    }
    queue->read_fd = queue->write_fd = -1;
}

/*
 * The parent's threads do not exist here, and its eventfds are shared with it: reading one would
 * swallow a wake-up of the parent. Waiting jobs keep their queue, which returns them when closed.
 */
static void after_fork_in_child(void)
{
    struct list lost = {NULL, NULL, 0};
    struct cog_job *job;

    cond_init(&pool.work); /* as new: threads of the parent were waiting on them */
    cond_init(&pool.quiet);
    for (struct cog_queue *queue = pool.queues; queue != NULL; queue = queue->next) {
        close_descriptors(queue);
        queue->dead = true;
        queue->signalled = false;
    }
    for (unsigned lane = 0; lane < COG_LANE_COUNT; lane++) {
        while ((job = list_pop(&pool.waiting[lane])) != NULL) {
            job->state = COG_JOB_NEW;
            list_append(job->queue != NULL ? &job->queue->done : &lost, job);
        }
        pool.running[lane] = 0;
    }
    while ((job = list_pop(&lost)) != NULL) {
        list_append(&pool.orphans, job);
    }
    for (unsigned i = 0; i < COG_POOL_THREADS; i++) {
        pool.workers[i] = (struct worker){.state = WORKER_NONE};
    }
    pool.retiring = 0;
    pthread_mutex_unlock(&pool.lock);
}

static void pool_init(void)
{
    pthread_mutex_init(&pool.lock, NULL);
    cond_init(&pool.work);
    cond_init(&pool.quiet);
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void pool_lock(void)
{
    pthread_once(&pool_once, pool_init);
    pthread_mutex_lock(&pool.lock);
}

static void pool_unlock(void)
{
    pthread_mutex_unlock(&pool.lock);
}

/* --- workers ------------------------------------------------------------------------------- */

/* The next job by the rule of the lanes, or NULL. */
static struct cog_job *choose_job(void)
{
    struct list *reads = &pool.waiting[COG_LANE_READ];
    struct list *writes = &pool.waiting[COG_LANE_WRITE];

    if (writes->length > 0 && pool.running[COG_LANE_WRITE] < COG_POOL_THREADS - 1 &&
        (reads->length == 0 || pool.running[COG_LANE_WRITE] == 0)) {
        return list_pop(writes);
    }
    if (reads->length > 0) {
        return list_pop(reads);
    }
    return pool.running[COG_LANE_BACKGROUND] == 0 ? list_pop(&pool.waiting[COG_LANE_BACKGROUND])
                                                  : NULL;
}

static unsigned count_waiting(void)
{
    unsigned count = 0;

    for (unsigned lane = 0; lane < COG_LANE_COUNT; lane++) {
        count += pool.waiting[lane].length;
    }
    return count;
}

static void wake_owner(struct cog_queue *queue)
{
    uint64_t one = 1;
    ssize_t written;

    if (queue->signalled) {
        return;
    }
    queue->signalled = true;
    pool.wakeups++;
    do {
        written = write(queue->write_fd, &one, sizeof one);
    } while (written < 0 && errno == EINTR);
}

static void finish_job(struct cog_job *job)
{
    pool.running[job->lane]--;
    pool.jobs++;
    job->state = COG_JOB_DONE;
    if (job->queue == NULL) {
        list_append(&pool.orphans, job);
    } else {
        list_append(&job->queue->done, job);
        wake_owner(job->queue);
    }
    pthread_cond_broadcast(&pool.quiet);
}

static void *worker_main(void *argument)
{
    struct worker *self = argument;

    pool_lock();
    for (;;) {
        struct cog_job *job = choose_job();

        if (job == NULL) {
            if (pool.retiring > 0) {
                break;
            }
            self->state = WORKER_IDLE;
            pthread_cond_wait(&pool.work, &pool.lock);
            continue;
        }
        self->state = WORKER_BUSY;
        self->job = job;
        job->state = COG_JOB_RUNNING;
        pool.running[job->lane]++;
        pool_unlock();
        job->run(job);
        pool_lock();
        self->job = NULL;
        finish_job(job);
    }
    self->state = WORKER_LEFT;
    pthread_cond_broadcast(&pool.quiet);
    pool_unlock();
    return NULL;
}

static unsigned count_workers(enum worker_state state)
{
    unsigned count = 0;

    for (unsigned i = 0; i < COG_POOL_THREADS; i++) {
        count += pool.workers[i].state == state;
    }
    return count;
}

static int start_worker(struct worker *worker)
{
    worker->state = WORKER_BUSY; /* until it has looked for work itself */
    int failed = cog_thread_start(&worker->thread, worker_main, worker);
    if (failed != 0) {
        worker->state = WORKER_NONE;
        return failed;
    }
#if defined(__linux__)
    (void)pthread_setname_np(worker->thread, "cogcache");
#endif
    pool.started++;
    return 0;
}

/* See that somebody takes what waits: an idle thread, else a new one. 0 or an errno. */
static int provide_worker(void)
{
    pthread_cond_signal(&pool.work);
    if (count_workers(WORKER_IDLE) >= count_waiting()) {
        return 0;
    }
    for (unsigned i = 0; i < COG_POOL_THREADS; i++) {
        struct worker *worker = &pool.workers[i];

        if (worker->state == WORKER_LEFT) { /* on its way out, past its last use of the lock */
            pthread_join(worker->thread, NULL);
            worker->state = WORKER_NONE;
        }
        if (worker->state == WORKER_NONE) {
            int failed = start_worker(worker);
            bool alone = count_workers(WORKER_BUSY) + count_workers(WORKER_IDLE) == 0;

            return alone ? failed : 0;
        }
    }
    return 0;
}

/* --- jobs ---------------------------------------------------------------------------------- */

enum cog_status cog_pool_submit(struct cog_job *job, struct cog_queue *queue, struct cog_error *err)
{
    int failed;

    pool_lock();
    if (queue != NULL && queue->dead) {
        pool_unlock();
        return cog_fail(err, COG_ERR_CLOSED, 0, "this queue belongs to the parent process");
    }
    atomic_store(&job->cancelled, false);
    job->queue = queue;
    job->state = COG_JOB_WAITING;
    list_append(&pool.waiting[job->lane], job);
    failed = provide_worker();
    if (failed != 0) {
        list_remove(&pool.waiting[job->lane], job);
        job->state = COG_JOB_NEW;
    }
    pool_unlock();
    if (failed != 0) {
        return cog_fail(err, COG_ERR_BUSY, failed, "the system gives no thread for file access");
    }
    return COG_OK;
}

bool cog_pool_cancel(struct cog_job *job)
{
    bool waiting;

    pool_lock();
    atomic_store(&job->cancelled, true);
    waiting = job->state == COG_JOB_WAITING;
    if (waiting) {
        list_remove(&pool.waiting[job->lane], job);
        job->state = COG_JOB_NEW;
        pthread_cond_broadcast(&pool.quiet);
    }
    pool_unlock();
    return waiting;
}

bool cog_job_is_cancelled(const struct cog_job *job)
{
    return atomic_load(&job->cancelled);
}

unsigned cog_pool_reap(void)
{
    struct list orphans;
    struct cog_job *job;
    unsigned count = 0;

    pool_lock();
    orphans = pool.orphans;
    pool.orphans = (struct list){NULL, NULL, 0};
    pool_unlock();
    while ((job = list_pop(&orphans)) != NULL) {
        job->drop(job);
        count++;
    }
    return count;
}

static bool is_quiet(void)
{
    return pool.waiting[COG_LANE_READ].length == 0 && pool.waiting[COG_LANE_WRITE].length == 0 &&
           pool.running[COG_LANE_READ] == 0 && pool.running[COG_LANE_WRITE] == 0;
}

bool cog_pool_drain(uint32_t milliseconds)
{
    struct timespec until = deadline_in(milliseconds);
    bool quiet;

    pool_lock();
    while (!is_quiet() && pthread_cond_timedwait(&pool.quiet, &pool.lock, &until) != ETIMEDOUT) {
    }
    quiet = is_quiet();
    pool_unlock();
    return quiet;
}

static bool is_quiet_for(const void *owner)
{
    for (unsigned lane = 0; lane < COG_LANE_COUNT; lane++) {
        for (const struct cog_job *job = pool.waiting[lane].first; job != NULL; job = job->next) {
            if (job->owner == owner) {
                return false;
            }
        }
    }
    for (unsigned i = 0; i < COG_POOL_THREADS; i++) {
        if (pool.workers[i].job != NULL && pool.workers[i].job->owner == owner) {
            return false;
        }
    }
    return true;
}

bool cog_pool_wait_for(const void *owner, uint32_t milliseconds)
{
    struct timespec until = deadline_in(milliseconds);
    bool quiet;

    pool_lock();
    while (!is_quiet_for(owner) &&
           pthread_cond_timedwait(&pool.quiet, &pool.lock, &until) != ETIMEDOUT) {
    }
    quiet = is_quiet_for(owner);
    pool_unlock();
    return quiet;
}

void cog_pool_retire(void)
{
    pthread_t left[COG_POOL_THREADS];
    unsigned count = 0;

    pool_lock();
    pool.retiring++;
    pthread_cond_broadcast(&pool.work);
    while (count_workers(WORKER_IDLE) > 0) {
        pthread_cond_wait(&pool.quiet, &pool.lock);
    }
    for (unsigned i = 0; i < COG_POOL_THREADS; i++) {
        if (pool.workers[i].state == WORKER_LEFT) {
            left[count++] = pool.workers[i].thread;
            pool.workers[i].state = WORKER_NONE;
        }
    }
    pool.retiring--;
    pool_unlock();
    for (unsigned i = 0; i < count; i++) {
        pthread_join(left[i], NULL);
    }
}

void cog_pool_get_stats(struct cog_pool_stats *out)
{
    unsigned running = 0;

    pool_lock();
    for (unsigned lane = 0; lane < COG_LANE_COUNT; lane++) {
        running += pool.running[lane];
    }
    *out = (struct cog_pool_stats){
        .threads = count_workers(WORKER_IDLE) + count_workers(WORKER_BUSY),
        .waiting = count_waiting(),
        .running = running,
        .started = pool.started,
        .jobs = pool.jobs,
        .wakeups = pool.wakeups,
    };
    pool_unlock();
}

/* --- queues -------------------------------------------------------------------------------- */

static int open_pipe(int fds[2])
{
    if (pipe(fds) != 0) {
        return errno;
    }
    for (int i = 0; i < 2; i++) {
        (void)fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        (void)fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

/* 0 or an errno. An eventfd, unless there is none or plain POSIX is asked for. */
static int open_descriptors(int fds[2])
{
#ifdef __linux__
    const char *plain = getenv("COGCACHE_PLAIN_POSIX");

    if (plain == NULL || *plain == '\0' || *plain == '0') {
        fds[0] = fds[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fds[0] >= 0 || errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
            return fds[0] >= 0 ? 0 : errno;
        }
    }
#endif
    return open_pipe(fds);
}

enum cog_status cog_queue_new(struct cog_queue **out, struct cog_error *err)
{
    struct cog_queue *queue = cog_alloc_zeroed(1, sizeof *queue);
    int fds[2];
    int failed;

    *out = NULL;
    if (queue == NULL) {
        return cog_fail(err, COG_ERR_NOMEM, 0, "no memory for a completion queue");
    }
    failed = open_descriptors(fds);
    if (failed != 0) {
        cog_free(queue);
        return cog_fail(err, COG_ERR_IO, failed, "no descriptor for a completion queue");
    }
    queue->read_fd = fds[0];
    queue->write_fd = fds[1];
    pool_lock();
    queue->next = pool.queues;
    if (pool.queues != NULL) {
        pool.queues->previous = queue;
    }
    pool.queues = queue;
    pool_unlock();
    *out = queue;
    return COG_OK;
}

int cog_queue_fd(const struct cog_queue *queue)
{
    return queue->read_fd;
}

bool cog_queue_is_dead(const struct cog_queue *queue)
{
    return queue->dead;
}

struct cog_job *cog_queue_next(struct cog_queue *queue)
{
    struct cog_job *job = NULL;

    pool_lock();
    if (!queue->dead) {
        job = list_pop(&queue->done);
        if (job == NULL && queue->signalled) {
            unsigned char taken[64]; /* one wake-up is 8 bytes, and at most one is in a pipe */

            while (read(queue->read_fd, taken, sizeof taken) < 0 && errno == EINTR) {
            }
            queue->signalled = false;
        }
    }
    pool_unlock();
    return job;
}

struct cog_job *cog_queue_close(struct cog_queue *queue)
{
    struct list back = {NULL, NULL, 0};
    struct cog_job *job;
    struct cog_job *following;

    if (queue == NULL) {
        return NULL;
    }
    pool_lock();
    for (unsigned lane = 0; lane < COG_LANE_COUNT; lane++) {
        for (job = pool.waiting[lane].first; job != NULL; job = following) {
            following = job->next;
            if (job->queue == queue) {
                list_remove(&pool.waiting[lane], job);
                job->state = COG_JOB_NEW;
                list_append(&back, job);
            }
        }
    }
    while ((job = list_pop(&queue->done)) != NULL) {
        list_append(&back, job);
    }
    for (unsigned i = 0; i < COG_POOL_THREADS; i++) {
        if (pool.workers[i].job != NULL && pool.workers[i].job->queue == queue) {
            pool.workers[i].job->queue = NULL;
        }
    }
    if (queue->previous != NULL) {
        queue->previous->next = queue->next;
    } else {
        pool.queues = queue->next;
    }
    if (queue->next != NULL) {
        queue->next->previous = queue->previous;
    }
    close_descriptors(queue);
    pthread_cond_broadcast(&pool.quiet);
    pool_unlock();
    cog_free(queue);
    return back.first;
}
