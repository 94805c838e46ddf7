/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/shape.h"

#include <string.h>

#include "harness.h"
#include "tools/blocks.h"

static struct model make_model(uint32_t n_layers, uint32_t n_heads, bool is_mla)
{
    struct model m = {.n_layers = n_layers,
                      .is_mla = is_mla,
                      .n_heads = is_mla ? 1 : n_heads,
                      .n_kv = is_mla ? 1 : 2,
                      .row_bytes = 24,
                      .n_groups = 1};

    (void)snprintf(m.name, sizeof(m.name), "test");
    return m;
}

static struct topology topo(const char *text)
{
    struct topology t;
    struct tool_error error;

    ck_assert_msg(topology_parse("t", text, &error, &t), "%s", error.text);
    return t;
}

/* Every (layer, head) of every cp and dp rank is on as many ranks as there are replicas. */
START_TEST(ranks_hold_everything_evenly)
{
    static const struct {
        const char *text;
        uint32_t n_layers, n_heads, n_copies;
    } cases[] = {{"tp2", 4, 4, 1},  {"tp4pp2", 5, 4, 1}, {"tp8", 3, 4, 2},    {"pp3", 7, 4, 1},
                 {"dep4", 2, 4, 4}, {"tp2dp2", 2, 4, 2}, {"tp16pp2", 3, 4, 4}};
    const struct shape_options options = {.block_tokens = 8};

    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct topology t = topo(cases[c].text);
        struct model m = make_model(cases[c].n_layers, cases[c].n_heads, false);
        uint32_t n[8][8] = {{0}};

        for (uint32_t r = 0; r < topology_instance_ranks(&t); r++) {
            struct shape s;
            struct tool_error error;

            ck_assert_msg(shape_init(&m, &t, &options, r, &error, &s), "%s", error.text);
            ck_assert_uint_eq(s.n_pools, 1);
            ck_assert_uint_eq(s.pools[0].n_heads_total, cases[c].n_heads);
            for (uint32_t l = 0; l < s.pools[0].n_layers; l++) {
                for (uint32_t h = 0; h < s.pools[0].n_heads; h++)
                    n[s.pools[0].layers[l]][s.pools[0].first_head + h]++;
            }
            shape_fini(&s);
        }
        for (uint32_t l = 0; l < cases[c].n_layers; l++) {
            for (uint32_t h = 0; h < cases[c].n_heads; h++)
                ck_assert_uint_eq(n[l][h], cases[c].n_copies);
        }
    }
}
END_TEST

START_TEST(what_does_not_divide_is_refused)
{
    const struct shape_options options = {.block_tokens = 8};
    struct model m = make_model(2, 4, false);
    struct topology t = topo("tp3");
    struct tool_error error;
    struct shape s;

    ck_assert(!shape_init(&m, &t, &options, 0, &error, &s));
    ck_assert_ptr_nonnull(strstr(error.text, "tp is 3"));
    ck_assert_ptr_nonnull(strstr(error.text, "has 4 heads"));
    t = topo("tp6");
    ck_assert(!shape_init(&m, &t, &options, 0, &error, &s));
    t = topo("pp3");
    ck_assert(!shape_init(&m, &t, &options, 0, &error, &s));
    ck_assert_ptr_nonnull(strstr(error.text, "pp is 3"));
    ck_assert_ptr_nonnull(strstr(error.text, "has 2 layers"));
    m = make_model(2, 0, true);
    t = topo("tp3");
    ck_assert(shape_init(&m, &t, &options, 0, &error, &s));
    shape_fini(&s);
}
END_TEST

/* Against a walk over all tokens. */
START_TEST(local_tokens_count_what_lies_on_a_rank)
{
    for (int round = 0; round < 300; round++) {
        struct shape s = {.block_tokens = 1 + rnd(20)};
        uint64_t n_local = 0;
        uint32_t n_tokens = rnd(500);

        s.place.cp_size = 1 + rnd(4);
        s.place.cp_rank = rnd(s.place.cp_size);
        s.place.cp_interleave_tokens = 1 + rnd(40);
        for (uint64_t t = 0; t < n_tokens; t++) {
            ck_assert_uint_eq(shape_local_tokens(&s, t), n_local);
            if (t / s.place.cp_interleave_tokens % s.place.cp_size != s.place.cp_rank)
                continue;
            ck_assert_uint_eq(shape_global_token(&s, n_local), t);
            n_local++;
        }
        ck_assert_uint_eq(shape_local_tokens(&s, n_tokens), n_local);
    }
}
END_TEST

