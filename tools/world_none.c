/* SPDX-License-Identifier: Apache-2.0 */
/* The world of a build without MPI: one sentence. */
#include "tools/world.h"

#include <stdio.h>
#include <stdlib.h>

static const char reason[] = "this kvferry was built without MPI: install it (Debian: "
                             "libopenmpi-dev openmpi-bin) and build again";

bool world_open(int *argc, char ***argv, struct tool_error *error, struct world **ret_world)
{
    (void)argc;
    (void)argv;
    (void)ret_world;
    return tool_fail(error, "%s", reason);
}

const char *world_unusable(void)
{
    return reason;
}

const char *world_version(char *text, size_t text_cap)
{
    (void)snprintf(text, text_cap, "none");
    return text;
}

/* No world was ever opened, so nothing below is reached. */
void world_close(struct world *world)
{
    (void)world;
}

void world_set_timeout(struct world *world, uint64_t timeout_ns)
{
    (void)world;
    (void)timeout_ns;
}

uint32_t world_rank(const struct world *world)
{
    (void)world;
    return 0;
}

uint32_t world_size(const struct world *world)
{
    (void)world;
    return 1;
}

void world_barrier(struct world *world)
{
    (void)world;
}

bool world_agree(struct world *world, bool ok)
{
    (void)world;
    return ok;
}

void world_broadcast(struct world *world, void *bytes, size_t n_bytes)
{
    (void)world;
    (void)bytes;
    (void)n_bytes;
}

void world_sum(struct world *world, uint64_t *values, size_t n)
{
    (void)world;
    (void)values;
    (void)n;
}

void world_max(struct world *world, uint64_t *values, size_t n)
{
    (void)world;
    (void)values;
    (void)n;
}

uint64_t world_node_sum(struct world *world, uint64_t value)
{
    (void)world;
    return value;
}

bool world_gather_all(struct world *world, const void *bytes, size_t n_bytes,
                      struct world_bytes *ret_all, void **ret_memory)
{
    (void)world;
    (void)bytes;
    (void)n_bytes;
    (void)ret_all;
    (void)ret_memory;
    return false;
}

void world_note(struct world *world, uint32_t rank, uint32_t word)
{
    (void)world;
    (void)rank;
    (void)word;
}

bool world_take_note(struct world *world, uint32_t *ret_word)
{
    (void)world;
    (void)ret_word;
    return false;
}

bool world_exchange(struct world *world, const struct world_message *messages, size_t n,
                    uint32_t n_in_flight, world_done_fn done, void *ctx, struct tool_error *error)
{
    (void)world;
    (void)messages;
    (void)n;
    (void)n_in_flight;
    (void)done;
    (void)ctx;
    return tool_fail(error, "%s", reason);
}

void world_abort(struct world *world, const char *text)
{
    (void)world;
    (void)fprintf(stderr, "kvferry: %s\n", text);
    abort();
}
