/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: mpi_transfers KVFERRY MPI_LIBRARY CASE
 *        mpi_transfers --list
 * Runs one case of the table below on as many ranks as it needs. Half of the requests are received
 * before they are sent, half the other way round. Every byte of every pool is compared with the
 * image it must have, so that what arrived, what was left alone and what the source kept are all
 * checked. Tasks have deadlines, and an alarm ends whatever hangs elsewhere.
 */
#include <dlfcn.h>
#include <unistd.h>

#include "mpi_check.h"
#include "transfer_job.h"

enum { MAX_REQUESTS = 256, MAX_AUX = 4096, ALARM_S = 200 };

#define SIDE(label, n, t, p, d, bt, major)                                                         \
    {                                                                                              \
        .name = (label), .n_instances = (n), .tp = (t), .pp = (p), .dp = (d),                      \
        .block_tokens = (bt), .token_major = (major)                                               \
    }

static const struct transfer_case cases[] = {
    {"1-1", SIDE("c", 1, 1, 1, 1, 8, false), SIDE("g", 1, 1, 1, 1, 8, false), 4, false, 3, 64, 24,
     200, 1, 65536, false},
    {"1-1-lanes4", SIDE("c", 1, 1, 1, 1, 8, false), SIDE("g", 1, 1, 1, 1, 16, true), 4, false, 3,
     64, 24, 200, 4, 65536, true},
    {"tp2-tp1", SIDE("c", 1, 2, 1, 1, 8, false), SIDE("g", 1, 1, 1, 1, 8, true), 4, false, 3, 64,
     24, 200, 2, 65536, true},
    {"tp1-tp2", SIDE("c", 1, 1, 1, 1, 16, false), SIDE("g", 1, 2, 1, 1, 8, false), 4, false, 3, 48,
     24, 200, 1, 65536, true},
    {"tp2-pp2", SIDE("c", 1, 2, 1, 1, 8, false), SIDE("g", 1, 1, 2, 1, 8, false), 4, false, 5, 32,
     24, 200, 2, 65536, true},
    {"pp2-tp2", SIDE("c", 1, 1, 2, 1, 8, true), SIDE("g", 1, 2, 1, 1, 8, false), 4, false, 5, 32,
     24, 200, 2, 65536, true},
    {"tp4-tp2pp2", SIDE("c", 1, 4, 1, 1, 8, false), SIDE("g", 1, 2, 2, 1, 8, false), 8, false, 5,
     32, 16, 200, 2, 65536, true},
    {"dep4-tp8-mla", SIDE("c", 1, 1, 1, 4, 8, false), SIDE("g", 1, 8, 1, 1, 8, false), 1, true, 5,
     96, 16, 200, 2, 65536, true},
    {"2x1-2x1", SIDE("c", 2, 1, 1, 1, 8, false), SIDE("g", 2, 1, 1, 1, 8, false), 4, false, 3, 64,
     32, 200, 2, 65536, true},
    {"200-at-once", SIDE("c", 1, 1, 1, 1, 8, false), SIDE("g", 1, 1, 1, 1, 8, false), 2, false, 2,
     32, 200, 64, 2, 65536, false},
    {"200-at-once-lanes4", SIDE("c", 1, 2, 1, 1, 8, false), SIDE("g", 1, 1, 1, 1, 8, false), 2,
     false, 2, 32, 200, 64, 4, 16384, true},
};

static struct rank_job job;
static struct kvf_task *tasks[MAX_REQUESTS];
static uint8_t aux[MAX_REQUESTS][MAX_AUX];

static const struct transfer_case *find_case(const char *name)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (strcmp(cases[i].name, name) == 0)
            return &cases[i];
    }
    return NULL;
}

static void barrier(void)
{
    MPI_CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS);
}

/* Odd or even requests of this rank. */
static void begin(uint32_t odd)
{
    for (uint32_t r = odd; r < job.c->n_requests; r += 2) {
        if (!in_request(&job, r))
            continue;
        tasks[r] = job.side == &job.c->context ? request_send(&job, r)
                                               : request_recv(&job, r, aux[r], MAX_AUX);
    }
}

static void check_aux(uint32_t request, const struct kvf_result *result)
{
    uint32_t n = request_aux_bytes(request);

    MPI_CHECK(result->aux_bytes == n);
    for (uint32_t i = 0; i < n; i++)
        MPI_CHECK(aux[request][i] == request_aux_byte(request, i));
}

static void end_all(void)
{
    for (uint32_t r = 0; r < job.c->n_requests; r++) {
        struct kvf_result result = {.size = sizeof(result)};

        if (!in_request(&job, r))
            continue;
        MPI_CHECK(job.kvf->task_wait(tasks[r], 2 * TASK_TIMEOUT_NS, &result) == KVF_OK);
        if (result.status != KVF_OK)
            fprintf(stderr, "rank %u, request %u: %s: %s\n", job.world_rank, r,
                    job.kvf->status_name(result.status), result.message);
        MPI_CHECK(result.status == KVF_OK && result.state == KVF_TASK_DONE);
        MPI_CHECK(result.bytes == result.bytes_wanted && result.n_missing == 0);
        if (job.side == &job.c->generation)
            check_aux(r, &result);
        MPI_CHECK(job.kvf->task_release(tasks[r]) == KVF_OK);
    }
}

static void *symbol(const char *path, const char *name)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *found = library ? dlsym(library, name) : NULL;

    if (!found)
        fprintf(stderr, "%s\n", dlerror());
    MPI_CHECK(found != NULL);
    return found;
}

static int run(const char *kvferry, const char *mpi_library, const char *name)
{
    const struct transfer_case *c = find_case(name);
    uint64_t wrong;

    MPI_CHECK(c != NULL && c->n_requests <= MAX_REQUESTS);
    rank_job_start(&job, c, symbol(kvferry, "kvferry_plugin_v1"),
                   symbol(mpi_library, "kvferry_mpi_v1"));
    /* Even requests are received first, odd ones sent first. */
    if (job.side == &c->generation)
        begin(0);
    else
        begin(1);
    barrier();
    if (job.side == &c->generation)
        begin(1);
    else
        begin(0);
    end_all();
    wrong = rank_job_wrong(&job);
    if (wrong > 0)
        fprintf(stderr, "rank %u: %llu of %zu bytes wrong\n", job.world_rank,
                (unsigned long long)wrong, job.n_bytes);
    MPI_CHECK(wrong == 0);
    barrier();
    rank_job_stop(&job);
    return 0;
}

int main(int argc, char **argv)
{
    int level;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
            printf("%s %u\n", cases[i].name,
                   side_ranks(&cases[i].context) + side_ranks(&cases[i].generation));
        return 0;
    }
    if (argc != 4)
        return 2;
    alarm(ALARM_S);
    MPI_CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level) == MPI_SUCCESS);
    if (level < MPI_THREAD_MULTIPLE)
        return 77;
    (void)run(argv[1], argv[2], argv[3]);
    MPI_CHECK(MPI_Finalize() == MPI_SUCCESS);
    return 0;
}
