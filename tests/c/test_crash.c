/*
 * The store dies before and after every system call of every operation, and every call fails once
 * in every way.
 *
 * Judged from outside each time, by a handle that was open all along and by an index handle of its
 * own: values are the old or the new ones and whole; nothing acknowledged is lost; bytes counted
 * are never less than the truth, and equal to it after healing; no temp file is left once the dead
 * were reaped; no descriptor leaks.
 *
 * COG_CRASH_FULL=1 walks every call of the long operations and every mode; without it long ones are
 * walked in strides.
 */
#define _GNU_SOURCE 1

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/store_internal.h"

#include "check.h"
#include "crash_harness.h"
#include "index_kit.h"
#include "store_kit.h"

enum {
    SMALL = 5000,
    LARGE = 400000,
    GROWS = (1 << 20) + LARGE,       /* a stream of it has to reserve more on its way */
    LONG = COG_RUN_FROM + (2 << 20), /* written as a run while it is made */
    CHUNK = 256 << 10,
    RECORD = 100000, /* in the spool: more than a total has to spare */
    OTHERS = 6,
    MANY = 60
};
static const char key[] = "the key";
static const char other_tag[] = "a tag";

struct scene {
    struct kit kit;
    struct root root;         /* the same directory, for audits */
    struct cog_store *watch;  /* open all along, through the system's own calls */
    struct cog_store *acting; /* its calls die or fail */
    struct cog_store_options options;
    const struct cog_fs *calls;
    unsigned char *old_bytes, *new_bytes;
    size_t size, old_size;
    unsigned descriptors; /* open before the act */
    unsigned threads;     /* before the act */
    bool by_run;          /* a value was written from both ends while it was made */
    bool must_survive;    /* the value: whatever happened, it is still there */
    bool acted_alone;     /* act opens and closes a store of its own */
};

struct walk {
    const char *name;
    void (*prepare)(void *context);
    bool (*act)(void *context);
    const char *(*judge)(void *context, const struct crash_case *what, bool died, bool succeeded);
    size_t size;     /* of the value that is put */
    size_t old_size; /* of the one that is there */
};

/* --- the scene --- */

