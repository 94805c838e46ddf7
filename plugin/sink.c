/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving side of transfers, on the control thread. */
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"

/* ---- messages ----------------------------------------------------------------------------- */

static void say_request(struct kvf_task *task, struct kvfi_outbound *out)
{
    struct kvf_engine *engine = task->engine;
    const struct kvf_token_range *wanted = task->recv.destination->box.tokens;
    uint64_t deadline = atomic_load_explicit(&task->deadline_ns, memory_order_relaxed);
    uint64_t now = kvfi_now_ns();
    Kvfi__Wire__Message m;
    Kvfi__Wire__Request r;
    Kvfi__Wire__TokenRange ranges[KVF_GROUPS_MAX];
    Kvfi__Wire__TokenRange *list[KVF_GROUPS_MAX];

    kvfi__wire__message__init(&m);
    kvfi__wire__request__init(&r);
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        if (wanted[g].begin >= wanted[g].end)
            continue;
        kvfi__wire__token_range__init(&ranges[r.n_ranges]);
        ranges[r.n_ranges].group = g;
        ranges[r.n_ranges].begin = wanted[g].begin;
        ranges[r.n_ranges].end = wanted[g].end;
        list[r.n_ranges] = &ranges[r.n_ranges];
        r.n_ranges++;
    }
    r.ranges = list;
    r.transfer = kvfi_task_transfer(task);
    r.request.data = task->request.bytes;
    r.request.len = sizeof(task->request.bytes);
    r.attempt = task->attempt;
    r.dst_dp_group = engine->config.place.dp_group;
    r.src_dp_group = task->recv.src_dp_group;
    r.plan_hash = out->planned ? out->plan.hash : 0;
    r.time_left_ns = deadline == UINT64_MAX ? 0 : (deadline > now ? deadline - now : 1);
    r.priority = task->priority;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_REQUEST;
    m.request = &r;
    out->state = KVFI_OUTBOUND_REQUESTED;
    kvfi_peer_send(engine, &engine->peers[out->peer], &m);
}

static void say_finish(struct kvf_engine *engine, const struct kvfi_outbound *out,
                       uint64_t transfer, kvf_status_t status, uint32_t step, const char *text)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Finish f;
    char copy[KVF_MESSAGE_MAX];

    kvfi__wire__message__init(&m);
    kvfi__wire__finish__init(&f);
    (void)snprintf(copy, sizeof(copy), "%s", text);
    f.transfer = transfer;
    f.status = (int32_t)status;
    f.step = step;
    f.text = copy;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_FINISH;
    m.finish = &f;
    kvfi_peer_send(engine, &engine->peers[out->peer], &m);
}

/* ---- plans -------------------------------------------------------------------------------- */

static void plan_input(const struct kvf_task *task, const struct kvfi_outbound *out,
                       const struct kvfi_extent_box *box, struct kvfi_plan_input *ret_input)
{
    memset(ret_input, 0, sizeof(*ret_input));
    ret_input->src = &task->recv.source->geometry;
    ret_input->dst = &kvfi_own(task->engine)->geometry;
    ret_input->src_rank = out->rank;
    ret_input->dst_rank = task->engine->config.place.rank;
    memcpy(ret_input->ranges, task->recv.destination->box.tokens, sizeof(ret_input->ranges));
    ret_input->request = task->request;
    ret_input->extent = box;
}

static bool make_plan(struct kvf_task *task, struct kvfi_outbound *out)
{
    struct kvfi_plan_input input;
    char text[KVF_MESSAGE_MAX];
    kvf_status_t status;

    if (out->planned)
        return true;
    plan_input(task, out, NULL, &input);
    status = kvfi_plan_init(&input, text, sizeof(text), &out->plan);
    if (status) {
        kvfi_task_fail(task, KVF_TASK_FAILED, status, KVF_STEP_MATCH, NULL, "%s", text);
        return false;
    }
    out->planned = true;
    return true;
}

/* ---- sources ------------------------------------------------------------------------------ */

static struct kvfi_outbound *outbound_of(struct kvf_task *task, const struct kvfi_peer *peer)
{
    for (uint32_t i = 0; i < task->recv.n_outbounds; i++) {
        struct kvfi_outbound *out = &task->recv.outbounds[i];

        if (out->peer == peer->index && out->state != KVFI_OUTBOUND_UNSENT &&
            out->state != KVFI_OUTBOUND_LOST)
            return out;
    }
    return NULL;
}

