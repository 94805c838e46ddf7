/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench.h"

#include <argp.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum option_kind {
    KIND_TEXT,
    KIND_NUMBER,
    KIND_FLAG,
};

/* An option: where it goes and what it may be. Keys are 256 + its index. */
struct option_rule {
    const char *name;
    const char *arg;
    const char *help;
    enum option_kind kind;
    size_t offset;
    uint64_t min;
    uint64_t max;
};

#define TEXT(name, arg, field, help)                                                               \
    {                                                                                              \
        name, arg, help, KIND_TEXT, offsetof(struct bench_options, field), 0, 0                    \
    }
#define NUMBER(name, arg, field, min, max, help)                                                   \
    {                                                                                              \
        name, arg, help, KIND_NUMBER, offsetof(struct bench_options, field), min, max              \
    }
#define FLAG(name, field, help)                                                                    \
    {                                                                                              \
        name, NULL, help, KIND_FLAG, offsetof(struct bench_options, field), 0, 0                   \
    }

static const struct option_rule rules[] = {
    TEXT("context", "TOPOLOGY", context_text, "Context side: tp2, tp4pp2, dep4, 2x tp2 (tp1)"),
    TEXT("generation", "TOPOLOGY", generation_text, "Generation side (tp1)"),
    TEXT("model", "NAME|FILE", model_text, "Model geometry (llama-3.1-8b)"),
    NUMBER("layers", "N", n_layers, 1, MODEL_LAYERS_MAX, "Keep the first N layers (all)"),
    NUMBER("requests", "N", n_requests, 1, 1u << 24, "Requests (16; with a trace: all of it)"),
    TEXT("tokens", "N[,N...]", tokens_text, "Tokens of a request, taken in turn (1024)"),
    NUMBER("max-tokens", "N", max_tokens, 1, 1u << 30, "Cut longer requests to N tokens"),
    NUMBER("concurrency", "N", concurrency, 1, 4096, "Requests in flight a rank (4)"),
    TEXT("trace", "FILE", trace_path, "Requests of a Mooncake trace (JSONL)"),
    TEXT("speed", "X", speed_text, "Keep the trace's arrival times, X times as fast"),
    NUMBER("prefix-tokens", "N", prefix_tokens, 0, 1u << 30,
           "First N tokens are not wanted (a prefix hit)"),
    NUMBER("aux-bytes", "N", aux_bytes, 0, 1u << 20, "Aux payload of a request (64)"),
    FLAG("receive-first", is_receive_first, "Receive without waiting for the source to be ready"),
    TEXT("block-tokens", "N[,N]", block_tokens_text, "Tokens of a block; context,generation (64)"),
    TEXT("layout", "L[,L]", layout_text, "head-major or token-major; context,generation"),
    NUMBER("run-bytes", "N", run_bytes, 1, 1u << 30,
           "Choose the block size so that a run of the baseline has N bytes"),
    NUMBER("lanes", "N", n_lanes, 1, 64, "Send and receive lanes of an engine (its default)"),
    TEXT("compare-lanes", "N,N", lanes_text, "Run with each lane count in turn, side by side"),
    NUMBER("links-per-peer", "N", links_per_peer, 1, 16, "Links of a pair (the engine's default)"),
    NUMBER("slot-bytes", "N", slot_bytes, 4096, 1u << 30, "Staging slot (the fabric's default)"),
    TEXT("fabric", "NAME", fabric, "How bytes move (mpi)"),
    TEXT("baseline", "naive|naive-only", baseline_text,
         "Run the straightforward way too, in turn, or alone"),
    NUMBER("repeat", "N", repeat, 1, 1000, "Runs of each (1)"),
    TEXT("pace", "window|rounds", pace_text,
         "window: each rank keeps its requests going; rounds: fill, move, check apart (window; "
         "rounds when comparing)"),
    NUMBER("timeout", "SECONDS", timeout_s, 1, 86400,
           "Deadline of a request and of every wait "
           "(120)"),
    NUMBER("seed", "N", seed, 0, UINT64_MAX, "Of block order and bytes (1)"),
    TEXT("json", "FILE", json_path, "Write all figures as JSON"),
    TEXT("library", "FILE", library_path, "libkvferry.so to load"),
    NUMBER("log-level", "N", log_level, 1, 5, "Library's log on stderr: 1 errors .. 5 trace (2)"),
    FLAG("quiet", is_quiet, "Print nothing but errors"),
};
#define N_RULES (sizeof(rules) / sizeof(rules[0]))
#define FIRST_KEY 256

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    unsigned char *o = state->input;
    const struct option_rule *rule;
    struct tool_error error = {""};
    char name[64];

    if (key == ARGP_KEY_ARG)
        argp_error(state, "\"%s\" is not an option", arg);
    if (key < FIRST_KEY || key >= FIRST_KEY + (int)N_RULES)
        return key == ARGP_KEY_ARG ? EINVAL : ARGP_ERR_UNKNOWN;
    rule = &rules[key - FIRST_KEY];
    if (rule->kind == KIND_TEXT)
        *(const char **)(void *)(o + rule->offset) = arg;
    if (rule->kind == KIND_FLAG)
        *(bool *)(o + rule->offset) = true;
    if (rule->kind != KIND_NUMBER)
        return 0;
    (void)snprintf(name, sizeof(name), "--%s", rule->name);
    if (tool_parse_u64(name, arg, rule->min, rule->max, &error,
                       (uint64_t *)(void *)(o + rule->offset)))
        return 0;
    argp_error(state, "%s", error.text);
    return EINVAL;
}

