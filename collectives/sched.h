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
 * so a hostile peer cannot move the state; internal misuse is an assert. A message that was under
 * way while its link went down is refused like any other stale one: whoever must tell that from an
 * attack compares id.epoch with the link's own.
 *
 * Batch life, at the sender:   offered -> granted -> launched -> sent (wire done) -> delivered
 *             at the receiver: offered -> granted (slot reserved) -> go -> posted -> unpacked
 *
 * Messages of a session arrive in order, each way. On one link that means:
 *
 *   S -> R   OFFER    seq is one more than that of the last OFFER. None is made while the last one
 *                     is open, that is until its GO, WITHDRAW or RELEASE was said.
 *   R -> S   GRANT    once at most for an offer, in the order of the offers.
 *   S -> R   GO       for a granted batch that was launched.
 *   S -> R   WITHDRAW for an offer whose GRANT has not come. Nothing answers it.
 *   S -> R   RELEASE  instead of GO, for a GRANT that is not used: it crossed the WITHDRAW, or the
 *                     batch lost its last piece before it could be launched.
 *   R -> S   DELIVERED once, after GO, in any order.
 *
 * Withdrawing needs neither an acknowledgement nor a memory of what was withdrawn. The receiver
 * forgets an offer it has not granted; if it has granted it, its GRANT is on the way and is going
 * to be answered by RELEASE, so it keeps the slot until then. The sender keeps two numbers a link:
 * the seq of its next OFFER and the lowest seq whose GRANT may still come. A GRANT between the two
 * is for the open offer, or for one that was withdrawn (whatever was launched or released had been
 * granted before, so it lies below). It is answered by RELEASE in the second case, and raises the
 * lower number in both: every GRANT is answered once, and one said twice is refused. At the
 * receiver a link has at most one offer that waits for a slot, and what it granted lies in slots.
 *
 * Delivered once. A batch that was unpacked, but whose DELIVERED was lost with its link, is offered
 * again with the same runs. So runs are delivered wholly or not at all, and the receiving caller
 * gives the runs it has already as filler; the sender then learns of them by the DELIVERED of the
 * second batch. A link that comes up again while the last epoch's batch is still being unpacked
 * (no DROPPED yet) may bring its runs a second time too.
 *
 * Within a peer priority is strict: pieces of low priority wait as long as urgent ones keep coming,
 * and their deadline is their end. Between peers it is not, see starve_ns.
 */
#ifndef KVFERRY_COLLECTIVES_SCHED_H
#define KVFERRY_COLLECTIVES_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/run.h"
#include "kvferry/kvferry.h"

#define KVFI_LINKS_MAX 16u       /* links of a pair */
#define KVFI_SCHED_LANES_MAX 64u /* lanes of one scheduler */
#define KVFI_SCHED_SLOTS_MAX 64u /* slots of a lane */
#define KVFI_RECV_FAIR_EVERY 8u  /* grants of a lane, one of which looks at waiting time only */

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
    uint32_t max_groups; /* launched batches of all lanes together; design R4; 0 = no limit */
    /*
     * Launched batches of one lane; 0 = 1, design R1. More only on a fabric whose launched sends
     * hold nothing that another needs (host memory): then the next one need not wait until the lane
     * has reported the last.
     */
    uint32_t max_launched;
    uint64_t starve_ns; /* a peer that waited this long goes before any priority */
    kvfi_chunk_bytes_fn chunk_bytes;
    void *chunk_ctx;
};

enum kvfi_send_action_kind {
    KVFI_SEND_PACK = 1,       /* lane: copy runs into the slot */
    KVFI_SEND_OFFER = 2,      /* message to the peer: runs, bytes */
    KVFI_SEND_LAUNCH = 3,     /* lane: send the slot over the link, after its pack */
    KVFI_SEND_GO = 4,         /* message to the peer; emitted right after LAUNCH */
    KVFI_SEND_WITHDRAW = 5,   /* message: the offer is void */
    KVFI_SEND_RELEASE = 6,    /* message: the grant is not used (no slot if it crossed WITHDRAW) */
    KVFI_SEND_PIECE_SENT = 7, /* runs[0]: bytes of it were DELIVERED; not after its removal */
    KVFI_SEND_PIECE_IDLE = 8, /* piece is done or removed, and nothing names it any more */
};

