/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/copy_runs.h"

#include <stddef.h>
#include <string.h>

#define RUNS_INLINE static inline __attribute__((always_inline))

/* From here on a call of memcpy costs less than it gains. */
#define MEMCPY_MIN_BYTES 1025

struct vec16 {
    uint64_t word[2];
};

/* Fixed-size moves of any alignment; the compiler makes one load and one store of each. */
RUNS_INLINE void move16(unsigned char *dst, const unsigned char *src)
{
    struct vec16 v;

    memcpy(&v, src, sizeof(v));
    memcpy(dst, &v, sizeof(v));
}

RUNS_INLINE void move64(unsigned char *dst, const unsigned char *src)
{
    struct vec16 v[4];

    for (unsigned i = 0; i < 4; i++)
        memcpy(&v[i], src + 16 * i, 16);
    for (unsigned i = 0; i < 4; i++)
        memcpy(dst + 16 * i, &v[i], 16);
}

/* The first and the last `part` bytes, which together are all n: part <= n <= 2 * part. */
RUNS_INLINE void move_ends(unsigned char *dst, const unsigned char *src, size_t n, size_t part)
{
    unsigned char head[16], tail[16];

    memcpy(head, src, part);
    memcpy(tail, src + n - part, part);
    memcpy(dst, head, part);
    memcpy(dst + n - part, tail, part);
}

RUNS_INLINE void move_small(unsigned char *dst, const unsigned char *src, size_t n)
{
    if (n >= 8)
        move_ends(dst, src, n, 8);
    else if (n >= 4)
        move_ends(dst, src, n, 4);
    else if (n >= 2)
        move_ends(dst, src, n, 2);
    else
        *dst = *src;
}

/* n >= 16 */
RUNS_INLINE void move_large(unsigned char *dst, const unsigned char *src, size_t n)
{
    size_t done = 0;

    for (; n - done >= 64; done += 64)
        move64(dst + done, src + done);
    for (; n - done >= 16; done += 16)
        move16(dst + done, src + done);
    if (done < n)
        move16(dst + n - 16, src + n - 16);
}

/* Inlined with a constant n, all choices above are made by the compiler. */
RUNS_INLINE void copy_runs(uint64_t dst, uint64_t src, uint64_t n, uint64_t dst_step,
                           uint64_t src_step, size_t run_bytes)
{
    for (uint64_t i = 0; i < n; i++) {
        unsigned char *d = (unsigned char *)(uintptr_t)(dst + i * dst_step);
        const unsigned char *s = (const unsigned char *)(uintptr_t)(src + i * src_step);

        if (run_bytes >= MEMCPY_MIN_BYTES)
            memcpy(d, s, run_bytes);
        else if (run_bytes >= 16)
            move_large(d, s, run_bytes);
        else
            move_small(d, s, run_bytes);
    }
}

#define FIXED_SIZES(X) X(1) X(2) X(4) X(8) X(16) X(32) X(64) X(128) X(256) X(512) X(1024)

#define DEFINE_FIXED(bytes)                                                                        \
    static void runs_##bytes(uint64_t dst, uint64_t src, uint64_t n, uint64_t dst_step,            \
                             uint64_t src_step, uint64_t run_bytes)                                \
    {                                                                                              \
        (void)run_bytes;                                                                           \
        copy_runs(dst, src, n, dst_step, src_step, bytes);                                         \
    }
FIXED_SIZES(DEFINE_FIXED)

static void runs_any(uint64_t dst, uint64_t src, uint64_t n, uint64_t dst_step, uint64_t src_step,
                     uint64_t run_bytes)
{
    copy_runs(dst, src, n, dst_step, src_step, run_bytes);
}

#define CASE_FIXED(bytes)                                                                          \
    case bytes:                                                                                    \
        return runs_##bytes;

kvfi_copy_runs_fn kvfi_copy_runs_pick(uint64_t run_bytes)
{
    switch (run_bytes) {
        FIXED_SIZES(CASE_FIXED)
    default:
        return runs_any;
    }
}
