/*
 * transport.h - all that a service knows of the network: calls arrive, and are answered.
 *
 * A transport (the gRPC C core today) turns connections into calls and gives each call to the method that it
 * names. Services are written against this header alone, so that another transport can stand beside the first
 * without a change to them.
 *
 *     on_call() --> reply() | fail()                        a unary call answered at once
 *     on_call() --> [elsewhere] post() --> on_posted()      one that waits for something without a thread
 *     on_call() --> [elsewhere] post_task() --> task->fn()  the same for many things of one call at once
 *     on_call() --> stream_write() --> on_written() ...     a stream, one message under way at a time
 *
 * Rules
 *   T1  All callbacks of one call run on one thread, one after the other: call state needs no lock.
 *   T2  Every call is ended exactly once, by reply(), finish() or fail(); also when its client has left.
 *       After that the call must not be touched.
 *   T3  Only post(), post_task() and waker() may be called from another thread. A call or task is posted once
 * at a time, and its call is not ended before it is back. T4  A callback never blocks: other calls wait
 * behind it.
 */
#ifndef VV_RPC_TRANSPORT_H
#define VV_RPC_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"
#include "base/stack.h"
#include "engine/varve.h"

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
    uint8_t details[1024];
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

/* Something to be done on a call's own thread, embedded in the poster's state. */
typedef struct vv_rpc_task vv_rpc_task;
struct vv_rpc_task {
    vv_stack_node node;
    void (*fn)(vv_rpc_task *task);
};

struct vv_user; /* rpc/users.h */

typedef enum vv_rpc_kind {
    VV_RPC_UNARY,         /* one message in, one out */
    VV_RPC_SERVER_STREAM, /* one message in, many out */
    VV_RPC_BIDI,          /* many in, many out */
} vv_rpc_kind;

/* What a caller must be allowed to do. The zero is the strictest: a method that says nothing is locked. */
typedef enum vv_rpc_access {
    VV_RPC_ADMIN,
    VV_RPC_WRITE,
    VV_RPC_READ,
    VV_RPC_REPLICA, /* the log and the files of the whole store, and a word in who is its primary */
    VV_RPC_OPEN,    /* no token needed, and not counted: health and reflection */
} vv_rpc_access;

/* Callbacks that a method has no use for are NULL. */
typedef struct vv_rpc_method {
    const char *path; /* "/varve.v1.KV/Get" */
    vv_rpc_kind kind;
    vv_rpc_access access;
    bool while_draining; /* answered also when the server is about to stop; others are refused then */
    /* A call arrived. request is borrowed until return; empty for BIDI. */
    void (*on_call)(vv_rpc_call *call, vv_slice request);
    /* What read_next() asked for. message is borrowed until the next read_next() or the call's end. */
    void (*on_message)(vv_rpc_call *call, vv_slice message);
    /* What read_next() found instead: the client has sent its last message. */
    void (*on_half_close)(vv_rpc_call *call);
    /* stream_write() is through: the next may follow. */
    void (*on_written)(vv_rpc_call *call);
    void (*on_posted)(vv_rpc_call *call);
    /* The client has left or its deadline has passed, and nothing of the call is under way in
     * the transport. Called at most once. The call is still to be ended, here or (if posted) in on_posted().
     */
    void (*on_cancelled)(vv_rpc_call *call);
    /* Streams only: the server is about to stop, and the call is to be ended soon. At most once, at any time
     * while the call is open. A BIDI method without it is cancelled instead, a SERVER_STREAM one is waited
     * for. */
    void (*on_drain)(vv_rpc_call *call);
} vv_rpc_method;

typedef struct vv_rpc_service {
    const vv_rpc_method *methods;
    size_t method_count;
    void *self; /* for vv_rpc_call.service */
} vv_rpc_service;

/*
 * Stands before every method: who may call, how often, and how much at once. One for all services of a
 * transport.
 */
typedef struct vv_rpc_gate vv_rpc_gate;
struct vv_rpc_gate {
    /* A call has arrived. False: it has been failed here, and its method is not called. On the call's thread;
     * must not block. */
    bool (*admit)(vv_rpc_gate *gate, vv_rpc_call *call, size_t request_bytes);
    /* A call is over, whether it was admitted or not: nothing of it is left but what the struct has, its
     * metadata and its peer. method is NULL if there is none of that name. On the call's thread. */
    void (*ended)(vv_rpc_gate *gate, vv_rpc_call *call);
};

/* Wakes the thread of a call that has been posted: apart from the call, which may be ended and gone by then.
 */
typedef struct vv_rpc_waker {
    void (*wake)(void *arg);
    void *arg;
} vv_rpc_waker;

