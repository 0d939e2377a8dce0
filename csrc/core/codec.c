#include "core/codec.h"

#include <stdatomic.h>
#include <string.h>

#include <zstd.h>
#include <zstd_errors.h>

#include "core/alloc.h"
#include "core/bytes.h"

/* --- filters ------------------------------------------------------------------------------- */

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
static void to_eight_planes(size_t width, const unsigned char *in, unsigned char *planes,
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

static void from_eight_planes(size_t width, const unsigned char *planes, size_t stride,
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

static void split(size_t width, const unsigned char *in, unsigned char *planes, size_t stride,
                  size_t count)
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

static void join(size_t width, const unsigned char *planes, size_t stride, unsigned char *out,
                 size_t count)
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

static void transpose_words(const unsigned char *restrict in, unsigned char *restrict out,
                            size_t words)
{
    for (size_t k = 0; k < words; k++)
        cog_store_le64(out + 8 * k, transpose_bits(cog_load_le64(in + 8 * k)));
}

/* Elements are worked on in blocks whose planes fit the nearest cache; a multiple of 8 elements, so
 * that bits stay whole. */
enum { BLOCK_BYTES = 8192, BLOCK_LEAST = 8 };

static size_t block_elements(size_t width)
{
    size_t count = BLOCK_BYTES / width / BLOCK_LEAST * BLOCK_LEAST;

    return count ? count : BLOCK_LEAST;
}

static void bitshuffle(size_t width, const unsigned char *in, unsigned char *out, size_t count)
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

static void unbitshuffle(size_t width, const unsigned char *in, unsigned char *out, size_t count)
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

enum cog_status cog_filter_apply(uint8_t filter, uint8_t element_size, const void *in, void *out,
                                 size_t size)
{
    size_t count, shuffled;

    if (filter > COG_FILTER_BITSHUFFLE)
        return COG_ERR_UNSUPPORTED;
    if (filter == COG_FILTER_NONE || size == 0) {
        memcpy(out, in, size);
        return COG_OK;
    }
    if (element_size == 0)
        return COG_ERR_INVALID;
    count = size / element_size;
    shuffled = count * element_size;
    if (filter == COG_FILTER_SHUFFLE)
        split(element_size, in, out, count, count);
    else
        bitshuffle(element_size, in, out, count);
    memcpy((unsigned char *)out + shuffled, (const unsigned char *)in + shuffled, size - shuffled);
    return COG_OK;
}

enum cog_status cog_filter_undo(uint8_t filter, uint8_t element_size, const void *in, void *out,
                                size_t size)
{
    size_t count, shuffled;

    if (filter > COG_FILTER_BITSHUFFLE)
        return COG_ERR_UNSUPPORTED;
    if (filter == COG_FILTER_NONE || size == 0) {
        memcpy(out, in, size);
        return COG_OK;
    }
    if (element_size == 0)
        return COG_ERR_INVALID;
    count = size / element_size;
    shuffled = count * element_size;
    if (filter == COG_FILTER_SHUFFLE)
        join(element_size, in, count, out, count);
    else
        unbitshuffle(element_size, in, out, count);
    memcpy((unsigned char *)out + shuffled, (const unsigned char *)in + shuffled, size - shuffled);
    return COG_OK;
}

/* --- contexts ------------------------------------------------------------------------------ */

enum { SCRATCH_KEPT = 1 << 20 /* a spare context holds on to no more than this in each scratch */ };

struct scratch {
    unsigned char *data;
    size_t capacity;
};

struct cog_codec {
    ZSTD_CCtx *compressor; /* both made on first use */
    ZSTD_DCtx *expander;
    struct scratch scratch[COG_SCRATCH_COUNT];
};

enum cog_status cog_codec_new(struct cog_codec **out)
{
    *out = cog_alloc_zeroed(1, sizeof **out);
    return *out ? COG_OK : COG_ERR_NOMEM;
}

void cog_codec_free(struct cog_codec *codec)
{
    if (!codec)
        return;
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeDCtx(codec->expander);
    for (int i = 0; i < COG_SCRATCH_COUNT; i++)
        cog_free(codec->scratch[i].data);
    cog_free(codec);
}

unsigned char *cog_codec_scratch(struct cog_codec *codec, enum cog_scratch which, size_t size)
{
    struct scratch *scratch = &codec->scratch[which];

    if (size > scratch->capacity) {
        cog_free(scratch->data);
        scratch->capacity = 0;
        scratch->data = cog_alloc(size);
        if (scratch->data)
            scratch->capacity = size;
    }
    return scratch->data;
}

/*
 * Spares: contexts that nobody is using. Taking and giving back are single exchanges, so that any
 * thread may do it and a fork at any moment leaves at worst a spare less in the child.
 */
enum { SPARES = 4 };
static _Atomic(struct cog_codec *) spares[SPARES];

enum cog_status cog_codec_borrow(struct cog_codec **out)
{
    for (int i = 0; i < SPARES; i++) {
        if (!atomic_load_explicit(&spares[i], memory_order_relaxed))
            continue;
        *out = atomic_exchange_explicit(&spares[i], NULL, memory_order_acquire);
        if (*out)
            return COG_OK;
    }
    return cog_codec_new(out);
}

void cog_codec_return(struct cog_codec *codec)
{
    if (!codec)
        return;
    for (int i = 0; i < COG_SCRATCH_COUNT; i++) {
        if (codec->scratch[i].capacity > SCRATCH_KEPT) {
            cog_free(codec->scratch[i].data);
            codec->scratch[i].data = NULL;
            codec->scratch[i].capacity = 0;
        }
    }
    for (int i = 0; i < SPARES; i++) {
        struct cog_codec *empty = NULL;
        if (atomic_compare_exchange_strong_explicit(&spares[i], &empty, codec, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    cog_codec_free(codec);
}

void cog_codec_free_spares(void)
{
    for (int i = 0; i < SPARES; i++)
        cog_codec_free(atomic_exchange(&spares[i], NULL));
}

/* --- compression --------------------------------------------------------------------------- */

size_t cog_codec_bound(size_t size)
{
    return ZSTD_compressBound(size);
}

static enum cog_status from_zstd(size_t result)
{
    return ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation ? COG_ERR_NOMEM
                                                                     : COG_ERR_INVALID;
}

/* The smallest window that holds the whole input: what repeats across a document is found. */
static int window_log(size_t size)
{
    int log = 10;

    while (log < 27 && ((size_t)1 << log) < size)
        log++;
    return log;
}

enum cog_status cog_codec_compress(struct cog_codec *codec, int level, const void *in,
                                   size_t in_size, void *out, size_t out_capacity, size_t *written)
{
    size_t result;

    *written = 0;
    if (!codec->compressor && !(codec->compressor = ZSTD_createCCtx()))
        return COG_ERR_NOMEM;
    (void)ZSTD_CCtx_reset(codec->compressor, ZSTD_reset_session_and_parameters);
    result = ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_compressionLevel, level);
    if (!ZSTD_isError(result))
        result = ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_windowLog, window_log(in_size));
    if (!ZSTD_isError(result))
        result = ZSTD_compress2(codec->compressor, out, out_capacity, in, in_size);
    if (ZSTD_isError(result))
        return from_zstd(result);
    *written = result;
    return COG_OK;
}

/*
 * The plainest frame there is: magic of version 1, no dictionary, no checksum of its own, no
 * reserved bit (RFC 8878, section 3.1.1). Checked here, so that neither skippable nor legacy frames
 * ever reach the decoder.
 */
static bool is_plain_frame(const unsigned char *frame, size_t size)
{
    enum { MAGIC = 4, OTHER_FLAGS = 0x0F };

    return size > MAGIC && cog_load_le32(frame) == UINT32_C(0xFD2FB528) &&
           (frame[MAGIC] & OTHER_FLAGS) == 0;
}

bool cog_codec_is_frame(const void *in, size_t in_size, size_t raw_size)
{
    return is_plain_frame(in, in_size) && ZSTD_getFrameContentSize(in, in_size) == raw_size &&
           ZSTD_findFrameCompressedSize(in, in_size) == in_size;
}

enum cog_status cog_codec_expand(struct cog_codec *codec, const void *in, size_t in_size, void *out,
                                 size_t raw_size)
{
    size_t result;

    if (!cog_codec_is_frame(in, in_size, raw_size))
        return COG_ERR_DAMAGED;
    if (!codec->expander && !(codec->expander = ZSTD_createDCtx()))
        return COG_ERR_NOMEM;
    result = ZSTD_decompressDCtx(codec->expander, out, raw_size, in, in_size);
    if (ZSTD_isError(result) && ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation)
        return COG_ERR_NOMEM;
    return result == raw_size ? COG_OK : COG_ERR_DAMAGED;
}

/* --- is it worth it? ----------------------------------------------------------------------- */

bool cog_codec_gains(uint64_t raw, uint64_t stored)
{
    return stored <= raw - raw / 20 - (raw % 20 != 0);
}

static bool starts_with(const unsigned char *data, size_t size, size_t at, const char *mark,
                        size_t mark_size)
{
    return size >= at + mark_size && memcmp(data + at, mark, mark_size) == 0;
}

/* Formats that are compressed by nature. Told by their first bytes; a false alarm only leaves
 * something uncompressed. */
static bool is_compressed_format(const unsigned char *data, size_t size)
{
    static const struct {
        uint8_t at, size;
        char mark[8];
    } formats[] = {
        {0, 3, {'\xFF', '\xD8', '\xFF'}},                          /* JPEG */
        {0, 8, {'\x89', 'P', 'N', 'G', '\r', '\n', '\x1A', '\n'}}, /* PNG */
        {8, 4, {'W', 'E', 'B', 'P'}},                              /* WebP */
        {4, 4, {'f', 't', 'y', 'p'}},                              /* MP4, HEIC, AVIF */
        {0, 4, {'G', 'I', 'F', '8'}},                              /* GIF */
        {0, 4, {'\x1A', '\x45', '\xDF', '\xA3'}},                  /* Matroska, WebM */
        {0, 4, {'O', 'g', 'g', 'S'}},                              /* Ogg */
        {0, 4, {'f', 'L', 'a', 'C'}},                              /* FLAC */
        {0, 4, {'\x28', '\xB5', '\x2F', '\xFD'}},                  /* zstd */
        {0, 3, {'\x1F', '\x8B', '\x08'}},                          /* gzip */
        {0, 6, {'\xFD', '7', 'z', 'X', 'Z', '\0'}},                /* xz */
        {0, 3, {'B', 'Z', 'h'}},                                   /* bzip2 */
        {0, 4, {'\x04', '\x22', '\x4D', '\x18'}},                  /* LZ4 */
        {0, 4, {'\xFF', '\x4F', '\xFF', '\x51'}},                  /* JPEG 2000 */
        {0, 8, {'\0', '\0', '\0', '\x0C', 'J', 'X', 'L', ' '}},    /* JPEG XL */
    };

    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (starts_with(data, size, formats[i].at, formats[i].mark, formats[i].size))
            return true;
    return false;
}

enum { SAMPLES = 3, SAMPLE_SIZE = 4096, SAMPLE_BOUND = 8192, LEAST_WORTH = 64, PROBE_LEVEL = -5 };

bool cog_codec_worth_trying(struct cog_codec *codec, const void *data, size_t size)
{
    unsigned char out[SAMPLE_BOUND];
    const unsigned char *bytes = data;
    size_t raw = 0, stored = 0;

    if (size < LEAST_WORTH || is_compressed_format(bytes, size))
        return false;
    if (size <= SAMPLE_SIZE) /* small enough to learn by doing */
        return true;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t at = (size - SAMPLE_SIZE) / (SAMPLES - 1) * i;
        size_t written;
        if (cog_codec_compress(codec, PROBE_LEVEL, bytes + at, SAMPLE_SIZE, out, sizeof out,
                               &written) != COG_OK)
            return false;
        raw += SAMPLE_SIZE;
        stored += written;
    }
    return cog_codec_gains(raw, stored);
}
