/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of design section 4 as a second, simpler account of what each scheduler may and must
 * do: every action is checked against it, and after every event that nothing was left undone.
 */
#include <string.h>

#include "sched_pair.h"

/* ---- sender ------------------------------------------------------------------------------- */

void watch_send_slot(struct net_send_slot *b)
{
    bool over = b->state == NET_S_VOID || (b->state == NET_S_LAUNCHED && b->sent && b->delivered);

    if (over && !b->packing)
        b->state = NET_S_FREE;
}

static bool slot_wanted(const struct net *net, const struct net_send_slot *b)
{
    for (uint32_t i = 0; i < b->cargo.n_runs; i++) {
        if (!net->works[b->cargo.runs[i].piece].removed)
            return true;
    }
    return false;
}

static int32_t slot_priority(const struct net *net, const struct net_send_slot *b)
{
    int32_t priority = INT32_MIN;

    for (uint32_t i = 0; i < b->cargo.n_runs; i++) {
        const struct net_work *w = &net->works[b->cargo.runs[i].piece];

        if (!w->removed && w->priority > priority)
            priority = w->priority;
    }
    return priority;
}

static bool has_offer_to(const struct net *net, const struct net_send_lane *lane, uint32_t peer)
{
    for (uint32_t i = 0; i < net->config.n_send_slots; i++) {
        const struct net_send_slot *b = &lane->slots[i];

        if ((b->state == NET_S_OFFERED || b->state == NET_S_GRANTED) && b->cargo.id.peer == peer)
            return true;
    }
    return false;
}

static uint32_t count(const struct net *net, const struct net_send_lane *lane,
                      enum net_send_state first, enum net_send_state last)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < net->config.n_send_slots; i++)
        n += lane->slots[i].state >= first && lane->slots[i].state <= last;
    return n;
}

/* Launched and not sent: what R1 and R4 count. */
static uint32_t count_groups(const struct net_sender *s)
{
    uint32_t n = 0;

    for (uint32_t l = 0; l < s->net->config.n_send_lanes; l++)
        n += s->lanes[l].op != NET_OP_NONE;
    return n;
}

/* The piece of a peer that goes next; NET_NONE. */
static int32_t most_urgent(const struct net_sender *s, uint32_t peer)
{
    int32_t best = NET_NONE;

    for (int32_t i = 0; i < NET_PIECES; i++) {
        const struct net_piece *p = &s->pieces[i];
        const struct net_piece *b = &s->pieces[best == NET_NONE ? i : best];
        int32_t more = s->net->works[p->work].priority - s->net->works[b->work].priority;

        if (p->state != NET_P_READY || s->net->works[p->work].receiver != peer ||
            p->next_chunk == s->net->works[p->work].n_chunks)
            continue;
        if (best == NET_NONE || more > 0 ||
            (more == 0 && (p->deadline_ns < b->deadline_ns ||
                           (p->deadline_ns == b->deadline_ns && p->ready_order < b->ready_order))))
            best = i;
    }
    return best;
}

/* Another chunk would have fitted. */
static bool has_room(const struct net_sender *s, const struct net_send_slot *b)
{
    int32_t piece = most_urgent(s, b->cargo.id.peer);
    const struct net_piece *p = &s->pieces[piece == NET_NONE ? 0 : piece];

    return piece != NET_NONE && b->cargo.n_runs < KVFI_BATCH_RUNS_MAX &&
           b->cargo.bytes + net_chunk_bytes(p->work, p->next_chunk) <= NET_SLOT_BYTES;
}

