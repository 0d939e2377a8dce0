/*
 * Damage, strangers and hostile surroundings: never another value, nothing of others touched,
 * nothing outside the root followed, nothing that blocks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"

/* --- quarantine ---------------------------------------------------------------------------- */

enum { SMALL = 1000, LARGE = 300000 };
static unsigned char value[LARGE];

static void flip_data(const char *path)
{
    kit_flip(path, 500, 1);
}

static void flip_head(const char *path)
{
    kit_flip(path, 3, 0x80);
}

static void flip_index(const char *path)
{
    kit_flip(path, -120, 0xFF);
}

static void flip_footer(const char *path)
{
    kit_flip(path, -20, 1);
}

static void cut_to_nothing(const char *path)
{
    CHECK_EQ(truncate(path, 0), 0);
}

static void cut_the_end(const char *path)
{
    struct stat stat_of_file;
    REQUIRE(stat(path, &stat_of_file) == 0);
    CHECK_EQ(truncate(path, stat_of_file.st_size - 1), 0);
}

static void append_garbage(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK_EQ(write(fd, "garbage", 7), 7);
    close(fd);
}

static void zero_a_sector(const char *path)
{
    char zeros[512] = {0};
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK_EQ(pwrite(fd, zeros, sizeof zeros, 256), (ssize_t)sizeof zeros);
    close(fd);
}

static void test_every_kind_of_damage_is_a_miss_and_is_set_aside(struct kit *kit)
{
    static void (*const spoils[])(const char *) = {flip_data,      flip_head,      flip_index,
                                                   flip_footer,    cut_to_nothing, cut_the_end,
                                                   append_garbage, zero_a_sector};
    enum { KINDS = sizeof spoils / sizeof spoils[0] };
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_object *object;
    struct cog_store_stats stats;
    enum cog_miss miss;
    char path[400];
    kit_fill(value, LARGE, 1, 1);
    kit_object(kit, "k", path);
    for (unsigned i = 0; i < 2 * KINDS; i++) {
        CHECK_EQ(kit_put(store, "k", value, i % 2 ? LARGE : SMALL), COG_OK);
        spoils[i / 2](path);
        enum cog_status status = cog_store_get(store, "k", 1, COG_GET_NOWAIT, &object, &miss, NULL);
        CHECK_EQ(status, COG_ERR_WOULD_BLOCK); /* judging may take a lock */
        CHECK_EQ(kit_miss(store, "k"), COG_MISS_DAMAGED);
        CHECK(!kit_exists(path));
        CHECK_EQ(kit_miss(store, "k"), COG_MISS_ABSENT);
        CHECK_EQ(kit_put(store, "k", value, SMALL), COG_OK);
        CHECK(kit_has(store, "k", value, SMALL));
    }
    cog_store_get_stats(store, &stats);
    CHECK_EQ(stats.quarantined, 2 * KINDS);
    CHECK_EQ(stats.misses[COG_MISS_DAMAGED], 2 * KINDS);
    CHECK_EQ(stats.quarantine_files, 16); /* and no more */
    CHECK_EQ(kit_count(kit, "quarantine"), 16);
    cog_store_close(store);
}

static void test_the_quarantine_keeps_its_bytes_under_the_cap(struct kit *kit)
{
    enum { SIZE = 100000 };
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000; /* cap 531,250: one place of a half, one of a quarter */
    struct cog_store *store = kit_open(kit, &options);
    char path[400];
    kit_object(kit, "k", path);
    for (unsigned i = 0; i < 8; i++) {
        CHECK_EQ(kit_put(store, "k", value, SIZE), COG_OK);
        kit_flip(path, 500, 1);
        CHECK_EQ(kit_miss(store, "k"), COG_MISS_DAMAGED);
        CHECK(!kit_exists(path));
    }
    CHECK_EQ(kit_count(kit, "quarantine"), 2);
    cog_store_close(store);
}

