/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The definitions of plugin/plan.h, done by hand: which rows lie where, who holds them, which token
 * decides. A lane is one (layer, kv, head) of a pool; a cell is a row of a lane of a rank.
 */
#ifndef KVFERRY_TESTS_PLAN_CELLS_H
#define KVFERRY_TESTS_PLAN_CELLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan_topologies.h"

#define NO_ROW UINT32_MAX

/* Which rows of a pool lie on the rank, and where: found by counting. */
struct oracle_pool {
    uint32_t n_q; /* rows of the request looked at, 0 .. n_q-1 */
    uint32_t *row_of_q;
    uint32_t n_rows;
    uint32_t *q_of_row;
    uint32_t first_cell; /* of the rank's cells */
};

struct oracle_rank {
    struct oracle_pool *pools;
    uint32_t n_cells;
};

/* One (layer, kv, head) of a pool, by local numbers. */
struct lane {
    const struct kvfi_rank_geometry *rank;
    const struct oracle_rank *rows;
    uint32_t pool;
    uint32_t layer;
    uint32_t kv;
    uint32_t head;
};

#define HOLDERS_MAX 64u
struct holders {
    uint32_t n;
    struct lane at[HOLDERS_MAX]; /* by rising rank */
};

/* The holders of one row. */
struct replicas {
    uint32_t n;
    uint32_t me;    /* number of the rank asked about among them, UINT32_MAX if none */
    uint32_t group; /* me's block table */
    uint64_t atom;  /* tokens that they and the destination keep whole */
};

bool per_request(const struct kvfi_pool_geometry *pool);
/* Any token of row q is in the range. */
bool row_in_range(const struct kvfi_pool_geometry *pool, const struct kvf_token_range *range,
                  uint64_t q);
/* The token that decides which extent a row belongs to. */
uint64_t deciding_token(const struct kvfi_pool_geometry *pool, const struct kvf_token_range *range,
                        uint64_t atom, uint64_t q);
/* Keys are keys, whether in a KEY or a KV pool. */
uint32_t plain_role(const struct kvfi_pool_geometry *pool, uint32_t kv);

const struct kvfi_pool_geometry *lane_pool(const struct lane *lane);
const struct oracle_pool *lane_rows(const struct lane *lane);
/* Set layer, kv and head to the i-th lane of the pool; false past the last. */
bool lane_nth(struct lane *lane, uint32_t i);
/* Both are the same (role, global layer, global head). */
bool same_lane(const struct lane *a, const struct lane *b);
uint32_t cell_of(const struct lane *lane, uint32_t row);

/* Tokens of the request that are looked at. */
uint64_t tokens_mapped(const struct topo *t);
/* Which rows lie where, for all ranks; free_side frees. */
struct oracle_rank *map_side(const struct topo *t, const struct kvfi_instance_geometry *instance);
void free_side(const struct kvfi_instance_geometry *instance, struct oracle_rank *ranks);

/* All ranks of the source's group that hold (role, layer, head), whichever rows. */
void find_holders(const struct kvfi_instance_geometry *src, const struct oracle_rank *src_ranks,
                  uint32_t src_dp, const struct lane *want, struct holders *ret);
/* Those of them that hold row q, and which of them is the rank `from`. */
struct replicas find_replicas(const struct holders *holders, const struct lane *to, uint32_t q,
                              int32_t from);

#endif
