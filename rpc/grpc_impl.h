/*
 * grpc_impl.h - what the files of the gRPC transport share.
 *
 *   grpc_transport.c   server life cycle: addresses, channel arguments, drain
 *   grpc_queue.c       completion queue threads, and posting to them from outside
 *   grpc_tls.c         certificates for its listeners
 *   grpc_call.c        one call: arrival, messages, end
 *
 * A call lives on one completion queue, which one thread serves; only its `task` is touched from elsewhere.
 * It is freed when it has ended and the last of its tags has come back.
 */
#ifndef VV_RPC_GRPC_IMPL_H
#define VV_RPC_GRPC_IMPL_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <stdatomic.h>

#include "base/compiler.h"
#include "base/stack.h"
#include "base/sync.h"
#include "rpc/grpc_transport.h"

#define VV_GRPC_THREADS_MAX 64

/* What a completion queue gives back. ok is false when the operation had no effect. */
typedef struct vv_grpc_tag {
    void (*fn)(struct vv_grpc_tag *tag, bool ok);
} vv_grpc_tag;

typedef struct vv_grpc_method {
    const vv_rpc_method *rpc; /* NULL: stands for all methods that are not registered */
    void *self;
    void *registered; /* the C core's handle */
    uint32_t armed_per_queue;
} vv_grpc_method;

typedef struct vv_grpc_call vv_grpc_call;
typedef struct vv_grpc_listener vv_grpc_listener;

typedef struct vv_grpc_queue {
    vv_grpc *transport;
    grpc_completion_queue *core;
    pthread_t thread;
    bool running;

    /* Posted tasks. `carrier` is the right to take them: it is won by whoever turns it from false to true,
     * and travels with an empty batch to the queue's thread. See grpc_queue.c. */
    VV_CACHE_ALIGNED vv_stack posted;
    _Atomic bool carrier;
    vv_grpc_tag carrier_tag;
    vv_rpc_task ping_task; /* of a drain: has this thread had its turn? */
    grpc_channel *carrier_channel;
    grpc_call *carrier_call;

    /* The queue's thread alone: */
    VV_CACHE_ALIGNED vv_grpc_call *free_calls;
    uint32_t free_call_count;
    uint32_t *unarmed; /* for each method, how many arms failed for want of memory */
    uint32_t unarmed_count;
} vv_grpc_queue;

struct vv_grpc {
    vv_grpc_options options;
    grpc_server *server;
    grpc_resource_quota *quota;
    grpc_completion_queue *shutdown_queue;
    vv_grpc_listener *tls_listeners;
    vv_grpc_queue *queues;
    uint32_t queue_count;
    vv_grpc_method *methods; /* the last is the catch-all */
    size_t method_count;
    bool started;
    bool drained;

    _Atomic uint64_t live_calls;
    _Atomic uint64_t busy_calls; /* those among them that were not refused */
    _Atomic uint64_t arrivals;   /* calls so far */
    _Atomic bool draining;       /* calls that arrive are refused */
    _Atomic bool answering;      /* draining, and a call has ended that the drain has not: its client reads */
    _Atomic bool stopping;       /* calls are dropped: no connection is left */
    struct {
        vv_mutex lock;
        vv_cond idle;          /* draining, and live_calls or busy_calls fell to 0 */
        bool ending;           /* streams are told to end */
        bool cancel;           /* vv_grpc_cancel() */
        uint32_t pongs;        /* queues that have run their ping */
        vv_grpc_call *streams; /* that are told of a drain */
    } mu;
};

struct vv_grpc_call {
    vv_rpc_call base;
    vv_rpc_task task; /* of vv_rpc_post() */
    vv_grpc_queue *queue;
    const vv_grpc_method *method;
    vv_grpc_call *next_free;
    /* Guarded by transport->mu.lock: */
    vv_grpc_call *stream_next, **stream_link;
    bool drain_posted; /* drain_task is on its way: the call must not be freed */
    vv_rpc_task drain_task;

    grpc_call *core;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_call_details details; /* catch-all only */
    /* Kept until the end: the memory quota counts what is received until it is released. */
    grpc_byte_buffer *incoming;
    grpc_slice incoming_copy; /* in one piece, if it was not */
    grpc_byte_buffer *outgoing;
    grpc_metadata trailer;
    grpc_slice trailer_value;
    int core_cancelled;

    uint32_t tags; /* given to the C core and not yet back */
    bool initial_sent;
    bool close_asked;
    bool reading;
    bool writing;
    bool cancel_told;
    bool ended;
    bool busy;       /* counted in busy_calls */
    bool in_streams; /* told of a drain */

    vv_grpc_tag arrive_tag, close_tag, read_tag, write_tag, end_tag;
};

/* grpc_queue.c */
void vv_grpc_queue_init(vv_grpc_queue *q, vv_grpc *t);
/* The server has started. */
vv_status vv_grpc_queue_start(vv_grpc_queue *q) VV_CHECKED;
/* Shut it down, let it run dry, join its thread and release what it holds. No call is live any more. */
void vv_grpc_queue_stop(vv_grpc_queue *q);
void vv_grpc_queue_post(vv_grpc_queue *q, vv_rpc_task *task);
/* Run what is posted, if no carrier is on its way. The queue's thread. */
void vv_grpc_queue_run_posted(vv_grpc_queue *q);
/* Send a carrier if there is something posted and none is on its way. Any thread. */
void vv_grpc_queue_wake(vv_grpc_queue *q);

/* grpc_tls.c */
/* For one address; NULL: no memory. */
struct grpc_server_credentials *vv_grpc_tls_credentials(vv_grpc *t);
/* The server is destroyed. */
void vv_grpc_tls_release(vv_grpc *t);

/* grpc_call.c */
void vv_grpc_call_arm(vv_grpc_queue *q, uint32_t method_index);
void vv_grpc_call_free_pool(vv_grpc_queue *q);
/* Tell a stream that the server drains. Any thread, with transport->mu.lock held. */
void vv_grpc_call_drain(vv_grpc_call *call);

#endif
