/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ABI 1 as it was released: a second, independent copy of every struct, function and number in
 * kvferry.h and kvferry_mpi.h, compared with them member by member by test_abi.c. A host compiled against an older
 * header must keep working, so the only change allowed here is to append: a member at the end of a
 * struct that begins with `size` and is not embedded in another one, a status, a constant.
 *
 * M(struct, type, member, dimensions) is a data member, F(struct, result, member, arguments) a
 * function pointer. Array lengths and numbers are written out, not taken from kvferry.h.
 */
#ifndef KVFERRY_TESTS_ABI_FROZEN_H
#define KVFERRY_TESTS_ABI_FROZEN_H

#include "collectives/mpi/kvferry_mpi.h"
#include "kvferry/kvferry.h"

/* clang-format off: one member a line is what makes a change here easy to see in a diff. */

#define ABI_KVF_PLACE(M, F, S)                                                                     \
    M(S, size_t, size, )                                                                           \
    M(S, uint32_t, rank, )                                                                         \
    M(S, uint32_t, n_ranks, )                                                                      \
    M(S, uint32_t, pp_rank, )                                                                      \
    M(S, uint32_t, pp_size, )                                                                      \
    M(S, uint32_t, dp_group, )                                                                     \
    M(S, uint32_t, n_dp_groups, )                                                                  \
    M(S, uint32_t, tp_rank, )                                                                      \
    M(S, uint32_t, tp_size, )                                                                      \
    M(S, uint32_t, cp_rank, )                                                                      \
    M(S, uint32_t, cp_size, )                                                                      \
    M(S, uint32_t, cp_interleave_tokens, )

#define ABI_KVF_ENGINE_CONFIG(M, F, S)                                                             \
    M(S, size_t, size, )                                                                           \
    M(S, const char *, instance, )                                                                 \
    M(S, struct frozen_kvf_place, place, )                                                         \
    M(S, uint32_t, roles, )                                                                        \
    M(S, const char *, compat, )                                                                   \
    M(S, const char *, fabric, )                                                                   \
    M(S, const char *, fabric_path, )                                                              \
    M(S, int32_t, device, )                                                                        \
    M(S, const char *, listen_address, )                                                           \
    M(S, const char *, advertise_address, )                                                        \
    M(S, uint32_t, listen_port, )                                                                  \
    M(S, const void *, job_key, )                                                                  \
    M(S, uint32_t, n_send_lanes, )                                                                 \
    M(S, uint32_t, n_recv_lanes, )                                                                 \
    M(S, uint32_t, slots_per_lane, )                                                               \
    M(S, uint64_t, slot_bytes, )                                                                   \
    M(S, uint64_t, chunk_bytes, )                                                                  \
    M(S, uint32_t, links_per_peer, )                                                               \
    M(S, uint32_t, max_groups, )                                                                   \
    M(S, uint32_t, max_peers, )                                                                    \
    M(S, uint32_t, max_tasks, )                                                                    \
    M(S, uint32_t, max_blocks, )                                                                   \
    M(S, uint32_t, max_aux_bytes, )                                                                \
    M(S, uint64_t, default_timeout_ns, )                                                           \
    M(S, uint64_t, connect_timeout_ns, )                                                           \
    M(S, uint64_t, destroy_timeout_ns, )                                                           \
    M(S, uint32_t, log_level, )                                                                    \
    M(S, kvf_log_fn, log, )                                                                        \
    M(S, void *, log_ctx, )

#define ABI_KVF_FOOTPRINT(M, F, S)                                                                 \
    M(S, size_t, size, )                                                                           \
    M(S, uint64_t, staging_bytes, )                                                                \
    M(S, uint64_t, table_bytes, )                                                                  \
    M(S, uint64_t, peer_bytes, )                                                                   \
    M(S, uint64_t, total_bytes, )

