/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/plan.h"

#include "instances.h"

enum { TOKENS_MAX = 640, ROWS_MAX = 640, TEXT = 256 };

/* ---- what a plan must do, row by row ------------------------------------------------------ */

/* Which source rank brought each (pool, layer, kv, head, local row) of a destination rank. */
struct arrivals {
    const struct kvfi_instance_geometry *src;
    const struct kvfi_rank_geometry *dst;
    size_t pool_offset[KVFI_POOLS_MAX];
    size_t n;
    int *from; /* [n] rank, -1 = nobody yet */
};

/* The rows that lie on a rank, in order: the global row of each local one. */
static uint64_t rows_of(const struct kvf_place *place, const struct kvfi_pool_geometry *pool,
                        uint64_t *ret_rows)
{
    uint64_t n = 0;

    if (pool->flags & KVF_POOL_PER_REQUEST) {
        ret_rows[0] = 0;
        return 1;
    }
    for (uint64_t q = 0; q < TOKENS_MAX / pool->tokens_per_row; q++) {
        uint64_t t = q * pool->tokens_per_row;

        if (place->cp_size == 1 ||
            t / place->cp_interleave_tokens % place->cp_size == place->cp_rank)
            ret_rows[n++] = q;
    }
    return n;
}

static uint32_t role_of(const struct kvfi_pool_geometry *pool, uint32_t kv)
{
    if (pool->role != KVF_POOL_KV)
        return pool->role;
    return kv == 0 ? KVF_POOL_KEY : KVF_POOL_VALUE;
}

static int *arrival(const struct arrivals *a, uint32_t pool, uint32_t layer, uint32_t kv,
                    uint32_t head, uint64_t row)
{
    const struct kvfi_pool_geometry *g = &a->dst->pools[pool];
    size_t i = (((size_t)layer * g->n_kv + kv) * g->n_heads + head) * ROWS_MAX + row;

    /* A passing ck_assert writes to a pipe: too slow for every row. */
    if (layer >= g->n_layers || kv >= g->n_kv || head >= g->n_heads || row >= ROWS_MAX)
        ck_abort_msg("no layer %u, kv %u, head %u, row %lu in pool %u", layer, kv, head,
                     (unsigned long)row, pool);
    return &a->from[a->pool_offset[pool] + i];
}

static void arrivals_init(struct arrivals *a, const struct kvfi_instance_geometry *src,
                          const struct kvfi_rank_geometry *dst)
{
    *a = (struct arrivals){.src = src, .dst = dst};
    for (uint32_t p = 0; p < dst->n_pools; p++) {
        const struct kvfi_pool_geometry *g = &dst->pools[p];

        a->pool_offset[p] = a->n;
        a->n += (size_t)g->n_layers * g->n_kv * g->n_heads * ROWS_MAX;
    }
    a->from = calloc(a->n + 1, sizeof(*a->from));
    ck_assert_ptr_nonnull(a->from);
    for (size_t i = 0; i < a->n; i++)
        a->from[i] = -1;
}

