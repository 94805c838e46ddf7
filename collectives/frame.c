/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/frame.h"

#include <assert.h>
#include <string.h>

#include "collectives/control.h"
#include "collectives/util.h"

enum {
    TAG_BYTES = 1, /* encrypted tag, ahead of the text */
    MAC_BYTES = KVFI_FRAME_SEAL_BYTES - TAG_BYTES,
    TEXT_AT = KVFI_FRAME_LENGTH_BYTES + TAG_BYTES,
    TEXT_MAX = KVFI_CONTROL_FRAME_MAX - KVFI_FRAME_OVERHEAD_BYTES,
    BUF_FIRST_BYTES = 4096,
    VARINT_MAX = 5,
};

static void put_u32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *at)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < 4; i++)
        value |= (uint32_t)at[i] << (8 * i);
    return value;
}

static size_t put_varint(uint8_t *at, size_t value)
{
    size_t n = 0;

    for (; value >= 0x80; value >>= 7)
        at[n++] = (uint8_t)(value | 0x80);
    at[n++] = (uint8_t)value;
    return n;
}

/* ---- sending ------------------------------------------------------------------------------ */

void kvfi_frame_tx_init(struct kvfi_frame_tx *tx, const uint8_t key[32],
                        uint8_t ret_header[KVFI_FRAME_STREAM_HEADER_BYTES])
{
    (void)crypto_secretstream_xchacha20poly1305_init_push(&tx->stream, ret_header, key);
    tx->n_sealed = 0;
}

/* Room for n_bytes more, and for sealing the open frame, which therefore cannot fail. */
static kvf_status_t reserve(struct kvfi_frame_buf *buf, size_t n_bytes)
{
    size_t need = buf->filled_bytes + n_bytes + MAC_BYTES;
    size_t cap_bytes = buf->cap_bytes ? buf->cap_bytes : BUF_FIRST_BYTES;
    uint8_t *data;

    if (need <= buf->cap_bytes)
        return KVF_OK;
    while (cap_bytes < need)
        cap_bytes *= 2;
    data = kvfi_calloc(1, cap_bytes);
    if (!data)
        return KVF_ENOMEM;
    if (buf->data) {
        memcpy(data, buf->data, buf->filled_bytes);
        sodium_memzero(buf->data, buf->filled_bytes);
        kvfi_free(buf->data);
    }
    buf->data = data;
    buf->cap_bytes = cap_bytes;
    return KVF_OK;
}

/* The caller reserved TEXT_AT bytes. */
static void open_frame(struct kvfi_frame_buf *buf)
{
    buf->is_open = true;
    buf->open_at = buf->filled_bytes;
    buf->filled_bytes += TEXT_AT;
}

static void seal(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf, uint8_t tag)
{
    uint8_t *frame = buf->data + buf->open_at;
    size_t text_bytes = buf->filled_bytes - buf->open_at - TEXT_AT;

    assert(buf->is_open && text_bytes <= TEXT_MAX);
    put_u32(frame, (uint32_t)(text_bytes + KVFI_FRAME_SEAL_BYTES));
    /* The stream puts the cipher text right behind the tag: where the plain text lies already. */
    (void)crypto_secretstream_xchacha20poly1305_push(&tx->stream, frame + KVFI_FRAME_LENGTH_BYTES,
                                                     NULL, frame + TEXT_AT, text_bytes, NULL, 0,
                                                     tag);
    buf->filled_bytes += MAC_BYTES;
    buf->is_open = false;
    tx->n_sealed++;
}

kvf_status_t kvfi_frame_append(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf,
                               const Kvfi__Wire__Message *message, size_t limit_bytes)
{
    size_t n_bytes = kvfi__wire__message__get_packed_size(message);
    size_t need = n_bytes + VARINT_MAX;
    kvf_status_t status;

    if (need > TEXT_MAX)
        return KVF_EINVAL;
    /* What a frame adds at most; the limit is no exact science. */
    if (buf->filled_bytes + need + KVFI_FRAME_OVERHEAD_BYTES + MAC_BYTES > limit_bytes)
        return KVF_ENOSPC;
    status = reserve(buf, need + KVFI_FRAME_OVERHEAD_BYTES);
    if (status)
        return status;
    if (buf->is_open && buf->filled_bytes - buf->open_at + need > KVFI_FRAME_SHARED_MAX)
        seal(tx, buf, crypto_secretstream_xchacha20poly1305_TAG_MESSAGE);
    if (!buf->is_open)
        open_frame(buf);
    buf->filled_bytes += put_varint(buf->data + buf->filled_bytes, n_bytes);
    buf->filled_bytes += kvfi__wire__message__pack(message, buf->data + buf->filled_bytes);
    return KVF_OK;
}

