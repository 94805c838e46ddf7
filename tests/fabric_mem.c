/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric_mem.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT_ALIGN = 64 };

enum op_kind { OP_COPY, OP_SEND, OP_RECV };

/* One operation. It belongs to the lane that began it, or to its fabric once it was given up. */
struct mem_op {
    struct mem_op *next_of_fabric;
    struct mem_op *next_of_wire;
    enum op_kind kind;
    struct kvfi_fabric *fabric;
    struct wire *wire; /* it is queued there */
    void *memory;
    const void *source;
    size_t n_bytes;
    struct kvfi_copy_job *jobs;
    size_t n_jobs;
    struct mem_op *partner;
    bool has_met;
    bool is_copied;
    uint32_t polls;
    kvf_status_t status;
};

/* The two ends of a link meet here. */
struct wire {
    struct wire *next;
    uint64_t id;
    uint64_t sender; /* fabric numbers */
    uint64_t receiver;
    uint32_t n_ends;
    struct mem_op *sends; /* oldest first; one of these two is empty */
    struct mem_op *recvs;
};

struct slot {
    struct slot *next;
    void *memory;
    size_t n_bytes;
};

struct kvfi_fabric {
    struct kvfi_fabric *next;
    uint64_t number;
    struct fabric_mem_rules rules;
    uint32_t fail_in[FABRIC_MEM_N_CALLS];
    kvf_status_t fail_with[FABRIC_MEM_N_CALLS];
    uint32_t n_calls[FABRIC_MEM_N_CALLS];
    uint32_t n_lanes;
    struct slot *slots;
    struct mem_op *ops;
};

struct kvfi_fabric_lane {
    struct kvfi_fabric *fabric;
};

struct kvfi_fabric_link {
    struct kvfi_fabric *fabric;
    struct wire *wire;
    bool is_sender;
    bool is_complete;
};

/* One lock for everything in this file. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvfi_fabric *fabrics;
static struct wire *wires;
static uint64_t last_number;

static void enter(void)
{
    if (pthread_mutex_lock(&lock) != 0)
        abort();
}

static void leave(void)
{
    if (pthread_mutex_unlock(&lock) != 0)
        abort();
}

/* Counts the call and says how it is to end. Locked. */
static kvf_status_t call(struct kvfi_fabric *f, enum fabric_mem_call c)
{
    f->n_calls[c]++;
    if (f->fail_in[c] == 0 || --f->fail_in[c] != 0)
        return KVF_OK;
    return f->fail_with[c];
}

/* ---- what tests say ------------------------------------------------------------------------ */

void fabric_mem_set_rules(struct kvfi_fabric *fabric, const struct fabric_mem_rules *rules)
{
    enter();
    fabric->rules = *rules;
    leave();
}

void fabric_mem_fail(struct kvfi_fabric *fabric, enum fabric_mem_call c, uint32_t n,
                     kvf_status_t status)
{
    enter();
    fabric->fail_in[c] = n;
    fabric->fail_with[c] = status;
    leave();
}

uint32_t fabric_mem_n_calls(struct kvfi_fabric *fabric, enum fabric_mem_call c)
{
    uint32_t n;

    enter();
    n = fabric->n_calls[c];
    leave();
    return n;
}

uint32_t fabric_mem_n_slots(struct kvfi_fabric *fabric)
{
    uint32_t n = 0;

    enter();
    for (struct slot *s = fabric->slots; s; s = s->next)
        n++;
    leave();
    return n;
}

uint32_t fabric_mem_n_lanes(struct kvfi_fabric *fabric)
{
    uint32_t n;

    enter();
    n = fabric->n_lanes;
    leave();
    return n;
}

/* ---- fabric, slots, lanes ------------------------------------------------------------------ */

static kvf_status_t mem_create(const struct kvfi_fabric_config *config, char *ret_text,
                               size_t text_cap, struct kvfi_fabric **ret_fabric)
{
    struct kvfi_fabric *f = calloc(1, sizeof(*f));

    (void)config;
    (void)ret_text;
    (void)text_cap;
    if (!f)
        return KVF_ENOMEM;
    enter();
    f->number = ++last_number;
    f->next = fabrics;
    fabrics = f;
    leave();
    *ret_fabric = f;
    return KVF_OK;
}

static void unqueue(struct mem_op *op)
{
    struct mem_op **at;

    if (!op->wire)
        return;
    at = op->kind == OP_SEND ? &op->wire->sends : &op->wire->recvs;
    while (*at && *at != op)
        at = &(*at)->next_of_wire;
    if (*at)
        *at = op->next_of_wire;
    op->wire = NULL;
}

