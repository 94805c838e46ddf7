/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bump allocator for the one message that is being unpacked: everything is given back at once,
 * and small messages cost no allocation at all.
 */
#ifndef KVFERRY_COLLECTIVES_ARENA_H
#define KVFERRY_COLLECTIVES_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#include "kvferry/kvferry.h"

struct kvfi_arena_block;

struct kvfi_arena {
    ProtobufCAllocator allocator;   /* hand this to protobuf-c; frees nothing */
    struct kvfi_arena_block *first; /* kept for ever */
    struct kvfi_arena_block *extra; /* until the next reset, newest first */
    size_t total_bytes;
    size_t max_bytes; /* ceiling of all blocks together: what one message may cost */
};

/* The arena must stay where it is: the allocator points to it. */
kvf_status_t kvfi_arena_init(struct kvfi_arena *arena, size_t first_bytes, size_t max_bytes);
void kvfi_arena_reset(struct kvfi_arena *arena);
/* Also of a zeroed arena. Messages carry secrets: the memory is wiped. */
void kvfi_arena_fini(struct kvfi_arena *arena);

#endif
