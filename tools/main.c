/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "tools/commands.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    {"bench", bench_main, "run a job over the ranks of an MPI world and check every byte"},
    {"info", info_main, "what this machine and this build can do, and all settings"},
    {"plan", plan_main, "who sends what to whom between two topologies"},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *to)
{
    (void)fprintf(to, "Usage: kvferry COMMAND [OPTION...]\n"
                      "Moves the KV cache of large-language-model requests between ranks.\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        (void)fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].what);
    (void)fprintf(to, "\nkvferry COMMAND --help lists the options of a command. Exit status: 0 "
                      "only if everything\nasked for was done and verified, 2 for a bad command "
                      "line, 1 for all else.\n");
}

int main(int argc, char **argv)
{
    static char name[64];

    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        (void)printf("kvferry %s\n", KVFERRY_VERSION);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        /* The name argp prints. */
        (void)snprintf(name, sizeof(name), "kvferry %s", commands[i].name);
        argv[1] = name;
        return commands[i].run(argc - 1, argv + 1);
    }
    (void)fprintf(stderr, "kvferry: \"%s\" is not a command; try: kvferry --help\n", argv[1]);
    return 2;
}
