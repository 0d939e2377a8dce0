/*
 * The container: one artifact, one self-describing run of bytes (docs/format.md is the
 * specification).
 *
 *     head 32 | parts back to back, document last | index | freshness slots 2 x 32 | footer 48
 *
 * Memory in, memory out: no files here. Writing is one forward pass into a sink. Reading goes
 * through a source, which is memory or a function that reads ranges, so that files, maps, S3 and
 * Redis share one reader. Nothing is parsed, expanded or returned before its own link of the
 * checksum chain footer -> index -> chunk holds.
 *
 * Verdicts: COG_ERR_DAMAGED (read once more, then quarantine), COG_ERR_FOREIGN (a plain miss, never
 * touched), COG_ERR_UNSUPPORTED (that part only).
 */
#ifndef COG_ENTRY_H
#define COG_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/buf.h"
#include "core/codec.h"
#include "core/hash.h"
#include "core/meta.h"
#include "core/status.h"

enum {
    COG_ENTRY_HEAD_SIZE = 32,
    COG_ENTRY_FOOTER_SIZE = 48,
    COG_ENTRY_TAIL_SIZE = COG_ENTRY_FOOTER_SIZE + 2 * COG_SLOT_SIZE, /* 112 */
    COG_ENTRY_SMALLEST = COG_ENTRY_HEAD_SIZE + COG_ENTRY_TAIL_SIZE,  /* 144 */
    COG_KEY_LIMIT = 65536,
    COG_META_LIMIT = 1 << 20,
    COG_PARTS_LIMIT = 1 << 20,
    COG_CHUNKS_LIMIT = 1 << 22,
    COG_NAME_LIMIT = 255,
    COG_CHUNK_LIMIT = 64 << 20,
    COG_CHUNK_DEFAULT = 5 << 20,
    COG_ARRAY_CHUNK = 256 << 10,
    COG_ENTRY_COLD_READ = 64 << 10, /* what a cold reader fetches first */
    COG_ENTRY_WINDOW =
        16 << 20 /* the most stored bytes that one read of chunks asks for, by default */
};

enum cog_part_kind {
    COG_PART_ARRAY = 0x10,
    COG_PART_BLOB = 0x18,
    COG_PART_FRAME = 0x20,
    COG_PART_ENTRY = 0x30,
    COG_PART_DOC = 0xF0
};

/* --- writing --------------------------------------------------------------------------------- */

enum { COG_RUN_FROM = 8 << 20 };

/* Many chunks that are stored as they lie: `chunk_size` bytes each but for the last. */
struct cog_run {
    const unsigned char *data;
    size_t size, chunk_size;
    uint64_t token;
    uint32_t first; /* number of the first chunk in the entry */
};

/*
 * Where finished bytes go, strictly forward. With `stable`, `data` stays valid and unchanged until
 * the writer's owner lets go of the inputs, so a gathering sink may keep the pointer instead of
 * copying.
 */
struct cog_sink {
    void *context;
    enum cog_status (*write)(void *context, const void *data, size_t size, bool stable,
                             struct cog_error *err);
    /* Stable bytes of COG_RUN_FROM and more, with the checksum of each of their chunks, 8 bytes
     * little endian, into `sums`: a sink may take both at once. NULL: `write` has them. */
    enum cog_status (*write_run)(void *context, const struct cog_run *run, unsigned char *sums,
                                 struct cog_error *err);
};

/* A sink that gathers an image in memory: borrowed pieces where stable, owned ones elsewhere. `{0}`
 * is a valid empty one. */
struct cog_piece {
    const unsigned char *data;
    size_t size;
};
struct cog_image {
    struct cog_piece *pieces; /* valid after cog_image_seal() */
    size_t count;
    size_t capacity;
    struct cog_buf owned;
    uint64_t length; /* sum of all pieces */
    bool sealed;
};
struct cog_sink cog_image_sink(struct cog_image *image);
enum cog_status
cog_image_seal(struct cog_image *image); /* resolve pieces that point into `owned`; idempotent */
void cog_image_release(struct cog_image *image);
enum cog_status cog_image_copy(const struct cog_image *image,
                               void *out); /* `length` bytes, sealed image */

struct cog_part_options { /* zeroes are the defaults of the kind */
    uint8_t codec;  /* enum cog_codec_id wanted; ZSTD falls back to STORED per part where it gains
                       under 5 % */
    uint8_t filter; /* enum cog_filter_id */
    uint8_t element_size; /* bytes of an array element, for the filter; 0 = 1 */
    uint8_t align_log2;   /* 0 = default of the kind (arrays 6) */
    uint32_t chunk_size;  /* raw bytes; 0 = default: 5 MiB, arrays: whole rows up to 256 KiB (see
                             row_size) */
    uint64_t row_size;    /* arrays: bytes of one row (first axis), 0 = unknown */
    int level;            /* zstd level, 0 = COG_LEVEL_DEFAULT */
};

