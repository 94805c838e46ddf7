/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: mpirun -n 2 mpi_fabric LIBRARY
 * Two ranks with lanes and links in both directions. Both draw the same random sizes, so each knows
 * what the other sends. Every wait has a deadline.
 */
#include <sched.h>
#include <stdbool.h>

#include "collectives/lane.h"
#include "collectives/util.h"
#include "mpi_check.h"

enum {
    N_LANES = 2,
    N_LINKS = 4, /* each direction; link l belongs to lane l % N_LANES and slot l / N_LANES */
    N_SLOTS = N_LINKS / N_LANES,
    SLOT_BYTES = 1024 * 1024,
    ROUNDS = 150,
    CAPACITY = 8192
};
#define WAIT_NS (UINT64_C(30) * 1000000000u)

static const struct kvferry_mpi_v1 *mpi;
static const struct kvfi_fabric_ops *ops;
static char text[256];
static uint32_t rank;
static uint32_t n_ranks;
static struct kvfi_fabric *fabric;

/* A direction of this rank: piece l is link l's memory, and its one chunk is all of a batch. */
struct side {
    bool is_sender;
    uint8_t *bytes[N_LINKS];
    uint64_t bases[N_LINKS];
    struct kvfi_lane *lanes[N_LANES];
    struct kvfi_fabric_link *links[N_LINKS];
};
static struct side tx = {.is_sender = true};
static struct side rx;
static const uint32_t block_zero[1] = {0};

/* ---- the lanes' client --------------------------------------------------------------------- */

static bool on_run_begin(void *ctx, const struct kvfi_run *run)
{
    (void)ctx;
    (void)run;
    return true;
}

/* All bytes of the batch as one row. */
static void on_chunk_job(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                         struct kvfi_copy_job *ret_job)
{
    struct side *s = ctx;
    struct kvfi_paged side = {
        .bases = &s->bases[run->piece], .blocks = block_zero, .block_rows = 1};

    (void)chunk;
    *ret_job = (struct kvfi_copy_job){
        .kind = s->is_sender ? KVFI_COPY_PACK : KVFI_COPY_UNPACK,
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
    MPI_CHECK(status == KVF_OK && started_ns && started_ns <= ended_ns);
}

/* The test polls. */
static void on_notify(void *ctx)
{
    (void)ctx;
}

/* ---- bootstrap ----------------------------------------------------------------------------- */

static uint8_t blob_byte(uint32_t r, size_t i)
{
    return (uint8_t)kvfi_mix64(r * 1000003u + i);
}

/* Rank r gives n_of[r] bytes. */
static void check_allgather(const size_t n_of[2])
{
    uint8_t mine[CAPACITY];
    uint8_t all[2 * CAPACITY];
    size_t sizes[2] = {7, 7};
    size_t at = 0;

    for (size_t i = 0; i < n_of[rank]; i++)
        mine[i] = blob_byte(rank, i);
    MPI_CHECK(mpi->allgather(mine, n_of[rank], sizes, NULL, 0, NULL, 0) == KVF_OK);
    MPI_CHECK(sizes[0] == n_of[0] && sizes[1] == n_of[1]);
    sizes[0] = 7;
    MPI_CHECK(mpi->allgather(mine, n_of[rank], sizes, all, sizeof(all), NULL, 0) == KVF_OK);
    MPI_CHECK(sizes[0] == n_of[0] && sizes[1] == n_of[1]);
    for (uint32_t r = 0; r < 2; r++)
        for (size_t i = 0; i < n_of[r]; i++, at++)
            MPI_CHECK(all[at] == blob_byte(r, i));
}

static void check_bootstrap(void)
{
    uint8_t keys[2][KVF_JOB_KEY_BYTES];
    uint8_t theirs[KVF_JOB_KEY_BYTES];
    uint8_t small[100];
    size_t sizes[2];
    int mpi_rank;

    MPI_CHECK(mpi->attach(NULL, text, sizeof(text)) == KVF_OK);
    MPI_CHECK(mpi->attach(NULL, NULL, 0) == KVF_OK);
    MPI_CHECK(mpi->place(&rank, &n_ranks) == KVF_OK);
    MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank) == MPI_SUCCESS);
    MPI_CHECK(n_ranks == 2 && rank == (uint32_t)mpi_rank);

    check_allgather((const size_t[]){1000, 4567});
    check_allgather((const size_t[]){0, CAPACITY});
    check_allgather((const size_t[]){0, 0});
    /* Too little room on one rank is refused on both, and both know how much it takes. */
    MPI_CHECK(mpi->allgather(small, 60, sizes, small, rank ? 120 : 100, text, sizeof(text)) ==
              KVF_ENOSPC);
    MPI_CHECK(sizes[0] == 60 && sizes[1] == 60 && strstr(text, "120") && strstr(text, "100"));

    memset(keys, 0, sizeof(keys));
    MPI_CHECK(mpi->job_key(keys[0], text, sizeof(text)) == KVF_OK);
    MPI_CHECK(mpi->job_key(keys[1], NULL, 0) == KVF_OK);
    MPI_CHECK(memcmp(keys[0], keys[1], sizeof(keys[0])) != 0);
    memcpy(theirs, keys[0], sizeof(theirs));
    MPI_CHECK(MPI_Bcast(theirs, sizeof(theirs), MPI_BYTE, 1, MPI_COMM_WORLD) == MPI_SUCCESS);
    MPI_CHECK(memcmp(keys[0], theirs, sizeof(theirs)) == 0);
}

