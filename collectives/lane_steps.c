/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/lane_internal.h"

#include <string.h>
#include <time.h>

#include "collectives/util.h"

enum { WIND_DOWN_NAP_NS = 20 * 1000 };

static void set_state(struct kvfi_lane *lane, struct kvfi_lane_slot *slot,
                      enum kvfi_lane_slot_state state)
{
    lane->n_active += (state != KVFI_SLOT_IDLE) - (slot->state != KVFI_SLOT_IDLE);
    slot->state = state;
}

static void report(struct kvfi_lane *lane, struct kvfi_lane_slot *slot,
                   enum kvfi_lane_report_kind kind, kvf_status_t status, uint64_t ended_ns)
{
    struct kvfi_lane_report r = {
        .kind = kind,
        .slot = (uint32_t)(slot - lane->slots),
        .status = status,
        .started_ns = slot->started_ns,
        .ended_ns = ended_ns,
    };
    bool is_pushed = kvfi_ring_push(&lane->reports, &r);

    assert(is_pushed); /* REPORTS_A_SLOT */
    (void)is_pushed;
    lane->has_news = true;
}

/* The copies are a ring as long as there are slots. */
static uint32_t copy_at(const struct kvfi_lane *lane, uint32_t i)
{
    assert(lane->config.n_slots > 0); /* kvfi_lane_create refuses it */
    return (lane->first_copy + i) % lane->config.n_slots;
}

static void queue_copy(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    uint32_t at = copy_at(lane, lane->n_copies);

    lane->copies[at] = (uint32_t)(slot - lane->slots);
    lane->n_copies++;
    slot->is_begun = false;
    set_state(lane, slot, KVFI_SLOT_QUEUED);
}

static void unqueue_copy(struct kvfi_lane *lane)
{
    lane->first_copy = copy_at(lane, 1);
    lane->n_copies--;
}

/* The wire operation is over, or could not begin. */
static void end_wire(struct kvfi_lane *lane, struct kvfi_lane_slot *slot, kvf_status_t status)
{
    bool is_send = lane->config.kind == KVFI_LANE_SEND;

    slot->link = NULL;
    set_state(lane, slot, KVFI_SLOT_IDLE);
    report(lane, slot, is_send ? KVFI_LANE_SENT : KVFI_LANE_RECEIVED, status, kvfi_now_ns());
    if (!is_send && status == KVF_OK)
        queue_copy(lane, slot);
}

static void begin_wire(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    const struct kvfi_lane_config *c = &lane->config;
    kvf_status_t status = KVF_ENOMEM;

    slot->started_ns = kvfi_now_ns();
    if (slot->memory && c->kind == KVFI_LANE_SEND)
        status = slot->packed < 0 ? slot->packed
                                  : c->ops->send(lane->fabric_lane, slot->link, slot->memory,
                                                 slot->bytes, &slot->op);
    else if (slot->memory)
        status = c->ops->recv(lane->fabric_lane, slot->link, slot->memory, slot->bytes, &slot->op);
    if (status < 0)
        end_wire(lane, slot, status);
    else
        set_state(lane, slot, KVFI_SLOT_WIRE);
}

/* Leave the memory to an operation that may still use it; the slot goes on with another one. */
static void replace_memory(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    const struct kvfi_lane_config *c = &lane->config;
    void *lost = slot->memory;

    lane->n_lost++;
    slot->memory = NULL;
    if (c->ops->slot_alloc(c->fabric, c->slot_bytes, &slot->memory) < 0)
        return;
    /* A send only reads what it was given: the batch may have to travel again. */
    if (c->kind == KVFI_LANE_SEND)
        memcpy(slot->memory, lost, c->slot_bytes);
}

static void abandon_wire(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    if (lane->config.ops->op_abandon(lane->fabric_lane, &slot->op) == KVF_EBUSY)
        replace_memory(lane, slot);
    end_wire(lane, slot, KVF_ECANCELED);
}

