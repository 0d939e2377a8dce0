/* Reading an entry: check the end of it, place its parts, verify and expand chunks (entry.h;
 * docs/format.md). */
#include "core/entry.h"

#include <string.h>

#include "core/alloc.h"
#include "core/entry_layout.h"

struct place { /* of a part; one more behind the last, so that differences are sizes */
    uint64_t offset;
    uint32_t first_chunk;
    uint32_t name_at;
};

struct cog_entry { /* one block: this, the raw index, places, chunk ends, names */
    uint64_t token;
    uint64_t length;
    uint64_t data_end; /* = start of the stored index */
    struct cog_freshness fresh;
    unsigned slot;
    bool is_fresh;     /* some slot is valid */
    size_t index_size; /* raw */
    uint32_t key_size, meta_size, parts, chunks, names_size, listed;
    uint8_t formats, raw_width, listed_width, order_width;
    const unsigned char *key, *meta, *format_table, *format_of, *kind_of, *shared_of, *suffix_of;
    const unsigned char *suffixes, *raw_planes, *listed_planes, *order_planes, *sums, *extensions;
    struct place *places;
    uint64_t *chunk_end; /* in the container */
    unsigned char *names;
    size_t footprint; /* of the block */
    unsigned char footer[COG_ENTRY_FOOTER_SIZE];
};

static enum cog_status damaged(struct cog_error *err, const char *what)
{
    return cog_fail(err, COG_ERR_DAMAGED, 0, "%s", what);
}

/* --- bytes of the container ---------------------------------------------------------------- */

static enum cog_status memory_read(void *context, uint64_t offset, void *out, size_t size,
                                   struct cog_error *err)
{
    (void)err;
    memcpy(out, (const unsigned char *)context + offset, size);
    return COG_OK;
}

static const unsigned char *memory_view(void *context, uint64_t offset, size_t size)
{
    (void)size;
    return (const unsigned char *)context + offset;
}

struct cog_source cog_memory_source(const void *image, uint64_t size)
{
    /* The context is only ever read through. */
    struct cog_source source = {(void *)(uintptr_t)image, size, memory_read, memory_view, 0};

    return source;
}

static bool within(const struct cog_source *source, uint64_t offset, uint64_t size)
{
    return offset <= source->size && size <= source->size - offset;
}

static const unsigned char *view(const struct cog_source *source, uint64_t offset, size_t size)
{
    if (!source->view || !within(source, offset, size))
        return NULL;
    return source->view(source->context, offset, size);
}

static enum cog_status fetch(const struct cog_source *source, uint64_t offset, void *out,
                             size_t size, struct cog_error *err)
{
    if (!within(source, offset, size))
        return damaged(err, "shorter than its index says");
    return source->read(source->context, offset, out, size, err);
}

/* --- opening: the end of the container ------------------------------------------------------ */

struct tail { /* what was read from the end */
    const unsigned char *bytes;
    uint64_t offset; /* of bytes[0] in the container */
    size_t size;
    unsigned char *block; /* what to free */
};

enum { LOCAL_TAIL = 4096 };

static enum cog_status load_tail(const struct cog_source *source, size_t cold_read,
                                 unsigned char local[LOCAL_TAIL], struct tail *tail,
                                 struct cog_error *err)
{
    unsigned char *out = local;

    if (cold_read == 0)
        cold_read = COG_ENTRY_COLD_READ;
    if (cold_read < COG_ENTRY_TAIL_SIZE)
        cold_read = COG_ENTRY_TAIL_SIZE;
    tail->block = NULL;
    tail->size = source->size < cold_read ? (size_t)source->size : cold_read;
    tail->offset = source->size - tail->size;
    tail->bytes = view(source, tail->offset, tail->size);
    if (tail->bytes)
        return COG_OK;
    if (tail->size > LOCAL_TAIL)
        out = tail->block = cog_alloc(tail->size);
    if (!out)
        return COG_ERR_NOMEM;
    tail->bytes = out;
    return fetch(source, tail->offset, out, tail->size, err);
}

struct footer {
    uint64_t token;
    uint64_t index_offset;
    uint32_t index_stored, index_raw;
    uint64_t index_sum;
    uint8_t index_codec;
};

static enum cog_status parse_footer(const struct cog_source *source, const struct tail *tail,
                                    struct footer *out, struct cog_error *err)
{
    const unsigned char *at;

    if (tail->size < COG_ENTRY_FOOTER_SIZE || source->size > INT64_MAX)
        return damaged(err, "too short for a footer");
    at = tail->bytes + tail->size - COG_ENTRY_FOOTER_SIZE;
    if (cog_load_le32(at + COG_FOOTER_MAGIC) != COG_END_MAGIC)
        return damaged(err, "no end magic");
    if (cog_load_le64(at + COG_FOOTER_SUM) != cog_footer_sum(at))
        return damaged(err, "footer checksum");
    /* From here on the footer is as it was written. These three tell newer from broken, in every
     * version to come. */
    if (at[COG_FOOTER_MAJOR] != COG_MAJOR)
        return cog_fail(err, COG_ERR_FOREIGN, 0, "major version %u", at[COG_FOOTER_MAJOR]);
    if (at[COG_FOOTER_FEATURES] != 0)
        return cog_fail(err, COG_ERR_FOREIGN, 0, "unknown features 0x%02x",
                        at[COG_FOOTER_FEATURES]);
    if (at[COG_FOOTER_INDEX_CODEC] > COG_CODEC_ZSTD)
        return cog_fail(err, COG_ERR_FOREIGN, 0, "index codec %u", at[COG_FOOTER_INDEX_CODEC]);

