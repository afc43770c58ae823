/*
 * load.h - `varve load`: many entries, in batches.
 */
#ifndef VV_CLI_LOAD_H
#define VV_CLI_LOAD_H

#include "cli/args.h"
#include "cli/client.h"

/* Words about a failure go to stderr. */
vv_cli_exit vv_cli_load(const vv_cli_args *args, vv_client *client);

#endif
