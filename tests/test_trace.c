/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/trace.h"

#include <string.h>
#include <unistd.h>

#include "harness.h"

/* Writes a file, loads it, removes it. */
static bool load(const char *text, size_t max_requests, uint64_t max_tokens,
                 struct tool_error *error, struct trace *ret)
{
    char path[] = "/tmp/kvferry-trace-XXXXXX";
    int fd = mkstemp(path);
    bool ok;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    ok = trace_load(path, max_requests, max_tokens, error, ret);
    (void)unlink(path);
    return ok;
}

static const char two[] = "{\"timestamp\": 0, \"input_length\": 6758, \"output_length\": 500, "
                          "\"hash_ids\": [0, 1]}\n"
                          "{\"timestamp\": 1500.5, \"input_length\": 10}\n\n";

START_TEST(a_trace_is_read)
{
    struct tool_error error;
    struct trace t;

    ck_assert_msg(load(two, 0, 0, &error, &t), "%s", error.text);
    ck_assert_uint_eq(t.n_requests, 2);
    ck_assert_uint_eq(t.requests[0].arrival_ns, 0);
    ck_assert_uint_eq(t.requests[0].n_tokens, 6758);
    ck_assert_uint_eq(t.requests[1].arrival_ns, 1500500000);
    ck_assert_uint_eq(t.requests[1].n_tokens, 10);
    trace_fini(&t);
    ck_assert_ptr_null(t.requests);
}
END_TEST

START_TEST(requests_and_tokens_are_cut)
{
    struct tool_error error;
    struct trace t;

    ck_assert(load(two, 1, 100, &error, &t));
    ck_assert_uint_eq(t.n_requests, 1);
    ck_assert_uint_eq(t.requests[0].n_tokens, 100);
    trace_fini(&t);
    ck_assert(load(two, 2, 100, &error, &t));
    ck_assert_uint_eq(t.requests[1].n_tokens, 10);
    trace_fini(&t);
    ck_assert(!load(two, 3, 0, &error, &t));
    ck_assert_ptr_nonnull(strstr(error.text, "2 requests, 3 were asked for"));
}
END_TEST

START_TEST(bad_lines_are_named)
{
    static const struct {
        const char *text;
        const char *reason;
    } cases[] = {
        {"{\"timestamp\": 0, \"input_length\": 1}\nhello\n", ":2: not JSON"},
        {"{\"timestamp\": 0, \"input_length\": 1} x\n", ":1: not JSON"},
        {"{\"timestamp\": 0, \"input_length\"", ":1: not JSON"},
        {"[1, 2]\n", ":1: not a JSON object"},
        {"\n\n{\"timestamp\": 0}\n", ":3: input_length is not a whole number"},
        {"{\"timestamp\": 0, \"input_length\": \"5\"}\n", "input_length is not a whole number"},
        {"{\"timestamp\": 0, \"input_length\": 1.5}\n", "input_length is not a whole number"},
        {"{\"timestamp\": 0, \"input_length\": 0}\n", "input_length is 0"},
        {"{\"timestamp\": 0, \"input_length\": -5}\n", "input_length is -5"},
        {"{\"timestamp\": 0, \"input_length\": 99999999999}\n", "input_length is 99999999999"},
        {"{\"input_length\": 5}\n", "timestamp is not a number"},
        {"{\"timestamp\": -1, \"input_length\": 5}\n", "timestamp is not a number"},
        {"{\"timestamp\": 1e300, \"input_length\": 5}\n", "timestamp is not a number"},
        {"", "no requests"},
        {"\n \n", "no requests"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tool_error error = {""};
        struct trace t = {0};

        ck_assert_msg(!load(cases[i].text, 0, 0, &error, &t), "%s", cases[i].text);
        ck_assert_msg(strstr(error.text, cases[i].reason), "%s: %s", cases[i].text, error.text);
        ck_assert_ptr_null(t.requests);
    }
}
END_TEST

START_TEST(a_missing_file_and_an_endless_line_are_refused)
{
    struct tool_error error;
    struct trace t;
    char *text = calloc(1, 3u << 20);

    ck_assert(!trace_load("/nonexistent/trace.jsonl", 0, 0, &error, &t));
    ck_assert_ptr_nonnull(strstr(error.text, "/nonexistent/trace.jsonl: "));
    ck_assert_ptr_nonnull(text);
    memset(text, ' ', (3u << 20) - 1);
    ck_assert(!load(text, 0, 0, &error, &t));
    ck_assert_ptr_nonnull(strstr(error.text, ":1: line of"));
    free(text);
}
END_TEST

START_TEST(long_traces_keep_every_request)
{
    struct tool_error error;
    struct trace t;
    size_t capacity = 2000 * 64;
    char *text = calloc(1, capacity);
    size_t used = 0;

    ck_assert_ptr_nonnull(text);
    for (int i = 0; i < 2000; i++)
        used += (size_t)snprintf(text + used, capacity - used,
                                 "{\"timestamp\": %d, \"input_length\": %d}\n", i, i + 1);
    ck_assert_msg(load(text, 0, 0, &error, &t), "%s", error.text);
    ck_assert_uint_eq(t.n_requests, 2000);
    for (size_t i = 0; i < 2000; i++)
        ck_assert_uint_eq(t.requests[i].n_tokens, i + 1);
    trace_fini(&t);
    free(text);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, a_trace_is_read);
    tcase_add_test(tc, requests_and_tokens_are_cut);
    tcase_add_test(tc, bad_lines_are_named);
    tcase_add_test(tc, a_missing_file_and_an_endless_line_are_refused);
    tcase_add_test(tc, long_traces_keep_every_request);
}

int main(void)
{
    return harness_main("trace", fill, 20);
}
