/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips over loopback: the control plane beside a plain TCP ping-pong of as many bytes, taking
 * turns in one run, so that both see the same machine. Arguments: rounds, round trips a round.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "collectives/control.h"
#include "collectives/run.h"
#include "collectives/util.h"

enum { ROUNDS = 100, TRIPS = 200, FRAME_MAX = 4096 };

/* One end: a loop, a control object, and what it waits for. */
struct end {
    uv_loop_t loop;
    struct kvfi_control *control;
    struct kvfi_session *session;
    bool is_server;
    uint64_t n_received;
    uv_async_t stop;
};

struct kind {
    const char *name;
    const Kvfi__Wire__Message *message;
    size_t frame_bytes;
    uint64_t *control_ns;
    uint64_t *plain_ns;
    size_t n;
};

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    (void)fprintf(stderr, "bench_control: %s failed: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

/* ---- control plane ------------------------------------------------------------------------ */

static void on_up(void *ctx, struct kvfi_session *session)
{
    ((struct end *)ctx)->session = session;
}

static void on_message(void *ctx, struct kvfi_session *session, const Kvfi__Wire__Message *message)
{
    struct end *end = ctx;

    end->n_received++;
    if (end->is_server)
        check(kvfi_session_send(session, message) == KVF_OK, "send");
}

static void on_down(void *ctx, struct kvfi_session *session, kvf_status_t status, const char *text)
{
    (void)ctx;
    (void)session;
    if (status != KVF_OK && status != KVF_ENET)
        (void)fprintf(stderr, "bench_control: session ended: %s\n", text);
}

static void on_stop(uv_async_t *async)
{
    struct end *end = async->data;

    kvfi_control_destroy(end->control, NULL, NULL);
    uv_close((uv_handle_t *)async, NULL);
}

static void end_open(struct end *end, bool is_server)
{
    const struct kvfi_control_config config = {
        .address = "127.0.0.1",
        .max_sessions = 4,
        .max_pending = 4,
        .auth_timeout_ns = 10000000000u,
        .max_queued_bytes = 64u << 20,
        .on_up = on_up,
        .on_message = on_message,
        .on_down = on_down,
        .ctx = end,
    };
    char text[256] = "";

    end->is_server = is_server;
    check(uv_loop_init(&end->loop) == 0, "uv_loop_init");
    check(uv_async_init(&end->loop, &end->stop, on_stop) == 0, "uv_async_init");
    end->stop.data = end;
    check(kvfi_control_create(&end->loop, &config, text, sizeof(text), &end->control) == KVF_OK,
          text);
}

static void end_close(struct end *end)
{
    (void)uv_run(&end->loop, UV_RUN_DEFAULT);
    check(uv_loop_close(&end->loop) == 0, "uv_loop_close");
}

static void *serve_control(void *arg)
{
    struct end *end = arg;

    end_close(end);
    return NULL;
}

static uint64_t control_trip(struct end *client, const Kvfi__Wire__Message *message)
{
    uint64_t n = client->n_received;
    uint64_t start = kvfi_now_ns();

    check(kvfi_session_send(client->session, message) == KVF_OK, "send");
    kvfi_control_flush(client->control);
    while (client->n_received == n)
        (void)uv_run(&client->loop, UV_RUN_ONCE);
    return kvfi_now_ns() - start;
}

/* ---- plain TCP ---------------------------------------------------------------------------- */

static void receive_all(int fd, uint8_t *bytes, size_t n_bytes)
{
    for (size_t n = 0; n < n_bytes;) {
        ssize_t rc = recv(fd, bytes + n, n_bytes - n, 0);

        check(rc > 0, "recv");
        n += (size_t)rc;
    }
}

/* A message begins with its length, as a frame does. */
static void *serve_plain(void *arg)
{
    int fd = *(int *)arg;
    uint8_t bytes[FRAME_MAX];
    uint32_t n_bytes;

    for (;;) {
        receive_all(fd, bytes, sizeof(n_bytes));
        memcpy(&n_bytes, bytes, sizeof(n_bytes));
        if (n_bytes == 0)
            return NULL;
        receive_all(fd, bytes + 4, n_bytes - 4);
        check(send(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes, "send");
    }
}

static uint64_t plain_trip(int fd, size_t n_bytes)
{
    uint8_t bytes[FRAME_MAX] = {0};
    uint32_t length = (uint32_t)n_bytes;
    uint64_t start = kvfi_now_ns();

    memcpy(bytes, &length, sizeof(length));
    check(send(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes, "send");
    receive_all(fd, bytes, n_bytes);
    return kvfi_now_ns() - start;
}

static void plain_open(int *ret_client, int *ret_server)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;

    check(bind(listener, (const struct sockaddr *)&addr, n) == 0, "bind");
    check(listen(listener, 1) == 0, "listen");
    check(getsockname(listener, (struct sockaddr *)&addr, &n) == 0, "getsockname");
    *ret_client = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(*ret_client, (const struct sockaddr *)&addr, n) == 0, "connect");
    *ret_server = accept(listener, NULL, NULL);
    check(*ret_server >= 0, "accept");
    (void)setsockopt(*ret_client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)setsockopt(*ret_server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void)close(listener);
}

/* ---- both --------------------------------------------------------------------------------- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static double at_us(const uint64_t *sorted, size_t n, double quantile)
{
    return (double)sorted[(size_t)((double)(n - 1) * quantile)] / 1000.0;
}

static void print_column(const uint64_t *sorted, size_t n)
{
    printf("   %8.1f %8.1f %8.1f", at_us(sorted, n, 0.1), at_us(sorted, n, 0.5),
           at_us(sorted, n, 0.9));
}

static void report(struct kind *kind)
{
    qsort(kind->control_ns, kind->n, sizeof(uint64_t), compare_u64);
    qsort(kind->plain_ns, kind->n, sizeof(uint64_t), compare_u64);
    printf("%-6s %6zu", kind->name, kind->frame_bytes);
    print_column(kind->plain_ns, kind->n);
    print_column(kind->control_ns, kind->n);
    printf("   %6.2f\n",
           at_us(kind->control_ns, kind->n, 0.5) / at_us(kind->plain_ns, kind->n, 0.5));
}

static size_t measure_frame(struct end *client, const Kvfi__Wire__Message *message)
{
    struct kvfi_control_stats before;
    struct kvfi_control_stats after;

    kvfi_control_stats(client->control, &before);
    (void)control_trip(client, message);
    kvfi_control_stats(client->control, &after);
    return after.bytes_sent - before.bytes_sent;
}

static void run_kind(struct kind *kind, struct end *client, int plain_fd, unsigned rounds,
                     unsigned trips)
{
    kind->control_ns = calloc(rounds, trips * sizeof(uint64_t));
    kind->plain_ns = calloc(rounds, trips * sizeof(uint64_t));
    check(kind->control_ns && kind->plain_ns, "calloc");
    kind->frame_bytes = measure_frame(client, kind->message);
    for (unsigned r = 0; r < rounds; r++) {
        for (unsigned t = 0; t < trips; t++)
            kind->control_ns[kind->n + t] = control_trip(client, kind->message);
        for (unsigned t = 0; t < trips; t++)
            kind->plain_ns[kind->n + t] = plain_trip(plain_fd, kind->frame_bytes);
        kind->n += trips;
    }
    report(kind);
    free(kind->control_ns);
    free(kind->plain_ns);
}

static void run_kinds(struct end *client, int plain_fd, unsigned rounds, unsigned trips)
{
    Kvfi__Wire__Message go = KVFI__WIRE__MESSAGE__INIT;
    Kvfi__Wire__Message offer_message = KVFI__WIRE__MESSAGE__INIT;
    Kvfi__Wire__BatchId id = KVFI__WIRE__BATCH_ID__INIT;
    Kvfi__Wire__Offer offer = KVFI__WIRE__OFFER__INIT;
    Kvfi__Wire__Run runs[KVFI_BATCH_RUNS_MAX];
    Kvfi__Wire__Run *run_pointers[KVFI_BATCH_RUNS_MAX];
    struct kind kinds[] = {{.name = "GO", .message = &go},
                           {.name = "OFFER", .message = &offer_message}};

    id.link = 1;
    id.epoch = 3;
    id.seq = 100000;
    go.kind_case = KVFI__WIRE__MESSAGE__KIND_GO;
    go.go = &id;
    for (unsigned i = 0; i < KVFI_BATCH_RUNS_MAX; i++) {
        kvfi__wire__run__init(&runs[i]);
        runs[i].transfer = 1000 + i;
        runs[i].extent = i;
        runs[i].first_chunk = 7 * i;
        runs[i].n_chunks = 4;
        runs[i].bytes = 65536;
        run_pointers[i] = &runs[i];
    }
    offer.id = &id;
    offer.runs = run_pointers;
    offer.n_runs = KVFI_BATCH_RUNS_MAX;
    offer.bytes = 4u << 20;
    offer_message.kind_case = KVFI__WIRE__MESSAGE__KIND_OFFER;
    offer_message.offer = &offer;
    printf("%u x %u round trips, microseconds\n", rounds, trips);
    printf("%-6s %6s   %8s %8s %8s   %8s %8s %8s   %6s\n", "", "bytes", "TCP p10", "p50", "p90",
           "ctrl p10", "p50", "p90", "p50/p50");
    for (size_t i = 0; i < KVFI_ARRAY_LEN(kinds); i++)
        run_kind(&kinds[i], client, plain_fd, rounds, trips);
}

int main(int argc, char **argv)
{
    static struct end server;
    static struct end client;
    unsigned rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : ROUNDS;
    unsigned trips = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : TRIPS;
    struct kvfi_session *session;
    pthread_t threads[2];
    uint32_t zero = 0;
    char address[64];
    int client_fd;
    int server_fd;

    check(rounds > 0 && trips > 0, "reading the arguments");
    (void)signal(SIGPIPE, SIG_IGN);
    end_open(&server, true);
    end_open(&client, false);
    plain_open(&client_fd, &server_fd);
    check(pthread_create(&threads[0], NULL, serve_control, &server) == 0, "pthread_create");
    check(pthread_create(&threads[1], NULL, serve_plain, &server_fd) == 0, "pthread_create");
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", kvfi_control_port(server.control));
    check(kvfi_control_connect(client.control, address, KVF_FOREVER, NULL, &session) == KVF_OK,
          "connect");
    while (!client.session)
        (void)uv_run(&client.loop, UV_RUN_ONCE);
    run_kinds(&client, client_fd, rounds, trips);
    (void)uv_async_send(&server.stop);
    on_stop(&client.stop);
    end_close(&client);
    check(send(client_fd, &zero, sizeof(zero), 0) == sizeof(zero), "send");
    (void)pthread_join(threads[0], NULL);
    (void)pthread_join(threads[1], NULL);
    (void)close(client_fd);
    (void)close(server_fd);
    return EXIT_SUCCESS;
}
