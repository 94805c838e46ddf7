/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host can get wrong: each gets its status and a sentence with the field and both values,
 * nothing is lost, and the engines still move a request afterwards.
 */
#include <string.h>

#include "engine_job.h"
#include "harness.h"

static const char *library_path;
static const char *fabric_path;

static struct job job;
static struct job_instance ctx;
static struct job_instance gen;

static const uint32_t source_blocks[] = {7, 3, 60, 1};
static const uint32_t sink_blocks[] = {5, 63, 0, 17};

enum { TOKENS = 30, REQUEST = 5 };

static struct job_side side(const char *name)
{
    return (struct job_side){.name = name,
                             .tp = 1,
                             .heads = 2,
                             .layers = 2,
                             .block_tokens = 8,
                             .n_blocks = 64,
                             .row_bytes = 32};
}

static void setup(void)
{
    struct job_side from = side("ctx");
    struct job_side to = side("gen");
    job_open(&job, library_path, fabric_path);
    job_instance_start(&job, &from, KVF_ROLE_CONTEXT, &ctx);
    job_instance_start(&job, &to, KVF_ROLE_GENERATION, &gen);
    job_connect(&job, &gen, &ctx);
}

/* The engines have kept going. */
static void teardown(void)
{
    struct kvf_task *send;
    struct kvf_task *recv;

    job_fill(&job, &ctx, 0, REQUEST, source_blocks, 0, TOKENS);
    send = JOB_SEND(&job, &ctx, 0, REQUEST, source_blocks, TOKENS, NULL, 0);
    recv = JOB_RECV(&job, &gen, 0, "ctx", 0, REQUEST, sink_blocks, 0, TOKENS, NULL, 0);
    ck_assert_int_eq(job_end(&job, recv, NULL), KVF_OK);
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_OK);
    ck_assert_uint_eq(job_wrong(&job, &gen, 0, REQUEST, sink_blocks, 0, TOKENS), 0);
    job_instance_stop(&job, &gen);
    job_instance_stop(&job, &ctx);
}

/* The call was refused, and its sentence has all of the words. */
static void refused(kvf_status_t got, kvf_status_t want, const char *a, const char *b,
                    const char *c)
{
    const char *text = job.kvf->error_text();

    ck_assert_msg(got == want, "%s, not %s: %s", job.kvf->status_name(got),
                  job.kvf->status_name(want), text);
    ck_assert_msg(strstr(text, a) && strstr(text, b) && strstr(text, c),
                  "\"%s\" lacks \"%s\", \"%s\" or \"%s\"", text, a, b, c);
}

/* A receive of one group; what the caller changes is wrong. */
static struct kvf_group_blocks group;

static struct kvf_recv a_recv(void)
{
    group = (struct kvf_group_blocks){
        .size = sizeof(group), .n_blocks = 4, .blocks = sink_blocks, .tokens = {0, TOKENS}};
    return (struct kvf_recv){.size = sizeof(struct kvf_recv),
                             .source = "ctx",
                             .request = job.kvf->request_id_u64(1),
                             .attempt = KVF_ATTEMPT_ANY,
                             .n_groups = 1,
                             .groups = &group,
                             .timeout_ns = JOB_TIMEOUT_NS};
}

static kvf_status_t try_recv(const struct kvf_recv *recv)
{
    struct kvf_task *task = NULL;
    kvf_status_t status = job.kvf->recv(gen.ranks[0].engine, recv, &task);

    ck_assert(status == KVF_OK || task == NULL);
    if (status == KVF_OK) {
        ck_assert_int_eq(job.kvf->task_cancel(task, 0), KVF_OK);
        (void)job_end(&job, task, NULL);
    }
    return status;
}

START_TEST(null_arguments)
{
    struct kvf_recv recv = a_recv();
    struct kvf_task *task = NULL;
    size_t n = 0;

    refused(job.kvf->recv(NULL, &recv, &task), KVF_EINVAL, "engine", "NULL", "");
    refused(job.kvf->recv(gen.ranks[0].engine, NULL, &task), KVF_EINVAL, "recv", "NULL", "");
    refused(job.kvf->recv(gen.ranks[0].engine, &recv, NULL), KVF_EINVAL, "ret_task", "NULL", "");
    refused(job.kvf->engine_create(NULL, NULL), KVF_EINVAL, "config", "NULL", "");
    refused(job.kvf->engine_reap(NULL, NULL, 0, &n), KVF_EINVAL, "engine", "NULL", "");
    refused(job.kvf->task_cancel(NULL, 0), KVF_EINVAL, "task", "NULL", "");
    recv.source = NULL;
    refused(try_recv(&recv), KVF_EINVAL, "source", "NULL", "");
    recv = a_recv();
    group.blocks = NULL;
    refused(try_recv(&recv), KVF_EINVAL, "blocks", "NULL", "4");
    recv = a_recv();
    recv.aux_capacity = 9;
    refused(try_recv(&recv), KVF_EINVAL, "aux", "NULL", "9");
}
END_TEST

