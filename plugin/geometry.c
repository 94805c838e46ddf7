/* SPDX-License-Identifier: Apache-2.0 */
/* Pools and places as the host describes them: checks, defaults, axis order. */
#include "plugin/geometry.h"

#include <string.h>

#include "collectives/util.h"
#include "plugin/overlap.h"
#include "plugin/text.h"

/* ---- places ------------------------------------------------------------------------------- */

static kvf_status_t check_member(const char *name, uint32_t value, const char *size_name,
                                 uint32_t n, char *text, size_t text_cap)
{
    if (n > KVFI_RANKS_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "%s %u is over %u", size_name, n,
                           KVFI_RANKS_MAX);
    if (value >= n)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "%s %u is not below %s %u", name, value,
                           size_name, n);
    return KVF_OK;
}

kvf_status_t kvfi_place_init(const struct kvf_place *place, char *text, size_t text_cap,
                             struct kvf_place *ret_place)
{
    struct kvf_place p = *place;
    kvf_status_t status;

    p.size = sizeof(p);
    p.pp_size += p.pp_size == 0;
    p.n_dp_groups += p.n_dp_groups == 0;
    p.tp_size += p.tp_size == 0;
    p.cp_size += p.cp_size == 0;
    status = check_member("rank", p.rank, "n_ranks", p.n_ranks, text, text_cap);
    if (status == KVF_OK)
        status = check_member("pp_rank", p.pp_rank, "pp_size", p.pp_size, text, text_cap);
    if (status == KVF_OK)
        status = check_member("dp_group", p.dp_group, "n_dp_groups", p.n_dp_groups, text, text_cap);
    if (status == KVF_OK)
        status = check_member("tp_rank", p.tp_rank, "tp_size", p.tp_size, text, text_cap);
    if (status == KVF_OK)
        status = check_member("cp_rank", p.cp_rank, "cp_size", p.cp_size, text, text_cap);
    if (status != KVF_OK)
        return status;
    if (p.cp_size > 1 && p.cp_interleave_tokens == 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "cp_interleave_tokens is 0 although cp_size is %u", p.cp_size);
    if (p.cp_size == 1)
        p.cp_interleave_tokens = 0; /* so that equal places compare equal */
    *ret_place = p;
    return KVF_OK;
}

/* ---- one pool ----------------------------------------------------------------------------- */

void kvfi_pool_order(const struct kvf_pool_desc *desc, uint8_t ret_order[4])
{
    static const uint8_t together[4] = {KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_HEAD,
                                        KVFI_AXIS_ROW};
    static const uint8_t separate[4] = {KVFI_AXIS_KV, KVFI_AXIS_LAYER, KVFI_AXIS_HEAD,
                                        KVFI_AXIS_ROW};
    uint64_t stride[4] = {desc->stride_layer, desc->stride_kv, desc->stride_head, desc->stride_row};

    memcpy(ret_order, together, sizeof(together));
    if (desc->n_bases > 1) {
        /* Allocations of their own lie outside of everything that has a stride. */
        stride[KVFI_AXIS_LAYER] = stride[KVFI_AXIS_KV] = UINT64_MAX;
        memcpy(ret_order, separate, sizeof(separate));
    }
    for (unsigned i = 1; i < 4; i++) {
        uint8_t axis = ret_order[i];
        unsigned j = i;

        for (; j > 0 && stride[ret_order[j - 1]] < stride[axis]; j--)
            ret_order[j] = ret_order[j - 1];
        ret_order[j] = axis;
    }
}

static kvf_status_t check_tokens(const struct kvfi_pool_geometry *p, char *text, size_t text_cap)
{
    if (p->n_blocks == 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "n_blocks is 0");
    if (p->block_tokens == 0 || p->tokens_per_row == 0 || p->block_tokens % p->tokens_per_row != 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "block_tokens %u is no multiple of tokens_per_row %u", p->block_tokens,
                           p->tokens_per_row);
    if (p->token_atom == 0 || p->token_atom % p->tokens_per_row != 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "token_atom %u is no multiple of tokens_per_row %u", p->token_atom,
                           p->tokens_per_row);
    if ((p->flags & KVF_POOL_PER_REQUEST) &&
        (p->block_tokens != 1 || p->tokens_per_row != 1 || p->token_atom != 1))
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "block_tokens %u, tokens_per_row %u and token_atom %u of a per-request "
                           "pool are not 1",
                           p->block_tokens, p->tokens_per_row, p->token_atom);
    return KVF_OK;
}

