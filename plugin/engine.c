/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's beginning and end. */
#include "plugin/engine.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "collectives/util.h"
#include "plugin/error.h"
#include "plugin/fabric_load.h"

/* ---- fork ---------------------------------------------------------------------------------- */

static _Atomic bool forked;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_child(void)
{
    atomic_store_explicit(&forked, true, memory_order_relaxed);
}

static void watch_fork(void)
{
    (void)pthread_atfork(NULL, NULL, in_child);
}

bool kvfi_forked(void)
{
    return atomic_load_explicit(&forked, memory_order_relaxed);
}

/* ---- create -------------------------------------------------------------------------------- */

static kvf_status_t load_fabric(struct kvf_engine *engine, const struct kvfi_fabric_ops *ops)
{
    struct kvfi_fabric_config config = {
        .size = sizeof(config), .device = engine->config.device, .log = engine->log};
    char text[KVF_MESSAGE_MAX] = "";
    kvf_status_t status = KVF_OK;

    engine->ops = ops;
    if (!ops)
        status = kvfi_fabric_load(&engine->config, &engine->ops, &engine->fabric_library);
    if (status)
        return status;
    status = engine->ops->create(&config, text, sizeof(text), &engine->fabric);
    if (status)
        return kvfi_fail(status, "fabric \"%s\": %s", engine->ops->name, text);
    engine->ops->address(engine->fabric, &engine->address);
    if (engine->config.max_groups == 0)
        engine->config.max_groups = engine->ops->max_groups;
    return kvfi_config_settle(&engine->config, engine->ops->slot_bytes,
                              engine->ops->max_slot_bytes);
}

static kvf_status_t start_control(struct kvf_engine *engine)
{
    struct kvfi_control_config config = {.address = engine->config.listen_address,
                                         .port = engine->config.listen_port,
                                         .max_sessions = engine->config.max_peers,
                                         .max_pending = 64,
                                         .auth_timeout_ns = UINT64_C(5000000000),
                                         .max_queued_bytes = UINT64_C(256) << 20,
                                         .on_up = kvfi_on_up,
                                         .on_message = kvfi_on_message,
                                         .on_down = kvfi_on_down,
                                         .ctx = engine,
                                         .log = engine->log};
    char text[KVF_MESSAGE_MAX] = "";
    kvf_status_t status;

    memcpy(config.job_key, engine->config.job_key, sizeof(config.job_key));
    status = kvfi_control_create(&engine->loop, &config, text, sizeof(text), &engine->control);
    sodium_memzero(config.job_key, sizeof(config.job_key));
    if (status)
        return kvfi_fail(status, "%s", text);
    return KVF_OK;
}

/* All signals blocked: a signal of the host's is the host's threads' business. */
static kvf_status_t start_thread(struct kvf_engine *engine)
{
    sigset_t all;
    sigset_t old;
    int error;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    error = pthread_create(&engine->thread, NULL, kvfi_engine_run, engine);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        return kvfi_fail(KVF_ENOMEM, "the control thread could not be started");
    engine->has_thread = true;
    return KVF_OK;
}

static kvf_status_t start(struct kvf_engine *engine, const struct kvfi_fabric_ops *ops)
{
    kvf_status_t status = load_fabric(engine, ops);

    if (!status && kvfi_loop_init(engine))
        status = kvfi_fail(KVF_ENOMEM, "the control loop could not be started");
    if (!status)
        status = kvfi_tasks_init(engine);
    if (!status)
        status = kvfi_peers_init(engine);
    if (!status)
        status = start_control(engine);
    if (!status)
        status = kvfi_batches_init(engine);
    if (!status)
        status = start_thread(engine);
    return status;
}

kvf_status_t kvfi_engine_create_on(const struct kvf_engine_config *theirs,
                                   const struct kvfi_fabric_ops *ops,
                                   struct kvf_engine **ret_engine)
{
    struct kvf_engine *engine = kvfi_calloc(1, sizeof(*engine));
    kvf_status_t status;

    if (!engine)
        return kvfi_fail(KVF_ENOMEM, "no memory for an engine");
    (void)pthread_once(&fork_once, watch_fork);
    (void)pthread_mutex_init(&engine->lock, NULL);
    (void)pthread_mutex_init(&engine->dirty_lock, NULL);
    (void)pthread_mutex_init(&engine->stats_lock, NULL);
    (void)pthread_cond_init(&engine->dumped, NULL);
    status = kvfi_config_init(&engine->config, theirs);
    if (!status && !engine->config.has_job_key)
        status = kvfi_fail(KVF_EINVAL, "job_key is missing");
    if (!status && sodium_init() < 0)
        status = kvfi_fail(KVF_EINTERNAL, "libsodium could not be initialised");
    engine->log = (struct kvfi_log){
        .fn = engine->config.log, .ctx = engine->config.log_ctx, .level = engine->config.log_level};
    if (!status) {
        randombytes_buf(&engine->incarnation, sizeof(engine->incarnation));
        status = start(engine, ops);
    }
    if (status) {
        char text[KVF_MESSAGE_MAX];

        (void)snprintf(text, sizeof(text), "%s", kvfi_error_text());
        kvfi_log(&engine->log, KVF_LOG_ERROR, "engine", "not created: %s", text);
        kvfi_engine_destroy(engine);
        return kvfi_fail(status, "%s", text);
    }
    *ret_engine = engine;
    return KVF_OK;
}

