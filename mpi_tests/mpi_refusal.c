/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: mpi_refusal LIBRARY alone|mixed
 * alone: what the library says before MPI_Init, with too low a thread level, and after MPI_Finalize.
 * mixed: two ranks, of which only rank 0 has MPI_THREAD_MULTIPLE: both are refused, neither hangs.
 * Exits 77 where MPI gives a higher level than was asked for.
 */
#include <stdbool.h>

#include "collectives/fabric.h"
#include "mpi_check.h"

static const struct kvferry_mpi_v1 *mpi;
static char text[256];

static bool says(const char *a, const char *b)
{
    return strstr(text, a) && strstr(text, b);
}

static kvf_status_t create(void)
{
    struct kvfi_fabric_config config = {.size = sizeof(config)};
    struct kvfi_fabric *fabric = NULL;
    kvf_status_t status = mpi->fabric()->create(&config, text, sizeof(text), &fabric);

    MPI_CHECK(status < 0 || fabric);
    if (status == KVF_OK)
        mpi->fabric()->destroy(fabric);
    return status;
}

static kvf_status_t attach(void)
{
    text[0] = 0;
    return mpi->attach(NULL, text, sizeof(text));
}

static void check_not_attached(void)
{
    uint32_t rank = 7;
    uint32_t n_ranks = 7;
    size_t sizes[2];
    uint8_t key[KVF_JOB_KEY_BYTES];

    MPI_CHECK(mpi->place(&rank, &n_ranks) == KVF_ESTATE && rank == 7 && n_ranks == 7);
    MPI_CHECK(mpi->job_key(key, text, sizeof(text)) == KVF_ESTATE);
    MPI_CHECK(says("attach", "not called"));
    MPI_CHECK(mpi->allgather(NULL, 0, sizes, NULL, 0, NULL, 0) == KVF_ESTATE);
    MPI_CHECK(mpi->detach(NULL, 0) == KVF_ESTATE);
}

static int alone(void)
{
    int level;

    MPI_CHECK(attach() == KVF_EUNSUPPORTED && says("not initialised", "MPI_THREAD_MULTIPLE"));
    MPI_CHECK(create() == KVF_EUNSUPPORTED && says("not initialised", ""));
    check_not_attached();
    MPI_CHECK(MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level) == MPI_SUCCESS);
    if (level != MPI_THREAD_SERIALIZED) {
        (void)MPI_Finalize();
        return 77;
    }
    MPI_CHECK(attach() == KVF_EUNSUPPORTED);
    MPI_CHECK(says("MPI_THREAD_SERIALIZED", "MPI_THREAD_MULTIPLE"));
    text[0] = 0;
    MPI_CHECK(create() == KVF_EUNSUPPORTED);
    MPI_CHECK(says("MPI_THREAD_SERIALIZED", "MPI_THREAD_MULTIPLE"));
    check_not_attached();
    MPI_CHECK(MPI_Finalize() == MPI_SUCCESS);
    MPI_CHECK(attach() == KVF_EUNSUPPORTED && says("finalised already", ""));
    text[0] = 0;
    MPI_CHECK(create() == KVF_EUNSUPPORTED && says("finalised already", ""));
    return 0;
}

static int mixed(const char *rank_text)
{
    bool is_first = rank_text && rank_text[0] == '0';
    int wanted = is_first ? MPI_THREAD_MULTIPLE : MPI_THREAD_SERIALIZED;
    int level;

    MPI_CHECK(MPI_Init_thread(NULL, NULL, wanted, &level) == MPI_SUCCESS);
    if (level != wanted)
        (void)MPI_Abort(MPI_COMM_WORLD, 77);
    MPI_CHECK(attach() == KVF_EUNSUPPORTED);
    MPI_CHECK(is_first ? says("another rank", "MPI_THREAD_MULTIPLE")
                       : says("MPI_THREAD_SERIALIZED", "MPI_THREAD_MULTIPLE"));
    text[0] = 0;
    MPI_CHECK(create() == KVF_EUNSUPPORTED && says(is_first ? "attach" : "MULTIPLE", ""));
    check_not_attached();
    MPI_CHECK(MPI_Finalize() == MPI_SUCCESS);
    return 0;
}

int main(int argc, char **argv)
{
    MPI_CHECK(argc == 3);
    mpi = mpi_check_load(argv[1]);
    if (strcmp(argv[2], "alone") == 0)
        return alone();
    /* The rank decides what is asked of MPI_Init_thread, so it must be known before. */
    return mixed(getenv("OMPI_COMM_WORLD_RANK"));
}
