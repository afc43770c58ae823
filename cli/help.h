/*
 * help.h - what --help says, and the manual page, from the tables of grammar.h.
 */
#ifndef VV_CLI_HELP_H
#define VV_CLI_HELP_H

#include <stdio.h>

#include "cli/grammar.h"

/* All commands, a line each, and what goes with all of them. */
void vv_cli_help(FILE *out);

void vv_cli_help_command(FILE *out, const vv_cli_command *c);

/* varve(1). */
void vv_cli_manual_page(FILE *out);

#endif
