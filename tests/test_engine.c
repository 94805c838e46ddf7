/* SPDX-License-Identifier: Apache-2.0 */
/* Whole engines in one process, over the in-process fabric. */
#include <string.h>

#include "engine_job.h"
#include "harness.h"

static const char *library_path;
static const char *fabric_path;

static const struct job_side context = {.name = "ctx",
                                        .tp = 2,
                                        .heads = 4,
                                        .layers = 3,
                                        .block_tokens = 8,
                                        .n_blocks = 64,
                                        .row_bytes = 32};
static const struct job_side generation = {.name = "gen",
                                           .tp = 1,
                                           .heads = 4,
                                           .layers = 3,
                                           .block_tokens = 16,
                                           .n_blocks = 64,
                                           .row_bytes = 32,
                                           .token_major = true};

static struct job job;

static void setup(void)
{
    job_open(&job, library_path, fabric_path);
    job.seed = rnd64();
}

static const uint32_t source_blocks[] = {7, 3, 60, 1, 22, 9, 40, 12};
static const uint32_t sink_blocks[] = {5, 63, 0, 17};

START_TEST(one_request_arrives)
{
    static struct job_instance ctx;
    static struct job_instance gen;
    struct kvf_task *sends[2];
    struct kvf_task *recv;
    char aux[8] = "";
    struct kvf_result r;

    job_instance_start(&job, &context, KVF_ROLE_CONTEXT, &ctx);
    job_instance_start(&job, &generation, KVF_ROLE_GENERATION, &gen);
    job_connect(&job, &gen, &ctx);
    for (uint32_t rank = 0; rank < 2; rank++) {
        job_fill(&job, &ctx, rank, 1, source_blocks, 0, 60);
        sends[rank] = JOB_SEND(&job, &ctx, rank, 1, source_blocks, 60, "first", 6);
    }
    recv = JOB_RECV(&job, &gen, 0, "ctx", 0, 1, sink_blocks, 0, 60, aux, sizeof(aux));
    ck_assert_int_eq(job_end(&job, recv, &r), KVF_OK);
    ck_assert_uint_eq(r.bytes, 60u * 3 * 2 * 4 * 32);
    ck_assert_str_eq(aux, "first");
    ck_assert_uint_eq(job_wrong(&job, &gen, 0, 1, sink_blocks, 0, 60), 0);
    for (uint32_t rank = 0; rank < 2; rank++)
        ck_assert_int_eq(job_end(&job, sends[rank], NULL), KVF_OK);
    job_instance_stop(&job, &gen);
    job_instance_stop(&job, &ctx);
}
END_TEST

/* Both sides of one job, connected. */
struct pair {
    struct job_instance ctx;
    struct job_instance gen;
};

static struct pair p;

static void start_pair(const struct job_side *c, const struct job_side *g)
{
    job_instance_start(&job, c, KVF_ROLE_CONTEXT, &p.ctx);
    job_instance_start(&job, g, KVF_ROLE_GENERATION, &p.gen);
    job_connect(&job, &p.gen, &p.ctx);
}

static void stop_pair(void)
{
    job_instance_stop(&job, &p.gen);
    job_instance_stop(&job, &p.ctx);
}

enum { MANY = 100, MANY_TOKENS = 40 };

/* Requests that share nothing: request i has blocks of its own on every rank. */
static void blocks_of(uint32_t request, uint32_t per_request, uint32_t *ret_blocks)
{
    for (uint32_t i = 0; i < per_request; i++)
        ret_blocks[i] = request * per_request + (i + 1) % per_request;
}

START_TEST(many_requests_in_any_order)
{
    struct job_side c = context;
    struct job_side g = generation;
    static struct kvf_task *sends[MANY][2];
    static struct kvf_task *recvs[MANY];
    uint32_t blocks[5];

    c.n_blocks = MANY * 5;
    g.n_blocks = MANY * 3;
    job.config.slot_bytes = 65536;
    start_pair(&c, &g);
    for (uint32_t half = 0; half < 2; half++)
        for (uint32_t i = 0; i < MANY; i++) {
            /* Odd requests are received before they are sent. */
            bool send = (half == 0) == (i % 2 == 0);

            if (!send) {
                blocks_of(i, 3, blocks);
                recvs[i] = JOB_RECV(&job, &p.gen, 0, "ctx", 0, i, blocks, 0, MANY_TOKENS, NULL, 0);
                continue;
            }
            blocks_of(i, 5, blocks);
            for (uint32_t r = 0; r < 2; r++) {
                job_fill(&job, &p.ctx, r, i, blocks, 0, MANY_TOKENS);
                sends[i][r] = JOB_SEND(&job, &p.ctx, r, i, blocks, MANY_TOKENS, NULL, 0);
            }
        }
    for (uint32_t i = 0; i < MANY; i++) {
        ck_assert_int_eq(job_end(&job, recvs[i], NULL), KVF_OK);
        blocks_of(i, 3, blocks);
        ck_assert_uint_eq(job_wrong(&job, &p.gen, 0, i, blocks, 0, MANY_TOKENS), 0);
        for (uint32_t r = 0; r < 2; r++)
            ck_assert_int_eq(job_end(&job, sends[i][r], NULL), KVF_OK);
    }
    stop_pair();
}
END_TEST

