/*
 * The loops of the byte filters, for filter.c, and for filter_wide.c that compiles them for AVX2.
 * `count` elements of `width` bytes, without the bytes left over behind the last whole element.
 */
#ifndef COG_FILTER_KERNELS_H
#define COG_FILTER_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/bytes.h"
#include "core/codec.h"

/*
 * Planes, the one kernel under both filters: byte j of element i goes to plane j, place i, and
 * back. With `width` constant and the loops this plain, compilers make vector code of them.
 */
static inline __attribute__((always_inline)) void to_planes(size_t width,
                                                            const unsigned char *restrict in,
                                                            unsigned char *restrict planes,
                                                            size_t stride, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < width; j++)
            planes[j * stride + i] = in[i * width + j];
}

static inline __attribute__((always_inline)) void
from_planes(size_t width, const unsigned char *restrict planes, size_t stride,
            unsigned char *restrict out, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < width; j++)
            out[i * width + j] = planes[j * stride + i];
}

static inline void swap_bits(uint64_t *a, uint64_t *b, unsigned shift, uint64_t mask)
{
    uint64_t t = ((*a >> shift) ^ *b) & mask;

    *b ^= t;
    *a ^= t << shift;
}

/* Transpose 8 x 8 bytes: byte j of word i becomes byte i of word j. Its own inverse. */
static inline void transpose_bytes(uint64_t w[8])
{
    for (int i = 0; i < 4; i++)
        swap_bits(&w[i], &w[i + 4], 32, UINT64_C(0x00000000FFFFFFFF));
    for (int i = 0; i < 8; i += 4) {
        swap_bits(&w[i], &w[i + 2], 16, UINT64_C(0x0000FFFF0000FFFF));
        swap_bits(&w[i + 1], &w[i + 3], 16, UINT64_C(0x0000FFFF0000FFFF));
    }
    for (int i = 0; i < 8; i += 2)
        swap_bits(&w[i], &w[i + 1], 8, UINT64_C(0x00FF00FF00FF00FF));
}

/* Eight bytes of every element, of elements that lie `width` apart, to eight planes. */
static inline void to_eight_planes(size_t width, const unsigned char *in, unsigned char *planes,
                                   size_t stride, size_t count)
{
    size_t i = 0;
    uint64_t w[8];

    for (; i + 8 <= count; i += 8) {
        for (size_t k = 0; k < 8; k++)
            w[k] = cog_load_le64(in + (i + k) * width);
        transpose_bytes(w);
        for (size_t j = 0; j < 8; j++)
            cog_store_le64(planes + j * stride + i, w[j]);
    }
    for (; i < count; i++)
        for (size_t j = 0; j < 8; j++)
            planes[j * stride + i] = in[i * width + j];
}

static inline void from_eight_planes(size_t width, const unsigned char *planes, size_t stride,
                                     unsigned char *out, size_t count)
{
    size_t i = 0;
    uint64_t w[8];

    for (; i + 8 <= count; i += 8) {
        for (size_t j = 0; j < 8; j++)
            w[j] = cog_load_le64(planes + j * stride + i);
        transpose_bytes(w);
        for (size_t k = 0; k < 8; k++)
            cog_store_le64(out + (i + k) * width, w[k]);
    }
    for (; i < count; i++)
        for (size_t j = 0; j < 8; j++)
            out[i * width + j] = planes[j * stride + i];
}

static inline void split(size_t width, const unsigned char *in, unsigned char *planes,
                         size_t stride, size_t count)
{
    if (width == 1)
        memcpy(planes, in, count);
    else if (width == 2)
        to_planes(2, in, planes, stride, count);
    else if (width == 4)
        to_planes(4, in, planes, stride, count);
    else if (width % 8 == 0)
        for (size_t j = 0; j < width; j += 8)
            to_eight_planes(width, in + j, planes + j * stride, stride, count);
    else
        to_planes(width, in, planes, stride, count);
}

