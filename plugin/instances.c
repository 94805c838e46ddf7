/* SPDX-License-Identifier: Apache-2.0 */
/* Instances: the own one, those the host added by handle, and those that came by HELLO. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

#define HANDLE_MAGIC "kvferry1:"
#define RETRY_MS 50u

/* Under lock. */
struct kvf_instance *kvfi_instance_find(struct kvf_engine *engine, const char *name)
{
    struct kvf_instance *i = engine->instances;

    while (i && strcmp(i->name, name) != 0)
        i = i->next;
    return i;
}

static struct kvf_instance *first_instance(struct kvf_engine *engine)
{
    struct kvf_instance *i;

    (void)pthread_mutex_lock(&engine->lock);
    i = engine->instances;
    (void)pthread_mutex_unlock(&engine->lock);
    return i; /* the list only grows, at its head, until the engine ends */
}

static struct kvf_instance *new_instance(struct kvf_engine *engine, const char *name)
{
    struct kvf_instance *i = kvfi_calloc(1, sizeof(*i));
    pthread_condattr_t attr;

    if (!i)
        return NULL;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&i->connected, &attr);
    (void)pthread_condattr_destroy(&attr);
    i->engine = engine;
    i->fetch_peer = KVFI_NONE;
    i->connect_status = KVF_IN_PROGRESS;
    (void)snprintf(i->name, sizeof(i->name), "%s", name);
    return i;
}

static void free_instance(struct kvf_instance *i)
{
    for (uint32_t b = 0; b < i->n_blobs; b++)
        kvfi_free(i->blobs[b].data);
    kvfi_free(i->blobs);
    kvfi_free(i->peers);
    kvfi_instance_geometry_fini(&i->geometry);
    (void)pthread_cond_destroy(&i->connected);
    kvfi_free(i);
}

void kvfi_instances_fini(struct kvf_engine *engine)
{
    while (engine->instances) {
        struct kvf_instance *next = engine->instances->next;

        free_instance(engine->instances);
        engine->instances = next;
    }
}

/* ---- describe ----------------------------------------------------------------------------- */

static void own_address(const struct kvf_engine *engine, char *ret_text, size_t text_cap)
{
    const char *host = engine->config.advertise_address;
    bool v6 = strchr(host, ':') != NULL;

    (void)snprintf(ret_text, text_cap, v6 ? "[%s]:%u" : "%s:%u", host,
                   kvfi_control_port(engine->control));
}

static kvf_status_t describe_rank(struct kvf_engine *engine, void *buffer, size_t capacity,
                                  size_t *ret_bytes)
{
    struct kvfi_pool_geometry pools[KVFI_POOLS_MAX];
    struct kvfi_rank_geometry rank = {.place = engine->config.place,
                                      .incarnation = engine->incarnation,
                                      .n_pools = engine->n_pools,
                                      .pools = pools};
    size_t n;

    if (engine->n_pools == 0)
        return kvfi_fail(KVF_ESTATE, "no pool is registered; register pools before describing");
    own_address(engine, rank.address, sizeof(rank.address));
    for (uint32_t i = 0; i < engine->n_pools; i++)
        pools[i] = engine->pools[i].geometry;
    n = kvfi_rank_encode(&rank, engine->config.instance, engine->config.compat, buffer, capacity);
    engine->described = true;
    *ret_bytes = n;
    if (n > capacity)
        return kvfi_fail(KVF_ENOSPC, "the blob needs %zu bytes, the buffer has %zu", n, capacity);
    return KVF_OK;
}

/* As many control addresses as fit: any rank can tell the whole geometry. */
static kvf_status_t describe_instance(struct kvf_engine *engine, char *buffer, size_t capacity,
                                      size_t *ret_bytes)
{
    char text[KVF_HANDLE_MAX];
    const struct kvfi_instance_geometry *g;
    size_t n;

    if (!kvfi_own(engine))
        return kvfi_fail(KVF_ESTATE, "add this engine's own instance first");
    g = &kvfi_own(engine)->geometry;
    n = (size_t)snprintf(text, sizeof(text), HANDLE_MAGIC "%s@%s", g->name, g->ranks[0].address);
    for (uint32_t r = 1; r < g->n_ranks; r++) {
        size_t n_address = strlen(g->ranks[r].address);

        if (n + 1 + n_address + 1 > sizeof(text))
            break;
        n += (size_t)snprintf(text + n, sizeof(text) - n, ",%s", g->ranks[r].address);
    }
    *ret_bytes = n + 1;
    if (n + 1 > capacity)
        return kvfi_fail(KVF_ENOSPC, "the handle needs %zu bytes, the buffer has %zu", n + 1,
                         capacity);
    memcpy(buffer, text, n + 1);
    return KVF_OK;
}

