/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether one instance can feed another. Most ranks of an instance hold pools that differ in
 * nothing but their heads; such pools are compared once, as one shape.
 */
#include "plugin/geometry.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/text.h"

enum { SHAPES_MAX = 4096 };

/* Pools alike in all but heads, whose head ranges touch. */
struct shape {
    const struct kvfi_pool_geometry *pool; /* one of them */
    uint32_t first_head;
    uint32_t end_head;
};

struct member {
    const struct kvfi_rank_geometry *rank;
};

struct side {
    const struct kvfi_instance_geometry *instance;
    const char *name; /* "source", "destination" */
    struct shape *shapes;
    size_t n_shapes;
    struct member *members; /* ranks by (dp group, cp rank) */
};

struct match {
    struct side src;
    struct side dst;
    char *text;
    size_t text_cap;
};

/* ---- shapes ------------------------------------------------------------------------------- */

static int compare_u64(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int compare_pools(const struct kvfi_pool_geometry *a, const struct kvfi_pool_geometry *b)
{
    int order = compare_u64(a->role, b->role);

    if (order == 0)
        order = compare_u64(a->flags, b->flags);
    if (order == 0)
        order = compare_u64(a->row_bytes, b->row_bytes);
    if (order == 0)
        order = compare_u64(a->tokens_per_row, b->tokens_per_row);
    if (order == 0)
        order = compare_u64(a->n_heads_total, b->n_heads_total);
    if (order == 0)
        order = strcmp(a->format, b->format);
    if (order == 0)
        order = compare_u64(a->n_layers, b->n_layers);
    if (order == 0)
        order = memcmp(a->layers, b->layers, a->n_layers * sizeof(*a->layers));
    return order;
}

static int compare_shapes(const void *a, const void *b)
{
    const struct shape *x = a;
    const struct shape *y = b;
    int order = compare_pools(x->pool, y->pool);

    return order ? order : compare_u64(x->first_head, y->first_head);
}

static int compare_members(const void *a, const void *b)
{
    const struct kvf_place *x = &((const struct member *)a)->rank->place;
    const struct kvf_place *y = &((const struct member *)b)->rank->place;
    int order = compare_u64(x->dp_group, y->dp_group);

    return order ? order : compare_u64(x->cp_rank, y->cp_rank);
}

/* Sorts, and joins what is alike. */
static size_t join_shapes(struct shape *shapes, size_t n)
{
    size_t n_out = 0;

    if (n == 0)
        return 0;
    qsort(shapes, n, sizeof(*shapes), compare_shapes);
    for (size_t i = 1; i < n; i++) {
        struct shape *last = &shapes[n_out];

        if (compare_pools(last->pool, shapes[i].pool) != 0 || shapes[i].first_head > last->end_head)
            shapes[++n_out] = shapes[i];
        else if (shapes[i].end_head > last->end_head)
            last->end_head = shapes[i].end_head;
    }
    return n_out + 1;
}

static kvf_status_t side_init(struct match *m, struct side *side)
{
    const struct kvfi_instance_geometry *in = side->instance;
    size_t n = 0;

    for (uint32_t r = 0; r < in->n_ranks; r++)
        n += in->ranks[r].n_pools;
    side->shapes = kvfi_calloc(n + 1, sizeof(*side->shapes));
    side->members = kvfi_calloc(in->n_ranks, sizeof(*side->members));
    if (!side->shapes || !side->members)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOMEM, "no memory to compare %zu pools", n);
    n = 0;
    for (uint32_t r = 0; r < in->n_ranks; r++) {
        side->members[r].rank = &in->ranks[r];
        for (uint32_t i = 0; i < in->ranks[r].n_pools; i++) {
            const struct kvfi_pool_geometry *pool = &in->ranks[r].pools[i];

            side->shapes[n++] =
                (struct shape){pool, pool->first_head, pool->first_head + pool->n_heads};
        }
    }
    qsort(side->members, in->n_ranks, sizeof(*side->members), compare_members);
    side->n_shapes = join_shapes(side->shapes, n);
    if (side->n_shapes > SHAPES_MAX)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOSPC, "%s has %zu different pools, limit %u",
                           side->name, side->n_shapes, (unsigned)SHAPES_MAX);
    return KVF_OK;
}

static void side_fini(struct side *side)
{
    kvfi_free(side->shapes);
    kvfi_free(side->members);
}

