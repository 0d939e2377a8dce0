/* Metadata and freshness: unknown fields pass, broken rules do not, and a torn slot is never
 * believed. */
#include "check.h"

#include <stdlib.h>

#include "core/meta.h"
#include "core/msgpack.h"
#include "entry_kit.h"

static const uint64_t token = UINT64_C(0x1122334455667788);

static enum cog_status parse(const struct cog_buf *buf, struct cog_meta *meta)
{
    /* A block of exactly that size, so that a sanitizer sees a step beyond it. */
    unsigned char *exact = malloc(buf->size ? buf->size : 1);
    enum cog_status status;

    REQUIRE(exact != NULL);
    memcpy(exact, buf->data, buf->size);
    status = cog_meta_parse(exact, buf->size, meta);
    free(exact);
    return status;
}

static void put_tag(struct cog_buf *buf, const char *name, uint64_t version)
{
    (void)cog_mp_array(buf, 2);
    (void)cog_mp_str(buf, name, strlen(name));
    (void)cog_mp_uint(buf, version);
}

/* A document with every known key and some that a later version may bring. */
static struct cog_buf full_document(void)
{
    struct cog_buf buf = {0};

    (void)cog_mp_map(&buf, 13);
    (void)cog_mp_int(&buf, COG_META_CREATED), (void)cog_mp_uint(&buf, 1763700000000);
    (void)cog_mp_int(&buf, COG_META_COST), (void)cog_mp_uint(&buf, 300000);
    (void)cog_mp_int(&buf, COG_META_TAGS), (void)cog_mp_array(&buf, 2);
    put_tag(&buf, "uri:9b2cf535", 1763700000000000);
    put_tag(&buf, "model", UINT64_MAX);
    (void)cog_mp_int(&buf, COG_META_CONTENT_TYPE), (void)cog_mp_str(&buf, "image/jpeg", 10);
    (void)cog_mp_int(&buf, COG_META_USER), (void)cog_mp_map(&buf, 0);
    (void)cog_mp_int(&buf, COG_META_PRODUCER), (void)cog_mp_str(&buf, "me", 2);
    (void)cog_mp_int(&buf, COG_META_ARTIFACT), (void)cog_mp_str(&buf, "transcript", 10);
    (void)cog_mp_int(&buf, COG_META_SOURCE), (void)cog_mp_array(&buf, 0);
    (void)cog_mp_int(&buf, COG_META_FULL_PARAMS), (void)cog_mp_map(&buf, 0);
    (void)cog_mp_int(&buf, 40), (void)cog_mp_array(&buf, 1), (void)cog_mp_nil(&buf);
    (void)cog_mp_int(&buf, 1000), (void)cog_mp_ext(&buf, 99, "abc", 3);
    (void)cog_mp_int(&buf, -3), (void)cog_mp_bool(&buf, true);
    (void)cog_mp_str(&buf, "a string key", 12), (void)cog_mp_float(&buf, 1.5);
    return buf;
}

static void test_known_fields_are_found_and_unknown_ones_pass(void)
{
    struct cog_buf buf = full_document();
    struct cog_meta meta;
    struct cog_tag_iter iter;
    struct cog_tag_ref tag;

    REQUIRE(cog_meta_parse(buf.data, buf.size, &meta) == COG_OK);
    CHECK_EQ(meta.created_ms, 1763700000000);
    CHECK_EQ(meta.cost_ms, 300000);
    CHECK_BYTES(meta.artifact, meta.artifact_size, "transcript", 10);
    CHECK_EQ(meta.tag_count, 2);
    cog_tag_iter_init(&iter, &meta);
    CHECK_EQ(cog_tag_iter_next(&iter, &tag), COG_OK);
    CHECK_BYTES(tag.name, tag.name_size, "uri:9b2cf535", 12);
    CHECK_EQ(tag.version, 1763700000000000);
    CHECK_EQ(cog_tag_iter_next(&iter, &tag), COG_OK);
    CHECK_BYTES(tag.name, tag.name_size, "model", 5);
    CHECK(tag.version == UINT64_MAX);
    CHECK_EQ(cog_tag_iter_next(&iter, &tag), COG_ABSENT);
    CHECK_EQ(cog_tag_iter_next(&iter, &tag), COG_ABSENT);
    cog_buf_release(&buf);
}

static void test_a_cut_document_is_damaged(void)
{
    struct cog_buf buf = full_document();
    size_t whole = buf.size;
    struct cog_meta meta;

    for (buf.size = 1; buf.size < whole; buf.size++)
        CHECK_EQ(parse(&buf, &meta), COG_ERR_DAMAGED);
    CHECK_EQ(parse(&buf, &meta), COG_OK);
    (void)cog_mp_nil(&buf); /* and nothing may follow */
    CHECK_EQ(parse(&buf, &meta), COG_ERR_DAMAGED);
    cog_buf_release(&buf);
}

