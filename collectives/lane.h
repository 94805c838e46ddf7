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

/*
 * Every PACK is answered by PACKED, every LAUNCH by SENT, every POST by RECEIVED and, if that is
 * good, by UNPACKED. status < 0 after a fabric error: the lane goes on, nothing more comes of that
 * step. A LAUNCH after a failed PACK sends nothing and has the PACK's status.
 */
struct kvfi_lane_report {
    enum kvfi_lane_report_kind kind;
    uint32_t slot;
    kvf_status_t status;
    uint64_t started_ns; /* when the step began: pack, launch, post, unpack */
    uint64_t ended_ns;
};

/* What the lane asks of the layer that knows layouts. Called on the lane's thread; must not block. */
struct kvfi_lane_client {
    /*
     * Before a run is copied: enter the task that owns it. False: the task has ended, the run is
     * filler (packed as whatever the slot holds, not unpacked), run_end is not called. Called for
     * all runs of a batch before the first of them is copied.
     */
    bool (*run_begin)(void *ctx, const struct kvfi_run *run);
    /* The copy job of chunk number `chunk` of the run, with its dense side at `dense`. */
    void (*chunk_job)(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                      struct kvfi_copy_job *ret_job);
    /* Bytes of a chunk, to find the next one's place in the slot. */
    uint32_t (*chunk_bytes)(void *ctx, const struct kvfi_run *run, uint32_t chunk);
    /*
     * After it is copied (or failed): leave the task. times: begin of the step, end of it. Called
     * for all runs of the batch before the step is reported. KVF_EBUSY: the copy was given up and
     * may still touch the task's memory.
     */
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
 * abandoned; what has not begun is dropped, and a copy between two of its parts ends with
 * KVF_ECANCELED. No report and no notify follows. Returns false if memory had to be left behind for
 * ever (KVF_EBUSY from op_abandon, now or earlier). NULL is allowed.
 */
bool kvfi_lane_destroy(struct kvfi_lane *lane, uint64_t deadline_ns);

/*
 * Commands; copied, never blocking. A LAUNCH of a slot follows its PACK, reported yet or not. A
 * PACK or POST needs a slot that owes no report: all of its earlier commands' were read (also a
 * PACK whose batch was withdrawn). So the rings hold more than can ever be open and are never full,
 * and no piece number is used by a lane after the report of its batch was read.
 */
void kvfi_lane_pack(struct kvfi_lane *lane, uint32_t slot, const struct kvfi_run *runs,
                    uint32_t n_runs);
void kvfi_lane_launch(struct kvfi_lane *lane, uint32_t slot, struct kvfi_fabric_link *link,
                      uint32_t bytes);
void kvfi_lane_post(struct kvfi_lane *lane, uint32_t slot, struct kvfi_fabric_link *link,
                    uint32_t bytes, const struct kvfi_run *runs, uint32_t n_runs);

/*
 * Give up the wire operation of a slot, for a link that is to be closed: the SENT or RECEIVED that
 * the slot owes comes soon, with KVF_ECANCELED unless the operation ended first. Afterwards the lane
 * touches the link no more. A slot whose memory could not be had back gets new memory, with the
 * packed batch in it.
 */
void kvfi_lane_abandon(struct kvfi_lane *lane, uint32_t slot);

/* Next report; false if there is none. */
bool kvfi_lane_report(struct kvfi_lane *lane, struct kvfi_lane_report *ret_report);

#endif