/* The ranks of the source's group; of all groups while it is unknown. */
static bool list_sources(struct kvf_task *task)
{
    struct kvfi_recv_state *r = &task->recv;
    const struct kvfi_instance_geometry *g = &r->source->geometry;
    uint32_t n_groups = g->ranks[0].place.n_dp_groups;

    if (r->outbounds)
        return true;
    if (r->src_dp_group != KVF_DP_UNKNOWN && r->src_dp_group >= n_groups) {
        kvfi_task_fail(task, KVF_TASK_FAILED, KVF_EINVAL, KVF_STEP_MATCH, NULL,
                       "source_dp_group is %u, but \"%s\" has %u groups", r->src_dp_group, g->name,
                       n_groups);
        return false;
    }
    r->outbounds = kvfi_calloc(g->n_ranks, sizeof(*r->outbounds));
    if (!r->outbounds) {
        kvfi_task_fail(task, KVF_TASK_FAILED, KVF_ENOMEM, KVF_STEP_MATCH, NULL,
                       "no memory for %u sources", g->n_ranks);
        return false;
    }
    for (uint32_t rank = 0; rank < g->n_ranks; rank++) {
        if (r->src_dp_group != KVF_DP_UNKNOWN && g->ranks[rank].place.dp_group != r->src_dp_group)
            continue;
        r->outbounds[r->n_outbounds].rank = rank;
        r->outbounds[r->n_outbounds].peer = KVFI_NONE;
        r->outbounds[r->n_outbounds].pieces = KVFI_NONE;
        r->n_outbounds++;
    }
    return true;
}

/* Ask one source rank, or see to it that it can be asked later. */
static void ask(struct kvf_task *task, struct kvfi_outbound *out)
{
    struct kvf_engine *engine = task->engine;
    struct kvf_instance *source = task->recv.source;
    uint32_t peer = source->peers[out->rank];

    if (peer == KVFI_NONE || engine->peers[peer].state != KVFI_PEER_UP)
        return;
    out->peer = peer;
    if (task->recv.src_dp_group != KVF_DP_UNKNOWN && !make_plan(task, out))
        return;
    say_request(task, out);
}

static void advance(struct kvf_task *task)
{
    struct kvfi_recv_state *r = &task->recv;
    struct kvf_instance *source = r->source;
    bool all_asked = true;

    if (source->match != KVF_OK) {
        kvfi_task_fail(task, KVF_TASK_FAILED, source->match, KVF_STEP_MATCH, NULL, "%s",
                       source->match_text);
        return;
    }
    if (!list_sources(task))
        return;
    for (uint32_t i = 0; i < r->n_outbounds; i++) {
        if (r->outbounds[i].state == KVFI_OUTBOUND_UNSENT)
            ask(task, &r->outbounds[i]);
        if (kvfi_life_state(&task->life) >= KVF_TASK_ENDING)
            return;
        all_asked = all_asked && r->outbounds[i].state != KVFI_OUTBOUND_UNSENT;
    }
    if (all_asked && !r->matched)
        kvfi_life_step(&task->life, KVF_STEP_MATCH);
}

void kvfi_sink_advance(struct kvf_task *task)
{
    if (!task->recv.source->known || !kvfi_life_enter(&task->life))
        return;
    advance(task);
    kvfi_life_leave(&task->life);
}

/* ---- restart ------------------------------------------------------------------------------ */

/* Take the token back; false if the task completed in the meantime. */
static bool retake_token(struct kvf_task *task)
{
    uint64_t n = atomic_load_explicit(&task->life.remaining, memory_order_relaxed);

    if (task->recv.token)
        return true;
    do {
        if (n == 0)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&task->life.remaining, &n, n + 1,
                                                    memory_order_relaxed, memory_order_relaxed));
    task->recv.token = true;
    return true;
}