/* ---- links and lanes ----------------------------------------------------------------------- */

/* What the other rank gave for what this one gives. */
static struct kvfi_fabric_address swap(const struct kvfi_fabric_address *mine)
{
    struct kvfi_fabric_address both[2];
    size_t sizes[2];

    MPI_CHECK(mpi->allgather(mine, sizeof(*mine), sizes, both, sizeof(both), NULL, 0) == KVF_OK);
    return both[1 - rank];
}

static void open_links(void)
{
    struct kvfi_fabric_address peer = {0};
    struct kvfi_fabric_address wrong;

    ops->address(fabric, &peer);
    peer = swap(&peer);
    for (uint32_t i = 0; i < N_LINKS; i++) {
        struct kvfi_fabric_address offer = {0};
        struct kvfi_fabric_address answer = {0};

        MPI_CHECK(ops->link_offer(fabric, &peer, &offer, &tx.links[i]) == KVF_OK);
        offer = swap(&offer);
        MPI_CHECK(ops->link_accept(fabric, &peer, &offer, &answer, &rx.links[i]) == KVF_OK);
        answer = swap(&answer);
        MPI_CHECK(ops->link_complete(tx.links[i], &answer) == KVF_OK);
    }
    wrong = peer;
    wrong.bytes[0] ^= 1; /* another MPI job */
    MPI_CHECK(ops->link_offer(fabric, &wrong, &wrong, &tx.links[0]) == KVF_EMISMATCH);
    wrong = peer;
    wrong.bytes[8] = 2; /* no such rank */
    MPI_CHECK(ops->link_offer(fabric, &wrong, &wrong, &tx.links[0]) == KVF_EPROTO);
    wrong = (struct kvfi_fabric_address){.n_bytes = 4, .bytes = {0xff, 0xff, 0xff, 0xff}};
    MPI_CHECK(ops->link_complete(tx.links[0], &wrong) == KVF_EPROTO);
}

static void open_side(struct side *s)
{
    for (uint32_t i = 0; i < N_LINKS; i++) {
        s->bytes[i] = calloc(1, SLOT_BYTES);
        MPI_CHECK(s->bytes[i]);
        s->bases[i] = (uint64_t)(uintptr_t)s->bytes[i];
    }
    for (uint32_t i = 0; i < N_LANES; i++) {
        struct kvfi_lane_config config = {
            .kind = s->is_sender ? KVFI_LANE_SEND : KVFI_LANE_RECV,
            .index = i,
            .n_slots = N_SLOTS,
            .slot_bytes = SLOT_BYTES,
            .ops = ops,
            .fabric = fabric,
            .client = {on_run_begin, on_chunk_job, on_chunk_bytes, on_run_end, s},
            .notify = on_notify,
        };

        MPI_CHECK(kvfi_lane_create(&config, &s->lanes[i]) == KVF_OK);
    }
}

