/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer: noise, and changed copies of the seeds that are its
 * arguments (files). For every build; the search is libFuzzer's.
 */
#include <string.h>

#include "fuzz.h"
#include "harness.h"

enum { RUNS = 20000, INPUT_MAX = 4096 };

static size_t read_seed(const char *path, uint8_t *bytes)
{
    FILE *file = fopen(path, "rb");
    size_t n;

    if (!file) {
        (void)fprintf(stderr, "cannot read %s\n", path);
        exit(EXIT_FAILURE);
    }
    n = fread(bytes, 1, INPUT_MAX, file);
    (void)fclose(file);
    return n;
}

static size_t mutate(uint8_t *bytes, size_t n)
{
    for (uint32_t k = rnd(6); k > 0; k--) {
        if (n && rnd(2))
            bytes[rnd((uint32_t)n)] ^= (uint8_t)(1u << rnd(8));
        else if (n && rnd(2))
            bytes[rnd((uint32_t)n)] = (uint8_t)rnd(256);
        else if (n && rnd(2))
            n = rnd((uint32_t)n);
        else if (n < INPUT_MAX)
            bytes[n++] = (uint8_t)rnd(256);
    }
    return n;
}

int main(int argc, char **argv)
{
    static uint8_t bytes[INPUT_MAX];

    harness_seed();
    for (int i = 1; i < argc; i++)
        (void)LLVMFuzzerTestOneInput(bytes, read_seed(argv[i], bytes));
    for (unsigned run = 0; run < RUNS; run++) {
        size_t n = 0;

        if (argc > 1 && rnd(4)) {
            n = read_seed(argv[1 + rnd((uint32_t)argc - 1)], bytes);
        } else {
            for (n = 0; n < rnd(200); n++)
                bytes[n] = (uint8_t)rnd(256);
        }
        n = mutate(bytes, n);
        (void)LLVMFuzzerTestOneInput(bytes, n);
    }
    return EXIT_SUCCESS;
}
