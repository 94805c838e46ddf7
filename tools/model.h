/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models: what of them matters to their KV cache, read from a JSON file.
 *
 *     name             text
 *     source           where the figures come from
 *     layers           attention layers
 *     attention        "gqa" (keys and values a head) or "mla" (one latent a token)
 *     kv_heads         gqa: key-value heads
 *     head_dim         gqa: elements of a key or value
 *     latent_dim       mla: elements of the compressed latent
 *     rope_dim         mla: elements of the key's rotary part, stored beside it
 *     format           element format, such as "bf16"
 *     element_bytes    bytes of an element
 *     window_tokens    optional: sliding window of some layers
 *     window_pattern   optional: [bool, …] repeated over the layers; true: the layer has the window
 */
#ifndef KVFERRY_TOOLS_MODEL_H
#define KVFERRY_TOOLS_MODEL_H

#include "kvferry/kvferry.h"
#include "tools/error.h"

#define MODEL_LAYERS_MAX 4096u
#define MODEL_GROUPS_MAX 2u /* group 0: full attention, or all layers; the next: sliding window */

struct model {
    char name[KVF_NAME_MAX];
    char source[512];
    char format[KVF_FORMAT_MAX];
    uint32_t n_layers;
    bool is_mla;
    uint32_t n_heads;       /* 1 for a latent */
    uint32_t n_kv;          /* 2: keys and values; 1: a latent */
    uint32_t element_bytes; /* of one element */
    uint64_t row_bytes;     /* of one token, layer, kv and head */
    uint32_t window_tokens; /* 0: no layer has a window */
    uint32_t n_groups;
    uint8_t group_of_layer[MODEL_LAYERS_MAX];       /* [n_layers] */
    uint32_t group_window_tokens[MODEL_GROUPS_MAX]; /* 0: no window */
};

/*
 * Load a model: a path when `name` has a slash or ends in .json, else NAME.json beside the
 * executable (build tree) or in the data folder. A name that is not found is answered with those
 * that are.
 */
bool model_load(const char *name, struct tool_error *error, struct model *ret_model);

/* Keep the first n_layers layers. */
bool model_cut(struct model *model, uint32_t n_layers, struct tool_error *error);

/* Bytes of one token over all layers, kv and heads of a group; each byte once. */
uint64_t model_group_token_bytes(const struct model *model, uint32_t group);

#endif
