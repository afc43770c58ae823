/*
 * fetch.h - `varve backup --fetch DIR`: a server's whole store as files in a directory here.
 */
#ifndef VV_CLI_FETCH_H
#define VV_CLI_FETCH_H

#include "cli/client.h"

/* The target and dir are borrowed until return. Shows progress on stderr if that is a terminal. */
bool vv_cli_fetch(const vv_client_target *target, const char *dir, varve_backup_info *out,
                  vv_client_error *err);

#endif
