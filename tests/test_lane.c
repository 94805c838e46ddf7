/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/lane.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>

#include "collectives/lane_internal.h"
#include "collectives/util.h"
#include "harness.h"
#include "lane_rig.h"

enum { ROUNDS = 400 }; /* of N_SLOTS batches each */

/* ---- moving -------------------------------------------------------------------------------- */

/* Pieces of slot s are s, s + N_SLOTS, ...: batches that are under way together share none. */
static struct batch random_batch(uint32_t slot)
{
    struct batch b = {0};
    uint32_t n = rnd(N_PIECES / N_SLOTS - 1);

    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = rnd(N_CHUNKS);

        add_run(&b, i * N_SLOTS + slot, first, 1 + rnd(N_CHUNKS - first));
    }
    return b;
}

static void check_batch(const struct batch *b)
{
    for (uint32_t i = 0; i < b->n_runs; i++) {
        const struct kvfi_run *run = &b->runs[i];

        if (rx->is_dead[run->piece])
            ck_assert(is_untouched(run->piece));
        else
            for (uint32_t c = 0; c < run->n_chunks && !tx->is_dead[run->piece]; c++)
                ck_assert(has_arrived(run->piece, run->first_chunk + c));
    }
}

/* Reports of N_SLOTS batches: of each slot `first` before `second`. */
static void expect_all(struct side *s, enum kvfi_lane_report_kind first,
                       enum kvfi_lane_report_kind second)
{
    uint32_t n[N_SLOTS] = {0};

    for (uint32_t i = 0; i < 2 * N_SLOTS; i++) {
        struct kvfi_lane_report r = next_report(s);

        ck_assert_int_eq(r.status, KVF_OK);
        ck_assert_uint_lt(r.slot, N_SLOTS);
        ck_assert_uint_eq(r.kind, n[r.slot] == 0 ? first : second);
        n[r.slot]++;
    }
    ck_assert_uint_eq(n_begun(s), n_ended(s));
}

START_TEST(random_batches_arrive)
{
    struct batch b[N_SLOTS];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct fabric_mem_rules rules = {.copy_polls = rnd(3), .wire_polls = rnd(3)};

        fabric_mem_set_rules(tx->fabric, &rules);
        rules.copy_polls = rnd(3);
        fabric_mem_set_rules(rx->fabric, &rules);
        memset(rx->bytes, 0, sizeof(rx->bytes));
        for (uint32_t p = 0; p < N_PIECES; p++) {
            tx->is_dead[p] = rnd(10) == 0;
            rx->is_dead[p] = rnd(10) == 0;
        }
        for (uint32_t i = 0; i < N_SLOTS; i++) {
            b[i] = random_batch(i);
            rig_pack(i, &b[i]);
            if (rnd(2))
                rig_post(i, &b[i]), rig_launch(i, &b[i]);
            else
                rig_launch(i, &b[i]), rig_post(i, &b[i]);
        }
        expect_all(tx, KVFI_LANE_PACKED, KVFI_LANE_SENT);
        expect_all(rx, KVFI_LANE_RECEIVED, KVFI_LANE_UNPACKED);
        for (uint32_t i = 0; i < N_SLOTS; i++)
            check_batch(&b[i]);
    }
    expect_silence(tx);
    expect_silence(rx);
}
END_TEST

START_TEST(filler_is_not_touched)
{
    struct batch b = {0};

    add_run(&b, 1, 0, N_CHUNKS);
    add_run(&b, 2, 0, N_CHUNKS);
    add_run(&b, 3, 0, N_CHUNKS);
    tx->is_dead[1] = true;
    rx->is_dead[2] = true;
    rig_pack(0, &b);
    rig_launch(0, &b);
    rig_post(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    expect_arrival(0);
    ck_assert_uint_eq(n_ended(tx), 2);
    ck_assert_uint_eq(n_ended(rx), 2);
    ck_assert(is_untouched(1)); /* the slot was still zero there */
    ck_assert(is_untouched(2));
    check_piece(3);
}
END_TEST

START_TEST(batch_of_filler_only_needs_no_copy)
{
    struct batch b = one_run(1);

    tx->is_dead[1] = true;
    rx->is_dead[1] = true;
    rig_pack(2, &b);
    rig_launch(2, &b);
    rig_post(2, &b);
    expect(tx, KVFI_LANE_PACKED, 2, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 2, KVF_OK);
    expect_arrival(2);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_COPY), 0);
    ck_assert_uint_eq(fabric_mem_n_calls(rx->fabric, FABRIC_MEM_COPY), 0);
}
END_TEST

