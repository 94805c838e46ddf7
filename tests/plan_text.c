/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void text_add(char *text, size_t text_cap, const char *format, ...)
{
    size_t n = strlen(text);
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text + n, text_cap - n, format, args);
    va_end(args);
}

bool text_fault(char *text, size_t text_cap, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, text_cap, format, args);
    va_end(args);
    return false;
}
