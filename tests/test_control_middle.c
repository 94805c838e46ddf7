/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody on the wire between two engines who knows the protocol but not the job key. */
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "collectives/frame.h"
#include "collectives/handshake.h"
#include "control_rig.h"

/* Bytes of one direction before the first frame; the same in both. */
enum {
    GREETING_BYTES =
        KVFI_HANDSHAKE_HELLO_BYTES + KVFI_HANDSHAKE_MAC_BYTES + KVFI_FRAME_STREAM_HEADER_BYTES,
    MAN_BYTES = 65536,
};

struct man;

/* What came from one end, on its way to the other. */
struct leg {
    struct man *man;
    struct leg *other;
    int fd;
    uv_poll_t poll;
    uint8_t bytes[MAN_BYTES];
    size_t n_bytes;
    size_t sent_bytes;
};

struct man {
    int listen_fd;
    struct leg client;
    struct leg server;
    unsigned n_hold; /* frames from the client that are collected before `tamper` has them */
    void (*tamper)(struct man *man);
    size_t flip_at; /* greeting: byte to change, from the client; SIZE_MAX = none */
};

static struct rig rig;
static struct man man;

static void pass_on(struct leg *leg, const uint8_t *bytes, size_t n_bytes)
{
    if (leg->other->fd >= 0)
        ck_assert_int_eq(send(leg->other->fd, bytes, n_bytes, MSG_NOSIGNAL), (ssize_t)n_bytes);
}

static void leg_close(struct leg *leg)
{
    if (leg->fd < 0)
        return;
    uv_close((uv_handle_t *)&leg->poll, NULL);
    (void)close(leg->fd);
    leg->fd = -1;
}

/* The k-th whole frame of the client; its bytes in ret_bytes, 0 if it is not there yet. */
static uint8_t *frame_at(unsigned k, size_t *ret_bytes)
{
    size_t at = GREETING_BYTES;

    for (;; k--) {
        const uint8_t *length = man.client.bytes + at;
        size_t n_bytes;

        *ret_bytes = 0;
        if (at + 4 > man.client.n_bytes)
            return NULL;
        n_bytes = 4 + ((size_t)length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16);
        if (at + n_bytes > man.client.n_bytes)
            return NULL;
        *ret_bytes = n_bytes;
        if (k == 0)
            return man.client.bytes + at;
        at += n_bytes;
    }
}

static void send_frame(unsigned k)
{
    size_t n_bytes;
    const uint8_t *frame = frame_at(k, &n_bytes);

    pass_on(&man.client, frame, n_bytes);
}

static void forward(struct leg *leg)
{
    size_t n_bytes = leg->n_bytes;

    if (leg == &man.client && man.flip_at < n_bytes) {
        leg->bytes[man.flip_at] ^= 1;
        man.flip_at = SIZE_MAX;
    }
    if (leg == &man.client && man.n_hold && n_bytes > GREETING_BYTES) {
        size_t frame_bytes;

        if (frame_at(man.n_hold - 1, &frame_bytes) && man.tamper) {
            void (*tamper)(struct man *) = man.tamper;

            man.tamper = NULL;
            tamper(&man);
        }
        n_bytes = GREETING_BYTES;
    }
    if (n_bytes > leg->sent_bytes)
        pass_on(leg, leg->bytes + leg->sent_bytes, n_bytes - leg->sent_bytes);
    leg->sent_bytes = n_bytes;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct leg *leg = poll->data;
    ssize_t n;

    (void)status;
    (void)events;
    ck_assert_uint_lt(leg->n_bytes, MAN_BYTES);
    n = recv(leg->fd, leg->bytes + leg->n_bytes, MAN_BYTES - leg->n_bytes, MSG_DONTWAIT);
    if (n > 0) {
        leg->n_bytes += (size_t)n;
        forward(leg);
    } else if (n == 0 || errno != EAGAIN) {
        leg_close(leg->other);
        leg_close(leg);
    }
}

static void leg_open(struct leg *leg, struct leg *other, int fd)
{
    leg->man = &man;
    leg->other = other;
    leg->fd = fd;
    ck_assert_int_eq(uv_poll_init(&rig.loop, &leg->poll, fd), 0);
    leg->poll.data = leg;
    ck_assert_int_eq(uv_poll_start(&leg->poll, UV_READABLE, on_readable), 0);
}

/* A client of the man, who is a client of the server. */
static struct kvfi_session *connect_through_man(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(addr);
    struct kvfi_session *session;
    char address[64];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    man.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(man.listen_fd, (const struct sockaddr *)&addr, n), 0);
    ck_assert_int_eq(listen(man.listen_fd, 1), 0);
    ck_assert_int_eq(getsockname(man.listen_fd, (struct sockaddr *)&addr, &n), 0);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(addr.sin_port));
    session = rig_connect_to(&rig, address);
    addr.sin_port = htons((uint16_t)kvfi_control_port(rig.server.control));
    ck_assert_int_eq(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    leg_open(&man.server, &man.client, fd);
    leg_open(&man.client, &man.server, accept4(man.listen_fd, NULL, NULL, SOCK_CLOEXEC));
    return session;
}

static void man_start(void (*tamper)(struct man *), unsigned n_hold)
{
    memset(&man, 0, sizeof(man));
    man.tamper = tamper;
    man.n_hold = n_hold;
    man.flip_at = SIZE_MAX;
    rig_init(&rig);
    rig_create(&rig);
}

