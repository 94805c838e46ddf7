/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving side of transfers: what host threads call. */
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

static kvf_status_t check_recv(const struct kvf_engine *engine, const struct kvf_recv *recv)
{
    if (!(engine->config.roles & KVF_ROLE_GENERATION))
        return kvfi_fail(KVF_ESTATE, "this engine has no generation role");
    if (!recv->source)
        return kvfi_fail(KVF_EINVAL, "source is NULL");
    if (recv->aux_capacity > 0 && !recv->aux)
        return kvfi_fail(KVF_EINVAL, "aux is NULL, but aux_capacity is %llu",
                         (unsigned long long)recv->aux_capacity);
    if (recv->fence.kind > KVF_FENCE_EVENT)
        return kvfi_fail(KVF_EINVAL, "fence.kind is %u, the highest is %u", recv->fence.kind,
                         (unsigned)KVF_FENCE_EVENT);
    if (recv->fence.kind != KVF_FENCE_NONE)
        return kvfi_fail(KVF_EUNSUPPORTED, "fence.kind is %u, but fabric \"%s\" has no streams",
                         recv->fence.kind, engine->ops->name);
    return KVF_OK;
}

/* Added and not removed; also that this rank's own instance is there. */
static kvf_status_t find_source(struct kvf_engine *engine, const char *name,
                                struct kvf_instance **ret_instance)
{
    struct kvf_instance *instance;
    kvf_status_t status = KVF_OK;

    (void)pthread_mutex_lock(&engine->lock);
    instance = kvfi_instance_find(engine, name);
    if (!kvfi_own(engine))
        status = kvfi_fail(KVF_ESTATE, "add this engine's own instance first");
    else if (!instance || !instance->added || instance->removed)
        status = kvfi_fail(KVF_ENOENT, "source \"%.63s\" is not an added instance", name);
    (void)pthread_mutex_unlock(&engine->lock);
    *ret_instance = instance;
    return status;
}

kvf_status_t kvfi_recv(struct kvf_engine *engine, const struct kvf_recv *recv, bool release_only,
                       struct kvf_task **ret_task)
{
    struct kvf_instance *source = NULL;
    struct kvfi_extent *destination = NULL;
    struct kvf_task *task;
    kvf_status_t status = check_recv(engine, recv);

    if (!status)
        status = find_source(engine, recv->source, &source);
    if (!status)
        status = kvfi_extent_new(engine, recv->groups, release_only ? 0 : recv->n_groups, true,
                                 &destination);
    if (status)
        return status;
    task = kvfi_task_new(engine, false, recv->timeout_ns);
    if (!task) {
        kvfi_extent_free(engine, destination);
        return KVF_ENOSPC;
    }
    task->request = recv->request;
    task->attempt = recv->attempt;
    task->priority = recv->priority;
    task->user = recv->user;
    task->recv.source = source;
    task->recv.src_dp_group = recv->source_dp_group;
    task->recv.destination = destination;
    task->recv.aux = recv->aux;
    task->recv.aux_capacity = recv->aux_capacity;
    task->recv.token = true;
    task->recv.release_only = release_only;
    status = kvfi_task_name(task, KVFI_WANT_START);
    if (status) {
        kvfi_sink_free(task);
        kvfi_task_drop(task);
        return status;
    }
    *ret_task = task;
    return KVF_OK;
}

/* ---- blocks that did not arrive ------------------------------------------------------------ */

/* Marks [first, end) of a group's block table in bits laid out table after table. */
static void mark(const struct kvfi_extent *d, uint8_t *bad, uint32_t group, uint64_t first,
                 uint64_t end)
{
    const struct kvfi_block_table *t = &d->tables[group];
    size_t base = (size_t)(t->blocks - d->blocks);

    for (uint64_t b = first; b < end; b++) {
        if (b >= t->first_block && b - t->first_block < t->n_blocks)
            bad[base + (size_t)(b - t->first_block)] = 1;
    }
}

