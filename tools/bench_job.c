/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"
#include "tools/library.h"
#include "tools/pattern.h"
#include "tools/trace.h"

#define GUARD_EVERY 16u /* one block in so many is a guard */
#define GUARD_MIN 4u

void bench_complain(struct bench_job *job, const char *format, ...)
{
    char text[512];
    va_list args;

    if (job->n_printed++ > BENCH_PRINTED_ERRORS)
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)fprintf(stderr, "kvferry bench: rank %" PRIu32 ": %s\n", world_rank(job->world),
                  job->n_printed > BENCH_PRINTED_ERRORS ? "more of the like is not printed" : text);
}

bool bench_agree(struct world *world, bool ok, const struct tool_error *error)
{
    uint64_t first_bad = ok ? 0 : world_size(world) - world_rank(world);
    uint64_t mine = first_bad;

    world_max(world, &first_bad, 1);
    if (!ok && mine == first_bad)
        (void)fprintf(stderr, "kvferry bench: %s\n", error->text);
    return first_bad == 0;
}

struct kvf_token_range bench_range(const struct bench_options *o, uint32_t group, uint32_t n_tokens,
                                   bool is_wanted)
{
    uint64_t window = o->model.group_window_tokens[group];
    struct kvf_token_range range = {.begin = 0, .end = n_tokens};

    if (window && n_tokens > window)
        range.begin = n_tokens - window;
    if (is_wanted)
        range.begin = kvfi_min_u64(kvfi_max_u64(range.begin, o->prefix_tokens), n_tokens);
    return range;
}

uint32_t bench_first_rank(const struct bench_options *o, bool is_context, uint32_t instance)
{
    if (is_context)
        return instance * topology_instance_ranks(&o->context);
    return topology_ranks(&o->context) + instance * topology_instance_ranks(&o->generation);
}

void bench_each_rank(const struct bench_options *o, const struct bench_request *request,
                     bool is_context, bench_rank_fn each, void *ctx)
{
    const struct topology *t = is_context ? &o->context : &o->generation;
    uint32_t instance = is_context ? request->context : request->generation;
    uint32_t dp = is_context ? request->context_dp : request->generation_dp;
    uint32_t first = bench_first_rank(o, is_context, instance);
    struct kvf_place place;

    for (uint32_t r = 0; r < topology_instance_ranks(t); r++) {
        topology_place(t, r, 1, &place);
        if (place.dp_group == dp)
            each(ctx, first + r);
    }
}

/* -- the list of requests -- */

static bool list_from_trace(struct bench_job *job, struct tool_error *error)
{
    const struct bench_options *o = &job->options;
    struct trace trace;

    if (!trace_load(o->trace_path, o->n_requests, o->max_tokens, error, &trace))
        return false;
    job->n_requests = (uint32_t)trace.n_requests;
    job->requests = kvfi_calloc(trace.n_requests, sizeof(*job->requests));
    for (uint32_t i = 0; job->requests && i < job->n_requests; i++) {
        job->requests[i].n_tokens = (uint32_t)trace.requests[i].n_tokens;
        job->requests[i].arrival_ns =
            (uint64_t)((double)(trace.requests[i].arrival_ns - trace.requests[0].arrival_ns) /
                       o->speed);
    }
    trace_fini(&trace);
    return job->requests || tool_fail(error, "out of memory");
}

static bool list_from_options(struct bench_job *job, struct tool_error *error)
{
    const struct bench_options *o = &job->options;

    job->n_requests = (uint32_t)o->n_requests;
    job->requests = kvfi_calloc(job->n_requests, sizeof(*job->requests));
    if (!job->requests)
        return tool_fail(error, "out of memory");
    for (uint32_t i = 0; i < job->n_requests; i++) {
        uint64_t n = o->tokens[i % o->n_tokens];

        job->requests[i].n_tokens = (uint32_t)(o->max_tokens ? kvfi_min_u64(n, o->max_tokens) : n);
    }
    return true;
}

/* Instances take turns, generation ones more slowly so that all pairs meet; within an instance the
 * attention-DP groups take turns. */
