/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine, private to plugin/: one object of all its parts.
 *
 * Threads. Fields marked [C] belong to the control thread, [H] are shared by host threads under
 * `lock`, [I] do not change between engine_create and engine_destroy. Host threads hand work over by
 * setting bits of a task's `wants` and putting it on the dirty list (kvfi_engine_poke); instances
 * travel the same way. Lane threads come in only through the callbacks of batch.c.
 * Lock order: lock, then dirty_lock.
 */
#ifndef KVFERRY_PLUGIN_ENGINE_H
#define KVFERRY_PLUGIN_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <uv.h>

#include "collectives/control.h"
#include "collectives/lane.h"
#include "collectives/log.h"
#include "collectives/sched.h"
#include "plugin/chunks.h"
#include "plugin/config.h"
#include "plugin/events.h"
#include "plugin/geometry.h"
#include "plugin/plan.h"
#include "plugin/task.h"

#define KVFI_PROTOCOL 1u
#define KVFI_NONE UINT32_MAX
#define KVFI_RECEIVERS_MAX 8u /* destination instances one send serves at once */
#define KVFI_EXTENTS_MAX 256u
#define KVFI_LANES_MAX 64u

struct dump;
struct kvfi_inbound;
struct kvfi_outbound;

/* Blocks of a request on this rank: a receiver's destination, or one send_extend of a sender. */
struct kvfi_extent {
    struct kvfi_extent *next;
    struct kvfi_extent_box box; /* receiver: the ranges wanted, all layers */
    struct kvfi_block_table tables[KVF_GROUPS_MAX];
    uint32_t n_blocks; /* accounted against max_blocks */
    uint32_t number;
    uint32_t blocks[]; /* [n_blocks] */
};

/* One (task, peer, extent): what the scheduler calls a piece. */
struct kvfi_piece {
    struct kvf_task *task; /* NULL = free */
    struct kvfi_chunk_map map;
    const struct kvfi_extent *extent;
    uint32_t peer;
    uint32_t extent_number;
    uint32_t next;                 /* of the same inbound or outbound, or free list */
    uint32_t n_refs;               /* receiver: batches that name it */
    bool removed;                  /* sender: kvfi_send_piece_remove was called */
    _Atomic bool dead;             /* receiver: of an attempt that was restarted; lanes look */
    _Atomic uint64_t packed_bytes; /* sender: packed; receiver: unpacked; by lanes */
    struct kvfi_inbound *inbound;
    struct kvfi_outbound *outbound;
    uint64_t *offered;         /* receiver: [chunks] bits: named by an offer; control thread */
    _Atomic uint64_t *arrived; /* receiver: [chunks] bits: unpacked; set by lanes */
};

struct kvfi_piece_table {
    struct kvfi_piece *pieces; /* [n] */
    uint32_t n;
    uint32_t free; /* head of the free list */
    uint32_t n_used;
};

/* ---- sending ------------------------------------------------------------------------------ */

enum kvfi_inbound_state { KVFI_INBOUND_WAITING = 1, KVFI_INBOUND_ACCEPTED, KVFI_INBOUND_ENDED };

/* A REQUEST of one destination rank. */
struct kvfi_inbound {
    struct kvfi_inbound *next_waiting; /* of the engine's list of unmatched ones; also free list */
    struct kvfi_inbound *next_of_task;
    struct kvfi_inbound *next_of_peer;
    enum kvfi_inbound_state state;
    uint32_t peer;
    uint64_t transfer;
    struct kvf_request_id request;
    uint64_t attempt;
    uint32_t src_dp_group;
    uint32_t dst_dp_group;
    uint64_t plan_hash;
    int32_t priority;
    struct kvf_token_range ranges[KVF_GROUPS_MAX];
    struct kvf_task *task;
    uint32_t receiver;  /* index in the task's receivers */
    uint32_t pieces;    /* list of send pieces */
    uint32_t n_pieces;  /* not yet idle */
    uint32_t n_extents; /* announced */
    bool queued;        /* on the engine's list of idle ones */
    bool closed;        /* CLOSE was sent */
    bool finished;      /* FINISH came, or everything was delivered */
    struct kvfi_plan plan;
    uint64_t bytes_delivered;
};