#define ABI_KVF_STATS(M, F, S)                                                                     \
    M(S, size_t, size, )                                                                           \
    M(S, uint64_t, tasks_submitted, )                                                              \
    M(S, uint64_t, tasks_done, )                                                                   \
    M(S, uint64_t, tasks_failed, )                                                                 \
    M(S, uint64_t, tasks_cancelled, )                                                              \
    M(S, uint64_t, tasks_expired, )                                                                \
    M(S, uint64_t, bytes_sent, )                                                                   \
    M(S, uint64_t, bytes_received, )                                                               \
    M(S, uint64_t, filler_bytes, )                                                                 \
    M(S, uint64_t, batches_sent, )                                                                 \
    M(S, uint64_t, batches_received, )                                                             \
    M(S, uint64_t, chunks_sent, )                                                                  \
    M(S, uint64_t, chunks_received, )                                                              \
    M(S, uint64_t, pack_ns, )                                                                      \
    M(S, uint64_t, wire_ns, )                                                                      \
    M(S, uint64_t, unpack_ns, )                                                                    \
    M(S, uint64_t, control_frames_sent, )                                                          \
    M(S, uint64_t, control_frames_received, )                                                      \
    M(S, uint64_t, peers, )                                                                        \
    M(S, uint64_t, links, )

#define ABI_KVF_POOL_DESC(M, F, S)                                                                 \
    M(S, size_t, size, )                                                                           \
    M(S, uint32_t, group, )                                                                        \
    M(S, uint32_t, role, )                                                                         \
    M(S, uint32_t, flags, )                                                                        \
    M(S, uint32_t, memory, )                                                                       \
    M(S, const char *, format, )                                                                   \
    M(S, uint32_t, n_blocks, )                                                                     \
    M(S, uint32_t, block_tokens, )                                                                 \
    M(S, uint32_t, tokens_per_row, )                                                               \
    M(S, uint32_t, token_atom, )                                                                   \
    M(S, uint64_t, row_bytes, )                                                                    \
    M(S, uint32_t, n_kv, )                                                                         \
    M(S, uint32_t, n_layers, )                                                                     \
    M(S, const uint32_t *, layers, )                                                               \
    M(S, uint32_t, n_heads, )                                                                      \
    M(S, uint32_t, first_head, )                                                                   \
    M(S, uint32_t, n_heads_total, )                                                                \
    M(S, uint32_t, head_atom, )                                                                    \
    M(S, uint64_t, stride_block, )                                                                 \
    M(S, uint64_t, stride_layer, )                                                                 \
    M(S, uint64_t, stride_kv, )                                                                    \
    M(S, uint64_t, stride_head, )                                                                  \
    M(S, uint64_t, stride_row, )                                                                   \
    M(S, uint32_t, n_bases, )                                                                      \
    M(S, void *const *, bases, )

#define ABI_KVF_INSTANCE_DESC(M, F, S)                                                             \
    M(S, size_t, size, )                                                                           \
    M(S, const char *, handle, )                                                                   \
    M(S, uint32_t, n_blobs, )                                                                      \
    M(S, const void *const *, blobs, )                                                             \
    M(S, const size_t *, blob_bytes, )

#define ABI_KVF_REQUEST_ID(M, F, S) M(S, uint8_t, bytes, [16])

#define ABI_KVF_TOKEN_RANGE(M, F, S)                                                               \
    M(S, uint64_t, begin, )                                                                        \
    M(S, uint64_t, end, )

#define ABI_KVF_GROUP_BLOCKS(M, F, S)                                                              \
    M(S, size_t, size, )                                                                           \
    M(S, uint32_t, group, )                                                                        \
    M(S, uint32_t, first_block, )                                                                  \
    M(S, uint32_t, n_blocks, )                                                                     \
    M(S, const uint32_t *, blocks, )                                                               \
    M(S, struct frozen_kvf_token_range, tokens, )

#define ABI_KVF_FENCE(M, F, S)                                                                     \
    M(S, uint32_t, kind, )                                                                         \
    M(S, uint32_t, reserved, )                                                                     \
    M(S, void *, handle, )

#define ABI_KVF_SEND(M, F, S)                                                                      \
    M(S, size_t, size, )                                                                           \
    M(S, struct frozen_kvf_request_id, request, )                                                  \
    M(S, uint64_t, attempt, )                                                                      \
    M(S, const char *, destination, )                                                              \
    M(S, uint32_t, n_receivers, )                                                                  \
    M(S, int32_t, priority, )                                                                      \
    M(S, uint64_t, timeout_ns, )                                                                   \
    M(S, uint64_t, user, )

