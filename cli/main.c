/*
 * main.c - varve: one command, one exit code.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"

int main(int argc, char **argv) {
    vv_cli_args args;
    vv_cli_exit result = VV_CLI_DONE;
    vv_cli_environment environment = {.server = getenv("VARVE_SERVER"),
                                      .token = getenv("VARVE_SERVER_TOKEN"),
                                      .tls_ca = getenv("VARVE_SERVER_TLS_CA")};
    switch (vv_cli_args_parse(argc, argv, &environment, &args, stdout, stderr)) {
    case VV_CLI_RUN: result = vv_cli_run(&args); break;
    case VV_CLI_SHOWN: break;
    case VV_CLI_BAD: return VV_CLI_USAGE;
    }
    /* An answer that did not reach its reader (a full disk) is a failure, whatever the call was. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "varve: standard output: %s\n", strerror(errno));
        return VV_CLI_FAILED;
    }
    return (int)result;
}