/* The old attempt's batches are gone: forget what it sent and ask again. */
static void restart_if_drained(struct kvf_task *task, struct kvfi_outbound *out)
{
    struct kvf_engine *engine = task->engine;
    uint64_t arrived = 0;

    for (uint32_t p = out->pieces; p != KVFI_NONE; p = engine->recv_pieces.pieces[p].next) {
        if (engine->recv_pieces.pieces[p].n_refs > 0)
            return;
        arrived +=
            atomic_load_explicit(&engine->recv_pieces.pieces[p].packed_bytes, memory_order_relaxed);
    }
    while (out->pieces != KVFI_NONE) {
        uint32_t p = out->pieces;

        out->pieces = engine->recv_pieces.pieces[p].next;
        kvfi_piece_free(&engine->recv_pieces, p);
    }
    /* The token is held, so this does not end the task. */
    kvfi_life_complete(&task->life, out->plan.bytes - arrived);
    kvfi_plan_fini(&out->plan);
    out->planned = false;
    kvfi_sink_free_boxes(out);
    out->n_extents = 0;
    out->bytes_announced = 0;
    out->state = KVFI_OUTBOUND_UNSENT;
    if (task->attempt != KVF_ATTEMPT_ANY && task->attempt <= out->attempt)
        task->attempt = out->attempt + 1;
    kvfi_sink_advance(task);
}

static void begin_restart(struct kvf_task *task, struct kvfi_outbound *out)
{
    struct kvf_engine *engine = task->engine;

    if (out->state == KVFI_OUTBOUND_REQUESTED) {
        out->state = KVFI_OUTBOUND_UNSENT; /* nothing had begun */
        kvfi_sink_advance(task);
        return;
    }
    if (!retake_token(task))
        return;
    for (uint32_t p = out->pieces; p != KVFI_NONE; p = engine->recv_pieces.pieces[p].next)
        atomic_store_explicit(&engine->recv_pieces.pieces[p].dead, true, memory_order_release);
    out->state = KVFI_OUTBOUND_RESTARTING;
    restart_if_drained(task, out);
}

/* ---- answers ------------------------------------------------------------------------------ */

/* The first ACCEPT says which group has the request: the others are released. */
static bool learn_group(struct kvf_task *task, const struct kvfi_peer *peer)
{
    struct kvfi_recv_state *r = &task->recv;
    const struct kvfi_instance_geometry *g = &r->source->geometry;
    uint32_t group = g->ranks[peer->rank].place.dp_group;

    if (r->src_dp_group != KVF_DP_UNKNOWN)
        return true;
    r->src_dp_group = group;
    for (uint32_t i = 0; i < r->n_outbounds; i++) {
        struct kvfi_outbound *out = &r->outbounds[i];

        if (g->ranks[out->rank].place.dp_group == group) {
            if (!make_plan(task, out))
                return false;
            continue;
        }
        if (out->state == KVFI_OUTBOUND_REQUESTED)
            say_finish(task->engine, out, kvfi_task_transfer(task), KVF_OK, KVF_STEP_NONE,
                       "another group has the request");
        out->state = KVFI_OUTBOUND_RELEASED;
    }
    return true;
}

/* The task is entered. */
static void note_match(struct kvf_task *task, uint64_t n_bytes, uint64_t attempt)
{
    struct kvf_result *r = &task->life.result;

    if (r->times_ns[KVF_TIME_MATCHED] == 0)
        r->times_ns[KVF_TIME_MATCHED] = kvfi_now_ns();
    r->times_ns[KVF_TIME_FENCE] = r->times_ns[KVF_TIME_MATCHED];
    r->attempt = attempt;
    r->bytes_wanted += n_bytes;
    kvfi_life_match(&task->life);
    if (!task->recv.matched) {
        task->recv.matched = true;
        kvfi_life_event(&task->life, KVF_EVENT_MATCHED);
    }
    kvfi_life_step(&task->life, KVF_STEP_EXTENT);
}

/* All sources have said everything: only bytes are left to wait for. */
static void drop_token(struct kvf_task *task)
{
    struct kvfi_recv_state *r = &task->recv;

    if (!r->token)
        return;
    for (uint32_t i = 0; i < r->n_outbounds; i++) {
        if (r->outbounds[i].state != KVFI_OUTBOUND_CLOSED &&
            r->outbounds[i].state != KVFI_OUTBOUND_RELEASED)
            return;
    }
    r->token = false;
    kvfi_life_step(&task->life, KVF_STEP_WIRE);
    kvfi_life_complete(&task->life, 1);
}

/*
 * The source an answer is of. The task is entered, so that its lists do not change under someone
 * who saw it terminal: kvfi_life_leave when done. NULL: the task has ended here, and the answer
 * crossed its FINISH.
 */
