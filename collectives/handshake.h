/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The key exchange of a control session, as bytes in and bytes out (control.h has the messages).
 *
 * MACs and session keys are BLAKE2b, keyed with the job key, of a label with its NUL ("server",
 * "client", "kvferry session keys"), for the session keys the X25519 secret, and the transcript: all
 * that was sent before, for the session keys without the client's MAC. Of the 64 bytes of session
 * keys the first 32 are for client to server.
 *
 * Pure: no socket, clock, allocation or randomness of its own. Whoever drives it feeds what the
 * peer sent, in pieces of any size, and writes what comes out.
 */
#ifndef KVFERRY_COLLECTIVES_HANDSHAKE_H
#define KVFERRY_COLLECTIVES_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvferry/kvferry.h"

#define KVFI_HANDSHAKE_VERSION 1u
#define KVFI_HANDSHAKE_PREFIX_BYTES 12u /* magic, version: the same in every version */
#define KVFI_HANDSHAKE_HELLO_BYTES 76u  /* prefix, ephemeral key, nonce */
#define KVFI_HANDSHAKE_MAC_BYTES 32u
#define KVFI_HANDSHAKE_REPLY_BYTES (KVFI_HANDSHAKE_HELLO_BYTES + KVFI_HANDSHAKE_MAC_BYTES)
#define KVFI_HANDSHAKE_OUT_MAX KVFI_HANDSHAKE_REPLY_BYTES
#define KVFI_HANDSHAKE_RANDOM_BYTES 64u
#define KVFI_HANDSHAKE_KEY_BYTES 32u

struct kvfi_handshake {
    bool is_client;
    bool is_over; /* done or failed: takes no more bytes */
    uint8_t job_key[KVF_JOB_KEY_BYTES];
    uint8_t secret[KVFI_HANDSHAKE_KEY_BYTES]; /* ephemeral */
    /* Client's hello, server's hello, server's MAC: what both MACs and the keys depend on. */
    uint8_t transcript[KVFI_HANDSHAKE_HELLO_BYTES + KVFI_HANDSHAKE_REPLY_BYTES];
    uint8_t in[KVFI_HANDSHAKE_REPLY_BYTES];
    size_t in_bytes;
    size_t want_bytes; /* of the message that is being received */
    uint32_t peer_version;
    /* Valid after KVF_OK. */
    uint8_t rx_key[KVFI_HANDSHAKE_KEY_BYTES];
    uint8_t tx_key[KVFI_HANDSHAKE_KEY_BYTES];
    const char *text; /* after a failure: why; static */
};

struct kvfi_handshake_out {
    size_t n_bytes;
    uint8_t bytes[KVFI_HANDSHAKE_OUT_MAX];
};

/*
 * random: fresh unpredictable bytes. ret_out: what to send first (nothing at the server). sodium_init
 * must have been called.
 */
void kvfi_handshake_init(struct kvfi_handshake *h, bool is_client,
                         const uint8_t job_key[KVF_JOB_KEY_BYTES],
                         const uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES],
                         struct kvfi_handshake_out *ret_out);

/*
 * Takes what the peer sent and says in ret_used how much of it belonged to the exchange. ret_out
 * (written in every case, also on errors) is to be sent before anything else.
 * KVF_IN_PROGRESS: more is needed. KVF_OK: the peer knows the job key, the session keys are there
 * (at the client: the server has still to check the client's MAC). KVF_EAUTH: it does not know the
 * key. KVF_EPROTO: not this protocol, or not this version of it.
 */
kvf_status_t kvfi_handshake_input(struct kvfi_handshake *h, const uint8_t *bytes, size_t n_bytes,
                                  size_t *ret_used, struct kvfi_handshake_out *ret_out);

/* Forgets every secret. */
void kvfi_handshake_fini(struct kvfi_handshake *h);

#endif
