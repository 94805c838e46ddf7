/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: what one source rank sends to one destination rank for one request. A pure function of
 * the two instances' geometries, the attention-DP groups, the token ranges and the request id; both
 * ends compute it and compare its hash.
 *
 * What it says, from the definitions:
 *  - A destination rank (of dst_dp) wants, for every pool, layer, kv and head it holds, the rows of
 *    the tokens of the group's range that lie on it: all of them if cp_size is 1, else those with
 *    (t / cp_interleave_tokens) % cp_size == cp_rank. With tokens_per_row > 1, row q stands for
 *    tokens [q*tpr, (q+1)*tpr) and is wanted if any of them is in the range. PER_REQUEST pools: one
 *    row, wanted if the group's range is not empty.
 *  - A source rank (of src_dp) holds rows likewise; layers are matched by (role, global layer id),
 *    where KVF_POOL_KV is KEY at kv 0 and VALUE at kv 1.
 *  - Each wanted row comes from exactly one source rank. Where several hold it (replicas: same dp
 *    group, same layer, head and cp rank), the rows are cut in stripes, one a replica, by tokens, at
 *    multiples of token_atom and preferably of the destination's block; replicas are ordered by
 *    rank; the first stripe goes to replica number (mix of the request id) % R, so short requests
 *    spread too. Every destination replica gets the whole range (fan-out comes later).
 *  - Ranges are the receiver's. An extent (what the source has so far) cuts the entries but moves no
 *    stripe: a row belongs to the extent that holds the last of its atom's tokens inside the range.
 *
 * Where the two sides differ:
 *  - The atoms that count (token_atom, head_atom) are the least common multiples of the two pools'
 *    (of the destination's and all replicas'). Heads are cut at global head numbers that are
 *    multiples of the atom, or not at all. cp_interleave_tokens is a multiple of the token atom.
 *  - Ranges are by the destination pool's group, extents by the source pool's.
 *  - A PER_REQUEST row does not lie on one cp rank: replicas of it are all ranks of the dp group
 *    that hold it, and a destination of any cp rank wants it. One replica sends all of it; layers
 *    take replicas in turn. Its atom is the whole range: the extent that holds the range's last
 *    token has it.
 */
#ifndef KVFERRY_PLUGIN_PLAN_H
#define KVFERRY_PLUGIN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "plugin/geometry.h"

#define KVFI_PLAN_ENTRIES_MAX 65536u /* entries of one pair; more is refused */
#define KVFI_PLAN_TOKENS_MAX (UINT64_C(1) << 48)

/* Part of a request's layers and tokens. */
struct kvfi_extent_box {
    uint32_t first_layer; /* global, first <= l < end */
    uint32_t end_layer;
    struct kvf_token_range tokens[KVF_GROUPS_MAX]; /* by group */
};

struct kvfi_plan_input {
    const struct kvfi_instance_geometry *src;
    const struct kvfi_instance_geometry *dst;
    uint32_t src_rank; /* the pair; their dp groups are the request's */
    uint32_t dst_rank;
    struct kvf_token_range ranges[KVF_GROUPS_MAX]; /* wanted, by group; empty = nothing */
    struct kvf_request_id request;
    const struct kvfi_extent_box *extent; /* NULL = everything */
};

/*
 * What the boxes of all requests of a pair have in common: layers x kv x heads which the same
 * sources hold. Private to plan*.c; here so that a pair can be kept.
 */
struct kvfi_plan_cell {
    uint32_t src_pool;
    uint32_t dst_pool;
    uint32_t src_layer;
    uint32_t dst_layer;
    uint32_t n_layers;
    uint32_t src_kv;
    uint32_t dst_kv;
    uint32_t n_kv;
    uint32_t src_head;
    uint32_t dst_head;
    uint32_t n_heads;
    uint32_t n_replicas;
    uint32_t replica;    /* number of this source among them, by rank */
    uint32_t head_atom;  /* 0 = over 32 bits */
    uint64_t token_atom; /* 0 = over 64 bits */
};

/* The part of the plan that does not depend on the request. Kept by whoever plans many requests. */
struct kvfi_plan_pair {
    const struct kvfi_rank_geometry *src; /* borrowed until kvfi_plan_pair_fini */
    const struct kvfi_rank_geometry *dst;
    struct kvfi_plan_cell *cells; /* owned */
    uint32_t n_cells;             /* 0: this pair never exchanges a byte */
    uint32_t capacity;
};

/*
 * A box of rows, consecutive on both sides once cut into its runs: run i (0 <= i < n_runs) is
 * run_rows rows from local row src_row + i * src_step at the source and dst_row + i * dst_step at
 * the destination. (Local row = dense count of the rows that lie on that rank, over all cp units.)
 * n_runs > 1 only with context parallelism.
 */
struct kvfi_plan_entry {
    uint32_t src_pool; /* index in the rank's pools */
    uint32_t dst_pool;
    uint32_t src_layer; /* local layer index in the pool */
    uint32_t dst_layer;
    uint32_t n_layers;
    uint32_t src_kv;
    uint32_t dst_kv;
    uint32_t n_kv;
    uint32_t src_head; /* local head index in the pool */
    uint32_t dst_head;
    uint32_t n_heads;
    uint32_t n_runs;
    uint64_t run_rows;
    uint64_t src_row;
    uint64_t src_step;
    uint64_t dst_row;
    uint64_t dst_step;
};

struct kvfi_plan {
    uint32_t n_entries;
    uint32_t capacity;               /* of entries */
    struct kvfi_plan_entry *entries; /* owned */
    uint64_t bytes;                  /* of all entries */
    uint64_t hash;                   /* of all entries and of both row sizes; 0 never */
};

/*
 * Compute the plan of a pair. Allocates entries (kvfi_plan_fini). Both ends get the same entries in
 * the same order. KVF_EMISMATCH with a sentence if a cut would fall inside a head_atom or
 * token_atom, or a range does not begin on an atom (only where the range is not empty); KVF_ENOSPC
 * over KVFI_PLAN_ENTRIES_MAX, or if a range ends beyond KVFI_PLAN_TOKENS_MAX.
 */
kvf_status_t kvfi_plan_init(const struct kvfi_plan_input *input, char *text, size_t text_cap,
                            struct kvfi_plan *ret_plan);
void kvfi_plan_fini(struct kvfi_plan *plan);

/* Least common multiple; 0 if either is 0 or it does not fit. */
uint64_t kvfi_plan_lcm(uint64_t a, uint64_t b);

/*
 * The same in two steps: init looks at the geometry (its cost grows with the ranks of the source
 * instance), make at the request only. make takes ranges, request and extent from *input.
 * kvfi_plan_init is one after the other.
 */
kvf_status_t kvfi_plan_pair_init(const struct kvfi_instance_geometry *src,
                                 const struct kvfi_instance_geometry *dst, uint32_t src_rank,
                                 uint32_t dst_rank, char *text, size_t text_cap,
                                 struct kvfi_plan_pair *ret_pair);
void kvfi_plan_pair_fini(struct kvfi_plan_pair *pair);
kvf_status_t kvfi_plan_make(const struct kvfi_plan_pair *pair, const struct kvfi_plan_input *input,
                            char *text, size_t text_cap, struct kvfi_plan *ret_plan);

#endif