static struct kvfi_outbound *answer_to(struct kvf_engine *engine, const struct kvfi_peer *peer,
                                       uint64_t transfer, struct kvf_task **ret_task)
{
    struct kvf_task *task = kvfi_task_of_transfer(engine, transfer);
    struct kvfi_outbound *out;

    if (!task || !kvfi_life_enter(&task->life))
        return NULL;
    out = outbound_of(task, peer);
    if (!out)
        kvfi_life_leave(&task->life);
    *ret_task = task;
    return out;
}

static void accepted(struct kvf_task *task, struct kvfi_outbound *out, struct kvfi_peer *peer,
                     const Kvfi__Wire__Accept *m)
{
    if (out->state != KVFI_OUTBOUND_REQUESTED || !learn_group(task, peer))
        return;
    if (m->plan_hash != out->plan.hash || m->bytes != out->plan.bytes) {
        kvfi_task_fail(task, KVF_TASK_FAILED, KVF_EMISMATCH, KVF_STEP_MATCH, peer,
                       "plan has %llu bytes and hash %#llx here, %llu and %#llx at the source",
                       (unsigned long long)out->plan.bytes, (unsigned long long)out->plan.hash,
                       (unsigned long long)m->bytes, (unsigned long long)m->plan_hash);
        return;
    }
    out->attempt = m->attempt;
    out->state = KVFI_OUTBOUND_ACCEPTED;
    kvfi_life_add(&task->life, out->plan.bytes);
    note_match(task, out->plan.bytes, m->attempt);
    if (task->recv.release_only) {
        out->state = KVFI_OUTBOUND_CLOSED;
        drop_token(task);
    }
}

void kvfi_on_accept(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Accept *m)
{
    struct kvf_task *task;
    struct kvfi_outbound *out = answer_to(engine, peer, m->transfer, &task);

    if (!out)
        return;
    accepted(task, out, peer, m);
    kvfi_life_leave(&task->life);
}

void kvfi_on_refuse(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Refuse *m)
{
    struct kvf_task *task;
    struct kvfi_outbound *out = answer_to(engine, peer, m->transfer, &task);

    if (!out)
        return;
    if (out->state != KVFI_OUTBOUND_RELEASED && out->state != KVFI_OUTBOUND_RESTARTING) {
        if (m->restart)
            begin_restart(task, out);
        else
            kvfi_task_fail(task, KVF_TASK_FAILED,
                           m->status < 0 ? (kvf_status_t)m->status : KVF_EPEER,
                           m->step <= KVF_STEP_AUX ? (enum kvf_step)m->step : KVF_STEP_NONE, peer,
                           "the source ended: %.200s", m->text ? m->text : "");
    }
    kvfi_life_leave(&task->life);
}

/* ---- extents ------------------------------------------------------------------------------ */

void kvfi_sink_free_boxes(struct kvfi_outbound *out)
{
    while (out->boxes) {
        struct kvfi_box_node *next = out->boxes->next;

        kvfi_free(out->boxes);
        out->boxes = next;
    }
}

/* Remember the box of an extent; what is wrong with it, NULL if nothing. */
static const char *take_box(struct kvfi_outbound *out, const Kvfi__Wire__Extent *m)
{
    struct kvfi_box_node *node;

    if (m->extent != out->n_extents || m->extent >= KVFI_EXTENTS_MAX)
        return "extents are not numbered one by one";
    if (m->first_layer >= m->end_layer || m->n_tokens > KVF_GROUPS_MAX)
        return "an extent is malformed";
    node = kvfi_calloc(1, sizeof(*node));
    if (!node)
        return "no memory for an extent";
    node->box.first_layer = m->first_layer;
    node->box.end_layer = m->end_layer;
    for (size_t i = 0; i < m->n_tokens; i++) {
        if (m->tokens[i]->group < KVF_GROUPS_MAX) {
            node->box.tokens[m->tokens[i]->group].begin = m->tokens[i]->begin;
            node->box.tokens[m->tokens[i]->group].end = m->tokens[i]->end;
        }
    }
    for (const struct kvfi_box_node *b = out->boxes; b; b = b->next) {
        if (kvfi_boxes_overlap(&b->box, &node->box)) {
            kvfi_free(node);
            return "two extents overlap";
        }
    }
    node->next = out->boxes;
    out->boxes = node;
    out->n_extents++;
    return NULL;
}

