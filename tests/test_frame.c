/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/frame.h"

#include <string.h>

#include "collectives/control.h"
#include "collectives/util.h"
#include "harness.h"

enum { NO_LIMIT = 64 << 20 };

static struct kvfi_frame_tx tx;
static struct kvfi_frame_rx rx;
static struct kvfi_frame_buf buf;
static const uint8_t key[32] = {42};

static void start(void)
{
    uint8_t header[KVFI_FRAME_STREAM_HEADER_BYTES];

    kvfi_frame_tx_init(&tx, key, header);
    ck_assert_int_eq(kvfi_frame_rx_init(&rx, key, header), KVF_OK);
    buf = (struct kvfi_frame_buf){0};
}

/* A message of about n_bytes, all of them `fill_byte`. */
static kvf_status_t append(size_t n_bytes, char fill_byte, size_t limit_bytes)
{
    Kvfi__Wire__Message message = KVFI__WIRE__MESSAGE__INIT;
    Kvfi__Wire__Bye bye;
    kvf_status_t status;

    /* Not the INIT macro: its cast is one that this project warns of. */
    kvfi__wire__bye__init(&bye);
    bye.text = calloc(1, n_bytes + 1);
    memset(bye.text, fill_byte, n_bytes);
    message.kind_case = KVFI__WIRE__MESSAGE__KIND_BYE;
    message.bye = &bye;
    status = kvfi_frame_append(&tx, &buf, &message, limit_bytes);
    free(bye.text);
    return status;
}

/* Takes the whole buffer apart; returns the number of messages, in ret_frames that of frames. */
static size_t receive_all(size_t text_bytes, char first, size_t *ret_frames)
{
    const char *text = NULL;
    struct kvfi_frame frame;
    const uint8_t *bytes;
    size_t n_messages = 0;
    size_t n_frames = 0;
    size_t n_bytes;

    for (size_t at = 0; at < buf.filled_bytes; at += frame.frame_bytes, n_frames++) {
        ck_assert_int_eq(kvfi_frame_open(&rx, buf.data + at, buf.filled_bytes - at, &frame, &text),
                         KVF_OK);
        while (frame.plain_bytes) {
            Kvfi__Wire__Message *message;

            ck_assert_int_eq(kvfi_frame_next(&frame, &bytes, &n_bytes), KVF_OK);
            message = kvfi__wire__message__unpack(NULL, n_bytes, bytes);
            ck_assert_ptr_nonnull(message);
            ck_assert_uint_eq(strlen(message->bye->text), text_bytes);
            ck_assert_uint_eq(
                strspn(message->bye->text, (char[]){(char)(first + n_messages % 26), 0}),
                text_bytes);
            kvfi__wire__message__free_unpacked(message, NULL);
            n_messages++;
        }
    }
    *ret_frames = n_frames;
    return n_messages;
}

