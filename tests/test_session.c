/* SPDX-License-Identifier: Apache-2.0 */
/* What two well-meaning engines say to each other, and how sessions end. */
#include <pthread.h>

#include "control_rig.h"

static struct rig rig;

/* ---- every kind of message ---------------------------------------------------------------- */

static void fill_message(ProtobufCMessage *message);

static void fill_value(const ProtobufCFieldDescriptor *field, void *at)
{
    const ProtobufCMessageDescriptor *sub = field->descriptor;

    switch (field->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_SINT32:
        *(uint32_t *)at = (uint32_t)rnd64();
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        *(uint64_t *)at = rnd64();
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = 1;
        break;
    case PROTOBUF_C_TYPE_STRING:
        *(char **)at = strdup("some text of a message");
        break;
    case PROTOBUF_C_TYPE_BYTES:
        *(ProtobufCBinaryData *)at = (ProtobufCBinaryData){16, calloc(1, 16)};
        memset(((ProtobufCBinaryData *)at)->data, (int)rnd(256), 16);
        break;
    case PROTOBUF_C_TYPE_MESSAGE: {
        ProtobufCMessage *message = calloc(1, sub->sizeof_message);

        sub->message_init(message);
        fill_message(message);
        *(ProtobufCMessage **)at = message;
        break;
    }
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_ENUM:
    default:
        ck_abort_msg("field %s has a type this test does not know", field->name);
    }
}

/* Every field gets a value; of repeated ones there are three. */
static void fill_message(ProtobufCMessage *message)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        char *at = (char *)message + field->offset;

        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            const size_t stride = 32; /* at least that of every type */
            size_t size = field->type == PROTOBUF_C_TYPE_UINT32    ? 4
                          : field->type == PROTOBUF_C_TYPE_MESSAGE ? sizeof(void *)
                                                                   : sizeof(ProtobufCBinaryData);
            char *items = calloc(3, stride);

            for (size_t k = 0; k < 3; k++)
                fill_value(field, items + k * size);
            *(size_t *)((char *)message + field->quantifier_offset) = 3;
            *(void **)at = items;
        } else {
            fill_value(field, at);
        }
    }
}

/* A message of the index-th kind. */
static Kvfi__Wire__Message *make_message(unsigned index)
{
    const ProtobufCFieldDescriptor *field = &kvfi__wire__message__descriptor.fields[index];
    Kvfi__Wire__Message *message = calloc(1, sizeof(*message));

    kvfi__wire__message__init(message);
    fill_value(field, (char *)message + field->offset);
    message->kind_case = (Kvfi__Wire__Message__KindCase)field->id;
    return message;
}

static Kvfi__Wire__Message *expected_message;

static void compare_message(struct node *node, struct kvfi_session *session,
                            const Kvfi__Wire__Message *message)
{
    size_t n_bytes = kvfi__wire__message__get_packed_size(message);
    uint8_t *got = malloc(n_bytes);
    uint8_t *expected = malloc(n_bytes);

    (void)node;
    (void)session;
    ck_assert_uint_eq(kvfi__wire__message__get_packed_size(expected_message), n_bytes);
    ck_assert_int_eq(message->kind_case, expected_message->kind_case);
    (void)kvfi__wire__message__pack(message, got);
    (void)kvfi__wire__message__pack(expected_message, expected);
    ck_assert_mem_eq(got, expected, n_bytes);
    free(got);
    free(expected);
}

START_TEST(every_kind_arrives_in_both_directions)
{
    struct kvfi_session *session;
    unsigned n_kinds = kvfi__wire__message__descriptor.n_fields;

    rig_init(&rig);
    rig.server.on_message = compare_message;
    rig.client.on_message = compare_message;
    rig_create(&rig);
    session = rig_connect(&rig);
    ck_assert_uint_ge(n_kinds, 20);
    for (unsigned i = 0; i < n_kinds; i++) {
        expected_message = make_message(i);
        ck_assert_int_eq(kvfi_session_send(session, expected_message), KVF_OK);
        ck_assert_int_eq(kvfi_session_send(rig.server.sessions[0], expected_message), KVF_OK);
        RIG_UNTIL(&rig, rig.server.n_messages == i + 1 && rig.client.n_messages == i + 1);
        kvfi__wire__message__free_unpacked(expected_message, NULL);
    }
    assert_no_warnings(&rig);
    rig_fini(&rig);
}
END_TEST

