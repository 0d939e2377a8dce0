/*
 * Any bytes at all as a container: one of the three verdicts, in bounded memory. The first byte
 * chooses the way: as they are, with the checksums made right (else no input would get past them),
 * or as an index for which a container is built around.
 */
#include <stdlib.h>
#include <string.h>

#include "core/entry_layout.h"
#include "entry_kit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LARGEST_READ = 1 << 16, DATA_SIZE = 4096 };

static void require(bool held)
{
    if (!held)
        abort();
}

static bool is_verdict(enum cog_status status)
{
    return status == COG_OK || status == COG_ERR_DAMAGED || status == COG_ERR_FOREIGN;
}

static void read_parts(const struct cog_entry *entry, const struct cog_source *source)
{
    static unsigned char out[LARGEST_READ];
    uint64_t end = COG_ENTRY_HEAD_SIZE;
    uint32_t count = cog_entry_part_count(entry);

    for (uint32_t i = 0; i < count; i++) {
        unsigned char name[COG_NAME_LIMIT];
        struct cog_part part;
        uint64_t stop;
        uint32_t found;
        size_t name_size;
        enum cog_status status;
        require(cog_entry_part(entry, i, &part) == COG_OK);
        require(part.offset >= end && part.offset + part.stored_size <= source->size);
        end = part.offset + part.stored_size;
        require(cog_entry_part_name(entry, i, name, &name_size) == COG_OK);
        require(cog_entry_find(entry, part.kind, name, name_size, &found) == COG_OK && found == i);
        if (i > 64)
            continue;
        stop = part.raw_size < sizeof out ? part.raw_size : sizeof out;
        status = cog_entry_read(entry, source, NULL, i, part.raw_size - stop, part.raw_size, out,
                                NULL);
        require(status == COG_OK || status == COG_ERR_DAMAGED || status == COG_ERR_UNSUPPORTED);
    }
}

static void read_container(const unsigned char *image, size_t size)
{
    struct cog_source memory = cog_memory_source(image, size);
    struct kit_remote remote = {.image = image, .size = size};
    struct cog_source far = kit_remote_source(&remote);
    struct cog_entry *entry, *again;
    enum cog_status status = cog_entry_open(&memory, NULL, 0, 0, &entry, NULL);

    require(is_verdict(status) && (status == COG_OK) == (entry != NULL));
    /* From afar head and padding are not looked at, so more may open, never less. */
    if (cog_entry_open(&far, NULL, 0, COG_ENTRY_TAIL_SIZE, &again, NULL) == COG_OK)
        read_parts(again, &far);
    else
        require(status != COG_OK);
    if (status == COG_OK) {
        read_parts(entry, &memory);
        status = cog_entry_verify(entry, &memory, NULL);
        require(status == COG_OK || status == COG_ERR_DAMAGED);
    }
    cog_entry_free(entry);
    cog_entry_free(again);
}

/* Head, some data, `index`, slots, footer: everything around the index is in order. */
static void read_index(const uint8_t *index, size_t size, uint8_t codec)
{
    size_t total = COG_ENTRY_SMALLEST + DATA_SIZE + size, raw = size;
    unsigned char *image = calloc(1, total), *footer;
    uint64_t token = 0;

    require(image != NULL);
    /* What length the index says it has when it is expanded. */
    if (codec == COG_CODEC_ZSTD && size >= 4) {
        raw = cog_load_le32(index) % (1 << 20);
        index += 4;
        size -= 4;
        total -= 4;
    }
    footer = image + total - COG_ENTRY_FOOTER_SIZE;
    if (size)
        memcpy(image + COG_ENTRY_HEAD_SIZE + DATA_SIZE, index, size);
    cog_store_le64(footer + COG_FOOTER_TOKEN, token);
    cog_store_le64(footer + COG_FOOTER_LENGTH, total);
    cog_store_le32(footer + COG_FOOTER_INDEX_STORED, (uint32_t)size);
    cog_store_le32(footer + COG_FOOTER_INDEX_RAW, (uint32_t)raw);
    footer[COG_FOOTER_MAJOR] = COG_MAJOR;
    footer[COG_FOOTER_INDEX_CODEC] = codec;
    cog_store_le32(footer + COG_FOOTER_MAGIC, COG_END_MAGIC);
    kit_reseal(image, total);
    read_container(image, total);
    free(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char *image;

    if (size < 1)
        return 0;
    image = malloc(size);
    require(image != NULL);
    memcpy(image, data + 1, size - 1);
    switch (data[0] % 4) {
    case 0: read_container(image, size - 1); break;
    case 1:
        if (size - 1 >= COG_ENTRY_SMALLEST)
            kit_reseal(image, size - 1);
        read_container(image, size - 1);
        break;
    case 2: read_index(image, size - 1, COG_CODEC_STORED); break;
    default: read_index(image, size - 1, COG_CODEC_ZSTD);
    }
    free(image);
    return 0;
}
