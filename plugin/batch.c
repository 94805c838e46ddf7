/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where schedulers, lanes and messages meet: actions of the schedulers become commands of the lanes
 * and messages to peers; reports of the lanes and messages of peers become events of the
 * schedulers. The lanes' questions about layouts are answered here too, on the lanes' threads.
 */
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

#define STARVE_NS UINT64_C(100000000)
#define CACHE_LINE 64u
/* Batches a lane has launched at once where waiting ones hold nothing (max_groups 0). */
#define HOST_DEPTH 2u

/* ---- lane threads: copies ------------------------------------------------------------------ */

static bool send_run_begin(void *ctx, const struct kvfi_run *run)
{
    struct kvf_engine *engine = ctx;

    return kvfi_life_enter(&engine->send_pieces.pieces[run->piece].task->life);
}

static void send_chunk_job(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                           struct kvfi_copy_job *ret_job)
{
    struct kvf_engine *engine = ctx;
    const struct kvfi_piece *p = &engine->send_pieces.pieces[run->piece];

    kvfi_chunk_job(&p->map, chunk, KVFI_COPY_PACK, engine->pool_memory, p->extent->tables, dense,
                   ret_job);
}

static uint32_t send_chunk_bytes(void *ctx, const struct kvfi_run *run, uint32_t chunk)
{
    struct kvf_engine *engine = ctx;

    return kvfi_chunk_bytes(&engine->send_pieces.pieces[run->piece].map, chunk);
}

static void end_of_copy(struct kvf_task *task, kvf_status_t status, enum kvf_step step)
{
    if (status < 0)
        kvfi_task_fail(task, KVF_TASK_FAILED, status, step, NULL, "%s failed",
                       step == KVF_STEP_PACK ? "packing" : "receiving");
}

static void send_run_end(void *ctx, const struct kvfi_run *run, kvf_status_t status,
                         uint64_t started_ns, uint64_t ended_ns)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_piece *p = &engine->send_pieces.pieces[run->piece];
    struct kvf_task *task = p->task;

    kvfi_life_mark_bytes(&task->life, started_ns, ended_ns);
    end_of_copy(task, status, KVF_STEP_PACK);
    kvfi_source_packed(p, run->bytes);
    kvfi_life_leave(&task->life);
}

static bool recv_run_begin(void *ctx, const struct kvfi_run *run)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_piece *p;

    if (run->piece == KVFI_NONE)
        return false;
    p = &engine->recv_pieces.pieces[run->piece];
    /* acquire: pairs with begin_restart(). */
    return !atomic_load_explicit(&p->dead, memory_order_acquire) && kvfi_life_enter(&p->task->life);
}

static void recv_chunk_job(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                           struct kvfi_copy_job *ret_job)
{
    struct kvf_engine *engine = ctx;
    const struct kvfi_piece *p = &engine->recv_pieces.pieces[run->piece];

    kvfi_chunk_job(&p->map, chunk, KVFI_COPY_UNPACK, engine->pool_memory, p->extent->tables, dense,
                   ret_job);
}

static uint32_t recv_chunk_bytes(void *ctx, const struct kvfi_run *run, uint32_t chunk)
{
    struct kvf_engine *engine = ctx;

    return kvfi_chunk_bytes(&engine->recv_pieces.pieces[run->piece].map, chunk);
}

static void recv_run_end(void *ctx, const struct kvfi_run *run, kvf_status_t status,
                         uint64_t started_ns, uint64_t ended_ns)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_piece *p = &engine->recv_pieces.pieces[run->piece];
    struct kvf_task *task = p->task;

    (void)ended_ns;
    if (status < 0) {
        end_of_copy(task, status, KVF_STEP_UNPACK);
    } else {
        for (uint32_t c = run->first_chunk; c < run->first_chunk + run->n_chunks; c++)
            (void)atomic_fetch_or_explicit(&p->arrived[c / 64], UINT64_C(1) << (c % 64),
                                           memory_order_relaxed);
        kvfi_life_mark_bytes(&task->life, started_ns, started_ns);
        (void)atomic_fetch_add_explicit(&p->packed_bytes, run->bytes, memory_order_relaxed);
        (void)atomic_fetch_add_explicit(&task->life.bytes, run->bytes, memory_order_relaxed);
        kvfi_life_complete(&task->life, run->bytes);
    }
    kvfi_life_leave(&task->life);
}

static void on_reports(void *ctx)
{
    kvfi_engine_wake(ctx);
}

/* ---- messages of batches ------------------------------------------------------------------- */

