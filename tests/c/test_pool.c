/* The pool runs what it is given, starves nobody, tells in one wake-up, and survives fork. */
#define _GNU_SOURCE /* setenv, rand_r, setrlimit */
#include "check.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/pool.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

#ifdef SANITIZED
/* A child makes threads of its own here, and ends before the test joins those of the parent. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "die_after_fork=0:report_thread_leaks=0";
}
#endif

enum { HANG_MS = 120000 };

/* --- jobs whose end the test decides ------------------------------------------------------- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned entered; /* jobs that have begun */
    unsigned inside;
    unsigned most_inside;
    unsigned allowed; /* jobs that may end */
};

#define GATE_CLOSED                                                            \
    {                                                                          \
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER \
    }

struct task {
    struct cog_job job;
    struct gate *gate;
    unsigned order; /* which one it was to run, from 1; 0 = never ran */
    bool saw_cancel;
    bool signals_blocked;
    bool dropped;
};

static atomic_uint run_counter;

static void gate_pass(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->entered++;
    gate->inside++;
    if (gate->inside > gate->most_inside) {
        gate->most_inside = gate->inside;
    }
    pthread_cond_broadcast(&gate->changed);
    while (gate->allowed == 0) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
    gate->allowed--;
    gate->inside--;
    pthread_mutex_unlock(&gate->lock);
}

static void gate_allow(struct gate *gate, unsigned count)
{
    pthread_mutex_lock(&gate->lock);
    gate->allowed += count;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

static void gate_await(struct gate *gate, unsigned entered)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->entered < entered) {
        pthread_cond_wait(&gate->changed, &gate->lock);
    }
    pthread_mutex_unlock(&gate->lock);
}

static void task_run(struct cog_job *job)
{
    struct task *task = (struct task *)job;
    sigset_t blocked;

    task->order = atomic_fetch_add(&run_counter, 1) + 1;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    task->signals_blocked = sigismember(&blocked, SIGINT) == 1 &&
                            sigismember(&blocked, SIGBUS) == 0; /* its own faults are open */
    if (task->gate != NULL) {
        gate_pass(task->gate);
    }
    task->saw_cancel = cog_job_is_cancelled(job);
}

static void task_drop(struct cog_job *job)
{
    ((struct task *)job)->dropped = true;
}

static struct task task_of(enum cog_lane lane, struct gate *gate)
{
    struct task task = {.job = {.run = task_run, .drop = task_drop, .lane = lane}, .gate = gate};

    return task;
}

static struct cog_queue *new_queue(void)
{
    struct cog_queue *queue;

    REQUIRE(cog_queue_new(&queue, NULL) == COG_OK);
    return queue;
}

static void submit(struct task *task, struct cog_queue *queue)
{
    REQUIRE(cog_pool_submit(&task->job, queue, NULL) == COG_OK);
}

static bool is_readable(const struct cog_queue *queue, int milliseconds)
{
    struct pollfd watched = {.fd = cog_queue_fd(queue), .events = POLLIN};

    return poll(&watched, 1, milliseconds) == 1;
}

/* The next finished job, waiting for it as an event loop does. */
static struct task *await_next(struct cog_queue *queue)
{
    struct cog_job *job;

    while ((job = cog_queue_next(queue)) == NULL) {
        REQUIRE(is_readable(queue, HANG_MS));
    }
    return (struct task *)job;
}

static struct cog_pool_stats stats(void)
{
    struct cog_pool_stats now;

    cog_pool_get_stats(&now);
    return now;
}

/* --- what the pool promises ------------------------------------------------------------------ */

static void test_no_thread_before_the_first_job(void)
{
    struct cog_queue *queue = new_queue();
    struct task task = task_of(COG_LANE_READ, NULL);

    CHECK_EQ(stats().started, 0);
    submit(&task, queue);
    CHECK(await_next(queue) == &task);
    CHECK_EQ(stats().started, 1);
    CHECK(task.signals_blocked);
    CHECK(cog_queue_close(queue) == NULL);
}