struct kvfi_send_action {
    enum kvfi_send_action_kind kind;
    struct kvfi_batch_id batch; /* not for PIECE_IDLE */
    uint32_t lane;
    uint32_t slot;  /* of the lane; UINT32_MAX if none */
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

/*
 * A free link of a peer: it belongs to one lane (design §4 "Links"), and to the same one each time
 * it comes up while pieces of the peer are there (their slots are that lane's). Starts at seq 0;
 * the epoch differs from the last one's.
 */
void kvfi_send_link_up(struct kvfi_send_sched *s, uint32_t peer, uint32_t link, uint32_t lane,
                       uint32_t epoch, uint64_t now_ns);
/*
 * The link is gone. Its offers and grants are dropped; its launched batches too (the caller has
 * seen to it that the lane no longer touches their slots: no kvfi_send_on_sent follows). Batches
 * not delivered keep their slots, packed as they are, and are offered again before anything new,
 * on whichever link of that peer and lane is up first.
 */
void kvfi_send_link_down(struct kvfi_send_sched *s, uint32_t peer, uint32_t link, uint64_t now_ns);

/*
 * A piece of n_chunks for a peer. Not offered before kvfi_send_piece_ready. The number must be
 * free: never used, or PIECE_IDLE was emitted for it. deadline_ns 0 is "none". A piece of no
 * chunks is done when it is ready.
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

/*
 * The lane has done the PACK of a slot, well or badly: it no longer reads the pieces. Owed for
 * every PACK, also of a batch that was withdrawn or lost its link meanwhile: PIECE_IDLE and the
 * slot's next use wait for it, else the PACK of a dead piece would run under its number's new
 * owner. kvfi_send_on_sent implies it.
 */
void kvfi_send_on_packed(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot, uint64_t now_ns);
/* The lane finished the wire operation of its launched batch: it may launch the next one. */
void kvfi_send_on_sent(struct kvfi_send_sched *s, uint32_t lane, uint32_t slot, uint64_t now_ns);

/*
 * Emits whatever time alone allows. Today that is nothing, since room is used the moment it is
 * there and waiting only decides who gets it; callers keep a timer so that this may change.
 */
void kvfi_send_tick(struct kvfi_send_sched *s, uint64_t now_ns);

/*
 * The device gate of design §4 "Links": while held, nothing is launched (offers go on). The gate is
 * drained when kvfi_send_n_launched is 0.
 */
void kvfi_send_hold(struct kvfi_send_sched *s, bool hold, uint64_t now_ns);
/* Batches launched and not yet reported sent. */
uint32_t kvfi_send_n_launched(const struct kvfi_send_sched *s);

/* ---- receiver ----------------------------------------------------------------------------- */

struct kvfi_recv_sched_config {
    uint32_t n_lanes;
    uint32_t slots_per_lane;
    uint32_t slot_bytes;
    uint32_t max_peers;
    uint32_t links_per_peer;
    /*
     * Open batches a link may have, granted ones too; a peer that sends more breaks the rules. Only
     * one of them may wait for its grant, so what a link costs does not depend on this. The sender
     * above never has more than one.
     */
    uint32_t max_offers;
    uint32_t max_groups; /* posted receives of all lanes together; design R4; 0 = no limit */
    uint32_t max_posted; /* of one lane; 0 = 1. More as for max_launched */
};

enum kvfi_recv_action_kind {
    KVFI_RECV_GRANT = 1, /* message to the peer; the slot is reserved */
    KVFI_RECV_POST = 2,  /* lane: receive `bytes` from the link into the slot, then unpack runs */
    KVFI_RECV_DELIVERED = 3, /* message to the peer; the runs are not named any more */
    KVFI_RECV_DROPPED = 4,   /* no message: the batch is over without DELIVERED, as above */
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
/*
 * As for the sender: offers, grants and posts of the link are dropped, and the lane no longer
 * touches the slots of the posts. What was received and is being unpacked keeps its slot until
 * kvfi_recv_on_unpacked, which then says nothing to the peer.
 */
void kvfi_recv_link_down(struct kvfi_recv_sched *s, uint32_t peer, uint32_t link);

/*
 * OFFER. runs are in this rank's piece numbers, already checked by the caller against its plan;
 * a run of a piece that ended here, or that it has already, keeps piece == UINT32_MAX and is
 * filler. Offsets are computed here. Offers that wait for a slot are granted by priority, then in
 * order of arrival, no peer twice before another once; every KVFI_RECV_FAIR_EVERY-th grant of a
 * lane goes to the offer that waits longest, so that no priority starves another.
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

/* Batches whose GO came and that were not yet received: 0 when the device gate is drained. */
uint32_t kvfi_recv_n_posted(const struct kvfi_recv_sched *s);

#endif
