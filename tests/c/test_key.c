/* Keys: the writers against bytes written out by hand, and what happens when memory is refused. */
#include "core/key.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "check.h"
#include "core/alloc.h"

static struct cog_buf out;

static void reset(void)
{
    cog_buf_reset(&out);
}

static void check_hex(const char *expected)
{
    char *hex = malloc(2 * out.size + 1);
    REQUIRE(hex);
    cog_hex(out.data, out.size, hex);
    if (!CHECK(strcmp(hex, expected) == 0))
        fprintf(stderr, "  got %s\n  not %s\n", hex, expected);
    free(hex);
    reset();
}

static void test_single_items(void)
{
    CHECK(cog_key_null(&out) == COG_OK);
    CHECK(cog_key_bool(&out, true) == COG_OK);
    CHECK(cog_key_bool(&out, false) == COG_OK);
    check_hex("6e7466");
    CHECK(cog_key_int(&out, -1) == COG_OK);
    check_hex("69ffffffffffffffff");
    CHECK(cog_key_str(&out, "\xc3\xa9", 2) == COG_OK);
    check_hex("7302000000c3a9");
    CHECK(cog_key_bytes(&out, NULL, 0) == COG_OK);
    check_hex("6200000000");
    CHECK(cog_key_list(&out, 2) == COG_OK);
    check_hex("6c02000000");
    CHECK(cog_key_map(&out, 1) == COG_OK);
    check_hex("6d01000000");
}

static void test_doubles_are_their_exact_value(void)
{
    CHECK(cog_key_double(&out, 30.0) == COG_OK);
    check_hex("691e00000000000000");
    CHECK(cog_key_double(&out, -0.0) == COG_OK);
    check_hex("690000000000000000");
    CHECK(cog_key_double(&out, 0.5) == COG_OK);
    check_hex("72690100000000000000690200000000000000");
    CHECK(cog_key_double(&out, -0.75) == COG_OK);
    check_hex("7269fdffffffffffffff690400000000000000");
    CHECK(cog_key_double(&out, 9007199254740993.0) == COG_OK);
    check_hex("690000000000002000");
    CHECK(cog_key_double(&out, -9223372036854775808.0) == COG_OK);
    check_hex("690000000000000080");
    CHECK(cog_key_double(&out, 9223372036854775808.0) == COG_OK);
    check_hex("2b080000000000000000000080");
    CHECK(cog_key_double(&out, (double)NAN) == COG_OK);
    CHECK(cog_key_double(&out, -(double)NAN) == COG_OK);
    CHECK(cog_key_double(&out, (double)INFINITY) == COG_OK);
    CHECK(cog_key_double(&out, -(double)INFINITY) == COG_OK);
    check_hex("3f3f3e3c");
}

/* The extremes: 2^-1074 has a denominator of 135 bytes, DBL_MAX 128 bytes with 53 bits at the top.
 */
static void test_extreme_doubles(void)
{
    CHECK(cog_key_double(&out, 0x1p-1074) == COG_OK);
    CHECK_EQ(out.size, (size_t)(1 + 9 + 5 + 135));
    CHECK(out.data[0] == 'r' && out.data[1] == 'i' && out.data[2] == 1);
    CHECK(out.data[10] == '+' && out.data[11] == 135 && out.data[out.size - 1] == 4);
    reset();
    CHECK(cog_key_double(&out, -DBL_MAX) == COG_OK);
    CHECK_EQ(out.size, (size_t)(5 + 128));
    CHECK(out.data[0] == '-' && out.data[1] == 128 && out.data[out.size - 1] == 0xff);
    reset();
    for (int exponent = -1074; exponent < 1024; exponent++) {
        CHECK(cog_key_double(&out, ldexp(1.0, exponent)) == COG_OK);
        reset();
    }
}

static void test_big_integers_have_one_form(void)
{
    unsigned char magnitude[20] = {0};

    CHECK(cog_key_big(&out, false, magnitude, sizeof magnitude) == COG_OK);
    check_hex("690000000000000000");
    CHECK(cog_key_big(&out, true, NULL, 0) == COG_OK);
    check_hex("690000000000000000");
    magnitude[7] = 0x80;
    CHECK(cog_key_big(&out, true, magnitude, sizeof magnitude) == COG_OK);
    check_hex("690000000000000080");
    CHECK(cog_key_big(&out, false, magnitude, sizeof magnitude) == COG_OK);
    check_hex("2b080000000000000000000080");
    magnitude[0] = 1;
    CHECK(cog_key_big(&out, true, magnitude, sizeof magnitude) == COG_OK);
    check_hex("2d080000000100000000000080");
    magnitude[8] = 1;
    CHECK(cog_key_big(&out, false, magnitude, 9) == COG_OK);
    check_hex("2b09000000010000000000008001");
}

static void test_names_are_ordered_as_bytes(void)
{
    CHECK(cog_key_compare("a", 1, "a", 1) == 0);
    CHECK(cog_key_compare("", 0, "a", 1) < 0);
    CHECK(cog_key_compare("a", 1, "ab", 2) < 0);
    CHECK(cog_key_compare("b", 1, "ab", 2) > 0);
    CHECK(cog_key_compare("\xc3\xa9", 2, "z", 1) > 0);
    CHECK(cog_key_compare(NULL, 0, NULL, 0) == 0);
}