static void free_op(struct mem_op *op)
{
    struct mem_op **at = &op->fabric->ops;

    unqueue(op);
    if (op->partner)
        op->partner->partner = NULL;
    while (*at != op)
        at = &(*at)->next_of_fabric;
    *at = op->next_of_fabric;
    free(op->jobs);
    free(op);
}

static void mem_destroy(struct kvfi_fabric *f)
{
    struct kvfi_fabric **at = &fabrics;

    if (!f)
        return;
    enter();
    while (f->ops)
        free_op(f->ops);
    while (f->slots) {
        struct slot *s = f->slots;

        f->slots = s->next;
        free(s->memory);
        free(s);
    }
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    leave();
    free(f);
}

static void put_number(uint64_t number, struct kvfi_fabric_address *ret)
{
    ret->n_bytes = sizeof(number);
    memcpy(ret->bytes, &number, sizeof(number));
}

/* 0: not one. */
static uint64_t get_number(const struct kvfi_fabric_address *address)
{
    uint64_t number = 0;

    if (address->n_bytes == sizeof(number))
        memcpy(&number, address->bytes, sizeof(number));
    return number;
}

static void mem_address(struct kvfi_fabric *f, struct kvfi_fabric_address *ret_address)
{
    put_number(f->number, ret_address);
}

static const char *mem_version(struct kvfi_fabric *f)
{
    (void)f;
    return "mem 1";
}

static kvf_status_t mem_slot_alloc(struct kvfi_fabric *f, size_t n_bytes, void **ret_memory)
{
    struct slot *s = calloc(1, sizeof(*s));
    kvf_status_t status = KVF_ENOMEM;

    if (!s || posix_memalign(&s->memory, SLOT_ALIGN, n_bytes) != 0)
        goto fail;
    memset(s->memory, 0, n_bytes);
    s->n_bytes = n_bytes;
    enter();
    status = call(f, FABRIC_MEM_SLOT_ALLOC);
    if (status == KVF_OK) {
        s->next = f->slots;
        f->slots = s;
        *ret_memory = s->memory;
    }
    leave();
    if (status == KVF_OK)
        return KVF_OK;
    free(s->memory);
fail:
    free(s);
    return status;
}

static void mem_slot_free(struct kvfi_fabric *f, void *memory)
{
    struct slot **at = &f->slots;
    struct slot *s;

    enter();
    while (*at && (*at)->memory != memory)
        at = &(*at)->next;
    s = *at;
    if (s)
        *at = s->next;
    leave();
    if (!s)
        abort(); /* not a slot, or freed twice */
    free(s->memory);
    free(s);
}

static kvf_status_t mem_lane_open(struct kvfi_fabric *f, uint32_t lane,
                                  struct kvfi_fabric_lane **ret_lane)
{
    struct kvfi_fabric_lane *l = calloc(1, sizeof(*l));
    kvf_status_t status;

    (void)lane;
    if (!l)
        return KVF_ENOMEM;
    l->fabric = f;
    enter();
    status = call(f, FABRIC_MEM_LANE_OPEN);
    f->n_lanes += status == KVF_OK;
    leave();
    if (status == KVF_OK)
        *ret_lane = l;
    else
        free(l);
    return status;
}

static void mem_lane_close(struct kvfi_fabric_lane *lane)
{
    enter();
    lane->fabric->n_lanes--;
    leave();
    free(lane);
}

/* ---- links --------------------------------------------------------------------------------- */

static struct kvfi_fabric_link *new_link(struct kvfi_fabric *f, bool is_sender)
{
    struct kvfi_fabric_link *link = calloc(1, sizeof(*link));

    if (link) {
        link->fabric = f;
        link->is_sender = is_sender;
    }
    return link;
}

static kvf_status_t mem_link_offer(struct kvfi_fabric *f, const struct kvfi_fabric_address *peer,
                                   struct kvfi_fabric_address *ret_offer,
                                   struct kvfi_fabric_link **ret_link)
{
    struct kvfi_fabric_link *link = new_link(f, true);
    struct wire *w = calloc(1, sizeof(*w));

    if (!link || !w) {
        free(link);
        free(w);
        return KVF_ENOMEM;
    }
    enter();
    w->id = ++last_number;
    w->sender = f->number;
    w->receiver = get_number(peer);
    w->n_ends = 1;
    w->next = wires;
    wires = w;
    link->wire = w;
    put_number(w->id, ret_offer);
    leave();
    *ret_link = link;
    return KVF_OK;
}

