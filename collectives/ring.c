/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/ring.h"

#include <string.h>

#include "collectives/util.h"

enum { ENTRIES_MAX = 1 << 30 };

kvf_status_t kvfi_ring_init(struct kvfi_ring *ring, uint32_t n_entries, size_t entry_bytes)
{
    uint32_t n = 1;

    if (n_entries == 0 || n_entries > ENTRIES_MAX || entry_bytes == 0)
        return KVF_EINVAL;
    while (n < n_entries)
        n *= 2;
    memset(ring, 0, sizeof(*ring));
    ring->entries = kvfi_calloc(n, entry_bytes);
    if (!ring->entries)
        return KVF_ENOMEM;
    ring->entry_bytes = entry_bytes;
    ring->n_entries = n;
    return KVF_OK;
}

void kvfi_ring_fini(struct kvfi_ring *ring)
{
    kvfi_free(ring->entries);
    memset(ring, 0, sizeof(*ring));
}

static uint8_t *entry_at(struct kvfi_ring *ring, uint32_t count)
{
    return ring->entries + (size_t)(count & (ring->n_entries - 1)) * ring->entry_bytes;
}

/* relaxed: a counter read by the thread that alone writes it. */
static uint32_t own_count(const _Atomic uint32_t *count)
{
    return atomic_load_explicit(count, memory_order_relaxed);
}

/*
 * acquire: after seeing the other end's count its work on the entries before it is over: the
 * consumer sees what was written into them, the producer may write over what was read. Pairs with
 * publish_count().
 */
static uint32_t other_count(const _Atomic uint32_t *count)
{
    return atomic_load_explicit(count, memory_order_acquire);
}

/* release: this end's work on the entry is over before the count says so. See other_count(). */
static void publish_count(_Atomic uint32_t *count, uint32_t value)
{
    atomic_store_explicit(count, value, memory_order_release);
}

bool kvfi_ring_push(struct kvfi_ring *ring, const void *entry)
{
    uint32_t pushed = own_count(&ring->n_pushed);

    if (pushed - other_count(&ring->n_popped) == ring->n_entries)
        return false;
    memcpy(entry_at(ring, pushed), entry, ring->entry_bytes);
    publish_count(&ring->n_pushed, pushed + 1);
    return true;
}

bool kvfi_ring_pop(struct kvfi_ring *ring, void *ret_entry)
{
    uint32_t popped = own_count(&ring->n_popped);

    if (other_count(&ring->n_pushed) == popped)
        return false;
    memcpy(ret_entry, entry_at(ring, popped), ring->entry_bytes);
    publish_count(&ring->n_popped, popped + 1);
    return true;
}
