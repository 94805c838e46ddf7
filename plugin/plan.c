/* SPDX-License-Identifier: Apache-2.0 */
/* The request's half of a plan: stripes, extents and context-parallel runs of a pair's cells. */
#include "plugin/plan.h"

#include <string.h>

#include "collectives/util.h"
#include "plugin/text.h"

/* Rows of a context-parallel rank: row q lies on it if (q / unit) % n == index. */
struct cp_axis {
    uint64_t unit; /* rows */
    uint64_t n;
    uint64_t index;
};

struct maker {
    const struct kvfi_plan_pair *pair;
    const struct kvfi_plan_input *input;
    uint64_t mix; /* of the request id */
    char *text;
    size_t text_cap;
    struct kvfi_plan plan;
    /* Of the cell in hand: */
    const struct kvfi_plan_cell *cell;
    const struct kvfi_pool_geometry *src;
    const struct kvfi_pool_geometry *dst;
    struct kvf_token_range range; /* wanted */
    uint32_t first_layer;         /* within the cell, after the extent */
    uint32_t end_layer;
};

/* Interleave units looked at for one cell; more means the two sides' units hardly ever meet. */
enum { CP_STEPS_MAX = 4 * KVFI_PLAN_ENTRIES_MAX };

static uint64_t request_mix(const struct kvf_request_id *id)
{
    uint64_t half[2] = {0, 0};

    /* Byte by byte: both ends get the same number whatever their byte order. */
    for (unsigned i = 0; i < 16; i++)
        half[i / 8] |= (uint64_t)id->bytes[i] << (8 * (i % 8));
    return kvfi_mix64(half[0] ^ kvfi_mix64(half[1]));
}

/* ---- entries ------------------------------------------------------------------------------ */

static kvf_status_t grow(struct maker *m)
{
    uint32_t capacity = m->plan.capacity ? m->plan.capacity * 2 : m->pair->n_cells;
    struct kvfi_plan_entry *entries;

    if (m->plan.n_entries >= KVFI_PLAN_ENTRIES_MAX)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOSPC, "plan of more than %u entries",
                           KVFI_PLAN_ENTRIES_MAX);
    if (capacity > KVFI_PLAN_ENTRIES_MAX)
        capacity = KVFI_PLAN_ENTRIES_MAX;
    entries = kvfi_calloc(capacity, sizeof(*entries));
    if (!entries)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOMEM, "no memory for a plan of %u entries",
                           capacity);
    if (m->plan.n_entries > 0)
        memcpy(entries, m->plan.entries, m->plan.n_entries * sizeof(*entries));
    kvfi_free(m->plan.entries);
    m->plan.entries = entries;
    m->plan.capacity = capacity;
    return KVF_OK;
}

/* Runs of the cell's layers [first_layer, end_layer); steps only matter for n_runs > 1. */
static kvf_status_t add_entry(struct maker *m, uint64_t n_runs, uint64_t run_rows, uint64_t src_row,
                              uint64_t src_step, uint64_t dst_row, uint64_t dst_step)
{
    const struct kvfi_plan_cell *cell = m->cell;
    struct kvfi_plan_entry *e;

    if (n_runs > UINT32_MAX)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOSPC, "plan of an entry of %llu runs",
                           (unsigned long long)n_runs);
    if (m->plan.n_entries == m->plan.capacity) {
        kvf_status_t status = grow(m);

        if (status != KVF_OK)
            return status;
    }
    e = &m->plan.entries[m->plan.n_entries++];
    *e = (struct kvfi_plan_entry){
        .src_pool = cell->src_pool,
        .dst_pool = cell->dst_pool,
        .src_layer = cell->src_layer + m->first_layer,
        .dst_layer = cell->dst_layer + m->first_layer,
        .n_layers = m->end_layer - m->first_layer,
        .src_kv = cell->src_kv,
        .dst_kv = cell->dst_kv,
        .n_kv = cell->n_kv,
        .src_head = cell->src_head,
        .dst_head = cell->dst_head,
        .n_heads = cell->n_heads,
        .n_runs = (uint32_t)n_runs,
        .run_rows = run_rows,
        .src_row = src_row,
        .src_step = n_runs > 1 ? src_step : 0,
        .dst_row = dst_row,
        .dst_step = n_runs > 1 ? dst_step : 0,
    };
    return KVF_OK;
}

