/* SPDX-License-Identifier: Apache-2.0 */
/* The sending side of transfers, on the control thread: REQUESTs meet sends. */
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"

/* ---- inbound requests --------------------------------------------------------------------- */

static void refuse(struct kvf_engine *engine, uint32_t peer, uint64_t transfer, kvf_status_t status,
                   enum kvf_step step, bool restart, const char *text)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Refuse r;
    char copy[KVF_MESSAGE_MAX];

    kvfi__wire__message__init(&m);
    kvfi__wire__refuse__init(&r);
    (void)snprintf(copy, sizeof(copy), "%s", text);
    r.transfer = transfer;
    r.status = (int32_t)status;
    r.step = (uint32_t)step;
    r.text = copy;
    r.restart = restart;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_REFUSE;
    m.refuse = &r;
    kvfi_peer_send(engine, &engine->peers[peer], &m);
}

static void unlink_waiting(struct kvf_engine *engine, struct kvfi_inbound *in)
{
    struct kvfi_inbound **at = &engine->waiting;

    while (*at && *at != in)
        at = &(*at)->next_waiting;
    if (*at)
        *at = in->next_waiting;
}

/* Nothing names it any more: off every list, back to the free ones. */
static void free_inbound(struct kvf_engine *engine, struct kvfi_inbound *in)
{
    struct kvfi_inbound **at = &engine->peers[in->peer].inbounds;

    while (*at && *at != in)
        at = &(*at)->next_of_peer;
    if (*at)
        *at = in->next_of_peer;
    if (in->task) {
        at = &in->task->send.inbounds;
        while (*at && *at != in)
            at = &(*at)->next_of_task;
        if (*at)
            *at = in->next_of_task;
    } else {
        unlink_waiting(engine, in);
    }
    if (engine->peers[in->peer].state == KVFI_PEER_LEAVING)
        engine->check_leaving = true;
    kvfi_plan_fini(&in->plan);
    memset(in, 0, sizeof(*in));
    in->next_waiting = engine->free_inbounds;
    engine->free_inbounds = in;
}

/* Freed later (kvfi_source_settle): somebody may be walking over the list it is on. */
static void free_if_idle(struct kvf_engine *engine, struct kvfi_inbound *in)
{
    if (!in->finished || in->n_pieces > 0 || in->queued)
        return;
    in->queued = true;
    in->next_waiting = engine->idle;
    engine->idle = in;
    kvfi_engine_poke(in->task, KVFI_WANT_CHECK);
}

void kvfi_source_settle(struct kvf_engine *engine)
{
    while (engine->idle) {
        struct kvfi_inbound *in = engine->idle;
        struct kvf_task *task = in->task;

        engine->idle = in->next_waiting;
        free_inbound(engine, in);
        kvfi_engine_poke(task, KVFI_WANT_CHECK);
    }
}

static void remove_pieces(struct kvf_engine *engine, struct kvfi_inbound *in)
{
    uint64_t now = kvfi_now_ns();
    uint32_t piece = in->pieces;

    /* PIECE_IDLE may free a piece from inside the call, and with the last one the inbound stays. */
    while (piece != KVFI_NONE) {
        struct kvfi_piece *p = &engine->send_pieces.pieces[piece];
        uint32_t next = p->next;

        if (!p->removed) {
            p->removed = true;
            kvfi_send_piece_remove(engine->send_sched, piece, now);
        }
        piece = next;
    }
}

/* This rank pair is over. `text` NULL: it went well. */
static void finish_inbound(struct kvf_engine *engine, struct kvfi_inbound *in, kvf_status_t status,
                           enum kvf_step step, const char *text)
{
    struct kvf_task *task = in->task;
    struct kvfi_send_state *s = &task->send;

    if (in->finished)
        return;
    in->finished = true;
    in->state = KVFI_INBOUND_ENDED;
    s->receivers[in->receiver].n_finished++;
    if (text && s->bad.status == KVF_OK) {
        const struct kvfi_peer *peer = &engine->peers[in->peer];

        (void)snprintf(s->bad_text, sizeof(s->bad_text), "%s", text);
        (void)snprintf(s->bad_instance, sizeof(s->bad_instance), "%s", peer->instance->name);
        s->bad = (struct kvfi_cause){.state = KVF_TASK_FAILED,
                                     .status = status,
                                     .step = step,
                                     .peer_rank = peer->rank,
                                     .peer_instance = s->bad_instance,
                                     .text = s->bad_text};
    }
    remove_pieces(engine, in);
    kvfi_engine_poke(task, KVFI_WANT_CHECK);
    free_if_idle(engine, in);
}

