/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small job in one process: engines of context and generation instances, wired together through
 * the function table as a runtime does it, with pools whose bytes are checked afterwards.
 */
#ifndef KVFERRY_TESTS_ENGINE_JOB_H
#define KVFERRY_TESTS_ENGINE_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "kvferry/kvferry.h"

#define JOB_RANKS_MAX 8
#define JOB_TIMEOUT_NS UINT64_C(20000000000) /* of every wait */

/* One side: tp ranks share `heads` heads, or replicate them if latent. */
struct job_side {
    const char *name;
    uint32_t tp;
    uint32_t dp; /* attention-DP groups of tp ranks each; 0 = 1 */
    uint32_t heads;
    uint32_t layers;
    uint32_t block_tokens;
    uint32_t n_blocks;
    uint32_t row_bytes;
    bool token_major;
    bool latent;
};

struct job_rank {
    struct kvf_engine *engine;
    struct kvf_pool *pool;
    struct kvf_pool_desc desc;
    uint8_t *memory;
    size_t n_bytes;
    uint32_t layers[64];
    void *base;
};

struct job_instance {
    struct job_side side;
    uint32_t n_ranks;
    struct job_rank ranks[JOB_RANKS_MAX];
    char handle[KVF_HANDLE_MAX];
};

/* Part of a request's cache on one rank, and for a receive where it comes from. */
struct job_part {
    uint32_t request;
    const uint32_t *blocks;
    uint64_t begin;
    uint64_t end;
    const char *source;
    uint32_t source_dp;
};

struct job {
    void *library;
    const struct kvferry_plugin_v1 *kvf;
    const char *fabric;
    const char *fabric_path;
    uint8_t key[KVF_JOB_KEY_BYTES];
    struct kvf_engine_config config; /* template; zero = defaults */
    uint64_t seed;                   /* of the pattern */
};

/* Loads the library as a host does; stays loaded. */
void job_open(struct job *job, const char *library_path, const char *fabric_path);

/* Creates the engines and pools of an instance and adds it to itself. */
void job_instance_start(const struct job *job, const struct job_side *side, uint32_t roles,
                        struct job_instance *ret_instance);
/* Makes `source` known to every rank of `sink` and connects. */
void job_connect(const struct job *job, struct job_instance *sink,
                 const struct job_instance *source);
void job_instance_stop(const struct job *job, struct job_instance *instance);

/* Writes (or compares) the pattern of tokens [begin, end) at the blocks given. */
void job_fill(const struct job *job, struct job_instance *instance, uint32_t rank, uint32_t request,
              const uint32_t *blocks, uint64_t begin, uint64_t end);
/* Bytes that differ. */
uint64_t job_wrong(const struct job *job, const struct job_instance *instance, uint32_t rank,
                   uint32_t request, const uint32_t *blocks, uint64_t begin, uint64_t end);

struct kvf_task *job_send(const struct job *job, struct job_instance *instance, uint32_t rank,
                          const struct job_part *part, const void *aux, size_t aux_bytes);
struct kvf_task *job_recv(const struct job *job, struct job_instance *instance, uint32_t rank,
                          const struct job_part *part, void *aux, size_t aux_capacity);
/* send() of tokens [0, n) of a request, recv() of [begin, end); blocks counted from 0. */
#define JOB_SEND(job, instance, rank, request, blocks, n, aux, aux_bytes)                          \
    job_send((job), (instance), (rank), &(struct job_part){(request), (blocks), 0, (n), NULL, 0},  \
             (aux), (aux_bytes))
#define JOB_RECV(job, instance, rank, source, dp, request, blocks, begin, end, aux, capacity)      \
    job_recv((job), (instance), (rank),                                                            \
             &(struct job_part){(request), (blocks), (begin), (end), (source), (dp)}, (aux),       \
             (capacity))
/* Waits for the end and releases; the status. The result is copied if wanted. */
kvf_status_t job_end(const struct job *job, struct kvf_task *task, struct kvf_result *ret_result);

#endif
