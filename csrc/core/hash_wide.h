/*
 * The long-input paths of XXH3 compiled for AVX2, where compiler and processor have it. Private to
 * hash.c; the results are those of the plain paths.
 */
#ifndef COG_HASH_WIDE_H
#define COG_HASH_WIDE_H

#include <stddef.h>
#include <stdint.h>

/* Up to this size XXH3 uses no vectors, so there is nothing to win. */
enum { COG_HASH_WIDE_FROM = 241 };

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define COG_HASH_WIDE(size) ((size) >= COG_HASH_WIDE_FROM && __builtin_cpu_supports("avx2"))
#else
#define COG_HASH_WIDE(size) 0
#endif

/* Call these only where COG_HASH_WIDE(size) is true. Digests are canonical, 16 bytes. */
uint64_t cog_hash64_wide(const void *data, size_t size, uint64_t seed);
void cog_hash128_wide(const void *data, size_t size, unsigned char *digest);
void cog_hash128_update_wide(void *xxh3_state, const void *data, size_t size);

#endif
