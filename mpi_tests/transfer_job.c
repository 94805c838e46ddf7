/* SPDX-License-Identifier: Apache-2.0 */
#include "transfer_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"
#include "mpi_check.h"

enum { BLOB_MAX = 16384, UNTOUCHED = 0xEE };

/* ---- what a request is --------------------------------------------------------------------- */

static uint32_t side_instance_ranks(const struct side *side)
{
    return side->tp * side->pp * side->dp;
}

uint32_t side_ranks(const struct side *side)
{
    return side->n_instances * side_instance_ranks(side);
}

uint32_t request_tokens(const struct transfer_case *c, uint32_t request)
{
    static const uint32_t lengths[] = {1, 33, 8, 64, 7, 200, 9, 23, 24, 25, 32, 130};
    uint32_t n = lengths[request % (sizeof(lengths) / sizeof(lengths[0]))];

    return n < c->max_tokens ? n : c->max_tokens;
}

uint32_t request_begin(const struct transfer_case *c, uint32_t request)
{
    return c->prefixes && request % 3 == 1 ? request_tokens(c, request) / 2 : 0;
}

uint32_t request_source(const struct transfer_case *c, uint32_t request)
{
    return request % c->context.n_instances;
}

uint32_t request_source_dp(const struct transfer_case *c, uint32_t request)
{
    return request / c->context.n_instances % c->context.dp;
}

static bool is_of(const struct side *side, uint32_t request, uint32_t instance, uint32_t dp_group)
{
    /* Another stride than the source's, so that all pairs of instances meet. */
    uint32_t k = request / 2 + request;

    return k % side->n_instances == instance && k / side->n_instances % side->dp == dp_group;
}

bool in_request(const struct rank_job *job, uint32_t request)
{
    if (job->side == &job->c->context)
        return request_source(job->c, request) == job->instance &&
               request_source_dp(job->c, request) == job->dp_group;
    return is_of(job->side, request, job->instance, job->dp_group);
}

uint32_t request_aux_bytes(uint32_t request)
{
    return request % 4 == 0 ? 0 : request * 37 % 3000 + 1;
}

uint8_t request_aux_byte(uint32_t request, uint32_t i)
{
    return (uint8_t)kvfi_mix64(((uint64_t)request << 32) + i);
}

