/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's rules one at a time; test_sched.c has them all at once. */
#include <string.h>

#include "harness.h"
#include "sched_record.h"

static struct record rec;

static void begin(const struct kvfi_recv_sched_config *config)
{
    record_recv_init(&rec, config);
    for (uint32_t peer = 0; peer < config->max_peers; peer++) {
        for (uint32_t link = 0; link < config->links_per_peer; link++)
            up(&rec, peer, link, link % config->n_lanes);
    }
}

static void begin_default(void)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    begin(&c);
}

static void offered(uint32_t peer, uint32_t link, uint32_t seq, int32_t priority)
{
    ck_assert_int_eq(offer(&rec, batch(peer, link, seq), 10, priority), KVF_OK);
}

START_TEST(config_out_of_range_has_no_size)
{
    struct kvfi_recv_sched_config c = record_recv_config();
    uint32_t *const members[] = {&c.n_lanes,   &c.slots_per_lane, &c.slot_bytes,
                                 &c.max_peers, &c.links_per_peer, &c.max_offers};

    ck_assert_uint_gt(kvfi_recv_sched_bytes(&c), 0);
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        uint32_t kept = *members[i];

        *members[i] = 0;
        ck_assert_msg(kvfi_recv_sched_bytes(&c) == 0, "member %zu", i);
        *members[i] = kept;
    }
    c.n_lanes = KVFI_SCHED_LANES_MAX + 1;
    ck_assert_uint_eq(kvfi_recv_sched_bytes(&c), 0);
    c = record_recv_config();
    c.slots_per_lane = KVFI_SCHED_SLOTS_MAX + 1;
    ck_assert_uint_eq(kvfi_recv_sched_bytes(&c), 0);
    c = record_recv_config();
    c.links_per_peer = KVFI_LINKS_MAX + 1;
    ck_assert_uint_eq(kvfi_recv_sched_bytes(&c), 0);
}
END_TEST

START_TEST(one_batch_from_offer_to_delivered)
{
    begin_default();
    offered(1, 1, 0, 0);
    EXPECT(&rec, "GRANT 1/1#0 0.0");
    ck_assert_uint_eq(kvfi_recv_n_posted(rec.recv), 0);
    take(&rec, GO, batch(1, 1, 0));
    EXPECT(&rec, "POST 0.0 1/1#0");
    ck_assert_uint_eq(kvfi_recv_n_posted(rec.recv), 1);
    kvfi_recv_on_received(rec.recv, 0, 0);
    EXPECT(&rec, "");
    ck_assert_uint_eq(kvfi_recv_n_posted(rec.recv), 0);
    kvfi_recv_on_unpacked(rec.recv, 0, 0);
    EXPECT(&rec, "DELIVERED 1/1#0");
    record_fini(&rec);
}
END_TEST

START_TEST(offers_wait_for_a_slot_by_priority_then_arrival)
{
    begin_default();
    offered(0, 0, 0, 0);
    offered(0, 1, 0, 0);
    EXPECT(&rec, "GRANT 0/0#0 0.0; GRANT 0/1#0 0.1");
    offered(1, 0, 0, 1);
    offered(2, 0, 0, 2);
    offered(3, 0, 0, 1);
    EXPECT(&rec, "");
    take(&rec, RELEASE, batch(0, 0, 0));
    EXPECT(&rec, "DROPPED 0/0#0; GRANT 2/0#0 0.0");
    take(&rec, RELEASE, batch(0, 1, 0));
    EXPECT(&rec, "DROPPED 0/1#0; GRANT 1/0#0 0.1");
    take(&rec, RELEASE, batch(1, 0, 0));
    EXPECT(&rec, "DROPPED 1/0#0; GRANT 3/0#0 0.1");
    record_fini(&rec);
}
END_TEST

