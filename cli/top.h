/*
 * top.h - `varve top`: what a server does, as a screen.
 */
#ifndef VV_CLI_TOP_H
#define VV_CLI_TOP_H

#include <jansson.h>
#include <stdio.h>

#include "cli/args.h"
#include "cli/client.h"

vv_cli_exit vv_cli_top(const vv_cli_args *args, vv_client *client);

/* One screen: what two dashboards (Admin.Dashboard) of one server differ in, and what the later one says.
 * For top.c and its test. */
void vv_top_frame(FILE *out, const char *server, const json_t *before, const json_t *now);

#endif
