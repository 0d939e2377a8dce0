/* Writing an entry: one forward pass into a sink (entry.h; docs/format.md is the specification). */
#include <string.h>

#include "core/alloc.h"
#include "core/entry.h"
#include "core/entry_layout.h"
#include "core/fs.h"

enum {
    INDEX_LEVEL = 3,
    ARRAY_ALIGN_LOG2 = 6,
    ROW_FORMATS = COG_FORMATS_LIMIT / 2 /* formats that array rows may use up */
};

struct row { /* what the index says of one part */
    uint64_t raw;
    uint32_t name_at;
    uint8_t name_size, shared, kind, format;
};

struct open_part {
    bool is_open;
    bool settled; /* codec chosen, format known, padding written */
    struct cog_part_options options;
    const unsigned char *whole; /* all bytes of the part where they are known in advance */
    size_t whole_size;
    uint32_t chunk_size;
    uint64_t raw, stored;
};

struct cog_entry_writer {
    struct cog_sink sink;
    uint64_t token;
    uint64_t offset;
    enum cog_status failed; /* once the sink or memory failed, every call answers this */
    bool finished;
    bool sorted; /* file order is lookup order so far */
    bool has_doc;
    uint32_t chunks;
    size_t suffix_bytes;
    size_t format_count;
    struct cog_format formats[COG_FORMATS_LIMIT];
    struct open_part part;
    struct cog_buf key;
    struct cog_buf rows;    /* struct row */
    struct cog_buf names;   /* expanded, one after another */
    struct cog_buf sums;    /* 8 bytes a chunk, as in the index */
    struct cog_buf stored;  /* uint32_t of each chunk whose stored length is listed */
    struct cog_buf pending; /* a chunk that is not full yet */
    struct cog_codec *codec;
};

static struct row *rows_of(const struct cog_entry_writer *writer)
{
    return (struct row *)(void *)writer->rows.data;
}

static uint32_t row_count(const struct cog_entry_writer *writer)
{
    return (uint32_t)(writer->rows.size / sizeof(struct row));
}

static const unsigned char *name_of(const struct cog_entry_writer *writer, const struct row *row)
{
    static const unsigned char none[1];

    return writer->names.data ? writer->names.data + row->name_at : none;
}

/* Remember a failure after which the bytes in the sink are of no use. */
static enum cog_status break_off(struct cog_entry_writer *writer, enum cog_status status)
{
    if (status != COG_OK)
        writer->failed = status;
    return status;
}

static enum cog_status emit(struct cog_entry_writer *writer, const void *data, size_t size,
                            bool stable, struct cog_error *err)
{
    enum cog_status status = writer->sink.write(writer->sink.context, data, size, stable, err);

    if (status == COG_OK)
        writer->offset += size;
    return status;
}

/* --- begin --------------------------------------------------------------------------------- */

static enum cog_status fresh_token(uint64_t *token, struct cog_error *err)
{
    do {
        int result = cog_fs_system()->random(token, sizeof *token);
        if (result < 0)
            return cog_fail(err, COG_ERR_IO, -result, "no random bytes for a write token");
    } while (*token == 0);
    return COG_OK;
}

static enum cog_status write_head(struct cog_entry_writer *writer, struct cog_error *err)
{
    unsigned char head[COG_ENTRY_HEAD_SIZE];
    struct cog_digest digest;

    cog_hash128(writer->key.data, writer->key.size, &digest);
    cog_store_le64(head, COG_HEAD_MAGIC);
    cog_store_le64(head + 8, writer->token);
    memcpy(head + 16, digest.bytes, sizeof digest.bytes);
    return emit(writer, head, sizeof head, false, err);
}

enum cog_status cog_entry_writer_new(const void *key, size_t key_size, uint64_t token,
                                     struct cog_sink sink, struct cog_entry_writer **out,
                                     struct cog_error *err)
{
    struct cog_entry_writer *writer;
    enum cog_status status = COG_OK;

    *out = NULL;
    if (key_size > COG_KEY_LIMIT)
        return cog_fail(err, COG_ERR_LIMIT, 0, "the key has %zu bytes, the limit is %d", key_size,
                        COG_KEY_LIMIT);
    writer = cog_alloc_zeroed(1, sizeof *writer);
    if (!writer)
        return COG_ERR_NOMEM;
    writer->sink = sink;
    writer->token = token;
    writer->sorted = true;
    if (token == 0)
        status = fresh_token(&writer->token, err);
    if (status == COG_OK)
        status = cog_buf_append(&writer->key, key, key_size);
    if (status == COG_OK)
        status = write_head(writer, err);
    if (status != COG_OK) {
        cog_entry_writer_free(writer);
        return status;
    }
    *out = writer;
    return COG_OK;
}

