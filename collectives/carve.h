/* SPDX-License-Identifier: Apache-2.0 */
/* Arrays laid out in one block of memory: offsets first, pointers once the block is there. */
#ifndef KVFERRY_COLLECTIVES_CARVE_H
#define KVFERRY_COLLECTIVES_CARVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/util.h"

#define KVFI_CARVE_ALIGN 64u /* a cache line, and more than any type needs */

/* Room for n elements at the end of a block of *total bytes; false if the sizes do not fit. */
static inline bool kvfi_carve(size_t *total, size_t n, size_t elem_bytes, size_t *ret_offset)
{
    size_t bytes;
    size_t end;

    if (!kvfi_mul_size(n, elem_bytes, &bytes) ||
        __builtin_add_overflow(bytes, KVFI_CARVE_ALIGN - 1, &bytes))
        return false;
    bytes -= bytes % KVFI_CARVE_ALIGN;
    if (__builtin_add_overflow(*total, bytes, &end))
        return false;
    *ret_offset = *total;
    *total = end;
    return true;
}

#endif
