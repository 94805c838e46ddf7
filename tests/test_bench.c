/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the bench that decide whether a job passed: they must see every kind of damage. */
#include "tools/bench.h"

#include <string.h>

#include "harness.h"
#include "tools/pattern.h"

#define RUN 7u

static char model_path[512];

/* A job of one rank with one request. The caller's world is none: nothing here talks. */
static void make_job(struct bench_job *job, const char *tokens, uint64_t prefix, bool is_cp)
{
    static struct bench_request request;
    static uint32_t mine;
    struct tool_error error = {""};

    memset(job, 0, sizeof(*job));
    job->options = (struct bench_options){.context_text = "tp1",
                                          .generation_text = is_cp ? "cp2" : "tp1",
                                          .model_text = model_path,
                                          .n_layers = 2,
                                          .tokens_text = tokens,
                                          .layout_text = "token-major,head-major",
                                          .block_tokens_text = "8",
                                          .prefix_tokens = prefix,
                                          .seed = 3,
                                          .repeat = 1,
                                          .concurrency = 1};
    ck_assert_msg(bench_options_check(&job->options, &error), "%s", error.text);
    ck_assert_msg(shape_init(&job->options.model, &job->options.generation, &job->options.side[1],
                             is_cp ? 1 : 0, &error, &job->shape),
                  "%s", error.text);
    request = (struct bench_request){.n_tokens = job->options.tokens[0]};
    job->n_requests = 1;
    job->requests = &request;
    job->mine = &mine;
    job->n_mine = 1;
    job->guard_key = 99;
    job->n_printed = 1000; /* silent */
    for (uint32_t p = 0; p < job->shape.n_pools; p++) {
        shape_pool_set_blocks(&job->shape.pools[p], 40);
        ck_assert(shape_pool_alloc(&job->shape.pools[p], &error));
        ck_assert(blocks_init(40, 4, p + 1, &error, &job->blocks[p]));
    }
    bench_guards_fill(job);
}

static void free_job(struct bench_job *job, struct bench_slot *slot)
{
    for (uint32_t p = 0; p < MODEL_GROUPS_MAX; p++) {
        blocks_fini(&job->blocks[p]);
        free(slot->blocks[p]);
    }
    shape_fini(&job->shape);
}

/* Guards, and then what a perfect library would write: the pattern in the wanted rows. */
static void receive(struct bench_job *job, struct bench_slot *slot)
{
    memset(slot, 0, sizeof(*slot));
    for (uint32_t p = 0; p < MODEL_GROUPS_MAX; p++)
        slot->blocks[p] = calloc(64, sizeof(*slot->blocks[p]));
    ck_assert(bench_slot_take(job, slot, 0));
    bench_slot_fill(job, slot, RUN);
}

static void deliver(struct bench_job *job, const struct bench_slot *slot)
{
    for (uint32_t p = 0; p < job->shape.n_pools; p++) {
        const struct shape_pool *pool = &job->shape.pools[p];
        struct kvf_token_range range =
            bench_range(&job->options, pool->group, job->requests[0].n_tokens, true);
        uint64_t key = pattern_request_key(job->options.seed, RUN, 0);

        for (uint64_t t = range.begin; t < range.end; t++) {
            uint64_t local = shape_local_tokens(&job->shape, t);

            if (shape_local_tokens(&job->shape, t + 1) == local)
                continue;
            for (uint32_t i = 0; i < pool->n_layers * pool->n_kv * pool->n_heads; i++) {
                struct pattern_row row = {.group = pool->group,
                                          .layer = pool->layers[i % pool->n_layers],
                                          .kv = i / pool->n_layers % pool->n_kv,
                                          .head = i / pool->n_layers / pool->n_kv,
                                          .token = t};
                uint32_t block = slot->blocks[p][local / 8 - slot->span[p].first];

                pattern_fill(shape_row(pool, block, i % pool->n_layers, row.kv, row.head,
                                       (uint32_t)(local % 8)),
                             pool->row_bytes, pattern_row_key(key, &row));
            }
        }
    }
}