/* Chunks in order, none twice, none of a piece that is not ready; they fit. */
static void on_pack(struct net_sender *s, const struct kvfi_send_action *a)
{
    struct net *net = s->net;
    struct net_send_lane *lane = &s->lanes[a->lane];
    struct net_send_slot *b = &lane->slots[a->slot];
    uint32_t bytes = 0;

    NET_REQUIRE(net, b->state == NET_S_FREE && a->n_runs >= 1 && a->n_runs <= KVFI_BATCH_RUNS_MAX);
    memset(b, 0, sizeof(*b));
    for (uint32_t i = 0; i < a->n_runs; i++) {
        const struct kvfi_run *run = &a->runs[i];
        struct net_piece *p = &s->pieces[run->piece];
        uint32_t run_bytes = 0;

        NET_REQUIRE(net, most_urgent(s, a->batch.peer) == (int32_t)run->piece);
        NET_REQUIRE(net, p->state == NET_P_READY && run->first_chunk == p->next_chunk);
        NET_REQUIRE(net, run->n_chunks >= 1 && run->offset == bytes);
        NET_REQUIRE(net, net->works[p->work].receiver == a->batch.peer);
        for (uint32_t c = 0; c < run->n_chunks; c++)
            run_bytes += net_chunk_bytes(p->work, p->next_chunk++);
        NET_REQUIRE(net, run_bytes == run->bytes);
        NET_REQUIRE(net, p->next_chunk <= net->works[p->work].n_chunks);
        bytes += run_bytes;
        b->pieces[i] = run->piece;
        b->cargo.runs[i] = *run;
        b->cargo.runs[i].piece = p->work;
    }
    NET_REQUIRE(net, bytes == a->bytes && bytes <= NET_SLOT_BYTES);
    b->state = NET_S_PACKED;
    b->packing = true;
    b->cargo.bytes = bytes;
    b->cargo.n_runs = a->n_runs;
    b->cargo.id.peer = a->batch.peer;
    NET_REQUIRE(net, !has_room(s, b));
    NET_REQUIRE(net, lane->n_packs < 2 * NET_SLOTS);
    lane->packs[lane->n_packs++] = a->slot;
}

static void on_offer(struct net_sender *s, const struct kvfi_send_action *a)
{
    struct net *net = s->net;
    struct net_send_lane *lane = &s->lanes[a->lane];
    struct net_send_slot *b = &lane->slots[a->slot];
    struct net_link *k = &s->links[a->batch.peer][a->batch.link];
    struct net_message m = {.kind = NET_OFFER, .priority = a->priority};

    NET_REQUIRE(net, b->state == NET_S_PACKED || b->state == NET_S_PENDING);
    NET_REQUIRE(net, b->cargo.id.peer == a->batch.peer && b->cargo.bytes == a->bytes &&
                         b->cargo.n_runs == a->n_runs);
    NET_REQUIRE(net, k->state == NET_L_UP && k->epoch == a->batch.epoch && !k->open &&
                         k->next_seq == a->batch.seq);
    NET_REQUIRE(net, net_send_lane_of(net, s->index, a->batch.peer, a->batch.link) == a->lane);
    NET_REQUIRE(net, !has_offer_to(net, lane, a->batch.peer));
    NET_REQUIRE(net, count(net, lane, NET_S_OFFERED, NET_S_GRANTED) < net->config.max_offers);
    NET_REQUIRE(net, slot_wanted(net, b) && slot_priority(net, b) == a->priority);
    net->counts.resent += b->state == NET_S_PENDING;
    net->counts.offers++;
    k->open = true;
    k->next_seq++;
    b->state = NET_S_OFFERED;
    b->sent = false;
    b->cargo.id = a->batch;
    m.cargo = b->cargo;
    net_post_message(net, &net->forth[s->index][a->batch.peer], &m);
}

static void on_launch(struct net_sender *s, const struct kvfi_send_action *a)
{
    struct net *net = s->net;
    struct net_send_lane *lane = &s->lanes[a->lane];
    struct net_send_slot *b = &lane->slots[a->slot];

    NET_REQUIRE(net, b->state == NET_S_GRANTED && lane->op == NET_OP_NONE && !s->held);
    NET_REQUIRE(net, net->config.send_groups == 0 || count_groups(s) < net->config.send_groups);
    NET_REQUIRE(net, memcmp(&b->cargo.id, &a->batch, sizeof(a->batch)) == 0);
    for (uint32_t i = 0; i < net->config.n_send_slots; i++)
        NET_REQUIRE(net, lane->slots[i].state != NET_S_GRANTED ||
                             lane->slots[i].grant_order >= b->grant_order);
    b->state = NET_S_LAUNCHED;
    b->delivered = false;
    lane->op = NET_OP_WAITS;
    lane->op_slot = a->slot;
    s->links[a->batch.peer][a->batch.link].open = false;
    s->go_due = true;
    s->due = a->batch;
}

