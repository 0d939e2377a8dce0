/* MessagePack as the specification has it: shortest forms written, every form read, no length
 * believed. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

#include "core/msgpack.h"
#include "entry_kit.h"

static struct cog_buf out;

static struct cog_mp_reader reader_of(const void *bytes, size_t size)
{
    struct cog_mp_reader reader = {bytes, (const unsigned char *)bytes + size};

    return reader;
}

/* The next token of exactly these bytes, in a block of exactly that size. */
static enum cog_status token_of(const void *bytes, size_t size, struct cog_mp_token *token)
{
    unsigned char *exact = malloc(size ? size : 1);
    struct cog_mp_reader reader;
    enum cog_status status;

    REQUIRE(exact != NULL);
    memcpy(exact, bytes, size);
    reader = reader_of(exact, size);
    status = cog_mp_next(&reader, token);
    free(exact);
    return status;
}

static void test_integers_take_their_shortest_form(void)
{
    static const struct {
        int64_t value;
        size_t size;
        unsigned lead;
    } cases[] = {{0, 1, 0x00},
                 {127, 1, 0x7f},
                 {128, 2, 0xcc},
                 {255, 2, 0xcc},
                 {256, 3, 0xcd},
                 {65535, 3, 0xcd},
                 {65536, 5, 0xce},
                 {4294967295, 5, 0xce},
                 {4294967296, 9, 0xcf},
                 {INT64_MAX, 9, 0xcf},
                 {-1, 1, 0xff},
                 {-32, 1, 0xe0},
                 {-33, 2, 0xd0},
                 {-128, 2, 0xd0},
                 {-129, 3, 0xd1},
                 {-32768, 3, 0xd1},
                 {-32769, 5, 0xd2},
                 {-2147483648LL, 5, 0xd2},
                 {-2147483649LL, 9, 0xd3},
                 {INT64_MIN, 9, 0xd3}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cog_mp_token token = {0};
        cog_buf_reset(&out);
        CHECK_EQ(cog_mp_int(&out, cases[i].value), COG_OK);
        CHECK_EQ(out.size, cases[i].size);
        CHECK_EQ(out.data[0], cases[i].lead);
        CHECK_EQ(token_of(out.data, out.size, &token), COG_OK);
        CHECK_EQ(token.type, COG_MP_INT);
        CHECK_EQ(token.integer, cases[i].value);
        CHECK(cases[i].value < 0 || token.unsigned_integer == (uint64_t)cases[i].value);
        for (size_t cut = 0; cut < out.size; cut++)
            CHECK_EQ(token_of(out.data, cut, &token), COG_ERR_DAMAGED);
    }
}

static void test_large_unsigned_integers_keep_their_value(void)
{
    struct cog_mp_token token;

    cog_buf_reset(&out);
    CHECK_EQ(cog_mp_uint(&out, UINT64_MAX), COG_OK);
    CHECK_EQ(token_of(out.data, out.size, &token), COG_OK);
    CHECK_EQ(token.type, COG_MP_UINT);
    CHECK(token.unsigned_integer == UINT64_MAX);
}

/* Forms that we never write, but others may. */
static void test_longer_forms_are_read(void)
{
    static const unsigned char one_in_eight[] = {0xd3, 0, 0, 0, 0, 0, 0, 0, 1};
    static const unsigned char minus_two[] = {0xd2, 0xff, 0xff, 0xff, 0xfe};
    static const unsigned char single[] = {0xca, 0x3f, 0xc0, 0, 0};
    struct cog_mp_token token;

    CHECK_EQ(token_of(one_in_eight, sizeof one_in_eight, &token), COG_OK);
    CHECK_EQ(token.integer, 1);
    CHECK_EQ(token_of(minus_two, sizeof minus_two, &token), COG_OK);
    CHECK_EQ(token.integer, -2);
    CHECK_EQ(token_of(single, sizeof single, &token), COG_OK);
    CHECK(token.type == COG_MP_FLOAT && token.real == 1.5);
}

