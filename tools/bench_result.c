/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"

bool bench_variant_init(const struct bench_job *job, struct bench_variant *variant,
                        struct tool_error *error)
{
    size_t n = (size_t)job->options.repeat * job->n_requests;

    variant->samples_ns = kvfi_calloc(n, sizeof(*variant->samples_ns));
    variant->gbs = kvfi_calloc(job->options.repeat, sizeof(*variant->gbs));
    if (!variant->samples_ns || !variant->gbs)
        return tool_fail(error, "no memory for %zu samples", n);
    return true;
}

void bench_variant_fini(struct bench_variant *variant)
{
    bench_engine_close(&variant->engine);
    kvfi_free(variant->samples_ns);
    kvfi_free(variant->gbs);
    *variant = (struct bench_variant){0};
}

void bench_variant_add(struct bench_job *job, struct bench_variant *variant,
                       struct bench_tally *tally, uint64_t wall_ns)
{
    world_max(job->world, tally->transfer_ns, job->n_requests);
    world_max(job->world, &tally->busy_ns, 1);
    world_sum(job->world, tally->sums, BENCH_SUMS);
    for (uint32_t i = 0; i < job->n_requests; i++) {
        if (tally->transfer_ns[i] == UINT64_MAX)
            variant->n_failed++;
        else if (tally->transfer_ns[i] != 0)
            variant->samples_ns[variant->n_samples++] = tally->transfer_ns[i];
    }
    for (int s = 0; s < BENCH_SUMS; s++)
        variant->sums[s] += tally->sums[s];
    variant->gbs[variant->n_runs++] =
        tally->busy_ns ? (double)tally->sums[BENCH_VERIFIED_BYTES] / (double)tally->busy_ns : 0.0;
    variant->busy_ns += tally->busy_ns;
    variant->wall_ns += wall_ns;
}

static int rising(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* The smallest sample that at least a share q of all are not above. */
static double quantile_ms(const uint64_t *sorted_ns, size_t n, double q)
{
    double exact = q * (double)n;
    size_t rank = (size_t)exact;

    if ((double)rank < exact)
        rank++;
    if (rank < 1)
        rank = 1;
    return (double)sorted_ns[rank - 1] / 1e6;
}

struct bench_times bench_times_of(uint64_t *samples_ns, size_t n)
{
    struct bench_times times = {0};
    double sum = 0.0;

    if (n == 0)
        return times;
    qsort(samples_ns, n, sizeof(*samples_ns), rising);
    for (size_t i = 0; i < n; i++)
        sum += (double)samples_ns[i];
    times.mean = sum / (double)n / 1e6;
    times.p50 = quantile_ms(samples_ns, n, 0.50);
    times.p90 = quantile_ms(samples_ns, n, 0.90);
    times.p95 = quantile_ms(samples_ns, n, 0.95);
    times.p99 = quantile_ms(samples_ns, n, 0.99);
    times.max = (double)samples_ns[n - 1] / 1e6;
    return times;
}

double bench_median(const double *values, uint32_t n)
{
    double below = 0.0;
    double above = 0.0;

    /* Lists are short: the middle is the value (or two) with half of all on either side. */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_less = 0;
        uint32_t n_equal = 0;

        for (uint32_t j = 0; j < n; j++) {
            n_less += values[j] < values[i];
            n_equal += !(values[j] < values[i]) && !(values[j] > values[i]);
        }
        if (n_less <= (n - 1) / 2 && (n - 1) / 2 < n_less + n_equal)
            below = values[i];
        if (n_less <= n / 2 && n / 2 < n_less + n_equal)
            above = values[i];
    }
    return (below + above) / 2.0;
}

uint64_t bench_unique_bytes(const struct bench_job *job)
{
    uint64_t n_bytes = 0;

    for (uint32_t g = 0; g < job->options.model.n_groups; g++) {
        uint64_t token_bytes = model_group_token_bytes(&job->options.model, g);

        for (uint32_t i = 0; i < job->n_requests; i++) {
            struct kvf_token_range range =
                bench_range(&job->options, g, job->requests[i].n_tokens, true);

            n_bytes += (range.end - range.begin) * token_bytes;
        }
    }
    return n_bytes;
}

bool bench_variant_ok(const struct bench_variant *variant)
{
    return variant->n_runs > 0 && variant->n_failed == 0 && variant->sums[BENCH_WRONG_BYTES] == 0 &&
           variant->sums[BENCH_VERIFIED_BYTES] == variant->sums[BENCH_EXPECTED_BYTES];
}

double bench_stage_ms(const struct bench_variant *variant, enum bench_sum stage)
{
    uint64_t n = variant->sums[BENCH_RECEIVES];

    return n ? (double)variant->sums[stage] / (double)n / 1e6 : 0.0;
}
