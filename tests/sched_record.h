/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One scheduler with its actions written down as text, so that a test reads like the rules:
 *
 *   PACK 0.1 7:0+2,8:0+1   lane.slot, piece:first+count
 *   OFFER 3/1#5 300 p2     peer/link#seq, bytes, priority
 *   LAUNCH 0.1 3/1#5       POST the same
 *   GRANT 3/1#5 0.1
 *   (a "?" after #seq: of another epoch than RECORD_EPOCH)
 *   SENT 7:0+2   IDLE 7    GO, WITHDRAW, RELEASE, DELIVERED 3/1#5
 */
#ifndef KVFERRY_TESTS_SCHED_RECORD_H
#define KVFERRY_TESTS_SCHED_RECORD_H

#include "collectives/sched.h"

#define RECORD_EPOCH 9u /* of every link in the tests that use this */

struct record {
    char text[4096];
    size_t n;
    void *memory;
    void *before; /* copy of memory */
    size_t n_bytes;
    uint64_t now_ns;
    struct kvfi_send_sched *send;
    struct kvfi_recv_sched *recv;
};

/* A chunk's size is one byte for each unit of the piece's number / 100: piece 700 has 7-byte ones. */
uint32_t record_chunk_bytes(void *ctx, uint32_t number, uint32_t chunk);

/* 1 lane, 3 slots of 100 bytes, 4 peers with 2 links, 1000 pieces, 2 offers, no group limit. */
struct kvfi_send_sched_config record_send_config(void);
/* 1 lane, 2 slots of 100 bytes, 4 peers with 2 links, 1 offer a link, no group limit. */
struct kvfi_recv_sched_config record_recv_config(void);
void record_send_init(struct record *r, const struct kvfi_send_sched_config *config);
void record_recv_init(struct record *r, const struct kvfi_recv_sched_config *config);
void record_fini(struct record *r);

/* The actions since the last call, separated by "; ", are exactly these. */
#define EXPECT(r, want) record_expect((r), (want), __FILE__, __LINE__)
void record_expect(struct record *r, const char *want, const char *file, int line);

/* The actions so far are not looked at. */
void forget(struct record *r);

struct kvfi_batch_id batch(uint32_t peer, uint32_t link, uint32_t seq);

/* Shorthands at the record's time. */
void up(struct record *r, uint32_t peer, uint32_t link, uint32_t lane);
void down(struct record *r, uint32_t peer, uint32_t link);
void piece(struct record *r, uint32_t number, uint32_t peer, uint32_t n_chunks, int32_t priority);
void piece_by(struct record *r, uint32_t number, uint32_t peer, uint32_t n_chunks, int32_t priority,
              uint64_t deadline_ns);
void removed(struct record *r, uint32_t number);
void packed(struct record *r, uint32_t lane, uint32_t slot);
void sent(struct record *r, uint32_t lane, uint32_t slot);

/* A message that is taken, or refused without a trace (the memory is compared). */
enum message { OFFER, GRANT, GO, WITHDRAW, RELEASE, DELIVERED };
void take(struct record *r, enum message m, struct kvfi_batch_id id);
void refuse(struct record *r, enum message m, struct kvfi_batch_id id);
/* OFFER of one run of `bytes`. */
kvf_status_t offer(struct record *r, struct kvfi_batch_id id, uint32_t bytes, int32_t priority);

#endif
