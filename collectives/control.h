/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control plane: authenticated, encrypted message sessions between engines (design §8).
 *
 * One object serves one engine on one libuv loop. All functions and callbacks run on the loop's
 * thread, except kvfi_control_port; that thread blocks or ignores SIGPIPE. Frames: a 4-byte
 * little-endian length, then the ciphertext of one or more protobuf Messages (libsodium
 * secretstream); lengths are checked before anything is allocated. Before authentication a peer
 * gets one fixed-size exchange, `auth_timeout_ns`, and one of `max_pending` places.
 *
 * Hand-shake (both prove the job key; ephemeral X25519 for forward secrecy):
 *   C -> S  magic, version, C's ephemeral key, C's nonce
 *   S -> C  magic, version, S's ephemeral key, S's nonce, MAC(job key, "server" | transcript)
 *   C -> S  MAC(job key, "client" | transcript)
 *   both    session keys = hash(job key, shared secret, transcript), one a direction
 * then each side's stream header, the server's once it has checked the client's MAC, and frames.
 * A session is up when the other side's header is there: both have then proved the key.
 */
#ifndef KVFERRY_COLLECTIVES_CONTROL_H
#define KVFERRY_COLLECTIVES_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "collectives/log.h"
#include "collectives/wire.pb-c.h"
#include "kvferry/kvferry.h"

#define KVFI_CONTROL_FRAME_MAX (4u * 1024u * 1024u) /* bytes of one frame */

struct kvfi_control;
struct kvfi_session;

struct kvfi_control_config {
    const char *address; /* numeric, to listen on */
    uint32_t port;       /* 0 = any */
    uint8_t job_key[KVF_JOB_KEY_BYTES];
    uint32_t max_sessions;     /* authenticated ones */
    uint32_t max_pending;      /* connections before authentication; the oldest gives way */
    uint64_t auth_timeout_ns;  /* also the longest wait of kvfi_session_close for the peer */
    uint64_t max_queued_bytes; /* unsent bytes of a session; over it the session is closed */

    /* An incoming session is authenticated, or one of kvfi_control_connect's is. */
    void (*on_up)(void *ctx, struct kvfi_session *session);
    /* A message; borrowed until return. The session may be closed from inside. */
    void (*on_message)(void *ctx, struct kvfi_session *session, const Kvfi__Wire__Message *message);
    /*
     * The session ended (KVF_EAUTH, KVF_ENET, KVF_EPROTO, KVF_ETIMEDOUT, KVF_ENOSPC: the send queue
     * was full, KVF_ENOMEM; KVF_OK after kvfi_session_close or kvfi_control_destroy). Called once
     * for every session the caller knows (on_up was called, or connect returned it); its user
     * pointer is still there, the session is freed afterwards.
     */
    void (*on_down)(void *ctx, struct kvfi_session *session, kvf_status_t status, const char *text);
    void *ctx;
    struct kvfi_log log;
};

/*
 * Binds and listens. text[text_cap]: the sentence with address, port and the system's reason.
 * KVF_EINVAL, KVF_ENET, KVF_ENOMEM; nothing is left in the loop after an error. "::" is not IPv4 too.
 */
kvf_status_t kvfi_control_create(uv_loop_t *loop, const struct kvfi_control_config *config,
                                 char *text, size_t text_cap, struct kvfi_control **ret_control);
/*
 * Closes every session and handle; on_closed is called from the loop when the memory is freed. Call
 * once; the loop must go on until on_closed. It waits for no peer: what the kernel does not take at
 * once is lost. Where that matters, close the sessions first and wait for their on_down.
 */
void kvfi_control_destroy(struct kvfi_control *control, void (*on_closed)(void *ctx), void *ctx);

/* Port that is listened on. Any thread. */
uint32_t kvfi_control_port(const struct kvfi_control *control);

/*
 * Begin a session to "a.b.c.d:port" or "[v6]:port"; on_up or on_down follows, never from inside.
 * KVF_EINVAL: not such an address. KVF_ENOSPC: max_sessions. KVF_ENOMEM. KVF_ESTATE: destroyed.
 */
kvf_status_t kvfi_control_connect(struct kvfi_control *control, const char *address,
                                  uint64_t timeout_ns, void *user,
                                  struct kvfi_session **ret_session);

/*
 * Queue a message. Messages arrive whole and in order. They are written when the loop turns, those
 * of one turn together (kvfi_control_flush writes at once). KVF_ENOSPC: the queue limit was passed,
 * KVF_ENOMEM: no memory; the session is being closed and on_down follows. KVF_ESTATE: it is not up.
 * KVF_EINVAL: larger than a frame; nothing was queued and the session goes on.
 */
kvf_status_t kvfi_session_send(struct kvfi_session *session, const Kvfi__Wire__Message *message);
/* Write what is queued in all sessions. */
void kvfi_control_flush(struct kvfi_control *control);

/*
 * Write what is queued, then close; nothing is delivered any more. on_down(KVF_OK) follows when the
 * peer has taken everything, or after auth_timeout_ns.
 */
void kvfi_session_close(struct kvfi_session *session);

bool kvfi_session_is_outgoing(const struct kvfi_session *session);
/* "a.b.c.d:port" of the other end; valid as long as the session. */
const char *kvfi_session_peer_text(const struct kvfi_session *session);
void kvfi_session_set_user(struct kvfi_session *session, void *user);
void *kvfi_session_user(const struct kvfi_session *session);

/* Counters of the control object: frames, bytes, refused connections. */
struct kvfi_control_stats {
    uint64_t frames_sent;
    uint64_t frames_received;
    uint64_t bytes_sent;
    uint64_t bytes_received;
    uint64_t refused;
};
void kvfi_control_stats(const struct kvfi_control *control, struct kvfi_control_stats *ret_stats);

#endif
