/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the geometry of whole instances, with ranks in an order no formula gives. */
#ifndef KVFERRY_TESTS_INSTANCES_H
#define KVFERRY_TESTS_INSTANCES_H

#include <stdbool.h>
#include <string.h>

#include "collectives/util.h"
#include "harness.h"
#include "plugin/geometry.h"

struct topology {
    uint32_t pp;
    uint32_t dp;
    uint32_t tp;
    uint32_t cp;
    uint32_t interleave; /* cp > 1 */
    uint32_t n_layers;
    uint32_t n_heads;
    uint32_t block_tokens;
    uint32_t tokens_per_row;
    uint32_t token_atom;
    uint32_t head_atom;
    uint32_t row_bytes;
    bool split_kv;     /* pools KEY and VALUE instead of KV */
    bool latent;       /* one pool LATENT */
    bool groups;       /* layers 1, 4, 7, ... in a group of their own */
    bool state;        /* a PER_REQUEST pool as well, in group 2 */
    bool uneven;       /* stages of any size, and next stages' first layers held twice */
    bool spread_heads; /* odd tp ranks hold a head more */
    bool shuffle;      /* rank numbers at random */
};

#define TOPOLOGY_INIT                                                                              \
    {                                                                                              \
        .pp = 1, .dp = 1, .tp = 1, .cp = 1, .n_layers = 4, .n_heads = 4, .block_tokens = 8,        \
        .tokens_per_row = 1, .token_atom = 1, .head_atom = 1, .row_bytes = 16                      \
    }

/* Two of everything, and pools of every kind. */
static inline struct topology topology_mixed(void)
{
    struct topology t = TOPOLOGY_INIT;

    t.pp = t.tp = t.cp = 2;
    t.interleave = 16;
    t.groups = t.state = t.split_kv = t.shuffle = true;
    t.n_layers = 12;
    return t;
}

static inline struct kvfi_pool_geometry *topology_pool(const struct topology *t,
                                                       struct kvfi_rank_geometry *rank,
                                                       uint32_t role, const uint32_t *layers,
                                                       uint32_t n_layers)
{
    struct kvfi_pool_geometry *pool = &rank->pools[rank->n_pools];

    if (n_layers == 0)
        return pool;
    rank->n_pools++;
    *pool = (struct kvfi_pool_geometry){
        .role = role,
        .n_blocks = 64,
        .block_tokens = t->block_tokens,
        .tokens_per_row = t->tokens_per_row,
        .token_atom = t->token_atom,
        .n_kv = role == KVF_POOL_KV ? 2 : 1,
        .row_bytes = t->row_bytes,
        .n_heads = 1,
        .n_heads_total = 1,
        .head_atom = 1,
        .n_layers = n_layers,
        .format = "bf16",
        .order = {KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_HEAD, KVFI_AXIS_ROW},
    };
    if (role != KVF_POOL_LATENT) {
        uint32_t end;

        pool->first_head = rank->place.tp_rank * t->n_heads / t->tp;
        end = (rank->place.tp_rank + 1) * t->n_heads / t->tp;
        end += t->spread_heads && rank->place.tp_rank % 2 == 1;
        if (end <= pool->first_head)
            end = pool->first_head + 1;
        if (end > t->n_heads)
            end = t->n_heads;
        pool->n_heads = end - pool->first_head;
        pool->n_heads_total = t->n_heads;
        pool->head_atom = t->head_atom;
    }
    pool->layers = kvfi_calloc(n_layers, sizeof(*pool->layers));
    ck_assert_ptr_nonnull(pool->layers);
    memcpy(pool->layers, layers, n_layers * sizeof(*layers));
    return pool;
}

static inline void topology_pools(const struct topology *t, struct kvfi_rank_geometry *rank,
                                  uint32_t first_layer, uint32_t end_layer)
{
    uint32_t layers[2][64];
    uint32_t n[2] = {0, 0};

    for (uint32_t l = first_layer; l < end_layer; l++) {
        uint32_t group = t->groups && l % 3 == 1;

        layers[group][n[group]++] = l;
    }
    rank->pools = kvfi_calloc(8, sizeof(*rank->pools));
    ck_assert_ptr_nonnull(rank->pools);
    for (uint32_t group = 0; group < 2; group++) {
        if (t->latent) {
            topology_pool(t, rank, KVF_POOL_LATENT, layers[group], n[group])->group = group;
        } else if (t->split_kv) {
            topology_pool(t, rank, KVF_POOL_KEY, layers[group], n[group])->group = group;
            topology_pool(t, rank, KVF_POOL_VALUE, layers[group], n[group])->group = group;
        } else {
            topology_pool(t, rank, KVF_POOL_KV, layers[group], n[group])->group = group;
        }
    }
    if (t->state) {
        struct kvfi_pool_geometry *pool = topology_pool(t, rank, KVF_POOL_STATE, layers[0], n[0]);

        pool->group = 2;
        pool->flags = KVF_POOL_PER_REQUEST;
        pool->block_tokens = pool->tokens_per_row = pool->token_atom = 1;
        pool->row_bytes = 3 * t->row_bytes;
    }
}

/* An instance; ends with kvfi_instance_geometry_fini(). */
static inline struct kvfi_instance_geometry topology_build(const struct topology *t,
                                                           const char *name)
{
    struct kvfi_instance_geometry in = {.n_ranks = t->pp * t->dp * t->tp * t->cp};
    uint32_t bounds[65] = {0};
    uint32_t order[256];

    ck_assert_uint_le(in.n_ranks, KVFI_ARRAY_LEN(order));
    (void)snprintf(in.name, sizeof(in.name), "%s", name);
    in.ranks = kvfi_calloc(in.n_ranks, sizeof(*in.ranks));
    ck_assert_ptr_nonnull(in.ranks);
    for (uint32_t p = 0; p <= t->pp; p++)
        bounds[p] = p * t->n_layers / t->pp;
    for (uint32_t p = 1; t->uneven && p < t->pp; p++)
        bounds[p] = bounds[p - 1] + rnd(t->n_layers - bounds[p - 1] + 1);
    for (uint32_t i = 0; i < in.n_ranks; i++) {
        uint32_t j = t->shuffle ? rnd(i + 1) : i;

        order[i] = i;
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t i = 0; i < in.n_ranks; i++) {
        struct kvfi_rank_geometry *rank = &in.ranks[order[i]];
        uint32_t pp_rank = i / t->tp / t->cp / t->dp;
        uint32_t end = bounds[pp_rank + 1];

        rank->place = (struct kvf_place){
            .size = sizeof(rank->place),
            .rank = order[i],
            .n_ranks = in.n_ranks,
            .pp_rank = pp_rank,
            .pp_size = t->pp,
            .dp_group = i / t->tp / t->cp % t->dp,
            .n_dp_groups = t->dp,
            .tp_rank = i / t->cp % t->tp,
            .tp_size = t->tp,
            .cp_rank = i % t->cp,
            .cp_size = t->cp,
            .cp_interleave_tokens = t->interleave,
        };
        if (t->uneven && end < t->n_layers && end > bounds[pp_rank])
            end++;
        topology_pools(t, rank, bounds[pp_rank], end);
    }
    return in;
}

#endif
