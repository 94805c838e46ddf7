/* SPDX-License-Identifier: Apache-2.0 */
#include "copy_shapes.h"

#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define JOB_BYTES_MAX (16u << 10)
#define KNOWN_VARIANTS 12u

uint64_t shape_rnd64(struct shape_rnd *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return r->state * 0x2545F4914F6CDD1Du;
}

uint32_t shape_rnd(struct shape_rnd *r, uint32_t n)
{
    return (uint32_t)((shape_rnd64(r) >> 33) % n);
}

bool shape_chance(struct shape_rnd *r, uint32_t percent)
{
    return shape_rnd(r, 100) < percent;
}

static void shuffle(struct shape_rnd *r, uint8_t *a, uint32_t n)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = shape_rnd(r, i);
        uint8_t t = a[i - 1];

        a[i - 1] = a[j];
        a[j] = t;
    }
}

void shape_clip(struct job_shape *s)
{
    uint64_t others = (uint64_t)s->n_layers * s->n_kv * s->n_heads * s->row_bytes;
    /* With what lies around the box in its pool. */
    uint64_t around =
        (uint64_t)(s->n_layers + 2) * (s->n_kv + 2) * (s->n_heads + 2) * (s->row_bytes + 64);
    uint64_t max_rows = others > 0 ? JOB_BYTES_MAX / others + 1 : 128;
    uint64_t max_block_rows = 4 * JOB_BYTES_MAX / around + 1;

    if (s->n_rows > max_rows)
        s->n_rows = (uint32_t)max_rows;
    if (s->n_rows > 8 * max_block_rows)
        s->n_rows = (uint32_t)(8 * max_block_rows);
    for (unsigned i = 0; i < 2; i++)
        if (s->side[i].block_rows > max_block_rows) {
            s->side[i].block_rows = (uint32_t)max_block_rows;
            s->side[i].row_in_block %= s->side[i].block_rows;
        }
}

static uint32_t pick(struct shape_rnd *r, const uint32_t *from, uint32_t n)
{
    return from[shape_rnd(r, n)];
}

static void side_random(struct shape_rnd *r, struct side_shape *s, bool is_dst)
{
    static const uint32_t block_rows[] = {1, 1, 2, 3, 4, 5, 7, 8, 16, 16, 32, 64, 100};
    static const uint8_t nests[][POOL_AXES] = {
        {4, 0, 1, 2, 3}, {0, 4, 1, 3, 2}, {0, 1, 4, 3, 2}, {1, 0, 4, 3, 2}, {0, 4, 1, 2, 3}};
    const bool dense = shape_chance(r, 40); /* so that runs can be folded */

    *s = (struct side_shape){.block_rows = pick(r, block_rows, ARRAY_LEN(block_rows))};
    s->lead_blocks = shape_chance(r, 70) ? 0 : shape_rnd(r, 3);
    s->first_block = shape_chance(r, 50) ? 0 : shape_chance(r, 80) ? shape_rnd(r, 9) : 4000000000u;
    s->row_in_block = shape_chance(r, 50) ? 0 : shape_rnd(r, s->block_rows);
    memcpy(s->nest, nests[shape_rnd(r, ARRAY_LEN(nests))], sizeof(s->nest));
    if (shape_chance(r, 40))
        shuffle(r, s->nest, POOL_AXES);
    for (uint32_t k = 0; k < POOL_AXES; k++) {
        s->pad[k] = dense || shape_chance(r, 60) ? 0
                    : shape_chance(r, 50)        ? shape_rnd(r, 20)
                                                 : 16 * shape_rnd(r, 5);
        s->before[k] = dense && shape_chance(r, 80) ? 0 : shape_rnd(r, 2);
        s->after[k] = dense && shape_chance(r, 80) ? 0 : shape_rnd(r, 2);
    }
    s->layer_bases = shape_chance(r, 40);
    s->kv_bases = shape_chance(r, 30);
    s->kv_outer_bases = shape_chance(r, 50);
    s->blocks_in_order = shape_chance(r, 40);
    s->blocks_repeat = !is_dst && shape_chance(r, 20);
    s->absent_percent = is_dst && shape_chance(r, 30) ? 10 + shape_rnd(r, 91) : 0;
    s->block_bias = shape_chance(r, 20) ? 4294000000u : 0;
    s->align = shape_chance(r, 50) ? 64 : 1;
}

