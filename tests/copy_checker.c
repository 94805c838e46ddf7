/* SPDX-License-Identifier: Apache-2.0 */
#include "copy_checker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define JOBS_MAX 8u
#define GUARD_BYTES 96u
#define AXIS_BLOCK 4u /* fifth axis of a pool, after enum kvfi_axis */
#define POOL_AXES 5u
#define JOB_BYTES_MAX (64u << 10)

/* How the memory of a paged side lies and where the box is in it. */
struct side_shape {
    uint32_t block_rows;
    uint32_t first_block;
    uint32_t lead_blocks; /* entries of the table before the box's first block */
    uint32_t row_in_block;
    uint8_t nest[POOL_AXES];    /* outermost first */
    uint32_t pad[POOL_AXES];    /* bytes after each index of an axis */
    uint32_t before[POOL_AXES]; /* indices of the pool before the box (not of ROW) */
    uint32_t after[POOL_AXES];  /* and after it */
    bool layer_bases;
    bool kv_bases;
    bool kv_outer_bases; /* bases are [kv][layer] rather than [layer][kv] */
    bool blocks_in_order;
    bool blocks_repeat;
    uint32_t absent_percent;
    uint32_t block_bias; /* block ids begin here, far past the memory */
    uint32_t align;
};

struct job_shape {
    uint32_t kind;
    uint32_t n_layers;
    uint32_t n_kv;
    uint32_t n_heads;
    uint32_t n_rows;
    uint32_t wire_block_rows;
    uint64_t wire_row0;
    uint64_t row_bytes;
    uint8_t order[4];
    struct side_shape side[2]; /* source, destination */
};

/* A paged side with addresses counted from the start of its arena (modulo 2^64). */
struct side_tables {
    uint64_t *bases;
    uint32_t n_bases;
    uint32_t *blocks;
};

struct built_job {
    struct job_shape shape;
    struct kvfi_copy_job job;
    struct side_tables tables[2]; /* none of an unused side */
    uint64_t dense_at;            /* in the arena of its side */
    uint64_t ends_at[2];          /* in the arenas, for messages */
};

struct check_case {
    struct built_job jobs[JOBS_MAX];
    uint32_t n_jobs;
    uint64_t arena_bytes[2]; /* everything that is read, everything that is written */
    uint64_t rnd_state;
};

static uint64_t rnd64(struct check_case *c)
{
    c->rnd_state ^= c->rnd_state >> 12;
    c->rnd_state ^= c->rnd_state << 25;
    c->rnd_state ^= c->rnd_state >> 27;
    return c->rnd_state * 0x2545F4914F6CDD1Du;
}

static uint32_t rnd(struct check_case *c, uint32_t n)
{
    return (uint32_t)((rnd64(c) >> 33) % n);
}

static bool chance(struct check_case *c, uint32_t percent)
{
    return rnd(c, 100) < percent;
}

static void shuffle(struct check_case *c, uint8_t *a, uint32_t n)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = rnd(c, i);
        uint8_t t = a[i - 1];

        a[i - 1] = a[j];
        a[j] = t;
    }
}

static void *must_calloc(size_t n, size_t elem_bytes)
{
    void *p = calloc(n ? n : 1, elem_bytes ? elem_bytes : 1);

    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(EXIT_FAILURE);
    }
    return p;
}

/* Random shapes. */

static uint32_t pick(struct check_case *c, const uint32_t *from, uint32_t n)
{
    return from[rnd(c, n)];
}