START_TEST(block_spans_cover_their_tokens_and_no_more)
{
    for (int round = 0; round < 300; round++) {
        struct shape s = {.block_tokens = 1 + rnd(20)};
        struct kvf_token_range range = {.begin = rnd(200)};
        struct shape_blocks span;
        uint64_t begin;
        uint64_t end;

        s.place.cp_size = 1 + rnd(3);
        s.place.cp_rank = rnd(s.place.cp_size);
        s.place.cp_interleave_tokens = 1 + rnd(40);
        range.end = range.begin + rnd(200);
        span = shape_blocks_of(&s, range);
        begin = shape_local_tokens(&s, range.begin);
        end = shape_local_tokens(&s, range.end);
        if (begin == end) {
            ck_assert_uint_eq(span.n, 0);
            continue;
        }
        ck_assert_uint_eq(span.first, begin / s.block_tokens);
        ck_assert_uint_eq(span.first + span.n, (end - 1) / s.block_tokens + 1);
    }
}
END_TEST

/* No two rows of a pool share a byte, and all lie in the pool. */
START_TEST(rows_tile_the_pool)
{
    for (int major = 0; major < 2; major++) {
        const struct shape_options options = {.block_tokens = 3, .is_token_major = major == 1};
        struct model m = make_model(2, 4, false);
        struct topology t = topo("tp2");
        struct tool_error error;
        struct shape s;
        struct shape_pool *pool;
        size_t n_bytes;

        ck_assert(shape_init(&m, &t, &options, 1, &error, &s));
        pool = &s.pools[0];
        shape_pool_set_blocks(pool, 5);
        ck_assert(shape_pool_alloc(pool, &error));
        n_bytes = shape_pool_block_bytes(pool) * 5;
        ck_assert_uint_eq(n_bytes, 5 * 2 * 2 * 2 * 3 * 24);
        for (uint32_t i = 0; i < 5 * 2 * 2 * 2 * 3; i++) {
            unsigned char *row = shape_row(pool, i % 5, i / 5 % 2, i / 10 % 2, i / 20 % 2, i / 40);

            for (int b = 0; b < 24; b++)
                row[b]++;
        }
        for (size_t b = 0; b < n_bytes; b++)
            ck_assert_uint_eq(((unsigned char *)pool->base)[b], 1);
        shape_fini(&s);
    }
}
END_TEST

START_TEST(blocks_are_handed_out_once)
{
    struct blocks b;
    struct tool_error error;
    uint32_t ids[20];
    uint32_t seen[20] = {0};

    ck_assert(blocks_init(20, 3, 9, &error, &b));
    ck_assert(!blocks_take(&b, 18, ids));
    for (int round = 0; round < 100; round++) {
        memset(seen, 0, sizeof(seen));
        ck_assert(blocks_take(&b, 10, ids));
        ck_assert(blocks_take(&b, 7, ids + 10));
        ck_assert(!blocks_take(&b, 1, ids + 17));
        for (uint32_t i = 0; i < b.n_guards; i++)
            seen[b.guards[i]]++;
        for (int i = 0; i < 17; i++)
            seen[ids[i]]++;
        for (int i = 0; i < 20; i++)
            ck_assert_uint_eq(seen[i], 1);
        blocks_give(&b, ids + 5, 12);
        blocks_give(&b, ids, 5);
    }
    blocks_fini(&b);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, ranks_hold_everything_evenly);
    tcase_add_test(tc, what_does_not_divide_is_refused);
    tcase_add_test(tc, local_tokens_count_what_lies_on_a_rank);
    tcase_add_test(tc, block_spans_cover_their_tokens_and_no_more);
    tcase_add_test(tc, rows_tile_the_pool);
    tcase_add_test(tc, blocks_are_handed_out_once);
}

int main(void)
{
    return harness_main("shape", fill, 30);
}