/* One layer, kv and head of an entry. */
static void take_rows(struct arrivals *a, uint32_t src_rank, const struct kvfi_plan_entry *e,
                      uint32_t l, uint32_t v, uint32_t h)
{
    const struct kvfi_rank_geometry *s = &a->src->ranks[src_rank];
    const struct kvfi_pool_geometry *sp = &s->pools[e->src_pool];
    const struct kvfi_pool_geometry *dp = &a->dst->pools[e->dst_pool];
    uint64_t src_rows[ROWS_MAX] = {0};
    uint64_t dst_rows[ROWS_MAX] = {0};
    uint64_t n_src = rows_of(&s->place, sp, src_rows);
    uint64_t n_dst = rows_of(&a->dst->place, dp, dst_rows);

    ck_assert_uint_lt(e->src_layer + l, sp->n_layers);
    ck_assert_uint_eq(sp->layers[e->src_layer + l], dp->layers[e->dst_layer + l]);
    ck_assert_uint_eq(role_of(sp, e->src_kv + v), role_of(dp, e->dst_kv + v));
    ck_assert_uint_lt(e->src_head + h, sp->n_heads);
    ck_assert_uint_eq(sp->first_head + e->src_head + h, dp->first_head + e->dst_head + h);
    for (uint32_t i = 0; i < e->n_runs; i++) {
        for (uint64_t r = 0; r < e->run_rows; r++) {
            uint64_t src_row = e->src_row + i * e->src_step + r;
            uint64_t dst_row = e->dst_row + i * e->dst_step + r;
            int *from =
                arrival(a, e->dst_pool, e->dst_layer + l, e->dst_kv + v, e->dst_head + h, dst_row);

            if (src_row >= n_src || dst_row >= n_dst || src_rows[src_row] != dst_rows[dst_row])
                ck_abort_msg("row %lu of %lu becomes row %lu of %lu", (unsigned long)src_row,
                             (unsigned long)n_src, (unsigned long)dst_row, (unsigned long)n_dst);
            if (*from != -1)
                ck_abort_msg("row %lu from ranks %d and %u", (unsigned long)dst_row, *from,
                             src_rank);
            *from = (int)src_rank;
        }
    }
}

static void take_plan(struct arrivals *a, uint32_t src_rank, const struct kvfi_plan *plan)
{
    uint64_t bytes = 0;

    ck_assert_uint_ne(plan->hash, 0);
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct kvfi_plan_entry *e = &plan->entries[i];
        const struct kvfi_pool_geometry *dp = &a->dst->pools[e->dst_pool];

        ck_assert_uint_gt((uint64_t)e->n_layers * e->n_kv * e->n_heads * e->n_runs, 0);
        ck_assert_uint_gt(e->run_rows, 0);
        for (uint32_t l = 0; l < e->n_layers; l++) {
            for (uint32_t v = 0; v < e->n_kv; v++) {
                for (uint32_t h = 0; h < e->n_heads; h++)
                    take_rows(a, src_rank, e, l, v, h);
            }
        }
        bytes +=
            (uint64_t)e->n_layers * e->n_kv * e->n_heads * e->n_runs * e->run_rows * dp->row_bytes;
    }
    ck_assert_uint_eq(bytes, plan->bytes);
}

static void take_all(struct arrivals *a, struct kvfi_plan_input *input, uint32_t src_dp)
{
    char text[TEXT] = "";

    for (uint32_t s = 0; s < a->src->n_ranks; s++) {
        struct kvfi_plan plan;

        if (a->src->ranks[s].place.dp_group != src_dp)
            continue;
        input->src_rank = s;
        ck_assert_msg(kvfi_plan_init(input, text, sizeof(text), &plan) == KVF_OK, "%s", text);
        take_plan(a, s, &plan);
        kvfi_plan_fini(&plan);
    }
}

/* Every wanted row came, no other did, and no atom has two sources. */
static void check_arrivals(const struct arrivals *a, const struct kvf_token_range *ranges,
                           uint32_t atom)
{
    for (uint32_t p = 0; p < a->dst->n_pools; p++) {
        const struct kvfi_pool_geometry *g = &a->dst->pools[p];
        const struct kvf_token_range *range = &ranges[g->group];
        bool state = g->flags & KVF_POOL_PER_REQUEST;
        uint64_t rows[ROWS_MAX];
        uint64_t n = rows_of(&a->dst->place, g, rows);

        for (uint32_t i = 0; i < g->n_layers * g->n_kv * g->n_heads; i++) {
            uint32_t l = i / g->n_kv / g->n_heads;
            uint32_t v = i / g->n_heads % g->n_kv;
            uint32_t h = i % g->n_heads;

            for (uint64_t r = 0; r < n; r++) {
                uint64_t begin = rows[r] * g->tokens_per_row;
                bool wanted = state
                                  ? range->begin < range->end
                                  : begin + g->tokens_per_row > range->begin && begin < range->end;
                int from = *arrival(a, p, l, v, h, r);

                if (wanted != (from >= 0))
                    ck_abort_msg("row %lu from rank %d", (unsigned long)r, from);
                if (r > 0 && wanted && begin % atom != 0 && from != *arrival(a, p, l, v, h, r - 1))
                    ck_abort_msg("atom of row %lu has two sources", (unsigned long)r);
                if (h > 0 && wanted && (g->first_head + h) % g->head_atom != 0 &&
                    from != *arrival(a, p, l, v, h - 1, r))
                    ck_abort_msg("atom of head %u has two sources", h);
            }
        }
    }
}

