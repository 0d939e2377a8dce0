/*
 * XXH3, in one call or in steps. 128-bit digests are kept as canonical (big-endian) bytes, as in
 * file names. Not a MAC: against chance, not against an adversary.
 */
#ifndef COG_HASH_H
#define COG_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum { COG_DIGEST_SIZE = 16 };

struct cog_digest {
    unsigned char bytes[COG_DIGEST_SIZE];
};

uint64_t cog_hash64(const void *data, size_t size, uint64_t seed); /* XXH3_64bits_withSeed */
void cog_hash128(const void *data, size_t size,
                 struct cog_digest *out); /* XXH3_128bits, canonical */

/* Incremental 128-bit digest, unseeded. */
struct cog_hasher; /* opaque */
enum cog_status cog_hasher_new(struct cog_hasher **out);
void cog_hasher_update(struct cog_hasher *hasher, const void *data, size_t size);
void cog_hasher_digest(const struct cog_hasher *hasher,
                       struct cog_digest *out); /* may go on afterwards */
void cog_hasher_reset(struct cog_hasher *hasher);
void cog_hasher_free(struct cog_hasher *hasher);

/* Lower-case hex of `size` bytes into `out` (2 * size + 1 bytes, NUL-terminated). */
void cog_hex(const void *bytes, size_t size, char *out);
/* What cog_hex() wrote, back to `size` bytes. False: not so many digits, or capital ones. */
bool cog_unhex(const char *hex, size_t size, void *out);

#endif
