/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast host version. A job's rows are cut into spans, in which the row axis is linear on both
 * sides (adjacent blocks make one span where they lie one after the other). A span is a plain
 * strided copy of up to four axes; axes that are contiguous on both sides are folded into the run
 * that is copied at once, and what is left becomes loops. Most spans of a job have the same shape,
 * so the loops are worked out only when it changes, and blocks are looked up once a span.
 */
#include "kernels/copy.h"

#include <stdbool.h>

#include "kernels/copy_runs.h"

#define N_AXES 4u

/* One side of a job while its rows go by. */
struct side {
    const struct kvfi_paged *paged; /* NULL: the dense side */
    uint64_t at;                    /* address of the next row at layer, kv and head 0, less base */
    uint64_t rows_left;             /* rows from there on to the end of the span */
    uint64_t steps[N_AXES];         /* bytes from one index to the next in this span */
    bool absent;                    /* the span has no memory */
    uint64_t next_block;            /* paged: index in blocks of the next span */
    uint64_t next_in_block;         /* paged: row in that block, of the first span */
    uint64_t next_at;               /* dense: address of the next span */
    uint64_t next_rows;             /* dense: its rows; clipped by the end of the job */
    uint64_t span_rows;             /* dense: rows the steps were made for */
};

struct axis {
    uint64_t n;
    uint64_t dst_step;
    uint64_t src_step;
};

