/* SPDX-License-Identifier: Apache-2.0 */
/* The task table: numbers, names, deadlines, and what the control thread does for a task. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

static void on_terminal(void *ctx, uint32_t number)
{
    struct kvf_engine *engine = ctx;

    kvfi_engine_poke(&engine->tasks[number], KVFI_WANT_ENDED);
}

static const char *step_text(uint64_t step)
{
    static const char *const texts[] = {
        "nothing",
        "the peers' connections",
        "the other side's request",
        "the source's data",
        "the caller's fence",
        "a staging slot",
        "packing",
        "the wire",
        "unpacking",
        "word of delivery",
        "the source's aux payload",
    };

    return step < KVFI_ARRAY_LEN(texts) ? texts[step] : "?";
}

static void on_deadline(uv_timer_t *timer)
{
    struct kvf_task *task = timer->data;
    uint64_t deadline = atomic_load_explicit(&task->deadline_ns, memory_order_relaxed);
    uint64_t step = atomic_load_explicit(&task->life.step, memory_order_relaxed);

    if (kvfi_now_ns() < deadline) {
        kvfi_engine_poke(task, KVFI_WANT_DEADLINE); /* the timer is coarser than the clock */
        return;
    }
    kvfi_task_fail(task, KVF_TASK_EXPIRED, KVF_ETIMEDOUT, (enum kvf_step)step, NULL,
                   "deadline passed while waiting for %s", step_text(step));
}

kvf_status_t kvfi_tasks_init(struct kvf_engine *engine)
{
    uint32_t n = engine->config.max_tasks;
    kvf_status_t status;

    engine->n_names = 16;
    while (engine->n_names < 2 * n)
        engine->n_names *= 2;
    engine->names = kvfi_calloc(engine->n_names, sizeof(struct kvf_task *));
    engine->tasks = kvfi_calloc(n, sizeof(*engine->tasks));
    if (!engine->names || !engine->tasks)
        return kvfi_fail(KVF_ENOMEM, "no memory for %u tasks", n);
    status = kvfi_events_init(&engine->events, n);
    if (status)
        return kvfi_fail(status, "no memory or descriptor for the event queue");
    for (uint32_t i = n; i-- > 0;) {
        struct kvf_task *task = &engine->tasks[i];

        task->engine = engine;
        task->number = i;
        task->life.number = i;
        task->life.events = &engine->events;
        task->life.n_unfinished = &engine->n_unfinished;
        task->life.on_terminal = on_terminal;
        task->life.ctx = engine;
        task->next_free = engine->free_tasks;
        engine->free_tasks = task;
        (void)uv_timer_init(&engine->loop, &task->timer);
        task->timer.data = task;
    }
    return KVF_OK;
}

void kvfi_tasks_fini(struct kvf_engine *engine)
{
    kvfi_events_fini(&engine->events);
    kvfi_free(engine->names);
    kvfi_free(engine->tasks);
    engine->names = NULL;
    engine->tasks = NULL;
}

struct kvf_task *kvfi_task_new(struct kvf_engine *engine, bool is_send, uint64_t timeout_ns)
{
    uint64_t now = kvfi_now_ns();
    struct kvf_task *task;

    (void)pthread_mutex_lock(&engine->lock);
    task = engine->free_tasks;
    if (task) {
        engine->free_tasks = task->next_free;
        task->used = true;
    }
    (void)pthread_mutex_unlock(&engine->lock);
    if (!task) {
        (void)kvfi_fail(KVF_ENOSPC, "all %u tasks are in use; release ended ones",
                        engine->config.max_tasks);
        return NULL;
    }
    kvfi_life_init(&task->life, now);
    task->is_send = is_send;
    task->named = false;
    task->matched_ns = 0;
    memset(&task->send, 0, sizeof(task->send));
    memset(&task->recv, 0, sizeof(task->recv));
    atomic_store_explicit(&task->matched_attempt, 0, memory_order_relaxed);
    atomic_store_explicit(&task->n_unreleased, 0, memory_order_relaxed);
    atomic_store_explicit(
        &task->deadline_ns,
        kvfi_add_sat(now, timeout_ns ? timeout_ns : engine->config.default_timeout_ns),
        memory_order_relaxed);
    return task;
}

void kvfi_task_drop(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;

    (void)pthread_mutex_lock(&engine->lock);
    (void)atomic_fetch_sub_explicit(&engine->n_unfinished, 1, memory_order_relaxed);
    task->used = false;
    task->next_free = engine->free_tasks;
    engine->free_tasks = task;
    (void)pthread_mutex_unlock(&engine->lock);
}

