/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVFERRY_PLUGIN_FABRIC_LOAD_H
#define KVFERRY_PLUGIN_FABRIC_LOAD_H

#include "collectives/fabric.h"
#include "plugin/config.h"

/*
 * Find the table of the fabric a configuration names. *ret_library stays open as long as the table
 * is used (kvfi_fabric_unload). KVF_EUNSUPPORTED with the sentence in error_text.
 */
kvf_status_t kvfi_fabric_load(const struct kvfi_config *config,
                              const struct kvfi_fabric_ops **ret_ops, void **ret_library);
void kvfi_fabric_unload(void *library);

#endif
