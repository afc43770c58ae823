/*
 * chunk_stream.c - turns of a worker, messages on their way, and clients that take none.
 *
 * Ending: the call may be ended only when neither a worker nor a posted task has it. `stop` asks a worker to
 * come back at once.
 */
#include "rpc/chunk_stream.h"

#include "base/clock.h"
#include "base/compiler.h"
#include "rpc/access.h"
#include "rpc/status_map.h"

#define OVERLOAD_RETRY_MS 100
#define DRAIN_RETRY_MS    1000

static vv_chunk_stream **slot_of(vv_rpc_call *call) {
    return (vv_chunk_stream **)(void *)call->state;
}

static bool has_message(const vv_chunk_stream *s) {
    return s->body.release != NULL;
}

static vv_rpc_body take_message(vv_chunk_stream *s) {
    vv_rpc_body body = s->body;
    s->body = (vv_rpc_body){0};
    return body;
}

/* ---- a turn, on a worker ---- */

static bool too_late(vv_chunk_stream *s) {
    if (vv_clock_mono_ns() < s->call->deadline_ns)
        return false;
    vv_rpc_status_set(&s->failure, VV_RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", 0,
                      "the deadline has passed");
    return true;
}

static void set_overloaded(vv_chunk_stream *s) {
    vv_rpc_status_set(&s->failure, VV_RPC_RESOURCE_EXHAUSTED, "OVERLOADED", OVERLOAD_RETRY_MS,
                      "too many calls wait for the workers");
    s->outlook = VV_CHUNK_FAILED;
}

static void run(vv_job *job) {
    vv_chunk_stream *s = VV_CONTAINER_OF(job, vv_chunk_stream, job);
    if (!vv_chunk_stream_stopped(s)) {
        s->outlook = too_late(s) ? VV_CHUNK_FAILED : s->options.make(s);
        bool nothing_yet = s->outlook == VV_CHUNK_MORE && !has_message(s);
        if (nothing_yet && vv_workers_submit(s->options.workers, &s->job))
            return; /* to the end of the queue; s may be gone by now */
        if (nothing_yet)
            set_overloaded(s);
    }
    vv_rpc_post_and_wake(s->call);
}

/* ---- the end, on the call's thread ---- */

static void fail(vv_chunk_stream *s) {
    vv_rpc_call *call = s->call;
    switch (s->given_up) {
    case VV_CHUNK_CLIENT_LEFT:
        vv_rpc_fail_with(call, VV_RPC_CANCELLED, "CANCELLED", 0, "the client has left");
        break;
    case VV_CHUNK_CLIENT_IDLE:
        vv_rpc_fail_with(call, VV_RPC_ABORTED, s->options.idle_reason, 0, "%s", s->options.idle_words);
        break;
    case VV_CHUNK_DRAINING:
        vv_rpc_fail_with(call, VV_RPC_UNAVAILABLE, "SHUTTING_DOWN", DRAIN_RETRY_MS,
                         "the server is shutting down");
        break;
    case VV_CHUNK_NOT_GIVEN_UP: vv_rpc_fail(call, &s->failure); break;
    }
}

/* No worker has it: end the call and all that it has, now or when the idle task has come back. */
static void settle(vv_chunk_stream *s) {
    s->ending = true;
    if (s->timer_set)
        vv_timers_unset(s->options.timers, &s->timer); /* its fn is not running: no more posts */
    s->timer_set = false;
    if (atomic_load(&s->idle_posted))
        return;
    if (s->given_up != VV_CHUNK_NOT_GIVEN_UP || s->outlook == VV_CHUNK_FAILED)
        fail(s);
    else if (has_message(s))
        vv_rpc_reply(s->call, take_message(s)); /* with the status in one go */
    else
        vv_rpc_finish(s->call);
    vv_rpc_body unsent = take_message(s);
    if (unsent.release)
        unsent.release(unsent.release_arg);
    s->options.destroy(s);
}

static void give_up(vv_chunk_stream *s, vv_chunk_ending why) {
    if (s->given_up == VV_CHUNK_NOT_GIVEN_UP)
        s->given_up = why;
    atomic_store_explicit(&s->stop, true, memory_order_relaxed);
    if (!s->working)
        settle(s);
}

/* ---- a client that takes nothing ---- */

/*
 * The timer looks at a stream once in a while instead of being set for each message. What it finds has to be
 * told on the call's thread, and a call must not be ended while a task of it is posted: so settle() waits for
 * one that is, and no other can follow once the timer is unset.
 */
