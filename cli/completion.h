/*
 * completion.h - what makes bash and zsh complete varve and varved, from the tables of grammar.h and of
 * varved's configuration.
 */
#ifndef VV_CLI_COMPLETION_H
#define VV_CLI_COMPLETION_H

#include <stdio.h>

void vv_cli_completion_bash(FILE *out);
void vv_cli_completion_zsh(FILE *out);

#endif
