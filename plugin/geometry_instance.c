/* SPDX-License-Identifier: Apache-2.0 */
/* What the ranks of one instance owe each other. */
#include "plugin/geometry.h"

#include <string.h>

#include "collectives/util.h"
#include "plugin/text.h"

/* What the first rank that uses a group says of it. */
struct group_use {
    bool used;
    uint32_t per_request;
    uint32_t rank;
};

static kvf_status_t check_equal(const char *what, uint32_t rank, uint32_t value, uint32_t first,
                                char *text, size_t text_cap)
{
    if (value == first)
        return KVF_OK;
    return kvfi_refuse(text, text_cap, KVF_EINVAL, "%s of rank %u is %u, of another rank %u", what,
                       rank, value, first);
}

static kvf_status_t check_places(const struct kvf_place *place, const struct kvf_place *first,
                                 char *text, size_t text_cap)
{
    const struct {
        const char *what;
        uint32_t value;
        uint32_t first;
    } members[] = {
        {"n_ranks", place->n_ranks, first->n_ranks},
        {"pp_size", place->pp_size, first->pp_size},
        {"n_dp_groups", place->n_dp_groups, first->n_dp_groups},
        {"tp_size", place->tp_size, first->tp_size},
        {"cp_size", place->cp_size, first->cp_size},
        {"cp_interleave_tokens", place->cp_interleave_tokens, first->cp_interleave_tokens},
    };

    for (size_t i = 0; i < KVFI_ARRAY_LEN(members); i++) {
        kvf_status_t status = check_equal(members[i].what, place->rank, members[i].value,
                                          members[i].first, text, text_cap);

        if (status != KVF_OK)
            return status;
    }
    return KVF_OK;
}

static kvf_status_t check_groups(const struct kvfi_instance_geometry *in, char *text,
                                 size_t text_cap)
{
    struct group_use use[KVF_GROUPS_MAX] = {{0}};

    for (uint32_t r = 0; r < in->n_ranks; r++) {
        for (uint32_t i = 0; i < in->ranks[r].n_pools; i++) {
            const struct kvfi_pool_geometry *pool = &in->ranks[r].pools[i];
            struct group_use *u = &use[pool->group];
            uint32_t per_request = pool->flags & KVF_POOL_PER_REQUEST;

            if (u->used && u->per_request != per_request)
                return kvfi_refuse(text, text_cap, KVF_EINVAL,
                                   "group %u is %sper-request at rank %u and %sper-request at "
                                   "rank %u",
                                   pool->group, u->per_request ? "" : "not ", u->rank,
                                   per_request ? "" : "not ", r);
            *u = (struct group_use){true, per_request, r};
        }
    }
    return KVF_OK;
}

/* One more blob; *first is the place of the first one, zero if this is it. */
static kvf_status_t add_blob(struct kvfi_instance_geometry *in, const void *bytes, size_t n_bytes,
                             struct kvf_place *first, char *text, size_t text_cap)
{
    struct kvfi_rank_geometry rank;
    char name[KVF_NAME_MAX];
    char compat[KVF_NAME_MAX];
    kvf_status_t status;

    status = kvfi_rank_decode(bytes, n_bytes, text, text_cap, name, compat, &rank);
    if (status != KVF_OK)
        return status;
    if (first->n_ranks == 0) {
        memcpy(in->name, name, sizeof(name));
        memcpy(in->compat, compat, sizeof(compat));
        *first = rank.place;
    }
    if (strcmp(name, in->name) != 0)
        status = kvfi_refuse(text, text_cap, KVF_EMISMATCH,
                             "instance of rank %u is \"%s\", of another rank \"%s\"",
                             rank.place.rank, name, in->name);
    else if (strcmp(compat, in->compat) != 0)
        status = kvfi_refuse(text, text_cap, KVF_EMISMATCH,
                             "compat of rank %u is \"%s\", of another rank \"%s\"", rank.place.rank,
                             compat, in->compat);
    else
        status = check_places(&rank.place, first, text, text_cap);
    if (status == KVF_OK && rank.place.n_ranks != in->n_ranks)
        status = kvfi_refuse(text, text_cap, KVF_EINVAL, "n_ranks of rank %u is %u, blobs are %u",
                             rank.place.rank, rank.place.n_ranks, in->n_ranks);
    if (status == KVF_OK && in->ranks[rank.place.rank].place.n_ranks != 0)
        status = kvfi_refuse(text, text_cap, KVF_EINVAL, "rank %u is there twice, of %u",
                             rank.place.rank, in->n_ranks);
    if (status != KVF_OK) {
        kvfi_rank_geometry_fini(&rank);
        return status;
    }
    in->ranks[rank.place.rank] = rank;
    return KVF_OK;
}

kvf_status_t kvfi_instance_build(const void *const *blobs, const size_t *blob_bytes, size_t n,
                                 char *text, size_t text_cap,
                                 struct kvfi_instance_geometry *ret_instance)
{
    struct kvfi_instance_geometry in = {0};
    struct kvf_place first = {0};
    kvf_status_t status = KVF_OK;

    if (n == 0 || n > KVFI_RANKS_MAX)
        return kvfi_refuse(text, text_cap, KVF_EINVAL, "%zu rank blobs, not from 1 to %u", n,
                           KVFI_RANKS_MAX);
    in.n_ranks = (uint32_t)n;
    in.ranks = kvfi_calloc(n, sizeof(*in.ranks));
    if (!in.ranks)
        return kvfi_refuse(text, text_cap, KVF_ENOMEM, "no memory for %zu ranks", n);
    for (size_t i = 0; i < n && status == KVF_OK; i++)
        status = add_blob(&in, blobs[i], blob_bytes[i], &first, text, text_cap);
    if (status == KVF_OK)
        status = check_groups(&in, text, text_cap);
    if (status != KVF_OK) {
        kvfi_instance_geometry_fini(&in);
        return status;
    }
    *ret_instance = in;
    return KVF_OK;
}
