/* SPDX-License-Identifier: Apache-2.0 */
#include "lane_rig.h"

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "collectives/util.h"

enum { WAIT_S = 20 }; /* deadline of every wait */

static struct side sides[2];
struct side *const tx = &sides[0];
struct side *const rx = &sides[1];
static const uint32_t block_zero[1] = {0};

uint32_t bytes_of(uint32_t piece, uint32_t chunk)
{
    return 1 + (uint32_t)(kvfi_mix64(piece * 1000u + chunk) % CHUNK_MAX);
}

static bool on_run_begin(void *ctx, const struct kvfi_run *run)
{
    struct side *s = ctx;
    sigset_t blocked;

    (void)pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    atomic_store_explicit(&s->are_signals_blocked,
                          sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1) &&
                              sigismember(&blocked, SIGRTMIN),
                          memory_order_relaxed);
    if (s->is_dead[run->piece])
        return false;
    atomic_fetch_add_explicit(&s->n_begun, 1, memory_order_relaxed);
    return true;
}

static void on_chunk_job(void *ctx, const struct kvfi_run *run, uint32_t chunk, void *dense,
                         struct kvfi_copy_job *ret_job)
{
    struct side *s = ctx;
    struct kvfi_paged side = {
        .bases = &s->bases[run->piece],
        .blocks = block_zero,
        .block_rows = 1,
        .offset = (uint64_t)chunk * CHUNK_MAX,
    };

    *ret_job = (struct kvfi_copy_job){
        .kind = s->copy_kind,
        .n_layers = 1,
        .n_kv = 1,
        .n_heads = 1,
        .n_rows = 1,
        .wire_block_rows = 1,
        .row_bytes = bytes_of(run->piece, chunk),
        .order = {0, 1, 2, 3},
        .src = side,
        .dst = side,
        .dense = (uint64_t)(uintptr_t)dense,
    };
}

static uint32_t on_chunk_bytes(void *ctx, const struct kvfi_run *run, uint32_t chunk)
{
    (void)ctx;
    return run->piece == BAD_PIECE ? SLOT_BYTES : bytes_of(run->piece, chunk);
}

static void on_run_end(void *ctx, const struct kvfi_run *run, kvf_status_t status,
                       uint64_t started_ns, uint64_t ended_ns)
{
    struct side *s = ctx;

    (void)run;
    if (started_ns == 0 || started_ns > ended_ns)
        atomic_store_explicit(&s->are_times_bad, true, memory_order_relaxed);
    atomic_store_explicit(&s->last_status, status, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->n_ended, 1, memory_order_relaxed);
}

static void on_notify(void *ctx)
{
    struct side *s = ctx;

    (void)sem_post(&s->news);
}

unsigned n_begun(struct side *s)
{
    return atomic_load_explicit(&s->n_begun, memory_order_relaxed);
}

unsigned n_ended(struct side *s)
{
    return atomic_load_explicit(&s->n_ended, memory_order_relaxed);
}

kvf_status_t last_status(struct side *s)
{
    return (kvf_status_t)atomic_load_explicit(&s->last_status, memory_order_relaxed);
}

struct kvfi_lane_config config_of(struct side *s)
{
    return (struct kvfi_lane_config){
        .kind = s == tx ? KVFI_LANE_SEND : KVFI_LANE_RECV,
        .index = 3,
        .n_slots = N_SLOTS,
        .slot_bytes = SLOT_BYTES,
        .ops = fabric_mem_ops(),
        .fabric = s->fabric,
        .client = {on_run_begin, on_chunk_job, on_chunk_bytes, on_run_end, s},
        .notify = on_notify,
        .notify_ctx = s,
    };
}

static void set_up_side(struct side *s)
{
    struct kvfi_fabric_config config = {.size = sizeof(config)};
    struct kvfi_lane_config lane;

    memset(s, 0, sizeof(*s));
    s->copy_kind = s == tx ? KVFI_COPY_PACK : KVFI_COPY_UNPACK;
    for (uint32_t p = 0; p < N_PIECES; p++)
        s->bases[p] = (uint64_t)(uintptr_t)s->bytes[p];
    ck_assert_int_eq(sem_init(&s->news, 0, 0), 0);
    ck_assert_int_eq(fabric_mem_ops()->create(&config, NULL, 0, &s->fabric), KVF_OK);
    lane = config_of(s);
    ck_assert_int_eq(kvfi_lane_create(&lane, &s->lane), KVF_OK);
}

