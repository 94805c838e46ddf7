/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvferry: moves the KV cache of large-language-model requests from context
 * (prefill) ranks to generation (decode) ranks.
 *
 * A host finds everything through one symbol, the table `kvferry_plugin_v1`:
 *
 *     void *lib = dlopen("libkvferry.so", RTLD_NOW | RTLD_LOCAL);
 *     const struct kvferry_plugin_v1 *kvf = dlsym(lib, "kvferry_plugin_v1");
 *
 * Conventions, valid for every declaration below unless it says otherwise:
 *
 *   sizes     a struct that crosses the ABI begins with `size`, set by the
 *             caller to the sizeof it was compiled with. Structs grow only at
 *             their end; the library reads and writes no further than `size`.
 *             In arrays the stride is the first element's `size`.
 *   zero      a zero member of a configuration means "the default".
 *   tokens    positions in the request's sequence, counted from 0, before any
 *             split over context-parallel ranks.
 *   times     durations are nanoseconds; points in time are nanoseconds of
 *             CLOCK_MONOTONIC of this process and are never sent to a peer.
 *   pointers  arguments are borrowed until return and copied where needed;
 *             pool memory, aux buffers and fence events say for how long.
 *   threads   every function may be called from any thread, also at the same
 *             time on one engine. Two calls naming the same handle must not
 *             race with the call that ends the handle.
 *   errors    on error `ret_` parameters are untouched and `error_text` has a
 *             sentence that names the field and both values.
 *   fork      in a child of fork() every call returns KVF_EFORK.
 */
#ifndef KVFERRY_KVFERRY_H
#define KVFERRY_KVFERRY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVF_API __attribute__((visibility("default")))
#else
#define KVF_API
#endif

#define KVF_ABI_VERSION 1u

/** Status codes: X(name, value, text). 0 success, > 0 not an error, < 0 error. Append only. */
#define KVF_STATUS_MAP(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(IN_PROGRESS, 1, "operation still in progress")                                               \
    X(EINVAL, -1, "invalid argument")                                                              \
    X(ENOMEM, -2, "out of memory")                                                                 \
    X(ETIMEDOUT, -3, "deadline passed")                                                            \
    X(ECANCELED, -4, "canceled by caller")                                                         \
    X(EPEER, -5, "peer failed or left")                                                            \
    X(EDEVICE, -6, "accelerator runtime error")                                                    \
    X(EVERSION, -7, "version not supported")                                                       \
    X(EUNSUPPORTED, -8, "not supported by this build or fabric")                                   \
    X(EFORK, -9, "called in a child of fork")                                                      \
    X(ECAPTURE, -10, "the stream is being captured into a graph")                                  \
    X(EBUSY, -11, "still in use")                                                                  \
    X(ENOSPC, -12, "configured table or buffer is full")                                           \
    X(EEXIST, -13, "already exists")                                                               \
    X(ENOENT, -14, "unknown name")                                                                 \
    X(EMISMATCH, -15, "the two sides do not fit together")                                         \
    X(EAUTH, -16, "wrong job key")                                                                 \
    X(ENET, -17, "control socket error")                                                           \
    X(EPROTO, -18, "peer broke the protocol")                                                      \
    X(EFABRIC, -19, "fabric error")                                                                \
    X(ESTALLED, -20, "launched operation made no progress")                                        \
    X(ESUPERSEDED, -21, "a higher attempt took its place")                                         \
    X(ECORRUPT, -22, "checksum mismatch")                                                          \
    X(ESTATE, -23, "call not allowed in this state")                                               \
    X(EINTERNAL, -24, "internal error")

typedef enum kvf_status {
#define KVF_X(name, value, text) KVF_##name = (value),
    KVF_STATUS_MAP(KVF_X)
#undef KVF_X
} kvf_status_t;

/** Library objects; see the functions that create them for who ends them. */
struct kvf_engine;
struct kvf_pool;
struct kvf_instance;
struct kvf_task;

/* ---- limits ------------------------------------------------------------------------------- */