kvf_status_t kvfi_engine_describe(struct kvf_engine *engine, uint32_t what, void *buffer,
                                  size_t capacity, size_t *ret_bytes)
{
    kvf_status_t status;

    (void)pthread_mutex_lock(&engine->lock);
    if (what == KVF_DESCRIBE_RANK)
        status = describe_rank(engine, buffer, capacity, ret_bytes);
    else if (what == KVF_DESCRIBE_INSTANCE)
        status = describe_instance(engine, buffer, capacity, ret_bytes);
    else
        status = kvfi_fail(KVF_EINVAL, "what is %u, allowed are 1 and 2", what);
    (void)pthread_mutex_unlock(&engine->lock);
    return status;
}

/* ---- add ---------------------------------------------------------------------------------- */

static uint64_t digest_of(const void *const *blobs, const size_t *blob_bytes, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        const uint8_t *b = blobs[i];
        uint64_t h = kvfi_mix64(blob_bytes[i]);

        for (size_t k = 0; k < blob_bytes[i]; k++)
            h = (h ^ b[k]) * UINT64_C(0x100000001b3);
        sum += kvfi_mix64(h); /* in any order of ranks */
    }
    return sum;
}

static bool keep_blobs(struct kvf_instance *i, const struct kvf_instance_desc *desc)
{
    i->blobs = kvfi_calloc(desc->n_blobs, sizeof(*i->blobs));
    if (!i->blobs)
        return false;
    for (uint32_t b = 0; b < desc->n_blobs; b++) {
        i->blobs[b].data = kvfi_calloc(1, desc->blob_bytes[b] + 1);
        if (!i->blobs[b].data)
            return false;
        memcpy(i->blobs[b].data, desc->blobs[b], desc->blob_bytes[b]);
        i->blobs[b].len = desc->blob_bytes[b];
        i->n_blobs++;
    }
    return true;
}

static kvf_status_t check_own(const struct kvf_engine *engine,
                              const struct kvfi_instance_geometry *g)
{
    uint32_t rank = engine->config.place.rank;

    if (strcmp(g->name, engine->config.instance) != 0)
        return kvfi_fail(KVF_EMISMATCH, "the blobs are of instance \"%s\", this engine's is \"%s\"",
                         g->name, engine->config.instance);
    if (strcmp(g->compat, engine->config.compat) != 0)
        return kvfi_fail(KVF_EMISMATCH, "compat is \"%s\" in the blobs, \"%s\" here", g->compat,
                         engine->config.compat);
    if (rank >= g->n_ranks || g->ranks[rank].incarnation != engine->incarnation)
        return kvfi_fail(KVF_EMISMATCH, "the blob of rank %u is not this engine's", rank);
    return KVF_OK;
}

static kvf_status_t build_own(struct kvf_engine *engine, const struct kvf_instance_desc *desc,
                              struct kvf_instance **ret_instance)
{
    char text[KVF_MESSAGE_MAX];
    struct kvf_instance *i = new_instance(engine, engine->config.instance);
    kvf_status_t status;

    if (!i)
        return kvfi_fail(KVF_ENOMEM, "no memory for an instance");
    status = kvfi_instance_build(desc->blobs, desc->blob_bytes, desc->n_blobs, text, sizeof(text),
                                 &i->geometry);
    if (status)
        (void)kvfi_fail(status, "%s", text);
    if (!status)
        status = check_own(engine, &i->geometry);
    if (!status && !keep_blobs(i, desc))
        status = kvfi_fail(KVF_ENOMEM, "no memory for %u blobs", desc->n_blobs);
    if (status) {
        free_instance(i);
        return status;
    }
    i->own = true;
    i->known = true;
    i->digest = digest_of(desc->blobs, desc->blob_bytes, desc->n_blobs);
    *ret_instance = i;
    return KVF_OK;
}

