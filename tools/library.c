/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/library.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SONAME "libkvferry.so.1"

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

static void *open_any(char *ret_path, size_t path_cap)
{
    char folder[PATH_MAX];
    char path[PATH_MAX + 64];
    void *handle;

    library_own_folder(folder, sizeof(folder));
    (void)snprintf(path, sizeof(path), "%s/../plugin/" SONAME, folder);
    handle = open_file(path, ret_path, path_cap);
    if (handle)
        return handle;
    handle = open_file(KVFERRY_LIBDIR "/" SONAME, ret_path, path_cap);
    if (handle)
        return handle;
    (void)snprintf(ret_path, path_cap, "%s", SONAME);
    return dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
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
        handle = open_any(ret_path, path_cap);
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

const char *library_why(const struct kvferry_plugin_v1 *table, kvf_status_t status)
{
    const char *text = table->error_text();

    return text[0] != '\0' ? text : table->status_text(status);
}