#define KVF_NAME_MAX 64u           /**< bytes of an instance name or compat string, with its NUL */
#define KVF_FORMAT_MAX 16u         /**< bytes of a pool's format tag, with its NUL */
#define KVF_HANDLE_MAX 512u        /**< bytes of an instance handle, with its NUL */
#define KVF_MESSAGE_MAX 256u       /**< bytes of a result's message, with its NUL */
#define KVF_JOB_KEY_BYTES 32u      /**< bytes of a job key */
#define KVF_GROUPS_MAX 16u         /**< block tables (groups) of one request */
#define KVF_NO_BLOCK UINT32_MAX    /**< absent block in a block list */
#define KVF_DP_UNKNOWN UINT32_MAX  /**< the source's attention-DP group is not known */
#define KVF_LAYERS_ALL UINT32_MAX  /**< end of a layer range: to the last layer */
#define KVF_TOKENS_ALL UINT64_MAX  /**< end of a sender's token range: as far as the blocks go */
#define KVF_ATTEMPT_ANY UINT64_MAX /**< a receiver takes whichever attempt the source has */
#define KVF_RECEIVERS_ANY 0u       /**< a send that serves receivers until it is cancelled */
#define KVF_FOREVER UINT64_MAX     /**< a duration without an end */

/* ---- log ---------------------------------------------------------------------------------- */

enum kvf_log_level {
    KVF_LOG_ERROR = 1,
    KVF_LOG_WARN = 2,
    KVF_LOG_INFO = 3,
    KVF_LOG_DEBUG = 4,
    KVF_LOG_TRACE = 5,
};

/**
 * Receives one line without a newline. Called from host and library threads, also at the same
 * time; must not call back into the library and should not block.
 */
typedef void (*kvf_log_fn)(void *ctx, enum kvf_log_level level, const char *topic,
                           const char *message);

/* ---- engine ------------------------------------------------------------------------------- */

/** What a rank does; bits. */
enum kvf_role {
    KVF_ROLE_CONTEXT = 1,    /**< sends */
    KVF_ROLE_GENERATION = 2, /**< receives */
    KVF_ROLE_BOTH = 3,
};

/**
 * Where a rank stands in its instance. Declared by the host; no rank formula is assumed. Ranks of
 * one (pp_rank, dp_group, cp_rank) that hold the same heads are replicas.
 */
struct kvf_place {
    size_t size;
    uint32_t rank;                 /**< this rank, 0 .. n_ranks-1, unique in the instance */
    uint32_t n_ranks;              /**< ranks of the instance, >= 1 */
    uint32_t pp_rank;              /**< pipeline stage (for people; layers are declared by pools) */
    uint32_t pp_size;              /**< pipeline stages; 0 = 1 */
    uint32_t dp_group;             /**< attention-DP group; a request lives in one group */
    uint32_t n_dp_groups;          /**< attention-DP groups; 0 = 1 */
    uint32_t tp_rank;              /**< tensor-parallel rank within the attention-DP group */
    uint32_t tp_size;              /**< tensor-parallel size of the attention-DP group; 0 = 1 */
    uint32_t cp_rank;              /**< context-parallel rank */
    uint32_t cp_size;              /**< context-parallel size; 0 = 1 */
    uint32_t cp_interleave_tokens; /**< token t lies on cp rank (t / this) % cp_size; cp_size > 1 */
};

/** Configuration of an engine. Strings and the key are copied. */
struct kvf_engine_config {
    size_t size;
    const char *instance;   /**< name of this model replica, unique in the job; < KVF_NAME_MAX */
    struct kvf_place place; /**< this rank's place; its own `size` must be set */
    uint32_t roles;         /**< bits of enum kvf_role; 0 = both */
    const char *compat;     /**< model, weights, anything both sides must share; < KVF_NAME_MAX */

    const char *fabric;      /**< "mpi", "nccl", or NULL = "nccl" where usable, else "mpi" */
    const char *fabric_path; /**< file of the fabric's library; NULL = beside libkvferry.so */
    int32_t device;          /**< CUDA device ordinal of the nccl fabric; ignored by mpi */

    const char *listen_address;    /**< numeric IPv4 or IPv6 to listen on; NULL = "127.0.0.1" */
    const char *advertise_address; /**< numeric address peers use; NULL = listen_address */
    uint32_t listen_port;          /**< TCP port; 0 = any free one */
    const void *job_key;           /**< [KVF_JOB_KEY_BYTES] secret of the job; required */

    uint32_t n_send_lanes;   /**< sending worker threads; 0 = 2; none without the context role */
    uint32_t n_recv_lanes;   /**< receiving worker threads; 0 = 2; none without the gen. role */
    uint32_t slots_per_lane; /**< staging slots a lane; 0 = 4; 2 .. 64 */
    uint64_t slot_bytes;     /**< bytes of a staging slot; 0 = per fabric (mpi: 1 MiB) */
    uint64_t chunk_bytes;    /**< largest chunk; 0 = slot_bytes / 4; both sides use the smaller */
    uint32_t links_per_peer; /**< links of a (source, destination) pair; 0 = 2; <= 16 */
    uint32_t max_groups;     /**< launched groups a device, design R4; 0 = 4 (mpi: no limit) */
    uint32_t max_peers;      /**< peers connected at once; 0 = 1024 */
    uint32_t max_tasks;      /**< tasks not yet released; 0 = 4096 */
    uint32_t max_blocks;     /**< block-list entries of all unreleased tasks; 0 = 4 Mi */
    uint32_t max_aux_bytes;  /**< largest aux payload; 0 = 256 KiB; <= 1 MiB */