static void end_copy(struct kvfi_lane *lane, struct kvfi_lane_slot *slot, kvf_status_t status)
{
    const struct kvfi_lane_client *client = &lane->config.client;
    bool is_send = lane->config.kind == KVFI_LANE_SEND;
    uint64_t now_ns = kvfi_now_ns();

    for (uint32_t i = 0; i < slot->n_runs; i++)
        if (slot->live_runs & (UINT64_C(1) << i))
            client->run_end(client->ctx, &slot->runs[i], status, slot->started_ns, now_ns);
    slot->packed = status;
    set_state(lane, slot, KVFI_SLOT_IDLE);
    report(lane, slot, is_send ? KVFI_LANE_PACKED : KVFI_LANE_UNPACKED, status, now_ns);
    if (slot->is_launch_due) {
        slot->is_launch_due = false;
        begin_wire(lane, slot);
    }
}

static void begin_copy(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    const struct kvfi_lane_client *client = &lane->config.client;

    slot->is_begun = true;
    slot->started_ns = kvfi_now_ns();
    slot->live_runs = 0;
    slot->next_run = 0;
    slot->next_chunk = 0;
    for (uint32_t i = 0; i < slot->n_runs; i++)
        if (client->run_begin(client->ctx, &slot->runs[i]))
            slot->live_runs |= UINT64_C(1) << i;
}

/* Moves the cursor to the next chunk that is to be copied; false if there is none. */
static bool find_chunk(struct kvfi_lane_slot *slot)
{
    for (; slot->next_run < slot->n_runs; slot->next_run++, slot->next_chunk = 0) {
        const struct kvfi_run *run = &slot->runs[slot->next_run];

        if (!(slot->live_runs & (UINT64_C(1) << slot->next_run)))
            continue;
        if (slot->next_chunk == 0)
            slot->next_offset = run->offset;
        if (slot->next_chunk < run->n_chunks)
            return true;
    }
    return false;
}

/* Jobs of the next chunks. KVF_EINTERNAL: a chunk would lie outside the slot. */
static kvf_status_t make_jobs(struct kvfi_lane *lane, struct kvfi_lane_slot *slot,
                              size_t *ret_n_jobs)
{
    const struct kvfi_lane_client *client = &lane->config.client;
    size_t n = 0;

    while (n < KVFI_LANE_JOBS_MAX && find_chunk(slot)) {
        const struct kvfi_run *run = &slot->runs[slot->next_run];
        uint32_t chunk = run->first_chunk + slot->next_chunk;
        uint32_t bytes = client->chunk_bytes(client->ctx, run, chunk);

        if ((uint64_t)slot->next_offset + bytes > lane->config.slot_bytes)
            return KVF_EINTERNAL;
        client->chunk_job(client->ctx, run, chunk, (uint8_t *)slot->memory + slot->next_offset,
                          &lane->jobs[n++]);
        slot->next_offset += bytes;
        slot->next_chunk++;
    }
    *ret_n_jobs = n;
    return KVF_OK;
}

/* A copy's part is over, or could not begin. */
static void end_part(struct kvfi_lane *lane, struct kvfi_lane_slot *slot, kvf_status_t status)
{
    bool is_queued = lane->n_copies && lane->copies[lane->first_copy] == slot - lane->slots;

    if (status == KVF_OK && is_queued) {
        set_state(lane, slot, KVFI_SLOT_QUEUED);
        return;
    }
    if (is_queued)
        unqueue_copy(lane);
    if (status == KVF_OK && find_chunk(slot))
        status = KVF_ECANCELED; /* kvfi_lane_wind_down() took it from the queue */
    end_copy(lane, slot, status);
}

static bool poll_slot(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    kvf_status_t status = lane->config.ops->test(lane->fabric_lane, &slot->op);

    if (status == KVF_IN_PROGRESS)
        return false;
    if (slot->state == KVFI_SLOT_WIRE)
        end_wire(lane, slot, status);
    else
        end_part(lane, slot, status);
    return true;
}

