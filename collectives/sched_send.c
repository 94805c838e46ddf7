/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sending end. One pass per event: the event changes what it names and marks the lanes that
 * may do more now; then run() launches what is granted and gives the marked lanes' room away.
 */
#include <assert.h>

#include "collectives/sched_send_state.h"
#include "collectives/util.h"

static void tell_time(struct kvfi_send_sched *s, uint64_t now_ns)
{
    s->now_ns = kvfi_max_u64(s->now_ns, now_ns);
}

static void emit_batch(struct kvfi_send_sched *s, enum kvfi_send_action_kind kind, uint32_t lane,
                       uint32_t slot)
{
    const struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, slot);

    s->emit(s->emit_ctx, &(struct kvfi_send_action){.kind = kind,
                                                    .batch = b->id,
                                                    .lane = lane,
                                                    .slot = slot,
                                                    .bytes = b->bytes,
                                                    .piece = KVFI_SEND_NONE,
                                                    .runs = b->runs,
                                                    .n_runs = b->n_runs,
                                                    .priority = b->priority});
}

/* Nothing if the piece still has something to do. */
static void piece_settle(struct kvfi_send_sched *s, uint32_t piece)
{
    struct kvfi_send_piece *p = &s->pieces[piece];
    bool done = p->state == KVFI_SEND_PIECE_READY && p->n_delivered == p->n_chunks;

    if (p->n_slots != 0 || !(done || p->state == KVFI_SEND_PIECE_REMOVED))
        return;
    p->state = KVFI_SEND_PIECE_FREE;
    s->emit(s->emit_ctx, &(struct kvfi_send_action){.kind = KVFI_SEND_PIECE_IDLE, .piece = piece});
}

/* ---- slots -------------------------------------------------------------------------------- */

static void slot_free(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, slot);

    b->state = KVFI_SEND_SLOT_FREE;
    b->packing = false;
    b->delivered = false;
    s->lanes[lane].free |= kvfi_send_bit(slot);
    s->dirty |= kvfi_send_bit(lane);
    for (uint32_t i = 0; i < b->n_runs; i++) {
        s->pieces[b->runs[i].piece].n_slots--;
        piece_settle(s, b->runs[i].piece);
    }
}

/* Nobody wants what the slot holds. */
static void slot_drop(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    if (kvfi_send_slot_at(s, lane, slot)->packing)
        kvfi_send_slot_at(s, lane, slot)->state = KVFI_SEND_SLOT_VOID;
    else
        slot_free(s, lane, slot);
}

/* An offer is over: launched, withdrawn, or its link is down. */
static void offer_close(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    uint32_t peer = kvfi_send_slot_at(s, lane, slot)->id.peer;

    s->lanes[lane].granted &= ~kvfi_send_bit(slot);
    s->lanes[lane].n_offers--;
    s->routes[kvfi_send_route_index(s, peer, lane)].open = false;
    s->dirty |= kvfi_send_bit(lane);
    kvfi_send_route_refresh(s, peer, lane, false);
}

static void offer_open(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, slot);
    uint32_t peer = b->id.peer;
    uint32_t link = kvfi_send_next_link(s, peer, lane);
    struct kvfi_send_link *k = kvfi_send_link_at(s, peer, link);

    b->state = KVFI_SEND_SLOT_OFFERED;
    b->id =
        (struct kvfi_batch_id){.peer = peer, .link = link, .epoch = k->epoch, .seq = k->next_seq++};
    k->used = ++s->order;
    s->lanes[lane].n_offers++;
    s->routes[kvfi_send_route_index(s, peer, lane)].open = true;
    kvfi_send_peer_refresh(s, peer, true);
    emit_batch(s, KVFI_SEND_OFFER, lane, slot);
}

/* As many chunks of a piece as fit in what is left of the slot. False: not one. */
static bool slot_add_run(struct kvfi_send_sched *s, struct kvfi_send_slot *b, uint32_t piece)
{
    struct kvfi_send_piece *p = &s->pieces[piece];
    struct kvfi_run run = {.piece = piece, .first_chunk = p->next_chunk, .offset = b->bytes};
    uint32_t room = s->config.slot_bytes - b->bytes;

    while (p->next_chunk < p->n_chunks) {
        uint32_t n = s->config.chunk_bytes(s->config.chunk_ctx, piece, p->next_chunk);

        assert(n > 0 && n <= s->config.slot_bytes);
        if (n > room - run.bytes)
            break;
        run.bytes += n;
        run.n_chunks++;
        p->next_chunk++;
    }
    if (run.n_chunks == 0)
        return false;
    b->runs[b->n_runs++] = run;
    b->bytes += run.bytes;
    p->n_slots++;
    return true;
}