static unsigned names_in(const char *path)
{
    unsigned count = 0;
    DIR *dir = opendir(path);
    REQUIRE(dir != NULL);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

static unsigned open_descriptors(void)
{
    return names_in("/proc/self/fd");
}

static unsigned running_threads(void)
{
    return names_in("/proc/self/task");
}

static void other_key(unsigned i, char out[32])
{
    snprintf(out, 32, "other %u", i);
}

static int sync_nothing(int fd)
{
    (void)fd;
    return 0;
}

/* What a process leaves when it dies is there without waiting for the disk. */
static const struct cog_fs *without_waiting(const struct cog_fs *fs)
{
    static struct cog_fs table;
    table = *fs;
    table.sync = sync_nothing;
    table.sync_data = sync_nothing;
    return &table;
}

static void scene_open(struct scene *scene, const struct walk *walk, bool no_map, bool posix,
                       enum cog_durability durability)
{
    const size_t size = walk->size;
    const char *parent = getenv("TMPDIR");
    const size_t room = size > LARGE ? size : LARGE;
    *scene = (struct scene){.size = size, .old_size = walk->old_size};
    struct kit *kit = &scene->kit;
    char base[200];
    snprintf(base, sizeof base, "%s/cog-crash-XXXXXX", parent ? parent : "/tmp");
    REQUIRE(mkdtemp(base) != NULL);
    snprintf(kit->base, sizeof kit->base, "%s", base);
    snprintf(kit->root, sizeof kit->root, "%s/v1", base);
    kit->fs = without_waiting(posix ? cog_fs_posix() : cog_fs_system());
    kit->mode = "crash";
    kit->no_map = no_map;
    scene->calls = crash_table(kit->fs);
    scene->options = kit_options(kit);
    scene->options.max_bytes = UINT64_C(20) << 20;
    if (size > LARGE) { /* a value may take an eighth */
        scene->options.max_bytes += 8 * (uint64_t)size;
    }
    scene->options.durability = durability;
    scene->watch = kit_open(kit, &scene->options);
    struct cog_store_options acting = scene->options;
    acting.fs = scene->calls;
    scene->acting = kit_open(kit, &acting);
    snprintf(scene->root.path, sizeof scene->root.path, "%s", kit->root);
    scene->root.fd = open(kit->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scene->root.fs = kit->fs;
    scene->root.no_map = no_map;
    REQUIRE(scene->root.fd >= 0);
    scene->old_bytes = cog_alloc(room);
    scene->new_bytes = cog_alloc(room);
    REQUIRE(scene->old_bytes && scene->new_bytes);
    kit_fill(scene->old_bytes, room, 1, 1000);
    kit_fill(scene->new_bytes, room, 1, 2000);
    for (unsigned i = 0; i < OTHERS; i++) {
        char name[32];
        other_key(i, name);
        REQUIRE(kit_put(scene->watch, name, scene->old_bytes, SMALL) == COG_OK);
    }
}

static void scene_close(struct scene *scene)
{
    cog_store_close(scene->acting);
    cog_store_close(scene->watch);
    close(scene->root.fd);
    cog_free(scene->old_bytes);
    cog_free(scene->new_bytes);
    kit_remove_tree(scene->kit.base);
}

static struct cog_index *open_auditor(const struct scene *scene)
{
    struct cog_index_options options = root_options(&scene->root);
    options.limit = scene->watch->limit;
    options.fixed_bytes = scene->watch->fixed_bytes;
    return root_open(&scene->root, &options);
}

/* --- judging --- */

static const char *never_less(struct scene *scene, struct cog_index *index)
{
    static char text[200];
    struct truth truth;
    struct cog_sum sum;
    struct cog_index_file *file = cog_index_enter(index);
    if (file == NULL) {
        cog_index_leave(index);
        return "no index";
    }
    cog_index_sum(file, &sum);
    cog_index_leave(index);
    root_truth(&scene->root, &truth, false);
    if (sum.unknown == 0 && sum.held + sum.known < truth.moving) {
        snprintf(text, sizeof text, "held %llu + totals %llu, but %llu are on disk",
                 (unsigned long long)sum.held, (unsigned long long)sum.known,
                 (unsigned long long)truth.moving);
        return text;
    }
    return truth.all <= scene->watch->limit ? NULL : "over the limit";
}

static const char *accounting(struct scene *scene, const struct crash_case *what)
{
    struct cog_index *index = open_auditor(scene);
    const char *wrong = never_less(scene, index);
    if (wrong == NULL) { /* nor when the dead were reaped, but no shard is healed */
        cog_index_reap(index);
        wrong = never_less(scene, index);
    }
    if (wrong == NULL) {
        wrong = root_audit(&scene->root, index);
    }
    if (wrong != NULL && what->action == CRASH_FAIL && strcmp(crash_call_name(), "unlink") == 0) {
        /* a temp file that cannot be unlinked stays, and stays counted, as long as its process
         * lives */
        struct cog_store_options acting = scene->options;
        acting.fs = scene->calls;
        cog_store_close(scene->acting);
        wrong = root_audit(&scene->root, index);
        scene->acting = kit_open(&scene->kit, &acting);
        scene->descriptors = 0;
    }
    cog_index_close(index);
    return wrong;
}

/* A disk that says it is full makes a put evict, and then anything may go, but never be wrong. */
static bool may_be_evicted(const struct crash_case *what)
{
    return what->action == CRASH_FAIL && what->error == ENOSPC;
}

static const char *others(struct scene *scene, const struct crash_case *what)
{
    for (unsigned i = 0; i < OTHERS; i++) {
        char name[32];
        other_key(i, name);
        if (!kit_has(scene->watch, name, scene->old_bytes, SMALL) &&
            !(may_be_evicted(what) && kit_miss(scene->watch, name) == COG_MISS_ABSENT)) {
            return "another entry is lost or wrong";
        }
    }
    return NULL;
}

/* One that was joined may be listed for a moment longer. */
static bool a_thread_is_left(const struct scene *scene)
{
    for (unsigned looks = 0; running_threads() > scene->threads; looks++) {
        if (looks == 100000) {
            return true;
        }
        sched_yield();
    }
    return false;
}

static const char *judge_all_but_value(struct scene *scene, const struct crash_case *what,
                                       bool died)
{
    if (!died && scene->descriptors && open_descriptors() != scene->descriptors) {
        return "a descriptor leaked";
    }
    if (!died && a_thread_is_left(scene)) {
        return "a thread was left behind";
    }
    const char *wrong = accounting(scene, what);
    return wrong != NULL ? wrong : others(scene, what);
}

enum seen { SEEN_NOTHING, SEEN_OLD, SEEN_NEW, SEEN_WRONG };

static enum seen look(struct scene *scene)
{
    size_t size;
    enum cog_miss miss;
    unsigned char *got = kit_get(scene->watch, key, COG_GET_ANY_AGE, &size, &miss);
    enum seen seen = SEEN_NOTHING;
    if (got != NULL) {
        bool is_old = size == scene->old_size && memcmp(got, scene->old_bytes, size) == 0;
        bool is_new = size == scene->size && memcmp(got, scene->new_bytes, size) == 0;
        seen = is_old ? SEEN_OLD : is_new ? SEEN_NEW : SEEN_WRONG;
    }
    cog_free(got);
    return seen;
}

static void ready(struct scene *scene)
{
    for (unsigned i = 0; i < OTHERS; i++) { /* what a full disk has cost in the run before */
        char name[32];
        other_key(i, name);
        if (kit_miss(scene->watch, name) != COG_MISS_NONE) {
            REQUIRE(kit_put(scene->watch, name, scene->old_bytes, SMALL) == COG_OK);
        }
    }
    scene->descriptors = open_descriptors();
    scene->threads = running_threads();
}

/* --- put, overwrite --- */

static void prepare_absent(void *context)
{
    struct scene *scene = context;
    enum cog_status status = kit_delete(scene->watch, key);
    REQUIRE(status == COG_OK || status == COG_ABSENT);
    ready(scene);
}

static void prepare_present(void *context)
{
    struct scene *scene = context;
    REQUIRE(kit_put(scene->watch, key, scene->old_bytes, scene->old_size) == COG_OK);
    ready(scene);
}

static bool act_put(void *context)
{
    struct scene *scene = context;
    return kit_put(scene->acting, key, scene->new_bytes, scene->size) == COG_OK;
}

static const char *judge_put(void *context, const struct crash_case *what, bool died,
                             bool succeeded)
{
    struct scene *scene = context;
    const char *wrong = judge_all_but_value(scene, what, died);
    enum seen seen = look(scene);
    if (wrong != NULL) {
        return wrong;
    }
    if (seen == SEEN_WRONG || seen == SEEN_OLD) {
        return "a value that nobody put";
    }
    if (succeeded && seen != SEEN_NEW) {
        return "acknowledged, but not there";
    }
    return !died && !succeeded && seen == SEEN_NEW &&
                   scene->options.durability != COG_DURABILITY_FULL
               ? "refused, but there"
               : NULL;
}

static const char *judge_overwrite(void *context, const struct crash_case *what, bool died,
                                   bool succeeded)
{
    struct scene *scene = context;
    const char *wrong = judge_all_but_value(scene, what, died);
    enum seen seen = look(scene);
    if (wrong != NULL) {
        return wrong;
    }
    if (seen == SEEN_WRONG || (seen == SEEN_NOTHING && !may_be_evicted(what))) {
        return "neither the old value nor the new one";
    }
    if (succeeded && seen != SEEN_NEW) {
        return "acknowledged, but the old one is there";
    }
    return !died && !succeeded && seen == SEEN_NEW &&
                   scene->options.durability != COG_DURABILITY_FULL
               ? "refused, but there"
               : NULL;
}

/* --- made while it is written --- */

struct watched { /* a value being made, and its sink */
    struct scene *scene;
    struct kit_made made;
    struct cog_sink sink;
};

static enum cog_status watched_write(void *context, const void *data, size_t size, bool stable,
                                     struct cog_error *err)
{
    struct watched *watched = context;
    return watched->sink.write(watched->sink.context, data, size, stable, err);
}

static enum cog_status watched_write_run(void *context, const struct cog_run *run,
                                         unsigned char *sums, struct cog_error *err)
{
    struct watched *watched = context;
    watched->scene->by_run = true;
    return watched->sink.write_run(watched->sink.context, run, sums, err);
}

static enum cog_status make_watched(void *context, struct cog_sink sink, struct cog_error *err)
{
    struct watched *watched = context;
    watched->sink = sink;
    struct cog_sink watching = {watched, watched_write, watched_write_run};
    return kit_make(&watched->made, watching, err);
}

static bool act_put_made(void *context)
{
    struct scene *scene = context;
    struct watched watched = {.scene = scene,
                              .made = {.key = key,
                                       .value = {.data = scene->new_bytes,
                                                 .size = scene->size,
                                                 .token = 1,
                                                 .chunk_size = CHUNK,
                                                 .refreshed_ms = cog_store_now_ms(scene->acting)}}};
    struct cog_maker maker = {&watched, make_watched, kit_most(scene->size)};
    return kit_put_by(scene->acting, key, &maker) == COG_OK;
}

/* --- stream --- */

static bool act_stream(void *context)
{
    struct scene *scene = context;
    struct cog_incoming *stream;
    struct cog_entry_writer *writer = NULL;
    struct cog_freshness fresh = {.refreshed_ms = cog_store_now_ms(scene->acting),
                                  .ttl_ms = COG_NEVER};
    uint32_t number;
    uint64_t length;
    static const struct cog_put_info info;
    enum cog_status status = cog_store_incoming(scene->acting, key, strlen(key), COG_LENGTH_UNKNOWN,
                                                &stream, NULL);
    if (status != COG_OK) {
        return false;
    }
    status = cog_entry_writer_new(key, strlen(key), 0, cog_incoming_sink(stream), &writer, NULL);
    if (status == COG_OK) {
        status = cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, NULL, scene->new_bytes,
                                    scene->size, true, &number, NULL);
    }
    if (status == COG_OK) {
        status = cog_entry_finish(writer, NULL, 0, &fresh, &length, NULL);
    }
    cog_entry_writer_free(writer);
    if (status == COG_OK) {
        status = cog_incoming_commit(stream, true, &info, NULL);
    }
    cog_incoming_free(stream);
    return status == COG_OK;
}

/* --- incoming --- */

/* The container of the new bytes, as another tier would send it. */
static unsigned char *container_of_new(const struct scene *scene, size_t *length)
{
    struct cog_image image = {0};
    struct cog_entry_writer *writer;
    REQUIRE(cog_entry_writer_new(key, strlen(key), 0, cog_image_sink(&image), &writer, NULL) ==
            COG_OK);
    REQUIRE(cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, NULL, scene->new_bytes, scene->size,
                               true, NULL, NULL) == COG_OK);
    REQUIRE(cog_entry_finish(writer, NULL, 0, NULL, NULL, NULL) == COG_OK);
    REQUIRE(cog_image_seal(&image) == COG_OK);
    cog_entry_writer_free(writer);
    unsigned char *bytes = cog_alloc((size_t)image.length);
    REQUIRE(bytes && cog_image_copy(&image, bytes) == COG_OK);
    *length = (size_t)image.length;
    cog_image_release(&image);
    return bytes;
}

