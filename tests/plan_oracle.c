/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan_cells.h"
#include "plan_text.h"

#define NOBODY (-1)

void oracle_init(struct oracle *o, const struct topo *topo)
{
    memset(o, 0, sizeof(*o));
    o->topo = topo;
    o->src = must_calloc(2, sizeof(*o->src)); /* [0] for the one end, [1] for the other */
    o->dst = must_calloc(2, sizeof(*o->dst));
    for (uint32_t variant = 0; variant < 2; variant++) {
        topo_build(topo, TOPO_SRC, variant, &o->src[variant]);
        topo_build(topo, TOPO_DST, variant, &o->dst[variant]);
    }
    o->src_ranks = map_side(topo, o->src);
    o->dst_ranks = map_side(topo, o->dst);
    o->pairs = must_calloc((size_t)o->src->n_ranks * o->dst->n_ranks, sizeof(*o->pairs));
    o->sent_bytes = must_calloc(o->src->n_ranks, sizeof(*o->sent_bytes));
}

void oracle_fini(struct oracle *o)
{
    for (uint32_t i = 0; i < o->src->n_ranks * o->dst->n_ranks; i++) {
        if (o->pairs[i].src)
            kvfi_plan_pair_fini(&o->pairs[i]);
    }
    free(o->pairs);
    free_side(o->src, o->src_ranks);
    free_side(o->dst, o->dst_ranks);
    for (uint32_t variant = 0; variant < 2; variant++) {
        topo_free(&o->src[variant]);
        topo_free(&o->dst[variant]);
    }
    free(o->src);
    free(o->dst);
    free(o->sent_bytes);
    free(o->last_entries);
    free(o->last_rows);
    memset(o, 0, sizeof(*o));
}

/* ---- plans of a pair ---- */

static void fill_input(const struct oracle *o, uint32_t src, uint32_t dst,
                       const struct kvfi_extent_box *extent, uint32_t variant,
                       struct kvfi_plan_input *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->src = &o->src[variant];
    ret->dst = &o->dst[variant];
    ret->src_rank = src;
    ret->dst_rank = dst;
    ret->extent = extent;
    memcpy(ret->ranges, o->topo->ranges, sizeof(ret->ranges));
    memcpy(ret->request.bytes, &o->topo->request, 8);
    memcpy(ret->request.bytes + 8, &o->topo->request_high, 8);
}

static bool compute(struct oracle *o, uint32_t src, uint32_t dst,
                    const struct kvfi_extent_box *extent, struct kvfi_plan *ret_plan)
{
    struct kvfi_plan_input input;
    char text[256] = "";
    kvf_status_t status;

    fill_input(o, src, dst, extent, 0, &input);
    memset(ret_plan, 0, sizeof(*ret_plan));
    status = kvfi_plan_init(&input, text, sizeof(text), ret_plan);
    if (status != KVF_OK)
        return text_fault(o->text, sizeof(o->text), "plan %u -> %u: status %d: %s", src, dst,
                          (int)status, text);
    o->counts.plans++;
    return true;
}

/* The other end: its own geometry, and a pair that is made once for all plans. */
static bool compute_other(struct oracle *o, uint32_t src, uint32_t dst,
                          const struct kvfi_extent_box *extent, struct kvfi_plan *ret_plan)
{
    struct kvfi_plan_pair *pair = &o->pairs[src * o->dst->n_ranks + dst];
    struct kvfi_plan_input input;
    char text[256] = "";
    kvf_status_t status = KVF_OK;

    fill_input(o, src, dst, extent, 1, &input);
    if (!pair->src)
        status = kvfi_plan_pair_init(input.src, input.dst, src, dst, text, sizeof(text), pair);
    memset(ret_plan, 0, sizeof(*ret_plan));
    if (status == KVF_OK)
        status = kvfi_plan_make(pair, &input, text, sizeof(text), ret_plan);
    if (status != KVF_OK)
        return text_fault(o->text, sizeof(o->text), "pair %u -> %u: status %d: %s", src, dst,
                          (int)status, text);
    return true;
}

static uint64_t row_bytes_of(const struct oracle *o, uint32_t src, const struct kvfi_plan *plan,
                             uint32_t e)
{
    return o->src->ranks[src].pools[plan->entries[e].src_pool].row_bytes;
}

