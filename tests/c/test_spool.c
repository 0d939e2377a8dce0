/*
 * Files that outlive the entries they came from: what is kept where there are no links, and what
 * the limit says of it. Deaths and errors at every call are in test_crash, the limit beside other
 * processes in test_incoming_limit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "store_faults.h"
#include "store_kit.h"

#include "core/alloc.h"
#include "core/index.h"

enum { LARGE = 400000 };
static const char key[] = "the key";
static unsigned char value[LARGE], other[LARGE];

static enum cog_status spool(struct cog_store *store, const char *label)
{
    struct cog_object *object;
    enum cog_status status = cog_store_get(store, key, strlen(key), COG_GET_INDEX_ONLY, &object,
                                           NULL, NULL);
    REQUIRE(status == COG_OK);
    status = COG_ERR_BUSY;
    for (unsigned tries = 0; tries < 10 && status == COG_ERR_BUSY; tries++) {
        status = cog_store_spool_link(store, object, label, NULL);
    }
    cog_object_free(object);
    return status;
}

static void name_of(const char *label, char out[100])
{
    struct cog_digest digest;
    char hex[2 * COG_DIGEST_SIZE + 1];
    cog_hash128(key, strlen(key), &digest);
    cog_hex(digest.bytes, sizeof digest.bytes, hex);
    snprintf(out, 100, "%s-%s", hex, label);
}

static enum cog_status take_out(struct cog_store *store, const char *label)
{
    char name[100];
    enum cog_status status = COG_ERR_BUSY;
    name_of(label, name);
    for (unsigned tries = 0; tries < 10 && status == COG_ERR_BUSY; tries++) {
        status = cog_store_spool_remove(store, name, NULL);
    }
    return status;
}

/* Is a whole container of the key there, with the value given? */
static bool holds(const struct kit *kit, const char *label, const unsigned char *expected,
                  size_t size)
{
    static unsigned char image[2 * LARGE], got[LARGE];
    char name[100], below[120], path[400];
    name_of(label, name);
    snprintf(below, sizeof below, COG_SPOOL_DIRECTORY "/%s", name);
    kit_path(kit, below, path);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return false;
    }
    size_t length = fread(image, 1, sizeof image, file);
    fclose(file);
    struct cog_source source = cog_memory_source(image, length);
    struct cog_entry *entry = NULL;
    bool same = cog_entry_open(&source, key, strlen(key), 0, &entry, NULL) == COG_OK &&
                cog_entry_read(entry, &source, NULL, 0, 0, size, got, NULL) == COG_OK &&
                memcmp(got, expected, size) == 0;
    cog_entry_free(entry);
    return same;
}

static uint64_t used(struct cog_store *store)
{
    struct cog_store_stats kept, counted;
    uint64_t removed;
    cog_store_get_stats(store, &kept);
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    cog_store_get_stats(store, &counted);
    CHECK(counted.table_less || kept.used_bytes == counted.used_bytes);
    CHECK_EQ(counted.held_bytes, 0);
    return counted.used_bytes;
}

static void go_through(struct kit *kit, struct cog_store *store, size_t size)
{
    CHECK_EQ(kit_put(store, key, value, size), COG_OK);
    uint64_t before = used(store);
    CHECK_EQ(spool(store, "a"), COG_OK);
    CHECK_EQ(spool(store, "b"), COG_OK);
    CHECK(holds(kit, "a", value, size) && holds(kit, "b", value, size));
    uint64_t both = used(store);
    CHECK(kit->table_less || both >= before + 2 * size);
    CHECK_EQ(kit_put(store, key, other, size), COG_OK);
    CHECK(holds(kit, "a", value, size));
    CHECK(kit->table_less || used(store) >= both - 4096);
    CHECK_EQ(kit_delete(store, key), COG_OK);
    CHECK(holds(kit, "a", value, size) && holds(kit, "b", value, size));
    CHECK(kit->table_less || used(store) >= before + size);
    CHECK_EQ(take_out(store, "a"), COG_OK);
    CHECK(holds(kit, "b", value, size));
    CHECK_EQ(take_out(store, "b"), COG_OK);
    CHECK_EQ(take_out(store, "b"), COG_ABSENT);
    CHECK(used(store) <= before);
    CHECK_EQ(kit_count(kit, COG_SPOOL_DIRECTORY), 0);
    CHECK_EQ(kit_count(kit, "tmp"), 0);
}

static void test_generations_are_kept_and_counted(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    go_through(kit, store, 500);
    go_through(kit, store, LARGE);
    cog_store_close(store);
}

