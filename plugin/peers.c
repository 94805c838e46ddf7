/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions with other engines: HELLO, messages handed to their subjects, and the end. */
#include <stdio.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"
#include "plugin/error.h"

kvf_status_t kvfi_peers_init(struct kvf_engine *engine)
{
    uint32_t n = engine->config.max_peers;
    uint64_t n_inbounds = kvfi_min_u64((uint64_t)engine->config.max_tasks * 8, 1u << 20);

    engine->peers = kvfi_calloc(n, sizeof(*engine->peers));
    if (!engine->peers)
        return kvfi_fail(KVF_ENOMEM, "no memory for %u peers", n);
    for (uint32_t i = 0; i < n; i++) {
        engine->peers[i].index = i;
        engine->peers[i].next_free = i + 1 < n ? i + 1 : KVFI_NONE;
    }
    engine->free_peers = 0;
    engine->n_inbounds = (uint32_t)n_inbounds;
    engine->inbounds = kvfi_calloc(n_inbounds, sizeof(*engine->inbounds));
    if (!engine->inbounds)
        return kvfi_fail(KVF_ENOMEM, "no memory for %u requests", engine->n_inbounds);
    for (uint64_t i = n_inbounds; i-- > 0;) {
        engine->inbounds[i].next_waiting = engine->free_inbounds;
        engine->free_inbounds = &engine->inbounds[i];
    }
    return KVF_OK;
}

void kvfi_peers_fini(struct kvf_engine *engine)
{
    for (uint32_t i = 0; engine->peers && i < engine->config.max_peers; i++) {
        for (uint32_t l = 0; l < KVFI_LINKS_MAX; l++) {
            if (engine->peers[i].links[l].fabric_link)
                engine->ops->link_close(engine->peers[i].links[l].fabric_link);
        }
    }
    for (uint32_t i = 0; engine->inbounds && i < engine->n_inbounds; i++)
        kvfi_plan_fini(&engine->inbounds[i].plan);
    kvfi_free(engine->peers);
    kvfi_free(engine->inbounds);
    engine->peers = NULL;
    engine->inbounds = NULL;
}

static struct kvfi_peer *new_peer(struct kvf_engine *engine)
{
    uint32_t index = engine->free_peers;
    struct kvfi_peer *peer;

    if (index == KVFI_NONE)
        return NULL;
    peer = &engine->peers[index];
    engine->free_peers = peer->next_free;
    memset(peer, 0, sizeof(*peer));
    peer->index = index;
    peer->state = KVFI_PEER_CONNECTING;
    peer->rank = KVFI_NONE;
    engine->stats.peers++;
    return peer;
}

static void free_peer(struct kvf_engine *engine, struct kvfi_peer *peer)
{
    kvfi_links_close(engine, peer);
    if (peer->instance)
        peer->instance->n_refs--;
    peer->instance = NULL;
    peer->state = KVFI_PEER_FREE;
    peer->next_free = engine->free_peers;
    engine->free_peers = peer->index;
    engine->stats.peers--;
}

void kvfi_peer_send(struct kvf_engine *engine, struct kvfi_peer *peer,
                    const Kvfi__Wire__Message *message)
{
    kvf_status_t status;

    if (!peer->session)
        return;
    status = kvfi_session_send(peer->session, message);
    if (status)
        kvfi_log(&engine->log, KVF_LOG_WARN, "peer", "message to rank %u not sent: %d", peer->rank,
                 (int)status);
}

void kvfi_peer_bye(struct kvf_engine *engine, struct kvfi_peer *peer, kvf_status_t status,
                   const char *text)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Bye bye;
    char copy[KVF_MESSAGE_MAX];

    kvfi__wire__message__init(&m);
    kvfi__wire__bye__init(&bye);
    if (!peer->session)
        return;
    (void)snprintf(copy, sizeof(copy), "%s", text);
    bye.status = (int32_t)status;
    bye.text = copy;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_BYE;
    m.bye = &bye;
    kvfi_peer_send(engine, peer, &m);
    if (status != KVF_OK)
        kvfi_session_close(peer->session);
}

/* Says no to a peer, for both sides to read. */
static void reject(struct kvf_engine *engine, struct kvfi_peer *peer, kvf_status_t status,
                   const char *text)
{
    kvfi_log(&engine->log, KVF_LOG_WARN, "peer", "peer %s refused: %s",
             kvfi_session_peer_text(peer->session), text);
    peer->end_status = status;
    (void)snprintf(peer->end_text, sizeof(peer->end_text), "%s", text);
    kvfi_peer_bye(engine, peer, status, text);
}