static void say_batch(struct kvf_engine *engine, const struct kvfi_batch_id *batch,
                      Kvfi__Wire__Message__KindCase kind)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__BatchId id;

    kvfi__wire__message__init(&m);
    kvfi__wire__batch_id__init(&id);
    id.link = batch->link;
    id.epoch = batch->epoch;
    id.seq = batch->seq;
    m.kind_case = kind;
    m.grant = &id; /* every one of these kinds is a BatchId in the same place of the union */
    kvfi_peer_send(engine, &engine->peers[batch->peer], &m);
}

static void say_offer(struct kvf_engine *engine, const struct kvfi_send_action *a)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Offer offer;
    Kvfi__Wire__BatchId id;
    Kvfi__Wire__Run runs[KVFI_BATCH_RUNS_MAX];
    Kvfi__Wire__Run *list[KVFI_BATCH_RUNS_MAX];

    kvfi__wire__message__init(&m);
    kvfi__wire__offer__init(&offer);
    kvfi__wire__batch_id__init(&id);
    for (uint32_t i = 0; i < a->n_runs; i++) {
        const struct kvfi_piece *p = &engine->send_pieces.pieces[a->runs[i].piece];

        kvfi__wire__run__init(&runs[i]);
        runs[i].transfer = p->inbound->transfer;
        runs[i].extent = p->extent_number;
        runs[i].first_chunk = a->runs[i].first_chunk;
        runs[i].n_chunks = a->runs[i].n_chunks;
        runs[i].bytes = a->runs[i].bytes;
        list[i] = &runs[i];
    }
    id.link = a->batch.link;
    id.epoch = a->batch.epoch;
    id.seq = a->batch.seq;
    offer.id = &id;
    offer.runs = list;
    offer.n_runs = a->n_runs;
    offer.bytes = a->bytes;
    offer.priority = a->priority;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_OFFER;
    m.offer = &offer;
    kvfi_peer_send(engine, &engine->peers[a->batch.peer], &m);
}

static void launch(struct kvf_engine *engine, const struct kvfi_send_action *a)
{
    struct kvfi_peer *peer = &engine->peers[a->batch.peer];

    peer->n_in_flight++;
    engine->send_slot_peer[a->lane][a->slot] = peer->index;
    engine->n_launched++;
    engine->stats.batches_sent++;
    engine->stats.bytes_sent += a->bytes;
    kvfi_lane_launch(engine->send_lanes[a->lane], a->slot, peer->links[a->batch.link].fabric_link,
                     a->bytes);
}

static void on_send_action(void *ctx, const struct kvfi_send_action *a)
{
    struct kvf_engine *engine = ctx;

    if (engine->closing && (a->kind == KVFI_SEND_PACK || a->kind == KVFI_SEND_LAUNCH))
        return; /* the lanes are gone */
    switch (a->kind) {
    case KVFI_SEND_PACK:
        kvfi_lane_pack(engine->send_lanes[a->lane], a->slot, a->runs, a->n_runs);
        break;
    case KVFI_SEND_OFFER:
        say_offer(engine, a);
        break;
    case KVFI_SEND_LAUNCH:
        launch(engine, a);
        break;
    case KVFI_SEND_GO:
        say_batch(engine, &a->batch, KVFI__WIRE__MESSAGE__KIND_GO);
        break;
    case KVFI_SEND_WITHDRAW:
        say_batch(engine, &a->batch, KVFI__WIRE__MESSAGE__KIND_WITHDRAW);
        break;
    case KVFI_SEND_RELEASE:
        say_batch(engine, &a->batch, KVFI__WIRE__MESSAGE__KIND_RELEASE);
        break;
    case KVFI_SEND_PIECE_SENT:
        engine->stats.chunks_sent += a->runs[0].n_chunks;
        kvfi_source_piece_sent(engine, a->piece, a->runs[0].bytes);
        break;
    case KVFI_SEND_PIECE_IDLE:
        kvfi_source_piece_idle(engine, a->piece);
        break;
    }
}

static void runs_over(struct kvf_engine *engine, const struct kvfi_recv_action *a, bool delivered)
{
    for (uint32_t i = 0; i < a->n_runs; i++) {
        if (a->runs[i].piece == KVFI_NONE) {
            engine->stats.filler_bytes += delivered ? a->runs[i].bytes : 0;
            continue;
        }
        engine->stats.chunks_received += delivered ? a->runs[i].n_chunks : 0;
        engine->stats.bytes_received += delivered ? a->runs[i].bytes : 0;
        kvfi_sink_run_over(engine, &a->runs[i], delivered);
    }
}

