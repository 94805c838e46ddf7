/* SPDX-License-Identifier: Apache-2.0 */
/* Two control objects in one loop, which record what happens to them; for tests of the control plane. */
#ifndef KVFERRY_TESTS_CONTROL_RIG_H
#define KVFERRY_TESTS_CONTROL_RIG_H

#include <dirent.h>
#include <signal.h>
#include <sodium.h>
#include <stdbool.h>
#include <string.h>

#include "collectives/control.h"
#include "collectives/util.h"
#include "harness.h"

enum { SESSIONS_MAX = 64, GUARD_MS = 30000 };

struct node;
typedef void (*node_message_fn)(struct node *node, struct kvfi_session *session,
                                const Kvfi__Wire__Message *message);

/* One control object and what its callbacks saw. */
struct node {
    struct kvfi_control_config config;
    struct kvfi_control *control;
    struct kvfi_session *sessions[SESSIONS_MAX]; /* up now, in order of on_up */
    unsigned n_up;                               /* calls of on_up */
    unsigned n_down;
    unsigned n_live; /* on_up or connect, and not on_down */
    uint64_t n_messages;
    unsigned n_warnings;
    unsigned n_closed;
    kvf_status_t last_status;
    char last_text[512];
    char last_warning[512];
    void *last_user;
    node_message_fn on_message;
    void (*on_up)(struct node *node, struct kvfi_session *session);
    void (*on_warning)(struct node *node);
};

struct rig {
    uv_loop_t loop;
    uv_timer_t guard;
    int n_fds_before;
    struct node server;
    struct node client;
};

static inline int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    ck_assert_ptr_nonnull(dir);
    while (readdir(dir))
        n++;
    (void)closedir(dir);
    return n;
}

static void node_log(void *ctx, enum kvf_log_level level, const char *topic, const char *message)
{
    struct node *node = ctx;

    (void)topic;
    if (level > KVF_LOG_WARN)
        return;
    node->n_warnings++;
    (void)snprintf(node->last_warning, sizeof(node->last_warning), "%s", message);
    if (node->on_warning)
        node->on_warning(node);
}

static void node_up(void *ctx, struct kvfi_session *session)
{
    struct node *node = ctx;

    unsigned i = 0;

    while (i < SESSIONS_MAX && node->sessions[i])
        ck_assert_ptr_ne(node->sessions[i++], session);
    ck_assert_uint_lt(i, SESSIONS_MAX);
    node->sessions[i] = session;
    node->n_up++;
    if (!kvfi_session_is_outgoing(session))
        node->n_live++;
    if (node->on_up)
        node->on_up(node, session);
}

static void node_message(void *ctx, struct kvfi_session *session,
                         const Kvfi__Wire__Message *message)
{
    struct node *node = ctx;

    node->n_messages++;
    if (node->on_message)
        node->on_message(node, session, message);
}

static void node_down(void *ctx, struct kvfi_session *session, kvf_status_t status,
                      const char *text)
{
    struct node *node = ctx;

    for (unsigned i = 0; i < SESSIONS_MAX; i++) {
        if (node->sessions[i] == session)
            node->sessions[i] = NULL;
    }
    ck_assert_uint_gt(node->n_live, 0);
    node->n_live--;
    node->n_down++;
    node->last_status = status;
    node->last_user = kvfi_session_user(session);
    (void)snprintf(node->last_text, sizeof(node->last_text), "%s", text);
}

static inline void node_closed(void *ctx)
{
    struct node *node = ctx;

    node->n_closed++;
    node->control = NULL;
}

static void node_defaults(struct node *node, uint8_t key_byte)
{
    memset(node, 0, sizeof(*node));
    node->config = (struct kvfi_control_config){
        .address = "127.0.0.1",
        .max_sessions = 64,
        .max_pending = 8,
        .auth_timeout_ns = 20000000000u,
        .max_queued_bytes = 64u << 20,
        .on_up = node_up,
        .on_message = node_message,
        .on_down = node_down,
        .ctx = node,
        .log = {.fn = node_log, .ctx = node, .level = KVF_LOG_DEBUG},
    };
    memset(node->config.job_key, key_byte, sizeof(node->config.job_key));
}

static inline void node_create(struct rig *rig, struct node *node)
{
    char text[256] = "";

    ck_assert_msg(
        !kvfi_control_create(&rig->loop, &node->config, text, sizeof(text), &node->control), "%s",
        text);
}

/* Nobody waits for ever: an event that does not come fails the test. */
static void guard_rang(uv_timer_t *timer)
{
    (void)timer;
    ck_abort_msg("the awaited event did not happen");
}

