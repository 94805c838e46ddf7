/* SPDX-License-Identifier: Apache-2.0 */
/* The sender's rules one at a time; test_sched.c has them all at once. */
#include <string.h>

#include "harness.h"
#include "sched_record.h"

static struct record rec;

static void begin(const struct kvfi_send_sched_config *config)
{
    record_send_init(&rec, config);
}

static void begin_default(void)
{
    struct kvfi_send_sched_config c = record_send_config();

    begin(&c);
}

START_TEST(config_out_of_range_has_no_size)
{
    struct kvfi_send_sched_config c = record_send_config();
    uint32_t *const members[] = {&c.n_lanes,    &c.slots_per_lane, &c.slot_bytes, &c.max_peers,
                                 &c.max_pieces, &c.links_per_peer, &c.max_offers};

    ck_assert_uint_gt(kvfi_send_sched_bytes(&c), 0);
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        uint32_t kept = *members[i];

        *members[i] = 0;
        ck_assert_msg(kvfi_send_sched_bytes(&c) == 0, "member %zu", i);
        *members[i] = kept;
    }
    c.n_lanes = KVFI_SCHED_LANES_MAX + 1;
    ck_assert_uint_eq(kvfi_send_sched_bytes(&c), 0);
    c = record_send_config();
    c.slots_per_lane = KVFI_SCHED_SLOTS_MAX + 1;
    ck_assert_uint_eq(kvfi_send_sched_bytes(&c), 0);
    c = record_send_config();
    c.links_per_peer = KVFI_LINKS_MAX + 1;
    ck_assert_uint_eq(kvfi_send_sched_bytes(&c), 0);
    c = record_send_config();
    c.chunk_bytes = NULL;
    ck_assert_uint_eq(kvfi_send_sched_bytes(&c), 0);
}
END_TEST