/* The end first, as a reader asks for it, then the rest; a piece that fails is sent once more. */
static enum cog_status receive(struct scene *scene, struct cog_incoming **incoming)
{
    size_t length;
    unsigned char *bytes = container_of_new(scene, &length);
    const size_t starts[] = {length - 1000, 0, length / 2, length};
    const size_t stops[] = {length, length / 2, length - 1000};
    enum cog_status status = cog_store_incoming(scene->acting, key, strlen(key), length, incoming,
                                                NULL);
    for (unsigned i = 0; i < 3 && status == COG_OK; i++) {
        size_t size = stops[i] - starts[i];
        status = cog_incoming_write(*incoming, starts[i], bytes + starts[i], size, NULL);
        if (status != COG_OK) {
            status = cog_incoming_write(*incoming, starts[i], bytes + starts[i], size, NULL);
        }
    }
    cog_free(bytes);
    return status;
}

static bool act_incoming(void *context)
{
    struct cog_incoming *incoming = NULL;
    enum cog_status status = receive(context, &incoming);
    if (status == COG_OK) {
        status = cog_incoming_commit(incoming, false, NULL, NULL);
    }
    cog_incoming_free(incoming);
    return status == COG_OK;
}

static bool act_incoming_aborted(void *context)
{
    struct cog_incoming *incoming = NULL;
    enum cog_status status = receive(context, &incoming);
    cog_incoming_free(incoming);
    return status == COG_OK;
}

