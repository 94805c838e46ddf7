/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers that say anything: messages drawn at random close to what would be right. Whatever is
 * refused must leave no trace, whatever is taken must stay within the rules towards our own lanes
 * and pieces, and in the end everything can be had back.
 */
#include <string.h>

#include "collectives/sched.h"
#include "harness.h"

enum { LANES = 2, SLOTS = 3, PEERS = 3, LINKS = 3, PIECES = 40, STEPS = 400000, NONE = -1 };

struct world {
    struct kvfi_send_sched *send;
    struct kvfi_recv_sched *recv;
    void *before;
    size_t n_bytes;
    bool up[PEERS][LINKS];
    uint32_t epoch[PEERS][LINKS];
    uint32_t next_seq[PEERS][LINKS]; /* as far as the batches go */
    bool busy[LANES][SLOTS];         /* holds a batch */
    bool packing[LANES][SLOTS];
    bool unpacking[LANES][SLOTS];
    bool launched[LANES][SLOTS]; /* ever, by this batch */
    int32_t posted[LANES];       /* slot with a wire operation, or NONE */
    bool live[PIECES];
    bool removed[PIECES];
    uint64_t now_ns;
    uint32_t n_taken;
    uint32_t n_refused;
    const char *wrong; /* a sentence; NULL */
};

static struct world world;

static void check(bool ok, const char *sentence)
{
    if (!ok && !world.wrong)
        world.wrong = sentence;
}

static uint32_t lane_of(uint32_t link)
{
    return link % LANES;
}

/* Mostly a batch that is or was there, sometimes one number off. */
static struct kvfi_batch_id draw_id(void)
{
    struct kvfi_batch_id id = {.peer = rnd(PEERS), .link = rnd(LINKS)};
    uint32_t off = rnd(40);

    id.epoch = world.epoch[id.peer][id.link];
    id.seq = world.next_seq[id.peer][id.link] + 1 - rnd(5);
    if (off == 0)
        id.epoch += rnd(3) - 1;
    else if (off == 1)
        id.peer = rnd(2) ? PEERS : UINT32_MAX;
    else if (off == 2)
        id.link = rnd(2) ? LINKS : UINT32_MAX;
    return id;
}

static void judge(const void *sched, const struct kvfi_batch_id *id, kvf_status_t status)
{
    if (status == KVF_OK) {
        world.n_taken++;
        check(id->peer < PEERS && id->link < LINKS && world.up[id->peer][id->link] &&
                  world.epoch[id->peer][id->link] == id->epoch,
              "a message of no link or epoch was taken");
        return;
    }
    world.n_refused++;
    check(status == KVF_EPROTO, "a status other than KVF_EPROTO");
    check(memcmp(world.before, sched, world.n_bytes) == 0, "a refused message left a trace");
}

static void world_reset(size_t n_bytes)
{
    memset(&world, 0, sizeof(world));
    world.n_bytes = n_bytes;
    world.before = malloc(n_bytes);
    ck_assert_ptr_nonnull(world.before);
    for (uint32_t i = 0; i < LANES; i++)
        world.posted[i] = NONE;
}

static void *memory(size_t n_bytes)
{
    void *p = aligned_alloc(64, n_bytes);

    ck_assert_ptr_nonnull(p);
    return memset(p, 0, n_bytes);
}

/* ---- a receiver and its senders ----------------------------------------------------------- */

