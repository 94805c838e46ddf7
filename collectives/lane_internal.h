/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lane.c (commands, loop, life) and lane_steps.c (what is done with a slot) share. A lane's
 * thread is the only one in lane_steps.c.
 */
#ifndef KVFERRY_COLLECTIVES_LANE_INTERNAL_H
#define KVFERRY_COLLECTIVES_LANE_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "collectives/lane.h"
#include "collectives/ring.h"

#define KVFI_LANE_JOBS_MAX 64u /* copy jobs handed to the fabric at once */

enum kvfi_lane_command_kind {
    KVFI_LANE_PACK = 1,
    KVFI_LANE_LAUNCH = 2,
    KVFI_LANE_POST = 3,
    KVFI_LANE_ABANDON = 4,
};

struct kvfi_lane_command {
    enum kvfi_lane_command_kind kind;
    uint32_t slot;
    uint32_t bytes;
    struct kvfi_fabric_link *link;
};

enum kvfi_lane_slot_state {
    KVFI_SLOT_IDLE = 0,   /* nothing to do; a send slot may hold a packed batch */
    KVFI_SLOT_QUEUED = 1, /* in lane->copies: has parts to copy, none in flight */
    KVFI_SLOT_COPY = 2,   /* op is a part of its copy */
    KVFI_SLOT_WIRE = 3,   /* op is its send or receive */
};

/* Owner: the lane thread, but of `owed`, `is_abandoned` and, while owed is 0, of the runs. */
struct kvfi_lane_slot {
    void *memory; /* NULL: lost, and there was no other */
    enum kvfi_lane_slot_state state;
    struct kvfi_fabric_op op;
    uint64_t started_ns; /* of the step that is under way */

    kvf_status_t packed; /* how the last PACK went; KVF_IN_PROGRESS while it is not over */
    bool is_launch_due;  /* LAUNCH came before the PACK was over */
    struct kvfi_fabric_link *link;
    uint32_t bytes;

    bool is_begun;        /* run_begin was called */
    uint64_t live_runs;   /* bit i: run_begin said yes to run i */
    uint32_t next_run;    /* the next chunk that gets a copy job */
    uint32_t next_chunk;  /* in that run */
    uint32_t next_offset; /* its place in the slot */

    uint32_t owed;     /* control thread: reports that are to come, a bit a kind */
    bool is_abandoned; /* control thread: ABANDON was said since the last LAUNCH or POST */
    uint32_t n_runs;
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];
};

struct kvfi_lane {
    struct kvfi_lane_config config;
    struct kvfi_fabric_lane *fabric_lane;
    struct kvfi_lane_slot *slots;
    uint32_t n_active; /* slots that are not idle */
    uint32_t n_lost;   /* slot memories left behind */
    bool has_news;     /* reports since the last notify */
    uint64_t stalled_since_ns;
    struct kvfi_copy_job jobs[KVFI_LANE_JOBS_MAX];

    /* Slots to copy, first come first served: [n_slots] slot numbers used as a circle. */
    uint32_t *copies;
    uint32_t first_copy;
    uint32_t n_copies;

    struct kvfi_ring commands;
    struct kvfi_ring reports;
    sem_t tokens; /* one for each command and one for the stop */
    sem_t started;
    kvf_status_t start_status; /* ordered by `started` */
    bool has_semaphores;
    bool has_thread;
    pthread_t thread;
    uint64_t deadline_ns; /* of the stop; ordered by is_stopping */
    atomic_bool is_stopping;
};

static_assert(KVFI_BATCH_RUNS_MAX <= 64, "live_runs is a bit a run");

/* A command of the control thread. */
void kvfi_lane_on_command(struct kvfi_lane *lane, const struct kvfi_lane_command *command);
/* Test what is in flight. True: something ended. */
bool kvfi_lane_poll_slots(struct kvfi_lane *lane);
/*
 * Hand one part of the oldest copy to the fabric. Only one, so that wire operations are looked at
 * between the parts of a long copy. True: there was one.
 */
bool kvfi_lane_issue_copy(struct kvfi_lane *lane);
/*
 * The lane is being destroyed: what has not begun is dropped, what is in flight gets until the
 * deadline and is given up then. All slots are idle afterwards.
 */
void kvfi_lane_wind_down(struct kvfi_lane *lane);

#endif
