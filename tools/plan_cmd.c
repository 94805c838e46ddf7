/* SPDX-License-Identifier: Apache-2.0 */
/* `kvferry plan`: who sends what to whom for one request, by the library's own plan. */
#include <argp.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"
#include "plugin/plan.h"
#include "tools/commands.h"
#include "tools/error.h"
#include "tools/model.h"
#include "tools/shape.h"
#include "tools/topology.h"

struct plan_options {
    const char *context_text;
    const char *generation_text;
    const char *model_text;
    const char *json_path;
    uint64_t n_layers; /* 0: all */
    uint64_t n_tokens;
    uint64_t prefix_tokens;
    uint64_t block_tokens;
    uint64_t request;
    uint64_t context_dp;
    uint64_t generation_dp;
    bool with_entries;
    struct tool_error error; /* of a bad option */
};

enum plan_key {
    KEY_CONTEXT = 256,
    KEY_GENERATION,
    KEY_MODEL,
    KEY_LAYERS,
    KEY_TOKENS,
    KEY_PREFIX,
    KEY_BLOCK,
    KEY_REQUEST,
    KEY_CONTEXT_DP,
    KEY_GENERATION_DP,
    KEY_ENTRIES,
    KEY_JSON,
};

static const struct argp_option option_list[] = {
    {"context", KEY_CONTEXT, "TOPOLOGY", 0, "Context side, one instance of it (tp1)", 0},
    {"generation", KEY_GENERATION, "TOPOLOGY", 0, "Generation side, one instance (tp1)", 0},
    {"model", KEY_MODEL, "NAME|FILE", 0, "Model geometry (llama-3.1-8b)", 0},
    {"layers", KEY_LAYERS, "N", 0, "Keep the first N layers (all)", 0},
    {"tokens", KEY_TOKENS, "N", 0, "Tokens of the request (1024)", 0},
    {"prefix-tokens", KEY_PREFIX, "N", 0, "First N tokens are not wanted (0)", 0},
    {"block-tokens", KEY_BLOCK, "N", 0, "Tokens of a block (64)", 0},
    {"request", KEY_REQUEST, "N", 0, "Request id; decides which replica begins (0)", 0},
    {"context-dp", KEY_CONTEXT_DP, "N", 0, "Attention-DP group of the source (0)", 0},
    {"generation-dp", KEY_GENERATION_DP, "N", 0, "Attention-DP group of the receiver (0)", 0},
    {"entries", KEY_ENTRIES, NULL, 0, "Also list every box of rows", 0},
    {"json", KEY_JSON, "FILE", 0, "Write the plan as JSON", 0},
    {0},
};

/* Where a number goes and what it may be. */
static bool number_of(int key, const char *arg, struct plan_options *o)
{
    const struct {
        int key;
        const char *name;
        uint64_t min;
        uint64_t max;
        uint64_t *to;
    } numbers[] = {
        {KEY_LAYERS, "--layers", 1, MODEL_LAYERS_MAX, &o->n_layers},
        {KEY_TOKENS, "--tokens", 1, 1u << 30, &o->n_tokens},
        {KEY_PREFIX, "--prefix-tokens", 0, 1u << 30, &o->prefix_tokens},
        {KEY_BLOCK, "--block-tokens", 1, 1u << 20, &o->block_tokens},
        {KEY_REQUEST, "--request", 0, UINT64_MAX, &o->request},
        {KEY_CONTEXT_DP, "--context-dp", 0, UINT32_MAX, &o->context_dp},
        {KEY_GENERATION_DP, "--generation-dp", 0, UINT32_MAX, &o->generation_dp},
    };

    for (size_t i = 0; i < KVFI_ARRAY_LEN(numbers); i++) {
        if (numbers[i].key == key)
            return tool_parse_u64(numbers[i].name, arg, numbers[i].min, numbers[i].max, &o->error,
                                  numbers[i].to);
    }
    return tool_fail(&o->error, "unknown option");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct plan_options *o = state->input;

    switch (key) {
    case KEY_CONTEXT:
        o->context_text = arg;
        return 0;
    case KEY_GENERATION:
        o->generation_text = arg;
        return 0;
    case KEY_MODEL:
        o->model_text = arg;
        return 0;
    case KEY_JSON:
        o->json_path = arg;
        return 0;
    case KEY_ENTRIES:
        o->with_entries = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "\"%s\" is not an option", arg);
        return EINVAL;
    default:
        break;
    }
    if (key < KEY_CONTEXT || key > KEY_JSON)
        return ARGP_ERR_UNKNOWN;
    if (!number_of(key, arg, o)) {
        argp_error(state, "%s", o->error.text);
        return EINVAL;
    }
    return 0;
}

