/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte pattern that a bench writes at the source and expects at the destination: a function of
 * (request, layer, kv, head, token, byte), independent of how the library lays out or moves data.
 *
 * A row (the bytes of one layer, kv, head and token) has a 64-bit key, a full mix of its
 * coordinates. Byte b of the row is byte b % 8 (little end first) of key + (b / 8) * PATTERN_STEP.
 * So a row of another place, a row shifted by any number of bytes and a row that was never written
 * are all wrong in nearly every byte, and filling and checking cost about an addition a word.
 */
#ifndef KVFERRY_TOOLS_PATTERN_H
#define KVFERRY_TOOLS_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define PATTERN_STEP 0x9E3779B97F4A7C15u

/* Where a row belongs; all global numbers. */
struct pattern_row {
    uint32_t group;
    uint32_t layer;
    uint32_t kv;
    uint32_t head;
    uint64_t token;
};

/* Key of a request in a run of a bench of a seed; never 0. Equal only for equal arguments, nearly. */
uint64_t pattern_request_key(uint64_t seed, uint64_t run, uint64_t request);

uint64_t pattern_row_key(uint64_t request_key, const struct pattern_row *row);

/* The definition, one byte. For tests. */
uint8_t pattern_byte(uint64_t row_key, uint64_t byte);

void pattern_fill(void *row, size_t n_bytes, uint64_t row_key);

/* Number of bytes that differ from the pattern. */
size_t pattern_wrong(const void *row, size_t n_bytes, uint64_t row_key);

#endif