START_TEST(no_peer_is_granted_twice_before_another_once)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    c.links_per_peer = 3;
    c.slots_per_lane = 1;
    begin(&c);
    offered(0, 0, 0, 0);
    forget(&rec);
    offered(1, 0, 0, 0);
    offered(1, 1, 0, 0);
    offered(1, 2, 0, 0);
    offered(2, 0, 0, 0);
    offered(2, 1, 0, 0);
    take(&rec, RELEASE, batch(0, 0, 0));
    EXPECT(&rec, "DROPPED 0/0#0; GRANT 1/0#0 0.0");
    take(&rec, RELEASE, batch(1, 0, 0));
    EXPECT(&rec, "DROPPED 1/0#0; GRANT 2/0#0 0.0");
    take(&rec, RELEASE, batch(2, 0, 0));
    EXPECT(&rec, "DROPPED 2/0#0; GRANT 1/1#0 0.0");
    take(&rec, RELEASE, batch(1, 1, 0));
    EXPECT(&rec, "DROPPED 1/1#0; GRANT 2/1#0 0.0");
    take(&rec, RELEASE, batch(2, 1, 0));
    EXPECT(&rec, "DROPPED 2/1#0; GRANT 1/2#0 0.0");
    record_fini(&rec);
}
END_TEST

/* Urgent offers never end; every KVFI_RECV_FAIR_EVERY-th grant goes to whoever waits longest. */
START_TEST(no_offer_starves)
{
    struct kvfi_recv_sched_config c = record_recv_config();
    uint32_t seq[2] = {0, 0}; /* of peer 1's links */
    uint32_t at = 0;
    uint32_t n_before = 0;

    c.slots_per_lane = 1;
    begin(&c);
    offered(1, 0, 0, 9);
    offered(3, 0, 0, -9);
    offered(1, 1, 0, 9);
    EXPECT(&rec, "GRANT 1/0#0 0.0");
    for (;; n_before++) {
        take(&rec, RELEASE, batch(1, at, seq[at]));
        if (strstr(rec.text, "GRANT 3/"))
            break;
        offered(1, at, ++seq[at], 9);
        at = 1 - at;
        forget(&rec);
        ck_assert_uint_lt(n_before, KVFI_RECV_FAIR_EVERY);
    }
    ck_assert_uint_ge(n_before, KVFI_RECV_FAIR_EVERY / 2); /* urgent ones do go first */
    record_fini(&rec);
}
END_TEST

/* Two posted a lane where allowed; in the order of GO still. */
START_TEST(a_lane_may_post_ahead_where_allowed)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    c.slots_per_lane = 3;
    c.max_posted = 2;
    begin(&c);
    for (uint32_t peer = 0; peer < 3; peer++)
        offered(peer, 0, 0, 0);
    forget(&rec);
    take(&rec, GO, batch(2, 0, 0));
    EXPECT(&rec, "POST 0.2 2/0#0");
    take(&rec, GO, batch(1, 0, 0));
    EXPECT(&rec, "POST 0.1 1/0#0");
    take(&rec, GO, batch(0, 0, 0));
    EXPECT(&rec, "");
    kvfi_recv_on_received(rec.recv, 0, 1);
    EXPECT(&rec, "POST 0.0 0/0#0");
    kvfi_recv_on_unpacked(rec.recv, 0, 1);
    EXPECT(&rec, "DELIVERED 1/0#0");
    record_fini(&rec);
}
END_TEST

/* R3: one posted a lane, in the order of GO whatever the order of the grants. */
START_TEST(posts_follow_the_order_of_go)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    c.slots_per_lane = 3;
    begin(&c);
    for (uint32_t peer = 0; peer < 3; peer++)
        offered(peer, 0, 0, 0);
    forget(&rec);
    take(&rec, GO, batch(2, 0, 0));
    EXPECT(&rec, "POST 0.2 2/0#0");
    take(&rec, GO, batch(1, 0, 0));
    take(&rec, GO, batch(0, 0, 0));
    EXPECT(&rec, "");
    refuse(&rec, RELEASE, batch(0, 0, 0)); /* too late: it was launched */
    refuse(&rec, WITHDRAW, batch(0, 0, 0));
    kvfi_recv_on_received(rec.recv, 0, 2);
    EXPECT(&rec, "POST 0.1 1/0#0"); /* while slot 2 is being unpacked */
    kvfi_recv_on_received(rec.recv, 0, 1);
    EXPECT(&rec, "POST 0.0 0/0#0");
    kvfi_recv_on_unpacked(rec.recv, 0, 1);
    EXPECT(&rec, "DELIVERED 1/0#0");
    kvfi_recv_on_unpacked(rec.recv, 0, 2);
    EXPECT(&rec, "DELIVERED 2/0#0");
    record_fini(&rec);
}
END_TEST

