/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collectives/util.h"
#include "tools/commands.h"
#include "tools/library.h"
#include "tools/loopback.h"

#define VARIANTS_MAX (BENCH_LANES_MAX + 1)

/* --help and the like need no world, and starting one takes a while. */
static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "--usage") == 0 ||
            strcmp(argv[i], "-?") == 0)
            return true;
    }
    return false;
}

static uint32_t name_variants(const struct bench_job *job, struct bench_variant *variants)
{
    const struct bench_options *o = &job->options;
    uint32_t n = 0;

    for (uint32_t l = 0; l < o->n_lanes_compared; l++, n++) {
        if (o->lanes[l])
            (void)snprintf(variants[n].name, sizeof(variants[n].name), "%" PRIu32 " lane%s",
                           o->lanes[l], o->lanes[l] == 1 ? "" : "s");
        else
            (void)snprintf(variants[n].name, sizeof(variants[n].name), "kvferry");
    }
    if (o->with_naive) {
        (void)snprintf(variants[n].name, sizeof(variants[n].name), "naive");
        variants[n++].is_naive = true;
    }
    return n;
}

static bool open_variants(struct bench_job *job, struct bench_variant *variants, uint32_t n)
{
    struct tool_error error = {""};
    bool ok = true;

    for (uint32_t v = 0; v < n; v++)
        ok = ok && bench_variant_init(job, &variants[v], &error);
    if (!bench_agree(job->world, ok, &error))
        return false;
    for (uint32_t v = 0; ok && v < n; v++)
        ok = variants[v].is_naive ||
             bench_engine_open(job, v, job->options.lanes[v], &variants[v].engine);
    return ok;
}

/* Memory this process holds now. */
static uint64_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    char line[128] = "";
    const char *second;

    if (!file)
        return 0;
    (void)fgets(line, sizeof(line), file);
    (void)fclose(file);
    second = strchr(line, ' ');
    return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* All runs, the variants in turn. */
static bool run_all(struct bench_job *job, struct bench_variant *variants, uint32_t n)
{
    uint64_t *transfer_ns = kvfi_calloc(job->n_requests, sizeof(*transfer_ns));
    struct tool_error error = {"out of memory"};
    bool ok = true;

    if (!bench_agree(job->world, transfer_ns != NULL, &error) || !transfer_ns) {
        kvfi_free(transfer_ns);
        return false;
    }
    if (world_rank(job->world) == 0)
        job->loopback_ns = loopback_rtt_ns();
    for (uint64_t i = 0; i < job->options.repeat; i++) {
        for (uint32_t v = 0; v < n; v++) {
            struct bench_tally tally = {.transfer_ns = transfer_ns};
            uint64_t start_ns = kvfi_now_ns();

            memset(transfer_ns, 0, job->n_requests * sizeof(*transfer_ns));
            bench_run(job, &variants[v], &tally);
            bench_variant_add(job, &variants[v], &tally, kvfi_now_ns() - start_ns);
        }
        job->resident_bytes[i > 0] = resident_bytes();
        world_max(job->world, &job->resident_bytes[i > 0], 1);
    }
    for (uint32_t v = 0; v < n; v++)
        ok = ok && bench_variant_ok(&variants[v]);
    kvfi_free(transfer_ns);
    return ok;
}

static bool report(struct bench_job *job, struct bench_variant *variants, uint32_t n)
{
    struct tool_error error = {""};
    bool ok = true;

    if (world_rank(job->world) == 0) {
        if (!job->options.is_quiet)
            report_text(job, variants, n);
        if (job->options.json_path)
            ok = json_write(json_of_bench(job, variants, n), job->options.json_path, &error);
        (void)fflush(stdout);
    }
    return bench_agree(job->world, ok, &error);
}

static bool run_job(struct bench_job *job)
{
    static struct bench_variant variants[VARIANTS_MAX];
    uint32_t n = name_variants(job, variants);
    bool ok = bench_job_open(job, job->options.n_lanes_compared) && open_variants(job, variants, n);

    if (ok) {
        ok = run_all(job, variants, n);
        ok = report(job, variants, n) && ok;
    }
    for (uint32_t v = 0; v < n; v++)
        bench_variant_fini(&variants[v]);
    bench_job_close(job);
    return ok;
}

/* Figures that cannot be written are better known of before the job than after. */
static bool check_json_path(const struct bench_job *job, struct tool_error *error)
{
    const char *path = job->options.json_path;
    FILE *file;

    if (world_rank(job->world) != 0 || !path)
        return true;
    file = fopen(path, "ae");
    if (!file)
        return tool_fail(error, "--json: %s: %s", path, strerror(errno));
    (void)fclose(file);
    return true;
}

/* The command line on every rank, its errors on one. */
static bool read_options(struct bench_job *job, int argc, char **argv)
{
    struct tool_error error = {""};
    bool ok = bench_options_parse(argc, argv, world_rank(job->world) != 0, &job->options);

    (void)snprintf(error.text, sizeof(error.text), "try: kvferry bench --help");
    if (!bench_agree(job->world, ok, &error))
        return false;
    world_set_timeout(job->world, (job->options.timeout_s + 60) * 1000000000u);
    ok = bench_options_check(&job->options, &error) &&
         topology_check_world(&job->options.context, &job->options.generation,
                              world_size(job->world), &error) &&
         check_json_path(job, &error);
    return bench_agree(job->world, ok, &error);
}

/* The libraries; the one of MPI gets its communicator before any engine is created. */
static bool open_libraries(struct bench_job *job)
{
    struct tool_error error = {""};
    char text[256] = "";
    bool ok = library_open(job->options.library_path, &error, job->library_path,
                           sizeof(job->library_path), &job->kvf) &&
              library_open_mpi(job->library_path, &error, job->mpi_path, sizeof(job->mpi_path),
                               &job->mpi);

    if (!bench_agree(job->world, ok, &error))
        return false;
    if (job->mpi->attach(NULL, text, sizeof(text)) != KVF_OK)
        ok = tool_fail(&error, "%s: %s", job->mpi_path, text);
    return bench_agree(job->world, ok, &error);
}

/* What open_libraries began. Its result changes nothing any more. */
static void close_libraries(struct bench_job *job)
{
    char text[256] = "";

    (void)job->mpi->detach(text, sizeof(text));
}

int bench_main(int argc, char **argv)
{
    static struct bench_job job;
    struct tool_error error = {""};
    int status = 2;

    if (asks_for_help(argc, argv))
        return bench_options_parse(argc, argv, false, &job.options) ? 0 : 2;
    if (!world_open(&argc, &argv, &error, &job.world)) {
        (void)fprintf(stderr, "kvferry bench: %s\n", error.text);
        return 1;
    }
    if (read_options(&job, argc, argv)) {
        status = 1;
        if (open_libraries(&job)) {
            status = run_job(&job) ? 0 : 1;
            close_libraries(&job);
        }
    }
    world_close(job.world);
    return status;
}
