/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/mpi/world.h"

#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "collectives/util.h"

/* What a rank says of its blob before the blobs travel. */
struct offer {
    uint64_t n_bytes;
    uint64_t capacity;
};

/*
 * The process-wide state. Global because what it stands for is: MPI_Init is called once a process,
 * and tags must differ between all engines that receive in it.
 */
static struct {
    pthread_mutex_t lock; /* of everything here but next_tag; held during collective calls */
    bool is_attached;
    pid_t pid; /* that attached */
    struct kvfi_mpi_world world;
    uint32_t n_refs;
    uint32_t n_lost;
    struct offer *offers; /* [n_ranks], of allgather: it must not fail alone for want of memory */
    int *counts;
    int *places;
    atomic_int next_tag;
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Locking can fail only by misuse of the mutex, which this file alone holds. */
static void enter(void)
{
    (void)pthread_mutex_lock(&state.lock);
}

static void leave(void)
{
    (void)pthread_mutex_unlock(&state.lock);
}

static void say(char *ret_text, size_t text_cap, const char *text)
{
    if (text_cap)
        (void)snprintf(ret_text, text_cap, "%s", text);
}

void kvfi_mpi_error_text(int error, const char *what, char *ret_text, size_t text_cap)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n = 0;

    if (text_cap == 0)
        return;
    if (MPI_Error_string(error, text, &n) != MPI_SUCCESS)
        (void)snprintf(text, sizeof(text), "error %d", error);
    (void)snprintf(ret_text, text_cap, "%s: %s", what, text);
}

static const char *level_name(int level)
{
    if (level == MPI_THREAD_SINGLE)
        return "MPI_THREAD_SINGLE";
    if (level == MPI_THREAD_FUNNELED)
        return "MPI_THREAD_FUNNELED";
    if (level == MPI_THREAD_SERIALIZED)
        return "MPI_THREAD_SERIALIZED";
    return "an unknown thread level";
}

/* Whether MPI may be called at all. */
static kvf_status_t check_running(char *ret_text, size_t text_cap)
{
    int flag = 0;

    if (MPI_Initialized(&flag) != MPI_SUCCESS || !flag) {
        say(ret_text, text_cap,
            "MPI is not initialised; the host must call MPI_Init_thread with MPI_THREAD_MULTIPLE");
        return KVF_EUNSUPPORTED;
    }
    if (MPI_Finalized(&flag) != MPI_SUCCESS || flag) {
        say(ret_text, text_cap, "MPI was finalised already");
        return KVF_EUNSUPPORTED;
    }
    return KVF_OK;
}

static kvf_status_t check_level(char *ret_text, size_t text_cap)
{
    int level = MPI_THREAD_SINGLE;

    if (MPI_Query_thread(&level) == MPI_SUCCESS && level >= MPI_THREAD_MULTIPLE)
        return KVF_OK;
    if (text_cap)
        (void)snprintf(ret_text, text_cap,
                       "MPI was initialised with %s, but MPI_THREAD_MULTIPLE is needed: lanes call "
                       "it from several threads",
                       level_name(level));
    return KVF_EUNSUPPORTED;
}

/* Locked. */
static kvf_status_t check_attached(char *ret_text, size_t text_cap)
{
    if (!state.is_attached) {
        say(ret_text, text_cap, "attach was not called on this rank");
        return KVF_ESTATE;
    }
    if (state.pid != getpid()) {
        say(ret_text, text_cap, "called in a child of fork");
        return KVF_EFORK;
    }
    return KVF_OK;
}

/* ---- attach -------------------------------------------------------------------------------- */

static void free_tables(void)
{
    kvfi_free(state.offers);
    kvfi_free(state.counts);
    kvfi_free(state.places);
    state.offers = NULL;
    state.counts = NULL;
    state.places = NULL;
}

static bool make_tables(int n_ranks)
{
    state.offers = kvfi_calloc((size_t)n_ranks, sizeof(*state.offers));
    state.counts = kvfi_calloc((size_t)n_ranks, sizeof(*state.counts));
    state.places = kvfi_calloc((size_t)n_ranks, sizeof(*state.places));
    return state.offers && state.counts && state.places;
}

/* Everything that can go wrong on one rank alone; before the collective calls that need all. */
static kvf_status_t prepare(MPI_Comm host, char *ret_text, size_t text_cap)
{
    kvf_status_t status = check_level(ret_text, text_cap);
    int n_ranks = 0;

    if (status < 0)
        return status;
    if (MPI_Comm_size(host, &n_ranks) != MPI_SUCCESS || !make_tables(n_ranks)) {
        say(ret_text, text_cap, "out of memory");
        return KVF_ENOMEM;
    }
    return KVF_OK;
}

