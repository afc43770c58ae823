/*
 * commands.h - carrying out one command line.
 */
#ifndef VV_CLI_COMMANDS_H
#define VV_CLI_COMMANDS_H

#include "cli/args.h"

/* Answers go to stdout, words about a failure to stderr; standard input is read where a command says so. */
vv_cli_exit vv_cli_run(const vv_cli_args *args);

#endif