/* --- delete, refresh, get --- */

static bool act_delete(void *context)
{
    struct scene *scene = context;
    return kit_delete(scene->acting, key) == COG_OK;
}

static const char *judge_delete(void *context, const struct crash_case *what, bool died,
                                bool succeeded)
{
    struct scene *scene = context;
    const char *wrong = judge_all_but_value(scene, what, died);
    enum seen seen = look(scene);
    if (wrong != NULL) {
        return wrong;
    }
    if (seen == SEEN_WRONG || seen == SEEN_NEW) {
        return "a value that nobody put";
    }
    if (succeeded && seen != SEEN_NOTHING) {
        return "deleted, but there";
    }
    return !died && !succeeded && seen == SEEN_NOTHING && !may_be_evicted(what)
               ? "refused, but gone"
               : NULL;
}

static void prepare_mortal(void *context)
{
    struct scene *scene = context;
    struct kit_value value = {.data = scene->old_bytes, .size = scene->old_size, .ttl_ms = 100000};
    REQUIRE(kit_put_value(scene->watch, key, &value) == COG_OK);
    ready(scene);
}

static bool act_refresh(void *context)
{
    struct scene *scene = context;
    return cog_store_refresh(scene->acting, key, strlen(key), 500000, NULL) == COG_OK;
}

static bool act_get(void *context)
{
    struct scene *scene = context;
    size_t size;
    enum cog_miss miss;
    unsigned char *got = kit_get(scene->acting, key, 0, &size, &miss);
    bool right = got != NULL && size == scene->old_size && memcmp(got, scene->old_bytes, size) == 0;
    CHECK(got == NULL || right); /* a hit is the value, whatever the system does */
    cog_free(got);
    return right;
}

