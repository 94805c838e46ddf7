/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

/* What this rank's pools owe each other, the new one among them. */
static kvf_status_t fits_others(const struct kvf_engine *engine)
{
    struct kvfi_pool_geometry pools[KVFI_POOLS_MAX];
    struct kvfi_rank_geometry rank = {.place = engine->config.place, .pools = pools};
    char text[KVF_MESSAGE_MAX];
    kvf_status_t status;

    for (uint32_t i = 0; i <= engine->n_pools; i++)
        pools[rank.n_pools++] = engine->pools[i].geometry;
    status = kvfi_rank_check(&rank, text, sizeof(text));
    return status ? kvfi_fail(status, "%s", text) : KVF_OK;
}

static kvf_status_t fill_memory(struct kvf_pool *pool, const struct kvf_pool_desc *desc)
{
    struct kvfi_pool_memory *m = &pool->memory;

    m->geometry = &pool->geometry;
    m->n_bases = desc->n_bases;
    m->bases = kvfi_calloc(desc->n_bases, sizeof(*m->bases));
    if (!m->bases)
        return kvfi_fail(KVF_ENOMEM, "no memory for %u bases", desc->n_bases);
    for (uint32_t i = 0; i < desc->n_bases; i++)
        m->bases[i] = (uint64_t)(uintptr_t)desc->bases[i];
    m->stride_block = desc->stride_block;
    m->stride_layer = desc->stride_layer;
    m->stride_kv = desc->stride_kv;
    m->stride_head = desc->stride_head;
    m->stride_row = desc->stride_row;
    return KVF_OK;
}

static kvf_status_t register_locked(struct kvf_engine *engine, const struct kvf_pool_desc *desc,
                                    struct kvf_pool **ret_pool)
{
    struct kvf_pool *pool = &engine->pools[engine->n_pools];
    char text[KVF_MESSAGE_MAX];
    kvf_status_t status;

    if (engine->described)
        return kvfi_fail(KVF_ESTATE, "this rank was described already; register pools before");
    if (engine->n_pools == KVFI_POOLS_MAX)
        return kvfi_fail(KVF_ENOSPC, "there are %u pools already", KVFI_POOLS_MAX);
    memset(pool, 0, sizeof(*pool));
    status = kvfi_pool_init(desc, text, sizeof(text), &pool->geometry);
    if (status)
        return kvfi_fail(status, "%s", text);
    status = fits_others(engine);
    if (!status)
        status = fill_memory(pool, desc);
    if (status) {
        kvfi_pool_fini(&pool->geometry);
        return status;
    }
    pool->engine = engine;
    pool->index = engine->n_pools;
    pool->used = true;
    engine->pool_memory[pool->index] = pool->memory;
    engine->n_pools++;
    *ret_pool = pool;
    return KVF_OK;
}

kvf_status_t kvfi_pool_register(struct kvf_engine *engine, const struct kvf_pool_desc *desc,
                                struct kvf_pool **ret_pool)
{
    kvf_status_t status;

    if (desc->memory != engine->ops->memory)
        return kvfi_fail(KVF_EMISMATCH, "memory is kind %u, but fabric \"%s\" moves kind %u",
                         desc->memory, engine->ops->name, engine->ops->memory);
    (void)pthread_mutex_lock(&engine->lock);
    status = register_locked(engine, desc, ret_pool);
    (void)pthread_mutex_unlock(&engine->lock);
    return status;
}

static void fini_pool(struct kvf_pool *pool)
{
    if (!pool->used)
        return;
    kvfi_free(pool->memory.bases);
    kvfi_pool_fini(&pool->geometry);
    pool->used = false;
}

kvf_status_t kvfi_pool_unregister(struct kvf_engine *engine, struct kvf_pool *pool)
{
    kvf_status_t status = KVF_OK;

    (void)pthread_mutex_lock(&engine->lock);
    if (!pool->used)
        status = kvfi_fail(KVF_EINVAL, "the pool is not registered");
    else if (atomic_load_explicit(&engine->n_unfinished, memory_order_acquire) > 0)
        status = kvfi_fail(KVF_EBUSY, "%u unfinished tasks use the pools",
                           atomic_load_explicit(&engine->n_unfinished, memory_order_relaxed));
    else
        fini_pool(pool);
    (void)pthread_mutex_unlock(&engine->lock);
    return status;
}

void kvfi_pools_fini(struct kvf_engine *engine)
{
    for (uint32_t i = 0; i < engine->n_pools; i++)
        fini_pool(&engine->pools[i]);
}

/* ---- blocks that overlap ------------------------------------------------------------------- */

struct span {
    uint64_t begin;
    uint64_t end;
    uint32_t group;
    uint32_t block;
};

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a;
    const struct span *y = b;

    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Bytes from the first to past the last byte of what one block has under one base. */
static uint64_t unit_bytes(const struct kvfi_pool_memory *m, uint32_t n_layers, uint32_t n_kv)
{
    const struct kvfi_pool_geometry *g = m->geometry;
    uint64_t rows = g->block_tokens / g->tokens_per_row;

    return (n_layers - 1) * m->stride_layer + (n_kv - 1) * m->stride_kv +
           (g->n_heads - 1) * m->stride_head + (rows - 1) * m->stride_row + g->row_bytes;
}