static void post_id(struct net_sender *s, enum net_message_kind kind,
                    const struct kvfi_batch_id *id)
{
    const struct net_message m = {.kind = kind, .cargo.id = *id};

    net_post_message(s->net, &s->net->forth[s->index][id->peer], &m);
}

static void on_go(struct net_sender *s, const struct kvfi_send_action *a)
{
    NET_REQUIRE(s->net, s->go_due && memcmp(&s->due, &a->batch, sizeof(a->batch)) == 0);
    s->go_due = false;
    post_id(s, NET_GO, &a->batch);
}

/* WITHDRAW of an offer, RELEASE of a grant, or RELEASE of a grant that crossed. */
static void on_give_up(struct net_sender *s, const struct kvfi_send_action *a)
{
    struct net *net = s->net;
    struct net_send_slot *b;
    bool withdraw = a->kind == KVFI_SEND_WITHDRAW;

    post_id(s, withdraw ? NET_WITHDRAW : NET_RELEASE, &a->batch);
    if (a->slot == UINT32_MAX) {
        NET_REQUIRE(net, !withdraw && s->release_due &&
                             memcmp(&s->due, &a->batch, sizeof(a->batch)) == 0);
        s->release_due = false;
        return;
    }
    b = &s->lanes[a->lane].slots[a->slot];
    NET_REQUIRE(net, b->state == (withdraw ? NET_S_OFFERED : NET_S_GRANTED));
    NET_REQUIRE(net, !slot_wanted(net, b));
    s->links[a->batch.peer][a->batch.link].open = false;
    b->state = NET_S_VOID;
    watch_send_slot(b);
}

/* A run of a live piece was delivered, for the first time, and not before it was there. */
static void on_piece_sent(struct net_sender *s, const struct kvfi_send_action *a)
{
    struct net *net = s->net;
    const struct net_piece *p = &s->pieces[a->piece];
    struct net_work *w = &net->works[p->work];

    NET_REQUIRE(net, p->state == NET_P_READY && a->n_runs == 1 && a->runs[0].piece == a->piece);
    for (uint32_t c = a->runs[0].first_chunk; c < a->runs[0].first_chunk + a->runs[0].n_chunks;
         c++) {
        NET_REQUIRE(net, w->n_sent[c] == 0);
        NET_REQUIRE(net, w->n_got[c] == 1 || w->ended);
        w->n_sent[c]++;
    }
}

/* Once; nothing is left of it: no slot names it, no lane has it before it. */
static void on_piece_idle(struct net_sender *s, const struct kvfi_send_action *a)
{
    struct net *net = s->net;
    struct net_piece *p = &s->pieces[a->piece];
    struct net_work *w = &net->works[p->work];

    NET_REQUIRE(net, p->state == NET_P_READY || p->state == NET_P_REMOVED);
    NET_REQUIRE(net, !w->idle);
    for (uint32_t c = 0; c < w->n_chunks; c++)
        NET_REQUIRE(net, w->removed || w->n_sent[c] == 1);
    for (uint32_t l = 0; l < net->config.n_send_lanes; l++) {
        for (uint32_t i = 0; i < net->config.n_send_slots; i++) {
            const struct net_send_slot *b = &s->lanes[l].slots[i];

            for (uint32_t r = 0; b->state != NET_S_FREE && r < b->cargo.n_runs; r++)
                NET_REQUIRE(net, b->pieces[r] != a->piece);
        }
    }
    w->idle = true;
    p->state = NET_P_FREE;
}

void watch_send(void *ctx, const struct kvfi_send_action *a)
{
    static const char *const names[] = {
        [KVFI_SEND_PACK] = "PACK",         [KVFI_SEND_OFFER] = "OFFER",
        [KVFI_SEND_LAUNCH] = "LAUNCH",     [KVFI_SEND_GO] = "GO",
        [KVFI_SEND_WITHDRAW] = "WITHDRAW", [KVFI_SEND_RELEASE] = "RELEASE",
        [KVFI_SEND_PIECE_SENT] = "SENT",   [KVFI_SEND_PIECE_IDLE] = "IDLE",
    };
    struct net_sender *s = ctx;

    net_note(s->net, "  s%u says %s %u.%d r%u link %u epoch %u seq %u piece %d", s->index,
             names[a->kind], a->lane, (int)a->slot, a->batch.peer, a->batch.link, a->batch.epoch,
             a->batch.seq, (int)a->piece);
    NET_REQUIRE(s->net, !s->go_due || a->kind == KVFI_SEND_GO);
    switch (a->kind) {
    case KVFI_SEND_PACK:
        on_pack(s, a);
        break;
    case KVFI_SEND_OFFER:
        on_offer(s, a);
        break;
    case KVFI_SEND_LAUNCH:
        on_launch(s, a);
        break;
    case KVFI_SEND_GO:
        on_go(s, a);
        break;
    case KVFI_SEND_WITHDRAW:
    case KVFI_SEND_RELEASE:
        on_give_up(s, a);
        break;
    case KVFI_SEND_PIECE_SENT:
        on_piece_sent(s, a);
        break;
    case KVFI_SEND_PIECE_IDLE:
        on_piece_idle(s, a);
        break;
    }
}

