/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench.h"

#include <inttypes.h>
#include <string.h>

#include "collectives/util.h"
#include "tools/library.h"

#define BLOB_BYTES_MAX (1u << 20)

/* The engine's log on stderr, a line at a time. */
static void log_line(void *ctx, enum kvf_log_level level, const char *topic, const char *message)
{
    static const char *const names[] = {"", "error", "warning", "info", "debug", "trace"};
    const char *instance = ctx;

    (void)fprintf(stderr, "kvferry bench: %s: %s: %s: %s\n", instance,
                  (size_t)level < KVFI_ARRAY_LEN(names) ? names[level] : "", topic, message);
}

void bench_engine_config(const struct bench_job *job, uint32_t n_lanes,
                         struct kvf_engine_config *ret_config)
{
    const struct bench_options *o = &job->options;

    *ret_config = (struct kvf_engine_config){
        .size = sizeof(*ret_config),
        .place = job->shape.place,
        .roles = job->is_context ? KVF_ROLE_CONTEXT : KVF_ROLE_GENERATION,
        .fabric = o->fabric,
        .fabric_path = strcmp(o->fabric, "mpi") == 0 ? job->mpi_path : NULL,
        .n_send_lanes = job->is_context ? n_lanes : 0,
        .n_recv_lanes = job->is_context ? 0 : n_lanes,
        .slot_bytes = o->slot_bytes,
        .links_per_peer = (uint32_t)o->links_per_peer,
        .default_timeout_ns = o->timeout_s * 1000000000u,
        .connect_timeout_ns = o->timeout_s * 1000000000u,
        .max_aux_bytes = (uint32_t)o->aux_bytes,
        .log_level = (uint32_t)o->log_level,
        .log = log_line,
    };
}

void bench_instance_name(const struct bench_engine *engine, bool is_context, uint32_t instance,
                         char *name)
{
    (void)snprintf(name, KVF_NAME_MAX, "%s%" PRIu32 "%s", is_context ? "ctx" : "gen", instance,
                   engine->suffix);
}

static bool make_key(struct bench_job *job, unsigned char key[KVF_JOB_KEY_BYTES],
                     struct tool_error *error)
{
    char text[256] = "";

    if (job->mpi->job_key(key, text, sizeof(text)) != KVF_OK)
        return tool_fail(error, "job_key: %s", text);
    return true;
}

static bool create(struct bench_job *job, struct bench_engine *e, const unsigned char *key,
                   struct tool_error *error)
{
    struct kvf_engine_config config;
    char compat[KVF_NAME_MAX];
    kvf_status_t status;

    (void)snprintf(compat, sizeof(compat), "%.48s/%" PRIu32, job->options.model.name,
                   job->options.model.n_layers);
    bench_engine_config(job, e->n_lanes, &config);
    config.instance = e->name;
    config.compat = compat;
    config.job_key = key;
    config.log_ctx = e->name;
    status = e->kvf->engine_create(&config, &e->engine);
    if (status != KVF_OK)
        return tool_fail(error, "engine_create: %s", library_why(e->kvf, status));
    for (uint32_t p = 0; p < job->shape.n_pools; p++) {
        struct kvf_pool_desc desc;
        struct kvf_pool *pool;

        shape_pool_desc(&job->shape, &job->shape.pools[p], job->options.model.format, &desc);
        status = e->kvf->pool_register(e->engine, &desc, &pool);
        if (status != KVF_OK)
            return tool_fail(error, "pool_register: %s", library_why(e->kvf, status));
    }
    return true;
}

/* This rank's blob or its instance's handle; owned by the caller. */
static bool describe(struct bench_engine *e, uint32_t what, struct tool_error *error,
                     void **ret_bytes, size_t *ret_n_bytes)
{
    size_t n_bytes = 0;
    kvf_status_t status = e->kvf->engine_describe(e->engine, what, NULL, 0, &n_bytes);
    void *bytes;

    if (status != KVF_OK && status != KVF_ENOSPC)
        return tool_fail(error, "engine_describe: %s", library_why(e->kvf, status));
    if (n_bytes == 0 || n_bytes > BLOB_BYTES_MAX)
        return tool_fail(error, "engine_describe wants %zu bytes", n_bytes);
    bytes = kvfi_calloc(1, n_bytes);
    if (!bytes)
        return tool_fail(error, "out of memory");
    status = e->kvf->engine_describe(e->engine, what, bytes, n_bytes, &n_bytes);
    if (status != KVF_OK) {
        kvfi_free(bytes);
        return tool_fail(error, "engine_describe: %s", library_why(e->kvf, status));
    }
    *ret_bytes = bytes;
    *ret_n_bytes = n_bytes;
    return true;
}

