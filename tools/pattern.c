/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/pattern.h"

#include <endian.h>
#include <string.h>

#include "collectives/util.h"

uint64_t pattern_request_key(uint64_t seed, uint64_t run, uint64_t request)
{
    uint64_t key = kvfi_mix64(seed + PATTERN_STEP);

    key = kvfi_mix64(key ^ run) + PATTERN_STEP;
    key = kvfi_mix64(key ^ request);
    return key ? key : 1;
}

uint64_t pattern_row_key(uint64_t request_key, const struct pattern_row *row)
{
    /* Two mixes: the coordinates together have more bits than a word, and none may cancel. */
    uint64_t place = (uint64_t)row->layer << 40 ^ (uint64_t)row->head << 16 ^
                     (uint64_t)row->group << 8 ^ (uint64_t)row->kv;

    return kvfi_mix64(kvfi_mix64(request_key ^ place) + row->token * PATTERN_STEP);
}

uint8_t pattern_byte(uint64_t row_key, uint64_t byte)
{
    return (uint8_t)((row_key + byte / 8 * PATTERN_STEP) >> 8 * (byte % 8));
}

void pattern_fill(void *row, size_t n_bytes, uint64_t row_key)
{
    unsigned char *out = row;
    uint64_t word = row_key;
    uint64_t le;

    for (; n_bytes >= 8; n_bytes -= 8, out += 8, word += PATTERN_STEP) {
        le = htole64(word);
        memcpy(out, &le, 8);
    }
    le = htole64(word);
    memcpy(out, &le, n_bytes);
}

/* The slow way round, to count what is wrong in a row that is. */
static size_t count_wrong(const unsigned char *row, size_t n_bytes, uint64_t row_key)
{
    size_t n_wrong = 0;

    for (size_t b = 0; b < n_bytes; b++)
        n_wrong += row[b] != pattern_byte(row_key, b);
    return n_wrong;
}

size_t pattern_wrong(const void *row, size_t n_bytes, uint64_t row_key)
{
    const unsigned char *in = row;
    uint64_t word = row_key;
    uint64_t differ = 0;
    size_t left = n_bytes;
    uint64_t le = 0;
    uint64_t want;

    for (; left >= 8; left -= 8, in += 8, word += PATTERN_STEP) {
        memcpy(&le, in, 8);
        differ |= le ^ htole64(word);
    }
    want = htole64(word);
    le = want;
    memcpy(&le, in, left);
    differ |= le ^ want;
    return differ ? count_wrong(row, n_bytes, row_key) : 0;
}