static void idle_check(vv_timer *timer) {
    vv_chunk_stream *s = VV_CONTAINER_OF(timer, vv_chunk_stream, timer);
    uint64_t since_ns = atomic_load(&s->written_ns), now_ns = vv_clock_mono_ns();
    if (since_ns == 0 || now_ns - since_ns < s->options.idle_ns) {
        uint64_t next_ns = (since_ns ? since_ns : now_ns) + s->options.idle_ns;
        vv_status_ignore(vv_timers_set(s->options.timers, timer, next_ns),
                         "without memory the call's deadline is what bounds it");
        return;
    }
    atomic_store(&s->idle_posted, true);
    vv_rpc_waker waker = vv_rpc_waker_of(s->call);
    vv_rpc_post_task(s->call, &s->idle_task);
    vv_rpc_wake(waker);
}

static void watch_idle(vv_chunk_stream *s) {
    if (!s->timer_set)
        s->timer_set =
            vv_ok(vv_timers_set(s->options.timers, &s->timer, vv_clock_mono_ns() + s->options.idle_ns));
}

static void idle_told(vv_rpc_task *task) {
    vv_chunk_stream *s = VV_CONTAINER_OF(task, vv_chunk_stream, idle_task);
    atomic_store(&s->idle_posted, false);
    if (s->ending) {
        settle(s);
        return;
    }
    s->timer_set = false;
    if (atomic_load(&s->written_ns) != 0)
        give_up(s, VV_CHUNK_CLIENT_IDLE);
    else
        watch_idle(s); /* it was taken after all */
}

/* ---- the stream, on the call's thread ---- */

static void start_turn(vv_chunk_stream *s) {
    /* Still: a stream may be long. */
    bool allowed = vv_access_check(s->call, s->call->method->access, &s->failure);
    s->working = true;
    if (allowed && vv_workers_submit(s->options.workers, &s->job))
        return;
    s->working = false;
    s->outlook = VV_CHUNK_FAILED;
    if (allowed)
        set_overloaded(s);
    if (atomic_load(&s->written_ns) == 0)
        settle(s);
}

/* What was made is ready, and no message is under way. */
static void send(vv_chunk_stream *s) {
    s->ready = false;
    if (!has_message(s) || s->outlook == VV_CHUNK_END) {
        settle(s);
        return;
    }
    vv_rpc_body body = take_message(s);
    bool ahead = body.tail.bytes <= VV_CHUNK_AHEAD_BYTES_MAX;
    atomic_store(&s->written_ns, vv_clock_mono_ns());
    watch_idle(s);
    vv_rpc_stream_write(s->call, body);
    if (ahead && s->outlook == VV_CHUNK_MORE)
        start_turn(s);
}

void vv_chunk_stream_on_posted(vv_rpc_call *call) {
    vv_chunk_stream *s = *slot_of(call);
    s->working = false;
    if (call->cancelled || s->given_up != VV_CHUNK_NOT_GIVEN_UP) {
        give_up(s, VV_CHUNK_CLIENT_LEFT);
        return;
    }
    s->ready = true;
    if (atomic_load(&s->written_ns) == 0)
        send(s);
}

void vv_chunk_stream_on_written(vv_rpc_call *call) {
    vv_chunk_stream *s = *slot_of(call);
    atomic_store(&s->written_ns, 0);
    if (s->ending || s->working)
        return;
    if (s->ready)
        send(s);
    else if (s->outlook == VV_CHUNK_FAILED)
        settle(s);
    else
        start_turn(s);
}

void vv_chunk_stream_on_cancelled(vv_rpc_call *call) {
    vv_chunk_stream *s = *slot_of(call);
    if (!s->ending)
        give_up(s, VV_CHUNK_CLIENT_LEFT);
}

void vv_chunk_stream_on_drain(vv_rpc_call *call) {
    vv_chunk_stream *s = *slot_of(call);
    if (!s->ending)
        give_up(s, VV_CHUNK_DRAINING);
}

void vv_chunk_stream_start(vv_chunk_stream *s, vv_rpc_call *call, const vv_chunk_options *options) {
    *s = (vv_chunk_stream){
        .options = *options, .call = call, .job = {.run = run}, .idle_task = {.fn = idle_told}};
    vv_timer_init(&s->timer, idle_check);
    *slot_of(call) = s;
    start_turn(s);
}