static const char *judge_kept(void *context, const struct crash_case *what, bool died,
                              bool succeeded)
{
    struct scene *scene = context;
    (void)succeeded;
    const char *wrong = judge_all_but_value(scene, what, died);
    if (wrong != NULL) {
        return wrong;
    }
    if (may_be_evicted(what) && look(scene) == SEEN_NOTHING) {
        return NULL;
    }
    if (look(scene) != SEEN_OLD || kit_miss(scene->watch, key) != COG_MISS_NONE) {
        return "the value is gone";
    }
    return NULL;
}

/* --- damage --- */

static void prepare_damaged(void *context)
{
    struct scene *scene = context;
    char path[400];
    REQUIRE(kit_put(scene->watch, key, scene->old_bytes, scene->old_size) == COG_OK);
    kit_object(&scene->kit, key, path);
    kit_flip(path, 200, 0x10);
    ready(scene);
}

static bool act_get_damaged(void *context)
{
    struct scene *scene = context;
    return kit_miss(scene->acting, key) != COG_MISS_NONE;
}

static const char *judge_damaged(void *context, const struct crash_case *what, bool died,
                                 bool succeeded)
{
    struct scene *scene = context;
    if (!died && !succeeded) {
        return "damage was handed out";
    }
    const char *wrong = judge_all_but_value(scene, what, died);
    return wrong != NULL ? wrong : look(scene) == SEEN_NOTHING ? NULL : "damage was handed out";
}

/* --- eviction --- */

static void many_key(unsigned i, char out[32])
{
    snprintf(out, 32, "many %u", i);
}

static void prepare_full(void *context)
{
    struct scene *scene = context;
    struct cog_store_stats stats;
    static unsigned next;
    for (unsigned i = 0; i < OTHERS; i++) { /* used last, so that they stay */
        char name[32];
        other_key(i, name);
        REQUIRE(kit_put(scene->watch, name, scene->old_bytes, SMALL) == COG_OK);
    }
    prepare_absent(scene);
    for (unsigned i = 0; i < MANY; i++) {
        char name[32];
        cog_store_get_stats(scene->watch, &stats);
        if (stats.used_bytes + LARGE + (UINT64_C(3) << 20) / 2 > scene->watch->limit) {
            break;
        }
        many_key(next++ % MANY, name);
        REQUIRE(kit_put(scene->watch, name, scene->old_bytes, LARGE) == COG_OK);
    }
    for (unsigned i = 0; i < OTHERS; i++) {
        char name[32];
        other_key(i, name);
        REQUIRE(kit_miss(scene->watch, name) == COG_MISS_NONE);
    }
    ready(scene);
}

static const char *judge_evicting_put(void *context, const struct crash_case *what, bool died,
                                      bool succeeded)
{
    struct scene *scene = context;
    for (unsigned i = 0; i < MANY; i++) {
        char name[32];
        size_t size;
        enum cog_miss miss;
        many_key(i, name);
        unsigned char *got = kit_get(scene->watch, name, 0, &size, &miss);
        bool wrong = got != NULL ? size != LARGE || memcmp(got, scene->old_bytes, size) != 0
                                 : miss != COG_MISS_ABSENT;
        cog_free(got);
        if (wrong) {
            return "an entry beside it is wrong";
        }
    }
    return judge_put(context, what, died, succeeded);
}

/* --- tags, sweep, opening --- */

static void prepare_tagged(void *context)
{
    struct scene *scene = context;
    struct kit_value value = {.data = scene->old_bytes,
                              .size = scene->old_size,
                              .tag = {.name = other_tag}};
    REQUIRE(cog_store_tag_version(scene->watch, other_tag, strlen(other_tag), &value.tag.version,
                                  NULL) == COG_OK);
    uint64_t now = cog_store_now_ms(scene->watch) * 1000;
    value.tag.version = now > value.tag.version ? now : value.tag.version;
    REQUIRE(kit_put_value(scene->watch, key, &value) == COG_OK);
    REQUIRE(kit_miss(scene->watch, key) == COG_MISS_NONE);
    ready(scene);
}

static bool act_invalidate(void *context)
{
    struct scene *scene = context;
    struct cog_tag_name name = {other_tag, strlen(other_tag)};
    return cog_store_invalidate_tags(scene->acting, &name, 1, 0, NULL) == COG_OK;
}

static const char *judge_invalidated(void *context, const struct crash_case *what, bool died,
                                     bool succeeded)
{
    struct scene *scene = context;
    enum cog_miss miss = kit_miss(scene->watch, key);
    if (succeeded && miss == COG_MISS_NONE) {
        return "invalidated, but handed out";
    }
    return judge_all_but_value(scene, what, died);
}

