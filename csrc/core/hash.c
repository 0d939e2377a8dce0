#include "core/hash.h"

#include <stdint.h>

#include "core/alloc.h"
#include "core/hash_wide.h"

/* The header alone: nothing to link, and short inputs (keys, names) are hashed without a call. */
#define XXH_INLINE_ALL
#include <xxhash.h>

/* XXH3_state_t wants 64-byte alignment, more than an allocator promises; `block` is what was really
 * allocated. */
struct cog_hasher {
    XXH3_state_t state;
    void *block;
};

enum { STATE_ALIGNMENT = 64 };

uint64_t cog_hash64(const void *data, size_t size, uint64_t seed)
{
    if (COG_HASH_WIDE(size))
        return cog_hash64_wide(data, size, seed);
    return XXH3_64bits_withSeed(data, size, seed);
}

static void store_canonical(XXH128_hash_t hash, struct cog_digest *out)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    _Static_assert(sizeof canonical.digest == sizeof out->bytes, "a digest is 16 bytes");
    for (size_t i = 0; i < sizeof out->bytes; i++)
        out->bytes[i] = canonical.digest[i];
}

void cog_hash128(const void *data, size_t size, struct cog_digest *out)
{
    if (COG_HASH_WIDE(size))
        cog_hash128_wide(data, size, out->bytes);
    else
        store_canonical(XXH3_128bits(data, size), out);
}

enum cog_status cog_hasher_new(struct cog_hasher **out)
{
    struct cog_hasher *hasher;
    unsigned char *block;

    *out = NULL;
    block = cog_alloc(sizeof *hasher + STATE_ALIGNMENT);
    if (!block)
        return COG_ERR_NOMEM;
    hasher = (void *)(block + (STATE_ALIGNMENT - (uintptr_t)block % STATE_ALIGNMENT));
    XXH3_INITSTATE(&hasher->state);
    hasher->block = block;
    cog_hasher_reset(hasher);
    *out = hasher;
    return COG_OK;
}

void cog_hasher_update(struct cog_hasher *hasher, const void *data, size_t size)
{
    if (COG_HASH_WIDE(size))
        cog_hash128_update_wide(&hasher->state, data, size);
    else if (size)
        (void)XXH3_128bits_update(&hasher->state, data, size);
}

void cog_hasher_digest(const struct cog_hasher *hasher, struct cog_digest *out)
{
    store_canonical(XXH3_128bits_digest(&hasher->state), out);
}

void cog_hasher_reset(struct cog_hasher *hasher)
{
    (void)XXH3_128bits_reset(&hasher->state);
}

void cog_hasher_free(struct cog_hasher *hasher)
{
    if (hasher)
        cog_free(hasher->block);
}

void cog_hex(const void *bytes, size_t size, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const unsigned char *in = bytes;

    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * size] = '\0';
}

static int digit_value(char digit)
{
    return digit >= '0' && digit <= '9'   ? digit - '0'
           : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                                          : -1;
}

bool cog_unhex(const char *hex, size_t size, void *out)
{
    unsigned char *bytes = out;

    for (size_t i = 0; i < size; i++) {
        int high = digit_value(hex[2 * i]);
        int low = high < 0 ? -1 : digit_value(hex[2 * i + 1]); /* nor behind the end of the text */

        if (low < 0) {
            return false;
        }
        bytes[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}
