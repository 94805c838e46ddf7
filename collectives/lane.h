/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane: one worker thread with its staging slots. It does what the scheduler's lane actions say,
 * in the order given, and reports back. A send lane packs and sends; a receive lane receives and
 * unpacks. While nothing is in flight its thread sleeps in the kernel.
 *
 * Threads: the functions are called by one thread, the control thread; the client's callbacks run
 * on the lane's thread. All signals are blocked in it.
 */
#ifndef KVFERRY_COLLECTIVES_LANE_H
#define KVFERRY_COLLECTIVES_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/fabric.h"
#include "collectives/run.h"

enum kvfi_lane_kind { KVFI_LANE_SEND = 1, KVFI_LANE_RECV = 2 };

enum kvfi_lane_report_kind {
    KVFI_LANE_PACKED = 1,   /* send: the slot holds the batch */
    KVFI_LANE_SENT = 2,     /* send: wire operation over */
    KVFI_LANE_RECEIVED = 3, /* recv: wire operation over, unpacking follows */
    KVFI_LANE_UNPACKED = 4, /* recv: every run was ended */
};

struct kvfi_lane_report {
    enum kvfi_lane_report_kind kind;
    uint32_t slot;
    kvf_status_t status; /* of the step; < 0 after a fabric error */
    uint64_t started_ns; /* when the step began: pack, launch, post, unpack */
    uint64_t ended_ns;
};

/* What the lane asks of the layer that knows layouts. Called on the lane's thread; must not block. */
struct kvfi_lane_client {
    /*
     * Before a run is copied: enter the task that owns it. False: the task has ended, the run is
     * filler (packed as whatever the slot holds, not unpacked), run_end is not called.
     */
    bool (*run_begin)(void *ctx, const struct kvfi_run *run);
    /* The copy job of chunk number `chunk` of the run, with its dense side at `dense`. */
    void (*chunk_job)(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                      struct kvfi_copy_job *ret_job);
    /* Bytes of a chunk, to find the next one's place in the slot. */
    uint32_t (*chunk_bytes)(void *ctx, const struct kvfi_run *run, uint32_t chunk);
    /* After it is copied (or failed): leave the task. times: begin of the step, end of it. */
    void (*run_end)(void *ctx, const struct kvfi_run *run, kvf_status_t status, uint64_t started_ns,
                    uint64_t ended_ns);
    void *ctx;
};

struct kvfi_lane_config {
    enum kvfi_lane_kind kind;
    uint32_t index;
    uint32_t n_slots;
    uint32_t slot_bytes;
    const struct kvfi_fabric_ops *ops;
    struct kvfi_fabric *fabric;
    struct kvfi_lane_client client;
    void (*notify)(
        void *ctx); /* lane thread: reports are there; coalesced, wakes the control loop */
    void *notify_ctx;
};

struct kvfi_lane;

kvf_status_t kvfi_lane_create(const struct kvfi_lane_config *config, struct kvfi_lane **ret_lane);
/*
 * Stops the thread and frees the slots. Operations still in flight get until deadline_ns, then are
 * abandoned. Returns false if memory had to be left behind for ever (KVF_EBUSY from op_abandon).
 * NULL is allowed.
 */
bool kvfi_lane_destroy(struct kvfi_lane *lane, uint64_t deadline_ns);

/*
 * Commands; copied, never blocking. The rings hold more than the scheduler can ever have open, so
 * they cannot be full. A LAUNCH of a slot follows its PACK; runs are copied.
 */
void kvfi_lane_pack(struct kvfi_lane *lane, uint32_t slot, const struct kvfi_run *runs,
                    uint32_t n_runs);
void kvfi_lane_launch(struct kvfi_lane *lane, uint32_t slot, struct kvfi_fabric_link *link,
                      uint32_t bytes);
void kvfi_lane_post(struct kvfi_lane *lane, uint32_t slot, struct kvfi_fabric_link *link,
                    uint32_t bytes, const struct kvfi_run *runs, uint32_t n_runs);

/* Next report; false if there is none. */
bool kvfi_lane_report(struct kvfi_lane *lane, struct kvfi_lane_report *ret_report);

#endif