static kvf_status_t extent_map(struct kvf_task *task, struct kvfi_outbound *out,
                               const struct kvfi_peer *peer, char *text, size_t text_cap,
                               struct kvfi_chunk_map *ret_map)
{
    const struct kvf_engine *engine = task->engine;
    struct kvfi_plan plan = {0};
    struct kvfi_plan_input input;
    kvf_status_t status;

    plan_input(task, out, &out->boxes->box, &input);
    status = kvfi_plan_init(&input, text, text_cap, &plan);
    if (!status)
        status = kvfi_chunk_map_init(&plan, &task->recv.source->geometry.ranks[out->rank],
                                     &kvfi_own(engine)->geometry.ranks[engine->config.place.rank],
                                     peer->chunk_bytes, text, text_cap, ret_map);
    if (status)
        kvfi_plan_fini(&plan);
    return status;
}

static void add_piece(struct kvf_task *task, struct kvfi_outbound *out,
                      const struct kvfi_peer *peer, const Kvfi__Wire__Extent *m)
{
    struct kvf_engine *engine = task->engine;
    char text[KVF_MESSAGE_MAX];
    struct kvfi_chunk_map map;
    kvf_status_t status = extent_map(task, out, peer, text, sizeof(text), &map);
    uint32_t piece = KVFI_NONE;

    if (!status && (map.bytes != m->bytes || map.n_chunks != m->n_chunks)) {
        (void)snprintf(text, sizeof(text),
                       "extent %u is %llu bytes in %u chunks here, %llu in %u at the source",
                       m->extent, (unsigned long long)map.bytes, map.n_chunks,
                       (unsigned long long)m->bytes, m->n_chunks);
        kvfi_chunk_map_fini(&map);
        status = KVF_EMISMATCH;
    }
    if (!status) {
        piece = kvfi_piece_new(&engine->recv_pieces, task, &map, true);
        if (piece == KVFI_NONE) {
            (void)snprintf(text, sizeof(text), "no room for more pieces");
            kvfi_chunk_map_fini(&map);
            status = KVF_ENOSPC;
        }
    }
    if (status) {
        kvfi_task_fail(task, KVF_TASK_FAILED, status, KVF_STEP_EXTENT, peer, "%s", text);
        return;
    }
    engine->recv_pieces.pieces[piece].extent = task->recv.destination;
    engine->recv_pieces.pieces[piece].peer = peer->index;
    engine->recv_pieces.pieces[piece].extent_number = m->extent;
    engine->recv_pieces.pieces[piece].outbound = out;
    engine->recv_pieces.pieces[piece].next = out->pieces;
    out->pieces = piece;
    out->bytes_announced += m->bytes;
}

void kvfi_on_extent(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Extent *m)
{
    struct kvf_task *task;
    struct kvfi_outbound *out = answer_to(engine, peer, m->transfer, &task);
    const char *fault;

    if (!out)
        return;
    if (out->state == KVFI_OUTBOUND_ACCEPTED) {
        fault = take_box(out, m);
        if (fault)
            kvfi_task_fail(task, KVF_TASK_FAILED, KVF_EPROTO, KVF_STEP_EXTENT, peer, "%s", fault);
        else if (m->bytes > 0)
            add_piece(task, out, peer, m);
    }
    kvfi_life_leave(&task->life);
}

/* ---- close and aux ------------------------------------------------------------------------ */

static bool take_aux(struct kvf_task *task, const struct kvfi_outbound *out,
                     const struct kvfi_peer *peer, const Kvfi__Wire__Close *m)
{
    struct kvfi_recv_state *r = &task->recv;

    /* A restarted attempt's payload takes the place of the old one's. */
    if (m->aux.len == 0 || (r->aux_seen && out->attempt <= r->aux_attempt))
        return true;
    if (m->aux.len > r->aux_capacity) {
        kvfi_task_fail(task, KVF_TASK_FAILED, KVF_ENOSPC, KVF_STEP_AUX, peer,
                       "aux payload is %zu bytes, aux_capacity is %llu", m->aux.len,
                       (unsigned long long)r->aux_capacity);
        return false;
    }
    memcpy(r->aux, m->aux.data, m->aux.len);
    task->life.result.aux_bytes = m->aux.len;
    r->aux_seen = true;
    r->aux_attempt = out->attempt;
    return true;
}

