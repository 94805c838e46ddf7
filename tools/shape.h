/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shape: what one rank of an instance holds of a model, and how its memory is laid out. Made from
 * the model and the topology only; the library learns it as pool descriptions.
 *
 * Memory of a pool: [layer][block][kv] and, within, [head][row] (head-major) or [row][head]
 * (token-major). One pool a group, keys and values together.
 */
#ifndef KVFERRY_TOOLS_SHAPE_H
#define KVFERRY_TOOLS_SHAPE_H

#include "kvferry/kvferry.h"
#include "tools/model.h"
#include "tools/topology.h"

struct shape_options {
    uint32_t block_tokens;
    bool is_token_major;
    uint32_t cp_interleave_tokens; /* 0: block_tokens */
};

struct shape_pool {
    uint32_t group;
    uint32_t role; /* enum kvf_pool_role */
    uint32_t n_kv;
    uint32_t n_layers;
    uint32_t *layers; /* [n_layers] global ids; owned */
    uint32_t n_heads;
    uint32_t first_head;
    uint32_t n_heads_total;
    uint64_t row_bytes;
    uint64_t stride_row;
    uint64_t stride_head;
    uint64_t stride_kv;
    uint64_t stride_block;
    uint64_t stride_layer; /* set with n_blocks */
    uint32_t n_blocks;     /* 0 until shape_pool_set_blocks */
    void *memory;          /* owned; NULL until shape_pool_alloc */
    void *base;            /* aligned, inside memory */
};

struct shape {
    struct kvf_place place;
    uint32_t block_tokens;
    bool is_token_major;
    uint32_t n_pools;
    struct shape_pool
        pools[MODEL_GROUPS_MAX]; /* rising groups; groups without a layer are absent */
};

/* Refuses heads or layers that do not divide; names both numbers. shape_fini in any case. */
bool shape_init(const struct model *model, const struct topology *topology,
                const struct shape_options *options, uint32_t rank, struct tool_error *error,
                struct shape *ret_shape);
void shape_fini(struct shape *shape);

/* Bytes of one block over all layers of the pool. */
uint64_t shape_pool_block_bytes(const struct shape_pool *pool);
void shape_pool_set_blocks(struct shape_pool *pool, uint32_t n_blocks);
/* Zeroed, and resident. */
bool shape_pool_alloc(struct shape_pool *pool, struct tool_error *error);

/* For pool_register; the description points into the pool. */
void shape_pool_desc(const struct shape *shape, struct shape_pool *pool, const char *format,
                     struct kvf_pool_desc *ret_desc);

/* Row `row` of block `block`; `layer` is the index in the pool. */
unsigned char *shape_row(const struct shape_pool *pool, uint32_t block, uint32_t layer, uint32_t kv,
                         uint32_t head, uint32_t row);

/* Tokens t < n_tokens that lie on this rank; all of them without context parallelism. */
uint64_t shape_local_tokens(const struct shape *shape, uint64_t n_tokens);
/* The token that is this rank's `local`-th. */
uint64_t shape_global_token(const struct shape *shape, uint64_t local);

/* Blocks of the request's table that tokens [begin, end) need on this rank. */
struct shape_blocks {
    uint32_t first;
    uint32_t n;
};
struct shape_blocks shape_blocks_of(const struct shape *shape, struct kvf_token_range tokens);

/* Bytes of tokens [begin, end) in this pool. */
uint64_t shape_range_bytes(const struct shape *shape, const struct shape_pool *pool,
                           struct kvf_token_range tokens);

#endif