uint64_t cog_entry_writer_token(const struct cog_entry_writer *writer)
{
    return writer->token;
}

void cog_entry_writer_free(struct cog_entry_writer *writer)
{
    if (!writer)
        return;
    cog_buf_release(&writer->key);
    cog_buf_release(&writer->rows);
    cog_buf_release(&writer->names);
    cog_buf_release(&writer->sums);
    cog_buf_release(&writer->stored);
    cog_buf_release(&writer->pending);
    cog_codec_return(writer->codec);
    cog_free(writer);
}

/* --- parts --------------------------------------------------------------------------------- */

/* Lookup order: kind, then length of the name, then its bytes. */
static int compare_rows(const struct cog_entry_writer *writer, const struct row *a,
                        const struct row *b)
{
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (a->name_size != b->name_size)
        return a->name_size < b->name_size ? -1 : 1;
    return memcmp(name_of(writer, a), name_of(writer, b), a->name_size);
}

/* The most the index may come to with what there is; checked early, so that a put fails early. */
static bool index_fits(const struct cog_entry_writer *writer, size_t more_parts, size_t more_names,
                       size_t more_chunks)
{
    uint64_t parts = row_count(writer) + more_parts;
    uint64_t chunks = writer->chunks + more_chunks;

    return COG_INDEX_COUNTS + writer->key.size + COG_META_LIMIT +
               COG_FORMATS_LIMIT * COG_FORMAT_SIZE + writer->suffix_bytes + more_names +
               parts * (4 + COG_RAW_WIDTH_LIMIT + COG_ORDER_WIDTH_LIMIT) +
               chunks * (COG_STORED_WIDTH_LIMIT + 8) <=
           COG_INDEX_LIMIT;
}

static enum cog_status check_part(const struct cog_entry_writer *writer, uint8_t kind,
                                  size_t name_size, const struct cog_part_options *options,
                                  struct cog_error *err)
{
    if (writer->failed)
        return writer->failed;
    if (writer->finished || writer->part.is_open)
        return cog_fail(err, COG_ERR_INVALID, 0, "a part begins where none may");
    if (writer->has_doc)
        return cog_fail(err, COG_ERR_INVALID, 0, "the document is the last part");
    if (kind == COG_PART_DOC && name_size != 0)
        return cog_fail(err, COG_ERR_INVALID, 0, "the document has no name");
    if (name_size > COG_NAME_LIMIT)
        return cog_fail(err, COG_ERR_LIMIT, 0, "a part name has %zu bytes, the limit is %d",
                        name_size, COG_NAME_LIMIT);
    if (options->codec > COG_CODEC_ZSTD || options->filter > COG_FILTER_BITSHUFFLE ||
        options->align_log2 > COG_ALIGN_LIMIT)
        return cog_fail(err, COG_ERR_INVALID, 0, "unknown codec, filter or alignment");
    if (options->chunk_size > COG_CHUNK_LIMIT)
        return cog_fail(err, COG_ERR_LIMIT, 0, "chunks of %u bytes, the limit is %d",
                        (unsigned)options->chunk_size, COG_CHUNK_LIMIT);
    if (row_count(writer) >= COG_PARTS_LIMIT || writer->names.size + name_size > COG_NAMES_LIMIT ||
        !index_fits(writer, 1, name_size, 0))
        return cog_fail(err, COG_ERR_LIMIT, 0, "too many parts or names for one entry (%u parts)",
                        (unsigned)row_count(writer));
    return COG_OK;
}

/* Whole rows, the most that fit 256 KiB; or one row up to 5 MiB; else 5 MiB. */
static uint32_t array_chunk(const struct cog_entry_writer *writer, uint64_t row_size)
{
    if (row_size == 0 || writer->format_count >= ROW_FORMATS)
        return COG_ARRAY_CHUNK;
    if (row_size <= COG_ARRAY_CHUNK)
        return (uint32_t)(COG_ARRAY_CHUNK / row_size * row_size);
    return row_size <= COG_CHUNK_DEFAULT ? (uint32_t)row_size : COG_CHUNK_DEFAULT;
}

