/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of all requests, in one poll loop a rank. A request at a context rank: take blocks, fill
 * them, send, tell the receivers, wait for the end, give the blocks back. At a generation rank:
 * wait until all its sources are ready, take blocks, receive, wait for the end, check, give back.
 * The time of a transfer is from recv to its end, by the engine's own clock reading of the end.
 *
 * Requests are begun in order on every rank, so the lowest unfinished one is always in work on all
 * ranks that have a part in it, and no order of windows can wait in a circle.
 */
#include "tools/bench.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "collectives/util.h"
#include "tools/library.h"

#define REAP_EVENTS 64u
#define NAP_MIN_NS 50000u
#define NAP_MAX_NS 2000000u
#define STALL_SLACK_NS 30000000000u /* past a task's own deadline */
#define DUMP_BYTES (64u << 10)
#define PROGRESS_NS 200000000u

struct run {
    struct bench_job *job;
    struct bench_engine *engine;
    struct bench_tally *tally;
    struct bench_slot *slots; /* [job->n_slots] */
    uint32_t *n_ready;        /* [n_requests] notes of sources; generation ranks */
    uint64_t number;
    uint64_t start_ns;
    uint64_t progress_ns; /* last time anything happened */
    uint64_t shown_ns;
    uint64_t busy_since_ns; /* 0: no receive in flight */
    uint32_t n_in_flight;
    uint32_t next;   /* index in job->mine of the next to begin */
    uint32_t n_done; /* of job->mine */
};

static void slots_free(struct run *r)
{
    for (uint32_t s = 0; r->slots && s < r->job->n_slots; s++) {
        for (uint32_t p = 0; p < MODEL_GROUPS_MAX; p++)
            kvfi_free(r->slots[s].blocks[p]);
        kvfi_free(r->slots[s].aux);
    }
    kvfi_free(r->slots);
    kvfi_free(r->n_ready);
}

static bool slots_alloc(struct run *r)
{
    struct bench_job *job = r->job;
    bool ok;

    r->slots = kvfi_calloc(job->n_slots, sizeof(*r->slots));
    r->n_ready = kvfi_calloc(job->n_requests, sizeof(*r->n_ready));
    ok = r->slots && r->n_ready;
    for (uint32_t s = 0; ok && s < job->n_slots; s++) {
        for (uint32_t p = 0; p < job->shape.n_pools; p++) {
            r->slots[s].blocks[p] =
                kvfi_calloc((size_t)job->max_blocks + 1, sizeof(*r->slots[s].blocks[p]));
            ok = ok && r->slots[s].blocks[p];
        }
        if (job->options.aux_bytes)
            r->slots[s].aux = kvfi_calloc(1, job->options.aux_bytes);
        ok = ok && (r->slots[s].aux || !job->options.aux_bytes);
    }
    return ok;
}

static struct bench_slot *free_slot(struct run *r)
{
    for (uint32_t s = 0; s < r->job->n_slots; s++) {
        if (!r->slots[s].is_busy)
            return &r->slots[s];
    }
    return NULL;
}

/* -- beginning a transfer -- */

static struct kvf_request_id request_id(const struct run *r, const struct bench_slot *slot)
{
    return r->engine->kvf->request_id_u64(r->number << 32 | slot->request);
}

/* A receiver names all groups, also those it has no layers of: its ranks must agree on the ranges. */
static uint32_t slot_groups(const struct run *r, const struct bench_slot *slot,
                            struct kvf_group_blocks groups[MODEL_GROUPS_MAX])
{
    const struct bench_job *job = r->job;
    uint32_t n = 0;

