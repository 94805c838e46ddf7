/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVFERRY_TESTS_FUZZ_H
#define KVFERRY_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* What libFuzzer, or fuzz_main.c, calls with each input. Its name is not ours to choose. */
/* NOLINTNEXTLINE(readability-identifier-naming) */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

#endif