/* Both ends have the same list, and its hash tells it from the list before. */
static bool check_hash(struct oracle *o, uint32_t src, uint32_t dst, const struct kvfi_plan *plan,
                       const struct kvfi_plan *other)
{
    size_t n_bytes = plan->n_entries * sizeof(*plan->entries);
    bool same = o->last_entries && plan->n_entries == o->last_n;

    if (plan->n_entries != other->n_entries || plan->bytes != other->bytes)
        return text_fault(o->text, sizeof(o->text),
                          "plan %u -> %u: the ends have %u and %u entries, %llu and %llu bytes",
                          src, dst, plan->n_entries, other->n_entries,
                          (unsigned long long)plan->bytes, (unsigned long long)other->bytes);
    if (n_bytes && memcmp(plan->entries, other->entries, n_bytes) != 0)
        return text_fault(o->text, sizeof(o->text),
                          "plan %u -> %u: the ends have different entries", src, dst);
    if (plan->hash != other->hash || plan->hash == 0)
        return text_fault(o->text, sizeof(o->text), "plan %u -> %u: hash %llx here, %llx there",
                          src, dst, (unsigned long long)plan->hash,
                          (unsigned long long)other->hash);
    for (uint32_t e = 0; same && e < plan->n_entries; e++)
        same = memcmp(&plan->entries[e], &o->last_entries[e], sizeof(*plan->entries)) == 0 &&
               row_bytes_of(o, src, plan, e) == o->last_rows[e];
    if (o->last_entries && same != (plan->hash == o->last_hash))
        return text_fault(o->text, sizeof(o->text),
                          "plan %u -> %u: %s entries and row sizes as before, but %s hash %llx",
                          src, dst, same ? "the same" : "not the same",
                          same ? "another" : "the same", (unsigned long long)plan->hash);
    free(o->last_entries);
    free(o->last_rows);
    o->last_entries = must_calloc(plan->n_entries, sizeof(*o->last_entries));
    o->last_rows = must_calloc(plan->n_entries, sizeof(*o->last_rows));
    o->last_n = plan->n_entries;
    o->last_hash = plan->hash;
    for (uint32_t e = 0; e < plan->n_entries; e++) {
        o->last_entries[e] = plan->entries[e];
        o->last_rows[e] = row_bytes_of(o, src, plan, e);
    }
    return true;
}

/* An entry lies within both pools; its form is as plan.h says. */
static bool check_entry(struct oracle *o, uint32_t src, uint32_t dst,
                        const struct kvfi_plan_entry *e)
{
    const struct kvfi_rank_geometry *s = &o->src->ranks[src];
    const struct kvfi_rank_geometry *d = &o->dst->ranks[dst];
    const struct kvfi_pool_geometry *a;
    const struct kvfi_pool_geometry *b;

    if (e->src_pool >= s->n_pools || e->dst_pool >= d->n_pools)
        return text_fault(o->text, sizeof(o->text), "%u -> %u: pools %u -> %u do not exist", src,
                          dst, e->src_pool, e->dst_pool);
    a = &s->pools[e->src_pool];
    b = &d->pools[e->dst_pool];
    if (!e->n_layers || !e->n_kv || !e->n_heads || !e->n_runs || !e->run_rows)
        return text_fault(o->text, sizeof(o->text), "%u -> %u: an empty entry", src, dst);
    if (e->src_layer + e->n_layers > a->n_layers || e->dst_layer + e->n_layers > b->n_layers ||
        e->src_kv + e->n_kv > a->n_kv || e->dst_kv + e->n_kv > b->n_kv ||
        e->src_head + e->n_heads > a->n_heads || e->dst_head + e->n_heads > b->n_heads)
        return text_fault(o->text, sizeof(o->text),
                          "%u -> %u: layers %u -> %u x%u, kv %u -> %u x%u, heads %u -> %u x%u", src,
                          dst, e->src_layer, e->dst_layer, e->n_layers, e->src_kv, e->dst_kv,
                          e->n_kv, e->src_head, e->dst_head, e->n_heads);
    if (e->n_runs > 1 && s->place.cp_size == 1 && d->place.cp_size == 1)
        return text_fault(o->text, sizeof(o->text), "%u -> %u: %u runs without context parallelism",
                          src, dst, e->n_runs);
    return true;
}

