/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/lane.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "collectives/lane_internal.h"
#include "collectives/util.h"

enum {
    SLOTS_MAX = 256,
    COMMANDS_A_SLOT = 4,  /* unread ones at most, see command() */
    REPORTS_A_SLOT = 2,   /* owed at most: PACKED and SENT, or RECEIVED and UNPACKED */
    NAME_BYTES = 16,      /* the kernel's limit */
    TIMER_SLACK_NS = 1000 /* of the lane's thread; the default of 50 us is longer than its naps */
};

#define OWED(kind) (1u << (kind)) /* a bit of kvfi_lane_slot.owed */

/*
 * How a lane waits for operations that nobody announces (MPI has no wake-up, and neither has a CUDA
 * event that is queried). It gives the processor away between two tests; after NAP_AFTER_NS without
 * progress it naps between them, for an eighth of the time it has waited so far, so that a hundred
 * lanes that wait for something far away do not eat the machine. A command ends the nap.
 *
 * MPI moves a message only inside its calls. Without single copy (containers that forbid it,
 * another machine) 1 MiB takes some 300 us and many tests of both ends, and naps between those would
 * make it longer, hence the naps too: NAP_AFTER_NS is that time. mpi_tests/bench_fabric.c measures
 * all this.
 */
enum { NAP_AFTER_NS = 300 * 1000, NAP_MIN_NS = 20 * 1000, NAP_MAX_NS = 500 * 1000, NAP_SHARE = 8 };

/* release: deadline_ns is there for whoever sees the flag. Pairs with is_stopping(). */
static void begin_stop(struct kvfi_lane *lane, uint64_t deadline_ns)
{
    lane->deadline_ns = deadline_ns;
    atomic_store_explicit(&lane->is_stopping, true, memory_order_release);
}

/* acquire: see begin_stop(). */
static bool is_stopping(struct kvfi_lane *lane)
{
    return atomic_load_explicit(&lane->is_stopping, memory_order_acquire);
}

/* ---- lane thread -------------------------------------------------------------------------- */

/* To be called once for each token; the stop's token has no command. */
static bool take_command(struct kvfi_lane *lane)
{
    struct kvfi_lane_command command;

    if (!kvfi_ring_pop(&lane->commands, &command))
        return false;
    kvfi_lane_on_command(lane, &command);
    return true;
}

static void tell(struct kvfi_lane *lane)
{
    if (!lane->has_news)
        return;
    lane->has_news = false;
    lane->config.notify(lane->config.notify_ctx);
}

static bool step(struct kvfi_lane *lane)
{
    bool has_progress = false;

    while (sem_trywait(&lane->tokens) == 0)
        has_progress |= take_command(lane);
    has_progress |= kvfi_lane_poll_slots(lane);
    tell(lane); /* before a copy, which may take long */
    has_progress |= kvfi_lane_issue_copy(lane);
    tell(lane);
    return has_progress;
}

/* Waits for a token, at most until then; UINT64_MAX: for ever. */
static bool wait_token(struct kvfi_lane *lane, uint64_t until_ns)
{
    struct timespec ts = {
        .tv_sec = (time_t)(until_ns / 1000000000u),
        .tv_nsec = (long)(until_ns % 1000000000u),
    };

    if (until_ns == UINT64_MAX)
        return sem_wait(&lane->tokens) == 0;
    return sem_clockwait(&lane->tokens, CLOCK_MONOTONIC, &ts) == 0;
}

/* There was no progress. */
static void wait_for_progress(struct kvfi_lane *lane)
{
    uint64_t now_ns;
    uint64_t waited_ns;
    uint64_t nap_ns;

    if (lane->n_active == 0) {
        if (wait_token(lane, UINT64_MAX))
            (void)take_command(lane);
        return;
    }
    now_ns = kvfi_now_ns();
    if (lane->stalled_since_ns == 0)
        lane->stalled_since_ns = now_ns;
    waited_ns = now_ns - lane->stalled_since_ns;
    if (waited_ns < NAP_AFTER_NS) {
        (void)sched_yield();
        return;
    }
    nap_ns = kvfi_min_u64(kvfi_max_u64(waited_ns / NAP_SHARE, NAP_MIN_NS), NAP_MAX_NS);
    if (wait_token(lane, now_ns + nap_ns)) {
        lane->stalled_since_ns = 0; /* what the command began deserves quick tests */
        (void)take_command(lane);
    }
}

