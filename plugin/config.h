/* SPDX-License-Identifier: Apache-2.0 */
/* An engine's configuration: defaults filled in, ranges checked, strings copied. */
#ifndef KVFERRY_PLUGIN_CONFIG_H
#define KVFERRY_PLUGIN_CONFIG_H

#include <stdbool.h>

#include "kvferry/kvferry.h"

#define KVFI_PATH_MAX 1024u

struct kvfi_config {
    char instance[KVF_NAME_MAX];
    char compat[KVF_NAME_MAX];
    struct kvf_place place;
    uint32_t roles;
    char fabric[16];
    char fabric_path[KVFI_PATH_MAX]; /* "" = beside this library */
    int32_t device;
    char listen_address[KVF_NAME_MAX];
    char advertise_address[KVF_NAME_MAX];
    uint32_t listen_port;
    uint8_t job_key[KVF_JOB_KEY_BYTES];
    bool has_job_key;
    uint32_t n_send_lanes;
    uint32_t n_recv_lanes;
    uint32_t slots_per_lane;
    uint64_t slot_bytes;  /* 0 until the fabric's default is known */
    uint64_t chunk_bytes; /* likewise */
    uint32_t links_per_peer;
    uint32_t max_groups;
    uint32_t max_peers;
    uint32_t max_tasks;
    uint32_t max_blocks;
    uint32_t max_aux_bytes;
    uint64_t default_timeout_ns;
    uint64_t connect_timeout_ns;
    uint64_t destroy_timeout_ns;
    uint32_t log_level;
    kvf_log_fn log;
    void *log_ctx;
};

/* One numeric setting, for validation, `kvferry info` and the documentation. */
struct kvfi_setting {
    const char *name;
    const char *unit;
    uint64_t default_value;
    uint64_t min_value;
    uint64_t max_value;
    const char *reason; /* why this default */
};

/* The i-th setting, NULL past the end. */
const struct kvfi_setting *kvfi_setting_get(unsigned i);

/* Copy, fill in and check. KVF_EINVAL with the sentence in error_text. */
kvf_status_t kvfi_config_init(struct kvfi_config *config, const struct kvf_engine_config *theirs);
/* Settle the sizes that depend on the fabric. */
kvf_status_t kvfi_config_settle(struct kvfi_config *config, uint64_t default_slot_bytes,
                                uint64_t max_slot_bytes);

#endif
