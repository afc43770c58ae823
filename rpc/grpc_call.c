/*
 * grpc_call.c - one call on the gRPC C core, from its arrival to the last of its tags.
 *
 *     armed --arrive--> open --reply|fail|finish--> ended --all tags back--> free
 *
 * "close" (RECV_CLOSE_ON_SERVER) tells of a client that has left, a deadline and a lost connection alike. A
 * call that wants to hear of that, and is not over when its on_call() returns, asks for it then, in a batch
 * of its own. All others ask in the batch that ends them, as the C core wants it asked once in any case: a
 * batch and its tag less for each. A stream has at most one read and one write under way.
 *
 * What start_batch points to (outgoing message, trailer, core_cancelled) lives in the call, which outlives
 * its tags.
 */
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"
#include "rpc/grpc_impl.h"
#include "rpc/status_map.h"

/* Calls that a queue keeps for reuse beside those that are armed. */
#define FREE_CALLS_MAX 256
#define DRAIN_RETRY_MS 1000
#define DEADLINE_S_MAX 1000000000 /* beyond that it is none: nanoseconds must not overflow */

static const vv_rpc_call_ops call_ops;

static void run_posted(vv_rpc_task *task);
static void run_drain(vv_rpc_task *task);
static void free_if_over(vv_grpc_call *c);

static vv_grpc_call *from_base(vv_rpc_call *base) {
    return VV_CONTAINER_OF(base, vv_grpc_call, base);
}

/* ---- storage ---- */

static void release_incoming(vv_grpc_call *c) {
    if (c->incoming)
        grpc_byte_buffer_destroy(c->incoming);
    c->incoming = NULL;
    grpc_slice_unref(c->incoming_copy);
    c->incoming_copy = grpc_empty_slice();
}

static void release_core(vv_grpc_call *c) {
    release_incoming(c);
    if (c->outgoing)
        grpc_byte_buffer_destroy(c->outgoing);
    grpc_slice_unref(c->trailer_value);
    if (!c->method->rpc)
        grpc_call_details_destroy(&c->details);
    if (c->core)
        grpc_call_unref(c->core);
}

static void call_free(vv_grpc_call *c) {
    vv_grpc_queue *q = c->queue;
    release_core(c);
    if (q->free_call_count < FREE_CALLS_MAX) {
        c->next_free = q->free_calls;
        q->free_calls = c;
        q->free_call_count++;
    } else {
        grpc_metadata_array_destroy(&c->metadata);
        vv_free(c);
    }
}

void vv_grpc_call_free_pool(vv_grpc_queue *q) {
    while (q->free_calls) {
        vv_grpc_call *c = q->free_calls;
        q->free_calls = c->next_free;
        grpc_metadata_array_destroy(&c->metadata);
        vv_free(c);
    }
    q->free_call_count = 0;
}

/* A call with nothing in it but its metadata array, whose storage is kept from use to use. */
static vv_grpc_call *call_new(vv_grpc_queue *q, const vv_grpc_method *method) {
    vv_grpc_call *c = q->free_calls;
    grpc_metadata_array metadata;
    if (c) {
        q->free_calls = c->next_free;
        q->free_call_count--;
        metadata = c->metadata;
        metadata.count = 0;
    } else {
        c = vv_alloc_aligned(_Alignof(vv_grpc_call), sizeof *c);
        if (!c)
            return NULL;
        grpc_metadata_array_init(&metadata);
    }
    *c = (vv_grpc_call){.base = {.ops = &call_ops,
                                 .method = method->rpc,
                                 .service = method->self,
                                 .method_index = (uint32_t)(method - q->transport->methods)},
                        .queue = q,
                        .method = method,
                        .metadata = metadata,
                        .task = {.fn = run_posted},
                        .drain_task = {.fn = run_drain},
                        .incoming_copy = grpc_empty_slice(),
                        .trailer_value = grpc_empty_slice()};
    if (!method->rpc)
        grpc_call_details_init(&c->details);
    return c;
}

/* ---- streams, as the drain sees them ---- */

