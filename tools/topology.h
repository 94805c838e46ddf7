/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Topologies as people write them: "tp2", "tp4pp2", "dep4" (attention-DP over 4 ranks, experts
 * spread over the same ranks), "tp2dp2" (2 attention-DP groups of 2), "cp2", "2x tp2" (two
 * instances of tp2).
 */
#ifndef KVFERRY_TOOLS_TOPOLOGY_H
#define KVFERRY_TOOLS_TOPOLOGY_H

#include "kvferry/kvferry.h"
#include "tools/error.h"

#define TOPOLOGY_INSTANCE_RANKS_MAX 4096u
#define TOPOLOGY_INSTANCES_MAX 1024u

struct topology {
    uint32_t n_instances;
    uint32_t tp; /* within an attention-DP group */
    uint32_t pp;
    uint32_t cp;
    uint32_t dp;
    char text[64]; /* as it was written */
};

/* `name` is the option the sentence names. */
bool topology_parse(const char *name, const char *text, struct tool_error *error,
                    struct topology *ret);

uint32_t topology_instance_ranks(const struct topology *t);
uint32_t topology_ranks(const struct topology *t);

/* Refuses a world of another size than the two sides need together; names both numbers. */
bool topology_check_world(const struct topology *context, const struct topology *generation,
                          uint32_t world_ranks, struct tool_error *error);

/*
 * The place of rank `rank` of an instance. This tool's own order (tensor ranks next to each other,
 * then attention-DP groups, then context-parallel ranks, then pipeline stages); the library assumes
 * none. cp_interleave_tokens is left 0 without context parallelism.
 */
void topology_place(const struct topology *t, uint32_t rank, uint32_t cp_interleave_tokens,
                    struct kvf_place *ret_place);

#endif
