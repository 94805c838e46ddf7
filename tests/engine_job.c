/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_job.h"

#include <check.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"

static void ok(const struct job *job, kvf_status_t status, const char *what)
{
    ck_assert_msg(status == KVF_OK, "%s: %s: %s", what, job->kvf->status_name(status),
                  job->kvf->error_text());
}

static void log_line(void *ctx, enum kvf_log_level level, const char *topic, const char *message)
{
    (void)ctx;
    fprintf(stderr, "[%d %s] %s\n", (int)level, topic, message);
}

static void start_engine(const struct job *job, const struct job_side *side, uint32_t roles,
                         uint32_t index, struct job_rank *rank)
{
    struct kvf_engine_config c = job->config;
    uint32_t dp = side->dp ? side->dp : 1;

    c.size = sizeof(c);
    c.instance = side->name;
    c.roles = roles;
    c.compat = "model";
    c.fabric = job->fabric;
    c.fabric_path = job->fabric_path;
    c.job_key = job->key;
    c.log = log_line;
    c.place = (struct kvf_place){.size = sizeof(c.place),
                                 .rank = index,
                                 .n_ranks = dp * side->tp,
                                 .dp_group = index / side->tp,
                                 .n_dp_groups = dp,
                                 .tp_rank = index % side->tp,
                                 .tp_size = side->tp};
    ok(job, job->kvf->engine_create(&c, &rank->engine), "engine_create");
}

static void add_pool(const struct job *job, const struct job_side *side, uint32_t index,
                     struct job_rank *rank)
{
    struct kvf_pool_desc *d = &rank->desc;
    uint32_t heads = side->latent ? 1 : side->heads / side->tp;

    *d = (struct kvf_pool_desc){.size = sizeof(*d),
                                .role = side->latent ? KVF_POOL_LATENT : KVF_POOL_KV,
                                .memory = KVF_MEMORY_HOST,
                                .format = "bf16",
                                .n_blocks = side->n_blocks,
                                .block_tokens = side->block_tokens,
                                .row_bytes = side->row_bytes,
                                .n_kv = side->latent ? 1 : 2,
                                .n_layers = side->layers,
                                .layers = rank->layers,
                                .n_heads = heads,
                                .first_head = side->latent ? 0 : index % side->tp * heads,
                                .n_heads_total = side->latent ? 1 : side->heads,
                                .n_bases = 1,
                                .bases = &rank->base};
    d->stride_row = side->token_major ? (uint64_t)heads * d->row_bytes : d->row_bytes;
    d->stride_head = side->token_major ? d->row_bytes : (uint64_t)side->block_tokens * d->row_bytes;
    d->stride_kv = (uint64_t)side->block_tokens * heads * d->row_bytes;
    d->stride_layer = d->stride_kv * d->n_kv;
    d->stride_block = d->stride_layer * d->n_layers;
    for (uint32_t l = 0; l < side->layers; l++)
        rank->layers[l] = l;
    rank->n_bytes = d->stride_block * side->n_blocks;
    rank->memory = calloc(1, rank->n_bytes);
    ck_assert_ptr_nonnull(rank->memory);
    rank->base = rank->memory;
    ok(job, job->kvf->pool_register(rank->engine, d, &rank->pool), "pool_register");
}

void job_instance_start(const struct job *job, const struct job_side *side, uint32_t roles,
                        struct job_instance *ret_instance)
{
    static uint8_t blobs[JOB_RANKS_MAX][8192];
    const void *list[JOB_RANKS_MAX];
    size_t sizes[JOB_RANKS_MAX];
    size_t n;
    struct kvf_instance_desc desc = {.size = sizeof(desc), .blobs = list, .blob_bytes = sizes};

