/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiving end. An offer waits in its link, of which it is the only one; links whose offer
 * waits stand in their lane's heap (priority, then turn) and in its queue (turn only). A granted
 * batch lies in its slot until it is unpacked.
 *
 * A turn is taken on arrival, and anew when another link of the same peer is granted: so between
 * two grants to a peer everybody else of that priority who waited is granted once.
 */
#include "collectives/sched.h"

#include <assert.h>
#include <string.h>

#include "collectives/carve.h"
#include "collectives/sched_heap.h"

#define NONE UINT32_MAX
#define PEERS_MAX (1u << 20)

enum slot_state {
    SLOT_FREE = 0,
    SLOT_GRANTED,
    SLOT_WITHDRAWN, /* granted, and RELEASE is on the way */
    SLOT_GO,        /* waits for the lane */
    SLOT_POSTED,
    SLOT_UNPACKING,
    SLOT_ORPHAN, /* UNPACKING, but the link is gone */
};

struct batch {
    struct kvfi_batch_id id;
    uint32_t bytes;
    uint32_t n_runs;
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];
};

struct slot {
    enum slot_state state;
    uint64_t go_order;
    struct batch batch;
};

struct lane {
    uint64_t free; /* bit per slot */
    uint64_t go;   /* slots in SLOT_GO */
    uint32_t n_posted;
    uint32_t n_grants;
    uint32_t heap; /* of links whose offer waits */
    uint32_t first;
    uint32_t last;
};

struct link {
    bool up;
    uint32_t lane;
    uint32_t epoch;
    uint32_t next_seq; /* of the next OFFER */
    uint32_t n_open;   /* the waiting one, and granted ones without GO or WITHDRAW */
    int32_t priority;  /* of the waiting one, as the rest */
    uint32_t prev;
    uint32_t next;
    struct batch offer;
};

struct kvfi_recv_sched {
    struct kvfi_recv_sched_config config;
    kvfi_recv_emit_fn emit;
    void *emit_ctx;
    uint64_t order; /* counts everything that waits in turn */
    uint32_t n_posted;
    uint32_t n_go;                     /* GO came, not received yet; n_posted of them are posted */
    struct lane *lanes;                /* [n_lanes] */
    struct slot *slots;                /* [n_lanes][slots_per_lane] */
    struct link *links;                /* [max_peers][links_per_peer] */
    struct kvfi_heap_node *link_nodes; /* the same; in a heap while the link's offer waits */
};

/* ---- memory ------------------------------------------------------------------------------- */

struct layout {
    size_t lanes, slots, links, link_nodes;
    size_t n_bytes;
};

static bool config_ok(const struct kvfi_recv_sched_config *c)
{
    return c->n_lanes >= 1 && c->n_lanes <= KVFI_SCHED_LANES_MAX && c->slots_per_lane >= 1 &&
           c->slots_per_lane <= KVFI_SCHED_SLOTS_MAX && c->slot_bytes >= 1 && c->max_peers >= 1 &&
           c->max_peers <= PEERS_MAX && c->links_per_peer >= 1 &&
           c->links_per_peer <= KVFI_LINKS_MAX && c->max_offers >= 1;
}

static bool layout_make(const struct kvfi_recv_sched_config *c, struct layout *ret)
{
    size_t n_links = (size_t)c->max_peers * c->links_per_peer;
    size_t offset;

    ret->n_bytes = 0;
    return kvfi_carve(&ret->n_bytes, 1, sizeof(struct kvfi_recv_sched), &offset) &&
           kvfi_carve(&ret->n_bytes, c->n_lanes, sizeof(struct lane), &ret->lanes) &&
           kvfi_carve(&ret->n_bytes, (size_t)c->n_lanes * c->slots_per_lane, sizeof(struct slot),
                      &ret->slots) &&
           kvfi_carve(&ret->n_bytes, n_links, sizeof(struct link), &ret->links) &&
           kvfi_carve(&ret->n_bytes, n_links, sizeof(struct kvfi_heap_node), &ret->link_nodes);
}

size_t kvfi_recv_sched_bytes(const struct kvfi_recv_sched_config *config)
{
    struct layout layout;

    return config_ok(config) && layout_make(config, &layout) ? layout.n_bytes : 0;
}

struct kvfi_recv_sched *kvfi_recv_sched_init(void *memory,
                                             const struct kvfi_recv_sched_config *config,
                                             kvfi_recv_emit_fn emit, void *emit_ctx)
{
    struct kvfi_recv_sched *s = memory;
    uint8_t *base = memory;
    struct layout at;
    bool fits = config_ok(config) && layout_make(config, &at);

    assert(fits && emit);
    if (!fits)
        return NULL;
    s->config = *config;
    s->emit = emit;
    s->emit_ctx = emit_ctx;
    s->lanes = (void *)(base + at.lanes);
    s->slots = (void *)(base + at.slots);
    s->links = (void *)(base + at.links);
    s->link_nodes = (void *)(base + at.link_nodes);
    for (uint32_t i = 0; i < config->n_lanes; i++) {
        s->lanes[i].free = UINT64_MAX >> (64 - config->slots_per_lane);
        s->lanes[i].heap = KVFI_HEAP_NIL;
        s->lanes[i].first = NONE;
        s->lanes[i].last = NONE;
    }
    return s;
}

