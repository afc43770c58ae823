/*
 * status_map.h - errors as clients of any language see them: a gRPC code, words, and google.rpc.ErrorInfo
 * with a stable reason in the domain "varve"; google.rpc.RetryInfo where waiting helps.
 */
#ifndef VV_RPC_STATUS_MAP_H
#define VV_RPC_STATUS_MAP_H

#include "base/compiler.h"
#include "engine/varve.h"
#include "rpc/transport.h"

#define VV_RPC_ERROR_DOMAIN "varve"

/*
 * Fill *out. reason: UPPER_SNAKE_CASE, at most 63 bytes. retry_ms: 0 leaves RetryInfo out. The message is cut
 * at 255 bytes. Never fails, allocates nothing.
 */
void vv_rpc_status_set(vv_rpc_status *out, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                       const char *fmt, ...) VV_PRINTF(5, 6);

/* A word about the error that programs read: an entry of ErrorInfo.metadata. */
typedef struct vv_rpc_detail {
    const char *key; /* at most 31 bytes; the value, 255 */
    const char *value;
} vv_rpc_detail;
#define VV_RPC_DETAILS_MAX 2

/* As vv_rpc_status_set(), with up to VV_RPC_DETAILS_MAX details. */
void vv_rpc_status_set_details(vv_rpc_status *out, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                               const vv_rpc_detail *details, size_t count, const char *fmt, ...)
    VV_PRINTF(7, 8);

/* Put words before the message of one that is set; it is cut at the end if need be. */
void vv_rpc_status_precede(vv_rpc_status *st, const char *fmt, ...) VV_PRINTF(2, 3);

/* What a status of the engine (not OK) means to a client. */
void vv_rpc_status_from_engine(vv_rpc_status *out, varve_status st);

/* The same with words of its own; "": none. */
void vv_rpc_status_from_engine_words(vv_rpc_status *out, varve_status st, const char *words);

/*
 * A read that met damage (CORRUPTION): which keys are affected is said in the words, and in
 * ErrorInfo.metadata as first_key and last_key. Bytes that are not graphic ASCII, backslashes, quotes and #
 * are \xNN there, as in a script of `varve batch`; more than VV_RPC_KEY_TEXT_MAX characters are cut, to end
 * in "...".
 */
void vv_rpc_status_from_damage(vv_rpc_status *out, varve_status st, const varve_key_range *keys);
#define VV_RPC_KEY_TEXT_MAX 160

/* End `call` with the status that vv_rpc_status_set() would make. */
void vv_rpc_fail_with(vv_rpc_call *call, vv_rpc_code code, const char *reason, uint32_t retry_ms,
                      const char *fmt, ...) VV_PRINTF(5, 6);

#endif
