/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: mpirun -n N bench_fabric LIBRARY [SECONDS_A_CASE]
 * What slot sizes and lane waits are chosen by. Ranks 2i and 2i+1 are pairs; N must be even.
 *   mpi    plain MPI_Isend and MPI_Irecv of slot memory, tested in a loop: GB/s of one direction
 *   lane   pack, send, receive and unpack through one pair of lanes, as many slots as there are
 *   alone  one batch at a time, its end at this rank: from PACK to SENT, from POST to UNPACKED
 *   cpu    processor time of the receiving process, percent of one, while one batch a SECONDS/50
 *          is received
 * Rank 0 prints the mean over the pairs.
 */
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <time.h>

#include "collectives/lane.h"
#include "collectives/util.h"
#include "mpi_check.h"

enum { N_SLOTS = 4, MAX_BYTES = 4 * 1024 * 1024, N_SIZES = 6 };
static const uint32_t sizes[N_SIZES] = {4096, 65536, 262144, 1048576, 2097152, MAX_BYTES};

static const struct kvferry_mpi_v1 *mpi;
static const struct kvfi_fabric_ops *ops;
static struct kvfi_fabric *fabric;
static uint32_t rank;
static uint32_t n_ranks;
static bool is_sender;
static double case_seconds = 0.5;
static uint8_t *pool; /* what is packed, or unpacked to */
static uint64_t pool_base;
static struct kvfi_lane *lane;
static struct kvfi_fabric_link *link_of_pair;
static const uint32_t block_zero[1] = {0};

static bool on_run_begin(void *ctx, const struct kvfi_run *run)
{
    (void)ctx;
    (void)run;
    return true;
}

static void on_chunk_job(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                         struct kvfi_copy_job *ret_job)
{
    struct kvfi_paged side = {.bases = &pool_base, .blocks = block_zero, .block_rows = 1};

    (void)ctx;
    (void)chunk;
    *ret_job = (struct kvfi_copy_job){
        .kind = is_sender ? KVFI_COPY_PACK : KVFI_COPY_UNPACK,
        .n_layers = 1,
        .n_kv = 1,
        .n_heads = 1,
        .n_rows = 1,
        .wire_block_rows = 1,
        .row_bytes = run->bytes,
        .order = {0, 1, 2, 3},
        .src = side,
        .dst = side,
        .dense = (uint64_t)(uintptr_t)dense,
    };
}

static uint32_t on_chunk_bytes(void *ctx, const struct kvfi_run *run, uint32_t chunk)
{
    (void)ctx;
    (void)chunk;
    return run->bytes;
}

static void on_run_end(void *ctx, const struct kvfi_run *run, kvf_status_t status,
                       uint64_t started_ns, uint64_t ended_ns)
{
    (void)ctx;
    (void)run;
    (void)started_ns;
    (void)ended_ns;
    MPI_CHECK(status == KVF_OK);
}

static sem_t news;

static void on_notify(void *ctx)
{
    (void)ctx;
    (void)sem_post(&news);
}

static struct kvfi_lane_report next_report(void)
{
    struct kvfi_lane_report r;

    while (!kvfi_lane_report(lane, &r))
        (void)sem_wait(&news);
    MPI_CHECK(r.status == KVF_OK);
    return r;
}

static void open_pair(void)
{
    struct kvfi_fabric_config config = {.size = sizeof(config)};
    struct kvfi_fabric_address mine = {0};
    struct kvfi_fabric_address all[256];
    struct kvfi_fabric_address offer = {0};
    size_t blob_bytes[256];

    MPI_CHECK(ops->create(&config, NULL, 0, &fabric) == KVF_OK);
    ops->address(fabric, &mine);
    MPI_CHECK(mpi->allgather(&mine, sizeof(mine), blob_bytes, all, sizeof(all), NULL, 0) == KVF_OK);
    mine.n_bytes = 0;
    if (is_sender)
        MPI_CHECK(ops->link_offer(fabric, &all[rank ^ 1], &offer, &link_of_pair) == KVF_OK);
    else
        MPI_CHECK(ops->link_accept(fabric, &all[rank ^ 1], &offer, &mine, &link_of_pair) == KVF_OK);
    MPI_CHECK(mpi->allgather(&mine, sizeof(mine), blob_bytes, all, sizeof(all), NULL, 0) == KVF_OK);
    if (is_sender)
        MPI_CHECK(ops->link_complete(link_of_pair, &all[rank ^ 1]) == KVF_OK);
}