    out->token = cog_load_le64(at + COG_FOOTER_TOKEN);
    out->index_stored = cog_load_le32(at + COG_FOOTER_INDEX_STORED);
    out->index_raw = cog_load_le32(at + COG_FOOTER_INDEX_RAW);
    out->index_sum = cog_load_le64(at + COG_FOOTER_INDEX_SUM);
    out->index_codec = at[COG_FOOTER_INDEX_CODEC];
    if (cog_load_le64(at + COG_FOOTER_LENGTH) != source->size)
        return damaged(err, "not as long as its footer says");
    if (out->index_stored > COG_INDEX_LIMIT || out->index_raw > COG_INDEX_LIMIT ||
        out->index_raw < COG_INDEX_COUNTS ||
        source->size < COG_ENTRY_SMALLEST + (uint64_t)out->index_stored)
        return damaged(err, "index length");
    if (out->index_codec == COG_CODEC_STORED && out->index_raw != out->index_stored)
        return damaged(err, "index length");
    out->index_offset = source->size - COG_ENTRY_TAIL_SIZE - out->index_stored;
    return COG_OK;
}

/* Make `tail` begin at the index or before it: one more read where the first did not reach. */
static enum cog_status extend_tail(const struct cog_source *source, const struct footer *footer,
                                   struct tail *tail, struct cog_error *err)
{
    size_t wanted = (size_t)(source->size - footer->index_offset);
    size_t missing = wanted > tail->size ? wanted - tail->size : 0;
    const unsigned char *seen;
    unsigned char *block;
    enum cog_status status;

    if (missing == 0)
        return COG_OK;
    seen = view(source, footer->index_offset, wanted);
    if (!seen) {
        block = cog_alloc(wanted);
        if (!block)
            return COG_ERR_NOMEM;
        status = fetch(source, footer->index_offset, block, missing, err);
        if (status != COG_OK) {
            cog_free(block);
            return status;
        }
        memcpy(block + missing, tail->bytes, tail->size);
        cog_free(tail->block);
        tail->block = block;
        seen = block;
    }
    tail->bytes = seen;
    tail->size = wanted;
    tail->offset = footer->index_offset;
    return COG_OK;
}

/* --- opening: the index -------------------------------------------------------------------- */

/* Counts and columns of the raw index at `index`; pointers into it. No more than arithmetic:
 * nothing is followed yet. */
static enum cog_status parse_columns(struct cog_entry *entry, const unsigned char *index,
                                     uint64_t size, struct cog_error *err)
{
    const unsigned char *at = index + COG_INDEX_COUNTS;
    uint64_t parts, fixed;

    entry->key_size = cog_load_le32(index);
    entry->meta_size = cog_load_le32(index + 4);
    entry->parts = cog_load_le32(index + 8);
    entry->chunks = cog_load_le32(index + 12);
    entry->names_size = cog_load_le32(index + 16);
    entry->listed = cog_load_le32(index + 20);
    entry->formats = index[24];
    entry->raw_width = index[25];
    entry->listed_width = index[26];
    entry->order_width = index[27];
    parts = entry->parts;
    if (entry->key_size > COG_KEY_LIMIT || entry->meta_size > COG_META_LIMIT ||
        parts > COG_PARTS_LIMIT || entry->chunks > COG_CHUNKS_LIMIT ||
        entry->listed > entry->chunks || entry->formats > COG_FORMATS_LIMIT ||
        entry->raw_width > COG_RAW_WIDTH_LIMIT || entry->listed_width > COG_STORED_WIDTH_LIMIT ||
        entry->order_width > COG_ORDER_WIDTH_LIMIT)
        return damaged(err, "a count of the index is over its limit");
    if ((parts == 0 && (entry->raw_width || entry->order_width)) ||
        (entry->listed == 0 && entry->listed_width))
        return damaged(err, "a width for an empty column");
    fixed = COG_INDEX_COUNTS + (uint64_t)entry->key_size + entry->meta_size +
            (uint64_t)entry->formats * COG_FORMAT_SIZE + entry->names_size +
            parts * (4u + entry->raw_width + entry->order_width) +
            (uint64_t)entry->listed * entry->listed_width + 8 * (uint64_t)entry->chunks;
    if (fixed > size)
        return damaged(err, "columns over the length of the index");

    entry->key = at;
    entry->meta = at += entry->key_size;
    entry->format_table = at += entry->meta_size;
    entry->format_of = at += (size_t)entry->formats * COG_FORMAT_SIZE;
    entry->kind_of = at += parts;
    entry->shared_of = at += parts;
    entry->suffix_of = at += parts;
    entry->suffixes = at += parts;
    entry->raw_planes = at += entry->names_size;
    entry->listed_planes = at += parts * entry->raw_width;
    entry->order_planes = at += (size_t)entry->listed * entry->listed_width;
    entry->sums = at += parts * entry->order_width;
    entry->extensions = at + 8 * (size_t)entry->chunks;
    return COG_OK;
}

/* id u16, length u32, bytes, to the exact end. This version knows none; bit 15 says that who does
 * not know must not read. */
static enum cog_status check_extensions(const unsigned char *at, const unsigned char *end,
                                        struct cog_error *err)
{
    enum { HEAD = 6, CRITICAL = 0x8000 };

    while (at < end) {
        unsigned id;
        uint32_t size;
        if (end - at < HEAD)
            return damaged(err, "an extension is cut off");
        id = cog_load_le16(at);
        size = cog_load_le32(at + 2);
        if (size > (size_t)(end - at - HEAD))
            return damaged(err, "an extension is cut off");
        if (id & CRITICAL)
            return cog_fail(err, COG_ERR_FOREIGN, 0, "unknown critical extension 0x%04x", id);
        at += HEAD + size;
    }
    return COG_OK;
}

/* Length of all names written out; the suffixes must be exactly the bytes there are. */
static enum cog_status measure_names(const struct cog_entry *entry, size_t *total,
                                     struct cog_error *err)
{
    uint64_t shared = 0, suffix = 0;

    for (size_t i = 0; i < entry->parts; i++) {
        shared += entry->shared_of[i];
        suffix += entry->suffix_of[i];
    }
    if (suffix != entry->names_size || shared + suffix > COG_NAMES_LIMIT)
        return damaged(err, "length of the part names");
    *total = (size_t)(shared + suffix);
    return COG_OK;
}