static uint64_t n_wrong(struct bench_job *job, const struct bench_slot *slot,
                        uint64_t *ret_verified)
{
    uint64_t none[1] = {0};
    struct bench_tally tally = {.transfer_ns = none};

    bench_slot_verify(job, slot, RUN, &tally);
    bench_guards_verify(job, &tally);
    *ret_verified = tally.sums[BENCH_VERIFIED_BYTES];
    return tally.sums[BENCH_WRONG_BYTES];
}

static const struct {
    const char *tokens;
    uint64_t prefix;
    bool is_cp;
} shapes[] = {{"61", 0, false}, {"64", 0, false}, {"61", 13, false}, {"200", 90, false},
              {"61", 0, true},  {"77", 13, true}, {"5", 5, false}};

START_TEST(a_perfect_delivery_passes)
{
    struct bench_job job;
    struct bench_slot slot;
    uint64_t verified;
    uint64_t expected = 0;

    make_job(&job, shapes[_i].tokens, shapes[_i].prefix, shapes[_i].is_cp);
    receive(&job, &slot);
    deliver(&job, &slot);
    ck_assert_uint_eq(n_wrong(&job, &slot, &verified), 0);
    for (uint32_t p = 0; p < job.shape.n_pools; p++)
        expected += shape_range_bytes(
            &job.shape, &job.shape.pools[p],
            bench_range(&job.options, job.shape.pools[p].group, job.requests[0].n_tokens, true));
    ck_assert_uint_eq(verified, expected);
    free_job(&job, &slot);
}
END_TEST

START_TEST(nothing_delivered_is_all_wrong)
{
    struct bench_job job;
    struct bench_slot slot;
    uint64_t verified;
    uint64_t wrong;

    make_job(&job, "61", 0, false);
    receive(&job, &slot);
    wrong = n_wrong(&job, &slot, &verified);
    ck_assert_uint_gt(wrong, verified / 10 * 9);
    free_job(&job, &slot);
}
END_TEST

/* One flipped bit anywhere a request or a guard block lives is found; elsewhere nobody looks. */
START_TEST(one_wrong_bit_is_found)
{
    struct bench_job job;
    struct bench_slot slot;
    uint64_t verified;

    make_job(&job, shapes[_i].tokens, shapes[_i].prefix, shapes[_i].is_cp);
    receive(&job, &slot);
    deliver(&job, &slot);
    for (int round = 0; round < 100; round++) {
        uint32_t p = rnd(job.shape.n_pools);
        const struct shape_pool *pool = &job.shape.pools[p];
        uint32_t n = slot.span[p].n + job.blocks[p].n_guards;
        uint32_t i = rnd(n);
        uint32_t block =
            i < slot.span[p].n ? slot.blocks[p][i] : job.blocks[p].guards[i - slot.span[p].n];
        unsigned char *row = shape_row(pool, block, rnd(pool->n_layers), rnd(pool->n_kv),
                                       rnd(pool->n_heads), rnd(8));
        uint32_t byte = rnd((uint32_t)pool->row_bytes);
        unsigned char bit = (unsigned char)(1u << rnd(8));

        row[byte] ^= bit;
        ck_assert_uint_eq(n_wrong(&job, &slot, &verified), 1);
        row[byte] ^= bit;
    }
    ck_assert_uint_eq(n_wrong(&job, &slot, &verified), 0);
    free_job(&job, &slot);
}
END_TEST

/* Another run's bytes of the same request, left in a reused block, must not pass. */
START_TEST(a_stale_run_is_wrong)
{
    struct bench_job job;
    struct bench_slot slot;
    uint64_t none[1] = {0};
    struct bench_tally tally = {.transfer_ns = none};

    make_job(&job, "61", 0, false);
    receive(&job, &slot);
    deliver(&job, &slot);
    bench_slot_verify(&job, &slot, RUN + 1, &tally);
    ck_assert_uint_gt(tally.sums[BENCH_WRONG_BYTES], tally.sums[BENCH_VERIFIED_BYTES] / 10 * 9);
    free_job(&job, &slot);
}
END_TEST

