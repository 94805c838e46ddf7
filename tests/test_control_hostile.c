/* SPDX-License-Identifier: Apache-2.0 */
/* What anybody may do to the port, and what one who knows the job key but not the rules may do. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "collectives/frame.h"
#include "collectives/handshake.h"
#include "control_rig.h"

static struct rig rig;

/* ---- raw sockets -------------------------------------------------------------------------- */

/* Blocking connect, which the kernel answers; all else does not block. */
static int raw_connect(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;

    addr.sin_port = htons((uint16_t)kvfi_control_port(rig.server.control));
    ck_assert_int_eq(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
    ck_assert_int_eq(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

/* Turns the loop while the socket is full. */
static void raw_send(int fd, const void *bytes, size_t n_bytes)
{
    for (size_t n = 0; n < n_bytes;) {
        ssize_t rc = send(fd, (const char *)bytes + n, n_bytes - n, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (rc > 0) {
            n += (size_t)rc;
            continue;
        }
        if (rc < 0 && errno != EAGAIN)
            return; /* the server has had enough of it */
        rig_turn(&rig);
    }
}

/* Turns the loop until that much is there. */
static void raw_receive(int fd, uint8_t *bytes, size_t n_bytes)
{
    size_t n = 0;

    while (n < n_bytes) {
        ssize_t rc = recv(fd, bytes + n, n_bytes - n, MSG_DONTWAIT);

        if (rc > 0) {
            n += (size_t)rc;
            continue;
        }
        ck_assert_msg(rc < 0 && errno == EAGAIN, "the connection ended after %zu bytes", n);
        rig_turn(&rig);
    }
}

static bool raw_is_closed(int fd)
{
    uint8_t byte;
    ssize_t rc = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

    return rc == 0 || (rc < 0 && errno != EAGAIN);
}

static uint64_t n_refused(const struct node *node)
{
    struct kvfi_control_stats stats;

    kvfi_control_stats(node->control, &stats);
    return stats.refused;
}

/* The server still does its job, and had no session that it should not have had. */
static void assert_healthy(void)
{
    unsigned n_up = rig.server.n_up;
    uint64_t n_messages = rig.server.n_messages;
    struct kvfi_session *session = rig_connect(&rig);

    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
    RIG_UNTIL(&rig, rig.server.n_messages == n_messages + 1);
    ck_assert_uint_eq(rig.server.n_up, n_up + 1);
}

/* ---- before authentication ---------------------------------------------------------------- */

START_TEST(garbage_is_sent_away)
{
    static uint8_t noise[100000];
    const char *texts[] = {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02", "kvferry", "\n"};

    rig_init(&rig);
    rig_create(&rig);
    for (unsigned i = 0; i < 6; i++) {
        int fd = raw_connect();

        if (i < 4) {
            raw_send(fd, texts[i], strlen(texts[i]));
            if (i == 2) /* not wrong yet, and never more of it */
                ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
        } else {
            for (size_t b = 0; b < sizeof(noise); b++)
                noise[b] = (uint8_t)rnd(256);
            if (i == 5)
                memcpy(noise, "kvferry\x1a\1\0\0\0", 12); /* then its fields are noise */
            raw_send(fd, noise, sizeof(noise));
        }
        RIG_UNTIL(&rig, n_refused(&rig.server) == i + 1);
        (void)close(fd);
    }
    ck_assert_uint_eq(rig.server.n_up, 0);
    ck_assert_uint_eq(rig.server.n_down, 0);
    /* Only the last one can be told from a wrong key. */
    ck_assert_uint_eq(rig.server.n_warnings, 1);
    assert_healthy();
    rig_fini(&rig);
}
END_TEST

START_TEST(strangers_cannot_fill_the_log)
{
    const uint8_t hello[KVFI_HANDSHAKE_HELLO_BYTES + KVFI_HANDSHAKE_MAC_BYTES] =
        "kvferry\x1a\1\0\0\0and then noise, and no proof";

    rig_init(&rig);
    rig_create(&rig);
    for (unsigned i = 1; i <= 20; i++) {
        int fd = raw_connect();

        raw_send(fd, hello, sizeof(hello));
        RIG_UNTIL(&rig, n_refused(&rig.server) == i);
        (void)close(fd);
    }
    ck_assert_uint_eq(rig.server.n_warnings, 5); /* 1, 2, 4, 8, 16 */
    ck_assert_ptr_nonnull(strstr(rig.server.last_warning, "number 16 with a wrong key"));
    rig_fini(&rig);
}
END_TEST

START_TEST(a_wrong_key_is_told_to_the_client)
{
    char address[80];

    rig_init(&rig);
    memset(rig.client.config.job_key, 2, sizeof(rig.client.config.job_key));
    rig_create(&rig);
    node_address(&rig.server, address, sizeof(address));
    (void)rig_connect_to(&rig, address);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && n_refused(&rig.server) == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_EAUTH);
    ck_assert_ptr_nonnull(strstr(rig.client.last_text, "does not know the job key"));
    ck_assert_uint_eq(rig.client.n_warnings, 1);
    ck_assert_uint_eq(rig.client.n_up, 0);
    ck_assert_uint_eq(rig.server.n_up, 0);
    node_destroy(&rig, &rig.client);
    node_defaults(&rig.client, 1);
    node_create(&rig, &rig.client);
    assert_healthy();
    rig_fini(&rig);
}
END_TEST

START_TEST(the_slow_are_timed_out)
{
    const char prefix[] = "kvferry\x1a\1\0\0";
    int fds[2];

    rig_init(&rig);
    rig.server.config.auth_timeout_ns = 30000000;
    rig_create(&rig);
    fds[0] = raw_connect();
    fds[1] = raw_connect();
    raw_send(fds[1], prefix, sizeof(prefix));
    RIG_UNTIL(&rig, n_refused(&rig.server) == 2);
    ck_assert(raw_is_closed(fds[0]));
    ck_assert(raw_is_closed(fds[1]));
    ck_assert_uint_eq(rig.server.n_up + rig.server.n_down, 0);
    (void)close(fds[0]);
    (void)close(fds[1]);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_server_that_says_nothing_times_out)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(addr);
    struct kvfi_session *session;
    char address[64];
    int fd;

    rig_init(&rig);
    rig_create(&rig);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&addr, n), 0);
    ck_assert_int_eq(listen(fd, 1), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&addr, &n), 0);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(addr.sin_port));
    ck_assert_int_eq(kvfi_control_connect(rig.client.control, address, 30000000, NULL, &session),
                     KVF_OK);
    rig.client.n_live++;
    RIG_UNTIL(&rig, rig.client.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_ETIMEDOUT);
    ck_assert_ptr_nonnull(strstr(rig.client.last_text, address));
    (void)close(fd);
    rig_fini(&rig);
}
END_TEST