/* ---- packing ------------------------------------------------------------------------------ */

static void packed(struct kvf_task *task, uint64_t units)
{
    /* acq_rel: all packs are over for whoever takes it to zero. */
    if (units > 0 &&
        atomic_fetch_sub_explicit(&task->send.to_pack, units, memory_order_acq_rel) == units)
        kvfi_life_event(&task->life, KVF_EVENT_SOURCE_RELEASED);
}

/* Lane thread. */
void kvfi_source_packed(struct kvfi_piece *piece, uint64_t n_bytes)
{
    (void)atomic_fetch_add_explicit(&piece->packed_bytes, n_bytes, memory_order_relaxed);
    packed(piece->task, n_bytes);
}

/* Everything that will ever be packed is counted: let the count reach zero. */
static void drop_pack_token(struct kvf_task *task)
{
    struct kvfi_send_state *s = &task->send;

    if (!s->to_pack_token || !s->closed || s->n_receivers == KVF_RECEIVERS_ANY ||
        s->n_met < s->n_receivers)
        return;
    for (uint32_t i = 0; i < s->n_met; i++) {
        if (s->receivers[i].n_accepted < s->receivers[i].n_expected)
            return;
    }
    s->to_pack_token = false;
    packed(task, 1);
}

/* ---- extents ------------------------------------------------------------------------------ */

static void plan_input(const struct kvf_engine *engine, const struct kvfi_inbound *in,
                       const struct kvfi_extent_box *box, struct kvfi_plan_input *ret_input)
{
    const struct kvfi_peer *peer = &engine->peers[in->peer];

    memset(ret_input, 0, sizeof(*ret_input));
    ret_input->src = &kvfi_own(engine)->geometry;
    ret_input->dst = &peer->instance->geometry;
    ret_input->src_rank = engine->config.place.rank;
    ret_input->dst_rank = peer->rank;
    memcpy(ret_input->ranges, in->ranges, sizeof(in->ranges));
    ret_input->request = in->request;
    ret_input->extent = box;
}

static void say_extent(struct kvf_engine *engine, const struct kvfi_inbound *in,
                       const struct kvfi_extent *extent, uint64_t n_bytes, uint32_t n_chunks)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Extent x;
    Kvfi__Wire__TokenRange ranges[KVF_GROUPS_MAX];
    Kvfi__Wire__TokenRange *list[KVF_GROUPS_MAX];

    kvfi__wire__message__init(&m);
    kvfi__wire__extent__init(&x);
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        const struct kvf_token_range *t = &extent->box.tokens[g];

        if (t->begin >= t->end)
            continue;
        kvfi__wire__token_range__init(&ranges[x.n_tokens]);
        ranges[x.n_tokens].group = g;
        ranges[x.n_tokens].begin = t->begin;
        ranges[x.n_tokens].end = t->end;
        list[x.n_tokens] = &ranges[x.n_tokens];
        x.n_tokens++;
    }
    x.tokens = list;
    x.transfer = in->transfer;
    x.extent = extent->number;
    x.first_layer = extent->box.first_layer;
    x.end_layer = extent->box.end_layer;
    x.bytes = n_bytes;
    x.n_chunks = n_chunks;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_EXTENT;
    m.extent = &x;
    kvfi_peer_send(engine, &engine->peers[in->peer], &m);
}

