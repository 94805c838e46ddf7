/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/arena.h"

#include <sodium.h>
#include <stdint.h>

#include "collectives/util.h"

enum { ALIGN = 16 };

struct kvfi_arena_block {
    struct kvfi_arena_block *next;
    size_t cap_bytes;
    size_t used_bytes;
    size_t pad; /* keeps data aligned */
    uint8_t data[];
};

_Static_assert(sizeof(struct kvfi_arena_block) % ALIGN == 0, "alignment of the data");

static struct kvfi_arena_block *block_create(struct kvfi_arena *arena, size_t cap_bytes)
{
    struct kvfi_arena_block *block;

    if (cap_bytes > arena->max_bytes - arena->total_bytes)
        return NULL;
    block = kvfi_calloc(1, sizeof(*block) + cap_bytes);
    if (!block)
        return NULL;
    block->cap_bytes = cap_bytes;
    arena->total_bytes += cap_bytes;
    return block;
}

static void block_destroy(struct kvfi_arena *arena, struct kvfi_arena_block *block)
{
    if (!block)
        return;
    arena->total_bytes -= block->cap_bytes;
    sodium_memzero(block, sizeof(*block) + block->cap_bytes);
    kvfi_free(block);
}

static void *arena_alloc(void *opaque, size_t n_bytes)
{
    struct kvfi_arena *arena = opaque;
    struct kvfi_arena_block *block = arena->extra ? arena->extra : arena->first;
    void *p;

    if (n_bytes > arena->max_bytes)
        return NULL;
    n_bytes = (n_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (n_bytes > block->cap_bytes - block->used_bytes) {
        size_t cap_bytes = 2 * block->cap_bytes;

        /* Doubling, as long as the ceiling lets it: few blocks for a message of any size. */
        if (cap_bytes > arena->max_bytes - arena->total_bytes)
            cap_bytes = arena->max_bytes - arena->total_bytes;
        if (cap_bytes < n_bytes)
            cap_bytes = n_bytes;
        block = block_create(arena, cap_bytes);
        if (!block)
            return NULL;
        block->next = arena->extra;
        arena->extra = block;
    }
    p = block->data + block->used_bytes;
    block->used_bytes += n_bytes;
    return p;
}

static void arena_free(void *opaque, void *p)
{
    (void)opaque;
    (void)p;
}

kvf_status_t kvfi_arena_init(struct kvfi_arena *arena, size_t first_bytes, size_t max_bytes)
{
    *arena = (struct kvfi_arena){
        .allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = arena},
        .max_bytes = max_bytes,
    };
    arena->first = block_create(arena, first_bytes);
    return arena->first ? KVF_OK : KVF_ENOMEM;
}

void kvfi_arena_reset(struct kvfi_arena *arena)
{
    while (arena->extra) {
        struct kvfi_arena_block *block = arena->extra;

        arena->extra = block->next;
        block_destroy(arena, block);
    }
    arena->first->used_bytes = 0;
}

void kvfi_arena_fini(struct kvfi_arena *arena)
{
    if (!arena->first)
        return;
    kvfi_arena_reset(arena);
    block_destroy(arena, arena->first);
    arena->first = NULL;
}
