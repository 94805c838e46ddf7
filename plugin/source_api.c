/* SPDX-License-Identifier: Apache-2.0 */
/* The sending side of transfers: what host threads call. */
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

static kvf_status_t open_task(struct kvf_engine *engine, const struct kvf_send *send,
                              struct kvf_task **ret_task)
{
    size_t n_name = send->destination ? strnlen(send->destination, KVF_NAME_MAX) : 0;
    struct kvf_task *task;

    if (!(engine->config.roles & KVF_ROLE_CONTEXT))
        return kvfi_fail(KVF_ESTATE, "this engine has no context role");
    if (n_name >= KVF_NAME_MAX)
        return kvfi_fail(KVF_EINVAL, "destination is longer than %u bytes", KVF_NAME_MAX - 1);
    if (send->n_receivers > KVFI_RECEIVERS_MAX)
        return kvfi_fail(KVF_EINVAL, "n_receivers is %u, at most %u are allowed", send->n_receivers,
                         KVFI_RECEIVERS_MAX);
    if (send->attempt == KVF_ATTEMPT_ANY)
        return kvfi_fail(KVF_EINVAL, "attempt is ANY; a sender has one of its own");
    task = kvfi_task_new(engine, true, send->timeout_ns);
    if (!task)
        return KVF_ENOSPC;
    task->request = send->request;
    task->attempt = send->attempt;
    task->priority = send->priority;
    task->user = send->user;
    task->send.n_receivers = send->n_receivers;
    if (n_name > 0)
        memcpy(task->send.destination, send->destination, n_name);
    atomic_store_explicit(&task->send.to_pack, 1, memory_order_relaxed);
    task->send.to_pack_token = true;
    kvfi_life_step(&task->life, KVF_STEP_MATCH);
    *ret_task = task;
    return KVF_OK;
}

static kvf_status_t check_fence(const struct kvf_engine *engine, const struct kvf_fence *fence)
{
    if (fence->kind > KVF_FENCE_EVENT)
        return kvfi_fail(KVF_EINVAL, "fence.kind is %u, the highest is %u", fence->kind,
                         (unsigned)KVF_FENCE_EVENT);
    if (fence->kind != KVF_FENCE_NONE)
        return kvfi_fail(KVF_EUNSUPPORTED, "fence.kind is %u, but fabric \"%s\" has no streams",
                         fence->kind, engine->ops->name);
    return KVF_OK;
}

static kvf_status_t new_extent(struct kvf_engine *engine, const struct kvf_extent *theirs,
                               struct kvfi_extent **ret_extent)
{
    uint32_t end = theirs->end_layer ? theirs->end_layer : KVF_LAYERS_ALL;
    struct kvfi_extent *extent = NULL;
    kvf_status_t status = check_fence(engine, &theirs->fence);

    if (status)
        return status;
    if (theirs->first_layer >= end)
        return kvfi_fail(KVF_EINVAL, "layers begin at %u, but end at %u", theirs->first_layer, end);
    status = kvfi_extent_new(engine, theirs->groups, theirs->n_groups, false, &extent);
    if (status || !extent)
        return status;
    extent->box.first_layer = theirs->first_layer;
    extent->box.end_layer = end;
    *ret_extent = extent;
    return KVF_OK;
}

/* Under lock. */
static kvf_status_t append_extent(struct kvf_task *task, struct kvfi_extent *extent)
{
    struct kvfi_send_state *s = &task->send;

    if (s->close_called)
        return kvfi_fail(KVF_ESTATE, "the send is closed");
    if (kvfi_life_state(&task->life) >= KVF_TASK_ENDING)
        return kvfi_fail(KVF_ESTATE, "the send has ended");
    if (s->n_extents == KVFI_EXTENTS_MAX)
        return kvfi_fail(KVF_ENOSPC, "the send has %u extents already", KVFI_EXTENTS_MAX);
    for (const struct kvfi_extent *e = s->extents; e; e = e->next) {
        if (kvfi_boxes_overlap(&e->box, &extent->box))
            return kvfi_fail(KVF_EINVAL,
                             "the extent (layers %u to %u) overlaps extent %u (layers %u to %u)",
                             extent->box.first_layer, extent->box.end_layer, e->number,
                             e->box.first_layer, e->box.end_layer);
    }
    extent->number = s->n_extents++;
    if (s->last_extent)
        s->last_extent->next = extent;
    else
        s->extents = extent;
    s->last_extent = extent;
    return KVF_OK;
}

static kvf_status_t extend(struct kvf_task *task, const struct kvf_extent *theirs)
{
    struct kvf_engine *engine = task->engine;
    struct kvfi_extent *extent = NULL;
    kvf_status_t status = new_extent(engine, theirs, &extent);

    if (status || !extent)
        return status;
    (void)pthread_mutex_lock(&engine->lock);
    status = append_extent(task, extent);
    (void)pthread_mutex_unlock(&engine->lock);
    if (status)
        kvfi_extent_free(engine, extent);
    return status;
}

