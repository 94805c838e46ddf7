/* SPDX-License-Identifier: Apache-2.0 */
/* The specification of the strided copy: the definitions of copy.h, one memcpy a row. */
#include "kernels/copy.h"

#include <stdbool.h>
#include <string.h>

/* Indices of a row, by enum kvfi_axis. */
struct row_index {
    uint64_t at[4];
};

/* False if the row lies in an absent block. */
static bool paged_address(const struct kvfi_paged *p, const struct row_index *x, uint64_t *ret)
{
    uint64_t layer = x->at[KVFI_AXIS_LAYER], kv = x->at[KVFI_AXIS_KV];
    uint64_t row = p->row0 + x->at[KVFI_AXIS_ROW];
    uint32_t block = p->blocks[row / p->block_rows - p->first_block];

    if (block == KVFI_ABSENT_BLOCK)
        return false;
    *ret = p->bases[layer * p->base_layer_step + kv * p->base_kv_step] + p->offset +
           block * p->stride_block + layer * p->stride_layer + kv * p->stride_kv +
           x->at[KVFI_AXIS_HEAD] * p->stride_head + row % p->block_rows * p->stride_row;
    return true;
}

static uint64_t dense_address(const struct kvfi_copy_job *job, const struct row_index *x)
{
    uint64_t row = x->at[KVFI_AXIS_ROW];
    uint64_t in_block = (job->wire_row0 + row) % job->wire_block_rows;
    /* This wire block's rows of the box are [first, end). */
    uint64_t first = row > in_block ? row - in_block : 0;
    uint64_t until_end = job->wire_block_rows - in_block;
    uint64_t end = job->n_rows - row > until_end ? row + until_end : job->n_rows;
    uint64_t extent[4] = {job->n_layers, job->n_kv, job->n_heads, end - first};
    uint64_t before = first * job->n_layers * job->n_kv * job->n_heads; /* rows of earlier blocks */
    uint64_t within = 0;

    for (unsigned k = 0; k < 4; k++) {
        unsigned axis = job->order[k];

        within = within * extent[axis] + x->at[axis] - (axis == KVFI_AXIS_ROW ? first : 0);
    }
    return job->dense + (before + within) * job->row_bytes;
}

static void copy_row(const struct kvfi_copy_job *job, const struct row_index *x)
{
    uint64_t src, dst;

    if (job->kind == KVFI_COPY_UNPACK)
        src = dense_address(job, x);
    else if (!paged_address(&job->src, x, &src))
        return; /* a broken promise; nothing can be read */
    if (job->kind == KVFI_COPY_PACK)
        dst = dense_address(job, x);
    else if (!paged_address(&job->dst, x, &dst))
        return;
    memcpy((void *)(uintptr_t)dst, (const void *)(uintptr_t)src, job->row_bytes);
}

static void copy_layer(const struct kvfi_copy_job *job, uint64_t layer)
{
    for (uint64_t kv = 0; kv < job->n_kv; kv++)
        for (uint64_t head = 0; head < job->n_heads; head++)
            for (uint64_t row = 0; row < job->n_rows; row++)
                copy_row(job, &(struct row_index){{layer, kv, head, row}});
}

void kvfi_copy_ref(const struct kvfi_copy_job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (uint64_t layer = 0; layer < jobs[i].n_layers; layer++)
            copy_layer(&jobs[i], layer);
}
