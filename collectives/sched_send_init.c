/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>

#include "collectives/carve.h"
#include "collectives/sched_send_state.h"

#define PEERS_MAX (1u << 20)
#define PIECES_MAX (1u << 26)

struct layout {
    size_t lanes, slots, routes, route_nodes, links, ready, pieces, piece_nodes;
    size_t n_bytes;
};

static bool config_ok(const struct kvfi_send_sched_config *c)
{
    return c->n_lanes >= 1 && c->n_lanes <= KVFI_SCHED_LANES_MAX && c->slots_per_lane >= 1 &&
           c->slots_per_lane <= KVFI_SCHED_SLOTS_MAX && c->slot_bytes >= 1 && c->max_peers >= 1 &&
           c->max_peers <= PEERS_MAX && c->max_pieces >= 1 && c->max_pieces <= PIECES_MAX &&
           c->links_per_peer >= 1 && c->links_per_peer <= KVFI_LINKS_MAX && c->max_offers >= 1 &&
           c->chunk_bytes;
}

static bool layout_make(const struct kvfi_send_sched_config *c, struct layout *ret)
{
    size_t n_routes = (size_t)c->max_peers * c->n_lanes;
    size_t offset;

    ret->n_bytes = 0;
    return kvfi_carve(&ret->n_bytes, 1, sizeof(struct kvfi_send_sched), &offset) &&
           kvfi_carve(&ret->n_bytes, c->n_lanes, sizeof(struct kvfi_send_lane), &ret->lanes) &&
           kvfi_carve(&ret->n_bytes, (size_t)c->n_lanes * c->slots_per_lane,
                      sizeof(struct kvfi_send_slot), &ret->slots) &&
           kvfi_carve(&ret->n_bytes, n_routes, sizeof(struct kvfi_send_route), &ret->routes) &&
           kvfi_carve(&ret->n_bytes, n_routes, sizeof(struct kvfi_heap_node), &ret->route_nodes) &&
           kvfi_carve(&ret->n_bytes, (size_t)c->max_peers * c->links_per_peer,
                      sizeof(struct kvfi_send_link), &ret->links) &&
           kvfi_carve(&ret->n_bytes, c->max_peers, sizeof(uint32_t), &ret->ready) &&
           kvfi_carve(&ret->n_bytes, c->max_pieces, sizeof(struct kvfi_send_piece), &ret->pieces) &&
           kvfi_carve(&ret->n_bytes, c->max_pieces, sizeof(struct kvfi_heap_node),
                      &ret->piece_nodes);
}

size_t kvfi_send_sched_bytes(const struct kvfi_send_sched_config *config)
{
    struct layout layout;

    return config_ok(config) && layout_make(config, &layout) ? layout.n_bytes : 0;
}

struct kvfi_send_sched *kvfi_send_sched_init(void *memory,
                                             const struct kvfi_send_sched_config *config,
                                             kvfi_send_emit_fn emit, void *emit_ctx)
{
    struct kvfi_send_sched *s = memory;
    uint8_t *base = memory;
    struct layout at;
    bool fits = config_ok(config) && layout_make(config, &at);

    assert(fits && emit);
    if (!fits)
        return NULL;
    s->config = *config;
    s->emit = emit;
    s->emit_ctx = emit_ctx;
    s->lanes = (void *)(base + at.lanes);
    s->slots = (void *)(base + at.slots);
    s->routes = (void *)(base + at.routes);
    s->route_nodes = (void *)(base + at.route_nodes);
    s->links = (void *)(base + at.links);
    s->ready = (void *)(base + at.ready);
    s->pieces = (void *)(base + at.pieces);
    s->piece_nodes = (void *)(base + at.piece_nodes);
    for (uint32_t i = 0; i < config->n_lanes; i++) {
        s->lanes[i].free = UINT64_MAX >> (64 - config->slots_per_lane);
        s->lanes[i].heap = KVFI_HEAP_NIL;
        s->lanes[i].first = KVFI_SEND_NONE;
        s->lanes[i].last = KVFI_SEND_NONE;
    }
    for (uint32_t i = 0; i < config->max_peers; i++)
        s->ready[i] = KVFI_HEAP_NIL;
    return s;
}
