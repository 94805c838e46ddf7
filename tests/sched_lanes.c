/* SPDX-License-Identifier: Apache-2.0 */
/* Lanes with their slots, and the wires between them. */
#include "sched_pair.h"

#include <string.h>

/* The lane reads the pieces of the oldest PACK: they must be those the scheduler meant. */
void net_lane_pack(struct net *net, uint32_t sender, uint32_t lane)
{
    struct net_sender *s = &net->senders[sender];
    struct net_send_lane *l = &s->lanes[lane];
    uint32_t slot = l->packs[0];
    struct net_send_slot *b = &l->slots[slot];

    memmove(l->packs, l->packs + 1, --l->n_packs * sizeof(l->packs[0]));
    b->memory = b->cargo;
    for (uint32_t i = 0; i < b->cargo.n_runs; i++) {
        const struct net_piece *p = &s->pieces[b->pieces[i]];

        NET_REQUIRE(net, p->state != NET_P_FREE && p->work == b->cargo.runs[i].piece);
    }
    net_note(net, "s%u packed %u.%u", sender, lane, slot);
    b->packing = false;
    watch_send_slot(b);
    kvfi_send_on_packed(s->sched, lane, slot, net->now_ns);
    watch_send_busy(s);
}

struct net_wire *net_wire_of(struct net *net, uint32_t sender, uint32_t receiver, uint32_t link)
{
    return &net->wires[sender][receiver][link];
}

void net_lane_launch(struct net *net, uint32_t sender, uint32_t lane)
{
    struct net_send_lane *l = &net->senders[sender].lanes[lane];
    struct net_send_slot *b = &l->slots[l->op_slot];
    struct net_wire *w = net_wire_of(net, sender, b->cargo.id.peer, b->cargo.id.link);

    l->op = NET_OP_WIRE;
    NET_REQUIRE(net, w->epoch == b->cargo.id.epoch && w->tail - w->head < NET_SLOTS);
    w->queue[w->tail % NET_SLOTS] = b->memory;
    w->queue[w->tail++ % NET_SLOTS].id = b->cargo.id;
    w->taken = false;
    net_note(net, "s%u launched %u.%u", sender, lane, l->op_slot);
}

void net_lane_sent(struct net *net, uint32_t sender, uint32_t lane)
{
    struct net_sender *s = &net->senders[sender];
    struct net_send_lane *l = &s->lanes[lane];
    uint32_t slot = l->op_slot;

    l->op = NET_OP_NONE;
    l->slots[slot].sent = true;
    net_note(net, "s%u sent %u.%u", sender, lane, slot);
    watch_send_slot(&l->slots[slot]);
    kvfi_send_on_sent(s->sched, lane, slot, net->now_ns);
    watch_send_busy(s);
}

/* By order alone, as NCCL and MPI match: that it is the right one is what is checked. */
void net_lane_take(struct net *net, uint32_t receiver, uint32_t lane)
{
    struct net_recv_lane *l = &net->receivers[receiver].lanes[lane];
    struct net_recv_slot *b = &l->slots[l->op_slot];
    struct net_wire *w = net_wire_of(net, b->cargo.id.peer, receiver, b->cargo.id.link);
    const struct net_cargo *c = &w->queue[w->head % NET_SLOTS];

    net_note(net, "r%u took %u.%u from s%u link %u seq %u", receiver, lane, l->op_slot,
             b->cargo.id.peer, b->cargo.id.link, c->id.seq);
    NET_REQUIRE(net, c->id.seq == b->cargo.id.seq && c->bytes == b->cargo.bytes);
    b->memory = *c;
    w->head++;
    w->taken = w->head == w->tail;
    l->op = NET_OP_WIRE;
}

void net_lane_received(struct net *net, uint32_t receiver, uint32_t lane)
{
    struct net_receiver *r = &net->receivers[receiver];
    struct net_recv_lane *l = &r->lanes[lane];
    uint32_t slot = l->op_slot;

    l->op = NET_OP_NONE;
    l->slots[slot].state = NET_R_UNPACKING;
    net_note(net, "r%u received %u.%u", receiver, lane, slot);
    kvfi_recv_on_received(r->sched, lane, slot);
    watch_recv_busy(r);
}

/* Chunks go where they are wanted, once. */
void net_slot_unpack(struct net *net, struct net_recv_slot *b)
{
    NET_REQUIRE(net, b->memory.n_runs == b->cargo.n_runs);
    for (uint32_t i = 0; i < b->cargo.n_runs; i++) {
        const struct kvfi_run *want = &b->cargo.runs[i];
        const struct kvfi_run *have = &b->memory.runs[i];
        struct net_work *w = &net->works[have->piece];

        NET_REQUIRE(net, want->piece == UINT32_MAX || want->piece == have->piece);
        NET_REQUIRE(net, want->first_chunk == have->first_chunk &&
                             want->n_chunks == have->n_chunks && want->bytes == have->bytes &&
                             want->offset == have->offset);
        for (uint32_t c = have->first_chunk; c < have->first_chunk + have->n_chunks; c++) {
            if (w->n_got[c])
                net->counts.again++;
            else if (!w->ended)
                w->n_got[c]++;
        }
    }
}

void net_lane_unpacked(struct net *net, uint32_t receiver, uint32_t lane, uint32_t slot)
{
    struct net_receiver *r = &net->receivers[receiver];
    struct net_recv_slot *b = &r->lanes[lane].slots[slot];

    net_note(net, "r%u unpacked %u.%u", receiver, lane, slot);
    net_slot_unpack(net, b);
    r->unpacked = b->orphan ? NET_NONE : (int32_t)slot;
    b->state = NET_R_FREE;
    kvfi_recv_on_unpacked(r->sched, lane, slot);
    NET_REQUIRE(net, r->unpacked == NET_NONE);
    watch_recv_busy(r);
}