/* A piece for the scheduler; on success *map is taken over. */
static kvf_status_t add_piece(struct kvf_engine *engine, struct kvfi_inbound *in,
                              const struct kvfi_extent *extent, struct kvfi_chunk_map *map)
{
    struct kvf_task *task = in->task;
    uint64_t deadline = atomic_load_explicit(&task->deadline_ns, memory_order_relaxed);
    uint32_t number = kvfi_piece_new(&engine->send_pieces, task, map, false);
    struct kvfi_piece *p;

    if (number == KVFI_NONE)
        return KVF_ENOSPC;
    p = &engine->send_pieces.pieces[number];
    p->extent = extent;
    p->peer = in->peer;
    p->extent_number = extent->number;
    p->inbound = in;
    p->next = in->pieces;
    in->pieces = number;
    in->n_pieces++;
    (void)atomic_fetch_add_explicit(&task->send.to_pack, p->map.bytes, memory_order_relaxed);
    say_extent(engine, in, extent, p->map.bytes, p->map.n_chunks);
    kvfi_send_piece_add(engine->send_sched, number, in->peer, p->map.n_chunks,
                        in->priority > task->priority ? in->priority : task->priority,
                        deadline == UINT64_MAX ? 0 : deadline);
    kvfi_send_piece_ready(engine->send_sched, number, kvfi_now_ns());
    return KVF_OK;
}

static kvf_status_t announce(struct kvf_engine *engine, struct kvfi_inbound *in,
                             const struct kvfi_extent *extent, char *text, size_t text_cap)
{
    const struct kvfi_peer *peer = &engine->peers[in->peer];
    struct kvfi_plan plan = {0};
    struct kvfi_plan_input input;
    struct kvfi_chunk_map map;
    kvf_status_t status;

    plan_input(engine, in, &extent->box, &input);
    status = kvfi_plan_init(&input, text, text_cap, &plan);
    if (status)
        return status;
    status = kvfi_extent_covers(engine, extent, &plan, text, text_cap);
    if (status || plan.bytes == 0) {
        kvfi_plan_fini(&plan);
        if (!status)
            say_extent(engine, in, extent, 0, 0);
        return status;
    }
    status = kvfi_chunk_map_init(
        &plan, &kvfi_own(engine)->geometry.ranks[engine->config.place.rank],
        &peer->instance->geometry.ranks[peer->rank], peer->chunk_bytes, text, text_cap, &map);
    if (status) {
        kvfi_plan_fini(&plan);
        return status;
    }
    status = add_piece(engine, in, extent, &map);
    if (status) {
        kvfi_chunk_map_fini(&map);
        (void)snprintf(text, text_cap, "the source has no room for more pieces");
    }
    return status;
}

static void say_close(struct kvf_engine *engine, struct kvfi_inbound *in)
{
    const struct kvfi_send_state *s = &in->task->send;
    Kvfi__Wire__Message m;
    Kvfi__Wire__Close c;

    kvfi__wire__message__init(&m);
    kvfi__wire__close__init(&c);
    c.transfer = in->transfer;
    c.n_extents = s->n_known;
    c.aux.data = s->aux;
    c.aux.len = s->aux_bytes;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_CLOSE;
    m.close = &c;
    in->closed = true;
    kvfi_peer_send(engine, &engine->peers[in->peer], &m);
}

/* Tell one receiver of everything known that it has not heard of. */
static void tell(struct kvf_engine *engine, struct kvfi_inbound *in)
{
    struct kvfi_send_state *s = &in->task->send;
    const struct kvfi_extent *e = NULL;
    char text[KVF_MESSAGE_MAX];

    /* Hosts append behind the last known one at any time: its `next` and an empty list's head are
     * not looked at. */
    for (uint32_t i = 0; i < s->n_known; i++) {
        kvf_status_t status;

        e = i == 0 ? s->extents : e->next;
        if (i < in->n_extents)
            continue;
        in->n_extents = e->number + 1;
        status = announce(engine, in, e, text, sizeof(text));
        if (status) {
            refuse(engine, in->peer, in->transfer, status, KVF_STEP_EXTENT, false, text);
            finish_inbound(engine, in, status, KVF_STEP_EXTENT, text);
            return;
        }
    }
    if (s->closed && !in->closed)
        say_close(engine, in);
}

/* ---- rendezvous --------------------------------------------------------------------------- */

static bool same_ranges(const struct kvf_token_range *a, const struct kvf_token_range *b)
{
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        if (a[g].begin != b[g].begin || a[g].end != b[g].end)
            return false;
    }
    return true;
}