static void on_recv(void *ctx, const struct kvfi_recv_action *a)
{
    uint32_t bytes = 0;

    (void)ctx;
    switch (a->kind) {
    case KVFI_RECV_GRANT:
        check(!world.busy[a->lane][a->slot], "a slot was granted twice");
        world.busy[a->lane][a->slot] = true;
        break;
    case KVFI_RECV_POST:
        check(world.busy[a->lane][a->slot] && world.posted[a->lane] == NONE, "a post out of turn");
        check(world.up[a->batch.peer][a->batch.link], "a post on a link that is down");
        for (uint32_t i = 0; i < a->n_runs; i++) {
            check(a->runs[i].offset == bytes, "a run in the wrong place");
            bytes += a->runs[i].bytes;
        }
        check(bytes == a->bytes && bytes <= 100, "a post that does not fit its slot");
        world.posted[a->lane] = (int32_t)a->slot;
        break;
    case KVFI_RECV_DELIVERED:
    case KVFI_RECV_DROPPED:
        if (a->slot == UINT32_MAX)
            break;
        check(world.busy[a->lane][a->slot], "the end of a batch that is not there");
        world.busy[a->lane][a->slot] = false;
        if (world.posted[a->lane] == (int32_t)a->slot)
            world.posted[a->lane] = NONE;
        break;
    }
}

static void say_to_receiver(void)
{
    struct kvfi_batch_id id = draw_id();
    struct kvfi_run runs[3];
    uint32_t n_runs = rnd(4);
    uint32_t bytes = 0;

    memcpy(world.before, world.recv, world.n_bytes);
    switch (rnd(5)) {
    case 0:
    case 1:
        for (uint32_t i = 0; i < n_runs; i++) {
            runs[i] = (struct kvfi_run){.piece = rnd(9), .n_chunks = rnd(9), .bytes = rnd(40)};
            bytes += runs[i].bytes;
        }
        if (rnd(10) == 0)
            bytes += rnd(3) - 1;
        judge(world.recv, &id,
              kvfi_recv_on_offer(world.recv, &id, runs, n_runs, bytes, (int32_t)rnd(3)));
        if (memcmp(world.before, world.recv, world.n_bytes) != 0)
            world.next_seq[id.peer][id.link] = id.seq + 1;
        break;
    case 2:
        judge(world.recv, &id, kvfi_recv_on_go(world.recv, &id));
        break;
    case 3:
        judge(world.recv, &id, kvfi_recv_on_withdraw(world.recv, &id));
        break;
    default:
        judge(world.recv, &id, kvfi_recv_on_release(world.recv, &id));
        break;
    }
}

static void receive_lanes(void)
{
    uint32_t lane = rnd(LANES);
    uint32_t slot = rnd(SLOTS);

    if (rnd(2) && world.posted[lane] != NONE) {
        slot = (uint32_t)world.posted[lane];
        world.posted[lane] = NONE;
        world.unpacking[lane][slot] = true;
        kvfi_recv_on_received(world.recv, lane, slot);
    } else if (world.unpacking[lane][slot]) {
        world.unpacking[lane][slot] = false;
        kvfi_recv_on_unpacked(world.recv, lane, slot);
    }
}

static void flip_receiver_link(uint32_t peer, uint32_t link)
{
    world.up[peer][link] = !world.up[peer][link];
    if (!world.up[peer][link]) {
        kvfi_recv_link_down(world.recv, peer, link);
        return;
    }
    world.next_seq[peer][link] = 0;
    kvfi_recv_link_up(world.recv, peer, link, lane_of(link), ++world.epoch[peer][link]);
}

