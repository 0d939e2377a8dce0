#include "core/gather.h"

#include <string.h>

#include "core/alloc.h"
#include "core/long_run.h"

enum {
    WRITE_FROM = 4 << 20, /* pending bytes that are worth a write */
    LARGE_PAGE = 2 << 20,
    SMALL_PIECE = 256 /* cheaper to copy than to gather */
};

enum cog_status cog_gather_init(struct cog_gather *gather, const struct cog_fs *fs, int fd,
                                uint64_t limit)
{
    *gather = (struct cog_gather){.fs = fs, .fd = fd, .limit = limit};
    gather->copies = cog_alloc(COG_GATHER_COPIES);
    return gather->copies != NULL ? COG_OK : COG_ERR_NOMEM;
}

void cog_gather_release(struct cog_gather *gather)
{
    cog_free(gather->copies);
    gather->copies = NULL;
}

/* Write the first `size` pending bytes. */
static enum cog_status write_first(struct cog_gather *gather, uint64_t size, struct cog_error *err)
{
    size_t whole = 0; /* pieces that are written to their end */
    uint64_t left = size;

    while (whole < gather->count && gather->pieces[whole].iov_len <= left) {
        left -= gather->pieces[whole++].iov_len;
    }
    size_t used = whole + (left > 0);
    struct iovec cut = left > 0 ? gather->pieces[whole] : (struct iovec){0};
    if (left > 0) {
        gather->pieces[whole].iov_len = (size_t)left;
    }
    int rc = cog_fs_writev_all(gather->fs, gather->fd, gather->pieces, used, gather->written);
    if (rc < 0) {
        return cog_fail(err, COG_ERR_IO, -rc, "writing a file");
    }
    if (left > 0) {
        gather->pieces[whole].iov_base = (unsigned char *)cut.iov_base + left;
        gather->pieces[whole].iov_len = cut.iov_len - (size_t)left;
    }
    gather->count -= whole;
    memmove(gather->pieces, gather->pieces + whole, gather->count * sizeof gather->pieces[0]);
    gather->written += size;
    gather->pending -= size;
    if (gather->count == 0) {
        gather->copied = 0;
    }
    return COG_OK;
}

static enum cog_status write_all(struct cog_gather *gather, struct cog_error *err)
{
    return gather->pending > 0 ? write_first(gather, gather->pending, err) : COG_OK;
}

static void add_piece(struct cog_gather *gather, const void *data, size_t size)
{
    struct iovec *last = gather->count > 0 ? &gather->pieces[gather->count - 1] : NULL;

    if (last != NULL && (const unsigned char *)last->iov_base + last->iov_len == data) {
        last->iov_len += size;
    } else {
        gather->pieces[gather->count++] = (struct iovec){(void *)(uintptr_t)data, size};
    }
    gather->pending += size;
}

static enum cog_status add_copy(struct cog_gather *gather, const void *data, size_t size)
{
    unsigned char *copy = gather->copies + gather->copied;

    memcpy(copy, data, size);
    gather->copied += size;
    add_piece(gather, copy, size);
    return COG_OK;
}

static enum cog_status check_limit(const struct cog_gather *gather, size_t size,
                                   struct cog_error *err)
{
    if (size > gather->limit - gather->written - gather->pending) {
        return cog_fail(err, COG_ERR_LIMIT, 0, "an entry over the %llu bytes announced",
                        (unsigned long long)gather->limit);
    }
    return COG_OK;
}

static enum cog_status gather_write(void *context, const void *data, size_t size, bool stable,
                                    struct cog_error *err)
{
    struct cog_gather *gather = context;
    bool copied = size < SMALL_PIECE || (!stable && size <= COG_GATHER_COPIES);
    enum cog_status status = COG_OK;

    if (size == 0) {
        return COG_OK;
    }
    status = check_limit(gather, size, err);
    if (status != COG_OK) {
        return status;
    }
    if (gather->count == COG_GATHER_PIECES ||
        (copied && size > COG_GATHER_COPIES - gather->copied)) {
        status = write_all(gather, err);
    }
    if (status == COG_OK && copied) {
        return add_copy(gather, data, size);
    }
    if (status == COG_OK) {
        add_piece(gather, data, size);
        if (!stable) { /* it will not stay in place until the next write */
            status = write_all(gather, err);
        } else if (gather->pending >= WRITE_FROM) {
            uint64_t end = gather->written + gather->pending;
            status = write_first(gather, end / LARGE_PAGE * LARGE_PAGE - gather->written, err);
        }
    }
    return status;
}

static enum cog_status gather_write_run(void *context, const struct cog_run *run,
                                        unsigned char *sums, struct cog_error *err)
{
    struct cog_gather *gather = context;
    enum cog_status status = check_limit(gather, run->size, err);

    if (status == COG_OK) {
        status = write_all(gather, err);
    }
    if (status == COG_OK) {
        status = cog_long_run_write(run, gather->fs, gather->fd, gather->written, sums, err);
    }
    if (status == COG_OK) {
        gather->written += run->size;
    }
    return status;
}

struct cog_sink cog_gather_sink(struct cog_gather *gather)
{
    return (
        struct cog_sink){.context = gather, .write = gather_write, .write_run = gather_write_run};
}

enum cog_status cog_gather_finish(struct cog_gather *gather, struct cog_error *err)
{
    return write_all(gather, err);
}
