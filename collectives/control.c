/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/control.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "collectives/session.h"
#include "collectives/util.h"

enum {
    BACKLOG = 512,
    ARENA_FIRST_BYTES = 65536,
    /* A message's structs are larger than its bytes; a hostile one would make it worse. */
    ARENA_MAX_BYTES = 4 * KVFI_CONTROL_FRAME_MAX,
};

static const char topic[] = "control";

/* Where create says why it failed. */
struct text_out {
    char *text;
    size_t cap_bytes;
};

static kvf_status_t fail(struct text_out out, kvf_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static kvf_status_t fail(struct text_out out, kvf_status_t status, const char *format, ...)
{
    va_list args;

    if (out.cap_bytes == 0)
        return status;
    va_start(args, format);
    (void)vsnprintf(out.text, out.cap_bytes, format, args);
    va_end(args);
    return status;
}

/* ---- incoming ----------------------------------------------------------------------------- */

static void release(struct kvfi_control *control)
{
    void (*on_closed)(void *ctx) = control->on_closed;
    void *ctx = control->closed_ctx;

    if (--control->n_handles)
        return;
    kvfi_arena_fini(&control->arena);
    sodium_memzero(control, sizeof(*control));
    kvfi_free(control);
    if (on_closed)
        on_closed(ctx);
}

static void on_connection(uv_stream_t *listener, int rc);

static void on_refuser_closed(uv_handle_t *handle)
{
    struct kvfi_control *control = handle->data;

    control->is_refusing = false;
    if (control->has_waiting && !control->is_closing) {
        control->has_waiting = false;
        on_connection((uv_stream_t *)&control->listener, 0);
    }
    release(control);
}

/*
 * No memory for a session. The connection has to be taken all the same, or libuv would never look
 * at the listening socket again.
 */
static void refuse(struct kvfi_control *control)
{
    if (control->is_refusing) {
        control->has_waiting = true;
        return;
    }
    control->stats.refused++;
    kvfi_log(&control->config.log, KVF_LOG_ERROR, topic, "no memory for an incoming connection");
    (void)uv_tcp_init(control->loop, &control->refuser);
    control->refuser.data = control;
    (void)uv_accept((uv_stream_t *)&control->listener, (uv_stream_t *)&control->refuser);
    control->is_refusing = true;
    control->n_handles++;
    uv_close((uv_handle_t *)&control->refuser, on_refuser_closed);
}

static void on_connection(uv_stream_t *listener, int rc)
{
    struct kvfi_control *control = listener->data;
    struct sockaddr_storage addr = {0};
    int addr_bytes = sizeof(addr);
    struct kvfi_session *s;

    if (rc) {
        kvfi_log(&control->config.log, KVF_LOG_ERROR, topic, "accept: %s", uv_strerror(rc));
        return;
    }
    s = kvfi_session_create(control, false);
    if (!s) {
        refuse(control);
        return;
    }
    rc = uv_accept(listener, (uv_stream_t *)&s->tcp);
    (void)uv_tcp_getpeername(&s->tcp, (struct sockaddr *)&addr, &addr_bytes);
    kvfi_address_format(&addr, s->peer_text);
    if (rc) {
        kvfi_session_end(s, KVF_ENET, "accept: %s", uv_strerror(rc));
        return;
    }
    if (control->n_pending == control->config.max_pending)
        kvfi_session_end(TAILQ_FIRST(&control->pending), KVF_ENOSPC,
                         "it gave way to a newer connection");
    TAILQ_INSERT_TAIL(&control->pending, s, pending);
    s->is_pending = true;
    control->n_pending++;
    kvfi_session_set_timeout(s, control->config.auth_timeout_ns);
    kvfi_session_start(s);
}

bool kvfi_control_admit(struct kvfi_session *s)
{
    struct kvfi_control *control = s->control;

    if (s->is_counted)
        return true; /* an outgoing one, since connect */
    if (control->n_sessions >= control->config.max_sessions)
        return false;
    TAILQ_REMOVE(&control->pending, s, pending);
    s->is_pending = false;
    control->n_pending--;
    s->is_counted = true;
    control->n_sessions++;
    return true;
}

void kvfi_control_forget(struct kvfi_session *s)
{
    TAILQ_REMOVE(&s->control->all, s, all);
    release(s->control);
}

/* ---- outgoing ----------------------------------------------------------------------------- */

static void on_connected(uv_connect_t *req, int rc)
{
    struct kvfi_session *s = req->handle->data;

    if (s->state != KVFI_SESSION_CONNECTING)
        return;
    if (rc)
        kvfi_session_end(s, KVF_ENET, "connect to %s: %s", s->peer_text, uv_strerror(rc));
    else
        kvfi_session_start(s);
}

kvf_status_t kvfi_control_connect(struct kvfi_control *control, const char *address,
                                  uint64_t timeout_ns, void *user,
                                  struct kvfi_session **ret_session)
{
    struct sockaddr_storage addr;
    struct kvfi_session *s;
    kvf_status_t status = kvfi_address_parse(address, &addr);
    int rc;

    if (status)
        return status;
    if (control->is_closing)
        return KVF_ESTATE;
    if (control->n_sessions >= control->config.max_sessions)
        return KVF_ENOSPC;
    s = kvfi_session_create(control, true);
    if (!s)
        return KVF_ENOMEM;
    s->user = user;
    s->is_known = true;
    s->is_counted = true;
    control->n_sessions++;
    kvfi_address_format(&addr, s->peer_text);
    kvfi_session_set_timeout(s, timeout_ns);
    rc = uv_tcp_connect(&s->connect_req, &s->tcp, (const struct sockaddr *)&addr, on_connected);
    if (rc)
        kvfi_session_end(s, KVF_ENET, "connect to %s: %s", s->peer_text, uv_strerror(rc));
    *ret_session = s;
    return KVF_OK;
}

/* ---- flushing ----------------------------------------------------------------------------- */

void kvfi_control_flush(struct kvfi_control *control)
{
    struct kvfi_session *s;

    /* Flushing takes the session off the list, whatever comes of it. */
    while ((s = TAILQ_FIRST(&control->dirty)) != NULL)
        kvfi_session_flush(s);
}

static void on_prepare(uv_prepare_t *prepare)
{
    kvfi_control_flush(prepare->data);
}

static void on_check(uv_check_t *check)
{
    kvfi_control_flush(check->data);
}

/* ---- create and destroy ------------------------------------------------------------------- */

static kvf_status_t check_config(const struct kvfi_control_config *config, struct text_out out)
{
    if (!config->on_up || !config->on_message || !config->on_down)
        return fail(out, KVF_EINVAL, "control: a callback is NULL");
    if (config->max_sessions == 0 || config->max_pending == 0)
        return fail(out, KVF_EINVAL, "control: max_sessions %u, max_pending %u; both must be >= 1",
                    config->max_sessions, config->max_pending);
    if (config->auth_timeout_ns == 0 || config->max_queued_bytes == 0)
        return fail(out, KVF_EINVAL, "control: auth_timeout_ns or max_queued_bytes is 0");
    return KVF_OK;
}

static int bind_socket(int fd, const struct sockaddr_storage *addr)
{
    const struct sockaddr *any = (const struct sockaddr *)addr;
    int one = 1;

    /* Only what was asked for: "::" does not mean IPv4 too. */
    if (addr->ss_family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        return -errno;
    if (bind(fd, any, kvfi_address_bytes(addr)) < 0 || listen(fd, BACKLOG) < 0)
        return -errno;
    return 0;
}

/*
 * Done before libuv sees the socket, because a libuv handle can only be closed by turning its loop,
 * and a failing create should leave nothing behind.
 */
static kvf_status_t open_socket(const struct kvfi_control_config *config, struct text_out out,
                                uint32_t *ret_port, int *ret_fd)
{
    struct sockaddr_storage addr;
    socklen_t addr_bytes = sizeof(addr);
    int fd;
    int rc;

    if (!config->address || kvfi_address_make(config->address, config->port, &addr))
        return fail(out, KVF_EINVAL, "cannot listen on %s port %u: not a numeric address and port",
                    config->address ? config->address : "(null)", config->port);
    fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    rc = fd < 0 ? -errno : bind_socket(fd, &addr);
    if (!rc && getsockname(fd, (struct sockaddr *)&addr, &addr_bytes) < 0)
        rc = -errno;
    if (rc) {
        if (fd >= 0)
            (void)close(fd);
        return fail(out, KVF_ENET, "cannot listen on %s port %u: %s", config->address, config->port,
                    uv_strerror(rc));
    }
    *ret_port = kvfi_address_port(&addr);
    *ret_fd = fd;
    return KVF_OK;
}

static void start_handles(struct kvfi_control *control)
{
    uv_loop_t *loop = control->loop;

    (void)uv_tcp_init(loop, &control->listener);
    (void)uv_prepare_init(loop, &control->prepare);
    (void)uv_check_init(loop, &control->check);
    control->listener.data = control;
    control->prepare.data = control;
    control->check.data = control;
    control->n_handles = 3;
    (void)uv_prepare_start(&control->prepare, on_prepare);
    (void)uv_check_start(&control->check, on_check);
    /* They serve others and are no reason for the loop to go on. */
    uv_unref((uv_handle_t *)&control->prepare);
    uv_unref((uv_handle_t *)&control->check);
}

kvf_status_t kvfi_control_create(uv_loop_t *loop, const struct kvfi_control_config *config,
                                 char *text, size_t text_cap, struct kvfi_control **ret_control)
{
    struct text_out out = {text, text_cap};
    struct kvfi_control *control = NULL;
    kvf_status_t status = check_config(config, out);
    int fd = -1;
    int rc;

    if (status)
        return status;
    if (sodium_init() < 0)
        return fail(out, KVF_EINTERNAL, "control: libsodium cannot be initialised");
    control = kvfi_calloc(1, sizeof(*control));
    if (!control)
        return fail(out, KVF_ENOMEM, "control: out of memory");
    status = kvfi_arena_init(&control->arena, ARENA_FIRST_BYTES, ARENA_MAX_BYTES);
    if (status) {
        (void)fail(out, status, "control: out of memory");
        goto fail_memory;
    }
    status = open_socket(config, out, &control->port, &fd);
    if (status)
        goto fail_memory;
    control->config = *config;
    control->config.address = NULL;
    control->loop = loop;
    TAILQ_INIT(&control->all);
    TAILQ_INIT(&control->pending);
    TAILQ_INIT(&control->dirty);
    start_handles(control);
    rc = uv_tcp_open(&control->listener, fd);
    if (!rc)
        rc = uv_listen((uv_stream_t *)&control->listener, BACKLOG, on_connection);
    if (rc) { /* never seen: the socket listens already; costs a turn of the loop */
        kvfi_control_destroy(control, NULL, NULL);
        return fail(out, KVF_ENET, "cannot listen on %s port %u: %s", config->address, config->port,
                    uv_strerror(rc));
    }
    *ret_control = control;
    return KVF_OK;

fail_memory:
    kvfi_arena_fini(&control->arena);
    kvfi_free(control);
    return status;
}

static void on_handle_closed(uv_handle_t *handle)
{
    release(handle->data);
}

void kvfi_control_destroy(struct kvfi_control *control, void (*on_closed)(void *ctx), void *ctx)
{
    struct kvfi_session *s;

    if (!control)
        return;
    kvfi_control_flush(control);
    control->is_closing = true;
    control->on_closed = on_closed;
    control->closed_ctx = ctx;
    for (s = TAILQ_FIRST(&control->all); s; s = TAILQ_NEXT(s, all))
        kvfi_session_end(s, KVF_OK, "the engine is ending");
    uv_close((uv_handle_t *)&control->listener, on_handle_closed);
    uv_close((uv_handle_t *)&control->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&control->check, on_handle_closed);
}

uint32_t kvfi_control_port(const struct kvfi_control *control)
{
    return control->port;
}

void kvfi_control_stats(const struct kvfi_control *control, struct kvfi_control_stats *ret_stats)
{
    *ret_stats = control->stats;
}
