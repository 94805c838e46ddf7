/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/sched_heap.h"

#include <assert.h>

#define NIL KVFI_HEAP_NIL

static uint32_t rank_of(const struct kvfi_heap_node *nodes, uint32_t i)
{
    return i == NIL ? 0 : nodes[i].rank;
}

/*
 * Restore "left child at least as deep as the right one" from i upwards. With stop_early, until a
 * rank stays what it was: ranks on the way rise by one a step, so that is O(log n) even on a long
 * left spine.
 */
static void repair(struct kvfi_heap_node *nodes, uint32_t i, bool stop_early)
{
    while (i != NIL) {
        struct kvfi_heap_node *n = &nodes[i];
        uint32_t rank;

        if (rank_of(nodes, n->left) < rank_of(nodes, n->right)) {
            uint32_t t = n->left;

            n->left = n->right;
            n->right = t;
        }
        rank = rank_of(nodes, n->right) + 1;
        if (stop_early && rank == n->rank)
            return;
        n->rank = rank;
        i = n->parent;
    }
}

/* Two heaps whose roots have no parent become one. Walks right spines only: O(log n). */
static uint32_t merge(struct kvfi_heap_node *nodes, uint32_t a, uint32_t b)
{
    uint32_t root;
    uint32_t at;

    if (a == NIL)
        return b;
    if (b == NIL)
        return a;
    if (kvfi_heap_before(&nodes[b].key, &nodes[a].key)) {
        uint32_t t = a;

        a = b;
        b = t;
    }
    root = a;
    for (at = a;; at = nodes[at].right) {
        uint32_t right = nodes[at].right;

        if (right != NIL && !kvfi_heap_before(&nodes[b].key, &nodes[right].key))
            continue;
        /* b goes before everything right of here, which now waits to be merged into b. */
        nodes[at].right = b;
        nodes[b].parent = at;
        if (right == NIL)
            break;
        b = right;
    }
    repair(nodes, at, false);
    return root;
}

void kvfi_heap_insert(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i,
                      const struct kvfi_heap_key *key)
{
    assert(!kvfi_heap_has(nodes, i));
    nodes[i] =
        (struct kvfi_heap_node){.key = *key, .rank = 1, .left = NIL, .right = NIL, .parent = NIL};
    *root = merge(nodes, *root, i);
}

void kvfi_heap_remove(struct kvfi_heap_node *nodes, uint32_t *root, uint32_t i)
{
    struct kvfi_heap_node *n = &nodes[i];
    uint32_t parent = n->parent;
    uint32_t sub;

    assert(kvfi_heap_has(nodes, i));
    if (n->left != NIL)
        nodes[n->left].parent = NIL;
    if (n->right != NIL)
        nodes[n->right].parent = NIL;
    sub = merge(nodes, n->left, n->right);
    n->rank = 0;
    if (sub != NIL)
        nodes[sub].parent = parent;
    if (parent == NIL) {
        assert(*root == i);
        *root = sub;
        return;
    }
    if (nodes[parent].left == i)
        nodes[parent].left = sub;
    else
        nodes[parent].right = sub;
    repair(nodes, parent, true);
}
