/*
 * A mapped index that somebody cuts short costs a count and no process; every SIGBUS that has
 * nothing to do with it ends where it would have ended without us. Each case is a process of its
 * own, since a handler is installed once and for good.
 */
#define _GNU_SOURCE 1

#include "index_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "core/guard.h"

#include "check.h"

/* --- a mapped file, and what became of a child --- */

enum { PAGES = 8, DEAD_BY = 1000 };

struct mapped {
    char path[64];
    atomic_int fd;
    atomic_bool broken;
    size_t page, size;
    unsigned char *map;
};

static void map_filled(struct mapped *mapped)
{
    *mapped = (struct mapped){.path = "/tmp/cog-guard-XXXXXX",
                              .page = (size_t)sysconf(_SC_PAGESIZE)};
    mapped->size = PAGES * mapped->page;
    int fd = mkstemp(mapped->path);
    REQUIRE(fd >= 0 && ftruncate(fd, (off_t)mapped->size) == 0);
    (void)unlink(mapped->path);
    atomic_init(&mapped->fd, fd);
    atomic_init(&mapped->broken, false);
    mapped->map = mmap(NULL, mapped->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(mapped->map != MAP_FAILED);
    memset(mapped->map, 0xa5, mapped->size);
}

static bool watch(struct mapped *mapped)
{
    return cog_guard_watch(mapped->map, mapped->size, &mapped->fd, &mapped->broken);
}

static void cut(const struct mapped *mapped, size_t size)
{
    REQUIRE(ftruncate(atomic_load(&mapped->fd), (off_t)size) == 0);
}

static unsigned char look(const struct mapped *mapped, unsigned page)
{
    return *(volatile unsigned char *)(mapped->map + page * mapped->page);
}

/* 0: all checks of the child held. 1: not. DEAD_BY + n: killed by signal n. */
static int end_of(void (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        atomic_store(&check_failures, 0);
        alarm(120); /* a fault that comes again and again is a death by SIGALRM */
        body();
        _exit(atomic_load(&check_failures) ? 1 : 0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? DEAD_BY + WTERMSIG(status) : WEXITSTATUS(status);
}

#define CASE(body, end)              \
    do {                             \
        check_running = #body;       \
        CHECK_EQ(end_of(body), end); \
    } while (0)

/* --- ours --- */

static void reads_zeroes_and_says_so(void)
{
    struct mapped mapped;
    map_filled(&mapped);
    REQUIRE(watch(&mapped));
    cut(&mapped, mapped.page);
    CHECK_EQ(look(&mapped, 0), 0xa5);
    CHECK(!atomic_load(&mapped.broken));
    errno = 77;
    CHECK_EQ(look(&mapped, PAGES / 2), 0);
    CHECK_EQ(errno, 77);
    CHECK(atomic_load(&mapped.broken));
    CHECK_EQ(look(&mapped, 0), 0); /* all of it: half a file is good for nothing */
    mapped.map[(PAGES - 1) * mapped.page] = 7;
    CHECK_EQ(look(&mapped, PAGES - 1), 7);
    cog_guard_forget(mapped.map);
    CHECK_EQ(munmap(mapped.map, mapped.size), 0);
}

static void writes_survive_too(void)
{
    struct mapped mapped;
    map_filled(&mapped);
    REQUIRE(watch(&mapped));
    cut(&mapped, 0);
    atomic_fetch_add((_Atomic uint64_t *)(void *)mapped.map, 3);
    CHECK_EQ(look(&mapped, 0), 3);
    CHECK(atomic_load(&mapped.broken));
}

static void only_the_file_that_was_cut_is_broken(void)
{
    struct mapped one, two;
    map_filled(&one);
    map_filled(&two);
    REQUIRE(watch(&one) && watch(&two));
    cut(&two, 0);
    CHECK_EQ(look(&two, 3), 0);
    CHECK(atomic_load(&two.broken) && !atomic_load(&one.broken));
    CHECK_EQ(look(&one, 3), 0xa5);
}

static void *look_everywhere(void *context)
{
    struct mapped *mapped = context;
    for (unsigned page = 0; page < PAGES; page++) {
        (void)look(mapped, page);
    }
    return NULL;
}

static void threads_may_fault_at_once(void)
{
    for (int round = 0; round < 100; round++) {
        struct mapped mapped;
        pthread_t threads[4];
        map_filled(&mapped);
        REQUIRE(watch(&mapped));
        cut(&mapped, 0);
        for (int i = 0; i < 4; i++) {
            REQUIRE(pthread_create(&threads[i], NULL, look_everywhere, &mapped) == 0);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        CHECK(atomic_load(&mapped.broken));
        cog_guard_forget(mapped.map);
        munmap(mapped.map, mapped.size);
        close(atomic_load(&mapped.fd));
    }
}

static struct mapped inherited;

static void looks_at_what_it_inherited(void)
{
    CHECK_EQ(look(&inherited, 2), 0);
    CHECK(atomic_load(&inherited.broken));
}

static void a_child_is_guarded_as_its_parent(void)
{
    map_filled(&inherited);
    REQUIRE(watch(&inherited));
    cut(&inherited, 0);
    CHECK_EQ(end_of(looks_at_what_it_inherited), 0);
    CHECK(!atomic_load(&inherited.broken)); /* memory of its own */
    looks_at_what_it_inherited();
}

static void no_more_are_watched_than_there_is_room_for(void)
{
    enum { ROOM = 256 };
    struct mapped mapped;
    map_filled(&mapped);
    unsigned char *many = mmap(NULL, (ROOM + 1) * mapped.page, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(many != MAP_FAILED);
    for (size_t i = 0; i < ROOM; i++) {
        CHECK(cog_guard_watch(many + i * mapped.page, mapped.page, &mapped.fd, &mapped.broken));
    }
    CHECK(!watch(&mapped));
    cog_guard_forget(many + 100 * mapped.page);
    CHECK(watch(&mapped));
    cut(&mapped, 0);
    CHECK_EQ(look(&mapped, 1), 0);
}

/* --- not ours --- */

static struct mapped foreign; /* nobody watches it */
static atomic_int handled;
static void *volatile seen_address;
static bool mask_was_right;

/* The guard is there, and a file that it does not watch is cut short. */
static void guard_and_cut_foreign(void)
{
    static struct mapped ours;
    map_filled(&ours);
    REQUIRE(watch(&ours));
    map_filled(&foreign);
    cut(&foreign, 0);
}

/* This sanitizer runs all handlers with everything blocked, whatever they asked for. */
#if defined(__SANITIZE_THREAD__)
static const bool masks_are_kept = false;
#else
static const bool masks_are_kept = true;
#endif

static bool is_blocked(int number)
{
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    return sigismember(&now, number) == 1;
}

static void mend_foreign(void)
{
    mmap(foreign.map, foreign.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
         -1, 0);
}

static void handler_with_info(int number, siginfo_t *info, void *context)
{
    atomic_fetch_add(&handled, context != NULL && number == SIGBUS);
    seen_address = info->si_addr;
    mask_was_right = is_blocked(SIGUSR1) && !is_blocked(SIGBUS);
    mend_foreign();
}

static void plain_handler(int number)
{
    atomic_fetch_add(&handled, number == SIGBUS);
    mask_was_right = !is_blocked(SIGUSR1) && is_blocked(SIGBUS);
    mend_foreign();
}

static void the_handler_before_us_takes_what_is_its_own(void)
{
    struct sigaction before = {.sa_sigaction = handler_with_info,
                               .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaddset(&before.sa_mask, SIGUSR1);
    REQUIRE(sigaction(SIGBUS, &before, NULL) == 0);
    guard_and_cut_foreign();
    for (int i = 1; i <= 2; i++) { /* as often as it comes */
        CHECK_EQ(look(&foreign, 3), 0);
        CHECK_EQ(atomic_load(&handled), i);
        CHECK(seen_address == foreign.map + 3 * foreign.page);
        CHECK(mask_was_right || !masks_are_kept);
        CHECK(!is_blocked(SIGUSR1) && !is_blocked(SIGBUS));
        map_filled(&foreign);
        cut(&foreign, 0);
    }
}

static void a_plain_handler_before_us_takes_it_once_if_it_asked_so(void)
{
    struct sigaction before = {.sa_handler = plain_handler, .sa_flags = (int)SA_RESETHAND};
    REQUIRE(sigaction(SIGBUS, &before, NULL) == 0);
    guard_and_cut_foreign();
    CHECK_EQ(look(&foreign, 3), 0);
    CHECK_EQ(atomic_load(&handled), 1);
    CHECK(mask_was_right || !masks_are_kept);
    CHECK(!is_blocked(SIGBUS));
    REQUIRE(atomic_load(&check_failures) == 0);
    map_filled(&foreign);
    cut(&foreign, 0);
    (void)look(&foreign, 0); /* the second one is a death */
}

static void by_default_it_is_a_death(void)
{
    signal(SIGBUS, SIG_DFL);
    guard_and_cut_foreign();
    (void)look(&foreign, 0);
}

static void a_fault_is_not_to_be_ignored(void)
{
    signal(SIGBUS, SIG_IGN);
    guard_and_cut_foreign();
    CHECK_EQ(raise(SIGBUS), 0); /* but a signal is */
    (void)look(&foreign, 0);
}

static void a_raised_signal_is_a_death_by_default(void)
{
    signal(SIGBUS, SIG_DFL);
    guard_and_cut_foreign();
    (void)raise(SIGBUS);
}

static void a_signal_of_another_process_is_a_death_though_a_file_was_cut(void)
{
    struct mapped ours;
    signal(SIGBUS, SIG_DFL);
    map_filled(&ours);
    REQUIRE(watch(&ours));
    cut(&ours, 0);
    pid_t target = getpid(), child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        _exit(kill(target, SIGBUS));
    }
    for (;;) {
        pause();
    }
}

static void forgotten_it_is_a_death(void)
{
    struct mapped mapped;
    signal(SIGBUS, SIG_DFL);
    map_filled(&mapped);
    REQUIRE(watch(&mapped));
    cog_guard_forget(mapped.map);
    cut(&mapped, 0);
    (void)look(&mapped, 0);
}

/* --- a handler in front of us that reports, steps back and raises anew --- */

static struct sigaction behind_reporter;

static void reporter(int number)
{
    atomic_fetch_add(&handled, 1);
    sigaction(number, &behind_reporter, NULL);
    raise(number);
}

static void put_reporter_in_front(void)
{
    struct sigaction front = {.sa_handler = reporter, .sa_flags = SA_NODEFER};
    REQUIRE(sigaction(SIGBUS, &front, &behind_reporter) == 0);
}

static void a_reporter_in_front_reports_and_we_go_on(void)
{
    struct mapped mapped;
    signal(SIGBUS, SIG_DFL);
    map_filled(&mapped);
    REQUIRE(watch(&mapped));
    put_reporter_in_front();
    cut(&mapped, mapped.page);
    CHECK_EQ(look(&mapped, 5), 0);
    CHECK_EQ(atomic_load(&handled), 1);
    CHECK(atomic_load(&mapped.broken));
}

static void a_reporter_in_front_of_a_foreign_fault_is_still_a_death(void)
{
    signal(SIGBUS, SIG_DFL);
    guard_and_cut_foreign();
    put_reporter_in_front();
    (void)look(&foreign, 5);
}

static void a_reporter_behind_is_silent_about_ours(void)
{
    struct mapped mapped;
    put_reporter_in_front();
    map_filled(&mapped);
    REQUIRE(watch(&mapped));
    cut(&mapped, 0);
    CHECK_EQ(look(&mapped, 5), 0);
    CHECK_EQ(atomic_load(&handled), 0);
}

/* --- the index --- */

static int index_descriptor(const struct root *root)
{
    return openat(root->fd, "index", O_RDWR | O_CLOEXEC);
}

/* To nothing, to a page, into a page of the words, into the tables, wherever. */
static void cut_index(const struct root *root, unsigned how)
{
    static const off_t sizes[] = {0, 4096, 100, 13000, 20000, 49152, 400000, 1 << 20};
    int fd = index_descriptor(root);
    struct stat about;
    if (fd < 0) {
        return;
    }
    off_t size = sizes[how % (sizeof sizes / sizeof *sizes)];
    if (fstat(fd, &about) == 0 && size < about.st_size) {
        (void)!ftruncate(fd, size);
    }
    close(fd);
}

static void test_each_way_of_cutting_costs_a_count(struct root *root)
{
    struct cog_index *index = root_open(root, NULL);
    for (unsigned how = 0; how < 8; how++) {
        struct cog_digest digest;
        struct cog_index_stats stats;
        for (uint64_t key = 0; key < 60; key++) {
            CHECK_EQ(entry_put(index, key, 3000), COG_OK);
        }
        CHECK_EQ(entry_put(index, 1000 + how, 3000), COG_OK);
        cut_index(root, how);
        for (uint64_t key = 0; key < 60; key++) { /* all that goes without a lock */
            struct cog_row row;
            key_digest(key, &digest);
            cog_index_touch(index, &digest);
            CHECK(!cog_index_is_absent(index, &digest));
            (void)cog_index_peek(index, &digest, &row, NULL);
        }
        cog_index_bump_tag_counter(index);
        struct cog_victim victim;
        (void)cog_index_sample(index, &victim);
        (void)cog_index_next_shard(index);
        cog_index_get_stats(index, &stats);
        CHECK(!stats.attached || stats.entries <= 60 + 8);
        CHECK_EQ(entry_delete(index, how), COG_OK);
        CHECK_EQ(entry_delete(index, how), COG_ABSENT);
        const char *wrong = root_audit(root, index);
        if (!CHECK(wrong == NULL)) {
            fprintf(stderr, "    cut %u: %s\n", how, wrong);
        }
        CHECK(entry_exists(root, 59) && entry_exists(root, 1000));
        cog_index_get_stats(index, &stats);
        CHECK_EQ(stats.entries, 60 - 1 + how + 1);
        CHECK_EQ(stats.mapped, !root->no_map);
    }
    cog_index_close(index);
}

/* Filled up again it is of the right size, and its zeroes say nothing. */
static void test_an_index_cut_and_filled_up_again_is_counted_anew(struct root *root)
{
    struct cog_index *index = root_open(root, NULL), *fresh;
    struct stat about;
    struct cog_digest digest;
    uint64_t key = 7;
    for (uint64_t i = 0; i < 60; i++) {
        CHECK_EQ(entry_put(index, i, 3000), COG_OK);
    }
    int fd = index_descriptor(root);
    REQUIRE(fd >= 0 && fstat(fd, &about) == 0);
    REQUIRE(ftruncate(fd, 4096) == 0 && ftruncate(fd, about.st_size) == 0);
    close(fd);
    key_digest(key, &digest);
    CHECK(!cog_index_is_absent(index, &digest));
    fresh = root_open(root, NULL);
    CHECK(!cog_index_is_absent(fresh, &digest));
    const char *wrong = root_audit(root, fresh);
    if (!CHECK(wrong == NULL)) {
        fprintf(stderr, "    %s\n", wrong);
    }
    cog_index_close(fresh);
    cog_index_close(index);
}

static void test_a_file_whose_pages_were_lost_is_not_used_again(struct root *root)
{
    static unsigned char saved[1 << 16];
    struct cog_index *index = root_open(root, NULL);
    struct stat before, after;
    struct cog_digest digest;
    key_digest(7, &digest);
    CHECK_EQ(entry_put(index, 7, 3000), COG_OK);
    int fd = index_descriptor(root);
    REQUIRE(fd >= 0 && fstat(fd, &before) == 0);
    REQUIRE(pread(fd, saved, sizeof saved, 0) == sizeof saved);
    REQUIRE(ftruncate(fd, 0) == 0);
    cog_index_touch(index, &digest); /* meets the hole */
    REQUIRE(pwrite(fd, saved, sizeof saved, 0) == sizeof saved);
    REQUIRE(ftruncate(fd, before.st_size) == 0);
    CHECK_EQ(entry_put(index, 8, 3000), COG_OK);
    REQUIRE(fstatat(root->fd, "index", &after, 0) == 0);
    CHECK(after.st_ino != before.st_ino);
    close(fd);
    cog_index_close(index);
}

enum { SOME_PUTS = 10 };

struct job {
    struct root *root;
    struct cog_index *index;
    uint64_t first, puts;
    unsigned failures;
    atomic_bool *stop;
};

static void work(struct job *job)
{
    /* each does some work, however little of the processor it gets before the end */
    for (uint64_t i = 0; job->puts <= SOME_PUTS || !atomic_load(job->stop); i++) {
        uint64_t key = job->first + i % 90;
        struct cog_digest digest;
        enum cog_status status = i % 5 == 4 ? entry_delete(job->index, key)
                                            : entry_put(job->index, key, 1000 + i % 60 * 4000);
        job->puts += status == COG_OK && i % 5 != 4;
        /* a limit in play, counts after a loss: refusals are legal, anything else is not */
        job->failures += status != COG_OK && status != COG_ABSENT && status != COG_ERR_BUSY &&
                         status != COG_ERR_FULL && status != COG_INDEX_MOVED;
        key_digest(key, &digest);
        cog_index_touch(job->index, &digest);
        (void)cog_index_is_absent(job->index, &digest);
    }
}

static void *work_in_thread(void *context)
{
    work(context);
    return NULL;
}

static struct cog_index *open_small(const struct root *root)
{
    struct cog_index_options options = root_options(root);
    options.limit = UINT64_C(24) << 20; /* so that puts evict */
    return root_open(root, &options);
}

static int work_in_process(void *context)
{
    struct job *job = context;
    job->index = open_small(job->root);
    work(job);
    cog_index_close(job->index);
    return job->failures > 0;
}

/* Four threads and two processes, and somebody who keeps cutting. */
static void test_the_index_may_be_cut_short_while_all_work(struct root *root)
{
    enum { THREADS = 4, PROCESSES = 2, CUTS = 16 };
    atomic_bool *stop = mmap(NULL, sizeof *stop, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                             -1, 0);
    REQUIRE(stop != MAP_FAILED);
    pid_t children[PROCESSES];
    for (uint64_t i = 0; i < PROCESSES; i++) {
        fflush(NULL);
        children[i] = fork();
        REQUIRE(children[i] >= 0);
        if (children[i] == 0) {
            alarm(120);
            struct job job = {.root = root, .first = 300 + 40 * i, .stop = stop};
            _exit(work_in_process(&job));
        }
    }
    struct cog_index *index = open_small(root);
    struct job jobs[THREADS];
    pthread_t threads[THREADS];
    for (uint64_t i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.root = root, .index = index, .first = 50 * i, .stop = stop};
        REQUIRE(pthread_create(&threads[i], NULL, work_in_thread, &jobs[i]) == 0);
    }
    for (unsigned i = 0; i < CUTS; i++) {
        cut_index(root, i);
        (void)entry_put(index, 5000 + i, 3000);
    }
    atomic_store(stop, true);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(jobs[i].failures, 0);
    }
    for (unsigned i = 0; i < PROCESSES; i++) {
        int status;
        REQUIRE(waitpid(children[i], &status, 0) == children[i]);
        CHECK_EQ(status, 0);
    }
    for (unsigned s = 0; s < COG_SHARDS; s++) { /* what was published into a lost index */
        enum cog_status status = cog_index_sweep_shard(index, s, true, NULL, NULL);
        CHECK(status == COG_OK || (status == COG_INDEX_MOVED && s == 0));
        s -= status == COG_INDEX_MOVED;
    }
    const char *wrong = root_audit(root, index);
    if (!CHECK(wrong == NULL)) {
        fprintf(stderr, "    %s\n", wrong);
    }
    struct truth truth;
    root_truth(root, &truth, true);
    CHECK_EQ(truth.torn, 0);
    cog_index_close(index);
    munmap(stop, sizeof *stop);
}

/* What the tests above say is said of the guard: without it the first touch is a death. */
static void without_the_guard_a_cut_index_is_a_death(void)
{
    struct root root;
    struct cog_digest digest;
    check_running = root_begin(&root, "without the guard", 0);
    struct cog_index *index = root_open(&root, NULL);
    CHECK_EQ(entry_put(index, 1, 3000), COG_OK);
    signal(SIGBUS, SIG_DFL); /* takes it out */
    cut_index(&root, 0);
    root_remove(&root);
    key_digest(1, &digest);
    cog_index_touch(index, &digest);
}

#if defined(__linux__)
/* A sandbox whose filter does not let handlers be installed. */
static bool refuse_handlers(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigaction, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void where_no_handler_is_allowed_nothing_is_mapped(void)
{
    struct root root;
    struct cog_index_stats stats;
    check_running = root_begin(&root, "no handler allowed", 0);
    if (!refuse_handlers()) {
        fprintf(stderr, "not run (no seccomp filters here): %s\n", __func__);
        root_remove(&root);
        return;
    }
    struct cog_index *index = root_open(&root, NULL);
    cog_index_get_stats(index, &stats);
    CHECK(stats.attached && !stats.mapped);
    CHECK_EQ(entry_put(index, 1, 3000), COG_OK);
    cut_index(&root, 0);
    CHECK_EQ(entry_put(index, 2, 3000), COG_OK);
    CHECK(root_audit(&root, index) == NULL);
    cog_index_close(index);
    root_remove(&root);
}
#endif

int main(void)
{
    /* In memory where there is such a place: every new index is synced once. */
    (void)setenv("TMPDIR", access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp", 0);
    CASE(reads_zeroes_and_says_so, 0);
    CASE(writes_survive_too, 0);
    CASE(only_the_file_that_was_cut_is_broken, 0);
    CASE(threads_may_fault_at_once, 0);
    CASE(a_child_is_guarded_as_its_parent, 0);
    CASE(no_more_are_watched_than_there_is_room_for, 0);
    CASE(the_handler_before_us_takes_what_is_its_own, 0);
    CASE(a_plain_handler_before_us_takes_it_once_if_it_asked_so, DEAD_BY + SIGBUS);
    CASE(by_default_it_is_a_death, DEAD_BY + SIGBUS);
    CASE(a_fault_is_not_to_be_ignored, DEAD_BY + SIGBUS);
    CASE(a_raised_signal_is_a_death_by_default, DEAD_BY + SIGBUS);
    CASE(a_signal_of_another_process_is_a_death_though_a_file_was_cut, DEAD_BY + SIGBUS);
    CASE(forgotten_it_is_a_death, DEAD_BY + SIGBUS);
    CASE(a_reporter_in_front_reports_and_we_go_on, 0);
    CASE(a_reporter_in_front_of_a_foreign_fault_is_still_a_death, DEAD_BY + SIGBUS);
    CASE(a_reporter_behind_is_silent_about_ours, 0);
    CASE(without_the_guard_a_cut_index_is_a_death, DEAD_BY + SIGBUS);
#if defined(__linux__)
    CASE(where_no_handler_is_allowed_nothing_is_mapped, 0);
#endif
    ROOT_RUN(test_each_way_of_cutting_costs_a_count);
    ROOT_RUN(test_an_index_cut_and_filled_up_again_is_counted_anew);
    ROOT_RUN_ONCE(test_a_file_whose_pages_were_lost_is_not_used_again);
    ROOT_RUN(test_the_index_may_be_cut_short_while_all_work);
    return check_done();
}