static kvf_status_t check_layers(const struct kvfi_pool_geometry *p, char *text, size_t text_cap)
{
    uint32_t n_kv = p->role == KVF_POOL_KV ? 2 : 1;

    if (p->n_kv != n_kv)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "n_kv %u of role %u, which has %u", p->n_kv,
                           p->role, n_kv);
    if (p->n_layers == 0 || p->n_layers > KVFI_LAYERS_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "n_layers %u is not from 1 to %u",
                           p->n_layers, KVFI_LAYERS_MAX);
    for (uint32_t i = 1; i < p->n_layers; i++) {
        if (p->layers[i - 1] >= p->layers[i])
            return kvfi_refuse(text, text_cap, KVF_EINVAL,
                               "layers do not rise: layer %u follows layer %u", p->layers[i],
                               p->layers[i - 1]);
    }
    if (p->layers[p->n_layers - 1] == KVF_LAYERS_ALL)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "layer %u is over %u", KVF_LAYERS_ALL,
                           KVF_LAYERS_ALL - 1);
    return KVF_OK;
}

static kvf_status_t check_heads(const struct kvfi_pool_geometry *p, char *text, size_t text_cap)
{
    if (p->n_heads == 0 || p->head_atom == 0)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "n_heads %u, head_atom %u: neither may be 0",
                           p->n_heads, p->head_atom);
    if (p->role == KVF_POOL_LATENT && p->n_heads != 1)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "n_heads %u of a latent, which has 1",
                           p->n_heads);
    if (p->n_heads > p->n_heads_total || p->first_head > p->n_heads_total - p->n_heads)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "first_head %u and n_heads %u are over n_heads_total %u", p->first_head,
                           p->n_heads, p->n_heads_total);
    return KVF_OK;
}

kvf_status_t kvfi_pool_check(const struct kvfi_pool_geometry *p, char *text, size_t text_cap)
{
    kvf_status_t status;
    unsigned axes = 0;

    if (p->group >= KVF_GROUPS_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "group %u is not below %u", p->group,
                           KVF_GROUPS_MAX);
    if ((p->role < KVF_POOL_KEY || p->role > KVF_POOL_STATE) && p->role < KVF_POOL_USER)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "role %u is neither known nor from %u up",
                           p->role, (unsigned)KVF_POOL_USER);
    if (p->flags & ~(uint32_t)(KVF_POOL_PER_REQUEST | KVF_POOL_OPTIONAL))
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "flags %#x have bits beyond %#x", p->flags,
                           (unsigned)(KVF_POOL_PER_REQUEST | KVF_POOL_OPTIONAL));
    if (p->row_bytes == 0 || p->row_bytes > KVFI_ROW_BYTES_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "row_bytes %llu is not from 1 to %llu",
                           (unsigned long long)p->row_bytes,
                           (unsigned long long)KVFI_ROW_BYTES_MAX);
    if (p->format[0] == '\0')
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "format of role %u is empty", p->role);
    for (unsigned i = 0; i < 4; i++)
        axes |= p->order[i] < 4 ? 1u << p->order[i] : 0;
    if (axes != 15)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "order %u %u %u %u is no order of 4 axes",
                           p->order[0], p->order[1], p->order[2], p->order[3]);
    status = check_tokens(p, text, text_cap);
    if (status == KVF_OK)
        status = check_layers(p, text, text_cap);
    return status == KVF_OK ? check_heads(p, text, text_cap) : status;
}

