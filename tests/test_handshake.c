/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/handshake.h"

#include <sodium.h>
#include <string.h>

#include "collectives/util.h"
#include "harness.h"

struct side {
    struct kvfi_handshake h;
    struct kvfi_handshake_out out;
    kvf_status_t status;
};

static void fill_random(uint8_t *bytes, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)rnd(256);
}

static void start(struct side *side, bool is_client, const uint8_t *job_key)
{
    uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES];

    fill_random(random, sizeof(random));
    kvfi_handshake_init(&side->h, is_client, job_key, random, &side->out);
    side->status = KVF_IN_PROGRESS;
}

/* Feeds `n_bytes` in pieces of at most piece_bytes; side->out becomes all that came out. */
static size_t feed(struct side *side, const uint8_t *bytes, size_t n_bytes, size_t piece_bytes)
{
    struct kvfi_handshake_out all = {0};
    size_t used = 0;

    while (used < n_bytes && side->status == KVF_IN_PROGRESS) {
        size_t n = kvfi_min_u64(piece_bytes, n_bytes - used);
        struct kvfi_handshake_out out;
        size_t n_used;

        side->status = kvfi_handshake_input(&side->h, bytes + used, n, &n_used, &out);
        ck_assert_uint_le(n_used, n);
        if (side->status == KVF_IN_PROGRESS)
            ck_assert_uint_eq(n_used, n);
        memcpy(all.bytes + all.n_bytes, out.bytes, out.n_bytes);
        all.n_bytes += out.n_bytes;
        used += n_used;
    }
    side->out = all;
    return used;
}

/* Runs the exchange, flipping one bit of message `flip_message` (0, 1, 2) if it is one of them. */
static void exchange(struct side *client, struct side *server, size_t piece_bytes,
                     unsigned flip_message, size_t flip_bit)
{
    struct side *to[] = {server, client, server};
    struct kvfi_handshake_out message = client->out;

    for (unsigned i = 0; i < 3; i++) {
        if (i == flip_message)
            message.bytes[flip_bit / 8] ^= (uint8_t)(1u << flip_bit % 8);
        feed(to[i], message.bytes, message.n_bytes, piece_bytes);
        message = to[i]->out;
        if (to[i]->status < 0)
            return;
    }
}

START_TEST(both_sides_get_the_same_keys)
{
    const size_t pieces[] = {1, 7, 75, 76, 77, 1000};
    uint8_t key[KVF_JOB_KEY_BYTES];

    for (size_t i = 0; i < KVFI_ARRAY_LEN(pieces); i++) {
        struct side client;
        struct side server;

        fill_random(key, sizeof(key));
        start(&client, true, key);
        ck_assert_uint_eq(client.out.n_bytes, KVFI_HANDSHAKE_HELLO_BYTES);
        start(&server, false, key);
        ck_assert_uint_eq(server.out.n_bytes, 0);
        exchange(&client, &server, pieces[i], UINT32_MAX, 0);
        ck_assert_int_eq(client.status, KVF_OK);
        ck_assert_int_eq(server.status, KVF_OK);
        ck_assert_mem_eq(client.h.tx_key, server.h.rx_key, sizeof(client.h.tx_key));
        ck_assert_mem_eq(client.h.rx_key, server.h.tx_key, sizeof(client.h.tx_key));
        ck_assert_mem_ne(client.h.rx_key, client.h.tx_key, sizeof(client.h.tx_key));
    }
}
END_TEST

START_TEST(keys_depend_on_every_random_byte_of_both_sides)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {1};
    uint8_t random[2][KVFI_HANDSHAKE_RANDOM_BYTES] = {{2}, {3}};
    uint8_t first[KVFI_HANDSHAKE_KEY_BYTES];

    /* Byte 1 is inside the scalar, where X25519 ignores no bit. */
    for (unsigned round = 0; round < 5; round++) {
        struct side client = {.status = KVF_IN_PROGRESS};
        struct side server = {.status = KVF_IN_PROGRESS};

        if (round)
            random[(round - 1) / 2][(round - 1) % 2 ? 63 : 1] ^= 1;
        kvfi_handshake_init(&server.h, false, key, random[1], &server.out);
        kvfi_handshake_init(&client.h, true, key, random[0], &client.out);
        exchange(&client, &server, 1000, UINT32_MAX, 0);
        ck_assert_int_eq(server.status, KVF_OK);
        if (round)
            ck_assert_mem_ne(first, server.h.rx_key, sizeof(first));
        memcpy(first, server.h.rx_key, sizeof(first));
    }
}
END_TEST

/* One call over a copy, instead of the module's incremental one. */
static void keyed_hash(const uint8_t *key, const char *label, const uint8_t *shared,
                       const uint8_t *transcript, size_t n_bytes, uint8_t *out, size_t out_bytes)
{
    uint8_t all[512];
    size_t n = strlen(label) + 1;

    memcpy(all, label, n);
    if (shared)
        memcpy(all + n, shared, 32);
    n += shared ? 32 : 0;
    memcpy(all + n, transcript, n_bytes);
    ck_assert_int_eq(crypto_generichash(out, out_bytes, all, n + n_bytes, key, 32), 0);
}