/* -- one side -- */

struct side {
    struct topology topology;
    struct kvfi_instance_geometry geometry;
    struct shape *shapes; /* [n_ranks], owned */
};

static bool rank_geometry(const struct model *model, struct shape *shape,
                          struct kvfi_rank_geometry *ret, struct tool_error *error)
{
    ret->place = shape->place;
    ret->pools = kvfi_calloc(MODEL_GROUPS_MAX, sizeof(*ret->pools));
    if (!ret->pools)
        return tool_fail(error, "out of memory");
    for (uint32_t p = 0; p < shape->n_pools; p++) {
        static char nowhere[1]; /* a plan has no addresses, a description must have one */
        struct kvf_pool_desc desc;

        shape_pool_set_blocks(&shape->pools[p], 1);
        shape->pools[p].base = nowhere;
        shape_pool_desc(shape, &shape->pools[p], model->format, &desc);
        if (kvfi_pool_init(&desc, error->text, sizeof(error->text), &ret->pools[p]) != KVF_OK)
            return false;
        ret->n_pools++;
    }
    return true;
}

static bool side_init(const char *option, const char *text, const char *name,
                      const struct model *model, const struct plan_options *o,
                      struct tool_error *error, struct side *s)
{
    const struct shape_options options = {.block_tokens = (uint32_t)o->block_tokens};
    uint32_t n;

    if (!topology_parse(option, text, error, &s->topology))
        return false;
    n = topology_instance_ranks(&s->topology);
    (void)snprintf(s->geometry.name, sizeof(s->geometry.name), "%s", name);
    s->geometry.ranks = kvfi_calloc(n, sizeof(*s->geometry.ranks));
    s->shapes = kvfi_calloc(n, sizeof(*s->shapes));
    if (!s->geometry.ranks || !s->shapes)
        return tool_fail(error, "out of memory");
    for (uint32_t r = 0; r < n; r++) {
        s->geometry.n_ranks = r + 1;
        if (!shape_init(model, &s->topology, &options, r, error, &s->shapes[r]) ||
            !rank_geometry(model, &s->shapes[r], &s->geometry.ranks[r], error))
            return false;
    }
    return true;
}

static void side_fini(struct side *s)
{
    for (uint32_t r = 0; s->shapes && r < s->geometry.n_ranks; r++)
        shape_fini(&s->shapes[r]);
    kvfi_free(s->shapes);
    if (s->geometry.ranks)
        kvfi_instance_geometry_fini(&s->geometry);
}

/* -- the plan -- */

struct planner {
    const struct plan_options *options;
    const struct model *model;
    struct side side[2]; /* context, generation */
    struct kvfi_plan_input input;
    json_t *pairs;
    uint64_t total_bytes;
    uint32_t n_pairs;
};

static json_t *entry_json(const struct kvfi_plan_entry *e, const struct kvfi_pool_geometry *pool)
{
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "group",
                     (json_int_t)pool->group, "first_layer", (json_int_t)pool->layers[e->dst_layer],
                     "layers", (json_int_t)e->n_layers, "first_kv", (json_int_t)e->dst_kv, "kv",
                     (json_int_t)e->n_kv, "first_head", (json_int_t)pool->first_head + e->dst_head,
                     "heads", (json_int_t)e->n_heads, "runs", (json_int_t)e->n_runs, "run_rows",
                     (json_int_t)e->run_rows, "source_row", (json_int_t)e->src_row,
                     "destination_row", (json_int_t)e->dst_row);
}

