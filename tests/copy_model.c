/* SPDX-License-Identifier: Apache-2.0 */
#include "copy_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A row of the box. */
struct model_row {
    uint64_t key[5]; /* the receiver's block, then the indices in the axis order */
    uint64_t layer, kv, head;
    const uint32_t *block[2]; /* its entry in the tables of source and destination */
    uint64_t in_block[2];
};

/* A place in a paged side while its rows are walked one by one. */
struct walker {
    const uint32_t *block;
    uint64_t in_block;
};

static void walk_on(struct walker *w, const struct kvfi_paged *p)
{
    if (++w->in_block == p->block_rows) {
        w->in_block = 0;
        w->block++;
    }
}

/* From the first row of the table to the box's first. */
static struct walker walk_to_box(const struct kvfi_paged *p)
{
    struct walker w = {.block = p->blocks};

    for (uint64_t row = (uint64_t)p->first_block * p->block_rows; row < p->row0; row++)
        walk_on(&w, p);
    return w;
}

static int compare_rows(const void *a, const void *b)
{
    const struct model_row *x = a, *y = b;

    for (unsigned k = 0; k < 5; k++)
        if (x->key[k] != y->key[k])
            return x->key[k] < y->key[k] ? -1 : 1;
    return 0;
}

/* All layers, kv and heads of one row number; returns how many. */
static size_t collect_row(const struct kvfi_copy_job *job, const struct model_row *proto,
                          uint64_t wire_block, uint64_t row, struct model_row *ret)
{
    size_t n = 0;

    for (uint64_t layer = 0; layer < job->n_layers; layer++)
        for (uint64_t kv = 0; kv < job->n_kv; kv++)
            for (uint64_t head = 0; head < job->n_heads; head++) {
                const uint64_t index[4] = {layer, kv, head, row};
                struct model_row *r = &ret[n++];

                *r = *proto;
                r->layer = layer;
                r->kv = kv;
                r->head = head;
                r->key[0] = wire_block;
                for (unsigned k = 0; k < 4 && job->kind != KVFI_COPY_MOVE; k++)
                    r->key[1 + k] = index[job->order[k]];
            }
    return n;
}

/* All rows of the box; those of a MOVE in any order, else as they lie in the dense side. */
static size_t collect(const struct kvfi_copy_job *job, struct model_row *rows)
{
    const struct kvfi_paged *sides[2] = {job->kind == KVFI_COPY_UNPACK ? NULL : &job->src,
                                         job->kind == KVFI_COPY_PACK ? NULL : &job->dst};
    struct walker at[2] = {{NULL, 0}, {NULL, 0}};
    uint64_t wire_block = 0;
    size_t n = 0;

    for (unsigned s = 0; s < 2; s++)
        if (sides[s])
            at[s] = walk_to_box(sides[s]);
    for (uint64_t i = 0; i < job->n_rows; i++) {
        struct model_row proto = {.block = {at[0].block, at[1].block},
                                  .in_block = {at[0].in_block, at[1].in_block}};

        if (job->kind != KVFI_COPY_MOVE && (job->wire_row0 + i) % job->wire_block_rows == 0)
            wire_block++;
        n += collect_row(job, &proto, wire_block, i, rows + n);
        for (unsigned s = 0; s < 2; s++)
            if (sides[s])
                walk_on(&at[s], sides[s]);
    }
    if (job->kind != KVFI_COPY_MOVE)
        qsort(rows, n, sizeof(*rows), compare_rows);
    return n;
}

static unsigned char *paged_at(const struct kvfi_paged *p, const struct model_row *r, unsigned side)
{
    const uint64_t *base = p->bases;
    uint64_t at = p->offset;

    for (uint64_t i = 0; i < r->layer; i++) {
        base += p->base_layer_step;
        at += p->stride_layer;
    }
    for (uint64_t i = 0; i < r->kv; i++) {
        base += p->base_kv_step;
        at += p->stride_kv;
    }
    for (uint64_t i = 0; i < r->head; i++)
        at += p->stride_head;
    for (uint64_t i = 0; i < r->in_block[side]; i++)
        at += p->stride_row;
    at += *base + *r->block[side] * p->stride_block;
    return (unsigned char *)(uintptr_t)at;
}

static void model_job(const struct kvfi_copy_job *job)
{
    uint64_t n_max = kvfi_copy_bytes(job) / job->row_bytes, dense = job->dense;
    struct model_row *rows;
    size_t n;

    if (n_max == 0)
        return;
    rows = calloc(n_max, sizeof(*rows));
    if (!rows) {
        fprintf(stderr, "out of memory\n");
        exit(EXIT_FAILURE);
    }
    n = collect(job, rows);
    for (size_t i = 0; i < n; i++) {
        const struct model_row *r = &rows[i];
        unsigned char *dense_at = (unsigned char *)(uintptr_t)dense;

        dense += job->row_bytes;
        if (job->kind != KVFI_COPY_PACK && *r->block[1] == KVFI_ABSENT_BLOCK)
            continue;
        memcpy(job->kind == KVFI_COPY_PACK ? dense_at : paged_at(&job->dst, r, 1),
               job->kind == KVFI_COPY_UNPACK ? dense_at : paged_at(&job->src, r, 0),
               job->row_bytes);
    }
    free(rows);
}

void copy_model(const struct kvfi_copy_job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        model_job(&jobs[i]);
}