    for (uint32_t group = 0, p = 0; group < job->options.model.n_groups; group++) {
        struct kvf_group_blocks g = {
            .size = sizeof(g),
            .group = group,
            .tokens = bench_range(&job->options, group, job->requests[slot->request].n_tokens,
                                  !job->is_context),
        };
        bool is_here = p < job->shape.n_pools && job->shape.pools[p].group == group;

        if (is_here) {
            g.first_block = slot->span[p].first;
            g.n_blocks = slot->span[p].n;
            g.blocks = slot->blocks[p];
            p++;
        }
        if (g.tokens.begin < g.tokens.end && (is_here || !job->is_context))
            groups[n++] = g;
    }
    return n;
}

static kvf_status_t begin_send(struct run *r, struct bench_slot *slot)
{
    const struct bench_options *o = &r->job->options;
    struct kvf_group_blocks groups[MODEL_GROUPS_MAX];
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_extent extent = {.size = sizeof(extent)};
    char destination[KVF_NAME_MAX];

    bench_instance_name(r->engine, false, r->job->requests[slot->request].generation, destination);
    send.request = request_id(r, slot);
    send.destination = destination;
    send.timeout_ns = o->timeout_s * 1000000000u;
    send.user = (uint64_t)(slot - r->slots);
    extent.n_groups = slot_groups(r, slot, groups);
    extent.groups = groups;
    return r->engine->kvf->send(r->engine->engine, &send, &extent, slot->aux, o->aux_bytes,
                                &slot->task);
}

static kvf_status_t begin_recv(struct run *r, struct bench_slot *slot)
{
    const struct bench_options *o = &r->job->options;
    const struct bench_request *request = &r->job->requests[slot->request];
    struct kvf_group_blocks groups[MODEL_GROUPS_MAX];
    char source[KVF_NAME_MAX];
    struct kvf_recv recv = {
        .size = sizeof(recv),
        .source = source,
        .request = request_id(r, slot),
        .source_dp_group = request->context_dp,
        .groups = groups,
        .aux = slot->aux,
        .aux_capacity = o->aux_bytes,
        .timeout_ns = o->timeout_s * 1000000000u,
        .user = (uint64_t)(slot - r->slots),
    };

    bench_instance_name(r->engine, true, request->context, source);
    recv.n_groups = slot_groups(r, slot, groups);
    return r->engine->kvf->recv(r->engine->engine, &recv, &slot->task);
}

static void mark_failed(struct run *r, const struct bench_slot *slot)
{
    r->tally->transfer_ns[slot->request] = UINT64_MAX;
}

/* Hands the slot's transfer to the engine. A refused one ends here. */
static void begin(struct run *r, struct bench_slot *slot)
{
    kvf_status_t status;

    slot->started_ns = kvfi_now_ns();
    status = r->job->is_context ? begin_send(r, slot) : begin_recv(r, slot);
    r->progress_ns = slot->started_ns;
    if (status != KVF_OK) {
        bench_complain(r->job, "%s of request %" PRIu32 ": %s",
                       r->job->is_context ? "send" : "recv", slot->request,
                       library_why(r->engine->kvf, status));
        mark_failed(r, slot);
        slot->task = NULL;
        slot->has_ended = true;
        return;
    }
    if (r->n_in_flight++ == 0)
        r->busy_since_ns = slot->started_ns;
}

static void tell_ready(void *ctx, uint32_t world_rank)
{
    const struct bench_slot *slot = ((void **)ctx)[1];

    world_note(((struct world **)ctx)[0], world_rank, slot->request);
}

static void tell_receivers(struct run *r, struct bench_slot *slot)
{
    void *ctx[2] = {r->job->world, slot};

    bench_each_rank(&r->job->options, &r->job->requests[slot->request], false, tell_ready, ctx);
}

/* -- the end of a transfer -- */

static void add_stage(struct bench_tally *tally, enum bench_sum sum, uint64_t from, uint64_t to)
{
    if (from && to > from)
        tally->sums[sum] += to - from;
}

