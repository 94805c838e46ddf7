/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/session.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"

static const char topic[] = "control";

/* ---- life --------------------------------------------------------------------------------- */

struct kvfi_session *kvfi_session_create(struct kvfi_control *control, bool is_outgoing)
{
    struct kvfi_session *s = kvfi_calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->control = control;
    s->is_outgoing = is_outgoing;
    s->state = is_outgoing ? KVFI_SESSION_CONNECTING : KVFI_SESSION_HANDSHAKE;
    /* Without an address family neither call has anything that could fail. */
    (void)uv_tcp_init(control->loop, &s->tcp);
    (void)uv_timer_init(control->loop, &s->timer);
    s->n_handles = 2;
    s->tcp.data = s;
    s->timer.data = s;
    TAILQ_INSERT_TAIL(&control->all, s, all);
    control->n_handles++;
    return s;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct kvfi_session *s = handle->data;
    const struct kvfi_control_config *config = &s->control->config;

    if (--s->n_handles)
        return;
    if (s->is_known)
        config->on_down(config->ctx, s, s->status, s->text);
    kvfi_frame_buf_fini(&s->tx_fill);
    kvfi_frame_buf_fini(&s->tx_busy);
    if (s->rx_data)
        sodium_memzero(s->rx_data, s->rx_cap_bytes);
    kvfi_free(s->rx_data);
    kvfi_control_forget(s);
    sodium_memzero(s, sizeof(*s));
    kvfi_free(s);
}

/*
 * A wrong key is worth a warning, but strangers must not be able to fill the host's log: of those
 * who call here, the first, second, fourth, eighth ... are told.
 */
static void log_end(const struct kvfi_session *s)
{
    const struct kvfi_log *log = &s->control->config.log;
    uint64_t n = s->control->n_wrong_keys;

    if (s->status == KVF_EAUTH && s->is_known)
        kvfi_log(log, KVF_LOG_WARN, topic, "%s", s->text);
    else if (s->status == KVF_EAUTH && (n & (n - 1)) == 0)
        kvfi_log(log, KVF_LOG_WARN, topic, "refused %s (number %llu with a wrong key)", s->text,
                 (unsigned long long)n);
    else if (s->is_known)
        kvfi_log(log, KVF_LOG_DEBUG, topic, "session with %s ended: %s", s->peer_text, s->text);
    else
        kvfi_log(log, KVF_LOG_INFO, topic, "refused %s: %s", s->peer_text, s->text);
}

void kvfi_session_end(struct kvfi_session *s, kvf_status_t status, const char *format, ...)
{
    struct kvfi_control *control = s->control;
    va_list args;

    if (s->state == KVFI_SESSION_DOWN)
        return;
    s->state = KVFI_SESSION_DOWN;
    s->status = status;
    va_start(args, format);
    (void)vsnprintf(s->text, sizeof(s->text), format, args);
    va_end(args);
    if (s->is_pending) {
        TAILQ_REMOVE(&control->pending, s, pending);
        control->n_pending--;
        s->is_pending = false;
    }
    if (s->is_dirty)
        TAILQ_REMOVE(&control->dirty, s, dirty);
    s->is_dirty = false;
    if (s->is_counted)
        control->n_sessions--;
    s->is_counted = false;
    if (!s->is_known && !control->is_closing)
        control->stats.refused++;
    if (!s->is_known && status == KVF_EAUTH)
        control->n_wrong_keys++;
    log_end(s);
    kvfi_handshake_fini(&s->handshake);
    uv_close((uv_handle_t *)&s->tcp, on_handle_closed);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
}

static void on_timeout(uv_timer_t *timer)
{
    struct kvfi_session *s = timer->data;

    if (s->state == KVFI_SESSION_CLOSING)
        kvfi_session_end(s, KVF_OK, "closed; %s did not answer in time", s->peer_text);
    else
        kvfi_session_end(s, KVF_ETIMEDOUT, "%s did not %s in time", s->peer_text,
                         s->state == KVFI_SESSION_CONNECTING ? "accept the connection"
                                                             : "finish the hand-shake");
}

void kvfi_session_set_timeout(struct kvfi_session *s, uint64_t timeout_ns)
{
    const uint64_t ms_ns = 1000000;

    /* The loop's idea of "now" may be old if the caller was busy. */
    uv_update_time(s->control->loop);
    if (timeout_ns == KVF_FOREVER)
        (void)uv_timer_stop(&s->timer);
    else
        (void)uv_timer_start(&s->timer, on_timeout, timeout_ns / ms_ns + (timeout_ns % ms_ns != 0),
                             0);
}

