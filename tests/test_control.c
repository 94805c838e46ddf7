/* SPDX-License-Identifier: Apache-2.0 */
/* Listening and connecting; test_session.c has the talking, test_control_hostile.c the rest. */
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control_rig.h"

static struct rig rig;

/* ---- listening and connecting ------------------------------------------------------------- */

static void expect_create_fails(struct node *node, kvf_status_t status, const char *part)
{
    struct kvfi_control *control = NULL;
    char text[256] = "";

    ck_assert_int_eq(kvfi_control_create(&rig.loop, &node->config, text, sizeof(text), &control),
                     status);
    ck_assert_ptr_null(control);
    ck_assert_msg(strstr(text, part) != NULL, "\"%s\" lacks \"%s\"", text, part);
    /* The text may be of no interest, or not fit. */
    ck_assert_int_eq(kvfi_control_create(&rig.loop, &node->config, NULL, 0, &control), status);
    ck_assert_int_eq(kvfi_control_create(&rig.loop, &node->config, text, 5, &control), status);
    ck_assert_uint_eq(strlen(text), 4);
}

START_TEST(a_taken_port_is_told_with_its_reason)
{
    char part[64];

    rig_init(&rig);
    rig_create(&rig);
    rig.client.config.port = kvfi_control_port(rig.server.control);
    (void)snprintf(part, sizeof(part), "127.0.0.1 port %u: address already in use",
                   rig.client.config.port);
    expect_create_fails(&rig.client, KVF_ENET, part);
    rig_fini(&rig);
}
END_TEST

START_TEST(bad_configurations_are_refused)
{
    rig_init(&rig);
    rig.client.config.address = "localhost";
    expect_create_fails(&rig.client, KVF_EINVAL, "localhost port 0: not a numeric address");
    rig.client.config.address = NULL;
    expect_create_fails(&rig.client, KVF_EINVAL, "not a numeric address");
    rig.client.config.address = "127.0.0.1";
    rig.client.config.port = 65536;
    expect_create_fails(&rig.client, KVF_EINVAL, "65536");
    rig.client.config.port = 0;
    rig.client.config.address = "192.0.2.1"; /* of nobody */
    expect_create_fails(&rig.client, KVF_ENET, "192.0.2.1 port 0: address not available");
    rig.client.config.address = "127.0.0.1";
    rig.client.config.max_pending = 0;
    expect_create_fails(&rig.client, KVF_EINVAL, "max_pending 0");
    rig.client.config.max_pending = 1;
    rig.client.config.on_down = NULL;
    expect_create_fails(&rig.client, KVF_EINVAL, "callback");
    kvfi_control_destroy(NULL, NULL, NULL);
    rig_fini(&rig);
}
END_TEST

static bool can_connect(uint32_t ip, uint32_t port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc;

    addr.sin_port = htons((uint16_t)port);
    addr.sin_addr.s_addr = htonl(ip);
    rc = connect(fd, (const struct sockaddr *)&addr, sizeof(addr));
    (void)close(fd);
    return rc == 0;
}

START_TEST(it_listens_on_its_address_only)
{
    uint32_t port;

    rig_init(&rig);
    node_create(&rig, &rig.server);
    port = kvfi_control_port(rig.server.control);
    ck_assert(!can_connect(0x7f000002, port)); /* 127.0.0.2 */
    ck_assert(can_connect(0x7f000001, port));
    rig_fini(&rig);
}
END_TEST

static bool has_ipv6(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int rc = fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&any, sizeof(any));

    if (fd >= 0)
        (void)close(fd);
    if (rc < 0)
        printf("no IPv6 here: nothing to test\n");
    return rc == 0;
}

START_TEST(all_of_ipv6_is_none_of_ipv4)
{
    if (!has_ipv6())
        return;
    rig_init(&rig);
    rig.server.config.address = "::";
    node_create(&rig, &rig.server);
    ck_assert(!can_connect(0x7f000001, kvfi_control_port(rig.server.control)));
    rig_fini(&rig);
}
END_TEST

START_TEST(sockets_do_not_wait_and_are_not_inherited)
{
    unsigned n_connected = 0;

    rig_init(&rig);
    rig_create(&rig);
    (void)rig_connect(&rig);
    for (int fd = 3; fd < 64; fd++) {
        struct sockaddr_storage addr;
        socklen_t n = sizeof(addr);
        int no_delay = 0;

        if (getsockname(fd, (struct sockaddr *)&addr, &n) == 0)
            ck_assert_int_ne(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
        n = sizeof(addr);
        if (getpeername(fd, (struct sockaddr *)&addr, &n) < 0)
            continue;
        n = sizeof(no_delay);
        ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &no_delay, &n), 0);
        ck_assert_int_ne(no_delay, 0);
        n_connected++;
    }
    ck_assert_uint_eq(n_connected, 2);
    rig_fini(&rig);
}
END_TEST

/* A port that was free a moment ago. */
static uint32_t unused_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&addr, n), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&addr, &n), 0);
    (void)close(fd);
    return ntohs(addr.sin_port);
}