static void test_damage_found_later_spares_a_newer_generation(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    struct cog_object *object;
    char path[400];
    kit_object(kit, "k", path);
    kit_fill(value, LARGE, 1, 1);
    CHECK_EQ(kit_put(store, "k", value, LARGE), COG_OK);
    kit_flip(path, 5000, 1);
    REQUIRE(cog_store_get(store, "k", 1, COG_GET_INDEX_ONLY, &object, NULL, NULL) == COG_OK);
    CHECK_EQ(cog_object_verify_part(object, 0, NULL), COG_ERR_DAMAGED);
    CHECK_EQ(kit_put(store, "k", value, LARGE), COG_OK);
    cog_store_report_damage(store, object);
    CHECK(kit_has(store, "k", value, LARGE));
    CHECK_EQ(kit_count(kit, "quarantine"), 0);
    cog_object_free(object);
    kit_flip(path, 5000, 1);
    REQUIRE(cog_store_get(store, "k", 1, COG_GET_INDEX_ONLY, &object, NULL, NULL) == COG_OK);
    cog_store_report_damage(store, object);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_ABSENT);
    CHECK_EQ(kit_count(kit, "quarantine"), 1);
    cog_object_free(object);
    cog_store_close(store);
}

/* Who only looks changes nothing, and what was believed before is not believed any more. */
static void test_looking_at_damage_leaves_it_where_it_is(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    unsigned look = COG_GET_LEAVE | COG_GET_NO_TOUCH | COG_GET_NO_MAP;
    struct cog_object *object;
    enum cog_miss miss;
    char path[400];
    kit_object(kit, "k", path);
    kit_fill(value, LARGE, 1, 1);
    CHECK_EQ(kit_put(store, "k", value, LARGE), COG_OK);
    CHECK(kit_has(store, "k", value, LARGE)); /* verified, once for this process */
    kit_flip(path, 5000, 1);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(cog_store_get(store, "k", 1, look, &object, &miss, NULL), COG_ABSENT);
        CHECK_EQ(miss, COG_MISS_DAMAGED);
        CHECK(kit_exists(path));
    }
    CHECK_EQ(kit_count(kit, "quarantine"), 0);
    REQUIRE(cog_store_get(store, "k", 1, look | COG_GET_INDEX_ONLY, &object, NULL, NULL) == COG_OK);
    cog_object_distrust(object);
    cog_object_free(object);
    CHECK(kit_exists(path));
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_DAMAGED);
    CHECK(!kit_exists(path));
    CHECK_EQ(kit_count(kit, "quarantine"), 1);
    cog_store_close(store);
}

static void test_an_entry_without_a_valid_slot_is_expired_not_damaged(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    uint64_t removed = 0;
    char path[400];
    kit_object(kit, "k", path);
    CHECK_EQ(kit_put(store, "k", value, SMALL), COG_OK);
    kit_flip(path, -110, 1);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_EXPIRED);
    CHECK(kit_exists(path));
    CHECK_EQ(kit_count(kit, "quarantine"), 0);
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    CHECK(removed == 1 || !kit_exists(path) || kit_miss(store, "k") == COG_MISS_EXPIRED);
    cog_store_close(store);
}

/* --- strangers ----------------------------------------------------------------------------- */

static void plant_symlink(const char *path)
{
    CHECK_EQ(symlink("/etc/passwd", path), 0);
}

static void plant_dangling_symlink(const char *path)
{
    CHECK_EQ(symlink("/nonexistent/nowhere", path), 0);
}

static void plant_fifo(const char *path)
{
    CHECK_EQ(mkfifo(path, 0600), 0);
}

static void plant_directory(const char *path)
{
    CHECK_EQ(mkdir(path, 0700), 0);
}

static void plant_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char here[400], dir[400];
    REQUIRE(fd >= 0 && getcwd(here, sizeof here) != NULL); /* the path is too long for a sockaddr */
    snprintf(dir, sizeof dir, "%s", path);
    *strrchr(dir, '/') = '\0';
    snprintf(address.sun_path, sizeof address.sun_path, "%s", strrchr(path, '/') + 1);
    CHECK(chdir(dir) == 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK_EQ(chdir(here), 0);
    close(fd);
}