/* ---- context parallelism ------------------------------------------------------------------ */

static struct cp_axis cp_axis_of(const struct kvf_place *place, uint32_t tokens_per_row)
{
    struct cp_axis axis = {.unit = UINT64_MAX, .n = 1, .index = 0};

    if (place->cp_size > 1) {
        axis.unit = place->cp_interleave_tokens / tokens_per_row;
        axis.n = place->cp_size;
        axis.index = place->cp_rank;
    }
    return axis;
}

/* Rows below q that lie on the rank: the local number of row q if it lies on it. */
static uint64_t local_row(const struct cp_axis *axis, uint64_t q)
{
    uint64_t period;
    uint64_t before;
    uint64_t rest;

    if (axis->n == 1)
        return q;
    period = axis->unit * axis->n;
    before = axis->unit * axis->index;
    rest = q % period;
    rest = rest > before ? kvfi_min_u64(rest - before, axis->unit) : 0;
    return q / period * axis->unit + rest;
}

/* First row >= q that lies on the rank; the rows from it to *ret_end do too. */
static uint64_t next_row(const struct cp_axis *axis, uint64_t q, uint64_t *ret_end)
{
    uint64_t u;
    uint64_t index;

    if (axis->n == 1) {
        *ret_end = UINT64_MAX;
        return q;
    }
    u = q / axis->unit;
    index = u % axis->n;
    if (index != axis->index) {
        u += index < axis->index ? axis->index - index : axis->n - index + axis->index;
        q = u * axis->unit;
    }
    *ret_end = (u + 1) * axis->unit;
    return q;
}

/*
 * First rows >= *begin that lie on both ranks, up to the end of a unit; *begin = limit if there are
 * none below limit. False if that takes more than the steps left.
 */
static bool next_common(const struct cp_axis *src, const struct cp_axis *dst, uint64_t limit,
                        uint32_t *steps_left, uint64_t *begin, uint64_t *ret_end)
{
    uint64_t q = *begin;

    while (q < limit) {
        uint64_t src_end;
        uint64_t dst_end;

        if ((*steps_left)-- == 0)
            return false;
        q = next_row(src, q, &src_end);
        q = next_row(dst, q, &dst_end);
        if (q < src_end && q < limit) {
            *begin = q;
            *ret_end = kvfi_min_u64(src_end, dst_end);
            return true;
        }
    }
    *begin = limit;
    return true;
}

/* True if the common rows around q (which lies on both ranks) begin before q. */
static bool begins_before(const struct cp_axis *src, const struct cp_axis *dst, uint64_t q)
{
    return (src->n == 1 || q % src->unit != 0) && (dst->n == 1 || q % dst->unit != 0);
}

/* All occurrences, one a period, of the stretch [q, stop) below end; the last may be cut. */
static kvf_status_t add_stretches(struct maker *m, const struct cp_axis *src,
                                  const struct cp_axis *dst, uint64_t period, uint64_t q,
                                  uint64_t stop, uint64_t end)
{
    uint64_t n_runs = stop <= end ? (end - stop) / period + 1 : 0;

    if (n_runs > 0) {
        kvf_status_t status = add_entry(m, n_runs, stop - q, local_row(src, q), period / src->n,
                                        local_row(dst, q), period / dst->n);

        if (status != KVF_OK)
            return status;
        q += n_runs * period;
    }
    if (q >= end)
        return KVF_OK;
    return add_entry(m, 1, end - q, local_row(src, q), 0, local_row(dst, q), 0);
}