/* The wire format, worked out a second time from what travels and the client's secret. */
START_TEST(the_format_is_the_documented_one)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {9};
    uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES] = {1, 2, 3};
    uint8_t transcript[KVFI_HANDSHAKE_HELLO_BYTES + KVFI_HANDSHAKE_REPLY_BYTES];
    uint8_t *reply = transcript + KVFI_HANDSHAKE_HELLO_BYTES;
    uint8_t shared[32];
    uint8_t hash[64];
    struct side client = {.status = KVF_IN_PROGRESS};
    struct side server;

    kvfi_handshake_init(&client.h, true, key, random, &client.out);
    start(&server, false, key);
    memcpy(transcript, client.out.bytes, KVFI_HANDSHAKE_HELLO_BYTES);
    ck_assert_mem_eq(transcript, "kvferry\x1a\1\0\0\0", 12);
    ck_assert_int_eq(crypto_scalarmult_base(shared, random), 0);
    ck_assert_mem_eq(transcript + 12, shared, 32);
    ck_assert_mem_eq(transcript + 44, random + 32, 32);
    feed(&server, client.out.bytes, client.out.n_bytes, 1000);
    ck_assert_uint_eq(server.out.n_bytes, KVFI_HANDSHAKE_REPLY_BYTES);
    memcpy(reply, server.out.bytes, KVFI_HANDSHAKE_REPLY_BYTES);
    ck_assert_mem_eq(reply, transcript, 12);
    keyed_hash(key, "server", NULL, transcript, 152, hash, 32);
    ck_assert_mem_eq(reply + 76, hash, 32);
    feed(&client, server.out.bytes, server.out.n_bytes, 1000);
    keyed_hash(key, "client", NULL, transcript, 184, hash, 32);
    ck_assert_mem_eq(client.out.bytes, hash, 32);
    ck_assert_int_eq(crypto_scalarmult(shared, random, reply + 12), 0);
    keyed_hash(key, "kvferry session keys", shared, transcript, 184, hash, 64);
    ck_assert_mem_eq(client.h.tx_key, hash, 32);
    ck_assert_mem_eq(client.h.rx_key, hash + 32, 32);
}
END_TEST

START_TEST(a_wrong_key_is_seen_by_the_client_first)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    uint8_t other[KVF_JOB_KEY_BYTES] = {0};
    struct side client;
    struct side server;

    other[KVF_JOB_KEY_BYTES - 1] = 1;
    start(&client, true, key);
    start(&server, false, other);
    exchange(&client, &server, 1000, UINT32_MAX, 0);
    ck_assert_int_eq(client.status, KVF_EAUTH);
    ck_assert_int_eq(server.status, KVF_IN_PROGRESS);
    ck_assert_uint_eq(client.out.n_bytes, 0);
    ck_assert_ptr_nonnull(client.h.text);
}
END_TEST

/* Every bit of every message matters: no exchange that was touched succeeds on both sides. */
START_TEST(any_flipped_bit_is_refused)
{
    const size_t message_bytes[] = {KVFI_HANDSHAKE_HELLO_BYTES, KVFI_HANDSHAKE_REPLY_BYTES,
                                    KVFI_HANDSHAKE_MAC_BYTES};
    uint8_t key[KVF_JOB_KEY_BYTES] = {5};

    for (unsigned m = 0; m < 3; m++) {
        for (size_t bit = 0; bit < 8 * message_bytes[m]; bit++) {
            bool is_prefix = m < 2 && bit < 8 * (size_t)KVFI_HANDSHAKE_PREFIX_BYTES;
            struct side client;
            struct side server;
            struct side *victim;

            start(&client, true, key);
            start(&server, false, key);
            exchange(&client, &server, 1000, m, bit);
            /* A changed hello is seen by the client, whose MAC covers what it really sent. */
            victim = m == 2 || (m == 0 && is_prefix) ? &server : &client;
            ck_assert_int_eq(victim->status, is_prefix ? KVF_EPROTO : KVF_EAUTH);
        }
    }
}
END_TEST

START_TEST(garbage_ends_at_its_first_wrong_byte)
{
    const char *http = "kGET / HTTP/1.1\r\n\r\n";
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    struct side server;

    start(&server, false, key);
    ck_assert_uint_eq(feed(&server, (const uint8_t *)http, strlen(http), 1), 2);
    ck_assert_int_eq(server.status, KVF_EPROTO);
    ck_assert_uint_eq(server.out.n_bytes, 0);
}
END_TEST