/* ---- names ------------------------------------------------------------------------------- */

static struct kvf_task **chain_of(struct kvf_engine *engine, const struct kvf_request_id *id)
{
    uint64_t half[2];

    memcpy(half, id->bytes, sizeof(half));
    return &engine->names[kvfi_mix64(half[0] ^ kvfi_mix64(half[1])) & (engine->n_names - 1)];
}

static bool same_transfer(const struct kvf_task *a, const struct kvf_task *b)
{
    if (a->is_send != b->is_send || memcmp(&a->request, &b->request, sizeof(a->request)) != 0)
        return false;
    if (!a->is_send)
        return a->recv.source == b->recv.source;
    return !a->send.destination[0] || !b->send.destination[0] ||
           strcmp(a->send.destination, b->send.destination) == 0;
}

static kvf_status_t clash(const struct kvf_task *task, struct kvf_task *other)
{
    if (!task->is_send)
        return kvfi_fail(KVF_EEXIST, "this request is being received from \"%s\" already",
                         task->recv.source->name);
    if (task->attempt == other->attempt)
        return kvfi_fail(KVF_EEXIST, "attempt %llu of this request is open already",
                         (unsigned long long)task->attempt);
    if (task->attempt < other->attempt)
        return kvfi_fail(KVF_ESUPERSEDED, "attempt is %llu, but attempt %llu is open",
                         (unsigned long long)task->attempt, (unsigned long long)other->attempt);
    kvfi_engine_poke(other, KVFI_WANT_SUPERSEDED);
    return KVF_OK;
}

kvf_status_t kvfi_task_name(struct kvf_task *task, uint32_t wants)
{
    struct kvf_engine *engine = task->engine;
    struct kvf_task **chain;
    kvf_status_t status = KVF_OK;

    (void)pthread_mutex_lock(&engine->lock);
    chain = chain_of(engine, &task->request);
    for (struct kvf_task *t = *chain; t && !status; t = t->next_named) {
        if (same_transfer(task, t) && !kvfi_life_is_terminal(&t->life))
            status = clash(task, t);
    }
    if (!status) {
        task->next_named = *chain;
        *chain = task;
        task->named = true;
        kvfi_engine_poke(task, wants);
    }
    (void)pthread_mutex_unlock(&engine->lock);
    return status;
}

void kvfi_task_unname(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;

    (void)pthread_mutex_lock(&engine->lock);
    if (task->named) {
        struct kvf_task **at = chain_of(engine, &task->request);

        while (*at != task)
            at = &(*at)->next_named;
        *at = task->next_named;
        task->named = false;
    }
    (void)pthread_mutex_unlock(&engine->lock);
}

struct kvf_task *kvfi_task_find_send(struct kvf_engine *engine, const struct kvf_request_id *id,
                                     const char *destination)
{
    struct kvf_task *best = NULL;

    (void)pthread_mutex_lock(&engine->lock);
    for (struct kvf_task *t = *chain_of(engine, id); t; t = t->next_named) {
        if (t->is_send && t->started && memcmp(&t->request, id, sizeof(*id)) == 0 &&
            kvfi_life_state(&t->life) < KVF_TASK_ENDING &&
            (!t->send.destination[0] || strcmp(t->send.destination, destination) == 0) &&
            (!best || t->attempt > best->attempt))
            best = t;
    }
    (void)pthread_mutex_unlock(&engine->lock);
    return best;
}

uint64_t kvfi_task_transfer(const struct kvf_task *task)
{
    return (uint64_t)task->generation << 32 | task->number;
}

struct kvf_task *kvfi_task_of_transfer(struct kvf_engine *engine, uint64_t transfer)
{
    uint32_t number = (uint32_t)transfer;
    struct kvf_task *task;

    if (number >= engine->config.max_tasks)
        return NULL;
    task = &engine->tasks[number];
    if (!task->started || task->ended || task->is_send || task->generation != transfer >> 32)
        return NULL;
    return task;
}

/* ---- ends -------------------------------------------------------------------------------- */

void kvfi_task_fail(struct kvf_task *task, enum kvf_task_state state, kvf_status_t status,
                    enum kvf_step step, const struct kvfi_peer *peer, const char *format, ...)
{
    char text[KVF_MESSAGE_MAX];
    struct kvfi_cause cause = {.state = state, .status = status, .step = step, .text = text};
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    cause.peer_rank = peer && peer->instance ? peer->rank : UINT32_MAX;
    cause.peer_instance = peer && peer->instance ? peer->instance->name : NULL;
    if (kvfi_life_end(&task->life, &cause))
        kvfi_log(&task->engine->log, KVF_LOG_INFO, "task", "%s task %u ended: %s",
                 task->is_send ? "send" : "receive", task->number, text);
}

