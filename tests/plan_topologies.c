/* SPDX-License-Identifier: Apache-2.0 */
#include "plan_topologies.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/copy.h"
#include "plan_text.h"

/* ---- description ---- */

void *must_calloc(size_t n, size_t elem_bytes)
{
    void *p = calloc(n ? n : 1, elem_bytes);

    if (!p)
        abort();
    return p;
}

static void parse_side(const char *text, struct topo_side *side)
{
    memset(side, 0, sizeof(*side));
    side->tp = side->pp = side->dp = side->cp = 1;
    while (*text) {
        char axis = text[0];
        char *end;
        uint32_t n = (uint32_t)strtoul(text + 2, &end, 10);

        if (axis == 't')
            side->tp = n;
        else if (axis == 'p')
            side->pp = n;
        else if (axis == 'd')
            side->dp = n;
        else
            side->cp = n;
        if (*end == '/')
            side->interleave_tokens = (uint32_t)strtoul(end + 1, &end, 10);
        text = end;
    }
}

static void deal_layers(struct topo_side *side, uint32_t n_layers)
{
    uint32_t end = 0;

    for (uint32_t s = 0; s < side->pp; s++) {
        end += n_layers / side->pp + (s < n_layers % side->pp ? 1u : 0u);
        side->pp_end[s] = end;
    }
}

void topo_init(struct topo *t, const char *src, const char *dst, uint32_t n_layers)
{
    memset(t, 0, sizeof(*t));
    t->n_layers = n_layers;
    t->request = 1;
    parse_side(src, &t->side[TOPO_SRC]);
    parse_side(dst, &t->side[TOPO_DST]);
    deal_layers(&t->side[TOPO_SRC], n_layers);
    deal_layers(&t->side[TOPO_DST], n_layers);
}

struct topo_part *topo_add(struct topo *t, uint32_t role, uint32_t group, uint32_t n_heads)
{
    uint32_t i = t->n_parts++;

    t->parts[i] = (struct topo_part){.role = role,
                                     .group = group,
                                     .n_layers = t->n_layers,
                                     .layer_step = 1,
                                     .n_heads = n_heads,
                                     .tokens_per_row = 1,
                                     .row_bytes = 16};
    for (int w = 0; w < 2; w++)
        t->side[w].keep[i] =
            (struct topo_keep){.block_tokens = 8, .token_atom = 1, .head_atom = 1, .head_unit = 1};
    return &t->parts[i];
}

void topo_range(struct topo *t, uint32_t group, uint64_t begin, uint64_t end)
{
    t->ranges[group].begin = begin;
    t->ranges[group].end = end;
}

/* ---- building ---- */

struct position {
    uint32_t dp, pp, tp, cp;
    uint32_t variant; /* of the build */
};

static void set_order(const struct topo_keep *keep, uint8_t ret_order[4])
{
    static const uint8_t head_major[4] = {KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_HEAD,
                                          KVFI_AXIS_ROW};
    static const uint8_t token_major[4] = {KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_ROW,
                                           KVFI_AXIS_HEAD};
    static const uint8_t layer_minor[4] = {KVFI_AXIS_ROW, KVFI_AXIS_LAYER, KVFI_AXIS_KV,
                                           KVFI_AXIS_HEAD};

    memcpy(ret_order,
           keep->layer_minor   ? layer_minor
           : keep->token_major ? token_major
                               : head_major,
           4);
}

/* Heads of the tp-th rank: dealt in units; every rank has some, also if there are too few. */
static void set_heads(const struct topo_part *part, const struct topo_keep *keep, uint32_t tp,
                      uint32_t tp_size, struct kvfi_pool_geometry *pool)
{
    uint32_t units = (part->n_heads + keep->head_unit - 1) / keep->head_unit;
    uint32_t first = tp * units / tp_size;
    uint32_t end = (tp + 1) * units / tp_size;

    if (end == first)
        end = first + 1;
    first = first > keep->head_overlap ? first - keep->head_overlap : 0;
    pool->first_head = first * keep->head_unit;
    end *= keep->head_unit;
    pool->n_heads = (end < part->n_heads ? end : part->n_heads) - pool->first_head;
    pool->n_heads_total = part->n_heads;
    pool->head_atom = keep->head_atom;
}

