/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one check of every version of the strided copy: makes jobs, runs them on a device and in
 * kvfi_copy_ref(), and compares all memory of both. It knows neither Check nor where the memory is.
 */
#ifndef KVFERRY_TESTS_COPY_CHECKER_H
#define KVFERRY_TESTS_COPY_CHECKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/copy.h"

/* Where a version runs. Jobs and their tables are host memory; the addresses in them are not. */
struct copy_device {
    void *ctx;
    bool (*alloc)(void *ctx, size_t n_bytes, uint64_t *ret_address); /* aligned to 64 */
    void (*release)(void *ctx, uint64_t address);
    void (*upload)(void *ctx, uint64_t address, const void *from, size_t n_bytes);
    void (*download)(void *ctx, void *to, uint64_t address, size_t n_bytes);
    void (*run)(void *ctx, const struct kvfi_copy_job *jobs, size_t n_jobs); /* to completion */
};

#define COPY_CHECK_TEXT_BYTES 1024

/*
 * All return false with a sentence in ret_text[COPY_CHECK_TEXT_BYTES] on the first difference. The
 * jobs depend only on the arguments.
 */

/* n_cases calls of random jobs. */
bool copy_check_random(const struct copy_device *device, uint64_t seed, unsigned n_cases,
                       char *ret_text);
/* All axis orders of both kinds that have one, times a few shapes each. */
bool copy_check_orders(const struct copy_device *device, uint64_t seed, char *ret_text);
/* Every row size from 1 to max_row_bytes. */
bool copy_check_row_sizes(const struct copy_device *device, uint64_t seed, uint32_t max_row_bytes,
                          char *ret_text);
/* Shapes of real models and of known edges. */
bool copy_check_shapes(const struct copy_device *device, uint64_t seed, char *ret_text);

#endif
