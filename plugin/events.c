/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/events.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "collectives/util.h"

kvf_status_t kvfi_events_init(struct kvfi_events *events, uint32_t capacity)
{
    uint64_t n = 2;

    while (n < capacity)
        n *= 2;
    events->fd = -1;
    events->cells = kvfi_calloc(n, sizeof(*events->cells));
    if (!events->cells)
        return KVF_ENOMEM;
    events->mask = n - 1;
    for (uint64_t i = 0; i < n; i++)
        atomic_init(&events->cells[i].sequence, i);
    atomic_init(&events->head, 0);
    atomic_init(&events->tail, 0);
    atomic_init(&events->signalled, 0);
    events->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (events->fd < 0) {
        kvfi_events_fini(events);
        return KVF_ENOMEM;
    }
    return KVF_OK;
}

void kvfi_events_fini(struct kvfi_events *events)
{
    if (events->cells && events->fd >= 0)
        (void)close(events->fd);
    kvfi_free(events->cells);
    events->cells = NULL;
    events->fd = -1;
}

static void signal_fd(struct kvfi_events *events)
{
    uint64_t one = 1;

    while (write(events->fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void kvfi_events_push(struct kvfi_events *events, uint32_t value)
{
    uint64_t tail = atomic_load_explicit(&events->tail, memory_order_relaxed);
    struct kvfi_event_cell *cell;

    for (;;) {
        cell = &events->cells[tail & events->mask];
        /* acquire: pairs with the release in pop that freed the cell one lap ago. */
        if (atomic_load_explicit(&cell->sequence, memory_order_acquire) == tail) {
            if (atomic_compare_exchange_weak_explicit(&events->tail, &tail, tail + 1,
                                                      memory_order_relaxed, memory_order_relaxed))
                break;
        } else {
            tail = atomic_load_explicit(&events->tail, memory_order_relaxed);
        }
    }
    cell->value = value;
    /* release: makes value visible to the pop that sees this sequence. */
    atomic_store_explicit(&cell->sequence, tail + 1, memory_order_release);
    /*
     * seq_cst: store-then-load against pop, which clears the flag and then looks into the ring
     * again; with less, both could miss each other and the fd would stay silent.
     */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_exchange_explicit(&events->signalled, 1, memory_order_seq_cst) == 0)
        signal_fd(events);
}

static bool take(struct kvfi_events *events, uint32_t *ret_value)
{
    uint64_t head = atomic_load_explicit(&events->head, memory_order_relaxed);
    struct kvfi_event_cell *cell;

    for (;;) {
        uint64_t sequence;

        cell = &events->cells[head & events->mask];
        /* acquire: pairs with the release in push. */
        sequence = atomic_load_explicit(&cell->sequence, memory_order_acquire);
        if (sequence == head + 1) {
            if (atomic_compare_exchange_weak_explicit(&events->head, &head, head + 1,
                                                      memory_order_relaxed, memory_order_relaxed))
                break;
        } else if (sequence <= head) {
            return false;
        } else {
            head = atomic_load_explicit(&events->head, memory_order_relaxed);
        }
    }
    *ret_value = cell->value;
    /* release: the cell's next user must not overtake the read of value. */
    atomic_store_explicit(&cell->sequence, head + events->mask + 1, memory_order_release);
    return true;
}

bool kvfi_events_pop(struct kvfi_events *events, uint32_t *ret_value)
{
    uint64_t count;

    if (take(events, ret_value))
        return true;
    /* relaxed: only decides whether there is a flag to clear. */
    if (atomic_load_explicit(&events->signalled, memory_order_relaxed) == 0)
        return false;
    while (read(events->fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    /* seq_cst: see push. */
    atomic_store_explicit(&events->signalled, 0, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    if (!take(events, ret_value))
        return false;
    /* Something came in between; others may be behind it, so keep the fd readable. */
    if (atomic_exchange_explicit(&events->signalled, 1, memory_order_seq_cst) == 0)
        signal_fd(events);
    return true;
}