START_TEST(quantiles_are_samples)
{
    uint64_t ns[100];
    struct bench_times t;
    const double odd[] = {3.0, 1.0, 2.0};
    const double even[] = {4.0, 1.0, 1.0, 3.0};
    const double equal[] = {2.0, 2.0, 2.0};

    for (uint64_t i = 0; i < 100; i++)
        ns[i] = (i * 37 % 100 + 1) * 1000000;
    t = bench_times_of(ns, 100);
    ck_assert_double_eq_tol(t.mean, 50.5, 1e-9);
    ck_assert_double_eq_tol(t.p50, 50.0, 1e-9);
    ck_assert_double_eq_tol(t.p90, 90.0, 1e-9);
    ck_assert_double_eq_tol(t.p95, 95.0, 1e-9);
    ck_assert_double_eq_tol(t.p99, 99.0, 1e-9);
    ck_assert_double_eq_tol(t.max, 100.0, 1e-9);
    t = bench_times_of(ns, 7); /* 1 .. 7 */
    ck_assert_double_eq_tol(t.p50, 4.0, 1e-9);
    ck_assert_double_eq_tol(t.p90, 7.0, 1e-9);
    t = bench_times_of(ns, 1);
    ck_assert_double_eq_tol(t.p50, 1.0, 1e-9);
    ck_assert_double_eq_tol(t.p99, 1.0, 1e-9);
    ck_assert_double_eq_tol(bench_times_of(ns, 0).max, 0.0, 1e-9);
    ck_assert_double_eq_tol(bench_median(odd, 3), 2.0, 1e-9);
    ck_assert_double_eq_tol(bench_median(even, 4), 2.0, 1e-9);
    ck_assert_double_eq_tol(bench_median(equal, 3), 2.0, 1e-9);
}
END_TEST

START_TEST(a_variant_passes_only_with_everything_verified)
{
    struct bench_variant v = {.n_runs = 1};

    v.sums[BENCH_VERIFIED_BYTES] = 10;
    v.sums[BENCH_EXPECTED_BYTES] = 10;
    ck_assert(bench_variant_ok(&v));
    v.sums[BENCH_WRONG_BYTES] = 1;
    ck_assert(!bench_variant_ok(&v));
    v.sums[BENCH_WRONG_BYTES] = 0;
    v.n_failed = 1;
    ck_assert(!bench_variant_ok(&v));
    v.n_failed = 0;
    v.sums[BENCH_VERIFIED_BYTES] = 9;
    ck_assert(!bench_variant_ok(&v));
    v.sums[BENCH_VERIFIED_BYTES] = 10;
    v.n_runs = 0;
    ck_assert(!bench_variant_ok(&v));
}
END_TEST

/* What the command line says, as rank 0 would read it; false with the sentence if it is refused. */
static bool read_line(char *const *words, int n, struct bench_options *o, struct tool_error *error)
{
    char *argv[16];

    argv[0] = (char[]){"kvferry bench"};
    for (int i = 0; i < n; i++)
        argv[i + 1] = words[i];
    argv[n + 1] = NULL;
    (void)snprintf(error->text, sizeof(error->text), "command line");
    return bench_options_parse(n + 1, argv, true, o) && bench_options_check(o, error);
}

#define READ(o, error, ...)                                                                        \
    read_line((char *[]){(char[]){"--model"}, model_path, __VA_ARGS__},                            \
              (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)) + 2, o, error)
#define W(text)                                                                                    \
    (char[])                                                                                       \
    {                                                                                              \
        text                                                                                       \
    }