/* Layers of a part on a rank, those of the piece-th pool; returns their number. */
static uint32_t list_layers(const struct topo *t, const struct topo_side *side, uint32_t i,
                            const struct position *at, uint32_t piece, uint32_t *ret_layers)
{
    const struct topo_part *part = &t->parts[i];
    const struct topo_keep *keep = &side->keep[i];
    uint32_t split = at->tp % 2 && keep->odd_split ? keep->odd_split : keep->split;
    uint32_t begin = at->pp ? side->pp_end[at->pp - 1] : 0;
    uint32_t n = 0;
    uint32_t kept = 0;

    begin = begin > side->layer_overlap ? begin - side->layer_overlap : 0;
    for (uint32_t k = 0; k + keep->lacks < part->n_layers; k++) {
        uint32_t layer = part->first_layer + k * part->layer_step;

        if (layer >= begin && layer < side->pp_end[at->pp])
            ret_layers[n++] = layer;
    }
    for (uint32_t k = 0; k < n; k++) {
        uint32_t of = split == TOPO_SPLIT_HALVES    ? (k >= (n + 1) / 2 ? 1u : 0u)
                      : split == TOPO_SPLIT_EVENODD ? k % 2
                                                    : 0u;

        if (of == piece)
            ret_layers[kept++] = ret_layers[k];
    }
    return kept;
}

static void add_pool(const struct topo *t, const struct topo_side *side, uint32_t i,
                     const struct position *at, uint32_t piece, uint32_t role,
                     struct kvfi_rank_geometry *rank)
{
    const struct topo_part *part = &t->parts[i];
    const struct topo_keep *keep = &side->keep[i];
    struct kvfi_pool_geometry *pool = &rank->pools[rank->n_pools];
    uint32_t *layers = must_calloc(t->n_layers, sizeof(*layers));
    uint32_t n = list_layers(t, side, i, at, piece, layers);

    if (n == 0) {
        free(layers);
        return;
    }
    pool->group = part->group + keep->group_plus;
    pool->role = role;
    pool->flags =
        (part->per_request ? KVF_POOL_PER_REQUEST : 0u) | (keep->optional ? KVF_POOL_OPTIONAL : 0u);
    pool->n_blocks = 100 + 7 * at->variant;
    pool->block_tokens = part->per_request ? 1 : keep->block_tokens;
    pool->tokens_per_row = part->per_request ? 1 : part->tokens_per_row;
    pool->token_atom = part->per_request ? 1 : keep->token_atom;
    if (at->tp % 2 && keep->odd_atom && !part->per_request)
        pool->token_atom *= keep->odd_atom;
    pool->n_kv = role == KVF_POOL_KV ? 2 : 1;
    pool->row_bytes = part->row_bytes;
    pool->n_layers = n;
    pool->layers = layers;
    memcpy(pool->format, "bf16", 5);
    set_heads(part, keep, at->tp, side->tp, pool);
    set_order(keep, pool->order);
    rank->n_pools++;
}

static void build_pools(const struct topo *t, const struct topo_side *side,
                        const struct position *at, struct kvfi_rank_geometry *rank)
{
    rank->pools = must_calloc((size_t)t->n_parts * 4, sizeof(*rank->pools));
    for (uint32_t i = 0; i < t->n_parts; i++) {
        bool two = t->parts[i].role == KVF_POOL_KV && side->keep[i].split_kv;

        for (uint32_t piece = 0; piece < 2; piece++) {
            add_pool(t, side, i, at, piece, two ? KVF_POOL_KEY : t->parts[i].role, rank);
            if (two)
                add_pool(t, side, i, at, piece, KVF_POOL_VALUE, rank);
        }
    }
    for (uint32_t a = 0, b = rank->n_pools; side->reverse_pools && a + 1 < b; a++) {
        struct kvfi_pool_geometry swap = rank->pools[a];

        rank->pools[a] = rank->pools[--b];
        rank->pools[b] = swap;
    }
}

/* order[i] is the rank of the i-th position. */
static void number_ranks(uint32_t shuffle, uint32_t n, uint32_t *ret_order)
{
    struct topo_rng rng = {0x9E3779B97F4A7C15u ^ shuffle};

    for (uint32_t i = 0; i < n; i++)
        ret_order[i] = i;
    for (uint32_t i = n; shuffle && i > 1; i--) {
        uint32_t k = topo_rnd(&rng, i);
        uint32_t swap = ret_order[i - 1];

        ret_order[i - 1] = ret_order[k];
        ret_order[k] = swap;
    }
}