static void open_lane(uint32_t slot_bytes)
{
    struct kvfi_lane_config config = {
        .kind = is_sender ? KVFI_LANE_SEND : KVFI_LANE_RECV,
        .n_slots = N_SLOTS,
        .slot_bytes = slot_bytes,
        .ops = ops,
        .fabric = fabric,
        .client = {on_run_begin, on_chunk_job, on_chunk_bytes, on_run_end, NULL},
        .notify = on_notify,
    };

    MPI_CHECK(kvfi_lane_create(&config, &lane) == KVF_OK);
}

/* Both ranks of a pair move the same number of batches: the sender says when it is the last one. */
static bool agree_to_go_on(uint64_t until_ns)
{
    int go_on = kvfi_now_ns() < until_ns;

    if (is_sender)
        MPI_CHECK(MPI_Send(&go_on, 1, MPI_INT, (int)rank ^ 1, 1, MPI_COMM_WORLD) == MPI_SUCCESS);
    else
        MPI_CHECK(MPI_Recv(&go_on, 1, MPI_INT, (int)rank ^ 1, 1, MPI_COMM_WORLD,
                           MPI_STATUS_IGNORE) == MPI_SUCCESS);
    return go_on;
}

static double mean(double mine)
{
    double all = 0;

    MPI_CHECK(MPI_Reduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD) == MPI_SUCCESS);
    return all / n_ranks;
}

static uint64_t begin_case(void)
{
    MPI_CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS);
    return kvfi_now_ns();
}

static double gbs(uint64_t n_batches, uint32_t n_bytes, uint64_t began_ns)
{
    return mean((double)n_batches * n_bytes / (double)(kvfi_now_ns() - began_ns));
}

static double bench_mpi(uint32_t n_bytes)
{
    void *slots[N_SLOTS];
    uint64_t began_ns;
    uint64_t n = 0;
    double result;

    for (uint32_t i = 0; i < N_SLOTS; i++)
        MPI_CHECK(ops->slot_alloc(fabric, n_bytes, &slots[i]) == KVF_OK);
    began_ns = begin_case();
    while (agree_to_go_on(began_ns + (uint64_t)(case_seconds * 1e9)))
        for (uint32_t i = 0; i < 64; i++, n++) {
            MPI_Request request;
            int is_over = 0;

            if (is_sender)
                MPI_Isend(slots[i % N_SLOTS], (int)n_bytes, MPI_BYTE, (int)rank ^ 1, 2,
                          MPI_COMM_WORLD, &request);
            else
                MPI_Irecv(slots[i % N_SLOTS], (int)n_bytes, MPI_BYTE, (int)rank ^ 1, 2,
                          MPI_COMM_WORLD, &request);
            while (MPI_Test(&request, &is_over, MPI_STATUS_IGNORE) == MPI_SUCCESS && !is_over)
                (void)sched_yield();
        }
    result = gbs(n, n_bytes, began_ns);
    for (uint32_t i = 0; i < N_SLOTS; i++)
        ops->slot_free(fabric, slots[i]);
    return result;
}

/* As the scheduler does it: packs run ahead, one batch is launched or posted at a time. */
static void move(uint64_t n_batches, uint32_t n_bytes)
{
    struct kvfi_run run = {.n_chunks = 1, .bytes = n_bytes};
    uint64_t n_packed = 0; /* sender: PACKs given */
    uint64_t n_begun = 0;  /* LAUNCH or POST given */
    uint64_t n_wired = 0;  /* SENT or RECEIVED */
    uint64_t n_ended = 0;  /* SENT or UNPACKED */

    while (n_ended < n_batches) {
        enum kvfi_lane_report_kind kind;

        for (; is_sender && n_packed < n_batches && n_packed - n_ended < N_SLOTS; n_packed++)
            kvfi_lane_pack(lane, n_packed % N_SLOTS, &run, 1);
        if (n_begun == n_wired && n_begun < n_batches && n_begun - n_ended < N_SLOTS) {
            if (is_sender)
                kvfi_lane_launch(lane, n_begun % N_SLOTS, link_of_pair, n_bytes);
            else
                kvfi_lane_post(lane, n_begun % N_SLOTS, link_of_pair, n_bytes, &run, 1);
            n_begun++;
        }
        kind = next_report().kind;
        n_wired += kind == KVFI_LANE_SENT || kind == KVFI_LANE_RECEIVED;
        n_ended += kind == KVFI_LANE_SENT || kind == KVFI_LANE_UNPACKED;
    }
}

