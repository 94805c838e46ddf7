/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/log.h"

#include <stdarg.h>
#include <stdio.h>

enum { LINE_BYTES = 512 };

void kvfi_log_write(const struct kvfi_log *log, enum kvf_log_level level, const char *topic,
                    const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    log->fn(log->ctx, level, topic, line);
}
