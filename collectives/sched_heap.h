/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which things are served: priority, then earliest deadline, then longest waiting.
 *
 * A pairing heap whose nodes lie in an array of the caller, so that any number of heaps share one
 * preallocated table and a node can leave from the middle. Insert costs O(1), removal O(log n)
 * amortized: at worst a step for each insert since the last removal, so no event is much slower
 * than those that led to it. With keys that come in order, as requests of one kind do, a removal
 * costs little more than an insert at any size; that is why it is not a heap with a better bound.
 */
#ifndef KVFERRY_COLLECTIVES_SCHED_HEAP_H
#define KVFERRY_COLLECTIVES_SCHED_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#define KVFI_HEAP_NIL UINT32_MAX

struct kvfi_heap_key {
    int32_t priority;     /* higher goes first */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t order;       /* lower waits longer; < 2^56 */
};

/* Half a cache line: what an operation costs is the lines it touches. */
struct kvfi_heap_node {
    uint64_t deadline_ns;
    uint64_t order : 56;
    uint64_t in_heap : 8; /* bool; zeroed memory is in none */
    int32_t priority;
    uint32_t child; /* the first one */
    uint32_t next;  /* sibling */
    uint32_t prev;  /* sibling, or the parent of a first child */
};

/* True if a goes before b. */
static inline bool kvfi_heap_before(const struct kvfi_heap_node *a, const struct kvfi_heap_node *b)
{
    if (a->priority != b->priority)
        return a->priority > b->priority;
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->order < b->order;
}

static inline bool kvfi_heap_has(const struct kvfi_heap_node *nodes, uint32_t i)
{
    return nodes[i].in_heap != 0;
}

/* nodes[i] is in no heap; *root is KVFI_HEAP_NIL for an empty one. */
void kvfi_heap_insert(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i,
                      const struct kvfi_heap_key *key);
/* nodes[i] is in the heap of *root. */
void kvfi_heap_remove(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i);

#endif
