/* SPDX-License-Identifier: Apache-2.0 */
/* The one place that opens libraries. */
#include "plugin/fabric_load.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "collectives/mpi/kvferry_mpi.h"
#include "plugin/error.h"

#define MPI_LIBRARY "libkvferry-mpi.so.1"

/* "…/libkvferry.so.1" -> "…/libkvferry-mpi.so"; the plain name if this library has no folder. */
static void beside_this(char *ret_path, size_t capacity)
{
    static const char anchor;
    Dl_info info;
    const char *slash = NULL;

    if (dladdr(&anchor, &info) && info.dli_fname)
        slash = strrchr(info.dli_fname, '/');
    if (slash)
        (void)snprintf(ret_path, capacity, "%.*s/" MPI_LIBRARY, (int)(slash - info.dli_fname),
                       info.dli_fname);
    else
        (void)snprintf(ret_path, capacity, MPI_LIBRARY);
}

static kvf_status_t check_ops(const struct kvfi_fabric_ops *ops, const char *path)
{
    if (!ops || ops->contract != KVFI_FABRIC_CONTRACT || ops->size < sizeof(*ops))
        return kvfi_fail(KVF_EVERSION, "fabric contract of %.150s is %u, this library's is %u",
                         path, ops ? ops->contract : 0, KVFI_FABRIC_CONTRACT);
    return KVF_OK;
}

kvf_status_t kvfi_fabric_load(const struct kvfi_config *config,
                              const struct kvfi_fabric_ops **ret_ops, void **ret_library)
{
    const struct kvferry_mpi_v1 *table;
    const char *error;
    char path[KVFI_PATH_MAX];
    void *library;
    kvf_status_t status;

    if (strcmp(config->fabric, "nccl") == 0)
        return kvfi_fail(KVF_EUNSUPPORTED, "fabric \"nccl\" is not in this release");
    if (config->fabric[0] && strcmp(config->fabric, "mpi") != 0)
        return kvfi_fail(KVF_EUNSUPPORTED, "fabric is \"%s\", known are \"mpi\" and \"nccl\"",
                         config->fabric);
    if (config->fabric_path[0])
        (void)snprintf(path, sizeof(path), "%s", config->fabric_path);
    else
        beside_this(path, sizeof(path));
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        error = dlerror();
        return kvfi_fail(KVF_EUNSUPPORTED, "fabric \"mpi\": %.220s", error ? error : "cannot open");
    }
    table = dlsym(library, "kvferry_mpi_v1");
    if (!table) {
        error = dlerror();
        status = kvfi_fail(KVF_EUNSUPPORTED, "fabric \"mpi\": %.220s", error ? error : "no table");
        (void)dlclose(library);
        return status;
    }
    *ret_ops = table->fabric();
    status = check_ops(*ret_ops, path);
    if (status) {
        (void)dlclose(library);
        return status;
    }
    *ret_library = library;
    return KVF_OK;
}

void kvfi_fabric_unload(void *library)
{
    if (library)
        (void)dlclose(library);
}
