/* SPDX-License-Identifier: Apache-2.0 */
/* What every Check program here needs: a main, a printed seed, random numbers. */
#ifndef KVFERRY_TESTS_HARNESS_H
#define KVFERRY_TESTS_HARNESS_H

#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t harness_seed_state = 0x9E3779B97F4A7C15u;

/* xorshift64*; the sequence depends only on the printed seed. */
static inline uint64_t rnd64(void)
{
    harness_seed_state ^= harness_seed_state >> 12;
    harness_seed_state ^= harness_seed_state << 25;
    harness_seed_state ^= harness_seed_state >> 27;
    return harness_seed_state * 0x2545F4914F6CDD1Du;
}

/* 0 <= result < n. */
static inline uint32_t rnd(uint32_t n)
{
    return (uint32_t)((rnd64() >> 33) % n);
}

/* Takes the seed from KVF_TEST_SEED and prints it, so that a failure can be run again. */
static inline void harness_seed(void)
{
    const char *env = getenv("KVF_TEST_SEED");

    if (env)
        harness_seed_state = strtoull(env, NULL, 0) | 1u;
    printf("KVF_TEST_SEED=%#llx\n", (unsigned long long)harness_seed_state);
}

/* Runs a suite of one case made by `fill`; returns main's exit status. */
static inline int harness_main(const char *name, void (*fill)(TCase *tc), double timeout_s)
{
    Suite *s = suite_create(name);
    TCase *tc = tcase_create(name);
    SRunner *sr;
    int failed;

    harness_seed();
    fill(tc);
    tcase_set_timeout(tc, timeout_s);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