static void take_times(struct run *r, const struct bench_slot *slot,
                       const struct kvf_result *result)
{
    const uint64_t *t = result->times_ns;
    struct bench_tally *tally = r->tally;

    tally->transfer_ns[slot->request] = kvfi_max_u64(t[KVF_TIME_DONE] - slot->started_ns, 1);
    tally->sums[BENCH_RECEIVES]++;
    add_stage(tally, BENCH_HANDSHAKE_NS, t[KVF_TIME_SUBMITTED], t[KVF_TIME_MATCHED]);
    add_stage(tally, BENCH_QUEUE_NS, kvfi_max_u64(t[KVF_TIME_MATCHED], t[KVF_TIME_FENCE]),
              t[KVF_TIME_FIRST_BYTE]);
    add_stage(tally, BENCH_WIRE_NS, t[KVF_TIME_FIRST_BYTE], t[KVF_TIME_WIRE_DONE]);
    add_stage(tally, BENCH_UNPACK_NS, t[KVF_TIME_WIRE_DONE], t[KVF_TIME_DONE]);
}

static void check_aux(struct run *r, const struct bench_slot *slot, const struct kvf_result *result)
{
    size_t n_bytes = r->job->options.aux_bytes;
    unsigned char want[256];
    unsigned char *expected = n_bytes <= sizeof(want) ? want : kvfi_calloc(1, n_bytes);

    if (!n_bytes || !expected)
        return;
    bench_aux_fill(r->job, slot->request, r->number, expected);
    if (result->aux_bytes != n_bytes || memcmp(expected, slot->aux, n_bytes) != 0) {
        r->tally->sums[BENCH_WRONG_BYTES] += n_bytes;
        bench_complain(r->job,
                       "request %" PRIu32 ": aux of %" PRIu64 " bytes is wrong or not the "
                       "%zu sent",
                       slot->request, result->aux_bytes, n_bytes);
    }
    if (expected != want)
        kvfi_free(expected);
}

/* The engine said ENDED. */
static void ended(struct run *r, struct bench_slot *slot)
{
    struct kvf_result result = {.size = sizeof(result)};

    (void)r->engine->kvf->task_poll(slot->task, &result);
    r->progress_ns = kvfi_now_ns();
    slot->has_ended = true;
    if (--r->n_in_flight == 0) {
        if (!r->job->is_context)
            r->tally->busy_ns +=
                kvfi_max_u64(result.times_ns[KVF_TIME_DONE], r->busy_since_ns + 1) -
                r->busy_since_ns;
        r->busy_since_ns = 0;
    }
    if (result.state != KVF_TASK_DONE) {
        bench_complain(r->job, "request %" PRIu32 ": %s (%s; rank %" PRId32 " of \"%s\")",
                       slot->request, r->engine->kvf->status_text(result.status), result.message,
                       (int32_t)result.peer_rank, result.peer_instance);
        mark_failed(r, slot);
    } else if (!r->job->is_context) {
        take_times(r, slot, &result);
        check_aux(r, slot, &result);
    }
    if (r->engine->kvf->task_release(slot->task) != KVF_OK)
        bench_complain(r->job, "task_release of request %" PRIu32 ": %s", slot->request,
                       r->engine->kvf->error_text());
    slot->task = NULL;
}

/* Check what arrived and let go of the slot. */
static void finish(struct run *r, struct bench_slot *slot)
{
    if (!r->job->is_context && r->tally->transfer_ns[slot->request] != UINT64_MAX)
        bench_slot_verify(r->job, slot, r->number, r->tally);
    bench_slot_give(r->job, slot);
    r->n_done++;
    r->progress_ns = kvfi_now_ns();
}

/* -- waiting -- */

static void show_progress(struct run *r)
{
    uint64_t now_ns = kvfi_now_ns();

    if (world_rank(r->job->world) != 0 || r->job->options.is_quiet || !isatty(STDERR_FILENO) ||
        now_ns - r->shown_ns < PROGRESS_NS)
        return;
    r->shown_ns = now_ns;
    (void)fprintf(stderr, "\r%" PRIu32 " of %" PRIu32 " requests of rank 0 done\033[K", r->n_done,
                  r->job->n_mine);
    if (r->n_done == r->job->n_mine)
        (void)fprintf(stderr, "\r\033[K");
}