static void test_retired_threads_are_gone_and_come_back(void)
{
    struct cog_queue *queue = new_queue();
    struct task task = task_of(COG_LANE_READ, NULL);

    for (int round = 0; round < 50; round++) {
        submit(&task, queue);
        CHECK(await_next(queue) == &task);
        cog_pool_retire();
        CHECK_EQ(stats().threads, 0);
    }
    cog_queue_close(queue);
}

static void descriptor_is_readable_while_something_waits(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task tasks[64];
    uint64_t before = stats().wakeups;

    CHECK(!is_readable(queue, 0));
    for (int i = 0; i < 64; i++) {
        tasks[i] = task_of(i % 2 ? COG_LANE_WRITE : COG_LANE_READ, &gate);
        submit(&tasks[i], queue);
    }
    CHECK(!is_readable(queue, 0));
    gate_allow(&gate, 64);
    REQUIRE(cog_pool_drain(HANG_MS));
    CHECK_EQ(stats().wakeups - before, 1);
    for (int i = 0; i < 64; i++) {
        CHECK(is_readable(queue, 0));
        CHECK(cog_queue_next(queue) != NULL);
    }
    CHECK(cog_queue_next(queue) == NULL);
    CHECK(!is_readable(queue, 0));
    cog_queue_close(queue);
}

static void test_many_completions_cost_one_wakeup(void)
{
    descriptor_is_readable_while_something_waits();
}

static void test_a_pipe_serves_where_there_is_no_eventfd(void)
{
    setenv("COGCACHE_PLAIN_POSIX", "1", 1);
    descriptor_is_readable_while_something_waits();
    unsetenv("COGCACHE_PLAIN_POSIX");
}

