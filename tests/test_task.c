/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/task.h"

#include <pthread.h>
#include <string.h>

#include "collectives/util.h"
#include "harness.h"

static struct kvfi_events events;
static _Atomic uint32_t n_unfinished;
static _Atomic uint32_t n_terminal;
static struct kvfi_life life;

static void on_terminal(void *ctx, uint32_t number)
{
    (void)ctx;
    (void)number;
    (void)atomic_fetch_add_explicit(&n_terminal, 1, memory_order_relaxed);
}

static void setup(void)
{
    ck_assert_int_eq(kvfi_events_init(&events, 2), KVF_OK);
    memset(&life, 0, sizeof(life));
    life.events = &events;
    life.n_unfinished = &n_unfinished;
    life.on_terminal = on_terminal;
    kvfi_life_init(&life, 1);
}

static void teardown(void)
{
    kvfi_events_fini(&events);
}

static const struct kvfi_cause canceled = {.state = KVF_TASK_CANCELLED,
                                           .status = KVF_ECANCELED,
                                           .step = KVF_STEP_WIRE,
                                           .peer_rank = 3,
                                           .peer_instance = "ctx",
                                           .text = "canceled by a test"};
static const struct kvfi_cause expired = {.state = KVF_TASK_EXPIRED, .status = KVF_ETIMEDOUT};

static struct kvf_result read_result(void)
{
    struct kvf_result r = {.size = sizeof(r)};

    kvfi_life_read(&life, &r);
    return r;
}

START_TEST(first_cause_wins_and_waits_for_what_is_in_flight)
{
    struct kvf_result r;

    ck_assert(kvfi_life_enter(&life));
    ck_assert(kvfi_life_enter(&life));
    kvfi_life_match(&life);
    ck_assert_int_eq((int)read_result().state, KVF_TASK_MOVING);
    ck_assert(kvfi_life_end(&life, &canceled));
    ck_assert(!kvfi_life_end(&life, &expired));
    ck_assert(!kvfi_life_enter(&life));
    ck_assert_int_eq((int)read_result().state, KVF_TASK_ENDING);
    kvfi_life_leave(&life);
    ck_assert(!kvfi_life_is_terminal(&life));
    ck_assert(!kvfi_life_wait(&life, kvfi_now_ns()));
    kvfi_life_leave(&life);
    ck_assert(kvfi_life_wait(&life, 0));
    r = read_result();
    ck_assert_int_eq((int)r.state, KVF_TASK_CANCELLED);
    ck_assert_int_eq(r.status, KVF_ECANCELED);
    ck_assert_int_eq((int)r.step, KVF_STEP_WIRE);
    ck_assert_uint_eq(r.peer_rank, 3);
    ck_assert_str_eq(r.peer_instance, "ctx");
    ck_assert_str_eq(r.message, "canceled by a test");
    ck_assert_uint_eq(n_terminal, 1);
    ck_assert_uint_eq(n_unfinished, 0);
}
END_TEST

START_TEST(last_unit_ends_it_as_done)
{
    kvfi_life_add(&life, 10);
    kvfi_life_complete(&life, 10);
    ck_assert(!kvfi_life_is_terminal(&life));
    ck_assert(kvfi_life_enter(&life));
    kvfi_life_complete(&life, 1);
    ck_assert(!kvfi_life_is_terminal(&life));
    kvfi_life_leave(&life);
    ck_assert(kvfi_life_is_terminal(&life));
    ck_assert_int_eq((int)read_result().state, KVF_TASK_DONE);
}
END_TEST

START_TEST(events_merge_and_outlive_the_task)
{
    uint32_t number;

    kvfi_life_event(&life, KVF_EVENT_MATCHED);
    kvfi_life_event(&life, KVF_EVENT_SOURCE_RELEASED);
    ck_assert(kvfi_events_pop(&events, &number));
    ck_assert_uint_eq(kvfi_life_take_events(&life), KVF_EVENT_MATCHED | KVF_EVENT_SOURCE_RELEASED);
    ck_assert(!kvfi_events_pop(&events, &number));
    ck_assert(kvfi_life_end(&life, &canceled));
    /* Released without a look at its event; the number gets a new task. */
    kvfi_life_init(&life, 2);
    kvfi_life_event(&life, KVF_EVENT_MATCHED);
    ck_assert(kvfi_events_pop(&events, &number));
    ck_assert_uint_eq(kvfi_life_take_events(&life), KVF_EVENT_MATCHED);
    ck_assert(!kvfi_events_pop(&events, &number));
}
END_TEST

enum { ROUNDS = 3000, WORKERS = 2 };

static _Atomic uint32_t round_number;
static _Atomic uint32_t n_left;
static _Atomic uint64_t memory_of_the_task; /* what the operations touch */

/* Operations come and go while another thread ends the task. */
static void *work(void *arg)
{
    const bool ends_it = *(const bool *)arg;

    for (uint32_t round = 1; round <= ROUNDS; round++) {
        while (atomic_load_explicit(&round_number, memory_order_acquire) < round)
            sched_yield();
        if (ends_it)
            (void)kvfi_life_end(&life, &canceled);
        while (kvfi_life_enter(&life)) {
            (void)atomic_fetch_add_explicit(&memory_of_the_task, 1, memory_order_relaxed);
            kvfi_life_leave(&life);
        }
        (void)atomic_fetch_add_explicit(&n_left, 1, memory_order_release);
    }
    return NULL;
}

START_TEST(terminal_is_a_proof)
{
    static const bool ends[WORKERS] = {true, false};
    pthread_t threads[WORKERS];
    uint32_t number;

    atomic_store_explicit(&n_terminal, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < WORKERS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)&ends[i]), 0);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        atomic_store_explicit(&n_left, 0, memory_order_relaxed);
        if (round > 1)
            kvfi_life_init(&life, round);
        atomic_store_explicit(&round_number, round, memory_order_release);
        ck_assert(kvfi_life_wait(&life, UINT64_MAX));
        /* With a terminal state nobody else may touch it. */
        atomic_store_explicit(&memory_of_the_task, 0, memory_order_relaxed);
        ck_assert_str_eq(read_result().message, "canceled by a test");
        while (atomic_load_explicit(&n_left, memory_order_acquire) < WORKERS)
            sched_yield();
        ck_assert_uint_eq(memory_of_the_task, 0);
        while (atomic_load_explicit(&n_terminal, memory_order_acquire) < round)
            sched_yield();
        while (kvfi_events_pop(&events, &number))
            (void)kvfi_life_take_events(&life);
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_uint_eq(n_terminal, ROUNDS);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, first_cause_wins_and_waits_for_what_is_in_flight);
    tcase_add_test(tc, last_unit_ends_it_as_done);
    tcase_add_test(tc, events_merge_and_outlive_the_task);
    tcase_add_test(tc, terminal_is_a_proof);
}

int main(void)
{
    return harness_main("task", fill, 60);
}
