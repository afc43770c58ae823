/*
 * transport.h - all that a service knows of the network: calls arrive, and are answered.
 *
 * A transport (the gRPC C core today) turns connections into calls and gives each call to the method that it
 * names. Services are written against this header alone, so that another transport can stand beside the first
 * without a change to them.
 *
 *     on_call() --> reply() | fail()                        a unary call answered at once
 *     on_call() --> [elsewhere] post() --> on_posted()      one that waits for something without a thread
 *     on_call() --> stream_write() --> on_written() ...     a stream, one message under way at a time
 *
 * Rules
 *   T1  All callbacks of one call run on one thread, one after the other: call state needs no lock.
 *   T2  Every call is ended exactly once, by reply(), finish() or fail(); also when its client has left.
 *       After that the call must not be touched.
 *   T3  Only post() may be called from another thread. From then until on_posted() nobody uses the call.
 *   T4  A callback never blocks: other calls wait behind it.
 */
#ifndef VV_RPC_TRANSPORT_H
#define VV_RPC_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

/* The codes of gRPC; the numbers are the protocol's. */
typedef enum vv_rpc_code {
    VV_RPC_OK = 0,
    VV_RPC_CANCELLED = 1,
    VV_RPC_UNKNOWN = 2,
    VV_RPC_INVALID_ARGUMENT = 3,
    VV_RPC_DEADLINE_EXCEEDED = 4,
    VV_RPC_NOT_FOUND = 5,
    VV_RPC_ALREADY_EXISTS = 6,
    VV_RPC_PERMISSION_DENIED = 7,
    VV_RPC_RESOURCE_EXHAUSTED = 8,
    VV_RPC_FAILED_PRECONDITION = 9,
    VV_RPC_ABORTED = 10,
    VV_RPC_OUT_OF_RANGE = 11,
    VV_RPC_UNIMPLEMENTED = 12,
    VV_RPC_INTERNAL = 13,
    VV_RPC_UNAVAILABLE = 14,
    VV_RPC_DATA_LOSS = 15,
    VV_RPC_UNAUTHENTICATED = 16
} vv_rpc_code;

/* How a call ends when it fails. details: a packed google.rpc.Status, sent as `grpc-status-details-bin`; made
 * by status_map.h. */
typedef struct vv_rpc_status {
    vv_rpc_code code;
    char message[256];
    size_t details_bytes;
    uint8_t details[640];
} vv_rpc_status;

/*
 * One message on its way out: `head`, then `tail`.
 *
 * head is copied before the call returns. tail is borrowed until the transport calls release(release_arg),
 * exactly once, on any thread, also when the message could not be sent; without a release it is copied too.
 */
typedef struct vv_rpc_body {
    vv_slice head;
    vv_slice tail;
    void (*release)(void *arg);
    void *release_arg;
} vv_rpc_body;

static inline vv_rpc_body vv_rpc_body_copy(const void *data, size_t bytes) {
    return (vv_rpc_body){.head = vv_slice_make(data, bytes)};
}

typedef struct vv_rpc_call vv_rpc_call;

typedef enum vv_rpc_kind {
    VV_RPC_UNARY,         /* one message in, one out */
    VV_RPC_SERVER_STREAM, /* one message in, many out */
    VV_RPC_BIDI,          /* many in, many out; cancelled when the server drains */
} vv_rpc_kind;

/* Callbacks that a method has no use for are NULL. */
typedef struct vv_rpc_method {
    const char *path; /* "/varve.v1.KV/Get" */
    vv_rpc_kind kind;
    bool while_draining; /* answered also when the server is about to stop; others are refused then */
    /* A call arrived. request is borrowed until return; empty for BIDI. */
    void (*on_call)(vv_rpc_call *call, vv_slice request);
    /* What read_next() asked for. message is borrowed until return. */
    void (*on_message)(vv_rpc_call *call, vv_slice message);
    /* What read_next() found instead: the client has sent its last message. */
    void (*on_half_close)(vv_rpc_call *call);
    /* stream_write() is through: the next may follow. */
    void (*on_written)(vv_rpc_call *call);
    void (*on_posted)(vv_rpc_call *call);
    /* Streams only: the client has left or its deadline has passed, and nothing of the call is under way in
     * the transport. Called at most once. The call is still to be ended, here or (if posted) in on_posted().
     */
    void (*on_cancelled)(vv_rpc_call *call);
} vv_rpc_method;

typedef struct vv_rpc_service {
    const vv_rpc_method *methods;
    size_t method_count;
    void *self; /* for vv_rpc_call.service */
} vv_rpc_service;

typedef struct vv_rpc_call_ops {
    void (*reply)(vv_rpc_call *call, vv_rpc_body body);
    void (*fail)(vv_rpc_call *call, const vv_rpc_status *status);
    void (*finish)(vv_rpc_call *call);
    void (*stream_write)(vv_rpc_call *call, vv_rpc_body body);
    void (*read_next)(vv_rpc_call *call);
    void (*post)(vv_rpc_call *call);
} vv_rpc_call_ops;

#define VV_RPC_CALL_STATE_BYTES 64

struct vv_rpc_call {
    const vv_rpc_call_ops *ops;
    const vv_rpc_method *method;
    void *service;
    bool cancelled; /* the client has left: an answer reaches nobody */
    /* The service's own, zeroed when the call arrives. */
    _Alignas(16) uint8_t state[VV_RPC_CALL_STATE_BYTES];
};

/* End a unary call with its answer. */
static inline void vv_rpc_reply(vv_rpc_call *call, vv_rpc_body body) {
    call->ops->reply(call, body);
}

/* End any call with an error. status is borrowed until return. */
static inline void vv_rpc_fail(vv_rpc_call *call, const vv_rpc_status *status) {
    call->ops->fail(call, status);
}

/* End a stream well. */
static inline void vv_rpc_finish(vv_rpc_call *call) {
    call->ops->finish(call);
}

/* One message of a stream; on_written() follows unless the client has left. One at a time. */
static inline void vv_rpc_stream_write(vv_rpc_call *call, vv_rpc_body body) {
    call->ops->stream_write(call, body);
}

/* Ask for the next message of a BIDI call: on_message() or on_half_close() follows. One at a time. */
static inline void vv_rpc_read_next(vv_rpc_call *call) {
    call->ops->read_next(call);
}

/*
 * Have on_posted() run on the call's own thread. Any thread (T3).
 *
 * Waking that thread costs a system call, so it is left to the transport's flush (vv_grpc_flush()), which the
 * poster calls once for all that it has posted. A post from within a callback of the same thread needs none.
 */
static inline void vv_rpc_post(vv_rpc_call *call) {
    call->ops->post(call);
}

#endif
