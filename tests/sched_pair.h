/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual network of schedulers: some senders, some receivers, every pair of them with links.
 *
 * What the scheduler has around it in an engine is played here by the rules, as unkindly as they
 * allow. Messages of a session stay in order but come as late as they like; sessions know nothing
 * of each other. A launched send and a posted receive meet by their order on the link and by
 * nothing else, and neither ends before they met (rendezvous), or, where the run says so, the send
 * may end early. Lanes pack in order and take their time. Links fail at either end, pieces are
 * removed by the sender and ended by the receiver at any moment, and strangers send nonsense.
 *
 * Next event: any that is possible, drawn by seed. After each, sched_watch.c compares what the
 * schedulers did with the rules.
 */
#ifndef KVFERRY_TESTS_SCHED_PAIR_H
#define KVFERRY_TESTS_SCHED_PAIR_H

#include "collectives/sched.h"

enum {
    NET_ENDS = 4, /* senders, receivers */
    NET_LANES = 3,
    NET_LINKS = 4, /* of a pair */
    NET_SLOTS = 4,
    NET_PIECES = 20,  /* of a sender at a time */
    NET_CHUNKS = 8,   /* of a piece */
    NET_WORKS = 2000, /* pieces of a whole run */
    NET_NAMED = 64,   /* more than links and slots of a receiver can hold */
    NET_QUEUE = 512,  /* messages under way on a session, one direction */
    NET_TRACE = 400,
    NET_SLOT_BYTES = 100,
    NET_NONE = -1,
};

struct net_config {
    uint32_t n_senders;
    uint32_t n_receivers;
    uint32_t n_send_lanes;
    uint32_t n_recv_lanes;
    uint32_t n_links;
    uint32_t n_send_slots;
    uint32_t n_recv_slots;
    uint32_t max_offers;
    uint32_t send_groups;
    uint32_t recv_groups;
    bool eager;       /* sends may end before they met their receive */
    uint32_t n_steps; /* of the unquiet part; after it everything has to come to rest */
    uint32_t n_works; /* pieces in the whole run */
    uint32_t outside; /* of 1000 steps, those with an event from outside */
    uint32_t faults;  /* of 100 events from outside, removals, ends, failures, holds, nonsense */
};

/* A piece as the whole network knows it; `work` is its number everywhere but at its sender. */
struct net_work {
    uint32_t sender;
    uint32_t receiver;
    uint32_t n_chunks;
    int32_t priority;
    bool removed; /* by the sender */
    bool ended;   /* by the receiver */
    bool idle;
    uint8_t n_sent[NET_CHUNKS]; /* times the sender was told of its delivery */
    uint8_t n_got[NET_CHUNKS];  /* times it was unpacked as wanted: once */
};

/* What lies in a slot or on the wire. */
struct net_cargo {
    struct kvfi_batch_id id; /* peer: meaningless */
    uint32_t bytes;
    uint32_t n_runs;
    struct kvfi_run
        runs[KVFI_BATCH_RUNS_MAX]; /* piece = work; UINT32_MAX at the receiver: filler */
};

enum net_message_kind {
    NET_OFFER,
    NET_WITHDRAW,
    NET_RELEASE,
    NET_GO,
    NET_LINK_OPEN,
    NET_LINK_FAILED, /* both ways */
    NET_GRANT,
    NET_DELIVERED,
    NET_LINK_READY,
};

struct net_message {
    enum net_message_kind kind;
    int32_t priority;
    struct net_cargo cargo; /* only OFFER has more than the id */
};

struct net_session {
    struct net_message *queue; /* [NET_QUEUE] */
    uint32_t head;
    uint32_t tail;
};

/* As the rules say a sender's slot is; see sched_watch.c. */
enum net_send_state {
    NET_S_FREE,
    NET_S_PACKED, /* PACK was said, OFFER not yet */
    NET_S_OFFERED,
    NET_S_GRANTED,
    NET_S_LAUNCHED,
    NET_S_PENDING,
    NET_S_VOID,
};