static kvf_status_t mem_link_accept(struct kvfi_fabric *f, const struct kvfi_fabric_address *peer,
                                    const struct kvfi_fabric_address *offer,
                                    struct kvfi_fabric_address *ret_answer,
                                    struct kvfi_fabric_link **ret_link)
{
    struct kvfi_fabric_link *link = new_link(f, false);
    struct wire *w;

    if (!link)
        return KVF_ENOMEM;
    enter();
    for (w = wires; w && w->id != get_number(offer); w = w->next)
        continue;
    if (w && w->n_ends == 1 && w->receiver == f->number && w->sender == get_number(peer)) {
        w->n_ends = 2;
        link->wire = w;
        link->is_complete = true;
        put_number(w->id, ret_answer);
    }
    leave();
    if (!link->wire) {
        free(link);
        return KVF_EPROTO;
    }
    *ret_link = link;
    return KVF_OK;
}

static kvf_status_t mem_link_complete(struct kvfi_fabric_link *link,
                                      const struct kvfi_fabric_address *answer)
{
    if (get_number(answer) != link->wire->id)
        return KVF_EPROTO;
    link->is_complete = true;
    return KVF_OK;
}

static void mem_link_close(struct kvfi_fabric_link *link)
{
    struct wire *w = link->wire;
    struct wire **at = &wires;

    enter();
    if (--w->n_ends == 0) {
        while (w->sends)
            unqueue(w->sends);
        while (w->recvs)
            unqueue(w->recvs);
        while (*at != w)
            at = &(*at)->next;
        *at = w->next;
        free(w);
    }
    leave();
    free(link);
}

/* ---- operations ---------------------------------------------------------------------------- */

static bool is_in_slot(const struct kvfi_fabric *f, const void *memory, size_t n_bytes)
{
    for (const struct slot *s = f->slots; s; s = s->next)
        if (s->memory == memory && n_bytes <= s->n_bytes)
            return true;
    return false;
}

static void meet(struct wire *w)
{
    struct mem_op *send = w->sends;
    struct mem_op *recv = w->recvs;

    if (!send || !recv)
        return;
    unqueue(send);
    unqueue(recv);
    send->partner = recv;
    recv->partner = send;
    send->has_met = true;
    recv->has_met = true;
}

static struct mem_op *new_op(struct kvfi_fabric *f, enum op_kind kind, struct kvfi_fabric_op *op)
{
    struct mem_op *o = calloc(1, sizeof(*o));

    if (!o)
        return NULL;
    o->kind = kind;
    o->fabric = f;
    o->polls = kind == OP_COPY ? f->rules.copy_polls : f->rules.wire_polls;
    o->next_of_fabric = f->ops;
    f->ops = o;
    op->u.pointers[0] = o;
    return o;
}

static kvf_status_t begin_wire(struct kvfi_fabric_link *link, struct mem_op *o)
{
    struct mem_op **at = o->kind == OP_SEND ? &link->wire->sends : &link->wire->recvs;

    while (*at)
        at = &(*at)->next_of_wire;
    *at = o;
    o->wire = link->wire;
    meet(link->wire);
    return KVF_OK;
}

static kvf_status_t mem_send(struct kvfi_fabric_lane *lane, struct kvfi_fabric_link *link,
                             const void *memory, size_t n_bytes, struct kvfi_fabric_op *op)
{
    struct mem_op *o;
    kvf_status_t status;

    enter();
    status = call(lane->fabric, FABRIC_MEM_SEND);
    if (status == KVF_OK &&
        (!link->is_sender || !link->is_complete || !is_in_slot(lane->fabric, memory, n_bytes)))
        status = KVF_EINVAL;
    o = status == KVF_OK ? new_op(lane->fabric, OP_SEND, op) : NULL;
    if (o) {
        o->source = memory;
        o->n_bytes = n_bytes;
        status = begin_wire(link, o);
    }
    leave();
    return status;
}

static kvf_status_t mem_recv(struct kvfi_fabric_lane *lane, struct kvfi_fabric_link *link,
                             void *memory, size_t n_bytes, struct kvfi_fabric_op *op)
{
    struct mem_op *o;
    kvf_status_t status;

    enter();
    status = call(lane->fabric, FABRIC_MEM_RECV);
    if (status == KVF_OK && (link->is_sender || !is_in_slot(lane->fabric, memory, n_bytes)))
        status = KVF_EINVAL;
    o = status == KVF_OK ? new_op(lane->fabric, OP_RECV, op) : NULL;
    if (o) {
        o->memory = memory;
        o->n_bytes = n_bytes;
        status = begin_wire(link, o);
    }
    leave();
    return status;
}

