/* SPDX-License-Identifier: Apache-2.0 */
/* Block lists: copied from the caller, checked, and accounted against max_blocks. */
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

/* The i-th element of an array whose stride is its first element's size. */
static const struct kvf_group_blocks *group_at(const struct kvf_group_blocks *groups, uint32_t i)
{
    return (const struct kvf_group_blocks *)(const void *)((const char *)groups +
                                                           (size_t)i * groups->size);
}

/* Tokens before t that lie on this rank. */
static uint64_t local_tokens(const struct kvf_place *place, uint64_t t)
{
    uint64_t unit = place->cp_interleave_tokens;
    uint64_t period;
    uint64_t rest;
    uint64_t first;

    if (place->cp_size <= 1)
        return t;
    period = unit * place->cp_size;
    rest = t % period;
    first = unit * place->cp_rank;
    return t / period * unit + (rest <= first ? 0 : kvfi_min_u64(rest - first, unit));
}

static const struct kvf_pool *pool_of_group(const struct kvf_engine *engine, uint32_t group)
{
    for (uint32_t i = 0; i < engine->n_pools; i++) {
        if (engine->pools[i].used && engine->pools[i].geometry.group == group)
            return &engine->pools[i];
    }
    return NULL;
}

static uint32_t blocks_of_group(const struct kvf_engine *engine, uint32_t group)
{
    uint32_t n = UINT32_MAX;

    for (uint32_t i = 0; i < engine->n_pools; i++) {
        if (engine->pools[i].used && engine->pools[i].geometry.group == group &&
            engine->pools[i].geometry.n_blocks < n)
            n = engine->pools[i].geometry.n_blocks;
    }
    return n;
}

/* A receiver's range must lie in its blocks; a sender's is checked against what is wanted. */
static kvf_status_t check_range(const struct kvf_engine *engine, const struct kvf_group_blocks *g,
                                const struct kvf_pool *pool)
{
    uint64_t begin = local_tokens(&engine->config.place, g->tokens.begin);
    uint64_t end = local_tokens(&engine->config.place, g->tokens.end);
    uint64_t have_begin = (uint64_t)g->first_block * pool->geometry.block_tokens;
    uint64_t have_end = have_begin + (uint64_t)g->n_blocks * pool->geometry.block_tokens;

    if (pool->geometry.flags & KVF_POOL_PER_REQUEST) {
        if (g->tokens.begin < g->tokens.end && (g->n_blocks != 1 || g->first_block != 0))
            return kvfi_fail(KVF_EINVAL, "group %u has one slot a request, but %u blocks are given",
                             g->group, g->n_blocks);
        return KVF_OK;
    }
    if (begin < end && (begin < have_begin || end > have_end))
        return kvfi_fail(KVF_EINVAL,
                         "group %u wants this rank's tokens %llu to %llu, but its %u blocks hold "
                         "%llu to %llu",
                         g->group, (unsigned long long)begin, (unsigned long long)end, g->n_blocks,
                         (unsigned long long)have_begin, (unsigned long long)have_end);
    return KVF_OK;
}

static kvf_status_t check_group(const struct kvf_engine *engine, const struct kvf_group_blocks *g,
                                bool is_receive)
{
    const struct kvf_pool *pool;
    uint32_t limit;

    if (g->group >= KVF_GROUPS_MAX)
        return kvfi_fail(KVF_EINVAL, "group is %u, the highest is %u", g->group,
                         KVF_GROUPS_MAX - 1);
    pool = pool_of_group(engine, g->group);
    /* A rank without layers of a group still says the range that all ranks of a receiver want. */
    if (!pool && g->n_blocks > 0)
        return kvfi_fail(KVF_EINVAL,
                         "group %u has %u blocks, but no registered pool has that group", g->group,
                         g->n_blocks);
    if (g->n_blocks > 0 && !g->blocks)
        return kvfi_fail(KVF_EINVAL, "group %u: blocks is NULL, but n_blocks is %u", g->group,
                         g->n_blocks);
    if (g->tokens.begin > g->tokens.end)
        return kvfi_fail(KVF_EINVAL, "group %u: tokens begin at %llu, but end at %llu", g->group,
                         (unsigned long long)g->tokens.begin, (unsigned long long)g->tokens.end);
    limit = blocks_of_group(engine, g->group);
    for (uint32_t i = 0; i < g->n_blocks; i++) {
        if (g->blocks[i] >= limit && g->blocks[i] != KVF_NO_BLOCK)
            return kvfi_fail(KVF_EINVAL, "blocks[%u] of group %u is %u, but the pool has %u blocks",
                             i, g->group, g->blocks[i], limit);
    }
    return is_receive && pool ? check_range(engine, g, pool) : KVF_OK;
}

