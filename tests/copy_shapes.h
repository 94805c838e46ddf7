/* SPDX-License-Identifier: Apache-2.0 */
/* Random and known shapes of copy jobs, before they have memory. */
#ifndef KVFERRY_TESTS_COPY_SHAPES_H
#define KVFERRY_TESTS_COPY_SHAPES_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/copy.h"

#define AXIS_BLOCK 4u /* fifth axis of a pool, after enum kvfi_axis */
#define POOL_AXES 5u

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

/* Random numbers that depend on the seed only; state is never 0. */
struct shape_rnd {
    uint64_t state;
};

uint64_t shape_rnd64(struct shape_rnd *r);
/* 0 <= result < n. */
uint32_t shape_rnd(struct shape_rnd *r, uint32_t n);
bool shape_chance(struct shape_rnd *r, uint32_t percent);

/* Any shape that a test can afford. */
void shape_random(struct shape_rnd *r, struct job_shape *ret_shape);
/* Cuts a shape that was changed down to that. */
void shape_clip(struct job_shape *s);
/* Shapes of real models and of known edges, several variants of each; false past the last. */
bool shape_known(struct shape_rnd *r, uint32_t i, struct job_shape *ret_shape);

#endif