static bool act_sweep(void *context)
{
    struct scene *scene = context;
    uint64_t removed;
    return cog_store_sweep(scene->acting, true, &removed, NULL) == COG_OK;
}

static void prepare_no_index(void *context)
{
    struct scene *scene = context;
    char path[400];
    prepare_present(context);
    kit_path(&scene->kit, "index", path);
    REQUIRE(unlink(path) == 0);
}

static bool act_open_and_put(void *context)
{
    struct scene *scene = context;
    struct cog_store_options options = scene->options;
    struct cog_store *store;
    options.fs = scene->calls;
    if (cog_store_open(scene->kit.base, &options, &store, NULL) != COG_OK) {
        return false;
    }
    bool done = kit_put(store, key, scene->new_bytes, scene->size) == COG_OK;
    cog_store_close(store);
    return done;
}

/* --- spool --- */

static void spool_name(const char *label, char out[100])
{
    struct cog_digest digest;
    char hex[2 * COG_DIGEST_SIZE + 1];
    cog_hash128(key, strlen(key), &digest);
    cog_hex(digest.bytes, sizeof digest.bytes, hex);
    snprintf(out, 100, "%s-%s", hex, label);
}

static void prepare_spool(void *context)
{
    struct scene *scene = context;
    char name[100];
    static const char *const labels[] = {"link", "record"};
    for (unsigned i = 0; i < 2; i++) {
        enum cog_status status = COG_ERR_BUSY;
        spool_name(labels[i], name);
        for (unsigned tries = 0; tries < 10 && status == COG_ERR_BUSY; tries++) {
            status = cog_store_spool_remove(scene->watch, name, NULL);
        }
        REQUIRE(status == COG_OK || status == COG_ABSENT);
    }
    prepare_present(context);
}

static enum cog_status link_in(struct cog_store *store)
{
    struct cog_object *object;
    unsigned flags = COG_GET_INDEX_ONLY | COG_GET_NO_TOUCH;
    enum cog_status status = cog_store_get(store, key, strlen(key), flags, &object, NULL, NULL);
    if (status == COG_OK) {
        status = cog_store_spool_link(store, object, "link", NULL);
        cog_object_free(object);
    }
    return status;
}

static enum cog_status record_in(struct cog_store *store, const unsigned char *record)
{
    struct cog_digest digest;
    cog_hash128(key, strlen(key), &digest);
    return cog_store_spool_write(store, &digest, "record", record, RECORD, NULL);
}

static bool act_spool_link(void *context)
{
    return link_in(((struct scene *)context)->acting) == COG_OK;
}

static bool act_spool_write(void *context)
{
    struct scene *scene = context;
    return record_in(scene->acting, scene->new_bytes) == COG_OK;
}

static void prepare_record(void *context)
{
    struct scene *scene = context;
    prepare_spool(context);
    REQUIRE(record_in(scene->watch, scene->old_bytes) == COG_OK);
    ready(context);
}

static void prepare_linked(void *context)
{
    prepare_spool(context);
    REQUIRE(link_in(((struct scene *)context)->watch) == COG_OK);
    ready(context);
}

static bool act_spool_remove(void *context)
{
    char name[100];
    spool_name("link", name);
    return cog_store_spool_remove(((struct scene *)context)->acting, name, NULL) == COG_OK;
}

static size_t read_spooled(const struct scene *scene, const char *label, char *out, size_t most)
{
    char name[100], path[400], below[120];
    spool_name(label, name);
    snprintf(below, sizeof below, COG_SPOOL_DIRECTORY "/%s", name);
    kit_path(&scene->kit, below, path);
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return 0;
    }
    size_t size = fread(out, 1, most, file);
    fclose(file);
    return size;
}

static const char *judge_link(void *context, const struct crash_case *what, bool died,
                              bool succeeded)
{
    struct scene *scene = context;
    static char got[2 * LARGE];
    const char *wrong = judge_kept(context, what, died, succeeded);
    if (wrong != NULL) {
        return wrong;
    }
    size_t size = read_spooled(scene, "link", got, sizeof got);
    if (size == 0) {
        return succeeded ? "acknowledged, but not in the spool" : NULL;
    }
    struct cog_source source = cog_memory_source(got, size);
    struct cog_entry *entry = NULL;
    bool whole = cog_entry_open(&source, key, strlen(key), 0, &entry, NULL) == COG_OK &&
                 cog_entry_verify(entry, &source, NULL) == COG_OK;
    cog_entry_free(entry);
    return whole ? NULL : "what is in the spool is not whole";
}

