/* SPDX-License-Identifier: Apache-2.0 */
/* The sentence that goes with an error status. */
#ifndef KVFERRY_PLUGIN_TEXT_H
#define KVFERRY_PLUGIN_TEXT_H

#include <stddef.h>

#include "kvferry/kvferry.h"

/* Writes the sentence (cut if too long; text may be NULL with text_cap 0) and returns `status`. */
kvf_status_t kvfi_refuse(char *text, size_t text_cap, kvf_status_t status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