void watch_send_down(struct net_sender *s, uint32_t receiver, uint32_t link)
{
    struct net *net = s->net;
    struct net_send_lane *lane = &s->lanes[net_send_lane_of(net, s->index, receiver, link)];
    struct net_wire *w = &net->wires[s->index][receiver][link];

    s->links[receiver][link].open = false;
    w->head = w->tail;
    for (uint32_t i = 0; i < net->config.n_send_slots; i++) {
        struct net_send_slot *b = &lane->slots[i];

        if ((b->state != NET_S_OFFERED && b->state != NET_S_GRANTED &&
             b->state != NET_S_LAUNCHED) ||
            b->cargo.id.peer != receiver || b->cargo.id.link != link)
            continue;
        if (lane->op != NET_OP_NONE && lane->op_slot == i)
            lane->op = NET_OP_NONE;
        b->state = b->delivered || !slot_wanted(net, b) ? NET_S_VOID : NET_S_PENDING;
        watch_send_slot(b);
    }
}

void watch_send_removed(struct net_sender *s)
{
    for (uint32_t l = 0; l < s->net->config.n_send_lanes; l++) {
        for (uint32_t i = 0; i < s->net->config.n_send_slots; i++) {
            struct net_send_slot *b = &s->lanes[l].slots[i];

            if (b->state == NET_S_PENDING && !slot_wanted(s->net, b))
                b->state = NET_S_VOID;
            watch_send_slot(b);
        }
    }
}

/* A link of the peer on the lane is up and the lane has no offer to it. */
static bool may_offer(const struct net_sender *s, uint32_t lane, uint32_t peer)
{
    if (has_offer_to(s->net, &s->lanes[lane], peer))
        return false;
    for (uint32_t k = 0; k < s->net->config.n_links; k++) {
        if (s->links[peer][k].state == NET_L_UP &&
            net_send_lane_of(s->net, s->index, peer, k) == lane)
            return true;
    }
    return false;
}

static void lane_busy(struct net_sender *s, uint32_t lane)
{
    struct net *net = s->net;
    const struct net_send_lane *l = &s->lanes[lane];
    bool room = count(net, l, NET_S_OFFERED, NET_S_GRANTED) < net->config.max_offers;

    NET_REQUIRE(net, l->op != NET_OP_NONE || s->held ||
                         count(net, l, NET_S_GRANTED, NET_S_GRANTED) == 0 ||
                         (net->config.send_groups && count_groups(s) >= net->config.send_groups));
    NET_REQUIRE(net, count(net, l, NET_S_PACKED, NET_S_PACKED) == 0);
    for (uint32_t i = 0; i < net->config.n_send_slots; i++)
        NET_REQUIRE(net, l->slots[i].state < NET_S_OFFERED || l->slots[i].state > NET_S_GRANTED ||
                             slot_wanted(net, &l->slots[i]));
    if (!room)
        return;
    for (uint32_t i = 0; i < net->config.n_send_slots; i++)
        NET_REQUIRE(net, l->slots[i].state != NET_S_PENDING ||
                             !may_offer(s, lane, l->slots[i].cargo.id.peer));
    if (count(net, l, NET_S_FREE, NET_S_FREE) == 0)
        return;
    for (uint32_t p = 0; p < NET_PIECES; p++) {
        const struct net_work *w = &net->works[s->pieces[p].work];

        NET_REQUIRE(net, s->pieces[p].state != NET_P_READY ||
                             s->pieces[p].next_chunk == w->n_chunks ||
                             !may_offer(s, lane, w->receiver));
    }
}