void set_up(void)
{
    const struct kvfi_fabric_ops *ops = fabric_mem_ops();
    struct kvfi_fabric_address from;
    struct kvfi_fabric_address to;
    struct kvfi_fabric_address offer;
    struct kvfi_fabric_address answer;

    set_up_side(tx);
    set_up_side(rx);
    for (uint32_t p = 0; p < N_PIECES; p++)
        for (uint32_t i = 0; i < N_CHUNKS * CHUNK_MAX; i++)
            tx->bytes[p][i / CHUNK_MAX][i % CHUNK_MAX] =
                (uint8_t)(1 + kvfi_mix64(p * 100000u + i) % 255);
    ops->address(tx->fabric, &from);
    ops->address(rx->fabric, &to);
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        ck_assert_int_eq(ops->link_offer(tx->fabric, &to, &offer, &tx->links[i]), KVF_OK);
        ck_assert_int_eq(ops->link_accept(rx->fabric, &from, &offer, &answer, &rx->links[i]),
                         KVF_OK);
        ck_assert_int_eq(ops->link_complete(tx->links[i], &answer), KVF_OK);
    }
}

void tear_down_side(struct side *s, bool is_clean)
{
    if (!s->fabric)
        return;
    if (s->lane)
        ck_assert(kvfi_lane_destroy(s->lane, kvfi_now_ns() + FAR_NS) == is_clean);
    ck_assert_uint_eq(fabric_mem_n_slots(s->fabric), is_clean ? 0 : 1);
    ck_assert_uint_eq(fabric_mem_n_lanes(s->fabric), 0);
    ck_assert_uint_eq(n_begun(s), n_ended(s));
    for (uint32_t i = 0; i < N_SLOTS; i++)
        if (s->links[i])
            fabric_mem_ops()->link_close(s->links[i]);
    fabric_mem_ops()->destroy(s->fabric);
    s->fabric = NULL;
    ck_assert(!atomic_load_explicit(&s->are_times_bad, memory_order_relaxed));
    ck_assert_int_eq(sem_destroy(&s->news), 0);
}

void tear_down(void)
{
    tear_down_side(tx, true);
    tear_down_side(rx, true);
}

struct kvfi_lane_report next_report(struct side *s)
{
    struct kvfi_lane_report r;
    struct timespec until;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    while (!kvfi_lane_report(s->lane, &r))
        ck_assert_msg(sem_timedwait(&s->news, &until) == 0, "no report in time");
    ck_assert(r.started_ns != 0 && r.started_ns <= r.ended_ns);
    return r;
}

void expect(struct side *s, enum kvfi_lane_report_kind kind, uint32_t slot, kvf_status_t status)
{
    struct kvfi_lane_report r = next_report(s);

    ck_assert_uint_eq(r.kind, kind);
    ck_assert_uint_eq(r.slot, slot);
    ck_assert_int_eq(r.status, status);
}

void expect_silence(struct side *s)
{
    struct kvfi_lane_report r;

    ck_assert(!kvfi_lane_report(s->lane, &r));
}

void add_run(struct batch *b, uint32_t piece, uint32_t first_chunk, uint32_t n_chunks)
{
    struct kvfi_run *run = &b->runs[b->n_runs++];

    *run = (struct kvfi_run){
        .piece = piece, .first_chunk = first_chunk, .n_chunks = n_chunks, .offset = b->bytes};
    for (uint32_t i = 0; i < n_chunks; i++)
        run->bytes += bytes_of(piece, first_chunk + i);
    b->bytes += run->bytes;
}

struct batch one_run(uint32_t piece)
{
    struct batch b = {0};

    add_run(&b, piece, 0, N_CHUNKS);
    return b;
}

void rig_pack(uint32_t slot, const struct batch *b)
{
    kvfi_lane_pack(tx->lane, slot, b->runs, b->n_runs);
}

void rig_launch(uint32_t slot, const struct batch *b)
{
    kvfi_lane_launch(tx->lane, slot, tx->links[slot], b->bytes);
}

void rig_post(uint32_t slot, const struct batch *b)
{
    kvfi_lane_post(rx->lane, slot, rx->links[slot], b->bytes, b->runs, b->n_runs);
}

void expect_arrival(uint32_t slot)
{
    expect(rx, KVFI_LANE_RECEIVED, slot, KVF_OK);
    expect(rx, KVFI_LANE_UNPACKED, slot, KVF_OK);
}

bool has_arrived(uint32_t piece, uint32_t chunk)
{
    return memcmp(rx->bytes[piece][chunk], tx->bytes[piece][chunk], bytes_of(piece, chunk)) == 0;
}

bool is_untouched(uint32_t piece)
{
    static const uint8_t zeros[N_CHUNKS * CHUNK_MAX];

    return memcmp(rx->bytes[piece], zeros, sizeof(zeros)) == 0;
}

void check_piece(uint32_t piece)
{
    for (uint32_t c = 0; c < N_CHUNKS; c++)
        ck_assert_msg(has_arrived(piece, c), "piece %u chunk %u", piece, c);
}

/* The lanes still work. */
void check_alive(uint32_t slot)
{
    struct batch b = one_run(77);

    memset(rx->bytes[77], 0, sizeof(rx->bytes[77]));
    rig_pack(slot, &b);
    rig_launch(slot, &b);
    rig_post(slot, &b);
    expect(tx, KVFI_LANE_PACKED, slot, KVF_OK);
    expect(tx, KVFI_LANE_SENT, slot, KVF_OK);
    expect_arrival(slot);
    check_piece(77);
}
