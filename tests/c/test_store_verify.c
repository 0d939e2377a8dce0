/* Which of many entries are as they were written: what is left for a closer look, and what is set
 * aside. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"

enum { SMALL = 1000, LARGE = 3000000, MOST = 8 << 20 };
static unsigned char value[LARGE];

/* --- asking -------------------------------------------------------------------------------- */

static uint64_t size_of(const char *path)
{
    struct stat file;
    REQUIRE(stat(path, &file) == 0);
    return (uint64_t)file.st_size;
}

/* All names, a few shards at a time. */
static size_t all_names(struct cog_store *store, struct cog_digest **names)
{
    struct cog_buf found = {0};
    unsigned shard = 0, calls = 0;
    while (shard < 256) {
        unsigned before = shard;
        REQUIRE(cog_store_names(store, &shard, 0, found.size / COG_DIGEST_SIZE + 2, &found, NULL) ==
                COG_OK);
        CHECK(shard > before);
        calls++;
    }
    CHECK(calls >= 1);
    *names = (void *)found.data; /* released by cog_free, as any buffer */
    return found.size / COG_DIGEST_SIZE;
}

/* Sift `name` alone: 's'ound, 'l'eft or neither (' '). */
static char sifted(struct cog_store *store, const char *name)
{
    struct cog_digest digest;
    struct cog_sifted out;
    uint32_t left[1];
    out.left = left;
    cog_hash128(name, strlen(name), &digest);
    CHECK_EQ(cog_store_sift(store, &digest, 1, MOST, NULL, &out), COG_OK);
    CHECK_EQ(out.done, 1);
    CHECK(out.entries + out.left_count <= 1 && (out.entries == 1) == (out.bytes > 0));
    return out.entries == 1 ? 's' : out.left_count == 1 ? 'l' : ' ';
}

static enum cog_status removed(struct cog_store *store, const char *name)
{
    struct cog_digest digest;
    struct cog_error err = {0};
    cog_hash128(name, strlen(name), &digest);
    return cog_store_remove_damaged(store, &digest, NULL, &err);
}

/* --- what is whole ------------------------------------------------------------------------- */

static void test_what_is_whole_is_counted_and_nothing_changes(struct kit *kit)
{
    enum { COUNT = 40 };
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_digest *names;
    struct cog_sifted out;
    uint64_t bytes = 0;
    char key[16], path[400];
    for (unsigned i = 0; i < COUNT; i++) {
        snprintf(key, sizeof key, "key %u", i);
        kit_fill(value, LARGE, i, 1);
        CHECK_EQ(kit_put(store, key, value, i == 0 ? LARGE : i == 1 ? 262144 : i * 100), COG_OK);
        kit_object(kit, key, path);
        bytes += size_of(path);
    }
    size_t count = all_names(store, &names);
    REQUIRE(count == COUNT);
    out.left = cog_alloc(count * sizeof *out.left);
    CHECK_EQ(cog_store_sift(store, names, count, MOST, NULL, &out), COG_OK);
    CHECK_EQ(out.done, COUNT);
    CHECK_EQ(out.entries, COUNT);
    CHECK_EQ(out.bytes, bytes);
    CHECK_EQ(out.left_count, 0);
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    CHECK(stats.hits == 0 && stats.touches == 0 && stats.quarantined == 0);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(cog_store_remove_damaged(store, &names[i], NULL, NULL), COG_ABSENT);
    }
    CHECK_EQ(kit_count(kit, "quarantine"), 0);
    cog_free(out.left);
    cog_free(names);
    cog_store_close(store);
}

static void test_a_step_ends_when_so_much_was_read_and_leaves_what_is_longer(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_digest names[4];
    struct cog_sifted out;
    uint32_t left[4];
    out.left = left;
    CHECK_EQ(kit_put(store, "long", value, LARGE), COG_OK);
    for (unsigned i = 0; i < 3; i++) {
        char key[2] = {(char)('a' + i), 0};
        CHECK_EQ(kit_put(store, key, value, SMALL), COG_OK);
        cog_hash128(key, 1, &names[i == 0 ? 0 : i + 1]);
    }
    cog_hash128("long", 4, &names[1]);
    CHECK_EQ(cog_store_sift(store, names, 4, 2 * SMALL, NULL, &out), COG_OK);
    CHECK(out.done == 3 && out.entries == 2 && out.left_count == 1 && left[0] == 1);
    CHECK_EQ(cog_store_sift(store, names + out.done, 1, 2 * SMALL, NULL, &out), COG_OK);
    CHECK(out.done == 1 && out.entries == 1);
    atomic_bool cancelled = true;
    CHECK_EQ(cog_store_sift(store, names, 4, MOST, &cancelled, &out), COG_ERR_CANCELLED);
    CHECK(out.done == 0 && out.entries == 0);
    CHECK_EQ(cog_store_remove_damaged(store, &names[1], &cancelled, NULL), COG_ERR_CANCELLED);
    cog_store_close(store);
}