static uint32_t ranks_in_group(const struct kvfi_instance_geometry *g, uint32_t dp_group)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < g->n_ranks; i++)
        n += g->ranks[i].place.dp_group == dp_group;
    return n;
}

static uint32_t new_receiver(struct kvf_task *task, const struct kvfi_inbound *in,
                             const struct kvf_instance *instance, const char **ret_text)
{
    struct kvfi_send_state *s = &task->send;
    struct kvfi_receiver *r = NULL;
    uint32_t i;

    if (s->n_receivers != KVF_RECEIVERS_ANY && s->n_met >= s->n_receivers) {
        *ret_text = "the send has met all its receivers";
        return KVFI_NONE;
    }
    for (i = 0; i < KVFI_RECEIVERS_MAX && !r; i++) {
        if (!s->receivers[i].name[0])
            r = &s->receivers[i];
    }
    if (!r) {
        *ret_text = "the send serves as many receivers as it can at once";
        return KVFI_NONE;
    }
    (void)pthread_mutex_lock(&task->engine->lock);
    memset(r, 0, sizeof(*r));
    memcpy(r->name, instance->name, sizeof(r->name));
    r->dp_group = in->dst_dp_group;
    r->n_expected = ranks_in_group(&instance->geometry, in->dst_dp_group);
    memcpy(r->ranges, in->ranges, sizeof(r->ranges));
    (void)pthread_mutex_unlock(&task->engine->lock);
    s->n_met++;
    return i - 1;
}

/* The receiver an inbound belongs to, made if it is the first rank of it that asks. */
static uint32_t find_receiver(struct kvf_task *task, const struct kvfi_inbound *in,
                              const struct kvf_instance *instance, const char **ret_text)
{
    struct kvfi_send_state *s = &task->send;

    for (uint32_t i = 0; i < KVFI_RECEIVERS_MAX; i++) {
        const struct kvfi_receiver *r = &s->receivers[i];

        if (strcmp(r->name, instance->name) != 0 || r->dp_group != in->dst_dp_group)
            continue;
        if (r->n_accepted >= r->n_expected) {
            *ret_text = "every rank of this receiver has asked already";
            return KVFI_NONE;
        }
        return i;
    }
    return new_receiver(task, in, instance, ret_text);
}

static void say_accept(struct kvf_engine *engine, const struct kvfi_inbound *in)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Accept a;

    kvfi__wire__message__init(&m);
    kvfi__wire__accept__init(&a);
    a.transfer = in->transfer;
    a.attempt = in->task->attempt;
    a.src_dp_group = engine->config.place.dp_group;
    a.plan_hash = in->plan.hash;
    a.bytes = in->plan.bytes;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_ACCEPT;
    m.accept = &a;
    kvfi_peer_send(engine, &engine->peers[in->peer], &m);
}

static kvf_status_t make_plan(struct kvf_engine *engine, struct kvfi_inbound *in,
                              const struct kvfi_receiver *receiver, char *text, size_t text_cap)
{
    struct kvfi_plan_input input;
    kvf_status_t status;

    if (!same_ranges(receiver->ranges, in->ranges)) {
        (void)snprintf(text, text_cap, "ranks of one receiver ask for different token ranges");
        return KVF_EMISMATCH;
    }
    plan_input(engine, in, NULL, &input);
    status = kvfi_plan_init(&input, text, text_cap, &in->plan);
    if (status)
        return status;
    if (in->plan_hash != 0 && in->plan_hash != in->plan.hash) {
        (void)snprintf(text, text_cap, "plan hash is %#llx at the receiver, %#llx at the source",
                       (unsigned long long)in->plan_hash, (unsigned long long)in->plan.hash);
        return KVF_EMISMATCH;
    }
    return KVF_OK;
}

static void note_match(struct kvf_task *task, uint64_t n_bytes)
{
    if (!kvfi_life_enter(&task->life))
        return;
    if (task->life.result.times_ns[KVF_TIME_MATCHED] == 0)
        task->life.result.times_ns[KVF_TIME_MATCHED] = kvfi_now_ns();
    task->life.result.attempt = task->attempt;
    task->life.result.bytes_wanted += n_bytes;
    kvfi_life_match(&task->life);
    kvfi_life_leave(&task->life);
}

