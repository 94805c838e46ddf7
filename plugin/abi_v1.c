/* SPDX-License-Identifier: Apache-2.0 */
/* Host ABI 1: the one exported table. Members without an engine behind them yet say so. */
#include "kvferry/kvferry.h"
#include "plugin/status.h"

static kvf_status_t engine_footprint(const struct kvf_engine_config *config, uint32_t n_peers,
                                     struct kvf_footprint *ret_footprint)
{
    (void)config;
    (void)n_peers;
    (void)ret_footprint;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t engine_create(const struct kvf_engine_config *config,
                                  struct kvf_engine **ret_engine)
{
    (void)config;
    (void)ret_engine;
    return KVF_EUNSUPPORTED;
}

static void engine_destroy(struct kvf_engine *engine)
{
    (void)engine;
}

static kvf_status_t engine_describe(struct kvf_engine *engine, uint32_t what, void *buffer,
                                    size_t capacity, size_t *ret_bytes)
{
    (void)engine;
    (void)what;
    (void)buffer;
    (void)capacity;
    (void)ret_bytes;
    return KVF_EUNSUPPORTED;
}

static int engine_event_fd(struct kvf_engine *engine)
{
    (void)engine;
    return -1;
}

static kvf_status_t engine_reap(struct kvf_engine *engine, struct kvf_event *events,
                                size_t capacity, size_t *ret_n)
{
    (void)engine;
    (void)events;
    (void)capacity;
    (void)ret_n;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t engine_stats(struct kvf_engine *engine, struct kvf_stats *ret_stats)
{
    (void)engine;
    (void)ret_stats;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t engine_dump(struct kvf_engine *engine, char *text, size_t capacity,
                                size_t *ret_bytes)
{
    (void)engine;
    (void)text;
    (void)capacity;
    (void)ret_bytes;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t mem_alloc(struct kvf_engine *engine, uint64_t n_bytes, void **ret_memory)
{
    (void)engine;
    (void)n_bytes;
    (void)ret_memory;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t mem_free(struct kvf_engine *engine, void *memory)
{
    (void)engine;
    (void)memory;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t pool_register(struct kvf_engine *engine, const struct kvf_pool_desc *desc,
                                  struct kvf_pool **ret_pool)
{
    (void)engine;
    (void)desc;
    (void)ret_pool;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t pool_unregister(struct kvf_engine *engine, struct kvf_pool *pool)
{
    (void)engine;
    (void)pool;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t instance_add(struct kvf_engine *engine, const struct kvf_instance_desc *desc,
                                 struct kvf_instance **ret_instance)
{
    (void)engine;
    (void)desc;
    (void)ret_instance;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t instance_connect(struct kvf_instance *instance, uint64_t timeout_ns)
{
    (void)instance;
    (void)timeout_ns;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t instance_remove(struct kvf_instance *instance)
{
    (void)instance;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t send_open(struct kvf_engine *engine, const struct kvf_send *send,
                              struct kvf_task **ret_task)
{
    (void)engine;
    (void)send;
    (void)ret_task;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t send_extend(struct kvf_task *task, const struct kvf_extent *extent)
{
    (void)task;
    (void)extent;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t send_close(struct kvf_task *task, const void *aux, size_t aux_bytes)
{
    (void)task;
    (void)aux;
    (void)aux_bytes;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_send(struct kvf_engine *engine, const struct kvf_send *send,
                              const struct kvf_extent *extent, const void *aux, size_t aux_bytes,
                              struct kvf_task **ret_task)
{
    (void)engine;
    (void)send;
    (void)extent;
    (void)aux;
    (void)aux_bytes;
    (void)ret_task;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_recv(struct kvf_engine *engine, const struct kvf_recv *recv,
                              struct kvf_task **ret_task)
{
    (void)engine;
    (void)recv;
    (void)ret_task;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t request_release(struct kvf_engine *engine, const struct kvf_recv *recv,
                                    struct kvf_task **ret_task)
{
    (void)engine;
    (void)recv;
    (void)ret_task;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t request_hold(struct kvf_engine *engine, const struct kvf_recv *recv,
                                 uint64_t hold_ns)
{
    (void)engine;
    (void)recv;
    (void)hold_ns;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_poll(struct kvf_task *task, struct kvf_result *ret_result)
{
    (void)task;
    (void)ret_result;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_wait(struct kvf_task *task, uint64_t timeout_ns,
                              struct kvf_result *ret_result)
{
    (void)task;
    (void)timeout_ns;
    (void)ret_result;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_extend(struct kvf_task *task, uint64_t timeout_ns)
{
    (void)task;
    (void)timeout_ns;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_cancel(struct kvf_task *task, uint32_t flags)
{
    (void)task;
    (void)flags;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_release(struct kvf_task *task)
{
    (void)task;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_missing(struct kvf_task *task, struct kvf_missing *missing,
                                 size_t capacity, size_t *ret_n)
{
    (void)task;
    (void)missing;
    (void)capacity;
    (void)ret_n;
    return KVF_EUNSUPPORTED;
}

static kvf_status_t task_wanted(struct kvf_task *task, uint32_t index,
                                struct kvf_wanted *ret_wanted)
{
    (void)task;
    (void)index;
    (void)ret_wanted;
    return KVF_EUNSUPPORTED;
}

static const char *error_text(void)
{
    return "";
}

static struct kvf_request_id request_id_hash(const void *bytes, size_t n_bytes)
{
    (void)bytes;
    (void)n_bytes;
    return (struct kvf_request_id){{0}};
}

static struct kvf_request_id request_id_u64(uint64_t number)
{
    (void)number;
    return (struct kvf_request_id){{0}};
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
    .send = task_send,
    .recv = task_recv,
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
    .error_text = error_text,
    .request_id_hash = request_id_hash,
    .request_id_u64 = request_id_u64,
};
