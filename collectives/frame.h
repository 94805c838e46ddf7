/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a control session, as bytes in and bytes out: a 4-byte little-endian length, then that
 * many bytes of ciphertext (libsodium secretstream, one state a direction) of one or more messages,
 * each behind its length as a varint. The last frame of a session carries the stream's FINAL tag, so
 * that an end by the peer and a cut connection are told apart.
 *
 * Both directions work in place: a message is packed, encrypted and written from one buffer, and
 * read, decrypted and unpacked in another.
 */
#ifndef KVFERRY_COLLECTIVES_FRAME_H
#define KVFERRY_COLLECTIVES_FRAME_H

#include <sodium.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/wire.pb-c.h"
#include "kvferry/kvferry.h"

#define KVFI_FRAME_STREAM_HEADER_BYTES crypto_secretstream_xchacha20poly1305_HEADERBYTES
#define KVFI_FRAME_LENGTH_BYTES 4u
#define KVFI_FRAME_SEAL_BYTES crypto_secretstream_xchacha20poly1305_ABYTES /* tag and MAC */
#define KVFI_FRAME_OVERHEAD_BYTES (KVFI_FRAME_LENGTH_BYTES + KVFI_FRAME_SEAL_BYTES)
/* Several messages share a frame up to this size; only a larger message makes a larger frame. */
#define KVFI_FRAME_SHARED_MAX 16384u

/* ---- sending ------------------------------------------------------------------------------ */

struct kvfi_frame_tx {
    crypto_secretstream_xchacha20poly1305_state stream;
    uint64_t n_sealed;
};

/* Bytes ready to be written (sealed frames), then possibly one frame that is still open. */
struct kvfi_frame_buf {
    uint8_t *data;
    size_t cap_bytes;
    size_t filled_bytes; /* the open frame's plain text included */
    size_t open_at;      /* where the open frame begins */
    bool is_open;
};

/* Writes the stream's header, which goes to the peer ahead of the first frame. */
void kvfi_frame_tx_init(struct kvfi_frame_tx *tx, const uint8_t key[32],
                        uint8_t ret_header[KVFI_FRAME_STREAM_HEADER_BYTES]);
/*
 * Append a message. limit_bytes: what the buffer may grow to. KVF_EINVAL: larger than a frame can be.
 * KVF_ENOSPC: over the limit. KVF_ENOMEM. On errors nothing was appended.
 */
kvf_status_t kvfi_frame_append(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf,
                               const Kvfi__Wire__Message *message, size_t limit_bytes);
/* Append bytes that are no frame (the stream's header). KVF_ENOMEM. */
kvf_status_t kvfi_frame_append_raw(struct kvfi_frame_buf *buf, const uint8_t *bytes,
                                   size_t n_bytes);
/* Encrypt the open frame, if there is one: all of the buffer may be written. */
void kvfi_frame_seal(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf);
/* Seal with the FINAL tag, in an empty frame if none is open. KVF_ENOMEM. */
kvf_status_t kvfi_frame_finish(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf);
/* All of it was written. Memory over keep_bytes is given back. */
void kvfi_frame_buf_reset(struct kvfi_frame_buf *buf, size_t keep_bytes);
void kvfi_frame_buf_fini(struct kvfi_frame_buf *buf);

/* ---- receiving ---------------------------------------------------------------------------- */

struct kvfi_frame_rx {
    crypto_secretstream_xchacha20poly1305_state stream;
};

struct kvfi_frame {
    size_t frame_bytes;   /* whole frame on the wire; 0 while its length is not there yet */
    const uint8_t *plain; /* messages; points into the caller's buffer */
    size_t plain_bytes;
    bool is_final;
};

/* KVF_EPROTO: the header cannot be one. */
kvf_status_t kvfi_frame_rx_init(struct kvfi_frame_rx *rx, const uint8_t key[32],
                                const uint8_t header[KVFI_FRAME_STREAM_HEADER_BYTES]);
/*
 * Decrypt the frame at the beginning of bytes, in place. KVF_IN_PROGRESS: it is not whole yet,
 * ret_frame->frame_bytes says what is known. KVF_EPROTO, with ret_text: its length is out of range,
 * or it is not what the peer sealed at this place of the stream; rx must not be used again.
 */
kvf_status_t kvfi_frame_open(struct kvfi_frame_rx *rx, uint8_t *bytes, size_t n_bytes,
                             struct kvfi_frame *ret_frame, const char **ret_text);
/* Takes the next message off the front of plain. KVF_EPROTO: its length does not fit. */
kvf_status_t kvfi_frame_next(struct kvfi_frame *frame, const uint8_t **ret_message,
                             size_t *ret_message_bytes);

#endif