struct cog_entry_writer; /* opaque */

/*
 * Begin an entry for the canonical key encoding `key` (may be released after the call). token 0 = a
 * fresh one from the system's random source, never from a generator that a fork would copy; tests
 * and resumed writes give their own.
 */
enum cog_status cog_entry_writer_new(const void *key, size_t key_size, uint64_t token,
                                     struct cog_sink sink, struct cog_entry_writer **out,
                                     struct cog_error *err);
/*
 * One part is open at a time; part numbers count from 0 in file order; the document is the last
 * part and has no name. When part_begin refuses, nothing has happened. Once bytes of a part could
 * not be written (the sink, memory, a limit of the index), every later call answers the same: give
 * the entry up. What is asked for is decided by the first chunk (part_begin, part_write, part_end)
 * or by the whole (part_put): a codec that gains under 5 % is dropped together with its filter.
 */
enum cog_status cog_entry_part_begin(struct cog_entry_writer *writer, uint8_t kind,
                                     const void *name, size_t name_size,
                                     const struct cog_part_options *options, uint32_t *number,
                                     struct cog_error *err);
enum cog_status cog_entry_part_write(struct cog_entry_writer *writer, const void *data, size_t size,
                                     bool stable, struct cog_error *err);
enum cog_status cog_entry_part_end(struct cog_entry_writer *writer, struct cog_error *err);
/* A whole part in one call; with everything known, the probe decides about compression once. */
enum cog_status cog_entry_part_put(struct cog_entry_writer *writer, uint8_t kind, const void *name,
                                   size_t name_size, const struct cog_part_options *options,
                                   const void *data, size_t size, bool stable, uint32_t *number,
                                   struct cog_error *err);
/*
 * Index, slots, footer. `meta` is the encoded metadata document (may be empty). `fresh` goes into
 * slot A with seq 1, whatever seq it has; NULL: refreshed 0, ttl never. COG_ERR_INVALID: metadata
 * that breaks a rule, two parts of one kind and name.
 */
enum cog_status cog_entry_finish(struct cog_entry_writer *writer, const void *meta,
                                 size_t meta_size, const struct cog_freshness *fresh,
                                 uint64_t *length, struct cog_error *err);
uint64_t cog_entry_writer_token(const struct cog_entry_writer *writer);
void cog_entry_writer_free(
    struct cog_entry_writer *writer); /* accepts NULL; unfinished = abandoned */

/* --- reading --------------------------------------------------------------------------------- */

/*
 * Bytes of one container. `read` fills all of `size` bytes or fails; it is never asked for bytes
 * beyond `size` of the source. `view` may be NULL; if set it returns a pointer to [offset, offset +
 * size), good until the call it was asked in returns, or NULL. `window` bounds the scratch memory
 * and the size of one read: consecutive chunks of up to so many bytes come in one read (a chunk
 * alone always does); 0 = 16 MiB.
 */
struct cog_source {
    void *context;
    uint64_t size; /* the whole container */
    enum cog_status (*read)(void *context, uint64_t offset, void *out, size_t size,
                            struct cog_error *err);
    const unsigned char *(*view)(void *context, uint64_t offset, size_t size);
    size_t window;
};
struct cog_source cog_memory_source(const void *image,
                                    uint64_t size); /* context = the image pointer */

struct cog_part {
    uint8_t kind;
    uint8_t codec, filter, element_size, align_log2;
    uint32_t chunk_size;
    uint64_t raw_size;
    uint64_t offset; /* of its first stored byte in the container */
    uint64_t stored_size;
    uint32_t first_chunk, chunk_count;
    bool supported; /* codec and filter are known */
};

struct cog_entry; /* a parsed, verified index; independent of the source it came from; immutable,
                     shareable by threads */

/*
 * Check and parse the end of a container: footer, index, slots, rules, key. `key` NULL: any key.
 * Reads the last min(size, cold_read) bytes first (cold_read 0 = 64 KiB), and the missing front of
 * the index if need be. COG_OK, COG_ERR_DAMAGED, COG_ERR_FOREIGN, or what the source answered.
 */
enum cog_status cog_entry_open(const struct cog_source *source, const void *key, size_t key_size,
                               size_t cold_read, struct cog_entry **out, struct cog_error *err);
/*
 * The same write opened again: `tail` is the end of the container as it is now. COG_ABSENT where
 * its footer is not that of `known`, or the key is another. The new entry has the freshness of
 * `tail`, and borrows all else: `known` must outlive it.
 */
