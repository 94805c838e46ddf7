/* SPDX-License-Identifier: Apache-2.0 */
#include "sched_pair.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"

enum event_kind {
    FORTH, /* a message reaches the receiver */
    BACK,
    PACK,
    LAUNCH, /* the lane puts its batch on the wire */
    SENT,
    TAKE, /* a posted receive meets what comes next on its link */
    RECEIVED,
    UNPACK,
    OPEN, /* a link */
    READY,
};

struct event {
    enum event_kind kind;
    uint32_t a, b, c;
};

enum { EVENTS = 512 };

/* ---- small things ------------------------------------------------------------------------- */

uint32_t net_rnd(struct net *net, uint32_t n)
{
    net->rnd ^= net->rnd >> 12;
    net->rnd ^= net->rnd << 25;
    net->rnd ^= net->rnd >> 27;
    return (uint32_t)((net->rnd * 0x2545F4914F6CDD1Du) >> 33) % n;
}

void net_note(struct net *net, const char *format, ...)
{
    char *line = net->trace[net->n_trace++ % NET_TRACE];
    va_list ap;
    int n = snprintf(line, sizeof(net->trace[0]), "%u: ", net->step);

    va_start(ap, format);
    (void)vsnprintf(line + n, sizeof(net->trace[0]) - (size_t)n, format, ap);
    va_end(ap);
}

_Noreturn void net_fail(struct net *net, const char *what, const char *file, int line)
{
    uint32_t first = net->n_trace > NET_TRACE ? net->n_trace - NET_TRACE : 0;

    for (uint32_t i = first; i < net->n_trace; i++)
        printf("%s\n", net->trace[i % NET_TRACE]);
    (void)fflush(stdout);
    ck_abort_msg("%s:%d: %s (net seed %#llx, step %u)", file, line, what,
                 (unsigned long long)net->seed, net->step);
    abort();
}

uint32_t net_chunk_bytes(uint32_t work, uint32_t chunk)
{
    uint64_t x = (uint64_t)(work + 1) * 0x9E3779B97F4A7C15u + chunk * 0xD1342543DE82EF95u;

    x ^= x >> 29;
    /* Mostly small, so that batches carry several pieces; some fill a slot alone. */
    return 1 + (uint32_t)(x >> 8) % (x % 8 == 0 ? NET_SLOT_BYTES : NET_SLOT_BYTES / 6);
}

static uint32_t chunk_bytes(void *ctx, uint32_t piece, uint32_t chunk)
{
    const struct net_sender *s = ctx;

    return net_chunk_bytes(s->pieces[piece].work, chunk);
}

uint32_t net_send_lane_of(const struct net *net, uint32_t sender, uint32_t receiver, uint32_t link)
{
    return (sender * 5 + receiver * 3 + link) % net->config.n_send_lanes;
}

uint32_t net_recv_lane_of(const struct net *net, uint32_t sender, uint32_t receiver, uint32_t link)
{
    return (sender * 5 + receiver * 3 + link) % net->config.n_recv_lanes;
}

void net_post_message(struct net *net, struct net_session *session,
                      const struct net_message *message)
{
    NET_REQUIRE(net, session->tail - session->head < NET_QUEUE);
    session->queue[session->tail++ % NET_QUEUE] = *message;
}

void net_post_link(struct net *net, struct net_session *session, enum net_message_kind kind,
                   uint32_t link, uint32_t epoch)
{
    struct net_message *m = &session->queue[session->tail++ % NET_QUEUE];

    NET_REQUIRE(net, session->tail - session->head <= NET_QUEUE);
    m->kind = kind;
    m->cargo.id = (struct kvfi_batch_id){.link = link, .epoch = epoch};
}

/* ---- messages ----------------------------------------------------------------------------- */

