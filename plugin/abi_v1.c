/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host ABI 1: the one exported table. The only file that knows how a host's structs may differ in
 * size from ours; arguments are checked for presence here, for meaning where they are used.
 */
#include <stddef.h>
#include <string.h>

#include <sodium.h>

#include "collectives/util.h"
#include "kvferry/kvferry.h"
#include "plugin/engine.h"
#include "plugin/error.h"
#include "plugin/status.h"

/* Every call: forget the last sentence, refuse in a child of fork. */
static kvf_status_t enter(void)
{
    kvfi_error_clear();
    if (kvfi_forked())
        return kvfi_fail(KVF_EFORK, "this process is a child of fork; create engines after fork");
    return KVF_OK;
}

static kvf_status_t need(const void *pointer, const char *name)
{
    if (!pointer)
        return kvfi_fail(KVF_EINVAL, "%s is NULL", name);
    return KVF_OK;
}

/* Copies what they have of a struct into ours; the rest is zero. */
static kvf_status_t import(const char *name, const void *theirs, size_t least, void *ours,
                           size_t n_ours)
{
    size_t n;

    if (!theirs)
        return kvfi_fail(KVF_EINVAL, "%s is NULL", name);
    memcpy(&n, theirs, sizeof(n));
    if (n < least)
        return kvfi_fail(KVF_EINVAL, "%s.size is %zu, expected %zu", name, n, n_ours);
    memset(ours, 0, n_ours);
    memcpy(ours, theirs, n < n_ours ? n : n_ours);
    return KVF_OK;
}

/* A struct we fill: its size must be there. */
static kvf_status_t check_out(const char *name, const void *theirs)
{
    size_t n;

    if (!theirs)
        return kvfi_fail(KVF_EINVAL, "%s is NULL", name);
    memcpy(&n, theirs, sizeof(n));
    if (n < sizeof(size_t))
        return kvfi_fail(KVF_EINVAL, "%s.size is %zu, at least %zu is needed", name, n,
                         sizeof(size_t));
    return KVF_OK;
}

/* ---- engine -------------------------------------------------------------------------------- */

static kvf_status_t engine_footprint(const struct kvf_engine_config *config, uint32_t n_peers,
                                     struct kvf_footprint *ret_footprint)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(config, "config");
    if (!status)
        status = check_out("ret_footprint", ret_footprint);
    return status ? status : kvfi_engine_footprint(config, n_peers, ret_footprint);
}

static kvf_status_t engine_create(const struct kvf_engine_config *config,
                                  struct kvf_engine **ret_engine)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(config, "config");
    if (!status)
        status = need(ret_engine, "ret_engine");
    return status ? status : kvfi_engine_create(config, ret_engine);
}

static void engine_destroy(struct kvf_engine *engine)
{
    if (!enter())
        kvfi_engine_destroy(engine);
}

static kvf_status_t engine_describe(struct kvf_engine *engine, uint32_t what, void *buffer,
                                    size_t capacity, size_t *ret_bytes)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status && capacity > 0)
        status = need(buffer, "buffer");
    if (!status)
        status = need(ret_bytes, "ret_bytes");
    return status ? status : kvfi_engine_describe(engine, what, buffer, capacity, ret_bytes);
}

static int engine_event_fd(struct kvf_engine *engine)
{
    return engine && !enter() ? engine->events.fd : -1;
}

static kvf_status_t engine_reap(struct kvf_engine *engine, struct kvf_event *events,
                                size_t capacity, size_t *ret_n)
{
    kvf_status_t status = enter();
    size_t stride;
    size_t n = 0;
    uint32_t number;

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = need(ret_n, "ret_n");
    if (!status && capacity > 0)
        status = check_out("events[0]", events);
    if (status)
        return status;
    stride = capacity > 0 ? events->size : 0;
    while (n < capacity && kvfi_events_pop(&engine->events, &number)) {
        struct kvf_task *task = &engine->tasks[number];
        uint32_t kinds = kvfi_life_take_events(&task->life);
        struct kvf_event e = {.size = stride, .user = task->user, .task = task, .kinds = kinds};

        if (kinds == 0)
            continue; /* of an earlier task with this number, released without a look */
        e.status = kinds & KVF_EVENT_ENDED ? task->life.result.status : KVF_IN_PROGRESS;
        memcpy((char *)events + n * stride, &e, kvfi_min_u64(stride, sizeof(e)));
        n++;
    }
    *ret_n = n;
    return KVF_OK;
}