/* "kvferry1:name@address,address" */
static kvf_status_t parse_handle(struct kvf_engine *engine, const char *handle,
                                 struct kvf_instance **ret_instance)
{
    size_t n = strnlen(handle, KVF_HANDLE_MAX);
    char name[KVF_NAME_MAX];
    const char *at;
    struct kvf_instance *i;

    if (n >= KVF_HANDLE_MAX || strncmp(handle, HANDLE_MAGIC, strlen(HANDLE_MAGIC)) != 0)
        return kvfi_fail(KVF_EINVAL, "handle does not begin with \"%s\"", HANDLE_MAGIC);
    handle += strlen(HANDLE_MAGIC);
    at = strchr(handle, '@');
    if (!at || at == handle || (size_t)(at - handle) >= sizeof(name) || !strchr(at, ':'))
        return kvfi_fail(KVF_EINVAL, "handle has no name or no address");
    memcpy(name, handle, (size_t)(at - handle));
    name[at - handle] = '\0';
    if (strcmp(name, engine->config.instance) == 0)
        return kvfi_fail(KVF_EEXIST, "\"%s\" is this engine's own instance", name);
    i = new_instance(engine, name);
    if (!i)
        return kvfi_fail(KVF_ENOMEM, "no memory for an instance");
    (void)snprintf(i->addresses, sizeof(i->addresses), "%s", at + 1);
    *ret_instance = i;
    return KVF_OK;
}

/* Under lock: put it on the list, or into the place of one that was only heard of. */
static kvf_status_t insert(struct kvf_engine *engine, struct kvf_instance *fresh,
                           struct kvf_instance **ret_instance)
{
    struct kvf_instance *old = kvfi_instance_find(engine, fresh->name);

    if (old && old->added && !old->removed)
        return kvfi_fail(KVF_EEXIST, "instance \"%s\" was added already", fresh->name);
    if (old) {
        memcpy(old->addresses, fresh->addresses, sizeof(old->addresses));
        old->added = true;
        old->removed = false;
        free_instance(fresh);
        *ret_instance = old;
        return KVF_OK;
    }
    fresh->added = true;
    fresh->next = engine->instances;
    engine->instances = fresh;
    if (fresh->own)
        atomic_store_explicit(&engine->own_instance, fresh, memory_order_release);
    *ret_instance = fresh;
    return KVF_OK;
}

kvf_status_t kvfi_instance_add(struct kvf_engine *engine, const struct kvf_instance_desc *desc,
                               struct kvf_instance **ret_instance)
{
    struct kvf_instance *fresh = NULL;
    kvf_status_t status;

    if (desc->handle && desc->n_blobs > 0)
        return kvfi_fail(KVF_EINVAL, "a handle and %u blobs are given; give one", desc->n_blobs);
    if (!desc->handle && (desc->n_blobs == 0 || !desc->blobs || !desc->blob_bytes))
        return kvfi_fail(KVF_EINVAL, "neither a handle nor blobs are given");
    if (!desc->handle)
        status = build_own(engine, desc, &fresh);
    else if (!kvfi_own(engine))
        status = kvfi_fail(KVF_ESTATE, "add this engine's own instance first");
    else
        status = parse_handle(engine, desc->handle, &fresh);
    if (status || !fresh)
        return status;
    (void)pthread_mutex_lock(&engine->lock);
    status = insert(engine, fresh, ret_instance);
    (void)pthread_mutex_unlock(&engine->lock);
    if (status)
        free_instance(fresh);
    return status;
}

/* ---- connect ------------------------------------------------------------------------------ */