#define ABI_KVF_EXTENT(M, F, S)                                                                    \
    M(S, size_t, size, )                                                                           \
    M(S, uint32_t, first_layer, )                                                                  \
    M(S, uint32_t, end_layer, )                                                                    \
    M(S, uint32_t, n_groups, )                                                                     \
    M(S, const struct kvf_group_blocks *, groups, )                                                \
    M(S, struct frozen_kvf_fence, fence, )

#define ABI_KVF_RECV(M, F, S)                                                                      \
    M(S, size_t, size, )                                                                           \
    M(S, const char *, source, )                                                                   \
    M(S, struct frozen_kvf_request_id, request, )                                                  \
    M(S, uint64_t, attempt, )                                                                      \
    M(S, uint32_t, source_dp_group, )                                                              \
    M(S, uint32_t, n_groups, )                                                                     \
    M(S, const struct kvf_group_blocks *, groups, )                                                \
    M(S, void *, aux, )                                                                            \
    M(S, uint64_t, aux_capacity, )                                                                 \
    M(S, struct frozen_kvf_fence, fence, )                                                         \
    M(S, int32_t, priority, )                                                                      \
    M(S, uint64_t, timeout_ns, )                                                                   \
    M(S, uint64_t, user, )

#define ABI_KVF_RESULT(M, F, S)                                                                    \
    M(S, size_t, size, )                                                                           \
    M(S, uint32_t, state, )                                                                        \
    M(S, kvf_status_t, status, )                                                                   \
    M(S, uint32_t, step, )                                                                         \
    M(S, uint32_t, peer_rank, )                                                                    \
    M(S, char, peer_instance, [64])                                                                \
    M(S, char, message, [256])                                                                     \
    M(S, uint64_t, bytes, )                                                                        \
    M(S, uint64_t, bytes_wanted, )                                                                 \
    M(S, uint64_t, aux_bytes, )                                                                    \
    M(S, uint64_t, attempt, )                                                                      \
    M(S, uint64_t, times_ns, [6])                                                                  \
    M(S, uint64_t, n_missing, )

#define ABI_KVF_MISSING(M, F, S)                                                                   \
    M(S, uint32_t, group, )                                                                        \
    M(S, uint32_t, block, )                                                                        \
    M(S, uint64_t, first_token, )

#define ABI_KVF_WANTED(M, F, S)                                                                    \
    M(S, size_t, size, )                                                                           \
    M(S, char, destination, [64])                                                                  \
    M(S, uint32_t, dp_group, )                                                                     \
    M(S, uint32_t, n_groups, )                                                                     \
    M(S, struct frozen_kvf_token_range, tokens, [16])

#define ABI_KVF_EVENT(M, F, S)                                                                     \
    M(S, size_t, size, )                                                                           \
    M(S, uint64_t, user, )                                                                         \
    M(S, struct kvf_task *, task, )                                                                \
    M(S, uint32_t, kinds, )                                                                        \
    M(S, kvf_status_t, status, )