/* ---- amounts ------------------------------------------------------------------------------ */

static uint64_t next_nonce[2];

static void count_up(struct node *node, struct kvfi_session *session,
                     const Kvfi__Wire__Message *message)
{
    uint64_t *next = &next_nonce[kvfi_session_is_outgoing(session)];

    (void)node;
    ck_assert_int_eq(message->kind_case, KVFI__WIRE__MESSAGE__KIND_PING);
    ck_assert_uint_eq(message->ping->nonce, *next);
    (*next)++;
}

START_TEST(many_small_messages_arrive_in_order)
{
    const uint64_t n = 100000;
    struct kvfi_control_stats stats;
    struct kvfi_session *session;

    rig_init(&rig);
    next_nonce[0] = next_nonce[1] = 0;
    rig.server.on_message = count_up;
    rig.client.on_message = count_up;
    rig_create(&rig);
    session = rig_connect(&rig);
    for (uint64_t i = 0; i < n; i++) {
        ck_assert_int_eq(send_ping(session, i), KVF_OK);
        ck_assert_int_eq(send_ping(rig.server.sessions[0], i), KVF_OK);
        if (i % 1000 == 999)
            rig_turn(&rig);
    }
    RIG_UNTIL(&rig, rig.server.n_messages == n && rig.client.n_messages == n);
    kvfi_control_stats(rig.server.control, &stats);
    /* Written together: far fewer frames than messages. */
    ck_assert_uint_le(stats.frames_sent, n / 100);
    ck_assert_uint_gt(stats.frames_received, 0);
    ck_assert_uint_gt(stats.bytes_sent, 10 * n);
    ck_assert_uint_gt(stats.bytes_received, 10 * n);
    assert_no_warnings(&rig);
    rig_fini(&rig);
}
END_TEST

static size_t expected_text_bytes;

static void check_text(struct node *node, struct kvfi_session *session,
                       const Kvfi__Wire__Message *message)
{
    (void)node;
    (void)session;
    ck_assert_int_eq(message->kind_case, KVFI__WIRE__MESSAGE__KIND_BYE);
    ck_assert_uint_eq(strspn(message->bye->text, "L"), expected_text_bytes);
    ck_assert_uint_eq(strlen(message->bye->text), expected_text_bytes);
}

START_TEST(large_messages_arrive)
{
    const size_t sizes[] = {1 << 20, 3, 4000000, 100, 40000, 1 << 20};
    struct kvfi_session *session;

    rig_init(&rig);
    rig.server.on_message = check_text;
    rig.client.on_message = check_text;
    rig_create(&rig);
    session = rig_connect(&rig);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(sizes); i++) {
        uint64_t n = 4 * (i + 1);

        expected_text_bytes = sizes[i];
        for (unsigned k = 0; k < 4; k++) {
            ck_assert_int_eq(send_text(session, sizes[i], 'L'), KVF_OK);
            ck_assert_int_eq(send_text(rig.server.sessions[0], sizes[i], 'L'), KVF_OK);
        }
        RIG_UNTIL(&rig, rig.server.n_messages == n && rig.client.n_messages == n);
    }
    ck_assert_int_eq(send_text(session, KVFI_CONTROL_FRAME_MAX, 'L'), KVF_EINVAL);
    expected_text_bytes = 1;
    ck_assert_int_eq(send_text(session, 1, 'L'), KVF_OK);
    RIG_UNTIL(&rig, rig.server.n_messages == 4 * KVFI_ARRAY_LEN(sizes) + 1);
    assert_no_warnings(&rig);
    rig_fini(&rig);
}
END_TEST

static uint64_t n_checked;

