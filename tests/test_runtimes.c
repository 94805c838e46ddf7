/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which runtimes call: each test drives the dlopened table as one of them does, with
 * the event descriptor and engine_reap instead of waits where it does so.
 */
#include <poll.h>
#include <string.h>

#include "collectives/util.h"
#include "engine_job.h"
#include "harness.h"

static const char *library_path;
static const char *fabric_path;

static struct job job;
static struct job_instance prefill;
static struct job_instance decode;

static const uint32_t source_blocks[] = {7, 3, 60, 1, 22, 9, 40, 12};
static const uint32_t sink_blocks[] = {5, 63, 0, 17, 30, 31, 8, 2};

enum { TOKENS = 60, REQUEST = 77 };

static struct job_side side(const char *name, uint32_t tp, uint32_t dp, bool latent)
{
    return (struct job_side){.name = name,
                             .tp = tp,
                             .dp = dp,
                             .heads = 4,
                             .layers = 4,
                             .block_tokens = 8,
                             .n_blocks = 64,
                             .row_bytes = 32,
                             .latent = latent};
}

static void setup(void)
{
    job_open(&job, library_path, fabric_path);
    job.seed = rnd64();
}

static void start(const struct job_side *from, const struct job_side *to)
{
    job_instance_start(&job, from, KVF_ROLE_CONTEXT, &prefill);
    job_instance_start(&job, to, KVF_ROLE_GENERATION, &decode);
    job_connect(&job, &decode, &prefill);
}

static void stop(void)
{
    job_instance_stop(&job, &decode);
    job_instance_stop(&job, &prefill);
}

/* A runtime's step: sleep on the descriptor, take what there is. True once `task` has the kind. */
static bool step_until(struct kvf_engine *engine, struct kvf_task *task, uint32_t kind)
{
    struct pollfd fd = {.fd = job.kvf->engine_event_fd(engine), .events = POLLIN};
    uint64_t deadline = kvfi_now_ns() + JOB_TIMEOUT_NS;

    while (kvfi_now_ns() < deadline) {
        struct kvf_event events[4] = {{.size = sizeof(events[0])}};
        size_t n = 0;
        bool hit = false;

        ck_assert_int_ge(poll(&fd, 1, 1000), 0);
        ck_assert_int_eq(job.kvf->engine_reap(engine, events, 4, &n), KVF_OK);
        for (size_t i = 0; i < n; i++)
            hit = hit || (events[i].task == task && (events[i].kinds & kind));
        if (hit)
            return true;
    }
    return false;
}

static struct kvf_task *open_send(struct job_instance *instance, uint32_t rank, uint64_t attempt)
{
    struct kvf_send send = KVF_SEND_INIT;
    struct kvf_task *task = NULL;

    send.request = job.kvf->request_id_u64(REQUEST);
    send.attempt = attempt;
    ck_assert_msg(job.kvf->send_open(instance->ranks[rank].engine, &send, &task) == KVF_OK, "%s",
                  job.kvf->error_text());
    return task;
}

static void extend(struct kvf_task *task, uint32_t first_layer, uint32_t end_layer, uint64_t begin,
                   uint64_t end)
{
    struct kvf_group_blocks group = {
        .size = sizeof(group), .n_blocks = 8, .blocks = source_blocks, .tokens = {begin, end}};
    struct kvf_extent extent = {.size = sizeof(extent),
                                .first_layer = first_layer,
                                .end_layer = end_layer,
                                .n_groups = 1,
                                .groups = &group};

    ck_assert_msg(job.kvf->send_extend(task, &extent) == KVF_OK, "%s", job.kvf->error_text());
}

static void check(uint32_t rank)
{
    ck_assert_uint_eq(job_wrong(&job, &decode, rank, REQUEST, sink_blocks, 0, TOKENS), 0);
}

/* vLLM, pull: prefill finished and keeps the blocks; decode fetches, prefill frees at the end. */
START_TEST(vllm_pull)
{
    struct job_side from = side("prefill", 2, 1, false);
    struct job_side to = side("decode", 2, 1, false);
    struct kvf_task *sends[2];
    struct kvf_task *recvs[2];

    start(&from, &to);
    for (uint32_t r = 0; r < 2; r++) {
        job_fill(&job, &prefill, r, REQUEST, source_blocks, 0, TOKENS);
        sends[r] = JOB_SEND(&job, &prefill, r, REQUEST, source_blocks, TOKENS, NULL, 0);
    }
    for (uint32_t r = 0; r < 2; r++)
        recvs[r] =
            JOB_RECV(&job, &decode, r, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS, NULL, 0);
    for (uint32_t r = 0; r < 2; r++) {
        ck_assert(step_until(decode.ranks[r].engine, recvs[r], KVF_EVENT_ENDED));
        ck_assert_int_eq(job_end(&job, recvs[r], NULL), KVF_OK);
        check(r);
        ck_assert(step_until(prefill.ranks[r].engine, sends[r], KVF_EVENT_ENDED));
        ck_assert_int_eq(job_end(&job, sends[r], NULL), KVF_OK);
    }
    stop();
}
END_TEST