START_TEST(one_batch_from_ready_to_idle)
{
    begin_default();
    up(&rec, 3, 1, 0);
    kvfi_send_piece_add(rec.send, 700, 3, 2, 5, 0);
    EXPECT(&rec, "");
    kvfi_send_piece_ready(rec.send, 700, rec.now_ns);
    EXPECT(&rec, "PACK 0.0 700:0+2; OFFER 3/1#0 14 p5");
    packed(&rec, 0, 0);
    EXPECT(&rec, "");
    take(&rec, GRANT, batch(3, 1, 0));
    EXPECT(&rec, "LAUNCH 0.0 3/1#0; GO 3/1#0");
    ck_assert_uint_eq(kvfi_send_n_launched(rec.send), 1);
    sent(&rec, 0, 0);
    EXPECT(&rec, "");
    ck_assert_uint_eq(kvfi_send_n_launched(rec.send), 0);
    take(&rec, DELIVERED, batch(3, 1, 0));
    EXPECT(&rec, "SENT 700:0+2; IDLE 700");
    piece(&rec, 700, 3, 1, 0); /* the number is free again, and so is the slot */
    EXPECT(&rec, "PACK 0.0 700:0+1; OFFER 3/1#1 7 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(ready_may_come_before_the_link)
{
    begin_default();
    piece(&rec, 700, 3, 1, 0);
    EXPECT(&rec, "");
    up(&rec, 2, 0, 0);
    EXPECT(&rec, "");
    up(&rec, 3, 0, 0);
    EXPECT(&rec, "PACK 0.0 700:0+1; OFFER 3/0#0 7 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(a_piece_without_chunks_is_done_when_ready)
{
    begin_default();
    up(&rec, 3, 0, 0);
    piece(&rec, 700, 3, 0, 0);
    EXPECT(&rec, "IDLE 700");
    kvfi_send_piece_add(rec.send, 700, 3, 0, 0, 0);
    removed(&rec, 700);
    EXPECT(&rec, "IDLE 700");
    record_fini(&rec);
}
END_TEST

/* Priority, then deadline (none is last), then who waits longest; a run is never split by others. */
START_TEST(a_batch_takes_pieces_in_order_of_urgency)
{
    begin_default();
    piece_by(&rec, 901, 1, 1, 0, 0);
    piece_by(&rec, 902, 1, 1, 0, 0);
    piece_by(&rec, 903, 1, 1, 0, 500);
    piece_by(&rec, 904, 1, 2, 0, 400);
    piece_by(&rec, 905, 1, 3, 1, 0);
    piece_by(&rec, 906, 1, 1, -1, 1);
    up(&rec, 1, 0, 0);
    EXPECT(&rec, "PACK 0.0 905:0+3,904:0+2,903:0+1,901:0+1,902:0+1,906:0+1; OFFER 1/0#0 81 p1");
    record_fini(&rec);
}
END_TEST

START_TEST(a_batch_ends_with_the_slot)
{
    begin_default();
    piece(&rec, 2500, 2, 5, 0); /* to the last byte */
    up(&rec, 2, 0, 0);
    EXPECT(&rec, "PACK 0.0 2500:0+4; OFFER 2/0#0 100 p0");
    record_fini(&rec);
    begin_default();
    piece(&rec, 3000, 1, 7, 1); /* 30-byte chunks, 100-byte slots */
    piece(&rec, 500, 1, 1, 0);  /* would fit, but it is not its turn */
    up(&rec, 1, 0, 0);
    EXPECT(&rec, "PACK 0.0 3000:0+3; OFFER 1/0#0 90 p1");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "LAUNCH 0.0 1/0#0; GO 1/0#0; PACK 0.1 3000:3+3; OFFER 1/0#1 90 p1");
    sent(&rec, 0, 0);
    take(&rec, GRANT, batch(1, 0, 1));
    EXPECT(&rec, "LAUNCH 0.1 1/0#1; GO 1/0#1; PACK 0.2 3000:6+1,500:0+1; OFFER 1/0#2 35 p1");
    record_fini(&rec);
}
END_TEST

START_TEST(a_batch_has_at_most_64_runs)
{
    char want[2048];
    size_t n;

    begin_default();
    for (uint32_t i = 0; i < KVFI_BATCH_RUNS_MAX + 1; i++)
        piece(&rec, 100 + i, 1, 1, 0);
    n = (size_t)snprintf(want, sizeof(want), "PACK 0.0");
    for (uint32_t i = 0; i < KVFI_BATCH_RUNS_MAX; i++)
        n += (size_t)snprintf(want + n, sizeof(want) - n, "%s%u:0+1", i ? "," : " ", 100 + i);
    (void)snprintf(want + n, sizeof(want) - n, "; OFFER 1/0#0 64 p0");
    up(&rec, 1, 0, 0);
    EXPECT(&rec, want);
    record_fini(&rec);
}
END_TEST

/* R1: two offers, to different peers; the first one granted goes; one launched until it is sent. */
START_TEST(a_lane_launches_what_is_granted_first)
{
    begin_default();
    for (uint32_t peer = 0; peer < 3; peer++)
        up(&rec, peer, 0, 0);
    piece(&rec, 9000, 0, 2, 0);
    piece(&rec, 9001, 1, 1, 0);
    piece(&rec, 9002, 2, 1, 0);
    EXPECT(&rec, "PACK 0.0 9000:0+1; OFFER 0/0#0 90 p0; PACK 0.1 9001:0+1; OFFER 1/0#0 90 p0");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "LAUNCH 0.1 1/0#0; GO 1/0#0; PACK 0.2 9002:0+1; OFFER 2/0#0 90 p0");
    take(&rec, GRANT, batch(2, 0, 0));
    take(&rec, GRANT, batch(0, 0, 0));
    EXPECT(&rec, "");
    sent(&rec, 0, 1);
    EXPECT(&rec, "LAUNCH 0.2 2/0#0; GO 2/0#0");
    sent(&rec, 0, 2);
    EXPECT(&rec, "LAUNCH 0.0 0/0#0; GO 0/0#0");
    take(&rec, DELIVERED, batch(2, 0, 0)); /* a slot: 9000 had its second chunk waiting for it */
    EXPECT(&rec, "SENT 9002:0+1; IDLE 9002; PACK 0.2 9000:1+1; OFFER 0/0#1 90 p0");
    record_fini(&rec);
}
END_TEST

/* On a fabric where waiting holds nothing, a lane may have more launched; still in order of grants. */
START_TEST(a_lane_may_launch_ahead_where_allowed)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.max_launched = 2;
    begin(&c);
    for (uint32_t peer = 0; peer < 3; peer++)
        up(&rec, peer, 0, 0);
    piece(&rec, 9000, 0, 1, 0);
    piece(&rec, 9001, 1, 1, 0);
    piece(&rec, 9002, 2, 1, 0);
    EXPECT(&rec, "PACK 0.0 9000:0+1; OFFER 0/0#0 90 p0; PACK 0.1 9001:0+1; OFFER 1/0#0 90 p0");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "LAUNCH 0.1 1/0#0; GO 1/0#0; PACK 0.2 9002:0+1; OFFER 2/0#0 90 p0");
    take(&rec, GRANT, batch(2, 0, 0));
    EXPECT(&rec, "LAUNCH 0.2 2/0#0; GO 2/0#0");
    take(&rec, GRANT, batch(0, 0, 0));
    EXPECT(&rec, ""); /* two are launched */
    ck_assert_uint_eq(kvfi_send_n_launched(rec.send), 2);
    sent(&rec, 0, 2); /* in any order */
    EXPECT(&rec, "LAUNCH 0.0 0/0#0; GO 0/0#0");
    sent(&rec, 0, 1);
    sent(&rec, 0, 0);
    ck_assert_uint_eq(kvfi_send_n_launched(rec.send), 0);
    record_fini(&rec);
}
END_TEST

