/* SPDX-License-Identifier: Apache-2.0 */
/* Block ids of a pool, handed out in shuffled order, with some kept back as guards. */
#ifndef KVFERRY_TOOLS_BLOCKS_H
#define KVFERRY_TOOLS_BLOCKS_H

#include "tools/error.h"

struct blocks {
    uint32_t n_free;
    uint32_t *free_ids; /* [n_free], owned */
    uint32_t n_guards;
    uint32_t *guards; /* [n_guards] never handed out; owned */
    uint64_t random;
};

/* n_blocks ids, n_guards of them never handed out. blocks_fini in any case. */
bool blocks_init(uint32_t n_blocks, uint32_t n_guards, uint64_t seed, struct tool_error *error,
                 struct blocks *ret_blocks);
void blocks_fini(struct blocks *blocks);

/* False, taking none, if fewer are free. */
bool blocks_take(struct blocks *blocks, uint32_t n, uint32_t *ret_ids);
/* Returned ids go to random places, so that reuse keeps no order. */
void blocks_give(struct blocks *blocks, const uint32_t *ids, uint32_t n);

#endif