static bool set_up_thread(struct kvfi_lane *lane)
{
    const struct kvfi_lane_config *c = &lane->config;
    char name[NAME_BYTES];

    (void)snprintf(name, sizeof(name), "kvf-%s-%u", c->kind == KVFI_LANE_SEND ? "send" : "recv",
                   c->index);
    (void)pthread_setname_np(pthread_self(), name);
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    lane->start_status = c->ops->lane_open(c->fabric, c->index, &lane->fabric_lane);
    (void)sem_post(&lane->started);
    return lane->start_status == KVF_OK;
}

static void *lane_main(void *arg)
{
    struct kvfi_lane *lane = arg;

    if (!set_up_thread(lane))
        return NULL;
    while (!is_stopping(lane)) {
        if (step(lane))
            lane->stalled_since_ns = 0;
        else
            wait_for_progress(lane);
    }
    kvfi_lane_wind_down(lane);
    lane->config.ops->lane_close(lane->fabric_lane);
    return NULL;
}

/* ---- control thread ------------------------------------------------------------------------ */

static kvf_status_t create_slots(struct kvfi_lane *lane)
{
    const struct kvfi_lane_config *c = &lane->config;

    lane->slots = kvfi_calloc(c->n_slots, sizeof(*lane->slots));
    lane->copies = kvfi_calloc(c->n_slots, sizeof(*lane->copies));
    if (!lane->slots || !lane->copies)
        return KVF_ENOMEM;
    for (uint32_t i = 0; i < c->n_slots; i++) {
        kvf_status_t status = c->ops->slot_alloc(c->fabric, c->slot_bytes, &lane->slots[i].memory);

        if (status < 0)
            return status;
    }
    return KVF_OK;
}

static kvf_status_t start_thread(struct kvfi_lane *lane)
{
    sigset_t all;
    sigset_t before;
    int error;

    if (sem_init(&lane->tokens, 0, 0) != 0 || sem_init(&lane->started, 0, 0) != 0)
        return KVF_EINTERNAL;
    lane->has_semaphores = true;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&lane->thread, NULL, lane_main, lane);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return KVF_ENOMEM;
    lane->has_thread = true;
    while (sem_wait(&lane->started) != 0)
        continue; /* a signal of the host */
    return lane->start_status;
}

kvf_status_t kvfi_lane_create(const struct kvfi_lane_config *config, struct kvfi_lane **ret_lane)
{
    struct kvfi_lane *lane;
    kvf_status_t status;

    if (config->n_slots == 0 || config->n_slots > SLOTS_MAX || config->slot_bytes == 0)
        return KVF_EINVAL;
    lane = kvfi_calloc(1, sizeof(*lane));
    if (!lane)
        return KVF_ENOMEM;
    lane->config = *config;
    status = kvfi_ring_init(&lane->commands, config->n_slots * COMMANDS_A_SLOT,
                            sizeof(struct kvfi_lane_command));
    if (status == KVF_OK)
        status = kvfi_ring_init(&lane->reports, config->n_slots * REPORTS_A_SLOT,
                                sizeof(struct kvfi_lane_report));
    if (status == KVF_OK)
        status = create_slots(lane);
    if (status == KVF_OK)
        status = start_thread(lane);
    if (status < 0) {
        (void)kvfi_lane_destroy(lane, 0);
        return status;
    }
    *ret_lane = lane;
    return KVF_OK;
}

bool kvfi_lane_destroy(struct kvfi_lane *lane, uint64_t deadline_ns)
{
    bool is_clean;

    if (!lane)
        return true;
    if (lane->has_thread) {
        begin_stop(lane, deadline_ns);
        (void)sem_post(&lane->tokens);
        (void)pthread_join(lane->thread, NULL);
    }
    for (uint32_t i = 0; lane->slots && i < lane->config.n_slots; i++)
        if (lane->slots[i].memory)
            lane->config.ops->slot_free(lane->config.fabric, lane->slots[i].memory);
    is_clean = lane->n_lost == 0;
    if (lane->has_semaphores) {
        (void)sem_destroy(&lane->tokens);
        (void)sem_destroy(&lane->started);
    }
    kvfi_ring_fini(&lane->commands);
    kvfi_ring_fini(&lane->reports);
    kvfi_free(lane->copies);
    kvfi_free(lane->slots);
    kvfi_free(lane);
    return is_clean;
}

