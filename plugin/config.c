/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/config.h"

#include <stddef.h>
#include <string.h>

#include "collectives/sched.h"
#include "collectives/util.h"
#include "plugin/error.h"
#include "plugin/geometry.h"

#define MIB UINT64_C(1048576)
#define SECOND_NS UINT64_C(1000000000)

/* X(member, unit, default, min, max, reason) */
#define U32_SETTINGS(X)                                                                            \
    X(listen_port, "port", 0, 0, 65535, "any free port; peers learn it from the rank's blob")      \
    X(n_send_lanes, "threads", 2, 1, 64, "one packs while another waits for the wire")             \
    X(n_recv_lanes, "threads", 2, 1, 64, "one unpacks while another waits for the wire")           \
    X(slots_per_lane, "slots", 4, 2, 64, "pack, wire, hand-shake and delivery overlap")            \
    X(links_per_peer, "links", 2, 1, KVFI_LINKS_MAX, "two lanes a peer without one blocking all")  \
    X(max_peers, "peers", 1024, 1, 65536, "tables are allocated at the start")                     \
    X(max_tasks, "tasks", 4096, 1, 1u << 20, "tables are allocated at the start")                  \
    X(max_blocks, "block ids", 4 * MIB, 1, 1u << 30, "block lists of all unreleased tasks")        \
    X(max_aux_bytes, "bytes", MIB / 4, 1, MIB, "first token and draft tokens are far smaller")

#define U64_SETTINGS(X)                                                                            \
    X(default_timeout_ns, "ns", 60 * SECOND_NS, 1, KVF_FOREVER, "TensorRT-LLM's request default")  \
    X(connect_timeout_ns, "ns", 60 * SECOND_NS, 1, KVF_FOREVER, "cold starts take 10-20 s")        \
    X(destroy_timeout_ns, "ns", 10 * SECOND_NS, 1, KVF_FOREVER, "launched work drains in far less")

static const struct kvfi_setting settings[] = {
#define X(member, unit, def, min, max, reason) {#member, unit, def, min, max, reason},
    U32_SETTINGS(X) U64_SETTINGS(X)
#undef X
        {"slot_bytes", "bytes", 0, 4096, 1u << 30, "0 = the fabric's: 1 MiB on mpi"},
    {"chunk_bytes", "bytes", 0, 1024, 1u << 30, "0 = slot_bytes / 4, so that slots fill well"},
    {"max_groups", "groups", 0, 0, 1024, "0 = the fabric's; launched groups hold SMs on a GPU"},
};

const struct kvfi_setting *kvfi_setting_get(unsigned i)
{
    return i < KVFI_ARRAY_LEN(settings) ? &settings[i] : NULL;
}

static kvf_status_t in_range(const char *name, uint64_t value, uint64_t min, uint64_t max)
{
    if (value < min || value > max)
        return kvfi_fail(KVF_EINVAL, "%s is %llu, allowed are %llu to %llu", name,
                         (unsigned long long)value, (unsigned long long)min,
                         (unsigned long long)max);
    return KVF_OK;
}

static kvf_status_t fill_numbers(struct kvfi_config *config, const struct kvf_engine_config *t)
{
    kvf_status_t status = KVF_OK;

#define X(member, unit, def, min, max, reason)                                                     \
    config->member = t->member ? t->member : (uint32_t)(def);                                      \
    if (!status)                                                                                   \
        status = in_range(#member, config->member, (min), (max));
    U32_SETTINGS(X)
#undef X
#define X(member, unit, def, min, max, reason)                                                     \
    config->member = t->member ? t->member : (uint64_t)(def);                                      \
    if (!status)                                                                                   \
        status = in_range(#member, config->member, (min), (max));
    U64_SETTINGS(X)
#undef X
    config->slot_bytes = t->slot_bytes;
    config->chunk_bytes = t->chunk_bytes;
    config->max_groups = t->max_groups;
    if (!(config->roles & KVF_ROLE_CONTEXT))
        config->n_send_lanes = 0;
    if (!(config->roles & KVF_ROLE_GENERATION))
        config->n_recv_lanes = 0;
    return status;
}

/* "" if theirs is NULL and there is a default of "". */
static kvf_status_t copy_text(const char *name, const char *theirs, char *ours, size_t capacity)
{
    size_t n = strnlen(theirs, capacity);

    if (n >= capacity)
        return kvfi_fail(KVF_EINVAL, "%s is longer than the %zu bytes allowed", name, capacity - 1);
    memcpy(ours, theirs, n + 1);
    return KVF_OK;
}

/* Instance names go into handles and messages. */
static kvf_status_t check_instance_name(const char *name)
{
    if (!name || !name[0])
        return kvfi_fail(KVF_EINVAL, "instance is missing");
    for (const char *c = name; *c; c++) {
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
              strchr("._-", *c)))
            return kvfi_fail(KVF_EINVAL,
                             "instance \"%.64s\" has a character outside a-z A-Z 0-9 . _ -", name);
    }
    return KVF_OK;
}

