/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mpi fabric. A link is a tag that the receiver chose, unique among all links of its process:
 * MPI matches by (source, tag), so links never see each other's messages, and no link ever sees one
 * that was meant for a link before it.
 */
#include <assert.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "collectives/fabric.h"
#include "collectives/mpi/kvferry_mpi.h"
#include "collectives/mpi/regions.h"
#include "collectives/mpi/world.h"
#include "collectives/util.h"

#define SLOT_BYTES ((size_t)1024 * 1024) /* where mpi_tests/bench_fabric.c is fastest */
#define MAX_SLOT_BYTES ((size_t)1024 * 1024 * 1024)
#define ABANDON_NS 1000000u /* how long op_abandon waits for MPI to let go */

enum { VERSION_BYTES = 128, ADDRESS_BYTES = 12, ANSWER_BYTES = 4, TEXT_BYTES = 320 };

enum op_kind { OP_COPY = 1, OP_SEND = 2, OP_RECV = 3 };

/* struct kvfi_fabric_op as this fabric uses it. */
struct mpi_op {
    MPI_Request request;
    uint32_t kind; /* enum op_kind */
    uint32_t n_bytes;
};

static_assert(sizeof(struct mpi_op) <= sizeof(struct kvfi_fabric_op), "an operation fits");
static_assert(MAX_SLOT_BYTES <= INT_MAX, "MPI counts in int");

struct kvfi_fabric {
    struct kvfi_mpi_world world;
    struct kvfi_log log;
    struct kvfi_mpi_regions regions;
    atomic_uint n_lost; /* operations that were given up and may not be over */
    char version[VERSION_BYTES];
};

struct kvfi_fabric_lane {
    struct kvfi_fabric *fabric;
};

struct kvfi_fabric_link {
    struct kvfi_fabric *fabric;
    int peer;
    int tag; /* 0: not complete */
};

static void put_le(uint8_t *bytes, uint64_t value, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_le(const uint8_t *bytes, unsigned n)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* relaxed: counts. Read when the lanes have been joined. */
static void count_lost(struct kvfi_fabric *f)
{
    atomic_fetch_add_explicit(&f->n_lost, 1, memory_order_relaxed);
}

static uint32_t n_lost(struct kvfi_fabric *f)
{
    return atomic_load_explicit(&f->n_lost, memory_order_relaxed);
}

/* Logs MPI's own words. */
static kvf_status_t mpi_failed(struct kvfi_fabric *f, int error, const char *what)
{
    char text[TEXT_BYTES];

    kvfi_mpi_error_text(error, what, text, sizeof(text));
    kvfi_log(&f->log, KVF_LOG_ERROR, "mpi", "%s", text);
    return KVF_EFABRIC;
}

/* ---- fabric -------------------------------------------------------------------------------- */

/* Ranks of another MPI job would be found by their numbers, so the job is part of the version. */
static void write_version(struct kvfi_fabric *f)
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;

    (void)MPI_Get_library_version(library, &n);
    library[strcspn(library, ",\n")] = 0;
    (void)snprintf(f->version, sizeof(f->version), "%.64s, job %016llx", library,
                   (unsigned long long)f->world.id);
}

static kvf_status_t mpi_create(const struct kvfi_fabric_config *config, char *ret_text,
                               size_t text_cap, struct kvfi_fabric **ret_fabric)
{
    struct kvfi_fabric *f = kvfi_calloc(1, sizeof(*f));
    kvf_status_t status = KVF_ENOMEM;

    if (!f)
        return KVF_ENOMEM;
    status = kvfi_mpi_world_ref(ret_text, text_cap, &f->world);
    if (status < 0)
        goto free_fabric;
    status = kvfi_mpi_regions_init(&f->regions);
    if (status < 0)
        goto unref_world;
    f->log = config->log;
    write_version(f);
    *ret_fabric = f;
    return KVF_OK;
unref_world:
    kvfi_mpi_world_unref(0);
free_fabric:
    kvfi_free(f);
    return status;
}

static void mpi_destroy(struct kvfi_fabric *f)
{
    if (!f)
        return;
    kvfi_mpi_world_unref(n_lost(f));
    kvfi_mpi_regions_fini(&f->regions);
    kvfi_free(f);
}

static void mpi_address(struct kvfi_fabric *f, struct kvfi_fabric_address *ret_address)
{
    ret_address->n_bytes = ADDRESS_BYTES;
    put_le(ret_address->bytes, f->world.id, 8);
    put_le(ret_address->bytes + 8, (uint32_t)f->world.rank, 4);
}

static const char *mpi_version(struct kvfi_fabric *f)
{
    return f->version;
}

static kvf_status_t mpi_slot_alloc(struct kvfi_fabric *f, size_t n_bytes, void **ret_memory)
{
    if (n_bytes > MAX_SLOT_BYTES)
        return KVF_EINVAL;
    return kvfi_mpi_regions_alloc(&f->regions, n_bytes, ret_memory);
}

static void mpi_slot_free(struct kvfi_fabric *f, void *memory)
{
    kvfi_mpi_regions_free(&f->regions, memory);
}