    uint64_t default_timeout_ns; /**< deadline of tasks that name none; 0 = 60 s */
    uint64_t connect_timeout_ns; /**< deadline of lazy connects; 0 = 60 s */
    uint64_t destroy_timeout_ns; /**< longest wait of engine_destroy for launched work; 0 = 10 s */

    uint32_t log_level; /**< most verbose enum kvf_log_level wanted; 0 = warn */
    kvf_log_fn log;     /**< NULL = silent; borrowed until engine_destroy returns */
    void *log_ctx;      /**< first argument of log */
};

/** Memory an engine of a configuration holds, bytes; fixed by the configuration. */
struct kvf_footprint {
    size_t size;
    uint64_t staging_bytes; /**< all slots of all lanes */
    uint64_t table_bytes;   /**< tasks, block lists, scheduler */
    uint64_t peer_bytes;    /**< everything kept for n_peers peers, links included */
    uint64_t total_bytes;
};

/** Counters since engine_create; monotonic, read without stopping the engine. */
struct kvf_stats {
    size_t size;
    uint64_t tasks_submitted;
    uint64_t tasks_done;
    uint64_t tasks_failed;    /**< FAILED */
    uint64_t tasks_cancelled; /**< CANCELLED */
    uint64_t tasks_expired;   /**< EXPIRED */
    uint64_t bytes_sent;      /**< payload put on the fabric */
    uint64_t bytes_received;  /**< payload unpacked */
    uint64_t filler_bytes;    /**< payload of ended tasks that travelled unused */
    uint64_t batches_sent;
    uint64_t batches_received;
    uint64_t chunks_sent;
    uint64_t chunks_received;
    uint64_t pack_ns;   /**< lane time spent packing */
    uint64_t wire_ns;   /**< sum over batches of launch to wire done, at the receiver */
    uint64_t unpack_ns; /**< lane time spent unpacking */
    uint64_t control_frames_sent;
    uint64_t control_frames_received;
    uint64_t peers; /**< connected now */
    uint64_t links; /**< open now */
};

/** What engine_describe writes. */
enum kvf_describe {
    KVF_DESCRIBE_RANK = 1, /**< binary blob of this rank, for its own instance's ranks */
    KVF_DESCRIBE_INSTANCE =
        2, /**< text handle of its instance, at most KVF_HANDLE_MAX, no secret */
};

/* ---- memory ------------------------------------------------------------------------------- */

/** What the rows of a pool are. Pools of the two sides are matched by (role, global layer id). */
enum kvf_pool_role {
    KVF_POOL_KEY = 1,
    KVF_POOL_VALUE = 2,
    KVF_POOL_KV = 3, /**< keys at kv index 0 and values at 1; meets KEY, VALUE and KV pools */
    KVF_POOL_LATENT = 4,
    KVF_POOL_SCALE_KEY = 5,
    KVF_POOL_SCALE_VALUE = 6,
    KVF_POOL_INDEX = 7,
    KVF_POOL_STATE = 8,
    KVF_POOL_USER = 1024, /**< and above: the host's own meaning, matched by number */
};

enum kvf_pool_flags {
    KVF_POOL_PER_REQUEST = 1u, /**< one slot a request, no token axis (Mamba and other state) */
    KVF_POOL_OPTIONAL = 2u,    /**< layers the other side lacks are left out (an MTP layer) */
};

enum kvf_memory {
    KVF_MEMORY_HOST = 1,
    KVF_MEMORY_CUDA = 2,
};

/**
 * A pool: registered memory holding rows of one role for some layers of one group.
 *
 * Shapes: index space [block][layer][kv][head][row], a row being row_bytes contiguous bytes. The
 * address of (b, l, v, h, r) is base(l, v) + b * stride_block + l * stride_layer + v * stride_kv +
 * h * stride_head + r * stride_row, where base(l, v) is bases[0] if n_bases is 1, or
 * bases[l * n_kv + v] if n_bases is n_layers * n_kv (then stride_layer and stride_kv must be 0).
 * Any layout is only a choice of strides: head-major has stride_head > stride_row, token-major the
 * reverse, cross-layer blocks have stride_block > stride_layer. Pools may alias memory.
 */
