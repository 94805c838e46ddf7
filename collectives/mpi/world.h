/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process's duplicate of the host's communicator. There is one, because MPI has one world a
 * process and all engines of a process may share tags.
 */
#ifndef KVFERRY_COLLECTIVES_MPI_WORLD_H
#define KVFERRY_COLLECTIVES_MPI_WORLD_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

#include "kvferry/kvferry.h"

/* What a fabric needs of it; a copy. */
struct kvfi_mpi_world {
    MPI_Comm comm;
    int rank;
    int n_ranks;
    int max_tag;
    uint64_t id; /* random, the same on all ranks: tells this MPI job from another one */
};

/* The calls of kvferry_mpi.h. */
kvf_status_t kvfi_mpi_attach(const void *communicator, char *ret_text, size_t text_cap);
kvf_status_t kvfi_mpi_detach(char *ret_text, size_t text_cap);
kvf_status_t kvfi_mpi_place(uint32_t *ret_rank, uint32_t *ret_n_ranks);
kvf_status_t kvfi_mpi_job_key(uint8_t *ret_key, char *ret_text, size_t text_cap);
kvf_status_t kvfi_mpi_allgather(const void *bytes, size_t n_bytes, size_t *ret_sizes,
                                void *ret_bytes, size_t capacity, char *ret_text, size_t text_cap);

/*
 * A fabric begins or ends its use of the communicator. KVF_EUNSUPPORTED with a sentence: there is
 * none, or MPI is not usable (any more).
 */
kvf_status_t kvfi_mpi_world_ref(char *ret_text, size_t text_cap, struct kvfi_mpi_world *ret_world);
/* n_lost: operations given up that MPI may still finish; the communicator is kept for them. */
void kvfi_mpi_world_unref(uint32_t n_lost);

/* A tag that no link of this process had before. KVF_ENOSPC: all were used. Any thread. */
kvf_status_t kvfi_mpi_world_tag(const struct kvfi_mpi_world *world, int *ret_tag);

/* "what: MPI's text" */
void kvfi_mpi_error_text(int error, const char *what, char *ret_text, size_t text_cap);

#endif
