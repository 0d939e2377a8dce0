/* Both tables of system calls do the same, and say no in the same way. */
#define _GNU_SOURCE 1

#include "core/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "index_kit.h"

static const char text[] = "forty-two bytes of text, terminator included";

static int make_file(struct root *root, const char *name)
{
    int fd = root->fs->open(root->fd, name, O_RDWR | O_CREAT | O_EXCL, 0600);
    REQUIRE(fd >= 0);
    REQUIRE(cog_fs_write_all(root->fs, fd, text, sizeof text, 0) == 0);
    return fd;
}

static void test_files_are_written_read_and_described(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    struct cog_stat stat, at;
    char got[sizeof text];
    int fd = make_file(root, "a");
    CHECK_EQ(cog_fs_read_all(fs, fd, got, sizeof got, 0), 0);
    CHECK_BYTES(got, sizeof got, text, sizeof text);
    CHECK_EQ(cog_fs_read_all(fs, fd, got, sizeof got, 1), -ENODATA);
    CHECK_EQ(fs->stat(fd, &stat), 0);
    CHECK_EQ(fs->stat_at(root->fd, "a", &at), 0);
    CHECK(stat.inode == at.inode && stat.device == at.device && stat.size == sizeof text &&
          stat.links == 1);
    CHECK(stat.uid == fs->effective_uid() && S_ISREG(stat.mode) && (stat.mode & 0777) == 0600);
    CHECK_EQ(fs->chmod(fd, 0640), 0);
    CHECK_EQ(fs->truncate(fd, 10), 0);
    CHECK(fs->stat(fd, &stat) == 0 && stat.size == 10 && (stat.mode & 0777) == 0640);
    CHECK_EQ(fs->sync_data(fd), 0);
    CHECK_EQ(fs->sync(fd), 0);
    CHECK_EQ(fs->set_mtime_now(fd), 0);
    int allocated = fs->fallocate(fd, 0, 1 << 20);
    CHECK(allocated == 0 || allocated == -EOPNOTSUPP);
    if (allocated == 0) {
        CHECK(fs->stat(fd, &stat) == 0 && stat.blocks_bytes >= 1 << 20 && stat.size == 10);
        CHECK_EQ(fs->truncate(fd, 1 << 20), 0);
        CHECK(fs->stat(fd, &stat) == 0 && stat.blocks_bytes >= 1 << 20);
        CHECK_EQ(fs->punch(fd, 0, 1 << 20), 0);
        CHECK(fs->stat(fd, &stat) == 0 && stat.blocks_bytes == 0 && stat.size == 1 << 20);
    }
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_EQ(fs->close(fd), 0);
    CHECK_EQ(fs->open(root->fd, "a", O_RDWR | O_CREAT | O_EXCL, 0600), -EEXIST);
    CHECK_EQ(fs->open(root->fd, "none", O_RDONLY, 0), -ENOENT);
}

static void test_pieces_are_written_in_order_whatever_their_sizes(struct root *root)
{
    enum { PIECES = 300 };
    static unsigned char source[PIECES * 7], got[sizeof source];
    struct iovec pieces[PIECES];
    size_t at = 0;
    for (size_t i = 0; i < sizeof source; i++) {
        source[i] = (unsigned char)(i * 31);
    }
    for (unsigned i = 0; i < PIECES; i++) {
        size_t size = i % 8; /* some are empty */
        pieces[i] = (struct iovec){source + at, size};
        at += size;
    }
    int fd = make_file(root, "pieces");
    CHECK_EQ(cog_fs_writev_all(root->fs, fd, pieces, PIECES, 100), 0);
    CHECK_EQ(cog_fs_read_all(root->fs, fd, got, at, 100), 0);
    CHECK_BYTES(got, at, source, at);
    CHECK_EQ(cog_fs_writev_all(root->fs, fd, pieces, 0, 0), 0);
    root->fs->close(fd);
}

static unsigned stutters;

static int64_t stuttering_pwritev(int fd, const struct iovec *pieces, int count, uint64_t offset)
{
    (void)count;
    if (++stutters % 3 == 0) {
        return -EINTR;
    }
    return cog_fs_system()->pwrite(fd, pieces[0].iov_base,
                                   pieces[0].iov_len > 2 ? 2 : pieces[0].iov_len, offset);
}

static int64_t stuttering_pread(int fd, void *out, size_t size, uint64_t offset)
{
    return ++stutters % 2 ? -EINTR : cog_fs_system()->pread(fd, out, size > 3 ? 3 : size, offset);
}

