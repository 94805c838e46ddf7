/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/chunks.h"

#include <assert.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/text.h"

enum { SEGMENT_ALIGN_BYTES = 64, DIVISORS_MAX = 64 };

/* One chunk: what of its entry it is. */
struct box {
    const struct kvfi_plan_entry *entry;
    const struct kvfi_chunk_cut *cut;
    uint32_t run;
    uint64_t row; /* within the run */
    uint64_t n_rows;
    uint32_t layer; /* within the entry, like all that follow */
    uint32_t n_layers;
    uint32_t kv;
    uint32_t n_kv;
    uint32_t head;
    uint32_t n_heads;
    uint64_t byte; /* within the row */
    uint64_t n_bytes;
};

/* ---- cutting ------------------------------------------------------------------------------ */

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* At most `fit` of n, in parts as equal as can be. n, fit >= 1. */
static uint64_t even_part(uint64_t n, uint64_t fit)
{
    return fit >= n ? n : div_up(n, div_up(n, fit));
}

/* Rows of a part of a block: a divisor of the block if one is nearly as large as what fits. */
static uint64_t row_part(uint64_t block_rows, uint64_t n, uint64_t fit)
{
    uint64_t least = div_up(block_rows, fit);

    if (fit >= n)
        return n;
    for (uint64_t k = least; k <= 2 * least && k < least + DIVISORS_MAX; k++) {
        if (block_rows % k == 0)
            return block_rows / k;
    }
    return even_part(n, fit);
}

/* How many of an axis a chunk gets, if `fit` would fit. */
static uint64_t axis_part(const struct kvfi_plan_entry *e, uint32_t block_rows, uint8_t axis,
                          uint64_t fit)
{
    switch ((enum kvfi_axis)axis) {
    case KVFI_AXIS_LAYER:
        return even_part(e->n_layers, fit);
    case KVFI_AXIS_KV:
        return even_part(e->n_kv, fit);
    case KVFI_AXIS_HEAD:
        return even_part(e->n_heads, fit);
    case KVFI_AXIS_ROW:
        break;
    }
    return row_part(block_rows, kvfi_min_u64(e->run_rows, block_rows), fit);
}

/* Sizes of a box: fill the chunk from the receiver's innermost axis outwards. */
static void fit_box(const struct kvfi_plan_entry *e, uint64_t chunk_bytes,
                    struct kvfi_chunk_cut *cut)
{
    uint64_t part[4] = {1, 1, 1, 1};
    uint64_t left = chunk_bytes / cut->row_bytes; /* rows that still fit, over all axes */

    for (unsigned i = 4; i > 0 && left > 0; i--) {
        uint8_t axis = cut->order[i - 1];

        part[axis] = axis_part(e, cut->dst_block_rows, axis, left);
        left /= part[axis];
    }
    cut->n_layers = (uint32_t)part[KVFI_AXIS_LAYER];
    cut->n_kv = (uint32_t)part[KVFI_AXIS_KV];
    cut->n_heads = (uint32_t)part[KVFI_AXIS_HEAD];
    cut->n_rows = part[KVFI_AXIS_ROW];
}

/* A box that is a whole block (or a whole run) on all axes: as many blocks as fit. */
static void fit_blocks(const struct kvfi_plan_entry *e, uint64_t chunk_bytes,
                       struct kvfi_chunk_cut *cut)
{
    uint64_t per_row = (uint64_t)cut->n_layers * cut->n_kv * cut->n_heads * cut->row_bytes;
    uint64_t fit = chunk_bytes / per_row;
    uint64_t n_blocks;

    if (fit >= e->run_rows) {
        cut->n_rows = e->run_rows;
        return;
    }
    n_blocks = fit / cut->dst_block_rows;
    if (n_blocks > 0)
        cut->n_rows =
            cut->dst_block_rows * even_part(div_up(e->run_rows, cut->dst_block_rows), n_blocks);
}