enum cog_status cog_entry_reopen(const struct cog_entry *known,
                                 const unsigned char tail[COG_ENTRY_TAIL_SIZE], const void *key,
                                 size_t key_size, struct cog_entry **out);
void cog_entry_free(struct cog_entry *entry);              /* accepts NULL */
size_t cog_entry_footprint(const struct cog_entry *entry); /* bytes of memory it takes */

uint64_t cog_entry_token(const struct cog_entry *entry);
uint64_t cog_entry_length(const struct cog_entry *entry);
const unsigned char *cog_entry_key(const struct cog_entry *entry, size_t *size);
const unsigned char *cog_entry_meta(const struct cog_entry *entry, size_t *size);
/* The slot that was current when the entry was opened; COG_ABSENT: none valid (a miss,
 * reclaimable). */
enum cog_status cog_entry_freshness(const struct cog_entry *entry, struct cog_freshness *out,
                                    unsigned *which);

uint32_t cog_entry_part_count(const struct cog_entry *entry);
uint32_t cog_entry_chunk_count(const struct cog_entry *entry); /* of all parts together */
enum cog_status cog_entry_part(const struct cog_entry *entry, uint32_t number,
                               struct cog_part *out);
/* The name (at most 255 bytes, not terminated) into `out`. */
enum cog_status cog_entry_part_name(const struct cog_entry *entry, uint32_t number,
                                    unsigned char out[COG_NAME_LIMIT], size_t *size);
enum cog_status cog_entry_find(const struct cog_entry *entry, uint8_t kind, const void *name,
                               size_t name_size,
                               uint32_t *number); /* COG_ABSENT when there is none; binary search */

/*
 * Raw bytes [start, stop) of a part into `out` (stop - start bytes). No byte reaches `out` whose
 * chunk was not verified; with a source that has `view`, or a range within one window, all chunks
 * are verified before the first byte is written. `codec` may be NULL: one is borrowed where it is
 * needed. COG_ERR_INVALID: no such part, or a range beyond it.
 */
enum cog_status cog_entry_read(const struct cog_entry *entry, const struct cog_source *source,
                               struct cog_codec *codec, uint32_t number, uint64_t start,
                               uint64_t stop, void *out, struct cog_error *err);
/* Check the stored bytes of chunks [first, first + count) of the file (chunk numbers of the file).
 */
enum cog_status cog_entry_check_chunks(const struct cog_entry *entry,
                                       const struct cog_source *source, uint32_t first,
                                       uint32_t count, struct cog_error *err);
/* Check all bytes of a plain part, which are in memory. */
enum cog_status cog_entry_check_plain(const struct cog_entry *entry, uint32_t number,
                                      const void *bytes, struct cog_error *err);
/* Stored extent of the chunks of `number` that cover raw [start, stop): one range of the container.
 */
enum cog_status cog_entry_extent(const struct cog_entry *entry, uint32_t number, uint64_t start,
                                 uint64_t stop, uint64_t *offset, uint64_t *size,
                                 uint32_t *first_chunk, uint32_t *chunk_count);
/* True when raw bytes lie as they are in the file (codec 0, filter 0): mappable. */
bool cog_part_is_plain(const struct cog_part *part);
/* What lies outside of the chunks and the index: head and padding. */
enum cog_status cog_entry_check_frame(const struct cog_entry *entry,
                                      const struct cog_source *source, struct cog_error *err);
/* Everything: head, padding, every chunk, every extension. */
enum cog_status cog_entry_verify(const struct cog_entry *entry, const struct cog_source *source,
                                 struct cog_error *err);
/*
 * Look at chunks [first, stop) of the file (a `stop` beyond its end is its end) and go on behind
 * what is damaged: the numbers of those that do not hold into `damaged`, the first `most` of them,
 * `*found` how many there are. COG_OK also where there are some; else what the source answered.
 */
enum cog_status cog_entry_find_damage(const struct cog_entry *entry,
                                      const struct cog_source *source, uint32_t first,
                                      uint32_t stop, uint32_t *damaged, size_t most, size_t *found,
                                      struct cog_error *err);

/*
 * The same parts under another key and with other metadata: a container of `head`, the bytes 32 to
 * `*data_end` of the old one, and `tail` (replaced). Write token, checksums of chunks, extensions
 * and life are those of `entry`. COG_ERR_DAMAGED: no freshness slot is valid, so that there is no
 * life to keep. COG_ERR_INVALID: metadata that breaks a rule. COG_ERR_LIMIT.
 */
enum cog_status cog_entry_readdress(const struct cog_entry *entry, const void *key, size_t key_size,
                                    const void *meta, size_t meta_size,
                                    unsigned char head[COG_ENTRY_HEAD_SIZE], struct cog_buf *tail,
                                    uint64_t *data_end, struct cog_error *err);

#endif
