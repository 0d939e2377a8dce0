/*
 * Whatever happens to the bytes of an entry, a reader finds what was written or nothing: never
 * another value, and not one byte before its checksum held. Every harness here is first shown to
 * notice a reader with one check taken out.
 */
#include "check.h"

#include <stdlib.h>

#include "core/entry_layout.h"
#include "entry_kit.h"

enum { SENTINEL = 0xA5, LARGEST_PART = 65536, BEYOND = 64, COLD = COG_ENTRY_TAIL_SIZE };

struct tally {
    unsigned long cases;
    unsigned long refused;    /* damaged or foreign when opened, or when a part was read */
    unsigned long survived;   /* everything read, everything right */
    unsigned long wrong;      /* something else was read, or metadata or freshness nobody wrote */
    unsigned long early;      /* bytes in the output of a failed read */
    unsigned long unexpected; /* another verdict than the three */
    unsigned long unfresh;    /* survived, but with no valid slot: a miss */
};

static void judge_part(const struct kit_api *api, const struct cog_entry *entry,
                       const struct cog_source *source, const struct kit_part *part,
                       struct tally *tally, bool *refused)
{
    static unsigned char out[LARGEST_PART];
    struct cog_part found;
    size_t watched = part->size + BEYOND;
    uint32_t number;
    enum cog_status status;

    if (api->find(entry, part->kind, part->name, strlen(part->name), &number) != COG_OK ||
        api->part(entry, number, &found) != COG_OK || found.raw_size != part->size) {
        tally->wrong++;
        return;
    }
    memset(out, SENTINEL, watched);
    status = api->read(entry, source, NULL, number, 0, part->size, out, NULL);
    if (status == COG_OK) {
        tally->wrong += part->size && memcmp(out, part->data, part->size) != 0;
        return;
    }
    *refused = true;
    tally->unexpected += status != COG_ERR_DAMAGED;
    for (size_t i = 0; i < watched; i++) {
        if (out[i] != SENTINEL) {
            tally->early++;
            return;
        }
    }
}

/* One of the two that were written (an index and a footer of the other write bring its slot's
 * seed), or none. */
static void judge_freshness(const struct kit_api *api, const struct cog_entry *entry,
                            struct tally *tally)
{
    const struct cog_freshness *one = &kit_sample(KIT_PLAIN, false)->fresh;
    const struct cog_freshness *other = &kit_sample(KIT_PLAIN, true)->fresh;
    struct cog_freshness fresh;

    if (api->freshness(entry, &fresh, NULL) != COG_OK) {
        tally->unfresh++;
        return;
    }
    tally->wrong += fresh.refreshed_ms != one->refreshed_ms &&
                    fresh.refreshed_ms != other->refreshed_ms;
    tally->wrong += fresh.ttl_ms != one->ttl_ms || fresh.seq != 1;
}

/* One reader over one damaged image: what it says beside what was written. */
static void judge(const struct kit_api *api, const struct kit_sample *sample,
                  const struct cog_source *source, size_t cold_read, struct tally *tally)
{
    struct cog_entry *entry;
    const unsigned char *meta;
    size_t meta_size;
    bool refused = false;
    enum cog_status status = api->open(source, sample->key, strlen(sample->key), cold_read, &entry,
                                       NULL);

    tally->cases++;
    if (status != COG_OK) {
        tally->refused++;
        tally->unexpected += status != COG_ERR_DAMAGED && status != COG_ERR_FOREIGN;
        tally->unexpected += entry != NULL;
        return;
    }
    meta = api->meta(entry, &meta_size);
    tally->wrong += meta_size != sample->meta_size || memcmp(meta, sample->meta, meta_size) != 0;
    tally->wrong += api->part_count(entry) != sample->count;
    judge_freshness(api, entry, tally);
    for (size_t i = 0; i < sample->count; i++)
        judge_part(api, entry, source, &sample->parts[i], tally, &refused);
    tally->refused += refused;
    tally->survived += !refused;
    api->close(entry);
}

/* The whole image in memory, and the same bytes behind a read function that shows a little at a
 * time. */