static void test_floats_keep_their_bits(void)
{
    static const uint64_t bits[] = {
        0, UINT64_C(1) << 63,           UINT64_C(0x7ff8000000000123), UINT64_C(0xfff0000000000000),
        1, UINT64_C(0x400921fb54442d18)};

    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        struct cog_mp_token token;
        double value;
        memcpy(&value, &bits[i], sizeof value);
        cog_buf_reset(&out);
        CHECK_EQ(cog_mp_float(&out, value), COG_OK);
        CHECK_EQ(out.size, 9);
        CHECK_EQ(token_of(out.data, out.size, &token), COG_OK);
        CHECK(token.type == COG_MP_FLOAT && memcmp(&token.real, &bits[i], 8) == 0);
    }
}

typedef enum cog_status (*put_bytes)(struct cog_buf *buf, const void *bytes, size_t size);

static enum cog_status put_ext_five(struct cog_buf *buf, const void *bytes, size_t size)
{
    return cog_mp_ext(buf, -5, bytes, size);
}

static void check_bytes_of(put_bytes put, enum cog_mp_type type)
{
    static const size_t sizes[] = {0, 1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 255, 256, 65535, 65536};
    static unsigned char data[65536];

    kit_noise(data, sizeof data, 9);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct cog_mp_reader reader;
        struct cog_mp_token token = {0};
        cog_buf_reset(&out);
        CHECK_EQ(put(&out, data, sizes[i]), COG_OK);
        CHECK(out.size <= sizes[i] + 6);
        reader = reader_of(out.data, out.size);
        CHECK_EQ(cog_mp_next(&reader, &token), COG_OK);
        CHECK_EQ(token.type, type);
        CHECK(reader.at == reader.end);
        CHECK_BYTES(token.data, token.size, data, sizes[i]);
        CHECK(type != COG_MP_EXT || token.ext == -5);
        CHECK_EQ(token_of(out.data, out.size - 1, &token), COG_ERR_DAMAGED);
        if (sizes[i] < 300)
            for (size_t cut = 0; cut < out.size; cut++)
                CHECK_EQ(token_of(out.data, cut, &token), COG_ERR_DAMAGED);
    }
}

static void test_strings_bytes_and_extensions_come_back(void)
{
    check_bytes_of(cog_mp_str, COG_MP_STR);
    check_bytes_of(cog_mp_bin, COG_MP_BIN);
    check_bytes_of(put_ext_five, COG_MP_EXT);
}

static void test_extension_heads_are_the_standard_ones(void)
{
    static const struct {
        size_t size, head;
        unsigned lead;
    } cases[] = {{0, 3, 0xc7}, {1, 2, 0xd4},  {2, 2, 0xd5},  {3, 3, 0xc7},   {4, 2, 0xd6},
                 {8, 2, 0xd7}, {16, 2, 0xd8}, {17, 3, 0xc7}, {256, 4, 0xc8}, {65536, 6, 0xc9}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cog_buf_reset(&out);
        CHECK_EQ(cog_mp_ext_head(&out, 7, cases[i].size), COG_OK);
        CHECK_EQ(out.size, cases[i].head);
        CHECK_EQ(out.data[0], cases[i].lead);
        CHECK_EQ(out.data[out.size - 1], 7);
    }
}

static void test_counts_beyond_the_bytes_left_are_lies(void)
{
    static const unsigned char lies[][6] = {
        {0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0}, {0xdf, 0xff, 0xff, 0xff, 0xff, 0xc0},
        {0xc6, 0xff, 0xff, 0xff, 0xff, 0xc0}, {0xdb, 0xff, 0xff, 0xff, 0xff, 0xc0},
        {0xc9, 0xff, 0xff, 0xff, 0xff, 0xc0}, {0x81, 0xc0, 0, 0, 0, 0}};
    struct cog_mp_token token;

    for (size_t i = 0; i < 5; i++)
        CHECK_EQ(token_of(lies[i], 6, &token), COG_ERR_DAMAGED);
    CHECK_EQ(token_of(lies[5], 2, &token), COG_ERR_DAMAGED); /* a pair takes two bytes */
    CHECK_EQ(token_of(lies[5], 3, &token), COG_OK);
    CHECK_EQ(token_of("\xc1", 1, &token), COG_ERR_DAMAGED); /* never used */
    CHECK_EQ(token_of("", 0, &token), COG_ERR_DAMAGED);
}

