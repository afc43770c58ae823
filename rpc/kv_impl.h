/*
 * kv_impl.h - what the files of varve.v1.KV share.
 *
 *   service_kv.c         the service; unary calls
 *   service_multi_get.c  KV.MultiGet
 *   service_scan.c       KV.Scan
 *   service_pipeline.c   KV.Pipeline
 */
#ifndef VV_RPC_KV_IMPL_H
#define VV_RPC_KV_IMPL_H

#include "rpc/service.h"
#include "varve/v1/kv.pb-c.h"

/* End the call with what the engine said. */
void vv_kv_fail(vv_rpc_call *call, varve_status st);

/* What to say of a read that ended with st, and with this value, which is released. */
void vv_kv_read_status(vv_rpc_status *out, varve_status st, varve_value *value);
void vv_kv_fail_read(vv_rpc_call *call, varve_status st, varve_value *value);

/* A message in a buffer of its own, which is vv_free()d when the message has been sent. */
vv_rpc_body vv_kv_body_take(uint8_t *buffer_take, size_t bytes);

/* Where the engine is to note what a unary call's time went into; NULL: nobody asks. */
static inline varve_trace *vv_kv_trace(vv_rpc_call *call) {
    const vv_kv *kv = call->service;
    return atomic_load_explicit(&kv->traced, memory_order_relaxed) ? &call->trace : NULL;
}

/* The moment when an entry that is written now with this ttl expires, Unix milliseconds; 0: never. */
uint64_t vv_kv_expiry(uint64_t ttl_ms);

/*
 * The client_id under which the engine knows a user's client: of one user alone, so that nobody can pass for
 * another's client and have its writes taken for repeated ones. The same after a restart; 0 for 0. On the
 * call's thread.
 */
uint64_t vv_kv_client_id(const vv_rpc_call *call, uint64_t client_id);

/* May the server take writes? False: the call has failed. */
bool vv_kv_may_write(vv_rpc_call *call);

/*
 * Until when a write waits for followers (varve_write_options.confirm_deadline_ns): QUORUM_TIMEOUT, but no
 * longer than a drain may last, and so much less than the call's own deadline (UINT64_MAX: it has none) that
 * the client still hears of it. 0: there is no quorum to wait for.
 */
uint64_t vv_kv_confirm_deadline(const vv_kv *kv, uint64_t call_deadline_ns);

/*
 * What to say of a write that the engine answers with st. A primary that was superseded meanwhile
 * acknowledges nothing any more: whoever takes over has what was durable when the new epoch was promised
 * here, and this may have come later (NOT_CONFIRMED). Why nothing slips through: the role changes before the
 * promise passes the engine's commit lock, and this looks at the role after the write has passed it; so a
 * write that is not covered by the promise finds the role changed.
 */
varve_status vv_kv_outcome(const vv_kv *kv, varve_status st);

/* A write ended like this: the service stops serving when the log has failed. A call's thread. */
void vv_kv_note_write(vv_kv *kv, varve_status st);

/* service_multi_get.c */
void vv_multi_get_on_call(vv_rpc_call *call, vv_slice request);
void vv_multi_get_on_posted(vv_rpc_call *call);

/* service_scan.c */
void vv_scan_on_call(vv_rpc_call *call, vv_slice request);
void vv_scan_on_cancelled(vv_rpc_call *call);

/* service_pipeline.c */
void vv_pipeline_on_call(vv_rpc_call *call, vv_slice request);
void vv_pipeline_on_message(vv_rpc_call *call, vv_slice message);
void vv_pipeline_on_half_close(vv_rpc_call *call);
void vv_pipeline_on_written(vv_rpc_call *call);
void vv_pipeline_on_cancelled(vv_rpc_call *call);
void vv_pipeline_on_drain(vv_rpc_call *call);

#endif