static void on_recv_action(void *ctx, const struct kvfi_recv_action *a)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_peer *peer = &engine->peers[a->batch.peer];

    if (engine->closing && a->kind == KVFI_RECV_POST)
        return; /* the lanes are gone */
    switch (a->kind) {
    case KVFI_RECV_GRANT:
        say_batch(engine, &a->batch, KVFI__WIRE__MESSAGE__KIND_GRANT);
        break;
    case KVFI_RECV_POST:
        peer->n_in_flight++;
        engine->recv_slot_peer[a->lane][a->slot] = peer->index;
        engine->n_posted++;
        kvfi_lane_post(engine->recv_lanes[a->lane], a->slot, peer->links[a->batch.link].fabric_link,
                       a->bytes, a->runs, a->n_runs);
        break;
    case KVFI_RECV_DELIVERED:
        engine->stats.batches_received++;
        runs_over(engine, a, true);
        say_batch(engine, &a->batch, KVFI__WIRE__MESSAGE__KIND_DELIVERED);
        break;
    case KVFI_RECV_DROPPED:
        runs_over(engine, a, false);
        break;
    }
}

/* ---- messages from peers ------------------------------------------------------------------- */

static bool batch_id(const struct kvfi_peer *peer, const Kvfi__Wire__BatchId *m,
                     struct kvfi_batch_id *ret_id)
{
    if (!m || m->link >= peer->n_links)
        return false;
    ret_id->peer = peer->index;
    ret_id->link = m->link;
    ret_id->epoch = m->epoch;
    ret_id->seq = m->seq;
    return true;
}

kvf_status_t kvfi_on_offer(struct kvf_engine *engine, struct kvfi_peer *peer,
                           const Kvfi__Wire__Offer *m)
{
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];
    struct kvfi_batch_id id;
    uint64_t n_bytes = 0;
    kvf_status_t status = KVF_OK;
    size_t n = 0;

    if (!peer->is_source || !batch_id(peer, m->id, &id) || m->n_runs == 0 ||
        m->n_runs > KVFI_BATCH_RUNS_MAX || m->bytes > engine->config.slot_bytes)
        return KVF_EPROTO;
    for (n = 0; n < m->n_runs && !status; n++) {
        status = kvfi_sink_run(engine, peer, m->runs[n], &runs[n].piece);
        runs[n].first_chunk = m->runs[n]->first_chunk;
        runs[n].n_chunks = m->runs[n]->n_chunks;
        runs[n].bytes = m->runs[n]->bytes;
        runs[n].offset = (uint32_t)n_bytes;
        n_bytes += m->runs[n]->bytes;
    }
    if (!status && n_bytes != m->bytes)
        status = KVF_EPROTO;
    if (!status)
        status = kvfi_recv_on_offer(engine->recv_sched, &id, runs, (uint32_t)m->n_runs, m->bytes,
                                    m->priority);
    if (!status)
        return KVF_OK;
    for (size_t i = 0; i < n; i++) {
        if (runs[i].piece != KVFI_NONE)
            kvfi_sink_run_over(engine, &runs[i], false);
    }
    return status;
}

kvf_status_t kvfi_on_batch(struct kvf_engine *engine, struct kvfi_peer *peer,
                           Kvfi__Wire__Message__KindCase kind, const Kvfi__Wire__BatchId *m)
{
    struct kvfi_batch_id id;
    bool to_sender =
        kind == KVFI__WIRE__MESSAGE__KIND_GRANT || kind == KVFI__WIRE__MESSAGE__KIND_DELIVERED;

    if (to_sender == peer->is_source || !batch_id(peer, m, &id) ||
        (to_sender ? !engine->send_sched : !engine->recv_sched))
        return KVF_EPROTO;
    if (kind == KVFI__WIRE__MESSAGE__KIND_GRANT)
        return kvfi_send_on_grant(engine->send_sched, &id, kvfi_now_ns());
    if (kind == KVFI__WIRE__MESSAGE__KIND_DELIVERED)
        return kvfi_send_on_delivered(engine->send_sched, &id, kvfi_now_ns());
    if (kind == KVFI__WIRE__MESSAGE__KIND_WITHDRAW)
        return kvfi_recv_on_withdraw(engine->recv_sched, &id);
    if (kind == KVFI__WIRE__MESSAGE__KIND_RELEASE)
        return kvfi_recv_on_release(engine->recv_sched, &id);
    return kvfi_recv_on_go(engine->recv_sched, &id);
}

/* ---- reports of lanes ---------------------------------------------------------------------- */