static void side_random(struct check_case *c, struct side_shape *s, bool is_dst)
{
    static const uint32_t block_rows[] = {1, 1, 2, 3, 4, 5, 7, 8, 16, 16, 32, 64, 100};
    static const uint8_t nests[][POOL_AXES] = {
        {4, 0, 1, 2, 3}, {0, 4, 1, 3, 2}, {0, 1, 4, 3, 2}, {1, 0, 4, 3, 2}, {0, 4, 1, 2, 3}};
    const bool dense = chance(c, 40); /* so that runs can be folded */

    *s = (struct side_shape){.block_rows = pick(c, block_rows, ARRAY_LEN(block_rows))};
    s->lead_blocks = chance(c, 70) ? 0 : rnd(c, 3);
    s->first_block = chance(c, 50) ? 0 : chance(c, 80) ? rnd(c, 9) : 4000000000u;
    s->row_in_block = chance(c, 50) ? 0 : rnd(c, s->block_rows);
    memcpy(s->nest, nests[rnd(c, ARRAY_LEN(nests))], sizeof(s->nest));
    if (chance(c, 40))
        shuffle(c, s->nest, POOL_AXES);
    for (uint32_t k = 0; k < POOL_AXES; k++) {
        s->pad[k] = dense || chance(c, 60) ? 0 : chance(c, 50) ? rnd(c, 20) : 16 * rnd(c, 5);
        s->before[k] = dense && chance(c, 80) ? 0 : rnd(c, 2);
        s->after[k] = dense && chance(c, 80) ? 0 : rnd(c, 2);
    }
    s->layer_bases = chance(c, 40);
    s->kv_bases = chance(c, 30);
    s->kv_outer_bases = chance(c, 50);
    s->blocks_in_order = chance(c, 40);
    s->blocks_repeat = !is_dst && chance(c, 20);
    s->absent_percent = is_dst && chance(c, 30) ? 10 + rnd(c, 91) : 0;
    s->block_bias = chance(c, 20) ? 4294000000u : 0;
    s->align = chance(c, 50) ? 64 : 1;
}

static void shape_random(struct check_case *c, struct job_shape *s)
{
    static const uint32_t layers[] = {1, 1, 1, 2, 3, 5};
    static const uint32_t heads[] = {1, 1, 2, 3, 4, 8};
    static const uint32_t rows[] = {1, 2, 3, 8, 15, 16, 17, 40, 64, 130};
    static const uint32_t bytes[] = {1,  2,  3,   4,   7,   8,   12,  15,  16,  17,   31,   32,
                                     33, 64, 100, 127, 128, 132, 256, 512, 576, 1024, 1152, 4096};

    *s = (struct job_shape){.kind = rnd(c, 3), .order = {0, 1, 2, 3}};
    s->n_layers = chance(c, 2) ? 0 : pick(c, layers, ARRAY_LEN(layers));
    s->n_kv = chance(c, 2) ? 0 : 1 + rnd(c, 2) + chance(c, 5);
    s->n_heads = chance(c, 2) ? 0 : pick(c, heads, ARRAY_LEN(heads));
    s->n_rows = chance(c, 2) ? 0 : pick(c, rows, ARRAY_LEN(rows));
    s->row_bytes = chance(c, 20) ? 1 + rnd(c, 1500) : pick(c, bytes, ARRAY_LEN(bytes));
    shuffle(c, s->order, 4);
    side_random(c, &s->side[0], false);
    side_random(c, &s->side[1], true);
    s->wire_block_rows = chance(c, 50) ? s->side[1].block_rows : 1 + rnd(c, 40);
    s->wire_row0 = chance(c, 50) ? s->side[1].row_in_block : rnd64(c) >> (1 + rnd(c, 62));
}

/* Cuts a random shape down to what a test can afford. */
static void shape_clip(struct job_shape *s)
{
    uint64_t others = (uint64_t)s->n_layers * s->n_kv * s->n_heads * s->row_bytes;
    uint64_t max_rows = others > 0 ? JOB_BYTES_MAX / others + 1 : 128;

    if (s->n_rows > max_rows)
        s->n_rows = (uint32_t)max_rows;
    for (unsigned i = 0; i < 2; i++)
        if (s->side[i].block_rows > max_rows) {
            s->side[i].block_rows = (uint32_t)max_rows;
            s->side[i].row_in_block %= s->side[i].block_rows;
        }
}

/* From shapes to memory. */

static uint64_t align_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) / align * align;
}

/* Reserves bytes of an arena, with a guard before and after them. */
static uint64_t arena_take(struct check_case *c, unsigned arena, uint64_t n_bytes, uint32_t align)
{
    uint64_t at = align_up(c->arena_bytes[arena] + GUARD_BYTES, 64);

    if (align == 1)
        at += rnd(c, 64);
    c->arena_bytes[arena] = at + n_bytes;
    return at;
}

/* Table of n_blocks entries out of n_pool_blocks. */
static void blocks_build(struct check_case *c, const struct side_shape *s, uint32_t *blocks,
                         uint32_t n_blocks, uint32_t n_pool_blocks)
{
    uint32_t *pool = must_calloc(n_pool_blocks, sizeof(*pool));

    for (uint32_t i = 0; i < n_pool_blocks; i++) {
        uint32_t j = s->blocks_in_order ? i : rnd(c, i + 1);

        pool[i] = pool[j];
        pool[j] = i;
    }
    for (uint32_t i = 0; i < n_blocks; i++) {
        blocks[i] = s->block_bias + pool[s->blocks_repeat ? rnd(c, n_pool_blocks) : i];
        if (chance(c, s->absent_percent))
            blocks[i] = KVFI_ABSENT_BLOCK;
    }
    free(pool);
}

