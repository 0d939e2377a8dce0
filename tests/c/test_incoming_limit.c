/*
 * The proof of the hard limit for containers that arrive in pieces: processes whose threads write
 * them, commit them, abort them, or just die, beside puts, deletes and links in the spool, in one
 * small root.
 *
 * As in test_limit: at every sample all of them are stopped, so that a walk over the directories is
 * the truth of one instant. What is on disk never passes the limit, what is counted is never less,
 * and when all are dead and reaped both are equal and nothing is left in tmp/.
 *
 * Its twin beside it, built with a seeded bug, must be caught.
 */
#define _GNU_SOURCE 1

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/store_internal.h"

#include "check.h"
#include "index_kit.h"
#include "store_kit.h"
#include "workers_kit.h"

enum { WORKERS = 4, HANDS = 2, KEYS = 200 };
static const uint64_t limit = UINT64_C(40) << 20;

struct counters { /* in memory shared with the workers */
    _Atomic uint64_t steps, spooled, committed, aborted, puts, refused, damaged, failures;
};
static struct counters *counters;

struct proof {
    struct kit kit;
    struct root root; /* the same directory */
    struct cog_store *watch;
    struct cog_index *index;
    bool until_caught; /* a twin: stop at the first violation */
    struct workers workers;
    uint64_t samples, over, under, most;
};

static struct cog_store_options proof_options(const struct kit *kit)
{
    struct cog_store_options options = kit_options(kit);
    options.max_bytes = limit;
    return options;
}

/* --- a worker ------------------------------------------------------------------------------ */

struct task {
    struct cog_store *store;
    const char *root;
    uint64_t seed;
    char label[16];    /* of the one link that this hand keeps in the spool */
    char spooled[100]; /* its name */
};

static size_t random_size(uint64_t *seed)
{
    uint64_t kind = workers_random(seed) % 8, random = workers_random(seed);
    return kind < 3   ? 200 + (size_t)(random % 30000)
           : kind < 6 ? (size_t)(random % 600000)
                      : (size_t)(random % (limit / 16));
}

static unsigned char *compose(const char *key, const unsigned char *value, size_t size,
                              size_t *length)
{
    struct cog_image image = {0};
    struct cog_entry_writer *writer = NULL;
    unsigned char *out = NULL;
    struct cog_part_options stored = {0};
    if (cog_entry_writer_new(key, strlen(key), 0, cog_image_sink(&image), &writer, NULL) ==
            COG_OK &&
        cog_entry_part_put(writer, COG_PART_BLOB, "0", 1, &stored, value, size, true, NULL, NULL) ==
            COG_OK &&
        cog_entry_finish(writer, NULL, 0, NULL, NULL, NULL) == COG_OK &&
        cog_image_seal(&image) == COG_OK && (out = cog_alloc((size_t)image.length)) != NULL) {
        *length = (size_t)image.length;
        (void)cog_image_copy(&image, out);
    }
    cog_entry_writer_free(writer);
    cog_image_release(&image);
    return out;
}

static bool refused(enum cog_status status)
{
    return status == COG_ERR_BUSY || status == COG_ERR_FULL;
}

/* Pieces from both ends, so that an unknown length is guessed too large at once. */
static enum cog_status write_pieces(struct cog_incoming *incoming, const unsigned char *image,
                                    size_t length, uint64_t *seed)
{
    size_t front = 0, back = length;
    enum cog_status status = COG_OK;
    while (front < back && status == COG_OK) {
        size_t piece = 1 + (size_t)(workers_random(seed) % 300000);
        piece = piece < back - front ? piece : back - front;
        if (workers_random(seed) % 2) {
            status = cog_incoming_write(incoming, front, image + front, piece, NULL);
            front += piece;
        } else {
            back -= piece;
            status = cog_incoming_write(incoming, back, image + back, piece, NULL);
        }
        atomic_fetch_add(&counters->steps, 1);
    }
    return status;
}