    memset(ret_instance, 0, sizeof(*ret_instance));
    ret_instance->side = *side;
    ret_instance->n_ranks = side->tp * (side->dp ? side->dp : 1);
    ck_assert_uint_le(ret_instance->n_ranks, JOB_RANKS_MAX);
    desc.n_blobs = ret_instance->n_ranks;
    for (uint32_t r = 0; r < ret_instance->n_ranks; r++) {
        start_engine(job, side, roles, r, &ret_instance->ranks[r]);
        add_pool(job, side, r, &ret_instance->ranks[r]);
        ok(job,
           job->kvf->engine_describe(ret_instance->ranks[r].engine, KVF_DESCRIBE_RANK, blobs[r],
                                     sizeof(blobs[r]), &sizes[r]),
           "engine_describe");
        list[r] = blobs[r];
    }
    for (uint32_t r = 0; r < ret_instance->n_ranks; r++) {
        struct kvf_instance *own;

        ok(job, job->kvf->instance_add(ret_instance->ranks[r].engine, &desc, &own),
           "instance_add of the own one");
    }
    ok(job,
       job->kvf->engine_describe(ret_instance->ranks[0].engine, KVF_DESCRIBE_INSTANCE,
                                 ret_instance->handle, sizeof(ret_instance->handle), &n),
       "engine_describe of the instance");
}

void job_connect(const struct job *job, struct job_instance *sink,
                 const struct job_instance *source)
{
    struct kvf_instance_desc desc = {.size = sizeof(desc), .handle = source->handle};

    for (uint32_t r = 0; r < sink->n_ranks; r++) {
        struct kvf_instance *instance;

        ok(job, job->kvf->instance_add(sink->ranks[r].engine, &desc, &instance), "instance_add");
        ok(job, job->kvf->instance_connect(instance, JOB_TIMEOUT_NS), "instance_connect");
    }
}

void job_instance_stop(const struct job *job, struct job_instance *instance)
{
    for (uint32_t r = 0; r < instance->n_ranks; r++) {
        job->kvf->engine_destroy(instance->ranks[r].engine);
        free(instance->ranks[r].memory);
    }
}

/* Address of byte 0 of a row. */
static uint8_t *row_at(const struct job_rank *rank, uint32_t layer, uint32_t kv, uint32_t head,
                       uint64_t token, const uint32_t *blocks)
{
    const struct kvf_pool_desc *d = &rank->desc;

    return rank->memory + blocks[token / d->block_tokens] * d->stride_block +
           layer * d->stride_layer + kv * d->stride_kv + head * d->stride_head +
           token % d->block_tokens * d->stride_row;
}

/* Writes the pattern of one row, or counts the bytes that differ from it. */
static uint64_t visit_row(uint8_t *row, uint32_t row_bytes, uint64_t place, bool write)
{
    uint64_t wrong = 0;

    for (uint32_t b = 0; b < row_bytes; b++) {
        uint8_t want = (uint8_t)kvfi_mix64(place ^ b);

        if (write)
            row[b] = want;
        else
            wrong += row[b] != want;
    }
    return wrong;
}

/* What the bytes of a row are made of. */
static uint64_t row_place(const struct job *job, uint32_t request, uint32_t layer, uint32_t kv,
                          uint32_t head, uint64_t token)
{
    uint64_t h = kvfi_mix64(job->seed ^ ((uint64_t)request << 32 | layer));

    return kvfi_mix64(h ^ ((uint64_t)kv << 32 | head)) ^ (token << 20);
}

static uint64_t visit(const struct job *job, const struct job_rank *rank,
                      const struct job_part *part, bool write)
{
    const struct kvf_pool_desc *d = &rank->desc;
    uint32_t n_rows = d->n_layers * d->n_kv * d->n_heads;
    uint64_t wrong = 0;

    for (uint32_t row = 0; row < n_rows; row++) {
        uint32_t head = row % d->n_heads;
        uint32_t kv = row / d->n_heads % d->n_kv;
        uint32_t layer = row / d->n_heads / d->n_kv;

        for (uint64_t t = part->begin; t < part->end; t++)
            wrong +=
                visit_row(row_at(rank, layer, kv, head, t, part->blocks), (uint32_t)d->row_bytes,
                          row_place(job, part->request, layer, kv, d->first_head + head, t), write);
    }
    return wrong;
}