/* ---- writing ------------------------------------------------------------------------------ */

static void mark_dirty(struct kvfi_session *s)
{
    if (s->is_dirty)
        return;
    s->is_dirty = true;
    TAILQ_INSERT_TAIL(&s->control->dirty, s, dirty);
}

/* A handful of bytes on a connection that carried nothing yet: they fit, or it is broken. */
static bool write_greeting(struct kvfi_session *s, const uint8_t *bytes, size_t n_bytes)
{
    uv_buf_t buf = {.base = (char *)(uintptr_t)bytes, .len = n_bytes};
    int rc;

    if (n_bytes == 0)
        return true;
    rc = uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
    if (rc == (int)n_bytes)
        return true;
    kvfi_session_end(s, KVF_ENET, "write to %s: %s", s->peer_text,
                     rc < 0 ? uv_strerror(rc) : "cut short");
    return false;
}

/* FIN; the peer's answer to it, or the timer, ends the session. */
static void on_shutdown(uv_shutdown_t *req, int rc)
{
    struct kvfi_session *s = req->handle->data;

    if (rc && rc != UV_ECANCELED)
        kvfi_session_end(s, KVF_OK, "closed; shutdown: %s", uv_strerror(rc));
}

static void on_written(uv_write_t *req, int rc)
{
    struct kvfi_session *s = req->handle->data;

    s->is_writing = false;
    if (s->state == KVFI_SESSION_DOWN)
        return;
    if (rc) {
        kvfi_session_end(s, KVF_ENET, "write to %s: %s", s->peer_text, uv_strerror(rc));
        return;
    }
    kvfi_frame_buf_reset(&s->tx_busy, KVFI_SESSION_TX_KEEP_BYTES);
    kvfi_session_flush(s);
}

/* The kernel took only `done` bytes: libuv writes the others when it can. */
static void write_rest(struct kvfi_session *s, size_t done)
{
    struct kvfi_frame_buf free_buf = s->tx_busy;
    uv_buf_t buf;
    int rc;

    s->tx_busy = s->tx_fill;
    s->tx_fill = free_buf;
    buf = (uv_buf_t){.base = (char *)s->tx_busy.data + done, .len = s->tx_busy.filled_bytes - done};
    rc = uv_write(&s->write_req, (uv_stream_t *)&s->tcp, &buf, 1, on_written);
    if (rc)
        kvfi_session_end(s, KVF_ENET, "write to %s: %s", s->peer_text, uv_strerror(rc));
    else
        s->is_writing = true;
}

void kvfi_session_flush(struct kvfi_session *s)
{
    struct kvfi_control_stats *stats = &s->control->stats;
    uint64_t n_before = s->tx.n_sealed;
    uv_buf_t buf;
    int rc;

    if (s->is_dirty)
        TAILQ_REMOVE(&s->control->dirty, s, dirty);
    s->is_dirty = false;
    if (s->is_writing || s->state == KVFI_SESSION_DOWN)
        return; /* on_written comes back here */
    if (s->tx_fill.filled_bytes == 0) {
        if (s->state == KVFI_SESSION_CLOSING && !s->shutdown_req.handle)
            (void)uv_shutdown(&s->shutdown_req, (uv_stream_t *)&s->tcp, on_shutdown);
        return;
    }
    kvfi_frame_seal(&s->tx, &s->tx_fill);
    stats->frames_sent += s->tx.n_sealed - n_before;
    stats->bytes_sent += s->tx_fill.filled_bytes;
    buf = (uv_buf_t){.base = (char *)s->tx_fill.data, .len = s->tx_fill.filled_bytes};
    rc = uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
    if (rc < 0 && rc != UV_EAGAIN) {
        kvfi_session_end(s, KVF_ENET, "write to %s: %s", s->peer_text, uv_strerror(rc));
    } else if (rc == (int)buf.len) {
        kvfi_frame_buf_reset(&s->tx_fill, KVFI_SESSION_TX_KEEP_BYTES);
        if (s->state == KVFI_SESSION_CLOSING)
            kvfi_session_flush(s);
    } else {
        write_rest(s, rc > 0 ? (size_t)rc : 0);
    }
}

