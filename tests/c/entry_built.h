/* An entry under construction and then open, for the tests that write one and look at it. */
#ifndef COG_ENTRY_BUILT_H
#define COG_ENTRY_BUILT_H

#include "check.h"

#include <stdlib.h>

#include "entry_kit.h"

static const char key[] = "video:9b2cf535:transcript";
static const struct cog_freshness fresh = {0, 0, UINT64_C(1763700000000), UINT64_C(604800000), 0};

static const struct cog_part_options zstd = {.codec = COG_CODEC_ZSTD};

/* Bytes to write; every test fills what it needs. */
static unsigned char large[COG_CHUNK_DEFAULT * 3 + 1];

struct built {
    struct cog_entry_writer *writer;
    struct cog_image image;
    unsigned char *bytes;
    size_t size;
    struct cog_source source;
    struct cog_entry *entry;
};

static inline void begin(struct built *built)
{
    memset(built, 0, sizeof *built);
    REQUIRE(cog_entry_writer_new(key, sizeof key - 1, 77, cog_image_sink(&built->image),
                                 &built->writer, NULL) == COG_OK);
}

static inline void put(struct built *built, uint8_t kind, const char *name,
                       const struct cog_part_options *options, const void *data, size_t size)
{
    struct cog_error err = {0};
    enum cog_status status = cog_entry_part_put(built->writer, kind, name, strlen(name), options,
                                                data, size, true, NULL, &err);

    if (!CHECK_EQ(status, COG_OK))
        fprintf(stderr, "    %s\n", err.text);
}

static inline void finish(struct built *built)
{
    uint64_t length;

    REQUIRE(cog_entry_finish(built->writer, NULL, 0, &fresh, &length, NULL) == COG_OK);
    REQUIRE(cog_image_seal(&built->image) == COG_OK && built->image.length == length);
    built->size = (size_t)length;
    built->bytes = malloc(built->size);
    REQUIRE(built->bytes != NULL && cog_image_copy(&built->image, built->bytes) == COG_OK);
    built->source = cog_memory_source(built->bytes, built->size);
    REQUIRE(cog_entry_open(&built->source, key, sizeof key - 1, 0, &built->entry, NULL) == COG_OK);
    CHECK_EQ(cog_entry_verify(built->entry, &built->source, NULL), COG_OK);
}

static inline void release(struct built *built)
{
    cog_entry_free(built->entry);
    cog_entry_writer_free(built->writer);
    cog_image_release(&built->image);
    free(built->bytes);
}

static inline struct cog_part part_of(const struct built *built, uint32_t number)
{
    struct cog_part part = {0};

    CHECK_EQ(cog_entry_part(built->entry, number, &part), COG_OK);
    return part;
}

/* An entry of one part, as its only writer decides about it. */
static inline struct built one_part(uint8_t kind, const struct cog_part_options *options,
                                    const void *data, size_t size)
{
    struct built built;

    begin(&built);
    put(&built, kind, kind == COG_PART_DOC ? "" : "0", options, data, size);
    finish(&built);
    return built;
}

static inline void check_reads_back(const struct built *built, uint32_t number,
                                    const unsigned char *data, size_t size)
{
    unsigned char *out = malloc(size + 1);

    REQUIRE(out != NULL);
    CHECK_EQ(cog_entry_read(built->entry, &built->source, NULL, number, 0, size, out, NULL),
             COG_OK);
    CHECK_BYTES(out, size, data, size);
    free(out);
}

#endif