static void test_no_document_says_nothing(void)
{
    struct cog_meta meta;
    struct cog_tag_iter iter;
    struct cog_tag_ref tag;

    CHECK_EQ(cog_meta_parse(NULL, 0, &meta), COG_OK);
    CHECK(meta.created_ms == 0 && meta.tags == NULL && meta.artifact == NULL);
    cog_tag_iter_init(&iter, &meta);
    CHECK_EQ(cog_tag_iter_next(&iter, &tag), COG_ABSENT);
}

static void test_broken_rules_are_damage(void)
{
    static const struct {
        const char *what;
        size_t size;
        const char *bytes;
    } cases[] = {{"not a map", 1, "\x90"},
                 {"created is a string", 3, "\x81\x01\xa0"},
                 {"created is negative", 3, "\x81\x01\xff"},
                 {"cost is a float", 11, "\x81\x02\xcb\0\0\0\0\0\0\0\0"},
                 {"tags is a map", 3, "\x81\x03\x80"},
                 {"a tag is not a pair", 5, "\x81\x03\x91\x91\xa0"},
                 {"a tag without a name", 6, "\x81\x03\x91\x92\x01\x01"},
                 {"a tag without a version", 6, "\x81\x03\x91\x92\xa0\xa0"},
                 {"content type is a number", 3, "\x81\x04\x01"},
                 {"user is an array", 3, "\x81\x05\x90"},
                 {"artifact is bytes", 4, "\x81\x07\xc4\0"},
                 {"parameters are a string", 3, "\x81\x0c\xa0"},
                 {"a key twice", 5, "\x82\x01\x01\x01\x02"},
                 {"an unknown key twice", 5, "\x82\x20\x01\x20\x02"},
                 {"a key that is neither number nor string", 3, "\x81\xc0\x01"}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cog_meta meta;
        if (!CHECK_EQ(cog_meta_parse(cases[i].bytes, cases[i].size, &meta), COG_ERR_DAMAGED))
            fprintf(stderr, "    %s\n", cases[i].what);
    }
}

static void test_depth_sixteen_is_the_deepest(void)
{
    unsigned char bytes[32] = {0x81, 0x05, 0x81, 0x01};
    struct cog_meta meta;

    /* The document and its user map are two of them. */
    memset(bytes + 4, 0x91, 14);
    bytes[18] = 0xc0;
    CHECK_EQ(cog_meta_parse(bytes, 19, &meta), COG_OK);
    memset(bytes + 4, 0x91, 15);
    bytes[19] = 0xc0;
    CHECK_EQ(cog_meta_parse(bytes, 20, &meta), COG_ERR_DAMAGED);
}

/* --- freshness ----------------------------------------------------------------------------- */

static struct cog_freshness fresh_of(uint16_t seq, uint64_t refreshed_ms)
{
    struct cog_freshness fresh = {seq, 3, refreshed_ms, 604800000, 60000};

    return fresh;
}

static bool same_fresh(const struct cog_freshness *a, const struct cog_freshness *b)
{
    return a->seq == b->seq && a->flags == b->flags && a->refreshed_ms == b->refreshed_ms &&
           a->ttl_ms == b->ttl_ms && a->stale_ms == b->stale_ms;
}

static void test_a_slot_has_its_bytes(void)
{
    static const unsigned char golden[COG_SLOT_SIZE] = {0x00, 0x45, 0xb6, 0xa4, 0x9a, 0x01, 0x01,
                                                        0x00, 0x00, 0x84, 0x0c, 0x24, 0,    0,
                                                        0,    0,    0,    0,    0,    0,    0,
                                                        0,    0,    0,    0x92, 0xd4, 0x5d, 0xed,
                                                        0x24, 0xd9, 0x97, 0x8f};
    struct cog_freshness fresh = {1, 0, 1763700000000, 604800000, 0};
    unsigned char slot[COG_SLOT_SIZE];

    cog_slot_encode(&fresh, token, slot);
    CHECK_BYTES(slot, sizeof slot, golden, sizeof golden);
}

static void test_a_slot_comes_back_and_no_flip_of_it_does(void)
{
    struct cog_freshness fresh = fresh_of(65535, COG_NEVER), back;
    unsigned char slot[COG_SLOT_SIZE];

    fresh.ttl_ms = COG_NEVER;
    cog_slot_encode(&fresh, token, slot);
    CHECK(cog_slot_decode(slot, token, &back) && same_fresh(&back, &fresh));
    CHECK(!cog_slot_decode(slot, token + 1, &back)); /* the slot of another write */
    for (size_t i = 0; i < 8 * sizeof slot; i++) {
        slot[i / 8] ^= (unsigned char)(1u << i % 8);
        CHECK(!cog_slot_decode(slot, token, &back));
        slot[i / 8] ^= (unsigned char)(1u << i % 8);
    }
    memset(slot, 0, sizeof slot);
    CHECK(!cog_slot_decode(slot, token, &back));
}