static void closed(struct kvf_task *task, struct kvfi_outbound *out, const struct kvfi_peer *peer,
                   const Kvfi__Wire__Close *m)
{
    if (out->state != KVFI_OUTBOUND_ACCEPTED)
        return;
    if (m->n_extents != out->n_extents || out->bytes_announced != out->plan.bytes) {
        kvfi_task_fail(task, KVF_TASK_FAILED, KVF_EMISMATCH, KVF_STEP_EXTENT, peer,
                       "the source's %u extents hold %llu of the %llu bytes wanted of it",
                       m->n_extents, (unsigned long long)out->bytes_announced,
                       (unsigned long long)out->plan.bytes);
        return;
    }
    if (!take_aux(task, out, peer, m))
        return;
    out->state = KVFI_OUTBOUND_CLOSED;
    drop_token(task);
}

void kvfi_on_close(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Close *m)
{
    struct kvf_task *task;
    struct kvfi_outbound *out = answer_to(engine, peer, m->transfer, &task);

    if (!out)
        return;
    closed(task, out, peer, m);
    kvfi_life_leave(&task->life);
}

/* ---- offered runs ------------------------------------------------------------------------- */

static uint32_t piece_of(const struct kvf_engine *engine, const struct kvfi_outbound *out,
                         uint32_t extent)
{
    uint32_t p = out->pieces;

    while (p != KVFI_NONE && engine->recv_pieces.pieces[p].extent_number != extent)
        p = engine->recv_pieces.pieces[p].next;
    return p;
}

/* Runs arrive wholly or not at all, so the first chunk speaks for all. */
static bool has_arrived(const struct kvfi_piece *p, uint32_t chunk)
{
    return atomic_load_explicit(&p->arrived[chunk / 64], memory_order_acquire) >> (chunk % 64) & 1;
}

static bool run_fits(const struct kvfi_piece *p, const Kvfi__Wire__Run *m)
{
    uint64_t n_bytes = 0;

    if (m->n_chunks == 0 || m->first_chunk >= p->map.n_chunks ||
        m->n_chunks > p->map.n_chunks - m->first_chunk)
        return false;
    for (uint32_t c = m->first_chunk; c < m->first_chunk + m->n_chunks; c++) {
        if (p->offered[c / 64] >> (c % 64) & 1)
            return false;
        n_bytes += kvfi_chunk_bytes(&p->map, c);
    }
    return n_bytes == m->bytes;
}

static kvf_status_t take_run(struct kvf_engine *engine, const struct kvfi_outbound *out,
                             const Kvfi__Wire__Run *m, uint32_t *ret_piece)
{
    struct kvfi_piece *p;
    uint32_t piece;

    if (out->state != KVFI_OUTBOUND_ACCEPTED && out->state != KVFI_OUTBOUND_CLOSED)
        return KVF_OK; /* restarted here: filler */
    piece = piece_of(engine, out, m->extent);
    if (piece == KVFI_NONE)
        return KVF_EPROTO;
    p = &engine->recv_pieces.pieces[piece];
    if (m->first_chunk < p->map.n_chunks && has_arrived(p, m->first_chunk))
        return KVF_OK; /* here already: its DELIVERED was lost with a link */
    if (!run_fits(p, m))
        return KVF_EPROTO;
    for (uint32_t c = m->first_chunk; c < m->first_chunk + m->n_chunks; c++)
        p->offered[c / 64] |= UINT64_C(1) << (c % 64);
    p->n_refs++;
    *ret_piece = piece;
    return KVF_OK;
}

kvf_status_t kvfi_sink_run(struct kvf_engine *engine, struct kvfi_peer *peer,
                           const Kvfi__Wire__Run *m, uint32_t *ret_piece)
{
    struct kvf_task *task;
    struct kvfi_outbound *out = answer_to(engine, peer, m->transfer, &task);
    kvf_status_t status;

    *ret_piece = KVFI_NONE;
    if (!out)
        return KVF_OK; /* ended here: filler */
    status = take_run(engine, out, m, ret_piece);
    kvfi_life_leave(&task->life);
    return status;
}

void kvfi_sink_run_over(struct kvf_engine *engine, const struct kvfi_run *run, bool delivered)
{
    struct kvfi_piece *p = &engine->recv_pieces.pieces[run->piece];

    p->n_refs--;
    if (!delivered) {
        for (uint32_t c = run->first_chunk; c < run->first_chunk + run->n_chunks; c++)
            p->offered[c / 64] &= ~(UINT64_C(1) << (c % 64));
    }
    if (p->n_refs == 0)
        kvfi_engine_poke(p->task, KVFI_WANT_CHECK);
}

