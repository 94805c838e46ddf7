/* SPDX-License-Identifier: Apache-2.0 */
#include "copy_checker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "copy_shapes.h"

#define JOBS_MAX 8u
#define GUARD_BYTES 96u

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
    struct shape_rnd rnd;
};

static void *must_calloc(size_t n, size_t elem_bytes)
{
    void *p = calloc(n ? n : 1, elem_bytes ? elem_bytes : 1);

    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(EXIT_FAILURE);
    }
    return p;
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
        at += shape_rnd(&c->rnd, 64);
    c->arena_bytes[arena] = at + n_bytes;
    return at;
}

/* Table of n_blocks entries out of n_pool_blocks. */
static void blocks_build(struct check_case *c, const struct side_shape *s, uint32_t *blocks,
                         uint32_t n_blocks, uint32_t n_pool_blocks)
{
    uint32_t *pool = must_calloc(n_pool_blocks, sizeof(*pool));

    for (uint32_t i = 0; i < n_pool_blocks; i++) {
        uint32_t j = s->blocks_in_order ? i : shape_rnd(&c->rnd, i + 1);

        pool[i] = pool[j];
        pool[j] = i;
    }
    for (uint32_t i = 0; i < n_blocks; i++) {
        blocks[i] = s->block_bias + pool[s->blocks_repeat ? shape_rnd(&c->rnd, n_pool_blocks) : i];
        if (shape_chance(&c->rnd, s->absent_percent))
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
    uint32_t first = shape_rnd(&c->rnd, 8), n = n_layers * n_kv;

    p->base_layer_step =
        s->layer_bases ? (s->kv_outer_bases ? 1 : n_kv + shape_rnd(&c->rnd, 2)) : 0;
    p->base_kv_step = s->kv_bases ? (s->kv_outer_bases ? n_layers + shape_rnd(&c->rnd, 2) : 1) : 0;
    t->n_bases = (n_layers ? n_layers - 1 : 0) * p->base_layer_step +
                 (n_kv ? n_kv - 1 : 0) * p->base_kv_step + 1;
    t->bases = must_calloc(t->n_bases, sizeof(*t->bases));
    if (s->layer_bases) /* the definition adds the stride as well; the bases make up for it */
        p->stride_layer = shape_chance(&c->rnd, 50) ? 0 : shape_rnd(&c->rnd, 5000);
    if (s->kv_bases)
        p->stride_kv = shape_chance(&c->rnd, 50) ? 0 : shape_rnd(&c->rnd, 5000);
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
        uint64_t x = shape_rnd64(&c->rnd);

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
        if (a == 1 || shape_chance(&c->rnd, 50))
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
    struct check_case c = {.rnd = {seed | 1}};

    for (unsigned i = 0; i < n_cases; i++) {
        struct job_shape shapes[JOBS_MAX];
        uint32_t n = shape_chance(&c.rnd, 50) ? 1 : shape_rnd(&c.rnd, JOBS_MAX + 1);

        for (uint32_t j = 0; j < n; j++)
            shape_random(&c.rnd, &shapes[j]);
        if (!shapes_run(&c, device, shapes, n, ret_text))
            return false;
    }
    return true;
}

bool copy_check_orders(const struct copy_device *device, uint64_t seed, char *ret_text)
{
    struct check_case c = {.rnd = {seed | 1}};

    for (uint32_t code = 0; code < 256 * 8; code++) {
        uint8_t order[4];
        struct job_shape s;

        for (unsigned k = 0; k < 4; k++)
            order[k] = (uint8_t)(code >> 2 * k & 3);
        if ((1u << order[0] | 1u << order[1] | 1u << order[2] | 1u << order[3]) != 15)
            continue;
        shape_random(&c.rnd, &s);
        s.kind = code >> 8 & 1 ? KVFI_COPY_PACK : KVFI_COPY_UNPACK;
        s.n_layers = 2 + shape_rnd(&c.rnd, 2);
        s.n_kv = 2;
        s.n_heads = 2 + shape_rnd(&c.rnd, 3);
        s.n_rows = 5 + shape_rnd(&c.rnd, 20);
        s.wire_block_rows = 1 + shape_rnd(&c.rnd, 8);
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
    struct check_case c = {.rnd = {seed | 1}};

    for (uint32_t i = 0; i < max_row_bytes; i++) {
        struct job_shape s;

        shape_random(&c.rnd, &s);
        s.n_layers = 1;
        s.n_kv = 1;
        s.n_heads = 1 + shape_rnd(&c.rnd, 2);
        s.n_rows = 1 + shape_rnd(&c.rnd, 5);
        s.row_bytes = 1 + i;
        if (!shapes_run(&c, device, &s, 1, ret_text))
            return false;
    }
    return true;
}

bool copy_check_shapes(const struct copy_device *device, uint64_t seed, char *ret_text)
{
    struct check_case c = {.rnd = {seed | 1}};
    struct job_shape s;

    for (uint32_t i = 0; shape_known(&c.rnd, i, &s); i++)
        if (!shapes_run(&c, device, &s, 1, ret_text))
            return false;
    return true;
}