/* What only the description has: memory, bases and strides. */
static kvf_status_t check_memory(const struct kvf_pool_desc *desc,
                                 const struct kvfi_pool_geometry *p, char *text, size_t text_cap)
{
    uint32_t n_separate = p->n_layers * p->n_kv;

    if (desc->memory != KVF_MEMORY_HOST && desc->memory != KVF_MEMORY_CUDA)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "memory %u is neither host (%u) nor CUDA (%u)", desc->memory,
                           (unsigned)KVF_MEMORY_HOST, (unsigned)KVF_MEMORY_CUDA);
    if (desc->n_bases != 1 && desc->n_bases != n_separate)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "n_bases %u is neither 1 nor n_layers x n_kv = %u", desc->n_bases,
                           n_separate);
    if (!desc->bases)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "bases is NULL, n_bases is %u",
                           desc->n_bases);
    for (uint32_t i = 0; i < desc->n_bases; i++) {
        if (!desc->bases[i])
            return kvfi_refuse(text, text_cap, KVF_EINVAL, "base %u of %u is NULL", i,
                               desc->n_bases);
    }
    if (desc->n_bases > 1 && (desc->stride_layer != 0 || desc->stride_kv != 0))
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "stride_layer %llu and stride_kv %llu are not 0 although n_bases is %u",
                           (unsigned long long)desc->stride_layer,
                           (unsigned long long)desc->stride_kv, desc->n_bases);
    return kvfi_overlap_check(desc, p, text, text_cap);
}

static void fill_pool(const struct kvf_pool_desc *desc, struct kvfi_pool_geometry *p)
{
    *p = (struct kvfi_pool_geometry){
        .group = desc->group,
        .role = desc->role,
        .flags = desc->flags,
        .n_blocks = desc->n_blocks,
        .block_tokens = desc->block_tokens,
        .tokens_per_row = desc->tokens_per_row ? desc->tokens_per_row : 1,
        .n_kv = desc->n_kv,
        .row_bytes = desc->row_bytes,
        .n_heads = desc->n_heads,
        .first_head = desc->first_head,
        .n_heads_total = desc->n_heads_total,
        .head_atom = desc->head_atom ? desc->head_atom : 1,
        .n_layers = desc->n_layers,
    };
    p->token_atom = desc->token_atom ? desc->token_atom : p->tokens_per_row;
    if (p->n_kv == 0)
        p->n_kv = p->role == KVF_POOL_KV ? 2 : 1;
    /* If the sum does not fit it comes out below n_heads, which is refused. */
    if (p->n_heads_total == 0)
        p->n_heads_total = p->first_head + p->n_heads;
    kvfi_pool_order(desc, p->order);
}

kvf_status_t kvfi_pool_init(const struct kvf_pool_desc *desc, char *text, size_t text_cap,
                            struct kvfi_pool_geometry *ret_pool)
{
    struct kvfi_pool_geometry pool;
    kvf_status_t status;

    fill_pool(desc, &pool);
    if (!desc->format || strnlen(desc->format, KVF_FORMAT_MAX) == KVF_FORMAT_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "format is NULL or not shorter than %u",
                           KVF_FORMAT_MAX);
    memcpy(pool.format, desc->format, strlen(desc->format));
    if (!desc->layers || pool.n_layers == 0 || pool.n_layers > KVFI_LAYERS_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "layers is NULL or n_layers %u is not from 1 to %u", pool.n_layers,
                           KVFI_LAYERS_MAX);
    pool.layers = kvfi_calloc(pool.n_layers, sizeof(*pool.layers));
    if (!pool.layers)
        return kvfi_refuse(text, text_cap, KVF_ENOMEM, "no memory for %u layer ids", pool.n_layers);
    memcpy(pool.layers, desc->layers, pool.n_layers * sizeof(*pool.layers));
    status = kvfi_pool_check(&pool, text, text_cap);
    if (status == KVF_OK)
        status = check_memory(desc, &pool, text, text_cap);
    if (status != KVF_OK) {
        kvfi_pool_fini(&pool);
        return status;
    }
    *ret_pool = pool;
    return KVF_OK;
}

void kvfi_pool_fini(struct kvfi_pool_geometry *pool)
{
    if (!pool)
        return;
    kvfi_free(pool->layers);
    *pool = (struct kvfi_pool_geometry){0};
}

/* ---- what a pool holds -------------------------------------------------------------------- */

