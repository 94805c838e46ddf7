/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the strides of a pool make two of its rows share memory. */
#ifndef KVFERRY_PLUGIN_OVERLAP_H
#define KVFERRY_PLUGIN_OVERLAP_H

#include "plugin/geometry.h"

/*
 * Check the strides and bases of a description whose other members are in order: no two rows
 * overlap, and the last one ends below 2^64. KVF_EINVAL with a sentence.
 */
kvf_status_t kvfi_overlap_check(const struct kvf_pool_desc *desc,
                                const struct kvfi_pool_geometry *pool, char *text, size_t text_cap);

#endif