/* ---- random topologies -------------------------------------------------------------------- */

/* Returns the token atom of the two sides together. */
static uint32_t random_sides(struct topology *src, struct topology *dst)
{
    static const uint32_t sizes[] = {1, 2, 3, 4};
    struct topology t = TOPOLOGY_INIT;
    uint32_t atom; /* the larger one of the two sides' */

    t.n_layers = 1 + rnd(9);
    t.n_heads = 1 + rnd(8);
    t.tokens_per_row = 1u << rnd(2);
    atom = t.tokens_per_row << rnd(3);
    t.latent = rnd(4) == 0;
    t.groups = rnd(2);
    t.state = rnd(3) == 0;
    t.shuffle = true;
    for (unsigned i = 0; i < 2; i++) {
        t.pp = sizes[rnd(3)];
        t.dp = sizes[rnd(2)];
        t.tp = sizes[rnd(4)];
        t.cp = rnd(3) == 0 ? sizes[rnd(3)] : 1;
        t.interleave = atom * (1 + rnd(6));
        t.block_tokens = atom * (1 + rnd(5));
        t.split_kv = rnd(2);
        t.uneven = rnd(2);
        t.spread_heads = rnd(2);
        t.token_atom = atom;
        *(i == 0 ? src : dst) = t;
    }
    (rnd(2) ? src : dst)->token_atom = t.tokens_per_row;
    return atom;
}

static void random_ranges(uint32_t atom, struct kvfi_plan_input *input)
{
    for (uint32_t g = 0; g < 3; g++) {
        uint64_t begin = rnd(4) ? rnd(300) : 0;
        uint64_t n = rnd(4) ? rnd(rnd(2) ? 40 : 300) : 0;

        begin -= begin % atom;
        input->ranges[g] = (struct kvf_token_range){begin, begin + n};
    }
    for (unsigned i = 0; i < 16; i++)
        input->request.bytes[i] = (uint8_t)rnd(256);
}

/* The plan of extents that tile (layers x tokens) brings each row once, from whom it would anyway. */
static void check_extents(struct kvfi_plan_input *input, const struct arrivals *whole,
                          uint32_t src_dp)
{
    uint32_t layer = rnd(10);
    uint64_t cut[4] = {0, rnd(400), 0, UINT64_MAX};
    struct kvfi_extent_box box = {0};
    struct arrivals a;

    cut[2] = cut[1] + rnd(200);
    arrivals_init(&a, whole->src, whole->dst);
    input->extent = &box;
    for (unsigned i = 0; i < 6; i++) {
        box.first_layer = i < 3 ? 0 : layer;
        box.end_layer = i < 3 ? layer : UINT32_MAX;
        for (unsigned g = 0; g < KVF_GROUPS_MAX; g++)
            box.tokens[g] = (struct kvf_token_range){cut[i % 3], cut[i % 3 + 1]};
        take_all(&a, input, src_dp);
    }
    ck_assert_mem_eq(a.from, whole->from, a.n * sizeof(*a.from));
    free(a.from);
    input->extent = NULL;
}

