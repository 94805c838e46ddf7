/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: bench_idle LIBKVFERRY FABRIC [SECONDS]
 * What connected engines cost while nothing happens: processor time of a process that holds a context
 * and a generation engine, each with its lanes, over some seconds.
 */
#include <sys/resource.h>
#include <time.h>

#include "engine_job.h"
#include "harness.h"

static double cpu_ms(const struct rusage *r)
{
    return (double)(r->ru_utime.tv_sec + r->ru_stime.tv_sec) * 1e3 +
           (double)(r->ru_utime.tv_usec + r->ru_stime.tv_usec) / 1e3;
}

static const char *library_path;
static const char *fabric_path;
static long seconds = 10;

START_TEST(idle)
{
    static const struct job_side side = {.name = "ctx",
                                         .tp = 1,
                                         .heads = 2,
                                         .layers = 2,
                                         .block_tokens = 8,
                                         .n_blocks = 8,
                                         .row_bytes = 32};
    static struct job_instance from;
    static struct job_instance to;
    struct timespec pause = {.tv_sec = seconds};
    struct job_side other = side;
    struct rusage before;
    struct rusage after;
    struct job job;

    job_open(&job, library_path, fabric_path);
    other.name = "gen";
    job_instance_start(&job, &side, KVF_ROLE_CONTEXT, &from);
    job_instance_start(&job, &other, KVF_ROLE_GENERATION, &to);
    job_connect(&job, &to, &from);
    (void)getrusage(RUSAGE_SELF, &before);
    (void)nanosleep(&pause, NULL); /* what is measured, not a wait for something */
    (void)getrusage(RUSAGE_SELF, &after);
    printf("2 idle engines: %.3f %% of a core\n",
           (cpu_ms(&after) - cpu_ms(&before)) / ((double)seconds * 10.0));
    job_instance_stop(&job, &to);
    job_instance_stop(&job, &from);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, idle);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    library_path = argv[1];
    fabric_path = argv[2];
    if (argc > 3)
        seconds = strtol(argv[3], NULL, 10);
    return harness_main("idle", fill, 600);
}