static kvf_status_t mem_copy(struct kvfi_fabric_lane *lane, const struct kvfi_copy_job *jobs,
                             size_t n, struct kvfi_fabric_op *op)
{
    struct kvfi_fabric *f = lane->fabric;
    struct mem_op *o = NULL;
    kvf_status_t status;

    enter();
    status = call(f, FABRIC_MEM_COPY);
    if (status == KVF_OK)
        o = new_op(f, OP_COPY, op);
    if (o && f->rules.copy_polls) {
        o->jobs = calloc(n, sizeof(*jobs));
        if (o->jobs)
            memcpy(o->jobs, jobs, n * sizeof(*jobs));
        o->n_jobs = n;
    }
    leave();
    if (o && !o->jobs)
        kvfi_copy_ref(jobs, n);
    return status;
}

/* A send or receive that has met its other end. */
static void carry(struct mem_op *o)
{
    struct mem_op *send = o->kind == OP_SEND ? o : o->partner;
    struct mem_op *recv = o->kind == OP_RECV ? o : o->partner;

    if (o->is_copied || !o->partner)
        return;
    if (send->n_bytes == recv->n_bytes)
        memcpy(recv->memory, send->source, send->n_bytes);
    else
        recv->status = KVF_EFABRIC;
    send->is_copied = true;
    recv->is_copied = true;
}

static kvf_status_t test_locked(struct mem_op *o)
{
    static const enum fabric_mem_call ends[] = {
        [OP_COPY] = FABRIC_MEM_COPY_END,
        [OP_SEND] = FABRIC_MEM_SEND_END,
        [OP_RECV] = FABRIC_MEM_RECV_END,
    };
    kvf_status_t status;

    if (o->kind != OP_COPY) {
        if (!o->has_met)
            return KVF_IN_PROGRESS;
        carry(o);
        if (!o->is_copied)
            return KVF_IN_PROGRESS; /* its other end was given up */
    }
    if (o->kind == OP_COPY ? o->jobs && o->fabric->rules.holds_copies
                           : o->fabric->rules.holds_wires)
        return KVF_IN_PROGRESS;
    if (o->polls) {
        o->polls--;
        return KVF_IN_PROGRESS;
    }
    if (o->jobs)
        kvfi_copy_ref(o->jobs, o->n_jobs);
    status = call(o->fabric, ends[o->kind]);
    return status < 0 ? status : o->status;
}

static kvf_status_t mem_test(struct kvfi_fabric_lane *lane, struct kvfi_fabric_op *op)
{
    struct mem_op *o = op->u.pointers[0];
    kvf_status_t status;

    enter();
    (void)call(lane->fabric, FABRIC_MEM_TEST);
    status = test_locked(o);
    if (status != KVF_IN_PROGRESS)
        free_op(o);
    leave();
    return status;
}

static kvf_status_t mem_op_abandon(struct kvfi_fabric_lane *lane, struct kvfi_fabric_op *op)
{
    kvf_status_t status;

    enter();
    status = call(lane->fabric, FABRIC_MEM_ABANDON);
    if (status != KVF_EBUSY)
        free_op(op->u.pointers[0]);
    leave();
    return status;
}

const struct kvfi_fabric_ops *fabric_mem_ops(void)
{
    static const struct kvfi_fabric_ops ops = {
        .size = sizeof(ops),
        .contract = KVFI_FABRIC_CONTRACT,
        .memory = KVF_MEMORY_HOST,
        .name = "mem",
        .slot_bytes = 64 * 1024,
        .max_slot_bytes = 1024 * 1024,
        .create = mem_create,
        .destroy = mem_destroy,
        .address = mem_address,
        .version = mem_version,
        .slot_alloc = mem_slot_alloc,
        .slot_free = mem_slot_free,
        .lane_open = mem_lane_open,
        .lane_close = mem_lane_close,
        .link_offer = mem_link_offer,
        .link_accept = mem_link_accept,
        .link_complete = mem_link_complete,
        .link_close = mem_link_close,
        .copy = mem_copy,
        .send = mem_send,
        .recv = mem_recv,
        .test = mem_test,
        .op_abandon = mem_op_abandon,
    };

    return &ops;
}
