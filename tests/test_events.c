/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/events.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "harness.h"

enum { PRODUCERS = 3, VALUES = 4000 };

static struct kvfi_events events;

static bool readable(int timeout_ms)
{
    struct pollfd fd = {.fd = events.fd, .events = POLLIN};

    return poll(&fd, 1, timeout_ms) == 1;
}

START_TEST(values_come_out_in_order_and_the_fd_says_so)
{
    uint32_t value = 0;

    ck_assert_int_eq(kvfi_events_init(&events, 5), KVF_OK);
    ck_assert(!readable(0));
    ck_assert(!kvfi_events_pop(&events, &value));
    for (uint32_t round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < 5; i++)
            kvfi_events_push(&events, 100 * round + i);
        for (uint32_t i = 0; i < 5; i++) {
            ck_assert(readable(0));
            ck_assert(kvfi_events_pop(&events, &value));
            ck_assert_uint_eq(value, 100 * round + i);
        }
        ck_assert(!kvfi_events_pop(&events, &value));
        ck_assert(!readable(0));
    }
    kvfi_events_fini(&events);
}
END_TEST

/* A value is in the ring at most once: its producer waits until the consumer has taken it. */
static _Atomic uint32_t taken[PRODUCERS];
static uint64_t payload[PRODUCERS]; /* plain: ordered by the ring */

static void *produce(void *arg)
{
    uint32_t me = *(const uint32_t *)arg;

    for (uint32_t i = 1; i <= VALUES; i++) {
        payload[me] = i;
        kvfi_events_push(&events, me);
        while (atomic_load_explicit(&taken[me], memory_order_acquire) != i)
            sched_yield();
    }
    return NULL;
}

START_TEST(nothing_is_lost_between_threads)
{
    pthread_t threads[PRODUCERS];
    uint32_t numbers[PRODUCERS];
    uint32_t n = 0;

    ck_assert_int_eq(kvfi_events_init(&events, PRODUCERS), KVF_OK);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        numbers[i] = i;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, produce, &numbers[i]), 0);
    }
    while (n < PRODUCERS * VALUES) {
        uint32_t value;

        /* One value a look at the descriptor: a missed signal hangs here. */
        ck_assert_msg(readable(10000), "the descriptor stayed silent after %u values", n);
        if (kvfi_events_pop(&events, &value)) {
            uint32_t before = atomic_load_explicit(&taken[value], memory_order_relaxed);

            ck_assert_uint_lt(value, PRODUCERS);
            ck_assert_uint_eq(payload[value], before + 1);
            atomic_store_explicit(&taken[value], before + 1, memory_order_release);
            n++;
        }
    }
    for (uint32_t i = 0; i < PRODUCERS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    kvfi_events_fini(&events);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, values_come_out_in_order_and_the_fd_says_so);
    tcase_add_test(tc, nothing_is_lost_between_threads);
}

int main(void)
{
    return harness_main("events", fill, 60);
}
