/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool tool_fail(struct tool_error *error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return false;
}

/* Shift of a unit suffix, or -1. */
static int unit_shift(const char *suffix)
{
    static const char letters[] = "KMGT";
    const char *at;

    if (suffix[0] == '\0')
        return 0;
    at = strchr(letters, suffix[0] & ~0x20);
    if (!at || *at == '\0')
        return -1;
    if (suffix[1] != '\0' && strcasecmp(suffix + 1, "iB") != 0 && strcasecmp(suffix + 1, "B") != 0)
        return -1;
    return 10 * (int)(at - letters + 1);
}

bool tool_parse_u64(const char *name, const char *value, uint64_t min, uint64_t max,
                    struct tool_error *error, uint64_t *ret)
{
    unsigned long long number;
    char *end;
    int shift;

    if (value[0] < '0' || value[0] > '9')
        return tool_fail(error, "%s: \"%s\" is not a whole number", name, value);
    errno = 0;
    number = strtoull(value, &end, 10);
    while (*end == ' ')
        end++;
    shift = unit_shift(end);
    if (shift < 0)
        return tool_fail(error, "%s: \"%s\" is not a whole number", name, value);
    if (errno != 0 || number > (UINT64_MAX >> shift) || number << shift < min ||
        number << shift > max)
        return tool_fail(error, "%s: %s is not within %" PRIu64 " .. %" PRIu64, name, value, min,
                         max);
    *ret = (uint64_t)number << shift;
    return true;
}

const char *tool_bytes_text(uint64_t n_bytes, char *text, size_t text_cap)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)n_bytes;
    size_t unit = 0;

    while (value >= 1024.0 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024.0;
        unit++;
    }
    (void)snprintf(text, text_cap, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}
