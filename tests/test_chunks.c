/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/chunks.h"

#include "instances.h"
#include "kernels/copy.h"

enum { TEXT = 256, TOKENS_MAX = 256, PAD = 0xee };

/* ---- memory of a rank --------------------------------------------------------------------- */

/* Pools with random strides and block tables with random ids, for TOKENS_MAX tokens. */
struct rank_memory {
    const struct kvfi_rank_geometry *rank;
    struct kvfi_pool_memory pools[8];
    uint8_t *bytes[8]; /* one allocation a pool; separate bases are parts of it */
    size_t n_bytes[8];
    struct kvfi_block_table tables[KVF_GROUPS_MAX];
    uint32_t blocks[KVF_GROUPS_MAX][TOKENS_MAX];
};

static void random_order(uint8_t order[4])
{
    for (uint8_t i = 0; i < 4; i++) {
        uint8_t j = (uint8_t)rnd(i + 1u);

        order[i] = i;
        order[i] = order[j];
        order[j] = i;
    }
}

/* Gives a geometry random strides, its order by them, and memory. */
static void pool_init(struct rank_memory *m, uint32_t p)
{
    struct kvfi_pool_geometry *g = &m->rank->pools[p];
    struct kvf_pool_desc d = {.n_bases = 1};
    struct kvfi_pool_memory *pool = &m->pools[p];
    uint32_t n[4] = {g->n_layers, g->n_kv, g->n_heads, g->block_tokens / g->tokens_per_row};
    uint64_t *strides[5] = {&d.stride_layer, &d.stride_kv, &d.stride_head, &d.stride_row,
                            &d.stride_block};
    uint64_t next = g->row_bytes + rnd(2);
    uint32_t block_at = rnd(5); /* blocks outermost, or inside of so many axes */
    uint8_t order[4];

    if (rnd(4) == 0)
        d.n_bases = n[0] * n[1];
    random_order(order);
    for (unsigned i = 0; i <= 4; i++) {
        if (i == block_at) {
            d.stride_block = next;
            next *= g->n_blocks;
        }
        if (i == 4 || (d.n_bases > 1 && order[i] < KVFI_AXIS_HEAD))
            continue;
        *strides[order[i]] = next;
        next = next * n[order[i]] + rnd(3);
    }
    kvfi_pool_order(&d, g->order);
    m->n_bytes[p] = next * d.n_bases;
    m->bytes[p] = malloc(m->n_bytes[p]);
    ck_assert_ptr_nonnull(m->bytes[p]);
    memset(m->bytes[p], PAD, m->n_bytes[p]);
    *pool = (struct kvfi_pool_memory){
        .geometry = g,
        .bases = calloc(d.n_bases, sizeof(uint64_t)),
        .n_bases = d.n_bases,
        .stride_block = d.stride_block,
        .stride_layer = d.stride_layer,
        .stride_kv = d.stride_kv,
        .stride_head = d.stride_head,
        .stride_row = d.stride_row,
    };
    ck_assert_ptr_nonnull(pool->bases);
    for (uint32_t i = 0; i < d.n_bases; i++)
        pool->bases[i] = (uint64_t)(uintptr_t)(m->bytes[p] + next * (d.n_bases - 1 - i));
}

static void memory_init(struct rank_memory *m, const struct kvfi_rank_geometry *rank)
{
    *m = (struct rank_memory){.rank = rank};
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        for (uint32_t i = 0; i < TOKENS_MAX; i++) {
            uint32_t j = rnd(i + 1);

            m->blocks[g][i] = i;
            m->blocks[g][i] = m->blocks[g][j];
            m->blocks[g][j] = i;
        }
        m->tables[g] = (struct kvfi_block_table){m->blocks[g], TOKENS_MAX, 0};
    }
    for (uint32_t p = 0; p < rank->n_pools; p++) {
        struct kvfi_pool_geometry *g = &rank->pools[p];

        g->n_blocks = TOKENS_MAX / g->block_tokens + 1;
        /* Blocks of a group are numbered below the pools' n_blocks. */
        for (uint32_t i = 0, k = 0; i < TOKENS_MAX && k < g->n_blocks; i++) {
            if (m->blocks[g->group][i] < g->n_blocks)
                m->blocks[g->group][k++] = m->blocks[g->group][i];
        }
        pool_init(m, p);
    }
}

