/* SPDX-License-Identifier: Apache-2.0 */
/* The sentence of the last failed call of each thread, behind error_text. */
#ifndef KVFERRY_PLUGIN_ERROR_H
#define KVFERRY_PLUGIN_ERROR_H

#include "kvferry/kvferry.h"

/* Remember the sentence and return status: `return kvfi_fail(KVF_EINVAL, "…")`. */
kvf_status_t kvfi_fail(kvf_status_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The calling thread's sentence, or "". */
const char *kvfi_error_text(void);
/* Forget it; every public call begins with this. */
void kvfi_error_clear(void);

#endif
