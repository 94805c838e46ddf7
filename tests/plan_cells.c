/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_cells.h"

#include <stdlib.h>

/* ---- the definitions ---- */

static bool token_lies_on(const struct kvf_place *place, uint64_t token)
{
    return place->cp_size == 1 ||
           token / place->cp_interleave_tokens % place->cp_size == place->cp_rank;
}

bool per_request(const struct kvfi_pool_geometry *pool)
{
    return (pool->flags & KVF_POOL_PER_REQUEST) != 0;
}

/* A row lies where its tokens lie; valid topologies split no row. */
static bool row_lies_on(const struct kvfi_pool_geometry *pool, const struct kvf_place *place,
                        uint64_t q)
{
    return per_request(pool) ? q == 0 : token_lies_on(place, q * pool->tokens_per_row);
}

bool row_in_range(const struct kvfi_pool_geometry *pool, const struct kvf_token_range *range,
                  uint64_t q)
{
    if (per_request(pool))
        return q == 0 && range->begin < range->end;
    for (uint64_t t = q * pool->tokens_per_row; t < (q + 1) * pool->tokens_per_row; t++) {
        if (t >= range->begin && t < range->end)
            return true;
    }
    return false;
}

static uint64_t lcm(uint64_t a, uint64_t b)
{
    uint64_t r = a;

    while (r % b)
        r += a;
    return r;
}

uint64_t deciding_token(const struct kvfi_pool_geometry *pool, const struct kvf_token_range *range,
                        uint64_t atom, uint64_t q)
{
    uint64_t end = (q * pool->tokens_per_row / atom + 1) * atom;

    return (per_request(pool) || end > range->end ? range->end : end) - 1;
}

uint32_t plain_role(const struct kvfi_pool_geometry *pool, uint32_t kv)
{
    if (pool->role != KVF_POOL_KV)
        return pool->role;
    return kv == 0 ? KVF_POOL_KEY : KVF_POOL_VALUE;
}

const struct kvfi_pool_geometry *lane_pool(const struct lane *lane)
{
    return &lane->rank->pools[lane->pool];
}

const struct oracle_pool *lane_rows(const struct lane *lane)
{
    return &lane->rows->pools[lane->pool];
}

bool lane_nth(struct lane *lane, uint32_t i)
{
    const struct kvfi_pool_geometry *pool = lane_pool(lane);

    lane->head = i % pool->n_heads;
    lane->kv = i / pool->n_heads % pool->n_kv;
    lane->layer = i / pool->n_heads / pool->n_kv;
    return lane->layer < pool->n_layers;
}

bool same_lane(const struct lane *a, const struct lane *b)
{
    const struct kvfi_pool_geometry *x = lane_pool(a);
    const struct kvfi_pool_geometry *y = lane_pool(b);

    return plain_role(x, a->kv) == plain_role(y, b->kv) &&
           x->layers[a->layer] == y->layers[b->layer] &&
           x->first_head + a->head == y->first_head + b->head;
}

/* ---- tables ---- */

static void map_pool(const struct kvfi_pool_geometry *pool, const struct kvf_place *place,
                     uint64_t n_tokens, struct oracle_pool *ret)
{
    ret->n_q = per_request(pool) ? 1 : (uint32_t)(n_tokens / pool->tokens_per_row);
    ret->row_of_q = must_calloc(ret->n_q, sizeof(*ret->row_of_q));
    ret->q_of_row = must_calloc(ret->n_q, sizeof(*ret->q_of_row));
    ret->n_rows = 0;
    for (uint32_t q = 0; q < ret->n_q; q++) {
        ret->row_of_q[q] = NO_ROW;
        if (!row_lies_on(pool, place, q))
            continue;
        ret->row_of_q[q] = ret->n_rows;
        ret->q_of_row[ret->n_rows++] = q;
    }
}

/* Some tokens past all ranges exist too, so that a plan that takes them is seen. */
uint64_t tokens_mapped(const struct topo *t)
{
    uint64_t n = 0;

    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        if (n < t->ranges[g].end)
            n = t->ranges[g].end;
    }
    return n + 12;
}

struct oracle_rank *map_side(const struct topo *t, const struct kvfi_instance_geometry *instance)
{
    struct oracle_rank *ranks = must_calloc(instance->n_ranks, sizeof(*ranks));

    for (uint32_t r = 0; r < instance->n_ranks; r++) {
        const struct kvfi_rank_geometry *g = &instance->ranks[r];

        ranks[r].pools = must_calloc(g->n_pools, sizeof(*ranks[r].pools));
        for (uint32_t p = 0; p < g->n_pools; p++) {
            const struct kvfi_pool_geometry *pool = &g->pools[p];
            struct oracle_pool *map = &ranks[r].pools[p];

            map_pool(pool, &g->place, tokens_mapped(t), map);
            map->first_cell = ranks[r].n_cells;
            ranks[r].n_cells += pool->n_layers * pool->n_kv * pool->n_heads * map->n_rows;
        }
    }
    return ranks;
}

void free_side(const struct kvfi_instance_geometry *instance, struct oracle_rank *ranks)
{
    for (uint32_t r = 0; r < instance->n_ranks; r++) {
        for (uint32_t p = 0; p < instance->ranks[r].n_pools; p++) {
            free(ranks[r].pools[p].row_of_q);
            free(ranks[r].pools[p].q_of_row);
        }
        free(ranks[r].pools);
    }
    free(ranks);
}

uint32_t cell_of(const struct lane *lane, uint32_t row)
{
    const struct kvfi_pool_geometry *pool = lane_pool(lane);
    const struct oracle_pool *map = lane_rows(lane);

    return map->first_cell +
           ((lane->layer * pool->n_kv + lane->kv) * pool->n_heads + lane->head) * map->n_rows + row;
}

void find_holders(const struct kvfi_instance_geometry *src, const struct oracle_rank *src_ranks,
                  uint32_t src_dp, const struct lane *want, struct holders *ret)
{
    ret->n = 0;
    for (uint32_t r = 0; r < src->n_ranks; r++) {
        struct lane at = {.rank = &src->ranks[r], .rows = &src_ranks[r]};

        if (at.rank->place.dp_group != src_dp)
            continue;
        for (at.pool = 0; at.pool < at.rank->n_pools; at.pool++) {
            for (uint32_t i = 0; lane_nth(&at, i); i++) {
                if (!same_lane(want, &at))
                    continue;
                if (ret->n == HOLDERS_MAX)
                    abort();
                ret->at[ret->n++] = at;
            }
        }
    }
}

struct replicas find_replicas(const struct holders *holders, const struct lane *to, uint32_t q,
                              int32_t from)
{
    struct replicas r = {.me = UINT32_MAX, .atom = lane_pool(to)->token_atom};

    for (uint32_t i = 0; i < holders->n; i++) {
        const struct lane *at = &holders->at[i];

        if (lane_rows(at)->row_of_q[q] == NO_ROW)
            continue;
        if ((int32_t)at->rank->place.rank == from) {
            r.me = r.n;
            r.group = lane_pool(at)->group;
        }
        r.atom = lcm(r.atom, lane_pool(at)->token_atom);
        r.n++;
    }
    return r;
}
