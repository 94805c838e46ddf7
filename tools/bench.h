/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvferry bench`: a disaggregated job over an MPI world. Ranks 0 .. C-1 are the context instances'
 * ranks, the others the generation instances'. Every rank knows the whole list of requests and who
 * takes part in which, so nothing is negotiated while it runs but "the blocks of request i are
 * filled".
 *
 * The parts: bench_options.c (command line), bench_job.c (requests, who does what, memory),
 * bench_engine.c (engines and instances), bench_data.c (filling and checking), bench_run.c (one
 * run), bench_naive.c (the baseline), bench_result.c (figures), bench.c (the command).
 */
#ifndef KVFERRY_TOOLS_BENCH_H
#define KVFERRY_TOOLS_BENCH_H

#include <jansson.h>
#include <stdio.h>

#include "collectives/mpi/kvferry_mpi.h"
#include "kvferry/kvferry.h"
#include "tools/blocks.h"
#include "tools/error.h"
#include "tools/model.h"
#include "tools/shape.h"
#include "tools/topology.h"
#include "tools/world.h"

#define BENCH_LANES_MAX 4u   /* values of --compare-lanes */
#define BENCH_TOKENS_MAX 32u /* values of --tokens */
#define BENCH_INSTANCES_MAX TOPOLOGY_INSTANCES_MAX
#define BENCH_PRINTED_ERRORS 5u

/* How requests are started. */
enum bench_pace {
    BENCH_PACE_WINDOW, /* each rank keeps `concurrency` requests going */
    BENCH_PACE_ROUNDS, /* all fill, then all move, then all check: nothing beside the transfers */
    BENCH_PACE_TRACE,  /* like WINDOW, none before its arrival time */
};

struct bench_options {
    const char *context_text;
    const char *generation_text;
    const char *model_text;
    const char *tokens_text;
    const char *lanes_text; /* --compare-lanes */
    const char *layout_text;
    const char *block_tokens_text;
    const char *baseline_text;
    const char *pace_text;
    const char *trace_path;
    const char *json_path;
    const char *library_path;
    const char *fabric;
    const char *speed_text;
    uint64_t n_layers; /* 0: all */
    uint64_t n_requests;
    uint64_t max_tokens; /* 0: no cut */
    uint64_t concurrency;
    uint64_t n_lanes; /* 0: the engine's default */
    uint64_t slot_bytes;
    uint64_t repeat;
    uint64_t prefix_tokens;
    uint64_t run_bytes; /* 0: block_tokens as given */
    uint64_t timeout_s;
    uint64_t seed;
    uint64_t aux_bytes;
    uint64_t links_per_peer;
    uint64_t log_level;
    bool is_quiet;
    bool is_receive_first;

    /* Made from the texts. */
    struct topology context;
    struct topology generation;
    struct model model;
    uint32_t tokens[BENCH_TOKENS_MAX]; /* requests take them in turn */
    uint32_t n_tokens;
    uint32_t lanes[BENCH_LANES_MAX];
    uint32_t n_lanes_compared;
    struct shape_options side[2]; /* context, generation */
    enum bench_pace pace;
    double speed; /* of a trace's clock */
    bool with_naive;
    bool is_naive_only;
};

struct bench_request {
    uint64_t arrival_ns;
    uint32_t n_tokens;
    uint32_t context; /* instance */
    uint32_t context_dp;
    uint32_t generation;
    uint32_t generation_dp;
};

/* This rank's part in the job, the same for every variant and run. */
struct bench_job {
    struct bench_options options;
    struct world *world;
    const struct kvferry_plugin_v1 *kvf;
    const struct kvferry_mpi_v1 *mpi;
    char library_path[256];
    char mpi_path[256];
    uint32_t n_requests;
    struct bench_request *requests; /* [n_requests], owned */
    bool is_context;
    uint32_t instance;
    struct shape shape;
    struct blocks blocks[MODEL_GROUPS_MAX]; /* by pool of the shape */
    uint32_t n_mine;
    uint32_t *mine;          /* [n_mine] requests this rank has a part in, rising; owned */
    uint32_t n_slots;        /* requests this rank works on at once */
    uint32_t max_blocks;     /* of one request in one pool */
    uint64_t bytes_expected; /* this rank's, one run */
    uint64_t guard_key;
    uint32_t n_runs; /* begun so far; makes each run's bytes different */
    uint32_t n_printed;
    uint64_t loopback_ns;       /* a TCP round trip on rank 0's machine */
    uint64_t resident_bytes[2]; /* of the largest rank, after the first run and after the last */
};

/* Figures of one run on one rank, summed over the ranks. */
enum bench_sum {
    BENCH_VERIFIED_BYTES,
    BENCH_WRONG_BYTES,
    BENCH_EXPECTED_BYTES,
    BENCH_SENT_BYTES,
    BENCH_FILLER_BYTES,
    BENCH_RECEIVES, /* ended well */
    BENCH_HANDSHAKE_NS,
    BENCH_QUEUE_NS,
    BENCH_WIRE_NS,
    BENCH_UNPACK_NS,
    BENCH_PACK_NS,        /* the engines' own counters, from here */
    BENCH_LANE_WIRE_NS,   /* launch to wire done, summed over batches */
    BENCH_LANE_UNPACK_NS, /* lane time */
    BENCH_SUMS,
};

/* A rank's figures of one run. */
struct bench_tally {
    uint64_t sums[BENCH_SUMS];
    uint64_t busy_ns;      /* while a receive was in flight */
    uint64_t *transfer_ns; /* [n_requests] 0: no part in it; UINT64_MAX: failed */
};

/* An engine with its instances. */
struct bench_engine {
    const struct kvferry_plugin_v1 *kvf;
    struct kvf_engine *engine;
    char name[KVF_NAME_MAX]; /* own instance */
    char suffix[16];         /* of all instances' names of this variant */
    uint32_t n_lanes;
};

/* What is measured: an engine of some lane count, or the baseline. */
struct bench_variant {
    char name[32];
    bool is_naive;
    struct bench_engine engine;
    uint64_t *samples_ns; /* [repeat * n_requests] of all runs; owned */
    size_t n_samples;
    double *gbs; /* [repeat] delivered GB/s of each run; owned */
    uint32_t n_runs;
    uint64_t n_failed;
    uint64_t wall_ns;
    uint64_t busy_ns; /* sum over the runs of the longest of a rank */
    uint64_t sums[BENCH_SUMS];
};

/* A request in work on this rank. */
struct bench_slot {
    bool is_busy;
    bool has_ended;
    uint32_t request;
    uint64_t started_ns;
    struct kvf_task *task;
    uint32_t *blocks[MODEL_GROUPS_MAX]; /* by pool; [max_blocks], owned */
    struct shape_blocks span[MODEL_GROUPS_MAX];
    unsigned char *aux; /* [aux_bytes], owned */
};

/* -- bench_options.c -- */

bool bench_options_parse(int argc, char **argv, bool is_silent, struct bench_options *ret);
bool bench_options_check(struct bench_options *o, struct tool_error *error);

/* -- bench_job.c -- */

/* Collective: true if ok on all ranks; else the first rank that is not says why on stderr. */
bool bench_agree(struct world *world, bool ok, const struct tool_error *error);
/* Collective. Requests, this rank's place, memory: said, checked, taken. */
bool bench_job_open(struct bench_job *job, uint32_t n_engines);
void bench_job_close(struct bench_job *job);
/* Tokens of a group a request is about: what a source holds, or what a receiver wants. */
struct kvf_token_range bench_range(const struct bench_options *o, uint32_t group, uint32_t n_tokens,
                                   bool is_wanted);
/* First world rank of an instance. */
uint32_t bench_first_rank(const struct bench_options *o, bool is_context, uint32_t instance);
/* World ranks that hold (or want) a request: calls `each` for them, rising. */
typedef void (*bench_rank_fn)(void *ctx, uint32_t world_rank);
void bench_each_rank(const struct bench_options *o, const struct bench_request *request,
                     bool is_context, bench_rank_fn each, void *ctx);
/* One line on stderr, the first few of a rank only. */
void bench_complain(struct bench_job *job, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* -- bench_engine.c -- */

void bench_engine_config(const struct bench_job *job, uint32_t n_lanes,
                         struct kvf_engine_config *ret_config);
/* Collective. bench_engine_close in any case. */
bool bench_engine_open(struct bench_job *job, uint32_t variant, uint32_t n_lanes,
                       struct bench_engine *ret_engine);
void bench_engine_close(struct bench_engine *engine);
/* Name of an instance in this variant. */
void bench_instance_name(const struct bench_engine *engine, bool is_context, uint32_t instance,
                         char *name);

/* -- bench_data.c -- */

/* Blocks for a request: false if too few are free. */
bool bench_slot_take(struct bench_job *job, struct bench_slot *slot, uint32_t request);
void bench_slot_give(struct bench_job *job, struct bench_slot *slot);
/* Context: the pattern. Generation: guards around the wanted rows. */
void bench_slot_fill(struct bench_job *job, const struct bench_slot *slot, uint64_t run);
/* Generation: counts into *tally, complains of what is wrong. */
void bench_slot_verify(struct bench_job *job, const struct bench_slot *slot, uint64_t run,
                       struct bench_tally *tally);
void bench_guards_fill(struct bench_job *job);
void bench_guards_verify(struct bench_job *job, struct bench_tally *tally);
/* The aux payload of a request. */
void bench_aux_fill(const struct bench_job *job, uint32_t request, uint64_t run,
                    unsigned char *aux);

/* -- bench_run.c, bench_naive.c -- */

/* One run of all requests. Collective. */
void bench_run(struct bench_job *job, struct bench_variant *variant, struct bench_tally *tally);
/* Move the requests of the slots in the straightforward way. */
void bench_naive_move(struct bench_job *job, struct bench_slot *slots, struct bench_tally *tally);

/* -- bench_result.c -- */

bool bench_variant_init(const struct bench_job *job, struct bench_variant *variant,
                        struct tool_error *error);
void bench_variant_fini(struct bench_variant *variant);
/* Collective: adds a run's figures, which become the job's. */
void bench_variant_add(struct bench_job *job, struct bench_variant *variant,
                       struct bench_tally *tally, uint64_t wall_ns);

struct bench_times {
    double mean, p50, p90, p95, p99, max; /* ms; 0 without samples */
};
/* Sorts the samples. */
struct bench_times bench_times_of(uint64_t *samples_ns, size_t n);
double bench_median(const double *values, uint32_t n);
/* Bytes of all requests, each once. */
uint64_t bench_unique_bytes(const struct bench_job *job);
/* Whether everything a variant was asked for is verified. */
bool bench_variant_ok(const struct bench_variant *variant);
/* Mean ms a receive spent in a stage, over the ranks and requests. */
double bench_stage_ms(const struct bench_variant *variant, enum bench_sum stage);

/* -- report_text.c, json_out.c -- */

void report_text(const struct bench_job *job, struct bench_variant *variants, uint32_t n);
json_t *json_of_bench(const struct bench_job *job, struct bench_variant *variants, uint32_t n);
/* Writes and frees `root`. */
bool json_write(json_t *root, const char *path, struct tool_error *error);

#endif