START_TEST(one_peer_has_one_open_offer_a_lane)
{
    begin_default();
    up(&rec, 1, 0, 0);
    up(&rec, 1, 1, 0); /* a second link on the lane does not help */
    piece(&rec, 9000, 1, 4, 0);
    EXPECT(&rec, "PACK 0.0 9000:0+1; OFFER 1/0#0 90 p0");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "LAUNCH 0.0 1/0#0; GO 1/0#0; PACK 0.1 9000:1+1; OFFER 1/1#0 90 p0");
    sent(&rec, 0, 0);
    EXPECT(&rec, "");
    take(&rec, GRANT, batch(1, 1, 0)); /* the first one is sent, not delivered: it keeps its slot */
    EXPECT(&rec, "LAUNCH 0.1 1/1#0; GO 1/1#0; PACK 0.2 9000:2+1; OFFER 1/0#1 90 p0");
    sent(&rec, 0, 1);
    take(&rec, GRANT, batch(1, 0, 1));
    EXPECT(&rec, "LAUNCH 0.2 1/0#1; GO 1/0#1");
    take(&rec, DELIVERED, batch(1, 1, 0)); /* deliveries come in any order */
    EXPECT(&rec, "SENT 9000:1+1; PACK 0.1 9000:3+1; OFFER 1/1#1 90 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(lanes_of_a_peer_work_side_by_side)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.n_lanes = 2;
    begin(&c);
    up(&rec, 1, 0, 0);
    up(&rec, 1, 1, 1);
    piece(&rec, 9000, 1, 3, 0);
    EXPECT(&rec, "PACK 0.0 9000:0+1; OFFER 1/0#0 90 p0; PACK 1.0 9000:1+1; OFFER 1/1#0 90 p0");
    take(&rec, GRANT, batch(1, 1, 0));
    EXPECT(&rec, "LAUNCH 1.0 1/1#0; GO 1/1#0; PACK 1.1 9000:2+1; OFFER 1/1#1 90 p0");
    piece(&rec, 901, 2, 1, 0);
    up(&rec, 2, 0, 1);
    up(&rec, 2, 1, 0); /* both lanes could; 901 is gone already */
    EXPECT(&rec, "PACK 1.2 901:0+1; OFFER 2/0#0 9 p0");
    piece(&rec, 902, 2, 1, 0); /* the lane with more free slots */
    EXPECT(&rec, "PACK 0.1 902:0+1; OFFER 2/1#0 9 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(work_goes_to_the_lane_with_more_free_slots)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.n_lanes = 2;
    begin(&c);
    up(&rec, 0, 0, 0);
    piece(&rec, 900, 0, 1, 0); /* lane 0 has one batch */
    forget(&rec);
    up(&rec, 1, 0, 0);
    up(&rec, 1, 1, 1);
    piece(&rec, 901, 1, 1, 0);
    EXPECT(&rec, "PACK 1.0 901:0+1; OFFER 1/1#0 9 p0");
    up(&rec, 2, 0, 1);
    piece(&rec, 902, 2, 1, 0); /* lane 1 has two */
    forget(&rec);
    up(&rec, 3, 0, 1);
    up(&rec, 3, 1, 0);
    piece(&rec, 903, 3, 1, 0);
    EXPECT(&rec, "PACK 0.1 903:0+1; OFFER 3/1#0 9 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(groups_are_limited_over_all_lanes)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.n_lanes = 3;
    c.max_groups = 2;
    begin(&c);
    for (uint32_t lane = 0; lane < 3; lane++) {
        up(&rec, lane, 0, lane);
        piece(&rec, 900 + lane, lane, 1, 0);
    }
    forget(&rec);
    take(&rec, GRANT, batch(2, 0, 0));
    take(&rec, GRANT, batch(0, 0, 0));
    EXPECT(&rec, "LAUNCH 2.0 2/0#0; GO 2/0#0; LAUNCH 0.0 0/0#0; GO 0/0#0");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "");
    ck_assert_uint_eq(kvfi_send_n_launched(rec.send), 2);
    sent(&rec, 2, 0);
    EXPECT(&rec, "LAUNCH 1.0 1/0#0; GO 1/0#0");
    down(&rec, 1, 0); /* gives its place back, too */
    ck_assert_uint_eq(kvfi_send_n_launched(rec.send), 1);
    record_fini(&rec);
}
END_TEST

START_TEST(a_held_gate_launches_nothing)
{
    begin_default();
    up(&rec, 1, 0, 0);
    kvfi_send_hold(rec.send, true, rec.now_ns);
    piece(&rec, 900, 1, 1, 0);
    EXPECT(&rec, "PACK 0.0 900:0+1; OFFER 1/0#0 9 p0");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "");
    kvfi_send_hold(rec.send, false, rec.now_ns);
    EXPECT(&rec, "LAUNCH 0.0 1/0#0; GO 1/0#0");
    record_fini(&rec);
}
END_TEST