static inline uint64_t plane_value(const unsigned char *planes, unsigned width, size_t count,
                                   size_t i)
{
    uint64_t value = 0;

    for (unsigned plane = 0; plane < width; plane++)
        value |= (uint64_t)planes[plane * count + i] << (8 * plane);
    return value;
}

static void load_format(const struct cog_entry *entry, unsigned number, struct cog_format *out)
{
    const unsigned char *at = entry->format_table + (size_t)number * COG_FORMAT_SIZE;

    out->codec = at[0];
    out->filter = at[1];
    out->element_size = at[2];
    out->align_log2 = at[3];
    out->chunk_size = cog_load_le32(at + 4);
    out->dictionary = cog_load_le32(at + 8);
}

static enum cog_status load_formats(const struct cog_entry *entry,
                                    struct cog_format formats[COG_FORMATS_LIMIT],
                                    struct cog_error *err)
{
    for (unsigned i = 0; i < entry->formats; i++) {
        struct cog_format *format = &formats[i];
        load_format(entry, i, format);
        if (format->chunk_size == 0 || format->chunk_size > COG_CHUNK_LIMIT ||
            format->align_log2 > COG_ALIGN_LIMIT ||
            ((format->filter == COG_FILTER_SHUFFLE || format->filter == COG_FILTER_BITSHUFFLE) &&
             format->element_size == 0))
            return damaged(err, "a part format breaks a rule");
    }
    return COG_OK;
}

static bool is_zero(const unsigned char *bytes, size_t size)
{
    unsigned char any = 0;

    for (size_t i = 0; i < size; i++)
        any |= bytes[i];
    return any == 0;
}

struct cursor { /* where the pass over the parts stands */
    uint64_t offset;
    uint32_t chunk, listed;
    size_t name, suffix; /* in names and suffixes */
};

/*
 * Names are short, and a call for each of them would cost more than all the rest of the pass.
 * Behind every byte of the index and of the names lie SLACK more in the entry's block, so that
 * short ones are copied and compared as words.
 */
enum { SLACK = 16 };

static inline void copy_name(unsigned char *to, const unsigned char *from, size_t size)
{
    uint64_t words[SLACK / sizeof(uint64_t)];

    if (size > SLACK) {
        memcpy(to, from, size);
        return;
    }
    memcpy(words, from, SLACK);
    memcpy(to, words, SLACK);
}

static inline int compare_names(const unsigned char *a, const unsigned char *b, size_t size)
{
    uint64_t x, y;

    if (size == 0 || size > sizeof x)
        return size ? memcmp(a, b, size) : 0;
    x = cog_load_be64(a) >> (64 - 8 * size);
    y = cog_load_be64(b) >> (64 - 8 * size);
    return (x > y) - (x < y);
}

/* Write out the name of part `i`: a prefix of the name before it and its own suffix. */
static enum cog_status place_name(struct cog_entry *entry, struct cursor *cursor, size_t i,
                                  struct cog_error *err)
{
    size_t shared = entry->shared_of[i], suffix = entry->suffix_of[i];
    unsigned char *name = entry->names + cursor->name;
    size_t before = i ? cursor->name - entry->places[i - 1].name_at : 0;

    if (shared > before || shared + suffix > COG_NAME_LIMIT)
        return damaged(err, "a part name breaks a rule");
    if (entry->kind_of[i] == COG_PART_DOC && (shared + suffix != 0 || i + 1 != entry->parts))
        return damaged(err, "the document has a name or is not the last part");
    copy_name(name, name - before, shared);
    copy_name(name + shared, entry->suffixes + cursor->suffix, suffix);
    entry->places[i].name_at = (uint32_t)cursor->name;
    cursor->name += shared + suffix;
    cursor->suffix += suffix;
    return COG_OK;
}

/* Lay the chunks of part `i` one behind the other. */
static enum cog_status place_chunks(struct cog_entry *entry, struct cursor *cursor, uint64_t raw,
                                    const struct cog_format *format, struct cog_error *err)
{
    uint64_t count = cog_chunk_count(raw, format->chunk_size);
    bool implied = cog_format_is_implied(format);

    if (count > entry->chunks - cursor->chunk)
        return damaged(err, "more chunks in the parts than in the index");
    for (; count > 0; count--) {
        uint64_t stored = raw < format->chunk_size ? raw : format->chunk_size;
        raw -= stored;
        if (!implied) {
            if (cursor->listed == entry->listed)
                return damaged(err, "more stored lengths needed than listed");
            stored = plane_value(entry->listed_planes, entry->listed_width, entry->listed,
                                 cursor->listed++);
        }
        if (stored > entry->data_end - cursor->offset)
            return damaged(err, "parts over the start of the index");
        cursor->offset += stored;
        entry->chunk_end[cursor->chunk++] = cursor->offset;
    }
    return COG_OK;
}

/*
 * One pass in file order: names, offsets as running sums, padding where the bytes are at hand
 * (`image`, else NULL). The parts must fill the data region to the byte: then nothing overlaps and
 * nothing hides.
 */
static enum cog_status place_parts(struct cog_entry *entry, const unsigned char *image,
                                   struct cog_error *err)
{
    struct cog_format formats[COG_FORMATS_LIMIT];
    struct cursor cursor = {.offset = COG_ENTRY_HEAD_SIZE};
    enum cog_status status = load_formats(entry, formats, err);

