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
 * Cut of one entry. A chunk is a box of it: some layers of one run's whole rows, or one layer's
 * part of a run's rows (cut at the receiver's block boundaries where they fit), or, when a single
 * row of all heads is larger than a chunk, single heads, and parts of single rows. Private to
 * chunks.c; here so that the map can be one allocation.
 */
struct kvfi_chunk_cut {
    uint32_t first_chunk;
    uint32_t layers_per_chunk;
    uint32_t heads_per_chunk;
    uint32_t rows_per_chunk;
    uint64_t segment_bytes; /* of a row; row_bytes unless rows are cut */
    uint64_t row_bytes;
    uint32_t dst_block_rows;
    uint8_t order[4];
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
 * KVF_ENOSPC with a sentence: more than UINT32_MAX chunks.
 */
kvf_status_t kvfi_chunk_map_init(struct kvfi_plan *plan, const struct kvfi_rank_geometry *src,
                                 const struct kvfi_rank_geometry *dst, uint32_t chunk_bytes,
                                 char *text, size_t text_cap, struct kvfi_chunk_map *ret_map);
void kvfi_chunk_map_fini(struct kvfi_chunk_map *map);

/* Bytes of a chunk: > 0, <= chunk_bytes. Any thread; O(log entries). */
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
