#define _GNU_SOURCE 1

#include "workers_kit.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static void begin_one(struct workers *workers, unsigned number, uint64_t seed)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (getppid() != parent) {
            _exit(0);
        }
        workers->work(workers->context, number, seed * 977 + number);
        _exit(4);
    }
    workers->pids[number] = child;
}

static void kill_one(const struct workers *workers, unsigned number)
{
    int status;
    REQUIRE(kill(workers->pids[number], SIGKILL) == 0);
    REQUIRE(waitpid(workers->pids[number], &status, 0) == workers->pids[number]);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* nothing else has ended it */
}

static void wait_until_stopped(pid_t worker)
{
    int status;
    REQUIRE(waitpid(worker, &status, WUNTRACED) == worker);
    REQUIRE(WIFSTOPPED(status));
}

void workers_begin(struct workers *workers, uint64_t *seed)
{
    REQUIRE(workers->count <= WORKERS_MOST);
    for (unsigned i = 0; i < workers->count; i++) {
        begin_one(workers, i, workers_random(seed));
    }
}

void workers_stop(struct workers *workers)
{
    for (unsigned i = 0; i < workers->count; i++) {
        REQUIRE(kill(workers->pids[i], SIGSTOP) == 0);
    }
    for (unsigned i = 0; i < workers->count; i++) {
        wait_until_stopped(workers->pids[i]);
    }
}

void workers_replace_one(struct workers *workers, uint64_t *seed)
{
    unsigned i = (unsigned)(workers_random(seed) % workers->count);
    kill_one(workers, i);
    begin_one(workers, i, workers_random(seed));
    REQUIRE(kill(workers->pids[i], SIGSTOP) == 0);
    wait_until_stopped(workers->pids[i]);
    workers->kills++;
}

void workers_go_on(const struct workers *workers)
{
    for (unsigned i = 0; i < workers->count; i++) {
        REQUIRE(kill(workers->pids[i], SIGCONT) == 0);
    }
}

void workers_kill(struct workers *workers)
{
    for (unsigned i = 0; i < workers->count; i++) {
        kill_one(workers, i);
    }
}

uint64_t workers_random(uint64_t *seed)
{
    return check_random(seed) >> 24;
}

uint64_t workers_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void workers_expect_caught(const char *self, const char *bug)
{
    char twin[600];
    int status;
    snprintf(twin, sizeof twin, "%s.%s", self, bug);
    check_running = bug;
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        execl(twin, twin, "until-caught", (char *)NULL);
        _exit(127);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