START_TEST(groups_are_limited_over_all_lanes)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    c.n_lanes = 2;
    c.max_groups = 1;
    begin(&c);
    offered(0, 0, 0, 0);
    offered(1, 1, 0, 0);
    offered(2, 0, 0, 0);
    forget(&rec);
    take(&rec, GO, batch(0, 0, 0));
    EXPECT(&rec, "POST 0.0 0/0#0");
    take(&rec, GO, batch(2, 0, 0));
    take(&rec, GO, batch(1, 1, 0));
    EXPECT(&rec, "");
    kvfi_recv_on_received(rec.recv, 0, 0);
    EXPECT(&rec, "POST 0.1 2/0#0");
    down(&rec, 2, 0);
    EXPECT(&rec, "DROPPED 2/0#0; POST 1.0 1/1#0");
    record_fini(&rec);
}
END_TEST

START_TEST(withdraw_before_the_grant_forgets)
{
    begin_default();
    offered(0, 0, 0, 0);
    offered(0, 1, 0, 0);
    offered(1, 0, 0, 0);
    offered(2, 0, 0, 0);
    forget(&rec);
    take(&rec, WITHDRAW, batch(1, 0, 0));
    refuse(&rec, WITHDRAW, batch(1, 0, 0));
    refuse(&rec, RELEASE, batch(1, 0, 0));
    take(&rec, RELEASE, batch(0, 0, 0));
    EXPECT(&rec, "DROPPED 1/0#0; DROPPED 0/0#0; GRANT 2/0#0 0.0");
    offered(1, 0, 1, 0);
    take(&rec, RELEASE, batch(0, 1, 0));
    EXPECT(&rec, "DROPPED 0/1#0; GRANT 1/0#1 0.1");
    record_fini(&rec);
}
END_TEST

START_TEST(withdraw_after_the_grant_waits_for_release)
{
    begin_default();
    offered(1, 0, 0, 0);
    forget(&rec);
    take(&rec, WITHDRAW, batch(1, 0, 0));
    refuse(&rec, WITHDRAW, batch(1, 0, 0));
    refuse(&rec, GO, batch(1, 0, 0));
    offered(1, 0, 1, 0); /* the withdrawn one does not count as open */
    EXPECT(&rec, "GRANT 1/0#1 0.1");
    offered(2, 0, 0, 0);
    EXPECT(&rec, ""); /* but it holds its slot */
    take(&rec, RELEASE, batch(1, 0, 0));
    EXPECT(&rec, "DROPPED 1/0#0; GRANT 2/0#0 0.0");
    refuse(&rec, RELEASE, batch(1, 0, 0));
    record_fini(&rec);
}
END_TEST