static enum seen look_at_record(const struct scene *scene)
{
    static char got[RECORD + 1];
    size_t size = read_spooled(scene, "record", got, sizeof got);
    return size == 0                                                      ? SEEN_NOTHING
           : size == RECORD && memcmp(got, scene->new_bytes, RECORD) == 0 ? SEEN_NEW
           : size == RECORD && memcmp(got, scene->old_bytes, RECORD) == 0 ? SEEN_OLD
                                                                          : SEEN_WRONG;
}

static const char *judge_record(void *context, const struct crash_case *what, bool died,
                                bool succeeded)
{
    const char *wrong = judge_kept(context, what, died, succeeded);
    if (wrong != NULL) {
        return wrong;
    }
    enum seen seen = look_at_record(context);
    return seen == SEEN_NEW || (seen == SEEN_OLD && !succeeded)
               ? NULL
               : "neither the old record nor the new one";
}

static const char *judge_first_record(void *context, const struct crash_case *what, bool died,
                                      bool succeeded)
{
    const char *wrong = judge_kept(context, what, died, succeeded);
    if (wrong != NULL) {
        return wrong;
    }
    enum seen seen = look_at_record(context);
    return seen == SEEN_NEW || (seen == SEEN_NOTHING && !succeeded)
               ? NULL
               : "acknowledged, but not in the spool";
}

static const char *judge_unlinked(void *context, const struct crash_case *what, bool died,
                                  bool succeeded)
{
    char got[10];
    const char *wrong = judge_link(context, what, died, false);
    if (wrong != NULL) {
        return wrong;
    }
    return succeeded && read_spooled(context, "link", got, sizeof got) != 0
               ? "removed, but still in the spool"
               : NULL;
}

/* --- walks --- */

static const int errors[] = {EIO, ENOSPC, EMFILE, EACCES, EINTR, 0 /* half a read or write */};

static const struct walk walks[] = {
    {"put", prepare_absent, act_put, judge_put, SMALL, SMALL},
    {"put of a large value", prepare_absent, act_put, judge_put, LARGE, LARGE},
    {"overwrite", prepare_present, act_put, judge_overwrite, SMALL, SMALL},
    {"put made meanwhile", prepare_present, act_put_made, judge_overwrite, LONG, SMALL},
    {"stream", prepare_present, act_stream, judge_overwrite, GROWS, SMALL},
    {"incoming", prepare_present, act_incoming, judge_overwrite, LARGE, SMALL},
    {"incoming, aborted", prepare_present, act_incoming_aborted, judge_kept, LARGE, SMALL},
    {"delete", prepare_present, act_delete, judge_delete, SMALL, SMALL},
    {"evict", prepare_full, act_put, judge_evicting_put, LARGE, LARGE},
    {"spool a link", prepare_spool, act_spool_link, judge_link, LARGE, LARGE},
    {"spool a record", prepare_spool, act_spool_write, judge_first_record, SMALL, SMALL},
    {"replace a record in the spool", prepare_record, act_spool_write, judge_record, SMALL, SMALL},
    {"remove from the spool", prepare_linked, act_spool_remove, judge_unlinked, LARGE, LARGE},
    {"refresh", prepare_mortal, act_refresh, judge_kept, SMALL, SMALL},
    {"get", prepare_present, act_get, judge_kept, SMALL, SMALL},
    {"get of a large value", prepare_present, act_get, judge_kept, LARGE, LARGE},
    {"get of a damaged value", prepare_damaged, act_get_damaged, judge_damaged, SMALL, SMALL},
    {"invalidate a tag", prepare_tagged, act_invalidate, judge_invalidated, SMALL, SMALL},
    {"sweep", prepare_present, act_sweep, judge_kept, SMALL, SMALL},
    {"open without an index, put", prepare_no_index, act_open_and_put, judge_overwrite, SMALL,
     SMALL},
};

static void walk_one(const struct walk *walk, bool no_map, bool posix,
                     enum cog_durability durability)
{
    static char label[100];
    struct crash_tally tally = {0};
    struct scene scene;
    snprintf(label, sizeof label, "%s%s%s", walk->name, no_map ? ", by pread" : "",
             posix ? ", plain POSIX" : "");
    check_running = label;
    scene_open(&scene, walk, no_map, posix, durability);
    struct crash_operation operation = {.name = label,
                                        .context = &scene,
                                        .prepare = walk->prepare,
                                        .act = walk->act,
                                        .judge = walk->judge};
    crash_walk_deaths(&operation, &tally);
    crash_walk_errors(&operation, errors, sizeof errors / sizeof *errors, &tally);
    CHECK_EQ(scene.by_run, walk->act == act_put_made);
    scene_close(&scene);
    if (getenv("COG_CRASH_VERBOSE")) {
        printf("%s: %llu calls, %llu runs\n", label, (unsigned long long)tally.calls,
               (unsigned long long)tally.runs);
        fflush(stdout);
    }
}

