/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/arena.h"

#include <string.h>

#include "collectives/util.h"
#include "collectives/wire.pb-c.h"
#include "harness.h"

START_TEST(the_arena_grows_to_its_ceiling_and_comes_back)
{
    struct kvfi_arena arena;
    void *first;
    size_t n = 0;

    kvfi_alloc_fail_at(1);
    ck_assert_int_eq(kvfi_arena_init(&arena, 1024, 8192), KVF_ENOMEM);
    kvfi_arena_fini(&arena);
    kvfi_alloc_fail_at(0);
    ck_assert_int_eq(kvfi_arena_init(&arena, 1024, 8192), KVF_OK);
    for (unsigned round = 0; round < 3; round++) {
        char *p;

        first = NULL;
        for (n = 0; (p = arena.allocator.alloc(&arena, 100)) != NULL; n++) {
            ck_assert_uint_eq((uintptr_t)p % 16, 0);
            memset(p, 0x5a, 100);
            if (!first)
                first = p;
            ck_assert_uint_lt(n, 8192 / 100);
        }
        ck_assert_uint_ge(n, 8192 / 112 - 4);
        ck_assert_uint_le(arena.total_bytes, 8192);
        kvfi_arena_reset(&arena);
        ck_assert_ptr_eq(arena.allocator.alloc(&arena, 1), first);
        kvfi_arena_reset(&arena);
    }
    ck_assert_ptr_null(arena.allocator.alloc(&arena, SIZE_MAX));
    ck_assert_ptr_null(arena.allocator.alloc(&arena, 8193));
    ck_assert_ptr_nonnull(arena.allocator.alloc(&arena, 7168));
    kvfi_arena_fini(&arena);
}
END_TEST

/* Two bytes of wire make a struct of some dozen: the arena's ceiling bounds what a peer costs. */
START_TEST(the_arena_bounds_a_swollen_message)
{
    const size_t n_runs = 100000;
    const size_t offer_bytes = 2 * n_runs;
    uint8_t *bytes = calloc(1, offer_bytes + 8);
    struct kvfi_arena arena;
    size_t at = 0;

    bytes[at++] = 15 << 3 | 2;
    bytes[at++] = (uint8_t)(offer_bytes | 0x80);
    bytes[at++] = (uint8_t)(offer_bytes >> 7 | 0x80);
    bytes[at++] = (uint8_t)(offer_bytes >> 14);
    for (size_t i = 0; i < n_runs; i++) {
        bytes[at++] = 2 << 3 | 2;
        bytes[at++] = 0;
    }
    ck_assert_int_eq(kvfi_arena_init(&arena, 65536, 1 << 20), KVF_OK);
    ck_assert_ptr_null(kvfi__wire__message__unpack(&arena.allocator, at, bytes));
    ck_assert_uint_le(arena.total_bytes, 1 << 20);
    kvfi_arena_reset(&arena);
    kvfi_arena_fini(&arena);
    ck_assert_int_eq(kvfi_arena_init(&arena, 65536, 1 << 26), KVF_OK);
    ck_assert_ptr_nonnull(kvfi__wire__message__unpack(&arena.allocator, at, bytes));
    kvfi_arena_fini(&arena);
    free(bytes);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, the_arena_grows_to_its_ceiling_and_comes_back);
    tcase_add_test(tc, the_arena_bounds_a_swollen_message);
}

int main(void)
{
    return harness_main("arena", fill, 60);
}
