/* A long run of bytes, written from both ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#include "core/bytes.h"
#include "core/entry_layout.h"
#include "core/long_run.h"

enum { PIECE = 2 << 20, LARGE = 9 * PIECE + 12345, CHUNK = 655360, TOKEN = 99, FIRST = 7 };
static unsigned char *large;

/* --- a table that looks on ------------------------------------------------------------------- */

static struct cog_fs watching;
static atomic_uint maps, unmaps, filled, writes; /* calls; pieces that the thread has filled */
static unsigned refuse_from;                     /* filled pieces, after which no more are */
static unsigned fail_write;                      /* which write fails; 0: none */
static uint64_t faults_a_piece;
static unsigned wait_for;   /* filled pieces that the caller waits for before it writes */
static atomic_bool settled; /* the thread has let go of its map, or never had one */
static uint64_t cut_to;     /* cut the file to this length when a piece is filled; 0: never */
static int file_fd;

static void *watch_map_to_fill(int fd, size_t size)
{
    void *where = cog_fs_system()->map_to_fill(fd, size);
    if (where == NULL) { /* no large pages in this kernel: small ones do for what is tested */
        where = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    atomic_fetch_add(&maps, 1);
    return where == MAP_FAILED ? NULL : where;
}

static void *no_map_to_fill(int fd, size_t size)
{
    (void)fd;
    (void)size;
    atomic_store(&settled, true);
    return NULL;
}

static int watch_unmap(void *where, size_t size)
{
    atomic_fetch_add(&unmaps, 1);
    atomic_store(&settled, true);
    return cog_fs_system()->unmap(where, size);
}

static int watch_populate(void *where, size_t size)
{
    (void)where;
    CHECK_EQ(size, PIECE);
    if (atomic_load(&filled) >= refuse_from) {
        return -EFAULT;
    }
    if (cut_to != 0) {
        REQUIRE(ftruncate(file_fd, (off_t)cut_to) == 0);
    }
    atomic_fetch_add(&filled, 1);
    return 0;
}

static uint64_t watch_faults(void)
{
    return atomic_load(&filled) * faults_a_piece;
}

/* The caller's first write gives the length; before the second it waits for the thread. */
static int64_t watch_pwrite(int fd, const void *data, size_t size, uint64_t offset)
{
    unsigned number = atomic_fetch_add(&writes, 1) + 1;
    while (number > 1 && atomic_load(&filled) < wait_for && !atomic_load(&settled)) {
        cog_fs_system()->sleep_us(100);
    }
    return number == fail_write ? -ENOSPC : cog_fs_system()->pwrite(fd, data, size, offset);
}

static void watch(void)
{
    watching = *cog_fs_system();
    watching.map_to_fill = watch_map_to_fill;
    watching.unmap = watch_unmap;
    watching.populate = watch_populate;
    watching.faults = watch_faults;
    watching.pwrite = watch_pwrite;
    atomic_store(&maps, 0);
    atomic_store(&unmaps, 0);
    atomic_store(&filled, 0);
    atomic_store(&writes, 0);
    atomic_store(&settled, false);
    refuse_from = 1000;
    fail_write = wait_for = 0;
    faults_a_piece = cut_to = 0;
}

/* --- runs ------------------------------------------------------------------------------------ */

static enum cog_status write_run(size_t size, size_t chunk, uint64_t offset, unsigned char *sums,
                                 struct cog_error *err)
{
    struct cog_run run = {large, size, chunk, TOKEN, FIRST};
    char path[] = "/var/tmp/cog-long-run-XXXXXX";
    file_fd = mkstemp(path);
    REQUIRE(file_fd >= 0);
    unlink(path);
    return cog_long_run_write(&run, &watching, file_fd, offset, sums, err);
}

static void check_written(size_t size, size_t chunk, uint64_t offset, const unsigned char *sums)
{
    struct stat stat;
    unsigned char *there = malloc(size + 1);
    REQUIRE(there != NULL && fstat(file_fd, &stat) == 0);
    CHECK_EQ(stat.st_size, (off_t)(offset + size));
    CHECK_EQ(pread(file_fd, there, size + 1, (off_t)offset), (ssize_t)size);
    CHECK(memcmp(there, large, size) == 0);
    free(there);
    for (size_t at = 0, index = 0; at < size; at += chunk, index++) {
        size_t now = size - at < chunk ? size - at : chunk;
        CHECK_EQ(cog_load_le64(sums + index * 8),
                 cog_chunk_sum(large + at, now, TOKEN, (uint32_t)(FIRST + index)));
    }
}

static void check_run(size_t size, size_t chunk, uint64_t offset)
{
    struct cog_error err = {0};
    unsigned char *sums = calloc(size / chunk + 1, 8);
    REQUIRE(sums != NULL);
    CHECK_EQ(write_run(size, chunk, offset, sums, &err), COG_OK);
    check_written(size, chunk, offset, sums);
    CHECK_EQ(atomic_load(&maps), atomic_load(&unmaps));
    close(file_fd);
    free(sums);
}

static void both_ends_meet(void)
{
    static const size_t sizes[] = {LARGE, 9 * PIECE, 9 * PIECE - 64, PIECE, PIECE + 1, 1};
    static const uint64_t offsets[] = {0, 64, 4096, PIECE - 1, PIECE, 3 * PIECE + 100};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (unsigned j = 0; j < sizeof offsets / sizeof *offsets; j++) {
            watch();
            check_run(sizes[i], CHUNK, offsets[j]);
        }
    }
    watch();
    check_run(LARGE, 4096, 64);
    watch();
    check_run(LARGE, 5 * PIECE, 64); /* chunks of several pieces */
    watch();
    check_run(LARGE, LARGE, 64);
}