static void landed(struct kvf_engine *engine, uint32_t peer_index, kvf_status_t status)
{
    struct kvfi_peer *peer = &engine->peers[peer_index];

    peer->n_in_flight--;
    if (status < 0 && peer->state == KVFI_PEER_UP) {
        kvfi_log(&engine->log, KVF_LOG_ERROR, "lane", "fabric error with rank %u: %d", peer->rank,
                 (int)status);
        kvfi_peer_bye(engine, peer, KVF_EFABRIC, "a fabric operation failed");
    }
    kvfi_peer_drained(engine, peer);
}

static void serve_send_lane(struct kvf_engine *engine, uint32_t lane)
{
    struct kvfi_lane_report r;

    while (kvfi_lane_report(engine->send_lanes[lane], &r)) {
        uint64_t now = kvfi_now_ns();

        if (r.kind == KVFI_LANE_PACKED) {
            engine->stats.pack_ns += r.ended_ns - r.started_ns;
            kvfi_send_on_packed(engine->send_sched, lane, r.slot, now);
        } else if (r.kind == KVFI_LANE_SENT) {
            uint32_t peer = engine->send_slot_peer[lane][r.slot];

            engine->n_launched--;
            kvfi_send_on_sent(engine->send_sched, lane, r.slot, now);
            landed(engine, peer, r.status);
        }
    }
}

static void serve_recv_lane(struct kvf_engine *engine, uint32_t lane)
{
    struct kvfi_lane_report r;

    while (kvfi_lane_report(engine->recv_lanes[lane], &r)) {
        uint32_t peer = engine->recv_slot_peer[lane][r.slot];

        if (r.kind == KVFI_LANE_RECEIVED && r.status >= 0) {
            engine->stats.wire_ns += r.ended_ns - r.started_ns;
            kvfi_recv_on_received(engine->recv_sched, lane, r.slot);
            continue; /* UNPACKED follows */
        }
        /* A receive that failed keeps its slot until the link goes down with its peer. */
        if (r.kind == KVFI_LANE_UNPACKED) {
            engine->stats.unpack_ns += r.ended_ns - r.started_ns;
            kvfi_recv_on_unpacked(engine->recv_sched, lane, r.slot);
        }
        engine->n_posted--;
        landed(engine, peer, r.status);
    }
}

void kvfi_batches_serve(struct kvf_engine *engine)
{
    for (uint32_t i = 0; i < engine->config.n_send_lanes; i++)
        serve_send_lane(engine, i);
    for (uint32_t i = 0; i < engine->config.n_recv_lanes; i++)
        serve_recv_lane(engine, i);
}

bool kvfi_batches_quiet(const struct kvf_engine *engine)
{
    return engine->n_launched == 0 && engine->n_posted == 0;
}

/* ---- begin and end ------------------------------------------------------------------------- */

static uint32_t piece_chunk_bytes(void *ctx, uint32_t piece, uint32_t chunk)
{
    struct kvf_engine *engine = ctx;

    return kvfi_chunk_bytes(&engine->send_pieces.pieces[piece].map, chunk);
}

void kvfi_sched_configs(const struct kvfi_config *config, struct kvfi_send_sched_config *ret_send,
                        struct kvfi_recv_sched_config *ret_recv)
{
    memset(ret_send, 0, sizeof(*ret_send));
    memset(ret_recv, 0, sizeof(*ret_recv));
    ret_send->n_lanes = config->n_send_lanes;
    ret_send->slots_per_lane = config->slots_per_lane;
    ret_send->slot_bytes = (uint32_t)config->slot_bytes;
    ret_send->max_peers = config->max_peers;
    ret_send->max_pieces = kvfi_max_pieces(config);
    ret_send->links_per_peer =
        KVFI_LINKS_MAX < config->links_per_peer ? KVFI_LINKS_MAX : config->links_per_peer;
    ret_send->max_offers = 2;
    ret_send->max_groups = config->max_groups;
    ret_send->starve_ns = STARVE_NS;
    ret_send->max_launched = config->max_groups == 0 ? HOST_DEPTH : 1;
    ret_recv->max_posted = ret_send->max_launched;
    ret_recv->n_lanes = config->n_recv_lanes;
    ret_recv->slots_per_lane = config->slots_per_lane;
    ret_recv->slot_bytes = (uint32_t)config->slot_bytes;
    ret_recv->max_peers = config->max_peers;
    ret_recv->links_per_peer = ret_send->links_per_peer;
    ret_recv->max_offers = config->slots_per_lane + 1;
    ret_recv->max_groups = config->max_groups;
}