static void test_planted_names_are_plain_misses_and_never_block(struct kit *kit)
{
    static void (*const plants[])(const char *) = {plant_symlink, plant_dangling_symlink,
                                                   plant_fifo, plant_directory, plant_socket};
    struct cog_store *store = kit_open(kit, NULL);
    char path[400], dir[400];
    struct stat before, after;
    kit_object(kit, "k", path);
    snprintf(dir, sizeof dir, "%s", path);
    *strrchr(dir, '/') = '\0';
    REQUIRE(stat("/etc/passwd", &before) == 0);
    for (unsigned i = 0; i < sizeof plants / sizeof plants[0]; i++) {
        struct cog_object *object;
        CHECK(mkdir(dir, 0700) == 0 || errno == EEXIST);
        plants[i](path);
        (void)cog_store_get(store, "k", 1, COG_GET_NOWAIT, &object, NULL, NULL);
        CHECK_EQ(kit_miss(store, "k"), COG_MISS_FOREIGN);
        CHECK(kit_exists(path)); /* never touched by a look-up */
        CHECK_EQ(kit_delete(store, "k"), COG_ABSENT);
        CHECK(kit_exists(path));
        CHECK_EQ(kit_put(store, "k", "mine", 4), COG_ERR_REFUSED);
        CHECK(kit_exists(path));
        CHECK_EQ(remove(path), 0);
        CHECK_EQ(kit_put(store, "k", "mine", 4), COG_OK);
        CHECK(kit_has(store, "k", "mine", 4));
        CHECK_EQ(kit_delete(store, "k"), COG_OK);
        CHECK_EQ(kit_count(kit, "tmp"), 0);
    }
    REQUIRE(stat("/etc/passwd", &after) == 0);
    CHECK(before.st_size == after.st_size && before.st_mtime == after.st_mtime);
    cog_store_close(store);
}

static void test_an_entry_of_another_key_is_foreign_and_stays(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char path[400], other[400];
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
    CHECK_EQ(kit_put(store, "other", "w", 1), COG_OK);
    kit_object(kit, "k", path);
    kit_object(kit, "other", other);
    CHECK(unlink(other) == 0 && link(path, other) == 0);
    CHECK_EQ(kit_miss(store, "other"), COG_MISS_FOREIGN);
    CHECK_EQ(kit_delete(store, "other"), COG_ABSENT);
    CHECK(kit_exists(other));
    CHECK(kit_has(store, "k", "v", 1));
    cog_store_close(store);
}

static void test_files_of_another_owner_are_not_read(struct kit *kit)
{
    if (!kit_may_be_others(kit, "files of another owner")) {
        return;
    }
    struct cog_store *store = kit_open(kit, NULL);
    char path[400];
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
    kit_object(kit, "k", path);
    CHECK_EQ(chown(path, 65534, 65534), 0);
    CHECK_EQ(kit_miss(store, "k"), COG_MISS_FOREIGN);
    CHECK(kit_exists(path));
    CHECK_EQ(chown(path, 0, 0), 0);
    CHECK(kit_has(store, "k", "v", 1));
    cog_store_close(store);
}

/* --- the root ------------------------------------------------------------------------------ */

static enum cog_status try_open(const struct kit *kit, const struct cog_store_options *options,
                                struct cog_error *err)
{
    struct cog_store *store;
    enum cog_status status = cog_store_open(kit->base, options, &store, err);
    cog_store_close(store);
    return status;
}