void vv_grpc_call_drain(vv_grpc_call *c) {
    if (c->method->rpc->on_drain) {
        c->drain_posted = true;
        vv_grpc_queue_post(c->queue, &c->drain_task);
    } else {
        grpc_call_cancel_with_status(c->core, GRPC_STATUS_UNAVAILABLE, "shutting down", NULL);
    }
}

static void stream_add(vv_grpc_call *c) {
    vv_grpc *t = c->queue->transport;
    c->in_streams = true;
    vv_mutex_lock(&t->mu.lock);
    c->stream_next = t->mu.streams;
    c->stream_link = &t->mu.streams;
    if (c->stream_next)
        c->stream_next->stream_link = &c->stream_next;
    t->mu.streams = c;
    if (t->mu.ending)
        vv_grpc_call_drain(c);
    vv_mutex_unlock(&t->mu.lock);
}

/* False: the drain's task is on its way to the call. */
static bool stream_remove(vv_grpc_call *c) {
    vv_grpc *t = c->queue->transport;
    if (!c->in_streams)
        return true;
    vv_mutex_lock(&t->mu.lock);
    bool free_of_drain = !c->drain_posted;
    if (free_of_drain) {
        *c->stream_link = c->stream_next;
        if (c->stream_next)
            c->stream_next->stream_link = c->stream_link;
    }
    vv_mutex_unlock(&t->mu.lock);
    return free_of_drain;
}

/* ---- tags ---- */

static void start(vv_grpc_call *c, const grpc_op *ops, size_t count, vv_grpc_tag *tag) {
    c->tags++;
    grpc_call_error error = grpc_call_start_batch(c->core, ops, count, tag, NULL);
    VV_ASSERT(error == GRPC_CALL_OK);
}

/* One less of these; a drain hears of the last. */
static void count_down(vv_grpc *t, _Atomic uint64_t *calls) {
    if (atomic_fetch_sub(calls, 1) == 1 && atomic_load(&t->draining)) {
        vv_mutex_lock(&t->mu.lock);
        vv_cond_broadcast(&t->mu.idle);
        vv_mutex_unlock(&t->mu.lock);
    }
}

static void end_busy(vv_grpc_call *c) {
    vv_grpc *t = c->queue->transport;
    if (!c->busy)
        return;
    /* A stream that a drain ends is resumed elsewhere; but a pipeline's answers are answers. */
    if (atomic_load(&t->draining) && (!c->in_streams || c->base.method->kind == VV_RPC_BIDI))
        atomic_store(&t->answering, true);
    count_down(t, &t->busy_calls);
}

/* After every tag: free the call with the last one. */
static void tag_done(vv_grpc_call *c) {
    c->tags--;
    free_if_over(c);
}

static void free_if_over(vv_grpc_call *c) {
    if (c->tags != 0 || !c->ended || !stream_remove(c))
        return;
    vv_grpc_queue *q = c->queue;
    vv_grpc *t = q->transport;
    if (t->options.gate)
        t->options.gate->ended(t->options.gate, &c->base);
    end_busy(c);
    call_free(c);
    for (uint32_t m = 0; q->unarmed_count > 0 && m < t->method_count; m++)
        if (q->unarmed[m] > 0) {
            q->unarmed[m]--;
            q->unarmed_count--;
            vv_grpc_call_arm(q, m);
        }
    count_down(t, &t->live_calls);
}

static void run_drain(vv_rpc_task *task) {
    vv_grpc_call *c = VV_CONTAINER_OF(task, vv_grpc_call, drain_task);
    vv_mutex_lock(&c->queue->transport->mu.lock);
    c->drain_posted = false;
    vv_mutex_unlock(&c->queue->transport->mu.lock);
    if (c->ended)
        free_if_over(c);
    else
        c->base.method->on_drain(&c->base);
}

/* Tell a stream once that its client has left, as soon as nothing of it is under way. */
static void tell_cancelled(vv_grpc_call *c) {
    if (!c->base.cancelled || c->reading || c->writing || c->ended || c->cancel_told)
        return;
    c->cancel_told = true;
    if (c->base.method->on_cancelled)
        c->base.method->on_cancelled(&c->base);
}

