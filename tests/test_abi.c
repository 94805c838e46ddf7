/* SPDX-License-Identifier: Apache-2.0 */
/* The public headers against the frozen copy in abi_frozen.h. Arguments: the headers' paths. */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "abi_frozen.h"
#include "collectives/util.h"
#include "harness.h"

/* One member on both sides. */
struct member {
    const char *type_name;
    const char *name;
    size_t offset;
    size_t frozen_offset;
    size_t n_bytes;
    size_t frozen_bytes;
    bool same_type;
};

struct structure {
    const char *name;
    size_t n_bytes;
    size_t frozen_bytes;
    const struct member *members;
    size_t n_members;
};

/* sizeof a member needs no object. */
#define OF(tag, m) (((struct tag *)0)->m)
#define COMPARE(S, type_text, m)                                                                   \
    {                                                                                              \
        .type_name = (type_text),                                                                  \
        .name = #m,                                                                                \
        .offset = offsetof(struct S, m),                                                           \
        .frozen_offset = offsetof(struct frozen_##S, m),                                           \
        .n_bytes = sizeof(OF(S, m)),                                                               \
        .frozen_bytes = sizeof(OF(frozen_##S, m)),                                                 \
        .same_type =                                                                               \
            __builtin_types_compatible_p(__typeof__(OF(S, m)), __typeof__(OF(frozen_##S, m))),     \
    },
#define COMPARE_DATA(S, type, m, dimensions) COMPARE(S, #type, m)
#define COMPARE_FUNCTION(S, result, m, arguments) COMPARE(S, #result, m)
#define MEMBERS(S, LIST)                                                                           \
    static const struct member S##_members[] = {LIST(COMPARE_DATA, COMPARE_FUNCTION, S)};
ABI_STRUCTS(MEMBERS)

#define STRUCTURE(S, LIST)                                                                         \
    {#S, sizeof(struct S), sizeof(struct frozen_##S), S##_members, KVFI_ARRAY_LEN(S##_members)},
static const struct structure structures[] = {ABI_STRUCTS(STRUCTURE)};

struct number {
    const char *name;
    uint64_t value;
    uint64_t frozen;
};

#define NUMBER(name, value) {#name, (uint64_t)(name), (uint64_t)(value)},
static const struct number statuses[] = {ABI_STATUSES(NUMBER)};
static const struct number constants[] = {ABI_CONSTANTS(NUMBER)};

/* Only pointed-to memory is compared by type: an embedded struct has a frozen twin of its own. */
static bool is_embedded(const struct member *m)
{
    return strncmp(m->type_name, "struct frozen_", strlen("struct frozen_")) == 0;
}

START_TEST(every_member_is_where_it_was)
{
    const struct structure *s = &structures[_i];

    for (size_t i = 0; i < s->n_members; i++) {
        const struct member *m = &s->members[i];

        ck_assert_msg(m->offset == m->frozen_offset, "%s.%s: offset %zu, frozen at %zu", s->name,
                      m->name, m->offset, m->frozen_offset);
        ck_assert_msg(m->n_bytes == m->frozen_bytes, "%s.%s: %zu bytes, frozen at %zu", s->name,
                      m->name, m->n_bytes, m->frozen_bytes);
        ck_assert_msg(m->same_type || is_embedded(m), "%s.%s: another type than %s", s->name,
                      m->name, m->type_name);
    }
    ck_assert_msg(s->n_bytes == s->frozen_bytes,
                  "%s: %zu bytes, frozen at %zu; a member was added: append it to abi_frozen.h",
                  s->name, s->n_bytes, s->frozen_bytes);
}
END_TEST

/*
 * A struct that is a member of another one moves what follows it when it grows, on both sides of
 * the comparison above; so its size is a number.
 */
START_TEST(embedded_structs_never_grow)
{
    ck_assert_uint_eq(sizeof(struct kvf_place), 56);
    ck_assert_uint_eq(sizeof(struct kvf_request_id), 16);
    ck_assert_uint_eq(sizeof(struct kvf_token_range), 16);
    ck_assert_uint_eq(sizeof(struct kvf_fence), 16);
}
END_TEST

START_TEST(numbers_keep_their_values)
{
    for (size_t i = 0; i < KVFI_ARRAY_LEN(statuses); i++)
        ck_assert_msg(statuses[i].value == statuses[i].frozen, "%s is %lld", statuses[i].name,
                      (long long)statuses[i].value);
    for (size_t i = 0; i < KVFI_ARRAY_LEN(constants); i++)
        ck_assert_msg(constants[i].value == constants[i].frozen, "%s is %lld", constants[i].name,
                      (long long)constants[i].value);
}
END_TEST

/* The text of all headers, without comments. */
static char header[256 * 1024];

/* Blanks the comments, in which anything may stand. */
static void strip_comments(void)
{
    char *begin = strstr(header, "/*");

    while (begin) {
        char *end = strstr(begin, "*/");

        if (!end)
            return;
        memset(begin, ' ', (size_t)(end - begin) + 2);
        begin = strstr(begin, "/*");
    }
}

static void read_header(const char *path)
{
    FILE *f = fopen(path, "r");
    size_t n;

    if (!f) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    n = strlen(header);
    n += fread(header + n, 1, sizeof(header) - 1 - n, f);
    (void)fclose(f);
    header[n] = '\0';
}

static unsigned count(const char *from, const char *to, const char *what)
{
    unsigned n = 0;

    for (const char *at = strstr(from, what); at && at < to; at = strstr(at + 1, what))
        n++;
    return n;
}

/* Without these a struct, member or status added to a header would be outside the comparison. */
START_TEST(every_struct_is_frozen)
{
    unsigned n = 0;

    for (const char *at = strstr(header, "\nstruct kvf"); at; at = strstr(at + 1, "\nstruct kvf"))
        n += at[1 + strcspn(at + 1, "{;")] == '{';
    ck_assert_uint_eq(n, KVFI_ARRAY_LEN(structures));
}
END_TEST

/* Also finds a member that fits into padding and so changes no size. */
START_TEST(every_member_is_frozen)
{
    const struct structure *s = &structures[_i];
    char opening[64];
    const char *begin;
    const char *end;

    (void)snprintf(opening, sizeof(opening), "\nstruct %s {", s->name);
    begin = strstr(header, opening);
    ck_assert_msg(begin != NULL, "struct %s is not in the header", s->name);
    end = strstr(begin, "\n};");
    ck_assert_ptr_nonnull(end);
    ck_assert_msg(count(begin, end, ";") == s->n_members,
                  "%s: other members than the %zu in abi_frozen.h", s->name, s->n_members);
}
END_TEST

START_TEST(every_status_is_frozen)
{
    unsigned n = 0;

#define COUNT(name, value, text) n++;
    KVF_STATUS_MAP(COUNT)
#undef COUNT
    ck_assert_uint_eq(n, KVFI_ARRAY_LEN(statuses));
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_loop_test(tc, every_member_is_where_it_was, 0, KVFI_ARRAY_LEN(structures));
    tcase_add_test(tc, embedded_structs_never_grow);
    tcase_add_test(tc, numbers_keep_their_values);
    tcase_add_test(tc, every_struct_is_frozen);
    tcase_add_loop_test(tc, every_member_is_frozen, 0, KVFI_ARRAY_LEN(structures));
    tcase_add_test(tc, every_status_is_frozen);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return EXIT_FAILURE;
    for (int i = 1; i < argc; i++)
        read_header(argv[i]);
    strip_comments();
    return harness_main("abi", fill, 10);
}