static uint8_t pattern(uint32_t request, uint32_t layer, uint32_t kv, uint32_t head, uint32_t token,
                       uint32_t byte)
{
    uint64_t h = ((uint64_t)request << 40) ^ ((uint64_t)layer << 24) ^ ((uint64_t)kv << 20) ^ head;

    return (uint8_t)kvfi_mix64(h * 0x9E3779B97F4A7C15u + ((uint64_t)token << 16) + byte);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Requests own blocks, in an order of their own. */
static void blocks_of(const struct rank_job *job, uint32_t request, uint32_t *ret_blocks)
{
    uint32_t n = job->blocks_per_request;

    for (uint32_t i = 0; i < n; i++)
        ret_blocks[i] = request * n + (i * 7 + request) % n;
}

static void write_range(const struct rank_job *job, uint8_t *at, uint32_t request, uint32_t begin,
                        uint32_t end)
{
    const struct kvf_pool_desc *d = &job->desc;
    uint32_t blocks[64];

    blocks_of(job, request, blocks);
    for (uint32_t l = 0; l < d->n_layers; l++)
        for (uint32_t row = 0; row < d->n_kv * d->n_heads; row++)
            for (uint32_t t = begin; t < end; t++) {
                uint32_t kv = row / d->n_heads;
                uint32_t head = row % d->n_heads;
                uint8_t *p = at + blocks[t / d->block_tokens] * d->stride_block +
                             l * d->stride_layer + kv * d->stride_kv + head * d->stride_head +
                             t % d->block_tokens * d->stride_row;

                for (uint32_t b = 0; b < d->row_bytes; b++)
                    p[b] = pattern(request, job->first_layer + l, kv, job->first_head + head, t, b);
            }
}

uint64_t rank_job_wrong(const struct rank_job *job)
{
    uint64_t wrong = 0;

    for (size_t i = 0; i < job->n_bytes; i++)
        wrong += job->memory[i] != job->image[i];
    return wrong;
}

static void make_memory(struct rank_job *job)
{
    struct kvf_pool_desc *d = &job->desc;
    uint32_t bt = job->side->block_tokens;

    job->blocks_per_request = (job->c->max_tokens + bt - 1) / bt;
    MPI_CHECK(job->blocks_per_request <= 64 && job->n_layers <= 64);
    *d = (struct kvf_pool_desc){.size = sizeof(*d),
                                .role = job->c->latent ? KVF_POOL_LATENT : KVF_POOL_KV,
                                .memory = KVF_MEMORY_HOST,
                                .format = "test",
                                .n_blocks = job->c->n_requests * job->blocks_per_request,
                                .block_tokens = bt,
                                .row_bytes = job->c->row_bytes,
                                .n_kv = job->c->latent ? 1 : 2,
                                .n_layers = job->n_layers,
                                .layers = job->layer_ids,
                                .n_heads = job->n_heads,
                                .first_head = job->first_head,
                                .n_heads_total = job->c->heads,
                                .n_bases = 1,
                                .bases = &job->base};
    d->stride_row = job->side->token_major ? job->n_heads * d->row_bytes : d->row_bytes;
    d->stride_head = job->side->token_major ? d->row_bytes : bt * d->row_bytes;
    d->stride_kv = (uint64_t)bt * job->n_heads * d->row_bytes;
    d->stride_layer = d->stride_kv * d->n_kv;
    d->stride_block = d->stride_layer * d->n_layers;
    for (uint32_t l = 0; l < job->n_layers; l++)
        job->layer_ids[l] = job->first_layer + l;
    job->n_bytes = d->stride_block * d->n_blocks;
    MPI_CHECK(job->n_bytes > 0);
    job->memory = malloc(job->n_bytes);
    job->image = malloc(job->n_bytes);
    MPI_CHECK(job->memory && job->image);
    memset(job->memory, UNTOUCHED, job->n_bytes);
    memset(job->image, UNTOUCHED, job->n_bytes);
    job->base = job->memory;
    for (uint32_t r = 0; r < job->c->n_requests; r++) {
        if (!in_request(job, r))
            continue;
        write_range(job, job->image, r,
                    job->side == &job->c->context ? 0 : request_begin(job->c, r),
                    request_tokens(job->c, r));
        if (job->side == &job->c->context)
            write_range(job, job->memory, r, 0, request_tokens(job->c, r));
    }
}

/* ---- place and engine ---------------------------------------------------------------------- */

/* Uneven where it does not divide: the first stages have one layer more. */
static void cut_layers(struct rank_job *job, uint32_t pp_rank)
{
    uint32_t each = job->c->layers / job->side->pp;
    uint32_t more = job->c->layers % job->side->pp;

    job->n_layers = each + (pp_rank < more);
    job->first_layer = pp_rank * each + (pp_rank < more ? pp_rank : more);
}

static void find_place(struct rank_job *job, struct kvf_place *ret_place)
{
    uint32_t n_context = side_ranks(&job->c->context);
    uint32_t index = job->world_rank < n_context ? job->world_rank : job->world_rank - n_context;
    uint32_t n;

    job->side = job->world_rank < n_context ? &job->c->context : &job->c->generation;
    n = side_instance_ranks(job->side);
    job->instance = index / n;
    job->rank = index % n;
    job->dp_group = job->rank / job->side->tp % job->side->dp;
    cut_layers(job, job->rank / (job->side->tp * job->side->dp));
    job->n_heads = job->c->latent ? 1 : job->c->heads / job->side->tp;
    job->first_head = job->c->latent ? 0 : job->rank % job->side->tp * job->n_heads;
    *ret_place = (struct kvf_place){.size = sizeof(*ret_place),
                                    .rank = job->rank,
                                    .n_ranks = n,
                                    .pp_rank = job->rank / (job->side->tp * job->side->dp),
                                    .pp_size = job->side->pp,
                                    .dp_group = job->dp_group,
                                    .n_dp_groups = job->side->dp,
                                    .tp_rank = job->rank % job->side->tp,
                                    .tp_size = job->side->tp};
}

static void log_line(void *ctx, enum kvf_log_level level, const char *topic, const char *message)
{
    const struct rank_job *job = ctx;

    fprintf(stderr, "rank %u: [%d %s] %s\n", job->world_rank, (int)level, topic, message);
}

static void must(const struct rank_job *job, kvf_status_t status, const char *what)
{
    if (status != KVF_OK)
        fprintf(stderr, "rank %u: %s: %s: %s\n", job->world_rank, what,
                job->kvf->status_name(status), job->kvf->error_text());
    MPI_CHECK(status == KVF_OK);
}

static void create(struct rank_job *job, const struct kvf_place *place, const uint8_t *key)
{
    char name[32];
    struct kvf_engine_config config = {.size = sizeof(config),
                                       .instance = name,
                                       .place = *place,
                                       .roles = job->side == &job->c->context
                                                    ? (uint32_t)KVF_ROLE_CONTEXT
                                                    : (uint32_t)KVF_ROLE_GENERATION,
                                       .compat = "test",
                                       .fabric = "mpi",
                                       .job_key = key,
                                       .n_send_lanes = job->c->n_lanes,
                                       .n_recv_lanes = job->c->n_lanes,
                                       .slot_bytes = job->c->slot_bytes,
                                       .log = log_line,
                                       .log_ctx = job};

    snprintf(name, sizeof(name), "%s%u", job->side->name, job->instance);
    must(job, job->kvf->engine_create(&config, &job->engine), "engine_create");
    must(job, job->kvf->pool_register(job->engine, &job->desc, &job->pool), "pool_register");
}

/* Everybody's bytes, in slots of BLOB_MAX. */
static void gather(const uint8_t *mine, size_t n_mine, uint8_t *all, size_t *sizes)
{
    int n_ranks;
    uint64_t n = n_mine;

    MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks) == MPI_SUCCESS);
    MPI_CHECK(MPI_Allgather(mine, BLOB_MAX, MPI_BYTE, all, BLOB_MAX, MPI_BYTE, MPI_COMM_WORLD) ==
              MPI_SUCCESS);
    MPI_CHECK(MPI_Allgather(&n, 1, MPI_UINT64_T, sizes, 1, MPI_UINT64_T, MPI_COMM_WORLD) ==
              MPI_SUCCESS);
}