static kvf_status_t fill_texts(struct kvfi_config *config, const struct kvf_engine_config *t)
{
    const char *listen = t->listen_address ? t->listen_address : "127.0.0.1";
    kvf_status_t status = check_instance_name(t->instance);

    if (!status)
        status = copy_text("instance", t->instance, config->instance, sizeof(config->instance));
    if (!status)
        status =
            copy_text("compat", t->compat ? t->compat : "", config->compat, sizeof(config->compat));
    if (!status)
        status =
            copy_text("fabric", t->fabric ? t->fabric : "", config->fabric, sizeof(config->fabric));
    if (!status)
        status = copy_text("fabric_path", t->fabric_path ? t->fabric_path : "", config->fabric_path,
                           sizeof(config->fabric_path));
    if (!status)
        status = copy_text("listen_address", listen, config->listen_address,
                           sizeof(config->listen_address));
    if (!status)
        status =
            copy_text("advertise_address", t->advertise_address ? t->advertise_address : listen,
                      config->advertise_address, sizeof(config->advertise_address));
    return status;
}

static kvf_status_t fill_place(struct kvf_place *place, const struct kvf_place *theirs)
{
    struct kvf_place copy = {0};
    char text[KVF_MESSAGE_MAX];
    kvf_status_t status;

    if (theirs->size < sizeof(theirs->size) || theirs->size > sizeof(*theirs))
        return kvfi_fail(KVF_EINVAL, "place.size is %zu, expected %zu", theirs->size,
                         sizeof(*theirs));
    memcpy(&copy, theirs, theirs->size);
    copy.size = sizeof(copy);
    status = kvfi_place_init(&copy, text, sizeof(text), place);
    return status ? kvfi_fail(status, "place: %s", text) : KVF_OK;
}

kvf_status_t kvfi_config_init(struct kvfi_config *config, const struct kvf_engine_config *theirs)
{
    struct kvf_engine_config t;
    kvf_status_t status;

    if (!theirs)
        return kvfi_fail(KVF_EINVAL, "config is NULL");
    if (theirs->size < offsetof(struct kvf_engine_config, roles))
        return kvfi_fail(KVF_EINVAL, "config.size is %zu, expected %zu", theirs->size,
                         sizeof(*theirs));
    memset(&t, 0, sizeof(t));
    memcpy(&t, theirs, kvfi_min_u64(theirs->size, sizeof(t)));
    memset(config, 0, sizeof(*config));
    config->roles = t.roles ? t.roles : (uint32_t)KVF_ROLE_BOTH;
    if (config->roles & ~(uint32_t)KVF_ROLE_BOTH)
        return kvfi_fail(KVF_EINVAL, "roles is %#x, allowed are the bits %#x", config->roles,
                         (unsigned)KVF_ROLE_BOTH);
    config->device = t.device;
    config->log = t.log;
    config->log_ctx = t.log_ctx;
    config->log_level = t.log_level ? t.log_level : (uint32_t)KVF_LOG_WARN;
    status = fill_place(&config->place, &t.place);
    if (!status)
        status = fill_texts(config, &t);
    if (!status)
        status = fill_numbers(config, &t);
    if (status)
        return status;
    if (t.job_key) {
        memcpy(config->job_key, t.job_key, sizeof(config->job_key));
        config->has_job_key = true;
    }
    return KVF_OK;
}

kvf_status_t kvfi_config_settle(struct kvfi_config *config, uint64_t default_slot_bytes,
                                uint64_t max_slot_bytes)
{
    kvf_status_t status;

    if (config->slot_bytes == 0)
        config->slot_bytes = default_slot_bytes;
    status = in_range("slot_bytes", config->slot_bytes, 4096, max_slot_bytes);
    if (status)
        return status;
    if (config->chunk_bytes == 0)
        config->chunk_bytes = config->slot_bytes / 4;
    return in_range("chunk_bytes", config->chunk_bytes, 1024, config->slot_bytes);
}
