/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which things are served: priority, then earliest deadline, then longest waiting.
 *
 * A leftist heap whose nodes lie in an array of the caller, so that any number of heaps share one
 * preallocated table and a node can leave from the middle. Insert, remove and re-key cost at most
 * O(log n) each, not amortized: 100 000 queued pieces never make one event slow.
 */
#ifndef KVFERRY_COLLECTIVES_SCHED_HEAP_H
#define KVFERRY_COLLECTIVES_SCHED_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#define KVFI_HEAP_NIL UINT32_MAX

struct kvfi_heap_key {
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t order;       /* lower waits longer */
    int32_t priority;     /* higher goes first */
};

struct kvfi_heap_node {
    struct kvfi_heap_key key;
    uint32_t rank; /* steps to the nearest missing child; 0 = in no heap, so zeroed memory is */
    uint32_t left;
    uint32_t right;
    uint32_t parent;
};

/* True if a goes before b. */
static inline bool kvfi_heap_before(const struct kvfi_heap_key *a, const struct kvfi_heap_key *b)
{
    if (a->priority != b->priority)
        return a->priority > b->priority;
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->order < b->order;
}

static inline bool kvfi_heap_has(const struct kvfi_heap_node *nodes, uint32_t i)
{
    return nodes[i].rank != 0;
}

/* nodes[i] is in no heap; *root is KVFI_HEAP_NIL for an empty one. */
void kvfi_heap_insert(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i,
                      const struct kvfi_heap_key *key);
/* nodes[i] is in the heap of *root. */
void kvfi_heap_remove(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i);

#endif
