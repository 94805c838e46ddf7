/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/loopback.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "collectives/util.h"

#define N_ROUNDS 201u
#define MESSAGE_BYTES 64u

static void set_options(int fd)
{
    const struct timeval limit = {.tv_sec = 2};
    const int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* A connected pair over 127.0.0.1. */
static bool connect_pair(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n_bytes = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok;

    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fds[1] = -1;
    ok = listener >= 0 && fds[0] >= 0 &&
         bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
         listen(listener, 1) == 0 &&
         getsockname(listener, (struct sockaddr *)&address, &n_bytes) == 0 &&
         connect(fds[0], (struct sockaddr *)&address, sizeof(address)) == 0;
    if (ok)
        fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (listener >= 0)
        (void)close(listener);
    if (fds[1] < 0)
        return false;
    set_options(fds[0]);
    set_options(fds[1]);
    return true;
}

static bool pass(int from, int to, unsigned char *message)
{
    return recv(from, message, MESSAGE_BYTES, MSG_WAITALL) == (ssize_t)MESSAGE_BYTES &&
           (to < 0 || send(to, message, MESSAGE_BYTES, MSG_NOSIGNAL) == (ssize_t)MESSAGE_BYTES);
}

static void *echo(void *ctx)
{
    const int *fd = ctx;
    unsigned char message[MESSAGE_BYTES];

    while (pass(*fd, *fd, message))
        continue;
    return NULL;
}

static int rising(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static uint64_t measure(int fd)
{
    unsigned char message[MESSAGE_BYTES] = {0};
    uint64_t times_ns[N_ROUNDS];

    for (uint32_t i = 0; i < N_ROUNDS; i++) {
        uint64_t start_ns = kvfi_now_ns();

        if (send(fd, message, MESSAGE_BYTES, MSG_NOSIGNAL) != (ssize_t)MESSAGE_BYTES ||
            !pass(fd, -1, message))
            return 0;
        times_ns[i] = kvfi_now_ns() - start_ns;
    }
    qsort(times_ns, N_ROUNDS, sizeof(times_ns[0]), rising);
    return times_ns[N_ROUNDS / 2];
}

uint64_t loopback_rtt_ns(void)
{
    uint64_t rtt_ns = 0;
    pthread_t thread;
    int fds[2];

    if (connect_pair(fds) && pthread_create(&thread, NULL, echo, &fds[1]) == 0) {
        rtt_ns = measure(fds[0]);
        (void)shutdown(fds[0], SHUT_RDWR);
        (void)pthread_join(thread, NULL);
    }
    if (fds[0] >= 0)
        (void)close(fds[0]);
    if (fds[1] >= 0)
        (void)close(fds[1]);
    return rtt_ns;
}
