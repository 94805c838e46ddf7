/* SPDX-License-Identifier: Apache-2.0 */
/* libkvferry.so, loaded the way a serving runtime loads it. */
#ifndef KVFERRY_TOOLS_LIBRARY_H
#define KVFERRY_TOOLS_LIBRARY_H

#include "collectives/mpi/kvferry_mpi.h"
#include "kvferry/kvferry.h"
#include "tools/error.h"

/*
 * Load the library: `path` if not NULL, else the build tree's beside this executable, else the
 * installed one, else by the loader's search. It is never unloaded: its threads may be its own.
 * @param[out] ret_path  [path_cap] where it came from
 */
bool library_open(const char *path, struct tool_error *error, char *ret_path, size_t path_cap,
                  const struct kvferry_plugin_v1 **ret_table);

/*
 * libkvferry-mpi.so, which belongs beside libkvferry.so (`beside`: where that is); in the build tree
 * it has a folder of its own.
 */
bool library_open_mpi(const char *beside, struct tool_error *error, char *ret_path, size_t path_cap,
                      const struct kvferry_mpi_v1 **ret_table);

/* The sentence of the call that just failed in this thread, or the status's text. */
const char *library_why(const struct kvferry_plugin_v1 *table, kvf_status_t status);

/* Folder of this executable into folder[capacity]; "." if that cannot be told. */
void library_own_folder(char *folder, size_t capacity);

#endif