/* The text says its own length and number in its characters. */
static void check_random_text(struct node *node, struct kvfi_session *session,
                              const Kvfi__Wire__Message *message)
{
    size_t n_bytes = strlen(message->bye->text);
    char fill_byte = (char)('a' + node->n_messages % 26);

    (void)session;
    for (size_t i = 0; i < n_bytes; i += 97)
        ck_assert(message->bye->text[i] == fill_byte);
    n_checked += n_bytes;
}

START_TEST(frames_of_all_sizes_arrive_however_they_are_cut)
{
    struct kvfi_session *session;
    uint64_t n_sent = 0;

    rig_init(&rig);
    n_checked = 0;
    rig.server.on_message = check_random_text;
    rig_create(&rig);
    session = rig_connect(&rig);
    for (unsigned i = 1; i <= 3000; i++) {
        size_t n_bytes = rnd(50) ? rnd(6000) : rnd(200000);

        ck_assert_int_eq(send_text(session, n_bytes, (char)('a' + i % 26)), KVF_OK);
        n_sent += n_bytes;
        if (rnd(3) == 0)
            kvfi_control_flush(rig.client.control);
        if (rnd(40) == 0)
            rig_turn(&rig);
    }
    RIG_UNTIL(&rig, rig.server.n_messages == 3000);
    ck_assert_uint_eq(n_checked, n_sent);
    assert_no_warnings(&rig);
    rig_fini(&rig);
}
END_TEST

START_TEST(what_is_queued_while_writing_follows)
{
    struct kvfi_session *session;

    rig_init(&rig);
    n_checked = 0;
    rig.server.on_message = check_random_text;
    rig_create(&rig);
    session = rig_connect(&rig);
    /* More than two sockets hold, so that libuv is still writing when the others are queued. */
    for (unsigned i = 1; i <= 32; i++)
        ck_assert_int_eq(send_text(session, 1 << 20, (char)('a' + i % 26)), KVF_OK);
    kvfi_control_flush(rig.client.control);
    for (unsigned i = 33; i <= 36; i++) {
        ck_assert_int_eq(send_text(session, 5, (char)('a' + i % 26)), KVF_OK);
        kvfi_control_flush(rig.client.control);
    }
    RIG_UNTIL(&rig, rig.server.n_messages == 36);
    ck_assert_uint_eq(n_checked, (32 << 20) + 20);
    rig_fini(&rig);
}
END_TEST

static void send_at_once(struct node *node, struct kvfi_session *session)
{
    (void)node;
    ck_assert_int_eq(send_ping(session, 0), KVF_OK);
    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
}

START_TEST(messages_may_follow_the_hand_shake_at_once)
{
    rig_init(&rig);
    next_nonce[0] = next_nonce[1] = 0;
    rig.server.on_up = send_at_once;
    rig.client.on_up = send_at_once;
    rig.server.on_message = count_up;
    rig.client.on_message = count_up;
    rig_create(&rig);
    (void)rig_connect(&rig);
    RIG_UNTIL(&rig, rig.server.n_messages == 2 && rig.client.n_messages == 2);
    rig_fini(&rig);
}
END_TEST

static void answer(struct node *node, struct kvfi_session *session,
                   const Kvfi__Wire__Message *message)
{
    (void)node;
    ck_assert_int_eq(send_ping(session, message->ping->nonce + 1), KVF_OK);
}

START_TEST(answers_leave_in_the_turn_of_the_question)
{
    struct kvfi_control_stats stats;
    struct kvfi_session *session;

    rig_init(&rig);
    rig.server.on_message = answer;
    rig_create(&rig);
    session = rig_connect(&rig);
    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
    ck_assert_int_eq(send_ping(session, 3), KVF_OK);
    RIG_UNTIL(&rig, rig.server.n_messages == 2);
    kvfi_control_stats(rig.server.control, &stats);
    ck_assert_uint_eq(stats.frames_sent, 1);
    RIG_UNTIL(&rig, rig.client.n_messages == 2);
    rig_fini(&rig);
}
END_TEST

