/* The store through its public face, on both tables of calls and in every mode. */
#include <string.h>

#include "check.h"
#include "store_kit.h"

#include "core/alloc.h"

static void test_what_is_put_is_got(struct kit *kit)
{
    struct cog_store *store = kit_open(kit, NULL);
    static const size_t sizes[] = {0,      1,      4095,   4096,    65536,
                                   262000, 262144, 300000, 1 << 20, 6 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *data = cog_alloc(sizes[i]);
        kit_fill(data, sizes[i], i, 1);
        char key[16];
        snprintf(key, sizeof key, "key %zu", i);
        CHECK_EQ(kit_miss(store, key), COG_MISS_ABSENT);
        CHECK_EQ(kit_put(store, key, data, sizes[i]), COG_OK);
        CHECK(kit_has(store, key, data, sizes[i]));
        CHECK(kit_has(store, key, data, sizes[i])); /* large ones: from the verified-once table */
        cog_free(data);
    }
    CHECK_EQ(kit_count(kit, "tmp"), 0);
    cog_store_close(store);
}

int main(void)
{
    KIT_RUN(test_what_is_put_is_got);
    return check_done();
}