/*
 * The rows [begin, end) where the two sides are interleaved differently. What lies on both ranks
 * repeats with the least common multiple of the two periods: each common stretch of one period is
 * an entry with a run a period, and what the range cuts off at its ends is an entry of its own.
 */
static kvf_status_t add_periodic(struct maker *m, const struct cp_axis *src,
                                 const struct cp_axis *dst, uint64_t begin, uint64_t end)
{
    uint64_t period =
        kvfi_plan_lcm(src->n == 1 ? 1 : src->unit * src->n, dst->n == 1 ? 1 : dst->unit * dst->n);
    uint32_t steps_left = CP_STEPS_MAX;
    uint64_t limit;
    uint64_t q = begin;
    uint64_t stop = end;
    bool ok = next_common(src, dst, end, &steps_left, &q, &stop);
    kvf_status_t status = KVF_OK;

    if (period == 0 || period > KVFI_PLAN_TOKENS_MAX)
        period = KVFI_PLAN_TOKENS_MAX; /* as good as any that no range reaches */
    if (ok && q < end && begins_before(src, dst, q)) {
        stop = kvfi_min_u64(stop, end);
        status = add_entry(m, 1, stop - q, local_row(src, q), 0, local_row(dst, q), 0);
        q = stop;
    }
    limit = kvfi_min_u64(end, q + period);
    while (ok && status == KVF_OK && q < limit) {
        ok = next_common(src, dst, limit, &steps_left, &q, &stop);
        if (ok && q < limit)
            status = add_stretches(m, src, dst, period, q, stop, end);
        if (q < limit)
            q = stop;
    }
    if (!ok)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOSPC,
                           "cp_interleave_tokens of source and destination have no common period "
                           "of less than %u units",
                           (unsigned)CP_STEPS_MAX);
    return status;
}

static kvf_status_t add_rows(struct maker *m, uint64_t begin, uint64_t end)
{
    struct cp_axis src = cp_axis_of(&m->pair->src->place, m->dst->tokens_per_row);
    struct cp_axis dst = cp_axis_of(&m->pair->dst->place, m->dst->tokens_per_row);

    if (src.n != dst.n || src.unit != dst.unit)
        return add_periodic(m, &src, &dst, begin, end);
    if (src.index != dst.index)
        return KVF_OK;
    begin = local_row(&src, begin);
    end = local_row(&src, end);
    return begin < end ? add_entry(m, 1, end - begin, begin, 0, begin, 0) : KVF_OK;
}

/* ---- stripes and extents ------------------------------------------------------------------ */

static bool is_empty(const struct kvf_token_range *range)
{
    return range->begin >= range->end;
}

/*
 * Tokens at whose multiples every cut is a block boundary of this destination, whichever its cp
 * rank. 0 if there are none.
 */
static uint64_t block_unit(const struct maker *m)
{
    const struct kvf_place *place = &m->pair->dst->place;
    uint64_t unit = m->dst->block_tokens;

    if (place->cp_size > 1 && place->cp_interleave_tokens % unit != 0 &&
        __builtin_mul_overflow(kvfi_plan_lcm(unit, place->cp_interleave_tokens), place->cp_size,
                               &unit))
        return 0;
    return kvfi_plan_lcm(unit, m->cell->token_atom);
}

static uint64_t n_units(const struct kvf_token_range *range, uint64_t unit)
{
    return (range->end - 1) / unit + 1 - range->begin / unit;
}

/* The part of the range that is this source's: stripe j of n is replica (mix + j) % R's. */
static struct kvf_token_range stripe(const struct maker *m)
{
    const struct kvf_token_range range = m->range;
    uint64_t n_replicas = m->cell->n_replicas;
    uint64_t unit = block_unit(m);
    uint64_t j = (m->cell->replica + n_replicas - m->mix % n_replicas) % n_replicas;
    uint64_t first;
    uint64_t n;
    uint64_t n_parts;

