/* SPDX-License-Identifier: Apache-2.0 */
/* What the plan refuses, how it spreads load over replicas, and what its hash and form depend on. */
#include <string.h>

#include "collectives/util.h"
#include "harness.h"
#include "plan_oracle.h"

#define REQUESTS 400u

/* Both sides of a topology and the input for a pair. */
struct pair {
    struct kvfi_instance_geometry src;
    struct kvfi_instance_geometry dst;
    struct kvfi_plan_input input;
};

static void pair_init(struct pair *p, const struct topo *t, uint32_t src, uint32_t dst)
{
    memset(p, 0, sizeof(*p));
    topo_build(t, TOPO_SRC, 0, &p->src);
    topo_build(t, TOPO_DST, 0, &p->dst);
    p->input.src = &p->src;
    p->input.dst = &p->dst;
    p->input.src_rank = src;
    p->input.dst_rank = dst;
    memcpy(p->input.ranges, t->ranges, sizeof(p->input.ranges));
    memcpy(p->input.request.bytes, &t->request, sizeof(t->request));
}

static void pair_fini(struct pair *p)
{
    topo_free(&p->src);
    topo_free(&p->dst);
}

/* Plan a pair; on failure the result is untouched and there is a sentence. */
static kvf_status_t plan(const struct topo *t, uint32_t src, uint32_t dst, struct kvfi_plan *ret)
{
    struct kvfi_plan before;
    struct pair p;
    char text[256] = "";
    kvf_status_t status;

    memset(ret, 0xA5, sizeof(*ret));
    before = *ret;
    pair_init(&p, t, src, dst);
    status = kvfi_plan_init(&p.input, text, sizeof(text), ret);
    if (status != KVF_OK) {
        ck_assert_int_eq(memcmp(&before, ret, sizeof(before)), 0);
        ck_assert_str_ne(text, "");
    }
    pair_fini(&p);
    return status;
}

static void expect_status(const struct topo *t, uint32_t src, uint32_t dst, kvf_status_t want)
{
    char line[TOPO_TEXT_MAX];
    struct kvfi_plan made;
    kvf_status_t status = plan(t, src, dst, &made);

    topo_text(t, line);
    ck_assert_msg(status == want, "status %d, not %d: %s", (int)status, (int)want, line);
    if (status == KVF_OK)
        kvfi_plan_fini(&made);
}

static void init_kv(struct topo *t, const char *src, const char *dst, uint32_t n_heads)
{
    topo_init(t, src, dst, 2);
    (void)topo_add(t, KVF_POOL_KV, 0, n_heads);
    topo_range(t, 0, 0, 48);
}

/* ---- refusals ---- */

START_TEST(range_begins_on_the_atoms_of_both)
{
    static const struct {
        uint32_t src_atom;
        uint32_t dst_atom;
        uint64_t begin;
        kvf_status_t status;
    } cases[] = {
        {8, 1, 8, KVF_OK},         {8, 1, 4, KVF_EMISMATCH}, {1, 8, 8, KVF_OK},
        {1, 8, 12, KVF_EMISMATCH}, {8, 4, 16, KVF_OK},       {8, 4, 12, KVF_EMISMATCH},
        {4, 6, 12, KVF_OK},        {4, 6, 4, KVF_EMISMATCH}, {4, 6, 6, KVF_EMISMATCH},
        {1, 1, 13, KVF_OK},
    };

    for (size_t i = 0; i < KVFI_ARRAY_LEN(cases); i++) {
        struct topo t;

        init_kv(&t, "tp2", "tp1", 2);
        t.side[TOPO_SRC].keep[0].token_atom = cases[i].src_atom;
        t.side[TOPO_DST].keep[0].token_atom = cases[i].dst_atom;
        topo_range(&t, 0, cases[i].begin, 48);
        expect_status(&t, 0, 0, cases[i].status);
        expect_status(&t, 1, 0, cases[i].status);
        topo_range(&t, 0, cases[i].begin, cases[i].begin); /* nothing is cut */
        expect_status(&t, 0, 0, KVF_OK);
    }
}
END_TEST