/*
 * The spans of an extent's blocks in one pool. With one base a block is one span if its layers lie
 * inside the block, else a span a layer and kv.
 */
static size_t pool_spans(const struct kvf_pool *pool, const struct kvfi_block_table *table,
                         struct span *spans)
{
    const struct kvfi_pool_memory *m = &pool->memory;
    const struct kvfi_pool_geometry *g = &pool->geometry;
    bool whole = m->n_bases == 1 && unit_bytes(m, g->n_layers, g->n_kv) <= m->stride_block;
    uint32_t n_units = whole ? 1 : g->n_layers * g->n_kv;
    uint64_t n_bytes = whole ? unit_bytes(m, g->n_layers, g->n_kv) : unit_bytes(m, 1, 1);
    size_t n = 0;

    for (uint32_t b = 0; b < table->n_blocks; b++) {
        if (table->blocks[b] == KVF_NO_BLOCK)
            continue;
        for (uint32_t u = 0; u < n_units; u++) {
            uint64_t base = m->n_bases == 1 ? m->bases[0] + u / g->n_kv * m->stride_layer +
                                                  u % g->n_kv * m->stride_kv
                                            : m->bases[u];

            if (spans) {
                spans[n].begin = base + (uint64_t)table->blocks[b] * m->stride_block;
                spans[n].end = spans[n].begin + n_bytes;
                spans[n].group = g->group;
                spans[n].block = table->blocks[b];
            }
            n++;
        }
    }
    return n;
}

static size_t all_spans(const struct kvf_engine *engine, const struct kvfi_extent *extent,
                        struct span *spans)
{
    size_t n = 0;

    for (uint32_t i = 0; i < engine->n_pools; i++) {
        const struct kvf_pool *pool = &engine->pools[i];
        const struct kvfi_block_table *table = &extent->tables[pool->geometry.group];

        if (pool->used && table->n_blocks > 0)
            n += pool_spans(pool, table, spans ? spans + n : NULL);
    }
    return n;
}

/* Whether two pools can share bytes at all: separate allocations need no look at their blocks. */
static bool pools_alias(const struct kvf_engine *engine)
{
    uint64_t end[KVFI_POOLS_MAX];
    uint64_t begin[KVFI_POOLS_MAX];

    for (uint32_t i = 0; i < engine->n_pools; i++) {
        const struct kvfi_pool_memory *m = &engine->pools[i].memory;
        const struct kvfi_pool_geometry *g = &engine->pools[i].geometry;

        begin[i] = UINT64_MAX;
        end[i] = 0;
        for (uint32_t b = 0; b < m->n_bases; b++) {
            uint64_t top = m->bases[b] + (uint64_t)(g->n_blocks - 1) * m->stride_block +
                           unit_bytes(m, g->n_layers, g->n_kv);

            begin[i] = kvfi_min_u64(begin[i], m->bases[b]);
            end[i] = kvfi_max_u64(end[i], top);
        }
        for (uint32_t j = 0; j < i; j++) {
            if (begin[i] < end[j] && begin[j] < end[i])
                return true;
        }
    }
    return false;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static kvf_status_t check_repeats(const struct kvfi_extent *extent)
{
    uint32_t *sorted = kvfi_calloc(extent->n_blocks + 1u, sizeof(*sorted));
    kvf_status_t status = KVF_OK;

    if (!sorted)
        return kvfi_fail(KVF_ENOMEM, "no memory to check %u blocks", extent->n_blocks);
    for (uint32_t g = 0; g < KVF_GROUPS_MAX && !status; g++) {
        const struct kvfi_block_table *t = &extent->tables[g];

        if (t->n_blocks < 2)
            continue;
        memcpy(sorted, t->blocks, t->n_blocks * sizeof(*sorted));
        qsort(sorted, t->n_blocks, sizeof(*sorted), by_value);
        for (uint32_t i = 1; i < t->n_blocks && !status; i++) {
            if (sorted[i] == sorted[i - 1] && sorted[i] != KVF_NO_BLOCK)
                status = kvfi_fail(KVF_EINVAL, "block %u of group %u is named twice", sorted[i], g);
        }
    }
    kvfi_free(sorted);
    return status;
}

kvf_status_t kvfi_pools_check_disjoint(struct kvf_engine *engine, const struct kvfi_extent *extent)
{
    struct span *spans;
    size_t n;
    kvf_status_t status = check_repeats(extent);

    /* Blocks of one pool do not overlap (pool_register saw to it), so only aliases are left. */
    if (status || !pools_alias(engine))
        return status;
    n = all_spans(engine, extent, NULL);
    spans = kvfi_calloc(n + 1, sizeof(*spans));
    if (!spans)
        return kvfi_fail(KVF_ENOMEM, "no memory to check %zu block ranges", n);
    (void)all_spans(engine, extent, spans);
    qsort(spans, n, sizeof(*spans), by_begin);
    for (size_t i = 1; i < n && !status; i++) {
        if (spans[i].begin < spans[i - 1].end)
            status =
                kvfi_fail(KVF_EINVAL, "bytes of block %u of group %u overlap block %u of group %u",
                          spans[i - 1].block, spans[i - 1].group, spans[i].block, spans[i].group);
    }
    kvfi_free(spans);
    return status;
}
