/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cells of a pair: boxes of (layers x kv x heads) of one source and one destination pool that the
 * same set of source ranks holds. Found by walking: from a layer and a head, how far does nothing
 * change? Every holder answers that alone, so no sets of ranks are built or compared.
 */
#include "plugin/plan.h"

#include <string.h>

#include "collectives/util.h"
#include "plugin/text.h"

/* Where the walk is. Layers are the global ids of a stretch that is consecutive on both sides. */
struct walk {
    const struct kvfi_instance_geometry *instance; /* the source's */
    uint32_t src_rank;
    uint32_t role; /* never KVF_POOL_KV */
    uint32_t per_request;
    uint32_t first_head;
    uint32_t end_head;
    const struct kvfi_pool_geometry *src;
    const struct kvfi_pool_geometry *dst;
    struct kvfi_plan_cell cell; /* src_layer, dst_layer, src_head and dst_head move */
};

uint64_t kvfi_plan_lcm(uint64_t a, uint64_t b)
{
    uint64_t x = a;
    uint64_t y = b;
    uint64_t r;

    if (a == b)
        return a;
    while (y != 0) {
        uint64_t t = x % y;

        x = y;
        y = t;
    }
    if (x == 0 || __builtin_mul_overflow(a / x, b, &r))
        return 0;
    return r;
}

static uint32_t lcm_u32(uint32_t a, uint32_t b)
{
    uint64_t r = kvfi_plan_lcm(a, b);

    return r > UINT32_MAX ? 0 : (uint32_t)r;
}

/* Narrow the cell at `head` to where this holder's pool changes nothing; true if it holds it. */
static bool visit_pool(const struct walk *w, const struct kvfi_pool_geometry *pool, uint32_t head,
                       struct kvfi_plan_cell *cell)
{
    uint32_t pool_end = pool->first_head + pool->n_heads;
    bool held;

    if (pool->first_head >= w->end_head || pool_end <= w->first_head)
        return false;
    cell->n_layers =
        kvfi_layers_steady(pool, w->dst->layers + cell->dst_layer, cell->n_layers, &held);
    if (!held || pool_end <= head)
        return false;
    if (pool->first_head > head) {
        if (pool->first_head - head < cell->n_heads)
            cell->n_heads = pool->first_head - head;
        return false;
    }
    if (pool_end - head < cell->n_heads)
        cell->n_heads = pool_end - head;
    cell->token_atom = kvfi_plan_lcm(cell->token_atom, pool->token_atom);
    cell->head_atom = lcm_u32(cell->head_atom, pool->head_atom);
    return true;
}

static bool rank_can_hold(const struct walk *w, const struct kvf_place *place)
{
    const struct kvf_place *own = &w->instance->ranks[w->src_rank].place;

    return place->dp_group == own->dp_group && (w->per_request || place->cp_rank == own->cp_rank);
}

/*
 * The largest box from `head` and the walk's layer, at most n_layers layers, whose holders do not
 * change. All heads of the walk bound the layers, so that boxes of one layer range form a grid.
 */
static struct kvfi_plan_cell box_at(const struct walk *w, uint32_t head, uint32_t n_layers)
{
    struct kvfi_plan_cell cell = w->cell;

    cell.n_layers = n_layers;
    cell.src_head = head - w->src->first_head;
    cell.dst_head = head - w->dst->first_head;
    cell.n_heads = w->end_head - head;
    cell.token_atom = w->dst->token_atom;
    cell.head_atom = w->dst->head_atom;
    for (uint32_t r = 0; r < w->instance->n_ranks; r++) {
        const struct kvfi_rank_geometry *rank = &w->instance->ranks[r];
        bool holds = false;
        uint32_t kv;

        if (!rank_can_hold(w, &rank->place))
            continue;
        for (uint32_t p = 0; p < rank->n_pools; p++) {
            const struct kvfi_pool_geometry *pool = &rank->pools[p];

            if (kvfi_pool_has_role(pool, w->role, &kv) &&
                (pool->flags & KVF_POOL_PER_REQUEST) == w->per_request &&
                visit_pool(w, pool, head, &cell))
                holds = true;
        }
        if (holds && r < w->src_rank)
            cell.replica++;
        cell.n_replicas += holds;
    }
    return cell;
}