static kvf_status_t give_receiver(struct net_receiver *r, uint32_t sender,
                                  const struct net_message *m)
{
    struct net *net = r->net;
    struct kvfi_batch_id id = m->cargo.id;
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];

    id.peer = sender;
    switch (m->kind) {
    case NET_OFFER:
        memcpy(runs, m->cargo.runs, m->cargo.n_runs * sizeof(runs[0]));
        for (uint32_t i = 0; i < m->cargo.n_runs; i++) {
            const struct net_work *w = &net->works[runs[i].piece];

            /* What ended here, or is here already, is filler. */
            if (w->ended || w->n_got[runs[i].first_chunk])
                runs[i].piece = UINT32_MAX;
        }
        return kvfi_recv_on_offer(r->sched, &id, runs, m->cargo.n_runs, m->cargo.bytes,
                                  m->priority);
    case NET_WITHDRAW:
        return kvfi_recv_on_withdraw(r->sched, &id);
    case NET_RELEASE:
        return kvfi_recv_on_release(r->sched, &id);
    case NET_GO:
        return kvfi_recv_on_go(r->sched, &id);
    case NET_LINK_OPEN:
    case NET_LINK_FAILED:
    case NET_GRANT:
    case NET_DELIVERED:
    case NET_LINK_READY:
        break;
    }
    return KVF_EINTERNAL;
}

static kvf_status_t give_sender(struct net_sender *s, uint32_t receiver,
                                const struct net_message *m)
{
    struct kvfi_batch_id id = m->cargo.id;

    id.peer = receiver;
    if (m->kind == NET_GRANT)
        return kvfi_send_on_grant(s->sched, &id, s->net->now_ns);
    return kvfi_send_on_delivered(s->sched, &id, s->net->now_ns);
}

void net_receiver_refuses(struct net_receiver *r, uint32_t sender, const struct net_message *m)
{
    memcpy(r->before, r->sched, r->n_bytes);
    NET_REQUIRE(r->net, give_receiver(r, sender, m) == KVF_EPROTO);
    NET_REQUIRE(r->net, memcmp(r->before, r->sched, r->n_bytes) == 0);
}

void net_sender_refuses(struct net_sender *s, uint32_t receiver, const struct net_message *m)
{
    memcpy(s->before, s->sched, s->n_bytes);
    NET_REQUIRE(s->net, give_sender(s, receiver, m) == KVF_EPROTO);
    NET_REQUIRE(s->net, memcmp(s->before, s->sched, s->n_bytes) == 0);
}

void net_recv_link_down(struct net_receiver *r, uint32_t sender, uint32_t link)
{
    struct net_recv_lane *l = &r->lanes[net_recv_lane_of(r->net, sender, r->index, link)];
    struct net_recv_slot *b = &l->slots[l->op_slot];

    /* The lane may have gone on to unpack before anybody heard that it received. */
    if (l->op == NET_OP_WIRE && b->cargo.id.peer == sender && b->cargo.id.link == link &&
        net_rnd(r->net, 2))
        net_slot_unpack(r->net, b);
    watch_recv_down(r, sender, link);
    r->links[sender][link].up = false;
    kvfi_recv_link_down(r->sched, sender, link);
}

void net_send_link_down(struct net_sender *s, uint32_t receiver, uint32_t link)
{
    watch_send_down(s, receiver, link);
    s->links[receiver][link].state = NET_L_DOWN;
    kvfi_send_link_down(s->sched, receiver, link, s->net->now_ns);
    s->net->counts.failures++;
}

