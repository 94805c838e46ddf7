/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/pattern.h"

#include <string.h>

#include "harness.h"

#define ROW_BYTES 1152u

START_TEST(fill_is_the_definition_at_every_length)
{
    unsigned char row[80];

    for (size_t n = 0; n <= 64; n++) {
        uint64_t key = rnd64();

        memset(row, 0xA5, sizeof(row));
        pattern_fill(row + 3, n, key);
        for (size_t b = 0; b < n; b++)
            ck_assert_uint_eq(row[3 + b], pattern_byte(key, b));
        for (size_t b = 0; b < sizeof(row); b++)
            ck_assert((b >= 3 && b < 3 + n) || row[b] == 0xA5);
        ck_assert_uint_eq(pattern_wrong(row + 3, n, key), 0);
    }
}
END_TEST

START_TEST(each_wrong_byte_is_counted)
{
    unsigned char row[61];

    pattern_fill(row, sizeof(row), 42);
    for (size_t b = 0; b < sizeof(row); b++) {
        row[b] ^= (unsigned char)(1u << rnd(8));
        ck_assert_uint_eq(pattern_wrong(row, sizeof(row), 42), 1);
        pattern_fill(row, sizeof(row), 42);
    }
    row[0] ^= 1;
    row[17] ^= 0x80;
    row[60] ^= 0xFF;
    ck_assert_uint_eq(pattern_wrong(row, sizeof(row), 42), 3);
}
END_TEST

/* A row of other coordinates must be wrong in most bytes, whichever coordinate differs. */
static void check_differs(uint64_t key_a, uint64_t key_b)
{
    unsigned char row[ROW_BYTES];

    pattern_fill(row, sizeof(row), key_a);
    ck_assert_uint_gt(pattern_wrong(row, sizeof(row), key_b), ROW_BYTES / 2);
}

START_TEST(every_coordinate_counts)
{
    for (int round = 0; round < 200; round++) {
        struct pattern_row a = {.group = rnd(2),
                                .layer = rnd(100),
                                .kv = rnd(2),
                                .head = rnd(128),
                                .token = rnd(1u << 20)};
        struct pattern_row b = a;
        uint64_t request = pattern_request_key(5, rnd(10), rnd(1000));
        uint64_t key = pattern_row_key(request, &a);

        b.group ^= 1;
        check_differs(key, pattern_row_key(request, &b));
        b = a;
        b.layer += 1 + rnd(60);
        check_differs(key, pattern_row_key(request, &b));
        b = a;
        b.kv ^= 1;
        check_differs(key, pattern_row_key(request, &b));
        b = a;
        b.head += 1 + rnd(8);
        check_differs(key, pattern_row_key(request, &b));
        b = a;
        b.token += 1 + rnd(64);
        check_differs(key, pattern_row_key(request, &b));
        b = a;
        b.token ^= (uint64_t)1 << (16 + rnd(30));
        check_differs(key, pattern_row_key(request, &b));
    }
    check_differs(pattern_row_key(pattern_request_key(1, 2, 3), &(struct pattern_row){0}),
                  pattern_row_key(pattern_request_key(1, 2, 4), &(struct pattern_row){0}));
    check_differs(pattern_row_key(pattern_request_key(1, 2, 3), &(struct pattern_row){0}),
                  pattern_row_key(pattern_request_key(1, 3, 3), &(struct pattern_row){0}));
    check_differs(pattern_row_key(pattern_request_key(1, 2, 3), &(struct pattern_row){0}),
                  pattern_row_key(pattern_request_key(2, 2, 3), &(struct pattern_row){0}));
}
END_TEST

START_TEST(a_shifted_row_is_wrong)
{
    unsigned char row[ROW_BYTES];

    pattern_fill(row, sizeof(row), 77);
    for (size_t shift = 1; shift < 256; shift++)
        ck_assert_uint_gt(pattern_wrong(row + shift, 512, 77), 256);
}
END_TEST

/* Keys of many neighbouring rows are all different: two swapped rows never look right. */
START_TEST(keys_do_not_repeat)
{
    enum { N = 2048 };
    static uint64_t keys[N];
    uint64_t request = pattern_request_key(1, 0, 0);
    uint32_t n_equal = 0;

    for (uint32_t i = 0; i < N; i++) {
        struct pattern_row row = {
            .layer = i % 8, .kv = i / 8 % 2, .head = i / 16 % 8, .token = i / 128};

        keys[i] = pattern_row_key(request, &row);
        for (uint32_t j = 0; j < i; j++)
            n_equal += keys[i] == keys[j];
    }
    ck_assert_uint_eq(n_equal, 0);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, fill_is_the_definition_at_every_length);
    tcase_add_test(tc, each_wrong_byte_is_counted);
    tcase_add_test(tc, every_coordinate_counts);
    tcase_add_test(tc, a_shifted_row_is_wrong);
    tcase_add_test(tc, keys_do_not_repeat);
}

int main(void)
{
    return harness_main("pattern", fill, 60);
}
