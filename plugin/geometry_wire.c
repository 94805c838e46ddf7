/* SPDX-License-Identifier: Apache-2.0 */
/* Rank blobs, and the instance they make together. A blob comes from a peer: nothing is believed. */
#include "plugin/geometry.h"

#include <assert.h>
#include <string.h>

#include "collectives/util.h"
#include "collectives/wire.pb-c.h"
#include "plugin/text.h"

enum { PROTOCOL = 1, MAGIC_BYTES = 8 };

/* Unpacked form of the largest good blob is below this (64 pools of 4096 layers: 1 MiB). */
enum { UNPACK_BUDGET_BYTES = 4 << 20 };

static const uint8_t magic[MAGIC_BYTES] = {'k', 'v', 'f', 'r', 'a', 'n', 'k', PROTOCOL};

/* ---- to bytes ----------------------------------------------------------------------------- */

/* The generated structs have no const; the library only reads what is packed. */
static void *unconst(const void *p)
{
    union {
        const void *in;
        void *out;
    } u = {.in = p};

    return u.out;
}

static Kvfi__Wire__PoolGeometry pool_message(const struct kvfi_pool_geometry *pool)
{
    Kvfi__Wire__PoolGeometry m;

    kvfi__wire__pool_geometry__init(&m);
    m.group = pool->group;
    m.role = pool->role;
    m.flags = pool->flags;
    m.n_blocks = pool->n_blocks;
    m.block_tokens = pool->block_tokens;
    m.tokens_per_row = pool->tokens_per_row;
    m.token_atom = pool->token_atom;
    m.n_kv = pool->n_kv;
    m.row_bytes = pool->row_bytes;
    m.n_heads = pool->n_heads;
    m.first_head = pool->first_head;
    m.n_heads_total = pool->n_heads_total;
    m.head_atom = pool->head_atom;
    m.n_layers = pool->n_layers;
    m.layers = pool->layers;
    m.format = unconst(pool->format);
    m.order.len = sizeof(pool->order);
    m.order.data = unconst(pool->order);
    return m;
}

size_t kvfi_rank_encode(const struct kvfi_rank_geometry *rank, const char *name, const char *compat,
                        void *buffer, size_t capacity)
{
    const struct kvf_place *place = &rank->place;
    Kvfi__Wire__RankGeometry m;
    Kvfi__Wire__PoolGeometry pools[KVFI_POOLS_MAX];
    Kvfi__Wire__PoolGeometry *pointers[KVFI_POOLS_MAX];
    size_t n_bytes;

    assert(rank->n_pools <= KVFI_POOLS_MAX);
    for (uint32_t i = 0; i < rank->n_pools; i++) {
        pools[i] = pool_message(&rank->pools[i]);
        pointers[i] = &pools[i];
    }
    kvfi__wire__rank_geometry__init(&m);
    m.protocol = PROTOCOL;
    m.instance = unconst(name);
    m.compat = unconst(compat);
    m.rank = place->rank;
    m.n_ranks = place->n_ranks;
    m.pp_rank = place->pp_rank;
    m.pp_size = place->pp_size;
    m.dp_group = place->dp_group;
    m.n_dp_groups = place->n_dp_groups;
    m.tp_rank = place->tp_rank;
    m.tp_size = place->tp_size;
    m.cp_rank = place->cp_rank;
    m.cp_size = place->cp_size;
    m.cp_interleave_tokens = place->cp_interleave_tokens;
    m.incarnation = rank->incarnation;
    m.address = unconst(rank->address);
    m.n_pools = rank->n_pools;
    m.pools = pointers;
    n_bytes = MAGIC_BYTES + kvfi__wire__rank_geometry__get_packed_size(&m);
    if (n_bytes <= capacity) {
        memcpy(buffer, magic, MAGIC_BYTES);
        (void)kvfi__wire__rank_geometry__pack(&m, (uint8_t *)buffer + MAGIC_BYTES);
    }
    return n_bytes;
}

/* ---- from bytes --------------------------------------------------------------------------- */