static void mark_range(const struct kvf_engine *engine, const struct kvfi_extent *d, uint8_t *bad,
                       uint32_t group)
{
    const struct kvf_token_range *t = &d->box.tokens[group];
    uint64_t first;
    uint64_t end;

    if (t->begin >= t->end)
        return;
    kvfi_extent_blocks(engine, group, t, &first, &end);
    mark(d, bad, group, first, end);
}

static void mark_piece(const struct kvf_engine *engine, const struct kvfi_piece *p, uint8_t *bad)
{
    for (uint32_t c = 0; c < p->map.n_chunks; c++) {
        uint64_t word = atomic_load_explicit(&p->arrived[c / 64], memory_order_relaxed);
        uint32_t group;
        uint64_t first;
        uint64_t end;

        if (word >> (c % 64) & 1)
            continue;
        kvfi_chunk_blocks(&p->map, c, KVFI_COPY_UNPACK, engine->pool_memory, &group, &first, &end);
        mark(p->extent, bad, group, first, end);
    }
}

/*
 * A block is good only if everything that belongs into it is known to have arrived: while a source
 * has not announced all it will send, every block of the ranges counts as missing.
 */
static void mark_missing(const struct kvf_task *task, uint8_t *bad)
{
    const struct kvf_engine *engine = task->engine;
    const struct kvfi_recv_state *r = &task->recv;
    bool everything = !r->matched;

    for (uint32_t i = 0; i < r->n_outbounds; i++) {
        const struct kvfi_outbound *out = &r->outbounds[i];

        if (out->state == KVFI_OUTBOUND_RELEASED)
            continue;
        if (!out->planned || out->bytes_announced != out->plan.bytes)
            everything = true;
        for (uint32_t p = out->pieces; p != KVFI_NONE; p = engine->recv_pieces.pieces[p].next)
            mark_piece(engine, &engine->recv_pieces.pieces[p], bad);
    }
    for (uint32_t g = 0; everything && g < KVF_GROUPS_MAX; g++)
        mark_range(engine, r->destination, bad, g);
}

static void list_missing(const struct kvf_task *task, const uint8_t *bad,
                         struct kvf_missing *missing, size_t capacity, size_t *ret_n)
{
    const struct kvfi_extent *d = task->recv.destination;
    size_t n = 0;

    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        const struct kvfi_block_table *t = &d->tables[g];
        uint32_t block_tokens = kvfi_group_block_tokens(task->engine, g);

        for (uint32_t b = 0; b < t->n_blocks; b++) {
            if (!bad[(size_t)(t->blocks - d->blocks) + b] || t->blocks[b] == KVF_NO_BLOCK)
                continue;
            if (n < capacity) {
                missing[n].group = g;
                missing[n].block = t->blocks[b];
                missing[n].first_token = ((uint64_t)t->first_block + b) * block_tokens;
            }
            n++;
        }
    }
    *ret_n = n;
}

kvf_status_t kvfi_task_missing(struct kvf_task *task, struct kvf_missing *missing, size_t capacity,
                               size_t *ret_n)
{
    uint8_t *bad;

    if (task->is_send)
        return kvfi_fail(KVF_ESTATE, "the task is a send");
    if (!kvfi_life_is_terminal(&task->life))
        return kvfi_fail(KVF_ESTATE, "the task has not ended");
    if (task->life.result.state == KVF_TASK_DONE) {
        *ret_n = 0;
        return KVF_OK;
    }
    bad = kvfi_calloc(task->recv.destination->n_blocks + 1u, 1);
    if (!bad)
        return kvfi_fail(KVF_ENOMEM, "no memory for %u blocks", task->recv.destination->n_blocks);
    mark_missing(task, bad);
    list_missing(task, bad, missing, capacity, ret_n);
    kvfi_free(bad);
    return KVF_OK;
}