/*
 * Unread commands of a slot are at most COMMANDS_A_SLOT: those of one batch, and an ABANDON of the
 * batch before, which needs no answer.
 */
static void command(struct kvfi_lane *lane, const struct kvfi_lane_command *c)
{
    bool is_pushed = kvfi_ring_push(&lane->commands, c);

    assert(is_pushed);
    (void)is_pushed;
    (void)sem_post(&lane->tokens);
}

/* The slot owes nothing, so the lane thread does not look at its runs. */
static struct kvfi_lane_slot *take_slot(struct kvfi_lane *lane, uint32_t n,
                                        const struct kvfi_run *runs, uint32_t n_runs)
{
    struct kvfi_lane_slot *slot = &lane->slots[n];

    assert(n < lane->config.n_slots && slot->owed == 0 && n_runs <= KVFI_BATCH_RUNS_MAX);
    slot->n_runs = n_runs;
    if (n_runs)
        memcpy(slot->runs, runs, n_runs * sizeof(*runs));
    slot->is_abandoned = false;
    return slot;
}

void kvfi_lane_pack(struct kvfi_lane *lane, uint32_t slot, const struct kvfi_run *runs,
                    uint32_t n_runs)
{
    assert(lane->config.kind == KVFI_LANE_SEND);
    take_slot(lane, slot, runs, n_runs)->owed = OWED(KVFI_LANE_PACKED);
    command(lane, &(struct kvfi_lane_command){.kind = KVFI_LANE_PACK, .slot = slot});
}

void kvfi_lane_launch(struct kvfi_lane *lane, uint32_t slot, struct kvfi_fabric_link *link,
                      uint32_t bytes)
{
    assert(lane->config.kind == KVFI_LANE_SEND && slot < lane->config.n_slots);
    assert(!(lane->slots[slot].owed & OWED(KVFI_LANE_SENT)) && bytes <= lane->config.slot_bytes);
    lane->slots[slot].owed |= OWED(KVFI_LANE_SENT);
    lane->slots[slot].is_abandoned = false;
    command(lane, &(struct kvfi_lane_command){
                      .kind = KVFI_LANE_LAUNCH, .slot = slot, .bytes = bytes, .link = link});
}

void kvfi_lane_post(struct kvfi_lane *lane, uint32_t slot, struct kvfi_fabric_link *link,
                    uint32_t bytes, const struct kvfi_run *runs, uint32_t n_runs)
{
    assert(lane->config.kind == KVFI_LANE_RECV && bytes <= lane->config.slot_bytes);
    take_slot(lane, slot, runs, n_runs)->owed = OWED(KVFI_LANE_RECEIVED) | OWED(KVFI_LANE_UNPACKED);
    command(lane, &(struct kvfi_lane_command){
                      .kind = KVFI_LANE_POST, .slot = slot, .bytes = bytes, .link = link});
}

void kvfi_lane_abandon(struct kvfi_lane *lane, uint32_t slot)
{
    struct kvfi_lane_slot *s = &lane->slots[slot];

    assert(slot < lane->config.n_slots);
    if (!(s->owed & (OWED(KVFI_LANE_SENT) | OWED(KVFI_LANE_RECEIVED))) || s->is_abandoned)
        return;
    s->is_abandoned = true;
    command(lane, &(struct kvfi_lane_command){.kind = KVFI_LANE_ABANDON, .slot = slot});
}

bool kvfi_lane_report(struct kvfi_lane *lane, struct kvfi_lane_report *ret_report)
{
    struct kvfi_lane_slot *slot;

    if (!kvfi_ring_pop(&lane->reports, ret_report))
        return false;
    slot = &lane->slots[ret_report->slot];
    assert(slot->owed & OWED(ret_report->kind));
    slot->owed &= ~OWED(ret_report->kind);
    if (ret_report->kind == KVFI_LANE_RECEIVED && ret_report->status < 0)
        slot->owed &= ~OWED(KVFI_LANE_UNPACKED);
    return true;
}