void job_fill(const struct job *job, struct job_instance *instance, uint32_t rank, uint32_t request,
              const uint32_t *blocks, uint64_t begin, uint64_t end)
{
    const struct job_part part = {request, blocks, begin, end, NULL, 0};

    (void)visit(job, &instance->ranks[rank], &part, true);
}

uint64_t job_wrong(const struct job *job, const struct job_instance *instance, uint32_t rank,
                   uint32_t request, const uint32_t *blocks, uint64_t begin, uint64_t end)
{
    const struct job_part part = {request, blocks, begin, end, NULL, 0};

    return visit(job, &instance->ranks[rank], &part, false);
}

static struct kvf_group_blocks group_of(const struct job_instance *instance,
                                        const struct job_part *part)
{
    uint32_t bt = instance->side.block_tokens;

    return (struct kvf_group_blocks){.size = sizeof(struct kvf_group_blocks),
                                     .n_blocks = (uint32_t)((part->end + bt - 1) / bt),
                                     .blocks = part->blocks,
                                     .tokens = {part->begin, part->end}};
}

struct kvf_task *job_send(const struct job *job, struct job_instance *instance, uint32_t rank,
                          const struct job_part *part, const void *aux, size_t aux_bytes)
{
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_group_blocks group = group_of(instance, part);
    struct kvf_extent extent = {.size = sizeof(extent), .n_groups = 1, .groups = &group};
    struct kvf_task *task = NULL;

    send.request = job->kvf->request_id_u64(part->request);
    send.timeout_ns = JOB_TIMEOUT_NS;
    send.user = part->request;
    ok(job, job->kvf->send(instance->ranks[rank].engine, &send, &extent, aux, aux_bytes, &task),
       "send");
    return task;
}

struct kvf_task *job_recv(const struct job *job, struct job_instance *instance, uint32_t rank,
                          const struct job_part *part, void *aux, size_t aux_capacity)
{
    struct kvf_group_blocks group = group_of(instance, part);
    struct kvf_recv recv = {.size = sizeof(recv),
                            .source = part->source,
                            .request = job->kvf->request_id_u64(part->request),
                            .attempt = KVF_ATTEMPT_ANY,
                            .source_dp_group = part->source_dp,
                            .n_groups = part->begin < part->end ? 1 : 0,
                            .groups = &group,
                            .aux = aux,
                            .aux_capacity = aux_capacity,
                            .timeout_ns = JOB_TIMEOUT_NS,
                            .user = part->request};
    struct kvf_task *task = NULL;

    ok(job, job->kvf->recv(instance->ranks[rank].engine, &recv, &task), "recv");
    return task;
}

void job_open(struct job *job, const char *library_path, const char *fabric_path)
{
    memset(job, 0, sizeof(*job));
    job->library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(job->library != NULL, "%s", dlerror());
    job->kvf = dlsym(job->library, "kvferry_plugin_v1");
    ck_assert_ptr_nonnull(job->kvf);
    job->fabric = "mpi";
    job->fabric_path = fabric_path;
    memset(job->key, 0x5a, sizeof(job->key));
}

kvf_status_t job_end(const struct job *job, struct kvf_task *task, struct kvf_result *ret_result)
{
    struct kvf_result r = {.size = sizeof(r)};

    ok(job, job->kvf->task_wait(task, 2 * JOB_TIMEOUT_NS, &r), "task_wait");
    ok(job, job->kvf->task_release(task), "task_release");
    if (r.status != KVF_OK)
        fprintf(stderr, "task of request ended: %s (%s)\n", job->kvf->status_name(r.status),
                r.message);
    if (ret_result)
        *ret_result = r;
    return r.status;
}