struct net_send_slot {
    enum net_send_state state;
    bool packing;
    bool sent;
    bool delivered;
    uint64_t grant_order;
    struct net_cargo cargo;  /* as offered; id.peer is the receiver */
    struct net_cargo memory; /* what the lane packed */
    uint32_t pieces[KVFI_BATCH_RUNS_MAX];
};

enum net_op { NET_OP_NONE, NET_OP_WAITS, NET_OP_WIRE };

struct net_send_lane {
    struct net_send_slot slots[NET_SLOTS];
    uint32_t packs[2 * NET_SLOTS]; /* slots, in order */
    uint32_t n_packs;
    enum net_op op;
    uint32_t op_slot;
};

enum net_piece_state { NET_P_FREE, NET_P_ADDED, NET_P_READY, NET_P_REMOVED };

struct net_piece {
    enum net_piece_state state;
    uint32_t work;
    uint32_t next_chunk; /* not yet in a slot */
    uint64_t deadline_ns;
    uint64_t ready_order;
};

enum net_link_state { NET_L_DOWN, NET_L_OPENING, NET_L_UP };

struct net_link {
    enum net_link_state state;
    uint32_t epoch;
    uint32_t next_seq;
    bool open; /* offered or granted */
};

struct net_sender {
    struct net *net;
    uint32_t index;
    struct kvfi_send_sched *sched;
    struct net_send_lane lanes[NET_LANES];
    struct net_link links[NET_ENDS][NET_LINKS];
    struct net_piece pieces[NET_PIECES];
    bool held;
    bool go_due;              /* LAUNCH was said, GO must follow */
    bool release_due;         /* a withdrawn offer was granted */
    struct kvfi_batch_id due; /* of either */
    size_t n_bytes;
    void *before;
};

enum net_recv_state {
    NET_R_FREE,
    NET_R_GRANTED,
    NET_R_WITHDRAWN,
    NET_R_GO,
    NET_R_POSTED,
    NET_R_UNPACKING
};

struct net_recv_slot {
    enum net_recv_state state;
    bool orphan;
    uint64_t go_order;
    struct net_cargo cargo;  /* as offered; id.peer is the sender */
    struct net_cargo memory; /* what came over the wire */
};

struct net_recv_lane {
    struct net_recv_slot slots[NET_SLOTS];
    enum net_op op;
    uint32_t op_slot;
};

struct net_recv_link {
    bool up;
    uint32_t epoch;
    bool waits; /* its offer */
    struct net_cargo offer;
};

struct net_receiver {
    struct net *net;
    uint32_t index;
    struct kvfi_recv_sched *sched;
    struct net_recv_lane lanes[NET_LANES];
    struct net_recv_link links[NET_ENDS][NET_LINKS];
    int32_t unpacked;                      /* slot DELIVERED may be said for now */
    struct kvfi_batch_id named[NET_NAMED]; /* offers taken and not over yet */
    uint32_t n_named;
    size_t n_bytes;
    void *before;
};

/* What was launched on a link and not yet taken by a receive. */
struct net_wire {
    uint32_t epoch;
    uint32_t head;
    uint32_t tail;
    struct net_cargo queue[NET_SLOTS];
    bool taken; /* the last one that was launched: its send may end */
};

/* What happened in a run. */
struct net_counts {
    uint64_t steps;
    uint64_t works;
    uint64_t offers;
    uint64_t resent; /* offers made again */
    uint64_t delivered;
    uint64_t crossed;  /* grants of withdrawn offers */
    uint64_t failures; /* of links */
    uint64_t again;    /* chunks that came a second time */
};

struct net {
    struct net_config config;
    uint64_t seed;
    uint64_t rnd;
    uint64_t now_ns;
    uint64_t order;
    uint32_t step;
    bool quiet;
    uint32_t n_works;
    struct net_counts counts;
    struct net_sender senders[NET_ENDS];
    struct net_receiver receivers[NET_ENDS];
    struct net_session forth[NET_ENDS][NET_ENDS]; /* [sender][receiver] */
    struct net_session back[NET_ENDS][NET_ENDS];
    struct net_wire wires[NET_ENDS][NET_ENDS][NET_LINKS];
    struct net_work works[NET_WORKS];
    char trace[NET_TRACE][160];
    uint32_t n_trace;
};