/* A destination instance's group that asked for a send. Written under lock. */
struct kvfi_receiver {
    char name[KVF_NAME_MAX]; /* "" = free */
    uint32_t dp_group;
    uint32_t n_expected; /* ranks of its group */
    uint32_t n_accepted;
    uint32_t n_finished;
    bool served;
    struct kvf_token_range ranges[KVF_GROUPS_MAX];
};

struct kvfi_send_state {
    char destination[KVF_NAME_MAX]; /* "" = any */
    uint32_t n_receivers;
    uint32_t n_met;    /* receivers that have asked [C] */
    uint32_t n_served; /* receivers that finished [C] */
    struct kvfi_receiver receivers[KVFI_RECEIVERS_MAX];
    struct kvfi_inbound *inbounds; /* [C] */
    struct kvfi_extent *extents;   /* in order of their numbers; appended under lock */
    struct kvfi_extent *last_extent;
    uint32_t n_extents; /* [H] */
    uint32_t n_known;   /* extents the control thread has announced [C] */
    bool close_called;  /* [H] */
    bool closed;        /* [C] */
    void *aux;
    uint32_t aux_bytes;
    _Atomic uint64_t to_pack; /* bytes, and one for "not everything is known yet" */
    bool to_pack_token;       /* [C] that one is still held */
    bool restart;             /* cancelled with KVF_CANCEL_RESTART */
    struct kvfi_cause bad;    /* first receiver that ended badly [C] */
    char bad_text[KVF_MESSAGE_MAX];
    char bad_instance[KVF_NAME_MAX];
};

/* ---- receiving ---------------------------------------------------------------------------- */

enum kvfi_outbound_state {
    KVFI_OUTBOUND_UNSENT = 0, /* waits for the peer's session */
    KVFI_OUTBOUND_REQUESTED,
    KVFI_OUTBOUND_ACCEPTED,
    KVFI_OUTBOUND_CLOSED,     /* the source told everything it sends */
    KVFI_OUTBOUND_RESTARTING, /* waits for old batches to be gone, then UNSENT */
    KVFI_OUTBOUND_RELEASED,   /* not of the group that has the request */
    KVFI_OUTBOUND_LOST,       /* its connection ended: what it owed is missing */
};

struct kvfi_box_node {
    struct kvfi_box_node *next;
    struct kvfi_extent_box box;
};

/* A source rank of one receive. */
struct kvfi_outbound {
    enum kvfi_outbound_state state;
    uint32_t rank; /* of the source instance */
    uint32_t peer; /* KVFI_NONE until connected */
    bool planned;
    struct kvfi_plan plan;
    uint32_t n_extents;
    struct kvfi_box_node *boxes; /* of the extents announced */
    uint64_t bytes_announced;
    uint32_t pieces;
    uint64_t attempt;
};

struct kvfi_recv_state {
    struct kvf_instance *source;
    uint32_t src_dp_group; /* KVF_DP_UNKNOWN until the first ACCEPT */
    struct kvfi_extent *destination;
    void *aux;
    uint64_t aux_capacity;
    uint64_t aux_bytes; /* [C] */
    bool aux_seen;
    uint64_t aux_attempt; /* that it was of */
    bool matched;
    bool release_only; /* request_release: done when the sources have heard of it */
    bool token;        /* the unit of `remaining` for "not everything is known yet" is held */
    uint32_t n_outbounds;
    struct kvfi_outbound *outbounds;   /* [n_outbounds] */
    struct kvf_task *next_of_instance; /* [C] */
};

/* ---- tasks -------------------------------------------------------------------------------- */

enum kvfi_wants {
    KVFI_WANT_START = 1,
    KVFI_WANT_EXTENDS = 2,
    KVFI_WANT_CLOSE = 4,
    KVFI_WANT_CANCEL = 8,
    KVFI_WANT_DEADLINE = 16,
    KVFI_WANT_ENDED = 32, /* became terminal */
    KVFI_WANT_RELEASE = 64,
    KVFI_WANT_SUPERSEDED = 256,
    KVFI_WANT_RESTART = 512, /* with CANCEL: KVF_CANCEL_RESTART */
    KVFI_WANT_CHECK = 128,   /* progress was made: see whether it is complete */
};

