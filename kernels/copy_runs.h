/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner part of the host's strided copy: sets of equally spaced runs. Sets are queued for a
 * while before they are copied and their memory is asked for when they come in, because short runs
 * at scattered places wait for memory, not for the processor. Runs into paged memory are written
 * past the caches where that is possible: it saves reading what is about to be overwritten, and
 * nobody reads it before the whole request has arrived.
 */
#ifndef KVFERRY_KERNELS_COPY_RUNS_H
#define KVFERRY_KERNELS_COPY_RUNS_H

#include <stdbool.h>
#include <stdint.h>

#define KVFI_RUNS_QUEUED 16u /* sets; a power of two */

/* n runs of run_bytes >= 1, of which the next begins dst_step and src_step further (mod 2^64). */
struct kvfi_runs {
    uint64_t n;
    uint64_t run_bytes;
    uint64_t dst_step;
    uint64_t src_step;
    bool dst_is_scattered; /* paged memory, probably in no cache */
    bool src_is_scattered;
};

/* Copies one set. Any alignment; source and destination do not overlap. */
typedef void (*kvfi_runs_fn)(const struct kvfi_runs *runs, uint64_t dst, uint64_t src);

/* Sets of one shape that wait for their memory. On the stack of the copying thread. */
struct kvfi_runs_queue {
    struct kvfi_runs shape;
    kvfi_runs_fn copy;
    unsigned n_in;  /* of all sets so far; modulo 2^32 */
    unsigned n_out; /* likewise */
    uint64_t dst[KVFI_RUNS_QUEUED];
    uint64_t src[KVFI_RUNS_QUEUED];
};

void kvfi_runs_init(struct kvfi_runs_queue *queue);
/* Copies what is queued; further sets have this shape. */
void kvfi_runs_reshape(struct kvfi_runs_queue *queue, const struct kvfi_runs *shape);
void kvfi_runs_push(struct kvfi_runs_queue *queue, uint64_t dst, uint64_t src);
/* Copies what is queued. */
void kvfi_runs_flush(struct kvfi_runs_queue *queue);
/* After the last flush: whoever sees a later store of this thread sees what was copied. */
void kvfi_runs_fence(void);

#endif
