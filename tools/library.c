/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/library.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SONAME "libkvferry.so.1"
#define MPI_SONAME "libkvferry-mpi.so.1"

#ifndef KVFERRY_LIBDIR
#define KVFERRY_LIBDIR "/usr/lib"
#endif

void library_own_folder(char *folder, size_t capacity)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    self[n > 0 ? n : 0] = '\0';
    slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    (void)snprintf(folder, capacity, "%s", slash ? self : ".");
}

static void *open_file(const char *path, char *ret_path, size_t path_cap)
{
    void *handle = access(path, R_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;

    if (handle)
        (void)snprintf(ret_path, path_cap, "%s", path);
    return handle;
}

/* Looks in a folder beside this executable (the build tree), then where things are installed, then
 * lets the loader search. */
static void *open_any(const char *build_folder, const char *soname, char *ret_path, size_t path_cap)
{
    char folder[PATH_MAX];
    char path[PATH_MAX + 64];
    void *handle;

    library_own_folder(folder, sizeof(folder));
    (void)snprintf(path, sizeof(path), "%s/../%s/%s", folder, build_folder, soname);
    handle = open_file(path, ret_path, path_cap);
    if (handle)
        return handle;
    (void)snprintf(path, sizeof(path), KVFERRY_LIBDIR "/%s", soname);
    handle = open_file(path, ret_path, path_cap);
    if (handle)
        return handle;
    (void)snprintf(ret_path, path_cap, "%s", soname);
    return dlopen(soname, RTLD_NOW | RTLD_LOCAL);
}

bool library_open(const char *path, struct tool_error *error, char *ret_path, size_t path_cap,
                  const struct kvferry_plugin_v1 **ret_table)
{
    const struct kvferry_plugin_v1 *table;
    void *handle;

    if (path) {
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        (void)snprintf(ret_path, path_cap, "%s", path);
    } else {
        handle = open_any("plugin", SONAME, ret_path, path_cap);
    }
    if (!handle)
        return tool_fail(error, "libkvferry: %s", dlerror());
    table = dlsym(handle, "kvferry_plugin_v1");
    if (!table)
        return tool_fail(error, "%s: %s", ret_path, dlerror());
    if (table->size < sizeof(*table))
        return tool_fail(error,
                         "%s is release %s with a table of %zu bytes, this command needs %zu",
                         ret_path, table->version, table->size, sizeof(*table));
    *ret_table = table;
    return true;
}

bool library_open_mpi(const char *beside, struct tool_error *error, char *ret_path, size_t path_cap,
                      const struct kvferry_mpi_v1 **ret_table)
{
    const struct kvferry_mpi_v1 *table;
    const char *slash = strrchr(beside, '/');
    char path[PATH_MAX];
    void *handle = NULL;

    if (slash) {
        (void)snprintf(path, sizeof(path), "%.*s/" MPI_SONAME, (int)(slash - beside), beside);
        handle = open_file(path, ret_path, path_cap);
    }
    if (!handle)
        handle = open_any("collectives/mpi", MPI_SONAME, ret_path, path_cap);
    if (!handle)
        return tool_fail(error, "libkvferry-mpi: %s", dlerror());
    table = dlsym(handle, "kvferry_mpi_v1");
    if (!table)
        return tool_fail(error, "%s: %s", ret_path, dlerror());
    if (table->size < sizeof(*table))
        return tool_fail(error, "%s has a table of %zu bytes, this command needs %zu", ret_path,
                         table->size, sizeof(*table));
    *ret_table = table;
    return true;
}

const char *library_why(const struct kvferry_plugin_v1 *table, kvf_status_t status)
{
    const char *text = table->error_text();

    return text[0] != '\0' ? text : table->status_text(status);
}