START_TEST(latent_to_all_ranks_from_an_unknown_group)
{
    static const struct job_side c = {.name = "ctx",
                                      .tp = 1,
                                      .dp = 4,
                                      .layers = 4,
                                      .block_tokens = 4,
                                      .n_blocks = 64,
                                      .row_bytes = 48,
                                      .latent = true};
    struct job_side g = c;
    struct kvf_task *recvs[4];
    struct kvf_task *send;

    g.name = "gen";
    g.tp = 4;
    g.dp = 1;
    start_pair(&c, &g);
    for (uint32_t r = 0; r < 4; r++)
        recvs[r] =
            JOB_RECV(&job, &p.gen, r, "ctx", KVF_DP_UNKNOWN, 9, sink_blocks + 2, 0, 7, NULL, 0);
    job_fill(&job, &p.ctx, 2, 9, source_blocks + 3, 0, 7);
    send = JOB_SEND(&job, &p.ctx, 2, 9, source_blocks + 3, 7, NULL, 0);
    for (uint32_t r = 0; r < 4; r++) {
        ck_assert_int_eq(job_end(&job, recvs[r], NULL), KVF_OK);
        ck_assert_uint_eq(job_wrong(&job, &p.gen, r, 9, sink_blocks + 2, 0, 7), 0);
    }
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_OK);
    stop_pair();
}
END_TEST

START_TEST(prefix_offset_leaves_the_prefix_alone)
{
    struct kvf_task *sends[2];
    struct kvf_task *recv;

    start_pair(&context, &generation);
    job.seed++; /* what is there already differs from what would come */
    job_fill(&job, &p.gen, 0, 1, sink_blocks, 0, 32);
    job.seed--;
    for (uint32_t r = 0; r < 2; r++) {
        job_fill(&job, &p.ctx, r, 1, source_blocks, 0, 60);
        sends[r] = JOB_SEND(&job, &p.ctx, r, 1, source_blocks, 60, NULL, 0);
    }
    recv = JOB_RECV(&job, &p.gen, 0, "ctx", 0, 1, sink_blocks, 32, 60, NULL, 0);
    ck_assert_int_eq(job_end(&job, recv, NULL), KVF_OK);
    ck_assert_uint_eq(job_wrong(&job, &p.gen, 0, 1, sink_blocks, 32, 60), 0);
    job.seed++;
    ck_assert_uint_eq(job_wrong(&job, &p.gen, 0, 1, sink_blocks, 0, 32), 0);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job_end(&job, sends[r], NULL), KVF_OK);
    stop_pair();
}
END_TEST

START_TEST(cancel_ends_both_sides)
{
    struct kvf_task *recv;
    struct kvf_task *sends[2];

    start_pair(&context, &generation);
    /* Rank 1 of the source never sends: the receive cannot complete. */
    sends[0] = JOB_SEND(&job, &p.ctx, 0, 1, source_blocks, 60, NULL, 0);
    recv = JOB_RECV(&job, &p.gen, 0, "ctx", 0, 1, sink_blocks, 0, 60, NULL, 0);
    ck_assert_int_eq(job.kvf->task_release(recv), KVF_EBUSY);
    ck_assert_int_eq(job.kvf->task_cancel(recv, 0), KVF_OK);
    ck_assert_int_eq(job_end(&job, recv, NULL), KVF_ECANCELED);
    sends[1] = JOB_SEND(&job, &p.ctx, 1, 1, source_blocks, 60, NULL, 0);
    ck_assert_int_eq(job.kvf->task_cancel(sends[0], 0), KVF_OK);
    ck_assert_int_eq(job.kvf->task_cancel(sends[1], 0), KVF_OK);
    (void)job_end(&job, sends[0], NULL); /* delivered, canceled or failed, but over */
    ck_assert_int_eq(job_end(&job, sends[1], NULL), KVF_ECANCELED);
    stop_pair();
}
END_TEST

START_TEST(destroy_with_work_outstanding)
{
    struct kvf_task *recv;
    struct kvf_result r = {.size = sizeof(r)};

    start_pair(&context, &generation);
    recv = JOB_RECV(&job, &p.gen, 0, "ctx", 0, 1, sink_blocks, 0, 60, NULL, 0);
    (void)JOB_SEND(&job, &p.ctx, 0, 1, source_blocks, 60, NULL, 0);
    ck_assert_int_eq(job.kvf->task_poll(recv, &r), KVF_OK);
    ck_assert_int_eq(r.status, KVF_IN_PROGRESS);
    stop_pair();
}
END_TEST

