/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVFERRY_COLLECTIVES_RUN_H
#define KVFERRY_COLLECTIVES_RUN_H

#include <stdint.h>

/* Longest list of runs one batch carries; bounds OFFER messages and per-slot memory. */
#define KVFI_BATCH_RUNS_MAX 64u

/*
 * Consecutive chunks of one piece inside a batch. `piece` is this rank's own number for the piece
 * (the two ends have different ones; the control plane translates).
 */
struct kvfi_run {
    uint32_t piece;
    uint32_t first_chunk;
    uint32_t n_chunks;
    uint32_t bytes;  /* of these chunks together */
    uint32_t offset; /* of the first chunk in the slot */
};

#endif
