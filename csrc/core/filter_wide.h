/*
 * The byte filters compiled for AVX2, where compiler and processor have it. Private to filter.c;
 * the results are those of the plain loops.
 */
#ifndef COG_FILTER_WIDE_H
#define COG_FILTER_WIDE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define COG_FILTER_WIDE() __builtin_cpu_supports("avx2")
#else
#define COG_FILTER_WIDE() 0
#endif

/* Call these only where COG_FILTER_WIDE() is true. */
void cog_filter_elements_wide(uint8_t filter, size_t width, const unsigned char *in,
                              unsigned char *out, size_t count);
void cog_unfilter_elements_wide(uint8_t filter, size_t width, const unsigned char *in,
                                unsigned char *out, size_t count);

#endif