START_TEST(struct_sizes)
{
    struct kvf_recv recv = a_recv();
    struct kvf_result result = {.size = 0};
    struct kvf_engine_config config = {.size = 8};
    struct kvf_engine *engine = NULL;

    recv.size = 16;
    refused(try_recv(&recv), KVF_EINVAL, "recv.size", "16", "expected");
    recv = a_recv();
    group.size = 4;
    refused(try_recv(&recv), KVF_EINVAL, "groups[0].size", "4", "expected");
    refused(job.kvf->engine_create(&config, &engine), KVF_EINVAL, "config.size", "8", "expected");
    ck_assert_ptr_null(engine);
    (void)result;
}
END_TEST

START_TEST(blocks)
{
    static const uint32_t beyond[] = {5, 64, 0, 17};
    static const uint32_t twice[] = {5, 63, 5, 17};
    struct kvf_recv recv = a_recv();

    group.blocks = beyond;
    refused(try_recv(&recv), KVF_EINVAL, "blocks[1]", "64", "64 blocks");
    recv = a_recv();
    group.blocks = twice;
    refused(try_recv(&recv), KVF_EINVAL, "block 5", "group 0", "twice");
    recv = a_recv();
    group.tokens.end = 33;
    refused(try_recv(&recv), KVF_EINVAL, "0 to 33", "4 blocks", "0 to 32");
    recv = a_recv();
    group.tokens.begin = 31;
    refused(try_recv(&recv), KVF_EINVAL, "begin at 31", "end at 30", "");
    recv = a_recv();
    group.group = 3;
    refused(try_recv(&recv), KVF_EINVAL, "group 3", "no registered pool", "");
    recv = a_recv();
    recv.n_groups = 17;
    refused(try_recv(&recv), KVF_EINVAL, "n_groups", "17", "16");
}
END_TEST

/* Two groups may share memory (a hybrid model's), but not the blocks of one receive. */
START_TEST(blocks_of_two_groups_that_overlap)
{
    static const uint32_t layers[2][2] = {{0, 1}, {2, 3}};
    struct job_side s = side("hybrid");
    static struct job_instance instance;
    struct kvf_engine_config config = {.size = sizeof(config),
                                       .instance = "alias",
                                       .place = {.size = sizeof(config.place), .n_ranks = 1},
                                       .compat = "model",
                                       .fabric = "mpi",
                                       .fabric_path = fabric_path,
                                       .job_key = job.key};
    struct kvf_instance_desc desc = {.size = sizeof(desc)};
    struct kvf_group_blocks groups[2];
    struct kvf_recv recv;
    struct kvf_engine *engine = NULL;
    struct kvf_instance *added = NULL;
    struct kvf_pool *pool = NULL;
    struct kvf_task *task = NULL;
    uint8_t blob[4096];
    const void *blobs = blob;
    size_t n = 0;

    job_instance_start(&job, &s, KVF_ROLE_CONTEXT, &instance);
    ck_assert_int_eq(job.kvf->engine_create(&config, &engine), KVF_OK);
    for (uint32_t g = 0; g < 2; g++) {
        struct kvf_pool_desc d = instance.ranks[0].desc;

        d.group = g;
        d.layers = layers[g];
        ck_assert_int_eq(job.kvf->pool_register(engine, &d, &pool), KVF_OK);
    }
    ck_assert_int_eq(job.kvf->engine_describe(engine, KVF_DESCRIBE_RANK, blob, sizeof(blob), &n),
                     KVF_OK);
    desc.n_blobs = 1;
    desc.blobs = &blobs;
    desc.blob_bytes = &n;
    ck_assert_int_eq(job.kvf->instance_add(engine, &desc, &added), KVF_OK);
    desc = (struct kvf_instance_desc){.size = sizeof(desc), .handle = instance.handle};
    ck_assert_int_eq(job.kvf->instance_add(engine, &desc, &added), KVF_OK);
    recv = a_recv();
    recv.source = "hybrid";
    recv.n_groups = 2;
    recv.groups = groups;
    groups[0] = group;
    groups[1] = group;
    groups[1].group = 1;
    groups[1].blocks = source_blocks; /* 60, 7, 3, 1: none of the others */
    ck_assert_int_eq(job.kvf->recv(engine, &recv, &task), KVF_OK);
    ck_assert_int_eq(job.kvf->task_cancel(task, 0), KVF_OK);
    (void)job_end(&job, task, NULL);
    groups[1].blocks = sink_blocks;
    refused(job.kvf->recv(engine, &recv, &task), KVF_EINVAL, "overlap", "group 0", "group 1");
    job.kvf->engine_destroy(engine);
    job_instance_stop(&job, &instance);
}
END_TEST

