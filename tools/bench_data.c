/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is written at the source and expected at the destination. Nothing here knows the library's
 * plan: a rank computes which tokens, layers and heads it holds from its own shape, and what each
 * of their bytes must be from their global numbers.
 */
#include "tools/bench.h"

#include <inttypes.h>
#include <string.h>

#include "collectives/util.h"
#include "tools/pattern.h"

bool bench_slot_take(struct bench_job *job, struct bench_slot *slot, uint32_t request)
{
    for (uint32_t p = 0; p < job->shape.n_pools; p++) {
        struct kvf_token_range range =
            bench_range(&job->options, job->shape.pools[p].group, job->requests[request].n_tokens,
                        !job->is_context);

        slot->span[p] = shape_blocks_of(&job->shape, range);
        if (blocks_take(&job->blocks[p], slot->span[p].n, slot->blocks[p]))
            continue;
        while (p-- > 0)
            blocks_give(&job->blocks[p], slot->blocks[p], slot->span[p].n);
        return false;
    }
    slot->request = request;
    slot->is_busy = true;
    slot->has_ended = false;
    slot->task = NULL;
    return true;
}

void bench_slot_give(struct bench_job *job, struct bench_slot *slot)
{
    for (uint32_t p = 0; p < job->shape.n_pools; p++)
        blocks_give(&job->blocks[p], slot->blocks[p], slot->span[p].n);
    slot->is_busy = false;
}

/* One block of one request, or a guard block, in one pool. */
struct block_view {
    const struct bench_job *job;
    const struct shape_pool *pool;
    uint32_t block;               /* id */
    uint64_t first_local;         /* this rank's token number of row 0 */
    struct kvf_token_range range; /* of tokens that carry the pattern; others carry guards */
    uint64_t request_key;
};

/* What is done with a row: counts for checking, 0 for filling. */
typedef size_t (*row_fn)(unsigned char *row, size_t n_bytes, uint64_t key);

static size_t fill_row(unsigned char *row, size_t n_bytes, uint64_t key)
{
    pattern_fill(row, n_bytes, key);
    return 0;
}

static size_t check_row(unsigned char *row, size_t n_bytes, uint64_t key)
{
    return pattern_wrong(row, n_bytes, key);
}

static size_t skip_row(unsigned char *row, size_t n_bytes, uint64_t key)
{
    (void)row;
    (void)n_bytes;
    (void)key;
    return 0;
}

/* Counts of a walk over blocks. */
struct walk {
    row_fn wanted; /* rows inside the range */
    row_fn guard;  /* rows outside */
    uint64_t n_wanted_bytes;
    uint64_t n_wrong_bytes;
    struct pattern_row first_wrong;
    bool first_wrong_is_guard;
};

/* The row `row` of the block, all heads, one layer and kv. */
static void walk_row(const struct block_view *v, struct walk *w, struct pattern_row *place,
                     uint32_t layer, uint32_t row)
{
    const struct shape_pool *pool = v->pool;
    uint64_t token = shape_global_token(&v->job->shape, v->first_local + row);
    bool is_wanted = token >= v->range.begin && token < v->range.end;
    row_fn fn = is_wanted ? w->wanted : w->guard;
    uint64_t request_key = is_wanted ? v->request_key : v->job->guard_key;
    unsigned char *at = shape_row(pool, v->block, layer, place->kv, 0, row);

    if (is_wanted)
        w->n_wanted_bytes += pool->row_bytes * pool->n_heads;
    if (fn == skip_row)
        return;
    place->token = is_wanted ? token : (uint64_t)v->block * v->job->shape.block_tokens + row;
    for (uint32_t h = 0; h < pool->n_heads; h++, at += pool->stride_head) {
        size_t n_wrong;

        place->head = pool->first_head + h;
        n_wrong = fn(at, pool->row_bytes, pattern_row_key(request_key, place));
        if (n_wrong && w->n_wrong_bytes == 0) {
            w->first_wrong = *place;
            w->first_wrong_is_guard = !is_wanted;
        }
        w->n_wrong_bytes += n_wrong;
    }
}