START_TEST(flush_writes_before_the_loop_turns)
{
    struct kvfi_control_stats before;
    struct kvfi_control_stats after;
    struct kvfi_session *session;

    rig_init(&rig);
    rig_create(&rig);
    session = rig_connect(&rig);
    kvfi_control_stats(rig.client.control, &before);
    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
    ck_assert_int_eq(send_ping(session, 2), KVF_OK);
    kvfi_control_stats(rig.client.control, &after);
    ck_assert_uint_eq(after.frames_sent, before.frames_sent);
    kvfi_control_flush(rig.client.control);
    kvfi_control_stats(rig.client.control, &after);
    ck_assert_uint_eq(after.frames_sent, before.frames_sent + 1);
    RIG_UNTIL(&rig, rig.server.n_messages == 2);
    rig_fini(&rig);
}
END_TEST

START_TEST(sessions_do_not_mix)
{
    struct kvfi_session *sessions[10];

    rig_init(&rig);
    rig_create(&rig);
    for (unsigned i = 0; i < 10; i++) {
        sessions[i] = rig_connect(&rig);
        kvfi_session_set_user(sessions[i], &sessions[i]);
    }
    for (unsigned i = 0; i < 10; i++) {
        for (unsigned k = 0; k <= i; k++)
            ck_assert_int_eq(send_ping(sessions[i], i), KVF_OK);
    }
    RIG_UNTIL(&rig, rig.server.n_messages == 55);
    kvfi_session_close(sessions[4]);
    RIG_UNTIL(&rig, rig.server.n_down == 1 && rig.client.n_down == 1);
    ck_assert_ptr_eq(rig.client.last_user, &sessions[4]);
    ck_assert_int_eq(rig.client.last_status, KVF_OK);
    ck_assert_int_eq(rig.server.last_status, KVF_ENET);
    ck_assert_ptr_nonnull(strstr(rig.server.last_text, "closed the session"));
    ck_assert_int_eq(send_ping(sessions[5], 1), KVF_OK);
    RIG_UNTIL(&rig, rig.server.n_messages == 56);
    assert_no_warnings(&rig);
    rig_fini(&rig);
}
END_TEST

/* ---- ending ------------------------------------------------------------------------------- */

START_TEST(close_writes_what_is_queued)
{
    struct kvfi_session *session;

    rig_init(&rig);
    rig.server.on_message = check_text;
    rig_create(&rig);
    session = rig_connect(&rig);
    expected_text_bytes = 1 << 20;
    for (unsigned i = 0; i < 20; i++)
        ck_assert_int_eq(send_text(session, expected_text_bytes, 'L'), KVF_OK);
    kvfi_session_close(session);
    kvfi_session_close(session);
    ck_assert_int_eq(send_ping(session, 1), KVF_ESTATE);
    ck_assert_uint_eq(rig.client.n_down, 0);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_down == 1);
    ck_assert_uint_eq(rig.server.n_messages, 20);
    ck_assert_int_eq(rig.client.last_status, KVF_OK);
    rig_fini(&rig);
}
END_TEST

START_TEST(close_waits_for_what_is_being_written)
{
    struct kvfi_session *session;

    rig_init(&rig);
    n_checked = 0;
    rig.server.on_message = check_random_text;
    rig_create(&rig);
    session = rig_connect(&rig);
    for (unsigned i = 1; i <= 32; i++)
        ck_assert_int_eq(send_text(session, 1 << 20, (char)('a' + i % 26)), KVF_OK);
    kvfi_control_flush(rig.client.control);
    ck_assert_int_eq(send_text(session, 5, 'a' + 33 % 26), KVF_OK);
    kvfi_session_close(session);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_down == 1);
    ck_assert_uint_eq(n_checked, (32 << 20) + 5);
    ck_assert_int_eq(rig.client.last_status, KVF_OK);
    ck_assert_ptr_nonnull(strstr(rig.server.last_text, "closed the session"));
    rig_fini(&rig);
}
END_TEST