static void judge_both(const struct kit_api *api, const struct kit_sample *sample,
                       const unsigned char *image, size_t size, struct tally *tally)
{
    struct cog_source memory = cog_memory_source(image, size);
    struct kit_remote remote = {.image = image, .size = size};
    struct cog_source ranged = kit_remote_source(&remote);

    judge(api, sample, &memory, 0, tally);
    judge(api, sample, &ranged, COLD, tally);
}

/* --- the ways to be damaged ---------------------------------------------------------------- */

struct subject {
    const struct kit_api *api;
    const struct kit_sample *sample;
    unsigned char *image, *other; /* two writes of one key */
    size_t size, other_size;
    unsigned char *scratch; /* room for both and more */
};

static struct subject subject_of(const struct kit_api *api, enum kit_which which)
{
    struct subject subject = {.api = api, .sample = kit_sample(which, false)};

    subject.image = kit_build(api, subject.sample, &subject.size);
    subject.other = kit_build(api, kit_sample(which, true), &subject.other_size);
    subject.scratch = malloc(subject.size + subject.other_size + 4096);
    REQUIRE(subject.scratch != NULL);
    return subject;
}

static void subject_release(struct subject *subject)
{
    free(subject->image);
    free(subject->other);
    free(subject->scratch);
}

static void restore(const struct subject *subject)
{
    memcpy(subject->scratch, subject->image, subject->size);
}

static void judge_scratch(const struct subject *subject, size_t size, struct tally *tally)
{
    /* A copy of exactly this size, so that a sanitizer sees a step beyond it. */
    unsigned char *exact = malloc(size ? size : 1);

    REQUIRE(exact != NULL);
    memcpy(exact, subject->scratch, size);
    judge_both(subject->api, subject->sample, exact, size, tally);
    free(exact);
}

static void flip_every_byte(const struct subject *subject, struct tally *tally)
{
    static const unsigned char masks[] = {0x01, 0x80, 0xFF};

    restore(subject);
    for (size_t i = 0; i < subject->size; i++) {
        for (size_t m = 0; m < sizeof masks; m++) {
            subject->scratch[i] ^= masks[m];
            judge_both(subject->api, subject->sample, subject->scratch, subject->size, tally);
            subject->scratch[i] ^= masks[m];
        }
    }
}

static void cut_everywhere(const struct subject *subject, struct tally *tally)
{
    for (size_t size = 0; size < subject->size; size++) {
        restore(subject);
        judge_scratch(subject, size, tally); /* the end is missing */
        memmove(subject->scratch, subject->scratch + subject->size - size, size);
        judge_scratch(subject, size, tally); /* the front is missing */
    }
}

static void append_garbage(const struct subject *subject, struct tally *tally)
{
    for (size_t more = 1; more < 200; more++) {
        restore(subject);
        kit_noise(subject->scratch + subject->size, more, more);
        judge_scratch(subject, subject->size + more, tally);
        memset(subject->scratch + subject->size, 0, more);
        judge_scratch(subject, subject->size + more, tally);
    }
    /* The tail of another write of the same key, and of the entry itself. */
    restore(subject);
    memcpy(subject->scratch + subject->size, subject->other, subject->other_size);
    memmove(subject->scratch + subject->size, subject->scratch, subject->size);
    judge_scratch(subject, 2 * subject->size, tally);
}

static void zero_sectors(const struct subject *subject, struct tally *tally)
{
    static const size_t sectors[] = {16, 64, 512};

    for (size_t s = 0; s < sizeof sectors / sizeof sectors[0]; s++) {
        for (size_t at = 0; at < subject->size; at += sectors[s]) {
            size_t now = subject->size - at < sectors[s] ? subject->size - at : sectors[s];
            restore(subject);
            if (now == subject->size)
                continue;
            memset(subject->scratch + at, 0, now);
            /* What was zero before is not damage. */
            if (memcmp(subject->scratch, subject->image, subject->size) != 0)
                judge_scratch(subject, subject->size, tally);
        }
    }
}