/* Strictly in the order of the peer's pieces: what does not fit ends the batch. */
static void slot_fill(struct kvfi_send_sched *s, struct kvfi_send_slot *b, uint32_t peer)
{
    b->id.peer = peer;
    b->bytes = 0;
    b->n_runs = 0;
    b->order = ++s->order;
    b->priority = s->piece_nodes[s->ready[peer]].priority;
    while (b->n_runs < KVFI_BATCH_RUNS_MAX && s->ready[peer] != KVFI_HEAP_NIL) {
        uint32_t piece = s->ready[peer];

        if (!slot_add_run(s, b, piece) || s->pieces[piece].next_chunk < s->pieces[piece].n_chunks)
            break;
        kvfi_heap_remove(s->piece_nodes, &s->ready[peer], piece);
    }
    b->n_live = b->n_runs;
    b->packing = true;
}

/* Highest of the pieces that are still wanted. */
static int32_t slot_priority(const struct kvfi_send_sched *s, const struct kvfi_send_slot *b)
{
    int32_t priority = INT32_MIN;

    for (uint32_t i = 0; i < b->n_runs; i++) {
        const struct kvfi_send_piece *p = &s->pieces[b->runs[i].piece];

        if (p->state != KVFI_SEND_PIECE_REMOVED && p->priority > priority)
            priority = p->priority;
    }
    return priority;
}

/* Make one offer on the lane, if there is room and somebody to make it to. */
static bool offer_next(struct kvfi_send_sched *s, uint32_t lane)
{
    struct kvfi_send_lane *l = &s->lanes[lane];
    uint32_t slot;
    uint32_t peer;

    if (l->n_offers >= s->config.max_offers)
        return false;
    slot = kvfi_send_next_pending(s, lane);
    if (slot != KVFI_SEND_NONE) {
        l->pending &= ~kvfi_send_bit(slot);
        kvfi_send_slot_at(s, lane, slot)->priority =
            slot_priority(s, kvfi_send_slot_at(s, lane, slot));
        offer_open(s, lane, slot);
        return true;
    }
    peer = kvfi_send_next_peer(s, l);
    if (l->free == 0 || peer == KVFI_SEND_NONE)
        return false;
    slot = kvfi_send_lowest(l->free);
    l->free &= ~kvfi_send_bit(slot);
    slot_fill(s, kvfi_send_slot_at(s, lane, slot), peer);
    emit_batch(s, KVFI_SEND_PACK, lane, slot);
    offer_open(s, lane, slot);
    return true;
}

/* ---- running ------------------------------------------------------------------------------ */

/* The lane with room whose oldest grant is the oldest of all; KVFI_SEND_NONE if there is none. */
static uint32_t next_launch(const struct kvfi_send_sched *s, uint32_t *ret_slot)
{
    uint32_t per_lane = s->config.max_launched ? s->config.max_launched : 1;
    uint64_t best = UINT64_MAX;
    uint32_t lane = KVFI_SEND_NONE;

    for (uint32_t i = 0; i < s->config.n_lanes; i++) {
        if (s->lanes[i].n_launched >= per_lane)
            continue;
        for (uint64_t m = s->lanes[i].granted; m; m &= m - 1) {
            uint64_t order = kvfi_send_slot_at(s, i, kvfi_send_lowest(m))->order;

            if (order < best) {
                best = order;
                lane = i;
                *ret_slot = kvfi_send_lowest(m);
            }
        }
    }
    return lane;
}

static void launch_granted(struct kvfi_send_sched *s)
{
    while (!s->held && (s->config.max_groups == 0 || s->n_launched < s->config.max_groups)) {
        uint32_t slot;
        uint32_t lane = next_launch(s, &slot);
        struct kvfi_send_slot *b;

        if (lane == KVFI_SEND_NONE)
            return;
        b = kvfi_send_slot_at(s, lane, slot);
        offer_close(s, lane, slot);
        b->state = KVFI_SEND_SLOT_LAUNCHED;
        s->lanes[lane].n_launched++;
        s->n_launched++;
        kvfi_send_link_at(s, b->id.peer, b->id.link)->n_sent++;
        emit_batch(s, KVFI_SEND_LAUNCH, lane, slot);
        emit_batch(s, KVFI_SEND_GO, lane, slot);
    }
}