kvf_status_t kvfi_engine_create(const struct kvf_engine_config *theirs,
                                struct kvf_engine **ret_engine)
{
    return kvfi_engine_create_on(theirs, NULL, ret_engine);
}

/* ---- destroy ------------------------------------------------------------------------------- */

static void end_loop(struct kvf_engine *engine)
{
    if (engine->has_thread) {
        kvfi_engine_stop(engine);
        (void)pthread_join(engine->thread, NULL);
    } else if (engine->has_loop) {
        kvfi_loop_close(engine);
        (void)uv_run(&engine->loop, UV_RUN_DEFAULT);
    }
    if (engine->has_loop)
        (void)uv_loop_close(&engine->loop);
}

void kvfi_engine_destroy(struct kvf_engine *engine)
{
    if (!engine)
        return;
    end_loop(engine);
    if (engine->left_behind)
        kvfi_log(&engine->log, KVF_LOG_ERROR, "engine",
                 "staging memory is left behind: an operation of a dead peer may still use it");
    kvfi_batches_fini(engine);
    kvfi_tasks_drop_all(engine);
    kvfi_pieces_fini(&engine->send_pieces);
    kvfi_pieces_fini(&engine->recv_pieces);
    kvfi_peers_fini(engine);
    if (engine->fabric)
        engine->ops->destroy(engine->fabric);
    kvfi_fabric_unload(engine->fabric_library);
    kvfi_instances_fini(engine);
    kvfi_pools_fini(engine);
    kvfi_tasks_fini(engine);
    sodium_memzero(engine->config.job_key, sizeof(engine->config.job_key));
    (void)pthread_cond_destroy(&engine->dumped);
    (void)pthread_mutex_destroy(&engine->stats_lock);
    (void)pthread_mutex_destroy(&engine->dirty_lock);
    (void)pthread_mutex_destroy(&engine->lock);
    kvfi_free(engine);
}

/* A session's buffers in both directions; links on host fabrics are some words. */
#define PEER_BYTES UINT64_C(131072)

/* ---- footprint ----------------------------------------------------------------------------- */

kvf_status_t kvfi_engine_footprint(const struct kvf_engine_config *theirs, uint32_t n_peers,
                                   struct kvf_footprint *ret_footprint)
{
    struct kvf_engine_config named;
    struct kvfi_config config;
    struct kvfi_send_sched_config send;
    struct kvfi_recv_sched_config recv;
    struct kvf_footprint f = {.size = ret_footprint->size};
    kvf_status_t status;

    memset(&named, 0, sizeof(named));
    memcpy(&named, theirs, kvfi_min_u64(theirs->size, sizeof(named)));
    if (!named.instance)
        named.instance = "unnamed";
    if (named.place.size == 0)
        named.place = (struct kvf_place){.size = sizeof(named.place), .n_ranks = 1};
    status = kvfi_config_init(&config, &named);
    if (!status)
        status = kvfi_config_settle(&config, UINT64_C(1) << 20, UINT64_C(1) << 30);
    if (status)
        return status;
    kvfi_sched_configs(&config, &send, &recv);
    f.staging_bytes = (uint64_t)(config.n_send_lanes + config.n_recv_lanes) *
                      config.slots_per_lane * config.slot_bytes;
    f.table_bytes =
        sizeof(struct kvf_engine) + config.max_tasks * sizeof(struct kvf_task) +
        (uint64_t)config.max_blocks * sizeof(uint32_t) +
        kvfi_min_u64((uint64_t)config.max_tasks * 8, 1u << 20) * sizeof(struct kvfi_inbound) +
        (uint64_t)config.max_peers * sizeof(struct kvfi_peer);
    if (config.n_send_lanes > 0)
        f.table_bytes += kvfi_send_sched_bytes(&send) +
                         (uint64_t)kvfi_max_pieces(&config) * sizeof(struct kvfi_piece);
    if (config.n_recv_lanes > 0)
        f.table_bytes += kvfi_recv_sched_bytes(&recv) +
                         (uint64_t)kvfi_max_pieces(&config) * sizeof(struct kvfi_piece);
    f.peer_bytes = (uint64_t)n_peers * PEER_BYTES;
    f.total_bytes = f.staging_bytes + f.table_bytes + f.peer_bytes;
    memcpy(ret_footprint, &f, kvfi_min_u64(f.size, sizeof(f)));
    return KVF_OK;
}
