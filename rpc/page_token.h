/*
 * page_token.h - where a scan goes on, as the client carries it from call to call.
 *
 *     [version: 1][kind: 1][lease: 8][key: 1 to 65,535][MAC: 16]
 *
 * The key is the last one that was sent, the lease pins the state. A token is good for the scan that it came
 * from alone: the MAC (HMAC-SHA256, cut to 16 bytes, under a key that is drawn at each start) covers the
 * range, the direction and the user as well, which are not in it. So a client can neither make nor change
 * one, nor use it to learn of what another user may see.
 */
#ifndef VV_RPC_PAGE_TOKEN_H
#define VV_RPC_PAGE_TOKEN_H

#include "base/slice.h"
#include "base/status.h"
#include "rpc/leases.h"

#define VV_PAGE_TOKEN_MAC_BYTES    16
#define VV_PAGE_TOKEN_SECRET_BYTES 32

typedef struct vv_page_token {
    vv_lease_kind kind;
    uint64_t lease_id;
    vv_slice key; /* where it was read from */
} vv_page_token;

/* What a token is bound to. */
typedef struct vv_page_scan {
    const struct vv_user *user;
    vv_slice start, end, prefix;
    bool reverse;
} vv_page_scan;

/* The same for all tokens of a scan. */
typedef struct vv_page_binding {
    uint8_t digest[32];
} vv_page_binding;

vv_status vv_page_binding_make(const vv_page_scan *scan, vv_page_binding *out) VV_CHECKED;

/* Bytes of a token. */
size_t vv_page_token_bytes(const vv_page_token *token);
/* Write it to `to`, with room for vv_page_token_bytes() and sizeof(vv_page_binding) more, which are scratch.
 */
vv_status vv_page_token_write(const uint8_t *secret, const vv_page_binding *binding,
                              const vv_page_token *token, uint8_t *to) VV_CHECKED;

/* INVALID_ARGUMENT: it is not one of this server's for this scan. NO_MEMORY. */
vv_status vv_page_token_read(const uint8_t *secret, const vv_page_binding *binding, vv_slice bytes,
                             vv_page_token *out) VV_CHECKED;

#endif