static void walk_block(const struct block_view *v, struct walk *w)
{
    struct pattern_row place = {.group = v->pool->group};

    for (uint32_t l = 0; l < v->pool->n_layers; l++) {
        place.layer = v->pool->layers[l];
        for (uint32_t kv = 0; kv < v->pool->n_kv; kv++) {
            place.kv = kv;
            for (uint32_t row = 0; row < v->job->shape.block_tokens; row++)
                walk_row(v, w, &place, l, row);
        }
    }
}

static void walk_slot(const struct bench_job *job, const struct bench_slot *slot, uint64_t run,
                      struct walk *w)
{
    uint64_t key = pattern_request_key(job->options.seed, run, slot->request);

    for (uint32_t p = 0; p < job->shape.n_pools; p++) {
        struct block_view v = {
            .job = job,
            .pool = &job->shape.pools[p],
            .range = bench_range(&job->options, job->shape.pools[p].group,
                                 job->requests[slot->request].n_tokens, !job->is_context),
            .request_key = key,
        };

        for (uint32_t b = 0; b < slot->span[p].n; b++) {
            v.block = slot->blocks[p][b];
            v.first_local = (uint64_t)(slot->span[p].first + b) * job->shape.block_tokens;
            walk_block(&v, w);
        }
    }
}

void bench_slot_fill(struct bench_job *job, const struct bench_slot *slot, uint64_t run)
{
    struct walk w = {.wanted = job->is_context ? fill_row : skip_row, .guard = fill_row};

    walk_slot(job, slot, run, &w);
    if (job->is_context)
        bench_aux_fill(job, slot->request, run, slot->aux);
    else if (slot->aux)
        memset(slot->aux, 0, job->options.aux_bytes);
}

static void complain_of(struct bench_job *job, const struct walk *w, const char *what)
{
    const struct pattern_row *at = &w->first_wrong;

    bench_complain(job,
                   "%s: %" PRIu64 " bytes are wrong, first in %s: group %" PRIu32 " layer %" PRIu32
                   " %s head %" PRIu32 " %s %" PRIu64,
                   what, w->n_wrong_bytes,
                   w->first_wrong_is_guard ? "a place nobody may write" : "a wanted row", at->group,
                   at->layer, at->kv ? "value" : "key", at->head,
                   w->first_wrong_is_guard ? "row" : "token", at->token);
}

void bench_slot_verify(struct bench_job *job, const struct bench_slot *slot, uint64_t run,
                       struct bench_tally *tally)
{
    struct walk w = {.wanted = check_row, .guard = check_row};
    char what[64];

    walk_slot(job, slot, run, &w);
    tally->sums[BENCH_VERIFIED_BYTES] += w.n_wanted_bytes;
    tally->sums[BENCH_WRONG_BYTES] += w.n_wrong_bytes;
    if (w.n_wrong_bytes) {
        (void)snprintf(what, sizeof(what), "request %" PRIu32, slot->request);
        complain_of(job, &w, what);
    }
}

/* Guard blocks carry no token of any request. */
static void walk_guards(const struct bench_job *job, struct walk *w)
{
    for (uint32_t p = 0; p < job->shape.n_pools; p++) {
        struct block_view v = {.job = job, .pool = &job->shape.pools[p]};

        for (uint32_t i = 0; i < job->blocks[p].n_guards; i++) {
            v.block = job->blocks[p].guards[i];
            walk_block(&v, w);
        }
    }
}

void bench_guards_fill(struct bench_job *job)
{
    struct walk w = {.wanted = skip_row, .guard = fill_row};

    walk_guards(job, &w);
}

void bench_guards_verify(struct bench_job *job, struct bench_tally *tally)
{
    struct walk w = {.wanted = skip_row, .guard = check_row};

    walk_guards(job, &w);
    tally->sums[BENCH_WRONG_BYTES] += w.n_wrong_bytes;
    if (w.n_wrong_bytes)
        complain_of(job, &w, "unused blocks");
}

void bench_aux_fill(const struct bench_job *job, uint32_t request, uint64_t run, unsigned char *aux)
{
    if (aux)
        pattern_fill(aux, job->options.aux_bytes,
                     ~pattern_request_key(job->options.seed, run, request));
}