static void test_names_of_one_source(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct kit_value one = {.data = "1", .size = 1, .source = 7};
    struct kit_value two = {.data = "2", .size = 1, .source = 8};
    struct cog_buf found = {0};
    struct cog_digest digest;
    unsigned shard = 0;
    CHECK_EQ(kit_put_value(store, "one", &one), COG_OK);
    CHECK_EQ(kit_put_value(store, "two", &two), COG_OK);
    CHECK_EQ(cog_store_names(store, &shard, 7, SIZE_MAX, &found, NULL), COG_OK);
    CHECK_EQ(shard, 256);
    cog_hash128("one", 3, &digest);
    if (kit->table_less) { /* nobody knows the sources there */
        CHECK_EQ(found.size, 2 * COG_DIGEST_SIZE);
    } else {
        CHECK_BYTES(found.data, found.size, digest.bytes, sizeof digest.bytes);
    }
    cog_buf_release(&found);
    cog_store_close(store);
}

/* --- what is not --------------------------------------------------------------------------- */

struct spoil {
    int64_t at;     /* a byte to be changed; from the end if negative */
    int64_t length; /* or the new length of the file, if not 0: -1 = 0, -2 = a byte less, 7 more */
};

static void spoil_file(const char *path, const struct spoil *spoil)
{
    off_t size = (off_t)size_of(path);
    if (spoil->length == 0) {
        kit_flip(path, spoil->at, 0x21);
    } else {
        off_t length = spoil->length == -1 ? 0 : spoil->length == -2 ? size - 1 : size + 7;
        CHECK_EQ(truncate(path, length), 0);
    }
}

static void test_every_kind_of_damage_is_left_where_it_is_until_it_is_set_aside(struct kit *kit)
{
    static const struct spoil spoils[] = {{3, 0},   {10, 0},  {20, 0}, {500, 0}, {-113, 0},
                                          {-40, 0}, {-10, 0}, {0, -1}, {0, -2},  {0, 7}};
    struct cog_store *store = kit_open(kit, NULL);
    char path[400];
    kit_object(kit, "k", path);
    for (unsigned i = 0; i < 2 * (sizeof spoils / sizeof spoils[0]); i++) {
        CHECK_EQ(kit_put(store, "k", value, i % 2 ? LARGE : SMALL), COG_OK);
        CHECK_EQ(sifted(store, "k"), 's');
        spoil_file(path, &spoils[i / 2]);
        uint64_t before = size_of(path);
        CHECK_EQ(sifted(store, "k"), 'l');
        CHECK_EQ(sifted(store, "k"), 'l');
        CHECK_EQ(size_of(path), before);
        CHECK_EQ(removed(store, "k"), COG_OK);
        CHECK(!kit_exists(path));
        CHECK_EQ(removed(store, "k"), COG_ABSENT);
        CHECK_EQ(sifted(store, "k"), ' ');
    }
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.quarantined, 2 * sizeof spoils / sizeof spoils[0]);
    cog_store_close(store);
}

static void test_one_slot_is_enough_for_a_life_and_none_is_not(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct kit_value mortal = {.data = value, .size = SMALL, .ttl_ms = 1000000};
    char path[400];
    kit_object(kit, "k", path);
    CHECK_EQ(kit_put_value(store, "k", &mortal), COG_OK);
    CHECK_EQ(cog_store_refresh(store, "k", 1, 2000000, NULL), COG_OK);
    kit_flip(path, -110, 1);
    CHECK_EQ(sifted(store, "k"), 's');
    CHECK_EQ(removed(store, "k"), COG_ABSENT);
    kit_flip(path, -78, 1);
    CHECK_EQ(sifted(store, "k"), 'l');
    CHECK_EQ(removed(store, "k"), COG_OK);
    CHECK_EQ(kit_put_value(store, "k", &mortal), COG_OK); /* its end is no damage */
    cog_store_set_clock_offset(store, 3000000);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_EXPIRED);
    CHECK_EQ(sifted(store, "k"), 's');
    cog_store_close(store);
}

