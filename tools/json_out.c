/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "tools/bench.h"

static void set_u64(json_t *object, const char *key, uint64_t value)
{
    (void)json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *key, double value)
{
    (void)json_object_set_new(object, key, json_real(value));
}

static void set_text(json_t *object, const char *key, const char *value)
{
    (void)json_object_set_new(object, key, value ? json_string(value) : json_null());
}

static json_t *times_of(struct bench_variant *variant)
{
    struct bench_times t = bench_times_of(variant->samples_ns, variant->n_samples);
    json_t *object = json_object();

    set_real(object, "mean", t.mean);
    set_real(object, "p50", t.p50);
    set_real(object, "p90", t.p90);
    set_real(object, "p95", t.p95);
    set_real(object, "p99", t.p99);
    set_real(object, "max", t.max);
    return object;
}

static json_t *stages_of(const struct bench_variant *variant)
{
    json_t *object = json_object();

    set_real(object, "queue", bench_stage_ms(variant, BENCH_QUEUE_NS));
    set_real(object, "handshake", bench_stage_ms(variant, BENCH_HANDSHAKE_NS));
    set_real(object, "pack", bench_stage_ms(variant, BENCH_PACK_NS));
    set_real(object, "wire", bench_stage_ms(variant, BENCH_WIRE_NS));
    set_real(object, "unpack", bench_stage_ms(variant, BENCH_UNPACK_NS));
    set_real(object, "fanout", 0.0); /* there is none in this release */
    return object;
}

/* What the lanes did for a receive; they do it side by side. */
static json_t *lanes_of(const struct bench_variant *variant)
{
    json_t *object = json_object();

    set_real(object, "pack", bench_stage_ms(variant, BENCH_PACK_NS));
    set_real(object, "wire", bench_stage_ms(variant, BENCH_LANE_WIRE_NS));
    set_real(object, "unpack", bench_stage_ms(variant, BENCH_LANE_UNPACK_NS));
    return object;
}

/* What every variant has: its figures over all its runs. */
static void set_variant(json_t *object, const struct bench_job *job, struct bench_variant *variant)
{
    json_t *runs = json_array();

    set_text(object, "name", variant->name);
    set_u64(object, "requests", (uint64_t)job->n_requests * variant->n_runs);
    set_u64(object, "bytes_unique", bench_unique_bytes(job) * variant->n_runs);
    set_u64(object, "bytes_on_wire", variant->sums[BENCH_SENT_BYTES]);
    set_u64(object, "bytes_filler", variant->sums[BENCH_FILLER_BYTES]);
    set_u64(object, "bytes_expected", variant->sums[BENCH_EXPECTED_BYTES]);
    set_u64(object, "bytes_verified", variant->sums[BENCH_VERIFIED_BYTES]);
    set_u64(object, "bytes_wrong", variant->sums[BENCH_WRONG_BYTES]);
    set_u64(object, "failed", variant->n_failed);
    (void)json_object_set_new(object, "transfer_ms", times_of(variant));
    set_real(object, "throughput_gbs", bench_median(variant->gbs, variant->n_runs));
    for (uint32_t i = 0; i < variant->n_runs; i++)
        (void)json_array_append_new(runs, json_real(variant->gbs[i]));
    (void)json_object_set_new(object, "throughput_gbs_runs", runs);
    set_real(object, "wall_s", (double)variant->wall_ns / 1e9);
    set_real(object, "busy_s", (double)variant->busy_ns / 1e9);
    if (variant->is_naive)
        return;
    (void)json_object_set_new(object, "stages_ms", stages_of(variant));
    (void)json_object_set_new(object, "lane_ms", lanes_of(variant));
}

static json_t *side_of(const struct shape_options *side, const struct topology *t)
{
    json_t *object = json_object();

    set_text(object, "topology", t->text);
    set_u64(object, "instances", t->n_instances);
    set_u64(object, "tp", t->tp);
    set_u64(object, "pp", t->pp);
    set_u64(object, "cp", t->cp);
    set_u64(object, "dp", t->dp);
    set_u64(object, "block_tokens", side->block_tokens);
    set_text(object, "layout", side->is_token_major ? "token-major" : "head-major");
    return object;
}

static json_t *model_of(const struct model *m)
{
    json_t *object = json_object();

    set_text(object, "name", m->name);
    set_text(object, "source", m->source);
    set_u64(object, "layers", m->n_layers);
    set_u64(object, "heads", m->n_heads);
    set_u64(object, "kv", m->n_kv);
    set_u64(object, "row_bytes", m->row_bytes);
    set_text(object, "format", m->format);
    set_u64(object, "window_tokens", m->window_tokens);
    return object;
}

