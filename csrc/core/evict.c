#include "core/evict.h"

#include <string.h>

static const char *const names[COG_POLICY_COUNT] = {
    [COG_POLICY_LRU] = "lru",
    [COG_POLICY_LFU] = "lfu",
    [COG_POLICY_FIFO] = "fifo",
    [COG_POLICY_COST] = "cost",
};

/* A single producer that claims absurd costs must not own the cache, and a free one is still worth
 * something. */
static const double least_cost = 0.001, most_cost = 3600.0, unknown_cost = 1.0;
/* What an entry takes besides its blocks: inode, row, directory. Keeps tiny entries from looking
 * free. */
static const double overhead_bytes = 4096.0;
/* Below a second, "how long ago" says nothing about the future. */
static const double least_idle = 1.0;
/* An entry never re-used is worth a quarter of one re-used once: most of them never will be
 * (simulated in the tests). */
static const double never_reused = 0.25;

static double at_least(double value, double least)
{
    return value > least ? value : least; /* also for NaN */
}

static double cost_score(const struct cog_resident *resident)
{
    double cost = resident->cost_seconds > 0 ? resident->cost_seconds : unknown_cost;
    cost = at_least(cost < most_cost ? cost : most_cost, least_cost);
    double weight = resident->uses ? (double)resident->uses + 1.0 : never_reused;
    return weight * cost /
           (((double)resident->bytes + overhead_bytes) *
            at_least(resident->idle_seconds, least_idle));
}

double cog_policy_score(enum cog_policy policy, const struct cog_resident *resident)
{
    double idle = at_least(resident->idle_seconds, 0.0);
    switch (policy) {
    case COG_POLICY_LFU:
        return (double)resident->uses + 1.0 / (1.0 + idle); /* among equals the one idle longest */
    case COG_POLICY_FIFO: return -at_least(resident->age_seconds, 0.0);
    case COG_POLICY_COST: return cost_score(resident);
    case COG_POLICY_LRU:
    case COG_POLICY_COUNT:
    default: return -idle;
    }
}

const char *cog_policy_name(enum cog_policy policy)
{
    return (unsigned)policy < COG_POLICY_COUNT ? names[policy] : "unknown";
}

enum cog_status cog_policy_parse(const char *name, enum cog_policy *out)
{
    for (int i = 0; name && i < COG_POLICY_COUNT; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum cog_policy)i;
            return COG_OK;
        }
    }
    return COG_ABSENT;
}
