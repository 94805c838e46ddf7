/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands. Each takes its own argv and returns the exit status. */
#ifndef KVFERRY_TOOLS_COMMANDS_H
#define KVFERRY_TOOLS_COMMANDS_H

int bench_main(int argc, char **argv);
int info_main(int argc, char **argv);
int plan_main(int argc, char **argv);

#endif