/* Every event ends here. Offers go one at a time to the marked lane with the most free slots. */
static void run(struct kvfi_send_sched *s)
{
    launch_granted(s);
    while (s->dirty) {
        uint32_t lane = kvfi_send_lowest(s->dirty);

        for (uint64_t m = s->dirty; m; m &= m - 1) {
            if (__builtin_popcountll(s->lanes[kvfi_send_lowest(m)].free) >
                __builtin_popcountll(s->lanes[lane].free))
                lane = kvfi_send_lowest(m);
        }
        if (!offer_next(s, lane))
            s->dirty &= ~kvfi_send_bit(lane);
    }
}

/* ---- links -------------------------------------------------------------------------------- */

void kvfi_send_link_up(struct kvfi_send_sched *s, uint32_t peer, uint32_t link, uint32_t lane,
                       uint32_t epoch, uint64_t now_ns)
{
    struct kvfi_send_link *k;

    assert(peer < s->config.max_peers && link < s->config.links_per_peer &&
           lane < s->config.n_lanes);
    tell_time(s, now_ns);
    k = kvfi_send_link_at(s, peer, link);
    assert(!k->up);
    *k = (struct kvfi_send_link){.up = true, .lane = lane, .epoch = epoch};
    s->routes[kvfi_send_route_index(s, peer, lane)].n_up++;
    s->dirty |= kvfi_send_bit(lane);
    kvfi_send_route_refresh(s, peer, lane, false);
    run(s);
}

/* A batch of a link that is gone. */
static void slot_unlink(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, slot);
    bool wanted = b->n_live > 0 && !b->delivered;

    if (b->state == KVFI_SEND_SLOT_OFFERED || b->state == KVFI_SEND_SLOT_GRANTED) {
        offer_close(s, lane, slot);
    } else if (b->state == KVFI_SEND_SLOT_LAUNCHED) {
        s->lanes[lane].n_launched--;
        s->n_launched--;
    }
    if (!wanted) {
        slot_drop(s, lane, slot);
        return;
    }
    b->state = KVFI_SEND_SLOT_PENDING;
    s->lanes[lane].pending |= kvfi_send_bit(slot);
}

void kvfi_send_link_down(struct kvfi_send_sched *s, uint32_t peer, uint32_t link, uint64_t now_ns)
{
    struct kvfi_send_link *k;

    assert(peer < s->config.max_peers && link < s->config.links_per_peer);
    tell_time(s, now_ns);
    k = kvfi_send_link_at(s, peer, link);
    assert(k->up);
    k->up = false;
    s->routes[kvfi_send_route_index(s, peer, k->lane)].n_up--;
    kvfi_send_route_refresh(s, peer, k->lane, false);
    for (uint32_t i = 0; i < s->config.slots_per_lane; i++) {
        const struct kvfi_send_slot *b = kvfi_send_slot_at(s, k->lane, i);

        if (b->state >= KVFI_SEND_SLOT_OFFERED && b->state <= KVFI_SEND_SLOT_SENT &&
            b->id.peer == peer && b->id.link == link)
            slot_unlink(s, k->lane, i);
    }
    s->dirty |= kvfi_send_bit(k->lane);
    run(s);
}

/* ---- pieces ------------------------------------------------------------------------------- */

void kvfi_send_piece_add(struct kvfi_send_sched *s, uint32_t piece, uint32_t peer,
                         uint32_t n_chunks, int32_t priority, uint64_t deadline_ns)
{
    assert(piece < s->config.max_pieces && peer < s->config.max_peers);
    assert(s->pieces[piece].state == KVFI_SEND_PIECE_FREE);
    s->pieces[piece] =
        (struct kvfi_send_piece){.state = KVFI_SEND_PIECE_ADDED,
                                 .priority = priority,
                                 .peer = peer,
                                 .n_chunks = n_chunks,
                                 .deadline_ns = deadline_ns ? deadline_ns : UINT64_MAX};
}