static uint8_t shared_prefix(const unsigned char *a, size_t a_size, const unsigned char *b,
                             size_t b_size)
{
    size_t most = a_size < b_size ? a_size : b_size;
    size_t shared = 0;

    while (shared < most && a[shared] == b[shared])
        shared++;
    return (uint8_t)shared;
}

/* Add the row and its name. The name stays out of `names` if the row finds no memory. */
static enum cog_status add_row(struct cog_entry_writer *writer, uint8_t kind, const void *name,
                               size_t name_size)
{
    uint32_t count = row_count(writer);
    struct row row = {.name_at = (uint32_t)writer->names.size,
                      .name_size = (uint8_t)name_size,
                      .kind = kind};
    enum cog_status status = cog_buf_append(&writer->names, name, name_size);

    if (status != COG_OK)
        return status;
    if (count > 0) {
        const struct row *last = &rows_of(writer)[count - 1];
        row.shared = shared_prefix(name_of(writer, last), last->name_size, name_of(writer, &row),
                                   name_size);
    }
    status = cog_buf_append(&writer->rows, &row, sizeof row);
    if (status != COG_OK) {
        writer->names.size -= name_size;
        return status;
    }
    writer->suffix_bytes += name_size - row.shared;
    if (count > 0 &&
        compare_rows(writer, &rows_of(writer)[count - 1], &rows_of(writer)[count]) >= 0)
        writer->sorted = false;
    return COG_OK;
}

enum cog_status cog_entry_part_begin(struct cog_entry_writer *writer, uint8_t kind,
                                     const void *name, size_t name_size,
                                     const struct cog_part_options *options, uint32_t *number,
                                     struct cog_error *err)
{
    static const struct cog_part_options defaults;
    struct open_part *part = &writer->part;
    enum cog_status status;

    if (!options)
        options = &defaults;
    status = check_part(writer, kind, name_size, options, err);
    if (status == COG_OK)
        status = add_row(writer, kind, name, name_size);
    if (status != COG_OK)
        return status;
    memset(part, 0, sizeof *part);
    part->is_open = true;
    part->options = *options;
    part->chunk_size = options->chunk_size      ? options->chunk_size
                       : kind == COG_PART_ARRAY ? array_chunk(writer, options->row_size)
                                                : COG_CHUNK_DEFAULT;
    if (part->options.element_size == 0)
        part->options.element_size = 1;
    if (part->options.level == 0)
        part->options.level = COG_LEVEL_DEFAULT;
    writer->has_doc = kind == COG_PART_DOC;
    if (number)
        *number = row_count(writer) - 1;
    return COG_OK;
}

/* --- chunks -------------------------------------------------------------------------------- */

struct packed { /* a chunk as it will be stored */
    const unsigned char *data;
    size_t size;
    bool stable;
};

static enum cog_status filter_chunk(struct cog_entry_writer *writer, struct packed *chunk)
{
    const struct cog_part_options *options = &writer->part.options;
    unsigned char *filtered;

    if (options->filter == COG_FILTER_NONE)
        return COG_OK;
    filtered = cog_codec_scratch(writer->codec, COG_SCRATCH_FILTERED, chunk->size);
    if (!filtered)
        return COG_ERR_NOMEM;
    chunk->stable = false;
    (void)cog_filter_apply(options->filter, options->element_size, chunk->data, filtered,
                           chunk->size);
    chunk->data = filtered;
    return COG_OK;
}

static enum cog_status pack_chunk(struct cog_entry_writer *writer, struct packed *chunk)
{
    const struct cog_part_options *options = &writer->part.options;
    enum cog_status status = filter_chunk(writer, chunk);
    size_t bound, written;
    unsigned char *out;

    if (status != COG_OK || options->codec == COG_CODEC_STORED)
        return status;
    bound = cog_codec_bound(chunk->size);
    out = cog_codec_scratch(writer->codec, COG_SCRATCH_STORED, bound);
    if (!out)
        return COG_ERR_NOMEM;
    status = cog_codec_compress(writer->codec, options->level, chunk->data, chunk->size, out, bound,
                                &written);
    chunk->data = out;
    chunk->size = written;
    chunk->stable = false;
    return status;
}

/* The number of this format in the table, which grows by it where it is new. */
static enum cog_status format_number(struct cog_entry_writer *writer,
                                     const struct cog_format *format, uint8_t *number,
                                     struct cog_error *err)
{
    size_t i = 0;

