/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/mpi/regions.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "collectives/util.h"

enum { PAGE_BYTES = 4096, HUGE_BYTES = 2 * 1024 * 1024 };

struct kvfi_mpi_region {
    struct kvfi_mpi_region *next;
    uint8_t *memory;
    size_t n_bytes;
    size_t n_taken; /* bytes handed out from the front; not used again */
    size_t n_live;  /* pieces not freed */
};

/* n up to the next multiple of a power of two; 0 if that does not fit. */
static size_t round_up(size_t n, size_t to)
{
    return n > SIZE_MAX - to ? 0 : (n + to - 1) & ~(to - 1);
}

kvf_status_t kvfi_mpi_regions_init(struct kvfi_mpi_regions *regions)
{
    regions->first = NULL;
    return pthread_mutex_init(&regions->lock, NULL) == 0 ? KVF_OK : KVF_ENOMEM;
}

void kvfi_mpi_regions_fini(struct kvfi_mpi_regions *regions)
{
    while (regions->first) {
        struct kvfi_mpi_region *r = regions->first;

        regions->first = r->next;
        kvfi_free(r);
    }
    (void)pthread_mutex_destroy(&regions->lock);
}

/* n_bytes of huge-page aligned memory, all of it there (no page faults later). */
static void *map_aligned(size_t n_bytes)
{
    size_t slack_bytes = HUGE_BYTES;
    uint8_t *mapped = mmap(NULL, n_bytes + slack_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *aligned;
    size_t before_bytes;

    if (mapped == MAP_FAILED)
        return NULL;
    before_bytes = round_up((uintptr_t)mapped, HUGE_BYTES) - (uintptr_t)mapped;
    aligned = mapped + before_bytes;
    if (before_bytes)
        (void)munmap(mapped, before_bytes);
    (void)munmap(aligned + n_bytes, slack_bytes - before_bytes);
    (void)madvise(aligned, n_bytes, MADV_HUGEPAGE); /* a wish */
    memset(aligned, 0, n_bytes);
    return aligned;
}

static struct kvfi_mpi_region *add_region(struct kvfi_mpi_regions *regions, size_t n_bytes)
{
    size_t region_bytes = round_up(n_bytes, HUGE_BYTES);
    struct kvfi_mpi_region *r;

    if (region_bytes == 0 || region_bytes > SIZE_MAX - HUGE_BYTES)
        return NULL;
    r = kvfi_calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->memory = map_aligned(region_bytes);
    if (!r->memory) {
        kvfi_free(r);
        return NULL;
    }
    r->n_bytes = region_bytes;
    r->next = regions->first;
    regions->first = r;
    return r;
}

kvf_status_t kvfi_mpi_regions_alloc(struct kvfi_mpi_regions *regions, size_t n_bytes,
                                    void **ret_memory)
{
    size_t piece_bytes = round_up(n_bytes, PAGE_BYTES);
    struct kvfi_mpi_region *r;

    if (piece_bytes == 0)
        return KVF_ENOMEM;
    (void)pthread_mutex_lock(&regions->lock);
    r = regions->first;
    while (r && r->n_bytes - r->n_taken < piece_bytes)
        r = r->next;
    if (!r)
        r = add_region(regions, piece_bytes);
    if (r) {
        *ret_memory = r->memory + r->n_taken;
        r->n_taken += piece_bytes;
        r->n_live++;
    }
    (void)pthread_mutex_unlock(&regions->lock);
    return r ? KVF_OK : KVF_ENOMEM;
}

void kvfi_mpi_regions_free(struct kvfi_mpi_regions *regions, void *memory)
{
    struct kvfi_mpi_region **at;
    struct kvfi_mpi_region *r;

    (void)pthread_mutex_lock(&regions->lock);
    at = &regions->first;
    while (*at && (uintptr_t)memory - (uintptr_t)(*at)->memory >= (*at)->n_bytes)
        at = &(*at)->next;
    r = *at;
    assert(r && r->n_live);
    if (--r->n_live == 0) {
        *at = r->next;
        (void)munmap(r->memory, r->n_bytes);
        kvfi_free(r);
    }
    (void)pthread_mutex_unlock(&regions->lock);
}