static kvf_status_t engine_stats(struct kvf_engine *engine, struct kvf_stats *ret_stats)
{
    kvf_status_t status = enter();
    struct kvf_stats s;

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = check_out("ret_stats", ret_stats);
    if (status)
        return status;
    (void)pthread_mutex_lock(&engine->stats_lock);
    s = engine->public_stats;
    (void)pthread_mutex_unlock(&engine->stats_lock);
    s.size = ret_stats->size;
    memcpy(ret_stats, &s, kvfi_min_u64(s.size, sizeof(s)));
    return KVF_OK;
}

static kvf_status_t engine_dump(struct kvf_engine *engine, char *text, size_t capacity,
                                size_t *ret_bytes)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status && capacity > 0)
        status = need(text, "text");
    if (!status)
        status = need(ret_bytes, "ret_bytes");
    return status ? status : kvfi_engine_dump(engine, text, capacity, ret_bytes);
}

/* ---- memory -------------------------------------------------------------------------------- */

static kvf_status_t mem_alloc(struct kvf_engine *engine, uint64_t n_bytes, void **ret_memory)
{
    kvf_status_t status = enter();

    (void)engine;
    (void)n_bytes;
    (void)ret_memory;
    return status ? status : kvfi_fail(KVF_EUNSUPPORTED, "mem_alloc is not in this release");
}

static kvf_status_t mem_free(struct kvf_engine *engine, void *memory)
{
    kvf_status_t status = enter();

    (void)engine;
    (void)memory;
    return status ? status : kvfi_fail(KVF_EUNSUPPORTED, "mem_free is not in this release");
}

static kvf_status_t pool_register(struct kvf_engine *engine, const struct kvf_pool_desc *desc,
                                  struct kvf_pool **ret_pool)
{
    struct kvf_pool_desc d;
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = import("desc", desc, sizeof(d), &d, sizeof(d));
    if (!status)
        status = need(ret_pool, "ret_pool");
    return status ? status : kvfi_pool_register(engine, &d, ret_pool);
}

static kvf_status_t pool_unregister(struct kvf_engine *engine, struct kvf_pool *pool)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = need(pool, "pool");
    return status ? status : kvfi_pool_unregister(engine, pool);
}

/* ---- peers --------------------------------------------------------------------------------- */

static kvf_status_t instance_add(struct kvf_engine *engine, const struct kvf_instance_desc *desc,
                                 struct kvf_instance **ret_instance)
{
    struct kvf_instance_desc d;
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = import("desc", desc, sizeof(d), &d, sizeof(d));
    if (!status)
        status = need(ret_instance, "ret_instance");
    return status ? status : kvfi_instance_add(engine, &d, ret_instance);
}

static kvf_status_t instance_connect(struct kvf_instance *instance, uint64_t timeout_ns)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(instance, "instance");
    return status ? status : kvfi_instance_connect(instance, timeout_ns);
}

static kvf_status_t instance_remove(struct kvf_instance *instance)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(instance, "instance");
    return status ? status : kvfi_instance_remove(instance);
}

/* ---- transfers ----------------------------------------------------------------------------- */

static kvf_status_t import_send(struct kvf_engine *engine, const struct kvf_send *send,
                                struct kvf_send *ret_send)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = import("send", send, sizeof(*ret_send), ret_send, sizeof(*ret_send));
    return status;
}

static kvf_status_t send_open(struct kvf_engine *engine, const struct kvf_send *send,
                              struct kvf_task **ret_task)
{
    struct kvf_send s;
    kvf_status_t status = import_send(engine, send, &s);

    if (!status)
        status = need(ret_task, "ret_task");
    return status ? status : kvfi_send_open(engine, &s, ret_task);
}