/* What unpacking may still allocate. */
struct budget {
    size_t left_bytes;
    bool exceeded;
    bool failed;
};

static void *budget_alloc(void *ctx, size_t n_bytes)
{
    struct budget *budget = ctx;
    void *p;

    if (n_bytes > budget->left_bytes) {
        budget->exceeded = true;
        return NULL;
    }
    budget->left_bytes -= n_bytes;
    p = kvfi_calloc(1, n_bytes);
    budget->failed = budget->failed || !p;
    return p;
}

static void budget_free(void *ctx, void *p)
{
    (void)ctx;
    kvfi_free(p);
}

/* Copies text of fewer than `capacity` bytes without control characters; else refuses it. */
static kvf_status_t take_text(const char *what, const char *from, size_t capacity, char *text,
                              size_t text_cap, char *ret)
{
    size_t n = from ? strnlen(from, capacity) : 0;

    if (n == capacity)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "%s of a rank blob is not shorter than %zu",
                           what, capacity);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)from[i] < ' ' || from[i] == 0x7f)
            return kvfi_refuse(text, text_cap, KVF_EINVAL,
                               "%s of a rank blob has the control character %u", what,
                               (unsigned)(unsigned char)from[i]);
    }
    if (n > 0)
        memcpy(ret, from, n);
    ret[n] = '\0';
    return KVF_OK;
}

static kvf_status_t take_pool(const Kvfi__Wire__PoolGeometry *m, char *text, size_t text_cap,
                              struct kvfi_pool_geometry *ret_pool)
{
    struct kvfi_pool_geometry *pool = ret_pool;
    kvf_status_t status;

    *pool = (struct kvfi_pool_geometry){
        .group = m->group,
        .role = m->role,
        .flags = m->flags,
        .n_blocks = m->n_blocks,
        .block_tokens = m->block_tokens,
        .tokens_per_row = m->tokens_per_row,
        .token_atom = m->token_atom,
        .n_kv = m->n_kv,
        .row_bytes = m->row_bytes,
        .n_heads = m->n_heads,
        .first_head = m->first_head,
        .n_heads_total = m->n_heads_total,
        .head_atom = m->head_atom,
    };
    status = take_text("format", m->format, sizeof(pool->format), text, text_cap, pool->format);
    if (status != KVF_OK)
        return status;
    if (m->n_layers == 0 || m->n_layers > KVFI_LAYERS_MAX || m->order.len != sizeof(pool->order))
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "pool of a rank blob has %zu layers (1 to %u) and an order of %zu axes",
                           m->n_layers, KVFI_LAYERS_MAX, m->order.len);
    memcpy(pool->order, m->order.data, sizeof(pool->order));
    pool->layers = kvfi_calloc(m->n_layers, sizeof(*pool->layers));
    if (!pool->layers)
        return kvfi_refuse(text, text_cap, KVF_ENOMEM, "no memory for %zu layer ids", m->n_layers);
    pool->n_layers = (uint32_t)m->n_layers;
    memcpy(pool->layers, m->layers, m->n_layers * sizeof(*pool->layers));
    return kvfi_pool_check(pool, text, text_cap);
}

static struct kvf_place place_of(const Kvfi__Wire__RankGeometry *m)
{
    return (struct kvf_place){
        .size = sizeof(struct kvf_place),
        .rank = m->rank,
        .n_ranks = m->n_ranks,
        .pp_rank = m->pp_rank,
        .pp_size = m->pp_size,
        .dp_group = m->dp_group,
        .n_dp_groups = m->n_dp_groups,
        .tp_rank = m->tp_rank,
        .tp_size = m->tp_size,
        .cp_rank = m->cp_rank,
        .cp_size = m->cp_size,
        .cp_interleave_tokens = m->cp_interleave_tokens,
    };
}

/* Fills *rank, which is zero; what it holds after a failure is for kvfi_rank_geometry_fini. */
static kvf_status_t take_rank(const Kvfi__Wire__RankGeometry *m, char *text, size_t text_cap,
                              struct kvfi_rank_geometry *rank)
{
    const struct kvf_place place = place_of(m);
    kvf_status_t status;

