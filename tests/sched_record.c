/* SPDX-License-Identifier: Apache-2.0 */
#include "sched_record.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void say(struct record *r, const char *format, ...)
{
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(r->text + r->n, sizeof(r->text) - r->n, format, ap);
    va_end(ap);
    ck_assert_int_ge(n, 0);
    r->n += (size_t)n;
    ck_assert_uint_lt(r->n, sizeof(r->text));
}

static void say_runs(struct record *r, const struct kvfi_run *runs, uint32_t n_runs)
{
    for (uint32_t i = 0; i < n_runs; i++)
        say(r, "%s%u:%u+%u", i ? "," : " ", runs[i].piece, runs[i].first_chunk, runs[i].n_chunks);
}

static void say_batch(struct record *r, const struct kvfi_batch_id *id)
{
    say(r, " %u/%u#%u%s", id->peer, id->link, id->seq, id->epoch == RECORD_EPOCH ? "" : "?");
}

/* Runs lie one behind the other and fill the batch. */
static void check_runs(const struct kvfi_run *runs, uint32_t n_runs, uint32_t bytes)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < n_runs; i++) {
        ck_assert_uint_eq(runs[i].offset, at);
        at += runs[i].bytes;
    }
    ck_assert_uint_eq(at, bytes);
}

static void on_send(void *ctx, const struct kvfi_send_action *a)
{
    static const char *const names[] = {
        [KVFI_SEND_PACK] = "PACK",         [KVFI_SEND_OFFER] = "OFFER",
        [KVFI_SEND_LAUNCH] = "LAUNCH",     [KVFI_SEND_GO] = "GO",
        [KVFI_SEND_WITHDRAW] = "WITHDRAW", [KVFI_SEND_RELEASE] = "RELEASE",
        [KVFI_SEND_PIECE_SENT] = "SENT",   [KVFI_SEND_PIECE_IDLE] = "IDLE",
    };
    struct record *r = ctx;

    say(r, "%s%s", r->n ? "; " : "", names[a->kind]);
    if (a->kind == KVFI_SEND_PACK || a->kind == KVFI_SEND_LAUNCH)
        say(r, " %u.%u", a->lane, a->slot);
    if (a->kind == KVFI_SEND_PACK || a->kind == KVFI_SEND_PIECE_SENT)
        say_runs(r, a->runs, a->n_runs);
    else if (a->kind == KVFI_SEND_PIECE_IDLE)
        say(r, " %u", a->piece);
    else
        say_batch(r, &a->batch);
    if (a->kind == KVFI_SEND_OFFER)
        say(r, " %u p%d", a->bytes, a->priority);
    if (a->kind == KVFI_SEND_PACK || a->kind == KVFI_SEND_OFFER)
        check_runs(a->runs, a->n_runs, a->bytes);
}

static void on_recv(void *ctx, const struct kvfi_recv_action *a)
{
    struct record *r = ctx;

    say(r, "%s", r->n ? "; " : "");
    switch (a->kind) {
    case KVFI_RECV_GRANT:
        say(r, "GRANT");
        say_batch(r, &a->batch);
        say(r, " %u.%u", a->lane, a->slot);
        break;
    case KVFI_RECV_POST:
        say(r, "POST %u.%u", a->lane, a->slot);
        say_batch(r, &a->batch);
        check_runs(a->runs, a->n_runs, a->bytes);
        break;
    case KVFI_RECV_DELIVERED:
        say(r, "DELIVERED");
        say_batch(r, &a->batch);
        break;
    case KVFI_RECV_DROPPED:
        say(r, "DROPPED");
        say_batch(r, &a->batch);
        break;
    }
}

uint32_t record_chunk_bytes(void *ctx, uint32_t number, uint32_t chunk)
{
    (void)ctx;
    (void)chunk;
    return number / 100;
}

struct kvfi_send_sched_config record_send_config(void)
{
    return (struct kvfi_send_sched_config){.n_lanes = 1,
                                           .slots_per_lane = 3,
                                           .slot_bytes = 100,
                                           .max_peers = 4,
                                           .max_pieces = 10000,
                                           .links_per_peer = 2,
                                           .max_offers = 2,
                                           .starve_ns = 1000,
                                           .chunk_bytes = record_chunk_bytes};
}

struct kvfi_recv_sched_config record_recv_config(void)
{
    return (struct kvfi_recv_sched_config){.n_lanes = 1,
                                           .slots_per_lane = 2,
                                           .slot_bytes = 100,
                                           .max_peers = 4,
                                           .links_per_peer = 2,
                                           .max_offers = 1};
}