static void man_stop(void)
{
    leg_close(&man.client);
    leg_close(&man.server);
    (void)close(man.listen_fd);
    rig_fini(&rig);
}

/* ---- what the man does -------------------------------------------------------------------- */

static void leave_alone(struct man *m)
{
    for (unsigned k = 0; k < m->n_hold; k++)
        send_frame(k);
}

static void flip_bit(struct man *m)
{
    size_t n_bytes;
    uint8_t *frame = frame_at(1, &n_bytes);

    frame[4 + rnd((uint32_t)n_bytes - 4)] ^= (uint8_t)(1u << rnd(8));
    leave_alone(m);
}

static void replay(struct man *m)
{
    (void)m;
    send_frame(0);
    send_frame(0);
    send_frame(1);
}

static void swap(struct man *m)
{
    (void)m;
    send_frame(0);
    send_frame(2);
    send_frame(1);
}

static void drop(struct man *m)
{
    (void)m;
    send_frame(0);
    send_frame(2);
}

static void shorten(struct man *m)
{
    size_t n_bytes;
    uint8_t *frame;

    send_frame(0);
    frame = frame_at(1, &n_bytes);
    frame[0]--;
    pass_on(&m->client, frame, n_bytes - 1);
}

static void inflate(struct man *m)
{
    size_t n_bytes;
    uint8_t *frame;

    send_frame(0);
    frame = frame_at(1, &n_bytes);
    frame[3] = 0x7f;
    pass_on(&m->client, frame, n_bytes);
}

/* The server's own frame, which it sent when it was up. */
static void reflect(struct man *m)
{
    send_frame(0);
    pass_on(&m->client, m->server.bytes + GREETING_BYTES, m->server.n_bytes - GREETING_BYTES);
}

static void cut(struct man *m)
{
    size_t n_bytes;
    const uint8_t *frame;

    send_frame(0);
    frame = frame_at(1, &n_bytes);
    pass_on(&m->client, frame, n_bytes / 2);
    leg_close(&m->server);
    leg_close(&m->client);
}

/* ---- tests -------------------------------------------------------------------------------- */

static void send_one(struct node *node, struct kvfi_session *session)
{
    (void)node;
    ck_assert_int_eq(send_ping(session, 4711), KVF_OK);
}

/* Three frames through the man, of which the server takes the first. */
static void expect_end(void (*tamper)(struct man *), const char *text)
{
    struct kvfi_session *session;

    man_start(tamper, 3);
    rig.server.on_up = send_one;
    session = connect_through_man();
    RIG_UNTIL(&rig, rig.client.n_messages == 1);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_int_eq(send_ping(session, i), KVF_OK);
        kvfi_control_flush(rig.client.control);
    }
    RIG_UNTIL(&rig, rig.server.n_down == 1 && rig.client.n_down == 1);
    ck_assert_uint_eq(rig.server.n_messages, 1);
    ck_assert_int_eq(rig.server.last_status, KVF_EPROTO);
    ck_assert_msg(strstr(rig.server.last_text, text) != NULL, "%s", rig.server.last_text);
    ck_assert_int_eq(rig.client.last_status, KVF_ENET);
    man_stop();
}

START_TEST(a_man_who_does_nothing_changes_nothing)
{
    struct kvfi_session *session;

    man_start(leave_alone, 3);
    session = connect_through_man();
    RIG_UNTIL(&rig, rig.client.n_up == 1);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_int_eq(send_ping(session, i), KVF_OK);
        kvfi_control_flush(rig.client.control);
    }
    RIG_UNTIL(&rig, rig.server.n_messages == 3);
    ck_assert_uint_eq(rig.server.n_down + rig.client.n_down, 0);
    man_stop();
}
END_TEST

START_TEST(tampering_ends_the_session)
{
    const char *damaged = "forged, damaged or out of order";

    for (unsigned i = 0; i < 10; i++)
        expect_end(flip_bit, damaged);
    expect_end(replay, damaged);
    expect_end(swap, damaged);
    expect_end(drop, damaged);
    expect_end(shorten, damaged);
    expect_end(reflect, damaged);
    expect_end(inflate, "out of range");
    expect_end(cut, "inside a frame");
}
END_TEST

/* In the greeting too: any byte of the client's. No session comes up, or none that talks. */
START_TEST(tampering_with_the_greeting_is_noticed)
{
    for (size_t at = 0; at < GREETING_BYTES; at++) {
        bool is_header = at >= GREETING_BYTES - KVFI_FRAME_STREAM_HEADER_BYTES;
        struct kvfi_session *session;

        man_start(NULL, 0);
        man.flip_at = at;
        session = connect_through_man();
        if (is_header) { /* which only the first frame proves */
            RIG_UNTIL(&rig, rig.client.n_up == 1);
            ck_assert_int_eq(send_ping(session, 1), KVF_OK);
        }
        RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_live == 0);
        ck_assert_uint_eq(rig.server.n_messages, 0);
        ck_assert_uint_eq(rig.server.n_up, is_header);
        ck_assert_uint_eq(rig.client.n_up, is_header);
        if (is_header)
            ck_assert_int_eq(rig.server.last_status, KVF_EPROTO);
        man_stop();
    }
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, a_man_who_does_nothing_changes_nothing);
    tcase_add_test(tc, tampering_ends_the_session);
    tcase_add_test(tc, tampering_with_the_greeting_is_noticed);
}

int main(void)
{
    return harness_main("control_middle", fill, 60);
}
