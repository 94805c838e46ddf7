/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/status.h"

#include <string.h>

#include "collectives/util.h"
#include "harness.h"

struct row {
    kvf_status_t status;
    const char *name;
    const char *text;
};

#define ROW(name, value, text) {KVF_##name, "KVF_" #name, text},
static const struct row rows[] = {KVF_STATUS_MAP(ROW)};

START_TEST(each_status_has_its_own_name_and_text)
{
    for (size_t i = 0; i < KVFI_ARRAY_LEN(rows); i++) {
        ck_assert_str_eq(kvfi_status_name(rows[i].status), rows[i].name);
        ck_assert_str_eq(kvfi_status_text(rows[i].status), rows[i].text);
    }
}
END_TEST

/* A peer, a fabric or an older header may hand us any number. */
START_TEST(unknown_numbers_have_a_text)
{
    static const int unknown[] = {2, 1000, -1000, INT32_MIN};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(unknown); i++) {
        ck_assert_str_eq(kvfi_status_name((kvf_status_t)unknown[i]), "KVF_?");
        ck_assert_str_eq(kvfi_status_text((kvf_status_t)unknown[i]), "unknown status");
    }
}
END_TEST

/* Two statuses with one text or one number could not be told apart in a log. */
START_TEST(no_two_are_alike)
{
    for (size_t i = 0; i < KVFI_ARRAY_LEN(rows); i++) {
        for (size_t j = i + 1; j < KVFI_ARRAY_LEN(rows); j++) {
            ck_assert_int_ne(rows[i].status, rows[j].status);
            ck_assert_str_ne(rows[i].text, rows[j].text);
        }
    }
}
END_TEST

START_TEST(errors_are_negative)
{
    for (size_t i = 0; i < KVFI_ARRAY_LEN(rows); i++)
        ck_assert_int_eq(rows[i].status < 0, strncmp(rows[i].name, "KVF_E", 5) == 0);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, each_status_has_its_own_name_and_text);
    tcase_add_test(tc, unknown_numbers_have_a_text);
    tcase_add_test(tc, no_two_are_alike);
    tcase_add_test(tc, errors_are_negative);
}

int main(void)
{
    return harness_main("status", fill, 10);
}