struct kvf_task {
    struct kvfi_life life;
    struct kvf_engine *engine;
    uint32_t number;
    uint32_t generation; /* changes with every use of the number [C] */
    bool used;           /* [H] */
    bool is_send;
    bool started;  /* [C] */
    bool ended;    /* [C] cleaned up after the terminal state */
    bool released; /* [C] the host gave it back */
    bool named;    /* [H] in the name table */
    struct kvf_request_id request;
    uint64_t attempt;
    int32_t priority;
    uint64_t user;
    _Atomic uint64_t deadline_ns;
    _Atomic uint64_t matched_attempt;
    uv_timer_t timer; /* [C] */
    _Atomic uint32_t wants;
    struct kvf_task *next_dirty; /* under dirty_lock */
    struct kvf_task *next_named; /* [H] hash chain */
    struct kvf_task *next_free;  /* [H] */
    struct kvf_task *next_all;   /* [C] list of started ones */
    struct kvf_task *prev_all;
    _Atomic uint32_t n_unreleased; /* pieces and extents that keep the number */
    struct kvfi_send_state send;
    struct kvfi_recv_state recv;
    uint64_t matched_ns; /* [C] until terminal */
};

/* ---- peers -------------------------------------------------------------------------------- */

enum kvfi_link_state { KVFI_LINK_DOWN = 0, KVFI_LINK_OPENING, KVFI_LINK_UP };

struct kvfi_link {
    enum kvfi_link_state state;
    struct kvfi_fabric_link *fabric_link;
    uint32_t lane;
    uint32_t epoch;
};

enum kvfi_peer_state {
    KVFI_PEER_FREE = 0,
    KVFI_PEER_CONNECTING, /* session or HELLO under way */
    KVFI_PEER_UP,
    KVFI_PEER_LEAVING, /* BYE was said or heard; what is launched drains */
};

/* A session with another engine, seen from one direction of transfers. */
struct kvfi_peer {
    enum kvfi_peer_state state;
    bool is_source; /* this engine receives from it (and opened the session) */
    bool hello_sent;
    bool said_hello;         /* the other side */
    bool closing;            /* the session is being closed */
    kvf_status_t end_status; /* why the session ends, as far as somebody said */
    char end_text[KVF_MESSAGE_MAX];
    bool fetches_geometry; /* a session only to ask for an instance's geometry */
    uint32_t index;
    uint32_t next_free;
    struct kvfi_session *session;
    struct kvf_instance *instance;
    uint32_t rank;
    uint64_t incarnation;
    struct kvfi_fabric_address address;
    uint32_t chunk_bytes;
    uint32_t n_links;
    uint32_t n_links_up;
    uint32_t n_in_flight; /* launched or posted batches */
    struct kvfi_link links[KVFI_LINKS_MAX];
    struct kvfi_inbound *inbounds;
};

struct kvf_instance {
    struct kvf_engine *engine;
    struct kvf_instance *next;
    char name[KVF_NAME_MAX];
    bool own;
    bool added;   /* by the host (not only heard of) [H] */
    bool removed; /* [H] */
    bool known;   /* geometry is there [C], or own */
    struct kvfi_instance_geometry geometry;
    uint64_t digest;            /* of the blobs it was made from */
    ProtobufCBinaryData *blobs; /* [n_blobs] own instance: copies of the ranks' blobs */
    uint32_t n_blobs;
    kvf_status_t match; /* of its geometry as a source with ours */
    char match_text[KVF_MESSAGE_MAX];
    char addresses[KVF_HANDLE_MAX]; /* of a handle: "a:p,b:p" */
    uint32_t next_address;          /* which to ask next */
    uint32_t fetch_peer;
    uint32_t n_peers;
    uint32_t *peers; /* [n_ranks] peers we receive from, or KVFI_NONE */
    struct kvf_task *recvs;
    uv_timer_t retry;
    bool retry_open;                    /* the timer is a handle of the loop */
    bool backing_off;                   /* until it fires */
    uint32_t n_connecting;              /* instance_connect calls that wait [H] */
    kvf_status_t connect_status;        /* KVF_IN_PROGRESS, KVF_OK, or why not [H] */
    char connect_text[KVF_MESSAGE_MAX]; /* [H] */
    pthread_cond_t connected;           /* [H] */
    uint32_t n_refs;                    /* peers and tasks */
};

/* ---- engine ------------------------------------------------------------------------------- */

struct kvf_pool {
    struct kvf_engine *engine;
    struct kvfi_pool_memory memory;
    struct kvfi_pool_geometry geometry;
    uint64_t span_bytes; /* from the first base to the end, of one base */
    uint32_t index;
    bool used;
};