kvf_status_t kvfi_instance_connect(struct kvf_instance *instance, uint64_t timeout_ns)
{
    struct kvf_engine *engine = instance->engine;
    uint64_t deadline =
        kvfi_add_sat(kvfi_now_ns(), timeout_ns ? timeout_ns : engine->config.connect_timeout_ns);
    struct timespec ts = {.tv_sec = (time_t)(deadline / 1000000000u),
                          .tv_nsec = (long)(deadline % 1000000000u)};
    kvf_status_t status;
    int error = 0;

    if (instance->own)
        return kvfi_fail(KVF_EINVAL, "\"%s\" is this engine's own instance", instance->name);
    if (!(engine->config.roles & KVF_ROLE_GENERATION))
        return kvfi_fail(KVF_ESTATE, "this engine has no generation role; its receivers connect");
    (void)pthread_mutex_lock(&engine->lock);
    if (instance->removed) {
        (void)pthread_mutex_unlock(&engine->lock);
        return kvfi_fail(KVF_ENOENT, "instance \"%s\" was removed", instance->name);
    }
    instance->n_connecting++;
    if (instance->connect_status < 0)
        instance->connect_status = KVF_IN_PROGRESS;
    kvfi_engine_poke_instances(engine);
    while (instance->connect_status == KVF_IN_PROGRESS && error == 0)
        error = deadline == UINT64_MAX
                    ? pthread_cond_wait(&instance->connected, &engine->lock)
                    : pthread_cond_timedwait(&instance->connected, &engine->lock, &ts);
    status = instance->connect_status;
    if (status == KVF_IN_PROGRESS)
        status = kvfi_fail(KVF_ETIMEDOUT, "\"%s\": %s", instance->name,
                           instance->connect_text[0] ? instance->connect_text : "no answer");
    else if (status < 0)
        (void)kvfi_fail(status, "\"%s\": %s", instance->name, instance->connect_text);
    instance->n_connecting--;
    (void)pthread_mutex_unlock(&engine->lock);
    return status;
}

kvf_status_t kvfi_instance_remove(struct kvf_instance *instance)
{
    struct kvf_engine *engine = instance->engine;

    if (instance->own)
        return kvfi_fail(KVF_EINVAL, "the own instance goes with the engine");
    (void)pthread_mutex_lock(&engine->lock);
    instance->removed = true;
    kvfi_engine_poke_instances(engine);
    (void)pthread_mutex_unlock(&engine->lock);
    return KVF_OK;
}

/* ---- control thread ------------------------------------------------------------------------ */

static void note_connect(struct kvf_instance *i, kvf_status_t status, const char *text)
{
    (void)pthread_mutex_lock(&i->engine->lock);
    i->connect_status = status;
    (void)snprintf(i->connect_text, sizeof(i->connect_text), "%s", text);
    if (status != KVF_IN_PROGRESS)
        (void)pthread_cond_broadcast(&i->connected);
    (void)pthread_mutex_unlock(&i->engine->lock);
}

static bool is_wanted(struct kvf_instance *i, bool *ret_removed)
{
    bool wanted;

    (void)pthread_mutex_lock(&i->engine->lock);
    wanted = i->added && (i->n_connecting > 0 || i->recvs);
    *ret_removed = i->removed;
    (void)pthread_mutex_unlock(&i->engine->lock);
    return wanted && !i->own;
}

static void on_retry(uv_timer_t *timer)
{
    struct kvf_instance *i = timer->data;

    i->backing_off = false;
    kvfi_instances_serve(i->engine);
}

static void back_off(struct kvf_instance *i)
{
    if (i->engine->closing)
        return;
    if (!i->retry_open) {
        (void)uv_timer_init(&i->engine->loop, &i->retry);
        i->retry.data = i;
        i->retry_open = true;
    }
    i->backing_off = true;
    (void)uv_timer_start(&i->retry, on_retry, RETRY_MS, 0);
}

/* The next of the handle's addresses, in turn. */
static void next_address(struct kvf_instance *i, char *ret_address, size_t capacity)
{
    const char *begin = i->addresses;
    uint32_t n = 1;
    uint32_t pick;

    for (const char *c = begin; *c; c++)
        n += *c == ',';
    pick = i->next_address++ % n;
    for (uint32_t k = 0; k < pick; k++)
        begin = strchr(begin, ',') + 1;
    (void)snprintf(ret_address, capacity, "%.*s", (int)strcspn(begin, ","), begin);
}