static void walk_all(bool no_map, bool posix, enum cog_durability durability, bool only_small)
{
    for (unsigned i = 0; i < sizeof walks / sizeof *walks; i++) {
        if (!only_small || walks[i].act == act_put || walks[i].act == act_delete) {
            walk_one(&walks[i], no_map, posix, durability);
        }
    }
}

/* --- walks that must fail --- */

static const struct seeded {
    const char *bug, *walk;
    bool by_errors; /* that are met, and not by deaths */
} seeded[] = {
    {"NO_STAMP", "delete", false}, /* what adds is found by its raised total as well */
    {"TOTAL_LATE", "put", false},
    {"TOTAL_LATE", "put made meanwhile", false},
    {"TOTAL_LATE", "stream", false},
    {"TOTAL_LATE", "incoming", false},
    {"GROW_UNCOUNTED", "stream", false},
    {"FINISH_UNCHECKED", "put made meanwhile", true},
    {"FAILED_KEPT", "incoming", true},
    {"SPOOL_UNCOUNTED", "spool a link", false},
    {"SPOOL_UNCOUNTED", "spool a record", false},
    {"SPOOL_GONE_EARLY", "remove from the spool", false},
};
enum { CAUGHT = 3 };

static const struct walk *walk_named(const char *name)
{
    unsigned i = 0;
    while (i < sizeof walks / sizeof *walks && strcmp(walks[i].name, name) != 0) {
        i++;
    }
    REQUIRE(i < sizeof walks / sizeof *walks);
    return &walks[i];
}

static const struct walk *must_fail;

/* What the judge finds wrong ends the twin; wrong without a death or an error is not the walk's
 * doing, and does not count. */
static const char *judge_twin(void *context, const struct crash_case *what, bool died,
                              bool succeeded)
{
    struct scene *scene = context;
    const char *wrong = must_fail->judge(context, what, died, succeeded);
    if (wrong != NULL) {
        kit_remove_tree(scene->kit.base);
        _exit(what->action == CRASH_NONE ? 2 : CAUGHT);
    }
    return NULL;
}

static int run_twin(const char *name, bool by_errors)
{
    struct scene scene;
    struct crash_tally tally = {0};
    must_fail = walk_named(name);
    scene_open(&scene, must_fail, false, false, COG_DURABILITY_NONE);
    struct crash_operation operation = {.name = name,
                                        .context = &scene,
                                        .prepare = must_fail->prepare,
                                        .act = must_fail->act,
                                        .judge = judge_twin};
    if (by_errors) {
        crash_walk_errors(&operation, errors, sizeof errors / sizeof *errors, &tally);
    } else {
        crash_walk_deaths(&operation, &tally);
    }
    scene_close(&scene);
    return 0;
}

/* A twin of this program with a bug built into the core: the walk must find it. */
static void expect_caught(const char *self, const struct seeded *what)
{
    char twin[600];
    int status;
    snprintf(twin, sizeof twin, "%s.%s", self, what->bug);
    check_running = what->bug;
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, STDOUT_FILENO);
        dup2(nowhere, STDERR_FILENO);
        execl(twin, twin, what->walk, what->by_errors ? "errors" : "deaths", (char *)NULL);
        _exit(127);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    if (!CHECK(WIFEXITED(status) && WEXITSTATUS(status) == CAUGHT)) {
        fprintf(stderr, "    not found by the walk '%s': status %x\n", what->walk,
                (unsigned)status);
    }
}

static void *end_at_once(void *nothing)
{
    return nothing;
}

/* A sanitizer starts a thread of its own beside the first one, and keeps it: not to be counted. */
static void have_had_a_thread(void)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, end_at_once, NULL) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
}

int main(int count, char **arguments)
{
    bool full = getenv("COG_CRASH_FULL") != NULL;
    have_had_a_thread();
    if (count > 2) {
        return run_twin(arguments[1], strcmp(arguments[2], "errors") == 0);
    }
    for (unsigned i = 0; i < sizeof seeded / sizeof *seeded; i++) {
        expect_caught(arguments[0], &seeded[i]);
    }
    walk_all(false, false, COG_DURABILITY_NONE, false);
    walk_all(true, true, COG_DURABILITY_NONE, !full);
    if (full) {
        walk_all(false, true, COG_DURABILITY_NONE, false);
        walk_all(true, false, COG_DURABILITY_NONE, false);
        walk_all(false, false, COG_DURABILITY_FULL, false);
    }
    return check_done();
}
