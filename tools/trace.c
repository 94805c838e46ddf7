/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"

#define LINE_BYTES_MAX (1u << 20)
#define TOKENS_MAX (1u << 30)
#define REQUESTS_MAX (1u << 24)
#define TIMESTAMP_MS_MAX 1e12

struct reader {
    const char *path;
    size_t line;
    size_t capacity;
    struct tool_error *error;
    struct trace trace;
};

/* The two fields that matter; all others are left alone. */
static bool read_fields(struct reader *r, const json_t *object, struct trace_request *ret)
{
    const json_t *timestamp = json_object_get(object, "timestamp");
    const json_t *length = json_object_get(object, "input_length");
    double ms = json_number_value(timestamp);

    if (!json_is_object(object))
        return tool_fail(r->error, "%s:%zu: not a JSON object", r->path, r->line);
    if (!json_is_number(timestamp) || !(ms >= 0.0 && ms <= TIMESTAMP_MS_MAX))
        return tool_fail(r->error, "%s:%zu: timestamp is not a number of ms within 0 .. %.0f",
                         r->path, r->line, TIMESTAMP_MS_MAX);
    if (!json_is_integer(length))
        return tool_fail(r->error, "%s:%zu: input_length is not a whole number", r->path, r->line);
    if (json_integer_value(length) < 1 || json_integer_value(length) > TOKENS_MAX)
        return tool_fail(r->error,
                         "%s:%zu: input_length is %" JSON_INTEGER_FORMAT ", not within 1 .. %u",
                         r->path, r->line, json_integer_value(length), TOKENS_MAX);
    ret->arrival_ns = (uint64_t)(ms * 1e6);
    ret->n_tokens = (uint64_t)json_integer_value(length);
    return true;
}

static bool append(struct reader *r, const struct trace_request *request)
{
    struct trace *t = &r->trace;

    if (t->n_requests == REQUESTS_MAX)
        return tool_fail(r->error, "%s:%zu: more than %u requests", r->path, r->line, REQUESTS_MAX);
    if (t->n_requests == r->capacity) {
        size_t capacity = r->capacity ? r->capacity * 2 : 256;
        struct trace_request *grown = kvfi_calloc(capacity, sizeof(*grown));

        if (!grown)
            return tool_fail(r->error, "%s:%zu: out of memory", r->path, r->line);
        if (t->requests)
            memcpy(grown, t->requests, t->n_requests * sizeof(*grown));
        kvfi_free(t->requests);
        t->requests = grown;
        r->capacity = capacity;
    }
    t->requests[t->n_requests++] = *request;
    return true;
}

static bool read_line(struct reader *r, const char *line, size_t n_bytes)
{
    struct trace_request request;
    json_error_t why;
    json_t *object = json_loadb(line, n_bytes, JSON_REJECT_DUPLICATES, &why);
    bool ok;

    if (!object)
        return tool_fail(r->error, "%s:%zu: not JSON: %s", r->path, r->line, why.text);
    ok = read_fields(r, object, &request) && append(r, &request);
    json_decref(object);
    return ok;
}

static bool is_blank(const char *line)
{
    return line[strspn(line, " \t\r\n")] == '\0';
}

static bool read_lines(struct reader *r, FILE *file, size_t max_requests)
{
    char *line = kvfi_calloc(1, LINE_BYTES_MAX);
    bool ok = true;

    if (!line)
        return tool_fail(r->error, "%s: out of memory", r->path);
    while (ok && (max_requests == 0 || r->trace.n_requests < max_requests) &&
           fgets(line, LINE_BYTES_MAX, file)) {
        size_t n_bytes = strlen(line);

        r->line++;
        if (n_bytes + 1 == LINE_BYTES_MAX)
            ok = tool_fail(r->error, "%s:%zu: line of %u bytes or more", r->path, r->line,
                           LINE_BYTES_MAX - 1);
        else if (!is_blank(line))
            ok = read_line(r, line, n_bytes);
    }
    if (ok && ferror(file))
        ok = tool_fail(r->error, "%s: %s", r->path, strerror(errno));
    kvfi_free(line);
    return ok;
}

bool trace_load(const char *path, size_t max_requests, uint64_t max_tokens,
                struct tool_error *error, struct trace *ret_trace)
{
    struct reader r = {.path = path, .error = error};
    FILE *file = fopen(path, "re");
    bool ok;

    if (!file)
        return tool_fail(error, "%s: %s", path, strerror(errno));
    ok = read_lines(&r, file, max_requests);
    (void)fclose(file);
    if (ok && r.trace.n_requests == 0)
        ok = tool_fail(error, "%s: no requests", path);
    if (ok && r.trace.n_requests < max_requests)
        ok = tool_fail(error, "%s: %zu requests, %zu were asked for", path, r.trace.n_requests,
                       max_requests);
    if (!ok) {
        trace_fini(&r.trace);
        return false;
    }
    for (size_t i = 0; max_tokens != 0 && i < r.trace.n_requests; i++)
        r.trace.requests[i].n_tokens = kvfi_min_u64(r.trace.requests[i].n_tokens, max_tokens);
    *ret_trace = r.trace;
    return true;
}

void trace_fini(struct trace *trace)
{
    kvfi_free(trace->requests);
    *trace = (struct trace){0};
}