START_TEST(long_batches_are_copied_in_parts)
{
    struct fabric_mem_rules rules = {.copy_polls = 2};
    struct batch b = {0};

    for (uint32_t p = 0; p < 36; p++)
        add_run(&b, p, 0, N_CHUNKS);
    ck_assert_uint_lt(b.bytes, SLOT_BYTES + 1);
    fabric_mem_set_rules(rx->fabric, &rules);
    rig_pack(0, &b);
    rig_launch(0, &b);
    rig_post(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    expect_arrival(0);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_COPY),
                      5); /* 288 jobs, 64 at once */
    ck_assert_uint_eq(fabric_mem_n_calls(rx->fabric, FABRIC_MEM_COPY), 5);
    for (uint32_t p = 0; p < 36; p++)
        check_piece(p);
}
END_TEST

/* Slot 0 is on the wire until its receive is posted, and slot 1 is packed meanwhile. */
START_TEST(packing_overlaps_the_wire)
{
    struct batch b0 = one_run(5);
    struct batch b1 = one_run(6);

    rig_pack(0, &b0);
    rig_launch(0, &b0);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    rig_pack(1, &b1);
    rig_launch(1, &b1);
    expect(tx, KVFI_LANE_PACKED, 1, KVF_OK);
    expect_silence(tx);
    rig_post(1, &b1);
    expect(tx, KVFI_LANE_SENT, 1, KVF_OK);
    expect_arrival(1);
    rig_post(0, &b0);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    expect_arrival(0);
    check_piece(5);
    check_piece(6);
}
END_TEST

START_TEST(packed_slot_can_travel_twice)
{
    struct batch b = one_run(8);

    rig_pack(1, &b);
    rig_launch(1, &b);
    rig_post(1, &b);
    expect(tx, KVFI_LANE_PACKED, 1, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 1, KVF_OK);
    expect_arrival(1);
    memset(rx->bytes, 0, sizeof(rx->bytes));
    rig_launch(1, &b);
    rig_post(1, &b);
    expect(tx, KVFI_LANE_SENT, 1, KVF_OK);
    expect_arrival(1);
    check_piece(8);
    ck_assert_uint_eq(n_begun(tx), 1);
}
END_TEST

/* ---- errors -------------------------------------------------------------------------------- */

static void fail_pack(enum fabric_mem_call call, uint32_t copy_polls)
{
    struct fabric_mem_rules rules = {.copy_polls = copy_polls};
    struct batch b = {0};

    for (uint32_t p = 0; p < 20; p++)
        add_run(&b, p, 0, N_CHUNKS);
    fabric_mem_set_rules(tx->fabric, &rules);
    fabric_mem_fail(tx->fabric, call, 2, KVF_EDEVICE); /* the second of three parts */
    rig_pack(1, &b);
    rig_launch(1, &b);
    expect(tx, KVFI_LANE_PACKED, 1, KVF_EDEVICE);
    ck_assert_int_eq(last_status(tx), KVF_EDEVICE);
    ck_assert_uint_eq(n_ended(tx), 20);
    expect(tx, KVFI_LANE_SENT, 1, KVF_EDEVICE);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_SEND), 0);
    check_alive(1);
}

START_TEST(failed_pack_is_told_and_not_sent)
{
    if (_i == 0)
        fail_pack(FABRIC_MEM_COPY, 0);
    else
        fail_pack(FABRIC_MEM_COPY_END, _i == 1 ? 0 : 3);
}
END_TEST

