/*
 * Policies as pure scores, in a simulator that evicts the lowest score of a sample of 64, as the
 * store does: what each one is for must show, and sampling must stay close to the exact order.
 */
#include "core/evict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static uint64_t seed = 99;

static double uniform(void)
{
    return ((double)(check_random(&seed) >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    return sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* --- scores --- */

static void test_the_lowest_score_is_what_the_policy_names(void)
{
    struct cog_resident fresh = {
        .idle_seconds = 1, .age_seconds = 100, .uses = 3, .bytes = 4096, .cost_seconds = 10};
    struct cog_resident idle = fresh, seldom = fresh, old = fresh, cheap = fresh, large = fresh;
    idle.idle_seconds = 50;
    seldom.uses = 1;
    old.age_seconds = 101;
    cheap.cost_seconds = 0.1;
    large.bytes = 1 << 20;
    CHECK(cog_policy_score(COG_POLICY_LRU, &idle) < cog_policy_score(COG_POLICY_LRU, &fresh));
    CHECK(cog_policy_score(COG_POLICY_LRU, &seldom) == cog_policy_score(COG_POLICY_LRU, &fresh));
    CHECK(cog_policy_score(COG_POLICY_LFU, &seldom) < cog_policy_score(COG_POLICY_LFU, &idle));
    /* among equals */
    CHECK(cog_policy_score(COG_POLICY_LFU, &idle) < cog_policy_score(COG_POLICY_LFU, &fresh));
    CHECK(cog_policy_score(COG_POLICY_FIFO, &old) < cog_policy_score(COG_POLICY_FIFO, &fresh));
    CHECK(cog_policy_score(COG_POLICY_FIFO, &idle) == cog_policy_score(COG_POLICY_FIFO, &fresh));
    CHECK(cog_policy_score(COG_POLICY_COST, &cheap) < cog_policy_score(COG_POLICY_COST, &fresh));
    CHECK(cog_policy_score(COG_POLICY_COST, &large) < cog_policy_score(COG_POLICY_COST, &fresh));
    CHECK(cog_policy_score(COG_POLICY_COST, &idle) < cog_policy_score(COG_POLICY_COST, &fresh));
}

static void test_absurd_residents_have_a_score_too(void)
{
    const double odd[] = {0.0, -1.0, 1e300, INFINITY, -INFINITY, NAN};
    for (unsigned i = 0; i < 6; i++) {
        for (unsigned j = 0; j < 6; j++) {
            struct cog_resident resident = {.idle_seconds = odd[i],
                                            .age_seconds = odd[i],
                                            .uses = UINT32_MAX,
                                            .bytes = UINT64_MAX,
                                            .cost_seconds = odd[j]};
            for (int policy = 0; policy < COG_POLICY_COUNT; policy++) {
                CHECK(!isnan(cog_policy_score((enum cog_policy)policy, &resident)));
            }
        }
    }
    struct cog_resident liar = {.bytes = 1, .cost_seconds = 1e12, .idle_seconds = 1}, dear = liar;
    dear.cost_seconds = 3600;
    CHECK(cog_policy_score(COG_POLICY_COST, &liar) == cog_policy_score(COG_POLICY_COST, &dear));
}

static void test_names_parse_back_and_unknown_ones_do_not(void)
{
    for (int policy = 0; policy < COG_POLICY_COUNT; policy++) {
        enum cog_policy parsed = COG_POLICY_COUNT;
        CHECK_EQ(cog_policy_parse(cog_policy_name((enum cog_policy)policy), &parsed), COG_OK);
        CHECK_EQ(parsed, policy);
    }
    enum cog_policy untouched = COG_POLICY_FIFO;
    CHECK_EQ(cog_policy_parse("LRU", &untouched), COG_ABSENT);
    CHECK_EQ(cog_policy_parse("", &untouched), COG_ABSENT);
    CHECK_EQ(cog_policy_parse(NULL, &untouched), COG_ABSENT);
    CHECK_EQ(untouched, COG_POLICY_FIFO);
}

/* --- the simulator --- */

enum { OBJECTS = 6000, REQUESTS = 120000, SAMPLE = 64 };

struct object {
    uint64_t bytes;
    double cost, last, stored;
    uint32_t uses;
    unsigned place; /* among the residents + 1; 0 = not resident */
};

struct simulation {
    struct object objects[OBJECTS];
    unsigned resident[OBJECTS];
    unsigned residents;
    uint64_t used, room;
    double now;
    double saved, asked; /* seconds to compute, hits and all */
    double rank_sum;     /* of the victims by idleness, 0 = oldest, 1 = newest */
    unsigned victims;
};

static struct simulation simulation;

static double score_of(const struct simulation *sim, unsigned id, enum cog_policy policy)
{
    const struct object *object = &sim->objects[id];
    struct cog_resident resident = {.idle_seconds = sim->now - object->last,
                                    .age_seconds = sim->now - object->stored,
                                    .uses = object->uses,
                                    .bytes = object->bytes,
                                    .cost_seconds = object->cost};
    return cog_policy_score(policy, &resident);
}

static void evict(struct simulation *sim, enum cog_policy policy, bool exact)
{
    unsigned looked = exact ? sim->residents : SAMPLE, worst = 0, older = 0;
    double least = INFINITY;
    for (unsigned i = 0; i < looked; i++) {
        unsigned at = exact ? i : (unsigned)(uniform() * sim->residents);
        double score = score_of(sim, sim->resident[at], policy);
        if (score < least) {
            least = score;
            worst = at;
        }
    }
    unsigned id = sim->resident[worst];
    if (sim->victims % 16 == 0) {
        for (unsigned i = 0; i < sim->residents; i++) {
            older += sim->objects[sim->resident[i]].last < sim->objects[id].last;
        }
        sim->rank_sum += 16.0 * older / sim->residents;
    }
    sim->victims++;
    sim->used -= sim->objects[id].bytes;
    sim->objects[id].place = 0;
    sim->resident[worst] = sim->resident[--sim->residents];
    sim->objects[sim->resident[worst]].place = worst + 1;
}

static double zipf[OBJECTS];

static unsigned request(void)
{
    if (uniform() < 0.1) {
        return OBJECTS / 2 + (unsigned)(uniform() * (OBJECTS / 2)); /* mostly asked for once */
    }
    double at = uniform() * zipf[OBJECTS - 1];
    unsigned low = 0, high = OBJECTS - 1;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (zipf[middle] < at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Costs independent of sizes: the share of compute seconds that the cache has saved. */
static double simulate(enum cog_policy policy, bool exact)
{
    struct simulation *sim = &simulation;
    memset(sim, 0, sizeof *sim);
    seed = 2024;
    uint64_t all = 0;
    for (unsigned i = 0; i < OBJECTS; i++) {
        zipf[i] = (i ? zipf[i - 1] : 0) + pow(i + 1.0, -0.9);
        sim->objects[i].bytes = (uint64_t)(65536 * exp(normal()) / 4096 + 1) * 4096;
        sim->objects[i].cost = exp(1.5 * normal());
        all += sim->objects[i].bytes;
    }
    sim->room = all / 20;
    for (unsigned n = 0; n < REQUESTS; n++) {
        struct object *object = &sim->objects[request()];
        unsigned id = (unsigned)(object - sim->objects);
        sim->now += 1.0;
        if (n > REQUESTS / 4) {
            sim->asked += object->cost;
            sim->saved += object->place ? object->cost : 0;
        }
        if (object->place) {
            object->uses++;
            object->last = sim->now;
            continue;
        }
        if (object->bytes > sim->room / 8) {
            continue;
        }
        while (sim->used + object->bytes > sim->room) {
            evict(sim, policy, exact);
        }
        object->last = object->stored = sim->now;
        object->uses = 0;
        sim->resident[sim->residents++] = id;
        object->place = sim->residents;
        sim->used += object->bytes;
    }
    return sim->saved / sim->asked;
}

static void test_cost_keeps_what_is_dear_to_compute(void)
{
    double lru = simulate(COG_POLICY_LRU, false), fifo = simulate(COG_POLICY_FIFO, false);
    double lfu = simulate(COG_POLICY_LFU, false), cost = simulate(COG_POLICY_COST, false);
    if (!CHECK(cost > 1.4 * lru && cost > lfu && lru > fifo && lfu > fifo)) {
        fprintf(stderr, "    seconds saved: lru %.3f, fifo %.3f, lfu %.3f, cost %.3f\n", lru, fifo,
                lfu, cost);
    }
}

static void test_samples_find_victims_about_as_old_as_the_exact_order(void)
{
    double exact = simulate(COG_POLICY_LRU, true), sampled = simulate(COG_POLICY_LRU, false);
    double rank = simulation.rank_sum / simulation.victims;
    CHECK(simulation.victims > 5000);
    /* The worst of 64 drawn at random stands at the 65th part of the order on average. */
    if (!CHECK(rank > 0.5 / 65 && rank < 2.0 / 65)) {
        fprintf(stderr, "    mean rank of the victims %.4f\n", rank);
    }
    CHECK(fabs(exact - sampled) < 0.02);
    double exact_cost = simulate(COG_POLICY_COST, true),
           sampled_cost = simulate(COG_POLICY_COST, false);
    CHECK(exact_cost - sampled_cost < 0.02);
}

int main(void)
{
    RUN(test_the_lowest_score_is_what_the_policy_names);
    RUN(test_absurd_residents_have_a_score_too);
    RUN(test_names_parse_back_and_unknown_ones_do_not);
    RUN(test_cost_keeps_what_is_dear_to_compute);
    RUN(test_samples_find_victims_about_as_old_as_the_exact_order);
    return check_done();
}
