/* Kept documents: found by their write alone, bounded, and safe to hold on to. */
#include "check.h"

#include <pthread.h>
#include <string.h>

#include "core/alloc.h"
#include "core/documents.h"

static struct cog_write_id id_of(uint64_t number)
{
    return (struct cog_write_id){.device = 1, .inode = number, .length = 100, .token = number * 7};
}

static void keep(uint64_t number, size_t size)
{
    struct cog_write_id id = id_of(number);
    struct cog_document *document = cog_document_new(size);
    REQUIRE(document != NULL);
    memset(cog_document_bytes(document), (int)(number & 0xFF), size);
    cog_documents_keep(&id, document);
    cog_document_unref(document);
}

static bool has(uint64_t number)
{
    struct cog_write_id id = id_of(number);
    return cog_documents_has(&id);
}

static void found_by_all_four_facts(void)
{
    struct cog_write_id id = id_of(5);
    keep(5, 1000);
    CHECK(cog_documents_has(&id));
    for (unsigned which = 0; which < 4; which++) {
        struct cog_write_id other = id;
        *(which == 0   ? &other.device
          : which == 1 ? &other.inode
          : which == 2 ? &other.length
                       : &other.token) += 1;
        CHECK(!cog_documents_has(&other));
    }
    struct cog_document *document = cog_documents_find(&id);
    REQUIRE(document != NULL);
    CHECK_EQ(cog_document_size(document), 1000);
    CHECK_EQ(cog_document_bytes(document)[999], 5);
    cog_documents_clear();
    CHECK(!cog_documents_has(&id));
    CHECK_EQ(cog_document_bytes(document)[0], 5); /* ours lives on */
    cog_document_unref(document);
    CHECK_EQ(cog_documents_kept_bytes(), 0);
}

static void wanted_at_the_second_asking(void)
{
    struct cog_write_id id = id_of(900);
    CHECK(!cog_documents_wants(&id, 100));
    CHECK(cog_documents_wants(&id, 100));
    CHECK(!cog_documents_wants(&id, COG_DOCUMENT_LARGEST + 1));
}

static void bounded_in_bytes_and_number(void)
{
    for (uint64_t n = 0; n < 100; n++) {
        keep(1000 + n, 1 << 20);
        CHECK(cog_documents_kept_bytes() <= COG_DOCUMENTS_BYTES);
    }
    CHECK_EQ(cog_documents_kept_bytes(), COG_DOCUMENTS_BYTES);
    CHECK(has(1099));
    CHECK(!has(1000));
    for (uint64_t n = 0; n < 2 * COG_DOCUMENTS_COUNT; n++) {
        keep(5000 + n, 10);
    }
    CHECK_EQ(cog_documents_kept_bytes(), 10 * COG_DOCUMENTS_COUNT);
    keep(9999, COG_DOCUMENT_LARGEST + 1);
    CHECK(!has(9999));
    cog_documents_clear();
}

static void least_recently_used_goes_first(void)
{
    for (uint64_t n = 0; n < COG_DOCUMENTS_COUNT; n++) {
        keep(n, 10);
    }
    struct cog_write_id first = id_of(0);
    cog_document_unref(cog_documents_find(&first));
    keep(77777, 10);
    CHECK(has(0));
    CHECK(!has(1));
    cog_documents_clear();
}

static void *hammer(void *seed)
{
    uint64_t state = (uint64_t)(uintptr_t)seed;
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t number = (check_random(&state) >> 40) % 600;
        struct cog_write_id id = id_of(number);
        struct cog_document *document = cog_documents_find(&id);
        if (document == NULL) {
            keep(number, 50 + number);
        } else {
            CHECK_EQ(cog_document_bytes(document)[49], number & 0xFF);
            cog_document_unref(document);
        }
    }
    return NULL;
}

static void many_threads_at_once(void)
{
    pthread_t threads[4];
    for (uintptr_t t = 0; t < 4; t++) {
        REQUIRE(pthread_create(&threads[t], NULL, hammer, (void *)(t + 1)) == 0);
    }
    for (unsigned t = 0; t < 4; t++) {
        pthread_join(threads[t], NULL);
    }
    cog_documents_clear();
    CHECK_EQ(cog_documents_kept_bytes(), 0);
}

int main(void)
{
    RUN(found_by_all_four_facts);
    RUN(wanted_at_the_second_asking);
    RUN(bounded_in_bytes_and_number);
    RUN(least_recently_used_goes_first);
    RUN(many_threads_at_once);
    return check_done();
}