void watch_send_busy(struct net_sender *s)
{
    NET_REQUIRE(s->net, !s->go_due);
    NET_REQUIRE(s->net, kvfi_send_n_launched(s->sched) == count_groups(s));
    for (uint32_t l = 0; l < s->net->config.n_send_lanes; l++)
        lane_busy(s, l);
}

/* ---- receiver ----------------------------------------------------------------------------- */

static uint32_t count_posted(const struct net_receiver *r)
{
    uint32_t n = 0;

    for (uint32_t l = 0; l < r->net->config.n_recv_lanes; l++)
        n += r->lanes[l].op != NET_OP_NONE;
    return n;
}

static void on_grant(struct net_receiver *r, const struct kvfi_recv_action *a)
{
    struct net *net = r->net;
    struct net_recv_slot *b = &r->lanes[a->lane].slots[a->slot];
    struct net_recv_link *k = &r->links[a->batch.peer][a->batch.link];
    struct net_message m = {.kind = NET_GRANT, .cargo.id = a->batch};

    NET_REQUIRE(net, b->state == NET_R_FREE && k->up && k->waits);
    NET_REQUIRE(net, memcmp(&k->offer.id, &a->batch, sizeof(a->batch)) == 0);
    NET_REQUIRE(net, net_recv_lane_of(net, a->batch.peer, r->index, a->batch.link) == a->lane);
    k->waits = false;
    memset(b, 0, sizeof(*b));
    b->state = NET_R_GRANTED;
    b->cargo = k->offer;
    net_post_message(net, &net->back[a->batch.peer][r->index], &m);
}

static void on_post(struct net_receiver *r, const struct kvfi_recv_action *a)
{
    struct net *net = r->net;
    struct net_recv_lane *lane = &r->lanes[a->lane];
    struct net_recv_slot *b = &lane->slots[a->slot];

    NET_REQUIRE(net, b->state == NET_R_GO && lane->op == NET_OP_NONE);
    NET_REQUIRE(net, net->config.recv_groups == 0 || count_posted(r) < net->config.recv_groups);
    NET_REQUIRE(net, memcmp(&b->cargo.id, &a->batch, sizeof(a->batch)) == 0);
    NET_REQUIRE(net, b->cargo.n_runs == a->n_runs && b->cargo.bytes == a->bytes);
    for (uint32_t i = 0; i < net->config.n_recv_slots; i++)
        NET_REQUIRE(net,
                    lane->slots[i].state != NET_R_GO || lane->slots[i].go_order >= b->go_order);
    memcpy(b->cargo.runs, a->runs, a->n_runs * sizeof(a->runs[0]));
    b->state = NET_R_POSTED;
    lane->op = NET_OP_WAITS;
    lane->op_slot = a->slot;
}

/* DELIVERED or DROPPED ends an offer that was taken, once. */
static void end_batch(struct net_receiver *r, const struct kvfi_batch_id *id)
{
    for (uint32_t i = 0; i < r->n_named; i++) {
        if (memcmp(&r->named[i], id, sizeof(*id)) == 0) {
            r->named[i] = r->named[--r->n_named];
            return;
        }
    }
    net_fail(r->net, "the end of a batch that is not there", __FILE__, __LINE__);
}

static void on_delivered(struct net_receiver *r, const struct kvfi_recv_action *a)
{
    struct net *net = r->net;
    struct net_recv_slot *b = &r->lanes[a->lane].slots[a->slot];
    const struct net_message m = {.kind = NET_DELIVERED, .cargo.id = a->batch};

    NET_REQUIRE(net, r->unpacked == (int32_t)a->slot && b->state == NET_R_FREE);
    NET_REQUIRE(net, memcmp(&b->cargo.id, &a->batch, sizeof(a->batch)) == 0);
    r->unpacked = NET_NONE;
    end_batch(r, &a->batch);
    net_post_message(net, &net->back[a->batch.peer][r->index], &m);
}