static void test_no_more_threads_than_the_bound(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task tasks[40];

    for (int i = 0; i < 40; i++) {
        tasks[i] = task_of(COG_LANE_READ, &gate);
        submit(&tasks[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    CHECK_EQ(stats().running, COG_POOL_THREADS);
    CHECK_EQ(stats().waiting, 40 - COG_POOL_THREADS);
    gate_allow(&gate, 40);
    for (int i = 0; i < 40; i++) {
        await_next(queue);
    }
    CHECK_EQ(gate.most_inside, COG_POOL_THREADS);
    CHECK(stats().threads <= COG_POOL_THREADS);
    cog_queue_close(queue);
}

static void test_jobs_of_a_lane_start_in_order(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task tasks[COG_POOL_THREADS];
    struct task later[3];

    for (int i = 0; i < COG_POOL_THREADS; i++) {
        tasks[i] = task_of(COG_LANE_READ, &gate);
        submit(&tasks[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    for (int i = 0; i < 3; i++) {
        later[i] = task_of(COG_LANE_READ, &gate);
        submit(&later[i], queue);
    }
    for (unsigned i = 1; i <= 3; i++) {
        gate_allow(&gate, 1);
        gate_await(&gate, COG_POOL_THREADS + i);
    }
    gate_allow(&gate, COG_POOL_THREADS);
    for (int i = 0; i < COG_POOL_THREADS + 3; i++) {
        await_next(queue);
    }
    CHECK(later[0].order < later[1].order && later[1].order < later[2].order);
    cog_queue_close(queue);
}

static void test_writes_leave_a_thread_to_reads(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task writes[10];
    struct task read = task_of(COG_LANE_READ, NULL);

    for (int i = 0; i < 10; i++) {
        writes[i] = task_of(COG_LANE_WRITE, &gate);
        submit(&writes[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS - 1);
    submit(&read, queue);
    CHECK(await_next(queue) == &read);
    CHECK_EQ(gate.most_inside, COG_POOL_THREADS - 1);
    gate_allow(&gate, 10);
    for (int i = 0; i < 10; i++) {
        await_next(queue);
    }
    cog_queue_close(queue);
}

static void test_reads_leave_a_thread_to_writes(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task reads[10];
    struct task write = task_of(COG_LANE_WRITE, NULL);

    for (int i = 0; i < 10; i++) {
        reads[i] = task_of(COG_LANE_READ, &gate);
        submit(&reads[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    submit(&write, queue);
    gate_allow(&gate, 1);
    await_next(queue);
    CHECK(await_next(queue) == &write);
    gate_allow(&gate, 9);
    for (int i = 1; i < 10; i++) {
        await_next(queue);
    }
    cog_queue_close(queue);
}

static void test_waiting_for_one_owner_is_not_waiting_for_others(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    int mine, other, nobody;
    struct task running = task_of(COG_LANE_BACKGROUND, &gate);
    struct task waiting = task_of(COG_LANE_BACKGROUND, &gate);
    struct task apart = task_of(COG_LANE_READ, NULL);

    running.job.owner = &other;
    waiting.job.owner = &mine;
    submit(&running, queue);
    gate_await(&gate, 1);
    submit(&waiting, queue);
    CHECK(cog_pool_wait_for(&nobody, 0));
    CHECK(!cog_pool_wait_for(&other, 0)); /* runs */
    CHECK(!cog_pool_wait_for(&mine, 1));  /* is still to come */
    CHECK(cog_pool_cancel(&waiting.job));
    CHECK(cog_pool_wait_for(&mine, 0));
    submit(&apart, queue);
    CHECK(await_next(queue) == &apart);
    gate_allow(&gate, 1);
    CHECK(cog_pool_wait_for(&other, HANG_MS));
    CHECK(await_next(queue) == &running); /* ended, though nobody had taken it yet */
    cog_queue_close(queue);
}

static void test_background_jobs_run_alone_and_last(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct gate apart = GATE_CLOSED;
    struct task reads[COG_POOL_THREADS + 1];
    struct task background[2];

    for (int i = 0; i < COG_POOL_THREADS; i++) {
        reads[i] = task_of(COG_LANE_READ, &gate);
        submit(&reads[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    for (int i = 0; i < 2; i++) {
        background[i] = task_of(COG_LANE_BACKGROUND, &apart);
        submit(&background[i], queue);
    }
    reads[COG_POOL_THREADS] = task_of(COG_LANE_READ, NULL);
    submit(&reads[COG_POOL_THREADS], queue);
    gate_allow(&gate, 1); /* one thread: what it takes first is the pool's choice */
    gate_await(&apart, 1);
    gate_allow(&gate, COG_POOL_THREADS - 1);
    CHECK(cog_pool_drain(HANG_MS)); /* does not wait for what runs in the background */
    CHECK_EQ(stats().running, 1);
    CHECK_EQ(stats().waiting, 1);
    CHECK(background[0].order > reads[COG_POOL_THREADS].order);
    gate_allow(&apart, 2);
    for (int i = 0; i < COG_POOL_THREADS + 3; i++) {
        await_next(queue);
    }
    CHECK(background[1].order > background[0].order);
    cog_queue_close(queue);
}

static void test_cancel_before_and_after_the_start(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task running[COG_POOL_THREADS];
    struct task waiting = task_of(COG_LANE_READ, &gate);

    for (int i = 0; i < COG_POOL_THREADS; i++) {
        running[i] = task_of(COG_LANE_READ, &gate);
        submit(&running[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    submit(&waiting, queue);
    CHECK(cog_pool_cancel(&waiting.job));
    CHECK_EQ(waiting.job.state, COG_JOB_NEW);
    CHECK(!cog_pool_cancel(&running[2].job));
    gate_allow(&gate, COG_POOL_THREADS);
    for (int i = 0; i < COG_POOL_THREADS; i++) {
        await_next(queue);
    }
    REQUIRE(cog_pool_drain(HANG_MS));
    CHECK(cog_queue_next(queue) == NULL);
    CHECK_EQ(waiting.order, 0);
    CHECK(running[2].saw_cancel);
    CHECK(!running[1].saw_cancel);

    /* What was cancelled may be submitted again. */
    waiting.gate = NULL;
    submit(&waiting, queue);
    CHECK(await_next(queue) == &waiting);
    CHECK(waiting.order != 0 && !waiting.saw_cancel);
    cog_queue_close(queue);
}

static void test_a_closed_queue_returns_what_does_not_run(void)
{
    struct cog_queue *queue = new_queue();
    struct cog_queue *other = new_queue();
    struct gate gate = GATE_CLOSED;
    struct gate open = GATE_CLOSED;
    struct task done = task_of(COG_LANE_READ, &open);
    struct task running[COG_POOL_THREADS];
    struct task waiting = task_of(COG_LANE_READ, NULL);
    struct task of_other = task_of(COG_LANE_READ, NULL);

    submit(&done, queue);
    gate_allow(&open, 1);
    REQUIRE(cog_pool_drain(HANG_MS));
    for (int i = 0; i < COG_POOL_THREADS; i++) {
        running[i] = task_of(COG_LANE_READ, &gate);
        submit(&running[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    submit(&waiting, queue);
    submit(&of_other, other);

    struct cog_job *back = cog_queue_close(queue);
    CHECK(back == &waiting.job);
    CHECK_EQ(waiting.job.state, COG_JOB_NEW);
    CHECK(back->next == &done.job && done.job.next == NULL);
    CHECK_EQ(cog_pool_reap(), 0);

    gate_allow(&gate, COG_POOL_THREADS);
    CHECK(await_next(other) == &of_other);
    REQUIRE(cog_pool_drain(HANG_MS));
    CHECK_EQ(cog_pool_reap(), COG_POOL_THREADS);
    CHECK_EQ(cog_pool_reap(), 0);
    for (int i = 0; i < COG_POOL_THREADS; i++) {
        CHECK(running[i].dropped);
    }
    CHECK(!waiting.dropped && !done.dropped && waiting.order == 0);
    cog_queue_close(other);
    CHECK(cog_queue_close(NULL) == NULL);
}

static void test_a_job_without_queue_is_dropped_by_reap(void)
{
    struct task task = task_of(COG_LANE_WRITE, NULL);

    submit(&task, NULL);
    REQUIRE(cog_pool_drain(HANG_MS));
    CHECK(task.order != 0 && !task.dropped);
    CHECK_EQ(cog_pool_reap(), 1);
    CHECK(task.dropped);
}

static void test_drain_gives_up_at_its_deadline(void)
{
    struct gate gate = GATE_CLOSED;
    struct task task = task_of(COG_LANE_WRITE, &gate);

    submit(&task, NULL);
    gate_await(&gate, 1);
    CHECK(!cog_pool_drain(20));
    gate_allow(&gate, 1);
    CHECK(cog_pool_drain(HANG_MS));
    CHECK_EQ(cog_pool_reap(), 1);
}

/* --- a system that refuses ---------------------------------------------------------------------
 */

static int exit_status_of(pid_t child)
{
    int status;

    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_no_descriptor_is_an_error_with_errno(void)
{
    pid_t child = fork();

    if (child == 0) {
        struct rlimit none = {0, 0};
        struct cog_queue *queue;
        struct cog_error err = {0};

        setrlimit(RLIMIT_NOFILE, &none);
        _exit(!(cog_queue_new(&queue, &err) == COG_ERR_IO && err.sys_errno == EMFILE &&
                queue == NULL));
    }
    CHECK_EQ(exit_status_of(child), 0);
}

/* The limit on threads does not bind root. */
static bool may_have_no_more_threads(struct rlimit *before)
{
    struct rlimit none;

    if (geteuid() == 0 && setuid(65534) != 0) {
        return false;
    }
    getrlimit(RLIMIT_NPROC, before);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = before->rlim_max};
    return setrlimit(RLIMIT_NPROC, &none) == 0;
}

static void test_no_thread_is_an_answer(void)
{
    pid_t child = fork();

    if (child == 0) {
        struct cog_queue *queue = new_queue();
        struct task task = task_of(COG_LANE_READ, NULL);
        struct rlimit before;
        struct cog_error err = {0};

        if (!may_have_no_more_threads(&before)) {
            _exit(2);
        }
        if (cog_pool_submit(&task.job, queue, &err) != COG_ERR_BUSY || err.sys_errno != EAGAIN ||
            task.job.state != COG_JOB_NEW || !cog_pool_drain(0)) {
            _exit(3);
        }
        setrlimit(RLIMIT_NPROC, &before);
        _exit(!(cog_pool_submit(&task.job, queue, &err) == COG_OK && await_next(queue) == &task));
    }
    int status = exit_status_of(child);
    if (status == 2) {
        fprintf(stderr, "not run (this root may not become another user): %s\n", __func__);
        return;
    }
    CHECK_EQ(status, 0);
}

/* --- fork ----------------------------------------------------------------------------------------
 */

static void test_fork_with_idle_threads_leaves_a_single_thread(void)
{
    struct cog_queue *queue = new_queue();
    struct task task = task_of(COG_LANE_READ, NULL);
    pid_t child;

    submit(&task, queue);
    await_next(queue);
    CHECK(stats().threads > 0);
    child = fork();
    if (child == 0) {
        _exit(stats().threads != 0);
    }
    CHECK_EQ(stats().threads, 0);
    CHECK_EQ(exit_status_of(child), 0);
    cog_queue_close(queue);
}

/* In the child of a fork with a full pool: the exit status, 0 when everything holds. */
static int child_of_a_busy_parent(struct cog_queue *inherited, struct task *waiting,
                                  struct task *done)
{
    struct task task = task_of(COG_LANE_READ, NULL);
    struct cog_queue *queue;
    struct cog_job *back;

    if (!cog_queue_is_dead(inherited) || cog_queue_fd(inherited) != -1 ||
        cog_queue_next(inherited) != NULL) {
        return 1;
    }
    if (cog_pool_submit(&task.job, inherited, NULL) != COG_ERR_CLOSED) {
        return 2;
    }
    back = cog_queue_close(inherited);
    if (back != &done->job || back->next != &waiting->job || waiting->job.next != NULL ||
        waiting->job.state != COG_JOB_NEW) {
        return 3;
    }
    if (cog_pool_reap() != 1 || !cog_pool_drain(0)) { /* the one without a queue */
        return 4;
    }
    queue = new_queue();
    submit(&task, queue);
    return await_next(queue) == &task && cog_queue_close(queue) == NULL ? 0 : 5;
}

static void test_fork_with_jobs_in_flight(void)
{
    struct cog_queue *queue = new_queue();
    struct gate gate = GATE_CLOSED;
    struct task done = task_of(COG_LANE_READ, NULL);
    struct task running[COG_POOL_THREADS];
    struct task waiting = task_of(COG_LANE_READ, NULL);
    struct task nobodys = task_of(COG_LANE_READ, NULL);
    pid_t child;

    submit(&done, queue);
    REQUIRE(cog_pool_drain(HANG_MS));
    for (int i = 0; i < COG_POOL_THREADS; i++) {
        running[i] = task_of(COG_LANE_READ, &gate);
        submit(&running[i], queue);
    }
    gate_await(&gate, COG_POOL_THREADS);
    submit(&waiting, queue);
    submit(&nobodys, NULL);
    child = fork();
    if (child == 0) {
        _exit(child_of_a_busy_parent(queue, &waiting, &done));
    }
    CHECK_EQ(exit_status_of(child), 0);

    /* The parent has lost nothing: no wake-up, no job. */
    CHECK(is_readable(queue, 0));
    CHECK(await_next(queue) == &done);
    gate_allow(&gate, COG_POOL_THREADS);
    for (int i = 0; i < COG_POOL_THREADS + 1; i++) {
        await_next(queue);
    }
    CHECK(waiting.order != 0);
    REQUIRE(cog_pool_drain(HANG_MS));
    CHECK_EQ(cog_pool_reap(), 1);
    cog_queue_close(queue);
}

/* --- all at once ---------------------------------------------------------------------------------
 */

enum { OWNERS = 4, ROUNDS = 40, BATCH = 50 };

static void free_task(struct cog_job *job)
{
    free(job);
}

/* Submit a batch, cancel some, take `wanted` back, close the queue on the rest. */
static void one_round(unsigned *seed, unsigned wanted)
{
    struct cog_queue *queue = new_queue();
    struct task *tasks[BATCH];
    unsigned came_back = 0;
    struct cog_job *following;

    for (int i = 0; i < BATCH; i++) {
        tasks[i] = malloc(sizeof *tasks[i]);
        REQUIRE(tasks[i] != NULL);
        *tasks[i] = task_of(rand_r(seed) % 2 ? COG_LANE_WRITE : COG_LANE_READ, NULL);
        tasks[i]->job.drop = free_task;
        submit(tasks[i], queue);
    }
    for (int i = 0; i < BATCH; i += 7) {
        if (cog_pool_cancel(&tasks[i]->job)) {
            free(tasks[i]);
            came_back++;
        }
    }
    for (; came_back < wanted; came_back++) {
        free(await_next(queue));
    }
    for (struct cog_job *job = cog_queue_close(queue); job != NULL; job = following) {
        following = job->next;
        free(job);
        came_back++;
    }
    CHECK(wanted < BATCH || came_back == BATCH);
    cog_pool_reap();
}

static void *own_queues(void *argument)
{
    unsigned *seed = argument;

    for (int round = 0; round < ROUNDS; round++) {
        one_round(seed, round % 4 == 3 ? BATCH / 2 : BATCH);
    }
    return NULL;
}

static void test_many_owners_at_once(void)
{
    pthread_t threads[OWNERS];
    unsigned seeds[OWNERS] = {1, 2, 3, 4};

    for (int i = 0; i < OWNERS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, own_queues, &seeds[i]) == 0);
    }
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();

        if (child == 0) {
            /* By exec, since at exit ThreadSanitizer misses the joins that the parent has yet to
             * make. */
            const char *answer = stats().threads != 0 ? "false" : "true";

            execlp(answer, answer, (char *)NULL);
            _exit(2);
        }
        CHECK_EQ(exit_status_of(child), 0);
    }
    for (int i = 0; i < OWNERS; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(cog_pool_drain(HANG_MS));
    cog_pool_reap();
}

int main(void)
{
    alarm(600);
    RUN(test_no_thread_before_the_first_job);
    RUN(test_retired_threads_are_gone_and_come_back);
    RUN(test_many_completions_cost_one_wakeup);
    RUN(test_a_pipe_serves_where_there_is_no_eventfd);
    RUN(test_no_more_threads_than_the_bound);
    RUN(test_jobs_of_a_lane_start_in_order);
    RUN(test_writes_leave_a_thread_to_reads);
    RUN(test_reads_leave_a_thread_to_writes);
    RUN(test_background_jobs_run_alone_and_last);
    RUN(test_waiting_for_one_owner_is_not_waiting_for_others);
    RUN(test_cancel_before_and_after_the_start);
    RUN(test_a_closed_queue_returns_what_does_not_run);
    RUN(test_a_job_without_queue_is_dropped_by_reap);
    RUN(test_drain_gives_up_at_its_deadline);
    RUN(test_no_descriptor_is_an_error_with_errno);
    RUN(test_no_thread_is_an_answer);
    RUN(test_fork_with_idle_threads_leaves_a_single_thread);
    RUN(test_fork_with_jobs_in_flight);
    RUN(test_many_owners_at_once);
    cog_pool_retire();
    return check_done();
}