START_TEST(delivered_before_sent_keeps_the_slot_until_sent)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    take(&rec, GRANT, batch(1, 0, 0));
    forget(&rec);
    take(&rec, DELIVERED, batch(1, 0, 0));
    EXPECT(&rec, "SENT 900:0+1");
    refuse(&rec, DELIVERED, batch(1, 0, 0));
    piece(&rec, 901, 1, 1, 0);
    EXPECT(&rec, "PACK 0.1 901:0+1; OFFER 1/0#1 9 p0");
    sent(&rec, 0, 0);
    EXPECT(&rec, "IDLE 900");
    record_fini(&rec);
}
END_TEST

START_TEST(refusals_leave_no_trace)
{
    begin_default();
    up(&rec, 1, 0, 0);
    refuse(&rec, GRANT, batch(1, 0, 0)); /* nothing was offered */
    piece(&rec, 9000, 1, 2, 0);
    refuse(&rec, DELIVERED, batch(1, 0, 0)); /* not launched */
    refuse(&rec, GRANT, batch(1, 1, 0));     /* link is down */
    refuse(&rec, GRANT, batch(2, 0, 0));
    refuse(&rec, GRANT, batch(4, 0, 0)); /* there is no such peer, no such link */
    refuse(&rec, GRANT, batch(1, 2, 0));
    refuse(&rec, GRANT, batch(UINT32_MAX, UINT32_MAX, 0));
    refuse(&rec, GRANT, batch(1, 0, 1));
    refuse(&rec, GRANT, batch(1, 0, UINT32_MAX));
    refuse(&rec, GRANT,
           (struct kvfi_batch_id){.peer = 1, .link = 0, .epoch = RECORD_EPOCH + 1, .seq = 0});
    take(&rec, GRANT, batch(1, 0, 0));
    refuse(&rec, GRANT, batch(1, 0, 0)); /* said twice; the next offer (#1) is open now */
    refuse(&rec, DELIVERED, batch(1, 0, 1));
    take(&rec, GRANT, batch(1, 0, 1));
    refuse(&rec, DELIVERED, batch(1, 0, 1)); /* granted, but the lane is not free */
    take(&rec, DELIVERED, batch(1, 0, 0));
    sent(&rec, 0, 0);
    take(&rec, DELIVERED, batch(1, 0, 1));
    refuse(&rec, DELIVERED, batch(1, 0, 1));
    refuse(&rec, GRANT, batch(1, 0, 1));
    record_fini(&rec);
}
END_TEST