static void test_a_root_that_others_can_write_is_refused(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_error err = {0};
    cog_store_close(kit_open(kit, NULL));
    static const unsigned modes[] = {0770, 0707, 0777, 01777, 02770};
    for (unsigned i = 0; i < 5; i++) {
        CHECK_EQ(chmod(kit->root, modes[i]), 0);
        CHECK_EQ(try_open(kit, &options, &err), COG_ERR_REFUSED);
        CHECK(strstr(err.text, "chmod") != NULL);
    }
    options.group_shared = true;
    CHECK_EQ(chmod(kit->root, 02770), 0);
    CHECK_EQ(try_open(kit, &options, &err), COG_OK);
    CHECK_EQ(chmod(kit->root, 02777), 0);
    CHECK_EQ(try_open(kit, &options, &err), COG_ERR_REFUSED);
    CHECK_EQ(chmod(kit->root, 0755), 0); /* readable is fine */
    options.group_shared = false;
    CHECK_EQ(try_open(kit, &options, &err), COG_OK);
}

static void test_a_root_of_another_owner_is_refused(struct kit *kit)
{
    if (!kit_may_be_others(kit, "a root of another owner")) {
        return;
    }
    struct cog_store_options options = kit_options(kit);
    struct cog_error err = {0};
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(kit_put(store, "k", "v", 1), COG_OK);
    cog_store_close(store);
    CHECK(chmod(kit->root, 0755) == 0 && chown(kit->root, 65534, 65534) == 0);
    CHECK_EQ(try_open(kit, &options, &err), COG_ERR_REFUSED);
    CHECK(strstr(err.text, "uid 65534") != NULL);
    options.access = COG_ACCESS_READ_ONLY; /* the caller names a directory of others on purpose */
    CHECK_EQ(try_open(kit, &options, &err), COG_OK);
}