/* One (layer, kv, head) of an entry: each row goes where the definitions want it. */
static bool deliver_lane(struct oracle *o, const struct lane *from, const struct lane *to,
                         const struct kvfi_plan_entry *e, int32_t *cells)
{
    const struct oracle_pool *a = lane_rows(from);
    const struct oracle_pool *b = lane_rows(to);
    uint32_t src = from->rank->place.rank;
    uint32_t dst = to->rank->place.rank;

    if (!same_lane(from, to))
        return text_fault(o->text, sizeof(o->text),
                          "%u -> %u: pools %u -> %u, layers %u -> %u, kv %u -> %u, heads %u -> %u",
                          src, dst, from->pool, to->pool, from->layer, to->layer, from->kv, to->kv,
                          from->head, to->head);
    for (uint64_t i = 0; i < e->n_runs; i++) {
        for (uint64_t k = 0; k < e->run_rows; k++) {
            uint64_t x = e->src_row + i * e->src_step + k;
            uint64_t y = e->dst_row + i * e->dst_step + k;
            int32_t *cell;

            if (x >= a->n_rows || y >= b->n_rows || a->q_of_row[x] != b->q_of_row[y])
                return text_fault(o->text, sizeof(o->text),
                                  "%u -> %u: row %llu -> %llu is of another place, pools %u -> %u",
                                  src, dst, (unsigned long long)x, (unsigned long long)y,
                                  from->pool, to->pool);
            cell = &cells[cell_of(to, (uint32_t)y)];
            if (*cell != NOBODY)
                return text_fault(
                    o->text, sizeof(o->text),
                    "%u -> %u: pool %u layer %u kv %u head %u row %llu has come from %d", src, dst,
                    to->pool, to->layer, to->kv, to->head, (unsigned long long)y, *cell);
            *cell = (int32_t)src;
        }
    }
    return true;
}

/* Expand a pair's plan into the destination's cells; ret_n: how many. */
static bool deliver(struct oracle *o, uint32_t src, uint32_t dst, const struct kvfi_plan *plan,
                    int32_t *cells, uint64_t *ret_n)
{
    uint64_t bytes = 0;

    *ret_n = 0;
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct kvfi_plan_entry *e = &plan->entries[i];
        uint64_t n;

        if (!check_entry(o, src, dst, e))
            return false;
        for (uint32_t b = 0; b < e->n_layers * e->n_kv * e->n_heads; b++) {
            uint32_t h = b % e->n_heads;
            uint32_t v = b / e->n_heads % e->n_kv;
            uint32_t l = b / e->n_heads / e->n_kv;
            struct lane from = {&o->src->ranks[src], &o->src_ranks[src], e->src_pool,
                                e->src_layer + l,    e->src_kv + v,      e->src_head + h};
            struct lane to = {&o->dst->ranks[dst], &o->dst_ranks[dst], e->dst_pool,
                              e->dst_layer + l,    e->dst_kv + v,      e->dst_head + h};

            if (!deliver_lane(o, &from, &to, e, cells))
                return false;
        }
        n = (uint64_t)e->n_layers * e->n_kv * e->n_heads * e->n_runs * e->run_rows;
        *ret_n += n;
        bytes += n * row_bytes_of(o, src, plan, i);
    }
    if (bytes != plan->bytes)
        return text_fault(o->text, sizeof(o->text),
                          "%u -> %u: bytes is %llu, the entries have %llu", src, dst,
                          (unsigned long long)plan->bytes, (unsigned long long)bytes);
    return true;
}

/* Plan of a pair at both ends, expanded. */
static bool run_pair(struct oracle *o, uint32_t src, uint32_t dst,
                     const struct kvfi_extent_box *extent, int32_t *cells)
{
    struct kvfi_plan plan;
    struct kvfi_plan other;
    uint64_t n = 0;
    bool ok;

    if (!compute(o, src, dst, extent, &plan))
        return false;
    if (!compute_other(o, src, dst, extent, &other)) {
        kvfi_plan_fini(&plan);
        return false;
    }
    ok = deliver(o, src, dst, &plan, cells, &n) && check_hash(o, src, dst, &plan, &other);
    if (!extent) {
        o->counts.cells += n;
        o->counts.entries += plan.n_entries;
        o->sent_bytes[src] += plan.bytes;
    }
    kvfi_plan_fini(&plan);
    kvfi_plan_fini(&other);
    return ok;
}

