/*
 * The reader and the writer once more, under other names and with one check taken out at a time:
 * what the tests of the container must notice. The code is the product's own, included; only the
 * checksums come from here.
 */
#define cog_memory_source buggy_memory_source
#define cog_entry_writer_new buggy_writer_new
#define cog_entry_writer_token buggy_writer_token
#define cog_entry_writer_free buggy_writer_free
#define cog_entry_part_begin buggy_part_begin
#define cog_entry_part_write buggy_part_write
#define cog_entry_part_end buggy_part_end
#define cog_entry_part_put buggy_part_put
#define cog_entry_finish buggy_finish
#define cog_entry_open buggy_open
#define cog_entry_free buggy_free
#define cog_entry_reopen buggy_reopen
#define cog_entry_footprint buggy_footprint
#define cog_entry_check_plain buggy_check_plain
#define cog_entry_token buggy_token
#define cog_entry_length buggy_length
#define cog_entry_key buggy_key
#define cog_entry_meta buggy_meta
#define cog_entry_freshness buggy_freshness
#define cog_entry_part_count buggy_part_count
#define cog_entry_chunk_count buggy_chunk_count
#define cog_entry_part_name buggy_part_name
#define cog_entry_find buggy_find
#define cog_entry_read buggy_read
#define cog_entry_check_chunks buggy_check_chunks
#define cog_entry_extent buggy_extent
#define cog_entry_verify buggy_verify
#define cog_entry_check_frame buggy_check_frame
#define cog_entry_find_damage buggy_find_damage
#define cog_entry_readdress buggy_readdress
#define cog_entry_append_tail buggy_append_tail
#define cog_entry_part buggy_part
#define cog_part_is_plain buggy_is_plain

#include <string.h>

#include "core/entry_layout.h"

#include "entry_kit.h"

static enum kit_bug current;

static uint64_t buggy_chunk_sum(const void *stored, size_t size, uint64_t token, uint32_t chunk)
{
    if (current == KIT_CHUNK_SUM_IGNORED)
        return 0;
    return cog_chunk_sum(stored, size, token, chunk);
}

static uint64_t buggy_index_sum(const void *index, size_t size, uint64_t token)
{
    return current == KIT_INDEX_SUM_IGNORED ? 0 : cog_index_sum(index, size, token);
}

static uint64_t buggy_footer_sum(const unsigned char *footer)
{
    return current == KIT_FOOTER_SUM_IGNORED ? 0 : cog_footer_sum(footer);
}

#define cog_chunk_sum buggy_chunk_sum
#define cog_index_sum buggy_index_sum
#define cog_footer_sum buggy_footer_sum

#include "../../csrc/core/entry.c"

#include "../../csrc/core/entry_writer.c"

static enum cog_status open_any_key(const struct cog_source *source, const void *key,
                                    size_t key_size, size_t cold_read, struct cog_entry **out,
                                    struct cog_error *err)
{
    bool ignored = current == KIT_KEY_IGNORED;

    return buggy_open(source, ignored ? NULL : key, key_size, cold_read, out, err);
}

static enum cog_status read_too_early(const struct cog_entry *entry,
                                      const struct cog_source *source, struct cog_codec *codec,
                                      uint32_t number, uint64_t start, uint64_t stop, void *out,
                                      struct cog_error *err)
{
    struct cog_part part;

    if (current == KIT_BYTES_BEFORE_CHECK && buggy_part(entry, number, &part) == COG_OK &&
        buggy_is_plain(&part) && part.offset + stop <= source->size)
        (void)source->read(source->context, part.offset + start, out, (size_t)(stop - start), err);
    return buggy_read(entry, source, codec, number, start, stop, out, err);
}

const struct kit_api *kit_buggy(enum kit_bug bug)
{
    static const struct kit_api api = {buggy_writer_new, buggy_part_begin, buggy_part_write,
                                       buggy_part_end,   buggy_finish,     buggy_writer_free,
                                       open_any_key,     buggy_free,       buggy_meta,
                                       buggy_freshness,  buggy_part_count, buggy_part,
                                       buggy_find,       read_too_early,   buggy_verify};

    current = bug;
    return &api;
}
