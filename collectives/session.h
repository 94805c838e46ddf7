/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the control plane: what control.c (listening, connecting, ending) and session.c (one
 * connection) share. Everything belongs to the loop's thread.
 */
#ifndef KVFERRY_COLLECTIVES_SESSION_H
#define KVFERRY_COLLECTIVES_SESSION_H

#include <sys/queue.h>
#include <uv.h>

#include "collectives/address.h"
#include "collectives/arena.h"
#include "collectives/control.h"
#include "collectives/frame.h"
#include "collectives/handshake.h"

enum kvfi_session_state {
    KVFI_SESSION_CONNECTING = 1, /* outgoing: TCP is on its way */
    KVFI_SESSION_HANDSHAKE,      /* key exchange */
    KVFI_SESSION_HEADER,         /* keys agreed; the peer's stream header is awaited */
    KVFI_SESSION_UP,
    KVFI_SESSION_CLOSING, /* kvfi_session_close: writes what is queued, waits for the peer's end */
    KVFI_SESSION_DOWN,    /* handles are closing; on_down comes from there */
};

enum {
    KVFI_SESSION_TEXT_BYTES = 256,
    /* Before authentication a connection has these few bytes and no buffer. */
    KVFI_SESSION_GREETING_BYTES = 256,
    KVFI_SESSION_RX_BYTES = 32768, /* receive buffer of a session without large messages */
    KVFI_SESSION_TX_KEEP_BYTES =
        32768, /* a send buffer larger than this is given back when empty */
};

struct kvfi_session {
    struct kvfi_control *control;
    TAILQ_ENTRY(kvfi_session) all;
    TAILQ_ENTRY(kvfi_session) pending;
    TAILQ_ENTRY(kvfi_session) dirty;
    enum kvfi_session_state state;
    bool is_outgoing;
    bool is_known;   /* to the caller: on_down is owed */
    bool is_pending; /* in control->pending */
    bool is_dirty;   /* in control->dirty: has something to flush */
    bool is_counted; /* in control->n_sessions */
    unsigned n_handles;
    void *user;
    char peer_text[KVFI_ADDRESS_TEXT_BYTES];
    kvf_status_t status; /* of the end */
    char text[KVFI_SESSION_TEXT_BYTES];

    uv_tcp_t tcp;
    uv_timer_t timer; /* authentication, then closing */
    uv_connect_t connect_req;
    uv_shutdown_t shutdown_req;

    struct kvfi_handshake handshake;
    uint8_t greeting[KVFI_SESSION_GREETING_BYTES];
    uint8_t peer_header[KVFI_FRAME_STREAM_HEADER_BYTES];
    size_t peer_header_bytes;

    struct kvfi_frame_rx rx;
    uint8_t *rx_data;
    size_t rx_cap_bytes;
    size_t rx_filled_bytes;

    /* Messages go to tx_fill; while the kernel's buffer is full, tx_busy is libuv's. */
    struct kvfi_frame_tx tx;
    struct kvfi_frame_buf tx_fill;
    struct kvfi_frame_buf tx_busy;
    uv_write_t write_req;
    bool is_writing;
};

TAILQ_HEAD(kvfi_session_list, kvfi_session);

struct kvfi_control {
    struct kvfi_control_config config; /* `address` is not kept */
    uv_loop_t *loop;
    uint32_t port;
    bool is_closing;
    unsigned n_handles; /* own ones and sessions that are not freed yet */
    void (*on_closed)(void *ctx);
    void *closed_ctx;
    uv_tcp_t listener;
    uv_tcp_t refuser; /* takes a connection there is no memory for */
    bool is_refusing;
    bool has_waiting;     /* another such connection came meanwhile */
    uv_prepare_t prepare; /* writes what timers and the caller queued */
    uv_check_t check;     /* writes what was queued while reading */
    struct kvfi_session_list all;
    struct kvfi_session_list pending; /* incoming, not authenticated; oldest first */
    struct kvfi_session_list dirty;
    uint32_t n_pending;
    uint32_t n_sessions;     /* outgoing ones, and authenticated incoming ones */
    uint64_t n_wrong_keys;   /* of incoming connections */
    struct kvfi_arena arena; /* the message that is being delivered */
    struct kvfi_control_stats stats;
};

/* ---- session.c ---------------------------------------------------------------------------- */

/* A session with its handles, in control->all; NULL without memory. */
struct kvfi_session *kvfi_session_create(struct kvfi_control *control, bool is_outgoing);
/* The connection is there: authenticate. A failure ends the session. */
void kvfi_session_start(struct kvfi_session *session);
/* Starts the session's timer for a duration; KVF_FOREVER starts none. */
void kvfi_session_set_timeout(struct kvfi_session *session, uint64_t timeout_ns);
/* End it: nothing is written or delivered any more, on_down follows from the loop. First one wins. */
void kvfi_session_end(struct kvfi_session *session, kvf_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void kvfi_session_flush(struct kvfi_session *session);

/* ---- control.c ---------------------------------------------------------------------------- */

/* The peer knows the job key. False: the session table is full. */
bool kvfi_control_admit(struct kvfi_session *session);
/* The session's handles are closed: forget and free it. */
void kvfi_control_forget(struct kvfi_session *session);

#endif
