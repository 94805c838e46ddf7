/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/sched_heap.h"

#include <assert.h>

#define NIL KVFI_HEAP_NIL
#define ORDER_MASK (UINT64_MAX >> 8)

/* Two heaps become one: the later root is the earlier one's first child. Siblings are set aside. */
static uint32_t join(struct kvfi_heap_node *nodes, uint32_t a, uint32_t b)
{
    if (kvfi_heap_before(&nodes[b], &nodes[a])) {
        uint32_t t = a;

        a = b;
        b = t;
    }
    nodes[b].next = nodes[a].child;
    nodes[b].prev = a;
    if (nodes[a].child != NIL)
        nodes[nodes[a].child].prev = b;
    nodes[a].child = b;
    return a;
}

/*
 * A list of siblings becomes one heap: neighbours are joined, then the pairs from the last to the
 * first. Joining them one by one instead would keep the root's list long for ever.
 */
static uint32_t join_siblings(struct kvfi_heap_node *nodes, uint32_t first)
{
    uint32_t pairs = NIL; /* in reverse, by `next` */
    uint32_t root = NIL;

    while (first != NIL) {
        uint32_t a = first;
        uint32_t b = nodes[a].next;

        first = b == NIL ? NIL : nodes[b].next;
        if (b != NIL)
            a = join(nodes, a, b);
        nodes[a].next = pairs;
        pairs = a;
    }
    while (pairs != NIL) {
        uint32_t next = nodes[pairs].next;

        root = root == NIL ? pairs : join(nodes, pairs, root);
        pairs = next;
    }
    return root;
}

void kvfi_heap_insert(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i,
                      const struct kvfi_heap_key *key)
{
    assert(!kvfi_heap_has(nodes, i));
    nodes[i] = (struct kvfi_heap_node){.deadline_ns = key->deadline_ns,
                                       .order = key->order & ORDER_MASK,
                                       .in_heap = 1,
                                       .priority = key->priority,
                                       .child = NIL,
                                       .next = NIL,
                                       .prev = NIL};
    *root = *root == NIL ? i : join(nodes, *root, i);
}

void kvfi_heap_remove(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i)
{
    struct kvfi_heap_node *n = &nodes[i];
    uint32_t below = join_siblings(nodes, n->child);

    assert(kvfi_heap_has(nodes, i));
    n->in_heap = 0;
    if (*root == i) {
        *root = below;
        return;
    }
    if (nodes[n->prev].child == i)
        nodes[n->prev].child = n->next;
    else
        nodes[n->prev].next = n->next;
    if (n->next != NIL)
        nodes[n->next].prev = n->prev;
    if (below != NIL)
        *root = join(nodes, *root, below);
}
