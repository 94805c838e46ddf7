/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The strided copy: moves a box of rows between two index spaces, each paged
 * (rows of a pool, found through a block table) or dense (a staging slot).
 *
 * A box is n_layers x n_kv x n_heads x n_rows rows of row_bytes each. On a paged side its rows are
 * consecutive local rows row0, row0 + 1, … of the request.
 *
 * Dense order. The dense side holds the box without gaps, blocks of the *receiver* outermost: the
 * n_rows are cut where (wire_row0 + i) is a multiple of wire_block_rows; block after block, each
 * block's rows x layers x kv x heads lie in the axis order `order` (outermost first), first and
 * last block possibly shorter. So the receiver copies in runs as long as its layout has them.
 */
#ifndef KVFERRY_KERNELS_COPY_H
#define KVFERRY_KERNELS_COPY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvfi_axis { KVFI_AXIS_LAYER = 0, KVFI_AXIS_KV = 1, KVFI_AXIS_HEAD = 2, KVFI_AXIS_ROW = 3 };

#define KVFI_ABSENT_BLOCK UINT32_MAX /* a paged destination skips it; never in a source */

/*
 * One paged side. The address of (layer l, kv v, head h, row r) of the box is
 *   bases[l * base_layer_step + v * base_kv_step] + offset
 *     + blocks[(row0 + r) / block_rows - first_block] * stride_block
 *     + l * stride_layer + v * stride_kv + h * stride_head + ((row0 + r) % block_rows) * stride_row
 * so whoever builds a job folds the box's first layer, kv and head into `bases` and `offset`.
 */
struct kvfi_paged {
    const uint64_t *bases;    /* addresses; only [0] is read if both steps are 0 */
    uint32_t base_layer_step; /* 0, or entries of bases from a layer to the next */
    uint32_t base_kv_step;    /* 0, or entries of bases from keys to values */
    const uint32_t *blocks;   /* block table */
    uint32_t block_rows;      /* rows of one block, >= 1 */
    uint32_t first_block;     /* block number of blocks[0] */
    uint64_t row0;            /* local row of the box's first row */
    uint64_t offset;          /* bytes */
    uint64_t stride_block;
    uint64_t stride_layer;
    uint64_t stride_kv;
    uint64_t stride_head;
    uint64_t stride_row;
};

enum kvfi_copy_kind {
    KVFI_COPY_PACK = 0,   /* paged -> dense */
    KVFI_COPY_UNPACK = 1, /* dense -> paged */
    KVFI_COPY_MOVE = 2,   /* paged -> paged */
};

struct kvfi_copy_job {
    uint32_t kind; /* enum kvfi_copy_kind */
    uint32_t n_layers;
    uint32_t n_kv;
    uint32_t n_heads;
    uint32_t n_rows;
    uint32_t wire_block_rows; /* rows of a block of the receiver, >= 1; not read by MOVE */
    uint64_t wire_row0;       /* the receiver's local row of the box's first row; likewise */
    uint64_t row_bytes;       /* >= 1; no address or stride has to be a multiple of anything */
    uint8_t order[4];         /* permutation of enum kvfi_axis, outermost first; not read by MOVE */
    uint8_t reserved[4];
    struct kvfi_paged src; /* PACK, MOVE */
    struct kvfi_paged dst; /* UNPACK, MOVE */
    uint64_t dense;        /* address of the dense side: PACK destination, UNPACK source */
};

/* Bytes of the box. */
static inline uint64_t kvfi_copy_bytes(const struct kvfi_copy_job *job)
{
    return (uint64_t)job->n_layers * job->n_kv * job->n_heads * job->n_rows * job->row_bytes;
}

/* Runs n jobs, in any order, to completion. Jobs do not overlap one another. Any thread. */
typedef void (*kvfi_copy_fn)(const struct kvfi_copy_job *jobs, size_t n);

/* One table per implementation. */
struct kvfi_copy_kernels {
    const char *name;
    kvfi_copy_fn run;
};

/* The obvious specification: one memcpy a row. */
void kvfi_copy_ref(const struct kvfi_copy_job *jobs, size_t n);
/* The fast host version. */
void kvfi_copy_host(const struct kvfi_copy_job *jobs, size_t n);

/* Copies table number i, reference first, fastest last; 0 past the end. */
int kvfi_copy_kernels_get(unsigned i, struct kvfi_copy_kernels *ret_kernels);

#ifdef __cplusplus
}
#endif

#endif