START_TEST(sources)
{
    struct kvf_recv recv = a_recv();
    struct kvf_task *task = NULL;
    struct kvf_result result = {.size = sizeof(result)};

    recv.source = "nobody";
    refused(try_recv(&recv), KVF_ENOENT, "nobody", "", "");
    /* Groups of the source are known only once it was asked: the task says so. */
    recv = a_recv();
    recv.source_dp_group = 7;
    ck_assert_int_eq(job.kvf->recv(gen.ranks[0].engine, &recv, &task), KVF_OK);
    ck_assert_int_eq(job_end(&job, task, &result), KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(result.message, "source_dp_group is 7"));
    ck_assert_ptr_nonnull(strstr(result.message, "1 groups"));
}
END_TEST

START_TEST(duplicates)
{
    struct kvf_recv recv = a_recv();
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_task *first = NULL;
    struct kvf_task *second = NULL;

    ck_assert_int_eq(job.kvf->recv(gen.ranks[0].engine, &recv, &first), KVF_OK);
    refused(job.kvf->recv(gen.ranks[0].engine, &recv, &second), KVF_EEXIST, "received from", "ctx",
            "");
    ck_assert_int_eq(job.kvf->task_cancel(first, 0), KVF_OK);
    ck_assert_int_eq(job_end(&job, first, NULL), KVF_ECANCELED);
    send.attempt = 3;
    ck_assert_int_eq(job.kvf->send_open(ctx.ranks[0].engine, &send, &first), KVF_OK);
    refused(job.kvf->send_open(ctx.ranks[0].engine, &send, &second), KVF_EEXIST, "attempt 3",
            "already", "");
    send.attempt = 2;
    refused(job.kvf->send_open(ctx.ranks[0].engine, &send, &second), KVF_ESUPERSEDED, "2",
            "attempt 3", "");
    send.attempt = 4;
    ck_assert_int_eq(job.kvf->send_open(ctx.ranks[0].engine, &send, &second), KVF_OK);
    ck_assert_int_eq(job_end(&job, first, NULL), KVF_ESUPERSEDED);
    refused(job.kvf->send_close(second, "x", 1u << 20), KVF_EINVAL, "aux_bytes", "1048576",
            "262144");
    ck_assert_int_eq(job.kvf->send_close(second, NULL, 0), KVF_OK);
    refused(job.kvf->send_close(second, NULL, 0), KVF_ESTATE, "closed", "", "");
    ck_assert_int_eq(job.kvf->task_cancel(second, 0), KVF_OK);
    ck_assert_int_eq(job_end(&job, second, NULL), KVF_ECANCELED);
}
END_TEST

START_TEST(pools_in_use)
{
    struct kvf_recv recv = a_recv();
    struct kvf_task *task = NULL;
    struct kvf_pool *pool = NULL;

    ck_assert_int_eq(job.kvf->recv(gen.ranks[0].engine, &recv, &task), KVF_OK);
    refused(job.kvf->pool_unregister(gen.ranks[0].engine, gen.ranks[0].pool), KVF_EBUSY,
            "1 unfinished", "", "");
    refused(job.kvf->pool_register(gen.ranks[0].engine, &gen.ranks[0].desc, &pool), KVF_ESTATE,
            "described", "", "");
    ck_assert_ptr_null(pool);
    ck_assert_int_eq(job.kvf->task_cancel(task, 0), KVF_OK);
    ck_assert_int_eq(job_end(&job, task, NULL), KVF_ECANCELED);
}
END_TEST

