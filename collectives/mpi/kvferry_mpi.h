/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvferry over MPI: the fabric that moves host memory, and what a job under mpirun needs to begin.
 *
 * MPI is a library of its own, so that libkvferry.so needs none. A host finds everything through one
 * symbol, the table `kvferry_mpi_v1`:
 *
 *     void *lib = dlopen("libkvferry-mpi.so", RTLD_NOW | RTLD_LOCAL);
 *     const struct kvferry_mpi_v1 *mpi = dlsym(lib, "kvferry_mpi_v1");
 *     mpi->attach(NULL, text, sizeof(text));
 *
 * An engine with fabric "mpi" opens the same library; every rank must have attached before its
 * engine_create. Engines are destroyed before MPI_Finalize.
 *
 * The conventions of kvferry.h hold, but the sentence about an error is written to ret_text (at most
 * text_cap bytes with its NUL; NULL if text_cap is 0).
 *
 * "Collective" means, as in MPI: every rank of the communicator calls it, in the same order, and it
 * may block until all have. Collective calls return the same status on every rank unless they say
 * otherwise. At most one thread of a process is in one; MPI itself must be usable from any thread.
 */
#ifndef KVFERRY_KVFERRY_MPI_H
#define KVFERRY_KVFERRY_MPI_H

#include <stddef.h>
#include <stdint.h>

#include "kvferry/kvferry.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvfi_fabric_ops;

/** The table of libkvferry-mpi.so. Grows at its end only; `size` says how far it goes. */
struct kvferry_mpi_v1 {
    size_t size;
    const char *name;    /**< "kvferry-mpi" */
    const char *version; /**< of this library, "major.minor.patch" */

    /**
     * Give the library its communicator: a duplicate of the one named, so that its messages never
     * meet the host's. Collective. Once attached, further calls return KVF_OK at once.
     *
     * @param[in]  communicator pointer to an MPI_Comm, borrowed until return; NULL: MPI_COMM_WORLD.
     *                          An intracommunicator whose ranks are the ones that will connect
     * @param[out] ret_text     why not
     * @param[in]  text_cap     bytes of ret_text
     * @retval KVF_EUNSUPPORTED this process cannot use MPI as it is: not initialised, finalised
     *                          already (both on this rank only), or initialised, here or on another
     *                          rank, with less than MPI_THREAD_MULTIPLE
     * @retval KVF_EINVAL       an intercommunicator
     * @retval KVF_ENOMEM       out of memory, on some rank
     * @retval KVF_EFABRIC      MPI reported an error (its text is in ret_text); on this rank only
     * @retval KVF_EFORK        attached before fork, called in the child
     * Threads: as said above. Stream: none. Blocks until all ranks have called it.
     */
    kvf_status_t (*attach)(const void *communicator, char *ret_text, size_t text_cap);

    /**
     * Give the communicator back. Collective. Needed only if the host counts its communicators:
     * MPI_Finalize ends an attached one too.
     *
     * @param[out] ret_text why not
     * @param[in]  text_cap bytes of ret_text
     * @retval KVF_EBUSY    an engine of this process still uses the fabric (this rank only; the
     *                      others may block until it has called again)
     * @retval KVF_ESTATE   not attached
     * @retval KVF_EFORK    attached before fork, called in the child
     * Threads: as said above. Stream: none. Blocks until all ranks have called it.
     */
    kvf_status_t (*detach)(char *ret_text, size_t text_cap);

    /**
     * This process's place in the communicator.
     *
     * @param[out] ret_rank    0 .. *ret_n_ranks - 1
     * @param[out] ret_n_ranks ranks of the communicator
     * @retval KVF_ESTATE      not attached
     * Threads: any. Stream: none. Does not block.
     */
    kvf_status_t (*place)(uint32_t *ret_rank, uint32_t *ret_n_ranks);

    /**
     * Make a secret for the job: rank 0 draws it from the system's random numbers, all ranks get it.
     * Collective; every call makes another one. It travels in plain text over MPI, as the KV cache
     * does: the network between the ranks must be private.
     *
     * @param[out] ret_key  [KVF_JOB_KEY_BYTES]
     * @param[out] ret_text why not
     * @param[in]  text_cap bytes of ret_text
     * @retval KVF_ESTATE   not attached
     * @retval KVF_EFABRIC  MPI reported an error; on this rank only
     * @retval KVF_EFORK    attached before fork, called in the child
     * Threads: as said above. Stream: none. Blocks until all ranks have called it.
     */
    kvf_status_t (*job_key)(uint8_t *ret_key, char *ret_text, size_t text_cap);

    /**
     * Bring the blobs of all ranks to all ranks. Collective. With capacity 0 on every rank only the
     * sizes are exchanged.
     *
     * Shapes: ret_sizes [n_ranks]; ret_bytes: the blobs one after the other, by rank, no gaps.
     * @param[in]  bytes     this rank's blob, borrowed until return; NULL if n_bytes is 0
     * @param[in]  n_bytes   its bytes
     * @param[out] ret_sizes [n_ranks] bytes of each rank's blob; set if KVF_OK or KVF_ENOSPC
     * @param[out] ret_bytes [capacity]
     * @param[in]  capacity  bytes of ret_bytes
     * @param[out] ret_text  why not
     * @param[in]  text_cap  bytes of ret_text
     * @retval KVF_ESTATE    not attached
     * @retval KVF_ENOSPC    the blobs do not fit in the smallest capacity of all ranks, or are
     *                       INT_MAX bytes or more together
     * @retval KVF_EFABRIC   MPI reported an error; on this rank only
     * @retval KVF_EFORK     attached before fork, called in the child
     * Threads: as said above. Stream: none. Blocks until all ranks have called it.
     */
    kvf_status_t (*allgather)(const void *bytes, size_t n_bytes, size_t *ret_sizes, void *ret_bytes,
                              size_t capacity, char *ret_text, size_t text_cap);

    /**
     * The fabric's table. For libkvferry.so, which checks its contract number.
     * Threads: any. Stream: none. Does not block.
     */
    const struct kvfi_fabric_ops *(*fabric)(void);
};

/** The one symbol of libkvferry-mpi.so. */
extern KVF_API const struct kvferry_mpi_v1 kvferry_mpi_v1;

#ifdef __cplusplus
}
#endif

#endif