typedef struct vv_rpc_call_ops {
    void (*reply)(vv_rpc_call *call, vv_rpc_body body);
    void (*fail)(vv_rpc_call *call, const vv_rpc_status *status);
    void (*finish)(vv_rpc_call *call);
    void (*stream_write)(vv_rpc_call *call, vv_rpc_body body, bool more);
    void (*read_next)(vv_rpc_call *call);
    void (*post)(vv_rpc_call *call);
    void (*post_task)(vv_rpc_call *call, vv_rpc_task *task);
    vv_rpc_waker (*waker)(vv_rpc_call *call);
    vv_slice (*metadata)(vv_rpc_call *call, const char *key);
    bool (*client_name)(vv_rpc_call *call, char *buf, size_t buf_bytes);
    void (*peer)(vv_rpc_call *call, char *buf, size_t buf_bytes);
} vv_rpc_call_ops;

#define VV_RPC_CALL_STATE_BYTES 128

struct vv_rpc_call {
    const vv_rpc_call_ops *ops;
    const vv_rpc_method *method;
    void *service;
    uint32_t method_index; /* among those of all services, in their order; behind the last: it is unknown */
    /* The client has left, or its deadline has passed: an answer reaches nobody. Of unary methods without
     * on_cancelled() nobody hears. */
    bool cancelled;

    /* For the gate and for logs; clocks are vv_clock_mono_ns(). */
    uint64_t arrived_ns;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t received_bytes, sent_bytes;
    vv_rpc_code code; /* that it ended with */

    /* The gate's: who calls (NULL for VV_RPC_OPEN), what they may and how that is known (rpc/access.c), and
     * what room the call takes. */
    struct vv_user *user;
    uint64_t credential;
    uint32_t generation;
    uint8_t rights;
    uint8_t known_by;
    bool admitted;
    uint64_t admitted_bytes;

    varve_trace trace; /* the service's: where the time went that the engine took */

    /* The service's own, zeroed when the call arrives. */
    _Alignas(16) uint8_t state[VV_RPC_CALL_STATE_BYTES];
};

/* The first header of that name (lower case), empty if there is none. Valid until the gate's ended(). */
static inline vv_slice vv_rpc_metadata(vv_rpc_call *call, const char *key) {
    return call->ops->metadata(call, key);
}

/* The name in the client's certificate, when the connection was authenticated by one: its common name, else
 * its first alternative name. */
static inline bool vv_rpc_client_name(vv_rpc_call *call, char *buf, size_t buf_bytes) {
    return call->ops->client_name(call, buf, buf_bytes);
}

/* Where the call comes from, in words for a log. Not cheap. */
static inline void vv_rpc_peer(vv_rpc_call *call, char *buf, size_t buf_bytes) {
    call->ops->peer(call, buf, buf_bytes);
}

/* End a unary call with its answer, or a stream (nothing of which is under way) with its last message. */
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
    call->ops->stream_write(call, body, false);
}

/* The same for a message that is certain to be followed by another at once: the transport may hold it back
 * until then and send both in one go. */
static inline void vv_rpc_stream_write_more(vv_rpc_call *call, vv_rpc_body body) {
    call->ops->stream_write(call, body, true);
}

/* Ask for the next message of a BIDI call: on_message() or on_half_close() follows. One at a time. */
static inline void vv_rpc_read_next(vv_rpc_call *call) {
    call->ops->read_next(call);
}

/*
 * Have on_posted() run on the call's own thread. Any thread (T3).
 *
 * Waking that thread costs a system call, so it is left to whoever posts: vv_rpc_wake() for one call, or the
 * transport's flush (vv_grpc_flush()) once for all that was posted. A post from within a callback of the same
 * thread needs neither.
 */
static inline void vv_rpc_post(vv_rpc_call *call) {
    call->ops->post(call);
}

/* Have task->fn(task) run on the call's own thread, as vv_rpc_post(). Tasks of one poster run in their order.
 */
static inline void vv_rpc_post_task(vv_rpc_call *call, vv_rpc_task *task) {
    call->ops->post_task(call, task);
}

/* Valid as long as the transport. */
static inline vv_rpc_waker vv_rpc_waker_of(vv_rpc_call *call) {
    return call->ops->waker(call);
}

static inline void vv_rpc_wake(vv_rpc_waker waker) {
    waker.wake(waker.arg);
}

/* Post and wake. Any thread. */
static inline void vv_rpc_post_and_wake(vv_rpc_call *call) {
    vv_rpc_waker waker = vv_rpc_waker_of(call);
    vv_rpc_post(call);
    vv_rpc_wake(waker);
}

#endif
