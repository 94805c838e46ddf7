/* SPDX-License-Identifier: Apache-2.0 */
/* Allocation, checked arithmetic, hashing and the clock: what every layer above the kernels uses. */
#ifndef KVFERRY_COLLECTIVES_UTIL_H
#define KVFERRY_COLLECTIVES_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVFI_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Returns false, leaving *ret alone, if a * b does not fit. */
static inline bool kvfi_mul_size(size_t a, size_t b, size_t *ret)
{
    size_t r;

    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *ret = r;
    return true;
}

static inline uint64_t kvfi_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t kvfi_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* A full-avalanche mix of 64 bits (the finalizer of MurmurHash3); the same on every machine. */
static inline uint64_t kvfi_mix64(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    x ^= x >> 33;
    return x;
}

/* All library allocation goes through these, so that tests can make the n-th one fail. */
void *kvfi_calloc(size_t n, size_t elem_bytes);
void kvfi_free(void *p);

/* Tests only: fail the n-th following allocation (1 = the next), 0 = never. */
void kvfi_alloc_fail_at(unsigned n);

/* CLOCK_MONOTONIC in nanoseconds. The only clock of the library; pure modules are told the time. */
uint64_t kvfi_now_ns(void);

/* a + b, or UINT64_MAX. For deadlines made of "now" and "forever". */
static inline uint64_t kvfi_add_sat(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

#endif