static void test_short_and_interrupted_calls_are_continued(struct root *root)
{
    struct cog_fs fs = *root->fs;
    fs.pwritev = stuttering_pwritev;
    fs.pread = stuttering_pread;
    char parts[3][20] = {"one piece, ", "", "another piece"}, got[40];
    struct iovec pieces[3] = {{parts[0], 11}, {parts[1], 0}, {parts[2], 14}};
    int fd = make_file(root, "stutter");
    CHECK_EQ(cog_fs_writev_all(&fs, fd, pieces, 3, 0), 0);
    CHECK_EQ(cog_fs_read_all(&fs, fd, got, 25, 0), 0);
    CHECK_BYTES(got, 25, "one piece, another piece", 25);
    root->fs->close(fd);
}

static void test_a_new_name_never_replaces(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    fs->close(make_file(root, "from"));
    fs->close(make_file(root, "there"));
    struct cog_stat before, after;
    CHECK_EQ(fs->stat_at(root->fd, "there", &before), 0);
    CHECK_EQ(fs->rename_new(root->fd, "from", root->fd, "there"), -EEXIST);
    CHECK(fs->stat_at(root->fd, "there", &after) == 0 && after.inode == before.inode);
    CHECK_EQ(fs->rename_new(root->fd, "from", root->fd, "fresh"), 0);
    CHECK_EQ(fs->stat_at(root->fd, "from", &after), -ENOENT);
    CHECK(fs->stat_at(root->fd, "fresh", &after) == 0 && after.links == 1);
    CHECK_EQ(fs->rename_new(root->fd, "from", root->fd, "fresher"), -ENOENT);
    CHECK_EQ(fs->rename_new(root->fd, "fresh", root->fd, "objects/none/x"), -ENOENT);
    CHECK_EQ(fs->rename(root->fd, "fresh", root->fd, "there"), 0); /* this one does replace */
    CHECK_EQ(fs->link(root->fd, "there", root->fd, "second"), 0);
    CHECK(fs->stat_at(root->fd, "there", &after) == 0 && after.links == 2);
    CHECK_EQ(fs->unlink(root->fd, "second"), 0);
    CHECK_EQ(fs->unlink(root->fd, "second"), -ENOENT);
}

/* Somebody who may link from a directory but not unlink there. */
static int rename_out_of_a_closed_directory(void *context)
{
    const struct root *root = context;
    struct cog_stat one, two;
    if (geteuid() == 0 && seteuid(65534) != 0) {
        fprintf(stderr, "not run (this root may not act as another user): %s\n", __func__);
        return 0;
    }
    CHECK_EQ(root->fs->rename_new(root->fd, "closed/from", root->fd, "open/to"), COG_BOTH_NAMES);
    CHECK_EQ(root->fs->stat_at(root->fd, "closed/from", &one), 0);
    CHECK_EQ(root->fs->stat_at(root->fd, "open/to", &two), 0);
    CHECK(one.inode == two.inode && one.links == 2);
    CHECK_EQ(root->fs->rename_new(root->fd, "closed/from", root->fd, "open/to"), -EEXIST);
    return atomic_load(&check_failures) != 0;
}

static void test_an_old_name_that_stays_is_told(struct root *root)
{
    struct root plain = *root;
    plain.fs = cog_fs_posix(); /* the modern call moves all or nothing */
    REQUIRE(mkdirat(root->fd, "closed", 0755) == 0 && mkdirat(root->fd, "open", 0755) == 0);
    root->fs->close(make_file(root, "closed/from"));
    REQUIRE(fchmod(root->fd, 0755) == 0);
    if (geteuid() == 0) {
        REQUIRE(fchownat(root->fd, "closed/from", 65534, (gid_t)-1, 0) == 0);
        REQUIRE(fchownat(root->fd, "open", 65534, (gid_t)-1, 0) == 0);
    }
    REQUIRE(fchmodat(root->fd, "closed", 0555, 0) == 0);
    CHECK_EQ(in_child(rename_out_of_a_closed_directory, &plain), 0);
    REQUIRE(fchmodat(root->fd, "closed", 0755, 0) == 0);
}