struct kvf_engine {
    struct kvfi_config config; /* [I] */
    struct kvfi_log log;       /* [I] */
    uint64_t incarnation;      /* [I] */
    void *fabric_library;      /* [I] */
    const struct kvfi_fabric_ops *ops;
    struct kvfi_fabric *fabric;
    struct kvfi_fabric_address address;

    pthread_mutex_t lock;
    struct kvf_pool pools[KVFI_POOLS_MAX]; /* [H] until described, then [I] but for unregister */
    struct kvfi_pool_memory pool_memory[KVFI_POOLS_MAX];
    uint32_t n_pools;
    bool described;
    struct kvfi_rank_geometry rank; /* pools' geometry is borrowed from `pools` */
    struct kvf_task *tasks;         /* [max_tasks] */
    struct kvf_task *free_tasks;
    struct kvf_task **names; /* [n_names] chains */
    uint32_t n_names;
    _Atomic uint32_t n_unfinished; /* tasks that are not terminal */
    struct kvf_instance *instances;
    _Atomic(struct kvf_instance *) own_instance;
    _Atomic uint64_t n_blocks; /* block-list entries in use */
    struct kvfi_events events;

    pthread_mutex_t dirty_lock;
    struct kvf_task *dirty; /* FIFO */
    struct kvf_task *dirty_last;
    bool poke_instances;
    bool stop;
    _Atomic uint32_t waking; /* uv_async_send was called and not yet seen */

    pthread_t thread;
    bool has_thread;
    uv_loop_t loop;
    bool has_loop;
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_idle_t spin; /* active: the loop looks again at once */
    uint64_t seen_frames;
    uint64_t active_ns; /* when it last had something to do */
    uv_timer_t tick;
    uv_timer_t stop_timer;
    bool stopping;
    bool closing;       /* lanes are gone, handles are being closed */
    bool left_behind;   /* staging memory could not be freed */
    bool check_leaving; /* look at leaving peers before the loop sleeps */
    uint32_t last_epoch;
    struct kvfi_control *control;
    struct kvfi_lane *send_lanes[KVFI_LANES_MAX];
    struct kvfi_lane *recv_lanes[KVFI_LANES_MAX];
    void *send_memory;
    void *recv_memory;
    struct kvfi_send_sched *send_sched;
    struct kvfi_recv_sched *recv_sched;
    uint32_t send_slot_peer[KVFI_LANES_MAX][64]; /* [C] peer of the launched batch of a slot */
    uint32_t recv_slot_peer[KVFI_LANES_MAX][64];
    uint32_t n_launched;     /* [C] */
    uint32_t n_posted;       /* [C] posted and not yet unpacked */
    struct kvfi_peer *peers; /* [max_peers] */
    uint32_t free_peers;
    struct kvfi_piece_table send_pieces;
    struct kvfi_piece_table recv_pieces;
    struct kvfi_inbound *inbounds; /* [n_inbounds] */
    uint32_t n_inbounds;
    struct kvfi_inbound *free_inbounds;
    struct kvfi_inbound *waiting; /* unmatched REQUESTs */
    struct kvfi_inbound *idle;    /* finished, with no piece left: to be freed */
    struct kvf_task *all;         /* started and not ended */

    struct kvf_stats stats; /* [C] */
    pthread_mutex_t stats_lock;
    struct kvf_stats public_stats; /* under stats_lock */
    struct dump *dump;             /* a waiting engine_dump [H] */
    pthread_cond_t dumped;
};

/* acquire: pairs with the release of instance_add; NULL before it. */
static inline struct kvf_instance *kvfi_own(const struct kvf_engine *engine)
{
    return atomic_load_explicit(&engine->own_instance, memory_order_acquire);
}

/* engine.c */
kvf_status_t kvfi_engine_create(const struct kvf_engine_config *theirs,
                                struct kvf_engine **ret_engine);
/* On a fabric of the caller's (tests); NULL loads the configured one. */
kvf_status_t kvfi_engine_create_on(const struct kvf_engine_config *theirs,
                                   const struct kvfi_fabric_ops *ops,
                                   struct kvf_engine **ret_engine);
void kvfi_engine_destroy(struct kvf_engine *engine);
kvf_status_t kvfi_engine_footprint(const struct kvf_engine_config *theirs, uint32_t n_peers,
                                   struct kvf_footprint *ret_footprint);
/* True in a child of fork(). */
bool kvfi_forked(void);