/* Strides of a pool of these extents; returns bytes from its first to past its last byte. */
static uint64_t strides_build(const struct side_shape *s, uint64_t row_bytes,
                              const uint32_t *extent, uint64_t *ret_strides)
{
    uint64_t step = row_bytes, n_bytes = row_bytes;

    for (uint32_t k = POOL_AXES; k-- > 0;) {
        uint32_t axis = s->nest[k];

        step += s->pad[axis];
        ret_strides[axis] = step;
        n_bytes += (extent[axis] - 1) * step;
        step *= extent[axis];
    }
    return n_bytes;
}

/* Gives every (layer, kv) that has a base its own memory, in no particular order. */
static void bases_build(struct check_case *c, const struct job_shape *js, unsigned side,
                        struct kvfi_paged *p, struct side_tables *t, uint64_t n_bytes)
{
    const struct side_shape *s = &js->side[side];
    uint32_t n_layers = s->layer_bases ? js->n_layers : 1, n_kv = s->kv_bases ? js->n_kv : 1;
    uint32_t first = rnd(c, 8), n = n_layers * n_kv;

    p->base_layer_step = s->layer_bases ? (s->kv_outer_bases ? 1 : n_kv + rnd(c, 2)) : 0;
    p->base_kv_step = s->kv_bases ? (s->kv_outer_bases ? n_layers + rnd(c, 2) : 1) : 0;
    t->n_bases = (n_layers ? n_layers - 1 : 0) * p->base_layer_step +
                 (n_kv ? n_kv - 1 : 0) * p->base_kv_step + 1;
    t->bases = must_calloc(t->n_bases, sizeof(*t->bases));
    if (s->layer_bases) /* the definition adds the stride as well; the bases make up for it */
        p->stride_layer = chance(c, 50) ? 0 : rnd(c, 5000);
    if (s->kv_bases)
        p->stride_kv = chance(c, 50) ? 0 : rnd(c, 5000);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t layer = (first + i) % n / n_kv, kv = (first + i) % n % n_kv;
        uint64_t at = arena_take(c, side, n_bytes, s->align);

        t->bases[layer * p->base_layer_step + kv * p->base_kv_step] =
            at - s->block_bias * p->stride_block - (s->layer_bases ? layer * p->stride_layer : 0) -
            (s->kv_bases ? kv * p->stride_kv : 0);
    }
}

static void side_build(struct check_case *c, struct built_job *b, unsigned side)
{
    const struct job_shape *js = &b->shape;
    const struct side_shape *s = &js->side[side];
    struct kvfi_paged *p = side == 0 ? &b->job.src : &b->job.dst;
    uint32_t n_blocks =
        s->lead_blocks + (s->row_in_block + js->n_rows + s->block_rows - 1) / s->block_rows;
    uint32_t extent[POOL_AXES] = {s->layer_bases ? 1 : js->n_layers, s->kv_bases ? 1 : js->n_kv,
                                  js->n_heads, s->block_rows, n_blocks};
    uint64_t strides[POOL_AXES], n_bytes;

    for (uint32_t k = 0; k < POOL_AXES; k++) {
        if (k != KVFI_AXIS_ROW)
            extent[k] += s->before[k] + s->after[k];
        if (extent[k] == 0)
            extent[k] = 1;
    }
    n_bytes = strides_build(s, js->row_bytes, extent, strides);
    *p = (struct kvfi_paged){.block_rows = s->block_rows,
                             .first_block = s->first_block,
                             .row0 = ((uint64_t)s->first_block + s->lead_blocks) * s->block_rows +
                                     s->row_in_block,
                             .stride_block = strides[AXIS_BLOCK],
                             .stride_layer = strides[KVFI_AXIS_LAYER],
                             .stride_kv = strides[KVFI_AXIS_KV],
                             .stride_head = strides[KVFI_AXIS_HEAD],
                             .stride_row = strides[KVFI_AXIS_ROW]};
    for (uint32_t k = 0; k < 3; k++)
        p->offset += s->before[k] * strides[k];
    b->tables[side].blocks = must_calloc(n_blocks, sizeof(uint32_t));
    blocks_build(c, s, b->tables[side].blocks, n_blocks, extent[AXIS_BLOCK]);
    bases_build(c, js, side, p, &b->tables[side], n_bytes);
}