kvf_status_t kvfi_session_send(struct kvfi_session *s, const Kvfi__Wire__Message *message)
{
    uint64_t limit = s->control->config.max_queued_bytes;
    uint64_t writing = uv_stream_get_write_queue_size((uv_stream_t *)&s->tcp);
    kvf_status_t status;

    if (s->state != KVFI_SESSION_UP)
        return KVF_ESTATE;
    status = kvfi_frame_append(&s->tx, &s->tx_fill, message, limit - kvfi_min_u64(limit, writing));
    if (status == KVF_OK)
        mark_dirty(s);
    else if (status == KVF_ENOSPC)
        kvfi_session_end(s, status, "more than %llu bytes are waiting for %s",
                         (unsigned long long)limit, s->peer_text);
    else if (status == KVF_ENOMEM)
        kvfi_session_end(s, status, "no memory to queue a message for %s", s->peer_text);
    return status;
}

void kvfi_session_close(struct kvfi_session *s)
{
    if (s->state == KVFI_SESSION_CLOSING || s->state == KVFI_SESSION_DOWN)
        return;
    if (s->state != KVFI_SESSION_UP) {
        kvfi_session_end(s, KVF_OK, "closed");
        return;
    }
    if (kvfi_frame_finish(&s->tx, &s->tx_fill)) {
        kvfi_session_end(s, KVF_ENOMEM, "no memory to close the session with %s", s->peer_text);
        return;
    }
    s->control->stats.frames_sent++;
    s->state = KVFI_SESSION_CLOSING;
    /* A peer that reads nothing must not keep us. */
    kvfi_session_set_timeout(s, s->control->config.auth_timeout_ns);
    kvfi_session_flush(s);
}

/* ---- reading ------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested_bytes, uv_buf_t *ret_buf)
{
    struct kvfi_session *s = handle->data;

    (void)suggested_bytes;
    if (s->rx_data)
        *ret_buf = uv_buf_init((char *)s->rx_data + s->rx_filled_bytes,
                               (unsigned)(s->rx_cap_bytes - s->rx_filled_bytes));
    else
        *ret_buf = uv_buf_init((char *)s->greeting, sizeof(s->greeting));
}

/* Hands one message to the caller. False: the session is not up any more. */
static bool deliver(struct kvfi_session *s, const uint8_t *bytes, size_t n_bytes)
{
    struct kvfi_control *control = s->control;
    Kvfi__Wire__Message *message =
        kvfi__wire__message__unpack(&control->arena.allocator, n_bytes, bytes);

    if (!message || message->kind_case == KVFI__WIRE__MESSAGE__KIND__NOT_SET)
        kvfi_session_end(s, KVF_EPROTO, "%s sent a message that does not parse", s->peer_text);
    else
        control->config.on_message(control->config.ctx, s, message);
    kvfi_arena_reset(&control->arena);
    return s->state == KVFI_SESSION_UP;
}

static void deliver_frame(struct kvfi_session *s, struct kvfi_frame *frame)
{
    const uint8_t *bytes;
    size_t n_bytes;

    s->control->stats.frames_received++;
    s->control->stats.bytes_received += frame->frame_bytes;
    while (frame->plain_bytes) {
        if (kvfi_frame_next(frame, &bytes, &n_bytes)) {
            kvfi_session_end(s, KVF_EPROTO, "%s sent a message longer than its frame",
                             s->peer_text);
            return;
        }
        if (!deliver(s, bytes, n_bytes))
            return;
    }
    if (frame->is_final)
        kvfi_session_end(s, KVF_ENET, "%s closed the session", s->peer_text);
}

static bool resize_rx(struct kvfi_session *s, size_t cap_bytes)
{
    uint8_t *data = kvfi_calloc(1, cap_bytes);

    if (!data)
        return false;
    if (s->rx_data) {
        memcpy(data, s->rx_data, s->rx_filled_bytes);
        sodium_memzero(s->rx_data, s->rx_cap_bytes);
        kvfi_free(s->rx_data);
    }
    s->rx_data = data;
    s->rx_cap_bytes = cap_bytes;
    return true;
}

/*
 * The buffer grows by doubling, as bytes really arrive, up to what the frame needs: a length alone
 * reserves nothing. It shrinks again when it is empty after smaller frames.
 */