static void record_memory(struct record *r, size_t n_bytes)
{
    memset(r, 0, sizeof(*r));
    ck_assert_uint_gt(n_bytes, 0);
    ck_assert_uint_eq(n_bytes % 64, 0);
    r->n_bytes = n_bytes;
    r->memory = aligned_alloc(64, n_bytes);
    r->before = malloc(n_bytes);
    ck_assert(r->memory && r->before);
    memset(r->memory, 0, n_bytes);
    r->now_ns = 1;
}

void record_send_init(struct record *r, const struct kvfi_send_sched_config *config)
{
    record_memory(r, kvfi_send_sched_bytes(config));
    r->send = kvfi_send_sched_init(r->memory, config, on_send, r);
    ck_assert_ptr_nonnull(r->send);
}

void record_recv_init(struct record *r, const struct kvfi_recv_sched_config *config)
{
    record_memory(r, kvfi_recv_sched_bytes(config));
    r->recv = kvfi_recv_sched_init(r->memory, config, on_recv, r);
    ck_assert_ptr_nonnull(r->recv);
}

void record_fini(struct record *r)
{
    free(r->memory);
    free(r->before);
}

void record_expect(struct record *r, const char *want, const char *file, int line)
{
    ck_assert_msg(strcmp(r->text, want) == 0, "%s:%d:\n  got  \"%s\"\n  want \"%s\"", file, line,
                  r->text, want);
    forget(r);
}

void forget(struct record *r)
{
    r->n = 0;
    r->text[0] = '\0';
}

struct kvfi_batch_id batch(uint32_t peer, uint32_t link, uint32_t seq)
{
    return (struct kvfi_batch_id){.peer = peer, .link = link, .epoch = RECORD_EPOCH, .seq = seq};
}

void up(struct record *r, uint32_t peer, uint32_t link, uint32_t lane)
{
    if (r->send)
        kvfi_send_link_up(r->send, peer, link, lane, RECORD_EPOCH, r->now_ns);
    else
        kvfi_recv_link_up(r->recv, peer, link, lane, RECORD_EPOCH);
}

void down(struct record *r, uint32_t peer, uint32_t link)
{
    if (r->send)
        kvfi_send_link_down(r->send, peer, link, r->now_ns);
    else
        kvfi_recv_link_down(r->recv, peer, link);
}

void piece_by(struct record *r, uint32_t number, uint32_t peer, uint32_t n_chunks, int32_t priority,
              uint64_t deadline_ns)
{
    kvfi_send_piece_add(r->send, number, peer, n_chunks, priority, deadline_ns);
    kvfi_send_piece_ready(r->send, number, r->now_ns);
}

void piece(struct record *r, uint32_t number, uint32_t peer, uint32_t n_chunks, int32_t priority)
{
    piece_by(r, number, peer, n_chunks, priority, 0);
}

void removed(struct record *r, uint32_t number)
{
    kvfi_send_piece_remove(r->send, number, r->now_ns);
}

void packed(struct record *r, uint32_t lane, uint32_t slot)
{
    kvfi_send_on_packed(r->send, lane, slot, r->now_ns);
}

void sent(struct record *r, uint32_t lane, uint32_t slot)
{
    kvfi_send_on_sent(r->send, lane, slot, r->now_ns);
}

static kvf_status_t give(struct record *r, enum message m, struct kvfi_batch_id id)
{
    switch (m) {
    case OFFER:
        return offer(r, id, 10, 0);
    case GRANT:
        return kvfi_send_on_grant(r->send, &id, r->now_ns);
    case DELIVERED:
        return kvfi_send_on_delivered(r->send, &id, r->now_ns);
    case GO:
        return kvfi_recv_on_go(r->recv, &id);
    case WITHDRAW:
        return kvfi_recv_on_withdraw(r->recv, &id);
    case RELEASE:
        return kvfi_recv_on_release(r->recv, &id);
    }
    return KVF_EINTERNAL;
}

void take(struct record *r, enum message m, struct kvfi_batch_id id)
{
    ck_assert_int_eq(give(r, m, id), KVF_OK);
}

void refuse(struct record *r, enum message m, struct kvfi_batch_id id)
{
    size_t n = r->n;

    memcpy(r->before, r->memory, r->n_bytes);
    ck_assert_int_eq(give(r, m, id), KVF_EPROTO);
    ck_assert(memcmp(r->before, r->memory, r->n_bytes) == 0);
    ck_assert_uint_eq(r->n, n);
}

kvf_status_t offer(struct record *r, struct kvfi_batch_id id, uint32_t bytes, int32_t priority)
{
    const struct kvfi_run run = {.piece = 1, .n_chunks = 1, .bytes = bytes, .offset = 77};

    return kvfi_recv_on_offer(r->recv, &id, &run, 1, bytes, priority);
}