/* What a kind must not read is garbage. */
static void job_build(struct check_case *c, const struct job_shape *s)
{
    struct built_job *b = &c->jobs[c->n_jobs++];

    *b = (struct built_job){.shape = *s};
    memset(&b->job, 0xA5, sizeof(b->job));
    b->job.kind = s->kind;
    b->job.n_layers = s->n_layers;
    b->job.n_kv = s->n_kv;
    b->job.n_heads = s->n_heads;
    b->job.n_rows = s->n_rows;
    b->job.row_bytes = s->row_bytes;
    if (s->kind != KVFI_COPY_MOVE) {
        unsigned side = s->kind == KVFI_COPY_PACK ? 1 : 0;

        b->job.wire_block_rows = s->wire_block_rows;
        b->job.wire_row0 = s->wire_row0;
        memcpy(b->job.order, s->order, sizeof(s->order));
        b->dense_at = arena_take(c, side, kvfi_copy_bytes(&b->job), s->side[side].align);
    }
    if (s->kind != KVFI_COPY_UNPACK)
        side_build(c, b, 0);
    if (s->kind != KVFI_COPY_PACK)
        side_build(c, b, 1);
    for (unsigned i = 0; i < 2; i++)
        b->ends_at[i] = c->arena_bytes[i];
}

static void case_fini(struct check_case *c)
{
    for (uint32_t i = 0; i < c->n_jobs; i++)
        for (unsigned side = 0; side < 2; side++) {
            free(c->jobs[i].tables[side].bases);
            free(c->jobs[i].tables[side].blocks);
        }
    c->n_jobs = 0;
    c->arena_bytes[0] = c->arena_bytes[1] = 0;
}

/* From offsets in the arenas to addresses. bases: room for one side. */
static void side_bind(const struct side_tables *t, uint64_t arena, struct kvfi_paged *p,
                      uint64_t *bases)
{
    for (uint32_t i = 0; i < t->n_bases; i++)
        bases[i] = t->bases[i] + arena;
    p->bases = bases;
    p->blocks = t->blocks;
}

struct bound_jobs {
    struct kvfi_copy_job jobs[JOBS_MAX];
    uint64_t *bases[JOBS_MAX][2];
};

static void case_bind(const struct check_case *c, const uint64_t *arenas, struct bound_jobs *ret)
{
    for (uint32_t i = 0; i < c->n_jobs; i++) {
        const struct built_job *b = &c->jobs[i];
        struct kvfi_copy_job *job = &ret->jobs[i];

        *job = b->job;
        for (unsigned side = 0; side < 2; side++) {
            ret->bases[i][side] = NULL;
            if (!b->tables[side].bases)
                continue;
            ret->bases[i][side] = must_calloc(b->tables[side].n_bases, sizeof(uint64_t));
            side_bind(&b->tables[side], arenas[side], side == 0 ? &job->src : &job->dst,
                      ret->bases[i][side]);
        }
        if (job->kind != KVFI_COPY_MOVE)
            job->dense = arenas[job->kind == KVFI_COPY_PACK ? 1 : 0] + b->dense_at;
    }
}

static void bound_fini(const struct check_case *c, struct bound_jobs *b)
{
    for (uint32_t i = 0; i < c->n_jobs; i++)
        for (unsigned side = 0; side < 2; side++)
            free(b->bases[i][side]);
}

/* Running and comparing. */

static void fill_random(struct check_case *c, unsigned char *p, uint64_t n_bytes)
{
    for (uint64_t i = 0; i < n_bytes; i += 8) {
        uint64_t x = rnd64(c);

        memcpy(p + i, &x, n_bytes - i < 8 ? n_bytes - i : 8);
    }
}

static void describe_side(const char *name, const struct kvfi_paged *p, char *text, size_t cap)
{
    snprintf(text, cap,
             "%s: block_rows %u first_block %u row0 %llu base steps %u/%u strides block %llu layer "
             "%llu kv %llu head %llu row %llu",
             name, p->block_rows, p->first_block, (unsigned long long)p->row0, p->base_layer_step,
             p->base_kv_step, (unsigned long long)p->stride_block,
             (unsigned long long)p->stride_layer, (unsigned long long)p->stride_kv,
             (unsigned long long)p->stride_head, (unsigned long long)p->stride_row);
}