START_TEST(every_wanted_row_comes_once)
{
    for (unsigned round = 0; round < 400; round++) {
        struct topology st;
        struct topology dt;
        struct kvfi_instance_geometry src;
        struct kvfi_instance_geometry dst;
        struct kvfi_plan_input input = {.src = &src, .dst = &dst};
        struct arrivals a;
        uint32_t src_dp;
        uint32_t atom;

        atom = random_sides(&st, &dt);
        src = topology_build(&st, "src");
        dst = topology_build(&dt, "dst");
        random_ranges(atom, &input);
        src_dp = rnd(st.dp);
        input.dst_rank = rnd(dst.n_ranks);
        arrivals_init(&a, &src, &dst.ranks[input.dst_rank]);
        take_all(&a, &input, src_dp);
        check_arrivals(&a, input.ranges, atom);
        check_extents(&input, &a, src_dp);
        free(a.from);
        kvfi_instance_geometry_fini(&src);
        kvfi_instance_geometry_fini(&dst);
    }
}
END_TEST

/* ---- known cases -------------------------------------------------------------------------- */

struct pair {
    struct kvfi_instance_geometry src;
    struct kvfi_instance_geometry dst;
    struct kvfi_plan_input input;
    struct kvfi_plan plan;
    char text[TEXT];
};

static void pair_init(struct pair *p, const struct topology *src, const struct topology *dst,
                      uint64_t begin, uint64_t end)
{
    *p = (struct pair){0};
    p->src = topology_build(src, "src");
    p->dst = topology_build(dst, "dst");
    p->input.src = &p->src;
    p->input.dst = &p->dst;
    for (unsigned g = 0; g < KVF_GROUPS_MAX; g++)
        p->input.ranges[g] = (struct kvf_token_range){begin, end};
}

static kvf_status_t pair_plan(struct pair *p, uint32_t src_rank, uint32_t dst_rank)
{
    p->input.src_rank = src_rank;
    p->input.dst_rank = dst_rank;
    kvfi_plan_fini(&p->plan);
    return kvfi_plan_init(&p->input, p->text, sizeof(p->text), &p->plan);
}

static void pair_fini(struct pair *p)
{
    kvfi_plan_fini(&p->plan);
    kvfi_instance_geometry_fini(&p->src);
    kvfi_instance_geometry_fini(&p->dst);
}

START_TEST(equal_sides_need_one_entry)
{
    struct topology t = TOPOLOGY_INIT;
    struct pair p;

    t.tp = 2;
    pair_init(&p, &t, &t, 3, 100);
    ck_assert_int_eq(pair_plan(&p, 1, 1), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 1);
    ck_assert_uint_eq(p.plan.entries[0].n_layers, 4);
    ck_assert_uint_eq(p.plan.entries[0].n_kv, 2);
    ck_assert_uint_eq(p.plan.entries[0].n_heads, 2);
    ck_assert_uint_eq(p.plan.entries[0].n_runs, 1);
    ck_assert_uint_eq(p.plan.entries[0].src_row, 3);
    ck_assert_uint_eq(p.plan.entries[0].run_rows, 97);
    ck_assert_uint_eq(p.plan.bytes, 4 * 2 * 2 * 97 * 16);
    ck_assert_int_eq(pair_plan(&p, 0, 1), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 0);
    ck_assert_uint_eq(p.plan.bytes, 0);
    pair_fini(&p);
}
END_TEST

/* tp2 pp1 -> tp4 pp2: source rank 0 sends to tp 0 and 1 of both stages, half of the layers each. */
START_TEST(tp2_feeds_tp4pp2)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;

    st.tp = 2;
    dt.tp = 4;
    dt.pp = 2;
    pair_init(&p, &st, &dt, 0, 64);
    for (uint32_t d = 0; d < 8; d++) {
        bool fed = d % 4 < 2;

        ck_assert_int_eq(pair_plan(&p, 0, d), KVF_OK);
        ck_assert_uint_eq(p.plan.n_entries, fed);
        if (!fed)
            continue;
        ck_assert_uint_eq(p.plan.entries[0].src_layer, d / 4 * 2);
        ck_assert_uint_eq(p.plan.entries[0].n_layers, 2);
        ck_assert_uint_eq(p.plan.entries[0].src_head, d % 4);
        ck_assert_uint_eq(p.plan.entries[0].n_heads, 1);
    }
    pair_fini(&p);
}
END_TEST

