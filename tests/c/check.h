/*
 * What a C test program needs: checks that count, and a closing line.
 *
 *     static void test_what_it_does(void) { CHECK(1 + 1 == 2); }
 *     int main(void) { RUN(test_what_it_does); return check_done(); }
 *
 * CHECK notes a failure and goes on; its value says whether it held. REQUIRE ends the program,
 * for when nothing after it could make sense. CHECK_EQ and CHECK_BYTES show both sides. Checks may
 * be made from several threads. A program that ran no check has failed.
 */
#ifndef COG_CHECK_H
#define COG_CHECK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Weak: one of each per program, so that checks of the kits count like those of the test itself. */
__attribute__((weak)) atomic_ulong check_count;
__attribute__((weak)) atomic_ulong check_failures;
__attribute__((weak)) const char *check_running = "main";

/* The next of a row of numbers that is the same at every run; the upper bits are the better ones.
 */
static inline uint64_t check_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state;
}

/* Fill `bytes` with the same noise at every run, which does not compress. */
static inline void check_noise(unsigned char *bytes, size_t size)
{
    uint64_t state = 1;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (unsigned char)(check_random(&state) >> 56);
    }
}

static inline bool check_that(bool held, const char *what, const char *file, int line)
{
    atomic_fetch_add(&check_count, 1);
    if (!held) {
        atomic_fetch_add(&check_failures, 1);
        fprintf(stderr, "%s:%d: %s: failed: %s\n", file, line, check_running, what);
    }
    return held;
}

static inline bool check_equal(long long got, long long expected, const char *what,
                               const char *file, int line)
{
    if (!check_that(got == expected, what, file, line)) {
        fprintf(stderr, "    got %lld, expected %lld\n", got, expected);
        return false;
    }
    return true;
}

static inline void check_show(const char *name, const unsigned char *bytes, size_t size,
                              size_t from)
{
    fprintf(stderr, "    %s, %zu bytes, from %zu:", name, size, from);
    for (size_t i = from; i < size && i < from + 24; i++) {
        fprintf(stderr, " %02x", bytes[i]);
    }
    fputc('\n', stderr);
}

static inline bool check_bytes(const void *got, size_t got_size, const void *expected,
                               size_t expected_size, const char *what, const char *file, int line)
{
    const unsigned char *a = got;
    const unsigned char *b = expected;
    size_t common = got_size < expected_size ? got_size : expected_size;
    size_t same = 0;

    while (same < common && a[same] == b[same]) {
        same++;
    }
    if (!check_that(same == got_size && same == expected_size, what, file, line)) {
        check_show("got", a, got_size, same);
        check_show("expected", b, expected_size, same);
        return false;
    }
    return true;
}

#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)

/* Whole numbers and enum values, up to 63 bits. */
#define CHECK_EQ(got, expected) \
    check_equal((long long)(got), (long long)(expected), #got " == " #expected, __FILE__, __LINE__)

#define CHECK_BYTES(got, got_size, expected, expected_size)                                \
    check_bytes((got), (got_size), (expected), (expected_size), #got " equals " #expected, \
                __FILE__, __LINE__)

#define REQUIRE(condition)       \
    do {                         \
        if (!CHECK(condition)) { \
            exit(1);             \
        }                        \
    } while (0)

#define RUN(test)               \
    do {                        \
        check_running = #test;  \
        test();                 \
        check_running = "main"; \
    } while (0)

/* The exit status of the program: 0 when at least one check was made and all held. */
static inline int check_done(void)
{
    unsigned long count = atomic_load(&check_count);
    unsigned long failures = atomic_load(&check_failures);

    printf("%lu checks, %lu failed\n", count, failures);
    return count == 0 || failures != 0;
}

#endif