/* A socket that is closed with unread input resets the connection, and drops what it had to send. */
START_TEST(close_loses_nothing_behind_unread_input)
{
    struct kvfi_session *session;

    rig_init(&rig);
    rig_create(&rig);
    session = rig_connect(&rig);
    ck_assert_int_eq(send_text(rig.server.sessions[0], 1 << 20, 'L'), KVF_OK);
    kvfi_control_flush(rig.server.control);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(send_text(session, 1 << 20, 'L'), KVF_OK);
    kvfi_session_close(session);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_down == 1);
    ck_assert_uint_eq(rig.server.n_messages, 2);
    ck_assert_uint_eq(rig.client.n_messages, 0);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_session_ends_once)
{
    struct kvfi_session *session;
    char address[80];

    rig_init(&rig);
    rig_create(&rig);
    node_address(&rig.server, address, sizeof(address));
    session = rig_connect_to(&rig, address);
    kvfi_session_close(session);
    kvfi_session_close(session);
    node_destroy(&rig, &rig.client);
    ck_assert_uint_eq(rig.client.n_down, 1);
    ck_assert_str_eq(rig.client.last_text, "closed");
    rig_fini(&rig);
}
END_TEST

START_TEST(both_may_close_at_once)
{
    struct kvfi_session *session;

    rig_init(&rig);
    rig_create(&rig);
    session = rig_connect(&rig);
    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
    kvfi_session_close(session);
    kvfi_session_close(rig.server.sessions[0]);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_OK);
    ck_assert_int_eq(rig.server.last_status, KVF_OK);
    rig_fini(&rig);
}
END_TEST

static void close_at_once(struct node *node, struct kvfi_session *session)
{
    (void)node;
    kvfi_session_close(session);
}

static void close_at_third(struct node *node, struct kvfi_session *session,
                           const Kvfi__Wire__Message *message)
{
    (void)message;
    if (node->n_messages == 3)
        kvfi_session_close(session);
}

START_TEST(callbacks_may_close)
{
    struct kvfi_session *session;

    rig_init(&rig);
    rig.server.on_message = close_at_third;
    rig_create(&rig);
    session = rig_connect(&rig);
    for (unsigned i = 0; i < 10; i++) {
        ck_assert_int_eq(send_ping(session, i), KVF_OK);
        if (i > 4) /* the third has company in its frame, and frames follow */
            kvfi_control_flush(rig.client.control);
    }
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_down == 1);
    ck_assert_uint_eq(rig.server.n_messages, 3);
    ck_assert_int_eq(rig.server.last_status, KVF_OK);
    ck_assert_int_eq(rig.client.last_status, KVF_ENET);
    rig.client.on_up = close_at_once;
    rig.server.on_up = close_at_once;
    (void)rig_connect(&rig);
    RIG_UNTIL(&rig, rig.client.n_down == 2 && rig.server.n_down == 2);
    ck_assert_int_eq(rig.client.last_status, KVF_OK);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_session_may_be_closed_before_it_is_up)
{
    struct kvfi_session *session;
    char address[80];

    rig_init(&rig);
    rig_create(&rig);
    node_address(&rig.server, address, sizeof(address));
    session = rig_connect_to(&rig, address);
    ck_assert_int_eq(send_ping(session, 1), KVF_ESTATE);
    kvfi_session_close(session);
    ck_assert_uint_eq(rig.client.n_down, 0);
    RIG_UNTIL(&rig, rig.client.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_OK);
    ck_assert_uint_eq(rig.client.n_up, 0);
    rig_fini(&rig);
}
END_TEST

START_TEST(destroy_ends_open_sessions)
{
    struct kvfi_session *session;

    rig_init(&rig);
    rig_create(&rig);
    for (unsigned i = 0; i < 5; i++)
        session = rig_connect(&rig);
    ck_assert_int_eq(send_ping(session, 1), KVF_OK);
    node_destroy(&rig, &rig.client);
    ck_assert_uint_eq(rig.client.n_down, 5);
    RIG_UNTIL(&rig, rig.server.n_down == 5);
    ck_assert_uint_eq(rig.server.n_messages, 1);
    ck_assert_int_eq(rig.server.last_status, KVF_ENET);
    rig_fini(&rig);
}
END_TEST