    for (size_t i = 0; i < entry->parts && status == COG_OK; i++) {
        const struct cog_format *format;
        uint64_t raw, mask, aligned;

        if (entry->format_of[i] >= entry->formats)
            return damaged(err, "a part of a format that is not in the table");
        format = &formats[entry->format_of[i]];
        mask = (UINT64_C(1) << format->align_log2) - 1;
        aligned = (cursor.offset + mask) & ~mask;
        if (aligned > entry->data_end)
            return damaged(err, "parts over the start of the index");
        if (image && !is_zero(image + cursor.offset, (size_t)(aligned - cursor.offset)))
            return damaged(err, "padding is not zero");
        cursor.offset = aligned;
        entry->places[i].offset = aligned;
        entry->places[i].first_chunk = cursor.chunk;
        status = place_name(entry, &cursor, i, err);
        raw = plane_value(entry->raw_planes, entry->raw_width, entry->parts, i);
        if (status == COG_OK)
            status = place_chunks(entry, &cursor, raw, format, err);
    }
    if (status != COG_OK)
        return status;
    if (cursor.offset != entry->data_end || cursor.chunk != entry->chunks ||
        cursor.listed != entry->listed)
        return damaged(err, "parts do not fill the data region exactly");
    entry->places[entry->parts].offset = cursor.offset;
    entry->places[entry->parts].first_chunk = cursor.chunk;
    entry->places[entry->parts].name_at = (uint32_t)cursor.name;
    return COG_OK;
}

static inline uint32_t part_at(const struct cog_entry *entry, uint32_t rank)
{
    if (entry->order_width == 0)
        return rank;
    return (uint32_t)plane_value(entry->order_planes, entry->order_width, entry->parts, rank);
}

static size_t name_size(const struct cog_entry *entry, uint32_t part)
{
    return entry->places[part + 1].name_at - entry->places[part].name_at;
}

/* Lookup order: kind, then length of the name, then its bytes. */
static int compare_part(const struct cog_entry *entry, uint32_t part, uint8_t kind,
                        const unsigned char *name, size_t size)
{
    size_t own = name_size(entry, part);

    if (entry->kind_of[part] != kind)
        return entry->kind_of[part] < kind ? -1 : 1;
    if (own != size)
        return own < size ? -1 : 1;
    return size ? memcmp(entry->names + entry->places[part].name_at, name, size) : 0;
}

static int compare_parts(const struct cog_entry *entry, uint32_t a, uint32_t b)
{
    size_t size = name_size(entry, a), other = name_size(entry, b);

    if (entry->kind_of[a] != entry->kind_of[b])
        return entry->kind_of[a] < entry->kind_of[b] ? -1 : 1;
    if (size != other)
        return size < other ? -1 : 1;
    return compare_names(entry->names + entry->places[a].name_at,
                         entry->names + entry->places[b].name_at, size);
}

/* Strictly increasing: so the order is a permutation and no two parts have one name. */
static enum cog_status check_order(const struct cog_entry *entry, struct cog_error *err)
{
    uint32_t before = 0;

    for (uint32_t rank = 0; rank < entry->parts; rank++) {
        uint32_t part = part_at(entry, rank);
        if (part >= entry->parts)
            return damaged(err, "lookup order names a part that is not there");
        if (rank > 0 && compare_parts(entry, before, part) >= 0)
            return damaged(err, "lookup order is not increasing");
        before = part;
    }
    return COG_OK;
}

/* One block for the entry and all it needs, the raw index copied in. */
static struct cog_entry *new_entry(const struct cog_entry *parsed, const unsigned char *index,
                                   size_t index_size, size_t names)
{
    size_t index_room = (index_size + 7) / 8 * 8;
    size_t places = ((size_t)parsed->parts + 1) * sizeof(struct place);
    size_t ends = (size_t)parsed->chunks * sizeof(uint64_t);
    size_t footprint = sizeof *parsed + places + ends + index_room + names + SLACK;
    unsigned char *block = cog_alloc(footprint);
    struct cog_entry *entry = (void *)block;

    if (!block)
        return NULL;
    *entry = *parsed;
    entry->footprint = footprint;
    block += sizeof *entry;
    entry->places = (void *)block;
    block += places;
    entry->chunk_end = (void *)block;
    block += ends;
    memcpy(block, index, index_size);
    entry->index_size = index_size;
    (void)parse_columns(entry, block, index_size, NULL); /* the same counts, now in our own copy */
    entry->names = block + index_room;
    return entry;
}

static enum cog_status check_head(const struct cog_entry *entry, const unsigned char *head,
                                  struct cog_error *err)
{
    struct cog_digest digest;

    cog_hash128(entry->key, entry->key_size, &digest);
    if (cog_load_le64(head) != COG_HEAD_MAGIC || cog_load_le64(head + 8) != entry->token ||
        memcmp(head + 16, digest.bytes, sizeof digest.bytes) != 0)
        return damaged(err, "head does not fit the rest");
    return COG_OK;
}

/* From the checked raw index to an entry. `image` = the whole container where it is at hand, else
 * NULL. */
static enum cog_status build(struct cog_entry *parsed, const unsigned char *index,
                             size_t index_size, const unsigned char *image, const void *key,
                             size_t key_size, struct cog_entry **out, struct cog_error *err)
{
    struct cog_entry *entry;
    size_t names = 0;
    enum cog_status status = parse_columns(parsed, index, index_size, err);

    if (status != COG_OK)
        return status;
    if (key && (key_size != parsed->key_size || memcmp(key, parsed->key, key_size) != 0))
        return cog_fail(err, COG_ERR_FOREIGN, 0, "the entry of another key");
    status = check_extensions(parsed->extensions, index + index_size, err);
    if (status == COG_OK)
        status = measure_names(parsed, &names, err);
    if (status != COG_OK)
        return status;
    entry = new_entry(parsed, index, index_size, names);
    if (!entry)
        return COG_ERR_NOMEM;
    status = place_parts(entry, image, err);
    if (status == COG_OK)
        status = check_order(entry, err);
    if (status == COG_OK && image)
        status = check_head(entry, image, err);
    if (status != COG_OK) {
        cog_free(entry);
        return status;
    }
    *out = entry;
    return COG_OK;
}

/* As build(), for a compressed index: expanded into scratch first. */
static enum cog_status build_expanded(struct cog_entry *parsed, const struct footer *footer,
                                      const unsigned char *stored, const unsigned char *image,
                                      const void *key, size_t key_size, struct cog_entry **out,
                                      struct cog_error *err)
{
    struct cog_codec *codec;
    unsigned char *raw;
    enum cog_status status;