static bool route(struct bench_job *job, struct tool_error *error)
{
    const struct topology *c = &job->options.context;
    const struct topology *g = &job->options.generation;
    uint32_t *met = kvfi_calloc((size_t)c->n_instances + g->n_instances, sizeof(*met));

    if (!met)
        return tool_fail(error, "out of memory");
    for (uint32_t i = 0; i < job->n_requests; i++) {
        struct bench_request *r = &job->requests[i];

        r->context = i % c->n_instances;
        r->generation = i / c->n_instances % g->n_instances;
        r->context_dp = met[r->context]++ % c->dp;
        r->generation_dp = met[c->n_instances + r->generation]++ % g->dp;
    }
    kvfi_free(met);
    return true;
}

/* -- this rank -- */

static bool is_mine(const struct bench_job *job, const struct bench_request *r)
{
    if (job->is_context)
        return r->context == job->instance && r->context_dp == job->shape.place.dp_group;
    return r->generation == job->instance && r->generation_dp == job->shape.place.dp_group;
}

static bool take_place(struct bench_job *job, struct tool_error *error)
{
    const struct bench_options *o = &job->options;
    uint32_t rank = world_rank(job->world);
    const struct topology *t;

    job->is_context = rank < topology_ranks(&o->context);
    t = job->is_context ? &o->context : &o->generation;
    if (!job->is_context)
        rank -= topology_ranks(&o->context);
    job->instance = rank / topology_instance_ranks(t);
    if (!shape_init(&o->model, t, &o->side[job->is_context ? 0 : 1],
                    rank % topology_instance_ranks(t), error, &job->shape))
        return false;
    job->mine = kvfi_calloc(job->n_requests, sizeof(*job->mine));
    if (!job->mine)
        return tool_fail(error, "out of memory");
    for (uint32_t i = 0; i < job->n_requests; i++) {
        if (is_mine(job, &job->requests[i]))
            job->mine[job->n_mine++] = i;
    }
    job->n_slots = (uint32_t)kvfi_min_u64(o->concurrency, job->n_mine ? job->n_mine : 1);
    return true;
}

static int rising(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/*
 * Blocks of a pool: enough for the n_slots largest requests at once, so that whichever are in work
 * fit, and the guards.
 */
static bool size_pool(struct bench_job *job, uint32_t p, struct tool_error *error)
{
    struct shape_pool *pool = &job->shape.pools[p];
    uint32_t *needs = kvfi_calloc((size_t)job->n_mine + 1, sizeof(*needs));
    uint64_t n_blocks = 0;
    uint64_t n_guards;

    if (!needs)
        return tool_fail(error, "out of memory");
    for (uint32_t i = 0; i < job->n_mine; i++) {
        uint32_t n_tokens = job->requests[job->mine[i]].n_tokens;
        struct kvf_token_range range =
            bench_range(&job->options, pool->group, n_tokens, !job->is_context);

        needs[i] = shape_blocks_of(&job->shape, range).n;
        job->max_blocks = (uint32_t)kvfi_max_u64(job->max_blocks, needs[i]);
        if (!job->is_context)
            job->bytes_expected += shape_range_bytes(&job->shape, pool, range);
    }
    qsort(needs, job->n_mine, sizeof(*needs), rising);
    for (uint32_t i = 0; i < job->n_slots && i < job->n_mine; i++)
        n_blocks += needs[job->n_mine - 1 - i];
    kvfi_free(needs);
    n_guards = kvfi_max_u64(GUARD_MIN, kvfi_min_u64(n_blocks / GUARD_EVERY, 1024));
    if (n_blocks + n_guards >= UINT32_MAX)
        return tool_fail(error, "%" PRIu64 " blocks are more than a pool can have", n_blocks);
    shape_pool_set_blocks(pool, (uint32_t)(n_blocks + n_guards));
    return blocks_init(pool->n_blocks, (uint32_t)n_guards,
                       job->options.seed ^ (uint64_t)world_rank(job->world) << 32, error,
                       &job->blocks[p]);
}

/* -- memory -- */

static uint64_t available_bytes(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t n_kib = 0;

    if (!file)
        return UINT64_MAX;
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, "MemAvailable:", 13) == 0)
            n_kib = strtoull(line + 13, NULL, 10);
    }
    (void)fclose(file);
    return n_kib ? n_kib * 1024 : UINT64_MAX;
}

