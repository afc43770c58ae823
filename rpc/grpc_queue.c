/*
 * grpc_queue.c - completion queue threads, and how other threads hand tasks to them.
 *
 * A durable write is answered on its call's own thread, but becomes durable on the committing thread. That
 * one pushes a task on the queue's stack and, once for all calls of a commit group, sends a carrier: an
 * empty batch, which comes out of the completion queue at once. Waking a thread once a group instead of once
 * a call saves a third of the processor time of a busy server, and no thread of ours ever waits for a commit.
 *
 * An empty batch needs some call of that queue, beside whose other batches it must not be started. So each
 * queue has a call of its own for it, on a channel that leads nowhere, and the carrier flag is a token: who
 * has it may use that call.
 *
 *     false --exchange--> taken by a poster   --empty batch on the queue's own call--> taken by the queue's
 * thread false --exchange--> taken by the queue's thread, which finds the stack filled while it is awake
 * anyway taken --> runs all posted tasks --> false, and looks again
 *
 * Invariant
 *   Q1  Whoever gives the token back looks at the stack afterwards; whoever pushes tries for the token
 *       afterwards. Both are sequentially consistent, so one of the two sees the other: nothing is left
 *       behind.
 */
#include <grpc/grpc.h>
#include <grpc/support/time.h>
#include <sched.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "rpc/grpc_impl.h"

static void run_taken(vv_grpc_queue *q) {
    do {
        vv_stack_node *node = vv_stack_take_all(&q->posted);
        while (node) {
            vv_stack_node *next = node->next; /* the task may be gone when it has run */
            vv_rpc_task *task = VV_CONTAINER_OF(node, vv_rpc_task, node);
            task->fn(task);
            node = next;
        }
        atomic_store(&q->carrier, false);
    } while (!vv_stack_empty(&q->posted) && !atomic_exchange(&q->carrier, true));
}

static void on_carrier(vv_grpc_tag *tag, bool ok) {
    (void)ok;
    VV_TAKE_OVER(tag);
    vv_grpc_queue *q = VV_CONTAINER_OF(tag, vv_grpc_queue, carrier_tag);
    VV_ASSERT(atomic_load_explicit(&q->carrier, memory_order_relaxed));
    run_taken(q);
}

void vv_grpc_queue_run_posted(vv_grpc_queue *q) {
    if (!vv_stack_empty(&q->posted) && !atomic_exchange(&q->carrier, true))
        run_taken(q);
}

void vv_grpc_queue_post(vv_grpc_queue *q, vv_rpc_task *task) {
    (void)vv_stack_push(&q->posted, &task->node);
}

void vv_grpc_queue_wake(vv_grpc_queue *q) {
    if (vv_stack_empty(&q->posted) || atomic_exchange(&q->carrier, true))
        return;
    /* What was posted may have been taken meanwhile: then the carrier finds nothing, and does no harm. */
    VV_HAND_OVER(&q->carrier_tag);
    grpc_call_error error = grpc_call_start_batch(q->carrier_call, NULL, 0, &q->carrier_tag, NULL);
    VV_ASSERT(error == GRPC_CALL_OK);
}

static void arm_all(vv_grpc_queue *q) {
    for (uint32_t m = 0; m < q->transport->method_count; m++)
        for (uint32_t i = 0; i < q->transport->methods[m].armed_per_queue; i++)
            vv_grpc_call_arm(q, m);
}

/* Until the queue is shut down and dry. */
static void serve(vv_grpc_queue *q) {
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);
    for (;;) {
        grpc_event event = grpc_completion_queue_next(q->core, never, NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return;
        if (event.type != GRPC_OP_COMPLETE)
            continue;
        vv_grpc_tag *tag = event.tag;
        tag->fn(tag, event.success != 0);
        vv_grpc_queue_run_posted(q); /* from its own thread, which nobody wakes */
    }
}

static void queue_main(void *arg) {
    vv_grpc_queue *q = arg;
    arm_all(q);
    serve(q);
}

static void make_carrier(vv_grpc_queue *q) {
    q->carrier_channel = grpc_lame_client_channel_create("carrier", GRPC_STATUS_UNAVAILABLE, "leads nowhere");
    q->carrier_call = grpc_channel_create_call(q->carrier_channel, NULL, GRPC_PROPAGATE_DEFAULTS, q->core,
                                               grpc_slice_from_static_string("/carrier"), NULL,
                                               gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
}

void vv_grpc_queue_init(vv_grpc_queue *q, vv_grpc *t) {
    *q = (vv_grpc_queue){.transport = t, .carrier_tag = {.fn = on_carrier}};
    vv_stack_init(&q->posted);
}

vv_status vv_grpc_queue_start(vv_grpc_queue *q) {
    q->unarmed = vv_alloc_zeroed(q->transport->method_count * sizeof *q->unarmed);
    if (!q->unarmed)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    make_carrier(q);
    VV_TRY(vv_thread_start(&q->thread, "varve-rpc", queue_main, q));
    q->running = true;
    return VV_STATUS_OK;
}

void vv_grpc_queue_stop(vv_grpc_queue *q) {
    if (!q->core)
        return;
    /* Whoever posted last may still be about to wake this queue for what it has done already, and a batch
     * must not be started on a queue that is shut down. So the token is taken for good; one that is out comes
     * back with its carrier, which the thread is there to take. */
    while (q->running && atomic_exchange(&q->carrier, true))
        sched_yield();
    grpc_completion_queue_shutdown(q->core);
    if (q->running)
        vv_thread_join(q->thread);
    else
        serve(q);
    if (q->carrier_call) {
        grpc_call_unref(q->carrier_call);
        grpc_channel_destroy(q->carrier_channel);
    }
    grpc_completion_queue_destroy(q->core);
    vv_grpc_call_free_pool(q);
    vv_free(q->unarmed);
    q->core = NULL;
    q->unarmed = NULL;
    q->running = false;
}
