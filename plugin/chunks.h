/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks: a plan cut into numbered parts of bounded size. Both ends cut alike (same plan, same
 * chunk_bytes), so on the wire a chunk is only a number.
 */
#ifndef KVFERRY_PLUGIN_CHUNKS_H
#define KVFERRY_PLUGIN_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/copy.h"
#include "plugin/plan.h"

/*
 * Cut of one entry into boxes of (rows of one run) x layers x kv x heads x bytes of a row, all of
 * one size but the last ones. A box takes as much as fits of the receiver's innermost axis, then
 * of the next one, and at last several of its blocks, so that the receiver copies in long runs.
 * Private to chunks.c; here so that the map can be one allocation.
 */
struct kvfi_chunk_cut {
    uint32_t first_chunk;
    uint32_t n_layers; /* of a chunk */
    uint32_t n_kv;
    uint32_t n_heads;
    uint64_t n_rows;
    uint64_t segment_bytes; /* of a row; row_bytes unless rows are cut */
    uint64_t row_bytes;
    uint32_t skip_rows; /* what the first rows of each run are short of n_rows */
    uint32_t dst_block_rows;
    uint32_t row_parts; /* chunks of a run along each axis; the last one here varies fastest */
    uint32_t layer_parts;
    uint32_t kv_parts;
    uint32_t head_parts;
    uint32_t segments;
    uint8_t order[4]; /* of the receiver */
};

struct kvfi_chunk_map {
    struct kvfi_plan plan; /* owned */
    struct kvfi_chunk_cut *cuts;
    uint32_t n_chunks;
    uint32_t chunk_bytes;
    uint64_t bytes;
};

/* A rank's pool as the copy needs it. */
struct kvfi_pool_memory {
    const struct kvfi_pool_geometry *geometry;
    uint64_t *bases; /* [n_bases] addresses */
    uint32_t n_bases;
    uint64_t stride_block;
    uint64_t stride_layer;
    uint64_t stride_kv;
    uint64_t stride_head;
    uint64_t stride_row;
};

/* Block table of one group of one request on this rank. */
struct kvfi_block_table {
    const uint32_t *blocks;
    uint32_t n_blocks;
    uint32_t first_block;
};

/*
 * Take over *plan (transferred on success) and cut it. src and dst are the two ranks' geometries.
 * KVF_ENOSPC with a sentence: more than UINT32_MAX chunks; the plan stays the caller's.
 */
kvf_status_t kvfi_chunk_map_init(struct kvfi_plan *plan, const struct kvfi_rank_geometry *src,
                                 const struct kvfi_rank_geometry *dst, uint32_t chunk_bytes,
                                 char *text, size_t text_cap, struct kvfi_chunk_map *ret_map);
void kvfi_chunk_map_fini(struct kvfi_chunk_map *map);

/* Bytes of a chunk (< n_chunks): > 0, <= chunk_bytes. Any thread; O(log entries). */
uint32_t kvfi_chunk_bytes(const struct kvfi_chunk_map *map, uint32_t chunk);

/*
 * The copy job of a chunk: PACK from, or UNPACK into, this rank's pools and block tables (by
 * group), the other side at `dense`. Any thread.
 */
void kvfi_chunk_job(const struct kvfi_chunk_map *map, uint32_t chunk, enum kvfi_copy_kind kind,
                    const struct kvfi_pool_memory *pools, const struct kvfi_block_table *tables,
                    void *dense, struct kvfi_copy_job *ret_job);

/*
 * This rank's blocks a chunk reads or fills: pool group and local block numbers
 * [*ret_first, *ret_end) of the request's block table, as receiver (kind UNPACK) or sender (PACK).
 */
void kvfi_chunk_blocks(const struct kvfi_chunk_map *map, uint32_t chunk, enum kvfi_copy_kind kind,
                       const struct kvfi_pool_memory *pools, uint32_t *ret_group,
                       uint64_t *ret_first, uint64_t *ret_end);

#endif
