/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "tools/bench.h"

#define VARIANTS_MAX (BENCH_LANES_MAX + 1)

static void print_row(const char *name, const double *values, uint32_t n, bool with_gain)
{
    (void)printf("%-10s", name);
    for (uint32_t v = 0; v < n; v++)
        (void)printf(" %12.3f", values[v]);
    /* As the table this follows prints it: how much longer the first takes than the last. */
    if (with_gain && values[n - 1] > 0.0)
        (void)printf(" %11.2f %%", (values[0] / values[n - 1] - 1.0) * 100.0);
    (void)printf("\n");
}

static void print_times(struct bench_variant *variants, uint32_t n, bool with_gain)
{
    static const char *const names[] = {"mean", "median", "p90", "p95", "p99", "max"};
    double rows[6][VARIANTS_MAX];

    for (uint32_t v = 0; v < n; v++) {
        struct bench_times t = bench_times_of(variants[v].samples_ns, variants[v].n_samples);
        const double column[6] = {t.mean, t.p50, t.p90, t.p95, t.p99, t.max};

        for (int i = 0; i < 6; i++)
            rows[i][v] = column[i];
    }
    (void)printf("\ngeneration-side transfer time, ms (recv to its end, the slowest rank of a "
                 "request)\n%-10s",
                 "");
    for (uint32_t v = 0; v < n; v++)
        (void)printf(" %12s", variants[v].name);
    (void)printf(with_gain ? "   first/last\n" : "\n");
    for (int i = 0; i < 6; i++)
        print_row(names[i], rows[i], n, with_gain);
}

static void print_stages(const struct bench_variant *variants, uint32_t n)
{
    static const struct {
        enum bench_sum sum;
        const char *name;
    } stages[] = {{BENCH_HANDSHAKE_NS, "handshake"}, {BENCH_QUEUE_NS, "queue"},
                  {BENCH_WIRE_NS, "wire"},           {BENCH_UNPACK_NS, "unpack"},
                  {BENCH_PACK_NS, "(pack)"},         {BENCH_LANE_WIRE_NS, "(wire)"},
                  {BENCH_LANE_UNPACK_NS, "(unpack)"}};
    double row[VARIANTS_MAX];

    if (n == 0)
        return;
    (void)printf(
        "\nwhere the time went, ms a receive, one after the other; in brackets: what lanes were "
        "busy with\n");
    for (size_t s = 0; s < sizeof(stages) / sizeof(stages[0]); s++) {
        for (uint32_t v = 0; v < n; v++)
            row[v] = bench_stage_ms(&variants[v], stages[s].sum);
        print_row(stages[s].name, row, n, false);
    }
}

static void print_setup(const struct bench_job *job)
{
    const struct bench_options *o = &job->options;

    (void)printf("context %s, generation %s, model %s (%" PRIu32 " layers), %" PRIu32
                 " requests, %" PRIu64 " in flight, blocks of %" PRIu32 " and %" PRIu32
                 " tokens, %s\n",
                 o->context.text, o->generation.text, o->model.name, o->model.n_layers,
                 job->n_requests, o->concurrency, o->side[0].block_tokens, o->side[1].block_tokens,
                 o->pace == BENCH_PACE_ROUNDS ? "in rounds" : "in a window");
}

void report_text(const struct bench_job *job, struct bench_variant *variants, uint32_t n)
{
    uint64_t unique = bench_unique_bytes(job);
    uint64_t n_wrong = 0;
    uint64_t n_failed = 0;
    uint64_t verified = 0;
    double gbs[VARIANTS_MAX];
    double once[VARIANTS_MAX];
    char text[2][32];
    uint32_t n_engines = 0;

    for (uint32_t v = 0; v < n; v++) {
        n_wrong += variants[v].sums[BENCH_WRONG_BYTES];
        n_failed += variants[v].n_failed;
        verified += variants[v].sums[BENCH_VERIFIED_BYTES];
        gbs[v] = bench_median(variants[v].gbs, variants[v].n_runs);
        once[v] = variants[v].sums[BENCH_VERIFIED_BYTES]
                      ? gbs[v] * (double)unique * (double)variants[v].n_runs /
                            (double)variants[v].sums[BENCH_VERIFIED_BYTES]
                      : 0.0;
        n_engines += !variants[v].is_naive;
    }
    print_setup(job);
    print_times(variants, n, n_engines == 2 && n == 2);
    (void)printf("\nGB/s while something is received (median of %" PRIu64 ")\n",
                 job->options.repeat);
    print_row("delivered", gbs, n, false);
    print_row("unique", once, n, false);
    if (n > 1 && variants[n - 1].is_naive && gbs[n - 1] > 0.0)
        (void)printf("%s is %.2f times as fast as naive\n", variants[0].name, gbs[0] / gbs[n - 1]);
    print_stages(variants, n_engines);
    (void)printf("\na TCP round trip over loopback takes %.1f us here\n",
                 (double)job->loopback_ns / 1e3);
    (void)printf("\nrequests: %" PRIu32 "\nruns: %" PRIu64 "\nbytes_unique: %" PRIu64
                 " (%s)\nbytes_verified: %" PRIu64 " (%s)\nbytes_wrong: %" PRIu64
                 "\nfailed: %" PRIu64 "\n",
                 job->n_requests, job->options.repeat, unique,
                 tool_bytes_text(unique, text[0], sizeof(text[0])), verified,
                 tool_bytes_text(verified, text[1], sizeof(text[1])), n_wrong, n_failed);
}