static void fetch_geometry(struct kvf_instance *i)
{
    char address[KVFI_ADDRESS_MAX];

    next_address(i, address, sizeof(address));
    i->fetch_peer = kvfi_peer_connect(i->engine, i, KVFI_NONE, address);
    if (i->fetch_peer == KVFI_NONE)
        back_off(i);
}

static void connect_ranks(struct kvf_instance *i)
{
    bool all_up = true;

    for (uint32_t r = 0; r < i->geometry.n_ranks; r++) {
        const struct kvfi_peer *peer;

        if (i->peers[r] == KVFI_NONE)
            i->peers[r] = kvfi_peer_connect(i->engine, i, r, i->geometry.ranks[r].address);
        if (i->peers[r] == KVFI_NONE) {
            back_off(i);
            return;
        }
        peer = &i->engine->peers[i->peers[r]];
        all_up = all_up && peer->state == KVFI_PEER_UP && peer->n_links_up == peer->n_links;
    }
    if (all_up)
        note_connect(i, KVF_OK, "");
}

/* Failing for good: everyone who waits for this instance hears of it. */
static void give_up(struct kvf_instance *i, kvf_status_t status, const char *text)
{
    struct kvf_task *next;

    note_connect(i, status, text);
    for (struct kvf_task *t = i->recvs; t; t = next) {
        next = t->recv.next_of_instance;
        kvfi_task_fail(t, KVF_TASK_FAILED, status, KVF_STEP_CONNECT, NULL, "\"%s\": %.200s",
                       i->name, text);
    }
}

/* No new transfers; sessions close when the running ones have ended. */
static void drain(struct kvf_instance *i)
{
    if (i->recvs || !i->peers)
        return;
    for (uint32_t r = 0; r < i->geometry.n_ranks; r++) {
        if (i->peers[r] == KVFI_NONE)
            continue;
        if (i->engine->peers[i->peers[r]].state == KVFI_PEER_UP)
            kvfi_peer_leave(i->engine, &i->engine->peers[i->peers[r]]);
    }
}

void kvfi_instances_serve(struct kvf_engine *engine)
{
    if (engine->stopping || !kvfi_own(engine))
        return;
    for (struct kvf_instance *i = first_instance(engine); i; i = i->next) {
        bool removed;

        if (is_wanted(i, &removed) && !i->backing_off) {
            if (!i->known && i->fetch_peer == KVFI_NONE)
                fetch_geometry(i);
            else if (i->known && i->match == KVF_OK && i->peers)
                connect_ranks(i);
            else if (i->known && i->match != KVF_OK)
                give_up(i, i->match, i->match_text);
        }
        if (removed)
            drain(i);
    }
}

static kvf_status_t take_geometry(struct kvf_engine *engine, struct kvf_instance *i,
                                  struct kvfi_instance_geometry *geometry, uint64_t digest)
{
    uint32_t *peers = kvfi_calloc(geometry->n_ranks, sizeof(*peers));

    if (!peers)
        return KVF_ENOMEM;
    for (uint32_t r = 0; r < geometry->n_ranks; r++)
        peers[r] = KVFI_NONE;
    kvfi_free(i->peers);
    kvfi_instance_geometry_fini(&i->geometry);
    i->peers = peers;
    i->geometry = *geometry;
    i->digest = digest;
    i->match = kvfi_geometry_match(&i->geometry, &kvfi_own(engine)->geometry, i->match_text,
                                   sizeof(i->match_text));
    i->known = true;
    return KVF_OK;
}

