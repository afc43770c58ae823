#include "rpc/gate.h"

#include "base/clock.h"
#include "rpc/status_map.h"

#define OVERLOAD_RETRY_MS 100

/* What counts calls like this one, and how far; NULL: nothing does. */
static _Atomic uint64_t *counter_of(vv_gate *g, const vv_rpc_method *method, uint64_t *max_out) {
    bool unary = method->kind == VV_RPC_UNARY;
    if (method->access == VV_RPC_OPEN) {
        *max_out = VV_GATE_OPEN_STREAMS_MAX;
        return unary ? NULL : &g->open_streams;
    }
    *max_out = unary ? g->options.calls_max : g->options.streams_max;
    return unary ? &g->calls : &g->streams;
}

/* Take room for a call; false: there is none, and nothing is taken. */
static bool take_room(vv_gate *g, const vv_rpc_method *method, uint64_t bytes) {
    uint64_t max;
    _Atomic uint64_t *counter = counter_of(g, method, &max);
    if (!counter)
        return true;
    uint64_t calls = atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
    uint64_t before = atomic_fetch_add_explicit(&g->bytes, bytes, memory_order_relaxed);
    if (calls < max && (before == 0 || before + bytes <= g->options.bytes_max))
        return true;
    atomic_fetch_sub_explicit(counter, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&g->bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&g->refused, 1, memory_order_relaxed);
    return false;
}

static void give_room(vv_gate *g, const vv_rpc_method *method, uint64_t bytes) {
    uint64_t max;
    _Atomic uint64_t *counter = counter_of(g, method, &max);
    if (!counter)
        return;
    atomic_fetch_sub_explicit(counter, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&g->bytes, bytes, memory_order_relaxed);
}

static bool admit(vv_rpc_gate *base, vv_rpc_call *call, size_t request_bytes) {
    vv_gate *g = VV_CONTAINER_OF(base, vv_gate, base);
    vv_rpc_status why;
    if (!vv_access_admit(g->options.access, call, &why) ||
        !vv_rate_take(call, call->method->access, 1, &why)) {
        vv_rpc_fail(call, &why);
        return false;
    }
    if (!take_room(g, call->method, request_bytes)) {
        vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", OVERLOAD_RETRY_MS,
                         "too many calls are in flight; nothing was done");
        return false;
    }
    call->admitted = true;
    call->admitted_bytes = request_bytes;
    return true;
}

static void ended(vv_rpc_gate *base, vv_rpc_call *call) {
    vv_gate *g = VV_CONTAINER_OF(base, vv_gate, base);
    if (call->admitted)
        give_room(g, call->method, call->admitted_bytes);
    if (atomic_load_explicit(&g->counts, memory_order_relaxed))
        vv_metrics_ended(g->options.metrics, call, vv_clock_mono_ns());
    vv_call_log_ended(g->options.call_log, call);
}

void vv_gate_init(vv_gate *g, const vv_gate_options *options) {
    *g = (vv_gate){.base = {.admit = admit, .ended = ended}, .options = *options};
}