void kvfi_send_piece_ready(struct kvfi_send_sched *s, uint32_t piece, uint64_t now_ns)
{
    struct kvfi_send_piece *p = &s->pieces[piece];
    struct kvfi_heap_key key = {.deadline_ns = p->deadline_ns, .priority = p->priority};

    assert(piece < s->config.max_pieces && p->state == KVFI_SEND_PIECE_ADDED);
    tell_time(s, now_ns);
    p->state = KVFI_SEND_PIECE_READY;
    if (p->n_chunks == 0) {
        piece_settle(s, piece);
        return;
    }
    key.order = ++s->order;
    kvfi_heap_insert(s->piece_nodes, &s->ready[p->peer], piece, &key);
    if (s->ready[p->peer] == piece)
        kvfi_send_peer_refresh(s, p->peer, false);
    run(s);
}

/* The piece's run in this slot is filler from now on; without any other, the batch goes. */
static void slot_forget(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, slot);

    if (--b->n_live > 0)
        return;
    if (b->state == KVFI_SEND_SLOT_OFFERED || b->state == KVFI_SEND_SLOT_GRANTED) {
        emit_batch(s, b->state == KVFI_SEND_SLOT_OFFERED ? KVFI_SEND_WITHDRAW : KVFI_SEND_RELEASE,
                   lane, slot);
        offer_close(s, lane, slot);
        slot_drop(s, lane, slot);
    } else if (b->state == KVFI_SEND_SLOT_PENDING) {
        s->lanes[lane].pending &= ~kvfi_send_bit(slot);
        slot_drop(s, lane, slot);
    }
}

static bool slot_names(const struct kvfi_send_slot *b, uint32_t piece)
{
    for (uint32_t i = 0; i < b->n_runs; i++) {
        if (b->runs[i].piece == piece)
            return true;
    }
    return false;
}

void kvfi_send_piece_remove(struct kvfi_send_sched *s, uint32_t piece, uint64_t now_ns)
{
    struct kvfi_send_piece *p = &s->pieces[piece];
    uint32_t n_left;

    assert(piece < s->config.max_pieces);
    assert(p->state == KVFI_SEND_PIECE_ADDED || p->state == KVFI_SEND_PIECE_READY);
    tell_time(s, now_ns);
    if (kvfi_heap_has(s->piece_nodes, piece)) {
        kvfi_heap_remove(s->piece_nodes, &s->ready[p->peer], piece);
        kvfi_send_peer_refresh(s, p->peer, false);
    }
    p->state = KVFI_SEND_PIECE_REMOVED;
    n_left = p->n_slots;
    for (uint32_t i = 0; n_left > 0; i++) {
        uint32_t lane = i / s->config.slots_per_lane;

        assert(lane < s->config.n_lanes);
        if (s->slots[i].state == KVFI_SEND_SLOT_FREE || !slot_names(&s->slots[i], piece))
            continue;
        n_left--;
        slot_forget(s, lane, i % s->config.slots_per_lane);
    }
    if (p->state == KVFI_SEND_PIECE_REMOVED)
        piece_settle(s, piece);
    run(s);
}

/* ---- messages and reports ----------------------------------------------------------------- */

/* NULL: no such link, or not in this epoch. */
static struct kvfi_send_link *find_link(const struct kvfi_send_sched *s,
                                        const struct kvfi_batch_id *id)
{
    struct kvfi_send_link *k;

    if (id->peer >= s->config.max_peers || id->link >= s->config.links_per_peer)
        return NULL;
    k = kvfi_send_link_at(s, id->peer, id->link);
    return k->up && k->epoch == id->epoch ? k : NULL;
}

/* Slot of a batch that travels on an up link; KVFI_SEND_NONE. */
static uint32_t find_slot(const struct kvfi_send_sched *s, uint32_t lane,
                          const struct kvfi_batch_id *id)
{
    for (uint32_t i = 0; i < s->config.slots_per_lane; i++) {
        const struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, i);

        if (b->state >= KVFI_SEND_SLOT_OFFERED && b->state <= KVFI_SEND_SLOT_SENT &&
            b->id.seq == id->seq && b->id.link == id->link && b->id.peer == id->peer)
            return i;
    }
    return KVFI_SEND_NONE;
}