void topo_build(const struct topo *t, enum topo_which which, uint32_t variant,
                struct kvfi_instance_geometry *ret_instance)
{
    const struct topo_side *side = &t->side[which];
    uint32_t n = side->dp * side->pp * side->tp * side->cp;
    uint32_t *order = must_calloc(n, sizeof(*order));

    memset(ret_instance, 0, sizeof(*ret_instance));
    (void)snprintf(ret_instance->name, sizeof(ret_instance->name), "%s",
                   which == TOPO_SRC ? "context" : "generation");
    (void)snprintf(ret_instance->compat, sizeof(ret_instance->compat), "model");
    ret_instance->n_ranks = n;
    ret_instance->ranks = must_calloc(n, sizeof(*ret_instance->ranks));
    number_ranks(side->shuffle, n, order);
    for (uint32_t i = 0; i < n; i++) {
        struct kvfi_rank_geometry *rank = &ret_instance->ranks[order[i]];
        struct position at = {.cp = i % side->cp,
                              .tp = i / side->cp % side->tp,
                              .pp = i / (side->cp * side->tp) % side->pp,
                              .dp = i / (side->cp * side->tp * side->pp),
                              .variant = variant};

        rank->place = (struct kvf_place){.size = sizeof(rank->place),
                                         .rank = order[i],
                                         .n_ranks = n,
                                         .pp_rank = at.pp,
                                         .pp_size = side->pp,
                                         .dp_group = at.dp,
                                         .n_dp_groups = side->dp,
                                         .tp_rank = at.tp,
                                         .tp_size = side->tp,
                                         .cp_rank = at.cp,
                                         .cp_size = side->cp,
                                         .cp_interleave_tokens = side->interleave_tokens};
        rank->incarnation = 1000u * variant + i;
        (void)snprintf(rank->address, sizeof(rank->address), "127.0.0.1:%u", 9000 + variant);
        build_pools(t, side, &at, rank);
    }
    free(order);
}

void topo_free(struct kvfi_instance_geometry *instance)
{
    for (uint32_t r = 0; r < instance->n_ranks; r++) {
        for (uint32_t p = 0; p < instance->ranks[r].n_pools; p++)
            free(instance->ranks[r].pools[p].layers);
        free(instance->ranks[r].pools);
    }
    free(instance->ranks);
    memset(instance, 0, sizeof(*instance));
}

/* ---- text ---- */

/* text_add to a char[TOPO_TEXT_MAX]. */
#define ADD(text, ...) text_add(text, TOPO_TEXT_MAX, __VA_ARGS__)

static void add_side(char *text, const struct topo *t, const struct topo_side *side)
{
    ADD(text, "tp%upp%udp%ucp%u/%u layers", side->tp, side->pp, side->dp, side->cp,
        side->interleave_tokens);
    for (uint32_t s = 0; s < side->pp; s++)
        ADD(text, "%c%u", s ? ',' : ' ', side->pp_end[s]);
    if (side->layer_overlap)
        ADD(text, " overlap%u", side->layer_overlap);
    ADD(text, " shuffle%u%s", side->shuffle, side->reverse_pools ? " reversed" : "");
    for (uint32_t i = 0; i < t->n_parts; i++) {
        const struct topo_keep *k = &side->keep[i];

        ADD(text, " [b%u ta%u ha%u hu%u", k->block_tokens, k->token_atom, k->head_atom,
            k->head_unit);
        ADD(text, "%s%s%s%s%s", k->split_kv ? " K+V" : "", k->optional ? " optional" : "",
            k->token_major ? " token-major" : "", k->layer_minor ? " layer-minor" : "",
            k->split == TOPO_SPLIT_HALVES    ? " halves"
            : k->split == TOPO_SPLIT_EVENODD ? " evenodd"
                                             : "");
        if (k->lacks)
            ADD(text, " lacks%u", k->lacks);
        if (k->head_overlap)
            ADD(text, " heads-overlap%u", k->head_overlap);
        if (k->odd_split)
            ADD(text, " odd-split%u", k->odd_split);
        if (k->odd_atom)
            ADD(text, " odd-atom%u", k->odd_atom);
        if (k->group_plus)
            ADD(text, " group+%u", k->group_plus);
        ADD(text, "]");
    }
}