#define ABI_KVFERRY_PLUGIN_V1(M, F, S)                                                             \
    M(S, size_t, size, )                                                                           \
    M(S, const char *, name, )                                                                     \
    M(S, const char *, version, )                                                                  \
    F(S, kvf_status_t, engine_footprint,                                                           \
      (const struct kvf_engine_config *, uint32_t, struct kvf_footprint *))                        \
    F(S, kvf_status_t, engine_create, (const struct kvf_engine_config *, struct kvf_engine **))    \
    F(S, void, engine_destroy, (struct kvf_engine *))                                              \
    F(S, kvf_status_t, engine_describe, (struct kvf_engine *, uint32_t, void *, size_t, size_t *)) \
    F(S, int, engine_event_fd, (struct kvf_engine *))                                              \
    F(S, kvf_status_t, engine_reap, (struct kvf_engine *, struct kvf_event *, size_t, size_t *))   \
    F(S, kvf_status_t, engine_stats, (struct kvf_engine *, struct kvf_stats *))                    \
    F(S, kvf_status_t, engine_dump, (struct kvf_engine *, char *, size_t, size_t *))               \
    F(S, kvf_status_t, mem_alloc, (struct kvf_engine *, uint64_t, void **))                        \
    F(S, kvf_status_t, mem_free, (struct kvf_engine *, void *))                                    \
    F(S, kvf_status_t, pool_register,                                                              \
      (struct kvf_engine *, const struct kvf_pool_desc *, struct kvf_pool **))                     \
    F(S, kvf_status_t, pool_unregister, (struct kvf_engine *, struct kvf_pool *))                  \
    F(S, kvf_status_t, instance_add,                                                               \
      (struct kvf_engine *, const struct kvf_instance_desc *, struct kvf_instance **))             \
    F(S, kvf_status_t, instance_connect, (struct kvf_instance *, uint64_t))                        \
    F(S, kvf_status_t, instance_remove, (struct kvf_instance *))                                   \
    F(S, kvf_status_t, send_open,                                                                  \
      (struct kvf_engine *, const struct kvf_send *, struct kvf_task **))                          \
    F(S, kvf_status_t, send_extend, (struct kvf_task *, const struct kvf_extent *))                \
    F(S, kvf_status_t, send_close, (struct kvf_task *, const void *, size_t))                      \
    F(S, kvf_status_t, send,                                                                       \
      (struct kvf_engine *, const struct kvf_send *, const struct kvf_extent *, const void *,      \
       size_t, struct kvf_task **))                                                                \
    F(S, kvf_status_t, recv, (struct kvf_engine *, const struct kvf_recv *, struct kvf_task **))   \
    F(S, kvf_status_t, request_release,                                                            \
      (struct kvf_engine *, const struct kvf_recv *, struct kvf_task **))                          \
    F(S, kvf_status_t, request_hold, (struct kvf_engine *, const struct kvf_recv *, uint64_t))     \
    F(S, kvf_status_t, task_poll, (struct kvf_task *, struct kvf_result *))                        \
    F(S, kvf_status_t, task_wait, (struct kvf_task *, uint64_t, struct kvf_result *))              \
    F(S, kvf_status_t, task_extend, (struct kvf_task *, uint64_t))                                 \
    F(S, kvf_status_t, task_cancel, (struct kvf_task *, uint32_t))                                 \
    F(S, kvf_status_t, task_release, (struct kvf_task *))                                          \
    F(S, kvf_status_t, task_missing, (struct kvf_task *, struct kvf_missing *, size_t, size_t *))  \
    F(S, kvf_status_t, task_wanted, (struct kvf_task *, uint32_t, struct kvf_wanted *))            \
    F(S, const char *, status_text, (kvf_status_t))                                                \
    F(S, const char *, status_name, (kvf_status_t))                                                \
    F(S, const char *, error_text, (void))                                                         \
    F(S, struct kvf_request_id, request_id_hash, (const void *, size_t))                           \
    F(S, struct kvf_request_id, request_id_u64, (uint64_t))

#define ABI_KVFERRY_MPI_V1(M, F, S)                                                                \
    M(S, size_t, size, )                                                                           \
    M(S, const char *, name, )                                                                     \
    M(S, const char *, version, )                                                                  \
    F(S, kvf_status_t, attach, (const void *, char *, size_t))                                     \
    F(S, kvf_status_t, detach, (char *, size_t))                                                   \
    F(S, kvf_status_t, place, (uint32_t *, uint32_t *))                                            \
    F(S, kvf_status_t, job_key, (uint8_t *, char *, size_t))                                       \
    F(S, kvf_status_t, allgather,                                                                  \
      (const void *, size_t, size_t *, void *, size_t, char *, size_t))                            \
    F(S, const struct kvfi_fabric_ops *, fabric, (void))

