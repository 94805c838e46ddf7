/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/wire.pb-c.h"
#include "instances.h"
#include "plugin/geometry.h"

enum { TEXT = 256, BLOB = 4096 };

struct blobs {
    struct kvfi_instance_geometry in;
    size_t n;
    const void *bytes[64];
    size_t n_bytes[64];
    uint8_t store[64][BLOB];
};

static void blobs_encode(struct blobs *b)
{
    for (uint32_t i = 0; i < b->in.n_ranks; i++) {
        b->n_bytes[i] =
            kvfi_rank_encode(&b->in.ranks[i], b->in.name, b->in.compat, b->store[i], BLOB);
        b->bytes[i] = b->store[i];
        ck_assert_uint_le(b->n_bytes[i], BLOB);
    }
}

static struct blobs *blobs_new(const struct topology *t)
{
    struct blobs *b = calloc(1, sizeof(*b));

    ck_assert_ptr_nonnull(b);
    b->in = topology_build(t, "alpha");
    memcpy(b->in.compat, "model-7", 8);
    for (uint32_t i = 0; i < b->in.n_ranks; i++) {
        memcpy(b->in.ranks[i].address, "[::1]:4711", 11);
        b->in.ranks[i].incarnation = 0x123456789abcdef0u + i;
    }
    b->n = b->in.n_ranks;
    blobs_encode(b);
    return b;
}

static void blobs_free(struct blobs *b)
{
    kvfi_instance_geometry_fini(&b->in);
    free(b);
}

/* Not memcmp: there is padding. */
#define SAME(a, b, member) ck_assert_uint_eq((a)->member, (b)->member)

static void check_same_place(const struct kvf_place *a, const struct kvf_place *b)
{
    SAME(a, b, size);
    SAME(a, b, rank);
    SAME(a, b, n_ranks);
    SAME(a, b, pp_rank);
    SAME(a, b, pp_size);
    SAME(a, b, dp_group);
    SAME(a, b, n_dp_groups);
    SAME(a, b, tp_rank);
    SAME(a, b, tp_size);
    SAME(a, b, cp_rank);
    SAME(a, b, cp_size);
    SAME(a, b, cp_interleave_tokens);
}

static void check_same_pool(const struct kvfi_pool_geometry *a, const struct kvfi_pool_geometry *b)
{
    SAME(a, b, group);
    SAME(a, b, role);
    SAME(a, b, flags);
    SAME(a, b, n_blocks);
    SAME(a, b, block_tokens);
    SAME(a, b, tokens_per_row);
    SAME(a, b, token_atom);
    SAME(a, b, n_kv);
    SAME(a, b, row_bytes);
    SAME(a, b, n_heads);
    SAME(a, b, first_head);
    SAME(a, b, n_heads_total);
    SAME(a, b, head_atom);
    SAME(a, b, n_layers);
    ck_assert_mem_eq(a->layers, b->layers, a->n_layers * sizeof(*a->layers));
    ck_assert_str_eq(a->format, b->format);
    ck_assert_mem_eq(a->order, b->order, sizeof(a->order));
}

static void check_same(const struct kvfi_rank_geometry *a, const struct kvfi_rank_geometry *b)
{
    check_same_place(&a->place, &b->place);
    ck_assert_str_eq(a->address, b->address);
    SAME(a, b, incarnation);
    SAME(a, b, n_pools);
    for (uint32_t i = 0; i < a->n_pools; i++)
        check_same_pool(&a->pools[i], &b->pools[i]);
}

static kvf_status_t decode(const void *bytes, size_t n_bytes, char *text)
{
    struct kvfi_rank_geometry rank;
    char name[KVF_NAME_MAX];
    char compat[KVF_NAME_MAX];
    kvf_status_t status = kvfi_rank_decode(bytes, n_bytes, text, TEXT, name, compat, &rank);

    if (status == KVF_OK)
        kvfi_rank_geometry_fini(&rank);
    return status;
}

START_TEST(blobs_make_the_instance_again)
{
    struct topology t = topology_mixed();
    struct blobs *b = blobs_new(&t);
    struct kvfi_instance_geometry in;
    char text[TEXT] = "";

    ck_assert_msg(kvfi_instance_build(b->bytes, b->n_bytes, b->n, text, sizeof(text), &in) ==
                      KVF_OK,
                  "%s", text);
    ck_assert_str_eq(in.name, "alpha");
    ck_assert_str_eq(in.compat, "model-7");
    ck_assert_uint_eq(in.n_ranks, 8);
    for (uint32_t i = 0; i < in.n_ranks; i++)
        check_same(&in.ranks[i], &b->in.ranks[i]);
    kvfi_instance_geometry_fini(&in);
    /* Too little room: the size, and nothing written. */
    memset(b->store[0], 0xee, BLOB);
    ck_assert_uint_eq(
        kvfi_rank_encode(&b->in.ranks[0], "alpha", "model-7", b->store[0], b->n_bytes[0] - 1),
        b->n_bytes[0]);
    ck_assert_uint_eq(b->store[0][0], 0xee);
    blobs_free(b);
}
END_TEST