/* The receiver's books of offers and slots, before the scheduler hears of the message. */
static void receiver_books(struct net_receiver *r, uint32_t sender, const struct net_message *m)
{
    struct net_recv_link *k = &r->links[sender][m->cargo.id.link];
    struct net_recv_lane *lane =
        &r->lanes[net_recv_lane_of(r->net, sender, r->index, m->cargo.id.link)];

    if (m->kind == NET_OFFER) {
        k->waits = true;
        k->offer = m->cargo;
        k->offer.id.peer = sender;
        NET_REQUIRE(r->net, r->n_named < NET_NAMED);
        r->named[r->n_named++] = k->offer.id;
        return;
    }
    if (m->kind == NET_WITHDRAW && k->waits && k->offer.id.seq == m->cargo.id.seq) {
        k->waits = false;
        return;
    }
    for (uint32_t i = 0; i < r->net->config.n_recv_slots; i++) {
        struct net_recv_slot *b = &lane->slots[i];

        if (b->state == NET_R_FREE || b->orphan || b->cargo.id.peer != sender ||
            b->cargo.id.link != m->cargo.id.link || b->cargo.id.seq != m->cargo.id.seq)
            continue;
        NET_REQUIRE(r->net, b->state == NET_R_GRANTED ||
                                (b->state == NET_R_WITHDRAWN && m->kind == NET_RELEASE));
        if (m->kind == NET_GO) {
            b->state = NET_R_GO;
            b->go_order = ++r->net->order;
        } else {
            b->state = m->kind == NET_RELEASE ? NET_R_FREE : NET_R_WITHDRAWN;
        }
        return;
    }
    net_fail(r->net, "a batch the receiver does not know", __FILE__, __LINE__);
}

static void reach_receiver(struct net *net, uint32_t sender, uint32_t receiver)
{
    struct net_session *session = &net->forth[sender][receiver];
    const struct net_message *m = &session->queue[session->head % NET_QUEUE];
    struct net_receiver *r = &net->receivers[receiver];
    uint32_t link = m->cargo.id.link;
    struct net_recv_link *k = &r->links[sender][link];
    bool current = k->up && k->epoch == m->cargo.id.epoch;

    net_note(net, "s%u -> r%u kind %d link %u epoch %u seq %u%s", sender, receiver, m->kind, link,
             m->cargo.id.epoch, m->cargo.id.seq, current ? "" : " (stale)");
    if (m->kind == NET_LINK_FAILED) {
        if (current)
            net_recv_link_down(r, sender, link);
    } else if (m->kind == NET_LINK_OPEN) {
        if (k->up)
            net_recv_link_down(r, sender, link);
        *k = (struct net_recv_link){.up = true, .epoch = m->cargo.id.epoch};
        kvfi_recv_link_up(r->sched, sender, link, net_recv_lane_of(net, sender, receiver, link),
                          k->epoch);
        net_post_link(net, &net->back[sender][receiver], NET_LINK_READY, link, k->epoch);
    } else if (current) {
        receiver_books(r, sender, m);
        NET_REQUIRE(net, give_receiver(r, sender, m) == KVF_OK);
        if (net_rnd(net, 8) == 0) /* said twice */
            net_receiver_refuses(r, sender, m);
    } else {
        net_receiver_refuses(r, sender, m);
    }
    session->head++;
    watch_recv_busy(r);
}

/* The sender's slot of a batch; NULL: it was withdrawn. */
static struct net_send_slot *sender_slot(struct net_sender *s, const struct kvfi_batch_id *id)
{
    struct net_send_lane *lane = &s->lanes[net_send_lane_of(s->net, s->index, id->peer, id->link)];

    for (uint32_t i = 0; i < s->net->config.n_send_slots; i++) {
        struct net_send_slot *b = &lane->slots[i];

        if ((b->state == NET_S_OFFERED || b->state == NET_S_GRANTED ||
             b->state == NET_S_LAUNCHED) &&
            memcmp(&b->cargo.id, id, sizeof(*id)) == 0)
            return b;
    }
    return NULL;
}

static void sender_takes(struct net_sender *s, uint32_t receiver, const struct net_message *m)
{
    struct net *net = s->net;
    struct kvfi_batch_id id = m->cargo.id;
    struct net_send_slot *b;

    id.peer = receiver;
    b = sender_slot(s, &id);
    if (m->kind == NET_DELIVERED) {
        NET_REQUIRE(net, b && b->state == NET_S_LAUNCHED && !b->delivered);
        b->delivered = true;
        net->counts.delivered++;
        watch_send_slot(b);
    } else if (b) {
        NET_REQUIRE(net, b->state == NET_S_OFFERED);
        b->state = NET_S_GRANTED;
        b->grant_order = ++net->order;
    } else {
        s->release_due = true;
        s->due = id;
        net->counts.crossed++;
    }
    NET_REQUIRE(net, give_sender(s, receiver, m) == KVF_OK);
    NET_REQUIRE(net, !s->release_due);
    if (net_rnd(net, 8) == 0)
        net_sender_refuses(s, receiver, m);
}