/* Nothing happened for longer than any task may take: say what waits, and end the job. */
static void check_stall(struct run *r)
{
    uint64_t limit_ns = r->job->options.timeout_s * 1000000000u + STALL_SLACK_NS;
    char *text;
    size_t n_bytes = 0;

    if (kvfi_now_ns() - r->progress_ns < limit_ns)
        return;
    text = kvfi_calloc(1, DUMP_BYTES);
    if (text &&
        r->engine->kvf->engine_dump(r->engine->engine, text, DUMP_BYTES, &n_bytes) == KVF_OK)
        (void)fprintf(stderr, "%s\n", text);
    kvfi_free(text);
    world_abort(r->job->world, "no request made progress before its deadline");
}

/* Reaps what there is; false if there was nothing. */
static bool reap(struct run *r)
{
    struct kvf_event events[REAP_EVENTS];
    size_t n = 0;

    events[0].size = sizeof(events[0]);
    if (r->engine->kvf->engine_reap(r->engine->engine, events, REAP_EVENTS, &n) != KVF_OK)
        world_abort(r->job->world, r->engine->kvf->error_text());
    for (size_t i = 0; i < n; i++) {
        if ((events[i].kinds & KVF_EVENT_ENDED) && events[i].user < r->job->n_slots)
            ended(r, &r->slots[events[i].user]);
    }
    return n > 0;
}

static void take_notes(struct run *r)
{
    uint32_t request;

    while (world_take_note(r->job->world, &request)) {
        if (request < r->job->n_requests)
            r->n_ready[request]++;
        r->progress_ns = kvfi_now_ns();
    }
}

/* Sleeps until the engine has events, at most nap_ns. */
static void doze(struct run *r, uint64_t nap_ns)
{
    struct pollfd fd = {.fd = r->engine->kvf->engine_event_fd(r->engine->engine), .events = POLLIN};
    struct timespec nap = {.tv_sec = (time_t)(nap_ns / 1000000000u),
                           .tv_nsec = (long)(nap_ns % 1000000000u)};

    (void)ppoll(&fd, 1, &nap, NULL);
    check_stall(r);
    show_progress(r);
}

/* -- all at their own pace -- */

static void count_rank(void *ctx, uint32_t world_rank)
{
    (void)world_rank;
    ++*(uint32_t *)ctx;
}

/* Whether the next request of this rank may begin. */
static bool may_begin(struct run *r)
{
    const struct bench_job *job = r->job;
    const struct bench_request *request;
    uint32_t n_sources = 0;

    if (r->next == job->n_mine)
        return false;
    request = &job->requests[job->mine[r->next]];
    if (job->is_context || job->options.is_receive_first)
        return job->options.pace != BENCH_PACE_TRACE ||
               kvfi_now_ns() - r->start_ns >= request->arrival_ns;
    bench_each_rank(&job->options, request, true, count_rank, &n_sources);
    return r->n_ready[job->mine[r->next]] >= n_sources;
}

/* Begins as many as may be; false if none. */
static bool begin_some(struct run *r)
{
    bool any = false;
    struct bench_slot *slot;

    while (may_begin(r) && (slot = free_slot(r)) != NULL &&
           bench_slot_take(r->job, slot, r->job->mine[r->next])) {
        r->next++;
        bench_slot_fill(r->job, slot, r->number);
        begin(r, slot);
        if (r->job->is_context)
            tell_receivers(r, slot);
        any = true;
        /* Fills take long: see what ended meanwhile. */
        (void)reap(r);
    }
    return any;
}

