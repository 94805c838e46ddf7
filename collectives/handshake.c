/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/handshake.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

enum {
    MAGIC_BYTES = 8,
    KEY_AT = KVFI_HANDSHAKE_PREFIX_BYTES,
    NONCE_AT = KEY_AT + KVFI_HANDSHAKE_KEY_BYTES,
    NONCE_BYTES = 32,
    REPLY_AT = KVFI_HANDSHAKE_HELLO_BYTES, /* of the server's hello in the transcript */
    MAC_AT = 2 * KVFI_HANDSHAKE_HELLO_BYTES,
};

_Static_assert(NONCE_AT + NONCE_BYTES == KVFI_HANDSHAKE_HELLO_BYTES, "layout of a hello");
_Static_assert(KVF_JOB_KEY_BYTES >= crypto_generichash_KEYBYTES_MIN &&
                   KVF_JOB_KEY_BYTES <= crypto_generichash_KEYBYTES_MAX,
               "the job key is a key of the hash");
_Static_assert(KVFI_HANDSHAKE_KEY_BYTES == crypto_scalarmult_BYTES, "X25519");
_Static_assert(KVFI_HANDSHAKE_KEY_BYTES == crypto_scalarmult_SCALARBYTES, "X25519");

static const uint8_t magic[MAGIC_BYTES] = {'k', 'v', 'f', 'e', 'r', 'r', 'y', 0x1a};

static void put_prefix(uint8_t *at)
{
    memcpy(at, magic, MAGIC_BYTES);
    for (unsigned i = 0; i < 4; i++)
        at[MAGIC_BYTES + i] = (uint8_t)(KVFI_HANDSHAKE_VERSION >> (8 * i));
}

static void put_hello(const struct kvfi_handshake *h, const uint8_t *nonce, uint8_t *at)
{
    put_prefix(at);
    (void)crypto_scalarmult_base(at + KEY_AT, h->secret);
    memcpy(at + NONCE_AT, nonce, NONCE_BYTES);
}

/* Different labels, so that no MAC of one direction or purpose is ever one of another. */
static void keyed_hash(const struct kvfi_handshake *h, const char *label, const uint8_t *shared,
                       size_t transcript_bytes, uint8_t *out, size_t out_bytes)
{
    crypto_generichash_state state;

    (void)crypto_generichash_init(&state, h->job_key, sizeof(h->job_key), out_bytes);
    (void)crypto_generichash_update(&state, (const uint8_t *)label, strlen(label) + 1);
    if (shared)
        (void)crypto_generichash_update(&state, shared, KVFI_HANDSHAKE_KEY_BYTES);
    (void)crypto_generichash_update(&state, h->transcript, transcript_bytes);
    (void)crypto_generichash_final(&state, out, out_bytes);
    sodium_memzero(&state, sizeof(state));
}

static kvf_status_t fail(struct kvfi_handshake *h, kvf_status_t status, const char *text)
{
    h->text = text;
    h->is_over = true;
    return status;
}

/* Both halves are in the transcript. */
static kvf_status_t derive_keys(struct kvfi_handshake *h)
{
    const uint8_t *peer_key = h->transcript + (h->is_client ? REPLY_AT : 0) + KEY_AT;
    uint8_t shared[KVFI_HANDSHAKE_KEY_BYTES];
    uint8_t keys[2 * KVFI_HANDSHAKE_KEY_BYTES];
    const uint8_t *to_server = keys;
    const uint8_t *to_client = keys + KVFI_HANDSHAKE_KEY_BYTES;

    /* Fails for the few points that make the result independent of our secret. */
    if (crypto_scalarmult(shared, h->secret, peer_key))
        return fail(h, KVF_EAUTH, "the peer's ephemeral key is degenerate");
    keyed_hash(h, "kvferry session keys", shared, sizeof(h->transcript), keys, sizeof(keys));
    memcpy(h->tx_key, h->is_client ? to_server : to_client, KVFI_HANDSHAKE_KEY_BYTES);
    memcpy(h->rx_key, h->is_client ? to_client : to_server, KVFI_HANDSHAKE_KEY_BYTES);
    sodium_memzero(keys, sizeof(keys));
    sodium_memzero(shared, sizeof(shared));
    h->is_over = true;
    return KVF_OK;
}

static kvf_status_t client_got_reply(struct kvfi_handshake *h, struct kvfi_handshake_out *out)
{
    uint8_t mac[KVFI_HANDSHAKE_MAC_BYTES];

    memcpy(h->transcript + REPLY_AT, h->in, KVFI_HANDSHAKE_REPLY_BYTES);
    keyed_hash(h, "server", NULL, MAC_AT, mac, sizeof(mac));
    if (sodium_memcmp(mac, h->in + KVFI_HANDSHAKE_HELLO_BYTES, sizeof(mac)) != 0)
        return fail(h, KVF_EAUTH, "the peer does not know the job key");
    keyed_hash(h, "client", NULL, sizeof(h->transcript), out->bytes, KVFI_HANDSHAKE_MAC_BYTES);
    out->n_bytes = KVFI_HANDSHAKE_MAC_BYTES;
    return derive_keys(h);
}