void topo_text(const struct topo *t, char text[TOPO_TEXT_MAX])
{
    text[0] = '\0';
    for (uint32_t i = 0; i < t->n_parts; i++) {
        const struct topo_part *p = &t->parts[i];

        ADD(text, "role%u g%u%s layers %u+%ux%u heads%u tpr%u row%u; ", p->role, p->group,
            p->per_request ? " state" : "", p->first_layer, p->layer_step, p->n_layers, p->n_heads,
            p->tokens_per_row, p->row_bytes);
    }
    ADD(text, "src ");
    add_side(text, t, &t->side[TOPO_SRC]);
    ADD(text, "; dst ");
    add_side(text, t, &t->side[TOPO_DST]);
    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++) {
        if (t->ranges[g].begin < t->ranges[g].end)
            ADD(text, "; g%u [%llu,%llu)", g, (unsigned long long)t->ranges[g].begin,
                (unsigned long long)t->ranges[g].end);
    }
    ADD(text, "; request %llx:%llx", (unsigned long long)t->request_high,
        (unsigned long long)t->request);
}

/* ---- random ---- */

uint64_t topo_rng64(struct topo_rng *rng)
{
    rng->state ^= rng->state >> 12;
    rng->state ^= rng->state << 25;
    rng->state ^= rng->state >> 27;
    return rng->state * 0x2545F4914F6CDD1Du;
}

uint32_t topo_rnd(struct topo_rng *rng, uint32_t n)
{
    return (uint32_t)((topo_rng64(rng) >> 33) % n);
}

static bool one_in(struct topo_rng *rng, uint32_t n)
{
    return topo_rnd(rng, n) == 0;
}

static uint32_t pick(struct topo_rng *rng, const uint32_t *choices, uint32_t n)
{
    return choices[topo_rnd(rng, n)];
}

static void random_part(struct topo *t, struct topo_rng *rng)
{
    static const uint32_t roles[] = {KVF_POOL_KV,     KVF_POOL_KV,        KVF_POOL_KV,
                                     KVF_POOL_LATENT, KVF_POOL_SCALE_KEY, KVF_POOL_INDEX,
                                     KVF_POOL_STATE,  KVF_POOL_USER + 3};
    static const uint32_t tprs[] = {1, 1, 1, 1, 1, 2, 3, 4};
    uint32_t i = t->n_parts;
    uint32_t role = roles[topo_rnd(rng, 8)];
    struct topo_part *p;

    for (uint32_t k = 0; k < i; k++) {
        if (t->parts[k].role == role) /* a (role, layer) is in one part only */
            return;
    }
    p = topo_add(t, role, i, role == KVF_POOL_LATENT ? 1 : 1 + topo_rnd(rng, 5));
    p->per_request = role == KVF_POOL_STATE;
    p->tokens_per_row = p->per_request ? 1 : pick(rng, tprs, 8);
    p->row_bytes = 1 + topo_rnd(rng, 40);
    if (i && !p->per_request && !t->parts[0].per_request && one_in(rng, 2))
        p->group = 0;
    p->layer_step = 1 + topo_rnd(rng, 2);
    p->first_layer = topo_rnd(rng, t->n_layers);
    p->n_layers = (t->n_layers - p->first_layer + p->layer_step - 1) / p->layer_step;
    if (one_in(rng, 3)) {
        p->first_layer = 0;
        p->layer_step = 1;
        p->n_layers = t->n_layers;
    }
}

static void random_keep(const struct topo_part *p, struct topo_rng *rng, struct topo_keep *k)
{
    static const uint32_t atoms[] = {1, 1, 1, 1, 2, 3, 4};
    static const uint32_t orders[] = {0, 0, 1, 2};
    uint32_t order = pick(rng, orders, 4);

    k->block_tokens = p->tokens_per_row * (1 + topo_rnd(rng, 6));
    k->token_atom = p->tokens_per_row * pick(rng, atoms, 7);
    if (p->per_request)
        k->block_tokens = k->token_atom = 1;
    k->split_kv = one_in(rng, 3);
    k->split = topo_rnd(rng, 3);
    k->odd_split = one_in(rng, 4) ? topo_rnd(rng, 3) : 0;
    k->token_major = order == 1;
    k->layer_minor = order == 2;
    k->odd_atom = one_in(rng, 8) ? 1 + topo_rnd(rng, 3) : 0;
    if (one_in(rng, 6)) {
        k->optional = true;
        k->lacks = topo_rnd(rng, p->n_layers + 1);
    }
}