struct kvf_pool_desc {
    size_t size;
    uint32_t group;        /**< block table this pool is indexed by, < KVF_GROUPS_MAX */
    uint32_t role;         /**< enum kvf_pool_role */
    uint32_t flags;        /**< bits of enum kvf_pool_flags */
    uint32_t memory;       /**< enum kvf_memory */
    const char *format;    /**< element format ("bf16", "fp8_e4m3", …); compared, not converted */
    uint32_t n_blocks;     /**< blocks in the pool, >= 1 */
    uint32_t block_tokens; /**< tokens of one block, >= 1; PER_REQUEST: 1 */
    uint32_t tokens_per_row; /**< tokens one row stands for; 0 = 1; divides block_tokens */
    uint32_t token_atom;     /**< tokens never split between two peers; 0 = tokens_per_row */
    uint64_t row_bytes;      /**< bytes of one row, >= 1 */
    uint32_t n_kv;           /**< 2 for KVF_POOL_KV, else 1; 0 = that */
    uint32_t n_layers;       /**< layers here, >= 1 */
    const uint32_t *layers;  /**< [n_layers] global layer ids, strictly rising; copied */
    uint32_t n_heads;        /**< heads here, >= 1 (1 for a latent) */
    uint32_t first_head;     /**< global id of head 0 here */
    uint32_t n_heads_total;  /**< heads of the model in this role; 0 = first_head + n_heads */
    uint32_t head_atom;      /**< heads never split between two peers; 0 = 1 */
    uint64_t stride_block;   /**< bytes from a block to the next */
    uint64_t stride_layer;   /**< bytes from a layer to the next */
    uint64_t stride_kv;      /**< bytes from keys to values */
    uint64_t stride_head;    /**< bytes from a head to the next */
    uint64_t stride_row;     /**< bytes from a row to the next */
    uint32_t n_bases;        /**< 1 or n_layers * n_kv */
    void *const *bases;      /**< [n_bases] the memory; borrowed until pool_unregister */
};

/* ---- peers -------------------------------------------------------------------------------- */

/**
 * An instance to add: either the rank blobs of this engine's own instance (all of them, in any
 * order), or the handle of another one.
 */
struct kvf_instance_desc {
    size_t size;
    const char *handle;       /**< text from KVF_DESCRIBE_INSTANCE, or NULL */
    uint32_t n_blobs;         /**< ranks of the own instance; 0 with a handle */
    const void *const *blobs; /**< [n_blobs] from KVF_DESCRIBE_RANK */
    const size_t *blob_bytes; /**< [n_blobs] */
};

/* ---- transfers ---------------------------------------------------------------------------- */

/** 128-bit name of a request, unique among the live requests of its source instance. */
struct kvf_request_id {
    uint8_t bytes[16];
};

/** Positions begin <= t < end. */
struct kvf_token_range {
    uint64_t begin;
    uint64_t end;
};

/**
 * The blocks of one group on this rank. blocks[i] holds this rank's tokens
 * [(first_block + i) * block_tokens, + block_tokens); on a context-parallel rank "this rank's
 * tokens" are the ones that lie on it, counted densely. PER_REQUEST groups name their one slot.
 * All ranks of a receiver ask for the same ranges: one without pools of a group (a pipeline stage
 * with none of its layers) names it too, with no blocks.
 */
struct kvf_group_blocks {
    size_t size;
    uint32_t group;
    uint32_t first_block;          /**< position of blocks[0] in the request's block table */
    uint32_t n_blocks;             /**< entries of blocks */
    const uint32_t *blocks;        /**< [n_blocks] ids < the pools' n_blocks, or KVF_NO_BLOCK */
    struct kvf_token_range tokens; /**< receiver: range wanted; sender: range that is ready */
};

enum kvf_fence_kind {
    KVF_FENCE_NONE = 0,
    KVF_FENCE_STREAM = 1, /**< handle is a CUstream; an event is recorded before the call returns */
    KVF_FENCE_EVENT = 2,  /**< handle is a CUevent, borrowed until SOURCE_RELEASED or the end */
};

/** The caller's work that must have completed before the library touches the blocks. */
struct kvf_fence {
    uint32_t kind; /**< enum kvf_fence_kind */
    uint32_t reserved;
    void *handle;
};