    for (; i < writer->format_count; i++) {
        const struct cog_format *known = &writer->formats[i];
        if (known->codec == format->codec && known->filter == format->filter &&
            known->element_size == format->element_size &&
            known->align_log2 == format->align_log2 && known->chunk_size == format->chunk_size)
            break;
    }
    if (i == COG_FORMATS_LIMIT)
        return cog_fail(err, COG_ERR_LIMIT, 0, "over %d different part formats in one entry",
                        COG_FORMATS_LIMIT);
    if (i == writer->format_count)
        writer->formats[writer->format_count++] = *format;
    *number = (uint8_t)i;
    return COG_OK;
}

static enum cog_status pad(struct cog_entry_writer *writer, unsigned align_log2,
                           struct cog_error *err)
{
    static const unsigned char zeros[4096];
    uint64_t mask = (UINT64_C(1) << align_log2) - 1;
    uint64_t left = (0 - writer->offset) & mask;

    while (left > 0) {
        size_t now = left < sizeof zeros ? (size_t)left : sizeof zeros;
        enum cog_status status = emit(writer, zeros, now, true, err);
        if (status != COG_OK)
            return status;
        left -= now;
    }
    return COG_OK;
}

/* The codec is final: give the part its format and its place. */
static enum cog_status settle_format(struct cog_entry_writer *writer, struct cog_error *err)
{
    struct open_part *part = &writer->part;
    struct row *row = &rows_of(writer)[row_count(writer) - 1];
    struct cog_format format = {.codec = part->options.codec,
                                .filter = part->options.filter,
                                .align_log2 = part->options.align_log2,
                                .chunk_size = part->chunk_size};
    enum cog_status status;

    if (format.filter != COG_FILTER_NONE)
        format.element_size = part->options.element_size;
    /* Aligned so that it can be mapped as an array; what must be expanded first gains nothing by
     * it. */
    else if (format.codec == COG_CODEC_STORED && format.align_log2 == 0 &&
             row->kind == COG_PART_ARRAY)
        format.align_log2 = ARRAY_ALIGN_LOG2;
    status = format_number(writer, &format, &row->format, err);
    if (status == COG_OK)
        status = pad(writer, format.align_log2, err);
    part->settled = status == COG_OK;
    return status;
}

static void give_up_codec(struct open_part *part)
{
    part->options.codec = COG_CODEC_STORED;
    part->options.filter = COG_FILTER_NONE;
}

/*
 * Decide about compression, once for the part, and pack its first chunk. Known formats and what the
 * probe calls incompressible are not tried. The try of the first chunk decides where it is all
 * there is, where it is all that is known and behind a filter, which the probe does not see
 * through; a long part known as a whole was judged by samples of it all.
 */
static enum cog_status settle(struct cog_entry_writer *writer, struct packed *chunk,
                              struct cog_error *err)
{
    struct open_part *part = &writer->part;
    const struct packed raw = *chunk;
    bool sampled = part->whole && part->whole_size > part->chunk_size &&
                   part->options.filter == COG_FILTER_NONE;
    enum cog_status status;

    if (part->options.codec == COG_CODEC_ZSTD && part->options.filter == COG_FILTER_NONE) {
        const void *sample = part->whole ? part->whole : chunk->data;
        size_t size = part->whole ? part->whole_size : chunk->size;
        if (!cog_codec_worth_trying(writer->codec, sample, size))
            give_up_codec(part);
    }
    status = pack_chunk(writer, chunk);
    if (status != COG_OK)
        return status;
    if (part->options.codec == COG_CODEC_ZSTD && !sampled &&
        !cog_codec_gains(raw.size, chunk->size)) {
        give_up_codec(part);
        *chunk = raw;
    }
    return settle_format(writer, err);
}

static enum cog_status check_chunks(const struct cog_entry_writer *writer, size_t more,
                                    struct cog_error *err)
{
    if (more > COG_CHUNKS_LIMIT - writer->chunks || !index_fits(writer, 0, 0, more))
        return cog_fail(err, COG_ERR_LIMIT, 0, "over %u chunks in one entry; choose larger chunks",
                        (unsigned)writer->chunks);
    return COG_OK;
}

