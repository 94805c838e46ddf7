/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue behind engine_reap and engine_event_fd.
 *
 * A bounded multi-producer multi-consumer ring of task numbers (D. Vyukov's: a sequence number a
 * cell). A task is in it at most once - its event bits say what happened - so a ring as large as
 * the task table is never full and no event is ever lost.
 */
#ifndef KVFERRY_PLUGIN_EVENTS_H
#define KVFERRY_PLUGIN_EVENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvferry/kvferry.h"

struct kvfi_event_cell {
    _Atomic uint64_t sequence;
    uint32_t value; /* plain: ordered by sequence */
};

struct kvfi_events {
    struct kvfi_event_cell *cells; /* [mask + 1] */
    uint64_t mask;
    int fd;                                  /* eventfd; readable while something is in the ring */
    _Alignas(64) _Atomic uint64_t head;      /* next to take */
    _Alignas(64) _Atomic uint64_t tail;      /* next to fill */
    _Alignas(64) _Atomic uint32_t signalled; /* the fd has been made readable */
};

/* capacity: most values in the ring at once. */
kvf_status_t kvfi_events_init(struct kvfi_events *events, uint32_t capacity);
void kvfi_events_fini(struct kvfi_events *events);

/* Any thread. The caller sees to it that a value is in the ring at most once. */
void kvfi_events_push(struct kvfi_events *events, uint32_t value);
/* Any thread. False if there is none; then no system call was made unless the fd had to be reset. */
bool kvfi_events_pop(struct kvfi_events *events, uint32_t *ret_value);

#endif