/* ---- small things ------------------------------------------------------------------------- */

static uint64_t bit(uint32_t i)
{
    return (uint64_t)1 << i;
}

/* Index of the lowest bit; mask != 0. */
static uint32_t lowest(uint64_t mask)
{
    return (uint32_t)__builtin_ctzll(mask);
}

static struct slot *slot_at(const struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot)
{
    return &s->slots[lane * s->config.slots_per_lane + slot];
}

static uint32_t link_index(const struct kvfi_recv_sched *s, uint32_t peer, uint32_t link)
{
    return peer * s->config.links_per_peer + link;
}

static void emit(struct kvfi_recv_sched *s, enum kvfi_recv_action_kind kind, const struct batch *b,
                 uint32_t lane, uint32_t slot)
{
    const struct kvfi_recv_action action = {.kind = kind,
                                            .batch = b->id,
                                            .lane = lane,
                                            .slot = slot,
                                            .bytes = b->bytes,
                                            .runs = b->runs,
                                            .n_runs = b->n_runs};

    s->emit(s->emit_ctx, &action);
}

static void emit_batch(struct kvfi_recv_sched *s, enum kvfi_recv_action_kind kind, uint32_t lane,
                       uint32_t slot)
{
    emit(s, kind, &slot_at(s, lane, slot)->batch, lane, slot);
}

static void batch_copy(struct batch *to, const struct batch *from)
{
    to->id = from->id;
    to->bytes = from->bytes;
    to->n_runs = from->n_runs;
    memcpy(to->runs, from->runs, from->n_runs * sizeof(from->runs[0]));
}

/* ---- waiting offers ----------------------------------------------------------------------- */

static void wait_begin(struct kvfi_recv_sched *s, uint32_t i)
{
    struct link *k = &s->links[i];
    struct lane *l = &s->lanes[k->lane];
    const struct kvfi_heap_key key = {
        .priority = k->priority, .deadline_ns = UINT64_MAX, .order = ++s->order};

    kvfi_heap_insert(s->link_nodes, &l->heap, i, &key);
    k->prev = l->last;
    k->next = NONE;
    if (l->last != NONE)
        s->links[l->last].next = i;
    else
        l->first = i;
    l->last = i;
}

static void wait_end(struct kvfi_recv_sched *s, uint32_t i)
{
    const struct link *k = &s->links[i];
    struct lane *l = &s->lanes[k->lane];

    kvfi_heap_remove(s->link_nodes, &l->heap, i);
    if (k->prev != NONE)
        s->links[k->prev].next = k->next;
    else
        l->first = k->next;
    if (k->next != NONE)
        s->links[k->next].prev = k->prev;
    else
        l->last = k->prev;
}

/* The peer was granted something on the lane: its other links' offers take a new turn. */
static void wait_anew(struct kvfi_recv_sched *s, uint32_t peer, uint32_t lane)
{
    uint32_t begin = link_index(s, peer, 0);

    for (uint32_t i = begin; i < begin + s->config.links_per_peer; i++) {
        if (s->links[i].lane == lane && kvfi_heap_has(s->link_nodes, i)) {
            wait_end(s, i);
            wait_begin(s, i);
        }
    }
}

static void grant_waiting(struct kvfi_recv_sched *s, uint32_t lane)
{
    struct lane *l = &s->lanes[lane];

    while (l->free && l->first != NONE) {
        bool fair = ++l->n_grants % KVFI_RECV_FAIR_EVERY == 0;
        uint32_t i = fair ? l->first : l->heap;
        uint32_t slot = lowest(l->free);
        struct slot *b = slot_at(s, lane, slot);

        wait_end(s, i);
        wait_anew(s, s->links[i].offer.id.peer, lane);
        l->free &= ~bit(slot);
        b->state = SLOT_GRANTED;
        batch_copy(&b->batch, &s->links[i].offer);
        emit_batch(s, KVFI_RECV_GRANT, lane, slot);
    }
}

static void slot_free(struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot)
{
    slot_at(s, lane, slot)->state = SLOT_FREE;
    s->lanes[lane].free |= bit(slot);
}

/* ---- posting ------------------------------------------------------------------------------ */