/* A latent on four ranks: four parts, each a multiple of the destination's blocks. */
START_TEST(replicas_share_in_stripes_of_blocks)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;
    uint64_t rows = 0;
    unsigned first_seen = 0;

    st.latent = dt.latent = true;
    st.tp = 4;
    dt.tp = 8;
    dt.block_tokens = 16;
    pair_init(&p, &st, &dt, 5, 200);
    for (uint32_t s = 0; s < 4; s++) {
        const struct kvfi_plan_entry *e;

        ck_assert_int_eq(pair_plan(&p, s, 3), KVF_OK);
        ck_assert_uint_eq(p.plan.n_entries, 1);
        e = p.plan.entries;
        ck_assert(e->dst_row == 5 || e->dst_row % 16 == 0);
        ck_assert_uint_le(e->run_rows, 64);
        ck_assert_uint_ge(e->run_rows, 32);
        rows += e->run_rows;
        kvfi_plan_fini(&p.plan);
    }
    ck_assert_uint_eq(rows, 195);
    /* One block only: parts of tokens; fewer tokens than replicas: fewer parts, not always rank 0's. */
    for (uint8_t id = 0; id < 32; id++) {
        p.input.request.bytes[0] = id;
        p.input.ranges[0] = (struct kvf_token_range){7, 9};
        rows = 0;
        for (uint32_t s = 0; s < 4; s++) {
            ck_assert_int_eq(pair_plan(&p, s, 0), KVF_OK);
            ck_assert_uint_le(p.plan.bytes, 16 * 4);
            rows += p.plan.bytes / 16 / 4;
            if (p.plan.n_entries > 0 && p.plan.entries[0].dst_row == 7)
                first_seen |= 1u << s;
        }
        ck_assert_uint_eq(rows, 2);
    }
    ck_assert_uint_eq(first_seen, 15);
    pair_fini(&p);
}
END_TEST

/* Rank 0 has all layers, ranks 1 and 2 half of them each: always two holders, one entry. */
START_TEST(layers_of_alike_holders_join)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;

    st.latent = dt.latent = true;
    st.tp = 3;
    pair_init(&p, &st, &dt, 0, 64);
    p.src.ranks[1].pools[0].n_layers = 2;
    p.src.ranks[2].pools[0].n_layers = 2;
    p.src.ranks[2].pools[0].layers[0] = 2;
    p.src.ranks[2].pools[0].layers[1] = 3;
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 1);
    ck_assert_uint_eq(p.plan.entries[0].n_layers, 4);
    ck_assert_uint_eq(p.plan.entries[0].run_rows, 32);
    ck_assert_int_eq(pair_plan(&p, 2, 0), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 1);
    ck_assert_uint_eq(p.plan.entries[0].dst_layer, 2);
    ck_assert_uint_eq(p.plan.entries[0].run_rows, 32);
    pair_fini(&p);
}
END_TEST