START_TEST(a_refused_connection_is_told)
{
    char address[64];

    rig_init(&rig);
    rig_create(&rig);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", unused_port());
    (void)rig_connect_to(&rig, address);
    ck_assert_uint_eq(rig.client.n_down, 0);
    RIG_UNTIL(&rig, rig.client.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_ENET);
    ck_assert_ptr_nonnull(strstr(rig.client.last_text, "connection refused"));
    ck_assert_ptr_nonnull(strstr(rig.client.last_text, address));
    ck_assert_ptr_eq(rig.client.last_user, &rig);
    ck_assert_uint_eq(rig.client.n_up, 0);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_bad_address_makes_no_session)
{
    struct kvfi_session *session = NULL;

    rig_init(&rig);
    rig_create(&rig);
    ck_assert_int_eq(kvfi_control_connect(rig.client.control, "127.0.0.1", 1, NULL, &session),
                     KVF_EINVAL);
    ck_assert_ptr_null(session);
    rig_fini(&rig);
}
END_TEST

START_TEST(ipv6_works_and_texts_name_the_peer)
{
    struct kvfi_session *session;
    char text[128];

    if (!has_ipv6())
        return;
    rig_init(&rig);
    rig.server.config.address = "::1";
    rig.client.config.address = "::1";
    rig_create(&rig);
    session = rig_connect(&rig);
    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
    RIG_UNTIL(&rig, rig.server.n_messages == 1);
    node_address(&rig.server, text, sizeof(text));
    ck_assert_str_eq(kvfi_session_peer_text(session), text);
    ck_assert_int_eq(strncmp(kvfi_session_peer_text(rig.server.sessions[0]), "[::1]:", 6), 0);
    ck_assert(kvfi_session_is_outgoing(session));
    ck_assert(!kvfi_session_is_outgoing(rig.server.sessions[0]));
    rig_fini(&rig);
}
END_TEST

START_TEST(the_session_table_is_bounded_on_both_sides)
{
    struct kvfi_session *session = NULL;
    struct kvfi_control_stats stats;
    char address[80];

    rig_init(&rig);
    rig.server.config.max_sessions = 2;
    rig.client.config.max_sessions = 3;
    rig_create(&rig);
    (void)rig_connect(&rig);
    session = rig_connect(&rig);
    node_address(&rig.server, address, sizeof(address));
    (void)rig_connect_to(&rig, address);
    ck_assert_int_eq(kvfi_control_connect(rig.client.control, address, 1, NULL, &session),
                     KVF_ENOSPC);
    RIG_UNTIL(&rig, rig.client.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_ENET);
    ck_assert_uint_eq(rig.client.n_up, 2);
    ck_assert_uint_eq(rig.server.n_up, 2);
    kvfi_control_stats(rig.server.control, &stats);
    ck_assert_uint_eq(stats.refused, 1);
    /* A place that became free is used again. */
    kvfi_session_close(session);
    RIG_UNTIL(&rig, rig.client.n_down == 2 && rig.server.n_down == 1);
    (void)rig_connect(&rig);
    rig_fini(&rig);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------- */

START_TEST(create_survives_every_failing_allocation)
{
    struct kvfi_control *control = NULL;
    char text[256];
    unsigned n = 1;

    rig_init(&rig);
    for (;; n++) {
        kvf_status_t status;

        kvfi_alloc_fail_at(n);
        status = kvfi_control_create(&rig.loop, &rig.client.config, text, sizeof(text), &control);
        kvfi_alloc_fail_at(0);
        if (status == KVF_OK)
            break;
        ck_assert_int_eq(status, KVF_ENOMEM);
        ck_assert_ptr_nonnull(strstr(text, "out of memory"));
    }
    ck_assert_uint_ge(n, 3);
    rig.client.control = control;
    rig_fini(&rig);
}
END_TEST

static void fail_again(struct node *node)
{
    if (node->n_warnings == 1)
        kvfi_alloc_fail_at(1);
}

/* Two connections in one turn, and no memory for either: the second one is looked at again. */
START_TEST(listening_survives_lack_of_memory)
{
    struct kvfi_control_stats stats;
    char address[80];

    rig_init(&rig);
    rig.server.on_warning = fail_again;
    rig_create(&rig);
    node_address(&rig.server, address, sizeof(address));
    (void)rig_connect_to(&rig, address);
    (void)rig_connect_to(&rig, address);
    kvfi_alloc_fail_at(1);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.client.n_up == 1);
    kvfi_control_stats(rig.server.control, &stats);
    ck_assert_uint_eq(stats.refused, 1);
    ck_assert_uint_eq(rig.server.n_warnings, 1);
    ck_assert_ptr_nonnull(strstr(rig.server.last_warning, "no memory"));
    (void)rig_connect(&rig);
    rig_fini(&rig);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, a_taken_port_is_told_with_its_reason);
    tcase_add_test(tc, bad_configurations_are_refused);
    tcase_add_test(tc, it_listens_on_its_address_only);
    tcase_add_test(tc, all_of_ipv6_is_none_of_ipv4);
    tcase_add_test(tc, sockets_do_not_wait_and_are_not_inherited);
    tcase_add_test(tc, a_refused_connection_is_told);
    tcase_add_test(tc, a_bad_address_makes_no_session);
    tcase_add_test(tc, ipv6_works_and_texts_name_the_peer);
    tcase_add_test(tc, the_session_table_is_bounded_on_both_sides);
    tcase_add_test(tc, create_survives_every_failing_allocation);
    tcase_add_test(tc, listening_survives_lack_of_memory);
}

int main(void)
{
    return harness_main("control", fill, 60);
}
