/* SPDX-License-Identifier: Apache-2.0 */
/* How the tool's parts say what is wrong: a function returns false and has written a sentence. */
#ifndef KVFERRY_TOOLS_ERROR_H
#define KVFERRY_TOOLS_ERROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tool_error {
    char text[512]; /* one sentence without a full stop; names the field and the value */
};

/* Writes the sentence; always false, for `return tool_fail(...)`. */
bool tool_fail(struct tool_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/*
 * A whole number with an optional K, M, G or T (powers of 1024; "KiB" and so on too) within
 * [min, max]. `name` is the option or field the sentence names.
 */
bool tool_parse_u64(const char *name, const char *value, uint64_t min, uint64_t max,
                    struct tool_error *error, uint64_t *ret);

/* "1.5 GiB" into text[text_cap]; returns text. */
const char *tool_bytes_text(uint64_t n_bytes, char *text, size_t text_cap);

#endif