uint32_t kvfi_peer_connect(struct kvf_engine *engine, struct kvf_instance *instance, uint32_t rank,
                           const char *address)
{
    struct kvfi_peer *peer = new_peer(engine);
    kvf_status_t status;

    if (!peer)
        return KVFI_NONE;
    peer->is_source = true;
    peer->fetches_geometry = rank == KVFI_NONE;
    peer->rank = rank;
    peer->instance = instance;
    instance->n_refs++;
    status = kvfi_control_connect(engine->control, address, engine->config.connect_timeout_ns, peer,
                                  &peer->session);
    if (status) {
        kvfi_log(&engine->log, KVF_LOG_WARN, "peer", "cannot connect to %s: %d", address,
                 (int)status);
        free_peer(engine, peer);
        return KVFI_NONE;
    }
    return peer->index;
}

/* ---- HELLO -------------------------------------------------------------------------------- */

static void say_hello(struct kvf_engine *engine, struct kvfi_peer *peer, bool with_geometry)
{
    const struct kvf_instance *own = kvfi_own(engine);
    Kvfi__Wire__Message m;
    Kvfi__Wire__Hello h;
    char version[64];

    kvfi__wire__message__init(&m);
    kvfi__wire__hello__init(&h);
    h.protocol = KVFI_PROTOCOL;
    h.instance = peer->fetches_geometry ? (char *)(uintptr_t) "" : engine->config.instance;
    h.rank = engine->config.place.rank;
    h.incarnation = engine->incarnation;
    h.compat = engine->config.compat;
    (void)snprintf(version, sizeof(version), "%s", engine->ops->version(engine->fabric));
    h.fabric = (char *)(uintptr_t)engine->ops->name;
    h.fabric_version = version;
    h.fabric_address.data = engine->address.bytes;
    h.fabric_address.len = engine->address.n_bytes;
    h.n_send_lanes = engine->config.n_send_lanes;
    h.n_recv_lanes = engine->config.n_recv_lanes;
    h.links_per_peer = engine->config.links_per_peer;
    h.slot_bytes = engine->config.slot_bytes;
    h.chunk_bytes = engine->config.chunk_bytes;
    if (with_geometry && own) {
        h.n_geometry = own->n_blobs;
        h.geometry = own->blobs;
    }
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_HELLO;
    m.hello = &h;
    peer->hello_sent = true;
    kvfi_peer_send(engine, peer, &m);
}

/* What must be equal on both sides; false with the sentence. */
static bool compatible(const struct kvf_engine *engine, const Kvfi__Wire__Hello *h, char *text,
                       size_t text_cap)
{
    const char *version = engine->ops->version(engine->fabric);

    if (h->protocol != KVFI_PROTOCOL)
        (void)snprintf(text, text_cap, "protocol is %u there, %u here", h->protocol, KVFI_PROTOCOL);
    else if (strcmp(h->fabric, engine->ops->name) != 0)
        (void)snprintf(text, text_cap, "fabric is \"%.16s\" there, \"%s\" here", h->fabric,
                       engine->ops->name);
    else if (strcmp(h->fabric_version, version) != 0)
        (void)snprintf(text, text_cap, "fabric version is \"%.64s\" there, \"%.64s\" here",
                       h->fabric_version, version);
    else if (strcmp(h->compat, engine->config.compat) != 0)
        (void)snprintf(text, text_cap, "compat is \"%.64s\" there, \"%s\" here", h->compat,
                       engine->config.compat);
    else if (h->fabric_address.len > KVFI_FABRIC_ADDRESS_MAX)
        (void)snprintf(text, text_cap, "fabric address is %zu bytes", h->fabric_address.len);
    else
        return true;
    return false;
}

/* Everything both sides derive from the two HELLOs. */
static bool settle(const struct kvf_engine *engine, struct kvfi_peer *peer,
                   const Kvfi__Wire__Hello *h, char *text, size_t text_cap)
{
    uint64_t mine = engine->config.slot_bytes;
    uint64_t receiver = peer->is_source ? mine : h->slot_bytes;
    uint64_t sender = peer->is_source ? h->slot_bytes : mine;

    if (receiver < sender) {
        (void)snprintf(text, text_cap,
                       "slot_bytes is %llu at the receiver, less than %llu at the sender",
                       (unsigned long long)receiver, (unsigned long long)sender);
        return false;
    }
    if (h->chunk_bytes < 1024 || h->links_per_peer < 1) {
        (void)snprintf(text, text_cap, "chunk_bytes is %llu and links_per_peer %u there",
                       (unsigned long long)h->chunk_bytes, h->links_per_peer);
        return false;
    }
    peer->chunk_bytes = (uint32_t)kvfi_min_u64(h->chunk_bytes, engine->config.chunk_bytes);
    peer->n_links = h->links_per_peer < engine->config.links_per_peer
                        ? h->links_per_peer
                        : engine->config.links_per_peer;
    peer->incarnation = h->incarnation;
    peer->address.n_bytes = (uint32_t)h->fabric_address.len;
    if (h->fabric_address.len > 0)
        memcpy(peer->address.bytes, h->fabric_address.data, h->fabric_address.len);
    return true;
}