static void describe(const struct check_case *c, unsigned arena, uint64_t at, char *ret_text)
{
    char src[256] = "", dst[256] = "";
    const struct kvfi_copy_job *job;
    uint32_t i = 0;

    while (i + 1 < c->n_jobs && c->jobs[i].ends_at[arena] + GUARD_BYTES <= at)
        i++;
    job = &c->jobs[i].job;
    if (job->kind != KVFI_COPY_UNPACK)
        describe_side("source", &job->src, src, sizeof(src));
    if (job->kind != KVFI_COPY_PACK)
        describe_side("destination", &job->dst, dst, sizeof(dst));
    snprintf(ret_text, COPY_CHECK_TEXT_BYTES,
             "%s byte %llu of %llu differs, near job %u of %u: kind %u, %u layers %u kv %u heads "
             "%u rows of %llu bytes, wire_block_rows %u wire_row0 %llu order %u%u%u%u %s %s",
             arena == 0 ? "source" : "destination", (unsigned long long)at,
             (unsigned long long)c->arena_bytes[arena], i, c->n_jobs, job->kind, job->n_layers,
             job->n_kv, job->n_heads, job->n_rows, (unsigned long long)job->row_bytes,
             job->wire_block_rows, (unsigned long long)job->wire_row0, job->order[0], job->order[1],
             job->order[2], job->order[3], src, dst);
}

/* got: scratch for the device's bytes. */
static bool arena_compare(const struct check_case *c, const struct copy_device *device,
                          unsigned arena, uint64_t address, const unsigned char *expected,
                          char *ret_text)
{
    uint64_t n_bytes = c->arena_bytes[arena], i = 0;
    unsigned char *got = must_calloc(n_bytes, 1);

    device->download(device->ctx, got, address, n_bytes);
    if (memcmp(got, expected, n_bytes) == 0)
        i = n_bytes;
    while (i < n_bytes && got[i] == expected[i])
        i++;
    free(got);
    if (i < n_bytes)
        describe(c, arena, i, ret_text);
    return i == n_bytes;
}

static bool case_run(struct check_case *c, const struct copy_device *device, char *ret_text)
{
    unsigned char *expected[2] = {NULL, NULL};
    uint64_t mirror[2], address[2] = {0, 0};
    struct bound_jobs bound;
    unsigned n_arenas = 0;
    bool ok = false;

    snprintf(ret_text, COPY_CHECK_TEXT_BYTES, "out of device memory");
    for (unsigned a = 0; a < 2; a++) {
        /* Some sources end where their memory ends, so that a tool sees a read past the end. */
        if (a == 1 || chance(c, 50))
            c->arena_bytes[a] += GUARD_BYTES;
        expected[a] = must_calloc(c->arena_bytes[a], 1);
        mirror[a] = (uint64_t)(uintptr_t)expected[a];
        fill_random(c, expected[a], c->arena_bytes[a]);
        if (!device->alloc(device->ctx, c->arena_bytes[a], &address[a]))
            goto done;
        n_arenas++;
        device->upload(device->ctx, address[a], expected[a], c->arena_bytes[a]);
    }
    case_bind(c, mirror, &bound);
    kvfi_copy_ref(bound.jobs, c->n_jobs);
    bound_fini(c, &bound);
    case_bind(c, address, &bound);
    device->run(device->ctx, bound.jobs, c->n_jobs);
    bound_fini(c, &bound);
    ok = arena_compare(c, device, 0, address[0], expected[0], ret_text) &&
         arena_compare(c, device, 1, address[1], expected[1], ret_text);
done:
    for (unsigned a = 0; a < n_arenas; a++)
        device->release(device->ctx, address[a]);
    free(expected[0]);
    free(expected[1]);
    return ok;
}

static bool shapes_run(struct check_case *c, const struct copy_device *device,
                       const struct job_shape *shapes, uint32_t n, char *ret_text)
{
    bool ok;

    for (uint32_t i = 0; i < n; i++)
        job_build(c, &shapes[i]);
    ok = case_run(c, device, ret_text);
    case_fini(c);
    return ok;
}

bool copy_check_random(const struct copy_device *device, uint64_t seed, unsigned n_cases,
                       char *ret_text)
{
    struct check_case c = {.rnd_state = seed | 1};

    for (unsigned i = 0; i < n_cases; i++) {
        struct job_shape shapes[JOBS_MAX];
        uint32_t n = chance(&c, 50) ? 1 : rnd(&c, JOBS_MAX + 1);

        for (uint32_t j = 0; j < n; j++) {
            shape_random(&c, &shapes[j]);
            shape_clip(&shapes[j]);
        }
        if (!shapes_run(&c, device, shapes, n, ret_text))
            return false;
    }
    return true;
}