static inline void join(size_t width, const unsigned char *planes, size_t stride,
                        unsigned char *out, size_t count)
{
    if (width == 1)
        memcpy(out, planes, count);
    else if (width == 2)
        from_planes(2, planes, stride, out, count);
    else if (width == 4)
        from_planes(4, planes, stride, out, count);
    else if (width == 8)
        from_planes(8, planes, stride, out, count);
    else if (width % 8 == 0)
        for (size_t j = 0; j < width; j += 8)
            from_eight_planes(width, planes + j * stride, stride, out + j, count);
    else
        from_planes(width, planes, stride, out, count);
}

/* Transpose 8 x 8 bits: bit b of byte k becomes bit k of byte b (Hacker's Delight, section 7-3).
 * Its own inverse. */
static inline uint64_t transpose_bits(uint64_t x)
{
    uint64_t t;

    t = (x ^ (x >> 7)) & UINT64_C(0x00AA00AA00AA00AA);
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & UINT64_C(0x0000CCCC0000CCCC);
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & UINT64_C(0x00000000F0F0F0F0);
    x ^= t ^ (t << 28);
    return x;
}

static inline void transpose_words(const unsigned char *restrict in, unsigned char *restrict out,
                                   size_t words)
{
    for (size_t k = 0; k < words; k++)
        cog_store_le64(out + 8 * k, transpose_bits(cog_load_le64(in + 8 * k)));
}

/* Elements are worked on in blocks whose planes fit the nearest cache; a multiple of 8 elements, so
 * that bits stay whole. */
enum { BLOCK_BYTES = 8192, BLOCK_LEAST = 8 };

static inline size_t block_elements(size_t width)
{
    size_t count = BLOCK_BYTES / width / BLOCK_LEAST * BLOCK_LEAST;

    return count ? count : BLOCK_LEAST;
}

static inline void bitshuffle(size_t width, const unsigned char *in, unsigned char *out,
                              size_t count)
{
    unsigned char planes[BLOCK_BYTES], words[BLOCK_BYTES];
    size_t octets = count / 8, whole = octets * 8;
    size_t step = block_elements(width);

    for (size_t at = 0; at < whole; at += step) {
        size_t now = whole - at < step ? whole - at : step;
        split(width, in + at * width, planes, now, now);
        transpose_words(planes, words, now * width / 8);
        for (size_t j = 0; j < width; j++)
            split(8, words + j * now, out + j * count + at / 8, octets, now / 8);
    }
    for (size_t j = 0; j < width; j++)
        for (size_t i = whole; i < count; i++)
            out[j * count + i] = in[i * width + j];
}

static inline void unbitshuffle(size_t width, const unsigned char *in, unsigned char *out,
                                size_t count)
{
    unsigned char planes[BLOCK_BYTES], words[BLOCK_BYTES];
    size_t octets = count / 8, whole = octets * 8;
    size_t step = block_elements(width);

    for (size_t at = 0; at < whole; at += step) {
        size_t now = whole - at < step ? whole - at : step;
        for (size_t j = 0; j < width; j++)
            join(8, in + j * count + at / 8, octets, words + j * now, now / 8);
        transpose_words(words, planes, now * width / 8);
        join(width, planes, now, out + at * width, now);
    }
    for (size_t j = 0; j < width; j++)
        for (size_t i = whole; i < count; i++)
            out[i * width + j] = in[j * count + i];
}

static inline void filter_elements(uint8_t filter, size_t width, const unsigned char *in,
                                   unsigned char *out, size_t count)
{
    if (filter == COG_FILTER_SHUFFLE)
        split(width, in, out, count, count);
    else
        bitshuffle(width, in, out, count);
}

static inline void unfilter_elements(uint8_t filter, size_t width, const unsigned char *in,
                                     unsigned char *out, size_t count)
{
    if (filter == COG_FILTER_SHUFFLE)
        join(width, in, count, out, count);
    else
        unbitshuffle(width, in, out, count);
}

#endif