static bool run_group(struct oracle *o, uint32_t src_dp, uint32_t dst,
                      const struct kvfi_extent_box *extent, int32_t *cells)
{
    for (uint32_t r = 0; r < o->src->n_ranks; r++) {
        if (o->src->ranks[r].place.dp_group == src_dp && !run_pair(o, r, dst, extent, cells))
            return false;
    }
    return true;
}

/* ---- what a destination rank has got ---- */

/* Walk over the stripes of one (layer, kv, head) and one cp rank of the source, by rising row. */
struct stripes {
    uint32_t n_replicas;
    uint32_t first; /* number of the replica that had the first row */
    uint32_t turns; /* replicas since then */
    int32_t from;
    uint64_t last_token;
};

static bool check_stripe(struct oracle *o, const struct lane *to, const struct holders *holders,
                         uint32_t q, int32_t from, struct stripes *s)
{
    struct replicas r = find_replicas(holders, to, q, from);
    uint64_t token = (uint64_t)q * lane_pool(to)->tokens_per_row;
    uint32_t turns;

    if (r.me == UINT32_MAX)
        return text_fault(o->text, sizeof(o->text),
                          "rank %u: row %u came from %d, which is no holder", to->rank->place.rank,
                          q, from);
    o->counts.stripes_moved += r.n > 1;
    if (s->n_replicas == 0)
        *s = (struct stripes){.n_replicas = r.n, .first = r.me, .from = from, .last_token = token};
    turns = (r.me + r.n - s->first) % r.n;
    if (r.n != s->n_replicas || turns < s->turns)
        return text_fault(o->text, sizeof(o->text),
                          "rank %u: pool %u head %u row %u: replica %u of %u is out of turn",
                          to->rank->place.rank, to->pool, to->head, q, r.me, r.n);
    if (from != s->from && token / r.atom == s->last_token / r.atom)
        return text_fault(o->text, sizeof(o->text),
                          "rank %u: pool %u head %u row %u: a stripe begins within an atom of %llu",
                          to->rank->place.rank, to->pool, to->head, q, (unsigned long long)r.atom);
    s->turns = turns;
    s->from = from;
    s->last_token = token;
    return true;
}

/* One (layer, kv, head) of the destination: all that is wanted has come, and by stripes. */
static bool check_lane(struct oracle *o, uint32_t src_dp, const struct lane *to,
                       const int32_t *cells)
{
    const struct kvfi_pool_geometry *pool = lane_pool(to);
    const struct oracle_pool *map = lane_rows(to);
    struct holders holders;
    struct stripes stripes[8] = {{0}}; /* by the source's cp rank */

    find_holders(o->src, o->src_ranks, src_dp, to, &holders);
    if (holders.n == 0 && !(pool->flags & KVF_POOL_OPTIONAL))
        return text_fault(o->text, sizeof(o->text), "topology: nobody has role %u layer %u head %u",
                          plain_role(pool, to->kv), pool->layers[to->layer],
                          pool->first_head + to->head);
    for (uint32_t row = 0; row < map->n_rows; row++) {
        uint32_t q = map->q_of_row[row];
        int32_t from = cells[cell_of(to, row)];
        bool wanted = holders.n > 0 && row_in_range(pool, &o->topo->ranges[pool->group], q);

        if (wanted != (from != NOBODY))
            return text_fault(
                o->text, sizeof(o->text),
                "rank %u: pool %u layer %u kv %u head %u row %u (%u of the request) %s",
                to->rank->place.rank, to->pool, to->layer, to->kv, to->head, row, q,
                wanted ? "did not come" : "came unasked");
        if (wanted &&
            !check_stripe(o, to, &holders, q, from, &stripes[o->src->ranks[from].place.cp_rank]))
            return false;
    }
    return true;
}

/* All lanes of a destination rank. */
static bool check_rank(struct oracle *o, uint32_t src_dp, uint32_t dst, const int32_t *cells)
{
    struct lane to = {.rank = &o->dst->ranks[dst], .rows = &o->dst_ranks[dst]};

    for (to.pool = 0; to.pool < to.rank->n_pools; to.pool++) {
        for (uint32_t i = 0; lane_nth(&to, i); i++) {
            if (!check_lane(o, src_dp, &to, cells))
                return false;
        }
    }
    return true;
}

