/*
 * pending.c - what is declared in fetch.h and on its way.
 */
#include "rpc/fetch.h"

vv_status vv_fetch(const vv_fetch_options *options, vv_fetch_info *out, vv_error *err) {
    (void)options, (void)out;
    return vv_fail(err, vv_status_make(VV_UNSUPPORTED, VV_SUB_NONE, 0), "copies can't be fetched yet");
}