static void add_own(struct rank_job *job, uint8_t *all, size_t *sizes)
{
    uint8_t mine[BLOB_MAX] = {0};
    const void *blobs[64];
    size_t blob_bytes[64];
    uint32_t n = side_instance_ranks(job->side);
    uint32_t first = job->world_rank - job->rank;
    struct kvf_instance_desc desc = {
        .size = sizeof(desc), .n_blobs = n, .blobs = blobs, .blob_bytes = blob_bytes};
    struct kvf_instance *own;
    size_t n_bytes = 0;

    must(job,
         job->kvf->engine_describe(job->engine, KVF_DESCRIBE_RANK, mine, sizeof(mine), &n_bytes),
         "engine_describe");
    gather(mine, n_bytes, all, sizes);
    for (uint32_t r = 0; r < n; r++) {
        blobs[r] = all + (size_t)(first + r) * BLOB_MAX;
        blob_bytes[r] = sizes[first + r];
    }
    must(job, job->kvf->instance_add(job->engine, &desc, &own), "instance_add of the own one");
}

static void connect(struct rank_job *job, uint8_t *all, size_t *sizes)
{
    uint8_t mine[BLOB_MAX] = {0};
    size_t n_bytes = 0;

    must(job,
         job->kvf->engine_describe(job->engine, KVF_DESCRIBE_INSTANCE, mine, KVF_HANDLE_MAX,
                                   &n_bytes),
         "engine_describe of the instance");
    gather(mine, n_bytes, all, sizes);
    if (job->side == &job->c->context)
        return;
    for (uint32_t i = 0; i < job->c->context.n_instances; i++) {
        size_t rank = (size_t)i * side_instance_ranks(&job->c->context);
        struct kvf_instance_desc desc = {.size = sizeof(desc),
                                         .handle = (const char *)all + rank * BLOB_MAX};
        struct kvf_instance *instance;

        must(job, job->kvf->instance_add(job->engine, &desc, &instance), "instance_add");
        /* Every other one connects at its first receive. */
        if (i % 2 == 0)
            must(job, job->kvf->instance_connect(instance, TASK_TIMEOUT_NS), "instance_connect");
    }
}