    /* The frame must say the same length before memory is taken for it. */
    if (!cog_codec_is_frame(stored, footer->index_stored, footer->index_raw))
        return damaged(err, "the index does not expand");
    status = cog_codec_borrow(&codec);
    if (status != COG_OK)
        return status;
    raw = cog_codec_scratch(codec, COG_SCRATCH_RAW, footer->index_raw);
    if (!raw)
        status = COG_ERR_NOMEM;
    else
        status = cog_codec_expand(codec, stored, footer->index_stored, raw, footer->index_raw);
    if (status == COG_OK)
        status = build(parsed, raw, footer->index_raw, image, key, key_size, out, err);
    else if (status == COG_ERR_DAMAGED)
        status = damaged(err, "the index does not expand");
    cog_codec_return(codec);
    return status;
}

/* Footer, index, slots, rules, out of what was read; `tail` grows where the index is longer. */
static enum cog_status open_tail(const struct cog_source *source, const void *key, size_t key_size,
                                 struct tail *tail, struct cog_entry **out, struct cog_error *err)
{
    const unsigned char *image = tail->offset == 0 ? tail->bytes : NULL;
    const unsigned char *index, *slots;
    struct cog_entry parsed = {0};
    struct footer footer = {0};
    enum cog_status status = parse_footer(source, tail, &footer, err);

    if (status == COG_OK)
        status = extend_tail(source, &footer, tail, err);
    if (status != COG_OK)
        return status;
    index = tail->bytes + (size_t)(footer.index_offset - tail->offset);
    slots = index + footer.index_stored;
    if (cog_index_sum(index, footer.index_stored, footer.token) != footer.index_sum)
        return damaged(err, "index checksum");
    parsed.token = footer.token;
    parsed.length = source->size;
    parsed.data_end = footer.index_offset;
    memcpy(parsed.footer, slots + 2 * COG_SLOT_SIZE, sizeof parsed.footer);
    parsed.is_fresh = cog_slots_current(slots, footer.token, &parsed.fresh, &parsed.slot) == COG_OK;
    if (footer.index_codec == COG_CODEC_STORED)
        return build(&parsed, index, footer.index_raw, image, key, key_size, out, err);
    return build_expanded(&parsed, &footer, index, image, key, key_size, out, err);
}

enum cog_status cog_entry_open(const struct cog_source *source, const void *key, size_t key_size,
                               size_t cold_read, struct cog_entry **out, struct cog_error *err)
{
    unsigned char local[LOCAL_TAIL];
    struct tail tail;
    enum cog_status status;

    *out = NULL;
    status = load_tail(source, cold_read, local, &tail, err);
    if (status == COG_OK)
        status = open_tail(source, key, key_size, &tail, out, err);
    cog_free(tail.block);
    return status;
}

enum cog_status cog_entry_reopen(const struct cog_entry *known,
                                 const unsigned char tail[COG_ENTRY_TAIL_SIZE], const void *key,
                                 size_t key_size, struct cog_entry **out)
{
    struct cog_entry *entry;

    *out = NULL;
    if (memcmp(tail + 2 * COG_SLOT_SIZE, known->footer, sizeof known->footer) != 0 ||
        (key && (key_size != known->key_size || memcmp(key, known->key, key_size) != 0)))
        return COG_ABSENT;
    entry = cog_alloc(sizeof *entry);
    if (!entry)
        return COG_ERR_NOMEM;
    *entry = *known;
    entry->footprint = sizeof *entry;
    entry->is_fresh = cog_slots_current(tail, entry->token, &entry->fresh, &entry->slot) == COG_OK;
    *out = entry;
    return COG_OK;
}

size_t cog_entry_footprint(const struct cog_entry *entry)
{
    return entry->footprint;
}

void cog_entry_free(struct cog_entry *entry)
{
    cog_free(entry);
}

/* --- what the index says ------------------------------------------------------------------- */

uint64_t cog_entry_token(const struct cog_entry *entry)
{
    return entry->token;
}

uint64_t cog_entry_length(const struct cog_entry *entry)
{
    return entry->length;
}

const unsigned char *cog_entry_key(const struct cog_entry *entry, size_t *size)
{
    *size = entry->key_size;
    return entry->key;
}

const unsigned char *cog_entry_meta(const struct cog_entry *entry, size_t *size)
{
    *size = entry->meta_size;
    return entry->meta;
}

enum cog_status cog_entry_freshness(const struct cog_entry *entry, struct cog_freshness *out,
                                    unsigned *which)
{
    if (!entry->is_fresh)
        return COG_ABSENT;
    *out = entry->fresh;
    if (which)
        *which = entry->slot;
    return COG_OK;
}

uint32_t cog_entry_part_count(const struct cog_entry *entry)
{
    return entry->parts;
}

uint32_t cog_entry_chunk_count(const struct cog_entry *entry)
{
    return entry->chunks;
}

enum cog_status cog_entry_part(const struct cog_entry *entry, uint32_t number, struct cog_part *out)
{
    const struct place *place;
    struct cog_format format;
    uint64_t end;

    if (number >= entry->parts)
        return COG_ERR_INVALID;
    place = &entry->places[number];
    load_format(entry, entry->format_of[number], &format);
    end = place[1].first_chunk > place->first_chunk ? entry->chunk_end[place[1].first_chunk - 1]
                                                    : place->offset;
    out->kind = entry->kind_of[number];
    out->codec = format.codec;
    out->filter = format.filter;
    out->element_size = format.element_size;
    out->align_log2 = format.align_log2;
    out->chunk_size = format.chunk_size;
    out->raw_size = plane_value(entry->raw_planes, entry->raw_width, entry->parts, number);
    out->offset = place->offset;
    out->stored_size = end - place->offset;
    out->first_chunk = place->first_chunk;
    out->chunk_count = place[1].first_chunk - place->first_chunk;
    out->supported = format.codec <= COG_CODEC_ZSTD && format.filter <= COG_FILTER_BITSHUFFLE &&
                     format.dictionary == 0;
    return COG_OK;
}

