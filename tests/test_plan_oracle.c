/* SPDX-License-Identifier: Apache-2.0 */
/* The plan against brute force. KVF_ORACLE_CASE=0x… runs one random topology by its seed. */
#include <string.h>

#include "collectives/util.h"
#include "harness.h"
#include "plan_oracle.h"

#define N_RANDOM 10000u
#define FAULT_MAX (ORACLE_TEXT_MAX + TOPO_TEXT_MAX + 16u)

static const uint64_t lengths_tokens[] = {1, 7, 8, 9, 16, 23, 24, 25, 30, 32, 33, 60, 80};

/* Check a topology with n_partitions into extents; there must be something to deliver. */
static void expect(const struct topo *t, uint32_t n_partitions)
{
    struct topo_rng rng = {rnd64() | 1u};
    struct oracle_counts counts = {0};
    char text[FAULT_MAX];

    ck_assert_msg(oracle_run(t, &rng, n_partitions, text, sizeof(text), &counts), "%s", text);
    ck_assert_uint_gt(counts.cells, 0);
}

/* The same, and some of it must have come from one of several replicas. */
static void expect_stripes(const struct topo *t, uint32_t n_partitions)
{
    struct topo_rng rng = {rnd64() | 1u};
    struct oracle_counts counts = {0};
    char text[FAULT_MAX];

    ck_assert_msg(oracle_run(t, &rng, n_partitions, text, sizeof(text), &counts), "%s", text);
    ck_assert_uint_gt(counts.stripes_moved, 0);
}

/* ---- parallelism that a runtime's own tests go through ---- */

struct combination {
    const char *src;
    const char *dst;
    bool mla;
};

/* dpN: N attention-DP groups, each of tp 1. */
static const struct combination thirteen[] = {
    {"tp1", "tp1", false},    {"tp1", "pp2", false},    {"pp2", "tp1", false},
    {"pp2", "pp2", false},    {"pp2", "tp2", false},    {"tp2", "pp2", false},
    {"tp4", "tp2pp2", false}, {"pp4", "tp2pp2", false}, {"dp2", "dp2", false},
    {"dp2", "pp2", false},    {"pp4", "dp2pp2", false}, {"tp2", "dp2", true},
    {"dp2", "tp2", true},
};

static const struct combination thirty_two[] = {
    {"tp1", "tp1", false},       {"tp2", "tp2", false},       {"pp2", "pp2", false},
    {"tp2pp2", "tp2pp2", false}, {"tp4", "tp4", false},       {"pp4", "pp4", false},
    {"tp4pp2", "tp4pp2", false}, {"tp2pp4", "tp2pp4", false}, {"tp4pp4", "tp4pp4", false},
    {"pp2", "tp1", false},       {"tp2", "pp2", false},       {"tp4", "tp2pp2", false},
    {"tp4", "pp4", false},       {"tp2pp2", "tp4", false},    {"pp4", "tp4", false},
    {"tp4pp2", "tp2pp4", false}, {"dp2", "dp2", false},       {"dp4", "dp4", false},
    {"dp2", "pp2", false},       {"dp4", "tp2pp2", false},    {"dp2pp2", "dp2pp2", false},
    {"dp4pp2", "dp4pp2", false}, {"tp1", "tp1", true},        {"tp2", "tp2", true},
    {"tp4", "tp4", true},        {"tp2pp2", "tp2pp2", true},  {"tp4pp2", "tp4pp2", true},
    {"dp2", "tp2", true},        {"dp4", "dp4", true},        {"tp2", "pp2", true},
    {"dp4", "tp8", true},        {"tp4", "tp8", true},
};