static bool add_own(struct bench_job *job, struct bench_engine *e, const struct world_bytes *all,
                    struct tool_error *error)
{
    uint32_t first = bench_first_rank(&job->options, job->is_context, job->instance);
    uint32_t n = job->shape.place.n_ranks;
    const void **blobs = kvfi_calloc(n, sizeof(*blobs));
    size_t *sizes = kvfi_calloc(n, sizeof(*sizes));
    struct kvf_instance_desc desc = {
        .size = sizeof(desc), .n_blobs = n, .blobs = blobs, .blob_bytes = sizes};
    struct kvf_instance *instance;
    kvf_status_t status;
    bool ok = blobs && sizes;

    for (uint32_t r = 0; ok && r < n; r++) {
        blobs[r] = all[first + r].bytes;
        sizes[r] = all[first + r].n_bytes;
    }
    status = ok ? e->kvf->instance_add(e->engine, &desc, &instance) : KVF_ENOMEM;
    if (status != KVF_OK)
        ok = tool_fail(error, "instance_add of %s: %s", e->name, library_why(e->kvf, status));
    kvfi_free(blobs);
    kvfi_free(sizes);
    return ok;
}

/* Make every context instance known to this receiver, and connect. */
static bool add_sources(struct bench_job *job, struct bench_engine *e,
                        const struct world_bytes *all, struct tool_error *error)
{
    for (uint32_t c = 0; c < job->options.context.n_instances; c++) {
        uint32_t leader = bench_first_rank(&job->options, true, c);
        struct kvf_instance_desc desc = {.size = sizeof(desc), .handle = all[leader].bytes};
        struct kvf_instance *instance;
        kvf_status_t status = e->kvf->instance_add(e->engine, &desc, &instance);

        if (status != KVF_OK)
            return tool_fail(error, "instance_add of context %" PRIu32 ": %s", c,
                             library_why(e->kvf, status));
        status = e->kvf->instance_connect(instance, job->options.timeout_s * 1000000000u);
        if (status != KVF_OK)
            return tool_fail(error, "instance_connect to context %" PRIu32 ": %s", c,
                             library_why(e->kvf, status));
    }
    return true;
}

/* Tell everybody one thing; false on all ranks if one of them could not. */
static bool share(struct bench_job *job, struct bench_engine *e, uint32_t what, bool is_mine,
                  struct world_bytes *all, void **ret_memory)
{
    struct tool_error error = {""};
    void *bytes = NULL;
    size_t n_bytes = 0;
    bool ok = !is_mine || describe(e, what, &error, &bytes, &n_bytes);

    ok = bench_agree(job->world, ok, &error);
    if (ok && !world_gather_all(job->world, bytes, n_bytes, all, ret_memory)) {
        ok = tool_fail(&error, "out of memory");
        (void)bench_agree(job->world, ok, &error);
    }
    kvfi_free(bytes);
    return ok;
}

static bool introduce(struct bench_job *job, struct bench_engine *e, struct world_bytes *all)
{
    struct tool_error error = {""};
    void *memory = NULL;
    bool ok;

    if (!share(job, e, KVF_DESCRIBE_RANK, true, all, &memory))
        return false;
    ok = add_own(job, e, all, &error);
    kvfi_free(memory);
    if (!bench_agree(job->world, ok, &error))
        return false;
    if (!share(job, e, KVF_DESCRIBE_INSTANCE, job->shape.place.rank == 0, all, &memory))
        return false;
    ok = job->is_context || add_sources(job, e, all, &error);
    kvfi_free(memory);
    return bench_agree(job->world, ok, &error);
}

bool bench_engine_open(struct bench_job *job, uint32_t variant, uint32_t n_lanes,
                       struct bench_engine *ret_engine)
{
    struct bench_engine *e = ret_engine;
    struct world_bytes *all = kvfi_calloc(world_size(job->world), sizeof(*all));
    unsigned char key[KVF_JOB_KEY_BYTES] = {0};
    struct tool_error error = {""};
    bool ok = all != NULL;

    *e = (struct bench_engine){.kvf = job->kvf, .n_lanes = n_lanes};
    if (variant > 0)
        (void)snprintf(e->suffix, sizeof(e->suffix), "-v%" PRIu32, variant);
    bench_instance_name(e, job->is_context, job->instance, e->name);
    if (!ok)
        (void)tool_fail(&error, "out of memory");
    if (!bench_agree(job->world, ok, &error) || !all ||
        !bench_agree(job->world, make_key(job, key, &error), &error)) {
        kvfi_free(all);
        return false;
    }
    ok = bench_agree(job->world, create(job, e, key, &error), &error) && introduce(job, e, all);
    kvfi_free(all);
    return ok;
}

void bench_engine_close(struct bench_engine *engine)
{
    if (engine->kvf && engine->engine)
        engine->kvf->engine_destroy(engine->engine);
    engine->engine = NULL;
}