/* Same sources in the same order, as far as a plan can tell. */
static bool same_holders(const struct kvfi_plan_cell *a, const struct kvfi_plan_cell *b)
{
    return a->n_replicas == b->n_replicas && a->replica == b->replica &&
           a->token_atom == b->token_atom && a->head_atom == b->head_atom;
}

/* Append a cell, or widen the last one if it is in the list from `first` on and only heads go on. */
static kvf_status_t add_cell(struct kvfi_plan_pair *pair, const struct kvfi_plan_cell *cell,
                             uint32_t first)
{
    if (pair->n_cells > first && same_holders(&pair->cells[pair->n_cells - 1], cell)) {
        pair->cells[pair->n_cells - 1].n_heads += cell->n_heads;
        return KVF_OK;
    }
    if (pair->n_cells == pair->capacity) {
        uint32_t capacity = pair->capacity ? pair->capacity * 2 : 4;
        struct kvfi_plan_cell *cells;

        if (capacity > KVFI_PLAN_ENTRIES_MAX)
            return KVF_ENOSPC;
        cells = kvfi_calloc(capacity, sizeof(*cells));
        if (!cells)
            return KVF_ENOMEM;
        if (pair->n_cells > 0)
            memcpy(cells, pair->cells, pair->n_cells * sizeof(*cells));
        kvfi_free(pair->cells);
        pair->cells = cells;
        pair->capacity = capacity;
    }
    pair->cells[pair->n_cells++] = *cell;
    return KVF_OK;
}

static bool same_heads(const struct kvfi_plan_cell *a, const struct kvfi_plan_cell *b)
{
    return a->src_head == b->src_head && a->dst_head == b->dst_head && a->n_heads == b->n_heads;
}

/* Lists [first, middle) and [middle, n_cells): join the second to the first if layers continue. */
static void join_layers(struct kvfi_plan_pair *pair, uint32_t first, uint32_t middle)
{
    uint32_t n = middle - first;
    struct kvfi_plan_cell *a;
    const struct kvfi_plan_cell *b;

    if (n == 0 || pair->n_cells - middle != n)
        return;
    a = pair->cells + first;
    b = pair->cells + middle;
    for (uint32_t i = 0; i < n; i++) {
        if (!same_holders(&a[i], &b[i]) || !same_heads(&a[i], &b[i]) ||
            a[i].src_layer + a[i].n_layers != b[i].src_layer ||
            a[i].dst_layer + a[i].n_layers != b[i].dst_layer)
            return;
    }
    for (uint32_t i = 0; i < n; i++)
        a[i].n_layers += b[i].n_layers;
    pair->n_cells = middle;
}

/* Keys and values: one list of cells if the two are alike. */
static void join_kv(struct kvfi_plan_pair *pair, uint32_t first, uint32_t middle)
{
    uint32_t n = middle - first;
    struct kvfi_plan_cell *a;
    const struct kvfi_plan_cell *b;

    if (n == 0 || pair->n_cells - middle != n)
        return;
    a = pair->cells + first;
    b = pair->cells + middle;
    for (uint32_t i = 0; i < n; i++) {
        if (!same_holders(&a[i], &b[i]) || !same_heads(&a[i], &b[i]) ||
            a[i].src_layer != b[i].src_layer || a[i].dst_layer != b[i].dst_layer ||
            a[i].n_layers != b[i].n_layers || a[i].src_kv + 1 != b[i].src_kv ||
            a[i].dst_kv + 1 != b[i].dst_kv)
            return;
    }
    for (uint32_t i = 0; i < n; i++)
        a[i].n_kv = 2;
    pair->n_cells = middle;
}

/* Cells of n_layers layers from the walk's on, consecutive on both sides. */
static kvf_status_t add_stretch(struct kvfi_plan_pair *pair, struct walk *w, uint32_t n_layers)
{
    uint32_t previous = pair->n_cells;
    uint32_t first = previous;

    while (n_layers > 0) {
        uint32_t n = n_layers;

        for (uint32_t head = w->first_head; head < w->end_head;) {
            struct kvfi_plan_cell cell = box_at(w, head, n_layers);
            kvf_status_t status = add_cell(pair, &cell, first);

            if (status != KVF_OK)
                return status;
            head += cell.n_heads;
            n = cell.n_layers;
        }
        join_layers(pair, previous, first);
        if (pair->n_cells > first)
            previous = first;
        first = pair->n_cells;
        w->cell.src_layer += n;
        w->cell.dst_layer += n;
        n_layers -= n;
    }
    return KVF_OK;
}

