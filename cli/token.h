/*
 * token.h - a bearer token for a user, and the line that lets a server know it.
 */
#ifndef VV_CLI_TOKEN_H
#define VV_CLI_TOKEN_H

#include <stdbool.h>
#include <stdio.h>

/* "read,write,admin,replica" or a part of it. */
bool vv_token_roles_ok(const char *roles);

/* 1 to 255 bytes of printable ASCII without quotes and backslashes. */
bool vv_token_user_ok(const char *user);

/*
 * Print a fresh token and the line for TOKENS_FILE with its hash, each with a word before it, or as one
 * object. The token is told here and nowhere else: the line does not give it away.
 *
 * False: the system has no random bytes, or there is no SHA-256.
 */
bool vv_token_print(FILE *out, const char *user, const char *roles, bool json);

#endif