static kvf_status_t close_send(struct kvf_task *task, const void *aux, size_t n_bytes)
{
    struct kvf_engine *engine = task->engine;
    void *copy = NULL;
    kvf_status_t status = KVF_OK;

    if (n_bytes > engine->config.max_aux_bytes)
        return kvfi_fail(KVF_EINVAL, "aux_bytes is %zu, max_aux_bytes is %u", n_bytes,
                         engine->config.max_aux_bytes);
    if (n_bytes > 0 && !aux)
        return kvfi_fail(KVF_EINVAL, "aux is NULL, but aux_bytes is %zu", n_bytes);
    if (n_bytes > 0) {
        copy = kvfi_calloc(1, n_bytes);
        if (!copy)
            return kvfi_fail(KVF_ENOMEM, "no memory for %zu bytes of aux", n_bytes);
        memcpy(copy, aux, n_bytes);
    }
    (void)pthread_mutex_lock(&engine->lock);
    if (task->send.close_called || kvfi_life_state(&task->life) >= KVF_TASK_ENDING) {
        status = kvfi_fail(KVF_ESTATE, "the send is closed or has ended");
        kvfi_free(copy);
    } else {
        task->send.aux = copy;
        task->send.aux_bytes = (uint32_t)n_bytes;
        task->send.close_called = true;
    }
    (void)pthread_mutex_unlock(&engine->lock);
    return status;
}

kvf_status_t kvfi_send_open(struct kvf_engine *engine, const struct kvf_send *send,
                            struct kvf_task **ret_task)
{
    struct kvf_task *task = NULL;
    kvf_status_t status = open_task(engine, send, &task);

    if (status || !task)
        return status;
    status = kvfi_task_name(task, KVFI_WANT_START);
    if (status)
        kvfi_task_drop(task);
    else
        *ret_task = task;
    return status;
}

kvf_status_t kvfi_send_extend(struct kvf_task *task, const struct kvf_extent *extent)
{
    kvf_status_t status = extend(task, extent);

    if (!status)
        kvfi_engine_poke(task, KVFI_WANT_EXTENDS);
    return status;
}

kvf_status_t kvfi_send_close(struct kvf_task *task, const void *aux, size_t aux_bytes)
{
    kvf_status_t status = close_send(task, aux, aux_bytes);

    if (!status)
        kvfi_engine_poke(task, KVFI_WANT_CLOSE);
    return status;
}

kvf_status_t kvfi_send_all(struct kvf_engine *engine, const struct kvf_send *send,
                           const struct kvf_extent *extent, const void *aux, size_t aux_bytes,
                           struct kvf_task **ret_task)
{
    struct kvf_task *task = NULL;
    kvf_status_t status = open_task(engine, send, &task);

    if (status || !task)
        return status;
    status = extend(task, extent);
    if (!status)
        status = close_send(task, aux, aux_bytes);
    if (!status)
        status = kvfi_task_name(task, KVFI_WANT_START | KVFI_WANT_EXTENDS | KVFI_WANT_CLOSE);
    if (status) {
        kvfi_source_free(task);
        kvfi_task_drop(task);
        return status;
    }
    *ret_task = task;
    return KVF_OK;
}

kvf_status_t kvfi_task_wanted(struct kvf_task *task, uint32_t index, struct kvf_wanted *ret_wanted)
{
    struct kvf_engine *engine = task->engine;
    struct kvf_wanted w = {.size = ret_wanted->size};
    kvf_status_t status = KVF_OK;

    (void)pthread_mutex_lock(&engine->lock);
    if (!task->is_send) {
        status = kvfi_fail(KVF_EINVAL, "the task is a receive");
    } else if (index >= KVFI_RECEIVERS_MAX || !task->send.receivers[index].name[0]) {
        status = kvfi_fail(KVF_ENOENT, "index is %u, but fewer instances have asked", index);
    } else {
        const struct kvfi_receiver *r = &task->send.receivers[index];

        memcpy(w.destination, r->name, sizeof(w.destination));
        w.dp_group = r->dp_group;
        w.n_groups = KVF_GROUPS_MAX;
        memcpy(w.tokens, r->ranges, sizeof(w.tokens));
    }
    (void)pthread_mutex_unlock(&engine->lock);
    if (!status)
        memcpy(ret_wanted, &w, kvfi_min_u64(w.size, sizeof(w)));
    return status;
}

void kvfi_source_free(struct kvf_task *task)
{
    struct kvfi_extent *e = task->send.extents;

    while (e) {
        struct kvfi_extent *next = e->next;

        kvfi_extent_free(task->engine, e);
        e = next;
    }
    task->send.extents = NULL;
    task->send.last_extent = NULL;
    kvfi_free(task->send.aux);
    task->send.aux = NULL;
}