/* Whatever comes: an answer, a sentence with it, no fault and no leak. */
START_TEST(hostile_blobs_are_survived)
{
    struct topology t = topology_mixed();
    struct blobs *b = blobs_new(&t);
    unsigned n_refused = 0;
    char text[TEXT];

    for (size_t n = 0; n < b->n_bytes[0]; n++) {
        void *exact = malloc(n + !n); /* so that a sanitizer sees a read beyond */

        ck_assert_ptr_nonnull(exact);
        memcpy(exact, b->store[0], n);
        ck_assert_int_ne(decode(exact, n, text), KVF_ENOMEM);
        free(exact);
    }
    for (unsigned round = 0; round < 5000; round++) {
        uint8_t bytes[BLOB];
        kvf_status_t status;

        memcpy(bytes, b->store[0], b->n_bytes[0]);
        for (unsigned i = rnd(3) + 1; i > 0; i--)
            bytes[rnd((uint32_t)b->n_bytes[0])] ^= (uint8_t)(1u << rnd(8));
        text[0] = '\0';
        status = decode(bytes, b->n_bytes[0], text);
        ck_assert(status == KVF_OK || status == KVF_EINVAL);
        ck_assert_int_eq(status == KVF_OK, text[0] == '\0');
        n_refused += status != KVF_OK;
    }
    ck_assert_uint_gt(n_refused, 1000);
    blobs_free(b);
}
END_TEST

static void check_blob_refused(const Kvfi__Wire__RankGeometry *m, const char *sentence)
{
    static const uint8_t begin[8] = {'k', 'v', 'f', 'r', 'a', 'n', 'k', 1};
    static uint8_t bytes[KVFI_BLOB_MAX];
    char text[TEXT] = "";

    memcpy(bytes, begin, sizeof(begin));
    ck_assert_uint_le(kvfi__wire__rank_geometry__get_packed_size(m), sizeof(bytes) - 8);
    ck_assert_int_eq(decode(bytes, 8 + kvfi__wire__rank_geometry__pack(m, bytes + 8), text),
                     KVF_EINVAL);
    ck_assert_msg(strstr(text, sentence) != NULL, "\"%s\" has no \"%s\"", text, sentence);
}

START_TEST(limits_are_checked_first)
{
    static Kvfi__Wire__PoolGeometry *many[80000];
    static uint32_t layers[5000];
    static uint8_t huge[KVFI_BLOB_MAX + 1];
    Kvfi__Wire__PoolGeometry pool;
    Kvfi__Wire__RankGeometry m;
    uint8_t order[4] = {0, 0, 1, 2};
    char long_name[KVF_NAME_MAX + 1] = "bf16";
    char text[TEXT] = "";

    kvfi__wire__pool_geometry__init(&pool);
    kvfi__wire__rank_geometry__init(&m);
    m.protocol = 1;
    m.n_ranks = 1;
    m.pools = many;
    for (size_t i = 0; i < KVFI_ARRAY_LEN(many); i++)
        many[i] = &pool;
    m.n_pools = 65;
    check_blob_refused(&m, "65 pools");
    m.n_pools = KVFI_ARRAY_LEN(many); /* two bytes each here, many more once unpacked */
    check_blob_refused(&m, "unpacks to more than");
    m.n_pools = 1;
    pool.layers = layers;
    pool.n_layers = 1;
    pool.order.len = 3;
    pool.order.data = order;
    check_blob_refused(&m, "order of 3 axes");
    pool.order.len = 4;
    pool.n_layers = 5000;
    check_blob_refused(&m, "5000 layers");
    pool.n_layers = 1;
    check_blob_refused(&m, "role 0");
    pool.role = KVF_POOL_KEY;
    pool.row_bytes = 1;
    pool.format = long_name;
    check_blob_refused(&m, "order 0 0 1 2");
    memset(long_name, 'x', sizeof(long_name));
    long_name[KVF_NAME_MAX] = '\0';
    m.instance = long_name;
    check_blob_refused(&m, "instance of a rank blob");
    long_name[5] = '\0';
    long_name[2] = '\n';
    check_blob_refused(&m, "control character 10");
    m.instance = NULL;
    m.rank = 1;
    check_blob_refused(&m, "rank 1 is not below n_ranks 1");
    m.protocol = 2;
    check_blob_refused(&m, "protocol 2");
    ck_assert_int_eq(decode(huge, sizeof(huge), text), KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "262145 bytes, not from 8 to 262144"));
    ck_assert_int_eq(decode(huge, 100, text), KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "do not begin like"));
}
END_TEST

