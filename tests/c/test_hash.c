/* The digests are those of XXH3 for every length, in one call and in steps, on every path. */
#include "check.h"

#include "core/hash.h"

/* The reference: the header as the compiler's default target makes it. */
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { LARGE = 1 << 20 };

static unsigned char data[LARGE];

static void check_digest(const struct cog_digest *digest, size_t size)
{
    XXH128_canonical_t expected;

    XXH128_canonicalFromHash(&expected, XXH3_128bits(data, size));
    CHECK_BYTES(digest->bytes, sizeof digest->bytes, expected.digest, sizeof expected.digest);
}

static void test_one_call_equals_xxh3(void)
{
    const size_t large[] = {4095, 4096, 65537, LARGE};
    struct cog_digest digest;

    for (size_t size = 0; size <= 1100; size++) {
        cog_hash128(data, size, &digest);
        check_digest(&digest, size);
        CHECK(cog_hash64(data, size, 0) == XXH3_64bits(data, size));
        CHECK(cog_hash64(data, size, 7 + size) == XXH3_64bits_withSeed(data, size, 7 + size));
    }
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        cog_hash128(data, large[i], &digest);
        check_digest(&digest, large[i]);
        CHECK(cog_hash64(data, large[i], 42) == XXH3_64bits_withSeed(data, large[i], 42));
    }
}

static void test_steps_of_any_size_equal_one_call(void)
{
    const size_t steps[] = {1, 63, 240, 241, 1000, 65536};
    struct cog_hasher *hasher;
    struct cog_digest digest;

    REQUIRE(cog_hasher_new(&hasher) == COG_OK);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        size_t done = 0;

        cog_hasher_reset(hasher);
        while (done < 300000) {
            /* Alternate with short steps, so that the plain and the wide path share one state. */
            size_t step = done % 2 ? 17 : steps[i];

            cog_hasher_update(hasher, data + done, step);
            done += step;
        }
        cog_hasher_digest(hasher, &digest);
        check_digest(&digest, done);
    }
    cog_hasher_free(hasher);
    cog_hasher_free(NULL);
}

static void test_an_empty_update_changes_nothing(void)
{
    struct cog_hasher *hasher;
    struct cog_digest digest;

    REQUIRE(cog_hasher_new(&hasher) == COG_OK);
    cog_hasher_update(hasher, NULL, 0);
    cog_hasher_digest(hasher, &digest);
    check_digest(&digest, 0);
    cog_hasher_free(hasher);
}

/* The digests of no bytes that the xxHash project publishes: they hold whatever header is here. */
static void test_known_digests(void)
{
    struct cog_digest digest;
    char hex[2 * COG_DIGEST_SIZE + 1];

    cog_hash128("", 0, &digest);
    cog_hex(digest.bytes, sizeof digest.bytes, hex);
    CHECK(strcmp(hex, "99aa06d3014798d86001c324468d497f") == 0);
    CHECK(cog_hash64("", 0, 0) == 0x2d06800538d394c2u);
}

static void test_hex_and_back(void)
{
    unsigned char bytes[256], back[257];
    char hex[2 * sizeof bytes + 1];

    for (unsigned i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)i;
    }
    cog_hex(bytes, sizeof bytes, hex);
    CHECK(cog_unhex(hex, sizeof bytes, back));
    CHECK(memcmp(bytes, back, sizeof bytes) == 0);
    CHECK(!cog_unhex(hex, sizeof bytes + 1, back)); /* and nothing behind its end is looked at */
    for (size_t i = 0; i < 12; i++) {
        static const char wrong[] = "/:`gG@ABF \x7f\xff";
        char digits[] = "00";
        digits[i % 2] = wrong[i];
        CHECK(!cog_unhex(digits, 1, back));
    }
    CHECK(!cog_unhex("0", 1, back) && !cog_unhex("", 1, back) && cog_unhex("", 0, back));
}

int main(void)
{
    check_noise(data, sizeof data);
    RUN(test_one_call_equals_xxh3);
    RUN(test_steps_of_any_size_equal_one_call);
    RUN(test_an_empty_update_changes_nothing);
    RUN(test_known_digests);
    RUN(test_hex_and_back);
    return check_done();
}