/* Two cp ranks of 16 feed a whole sequence: one run a period; the range's ends are ragged. */
START_TEST(context_parallel_runs_are_periodic)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;

    st.cp = 2;
    st.interleave = 16;
    pair_init(&p, &st, &dt, 5, 490);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 3);
    ck_assert_uint_eq(p.plan.entries[0].run_rows, 11);
    ck_assert_uint_eq(p.plan.entries[1].n_runs, 14);
    ck_assert_uint_eq(p.plan.entries[1].src_row, 16);
    ck_assert_uint_eq(p.plan.entries[1].src_step, 16);
    ck_assert_uint_eq(p.plan.entries[1].dst_row, 32);
    ck_assert_uint_eq(p.plan.entries[1].dst_step, 32);
    ck_assert_uint_eq(p.plan.entries[2].dst_row, 480);
    ck_assert_uint_eq(p.plan.entries[2].run_rows, 10);
    pair_fini(&p);
    /* The same interleave on both sides: one run. */
    pair_init(&p, &st, &st, 5, 490);
    ck_assert_int_eq(pair_plan(&p, 1, 1), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 1);
    ck_assert_uint_eq(p.plan.entries[0].n_runs, 1);
    ck_assert_uint_eq(p.plan.entries[0].src_row, 0);
    ck_assert_uint_eq(p.plan.entries[0].run_rows, 240);
    pair_fini(&p);
}
END_TEST

START_TEST(per_request_layers_take_replicas_in_turn)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct kvfi_extent_box box = {.end_layer = UINT32_MAX};
    unsigned first_seen = 0;
    struct pair p;

    st.latent = dt.latent = st.state = dt.state = true;
    st.n_heads = dt.n_heads = 1;
    st.tp = 2;
    pair_init(&p, &st, &dt, 0, 100);
    p.input.ranges[0] = (struct kvf_token_range){0, 0};
    for (uint32_t s = 0; s < 2; s++) {
        ck_assert_int_eq(pair_plan(&p, s, 0), KVF_OK);
        ck_assert_uint_eq(p.plan.n_entries, 2);
        ck_assert_uint_eq(p.plan.entries[1].src_layer, p.plan.entries[0].src_layer + 2);
        ck_assert_uint_eq(p.plan.entries[0].run_rows, 1);
    }
    /* Which replica begins is the request's. */
    for (uint8_t id = 0; id < 32; id++) {
        p.input.request.bytes[15] = id;
        ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
        first_seen |= 1u << p.plan.entries[0].src_layer;
    }
    ck_assert_uint_eq(first_seen, 3);
    /* State is only final with the last token of the range. */
    p.input.extent = &box;
    box.tokens[2] = (struct kvf_token_range){0, 99};
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 0);
    box.tokens[2] = (struct kvf_token_range){99, 100};
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_eq(p.plan.n_entries, 2);
    pair_fini(&p);
}
END_TEST

START_TEST(hash_names_the_plan)
{
    struct topology t = TOPOLOGY_INIT;
    struct pair p;
    uint64_t hash;

    pair_init(&p, &t, &t, 0, 64);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    hash = p.plan.hash;
    p.input.request.bytes[3] = 1; /* no replicas: the request id does not matter */
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_eq(p.plan.hash, hash);
    p.input.ranges[0].end = 65;
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_ne(p.plan.hash, hash);
    p.input.ranges[0] = (struct kvf_token_range){1, 65};
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_ne(p.plan.hash, hash);
    p.input.ranges[0] = (struct kvf_token_range){0, 64};
    p.src.ranks[0].pools[0].row_bytes = p.dst.ranks[0].pools[0].row_bytes = 32;
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    ck_assert_uint_ne(p.plan.hash, hash);
    pair_fini(&p);
}
END_TEST

/* ---- refusals ----------------------------------------------------------------------------- */

START_TEST(cuts_inside_atoms_are_refused)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;

    /* Heads of an atom of 2 would go to two ranks. */
    dt.tp = 4;
    st.head_atom = 2;
    pair_init(&p, &st, &dt, 0, 64);
    ck_assert_int_eq(pair_plan(&p, 0, 1), KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(p.text, "head_atom 2"));
    for (unsigned g = 0; g < KVF_GROUPS_MAX; g++)
        p.input.ranges[g] = (struct kvf_token_range){0, 0};
    ck_assert_int_eq(pair_plan(&p, 0, 1), KVF_OK);
    pair_fini(&p);
    /* The range begins inside an atom of 4 (of one side only). */
    dt.tp = 1;
    dt.token_atom = 4;
    pair_init(&p, &st, &dt, 6, 64);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(p.text, "token 6"));
    pair_fini(&p);
    /* A unit of a cp rank is half an atom. */
    st.cp = 2;
    st.interleave = 2;
    pair_init(&p, &st, &dt, 0, 64);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(p.text, "cp_interleave_tokens 2"));
    pair_fini(&p);
}
END_TEST