    if (m->protocol != PROTOCOL)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "rank blob of protocol %u, here %u",
                           m->protocol, (unsigned)PROTOCOL);
    if (m->n_pools > KVFI_POOLS_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "rank blob of %zu pools, limit %u",
                           m->n_pools, KVFI_POOLS_MAX);
    status = kvfi_place_init(&place, text, text_cap, &rank->place);
    if (status == KVF_OK)
        status =
            take_text("address", m->address, sizeof(rank->address), text, text_cap, rank->address);
    if (status != KVF_OK || m->n_pools == 0)
        return status;
    rank->incarnation = m->incarnation;
    rank->pools = kvfi_calloc(m->n_pools, sizeof(*rank->pools));
    if (!rank->pools)
        return kvfi_refuse(text, text_cap, KVF_ENOMEM, "no memory for %zu pools", m->n_pools);
    rank->n_pools = (uint32_t)m->n_pools;
    for (size_t i = 0; i < m->n_pools; i++) {
        status = take_pool(m->pools[i], text, text_cap, &rank->pools[i]);
        if (status != KVF_OK)
            return status;
    }
    return kvfi_rank_check(rank, text, text_cap);
}

static kvf_status_t unpack(const void *bytes, size_t n_bytes, ProtobufCAllocator *allocator,
                           char *text, size_t text_cap, Kvfi__Wire__RankGeometry **ret_message)
{
    const struct budget *budget = allocator->allocator_data;

    if (n_bytes < MAGIC_BYTES || n_bytes > KVFI_BLOB_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "rank blob of %zu bytes, not from %u to %u",
                           n_bytes, (unsigned)MAGIC_BYTES, KVFI_BLOB_MAX);
    if (memcmp(bytes, magic, MAGIC_BYTES) != 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "the %zu bytes do not begin like a rank blob of version %u", n_bytes,
                           (unsigned)PROTOCOL);
    *ret_message = kvfi__wire__rank_geometry__unpack(allocator, n_bytes - MAGIC_BYTES,
                                                     (const uint8_t *)bytes + MAGIC_BYTES);
    if (*ret_message)
        return KVF_OK;
    if (budget->failed)
        return kvfi_refuse(text, text_cap, KVF_ENOMEM,
                           "no memory to unpack a rank blob of %zu bytes", n_bytes);
    if (budget->exceeded)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "rank blob of %zu bytes unpacks to more than %u", n_bytes,
                           (unsigned)UNPACK_BUDGET_BYTES);
    return kvfi_refuse(text, text_cap, KVF_EINVAL, "rank blob of %zu bytes is damaged", n_bytes);
}

kvf_status_t kvfi_rank_decode(const void *bytes, size_t n_bytes, char *text, size_t text_cap,
                              char *ret_name, char *ret_compat, struct kvfi_rank_geometry *ret_rank)
{
    struct budget budget = {.left_bytes = UNPACK_BUDGET_BYTES};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    struct kvfi_rank_geometry rank = {0};
    Kvfi__Wire__RankGeometry *m = NULL;
    char name[KVF_NAME_MAX];
    char compat[KVF_NAME_MAX];
    kvf_status_t status;

    status = unpack(bytes, n_bytes, &allocator, text, text_cap, &m);
    if (status != KVF_OK)
        return status;
    assert(m);
    status = take_text("instance", m->instance, sizeof(name), text, text_cap, name);
    if (status == KVF_OK)
        status = take_text("compat", m->compat, sizeof(compat), text, text_cap, compat);
    if (status == KVF_OK)
        status = take_rank(m, text, text_cap, &rank);
    kvfi__wire__rank_geometry__free_unpacked(m, &allocator);
    if (status != KVF_OK) {
        kvfi_rank_geometry_fini(&rank);
        return status;
    }
    memcpy(ret_name, name, sizeof(name));
    memcpy(ret_compat, compat, sizeof(compat));
    *ret_rank = rank;
    return KVF_OK;
}