static bool close_side(struct side *s)
{
    bool is_clean = true;

    for (uint32_t i = 0; i < N_LANES; i++)
        is_clean &= kvfi_lane_destroy(s->lanes[i], kvfi_now_ns() + WAIT_NS);
    for (uint32_t i = 0; i < N_LINKS; i++) {
        ops->link_close(s->links[i]);
        free(s->bytes[i]);
    }
    return is_clean;
}

static void open_all(void)
{
    struct kvfi_fabric_config config = {.size = sizeof(config)};

    MPI_CHECK(ops->create(&config, text, sizeof(text), &fabric) == KVF_OK);
    MPI_CHECK(strstr(ops->version(fabric), "job "));
    open_links();
    open_side(&tx);
    open_side(&rx);
}

/* ---- transfers ----------------------------------------------------------------------------- */

static struct kvfi_run run_of(uint32_t link, uint32_t n_bytes)
{
    return (struct kvfi_run){.piece = link, .n_chunks = 1, .bytes = n_bytes};
}

static void send_batch(uint32_t link, uint32_t n_bytes)
{
    struct kvfi_lane *lane = tx.lanes[link % N_LANES];
    struct kvfi_run run = run_of(link, n_bytes);

    kvfi_lane_pack(lane, link / N_LANES, &run, 1);
    kvfi_lane_launch(lane, link / N_LANES, tx.links[link], n_bytes);
}

static void post_batch(uint32_t link, uint32_t n_bytes)
{
    struct kvfi_run run = run_of(link, n_bytes);

    kvfi_lane_post(rx.lanes[link % N_LANES], link / N_LANES, rx.links[link], n_bytes, &run, 1);
}

static struct kvfi_lane_report next_report(struct side *s, uint32_t link)
{
    uint64_t until_ns = kvfi_now_ns() + WAIT_NS;
    struct kvfi_lane_report r;

    while (!kvfi_lane_report(s->lanes[link % N_LANES], &r)) {
        MPI_CHECK(kvfi_now_ns() < until_ns);
        (void)sched_yield();
    }
    return r;
}

static void expect(struct side *s, uint32_t link, enum kvfi_lane_report_kind kind,
                   kvf_status_t status)
{
    struct kvfi_lane_report r = next_report(s, link);

    MPI_CHECK(r.kind == kind);
    MPI_CHECK(r.slot == link / N_LANES);
    MPI_CHECK(r.status == status);
}

static uint64_t seed_of(uint32_t from, uint32_t round, uint32_t link)
{
    return kvfi_mix64((((uint64_t)from << 32 | round) << 8) | link);
}

/* From one byte to a whole slot, small ones as often as large ones. */
static uint32_t bytes_of(uint64_t seed)
{
    uint32_t magnitude = (uint32_t)(seed % 21);
    uint32_t n = (1u << magnitude) + (uint32_t)(kvfi_mix64(seed) % (1u << magnitude));

    return n < SLOT_BYTES ? n : SLOT_BYTES;
}

static void fill(uint8_t *bytes, uint32_t n_bytes, uint64_t seed)
{
    for (uint32_t i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)(((seed + i) * 0x9E3779B97F4A7C15u) >> 56);
}

static void check(const uint8_t *bytes, uint32_t n_bytes, uint64_t seed)
{
    static uint8_t want[SLOT_BYTES];

    fill(want, n_bytes, seed);
    MPI_CHECK(memcmp(bytes, want, n_bytes) == 0);
}