    if (n_replicas == 1)
        return range;
    if (unit == 0 || n_units(&range, unit) < n_replicas)
        unit = m->cell->token_atom;
    n = n_units(&range, unit);
    n_parts = kvfi_min_u64(n, n_replicas);
    if (j >= n_parts)
        return (struct kvf_token_range){0, 0};
    first = range.begin / unit;
    return (struct kvf_token_range){
        .begin = kvfi_max_u64(range.begin, (first + n * j / n_parts) * unit),
        .end = kvfi_min_u64(range.end, (first + n * (j + 1) / n_parts) * unit),
    };
}

/* The part of the range that is the extent's: atoms whose last token in the range it holds. */
static struct kvf_token_range extent_part(const struct maker *m, uint64_t atom)
{
    const struct kvf_token_range range = m->range;
    const struct kvf_token_range *tokens;

    if (!m->input->extent)
        return range;
    tokens = &m->input->extent->tokens[m->src->group];
    if (is_empty(tokens) || tokens->begin >= range.end)
        return (struct kvf_token_range){0, 0};
    return (struct kvf_token_range){
        .begin = kvfi_max_u64(range.begin, tokens->begin - tokens->begin % atom),
        .end = tokens->end >= range.end ? range.end : tokens->end - tokens->end % atom,
    };
}

/* First layer of the cell with a global id >= id. */
static uint32_t lower_layer(const struct maker *m, uint32_t id)
{
    const uint32_t *layers = m->dst->layers + m->cell->dst_layer;
    uint32_t lo = 0;
    uint32_t hi = m->cell->n_layers;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (layers[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static kvf_status_t add_tokens(struct maker *m)
{
    struct kvf_token_range mine = stripe(m);
    struct kvf_token_range extent = extent_part(m, m->cell->token_atom);
    uint64_t tokens_per_row = m->dst->tokens_per_row;

    mine.begin = kvfi_max_u64(mine.begin, extent.begin);
    mine.end = kvfi_min_u64(mine.end, extent.end);
    if (is_empty(&mine))
        return KVF_OK;
    return add_rows(m, mine.begin / tokens_per_row, (mine.end - 1) / tokens_per_row + 1);
}

/* A PER_REQUEST cell: one row, whole layers taken in turn by the replicas. */
static kvf_status_t add_state(struct maker *m)
{
    const uint32_t *layers = m->dst->layers + m->cell->dst_layer;
    uint32_t n_replicas = m->cell->n_replicas;
    uint64_t start = m->mix % n_replicas;
    uint32_t end_layer = m->end_layer;

    if (m->input->extent) {
        const struct kvf_token_range *tokens = &m->input->extent->tokens[m->src->group];

        if (tokens->begin >= m->range.end || tokens->end < m->range.end)
            return KVF_OK;
    }
    if (n_replicas == 1)
        return add_entry(m, 1, 1, 0, 0, 0, 0);
    for (uint32_t l = m->first_layer; l < end_layer; l++) {
        kvf_status_t status = KVF_OK;

        m->first_layer = l;
        m->end_layer = l + 1;
        if ((start + layers[l]) % n_replicas == m->cell->replica)
            status = add_entry(m, 1, 1, 0, 0, 0, 0);
        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

/* ---- checks ------------------------------------------------------------------------------- */

static kvf_status_t check_rows(const struct maker *m)
{
    if (m->src->row_bytes != m->dst->row_bytes)
        return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                           "row_bytes of role %u: source %llu, destination %llu", m->dst->role,
                           (unsigned long long)m->src->row_bytes,
                           (unsigned long long)m->dst->row_bytes);
    if (m->src->tokens_per_row != m->dst->tokens_per_row)
        return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                           "tokens_per_row of role %u: source %u, destination %u", m->dst->role,
                           m->src->tokens_per_row, m->dst->tokens_per_row);
    return KVF_OK;
}

/* A head range may begin or end anywhere the two pools do so together, else only on an atom. */
static kvf_status_t check_heads(const struct maker *m)
{
    const struct kvfi_pool_geometry *s = m->src;
    const struct kvfi_pool_geometry *d = m->dst;
    uint32_t atom = m->cell->head_atom;
    uint32_t begin = s->first_head + m->cell->src_head;
    uint32_t end = begin + m->cell->n_heads;
    bool cut_begin = begin != s->first_head || begin != d->first_head;
    bool cut_end = end != s->first_head + s->n_heads || end != d->first_head + d->n_heads;

    if (atom != 0 && (!cut_begin || begin % atom == 0) && (!cut_end || end % atom == 0))
        return KVF_OK;
    return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                       "head_atom %u of role %u: source rank %u and destination rank %u share "
                       "heads %u to %u",
                       atom, d->role, m->pair->src->place.rank, m->pair->dst->place.rank, begin,
                       end);
}

static kvf_status_t check_cp(const struct maker *m, const struct kvf_place *place, const char *side)
{
    if (place->cp_size <= 1 || (place->cp_interleave_tokens != 0 &&
                                place->cp_interleave_tokens % m->cell->token_atom == 0))
        return KVF_OK;
    return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                       "cp_interleave_tokens %u of the %s is no multiple of the token_atom %llu "
                       "of role %u",
                       place->cp_interleave_tokens, side, (unsigned long long)m->cell->token_atom,
                       m->dst->role);
}

static kvf_status_t check_tokens(const struct maker *m)
{
    uint64_t atom = m->cell->token_atom;
    kvf_status_t status;

    if (atom == 0)
        return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                           "token_atom of role %u: source %u and destination %u have no common "
                           "multiple",
                           m->dst->role, m->src->token_atom, m->dst->token_atom);
    if (m->range.begin % atom != 0)
        return kvfi_refuse(m->text, m->text_cap, KVF_EMISMATCH,
                           "range of group %u begins at token %llu, inside a token_atom of %llu",
                           m->dst->group, (unsigned long long)m->range.begin,
                           (unsigned long long)atom);
    status = check_cp(m, &m->pair->src->place, "source");
    return status == KVF_OK ? check_cp(m, &m->pair->dst->place, "destination") : status;
}