/* A slot leaves the queue with its last part: the next one may begin while that is in flight. */
bool kvfi_lane_issue_copy(struct kvfi_lane *lane)
{
    struct kvfi_lane_slot *slot;
    size_t n_jobs = 0;
    kvf_status_t status;

    if (lane->n_copies == 0)
        return false;
    slot = &lane->slots[lane->copies[lane->first_copy]];
    if (slot->state == KVFI_SLOT_COPY)
        return false;
    if (!slot->is_begun)
        begin_copy(lane, slot);
    status = slot->memory ? make_jobs(lane, slot, &n_jobs) : KVF_ENOMEM;
    if (status < 0) {
        end_part(lane, slot, status);
        return true;
    }
    if (!find_chunk(slot))
        unqueue_copy(lane);
    if (n_jobs)
        status = lane->config.ops->copy(lane->fabric_lane, lane->jobs, n_jobs, &slot->op);
    if (n_jobs && status >= 0) {
        set_state(lane, slot, KVFI_SLOT_COPY);
        (void)poll_slot(lane, slot);
    } else {
        end_part(lane, slot, status);
    }
    return true;
}

void kvfi_lane_on_command(struct kvfi_lane *lane, const struct kvfi_lane_command *command)
{
    struct kvfi_lane_slot *slot = &lane->slots[command->slot];

    switch (command->kind) {
    case KVFI_LANE_PACK:
        slot->packed = KVF_IN_PROGRESS;
        queue_copy(lane, slot);
        break;
    case KVFI_LANE_LAUNCH:
    case KVFI_LANE_POST:
        slot->link = command->link;
        slot->bytes = command->bytes;
        if (slot->state == KVFI_SLOT_IDLE)
            begin_wire(lane, slot);
        else
            slot->is_launch_due = true;
        break;
    case KVFI_LANE_ABANDON:
        if (slot->state == KVFI_SLOT_WIRE) {
            abandon_wire(lane, slot);
        } else if (slot->is_launch_due) {
            slot->is_launch_due = false;
            slot->started_ns = kvfi_now_ns();
            report(lane, slot, KVFI_LANE_SENT, KVF_ECANCELED, slot->started_ns);
        }
        break;
    }
}

bool kvfi_lane_poll_slots(struct kvfi_lane *lane)
{
    bool has_progress = false;

    for (uint32_t i = 0; i < lane->config.n_slots && lane->n_active; i++)
        if (lane->slots[i].state >= KVFI_SLOT_COPY)
            has_progress |= poll_slot(lane, &lane->slots[i]);
    return has_progress;
}

/* Nothing begins any more; parts of a copy that are in flight remain. */
static void drop_copies(struct kvfi_lane *lane)
{
    while (lane->n_copies) {
        struct kvfi_lane_slot *slot = &lane->slots[lane->copies[lane->first_copy]];

        unqueue_copy(lane);
        if (slot->state == KVFI_SLOT_COPY)
            continue; /* see end_part() */
        if (slot->is_begun)
            end_copy(lane, slot, KVF_ECANCELED);
        else
            set_state(lane, slot, KVFI_SLOT_IDLE);
    }
}

static void give_up(struct kvfi_lane *lane, struct kvfi_lane_slot *slot)
{
    kvf_status_t status = lane->config.ops->op_abandon(lane->fabric_lane, &slot->op);

    if (status == KVF_EBUSY) {
        lane->n_lost++;
        slot->memory = NULL;
    }
    if (slot->state == KVFI_SLOT_COPY)
        end_copy(lane, slot, status == KVF_EBUSY ? KVF_EBUSY : KVF_ECANCELED);
    else
        set_state(lane, slot, KVFI_SLOT_IDLE);
}

void kvfi_lane_wind_down(struct kvfi_lane *lane)
{
    struct timespec nap = {.tv_nsec = WIND_DOWN_NAP_NS};

    for (uint32_t i = 0; i < lane->config.n_slots; i++)
        lane->slots[i].is_launch_due = false;
    drop_copies(lane);
    while (lane->n_active) {
        if (kvfi_lane_poll_slots(lane))
            drop_copies(lane); /* of what was received just now */
        else if (kvfi_now_ns() >= lane->deadline_ns)
            break;
        else
            (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    for (uint32_t i = 0; i < lane->config.n_slots; i++)
        if (lane->slots[i].state != KVFI_SLOT_IDLE)
            give_up(lane, &lane->slots[i]);
}
