/* SPDX-License-Identifier: Apache-2.0 */
/* The sending scheduler's tables; private to collectives/sched_send*.c. */
#ifndef KVFERRY_COLLECTIVES_SCHED_SEND_STATE_H
#define KVFERRY_COLLECTIVES_SCHED_SEND_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "collectives/sched.h"
#include "collectives/sched_heap.h"

#define KVFI_SEND_NONE UINT32_MAX

enum kvfi_send_slot_state {
    KVFI_SEND_SLOT_FREE = 0,
    KVFI_SEND_SLOT_OFFERED,
    KVFI_SEND_SLOT_GRANTED,
    KVFI_SEND_SLOT_LAUNCHED,
    KVFI_SEND_SLOT_SENT,
    KVFI_SEND_SLOT_PENDING, /* its link went down: packed, waits for another of the same route */
    KVFI_SEND_SLOT_VOID,    /* nobody wants it any more, but its pack still runs */
};

struct kvfi_send_slot {
    enum kvfi_send_slot_state state;
    bool packing;   /* PACK was emitted, on_packed is owed */
    bool delivered; /* while LAUNCHED: the peer was faster than our lane's report */
    int32_t priority;
    uint32_t bytes;
    uint32_t n_runs;
    uint32_t n_live; /* runs of pieces that were not removed */
    struct kvfi_batch_id id;
    uint64_t order; /* of its filling; from its grant on, of that */
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];
};

struct kvfi_send_lane {
    uint64_t free; /* bit per slot */
    uint64_t granted;
    uint64_t pending;
    uint32_t n_offers; /* OFFERED or GRANTED */
    uint32_t n_launched;
    uint32_t heap;  /* of eligible routes */
    uint32_t first; /* queue of the same routes */
    uint32_t last;
};

struct kvfi_send_route {
    bool open;     /* the lane has an offer to the peer that is not launched yet */
    uint8_t n_up;  /* links */
    uint32_t prev; /* in the lane's queue */
    uint32_t next;
    uint64_t since_ns; /* when it joined the queue */
};

struct kvfi_send_link {
    bool up;
    uint32_t lane;
    uint32_t epoch;
    uint32_t next_seq;  /* of the next OFFER */
    uint32_t grant_seq; /* lowest seq whose GRANT may still come */
    uint32_t n_sent;    /* launched and not delivered */
    uint64_t used;      /* order of its last offer */
};

enum kvfi_send_piece_state {
    KVFI_SEND_PIECE_FREE = 0,
    KVFI_SEND_PIECE_ADDED,
    KVFI_SEND_PIECE_READY,
    KVFI_SEND_PIECE_REMOVED
};

struct kvfi_send_piece {
    uint8_t state; /* enum kvfi_send_piece_state */
    int32_t priority;
    uint32_t peer;
    uint32_t n_chunks;
    uint32_t next_chunk; /* first one that is in no slot yet */
    uint32_t n_delivered;
    uint32_t n_slots; /* that name it */
    uint64_t deadline_ns;
};

struct kvfi_send_sched {
    struct kvfi_send_sched_config config;
    kvfi_send_emit_fn emit;
    void *emit_ctx;
    uint64_t now_ns;
    uint64_t order; /* counts everything that waits in turn */
    uint64_t dirty; /* lanes that may have room for an offer */
    uint32_t n_launched;
    bool held;
    struct kvfi_send_lane *lanes;       /* [n_lanes] */
    struct kvfi_send_slot *slots;       /* [n_lanes][slots_per_lane] */
    struct kvfi_send_route *routes;     /* [max_peers][n_lanes] */
    struct kvfi_heap_node *route_nodes; /* the same */
    struct kvfi_send_link *links;       /* [max_peers][links_per_peer] */
    uint32_t *ready;                    /* [max_peers] heap of pieces with unoffered chunks */
    struct kvfi_send_piece *pieces;     /* [max_pieces] */
    struct kvfi_heap_node *piece_nodes; /* the same */
};

/* ---- places in the tables ----------------------------------------------------------------- */

static inline uint64_t kvfi_send_bit(uint32_t i)
{
    return (uint64_t)1 << i;
}

/* Index of the lowest bit; mask != 0. */
static inline uint32_t kvfi_send_lowest(uint64_t mask)
{
    return (uint32_t)__builtin_ctzll(mask);
}

static inline uint32_t kvfi_send_route_index(const struct kvfi_send_sched *s, uint32_t peer,
                                             uint32_t lane)
{
    return peer * s->config.n_lanes + lane;
}

static inline struct kvfi_send_slot *kvfi_send_slot_at(const struct kvfi_send_sched *s,
                                                       uint32_t lane, uint32_t slot)
{
    return &s->slots[lane * s->config.slots_per_lane + slot];
}

static inline struct kvfi_send_link *kvfi_send_link_at(const struct kvfi_send_sched *s,
                                                       uint32_t peer, uint32_t link)
{
    return &s->links[(size_t)peer * s->config.links_per_peer + link];
}

/* ---- who is next (sched_send_turn.c) ------------------------------------------------------ */

/*
 * Bring a route's place in its lane's heap and queue up to date. `served`: the peer was just given
 * a batch, on this lane or another, and waits anew.
 */
void kvfi_send_route_refresh(struct kvfi_send_sched *s, uint32_t peer, uint32_t lane, bool served);
/* All routes of a peer, after its ready pieces changed. */
void kvfi_send_peer_refresh(struct kvfi_send_sched *s, uint32_t peer, bool served);
/* The peer a lane serves next, or KVFI_SEND_NONE. */
uint32_t kvfi_send_next_peer(const struct kvfi_send_sched *s, const struct kvfi_send_lane *lane);
/* The link of a route with the fewest batches under way, then the one not used for longest. */
uint32_t kvfi_send_next_link(const struct kvfi_send_sched *s, uint32_t peer, uint32_t lane);
/* Slot of the longest waiting batch of the lane that lost its link and can be offered now. */
uint32_t kvfi_send_next_pending(const struct kvfi_send_sched *s, uint32_t lane);

#endif