/* A waiting request meets an open send. */
static void match(struct kvf_engine *engine, struct kvfi_inbound *in, struct kvf_task *task)
{
    struct kvf_instance *instance = engine->peers[in->peer].instance;
    char text[KVF_MESSAGE_MAX] = "";
    const char *why = NULL;
    uint32_t n_met = task->send.n_met;
    uint32_t receiver = find_receiver(task, in, instance, &why);
    kvf_status_t status = KVF_EEXIST;

    if (receiver != KVFI_NONE)
        status = make_plan(engine, in, &task->send.receivers[receiver], text, sizeof(text));
    unlink_waiting(engine, in);
    in->task = task;
    in->next_of_task = task->send.inbounds;
    task->send.inbounds = in;
    if (status) {
        refuse(engine, in->peer, in->transfer, status, KVF_STEP_MATCH, false, why ? why : text);
        if (receiver == KVFI_NONE) {
            free_inbound(engine, in);
            return;
        }
    }
    in->receiver = receiver;
    task->send.receivers[receiver].n_accepted++;
    if (status) {
        finish_inbound(engine, in, status, KVF_STEP_MATCH, text);
        return;
    }
    in->state = KVFI_INBOUND_ACCEPTED;
    note_match(task, in->plan.bytes);
    kvfi_life_step(&task->life, task->send.closed ? KVF_STEP_DELIVER : KVF_STEP_EXTENT);
    if (task->send.n_met > n_met)
        kvfi_life_event(&task->life, KVF_EVENT_MATCHED);
    say_accept(engine, in);
    tell(engine, in);
    drop_pack_token(task);
}

/* Whether an inbound may meet a send; refuses it (true stays false) if it never will. */
static bool may_match(struct kvf_engine *engine, struct kvfi_inbound *in,
                      const struct kvf_task *task)
{
    char text[KVF_MESSAGE_MAX];

    if (in->attempt == KVF_ATTEMPT_ANY || in->attempt == task->attempt)
        return true;
    if (in->attempt < task->attempt) {
        (void)snprintf(text, sizeof(text), "attempt %llu is wanted, but attempt %llu is open",
                       (unsigned long long)in->attempt, (unsigned long long)task->attempt);
        refuse(engine, in->peer, in->transfer, KVF_ESUPERSEDED, KVF_STEP_MATCH, false, text);
        free_inbound(engine, in);
    }
    return false;
}

static bool read_ranges(Kvfi__Wire__TokenRange *const *list, size_t n,
                        struct kvf_token_range *ret_ranges)
{
    memset(ret_ranges, 0, KVF_GROUPS_MAX * sizeof(*ret_ranges));
    if (n > KVF_GROUPS_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (list[i]->group >= KVF_GROUPS_MAX || list[i]->begin > list[i]->end)
            return false;
        ret_ranges[list[i]->group].begin = list[i]->begin;
        ret_ranges[list[i]->group].end = list[i]->end;
    }
    return true;
}

static struct kvfi_inbound *new_inbound(struct kvf_engine *engine, struct kvfi_peer *peer,
                                        const Kvfi__Wire__Request *m)
{
    struct kvfi_inbound *in = engine->free_inbounds;

    engine->free_inbounds = in->next_waiting;
    memset(in, 0, sizeof(*in));
    in->state = KVFI_INBOUND_WAITING;
    in->peer = peer->index;
    in->transfer = m->transfer;
    memcpy(in->request.bytes, m->request.data, sizeof(in->request.bytes));
    in->attempt = m->attempt;
    in->src_dp_group = m->src_dp_group;
    in->dst_dp_group = m->dst_dp_group;
    in->plan_hash = m->plan_hash;
    in->priority = m->priority;
    in->pieces = KVFI_NONE;
    (void)read_ranges(m->ranges, m->n_ranges, in->ranges);
    in->next_of_peer = peer->inbounds;
    peer->inbounds = in;
    in->next_waiting = engine->waiting;
    engine->waiting = in;
    return in;
}