static void print_entry(const struct kvfi_plan_entry *e, const struct kvfi_pool_geometry *pool)
{
    (void)printf("      group %" PRIu32 ": layers %" PRIu32 " .. %" PRIu32 ", kv %" PRIu32
                 " .. %" PRIu32 ", heads %" PRIu32 " .. %" PRIu32 ", %" PRIu32 " x %" PRIu64
                 " rows, from local row %" PRIu64 " to %" PRIu64 "\n",
                 pool->group, pool->layers[e->dst_layer],
                 pool->layers[e->dst_layer + e->n_layers - 1], e->dst_kv, e->dst_kv + e->n_kv - 1,
                 pool->first_head + e->dst_head, pool->first_head + e->dst_head + e->n_heads - 1,
                 e->n_runs, e->run_rows, e->src_row, e->dst_row);
}

static void show_pair(struct planner *p, const struct kvfi_plan *plan)
{
    const struct kvfi_rank_geometry *to = &p->side[1].geometry.ranks[p->input.dst_rank];
    json_t *entries = json_array();
    char hash[24];
    char text[32];

    (void)printf("  context rank %" PRIu32 " -> generation rank %" PRIu32 ": %s in %" PRIu32
                 " boxes\n",
                 p->input.src_rank, p->input.dst_rank,
                 tool_bytes_text(plan->bytes, text, sizeof(text)), plan->n_entries);
    for (uint32_t i = 0; i < plan->n_entries; i++) {
        const struct kvfi_plan_entry *e = &plan->entries[i];

        if (p->options->with_entries)
            print_entry(e, &to->pools[e->dst_pool]);
        (void)json_array_append_new(entries, entry_json(e, &to->pools[e->dst_pool]));
    }
    (void)snprintf(hash, sizeof(hash), "%016" PRIx64, plan->hash);
    (void)json_array_append_new(
        p->pairs, json_pack("{s:I,s:I,s:I,s:s,s:o}", "source", (json_int_t)p->input.src_rank,
                            "destination", (json_int_t)p->input.dst_rank, "bytes",
                            (json_int_t)plan->bytes, "hash", hash, "entries", entries));
}

static bool plan_pair(struct planner *p, struct tool_error *error)
{
    struct kvfi_plan plan = {0};

    if (kvfi_plan_init(&p->input, error->text, sizeof(error->text), &plan) != KVF_OK)
        return false;
    if (plan.bytes > 0) {
        show_pair(p, &plan);
        p->total_bytes += plan.bytes;
        p->n_pairs++;
    }
    kvfi_plan_fini(&plan);
    return true;
}

static bool plan_all(struct planner *p, struct tool_error *error)
{
    const struct plan_options *o = p->options;
    const struct kvfi_instance_geometry *from = &p->side[0].geometry;
    const struct kvfi_instance_geometry *to = &p->side[1].geometry;
    bool ok = true;

    for (uint32_t s = 0; ok && s < from->n_ranks; s++) {
        for (uint32_t d = 0; ok && d < to->n_ranks; d++) {
            p->input.src_rank = s;
            p->input.dst_rank = d;
            if (from->ranks[s].place.dp_group == o->context_dp &&
                to->ranks[d].place.dp_group == o->generation_dp)
                ok = plan_pair(p, error);
        }
    }
    return ok;
}

/* What the receiver asks for, and the bytes of that, each once. */
static uint64_t set_ranges(struct planner *p)
{
    const struct plan_options *o = p->options;
    uint64_t unique = 0;

    for (uint32_t g = 0; g < p->model->n_groups; g++) {
        uint64_t window = p->model->group_window_tokens[g];
        uint64_t begin = window && o->n_tokens > window ? o->n_tokens - window : 0;

        begin = kvfi_min_u64(kvfi_max_u64(begin, o->prefix_tokens), o->n_tokens);
        p->input.ranges[g] = (struct kvf_token_range){begin, o->n_tokens};
        unique += (o->n_tokens - begin) * model_group_token_bytes(p->model, g);
    }
    for (int i = 0; i < 8; i++)
        p->input.request.bytes[i] = (uint8_t)(o->request >> 8 * i);
    return unique;
}

