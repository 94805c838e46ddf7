/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "collectives/util.h"
#include "plugin/engine.h"

kvf_status_t kvfi_pieces_init(struct kvfi_piece_table *table, uint32_t n)
{
    table->pieces = kvfi_calloc(n, sizeof(*table->pieces));
    if (!table->pieces)
        return KVF_ENOMEM;
    table->n = n;
    table->n_used = 0;
    for (uint32_t i = 0; i < n; i++)
        table->pieces[i].next = i + 1 < n ? i + 1 : KVFI_NONE;
    table->free = n > 0 ? 0 : KVFI_NONE;
    return KVF_OK;
}

void kvfi_pieces_fini(struct kvfi_piece_table *table)
{
    for (uint32_t i = 0; i < table->n; i++) {
        if (table->pieces[i].task)
            kvfi_piece_free(table, i);
    }
    kvfi_free(table->pieces);
    memset(table, 0, sizeof(*table));
}

uint32_t kvfi_piece_new(struct kvfi_piece_table *table, struct kvf_task *task,
                        struct kvfi_chunk_map *map, bool is_receive)
{
    uint32_t number = table->free;
    struct kvfi_piece *p;
    uint64_t *offered = NULL;
    _Atomic uint64_t *arrived = NULL;

    if (number == KVFI_NONE)
        return KVFI_NONE;
    if (is_receive) {
        size_t n_words = (map->n_chunks + 63u) / 64u;

        offered = kvfi_calloc(n_words + 1, sizeof(*offered));
        arrived = kvfi_calloc(n_words + 1, sizeof(*arrived));
        if (!offered || !arrived) {
            kvfi_free(offered);
            kvfi_free(arrived);
            return KVFI_NONE;
        }
    }
    p = &table->pieces[number];
    table->free = p->next;
    table->n_used++;
    memset(p, 0, sizeof(*p));
    p->task = task;
    p->map = *map;
    p->offered = offered;
    p->arrived = arrived;
    p->next = KVFI_NONE;
    /* relaxed: the count is read by the control thread, which is also here. */
    (void)atomic_fetch_add_explicit(&task->n_unreleased, 1, memory_order_relaxed);
    return number;
}

void kvfi_piece_free(struct kvfi_piece_table *table, uint32_t piece)
{
    struct kvfi_piece *p = &table->pieces[piece];

    kvfi_chunk_map_fini(&p->map);
    kvfi_free(p->offered);
    kvfi_free(p->arrived);
    (void)atomic_fetch_sub_explicit(&p->task->n_unreleased, 1, memory_order_relaxed);
    memset(p, 0, sizeof(*p));
    p->next = table->free;
    table->free = piece;
    table->n_used--;
}
