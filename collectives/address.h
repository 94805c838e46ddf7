/* SPDX-License-Identifier: Apache-2.0 */
/* Numeric IPv4 and IPv6 addresses to text and back. Names are never resolved: that would block. */
#ifndef KVFERRY_COLLECTIVES_ADDRESS_H
#define KVFERRY_COLLECTIVES_ADDRESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "kvferry/kvferry.h"

#define KVFI_ADDRESS_TEXT_BYTES 72u /* "[v6%scope]:port" and its NUL */

/* "127.0.0.1" or "::1". KVF_EINVAL: not numeric, or port > 65535. */
kvf_status_t kvfi_address_make(const char *host, uint32_t port, struct sockaddr_storage *ret_addr);
/* "127.0.0.1:80" or "[::1]:80". KVF_EINVAL: anything else, or port 0. */
kvf_status_t kvfi_address_parse(const char *text, struct sockaddr_storage *ret_addr);
/* The inverse of kvfi_address_parse; "?" for other families. */
void kvfi_address_format(const struct sockaddr_storage *addr,
                         char ret_text[KVFI_ADDRESS_TEXT_BYTES]);
uint32_t kvfi_address_port(const struct sockaddr_storage *addr);
socklen_t kvfi_address_bytes(const struct sockaddr_storage *addr);

#endif
