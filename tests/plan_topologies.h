/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instance geometries for tests of the plan, built from a short description: what the model has
 * (parts), how each side keeps it, and how each side is split over ranks. Nothing of the library is
 * used, so that a mistake in it cannot hide here as well.
 */
#ifndef KVFERRY_TESTS_PLAN_TOPOLOGIES_H
#define KVFERRY_TESTS_PLAN_TOPOLOGIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvferry/kvferry.h"
#include "plugin/geometry.h"

#define TOPO_PP_MAX 8u
#define TOPO_PARTS_MAX 6u
#define TOPO_TEXT_MAX 2048u

enum topo_which { TOPO_SRC = 0, TOPO_DST = 1 };

enum topo_split {
    TOPO_SPLIT_NONE = 0,
    TOPO_SPLIT_HALVES = 1,  /* two pools: the lower and the upper layers */
    TOPO_SPLIT_EVENODD = 2, /* two pools: every second layer each */
};

/* One kind of rows of the model, as both sides must agree on it. */
struct topo_part {
    uint32_t role;  /* enum kvf_pool_role; KVF_POOL_KV: keys and values, in whichever pools */
    uint32_t group; /* block table */
    bool per_request;
    uint32_t first_layer; /* global layers first, first + step, …, n_layers of them */
    uint32_t n_layers;
    uint32_t layer_step;
    uint32_t n_heads; /* of the model */
    uint32_t tokens_per_row;
    uint32_t row_bytes;
};

/* How one side keeps a part. */
struct topo_keep {
    uint32_t block_tokens;
    uint32_t token_atom;
    uint32_t head_atom;
    uint32_t head_unit;    /* heads are dealt to tp ranks in runs of this many */
    uint32_t lacks;        /* so many of the part's last layers are not on this side */
    uint32_t split;        /* enum topo_split */
    bool split_kv;         /* KVF_POOL_KV: a KEY and a VALUE pool */
    bool optional;         /* KVF_POOL_OPTIONAL */
    bool token_major;      /* order: row outside head */
    bool layer_minor;      /* order: layer innermost but one, as with one tensor a token */
    uint32_t head_overlap; /* so many units of heads below its own are on a rank too */
    uint32_t odd_split;    /* 0, or enum topo_split of odd tp ranks */
    uint32_t odd_atom;     /* 0, or odd tp ranks have so many times the token_atom */
    uint32_t group_plus;   /* added to the part's group: block tables are numbered per side */
};

struct topo_side {
    uint32_t tp; /* within one attention-DP group */
    uint32_t pp;
    uint32_t dp;
    uint32_t cp;
    uint32_t interleave_tokens;
    uint32_t pp_end[TOPO_PP_MAX]; /* stage s has global layers pp_end[s-1] <= l < pp_end[s] */
    uint32_t layer_overlap;       /* so many layers below its own are on a stage too */
    uint32_t shuffle;             /* 0: ranks numbered dp, pp, tp, cp; else in a random order */
    bool reverse_pools;
    struct topo_keep keep[TOPO_PARTS_MAX];
};

struct topo {
    uint32_t n_layers; /* global */
    uint32_t n_parts;
    struct topo_part parts[TOPO_PARTS_MAX];
    struct topo_side side[2]; /* by enum topo_which */
    struct kvf_token_range ranges[KVF_GROUPS_MAX];
    uint64_t request; /* id: eight bytes and eight more */
    uint64_t request_high;
};

/* calloc that ends the test where there is no memory. */
void *must_calloc(size_t n, size_t elem_bytes);

/* xorshift64*, so that a case is its seed. */
struct topo_rng {
    uint64_t state;
};
uint64_t topo_rng64(struct topo_rng *rng);
uint32_t topo_rnd(struct topo_rng *rng, uint32_t n); /* 0 <= result < n */

/*
 * Start a description: sides from text such as "tp4pp2", "dp2tp2" (two attention-DP groups of tp
 * 2) or "tp2cp2/8" (interleave 8), layers dealt to stages as evenly as can be, the first stages
 * getting one more; no parts.
 */
void topo_init(struct topo *t, const char *src, const char *dst, uint32_t n_layers);

/* Add a part over all layers, with blocks of 8 tokens and nothing special. Returns it. */
struct topo_part *topo_add(struct topo *t, uint32_t role, uint32_t group, uint32_t n_heads);

/* The request's range of a group. */
void topo_range(struct topo *t, uint32_t group, uint64_t begin, uint64_t end);

/*
 * Build one side's geometry. What plans must not depend on (blocks in the pools, addresses,
 * incarnations) differs by `variant`.
 */
void topo_build(const struct topo *t, enum topo_which which, uint32_t variant,
                struct kvfi_instance_geometry *ret_instance);
void topo_free(struct kvfi_instance_geometry *instance);

/* One line that says everything of the description. */
void topo_text(const struct topo *t, char text[TOPO_TEXT_MAX]);

/* A small valid topology; the same for the same state of rng. */
void topo_random(struct topo *t, struct topo_rng *rng);

#endif
