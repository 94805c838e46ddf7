/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `kvferry info`: what this machine and this build can do, and why a fabric is not usable. Each
 * fabric is tried in a process of its own (this command with a hidden option), because an MPI
 * library that cannot start ends its process.
 */
#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "collectives/util.h"
#include "plugin/config.h"
#include "tools/commands.h"
#include "tools/library.h"
#include "tools/model.h"
#include "tools/world.h"

#define PROBE_TIMEOUT_NS 30000000000u
#define ANSWER_BYTES 512u

extern char **environ;

struct info_options {
    const char *json_path;
    const char *library_path;
    const char *probe; /* hidden: try this fabric and say how it went */
};

enum info_key {
    KEY_JSON = 256,
    KEY_LIBRARY,
    KEY_PROBE,
};

static const struct argp_option option_list[] = {
    {"json", KEY_JSON, "FILE", 0, "Write it as JSON", 0},
    {"library", KEY_LIBRARY, "FILE", 0, "libkvferry.so to load", 0},
    {"probe", KEY_PROBE, "FABRIC", OPTION_HIDDEN, NULL, 0},
    {0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct info_options *o = state->input;

    switch (key) {
    case KEY_JSON:
        o->json_path = arg;
        return 0;
    case KEY_LIBRARY:
        o->library_path = arg;
        return 0;
    case KEY_PROBE:
        o->probe = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "\"%s\" is not an option", arg);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* -- settings: struct kvf_engine_config of kvferry.h -- */

/* Those that are not numbers; the numbers are the library's own table. */
static const struct text_setting {
    const char *name;
    const char *unit;
    const char *standard; /* what 0 or NULL means */
    const char *what;
} text_settings[] = {
    {"instance", "name", "required", "this model replica, unique in the job"},
    {"place", "struct", "required", "where this rank stands in its instance"},
    {"roles", "bits", "both", "1 context (sends), 2 generation (receives)"},
    {"compat", "name", "\"\"", "model, weights, anything both sides must share"},
    {"fabric", "name", "nccl, else mpi", "how bytes move"},
    {"fabric_path", "file", "by libkvferry.so", "the fabric's library"},
    {"device", "ordinal", "0", "CUDA device of the nccl fabric"},
    {"listen_address", "address", "127.0.0.1", "numeric IPv4 or IPv6 to listen on"},
    {"advertise_address", "address", "listen_address", "numeric address peers use"},
    {"job_key", "32 bytes", "required", "secret of the job"},
    {"log_level", "level", "2", "1 errors, 2 warnings, 3 info, 4 debug, 5 trace"},
};

/* -- trying a fabric -- */

/* In the process of its own: one engine of a one-rank instance. Prints one line. */
static int probe(const struct info_options *o)
{
    const struct kvferry_plugin_v1 *kvf;
    const unsigned char key[KVF_JOB_KEY_BYTES] = {1};
    const struct kvferry_mpi_v1 *mpi = NULL;
    struct world *world = NULL;
    struct kvf_engine *engine = NULL;
    struct tool_error error = {""};
    char path[256];
    char mpi_path[256] = "";
    char text[256] = "";
    char name[] = "kvferry";
    char *argv[] = {name, NULL};
    char **args = argv;
    int argc = 1;
    bool is_mpi = strcmp(o->probe, "mpi") == 0;
    kvf_status_t status;
    struct kvf_engine_config config = {
        .size = sizeof(config),
        .instance = "probe",
        .place = {.size = sizeof(config.place), .n_ranks = 1},
        .fabric = o->probe,
        .job_key = key,
    };

    if (!library_open(o->library_path, &error, path, sizeof(path), &kvf) ||
        (is_mpi && (!world_open(&argc, &args, &error, &world) ||
                    !library_open_mpi(path, &error, mpi_path, sizeof(mpi_path), &mpi)))) {
        (void)printf("no: %s\n", error.text);
        return 0;
    }
    if (mpi && mpi->attach(NULL, text, sizeof(text)) != KVF_OK) {
        (void)printf("no: %s\n", text);
        return 0;
    }
    if (mpi)
        config.fabric_path = mpi_path;
    status = kvf->engine_create(&config, &engine);
    if (status == KVF_OK)
        (void)printf("usable\n");
    else
        (void)printf("no: %s\n", library_why(kvf, status));
    (void)fflush(stdout);
    kvf->engine_destroy(engine);
    world_close(world);
    return 0;
}

/* Reads a line from fd until the deadline. */
static void read_answer(int fd, char *answer, size_t capacity)
{
    uint64_t deadline_ns = kvfi_now_ns() + PROBE_TIMEOUT_NS;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    size_t used = 0;

    while (used + 1 < capacity) {
        uint64_t now_ns = kvfi_now_ns();
        ssize_t n;

        if (now_ns >= deadline_ns || poll(&p, 1, (int)((deadline_ns - now_ns) / 1000000u)) <= 0)
            break;
        n = read(fd, answer + used, capacity - 1 - used);
        if (n <= 0)
            break;
        used += (size_t)n;
        if (memchr(answer, '\n', used))
            break;
    }
    answer[used] = '\0';
    answer[strcspn(answer, "\n")] = '\0';
}

static void ask_probe(const struct info_options *o, const char *fabric, char *answer,
                      size_t capacity)
{
    char words[4][12] = {"kvferry", "info", "--probe", "--library"};
    char *const argv[] = {words[0],
                          words[1],
                          words[2],
                          (char *)(uintptr_t)fabric,
                          o->library_path ? words[3] : NULL,
                          (char *)(uintptr_t)o->library_path,
                          NULL};
    posix_spawn_file_actions_t actions;
    int fds[2];
    pid_t child;
    int rc;

    (void)snprintf(answer, capacity, "no: it could not be tried");
    if (pipe(fds) != 0)
        return;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    (void)posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", 1, 0);
    (void)posix_spawn_file_actions_addclose(&actions, fds[0]);
    rc = posix_spawn(&child, "/proc/self/exe", &actions, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(fds[1]);
    if (rc == 0) {
        read_answer(fds[0], answer, capacity);
        /* It has said what it had to say, or took too long. */
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
        if (answer[0] == '\0')
            (void)snprintf(answer, capacity, "no: it could not be started in this process");
    }
    (void)close(fds[0]);
}

/* -- saying it -- */

static json_t *list_fabrics(const struct info_options *o)
{
    static const char *const names[] = {"mpi", "nccl"};
    json_t *fabrics = json_object();
    char answer[ANSWER_BYTES];

    (void)printf("\nfabrics\n");
    for (size_t i = 0; i < KVFI_ARRAY_LEN(names); i++) {
        bool usable;

        ask_probe(o, names[i], answer, sizeof(answer));
        usable = strcmp(answer, "usable") == 0;
        (void)printf("  %-6s %s\n", names[i], usable ? "usable" : answer);
        (void)json_object_set_new(
            fabrics, names[i],
            json_pack("{s:b,s:s}", "usable", (int)usable, "reason",
                      usable ? "" : answer + (strncmp(answer, "no: ", 4) == 0 ? 4 : 0)));
    }
    return fabrics;
}

static void list_setting(json_t *list, const char *name, const char *unit, const char *standard,
                         const char *range, const char *what)
{
    (void)printf("  %-19s %-9s %-15s %-22s %s\n", name, unit, standard, range, what);
    (void)json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:s,s:s}", "name", name, "unit", unit,
                                                "default", standard, "range", range, "what", what));
}