/** What a source offers. Start from KVF_SEND_INIT: a zero n_receivers has a meaning. */
struct kvf_send {
    size_t size;
    struct kvf_request_id request;
    uint64_t attempt;        /**< 0, 1, …; a higher one supersedes */
    const char *destination; /**< instance that may ask; NULL = any */
    uint32_t n_receivers;    /**< instances to serve before the task ends; KVF_RECEIVERS_ANY */
    int32_t priority;        /**< higher goes first */
    uint64_t timeout_ns;     /**< from now; 0 = the engine's default; KVF_FOREVER */
    uint64_t user;           /**< returned in events */
};
#define KVF_SEND_INIT                                                                              \
    {                                                                                              \
        .size = sizeof(struct kvf_send), .n_receivers = 1                                          \
    }

/** Blocks of a source that are (or, by the fence, will be) filled. */
struct kvf_extent {
    size_t size;
    uint32_t first_layer; /**< global layer ids first_layer <= l < end_layer */
    uint32_t end_layer;   /**< 0 or KVF_LAYERS_ALL = to the last */
    uint32_t n_groups;
    const struct kvf_group_blocks *groups; /**< [n_groups] rising group numbers */
    struct kvf_fence fence;
};

/** What a receiver wants. */
struct kvf_recv {
    size_t size;
    const char *source; /**< name of the source instance, added before */
    struct kvf_request_id request;
    uint64_t attempt;                      /**< or KVF_ATTEMPT_ANY */
    uint32_t source_dp_group;              /**< or KVF_DP_UNKNOWN */
    uint32_t n_groups;                     /**< 0: nothing is wanted, the source is only released */
    const struct kvf_group_blocks *groups; /**< [n_groups] rising group numbers */
    void *aux;              /**< receives the source's aux payload; borrowed to the end */
    uint64_t aux_capacity;  /**< bytes of aux; a longer payload fails the task */
    struct kvf_fence fence; /**< last use of the destination blocks */
    int32_t priority;       /**< higher goes first */
    uint64_t timeout_ns;    /**< from now; 0 = the engine's default; KVF_FOREVER */
    uint64_t user;          /**< returned in events */
};

enum kvf_task_state {
    KVF_TASK_PENDING = 0, /**< submitted, no counterpart yet */
    KVF_TASK_MOVING = 1,  /**< matched */
    KVF_TASK_ENDING = 2,  /**< its end is decided; operations on its memory are finishing */
    KVF_TASK_DONE = 3,
    KVF_TASK_FAILED = 4,
    KVF_TASK_CANCELLED = 5,
    KVF_TASK_EXPIRED = 6,
};

/** Where a task was when its end was decided. */
enum kvf_step {
    KVF_STEP_NONE = 0,
    KVF_STEP_CONNECT = 1, /**< the peers' control connections and links */
    KVF_STEP_MATCH = 2,   /**< the other side's send_open or recv */
    KVF_STEP_EXTENT = 3,  /**< send_extend or send_close of the source */
    KVF_STEP_FENCE = 4,   /**< the caller's fence */
    KVF_STEP_GRANT = 5,   /**< staging slots */
    KVF_STEP_PACK = 6,
    KVF_STEP_WIRE = 7,
    KVF_STEP_UNPACK = 8,
    KVF_STEP_DELIVER = 9, /**< the receivers' word that they have it */
    KVF_STEP_AUX = 10,
};

/** Points of a task's time line; indices of kvf_result.times_ns. */
enum kvf_time {
    KVF_TIME_SUBMITTED = 0,
    KVF_TIME_MATCHED = 1,
    KVF_TIME_FENCE = 2,      /**< fence found complete */
    KVF_TIME_FIRST_BYTE = 3, /**< first pack (sender) or first post (receiver) */
    KVF_TIME_WIRE_DONE = 4,  /**< last wire operation */
    KVF_TIME_DONE = 5,       /**< terminal */
    KVF_TIME_COUNT = 6,
};

/** State and, once terminal, result of a task. */
struct kvf_result {
    size_t size;
    uint32_t state;                    /**< enum kvf_task_state */
    kvf_status_t status;               /**< KVF_IN_PROGRESS until terminal; DONE is KVF_OK */
    uint32_t step;                     /**< enum kvf_step where it ended */
    uint32_t peer_rank;                /**< rank that caused the end, or UINT32_MAX */
    char peer_instance[KVF_NAME_MAX];  /**< its instance, or "" */
    char message[KVF_MESSAGE_MAX];     /**< one sentence, "" when DONE */
    uint64_t bytes;                    /**< payload moved for this task on this rank */
    uint64_t bytes_wanted;             /**< payload this rank has to move, as far as known */
    uint64_t aux_bytes;                /**< bytes of aux received */
    uint64_t attempt;                  /**< attempt that was matched */
    uint64_t times_ns[KVF_TIME_COUNT]; /**< CLOCK_MONOTONIC, 0 = did not happen */
    uint64_t n_missing;                /**< blocks that did not arrive; see task_missing */
};