/* The worst status of all ranks, so that none goes on alone. */
static kvf_status_t agree(MPI_Comm comm, kvf_status_t mine, char *ret_text, size_t text_cap)
{
    int all = mine;
    int error;

    error = MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, comm);
    if (error != MPI_SUCCESS) {
        kvfi_mpi_error_text(error, "MPI_Allreduce", ret_text, text_cap);
        return KVF_EFABRIC;
    }
    if (mine == KVF_OK && all == KVF_EUNSUPPORTED)
        say(ret_text, text_cap,
            "another rank of the communicator initialised MPI with less than MPI_THREAD_MULTIPLE");
    else if (mine == KVF_OK && all < 0)
        say(ret_text, text_cap, "another rank of the communicator is out of memory");
    return (kvf_status_t)all;
}

static kvf_status_t duplicate(MPI_Comm host, struct kvfi_mpi_world *ret_world, char *ret_text,
                              size_t text_cap)
{
    struct kvfi_mpi_world w = {.comm = MPI_COMM_NULL};
    int *max_tag = NULL;
    int has_max_tag = 0;
    int error = MPI_Comm_dup(host, &w.comm);

    if (error == MPI_SUCCESS)
        error = MPI_Comm_set_errhandler(w.comm, MPI_ERRORS_RETURN);
    if (error == MPI_SUCCESS)
        error = MPI_Comm_rank(w.comm, &w.rank);
    if (error == MPI_SUCCESS)
        error = MPI_Comm_size(w.comm, &w.n_ranks);
    if (error == MPI_SUCCESS)
        error = MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &max_tag, &has_max_tag);
    if (w.rank == 0)
        randombytes_buf(&w.id, sizeof(w.id));
    if (error == MPI_SUCCESS)
        error = MPI_Bcast(&w.id, 1, MPI_UINT64_T, 0, w.comm);
    if (error != MPI_SUCCESS) {
        kvfi_mpi_error_text(error, "duplicating the communicator", ret_text, text_cap);
        return KVF_EFABRIC;
    }
    w.max_tag = has_max_tag ? *max_tag : 32767; /* what the standard promises */
    *ret_world = w;
    return KVF_OK;
}

static kvf_status_t attach_locked(MPI_Comm host, char *ret_text, size_t text_cap)
{
    kvf_status_t status;
    int is_inter = 0;

    if (MPI_Comm_test_inter(host, &is_inter) != MPI_SUCCESS || is_inter) {
        say(ret_text, text_cap, "the communicator is an intercommunicator");
        return KVF_EINVAL;
    }
    status = agree(host, prepare(host, ret_text, text_cap), ret_text, text_cap);
    if (status == KVF_OK)
        status = duplicate(host, &state.world, ret_text, text_cap);
    if (status < 0) {
        free_tables();
        return status;
    }
    state.pid = getpid();
    state.is_attached = true;
    return KVF_OK;
}

kvf_status_t kvfi_mpi_attach(const void *communicator, char *ret_text, size_t text_cap)
{
    MPI_Comm host = MPI_COMM_WORLD;
    kvf_status_t status = check_running(ret_text, text_cap);

    if (status < 0)
        return status;
    if (communicator)
        host = *(const MPI_Comm *)communicator;
    enter();
    if (state.is_attached)
        status = check_attached(ret_text, text_cap);
    else
        status = attach_locked(host, ret_text, text_cap);
    leave();
    return status;
}

static kvf_status_t detach_locked(char *ret_text, size_t text_cap)
{
    kvf_status_t status = check_attached(ret_text, text_cap);

    if (status < 0)
        return status;
    if (state.n_refs) {
        if (text_cap)
            (void)snprintf(ret_text, text_cap, "%u engines still use the fabric", state.n_refs);
        return KVF_EBUSY;
    }
    status = agree(state.world.comm, KVF_OK, ret_text, text_cap);
    if (status < 0)
        return status;
    /* MPI may still finish operations that were given up: then the communicator stays. */
    if (state.n_lost == 0)
        (void)MPI_Comm_free(&state.world.comm);
    free_tables();
    state.is_attached = false;
    return KVF_OK;
}

kvf_status_t kvfi_mpi_detach(char *ret_text, size_t text_cap)
{
    kvf_status_t status;

    enter();
    status = detach_locked(ret_text, text_cap);
    leave();
    return status;
}

kvf_status_t kvfi_mpi_place(uint32_t *ret_rank, uint32_t *ret_n_ranks)
{
    kvf_status_t status;

    enter();
    status = check_attached(NULL, 0);
    if (status == KVF_OK) {
        *ret_rank = (uint32_t)state.world.rank;
        *ret_n_ranks = (uint32_t)state.world.n_ranks;
    }
    leave();
    return status;
}

/* ---- job key, allgather --------------------------------------------------------------------- */

