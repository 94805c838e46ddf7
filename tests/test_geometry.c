/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/geometry.h"

#include "instances.h"

enum { TEXT = 256 };

/* ---- descriptions ------------------------------------------------------------------------- */

static uint8_t memory[1 << 20];
static void *one_base[1] = {memory};
static const uint32_t some_layers[4] = {3, 4, 7, 9};

/* Head-major: [block][layer][kv][head][token], 4 heads of 8 tokens of 64 bytes. */
static struct kvf_pool_desc good_desc(void)
{
    return (struct kvf_pool_desc){
        .size = sizeof(struct kvf_pool_desc),
        .group = 1,
        .role = KVF_POOL_KV,
        .memory = KVF_MEMORY_HOST,
        .format = "bf16",
        .n_blocks = 10,
        .block_tokens = 8,
        .row_bytes = 64,
        .n_layers = 4,
        .layers = some_layers,
        .n_heads = 4,
        .first_head = 4,
        .n_heads_total = 16,
        .stride_row = 64,
        .stride_head = 64 * 8,
        .stride_kv = 64 * 8 * 4,
        .stride_layer = 64 * 8 * 4 * 2,
        .stride_block = 64 * 8 * 4 * 2 * 4,
        .n_bases = 1,
        .bases = one_base,
    };
}

static void check_desc(const struct kvf_pool_desc *desc, const char *sentence)
{
    struct kvfi_pool_geometry pool = {.n_heads = 77};
    char text[TEXT] = "";
    kvf_status_t status = kvfi_pool_init(desc, text, sizeof(text), &pool);

    if (!sentence) {
        ck_assert_msg(status == KVF_OK, "%s", text);
        kvfi_pool_fini(&pool);
        return;
    }
    ck_assert_msg(status == KVF_EINVAL, "accepted instead of: %s", sentence);
    ck_assert_msg(strstr(text, sentence) != NULL, "\"%s\" has no \"%s\"", text, sentence);
    ck_assert_uint_eq(pool.n_heads, 77);
}

START_TEST(defaults_are_filled_in)
{
    struct kvf_pool_desc desc = good_desc();
    struct kvfi_pool_geometry pool;
    char text[TEXT];

    desc.n_heads_total = 0;
    desc.tokens_per_row = 2;
    ck_assert_int_eq(kvfi_pool_init(&desc, text, sizeof(text), &pool), KVF_OK);
    ck_assert_uint_eq(pool.n_kv, 2);
    ck_assert_uint_eq(pool.n_heads_total, 8);
    ck_assert_uint_eq(pool.tokens_per_row, 2);
    ck_assert_uint_eq(pool.token_atom, 2);
    ck_assert_uint_eq(pool.head_atom, 1);
    ck_assert_uint_eq(pool.n_blocks, 10);
    ck_assert_str_eq(pool.format, "bf16");
    ck_assert_uint_eq(pool.n_layers, 4);
    ck_assert_mem_eq(pool.layers, some_layers, sizeof(some_layers));
    kvfi_pool_fini(&pool);
}
END_TEST

#define REFUSED(sentence, ...)                                                                     \
    do {                                                                                           \
        struct kvf_pool_desc d = good_desc();                                                      \
        __VA_ARGS__;                                                                               \
        check_desc(&d, sentence);                                                                  \
    } while (0)

START_TEST(bad_members_are_named)
{
    static const uint32_t falling[4] = {1, 2, 2, 3};
    static const uint32_t beyond[4] = {1, 2, 3, UINT32_MAX};

    REFUSED("group 16", d.group = 16);
    REFUSED("role 0", d.role = 0);
    REFUSED("role 9", d.role = 9);
    REFUSED("role 1023", d.role = 1023);
    REFUSED("flags 0x4", d.flags = 4);
    REFUSED("memory 0", d.memory = 0);
    REFUSED("memory 3", d.memory = 3);
    REFUSED("format", d.format = NULL);
    REFUSED("format", d.format = "");
    REFUSED("format", d.format = "sixteen bytes ..");
    REFUSED("n_blocks", d.n_blocks = 0);
    REFUSED("block_tokens 0", d.block_tokens = 0);
    REFUSED("tokens_per_row 3", d.tokens_per_row = 3);
    REFUSED("token_atom 3 is no multiple of tokens_per_row 2", d.tokens_per_row = 2;
            d.token_atom = 3);
    REFUSED("per-request", d.flags = KVF_POOL_PER_REQUEST);
    REFUSED("row_bytes 0", d.row_bytes = 0);
    REFUSED("n_kv 1", d.n_kv = 1);
    REFUSED("n_kv 2", d.n_kv = 2; d.role = KVF_POOL_KEY);
    REFUSED("n_layers 0", d.n_layers = 0);
    REFUSED("n_layers 4097", d.n_layers = 4097);
    REFUSED("layers", d.layers = NULL);
    REFUSED("layer 2 follows layer 2", d.layers = falling);
    REFUSED("layer 4294967295", d.layers = beyond);
    REFUSED("n_heads 0", d.n_heads = 0);
    REFUSED("n_heads 4 of a latent", d.role = KVF_POOL_LATENT);
    REFUSED("n_heads_total 7", d.n_heads_total = 7);
    REFUSED("first_head 4294967295", d.first_head = UINT32_MAX; d.n_heads_total = 0);
    REFUSED("n_bases 2", d.n_bases = 2);
    REFUSED("bases", d.bases = NULL);
    REFUSED("base 0 of 1", d.bases = (void *[]){NULL});
    REFUSED("stride_layer 4096", void *b[8]; for (unsigned i = 0; i < 8; i++) b[i] = memory;
            d.n_bases = 8; d.bases = b; d.stride_kv = 0);
    REFUSED(NULL, d.role = KVF_POOL_USER + 5);
}
END_TEST

