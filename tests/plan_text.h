/* SPDX-License-Identifier: Apache-2.0 */
/* Sentences about topologies and faults. */
#ifndef KVFERRY_TESTS_PLAN_TEXT_H
#define KVFERRY_TESTS_PLAN_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Append to text[text_cap], which ends in NUL; what does not fit is cut. */
void text_add(char *text, size_t text_cap, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Set text[text_cap] to what is wrong; returns false. */
bool text_fault(char *text, size_t text_cap, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
