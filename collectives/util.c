/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/util.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

static atomic_uint fail_countdown;

void kvfi_alloc_fail_at(unsigned n)
{
    atomic_store_explicit(&fail_countdown, n, memory_order_relaxed);
}

static bool should_fail(void)
{
    unsigned n = atomic_load_explicit(&fail_countdown, memory_order_relaxed);

    while (n != 0) {
        if (atomic_compare_exchange_weak_explicit(&fail_countdown, &n, n - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return n == 1;
    }
    return false;
}

void *kvfi_calloc(size_t n, size_t elem_bytes)
{
    return should_fail() ? NULL : calloc(n, elem_bytes);
}

void kvfi_free(void *p)
{
    free(p);
}

uint64_t kvfi_now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}