/* Where in the index this chunk is recorded. */
static enum cog_status record_chunk(struct cog_entry_writer *writer, const struct packed *chunk,
                                    struct cog_error *err)
{
    const struct open_part *part = &writer->part;
    enum cog_status status;

    status = check_chunks(writer, 1, err);
    if (status != COG_OK)
        return status;
    status = cog_buf_append_u64(&writer->sums, cog_chunk_sum(chunk->data, chunk->size,
                                                             writer->token, writer->chunks));
    if (status == COG_OK && part->options.codec != COG_CODEC_STORED) {
        uint32_t size = (uint32_t)chunk->size;
        status = cog_buf_append(&writer->stored, &size, sizeof size);
    }
    if (status == COG_OK)
        writer->chunks++;
    return status;
}

static enum cog_status put_chunk(struct cog_entry_writer *writer, const void *data, size_t size,
                                 bool stable, struct cog_error *err)
{
    struct open_part *part = &writer->part;
    struct packed chunk = {data, size, stable};
    enum cog_status status = COG_OK;

    if (!writer->codec &&
        (part->options.codec != COG_CODEC_STORED || part->options.filter != COG_FILTER_NONE))
        status = cog_codec_borrow(&writer->codec);
    if (status == COG_OK)
        status = part->settled ? pack_chunk(writer, &chunk) : settle(writer, &chunk, err);
    if (status == COG_OK)
        status = record_chunk(writer, &chunk, err);
    if (status == COG_OK)
        status = emit(writer, chunk.data, chunk.size, chunk.stable, err);
    if (status == COG_OK) {
        part->raw += size;
        part->stored += chunk.size;
    }
    return status;
}

static enum cog_status check_open(const struct cog_entry_writer *writer, struct cog_error *err)
{
    if (writer->failed)
        return writer->failed;
    if (!writer->part.is_open)
        return cog_fail(err, COG_ERR_INVALID, 0, "no part is open");
    return COG_OK;
}

enum cog_status cog_entry_part_write(struct cog_entry_writer *writer, const void *data, size_t size,
                                     bool stable, struct cog_error *err)
{
    const unsigned char *at = data;
    size_t chunk_size = writer->part.chunk_size;
    enum cog_status status = check_open(writer, err);

    while (status == COG_OK && size > 0) {
        size_t pending = writer->pending.size;
        size_t now = chunk_size - pending < size ? chunk_size - pending : size;
        if (now == chunk_size) { /* whole chunks need no detour */
            status = put_chunk(writer, at, now, stable, err);
        } else {
            status = cog_buf_append(&writer->pending, at, now);
            if (status == COG_OK && writer->pending.size == chunk_size) {
                status = put_chunk(writer, writer->pending.data, chunk_size, false, err);
                cog_buf_reset(&writer->pending);
            }
        }
        if (status != COG_OK)
            return break_off(writer, status);
        at += now;
        size -= now;
    }
    return status;
}

enum cog_status cog_entry_part_end(struct cog_entry_writer *writer, struct cog_error *err)
{
    enum cog_status status = check_open(writer, err);
    struct open_part *part = &writer->part;

    if (status != COG_OK)
        return status;
    if (writer->pending.size > 0) {
        status = put_chunk(writer, writer->pending.data, writer->pending.size, false, err);
        cog_buf_reset(&writer->pending);
    } else if (!part->settled) { /* an empty part */
        give_up_codec(part);
        status = settle_format(writer, err);
    }
    if (status != COG_OK)
        return break_off(writer, status);
    rows_of(writer)[row_count(writer) - 1].raw = part->raw;
    part->is_open = false;
    return COG_OK;
}

/* What is long, stored as it lies and stays in place is the sink's to write and to hash at once. */
static bool is_run(const struct cog_entry_writer *writer, size_t size, bool stable)
{
    const struct cog_part_options *options = &writer->part.options;

    return writer->sink.write_run != NULL && stable && size >= COG_RUN_FROM &&
           options->codec == COG_CODEC_STORED && options->filter == COG_FILTER_NONE;
}

static enum cog_status put_run(struct cog_entry_writer *writer, const unsigned char *data,
                               size_t size, struct cog_error *err)
{
    struct open_part *part = &writer->part;
    struct cog_run run = {data, size, part->chunk_size, writer->token, writer->chunks};
    size_t count = size / run.chunk_size + (size % run.chunk_size != 0);
    unsigned char *sums;
    enum cog_status status = check_chunks(writer, count, err);

    if (status == COG_OK && !part->settled)
        status = settle_format(writer, err);
    if (status == COG_OK)
        status = cog_buf_extend(&writer->sums, count * 8, &sums);
    if (status == COG_OK)
        status = writer->sink.write_run(writer->sink.context, &run, sums, err);
    if (status == COG_OK) {
        writer->chunks += (uint32_t)count;
        writer->offset += size;
        part->raw += size;
        part->stored += size;
    }
    return status;
}

