/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/world.h"

#include <inttypes.h>
#include <mpi.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/util.h"

#define TAG_NOTE 1
#define TAG_EXCHANGE 2
#define NOTES_IN_FLIGHT 1024u
#define IN_FLIGHT_MAX 1024u
#define DEFAULT_TIMEOUT_NS 120000000000u
#define NAP_MIN_NS 20000
#define NAP_MAX_NS 1000000

struct world {
    MPI_Comm all;      /* collectives of this file */
    MPI_Comm notes;    /* world_note */
    MPI_Comm exchange; /* world_exchange */
    MPI_Comm node;     /* ranks of this machine */
    int rank;
    int size;
    uint64_t timeout_ns;
    uint32_t next_note; /* slot of the next note */
    MPI_Request note_requests[NOTES_IN_FLIGHT];
    uint32_t note_words[NOTES_IN_FLIGHT];
};

const char *world_unusable(void)
{
    return NULL;
}

const char *world_version(char *text, size_t text_cap)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;

    if (MPI_Get_library_version(version, &n) != MPI_SUCCESS)
        n = 0;
    version[n] = '\0';
    version[strcspn(version, "\n,")] = '\0';
    (void)snprintf(text, text_cap, "%s", version);
    return text;
}

void world_abort(struct world *world, const char *text)
{
    (void)fprintf(stderr, "kvferry: rank %d: %s\n", world->rank, text);
    (void)fflush(stderr);
    (void)MPI_Abort(world->all, 3);
    _Exit(3);
}

static void must(struct world *world, int rc, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    char line[MPI_MAX_ERROR_STRING + 64];
    int n = 0;

    if (rc == MPI_SUCCESS)
        return;
    (void)MPI_Error_string(rc, text, &n);
    (void)snprintf(line, sizeof(line), "%s: %s", what, text);
    world_abort(world, line);
}

/* Waits for a request, sleeping longer and longer; past the deadline the job ends. */
static void finish(struct world *world, MPI_Request *request, const char *what)
{
    uint64_t deadline_ns = kvfi_add_sat(kvfi_now_ns(), world->timeout_ns);
    struct timespec nap = {.tv_nsec = NAP_MIN_NS};
    char line[128];
    int done = 0;

    for (;;) {
        must(world, MPI_Test(request, &done, MPI_STATUS_IGNORE), what);
        if (done)
            return;
        if (kvfi_now_ns() > deadline_ns) {
            (void)snprintf(line, sizeof(line),
                           "%s: waited longer than %" PRIu64 " s for the others", what,
                           world->timeout_ns / 1000000000u);
            world_abort(world, line);
        }
        (void)ppoll(NULL, 0, &nap, NULL); /* MPI has no descriptor to wait for */
        nap.tv_nsec = nap.tv_nsec * 2 > NAP_MAX_NS ? NAP_MAX_NS : nap.tv_nsec * 2;
    }
}

static bool make_comms(struct world *w)
{
    return MPI_Comm_dup(MPI_COMM_WORLD, &w->all) == MPI_SUCCESS &&
           MPI_Comm_dup(MPI_COMM_WORLD, &w->notes) == MPI_SUCCESS &&
           MPI_Comm_dup(MPI_COMM_WORLD, &w->exchange) == MPI_SUCCESS &&
           MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &w->node) ==
               MPI_SUCCESS &&
           MPI_Comm_set_errhandler(w->all, MPI_ERRORS_RETURN) == MPI_SUCCESS &&
           MPI_Comm_set_errhandler(w->notes, MPI_ERRORS_RETURN) == MPI_SUCCESS &&
           MPI_Comm_set_errhandler(w->exchange, MPI_ERRORS_RETURN) == MPI_SUCCESS &&
           MPI_Comm_set_errhandler(w->node, MPI_ERRORS_RETURN) == MPI_SUCCESS &&
           MPI_Comm_rank(w->all, &w->rank) == MPI_SUCCESS &&
           MPI_Comm_size(w->all, &w->size) == MPI_SUCCESS;
}