static void bring_one(const struct task *task, uint64_t *seed, const char *key,
                      const unsigned char *image, size_t length)
{
    struct cog_incoming *incoming;
    uint64_t announced = workers_random(seed) % 2 ? length : COG_LENGTH_UNKNOWN;
    enum cog_status status = cog_store_incoming(task->store, key, strlen(key), announced, &incoming,
                                                NULL);
    if (status == COG_OK) {
        status = write_pieces(incoming, image, length, seed);
        if (status == COG_OK && workers_random(seed) % 4 == 0) {
            atomic_fetch_add(&counters->aborted, 1);
        } else if (status == COG_OK) {
            status = cog_incoming_commit(incoming, workers_random(seed) % 2, NULL, NULL);
            atomic_fetch_add(&counters->committed, status == COG_OK);
            atomic_fetch_add(&counters->damaged, status == COG_ERR_DAMAGED);
        }
        cog_incoming_free(incoming);
    }
    atomic_fetch_add(&counters->refused, refused(status));
    atomic_fetch_add(&counters->failures, status != COG_OK && !refused(status));
}

/* What hands of this label that were killed have left there; as the next process would. */
static void clean_spool(const struct task *task)
{
    char path[400];
    snprintf(path, sizeof path, "%s/" COG_SPOOL_DIRECTORY, task->root);
    DIR *names = opendir(path);
    for (const struct dirent *one; names != NULL && (one = readdir(names)) != NULL;) {
        const char *label = strchr(one->d_name, '-');
        if (label != NULL && strcmp(label + 1, task->label) == 0) {
            (void)cog_store_spool_remove(task->store, one->d_name, NULL);
        }
    }
    if (names != NULL) {
        closedir(names);
    }
}

/* Let go of the old link, and keep this generation instead, even when its entry goes. */
static void keep_one(struct task *task, const char *key)
{
    struct cog_object *object;
    unsigned flags = COG_GET_INDEX_ONLY | COG_GET_NO_TOUCH;
    char hex[2 * COG_DIGEST_SIZE + 1];
    struct cog_digest digest;
    enum cog_status status = COG_OK;
    if (task->spooled[0] != '\0') {
        status = cog_store_spool_remove(task->store, task->spooled, NULL);
        atomic_fetch_add(&counters->failures, status != COG_OK && !refused(status));
        task->spooled[0] = status == COG_OK ? '\0' : task->spooled[0];
    }
    if (status != COG_OK ||
        cog_store_get(task->store, key, strlen(key), flags, &object, NULL, NULL) != COG_OK) {
        return;
    }
    cog_hash128(key, strlen(key), &digest);
    cog_hex(digest.bytes, sizeof digest.bytes, hex);
    snprintf(task->spooled, sizeof task->spooled, "%s-%s", hex, task->label);
    status = cog_store_spool_link(task->store, object, task->label, NULL);
    cog_object_free(object);
    atomic_fetch_add(&counters->spooled, status == COG_OK);
    atomic_fetch_add(&counters->failures,
                     status != COG_OK && status != COG_ABSENT && !refused(status));
    if (status != COG_OK) {
        task->spooled[0] = '\0';
    }
}

static void *use_hand(void *context)
{
    struct task *task = context;
    uint64_t seed = task->seed;
    clean_spool(task);
    unsigned char *value = cog_alloc((size_t)limit / 8);
    kit_fill(value, (size_t)limit / 8, 1, seed);
    for (;;) {
        char key[32];
        snprintf(key, sizeof key, "%u", (unsigned)(workers_random(&seed) % KEYS));
        size_t size = random_size(&seed), length = 0;
        uint64_t what = workers_random(&seed) % 10;
        atomic_fetch_add(&counters->steps, 1);
        if (what == 0) {
            (void)cog_store_delete(task->store, key, strlen(key), NULL);
        } else if (what == 1) {
            keep_one(task, key);
        } else if (what < 4) {
            enum cog_status status = kit_put(task->store, key, value, size);
            atomic_fetch_add(&counters->puts, status == COG_OK);
            atomic_fetch_add(&counters->failures, status != COG_OK && !refused(status));
        } else {
            unsigned char *image = compose(key, value, size, &length);
            if (image != NULL) {
                bring_one(task, &seed, key, image, length);
            }
            cog_free(image);
        }
    }
    return NULL;
}

