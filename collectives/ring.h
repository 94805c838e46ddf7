/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded queue of small entries between two threads: one producer, one consumer, no lock, no
 * system call. It does not wake anybody; its owner does.
 */
#ifndef KVFERRY_COLLECTIVES_RING_H
#define KVFERRY_COLLECTIVES_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvferry/kvferry.h"

/* Each end's counter sits in a cache line of its own: the other end only reads it. */
#define KVFI_RING_LINE_BYTES 64u

struct kvfi_ring {
    uint8_t *entries;
    size_t entry_bytes;
    uint32_t n_entries; /* a power of two, so that the counters may wrap */
    uint8_t pad0[KVFI_RING_LINE_BYTES];
    _Atomic uint32_t n_pushed; /* producer */
    uint8_t pad1[KVFI_RING_LINE_BYTES];
    _Atomic uint32_t n_popped; /* consumer */
    uint8_t pad2[KVFI_RING_LINE_BYTES];
};

/* Room for at least n_entries entries (1 .. 2^30). Allocates. */
kvf_status_t kvfi_ring_init(struct kvfi_ring *ring, uint32_t n_entries, size_t entry_bytes);
/* Both ends have stopped. A zeroed ring is allowed. */
void kvfi_ring_fini(struct kvfi_ring *ring);

/* Producer: copy an entry in. False: full. */
bool kvfi_ring_push(struct kvfi_ring *ring, const void *entry);
/* Consumer: copy the oldest entry out. False: empty. */
bool kvfi_ring_pop(struct kvfi_ring *ring, void *ret_entry);

#endif