bool world_open(int *argc, char ***argv, struct tool_error *error, struct world **ret_world)
{
    struct world *w = kvfi_calloc(1, sizeof(*w));
    int provided = MPI_THREAD_SINGLE;

    if (!w)
        return tool_fail(error, "out of memory");
    w->timeout_ns = DEFAULT_TIMEOUT_NS;
    for (uint32_t i = 0; i < NOTES_IN_FLIGHT; i++)
        w->note_requests[i] = MPI_REQUEST_NULL;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
        kvfi_free(w);
        return tool_fail(error, "MPI_Init_thread failed");
    }
    if (provided < MPI_THREAD_MULTIPLE) {
        kvfi_free(w);
        return tool_fail(error,
                         "this MPI library provides thread level %d, %d "
                         "(MPI_THREAD_MULTIPLE) is needed",
                         provided, MPI_THREAD_MULTIPLE);
    }
    if (!make_comms(w)) {
        kvfi_free(w);
        return tool_fail(error, "MPI communicators could not be made");
    }
    *ret_world = w;
    return true;
}

void world_close(struct world *world)
{
    if (!world)
        return;
    for (uint32_t i = 0; i < NOTES_IN_FLIGHT; i++)
        finish(world, &world->note_requests[i], "notes");
    world_barrier(world);
    (void)MPI_Comm_free(&world->node);
    (void)MPI_Comm_free(&world->exchange);
    (void)MPI_Comm_free(&world->notes);
    (void)MPI_Comm_free(&world->all);
    (void)MPI_Finalize();
    kvfi_free(world);
}

void world_set_timeout(struct world *world, uint64_t timeout_ns)
{
    world->timeout_ns = timeout_ns;
}

uint32_t world_rank(const struct world *world)
{
    return (uint32_t)world->rank;
}

uint32_t world_size(const struct world *world)
{
    return (uint32_t)world->size;
}

void world_barrier(struct world *world)
{
    MPI_Request request;

    must(world, MPI_Ibarrier(world->all, &request), "barrier");
    finish(world, &request, "barrier");
}

static void reduce(struct world *world, uint64_t *values, size_t n, MPI_Op op)
{
    MPI_Request request;

    must(world,
         MPI_Iallreduce(MPI_IN_PLACE, values, (int)n, MPI_UINT64_T, op, world->all, &request),
         "reduction");
    finish(world, &request, "reduction");
}

void world_sum(struct world *world, uint64_t *values, size_t n)
{
    reduce(world, values, n, MPI_SUM);
}

void world_max(struct world *world, uint64_t *values, size_t n)
{
    reduce(world, values, n, MPI_MAX);
}

bool world_agree(struct world *world, bool ok)
{
    uint64_t n_bad = ok ? 0 : 1;

    world_sum(world, &n_bad, 1);
    return n_bad == 0;
}

void world_broadcast(struct world *world, void *bytes, size_t n_bytes)
{
    MPI_Request request;

    must(world, MPI_Ibcast(bytes, (int)n_bytes, MPI_BYTE, 0, world->all, &request), "broadcast");
    finish(world, &request, "broadcast");
}

uint64_t world_node_sum(struct world *world, uint64_t value)
{
    MPI_Request request;

    must(world,
         MPI_Iallreduce(MPI_IN_PLACE, &value, 1, MPI_UINT64_T, MPI_SUM, world->node, &request),
         "node sum");
    finish(world, &request, "node sum");
    return value;
}

bool world_gather_all(struct world *world, const void *bytes, size_t n_bytes,
                      struct world_bytes *ret_all, void **ret_memory)
{
    int *counts = kvfi_calloc((size_t)world->size * 2, sizeof(*counts));
    int *offsets = counts ? counts + world->size : NULL;
    unsigned char *memory = NULL;
    MPI_Request request;
    int own = (int)n_bytes;
    int total = 0;