START_TEST(rows_that_overlap_are_refused)
{
    REFUSED("stride_row 63", d.stride_row = 63);
    REFUSED("stride_head 0", d.stride_head = 0);
    REFUSED("stride_kv 2047", d.stride_kv--);
    REFUSED("stride_layer", d.stride_layer -= 64);
    REFUSED("stride_block", d.stride_block -= 1);
    REFUSED("stride_block 18446744073709551615", d.stride_block = UINT64_MAX);
    REFUSED("2^64", d.bases = (void *[]){(void *)(UINTPTR_MAX - 1000)});
    /* Axes of one row may have any stride. */
    REFUSED(NULL, d.n_blocks = 1; d.stride_block = 0);
    /* Two axes that do not nest, but whose rows fall between each other's. */
    REFUSED(NULL, d.n_layers = 1; d.n_heads = 1; d.n_blocks = 1; d.block_tokens = 2;
            d.stride_row = 2 * 64; d.stride_kv = 3 * 64);
    REFUSED("rows overlap", d.n_layers = 1; d.n_heads = 1; d.n_blocks = 1; d.block_tokens = 4;
            d.stride_row = 2 * 64; d.stride_kv = 4 * 64);
}
END_TEST

START_TEST(bases_that_overlap_are_refused)
{
    struct kvf_pool_desc d = good_desc();
    void *bases[8];

    d.n_bases = 8;
    d.bases = bases;
    d.stride_kv = d.stride_layer = 0;
    d.stride_block = 2048;
    /* Keys and values in one tensor a layer, then one tensor in all blocks. */
    for (unsigned i = 0; i < 8; i++)
        bases[i] = memory + (size_t)(7 - i) * 10 * 2048;
    check_desc(&d, NULL);
    bases[3] = memory + 10 * 2048 - 1;
    check_desc(&d, "bases");
    d.stride_block = 8 * 2048;
    for (unsigned i = 0; i < 8; i++)
        bases[i] = memory + (size_t)i * 2048;
    check_desc(&d, NULL);
    bases[5] = bases[4];
    check_desc(&d, "0 bytes apart");
}
END_TEST

/* Against painting every byte. */
START_TEST(overlap_agrees_with_painting)
{
    static uint8_t paint[1 << 16];
    unsigned n_bad = 0;

    for (unsigned round = 0; round < 4000; round++) {
        struct kvf_pool_desc d = good_desc();
        struct kvfi_pool_geometry pool;
        char text[TEXT];
        bool bad = false;
        kvf_status_t status;

        d.n_layers = 1 + rnd(3);
        d.n_heads = 1 + rnd(3);
        d.n_blocks = 1 + rnd(3);
        d.block_tokens = 1 + rnd(4);
        d.row_bytes = 1 + rnd(4);
        d.stride_row = rnd(8);
        d.stride_head = rnd(40);
        d.stride_kv = rnd(100);
        d.stride_layer = rnd(200);
        d.stride_block = rnd(800);
        memset(paint, 0, sizeof(paint));
        for (uint64_t i = 0; i < (uint64_t)d.n_layers * d.n_heads * d.n_blocks * d.block_tokens * 2;
             i++) {
            uint64_t x = i / 2;
            uint64_t at = i % 2 * d.stride_kv + x % d.n_layers * d.stride_layer;

            x /= d.n_layers;
            at += x % d.n_heads * d.stride_head;
            x /= d.n_heads;
            at += x % d.n_blocks * d.stride_block + x / d.n_blocks * d.stride_row;
            for (uint64_t k = 0; k < d.row_bytes; k++)
                bad = paint[at + k]++ || bad;
        }
        status = kvfi_pool_init(&d, text, sizeof(text), &pool);
        ck_assert_int_eq(status, bad ? KVF_EINVAL : KVF_OK);
        n_bad += bad;
        if (!bad)
            kvfi_pool_fini(&pool);
    }
    ck_assert_uint_gt(n_bad, 500);
    ck_assert_uint_lt(n_bad, 3500);
}
END_TEST

