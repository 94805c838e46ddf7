/* SPDX-License-Identifier: Apache-2.0 */
/* Logging to the host's callback. Lowercase facts, one line, by the function that decides. */
#ifndef KVFERRY_COLLECTIVES_LOG_H
#define KVFERRY_COLLECTIVES_LOG_H

#include "kvferry/kvferry.h"

#ifndef KVFI_MAX_LOG
#define KVFI_MAX_LOG KVF_LOG_DEBUG
#endif

struct kvfi_log {
    kvf_log_fn fn; /* NULL = silent */
    void *ctx;
    uint32_t level; /* most verbose one wanted */
};

void kvfi_log_write(const struct kvfi_log *log, enum kvf_log_level level, const char *topic,
                    const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Evaluates its arguments only if the level is compiled in and wanted. */
#define kvfi_log(log, lvl, topic, ...)                                                             \
    do {                                                                                           \
        if ((int)(lvl) <= (int)KVFI_MAX_LOG && (log)->fn && (uint32_t)(lvl) <= (log)->level)       \
            kvfi_log_write((log), (lvl), (topic), __VA_ARGS__);                                    \
    } while (0)

#endif