static unsigned current_of(uint16_t a, uint16_t b)
{
    unsigned char slots[2 * COG_SLOT_SIZE];
    struct cog_freshness first = fresh_of(a, 1000), second = fresh_of(b, 2000), now;
    unsigned which = 9;

    cog_slot_encode(&first, token, slots);
    cog_slot_encode(&second, token, slots + COG_SLOT_SIZE);
    CHECK_EQ(cog_slots_current(slots, token, &now, &which), COG_OK);
    CHECK(same_fresh(&now, which ? &second : &first));
    return which;
}

static void test_the_newest_slot_counts_around_the_circle(void)
{
    CHECK_EQ(current_of(1, 2), 1);
    CHECK_EQ(current_of(3, 2), 0);
    CHECK_EQ(current_of(65535, 0), 1);
    CHECK_EQ(current_of(0, 65535), 0);
    CHECK_EQ(current_of(65530, 5), 1);
    CHECK_EQ(current_of(5, 65530), 0);
    CHECK_EQ(current_of(7, 7), 0);
    CHECK_EQ(current_of(0, 32767), 1);
    CHECK_EQ(current_of(0, 32769), 0);
}

static void test_with_no_valid_slot_there_is_no_freshness(void)
{
    unsigned char slots[2 * COG_SLOT_SIZE] = {0};
    struct cog_freshness fresh = fresh_of(1, 1000), now;
    unsigned which = 9;

    CHECK_EQ(cog_slots_current(slots, token, &now, &which), COG_ABSENT);
    cog_slot_encode(&fresh, token, slots + COG_SLOT_SIZE);
    CHECK_EQ(cog_slots_current(slots, token, &now, &which), COG_OK);
    CHECK_EQ(which, 1);
    CHECK_EQ(cog_slots_current(slots, token, &now, NULL), COG_OK);
    slots[COG_SLOT_SIZE + 5] ^= 1;
    CHECK_EQ(cog_slots_current(slots, token, &now, &which), COG_ABSENT);
}

/* A refresh that is torn at any byte, from either end: the old truth or the new one. */
static void test_a_torn_refresh_never_invents(void)
{
    struct cog_freshness old = fresh_of(1, 1000), current = fresh_of(2, 2000),
                         next = fresh_of(3, 3000);
    unsigned char before[2 * COG_SLOT_SIZE], after[2 * COG_SLOT_SIZE], torn[2 * COG_SLOT_SIZE];
    unsigned long old_truth = 0, new_truth = 0;

    cog_slot_encode(&old, token, before);
    cog_slot_encode(&current, token, before + COG_SLOT_SIZE);
    memcpy(after, before, sizeof after);
    cog_slot_encode(&next, token, after);
    for (size_t cut = 0; cut <= COG_SLOT_SIZE; cut++) {
        for (int end = 0; end < 2; end++) {
            struct cog_freshness now;
            unsigned which;
            memcpy(torn, before, sizeof torn);
            if (end)
                memcpy(torn + cut, after + cut, COG_SLOT_SIZE - cut);
            else
                memcpy(torn, after, cut);
            CHECK_EQ(cog_slots_current(torn, token, &now, &which), COG_OK);
            CHECK(same_fresh(&now, &current) || same_fresh(&now, &next));
            old_truth += same_fresh(&now, &current);
            new_truth += same_fresh(&now, &next);
        }
    }
    CHECK(old_truth > 20 && new_truth >= 2);
}

static void test_expiry(void)
{
    struct cog_freshness fresh = {1, 0, 1000, 500, 0};

    CHECK_EQ(cog_fresh_expires(&fresh, 1200), 1500);
    CHECK(!cog_fresh_is_expired(&fresh, 1499));
    CHECK(cog_fresh_is_expired(&fresh, 1500));
    /* A stamp from a clock ahead of ours counts as now: it lives no longer than its ttl from here.
     */
    CHECK_EQ(cog_fresh_expires(&fresh, 400), 900);
    CHECK(!cog_fresh_is_expired(&fresh, 400));
    fresh.ttl_ms = COG_NEVER;
    CHECK(cog_fresh_expires(&fresh, 1200) == UINT64_MAX);
    CHECK(!cog_fresh_is_expired(&fresh, COG_NEVER));
    fresh.ttl_ms = 0;
    CHECK(cog_fresh_is_expired(&fresh, 1000));
}

int main(void)
{
    RUN(test_known_fields_are_found_and_unknown_ones_pass);
    RUN(test_a_cut_document_is_damaged);
    RUN(test_no_document_says_nothing);
    RUN(test_broken_rules_are_damage);
    RUN(test_depth_sixteen_is_the_deepest);
    RUN(test_a_slot_has_its_bytes);
    RUN(test_a_slot_comes_back_and_no_flip_of_it_does);
    RUN(test_the_newest_slot_counts_around_the_circle);
    RUN(test_with_no_valid_slot_there_is_no_freshness);
    RUN(test_a_torn_refresh_never_invents);
    RUN(test_expiry);
    return check_done();
}