static void test_a_root_that_is_no_directory_is_refused(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_error err = {0};
    int fd = open(kit->base, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    CHECK_EQ(try_open(kit, &options, &err), COG_ERR_REFUSED);
    CHECK(strstr(err.text, "not a directory") != NULL);
    CHECK(unlink(kit->base) == 0 && mkdir(kit->base, 0700) == 0);
    CHECK_EQ(symlink("/tmp", kit->root), 0);
    CHECK_EQ(try_open(kit, &options, &err), COG_ERR_REFUSED);
    CHECK(unlink(kit->root) == 0 && mkdir(kit->root, 0700) == 0);
    char path[400];
    kit_path(kit, "objects", path);
    CHECK_EQ(symlink("/tmp", path), 0);
    CHECK_EQ(try_open(kit, &options, &err), COG_ERR_REFUSED);
}

static int read_only_root(const struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_store *store;
    struct cog_error err = {0};
    uint64_t removed;
    options.access = COG_ACCESS_READ_WRITE;
    if (cog_store_open(kit->base, &options, &store, &err) != COG_ERR_READ_ONLY) {
        return 1;
    }
    options.access = COG_ACCESS_AUTO;
    if (cog_store_open(kit->base, &options, &store, &err) != COG_OK) {
        return 2;
    }
    if (!kit_has(store, "k", "value", 5) || !kit_has(store, "large", value, LARGE) ||
        kit_miss(store, "none") != COG_MISS_ABSENT) {
        return 3;
    }
    if (kit_put(store, "k", "other", 5) != COG_ERR_READ_ONLY ||
        kit_delete(store, "k") != COG_ERR_READ_ONLY ||
        cog_store_refresh(store, "k", 1, COG_NEVER, NULL) != COG_ERR_READ_ONLY ||
        kit_sweep(store, true, &removed) != COG_ERR_READ_ONLY) {
        return 4;
    }
    struct cog_store_stats stats;
    cog_store_get_stats(store, &stats);
    if (!stats.read_only || stats.refused_read_only != 1 || stats.hits != 2) {
        return 5;
    }
    if (!kit_has(store, "k", "value", 5)) {
        return 6;
    }
    cog_store_close(store);
    return 0;
}

static void test_a_read_only_root_gives_hits_and_takes_nothing(struct kit *kit)
{
    char command[900];
    if (geteuid() == 0 && !kit_may_be_others(kit, "a root that can only be read")) {
        return;
    }
    struct cog_store *store = kit_open(kit, NULL);
    kit_fill(value, LARGE, 1, 1);
    CHECK_EQ(kit_put(store, "k", "value", 5), COG_OK);
    CHECK_EQ(kit_put(store, "large", value, LARGE), COG_OK);
    cog_store_close(store);
    /* Of root's, readable by all: the child reads as nobody. Not root: our own, without write. */
    snprintf(command, sizeof command,
             "find '%s' -type d -exec chmod 0555 {} + && find '%s' -type f -exec chmod 0444 {} +",
             kit->base, kit->base);
    REQUIRE(system(command) == 0);
    CHECK_EQ(kit_in_child(kit, true, read_only_root), 0);
    snprintf(command, sizeof command, "chmod -R u+w '%s'", kit->base);
    REQUIRE(system(command) == 0);
}

/* --- the group's root ---------------------------------------------------------------------- */

static int member_of_the_group(const struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_store *store;
    struct cog_error err = {0};
    options.group_shared = true;
    if (setgroups(0, NULL) != 0 || setgid(4711) != 0 || setuid(65534) != 0) {
        return 90;
    }
    umask(0077);
    if (cog_store_open(kit->base, &options, &store, &err) != COG_OK) {
        return 1;
    }
    int failed = !kit_has(store, "k", "mine", 4) || kit_put(store, "k2", "theirs", 6) != COG_OK ||
                 kit_put(store, "k", "replaced", 8) != COG_OK;
    cog_store_close(store);
    return failed ? 2 : 0;
}

static void test_a_group_shares_a_root(struct kit *kit)
{
    if (!kit_may_be_others(kit, "a root shared by a group")) {
        return;
    }
    struct cog_store_options options = kit_options(kit);
    options.group_shared = true;
    mode_t old = umask(0077);
    REQUIRE(mkdir(kit->base, 0700) == 0 && chown(kit->base, 0, 4711) == 0 &&
            chmod(kit->base, 02770) == 0);
    struct cog_store *store = kit_open(kit, &options);
    CHECK_EQ(kit_put(store, "k", "mine", 4), COG_OK);
    char path[400];
    struct stat about;
    kit_object(kit, "k", path);
    REQUIRE(stat(path, &about) == 0);
    CHECK_EQ(about.st_mode & 07777, 0660);
    CHECK_EQ(about.st_gid, 4711);
    *strrchr(path, '/') = '\0';
    REQUIRE(stat(path, &about) == 0);
    CHECK_EQ(about.st_mode & 07777, 02770);
    CHECK_EQ(kit_in_child(kit, false, member_of_the_group), 0);
    CHECK(kit_has(store, "k", "replaced", 8));
    CHECK(kit_has(store, "k2", "theirs", 6));
    CHECK_EQ(kit_put(store, "k2", "again", 5), COG_OK);
    umask(old);
    cog_store_close(store);
}

int main(void)
{
    KIT_RUN(test_every_kind_of_damage_is_a_miss_and_is_set_aside);
    KIT_RUN(test_the_quarantine_keeps_its_bytes_under_the_cap);
    KIT_RUN(test_damage_found_later_spares_a_newer_generation);
    KIT_RUN(test_looking_at_damage_leaves_it_where_it_is);
    KIT_RUN(test_an_entry_without_a_valid_slot_is_expired_not_damaged);
    KIT_RUN(test_planted_names_are_plain_misses_and_never_block);
    KIT_RUN(test_an_entry_of_another_key_is_foreign_and_stays);
    KIT_RUN(test_files_of_another_owner_are_not_read);
    KIT_RUN(test_a_root_that_others_can_write_is_refused);
    KIT_RUN(test_a_root_of_another_owner_is_refused);
    KIT_RUN(test_a_root_that_is_no_directory_is_refused);
    KIT_RUN(test_a_read_only_root_gives_hits_and_takes_nothing);
    KIT_RUN(test_a_group_shares_a_root);
    return check_done();
}
