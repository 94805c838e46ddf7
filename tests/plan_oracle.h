/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What plugin/plan.h promises, checked by brute force: every row of every layer, kv and head of
 * every rank is a cell, and plans are expanded to cells. Shares no code with the plan.
 */
#ifndef KVFERRY_TESTS_PLAN_ORACLE_H
#define KVFERRY_TESTS_PLAN_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan_topologies.h"
#include "plugin/plan.h"

#define ORACLE_TEXT_MAX 512u

/* What was moved by the last checks, so that a test can see that it tested something. */
struct oracle_counts {
    uint64_t plans;
    uint64_t cells;         /* delivered by plans without extent */
    uint64_t entries;       /* of plans without extent */
    uint64_t stripes_moved; /* cells whose source had replicas */
};

struct oracle {
    const struct topo *topo;
    struct kvfi_instance_geometry *src;
    struct kvfi_instance_geometry *dst;
    struct oracle_rank *src_ranks;
    struct oracle_rank *dst_ranks;
    char text[ORACLE_TEXT_MAX]; /* why a check failed */
    struct oracle_counts counts;
    struct kvfi_plan_pair *pairs; /* [src->n_ranks * dst->n_ranks] of the other end; made once */
    uint64_t *sent_bytes;         /* [src->n_ranks] summed over destinations and checks */
    uint64_t last_hash;           /* of the last plan, with what it was made of */
    struct kvfi_plan_entry *last_entries;
    uint64_t *last_rows; /* [last_n] row bytes */
    uint32_t last_n;
};

void oracle_init(struct oracle *o, const struct topo *topo);
void oracle_fini(struct oracle *o);

/* All pairs of all pairs of attention-DP groups, without extents. */
bool oracle_check(struct oracle *o);

/*
 * The same, then n_partitions random partitions of (layers x tokens) into extents, and as many
 * extents at random.
 */
bool oracle_check_extents(struct oracle *o, struct topo_rng *rng, uint32_t n_partitions);

/* oracle_check or oracle_check_extents on a topology; on false text says what and for which. */
bool oracle_run(const struct topo *topo, struct topo_rng *rng, uint32_t n_partitions, char *text,
                size_t text_cap, struct oracle_counts *counts);

#endif
