/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/util.h"

#include "harness.h"

START_TEST(alloc_fails_at_the_nth_call_only)
{
    void *p[4];

    kvfi_alloc_fail_at(3);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(p); i++)
        p[i] = kvfi_calloc(1, 8);
    ck_assert_ptr_nonnull(p[0]);
    ck_assert_ptr_nonnull(p[1]);
    ck_assert_ptr_null(p[2]);
    ck_assert_ptr_nonnull(p[3]);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(p); i++)
        kvfi_free(p[i]);
}
END_TEST

START_TEST(multiply_refuses_overflow)
{
    size_t r = 7;

    ck_assert(!kvfi_mul_size(SIZE_MAX, 2, &r));
    ck_assert_uint_eq(r, 7);
    ck_assert(kvfi_mul_size(SIZE_MAX, 1, &r));
    ck_assert_uint_eq(r, SIZE_MAX);
}
END_TEST

START_TEST(forever_stays_forever)
{
    ck_assert_uint_eq(kvfi_add_sat(5, 7), 12);
    ck_assert_uint_eq(kvfi_add_sat(5, UINT64_MAX), UINT64_MAX);
    ck_assert_uint_eq(kvfi_add_sat(UINT64_MAX - 3, 4), UINT64_MAX);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, alloc_fails_at_the_nth_call_only);
    tcase_add_test(tc, multiply_refuses_overflow);
    tcase_add_test(tc, forever_stays_forever);
}

int main(void)
{
    return harness_main("util", fill, 10);
}