kvf_status_t kvfi_frame_append_raw(struct kvfi_frame_buf *buf, const uint8_t *bytes, size_t n_bytes)
{
    kvf_status_t status = reserve(buf, n_bytes);

    assert(!buf->is_open);
    if (status)
        return status;
    memcpy(buf->data + buf->filled_bytes, bytes, n_bytes);
    buf->filled_bytes += n_bytes;
    return KVF_OK;
}

void kvfi_frame_seal(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf)
{
    if (buf->is_open)
        seal(tx, buf, crypto_secretstream_xchacha20poly1305_TAG_MESSAGE);
}

kvf_status_t kvfi_frame_finish(struct kvfi_frame_tx *tx, struct kvfi_frame_buf *buf)
{
    if (!buf->is_open) {
        kvf_status_t status = reserve(buf, KVFI_FRAME_OVERHEAD_BYTES);

        if (status)
            return status;
        open_frame(buf);
    }
    seal(tx, buf, crypto_secretstream_xchacha20poly1305_TAG_FINAL);
    return KVF_OK;
}

void kvfi_frame_buf_reset(struct kvfi_frame_buf *buf, size_t keep_bytes)
{
    buf->filled_bytes = 0;
    if (buf->cap_bytes > keep_bytes)
        kvfi_frame_buf_fini(buf);
}

void kvfi_frame_buf_fini(struct kvfi_frame_buf *buf)
{
    if (buf->data)
        sodium_memzero(buf->data, buf->cap_bytes);
    kvfi_free(buf->data);
    *buf = (struct kvfi_frame_buf){0};
}

/* ---- receiving ---------------------------------------------------------------------------- */

kvf_status_t kvfi_frame_rx_init(struct kvfi_frame_rx *rx, const uint8_t key[32],
                                const uint8_t header[KVFI_FRAME_STREAM_HEADER_BYTES])
{
    return crypto_secretstream_xchacha20poly1305_init_pull(&rx->stream, header, key) ? KVF_EPROTO
                                                                                     : KVF_OK;
}

kvf_status_t kvfi_frame_open(struct kvfi_frame_rx *rx, uint8_t *bytes, size_t n_bytes,
                             struct kvfi_frame *ret_frame, const char **ret_text)
{
    uint8_t tag;
    size_t length;

    *ret_frame = (struct kvfi_frame){0};
    if (n_bytes < KVFI_FRAME_LENGTH_BYTES)
        return KVF_IN_PROGRESS;
    length = get_u32(bytes);
    if (length < KVFI_FRAME_SEAL_BYTES || length > TEXT_MAX + KVFI_FRAME_SEAL_BYTES) {
        *ret_text = "a frame's length is out of range";
        return KVF_EPROTO;
    }
    ret_frame->frame_bytes = KVFI_FRAME_LENGTH_BYTES + length;
    if (n_bytes < ret_frame->frame_bytes)
        return KVF_IN_PROGRESS;
    /* In place, as in seal(): the text stays where its cipher text was. */
    if (crypto_secretstream_xchacha20poly1305_pull(&rx->stream, bytes + TEXT_AT, NULL, &tag,
                                                   bytes + KVFI_FRAME_LENGTH_BYTES, length, NULL,
                                                   0)) {
        *ret_text = "a frame is forged, damaged or out of order";
        return KVF_EPROTO;
    }
    ret_frame->is_final = tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL;
    ret_frame->plain = bytes + TEXT_AT;
    ret_frame->plain_bytes = length - KVFI_FRAME_SEAL_BYTES;
    if (!ret_frame->is_final &&
        (tag != crypto_secretstream_xchacha20poly1305_TAG_MESSAGE || ret_frame->plain_bytes == 0)) {
        *ret_text = "a frame has an unknown tag or no message";
        return KVF_EPROTO;
    }
    return KVF_OK;
}

kvf_status_t kvfi_frame_next(struct kvfi_frame *frame, const uint8_t **ret_message,
                             size_t *ret_message_bytes)
{
    size_t n_bytes = 0;
    size_t n = 0;

    for (bool more = true; more; n++) {
        if (n == frame->plain_bytes || n == VARINT_MAX)
            return KVF_EPROTO;
        n_bytes |= (size_t)(frame->plain[n] & 0x7f) << (7 * n);
        more = frame->plain[n] & 0x80;
    }
    if (n_bytes > frame->plain_bytes - n)
        return KVF_EPROTO;
    *ret_message = frame->plain + n;
    *ret_message_bytes = n_bytes;
    frame->plain += n + n_bytes;
    frame->plain_bytes -= n + n_bytes;
    return KVF_OK;
}