static void reach_sender(struct net *net, uint32_t sender, uint32_t receiver)
{
    struct net_session *session = &net->back[sender][receiver];
    const struct net_message *m = &session->queue[session->head % NET_QUEUE];
    struct net_sender *s = &net->senders[sender];
    uint32_t link = m->cargo.id.link;
    struct net_link *k = &s->links[receiver][link];
    bool current = k->state == NET_L_UP && k->epoch == m->cargo.id.epoch;

    net_note(net, "r%u -> s%u kind %d link %u epoch %u seq %u%s", receiver, sender, m->kind, link,
             m->cargo.id.epoch, m->cargo.id.seq, current ? "" : " (stale)");
    if (m->kind == NET_LINK_FAILED) {
        if (current)
            net_send_link_down(s, receiver, link);
        else if (k->state == NET_L_OPENING && k->epoch == m->cargo.id.epoch)
            k->state = NET_L_DOWN;
    } else if (m->kind == NET_LINK_READY) {
        if (k->state == NET_L_OPENING && k->epoch == m->cargo.id.epoch) {
            k->state = NET_L_UP;
            k->next_seq = 0;
            k->open = false;
            net->wires[sender][receiver][link] = (struct net_wire){.epoch = k->epoch};
            kvfi_send_link_up(s->sched, receiver, link,
                              net_send_lane_of(net, sender, receiver, link), k->epoch, net->now_ns);
        }
    } else if (current) {
        sender_takes(s, receiver, m);
    } else {
        net_sender_refuses(s, receiver, m);
    }
    session->head++;
    watch_send_busy(s);
}

/* ---- the events that are possible --------------------------------------------------------- */

static void open_link(struct net *net, uint32_t sender, uint32_t receiver, uint32_t link)
{
    struct net_link *k = &net->senders[sender].links[receiver][link];

    k->state = NET_L_OPENING;
    k->epoch++;
    net_note(net, "s%u opens link %u to r%u, epoch %u", sender, link, receiver, k->epoch);
    net_post_link(net, &net->forth[sender][receiver], NET_LINK_OPEN, link, k->epoch);
}

static uint32_t list_sender(struct net *net, uint32_t i, struct event *events, uint32_t n)
{
    const struct net_sender *s = &net->senders[i];

    for (uint32_t j = 0; j < net->config.n_receivers; j++) {
        if (net->forth[i][j].head != net->forth[i][j].tail)
            events[n++] = (struct event){FORTH, i, j, 0};
        if (net->back[i][j].head != net->back[i][j].tail)
            events[n++] = (struct event){BACK, i, j, 0};
        for (uint32_t l = 0; l < net->config.n_links; l++) {
            if (s->links[j][l].state == NET_L_DOWN)
                events[n++] = (struct event){OPEN, i, j, l};
        }
    }
    for (uint32_t p = 0; p < NET_PIECES; p++) {
        if (s->pieces[p].state == NET_P_ADDED)
            events[n++] = (struct event){READY, i, p, 0};
    }
    for (uint32_t l = 0; l < net->config.n_send_lanes; l++) {
        const struct net_send_lane *lane = &s->lanes[l];
        const struct net_send_slot *b = &lane->slots[lane->op_slot];

        if (lane->n_packs)
            events[n++] = (struct event){PACK, i, l, 0};
        if (lane->op == NET_OP_WAITS && !b->packing)
            events[n++] = (struct event){LAUNCH, i, l, 0};
        if (lane->op == NET_OP_WIRE &&
            (net->config.eager || net_wire_of(net, i, b->cargo.id.peer, b->cargo.id.link)->taken))
            events[n++] = (struct event){SENT, i, l, 0};
    }
    return n;
}