static inline void rig_turn(struct rig *rig)
{
    (void)uv_timer_start(&rig->guard, guard_rang, GUARD_MS, 0);
    (void)uv_run(&rig->loop, UV_RUN_ONCE);
    (void)uv_timer_stop(&rig->guard);
}

#define RIG_UNTIL(rig, condition)                                                                  \
    do {                                                                                           \
        while (!(condition))                                                                       \
            rig_turn(rig);                                                                         \
    } while (0)

/* Loop and defaults; the caller may change configurations before it creates the nodes. */
static void rig_init(struct rig *rig)
{
    (void)signal(SIGPIPE, SIG_IGN);
    /* libuv opens a pipe for the process with its first loop, and keeps it. */
    ck_assert_int_eq(uv_loop_init(&rig->loop), 0);
    ck_assert_int_eq(uv_loop_close(&rig->loop), 0);
    rig->n_fds_before = count_fds();
    ck_assert_int_eq(uv_loop_init(&rig->loop), 0);
    ck_assert_int_eq(uv_timer_init(&rig->loop, &rig->guard), 0);
    node_defaults(&rig->server, 1);
    node_defaults(&rig->client, 1);
}

static inline void rig_create(struct rig *rig)
{
    node_create(rig, &rig->server);
    node_create(rig, &rig->client);
}

static inline void node_address(const struct node *node, char *text, size_t text_cap)
{
    bool is_v6 = strchr(node->config.address, ':') != NULL;

    (void)snprintf(text, text_cap, is_v6 ? "[%s]:%u" : "%s:%u", node->config.address,
                   kvfi_control_port(node->control));
}

static inline struct kvfi_session *rig_connect_to(struct rig *rig, const char *address)
{
    struct kvfi_session *session = NULL;

    ck_assert_int_eq(kvfi_control_connect(rig->client.control, address, KVF_FOREVER, rig, &session),
                     KVF_OK);
    ck_assert_ptr_nonnull(session);
    rig->client.n_live++;
    return session;
}

/* The client's session to the server; both sides are up when it returns. */
static inline struct kvfi_session *rig_connect(struct rig *rig)
{
    unsigned n_client = rig->client.n_up;
    unsigned n_server = rig->server.n_up;
    struct kvfi_session *session;
    char address[80];

    node_address(&rig->server, address, sizeof(address));
    session = rig_connect_to(rig, address);
    RIG_UNTIL(rig, rig->client.n_up > n_client && rig->server.n_up > n_server);
    return session;
}

static inline void node_destroy(struct rig *rig, struct node *node)
{
    if (!node->control)
        return;
    kvfi_control_destroy(node->control, node_closed, node);
    RIG_UNTIL(rig, !node->control);
    ck_assert_uint_eq(node->n_closed, 1);
    ck_assert_uint_eq(node->n_live, 0);
}

/* Nothing may be left: no handle, no descriptor, no session that was not told of its end. */
static inline void rig_fini(struct rig *rig)
{
    node_destroy(rig, &rig->client);
    node_destroy(rig, &rig->server);
    uv_close((uv_handle_t *)&rig->guard, NULL);
    (void)uv_run(&rig->loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&rig->loop), 0);
    if (rig->n_fds_before >= 0) /* else: others have theirs open */
        ck_assert_int_eq(count_fds(), rig->n_fds_before);
}

static inline void assert_no_warnings(const struct rig *rig)
{
    ck_assert_msg(rig->server.n_warnings == 0, "%s", rig->server.last_warning);
    ck_assert_msg(rig->client.n_warnings == 0, "%s", rig->client.last_warning);
}

static inline kvf_status_t send_ping(struct kvfi_session *session, uint64_t nonce)
{
    Kvfi__Wire__Message message = KVFI__WIRE__MESSAGE__INIT;
    Kvfi__Wire__Ping ping = KVFI__WIRE__PING__INIT;

    ping.nonce = nonce;
    message.kind_case = KVFI__WIRE__MESSAGE__KIND_PING;
    message.ping = &ping;
    return kvfi_session_send(session, &message);
}

/* A Bye whose text has n_bytes. */
static inline kvf_status_t send_text(struct kvfi_session *session, size_t n_bytes, char fill_byte)
{
    Kvfi__Wire__Message message = KVFI__WIRE__MESSAGE__INIT;
    Kvfi__Wire__Bye bye;
    kvf_status_t status;

    kvfi__wire__bye__init(&bye);
    bye.text = calloc(1, n_bytes + 1);
    ck_assert_ptr_nonnull(bye.text);
    memset(bye.text, fill_byte, n_bytes);
    message.kind_case = KVFI__WIRE__MESSAGE__KIND_BYE;
    message.bye = &bye;
    status = kvfi_session_send(session, &message);
    free(bye.text);
    return status;
}

#endif