START_TEST(the_oldest_pending_connection_gives_way)
{
    int fds[12];

    rig_init(&rig);
    rig_create(&rig); /* with max_pending 8 */
    for (unsigned i = 0; i < 12; i++)
        fds[i] = raw_connect();
    RIG_UNTIL(&rig, n_refused(&rig.server) == 4);
    for (unsigned i = 0; i < 12; i++)
        ck_assert_int_eq(raw_is_closed(fds[i]), i < 4);
    /* A good one comes through, in place of the oldest. */
    (void)rig_connect(&rig);
    ck_assert_uint_eq(n_refused(&rig.server), 5);
    ck_assert(raw_is_closed(fds[4]));
    ck_assert(!raw_is_closed(fds[5]));
    ck_assert_uint_eq(rig.server.n_up, 1);
    for (unsigned i = 0; i < 12; i++)
        (void)close(fds[i]);
    /* The places of those that left are free again. */
    RIG_UNTIL(&rig, n_refused(&rig.server) == 12);
    for (unsigned i = 0; i < 8; i++)
        fds[i] = raw_connect();
    (void)rig_connect(&rig);
    ck_assert_uint_eq(n_refused(&rig.server), 13);
    for (unsigned i = 0; i < 8; i++)
        (void)close(fds[i]);
    rig_fini(&rig);
}
END_TEST

START_TEST(another_version_is_named_on_both_sides)
{
    uint8_t hello[KVFI_HANDSHAKE_HELLO_BYTES] = "kvferry\x1a\7";
    uint8_t reply[KVFI_HANDSHAKE_PREFIX_BYTES];
    int fd;

    rig_init(&rig);
    rig_create(&rig);
    fd = raw_connect();
    raw_send(fd, hello, sizeof(hello));
    raw_receive(fd, reply, sizeof(reply));
    ck_assert_mem_eq(reply, "kvferry\x1a\1\0\0\0", sizeof(reply));
    RIG_UNTIL(&rig, raw_is_closed(fd));
    ck_assert_uint_eq(n_refused(&rig.server), 1);
    (void)close(fd);
    rig_fini(&rig);
}
END_TEST

/* ---- with the key, but not by the rules ---------------------------------------------------- */

struct evil {
    int fd;
    struct kvfi_frame_tx tx;
};