static void fit_rx(struct kvfi_session *s, size_t frame_bytes, size_t largest_bytes)
{
    bool is_full = s->rx_filled_bytes == s->rx_cap_bytes;

    if (is_full && !resize_rx(s, kvfi_min_u64(frame_bytes, 2 * s->rx_cap_bytes)))
        kvfi_session_end(s, KVF_ENOMEM, "no memory for a frame of %zu bytes from %s", frame_bytes,
                         s->peer_text);
    else if (s->rx_filled_bytes == 0 && s->rx_cap_bytes > KVFI_SESSION_RX_BYTES &&
             largest_bytes <= KVFI_SESSION_RX_BYTES)
        (void)resize_rx(s, KVFI_SESSION_RX_BYTES); /* if not, the large one goes on */
}

static void read_frames(struct kvfi_session *s)
{
    struct kvfi_frame frame = {0};
    size_t largest_bytes = 0;
    size_t at = 0;

    while (s->state == KVFI_SESSION_UP) {
        const char *text = NULL;
        kvf_status_t status =
            kvfi_frame_open(&s->rx, s->rx_data + at, s->rx_filled_bytes - at, &frame, &text);

        if (status == KVF_IN_PROGRESS)
            break;
        if (status) {
            kvfi_session_end(s, status, "%s: %s", s->peer_text, text);
            return;
        }
        at += frame.frame_bytes;
        largest_bytes = kvfi_max_u64(largest_bytes, frame.frame_bytes);
        deliver_frame(s, &frame);
    }
    if (s->state != KVFI_SESSION_UP) {
        s->rx_filled_bytes = 0; /* whatever comes while closing is read and dropped */
        return;
    }
    s->rx_filled_bytes -= at;
    if (at && s->rx_filled_bytes)
        memmove(s->rx_data, s->rx_data + at, s->rx_filled_bytes);
    fit_rx(s, frame.frame_bytes, largest_bytes);
}

/* Both sides have proved the key: buffers, the own stream header, and on_up. */
static void come_up(struct kvfi_session *s)
{
    const struct kvfi_control_config *config = &s->control->config;

    if (kvfi_frame_rx_init(&s->rx, s->handshake.rx_key, s->peer_header)) {
        kvfi_session_end(s, KVF_EPROTO, "%s sent a bad stream header", s->peer_text);
        return;
    }
    if (!resize_rx(s, KVFI_SESSION_RX_BYTES)) {
        kvfi_session_end(s, KVF_ENOMEM, "no memory for the session with %s", s->peer_text);
        return;
    }
    if (!kvfi_control_admit(s)) {
        kvfi_session_end(s, KVF_ENOSPC, "the table of %u sessions is full", config->max_sessions);
        return;
    }
    if (!s->is_outgoing) {
        uint8_t header[KVFI_FRAME_STREAM_HEADER_BYTES];

        kvfi_frame_tx_init(&s->tx, s->handshake.tx_key, header);
        if (!write_greeting(s, header, sizeof(header)))
            return;
    }
    kvfi_handshake_fini(&s->handshake);
    (void)uv_timer_stop(&s->timer);
    s->state = KVFI_SESSION_UP;
    s->is_known = true;
    config->on_up(config->ctx, s);
}

/* The client sends its stream header with its proof; the server only once it has seen that. */
static bool handshake_done(struct kvfi_session *s, struct kvfi_handshake_out *out)
{
    s->state = KVFI_SESSION_HEADER;
    if (s->is_outgoing) {
        _Static_assert(KVFI_HANDSHAKE_MAC_BYTES + KVFI_FRAME_STREAM_HEADER_BYTES <=
                           KVFI_HANDSHAKE_OUT_MAX,
                       "proof and header go out together");
        kvfi_frame_tx_init(&s->tx, s->handshake.tx_key, out->bytes + out->n_bytes);
        out->n_bytes += KVFI_FRAME_STREAM_HEADER_BYTES;
    }
    return write_greeting(s, out->bytes, out->n_bytes);
}