/* A receiver presents itself with its instance's geometry. */
static bool meet_receiver(struct kvf_engine *engine, struct kvfi_peer *peer,
                          const Kvfi__Wire__Hello *h, char *text, size_t text_cap)
{
    const void *blobs[64];
    size_t sizes[64];
    const void **list = blobs;
    size_t *list_sizes = sizes;
    struct kvf_instance *instance = NULL;

    if (h->n_geometry == 0 || h->n_geometry > KVFI_RANKS_MAX || !kvfi_own(engine)) {
        (void)snprintf(text, text_cap, "%s",
                       kvfi_own(engine) ? "HELLO has no geometry"
                                        : "own instance was not added yet");
        return false;
    }
    if (h->n_geometry > KVFI_ARRAY_LEN(blobs)) {
        list = kvfi_calloc(h->n_geometry, sizeof(*list));
        list_sizes = kvfi_calloc(h->n_geometry, sizeof(*list_sizes));
    }
    if (list && list_sizes) {
        for (size_t i = 0; i < h->n_geometry; i++) {
            list[i] = h->geometry[i].data;
            list_sizes[i] = h->geometry[i].len;
        }
        instance = kvfi_instance_heard(engine, h->instance, list, list_sizes, h->n_geometry, text,
                                       text_cap);
    }
    if (h->n_geometry > KVFI_ARRAY_LEN(blobs)) {
        kvfi_free(list);
        kvfi_free(list_sizes);
    }
    if (!instance)
        return false;
    if (h->rank >= instance->geometry.n_ranks) {
        (void)snprintf(text, text_cap, "rank is %u, but \"%s\" has %u ranks", h->rank,
                       instance->name, instance->geometry.n_ranks);
        return false;
    }
    peer->instance = instance;
    peer->rank = h->rank;
    instance->n_refs++;
    return true;
}

/* The source we called answers. */
static bool meet_source(struct kvfi_peer *peer, const Kvfi__Wire__Hello *h, char *text,
                        size_t text_cap)
{
    if (strcmp(h->instance, peer->instance->name) != 0) {
        (void)snprintf(text, text_cap, "instance is \"%.63s\" there, expected \"%s\"", h->instance,
                       peer->instance->name);
        return false;
    }
    if (!peer->fetches_geometry && h->rank != peer->rank) {
        (void)snprintf(text, text_cap, "rank is %u there, expected %u", h->rank, peer->rank);
        return false;
    }
    return true;
}

static void ask_geometry(struct kvf_engine *engine, struct kvfi_peer *peer)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__GeometryGet get;

    kvfi__wire__message__init(&m);
    kvfi__wire__geometry_get__init(&get);
    get.instance = peer->instance->name;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_GEOMETRY_GET;
    m.geometry_get = &get;
    kvfi_peer_send(engine, peer, &m);
}

static void on_hello(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Hello *h)
{
    char text[KVF_MESSAGE_MAX] = "";
    bool asks_only = !peer->is_source && h->instance[0] == '\0';
    bool good = peer->state == KVFI_PEER_CONNECTING && !peer->said_hello;

    if (!good)
        (void)snprintf(text, sizeof(text), "a second HELLO");
    good = good && (asks_only || compatible(engine, h, text, sizeof(text)));
    if (good && peer->is_source)
        good = meet_source(peer, h, text, sizeof(text));
    else if (good && !asks_only)
        good = meet_receiver(engine, peer, h, text, sizeof(text));
    if (good && !asks_only && !peer->fetches_geometry)
        good = settle(engine, peer, h, text, sizeof(text));
    if (!good) {
        reject(engine, peer, KVF_EMISMATCH, text);
        return;
    }
    peer->said_hello = true;
    if (!peer->is_source)
        say_hello(engine, peer, false);
    if (peer->is_source && peer->fetches_geometry) {
        ask_geometry(engine, peer);
        return;
    }
    if (asks_only)
        return;
    peer->state = KVFI_PEER_UP;
    if (peer->is_source)
        kvfi_instance_peer_up(engine, peer->instance);
    else
        kvfi_links_open(engine, peer);
}

