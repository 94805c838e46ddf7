/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/status.h"

const char *kvfi_status_text(kvf_status_t status)
{
    switch (status) {
#define KVF_X(name, value, text)                                                                   \
    case KVF_##name:                                                                               \
        return text;
        KVF_STATUS_MAP(KVF_X)
#undef KVF_X
    }
    return "unknown status";
}

const char *kvfi_status_name(kvf_status_t status)
{
    switch (status) {
#define KVF_X(name, value, text)                                                                   \
    case KVF_##name:                                                                               \
        return "KVF_" #name;
        KVF_STATUS_MAP(KVF_X)
#undef KVF_X
    }
    return "KVF_?";
}
