/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/ring.h"

#include <pthread.h>
#include <sched.h>

#include "collectives/util.h"
#include "harness.h"

enum { ROUNDS = 2000, ENTRIES_A_ROUND = 64 };

struct entry {
    uint64_t number;
    uint64_t words[3]; /* functions of number */
};

static struct entry make_entry(uint64_t number)
{
    struct entry e = {.number = number};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(e.words); i++)
        e.words[i] = kvfi_mix64(number + i);
    return e;
}

static void check_entry(const struct entry *e, uint64_t number)
{
    struct entry want = make_entry(number);

    ck_assert_uint_eq(e->number, number);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(e->words); i++)
        ck_assert_uint_eq(e->words[i], want.words[i]);
}

START_TEST(full_and_empty_are_told)
{
    struct kvfi_ring ring;
    struct entry e;

    ck_assert_int_eq(kvfi_ring_init(&ring, 3, sizeof(e)), KVF_OK);
    ck_assert(!kvfi_ring_pop(&ring, &e));
    for (uint64_t lap = 0; lap < 5; lap++) {
        for (uint64_t i = 0; i < 4; i++) {
            e = make_entry(lap * 4 + i);
            ck_assert(kvfi_ring_push(&ring, &e));
        }
        ck_assert(!kvfi_ring_push(&ring, &e));
        for (uint64_t i = 0; i < 4; i++) {
            ck_assert(kvfi_ring_pop(&ring, &e));
            check_entry(&e, lap * 4 + i);
        }
        ck_assert(!kvfi_ring_pop(&ring, &e));
    }
    kvfi_ring_fini(&ring);
}
END_TEST

START_TEST(counters_wrap)
{
    struct kvfi_ring ring;
    struct entry e;

    ck_assert_int_eq(kvfi_ring_init(&ring, 4, sizeof(e)), KVF_OK);
    atomic_store(&ring.n_pushed, UINT32_MAX - 1);
    atomic_store(&ring.n_popped, UINT32_MAX - 1);
    for (uint64_t i = 0; i < 4; i++) {
        e = make_entry(i);
        ck_assert(kvfi_ring_push(&ring, &e));
    }
    ck_assert(!kvfi_ring_push(&ring, &e));
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert(kvfi_ring_pop(&ring, &e));
        check_entry(&e, i);
    }
    ck_assert(!kvfi_ring_pop(&ring, &e));
    kvfi_ring_fini(&ring);
}
END_TEST

START_TEST(bad_sizes_are_refused)
{
    struct kvfi_ring ring;

    ck_assert_int_eq(kvfi_ring_init(&ring, 0, 8), KVF_EINVAL);
    ck_assert_int_eq(kvfi_ring_init(&ring, (1u << 30) + 1, 8), KVF_EINVAL);
    ck_assert_int_eq(kvfi_ring_init(&ring, 4, 0), KVF_EINVAL);
    kvfi_alloc_fail_at(1);
    ck_assert_int_eq(kvfi_ring_init(&ring, 4, 8), KVF_ENOMEM);
    kvfi_alloc_fail_at(0);
}
END_TEST

static void *produce(void *arg)
{
    struct kvfi_ring *ring = arg;

    for (uint64_t i = 0; i < ENTRIES_A_ROUND; i++) {
        struct entry e = make_entry(i);

        while (!kvfi_ring_push(ring, &e))
            (void)sched_yield();
    }
    return NULL;
}

/*
 * A new ring and a new producer each round: the first laps, before both threads fall into step,
 * are where a missing order shows. Rings of 1, 2, 4 and 8 entries are full, or empty, most of the
 * time. Check's per-test timeout ends it if an entry is lost.
 */
START_TEST(entries_cross_threads_whole_and_in_order)
{
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct kvfi_ring ring;
        struct entry e;
        pthread_t thread;

        ck_assert_int_eq(kvfi_ring_init(&ring, 1u << (round % 4), sizeof(e)), KVF_OK);
        ck_assert_int_eq(pthread_create(&thread, NULL, produce, &ring), 0);
        for (uint64_t i = 0; i < ENTRIES_A_ROUND; i++) {
            while (!kvfi_ring_pop(&ring, &e))
                (void)sched_yield();
            check_entry(&e, i);
        }
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert(!kvfi_ring_pop(&ring, &e));
        kvfi_ring_fini(&ring);
    }
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, full_and_empty_are_told);
    tcase_add_test(tc, counters_wrap);
    tcase_add_test(tc, bad_sizes_are_refused);
    tcase_add_test(tc, entries_cross_threads_whole_and_in_order);
}

int main(void)
{
    return harness_main("ring", fill, 60);
}