static const struct {
    struct combination c;
    uint32_t n_layers;
} uneven[] = {
    {{"pp2", "pp2", false}, 5}, {{"tp2pp2", "tp2pp2", false}, 5}, {{"pp3", "pp3", false}, 5},
    {{"pp2", "pp2", false}, 7}, {{"tp2pp2", "tp2pp2", false}, 7}, {{"pp3", "pp3", false}, 7},
    {{"pp4", "pp4", false}, 7}, {{"tp2", "pp2", false}, 5},       {{"pp2", "tp2", false}, 5},
    {{"tp4", "pp4", false}, 7}, {{"pp4", "tp4", false}, 7},       {{"tp2pp2", "pp4", false}, 7},
    {{"pp2", "pp2", true}, 5},  {{"tp2pp2", "tp2pp2", true}, 5},  {{"pp3", "pp3", true}, 7},
};

/* Where a window leaves the first token that is still wanted, in blocks of 8. */
static uint64_t window_begin(uint64_t n_tokens, uint64_t window_tokens)
{
    return n_tokens < window_tokens ? 0 : (n_tokens + 1 - window_tokens) / 8 * 8;
}

static void check_combination(const struct combination *c, uint32_t n_layers)
{
    uint32_t role = c->mla ? KVF_POOL_LATENT : KVF_POOL_KV;
    uint32_t n_heads = c->mla ? 1 : 4;

    for (size_t i = 0; i < KVFI_ARRAY_LEN(lengths_tokens); i++) {
        uint64_t n = lengths_tokens[i];
        struct topo t;

        topo_init(&t, c->src, c->dst, n_layers);
        (void)topo_add(&t, role, 0, n_heads);
        topo_range(&t, 0, 0, n);
        t.request = n;
        expect(&t, i % 4 == 0);
        topo_range(&t, 0, window_begin(n, 24), n);
        expect(&t, 0);
        topo_range(&t, 0, n > 16 ? 16 : 0, n); /* a cached prefix of two blocks */
        expect(&t, i % 4 == 1);
    }
}

/* Every second layer has a window and block lists of its own. */
static void check_two_windows(const struct combination *c, uint32_t n_layers)
{
    for (size_t i = 0; i < KVFI_ARRAY_LEN(lengths_tokens); i++) {
        uint64_t n = lengths_tokens[i];
        struct topo t;

        topo_init(&t, c->src, c->dst, n_layers);
        for (uint32_t g = 0; g < 2; g++) {
            struct topo_part *p =
                c->mla ? topo_add(&t, KVF_POOL_LATENT, g, 1) : topo_add(&t, KVF_POOL_KV, g, 4);

            p->first_layer = g;
            p->layer_step = 2;
            p->n_layers = (n_layers + 1 - g) / 2;
        }
        topo_range(&t, 0, 0, n);
        topo_range(&t, 1, window_begin(n, 24), n);
        expect(&t, i % 4 == 2);
    }
}

START_TEST(thirteen_combinations)
{
    ck_assert_uint_eq(KVFI_ARRAY_LEN(thirteen), 13);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(thirteen); i++) {
        check_combination(&thirteen[i], 4);
        check_two_windows(&thirteen[i], 4);
    }
}
END_TEST

START_TEST(thirty_two_combinations)
{
    ck_assert_uint_eq(KVFI_ARRAY_LEN(thirty_two), 32);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(thirty_two); i++) {
        check_combination(&thirty_two[i], 4);
        check_two_windows(&thirty_two[i], 4);
    }
}
END_TEST

START_TEST(uneven_stages)
{
    ck_assert_uint_eq(KVFI_ARRAY_LEN(uneven), 15);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(uneven); i++) {
        check_combination(&uneven[i].c, uneven[i].n_layers);
        check_two_windows(&uneven[i].c, uneven[i].n_layers);
    }
}
END_TEST