START_TEST(range_begins_on_a_row)
{
    struct topo t;

    init_kv(&t, "tp1", "tp1", 2);
    t.parts[0].tokens_per_row = 4;
    t.side[TOPO_SRC].keep[0].token_atom = 4;
    t.side[TOPO_DST].keep[0].token_atom = 4;
    topo_range(&t, 0, 4, 17);
    expect_status(&t, 0, 0, KVF_OK);
    topo_range(&t, 0, 2, 17);
    expect_status(&t, 0, 0, KVF_EMISMATCH);
}
END_TEST

/* tp4 deals single heads, so a pair with it cuts atoms of two, whichever side says so. */
START_TEST(heads_are_cut_on_atoms)
{
    for (uint32_t bits = 0; bits < 4; bits++) {
        kvf_status_t want = bits ? KVF_EMISMATCH : KVF_OK;
        struct topo t;

        init_kv(&t, "tp2", "tp4", 4);
        t.side[TOPO_SRC].keep[0].head_atom = bits & 1 ? 2 : 1;
        t.side[TOPO_DST].keep[0].head_atom = bits & 2 ? 2 : 1;
        for (uint32_t dst = 0; dst < 4; dst++)
            expect_status(&t, dst / 2, dst, want);
        t.side[TOPO_DST].keep[0].head_unit = 2;
        for (uint32_t dst = 0; dst < 4; dst++)
            expect_status(&t, dst / 2, dst, KVF_OK);
    }
}
END_TEST

START_TEST(cp_units_hold_whole_atoms)
{
    static const char *const sides[] = {"cp2/8", "tp1"};

    for (uint32_t i = 0; i < 2; i++) {
        for (uint32_t bits = 0; bits < 4; bits++) {
            struct topo t;

            init_kv(&t, sides[i], sides[1 - i], 2);
            t.side[TOPO_SRC].keep[0].token_atom = bits & 1 ? 16 : 8;
            t.side[TOPO_DST].keep[0].token_atom = bits & 2 ? 16 : 8;
            expect_status(&t, 0, 0, bits ? KVF_EMISMATCH : KVF_OK);
        }
    }
}
END_TEST

START_TEST(ranges_end_somewhere)
{
    struct topo t;

    init_kv(&t, "tp1", "tp1", 2);
    topo_range(&t, 0, 0, KVFI_PLAN_TOKENS_MAX);
    expect_status(&t, 0, 0, KVF_OK);
    topo_range(&t, 0, 0, KVFI_PLAN_TOKENS_MAX + 1);
    expect_status(&t, 0, 0, KVF_ENOSPC);
    topo_range(&t, 0, 0, UINT64_MAX);
    expect_status(&t, 0, 0, KVF_ENOSPC);
}
END_TEST

/* Interleaves without a common factor: hundreds of runs of other lengths, times 250 layers. */
START_TEST(too_many_entries)
{
    struct topo t;

    topo_init(&t, "cp2/1009", "cp2/1013", 250);
    (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
    topo_range(&t, 0, 0, 2000000);
    t.side[TOPO_SRC].keep[0].split = TOPO_SPLIT_EVENODD;
    expect_status(&t, 0, 0, KVF_ENOSPC);
    topo_range(&t, 0, 0, 100000);
    expect_status(&t, 0, 0, KVF_OK);
}
END_TEST

START_TEST(allocations_may_fail)
{
    struct topo t;
    struct pair p;
    char text[256];
    kvf_status_t status = KVF_ENOMEM;

    init_kv(&t, "tp4cp2/8", "tp2cp2/12", 4);
    pair_init(&p, &t, 0, 0);
    for (unsigned n = 1; status != KVF_OK; n++) {
        struct kvfi_plan made;
        struct kvfi_plan before;

        ck_assert_uint_lt(n, 100);
        memset(&made, 0xA5, sizeof(made));
        before = made;
        kvfi_alloc_fail_at(n);
        status = kvfi_plan_init(&p.input, text, sizeof(text), &made);
        kvfi_alloc_fail_at(0);
        if (status == KVF_OK) {
            ck_assert_uint_gt(n, 1);
            kvfi_plan_fini(&made);
        } else {
            ck_assert_int_eq(status, KVF_ENOMEM);
            ck_assert_int_eq(memcmp(&before, &made, sizeof(before)), 0);
        }
    }
    pair_fini(&p);
}
END_TEST

/* ---- load ---- */

/* Over many requests each rank that holds something has sent about as much as the others. */
static void expect_spread(struct topo *t, bool high)
{
    struct oracle o;
    uint64_t total = 0;
    char line[TOPO_TEXT_MAX];

    topo_text(t, line);
    oracle_init(&o, t);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        t->request = high ? 7 : 1000 + i;
        t->request_high = high ? (uint64_t)i << 56 : 0;
        ck_assert_msg(oracle_check(&o), "%s\n    %s", o.text, line);
    }
    for (uint32_t r = 0; r < o.src->n_ranks; r++)
        total += o.sent_bytes[r];
    for (uint32_t r = 0; r < o.src->n_ranks; r++) {
        uint64_t share = o.sent_bytes[r] * o.src->n_ranks;

        ck_assert_msg(share * 2 > total && share < total * 2, "rank %u sent %llu of %llu: %s", r,
                      (unsigned long long)o.sent_bytes[r], (unsigned long long)total, line);
    }
    oracle_fini(&o);
}