START_TEST(failed_unpack_is_told)
{
    struct batch b = one_run(9);

    fabric_mem_fail(rx->fabric, _i ? FABRIC_MEM_COPY : FABRIC_MEM_COPY_END, 1, KVF_EDEVICE);
    rig_pack(0, &b);
    rig_launch(0, &b);
    rig_post(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    expect(rx, KVFI_LANE_RECEIVED, 0, KVF_OK);
    expect(rx, KVFI_LANE_UNPACKED, 0, KVF_EDEVICE);
    ck_assert_int_eq(last_status(rx), KVF_EDEVICE);
    check_alive(0);
}
END_TEST

START_TEST(failed_send_is_told)
{
    struct batch b = one_run(9);

    fabric_mem_fail(tx->fabric, _i ? FABRIC_MEM_SEND : FABRIC_MEM_SEND_END, 1, KVF_EFABRIC);
    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    if (_i == 0)
        rig_post(0, &b);
    expect(tx, KVFI_LANE_SENT, 0, KVF_EFABRIC);
    if (_i == 0)
        expect_arrival(0);
    check_alive(0);
}
END_TEST

START_TEST(failed_receive_is_told_and_not_unpacked)
{
    struct batch b = one_run(9);
    struct batch longer = b;

    if (_i < 2)
        fabric_mem_fail(rx->fabric, _i ? FABRIC_MEM_RECV : FABRIC_MEM_RECV_END, 1, KVF_EFABRIC);
    else
        longer.bytes++;
    rig_pack(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    rig_post(0, &longer);
    if (_i == 1)
        expect(rx, KVFI_LANE_RECEIVED, 0, KVF_EFABRIC);
    rig_launch(0, &b);
    if (_i == 1)
        rig_post(0, &b);
    else
        expect(rx, KVFI_LANE_RECEIVED, 0, KVF_EFABRIC);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    if (_i == 1)
        expect_arrival(0);
    ck_assert_uint_eq(n_begun(rx), _i == 1 ? 1 : 0);
    check_alive(0);
}
END_TEST

START_TEST(chunk_outside_the_slot_is_refused)
{
    struct batch b = {0};

    add_run(&b, 1, 0, 1);
    add_run(&b, BAD_PIECE, 0, 1);
    rig_pack(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_EINTERNAL);
    ck_assert_int_eq(last_status(tx), KVF_EINTERNAL);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_COPY), 0);
    check_alive(0);
}
END_TEST

/* ---- giving up ----------------------------------------------------------------------------- */

START_TEST(abandoned_receive_frees_its_slot)
{
    struct batch b = one_run(9);

    rig_post(0, &b);
    kvfi_lane_abandon(rx->lane, 0);
    kvfi_lane_abandon(rx->lane, 0);
    expect(rx, KVFI_LANE_RECEIVED, 0, KVF_ECANCELED);
    kvfi_lane_abandon(rx->lane, 0); /* too late, harmless */
    check_alive(0);
    expect_silence(rx);
}
END_TEST

START_TEST(abandoned_send_can_travel_again)
{
    struct batch b = one_run(9);

    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    kvfi_lane_abandon(tx->lane, 0);
    expect(tx, KVFI_LANE_SENT, 0, KVF_ECANCELED);
    rig_launch(0, &b);
    rig_post(0, &b);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    expect_arrival(0);
    check_piece(9);
}
END_TEST

static const struct fabric_mem_rules hold_copies = {.copy_polls = 1, .holds_copies = true};
static const struct fabric_mem_rules let_go;

START_TEST(abandoned_launch_does_not_follow_its_pack)
{
    struct batch b = one_run(9);

    fabric_mem_set_rules(tx->fabric, &hold_copies);
    rig_pack(0, &b);
    rig_launch(0, &b);
    kvfi_lane_abandon(tx->lane, 0);
    expect(tx, KVFI_LANE_SENT, 0, KVF_ECANCELED);
    fabric_mem_set_rules(tx->fabric, &let_go);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    check_alive(1);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_SEND), 1);
}
END_TEST

/* The fabric keeps the receive: what comes later must not reach memory that is in use. */
START_TEST(receive_that_cannot_be_given_up_costs_its_memory)
{
    struct batch b = one_run(9);
    struct batch later = one_run(10);

    fabric_mem_fail(rx->fabric, FABRIC_MEM_ABANDON, 1, KVF_EBUSY);
    rig_post(0, &later);
    kvfi_lane_abandon(rx->lane, 0);
    expect(rx, KVFI_LANE_RECEIVED, 0, KVF_ECANCELED);
    ck_assert_uint_eq(fabric_mem_n_slots(rx->fabric), N_SLOTS + 1);
    /* Slot 0 again, over link 1, and only then what the lost receive waits for. */
    kvfi_lane_post(rx->lane, 0, rx->links[1], b.bytes, b.runs, b.n_runs);
    rig_pack(0, &later);
    rig_launch(0, &later);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    rig_pack(1, &b);
    rig_launch(1, &b);
    expect(tx, KVFI_LANE_PACKED, 1, KVF_OK);
    expect(tx, KVFI_LANE_SENT, 1, KVF_OK);
    expect_arrival(0);
    check_piece(9);
    ck_assert(is_untouched(10));
    tear_down_side(tx, true);
    tear_down_side(rx, false);
}
END_TEST