bool copy_check_orders(const struct copy_device *device, uint64_t seed, char *ret_text)
{
    struct check_case c = {.rnd_state = seed | 1};

    for (uint32_t code = 0; code < 256 * 8; code++) {
        uint8_t order[4];
        struct job_shape s;

        for (unsigned k = 0; k < 4; k++)
            order[k] = (uint8_t)(code >> 2 * k & 3);
        if ((1u << order[0] | 1u << order[1] | 1u << order[2] | 1u << order[3]) != 15)
            continue;
        shape_random(&c, &s);
        s.kind = code >> 8 & 1 ? KVFI_COPY_PACK : KVFI_COPY_UNPACK;
        s.n_layers = 2 + rnd(&c, 2);
        s.n_kv = 2;
        s.n_heads = 2 + rnd(&c, 3);
        s.n_rows = 5 + rnd(&c, 20);
        s.wire_block_rows = 1 + rnd(&c, 8);
        memcpy(s.order, order, sizeof(order));
        shape_clip(&s);
        if (!shapes_run(&c, device, &s, 1, ret_text))
            return false;
    }
    return true;
}

bool copy_check_row_sizes(const struct copy_device *device, uint64_t seed, uint32_t max_row_bytes,
                          char *ret_text)
{
    struct check_case c = {.rnd_state = seed | 1};

    for (uint32_t i = 0; i < 2 * max_row_bytes; i++) {
        struct job_shape s;

        shape_random(&c, &s);
        s.n_layers = 1;
        s.n_kv = 1;
        s.n_heads = 1 + rnd(&c, 2);
        s.n_rows = 1 + rnd(&c, 5);
        s.row_bytes = 1 + i / 2;
        s.side[0].align = s.side[1].align = i & 1 ? 64 : 1;
        if (!shapes_run(&c, device, &s, 1, ret_text))
            return false;
    }
    return true;
}

/* Of a shape; everything else of it is random. */
struct named_shape {
    uint32_t n_layers;
    uint32_t n_kv;
    uint32_t n_heads;
    uint32_t n_rows;
    uint32_t row_bytes;
    uint32_t src_block_rows;
    uint32_t dst_block_rows;
};

static const struct named_shape named_shapes[] = {
    {0, 2, 8, 16, 256, 16, 16}, /* nothing of each axis */
    {2, 0, 8, 16, 256, 16, 16},  {2, 2, 0, 16, 256, 16, 16}, {2, 2, 8, 0, 256, 16, 16},
    {1, 1, 1, 1, 1, 1, 1},       /* the smallest */
    {4, 2, 1, 48, 256, 16, 16},  /* grouped-query attention at high TP */
    {2, 2, 8, 33, 256, 64, 32},  /* a tail, blocks of different sizes */
    {3, 1, 1, 70, 1152, 64, 64}, /* latent rows (MLA) */
    {3, 1, 1, 70, 132, 64, 1},   /* indexer rows into single-row blocks */
    {2, 2, 4, 100, 128, 1, 128}, /* and the other way round */
    {1, 1, 1, 1, 150001, 1, 1},  /* state of one slot */
    {2, 1, 1, 5, 30011, 3, 2},   {1, 2, 128, 9, 16, 4, 4},   {60, 1, 1, 3, 64, 2, 2},
};

bool copy_check_shapes(const struct copy_device *device, uint64_t seed, char *ret_text)
{
    struct check_case c = {.rnd_state = seed | 1};

    for (uint32_t i = 0; i < 12 * ARRAY_LEN(named_shapes); i++) {
        const struct named_shape *n = &named_shapes[i / 12];
        struct job_shape s;

        shape_random(&c, &s);
        s.kind = i % 3;
        s.n_layers = n->n_layers;
        s.n_kv = n->n_kv;
        s.n_heads = n->n_heads;
        s.n_rows = n->n_rows;
        s.row_bytes = n->row_bytes;
        s.side[0].block_rows = n->src_block_rows;
        s.side[0].row_in_block = i % 2 ? n->src_block_rows - 1 : 0;
        s.side[1].block_rows = n->dst_block_rows;
        s.side[1].row_in_block = i % 4 ? n->dst_block_rows / 2 : 0;
        s.wire_block_rows = n->dst_block_rows;
        s.wire_row0 = s.side[1].row_in_block;
        if (!shapes_run(&c, device, &s, 1, ret_text))
            return false;
    }
    return true;
}