/* Offers that carry nothing else are withdrawn; their GRANT, on its way, is answered by RELEASE. */
START_TEST(removal_withdraws_an_offer)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    packed(&rec, 0, 0);
    forget(&rec);
    removed(&rec, 900);
    EXPECT(&rec, "WITHDRAW 1/0#0; IDLE 900");
    piece(&rec, 901, 1, 1, 0);
    EXPECT(&rec, "PACK 0.0 901:0+1; OFFER 1/0#1 9 p0");
    refuse(&rec, GRANT, batch(1, 0, 2));
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "RELEASE 1/0#0");
    refuse(&rec, GRANT, batch(1, 0, 0));
    take(&rec, GRANT, batch(1, 0, 1));
    EXPECT(&rec, "LAUNCH 0.0 1/0#1; GO 1/0#1");
    refuse(&rec, GRANT, batch(1, 0, 1));
    record_fini(&rec);
}
END_TEST

START_TEST(a_withdrawn_offer_that_was_never_granted_leaves_nothing_behind)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    packed(&rec, 0, 0);
    removed(&rec, 900);
    piece(&rec, 901, 1, 1, 0);
    take(&rec, GRANT, batch(1, 0, 1));
    forget(&rec);
    refuse(&rec, GRANT, batch(1, 0, 0)); /* too late: grants come in order */
    record_fini(&rec);
}
END_TEST

START_TEST(removal_gives_an_unused_grant_back)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 9000, 1, 1, 0);
    take(&rec, GRANT, batch(1, 0, 0)); /* launched */
    piece(&rec, 9001, 1, 1, 0);
    take(&rec, GRANT, batch(1, 0, 1)); /* the lane is busy */
    packed(&rec, 0, 1);
    forget(&rec);
    removed(&rec, 9001);
    EXPECT(&rec, "RELEASE 1/0#1; IDLE 9001");
    sent(&rec, 0, 0);
    EXPECT(&rec, "");
    record_fini(&rec);
}
END_TEST

/* A slot is not used again, and a number not given back, while a PACK of them may still run. */
START_TEST(removal_waits_for_the_pack)
{
    struct kvfi_send_sched_config c = record_send_config();

    c.slots_per_lane = 1;
    begin(&c);
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    forget(&rec);
    removed(&rec, 900);
    EXPECT(&rec, "WITHDRAW 1/0#0");
    piece(&rec, 901, 1, 1, 0);
    EXPECT(&rec, "");
    packed(&rec, 0, 0);
    EXPECT(&rec, "IDLE 900; PACK 0.0 901:0+1; OFFER 1/0#1 9 p0");
    record_fini(&rec);
}
END_TEST

