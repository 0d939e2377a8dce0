/* Stands in for the index until it lands: every root is table-less. To be deleted with that. */
#include "core/index.h"

#include <stdio.h>
#include <string.h>

#include "core/hash.h"

#define WEAK __attribute__((weak))
#pragma GCC diagnostic ignored "-Wunused-parameter"

WEAK void cog_shard_path(unsigned shard, char out[COG_OBJECT_PATH_SIZE])
{
    (void)snprintf(out, COG_OBJECT_PATH_SIZE, "objects/%02x", shard & 255);
}

WEAK void cog_object_path(const struct cog_digest *digest, char out[COG_OBJECT_PATH_SIZE])
{
    memcpy(out, "objects/", 8);
    cog_hex(digest->bytes, 1, out + 8);
    out[10] = '/';
    cog_hex(digest->bytes + 1, 15, out + 11);
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

WEAK bool cog_object_name_parse(unsigned shard, const char *name, struct cog_digest *out)
{
    out->bytes[0] = (unsigned char)shard;
    for (unsigned i = 0; i < 15; i++) {
        int high = nibble(name[2 * i]), low = high < 0 ? -1 : nibble(name[2 * i + 1]);
        if (low < 0) {
            return false;
        }
        out->bytes[i + 1] = (unsigned char)(high << 4 | low);
    }
    return name[30] == '\0';
}

WEAK uint64_t cog_charge(const struct cog_stat *stat, uint32_t block_size)
{
    uint64_t rounded = (stat->size + block_size - 1) / block_size * block_size;
    return stat->blocks_bytes > rounded ? stat->blocks_bytes : rounded;
}

WEAK enum cog_status cog_index_open(const struct cog_index_options *options, struct cog_index **out,
                                    struct cog_error *err)
{
    *out = NULL;
    return COG_ERR_UNSUPPORTED;
}

WEAK void cog_index_close(struct cog_index *index)
{
}

WEAK void cog_index_get_stats(struct cog_index *index, struct cog_index_stats *out)
{
    *out = (struct cog_index_stats){0};
}

WEAK enum cog_status cog_index_reserve(struct cog_index *index, uint64_t bytes,
                                       struct cog_reservation *reservation, struct cog_error *err)
{
    return COG_ERR_UNSUPPORTED;
}

WEAK void cog_index_release(struct cog_reservation *reservation)
{
}

WEAK bool cog_reservation_is_ours(const struct cog_reservation *reservation)
{
    return true;
}

WEAK void cog_index_temp_path(const struct cog_reservation *reservation,
                              char out[COG_TEMP_PATH_SIZE])
{
    out[0] = '\0';
}

WEAK enum cog_status cog_index_lock(struct cog_index *index, unsigned shard,
                                    const struct cog_reservation *reservation,
                                    struct cog_index_lock *lock, struct cog_error *err)
{
    return COG_ERR_UNSUPPORTED;
}

WEAK void cog_index_unlock(struct cog_index_lock *lock)
{
}

WEAK enum cog_status cog_index_find(struct cog_index_lock *lock, const struct cog_digest *digest,
                                    struct cog_index_found *found, struct cog_error *err)
{
    return COG_ERR_UNSUPPORTED;
}

WEAK enum cog_status cog_index_rebuild(struct cog_index_lock *lock, struct cog_error *err)
{
    return COG_ERR_UNSUPPORTED;
}

WEAK enum cog_status cog_index_publish_begin(struct cog_index_lock *lock,
                                             const struct cog_digest *digest, uint64_t charge,
                                             struct cog_index_found *found, struct cog_error *err)
{
    return COG_ERR_UNSUPPORTED;
}

WEAK void cog_index_publish_end(struct cog_index_lock *lock, const struct cog_digest *digest,
                                const struct cog_index_record *record,
                                const struct cog_index_found *replaced)
{
}

WEAK void cog_index_publish_cancel(struct cog_index_lock *lock)
{
}

WEAK void cog_index_remove_begin(struct cog_index_lock *lock)
{
}

WEAK void cog_index_remove_end(struct cog_index_lock *lock, const struct cog_digest *digest,
                               const struct cog_index_found *found, bool removed)
{
}

WEAK void cog_index_set_stuck(struct cog_index_lock *lock, const struct cog_digest *digest)
{
}

WEAK void cog_index_set_expires(struct cog_index_lock *lock, const struct cog_digest *digest,
                                uint32_t expires)
{
}

WEAK void cog_index_touch(struct cog_index *index, const struct cog_digest *digest)
{
}

WEAK enum cog_status cog_index_peek(struct cog_index *index, const struct cog_digest *digest,
                                    struct cog_row *row)
{
    return COG_ABSENT;
}

WEAK bool cog_index_tag_counter(struct cog_index *index, uint64_t *value)
{
    return false;
}

WEAK void cog_index_bump_tag_counter(struct cog_index *index)
{
}

WEAK enum cog_status cog_index_evict_one(struct cog_index *index, uint64_t *freed,
                                         struct cog_error *err)
{
    return COG_ABSENT;
}

WEAK enum cog_status cog_index_job_begin(struct cog_index *index, struct cog_error *err)
{
    return COG_ERR_BUSY;
}

WEAK void cog_index_job_end(struct cog_index *index)
{
}

WEAK enum cog_status cog_index_sweep_shard(struct cog_index *index, unsigned shard, bool force,
                                           uint64_t *removed, struct cog_error *err)
{
    return COG_OK;
}

WEAK unsigned cog_index_reap(struct cog_index *index)
{
    return 0;
}

WEAK unsigned cog_index_next_shard(struct cog_index *index)
{
    return 0;
}