static _Noreturn void work(const void *context, unsigned worker, uint64_t seed)
{
    const struct proof *proof = context;
    struct cog_store_options options = proof_options(&proof->kit);
    struct task tasks[HANDS];
    pthread_t thread;
    struct cog_store *store = kit_open(&proof->kit, &options);
    for (unsigned i = 0; i < HANDS; i++) {
        tasks[i] = (struct task){.store = store, .root = proof->kit.root, .seed = seed * 31 + i};
        snprintf(tasks[i].label, sizeof tasks[i].label, "%u.%u", worker, i);
    }
    for (unsigned i = 1; i < HANDS; i++) {
        if (pthread_create(&thread, NULL, use_hand, &tasks[i]) != 0) {
            _exit(3);
        }
    }
    (void)use_hand(&tasks[0]);
    _exit(4);
}

/* --- sampling ------------------------------------------------------------------------------ */

/* What the totals say of tables and not of files; a shard that somebody is in the middle of is not
 * asked. */
static uint64_t table_shares(struct cog_index_file *file)
{
    uint64_t shares = 0;
    for (unsigned s = 0; s < COG_SHARDS; s++) {
        if (cog_word32(file, COG_AT_SHARD(stamp, s)) % 2 == 0) {
            shares += cog_table_share(cog_word32(file, COG_AT_SHARD(rows, s)),
                                      cog_table_capacity(file, s));
        }
    }
    return shares;
}

static void sample_stopped(struct proof *proof)
{
    struct truth truth;
    struct cog_sum sum;
    struct cog_index_file *file = cog_index_enter(proof->index);
    REQUIRE(file != NULL);
    cog_index_sum(file, &sum);
    uint64_t shares = table_shares(file);
    cog_index_leave(proof->index);
    root_truth(&proof->root, &truth, false);
    proof->samples++;
    proof->most = truth.all > proof->most ? truth.all : proof->most;
    bool over = truth.all > limit;
    bool under = sum.unknown == 0 && sum.held + sum.known - shares < truth.moving;
    proof->over += over;
    proof->under += under;
    if ((over || under) && !proof->until_caught) {
        fprintf(stderr, "    truth %llu (all %llu), held %llu + totals %llu\n",
                (unsigned long long)truth.moving, (unsigned long long)truth.all,
                (unsigned long long)sum.held, (unsigned long long)sum.known);
    }
}

/* So many pieces and puts, however long that takes on this machine. */
static void let_them_work(uint64_t steps)
{
    uint64_t until = atomic_load(&counters->steps) + steps, end_us = workers_clock_us() + 1000000;
    while (atomic_load(&counters->steps) < until && workers_clock_us() < end_us) {
        usleep(200);
    }
}

/* So long, and until the limit has been in play, whatever the machine is busy with. */
static bool goes_on(const struct proof *proof, uint64_t end_us)
{
    const uint64_t patience_us = UINT64_C(60000000);
    if (proof->until_caught && proof->over + proof->under > 0) {
        return false;
    }
    bool played = proof->most > limit / 2 && atomic_load(&counters->committed) >= 20 &&
                  !proof->until_caught;
    return workers_clock_us() < end_us || (!played && workers_clock_us() < end_us + patience_us);
}