enum cog_status cog_entry_part_put(struct cog_entry_writer *writer, uint8_t kind, const void *name,
                                   size_t name_size, const struct cog_part_options *options,
                                   const void *data, size_t size, bool stable, uint32_t *number,
                                   struct cog_error *err)
{
    const unsigned char *at = data;
    enum cog_status status = cog_entry_part_begin(writer, kind, name, name_size, options, number,
                                                  err);

    if (status != COG_OK)
        return status;
    writer->part.whole = data;
    writer->part.whole_size = size;
    while (status == COG_OK && size > 0) { /* the first chunk may settle that it is not packed */
        bool run = is_run(writer, size, stable);
        size_t now = run || size < writer->part.chunk_size ? size : writer->part.chunk_size;
        status = run ? put_run(writer, at, now, err) : put_chunk(writer, at, now, stable, err);
        at += now;
        size -= now;
    }
    return status != COG_OK ? break_off(writer, status) : cog_entry_part_end(writer, err);
}

/* --- index --------------------------------------------------------------------------------- */

static uint8_t bytes_for(uint64_t largest)
{
    uint8_t width = 0;

    for (; largest; largest >>= 8)
        width++;
    return width;
}

static void merge(const struct cog_entry_writer *writer, const uint32_t *from, uint32_t *to,
                  size_t left, size_t middle, size_t right)
{
    const struct row *rows = rows_of(writer);
    size_t a = left, b = middle;

    for (size_t i = left; i < right; i++) {
        bool take_a = a < middle &&
                      (b >= right || compare_rows(writer, &rows[from[a]], &rows[from[b]]) <= 0);
        to[i] = from[take_a ? a++ : b++];
    }
}

/* Part numbers in lookup order, `*order` NULL where that is file order. Two parts of one name
 * cannot be told apart. */
static enum cog_status sort_parts(const struct cog_entry_writer *writer, uint32_t **order,
                                  struct cog_error *err)
{
    size_t count = row_count(writer);
    uint32_t *a, *b;

    *order = NULL;
    if (writer->sorted)
        return COG_OK;
    a = cog_alloc_zeroed(2 * count, sizeof *a);
    if (!a)
        return COG_ERR_NOMEM;
    b = a + count;
    for (size_t i = 0; i < count; i++)
        a[i] = (uint32_t)i;
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t left = 0; left < count; left += 2 * run) {
            size_t middle = left + run < count ? left + run : count;
            size_t right = middle + run < count ? middle + run : count;
            merge(writer, a, b, left, middle, right);
        }
        memcpy(a, b, count * sizeof *a);
    }
    for (size_t i = 1; i < count; i++) {
        const struct row *rows = rows_of(writer);
        if (compare_rows(writer, &rows[a[i - 1]], &rows[a[i]]) == 0) {
            cog_fail(err, COG_ERR_INVALID, 0, "parts %u and %u have the same kind and name",
                     (unsigned)a[i - 1], (unsigned)a[i]);
            cog_free(a);
            return COG_ERR_INVALID;
        }
    }
    *order = a;
    return COG_OK;
}

struct widths {
    uint8_t raw, stored, order;
};

static struct widths measure(const struct cog_entry_writer *writer, const uint32_t *order)
{
    const uint32_t *stored = (const uint32_t *)(const void *)writer->stored.data;
    size_t parts = row_count(writer), listed = writer->stored.size / sizeof *stored;
    uint64_t raw_bits = 0, stored_bits = 0;
    struct widths widths;

    for (size_t i = 0; i < parts; i++)
        raw_bits |= rows_of(writer)[i].raw;
    for (size_t i = 0; i < listed; i++)
        stored_bits |= stored[i];
    widths.raw = bytes_for(raw_bits);
    widths.stored = bytes_for(stored_bits);
    widths.order = order ? bytes_for(parts - 1) : 0;
    return widths;
}

