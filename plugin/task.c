/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/task.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "collectives/util.h"

#define STATE_SHIFT 32
#define IN_FLIGHT(word) ((uint32_t)(word))
#define STATE(word) ((enum kvf_task_state)((word) >> STATE_SHIFT))
#define IN_RING (1u << 31) /* of event_bits: the number is in the event ring */
#define WORD(state, in_flight) (((uint64_t)(state) << STATE_SHIFT) | (in_flight))

void kvfi_life_init(struct kvfi_life *life, uint64_t now_ns)
{
    memset(&life->result, 0, sizeof(life->result));
    life->result.size = sizeof(life->result);
    life->result.peer_rank = UINT32_MAX;
    life->result.times_ns[KVF_TIME_SUBMITTED] = now_ns;
    (void)atomic_fetch_add_explicit(life->n_unfinished, 1, memory_order_relaxed);
    atomic_store_explicit(&life->remaining, 1, memory_order_relaxed);
    atomic_store_explicit(&life->bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&life->first_byte_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&life->wire_done_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&life->step, KVF_STEP_CONNECT, memory_order_relaxed);
    atomic_store_explicit(&life->n_waiters, 0, memory_order_relaxed);
    /* The number may still be in the ring from the task that had it before. */
    (void)atomic_fetch_and_explicit(&life->event_bits, IN_RING, memory_order_relaxed);
    atomic_store_explicit(&life->terminal, 0, memory_order_relaxed);
    /* release: a thread that learns of the task through any acquire sees all of the above. */
    atomic_store_explicit(&life->word, WORD(KVF_TASK_PENDING, 0), memory_order_release);
}

enum kvf_task_state kvfi_life_state(const struct kvfi_life *life)
{
    /* acquire: with a terminal state, pairs with publish(). */
    return STATE(atomic_load_explicit(&life->word, memory_order_acquire));
}

bool kvfi_life_is_terminal(const struct kvfi_life *life)
{
    /* acquire: pairs with publish(); the result may be read after true. */
    return atomic_load_explicit(&life->terminal, memory_order_acquire) != 0;
}

