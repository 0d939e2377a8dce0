#include "core/ahead.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "core/alloc.h"
#include "core/bytes.h"
#include "core/entry_layout.h"

struct cog_ahead {
    const unsigned char *data;
    size_t size, chunk_size;
    uint64_t token;
    uint32_t first, count;
    uint32_t most; /* chunks that the thread may be ahead */
    pthread_t thread;
    bool joined;
    pthread_mutex_t mutex; /* of the three below */
    pthread_cond_t moved;
    uint32_t written;    /* chunks that the writer is done with */
    uint32_t next, left; /* chunks that nobody has taken: from `next` to before `left` */
    uint64_t sums[];
};

static uint64_t sum_of(const struct cog_ahead *ahead, uint32_t index)
{
    size_t start = (size_t)index * ahead->chunk_size;
    size_t left = ahead->size - start;

    return cog_chunk_sum(ahead->data + start, left < ahead->chunk_size ? left : ahead->chunk_size,
                         ahead->token, ahead->first + index);
}

/* The chunk for the thread to take, once it is not too far ahead; false: none is left. */
static bool take_first(struct cog_ahead *ahead, uint32_t *index)
{
    pthread_mutex_lock(&ahead->mutex);
    while (ahead->next < ahead->left && ahead->next >= ahead->written + ahead->most) {
        pthread_cond_wait(&ahead->moved, &ahead->mutex);
    }
    bool some = ahead->next < ahead->left;
    *index = some ? ahead->next++ : 0;
    pthread_mutex_unlock(&ahead->mutex);
    return some;
}

static bool take_last(struct cog_ahead *ahead, uint32_t *index)
{
    pthread_mutex_lock(&ahead->mutex);
    bool some = ahead->next < ahead->left;
    *index = some ? --ahead->left : 0;
    pthread_mutex_unlock(&ahead->mutex);
    return some;
}

static void *run_ahead(void *context)
{
    struct cog_ahead *ahead = context;
    uint32_t index;

    while (take_first(ahead, &index)) {
        ahead->sums[index] = sum_of(ahead, index);
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

    if (count > UINT32_MAX || cog_mul_overflows(count, sizeof(uint64_t), &sums) ||
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
    ahead->count = ahead->left = (uint32_t)count;
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

void cog_ahead_move(struct cog_ahead *ahead, uint32_t count)
{
    pthread_mutex_lock(&ahead->mutex);
    ahead->written += count;
    pthread_cond_signal(&ahead->moved);
    pthread_mutex_unlock(&ahead->mutex);
}

/* Let the thread take nothing more, and wait for what it has taken. */
static void join(struct cog_ahead *ahead)
{
    pthread_mutex_lock(&ahead->mutex);
    ahead->left = ahead->next;
    pthread_cond_signal(&ahead->moved);
    pthread_mutex_unlock(&ahead->mutex);
    pthread_join(ahead->thread, NULL);
    ahead->joined = true;
}

void cog_ahead_sums(struct cog_ahead *ahead, unsigned char *out)
{
    uint32_t index;

    cog_ahead_move(ahead, ahead->count);
    while (take_last(ahead, &index)) {
        ahead->sums[index] = sum_of(ahead, index);
    }
    join(ahead);
    for (index = 0; index < ahead->count; index++) {
        cog_store_le64(out + (size_t)index * 8, ahead->sums[index]);
    }
}

void cog_ahead_end(struct cog_ahead *ahead)
{
    if (ahead == NULL) {
        return;
    }
    if (!ahead->joined) {
        join(ahead);
    }
    pthread_cond_destroy(&ahead->moved);
    pthread_mutex_destroy(&ahead->mutex);
    cog_free(ahead);
}