/* The caller waits until the thread has done as much as it can. */
static void the_thread_fills_what_the_caller_leaves(void)
{
    watch();
    wait_for = 5;
    check_run(LARGE, CHUNK, 64);
    CHECK(atomic_load(&filled) >= 5);
}

static void without_a_map_the_thread_takes_checksums(void)
{
    watch();
    watching.map_to_fill = no_map_to_fill;
    wait_for = 1;
    check_run(LARGE, CHUNK, 64);
    CHECK_EQ(atomic_load(&filled), 0);
}

static void small_pages_are_given_up_after_one_piece(void)
{
    watch();
    wait_for = 2;
    faults_a_piece = PIECE / 4096;
    check_run(LARGE, CHUNK, 64);
    CHECK_EQ(atomic_load(&filled), 1);
}

static void a_map_that_is_refused_in_the_middle_loses_nothing(void)
{
    watch();
    wait_for = 4;
    refuse_from = 3;
    check_run(LARGE, CHUNK, 64);
    CHECK_EQ(atomic_load(&filled), 3);
}

static void a_failing_write_is_told(void)
{
    for (unsigned number = 1; number <= 5; number++) {
        struct cog_error err = {0};
        unsigned char *sums = calloc(LARGE / CHUNK + 1, 8);
        REQUIRE(sums != NULL);
        watch();
        watching.map_to_fill = no_map_to_fill; /* so that there are so many writes */
        fail_write = number;
        CHECK_EQ(write_run(LARGE, CHUNK, 64, sums, &err), COG_ERR_IO);
        CHECK_EQ(err.sys_errno, ENOSPC);
        close(file_fd);
        free(sums);
    }
}

/* What would be a SIGBUS is a failed write. */
static void a_file_cut_short_under_the_map_is_told(void)
{
    struct cog_error err = {0};
    unsigned char *sums = calloc(LARGE / CHUNK + 1, 8);
    REQUIRE(sums != NULL);
    watch();
    wait_for = 2; /* the first is filled then, into nothing */
    cut_to = 4096;
    CHECK_EQ(write_run(LARGE, CHUNK, 64, sums, &err), COG_ERR_IO);
    CHECK_EQ(err.sys_errno, EIO);
    CHECK_EQ(atomic_load(&maps), 1);
    CHECK_EQ(atomic_load(&unmaps), 1);
    close(file_fd);
    free(sums);
}

/* As it is used: the real table, whatever this machine has. */
static void on_this_machine(void)
{
    for (unsigned round = 0; round < 3; round++) {
        watch();
        watching = round == 0 ? *cog_fs_posix() : *cog_fs_system();
        check_run(LARGE, CHUNK, 64);
    }
}

int main(void)
{
    large = malloc(LARGE);
    REQUIRE(large != NULL);
    check_noise(large, LARGE);
    RUN(both_ends_meet);
    RUN(the_thread_fills_what_the_caller_leaves);
    RUN(without_a_map_the_thread_takes_checksums);
    RUN(small_pages_are_given_up_after_one_piece);
    RUN(a_map_that_is_refused_in_the_middle_loses_nothing);
    RUN(a_failing_write_is_told);
    RUN(a_file_cut_short_under_the_map_is_told);
    RUN(on_this_machine);
    free(large);
    return check_done();
}
