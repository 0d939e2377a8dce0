#include "core/codec.h"

#include <stdatomic.h>
#include <string.h>

#include <zstd.h>
#include <zstd_errors.h>

#include "core/alloc.h"
#include "core/bytes.h"

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

/*
 * The probe has the default level: the faster negative ones do without entropy coding, so that hex
 * digits (half the size at level 1), numbers and text of many words would look incompressible.
 */
enum { SAMPLES = 3, SAMPLE_SIZE = 4096, SAMPLE_BOUND = 8192, LEAST_WORTH = 64, PROBE_LEVEL = 1 };

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