/* Every pair of blocks of one size exchanged, within the entry and between two writes of it. */
static void swap_blocks(const struct subject *subject, struct tally *tally)
{
    static const size_t blocks[] = {8, 64};

    for (size_t b = 0; b < sizeof blocks / sizeof blocks[0]; b++) {
        size_t block = blocks[b];
        size_t first = COG_ENTRY_HEAD_SIZE, count = (subject->size - first) / block;
        for (size_t i = 0; i < count; i++) {
            for (size_t j = i + 1; j < count && j < i + 12; j++) {
                unsigned char *a = subject->scratch + first + i * block;
                unsigned char *c = subject->scratch + first + j * block;
                restore(subject);
                memcpy(a, subject->image + first + j * block, block);
                memcpy(c, subject->image + first + i * block, block);
                if (memcmp(subject->scratch, subject->image, subject->size) != 0)
                    judge_both(subject->api, subject->sample, subject->scratch, subject->size,
                               tally);
            }
        }
    }
    for (size_t at = 0; at + 64 <= subject->size && at + 64 <= subject->other_size; at += 32) {
        restore(subject);
        memcpy(subject->scratch + at, subject->other + at, 64);
        judge_both(subject->api, subject->sample, subject->scratch, subject->size, tally);
    }
}

/* Chunks exactly, as the index has them: exchanged within the entry, and taken from the other
 * write. */
static void swap_chunks(const struct subject *subject, struct tally *tally)
{
    struct cog_source source = cog_memory_source(subject->image, subject->size);
    struct cog_entry *entry;
    struct {
        uint64_t offset, size;
    } chunks[700];
    size_t count = 0;

    REQUIRE(subject->api->open(&source, NULL, 0, 0, &entry, NULL) == COG_OK);
    for (uint32_t i = 0; i < subject->api->part_count(entry); i++) {
        struct cog_part part;
        uint64_t at = 0;
        REQUIRE(subject->api->part(entry, i, &part) == COG_OK);
        for (; cog_part_is_plain(&part) && at < part.raw_size; count++) {
            uint64_t left = part.raw_size - at;
            chunks[count].offset = part.offset + at;
            chunks[count].size = left < part.chunk_size ? left : part.chunk_size;
            at += chunks[count].size;
        }
    }
    subject->api->close(entry);
    for (size_t i = 0; i < count; i++) {
        unsigned char *a = subject->scratch + chunks[i].offset;
        for (size_t j = i + 1; j < count && j < i + 40; j++) {
            unsigned char *b = subject->scratch + chunks[j].offset;
            size_t size = (size_t)chunks[i].size;
            restore(subject);
            if (chunks[i].size != chunks[j].size || memcmp(a, b, size) == 0)
                continue;
            memcpy(a, subject->image + chunks[j].offset, size);
            memcpy(b, subject->image + chunks[i].offset, size);
            judge_both(subject->api, subject->sample, subject->scratch, subject->size, tally);
        }
        restore(subject);
        if (subject->other_size == subject->size) {
            memcpy(a, subject->other + chunks[i].offset, (size_t)chunks[i].size);
            judge_both(subject->api, subject->sample, subject->scratch, subject->size, tally);
        }
    }
}

/* Bytes missing in the middle: a few, and whole chunks, as when a slice of a sliced copy was lost.
 */
static void lose_the_middle(const struct subject *subject, struct tally *tally)
{
    static const size_t lost[] = {1, 7, 64, 128};

    for (size_t l = 0; l < sizeof lost / sizeof lost[0]; l++) {
        for (size_t at = 0; at + lost[l] < subject->size; at += 3) {
            restore(subject);
            memmove(subject->scratch + at, subject->scratch + at + lost[l],
                    subject->size - at - lost[l]);
            judge_scratch(subject, subject->size - lost[l], tally);
        }
    }
}

/* All mixtures of head, data, index, slots and footer of two writes, where they have the same
 * lengths. */
static void mix_two_writes(const struct subject *subject, struct tally *tally)
{
    size_t size = subject->size;
    const unsigned char *footer = subject->image + size - COG_ENTRY_FOOTER_SIZE;
    size_t index = cog_load_le32(footer + COG_FOOTER_INDEX_STORED);
    size_t ends[5];

    if (subject->other_size != size)
        return;
    ends[0] = COG_ENTRY_HEAD_SIZE;
    ends[1] = size - COG_ENTRY_TAIL_SIZE - index;
    ends[2] = size - COG_ENTRY_TAIL_SIZE;
    ends[3] = size - COG_ENTRY_FOOTER_SIZE;
    ends[4] = size;
    /* Mixture 31 is the other write whole: a right answer, but not this sample's. */
    for (unsigned mixture = 1; mixture < 31; mixture++) {
        size_t from = 0;
        for (unsigned piece = 0; piece < 5; piece++) {
            const unsigned char *source = mixture >> piece & 1 ? subject->other : subject->image;
            memcpy(subject->scratch + from, source + from, ends[piece] - from);
            from = ends[piece];
        }
        /* Everything of the other write but its head, which no value depends on: that is the other
         * write. */
        if ((mixture & 0x1e) == 0x1e || (mixture & 0x16) == 0x16)
            continue;
        judge_both(subject->api, subject->sample, subject->scratch, size, tally);
    }
}

