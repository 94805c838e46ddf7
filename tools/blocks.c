/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/blocks.h"

#include <string.h>

#include "collectives/util.h"

/* A random number below n. */
static uint32_t below(struct blocks *blocks, uint32_t n)
{
    blocks->random += 0x9E3779B97F4A7C15u;
    return (uint32_t)(kvfi_mix64(blocks->random) % n);
}

bool blocks_init(uint32_t n_blocks, uint32_t n_guards, uint64_t seed, struct tool_error *error,
                 struct blocks *ret_blocks)
{
    struct blocks b = {.random = seed};

    b.free_ids = kvfi_calloc(n_blocks, sizeof(*b.free_ids));
    b.guards = kvfi_calloc(n_guards + 1u, sizeof(*b.guards));
    *ret_blocks = b;
    if (!b.free_ids || !b.guards)
        return tool_fail(error, "no memory for %u block ids", n_blocks);
    for (uint32_t i = 0; i < n_blocks; i++)
        b.free_ids[i] = i;
    for (uint32_t i = n_blocks; i > 1; i--) {
        uint32_t j = below(&b, i);
        uint32_t id = b.free_ids[j];

        b.free_ids[j] = b.free_ids[i - 1];
        b.free_ids[i - 1] = id;
    }
    b.n_guards = n_guards;
    b.n_free = n_blocks - n_guards;
    memcpy(b.guards, b.free_ids + b.n_free, n_guards * sizeof(*b.guards));
    *ret_blocks = b;
    return true;
}

void blocks_fini(struct blocks *blocks)
{
    kvfi_free(blocks->free_ids);
    kvfi_free(blocks->guards);
    *blocks = (struct blocks){0};
}

bool blocks_take(struct blocks *blocks, uint32_t n, uint32_t *ret_ids)
{
    if (blocks->n_free < n)
        return false;
    blocks->n_free -= n;
    memcpy(ret_ids, blocks->free_ids + blocks->n_free, n * sizeof(*ret_ids));
    return true;
}

void blocks_give(struct blocks *blocks, const uint32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = below(blocks, blocks->n_free + 1);

        blocks->free_ids[blocks->n_free] = blocks->free_ids[j];
        blocks->free_ids[j] = ids[i];
        blocks->n_free++;
    }
}