/* Authenticates by hand. */
static void evil_connect(struct evil *evil)
{
    uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES];
    uint8_t header[KVFI_FRAME_STREAM_HEADER_BYTES];
    uint8_t reply[KVFI_HANDSHAKE_REPLY_BYTES];
    struct kvfi_handshake_out out;
    struct kvfi_handshake h;
    unsigned n_up = rig.server.n_up;
    size_t used;

    evil->fd = raw_connect();
    randombytes_buf(random, sizeof(random));
    kvfi_handshake_init(&h, true, rig.server.config.job_key, random, &out);
    raw_send(evil->fd, out.bytes, out.n_bytes);
    raw_receive(evil->fd, reply, sizeof(reply));
    ck_assert_int_eq(kvfi_handshake_input(&h, reply, sizeof(reply), &used, &out), KVF_OK);
    raw_send(evil->fd, out.bytes, out.n_bytes);
    kvfi_frame_tx_init(&evil->tx, h.tx_key, header);
    raw_send(evil->fd, header, 1);
    rig_turn(&rig);
    ck_assert_uint_eq(rig.server.n_up, n_up);
    raw_send(evil->fd, header + 1, sizeof(header) - 1);
    raw_receive(evil->fd, header, sizeof(header));
    RIG_UNTIL(&rig, rig.server.n_up == n_up + 1);
}

static void evil_send(struct evil *evil, const void *plain, size_t n_bytes, uint8_t tag)
{
    uint32_t length = (uint32_t)(n_bytes + KVFI_FRAME_SEAL_BYTES);
    uint8_t *frame = malloc(4 + length);

    for (unsigned i = 0; i < 4; i++)
        frame[i] = (uint8_t)(length >> (8 * i));
    ck_assert_int_eq(crypto_secretstream_xchacha20poly1305_push(&evil->tx.stream, frame + 4, NULL,
                                                                plain, n_bytes, NULL, 0, tag),
                     0);
    raw_send(evil->fd, frame, 4 + length);
    free(frame);
}

START_TEST(nonsense_in_good_frames_ends_the_session)
{
    static const struct {
        const char *plain;
        size_t n_bytes;
        uint8_t tag;
        const char *text;
    } cases[] = {
        {"\1\xff", 2, 0, "does not parse"},
        {"\0", 1, 0, "does not parse"},
        {"\3\xfa\x06\0", 4, 0, "does not parse"}, /* a field of the future, and no kind */
        {"\5\x2a\0", 3, 0, "longer than its frame"},
        {"\x80\x80\x80\x80\x80\1", 6, 0, "longer than its frame"},
        {"", 0, 0, "no message"},
        {"\2\x2a\0", 3, crypto_secretstream_xchacha20poly1305_TAG_PUSH, "unknown tag"},
        {"\2\x2a\0", 3, crypto_secretstream_xchacha20poly1305_TAG_REKEY, "unknown tag"},
    };

    rig_init(&rig);
    rig_create(&rig);
    for (unsigned i = 0; i < KVFI_ARRAY_LEN(cases); i++) {
        struct evil evil;

        evil_connect(&evil);
        evil_send(&evil, "\2\x2a\0", 3, 0); /* an empty Ping */
        RIG_UNTIL(&rig, rig.server.n_messages == i + 1);
        evil_send(&evil, cases[i].plain, cases[i].n_bytes, cases[i].tag);
        RIG_UNTIL(&rig, rig.server.n_down == i + 1);
        ck_assert_int_eq(rig.server.last_status, KVF_EPROTO);
        ck_assert_msg(strstr(rig.server.last_text, cases[i].text) != NULL, "%u: %s", i,
                      rig.server.last_text);
        ck_assert_uint_eq(rig.server.n_messages, i + 1);
        (void)close(evil.fd);
    }
    ck_assert_uint_eq(n_refused(&rig.server), 0);
    rig_fini(&rig);
}
END_TEST

static size_t put_varint(uint8_t *at, size_t value)
{
    size_t n = 0;

    for (; value >= 0x80; value >>= 7)
        at[n++] = (uint8_t)(value | 0x80);
    at[n++] = (uint8_t)value;
    return n;
}

/* An Offer of a million empty runs: 2 MB that would cost many times as much. */
START_TEST(a_swollen_message_is_refused)
{
    const size_t runs_bytes = 2000000;
    uint8_t *plain = malloc(runs_bytes + 16);
    struct evil evil;
    size_t at;

    rig_init(&rig);
    rig_create(&rig);
    evil_connect(&evil);
    at = put_varint(plain, runs_bytes + 4);
    plain[at++] = 15 << 3 | 2;
    at += put_varint(plain + at, runs_bytes);
    for (size_t i = 0; i < runs_bytes; i += 2) {
        plain[at++] = 2 << 3 | 2;
        plain[at++] = 0;
    }
    evil_send(&evil, plain, at, 0);
    RIG_UNTIL(&rig, rig.server.n_down == 1);
    ck_assert_int_eq(rig.server.last_status, KVF_EPROTO);
    ck_assert_ptr_nonnull(strstr(rig.server.last_text, "does not parse"));
    free(plain);
    (void)close(evil.fd);
    assert_healthy();
    rig_fini(&rig);
}
END_TEST