START_TEST(different_rows_are_refused)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;

    st.row_bytes = 32;
    pair_init(&p, &st, &dt, 0, 64);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(p.text, "source 32, destination 16"));
    p.src.ranks[0].pools[0].row_bytes = 16;
    p.src.ranks[0].pools[0].tokens_per_row = 2;
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(p.text, "tokens_per_row"));
    p.src.ranks[0].pools[0].tokens_per_row = 1;
    ck_assert_int_eq(pair_plan(&p, 0, 1), KVF_EINVAL);
    pair_fini(&p);
}
END_TEST

START_TEST(plans_have_limits)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;

    pair_init(&p, &st, &dt, 0, KVFI_PLAN_TOKENS_MAX + 1);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_ENOSPC);
    p.input.ranges[0].end = KVFI_PLAN_TOKENS_MAX;
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_OK);
    p.src.ranks[0].pools[0].row_bytes = p.dst.ranks[0].pools[0].row_bytes = UINT64_C(1) << 60;
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_ENOSPC);
    pair_fini(&p);
    /* Units that are almost alike: every entry is another piece of a period that never ends. */
    st.cp = dt.cp = 2;
    st.interleave = 1000003;
    dt.interleave = 1000033;
    pair_init(&p, &st, &dt, 0, UINT64_C(1) << 40);
    ck_assert_int_eq(pair_plan(&p, 0, 0), KVF_ENOSPC);
    pair_fini(&p);
    /* Units that hardly ever meet. */
    st.cp = dt.cp = 64;
    pair_init(&p, &st, &dt, 0, UINT64_C(1) << 46);
    ck_assert_int_eq(pair_plan(&p, 0, 63), KVF_ENOSPC);
    pair_fini(&p);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    struct topology st = TOPOLOGY_INIT;
    struct topology dt = TOPOLOGY_INIT;
    struct pair p;
    unsigned n;

    st.cp = 3;
    st.interleave = 8;
    dt.cp = 2;
    dt.interleave = 16;
    st.state = dt.state = st.groups = dt.groups = true;
    st.n_layers = dt.n_layers = 12;
    st.split_kv = true;
    pair_init(&p, &st, &dt, 0, 300);
    for (n = 1; n < 100; n++) {
        kvf_status_t status;

        kvfi_alloc_fail_at(n);
        status = pair_plan(&p, 0, 0);
        kvfi_alloc_fail_at(0);
        if (status == KVF_OK)
            break;
        ck_assert_int_eq(status, KVF_ENOMEM);
        ck_assert_ptr_null(p.plan.entries);
    }
    ck_assert_uint_gt(n, 3);
    ck_assert_uint_lt(n, 100);
    pair_fini(&p);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, every_wanted_row_comes_once);
    tcase_add_test(tc, equal_sides_need_one_entry);
    tcase_add_test(tc, tp2_feeds_tp4pp2);
    tcase_add_test(tc, replicas_share_in_stripes_of_blocks);
    tcase_add_test(tc, layers_of_alike_holders_join);
    tcase_add_test(tc, context_parallel_runs_are_periodic);
    tcase_add_test(tc, per_request_layers_take_replicas_in_turn);
    tcase_add_test(tc, hash_names_the_plan);
    tcase_add_test(tc, cuts_inside_atoms_are_refused);
    tcase_add_test(tc, different_rows_are_refused);
    tcase_add_test(tc, plans_have_limits);
    tcase_add_test(tc, every_allocation_may_fail);
}

int main(void)
{
    return harness_main("plan", fill, 60);
}