static int32_t *make_cells(const struct oracle *o, uint32_t dst)
{
    uint32_t n = o->dst_ranks[dst].n_cells;
    int32_t *cells = must_calloc(n, sizeof(*cells));

    for (uint32_t i = 0; i < n; i++)
        cells[i] = NOBODY;
    return cells;
}

/* ---- extents ---- */

/* An extent's plan fills exactly the cells that are the extent's, from where all has them. */
static bool check_extent_lane(struct oracle *o, const struct holders *holders,
                              const struct lane *to, const struct kvfi_extent_box *box,
                              const int32_t *all, const int32_t *part)
{
    const struct kvfi_pool_geometry *pool = lane_pool(to);
    const struct oracle_pool *map = lane_rows(to);
    const struct kvf_token_range *range = &o->topo->ranges[pool->group];
    uint32_t layer = pool->layers[to->layer];
    bool has_layer = layer >= box->first_layer && layer < box->end_layer;

    for (uint32_t row = 0; row < map->n_rows; row++) {
        uint32_t cell = cell_of(to, row);
        int32_t want = NOBODY;

        if (all[cell] != NOBODY && has_layer) {
            uint32_t q = map->q_of_row[row];
            struct replicas r = find_replicas(holders, to, q, all[cell]);
            uint64_t token = deciding_token(pool, range, r.atom, q);

            if (token >= box->tokens[r.group].begin && token < box->tokens[r.group].end)
                want = all[cell];
        }
        if (part[cell] != want)
            return text_fault(
                o->text, sizeof(o->text),
                "extent layers [%u,%u) tokens of group 0 [%llu,%llu): rank %u pool %u "
                "layer %u kv %u head %u row %u came from %d, not %d",
                box->first_layer, box->end_layer, (unsigned long long)box->tokens[0].begin,
                (unsigned long long)box->tokens[0].end, to->rank->place.rank, to->pool, to->layer,
                to->kv, to->head, row, part[cell], want);
    }
    return true;
}

/* Plans with an extent against all, the plan without; adds what came to sum. */
static bool check_extent(struct oracle *o, uint32_t src_dp, uint32_t dst,
                         const struct kvfi_extent_box *box, const int32_t *all, int32_t *sum)
{
    struct lane to = {.rank = &o->dst->ranks[dst], .rows = &o->dst_ranks[dst]};
    struct holders holders;
    int32_t *part = make_cells(o, dst);
    bool ok = run_group(o, src_dp, dst, box, part);

    for (to.pool = 0; ok && to.pool < to.rank->n_pools; to.pool++) {
        for (uint32_t i = 0; ok && lane_nth(&to, i); i++) {
            find_holders(o->src, o->src_ranks, src_dp, &to, &holders);
            ok = check_extent_lane(o, &holders, &to, box, all, part);
        }
    }
    for (uint32_t i = 0; ok && sum && i < o->dst_ranks[dst].n_cells; i++) {
        if (part[i] != NOBODY && sum[i] != NOBODY)
            ok = text_fault(o->text, sizeof(o->text),
                            "rank %u: cell %u is in two extents of a partition", dst, i);
        else if (part[i] != NOBODY)
            sum[i] = part[i];
    }
    free(part);
    return ok;
}

#define CUTS_MAX 4u

/* n + 1 rising numbers, the first 0, the last at least end. */
static void random_cuts(struct topo_rng *rng, uint32_t n, uint64_t end, uint64_t *ret_cuts)
{
    ret_cuts[0] = 0;
    for (uint32_t i = 1; i < n; i++)
        ret_cuts[i] = topo_rnd(rng, (uint32_t)end + 3);
    ret_cuts[n] = topo_rnd(rng, 2) ? end : KVF_TOKENS_ALL;
    for (uint32_t i = 1; i < n; i++) {
        for (uint32_t k = i; k > 1 && ret_cuts[k] < ret_cuts[k - 1]; k--) {
            uint64_t swap = ret_cuts[k];

            ret_cuts[k] = ret_cuts[k - 1];
            ret_cuts[k - 1] = swap;
        }
    }
    for (uint32_t i = 1; i < n; i++) {
        if (ret_cuts[i] > ret_cuts[n])
            ret_cuts[i] = ret_cuts[n];
    }
}