static bool finish_some(struct run *r)
{
    for (uint32_t s = 0; s < r->job->n_slots; s++) {
        if (r->slots[s].is_busy && r->slots[s].has_ended) {
            finish(r, &r->slots[s]);
            return true;
        }
    }
    return false;
}

static void run_window(struct run *r)
{
    uint64_t nap_ns = NAP_MIN_NS;
    bool busy;

    while (r->n_done < r->job->n_mine) {
        if (!r->job->is_context)
            take_notes(r);
        busy = reap(r);
        busy = begin_some(r) || busy;
        busy = finish_some(r) || busy;
        nap_ns = busy ? NAP_MIN_NS : kvfi_min_u64(nap_ns * 2, NAP_MAX_NS);
        if (!busy)
            doze(r, nap_ns);
    }
}

/* -- in rounds -- */

/* Moves everything in the slots by the engine. The sources' sends are open before the barrier. */
static void move_round(struct run *r)
{
    for (uint32_t s = 0; !r->job->is_context && s < r->job->n_slots; s++) {
        if (r->slots[s].is_busy)
            begin(r, &r->slots[s]);
    }
    while (r->n_in_flight > 0) {
        if (!reap(r))
            doze(r, NAP_MAX_NS);
    }
}

static void prepare_round(struct run *r, uint32_t end)
{
    struct bench_job *job = r->job;
    struct bench_slot *slot;

    while (r->next < job->n_mine && job->mine[r->next] < end && (slot = free_slot(r)) != NULL) {
        if (!bench_slot_take(job, slot, job->mine[r->next]))
            world_abort(job->world, "a round's blocks do not fit its pool");
        r->next++;
        bench_slot_fill(job, slot, r->number);
        if (job->is_context && r->engine)
            begin(r, slot);
    }
}

/* Requests of a round have consecutive numbers, so every rank does its part of the same ones. */
static void run_rounds(struct run *r)
{
    struct bench_job *job = r->job;
    uint32_t each = (uint32_t)job->options.concurrency;

    for (uint32_t begin_at = 0; begin_at < job->n_requests; begin_at += each) {
        prepare_round(r, begin_at + each);
        world_barrier(job->world);
        r->progress_ns = kvfi_now_ns();
        if (r->engine)
            move_round(r);
        else
            bench_naive_move(job, r->slots, r->tally);
        world_barrier(job->world);
        while (finish_some(r))
            show_progress(r);
    }
}

void bench_run(struct bench_job *job, struct bench_variant *variant, struct bench_tally *tally)
{
    struct run r = {
        .job = job,
        .engine = variant->is_naive ? NULL : &variant->engine,
        .tally = tally,
        .number = ++job->n_runs,
    };
    struct kvf_stats before = {.size = sizeof(before)};
    struct kvf_stats after = {.size = sizeof(after)};

    if (!slots_alloc(&r))
        world_abort(job->world, "out of memory");
    if (r.engine)
        (void)job->kvf->engine_stats(r.engine->engine, &before);
    world_barrier(job->world);
    r.start_ns = kvfi_now_ns();
    r.progress_ns = r.start_ns;
    if (job->options.pace == BENCH_PACE_ROUNDS)
        run_rounds(&r);
    else
        run_window(&r);
    bench_guards_verify(job, tally);
    if (r.engine) {
        (void)job->kvf->engine_stats(r.engine->engine, &after);
        tally->sums[BENCH_SENT_BYTES] += after.bytes_sent - before.bytes_sent;
        tally->sums[BENCH_FILLER_BYTES] += after.filler_bytes - before.filler_bytes;
        tally->sums[BENCH_PACK_NS] += after.pack_ns - before.pack_ns;
        tally->sums[BENCH_LANE_WIRE_NS] += after.wire_ns - before.wire_ns;
        tally->sums[BENCH_LANE_UNPACK_NS] += after.unpack_ns - before.unpack_ns;
    }
    tally->sums[BENCH_EXPECTED_BYTES] += job->bytes_expected;
    slots_free(&r);
}
