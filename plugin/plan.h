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
 */
#ifndef KVFERRY_PLUGIN_PLAN_H
#define KVFERRY_PLUGIN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "plugin/geometry.h"

#define KVFI_PLAN_ENTRIES_MAX 65536u /* entries of one pair; more is refused */

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
 * token_atom, or a range does not begin on an atom; KVF_ENOSPC over KVFI_PLAN_ENTRIES_MAX.
 */
kvf_status_t kvfi_plan_init(const struct kvfi_plan_input *input, char *text, size_t text_cap,
                            struct kvfi_plan *ret_plan);
void kvfi_plan_fini(struct kvfi_plan *plan);

#endif