START_TEST(good_command_lines_are_understood)
{
    struct bench_options o;
    struct tool_error error;

    ck_assert_msg(READ(&o, &error, W("--compare-lanes"), W("1,4"), W("--repeat"), W("3")), "%s",
                  error.text);
    ck_assert_uint_eq(o.n_lanes_compared, 2);
    ck_assert_uint_eq(o.lanes[1], 4);
    ck_assert_int_eq(o.pace, BENCH_PACE_ROUNDS);
    ck_assert_msg(
        READ(&o, &error, W("--tokens=5,6K"), W("--layout=token-major"), W("--block-tokens=16,32")),
        "%s", error.text);
    ck_assert_uint_eq(o.n_tokens, 2);
    ck_assert_uint_eq(o.tokens[1], 6144);
    ck_assert(o.side[0].is_token_major && o.side[1].is_token_major);
    ck_assert_uint_eq(o.side[0].block_tokens, 16);
    ck_assert_uint_eq(o.side[1].block_tokens, 32);
    ck_assert_int_eq(o.pace, BENCH_PACE_WINDOW);
    /* A run of the baseline: 8 heads over tp2 are 4 a rank, 64 elements of 2 bytes each. */
    ck_assert_msg(READ(&o, &error, W("--context=tp2"), W("--run-bytes=4096")), "%s", error.text);
    ck_assert_uint_eq(o.side[0].block_tokens, 8);
}
END_TEST

START_TEST(bad_command_lines_are_refused)
{
    struct bench_options o;
    struct tool_error error;

    ck_assert(!READ(&o, &error, W("--no-such-option")));
    ck_assert(!READ(&o, &error, W("--requests=0")));
    ck_assert(!READ(&o, &error, W("extra")));
    ck_assert(!READ(&o, &error, W("--tokens=5,")));
    ck_assert_ptr_nonnull(strstr(error.text, "--tokens"));
    ck_assert(!READ(&o, &error, W("--tokens=,5")));
    ck_assert(!READ(&o, &error, W("--layout=sideways")));
    ck_assert_ptr_nonnull(strstr(error.text, "sideways"));
    ck_assert(!READ(&o, &error, W("--layout=head-major,head-major,head-major")));
    ck_assert(!READ(&o, &error, W("--run-bytes=1000")));
    ck_assert_ptr_nonnull(strstr(error.text, "--run-bytes: 1000"));
    ck_assert(!READ(&o, &error, W("--lanes=2"), W("--compare-lanes=1,4")));
    ck_assert(!READ(&o, &error, W("--compare-lanes=1,2,3,4,5")));
    ck_assert(!READ(&o, &error, W("--baseline=clever")));
    ck_assert_ptr_nonnull(strstr(error.text, "clever"));
    ck_assert(!READ(&o, &error, W("--baseline=naive"), W("--pace=window")));
    ck_assert(!READ(&o, &error, W("--speed=2")));
    ck_assert(!READ(&o, &error, W("--trace=x"), W("--speed=-2")));
    ck_assert(!READ(&o, &error, W("--layers=99")));
    ck_assert_ptr_nonnull(strstr(error.text, "99 layers"));
}
END_TEST

static void fill(TCase *tc)
{
    const int n = (int)(sizeof(shapes) / sizeof(shapes[0]));

    (void)snprintf(model_path, sizeof(model_path), "%s/gpt-oss-120b.json", TEST_MODELS_DIR);
    tcase_add_loop_test(tc, a_perfect_delivery_passes, 0, n);
    tcase_add_test(tc, nothing_delivered_is_all_wrong);
    tcase_add_loop_test(tc, one_wrong_bit_is_found, 0, n);
    tcase_add_test(tc, a_stale_run_is_wrong);
    tcase_add_test(tc, quantiles_are_samples);
    tcase_add_test(tc, a_variant_passes_only_with_everything_verified);
    tcase_add_test(tc, good_command_lines_are_understood);
    tcase_add_test(tc, bad_command_lines_are_refused);
}

int main(void)
{
    return harness_main("bench", fill, 60);
}
