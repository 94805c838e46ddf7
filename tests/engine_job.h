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

struct job {
    const struct kvferry_plugin_v1 *kvf;
    const char *fabric;
    const char *fabric_path;
    uint8_t key[KVF_JOB_KEY_BYTES];
    struct kvf_engine_config config; /* template; zero = defaults */
    uint64_t seed;                   /* of the pattern */
};

/* Creates the engines and pools of an instance and adds it to itself. */
void job_instance_start(const struct job *job, const struct job_side *side, uint32_t roles,
                        struct job_instance *ret_instance);
/* Makes `source` known to every rank of `sink` and connects. */
void job_connect(const struct job *job, struct job_instance *sink,
                 const struct job_instance *source);
void job_instance_stop(const struct job *job, struct job_instance *instance);

/* Byte at a place of a request's cache; what every check compares with. */
uint8_t job_byte(const struct job *job, uint32_t request, uint32_t layer, uint32_t kv,
                 uint32_t head, uint64_t token, uint32_t byte);

/* Writes (or compares) the pattern of tokens [begin, end) at the blocks given. */
void job_fill(const struct job *job, struct job_instance *instance, uint32_t rank, uint32_t request,
              const uint32_t *blocks, uint64_t begin, uint64_t end);
/* Bytes that differ. */
uint64_t job_wrong(const struct job *job, const struct job_instance *instance, uint32_t rank,
                   uint32_t request, const uint32_t *blocks, uint64_t begin, uint64_t end);

/* send() and recv() of tokens [begin, end) of a request, blocks counted from 0. */
struct kvf_task *job_send(const struct job *job, struct job_instance *instance, uint32_t rank,
                          uint32_t request, const uint32_t *blocks, uint64_t n_tokens,
                          const void *aux, size_t aux_bytes);
struct kvf_task *job_recv(const struct job *job, struct job_instance *instance, uint32_t rank,
                          const char *source, uint32_t source_dp, uint32_t request,
                          const uint32_t *blocks, uint64_t begin, uint64_t end, void *aux,
                          size_t aux_capacity);
/* Waits for the end and releases; the status. The result is copied if wanted. */
kvf_status_t job_end(const struct job *job, struct kvf_task *task, struct kvf_result *ret_result);

#endif