static void test_links_are_not_followed_and_fifos_do_not_block(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    struct cog_stat stat;
    REQUIRE(symlinkat("/etc/passwd", root->fd, "link") == 0);
    REQUIRE(mkfifoat(root->fd, "fifo", 0600) == 0);
    CHECK_EQ(fs->open(root->fd, "link", O_RDONLY, 0), -ELOOP);
    CHECK(fs->stat_at(root->fd, "link", &stat) == 0 && S_ISLNK(stat.mode));
    int fd = fs->open(root->fd, "fifo", O_RDONLY, 0);
    CHECK(fd >= 0); /* at once: nobody writes to it */
    fs->close(fd);
    CHECK_EQ(fs->open(root->fd, "fifo", O_WRONLY, 0), -ENXIO);
    CHECK(fs->open_cached(root->fd, "link", O_RDONLY) < 0);
}

static bool count_name(void *context, const char *name)
{
    unsigned *counts = context;
    counts[0]++;
    counts[1] += name[0] == '.';
    return counts[0] != counts[2];
}

static void test_names_are_listed_without_the_dots(struct root *root)
{
    unsigned counts[3] = {0, 0, 0};
    for (unsigned i = 0; i < 50; i++) {
        char name[20];
        snprintf(name, sizeof name, "tmp/%u", i);
        root->fs->close(make_file(root, name));
    }
    CHECK_EQ(root->fs->list(root->fd, "tmp", count_name, counts), 0);
    CHECK(counts[0] == 50 && counts[1] == 0);
    counts[0] = 0;
    counts[2] = 5; /* the visitor says stop */
    CHECK_EQ(root->fs->list(root->fd, "tmp", count_name, counts), 0);
    CHECK_EQ(counts[0], 5);
    CHECK_EQ(root->fs->list(root->fd, "none", count_name, counts), -ENOENT);
    CHECK_EQ(root->fs->list(root->fd, "tmp/1", count_name, counts), -ENOTDIR);
    CHECK_EQ(root->fs->mkdir(root->fd, "tmp", 0700), -EEXIST);
}

struct locking {
    struct root *root;
    const struct cog_fs *fs;
    int expected;
};

static int try_lock(void *context)
{
    const struct locking *locking = context;
    int fd = locking->fs->open(locking->root->fd, "locked", O_RDWR, 0);
    int got = locking->fs->lock(fd, 7, COG_LOCK_EXCLUSIVE);
    return got == locking->expected ? 0 : 1;
}

static void test_a_locked_byte_is_refused_to_other_processes_of_both_tables(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    struct locking locking = {.root = root, .expected = -EAGAIN};
    int fd = make_file(root, "locked");
    CHECK_EQ(fs->lock(fd, 7, COG_LOCK_EXCLUSIVE), 0);
    for (int i = 0; i < 2; i++) {
        locking.fs = i ? cog_fs_posix() : cog_fs_system();
        locking.expected = -EAGAIN;
        CHECK_EQ(in_child(try_lock, &locking), 0);
    }
    CHECK_EQ(fs->lock(fd, 8, COG_LOCK_EXCLUSIVE), 0);
    CHECK_EQ(fs->lock(fd, 7, COG_UNLOCK), 0);
    locking.expected = 0;
    CHECK_EQ(in_child(try_lock, &locking), 0);
    CHECK_EQ(fs->lock(fd, 7, COG_LOCK_EXCLUSIVE), 0); /* the child's died with it */
    fs->close(fd);
}

static void test_two_descriptions_exclude_each_other_where_the_table_says_so(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    int one = make_file(root, "twice"), two = fs->open(root->fd, "twice", O_RDWR, 0);
    CHECK_EQ(fs->lock(one, 3, COG_LOCK_EXCLUSIVE), 0);
    CHECK_EQ(fs->lock(two, 3, COG_LOCK_EXCLUSIVE), fs->locks_are_per_description() ? -EAGAIN : 0);
    fs->close(one);
    fs->close(two);
    int directory = fs->open(root->fd, "objects", O_RDONLY, 0),
        again = fs->open(root->fd, "objects", O_RDONLY, 0);
    CHECK_EQ(fs->lock_whole(directory, COG_LOCK_EXCLUSIVE), 0);
    CHECK_EQ(fs->lock_whole(again, COG_LOCK_EXCLUSIVE), -EAGAIN);
    CHECK_EQ(fs->lock_whole(directory, COG_UNLOCK), 0);
    CHECK_EQ(cog_fs_lock_whole_patiently(fs, again), 0);
    fs->close(directory);
    fs->close(again);
}

static int read_wiped(void *context)
{
    return *(volatile int *)context == 0 ? 0 : 1;
}

