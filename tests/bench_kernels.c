/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast every version of the strided copy moves bytes between scattered blocks and staging
 * slots, next to memcpy() of the same bytes from one piece of memory. Each number is the median of
 * rounds in which all versions take turns, so that a busy machine slows all of them alike; the clock
 * is the thread's own processor time.
 *
 * Usage: bench_kernels [payload MiB] [rounds]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/util.h"
#include "kernels/copy.h"

#define SLOT_BYTES (1ull << 20)
#define VERSIONS_MAX 8u
#define ROUNDS_MAX 101u

/* One layer of one kind, in blocks [row][head][row_bytes] or [head][row][row_bytes]. */
struct bench_shape {
    const char *what;
    uint32_t row_bytes;
    uint32_t block_rows;
    uint32_t n_heads; /* of the box */
    uint32_t pool_heads;
    uint8_t order[4];
    uint32_t n_layers; /* > 1: separate memory a layer */
};

#define TOKEN_MAJOR                                                                                \
    {                                                                                              \
        KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_ROW, KVFI_AXIS_HEAD                               \
    }
#define HEAD_MAJOR                                                                                 \
    {                                                                                              \
        KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_HEAD, KVFI_AXIS_ROW                               \
    }

static const struct bench_shape shapes[] = {
    {"slice 64 B of 256 B", 64, 16, 1, 4, TOKEN_MAJOR, 1},
    {"slice 128 B of 512 B", 128, 16, 1, 4, TOKEN_MAJOR, 1},
    {"slice 256 B of 1 KiB", 256, 16, 1, 4, TOKEN_MAJOR, 1},
    {"slice 512 B of 2 KiB", 256, 16, 2, 8, TOKEN_MAJOR, 1},
    {"slice 1 KiB of 4 KiB", 256, 16, 4, 16, TOKEN_MAJOR, 1},
    {"slice 656 B of 1312 B", 656, 64, 1, 2, TOKEN_MAJOR, 1},
    {"1 KiB single-row blocks", 1024, 1, 1, 1, TOKEN_MAJOR, 1},
    {"256 B single-row, 8 layers", 256, 1, 1, 1, TOKEN_MAJOR, 8},
    {"4 KiB blocks", 256, 16, 1, 1, TOKEN_MAJOR, 1},
    {"4 KiB of 32 KiB, head-major", 256, 16, 1, 8, HEAD_MAJOR, 1},
    {"8 KiB blocks", 256, 32, 1, 1, TOKEN_MAJOR, 1},
    {"32 KiB blocks", 256, 16, 8, 8, TOKEN_MAJOR, 1},
    {"256 KiB blocks", 1024, 64, 4, 4, TOKEN_MAJOR, 1},
    {"1 MiB blocks", 1024, 256, 4, 4, TOKEN_MAJOR, 1},
};

struct bench {
    unsigned char *pool;
    unsigned char *dense; /* one slot, or as large as the payload */
    struct kvfi_copy_job *jobs;
    uint32_t *blocks;
    uint64_t *bases;
    uint32_t n_jobs;
    uint64_t payload_bytes;
    uint64_t dense_bytes;
};

static uint64_t rnd_state = 0x9E3779B97F4A7C15u;

static uint32_t rnd(uint32_t n)
{
    rnd_state ^= rnd_state >> 12;
    rnd_state ^= rnd_state << 25;
    rnd_state ^= rnd_state >> 27;
    return (uint32_t)((rnd_state * 0x2545F4914F6CDD1Du >> 33) % n);
}

static void *must_alloc(uint64_t n_bytes)
{
    void *p = NULL;

    if (posix_memalign(&p, 4096, n_bytes) != 0) {
        fprintf(stderr, "out of memory\n");
        exit(EXIT_FAILURE);
    }
    memset(p, 1, n_bytes); /* pages exist before the clock runs */
    return p;
}

static void blocks_shuffle(uint32_t *blocks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = rnd(i + 1);

        blocks[i] = blocks[j];
        blocks[j] = i;
    }
}