/* loop.c: the control thread */
void *kvfi_engine_run(void *ctx);
/* Any thread: make the control thread look. */
void kvfi_engine_wake(struct kvf_engine *engine);
/* Any thread: give the control thread something to do for a task. */
void kvfi_engine_poke(struct kvf_task *task, uint32_t wants);
void kvfi_engine_poke_instances(struct kvf_engine *engine);
void kvfi_engine_stop(struct kvf_engine *engine);
kvf_status_t kvfi_loop_init(struct kvf_engine *engine);
/* Close every handle; the loop ends when they are closed. */
void kvfi_loop_close(struct kvf_engine *engine);

/* tasks.c: the task table */
kvf_status_t kvfi_tasks_init(struct kvf_engine *engine);
/* After the control thread: what tasks still hold, pieces aside. */
void kvfi_tasks_drop_all(struct kvf_engine *engine);
void kvfi_tasks_fini(struct kvf_engine *engine);
/* A free task with its life begun, unnamed; NULL with error_text. */
struct kvf_task *kvfi_task_new(struct kvf_engine *engine, bool is_send, uint64_t timeout_ns);
/* Put one back that was never started. */
void kvfi_task_drop(struct kvf_task *task);
/*
 * Enter it in the name table and hand it to the control thread with `wants`, in one step, so that
 * nobody can supersede it before it has started. KVF_EEXIST, KVF_ESUPERSEDED with error_text.
 */
kvf_status_t kvfi_task_name(struct kvf_task *task, uint32_t wants);
void kvfi_task_unname(struct kvf_task *task);
/* The open send of a request, NULL if none. Control thread. */
struct kvf_task *kvfi_task_find_send(struct kvf_engine *engine, const struct kvf_request_id *id,
                                     const char *destination);