static kvf_status_t server_got_hello(struct kvfi_handshake *h, struct kvfi_handshake_out *out)
{
    memcpy(h->transcript, h->in, KVFI_HANDSHAKE_HELLO_BYTES);
    keyed_hash(h, "server", NULL, MAC_AT, h->transcript + MAC_AT, KVFI_HANDSHAKE_MAC_BYTES);
    memcpy(out->bytes, h->transcript + REPLY_AT, KVFI_HANDSHAKE_REPLY_BYTES);
    out->n_bytes = KVFI_HANDSHAKE_REPLY_BYTES;
    h->in_bytes = 0;
    h->want_bytes = KVFI_HANDSHAKE_MAC_BYTES;
    return KVF_IN_PROGRESS;
}

static kvf_status_t server_got_proof(struct kvfi_handshake *h)
{
    uint8_t mac[KVFI_HANDSHAKE_MAC_BYTES];

    keyed_hash(h, "client", NULL, sizeof(h->transcript), mac, sizeof(mac));
    if (sodium_memcmp(mac, h->in, sizeof(mac)) != 0)
        return fail(h, KVF_EAUTH, "the peer does not know the job key");
    return derive_keys(h);
}

/*
 * As early as possible: a port scanner is sent away after its first wrong byte, and a peer of
 * another version learns ours, whatever its hello looks like after the prefix.
 */
static kvf_status_t check_prefix(struct kvfi_handshake *h, struct kvfi_handshake_out *out)
{
    size_t n_magic = h->in_bytes < MAGIC_BYTES ? h->in_bytes : MAGIC_BYTES;

    if (memcmp(h->in, magic, n_magic) != 0)
        return fail(h, KVF_EPROTO, "the peer does not speak this protocol");
    if (h->in_bytes < KVFI_HANDSHAKE_PREFIX_BYTES)
        return KVF_IN_PROGRESS;
    h->peer_version = 0;
    for (unsigned i = 0; i < 4; i++)
        h->peer_version |= (uint32_t)h->in[MAGIC_BYTES + i] << (8 * i);
    if (h->peer_version == KVFI_HANDSHAKE_VERSION)
        return KVF_IN_PROGRESS;
    if (!h->is_client) {
        put_prefix(out->bytes);
        out->n_bytes = KVFI_HANDSHAKE_PREFIX_BYTES;
    }
    return fail(h, KVF_EPROTO, "the peer speaks another version of this protocol");
}

void kvfi_handshake_init(struct kvfi_handshake *h, bool is_client,
                         const uint8_t job_key[KVF_JOB_KEY_BYTES],
                         const uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES],
                         struct kvfi_handshake_out *ret_out)
{
    memset(h, 0, sizeof(*h));
    h->is_client = is_client;
    memcpy(h->job_key, job_key, sizeof(h->job_key));
    memcpy(h->secret, random, sizeof(h->secret));
    put_hello(h, random + sizeof(h->secret), h->transcript + (is_client ? 0 : REPLY_AT));
    h->want_bytes = is_client ? KVFI_HANDSHAKE_REPLY_BYTES : KVFI_HANDSHAKE_HELLO_BYTES;
    ret_out->n_bytes = 0;
    if (is_client) {
        memcpy(ret_out->bytes, h->transcript, KVFI_HANDSHAKE_HELLO_BYTES);
        ret_out->n_bytes = KVFI_HANDSHAKE_HELLO_BYTES;
    }
}

kvf_status_t kvfi_handshake_input(struct kvfi_handshake *h, const uint8_t *bytes, size_t n_bytes,
                                  size_t *ret_used, struct kvfi_handshake_out *ret_out)
{
    kvf_status_t status = KVF_IN_PROGRESS;
    size_t used = 0;

    ret_out->n_bytes = 0;
    while (status == KVF_IN_PROGRESS && used < n_bytes && !h->is_over) {
        size_t n = h->want_bytes - h->in_bytes;

        if (n > n_bytes - used)
            n = n_bytes - used;
        memcpy(h->in + h->in_bytes, bytes + used, n);
        used += n;
        h->in_bytes += n;
        if (h->want_bytes != KVFI_HANDSHAKE_MAC_BYTES)
            status = check_prefix(h, ret_out);
        if (status != KVF_IN_PROGRESS || h->in_bytes < h->want_bytes)
            continue;
        if (h->is_client)
            status = client_got_reply(h, ret_out);
        else if (h->want_bytes == KVFI_HANDSHAKE_HELLO_BYTES)
            status = server_got_hello(h, ret_out);
        else
            status = server_got_proof(h);
    }
    *ret_used = used;
    return status;
}

void kvfi_handshake_fini(struct kvfi_handshake *h)
{
    sodium_memzero(h, sizeof(*h));
}