/* ---- the plan ----------------------------------------------------------------------------- */

static kvf_status_t add_cell(struct maker *m)
{
    bool per_request = (m->dst->flags & KVF_POOL_PER_REQUEST) != 0;
    const struct kvfi_extent_box *extent = m->input->extent;
    kvf_status_t status;

    m->range = m->input->ranges[m->dst->group];
    if (is_empty(&m->range))
        return KVF_OK;
    if (m->range.end > KVFI_PLAN_TOKENS_MAX)
        return kvfi_refuse(m->text, m->text_cap, KVF_ENOSPC,
                           "range of group %u ends at token %llu, limit %llu", m->dst->group,
                           (unsigned long long)m->range.end,
                           (unsigned long long)KVFI_PLAN_TOKENS_MAX);
    status = check_rows(m);
    if (status == KVF_OK)
        status = check_heads(m);
    if (status == KVF_OK && !per_request)
        status = check_tokens(m);
    if (status != KVF_OK)
        return status;
    m->first_layer = extent ? lower_layer(m, extent->first_layer) : 0;
    m->end_layer = extent ? lower_layer(m, extent->end_layer) : m->cell->n_layers;
    if (m->first_layer >= m->end_layer)
        return KVF_OK;
    return per_request ? add_state(m) : add_tokens(m);
}

static uint64_t hash_pair(uint64_t hash, uint32_t a, uint32_t b)
{
    return kvfi_mix64(hash ^ ((uint64_t)a << 32 | b)) + 1;
}