/* Returns how many bytes belonged to the key exchange. */
static size_t read_handshake(struct kvfi_session *s, const uint8_t *bytes, size_t n_bytes)
{
    struct kvfi_handshake_out out;
    size_t used;
    kvf_status_t status = kvfi_handshake_input(&s->handshake, bytes, n_bytes, &used, &out);

    if (status == KVF_OK) {
        (void)handshake_done(s, &out);
        return used;
    }
    if (!write_greeting(s, out.bytes, out.n_bytes) || status == KVF_IN_PROGRESS)
        return used;
    if (s->handshake.peer_version && s->handshake.peer_version != KVFI_HANDSHAKE_VERSION)
        kvfi_session_end(s, status, "%s speaks version %u of the control protocol, this side %u",
                         s->peer_text, s->handshake.peer_version, KVFI_HANDSHAKE_VERSION);
    else
        kvfi_session_end(s, status, "%s: %s", s->peer_text, s->handshake.text);
    return used;
}

/* Bytes before the session is up; the client may have sent frames behind its header. */
static void read_greeting(struct kvfi_session *s, const uint8_t *bytes, size_t n_bytes)
{
    size_t n;

    if (s->state == KVFI_SESSION_HANDSHAKE) {
        n = read_handshake(s, bytes, n_bytes);
        bytes += n;
        n_bytes -= n;
    }
    if (s->state != KVFI_SESSION_HEADER || n_bytes == 0)
        return;
    n = kvfi_min_u64(n_bytes, sizeof(s->peer_header) - s->peer_header_bytes);
    memcpy(s->peer_header + s->peer_header_bytes, bytes, n);
    s->peer_header_bytes += n;
    if (s->peer_header_bytes < sizeof(s->peer_header))
        return;
    come_up(s);
    if (s->state != KVFI_SESSION_UP)
        return;
    _Static_assert(KVFI_SESSION_GREETING_BYTES < KVFI_SESSION_RX_BYTES, "the rest fits");
    s->rx_filled_bytes = n_bytes - n;
    memcpy(s->rx_data, bytes + n, s->rx_filled_bytes);
    read_frames(s);
}

static void read_failed(struct kvfi_session *s, int rc)
{
    bool is_eof = rc == UV_EOF;

    if (s->state == KVFI_SESSION_CLOSING)
        kvfi_session_end(s, KVF_OK, "closed");
    else if (s->state != KVFI_SESSION_UP)
        kvfi_session_end(s, KVF_ENET, "%s closed the connection during the hand-shake%s%s",
                         s->peer_text, is_eof ? "" : ": ", is_eof ? "" : uv_strerror(rc));
    else if (!is_eof)
        kvfi_session_end(s, KVF_ENET, "read from %s: %s", s->peer_text, uv_strerror(rc));
    else if (s->rx_filled_bytes)
        kvfi_session_end(s, KVF_EPROTO, "%s closed the connection inside a frame", s->peer_text);
    else
        kvfi_session_end(s, KVF_ENET, "%s closed the connection", s->peer_text);
}

static void on_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf)
{
    struct kvfi_session *s = stream->data;

    if (n_read < 0) {
        read_failed(s, (int)n_read);
    } else if (s->state == KVFI_SESSION_UP) {
        s->rx_filled_bytes += (size_t)n_read;
        read_frames(s);
    } else if (s->state == KVFI_SESSION_HANDSHAKE || s->state == KVFI_SESSION_HEADER) {
        read_greeting(s, (const uint8_t *)buf->base, (size_t)n_read);
    }
}

void kvfi_session_start(struct kvfi_session *s)
{
    uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES];
    struct kvfi_handshake_out out;
    int rc;

    s->state = KVFI_SESSION_HANDSHAKE;
    randombytes_buf(random, sizeof(random));
    kvfi_handshake_init(&s->handshake, s->is_outgoing, s->control->config.job_key, random, &out);
    sodium_memzero(random, sizeof(random));
    rc = uv_tcp_nodelay(&s->tcp, 1);
    if (!rc)
        rc = uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
    if (rc)
        kvfi_session_end(s, KVF_ENET, "socket of %s: %s", s->peer_text, uv_strerror(rc));
    else
        (void)write_greeting(s, out.bytes, out.n_bytes);
}

/* ---- small questions ---------------------------------------------------------------------- */

bool kvfi_session_is_outgoing(const struct kvfi_session *s)
{
    return s->is_outgoing;
}

const char *kvfi_session_peer_text(const struct kvfi_session *s)
{
    return s->peer_text;
}

void kvfi_session_set_user(struct kvfi_session *s, void *user)
{
    s->user = user;
}

void *kvfi_session_user(const struct kvfi_session *s)
{
    return s->user;
}
