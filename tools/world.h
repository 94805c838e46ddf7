/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks a job was started with. One implementation speaks MPI; without MPI the other says so.
 * Every call that waits has a deadline (world_open's): past it the whole job is aborted with a
 * sentence, because nothing sensible can be done by a rank whose job has lost another. Waiting
 * sleeps in between, so that ranks sharing a core get on with it.
 *
 * Calls are collective unless they say otherwise, and are made by one thread.
 */
#ifndef KVFERRY_TOOLS_WORLD_H
#define KVFERRY_TOOLS_WORLD_H

#include "tools/error.h"

struct world;

struct world_bytes {
    size_t n_bytes;
    const void *bytes;
};

bool world_open(int *argc, char ***argv, struct tool_error *error, struct world **ret_world);
void world_close(struct world *world); /* NULL is allowed */
void world_set_timeout(struct world *world, uint64_t timeout_ns);

uint32_t world_rank(const struct world *world);
uint32_t world_size(const struct world *world);
/* Version of the MPI library, one line. Any time. */
const char *world_version(char *text, size_t text_cap);
/* A free-standing word on this build: NULL where jobs can be started, else why not. */
const char *world_unusable(void);

void world_barrier(struct world *world);
/* True if `ok` is true on all ranks. */
bool world_agree(struct world *world, bool ok);
void world_broadcast(struct world *world, void *bytes, size_t n_bytes); /* of rank 0 */
void world_sum(struct world *world, uint64_t *values, size_t n); /* in place, on every rank */
void world_max(struct world *world, uint64_t *values, size_t n);
/* Sum over the ranks that share this machine's memory. */
uint64_t world_node_sum(struct world *world, uint64_t value);
/*
 * Everybody's bytes: ret_all[rank], [world_size] slots of the caller, pointing into *ret_memory
 * (kvfi_free it). False on all ranks if some rank has no memory.
 */
bool world_gather_all(struct world *world, const void *bytes, size_t n_bytes,
                      struct world_bytes *ret_all, void **ret_memory);

/* Send a word to a rank; not collective. */
void world_note(struct world *world, uint32_t rank, uint32_t word);
/* Take a word somebody sent, if there is one; not collective, does not wait. */
bool world_take_note(struct world *world, uint32_t *ret_word);

/* One message of an exchange. */
struct world_message {
    uint32_t peer;
    uint32_t n_bytes;
    bool is_send;
    uint32_t owner;    /* given to `done` */
    uint32_t sequence; /* the caller's own */
    void *memory;
};
typedef void (*world_done_fn)(void *ctx, uint32_t owner);
/*
 * Move messages, in order, at most n_in_flight posted at a time. Messages of a pair match in order.
 * False past the deadline or on an error of the fabric. Not collective.
 */
bool world_exchange(struct world *world, const struct world_message *messages, size_t n,
                    uint32_t n_in_flight, world_done_fn done, void *ctx, struct tool_error *error);

/* End the whole job at once, after a sentence on stderr. Does not return. */
void world_abort(struct world *world, const char *text) __attribute__((noreturn));

#endif
