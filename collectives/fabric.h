/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fabric: the way bytes move between ranks. One table per fabric; `mpi` lives in a library of its
 * own (libkvferry-mpi.so), so this header is also the contract between two files on disk: the
 * loader refuses a table whose `contract` differs from KVFI_FABRIC_CONTRACT.
 *
 * Threads: create, destroy, address, slots and link_* are called by the control thread; lane_open,
 * lane_close, copy, send, recv, test and op_abandon by the lane's own thread, for operations of
 * that lane and for links given to that lane. A lane that lost a slot (KVF_EBUSY) calls slot_alloc
 * too, so that one bears calls from any thread. Nothing here may wait for a peer except link_open_*
 * of fabrics that say so, which are never called from a lane.
 */
#ifndef KVFERRY_COLLECTIVES_FABRIC_H
#define KVFERRY_COLLECTIVES_FABRIC_H

#include <stddef.h>
#include <stdint.h>

#include "collectives/log.h"
#include "kernels/copy.h"
#include "kvferry/kvferry.h"

#define KVFI_FABRIC_CONTRACT 1u
#define KVFI_FABRIC_ADDRESS_MAX 128u /* bytes of a rank's or a link's fabric address */

struct kvfi_fabric;
struct kvfi_fabric_lane;
struct kvfi_fabric_link;

struct kvfi_fabric_config {
    size_t size;
    int32_t device;
    struct kvfi_log log;
};

/* An address some fabric call made for a peer; opaque bytes. */
struct kvfi_fabric_address {
    uint32_t n_bytes;
    uint8_t bytes[KVFI_FABRIC_ADDRESS_MAX];
};

/* One operation in flight; memory of the lane, meaning of the fabric's. */
struct kvfi_fabric_op {
    union {
        uint64_t words[4];
        void *pointers[4];
    } u;
};

struct kvfi_fabric_ops {
    size_t size;
    uint32_t contract;   /* KVFI_FABRIC_CONTRACT */
    uint32_t memory;     /* enum kvf_memory its pools must have */
    const char *name;    /* "mpi", "nccl" */
    uint64_t slot_bytes; /* default size of a staging slot */
    uint64_t max_slot_bytes;
    uint32_t max_groups; /* default of R4; 0 = no limit */
    uint32_t reserved;

    /*
     * @retval KVF_EUNSUPPORTED  not usable in this process; ret_text[text_cap] has the sentence
     */
    kvf_status_t (*create)(const struct kvfi_fabric_config *config, char *ret_text, size_t text_cap,
                           struct kvfi_fabric **ret_fabric);
    void (*destroy)(struct kvfi_fabric *fabric); /* after its lanes and links; NULL is allowed */

    /* This rank's address for HELLO, and a version text that both sides compare. */
    void (*address)(struct kvfi_fabric *fabric, struct kvfi_fabric_address *ret_address);
    const char *(*version)(struct kvfi_fabric *fabric);

    /* Staging memory the fabric can send from and receive into; 64-byte aligned at least. */
    kvf_status_t (*slot_alloc)(struct kvfi_fabric *fabric, size_t n_bytes, void **ret_memory);
    void (*slot_free)(struct kvfi_fabric *fabric, void *memory);

    kvf_status_t (*lane_open)(struct kvfi_fabric *fabric, uint32_t lane,
                              struct kvfi_fabric_lane **ret_lane);
    void (*lane_close)(struct kvfi_fabric_lane *lane);

    /*
     * Links. The sender's link_offer makes the bytes LINK_OPEN carries; the receiver's link_accept
     * takes them with the sender's rank address and makes the bytes LINK_READY carries back; the
     * sender's link_complete takes those. After that each end may use its link.
     */
    kvf_status_t (*link_offer)(struct kvfi_fabric *fabric, const struct kvfi_fabric_address *peer,
                               struct kvfi_fabric_address *ret_offer,
                               struct kvfi_fabric_link **ret_link);
    kvf_status_t (*link_accept)(struct kvfi_fabric *fabric, const struct kvfi_fabric_address *peer,
                                const struct kvfi_fabric_address *offer,
                                struct kvfi_fabric_address *ret_answer,
                                struct kvfi_fabric_link **ret_link);
    kvf_status_t (*link_complete)(struct kvfi_fabric_link *link,
                                  const struct kvfi_fabric_address *answer);
    /* No operation of the link is in flight, or they were given up with op_abandon. */
    void (*link_close)(struct kvfi_fabric_link *link);

    /*
     * Begin an operation; *op stays where it is until test says it ended. Errors end it at once.
     * copy: pack or unpack; a host fabric does it before returning. The jobs are borrowed until
     * return, the tables they point at until the operation ended. send, recv: exactly n_bytes.
     * KVF_OK: begun, possibly over; test tells.
     */
    kvf_status_t (*copy)(struct kvfi_fabric_lane *lane, const struct kvfi_copy_job *jobs, size_t n,
                         struct kvfi_fabric_op *op);
    kvf_status_t (*send)(struct kvfi_fabric_lane *lane, struct kvfi_fabric_link *link,
                         const void *memory, size_t n_bytes, struct kvfi_fabric_op *op);
    kvf_status_t (*recv)(struct kvfi_fabric_lane *lane, struct kvfi_fabric_link *link, void *memory,
                         size_t n_bytes, struct kvfi_fabric_op *op);
    /* KVF_OK: ended well; KVF_IN_PROGRESS; < 0: ended badly (a receive of another size too). */
    kvf_status_t (*test)(struct kvfi_fabric_lane *lane, struct kvfi_fabric_op *op);
    /*
     * Give up an operation that will not end (its peer is gone). KVF_OK: its memory is not touched
     * any more. KVF_EBUSY: that cannot be promised; the caller must keep the memory for ever.
     * Either way *op is the caller's again and its link may be closed.
     */
    kvf_status_t (*op_abandon)(struct kvfi_fabric_lane *lane, struct kvfi_fabric_op *op);
};

/* The symbol a fabric library exports; see mpi/kvferry_mpi.h for the MPI one. */
typedef const struct kvfi_fabric_ops *(*kvfi_fabric_entry_fn)(void);

#endif