/* Lane that may post one more and has the oldest GO; NONE. */
static uint32_t next_post(const struct kvfi_recv_sched *s, uint32_t *ret_slot)
{
    uint32_t per_lane = s->config.max_posted ? s->config.max_posted : 1;
    uint64_t best = UINT64_MAX;
    uint32_t lane = NONE;

    for (uint32_t i = 0; i < s->config.n_lanes; i++) {
        if (s->lanes[i].n_posted >= per_lane)
            continue;
        for (uint64_t m = s->lanes[i].go; m; m &= m - 1) {
            uint64_t order = slot_at(s, i, lowest(m))->go_order;

            if (order < best) {
                best = order;
                lane = i;
                *ret_slot = lowest(m);
            }
        }
    }
    return lane;
}

/*
 * Whatever limit there is on posts cannot block for ever: what is posted was launched by its
 * sender, so both ends of it are running and end by themselves.
 */
static void post_waiting(struct kvfi_recv_sched *s)
{
    while (s->config.max_groups == 0 || s->n_posted < s->config.max_groups) {
        uint32_t slot;
        uint32_t lane = next_post(s, &slot);

        if (lane == NONE)
            return;
        slot_at(s, lane, slot)->state = SLOT_POSTED;
        s->lanes[lane].go &= ~bit(slot);
        s->lanes[lane].n_posted++;
        s->n_posted++;
        emit_batch(s, KVFI_RECV_POST, lane, slot);
    }
}

/* ---- links -------------------------------------------------------------------------------- */

void kvfi_recv_link_up(struct kvfi_recv_sched *s, uint32_t peer, uint32_t link, uint32_t lane,
                       uint32_t epoch)
{
    struct link *k;

    assert(peer < s->config.max_peers && link < s->config.links_per_peer &&
           lane < s->config.n_lanes);
    k = &s->links[link_index(s, peer, link)];
    assert(!k->up);
    k->up = true;
    k->lane = lane;
    k->epoch = epoch;
    k->next_seq = 0;
    k->n_open = 0;
}

static void slot_unlink(struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot)
{
    struct slot *b = slot_at(s, lane, slot);
    struct lane *l = &s->lanes[lane];

    if (b->state == SLOT_UNPACKING) {
        b->state = SLOT_ORPHAN;
        return;
    }
    if (b->state == SLOT_GO) {
        l->go &= ~bit(slot);
        s->n_go--;
    } else if (b->state == SLOT_POSTED) {
        l->n_posted--;
        s->n_posted--;
        s->n_go--;
    }
    emit_batch(s, KVFI_RECV_DROPPED, lane, slot);
    slot_free(s, lane, slot);
}

void kvfi_recv_link_down(struct kvfi_recv_sched *s, uint32_t peer, uint32_t link)
{
    uint32_t i;
    struct link *k;

    assert(peer < s->config.max_peers && link < s->config.links_per_peer);
    i = link_index(s, peer, link);
    k = &s->links[i];
    assert(k->up);
    k->up = false;
    if (kvfi_heap_has(s->link_nodes, i)) {
        wait_end(s, i);
        emit(s, KVFI_RECV_DROPPED, &k->offer, k->lane, NONE);
    }
    for (uint32_t j = 0; j < s->config.slots_per_lane; j++) {
        const struct slot *b = slot_at(s, k->lane, j);

        if (b->state != SLOT_FREE && b->state != SLOT_ORPHAN && b->batch.id.peer == peer &&
            b->batch.id.link == link)
            slot_unlink(s, k->lane, j);
    }
    grant_waiting(s, k->lane);
    post_waiting(s);
}

/* ---- messages ----------------------------------------------------------------------------- */

/* NULL: no such link, or not in this epoch. */
static struct link *find_link(const struct kvfi_recv_sched *s, const struct kvfi_batch_id *id)
{
    struct link *k;

    if (id->peer >= s->config.max_peers || id->link >= s->config.links_per_peer)
        return NULL;
    k = &s->links[link_index(s, id->peer, id->link)];
    return k->up && k->epoch == id->epoch ? k : NULL;
}

/* Slot of a batch of an up link; NONE. */
static uint32_t find_slot(const struct kvfi_recv_sched *s, uint32_t lane,
                          const struct kvfi_batch_id *id)
{
    for (uint32_t i = 0; i < s->config.slots_per_lane; i++) {
        const struct slot *b = slot_at(s, lane, i);

        if (b->state != SLOT_FREE && b->state != SLOT_ORPHAN && b->batch.id.seq == id->seq &&
            b->batch.id.link == id->link && b->batch.id.peer == id->peer)
            return i;
    }
    return NONE;
}

static bool runs_ok(const struct kvfi_run *runs, uint32_t n_runs, uint32_t bytes)
{
    uint64_t sum = 0;

    if (n_runs == 0 || n_runs > KVFI_BATCH_RUNS_MAX)
        return false;
    for (uint32_t i = 0; i < n_runs; i++) {
        if (runs[i].n_chunks == 0 || runs[i].bytes == 0)
            return false;
        sum += runs[i].bytes;
    }
    return sum == bytes;
}