static void random_side(const struct topo *t, struct topo_rng *rng, struct topo_side *side)
{
    side->tp = 1 + topo_rnd(rng, 4);
    side->pp = 1 + topo_rnd(rng, 3);
    side->dp = one_in(rng, 4) ? 2 : 1;
    side->cp = one_in(rng, 3) ? 2 + topo_rnd(rng, 2) : 1;
    if (side->tp * side->pp > 6)
        side->pp = 1;
    if (side->tp * side->pp * side->cp > 8)
        side->cp = 1;
    side->shuffle = one_in(rng, 2) ? 1 + topo_rnd(rng, 1000) : 0;
    side->reverse_pools = one_in(rng, 2);
    for (uint32_t s = 0; s < side->pp; s++) {
        uint32_t from = s ? side->pp_end[s - 1] : 0;

        side->pp_end[s] = from + topo_rnd(rng, t->n_layers - from + 1); /* a stage may be empty */
    }
    side->pp_end[side->pp - 1] = t->n_layers;
    if (one_in(rng, 8))
        side->layer_overlap = 1;
    for (uint32_t i = 0; i < t->n_parts; i++) {
        random_keep(&t->parts[i], rng, &side->keep[i]);
        if (one_in(rng, 8))
            side->keep[i].head_overlap = 1;
    }
}

/* What one side lacks is optional on both. Block tables of the source may have other numbers. */
static void reconcile(struct topo *t, struct topo_rng *rng)
{
    uint32_t plus = one_in(rng, 4) ? 1 + topo_rnd(rng, 10) : 0;

    for (uint32_t i = 0; i < t->n_parts; i++) {
        struct topo_keep *a = &t->side[TOPO_SRC].keep[i];
        struct topo_keep *b = &t->side[TOPO_DST].keep[i];
        uint32_t unit = t->parts[i].n_heads % 2 == 0 && one_in(rng, 3) ? 2 : 1;

        if (a->lacks || b->lacks)
            a->optional = b->optional = true;
        a->head_unit = b->head_unit = unit;
        a->group_plus = plus;
        a->head_atom = one_in(rng, 2) ? unit : 1;
        b->head_atom = one_in(rng, 2) ? unit : 1;
    }
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    return b ? gcd(b, a % b) : a;
}

/* Nothing may cut an atom of either side: begins and interleaves are multiples of all of them. */
static void random_ranges(struct topo *t, struct topo_rng *rng)
{
    uint32_t all = 1;
    uint32_t of_group[KVF_GROUPS_MAX];

    for (uint32_t g = 0; g < KVF_GROUPS_MAX; g++)
        of_group[g] = 1;
    for (uint32_t i = 0; i < t->n_parts; i++) {
        for (int w = 0; w < 2; w++) {
            const struct topo_keep *k = &t->side[w].keep[i];
            uint32_t atom = k->token_atom * (k->odd_atom ? k->odd_atom : 1);
            uint32_t *g = &of_group[t->parts[i].group];

            all = all / gcd(all, atom) * atom;
            *g = *g / gcd(*g, atom) * atom;
        }
    }
    for (int w = 0; w < 2; w++)
        t->side[w].interleave_tokens = t->side[w].cp > 1 ? all * (1 + topo_rnd(rng, 3)) : 0;
    for (uint32_t i = 0; i < t->n_parts; i++) {
        uint32_t g = t->parts[i].group;
        uint64_t begin = (uint64_t)of_group[g] * topo_rnd(rng, one_in(rng, 2) ? 1 : 5);
        uint64_t end = begin + (one_in(rng, 12) ? 0 : 1 + topo_rnd(rng, 50));

        if (t->ranges[g].end == 0)
            topo_range(t, g, begin, end);
    }
}

void topo_random(struct topo *t, struct topo_rng *rng)
{
    memset(t, 0, sizeof(*t));
    t->n_layers = 1 + topo_rnd(rng, 5);
    t->request = topo_rng64(rng);
    t->request_high = one_in(rng, 2) ? topo_rng64(rng) : 0;
    for (uint32_t n = 1 + topo_rnd(rng, 3); n > 0; n--)
        random_part(t, rng);
    random_side(t, rng, &t->side[TOPO_SRC]);
    random_side(t, rng, &t->side[TOPO_DST]);
    reconcile(t, rng);
    random_ranges(t, rng);
}
