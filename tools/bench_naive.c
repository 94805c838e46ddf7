/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The baseline: what a straightforward implementation does. One MPI_Isend for each run of bytes
 * that is contiguous on both sides (a layer, K or V, a head run, the tokens of one block), straight
 * from the source's block; the receiver posts the matching MPI_Irecv straight into its block; 64
 * in flight. Both sides go through the same list in the same order.
 */
#include "tools/bench.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"

#define IN_FLIGHT 64u

/* All messages of a round on this rank. */
struct naive {
    struct bench_job *job;
    struct bench_slot *slots;
    struct bench_tally *tally;
    struct world_message *messages;
    size_t n;
    size_t capacity;
    uint32_t *n_left; /* [n_slots] messages of a slot's request */
    uint64_t started_ns;
};

/* A pair of ranks and one request, seen from this rank. */
struct pair {
    struct naive *naive;
    uint32_t slot;
    uint32_t peer;
    struct shape source;      /* shapes of both, without memory */
    struct shape destination; /* (own pools' memory is in job->shape) */
    const struct shape_pool *from;
    const struct shape_pool *to;
    uint32_t own_pool;
    uint32_t n_messages; /* of this pair and request so far */
};

static bool add_message(struct pair *p, uint64_t own_token, uint32_t layer, uint32_t kv,
                        uint32_t head, uint64_t n_bytes)
{
    struct naive *n = p->naive;
    struct bench_job *job = n->job;
    const struct bench_slot *slot = &n->slots[p->slot];
    uint64_t block = own_token / job->shape.block_tokens - slot->span[p->own_pool].first;

    if (n->n == n->capacity) {
        size_t capacity = n->capacity ? n->capacity * 2 : 1024;
        struct world_message *grown = kvfi_calloc(capacity, sizeof(*grown));

        if (!grown)
            return false;
        if (n->messages)
            memcpy(grown, n->messages, n->n * sizeof(*grown));
        kvfi_free(n->messages);
        n->messages = grown;
        n->capacity = capacity;
    }
    n->messages[n->n++] = (struct world_message){
        .peer = p->peer,
        .n_bytes = (uint32_t)n_bytes,
        .is_send = job->is_context,
        .owner = p->slot,
        .sequence = p->n_messages++,
        .memory = shape_row(&job->shape.pools[p->own_pool], slot->blocks[p->own_pool][block], layer,
                            kv, head, (uint32_t)(own_token % job->shape.block_tokens)),
    };
    n->n_left[p->slot]++;
    return true;
}

/* Heads both ranks hold. */
static uint32_t shared_heads(const struct pair *p, uint32_t *ret_first)
{
    uint32_t first =
        p->from->first_head > p->to->first_head ? p->from->first_head : p->to->first_head;
    uint32_t from_end = p->from->first_head + p->from->n_heads;
    uint32_t to_end = p->to->first_head + p->to->n_heads;
    uint32_t end = from_end < to_end ? from_end : to_end;

    *ret_first = first;
    return end > first ? end - first : 0;
}

/*
 * The longest piece of (heads x tokens) that is one run on both sides: how many heads and tokens
 * one message takes. Tokens [., + n_tokens) are within one block on both sides.
 */
static void run_shape(const struct pair *p, uint32_t n_heads, uint64_t n_tokens,
                      uint32_t *ret_heads, uint64_t *ret_tokens)
{
    bool heads_first =
        p->from->stride_head == p->from->row_bytes && p->to->stride_head == p->to->row_bytes;
    bool tokens_first =
        p->from->stride_row == p->from->row_bytes && p->to->stride_row == p->to->row_bytes;

    *ret_heads = 1;
    *ret_tokens = 1;
    if (tokens_first) {
        *ret_tokens = n_tokens;
        if (p->from->stride_head == n_tokens * p->from->row_bytes &&
            p->to->stride_head == n_tokens * p->to->row_bytes)
            *ret_heads = n_heads;
    } else if (heads_first) {
        *ret_heads = n_heads;
        if (p->from->n_heads == n_heads && p->to->n_heads == n_heads)
            *ret_tokens = n_tokens;
    }
}