START_TEST(ranks_must_fit_together)
{
    struct topology t = topology_mixed();
    struct blobs *b = blobs_new(&t);
    struct kvfi_rank_geometry *r = &b->in.ranks[3];
    const uint32_t n_pools = r->n_pools;
    struct kvfi_instance_geometry in;
    struct {
        const char *sentence;
        uint32_t *member;
        uint32_t value;
        kvf_status_t status;
    } cases[] = {
        {"tp_size of rank 3 is 4, of another rank 2", &r->place.tp_size, 4, KVF_EINVAL},
        {"cp_interleave_tokens of rank 3 is 8", &r->place.cp_interleave_tokens, 8, KVF_EINVAL},
        {"n_ranks", &r->place.n_ranks, 9, KVF_EINVAL},
        {"rank 5 is there twice", &r->place.rank, 5, KVF_EINVAL},
        {"group 2 is", &r->pools[0].group, 2, KVF_EINVAL},
    };
    char text[TEXT];

    for (size_t i = 0; i < KVFI_ARRAY_LEN(cases); i++) {
        uint32_t good = *cases[i].member;

        *cases[i].member = cases[i].value;
        if (i == 4)
            r->n_pools = 1; /* alone in its group, so that only other ranks contradict */
        blobs_encode(b);
        ck_assert_int_eq(kvfi_instance_build(b->bytes, b->n_bytes, b->n, text, sizeof(text), &in),
                         cases[i].status);
        ck_assert_msg(strstr(text, cases[i].sentence) != NULL, "\"%s\" has no \"%s\"", text,
                      cases[i].sentence);
        *cases[i].member = good;
    }
    ck_assert_int_eq(kvfi_instance_build(b->bytes, b->n_bytes, 7, text, sizeof(text), &in),
                     KVF_EINVAL);
    ck_assert_ptr_nonnull(strstr(text, "blobs are 7"));
    ck_assert_int_eq(kvfi_instance_build(b->bytes, b->n_bytes, 0, text, sizeof(text), &in),
                     KVF_EINVAL);
    b->n_bytes[3] = kvfi_rank_encode(&b->in.ranks[3], "alphb", "model-7", b->store[3], BLOB);
    ck_assert_int_eq(kvfi_instance_build(b->bytes, b->n_bytes, 8, text, sizeof(text), &in),
                     KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(text, "\"alphb\""));
    b->n_bytes[3] = kvfi_rank_encode(&b->in.ranks[3], "alpha", "model-8", b->store[3], BLOB);
    ck_assert_int_eq(kvfi_instance_build(b->bytes, b->n_bytes, 8, text, sizeof(text), &in),
                     KVF_EMISMATCH);
    ck_assert_ptr_nonnull(strstr(text, "\"model-8\""));
    r->n_pools = n_pools;
    blobs_free(b);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    struct topology t = topology_mixed();
    struct blobs *b = blobs_new(&t);
    char text[TEXT];
    unsigned n;

    for (n = 1; n < 5000; n++) {
        struct kvfi_instance_geometry in;
        kvf_status_t status;

        kvfi_alloc_fail_at(n);
        status = kvfi_instance_build(b->bytes, b->n_bytes, b->n, text, sizeof(text), &in);
        kvfi_alloc_fail_at(0);
        if (status == KVF_OK) {
            kvfi_instance_geometry_fini(&in);
            break;
        }
        ck_assert_int_eq(status, KVF_ENOMEM);
    }
    ck_assert_uint_gt(n, 50);
    ck_assert_uint_lt(n, 5000);
    blobs_free(b);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, blobs_make_the_instance_again);
    tcase_add_test(tc, hostile_blobs_are_survived);
    tcase_add_test(tc, limits_are_checked_first);
    tcase_add_test(tc, ranks_must_fit_together);
    tcase_add_test(tc, every_allocation_may_fail);
}

int main(void)
{
    return harness_main("geometry_wire", fill, 60);
}