bool bench_options_parse(int argc, char **argv, bool is_silent, struct bench_options *ret)
{
    static struct argp_option options[N_RULES + 1];
    const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .doc = "Run a disaggregated job over the ranks of an MPI world and check every byte.\v"
               "Start it with mpirun; the world has as many ranks as the two sides together. "
               "Example: mpirun -n 4 kvferry bench --context tp2 --generation tp2 --layers 4\n\n"
               "Exit status: 0 only if every byte was verified; 1 otherwise; 2 for a bad command "
               "line.",
    };

    for (size_t i = 0; i < N_RULES; i++) {
        options[i].name = rules[i].name;
        options[i].key = FIRST_KEY + (int)i;
        options[i].arg = rules[i].arg;
        options[i].doc = rules[i].help;
    }
    *ret = (struct bench_options){
        .context_text = "tp1",
        .generation_text = "tp1",
        .model_text = "llama-3.1-8b",
        .tokens_text = "1024",
        .layout_text = "head-major",
        .block_tokens_text = "64",
        .fabric = "mpi",
        .concurrency = 4,
        .repeat = 1,
        .timeout_s = 120,
        .seed = 1,
        .aux_bytes = 64,
        .log_level = KVF_LOG_WARN,
    };
    return argp_parse(&argp, argc, argv,
                      ARGP_NO_EXIT | ARGP_IN_ORDER | (is_silent ? ARGP_SILENT : 0u), NULL,
                      ret) == 0;
}

/* Cuts "a,b,c" at its commas; false if there are more than max parts. */
static bool parse_list(const char *name, const char *text, uint64_t max_value, uint32_t max_values,
                       struct tool_error *error, uint32_t *ret_values, uint32_t *ret_n)
{
    char part[32];
    uint64_t value;
    uint32_t n = 0;

    while (*text != '\0' || n == 0) {
        size_t n_bytes = strcspn(text, ",");

        if (n == max_values)
            return tool_fail(error, "%s: more than %" PRIu32 " values", name, max_values);
        if (n_bytes >= sizeof(part))
            return tool_fail(error, "%s: \"%s\" is not a whole number", name, text);
        memcpy(part, text, n_bytes);
        part[n_bytes] = '\0';
        if (!tool_parse_u64(name, part, 1, max_value, error, &value))
            return false;
        ret_values[n++] = (uint32_t)value;
        text += n_bytes;
        if (*text == ',' && *++text == '\0')
            return tool_fail(error, "%s: a value must follow the last comma", name);
    }
    *ret_n = n;
    return true;
}

static bool parse_layout(struct bench_options *o, struct tool_error *error)
{
    const char *at = o->layout_text;

    for (int side = 0; side < 2; side++) {
        size_t n_bytes = strcspn(at, ",");

        if (n_bytes == 10 && strncmp(at, "head-major", n_bytes) == 0)
            o->side[side].is_token_major = false;
        else if (n_bytes == 11 && strncmp(at, "token-major", n_bytes) == 0)
            o->side[side].is_token_major = true;
        else
            return tool_fail(error,
                             "--layout: \"%s\" is not head-major or token-major, or two "
                             "of them with a comma",
                             o->layout_text);
        if (at[n_bytes] == ',' && side == 0)
            at += n_bytes + 1;
        else if (at[n_bytes] != '\0')
            return tool_fail(error, "--layout: \"%s\" has more than two values", o->layout_text);
    }
    return true;
}

