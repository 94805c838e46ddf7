/* SPDX-License-Identifier: Apache-2.0 */
/* Links of a peer: opened by the sender, answered by the receiver (design §4 "Links"). */
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"

static uint64_t hash_text(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = kvfi_mix64(h ^ (uint8_t)*text);
    return h;
}

/* Both ends compute the same: which lane link 0 of the pair belongs to. */
static uint64_t pair_hash(const struct kvf_engine *engine, const struct kvfi_peer *peer)
{
    const char *src = peer->is_source ? peer->instance->name : engine->config.instance;
    const char *dst = peer->is_source ? engine->config.instance : peer->instance->name;
    uint32_t src_rank = peer->is_source ? peer->rank : engine->config.place.rank;
    uint32_t dst_rank = peer->is_source ? engine->config.place.rank : peer->rank;

    /* Consecutive destination ranks get consecutive lanes: a fan-out uses all of them evenly. */
    return hash_text(hash_text(1, src), dst) + src_rank + dst_rank;
}

static void say_failed(struct kvf_engine *engine, struct kvfi_peer *peer, uint32_t link,
                       kvf_status_t status)
{
    kvfi_log(&engine->log, KVF_LOG_ERROR, "link", "link %u with rank %u of \"%s\" failed: %d", link,
             peer->rank, peer->instance->name, (int)status);
    kvfi_peer_bye(engine, peer, KVF_EFABRIC, "a link could not be opened");
}

static void open_link(struct kvf_engine *engine, struct kvfi_peer *peer, uint32_t number)
{
    struct kvfi_link *link = &peer->links[number];
    Kvfi__Wire__Message m;
    Kvfi__Wire__LinkOpen open;
    struct kvfi_fabric_address offer = {0};
    kvf_status_t status =
        engine->ops->link_offer(engine->fabric, &peer->address, &offer, &link->fabric_link);

    kvfi__wire__message__init(&m);
    kvfi__wire__link_open__init(&open);
    if (status) {
        say_failed(engine, peer, number, status);
        return;
    }
    link->state = KVFI_LINK_OPENING;
    link->epoch = ++engine->last_epoch;
    link->lane = (uint32_t)((pair_hash(engine, peer) + number) % engine->config.n_send_lanes);
    open.link = number;
    open.epoch = link->epoch;
    open.offer.data = offer.bytes;
    open.offer.len = offer.n_bytes;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_LINK_OPEN;
    m.link_open = &open;
    kvfi_peer_send(engine, peer, &m);
}

void kvfi_links_open(struct kvf_engine *engine, struct kvfi_peer *peer)
{
    for (uint32_t i = 0; i < peer->n_links && engine->config.n_send_lanes > 0; i++)
        open_link(engine, peer, i);
}

static bool read_address(const ProtobufCBinaryData *data, struct kvfi_fabric_address *ret_address)
{
    if (data->len > KVFI_FABRIC_ADDRESS_MAX)
        return false;
    ret_address->n_bytes = (uint32_t)data->len;
    if (data->len > 0)
        memcpy(ret_address->bytes, data->data, data->len);
    return true;
}

static void link_is_up(struct kvf_engine *engine, struct kvfi_peer *peer, struct kvfi_link *link)
{
    link->state = KVFI_LINK_UP;
    peer->n_links_up++;
    engine->stats.links++;
}

void kvfi_on_link_open(struct kvf_engine *engine, struct kvfi_peer *peer,
                       const Kvfi__Wire__LinkOpen *open)
{
    Kvfi__Wire__Message m;
    Kvfi__Wire__LinkReady ready;
    struct kvfi_fabric_address offer = {0};
    struct kvfi_fabric_address answer = {0};
    struct kvfi_link *link;
    kvf_status_t status = KVF_EPROTO;

    kvfi__wire__message__init(&m);
    kvfi__wire__link_ready__init(&ready);
    if (open->link >= peer->n_links || peer->links[open->link].state != KVFI_LINK_DOWN ||
        !read_address(&open->offer, &offer)) {
        say_failed(engine, peer, open->link, status);
        return;
    }
    link = &peer->links[open->link];
    status = engine->ops->link_accept(engine->fabric, &peer->address, &offer, &answer,
                                      &link->fabric_link);
    if (status) {
        say_failed(engine, peer, open->link, status);
        return;
    }
    link->epoch = open->epoch;
    link->lane = (uint32_t)((pair_hash(engine, peer) + open->link) % engine->config.n_recv_lanes);
    kvfi_recv_link_up(engine->recv_sched, peer->index, open->link, link->lane, link->epoch);
    link_is_up(engine, peer, link);
    ready.link = open->link;
    ready.epoch = open->epoch;
    ready.answer.data = answer.bytes;
    ready.answer.len = answer.n_bytes;
    m.kind_case = KVFI__WIRE__MESSAGE__KIND_LINK_READY;
    m.link_ready = &ready;
    kvfi_peer_send(engine, peer, &m);
    kvfi_instance_peer_up(engine, peer->instance);
}

void kvfi_on_link_ready(struct kvf_engine *engine, struct kvfi_peer *peer,
                        const Kvfi__Wire__LinkReady *ready)
{
    struct kvfi_fabric_address answer = {0};
    struct kvfi_link *link;
    kvf_status_t status = KVF_EPROTO;

    if (ready->link < peer->n_links && read_address(&ready->answer, &answer) &&
        peer->links[ready->link].state == KVFI_LINK_OPENING &&
        peer->links[ready->link].epoch == ready->epoch)
        status = engine->ops->link_complete(peer->links[ready->link].fabric_link, &answer);
    if (status) {
        say_failed(engine, peer, ready->link, status);
        return;
    }
    link = &peer->links[ready->link];
    link_is_up(engine, peer, link);
    kvfi_send_link_up(engine->send_sched, peer->index, ready->link, link->lane, link->epoch,
                      kvfi_now_ns());
}

void kvfi_links_close(struct kvf_engine *engine, struct kvfi_peer *peer)
{
    for (uint32_t i = 0; i < peer->n_links; i++) {
        struct kvfi_link *link = &peer->links[i];

        if (link->state == KVFI_LINK_UP) {
            engine->stats.links--;
            if (peer->is_source)
                kvfi_recv_link_down(engine->recv_sched, peer->index, i);
            else
                kvfi_send_link_down(engine->send_sched, peer->index, i, kvfi_now_ns());
        }
        if (link->fabric_link)
            engine->ops->link_close(link->fabric_link);
        link->fabric_link = NULL;
        link->state = KVFI_LINK_DOWN;
    }
    peer->n_links_up = 0;
}
