#include "core/ahead.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/alloc.h"
#include "core/entry_layout.h"

struct cog_ahead {
    const unsigned char *data;
    size_t size, chunk_size;
    uint64_t token;
    uint32_t first, count;
    uint32_t most; /* chunks that the thread may be ahead */
    pthread_t thread;
    pthread_mutex_t mutex; /* of `asked` and `ended` */
    pthread_cond_t moved;
    uint32_t asked; /* chunks whose sums were asked for */
    bool ended;
    struct ahead_sum {
        uint64_t sum;
        atomic_bool there; /* released after `sum` */
    } sums[];
};

static uint64_t sum_of(const struct cog_ahead *ahead, uint32_t index)
{
    size_t start = (size_t)index * ahead->chunk_size;
    size_t left = ahead->size - start;

    return cog_chunk_sum(ahead->data + start, left < ahead->chunk_size ? left : ahead->chunk_size,
                         ahead->token, ahead->first + index);
}

/* Wait until chunk `next` is not too far ahead: the chunk to go on with, which is never behind. */
static uint32_t wait_for_turn(struct cog_ahead *ahead, uint32_t next)
{
    pthread_mutex_lock(&ahead->mutex);
    while (!ahead->ended && next >= ahead->asked + ahead->most) {
        pthread_cond_wait(&ahead->moved, &ahead->mutex);
    }
    next = ahead->ended ? ahead->count : next < ahead->asked ? ahead->asked : next;
    pthread_mutex_unlock(&ahead->mutex);
    return next;
}

static void *run_ahead(void *context)
{
    struct cog_ahead *ahead = context;

    for (uint32_t next = 0; (next = wait_for_turn(ahead, next)) < ahead->count; next++) {
        ahead->sums[next].sum = sum_of(ahead, next);
        atomic_store_explicit(&ahead->sums[next].there, true, memory_order_release);
    }
    return NULL;
}

/* Signals are for the threads of the program. */
static int start(struct cog_ahead *ahead)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&ahead->thread, NULL, run_ahead, ahead);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

struct cog_ahead *cog_ahead_begin(const void *data, size_t size, size_t chunk_size, uint64_t token,
                                  uint32_t first)
{
    size_t count = size / chunk_size + (size % chunk_size != 0);
    size_t sums, total;

    if (count > UINT32_MAX || cog_mul_overflows(count, sizeof(struct ahead_sum), &sums) ||
        cog_add_overflows(sizeof(struct cog_ahead), sums, &total)) {
        return NULL;
    }
    struct cog_ahead *ahead = cog_alloc_zeroed(1, total);

    if (ahead == NULL) {
        return NULL;
    }
    ahead->data = data;
    ahead->size = size;
    ahead->chunk_size = chunk_size;
    ahead->token = token;
    ahead->first = first;
    ahead->count = (uint32_t)count;
    ahead->most = (uint32_t)(COG_AHEAD_BYTES / chunk_size + 1);
    pthread_mutex_init(&ahead->mutex, NULL);
    pthread_cond_init(&ahead->moved, NULL);
    if (start(ahead) != 0) {
        pthread_cond_destroy(&ahead->moved);
        pthread_mutex_destroy(&ahead->mutex);
        cog_free(ahead);
        return NULL;
    }
    return ahead;
}

uint64_t cog_ahead_sum(struct cog_ahead *ahead, uint32_t index)
{
    pthread_mutex_lock(&ahead->mutex);
    ahead->asked = index + 1;
    pthread_cond_signal(&ahead->moved);
    pthread_mutex_unlock(&ahead->mutex);
    if (atomic_load_explicit(&ahead->sums[index].there, memory_order_acquire)) {
        return ahead->sums[index].sum;
    }
    return sum_of(ahead, index);
}

void cog_ahead_end(struct cog_ahead *ahead)
{
    if (ahead == NULL) {
        return;
    }
    pthread_mutex_lock(&ahead->mutex);
    ahead->ended = true;
    pthread_cond_signal(&ahead->moved);
    pthread_mutex_unlock(&ahead->mutex);
    pthread_join(ahead->thread, NULL);
    pthread_cond_destroy(&ahead->moved);
    pthread_mutex_destroy(&ahead->mutex);
    cog_free(ahead);
}
