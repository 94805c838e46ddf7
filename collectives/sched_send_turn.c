/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose turn it is. Who may be offered on a lane is a *route*, a (peer, lane) pair: it is eligible
 * if the peer has chunks nobody has offered, a link of the pair is up, and the lane has no open
 * offer to the peer. Eligible routes stand in the lane's heap (priority, deadline, longest waiting)
 * and in its queue (longest waiting only). Whoever is served, on any lane, goes to the end of all
 * its queues, so a route that has waited starve_ns is passed only by those that waited longer.
 */
#include "collectives/sched_send_state.h"

static void queue_remove(struct kvfi_send_sched *s, struct kvfi_send_lane *lane, uint32_t route)
{
    struct kvfi_send_route *r = &s->routes[route];

    if (r->prev != KVFI_SEND_NONE)
        s->routes[r->prev].next = r->next;
    else
        lane->first = r->next;
    if (r->next != KVFI_SEND_NONE)
        s->routes[r->next].prev = r->prev;
    else
        lane->last = r->prev;
}

static void queue_append(struct kvfi_send_sched *s, struct kvfi_send_lane *lane, uint32_t route)
{
    struct kvfi_send_route *r = &s->routes[route];

    r->prev = lane->last;
    r->next = KVFI_SEND_NONE;
    r->since_ns = s->now_ns;
    if (lane->last != KVFI_SEND_NONE)
        s->routes[lane->last].next = route;
    else
        lane->first = route;
    lane->last = route;
}

void kvfi_send_route_refresh(struct kvfi_send_sched *s, uint32_t peer, uint32_t lane, bool served)
{
    uint32_t i = kvfi_send_route_index(s, peer, lane);
    struct kvfi_send_lane *l = &s->lanes[lane];
    const struct kvfi_heap_node *node = &s->route_nodes[i];
    const struct kvfi_heap_node *top;
    bool eligible = s->ready[peer] != KVFI_HEAP_NIL && s->routes[i].n_up > 0 && !s->routes[i].open;
    bool queued = kvfi_heap_has(s->route_nodes, i);
    struct kvfi_heap_key key;

    if (queued && (!eligible || served)) {
        kvfi_heap_remove(s->route_nodes, &l->heap, i);
        queue_remove(s, l, i);
        queued = false;
    }
    if (!eligible)
        return;
    top = &s->piece_nodes[s->ready[peer]];
    key = (struct kvfi_heap_key){.priority = top->priority, .deadline_ns = top->deadline_ns};
    if (!queued) {
        key.order = ++s->order;
        queue_append(s, l, i);
        kvfi_heap_insert(s->route_nodes, &l->heap, i, &key);
    } else if (key.priority != node->priority || key.deadline_ns != node->deadline_ns) {
        key.order = node->order;
        kvfi_heap_remove(s->route_nodes, &l->heap, i);
        kvfi_heap_insert(s->route_nodes, &l->heap, i, &key);
    }
    s->dirty |= kvfi_send_bit(lane);
}

void kvfi_send_peer_refresh(struct kvfi_send_sched *s, uint32_t peer, bool served)
{
    uint64_t seen = 0;

    for (uint32_t i = 0; i < s->config.links_per_peer; i++) {
        const struct kvfi_send_link *k = kvfi_send_link_at(s, peer, i);

        if (!k->up || (seen & kvfi_send_bit(k->lane)))
            continue;
        seen |= kvfi_send_bit(k->lane);
        kvfi_send_route_refresh(s, peer, k->lane, served);
    }
}

uint32_t kvfi_send_next_peer(const struct kvfi_send_sched *s, const struct kvfi_send_lane *lane)
{
    uint32_t route = lane->first;

    if (route == KVFI_SEND_NONE)
        return KVFI_SEND_NONE;
    if (s->now_ns - s->routes[route].since_ns < s->config.starve_ns)
        route = lane->heap;
    return route / s->config.n_lanes;
}

uint32_t kvfi_send_next_link(const struct kvfi_send_sched *s, uint32_t peer, uint32_t lane)
{
    const struct kvfi_send_link *best = NULL;
    uint32_t ret = KVFI_SEND_NONE;

    for (uint32_t i = 0; i < s->config.links_per_peer; i++) {
        const struct kvfi_send_link *k = kvfi_send_link_at(s, peer, i);

        if (!k->up || k->lane != lane)
            continue;
        if (!best || k->n_sent < best->n_sent ||
            (k->n_sent == best->n_sent && k->used < best->used)) {
            best = k;
            ret = i;
        }
    }
    return ret;
}

uint32_t kvfi_send_next_pending(const struct kvfi_send_sched *s, uint32_t lane)
{
    uint32_t best = KVFI_SEND_NONE;

    for (uint64_t m = s->lanes[lane].pending; m; m &= m - 1) {
        uint32_t i = kvfi_send_lowest(m);
        const struct kvfi_send_slot *b = kvfi_send_slot_at(s, lane, i);
        const struct kvfi_send_route *r = &s->routes[kvfi_send_route_index(s, b->id.peer, lane)];

        if (r->n_up > 0 && !r->open &&
            (best == KVFI_SEND_NONE || b->order < kvfi_send_slot_at(s, lane, best)->order))
            best = i;
    }
    return best;
}