/* The roles of a pool that are matched: KV is two. Returns how many. */
static unsigned roles_of(const struct kvfi_pool_geometry *pool, uint32_t ret_roles[2])
{
    ret_roles[0] = pool->role;
    if (pool->role != KVF_POOL_KV)
        return 1;
    ret_roles[0] = KVF_POOL_KEY;
    ret_roles[1] = KVF_POOL_VALUE;
    return 2;
}

/* ---- attributes --------------------------------------------------------------------------- */

/* A layer both sides have: equal in everything that makes the bytes of a row. */
static kvf_status_t check_attributes(const struct match *m, const struct kvfi_pool_geometry *s,
                                     const struct kvfi_pool_geometry *d, uint32_t role,
                                     uint32_t layer)
{
    const struct {
        const char *what;
        uint64_t src;
        uint64_t dst;
    } members[] = {
        {"row_bytes", s->row_bytes, d->row_bytes},
        {"tokens_per_row", s->tokens_per_row, d->tokens_per_row},
        {"n_heads_total", s->n_heads_total, d->n_heads_total},
        {"flag KVF_POOL_PER_REQUEST", s->flags & KVF_POOL_PER_REQUEST,
         d->flags & KVF_POOL_PER_REQUEST},
    };

    if (strcmp(s->format, d->format) != 0)
        return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                           "format of role %u, layer %u: source \"%s\", destination \"%s\"", role,
                           layer, s->format, d->format);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(members); i++) {
        if (members[i].src != members[i].dst)
            return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                               "%s of role %u, layer %u: source %llu, destination %llu",
                               members[i].what, role, layer, (unsigned long long)members[i].src,
                               (unsigned long long)members[i].dst);
    }
    return KVF_OK;
}

/* Marks the layers of `pool` that `other` has too; returns how many. */
static uint32_t mark_common(const struct kvfi_pool_geometry *pool,
                            const struct kvfi_pool_geometry *other, bool *found,
                            uint32_t *ret_layer)
{
    uint32_t n = 0;

    for (uint32_t i = 0, j = 0; i < pool->n_layers && j < other->n_layers;) {
        if (pool->layers[i] < other->layers[j]) {
            i++;
        } else if (pool->layers[i] > other->layers[j]) {
            j++;
        } else {
            *ret_layer = pool->layers[i];
            found[i] = true;
            n++;
            i++;
            j++;
        }
    }
    return n;
}

/* Layers of a role of one shape: the other side has them, and alike. */
static kvf_status_t check_role(const struct match *m, const struct side *other,
                               const struct kvfi_pool_geometry *pool, uint32_t role)
{
    bool found[KVFI_LAYERS_MAX] = {false};

    for (size_t i = 0; i < other->n_shapes; i++) {
        const struct kvfi_pool_geometry *o = other->shapes[i].pool;
        bool is_dst = other == &m->dst;
        uint32_t kv;
        uint32_t layer = 0;
        kvf_status_t status;

        if (!kvfi_pool_has_role(o, role, &kv) || mark_common(pool, o, found, &layer) == 0)
            continue;
        status = check_attributes(m, is_dst ? pool : o, is_dst ? o : pool, role, layer);
        if (status != KVF_OK)
            return status;
    }
    for (uint32_t i = 0; i < pool->n_layers && !(pool->flags & KVF_POOL_OPTIONAL); i++) {
        if (!found[i])
            return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                               "layer %u of role %u: %s has it, %s does not", pool->layers[i], role,
                               other == &m->dst ? "source" : "destination", other->name);
    }
    return KVF_OK;
}

static kvf_status_t check_side(const struct match *m, const struct side *side,
                               const struct side *other)
{
    for (size_t i = 0; i < side->n_shapes; i++) {
        uint32_t roles[2];
        unsigned n = roles_of(side->shapes[i].pool, roles);

        for (unsigned k = 0; k < n; k++) {
            kvf_status_t status = check_role(m, other, side->shapes[i].pool, roles[k]);

            if (status != KVF_OK)
                return status;
        }
    }
    return KVF_OK;
}

/* ---- heads -------------------------------------------------------------------------------- */

/* What ranks [0, n) have of a role from a layer and a head on. */
struct cover {
    uint32_t end_head; /* = head if nobody has it */
    uint32_t n_layers; /* for which that holds */
};