static json_t *list_settings(void)
{
    json_t *list = json_array();
    const struct kvfi_setting *s;
    char standard[32];
    char range[64];

    (void)printf("\nsettings of an engine (struct kvf_engine_config; zero means the default)\n");
    for (size_t i = 0; i < KVFI_ARRAY_LEN(text_settings); i++)
        list_setting(list, text_settings[i].name, text_settings[i].unit, text_settings[i].standard,
                     "", text_settings[i].what);
    for (unsigned i = 0; (s = kvfi_setting_get(i)) != NULL; i++) {
        (void)snprintf(standard, sizeof(standard), "%" PRIu64, s->default_value);
        if (s->max_value == KVF_FOREVER)
            (void)snprintf(range, sizeof(range), "%" PRIu64 " .. forever", s->min_value);
        else
            (void)snprintf(range, sizeof(range), "%" PRIu64 " .. %" PRIu64, s->min_value,
                           s->max_value);
        list_setting(list, s->name, s->unit, standard, range, s->reason);
    }
    return list;
}

static json_t *list_versions(const struct info_options *o)
{
    const struct kvferry_plugin_v1 *kvf = NULL;
    struct tool_error error = {""};
    char path[256] = "";
    char mpi[128];
    bool found = library_open(o->library_path, &error, path, sizeof(path), &kvf);

    (void)world_version(mpi, sizeof(mpi));
    (void)printf("versions\n  command    %s\n  library    %s\n  abi        %u\n  mpi        %s\n"
                 "  jansson    %s\n  compiler   %s\n",
                 KVFERRY_VERSION, found ? kvf->version : error.text, KVF_ABI_VERSION, mpi,
                 jansson_version_str(), __VERSION__);
    if (found)
        (void)printf("  loaded     %s\n", path);
    return json_pack("{s:s,s:s,s:s,s:i,s:s,s:s,s:s}", "command", KVFERRY_VERSION, "library",
                     found ? kvf->version : "", "library_path", found ? path : "", "abi",
                     (int)KVF_ABI_VERSION, "mpi", mpi, "jansson", jansson_version_str(), "compiler",
                     __VERSION__);
}

int info_main(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_list,
        .parser = parse_option,
        .doc = "Say what this machine and this build can do, and list all settings."};
    struct info_options o = {0};
    json_t *root;
    int rc = 0;

    argp_err_exit_status = 2;
    if (argp_parse(&argp, argc, argv, 0, NULL, &o) != 0)
        return 2;
    if (o.probe)
        return probe(&o);
    root = json_object();
    (void)json_object_set_new(root, "versions", list_versions(&o));
    (void)json_object_set_new(root, "fabrics", list_fabrics(&o));
    (void)json_object_set_new(root, "settings", list_settings());
    if (o.json_path)
        rc = json_dump_file(root, o.json_path, JSON_INDENT(2));
    json_decref(root);
    if (rc != 0)
        (void)fprintf(stderr, "kvferry info: %s could not be written\n", o.json_path);
    return rc == 0 ? 0 : 1;
}