/* Stages cut in any way on either side, one without layers included. */
START_TEST(stages_cut_anywhere)
{
    for (uint32_t n_layers = 5; n_layers <= 7; n_layers += 2) {
        for (uint32_t cuts = 0; cuts < 64; cuts++) {
            struct topo t;

            topo_init(&t, "pp3", "tp2pp2", n_layers);
            (void)topo_add(&t, KVF_POOL_KV, 0, 2);
            t.side[TOPO_SRC].pp_end[0] = cuts % 4;
            t.side[TOPO_SRC].pp_end[1] = cuts % 4 + cuts / 4 % 4;
            if (t.side[TOPO_SRC].pp_end[1] > n_layers)
                t.side[TOPO_SRC].pp_end[1] = n_layers;
            t.side[TOPO_DST].pp_end[0] = cuts / 16 + 1;
            topo_range(&t, 0, 0, 20);
            expect(&t, cuts % 8 == 0);
        }
    }
}
END_TEST

/* ---- one subject each ---- */

START_TEST(more_ranks_than_heads)
{
    static const char *const sides[] = {"tp1", "tp2", "tp3", "tp4", "tp8", "tp4pp2"};

    for (uint32_t n_heads = 1; n_heads <= 4; n_heads++) {
        for (size_t i = 0; i < KVFI_ARRAY_LEN(sides); i++) {
            for (size_t k = 0; k < KVFI_ARRAY_LEN(sides); k++) {
                struct topo t;

                topo_init(&t, sides[i], sides[k], 2);
                (void)topo_add(&t, KVF_POOL_KV, 0, n_heads);
                topo_range(&t, 0, 8, 57);
                t.request = i * 8 + k;
                if (i == 4)
                    expect_stripes(&t, 1);
                else
                    expect(&t, 1);
            }
        }
    }
}
END_TEST

/* Neighbours hold each other's last heads or layers too: replicas of single heads or layers. */
START_TEST(overlapping_ranks)
{
    for (uint32_t bits = 1; bits < 16; bits++) {
        struct topo t;

        topo_init(&t, "tp3pp2", "tp2pp2", 4);
        (void)topo_add(&t, KVF_POOL_KV, 0, 6);
        t.side[TOPO_SRC].keep[0].head_overlap = bits & 1;
        t.side[TOPO_DST].keep[0].head_overlap = bits >> 1 & 1;
        t.side[TOPO_SRC].layer_overlap = bits >> 2 & 1;
        t.side[TOPO_DST].layer_overlap = bits >> 3 & 1;
        topo_range(&t, 0, 0, 33);
        if (bits & 5)
            expect_stripes(&t, 2);
        else
            expect(&t, 2);
    }
}
END_TEST

START_TEST(context_parallel)
{
    static const char *const sides[] = {"cp1",      "cp2/1",     "cp2/4",   "cp2/8",
                                        "cp2/12",   "cp3/4",     "cp4/2",   "tp2cp2/8",
                                        "pp2cp2/6", "dp2cp2/16", "tp4cp2/4"};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(sides); i++) {
        for (size_t k = 0; k < KVFI_ARRAY_LEN(sides); k++) {
            for (size_t n = 0; n < KVFI_ARRAY_LEN(lengths_tokens); n += 3) {
                struct topo t;

                topo_init(&t, sides[i], sides[k], 2);
                (void)topo_add(&t, KVF_POOL_KV, 0, 2);
                topo_range(&t, 0, n % 2 ? 5 : 0, 5 + lengths_tokens[n]);
                t.request = n;
                expect(&t, 1);
            }
        }
    }
}
END_TEST