static kvf_status_t mpi_lane_open(struct kvfi_fabric *f, uint32_t lane,
                                  struct kvfi_fabric_lane **ret_lane)
{
    struct kvfi_fabric_lane *l = kvfi_calloc(1, sizeof(*l));

    (void)lane;
    if (!l)
        return KVF_ENOMEM;
    l->fabric = f;
    *ret_lane = l;
    return KVF_OK;
}

static void mpi_lane_close(struct kvfi_fabric_lane *lane)
{
    kvfi_free(lane);
}

/* ---- links --------------------------------------------------------------------------------- */

static kvf_status_t new_link(struct kvfi_fabric *f, const struct kvfi_fabric_address *peer,
                             struct kvfi_fabric_link **ret_link)
{
    struct kvfi_fabric_link *link;
    uint64_t rank;

    if (peer->n_bytes != ADDRESS_BYTES)
        return KVF_EPROTO;
    if (get_le(peer->bytes, 8) != f->world.id) {
        kvfi_log(&f->log, KVF_LOG_ERROR, "mpi", "peer is in MPI job %016llx, this rank in %016llx",
                 (unsigned long long)get_le(peer->bytes, 8), (unsigned long long)f->world.id);
        return KVF_EMISMATCH;
    }
    rank = get_le(peer->bytes + 8, 4);
    if (rank >= (uint64_t)f->world.n_ranks)
        return KVF_EPROTO;
    link = kvfi_calloc(1, sizeof(*link));
    if (!link)
        return KVF_ENOMEM;
    link->fabric = f;
    link->peer = (int)rank;
    *ret_link = link;
    return KVF_OK;
}

/* The sender has nothing to say: its rank is its address, and the tag is the receiver's choice. */
static kvf_status_t mpi_link_offer(struct kvfi_fabric *f, const struct kvfi_fabric_address *peer,
                                   struct kvfi_fabric_address *ret_offer,
                                   struct kvfi_fabric_link **ret_link)
{
    kvf_status_t status = new_link(f, peer, ret_link);

    if (status == KVF_OK)
        ret_offer->n_bytes = 0;
    return status;
}

static kvf_status_t mpi_link_accept(struct kvfi_fabric *f, const struct kvfi_fabric_address *peer,
                                    const struct kvfi_fabric_address *offer,
                                    struct kvfi_fabric_address *ret_answer,
                                    struct kvfi_fabric_link **ret_link)
{
    struct kvfi_fabric_link *link;
    kvf_status_t status;

    if (offer->n_bytes != 0)
        return KVF_EPROTO;
    status = new_link(f, peer, &link);
    if (status < 0)
        return status;
    status = kvfi_mpi_world_tag(&f->world, &link->tag);
    if (status < 0) {
        kvfi_log(&f->log, KVF_LOG_ERROR, "mpi", "all %d tags of this MPI were used for links",
                 f->world.max_tag);
        kvfi_free(link);
        return status;
    }
    ret_answer->n_bytes = ANSWER_BYTES;
    put_le(ret_answer->bytes, (uint32_t)link->tag, ANSWER_BYTES);
    *ret_link = link;
    return KVF_OK;
}

static kvf_status_t mpi_link_complete(struct kvfi_fabric_link *link,
                                      const struct kvfi_fabric_address *answer)
{
    uint64_t tag;

    if (answer->n_bytes != ANSWER_BYTES)
        return KVF_EPROTO;
    tag = get_le(answer->bytes, ANSWER_BYTES);
    if (tag == 0 || tag > (uint64_t)link->fabric->world.max_tag)
        return KVF_EPROTO;
    link->tag = (int)tag;
    return KVF_OK;
}

static void mpi_link_close(struct kvfi_fabric_link *link)
{
    kvfi_free(link);
}

/* ---- operations ---------------------------------------------------------------------------- */

static void put_op(struct kvfi_fabric_op *op, const struct mpi_op *o)
{
    memcpy(op, o, sizeof(*o));
}

static struct mpi_op get_op(const struct kvfi_fabric_op *op)
{
    struct mpi_op o;

    memcpy(&o, op, sizeof(o));
    return o;
}

static kvf_status_t mpi_copy(struct kvfi_fabric_lane *lane, const struct kvfi_copy_job *jobs,
                             size_t n, struct kvfi_fabric_op *op)
{
    (void)lane;
    kvfi_copy_host(jobs, n);
    put_op(op, &(struct mpi_op){.request = MPI_REQUEST_NULL, .kind = OP_COPY});
    return KVF_OK;
}

static kvf_status_t mpi_send(struct kvfi_fabric_lane *lane, struct kvfi_fabric_link *link,
                             const void *memory, size_t n_bytes, struct kvfi_fabric_op *op)
{
    struct mpi_op o = {.kind = OP_SEND, .n_bytes = (uint32_t)n_bytes};
    int error;

    if (link->tag == 0)
        return KVF_ESTATE;
    if (n_bytes > MAX_SLOT_BYTES)
        return KVF_EINVAL;
    error = MPI_Isend(memory, (int)n_bytes, MPI_BYTE, link->peer, link->tag,
                      lane->fabric->world.comm, &o.request);
    if (error != MPI_SUCCESS)
        return mpi_failed(lane->fabric, error, "MPI_Isend");
    put_op(op, &o);
    return KVF_OK;
}