void shape_random(struct shape_rnd *r, struct job_shape *ret_shape)
{
    static const uint32_t layers[] = {1, 1, 1, 2, 3, 5};
    static const uint32_t heads[] = {1, 1, 2, 3, 4, 8};
    static const uint32_t rows[] = {1, 2, 3, 8, 15, 16, 17, 40, 64, 130};
    static const uint32_t bytes[] = {1,  2,  3,   4,   7,   8,   12,  15,  16,  17,   31,   32,
                                     33, 64, 100, 127, 128, 132, 256, 512, 576, 1024, 1152, 4096};
    struct job_shape *s = ret_shape;

    *s = (struct job_shape){.kind = shape_rnd(r, 3), .order = {0, 1, 2, 3}};
    s->n_layers = shape_chance(r, 2) ? 0 : pick(r, layers, ARRAY_LEN(layers));
    s->n_kv = shape_chance(r, 2) ? 0 : 1 + shape_rnd(r, 2) + shape_chance(r, 5);
    s->n_heads = shape_chance(r, 2) ? 0 : pick(r, heads, ARRAY_LEN(heads));
    s->n_rows = shape_chance(r, 2) ? 0 : pick(r, rows, ARRAY_LEN(rows));
    s->row_bytes = shape_chance(r, 20) ? 1 + shape_rnd(r, 1500) : pick(r, bytes, ARRAY_LEN(bytes));
    while ((uint64_t)s->n_layers * s->n_heads * s->row_bytes > JOB_BYTES_MAX) {
        s->n_layers = (s->n_layers + 1) / 2;
        s->n_heads = (s->n_heads + 1) / 2;
    }
    shuffle(r, s->order, 4);
    side_random(r, &s->side[0], false);
    side_random(r, &s->side[1], true);
    s->wire_block_rows = shape_chance(r, 50) ? s->side[1].block_rows : 1 + shape_rnd(r, 40);
    s->wire_row0 =
        shape_chance(r, 50) ? s->side[1].row_in_block : shape_rnd64(r) >> (1 + shape_rnd(r, 62));
    shape_clip(s);
}

/* Of a shape; everything else of it is random. */
struct named_shape {
    uint32_t n_layers;
    uint32_t n_kv;
    uint32_t n_heads;
    uint32_t n_rows;
    uint32_t row_bytes;
    uint32_t src_block_rows;
    uint32_t dst_block_rows;
};

static const struct named_shape named_shapes[] = {
    {0, 2, 8, 16, 256, 16, 16}, /* nothing of each axis */
    {2, 0, 8, 16, 256, 16, 16},  {2, 2, 0, 16, 256, 16, 16}, {2, 2, 8, 0, 256, 16, 16},
    {1, 1, 1, 1, 1, 1, 1},       /* the smallest */
    {4, 2, 1, 48, 256, 16, 16},  /* grouped-query attention at high TP */
    {2, 2, 8, 33, 256, 64, 32},  /* a tail, blocks of different sizes */
    {3, 1, 1, 70, 1152, 64, 64}, /* latent rows (MLA) */
    {3, 1, 1, 70, 132, 64, 1},   /* indexer rows into single-row blocks */
    {2, 2, 4, 100, 128, 1, 128}, /* and the other way round */
    {1, 1, 1, 1, 40001, 1, 1},   /* state of one slot */
    {2, 1, 1, 5, 10007, 3, 2},   {1, 2, 128, 9, 16, 4, 4},   {60, 1, 1, 3, 64, 2, 2},
};

bool shape_known(struct shape_rnd *r, uint32_t i, struct job_shape *ret_shape)
{
    struct job_shape *s = ret_shape;
    const struct named_shape *n = &named_shapes[i / KNOWN_VARIANTS];

    if (i >= KNOWN_VARIANTS * ARRAY_LEN(named_shapes))
        return false;
    shape_random(r, s);
    s->kind = i % 3;
    s->n_layers = n->n_layers;
    s->n_kv = n->n_kv;
    s->n_heads = n->n_heads;
    s->n_rows = n->n_rows;
    s->row_bytes = n->row_bytes;
    s->side[0].block_rows = n->src_block_rows;
    s->side[0].row_in_block = i % 2 ? n->src_block_rows - 1 : 0;
    s->side[1].block_rows = n->dst_block_rows;
    s->side[1].row_in_block = i % 4 ? n->dst_block_rows / 2 : 0;
    s->wire_block_rows = n->dst_block_rows;
    s->wire_row0 = s->side[1].row_in_block;
    return true;
}