START_TEST(a_length_alone_costs_nothing)
{
    const uint32_t max = KVFI_CONTROL_FRAME_MAX - KVFI_FRAME_LENGTH_BYTES;
    const uint32_t lengths[] = {max + 1, UINT32_MAX, KVFI_FRAME_SEAL_BYTES - 1, 0, max};
    struct evil evil;

    rig_init(&rig);
    rig_create(&rig);
    for (unsigned i = 0; i < KVFI_ARRAY_LEN(lengths); i++) {
        uint8_t bytes[4];

        evil_connect(&evil);
        for (unsigned b = 0; b < 4; b++)
            bytes[b] = (uint8_t)(lengths[i] >> (8 * b));
        kvfi_alloc_fail_at(1); /* whoever allocates now, ends otherwise than expected */
        raw_send(evil.fd, bytes, sizeof(bytes));
        if (i < 4) {
            RIG_UNTIL(&rig, rig.server.n_down == i + 1);
            ck_assert_int_eq(rig.server.last_status, KVF_EPROTO);
            ck_assert_ptr_nonnull(strstr(rig.server.last_text, "out of range"));
            kvfi_alloc_fail_at(0);
            (void)close(evil.fd);
        }
    }
    /* The largest one is waited for; its sender leaves in the middle of it. */
    raw_send(evil.fd, "only a few bytes of it", 20);
    ck_assert_int_eq(shutdown(evil.fd, SHUT_WR), 0);
    RIG_UNTIL(&rig, rig.server.n_down == 5);
    kvfi_alloc_fail_at(0);
    ck_assert_int_eq(rig.server.last_status, KVF_EPROTO);
    ck_assert_ptr_nonnull(strstr(rig.server.last_text, "inside a frame"));
    (void)close(evil.fd);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_cut_connection_is_no_orderly_end)
{
    struct evil evil;

    rig_init(&rig);
    rig_create(&rig);
    evil_connect(&evil);
    evil_send(&evil, "\2\x2a\0", 3, 0);
    (void)close(evil.fd);
    RIG_UNTIL(&rig, rig.server.n_down == 1);
    ck_assert_uint_eq(rig.server.n_messages, 1);
    ck_assert_int_eq(rig.server.last_status, KVF_ENET);
    ck_assert_ptr_null(strstr(rig.server.last_text, "closed the session"));
    evil_connect(&evil);
    evil_send(&evil, "\2\x2a\0", 3, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
    evil_send(&evil, "\2\x2a\0", 3, 0); /* too late */
    RIG_UNTIL(&rig, rig.server.n_down == 2);
    ck_assert_uint_eq(rig.server.n_messages, 2);
    ck_assert_int_eq(rig.server.last_status, KVF_ENET);
    ck_assert_ptr_nonnull(strstr(rig.server.last_text, "closed the session"));
    (void)close(evil.fd);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_peer_that_never_reads_does_not_hold_a_close)
{
    struct evil evil;

    rig_init(&rig);
    rig.server.config.auth_timeout_ns = 200000000;
    rig_create(&rig);
    evil_connect(&evil);
    for (unsigned i = 0; i < 20; i++)
        ck_assert_int_eq(send_text(rig.server.sessions[0], 1 << 20, 'L'), KVF_OK);
    kvfi_session_close(rig.server.sessions[0]);
    RIG_UNTIL(&rig, rig.server.n_down == 1);
    ck_assert_int_eq(rig.server.last_status, KVF_OK);
    ck_assert_ptr_nonnull(strstr(rig.server.last_text, "did not answer in time"));
    (void)close(evil.fd);
    rig_fini(&rig);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, garbage_is_sent_away);
    tcase_add_test(tc, strangers_cannot_fill_the_log);
    tcase_add_test(tc, a_wrong_key_is_told_to_the_client);
    tcase_add_test(tc, the_slow_are_timed_out);
    tcase_add_test(tc, a_server_that_says_nothing_times_out);
    tcase_add_test(tc, the_oldest_pending_connection_gives_way);
    tcase_add_test(tc, another_version_is_named_on_both_sides);
    tcase_add_test(tc, nonsense_in_good_frames_ends_the_session);
    tcase_add_test(tc, a_swollen_message_is_refused);
    tcase_add_test(tc, a_length_alone_costs_nothing);
    tcase_add_test(tc, a_cut_connection_is_no_orderly_end);
    tcase_add_test(tc, a_peer_that_never_reads_does_not_hold_a_close);
}

int main(void)
{
    return harness_main("control_hostile", fill, 60);
}
