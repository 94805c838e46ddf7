/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What programs under mpirun use in place of Check: a failed check ends the whole job, since the
 * other ranks would wait for this one.
 */
#ifndef KVFERRY_MPI_TESTS_MPI_CHECK_H
#define KVFERRY_MPI_TESTS_MPI_CHECK_H

#include <dlfcn.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/mpi/kvferry_mpi.h"

#define MPI_CHECK(x)                                                                               \
    do {                                                                                           \
        if (!(x))                                                                                  \
            mpi_check_failed(__FILE__, __LINE__, #x);                                              \
    } while (0)

/* Ends the process: without MPI if it is not (or no longer) initialised. */
static inline void mpi_check_failed(const char *file, int line, const char *what)
{
    int is_up = 0;
    int is_down = 0;

    (void)fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
    (void)fflush(stderr);
    if (MPI_Initialized(&is_up) == MPI_SUCCESS && is_up && MPI_Finalized(&is_down) == MPI_SUCCESS &&
        !is_down)
        (void)MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

/* The table of the library at a path, as an engine finds it. It stays loaded. */
static inline const struct kvferry_mpi_v1 *mpi_check_load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct kvferry_mpi_v1 *table;

    if (!library)
        (void)fprintf(stderr, "%s\n", dlerror());
    MPI_CHECK(library);
    table = dlsym(library, "kvferry_mpi_v1");
    MPI_CHECK(table && table->size >= sizeof(*table));
    MPI_CHECK(strcmp(table->name, "kvferry-mpi") == 0);
    return table;
}

#endif
