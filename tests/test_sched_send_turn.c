/* SPDX-License-Identifier: Apache-2.0 */
/* Whose turn it is on a send lane, and the heap below it. */
#include "collectives/sched_heap.h"

#include <string.h>

#include "harness.h"
#include "sched_record.h"

static struct record rec;

enum { HEAP_NODES = 300, HEAP_ROUNDS = 20000 };

/* First of the nodes in heap h, or HEAP_NODES if one is in the wrong place. */
static uint32_t search(const struct kvfi_heap_node *nodes, const uint8_t *in, uint32_t h)
{
    uint32_t best = KVFI_HEAP_NIL;

    for (uint32_t i = 0; i < HEAP_NODES; i++) {
        if (kvfi_heap_has(nodes, i) != (in[i] != 0))
            return HEAP_NODES;
        if (in[i] == 1 + h && (best == KVFI_HEAP_NIL || kvfi_heap_before(&nodes[i], &nodes[best])))
            best = i;
    }
    return best;
}

/* The root of a heap is what a search finds first, whatever came and went before. */
START_TEST(heap_agrees_with_a_search)
{
    static struct kvfi_heap_node nodes[HEAP_NODES];
    uint32_t root[2] = {KVFI_HEAP_NIL, KVFI_HEAP_NIL};
    uint8_t in[HEAP_NODES] = {0}; /* 1 + heap */

    for (uint32_t round = 0; round < HEAP_ROUNDS; round++) {
        uint32_t i = rnd(HEAP_NODES);

        if (in[i]) {
            uint32_t h = in[i] - 1u;

            if (rnd(2))
                i = root[h];
            kvfi_heap_remove(nodes, &root[h], i);
            in[i] = 0;
        } else {
            struct kvfi_heap_key key = {
                .priority = (int32_t)rnd(3) - 1, .deadline_ns = rnd(4), .order = round};

            in[i] = (uint8_t)(1 + rnd(2));
            kvfi_heap_insert(nodes, &root[in[i] - 1], i, &key);
        }
        for (uint32_t h = 0; h < 2; h++)
            ck_assert_uint_eq(root[h], search(nodes, in, h));
    }
}
END_TEST

/* Many, in order and in disorder: with a step a node for each removal this would take minutes. */
START_TEST(heap_sorts_many)
{
    enum { N = 1 << 18 };
    struct kvfi_heap_node *nodes = calloc(N, sizeof(*nodes));

    ck_assert_ptr_nonnull(nodes);
    for (uint32_t way = 0; way < 3; way++) {
        uint32_t root = KVFI_HEAP_NIL;
        bool sorted = true;

        for (uint32_t i = 0; i < N; i++) {
            struct kvfi_heap_key key = {.order = way == 0 ? i : way == 1 ? N - i : rnd(N)};

            kvfi_heap_insert(nodes, &root, i, &key);
        }
        for (uint32_t i = 0; i < N; i++) {
            uint32_t first = root;

            kvfi_heap_remove(nodes, &root, first);
            sorted = sorted && (i + 1 == N || !kvfi_heap_before(&nodes[root], &nodes[first]));
            if (i % 4 == 0 && i + 1 < N) /* back in, to the end */
                kvfi_heap_insert(nodes, &root, first, &(struct kvfi_heap_key){.order = N});
            else
                continue;
            kvfi_heap_remove(nodes, &root, first);
        }
        ck_assert(sorted);
        ck_assert_uint_eq(root, KVFI_HEAP_NIL);
    }
    free(nodes);
}
END_TEST

/* One slot, so that each delivery gives exactly one turn. Peers 1, 2, 3 with one link each. */
static void begin_one_slot(void)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.slots_per_lane = 1;
    record_send_init(&rec, &c);
    for (uint32_t peer = 0; peer < 4; peer++)
        up(&rec, peer, 0, 0);
}

/* The batch in the slot goes through, and the slot is free for the next. */
static void pass(uint32_t peer, uint32_t seq)
{
    take(&rec, GRANT, batch(peer, 0, seq));
    sent(&rec, 0, 0);
    forget(&rec);
    take(&rec, DELIVERED, batch(peer, 0, seq));
}

