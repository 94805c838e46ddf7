/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two lanes that face each other over the mem fabric: pieces of patterned memory at the sender, the
 * same pieces empty at the receiver. Every wait has a deadline.
 */
#ifndef KVFERRY_TESTS_LANE_RIG_H
#define KVFERRY_TESTS_LANE_RIG_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "collectives/lane.h"
#include "fabric_mem.h"

enum {
    N_SLOTS = 4,
    SLOT_BYTES = 16 * 1024,
    N_PIECES = 96,
    N_CHUNKS = 8, /* of a piece */
    CHUNK_MAX = 96,
    BAD_PIECE = 95 /* chunk_bytes says that its chunks do not fit */
};
#define FAR_NS (UINT64_C(10) * 1000000000u)

/* One side: the memory of the pieces, which of them are live, and what the lane called. */
struct side {
    uint8_t bytes[N_PIECES][N_CHUNKS][CHUNK_MAX];
    uint64_t bases[N_PIECES];
    bool is_dead[N_PIECES];
    enum kvfi_copy_kind copy_kind;
    atomic_uint n_begun;
    atomic_uint n_ended;
    atomic_int last_status;
    atomic_bool are_signals_blocked;
    atomic_bool are_times_bad;
    sem_t news;
    struct kvfi_fabric *fabric;
    struct kvfi_lane *lane;
    struct kvfi_fabric_link *links[N_SLOTS];
};

struct batch {
    struct kvfi_run runs[KVFI_BATCH_RUNS_MAX];
    uint32_t n_runs;
    uint32_t bytes;
};

extern struct side *const tx;
extern struct side *const rx;

/* Fixture: both sides, with link i for slot i. tear_down does what the test did not do itself. */
void set_up(void);
void tear_down(void);
/* Ends a side early. is_clean: whether the lane had all its memory back, else it lost one slot. */
void tear_down_side(struct side *s, bool is_clean);
struct kvfi_lane_config config_of(struct side *s);

uint32_t bytes_of(uint32_t piece, uint32_t chunk);
unsigned n_begun(struct side *s); /* calls of run_begin that said yes */
unsigned n_ended(struct side *s);
kvf_status_t last_status(struct side *s); /* of run_end */

void add_run(struct batch *b, uint32_t piece, uint32_t first_chunk, uint32_t n_chunks);
struct batch one_run(uint32_t piece);
/* Slot i over link i. */
void rig_pack(uint32_t slot, const struct batch *b);
void rig_launch(uint32_t slot, const struct batch *b);
void rig_post(uint32_t slot, const struct batch *b);

/* The next report; the test fails if there is none in time. */
struct kvfi_lane_report next_report(struct side *s);
void expect(struct side *s, enum kvfi_lane_report_kind kind, uint32_t slot, kvf_status_t status);
void expect_silence(struct side *s);
void expect_arrival(uint32_t slot); /* RECEIVED and UNPACKED */

bool has_arrived(uint32_t piece, uint32_t chunk);
bool is_untouched(uint32_t piece); /* at the receiver */
void check_piece(uint32_t piece);  /* all of it has arrived */
void check_alive(uint32_t slot);   /* the lanes still move a batch */

#endif