static void on_geometry_get(struct kvf_engine *engine, struct kvfi_peer *peer,
                            const Kvfi__Wire__GeometryGet *get)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__Geometry g;

    kvfi__wire__message__init(&m);
    kvfi__wire__geometry__init(&g);
    (void)get;
    if (!peer->said_hello || !kvfi_own(engine)) {
        reject(engine, peer, KVF_ESTATE, "own instance was not added yet");
        return;
    }
    g.instance = engine->config.instance;
    g.n_blobs = kvfi_own(engine)->n_blobs;
    g.blobs = kvfi_own(engine)->blobs;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_GEOMETRY;
    m.geometry = &g;
    kvfi_peer_send(engine, peer, &m);
}

static void on_geometry(struct kvf_engine *engine, struct kvfi_peer *peer,
                        const Kvfi__Wire__Geometry *g)
{
    if (!peer->fetches_geometry || !peer->is_source) {
        reject(engine, peer, KVF_EPROTO, "geometry that was not asked for");
        return;
    }
    kvfi_instance_geometry_came(engine, peer->instance, g);
    kvfi_session_close(peer->session);
}

static void on_bye(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Bye *bye)
{
    peer->end_status = bye->status < 0 ? (kvf_status_t)bye->status : KVF_EPEER;
    (void)snprintf(peer->end_text, sizeof(peer->end_text), "%.200s", bye->text);
    if (bye->status != KVF_OK || peer->state != KVFI_PEER_UP)
        return; /* the other side closes */
    /* A receiver leaves: stop, let what is launched arrive, then close. */
    peer->state = KVFI_PEER_LEAVING;
    if (!peer->is_source) {
        kvfi_source_peer_down(engine, peer, peer->end_text);
        kvfi_peer_drained(engine, peer);
    }
}

/* ---- the session's callbacks --------------------------------------------------------------- */

void kvfi_on_up(void *ctx, struct kvfi_session *session)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_peer *peer;

    if (kvfi_session_is_outgoing(session)) {
        peer = kvfi_session_user(session);
        say_hello(engine, peer, !peer->fetches_geometry);
        return;
    }
    peer = new_peer(engine);
    kvfi_session_set_user(session, peer);
    if (!peer) {
        kvfi_log(&engine->log, KVF_LOG_WARN, "peer", "no room for a peer, max_peers is %u",
                 engine->config.max_peers);
        kvfi_session_close(session);
        return;
    }
    peer->session = session;
    if (engine->stopping)
        reject(engine, peer, KVF_EPEER, "the engine is being destroyed");
}

/* Messages that make sense only between peers that know one another. */
static kvf_status_t on_peer_message(struct kvf_engine *engine, struct kvfi_peer *peer,
                                    const Kvfi__Wire__Message *m)
{
    if (peer->is_source) {
        switch ((int)m->kind_case) {
        case KVFI__WIRE__MESSAGE__KIND_LINK_OPEN:
            kvfi_on_link_open(engine, peer, m->link_open);
            return KVF_OK;
        case KVFI__WIRE__MESSAGE__KIND_ACCEPT:
            kvfi_on_accept(engine, peer, m->accept);
            return KVF_OK;
        case KVFI__WIRE__MESSAGE__KIND_REFUSE:
            kvfi_on_refuse(engine, peer, m->refuse);
            return KVF_OK;
        case KVFI__WIRE__MESSAGE__KIND_EXTENT:
            kvfi_on_extent(engine, peer, m->extent);
            return KVF_OK;
        case KVFI__WIRE__MESSAGE__KIND_CLOSE:
            kvfi_on_close(engine, peer, m->close);
            return KVF_OK;
        case KVFI__WIRE__MESSAGE__KIND_OFFER:
            return kvfi_on_offer(engine, peer, m->offer);
        case KVFI__WIRE__MESSAGE__KIND_WITHDRAW:
        case KVFI__WIRE__MESSAGE__KIND_RELEASE:
        case KVFI__WIRE__MESSAGE__KIND_GO:
            return kvfi_on_batch(engine, peer, m->kind_case, m->go);
        default:
            return KVF_EPROTO;
        }
    }
    switch ((int)m->kind_case) {
    case KVFI__WIRE__MESSAGE__KIND_LINK_READY:
        kvfi_on_link_ready(engine, peer, m->link_ready);
        return KVF_OK;
    case KVFI__WIRE__MESSAGE__KIND_REQUEST:
        if (peer->state == KVFI_PEER_UP)
            kvfi_on_request(engine, peer, m->request);
        return KVF_OK;
    case KVFI__WIRE__MESSAGE__KIND_FINISH:
        kvfi_on_finish(engine, peer, m->finish);
        return KVF_OK;
    case KVFI__WIRE__MESSAGE__KIND_GRANT:
    case KVFI__WIRE__MESSAGE__KIND_DELIVERED:
        return kvfi_on_batch(engine, peer, m->kind_case, m->grant);
    default:
        return KVF_EPROTO;
    }
}