START_TEST(a_receiver_bears_anything)
{
    const struct kvfi_recv_sched_config c = {.n_lanes = LANES,
                                             .slots_per_lane = SLOTS,
                                             .slot_bytes = 100,
                                             .max_peers = PEERS,
                                             .links_per_peer = LINKS,
                                             .max_offers = 2,
                                             .max_groups = 2};
    bool any = false;

    world_reset(kvfi_recv_sched_bytes(&c));
    world.recv = kvfi_recv_sched_init(memory(world.n_bytes), &c, on_recv, NULL);
    for (uint32_t step = 0; step < STEPS && !world.wrong; step++) {
        uint32_t what = rnd(100);

        if (what < 2)
            flip_receiver_link(rnd(PEERS), rnd(LINKS));
        else if (what < 25)
            receive_lanes();
        else
            say_to_receiver();
    }
    ck_assert_msg(!world.wrong, "%s", world.wrong);
    ck_assert_uint_gt(world.n_taken, STEPS / 50);
    ck_assert_uint_gt(world.n_refused, STEPS / 50);
    for (uint32_t i = 0; i < PEERS * LINKS; i++) {
        if (world.up[i / LINKS][i % LINKS])
            flip_receiver_link(i / LINKS, i % LINKS);
    }
    for (uint32_t i = 0; i < LANES * SLOTS; i++) {
        if (world.unpacking[i / SLOTS][i % SLOTS])
            kvfi_recv_on_unpacked(world.recv, i / SLOTS, i % SLOTS);
        any = any || world.busy[i / SLOTS][i % SLOTS];
    }
    ck_assert_msg(!world.wrong && !any, "a slot was lost");
    ck_assert_uint_eq(kvfi_recv_n_posted(world.recv), 0);
    free(world.recv);
    free(world.before);
}
END_TEST

/* ---- a sender and its receivers ----------------------------------------------------------- */

static uint32_t chunk_bytes(void *ctx, uint32_t piece, uint32_t chunk)
{
    (void)ctx;
    return 1 + (piece * 7 + chunk * 13) % 60;
}

static void on_send(void *ctx, const struct kvfi_send_action *a)
{
    (void)ctx;
    switch (a->kind) {
    case KVFI_SEND_PACK:
        check(!world.packing[a->lane][a->slot], "a pack into a slot that is being packed");
        check(world.posted[a->lane] != (int32_t)a->slot, "a pack into a slot that is being sent");
        for (uint32_t i = 0; i < a->n_runs; i++)
            check(world.live[a->runs[i].piece] && !world.removed[a->runs[i].piece],
                  "a pack of a piece that is not there");
        world.packing[a->lane][a->slot] = true;
        world.launched[a->lane][a->slot] = false;
        break;
    case KVFI_SEND_OFFER:
        world.next_seq[a->batch.peer][a->batch.link] = a->batch.seq + 1;
        world.launched[a->lane][a->slot] = false;
        break;
    case KVFI_SEND_LAUNCH:
        check(world.posted[a->lane] == NONE && !world.launched[a->lane][a->slot],
              "a launch out of turn");
        check(world.up[a->batch.peer][a->batch.link], "a launch on a link that is down");
        world.posted[a->lane] = (int32_t)a->slot;
        world.launched[a->lane][a->slot] = true;
        break;
    case KVFI_SEND_PIECE_SENT:
        check(world.launched[a->lane][a->slot], "delivered before it was launched");
        check(world.live[a->piece] && !world.removed[a->piece],
              "news of a piece that is not there");
        break;
    case KVFI_SEND_PIECE_IDLE:
        check(world.live[a->piece], "a piece went twice");
        world.live[a->piece] = false;
        break;
    case KVFI_SEND_GO:
    case KVFI_SEND_WITHDRAW:
    case KVFI_SEND_RELEASE:
        break;
    }
}

static void say_to_sender(void)
{
    struct kvfi_batch_id id = draw_id();

    memcpy(world.before, world.send, world.n_bytes);
    judge(world.send, &id,
          rnd(2) ? kvfi_send_on_grant(world.send, &id, world.now_ns)
                 : kvfi_send_on_delivered(world.send, &id, world.now_ns));
}

static void send_lanes(void)
{
    uint32_t lane = rnd(LANES);
    uint32_t slot = rnd(SLOTS);

    if (world.packing[lane][slot]) {
        world.packing[lane][slot] = false;
        kvfi_send_on_packed(world.send, lane, slot, world.now_ns);
    } else if (world.posted[lane] != NONE && !world.packing[lane][world.posted[lane]]) {
        slot = (uint32_t)world.posted[lane];
        world.posted[lane] = NONE;
        kvfi_send_on_sent(world.send, lane, slot, world.now_ns);
    }
}