/* How to copy a span. */
struct loops {
    uint64_t rows;       /* shape that this was made for: rows copied, */
    uint64_t dense_rows; /* and rows of the dense block they belong to */
    uint64_t run_bytes;
    struct axis axes[N_AXES]; /* innermost first; unused ones have n = 1. The queue has [0] */
    struct kvfi_runs_queue queue;
    uint64_t n_layers; /* 1 unless layers have their own bases; then not in axes */
    uint64_t n_kv;     /* likewise */
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void paged_init(struct side *s, const struct kvfi_paged *p)
{
    *s = (struct side){
        .paged = p,
        .steps = {[KVFI_AXIS_LAYER] = p->stride_layer,
                  [KVFI_AXIS_KV] = p->stride_kv,
                  [KVFI_AXIS_HEAD] = p->stride_head,
                  [KVFI_AXIS_ROW] = p->stride_row},
        .next_block = p->row0 / p->block_rows - p->first_block,
        .next_in_block = p->row0 % p->block_rows,
    };
}

/* Whether the block after `block` continues its rows. */
static bool block_continues(const struct kvfi_paged *p, uint32_t block, uint32_t next)
{
    if (block == KVFI_ABSENT_BLOCK || next == KVFI_ABSENT_BLOCK)
        return block == next;
    return next == block + 1 && p->stride_block == p->block_rows * p->stride_row;
}

/* max_rows: what is left of the job; the table is not read past it. */
static void paged_next(struct side *s, uint64_t max_rows)
{
    const struct kvfi_paged *p = s->paged;
    uint32_t block = p->blocks[s->next_block++];

    s->absent = block == KVFI_ABSENT_BLOCK;
    s->at = p->offset + block * p->stride_block + s->next_in_block * p->stride_row;
    s->rows_left = p->block_rows - s->next_in_block;
    s->next_in_block = 0;
    while (s->rows_left < max_rows && block_continues(p, block, p->blocks[s->next_block])) {
        block = p->blocks[s->next_block++];
        s->rows_left += p->block_rows;
    }
}

/* Whether the row axis is outermost in every dense block, so that block follows block linearly. */
static bool dense_is_linear(const struct kvfi_copy_job *job)
{
    const uint64_t extent[N_AXES] = {job->n_layers, job->n_kv, job->n_heads, 0};

    if (job->wire_block_rows == 1)
        return true;
    for (unsigned k = 0; job->order[k] != KVFI_AXIS_ROW; k++)
        if (extent[job->order[k]] != 1)
            return false;
    return true;
}

static void dense_init(struct side *s, const struct kvfi_copy_job *job)
{
    *s = (struct side){
        .next_at = job->dense,
        .next_rows = job->wire_block_rows - job->wire_row0 % job->wire_block_rows,
    };
    if (dense_is_linear(job))
        s->next_rows = job->n_rows;
}

static void dense_next(struct side *s, const struct kvfi_copy_job *job, uint64_t max_rows)
{
    uint64_t rows = min_u64(s->next_rows, max_rows);
    /* Blocks of one row make one span, but the steps are those of one row. */
    uint64_t step_rows = job->wire_block_rows == 1 ? 1 : rows;
    const uint64_t extent[N_AXES] = {job->n_layers, job->n_kv, job->n_heads, step_rows};
    uint64_t step = job->row_bytes;

    s->at = s->next_at;
    s->rows_left = rows;
    s->next_at += rows * job->n_layers * job->n_kv * job->n_heads * job->row_bytes;
    s->next_rows = job->wire_block_rows;
    if (rows == s->span_rows)
        return;
    s->span_rows = rows;
    for (unsigned k = N_AXES; k-- > 0;) {
        s->steps[job->order[k]] = step;
        step *= extent[job->order[k]];
    }
    if (job->wire_block_rows == 1) /* the next row is the next block */
        s->steps[KVFI_AXIS_ROW] = step;
}

static void side_next(struct side *s, const struct kvfi_copy_job *job, uint64_t max_rows)
{
    if (s->paged)
        paged_next(s, max_rows);
    else
        dense_next(s, job, max_rows);
}

static void side_skip(struct side *s, uint64_t rows)
{
    s->at += rows * s->steps[KVFI_AXIS_ROW];
    s->rows_left -= rows;
}

static uint64_t side_address(const struct side *s, uint64_t layer, uint64_t kv)
{
    uint64_t at = s->at + layer * s->steps[KVFI_AXIS_LAYER] + kv * s->steps[KVFI_AXIS_KV];

    if (s->paged)
        at += s->paged->bases[layer * s->paged->base_layer_step + kv * s->paged->base_kv_step];
    return at;
}

static bool layers_have_bases(const struct side *s)
{
    return s->paged && s->paged->base_layer_step;
}

static bool kv_have_bases(const struct side *s)
{
    return s->paged && s->paged->base_kv_step;
}

/* Adds an axis to n others, kept by rising destination step: writes go forward. Returns n + 1. */
static unsigned axis_add(struct axis *axes, unsigned n, struct axis a)
{
    unsigned i = n;

    if (a.n == 1)
        return n;
    for (; i > 0 && axes[i - 1].dst_step > a.dst_step; i--)
        axes[i] = axes[i - 1];
    axes[i] = a;
    return n + 1;
}

/* Folds axes that continue one another on both sides, the first ones into the run. */
static void loops_fold(struct loops *l, const struct axis *axes, unsigned n)
{
    unsigned n_left = 0;

    for (unsigned i = 0; i < n; i++) {
        const struct axis *a = &axes[i];
        struct axis *inner = n_left > 0 ? &l->axes[n_left - 1] : NULL;

        if (!inner && a->dst_step == l->run_bytes && a->src_step == l->run_bytes)
            l->run_bytes *= a->n;
        else if (inner && a->dst_step == inner->dst_step * inner->n &&
                 a->src_step == inner->src_step * inner->n)
            inner->n *= a->n;
        else
            l->axes[n_left++] = *a;
    }
    for (; n_left < N_AXES; n_left++)
        l->axes[n_left] = (struct axis){.n = 1};
}

static void loops_init(struct loops *l, const struct kvfi_copy_job *job, const struct side *dst,
                       const struct side *src, uint64_t rows)
{
    const bool by_layer = layers_have_bases(dst) || layers_have_bases(src);
    const bool by_kv = kv_have_bases(dst) || kv_have_bases(src);
    const uint64_t extent[N_AXES] = {by_layer ? 1 : job->n_layers, by_kv ? 1 : job->n_kv,
                                     job->n_heads, rows};
    struct axis axes[N_AXES];
    unsigned n = 0;

    for (unsigned k = 0; k < N_AXES; k++)
        n = axis_add(axes, n, (struct axis){extent[k], dst->steps[k], src->steps[k]});
    l->rows = rows;
    l->dense_rows = dst->span_rows + src->span_rows;
    l->n_layers = by_layer ? job->n_layers : 1;
    l->n_kv = by_kv ? job->n_kv : 1;
    l->run_bytes = job->row_bytes;
    loops_fold(l, axes, n);
    kvfi_runs_reshape(&l->queue, &(struct kvfi_runs){.n = l->axes[0].n,
                                                     .run_bytes = l->run_bytes,
                                                     .dst_step = l->axes[0].dst_step,
                                                     .src_step = l->axes[0].src_step,
                                                     .dst_is_scattered = dst->paged,
                                                     .src_is_scattered = src->paged});
}

/* One layer and kv of a span, or all of them where they are among the axes. */
static void loops_run(struct loops *l, uint64_t dst, uint64_t src)
{
    const struct axis *a = l->axes;

    for (uint64_t i = 0; i < a[3].n; i++)
        for (uint64_t j = 0; j < a[2].n; j++)
            for (uint64_t k = 0; k < a[1].n; k++)
                kvfi_runs_push(&l->queue,
                               dst + i * a[3].dst_step + j * a[2].dst_step + k * a[1].dst_step,
                               src + i * a[3].src_step + j * a[2].src_step + k * a[1].src_step);
}

static void copy_span(struct loops *l, const struct side *dst, const struct side *src)
{
    for (uint64_t layer = 0; layer < l->n_layers; layer++)
        for (uint64_t kv = 0; kv < l->n_kv; kv++)
            loops_run(l, side_address(dst, layer, kv), side_address(src, layer, kv));
}

static void copy_job(const struct kvfi_copy_job *job)
{
    struct side src, dst;
    struct loops l;
    uint64_t rows;

    if (!job->n_layers || !job->n_kv || !job->n_heads || !job->n_rows)
        return;
    l.rows = 0;
    kvfi_runs_init(&l.queue);
    if (job->kind == KVFI_COPY_UNPACK)
        dense_init(&src, job);
    else
        paged_init(&src, &job->src);
    if (job->kind == KVFI_COPY_PACK)
        dense_init(&dst, job);
    else
        paged_init(&dst, &job->dst);
    for (uint64_t left = job->n_rows; left > 0; left -= rows) {
        if (src.rows_left == 0)
            side_next(&src, job, left);
        if (dst.rows_left == 0)
            side_next(&dst, job, left);
        rows = min_u64(min_u64(src.rows_left, dst.rows_left), left);
        if (!src.absent && !dst.absent) {
            if (rows != l.rows || dst.span_rows + src.span_rows != l.dense_rows)
                loops_init(&l, job, &dst, &src, rows);
            copy_span(&l, &dst, &src);
        }
        side_skip(&src, rows);
        side_skip(&dst, rows);
    }
    kvfi_runs_flush(&l.queue);
}

void kvfi_copy_host(const struct kvfi_copy_job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        copy_job(&jobs[i]);
    kvfi_runs_fence();
}
