/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/shape.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "collectives/util.h"

#define POOL_ALIGN_BYTES (2u << 20) /* of a huge page */

/* Layers of a pipeline stage: consecutive, the first stages take one more where it is uneven. */
static void stage_layers(const struct model *model, const struct kvf_place *place,
                         uint32_t *ret_first, uint32_t *ret_end)
{
    uint32_t each = model->n_layers / place->pp_size;
    uint32_t more = model->n_layers % place->pp_size;
    uint32_t stage = place->pp_rank;

    *ret_first = stage * each + (stage < more ? stage : more);
    *ret_end = *ret_first + each + (stage < more ? 1 : 0);
}

static bool check_fit(const struct model *model, const struct topology *t, struct tool_error *error)
{
    if (t->pp > model->n_layers)
        return tool_fail(error, "%s: pp is %" PRIu32 ", model \"%s\" has %" PRIu32 " layers",
                         t->text, t->pp, model->name, model->n_layers);
    if (t->tp <= model->n_heads ? model->n_heads % t->tp : t->tp % model->n_heads)
        return tool_fail(error,
                         "%s: tp is %" PRIu32 ", model \"%s\" has %" PRIu32
                         " heads: one must divide the other",
                         t->text, t->tp, model->name, model->n_heads);
    return true;
}

/* Heads of a rank; where there are more ranks than heads each head is on several. */
static void rank_heads(const struct model *model, const struct kvf_place *place,
                       struct shape_pool *pool)
{
    pool->n_heads_total = model->n_heads;
    if (place->tp_size <= model->n_heads) {
        pool->n_heads = model->n_heads / place->tp_size;
        pool->first_head = place->tp_rank * pool->n_heads;
    } else {
        pool->n_heads = 1;
        pool->first_head = place->tp_rank / (place->tp_size / model->n_heads);
    }
}

static void pool_strides(const struct shape *s, struct shape_pool *pool)
{
    uint64_t row = pool->row_bytes;

    pool->stride_row = s->is_token_major ? row * pool->n_heads : row;
    pool->stride_head = s->is_token_major ? row : row * s->block_tokens;
    pool->stride_kv = row * pool->n_heads * s->block_tokens;
    pool->stride_block = pool->stride_kv * pool->n_kv;
}

static bool add_pool(const struct model *model, uint32_t group, struct shape *s,
                     struct tool_error *error)
{
    struct shape_pool *pool = &s->pools[s->n_pools];
    uint32_t first;
    uint32_t end;

    stage_layers(model, &s->place, &first, &end);
    pool->layers = kvfi_calloc(model->n_layers, sizeof(*pool->layers));
    if (!pool->layers)
        return tool_fail(error, "out of memory");
    s->n_pools++;
    for (uint32_t l = first; l < end; l++) {
        if (model->group_of_layer[l] == group)
            pool->layers[pool->n_layers++] = l;
    }
    if (pool->n_layers == 0) {
        kvfi_free(pool->layers);
        *pool = (struct shape_pool){0};
        s->n_pools--;
        return true;
    }
    pool->group = group;
    pool->role = model->is_mla ? KVF_POOL_LATENT : KVF_POOL_KV;
    pool->n_kv = model->n_kv;
    pool->row_bytes = model->row_bytes;
    rank_heads(model, &s->place, pool);
    pool_strides(s, pool);
    return true;
}

bool shape_init(const struct model *model, const struct topology *topology,
                const struct shape_options *options, uint32_t rank, struct tool_error *error,
                struct shape *ret_shape)
{
    struct shape s = {.block_tokens = options->block_tokens,
                      .is_token_major = options->is_token_major};
    uint32_t interleave =
        options->cp_interleave_tokens ? options->cp_interleave_tokens : options->block_tokens;
    bool ok = check_fit(model, topology, error);

    topology_place(topology, rank, interleave, &s.place);
    for (uint32_t g = 0; ok && g < model->n_groups; g++)
        ok = add_pool(model, g, &s, error);
    *ret_shape = s;
    return ok;
}

void shape_fini(struct shape *shape)
{
    for (uint32_t i = 0; i < shape->n_pools; i++) {
        kvfi_free(shape->pools[i].layers);
        kvfi_free(shape->pools[i].memory);
    }
    *shape = (struct shape){0};
}

uint64_t shape_pool_block_bytes(const struct shape_pool *pool)
{
    return pool->stride_block * pool->n_layers;
}