static kvf_status_t check_groups(const struct kvf_engine *engine,
                                 const struct kvf_group_blocks *groups, uint32_t n_groups,
                                 bool is_receive, uint32_t *ret_n_blocks)
{
    uint64_t n_blocks = 0;
    uint32_t previous = 0;

    if (n_groups > KVF_GROUPS_MAX)
        return kvfi_fail(KVF_EINVAL, "n_groups is %u, at most %u are allowed", n_groups,
                         KVF_GROUPS_MAX);
    if (n_groups > 0 && !groups)
        return kvfi_fail(KVF_EINVAL, "groups is NULL, but n_groups is %u", n_groups);
    if (n_groups > 0 && groups->size < sizeof(struct kvf_group_blocks))
        return kvfi_fail(KVF_EINVAL, "groups[0].size is %zu, expected %zu", groups->size,
                         sizeof(struct kvf_group_blocks));
    for (uint32_t i = 0; i < n_groups; i++) {
        const struct kvf_group_blocks *g = group_at(groups, i);
        kvf_status_t status = check_group(engine, g, is_receive);

        if (status)
            return status;
        if (i > 0 && g->group <= previous)
            return kvfi_fail(KVF_EINVAL, "groups[%u].group is %u after %u; they must rise", i,
                             g->group, previous);
        previous = g->group;
        n_blocks += g->n_blocks;
    }
    if (n_blocks > engine->config.max_blocks)
        return kvfi_fail(KVF_ENOSPC, "%llu blocks are given, max_blocks is %u",
                         (unsigned long long)n_blocks, engine->config.max_blocks);
    *ret_n_blocks = (uint32_t)n_blocks;
    return KVF_OK;
}