static void test_skip_takes_one_whole_value(void)
{
    struct cog_mp_reader reader;

    cog_buf_reset(&out);
    CHECK_EQ(cog_mp_map(&out, 2), COG_OK);
    CHECK_EQ(cog_mp_int(&out, 1), COG_OK);
    CHECK_EQ(cog_mp_array(&out, 3), COG_OK);
    CHECK_EQ(cog_mp_nil(&out), COG_OK);
    CHECK_EQ(cog_mp_array(&out, 0), COG_OK);
    CHECK_EQ(cog_mp_map(&out, 0), COG_OK);
    CHECK_EQ(cog_mp_str(&out, "key", 3), COG_OK);
    CHECK_EQ(cog_mp_bool(&out, true), COG_OK);
    for (size_t cut = 0; cut < out.size; cut++) {
        reader = reader_of(out.data, cut);
        CHECK_EQ(cog_mp_skip(&reader, 16), COG_ERR_DAMAGED);
    }
    CHECK_EQ(cog_mp_int(&out, 42), COG_OK);
    reader = reader_of(out.data, out.size);
    CHECK_EQ(cog_mp_skip(&reader, 16), COG_OK);
    CHECK_EQ(reader.end - reader.at, 1);
    CHECK_EQ(*reader.at, 42);
    reader = reader_of(out.data, out.size);
    CHECK_EQ(cog_mp_skip(&reader, 3), COG_OK);
    reader = reader_of(out.data, out.size);
    CHECK_EQ(cog_mp_skip(&reader, 2), COG_ERR_DAMAGED);
}

static void test_depth_is_bounded(void)
{
    static unsigned char nested[100001];
    struct cog_mp_reader reader;

    for (unsigned depth = 0; depth <= COG_MP_DEPTH_LIMIT; depth++) {
        memset(nested, 0x91, depth);
        nested[depth] = 0xc0;
        reader = reader_of(nested, depth + 1);
        CHECK_EQ(cog_mp_skip(&reader, depth), COG_OK);
        reader = reader_of(nested, depth + 1);
        CHECK_EQ(cog_mp_skip(&reader, depth ? depth - 1 : 0), depth ? COG_ERR_DAMAGED : COG_OK);
    }
    memset(nested, 0x91, sizeof nested - 1);
    reader = reader_of(nested, sizeof nested);
    CHECK_EQ(cog_mp_skip(&reader, 1000000), COG_ERR_DAMAGED);
}

static void test_an_append_happens_whole_or_not_at_all(void)
{
    static const char text[200] = "text";
    struct cog_buf buf = {0};

    kit_count_memory(true);
    CHECK_EQ(cog_mp_int(&buf, 5), COG_OK);
    kit_refuse_from(1);
    while (buf.size + 1 <= buf.capacity) /* fill what is there */
        CHECK_EQ(cog_mp_nil(&buf), COG_OK);
    for (int i = 0; i < 9; i++) {
        size_t before = buf.size;
        enum cog_status status = i == 0   ? cog_mp_nil(&buf)
                                 : i == 1 ? cog_mp_bool(&buf, true)
                                 : i == 2 ? cog_mp_int(&buf, -1000)
                                 : i == 3 ? cog_mp_float(&buf, 1)
                                 : i == 4 ? cog_mp_str(&buf, text, sizeof text)
                                 : i == 5 ? cog_mp_bin(&buf, text, sizeof text)
                                 : i == 6 ? cog_mp_array(&buf, 100000)
                                 : i == 7 ? cog_mp_map(&buf, 3)
                                          : cog_mp_ext(&buf, 1, text, sizeof text);
        CHECK_EQ(status, COG_ERR_NOMEM);
        CHECK_EQ(buf.size, before);
    }
    cog_buf_release(&buf);
    CHECK_EQ(kit_live_bytes(), 0);
    kit_count_memory(false);
}