static void memory_fini(struct rank_memory *m)
{
    for (uint32_t p = 0; p < m->rank->n_pools; p++) {
        free(m->pools[p].bases);
        free(m->bytes[p]);
    }
}

/* By kvferry.h's formula, not the copy's. */
static uint8_t *row_at(const struct rank_memory *m, uint32_t p, uint32_t l, uint32_t v, uint32_t h,
                       uint64_t row)
{
    const struct kvfi_pool_memory *pool = &m->pools[p];
    const struct kvfi_pool_geometry *g = pool->geometry;
    uint32_t block_rows = g->block_tokens / g->tokens_per_row;
    const struct kvfi_block_table *table = &m->tables[g->group];
    uint32_t block = table->blocks[row / block_rows - table->first_block];
    uint64_t base = pool->bases[pool->n_bases > 1 ? l * g->n_kv + v : 0];

    return (uint8_t *)(uintptr_t)(base + block * pool->stride_block + l * pool->stride_layer +
                                  v * pool->stride_kv + h * pool->stride_head +
                                  row % block_rows * pool->stride_row);
}

/* ---- the pattern -------------------------------------------------------------------------- */

/* A byte of a row, from what the row is in the model. Never the padding. */
static uint8_t pattern(uint32_t role, uint32_t layer, uint32_t head, uint64_t row, uint64_t byte)
{
    uint64_t x = kvfi_mix64(((uint64_t)role << 48) ^ ((uint64_t)layer << 32) ^
                            ((uint64_t)head << 20) ^ (row << 4)) ^
                 byte * 0x9E3779B97F4A7C15u;

    x = kvfi_mix64(x) >> 56;
    return (uint8_t)(x == PAD ? 1 : x);
}

static uint32_t role_of(const struct kvfi_pool_geometry *g, uint32_t kv)
{
    if (g->role != KVF_POOL_KV)
        return g->role;
    return kv == 0 ? KVF_POOL_KEY : KVF_POOL_VALUE;
}

/* Global row of a local one. */
static uint64_t global_row(const struct kvf_place *place, const struct kvfi_pool_geometry *g,
                           uint64_t row)
{
    uint64_t unit;

    if (place->cp_size == 1 || (g->flags & KVF_POOL_PER_REQUEST))
        return row;
    unit = place->cp_interleave_tokens / g->tokens_per_row;
    return (row / unit * place->cp_size + place->cp_rank) * unit + row % unit;
}

static uint64_t n_local_rows(const struct kvf_place *place, const struct kvfi_pool_geometry *g)
{
    uint64_t n = 0;

    if (g->flags & KVF_POOL_PER_REQUEST)
        return 1;
    while (global_row(place, g, n) < TOKENS_MAX / g->tokens_per_row)
        n++;
    return n;
}

/* What walk_rows() does with each row: `row` is global, `seed` says what it is. */
typedef void (*row_fn)(struct rank_memory *m, uint32_t pool, uint8_t *at, uint64_t row,
                       uint64_t seed, bool wanted);

static void fill_row(struct rank_memory *m, uint32_t pool, uint8_t *at, uint64_t row, uint64_t seed,
                     bool wanted)
{
    uint64_t n = m->rank->pools[pool].row_bytes;

    (void)wanted;
    for (uint64_t b = 0; b < n; b++)
        at[b] = pattern((uint32_t)(seed >> 48), (uint32_t)(seed >> 24 & 0xffffff),
                        (uint32_t)(seed & 0xffffff), row, b);
}