/** One block of a receive that is not (wholly) filled. */
struct kvf_missing {
    uint32_t group;
    uint32_t block;       /**< id in the pools */
    uint64_t first_token; /**< this rank's token at the start of the block */
};

/** What one destination instance asked of a source. */
struct kvf_wanted {
    size_t size;
    char destination[KVF_NAME_MAX];
    uint32_t dp_group; /**< of the destination */
    uint32_t n_groups;
    struct kvf_token_range tokens[KVF_GROUPS_MAX]; /**< by group number; begin == end: nothing */
};

enum kvf_event_kind {
    KVF_EVENT_MATCHED = 1,         /**< first counterpart met; see task_wanted */
    KVF_EVENT_SOURCE_RELEASED = 2, /**< source blocks of a closed send are read for good */
    KVF_EVENT_LAYERS = 4,          /**< more layers arrived; reserved */
    KVF_EVENT_ENDED = 8,           /**< terminal; the last event of a task */
};

/** One or more things that happened to a task. Events of one kind may be merged into one. */
struct kvf_event {
    size_t size;
    uint64_t user;         /**< the word given with the task */
    struct kvf_task *task; /**< valid until task_release */
    uint32_t kinds;        /**< bits of enum kvf_event_kind, in the order of their values */
    kvf_status_t status;   /**< with ENDED the result's status, else KVF_IN_PROGRESS */
};

enum kvf_cancel_flags {
    KVF_CANCEL_RESTART = 1u, /**< a sender: receivers keep waiting for a higher attempt */
};

/* ---- the table ---------------------------------------------------------------------------- */

/**
 * Everything the library does. Read `size` before members added later than this header's first
 * release. Static storage; valid as long as the library is loaded.
 */
struct kvferry_plugin_v1 {
    size_t size;         /**< bytes of the table in this library */
    const char *name;    /**< "kvferry" */
    const char *version; /**< release, such as "0.1.0" */

    /* -- engine -- */

    /**
     * Predict the memory of an engine.
     * @param[in]  config   as for engine_create; no job key or name needed
     * @param[in]  n_peers  peers it will talk to
     * @retval KVF_EINVAL   a member is out of its range
     * Threads: any. Pure.
     */
    kvf_status_t (*engine_footprint)(const struct kvf_engine_config *config, uint32_t n_peers,
                                     struct kvf_footprint *ret_footprint);
    /**
     * Start an engine: its control thread, its lanes, its listening socket.
     * @param[out] ret_engine  owned by the caller; ends with engine_destroy
     * @retval KVF_EINVAL        a member is missing or out of its range
     * @retval KVF_ENOMEM        memory or threads could not be had
     * @retval KVF_ENET          the listening address is taken or not this machine's
     * @retval KVF_EUNSUPPORTED  no such fabric in this build, or it is not usable here (the host
     *                           initialised MPI below MPI_THREAD_MULTIPLE, no driver, …)
     */
    kvf_status_t (*engine_create)(const struct kvf_engine_config *config,
                                  struct kvf_engine **ret_engine);
    /**
     * End every task (KVF_TASK_CANCELLED), tell the peers, join the threads, close everything.
     * Blocks at most destroy_timeout_ns. Pools, instances and tasks of the engine end with it;
     * their handles must not be used afterwards. NULL is allowed. No other call on the engine may
     * run at the same time.
     */
    void (*engine_destroy)(struct kvf_engine *engine);
    /**
     * Describe this rank (after the last pool_register) or its instance (after instance_add of the
     * own one).
     * @param[in]  what       enum kvf_describe
     * @param[out] buffer     [capacity] bytes; NULL with capacity 0 to ask for the size
     * @param[out] ret_bytes  bytes written or needed, a text's NUL included; also on KVF_ENOSPC
     * @retval KVF_ENOSPC  capacity is too small
     * @retval KVF_ESTATE  the own instance was not added yet
     */
    kvf_status_t (*engine_describe)(struct kvf_engine *engine, uint32_t what, void *buffer,
                                    size_t capacity, size_t *ret_bytes);
    /** File descriptor that polls readable while engine_reap has events. Owned by the engine. */
    int (*engine_event_fd)(struct kvf_engine *engine);
    /**
     * Take events. Lock-free; no system call when there are none.
     * @param[out] events  [capacity]; events[0].size must be set, it is the stride
     * @param[out] ret_n   events written, 0 .. capacity
     */
    kvf_status_t (*engine_reap)(struct kvf_engine *engine, struct kvf_event *events,
                                size_t capacity, size_t *ret_n);
    /** Read the counters. ret_stats->size must be set. */
    kvf_status_t (*engine_stats)(struct kvf_engine *engine, struct kvf_stats *ret_stats);
    /**
     * A readable account of every peer, link, lane and unfinished task, and what each waits for.
     * @param[out] text       [capacity], always ended by NUL; cut if too small
     * @param[out] ret_bytes  bytes the whole text needs, NUL included
     */
    kvf_status_t (*engine_dump)(struct kvf_engine *engine, char *text, size_t capacity,
                                size_t *ret_bytes);

