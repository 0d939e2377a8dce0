/*
 * Expand and compress one chunk: zstd with reused contexts, and the two byte filters. Knows no
 * container.
 *
 * A `struct cog_codec` holds the contexts; it may be used by one thread at a time. Everything here
 * is bounded by the sizes the caller gives: nothing is allocated for a declared length before it
 * was checked.
 */
#ifndef COG_CODEC_H
#define COG_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum cog_codec_id { COG_CODEC_STORED = 0, COG_CODEC_ZSTD = 1 };
enum cog_filter_id { COG_FILTER_NONE = 0, COG_FILTER_SHUFFLE = 1, COG_FILTER_BITSHUFFLE = 2 };

/* Text: a sixth smaller than level 1, for a quarter more time (docs/decisions/0008). */
enum { COG_LEVEL_DEFAULT = 3 };

struct cog_codec; /* reusable contexts and scratch */

enum cog_status cog_codec_new(struct cog_codec **out);
void cog_codec_free(struct cog_codec *codec); /* accepts NULL */

/*
 * A codec from the process's few spares, or a new one; give it back when done, from any thread.
 * Contexts cost more to make than a small document costs to expand.
 */
enum cog_status cog_codec_borrow(struct cog_codec **out);
void cog_codec_return(struct cog_codec *codec); /* accepts NULL */
void cog_codec_free_spares(void);               /* for leak checks at exit */

/* At least `size` bytes that stay the caller's until the next call for the same scratch; NULL when
 * refused. */
enum cog_scratch { COG_SCRATCH_STORED, COG_SCRATCH_RAW, COG_SCRATCH_FILTERED, COG_SCRATCH_COUNT };
unsigned char *cog_codec_scratch(struct cog_codec *codec, enum cog_scratch which, size_t size);

/* Largest result of compressing `size` bytes. */
size_t cog_codec_bound(size_t size);

/* One zstd frame: content size present, no checksum, window = the size of the input. `*written`
 * bytes in `out`. */
enum cog_status cog_codec_compress(struct cog_codec *codec, int level, const void *in,
                                   size_t in_size, void *out, size_t out_capacity, size_t *written);

/* Does `in` look like exactly one plain frame that declares `raw_size` bytes? Reads headers only;
 * no memory is taken. */
bool cog_codec_is_frame(const void *in, size_t in_size, size_t raw_size);
/* Exactly one frame of exactly `raw_size` bytes with nothing after it, or COG_ERR_DAMAGED. */
enum cog_status cog_codec_expand(struct cog_codec *codec, const void *in, size_t in_size, void *out,
                                 size_t raw_size);

/*
 * Apply or undo a filter on one chunk; `in` and `out` do not overlap. element_size >= 1
 * (COG_ERR_INVALID; any without a filter). COG_ERR_UNSUPPORTED: a filter that this build does not
 * know.
 */
enum cog_status cog_filter_apply(uint8_t filter, uint8_t element_size, const void *in, void *out,
                                 size_t size);
enum cog_status cog_filter_undo(uint8_t filter, uint8_t element_size, const void *in, void *out,
                                size_t size);

/* Compression is kept only where it saves at least 5 %. */
bool cog_codec_gains(uint64_t raw, uint64_t stored);

/*
 * Is it worth a try? False for known compressed formats (by magic bytes) and where a quick pass
 * over three 4 KiB samples gains under 5 %; costs 1-2 us on incompressible data. Up to 4 KiB the
 * try itself is the probe.
 */
bool cog_codec_worth_trying(struct cog_codec *codec, const void *data, size_t size);

#endif