static void test_a_whole_key(void)
{
    const unsigned char source[COG_KEY_SOURCE_SIZE] = {0};

    CHECK(cog_key_begin(&out, "", 0, source, "a", 1) == COG_OK);
    CHECK(cog_key_map(&out, 0) == COG_OK);
    CHECK(cog_key_end(&out) == COG_OK);
    check_hex("6c05000000690100000000000000730000000062100000000000000000000000000000000000000073"
              "01000000616d00000000");
}

static void test_raw_keys_and_their_limits(void)
{
    char *text = malloc(COG_KEY_RAW_MAX + 1);

    REQUIRE(text);
    memset(text, 'x', COG_KEY_RAW_MAX + 1);
    CHECK(cog_key_raw("a", 1, &out) == COG_OK);
    check_hex("6c030000006901000000000000007303000000726177730100000061");
    CHECK(cog_key_raw("", 0, &out) == COG_ERR_INVALID);
    CHECK(cog_key_raw("a\0b", 3, &out) == COG_ERR_INVALID);
    CHECK(cog_key_raw(text, COG_KEY_RAW_MAX + 1, &out) == COG_ERR_LIMIT);
    CHECK_EQ(out.size, (size_t)0);
    CHECK(cog_key_raw(text, COG_KEY_RAW_MAX, &out) == COG_OK);
    CHECK(cog_key_end(&out) == COG_OK);
    reset();
    free(text);
}

static void test_the_limit_of_a_key_is_exact(void)
{
    CHECK(cog_buf_append_zeros(&out, COG_KEY_SIZE_MAX) == COG_OK);
    CHECK(cog_key_end(&out) == COG_OK);
    CHECK(cog_buf_append_u8(&out, 0) == COG_OK);
    CHECK(cog_key_end(&out) == COG_ERR_LIMIT);
    reset();
}

static void test_only_long_values_are_folded(void)
{
    char text[COG_KEY_INLINE_MAX + 1];
    unsigned char expected[22] = {'d', 's'};
    struct cog_digest digest;

    memset(text, 'x', sizeof text);
    CHECK(cog_key_null(&out) == COG_OK);
    CHECK(cog_key_str(&out, text, COG_KEY_INLINE_MAX) == COG_OK);
    CHECK(!cog_key_is_long(&out, 1));
    cog_key_fold(&out, 1);
    CHECK_EQ(out.size, (size_t)(1 + 5 + COG_KEY_INLINE_MAX));
    out.size = 1;
    CHECK(cog_key_str(&out, text, sizeof text) == COG_OK);
    CHECK(cog_key_is_long(&out, 1));
    cog_hash128(out.data + 1, out.size - 1, &digest);
    memcpy(expected + 2, digest.bytes, sizeof digest.bytes);
    expected[18] = sizeof text;
    cog_key_fold(&out, 1);
    CHECK_BYTES(out.data + 1, out.size - 1, expected, sizeof expected);
    CHECK(out.data[0] == 'n');
    out.size = 0;
    /* Seven integers of nine bytes and a head of five: 68. */
    CHECK(cog_key_list(&out, 7) == COG_OK);
    for (int i = 0; i < 7; i++)
        CHECK(cog_key_int(&out, i) == COG_OK);
    cog_key_fold(&out, 0);
    CHECK(out.size == 22 && out.data[1] == 'l' && out.data[18] == 68);
    out.size = 0;
    /* Numbers are never folded, however long. */
    CHECK(cog_key_double(&out, 0x1p-1074) == COG_OK);
    CHECK(!cog_key_is_long(&out, 0));
    reset();
}

static int allocations_left;

static void *refusing_alloc(size_t size)
{
    return allocations_left-- > 0 ? malloc(size) : NULL;
}

static void *refusing_resize(void *block, size_t size)
{
    return allocations_left-- > 0 ? realloc(block, size) : NULL;
}

/* Every append is whole or not at all, whichever allocation is refused. */
static void test_refused_memory_leaves_the_buffer_as_it_was(void)
{
    const struct cog_alloc_hooks hooks = {refusing_alloc, refusing_resize, free};
    const unsigned char source[COG_KEY_SOURCE_SIZE] = {0};
    char profile[200];

    memset(profile, 'p', sizeof profile);
    for (int allowed = 0; allowed < 4; allowed++) {
        struct cog_buf small = {0};
        enum cog_status status;
        cog_alloc_set_hooks(&hooks);
        allocations_left = allowed;
        status = cog_key_begin(&small, profile, sizeof profile, source, profile, sizeof profile);
        CHECK(status == COG_OK || (status == COG_ERR_NOMEM && small.size == 0));
        allocations_left = allowed;
        small.size = 0;
        status = cog_key_raw(profile, sizeof profile, &small);
        CHECK(status == COG_OK || (status == COG_ERR_NOMEM && small.size == 0));
        small.size = 0;
        status = cog_key_double(&small, 0x1p-1074);
        CHECK(status == COG_OK || (status == COG_ERR_NOMEM && small.size == 0));
        cog_alloc_set_hooks(NULL);
        cog_buf_release(&small);
    }
}

int main(void)
{
    RUN(test_single_items);
    RUN(test_doubles_are_their_exact_value);
    RUN(test_extreme_doubles);
    RUN(test_big_integers_have_one_form);
    RUN(test_names_are_ordered_as_bytes);
    RUN(test_a_whole_key);
    RUN(test_raw_keys_and_their_limits);
    RUN(test_the_limit_of_a_key_is_exact);
    RUN(test_only_long_values_are_folded);
    RUN(test_refused_memory_leaves_the_buffer_as_it_was);
    cog_buf_release(&out);
    return check_done();
}