START_TEST(another_version_learns_ours)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    struct side client;
    struct side server;
    struct side old_client;

    start(&client, true, key);
    client.out.bytes[8] = 99;
    start(&server, false, key);
    feed(&server, client.out.bytes, client.out.n_bytes, 1000);
    ck_assert_int_eq(server.status, KVF_EPROTO);
    ck_assert_uint_eq(server.h.peer_version, 99);
    ck_assert_uint_eq(server.out.n_bytes, KVFI_HANDSHAKE_PREFIX_BYTES);
    /* These 12 bytes alone tell a client of another version what it met. */
    start(&old_client, true, key);
    server.out.bytes[8] = 42;
    feed(&old_client, server.out.bytes, server.out.n_bytes, 1000);
    ck_assert_int_eq(old_client.status, KVF_EPROTO);
    ck_assert_uint_eq(old_client.h.peer_version, 42);
}
END_TEST

START_TEST(a_client_cannot_be_answered_with_its_own_words)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    uint8_t reply[KVFI_HANDSHAKE_REPLY_BYTES];
    struct side client;
    struct side server;

    start(&client, true, key);
    memcpy(reply, client.out.bytes, KVFI_HANDSHAKE_HELLO_BYTES);
    start(&server, false, key);
    exchange(&client, &server, 1000, UINT32_MAX, 0);
    memcpy(reply + KVFI_HANDSHAKE_HELLO_BYTES, client.out.bytes, KVFI_HANDSHAKE_MAC_BYTES);
    start(&client, true, key);
    feed(&client, reply, sizeof(reply), 1000);
    ck_assert_int_eq(client.status, KVF_EAUTH);
}
END_TEST

START_TEST(a_recorded_exchange_does_not_open_a_session)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    struct kvfi_handshake_out hello;
    struct side client;
    struct side server;

    start(&client, true, key);
    hello = client.out;
    start(&server, false, key);
    exchange(&client, &server, 1000, UINT32_MAX, 0);
    ck_assert_int_eq(server.status, KVF_OK);
    start(&server, false, key);
    feed(&server, hello.bytes, hello.n_bytes, 1000);
    feed(&server, client.out.bytes, client.out.n_bytes, 1000);
    ck_assert_int_eq(server.status, KVF_EAUTH);
}
END_TEST

/* A peer that knows the job key but sends the point 0 must not fix the session's keys. */
START_TEST(a_degenerate_point_is_refused)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    struct side client;
    struct side server;

    start(&client, true, key);
    memset(client.out.bytes + KVFI_HANDSHAKE_PREFIX_BYTES, 0, KVFI_HANDSHAKE_KEY_BYTES);
    memcpy(client.h.transcript, client.out.bytes, KVFI_HANDSHAKE_HELLO_BYTES);
    start(&server, false, key);
    exchange(&client, &server, 1000, UINT32_MAX, 0);
    ck_assert_int_eq(client.status, KVF_OK);
    ck_assert_int_eq(server.status, KVF_EAUTH);
    ck_assert(sodium_is_zero(server.h.rx_key, sizeof(server.h.rx_key)));
}
END_TEST

START_TEST(bytes_behind_the_exchange_are_left_alone)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    uint8_t bytes[KVFI_HANDSHAKE_MAC_BYTES + 9];
    struct side client;
    struct side server;

    start(&client, true, key);
    start(&server, false, key);
    feed(&server, client.out.bytes, client.out.n_bytes, 1000);
    feed(&client, server.out.bytes, server.out.n_bytes, 1000);
    memcpy(bytes, client.out.bytes, KVFI_HANDSHAKE_MAC_BYTES);
    ck_assert_uint_eq(feed(&server, bytes, sizeof(bytes), 1000), KVFI_HANDSHAKE_MAC_BYTES);
    ck_assert_int_eq(server.status, KVF_OK);
}
END_TEST

START_TEST(fini_forgets_everything)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {7};
    struct side client;

    start(&client, true, key);
    kvfi_handshake_fini(&client.h);
    ck_assert(sodium_is_zero((const uint8_t *)&client.h, sizeof(client.h)));
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, both_sides_get_the_same_keys);
    tcase_add_test(tc, keys_depend_on_every_random_byte_of_both_sides);
    tcase_add_test(tc, the_format_is_the_documented_one);
    tcase_add_test(tc, a_wrong_key_is_seen_by_the_client_first);
    tcase_add_test(tc, any_flipped_bit_is_refused);
    tcase_add_test(tc, garbage_ends_at_its_first_wrong_byte);
    tcase_add_test(tc, another_version_learns_ours);
    tcase_add_test(tc, a_client_cannot_be_answered_with_its_own_words);
    tcase_add_test(tc, a_recorded_exchange_does_not_open_a_session);
    tcase_add_test(tc, a_degenerate_point_is_refused);
    tcase_add_test(tc, bytes_behind_the_exchange_are_left_alone);
    tcase_add_test(tc, fini_forgets_everything);
}

int main(void)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    return harness_main("handshake", fill, 60);
}