static void halves_of_two_writes(const struct subject *subject, struct tally *tally)
{
    for (size_t at = 1; at < subject->size && at < subject->other_size; at++) {
        memcpy(subject->scratch, subject->other, at);
        memcpy(subject->scratch + at, subject->image + at, subject->size - at);
        if (at > COG_ENTRY_HEAD_SIZE && at < subject->size - COG_ENTRY_TAIL_SIZE)
            judge_both(subject->api, subject->sample, subject->scratch, subject->size, tally);
    }
}

typedef void (*damage)(const struct subject *subject, struct tally *tally);
static const damage all_damage[] = {flip_every_byte, cut_everywhere, append_garbage,
                                    zero_sectors,    swap_blocks,    swap_chunks,
                                    lose_the_middle, mix_two_writes, halves_of_two_writes};

static struct tally campaign(const struct kit_api *api, enum kit_which which)
{
    struct subject subject = subject_of(api, which);
    struct tally tally = {0};

    for (size_t i = 0; i < sizeof all_damage / sizeof all_damage[0]; i++)
        all_damage[i](&subject, &tally);
    subject_release(&subject);
    return tally;
}

/* --- tests --------------------------------------------------------------------------------- */

static void test_undamaged_samples_are_read(void)
{
    for (int which = 0; which < KIT_SAMPLES; which++) {
        struct subject subject = subject_of(&kit_real, (enum kit_which)which);
        struct tally tally = {0};
        struct tally other = {0};
        judge_both(&kit_real, subject.sample, subject.image, subject.size, &tally);
        judge_both(&kit_real, kit_sample((enum kit_which)which, true), subject.other,
                   subject.other_size, &other);
        CHECK_EQ(tally.survived, 2);
        CHECK_EQ(tally.wrong + tally.unfresh, 0);
        CHECK_EQ(other.survived, 2);
        CHECK_EQ(other.wrong + other.unfresh, 0);
        subject_release(&subject);
    }
}

static void test_no_damage_gives_another_value(void)
{
    static const enum kit_which samples[] = {KIT_PLAIN, KIT_MIXED, KIT_FRAMES, KIT_FILTERED,
                                             KIT_EMPTY};
    unsigned long cases = 0;

    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        struct tally tally = campaign(&kit_real, samples[i]);
        CHECK(tally.cases > 1000);
        CHECK(tally.refused > tally.cases / 2);
        CHECK_EQ(tally.wrong, 0);
        CHECK_EQ(tally.early, 0);
        CHECK_EQ(tally.unexpected, 0);
        cases += tally.cases;
    }
    CHECK(cases > 30000);
}

/* The long sample, with its compressed index: every byte of what differs from the others. */
static void test_damage_of_a_compressed_index_is_found(void)
{
    struct subject subject = subject_of(&kit_real, KIT_PACKED_INDEX);
    const unsigned char *footer = subject.image + subject.size - COG_ENTRY_FOOTER_SIZE;
    size_t tail = COG_ENTRY_TAIL_SIZE + cog_load_le32(footer + COG_FOOTER_INDEX_STORED);
    struct tally tally = {0};

    CHECK_EQ(footer[COG_FOOTER_INDEX_CODEC], COG_CODEC_ZSTD);
    restore(&subject);
    for (size_t i = subject.size - tail; i < subject.size; i++) {
        subject.scratch[i] ^= 0x20;
        judge_both(&kit_real, subject.sample, subject.scratch, subject.size, &tally);
        subject.scratch[i] ^= 0x20;
    }
    mix_two_writes(&subject, &tally);
    CHECK(tally.cases > 1000);
    CHECK(tally.refused > tally.cases * 9 / 10);
    CHECK_EQ(tally.wrong + tally.early + tally.unexpected, 0);
    subject_release(&subject);
}

