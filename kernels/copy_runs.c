/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/copy_runs.h"

#include <stddef.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#define STREAM_MIN_BYTES 64 /* a shorter run fills no line */
#else
#define STREAM_MIN_BYTES UINT64_MAX
#endif

#define RUNS_INLINE static inline __attribute__((always_inline))

/* From here on a call of memcpy costs less than it gains. */
#define MEMCPY_MIN_BYTES 1025
#define LINE_BYTES 64u
/* Of a set, this much is asked for ahead; the processor sees by itself how a longer one goes on. */
#define PREFETCH_BYTES 512u

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

/* All loads before the stores; an array would go through the stack. */
RUNS_INLINE void move64(unsigned char *dst, const unsigned char *src)
{
    struct vec16 a, b, c, d;

    memcpy(&a, src, 16);
    memcpy(&b, src + 16, 16);
    memcpy(&c, src + 32, 16);
    memcpy(&d, src + 48, 16);
    memcpy(dst, &a, 16);
    memcpy(dst + 16, &b, 16);
    memcpy(dst + 32, &c, 16);
    memcpy(dst + 48, &d, 16);
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

#pragma GCC unroll 16
    for (; n - done >= 64; done += 64)
        move64(dst + done, src + done);
    for (; n - done >= 16; done += 16)
        move16(dst + done, src + done);
    if (done < n)
        move16(dst + n - 16, src + n - 16);
}

/* Any n >= 1. */
RUNS_INLINE void copy_run(unsigned char *dst, const unsigned char *src, size_t n)
{
    if (n >= MEMCPY_MIN_BYTES)
        memcpy(dst, src, n);
    else if (n >= 16)
        move_large(dst, src, n);
    else
        move_small(dst, src, n);
}

/* Inlined with a constant run_bytes, all choices above are made by the compiler. */
RUNS_INLINE void copy_runs(const struct kvfi_runs *runs, uint64_t dst, uint64_t src,
                           size_t run_bytes)
{
    for (uint64_t i = 0; i < runs->n; i++)
        copy_run((unsigned char *)(uintptr_t)(dst + i * runs->dst_step),
                 (const unsigned char *)(uintptr_t)(src + i * runs->src_step), run_bytes);
}

#define FIXED_SIZES(X) X(1) X(2) X(4) X(8) X(16) X(32) X(64) X(128) X(256) X(512) X(1024)

#define DEFINE_FIXED(bytes)                                                                        \
    static void runs_##bytes(const struct kvfi_runs *runs, uint64_t dst, uint64_t src)             \
    {                                                                                              \
        copy_runs(runs, dst, src, bytes);                                                          \
    }
FIXED_SIZES(DEFINE_FIXED)

static void runs_any(const struct kvfi_runs *runs, uint64_t dst, uint64_t src)
{
    copy_runs(runs, dst, src, runs->run_bytes);
}

#ifdef __SSE2__
/* One line, aligned at the destination, past the caches. */
RUNS_INLINE void stream_line(unsigned char *dst, const unsigned char *src)
{
    __m128i a = _mm_loadu_si128((const void *)src);
    __m128i b = _mm_loadu_si128((const void *)(src + 16));
    __m128i c = _mm_loadu_si128((const void *)(src + 32));
    __m128i d = _mm_loadu_si128((const void *)(src + 48));

    _mm_stream_si128((void *)dst, a);
    _mm_stream_si128((void *)(dst + 16), b);
    _mm_stream_si128((void *)(dst + 32), c);
    _mm_stream_si128((void *)(dst + 48), d);
}

/* Lines that the run does not fill are written the ordinary way. */
RUNS_INLINE void stream_run(unsigned char *dst, const unsigned char *src, size_t n)
{
    size_t done = -(uintptr_t)dst % LINE_BYTES;

    if (done + LINE_BYTES > n) {
        copy_run(dst, src, n);
        return;
    }
    if (done > 0)
        copy_run(dst, src, done);
    for (; n - done >= LINE_BYTES; done += LINE_BYTES)
        stream_line(dst + done, src + done);
    if (done < n)
        copy_run(dst + done, src + done, n - done);
}

static void runs_stream(const struct kvfi_runs *runs, uint64_t dst, uint64_t src)
{
    for (uint64_t i = 0; i < runs->n; i++)
        stream_run((unsigned char *)(uintptr_t)(dst + i * runs->dst_step),
                   (const unsigned char *)(uintptr_t)(src + i * runs->src_step), runs->run_bytes);
}
#endif

#define CASE_FIXED(bytes)                                                                          \
    case bytes:                                                                                    \
        return runs_##bytes;

static kvfi_runs_fn pick(const struct kvfi_runs *runs)
{
#ifdef __SSE2__
    if (runs->dst_is_scattered && runs->run_bytes >= STREAM_MIN_BYTES)
        return runs_stream;
#endif
    switch (runs->run_bytes) {
        FIXED_SIZES(CASE_FIXED)
    default:
        return runs_any;
    }
}

RUNS_INLINE void prefetch_line(const void *at, bool write)
{
    if (write)
        __builtin_prefetch(at, 1, 3);
    else
        __builtin_prefetch(at, 0, 3);
}

/* Asks for the lines of the beginning of a set, to be read or to be written. */
RUNS_INLINE void prefetch(const struct kvfi_runs *runs, uint64_t at, uint64_t step, bool write)
{
    uint64_t left = PREFETCH_BYTES;

    for (uint64_t i = 0; i < runs->n && left > 0; i++, at += step) {
        uint64_t n_bytes = runs->run_bytes < left ? runs->run_bytes : left;

        for (uint64_t done = 0; done < n_bytes; done += LINE_BYTES)
            prefetch_line((const void *)(uintptr_t)(at + done), write);
        left -= n_bytes;
    }
}

void kvfi_runs_init(struct kvfi_runs_queue *queue)
{
    queue->n_in = 0;
    queue->n_out = 0;
}

static void copy_oldest(struct kvfi_runs_queue *queue)
{
    unsigned i = queue->n_out++ % KVFI_RUNS_QUEUED;

    queue->copy(&queue->shape, queue->dst[i], queue->src[i]);
}

void kvfi_runs_reshape(struct kvfi_runs_queue *queue, const struct kvfi_runs *shape)
{
    kvfi_runs_flush(queue);
    queue->shape = *shape;
    queue->copy = pick(shape);
}

void kvfi_runs_push(struct kvfi_runs_queue *queue, uint64_t dst, uint64_t src)
{
    const struct kvfi_runs *shape = &queue->shape;
    unsigned i;

    if (shape->src_is_scattered)
        prefetch(shape, src, shape->src_step, false);
    /* What is streamed is not read. */
    if (shape->dst_is_scattered && shape->run_bytes < STREAM_MIN_BYTES)
        prefetch(shape, dst, shape->dst_step, true);
    if (queue->n_in - queue->n_out == KVFI_RUNS_QUEUED)
        copy_oldest(queue);
    i = queue->n_in++ % KVFI_RUNS_QUEUED;
    queue->dst[i] = dst;
    queue->src[i] = src;
}

void kvfi_runs_flush(struct kvfi_runs_queue *queue)
{
    while (queue->n_out != queue->n_in)
        copy_oldest(queue);
}

void kvfi_runs_fence(void)
{
#ifdef __SSE2__
    _mm_sfence(); /* streamed lines are not ordered by a release store */
#endif
}
