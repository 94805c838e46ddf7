/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler: which chunks travel next, on which lane, over which link (design §4, R1-R4).
 *
 * Two pure objects, one for each end of a link. Pure: no thread, clock, socket or allocation of
 * their own; the caller hands in memory and the time, feeds events, and gets actions through one
 * callback, called synchronously from inside the event. An action's pointers are valid during the
 * callback only. The callback must not call back into the scheduler.
 *
 * Numbers (peer, link, lane, slot, piece) are the caller's table indices. Every event naming an
 * unknown, stale or out-of-order (link, epoch, seq) is refused with KVF_EPROTO and changes nothing,
 * so a hostile peer cannot move the state; internal misuse is an assert.
 *
 * Batch life, at the sender:   offered -> granted -> launched -> sent (wire done) -> delivered
 *             at the receiver: offered -> granted (slot reserved) -> go -> posted -> unpacked
 */
#ifndef KVFERRY_COLLECTIVES_SCHED_H
#define KVFERRY_COLLECTIVES_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/run.h"
#include "kvferry/kvferry.h"

#define KVFI_LINKS_MAX 16u /* links of a pair */

/* Names a batch on the wire. seq counts the batches offered on a (link, epoch) from 0. */
struct kvfi_batch_id {
    uint32_t peer;
    uint32_t link;
    uint32_t epoch;
    uint32_t seq;
};

/* ---- sender ------------------------------------------------------------------------------- */

/* Bytes of one chunk of a piece, > 0 and <= slot_bytes. Pure; called while filling a batch. */
typedef uint32_t (*kvfi_chunk_bytes_fn)(void *ctx, uint32_t piece, uint32_t chunk);

struct kvfi_send_sched_config {
    uint32_t n_lanes;
    uint32_t slots_per_lane;
    uint32_t slot_bytes;
    uint32_t max_peers;
    uint32_t max_pieces;
    uint32_t links_per_peer;
    uint32_t max_offers; /* open offers of a lane, each to a different peer; design R1: 2 */
    uint32_t max_groups; /* launched batches of all lanes together; design R4 */
    uint64_t starve_ns;  /* a peer that waited this long goes before any priority */
    kvfi_chunk_bytes_fn chunk_bytes;
    void *chunk_ctx;
};

enum kvfi_send_action_kind {
    KVFI_SEND_PACK = 1,       /* lane: copy runs into the slot */
    KVFI_SEND_OFFER = 2,      /* message to the peer: runs, bytes */
    KVFI_SEND_LAUNCH = 3,     /* lane: send the slot over the link, after its pack */
    KVFI_SEND_GO = 4,         /* message to the peer; emitted right after LAUNCH */
    KVFI_SEND_WITHDRAW = 5,   /* message: the offer is void */
    KVFI_SEND_RELEASE = 6,    /* message: answer to a GRANT that crossed a WITHDRAW */
    KVFI_SEND_PIECE_SENT = 7, /* runs[0]: bytes of it were DELIVERED */
    KVFI_SEND_PIECE_IDLE = 8, /* piece is done or removed, and nothing names it any more */
};

struct kvfi_send_action {
    enum kvfi_send_action_kind kind;
    struct kvfi_batch_id batch; /* not for PIECE_IDLE */
    uint32_t lane;
    uint32_t slot;  /* of the lane */
    uint32_t bytes; /* of the batch */
    uint32_t piece; /* PIECE_* */
    const struct kvfi_run *runs;
    uint32_t n_runs;
    int32_t priority; /* OFFER: highest of its pieces */
};
typedef void (*kvfi_send_emit_fn)(void *ctx, const struct kvfi_send_action *action);

struct kvfi_send_sched;

/* Bytes of memory kvfi_send_sched_init wants; 0 if the configuration is out of range. */
size_t kvfi_send_sched_bytes(const struct kvfi_send_sched_config *config);
/* memory: zeroed, 64-byte aligned, kvfi_send_sched_bytes long; borrowed for the object's life. */
struct kvfi_send_sched *kvfi_send_sched_init(void *memory,
                                             const struct kvfi_send_sched_config *config,
                                             kvfi_send_emit_fn emit, void *emit_ctx);

/* A free link of a peer: it belongs to one lane (design §4 "Links"). Starts at seq 0. */
void kvfi_send_link_up(struct kvfi_send_sched *s, uint32_t peer, uint32_t link, uint32_t lane,
                       uint32_t epoch, uint64_t now_ns);
/*
 * The link is gone. Its offers and grants are dropped; its launched batches too (the caller has
 * seen to it that the lane no longer touches their slots). Undelivered chunks of live pieces are
 * offered again on another link or on the link's next epoch.
 */