START_TEST(a_lost_link_drops_each_state)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    c.slots_per_lane = 4;
    c.max_offers = 2;
    begin(&c);
    for (uint32_t seq = 0; seq < 4; seq++) {
        offered(1, 0, seq, 0);
        if (seq < 3)
            take(&rec, GO, batch(1, 0, seq));
    }
    kvfi_recv_on_received(rec.recv, 0, 0);
    offered(1, 0, 4, 0); /* unpacking, posted, go, granted, waiting */
    forget(&rec);
    for (uint32_t peer = 2; peer < 4; peer++) {
        offered(peer, 0, 0, 0);
        offered(peer, 1, 0, 0);
    }
    EXPECT(&rec, "");
    ck_assert_uint_eq(kvfi_recv_n_posted(rec.recv), 2);
    down(&rec, 1, 0);
    EXPECT(&rec, "DROPPED 1/0#4; DROPPED 1/0#1; DROPPED 1/0#2; DROPPED 1/0#3; "
                 "GRANT 2/0#0 0.1; GRANT 3/0#0 0.2; GRANT 2/1#0 0.3");
    ck_assert_uint_eq(kvfi_recv_n_posted(rec.recv), 0);
    kvfi_recv_link_up(rec.recv, 1, 0, 0, RECORD_EPOCH + 1);
    refuse(&rec, GO, batch(1, 0, 3));
    refuse(&rec, WITHDRAW, batch(1, 0, 4));
    kvfi_recv_on_unpacked(rec.recv, 0, 0); /* its link is gone: nobody to tell */
    EXPECT(&rec, "DROPPED 1/0#0; GRANT 3/1#0 0.0");
    take(&rec, GO, batch(2, 1, 0)); /* the lane is free to post */
    EXPECT(&rec, "POST 0.3 2/1#0");
    record_fini(&rec);
}
END_TEST

/* An unpacking slot of a lost link is not taken for the next epoch's batch of the same number. */
START_TEST(an_orphan_is_not_found_again)
{
    const struct kvfi_batch_id old = {.peer = 1, .epoch = RECORD_EPOCH - 1};
    const struct kvfi_batch_id now = batch(1, 0, 0);

    begin_default();
    down(&rec, 1, 0);
    kvfi_recv_link_up(rec.recv, 1, 0, 0, old.epoch);
    (void)offer(&rec, old, 10, 0);
    take(&rec, GO, old);
    kvfi_recv_on_received(rec.recv, 0, 0);
    down(&rec, 1, 0);
    up(&rec, 1, 0, 0);
    refuse(&rec, GO, now);
    refuse(&rec, RELEASE, now);
    forget(&rec);
    ck_assert_int_eq(offer(&rec, now, 10, 0), KVF_OK);
    take(&rec, GO, now); /* slot 1, not the orphan in slot 0 */
    kvfi_recv_on_received(rec.recv, 0, 1);
    down(&rec, 1, 0);
    kvfi_recv_on_unpacked(rec.recv, 0, 0);
    kvfi_recv_on_unpacked(rec.recv, 0, 1);
    ck_assert_ptr_null(strstr(rec.text, "DELIVERED"));
    record_fini(&rec);
}
END_TEST

START_TEST(refusals_leave_no_trace)
{
    begin_default();
    refuse(&rec, OFFER, batch(1, 0, 1));
    refuse(&rec, OFFER, batch(1, 0, UINT32_MAX));
    refuse(&rec, OFFER, batch(4, 0, 0));
    refuse(&rec, OFFER, batch(1, 2, 0));
    refuse(&rec, OFFER, batch(UINT32_MAX, UINT32_MAX, 0));
    refuse(&rec, OFFER, (struct kvfi_batch_id){.peer = 1, .epoch = RECORD_EPOCH + 1});
    refuse(&rec, GO, batch(1, 0, 0));
    take(&rec, OFFER, batch(1, 0, 0));
    refuse(&rec, OFFER, batch(1, 0, 0));
    refuse(&rec, OFFER, batch(1, 0, 1)); /* one too many: #0 is granted, not GO */
    refuse(&rec, GO, batch(1, 0, 1));
    refuse(&rec, GO, batch(1, 1, 0));
    refuse(&rec, GO, batch(2, 0, 0));
    refuse(&rec, GO, batch(9, 9, 9));
    take(&rec, GO, batch(1, 0, 0));
    refuse(&rec, GO, batch(1, 0, 0));
    refuse(&rec, WITHDRAW, batch(1, 0, 0));
    refuse(&rec, RELEASE, batch(1, 0, 0));
    kvfi_recv_on_received(rec.recv, 0, 0);
    refuse(&rec, RELEASE, batch(1, 0, 0));
    down(&rec, 2, 0);
    refuse(&rec, OFFER, batch(2, 0, 0));
    record_fini(&rec);
}
END_TEST

