/* SPDX-License-Identifier: Apache-2.0 */
/* Networks of schedulers drawn by seed, every rule checked after every event. */
#include "harness.h"
#include "sched_pair.h"

enum { RUNS = 200 };

START_TEST(networks_come_to_rest_by_the_rules)
{
    const char *env = getenv("KVF_TEST_RUNS");
    uint32_t n = env ? (uint32_t)strtoul(env, NULL, 0) : RUNS;
    uint64_t first = rnd64();
    struct net_counts sum = {0};

    for (uint32_t i = 0; i < n; i++) {
        struct net_config config = net_config_draw(first + i);
        struct net *net = net_create(&config, first + i);

        net_run(net);
        net_counts_add(&sum, &net->counts);
        net_destroy(net);
    }
    printf("%u networks: %llu pieces, %llu offers, %llu of them again, %llu delivered, %llu grants "
           "crossed, %llu links lost, %llu chunks came twice, %llu steps\n",
           n, (unsigned long long)sum.works, (unsigned long long)sum.offers,
           (unsigned long long)sum.resent, (unsigned long long)sum.delivered,
           (unsigned long long)sum.crossed, (unsigned long long)sum.failures,
           (unsigned long long)sum.again, (unsigned long long)sum.steps);
    /* Otherwise the runs do not reach what they are for. */
    if (n >= RUNS) {
        ck_assert_uint_gt(sum.crossed, n / 20);
        ck_assert_uint_gt(sum.resent, n / 10);
        ck_assert_uint_gt(sum.again, 0);
    }
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, networks_come_to_rest_by_the_rules);
}

int main(void)
{
    return harness_main("sched", fill, 100);
}
