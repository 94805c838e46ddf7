/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many pieces a second one core schedules: a sending and a receiving scheduler back to back in
 * one thread, nothing moved, every message and report delivered at once and in order. Counts the
 * whole life of a piece: add, ready, its part of a batch through both ends, idle.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/sched.h"
#include "collectives/util.h"

enum {
    CHUNK_BYTES = 4096,
    SLOT_BYTES = 1 << 20,
    SLOTS = 4,
    LINKS = 2,
    EVENTS = 1 << 14, /* power of two, more than slots of both ends can have under way */
    MAX_LANES = 8,
    RUNS = 5,
};

enum event_kind { PACKED, OFFER, GRANT, GO, SENT, RECEIVED, UNPACKED, DELIVERED, IDLE };

struct event {
    enum event_kind kind;
    uint32_t lane;
    uint32_t slot; /* IDLE: the piece */
    int32_t priority;
    struct kvfi_batch_id id;
};

/* What one row of the table measures. */
struct load {
    const char *name;
    uint32_t n_peers;
    uint32_t n_lanes;
    uint32_t n_pieces; /* in all */
    uint32_t n_queued; /* known to the scheduler at a time */
    bool shuffled;     /* deadlines and priorities */
    bool refill;       /* keep n_queued there, or drain them and begin again */
};

struct offer_runs {
    uint32_t bytes;
    uint32_t n_runs;
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];
};

struct bench {
    struct kvfi_send_sched *send;
    struct kvfi_recv_sched *recv;
    struct event events[EVENTS];
    uint32_t head;
    uint32_t tail;
    uint64_t now_ns; /* of this turn */
    uint64_t n_batches;
    uint64_t n_added;
    uint64_t rnd;
    struct offer_runs offers[MAX_LANES][SLOTS];
};

static void push(struct bench *b, struct event e)
{
    b->events[b->tail++ % EVENTS] = e;
}

static void on_send(void *ctx, const struct kvfi_send_action *a)
{
    struct bench *b = ctx;
    struct event e = {.lane = a->lane, .slot = a->slot, .priority = a->priority, .id = a->batch};
    struct offer_runs *o;

    switch (a->kind) {
    case KVFI_SEND_PACK:
        e.kind = PACKED;
        break;
    case KVFI_SEND_OFFER:
        e.kind = OFFER;
        o = &b->offers[a->lane][a->slot];
        o->bytes = a->bytes;
        o->n_runs = a->n_runs;
        memcpy(o->runs, a->runs, a->n_runs * sizeof(*a->runs));
        break;
    case KVFI_SEND_LAUNCH:
        e.kind = SENT;
        break;
    case KVFI_SEND_GO:
        e.kind = GO;
        break;
    case KVFI_SEND_PIECE_IDLE:
        e.kind = IDLE;
        e.slot = a->piece;
        break;
    case KVFI_SEND_PIECE_SENT:
    case KVFI_SEND_WITHDRAW:
    case KVFI_SEND_RELEASE:
        return;
    }
    push(b, e);
}

static void on_recv(void *ctx, const struct kvfi_recv_action *a)
{
    struct bench *b = ctx;
    struct event e = {.lane = a->lane, .slot = a->slot, .id = a->batch};

    switch (a->kind) {
    case KVFI_RECV_GRANT:
        e.kind = GRANT;
        break;
    case KVFI_RECV_POST:
        e.kind = RECEIVED;
        break;
    case KVFI_RECV_DELIVERED:
        e.kind = DELIVERED;
        break;
    case KVFI_RECV_DROPPED:
        return;
    }
    push(b, e);
}

static uint32_t chunk_bytes(void *ctx, uint32_t piece, uint32_t chunk)
{
    (void)ctx;
    (void)piece;
    (void)chunk;
    return CHUNK_BYTES;
}

static void *memory(size_t n_bytes)
{
    void *p = n_bytes ? aligned_alloc(64, n_bytes) : NULL;

    if (!p) {
        (void)fprintf(stderr, "no memory\n");
        exit(1);
    }
    memset(p, 0, n_bytes);
    return p;
}

static struct bench *bench_create(const struct load *load)
{
    const struct kvfi_send_sched_config sc = {.n_lanes = load->n_lanes,
                                              .slots_per_lane = SLOTS,
                                              .slot_bytes = SLOT_BYTES,
                                              .max_peers = load->n_peers,
                                              .max_pieces = load->n_queued,
                                              .links_per_peer = LINKS,
                                              .max_offers = 2,
                                              .max_groups = 4,
                                              .starve_ns = 100000000,
                                              .chunk_bytes = chunk_bytes};
    const struct kvfi_recv_sched_config rc = {.n_lanes = load->n_lanes,
                                              .slots_per_lane = SLOTS,
                                              .slot_bytes = SLOT_BYTES,
                                              .max_peers = load->n_peers,
                                              .links_per_peer = LINKS,
                                              .max_offers = 1,
                                              .max_groups = 4};
    struct bench *b = memory((sizeof(*b) + 63) / 64 * 64);

    b->rnd = 88172645463325252u;
    b->now_ns = kvfi_now_ns();
    b->send = kvfi_send_sched_init(memory(kvfi_send_sched_bytes(&sc)), &sc, on_send, b);
    b->recv = kvfi_recv_sched_init(memory(kvfi_recv_sched_bytes(&rc)), &rc, on_recv, b);
    for (uint32_t peer = 0; peer < load->n_peers; peer++) {
        for (uint32_t link = 0; link < LINKS; link++) {
            kvfi_recv_link_up(b->recv, peer, link, (peer + link) % load->n_lanes, 1);
            kvfi_send_link_up(b->send, peer, link, (peer + link) % load->n_lanes, 1, b->now_ns);
        }
    }
    return b;
}

