/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/topology.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A cursor over the text, with what its sentences need. */
struct parser {
    const char *name;
    const char *text;
    const char *at;
    struct tool_error *error;
};

static void skip_spaces(struct parser *p)
{
    while (isspace((unsigned char)*p->at))
        p->at++;
}

static bool parse_count(struct parser *p, const char *what, uint32_t max, uint32_t *ret)
{
    uint64_t value = 0;

    if (!isdigit((unsigned char)*p->at))
        return tool_fail(p->error, "%s: \"%s\": a number must follow \"%s\"", p->name, p->text,
                         what);
    for (; isdigit((unsigned char)*p->at); p->at++) {
        value = value * 10 + (uint64_t)(*p->at - '0');
        if (value > max)
            return tool_fail(p->error, "%s: \"%s\": \"%s\" is more than %u", p->name, p->text, what,
                             max);
    }
    if (value == 0)
        return tool_fail(p->error, "%s: \"%s\": \"%s\" is 0", p->name, p->text, what);
    *ret = (uint32_t)value;
    return true;
}

/* "2x" in front. */
static bool parse_instances(struct parser *p, struct topology *t)
{
    if (!isdigit((unsigned char)*p->at))
        return true;
    if (!parse_count(p, "number of instances", TOPOLOGY_INSTANCES_MAX, &t->n_instances))
        return false;
    skip_spaces(p);
    if (tolower((unsigned char)*p->at) != 'x')
        return tool_fail(p->error, "%s: \"%s\": an \"x\" must follow the number of instances",
                         p->name, p->text);
    p->at++;
    skip_spaces(p);
    return true;
}

/* One axis and its size, such as "tp4". */
static bool parse_axis(struct parser *p, struct topology *t)
{
    const struct {
        const char *name;
        uint32_t *value;
    } axes[] = {{"tp", &t->tp}, {"tep", &t->tp}, {"pp", &t->pp},
                {"cp", &t->cp}, {"dp", &t->dp},  {"dep", &t->dp}};
    char word[8];
    size_t n = 0;

    while (isalpha((unsigned char)*p->at) && n + 1 < sizeof(word))
        word[n++] = *p->at++;
    word[n] = '\0';
    for (size_t i = 0; i < sizeof(axes) / sizeof(axes[0]); i++) {
        if (strcasecmp(word, axes[i].name) != 0)
            continue;
        if (*axes[i].value != 0)
            return tool_fail(p->error, "%s: \"%s\": \"%s\" sets an axis that is set already",
                             p->name, p->text, word);
        return parse_count(p, axes[i].name, TOPOLOGY_INSTANCE_RANKS_MAX, axes[i].value);
    }
    return tool_fail(p->error, "%s: \"%s\": unknown axis at \"%s%s\" (known: tp tep pp cp dp dep)",
                     p->name, p->text, word, p->at);
}

bool topology_parse(const char *name, const char *text, struct tool_error *error,
                    struct topology *ret)
{
    struct parser p = {.name = name, .text = text, .at = text, .error = error};
    struct topology t = {.n_instances = 1};
    uint64_t n_ranks;

    if (strlen(text) >= sizeof(t.text))
        return tool_fail(error, "%s: longer than %zu characters", name, sizeof(t.text) - 1);
    (void)snprintf(t.text, sizeof(t.text), "%s", text);
    skip_spaces(&p);
    if (!parse_instances(&p, &t))
        return false;
    if (*p.at == '\0')
        return tool_fail(error, "%s: \"%s\" names no axis such as tp2", name, text);
    while (*p.at != '\0') {
        if (!parse_axis(&p, &t))
            return false;
        skip_spaces(&p);
    }
    t.tp = t.tp ? t.tp : 1;
    t.pp = t.pp ? t.pp : 1;
    t.cp = t.cp ? t.cp : 1;
    t.dp = t.dp ? t.dp : 1;
    n_ranks = (uint64_t)t.tp * t.pp;
    if (n_ranks <= TOPOLOGY_INSTANCE_RANKS_MAX)
        n_ranks *= (uint64_t)t.cp * t.dp;
    if (n_ranks > TOPOLOGY_INSTANCE_RANKS_MAX)
        return tool_fail(error, "%s: \"%s\" needs more than %u ranks an instance", name, text,
                         TOPOLOGY_INSTANCE_RANKS_MAX);
    *ret = t;
    return true;
}

uint32_t topology_instance_ranks(const struct topology *t)
{
    return t->tp * t->pp * t->cp * t->dp;
}

uint32_t topology_ranks(const struct topology *t)
{
    return t->n_instances * topology_instance_ranks(t);
}

bool topology_check_world(const struct topology *context, const struct topology *generation,
                          uint32_t world_ranks, struct tool_error *error)
{
    uint32_t n_context = topology_ranks(context);
    uint32_t n_generation = topology_ranks(generation);

    if (n_context + n_generation == world_ranks)
        return true;
    return tool_fail(error,
                     "context \"%s\" (%u ranks) and generation \"%s\" (%u ranks) need %u ranks, "
                     "the MPI world has %u: start it with mpirun -n %u",
                     context->text, n_context, generation->text, n_generation,
                     n_context + n_generation, world_ranks, n_context + n_generation);
}

void topology_place(const struct topology *t, uint32_t rank, uint32_t cp_interleave_tokens,
                    struct kvf_place *ret_place)
{
    struct kvf_place place = {
        .size = sizeof(place),
        .rank = rank,
        .n_ranks = topology_instance_ranks(t),
        .pp_size = t->pp,
        .n_dp_groups = t->dp,
        .tp_size = t->tp,
        .cp_size = t->cp,
        .cp_interleave_tokens = t->cp > 1 ? cp_interleave_tokens : 0,
    };

    place.tp_rank = rank % t->tp;
    place.dp_group = rank / t->tp % t->dp;
    place.cp_rank = rank / t->tp / t->dp % t->cp;
    place.pp_rank = rank / t->tp / t->dp / t->cp;
    *ret_place = place;
}