static double bench_lane(uint32_t n_bytes)
{
    uint64_t began_ns = begin_case();
    uint64_t n = 0;

    for (; agree_to_go_on(began_ns + (uint64_t)(case_seconds * 1e9)); n += 64)
        move(64, n_bytes);
    return gbs(n, n_bytes, began_ns);
}

/* Microseconds. */
static double bench_latency(uint32_t n_bytes)
{
    uint64_t began_ns = begin_case();
    uint64_t total_ns = 0;
    uint64_t n = 0;

    for (; agree_to_go_on(began_ns + (uint64_t)(case_seconds * 1e9)); n++) {
        uint64_t t = kvfi_now_ns();

        move(1, n_bytes);
        total_ns += kvfi_now_ns() - t;
    }
    return mean((double)total_ns / 1e3 / (double)(n ? n : 1));
}

/* Percent. The receive is posted long before its message comes. */
static double bench_cpu(uint32_t n_bytes)
{
    struct timespec pause = {.tv_nsec = (long)(case_seconds * 1e9 / 50)};
    uint64_t began_ns = begin_case();
    struct timespec before;
    struct timespec after;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    for (uint32_t i = 0; i < 50; i++) {
        if (is_sender)
            (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        move(1, n_bytes);
    }
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    return mean(is_sender ? 0
                          : 2 * 100 *
                                ((double)(after.tv_sec - before.tv_sec) * 1e9 +
                                 (double)(after.tv_nsec - before.tv_nsec)) /
                                (double)(kvfi_now_ns() - began_ns));
}

static void bench_size(uint32_t n_bytes)
{
    double mpi_gbs = bench_mpi(n_bytes);
    double lane_gbs;
    double latency_us;
    double cpu_percent;

    open_lane(n_bytes);
    lane_gbs = bench_lane(n_bytes);
    latency_us = bench_latency(n_bytes);
    cpu_percent = bench_cpu(n_bytes);
    MPI_CHECK(kvfi_lane_destroy(lane, kvfi_now_ns() + 1000000000u));
    if (rank == 0)
        (void)printf("%8u bytes: mpi %6.2f GB/s, lane %6.2f GB/s, alone %7.1f us, cpu %5.1f %%\n",
                     n_bytes, mpi_gbs, lane_gbs, latency_us, cpu_percent);
}

int main(int argc, char **argv)
{
    int level;

    MPI_CHECK(argc == 2 || argc == 3);
    if (argc == 3)
        case_seconds = strtod(argv[2], NULL);
    MPI_CHECK(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level) == MPI_SUCCESS);
    mpi = mpi_check_load(argv[1]);
    ops = mpi->fabric();
    MPI_CHECK(mpi->attach(NULL, NULL, 0) == KVF_OK);
    MPI_CHECK(mpi->place(&rank, &n_ranks) == KVF_OK && n_ranks % 2 == 0 && n_ranks <= 256);
    is_sender = rank % 2 == 0;
    pool = calloc(1, MAX_BYTES);
    MPI_CHECK(pool && sem_init(&news, 0, 0) == 0);
    memset(pool, 1, MAX_BYTES);
    pool_base = (uint64_t)(uintptr_t)pool;
    open_pair();
    for (uint32_t i = 0; i < N_SIZES; i++)
        bench_size(sizes[i]);
    ops->link_close(link_of_pair);
    ops->destroy(fabric);
    free(pool);
    return MPI_Finalize() == MPI_SUCCESS ? 0 : 1;
}