START_TEST(tables_are_full)
{
    struct job small = job;
    struct job_side s = side("small");
    static struct job_instance instance;
    struct kvf_recv recv = a_recv();
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_extent extent = {.size = sizeof(extent), .n_groups = 1, .groups = &group};
    struct kvf_task *task = NULL;
    struct kvf_task *other = NULL;

    (void)recv;
    small.config.max_tasks = 1;
    small.config.max_blocks = 5;
    job_instance_start(&small, &s, KVF_ROLE_CONTEXT, &instance);
    ck_assert_int_eq(job.kvf->send_open(instance.ranks[0].engine, &send, &task), KVF_OK);
    send.request = job.kvf->request_id_u64(9);
    refused(job.kvf->send_open(instance.ranks[0].engine, &send, &other), KVF_ENOSPC, "1 tasks", "",
            "");
    group.tokens = (struct kvf_token_range){0, 16};
    ck_assert_int_eq(job.kvf->send_extend(task, &extent), KVF_OK);
    group.tokens = (struct kvf_token_range){16, 30};
    refused(job.kvf->send_extend(task, &extent), KVF_ENOSPC, "4 more blocks", "max_blocks", "5");
    group.tokens = (struct kvf_token_range){8, 30};
    group.n_blocks = 1;
    refused(job.kvf->send_extend(task, &extent), KVF_EINVAL, "overlaps", "extent 0", "");
    job_instance_stop(&small, &instance);
}
END_TEST

START_TEST(sides_that_do_not_fit)
{
    struct job_side s = side("other");
    static struct job_instance instance;
    struct kvf_instance_desc desc = {.size = sizeof(desc), .handle = instance.handle};
    struct kvf_instance *added = NULL;

    s.row_bytes = 48;
    job_instance_start(&job, &s, KVF_ROLE_CONTEXT, &instance);
    ck_assert_int_eq(job.kvf->instance_add(gen.ranks[0].engine, &desc, &added), KVF_OK);
    refused(job.kvf->instance_connect(added, JOB_TIMEOUT_NS), KVF_EMISMATCH, "row_bytes", "48",
            "32");
    refused(job.kvf->instance_add(gen.ranks[0].engine, &desc, &added), KVF_EEXIST, "other",
            "already", "");
    desc.handle = "kvferry1:nonsense";
    refused(job.kvf->instance_add(gen.ranks[0].engine, &desc, &added), KVF_EINVAL, "handle", "",
            "");
    job_instance_stop(&job, &instance);
}
END_TEST

START_TEST(wrong_job_key)
{
    struct job thief = job;
    struct job_side s = side("thief");
    static struct job_instance instance;
    struct kvf_instance_desc desc = {.size = sizeof(desc), .handle = ctx.handle};
    struct kvf_instance *added = NULL;

    thief.key[7] ^= 1;
    job_instance_start(&thief, &s, KVF_ROLE_GENERATION, &instance);
    ck_assert_int_eq(job.kvf->instance_add(instance.ranks[0].engine, &desc, &added), KVF_OK);
    refused(job.kvf->instance_connect(added, JOB_TIMEOUT_NS), KVF_EAUTH, "key", "", "");
    job_instance_stop(&thief, &instance);
}
END_TEST

START_TEST(port_that_is_taken)
{
    struct kvf_engine_config config = {.size = sizeof(config),
                                       .instance = "late",
                                       .place = {.size = sizeof(config.place), .n_ranks = 1},
                                       .fabric = "mpi",
                                       .fabric_path = fabric_path,
                                       .job_key = job.key};
    struct kvf_engine *engine = NULL;
    const char *colon = strrchr(ctx.handle, ':');

    ck_assert_ptr_nonnull(colon);
    config.listen_port = (uint32_t)strtoul(colon + 1, NULL, 10);
    refused(job.kvf->engine_create(&config, &engine), KVF_ENET, "127.0.0.1", colon + 1, "in use");
    ck_assert_ptr_null(engine);
    config.listen_port = 70000;
    refused(job.kvf->engine_create(&config, &engine), KVF_EINVAL, "listen_port", "70000", "65535");
    config.listen_port = 0;
    config.job_key = NULL;
    refused(job.kvf->engine_create(&config, &engine), KVF_EINVAL, "job_key", "missing", "");
    config.job_key = job.key;
    config.fabric = "carrier-pigeon";
    refused(job.kvf->engine_create(&config, &engine), KVF_EUNSUPPORTED, "carrier-pigeon", "mpi",
            "nccl");
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, null_arguments);
    tcase_add_test(tc, struct_sizes);
    tcase_add_test(tc, blocks);
    tcase_add_test(tc, blocks_of_two_groups_that_overlap);
    tcase_add_test(tc, sources);
    tcase_add_test(tc, duplicates);
    tcase_add_test(tc, pools_in_use);
    tcase_add_test(tc, tables_are_full);
    tcase_add_test(tc, sides_that_do_not_fit);
    tcase_add_test(tc, wrong_job_key);
    tcase_add_test(tc, port_that_is_taken);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return EXIT_FAILURE;
    library_path = argv[1];
    fabric_path = argv[2];
    return harness_main("bad_input", fill, 60);
}