/* The receive a peer's `transfer` number stands for, NULL if it is gone. Control thread. */
struct kvf_task *kvfi_task_of_transfer(struct kvf_engine *engine, uint64_t transfer);
uint64_t kvfi_task_transfer(const struct kvf_task *task);
/* Control thread: use the number again if nothing needs the task any more. */
void kvfi_task_settle(struct kvf_task *task);
/* Control thread: handle `wants`. */
void kvfi_task_serve(struct kvf_task *task, uint32_t wants);
/* Control thread: end a task with a sentence. */
void kvfi_task_fail(struct kvf_task *task, enum kvf_task_state state, kvf_status_t status,
                    enum kvf_step step, const struct kvfi_peer *peer, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* extents.c: block lists */
kvf_status_t kvfi_extent_new(struct kvf_engine *engine, const struct kvf_group_blocks *groups,
                             uint32_t n_groups, bool is_receive, struct kvfi_extent **ret_extent);
void kvfi_extent_free(struct kvf_engine *engine, struct kvfi_extent *extent);
/* Whether the blocks of an extent hold every row a plan takes from it; the sentence if not. */
kvf_status_t kvfi_extent_covers(struct kvf_engine *engine, const struct kvfi_extent *extent,
                                const struct kvfi_plan *plan, char *text, size_t text_cap);
bool kvfi_boxes_overlap(const struct kvfi_extent_box *a, const struct kvfi_extent_box *b);
uint32_t kvfi_group_block_tokens(const struct kvf_engine *engine, uint32_t group);
/* Block numbers [*ret_first, *ret_end) of this rank that a range of tokens touches. */
void kvfi_extent_blocks(const struct kvf_engine *engine, uint32_t group,
                        const struct kvf_token_range *tokens, uint64_t *ret_first,
                        uint64_t *ret_end);

/* pieces.c */
kvf_status_t kvfi_pieces_init(struct kvfi_piece_table *table, uint32_t n);
void kvfi_pieces_fini(struct kvfi_piece_table *table);
/* Takes over *map on success. KVFI_NONE: table full or no memory. */
uint32_t kvfi_piece_new(struct kvfi_piece_table *table, struct kvf_task *task,
                        struct kvfi_chunk_map *map, bool is_receive);
void kvfi_piece_free(struct kvfi_piece_table *table, uint32_t piece);

/* peers.c, links.c */
kvf_status_t kvfi_peers_init(struct kvf_engine *engine);
void kvfi_peers_fini(struct kvf_engine *engine);
/* Begin a session to a source rank or to fetch geometry (rank KVFI_NONE); KVFI_NONE if no room. */
uint32_t kvfi_peer_connect(struct kvf_engine *engine, struct kvf_instance *instance, uint32_t rank,
                           const char *address);
void kvfi_peer_bye(struct kvf_engine *engine, struct kvfi_peer *peer, kvf_status_t status,
                   const char *text);
/* Say goodbye to a peer: no new transfers, what is launched arrives, then its session closes. */
void kvfi_peer_leave(struct kvf_engine *engine, struct kvfi_peer *peer);
/* Control thread, before it sleeps: free peers that nothing names any more. */
void kvfi_peers_settle(struct kvf_engine *engine);
/* Close the session if nothing of a leaving peer is in flight. */
void kvfi_peer_drained(struct kvf_engine *engine, struct kvfi_peer *peer);
void kvfi_peer_send(struct kvf_engine *engine, struct kvfi_peer *peer,
                    const Kvfi__Wire__Message *message);
void kvfi_links_open(struct kvf_engine *engine, struct kvfi_peer *peer);
void kvfi_links_close(struct kvf_engine *engine, struct kvfi_peer *peer);
void kvfi_on_link_open(struct kvf_engine *engine, struct kvfi_peer *peer,
                       const Kvfi__Wire__LinkOpen *open);
void kvfi_on_link_ready(struct kvf_engine *engine, struct kvfi_peer *peer,
                        const Kvfi__Wire__LinkReady *ready);
void kvfi_on_up(void *ctx, struct kvfi_session *session);
void kvfi_on_message(void *ctx, struct kvfi_session *session, const Kvfi__Wire__Message *message);
void kvfi_on_down(void *ctx, struct kvfi_session *session, kvf_status_t status, const char *text);

/* instances.c */
kvf_status_t kvfi_instance_add(struct kvf_engine *engine, const struct kvf_instance_desc *desc,
                               struct kvf_instance **ret_instance);
kvf_status_t kvfi_instance_connect(struct kvf_instance *instance, uint64_t timeout_ns);
kvf_status_t kvfi_instance_remove(struct kvf_instance *instance);
kvf_status_t kvfi_engine_describe(struct kvf_engine *engine, uint32_t what, void *buffer,
                                  size_t capacity, size_t *ret_bytes);
/* Control thread: go on with whatever instances wait for. */
void kvfi_instances_serve(struct kvf_engine *engine);
/* Control thread: a peer heard of, with its geometry; NULL with text. */
struct kvf_instance *kvfi_instance_heard(struct kvf_engine *engine, const char *name,
                                         const void *const *blobs, const size_t *blob_bytes,
                                         size_t n_blobs, char *text, size_t text_cap);
void kvfi_instance_geometry_came(struct kvf_engine *engine, struct kvf_instance *instance,
                                 const Kvfi__Wire__Geometry *m);
void kvfi_instance_peer_up(struct kvf_engine *engine, struct kvf_instance *instance);
void kvfi_instance_peer_down(struct kvf_engine *engine, struct kvf_instance *instance,
                             struct kvfi_peer *peer, kvf_status_t status, const char *text);
void kvfi_instances_fini(struct kvf_engine *engine);
struct kvf_instance *kvfi_instance_find(struct kvf_engine *engine, const char *name);

/* pools.c */
kvf_status_t kvfi_pool_register(struct kvf_engine *engine, const struct kvf_pool_desc *desc,
                                struct kvf_pool **ret_pool);
kvf_status_t kvfi_pool_unregister(struct kvf_engine *engine, struct kvf_pool *pool);
void kvfi_pools_fini(struct kvf_engine *engine);
/* No two byte ranges of the blocks overlap. */
kvf_status_t kvfi_pools_check_disjoint(struct kvf_engine *engine, const struct kvfi_extent *extent);

/* source_api.c, source.c: the sending side of transfers */
kvf_status_t kvfi_send_open(struct kvf_engine *engine, const struct kvf_send *send,
                            struct kvf_task **ret_task);
kvf_status_t kvfi_send_extend(struct kvf_task *task, const struct kvf_extent *extent);
kvf_status_t kvfi_send_close(struct kvf_task *task, const void *aux, size_t aux_bytes);
kvf_status_t kvfi_send_all(struct kvf_engine *engine, const struct kvf_send *send,
                           const struct kvf_extent *extent, const void *aux, size_t aux_bytes,
                           struct kvf_task **ret_task);
kvf_status_t kvfi_task_wanted(struct kvf_task *task, uint32_t index, struct kvf_wanted *ret_wanted);
void kvfi_source_serve(struct kvf_task *task, uint32_t wants); /* [C] */
void kvfi_source_ended(struct kvf_task *task);                 /* [C] */
/* [C] Free requests that are over; not from inside a walk over them. */
void kvfi_source_settle(struct kvf_engine *engine);
bool kvfi_source_idle(const struct kvf_task *task); /* [C] nothing names it any more */
void kvfi_source_free(struct kvf_task *task);       /* [C] */
void kvfi_source_peer_down(struct kvf_engine *engine, struct kvfi_peer *peer, const char *text);
void kvfi_on_request(struct kvf_engine *engine, struct kvfi_peer *peer,
                     const Kvfi__Wire__Request *m);
void kvfi_on_finish(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Finish *m);
void kvfi_source_packed(struct kvfi_piece *piece, uint64_t n_bytes); /* lane thread */
void kvfi_source_piece_sent(struct kvf_engine *engine, uint32_t piece, uint64_t n_bytes);
void kvfi_source_piece_idle(struct kvf_engine *engine, uint32_t piece);

/* sink_api.c, sink.c: the receiving side of transfers */
kvf_status_t kvfi_recv(struct kvf_engine *engine, const struct kvf_recv *recv, bool release_only,
                       struct kvf_task **ret_task);
kvf_status_t kvfi_task_missing(struct kvf_task *task, struct kvf_missing *missing, size_t capacity,
                               size_t *ret_n);
void kvfi_sink_serve(struct kvf_task *task, uint32_t wants); /* [C] */
void kvfi_sink_ended(struct kvf_task *task);                 /* [C] */
bool kvfi_sink_idle(const struct kvf_task *task);            /* [C] */
void kvfi_sink_free(struct kvf_task *task);                  /* [C] */
/* Go on with a receive whose instance or peers changed. */
void kvfi_sink_advance(struct kvf_task *task);
void kvfi_sink_peer_down(struct kvf_engine *engine, struct kvfi_peer *peer, kvf_status_t status,
                         const char *text);
void kvfi_on_accept(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Accept *m);
void kvfi_on_refuse(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Refuse *m);
void kvfi_on_extent(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Extent *m);
void kvfi_on_close(struct kvf_engine *engine, struct kvfi_peer *peer, const Kvfi__Wire__Close *m);
/* The receive piece an offered run names: a piece, or KVFI_NONE for filler. */
kvf_status_t kvfi_sink_run(struct kvf_engine *engine, struct kvfi_peer *peer,
                           const Kvfi__Wire__Run *m, uint32_t *ret_piece);
/* A batch with the run is over: delivered, or dropped before it was received. */
void kvfi_sink_run_over(struct kvf_engine *engine, const struct kvfi_run *run, bool delivered);
void kvfi_sink_free_boxes(struct kvfi_outbound *out);

/* batch.c: schedulers, lanes and their messages */
/* Pieces an engine of a configuration has room for, each way. */
static inline uint32_t kvfi_max_pieces(const struct kvfi_config *config)
{
    return config->max_tasks > 131072 ? 1u << 20 : config->max_tasks * 8;
}
void kvfi_sched_configs(const struct kvfi_config *config, struct kvfi_send_sched_config *ret_send,
                        struct kvfi_recv_sched_config *ret_recv);
kvf_status_t kvfi_batches_init(struct kvf_engine *engine);
/* Ends the lanes; false if memory had to be left behind. */
bool kvfi_lanes_end(struct kvf_engine *engine, uint64_t deadline_ns);
void kvfi_batches_fini(struct kvf_engine *engine);
void kvfi_batches_serve(struct kvf_engine *engine); /* [C] lane reports */
bool kvfi_batches_quiet(const struct kvf_engine *engine);
kvf_status_t kvfi_on_offer(struct kvf_engine *engine, struct kvfi_peer *peer,
                           const Kvfi__Wire__Offer *m);
kvf_status_t kvfi_on_batch(struct kvf_engine *engine, struct kvfi_peer *peer,
                           Kvfi__Wire__Message__KindCase kind, const Kvfi__Wire__BatchId *m);

/* dump.c */
kvf_status_t kvfi_engine_dump(struct kvf_engine *engine, char *text, size_t capacity,
                              size_t *ret_bytes);
void kvfi_dump_serve(struct kvf_engine *engine); /* [C] */

#endif