kvf_status_t kvfi_recv_on_offer(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id,
                                const struct kvfi_run *runs, uint32_t n_runs, uint32_t bytes,
                                int32_t priority)
{
    struct link *k = find_link(s, id);
    uint32_t offset = 0;
    uint32_t i;

    if (!k || id->seq != k->next_seq || bytes > s->config.slot_bytes ||
        !runs_ok(runs, n_runs, bytes))
        return KVF_EPROTO;
    i = link_index(s, id->peer, id->link);
    if (k->n_open >= s->config.max_offers || kvfi_heap_has(s->link_nodes, i))
        return KVF_EPROTO;
    k->next_seq++;
    k->n_open++;
    k->priority = priority;
    k->offer.id = *id;
    k->offer.bytes = bytes;
    k->offer.n_runs = n_runs;
    for (uint32_t j = 0; j < n_runs; j++) {
        k->offer.runs[j] = runs[j];
        k->offer.runs[j].offset = offset;
        offset += runs[j].bytes;
    }
    wait_begin(s, i);
    grant_waiting(s, k->lane);
    return KVF_OK;
}

kvf_status_t kvfi_recv_on_withdraw(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id)
{
    struct link *k = find_link(s, id);
    uint32_t i;
    uint32_t slot;

    if (!k)
        return KVF_EPROTO;
    i = link_index(s, id->peer, id->link);
    if (kvfi_heap_has(s->link_nodes, i) && k->offer.id.seq == id->seq) {
        wait_end(s, i);
        k->n_open--;
        emit(s, KVFI_RECV_DROPPED, &k->offer, k->lane, NONE);
        return KVF_OK;
    }
    slot = find_slot(s, k->lane, id);
    if (slot == NONE || slot_at(s, k->lane, slot)->state != SLOT_GRANTED)
        return KVF_EPROTO;
    slot_at(s, k->lane, slot)->state = SLOT_WITHDRAWN;
    k->n_open--;
    return KVF_OK;
}

kvf_status_t kvfi_recv_on_release(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id)
{
    struct link *k = find_link(s, id);
    uint32_t slot = k ? find_slot(s, k->lane, id) : NONE;

    if (slot == NONE)
        return KVF_EPROTO;
    switch (slot_at(s, k->lane, slot)->state) {
    case SLOT_GRANTED:
        k->n_open--;
        break;
    case SLOT_WITHDRAWN:
        break;
    case SLOT_FREE:
    case SLOT_GO:
    case SLOT_POSTED:
    case SLOT_UNPACKING:
    case SLOT_ORPHAN:
        return KVF_EPROTO;
    }
    emit_batch(s, KVFI_RECV_DROPPED, k->lane, slot);
    slot_free(s, k->lane, slot);
    grant_waiting(s, k->lane);
    return KVF_OK;
}

kvf_status_t kvfi_recv_on_go(struct kvfi_recv_sched *s, const struct kvfi_batch_id *id)
{
    struct link *k = find_link(s, id);
    uint32_t slot = k ? find_slot(s, k->lane, id) : NONE;
    struct slot *b;

    if (slot == NONE)
        return KVF_EPROTO;
    b = slot_at(s, k->lane, slot);
    if (b->state != SLOT_GRANTED)
        return KVF_EPROTO;
    k->n_open--;
    b->state = SLOT_GO;
    b->go_order = ++s->order;
    s->lanes[k->lane].go |= bit(slot);
    s->n_go++;
    post_waiting(s);
    return KVF_OK;
}

/* ---- reports ------------------------------------------------------------------------------ */

void kvfi_recv_on_received(struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot)
{
    assert(lane < s->config.n_lanes && slot < s->config.slots_per_lane);
    assert(slot_at(s, lane, slot)->state == SLOT_POSTED && s->lanes[lane].n_posted > 0);
    slot_at(s, lane, slot)->state = SLOT_UNPACKING;
    s->lanes[lane].n_posted--;
    s->n_posted--;
    s->n_go--;
    post_waiting(s);
}

void kvfi_recv_on_unpacked(struct kvfi_recv_sched *s, uint32_t lane, uint32_t slot)
{
    enum slot_state state;

    assert(lane < s->config.n_lanes && slot < s->config.slots_per_lane);
    state = slot_at(s, lane, slot)->state;
    assert(state == SLOT_UNPACKING || state == SLOT_ORPHAN);
    emit_batch(s, state == SLOT_UNPACKING ? KVFI_RECV_DELIVERED : KVFI_RECV_DROPPED, lane, slot);
    slot_free(s, lane, slot);
    grant_waiting(s, lane);
}

uint32_t kvfi_recv_n_posted(const struct kvfi_recv_sched *s)
{
    return s->n_go;
}
