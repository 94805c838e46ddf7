/* SPDX-License-Identifier: Apache-2.0 */
/* A yardstick for latencies: a TCP round trip between two threads over the loopback device. */
#ifndef KVFERRY_TOOLS_LOOPBACK_H
#define KVFERRY_TOOLS_LOOPBACK_H

#include <stdint.h>

/* Median round trip of small messages, ns; 0 if it could not be measured. Takes some 10 ms. */
uint64_t loopback_rtt_ns(void);

#endif