/* A row too large for a chunk. */
static void fit_segments(uint64_t chunk_bytes, struct kvfi_chunk_cut *cut)
{
    uint64_t bytes = even_part(cut->row_bytes, chunk_bytes);

    bytes = div_up(bytes, SEGMENT_ALIGN_BYTES) * SEGMENT_ALIGN_BYTES;
    cut->segment_bytes = kvfi_min_u64(bytes, chunk_bytes);
}

/*
 * How much earlier than a run the grid begins by which its rows are cut: so that the first run is
 * cut at the receiver's blocks. (Later ones are too, if their distance is a number of blocks.)
 */
static uint64_t skip_of(const struct kvfi_plan_entry *e, const struct kvfi_chunk_cut *cut)
{
    uint64_t unit = kvfi_min_u64(cut->n_rows, cut->dst_block_rows);

    if (cut->n_rows >= e->run_rows || cut->dst_block_rows % unit != 0)
        return 0;
    return e->dst_row % unit;
}

/* Cut an entry; returns its number of chunks, or UINT64_MAX if that is out of all bounds. */
static uint64_t cut_entry(const struct kvfi_plan_entry *e, const struct kvfi_pool_geometry *dst,
                          uint64_t chunk_bytes, struct kvfi_chunk_cut *cut)
{
    uint64_t parts[5];
    uint64_t n = e->n_runs;

    *cut = (struct kvfi_chunk_cut){
        .n_layers = 1,
        .n_kv = 1,
        .n_heads = 1,
        .n_rows = 1,
        .segment_bytes = dst->row_bytes,
        .row_bytes = dst->row_bytes,
        .dst_block_rows = dst->block_tokens / dst->tokens_per_row,
    };
    memcpy(cut->order, dst->order, sizeof(cut->order));
    if (dst->row_bytes > chunk_bytes)
        fit_segments(chunk_bytes, cut);
    else
        fit_box(e, chunk_bytes, cut);
    if (cut->n_layers == e->n_layers && cut->n_kv == e->n_kv && cut->n_heads == e->n_heads &&
        cut->segment_bytes == cut->row_bytes)
        fit_blocks(e, chunk_bytes, cut);
    cut->skip_rows = (uint32_t)skip_of(e, cut);
    parts[0] = div_up(cut->skip_rows + e->run_rows, cut->n_rows);
    parts[1] = div_up(e->n_layers, cut->n_layers);
    parts[2] = div_up(e->n_kv, cut->n_kv);
    parts[3] = div_up(e->n_heads, cut->n_heads);
    parts[4] = div_up(cut->row_bytes, cut->segment_bytes);
    for (unsigned i = 0; i < KVFI_ARRAY_LEN(parts); i++) {
        if (parts[i] > UINT32_MAX || __builtin_mul_overflow(n, parts[i], &n))
            return UINT64_MAX;
    }
    cut->row_parts = (uint32_t)parts[0];
    cut->layer_parts = (uint32_t)parts[1];
    cut->kv_parts = (uint32_t)parts[2];
    cut->head_parts = (uint32_t)parts[3];
    cut->segments = (uint32_t)parts[4];
    return n;
}