START_TEST(messages_share_frames)
{
    size_t n_frames;

    start();
    for (unsigned i = 0; i < 2000; i++)
        ck_assert_int_eq(append(100, (char)('a' + i % 26), NO_LIMIT), KVF_OK);
    kvfi_frame_seal(&tx, &buf);
    ck_assert_uint_eq(receive_all(100, 'a', &n_frames), 2000);
    ck_assert_uint_eq(n_frames, tx.n_sealed);
    ck_assert_uint_ge(n_frames, 2000 * 100 / KVFI_FRAME_SHARED_MAX);
    ck_assert_uint_le(n_frames, 2 + 2000 * 108 / KVFI_FRAME_SHARED_MAX);
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(sizes_around_the_edges_arrive)
{
    const size_t sizes[] = {0,     1,     119,   120,   127,     128,     4000,   4096,
                            16300, 16384, 16400, 65536, 1 << 20, 2 << 20, 4194000};

    start();
    for (size_t i = 0; i < KVFI_ARRAY_LEN(sizes); i++) {
        size_t n_frames;

        ck_assert_int_eq(append(sizes[i], 'a', NO_LIMIT), KVF_OK);
        kvfi_frame_seal(&tx, &buf);
        ck_assert_uint_le(buf.filled_bytes, KVFI_CONTROL_FRAME_MAX);
        ck_assert_uint_eq(receive_all(sizes[i], 'a', &n_frames), 1);
        kvfi_frame_buf_reset(&buf, 32768);
        ck_assert_uint_eq(buf.filled_bytes, 0);
        ck_assert_uint_le(buf.cap_bytes, 32768);
    }
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(what_cannot_be_sent_changes_nothing)
{
    size_t n_frames;

    start();
    ck_assert_int_eq(append(10, 'a', NO_LIMIT), KVF_OK);
    ck_assert_int_eq(append(KVFI_CONTROL_FRAME_MAX, 'x', NO_LIMIT), KVF_EINVAL);
    ck_assert_int_eq(append(10, 'x', buf.filled_bytes + 10), KVF_ENOSPC);
    kvfi_alloc_fail_at(1);
    ck_assert_int_eq(append(100000, 'x', NO_LIMIT), KVF_ENOMEM);
    kvfi_alloc_fail_at(0);
    ck_assert_int_eq(append(10, 'b', NO_LIMIT), KVF_OK);
    kvfi_frame_seal(&tx, &buf);
    ck_assert_uint_eq(receive_all(10, 'a', &n_frames), 2);
    ck_assert_uint_eq(n_frames, 1);
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(a_partial_frame_says_what_it_needs)
{
    const char *text = NULL;
    struct kvfi_frame frame;

    start();
    ck_assert_int_eq(append(300, 'a', NO_LIMIT), KVF_OK);
    kvfi_frame_seal(&tx, &buf);
    for (size_t n = 0; n < buf.filled_bytes; n++) {
        ck_assert_int_eq(kvfi_frame_open(&rx, buf.data, n, &frame, &text), KVF_IN_PROGRESS);
        ck_assert_uint_eq(frame.frame_bytes, n < 4 ? 0 : buf.filled_bytes);
    }
    ck_assert_int_eq(kvfi_frame_open(&rx, buf.data, buf.filled_bytes, &frame, &text), KVF_OK);
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(bad_lengths_are_refused_from_four_bytes)
{
    const uint32_t lengths[] = {0,
                                1,
                                KVFI_FRAME_SEAL_BYTES - 1,
                                KVFI_CONTROL_FRAME_MAX - KVFI_FRAME_LENGTH_BYTES + 1,
                                0x7fffffff,
                                0xffffffff};

    start();
    for (size_t i = 0; i < KVFI_ARRAY_LEN(lengths); i++) {
        uint8_t bytes[4];
        const char *text = NULL;
        struct kvfi_frame frame;

        for (unsigned b = 0; b < 4; b++)
            bytes[b] = (uint8_t)(lengths[i] >> (8 * b));
        ck_assert_int_eq(kvfi_frame_open(&rx, bytes, 4, &frame, &text), KVF_EPROTO);
        ck_assert_ptr_nonnull(text);
    }
}
END_TEST

/* Flip, cut, repeat or swap: every one is noticed, wherever the bit is. */
START_TEST(a_changed_frame_is_refused)
{
    const char *text = NULL;
    struct kvfi_frame frame;

    start();
    ck_assert_int_eq(append(20, 'a', NO_LIMIT), KVF_OK);
    kvfi_frame_seal(&tx, &buf);
    for (size_t bit = 32; bit < 8 * buf.filled_bytes; bit++) {
        uint8_t copy[128];
        struct kvfi_frame_rx rx_copy = rx;

        memcpy(copy, buf.data, buf.filled_bytes);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_int_eq(kvfi_frame_open(&rx_copy, copy, buf.filled_bytes, &frame, &text),
                         KVF_EPROTO);
    }
    for (size_t n = 1; n < buf.filled_bytes - KVFI_FRAME_OVERHEAD_BYTES; n++) {
        uint8_t copy[128];
        struct kvfi_frame_rx rx_copy = rx;

        memcpy(copy, buf.data, buf.filled_bytes);
        copy[0] = (uint8_t)(copy[0] - n);
        ck_assert_int_eq(kvfi_frame_open(&rx_copy, copy, buf.filled_bytes, &frame, &text),
                         KVF_EPROTO);
    }
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(order_is_part_of_the_frame)
{
    const char *text = NULL;
    struct kvfi_frame frame;
    uint8_t copy[256];
    size_t one_bytes;

    start();
    ck_assert_int_eq(append(20, 'a', NO_LIMIT), KVF_OK);
    kvfi_frame_seal(&tx, &buf);
    one_bytes = buf.filled_bytes;
    ck_assert_int_eq(append(20, 'b', NO_LIMIT), KVF_OK);
    kvfi_frame_seal(&tx, &buf);
    memcpy(copy, buf.data, buf.filled_bytes);
    { /* the second one first */
        struct kvfi_frame_rx rx_copy = rx;

        ck_assert_int_eq(kvfi_frame_open(&rx_copy, copy + one_bytes, one_bytes, &frame, &text),
                         KVF_EPROTO);
    }
    ck_assert_int_eq(kvfi_frame_open(&rx, copy, one_bytes, &frame, &text), KVF_OK);
    /* the first one again */
    ck_assert_int_eq(kvfi_frame_open(&rx, buf.data, one_bytes, &frame, &text), KVF_EPROTO);
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(the_last_frame_says_so)
{
    const char *text = NULL;
    struct kvfi_frame frame;

    start();
    ck_assert_int_eq(kvfi_frame_finish(&tx, &buf), KVF_OK);
    ck_assert_int_eq(kvfi_frame_open(&rx, buf.data, buf.filled_bytes, &frame, &text), KVF_OK);
    ck_assert(frame.is_final);
    ck_assert_uint_eq(frame.plain_bytes, 0);
    kvfi_frame_buf_fini(&buf);
    start();
    ck_assert_int_eq(append(20, 'a', NO_LIMIT), KVF_OK);
    ck_assert_int_eq(kvfi_frame_finish(&tx, &buf), KVF_OK);
    ck_assert_int_eq(kvfi_frame_open(&rx, buf.data, buf.filled_bytes, &frame, &text), KVF_OK);
    ck_assert(frame.is_final);
    ck_assert_uint_gt(frame.plain_bytes, 20);
    kvfi_frame_buf_fini(&buf);
}
END_TEST

START_TEST(an_empty_frame_is_refused_unless_it_is_the_last)
{
    crypto_secretstream_xchacha20poly1305_state *stream = &tx.stream;
    const uint8_t tags[] = {crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
                            crypto_secretstream_xchacha20poly1305_TAG_PUSH};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(tags); i++) {
        uint8_t bytes[KVFI_FRAME_OVERHEAD_BYTES + 1] = {KVFI_FRAME_SEAL_BYTES + (uint8_t)i};
        const char *text = NULL;
        struct kvfi_frame frame;

        start();
        (void)crypto_secretstream_xchacha20poly1305_push(stream, bytes + 4, NULL,
                                                         (const uint8_t *)"", i, NULL, 0, tags[i]);
        ck_assert_int_eq(kvfi_frame_open(&rx, bytes, sizeof(bytes), &frame, &text), KVF_EPROTO);
        ck_assert_ptr_nonnull(text);
    }
}
END_TEST

START_TEST(message_lengths_stay_inside_the_frame)
{
    const struct {
        uint8_t bytes[8];
        size_t n_bytes;
        kvf_status_t expected;
    } cases[] = {
        {{0}, 1, KVF_OK},
        {{1, 7}, 2, KVF_OK},
        {{2, 7}, 2, KVF_EPROTO},
        {{0x80}, 1, KVF_EPROTO},
        {{0x80, 0}, 2, KVF_OK},
        {{0xff, 0xff, 0xff, 0xff, 0xff}, 5, KVF_EPROTO},
        {{0xff, 0xff, 0xff, 0xff, 0x7f}, 5, KVF_EPROTO},
        {{0x80, 0x80, 0x80, 0x80, 0x80, 0}, 6, KVF_EPROTO},
    };

    for (size_t i = 0; i < KVFI_ARRAY_LEN(cases); i++) {
        struct kvfi_frame frame = {.plain = cases[i].bytes, .plain_bytes = cases[i].n_bytes};
        const uint8_t *bytes;
        size_t n_bytes;

        ck_assert_int_eq(kvfi_frame_next(&frame, &bytes, &n_bytes), cases[i].expected);
    }
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, messages_share_frames);
    tcase_add_test(tc, sizes_around_the_edges_arrive);
    tcase_add_test(tc, what_cannot_be_sent_changes_nothing);
    tcase_add_test(tc, a_partial_frame_says_what_it_needs);
    tcase_add_test(tc, bad_lengths_are_refused_from_four_bytes);
    tcase_add_test(tc, a_changed_frame_is_refused);
    tcase_add_test(tc, order_is_part_of_the_frame);
    tcase_add_test(tc, the_last_frame_says_so);
    tcase_add_test(tc, an_empty_frame_is_refused_unless_it_is_the_last);
    tcase_add_test(tc, message_lengths_stay_inside_the_frame);
}

int main(void)
{
    if (sodium_init() < 0)
        return EXIT_FAILURE;
    return harness_main("frame", fill, 60);
}
