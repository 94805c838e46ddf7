/* SPDX-License-Identifier: Apache-2.0 */
/* engine_dump: what everything waits for, written by the control thread for a host thread. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

struct dump {
    char *text;
    size_t capacity;
    size_t n; /* bytes the whole text has so far */
    bool done;
};

static void put(struct dump *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct dump *d, const char *format, ...)
{
    size_t left = d->n < d->capacity ? d->capacity - d->n : 0;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(left ? d->text + d->n : NULL, left, format, args);
    va_end(args);
    if (n > 0)
        d->n += (size_t)n;
}

static const char *state_text(uint32_t state)
{
    static const char *const texts[] = {"pending", "moving",    "ending", "done",
                                        "failed",  "cancelled", "expired"};

    return state < KVFI_ARRAY_LEN(texts) ? texts[state] : "?";
}

static void put_outbounds(struct dump *d, const struct kvf_task *task)
{
    static const char *const texts[] = {"not asked",  "asked",    "accepted", "closed",
                                        "restarting", "released", "lost"};

    for (uint32_t i = 0; i < task->recv.n_outbounds; i++) {
        const struct kvfi_outbound *out = &task->recv.outbounds[i];

        put(d, "    source rank %u: %s, %llu of %llu bytes announced\n", out->rank,
            texts[out->state], (unsigned long long)out->bytes_announced,
            (unsigned long long)out->plan.bytes);
    }
}

static void put_inbounds(struct dump *d, const struct kvf_engine *engine,
                         const struct kvf_task *task)
{
    for (const struct kvfi_inbound *in = task->send.inbounds; in; in = in->next_of_task)
        put(d, "    receiver rank %u: %llu of %llu bytes delivered%s%s\n",
            engine->peers[in->peer].rank, (unsigned long long)in->bytes_delivered,
            (unsigned long long)in->plan.bytes, in->closed ? ", closed" : "",
            in->finished ? ", finished" : "");
}

static void put_task(struct dump *d, const struct kvf_engine *engine, const struct kvf_task *task)
{
    static const char *const steps[] = {"nothing", "connect", "match",  "extent",  "fence", "grant",
                                        "pack",    "wire",    "unpack", "deliver", "aux"};
    struct kvf_result r = {.size = sizeof(r)};

    kvfi_life_read(&task->life, &r);
    put(d, "  %s task %u: %s, waits for %s, %llu bytes moved, %.1f ms old\n",
        task->is_send ? "send" : "receive", task->number, state_text(r.state),
        r.step < KVFI_ARRAY_LEN(steps) ? steps[r.step] : "?", (unsigned long long)r.bytes,
        (double)(kvfi_now_ns() - r.times_ns[KVF_TIME_SUBMITTED]) / 1e6);
    if (task->is_send)
        put_inbounds(d, engine, task);
    else
        put_outbounds(d, task);
}

static void put_all(struct dump *d, const struct kvf_engine *engine)
{
    static const char *const states[] = {"free", "connecting", "up", "leaving"};

    put(d,
        "engine \"%s\" rank %u: %u send lanes, %u receive lanes, %u batches launched, %u posted\n",
        engine->config.instance, engine->config.place.rank, engine->config.n_send_lanes,
        engine->config.n_recv_lanes, engine->n_launched, engine->n_posted);
    for (uint32_t i = 0; i < engine->config.max_peers; i++) {
        const struct kvfi_peer *p = &engine->peers[i];

        if (p->state != KVFI_PEER_FREE)
            put(d, "  peer %u: %s rank %u of \"%s\", %s, %u of %u links up, %u batches in flight\n",
                i, p->is_source ? "source" : "receiver", p->rank,
                p->instance ? p->instance->name : "?", states[p->state], p->n_links_up, p->n_links,
                p->n_in_flight);
    }
    for (const struct kvf_task *t = engine->all; t; t = t->next_all)
        put_task(d, engine, t);
    for (const struct kvfi_inbound *in = engine->waiting; in; in = in->next_waiting)
        put(d, "  request of peer %u waits for its send\n", in->peer);
}

kvf_status_t kvfi_engine_dump(struct kvf_engine *engine, char *text, size_t capacity,
                              size_t *ret_bytes)
{
    struct dump d = {.text = text, .capacity = capacity};

    (void)pthread_mutex_lock(&engine->lock);
    while (engine->dump)
        (void)pthread_cond_wait(&engine->dumped, &engine->lock);
    /* cppcheck-suppress autoVariables ; gone from there before this returns */
    /* cppcheck-suppress autoVariables ; this call waits until the control thread has let go of it */
    engine->dump = &d;
    kvfi_engine_wake(engine);
    while (!d.done)
        (void)pthread_cond_wait(&engine->dumped, &engine->lock);
    (void)pthread_mutex_unlock(&engine->lock);
    *ret_bytes = d.n + 1;
    return KVF_OK;
}

void kvfi_dump_serve(struct kvf_engine *engine)
{
    (void)pthread_mutex_lock(&engine->lock);
    if (engine->dump) {
        put_all(engine->dump, engine);
        engine->dump->done = true;
        engine->dump = NULL;
        (void)pthread_cond_broadcast(&engine->dumped);
    }
    (void)pthread_mutex_unlock(&engine->lock);
}