static void on_close(vv_grpc_tag *tag, bool ok) {
    (void)ok;
    vv_grpc_call *c = VV_CONTAINER_OF(tag, vv_grpc_call, close_tag);
    c->base.cancelled = c->core_cancelled != 0;
    tell_cancelled(c);
    tag_done(c);
}

static void on_end(vv_grpc_tag *tag, bool ok) {
    (void)ok;
    tag_done(VV_CONTAINER_OF(tag, vv_grpc_call, end_tag));
}

static void on_write(vv_grpc_tag *tag, bool ok) {
    vv_grpc_call *c = VV_CONTAINER_OF(tag, vv_grpc_call, write_tag);
    c->writing = false;
    grpc_byte_buffer_destroy(c->outgoing);
    c->outgoing = NULL;
    if (c->base.cancelled)
        tell_cancelled(c);
    else if (ok && !c->ended && c->base.method->on_written)
        c->base.method->on_written(&c->base);
    tag_done(c);
}

/* ---- messages in ---- */

/*
 * The bytes of the incoming message in one piece: the buffer's own memory when it is one piece already, else
 * a copy. False: it could not be read (a broken compression, for one).
 */
static bool message_bytes(vv_grpc_call *c, vv_slice *out) {
    *out = vv_slice_make(NULL, 0);
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, c->incoming))
        return false;
    const struct grpc_byte_buffer *buffer = c->incoming;
    if (buffer->data.raw.compression == GRPC_COMPRESS_NONE && buffer->data.raw.slice_buffer.count == 1) {
        grpc_slice *piece;
        if (grpc_byte_buffer_reader_peek(&reader, &piece))
            *out = vv_slice_make(GRPC_SLICE_START_PTR(*piece), GRPC_SLICE_LENGTH(*piece));
    } else {
        c->incoming_copy = grpc_byte_buffer_reader_readall(&reader);
        *out = vv_slice_make(GRPC_SLICE_START_PTR(c->incoming_copy), GRPC_SLICE_LENGTH(c->incoming_copy));
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return true;
}

static void on_read(vv_grpc_tag *tag, bool ok) {
    vv_grpc_call *c = VV_CONTAINER_OF(tag, vv_grpc_call, read_tag);
    c->reading = false;
    if (c->base.cancelled) {
        tell_cancelled(c);
    } else if (!c->ended) {
        vv_slice message;
        if (ok && c->incoming)
            c->base.received_bytes += grpc_byte_buffer_length(c->incoming);
        if (!ok || !c->incoming)
            c->base.method->on_half_close(&c->base);
        else if (message_bytes(c, &message))
            c->base.method->on_message(&c->base, message);
        else
            vv_rpc_fail_with(&c->base, VV_RPC_INVALID_ARGUMENT, "MALFORMED", 0, "message cannot be read");
    }
    tag_done(c);
}

static void op_read_next(vv_rpc_call *base) {
    vv_grpc_call *c = from_base(base);
    VV_ASSERT(!c->reading && !c->ended);
    release_incoming(c);
    c->reading = true;
    c->read_tag.fn = on_read;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->incoming;
    start(c, &op, 1, &c->read_tag);
}

/* ---- messages out ---- */

static grpc_byte_buffer *body_buffer(vv_rpc_body body) {
    grpc_slice pieces[2];
    size_t count = 0;
    if (body.release) {
        pieces[count++] = grpc_slice_from_copied_buffer(body.head.data, body.head.bytes);
        /* The C core only reads it. */
        pieces[count++] = grpc_slice_new_with_user_data((void *)(uintptr_t)body.tail.data, body.tail.bytes,
                                                        body.release, body.release_arg);
    } else {
        pieces[count++] = grpc_slice_malloc(body.head.bytes + body.tail.bytes);
        uint8_t *to = GRPC_SLICE_START_PTR(pieces[0]);
        if (body.head.bytes > 0)
            memcpy(to, body.head.data, body.head.bytes);
        if (body.tail.bytes > 0)
            memcpy(to + body.head.bytes, body.tail.data, body.tail.bytes);
    }
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(pieces, count);
    for (size_t i = 0; i < count; i++)
        grpc_slice_unref(pieces[i]);
    return buffer;
}