void kvfi_on_message(void *ctx, struct kvfi_session *session, const Kvfi__Wire__Message *m)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_peer *peer = kvfi_session_user(session);
    kvf_status_t status = KVF_OK;

    if (!peer)
        return;
    switch ((int)m->kind_case) {
    case KVFI__WIRE__MESSAGE__KIND_HELLO:
        on_hello(engine, peer, m->hello);
        return;
    case KVFI__WIRE__MESSAGE__KIND_BYE:
        on_bye(engine, peer, m->bye);
        return;
    case KVFI__WIRE__MESSAGE__KIND_GEOMETRY_GET:
        on_geometry_get(engine, peer, m->geometry_get);
        return;
    case KVFI__WIRE__MESSAGE__KIND_GEOMETRY:
        on_geometry(engine, peer, m->geometry);
        return;
    default:
        break;
    }
    if (peer->state != KVFI_PEER_UP && peer->state != KVFI_PEER_LEAVING)
        status = KVF_EPROTO;
    else
        status = on_peer_message(engine, peer, m);
    if (status) {
        char text[KVF_MESSAGE_MAX];

        (void)snprintf(text, sizeof(text), "message of kind %d breaks the protocol",
                       (int)m->kind_case);
        reject(engine, peer, status, text);
    }
}

void kvfi_peer_drained(struct kvf_engine *engine, struct kvfi_peer *peer)
{
    if (peer->state != KVFI_PEER_LEAVING || peer->n_in_flight > 0)
        return;
    if (peer->session && !peer->is_source) {
        if (peer->closing)
            return;
        peer->closing = true;
        kvfi_peer_bye(engine, peer, KVF_OK, "leaving");
        kvfi_session_close(peer->session);
        return;
    }
    if (peer->session)
        return; /* a source closes the session itself */
    kvfi_links_close(engine, peer);
    if (!peer->inbounds)
        free_peer(engine, peer);
}

void kvfi_peer_leave(struct kvf_engine *engine, struct kvfi_peer *peer)
{
    if (peer->state == KVFI_PEER_CONNECTING) {
        if (peer->session && !peer->closing)
            kvfi_session_close(peer->session);
        peer->closing = true;
        return;
    }
    if (peer->state != KVFI_PEER_UP)
        return;
    peer->state = KVFI_PEER_LEAVING;
    if (peer->is_source)
        kvfi_peer_bye(engine, peer, KVF_OK, "the receiver leaves");
    else
        kvfi_source_peer_down(engine, peer, "this engine leaves");
    kvfi_peer_drained(engine, peer);
}

void kvfi_peers_settle(struct kvf_engine *engine)
{
    if (!engine->check_leaving)
        return;
    engine->check_leaving = false;
    for (uint32_t i = 0; i < engine->config.max_peers; i++) {
        if (engine->peers[i].state == KVFI_PEER_LEAVING)
            kvfi_peer_drained(engine, &engine->peers[i]);
    }
}

void kvfi_on_down(void *ctx, struct kvfi_session *session, kvf_status_t status, const char *text)
{
    struct kvf_engine *engine = ctx;
    struct kvfi_peer *peer = kvfi_session_user(session);
    struct kvf_instance *instance;

    if (!peer)
        return;
    instance = peer->instance;
    if (peer->end_status != KVF_OK) {
        status = peer->end_status; /* the peer's own word is better than the socket's */
        text = peer->end_text;
    }
    peer->session = NULL;
    peer->state = KVFI_PEER_LEAVING;
    if (!peer->is_source)
        kvfi_source_peer_down(engine, peer, text);
    else if (!peer->fetches_geometry)
        kvfi_sink_peer_down(engine, peer, status, text);
    if (peer->is_source && instance)
        kvfi_instance_peer_down(engine, instance, peer, status, text);
    kvfi_peer_drained(engine, peer);
}