/* One batch on every link, both directions at once. */
static void do_round(uint32_t round)
{
    for (uint32_t l = 0; l < N_LINKS; l++) {
        uint64_t seed = seed_of(rank, round, l);

        fill(tx.bytes[l], bytes_of(seed), seed);
        send_batch(l, bytes_of(seed));
        post_batch(l, bytes_of(seed_of(1 - rank, round, l)));
    }
    for (uint32_t i = 0; i < 2 * N_LINKS; i++) {
        MPI_CHECK(next_report(&tx, i).status == KVF_OK);
        MPI_CHECK(next_report(&rx, i).status == KVF_OK);
    }
    for (uint32_t l = 0; l < N_LINKS; l++) {
        uint64_t seed = seed_of(1 - rank, round, l);

        check(rx.bytes[l], bytes_of(seed), seed);
    }
}

/* Rank 0 sends n bytes over link 1, rank 1 expects others. */
static void check_wrong_size(uint32_t sent_bytes, uint32_t expected_bytes)
{
    if (rank == 0) {
        send_batch(1, sent_bytes);
        expect(&tx, 1, KVFI_LANE_PACKED, KVF_OK);
        expect(&tx, 1, KVFI_LANE_SENT, KVF_OK);
    } else {
        post_batch(1, expected_bytes);
        expect(&rx, 1, KVFI_LANE_RECEIVED, KVF_EFABRIC);
    }
    do_round(ROUNDS + 1);
}

static void check_abandoned_receive(void)
{
    post_batch(2, 5000);
    kvfi_lane_abandon(rx.lanes[0], 1);
    expect(&rx, 2, KVFI_LANE_RECEIVED, KVF_ECANCELED);
    MPI_CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS);
    do_round(ROUNDS + 2);
}

/* Rank 0's send is never received: it costs a slot, and everything else goes on. */
static void check_abandoned_send(void)
{
    if (rank == 0) {
        send_batch(0, SLOT_BYTES);
        expect(&tx, 0, KVFI_LANE_PACKED, KVF_OK);
        kvfi_lane_abandon(tx.lanes[0], 0);
        expect(&tx, 0, KVFI_LANE_SENT, KVF_ECANCELED);
    }
    MPI_CHECK(MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS);
    /* Not over link 0, where the next receive would take the old message. */
    if (rank == 0) {
        fill(tx.bytes[2], 70000, 5);
        send_batch(2, 70000);
        expect(&tx, 2, KVFI_LANE_PACKED, KVF_OK);
        expect(&tx, 2, KVFI_LANE_SENT, KVF_OK);
    } else {
        post_batch(2, 70000);
        expect(&rx, 2, KVFI_LANE_RECEIVED, KVF_OK);
        expect(&rx, 2, KVFI_LANE_UNPACKED, KVF_OK);
        check(rx.bytes[2], 70000, 5);
    }
}

int main(int argc, char **argv)
{
    int level;

    MPI_CHECK(argc == 2);
    MPI_CHECK(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level) == MPI_SUCCESS);
    if (level < MPI_THREAD_MULTIPLE) {
        (void)MPI_Finalize();
        return 77;
    }
    mpi = mpi_check_load(argv[1]);
    ops = mpi->fabric();
    MPI_CHECK(ops->contract == KVFI_FABRIC_CONTRACT && ops->size == sizeof(*ops));
    check_bootstrap();
    open_all();
    MPI_CHECK(mpi->detach(text, sizeof(text)) == KVF_EBUSY);
    for (uint32_t round = 0; round < ROUNDS; round++)
        do_round(round);
    check_wrong_size(1000, 999);
    check_wrong_size(999, 1000);
    check_wrong_size(SLOT_BYTES, 1000);
    check_wrong_size(1000, SLOT_BYTES);
    check_abandoned_receive();
    check_abandoned_send();
    MPI_CHECK(close_side(&tx) == (rank != 0));
    MPI_CHECK(close_side(&rx));
    ops->destroy(fabric);
    MPI_CHECK(mpi->detach(text, sizeof(text)) == KVF_OK);
    MPI_CHECK(mpi->detach(NULL, 0) == KVF_ESTATE);
    MPI_CHECK(MPI_Finalize() == MPI_SUCCESS);
    return 0;
}
