/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[KVF_MESSAGE_MAX];

kvf_status_t kvfi_fail(kvf_status_t status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return status;
}

const char *kvfi_error_text(void)
{
    return last_error;
}

void kvfi_error_clear(void)
{
    last_error[0] = '\0';
}