void kvfi_send_link_down(struct kvfi_send_sched *s, uint32_t peer, uint32_t link, uint64_t now_ns);

/*
 * A piece of n_chunks for a peer. Not offered before kvfi_send_piece_ready. The number must be
 * free: never used, or PIECE_IDLE was emitted for it. deadline_ns 0 is "none".
 */
void kvfi_send_piece_add(struct kvfi_send_sched *s, uint32_t piece, uint32_t peer,
                         uint32_t n_chunks, int32_t priority, uint64_t deadline_ns);
/* The caller's fence completed: its chunks may be offered. */
void kvfi_send_piece_ready(struct kvfi_send_sched *s, uint32_t piece, uint64_t now_ns);
/*
 * No further chunk of it is offered. Offers that carry nothing else and are not launched are
 * withdrawn; what is launched, or shares a batch with others, travels as filler. PIECE_IDLE
 * follows, possibly at once.
 */
void kvfi_send_piece_remove(struct kvfi_send_sched *s, uint32_t piece, uint64_t now_ns);

/* Messages from the peer. KVF_EPROTO: not a batch in that state. */
kvf_status_t kvfi_send_on_grant(struct kvfi_send_sched *s, const struct kvfi_batch_id *id,
                                uint64_t now_ns);
kvf_status_t kvfi_send_on_delivered(struct kvfi_send_sched *s, const struct kvfi_batch_id *id,
                                    uint64_t now_ns);

/* The lane finished the wire operation of its launched batch: it may launch the next one. */
void kvfi_send_on_sent(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot, uint64_t now_ns);

/* Emits whatever time alone allows (starvation). Cheap; call it at least every starve_ns / 2. */
void kvfi_send_tick(struct kvfi_send_sched *s, uint64_t now_ns);

/* ---- receiver ----------------------------------------------------------------------------- */

struct kvfi_recv_sched_config {
    uint32_t n_lanes;
    uint32_t slots_per_lane;
    uint32_t slot_bytes;
    uint32_t max_peers;
    uint32_t links_per_peer;
    uint32_t max_offers; /* open offers a link may have; a peer that sends more breaks the rules */
    uint32_t max_groups; /* posted receives of all lanes together; design R4 */
};

enum kvfi_recv_action_kind {
    KVFI_RECV_GRANT = 1, /* message to the peer; the slot is reserved */
    KVFI_RECV_POST = 2,  /* lane: receive `bytes` from the link into the slot, then unpack runs */
    KVFI_RECV_DELIVERED = 3, /* message to the peer */
};

struct kvfi_recv_action {
    enum kvfi_recv_action_kind kind;
    struct kvfi_batch_id batch;
    uint32_t lane;
    uint32_t slot;
    uint32_t bytes;
    const struct kvfi_run *runs;
    uint32_t n_runs;
};
typedef void (*kvfi_recv_emit_fn)(void *ctx, const struct kvfi_recv_action *action);

struct kvfi_recv_sched;

size_t kvfi_recv_sched_bytes(const struct kvfi_recv_sched_config *config);
struct kvfi_recv_sched *kvfi_recv_sched_init(void *memory,
                                             const struct kvfi_recv_sched_config *config,
                                             kvfi_recv_emit_fn emit, void *emit_ctx);

void kvfi_recv_link_up(struct kvfi_recv_sched *s, uint32_t peer, uint32_t link, uint32_t lane,
                       uint32_t epoch);
/* As for the sender: offers, grants and posts of the link are dropped. */
void kvfi_recv_link_down(struct kvfi_recv_sched *s, uint32_t peer, uint32_t link);

/*
 * OFFER. runs are in this rank's piece numbers, already checked by the caller against its plan;
 * a run of a piece that ended here keeps piece == UINT32_MAX and is filler. Offers that wait for a
 * slot are granted by priority, then in order of arrival, no peer twice before another once.
 */
kvf_status_t kvfi_recv_on_offer(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id,
                                const struct kvfi_run *runs, uint32_t n_runs, uint32_t bytes,
                                int32_t priority);
/* WITHDRAW: dropped if not granted yet; if it was, RELEASE follows. */
kvf_status_t kvfi_recv_on_withdraw(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id);
/* RELEASE: the reserved slot is free again. */
kvf_status_t kvfi_recv_on_release(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id);
/* GO: posted in the order of GOs, one at a time a lane. */
kvf_status_t kvfi_recv_on_go(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id);

/* The lane's posted receive is complete: it may post the next one; the slot is being unpacked. */
void kvfi_recv_on_received(struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot);
/* The slot is unpacked: DELIVERED, and the slot is free. */
void kvfi_recv_on_unpacked(struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot);

#endif