static kvf_status_t import_extent(const struct kvf_extent *extent, struct kvf_extent *ret_extent)
{
    return import("extent", extent, sizeof(*ret_extent), ret_extent, sizeof(*ret_extent));
}

static kvf_status_t need_send(const struct kvf_task *task)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status && !task->is_send)
        status = kvfi_fail(KVF_EINVAL, "the task is a receive");
    return status;
}

static kvf_status_t send_extend(struct kvf_task *task, const struct kvf_extent *extent)
{
    struct kvf_extent e;
    kvf_status_t status = need_send(task);

    if (!status)
        status = import_extent(extent, &e);
    return status ? status : kvfi_send_extend(task, &e);
}

static kvf_status_t send_close(struct kvf_task *task, const void *aux, size_t aux_bytes)
{
    kvf_status_t status = need_send(task);

    return status ? status : kvfi_send_close(task, aux, aux_bytes);
}

static kvf_status_t send_all(struct kvf_engine *engine, const struct kvf_send *send,
                             const struct kvf_extent *extent, const void *aux, size_t aux_bytes,
                             struct kvf_task **ret_task)
{
    struct kvf_send s;
    struct kvf_extent e;
    kvf_status_t status = import_send(engine, send, &s);

    if (!status)
        status = import_extent(extent, &e);
    if (!status)
        status = need(ret_task, "ret_task");
    return status ? status : kvfi_send_all(engine, &s, &e, aux, aux_bytes, ret_task);
}

static kvf_status_t begin_recv(struct kvf_engine *engine, const struct kvf_recv *theirs,
                               bool release_only, struct kvf_task **ret_task)
{
    struct kvf_recv r;
    kvf_status_t status = enter();

    if (!status)
        status = need(engine, "engine");
    if (!status)
        status = import("recv", theirs, sizeof(r), &r, sizeof(r));
    if (!status)
        status = need(ret_task, "ret_task");
    return status ? status : kvfi_recv(engine, &r, release_only, ret_task);
}

static kvf_status_t receive(struct kvf_engine *engine, const struct kvf_recv *recv,
                            struct kvf_task **ret_task)
{
    return begin_recv(engine, recv, false, ret_task);
}

static kvf_status_t request_release(struct kvf_engine *engine, const struct kvf_recv *recv,
                                    struct kvf_task **ret_task)
{
    return begin_recv(engine, recv, true, ret_task);
}

static kvf_status_t request_hold(struct kvf_engine *engine, const struct kvf_recv *recv,
                                 uint64_t hold_ns)
{
    kvf_status_t status = enter();

    (void)engine;
    (void)recv;
    (void)hold_ns;
    return status ? status : kvfi_fail(KVF_EUNSUPPORTED, "request_hold is not in this release");
}

/* ---- tasks --------------------------------------------------------------------------------- */

static kvf_status_t need_result(const struct kvf_task *task, const struct kvf_result *ret_result)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status)
        status = check_out("ret_result", ret_result);
    return status;
}

static void fill_result(struct kvf_task *task, struct kvf_result *ret_result)
{
    size_t n = 0;

    kvfi_life_read(&task->life, ret_result);
    if (!task->is_send && ret_result->size >= sizeof(*ret_result) &&
        ret_result->state > KVF_TASK_DONE && !kvfi_task_missing(task, NULL, 0, &n))
        ret_result->n_missing = n;
}

static kvf_status_t task_poll(struct kvf_task *task, struct kvf_result *ret_result)
{
    kvf_status_t status = need_result(task, ret_result);

    if (status)
        return status;
    fill_result(task, ret_result);
    return KVF_OK;
}

static kvf_status_t task_wait(struct kvf_task *task, uint64_t timeout_ns,
                              struct kvf_result *ret_result)
{
    kvf_status_t status = need_result(task, ret_result);
    bool terminal;

    if (status)
        return status;
    terminal = kvfi_life_wait(&task->life, kvfi_add_sat(kvfi_now_ns(), timeout_ns));
    fill_result(task, ret_result);
    return terminal ? KVF_OK : kvfi_fail(KVF_ETIMEDOUT, "the task has not ended yet");
}