static kvf_status_t mpi_recv(struct kvfi_fabric_lane *lane, struct kvfi_fabric_link *link,
                             void *memory, size_t n_bytes, struct kvfi_fabric_op *op)
{
    struct mpi_op o = {.kind = OP_RECV, .n_bytes = (uint32_t)n_bytes};
    int error;

    if (link->tag == 0)
        return KVF_ESTATE;
    if (n_bytes > MAX_SLOT_BYTES)
        return KVF_EINVAL;
    error = MPI_Irecv(memory, (int)n_bytes, MPI_BYTE, link->peer, link->tag,
                      lane->fabric->world.comm, &o.request);
    if (error != MPI_SUCCESS)
        return mpi_failed(lane->fabric, error, "MPI_Irecv");
    put_op(op, &o);
    return KVF_OK;
}

/* A longer message is MPI's error, a shorter one ours. */
static kvf_status_t check_received(struct kvfi_fabric *f, const struct mpi_op *o,
                                   const MPI_Status *status)
{
    int n_bytes = 0;
    int error = MPI_Get_count(status, MPI_BYTE, &n_bytes);

    if (error != MPI_SUCCESS)
        return mpi_failed(f, error, "MPI_Get_count");
    if ((uint32_t)n_bytes == o->n_bytes)
        return KVF_OK;
    kvfi_log(&f->log, KVF_LOG_ERROR, "mpi", "rank %d sent %d bytes where %u were agreed",
             status->MPI_SOURCE, n_bytes, o->n_bytes);
    return KVF_EFABRIC;
}

static kvf_status_t mpi_test(struct kvfi_fabric_lane *lane, struct kvfi_fabric_op *op)
{
    struct mpi_op o = get_op(op);
    MPI_Status status;
    int is_over = 0;
    int error;

    if (o.kind == OP_COPY)
        return KVF_OK;
    error = MPI_Test(&o.request, &is_over, &status);
    if (error != MPI_SUCCESS)
        return mpi_failed(lane->fabric, error, o.kind == OP_SEND ? "send" : "receive");
    if (!is_over)
        return KVF_IN_PROGRESS;
    return o.kind == OP_SEND ? KVF_OK : check_received(lane->fabric, &o, &status);
}

/*
 * A receive that no message met can be cancelled. A send cannot (Open MPI does not), and neither
 * can a receive in the middle of its message: if it does not end at once, it never may.
 */
static kvf_status_t mpi_op_abandon(struct kvfi_fabric_lane *lane, struct kvfi_fabric_op *op)
{
    struct mpi_op o = get_op(op);
    uint64_t until_ns = kvfi_now_ns() + ABANDON_NS;
    int is_over = 0;

    if (o.kind == OP_COPY)
        return KVF_OK;
    if (o.kind == OP_RECV)
        (void)MPI_Cancel(&o.request);
    do {
        if (MPI_Test(&o.request, &is_over, MPI_STATUS_IGNORE) != MPI_SUCCESS || is_over)
            return KVF_OK;
    } while (kvfi_now_ns() < until_ns);
    (void)MPI_Request_free(&o.request);
    count_lost(lane->fabric);
    kvfi_log(&lane->fabric->log, KVF_LOG_WARN, "mpi",
             "a %s could not be cancelled; its slot is left to it",
             o.kind == OP_SEND ? "send" : "receive");
    return KVF_EBUSY;
}

static const struct kvfi_fabric_ops *fabric(void)
{
    static const struct kvfi_fabric_ops ops = {
        .size = sizeof(ops),
        .contract = KVFI_FABRIC_CONTRACT,
        .memory = KVF_MEMORY_HOST,
        .name = "mpi",
        .slot_bytes = SLOT_BYTES,
        .max_slot_bytes = MAX_SLOT_BYTES,
        .max_groups = 0,
        .create = mpi_create,
        .destroy = mpi_destroy,
        .address = mpi_address,
        .version = mpi_version,
        .slot_alloc = mpi_slot_alloc,
        .slot_free = mpi_slot_free,
        .lane_open = mpi_lane_open,
        .lane_close = mpi_lane_close,
        .link_offer = mpi_link_offer,
        .link_accept = mpi_link_accept,
        .link_complete = mpi_link_complete,
        .link_close = mpi_link_close,
        .copy = mpi_copy,
        .send = mpi_send,
        .recv = mpi_recv,
        .test = mpi_test,
        .op_abandon = mpi_op_abandon,
    };

    return &ops;
}

const struct kvferry_mpi_v1 kvferry_mpi_v1 = {
    .size = sizeof(kvferry_mpi_v1),
    .name = "kvferry-mpi",
    .version = KVFI_VERSION,
    .attach = kvfi_mpi_attach,
    .detach = kvfi_mpi_detach,
    .place = kvfi_mpi_place,
    .job_key = kvfi_mpi_job_key,
    .allgather = kvfi_mpi_allgather,
    .fabric = fabric,
};
