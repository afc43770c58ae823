/*
 * bench.h - `varve bench`: a quick measurement.
 */
#ifndef VV_CLI_BENCH_H
#define VV_CLI_BENCH_H

#include "cli/args.h"
#include "cli/client.h"

/* Lines go to stdout, words about a failure to stderr. */
vv_cli_exit vv_cli_bench(const vv_cli_args *args, vv_client *client);

#endif