static void destroy_from_inside(struct node *node, struct kvfi_session *session,
                                const Kvfi__Wire__Message *message)
{
    ck_assert_int_eq(message->ping->nonce, 77);
    kvfi_control_destroy(node->control, node_closed, node);
    ck_assert_int_eq(message->ping->nonce, 77);
    ck_assert_int_eq(send_ping(session, 1), KVF_ESTATE);
}

START_TEST(destroy_may_come_from_a_callback)
{
    struct kvfi_session *session;

    rig_init(&rig);
    rig.server.on_message = destroy_from_inside;
    rig_create(&rig);
    session = rig_connect(&rig);
    ck_assert_int_eq(send_ping(session, 77), KVF_OK);
    ck_assert_int_eq(send_ping(session, 78), KVF_OK);
    RIG_UNTIL(&rig, !rig.server.control && rig.client.n_down == 1);
    ck_assert_uint_eq(rig.server.n_messages, 1);
    ck_assert_uint_eq(rig.server.n_live, 0);
    rig_fini(&rig);
}
END_TEST

START_TEST(a_full_queue_ends_the_session)
{
    struct kvfi_session *session;
    kvf_status_t status = KVF_OK;

    rig_init(&rig);
    rig.client.config.max_queued_bytes = 3u << 20;
    rig_create(&rig);
    session = rig_connect(&rig);
    /* The server does not read, because the loop does not turn; the flushes fill its socket. */
    for (unsigned i = 0; i < 10000 && status == KVF_OK; i++) {
        status = send_text(session, 100000, 'L');
        kvfi_control_flush(rig.client.control);
    }
    ck_assert_int_eq(status, KVF_ENOSPC);
    ck_assert_uint_eq(rig.client.n_down, 0);
    ck_assert_int_eq(send_ping(session, 1), KVF_ESTATE);
    RIG_UNTIL(&rig, rig.client.n_down == 1 && rig.server.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_ENOSPC);
    rig_fini(&rig);
}
END_TEST

