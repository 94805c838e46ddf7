/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second, slow formulation of the strided copy, to check the first one with: positions come from
 * sorting the rows and from walking, never from a product of extents. Small jobs only.
 */
#ifndef KVFERRY_TESTS_COPY_MODEL_H
#define KVFERRY_TESTS_COPY_MODEL_H

#include "kernels/copy.h"

void copy_model(const struct kvfi_copy_job *jobs, size_t n);

#endif