/* Take room in the block table. */
static bool take_blocks(struct kvf_engine *engine, uint32_t n)
{
    uint64_t used = atomic_load_explicit(&engine->n_blocks, memory_order_relaxed);

    /* relaxed: a count, nothing is ordered by it. */
    do {
        if (used + n > engine->config.max_blocks)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&engine->n_blocks, &used, used + n,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static void fill_extent(struct kvfi_extent *extent, const struct kvf_group_blocks *groups,
                        uint32_t n_groups)
{
    uint32_t *next = extent->blocks;

    for (uint32_t i = 0; i < n_groups; i++) {
        const struct kvf_group_blocks *g = group_at(groups, i);
        struct kvfi_block_table *t = &extent->tables[g->group];

        if (g->n_blocks > 0)
            memcpy(next, g->blocks, g->n_blocks * sizeof(*next));
        t->blocks = next;
        t->n_blocks = g->n_blocks;
        t->first_block = g->first_block;
        extent->box.tokens[g->group] = g->tokens;
        next += g->n_blocks;
    }
}

kvf_status_t kvfi_extent_new(struct kvf_engine *engine, const struct kvf_group_blocks *groups,
                             uint32_t n_groups, bool is_receive, struct kvfi_extent **ret_extent)
{
    struct kvfi_extent *extent;
    uint32_t n_blocks = 0;
    kvf_status_t status = check_groups(engine, groups, n_groups, is_receive, &n_blocks);

    if (status)
        return status;
    if (!take_blocks(engine, n_blocks))
        return kvfi_fail(KVF_ENOSPC, "%u more blocks do not fit, max_blocks is %u", n_blocks,
                         engine->config.max_blocks);
    extent = kvfi_calloc(1, sizeof(*extent) + n_blocks * sizeof(extent->blocks[0]));
    if (!extent) {
        (void)atomic_fetch_sub_explicit(&engine->n_blocks, n_blocks, memory_order_relaxed);
        return kvfi_fail(KVF_ENOMEM, "no memory for a list of %u blocks", n_blocks);
    }
    extent->n_blocks = n_blocks;
    extent->box.end_layer = KVF_LAYERS_ALL;
    fill_extent(extent, groups, n_groups);
    if (is_receive)
        status = kvfi_pools_check_disjoint(engine, extent);
    if (status) {
        kvfi_extent_free(engine, extent);
        return status;
    }
    *ret_extent = extent;
    return KVF_OK;
}

void kvfi_extent_free(struct kvf_engine *engine, struct kvfi_extent *extent)
{
    if (!extent)
        return;
    (void)atomic_fetch_sub_explicit(&engine->n_blocks, extent->n_blocks, memory_order_relaxed);
    kvfi_free(extent);
}

/* First block number a run of rows needs that the table lacks; UINT64_MAX if none. */
static uint64_t lacks(const struct kvfi_block_table *table, uint64_t row, uint64_t n_rows,
                      uint32_t block_rows)
{
    for (uint64_t b = row / block_rows; b <= (row + n_rows - 1) / block_rows; b++) {
        if (b < table->first_block || b - table->first_block >= table->n_blocks ||
            table->blocks[b - table->first_block] == KVF_NO_BLOCK)
            return b;
    }
    return UINT64_MAX;
}

kvf_status_t kvfi_extent_covers(struct kvf_engine *engine, const struct kvfi_extent *extent,
                                const struct kvfi_plan *plan, char *text, size_t text_cap)
{
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct kvfi_plan_entry *e = &plan->entries[i];
        const struct kvfi_pool_geometry *g = &engine->pools[e->src_pool].geometry;
        uint32_t block_rows = g->block_tokens / g->tokens_per_row;

        for (uint32_t run = 0; run < e->n_runs; run++) {
            uint64_t b = lacks(&extent->tables[g->group], e->src_row + run * e->src_step,
                               e->run_rows, block_rows);

            if (b != UINT64_MAX) {
                (void)snprintf(
                    text, text_cap,
                    "block number %llu of group %u is wanted, but the source gave "
                    "blocks %u to %u without it",
                    (unsigned long long)b, g->group, extent->tables[g->group].first_block,
                    extent->tables[g->group].first_block + extent->tables[g->group].n_blocks);
                return KVF_EINVAL;
            }
        }
    }
    return KVF_OK;
}

bool kvfi_boxes_overlap(const struct kvfi_extent_box *a, const struct kvfi_extent_box *b)
{
    if (a->first_layer >= b->end_layer || b->first_layer >= a->end_layer)
        return false;
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        if (a->tokens[g].begin < b->tokens[g].end && b->tokens[g].begin < a->tokens[g].end &&
            a->tokens[g].begin < a->tokens[g].end && b->tokens[g].begin < b->tokens[g].end)
            return true;
    }
    return false;
}

uint32_t kvfi_group_block_tokens(const struct kvf_engine *engine, uint32_t group)
{
    const struct kvf_pool *pool = pool_of_group(engine, group);

    return pool ? pool->geometry.block_tokens : 1;
}

void kvfi_extent_blocks(const struct kvf_engine *engine, uint32_t group,
                        const struct kvf_token_range *tokens, uint64_t *ret_first,
                        uint64_t *ret_end)
{
    const struct kvf_pool *pool = pool_of_group(engine, group);
    uint32_t block_tokens = kvfi_group_block_tokens(engine, group);

    if (pool && (pool->geometry.flags & KVF_POOL_PER_REQUEST)) {
        *ret_first = 0;
        *ret_end = 1;
        return;
    }
    *ret_first = local_tokens(&engine->config.place, tokens->begin) / block_tokens;
    *ret_end = (local_tokens(&engine->config.place, tokens->end) + block_tokens - 1) / block_tokens;
}