static kvf_status_t task_extend(struct kvf_task *task, uint64_t timeout_ns)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status && kvfi_life_state(&task->life) >= KVF_TASK_ENDING)
        status = kvfi_fail(KVF_ESTATE, "the task has ended");
    if (status)
        return status;
    atomic_store_explicit(&task->deadline_ns, kvfi_add_sat(kvfi_now_ns(), timeout_ns),
                          memory_order_relaxed);
    kvfi_engine_poke(task, KVFI_WANT_DEADLINE);
    return KVF_OK;
}

static kvf_status_t task_cancel(struct kvf_task *task, uint32_t flags)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status && (flags & ~(uint32_t)KVF_CANCEL_RESTART))
        status = kvfi_fail(KVF_EINVAL, "flags is %#x, allowed are the bits %#x", flags,
                           (unsigned)KVF_CANCEL_RESTART);
    if (status)
        return status;
    kvfi_engine_poke(task, KVFI_WANT_CANCEL | (flags ? (uint32_t)KVFI_WANT_RESTART : 0));
    return KVF_OK;
}

static kvf_status_t task_release(struct kvf_task *task)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status && !kvfi_life_is_terminal(&task->life))
        status = kvfi_fail(KVF_EBUSY, "the task has not ended; cancel it and wait first");
    if (status)
        return status;
    kvfi_engine_poke(task, KVFI_WANT_RELEASE);
    return KVF_OK;
}

static kvf_status_t task_missing(struct kvf_task *task, struct kvf_missing *missing,
                                 size_t capacity, size_t *ret_n)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status && capacity > 0)
        status = need(missing, "missing");
    if (!status)
        status = need(ret_n, "ret_n");
    return status ? status : kvfi_task_missing(task, missing, capacity, ret_n);
}

static kvf_status_t task_wanted(struct kvf_task *task, uint32_t index,
                                struct kvf_wanted *ret_wanted)
{
    kvf_status_t status = enter();

    if (!status)
        status = need(task, "task");
    if (!status)
        status = check_out("ret_wanted", ret_wanted);
    return status ? status : kvfi_task_wanted(task, index, ret_wanted);
}

/* ---- helpers ------------------------------------------------------------------------------- */

static struct kvf_request_id request_id_hash(const void *bytes, size_t n_bytes)
{
    struct kvf_request_id id = {{0}};

    (void)crypto_generichash(id.bytes, sizeof(id.bytes), bytes, n_bytes, NULL, 0);
    return id;
}

static struct kvf_request_id request_id_u64(uint64_t number)
{
    struct kvf_request_id id = {{0}};

    for (unsigned i = 0; i < 8; i++)
        id.bytes[i] = (uint8_t)(number >> (8 * i));
    return id;
}

const struct kvferry_plugin_v1 kvferry_plugin_v1 = {
    .size = sizeof(kvferry_plugin_v1),
    .name = "kvferry",
    .version = KVFI_VERSION,
    .engine_footprint = engine_footprint,
    .engine_create = engine_create,
    .engine_destroy = engine_destroy,
    .engine_describe = engine_describe,
    .engine_event_fd = engine_event_fd,
    .engine_reap = engine_reap,
    .engine_stats = engine_stats,
    .engine_dump = engine_dump,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .pool_register = pool_register,
    .pool_unregister = pool_unregister,
    .instance_add = instance_add,
    .instance_connect = instance_connect,
    .instance_remove = instance_remove,
    .send_open = send_open,
    .send_extend = send_extend,
    .send_close = send_close,
    .send = send_all,
    .recv = receive,
    .request_release = request_release,
    .request_hold = request_hold,
    .task_poll = task_poll,
    .task_wait = task_wait,
    .task_extend = task_extend,
    .task_cancel = task_cancel,
    .task_release = task_release,
    .task_missing = task_missing,
    .task_wanted = task_wanted,
    .status_text = kvfi_status_text,
    .status_name = kvfi_status_name,
    .error_text = kvfi_error_text,
    .request_id_hash = request_id_hash,
    .request_id_u64 = request_id_u64,
};