/* The rows as columns: what of each part, as one byte or as byte planes. */
static unsigned char *put_columns(const struct cog_entry_writer *writer, const uint32_t *order,
                                  struct widths widths, unsigned char *at)
{
    const uint32_t *stored = (const uint32_t *)(const void *)writer->stored.data;
    size_t parts = row_count(writer), listed = writer->stored.size / sizeof *stored;
    const struct row *rows = rows_of(writer);

    for (size_t i = 0; i < parts; i++) {
        at[i] = rows[i].format;
        at[parts + i] = rows[i].kind;
        at[2 * parts + i] = rows[i].shared;
        at[3 * parts + i] = (unsigned char)(rows[i].name_size - rows[i].shared);
    }
    at += 4 * parts;
    for (size_t i = 0; i < parts; i++) {
        size_t suffix = (size_t)rows[i].name_size - rows[i].shared;
        memcpy(at, name_of(writer, &rows[i]) + rows[i].shared, suffix);
        at += suffix;
    }
    for (unsigned plane = 0; plane < widths.raw; plane++)
        for (size_t i = 0; i < parts; i++)
            *at++ = (unsigned char)(rows[i].raw >> (8 * plane));
    for (unsigned plane = 0; plane < widths.stored; plane++)
        for (size_t i = 0; i < listed; i++)
            *at++ = (unsigned char)(stored[i] >> (8 * plane));
    for (unsigned plane = 0; plane < widths.order; plane++)
        for (size_t i = 0; i < parts; i++)
            *at++ = (unsigned char)(order[i] >> (8 * plane));
    return at;
}

static unsigned char *put_bytes(unsigned char *at, const void *bytes, size_t size)
{
    if (size)
        memcpy(at, bytes, size);
    return at + size;
}

static enum cog_status append_index(const struct cog_entry_writer *writer, const uint32_t *order,
                                    const void *meta, size_t meta_size, struct cog_buf *out)
{
    uint32_t parts = row_count(writer);
    uint32_t listed = (uint32_t)(writer->stored.size / sizeof(uint32_t));
    struct widths widths = measure(writer, order);
    size_t size = COG_INDEX_COUNTS + writer->key.size + meta_size +
                  writer->format_count * COG_FORMAT_SIZE + writer->suffix_bytes +
                  (size_t)parts * (4u + widths.raw + widths.order) +
                  (size_t)listed * widths.stored + writer->sums.size;
    unsigned char *at;
    enum cog_status status = cog_buf_extend(out, size, &at);

    if (status != COG_OK)
        return status;
    cog_store_le32(at, (uint32_t)writer->key.size);
    cog_store_le32(at + 4, (uint32_t)meta_size);
    cog_store_le32(at + 8, parts);
    cog_store_le32(at + 12, writer->chunks);
    cog_store_le32(at + 16, (uint32_t)writer->suffix_bytes);
    cog_store_le32(at + 20, listed);
    at[24] = (unsigned char)writer->format_count;
    at[25] = widths.raw;
    at[26] = widths.stored;
    at[27] = widths.order;
    at = put_bytes(at + COG_INDEX_COUNTS, writer->key.data, writer->key.size);
    at = put_bytes(at, meta, meta_size);
    for (size_t i = 0; i < writer->format_count; i++) {
        const struct cog_format *format = &writer->formats[i];
        at[0] = format->codec;
        at[1] = format->filter;
        at[2] = format->element_size;
        at[3] = format->align_log2;
        cog_store_le32(at + 4, format->chunk_size);
        cog_store_le32(at + 8, format->dictionary);
        at += COG_FORMAT_SIZE;
    }
    at = put_columns(writer, order, widths, at);
    put_bytes(at, writer->sums.data, writer->sums.size);
    return COG_OK;
}

/* Compress the index only where that saves a cold reader a second read, and only where it gains. */
static enum cog_status squeeze_index(struct cog_entry_writer *writer, struct cog_buf *index,
                                     uint8_t *index_codec)
{
    uint64_t document = writer->has_doc ? writer->part.stored : 0;
    size_t raw = index->size, bound = cog_codec_bound(raw), written;
    unsigned char *out;
    enum cog_status status = COG_OK;

    *index_codec = COG_CODEC_STORED;
    if (document + raw + COG_ENTRY_TAIL_SIZE <= COG_ENTRY_COLD_READ)
        return COG_OK;
    if (!writer->codec)
        status = cog_codec_borrow(&writer->codec);
    if (status != COG_OK)
        return status;
    out = cog_codec_scratch(writer->codec, COG_SCRATCH_STORED, bound);
    if (!out)
        return COG_ERR_NOMEM;
    status = cog_codec_compress(writer->codec, INDEX_LEVEL, index->data, raw, out, bound, &written);
    if (status != COG_OK || !cog_codec_gains(raw, written))
        return status;
    *index_codec = COG_CODEC_ZSTD;
    cog_buf_reset(index);
    return cog_buf_append(index, out, written);
}

