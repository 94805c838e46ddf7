/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One rank of a disaggregated job under mpirun: its place, pools and engine, and the image its
 * memory must have at the end. What a rank holds is computed here from the topology alone, row by
 * row; nothing of the library's plan is used.
 */
#ifndef KVFERRY_MPI_TESTS_TRANSFER_JOB_H
#define KVFERRY_MPI_TESTS_TRANSFER_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "collectives/mpi/kvferry_mpi.h"
#include "kvferry/kvferry.h"

#define TASK_TIMEOUT_NS UINT64_C(60000000000) /* of every task and connect */

/* One side of a case. Ranks of an instance are numbered pp outermost, then dp, then tp. */
struct side {
    const char *name; /* instances are name0, name1, … */
    uint32_t n_instances;
    uint32_t tp;
    uint32_t pp;
    uint32_t dp;
    uint32_t block_tokens;
    bool token_major;
};

struct transfer_case {
    const char *name;
    struct side context;
    struct side generation;
    uint32_t heads; /* 1 and latent: MLA */
    bool latent;
    uint32_t layers;
    uint32_t row_bytes;
    uint32_t n_requests;
    uint32_t max_tokens; /* lengths are mixed, up to this */
    uint32_t n_lanes;
    uint32_t slot_bytes;
    bool prefixes; /* some receives begin in the middle */
};

struct rank_job {
    const struct transfer_case *c;
    const struct side *side;
    const struct kvferry_plugin_v1 *kvf;
    uint32_t world_rank;
    uint32_t instance; /* number of it on its side */
    uint32_t rank;     /* in the instance */
    uint32_t dp_group;
    uint32_t first_layer;
    uint32_t n_layers;
    uint32_t first_head;
    uint32_t n_heads;
    uint32_t blocks_per_request;
    struct kvf_engine *engine;
    struct kvf_pool *pool;
    struct kvf_pool_desc desc;
    void *base;
    uint32_t layer_ids[64];
    uint8_t *memory;
    uint8_t *image; /* what memory must be at the end */
    size_t n_bytes;
};

uint32_t side_ranks(const struct side *side); /* of all its instances */

/* Place, pool memory, engine; the instance wired to itself; generation ranks connect. Collective. */
void rank_job_start(struct rank_job *job, const struct transfer_case *c,
                    const struct kvferry_plugin_v1 *kvf, const struct kvferry_mpi_v1 *mpi);
void rank_job_stop(struct rank_job *job);

/* Whether this rank takes part in a request, and the parts of the request both sides know. */
bool in_request(const struct rank_job *job, uint32_t request);
uint32_t request_tokens(const struct transfer_case *c, uint32_t request);
uint32_t request_begin(const struct transfer_case *c, uint32_t request);
uint32_t request_source(const struct transfer_case *c, uint32_t request); /* instance */
uint32_t request_source_dp(const struct transfer_case *c, uint32_t request);
uint32_t request_aux_bytes(uint32_t request);
uint8_t request_aux_byte(uint32_t request, uint32_t i);

/* Starts this rank's part. */
struct kvf_task *request_send(struct rank_job *job, uint32_t request);
struct kvf_task *request_recv(struct rank_job *job, uint32_t request, uint8_t *aux,
                              uint32_t aux_capacity);

/* Bytes of the pool that are not what they must be. */
uint64_t rank_job_wrong(const struct rank_job *job);

#endif