/* Jobs that fill a slot each and together copy the payload. */
static void bench_init(struct bench *b, const struct bench_shape *s, enum kvfi_copy_kind kind,
                       uint64_t payload_bytes, bool one_slot)
{
    uint64_t block_bytes = (uint64_t)s->row_bytes * s->block_rows * s->n_heads * s->n_layers;
    uint64_t pool_block = (uint64_t)s->row_bytes * s->block_rows * s->pool_heads;
    uint32_t per_job = (uint32_t)(SLOT_BYTES / block_bytes);
    bool head_major = s->order[2] == KVFI_AXIS_HEAD;
    struct kvfi_paged paged;
    uint32_t n_blocks;

    b->n_jobs = (uint32_t)(payload_bytes / (per_job * block_bytes));
    n_blocks = b->n_jobs * per_job;
    b->payload_bytes = n_blocks * block_bytes;
    b->dense_bytes = one_slot ? per_job * block_bytes : b->payload_bytes;
    b->pool = must_alloc(n_blocks * pool_block * s->n_layers);
    b->dense = must_alloc(b->dense_bytes);
    b->blocks = must_alloc(n_blocks * sizeof(*b->blocks));
    b->bases = must_alloc(s->n_layers * sizeof(*b->bases));
    b->jobs = must_alloc(b->n_jobs * sizeof(*b->jobs));
    blocks_shuffle(b->blocks, n_blocks);
    for (uint32_t i = 0; i < s->n_layers; i++)
        b->bases[i] = (uint64_t)(uintptr_t)b->pool + i * n_blocks * pool_block;
    paged = (struct kvfi_paged){
        .bases = b->bases,
        .base_layer_step = s->n_layers > 1 ? 1 : 0,
        .block_rows = s->block_rows,
        .stride_block = pool_block,
        .stride_head = head_major ? (uint64_t)s->row_bytes * s->block_rows : s->row_bytes,
        .stride_row = head_major ? s->row_bytes : (uint64_t)s->row_bytes * s->pool_heads,
    };
    for (uint32_t i = 0; i < b->n_jobs; i++) {
        uint64_t dense_at = one_slot ? 0 : i * per_job * block_bytes;

        paged.blocks = b->blocks + (size_t)i * per_job;
        b->jobs[i] = (struct kvfi_copy_job){.kind = kind,
                                            .n_layers = s->n_layers,
                                            .n_kv = 1,
                                            .n_heads = s->n_heads,
                                            .n_rows = per_job * s->block_rows,
                                            .wire_block_rows = s->block_rows,
                                            .row_bytes = s->row_bytes,
                                            .src = paged,
                                            .dst = paged,
                                            .dense = (uint64_t)(uintptr_t)b->dense + dense_at};
        memcpy(b->jobs[i].order, s->order, sizeof(s->order));
    }
}

static void bench_fini(struct bench *b)
{
    free(b->pool);
    free(b->dense);
    free(b->jobs);
    free(b->blocks);
    free(b->bases);
}

/* The same bytes from or to the pool's beginning, slot by slot. */
static void plain_copy(const struct bench *b)
{
    uint64_t step = b->payload_bytes / b->n_jobs;

    for (uint64_t i = 0; i < b->n_jobs; i++) {
        unsigned char *dense = (unsigned char *)(uintptr_t)b->jobs[i].dense;

        if (b->jobs[i].kind == KVFI_COPY_PACK)
            memcpy(dense, b->pool + i * step, step);
        else
            memcpy(b->pool + i * step, dense, step);
    }
}

/* This thread's own time: nothing here waits, and other processes are not to be measured. */
static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int compare_double(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* Column 0 is memcpy, column 1 + i table i. Returns the number of columns. */
static unsigned bench_run(const struct bench *b, unsigned rounds, double *ret_gbs)
{
    static double gbs[1 + VERSIONS_MAX][ROUNDS_MAX];
    struct kvfi_copy_kernels kernels;
    unsigned n = 0;

    for (unsigned r = 0; r < rounds; r++)
        for (n = 0; n <= VERSIONS_MAX; n++) {
            uint64_t begin_ns;

            if (n > 0 && !kvfi_copy_kernels_get(n - 1, &kernels))
                break;
            begin_ns = now_ns();
            if (n == 0)
                plain_copy(b);
            else
                kernels.run(b->jobs, b->n_jobs);
            gbs[n][r] = (double)b->payload_bytes / (double)(now_ns() - begin_ns);
        }
    for (unsigned i = 0; i < n; i++) {
        qsort(gbs[i], rounds, sizeof(gbs[i][0]), compare_double);
        ret_gbs[i] = gbs[i][rounds / 2];
    }
    return n;
}

static void print_head(bool one_slot)
{
    struct kvfi_copy_kernels kernels;

    printf("\nGB/s, dense side %s\n", one_slot ? "one slot of 1 MiB" : "as large as the payload");
    printf("%-28s %-7s %8s", "shape", "kind", "memcpy");
    for (unsigned i = 0; kvfi_copy_kernels_get(i, &kernels); i++)
        printf(" %8s", kernels.name);
    printf("\n");
}

int main(int argc, char **argv)
{
    uint64_t payload_bytes = (argc > 1 ? strtoull(argv[1], NULL, 0) : 64) << 20;
    unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 9;
    double gbs[1 + VERSIONS_MAX];

    if (payload_bytes < SLOT_BYTES || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: bench_kernels [payload MiB, 1 or more] [rounds, 1 to %u]\n",
                ROUNDS_MAX);
        return EXIT_FAILURE;
    }
    printf("payload %llu MiB, median of %u rounds\n", (unsigned long long)(payload_bytes >> 20),
           rounds);
    for (unsigned i = 0; i < 2; i++) {
        print_head(i == 0);
        for (unsigned j = 0; j < 2 * KVFI_ARRAY_LEN(shapes); j++) {
            const struct bench_shape *s = &shapes[j / 2];
            enum kvfi_copy_kind kind = j % 2 ? KVFI_COPY_UNPACK : KVFI_COPY_PACK;
            struct bench b;
            unsigned n;

            bench_init(&b, s, kind, payload_bytes, i == 0);
            n = bench_run(&b, rounds, gbs);
            bench_fini(&b);
            printf("%-28s %-7s", s->what, kind == KVFI_COPY_PACK ? "pack" : "unpack");
            for (unsigned k = 0; k < n; k++)
                printf(" %8.2f", gbs[k]);
            printf("\n");
        }
    }
    return EXIT_SUCCESS;
}