static void test_memory_is_shared_private_or_wiped_as_asked(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    int fd = make_file(root, "map");
    char *shared = fs->map(fd, sizeof text, true), *private = fs->map(fd, sizeof text, false),
         got = 0;
    REQUIRE(shared && private);
    CHECK(memcmp(shared, text, sizeof text) == 0);
    private[0] = '#';
    CHECK(fs->pread(fd, &got, 1, 0) == 1 && got == text[0]);
    shared[0] = '!';
    CHECK(fs->pread(fd, &got, 1, 0) == 1 && got == '!');
    CHECK_EQ(fs->unmap(shared, sizeof text), 0);
    CHECK_EQ(fs->unmap(private, sizeof text), 0);
    fs->close(fd);
    CHECK(fs->map(-1, 4096, true) == NULL);
    int *wiped = fs->wiped_on_fork(4096);
    if (wiped) {
        *wiped = 5;
        CHECK_EQ(in_child(read_wiped, wiped), 0);
        CHECK_EQ(*wiped, 5);
        fs->unmap(wiped, 4096);
    }
    CHECK(fs == cog_fs_posix() ? wiped == NULL : true);
}

static void test_clocks_run_and_chance_differs(struct root *root)
{
    const struct cog_fs *fs = root->fs;
    unsigned char a[40] = {0}, b[40] = {0}, boot[16], boot_again[16];
    uint64_t before = fs->boottime_ns();
    fs->sleep_us(1500);
    CHECK(fs->boottime_ns() - before >= 1500000);
    CHECK(fs->realtime_us() / 1000 - fs->realtime_ms() + 5000 < 10000);
    CHECK(fs->realtime_ms() > UINT64_C(1600000000000));
    CHECK(fs->random(a, sizeof a) == 0 && fs->random(b, sizeof b) == 0);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK(fs->boot_id(boot) == 0 && fs->boot_id(boot_again) == 0 &&
          memcmp(boot, boot_again, 16) == 0);
    CHECK_EQ(fs->process_id(), getpid());
    CHECK(fs->in_group((uint32_t)getegid()));
    struct cog_fs_space space;
    CHECK_EQ(fs->space(root->fd, &space), 0);
    CHECK(space.block_size >= 512 && space.total_bytes >= space.free_bytes);
}

static void test_what_is_in_memory_is_read_without_waiting_or_refused(struct root *root)
{
    char got[sizeof text];
    root->fs->close(make_file(root, "cached"));
    int fd = root->fs->open_cached(root->fd, "cached", O_RDONLY);
    CHECK(fd >= 0 || fd == -EAGAIN);
    CHECK(root->fs != cog_fs_posix() || fd == -EAGAIN);
    if (fd < 0) {
        fd = root->fs->open(root->fd, "cached", O_RDONLY, 0);
    }
    int64_t size = root->fs->pread_cached(fd, got, sizeof got, 0);
    CHECK(size == sizeof got || size == -EAGAIN);
    CHECK(size < 0 || memcmp(got, text, sizeof got) == 0);
    root->fs->close(fd);
}

static void test_the_environment_chooses_the_plain_table(struct root *root)
{
    (void)root;
    const char *wish = getenv("COGCACHE_PLAIN_POSIX");
    char *kept = wish ? strdup(wish) : NULL;
    setenv("COGCACHE_PLAIN_POSIX", "1", 1);
    CHECK(cog_fs_system() == cog_fs_posix());
    unsetenv("COGCACHE_PLAIN_POSIX");
    CHECK(cog_fs_system() != cog_fs_posix());
    if (kept) {
        setenv("COGCACHE_PLAIN_POSIX", kept, 1);
    }
    free(kept);
}

int main(void)
{
    ROOT_RUN(test_files_are_written_read_and_described);
    ROOT_RUN(test_pieces_are_written_in_order_whatever_their_sizes);
    ROOT_RUN(test_short_and_interrupted_calls_are_continued);
    ROOT_RUN(test_a_new_name_never_replaces);
    ROOT_RUN_ONCE(test_an_old_name_that_stays_is_told);
    ROOT_RUN(test_links_are_not_followed_and_fifos_do_not_block);
    ROOT_RUN(test_names_are_listed_without_the_dots);
    ROOT_RUN(test_a_locked_byte_is_refused_to_other_processes_of_both_tables);
    ROOT_RUN(test_two_descriptions_exclude_each_other_where_the_table_says_so);
    ROOT_RUN(test_memory_is_shared_private_or_wiped_as_asked);
    ROOT_RUN(test_clocks_run_and_chance_differs);
    ROOT_RUN(test_what_is_in_memory_is_read_without_waiting_or_refused);
    ROOT_RUN_ONCE(test_the_environment_chooses_the_plain_table);
    return check_done();
}