void kvfi_task_settle(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;

    if (!task->ended || !task->released ||
        !(task->is_send ? kvfi_source_idle(task) : kvfi_sink_idle(task)))
        return;
    kvfi_task_unname(task);
    /* On the dirty list again, so the number must wait. Unnamed, it gets no more pokes of hosts. */
    if (atomic_load_explicit(&task->wants, memory_order_acquire) != 0)
        return;
    if (task->is_send)
        kvfi_source_free(task);
    else
        kvfi_sink_free(task);
    task->started = false;
    task->ended = false;
    task->released = false;
    task->generation++;
    (void)pthread_mutex_lock(&engine->lock);
    task->used = false;
    task->next_free = engine->free_tasks;
    engine->free_tasks = task;
    (void)pthread_mutex_unlock(&engine->lock);
}

static void set_timer(struct kvf_task *task)
{
    uint64_t deadline = atomic_load_explicit(&task->deadline_ns, memory_order_relaxed);
    uint64_t now = kvfi_now_ns();
    uint64_t ms = deadline > now ? (deadline - now) / 1000000u + 1 : 0;

    if (deadline == UINT64_MAX) {
        (void)uv_timer_stop(&task->timer);
        return;
    }
    uv_update_time(&task->engine->loop);
    (void)uv_timer_start(&task->timer, on_deadline, ms, 0);
}

static void start(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;

    task->started = true;
    task->prev_all = NULL;
    task->next_all = engine->all;
    if (engine->all)
        engine->all->prev_all = task;
    engine->all = task;
    engine->stats.tasks_submitted++;
    set_timer(task);
    if (engine->stopping)
        kvfi_task_fail(task, KVF_TASK_CANCELLED, KVF_ECANCELED, KVF_STEP_NONE, NULL,
                       "the engine is being destroyed");
}

static void count_end(struct kvf_engine *engine, uint32_t state)
{
    struct kvf_stats *s = &engine->stats;

    if (state == KVF_TASK_DONE)
        s->tasks_done++;
    else if (state == KVF_TASK_CANCELLED)
        s->tasks_cancelled++;
    else if (state == KVF_TASK_EXPIRED)
        s->tasks_expired++;
    else
        s->tasks_failed++;
}

static void end(struct kvf_task *task)
{
    struct kvf_engine *engine = task->engine;

    task->ended = true;
    (void)uv_timer_stop(&task->timer);
    if (task->prev_all)
        task->prev_all->next_all = task->next_all;
    else
        engine->all = task->next_all;
    if (task->next_all)
        task->next_all->prev_all = task->prev_all;
    count_end(engine, task->life.result.state);
    if (task->is_send)
        kvfi_source_ended(task);
    else
        kvfi_sink_ended(task);
    kvfi_task_unname(task);
}

void kvfi_task_serve(struct kvf_task *task, uint32_t wants)
{
    if (wants & KVFI_WANT_START)
        start(task);
    if (wants & KVFI_WANT_SUPERSEDED)
        kvfi_task_fail(task, KVF_TASK_FAILED, KVF_ESUPERSEDED, KVF_STEP_NONE, NULL,
                       "a higher attempt of the request was opened");
    if (wants & KVFI_WANT_RESTART)
        task->send.restart = true;
    if (wants & KVFI_WANT_CANCEL)
        kvfi_task_fail(task, KVF_TASK_CANCELLED, KVF_ECANCELED, KVF_STEP_NONE, NULL,
                       "canceled by the caller");
    if ((wants & KVFI_WANT_DEADLINE) && !task->ended)
        set_timer(task);
    if (!task->ended && kvfi_life_state(&task->life) < KVF_TASK_ENDING) {
        if (task->is_send)
            kvfi_source_serve(task, wants);
        else
            kvfi_sink_serve(task, wants);
    }
    if (wants & KVFI_WANT_ENDED)
        end(task);
    if (wants & KVFI_WANT_RELEASE)
        task->released = true;
    kvfi_task_settle(task);
}

void kvfi_tasks_drop_all(struct kvf_engine *engine)
{
    for (uint32_t i = 0; engine->tasks && i < engine->config.max_tasks; i++) {
        struct kvf_task *task = &engine->tasks[i];

        if (!task->used)
            continue;
        kvfi_source_free(task);
        if (task->recv.destination)
            kvfi_sink_free(task);
    }
}