START_TEST(load_is_spread)
{
    static const struct {
        const char *src;
        const char *dst;
        uint32_t n_heads;
        uint64_t n_tokens;
    } cases[] = {
        {"tp4", "tp1", 1, 3},    {"tp4", "tp1", 1, 8},       {"tp4", "tp1", 1, 17},
        {"tp4", "tp1", 1, 80},   {"tp8", "tp2", 4, 20},      {"tp3", "tp1", 1, 16},
        {"tp4pp2", "dp2", 2, 1}, {"tp4cp2/8", "tp1", 1, 32}, {"tp4", "cp2/8", 1, 20},
    };

    for (size_t i = 0; i < KVFI_ARRAY_LEN(cases); i++) {
        for (int high = 0; high < 2; high++) {
            struct topo t;

            init_kv(&t, cases[i].src, cases[i].dst, cases[i].n_heads);
            topo_range(&t, 0, 0, cases[i].n_tokens);
            expect_spread(&t, high);
        }
    }
}
END_TEST

START_TEST(state_load_is_spread)
{
    struct topo t;

    topo_init(&t, "tp2cp2/8", "tp1", 2);
    topo_add(&t, KVF_POOL_STATE, 0, 1)->per_request = true;
    topo_range(&t, 0, 0, 1);
    expect_spread(&t, false);
}
END_TEST

