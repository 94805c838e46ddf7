/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/text.h"

#include <stdarg.h>
#include <stdio.h>

kvf_status_t kvfi_refuse(char *text, size_t text_cap, kvf_status_t status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, text_cap, format, args);
    va_end(args);
    return status;
}
