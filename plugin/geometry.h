/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Geometry: what the ranks of an instance hold, without addresses or secrets. This is what peers
 * tell each other and what the plan is computed from.
 */
#ifndef KVFERRY_PLUGIN_GEOMETRY_H
#define KVFERRY_PLUGIN_GEOMETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/fabric.h"
#include "kvferry/kvferry.h"

#define KVFI_POOLS_MAX 64u    /* pools of a rank */
#define KVFI_LAYERS_MAX 4096u /* layers of a pool */
#define KVFI_RANKS_MAX 4096u  /* ranks of an instance */
#define KVFI_ADDRESS_MAX 64u  /* "[v6]:port" with its NUL */
#define KVFI_BLOB_MAX 262144u /* bytes of a rank blob */
#define KVFI_ROW_BYTES_MAX (UINT64_C(1) << 40)

/* One pool of one rank. Rows: see struct kvf_pool_desc; block_rows = block_tokens / tokens_per_row. */
struct kvfi_pool_geometry {
    uint32_t group;
    uint32_t role; /* enum kvf_pool_role */
    uint32_t flags;
    uint32_t n_blocks; /* this side's own; not compared */
    uint32_t block_tokens;
    uint32_t tokens_per_row;
    uint32_t token_atom; /* multiple of tokens_per_row */
    uint32_t n_kv;
    uint64_t row_bytes;
    uint32_t n_heads;
    uint32_t first_head;
    uint32_t n_heads_total;
    uint32_t head_atom;
    uint32_t n_layers;
    uint32_t *layers; /* [n_layers] rising global ids; owned by the rank geometry */
    char format[KVF_FORMAT_MAX];
    uint8_t order[4]; /* enum kvfi_axis outermost first, by falling stride (within a block) */
};

struct kvfi_rank_geometry {
    struct kvf_place place; /* sizes of 0 already replaced by 1 */
    uint64_t incarnation;
    char address[KVFI_ADDRESS_MAX]; /* control address */
    uint32_t n_pools;
    struct kvfi_pool_geometry *pools; /* [n_pools] */
};

struct kvfi_instance_geometry {
    char name[KVF_NAME_MAX];
    char compat[KVF_NAME_MAX];
    uint32_t n_ranks;
    struct kvfi_rank_geometry *ranks; /* [n_ranks], index = place.rank */
};

/* Replace sizes of 0 by 1 and check that every number is below its size. */
kvf_status_t kvfi_place_init(const struct kvf_place *place, char *text, size_t text_cap,
                             struct kvf_place *ret_place);

/* Axis order of a pool from its strides: falling stride, ties in enum order; KV outermost of ties
 * when bases are separate. */
void kvfi_pool_order(const struct kvf_pool_desc *desc, uint8_t ret_order[4]);

/*
 * Check a pool description and make its geometry (layers allocated, free with kvfi_pool_fini).
 * text[text_cap] gets the sentence on failure.
 */
kvf_status_t kvfi_pool_init(const struct kvf_pool_desc *desc, char *text, size_t text_cap,
                            struct kvfi_pool_geometry *ret_pool);
void kvfi_pool_fini(struct kvfi_pool_geometry *pool);

/* The members of one pool geometry: ranges, and what divides what. Pure. */
kvf_status_t kvfi_pool_check(const struct kvfi_pool_geometry *pool, char *text, size_t text_cap);

/*
 * What the pools of one rank owe each other: pools of a group agree on block_tokens and
 * PER_REQUEST, and no (role, layer, head) is there twice.
 */
kvf_status_t kvfi_rank_check(const struct kvfi_rank_geometry *rank, char *text, size_t text_cap);

/* Whether the pool holds rows of `role` (not KVF_POOL_KV), and at which kv index. */
bool kvfi_pool_has_role(const struct kvfi_pool_geometry *pool, uint32_t role, uint32_t *ret_kv);

/*
 * How many of the leading wanted layers the pool has all of, or none of; *ret_held says which.
 * want: [n_want] rising global ids, n_want >= 1.
 */
uint32_t kvfi_layers_steady(const struct kvfi_pool_geometry *pool, const uint32_t *want,
                            uint32_t n_want, bool *ret_held);

void kvfi_rank_geometry_fini(struct kvfi_rank_geometry *rank);
void kvfi_instance_geometry_fini(struct kvfi_instance_geometry *instance);

/*
 * Rank blobs: a rank's geometry with its instance's name and compat string, as bytes for other
 * ranks (protobuf message RankGeometry with a magic and a version in front).
 * encode: returns bytes needed; writes if they fit.
 */
size_t kvfi_rank_encode(const struct kvfi_rank_geometry *rank, const char *name, const char *compat,
                        void *buffer, size_t capacity);
/*
 * Everything is checked against hard limits before it is allocated; a hostile blob gets KVF_EINVAL
 * with a sentence. name and compat: [KVF_NAME_MAX].
 */
kvf_status_t kvfi_rank_decode(const void *bytes, size_t n_bytes, char *text, size_t text_cap,
                              char *ret_name, char *ret_compat,
                              struct kvfi_rank_geometry *ret_rank);
/*
 * Put the blobs of all ranks of an instance together: every rank once, sizes of the place and the
 * interleave equal on all, name and compat equal, (group -> per-request or not) equal.
 */
kvf_status_t kvfi_instance_build(const void *const *blobs, const size_t *blob_bytes, size_t n,
                                 char *text, size_t text_cap,
                                 struct kvfi_instance_geometry *ret_instance);

/*
 * Whether src can feed dst: compat, and for every destination (role, layer) not OPTIONAL a source
 * that has it with equal format, row_bytes, tokens_per_row, n_heads_total and per-request flag; and
 * the other way round for source layers nobody wants, unless OPTIONAL. Of a layer both have, every
 * (attention-DP group, cp rank) of the source has all heads the destination wants. The sentence
 * names the field and both values. KVF_EMISMATCH.
 */
kvf_status_t kvfi_geometry_match(const struct kvfi_instance_geometry *src,
                                 const struct kvfi_instance_geometry *dst, char *text,
                                 size_t text_cap);

#endif
