/*
 * A table of rows, begun empty or as any bytes at all, under any sequence of operations. Begun
 * empty it agrees with a plain list of digests after every one; begun as garbage it stays inside
 * its memory and comes to an end.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAPACITY = 64, DIGESTS = 64, SAMPLE = 16, OPERATIONS = 400 };

static void must(bool held)
{
    if (!held) {
        abort();
    }
}

/* Few digests that share their first slots, so that probes are long. */
static struct cog_digest digest_of(uint8_t which)
{
    struct cog_digest digest = {{0}};

    which %= DIGESTS;
    digest.bytes[0] = which % 3;
    digest.bytes[7] = which % 5;
    digest.bytes[15] = which;
    return digest;
}

static void operate(struct cog_shard *shard, bool *present, uint8_t operation, uint8_t which)
{
    struct cog_digest digest = digest_of(which);
    struct cog_sampled sample[SAMPLE];
    struct cog_row row = {0};
    uint32_t slot = cog_shard_find(shard, &digest);

    must(slot == COG_SHARD_NONE || slot < shard->capacity);
    must(!present || (slot != COG_SHARD_NONE) == present[which % DIGESTS]);
    switch (operation % 5) {
    case 0:
        cog_row_set_digest(&row, &digest);
        slot = cog_shard_add(shard, &row, which);
        must(slot == COG_SHARD_NONE || slot < shard->capacity);
        if (present && slot != COG_SHARD_NONE) {
            present[which % DIGESTS] = true;
        }
        break;
    case 1:
        if (slot != COG_SHARD_NONE) {
            cog_shard_drop(shard, slot);
            if (present) {
                present[which % DIGESTS] = false;
            }
        }
        break;
    case 2: (void)cog_shard_touch(shard, &digest, which, 0, operation / 5); break;
    case 3: must(cog_shard_sample(shard, which, operation, sample, SAMPLE) <= SAMPLE); break;
    default: cog_shard_get(shard, which, &sample[0]); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cog_shard shard = {.capacity = CAPACITY};
    bool present[DIGESTS] = {false};

    if (size == 0) {
        return 0;
    }
    bool garbage = data[0] & 1;
    shard.hot = calloc(CAPACITY, sizeof *shard.hot);
    shard.row = calloc(CAPACITY, sizeof *shard.row);
    must(shard.hot && shard.row);
    data++;
    size--;
    if (garbage) {
        size_t filled = size < CAPACITY * sizeof *shard.row ? size : CAPACITY * sizeof *shard.row;

        memcpy(shard.row, data, filled);
        shard.rows = CAPACITY / 2;
    }
    for (size_t i = 0; i + 1 < size && i < 2 * OPERATIONS; i += 2) {
        operate(&shard, garbage ? NULL : present, data[i], data[i + 1]);
        if (!garbage) {
            uint32_t rows = 0;

            for (unsigned j = 0; j < DIGESTS; j++) {
                rows += present[j];
            }
            must(shard.rows == rows && cog_shard_flaws(&shard) == 0);
        }
    }
    free(shard.hot);
    free(shard.row);
    return 0;
}