/* Scheduler memory: zeroed, aligned to a cache line. *ret_raw is what to free. */
static void *aligned_zero(size_t n_bytes, void **ret_raw)
{
    char *raw = kvfi_calloc(1, n_bytes + CACHE_LINE);

    *ret_raw = raw;
    if (!raw)
        return NULL;
    return raw + (CACHE_LINE - (uintptr_t)raw % CACHE_LINE) % CACHE_LINE;
}

static kvf_status_t init_scheds(struct kvf_engine *engine)
{
    struct kvfi_send_sched_config send;
    struct kvfi_recv_sched_config recv;
    void *memory;

    kvfi_sched_configs(&engine->config, &send, &recv);
    send.chunk_bytes = piece_chunk_bytes;
    send.chunk_ctx = engine;
    if (send.n_lanes > 0) {
        memory = aligned_zero(kvfi_send_sched_bytes(&send), &engine->send_memory);
        if (!memory)
            return kvfi_fail(KVF_ENOMEM, "no memory for the send scheduler");
        engine->send_sched = kvfi_send_sched_init(memory, &send, on_send_action, engine);
    }
    if (recv.n_lanes > 0) {
        memory = aligned_zero(kvfi_recv_sched_bytes(&recv), &engine->recv_memory);
        if (!memory)
            return kvfi_fail(KVF_ENOMEM, "no memory for the receive scheduler");
        engine->recv_sched = kvfi_recv_sched_init(memory, &recv, on_recv_action, engine);
    }
    return KVF_OK;
}

static kvf_status_t init_lane(struct kvf_engine *engine, enum kvfi_lane_kind kind, uint32_t index,
                              struct kvfi_lane **ret_lane)
{
    bool sends = kind == KVFI_LANE_SEND;
    struct kvfi_lane_config config = {
        .kind = kind,
        .index = index,
        .n_slots = engine->config.slots_per_lane,
        .slot_bytes = (uint32_t)engine->config.slot_bytes,
        .ops = engine->ops,
        .fabric = engine->fabric,
        .client = {.run_begin = sends ? send_run_begin : recv_run_begin,
                   .chunk_job = sends ? send_chunk_job : recv_chunk_job,
                   .chunk_bytes = sends ? send_chunk_bytes : recv_chunk_bytes,
                   .run_end = sends ? send_run_end : recv_run_end,
                   .ctx = engine},
        .notify = on_reports,
        .notify_ctx = engine,
    };
    kvf_status_t status = kvfi_lane_create(&config, ret_lane);

    if (status)
        return kvfi_fail(status, "%s lane %u could not be started with %u slots of %llu bytes",
                         sends ? "send" : "receive", index, config.n_slots,
                         (unsigned long long)config.slot_bytes);
    return KVF_OK;
}

kvf_status_t kvfi_batches_init(struct kvf_engine *engine)
{
    uint32_t n_pieces = kvfi_max_pieces(&engine->config);
    kvf_status_t status = init_scheds(engine);

    if (!status && engine->config.n_send_lanes > 0 &&
        kvfi_pieces_init(&engine->send_pieces, n_pieces))
        status = kvfi_fail(KVF_ENOMEM, "no memory for %u pieces", n_pieces);
    if (!status && engine->config.n_recv_lanes > 0 &&
        kvfi_pieces_init(&engine->recv_pieces, n_pieces))
        status = kvfi_fail(KVF_ENOMEM, "no memory for %u pieces", n_pieces);
    for (uint32_t i = 0; i < engine->config.n_send_lanes && !status; i++)
        status = init_lane(engine, KVFI_LANE_SEND, i, &engine->send_lanes[i]);
    for (uint32_t i = 0; i < engine->config.n_recv_lanes && !status; i++)
        status = init_lane(engine, KVFI_LANE_RECV, i, &engine->recv_lanes[i]);
    return status;
}

bool kvfi_lanes_end(struct kvf_engine *engine, uint64_t deadline_ns)
{
    bool clean = true;

    for (uint32_t i = 0; i < engine->config.n_send_lanes; i++)
        clean = kvfi_lane_destroy(engine->send_lanes[i], deadline_ns) && clean;
    for (uint32_t i = 0; i < engine->config.n_recv_lanes; i++)
        clean = kvfi_lane_destroy(engine->recv_lanes[i], deadline_ns) && clean;
    return clean;
}

void kvfi_batches_fini(struct kvf_engine *engine)
{
    kvfi_free(engine->send_memory);
    kvfi_free(engine->recv_memory);
}