    /* -- memory -- */

    /** Memory that may be mapped by other ranks. @retval KVF_EUNSUPPORTED  not in this release */
    kvf_status_t (*mem_alloc)(struct kvf_engine *engine, uint64_t n_bytes, void **ret_memory);
    /** Free what mem_alloc returned. @retval KVF_EBUSY  a pool still uses it */
    kvf_status_t (*mem_free)(struct kvf_engine *engine, void *memory);
    /**
     * Register a pool. All pools of a rank are registered before its first engine_describe.
     * @retval KVF_EINVAL   bad geometry; rows of one block that overlap
     * @retval KVF_ESTATE   the rank was described already
     * @retval KVF_ENOSPC   too many pools (64)
     * @retval KVF_EMISMATCH  memory kind and fabric do not fit
     */
    kvf_status_t (*pool_register)(struct kvf_engine *engine, const struct kvf_pool_desc *desc,
                                  struct kvf_pool **ret_pool);
    /**
     * Forget a pool; its memory is not touched afterwards. New transfers need all pools of a
     * described rank, so this is for shutting down.
     * @retval KVF_EBUSY  an unfinished task uses it
     */
    kvf_status_t (*pool_unregister)(struct kvf_engine *engine, struct kvf_pool *pool);

    /* -- peers -- */

    /**
     * Make an instance known. The own instance comes first. Does not block: a handle is resolved
     * in the background, and failures of that show up in instance_connect and in tasks.
     * @param[out] ret_instance  owned by the engine; ends with instance_remove or engine_destroy
     * @retval KVF_EINVAL     damaged handle or blob; ranks missing or twice
     * @retval KVF_EEXIST     an instance of that name is known already
     * @retval KVF_EMISMATCH  a blob is of another instance, or compat strings differ
     */
    kvf_status_t (*instance_add)(struct kvf_engine *engine, const struct kvf_instance_desc *desc,
                                 struct kvf_instance **ret_instance);
    /**
     * Connect to all ranks of an instance this engine receives from: control connections, links,
     * warm-up. Blocks until done or timeout_ns is over; otherwise it happens at the first recv.
     * @retval KVF_ETIMEDOUT  not all ranks answered in time; the message names one
     * @retval KVF_EAUTH      the other side has another job key
     * @retval KVF_EMISMATCH  the two sides do not fit; the message has both values
     */
    kvf_status_t (*instance_connect)(struct kvf_instance *instance, uint64_t timeout_ns);
    /**
     * Drain and forget an instance: no new transfers, running ones end, connections close. Does
     * not block. The handle is dead on return.
     */
    kvf_status_t (*instance_remove)(struct kvf_instance *instance);

    /* -- sending -- */

    /**
     * Begin to offer a request's KV cache; blocks may come later.
     * @param[out] ret_task  owned by the caller; ends with task_release
     * @retval KVF_EEXIST   this (request, attempt) is open already
     * @retval KVF_ESUPERSEDED  a higher attempt is open or was
     * @retval KVF_ENOSPC   no free task
     */
    kvf_status_t (*send_open)(struct kvf_engine *engine, const struct kvf_send *send,
                              struct kvf_task **ret_task);
    /**
     * Add blocks that hold (layers x tokens) of the request. Extents of one task must not overlap
     * and together cover what receivers want.
     * @retval KVF_EINVAL  block id out of range, more tokens than blocks, unknown group
     * @retval KVF_ESTATE  the task is closed or ended
     * @retval KVF_ENOSPC  no room in the block table, or more than 256 extents
     */
    kvf_status_t (*send_extend)(struct kvf_task *task, const struct kvf_extent *extent);
    /**
     * No more extents. aux goes to every receiving rank.
     * @param[in] aux        [aux_bytes] or NULL; copied
     * @retval KVF_EINVAL  aux_bytes over the engine's max_aux_bytes
     * @retval KVF_ESTATE  closed or ended already
     */
    kvf_status_t (*send_close)(struct kvf_task *task, const void *aux, size_t aux_bytes);
    /** send_open, send_extend and send_close in one; on error nothing was begun. */
    kvf_status_t (*send)(struct kvf_engine *engine, const struct kvf_send *send,
                         const struct kvf_extent *extent, const void *aux, size_t aux_bytes,
                         struct kvf_task **ret_task);