/* The block size that makes the baseline's run, the shared heads of one block, run_bytes long. */
static bool choose_block_tokens(struct bench_options *o, struct tool_error *error)
{
    uint32_t tp = o->context.tp > o->generation.tp ? o->context.tp : o->generation.tp;
    uint32_t n_heads = tp < o->model.n_heads ? o->model.n_heads / tp : 1;
    uint64_t token_bytes = o->model.row_bytes * n_heads;
    uint64_t n_tokens = o->run_bytes / token_bytes;

    if (n_tokens == 0 || n_tokens * token_bytes != o->run_bytes || n_tokens > 1u << 20)
        return tool_fail(error,
                         "--run-bytes: %" PRIu64 " is not a multiple of the %" PRIu64
                         " bytes a token has in a run (%" PRIu32 " heads of %" PRIu64 " bytes)",
                         o->run_bytes, token_bytes, n_heads, o->model.row_bytes);
    o->side[0].block_tokens = (uint32_t)n_tokens;
    o->side[1].block_tokens = (uint32_t)n_tokens;
    return true;
}

static bool parse_blocks(struct bench_options *o, struct tool_error *error)
{
    uint32_t values[2] = {0};
    uint32_t n = 1;

    if (!parse_layout(o, error))
        return false;
    if (o->run_bytes)
        return choose_block_tokens(o, error);
    if (!parse_list("--block-tokens", o->block_tokens_text, 1u << 20, 2, error, values, &n))
        return false;
    o->side[0].block_tokens = values[0];
    o->side[1].block_tokens = values[n - 1];
    return true;
}

static bool parse_pace(struct bench_options *o, struct tool_error *error)
{
    char *end;

    o->speed = 1.0;
    if (o->speed_text) {
        o->speed = strtod(o->speed_text, &end);
        if (*end != '\0' || end == o->speed_text || !(o->speed > 0.0 && o->speed <= 1e9))
            return tool_fail(error, "--speed: \"%s\" is not a number above 0", o->speed_text);
        if (!o->trace_path)
            return tool_fail(error, "--speed %s without --trace", o->speed_text);
    }
    o->pace = o->speed_text ? BENCH_PACE_TRACE : BENCH_PACE_WINDOW;
    if (!o->pace_text) {
        if (o->with_naive || o->n_lanes_compared > 1)
            o->pace = BENCH_PACE_ROUNDS;
    } else if (strcmp(o->pace_text, "rounds") == 0) {
        o->pace = BENCH_PACE_ROUNDS;
    } else if (strcmp(o->pace_text, "window") != 0) {
        return tool_fail(error, "--pace: \"%s\" is neither window nor rounds", o->pace_text);
    }
    if (o->speed_text && o->pace == BENCH_PACE_ROUNDS)
        return tool_fail(error,
                         "--speed %s: rounds have no arrival times (no --baseline, "
                         "--compare-lanes or --pace rounds with it)",
                         o->speed_text);
    if (o->with_naive && o->pace != BENCH_PACE_ROUNDS)
        return tool_fail(error, "--baseline naive needs --pace rounds");
    return true;
}

bool bench_options_check(struct bench_options *o, struct tool_error *error)
{
    o->with_naive = o->baseline_text != NULL;
    o->is_naive_only = o->with_naive && strcmp(o->baseline_text, "naive-only") == 0;
    if (o->with_naive && !o->is_naive_only && strcmp(o->baseline_text, "naive") != 0)
        return tool_fail(error, "--baseline: \"%s\" is neither naive nor naive-only",
                         o->baseline_text);
    if (o->lanes_text && o->n_lanes)
        return tool_fail(error, "--lanes %" PRIu64 " and --compare-lanes %s: only one of them",
                         o->n_lanes, o->lanes_text);
    o->lanes[0] = (uint32_t)o->n_lanes;
    o->n_lanes_compared = 1;
    if (o->lanes_text && !parse_list("--compare-lanes", o->lanes_text, 64, BENCH_LANES_MAX, error,
                                     o->lanes, &o->n_lanes_compared))
        return false;
    if (!topology_parse("--context", o->context_text, error, &o->context) ||
        !topology_parse("--generation", o->generation_text, error, &o->generation) ||
        !model_load(o->model_text, error, &o->model))
        return false;
    if (o->n_layers && !model_cut(&o->model, (uint32_t)o->n_layers, error))
        return false;
    if (!parse_list("--tokens", o->tokens_text, 1u << 30, BENCH_TOKENS_MAX, error, o->tokens,
                    &o->n_tokens))
        return false;
    if (!o->n_requests && !o->trace_path)
        o->n_requests = 16;
    if (o->is_naive_only)
        o->n_lanes_compared = 0;
    return parse_blocks(o, error) && parse_pace(o, error);
}