START_TEST(send_that_cannot_be_given_up_keeps_its_batch)
{
    struct batch b = one_run(9);

    fabric_mem_fail(tx->fabric, FABRIC_MEM_ABANDON, 1, KVF_EBUSY);
    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    kvfi_lane_abandon(tx->lane, 0);
    expect(tx, KVFI_LANE_SENT, 0, KVF_ECANCELED);
    ck_assert_uint_eq(fabric_mem_n_slots(tx->fabric), N_SLOTS + 1);
    kvfi_lane_launch(tx->lane, 0, tx->links[1], b.bytes);
    kvfi_lane_post(rx->lane, 0, rx->links[1], b.bytes, b.runs, b.n_runs);
    expect(tx, KVFI_LANE_SENT, 0, KVF_OK);
    expect_arrival(0);
    check_piece(9);
    tear_down_side(tx, false);
    tear_down_side(rx, true);
}
END_TEST

START_TEST(slot_without_memory_is_refused)
{
    struct batch b = one_run(9);

    fabric_mem_fail(tx->fabric, FABRIC_MEM_ABANDON, 1, KVF_EBUSY);
    fabric_mem_fail(tx->fabric, FABRIC_MEM_SLOT_ALLOC, 1, KVF_ENOMEM);
    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    kvfi_lane_abandon(tx->lane, 0);
    expect(tx, KVFI_LANE_SENT, 0, KVF_ECANCELED);
    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_ENOMEM);
    expect(tx, KVFI_LANE_SENT, 0, KVF_ENOMEM);
    check_alive(1);
    tear_down_side(tx, false);
    tear_down_side(rx, true);
}
END_TEST

/* ---- life ---------------------------------------------------------------------------------- */

START_TEST(destroy_ends_what_is_in_flight)
{
    struct batch b = one_run(9);

    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    rig_post(1, &b);
    ck_assert(kvfi_lane_destroy(tx->lane, kvfi_now_ns()));
    ck_assert(kvfi_lane_destroy(rx->lane, kvfi_now_ns()));
    ck_assert(kvfi_lane_destroy(NULL, 0));
    tx->lane = NULL;
    rx->lane = NULL;
}
END_TEST

static void *destroy_main(void *arg)
{
    struct side *s = arg;

    return kvfi_lane_destroy(s->lane, kvfi_now_ns() + FAR_NS) ? s : NULL;
}

/* Destroys the sender's lane in another thread; returns once it is winding down. */
static pthread_t begin_destroy(void)
{
    struct kvfi_lane *lane = tx->lane;
    pthread_t thread;
    uint32_t n_tests;

    ck_assert_int_eq(pthread_create(&thread, NULL, destroy_main, tx), 0);
    while (!atomic_load_explicit(&lane->is_stopping, memory_order_acquire))
        (void)sched_yield(); /* Check's timeout is the deadline, here and below */
    /* A test may have been under way when the flag was set, and the loop looks at it after that. */
    n_tests = fabric_mem_n_calls(tx->fabric, FABRIC_MEM_TEST);
    while (fabric_mem_n_calls(tx->fabric, FABRIC_MEM_TEST) - n_tests < 3)
        (void)sched_yield();
    return thread;
}

static void end_destroy(pthread_t thread)
{
    void *is_clean = NULL;

    ck_assert_int_eq(pthread_join(thread, &is_clean), 0);
    ck_assert_ptr_nonnull(is_clean);
    tx->lane = NULL;
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_ABANDON), 0);
}