/* ---- the task ----------------------------------------------------------------------------- */

void kvfi_sink_serve(struct kvf_task *task, uint32_t wants)
{
    struct kvfi_recv_state *r = &task->recv;

    if (wants & KVFI_WANT_START) {
        r->next_of_instance = r->source->recvs;
        r->source->recvs = task;
        r->source->n_refs++;
        kvfi_instances_serve(task->engine);
        kvfi_sink_advance(task);
    }
    if ((wants & KVFI_WANT_CHECK) && kvfi_life_enter(&task->life)) {
        for (uint32_t i = 0; i < r->n_outbounds; i++) {
            if (r->outbounds[i].state == KVFI_OUTBOUND_RESTARTING)
                restart_if_drained(task, &r->outbounds[i]);
        }
        kvfi_life_leave(&task->life);
    }
}

static void free_idle_pieces(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;

    for (uint32_t i = 0; i < task->recv.n_outbounds; i++) {
        uint32_t *at = &task->recv.outbounds[i].pieces;

        while (*at != KVFI_NONE) {
            struct kvfi_piece *p = &engine->recv_pieces.pieces[*at];
            uint32_t piece = *at;

            if (p->n_refs > 0) {
                at = &p->next;
                continue;
            }
            *at = p->next;
            kvfi_piece_free(&engine->recv_pieces, piece);
        }
    }
}

void kvfi_sink_ended(struct kvf_task *task)
{
    struct kvfi_recv_state *r = &task->recv;
    const struct kvf_result *result = &task->life.result;
    struct kvf_task **at = &r->source->recvs;

    for (uint32_t i = 0; i < r->n_outbounds; i++) {
        struct kvfi_outbound *out = &r->outbounds[i];

        if (out->state == KVFI_OUTBOUND_REQUESTED || out->state == KVFI_OUTBOUND_ACCEPTED ||
            out->state == KVFI_OUTBOUND_CLOSED)
            say_finish(task->engine, out, kvfi_task_transfer(task), result->status, result->step,
                       result->message);
    }
    while (*at && *at != task)
        at = &(*at)->recv.next_of_instance;
    if (*at) {
        *at = r->next_of_instance;
        r->source->n_refs--;
    }
    if (result->state == KVF_TASK_DONE)
        free_idle_pieces(task);
}

bool kvfi_sink_idle(const struct kvf_task *task)
{
    for (uint32_t i = 0; i < task->recv.n_outbounds; i++) {
        for (uint32_t p = task->recv.outbounds[i].pieces; p != KVFI_NONE;
             p = task->engine->recv_pieces.pieces[p].next) {
            if (task->engine->recv_pieces.pieces[p].n_refs > 0)
                return false;
        }
    }
    return true;
}

void kvfi_sink_free(struct kvf_task *task)
{
    struct kvfi_recv_state *r = &task->recv;

    free_idle_pieces(task);
    for (uint32_t i = 0; i < r->n_outbounds; i++) {
        kvfi_plan_fini(&r->outbounds[i].plan);
        kvfi_sink_free_boxes(&r->outbounds[i]);
    }
    kvfi_free(r->outbounds);
    r->outbounds = NULL;
    r->n_outbounds = 0;
    kvfi_extent_free(task->engine, r->destination);
    r->destination = NULL;
}

void kvfi_sink_peer_down(struct kvf_engine *engine, struct kvfi_peer *peer, kvf_status_t status,
                         const char *text)
{
    struct kvf_task *next;

    (void)engine;
    for (struct kvf_task *task = peer->instance->recvs; task; task = next) {
        struct kvfi_outbound *out = outbound_of(task, peer);

        next = task->recv.next_of_instance;
        if (!out || out->state == KVFI_OUTBOUND_RELEASED)
            continue;
        if (!kvfi_life_enter(&task->life)) {
            out->state = KVFI_OUTBOUND_LOST; /* ending already: nothing is to be said to it */
            continue;
        }
        kvfi_task_fail(task, KVF_TASK_FAILED, status == KVF_OK ? KVF_EPEER : status, KVF_STEP_WIRE,
                       peer, "connection to rank %u of \"%s\" ended: %.150s", peer->rank,
                       peer->instance->name, text);
        out->state = KVFI_OUTBOUND_LOST;
        kvfi_life_leave(&task->life);
    }
}