/* Every struct that the public headers define. */
#define ABI_STRUCTS(X)                                                                             \
    X(kvf_place, ABI_KVF_PLACE)                                                                    \
    X(kvf_engine_config, ABI_KVF_ENGINE_CONFIG)                                                    \
    X(kvf_footprint, ABI_KVF_FOOTPRINT)                                                            \
    X(kvf_stats, ABI_KVF_STATS)                                                                    \
    X(kvf_pool_desc, ABI_KVF_POOL_DESC)                                                            \
    X(kvf_instance_desc, ABI_KVF_INSTANCE_DESC)                                                    \
    X(kvf_request_id, ABI_KVF_REQUEST_ID)                                                          \
    X(kvf_token_range, ABI_KVF_TOKEN_RANGE)                                                        \
    X(kvf_group_blocks, ABI_KVF_GROUP_BLOCKS)                                                      \
    X(kvf_fence, ABI_KVF_FENCE)                                                                    \
    X(kvf_send, ABI_KVF_SEND)                                                                      \
    X(kvf_extent, ABI_KVF_EXTENT)                                                                  \
    X(kvf_recv, ABI_KVF_RECV)                                                                      \
    X(kvf_result, ABI_KVF_RESULT)                                                                  \
    X(kvf_missing, ABI_KVF_MISSING)                                                                \
    X(kvf_wanted, ABI_KVF_WANTED)                                                                  \
    X(kvf_event, ABI_KVF_EVENT)                                                                    \
    X(kvferry_plugin_v1, ABI_KVFERRY_PLUGIN_V1)                                                    \
    X(kvferry_mpi_v1, ABI_KVFERRY_MPI_V1)

#define ABI_STATUSES(X)                                                                            \
    X(KVF_OK, 0)                                                                                   \
    X(KVF_IN_PROGRESS, 1)                                                                          \
    X(KVF_EINVAL, -1)                                                                              \
    X(KVF_ENOMEM, -2)                                                                              \
    X(KVF_ETIMEDOUT, -3)                                                                           \
    X(KVF_ECANCELED, -4)                                                                           \
    X(KVF_EPEER, -5)                                                                               \
    X(KVF_EDEVICE, -6)                                                                             \
    X(KVF_EVERSION, -7)                                                                            \
    X(KVF_EUNSUPPORTED, -8)                                                                        \
    X(KVF_EFORK, -9)                                                                               \
    X(KVF_ECAPTURE, -10)                                                                           \
    X(KVF_EBUSY, -11)                                                                              \
    X(KVF_ENOSPC, -12)                                                                             \
    X(KVF_EEXIST, -13)                                                                             \
    X(KVF_ENOENT, -14)                                                                             \
    X(KVF_EMISMATCH, -15)                                                                          \
    X(KVF_EAUTH, -16)                                                                              \
    X(KVF_ENET, -17)                                                                               \
    X(KVF_EPROTO, -18)                                                                             \
    X(KVF_EFABRIC, -19)                                                                            \
    X(KVF_ESTALLED, -20)                                                                           \
    X(KVF_ESUPERSEDED, -21)                                                                        \
    X(KVF_ECORRUPT, -22)                                                                           \
    X(KVF_ESTATE, -23)                                                                             \
    X(KVF_EINTERNAL, -24)