static json_t *config_of(const struct bench_job *job)
{
    static const char *const paces[] = {"window", "rounds", "trace"};
    const struct bench_options *o = &job->options;
    json_t *object = json_object();
    json_t *tokens = json_array();

    (void)json_object_set_new(object, "context", side_of(&o->side[0], &o->context));
    (void)json_object_set_new(object, "generation", side_of(&o->side[1], &o->generation));
    (void)json_object_set_new(object, "model", model_of(&o->model));
    set_u64(object, "requests", job->n_requests);
    for (uint32_t i = 0; !o->trace_path && i < o->n_tokens; i++)
        (void)json_array_append_new(tokens, json_integer(o->tokens[i]));
    (void)json_object_set_new(object, "tokens", tokens);
    set_text(object, "trace", o->trace_path);
    set_real(object, "speed", o->pace == BENCH_PACE_TRACE ? o->speed : 0.0);
    set_u64(object, "max_tokens", o->max_tokens);
    set_u64(object, "prefix_tokens", o->prefix_tokens);
    set_u64(object, "aux_bytes", o->aux_bytes);
    set_u64(object, "concurrency", o->concurrency);
    set_text(object, "pace", paces[o->pace]);
    (void)json_object_set_new(object, "receive_first", json_boolean(o->is_receive_first));
    set_u64(object, "lanes", o->n_lanes);
    set_text(object, "compare_lanes", o->lanes_text);
    set_u64(object, "links_per_peer", o->links_per_peer);
    set_u64(object, "slot_bytes", o->slot_bytes);
    set_text(object, "fabric", o->fabric);
    set_text(object, "baseline", o->baseline_text);
    set_u64(object, "run_bytes", o->run_bytes);
    set_u64(object, "repeat", o->repeat);
    set_u64(object, "timeout_s", o->timeout_s);
    set_u64(object, "seed", o->seed);
    return object;
}

static json_t *versions_of(const struct bench_job *job)
{
    json_t *object = json_object();
    char mpi[128];

    set_text(object, "kvferry", job->kvf->version);
    set_u64(object, "abi", KVF_ABI_VERSION);
    set_text(object, "library", job->library_path);
    set_text(object, "mpi", world_version(mpi, sizeof(mpi)));
    set_text(object, "jansson", jansson_version_str());
    set_text(object, "compiler", __VERSION__);
    return object;
}

/* The first engine's figures are the document's; the others' and the baseline's stand beside. */
json_t *json_of_bench(const struct bench_job *job, struct bench_variant *variants, uint32_t n)
{
    json_t *root = json_object();
    json_t *others = json_array();
    double own_gbs = bench_median(variants[0].gbs, variants[0].n_runs);

    set_variant(root, job, &variants[0]);
    set_u64(root, "lanes", variants[0].engine.n_lanes);
    for (uint32_t v = 1; v < n; v++) {
        json_t *object = json_object();
        double gbs = bench_median(variants[v].gbs, variants[v].n_runs);

        set_variant(object, job, &variants[v]);
        if (variants[v].is_naive) {
            set_real(object, "speedup", gbs > 0.0 ? own_gbs / gbs : 0.0);
            (void)json_object_set_new(root, "baseline", object);
            continue;
        }
        set_u64(object, "lanes", variants[v].engine.n_lanes);
        (void)json_array_append_new(others, object);
    }
    if (json_array_size(others) > 0)
        (void)json_object_set_new(root, "compared", others);
    else
        json_decref(others);
    set_real(root, "loopback_rtt_us", (double)job->loopback_ns / 1e3);
    (void)json_object_set_new(root, "resident_bytes",
                              json_pack("{s:I,s:I}", "after_first_run",
                                        (json_int_t)job->resident_bytes[0], "after_last_run",
                                        (json_int_t)job->resident_bytes[job->options.repeat > 1]));
    (void)json_object_set_new(root, "config", config_of(job));
    (void)json_object_set_new(root, "versions", versions_of(job));
    return root;
}

bool json_write(json_t *root, const char *path, struct tool_error *error)
{
    int rc = root ? json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : -1;

    json_decref(root);
    if (rc != 0)
        return tool_fail(error, "%s could not be written", path);
    return true;
}