/* The next extension by reading every token: what cog_mp_next_ext() comes to faster. */
static enum cog_status next_ext_by_token(struct cog_mp_reader *reader, struct cog_mp_token *token)
{
    while (reader->at < reader->end) {
        if (cog_mp_next(reader, token) != COG_OK)
            return COG_ERR_DAMAGED;
        if (token->type == COG_MP_EXT)
            return COG_OK;
    }
    return COG_ABSENT;
}

static void test_extensions_are_found_among_all_kinds_of_values(void)
{
    static const unsigned char noise[300] = {0xc7, 0xd4, 0xd8};
    struct cog_mp_reader reader, slow;
    struct cog_mp_token token = {0}, expected = {0};

    cog_buf_reset(&out);
    cog_mp_map(&out, 9);
    for (unsigned i = 0; i < 9; i++) {
        cog_mp_str(&out, "a name", i % 7);
        cog_mp_float(&out, i / 3.0);
        cog_mp_int(&out, i - 40LL * i * i * i);
        cog_mp_array(&out, i * 6);
        cog_mp_str(&out, noise, i * 30);
        cog_mp_bin(&out, noise, i * 30); /* an extension inside bytes is none */
        cog_mp_bool(&out, i % 2);
        cog_mp_nil(&out);
        cog_mp_ext(&out, (int8_t)i, noise, i);
    }
    reader = reader_of(out.data, out.size);
    for (int i = 0; i < 9; i++) {
        CHECK_EQ(cog_mp_next_ext(&reader, &token), COG_OK);
        CHECK_EQ(token.type, COG_MP_EXT);
        CHECK_EQ(token.ext, i);
        CHECK_BYTES(token.data, token.size, noise, (size_t)i);
    }
    CHECK_EQ(cog_mp_next_ext(&reader, &token), COG_ABSENT);
    for (size_t cut = 0; cut < out.size; cut++) { /* whatever is missing, both stop at one place */
        enum cog_status status;

        reader = slow = reader_of(out.data, cut);
        do {
            status = cog_mp_next_ext(&reader, &token);
            /* A count of items that are cut off is no matter of this function. */
            if (next_ext_by_token(&slow, &expected) == status)
                CHECK(status != COG_OK || token.data == expected.data);
            else
                CHECK(slow.at <= reader.at);
        } while (status == COG_OK);
        CHECK(reader.at <= reader.end);
    }
}

static void test_lengths_beyond_the_format_are_refused(void)
{
    cog_buf_reset(&out);
    CHECK_EQ(cog_mp_str(&out, "", (size_t)UINT32_MAX + 1), COG_ERR_LIMIT);
    CHECK_EQ(cog_mp_bin(&out, "", (size_t)UINT32_MAX + 1), COG_ERR_LIMIT);
    CHECK_EQ(cog_mp_ext(&out, 1, "", (size_t)UINT32_MAX + 1), COG_ERR_LIMIT);
    CHECK_EQ(cog_mp_array(&out, (size_t)UINT32_MAX + 1), COG_ERR_LIMIT);
    CHECK_EQ(cog_mp_map(&out, (size_t)UINT32_MAX + 1), COG_ERR_LIMIT);
    CHECK_EQ(out.size, 0);
}

int main(void)
{
    RUN(test_integers_take_their_shortest_form);
    RUN(test_large_unsigned_integers_keep_their_value);
    RUN(test_longer_forms_are_read);
    RUN(test_floats_keep_their_bits);
    RUN(test_strings_bytes_and_extensions_come_back);
    RUN(test_extension_heads_are_the_standard_ones);
    RUN(test_counts_beyond_the_bytes_left_are_lies);
    RUN(test_skip_takes_one_whole_value);
    RUN(test_depth_is_bounded);
    RUN(test_an_append_happens_whole_or_not_at_all);
    RUN(test_extensions_are_found_among_all_kinds_of_values);
    RUN(test_lengths_beyond_the_format_are_refused);
    cog_buf_release(&out);
    return check_done();
}