kvf_status_t kvfi_chunk_map_init(struct kvfi_plan *plan, const struct kvfi_rank_geometry *src,
                                 const struct kvfi_rank_geometry *dst, uint32_t chunk_bytes,
                                 char *text, size_t text_cap, struct kvfi_chunk_map *ret_map)
{
    struct kvfi_chunk_cut *cuts = NULL;
    uint64_t n_chunks = 0;

    (void)src; /* both ends must cut alike, and only the receiver's layout counts */
    if (chunk_bytes == 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "chunk_bytes is 0");
    if (plan->n_entries > 0) {
        cuts = kvfi_calloc(plan->n_entries, sizeof(*cuts));
        if (!cuts)
            return kvfi_refuse(text, text_cap, KVF_ENOMEM, "no memory to cut a plan of %u entries",
                               plan->n_entries);
    }
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct kvfi_plan_entry *e = &plan->entries[i];
        uint64_t n = cut_entry(e, &dst->pools[e->dst_pool], chunk_bytes, &cuts[i]);

        cuts[i].first_chunk = (uint32_t)n_chunks;
        if (n > UINT32_MAX - n_chunks) {
            kvfi_free(cuts);
            return kvfi_refuse(text, text_cap, KVF_ENOSPC,
                               "%llu bytes in chunks of %u are more than %u chunks",
                               (unsigned long long)plan->bytes, chunk_bytes, UINT32_MAX);
        }
        n_chunks += n;
    }
    *ret_map = (struct kvfi_chunk_map){
        .plan = *plan,
        .cuts = cuts,
        .n_chunks = (uint32_t)n_chunks,
        .chunk_bytes = chunk_bytes,
        .bytes = plan->bytes,
    };
    *plan = (struct kvfi_plan){0};
    return KVF_OK;
}

void kvfi_chunk_map_fini(struct kvfi_chunk_map *map)
{
    if (!map)
        return;
    kvfi_free(map->cuts);
    kvfi_plan_fini(&map->plan);
    *map = (struct kvfi_chunk_map){0};
}

/* ---- finding ------------------------------------------------------------------------------ */

/* The next digit of a chunk's number. Most axes have one part, and dividing is slow. */
static uint32_t digit(uint32_t *number, uint32_t base)
{
    uint32_t d;

    if (base == 1)
        return 0;
    d = *number % base;
    *number /= base;
    return d;
}

/* Part number i of n in parts of `part`; returns where it begins. */
static uint32_t part_at(uint32_t i, uint32_t part, uint32_t n, uint32_t *ret_n)
{
    uint32_t begin = i * part;

    *ret_n = n - begin < part ? n - begin : part;
    return begin;
}

static void find_box(const struct kvfi_chunk_map *map, uint32_t chunk, struct box *ret_box)
{
    uint32_t lo = 0;
    uint32_t hi = map->plan.n_entries;
    const struct kvfi_chunk_cut *cut;
    const struct kvfi_plan_entry *e;
    uint32_t number;
    uint64_t row_end;
    struct box b;

    assert(chunk < map->n_chunks);
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (map->cuts[mid].first_chunk <= chunk)
            lo = mid;
        else
            hi = mid;
    }
    b.cut = cut = &map->cuts[lo];
    b.entry = e = &map->plan.entries[lo];
    number = chunk - cut->first_chunk;
    b.byte = cut->segment_bytes * digit(&number, cut->segments);
    b.n_bytes = kvfi_min_u64(cut->segment_bytes, cut->row_bytes - b.byte);
    b.head = part_at(digit(&number, cut->head_parts), cut->n_heads, e->n_heads, &b.n_heads);
    b.kv = part_at(digit(&number, cut->kv_parts), cut->n_kv, e->n_kv, &b.n_kv);
    b.layer = part_at(digit(&number, cut->layer_parts), cut->n_layers, e->n_layers, &b.n_layers);
    b.row = cut->n_rows * digit(&number, cut->row_parts);
    row_end = kvfi_min_u64(b.row + cut->n_rows - cut->skip_rows, e->run_rows);
    b.row -= b.row ? cut->skip_rows : 0;
    b.n_rows = row_end - b.row;
    b.run = number;
    *ret_box = b;
}

uint32_t kvfi_chunk_bytes(const struct kvfi_chunk_map *map, uint32_t chunk)
{
    struct box b;

    find_box(map, chunk, &b);
    return (uint32_t)(b.n_bytes * b.n_rows * b.n_heads * b.n_kv * b.n_layers);
}