/* Tokens that are consecutive, and in one block, on both sides. */
struct stretch {
    uint64_t from;
    uint64_t to;
    uint64_t n;
};

static bool add_stretch(struct pair *p, const struct stretch *s, uint32_t from_layer,
                        uint32_t to_layer)
{
    bool is_context = p->naive->job->is_context;
    const struct shape_pool *own = is_context ? p->from : p->to;
    uint32_t first_head;
    uint32_t n_heads = shared_heads(p, &first_head);
    uint32_t run_heads;
    uint64_t run_tokens;
    bool ok = true;

    run_shape(p, n_heads, s->n, &run_heads, &run_tokens);
    for (uint32_t kv = 0; ok && kv < own->n_kv; kv++) {
        for (uint32_t h = 0; ok && h < n_heads; h += run_heads) {
            for (uint64_t t = 0; ok && t < s->n; t += run_tokens)
                ok = add_message(
                    p, (is_context ? s->from : s->to) + t, is_context ? from_layer : to_layer, kv,
                    first_head + h - own->first_head, run_heads * run_tokens * own->row_bytes);
        }
    }
    return ok;
}

/* The stretch that begins with global token t, or n = 0 if t is not on both ranks. */
static struct stretch stretch_at(const struct pair *p, uint64_t t, uint64_t end)
{
    const struct shape *sides[2] = {&p->source, &p->destination};
    uint64_t local[2];
    uint64_t n = end - t;

    for (int i = 0; i < 2; i++) {
        const struct kvf_place *place = &sides[i]->place;
        uint64_t unit = place->cp_interleave_tokens;

        local[i] = shape_local_tokens(sides[i], t);
        if (place->cp_size > 1) {
            n = kvfi_min_u64(n, unit - t % unit);
            if (t / unit % place->cp_size != place->cp_rank)
                return (struct stretch){.n = 0, .from = n};
        }
        n = kvfi_min_u64(n, sides[i]->block_tokens - local[i] % sides[i]->block_tokens);
    }
    return (struct stretch){.from = local[0], .to = local[1], .n = n};
}

static bool add_layer(struct pair *p, uint32_t from_layer, uint32_t to_layer)
{
    const struct bench_job *job = p->naive->job;
    struct kvf_token_range range =
        bench_range(&job->options, p->from->group,
                    job->requests[p->naive->slots[p->slot].request].n_tokens, true);
    bool ok = true;

    for (uint64_t t = range.begin; ok && t < range.end;) {
        struct stretch s = stretch_at(p, t, range.end);

        if (s.n == 0) {
            t += s.from; /* to the end of somebody else's unit */
            continue;
        }
        ok = add_stretch(p, &s, from_layer, to_layer);
        t += s.n;
    }
    return ok;
}

/* Layers both pools have. */
static bool add_layers(struct pair *p)
{
    const uint32_t *from = p->from->layers;
    const uint32_t *to = p->to->layers;
    bool ok = true;

    if (!from || !to)
        return true;
    for (uint32_t i = 0, j = 0; ok && i < p->from->n_layers && j < p->to->n_layers;) {
        if (from[i] == to[j])
            ok = add_layer(p, i++, j++);
        else if (from[i] < to[j])
            i++;
        else
            j++;
    }
    return ok;
}

static bool add_pools(struct pair *p)
{
    bool ok = true;

    for (uint32_t a = 0; a < p->source.n_pools; a++) {
        for (uint32_t b = 0; b < p->destination.n_pools; b++) {
            p->from = &p->source.pools[a];
            p->to = &p->destination.pools[b];
            p->own_pool = p->naive->job->is_context ? a : b;
            if (p->from->group == p->to->group)
                ok = ok && add_layers(p);
        }
    }
    return ok;
}

/*
 * Of the ranks that hold the same heads each destination takes its bytes from one: the destination
 * of number n among those of equal heads asks replica n % R.
 */
