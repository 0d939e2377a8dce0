/* Versions of tags: through the store, over processes, and with a log that is lost or damaged. */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"

static uint64_t version_of(struct cog_store *store, const char *tag)
{
    uint64_t version = 0;
    CHECK_EQ(cog_store_tag_version(store, tag, strlen(tag), &version, NULL), COG_OK);
    return version;
}

/* As a caller does it: the time of the capture, raised to the version of the tag. */
static uint64_t capture(struct cog_store *store, const char *tag)
{
    uint64_t now = cog_store_now_ms(store) * 1000, version = version_of(store, tag);
    return now > version ? now : version;
}

static enum cog_status put_tagged(struct cog_store *store, const char *key, const char *tag,
                                  uint64_t captured)
{
    struct kit_value value = {.data = key, .size = strlen(key), .tag = {tag, captured}};
    return kit_put_value(store, key, &value);
}

static enum cog_status invalidate(struct cog_store *store, const char *tag)
{
    struct cog_tag_name name = {tag, strlen(tag)};
    return cog_store_invalidate_tags(store, &name, 1, 0, NULL);
}

static void test_invalidation_outdates_what_was_captured_before(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    uint64_t before = capture(store, "t");
    CHECK_EQ(put_tagged(store, "a", "t", before), COG_OK);
    CHECK_EQ(put_tagged(store, "b", "u", capture(store, "u")), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(store, "t"), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    CHECK_EQ(kit_miss(store, "b"), COG_MISS_NONE);
    CHECK_EQ(put_tagged(store, "a", "t", before), COG_OK); /* computed from what is outdated now */
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    CHECK_EQ(put_tagged(store, "a", "t", capture(store, "t")), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(store, "t"), COG_OK); /* twice within one second */
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    cog_store_close(store);
    store = kit_open(kit, NULL);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    CHECK_EQ(kit_miss(store, "b"), COG_MISS_NONE);
    cog_store_close(store);
}

static void test_two_stores_see_each_others_invalidations_at_once(struct kit *kit)
{
    struct cog_store *one = kit_open(kit, NULL), *two = kit_open(kit, NULL);
    for (unsigned round = 0; round < 10; round++) {
        CHECK_EQ(put_tagged(one, "a", "t", capture(one, "t")), COG_OK);
        CHECK_EQ(kit_miss(two, "a"), COG_MISS_NONE);
        CHECK_EQ(invalidate(round % 2 ? one : two, "t"), COG_OK);
        CHECK_EQ(kit_miss(one, "a"), COG_MISS_TAG);
        CHECK_EQ(kit_miss(two, "a"), COG_MISS_TAG);
        CHECK_EQ(version_of(one, "t"), version_of(two, "t"));
    }
    cog_store_close(one);
    cog_store_close(two);
}

static int child_invalidates(const struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    int failed = invalidate(store, "t") != COG_OK || kit_miss(store, "a") != COG_MISS_TAG;
    cog_store_close(store);
    return failed;
}

static void test_a_process_sees_the_invalidations_of_another(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    for (unsigned round = 0; round < 3; round++) {
        CHECK_EQ(put_tagged(store, "a", "t", capture(store, "t")), COG_OK);
        CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
        CHECK_EQ(kit_in_child(kit, false, child_invalidates), 0);
        CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    }
    cog_store_close(store);
}

enum { WRITERS = 3, TAGS_EACH = 60 };

struct writer {
    const struct kit *kit;
    unsigned number;
    unsigned refused;
};

static void name_tag(unsigned writer, unsigned i, char out[32])
{
    (void)snprintf(out, 32, "writer %u tag %u", writer, i);
}

static void *invalidate_many(void *context)
{
    struct writer *writer = context;
    struct cog_store *store = kit_open(writer->kit, NULL);
    for (unsigned i = 0; i < TAGS_EACH; i++) {
        char tag[32];
        name_tag(writer->number, i, tag);
        enum cog_status status = COG_ERR_BUSY;
        for (unsigned tries = 0; tries < KIT_PATIENCE && status == COG_ERR_BUSY; tries++) {
            status = invalidate(store, tag);
        }
        writer->refused += status != COG_OK;
    }
    cog_store_close(store);
    return NULL;
}

/* Stores of several threads, and of another process: none takes back what another has said. */
static void test_invalidations_at_once_are_all_kept(struct kit *kit)
{
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    int exited = 1;
    cog_store_close(kit_open(kit, NULL));
    fflush(NULL);
    pid_t child = fork(); /* before there are threads */
    REQUIRE(child >= 0);
    if (child == 0) {
        struct writer writer = {kit, WRITERS, 0};
        (void)invalidate_many(&writer);
        _exit(writer.refused != 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){kit, i, 0};
        REQUIRE(pthread_create(&threads[i], NULL, invalidate_many, &writers[i]) == 0);
    }
    for (unsigned i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(writers[i].refused, 0);
    }
    REQUIRE(waitpid(child, &exited, 0) == child);
    CHECK_EQ(exited, 0);
    struct cog_store *store = kit_open(kit, NULL);
    uint64_t never = version_of(store, "never invalidated");
    unsigned lost = 0;
    for (unsigned i = 0; i <= WRITERS; i++) {
        for (unsigned tag_number = 0; tag_number < TAGS_EACH; tag_number++) {
            char tag[32];
            name_tag(i, tag_number, tag);
            lost += version_of(store, tag) <= never;
        }
    }
    CHECK_EQ(lost, 0);
    cog_store_close(store);
}

static bool fork_now;
static pid_t forked;

static int fork_and_sync(int fd)
{
    if (fork_now) {
        fork_now = false;
        forked = fork();
        while (forked == 0) {
            pause();
        }
    }
    return cog_fs_system()->sync_data(fd);
}

/* Its copy of the descriptor stays open for as long as it lives; the lock must not. */
static void test_a_child_forked_during_an_invalidation_keeps_no_lock(struct kit *kit)
{
    struct cog_fs table = *kit->fs;
    table.sync_data = fork_and_sync;
    kit->fs = &table;
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(invalidate(store, "first"), COG_OK);
    fork_now = true;
    CHECK_EQ(invalidate(store, "second"), COG_OK);
    CHECK(!fork_now);
    REQUIRE(forked > 0);
    CHECK_EQ(invalidate(store, "third"), COG_OK);
    struct cog_store *other = kit_open(kit, NULL);
    CHECK_EQ(invalidate(other, "fourth"), COG_OK);
    CHECK(kill(forked, SIGKILL) == 0 && waitpid(forked, NULL, 0) == forked);
    cog_store_close(other);
    cog_store_close(store);
}

static void test_nowait_never_answers_from_an_old_table(struct kit *kit)
{
    struct cog_store *one = kit_open(kit, NULL), *two = kit_open(kit, NULL);
    struct cog_object *object = NULL;
    CHECK_EQ(put_tagged(one, "a", "t", capture(one, "t")), COG_OK);
    CHECK_EQ(kit_miss(one, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(two, "t"), COG_OK);
    CHECK_EQ(cog_store_get(one, "a", 1, COG_GET_NOWAIT, &object, NULL, NULL), COG_ERR_WOULD_BLOCK);
    CHECK_EQ(kit_miss(one, "a"), COG_MISS_TAG);
    CHECK_EQ(cog_store_get(one, "a", 1, COG_GET_NOWAIT, &object, NULL, NULL),
             kit->posix ? COG_ERR_WOULD_BLOCK : COG_ABSENT);
    cog_store_close(one);
    cog_store_close(two);
}

/* --- the log in trouble -------------------------------------------------------------------- */

static void spoil_by_unlinking(const char *log)
{
    CHECK_EQ(unlink(log), 0);
}

static void spoil_the_head(const char *log)
{
    kit_flip(log, 20, 1);
}

static void spoil_both_commits(const char *log)
{
    kit_flip(log, 64, 1);
    kit_flip(log, 96, 1);
}

static void spoil_a_record(const char *log)
{
    kit_flip(log, 128 + 26, 0x80);
}

static void spoil_by_cutting(const char *log)
{
    struct stat stat_of_log;
    REQUIRE(stat(log, &stat_of_log) == 0);
    CHECK_EQ(truncate(log, stat_of_log.st_size - 29), 0); /* exactly the last record */
}

static void spoil_by_a_directory(const char *log)
{
    CHECK_EQ(unlink(log), 0);
    CHECK_EQ(symlink("/etc/passwd", log), 0);
}

static void test_a_lost_or_damaged_log_outdates_everything(struct kit *kit)
{
    static void (*const spoils[])(const char *) = {spoil_by_unlinking, spoil_the_head,
                                                   spoil_both_commits, spoil_a_record,
                                                   spoil_by_cutting,   spoil_by_a_directory};
    char log[400];
    kit_path(kit, "tags.log", log);
    for (unsigned i = 0; i < sizeof spoils / sizeof spoils[0]; i++) {
        struct cog_store *store = kit_open(kit, NULL);
        CHECK_EQ(put_tagged(store, "a", "alpha", capture(store, "alpha")), COG_OK);
        CHECK_EQ(invalidate(store, "gamma"), COG_OK);
        CHECK_EQ(invalidate(store, "alpha"), COG_OK);
        CHECK_EQ(put_tagged(store, "b", "beta", capture(store, "beta")), COG_OK);
        CHECK_EQ(kit_put(store, "untagged", "u", 1), COG_OK);
        cog_store_close(store);
        spoils[i](log);
        store = kit_open(kit, NULL);
        CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
        CHECK_EQ(kit_miss(store, "b"), COG_MISS_TAG);
        CHECK_EQ(kit_miss(store, "untagged"), COG_MISS_NONE);
        CHECK_EQ(put_tagged(store, "a", "alpha", capture(store, "alpha")), COG_OK);
        CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
        CHECK_EQ(invalidate(store, "alpha"), COG_OK);
        CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
        cog_store_close(store);
    }
}

/* What another machine computed comes here from a shared tier, with the time of its capture. */
static void test_a_new_root_takes_what_was_captured_before_it_was_made(struct kit *kit)
{
    char log[400];
    kit_path(kit, "tags.log", log);
    struct cog_store *store = kit_open(kit, NULL), *other = kit_open(kit, NULL);
    uint64_t long_ago = cog_store_now_ms(store) * 1000 - UINT64_C(86400000000);
    CHECK_EQ(version_of(store, "t"), 0);
    CHECK_EQ(version_of(other, "t"), 0);
    CHECK_EQ(put_tagged(store, "a", "t", long_ago), COG_OK);
    CHECK_EQ(kit_miss(other, "a"), COG_MISS_NONE);
    cog_store_close(other);
    cog_store_close(store);
    store = kit_open(kit, NULL); /* used by now, and the log is where it was */
    CHECK_EQ(version_of(store, "t"), 0);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(store, "t"), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    CHECK_EQ(version_of(store, "u"), 0);
    CHECK_EQ(put_tagged(store, "a", "t", capture(store, "t")), COG_OK);
    CHECK_EQ(kit_delete(store, "a"), COG_OK);
    cog_store_close(store);
    CHECK_EQ(unlink(log), 0); /* empty, but it has been used: who knows what was in the log */
    store = kit_open(kit, NULL);
    CHECK(version_of(store, "t") > long_ago);
    CHECK(version_of(store, "u") > long_ago);
    cog_store_close(store);
}

static void test_a_log_lost_while_open_is_noticed_by_the_next_invalidation(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char log[400];
    kit_path(kit, "tags.log", log);
    CHECK_EQ(put_tagged(store, "a", "alpha", capture(store, "alpha")), COG_OK);
    CHECK_EQ(put_tagged(store, "b", "beta", capture(store, "beta")), COG_OK);
    CHECK_EQ(unlink(log), 0);
    CHECK_EQ(invalidate(store, "alpha"), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    CHECK_EQ(kit_miss(store, "b"), COG_MISS_TAG); /* what it said of beta is lost as well */
    cog_store_close(store);
}

static void test_what_lies_beyond_the_commit_is_not_there(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char log[400];
    kit_path(kit, "tags.log", log);
    CHECK_EQ(put_tagged(store, "a", "alpha", capture(store, "alpha")), COG_OK);
    cog_store_close(store);
    int fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC); /* an append that power loss cut short */
    CHECK_EQ(write(fd, "half a record", 13), 13);
    close(fd);
    store = kit_open(kit, NULL);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(store, "beta"), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(store, "alpha"), COG_OK);
    cog_store_close(store);
    store = kit_open(kit, NULL);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    cog_store_close(store);
}

static void test_a_full_log_is_compacted_and_forgets_only_towards_a_miss(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17000000; /* the smallest log: 65 KiB or so */
    struct cog_store *store = kit_open(kit, &options);
    char log[400], tag[200];
    struct stat stat_of_log;
    kit_path(kit, "tags.log", log);
    CHECK_EQ(put_tagged(store, "never", "calm", capture(store, "calm")), COG_OK);
    CHECK_EQ(put_tagged(store, "old", "first", capture(store, "first")), COG_OK);
    CHECK_EQ(invalidate(store, "first"), COG_OK);
    struct cog_tag_name names[100];
    memset(tag, 'b', sizeof tag);
    for (unsigned i = 0; i < 100; i++) {
        names[i] = (struct cog_tag_name){tag, 100};
    }
    for (unsigned i = 0; i < 20; i++) { /* one tag again and again: compacting loses nothing */
        CHECK_EQ(cog_store_invalidate_tags(store, names, 100, 0, NULL), COG_OK);
        REQUIRE(stat(log, &stat_of_log) == 0);
        CHECK(stat_of_log.st_size <= 17000000 / 256);
    }
    CHECK_EQ(kit_miss(store, "never"), COG_MISS_NONE);
    CHECK_EQ(kit_miss(store, "old"), COG_MISS_TAG);
    for (unsigned i = 0; i < 8; i++) { /* more tags than the log holds: the floor rises */
        static char many[100][160];
        for (unsigned j = 0; j < 100; j++) {
            snprintf(many[j], sizeof many[j], "%0150u", 100 * i + j);
            names[j] = (struct cog_tag_name){many[j], 150};
        }
        CHECK_EQ(cog_store_invalidate_tags(store, names, 100, 0, NULL), COG_OK);
        REQUIRE(stat(log, &stat_of_log) == 0);
        CHECK(stat_of_log.st_size <= 17000000 / 256);
    }
    CHECK_EQ(kit_miss(store, "old"), COG_MISS_TAG);
    CHECK_EQ(kit_miss(store, "never"), COG_MISS_TAG); /* captured before the floor */
    CHECK_EQ(put_tagged(store, "never", "calm", capture(store, "calm")), COG_OK);
    CHECK_EQ(kit_miss(store, "never"), COG_MISS_NONE);
    cog_store_close(store);
    store = kit_open(kit, &options);
    CHECK_EQ(kit_miss(store, "old"), COG_MISS_TAG);
    CHECK_EQ(kit_miss(store, "never"), COG_MISS_NONE);
    cog_store_close(store);
}

static void test_tags_have_limits(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char tag[1100];
    memset(tag, 't', sizeof tag);
    struct cog_tag_name names[3] = {{tag, 1024}, {tag, 1025}, {tag, 0}};
    CHECK_EQ(cog_store_invalidate_tags(store, &names[0], 1, 0, NULL), COG_OK);
    CHECK_EQ(cog_store_invalidate_tags(store, &names[1], 1, 0, NULL), COG_ERR_LIMIT);
    CHECK_EQ(cog_store_invalidate_tags(store, &names[2], 1, 0, NULL), COG_ERR_LIMIT);
    struct cog_tag_name many[100];
    for (unsigned i = 0; i < 100; i++) {
        many[i] = (struct cog_tag_name){tag, 925 + i};
    }
    CHECK_EQ(cog_store_invalidate_tags(store, many, 100, 0, NULL), COG_OK);
    CHECK_EQ(cog_store_invalidate_tags(store, many, 0, 0, NULL), COG_OK);
    cog_store_close(store);
}

static void test_a_capture_by_a_clock_that_ran_ahead_is_not_trusted(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    uint64_t next_year = capture(store, "t") + UINT64_C(31536000000000);
    CHECK_EQ(put_tagged(store, "a", "t", next_year), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE); /* nothing was invalidated */
    CHECK_EQ(invalidate(store, "t"), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    cog_store_close(store);
}

static void test_the_sweep_reclaims_what_tags_outdated(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    uint64_t removed = 0, all = 0;
    char path[400];
    CHECK_EQ(put_tagged(store, "a", "t", capture(store, "t")), COG_OK);
    CHECK_EQ(put_tagged(store, "b", "u", capture(store, "u")), COG_OK);
    CHECK_EQ(invalidate(store, "t"), COG_OK);
    for (unsigned i = 0; i < 16; i++) { /* table-less: a 16th of the shards at a time */
        CHECK_EQ(kit_sweep(store, false, &removed), COG_OK);
        all += removed;
    }
    CHECK_EQ(all, 1);
    kit_object(kit, "a", path);
    CHECK(!kit_exists(path));
    CHECK_EQ(kit_miss(store, "b"), COG_MISS_NONE);
    cog_store_close(store);
}

static enum cog_status open_fails(struct kit *kit, struct cog_error *err)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_store *store = NULL;
    enum cog_status status = cog_store_open(kit->base, &options, &store, err);
    cog_store_close(store);
    return status;
}

/* What cannot be written holds in this process all the same, whatever others invalidate then. */
static void test_an_invalidation_that_cannot_be_written_holds_in_its_process(struct kit *kit)
{
    char log[400], aside[404];
    struct cog_store *store = kit_open(kit, NULL), *other = kit_open(kit, NULL);
    kit_path(kit, "tags.log", log);
    snprintf(aside, sizeof aside, "%s.0", log);
    CHECK_EQ(put_tagged(store, "a", "t", capture(store, "t")), COG_OK);
    CHECK_EQ(put_tagged(store, "b", "u", capture(store, "u")), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    REQUIRE(rename(log, aside) == 0 && mkdir(log, 0700) == 0);
    CHECK(invalidate(store, "t") != COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    fflush(NULL);
    pid_t child = fork(); /* what is known only here is known to a child as well */
    if (child == 0) {
        _exit(kit_miss(store, "a") == COG_MISS_TAG ? 0 : 1);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    REQUIRE(rmdir(log) == 0 && rename(aside, log) == 0);
    CHECK_EQ(invalidate(other, "v"), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_TAG);
    CHECK_EQ(put_tagged(store, "a", "t", capture(store, "t")), COG_OK);
    CHECK_EQ(kit_miss(store, "a"), COG_MISS_NONE);
    cog_store_close(store);
    cog_store_close(other);
}

static void test_a_reader_that_may_not_write_gives_out_nothing_that_it_invalidated(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    struct cog_store *writer = kit_open(kit, NULL);
    CHECK_EQ(put_tagged(writer, "a", "t", capture(writer, "t")), COG_OK);
    CHECK_EQ(put_tagged(writer, "b", "u", capture(writer, "u")), COG_OK);
    options.access = COG_ACCESS_READ_ONLY;
    struct cog_store *reader = kit_open(kit, &options);
    CHECK_EQ(kit_miss(reader, "a"), COG_MISS_NONE);
    CHECK_EQ(invalidate(reader, "t"), COG_ERR_READ_ONLY);
    CHECK_EQ(kit_miss(reader, "a"), COG_MISS_TAG);
    CHECK_EQ(kit_miss(reader, "b"), COG_MISS_NONE);
    CHECK_EQ(kit_miss(writer, "a"), COG_MISS_NONE);
    cog_store_close(reader);
    cog_store_close(writer);
}

static void test_a_directory_in_place_of_the_log_is_named(struct kit *kit)
{
    char log[400];
    struct cog_error err = {0};
    cog_store_close(kit_open(kit, NULL));
    kit_path(kit, "tags.log", log);
    REQUIRE(unlink(log) == 0 && mkdir(log, 0700) == 0);
    CHECK_EQ(open_fails(kit, &err), COG_ERR_IO);
    CHECK(strstr(err.text, "'tags.log' is a directory there: remove it") != NULL);
    REQUIRE(rmdir(log) == 0);
    CHECK_EQ(open_fails(kit, &err), COG_OK);
}

int main(void)
{
    KIT_RUN(test_invalidation_outdates_what_was_captured_before);
    KIT_RUN(test_two_stores_see_each_others_invalidations_at_once);
    KIT_RUN(test_a_process_sees_the_invalidations_of_another);
    KIT_RUN(test_invalidations_at_once_are_all_kept);
    KIT_RUN(test_a_child_forked_during_an_invalidation_keeps_no_lock);
    KIT_RUN(test_nowait_never_answers_from_an_old_table);
    KIT_RUN(test_a_lost_or_damaged_log_outdates_everything);
    KIT_RUN(test_a_new_root_takes_what_was_captured_before_it_was_made);
    KIT_RUN(test_a_log_lost_while_open_is_noticed_by_the_next_invalidation);
    KIT_RUN(test_what_lies_beyond_the_commit_is_not_there);
    KIT_RUN(test_a_full_log_is_compacted_and_forgets_only_towards_a_miss);
    KIT_RUN(test_tags_have_limits);
    KIT_RUN(test_an_invalidation_that_cannot_be_written_holds_in_its_process);
    KIT_RUN(test_a_reader_that_may_not_write_gives_out_nothing_that_it_invalidated);
    KIT_RUN(test_a_directory_in_place_of_the_log_is_named);
    KIT_RUN(test_a_capture_by_a_clock_that_ran_ahead_is_not_trusted);
    KIT_RUN(test_the_sweep_reclaims_what_tags_outdated);
    return check_done();
}