#define ABI_CONSTANTS(X)                                                                           \
    X(KVF_LOG_ERROR, 1)                                                                            \
    X(KVF_LOG_WARN, 2)                                                                             \
    X(KVF_LOG_INFO, 3)                                                                             \
    X(KVF_LOG_DEBUG, 4)                                                                            \
    X(KVF_LOG_TRACE, 5)                                                                            \
    X(KVF_ROLE_CONTEXT, 1)                                                                         \
    X(KVF_ROLE_GENERATION, 2)                                                                      \
    X(KVF_ROLE_BOTH, 3)                                                                            \
    X(KVF_DESCRIBE_RANK, 1)                                                                        \
    X(KVF_DESCRIBE_INSTANCE, 2)                                                                    \
    X(KVF_POOL_KEY, 1)                                                                             \
    X(KVF_POOL_VALUE, 2)                                                                           \
    X(KVF_POOL_KV, 3)                                                                              \
    X(KVF_POOL_LATENT, 4)                                                                          \
    X(KVF_POOL_SCALE_KEY, 5)                                                                       \
    X(KVF_POOL_SCALE_VALUE, 6)                                                                     \
    X(KVF_POOL_INDEX, 7)                                                                           \
    X(KVF_POOL_STATE, 8)                                                                           \
    X(KVF_POOL_USER, 1024)                                                                         \
    X(KVF_POOL_PER_REQUEST, 1)                                                                     \
    X(KVF_POOL_OPTIONAL, 2)                                                                        \
    X(KVF_MEMORY_HOST, 1)                                                                          \
    X(KVF_MEMORY_CUDA, 2)                                                                          \
    X(KVF_FENCE_NONE, 0)                                                                           \
    X(KVF_FENCE_STREAM, 1)                                                                         \
    X(KVF_FENCE_EVENT, 2)                                                                          \
    X(KVF_TASK_PENDING, 0)                                                                         \
    X(KVF_TASK_MOVING, 1)                                                                          \
    X(KVF_TASK_ENDING, 2)                                                                          \
    X(KVF_TASK_DONE, 3)                                                                            \
    X(KVF_TASK_FAILED, 4)                                                                          \
    X(KVF_TASK_CANCELLED, 5)                                                                       \
    X(KVF_TASK_EXPIRED, 6)                                                                         \
    X(KVF_STEP_NONE, 0)                                                                            \
    X(KVF_STEP_CONNECT, 1)                                                                         \
    X(KVF_STEP_MATCH, 2)                                                                           \
    X(KVF_STEP_EXTENT, 3)                                                                          \
    X(KVF_STEP_FENCE, 4)                                                                           \
    X(KVF_STEP_GRANT, 5)                                                                           \
    X(KVF_STEP_PACK, 6)                                                                            \
    X(KVF_STEP_WIRE, 7)                                                                            \
    X(KVF_STEP_UNPACK, 8)                                                                          \
    X(KVF_STEP_DELIVER, 9)                                                                         \
    X(KVF_STEP_AUX, 10)                                                                            \
    X(KVF_TIME_SUBMITTED, 0)                                                                       \
    X(KVF_TIME_MATCHED, 1)                                                                         \
    X(KVF_TIME_FENCE, 2)                                                                           \
    X(KVF_TIME_FIRST_BYTE, 3)                                                                      \
    X(KVF_TIME_WIRE_DONE, 4)                                                                       \
    X(KVF_TIME_DONE, 5)                                                                            \
    X(KVF_TIME_COUNT, 6)                                                                           \
    X(KVF_EVENT_MATCHED, 1)                                                                        \
    X(KVF_EVENT_SOURCE_RELEASED, 2)                                                                \
    X(KVF_EVENT_LAYERS, 4)                                                                         \
    X(KVF_EVENT_ENDED, 8)                                                                          \
    X(KVF_CANCEL_RESTART, 1)                                                                       \
    X(KVF_ABI_VERSION, 1u)                                                                         \
    X(KVF_NAME_MAX, 64u)                                                                           \
    X(KVF_FORMAT_MAX, 16u)                                                                         \
    X(KVF_HANDLE_MAX, 512u)                                                                        \
    X(KVF_MESSAGE_MAX, 256u)                                                                       \
    X(KVF_JOB_KEY_BYTES, 32u)                                                                      \
    X(KVF_GROUPS_MAX, 16u)                                                                         \
    X(KVF_NO_BLOCK, UINT32_MAX)                                                                    \
    X(KVF_DP_UNKNOWN, UINT32_MAX)                                                                  \
    X(KVF_LAYERS_ALL, UINT32_MAX)                                                                  \
    X(KVF_TOKENS_ALL, UINT64_MAX)                                                                  \
    X(KVF_ATTEMPT_ANY, UINT64_MAX)                                                                 \
    X(KVF_RECEIVERS_ANY, 0u)                                                                       \
    X(KVF_FOREVER, UINT64_MAX)

/* clang-format on */

#define ABI_DATA(S, type, member, dimensions) type member dimensions;
/* NOLINTNEXTLINE(bugprone-macro-parentheses): a declaration takes none here. */
#define ABI_FUNCTION(S, result, member, arguments) result(*member) arguments;
#define ABI_DEFINE(S, LIST)                                                                        \
    struct frozen_##S {                                                                            \
        LIST(ABI_DATA, ABI_FUNCTION, S)                                                            \
    };
ABI_STRUCTS(ABI_DEFINE)

#endif
