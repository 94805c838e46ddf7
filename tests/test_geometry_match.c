/* SPDX-License-Identifier: Apache-2.0 */
#include "instances.h"
#include "plugin/geometry.h"

enum { TEXT = 256 };

struct sides {
    struct topology st;
    struct topology dt;
    struct kvfi_instance_geometry src;
    struct kvfi_instance_geometry dst;
};

static void sides_init(struct sides *s)
{
    s->src = topology_build(&s->st, "src");
    s->dst = topology_build(&s->dt, "dst");
}

/* Checks, and ends the sides. sentence NULL: they match. */
static void sides_match(struct sides *s, const char *sentence)
{
    char text[TEXT] = "";
    kvf_status_t status = kvfi_geometry_match(&s->src, &s->dst, text, sizeof(text));

    ck_assert_msg(status == (sentence ? KVF_EMISMATCH : KVF_OK), "%s (wanted: %s)", text,
                  sentence ? sentence : "a match");
    if (sentence)
        ck_assert_msg(strstr(text, sentence) != NULL, "\"%s\" has no \"%s\"", text, sentence);
    kvfi_instance_geometry_fini(&s->src);
    kvfi_instance_geometry_fini(&s->dst);
}

START_TEST(instances_of_one_model_match)
{
    for (unsigned round = 0; round < 300; round++) {
        struct sides s = {.st = TOPOLOGY_INIT};

        s.st.n_layers = 4 + rnd(6);
        s.st.n_heads = 1 + rnd(8);
        s.st.groups = rnd(2);
        s.st.state = rnd(2);
        s.st.shuffle = true;
        s.dt = s.st;
        for (unsigned i = 0; i < 2; i++) {
            struct topology *t = i ? &s.st : &s.dt;

            t->pp = 1 + rnd(3);
            t->dp = 1 + rnd(2);
            t->tp = 1 + rnd(4);
            t->cp = 1 + rnd(2);
            t->interleave = 16;
            t->uneven = rnd(2);
            t->split_kv = rnd(2);
            t->block_tokens = 8 << rnd(2);
        }
        sides_init(&s);
        sides_match(&s, NULL);
    }
}
END_TEST

START_TEST(what_differs_is_named)
{
    const struct sides good = {.st = topology_mixed(), .dt = topology_mixed()};
    struct sides s = good;

    sides_init(&s);
    memcpy(s.dst.compat, "other", 6);
    sides_match(&s, "compat: source \"\", destination \"other\"");
    s = good;
    s.dt.row_bytes *= 2;
    sides_init(&s);
    sides_match(&s, "row_bytes");
    s = good;
    s.dt.tokens_per_row = 2;
    sides_init(&s);
    sides_match(&s, "tokens_per_row");
    s = good;
    s.dt.n_heads = 8;
    sides_init(&s);
    sides_match(&s, "n_heads_total of role 1, layer");
}
END_TEST

START_TEST(what_one_pool_or_layer_differs_in_is_named)
{
    struct topology t = topology_mixed();
    struct sides s = {.st = t, .dt = t};
    struct kvfi_rank_geometry *rank;

    sides_init(&s);
    rank = &s.src.ranks[5];
    memcpy(rank->pools[1].format, "fp8", 4);
    sides_match(&s, "source \"fp8\", destination \"bf16\"");
    sides_init(&s);
    for (uint32_t r = 0; r < s.dst.n_ranks; r++) {
        rank = &s.dst.ranks[r];
        rank->pools[rank->n_pools - 1].flags = 0;
    }
    sides_match(&s, "KVF_POOL_PER_REQUEST of role 8");
    s.dt.n_layers = 13;
    sides_init(&s);
    sides_match(&s, "layer 12 of role 1: destination has it, source does not");
    s.dt.n_layers = 12;
    s.st.n_layers = 13;
    sides_init(&s);
    sides_match(&s, "layer 12 of role 1: source has it, destination does not");
}
END_TEST

