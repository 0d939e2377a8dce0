#if defined(__APPLE__)
#define _DARWIN_C_SOURCE 1
#else
#define _GNU_SOURCE 1 /* MAP_ANONYMOUS, MAP_NORESERVE */
#endif

#include "core/guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2 && ATOMIC_BOOL_LOCK_FREE == 2 &&
                   ATOMIC_INT_LOCK_FREE == 2,
               "a signal handler can wait for nobody");

/* --- what is watched --- */

enum { MOST_WATCHED = 256 };

struct range {
    unsigned char *start;
    size_t size;
    const atomic_int *fd;
    atomic_bool *broken;
};

static struct watched {
    atomic_uint version; /* odd: being changed */
    _Atomic(unsigned char *) start;
    atomic_size_t size;
    _Atomic(const atomic_int *) fd;
    _Atomic(atomic_bool *) broken; /* NULL: free; of no meaning to the handler where size is 0 */
} watched[MOST_WATCHED];

/* By whoever has the slot. */
static void write_slot(struct watched *slot, unsigned char *start, size_t size,
                       const atomic_int *fd)
{
    atomic_fetch_add(&slot->version, 1);
    atomic_store(&slot->start, start);
    atomic_store(&slot->size, size);
    atomic_store(&slot->fd, fd);
    atomic_fetch_add(&slot->version, 1);
}

/*
 * From the handler. A slot that changes under our eyes is not tried again: it cannot be the one
 * that this thread faulted in, which is watched for as long as anybody may touch it.
 */
static bool read_slot(struct watched *slot, struct range *out)
{
    unsigned version = atomic_load(&slot->version);
    out->start = atomic_load(&slot->start);
    out->size = atomic_load(&slot->size);
    out->fd = atomic_load(&slot->fd);
    out->broken = atomic_load(&slot->broken);
    return version % 2 == 0 && atomic_load(&slot->version) == version && out->size > 0;
}

/* --- the handler --- */

static struct sigaction previous; /* written before ours is installed */
static atomic_bool previous_is_spent;

/*
 * The system call itself where its arguments are those of mmap(): what tools put around mmap() is
 * not made for signal handlers, and takes the zeroes for a write that races with every reader.
 */
static bool map_zeroes(void *start, size_t size)
{
    const int access = PROT_READ | PROT_WRITE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
#if defined(SYS_mmap) && !defined(SYS_mmap2)
    return syscall(SYS_mmap, start, size, access, flags, -1, 0L) != -1;
#else
    return mmap(start, size, access, flags, -1, 0) != MAP_FAILED;
#endif
}

/*
 * `broken` first: whoever reads one of the zeroes finds it set. Two threads may fault at once and
 * do this twice; what the first has written in between belongs to a file that is lost.
 */
static bool put_zeroes(const struct range *range)
{
    atomic_store(range->broken, true);
    return map_zeroes(range->start, range->size);
}

/* A fault of this thread at si_addr, rather than a signal that somebody sent. */
static bool is_fault(const siginfo_t *info)
{
#if defined(__linux__)
    return info->si_code > 0;
#else
    return info->si_code != SI_USER && info->si_code != SI_QUEUE;
#endif
}

static bool mend_fault(const siginfo_t *info)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    struct range range;
    for (int i = 0; i < MOST_WATCHED; i++) {
        if (read_slot(&watched[i], &range) && at - (uintptr_t)range.start < range.size)
            return put_zeroes(&range);
    }
    return false;
}

/*
 * Raised by this process itself: by a handler in front of us, perhaps, which passes on a fault. If
 * it was no fault of ours after all, then it comes again, this time with its address.
 */
static bool mend_what_is_cut_short(void)
{
    bool any = false;
    for (int i = 0; i < MOST_WATCHED; i++) {
        struct range range;
        struct stat stat;
        if (read_slot(&watched[i], &range) && fstat(atomic_load(range.fd), &stat) == 0 &&
            (uint64_t)stat.st_size < range.size)
            any = put_zeroes(&range) || any;
    }
    return any;
}

/* As if we had never been there. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    bool takes_info = (previous.sa_flags & SA_SIGINFO) != 0;
    bool is_default = !takes_info && previous.sa_handler == SIG_DFL;
    bool ignored = !takes_info && previous.sa_handler == SIG_IGN;
    if ((previous.sa_flags & (int)SA_RESETHAND) && atomic_exchange(&previous_is_spent, true))
        is_default = true;
    if (ignored && !is_fault(info))
        return;
    if (is_default || ignored) { /* nobody can ignore a fault */
        struct sigaction by_default = {.sa_handler = SIG_DFL};
        sigaction(number, &by_default, NULL);
        if (!is_fault(info))
            raise(number); /* else we return, and the access faults again where it stands */
        return;
    }
    sigset_t mask = previous.sa_mask; /* what was blocked before comes back as we return */
    if (!(previous.sa_flags & SA_NODEFER))
        sigaddset(&mask, number);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    if (takes_info)
        previous.sa_sigaction(number, info, context);
    else
        previous.sa_handler(number);
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    bool mended = is_fault(info) ? mend_fault(info)
                                 : info->si_pid == getpid() && mend_what_is_cut_short();
    if (!mended)
        pass_on(number, info, context);
    errno = saved;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool is_installed;

/* SA_NODEFER, so that the one before us finds the signal blocked only if it asked for that. */
static void install(void)
{
    struct sigaction ours = {.sa_sigaction = on_bus_error,
                             .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART};
    sigemptyset(&ours.sa_mask);
    is_installed = sigaction(SIGBUS, NULL, &previous) == 0 && sigaction(SIGBUS, &ours, NULL) == 0;
}

/* --- watching --- */

bool cog_guard_watch(void *start, size_t size, const atomic_int *fd, atomic_bool *broken)
{
    pthread_once(&once, install);
    for (int i = 0; is_installed && i < MOST_WATCHED; i++) {
        atomic_bool *none = NULL;
        if (atomic_compare_exchange_strong(&watched[i].broken, &none, broken)) {
            write_slot(&watched[i], start, size, fd);
            return true;
        }
    }
    return false;
}

void cog_guard_forget(const void *start)
{
    for (int i = 0; start && i < MOST_WATCHED; i++) {
        if (atomic_load(&watched[i].start) == start) {
            write_slot(&watched[i], NULL, 0, NULL);
            atomic_store(&watched[i].broken, NULL);
        }
    }
}
