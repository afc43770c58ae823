#include "rpc/gate.h"

#include "rpc/status_map.h"

#define OVERLOAD_RETRY_MS 100

/* Take room for a call; false: there is none, and nothing is taken. */
static bool take_room(vv_gate *g, uint64_t bytes) {
    uint64_t calls = atomic_fetch_add_explicit(&g->calls, 1, memory_order_relaxed);
    uint64_t before = atomic_fetch_add_explicit(&g->bytes, bytes, memory_order_relaxed);
    if (calls < g->options.calls_max && (before == 0 || before + bytes <= g->options.bytes_max))
        return true;
    atomic_fetch_sub_explicit(&g->calls, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&g->bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&g->refused, 1, memory_order_relaxed);
    return false;
}

static bool admit(vv_rpc_gate *base, vv_rpc_call *call, size_t request_bytes) {
    vv_gate *g = VV_CONTAINER_OF(base, vv_gate, base);
    if (call->method->access == VV_RPC_OPEN)
        return true;
    if (!take_room(g, request_bytes)) {
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
    if (!call->admitted)
        return;
    atomic_fetch_sub_explicit(&g->calls, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&g->bytes, call->admitted_bytes, memory_order_relaxed);
}

void vv_gate_init(vv_gate *g, const vv_gate_options *options) {
    *g = (vv_gate){.base = {.admit = admit, .ended = ended}, .options = *options};
}