/* What is wrong with a REQUEST, NULL if nothing. */
static const char *request_fault(const struct kvf_engine *engine, const struct kvfi_peer *peer,
                                 const Kvfi__Wire__Request *m)
{
    struct kvf_token_range ranges[KVF_GROUPS_MAX];

    if (m->request.len != sizeof(struct kvf_request_id))
        return "request id is not 16 bytes";
    if (!read_ranges(m->ranges, m->n_ranges, ranges))
        return "token ranges are malformed";
    if (m->src_dp_group != KVF_DP_UNKNOWN && m->src_dp_group != engine->config.place.dp_group)
        return "unknown request source: this rank is of another attention-DP group";
    if (m->dst_dp_group != peer->instance->geometry.ranks[peer->rank].place.dp_group)
        return "dst_dp_group is not the asking rank's";
    if (!engine->send_sched)
        return "this rank has no context role";
    for (const struct kvfi_inbound *in = peer->inbounds; in; in = in->next_of_peer) {
        if (in->transfer == m->transfer && !in->finished)
            return "this transfer was requested already";
    }
    return NULL;
}

void kvfi_on_request(struct kvf_engine *engine, struct kvfi_peer *peer,
                     const Kvfi__Wire__Request *m)
{
    const char *fault = request_fault(engine, peer, m);
    struct kvfi_inbound *in;
    struct kvf_task *task;

    if (fault) {
        refuse(engine, peer->index, m->transfer, KVF_EINVAL, KVF_STEP_MATCH, false, fault);
        return;
    }
    if (!engine->free_inbounds) {
        refuse(engine, peer->index, m->transfer, KVF_ENOSPC, KVF_STEP_MATCH, false,
               "the source has no room for more requests");
        return;
    }
    in = new_inbound(engine, peer, m);
    task = kvfi_task_find_send(engine, &in->request, peer->instance->name);
    if (task && may_match(engine, in, task))
        match(engine, in, task);
}

static struct kvfi_inbound *find_inbound(struct kvfi_peer *peer, uint64_t transfer)
{
    struct kvfi_inbound *in = peer->inbounds;

    while (in && (in->transfer != transfer || in->finished))
        in = in->next_of_peer;
    return in;
}

void kvfi_on_finish(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Finish *m)
{
    struct kvfi_inbound *in = find_inbound(peer, m->transfer);
    char text[KVF_MESSAGE_MAX];

    if (!in)
        return; /* delivered, and forgotten here */
    if (in->state == KVFI_INBOUND_WAITING) {
        free_inbound(engine, in);
        return;
    }
    if (m->status == KVF_OK) {
        /* The receiver has everything; its FINISH may overtake the last DELIVERED. */
        (void)atomic_fetch_add_explicit(&in->task->life.bytes, in->plan.bytes - in->bytes_delivered,
                                        memory_order_relaxed);
        in->bytes_delivered = in->plan.bytes;
        finish_inbound(engine, in, KVF_OK, KVF_STEP_NONE, NULL);
        return;
    }
    (void)snprintf(text, sizeof(text), "the receiver ended: %.200s", m->text ? m->text : "");
    finish_inbound(engine, in, m->status < 0 ? (kvf_status_t)m->status : KVF_EPEER,
                   m->step <= KVF_STEP_AUX ? (enum kvf_step)m->step : KVF_STEP_NONE, text);
}

/* ---- the task ----------------------------------------------------------------------------- */

static void meet_waiting(struct kvf_engine *engine, struct kvf_task *task)
{
    struct kvfi_inbound *in = engine->waiting;

    while (in) {
        struct kvfi_inbound *next = in->next_waiting;

        if (memcmp(&in->request, &task->request, sizeof(in->request)) == 0 &&
            kvfi_task_find_send(engine, &in->request, engine->peers[in->peer].instance->name) ==
                task &&
            may_match(engine, in, task))
            match(engine, in, task);
        in = next;
    }
}