static bool write_json(struct planner *p, uint64_t unique, struct tool_error *error)
{
    const struct plan_options *o = p->options;
    json_t *root = json_pack(
        "{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:O}", "context",
        p->side[0].topology.text, "generation", p->side[1].topology.text, "model", p->model->name,
        "layers", (json_int_t)p->model->n_layers, "tokens", (json_int_t)o->n_tokens,
        "prefix_tokens", (json_int_t)o->prefix_tokens, "block_tokens", (json_int_t)o->block_tokens,
        "request", (json_int_t)o->request, "context_dp", (json_int_t)o->context_dp, "generation_dp",
        (json_int_t)o->generation_dp, "bytes_unique", (json_int_t)unique, "bytes",
        (json_int_t)p->total_bytes, "pairs", p->pairs);
    int rc = root ? json_dump_file(root, o->json_path, JSON_INDENT(2)) : -1;

    json_decref(root);
    return rc == 0 || tool_fail(error, "%s could not be written", o->json_path);
}

static bool run(struct planner *p, struct tool_error *error)
{
    const struct plan_options *o = p->options;
    uint64_t unique;
    char text[2][32];

    if (!side_init("--context", o->context_text, "context", p->model, o, error, &p->side[0]) ||
        !side_init("--generation", o->generation_text, "generation", p->model, o, error,
                   &p->side[1]))
        return false;
    if (o->context_dp >= p->side[0].topology.dp)
        return tool_fail(error, "--context-dp: %" PRIu64 ", \"%s\" has %" PRIu32 " groups",
                         o->context_dp, p->side[0].topology.text, p->side[0].topology.dp);
    if (o->generation_dp >= p->side[1].topology.dp)
        return tool_fail(error, "--generation-dp: %" PRIu64 ", \"%s\" has %" PRIu32 " groups",
                         o->generation_dp, p->side[1].topology.text, p->side[1].topology.dp);
    if (kvfi_geometry_match(&p->side[0].geometry, &p->side[1].geometry, error->text,
                            sizeof(error->text)) != KVF_OK)
        return false;
    unique = set_ranges(p);
    p->input.src = &p->side[0].geometry;
    p->input.dst = &p->side[1].geometry;
    p->pairs = json_array();
    (void)printf("context %s, generation %s, model %s (%" PRIu32 " layers), %" PRIu64 " tokens\n",
                 p->side[0].topology.text, p->side[1].topology.text, p->model->name,
                 p->model->n_layers, o->n_tokens);
    if (!plan_all(p, error))
        return false;
    (void)printf("%" PRIu32 " pairs, %s in all; %s distinct\n", p->n_pairs,
                 tool_bytes_text(p->total_bytes, text[0], sizeof(text[0])),
                 tool_bytes_text(unique, text[1], sizeof(text[1])));
    return !o->json_path || write_json(p, unique, error);
}

int plan_main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_list,
        .parser = parse_option,
        .doc = "Show who sends what to whom for one request between two topologies."};
    static struct model model;
    struct plan_options o = {.context_text = "tp1",
                             .generation_text = "tp1",
                             .model_text = "llama-3.1-8b",
                             .n_tokens = 1024,
                             .block_tokens = 64};
    struct planner p = {.options = &o, .model = &model};
    struct tool_error error = {""};
    bool ok;

    argp_err_exit_status = 2;
    if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0)
        return 2;
    if (!model_load(o.model_text, &error, &model) ||
        (o.n_layers && !model_cut(&model, (uint32_t)o.n_layers, &error))) {
        (void)fprintf(stderr, "kvferry plan: %s\n", error.text);
        return 2;
    }
    ok = run(&p, &error);
    if (!ok)
        (void)fprintf(stderr, "kvferry plan: %s\n", error.text);
    side_fini(&p.side[0]);
    side_fini(&p.side[1]);
    json_decref(p.pairs);
    return ok ? 0 : 1;
}