static uint64_t hash_word(uint64_t hash, uint64_t a)
{
    return kvfi_mix64(hash ^ a) + 1;
}

static uint64_t hash_entry(uint64_t h, const struct kvfi_plan_entry *e, uint64_t src_row_bytes,
                           uint64_t dst_row_bytes)
{
    h = hash_pair(h, e->src_pool, e->dst_pool);
    h = hash_pair(h, e->src_layer, e->dst_layer);
    h = hash_pair(h, e->src_kv, e->dst_kv);
    h = hash_pair(h, e->src_head, e->dst_head);
    h = hash_pair(h, e->n_layers, e->n_kv);
    h = hash_pair(h, e->n_heads, e->n_runs);
    h = hash_word(h, e->run_rows);
    h = hash_word(h, e->src_row);
    h = hash_word(h, e->src_step);
    h = hash_word(h, e->dst_row);
    h = hash_word(h, e->dst_step);
    h = hash_word(h, src_row_bytes);
    return hash_word(h, dst_row_bytes);
}

/* Totals of the entries; false if the bytes do not fit. */
static bool sum_up(const struct kvfi_plan_pair *pair, struct kvfi_plan *plan)
{
    uint64_t hash = kvfi_mix64(plan->n_entries + 1);
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct kvfi_plan_entry *e = &plan->entries[i];
        uint64_t row_bytes = pair->src->pools[e->src_pool].row_bytes;
        uint64_t rows;

        hash = hash_entry(hash, e, row_bytes, pair->dst->pools[e->dst_pool].row_bytes);
        if (__builtin_mul_overflow((uint64_t)e->n_layers * e->n_kv, e->n_heads, &rows) ||
            __builtin_mul_overflow(rows, e->n_runs * e->run_rows, &rows) ||
            __builtin_mul_overflow(rows, row_bytes, &rows) ||
            __builtin_add_overflow(bytes, rows, &bytes))
            return false;
    }
    plan->bytes = bytes;
    plan->hash = hash ? hash : 1;
    return true;
}

kvf_status_t kvfi_plan_make(const struct kvfi_plan_pair *pair, const struct kvfi_plan_input *input,
                            char *text, size_t text_cap, struct kvfi_plan *ret_plan)
{
    struct maker m = {
        .pair = pair,
        .input = input,
        .mix = request_mix(&input->request),
        .text = text,
        .text_cap = text_cap,
    };

    for (uint32_t i = 0; i < pair->n_cells; i++) {
        kvf_status_t status;

        m.cell = &pair->cells[i];
        m.src = &pair->src->pools[m.cell->src_pool];
        m.dst = &pair->dst->pools[m.cell->dst_pool];
        status = add_cell(&m);
        if (status == KVF_OK)
            continue;
        kvfi_plan_fini(&m.plan);
        return status;
    }
    if (!sum_up(pair, &m.plan)) {
        kvfi_plan_fini(&m.plan);
        return kvfi_refuse(text, text_cap, KVF_ENOSPC, "plan of more than 2^64 bytes");
    }
    *ret_plan = m.plan;
    return KVF_OK;
}

kvf_status_t kvfi_plan_init(const struct kvfi_plan_input *input, char *text, size_t text_cap,
                            struct kvfi_plan *ret_plan)
{
    struct kvfi_plan_pair pair;
    kvf_status_t status = kvfi_plan_pair_init(input->src, input->dst, input->src_rank,
                                              input->dst_rank, text, text_cap, &pair);

    if (status != KVF_OK)
        return status;
    status = kvfi_plan_make(&pair, input, text, text_cap, ret_plan);
    kvfi_plan_pair_fini(&pair);
    return status;
}

void kvfi_plan_fini(struct kvfi_plan *plan)
{
    if (!plan)
        return;
    kvfi_free(plan->entries);
    *plan = (struct kvfi_plan){0};
}