/* vLLM, push: decode has allocated; prefill saves layer by layer while it computes. */
START_TEST(vllm_push)
{
    struct job_side from = side("prefill", 1, 1, false);
    struct job_side to = side("decode", 2, 1, false);
    struct kvf_task *recvs[2];
    struct kvf_task *send;

    start(&from, &to);
    for (uint32_t r = 0; r < 2; r++)
        recvs[r] =
            JOB_RECV(&job, &decode, r, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS, NULL, 0);
    job_fill(&job, &prefill, 0, REQUEST, source_blocks, 0, TOKENS);
    send = open_send(&prefill, 0, 0);
    ck_assert(step_until(prefill.ranks[0].engine, send, KVF_EVENT_MATCHED));
    for (uint32_t layer = 0; layer < 4; layer++)
        extend(send, layer, layer + 1, 0, TOKENS);
    ck_assert_int_eq(job.kvf->send_close(send, NULL, 0), KVF_OK);
    ck_assert(step_until(prefill.ranks[0].engine, send, KVF_EVENT_SOURCE_RELEASED));
    for (uint32_t r = 0; r < 2; r++) {
        ck_assert_int_eq(job_end(&job, recvs[r], NULL), KVF_OK);
        check(r);
    }
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_OK);
    stop();
}
END_TEST

/* SGLang: decode first, chunked prefill, the first token with the last chunk. */
START_TEST(sglang_decode_first_chunked)
{
    struct job_side from = side("prefill", 2, 1, false);
    struct job_side to = side("decode", 1, 1, false);
    struct kvf_task *sends[2];
    struct kvf_task *recv;
    struct kvf_wanted wanted = {.size = sizeof(wanted)};
    uint32_t token = 0;
    uint32_t first = 4711;

    start(&from, &to);
    recv = JOB_RECV(&job, &decode, 0, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS, &token,
                    sizeof(token));
    for (uint32_t r = 0; r < 2; r++) {
        job_fill(&job, &prefill, r, REQUEST, source_blocks, 0, TOKENS);
        sends[r] = open_send(&prefill, r, 0);
        ck_assert(step_until(prefill.ranks[r].engine, sends[r], KVF_EVENT_MATCHED));
        ck_assert_int_eq(job.kvf->task_wanted(sends[r], 0, &wanted), KVF_OK);
        ck_assert_str_eq(wanted.destination, "decode");
        ck_assert_uint_eq(wanted.tokens[0].end, TOKENS);
        ck_assert_int_eq(job.kvf->task_wanted(sends[r], 1, &wanted), KVF_ENOENT);
    }
    for (uint64_t begin = 0; begin < TOKENS; begin += 25)
        for (uint32_t r = 0; r < 2; r++)
            extend(sends[r], 0, 0, begin, begin + 25 < TOKENS ? begin + 25 : TOKENS);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job.kvf->send_close(sends[r], &first, sizeof(first)), KVF_OK);
    ck_assert_int_eq(job_end(&job, recv, NULL), KVF_OK);
    ck_assert_uint_eq(token, 4711);
    check(0);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job_end(&job, sends[r], NULL), KVF_OK);
    stop();
}
END_TEST

/* TensorRT-LLM: generation first; which attention-DP group will compute is not known yet. */
START_TEST(trtllm_generation_first_attention_dp)
{
    struct job_side from = side("prefill", 1, 4, true);
    struct job_side to = side("decode", 4, 1, true);
    struct kvf_task *recvs[4];
    struct kvf_task *send;

    start(&from, &to);
    for (uint32_t r = 0; r < 4; r++)
        recvs[r] = JOB_RECV(&job, &decode, r, "prefill", KVF_DP_UNKNOWN, REQUEST, sink_blocks, 0,
                            TOKENS, NULL, 0);
    job_fill(&job, &prefill, 3, REQUEST, source_blocks, 0, TOKENS);
    send = JOB_SEND(&job, &prefill, 3, REQUEST, source_blocks, TOKENS, NULL, 0);
    for (uint32_t r = 0; r < 4; r++) {
        ck_assert_int_eq(job_end(&job, recvs[r], NULL), KVF_OK);
        check(r);
    }
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_OK);
    stop();
}
END_TEST

