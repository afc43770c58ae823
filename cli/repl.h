/*
 * repl.h - `varve repl`: commands from a prompt.
 */
#ifndef VV_CLI_REPL_H
#define VV_CLI_REPL_H

#include "cli/args.h"
#include "cli/client.h"

/* Where standard input or output is no terminal, the exit code is that of the first command that failed. */
vv_cli_exit vv_cli_repl(const vv_cli_args *args, vv_client *client);

#endif
