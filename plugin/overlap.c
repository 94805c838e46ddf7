/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/overlap.h"

#include <stdlib.h>

#include "collectives/util.h"
#include "plugin/text.h"

enum { AXES_MAX = 5 };

/* Distances looked at before strides that do not nest are given up on. */
#define SEARCH_MAX (UINT64_C(1) << 24)

/* Of a pool from its first byte to its last; keeps all distances within int64_t. */
#define BYTES_MAX (UINT64_C(1) << 61)

struct axis {
    const char *name;
    uint64_t n;
    uint64_t stride;
};

/* Axes of more than one row, by rising stride. */
struct grid {
    uint64_t row_bytes;
    unsigned n_axes;
    struct axis axes[AXES_MAX];
};

static void add_axis(struct grid *g, const char *name, uint64_t n, uint64_t stride)
{
    unsigned i = g->n_axes;

    if (n <= 1)
        return;
    for (; i > 0 && g->axes[i - 1].stride > stride; i--)
        g->axes[i] = g->axes[i - 1];
    g->axes[i] = (struct axis){name, n, stride};
    g->n_axes++;
}

/* Bytes from the first row's begin to the last one's end over the first n axes; false: over BYTES_MAX. */
static bool span(const struct grid *g, unsigned n, uint64_t *ret_bytes)
{
    uint64_t bytes = g->row_bytes;

    for (unsigned i = 0; i < n; i++) {
        uint64_t part;

        if (__builtin_mul_overflow(g->axes[i].n - 1, g->axes[i].stride, &part) ||
            __builtin_add_overflow(bytes, part, &bytes) || bytes > BYTES_MAX)
            return false;
    }
    *ret_bytes = bytes;
    return true;
}

/* True if every axis steps over all that lies inside of it; otherwise *ret_axis is one that does not. */
static bool nests(const struct grid *g, unsigned *ret_axis)
{
    for (unsigned i = 0; i < g->n_axes; i++) {
        uint64_t inner;

        if (!span(g, i, &inner) || g->axes[i].stride < inner) {
            *ret_axis = i;
            return false;
        }
    }
    return true;
}

/* Whether a row `steps` (|steps| < n) along this axis overlaps one that is `distance` away. */
static bool reaches(const struct axis *axis, int64_t distance, int64_t row_bytes)
{
    int64_t stride = (int64_t)axis->stride;
    int64_t steps = stride ? -distance / stride : 0;

    for (int64_t s = steps - 1; s <= steps + 1; s++) {
        int64_t d = distance + s * stride;

        if (s > -(int64_t)axis->n && s < (int64_t)axis->n && d > -row_bytes && d < row_bytes)
            return true;
    }
    return false;
}

/*
 * Rows that overlap: look at all distances between two rows, one axis (the longest) by division.
 * Counts through the other axes like an odometer. Also true if there are too many to look at.
 */
static bool overlaps(const struct grid *g)
{
    unsigned longest = 0;
    int64_t step[AXES_MAX] = {0};
    uint64_t n_search = 1;

    for (unsigned i = 1; i < g->n_axes; i++)
        longest = g->axes[i].n > g->axes[longest].n ? i : longest;
    for (unsigned i = 0; i < g->n_axes; i++) {
        uint64_t n = i == longest ? 1 : 2 * g->axes[i].n - 1;

        if (__builtin_mul_overflow(n_search, n, &n_search) || n_search > SEARCH_MAX)
            return true;
    }
    for (uint64_t k = 0; k < n_search; k++) {
        int64_t distance = 0;
        bool same = true; /* no step but along the longest axis */
        unsigned i;

        for (i = 0; i < g->n_axes; i++) {
            distance += step[i] * (int64_t)g->axes[i].stride;
            same = same && step[i] == 0;
        }
        if (same ? g->axes[longest].stride < g->row_bytes
                 : reaches(&g->axes[longest], distance, (int64_t)g->row_bytes))
            return true;
        for (i = 0; i < g->n_axes; i++) {
            if (i == longest)
                continue;
            /* 0, 1, ..., n-1, -(n-1), ..., -1, and the next axis moves. */
            step[i] = step[i] == (int64_t)g->axes[i].n - 1 ? -step[i] : step[i] + 1;
            if (step[i] != 0)
                break;
        }
    }
    return false;
}