/* Checks a row and pads it, so that afterwards all memory must be padding. */
static void check_row(struct rank_memory *m, uint32_t pool, uint8_t *at, uint64_t row,
                      uint64_t seed, bool wanted)
{
    uint64_t n = m->rank->pools[pool].row_bytes;

    for (uint64_t b = 0; wanted && b < n; b++) {
        uint8_t good = pattern((uint32_t)(seed >> 48), (uint32_t)(seed >> 24 & 0xffffff),
                               (uint32_t)(seed & 0xffffff), row, b);

        /* A passing ck_assert writes to a pipe: too slow for every byte. */
        if (at[b] != good)
            ck_abort_msg("pool %u, row %lu, byte %lu: %u instead of %u", pool, (unsigned long)row,
                         (unsigned long)b, at[b], good);
        at[b] = PAD;
    }
}

static void walk_rows(struct rank_memory *m, const struct kvf_token_range *ranges, row_fn fn)
{
    for (uint32_t p = 0; p < m->rank->n_pools; p++) {
        const struct kvfi_pool_geometry *g = &m->rank->pools[p];
        const struct kvf_token_range *range = &ranges[g->group];
        uint64_t n = n_local_rows(&m->rank->place, g);

        for (uint32_t i = 0; i < g->n_layers * g->n_kv * g->n_heads; i++) {
            uint32_t l = i / g->n_kv / g->n_heads;
            uint32_t v = i / g->n_heads % g->n_kv;
            uint32_t h = i % g->n_heads;
            uint64_t seed =
                (uint64_t)role_of(g, v) << 48 | (uint64_t)g->layers[l] << 24 | (g->first_head + h);

            for (uint64_t r = 0; r < n; r++) {
                uint64_t q = global_row(&m->rank->place, g, r);
                bool wanted =
                    range->begin < range->end && ((g->flags & KVF_POOL_PER_REQUEST) ||
                                                  ((q + 1) * g->tokens_per_row > range->begin &&
                                                   q * g->tokens_per_row < range->end));

                fn(m, p, row_at(m, p, l, v, h, r), q, seed, wanted);
            }
        }
    }
}

/* ---- one pair ----------------------------------------------------------------------------- */

/* The blocks a chunk says it needs are those its rows lie in. */
static void check_blocks(const struct kvfi_chunk_map *map, uint32_t chunk, enum kvfi_copy_kind kind,
                         const struct rank_memory *m, const struct kvfi_paged *side,
                         uint32_t n_rows)
{
    uint32_t group;
    uint64_t first;
    uint64_t end;

    kvfi_chunk_blocks(map, chunk, kind, m->pools, &group, &first, &end);
    if (first != side->row0 / side->block_rows ||
        end != (side->row0 + n_rows - 1) / side->block_rows + 1 ||
        side->blocks != m->tables[group].blocks)
        ck_abort_msg("chunk %u has blocks %lu to %lu of group %u", chunk, (unsigned long)first,
                     (unsigned long)end, group);
}

static void move_chunks(const struct kvfi_chunk_map *map, const struct rank_memory *src,
                        const struct rank_memory *dst)
{
    uint64_t bytes = 0;

    for (uint32_t c = 0; c < map->n_chunks; c++) {
        uint32_t n = kvfi_chunk_bytes(map, c);
        struct kvfi_copy_job pack;
        struct kvfi_copy_job unpack;
        void *dense;

        if (n == 0 || n > map->chunk_bytes)
            ck_abort_msg("chunk %u of %u bytes, limit %u", c, n, map->chunk_bytes);
        dense = malloc(n); /* exact, so that a sanitizer sees what is beyond */
        kvfi_chunk_job(map, c, KVFI_COPY_PACK, src->pools, src->tables, dense, &pack);
        kvfi_chunk_job(map, c, KVFI_COPY_UNPACK, dst->pools, dst->tables, dense, &unpack);
        if (!dense || kvfi_copy_bytes(&pack) != n || kvfi_copy_bytes(&unpack) != n)
            ck_abort_msg("chunk %u of %u bytes has jobs of %lu and %lu", c, n,
                         (unsigned long)kvfi_copy_bytes(&pack),
                         (unsigned long)kvfi_copy_bytes(&unpack));
        check_blocks(map, c, KVFI_COPY_PACK, src, &pack.src, pack.n_rows);
        check_blocks(map, c, KVFI_COPY_UNPACK, dst, &unpack.dst, unpack.n_rows);
        kvfi_copy_ref(&pack, 1);
        kvfi_copy_ref(&unpack, 1);
        free(dense);
        bytes += n;
    }
    ck_assert_uint_eq(bytes, map->bytes);
}

