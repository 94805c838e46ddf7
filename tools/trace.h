/* SPDX-License-Identifier: Apache-2.0 */
/* Request traces in Mooncake's format: one JSON object a line with timestamp and input_length. */
#ifndef KVFERRY_TOOLS_TRACE_H
#define KVFERRY_TOOLS_TRACE_H

#include "tools/error.h"

struct trace_request {
    uint64_t arrival_ns; /* after the trace's beginning */
    uint64_t n_tokens;
};

struct trace {
    size_t n_requests;
    struct trace_request *requests; /* owned */
};

/*
 * Read a trace. Requests longer than max_tokens are cut to it (0: none is).
 * @param[in] max_requests  0: all; else exactly this many, and a shorter trace is an error
 * Errors name the file and the line.
 */
bool trace_load(const char *path, size_t max_requests, uint64_t max_tokens,
                struct tool_error *error, struct trace *ret_trace);
void trace_fini(struct trace *trace);

#endif
