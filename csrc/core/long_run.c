#include "core/long_run.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "core/bytes.h"
#include "core/entry_layout.h"
#include "core/guard.h"
#include "core/thread.h"

enum {
    PIECE = 2 << 20, /* a large page of most systems; pieces begin and end at its multiples */
    MOST_FAULTS = 64 /* for one piece, above which its pages are not large */
};

/* Pieces are numbered by their place in the file; the first and the last may be shorter. */
struct work {
    const struct cog_run *run;
    const struct cog_fs *fs;
    int fd;
    uint64_t offset, end; /* of the run in the file */
    unsigned char *sums;
    pthread_mutex_t mutex; /* of the three below */
    uint64_t next, left;   /* pieces that nobody has taken: from `next` to before `left` */
    uint64_t filled;       /* from here on to the back the thread has filled them */
    unsigned char *map;    /* of the file up to `end`, or NULL */
    atomic_bool broken;    /* bytes behind the map went away */
};

struct piece {
    uint64_t from, to; /* in the file */
    const unsigned char *data;
};

static struct piece piece_of(const struct work *work, uint64_t number)
{
    uint64_t from = number * PIECE, to = from + PIECE;
    from = from > work->offset ? from : work->offset;
    to = to < work->end ? to : work->end;
    return (struct piece){from, to, work->run->data + (from - work->offset)};
}

/* The checksums of the chunks that begin in a piece. */
static void take_sums(const struct work *work, const struct piece *piece)
{
    const struct cog_run *run = work->run;
    uint64_t at = (piece->from - work->offset + run->chunk_size - 1) / run->chunk_size;

    for (; at * run->chunk_size < piece->to - work->offset; at++) {
        size_t start = (size_t)at * run->chunk_size, left = run->size - start;
        size_t size = left < run->chunk_size ? left : run->chunk_size;
        cog_store_le64(work->sums + (size_t)at * 8,
                       cog_chunk_sum(run->data + start, size, run->token,
                                     run->first + (uint32_t)at));
    }
}

static bool take_first(struct work *work, uint64_t *number)
{
    pthread_mutex_lock(&work->mutex);
    bool some = work->next < work->left;
    *number = some ? work->next++ : 0;
    pthread_mutex_unlock(&work->mutex);
    return some;
}

static bool take_last(struct work *work, uint64_t *number)
{
    pthread_mutex_lock(&work->mutex);
    bool some = work->next < work->left;
    *number = some ? --work->left : 0;
    pthread_mutex_unlock(&work->mutex);
    return some;
}

/* --- the second thread --------------------------------------------------------------------- */

static void open_map(struct work *work)
{
    static const atomic_int nobody = -1; /* the guard may look at it after this run has ended */
    size_t size = (size_t)work->end;
    work->map = work->fs->map_to_fill(work->fd, size);
    if (work->map != NULL && !cog_guard_watch(work->map, size, &nobody, &work->broken)) {
        work->fs->unmap(work->map, size);
        work->map = NULL;
    }
}

static void close_map(struct work *work)
{
    if (work->map != NULL) {
        cog_guard_forget(work->map);
        work->fs->unmap(work->map, (size_t)work->end);
        work->map = NULL;
    }
}

/* Through the map, which is given up where that is not the quick way. False: nothing is filled. */
static bool fill(struct work *work, const struct piece *piece)
{
    const struct cog_fs *fs = work->fs;
    size_t size = (size_t)(piece->to - piece->from);
    uint64_t faults = fs->faults();

    if (work->map == NULL) {
        return false;
    }
    if (size < PIECE || fs->populate(work->map + piece->from, size) < 0) {
        close_map(work);
        return false;
    }
    memcpy(work->map + piece->from, piece->data, size);
    if (fs->faults() - faults > MOST_FAULTS) {
        close_map(work);
    }
    return true;
}

static void *fill_from_the_back(void *context)
{
    struct work *work = context;
    uint64_t number;

    open_map(work);
    while (take_last(work, &number)) {
        struct piece piece = piece_of(work, number);
        take_sums(work, &piece);
        if (fill(work, &piece)) {
            work->filled = number;
        }
    }
    close_map(work);
    return NULL;
}

/* --- the caller ---------------------------------------------------------------------------- */

static int write_piece(const struct work *work, uint64_t number, bool summed)
{
    struct piece piece = piece_of(work, number);
    if (!summed) {
        take_sums(work, &piece);
    }
    return cog_fs_write_all(work->fs, work->fd, piece.data, (size_t)(piece.to - piece.from),
                            piece.from);
}

static int write_from_the_front(struct work *work)
{
    uint64_t number;
    int rc = 0;

    while (rc == 0 && take_first(work, &number)) {
        rc = write_piece(work, number, false);
    }
    return rc;
}

static void take_nothing_more(struct work *work)
{
    pthread_mutex_lock(&work->mutex);
    work->left = work->next;
    pthread_mutex_unlock(&work->mutex);
}

/* Its last byte gives the file its length, so that all before can be mapped. */
static int give_length(const struct work *work)
{
    const struct cog_run *run = work->run;
    return cog_fs_write_all(work->fs, work->fd, run->data + run->size - 1, 1, work->end - 1);
}

static int write_from_both_ends(struct work *work)
{
    pthread_t thread;
    uint64_t last = work->left, met;
    bool helped = cog_thread_start(&thread, fill_from_the_back, work) == 0;
    int rc = write_piece(work, last, false);

    if (rc == 0) {
        rc = write_from_the_front(work);
    }
    if (rc != 0) {
        take_nothing_more(work);
    }
    met = work->next;
    if (helped) {
        pthread_join(thread, NULL);
    }
    if (rc == 0 && atomic_load(&work->broken)) {
        rc = -EIO;
    }
    for (; rc == 0 && met < work->filled; met++) { /* it took checksums of these, and no more */
        rc = write_piece(work, met, true);
    }
    return rc;
}

enum cog_status cog_long_run_write(const struct cog_run *run, const struct cog_fs *fs, int fd,
                                   uint64_t offset, unsigned char *sums, struct cog_error *err)
{
    struct work work = {.run = run,
                        .fs = fs,
                        .fd = fd,
                        .offset = offset,
                        .end = offset + run->size,
                        .sums = sums,
                        .mutex = PTHREAD_MUTEX_INITIALIZER};

    atomic_init(&work.broken, false);
    work.next = offset / PIECE;
    work.left = (work.end - 1) / PIECE; /* the last piece may be short, and is the caller's */
    work.filled = work.left;
    int rc = give_length(&work);
    if (rc == 0) {
        rc = write_from_both_ends(&work);
    }
    pthread_mutex_destroy(&work.mutex);
    return rc == 0 ? COG_OK : cog_fail(err, COG_ERR_IO, -rc, "writing a file");
}