/* All cells of one (source pool, destination pool, role). */
static kvf_status_t add_role(struct kvfi_plan_pair *pair, struct walk *w)
{
    const struct kvfi_pool_geometry *s = w->src;
    const struct kvfi_pool_geometry *d = w->dst;
    uint32_t i = 0;
    uint32_t k = 0;

    while (i < s->n_layers && k < d->n_layers) {
        uint32_t n = 0;
        kvf_status_t status;

        if (s->layers[i] != d->layers[k]) {
            if (s->layers[i] < d->layers[k])
                i++;
            else
                k++;
            continue;
        }
        while (i + n < s->n_layers && k + n < d->n_layers && s->layers[i + n] == d->layers[k + n])
            n++;
        w->cell.src_layer = i;
        w->cell.dst_layer = k;
        status = add_stretch(pair, w, n);
        if (status != KVF_OK)
            return status;
        i += n;
        k += n;
    }
    return KVF_OK;
}

/* All cells of one source and one destination pool. */
static kvf_status_t add_pools(struct kvfi_plan_pair *pair, struct walk *w)
{
    const struct kvfi_pool_geometry *s = w->src;
    const struct kvfi_pool_geometry *d = w->dst;
    uint32_t first = pair->n_cells;
    uint32_t middle = first;

    w->per_request = d->flags & KVF_POOL_PER_REQUEST;
    if ((s->flags & KVF_POOL_PER_REQUEST) != w->per_request)
        return KVF_OK;
    w->first_head = s->first_head > d->first_head ? s->first_head : d->first_head;
    w->end_head = s->first_head + s->n_heads;
    if (d->first_head + d->n_heads < w->end_head)
        w->end_head = d->first_head + d->n_heads;
    for (uint32_t kv = 0; kv < d->n_kv; kv++) {
        uint32_t src_kv;
        kvf_status_t status;

        w->role = d->role;
        if (d->role == KVF_POOL_KV)
            w->role = kv == 0 ? KVF_POOL_KEY : KVF_POOL_VALUE;
        middle = pair->n_cells;
        if (!kvfi_pool_has_role(s, w->role, &src_kv))
            continue;
        w->cell.src_kv = src_kv;
        w->cell.dst_kv = kv;
        w->cell.n_kv = 1;
        status = add_role(pair, w);
        if (status != KVF_OK)
            return status;
    }
    join_kv(pair, first, middle);
    return KVF_OK;
}

kvf_status_t kvfi_plan_pair_init(const struct kvfi_instance_geometry *src,
                                 const struct kvfi_instance_geometry *dst, uint32_t src_rank,
                                 uint32_t dst_rank, char *text, size_t text_cap,
                                 struct kvfi_plan_pair *ret_pair)
{
    struct kvfi_plan_pair pair = {0};
    struct walk w = {.instance = src, .src_rank = src_rank};

    if (src_rank >= src->n_ranks || dst_rank >= dst->n_ranks)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "pair of ranks %u and %u: the instances have %u and %u ranks", src_rank,
                           dst_rank, src->n_ranks, dst->n_ranks);
    pair.src = &src->ranks[src_rank];
    pair.dst = &dst->ranks[dst_rank];
    for (uint32_t d = 0; d < pair.dst->n_pools; d++) {
        for (uint32_t s = 0; s < pair.src->n_pools; s++) {
            kvf_status_t status;

            w.src = &pair.src->pools[s];
            w.dst = &pair.dst->pools[d];
            w.cell = (struct kvfi_plan_cell){.src_pool = s, .dst_pool = d};
            status = add_pools(&pair, &w);
            if (status == KVF_OK)
                continue;
            kvfi_plan_pair_fini(&pair);
            return kvfi_refuse(text, text_cap, status,
                               status == KVF_ENOMEM
                                   ? "no memory to compare two ranks' pools"
                                   : "two ranks' pools overlap in more than 65536 pieces");
        }
    }
    *ret_pair = pair;
    return KVF_OK;
}

void kvfi_plan_pair_fini(struct kvfi_plan_pair *pair)
{
    if (!pair)
        return;
    kvfi_free(pair->cells);
    *pair = (struct kvfi_plan_pair){0};
}