void kvfi_instance_geometry_came(struct kvf_engine *engine, struct kvf_instance *instance,
                                 const Kvfi__Wire__Geometry *m)
{
    struct kvfi_instance_geometry geometry = {0};
    char text[KVF_MESSAGE_MAX] = "no memory";
    const void **blobs = kvfi_calloc(m->n_blobs + 1, sizeof(*blobs));
    size_t *sizes = kvfi_calloc(m->n_blobs + 1, sizeof(*sizes));
    kvf_status_t status = KVF_ENOMEM;

    if (instance->known) {
        /* It has said HELLO meanwhile, and its geometry may be in use. */
        status = KVF_OK;
    } else if (blobs && sizes && m->n_blobs <= KVFI_RANKS_MAX) {
        for (size_t b = 0; b < m->n_blobs; b++) {
            blobs[b] = m->blobs[b].data;
            sizes[b] = m->blobs[b].len;
        }
        status = kvfi_instance_build(blobs, sizes, m->n_blobs, text, sizeof(text), &geometry);
        if (!status && strcmp(geometry.name, instance->name) != 0) {
            (void)snprintf(text, sizeof(text), "its address answers as \"%s\"", geometry.name);
            status = KVF_EMISMATCH;
        }
        if (!status)
            status =
                take_geometry(engine, instance, &geometry, digest_of(blobs, sizes, m->n_blobs));
        if (status)
            kvfi_instance_geometry_fini(&geometry);
    }
    kvfi_free(blobs);
    kvfi_free(sizes);
    if (status)
        give_up(instance, status, text);
    else if (instance->match)
        give_up(instance, instance->match, instance->match_text);
    else
        kvfi_instances_serve(engine);
}

struct kvf_instance *kvfi_instance_heard(struct kvf_engine *engine, const char *name,
                                         const void *const *blobs, const size_t *blob_bytes,
                                         size_t n_blobs, char *text, size_t text_cap)
{
    uint64_t digest = digest_of(blobs, blob_bytes, n_blobs);
    struct kvfi_instance_geometry geometry = {0};
    struct kvf_instance *i;
    kvf_status_t status;

    (void)pthread_mutex_lock(&engine->lock);
    i = strnlen(name, KVF_NAME_MAX) < KVF_NAME_MAX ? kvfi_instance_find(engine, name) : NULL;
    (void)pthread_mutex_unlock(&engine->lock);
    if (i && i->known && i->digest == digest)
        return i;
    if (i && (i->own || (i->known && i->n_refs > 0))) {
        (void)snprintf(text, text_cap, "instance \"%.63s\" is in use with another geometry", name);
        return NULL;
    }
    status = kvfi_instance_build(blobs, blob_bytes, n_blobs, text, text_cap, &geometry);
    if (!status && strcmp(geometry.name, name) != 0) {
        (void)snprintf(text, text_cap, "HELLO is of \"%.63s\", its geometry of \"%s\"", name,
                       geometry.name);
        status = KVF_EMISMATCH;
    }
    if (!status)
        status = kvfi_geometry_match(&kvfi_own(engine)->geometry, &geometry, text, text_cap);
    if (!status && !i) {
        i = new_instance(engine, name);
        if (!i)
            status = KVF_ENOMEM;
    }
    if (!status)
        status = take_geometry(engine, i, &geometry, digest);
    if (status) {
        kvfi_instance_geometry_fini(&geometry);
        return NULL;
    }
    (void)pthread_mutex_lock(&engine->lock);
    if (!kvfi_instance_find(engine, name)) {
        i->next = engine->instances;
        engine->instances = i;
    }
    (void)pthread_mutex_unlock(&engine->lock);
    return i;
}

void kvfi_instance_peer_up(struct kvf_engine *engine, struct kvf_instance *instance)
{
    struct kvf_task *next;

    for (struct kvf_task *t = instance->recvs; t; t = next) {
        next = t->recv.next_of_instance;
        kvfi_sink_advance(t);
    }
    kvfi_instances_serve(engine);
}

void kvfi_instance_peer_down(struct kvf_engine *engine, struct kvf_instance *instance,
                             struct kvfi_peer *peer, kvf_status_t status, const char *text)
{
    bool permanent = status == KVF_EAUTH || status == KVF_EMISMATCH || status == KVF_EVERSION;

    if (peer->index == instance->fetch_peer)
        instance->fetch_peer = KVFI_NONE;
    else if (!peer->fetches_geometry && instance->peers)
        instance->peers[peer->rank] = KVFI_NONE;
    if (peer->fetches_geometry && instance->known)
        return; /* it has done its work */
    if (permanent)
        give_up(instance, status, text);
    else
        note_connect(instance, KVF_IN_PROGRESS, text);
    if (!engine->stopping)
        back_off(instance);
}
