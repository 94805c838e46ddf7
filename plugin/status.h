/* SPDX-License-Identifier: Apache-2.0 */
/* Texts and names of status codes, for the table, for messages and for the tools. */
#ifndef KVFERRY_PLUGIN_STATUS_H
#define KVFERRY_PLUGIN_STATUS_H

#include "kvferry/kvferry.h"

/* Static, never NULL: a number that came from elsewhere gets a text too. */
const char *kvfi_status_text(kvf_status_t status);

/* Static, never NULL; such as "KVF_EINVAL". */
const char *kvfi_status_name(kvf_status_t status);

#endif