static void move_all(struct kvfi_plan_input *input, uint32_t src_dp, uint32_t chunk_bytes,
                     struct rank_memory *dst)
{
    char text[TEXT] = "";
    const struct kvf_token_range all[KVF_GROUPS_MAX] = {{0}};

    for (uint32_t s = 0; s < input->src->n_ranks; s++) {
        const struct kvfi_rank_geometry *rank = &input->src->ranks[s];
        struct rank_memory src;
        struct kvfi_plan plan;
        struct kvfi_chunk_map map;
        uint64_t bytes;

        if (rank->place.dp_group != src_dp)
            continue;
        memory_init(&src, rank);
        walk_rows(&src, all, fill_row);
        input->src_rank = s;
        ck_assert_msg(kvfi_plan_init(input, text, sizeof(text), &plan) == KVF_OK, "%s", text);
        bytes = plan.bytes;
        ck_assert_int_eq(
            kvfi_chunk_map_init(&plan, rank, dst->rank, chunk_bytes, text, sizeof(text), &map),
            KVF_OK);
        ck_assert_ptr_null(plan.entries);
        ck_assert_uint_eq(map.bytes, bytes);
        move_chunks(&map, &src, dst);
        kvfi_chunk_map_fini(&map);
        memory_fini(&src);
    }
}

static void random_sides(struct topology *src, struct topology *dst)
{
    struct topology t = TOPOLOGY_INIT;

    t.n_layers = 1 + rnd(6);
    t.n_heads = 1 + rnd(4);
    t.tokens_per_row = 1u << rnd(2);
    t.token_atom = t.tokens_per_row;
    t.row_bytes = 1 + rnd(40);
    t.latent = rnd(4) == 0;
    t.groups = rnd(2);
    t.state = rnd(3) == 0;
    t.shuffle = true;
    for (unsigned i = 0; i < 2; i++) {
        t.pp = 1 + rnd(2);
        t.tp = 1 + rnd(3);
        t.cp = rnd(3) == 0 ? 1 + rnd(3) : 1;
        t.interleave = t.token_atom * (1 + rnd(20));
        t.block_tokens = t.token_atom * (1 + rnd(24));
        t.split_kv = rnd(2);
        *(i == 0 ? src : dst) = t;
    }
}

START_TEST(chunks_carry_every_byte)
{
    for (unsigned round = 0; round < 400; round++) {
        struct topology st;
        struct topology dt;
        struct kvfi_instance_geometry src;
        struct kvfi_instance_geometry dst;
        struct kvfi_plan_input input = {.src = &src, .dst = &dst};
        struct rank_memory to;

        random_sides(&st, &dt);
        src = topology_build(&st, "src");
        dst = topology_build(&dt, "dst");
        for (unsigned g = 0; g < 3; g++) {
            input.ranges[g].begin = rnd(2) ? rnd(TOKENS_MAX / 2) & ~1u : 0;
            input.ranges[g].end = input.ranges[g].begin + rnd(TOKENS_MAX / 2);
        }
        input.request.bytes[0] = (uint8_t)round;
        input.dst_rank = rnd(dst.n_ranks);
        memory_init(&to, &dst.ranks[input.dst_rank]);
        move_all(&input, 0, rnd(2) ? 1 + rnd(200) : 1 + rnd(20000), &to);
        walk_rows(&to, input.ranges, check_row);
        for (uint32_t p = 0; p < to.rank->n_pools; p++) {
            for (size_t i = 0; i < to.n_bytes[p]; i++) {
                if (to.bytes[p][i] != PAD)
                    ck_abort_msg("pool %u, byte %zu was written", p, i);
            }
        }
        memory_fini(&to);
        kvfi_instance_geometry_fini(&src);
        kvfi_instance_geometry_fini(&dst);
    }
}
END_TEST