/* A sender is preempted with part of its cache sent, and comes back with other blocks filled. */
START_TEST(preempted_sender)
{
    struct job_side from = side("prefill", 1, 1, false);
    struct job_side to = side("decode", 2, 1, false);
    struct kvf_task *recvs[2];
    struct kvf_task *send;
    struct kvf_result result;

    start(&from, &to);
    for (uint32_t r = 0; r < 2; r++)
        recvs[r] =
            JOB_RECV(&job, &decode, r, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS, NULL, 0);
    send = open_send(&prefill, 0, 0);
    extend(send, 0, 2, 0, TOKENS); /* of memory that was never filled */
    ck_assert(step_until(prefill.ranks[0].engine, send, KVF_EVENT_MATCHED));
    ck_assert_int_eq(job.kvf->task_cancel(send, KVF_CANCEL_RESTART), KVF_OK);
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_ECANCELED);
    job_fill(&job, &prefill, 0, REQUEST, source_blocks, 0, TOKENS);
    send = open_send(&prefill, 0, 1);
    extend(send, 0, 0, 0, TOKENS);
    ck_assert_int_eq(job.kvf->send_close(send, NULL, 0), KVF_OK);
    for (uint32_t r = 0; r < 2; r++) {
        ck_assert_int_eq(job_end(&job, recvs[r], &result), KVF_OK);
        ck_assert_uint_eq(result.attempt, 1);
        check(r);
    }
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_OK);
    stop();
}
END_TEST

/* Ranks of one receiver must agree on what they want; the source does not wait for its deadline. */
START_TEST(ranks_that_ask_for_different_ranges)
{
    struct job_side from = side("prefill", 1, 1, false);
    struct job_side to = side("decode", 2, 1, false);
    struct kvf_task *recvs[2];
    struct kvf_task *send;
    kvf_status_t ends[2];

    start(&from, &to);
    send = JOB_SEND(&job, &prefill, 0, REQUEST, source_blocks, TOKENS, NULL, 0);
    for (uint32_t r = 0; r < 2; r++)
        recvs[r] =
            JOB_RECV(&job, &decode, r, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS - r, NULL, 0);
    for (uint32_t r = 0; r < 2; r++)
        ends[r] = job_end(&job, recvs[r], NULL);
    /* Whichever asked first is served. */
    ck_assert((ends[0] == KVF_OK && ends[1] == KVF_EMISMATCH) ||
              (ends[1] == KVF_OK && ends[0] == KVF_EMISMATCH));
    ck_assert_int_eq(job_end(&job, send, NULL), KVF_EMISMATCH);
    stop();
}
END_TEST

/* Everything is cached at the decode side: nothing moves but the first token. */
START_TEST(full_prefix_hit)
{
    struct job_side from = side("prefill", 2, 1, false);
    struct job_side to = side("decode", 1, 1, false);
    struct kvf_task *sends[2];
    struct kvf_task *recv;
    struct kvf_result result;
    uint32_t token = 0;
    uint32_t first = 4711;

    start(&from, &to);
    recv = JOB_RECV(&job, &decode, 0, "prefill", 0, REQUEST, NULL, 0, 0, &token, sizeof(token));
    for (uint32_t r = 0; r < 2; r++)
        sends[r] =
            JOB_SEND(&job, &prefill, r, REQUEST, source_blocks, TOKENS, &first, sizeof(first));
    ck_assert_int_eq(job_end(&job, recv, &result), KVF_OK);
    ck_assert_uint_eq(result.bytes, 0);
    ck_assert_uint_eq(token, 4711);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job_end(&job, sends[r], NULL), KVF_OK);
    stop();
}
END_TEST

/* The client left before the decode side had blocks: the source must not wait for its deadline. */
START_TEST(abort_before_scheduling)
{
    struct job_side from = side("prefill", 2, 1, false);
    struct job_side to = side("decode", 1, 1, false);
    struct kvf_task *sends[2];
    struct kvf_task *release = NULL;
    struct kvf_recv recv = {.size = sizeof(recv),
                            .source = "prefill",
                            .request = job.kvf->request_id_u64(REQUEST),
                            .attempt = KVF_ATTEMPT_ANY,
                            .timeout_ns = JOB_TIMEOUT_NS};

    start(&from, &to);
    for (uint32_t r = 0; r < 2; r++)
        sends[r] = open_send(&prefill, r, 0); /* still computing: never closed */
    ck_assert_int_eq(job.kvf->request_release(decode.ranks[0].engine, &recv, &release), KVF_OK);
    ck_assert_int_eq(job_end(&job, release, NULL), KVF_OK);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_int_eq(job_end(&job, sends[r], NULL), KVF_OK);
    stop();
}
END_TEST

