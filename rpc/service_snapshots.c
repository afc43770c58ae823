/*
 * service_snapshots.c - varve.v1.Snapshots: leases of states of the store, see leases.h.
 */
#include "rpc/codec.h"
#include "rpc/service.h"
#include "rpc/status_map.h"
#include "varve/v1/snapshots.pb-c.h"

#define RETRY_MS 1000

void vv_snapshots_fail_unknown(vv_rpc_call *call) {
    vv_rpc_fail_with(call, VV_RPC_NOT_FOUND, "SNAPSHOT_UNKNOWN", 0,
                     "there is no such snapshot of this user, or its lease is over");
}

/* OpenResponse and RenewResponse are the same on the wire. */
static void reply_info(vv_rpc_call *call, const vv_lease_info *info) {
    uint8_t response[6 * VV_CODEC_VARINT_BYTES_MAX];
    uint8_t *at = vv_codec_put_uint(response, 1, info->id);
    at = vv_codec_put_uint(at, 2, info->lsn);
    at = vv_codec_put_uint(at, 3, info->expires_unix_ms);
    vv_rpc_reply(call, vv_rpc_body_copy(response, (size_t)(at - response)));
}

static void on_open(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__OpenRequest *open =
        (void *)vv_codec_request(call, &arena, &varve__v1__open_request__descriptor, request);
    const vv_snapshots *s = call->service;
    if (open && vv_lsn_waiters_let_in(s->waiters, call, request, open->min_lsn, false)) {
        vv_lease_info info;
        vv_status st = vv_leases_open(s->leases, call->user, open->lease_ms, &info);
        if (vv_ok(st))
            reply_info(call, &info);
        else if (vv_is(st, VV_BUSY))
            vv_rpc_fail_with(
                call, VV_RPC_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS", RETRY_MS,
                "the user or the server has too many snapshots: release some, or wait for the end "
                "of their leases");
        else
            vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, vv_code_name(st.code), RETRY_MS, "snapshot: %s",
                             vv_code_text(st.code));
    }
    vv_codec_arena_deinit(&arena);
}

static void on_renew(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__RenewRequest *renew =
        (void *)vv_codec_request(call, &arena, &varve__v1__renew_request__descriptor, request);
    const vv_snapshots *s = call->service;
    vv_lease_info info;
    if (renew && vv_leases_renew(s->leases, call->user, renew->id, renew->lease_ms, &info))
        reply_info(call, &info);
    else if (renew)
        vv_snapshots_fail_unknown(call);
    vv_codec_arena_deinit(&arena);
}

static void on_release(vv_rpc_call *call, vv_slice request) {
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    Varve__V1__ReleaseRequest *release =
        (void *)vv_codec_request(call, &arena, &varve__v1__release_request__descriptor, request);
    const vv_snapshots *s = call->service;
    if (release) {
        vv_leases_release(s->leases, call->user, VV_LEASE_SNAPSHOT, release->id);
        vv_rpc_reply(call, vv_rpc_body_copy(NULL, 0));
    }
    vv_codec_arena_deinit(&arena);
}

static const vv_rpc_method methods[] = {
    {.path = "/" VV_SNAPSHOTS_SERVICE_NAME "/Open",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_READ,
     .on_call = on_open,
     .on_cancelled = vv_lsn_waiters_on_cancelled},
    {.path = "/" VV_SNAPSHOTS_SERVICE_NAME "/Renew",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_READ,
     .on_call = on_renew},
    {.path = "/" VV_SNAPSHOTS_SERVICE_NAME "/Release",
     .kind = VV_RPC_UNARY,
     .access = VV_RPC_READ,
     .on_call = on_release},
};

vv_rpc_service vv_snapshots_service(vv_snapshots *s) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = s};
}