/* --- end ----------------------------------------------------------------------------------- */

enum cog_status cog_entry_append_tail(struct cog_buf *tail, uint64_t token, uint64_t data_end,
                                      size_t raw_index, uint8_t index_codec,
                                      const struct cog_freshness *fresh)
{
    size_t stored = tail->size;
    struct cog_freshness first = {0};
    unsigned char *slots, *footer;
    enum cog_status status = cog_buf_extend(tail, COG_ENTRY_TAIL_SIZE, &slots);

    if (status != COG_OK)
        return status;
    if (fresh)
        first = *fresh;
    else
        first.ttl_ms = COG_NEVER;
    first.seq = 1;
    cog_slot_encode(&first, token, slots);
    memset(slots + COG_SLOT_SIZE, 0, COG_SLOT_SIZE);
    footer = slots + 2 * COG_SLOT_SIZE;
    cog_store_le64(footer + COG_FOOTER_TOKEN, token);
    cog_store_le64(footer + COG_FOOTER_LENGTH, data_end + tail->size);
    cog_store_le32(footer + COG_FOOTER_INDEX_STORED, (uint32_t)stored);
    cog_store_le32(footer + COG_FOOTER_INDEX_RAW, (uint32_t)raw_index);
    cog_store_le64(footer + COG_FOOTER_INDEX_SUM, cog_index_sum(tail->data, stored, token));
    footer[COG_FOOTER_MAJOR] = COG_MAJOR;
    footer[COG_FOOTER_MINOR] = COG_MINOR;
    footer[COG_FOOTER_INDEX_CODEC] = index_codec;
    footer[COG_FOOTER_FEATURES] = 0;
    cog_store_le32(footer + COG_FOOTER_MAGIC, COG_END_MAGIC);
    cog_store_le64(footer + COG_FOOTER_SUM, cog_footer_sum(footer));
    return COG_OK;
}

static enum cog_status check_finish(const struct cog_entry_writer *writer, const void *meta,
                                    size_t meta_size, struct cog_error *err)
{
    struct cog_meta parsed;

    if (writer->failed)
        return writer->failed;
    if (writer->finished || writer->part.is_open)
        return cog_fail(err, COG_ERR_INVALID, 0, "an entry ends where none may");
    if (meta_size > COG_META_LIMIT)
        return cog_fail(err, COG_ERR_LIMIT, 0, "the metadata has %zu bytes, the limit is %d",
                        meta_size, COG_META_LIMIT);
    if (cog_meta_parse(meta, meta_size, &parsed) != COG_OK)
        return cog_fail(err, COG_ERR_INVALID, 0, "the metadata breaks a rule of its format");
    return COG_OK;
}

enum cog_status cog_entry_finish(struct cog_entry_writer *writer, const void *meta,
                                 size_t meta_size, const struct cog_freshness *fresh,
                                 uint64_t *length, struct cog_error *err)
{
    struct cog_buf tail = {0};
    uint32_t *order = NULL;
    size_t raw_index = 0;
    uint8_t index_codec = COG_CODEC_STORED;
    enum cog_status status = check_finish(writer, meta, meta_size, err);

    if (length)
        *length = 0;
    if (status != COG_OK)
        return status;
    status = sort_parts(writer, &order, err);
    if (status == COG_OK)
        status = append_index(writer, order, meta, meta_size, &tail);
    if (status == COG_OK) {
        raw_index = tail.size;
        status = squeeze_index(writer, &tail, &index_codec);
    }
    if (status == COG_OK)
        status = cog_entry_append_tail(&tail, writer->token, writer->offset, raw_index, index_codec,
                                       fresh);
    if (status == COG_OK)
        status = emit(writer, tail.data, tail.size, false, err);
    if (status == COG_OK) {
        writer->finished = true;
        if (length)
            *length = writer->offset;
    }
    cog_free(order);
    cog_buf_release(&tail);
    return break_off(writer, status);
}