/* One band of layers of a partition: tokens of each group cut at random. */
static bool check_band(struct oracle *o, struct topo_rng *rng, uint32_t src_dp, uint32_t dst,
                       const uint64_t layers[2], const int32_t *all, int32_t *sum)
{
    uint32_t n = 1 + topo_rnd(rng, CUTS_MAX - 1);
    uint64_t cuts[KVF_GROUPS_MAX][CUTS_MAX];

    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++)
        random_cuts(rng, n, tokens_mapped(o->topo) - topo_rnd(rng, 13), cuts[g]);
    for (uint32_t i = 0; i < n; i++) {
        struct kvfi_extent_box box = {.first_layer = (uint32_t)layers[0],
                                      .end_layer = layers[1] > UINT32_MAX ? KVF_LAYERS_ALL
                                                                          : (uint32_t)layers[1]};

        for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++)
            box.tokens[g] = (struct kvf_token_range){cuts[g][i], cuts[g][i + 1]};
        if (!check_extent(o, src_dp, dst, &box, all, sum))
            return false;
    }
    return true;
}

static bool check_partition(struct oracle *o, struct topo_rng *rng, uint32_t src_dp, uint32_t dst,
                            const int32_t *all)
{
    uint32_t n = 1 + topo_rnd(rng, CUTS_MAX - 1);
    uint64_t cuts[CUTS_MAX];
    int32_t *sum = make_cells(o, dst);
    bool ok = true;

    random_cuts(rng, n, o->topo->n_layers, cuts);
    for (uint32_t i = 0; ok && i < n; i++)
        ok = check_band(o, rng, src_dp, dst, &cuts[i], all, sum);
    if (ok && memcmp(sum, all, o->dst_ranks[dst].n_cells * sizeof(*sum)) != 0)
        ok = text_fault(o->text, sizeof(o->text),
                        "rank %u: a partition into extents is not the whole plan", dst);
    free(sum);
    return ok;
}

static bool check_any_extent(struct oracle *o, struct topo_rng *rng, uint32_t src_dp, uint32_t dst,
                             const int32_t *all)
{
    struct kvfi_extent_box box = {.first_layer = topo_rnd(rng, o->topo->n_layers + 1)};

    box.end_layer = box.first_layer + topo_rnd(rng, o->topo->n_layers + 1);
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        uint32_t end = (uint32_t)tokens_mapped(o->topo);

        box.tokens[g].begin = topo_rnd(rng, end + 2);
        box.tokens[g].end = box.tokens[g].begin + topo_rnd(rng, end + 2);
    }
    return check_extent(o, src_dp, dst, &box, all, NULL);
}

/* ---- whole topologies ---- */

static bool check_destination(struct oracle *o, uint32_t src_dp, uint32_t dst, struct topo_rng *rng,
                              uint32_t n_partitions)
{
    int32_t *all = make_cells(o, dst);
    bool ok = run_group(o, src_dp, dst, NULL, all) && check_rank(o, src_dp, dst, all);

    for (uint32_t i = 0; ok && i < n_partitions; i++)
        ok =
            check_partition(o, rng, src_dp, dst, all) && check_any_extent(o, rng, src_dp, dst, all);
    free(all);
    return ok;
}

bool oracle_check_extents(struct oracle *o, struct topo_rng *rng, uint32_t n_partitions)
{
    for (uint32_t src_dp = 0; src_dp < o->topo->side[TOPO_SRC].dp; src_dp++) {
        for (uint32_t dst = 0; dst < o->dst->n_ranks; dst++) {
            if (!check_destination(o, src_dp, dst, rng, n_partitions))
                return false;
        }
    }
    return true;
}

bool oracle_check(struct oracle *o)
{
    return oracle_check_extents(o, NULL, 0);
}

bool oracle_run(const struct topo *topo, struct topo_rng *rng, uint32_t n_partitions, char *text,
                size_t text_cap, struct oracle_counts *counts)
{
    struct oracle o;
    char line[TOPO_TEXT_MAX];
    bool ok;

    oracle_init(&o, topo);
    ok = oracle_check_extents(&o, rng, n_partitions);
    if (!ok) {
        topo_text(topo, line);
        (void)snprintf(text, text_cap, "%s\n    %s", o.text, line);
    }
    if (counts) {
        counts->plans += o.counts.plans;
        counts->cells += o.counts.cells;
        counts->entries += o.counts.entries;
        counts->stripes_moved += o.counts.stripes_moved;
    }
    oracle_fini(&o);
    return ok;
}