/* ---- known cuts --------------------------------------------------------------------------- */

/* One rank each side, 4 layers x 2 x 4 heads, blocks of 8 rows of 16 bytes: 1 KiB a layer. */
struct cut {
    struct kvfi_instance_geometry src;
    struct kvfi_instance_geometry dst;
    struct kvfi_chunk_map map;
    struct kvfi_pool_memory pool;
    uint64_t base;
    struct kvfi_block_table table;
};

static void cut_init(struct cut *c, const struct topology *t, const char *order, uint64_t begin,
                     uint64_t end, uint32_t chunk_bytes)
{
    struct kvfi_plan_input input = {.src = &c->src, .dst = &c->dst};
    struct kvfi_plan plan;
    char text[TEXT];

    c->src = topology_build(t, "src");
    c->dst = topology_build(t, "dst");
    memcpy(c->dst.ranks[0].pools[0].order, order, 4);
    input.ranges[0] = (struct kvf_token_range){begin, end};
    ck_assert_int_eq(kvfi_plan_init(&input, text, sizeof(text), &plan), KVF_OK);
    ck_assert_int_eq(kvfi_chunk_map_init(&plan, &c->src.ranks[0], &c->dst.ranks[0], chunk_bytes,
                                         text, sizeof(text), &c->map),
                     KVF_OK);
    c->base = 0;
    c->pool = (struct kvfi_pool_memory){
        .geometry = &c->dst.ranks[0].pools[0],
        .bases = &c->base,
        .n_bases = 1,
    };
    c->table = (struct kvfi_block_table){0};
}

/* What a chunk should be, in this order. */
struct part {
    uint64_t row;
    uint32_t n_rows;
    uint32_t n_layers;
    uint32_t n_kv;
    uint32_t n_heads;
    uint64_t row_bytes;
};

static void check_cut(struct cut *c, uint32_t chunk, struct part want)
{
    struct kvfi_copy_job job;

    kvfi_chunk_job(&c->map, chunk, KVFI_COPY_UNPACK, &c->pool, &c->table, NULL, &job);
    ck_assert_uint_eq(job.wire_row0, want.row);
    ck_assert_uint_eq(job.dst.row0, want.row);
    ck_assert_uint_eq(job.n_rows, want.n_rows);
    ck_assert_uint_eq(job.n_layers, want.n_layers);
    ck_assert_uint_eq(job.n_kv, want.n_kv);
    ck_assert_uint_eq(job.n_heads, want.n_heads);
    ck_assert_uint_eq(job.row_bytes, want.row_bytes);
}

static void cut_fini(struct cut *c)
{
    kvfi_chunk_map_fini(&c->map);
    kvfi_instance_geometry_fini(&c->src);
    kvfi_instance_geometry_fini(&c->dst);
}

START_TEST(chunks_are_whole_blocks_where_they_fit)
{
    struct topology t = TOPOLOGY_INIT;
    struct cut c;

    /* Two blocks of all layers; the first block is short. */
    cut_init(&c, &t, "\0\1\2\3", 3, 64, 9000);
    ck_assert_uint_eq(c.map.n_chunks, 4);
    check_cut(&c, 0, (struct part){3, 13, 4, 2, 4, 16});
    check_cut(&c, 3, (struct part){48, 16, 4, 2, 4, 16});
    cut_fini(&c);
    /* All in one. */
    cut_init(&c, &t, "\0\1\2\3", 3, 64, 61 * 512);
    ck_assert_uint_eq(c.map.n_chunks, 1);
    cut_fini(&c);
    /* Less than a block: two layers of it. */
    cut_init(&c, &t, "\0\1\2\3", 0, 64, 4000);
    ck_assert_uint_eq(c.map.n_chunks, 16);
    check_cut(&c, 1, (struct part){0, 8, 2, 2, 4, 16});
    check_cut(&c, 2, (struct part){8, 8, 2, 2, 4, 16});
    cut_fini(&c);
    /* Less than a layer of a block: keys or values. */
    cut_init(&c, &t, "\0\1\2\3", 0, 64, 1000);
    check_cut(&c, 1, (struct part){0, 8, 1, 1, 4, 16});
    cut_fini(&c);
    /* Less than a head of a block, which has 6 rows in this range: parts that divide it. */
    cut_init(&c, &t, "\0\1\2\3", 0, 6, 3 * 16);
    check_cut(&c, 0, (struct part){0, 2, 1, 1, 1, 16});
    cut_fini(&c);
    /* Token-major with layers innermost: whole rows of all layers. */
    cut_init(&c, &t, "\3\2\1\0", 0, 64, 1100);
    check_cut(&c, 1, (struct part){2, 2, 4, 2, 4, 16});
    cut_fini(&c);
}
END_TEST