/* A configuration drawn by seed. */
struct net_config net_config_draw(uint64_t seed);
struct net *net_create(const struct net_config *config, uint64_t seed);
/* One event; false if none is possible. */
bool net_step(struct net *net);
/* The unquiet part, then to rest, then the final account. */
void net_run(struct net *net);
void net_destroy(struct net *net);
void net_counts_add(struct net_counts *to, const struct net_counts *from);

uint32_t net_rnd(struct net *net, uint32_t n);
/* Bytes of a chunk, from the work's number. */
uint32_t net_chunk_bytes(uint32_t work, uint32_t chunk);
uint32_t net_send_lane_of(const struct net *net, uint32_t sender, uint32_t receiver, uint32_t link);
uint32_t net_recv_lane_of(const struct net *net, uint32_t sender, uint32_t receiver, uint32_t link);
void net_post_message(struct net *net, struct net_session *session,
                      const struct net_message *message);

void net_post_link(struct net *net, struct net_session *session, enum net_message_kind kind,
                   uint32_t link, uint32_t epoch);
/* A message is refused, and the scheduler is the same bit for bit. */
void net_receiver_refuses(struct net_receiver *r, uint32_t sender, const struct net_message *m);
void net_sender_refuses(struct net_sender *s, uint32_t receiver, const struct net_message *m);
void net_recv_link_down(struct net_receiver *r, uint32_t sender, uint32_t link);
void net_send_link_down(struct net_sender *s, uint32_t receiver, uint32_t link);

/* Notes for whoever reads a failure; the last NET_TRACE are printed. */
void net_note(struct net *net, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the test with seed, step and notes unless ok. */
#define NET_REQUIRE(net, ok) ((ok) ? (void)0 : net_fail((net), #ok, __FILE__, __LINE__))
_Noreturn void net_fail(struct net *net, const char *what, const char *file, int line);

/* ---- sched_lanes.c ------------------------------------------------------------------------ */

struct net_wire *net_wire_of(struct net *net, uint32_t sender, uint32_t receiver, uint32_t link);
void net_lane_pack(struct net *net, uint32_t sender, uint32_t lane);
void net_lane_launch(struct net *net, uint32_t sender, uint32_t lane);
void net_lane_sent(struct net *net, uint32_t sender, uint32_t lane);
void net_lane_take(struct net *net, uint32_t receiver, uint32_t lane);
void net_lane_received(struct net *net, uint32_t receiver, uint32_t lane);
void net_lane_unpacked(struct net *net, uint32_t receiver, uint32_t lane, uint32_t slot);
/* Chunks go where they are wanted, once. */
void net_slot_unpack(struct net *net, struct net_recv_slot *b);

/* ---- sched_outside.c ---------------------------------------------------------------------- */

void net_outside(struct net *net);
void net_make_ready(struct net *net, uint32_t sender, uint32_t piece);

/* ---- sched_watch.c: the rules ------------------------------------------------------------- */

void watch_send(void *ctx, const struct kvfi_send_action *action);
void watch_recv(void *ctx, const struct kvfi_recv_action *action);
/* A sender's link is about to go down: what becomes of its slots. */
void watch_send_down(struct net_sender *s, uint32_t receiver, uint32_t link);
/* A piece is about to be removed: what waited for a link with nothing else in it is dropped. */
void watch_send_removed(struct net_sender *s);
void watch_recv_down(struct net_receiver *r, uint32_t sender, uint32_t link);
/* Free the slot if nothing keeps it. */
void watch_send_slot(struct net_send_slot *b);
/* Nothing that may be done is left undone. */
void watch_send_busy(struct net_sender *s);
void watch_recv_busy(struct net_receiver *r);
/* Everything came to rest: every chunk is where it should be, every slot is free. */
void watch_rest(struct net *net);

#endif