    /* -- receiving -- */

    /**
     * Fetch ranges of a request into blocks. May come before or after the source opens it.
     * @param[out] ret_task  owned by the caller; ends with task_release
     * @retval KVF_EINVAL   block id out of range, the same block twice, more tokens than blocks
     * @retval KVF_ENOENT   the source instance was not added
     * @retval KVF_EEXIST   this transfer is being received already
     * @retval KVF_ENOSPC   no free task, no room in the block table
     */
    kvf_status_t (*recv)(struct kvf_engine *engine, const struct kvf_recv *recv,
                         struct kvf_task **ret_task);
    /** This rank wants nothing of a transfer: like recv with n_groups 0, releases the source. */
    kvf_status_t (*request_release)(struct kvf_engine *engine, const struct kvf_recv *recv,
                                    struct kvf_task **ret_task);
    /** Keep the source waiting before blocks exist. @retval KVF_EUNSUPPORTED not in this release */
    kvf_status_t (*request_hold)(struct kvf_engine *engine, const struct kvf_recv *recv,
                                 uint64_t hold_ns);

    /* -- tasks -- */

    /** Read state and result. Lock-free. ret_result->size must be set. @retval KVF_OK always */
    kvf_status_t (*task_poll)(struct kvf_task *task, struct kvf_result *ret_result);
    /**
     * Block until the task is terminal.
     * @retval KVF_OK         terminal; the result has how
     * @retval KVF_ETIMEDOUT  timeout_ns passed; the task goes on, *ret_result is filled
     */
    kvf_status_t (*task_wait)(struct kvf_task *task, uint64_t timeout_ns,
                              struct kvf_result *ret_result);
    /** Set the deadline to timeout_ns from now. @retval KVF_ESTATE  ended already */
    kvf_status_t (*task_extend)(struct kvf_task *task, uint64_t timeout_ns);
    /**
     * Ask for the end of a task; returns at once. The task is terminal (ENDED) as soon as no
     * operation touches its memory. A task that is terminal already keeps its result.
     * @param[in] flags  bits of enum kvf_cancel_flags
     */
    kvf_status_t (*task_cancel)(struct kvf_task *task, uint32_t flags);
    /** Give a terminal task back. @retval KVF_EBUSY  not terminal: cancel and wait first */
    kvf_status_t (*task_release)(struct kvf_task *task);
    /**
     * Blocks of an ended receive that did not (wholly) arrive.
     * @param[out] missing  [capacity]
     * @param[out] ret_n    how many there are, also beyond capacity
     * @retval KVF_ESTATE  not terminal, or not a receive
     */
    kvf_status_t (*task_missing)(struct kvf_task *task, struct kvf_missing *missing,
                                 size_t capacity, size_t *ret_n);
    /**
     * What the index-th destination instance asked of a send. ret_wanted->size must be set.
     * @retval KVF_ENOENT  fewer have asked
     */
    kvf_status_t (*task_wanted)(struct kvf_task *task, uint32_t index,
                                struct kvf_wanted *ret_wanted);

    /* -- text -- */

    /** Static text for a status; never NULL, also for unknown values. */
    const char *(*status_text)(kvf_status_t status);
    /** Static name such as "KVF_EINVAL"; never NULL, also for unknown values. */
    const char *(*status_name)(kvf_status_t status);
    /** Sentence of the last failed call of this thread, or ""; valid until its next call. */
    const char *(*error_text)(void);

    /* -- helpers -- */

    /** A request id from any bytes (keyed by nothing; the same on every machine). */
    struct kvf_request_id (*request_id_hash)(const void *bytes, size_t n_bytes);
    /** A request id from a 64-bit number. */
    struct kvf_request_id (*request_id_u64)(uint64_t number);
};

/** The library's one exported symbol. */
extern KVF_API const struct kvferry_plugin_v1 kvferry_plugin_v1;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KVFERRY_KVFERRY_H */