static void test_an_entry_under_the_name_of_another_key_is_left(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char path[400], other[400];
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
    CHECK_EQ(kit_put(store, "other", "w", 1), COG_OK);
    kit_object(kit, "k", path);
    kit_object(kit, "other", other);
    CHECK(unlink(other) == 0 && link(path, other) == 0);
    CHECK_EQ(sifted(store, "k"), 's'); /* a second name does no harm to the first */
    CHECK_EQ(sifted(store, "other"), 'l');
    CHECK_EQ(removed(store, "other"), COG_OK);
    CHECK(!kit_exists(other));
    CHECK(kit_has(store, "k", "v", 1));
    cog_store_close(store);
}

static void test_what_is_no_entry_is_passed_over(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char path[400];
    kit_object(kit, "k", path);
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK); /* makes the directory */
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(remove(path), 0);
        CHECK_EQ(i == 0   ? symlink("/etc/passwd", path)
                 : i == 1 ? mkfifo(path, 0600)
                          : mkdir(path, 0700),
                 0);
        CHECK_EQ(sifted(store, "k"), ' ');
        CHECK_EQ(removed(store, "k"), COG_ABSENT);
        CHECK(kit_exists(path));
    }
    CHECK_EQ(remove(path), 0);
    if (kit_may_be_others(kit, "files of another owner")) {
        CHECK_EQ(kit_put(store, "k", value, SMALL), COG_OK);
        kit_flip(path, 500, 1);
        CHECK_EQ(chown(path, 65534, 65534), 0);
        CHECK_EQ(sifted(store, "k"), ' ');
        CHECK_EQ(removed(store, "k"), COG_ABSENT);
        CHECK(kit_exists(path));
    }
    cog_store_close(store);
}

/* --- what the system refuses --------------------------------------------------------------- */

static struct cog_fs refusing;
static int refusal;

static int refuse_open(int dir, const char *path, int flags, unsigned mode)
{
    return strncmp(path, "objects/", 8) == 0 && strlen(path) > 12
               ? refusal
               : cog_fs_system()->open(dir, path, flags, mode);
}

static int64_t refuse_pread(int fd, void *out, size_t size, uint64_t offset)
{
    struct cog_stat stat;
    bool is_object = cog_fs_system()->stat(fd, &stat) == 0 && stat.size > SMALL &&
                     stat.size < 2 * SMALL;
    return is_object ? refusal : cog_fs_system()->pread(fd, out, size, offset);
}

static void test_what_cannot_be_read_is_left_and_never_removed(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_store_options options = kit_options(kit);
    char path[400];
    kit_object(kit, "k", path);
    CHECK_EQ(kit_put(store, "k", value, SMALL), COG_OK);
    kit_flip(path, 500, 1);
    cog_store_close(store);
    for (unsigned i = 0; i < 4; i++) {
        refusing = *cog_fs_system();
        refusal = i % 2 ? -EACCES : -EIO;
        if (i < 2) {
            refusing.open = refuse_open;
        } else {
            refusing.pread = refuse_pread;
        }
        options.fs = &refusing;
        store = kit_open(kit, &options);
        CHECK_EQ(sifted(store, "k"), 'l');
        CHECK_EQ(sifted(store, "none"), ' ');
        CHECK_EQ(removed(store, "k"), COG_ERR_IO);
        CHECK(kit_exists(path));
        cog_store_close(store);
    }
}

int main(void)
{
    KIT_RUN(test_what_is_whole_is_counted_and_nothing_changes);
    KIT_RUN(test_a_step_ends_when_so_much_was_read_and_leaves_what_is_longer);
    KIT_RUN(test_names_of_one_source);
    KIT_RUN(test_every_kind_of_damage_is_left_where_it_is_until_it_is_set_aside);
    KIT_RUN(test_one_slot_is_enough_for_a_life_and_none_is_not);
    KIT_RUN(test_an_entry_under_the_name_of_another_key_is_left);
    KIT_RUN(test_what_is_no_entry_is_passed_over);
    kit_run_once("test_what_cannot_be_read_is_left_and_never_removed",
                 test_what_cannot_be_read_is_left_and_never_removed);
    return check_done();
}
