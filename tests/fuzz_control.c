/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything of the control plane that reads a stranger's bytes, for libFuzzer; fuzz_main.c runs it
 * without. With clang, from an empty build folder:
 *   CC=clang meson setup -Db_sanitize=address,undefined -Db_lundef=false \
 *     -Dc_args=-fsanitize=fuzzer-no-link build-fuzz
 *   ninja -C build-fuzz tests/fuzz_control_libfuzzer && build-fuzz/tests/fuzz_control_libfuzzer
 */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/address.h"
#include "collectives/arena.h"
#include "collectives/frame.h"
#include "collectives/handshake.h"
#include "collectives/util.h"
#include "fuzz.h"

enum { ARENA_FIRST_BYTES = 1024, ARENA_MAX_BYTES = 16384 };

static const uint8_t key[32] = {1, 2, 3};

/* Not assert: it is wanted in release builds, too. */
static void require(bool ok)
{
    if (!ok)
        __builtin_trap();
}

static void fuzz_handshake(bool is_client, const uint8_t *bytes, size_t n_bytes)
{
    const uint8_t random[KVFI_HANDSHAKE_RANDOM_BYTES] = {4, 5, 6};
    size_t piece = n_bytes ? bytes[0] % 128 + 1u : 1;
    kvf_status_t status = KVF_IN_PROGRESS;
    struct kvfi_handshake_out out;
    struct kvfi_handshake h;
    size_t at = 0;

    kvfi_handshake_init(&h, is_client, key, random, &out);
    while (at < n_bytes && status == KVF_IN_PROGRESS) {
        size_t n = kvfi_min_u64(piece, n_bytes - at);
        size_t used;

        status = kvfi_handshake_input(&h, bytes + at, n, &used, &out);
        require(used <= n && out.n_bytes <= sizeof(out.bytes));
        require(status != KVF_IN_PROGRESS || used == n);
        at += used;
    }
    require(status != KVF_OK); /* nobody guesses the key */
    kvfi_handshake_fini(&h);
}

static void fuzz_messages(const uint8_t *plain, size_t n_bytes)
{
    struct kvfi_frame frame = {.plain = plain, .plain_bytes = n_bytes};
    struct kvfi_arena arena;
    const uint8_t *message;
    size_t message_bytes;

    if (kvfi_arena_init(&arena, ARENA_FIRST_BYTES, ARENA_MAX_BYTES))
        return;
    while (frame.plain_bytes && !kvfi_frame_next(&frame, &message, &message_bytes)) {
        Kvfi__Wire__Message *m;

        require(message >= plain && message + message_bytes <= plain + n_bytes);
        m = kvfi__wire__message__unpack(&arena.allocator, message_bytes, message);
        if (m)
            (void)kvfi__wire__message__get_packed_size(m);
        require(arena.total_bytes <= ARENA_MAX_BYTES);
        kvfi_arena_reset(&arena);
    }
    kvfi_arena_fini(&arena);
}

static void fuzz_frames(const uint8_t *bytes, size_t n_bytes)
{
    uint8_t *copy = malloc(n_bytes ? n_bytes : 1);
    uint8_t header[KVFI_FRAME_STREAM_HEADER_BYTES] = {0};
    const char *text = NULL;
    struct kvfi_frame_rx rx;
    struct kvfi_frame frame;
    kvf_status_t status;

    if (!copy)
        return;
    memcpy(copy, bytes, n_bytes);
    require(kvfi_frame_rx_init(&rx, key, header) == KVF_OK);
    status = kvfi_frame_open(&rx, copy, n_bytes, &frame, &text);
    require(status == KVF_IN_PROGRESS || (status == KVF_EPROTO && text));
    free(copy);
}

static void fuzz_address(const uint8_t *bytes, size_t n_bytes)
{
    char *text = calloc(1, n_bytes + 1);
    char again[KVFI_ADDRESS_TEXT_BYTES];
    struct sockaddr_storage addr;
    struct sockaddr_storage same;

    if (!text)
        return;
    memcpy(text, bytes, n_bytes);
    if (kvfi_address_parse(text, &addr) == KVF_OK) {
        kvfi_address_format(&addr, again);
        require(kvfi_address_parse(again, &same) == KVF_OK);
        require(kvfi_address_port(&addr) == kvfi_address_port(&same));
    }
    free(text);
}

/* NOLINTNEXTLINE(readability-identifier-naming) */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    if (n_bytes == 0 || sodium_init() < 0)
        return 0;
    switch (bytes[0] % 5) {
    case 0:
    case 1:
        fuzz_handshake(bytes[0] % 5, bytes + 1, n_bytes - 1);
        break;
    case 2:
        fuzz_frames(bytes + 1, n_bytes - 1);
        break;
    case 3:
        fuzz_messages(bytes + 1, n_bytes - 1);
        break;
    default:
        fuzz_address(bytes + 1, n_bytes - 1);
        break;
    }
    return 0;
}
