/*
 * grpc_queue.c - completion queue threads, and how other threads hand calls back to them.
 *
 * A durable write is answered on its call's own thread, but becomes durable on the committing thread. That
 * one pushes the call on the queue's stack and, once for all calls of a commit group, sends a carrier: an
 * empty batch, which comes out of the completion queue at once. Waking a thread once a group instead of once
 * a call saves a third of the processor time of a busy server, and no thread of ours ever waits for a commit.
 *
 * An empty batch needs some call of that queue, and must not run beside another start_batch of the same call.
 * So the carrier flag is a token:
 *
 *     false --exchange--> taken by a poster   --empty batch on the top call--> taken by the queue's thread
 *     false --exchange--> taken by the queue's thread, which finds the stack filled while it is awake anyway
 *     taken --> runs all posted calls --> false, and looks again
 *
 * Invariants
 *   Q1  Calls are taken from the stack by the token's owner only; so the top call that a poster picked stays
 *       unused (T3) until its empty batch is back.
 *   Q2  Whoever gives the token back looks at the stack afterwards; whoever pushes tries for the token
 *       afterwards. Both are sequentially consistent, so one of the two sees the other: nothing is left
 * behind.
 */
#include <grpc/grpc.h>
#include <grpc/support/time.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "rpc/grpc_impl.h"

static void run_taken(vv_grpc_queue *q) {
    do {
        vv_stack_node *node = vv_stack_take_all(&q->posted);
        while (node) {
            vv_stack_node *next = node->next; /* the call may be gone when it has run */
            vv_grpc_call_run_posted(VV_CONTAINER_OF(node, vv_grpc_call, node));
            node = next;
        }
        atomic_store(&q->carrier, false);
    } while (!vv_stack_empty(&q->posted) && !atomic_exchange(&q->carrier, true));
}

static void on_carrier(vv_grpc_tag *tag, bool ok) {
    (void)ok;
    VV_TAKE_OVER(tag);
    vv_grpc_queue *q = VV_CONTAINER_OF(tag, vv_grpc_queue, carrier_tag);
    VV_ASSERT(atomic_load_explicit(&q->carrier, memory_order_relaxed)); /* Q1 */
    run_taken(q);
}

void vv_grpc_queue_run_posted(vv_grpc_queue *q) {
    if (!vv_stack_empty(&q->posted) && !atomic_exchange(&q->carrier, true))
        run_taken(q);
}

void vv_grpc_queue_post(vv_grpc_call *call) {
    (void)vv_stack_push(&call->queue->posted, &call->node);
}

void vv_grpc_queue_wake(vv_grpc_queue *q) {
    while (!vv_stack_empty(&q->posted)) {
        if (atomic_exchange(&q->carrier, true))
            return;
        vv_stack_node *top = atomic_load(&q->posted.top);
        if (top) {
            /* The reference keeps the call until start_batch has returned: its thread may be done before. */
            grpc_call *core = VV_CONTAINER_OF(top, vv_grpc_call, node)->core;
            grpc_call_ref(core);
            VV_HAND_OVER(&q->carrier_tag);
            grpc_call_error error = grpc_call_start_batch(core, NULL, 0, &q->carrier_tag, NULL);
            VV_ASSERT(error == GRPC_CALL_OK);
            grpc_call_unref(core);
            return;
        }
        atomic_store(&q->carrier, false);
    }
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
    }
}

static void queue_main(void *arg) {
    vv_grpc_queue *q = arg;
    arm_all(q);
    serve(q);
}

void vv_grpc_queue_init(vv_grpc_queue *q, vv_grpc *t) {
    *q = (vv_grpc_queue){.transport = t, .carrier_tag = {.fn = on_carrier}};
    vv_stack_init(&q->posted);
}

vv_status vv_grpc_queue_start(vv_grpc_queue *q) {
    q->unarmed = vv_alloc_zeroed(q->transport->method_count * sizeof *q->unarmed);
    if (!q->unarmed)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    VV_TRY(vv_thread_start(&q->thread, "varve-rpc", queue_main, q));
    q->running = true;
    return VV_STATUS_OK;
}

void vv_grpc_queue_stop(vv_grpc_queue *q) {
    if (!q->core)
        return;
    grpc_completion_queue_shutdown(q->core);
    if (q->running)
        vv_thread_join(q->thread);
    else
        serve(q);
    grpc_completion_queue_destroy(q->core);
    vv_grpc_call_free_pool(q);
    vv_free(q->unarmed);
    q->core = NULL;
    q->unarmed = NULL;
    q->running = false;
}