/* Everything said and delivered? */
static void check_complete(struct kvf_engine *engine, struct kvf_task *task)
{
    static const struct kvfi_cause done = {
        .state = KVF_TASK_DONE, .status = KVF_OK, .peer_rank = UINT32_MAX};
    struct kvfi_send_state *s = &task->send;
    struct kvfi_inbound *next;

    for (struct kvfi_inbound *in = s->inbounds; in; in = next) {
        next = in->next_of_task;
        if (!in->finished && in->closed && in->plan.bytes > 0 &&
            in->bytes_delivered == in->plan.bytes)
            finish_inbound(engine, in, KVF_OK, KVF_STEP_NONE, NULL);
    }
    for (uint32_t i = 0; i < KVFI_RECEIVERS_MAX; i++) {
        struct kvfi_receiver *r = &s->receivers[i];

        if (!r->name[0] || r->served || r->n_finished < r->n_expected)
            continue;
        r->served = true;
        s->n_served++;
        if (s->n_receivers == KVF_RECEIVERS_ANY)
            r->name[0] = '\0';
    }
    if (s->n_receivers != KVF_RECEIVERS_ANY && s->n_served == s->n_receivers)
        (void)kvfi_life_end(&task->life, s->bad.status ? &s->bad : &done);
}

void kvfi_source_serve(struct kvf_task *task, uint32_t wants)
{
    struct kvf_engine *engine = task->engine;
    struct kvfi_send_state *s = &task->send;
    struct kvfi_inbound *next;

    if (wants & (KVFI_WANT_EXTENDS | KVFI_WANT_CLOSE)) {
        (void)pthread_mutex_lock(&engine->lock);
        s->n_known = s->n_extents;
        s->closed = s->close_called;
        (void)pthread_mutex_unlock(&engine->lock);
        for (struct kvfi_inbound *in = s->inbounds; in; in = next) {
            next = in->next_of_task;
            if (!in->finished)
                tell(engine, in);
        }
        if (s->closed && s->n_met > 0)
            kvfi_life_step(&task->life, KVF_STEP_DELIVER);
        drop_pack_token(task);
    }
    if (wants & KVFI_WANT_START)
        meet_waiting(engine, task);
    check_complete(engine, task);
}

void kvfi_source_ended(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;
    const struct kvf_result *r = &task->life.result;
    struct kvfi_inbound *next;

    for (struct kvfi_inbound *in = task->send.inbounds; in; in = next) {
        next = in->next_of_task;
        if (in->finished)
            continue;
        refuse(engine, in->peer, in->transfer, r->status, KVF_STEP_EXTENT, task->send.restart,
               r->message);
        finish_inbound(engine, in, KVF_OK, KVF_STEP_NONE, NULL);
    }
}

bool kvfi_source_idle(const struct kvf_task *task)
{
    return task->send.inbounds == NULL;
}

void kvfi_source_peer_down(struct kvf_engine *engine, struct kvfi_peer *peer, const char *text)
{
    struct kvfi_inbound *next;

    for (struct kvfi_inbound *in = peer->inbounds; in; in = next) {
        next = in->next_of_peer;
        if (in->state == KVFI_INBOUND_WAITING)
            free_inbound(engine, in);
        else
            finish_inbound(engine, in, KVF_EPEER, KVF_STEP_DELIVER, text);
    }
}

/* From inside the scheduler: bookkeeping only. */
void kvfi_source_piece_sent(struct kvf_engine *engine, uint32_t piece, uint64_t n_bytes)
{
    struct kvfi_piece *p = &engine->send_pieces.pieces[piece];

    p->inbound->bytes_delivered += n_bytes;
    (void)atomic_fetch_add_explicit(&p->task->life.bytes, n_bytes, memory_order_relaxed);
    if (p->inbound->bytes_delivered == p->inbound->plan.bytes)
        kvfi_engine_poke(p->task, KVFI_WANT_CHECK);
}

/* From inside the scheduler: nothing names the piece any more. */
void kvfi_source_piece_idle(struct kvf_engine *engine, uint32_t piece)
{
    struct kvfi_piece *p = &engine->send_pieces.pieces[piece];
    struct kvfi_inbound *in = p->inbound;
    struct kvf_task *task = p->task;
    uint32_t *at = &in->pieces;

    while (*at != piece)
        at = &engine->send_pieces.pieces[*at].next;
    *at = p->next;
    in->n_pieces--;
    packed(task, p->map.bytes - atomic_load_explicit(&p->packed_bytes, memory_order_relaxed));
    kvfi_piece_free(&engine->send_pieces, piece);
    kvfi_engine_poke(task, KVFI_WANT_CHECK);
    free_if_idle(engine, in);
}