/* Where there are enough blocks, every replica sends some, and whole blocks of the destination. */
START_TEST(long_requests_use_all_replicas_by_blocks)
{
    for (uint64_t n_tokens = 25; n_tokens <= 120; n_tokens++) {
        struct topo t;

        topo_init(&t, "tp4", "tp1", 2);
        (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
        t.side[TOPO_SRC].keep[0].block_tokens = 4;
        topo_range(&t, 0, 0, n_tokens);
        t.request = n_tokens;
        for (uint32_t src = 0; src < 4; src++) {
            struct kvfi_plan made;

            ck_assert_int_eq(plan(&t, src, 0, &made), KVF_OK);
            ck_assert_uint_gt(made.n_entries, 0);
            for (uint32_t e = 0; e < made.n_entries; e++) {
                uint64_t end = made.entries[e].dst_row + made.entries[e].run_rows;

                ck_assert_uint_eq(made.entries[e].dst_row % 8, 0);
                ck_assert(end % 8 == 0 || end == n_tokens);
            }
            kvfi_plan_fini(&made);
        }
    }
}
END_TEST

/* Where there are enough atoms, every replica still sends some. */
START_TEST(short_requests_use_all_replicas_by_atoms)
{
    for (uint32_t atom = 1; atom <= 2; atom++) {
        for (uint64_t n_tokens = 3 * atom + 1; n_tokens <= 24; n_tokens++) {
            struct topo t;

            topo_init(&t, "tp4", "tp1", 2);
            (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
            t.side[TOPO_DST].keep[0].token_atom = atom;
            topo_range(&t, 0, 8, 8 + n_tokens);
            t.request = n_tokens;
            for (uint32_t src = 0; src < 4; src++) {
                struct kvfi_plan made;

                ck_assert_int_eq(plan(&t, src, 0, &made), KVF_OK);
                ck_assert_uint_gt(made.n_entries, 0);
                kvfi_plan_fini(&made);
            }
        }
    }
}
END_TEST

/* ---- form and hash ---- */

START_TEST(plain_pairs_are_one_entry)
{
    static const char *const sides[] = {"tp1", "tp2", "pp2", "tp2pp2"};

    for (uint32_t i = 0; i < 16; i++) {
        struct topo t;
        struct kvfi_plan made;

        topo_init(&t, sides[i % 4], sides[i / 4], 4);
        (void)topo_add(&t, KVF_POOL_KV, 0, 4);
        topo_range(&t, 0, 0, 33);
        ck_assert_int_eq(plan(&t, 0, 0, &made), KVF_OK);
        ck_assert_uint_eq(made.n_entries, 1);
        kvfi_plan_fini(&made);
    }
}
END_TEST

/* Cells that differ only in how a replica keeps its layers do not tear entries apart. */
START_TEST(replicas_with_other_pools_are_one_entry)
{
    struct topo t;
    struct kvfi_plan made;

    topo_init(&t, "tp2", "tp1", 6);
    (void)topo_add(&t, KVF_POOL_LATENT, 0, 1);
    topo_range(&t, 0, 0, 33);
    t.side[TOPO_SRC].keep[0].odd_split = TOPO_SPLIT_HALVES;
    ck_assert_int_eq(plan(&t, 0, 0, &made), KVF_OK);
    ck_assert_uint_eq(made.n_entries, 1);
    kvfi_plan_fini(&made);
    ck_assert_int_eq(plan(&t, 1, 0, &made), KVF_OK);
    ck_assert_uint_eq(made.n_entries, 2);
    kvfi_plan_fini(&made);
}
END_TEST

/* Equal cp on both sides: what a rank sends its counterpart is one run. */
START_TEST(equal_cp_needs_few_entries)
{
    struct topo t;
    struct kvfi_plan made;

    init_kv(&t, "cp4/8", "cp4/8", 2);
    topo_range(&t, 0, 0, 8192);
    ck_assert_int_eq(plan(&t, 1, 1, &made), KVF_OK);
    ck_assert_uint_le(made.n_entries, 3);
    ck_assert_uint_eq(made.bytes, 2048u * 2 * 2 * 2 * 16);
    kvfi_plan_fini(&made);
    ck_assert_int_eq(plan(&t, 1, 2, &made), KVF_OK);
    ck_assert_uint_eq(made.n_entries, 0);
    kvfi_plan_fini(&made);
}
END_TEST

/* A million tokens over other interleaves are a few entries with many runs. */
START_TEST(cp_runs_are_folded)
{
    struct topo t;
    struct kvfi_plan made;

    init_kv(&t, "cp2/16", "cp4/64", 2);
    topo_range(&t, 0, 0, 1u << 20);
    ck_assert_int_eq(plan(&t, 1, 2, &made), KVF_OK);
    ck_assert_uint_le(made.n_entries, 16);
    ck_assert_uint_eq(made.bytes, (uint64_t)(1u << 17) * 2 * 2 * 2 * 16);
    kvfi_plan_fini(&made);
}
END_TEST

static uint64_t hash_of(const struct topo *t)
{
    struct kvfi_plan made;
    uint64_t hash;

    ck_assert_int_eq(plan(t, 1, 0, &made), KVF_OK);
    ck_assert_uint_gt(made.n_entries, 0);
    hash = made.hash;
    kvfi_plan_fini(&made);
    ck_assert_uint_ne(hash, 0);
    return hash;
}

/* Each of these is another plan of the pair 1 -> 0, and another hash than all the others. */
START_TEST(hash_tells_inputs_apart)
{
    uint64_t hashes[12];

    for (uint32_t i = 0; i < KVFI_ARRAY_LEN(hashes); i++) {
        struct topo t;

        topo_init(&t,
                  i == 1   ? "tp4"
                  : i == 2 ? "tp2cp2/8"
                           : "tp2",
                  i == 3 ? "cp2/8" : "tp1", i == 4 ? 5 : 4);
        (void)topo_add(&t, KVF_POOL_KV, 0, 2);
        topo_range(&t, 0, i == 5 ? 8 : 0, i == 6 ? 41 : 40);
        if (i == 7)
            t.parts[0].row_bytes++; /* same entries */
        if (i == 8)
            t.side[TOPO_SRC].keep[0].split_kv = true;
        if (i == 9)
            t.side[TOPO_DST].keep[0].split = TOPO_SPLIT_HALVES;
        if (i == 10)
            t.parts[0].n_heads = 6;
        if (i == 11)
            t.parts[0].first_layer = t.parts[0].n_layers = 2;
        hashes[i] = hash_of(&t);
        for (uint32_t k = 0; k < i; k++)
            ck_assert_msg(hashes[k] != hashes[i], "inputs %u and %u have one hash", k, i);
    }
}
END_TEST

#define FIELD(name)                                                                                \
    offsetof(struct kvfi_plan_entry, name), sizeof(((struct kvfi_plan_entry *)0)->name)

/* Two plans of 0 -> 0 that differ in one field only, and in their hashes. */
static void expect_field(const struct topo *a, const struct topo *b, size_t offset, size_t n_bytes)
{
    struct kvfi_plan x;
    struct kvfi_plan y;
    bool differs = false;

    ck_assert_int_eq(plan(a, 0, 0, &x), KVF_OK);
    ck_assert_int_eq(plan(b, 0, 0, &y), KVF_OK);
    ck_assert_uint_eq(x.n_entries, y.n_entries);
    for (uint32_t e = 0; e < x.n_entries; e++) {
        unsigned char *p = (unsigned char *)&x.entries[e] + offset;
        unsigned char *q = (unsigned char *)&y.entries[e] + offset;

        differs |= memcmp(p, q, n_bytes) != 0;
        memset(p, 0, n_bytes);
        memset(q, 0, n_bytes);
        ck_assert_int_eq(memcmp(&x.entries[e], &y.entries[e], sizeof(x.entries[e])), 0);
    }
    ck_assert(differs);
    ck_assert_uint_ne(x.hash, y.hash);
    kvfi_plan_fini(&x);
    kvfi_plan_fini(&y);
}

START_TEST(hash_has_steps_and_kv)
{
    struct topo t[2];

    for (int k = 0; k < 2; k++) {
        init_kv(&t[k], k ? "cp2/16" : "cp1", "cp4/8", 2);
        topo_range(&t[k], 0, 0, 96);
    }
    expect_field(&t[0], &t[1], FIELD(src_step));
    for (int k = 0; k < 2; k++) {
        init_kv(&t[k], "cp4/8", k ? "cp2/16" : "cp1", 2);
        topo_range(&t[k], 0, 0, 96);
    }
    expect_field(&t[0], &t[1], FIELD(dst_step));
    for (int k = 0; k < 2; k++) {
        init_kv(&t[k], "tp1", "tp1", 2);
        t[k].side[TOPO_DST].keep[0].split_kv = true;
        t[k].side[TOPO_DST].reverse_pools = k;
    }
    expect_field(&t[0], &t[1], FIELD(src_kv));
    for (int k = 0; k < 2; k++) {
        init_kv(&t[k], "tp1", "tp1", 2);
        t[k].side[TOPO_SRC].keep[0].split_kv = true;
        t[k].side[TOPO_SRC].reverse_pools = k;
    }
    expect_field(&t[0], &t[1], FIELD(dst_kv));
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, range_begins_on_the_atoms_of_both);
    tcase_add_test(tc, range_begins_on_a_row);
    tcase_add_test(tc, heads_are_cut_on_atoms);
    tcase_add_test(tc, cp_units_hold_whole_atoms);
    tcase_add_test(tc, ranges_end_somewhere);
    tcase_add_test(tc, too_many_entries);
    tcase_add_test(tc, allocations_may_fail);
    tcase_add_test(tc, load_is_spread);
    tcase_add_test(tc, state_load_is_spread);
    tcase_add_test(tc, long_requests_use_all_replicas_by_blocks);
    tcase_add_test(tc, short_requests_use_all_replicas_by_atoms);
    tcase_add_test(tc, plain_pairs_are_one_entry);
    tcase_add_test(tc, replicas_with_other_pools_are_one_entry);
    tcase_add_test(tc, equal_cp_needs_few_entries);
    tcase_add_test(tc, cp_runs_are_folded);
    tcase_add_test(tc, hash_tells_inputs_apart);
    tcase_add_test(tc, hash_has_steps_and_kv);
}

int main(void)
{
    return harness_main("plan_bounds", fill, 60);
}