void rank_job_start(struct rank_job *job, const struct transfer_case *c,
                    const struct kvferry_plugin_v1 *kvf, const struct kvferry_mpi_v1 *mpi)
{
    char text[KVF_MESSAGE_MAX] = "";
    uint8_t key[KVF_JOB_KEY_BYTES];
    struct kvf_place place;
    size_t sizes[64];
    uint32_t n_ranks;
    uint8_t *all;

    memset(job, 0, sizeof(*job));
    job->c = c;
    job->kvf = kvf;
    MPI_CHECK(mpi->attach(NULL, text, sizeof(text)) == KVF_OK);
    MPI_CHECK(mpi->place(&job->world_rank, &n_ranks) == KVF_OK);
    MPI_CHECK(n_ranks == side_ranks(&c->context) + side_ranks(&c->generation) && n_ranks <= 64);
    MPI_CHECK(mpi->job_key(key, text, sizeof(text)) == KVF_OK);
    find_place(job, &place);
    make_memory(job);
    create(job, &place, key);
    all = malloc((size_t)n_ranks * BLOB_MAX);
    MPI_CHECK(all != NULL);
    add_own(job, all, sizes);
    connect(job, all, sizes);
    free(all);
}

void rank_job_stop(struct rank_job *job)
{
    job->kvf->engine_destroy(job->engine);
    free(job->memory);
    free(job->image);
}

/* ---- transfers ----------------------------------------------------------------------------- */

struct kvf_task *request_send(struct rank_job *job, uint32_t request)
{
    uint32_t blocks[64];
    uint8_t aux[4096];
    uint32_t n_aux = request_aux_bytes(request);
    uint32_t n_tokens = request_tokens(job->c, request);
    struct kvf_group_blocks group = {.size = sizeof(group),
                                     .n_blocks = job->blocks_per_request,
                                     .blocks = blocks,
                                     .tokens = {0, n_tokens}};
    struct kvf_extent extent = {.size = sizeof(extent), .n_groups = 1, .groups = &group};
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_task *task = NULL;

    blocks_of(job, request, blocks);
    for (uint32_t i = 0; i < n_aux; i++)
        aux[i] = request_aux_byte(request, i);
    send.request = job->kvf->request_id_u64(request);
    send.timeout_ns = TASK_TIMEOUT_NS;
    send.priority = (int32_t)(request % 3);
    must(job, job->kvf->send(job->engine, &send, &extent, aux, n_aux, &task), "send");
    return task;
}

struct kvf_task *request_recv(struct rank_job *job, uint32_t request, uint8_t *aux,
                              uint32_t aux_capacity)
{
    uint32_t blocks[64];
    char source[32];
    struct kvf_group_blocks group = {
        .size = sizeof(group),
        .n_blocks = job->blocks_per_request,
        .blocks = blocks,
        .tokens = {request_begin(job->c, request), request_tokens(job->c, request)}};
    struct kvf_recv recv = {
        .size = sizeof(recv),
        .source = source,
        .request = job->kvf->request_id_u64(request),
        .attempt = KVF_ATTEMPT_ANY,
        .source_dp_group = request % 5 == 0 ? KVF_DP_UNKNOWN : request_source_dp(job->c, request),
        .n_groups = 1,
        .groups = &group,
        .aux = aux,
        .aux_capacity = aux_capacity,
        .timeout_ns = TASK_TIMEOUT_NS};
    struct kvf_task *task = NULL;

    blocks_of(job, request, blocks);
    snprintf(source, sizeof(source), "%s%u", job->c->context.name, request_source(job->c, request));
    must(job, job->kvf->recv(job->engine, &recv, &task), "recv");
    return task;
}