/* What survives a flip of one byte lies where no value depends on it: the slots, and behind a
 * ranged read head and padding. */
static void test_flips_survive_only_where_no_value_depends_on_them(void)
{
    struct subject subject = subject_of(&kit_real, KIT_FILTERED);
    size_t slots = subject.size - COG_ENTRY_TAIL_SIZE,
           footer = subject.size - COG_ENTRY_FOOTER_SIZE;

    for (size_t i = 0; i < subject.size; i++) {
        struct cog_source source = cog_memory_source(subject.scratch, subject.size);
        struct tally tally = {0};
        restore(&subject);
        subject.scratch[i] ^= 0x10;
        judge(&kit_real, subject.sample, &source, 0, &tally);
        CHECK_EQ(tally.survived, i >= slots && i < footer);
        CHECK_EQ(tally.unfresh, i >= slots && i < slots + COG_SLOT_SIZE);
    }
    subject_release(&subject);
}

static void test_the_harness_notices_a_missing_check(void)
{
    static const struct {
        enum kit_bug bug;
        bool early; /* shows as bytes handed out too early, else as another value */
    } bugs[] = {{KIT_CHUNK_SUM_IGNORED, false},
                {KIT_INDEX_SUM_IGNORED, false},
                {KIT_BYTES_BEFORE_CHECK, true}};

    for (size_t i = 0; i < sizeof bugs / sizeof bugs[0]; i++) {
        struct tally tally = campaign(kit_buggy(bugs[i].bug), KIT_MIXED);
        CHECK((bugs[i].early ? tally.early : tally.wrong) > 0);
    }
}

static enum cog_status open_under(const struct kit_api *api, const char *key)
{
    size_t size;
    unsigned char *image = kit_build(api, kit_sample(KIT_PLAIN, false), &size);
    struct cog_source source = cog_memory_source(image, size);
    struct cog_entry *entry;
    enum cog_status status = api->open(&source, key, strlen(key), 0, &entry, NULL);

    api->close(entry);
    free(image);
    return status;
}

static void test_an_entry_under_another_name_is_foreign(void)
{
    CHECK_EQ(open_under(&kit_real, kit_sample(KIT_PLAIN, false)->key), COG_OK);
    CHECK_EQ(open_under(&kit_real, "video:9b2cf535:transcript:model=large"), COG_ERR_FOREIGN);
    CHECK_EQ(open_under(&kit_real, "video:9b2cf535:transcript:model=bas"), COG_ERR_FOREIGN);
    CHECK_EQ(open_under(&kit_real, ""), COG_ERR_FOREIGN);
    /* And the check can fail. */
    CHECK_EQ(open_under(kit_buggy(KIT_KEY_IGNORED), "another"), COG_OK);
}

static enum cog_status open_with_other_major(const struct kit_api *api)
{
    struct subject subject = subject_of(api, KIT_PLAIN);
    struct cog_source source = cog_memory_source(subject.image, subject.size);
    struct cog_entry *entry;
    enum cog_status status;

    subject.image[subject.size - COG_ENTRY_FOOTER_SIZE + COG_FOOTER_MAJOR] ^= 2;
    status = api->open(&source, NULL, 0, 0, &entry, NULL);
    subject_release(&subject);
    return status;
}

/* Foreign entries are never touched again, so damage must not look like a newer version. */
static void test_a_damaged_version_is_damage_and_not_foreign(void)
{
    CHECK_EQ(open_with_other_major(&kit_real), COG_ERR_DAMAGED);
    CHECK_EQ(open_with_other_major(kit_buggy(KIT_FOOTER_SUM_IGNORED)), COG_ERR_FOREIGN);
}

int main(void)
{
    RUN(test_undamaged_samples_are_read);
    RUN(test_the_harness_notices_a_missing_check);
    RUN(test_no_damage_gives_another_value);
    RUN(test_damage_of_a_compressed_index_is_found);
    RUN(test_flips_survive_only_where_no_value_depends_on_them);
    RUN(test_an_entry_under_another_name_is_foreign);
    RUN(test_a_damaged_version_is_damage_and_not_foreign);
    cog_codec_free_spares();
    return check_done();
}