START_TEST(only_one_offer_of_a_link_waits)
{
    struct kvfi_recv_sched_config c = record_recv_config();

    c.slots_per_lane = 1;
    c.max_offers = 2;
    begin(&c);
    take(&rec, OFFER, batch(1, 0, 0));
    take(&rec, OFFER, batch(1, 0, 1));
    refuse(&rec, OFFER, batch(1, 0, 2)); /* two open, and one waits */
    take(&rec, WITHDRAW, batch(1, 0, 0));
    refuse(&rec, OFFER, batch(1, 0, 2)); /* one waits */
    take(&rec, WITHDRAW, batch(1, 0, 1));
    take(&rec, OFFER, batch(1, 0, 2));
    record_fini(&rec);
}
END_TEST

static kvf_status_t offer_runs(const struct kvfi_run *runs, uint32_t n_runs, uint32_t bytes)
{
    const struct kvfi_batch_id id = batch(1, 0, 0);
    kvf_status_t st;

    memcpy(rec.before, rec.memory, rec.n_bytes);
    st = kvfi_recv_on_offer(rec.recv, &id, runs, n_runs, bytes, 0);
    if (st != KVF_OK)
        ck_assert(memcmp(rec.before, rec.memory, rec.n_bytes) == 0);
    return st;
}

START_TEST(runs_add_up_and_fit)
{
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX + 1];

    begin_default();
    for (uint32_t i = 0; i < KVFI_BATCH_RUNS_MAX + 1; i++)
        runs[i] = (struct kvfi_run){.piece = i, .n_chunks = 1, .bytes = 1};
    ck_assert_int_eq(offer_runs(runs, 0, 0), KVF_EPROTO);
    ck_assert_int_eq(offer_runs(runs, KVFI_BATCH_RUNS_MAX + 1, KVFI_BATCH_RUNS_MAX + 1),
                     KVF_EPROTO);
    ck_assert_int_eq(offer_runs(runs, 2, 1), KVF_EPROTO);
    ck_assert_int_eq(offer_runs(runs, 2, 3), KVF_EPROTO);
    runs[1].bytes = 100;
    ck_assert_int_eq(offer_runs(runs, 2, 101), KVF_EPROTO); /* slots have 100 */
    runs[0].bytes = UINT32_MAX;
    ck_assert_int_eq(offer_runs(runs, 2, 99), KVF_EPROTO); /* 2^32 + 99 */
    runs[0].bytes = 0;
    ck_assert_int_eq(offer_runs(runs, 2, 100), KVF_EPROTO);
    runs[0].bytes = 1;
    runs[1].bytes = 99;
    runs[1].n_chunks = 0;
    ck_assert_int_eq(offer_runs(runs, 2, 100), KVF_EPROTO);
    runs[1].n_chunks = 1;
    ck_assert_int_eq(offer_runs(runs, 2, 100), KVF_OK);
    record_fini(&rec);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, config_out_of_range_has_no_size);
    tcase_add_test(tc, one_batch_from_offer_to_delivered);
    tcase_add_test(tc, offers_wait_for_a_slot_by_priority_then_arrival);
    tcase_add_test(tc, no_peer_is_granted_twice_before_another_once);
    tcase_add_test(tc, no_offer_starves);
    tcase_add_test(tc, posts_follow_the_order_of_go);
    tcase_add_test(tc, a_lane_may_post_ahead_where_allowed);
    tcase_add_test(tc, groups_are_limited_over_all_lanes);
    tcase_add_test(tc, withdraw_before_the_grant_forgets);
    tcase_add_test(tc, withdraw_after_the_grant_waits_for_release);
    tcase_add_test(tc, a_lost_link_drops_each_state);
    tcase_add_test(tc, an_orphan_is_not_found_again);
    tcase_add_test(tc, refusals_leave_no_trace);
    tcase_add_test(tc, only_one_offer_of_a_link_waits);
    tcase_add_test(tc, runs_add_up_and_fit);
}

int main(void)
{
    return harness_main("sched_recv", fill, 10);
}