START_TEST(the_most_urgent_peer_is_served)
{
    begin_one_slot();
    piece(&rec, 900, 0, 1, 0);
    piece_by(&rec, 901, 1, 1, 0, 50);
    piece_by(&rec, 902, 2, 1, 0, 40);
    piece_by(&rec, 903, 3, 1, 1, 0);
    EXPECT(&rec, "PACK 0.0 900:0+1; OFFER 0/0#0 9 p0");
    pass(0, 0);
    EXPECT(&rec, "SENT 900:0+1; IDLE 900; PACK 0.0 903:0+1; OFFER 3/0#0 9 p1");
    pass(3, 0);
    EXPECT(&rec, "SENT 903:0+1; IDLE 903; PACK 0.0 902:0+1; OFFER 2/0#0 9 p0");
    pass(2, 0);
    EXPECT(&rec, "SENT 902:0+1; IDLE 902; PACK 0.0 901:0+1; OFFER 1/0#0 9 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(equal_peers_take_turns)
{
    begin_one_slot();
    for (uint32_t peer = 1; peer < 4; peer++)
        piece(&rec, 9000 + peer, peer, 100, 0);
    for (uint32_t i = 0; i < 90; i++) {
        char want[128];

        (void)snprintf(want, sizeof(want), "PACK 0.0 %u:%u+1; OFFER %u/0#%u 90 p0", 9001 + i % 3,
                       i / 3, 1 + i % 3, i / 3);
        if (i == 0)
            EXPECT(&rec, want);
        else
            ck_assert_msg(strstr(rec.text, want) != NULL, "turn %u: %s", i, rec.text);
        pass(1 + i % 3, i / 3);
    }
    record_fini(&rec);
}
END_TEST

START_TEST(a_new_urgent_piece_moves_its_peer_forward)
{
    begin_one_slot();
    piece(&rec, 9000, 0, 1, 0);
    piece(&rec, 9001, 1, 1, 0);
    piece(&rec, 9002, 2, 1, 0);
    piece(&rec, 9500, 2, 1, 3);
    pass(0, 0);
    EXPECT(&rec, "SENT 9000:0+1; IDLE 9000; PACK 0.0 9500:0+1; OFFER 2/0#0 95 p3");
    removed(&rec, 9001);
    EXPECT(&rec, "IDLE 9001");
    piece(&rec, 9501, 3, 1, 3);
    removed(&rec, 9501); /* and back again when it goes */
    forget(&rec);
    pass(2, 0);
    EXPECT(&rec, "SENT 9500:0+1; IDLE 9500; PACK 0.0 9002:0+1; OFFER 2/0#1 90 p0");
    record_fini(&rec);
}
END_TEST

/*
 * Two peers whose urgent work never ends and one that is not urgent. It is served once starve_ns
 * is over, and not before; the others go on by priority.
 */
START_TEST(no_peer_starves)
{
    uint32_t seq[3] = {0};
    uint32_t at = 0; /* peer in the slot */
    uint64_t served_ns = 0;
    uint32_t n_served = 0;

    begin_one_slot();
    piece(&rec, 9000, 0, 5000, 5);
    piece(&rec, 9001, 1, 5000, 4);
    piece(&rec, 9002, 2, 5000, -7);
    for (uint32_t i = 0; i < 3000; i++) {
        rec.now_ns += 10;
        pass(at, seq[at]++);
        at = strstr(rec.text, "OFFER 2/") ? 2 : strstr(rec.text, "OFFER 1/") ? 1 : 0;
        if (at != 2)
            continue;
        if (n_served++ > 0) {
            ck_assert_uint_ge(rec.now_ns - served_ns, 1000);
            ck_assert_uint_le(rec.now_ns - served_ns, 1000 + 5 * 10);
        }
        served_ns = rec.now_ns;
    }
    ck_assert_uint_gt(n_served, 25);
    ck_assert_uint_gt(seq[1], 25);
    ck_assert_uint_gt(seq[0], 2500);
    record_fini(&rec);
}
END_TEST

/* Work on another lane counts as being served. */
START_TEST(a_peer_waits_anew_when_any_lane_served_it)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.n_lanes = 2;
    c.slots_per_lane = 1;
    record_send_init(&rec, &c);
    up(&rec, 0, 0, 0);
    piece(&rec, 9000, 0, 1, 0); /* lane 0 is busy */
    up(&rec, 1, 0, 0);
    up(&rec, 1, 1, 1);
    up(&rec, 2, 0, 0);
    piece(&rec, 9001, 1, 9, 0);
    forget(&rec);
    rec.now_ns += 1;
    piece(&rec, 9002, 2, 9, 0);
    /* Peer 1 waited for lane 0 first, but lane 1 served it since. */
    take(&rec, GRANT, batch(1, 1, 0));
    sent(&rec, 1, 0);
    take(&rec, DELIVERED, batch(1, 1, 0));
    forget(&rec);
    take(&rec, GRANT, batch(0, 0, 0));
    sent(&rec, 0, 0);
    forget(&rec);
    take(&rec, DELIVERED, batch(0, 0, 0));
    EXPECT(&rec, "SENT 9000:0+1; IDLE 9000; PACK 0.0 9002:0+1; OFFER 2/0#0 90 p0");
    record_fini(&rec);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, heap_agrees_with_a_search);
    tcase_add_test(tc, heap_sorts_many);
    tcase_add_test(tc, the_most_urgent_peer_is_served);
    tcase_add_test(tc, equal_peers_take_turns);
    tcase_add_test(tc, a_new_urgent_piece_moves_its_peer_forward);
    tcase_add_test(tc, no_peer_starves);
    tcase_add_test(tc, a_peer_waits_anew_when_any_lane_served_it);
}

int main(void)
{
    return harness_main("sched_send_turn", fill, 20);
}
