/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for staging slots: huge pages where the system gives them. Open MPI moves a large message
 * on one machine with one process_vm_readv, and that walks pages: with huge ones it is more than
 * twice as fast. Slots share a region, as a slot is smaller than a huge page.
 */
#ifndef KVFERRY_COLLECTIVES_MPI_REGIONS_H
#define KVFERRY_COLLECTIVES_MPI_REGIONS_H

#include <pthread.h>
#include <stddef.h>

#include "kvferry/kvferry.h"

struct kvfi_mpi_region;

/* Any thread. */
struct kvfi_mpi_regions {
    pthread_mutex_t lock; /* of the list and its regions */
    struct kvfi_mpi_region *first;
};

kvf_status_t kvfi_mpi_regions_init(struct kvfi_mpi_regions *regions);
/* Memory that was not freed stays mapped: something may still use it. */
void kvfi_mpi_regions_fini(struct kvfi_mpi_regions *regions);

/* Zeroed, touched, aligned to a page. */
kvf_status_t kvfi_mpi_regions_alloc(struct kvfi_mpi_regions *regions, size_t n_bytes,
                                    void **ret_memory);
/* A region is unmapped with the last of its memory. */
void kvfi_mpi_regions_free(struct kvfi_mpi_regions *regions, void *memory);

#endif