START_TEST(destroy_waits_for_what_can_end)
{
    struct fabric_mem_rules hold = {.holds_wires = true};
    struct batch b = one_run(9);
    pthread_t thread;

    fabric_mem_set_rules(tx->fabric, &hold);
    rig_post(0, &b);
    rig_pack(0, &b);
    rig_launch(0, &b);
    expect(tx, KVFI_LANE_PACKED, 0, KVF_OK);
    expect_arrival(0); /* so the send was begun */
    thread = begin_destroy();
    fabric_mem_set_rules(tx->fabric, &let_go);
    end_destroy(thread);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_SEND_END), 1);
}
END_TEST

/* A pack that ends while the lane winds down is not sent, and half a pack is not called good. */
START_TEST(destroy_begins_nothing)
{
    struct batch b = {0};
    pthread_t thread;

    for (uint32_t p = 0; p < (_i ? 20 : 1); p++)
        add_run(&b, p, 0, N_CHUNKS);
    fabric_mem_set_rules(tx->fabric, &hold_copies);
    rig_pack(0, &b);
    rig_launch(0, &b);
    rig_pack(1, &b);
    while (fabric_mem_n_calls(tx->fabric, FABRIC_MEM_COPY) < (_i ? 1 : 2))
        (void)sched_yield();
    thread = begin_destroy();
    fabric_mem_set_rules(tx->fabric, &let_go);
    end_destroy(thread);
    ck_assert_int_eq(last_status(tx), _i ? KVF_ECANCELED : KVF_OK);
    ck_assert_uint_eq(n_ended(tx), _i ? 20 : 2);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_COPY), _i ? 1 : 2);
    ck_assert_uint_eq(fabric_mem_n_calls(tx->fabric, FABRIC_MEM_SEND), 0);
}
END_TEST

/* Copies that never end: what was begun is ended once, and never reported good. */
START_TEST(destroy_gives_copies_up)
{
    struct batch b = {0};

    for (uint32_t p = 0; p < 20; p++)
        add_run(&b, p, 0, N_CHUNKS); /* several parts */
    fabric_mem_set_rules(tx->fabric, &hold_copies);
    if (_i)
        fabric_mem_fail(tx->fabric, FABRIC_MEM_ABANDON, 1, KVF_EBUSY);
    rig_pack(0, &b);
    rig_pack(1, &b);
    while (fabric_mem_n_calls(tx->fabric, FABRIC_MEM_COPY) == 0)
        (void)sched_yield(); /* Check's timeout is the deadline */
    ck_assert(kvfi_lane_destroy(tx->lane, 0) == !_i);
    tx->lane = NULL;
    ck_assert_uint_eq(n_begun(tx), 20);
    ck_assert_uint_eq(n_ended(tx), 20);
    ck_assert_int_eq(last_status(tx), _i ? KVF_EBUSY : KVF_ECANCELED);
    if (_i) {
        tear_down_side(tx, false);
        tear_down_side(rx, true);
    }
}
END_TEST

START_TEST(create_survives_every_failure)
{
    struct kvfi_lane_config config = config_of(tx);
    struct kvfi_lane *lane = NULL;
    kvf_status_t status = KVF_ENOMEM;

    for (unsigned n = 1; status != KVF_OK; n++) {
        ck_assert_uint_lt(n, 20);
        kvfi_alloc_fail_at(n);
        status = kvfi_lane_create(&config, &lane);
        kvfi_alloc_fail_at(0);
        ck_assert(status == KVF_OK || (status == KVF_ENOMEM && !lane));
    }
    ck_assert(kvfi_lane_destroy(lane, 0));
    lane = NULL;
    fabric_mem_fail(tx->fabric, FABRIC_MEM_SLOT_ALLOC, 3, KVF_ENOMEM);
    ck_assert_int_eq(kvfi_lane_create(&config, &lane), KVF_ENOMEM);
    fabric_mem_fail(tx->fabric, FABRIC_MEM_LANE_OPEN, 1, KVF_EDEVICE);
    ck_assert_int_eq(kvfi_lane_create(&config, &lane), KVF_EDEVICE);
    config.n_slots = 0;
    ck_assert_int_eq(kvfi_lane_create(&config, &lane), KVF_EINVAL);
    ck_assert_ptr_null(lane);
    ck_assert_uint_eq(fabric_mem_n_slots(tx->fabric), N_SLOTS);
    ck_assert_uint_eq(fabric_mem_n_lanes(tx->fabric), 1);
}
END_TEST