START_TEST(a_removed_piece_in_company_travels_as_filler)
{
    begin_default();
    piece(&rec, 900, 1, 1, 0);
    piece(&rec, 901, 1, 1, 0);
    up(&rec, 1, 0, 0);
    EXPECT(&rec, "PACK 0.0 900:0+1,901:0+1; OFFER 1/0#0 18 p0");
    packed(&rec, 0, 0);
    removed(&rec, 900);
    EXPECT(&rec, "");
    take(&rec, GRANT, batch(1, 0, 0));
    EXPECT(&rec, "LAUNCH 0.0 1/0#0; GO 1/0#0");
    removed(&rec, 901); /* launched: nothing stops it any more */
    EXPECT(&rec, "");
    sent(&rec, 0, 0);
    EXPECT(&rec, "");
    take(&rec, DELIVERED, batch(1, 0, 0));
    EXPECT(&rec, "IDLE 900; IDLE 901");
    record_fini(&rec);
}
END_TEST

START_TEST(the_last_of_several_removals_withdraws)
{
    begin_default();
    piece(&rec, 900, 1, 1, 0);
    piece(&rec, 901, 1, 2, 0);
    up(&rec, 1, 0, 0);
    packed(&rec, 0, 0);
    forget(&rec);
    removed(&rec, 901);
    removed(&rec, 900);
    EXPECT(&rec, "WITHDRAW 1/0#0; IDLE 900; IDLE 901");
    record_fini(&rec);
}
END_TEST

START_TEST(removal_before_ready_and_of_waiting_chunks)
{
    begin_default();
    up(&rec, 1, 0, 0);
    kvfi_send_piece_add(rec.send, 900, 1, 3, 0, 0);
    removed(&rec, 900);
    EXPECT(&rec, "IDLE 900");
    piece(&rec, 9000, 1, 5, 0);
    take(&rec, GRANT, batch(1, 0, 0));
    packed(&rec, 0, 1);
    forget(&rec);
    removed(&rec, 9000); /* chunk 0 launched, chunk 1 offered, the others waiting */
    EXPECT(&rec, "WITHDRAW 1/0#1");
    take(&rec, DELIVERED, batch(1, 0, 0));
    EXPECT(&rec, "");
    sent(&rec, 0, 0);
    EXPECT(&rec, "IDLE 9000");
    record_fini(&rec);
}
END_TEST

/* Everything that was not delivered comes again from its slot, unpacked chunks of others after it. */
START_TEST(a_lost_link_offers_again_from_kept_slots)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 9000, 1, 4, 0);
    take(&rec, GRANT, batch(1, 0, 0));
    sent(&rec, 0, 0);
    take(&rec, GRANT, batch(1, 0, 1));
    piece(&rec, 9500, 2, 1, 9);
    up(&rec, 2, 0, 0);
    forget(&rec);
    down(&rec, 1, 0); /* slot 0 sent, 1 launched, 2 offered: none left for the urgent one */
    EXPECT(&rec, "");
    refuse(&rec, GRANT, batch(1, 0, 2));
    refuse(&rec, DELIVERED, batch(1, 0, 0));
    kvfi_send_link_up(rec.send, 1, 1, 0, RECORD_EPOCH, rec.now_ns); /* another link does as well */
    EXPECT(&rec, "OFFER 1/1#0 90 p0");
    take(&rec, GRANT, batch(1, 1, 0));
    EXPECT(&rec, "LAUNCH 0.0 1/1#0; GO 1/1#0; OFFER 1/1#1 90 p0");
    take(&rec, GRANT, batch(1, 1, 1));
    sent(&rec, 0, 0);
    EXPECT(&rec, "LAUNCH 0.1 1/1#1; GO 1/1#1; OFFER 1/1#2 90 p0");
    take(&rec, DELIVERED, batch(1, 1, 0));
    EXPECT(&rec, "SENT 9000:0+1; PACK 0.0 9500:0+1; OFFER 2/0#0 95 p9");
    record_fini(&rec);
}
END_TEST