enum cog_status cog_entry_part_name(const struct cog_entry *entry, uint32_t number,
                                    unsigned char out[COG_NAME_LIMIT], size_t *size)
{
    *size = 0;
    if (number >= entry->parts)
        return COG_ERR_INVALID;
    *size = name_size(entry, number);
    memcpy(out, entry->names + entry->places[number].name_at, *size);
    return COG_OK;
}

enum cog_status cog_entry_find(const struct cog_entry *entry, uint8_t kind, const void *name,
                               size_t size, uint32_t *number)
{
    uint32_t low = 0, high = entry->parts;

    *number = 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint32_t part = part_at(entry, middle);
        int order = compare_part(entry, part, kind, name, size);
        if (order == 0) {
            *number = part;
            return COG_OK;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return COG_ABSENT;
}

bool cog_part_is_plain(const struct cog_part *part)
{
    return part->supported && part->codec == COG_CODEC_STORED && part->filter == COG_FILTER_NONE;
}

/* Start of a chunk of this part: the end of the one before it, nothing lies between. */
static uint64_t chunk_start(const struct cog_entry *entry, const struct cog_part *part,
                            uint32_t chunk)
{
    return chunk == part->first_chunk ? part->offset : entry->chunk_end[chunk - 1];
}

enum cog_status cog_entry_extent(const struct cog_entry *entry, uint32_t number, uint64_t start,
                                 uint64_t stop, uint64_t *offset, uint64_t *size,
                                 uint32_t *first_chunk, uint32_t *chunk_count)
{
    struct cog_part part;
    uint32_t first, last;

    *offset = *size = 0;
    *first_chunk = *chunk_count = 0;
    if (cog_entry_part(entry, number, &part) != COG_OK || start > stop || stop > part.raw_size)
        return COG_ERR_INVALID;
    *offset = part.offset;
    *first_chunk = part.first_chunk;
    if (start == stop)
        return COG_OK;
    first = part.first_chunk + (uint32_t)(start / part.chunk_size);
    last = part.first_chunk + (uint32_t)((stop - 1) / part.chunk_size);
    *offset = chunk_start(entry, &part, first);
    *size = entry->chunk_end[last] - *offset;
    *first_chunk = first;
    *chunk_count = last - first + 1;
    return COG_OK;
}

/* --- chunks -------------------------------------------------------------------------------- */

struct window { /* consecutive chunks of one part, their stored bytes at hand */
    const unsigned char *bytes;
    uint64_t offset; /* of bytes[0] in the container */
    uint32_t first, stop;
};

/* A codec is needed for expanding and for scratch; where the caller brought none, one is borrowed
 * on first use. */
struct helper {
    struct cog_codec *codec;
    bool borrowed;
};

static enum cog_status need_codec(struct helper *helper)
{
    enum cog_status status;

    if (helper->codec)
        return COG_OK;
    status = cog_codec_borrow(&helper->codec);
    helper->borrowed = status == COG_OK;
    return status;
}

static void drop_codec(struct helper *helper)
{
    if (helper->borrowed)
        cog_codec_return(helper->codec);
}

static enum cog_status check_window(const struct cog_entry *entry, const struct cog_part *part,
                                    const struct window *window, struct cog_error *err)
{
    for (uint32_t chunk = window->first; chunk < window->stop; chunk++) {
        uint64_t start = chunk_start(entry, part, chunk);
        const unsigned char *bytes = window->bytes + (size_t)(start - window->offset);
        size_t size = (size_t)(entry->chunk_end[chunk] - start);
        if (cog_chunk_sum(bytes, size, entry->token, chunk) !=
            cog_load_le64(entry->sums + 8 * (size_t)chunk))
            return cog_fail(err, COG_ERR_DAMAGED, 0, "checksum of chunk %u", (unsigned)chunk);
    }
    return COG_OK;
}

/*
 * Load and check the next chunks of [first, stop): all of them where the source can show them in
 * place, else as many as fit the source's window, with one read. When this returns, every byte of
 * the window has passed its checksum.
 */
static enum cog_status next_window(const struct cog_entry *entry, const struct cog_source *source,
                                   struct helper *helper, const struct cog_part *part,
                                   uint32_t first, uint32_t stop, struct window *window,
                                   struct cog_error *err)
{
    uint64_t most = source->window ? source->window : COG_ENTRY_WINDOW;
    unsigned char *scratch;
    size_t size;
    enum cog_status status;

    window->first = first;
    window->stop = stop;
    window->offset = chunk_start(entry, part, first);
    if (entry->chunk_end[stop - 1] > source->size)
        return damaged(err, "shorter than its index says");
    size = (size_t)(entry->chunk_end[stop - 1] - window->offset);
    window->bytes = view(source, window->offset, size);
    if (!window->bytes) {
        for (stop = first + 1; stop < window->stop; stop++)
            if (entry->chunk_end[stop] - window->offset > most)
                break;
        window->stop = stop;
        size = (size_t)(entry->chunk_end[stop - 1] - window->offset);
        status = need_codec(helper);
        if (status != COG_OK)
            return status;
        scratch = cog_codec_scratch(helper->codec, COG_SCRATCH_STORED, size);
        if (!scratch)
            return COG_ERR_NOMEM;
        status = fetch(source, window->offset, scratch, size, err);
        if (status != COG_OK)
            return status;
        window->bytes = scratch;
    }
    return check_window(entry, part, window, err);
}

/* One checked chunk from its stored form to `raw` bytes at `out`. */
static enum cog_status expand_chunk(struct helper *helper, const struct cog_part *part,
                                    const unsigned char *stored, size_t stored_size,
                                    unsigned char *out, size_t raw, struct cog_error *err)
{
    unsigned char *filtered = out;
    enum cog_status status;

    if (part->codec == COG_CODEC_STORED)
        return cog_filter_undo(part->filter, part->element_size, stored, out, raw);
    status = need_codec(helper);
    if (status != COG_OK)
        return status;
    if (part->filter != COG_FILTER_NONE) {
        filtered = cog_codec_scratch(helper->codec, COG_SCRATCH_FILTERED, raw);
        if (!filtered)
            return COG_ERR_NOMEM;
    }
    status = cog_codec_expand(helper->codec, stored, stored_size, filtered, raw);
    if (status == COG_ERR_DAMAGED)
        return damaged(err, "a chunk does not expand");
    if (status == COG_OK && part->filter != COG_FILTER_NONE)
        status = cog_filter_undo(part->filter, part->element_size, filtered, out, raw);
    return status;
}

/* Hand out what [start, stop) of the part wants of one checked chunk; `out` is where `start` goes.
 */
static enum cog_status deliver(const struct cog_entry *entry, struct helper *helper,
                               const struct cog_part *part, const struct window *window,
                               uint32_t chunk, uint64_t start, uint64_t stop, unsigned char *out,
                               struct cog_error *err)
{
    uint64_t at = chunk_start(entry, part, chunk);
    const unsigned char *stored = window->bytes + (size_t)(at - window->offset);
    size_t stored_size = (size_t)(entry->chunk_end[chunk] - at);
    uint64_t begin = (uint64_t)(chunk - part->first_chunk) * part->chunk_size;
    uint64_t left = part->raw_size - begin;
    size_t raw = (size_t)(left < part->chunk_size ? left : part->chunk_size);
    uint64_t from = start > begin ? start : begin;
    uint64_t to = stop < begin + raw ? stop : begin + raw;
    unsigned char *target = out + (size_t)(from - start);
    unsigned char *scratch;
    enum cog_status status;

    if (cog_part_is_plain(part)) {
        memcpy(target, stored + (size_t)(from - begin), (size_t)(to - from));
        return COG_OK;
    }
    if (to - from == raw)
        return expand_chunk(helper, part, stored, stored_size, target, raw, err);
    /* No memory for a length that the frame itself does not declare. */
    if (part->codec == COG_CODEC_ZSTD && !cog_codec_is_frame(stored, stored_size, raw))
        return damaged(err, "a chunk does not expand");
    status = need_codec(helper);
    if (status != COG_OK)
        return status;
    scratch = cog_codec_scratch(helper->codec, COG_SCRATCH_RAW, raw);
    if (!scratch)
        return COG_ERR_NOMEM;
    status = expand_chunk(helper, part, stored, stored_size, scratch, raw, err);
    if (status == COG_OK)
        memcpy(target, scratch + (size_t)(from - begin), (size_t)(to - from));
    return status;
}

enum cog_status cog_entry_read(const struct cog_entry *entry, const struct cog_source *source,
                               struct cog_codec *codec, uint32_t number, uint64_t start,
                               uint64_t stop, void *out, struct cog_error *err)
{
    struct helper helper = {codec, false};
    struct window window;
    struct cog_part part;
    uint64_t offset, size;
    uint32_t chunk, end, count;
    enum cog_status status = cog_entry_extent(entry, number, start, stop, &offset, &size, &chunk,
                                              &count);

    if (status != COG_OK)
        return cog_fail(err, status, 0, "no such part, or a range beyond it");
    (void)cog_entry_part(entry, number, &part);
    if (!part.supported)
        return cog_fail(err, COG_ERR_UNSUPPORTED, 0, "unsupported: codec %u, filter %u", part.codec,
                        part.filter);
    end = chunk + count;
    while (status == COG_OK && chunk < end) {
        status = next_window(entry, source, &helper, &part, chunk, end, &window, err);
        if (status != COG_OK)
            break;
        for (; chunk < window.stop && status == COG_OK; chunk++)
            status = deliver(entry, &helper, &part, &window, chunk, start, stop, out, err);
    }
    drop_codec(&helper);
    return status;
}

/* The part that chunk `chunk` belongs to: the last one that begins at or before it. */
static uint32_t part_of_chunk(const struct cog_entry *entry, uint32_t chunk)
{
    uint32_t low = 0, high = entry->parts;

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (entry->places[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    return low;
}

enum cog_status cog_entry_check_chunks(const struct cog_entry *entry,
                                       const struct cog_source *source, uint32_t first,
                                       uint32_t count, struct cog_error *err)
{
    struct helper helper = {NULL, false};
    enum cog_status status = COG_OK;
    uint32_t chunk = first, end;

    if (first > entry->chunks || count > entry->chunks - first)
        return cog_fail(err, COG_ERR_INVALID, 0, "no such chunks");
    end = first + count;
    while (status == COG_OK && chunk < end) {
        struct cog_part part;
        struct window window;
        uint32_t stop;
        (void)cog_entry_part(entry, part_of_chunk(entry, chunk), &part);
        stop = part.first_chunk + part.chunk_count;
        status = next_window(entry, source, &helper, &part, chunk, stop < end ? stop : end, &window,
                             err);
        if (status == COG_OK)
            chunk = window.stop;
    }
    drop_codec(&helper);
    return status;
}

enum cog_status cog_entry_check_plain(const struct cog_entry *entry, uint32_t number,
                                      const void *bytes, struct cog_error *err)
{
    struct cog_part part;
    struct window window = {.bytes = bytes};

    if (cog_entry_part(entry, number, &part) != COG_OK || !cog_part_is_plain(&part))
        return cog_fail(err, COG_ERR_INVALID, 0, "no such part, or not stored as it is");
    window.offset = part.offset;
    window.first = part.first_chunk;
    window.stop = part.first_chunk + part.chunk_count;
    return check_window(entry, &part, &window, err);
}

/* --- everything ---------------------------------------------------------------------------- */

static enum cog_status check_padding(const struct cog_source *source, uint64_t from, uint64_t to,
                                     struct cog_error *err)
{
    unsigned char bytes[4096];

    while (from < to) {
        size_t now = to - from < sizeof bytes ? (size_t)(to - from) : sizeof bytes;
        enum cog_status status = fetch(source, from, bytes, now, err);
        if (status != COG_OK)
            return status;
        if (!is_zero(bytes, now))
            return damaged(err, "padding is not zero");
        from += now;
    }
    return COG_OK;
}

enum cog_status cog_entry_check_frame(const struct cog_entry *entry,
                                      const struct cog_source *source, struct cog_error *err)
{
    unsigned char head[COG_ENTRY_HEAD_SIZE];
    uint64_t end = COG_ENTRY_HEAD_SIZE;
    enum cog_status status;

    if (source->size != entry->length)
        return damaged(err, "not as long as its footer says");
    status = fetch(source, 0, head, sizeof head, err);
    if (status == COG_OK)
        status = check_head(entry, head, err);
    for (uint32_t i = 0; i < entry->parts && status == COG_OK; i++) {
        struct cog_part part;
        (void)cog_entry_part(entry, i, &part);
        status = check_padding(source, end, part.offset, err);
        end = part.offset + part.stored_size;
    }
    return status;
}

enum cog_status cog_entry_verify(const struct cog_entry *entry, const struct cog_source *source,
                                 struct cog_error *err)
{
    enum cog_status status = cog_entry_check_frame(entry, source, err);

    if (status == COG_OK)
        status = cog_entry_check_chunks(entry, source, 0, entry->chunks, err);
    return status;
}

struct finds { /* the numbers of damaged chunks, as many as there is room for */
    uint32_t *chunks;
    size_t most, count;
};

/* Which chunks of [first, stop), all of one part, do not hold: each read by itself. */
static enum cog_status find_in_window(const struct cog_entry *entry,
                                      const struct cog_source *source, struct helper *helper,
                                      const struct cog_part *part, uint32_t first, uint32_t stop,
                                      struct finds *finds, struct cog_error *err)
{
    enum cog_status status = COG_OK;

    for (uint32_t chunk = first; chunk < stop && status == COG_OK; chunk++) {
        struct window window;
        status = next_window(entry, source, helper, part, chunk, chunk + 1, &window, err);
        if (status == COG_ERR_DAMAGED) {
            if (finds->count < finds->most)
                finds->chunks[finds->count] = chunk;
            finds->count++;
            status = COG_OK;
        }
    }
    return status;
}

enum cog_status cog_entry_find_damage(const struct cog_entry *entry,
                                      const struct cog_source *source, uint32_t first,
                                      uint32_t stop, uint32_t *damaged, size_t most, size_t *found,
                                      struct cog_error *err)
{
    struct helper helper = {NULL, false};
    struct finds finds = {damaged, most, 0};
    enum cog_status status = COG_OK;

    *found = 0;
    stop = stop < entry->chunks ? stop : entry->chunks;
    while (status == COG_OK && first < stop) {
        struct cog_part part;
        struct window window;
        uint32_t end;
        (void)cog_entry_part(entry, part_of_chunk(entry, first), &part);
        end = part.first_chunk + part.chunk_count;
        status = next_window(entry, source, &helper, &part, first, end < stop ? end : stop, &window,
                             err);
        if (status == COG_ERR_DAMAGED)
            status = find_in_window(entry, source, &helper, &part, first, window.stop, &finds, err);
        first = window.stop;
    }
    drop_codec(&helper);
    *found = finds.count;
    return status;
}

/* --- another address ----------------------------------------------------------------------- */

/* The counts with the new lengths, key, metadata, and all columns and extensions as they are. */
static enum cog_status append_readdressed(const struct cog_entry *entry, const void *key,
                                          size_t key_size, const void *meta, size_t meta_size,
                                          struct cog_buf *out)
{
    const unsigned char *index = entry->key - COG_INDEX_COUNTS;
    size_t before = COG_INDEX_COUNTS + (size_t)entry->key_size + entry->meta_size;
    unsigned char counts[COG_INDEX_COUNTS];
    enum cog_status status;

    memcpy(counts, index, sizeof counts);
    cog_store_le32(counts, (uint32_t)key_size);
    cog_store_le32(counts + 4, (uint32_t)meta_size);
    status = cog_buf_append(out, counts, sizeof counts);
    if (status == COG_OK)
        status = cog_buf_append(out, key, key_size);
    if (status == COG_OK)
        status = cog_buf_append(out, meta, meta_size);
    if (status == COG_OK)
        status = cog_buf_append(out, index + before, entry->index_size - before);
    return status;
}

enum cog_status cog_entry_readdress(const struct cog_entry *entry, const void *key, size_t key_size,
                                    const void *meta, size_t meta_size,
                                    unsigned char head[COG_ENTRY_HEAD_SIZE], struct cog_buf *tail,
                                    uint64_t *data_end, struct cog_error *err)
{
    struct cog_digest digest;
    struct cog_meta parsed;
    enum cog_status status;
    size_t rest = entry->index_size - entry->key_size - entry->meta_size;

    if (key_size > COG_KEY_LIMIT || meta_size > COG_META_LIMIT ||
        rest + key_size + meta_size > COG_INDEX_LIMIT)
        return cog_fail(err, COG_ERR_LIMIT, 0, "key, metadata or index over their limit");
    if (cog_meta_parse(meta, meta_size, &parsed) != COG_OK)
        return cog_fail(err, COG_ERR_INVALID, 0, "the metadata breaks a rule of its format");
    if (!entry->is_fresh)
        return cog_fail(err, COG_ERR_DAMAGED, 0, "no freshness slot is valid: it can be no hit");
    cog_hash128(key, key_size, &digest);
    cog_store_le64(head, COG_HEAD_MAGIC);
    cog_store_le64(head + 8, entry->token);
    memcpy(head + 16, digest.bytes, sizeof digest.bytes);
    *data_end = entry->data_end;
    tail->size = 0;
    status = append_readdressed(entry, key, key_size, meta, meta_size, tail);
    if (status == COG_OK)
        status = cog_entry_append_tail(tail, entry->token, entry->data_end, tail->size,
                                       COG_CODEC_STORED, &entry->fresh);
    return status;
}