START_TEST(deadline_says_what_was_missing)
{
    struct kvf_task *recv;
    struct kvf_result r;

    start_pair(&context, &generation);
    recv = JOB_RECV(&job, &p.gen, 0, "ctx", 0, 1, sink_blocks, 0, 60, NULL, 0);
    ck_assert_int_eq(job.kvf->task_extend(recv, 20000000), KVF_OK);
    ck_assert_int_eq(job_end(&job, recv, &r), KVF_ETIMEDOUT);
    ck_assert_int_eq((int)r.state, KVF_TASK_EXPIRED);
    ck_assert_int_eq((int)r.step, KVF_STEP_MATCH);
    ck_assert_uint_eq(r.n_missing, 4);
    stop_pair();
}
END_TEST

/* One send_extend of some layers and tokens. */
static void extend(uint32_t rank, struct kvf_task *task, uint32_t first_layer, uint32_t end_layer,
                   uint64_t begin, uint64_t end)
{
    struct kvf_group_blocks group = {
        .size = sizeof(group), .n_blocks = 8, .blocks = source_blocks, .tokens = {begin, end}};
    struct kvf_extent extent = {.size = sizeof(extent),
                                .first_layer = first_layer,
                                .end_layer = end_layer,
                                .n_groups = 1,
                                .groups = &group};

    (void)rank;
    ck_assert_msg(job.kvf->send_extend(task, &extent) == KVF_OK, "%s", job.kvf->error_text());
}

static struct kvf_task *open_send(uint32_t rank, uint32_t request, uint64_t attempt)
{
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_task *task = NULL;

    send.request = job.kvf->request_id_u64(request);
    send.attempt = attempt;
    ck_assert_msg(job.kvf->send_open(p.ctx.ranks[rank].engine, &send, &task) == KVF_OK, "%s",
                  job.kvf->error_text());
    return task;
}

START_TEST(extents_by_layer_and_by_token)
{
    struct kvf_task *sends[2];
    struct kvf_task *recv;
    char aux[16] = "";

    start_pair(&context, &generation);
    recv = JOB_RECV(&job, &p.gen, 0, "ctx", 0, 4, sink_blocks, 0, 60, aux, sizeof(aux));
    for (uint32_t r = 0; r < 2; r++) {
        sends[r] = open_send(r, 4, 0);
        job_fill(&job, &p.ctx, r, 4, source_blocks, 0, 60);
    }
    /* Rank 0: chunked prefill; rank 1: layer by layer. */
    extend(0, sends[0], 0, 0, 0, 21);
    extend(0, sends[0], 0, 0, 21, 60);
    for (uint32_t layer = 0; layer < 3; layer++)
        extend(1, sends[1], layer, layer + 1, 0, KVF_TOKENS_ALL);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job.kvf->send_close(sends[r], "token", 6), KVF_OK);
    ck_assert_int_eq(job_end(&job, recv, NULL), KVF_OK);
    ck_assert_uint_eq(job_wrong(&job, &p.gen, 0, 4, sink_blocks, 0, 60), 0);
    ck_assert_str_eq(aux, "token");
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job_end(&job, sends[r], NULL), KVF_OK);
    stop_pair();
}
END_TEST

START_TEST(restart_under_the_same_receive)
{
    struct kvf_task *first[2];
    struct kvf_task *second[2];
    struct kvf_task *recv;
    struct kvf_result result;

    start_pair(&context, &generation);
    recv = JOB_RECV(&job, &p.gen, 0, "ctx", 0, 4, sink_blocks, 0, 60, NULL, 0);
    for (uint32_t r = 0; r < 2; r++) {
        first[r] = open_send(r, 4, 0);
        extend(r, first[r], 0, 2, 0, 60);
    }
    for (uint32_t r = 0; r < 2; r++) {
        ck_assert_int_eq(job.kvf->task_cancel(first[r], KVF_CANCEL_RESTART), KVF_OK);
        ck_assert_int_eq(job_end(&job, first[r], NULL), KVF_ECANCELED);
    }
    for (uint32_t r = 0; r < 2; r++) {
        second[r] = open_send(r, 4, 1);
        job_fill(&job, &p.ctx, r, 4, source_blocks, 0, 60);
        extend(r, second[r], 0, 0, 0, 60);
        ck_assert_int_eq(job.kvf->send_close(second[r], NULL, 0), KVF_OK);
    }
    ck_assert_int_eq(job_end(&job, recv, &result), KVF_OK);
    ck_assert_uint_eq(result.attempt, 1);
    ck_assert_uint_eq(job_wrong(&job, &p.gen, 0, 4, sink_blocks, 0, 60), 0);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job_end(&job, second[r], NULL), KVF_OK);
    stop_pair();
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, one_request_arrives);
    tcase_add_test(tc, many_requests_in_any_order);
    tcase_add_test(tc, latent_to_all_ranks_from_an_unknown_group);
    tcase_add_test(tc, prefix_offset_leaves_the_prefix_alone);
    tcase_add_test(tc, cancel_ends_both_sides);
    tcase_add_test(tc, destroy_with_work_outstanding);
    tcase_add_test(tc, deadline_says_what_was_missing);
    tcase_add_test(tc, extents_by_layer_and_by_token);
    tcase_add_test(tc, restart_under_the_same_receive);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return EXIT_FAILURE;
    library_path = argv[1];
    fabric_path = argv[2];
    return harness_main("engine", fill, 60);
}