static void change_piece(void)
{
    uint32_t piece = rnd(PIECES);

    if (!world.live[piece]) {
        world.live[piece] = true;
        world.removed[piece] = false;
        kvfi_send_piece_add(world.send, piece, rnd(PEERS), rnd(6), (int32_t)rnd(3), rnd(3));
        kvfi_send_piece_ready(world.send, piece, world.now_ns);
    } else if (!world.removed[piece] && rnd(8) == 0) {
        world.removed[piece] = true;
        kvfi_send_piece_remove(world.send, piece, world.now_ns);
    }
}

static void flip_sender_link(uint32_t peer, uint32_t link)
{
    uint32_t lane = lane_of(link);
    int32_t slot = world.posted[lane];

    if (!world.up[peer][link]) {
        world.up[peer][link] = true;
        world.next_seq[peer][link] = 0;
        kvfi_send_link_up(world.send, peer, link, lane, ++world.epoch[peer][link], world.now_ns);
        return;
    }
    /* The caller has seen to it that the lane is done with the link: here, with everything. */
    if (slot != NONE) {
        world.posted[lane] = NONE;
        world.packing[lane][slot] = false;
        kvfi_send_on_sent(world.send, lane, (uint32_t)slot, world.now_ns);
    }
    if (world.posted[lane] != NONE)
        return; /* the next one was launched at once: another time */
    world.up[peer][link] = false;
    kvfi_send_link_down(world.send, peer, link, world.now_ns);
}

/* Whatever the peers said, removed pieces on links that are down are idle. */
static void end_sender(void)
{
    bool any = false;

    kvfi_send_hold(world.send, true, world.now_ns);
    for (uint32_t piece = 0; piece < PIECES; piece++) {
        if (world.live[piece] && !world.removed[piece]) {
            world.removed[piece] = true;
            kvfi_send_piece_remove(world.send, piece, world.now_ns);
        }
    }
    for (uint32_t i = 0; i < LANES * SLOTS * 20; i++)
        send_lanes();
    for (uint32_t i = 0; i < PEERS * LINKS; i++) {
        if (world.up[i / LINKS][i % LINKS])
            flip_sender_link(i / LINKS, i % LINKS);
    }
    for (uint32_t i = 0; i < LANES * SLOTS * 20; i++)
        send_lanes();
    for (uint32_t piece = 0; piece < PIECES; piece++)
        any = any || world.live[piece];
    ck_assert_msg(!world.wrong && !any, "a piece was lost");
    ck_assert_uint_eq(kvfi_send_n_launched(world.send), 0);
}

START_TEST(a_sender_bears_anything)
{
    const struct kvfi_send_sched_config c = {.n_lanes = LANES,
                                             .slots_per_lane = SLOTS,
                                             .slot_bytes = 100,
                                             .max_peers = PEERS,
                                             .max_pieces = PIECES,
                                             .links_per_peer = LINKS,
                                             .max_offers = 2,
                                             .max_groups = 2,
                                             .starve_ns = 50,
                                             .chunk_bytes = chunk_bytes};

    world_reset(kvfi_send_sched_bytes(&c));
    world.send = kvfi_send_sched_init(memory(world.n_bytes), &c, on_send, NULL);
    for (uint32_t step = 0; step < STEPS && !world.wrong; step++) {
        uint32_t what = rnd(100);

        world.now_ns++;
        if (what < 1)
            flip_sender_link(rnd(PEERS), rnd(LINKS));
        else if (what < 20)
            send_lanes();
        else if (what < 40)
            change_piece();
        else
            say_to_sender();
    }
    ck_assert_msg(!world.wrong, "%s", world.wrong);
    ck_assert_uint_gt(world.n_taken, STEPS / 50);
    ck_assert_uint_gt(world.n_refused, STEPS / 50);
    end_sender();
    free(world.send);
    free(world.before);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, a_receiver_bears_anything);
    tcase_add_test(tc, a_sender_bears_anything);
}

int main(void)
{
    return harness_main("sched_hostile", fill, 60);
}