START_TEST(the_queue_limit_counts_what_is_being_written)
{
    const unsigned limit_mib = 32;
    const unsigned sockets_mib = 16; /* more than the two sockets hold */
    struct kvfi_session *session;
    unsigned n = 0;

    rig_init(&rig);
    rig.client.config.max_queued_bytes = (uint64_t)limit_mib << 20;
    rig_create(&rig);
    session = rig_connect(&rig);
    for (; n < limit_mib - 2; n++)
        ck_assert_int_eq(send_text(session, 1 << 20, 'L'), KVF_OK);
    kvfi_control_flush(rig.client.control);
    while (send_text(session, 1 << 20, 'L') == KVF_OK)
        n++;
    ck_assert_uint_lt(n, limit_mib + sockets_mib);
    RIG_UNTIL(&rig, rig.client.n_down == 1);
    ck_assert_int_eq(rig.client.last_status, KVF_ENOSPC);
    rig_fini(&rig);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------- */

/* One round with the n-th allocation failing. True: a message came through. */
static bool try_session(unsigned n, unsigned *n_enomem)
{
    unsigned n_down = rig.client.n_down;
    unsigned n_server_down = rig.server.n_down;
    uint64_t n_messages = rig.server.n_messages;
    struct kvfi_session *session = NULL;
    kvf_status_t status;
    char address[80];

    node_address(&rig.server, address, sizeof(address));
    kvfi_alloc_fail_at(n);
    status = kvfi_control_connect(rig.client.control, address, KVF_FOREVER, NULL, &session);
    if (status) {
        ck_assert_int_eq(status, KVF_ENOMEM);
        return false;
    }
    rig.client.n_live++;
    RIG_UNTIL(&rig, rig.client.n_down > n_down || rig.client.sessions[0]);
    if (rig.client.sessions[0])
        (void)send_text(session, 100000, 'L');
    RIG_UNTIL(&rig, rig.client.n_down > n_down || rig.server.n_messages > n_messages ||
                        rig.server.n_down > n_server_down);
    kvfi_alloc_fail_at(0);
    *n_enomem += rig.server.n_down > n_server_down && rig.server.last_status == KVF_ENOMEM;
    if (rig.client.n_down == n_down)
        kvfi_session_close(session);
    RIG_UNTIL(&rig, rig.client.n_live == 0 && rig.server.n_live == 0);
    return rig.server.n_messages > n_messages;
}

START_TEST(sessions_survive_every_failing_allocation)
{
    unsigned n_enomem = 0;
    unsigned n = 1;

    rig_init(&rig);
    rig_create(&rig);
    expected_text_bytes = 100000;
    rig.server.on_message = check_text;
    while (!try_session(n, &n_enomem))
        n++;
    ck_assert_uint_ge(n, 6);
    /* Growing the receive buffer, twice; the others end what the server does not know yet. */
    ck_assert_uint_eq(n_enomem, 2);
    ck_assert(try_session(0, &n_enomem));
    rig_fini(&rig);
}
END_TEST

/* ---- threads ------------------------------------------------------------------------------ */

/* An engine's thread: nothing of it is shared with the others'. Asserts nothing, only counts. */
static void *talk(void *arg)
{
    struct rig *own = arg;
    struct kvfi_session *session = NULL;
    char address[80];

    node_address(&own->server, address, sizeof(address));
    if (kvfi_control_connect(own->client.control, address, KVF_FOREVER, NULL, &session) != KVF_OK)
        return NULL;
    own->client.n_live++;
    while (own->client.n_up == 0 && own->client.n_down == 0)
        (void)uv_run(&own->loop, UV_RUN_ONCE);
    for (uint64_t i = 0; i < 2000 && own->client.n_down == 0; i++) {
        (void)send_ping(session, i);
        while (own->server.n_messages == i && own->client.n_down == 0)
            (void)uv_run(&own->loop, UV_RUN_ONCE);
    }
    return NULL;
}

START_TEST(control_objects_of_several_threads_do_not_meet)
{
    static struct rig rigs[3];
    pthread_t threads[3];

    for (unsigned i = 0; i < 3; i++) {
        rig_init(&rigs[i]);
        rig_create(&rigs[i]);
        if (i > 0)
            rigs[i].n_fds_before = -1;
    }
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, talk, &rigs[i]), 0);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 3; i-- > 0;) {
        ck_assert_uint_eq(rigs[i].server.n_messages, 2000);
        rig_fini(&rigs[i]);
    }
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, every_kind_arrives_in_both_directions);
    tcase_add_test(tc, many_small_messages_arrive_in_order);
    tcase_add_test(tc, large_messages_arrive);
    tcase_add_test(tc, frames_of_all_sizes_arrive_however_they_are_cut);
    tcase_add_test(tc, what_is_queued_while_writing_follows);
    tcase_add_test(tc, messages_may_follow_the_hand_shake_at_once);
    tcase_add_test(tc, answers_leave_in_the_turn_of_the_question);
    tcase_add_test(tc, flush_writes_before_the_loop_turns);
    tcase_add_test(tc, sessions_do_not_mix);
    tcase_add_test(tc, close_writes_what_is_queued);
    tcase_add_test(tc, close_waits_for_what_is_being_written);
    tcase_add_test(tc, close_loses_nothing_behind_unread_input);
    tcase_add_test(tc, a_session_ends_once);
    tcase_add_test(tc, both_may_close_at_once);
    tcase_add_test(tc, callbacks_may_close);
    tcase_add_test(tc, a_session_may_be_closed_before_it_is_up);
    tcase_add_test(tc, destroy_ends_open_sessions);
    tcase_add_test(tc, destroy_may_come_from_a_callback);
    tcase_add_test(tc, a_full_queue_ends_the_session);
    tcase_add_test(tc, the_queue_limit_counts_what_is_being_written);
    tcase_add_test(tc, sessions_survive_every_failing_allocation);
    tcase_add_test(tc, control_objects_of_several_threads_do_not_meet);
}

int main(void)
{
    return harness_main("session", fill, 60);
}