static struct cover cover_at(const struct member *members, size_t n, uint32_t role,
                             const struct kvfi_pool_geometry *want, uint32_t layer, uint32_t head)
{
    struct cover c = {head, want->n_layers - layer};

    for (size_t r = 0; r < n; r++) {
        for (uint32_t i = 0; i < members[r].rank->n_pools; i++) {
            const struct kvfi_pool_geometry *pool = &members[r].rank->pools[i];
            uint32_t kv;
            bool held;

            if (!kvfi_pool_has_role(pool, role, &kv) || pool->first_head > head ||
                pool->first_head + pool->n_heads <= head)
                continue;
            c.n_layers = kvfi_layers_steady(pool, want->layers + layer, c.n_layers, &held);
            if (held && pool->first_head + pool->n_heads > c.end_head)
                c.end_head = pool->first_head + pool->n_heads;
        }
    }
    return c;
}

/* Whether the source has this (optional) layer at all. */
static bool source_has(const struct match *m, uint32_t role, uint32_t layer)
{
    for (size_t i = 0; i < m->src.n_shapes; i++) {
        uint32_t kv;
        bool held;

        if (kvfi_pool_has_role(m->src.shapes[i].pool, role, &kv) &&
            kvfi_layers_steady(m->src.shapes[i].pool, &layer, 1, &held) == 1 && held)
            return true;
    }
    return false;
}

/* All heads of all layers of a wanted shape are among the n source ranks. */
static kvf_status_t check_heads(const struct match *m, const struct shape *want, uint32_t role,
                                const struct member *members, size_t n)
{
    const struct kvfi_pool_geometry *pool = want->pool;
    uint32_t n_steady;

    for (uint32_t layer = 0; layer < pool->n_layers; layer += n_steady) {
        n_steady = pool->n_layers - layer;
        for (uint32_t head = want->first_head; head < want->end_head;) {
            struct cover c = cover_at(members, n, role, pool, layer, head);

            if (c.n_layers < n_steady)
                n_steady = c.n_layers;
            if (c.end_head > head) {
                head = c.end_head;
                continue;
            }
            if ((pool->flags & KVF_POOL_OPTIONAL) && !source_has(m, role, pool->layers[layer])) {
                n_steady = 1;
                break;
            }
            return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                               "head %u of role %u, layer %u: destination has it, source's dp "
                               "group %u, cp rank %u does not",
                               head, role, pool->layers[layer], members[0].rank->place.dp_group,
                               members[0].rank->place.cp_rank);
        }
    }
    return KVF_OK;
}

/* The source ranks from the first-th on that share a request's rows: how many. */
static size_t part_of(const struct match *m, size_t first, bool per_request)
{
    const struct kvf_place *a = &m->src.members[first].rank->place;
    size_t end = first;

    while (end < m->src.instance->n_ranks &&
           m->src.members[end].rank->place.dp_group == a->dp_group &&
           (per_request || m->src.members[end].rank->place.cp_rank == a->cp_rank))
        end++;
    return end - first;
}

static kvf_status_t check_shape_heads(const struct match *m, const struct shape *want)
{
    uint32_t roles[2];
    unsigned n_roles = roles_of(want->pool, roles);
    bool per_request = (want->pool->flags & KVF_POOL_PER_REQUEST) != 0;
    size_t n;

    for (size_t first = 0; first < m->src.instance->n_ranks; first += n) {
        n = part_of(m, first, per_request);
        for (unsigned k = 0; k < n_roles; k++) {
            kvf_status_t status = check_heads(m, want, roles[k], m->src.members + first, n);

            if (status != KVF_OK)
                return status;
        }
    }
    return KVF_OK;
}

/* ---- the whole ---------------------------------------------------------------------------- */

kvf_status_t kvfi_geometry_match(const struct kvfi_instance_geometry *src,
                                 const struct kvfi_instance_geometry *dst, char *text,
                                 size_t text_cap)
{
    struct match m = {
        .src = {.instance = src, .name = "source"},
        .dst = {.instance = dst, .name = "destination"},
        .text = text,
        .text_cap = text_cap,
    };
    kvf_status_t status;

    if (strcmp(src->compat, dst->compat) != 0)
        return kvfi_refuse(text, text_cap, KVF_EMISMATCH,
                           "compat: source \"%s\", destination \"%s\"", src->compat, dst->compat);
    status = side_init(&m, &m.src);
    if (status == KVF_OK)
        status = side_init(&m, &m.dst);
    if (status == KVF_OK)
        status = check_side(&m, &m.dst, &m.src);
    if (status == KVF_OK)
        status = check_side(&m, &m.src, &m.dst);
    for (size_t i = 0; status == KVF_OK && i < m.dst.n_shapes; i++)
        status = check_shape_heads(&m, &m.dst.shapes[i]);
    side_fini(&m.src);
    side_fini(&m.dst);
    return status;
}
