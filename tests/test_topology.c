/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/topology.h"

#include <string.h>

#include "harness.h"

static struct topology parsed(const char *text)
{
    struct topology t = {0};
    struct tool_error error;

    ck_assert_msg(topology_parse("--context", text, &error, &t), "%s: %s", text, error.text);
    return t;
}

START_TEST(texts_mean_their_sizes)
{
    static const struct {
        const char *text;
        uint32_t n, tp, pp, cp, dp, ranks;
    } cases[] = {
        {"tp2", 1, 2, 1, 1, 1, 2},           {"tp4pp2", 1, 4, 2, 1, 1, 8},
        {"dep4", 1, 1, 1, 1, 4, 4},          {"tp2dp2", 1, 2, 1, 1, 2, 4},
        {"cp2", 1, 1, 1, 2, 1, 2},           {"pp2", 1, 1, 2, 1, 1, 2},
        {"2x tp2", 2, 2, 1, 1, 1, 4},        {"2xtp2", 2, 2, 1, 1, 1, 4},
        {" 3 X TP2 ", 3, 2, 1, 1, 1, 6},     {"tep8", 1, 8, 1, 1, 1, 8},
        {"pp3cp2tp2dp2", 1, 2, 3, 2, 2, 24},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct topology t = parsed(cases[i].text);

        ck_assert_uint_eq(t.n_instances, cases[i].n);
        ck_assert_uint_eq(t.tp, cases[i].tp);
        ck_assert_uint_eq(t.pp, cases[i].pp);
        ck_assert_uint_eq(t.cp, cases[i].cp);
        ck_assert_uint_eq(t.dp, cases[i].dp);
        ck_assert_uint_eq(topology_ranks(&t), cases[i].ranks);
    }
}
END_TEST

START_TEST(nonsense_is_refused_with_its_reason)
{
    static const struct {
        const char *text;
        const char *reason;
    } cases[] = {
        {"", "names no axis"},
        {"2x", "names no axis"},
        {"x tp2", "unknown axis"},
        {"tp", "a number must follow \"tp\""},
        {"tp0", "\"tp\" is 0"},
        {"0x tp2", "is 0"},
        {"tp2tp2", "set already"},
        {"dp2dep2", "set already"},
        {"qq4", "unknown axis at \"qq4\""},
        {"tp2-pp2", "unknown axis at \"-pp2\""},
        {"4", "an \"x\" must follow"},
        {"4 tp2", "an \"x\" must follow"},
        {"tp99999999999999999999", "more than"},
        {"tp4096pp4096", "needs more than 4096 ranks"},
        {"tp64pp64cp64dp64", "needs more than 4096 ranks"},
        {"2000x tp2", "more than 1024"},
        {"tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 tp2 t", "longer than"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct topology t;
        struct tool_error error = {""};

        ck_assert_msg(!topology_parse("--context", cases[i].text, &error, &t), "%s", cases[i].text);
        ck_assert_msg(strstr(error.text, cases[i].reason) && strstr(error.text, "--context"),
                      "%s: %s", cases[i].text, error.text);
    }
}
END_TEST

/* Every combination of (pp, dp, cp, tp) once, tensor ranks next to each other. */
START_TEST(places_are_all_different)
{
    struct topology t = parsed("tp2pp3cp2dp2");
    uint32_t seen[24] = {0};

    for (uint32_t r = 0; r < 24; r++) {
        struct kvf_place p;

        topology_place(&t, r, 64, &p);
        ck_assert_uint_eq(p.size, sizeof(p));
        ck_assert_uint_eq(p.rank, r);
        ck_assert_uint_eq(p.n_ranks, 24);
        ck_assert_uint_eq(p.tp_rank, r % 2);
        ck_assert_uint_eq(p.cp_interleave_tokens, 64);
        ck_assert(p.tp_rank < p.tp_size && p.tp_size == 2);
        ck_assert(p.pp_rank < p.pp_size && p.pp_size == 3);
        ck_assert(p.cp_rank < p.cp_size && p.cp_size == 2);
        ck_assert(p.dp_group < p.n_dp_groups && p.n_dp_groups == 2);
        seen[((p.pp_rank * 2 + p.cp_rank) * 2 + p.dp_group) * 2 + p.tp_rank]++;
    }
    for (uint32_t i = 0; i < 24; i++)
        ck_assert_uint_eq(seen[i], 1);
}
END_TEST

START_TEST(world_of_another_size_is_refused_with_both_numbers)
{
    struct topology c = parsed("dep4");
    struct topology g = parsed("2x tp4");
    struct tool_error error;

    ck_assert(topology_check_world(&c, &g, 12, &error));
    ck_assert(!topology_check_world(&c, &g, 11, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "need 12 ranks"));
    ck_assert_ptr_nonnull(strstr(error.text, "has 11"));
}
END_TEST

START_TEST(numbers_have_units_and_limits)
{
    struct tool_error error;
    uint64_t v = 7;

    ck_assert(tool_parse_u64("--x", "64", 1, 100, &error, &v));
    ck_assert_uint_eq(v, 64);
    ck_assert(tool_parse_u64("--x", "4 KiB", 1, 1u << 20, &error, &v));
    ck_assert_uint_eq(v, 4096);
    ck_assert(tool_parse_u64("--x", "2m", 1, UINT64_MAX, &error, &v));
    ck_assert_uint_eq(v, 2u << 20);
    ck_assert(!tool_parse_u64("--x", "-1", 0, UINT64_MAX, &error, &v));
    ck_assert(!tool_parse_u64("--x", "1.5", 0, UINT64_MAX, &error, &v));
    ck_assert(!tool_parse_u64("--x", "9q", 0, UINT64_MAX, &error, &v));
    ck_assert(!tool_parse_u64("--x", "", 0, UINT64_MAX, &error, &v));
    ck_assert(!tool_parse_u64("--x", "101", 1, 100, &error, &v));
    ck_assert_ptr_nonnull(strstr(error.text, "--x: 101 is not within 1 .. 100"));
    ck_assert(!tool_parse_u64("--x", "0", 1, 100, &error, &v));
    ck_assert(!tool_parse_u64("--x", "18446744073709551616", 0, UINT64_MAX, &error, &v));
    ck_assert(!tool_parse_u64("--x", "18446744073709551615K", 0, UINT64_MAX, &error, &v));
    ck_assert_uint_eq(v, 2u << 20);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, texts_mean_their_sizes);
    tcase_add_test(tc, nonsense_is_refused_with_its_reason);
    tcase_add_test(tc, places_are_all_different);
    tcase_add_test(tc, world_of_another_size_is_refused_with_both_numbers);
    tcase_add_test(tc, numbers_have_units_and_limits);
}

int main(void)
{
    return harness_main("topology", fill, 20);
}
