/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/geometry.h"

#include "collectives/util.h"

void kvfi_pool_fini(struct kvfi_pool_geometry *pool)
{
    if (!pool)
        return;
    kvfi_free(pool->layers);
    *pool = (struct kvfi_pool_geometry){0};
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