/* Both instances have both roles, and each fetches from the other at the same time. */
START_TEST(both_roles)
{
    struct job_side from = side("left", 2, 1, false);
    struct job_side to = side("right", 1, 1, false);
    struct kvf_task *sends[3];
    struct kvf_task *recvs[3];

    job_instance_start(&job, &from, KVF_ROLE_BOTH, &prefill);
    job_instance_start(&job, &to, KVF_ROLE_BOTH, &decode);
    job_connect(&job, &decode, &prefill);
    job_connect(&job, &prefill, &decode);
    for (uint32_t r = 0; r < 2; r++) {
        job_fill(&job, &prefill, r, 1, source_blocks, 0, TOKENS);
        sends[r] = JOB_SEND(&job, &prefill, r, 1, source_blocks, TOKENS, NULL, 0);
        recvs[r] = JOB_RECV(&job, &prefill, r, "right", 0, 2, sink_blocks, 0, TOKENS, NULL, 0);
    }
    job_fill(&job, &decode, 0, 2, source_blocks, 0, TOKENS);
    sends[2] = JOB_SEND(&job, &decode, 0, 2, source_blocks, TOKENS, NULL, 0);
    recvs[2] = JOB_RECV(&job, &decode, 0, "left", 0, 1, sink_blocks, 0, TOKENS, NULL, 0);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(job_end(&job, recvs[i], NULL), KVF_OK);
        ck_assert_int_eq(job_end(&job, sends[i], NULL), KVF_OK);
    }
    ck_assert_uint_eq(job_wrong(&job, &decode, 0, 1, sink_blocks, 0, TOKENS), 0);
    for (uint32_t r = 0; r < 2; r++)
        ck_assert_uint_eq(job_wrong(&job, &prefill, r, 2, sink_blocks, 0, TOKENS), 0);
    stop();
}
END_TEST

/* Two jobs in one process know nothing of one another: names and requests are the same in both. */
START_TEST(two_engines_in_one_process)
{
    struct job_side from = side("prefill", 1, 1, false);
    struct job_side to = side("decode", 1, 1, false);
    static struct job_instance other_prefill;
    static struct job_instance other_decode;
    struct job other = job;
    struct kvf_task *sends[2];
    struct kvf_task *recvs[2];

    memset(other.key, 0x77, sizeof(other.key));
    other.seed++;
    start(&from, &to);
    job_instance_start(&other, &from, KVF_ROLE_CONTEXT, &other_prefill);
    job_instance_start(&other, &to, KVF_ROLE_GENERATION, &other_decode);
    job_connect(&other, &other_decode, &other_prefill);
    job_fill(&job, &prefill, 0, REQUEST, source_blocks, 0, TOKENS);
    job_fill(&other, &other_prefill, 0, REQUEST, source_blocks, 0, TOKENS);
    sends[0] = JOB_SEND(&job, &prefill, 0, REQUEST, source_blocks, TOKENS, NULL, 0);
    sends[1] = JOB_SEND(&other, &other_prefill, 0, REQUEST, source_blocks, TOKENS, NULL, 0);
    recvs[0] = JOB_RECV(&job, &decode, 0, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS, NULL, 0);
    recvs[1] =
        JOB_RECV(&other, &other_decode, 0, "prefill", 0, REQUEST, sink_blocks, 0, TOKENS, NULL, 0);
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_int_eq(job_end(&job, recvs[i], NULL), KVF_OK);
        ck_assert_int_eq(job_end(&job, sends[i], NULL), KVF_OK);
    }
    check(0);
    ck_assert_uint_eq(job_wrong(&other, &other_decode, 0, REQUEST, sink_blocks, 0, TOKENS), 0);
    job_instance_stop(&other, &other_decode);
    job_instance_stop(&other, &other_prefill);
    stop();
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, vllm_pull);
    tcase_add_test(tc, vllm_push);
    tcase_add_test(tc, sglang_decode_first_chunked);
    tcase_add_test(tc, trtllm_generation_first_attention_dp);
    tcase_add_test(tc, preempted_sender);
    tcase_add_test(tc, ranks_that_ask_for_different_ranges);
    tcase_add_test(tc, full_prefix_hit);
    tcase_add_test(tc, abort_before_scheduling);
    tcase_add_test(tc, both_roles);
    tcase_add_test(tc, two_engines_in_one_process);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return EXIT_FAILURE;
    library_path = argv[1];
    fabric_path = argv[2];
    return harness_main("runtimes", fill, 60);
}
