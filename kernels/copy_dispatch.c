/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/copy.h"

static const struct kvfi_copy_kernels tables[] = {
    {"ref", kvfi_copy_ref},
    {"host", kvfi_copy_host},
};

int kvfi_copy_kernels_get(unsigned i, struct kvfi_copy_kernels *ret_kernels)
{
    if (i >= sizeof(tables) / sizeof(tables[0]))
        return 0;
    *ret_kernels = tables[i];
    return 1;
}