void watch_recv(void *ctx, const struct kvfi_recv_action *a)
{
    static const char *const names[] = {[KVFI_RECV_GRANT] = "GRANT",
                                        [KVFI_RECV_POST] = "POST",
                                        [KVFI_RECV_DELIVERED] = "DELIVERED",
                                        [KVFI_RECV_DROPPED] = "DROPPED"};
    struct net_receiver *r = ctx;

    net_note(r->net, "  r%u says %s %u.%u s%u link %u epoch %u seq %u", r->index, names[a->kind],
             a->lane, a->slot, a->batch.peer, a->batch.link, a->batch.epoch, a->batch.seq);
    switch (a->kind) {
    case KVFI_RECV_GRANT:
        on_grant(r, a);
        break;
    case KVFI_RECV_POST:
        on_post(r, a);
        break;
    case KVFI_RECV_DELIVERED:
        on_delivered(r, a);
        break;
    case KVFI_RECV_DROPPED:
        end_batch(r, &a->batch);
        break;
    }
}

void watch_recv_down(struct net_receiver *r, uint32_t sender, uint32_t link)
{
    struct net *net = r->net;
    struct net_recv_lane *lane = &r->lanes[net_recv_lane_of(net, sender, r->index, link)];

    r->links[sender][link].waits = false;
    for (uint32_t i = 0; i < net->config.n_recv_slots; i++) {
        struct net_recv_slot *b = &lane->slots[i];

        if (b->state == NET_R_FREE || b->orphan || b->cargo.id.peer != sender ||
            b->cargo.id.link != link)
            continue;
        if (b->state == NET_R_UNPACKING) {
            b->orphan = true;
            continue;
        }
        if (lane->op != NET_OP_NONE && lane->op_slot == i)
            lane->op = NET_OP_NONE;
        b->state = NET_R_FREE;
    }
}

void watch_recv_busy(struct net_receiver *r)
{
    struct net *net = r->net;
    uint32_t n_go = 0;
    uint32_t n_named = 0;
    uint32_t n_free[NET_LANES] = {0};

    for (uint32_t l = 0; l < net->config.n_recv_lanes; l++) {
        for (uint32_t i = 0; i < net->config.n_recv_slots; i++) {
            enum net_recv_state state = r->lanes[l].slots[i].state;

            n_free[l] += state == NET_R_FREE;
            n_named += state != NET_R_FREE;
            n_go += state == NET_R_GO || state == NET_R_POSTED;
            NET_REQUIRE(
                net, state != NET_R_GO || r->lanes[l].op != NET_OP_NONE ||
                         (net->config.recv_groups && count_posted(r) >= net->config.recv_groups));
        }
    }
    NET_REQUIRE(net, kvfi_recv_n_posted(r->sched) == n_go);
    for (uint32_t i = 0; i < net->config.n_senders; i++) {
        for (uint32_t k = 0; k < net->config.n_links; k++) {
            n_named += r->links[i][k].waits;
            NET_REQUIRE(net, !r->links[i][k].waits ||
                                 n_free[net_recv_lane_of(net, i, r->index, k)] == 0);
        }
    }
    NET_REQUIRE(net, r->n_named == n_named);
}

/* ---- the end ------------------------------------------------------------------------------ */

void watch_rest(struct net *net)
{
    for (uint32_t i = 0; i < net->config.n_senders; i++) {
        const struct net_sender *s = &net->senders[i];

        for (uint32_t l = 0; l < net->config.n_send_lanes; l++)
            NET_REQUIRE(net, count(net, &s->lanes[l], NET_S_FREE, NET_S_FREE) ==
                                 net->config.n_send_slots);
        for (uint32_t p = 0; p < NET_PIECES; p++)
            NET_REQUIRE(net, s->pieces[p].state == NET_P_FREE);
    }
    for (uint32_t j = 0; j < net->config.n_receivers; j++) {
        for (uint32_t l = 0; l < net->config.n_recv_lanes; l++) {
            for (uint32_t i = 0; i < net->config.n_recv_slots; i++)
                NET_REQUIRE(net, net->receivers[j].lanes[l].slots[i].state == NET_R_FREE);
        }
    }
    for (uint32_t n = 0; n < net->n_works; n++) {
        const struct net_work *w = &net->works[n];

        NET_REQUIRE(net, w->idle);
        for (uint32_t c = 0; c < w->n_chunks; c++)
            NET_REQUIRE(net, w->removed || w->ended || w->n_got[c] == 1);
    }
    NET_REQUIRE(net, net->counts.failures > 0 || net->counts.again == 0);
}