static int refused_link(int from_dir, const char *from, int to_dir, const char *to)
{
    (void)from_dir;
    (void)from;
    (void)to_dir;
    return strncmp(to, COG_SPOOL_DIRECTORY, strlen(COG_SPOOL_DIRECTORY)) == 0
               ? -EPERM
               : cog_fs_system()->link(from_dir, from, to_dir, to);
}

static void test_where_there_are_no_links_the_bytes_are_copied(struct kit *kit)
{
    struct cog_fs table = *kit->fs;
    table.link = refused_link;
    kit->fs = &table;
    struct cog_store *store = kit_open(kit, NULL);
    go_through(kit, store, 500);
    go_through(kit, store, LARGE);
    cog_store_close(store);
}

/* A directory of spooled files that is removed by hand costs what was in it, and no more. */
static void test_a_spool_that_was_removed_is_made_again(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    char path[400];
    CHECK_EQ(kit_put(store, key, value, LARGE), COG_OK);
    uint64_t before = used(store), removed;
    CHECK_EQ(spool(store, "a"), COG_OK);
    kit_path(kit, COG_SPOOL_DIRECTORY, path);
    kit_remove_tree(path);
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK); /* counts what is there */
    CHECK_EQ(used(store), before);
    CHECK_EQ(take_out(store, "a"), COG_ABSENT);
    CHECK_EQ(spool(store, "a"), COG_OK);
    CHECK(holds(kit, "a", value, LARGE));
    cog_store_close(store);
}

/* What others put there is charged to the shard its name says, if any, and never touched. */
static void test_strangers_in_the_spool_are_left_alone(struct kit *kit)
{
    static const char *const names[] = {"00-a-stranger", "README", "zz", "0"};
    struct cog_store *store = kit_open(kit, NULL);
    CHECK_EQ(kit_put(store, key, value, LARGE), COG_OK);
    CHECK_EQ(spool(store, "a"), COG_OK);
    for (unsigned i = 0; i < 4; i++) {
        char below[60], path[400];
        snprintf(below, sizeof below, COG_SPOOL_DIRECTORY "/%s", names[i]);
        kit_path(kit, below, path);
        FILE *file = fopen(path, "w");
        REQUIRE(file != NULL && fwrite(value, 1, 5000, file) == 5000 && fclose(file) == 0);
        CHECK_EQ(cog_store_spool_remove(store, names[i], NULL), COG_ERR_INVALID);
    }
    uint64_t removed;
    CHECK_EQ(kit_sweep(store, true, &removed), COG_OK);
    (void)used(store);
    CHECK_EQ(kit_count(kit, COG_SPOOL_DIRECTORY), 5);
    CHECK(holds(kit, "a", value, LARGE));
    CHECK(kit_has(store, key, value, LARGE));
    cog_store_close(store);
}

static void test_a_full_cache_refuses_the_spool_rather_than_pass_its_limit(struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = 17 << 20;
    struct cog_store *store = kit_open(kit, &options);
    unsigned kept = 0;
    enum cog_status status = COG_OK;
    for (unsigned i = 0; i < 200 && status == COG_OK; i++) {
        char label[16];
        snprintf(label, sizeof label, "%u", i);
        kit_fill(value, LARGE, 1, i);
        status = kit_put(store, key, value, LARGE);
        if (status == COG_OK) {
            status = spool(store, label);
            kept += status == COG_OK;
        }
        struct cog_store_stats stats;
        cog_store_get_stats(store, &stats);
        CHECK(stats.used_bytes + stats.held_bytes <= options.max_bytes);
        CHECK(kit_disk_bytes(kit) <= options.max_bytes);
    }
    /* absent: the entry itself was the last that could make room */
    CHECK(status == COG_ERR_FULL || status == COG_ERR_BUSY || status == COG_ABSENT);
    CHECK(kept > 20 && kept < 45); /* and not one less than there is room for */
    CHECK_EQ(kit_count(kit, COG_SPOOL_DIRECTORY), kept);
    cog_store_close(store);
}

int main(void)
{
    kit_fill(value, LARGE, 1, 1);
    kit_fill(other, LARGE, 1, 2);
    KIT_RUN(test_generations_are_kept_and_counted);
    KIT_RUN(test_where_there_are_no_links_the_bytes_are_copied);
    KIT_RUN_INDEXED(test_a_spool_that_was_removed_is_made_again);
    KIT_RUN_INDEXED(test_strangers_in_the_spool_are_left_alone);
    KIT_RUN_INDEXED(test_a_full_cache_refuses_the_spool_rather_than_pass_its_limit);
    return check_done();
}