/* A layer only one side has, such as an MTP layer. */
START_TEST(optional_layers_may_be_missing)
{
    struct topology t = TOPOLOGY_INIT;
    struct sides s = {.st = t, .dt = t};

    s.dt.n_layers = 5;
    for (unsigned i = 0; i < 2; i++) {
        sides_init(&s);
        s.src.ranks[0].pools[0].flags = i ? KVF_POOL_OPTIONAL : 0;
        s.dst.ranks[0].pools[0].flags = i ? 0 : KVF_POOL_OPTIONAL;
        sides_match(&s, NULL);
        s.st.n_layers = 5;
        s.dt.n_layers = 4;
    }
    /* Optional on one rank of the destination, wanted by another. */
    s.dt.n_layers = 5;
    s.st.n_layers = 4;
    s.dt.tp = 2;
    for (unsigned i = 0; i < 2; i++) {
        sides_init(&s);
        s.dst.ranks[i].pools[0].flags = KVF_POOL_OPTIONAL;
        sides_match(&s, "layer 4 of role 1: destination has it");
    }
    s.st.n_layers = 5;
    s.dt.tp = 1;
    /* An optional layer both have must still be alike. */
    s.dt.row_bytes *= 2;
    sides_init(&s);
    s.src.ranks[0].pools[0].flags = s.dst.ranks[0].pools[0].flags = KVF_POOL_OPTIONAL;
    sides_match(&s, "row_bytes");
}
END_TEST

START_TEST(heads_must_be_there_in_every_dp_group)
{
    struct topology t = TOPOLOGY_INIT;
    struct sides s = {.st = t, .dt = t};

    s.st.tp = s.st.dp = 2;
    sides_init(&s);
    s.src.ranks[3].pools[0].n_heads = 1;
    sides_match(&s,
                "head 3 of role 1, layer 0: destination has it, source's dp group 1, cp rank 0");
    sides_init(&s);
    s.src.ranks[3].pools[0].n_layers = 3;
    sides_match(&s, "head 2 of role 1, layer 3");
    sides_init(&s);
    s.dst.ranks[0].pools[0].n_heads = 3;
    s.src.ranks[3].pools[0].n_heads = 1;
    sides_match(&s, NULL);
    /* Heads of several destination ranks; those that none of them wants may be missing. */
    s.dt.tp = 4;
    sides_init(&s);
    s.src.ranks[3].pools[0].n_heads = 1;
    sides_match(&s, "head 3 of role 1, layer 0");
    sides_init(&s);
    s.src.ranks[3].pools[0].n_heads = 1;
    s.src.ranks[3].pools[0].first_head = 3;
    s.dst.ranks[2].pools[0].first_head = 1;
    sides_match(&s, NULL);
}
END_TEST

/* State may lie on any cp rank, tokens may not. */
START_TEST(per_request_rows_have_no_cp_rank)
{
    struct topology t = TOPOLOGY_INIT;
    struct sides s = {.st = t, .dt = t};

    s.st.state = s.dt.state = true;
    s.st.cp = 2;
    s.st.interleave = 16;
    sides_init(&s);
    kvfi_pool_fini(&s.src.ranks[0].pools[--s.src.ranks[0].n_pools]);
    sides_match(&s, NULL);
    sides_init(&s);
    s.src.ranks[0].pools[1].first_head = 1;
    s.src.ranks[0].pools[1].n_heads = 3;
    s.src.ranks[1].pools[0].first_head = 1;
    s.src.ranks[1].pools[0].n_heads = 3;
    sides_match(&s,
                "head 0 of role 1, layer 0: destination has it, source's dp group 0, cp rank 1");
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    struct sides s = {.st = topology_mixed(), .dt = topology_mixed()};
    char text[TEXT];

    sides_init(&s);
    for (unsigned n = 1; n < 5; n++) {
        kvfi_alloc_fail_at(n);
        ck_assert_int_eq(kvfi_geometry_match(&s.src, &s.dst, text, sizeof(text)), KVF_ENOMEM);
    }
    kvfi_alloc_fail_at(0);
    sides_match(&s, NULL);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, instances_of_one_model_match);
    tcase_add_test(tc, what_differs_is_named);
    tcase_add_test(tc, what_one_pool_or_layer_differs_in_is_named);
    tcase_add_test(tc, optional_layers_may_be_missing);
    tcase_add_test(tc, heads_must_be_there_in_every_dp_group);
    tcase_add_test(tc, per_request_rows_have_no_cp_rank);
    tcase_add_test(tc, every_allocation_may_fail);
}

int main(void)
{
    return harness_main("geometry_match", fill, 60);
}