    if (!world_agree(world, counts != NULL) || !counts) {
        kvfi_free(counts);
        return false;
    }
    must(world, MPI_Iallgather(&own, 1, MPI_INT, counts, 1, MPI_INT, world->all, &request),
         "gather");
    finish(world, &request, "gather");
    for (int r = 0; r < world->size; r++) {
        offsets[r] = total;
        total += counts[r];
    }
    memory = kvfi_calloc(1, (size_t)total + 1);
    if (!world_agree(world, memory != NULL)) {
        kvfi_free(counts);
        kvfi_free(memory);
        return false;
    }
    must(world,
         MPI_Iallgatherv(bytes, own, MPI_BYTE, memory, counts, offsets, MPI_BYTE, world->all,
                         &request),
         "gather");
    finish(world, &request, "gather");
    for (int r = 0; r < world->size; r++)
        ret_all[r] = (struct world_bytes){(size_t)counts[r], memory + offsets[r]};
    kvfi_free(counts);
    *ret_memory = memory;
    return true;
}

void world_note(struct world *world, uint32_t rank, uint32_t word)
{
    uint32_t slot = world->next_note++ % NOTES_IN_FLIGHT;

    finish(world, &world->note_requests[slot], "note");
    world->note_words[slot] = word;
    must(world,
         MPI_Isend(&world->note_words[slot], 1, MPI_UINT32_T, (int)rank, TAG_NOTE, world->notes,
                   &world->note_requests[slot]),
         "note");
}

bool world_take_note(struct world *world, uint32_t *ret_word)
{
    MPI_Message message;
    int found = 0;

    must(world,
         MPI_Improbe(MPI_ANY_SOURCE, TAG_NOTE, world->notes, &found, &message, MPI_STATUS_IGNORE),
         "note");
    if (!found)
        return false;
    must(world, MPI_Mrecv(ret_word, 1, MPI_UINT32_T, &message, MPI_STATUS_IGNORE), "note");
    return true;
}

static int post(struct world *world, const struct world_message *m, MPI_Request *request)
{
    if (m->is_send)
        return MPI_Isend(m->memory, (int)m->n_bytes, MPI_BYTE, (int)m->peer, TAG_EXCHANGE,
                         world->exchange, request);
    return MPI_Irecv(m->memory, (int)m->n_bytes, MPI_BYTE, (int)m->peer, TAG_EXCHANGE,
                     world->exchange, request);
}

bool world_exchange(struct world *world, const struct world_message *messages, size_t n,
                    uint32_t n_in_flight, world_done_fn done, void *ctx, struct tool_error *error)
{
    MPI_Request requests[IN_FLIGHT_MAX];
    uint32_t owners[IN_FLIGHT_MAX];
    int ended[IN_FLIGHT_MAX];
    uint64_t deadline_ns = kvfi_add_sat(kvfi_now_ns(), world->timeout_ns);
    uint32_t n_slots = n_in_flight < IN_FLIGHT_MAX ? n_in_flight : IN_FLIGHT_MAX;
    size_t next = 0;
    size_t n_done = 0;
    int n_ended = 0;

    for (uint32_t i = 0; i < n_slots; i++)
        requests[i] = MPI_REQUEST_NULL;
    while (n_done < n) {
        for (uint32_t i = 0; i < n_slots && next < n; i++) {
            if (requests[i] != MPI_REQUEST_NULL)
                continue;
            owners[i] = messages[next].owner;
            must(world, post(world, &messages[next++], &requests[i]), "exchange");
        }
        must(world, MPI_Testsome((int)n_slots, requests, &n_ended, ended, MPI_STATUSES_IGNORE),
             "exchange");
        for (int i = 0; i < n_ended; i++)
            done(ctx, owners[ended[i]]);
        if (n_ended > 0) {
            n_done += (size_t)n_ended;
            continue;
        }
        if (kvfi_now_ns() > deadline_ns)
            return tool_fail(error, "exchange: %zu of %zu messages after %" PRIu64 " s", n_done, n,
                             world->timeout_ns / 1000000000u);
        (void)sched_yield();
    }
    return true;
}