static void bench_destroy(struct bench *b)
{
    free(b->send); /* the objects begin their memory */
    free(b->recv);
    free(b);
}

/* Peers at random. Deadlines by time of arrival; or at random, with four priorities. */
static void add(struct bench *b, const struct load *load, uint32_t piece)
{
    uint64_t deadline_ns = b->now_ns + 1000000000 + ++b->n_added;

    b->rnd ^= b->rnd << 13;
    b->rnd ^= b->rnd >> 7;
    b->rnd ^= b->rnd << 17;
    if (load->shuffled)
        deadline_ns += b->rnd % 1000000000;
    kvfi_send_piece_add(b->send, piece, (uint32_t)(b->rnd >> 40) % load->n_peers, 1,
                        load->shuffled ? (int32_t)(b->rnd >> 10 & 3) : 0, deadline_ns);
    kvfi_send_piece_ready(b->send, piece, b->now_ns);
}

/* Does what the event says; a status that is not KVF_OK would be a bug of the schedulers. */
static kvf_status_t handle(struct bench *b, const struct event *e)
{
    const struct offer_runs *o;

    switch (e->kind) {
    case PACKED:
        kvfi_send_on_packed(b->send, e->lane, e->slot, b->now_ns);
        return KVF_OK;
    case OFFER:
        o = &b->offers[e->lane][e->slot];
        b->n_batches++;
        return kvfi_recv_on_offer(b->recv, &e->id, o->runs, o->n_runs, o->bytes, e->priority);
    case GRANT:
        return kvfi_send_on_grant(b->send, &e->id, b->now_ns);
    case GO:
        return kvfi_recv_on_go(b->recv, &e->id);
    case SENT:
        kvfi_send_on_sent(b->send, e->lane, e->slot, b->now_ns);
        return KVF_OK;
    case RECEIVED:
        push(b, (struct event){.kind = UNPACKED, .lane = e->lane, .slot = e->slot});
        kvfi_recv_on_received(b->recv, e->lane, e->slot);
        return KVF_OK;
    case UNPACKED:
        kvfi_recv_on_unpacked(b->recv, e->lane, e->slot);
        return KVF_OK;
    case DELIVERED:
        return kvfi_send_on_delivered(b->send, &e->id, b->now_ns);
    case IDLE:
        return KVF_OK;
    }
    return KVF_EINTERNAL;
}

/* Time on the core, so that whatever else the machine does is not counted. */
static uint64_t cpu_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct result {
    uint64_t took_ns;
    uint64_t n_batches;
};

/* False: the schedulers stopped before everything was through. */
static bool once(const struct load *load, struct result *ret)
{
    struct bench *b = bench_create(load);
    uint64_t begin_ns = cpu_ns();
    uint32_t n_added = 0;
    uint32_t n_idle = 0;

    while (n_idle < load->n_pieces) {
        struct event e;

        if (n_added == n_idle) {
            b->now_ns = kvfi_now_ns();
            for (uint32_t i = 0; i < load->n_queued && n_added < load->n_pieces; i++, n_added++)
                add(b, load, i);
        }
        if (b->head == b->tail)
            break;
        e = b->events[b->head++ % EVENTS];
        if (handle(b, &e) != KVF_OK)
            break;
        if (e.kind != IDLE)
            continue;
        n_idle++;
        if (load->refill && n_added < load->n_pieces && n_added > n_idle) {
            add(b, load, e.slot);
            n_added++;
        }
    }
    ret->took_ns = cpu_ns() - begin_ns;
    ret->n_batches = b->n_batches;
    bench_destroy(b);
    return n_idle == load->n_pieces;
}

/* The best of a few runs: the others shared the caches with somebody. */
static bool measure(const struct load *load)
{
    struct result best = {.took_ns = UINT64_MAX};

    for (int i = 0; i < RUNS; i++) {
        struct result r;

        if (!once(load, &r)) {
            (void)fprintf(stderr, "%s: stuck\n", load->name);
            return false;
        }
        if (r.took_ns < best.took_ns)
            best = r;
    }
    printf("%-28s %5u %5u %12.2f %12.0f %10.1f\n", load->name, load->n_peers, load->n_lanes,
           (double)load->n_pieces * 1e3 / (double)best.took_ns,
           (double)best.n_batches * 1e9 / (double)best.took_ns,
           (double)load->n_pieces / (double)best.n_batches);
    return true;
}

int main(int argc, char **argv)
{
    const uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1000000;
    const struct load loads[] = {
        {"256 queued, refilled", 1, 1, n, 256, false, true},
        {"256 queued, refilled", 8, 2, n, 256, false, true},
        {"100k at once, drained", 1, 1, n, 100000, false, false},
        {"100k at once, drained", 8, 2, n, 100000, false, false},
        {"100k at once, drained", 256, 4, n, 100000, false, false},
        {"100k queued, refilled", 8, 2, n, 100000, false, true},
        {"100k at once, shuffled", 1, 1, n, 100000, true, false},
        {"100k at once, shuffled", 8, 2, n, 100000, true, false},
        {"100k queued, shuffled", 8, 2, n, 100000, true, true},
        {"one at a time", 8, 2, n / 4, 1, false, false},
    };

    printf("%-28s %5s %5s %12s %12s %10s\n", "pieces of one 4 KiB chunk", "peers", "lanes",
           "M pieces/s", "batches/s", "per batch");
    for (size_t i = 0; i < KVFI_ARRAY_LEN(loads); i++) {
        if (!measure(&loads[i]))
            return 1;
    }
    return 0;
}
