/* The sink that writes a file in large pieces. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#include "core/gather.h"

enum { LARGE = 11 << 20, CHUNK = 655360 };
static unsigned char *large;

/* --- writing ------------------------------------------------------------------------------- */

static struct cog_fs counting;
static unsigned writes, fail_at;
static uint64_t ends[64];

static int64_t count_pwritev(int fd, const struct iovec *pieces, int count, uint64_t offset)
{
    if (++writes == fail_at) {
        return -ENOSPC;
    }
    int64_t put = cog_fs_system()->pwritev(fd, pieces, count, offset);
    if (put > 0 && writes <= 64) {
        ends[writes - 1] = offset + (uint64_t)put;
    }
    return put;
}

struct file {
    int fd;
    struct cog_gather gather;
    struct cog_sink sink;
};

static void open_file(struct file *file, uint64_t limit)
{
    char path[] = "/tmp/cog-gather-XXXXXX";
    counting = *cog_fs_system();
    counting.pwritev = count_pwritev;
    writes = fail_at = 0;
    file->fd = mkstemp(path);
    REQUIRE(file->fd >= 0);
    unlink(path);
    CHECK_EQ(cog_gather_init(&file->gather, &counting, file->fd, limit), COG_OK);
    file->sink = cog_gather_sink(&file->gather);
}

static enum cog_status put(struct file *file, const void *data, size_t size, bool stable)
{
    struct cog_error err = {0};
    return file->sink.write(file->sink.context, data, size, stable, &err);
}

static void close_file(struct file *file)
{
    cog_gather_release(&file->gather);
    close(file->fd);
}

/* The file holds `size` bytes: those of `expected`. */
static void check_file(const struct file *file, const unsigned char *expected, size_t size)
{
    struct stat stat;
    unsigned char *there = malloc(size + 1);
    REQUIRE(there != NULL && fstat(file->fd, &stat) == 0);
    CHECK_EQ(stat.st_size, (off_t)size);
    CHECK_EQ(pread(file->fd, there, size + 1, 0), (ssize_t)size);
    CHECK(memcmp(there, expected, size) == 0);
    free(there);
}

static void large_writes_end_where_large_pages_do(void)
{
    struct file file;
    struct cog_error err = {0};
    open_file(&file, LARGE);
    CHECK_EQ(put(&file, large, 64, false), COG_OK);
    for (size_t at = 64; at < LARGE; at += CHUNK) {
        size_t left = LARGE - at;
        CHECK_EQ(put(&file, large + at, left < CHUNK ? left : CHUNK, true), COG_OK);
    }
    CHECK_EQ(cog_gather_finish(&file.gather, &err), COG_OK);
    CHECK_EQ(file.gather.written, LARGE);
    CHECK(writes >= 2 && writes <= 4);
    for (unsigned i = 0; i + 1 < writes; i++) {
        CHECK_EQ(ends[i] % (2 << 20), 0);
    }
    check_file(&file, large, LARGE);
    close_file(&file);
}

/* Pieces of every size, some of which change as soon as they were handed over. */
static void any_pieces_in_their_order(void)
{
    static const size_t sizes[] = {1, 255, 256, 4096, 65535, 65536, 65537, 200000, 0, 17, 3000000};
    unsigned char *passing = malloc(3000000);
    struct file file;
    struct cog_error err = {0};
    size_t at = 0;
    REQUIRE(passing != NULL);
    open_file(&file, LARGE);
    for (unsigned i = 0; at < LARGE; i++) {
        size_t size = sizes[i * 7 % 11];
        bool stable = i % 3 == 0;
        size = size < LARGE - at ? size : LARGE - at;
        memcpy(passing, large + at, size);
        CHECK_EQ(put(&file, stable ? large + at : passing, size, stable), COG_OK);
        memset(passing, 0xEE, size);
        at += size;
    }
    CHECK_EQ(cog_gather_finish(&file.gather, &err), COG_OK);
    check_file(&file, large, LARGE);
    close_file(&file);
    free(passing);
}

static void many_small_stable_pieces(void)
{
    struct file file;
    struct cog_error err = {0};
    static unsigned char two[2][300];
    unsigned char *expected = malloc(300 * 1000);
    REQUIRE(expected != NULL);
    open_file(&file, 300 * 1000);
    for (unsigned i = 0; i < 1000; i++) { /* none lies behind the one before */
        memset(two[i % 2], (int)(i % 2 + 1), 300);
        memset(expected + (size_t)i * 300, (int)(i % 2 + 1), 300);
        CHECK_EQ(put(&file, two[i % 2], 300, true), COG_OK);
    }
    CHECK_EQ(cog_gather_finish(&file.gather, &err), COG_OK);
    check_file(&file, expected, 300 * 1000);
    close_file(&file);
    free(expected);
}

static void a_limit_and_a_failing_write_are_told(void)
{
    struct file file;
    struct cog_error err = {0};
    open_file(&file, 1000);
    CHECK_EQ(put(&file, large, 999, true), COG_OK);
    CHECK_EQ(put(&file, large, 2, false), COG_ERR_LIMIT);
    CHECK_EQ(put(&file, large, 1, false), COG_OK);
    CHECK_EQ(put(&file, large, 1, false), COG_ERR_LIMIT);
    close_file(&file);

    open_file(&file, LARGE);
    fail_at = 1;
    CHECK_EQ(file.sink.write(file.sink.context, large, 5 << 20, true, &err), COG_ERR_IO);
    CHECK_EQ(err.sys_errno, ENOSPC);
    close_file(&file);
}

int main(void)
{
    large = malloc(LARGE);
    REQUIRE(large != NULL);
    check_noise(large, LARGE);
    RUN(large_writes_end_where_large_pages_do);
    RUN(any_pieces_in_their_order);
    RUN(many_small_stable_pieces);
    RUN(a_limit_and_a_failing_write_are_told);
    free(large);
    return check_done();
}
