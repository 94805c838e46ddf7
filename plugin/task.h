/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a task (design §7): PENDING -> MOVING -> ENDING -> DONE, FAILED, CANCELLED, EXPIRED.
 *
 * One atomic word, `life`, holds the state and the number of operations in flight on the task's
 * memory. The first cause to end the task moves it to ENDING; from then on no operation enters, and
 * whoever takes the number to zero publishes the terminal state: result first, then the state with
 * release order, then the event and the waiters. So "terminal" is a proof that nothing of this
 * library touches the memory any more.
 */
#ifndef KVFERRY_PLUGIN_TASK_H
#define KVFERRY_PLUGIN_TASK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvferry/kvferry.h"
#include "plugin/events.h"

/* Who ends a task, and where it stood. */
struct kvfi_cause {
    enum kvf_task_state state; /* the terminal one */
    kvf_status_t status;
    enum kvf_step step;
    uint32_t peer_rank;        /* UINT32_MAX = nobody */
    const char *peer_instance; /* may be NULL */
    const char *text;          /* may be NULL */
};

struct kvfi_life {
    _Atomic uint64_t word;          /* state << 32 | operations in flight */
    _Atomic uint64_t remaining;     /* units to complete; 0 ends the task as DONE */
    _Atomic uint64_t bytes;         /* payload moved */
    _Atomic uint64_t first_byte_ns; /* 0 = not yet */
    _Atomic uint64_t wire_done_ns;
    _Atomic uint64_t step;     /* enum kvf_step it waits in; for deadlines and dumps */
    _Atomic uint32_t terminal; /* futex of the waiters: 1 once terminal */
    _Atomic uint32_t n_waiters;
    _Atomic uint32_t event_bits; /* enum kvf_event_kind not yet reaped; "in the ring" */
    struct kvf_result result;    /* plain: written before terminal is set (see publish) */
    uint32_t number;             /* in the event ring */
    struct kvfi_events *events;
    _Atomic uint32_t *n_unfinished; /* of the engine; one less before terminal is visible */
    void (*on_terminal)(void *ctx, uint32_t number); /* any thread; after the result is visible */
    void *ctx;
};

/* events, n_unfinished, on_terminal and ctx are set by the owner once, before the first init. */
void kvfi_life_init(struct kvfi_life *life, uint64_t now_ns);

enum kvf_task_state kvfi_life_state(const struct kvfi_life *life);
bool kvfi_life_is_terminal(const struct kvfi_life *life);

/* PENDING -> MOVING; no effect later. */
void kvfi_life_match(struct kvfi_life *life);

/* An operation on the task's memory begins; false if the task is ending: it must not. */
bool kvfi_life_enter(struct kvfi_life *life);
/* It is over. Publishes if it was the last of an ending task. */
void kvfi_life_leave(struct kvfi_life *life);

/*
 * End the task. The first caller wins and returns true; its cause becomes the result. Publishes at
 * once if nothing is in flight.
 */
bool kvfi_life_end(struct kvfi_life *life, const struct kvfi_cause *cause);

/* Add units of work; before the last unit is completed (the caller holds one). */
void kvfi_life_add(struct kvfi_life *life, uint64_t units);
/* Complete units; ends the task as DONE with the last. */
void kvfi_life_complete(struct kvfi_life *life, uint64_t units);

/* Queue an event. Any thread. */
void kvfi_life_event(struct kvfi_life *life, uint32_t kind);

/* After its number came out of the ring: what happened; 0 if that was for an earlier task. */
uint32_t kvfi_life_take_events(struct kvfi_life *life);

/* Where it stands, for a later deadline's message. */
void kvfi_life_step(struct kvfi_life *life, enum kvf_step step);

/* Times seen by lanes: the first byte is the earliest, wire done the latest. */
void kvfi_life_mark_bytes(struct kvfi_life *life, uint64_t first_ns, uint64_t done_ns);

/* Fill *ret_result (up to its size) from the current state. Any thread. */
void kvfi_life_read(const struct kvfi_life *life, struct kvf_result *ret_result);

/* Wait until terminal or until deadline_ns; true if terminal. Any thread. */
bool kvfi_life_wait(struct kvfi_life *life, uint64_t deadline_ns);

#endif
