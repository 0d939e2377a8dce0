/*
 * Eviction policies: a score for a resident, pure functions. The store and the simulator in the
 * tests share them. Victims come from samples; the resident with the LOWEST score goes. No ordered
 * structure, no state.
 */
#ifndef COG_EVICT_H
#define COG_EVICT_H

#include <stdint.h>

#include "core/status.h"

enum cog_policy {
    COG_POLICY_LRU = 0,
    COG_POLICY_LFU,
    COG_POLICY_FIFO,
    COG_POLICY_COST,
    COG_POLICY_COUNT
};

/* What a policy may look at. Ages are seconds, never negative. */
struct cog_resident {
    double idle_seconds; /* since the last recorded use */
    double age_seconds;  /* since it was stored */
    uint32_t uses;       /* recorded re-uses after the put, saturating */
    uint64_t bytes;      /* blocks on disk */
    double cost_seconds; /* to compute it again; 0 = unknown */
};

double cog_policy_score(enum cog_policy policy, const struct cog_resident *resident);
const char *cog_policy_name(enum cog_policy policy); /* "lru" ... */
/* COG_ABSENT: unknown name */
enum cog_status cog_policy_parse(const char *name, enum cog_policy *out);

#endif