/* Whether a thread of this process of that name sleeps in a futex without a timeout. */
static bool sleeps_for_good(pid_t task)
{
    char path[64];
    char line[256] = "";
    char call[24];
    char *at = line;
    FILE *f;

    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)task);
    f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    if (!fgets(line, sizeof(line), f))
        line[0] = 0;
    (void)fclose(f);
    (void)snprintf(call, sizeof(call), "%ld ", (long)SYS_futex);
    if (strncmp(line, call, strlen(call)) != 0)
        return false;
    for (unsigned i = 0; at && i < 4; i++) /* to the fourth argument, the timeout */
        at = strchr(at + 1, ' ');
    return at && strncmp(at, " 0x0 ", 5) == 0;
}

static pid_t task_of(const char *name)
{
    DIR *dir = opendir("/proc/self/task");
    pid_t found = 0;

    ck_assert_ptr_nonnull(dir);
    for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        char path[300];
        char line[32] = "";
        FILE *f;

        (void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        f = fopen(path, "r");
        if (f && fgets(line, sizeof(line), f) && strncmp(line, name, strlen(name)) == 0)
            found = (pid_t)strtol(e->d_name, NULL, 10);
        if (f)
            (void)fclose(f);
    }
    (void)closedir(dir);
    return found;
}

/* No time-out and no polling; Check's timeout is the deadline. */
START_TEST(idle_lane_sleeps_in_the_kernel)
{
    pid_t send = task_of("kvf-send-3");
    pid_t recv = task_of("kvf-recv-3");

    ck_assert(send && recv);
    while (!sleeps_for_good(send) || !sleeps_for_good(recv))
        (void)sched_yield();
    check_alive(0);
    while (!sleeps_for_good(send) || !sleeps_for_good(recv))
        (void)sched_yield();
}
END_TEST

START_TEST(thread_has_a_name_and_takes_no_signal)
{
    char name[16];

    check_alive(0);
    ck_assert(atomic_load(&tx->are_signals_blocked));
    ck_assert_int_eq(pthread_getname_np(tx->lane->thread, name, sizeof(name)), 0);
    ck_assert_str_eq(name, "kvf-send-3");
    ck_assert_int_eq(pthread_getname_np(rx->lane->thread, name, sizeof(name)), 0);
    ck_assert_str_eq(name, "kvf-recv-3");
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, random_batches_arrive);
    tcase_add_test(tc, filler_is_not_touched);
    tcase_add_test(tc, batch_of_filler_only_needs_no_copy);
    tcase_add_test(tc, long_batches_are_copied_in_parts);
    tcase_add_test(tc, packing_overlaps_the_wire);
    tcase_add_test(tc, packed_slot_can_travel_twice);
    tcase_add_loop_test(tc, failed_pack_is_told_and_not_sent, 0, 3);
    tcase_add_loop_test(tc, failed_unpack_is_told, 0, 2);
    tcase_add_loop_test(tc, failed_send_is_told, 0, 2);
    tcase_add_loop_test(tc, failed_receive_is_told_and_not_unpacked, 0, 3);
    tcase_add_test(tc, chunk_outside_the_slot_is_refused);
    tcase_add_test(tc, abandoned_receive_frees_its_slot);
    tcase_add_test(tc, abandoned_send_can_travel_again);
    tcase_add_test(tc, abandoned_launch_does_not_follow_its_pack);
    tcase_add_test(tc, receive_that_cannot_be_given_up_costs_its_memory);
    tcase_add_test(tc, send_that_cannot_be_given_up_keeps_its_batch);
    tcase_add_test(tc, slot_without_memory_is_refused);
    tcase_add_test(tc, destroy_ends_what_is_in_flight);
    tcase_add_test(tc, destroy_waits_for_what_can_end);
    tcase_add_loop_test(tc, destroy_begins_nothing, 0, 2);
    tcase_add_loop_test(tc, destroy_gives_copies_up, 0, 2);
    tcase_add_test(tc, create_survives_every_failure);
    tcase_add_test(tc, idle_lane_sleeps_in_the_kernel);
    tcase_add_test(tc, thread_has_a_name_and_takes_no_signal);
}

int main(void)
{
    return harness_main("lane", fill, 60);
}