void shape_pool_set_blocks(struct shape_pool *pool, uint32_t n_blocks)
{
    pool->n_blocks = n_blocks;
    pool->stride_layer = pool->stride_block * n_blocks;
}

bool shape_pool_alloc(struct shape_pool *pool, struct tool_error *error)
{
    size_t n_bytes;
    uintptr_t at;

    if (!kvfi_mul_size(shape_pool_block_bytes(pool), pool->n_blocks, &n_bytes) ||
        n_bytes > SIZE_MAX - POOL_ALIGN_BYTES)
        return tool_fail(error, "a pool of %" PRIu32 " blocks does not fit in memory",
                         pool->n_blocks);
    pool->memory = kvfi_calloc(1, n_bytes + POOL_ALIGN_BYTES);
    if (!pool->memory)
        return tool_fail(error, "no memory for a pool of %zu bytes", n_bytes);
    at = (uintptr_t)pool->memory;
    pool->base = (char *)pool->memory + (POOL_ALIGN_BYTES - at % POOL_ALIGN_BYTES);
    /* A cache is resident before its first request: its page faults belong to no transfer. */
    (void)madvise(pool->base, n_bytes, MADV_HUGEPAGE);
    memset(pool->base, 0, n_bytes);
    return true;
}

void shape_pool_desc(const struct shape *shape, struct shape_pool *pool, const char *format,
                     struct kvf_pool_desc *ret_desc)
{
    *ret_desc = (struct kvf_pool_desc){
        .size = sizeof(*ret_desc),
        .group = pool->group,
        .role = pool->role,
        .memory = KVF_MEMORY_HOST,
        .format = format,
        .n_blocks = pool->n_blocks,
        .block_tokens = shape->block_tokens,
        .row_bytes = pool->row_bytes,
        .n_kv = pool->n_kv,
        .n_layers = pool->n_layers,
        .layers = pool->layers,
        .n_heads = pool->n_heads,
        .first_head = pool->first_head,
        .n_heads_total = pool->n_heads_total,
        .stride_block = pool->stride_block,
        .stride_layer = pool->stride_layer,
        .stride_kv = pool->stride_kv,
        .stride_head = pool->stride_head,
        .stride_row = pool->stride_row,
        .n_bases = 1,
        .bases = &pool->base,
    };
}

unsigned char *shape_row(const struct shape_pool *pool, uint32_t block, uint32_t layer, uint32_t kv,
                         uint32_t head, uint32_t row)
{
    return (unsigned char *)pool->base + block * pool->stride_block + layer * pool->stride_layer +
           kv * pool->stride_kv + head * pool->stride_head + row * pool->stride_row;
}

uint64_t shape_local_tokens(const struct shape *shape, uint64_t n_tokens)
{
    const struct kvf_place *p = &shape->place;
    uint64_t cycle = (uint64_t)p->cp_interleave_tokens * p->cp_size;
    uint64_t begin;
    uint64_t rest;

    if (p->cp_size <= 1)
        return n_tokens;
    begin = (uint64_t)p->cp_interleave_tokens * p->cp_rank;
    rest = n_tokens % cycle;
    rest = rest > begin ? kvfi_min_u64(rest - begin, p->cp_interleave_tokens) : 0;
    return n_tokens / cycle * p->cp_interleave_tokens + rest;
}

uint64_t shape_global_token(const struct shape *shape, uint64_t local)
{
    const struct kvf_place *p = &shape->place;
    uint64_t unit = p->cp_interleave_tokens;

    if (p->cp_size <= 1)
        return local;
    return (local / unit * p->cp_size + p->cp_rank) * unit + local % unit;
}

struct shape_blocks shape_blocks_of(const struct shape *shape, struct kvf_token_range tokens)
{
    uint64_t begin = shape_local_tokens(shape, tokens.begin);
    uint64_t end = shape_local_tokens(shape, tokens.end);
    struct shape_blocks blocks = {.first = (uint32_t)(begin / shape->block_tokens)};

    if (end > begin)
        blocks.n = (uint32_t)((end + shape->block_tokens - 1) / shape->block_tokens) - blocks.first;
    return blocks;
}

uint64_t shape_range_bytes(const struct shape *shape, const struct shape_pool *pool,
                           struct kvf_token_range tokens)
{
    uint64_t n = shape_local_tokens(shape, tokens.end) - shape_local_tokens(shape, tokens.begin);

    return n * pool->row_bytes * pool->n_heads * pool->n_kv * pool->n_layers;
}