static bool rank_bytes(struct bench_job *job, uint32_t n_engines, struct tool_error *error,
                       uint64_t *ret_bytes)
{
    struct kvf_engine_config config;
    struct kvf_footprint footprint = {.size = sizeof(footprint)};
    kvf_status_t status;
    uint64_t n_bytes = 0;
    uint32_t n_peers =
        topology_instance_ranks(job->is_context ? &job->options.generation : &job->options.context);

    for (uint32_t p = 0; p < job->shape.n_pools; p++)
        n_bytes += shape_pool_block_bytes(&job->shape.pools[p]) * job->shape.pools[p].n_blocks;
    for (uint32_t e = 0; e < n_engines; e++) {
        bench_engine_config(job, job->options.lanes[e], &config);
        status = job->kvf->engine_footprint(&config, n_peers, &footprint);
        if (status != KVF_OK)
            return tool_fail(error, "engine_footprint: %s", library_why(job->kvf, status));
        n_bytes += footprint.total_bytes;
    }
    *ret_bytes = n_bytes;
    return true;
}

/* Says what it takes and refuses what does not fit. Collective. */
static bool check_memory(struct bench_job *job, uint64_t own_bytes, struct tool_error *error)
{
    uint64_t available = available_bytes();
    uint64_t node = world_node_sum(job->world, own_bytes);
    uint64_t largest = own_bytes;
    uint64_t total = own_bytes;
    char text[3][32];

    world_max(job->world, &largest, 1);
    world_sum(job->world, &total, 1);
    if (world_rank(job->world) == 0 && !job->options.is_quiet) {
        (void)printf("memory: at most %s a rank, %s in total; this machine has %s available\n",
                     tool_bytes_text(largest, text[0], sizeof(text[0])),
                     tool_bytes_text(total, text[1], sizeof(text[1])),
                     tool_bytes_text(available, text[2], sizeof(text[2])));
        (void)fflush(stdout);
    }
    if (node <= available)
        return true;
    return tool_fail(error,
                     "the ranks of this machine need %s, %s are available: take fewer --layers, "
                     "--tokens or --concurrency",
                     tool_bytes_text(node, text[0], sizeof(text[0])),
                     tool_bytes_text(available, text[1], sizeof(text[1])));
}

static bool plan_locally(struct bench_job *job, uint32_t n_engines, struct tool_error *error,
                         uint64_t *ret_bytes)
{
    const struct bench_options *o = &job->options;
    bool ok = o->trace_path ? list_from_trace(job, error) : list_from_options(job, error);

    ok = ok && route(job, error) && take_place(job, error);
    for (uint32_t p = 0; ok && p < job->shape.n_pools; p++)
        ok = size_pool(job, p, error);
    return ok && rank_bytes(job, n_engines, error, ret_bytes);
}

bool bench_job_open(struct bench_job *job, uint32_t n_engines)
{
    struct tool_error error = {""};
    uint64_t own_bytes = 0;
    bool ok;

    job->guard_key = pattern_request_key(job->options.seed, UINT64_MAX, world_rank(job->world));
    ok = plan_locally(job, n_engines, &error, &own_bytes);
    if (!bench_agree(job->world, ok, &error))
        return false;
    ok = check_memory(job, own_bytes, &error);
    for (uint32_t p = 0; ok && p < job->shape.n_pools; p++)
        ok = shape_pool_alloc(&job->shape.pools[p], &error);
    if (!bench_agree(job->world, ok, &error))
        return false;
    bench_guards_fill(job);
    return true;
}

void bench_job_close(struct bench_job *job)
{
    for (uint32_t p = 0; p < MODEL_GROUPS_MAX; p++)
        blocks_fini(&job->blocks[p]);
    shape_fini(&job->shape);
    kvfi_free(job->mine);
    kvfi_free(job->requests);
    job->mine = NULL;
    job->requests = NULL;
}