START_TEST(large_rows_are_cut_into_segments)
{
    struct topology t = TOPOLOGY_INIT;
    struct cut c;

    t.row_bytes = 1000;
    cut_init(&c, &t, "\0\1\2\3", 0, 2, 400);
    ck_assert_uint_eq(c.map.n_chunks, 4 * 2 * 4 * 2 * 3);
    check_cut(&c, 0, (struct part){0, 1, 1, 1, 1, 384});
    check_cut(&c, 2, (struct part){0, 1, 1, 1, 1, 1000 - 768});
    cut_fini(&c);
}
END_TEST

START_TEST(map_has_limits)
{
    struct topology t = TOPOLOGY_INIT;
    struct kvfi_instance_geometry in;
    struct kvfi_plan_input input = {.src = &in, .dst = &in};
    struct kvfi_plan plan;
    struct kvfi_chunk_map map;
    char text[TEXT] = "";

    in = topology_build(&t, "both");
    input.ranges[0].end = UINT64_C(1) << 40;
    ck_assert_int_eq(kvfi_plan_init(&input, text, sizeof(text), &plan), KVF_OK);
    ck_assert_int_eq(
        kvfi_chunk_map_init(&plan, &in.ranks[0], &in.ranks[0], 16, text, sizeof(text), &map),
        KVF_ENOSPC);
    ck_assert_ptr_nonnull(strstr(text, "in chunks of 16 are more than"));
    ck_assert_uint_eq(plan.n_entries, 1);
    ck_assert_int_eq(
        kvfi_chunk_map_init(&plan, &in.ranks[0], &in.ranks[0], 0, text, sizeof(text), &map),
        KVF_EINVAL);
    kvfi_alloc_fail_at(1);
    ck_assert_int_eq(
        kvfi_chunk_map_init(&plan, &in.ranks[0], &in.ranks[0], 1u << 30, text, sizeof(text), &map),
        KVF_ENOMEM);
    kvfi_alloc_fail_at(0);
    ck_assert_int_eq(
        kvfi_chunk_map_init(&plan, &in.ranks[0], &in.ranks[0], 1u << 30, text, sizeof(text), &map),
        KVF_OK);
    ck_assert_uint_eq(map.n_chunks, (UINT64_C(1) << 40) * 512 >> 30);
    kvfi_chunk_map_fini(&map);
    /* Nothing to move is a map of nothing. */
    input.ranges[0].end = 0;
    ck_assert_int_eq(kvfi_plan_init(&input, text, sizeof(text), &plan), KVF_OK);
    ck_assert_int_eq(
        kvfi_chunk_map_init(&plan, &in.ranks[0], &in.ranks[0], 1, text, sizeof(text), &map),
        KVF_OK);
    ck_assert_uint_eq(map.n_chunks, 0);
    kvfi_chunk_map_fini(&map);
    kvfi_instance_geometry_fini(&in);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, chunks_carry_every_byte);
    tcase_add_test(tc, chunks_are_whole_blocks_where_they_fit);
    tcase_add_test(tc, large_rows_are_cut_into_segments);
    tcase_add_test(tc, map_has_limits);
}

int main(void)
{
    return harness_main("chunks", fill, 100);
}