START_TEST(a_lost_link_drops_what_nobody_wants)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    take(&rec, GRANT, batch(1, 0, 0)); /* slot 0: delivered, not sent */
    take(&rec, DELIVERED, batch(1, 0, 0));
    forget(&rec);
    packed(&rec, 0, 0);
    down(&rec, 1, 0);
    EXPECT(&rec, "IDLE 900");
    up(&rec, 1, 0, 0);
    piece(&rec, 901, 1, 1, 0);
    take(&rec, GRANT, batch(1, 0, 0));
    removed(&rec, 901);
    packed(&rec, 0, 0);
    forget(&rec);
    down(&rec, 1, 0); /* launched, but its piece is gone */
    EXPECT(&rec, "IDLE 901");
    piece(&rec, 902, 1, 1, 0);
    piece(&rec, 903, 1, 1, 7);
    up(&rec, 1, 0, 0);
    packed(&rec, 0, 0);
    down(&rec, 1, 0);
    forget(&rec);
    removed(&rec, 903); /* one of two: the batch stays, with the other's priority */
    up(&rec, 1, 0, 0);
    EXPECT(&rec, "OFFER 1/0#0 18 p0");
    down(&rec, 1, 0);
    removed(&rec, 902); /* while it waits */
    EXPECT(&rec, "IDLE 903; IDLE 902");
    record_fini(&rec);
}
END_TEST

START_TEST(a_lost_link_waits_for_the_pack_too)
{
    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    down(&rec, 1, 0);
    forget(&rec);
    removed(&rec, 900);
    EXPECT(&rec, "");
    packed(&rec, 0, 0);
    EXPECT(&rec, "IDLE 900");
    record_fini(&rec);
}
END_TEST

START_TEST(an_epoch_starts_afresh)
{
    const struct kvfi_batch_id now = {.peer = 1, .epoch = 10};

    begin_default();
    up(&rec, 1, 0, 0);
    piece(&rec, 900, 1, 1, 0);
    packed(&rec, 0, 0);
    removed(&rec, 900); /* its GRANT may be on the way when the link goes down */
    down(&rec, 1, 0);
    kvfi_send_link_up(rec.send, 1, 0, 0, now.epoch, rec.now_ns);
    refuse(&rec, GRANT, batch(1, 0, 0));
    refuse(&rec, GRANT, now);
    kvfi_send_piece_add(rec.send, 900, 1, 1, 0, 0);
    forget(&rec);
    record_fini(&rec);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, config_out_of_range_has_no_size);
    tcase_add_test(tc, one_batch_from_ready_to_idle);
    tcase_add_test(tc, ready_may_come_before_the_link);
    tcase_add_test(tc, a_piece_without_chunks_is_done_when_ready);
    tcase_add_test(tc, a_batch_takes_pieces_in_order_of_urgency);
    tcase_add_test(tc, a_batch_ends_with_the_slot);
    tcase_add_test(tc, a_batch_has_at_most_64_runs);
    tcase_add_test(tc, a_lane_launches_what_is_granted_first);
    tcase_add_test(tc, a_lane_may_launch_ahead_where_allowed);
    tcase_add_test(tc, one_peer_has_one_open_offer_a_lane);
    tcase_add_test(tc, lanes_of_a_peer_work_side_by_side);
    tcase_add_test(tc, work_goes_to_the_lane_with_more_free_slots);
    tcase_add_test(tc, groups_are_limited_over_all_lanes);
    tcase_add_test(tc, a_held_gate_launches_nothing);
    tcase_add_test(tc, delivered_before_sent_keeps_the_slot_until_sent);
    tcase_add_test(tc, refusals_leave_no_trace);
    tcase_add_test(tc, removal_withdraws_an_offer);
    tcase_add_test(tc, a_withdrawn_offer_that_was_never_granted_leaves_nothing_behind);
    tcase_add_test(tc, removal_gives_an_unused_grant_back);
    tcase_add_test(tc, removal_waits_for_the_pack);
    tcase_add_test(tc, a_removed_piece_in_company_travels_as_filler);
    tcase_add_test(tc, the_last_of_several_removals_withdraws);
    tcase_add_test(tc, removal_before_ready_and_of_waiting_chunks);
    tcase_add_test(tc, a_lost_link_offers_again_from_kept_slots);
    tcase_add_test(tc, a_lost_link_drops_what_nobody_wants);
    tcase_add_test(tc, a_lost_link_waits_for_the_pack_too);
    tcase_add_test(tc, an_epoch_starts_afresh);
}

int main(void)
{
    return harness_main("sched_send", fill, 10);
}