static bool is_chosen_replica(const struct pair *p)
{
    const struct bench_options *o = &p->naive->job->options;
    uint32_t n_heads = o->model.n_heads;
    uint32_t n_replicas = o->context.tp > n_heads ? o->context.tp / n_heads : 1;

    return p->source.place.tp_rank % n_replicas == p->destination.place.tp_rank % n_replicas;
}

struct peers {
    struct naive *naive;
    uint32_t slot;
    bool ok;
};

static void add_peer(void *ctx, uint32_t world_rank)
{
    struct peers *peers = ctx;
    struct bench_job *job = peers->naive->job;
    const struct bench_options *o = &job->options;
    const struct bench_request *request = &job->requests[peers->naive->slots[peers->slot].request];
    struct pair p = {.naive = peers->naive, .slot = peers->slot, .peer = world_rank};
    struct tool_error error = {""};
    uint32_t self = job->shape.place.rank;
    uint32_t other =
        world_rank - bench_first_rank(o, !job->is_context,
                                      job->is_context ? request->generation : request->context);

    peers->ok = peers->ok &&
                shape_init(&o->model, &o->context, &o->side[0], job->is_context ? self : other,
                           &error, &p.source) &&
                shape_init(&o->model, &o->generation, &o->side[1], job->is_context ? other : self,
                           &error, &p.destination);
    if (peers->ok && is_chosen_replica(&p))
        peers->ok = add_pools(&p);
    shape_fini(&p.source);
    shape_fini(&p.destination);
}

static void message_done(void *ctx, uint32_t owner)
{
    struct naive *n = ctx;
    struct bench_slot *slot = &n->slots[owner];
    uint64_t now_ns;

    if (--n->n_left[owner] > 0)
        return;
    now_ns = kvfi_now_ns();
    if (!n->job->is_context) {
        n->tally->transfer_ns[slot->request] = kvfi_max_u64(now_ns - n->started_ns, 1);
        n->tally->sums[BENCH_RECEIVES]++;
    }
}

/*
 * Peers take turns within a request. Both ends' orders are parts of one order of all messages
 * (request, sequence, source, destination), so no two windows can wait for each other.
 */
static int by_turn(const void *a, const void *b)
{
    const struct world_message *x = a;
    const struct world_message *y = b;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    if (x->sequence != y->sequence)
        return x->sequence < y->sequence ? -1 : 1;
    return (x->peer > y->peer) - (x->peer < y->peer);
}

void bench_naive_move(struct bench_job *job, struct bench_slot *slots, struct bench_tally *tally)
{
    struct naive n = {.job = job, .slots = slots, .tally = tally};
    struct tool_error error = {"out of memory"};
    bool ok;

    n.n_left = kvfi_calloc(job->n_slots, sizeof(*n.n_left));
    ok = n.n_left != NULL;
    for (uint32_t s = 0; ok && s < job->n_slots; s++) {
        struct peers peers = {.naive = &n, .slot = s, .ok = true};

        if (!slots[s].is_busy)
            continue;
        bench_each_rank(&job->options, &job->requests[slots[s].request], !job->is_context, add_peer,
                        &peers);
        ok = peers.ok;
        slots[s].has_ended = true;
    }
    if (!ok)
        world_abort(job->world, error.text);
    if (n.n > 0)
        qsort(n.messages, n.n, sizeof(*n.messages), by_turn);
    /* Making the lists is not what is measured. */
    world_barrier(job->world);
    n.started_ns = kvfi_now_ns();
    if (!world_exchange(job->world, n.messages, n.n, IN_FLIGHT, message_done, &n, &error))
        world_abort(job->world, error.text);
    if (!job->is_context && n.n > 0)
        tally->busy_ns += kvfi_now_ns() - n.started_ns;
    for (size_t i = 0; job->is_context && i < n.n; i++)
        tally->sums[BENCH_SENT_BYTES] += n.messages[i].n_bytes;
    kvfi_free(n.messages);
    kvfi_free(n.n_left);
}
