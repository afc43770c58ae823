#include "rpc/call_log.h"

#include <string.h>

#include "base/clock.h"
#include "rpc/users.h"

#define PEER_BYTES   128
#define FIELDS_MAX   16
#define SAMPLE_RANGE (UINT64_C(1) << 63)

const char *vv_rpc_code_name(vv_rpc_code code) {
    static const char *const names[] = {
        "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED"};
    return (size_t)code < VV_ARRAY_COUNT(names) ? names[code] : "UNKNOWN";
}

void vv_call_log_init(vv_call_log *l, const vv_call_log_options *options) {
    memset(l, 0, sizeof *l);
    l->log = options->log;
    vv_line_limit_init(&l->limit, options->lines_per_second);
    vv_call_log_set(l, options);
}

void vv_call_log_set(vv_call_log *l, const vv_call_log_options *options) {
    uint64_t below = (uint64_t)(options->sample * (double)SAMPLE_RANGE);
    atomic_store_explicit(&l->sample_below, below, memory_order_relaxed);
    atomic_store_explicit(&l->slow_ns, options->slow_ns, memory_order_relaxed);
    vv_line_limit_set(&l->limit, options->lines_per_second);
}

static void say_dropped(vv_call_log *l) {
    uint64_t dropped = vv_line_limit_dropped(&l->limit);
    if (dropped == 0)
        return;
    vv_log_field fields[] = {vv_log_text("what", vv_slice_str("calls")), vv_log_number("count", dropped)};
    vv_log_event(l->log, VV_LOG_WARN, "lines_dropped", fields, VV_ARRAY_COUNT(fields));
}

void vv_call_log_deinit(vv_call_log *l) {
    say_dropped(l);
}

/* A thread's own sequence (xorshift64*), so that no two threads write one word for each call. */
static uint64_t next_random(void) {
    static _Thread_local uint64_t state;
    if (state == 0)
        state = vv_clock_mono_ns() | 1;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(0x2545F4914F6CDD1D);
}

static bool request_id_ok(vv_slice id) {
    const uint8_t *bytes = id.data;
    for (size_t i = 0; i < id.bytes; i++) {
        uint8_t c = bytes[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || !strchr("._:/+=@-", c)))
            return false;
    }
    return id.bytes > 0 && id.bytes <= VV_REQUEST_ID_BYTES_MAX;
}

static size_t add_phases(vv_log_field *fields, const varve_trace *t) {
    fields[0] = vv_log_number("queue_us", t->queue_ns / VV_NS_PER_US);
    fields[1] = vv_log_number("wal_us", t->wal_ns / VV_NS_PER_US);
    fields[2] = vv_log_number("memtable_us", t->memtable_ns / VV_NS_PER_US);
    fields[3] = vv_log_number("block_us", t->block_ns / VV_NS_PER_US);
    fields[4] = vv_log_number("block_reads", t->block_reads);
    return 5;
}

static void log_call(vv_call_log *l, vv_rpc_call *call, uint64_t now_ns, bool slow) {
    char peer[PEER_BYTES];
    vv_log_field fields[FIELDS_MAX];
    size_t count = 0;
    if (!vv_line_limit_take(&l->limit, now_ns))
        return;
    say_dropped(l);
    vv_rpc_peer(call, peer, sizeof peer);
    const char *method = call->method ? call->method->path : "unknown";
    fields[count++] = vv_log_text("method", vv_slice_str(method));
    fields[count++] = vv_log_text("code", vv_slice_str(vv_rpc_code_name(call->code)));
    if (call->user)
        fields[count++] = vv_log_text("user", vv_slice_str(call->user->name));
    fields[count++] = vv_log_number("us", (now_ns - call->arrived_ns) / VV_NS_PER_US);
    if (slow)
        count += add_phases(fields + count, &call->trace);
    fields[count++] = vv_log_number("bytes_in", call->received_bytes);
    fields[count++] = vv_log_number("bytes_out", call->sent_bytes);
    vv_slice id = vv_rpc_metadata(call, "x-request-id");
    if (request_id_ok(id))
        fields[count++] = vv_log_text("request_id", id);
    fields[count++] = vv_log_text("peer", vv_slice_str(peer));
    vv_log_event(l->log, slow ? VV_LOG_WARN : VV_LOG_INFO, slow ? "slow_call" : "call", fields, count);
}

void vv_call_log_ended(vv_call_log *l, vv_rpc_call *call) {
    uint64_t sample_below = atomic_load_explicit(&l->sample_below, memory_order_relaxed);
    uint64_t slow_ns = atomic_load_explicit(&l->slow_ns, memory_order_relaxed);
    bool sampled = sample_below > 0 && next_random() >> 1 < sample_below;
    bool may_be_slow = slow_ns > 0 && call->method && call->method->kind == VV_RPC_UNARY;
    if (!sampled && !may_be_slow)
        return;
    uint64_t now_ns = vv_clock_mono_ns();
    bool slow = may_be_slow && now_ns - call->arrived_ns >= slow_ns;
    if (sampled || slow)
        log_call(l, call, now_ns, slow);
}