bool kvfi_pool_has_role(const struct kvfi_pool_geometry *pool, uint32_t role, uint32_t *ret_kv)
{
    if (pool->role == KVF_POOL_KV && (role == KVF_POOL_KEY || role == KVF_POOL_VALUE)) {
        *ret_kv = role == KVF_POOL_VALUE;
        return true;
    }
    *ret_kv = 0;
    return pool->role == role;
}

uint32_t kvfi_layers_steady(const struct kvfi_pool_geometry *pool, const uint32_t *want,
                            uint32_t n_want, bool *ret_held)
{
    uint32_t lo = 0;
    uint32_t hi = pool->n_layers;
    bool held;
    uint32_t k;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (pool->layers[mid] < want[0])
            lo = mid + 1;
        else
            hi = mid;
    }
    held = lo < pool->n_layers && pool->layers[lo] == want[0];
    for (k = 1; k < n_want; k++) {
        while (lo < pool->n_layers && pool->layers[lo] < want[k])
            lo++;
        if ((lo < pool->n_layers && pool->layers[lo] == want[k]) != held)
            break;
    }
    *ret_held = held;
    return k;
}

/* ---- the pools of a rank ------------------------------------------------------------------ */

/* KV meets KEY and VALUE. */
static bool share_role(const struct kvfi_pool_geometry *a, const struct kvfi_pool_geometry *b)
{
    if (a->role == b->role)
        return true;
    if (a->role == KVF_POOL_KV)
        return b->role == KVF_POOL_KEY || b->role == KVF_POOL_VALUE;
    return b->role == KVF_POOL_KV && (a->role == KVF_POOL_KEY || a->role == KVF_POOL_VALUE);
}

static bool share_layer(const struct kvfi_pool_geometry *a, const struct kvfi_pool_geometry *b,
                        uint32_t *ret_layer)
{
    uint32_t i = 0;
    uint32_t j = 0;

    while (i < a->n_layers && j < b->n_layers) {
        if (a->layers[i] == b->layers[j]) {
            *ret_layer = a->layers[i];
            return true;
        }
        if (a->layers[i] < b->layers[j])
            i++;
        else
            j++;
    }
    return false;
}

static kvf_status_t check_two(const struct kvfi_pool_geometry *a,
                              const struct kvfi_pool_geometry *b, char *text, size_t text_cap)
{
    uint32_t layer;

    if (a->group == b->group && a->block_tokens != b->block_tokens)
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "block_tokens of two pools of group %u: %u and %u", a->group,
                           a->block_tokens, b->block_tokens);
    if (a->group == b->group && ((a->flags ^ b->flags) & KVF_POOL_PER_REQUEST))
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "flags of two pools of group %u: %#x and %#x, only one is per-request",
                           a->group, a->flags, b->flags);
    if (share_role(a, b) && a->first_head < b->first_head + b->n_heads &&
        b->first_head < a->first_head + a->n_heads && share_layer(a, b, &layer))
        return kvfi_refuse(text, text_cap, KVF_EINVAL,
                           "layer %u is in two pools of roles %u and %u with heads from %u and %u",
                           layer, a->role, b->role, a->first_head, b->first_head);
    return KVF_OK;
}

kvf_status_t kvfi_rank_check(const struct kvfi_rank_geometry *rank, char *text, size_t text_cap)
{
    for (uint32_t i = 0; i < rank->n_pools; i++) {
        for (uint32_t j = 0; j < i; j++) {
            kvf_status_t status = check_two(&rank->pools[j], &rank->pools[i], text, text_cap);

            if (status != KVF_OK)
                return status;
        }
    }
    return KVF_OK;
}

void kvfi_rank_geometry_fini(struct kvfi_rank_geometry *rank)
{
    if (!rank)
        return;
    for (uint32_t i = 0; rank->pools && i < rank->n_pools; i++)
        kvfi_pool_fini(&rank->pools[i]);
    kvfi_free(rank->pools);
    *rank = (struct kvfi_rank_geometry){0};
}

void kvfi_instance_geometry_fini(struct kvfi_instance_geometry *instance)
{
    if (!instance)
        return;
    for (uint32_t i = 0; instance->ranks && i < instance->n_ranks; i++)
        kvfi_rank_geometry_fini(&instance->ranks[i]);
    kvfi_free(instance->ranks);
    *instance = (struct kvfi_instance_geometry){0};
}
