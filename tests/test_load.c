/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading libkvferry.so as a host does: nothing in the process changes but the mapping, and
 * unloading takes that back. Arguments: the library's path and its version.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "kvferry/kvferry.h"

enum { FDS_MAX = 256, SIGNALS = 65, LINE_BYTES = 4096 };

static const char *library_path;
static const char *library_version;

/* What a library could quietly change at load. */
struct process_state {
    unsigned n_threads;
    unsigned n_variables;
    bool open_fd[FDS_MAX];
    void (*handlers[SIGNALS])(int, siginfo_t *, void *);
    int handler_flags[SIGNALS];
    sigset_t blocked;
};

/* Entries of a directory under /proc/self; marks those that are numbers below FDS_MAX. */
static unsigned list(const char *path, bool *marks)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    unsigned n = 0;

    ck_assert_ptr_nonnull(dir);
    while ((entry = readdir(dir))) {
        long number = strtol(entry->d_name, NULL, 10);

        if (entry->d_name[0] == '.')
            continue;
        n++;
        if (marks && number < FDS_MAX)
            marks[number] = true;
    }
    ck_assert_int_eq(closedir(dir), 0);
    return n;
}

static void look(struct process_state *s)
{
    memset(s, 0, sizeof(*s));
    s->n_threads = list("/proc/self/task", NULL);
    (void)list("/proc/self/fd", s->open_fd);
    while (environ[s->n_variables])
        s->n_variables++;
    for (int i = 1; i < SIGNALS; i++) {
        struct sigaction action;

        /* glibc keeps 32 and 33 to itself. */
        if (sigaction(i, NULL, &action) != 0)
            continue;
        s->handlers[i] = action.sa_sigaction;
        s->handler_flags[i] = action.sa_flags;
    }
    ck_assert_int_eq(sigprocmask(SIG_BLOCK, NULL, &s->blocked), 0);
}

static void compare(const struct process_state *a, const struct process_state *b)
{
    ck_assert_uint_eq(a->n_threads, b->n_threads);
    ck_assert_uint_eq(a->n_variables, b->n_variables);
    for (int i = 0; i < FDS_MAX; i++)
        ck_assert_msg(a->open_fd[i] == b->open_fd[i], "descriptor %d", i);
    for (int i = 1; i < SIGNALS; i++) {
        ck_assert_msg(a->handlers[i] == b->handlers[i], "handler of signal %d", i);
        ck_assert_msg(a->handler_flags[i] == b->handler_flags[i], "flags of signal %d", i);
        ck_assert_msg(sigismember(&a->blocked, i) == sigismember(&b->blocked, i), "mask of %d", i);
    }
}

static bool is_mapped(const char *name)
{
    FILE *f = fopen("/proc/self/maps", "re");
    char line[LINE_BYTES];
    bool found = false;

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f))
        found = found || strstr(line, name);
    ck_assert_int_eq(fclose(f), 0);
    return found;
}

static void *load(const struct kvferry_plugin_v1 **ret_table)
{
    void *library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);

    ck_assert_msg(library != NULL, "%s", dlerror());
    *ret_table = dlsym(library, "kvferry_plugin_v1");
    ck_assert_ptr_nonnull(*ret_table);
    return library;
}

START_TEST(loading_is_inert)
{
    struct process_state before;
    struct process_state loaded;
    struct process_state after;
    const struct kvferry_plugin_v1 *kvf;
    void *library;

    look(&before);
    library = load(&kvf);
    look(&loaded);
    compare(&before, &loaded);

    ck_assert_str_eq(kvf->status_name(KVF_EINVAL), "KVF_EINVAL");
    ck_assert_ptr_nonnull(kvf->status_text(KVF_EINVAL));
    ck_assert_ptr_nonnull(kvf->error_text());
    look(&loaded);
    compare(&before, &loaded);

    ck_assert_int_eq(dlclose(library), 0);
    look(&after);
    compare(&before, &after);
}
END_TEST

START_TEST(loading_brings_no_accelerator_and_no_mpi)
{
    static const char *const foreign[] = {"libcuda", "libnccl", "libmpi", "libopen-rte"};
    const struct kvferry_plugin_v1 *kvf;
    void *library = load(&kvf);

    ck_assert(is_mapped("libkvferry.so"));
    for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++)
        ck_assert_msg(!is_mapped(foreign[i]), "%s", foreign[i]);
    ck_assert_int_eq(dlclose(library), 0);
}
END_TEST

/* A library that leaves a handler behind (atexit, atfork, a key's destructor) crashes later. */
START_TEST(unloading_leaves_nothing)
{
    const struct kvferry_plugin_v1 *kvf;
    void *library;
    pid_t child;
    int status = -1;

    for (int round = 0; round < 3; round++) {
        library = load(&kvf);
        ck_assert_int_eq(dlclose(library), 0);
        ck_assert(!is_mapped("libkvferry.so"));
    }
    child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        _exit(7);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 7);
}
END_TEST

START_TEST(table_is_whole)
{
    const struct kvferry_plugin_v1 *kvf;
    void *library = load(&kvf);
    const char *bytes = (const char *)kvf;

    ck_assert_uint_eq(kvf->size, sizeof(*kvf));
    ck_assert_str_eq(kvf->name, "kvferry");
    ck_assert_str_eq(kvf->version, library_version);
    for (size_t at = offsetof(struct kvferry_plugin_v1, engine_footprint); at < sizeof(*kvf);
         at += sizeof(void *)) {
        void *member;

        memcpy(&member, bytes + at, sizeof(member));
        ck_assert_msg(member != NULL, "no function at offset %zu", at);
    }
    ck_assert_int_eq(dlclose(library), 0);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, loading_is_inert);
    tcase_add_test(tc, loading_brings_no_accelerator_and_no_mpi);
    tcase_add_test(tc, unloading_leaves_nothing);
    tcase_add_test(tc, table_is_whole);
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return EXIT_FAILURE;
    library_path = argv[1];
    library_version = argv[2];
    return harness_main("load", fill, 30);
}