/* Local row of the box's first row at the receiver or the sender. */
static uint64_t first_row(const struct box *b, enum kvfi_copy_kind kind)
{
    const struct kvfi_plan_entry *e = b->entry;

    return b->row + (kind == KVFI_COPY_UNPACK ? e->dst_row + b->run * e->dst_step
                                              : e->src_row + b->run * e->src_step);
}

static struct kvfi_paged paged_side(const struct box *b, enum kvfi_copy_kind kind,
                                    const struct kvfi_pool_memory *pool,
                                    const struct kvfi_block_table *table)
{
    const struct kvfi_pool_geometry *g = pool->geometry;
    const struct kvfi_plan_entry *e = b->entry;
    bool unpack = kind == KVFI_COPY_UNPACK;
    uint32_t layer = b->layer + (unpack ? e->dst_layer : e->src_layer);
    uint32_t kv = b->kv + (unpack ? e->dst_kv : e->src_kv);
    uint32_t head = b->head + (unpack ? e->dst_head : e->src_head);
    bool separate = pool->n_bases > 1;

    return (struct kvfi_paged){
        .bases = pool->bases + (separate ? layer * g->n_kv + kv : 0),
        .base_layer_step = separate ? g->n_kv : 0,
        .base_kv_step = separate ? 1 : 0,
        .blocks = table->blocks,
        .block_rows = g->block_tokens / g->tokens_per_row,
        .first_block = table->first_block,
        .row0 = first_row(b, kind),
        .offset =
            layer * pool->stride_layer + kv * pool->stride_kv + head * pool->stride_head + b->byte,
        .stride_block = pool->stride_block,
        .stride_layer = pool->stride_layer,
        .stride_kv = pool->stride_kv,
        .stride_head = pool->stride_head,
        .stride_row = pool->stride_row,
    };
}

void kvfi_chunk_job(const struct kvfi_chunk_map *map, uint32_t chunk, enum kvfi_copy_kind kind,
                    const struct kvfi_pool_memory *pools, const struct kvfi_block_table *tables,
                    void *dense, struct kvfi_copy_job *ret_job)
{
    const struct kvfi_pool_memory *pool;
    struct kvfi_paged side;
    struct box b;

    assert(kind == KVFI_COPY_PACK || kind == KVFI_COPY_UNPACK);
    find_box(map, chunk, &b);
    pool = &pools[kind == KVFI_COPY_UNPACK ? b.entry->dst_pool : b.entry->src_pool];
    side = paged_side(&b, kind, pool, &tables[pool->geometry->group]);
    *ret_job = (struct kvfi_copy_job){
        .kind = kind,
        .n_layers = b.n_layers,
        .n_kv = b.n_kv,
        .n_heads = b.n_heads,
        .n_rows = (uint32_t)b.n_rows,
        .wire_block_rows = b.cut->dst_block_rows,
        .wire_row0 = first_row(&b, KVFI_COPY_UNPACK),
        .row_bytes = b.n_bytes,
        .dense = (uint64_t)(uintptr_t)dense,
    };
    memcpy(ret_job->order, b.cut->order, sizeof(ret_job->order));
    if (kind == KVFI_COPY_UNPACK)
        ret_job->dst = side;
    else
        ret_job->src = side;
}

void kvfi_chunk_blocks(const struct kvfi_chunk_map *map, uint32_t chunk, enum kvfi_copy_kind kind,
                       const struct kvfi_pool_memory *pools, uint32_t *ret_group,
                       uint64_t *ret_first, uint64_t *ret_end)
{
    const struct kvfi_pool_geometry *g;
    uint32_t block_rows;
    uint64_t row;
    struct box b;

    find_box(map, chunk, &b);
    g = pools[kind == KVFI_COPY_UNPACK ? b.entry->dst_pool : b.entry->src_pool].geometry;
    block_rows = g->block_tokens / g->tokens_per_row;
    row = first_row(&b, kind);
    *ret_group = g->group;
    *ret_first = row / block_rows;
    *ret_end = (row + b.n_rows - 1) / block_rows + 1;
}
