/*
 * client.c - what both clients share: the words of a failure.
 */
#include "cli/client.h"

#include <stdio.h>

bool vv_client_fail(vv_client_error *err, const char *code, const char *reason, const char *message) {
    snprintf(err->code, sizeof err->code, "%s", code);
    snprintf(err->reason, sizeof err->reason, "%s", reason);
    snprintf(err->message, sizeof err->message, "%s", message);
    return false;
}