START_TEST(order_is_by_falling_stride)
{
    struct kvf_pool_desc d = good_desc();
    uint8_t order[4];

    kvfi_pool_order(&d, order);
    ck_assert_mem_eq(order, "\0\1\2\3", 4);
    d.stride_row = 64 * 4; /* token-major */
    d.stride_head = 64;
    kvfi_pool_order(&d, order);
    ck_assert_mem_eq(order, "\0\1\3\2", 4);
    d.stride_layer = 1; /* layers innermost */
    kvfi_pool_order(&d, order);
    ck_assert_mem_eq(order, "\1\3\2\0", 4);
    d.stride_layer = d.stride_kv = d.stride_head = d.stride_row = 5;
    kvfi_pool_order(&d, order);
    ck_assert_mem_eq(order, "\0\1\2\3", 4);
    d.n_bases = 8;
    d.stride_layer = d.stride_kv = 0;
    d.stride_row = 6;
    kvfi_pool_order(&d, order);
    ck_assert_mem_eq(order, "\1\0\3\2", 4);
}
END_TEST

/* ---- places ------------------------------------------------------------------------------- */

START_TEST(places_are_checked)
{
    struct kvf_place p = {.rank = 3, .n_ranks = 4, .cp_interleave_tokens = 9};
    struct kvf_place out;
    char text[TEXT];

    ck_assert_int_eq(kvfi_place_init(&p, text, sizeof(text), &out), KVF_OK);
    ck_assert_uint_eq(out.pp_size & out.n_dp_groups & out.tp_size & out.cp_size, 1);
    ck_assert_uint_eq(out.cp_interleave_tokens, 0);
    p.cp_rank = 1;
    ck_assert_int_eq(kvfi_place_init(&p, text, sizeof(text), &out), KVF_EINVAL);
    ck_assert_str_eq(text, "cp_rank 1 is not below cp_size 1");
    p.cp_size = 2;
    ck_assert_int_eq(kvfi_place_init(&p, text, sizeof(text), &out), KVF_OK);
    p.cp_interleave_tokens = 0;
    ck_assert_int_eq(kvfi_place_init(&p, text, sizeof(text), &out), KVF_EINVAL);
    p.cp_size = p.cp_rank = 0;
    p.n_ranks = 3;
    ck_assert_int_eq(kvfi_place_init(&p, text, sizeof(text), &out), KVF_EINVAL);
    ck_assert_str_eq(text, "rank 3 is not below n_ranks 3");
    p.n_ranks = 4097;
    ck_assert_int_eq(kvfi_place_init(&p, text, sizeof(text), &out), KVF_EINVAL);
}
END_TEST

/* ---- pools of a rank ---------------------------------------------------------------------- */

START_TEST(pools_of_a_rank_must_fit_together)
{
    struct topology t = TOPOLOGY_INIT;
    struct kvfi_instance_geometry in;
    struct kvfi_rank_geometry *r;
    char text[TEXT] = "";

    t.split_kv = true;
    in = topology_build(&t, "alpha");
    r = &in.ranks[0];
    ck_assert_int_eq(kvfi_rank_check(r, text, sizeof(text)), KVF_OK);
    r->pools[1].block_tokens *= 2;
    ck_assert_int_eq(kvfi_rank_check(r, text, sizeof(text)), KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "block_tokens"));
    r->pools[1].block_tokens /= 2;
    r->pools[1].flags = KVF_POOL_PER_REQUEST;
    ck_assert_int_eq(kvfi_rank_check(r, text, sizeof(text)), KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "per-request"));
    r->pools[1].flags = 0;
    r->pools[1].role = KVF_POOL_KV; /* has the keys of pool 0 again */
    ck_assert_int_eq(kvfi_rank_check(r, text, sizeof(text)), KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "two pools of roles"));
    r->pools[1].first_head += r->pools[0].n_heads;
    ck_assert_int_eq(kvfi_rank_check(r, text, sizeof(text)), KVF_OK);
    kvfi_instance_geometry_fini(&in);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    struct kvf_pool_desc desc = good_desc();
    struct kvfi_pool_geometry pool;
    char text[TEXT];

    for (unsigned n = 1; n < 3; n++) {
        kvfi_alloc_fail_at(n);
        ck_assert_int_eq(kvfi_pool_init(&desc, text, sizeof(text), &pool), KVF_ENOMEM);
    }
    kvfi_alloc_fail_at(0);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, defaults_are_filled_in);
    tcase_add_test(tc, bad_members_are_named);
    tcase_add_test(tc, rows_that_overlap_are_refused);
    tcase_add_test(tc, bases_that_overlap_are_refused);
    tcase_add_test(tc, overlap_agrees_with_painting);
    tcase_add_test(tc, order_is_by_falling_stride);
    tcase_add_test(tc, places_are_checked);
    tcase_add_test(tc, pools_of_a_rank_must_fit_together);
    tcase_add_test(tc, every_allocation_may_fail);
}

int main(void)
{
    return harness_main("geometry", fill, 60);
}
