/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

enum { PORT_MAX = 65535 };

/* One to five digits, not 0; kvfi_address_make knows the upper end. */
static bool parse_port(const char *text, uint32_t *ret_port)
{
    uint32_t port = 0;
    size_t n = 0;

    for (; text[n] >= '0' && text[n] <= '9' && n < 5; n++)
        port = port * 10 + (uint32_t)(text[n] - '0');
    if (n == 0 || text[n] != '\0' || port == 0)
        return false;
    *ret_port = port;
    return true;
}

kvf_status_t kvfi_address_make(const char *host, uint32_t port, struct sockaddr_storage *ret_addr)
{
    union {
        struct sockaddr_storage any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } addr;

    memset(&addr, 0, sizeof(addr));
    if (port > PORT_MAX)
        return KVF_EINVAL;
    if (uv_ip4_addr(host, (int)port, &addr.v4) && uv_ip6_addr(host, (int)port, &addr.v6))
        return KVF_EINVAL;
    *ret_addr = addr.any;
    return KVF_OK;
}

kvf_status_t kvfi_address_parse(const char *text, struct sockaddr_storage *ret_addr)
{
    char host[KVFI_ADDRESS_TEXT_BYTES];
    const char *colon = strrchr(text, ':');
    size_t host_bytes = colon ? (size_t)(colon - text) : 0;
    struct sockaddr_storage addr;
    bool is_v6 = text[0] == '[';
    uint32_t port;

    if (!colon || host_bytes >= sizeof(host) || !parse_port(colon + 1, &port))
        return KVF_EINVAL;
    if (is_v6 && (host_bytes < 2 || text[host_bytes - 1] != ']'))
        return KVF_EINVAL;
    if (is_v6) {
        text++;
        host_bytes -= 2;
    }
    memcpy(host, text, host_bytes);
    host[host_bytes] = '\0';
    /* "::1:80" would parse as an address with no port of its own. */
    if (kvfi_address_make(host, port, &addr) || (addr.ss_family == AF_INET6) != is_v6)
        return KVF_EINVAL;
    *ret_addr = addr;
    return KVF_OK;
}

void kvfi_address_format(const struct sockaddr_storage *addr,
                         char ret_text[KVFI_ADDRESS_TEXT_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "?";
    char scope[UV_IF_NAMESIZE + 1] = "";
    size_t n = UV_IF_NAMESIZE;
    const void *any = addr;

    if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = any;

        (void)uv_ip6_name(v6, host, sizeof(host));
        /* By name, because that is what uv_ip6_addr takes. */
        if (v6->sin6_scope_id && uv_if_indextoname(v6->sin6_scope_id, scope + 1, &n) == 0)
            scope[0] = '%';
        (void)snprintf(ret_text, KVFI_ADDRESS_TEXT_BYTES, "[%s%s]:%u", host, scope,
                       kvfi_address_port(addr));
    } else if (addr->ss_family == AF_INET) {
        (void)uv_ip4_name(any, host, sizeof(host));
        (void)snprintf(ret_text, KVFI_ADDRESS_TEXT_BYTES, "%s:%u", host, kvfi_address_port(addr));
    } else {
        (void)snprintf(ret_text, KVFI_ADDRESS_TEXT_BYTES, "?");
    }
}

uint32_t kvfi_address_port(const struct sockaddr_storage *addr)
{
    const void *any = addr;

    if (addr->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)any)->sin6_port);
    return addr->ss_family == AF_INET ? ntohs(((const struct sockaddr_in *)any)->sin_port) : 0;
}

socklen_t kvfi_address_bytes(const struct sockaddr_storage *addr)
{
    return addr->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}