static uint32_t list_receiver(struct net *net, uint32_t j, struct event *events, uint32_t n)
{
    for (uint32_t l = 0; l < net->config.n_recv_lanes; l++) {
        const struct net_recv_lane *lane = &net->receivers[j].lanes[l];
        const struct net_recv_slot *b = &lane->slots[lane->op_slot];
        const struct net_wire *w;

        for (uint32_t i = 0; i < net->config.n_recv_slots; i++) {
            if (lane->slots[i].state == NET_R_UNPACKING)
                events[n++] = (struct event){UNPACK, j, l, i};
        }
        if (lane->op == NET_OP_WIRE)
            events[n++] = (struct event){RECEIVED, j, l, 0};
        if (lane->op != NET_OP_WAITS)
            continue;
        w = net_wire_of(net, b->cargo.id.peer, j, b->cargo.id.link);
        if (w->epoch == b->cargo.id.epoch && w->head != w->tail)
            events[n++] = (struct event){TAKE, j, l, 0};
    }
    return n;
}

static void happen(struct net *net, const struct event *e)
{
    switch (e->kind) {
    case FORTH:
        reach_receiver(net, e->a, e->b);
        break;
    case BACK:
        reach_sender(net, e->a, e->b);
        break;
    case PACK:
        net_lane_pack(net, e->a, e->b);
        break;
    case LAUNCH:
        net_lane_launch(net, e->a, e->b);
        break;
    case SENT:
        net_lane_sent(net, e->a, e->b);
        break;
    case TAKE:
        net_lane_take(net, e->a, e->b);
        break;
    case RECEIVED:
        net_lane_received(net, e->a, e->b);
        break;
    case UNPACK:
        net_lane_unpacked(net, e->a, e->b, e->c);
        break;
    case OPEN:
        open_link(net, e->a, e->b, e->c);
        break;
    case READY:
        net_make_ready(net, e->a, e->b);
        break;
    }
}

bool net_step(struct net *net)
{
    struct event events[EVENTS];
    uint32_t n = 0;

    net->step++;
    net->now_ns += net_rnd(net, 100);
    if (!net->quiet && net_rnd(net, 1000) < net->config.outside) {
        net_outside(net);
        return true;
    }
    for (uint32_t i = 0; i < net->config.n_senders; i++)
        n = list_sender(net, i, events, n);
    for (uint32_t j = 0; j < net->config.n_receivers; j++)
        n = list_receiver(net, j, events, n);
    NET_REQUIRE(net, n <= EVENTS);
    if (n == 0)
        return false;
    happen(net, &events[net_rnd(net, n)]);
    return true;
}

void net_run(struct net *net)
{
    for (uint32_t i = 0; i < net->config.n_steps; i++)
        (void)net_step(net);
    net->quiet = true;
    for (uint32_t i = 0; i < net->config.n_senders; i++) {
        net->senders[i].held = false;
        kvfi_send_hold(net->senders[i].sched, false, net->now_ns);
        watch_send_busy(&net->senders[i]);
    }
    for (uint32_t i = 0; net_step(net); i++)
        NET_REQUIRE(net, i < 1000000);
    watch_rest(net);
    net->counts.steps = net->step;
    net->counts.works = net->n_works;
}

void net_counts_add(struct net_counts *to, const struct net_counts *from)
{
    to->steps += from->steps;
    to->works += from->works;
    to->offers += from->offers;
    to->resent += from->resent;
    to->delivered += from->delivered;
    to->crossed += from->crossed;
    to->failures += from->failures;
    to->again += from->again;
}

/* ---- making one --------------------------------------------------------------------------- */

struct net_config net_config_draw(uint64_t seed)
{
    struct net draw = {.rnd = seed * 2 + 1};
    struct net_config c;