static size_t add_initial(vv_grpc_call *c, grpc_op *ops, size_t count) {
    if (!c->initial_sent)
        ops[count++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    c->initial_sent = true;
    return count;
}

static size_t add_message(vv_grpc_call *c, grpc_op *ops, size_t count, vv_rpc_body body) {
    c->outgoing = body_buffer(body);
    c->base.sent_bytes += body.head.bytes + body.tail.bytes;
    ops[count] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE};
    ops[count++].data.send_message.send_message = c->outgoing;
    return count;
}

static void op_stream_write(vv_rpc_call *base, vv_rpc_body body, bool more) {
    vv_grpc_call *c = from_base(base);
    VV_ASSERT(!c->writing && !c->ended);
    grpc_op ops[2];
    bool first = !c->initial_sent;
    size_t count = add_initial(c, ops, 0);
    count = add_message(c, ops, count, body);
    if (more && !first) /* held back together with the headers, it would be so for ever */
        ops[count - 1].flags = GRPC_WRITE_BUFFER_HINT;
    c->writing = true;
    c->write_tag.fn = on_write;
    start(c, ops, count, &c->write_tag);
}

/* ---- the end ---- */

static size_t add_close(vv_grpc_call *c, grpc_op *ops, size_t count) {
    c->close_asked = true;
    ops[count] = (grpc_op){.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    ops[count++].data.recv_close_on_server.cancelled = &c->core_cancelled;
    return count;
}

/* After on_call(). */
static void watch_close(vv_grpc_call *c) {
    if (c->ended || (c->base.method->kind == VV_RPC_UNARY && !c->base.method->on_cancelled))
        return;
    grpc_op op;
    c->close_tag.fn = on_close;
    start(c, &op, add_close(c, &op, 0), &c->close_tag);
}

/* ops has room for two more. */
static void end_batch(vv_grpc_call *c, grpc_op *ops, size_t count, const vv_rpc_status *status) {
    VV_ASSERT(!c->ended);
    grpc_slice message = grpc_empty_slice();
    grpc_op *op = &ops[count++];
    *op = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    if (status) {
        message = grpc_slice_from_copied_string(status->message);
        op->data.send_status_from_server.status = (grpc_status_code)status->code;
        op->data.send_status_from_server.status_details = &message;
    }
    if (status && status->details_bytes > 0) {
        c->trailer_value =
            grpc_slice_from_copied_buffer((const char *)status->details, status->details_bytes);
        c->trailer = (grpc_metadata){.key = grpc_slice_from_static_string("grpc-status-details-bin"),
                                     .value = c->trailer_value};
        op->data.send_status_from_server.trailing_metadata = &c->trailer;
        op->data.send_status_from_server.trailing_metadata_count = 1;
    }
    if (!c->close_asked)
        count = add_close(c, ops, count);
    c->ended = true;
    c->base.code = status ? status->code : VV_RPC_OK;
    c->end_tag.fn = on_end;
    start(c, ops, count, &c->end_tag);
    grpc_slice_unref(message); /* start_batch has its own reference */
}

static void op_reply(vv_rpc_call *base, vv_rpc_body body) {
    vv_grpc_call *c = from_base(base);
    grpc_op ops[4];
    size_t count = add_initial(c, ops, 0);
    count = add_message(c, ops, count, body);
    end_batch(c, ops, count, NULL);
}

static void op_fail(vv_rpc_call *base, const vv_rpc_status *status) {
    vv_grpc_call *c = from_base(base);
    grpc_op ops[3];
    end_batch(c, ops, add_initial(c, ops, 0), status);
}

static void op_finish(vv_rpc_call *base) {
    op_fail(base, NULL);
}

static void op_post(vv_rpc_call *base) {
    vv_grpc_call *c = from_base(base);
    vv_grpc_queue_post(c->queue, &c->task);
}

static void op_post_task(vv_rpc_call *base, vv_rpc_task *task) {
    vv_grpc_queue_post(from_base(base)->queue, task);
}

static void wake_queue(void *arg) {
    vv_grpc_queue_wake(arg);
}

static vv_rpc_waker op_waker(vv_rpc_call *base) {
    return (vv_rpc_waker){wake_queue, from_base(base)->queue};
}

/* ---- who calls ---- */

static vv_slice op_metadata(vv_rpc_call *base, const char *key) {
    const grpc_metadata_array *metadata = &from_base(base)->metadata;
    size_t key_bytes = strlen(key);
    for (size_t i = 0; i < metadata->count; i++) {
        const grpc_metadata *m = &metadata->metadata[i];
        if (GRPC_SLICE_LENGTH(m->key) == key_bytes &&
            memcmp(GRPC_SLICE_START_PTR(m->key), key, key_bytes) == 0)
            return vv_slice_make(GRPC_SLICE_START_PTR(m->value), GRPC_SLICE_LENGTH(m->value));
    }
    return vv_slice_make(NULL, 0);
}

/* The first value of a property; false: there is none that fits. One with a zero in it is nobody's name. */
static bool property(const grpc_auth_context *context, const char *key, char *buf, size_t buf_bytes) {
    grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(context, key);
    const grpc_auth_property *name = grpc_auth_property_iterator_next(&it);
    if (!name || name->value_length == 0 || name->value_length >= buf_bytes ||
        memchr(name->value, '\0', name->value_length))
        return false;
    memcpy(buf, name->value, name->value_length);
    buf[name->value_length] = '\0';
    return true;
}

static bool op_client_name(vv_rpc_call *base, char *buf, size_t buf_bytes) {
    grpc_auth_context *context = grpc_call_auth_context(from_base(base)->core);
    bool named = context && grpc_auth_context_peer_is_authenticated(context) &&
                 (property(context, GRPC_X509_CN_PROPERTY_NAME, buf, buf_bytes) ||
                  property(context, GRPC_X509_SAN_PROPERTY_NAME, buf, buf_bytes));
    grpc_auth_context_release(context);
    return named;
}

static void op_peer(vv_rpc_call *base, char *buf, size_t buf_bytes) {
    char *peer = grpc_call_get_peer(from_base(base)->core);
    snprintf(buf, buf_bytes, "%s", peer ? peer : "unknown");
    gpr_free(peer);
}

static const vv_rpc_call_ops call_ops = {.reply = op_reply,
                                         .fail = op_fail,
                                         .finish = op_finish,
                                         .stream_write = op_stream_write,
                                         .read_next = op_read_next,
                                         .post = op_post,
                                         .post_task = op_post_task,
                                         .waker = op_waker,
                                         .metadata = op_metadata,
                                         .client_name = op_client_name,
                                         .peer = op_peer};

static void run_posted(vv_rpc_task *task) {
    vv_grpc_call *c = VV_CONTAINER_OF(task, vv_grpc_call, task);
    c->base.method->on_posted(&c->base);
}

/* ---- arrival ---- */

/* On our clock; UINT64_MAX: none. */
static uint64_t deadline_ns(gpr_timespec deadline, uint64_t now_ns) {
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return UINT64_MAX;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    if (left.tv_sec < 0)
        return now_ns;
    if (left.tv_sec > DEADLINE_S_MAX)
        return UINT64_MAX;
    return now_ns + (uint64_t)left.tv_sec * VV_NS_PER_S + (uint64_t)left.tv_nsec;
}

static void refuse_unknown(vv_grpc_call *c) {
    vv_slice path =
        vv_slice_make(GRPC_SLICE_START_PTR(c->details.method), GRPC_SLICE_LENGTH(c->details.method));
    vv_rpc_fail_with(&c->base, VV_RPC_UNIMPLEMENTED, "UNKNOWN_METHOD", 0, "unknown method %.*s",
                     (int)VV_MIN(path.bytes, 128), (const char *)path.data);
}

/* False: the call has been failed. */
static bool admit(vv_grpc_call *c) {
    vv_rpc_gate *gate = c->queue->transport->options.gate;
    return !gate || gate->admit(gate, &c->base, c->base.received_bytes);
}

static void dispatch(vv_grpc_call *c) {
    c->base.received_bytes = c->incoming ? grpc_byte_buffer_length(c->incoming) : 0;
    if (!c->method->rpc) {
        refuse_unknown(c);
        return;
    }
    if (!c->method->rpc->while_draining &&
        atomic_load_explicit(&c->queue->transport->draining, memory_order_relaxed)) {
        vv_rpc_fail_with(&c->base, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", DRAIN_RETRY_MS,
                         "the server is shutting down; nothing was done");
        return;
    }
    if (c->base.deadline_ns <= c->base.arrived_ns) {
        vv_rpc_fail_with(&c->base, VV_RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 0,
                         "the deadline had passed before the call was looked at; nothing was done");
        return;
    }
    if (!admit(c))
        return;
    c->busy = true;
    atomic_fetch_add(&c->queue->transport->busy_calls, 1);
    if (c->base.method->kind == VV_RPC_BIDI || c->base.method->on_drain)
        stream_add(c);
    if (c->base.method->kind == VV_RPC_BIDI) {
        c->base.method->on_call(&c->base, vv_slice_make(NULL, 0));
        return;
    }
    vv_slice request;
    if (c->incoming && message_bytes(c, &request))
        c->base.method->on_call(&c->base, request);
    else
        vv_rpc_fail_with(&c->base, VV_RPC_INVALID_ARGUMENT, "MALFORMED", 0, "no request message");
}

static void on_arrive(vv_grpc_tag *tag, bool ok) {
    vv_grpc_call *c = VV_CONTAINER_OF(tag, vv_grpc_call, arrive_tag);
    vv_grpc_queue *q = c->queue;
    if (!ok) { /* the server shuts down: there is no call */
        call_free(c);
        return;
    }
    atomic_fetch_add(&q->transport->live_calls, 1);
    if (atomic_load(&q->transport->stopping)) {
        /* Its client has left, and it comes out of a queue that may be shut down: no batch can be started. */
        call_free(c);
        count_down(q->transport, &q->transport->live_calls);
        return;
    }
    vv_grpc_call_arm(q, (uint32_t)(c->method - q->transport->methods));
    atomic_fetch_add_explicit(&q->transport->arrivals, 1, memory_order_relaxed);

    c->base.arrived_ns = vv_clock_mono_ns();
    c->base.deadline_ns = deadline_ns(c->deadline, c->base.arrived_ns);
    c->tags = 1; /* this one: the call stays until its dispatch is over */
    dispatch(c);
    watch_close(c);
    tag_done(c);
}

void vv_grpc_call_arm(vv_grpc_queue *q, uint32_t method_index) {
    vv_grpc *t = q->transport;
    const vv_grpc_method *method = &t->methods[method_index];
    vv_grpc_call *c = call_new(q, method);
    if (!c) { /* tried again when a call is freed */
        q->unarmed[method_index]++;
        q->unarmed_count++;
        return;
    }
    c->arrive_tag.fn = on_arrive;
    grpc_call_error error;
    if (method->rpc) {
        grpc_byte_buffer **payload = method->rpc->kind == VV_RPC_BIDI ? NULL : &c->incoming;
        error = grpc_server_request_registered_call(t->server, method->registered, &c->core, &c->deadline,
                                                    &c->metadata, payload, q->core, q->core, &c->arrive_tag);
    } else {
        error = grpc_server_request_call(t->server, &c->core, &c->details, &c->metadata, q->core, q->core,
                                         &c->arrive_tag);
    }
    if (error != GRPC_CALL_OK) /* only when the queue is shut down */
        call_free(c);
}