void kvfi_life_match(struct kvfi_life *life)
{
    uint64_t word = atomic_load_explicit(&life->word, memory_order_relaxed);

    while (STATE(word) == KVF_TASK_PENDING &&
           !atomic_compare_exchange_weak_explicit(&life->word, &word,
                                                  WORD(KVF_TASK_MOVING, IN_FLIGHT(word)),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

bool kvfi_life_enter(struct kvfi_life *life)
{
    uint64_t word = atomic_load_explicit(&life->word, memory_order_relaxed);

    while (STATE(word) < KVF_TASK_ENDING) {
        /* acquire: the operation must not start before it is counted. */
        if (atomic_compare_exchange_weak_explicit(&life->word, &word, word + 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    }
    return false;
}

static void wake_waiters(struct kvfi_life *life)
{
    /* seq_cst: against wait, which counts itself and then looks at terminal. */
    if (atomic_load_explicit(&life->n_waiters, memory_order_seq_cst) != 0)
        (void)syscall(SYS_futex, &life->terminal, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Runs once a task, when it is ENDING and the last operation has left. */
static void publish(struct kvfi_life *life)
{
    struct kvf_result *r = &life->result;

    r->bytes = atomic_load_explicit(&life->bytes, memory_order_relaxed);
    r->times_ns[KVF_TIME_FIRST_BYTE] =
        atomic_load_explicit(&life->first_byte_ns, memory_order_relaxed);
    r->times_ns[KVF_TIME_WIRE_DONE] =
        atomic_load_explicit(&life->wire_done_ns, memory_order_relaxed);
    r->times_ns[KVF_TIME_DONE] = kvfi_now_ns();
    /* relaxed: ordered before the terminal state by its release. */
    (void)atomic_fetch_sub_explicit(life->n_unfinished, 1, memory_order_relaxed);
    /* release: whoever sees the terminal state sees the result. Pairs with kvfi_life_state(). */
    atomic_store_explicit(&life->word, WORD(r->state, 0), memory_order_release);
    /* seq_cst: release for the result (pairs with is_terminal), and ordered before the look at
     * n_waiters. The number is not used again before on_terminal was called. */
    atomic_store_explicit(&life->terminal, 1, memory_order_seq_cst);
    kvfi_life_event(life, KVF_EVENT_ENDED);
    wake_waiters(life);
    life->on_terminal(life->ctx, life->number);
}

void kvfi_life_leave(struct kvfi_life *life)
{
    /* acq_rel: this operation's writes are done before the count drops, and the one who takes it
     * to zero sees all of them before it publishes. */
    uint64_t word = atomic_fetch_sub_explicit(&life->word, 1, memory_order_acq_rel);

    assert(IN_FLIGHT(word) > 0);
    if (STATE(word) == KVF_TASK_ENDING && IN_FLIGHT(word) == 1)
        publish(life);
}

bool kvfi_life_end(struct kvfi_life *life, const struct kvfi_cause *cause)
{
    uint64_t word = atomic_load_explicit(&life->word, memory_order_relaxed);
    struct kvf_result *r = &life->result;

    do {
        if (STATE(word) >= KVF_TASK_ENDING)
            return false;
        /* The winner counts as an operation while it writes the cause. acquire: as in enter. */
    } while (!atomic_compare_exchange_weak_explicit(&life->word, &word,
                                                    WORD(KVF_TASK_ENDING, IN_FLIGHT(word) + 1),
                                                    memory_order_acquire, memory_order_relaxed));
    r->state = (uint32_t)cause->state;
    r->status = cause->status;
    r->step = (uint32_t)cause->step;
    r->peer_rank = cause->peer_rank;
    (void)snprintf(r->peer_instance, sizeof(r->peer_instance), "%s",
                   cause->peer_instance ? cause->peer_instance : "");
    (void)snprintf(r->message, sizeof(r->message), "%s", cause->text ? cause->text : "");
    kvfi_life_leave(life);
    return true;
}

void kvfi_life_add(struct kvfi_life *life, uint64_t units)
{
    /* relaxed: only a count; the caller's own unit keeps it above zero. */
    (void)atomic_fetch_add_explicit(&life->remaining, units, memory_order_relaxed);
}

void kvfi_life_complete(struct kvfi_life *life, uint64_t units)
{
    static const struct kvfi_cause done = {
        .state = KVF_TASK_DONE, .status = KVF_OK, .peer_rank = UINT32_MAX};

    if (units == 0)
        return;
    /* acq_rel: everything completed before is visible to the one who completes the last unit. */
    if (atomic_fetch_sub_explicit(&life->remaining, units, memory_order_acq_rel) == units)
        (void)kvfi_life_end(life, &done);
}

void kvfi_life_event(struct kvfi_life *life, uint32_t kind)
{
    /* acq_rel: what happened before the event is visible to the one who reaps it. */
    uint32_t before =
        atomic_fetch_or_explicit(&life->event_bits, kind | IN_RING, memory_order_acq_rel);

    if (!(before & IN_RING))
        kvfi_events_push(life->events, life->number);
}

uint32_t kvfi_life_take_events(struct kvfi_life *life)
{
    /* acq_rel: pairs with kvfi_life_event(). */
    return atomic_exchange_explicit(&life->event_bits, 0, memory_order_acq_rel) & ~IN_RING;
}

void kvfi_life_step(struct kvfi_life *life, enum kvf_step step)
{
    atomic_store_explicit(&life->step, (uint64_t)step, memory_order_relaxed);
}

void kvfi_life_mark_bytes(struct kvfi_life *life, uint64_t first_ns, uint64_t done_ns)
{
    uint64_t seen = atomic_load_explicit(&life->first_byte_ns, memory_order_relaxed);

    /* relaxed throughout: statistics, read after the acquire of the terminal state. */
    while ((seen == 0 || first_ns < seen) &&
           !atomic_compare_exchange_weak_explicit(&life->first_byte_ns, &seen, first_ns,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
    seen = atomic_load_explicit(&life->wire_done_ns, memory_order_relaxed);
    while (done_ns > seen &&
           !atomic_compare_exchange_weak_explicit(&life->wire_done_ns, &seen, done_ns,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void kvfi_life_read(const struct kvfi_life *life, struct kvf_result *ret_result)
{
    struct kvf_result r;
    size_t n = ret_result->size;

    if (kvfi_life_is_terminal(life)) {
        r = life->result;
    } else {
        enum kvf_task_state state = kvfi_life_state(life);

        memset(&r, 0, sizeof(r));
        /* Decided and drained, but the publisher has not finished yet: still ending. */
        r.state = (uint32_t)(state > KVF_TASK_ENDING ? KVF_TASK_ENDING : state);
        r.status = KVF_IN_PROGRESS;
        r.step = (uint32_t)atomic_load_explicit(&life->step, memory_order_relaxed);
        r.peer_rank = UINT32_MAX;
        r.bytes = atomic_load_explicit(&life->bytes, memory_order_relaxed);
        /* Written before the task became visible. */
        r.times_ns[KVF_TIME_SUBMITTED] = life->result.times_ns[KVF_TIME_SUBMITTED];
    }
    memcpy(ret_result, &r, kvfi_min_u64(n, sizeof(r)));
    ret_result->size = n;
}

bool kvfi_life_wait(struct kvfi_life *life, uint64_t deadline_ns)
{
    bool terminal;

    /* seq_cst: against wake_waiters. */
    (void)atomic_fetch_add_explicit(&life->n_waiters, 1, memory_order_seq_cst);
    for (;;) {
        struct timespec ts;
        uint64_t now = kvfi_now_ns();

        terminal = atomic_load_explicit(&life->terminal, memory_order_seq_cst) != 0;
        if (terminal || now >= deadline_ns)
            break;
        ts.tv_sec = (time_t)((deadline_ns - now) / 1000000000u);
        ts.tv_nsec = (long)((deadline_ns - now) % 1000000000u);
        (void)syscall(SYS_futex, &life->terminal, FUTEX_WAIT_PRIVATE, 0,
                      deadline_ns == UINT64_MAX ? NULL : &ts, NULL, 0);
    }
    (void)atomic_fetch_sub_explicit(&life->n_waiters, 1, memory_order_relaxed);
    return terminal;
}
