/*
 * metrics.h - what is counted of calls: how many, how they ended, how long they took, and where the time
 * went.
 *
 *     gate: a call is over --> the shard of its thread --> vv_metrics_collect(), when somebody asks
 *
 * A thread that answers calls has a shard of its own, so that recording is some ten plain stores into memory
 * that nobody else writes: no lock, no locked instruction, no shared cache line. Shards are made with a
 * thread's first call and stay until the end.
 *
 * A call is known by vv_rpc_call.method_index: methods in the order of the services given to
 * vv_metrics_create(), which is the transport's, and behind them one for all that are unknown.
 */
#ifndef VV_RPC_METRICS_H
#define VV_RPC_METRICS_H

#include "base/spread.h"
#include "base/status.h"
#include "rpc/transport.h"

#define VV_METRICS_CODES 17

/* What varve_trace tells of, apart for reads and writes. */
typedef enum vv_phase {
    VV_PHASE_WRITE_QUEUE,
    VV_PHASE_WRITE_WAL,
    VV_PHASE_WRITE_MEMTABLE,
    VV_PHASE_READ_MEMORY,
    VV_PHASE_READ_BLOCK,
    VV_PHASE_COUNT
} vv_phase;

typedef struct vv_metrics vv_metrics;

/* Before the first call. The services' methods are borrowed. */
vv_status vv_metrics_create(const vv_rpc_service *services, size_t count, vv_metrics **out) VV_CHECKED;
/* No call is left, and the threads that answered them have ended or never answer again. NULL is fine. */
void vv_metrics_destroy(vv_metrics *m);

/* A call is over, at now_ns (vv_clock_mono_ns()). On its thread. Without memory for a thread's shard its
 * calls are not counted. */
void vv_metrics_ended(vv_metrics *m, const vv_rpc_call *call, uint64_t now_ns);

typedef struct vv_method_metrics {
    const vv_rpc_method *method; /* NULL: all unknown ones */
    uint64_t ended[VV_METRICS_CODES];
    uint64_t received_bytes, sent_bytes;
    vv_spread_copy us; /* from arrival to the end; of unary calls alone: streams last as their clients want */
} vv_method_metrics;

size_t vv_metrics_method_count(const vv_metrics *m);

/* The sum of all shards, of one method (below vv_metrics_method_count()) or phase. Any thread. */
void vv_metrics_collect(vv_metrics *m, size_t method, vv_method_metrics *out);
void vv_metrics_collect_phase(vv_metrics *m, vv_phase phase, vv_spread_copy *out);

#endif