    for (int i = 0; i < 8; i++)
        (void)net_rnd(&draw, 2);
    c = (struct net_config){.n_senders = 1 + net_rnd(&draw, NET_ENDS),
                            .n_receivers = 1 + net_rnd(&draw, NET_ENDS),
                            .n_send_lanes = 1 + net_rnd(&draw, NET_LANES),
                            .n_recv_lanes = 1 + net_rnd(&draw, NET_LANES),
                            .n_links = 1 + net_rnd(&draw, NET_LINKS),
                            .n_send_slots = 1 + net_rnd(&draw, NET_SLOTS),
                            .n_recv_slots = 1 + net_rnd(&draw, NET_SLOTS),
                            .max_offers = 1 + net_rnd(&draw, 3),
                            .send_groups = net_rnd(&draw, 4),
                            .recv_groups = net_rnd(&draw, 4),
                            .eager = net_rnd(&draw, 4) == 0,
                            .n_steps = 4000,
                            .n_works = 1000,
                            .outside = 50 + net_rnd(&draw, 300),
                            .faults = net_rnd(&draw, 3) ? net_rnd(&draw, 50) : 0};
    return c;
}

static void *zeroed(size_t n_bytes)
{
    void *p = n_bytes ? aligned_alloc(64, (n_bytes + 63) / 64 * 64) : NULL;

    ck_assert_ptr_nonnull(p);
    return memset(p, 0, n_bytes);
}

static void sender_init(struct net *net, uint32_t i)
{
    const struct net_config *c = &net->config;
    struct net_sender *s = &net->senders[i];
    const struct kvfi_send_sched_config sc = {.n_lanes = c->n_send_lanes,
                                              .slots_per_lane = c->n_send_slots,
                                              .slot_bytes = NET_SLOT_BYTES,
                                              .max_peers = c->n_receivers,
                                              .max_pieces = NET_PIECES,
                                              .links_per_peer = c->n_links,
                                              .max_offers = c->max_offers,
                                              .max_groups = c->send_groups,
                                              .starve_ns = 3000,
                                              .chunk_bytes = chunk_bytes,
                                              .chunk_ctx = s};

    s->net = net;
    s->index = i;
    s->n_bytes = kvfi_send_sched_bytes(&sc);
    s->before = zeroed(s->n_bytes);
    s->sched = kvfi_send_sched_init(zeroed(s->n_bytes), &sc, watch_send, s);
}

static void receiver_init(struct net *net, uint32_t j)
{
    const struct net_config *c = &net->config;
    struct net_receiver *r = &net->receivers[j];
    const struct kvfi_recv_sched_config rc = {.n_lanes = c->n_recv_lanes,
                                              .slots_per_lane = c->n_recv_slots,
                                              .slot_bytes = NET_SLOT_BYTES,
                                              .max_peers = c->n_senders,
                                              .links_per_peer = c->n_links,
                                              .max_offers = 1,
                                              .max_groups = c->recv_groups};

    r->net = net;
    r->index = j;
    r->unpacked = NET_NONE;
    r->n_bytes = kvfi_recv_sched_bytes(&rc);
    r->before = zeroed(r->n_bytes);
    r->sched = kvfi_recv_sched_init(zeroed(r->n_bytes), &rc, watch_recv, r);
}

struct net *net_create(const struct net_config *config, uint64_t seed)
{
    struct net *net = zeroed(sizeof(*net));

    net->config = *config;
    net->seed = seed;
    net->rnd = kvfi_mix64(seed) | 1;
    for (uint32_t i = 0; i < config->n_senders; i++) {
        sender_init(net, i);
        for (uint32_t j = 0; j < config->n_receivers; j++) {
            net->forth[i][j].queue = calloc(NET_QUEUE, sizeof(struct net_message));
            net->back[i][j].queue = calloc(NET_QUEUE, sizeof(struct net_message));
            ck_assert(net->forth[i][j].queue && net->back[i][j].queue);
        }
    }
    for (uint32_t j = 0; j < config->n_receivers; j++)
        receiver_init(net, j);
    return net;
}

void net_destroy(struct net *net)
{
    for (uint32_t i = 0; i < NET_ENDS; i++) {
        free(net->senders[i].sched);
        free(net->senders[i].before);
        free(net->receivers[i].sched);
        free(net->receivers[i].before);
        for (uint32_t j = 0; j < NET_ENDS; j++) {
            free(net->forth[i][j].queue);
            free(net->back[i][j].queue);
        }
    }
    free(net);
}
