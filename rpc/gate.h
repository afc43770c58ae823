/*
 * gate.h - what every call passes before its method is called, and again when it is over.
 *
 *     arrival --> who is it? --> may they? --> too often? --> too much at once? --> method
 *     end     --> give back what was admitted --> logs
 *
 * The order matters: a caller without rights learns nothing of the server's load, and costs it least.
 *
 * Admission is bounded by the number of calls in flight and by the bytes of their requests. What is beyond is
 * refused at once with RESOURCE_EXHAUSTED, reason OVERLOADED, and RetryInfo: a queue without a bound would
 * answer everybody too late. Streams, which may stay for days, have a bound of their own: however many there
 * are, they take no room from unary calls. VV_RPC_OPEN calls (health, reflection) are not refused with the
 * others, so that an overloaded server is seen to be alive; but of their streams, which anybody may open,
 * there are at most VV_GATE_OPEN_STREAMS_MAX.
 */
#ifndef VV_RPC_GATE_H
#define VV_RPC_GATE_H

#include <stdatomic.h>

#include "base/compiler.h"
#include "rpc/access.h"
#include "rpc/call_log.h"
#include "rpc/metrics.h"
#include "rpc/transport.h"

#define VV_GATE_OPEN_STREAMS_MAX 1000

typedef struct vv_gate_options {
    uint64_t calls_max;   /* unary calls in flight */
    uint64_t streams_max; /* streams in flight */
    uint64_t bytes_max;   /* of the requests of both; one call alone may have more */
    vv_access *access;    /* borrowed as long as calls are alive, as what follows */
    vv_call_log *call_log;
    vv_metrics *metrics; /* NULL: nothing is counted. Set before the first call, as it needs the services */
} vv_gate_options;

typedef struct vv_gate {
    vv_rpc_gate base; /* for the transport */
    vv_gate_options options;
    VV_CACHE_ALIGNED _Atomic uint64_t calls;
    _Atomic uint64_t streams, open_streams;
    _Atomic uint64_t bytes;
    _Atomic uint64_t refused; /* for want of room, so far */
    _Atomic bool counts;      /* calls into options.metrics: somebody looks at them */
} vv_gate;

void vv_gate_init(vv_gate *gate, const vv_gate_options *options);

#endif
