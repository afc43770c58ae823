/*
 * chunk_stream.h - an answer of many messages that workers make: of a scan, of a file.
 *
 *     start --> [worker] make() --post--> write ------------> on_written() --> write --> ...
 *                                         next make() --post--> waits, written    next make()
 *
 * Making a message blocks, so it is done on a worker, one turn at a time, and then the job goes to the end of
 * the queue: many streams share the workers. A stream has one message under way, and one more is made
 * meanwhile, so that a client that reads slowly costs two messages and no worker. Large ones are not made
 * ahead. A client that has taken no message for too long is given up.
 *
 * Embedded in what makes the messages. The first word of the call's state leads here, so the functions below
 * that take a call stand in the method's table as they are.
 */
#ifndef VV_RPC_CHUNK_STREAM_H
#define VV_RPC_CHUNK_STREAM_H

#include <stdatomic.h>

#include "rpc/timer.h"
#include "rpc/transport.h"
#include "rpc/workers.h"

/* Behind a larger message nothing is made ahead. */
#define VV_CHUNK_AHEAD_BYTES_MAX ((size_t)1 << 20)

typedef struct vv_chunk_stream vv_chunk_stream;

/* What is behind a message. */
typedef enum vv_chunk_outlook {
    VV_CHUNK_MORE,   /* another one */
    VV_CHUNK_END,    /* nothing */
    VV_CHUNK_FAILED, /* stream.failure, once the message, if there is one, has been sent */
} vv_chunk_outlook;

/* Why it is ended before its time. */
typedef enum vv_chunk_ending {
    VV_CHUNK_NOT_GIVEN_UP,
    VV_CHUNK_CLIENT_LEFT,
    VV_CHUNK_CLIENT_IDLE,
    VV_CHUNK_DRAINING
} vv_chunk_ending;

typedef struct vv_chunk_options {
    vv_workers *workers;
    vv_timers *timers;
    uint64_t idle_ns; /* a client that takes no message for so long is given up */
    /*
     * On a worker: put the next message into s->body (with a release) and say what is behind it, or fill
     * s->failure. MORE without a message is another turn, at the end of the queue.
     */
    vv_chunk_outlook (*make)(vv_chunk_stream *s);
    /* The call is ended, and nobody else has the stream. */
    void (*destroy)(vv_chunk_stream *s);
    const char *idle_reason; /* of a client that is given up, and the words for it; static */
    const char *idle_words;
} vv_chunk_options;

struct vv_chunk_stream {
    vv_chunk_options options;
    vv_rpc_call *call;

    /* The worker's while `working`: */
    vv_job job;
    vv_rpc_body body;
    vv_chunk_outlook outlook;
    vv_rpc_status failure;

    /* The call's thread: */
    bool working; /* a job is queued or runs */
    bool ready;   /* what was made waits for the message before it */
    bool timer_set;
    bool ending;
    vv_chunk_ending given_up;
    _Atomic bool stop;

    /* The timer and its task, see idle_check(). */
    vv_timer timer;
    vv_rpc_task idle_task;
    _Atomic uint64_t written_ns; /* when the message under way was given to the transport; 0: there is none */
    _Atomic bool idle_posted;
};

/* Begin. From here on the stream ends the call and destroys itself, perhaps before this returns. */
void vv_chunk_stream_start(vv_chunk_stream *s, vv_rpc_call *call, const vv_chunk_options *options);

/* For make(), now and then: come back at once. */
static inline bool vv_chunk_stream_stopped(const vv_chunk_stream *s) {
    return atomic_load_explicit(&s->stop, memory_order_relaxed);
}

/* For a method's table. on_drain gives the stream up; without it a drain waits for the end. */
void vv_chunk_stream_on_posted(vv_rpc_call *call);
void vv_chunk_stream_on_written(vv_rpc_call *call);
void vv_chunk_stream_on_cancelled(vv_rpc_call *call);
void vv_chunk_stream_on_drain(vv_rpc_call *call);

#endif