kvf_status_t kvfi_send_on_grant(struct kvfi_send_sched *s, const struct kvfi_batch_id *id,
                                uint64_t now_ns)
{
    struct kvfi_send_link *k = find_link(s, id);
    uint32_t slot;

    /* Differences, so that seq may wrap. */
    if (!k || id->seq - k->grant_seq >= k->next_seq - k->grant_seq)
        return KVF_EPROTO;
    tell_time(s, now_ns);
    k->grant_seq = id->seq + 1;
    slot = find_slot(s, k->lane, id);
    if (slot == KVFI_SEND_NONE) { /* withdrawn: the argument is in sched.h */
        s->emit(s->emit_ctx, &(struct kvfi_send_action){.kind = KVFI_SEND_RELEASE,
                                                        .batch = *id,
                                                        .lane = k->lane,
                                                        .slot = KVFI_SEND_NONE,
                                                        .piece = KVFI_SEND_NONE});
        return KVF_OK;
    }
    assert(kvfi_send_slot_at(s, k->lane, slot)->state == KVFI_SEND_SLOT_OFFERED);
    kvfi_send_slot_at(s, k->lane, slot)->state = KVFI_SEND_SLOT_GRANTED;
    kvfi_send_slot_at(s, k->lane, slot)->order = ++s->order;
    s->lanes[k->lane].granted |= kvfi_send_bit(slot);
    run(s);
    return KVF_OK;
}

/* Counts the chunks, and tells whoever still wants to know. */
static void count_delivered(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot)
{
    const struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, slot);

    for (uint32_t i = 0; i < b->n_runs; i++) {
        struct kvfi_send_piece *p = &s->pieces[b->runs[i].piece];

        if (p->state == KVFI_SEND_PIECE_REMOVED)
            continue;
        p->n_delivered += b->runs[i].n_chunks;
        s->emit(s->emit_ctx, &(struct kvfi_send_action){.kind = KVFI_SEND_PIECE_SENT,
                                                        .batch = b->id,
                                                        .lane = lane,
                                                        .slot = slot,
                                                        .bytes = b->bytes,
                                                        .piece = b->runs[i].piece,
                                                        .runs = &b->runs[i],
                                                        .n_runs = 1,
                                                        .priority = p->priority});
    }
}

kvf_status_t kvfi_send_on_delivered(struct kvfi_send_sched *s, const struct kvfi_batch_id *id,
                                    uint64_t now_ns)
{
    struct kvfi_send_link *k = find_link(s, id);
    uint32_t slot = k ? find_slot(s, k->lane, id) : KVFI_SEND_NONE;
    struct kvfi_send_slot *b;

    if (slot == KVFI_SEND_NONE)
        return KVF_EPROTO;
    b = kvfi_send_slot_at(s, k->lane, slot);
    if (b->state < KVFI_SEND_SLOT_LAUNCHED || b->delivered)
        return KVF_EPROTO;
    tell_time(s, now_ns);
    k->n_sent--;
    count_delivered(s, k->lane, slot);
    if (b->state == KVFI_SEND_SLOT_SENT)
        slot_free(s, k->lane, slot);
    else
        b->delivered = true;
    run(s);
    return KVF_OK;
}

void kvfi_send_on_packed(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot, uint64_t now_ns)
{
    struct kvfi_send_slot *b;

    assert(lane < s->config.n_lanes && slot < s->config.slots_per_lane);
    tell_time(s, now_ns);
    b = kvfi_send_slot_at(s, lane, slot);
    assert(b->packing);
    b->packing = false;
    if (b->state == KVFI_SEND_SLOT_VOID)
        slot_free(s, lane, slot);
    run(s);
}

void kvfi_send_on_sent(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot, uint64_t now_ns)
{
    struct kvfi_send_slot *b;

    assert(lane < s->config.n_lanes && slot < s->config.slots_per_lane);
    tell_time(s, now_ns);
    b = kvfi_send_slot_at(s, lane, slot);
    assert(b->state == KVFI_SEND_SLOT_LAUNCHED && s->lanes[lane].n_launched > 0);
    b->packing = false;
    s->lanes[lane].n_launched--;
    s->n_launched--;
    if (b->delivered)
        slot_free(s, lane, slot);
    else
        b->state = KVFI_SEND_SLOT_SENT;
    run(s);
}

void kvfi_send_tick(struct kvfi_send_sched *s, uint64_t now_ns)
{
    tell_time(s, now_ns);
    run(s);
}

void kvfi_send_hold(struct kvfi_send_sched *s, bool hold, uint64_t now_ns)
{
    tell_time(s, now_ns);
    s->held = hold;
    run(s);
}

uint32_t kvfi_send_n_launched(const struct kvfi_send_sched *s)
{
    return s->n_launched;
}