static kvf_status_t check_grid(const struct grid *g, char *text, size_t text_cap)
{
    uint64_t inner = 0;
    unsigned axis;

    if (nests(g, &axis) || !overlaps(g))
        return KVF_OK;
    (void)span(g, axis, &inner);
    return kvfi_refuse(text, text_cap, KVF_EINVAL,
                       "rows overlap: %s %llu is inside the %llu bytes of the rows it steps over",
                       g->axes[axis].name, (unsigned long long)g->axes[axis].stride,
                       (unsigned long long)inner);
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Two bases whose rows overlap. The grid is that of one base; its span is known to fit. */
static kvf_status_t check_bases(const struct grid *g, const uint64_t *sorted, uint32_t n,
                                char *text, size_t text_cap)
{
    uint64_t bytes = 0;

    (void)span(g, g->n_axes, &bytes);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = i + 1; j < n && sorted[j] - sorted[i] < bytes; j++) {
            struct grid both = *g;
            unsigned axis;

            add_axis(&both, "bases", 2, sorted[j] - sorted[i]);
            if (!nests(&both, &axis) && overlaps(&both))
                return kvfi_refuse(text, text_cap, KVF_EINVAL,
                                   "rows overlap: bases %#llx and %#llx are %llu bytes apart",
                                   (unsigned long long)sorted[i], (unsigned long long)sorted[j],
                                   (unsigned long long)(sorted[j] - sorted[i]));
        }
    }
    return KVF_OK;
}

kvf_status_t kvfi_overlap_check(const struct kvf_pool_desc *desc,
                                const struct kvfi_pool_geometry *pool, char *text, size_t text_cap)
{
    struct grid g = {.row_bytes = pool->row_bytes};
    uint64_t *bases;
    uint64_t bytes;
    kvf_status_t status;

    add_axis(&g, "stride_row", pool->block_tokens / pool->tokens_per_row, desc->stride_row);
    add_axis(&g, "stride_head", pool->n_heads, desc->stride_head);
    if (desc->n_bases == 1) {
        add_axis(&g, "stride_kv", pool->n_kv, desc->stride_kv);
        add_axis(&g, "stride_layer", pool->n_layers, desc->stride_layer);
    }
    add_axis(&g, "stride_block", pool->n_blocks, desc->stride_block);
    if (!span(&g, g.n_axes, &bytes))
        return kvfi_refuse(
            text, text_cap, KVF_EINVAL, "%s %llu: the pool is larger than 2^61 bytes",
            g.n_axes ? g.axes[g.n_axes - 1].name : "row_bytes",
            (unsigned long long)(g.n_axes ? g.axes[g.n_axes - 1].stride : g.row_bytes));
    status = check_grid(&g, text, text_cap);
    if (status != KVF_OK)
        return status;
    bases = kvfi_calloc(desc->n_bases, sizeof(*bases));
    if (!bases)
        return kvfi_refuse(text, text_cap, KVF_ENOMEM, "no memory to compare %u bases",
                           desc->n_bases);
    for (uint32_t i = 0; i < desc->n_bases; i++)
        bases[i] = (uint64_t)(uintptr_t)desc->bases[i];
    qsort(bases, desc->n_bases, sizeof(*bases), compare_u64);
    if (bases[desc->n_bases - 1] > UINT64_MAX - bytes)
        status = kvfi_refuse(
            text, text_cap, KVF_EINVAL, "base %#llx and the pool's %llu bytes are over 2^64",
            (unsigned long long)bases[desc->n_bases - 1], (unsigned long long)bytes);
    else
        status = check_bases(&g, bases, desc->n_bases, text, text_cap);
    kvfi_free(bases);
    return status;
}
