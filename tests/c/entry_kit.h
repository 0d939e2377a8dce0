/*
 * What the tests of the container share: noise, an allocator that refuses, sources that count, and
 * sample entries with what a reader must find in them.
 */
#ifndef COG_ENTRY_KIT_H
#define COG_ENTRY_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/entry.h"

/* --- noise and memory --- */

/* Reproducible bytes that do not compress. */
void kit_noise(void *out, size_t size, uint64_t seed);
uint64_t kit_random(uint64_t *state);

/* From now on the n-th allocation (1 = the next) and all after it are refused; 0 = none. */
void kit_refuse_from(size_t n);
size_t kit_allocations(void); /* asked for since kit_count_memory() */
size_t kit_live_bytes(void);  /* allocated now and not freed yet */
size_t kit_peak_bytes(void);  /* the most that lived at once since kit_count_memory() */
/* install the counting allocator, counters at zero; off: the standard one again */
void kit_count_memory(bool on);

/* --- sources --- */

/* A container behind a read function, as behind a network: counted, and no `view`. */
struct kit_remote {
    const unsigned char *image;
    size_t size;
    size_t reads;
    uint64_t last_offset;
    size_t last_size;
    uint64_t bytes; /* sum of all reads */
    size_t fail_at; /* this read (1 = the first) answers COG_ERR_IO; 0 = none */
};
struct cog_source kit_remote_source(struct kit_remote *remote);

/* --- the functions under test, replaceable so that a harness can be shown to fail --- */

struct kit_api {
    enum cog_status (*writer_new)(const void *key, size_t key_size, uint64_t token,
                                  struct cog_sink sink, struct cog_entry_writer **out,
                                  struct cog_error *err);
    enum cog_status (*part_begin)(struct cog_entry_writer *writer, uint8_t kind, const void *name,
                                  size_t name_size, const struct cog_part_options *options,
                                  uint32_t *number, struct cog_error *err);
    enum cog_status (*part_write)(struct cog_entry_writer *writer, const void *data, size_t size,
                                  bool stable, struct cog_error *err);
    enum cog_status (*part_end)(struct cog_entry_writer *writer, struct cog_error *err);
    enum cog_status (*finish)(struct cog_entry_writer *writer, const void *meta, size_t meta_size,
                              const struct cog_freshness *fresh, uint64_t *length,
                              struct cog_error *err);
    void (*writer_free)(struct cog_entry_writer *writer);
    enum cog_status (*open)(const struct cog_source *source, const void *key, size_t key_size,
                            size_t cold_read, struct cog_entry **out, struct cog_error *err);
    void (*close)(struct cog_entry *entry);
    const unsigned char *(*meta)(const struct cog_entry *entry, size_t *size);
    enum cog_status (*freshness)(const struct cog_entry *entry, struct cog_freshness *out,
                                 unsigned *which);
    uint32_t (*part_count)(const struct cog_entry *entry);
    enum cog_status (*part)(const struct cog_entry *entry, uint32_t number, struct cog_part *out);
    enum cog_status (*find)(const struct cog_entry *entry, uint8_t kind, const void *name,
                            size_t name_size, uint32_t *number);
    enum cog_status (*read)(const struct cog_entry *entry, const struct cog_source *source,
                            struct cog_codec *codec, uint32_t number, uint64_t start, uint64_t stop,
                            void *out, struct cog_error *err);
    enum cog_status (*verify)(const struct cog_entry *entry, const struct cog_source *source,
                              struct cog_error *err);
};
extern const struct kit_api kit_real;

/* The same code with one check taken out. */
enum kit_bug {
    KIT_CHUNK_SUM_IGNORED, /* chunk checksums always fit */
    KIT_INDEX_SUM_IGNORED,
    KIT_FOOTER_SUM_IGNORED,
    KIT_KEY_IGNORED,
    KIT_BYTES_BEFORE_CHECK /* the output is written first and checked then */
};
const struct kit_api *kit_buggy(enum kit_bug bug);

/* --- sample entries --- */

struct kit_part {
    uint8_t kind;
    const char *name;
    struct cog_part_options options;
    const void *data;
    size_t size;
};

struct kit_sample {
    const char *what;
    const char *key;
    uint64_t token;
    const struct kit_part *parts;
    size_t count;
    const void *meta;
    size_t meta_size;
    struct cog_freshness fresh;
};

enum kit_which {
    KIT_PLAIN,
    KIT_MIXED,
    KIT_FRAMES,
    KIT_FILTERED,
    KIT_PACKED_INDEX,
    KIT_EMPTY,
    KIT_SAMPLES
};
/* A sample; `other` gives the same parts with other contents and another token (a second write of
 * the key). */
const struct kit_sample *kit_sample(enum kit_which which, bool other);

/* Write a sample into memory that the caller frees with free(). Ends the program where that fails.
 */
unsigned char *kit_build(const struct kit_api *api, const struct kit_sample *sample, size_t *size);

/* Compute the checksums of index and footer anew, as somebody with bad intent would. */
void kit_reseal(unsigned char *image, size_t size);

#endif
