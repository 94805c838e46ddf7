/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loop of the host's strided copy: equally spaced runs of one size. */
#ifndef KVFERRY_KERNELS_COPY_RUNS_H
#define KVFERRY_KERNELS_COPY_RUNS_H

#include <stdint.h>

/*
 * Copies n runs of run_bytes bytes; the next one begins dst_step and src_step bytes further (modulo
 * 2^64). Any alignment. Source and destination do not overlap.
 */
typedef void (*kvfi_copy_runs_fn)(uint64_t dst, uint64_t src, uint64_t n, uint64_t dst_step,
                                  uint64_t src_step, uint64_t run_bytes);

/* The function for runs of run_bytes >= 1; to be called with this run_bytes only. */
kvfi_copy_runs_fn kvfi_copy_runs_pick(uint64_t run_bytes);

#endif