static kvf_status_t job_key_locked(uint8_t *ret_key, char *ret_text, size_t text_cap)
{
    uint8_t key[KVF_JOB_KEY_BYTES] = {0};
    kvf_status_t status = check_attached(ret_text, text_cap);
    int error;

    if (status < 0)
        return status;
    if (state.world.rank == 0)
        randombytes_buf(key, sizeof(key));
    error = MPI_Bcast(key, sizeof(key), MPI_BYTE, 0, state.world.comm);
    if (error != MPI_SUCCESS) {
        kvfi_mpi_error_text(error, "MPI_Bcast", ret_text, text_cap);
        return KVF_EFABRIC;
    }
    memcpy(ret_key, key, sizeof(key));
    sodium_memzero(key, sizeof(key));
    return KVF_OK;
}

kvf_status_t kvfi_mpi_job_key(uint8_t *ret_key, char *ret_text, size_t text_cap)
{
    kvf_status_t status;

    enter();
    status = job_key_locked(ret_key, ret_text, text_cap);
    leave();
    return status;
}

/* From state.offers: sizes, counts and places. Every rank comes to the same result. */
static kvf_status_t lay_out(size_t *ret_sizes, bool *ret_is_wanted, char *ret_text, size_t text_cap)
{
    uint64_t total = 0;
    uint64_t capacity = UINT64_MAX;
    bool is_wanted = false;

    for (int i = 0; i < state.world.n_ranks; i++) {
        const struct offer *o = &state.offers[i];

        ret_sizes[i] = o->n_bytes;
        state.places[i] = (int)kvfi_min_u64(total, INT_MAX);
        state.counts[i] = (int)kvfi_min_u64(o->n_bytes, INT_MAX);
        total = kvfi_add_sat(total, o->n_bytes);
        capacity = kvfi_min_u64(capacity, o->capacity);
        is_wanted |= o->capacity != 0;
    }
    *ret_is_wanted = is_wanted;
    if (!is_wanted || (total <= capacity && total < INT_MAX))
        return KVF_OK;
    if (text_cap)
        (void)snprintf(
            ret_text, text_cap, "the blobs have %llu bytes, the smallest capacity is %llu",
            (unsigned long long)total, (unsigned long long)kvfi_min_u64(capacity, INT_MAX - 1));
    return KVF_ENOSPC;
}

kvf_status_t kvfi_mpi_allgather(const void *bytes, size_t n_bytes, size_t *ret_sizes,
                                void *ret_bytes, size_t capacity, char *ret_text, size_t text_cap)
{
    struct offer mine = {.n_bytes = n_bytes, .capacity = capacity};
    bool is_wanted = false;
    int error = MPI_SUCCESS;
    kvf_status_t status;

    enter();
    status = check_attached(ret_text, text_cap);
    if (status < 0)
        goto out;
    error = MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, state.offers, sizeof(mine), MPI_BYTE,
                          state.world.comm);
    if (error == MPI_SUCCESS)
        status = lay_out(ret_sizes, &is_wanted, ret_text, text_cap);
    if (error == MPI_SUCCESS && status == KVF_OK && is_wanted)
        error = MPI_Allgatherv(bytes, (int)n_bytes, MPI_BYTE, ret_bytes, state.counts, state.places,
                               MPI_BYTE, state.world.comm);
    if (error != MPI_SUCCESS) {
        kvfi_mpi_error_text(error, "gathering blobs", ret_text, text_cap);
        status = KVF_EFABRIC;
    }
out:
    leave();
    return status;
}

/* ---- for the fabric ------------------------------------------------------------------------- */

kvf_status_t kvfi_mpi_world_ref(char *ret_text, size_t text_cap, struct kvfi_mpi_world *ret_world)
{
    kvf_status_t status = check_running(ret_text, text_cap);

    if (status < 0)
        return status;
    status = check_level(ret_text, text_cap);
    if (status < 0)
        return status;
    enter();
    status = check_attached(ret_text, text_cap);
    if (status == KVF_OK) {
        state.n_refs++;
        *ret_world = state.world;
    }
    leave();
    return status == KVF_ESTATE ? KVF_EUNSUPPORTED : status;
}

void kvfi_mpi_world_unref(uint32_t n_lost)
{
    enter();
    state.n_refs--;
    state.n_lost += n_lost;
    leave();
}

/* relaxed: only the number matters. Tags are not used again: an old message may still wait. */
kvf_status_t kvfi_mpi_world_tag(const struct kvfi_mpi_world *world, int *ret_tag)
{
    int tag = atomic_load_explicit(&state.next_tag, memory_order_relaxed);

    do {
        if (tag >= world->max_tag)
            return KVF_ENOSPC;
    } while (!atomic_compare_exchange_weak_explicit(&state.next_tag, &tag, tag + 1,
                                                    memory_order_relaxed, memory_order_relaxed));
    *ret_tag = tag + 1;
    return KVF_OK;
}
