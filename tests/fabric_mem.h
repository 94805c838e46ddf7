/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fabric inside one process: a link is a queue between two fabrics of the process. For tests of
 * whatever stands on a fabric.
 *
 * A send and a receive of a link meet in order, as a rendezvous: the send is not over before its
 * receive was posted. Bytes are copied by whichever end tests first after they met. A receive of
 * another size fails, its send does not. Everything is under one lock; memory is checked to be a
 * slot of the fabric.
 */
#ifndef KVFERRY_TESTS_FABRIC_MEM_H
#define KVFERRY_TESTS_FABRIC_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "collectives/fabric.h"

/* The fabric's table; its name is "mem". */
const struct kvfi_fabric_ops *fabric_mem_ops(void);

/* How operations of one fabric go; counts are for those that begin later. Zero is the default. */
struct fabric_mem_rules {
    uint32_t copy_polls; /* tests until a copy is made; 0: it is made before copy returns */
    uint32_t wire_polls; /* tests after the rendezvous until a send or receive is over */
    bool holds_copies;   /* no copy with copy_polls ends while this is set */
    bool holds_wires;    /* no send or receive ends while this is set */
};
void fabric_mem_set_rules(struct kvfi_fabric *fabric, const struct fabric_mem_rules *rules);

enum fabric_mem_call {
    FABRIC_MEM_SLOT_ALLOC,
    FABRIC_MEM_LANE_OPEN,
    FABRIC_MEM_COPY,
    FABRIC_MEM_SEND,
    FABRIC_MEM_RECV,
    FABRIC_MEM_COPY_END, /* a copy's last test */
    FABRIC_MEM_SEND_END,
    FABRIC_MEM_RECV_END,
    FABRIC_MEM_TEST, /* any test; it is only counted */
    FABRIC_MEM_ABANDON,
    FABRIC_MEM_N_CALLS,
};
/*
 * Make the n-th following call (1 = the next) end with `status`. An abandoned operation that ends
 * with KVF_EBUSY stays in its queue, as if a network card still had it.
 */
void fabric_mem_fail(struct kvfi_fabric *fabric, enum fabric_mem_call call, uint32_t n,
                     kvf_status_t status);
/* Calls so far; those that failed too. */
uint32_t fabric_mem_n_calls(struct kvfi_fabric *fabric, enum fabric_mem_call call);

/* Slots that were allocated and not freed. destroy frees those too. */
uint32_t fabric_mem_n_slots(struct kvfi_fabric *fabric);
uint32_t fabric_mem_n_lanes(struct kvfi_fabric *fabric);

#endif