static void run(struct proof *proof, uint64_t seconds)
{
    uint64_t seed = 4711;
    proof->workers = (struct workers){.count = WORKERS, .work = work, .context = proof};
    workers_begin(&proof->workers, &seed);
    uint64_t end_us = workers_clock_us() + seconds * 1000000;
    while (goes_on(proof, end_us)) {
        let_them_work(1 + workers_random(&seed) % 12);
        workers_stop(&proof->workers);
        sample_stopped(proof);
        if (workers_random(&seed) % 3 == 0) {
            workers_replace_one(&proof->workers, &seed);
            sample_stopped(proof); /* the dead hold what they held */
        }
        workers_go_on(&proof->workers);
    }
    workers_kill(&proof->workers);
}

/* Every file that has a name is whole. */
static void check_values(struct proof *proof)
{
    for (unsigned i = 0; i < KEYS; i++) {
        char key[32];
        enum cog_miss miss = COG_MISS_NONE;
        size_t size;
        snprintf(key, sizeof key, "%u", i);
        unsigned char *got = kit_get(proof->watch, key, 0, &size, &miss);
        CHECK(got != NULL ? kit_is_whole(got, size, 1) : miss == COG_MISS_ABSENT);
        cog_free(got);
    }
}

static void open_proof(struct proof *proof, const struct kit *kit)
{
    struct cog_store_options options = proof_options(kit);
    proof->kit = *kit;
    proof->watch = kit_open(kit, &options);
    snprintf(proof->root.path, sizeof proof->root.path, "%s", kit->root);
    proof->root.fd = open(kit->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    proof->root.fs = kit->fs;
    proof->root.no_map = kit->no_map;
    struct cog_index_options index = root_options(&proof->root);
    index.limit = proof->watch->limit;
    index.fixed_bytes = proof->watch->fixed_bytes;
    proof->index = root_open(&proof->root, &index);
    while (cog_index_warm_up(proof->index, COG_SHARDS, NULL) == COG_ERR_BUSY) {
        continue;
    }
    memset(counters, 0, sizeof *counters);
}

static void close_proof(struct proof *proof)
{
    cog_index_close(proof->index);
    close(proof->root.fd);
    cog_store_close(proof->watch);
}

static void prove(struct kit *kit)
{
    const char *wish = getenv("COG_LIMIT_SECONDS");
    struct proof proof = {.samples = 0};
    open_proof(&proof, kit);
    run(&proof, wish ? strtoull(wish, NULL, 10) : 2);
    const char *wrong = root_audit(&proof.root, proof.index);
    if (!CHECK(wrong == NULL)) {
        fprintf(stderr, "    at the end: %s\n", wrong);
    }
    check_values(&proof);
    printf("%s: %llu committed, %llu aborted, %llu puts, %llu spooled, %llu refused, %llu kills, "
           "%llu samples of "
           "all stopped, at most %.1f %% of the limit\n",
           kit->mode, (unsigned long long)counters->committed,
           (unsigned long long)counters->aborted, (unsigned long long)counters->puts,
           (unsigned long long)counters->spooled, (unsigned long long)counters->refused,
           (unsigned long long)proof.workers.kills, (unsigned long long)proof.samples,
           100.0 * (double)proof.most / (double)limit);
    CHECK_EQ(proof.over, 0);
    CHECK_EQ(proof.under, 0);
    CHECK_EQ(counters->failures, 0);
    CHECK_EQ(counters->damaged, 0);
    CHECK(proof.most > limit / 2 && counters->committed >= 20); /* the limit was in play */
    close_proof(&proof);
}

static bool was_caught;

static void let_twin_run(struct kit *kit)
{
    struct proof proof = {.until_caught = true};
    open_proof(&proof, kit);
    run(&proof, 1);
    was_caught = proof.over + proof.under > 0;
    close_proof(&proof);
}

int main(int count, char **arguments)
{
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                    0);
    REQUIRE(counters != MAP_FAILED);
    if (count > 1) {
        KIT_RUN_ONCE(let_twin_run);
        return was_caught ? 0 : 1;
    }
    KIT_RUN_INDEXED(prove);
    workers_expect_caught(arguments[0], "GROW_UNCOUNTED");
    return check_done();
}