START_TEST(context_parallel_rows_and_atoms)
{
    static const char *const sides[] = {"cp1", "cp2/8", "cp2/24", "cp3/16"};

    for (uint32_t bits = 0; bits < 16; bits++) {
        struct topo t;

        topo_init(&t, sides[bits % 4], sides[bits / 4], 2);
        topo_add(&t, KVF_POOL_INDEX, 0, 1)->tokens_per_row = 4;
        t.side[TOPO_SRC].keep[0].token_atom = 8;
        t.side[TOPO_DST].keep[0].token_atom = 4;
        (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
        topo_range(&t, 0, 16, 16 + 83);
        expect(&t, 3);
    }
}
END_TEST

START_TEST(block_sizes_and_orders)
{
    static const uint32_t blocks_tokens[] = {1, 3, 8, 16, 64};

    for (uint32_t i = 0; i < 25; i++) {
        for (uint32_t order = 0; order < 9; order++) {
            struct topo t;

            topo_init(&t, "tp2", "tp4", 2);
            (void)topo_add(&t, KVF_POOL_KV, 0, 2);
            (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
            t.side[TOPO_SRC].keep[0].block_tokens = blocks_tokens[i % 5];
            t.side[TOPO_DST].keep[0].block_tokens = blocks_tokens[i / 5];
            t.side[TOPO_SRC].keep[0].token_major = order % 3 == 1;
            t.side[TOPO_SRC].keep[0].layer_minor = order % 3 == 2;
            t.side[TOPO_DST].keep[0].token_major = order / 3 == 1;
            t.side[TOPO_DST].keep[0].layer_minor = order / 3 == 2;
            topo_range(&t, 0, 0, 50);
            expect_stripes(&t, order == 0);
        }
    }
}
END_TEST

START_TEST(prefixes_and_groups)
{
    for (uint64_t begin = 0; begin < 40; begin += 3) {
        struct topo t;

        topo_init(&t, "tp4pp2", "dp2tp2", 6);
        for (uint32_t g = 0; g < 3; g++) {
            struct topo_part *p = topo_add(&t, KVF_POOL_KV, 5 * g, 2);

            p->first_layer = g;
            p->layer_step = 3;
            p->n_layers = 2;
            p->row_bytes = 16 + g;
        }
        topo_range(&t, 0, begin, 40);
        topo_range(&t, 5, 7, 7 + begin);
        topo_range(&t, 10, 100 + begin, 101 + begin);
        expect_stripes(&t, 2);
    }
}
END_TEST

/* One slot a request: delivered once, however many cp ranks and replicas hold it. */
START_TEST(state_slots)
{
    static const char *const sides[] = {"tp1", "tp2pp2", "tp4", "cp2/8", "dp2tp2", "tp2cp2/8"};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(sides); i++) {
        for (size_t k = 0; k < KVFI_ARRAY_LEN(sides); k++) {
            for (uint32_t n_heads = 1; n_heads <= 4; n_heads += 3) {
                struct topo t;

                topo_init(&t, sides[i], sides[k], 4);
                topo_add(&t, KVF_POOL_STATE, 1, n_heads)->per_request = true;
                t.parts[0].n_layers = 2;
                (void)topo_add(&t, KVF_POOL_KV, 0, 2);
                t.parts[1].first_layer = 2;
                t.parts[1].n_layers = 2;
                topo_range(&t, 0, 0, 30);
                topo_range(&t, 1, k % 2 ? 29 : 0, 30);
                t.request = i + 6 * k;
                expect(&t, 3);
            }
        }
    }
}
END_TEST

/* Replicas need not keep their layers in the same pools. */
START_TEST(replicas_with_other_pools)
{
    static const uint32_t splits[] = {TOPO_SPLIT_NONE, TOPO_SPLIT_HALVES, TOPO_SPLIT_EVENODD};

    for (uint32_t i = 0; i < 27; i++) {
        struct topo t;

        topo_init(&t, "tp3", i % 2 ? "tp1" : "tp2pp2", 7);
        topo_add(&t, KVF_POOL_STATE, 1, 1)->per_request = true;
        (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
        for (uint32_t k = 0; k < 2; k++) {
            t.side[TOPO_SRC].keep[k].split = splits[i % 3];
            t.side[TOPO_SRC].keep[k].odd_split = splits[i / 3 % 3];
            t.side[TOPO_DST].keep[k].split = splits[i / 9];
        }
        topo_range(&t, 0, 0, 30);
        topo_range(&t, 1, 0, 30);
        t.request = i;
        expect_stripes(&t, 2);
    }
}
END_TEST

START_TEST(nothing_wanted)
{
    struct topo_rng rng = {1};
    struct oracle_counts counts = {0};
    char text[FAULT_MAX];
    struct topo t;

    topo_init(&t, "tp2", "tp4", 2);
    (void)topo_add(&t, KVF_POOL_KV, 0, 2);
    topo_add(&t, KVF_POOL_STATE, 1, 2)->per_request = true;
    topo_range(&t, 0, 13, 13);
    topo_range(&t, 1, 13, 13);
    ck_assert_msg(oracle_run(&t, &rng, 2, text, sizeof(text), &counts), "%s", text);
    ck_assert_uint_eq(counts.entries, 0);
}
END_TEST

START_TEST(separate_keys_and_values)
{
    for (uint32_t bits = 0; bits < 64; bits++) {
        struct topo t;

        topo_init(&t, "tp2pp2", "tp4", 5);
        (void)topo_add(&t, KVF_POOL_KV, 0, 4);
        (void)topo_add(&t, KVF_POOL_SCALE_KEY, 0, 4);
        t.side[TOPO_SRC].keep[0].split_kv = bits & 1;
        t.side[TOPO_DST].keep[0].split_kv = bits >> 1 & 1;
        t.side[TOPO_SRC].reverse_pools = bits >> 2 & 1;
        t.side[TOPO_DST].reverse_pools = bits >> 3 & 1;
        t.side[TOPO_SRC].keep[0].split = bits >> 4 & 1 ? TOPO_SPLIT_EVENODD : TOPO_SPLIT_NONE;
        t.side[TOPO_DST].keep[0].split = bits >> 5 & 1 ? TOPO_SPLIT_HALVES : TOPO_SPLIT_NONE;
        topo_range(&t, 0, 0, 19);
        expect(&t, 1);
    }
}
END_TEST

/* Rows of several tokens; atoms of tokens and heads that divide the cuts. */
START_TEST(rows_and_atoms)
{
    for (uint32_t tpr = 1; tpr <= 4; tpr++) {
        for (uint32_t bits = 0; bits < 32; bits++) {
            struct topo t;

            topo_init(&t, "tp4", "tp2", 2);
            topo_add(&t, KVF_POOL_KV, 0, 4)->tokens_per_row = tpr;
            topo_add(&t, KVF_POOL_INDEX, 0, 1)->tokens_per_row = tpr;
            for (uint32_t k = 0; k < 4; k++) {
                struct topo_keep *keep = &t.side[k % 2].keep[k / 2];

                keep->block_tokens = tpr * (bits & 4 ? 3 : 8);
                keep->token_atom = tpr * (bits & 1u << k % 2 ? 4 : 1);
                keep->head_unit = k < 2 ? 2 : 1;
                keep->head_atom = k < 2 && bits & 8 ? 2 : 1;
            }
            topo_range(&t, 0, bits & 16 ? tpr * 4 : 0, tpr * 4 + 41 + bits);
            expect_stripes(&t, 3);
        }
    }
}
END_TEST

/* The last atom of the heads may be short. */
START_TEST(short_last_head_atom)
{
    static const char *const sides[] = {"tp1", "tp2", "tp3"};

    for (uint32_t i = 0; i < 9; i++) {
        struct topo t;

        topo_init(&t, sides[i % 3], sides[i / 3], 2);
        (void)topo_add(&t, KVF_POOL_KV, 0, 5);
        for (int w = 0; w < 2; w++) {
            t.side[w].keep[0].head_unit = 2;
            t.side[w].keep[0].head_atom = 2;
        }
        topo_range(&t, 0, 0, 9);
        expect(&t, 1);
    }
}
END_TEST

START_TEST(optional_layers)
{
    for (uint32_t bits = 0; bits < 64; bits++) {
        struct topo t;

        topo_init(&t, "tp2pp2", "tp1pp3", 5);
        (void)topo_add(&t, KVF_POOL_KV, 0, 4);
        (void)topo_add(&t, KVF_POOL_INDEX, 0, 1);
        t.side[TOPO_SRC].keep[0].lacks = bits % 4;
        t.side[TOPO_DST].keep[0].lacks = bits / 4 % 4;
        t.side[TOPO_SRC].keep[1].lacks = bits & 16 ? 5 : 0;
        t.side[TOPO_DST].keep[1].lacks = bits & 32 ? 5 : 0;
        for (uint32_t k = 0; k < 4; k++)
            t.side[k % 2].keep[k / 2].optional = true;
        topo_range(&t, 0, 0, 19);
        expect(&t, 1);
    }
}
END_TEST

START_TEST(ranks_in_any_order)
{
    for (uint32_t i = 1; i <= 20; i++) {
        struct topo t;

        topo_init(&t, "tp4pp2cp2/8", "dp2tp2pp2", 5);
        (void)topo_add(&t, KVF_POOL_KV, 0, 2);
        t.side[TOPO_SRC].shuffle = i;
        t.side[TOPO_DST].shuffle = i * 7;
        topo_range(&t, 0, 0, 60);
        t.request = i;
        expect_stripes(&t, 1);
    }
}
END_TEST

/* ---- random ---- */

static bool run_random(uint64_t seed, struct oracle_counts *counts)
{
    struct topo_rng rng = {seed};
    char text[FAULT_MAX];
    struct topo t;

    topo_random(&t, &rng);
    if (oracle_run(&t, &rng, topo_rnd(&rng, 3), text, sizeof(text), counts))
        return true;
    ck_abort_msg("KVF_ORACLE_CASE=%#llx\n    %s", (unsigned long long)seed, text);
}

START_TEST(random_topologies)
{
    const char *env = getenv("KVF_ORACLE_CASE");
    struct oracle_counts counts = {0};

    if (env) {
        run_random(strtoull(env, NULL, 0), &counts);
        return;
    }
    for (uint32_t i = 0; i < N_RANDOM; i++)
        run_random(rnd64() | 1u, &counts);
    printf("%u topologies: %llu plans, %llu entries, %llu rows, %llu of them with replicas\n",
           N_RANDOM, (unsigned long long)counts.plans, (unsigned long long)counts.entries,
           (unsigned long long)counts.cells, (unsigned long long)counts.stripes_moved);
    ck_assert_uint_gt(counts.cells, 100 * (uint64_t)N_RANDOM);
    ck_assert_uint_gt(counts.stripes_moved, 10 * (uint64_t)N_RANDOM);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, thirteen_combinations);
    tcase_add_test(tc, thirty_two_combinations);
    tcase_add_test(tc, uneven_stages);
    tcase_add_test(tc, stages_cut_anywhere);
    tcase_add_test(tc, more_ranks_than_heads);
    tcase_add_test(tc, overlapping_ranks);
    tcase_add_test(tc, context_parallel);
    tcase_add_test(tc, context_parallel_rows_and_atoms);
    tcase_add_test(tc, block_sizes_and_orders);
    tcase_add_test(tc, prefixes_and_groups);
    tcase_add_test(tc, state_slots);
    tcase_add_test(tc, replicas_with_other_pools);
    tcase_add_test(tc, nothing_wanted);
    tcase_add_test(tc, separate_keys_and_values);
    tcase_add_test(tc, rows_and_atoms);
    tcase_add_test(tc, short_last_head_atom);
    tcase_add_test(tc, optional_layers);
    tcase_add_test(tc, ranks_in_any_order);
    tcase_add_test(tc, random_topologies);
}

int main(void)
{
    return harness_main("plan_oracle", fill, 110);
}
