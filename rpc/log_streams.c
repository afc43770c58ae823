/*
 * log_streams.c - see log_streams.h.
 */
#include "rpc/log_streams.h"

#include "base/assert.h"
#include "base/clock.h"

/* With or without the lock; who calls holds the stream, and place is WORKING. */
static void submit(vv_log_stream *w) {
    bool accepted = vv_workers_submit(w->all->options.workers, &w->job);
    VV_ASSERT(accepted); /* the queue has no bound, and the pool outlives the streams */
}

static void submit_list(vv_log_stream *list) {
    for (vv_log_stream *w = list, *next; w; w = next) {
        next = w->next; /* once submitted it may be gone */
        submit(w);
    }
}

static void set_place(vv_log_stream *w, vv_log_stream_place to) {
    vv_mutex_lock(&w->all->mu.lock);
    w->place = to;
    vv_mutex_unlock(&w->all->mu.lock);
}

/* With the lock. */
static void unlink_idle(vv_log_stream *w, vv_log_stream_place to) {
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    w->link = NULL;
    w->place = to;
}

/* Take those who are idle and have told nothing since `before_ns`; a list by `next`. With the lock. */
static vv_log_stream *take_idle(vv_log_streams *s, uint64_t before_ns) {
    vv_log_stream *taken = NULL;
    for (vv_log_stream *w = s->mu.idle, *next; w; w = next) {
        next = w->next;
        if (w->told_ns > before_ns)
            continue;
        unlink_idle(w, VV_LOG_STREAM_WORKING);
        w->next = taken;
        taken = w;
    }
    return taken;
}

/* ---- what sends them on ---- */

void vv_log_streams_wake(vv_log_streams *s) {
    vv_mutex_lock(&s->mu.lock);
    atomic_fetch_add_explicit(&s->generation, 1, memory_order_release);
    if (s->mu.idle && !s->mu.wake_queued)
        s->mu.wake_queued = vv_workers_submit(s->options.workers, &s->wake_job);
    vv_mutex_unlock(&s->mu.lock);
}

static void wake_all(vv_job *job) {
    vv_log_streams *s = VV_CONTAINER_OF(job, vv_log_streams, wake_job);
    vv_mutex_lock(&s->mu.lock);
    s->mu.wake_queued = false;
    vv_log_stream *first = take_idle(s, UINT64_MAX);
    vv_mutex_unlock(&s->mu.lock);
    if (!first)
        return;
    submit_list(first->next);
    first->job.run(&first->job);
}

/* With the lock. */
static void set_tick(vv_log_streams *s) {
    uint64_t at_ns = vv_clock_mono_ns() + s->options.tick_ns;
    s->mu.ticking = s->mu.count > 0 && vv_ok(vv_timers_set(s->options.timers, &s->tick, at_ns));
}

static void tick(vv_timer *timer) {
    vv_log_streams *s = VV_CONTAINER_OF(timer, vv_log_streams, tick);
    uint64_t now_ns = vv_clock_mono_ns(), patience_ns = s->options.patience_ns;
    vv_mutex_lock(&s->mu.lock);
    vv_log_stream *list = take_idle(s, now_ns > patience_ns ? now_ns - patience_ns : 0);
    set_tick(s);
    vv_mutex_unlock(&s->mu.lock);
    submit_list(list);
}

/* ---- one ---- */

void vv_log_streams_add(vv_log_streams *s, vv_log_stream *w, void (*run)(vv_job *job)) {
    w->all = s;
    w->job.run = run;
    w->place = VV_LOG_STREAM_WORKING;
    vv_mutex_lock(&s->mu.lock);
    s->mu.count++;
    if (!s->mu.ticking)
        set_tick(s);
    vv_mutex_unlock(&s->mu.lock);
    submit(w);
}

void vv_log_stream_work(vv_log_stream *w) {
    set_place(w, VV_LOG_STREAM_WORKING);
    submit(w);
}

void vv_log_stream_hold(vv_log_stream *w) {
    set_place(w, VV_LOG_STREAM_HELD);
}

void vv_log_stream_look(vv_log_stream *w) {
    w->generation = atomic_load_explicit(&w->all->generation, memory_order_acquire);
}

bool vv_log_stream_settle(vv_log_stream *w) {
    vv_log_streams *s = w->all;
    vv_mutex_lock(&s->mu.lock);
    bool idle = atomic_load_explicit(&s->generation, memory_order_relaxed) == w->generation &&
                !vv_log_stream_end_wanted(w);
    if (idle) {
        w->place = VV_LOG_STREAM_IDLE;
        w->next = s->mu.idle;
        w->link = &s->mu.idle;
        if (w->next)
            w->next->link = &w->next;
        s->mu.idle = w;
    }
    vv_mutex_unlock(&s->mu.lock);
    return idle;
}

bool vv_log_stream_end_wanted(const vv_log_stream *w) {
    return atomic_load_explicit(&w->end_wanted, memory_order_relaxed);
}

bool vv_log_stream_is_due(const vv_log_stream *w) {
    return vv_clock_mono_ns() - w->told_ns >= w->all->options.patience_ns;
}

bool vv_log_stream_take_back(vv_log_stream *w, bool to_end) {
    vv_mutex_lock(&w->all->mu.lock);
    if (to_end)
        atomic_store_explicit(&w->end_wanted, true, memory_order_relaxed);
    if (w->place == VV_LOG_STREAM_IDLE && vv_log_stream_end_wanted(w))
        unlink_idle(w, VV_LOG_STREAM_HELD);
    bool held = w->place == VV_LOG_STREAM_HELD;
    vv_mutex_unlock(&w->all->mu.lock);
    return held;
}

void vv_log_streams_remove(vv_log_streams *s) {
    vv_mutex_lock(&s->mu.lock);
    s->mu.count--;
    vv_mutex_unlock(&s->mu.lock);
}

/* ---- life ---- */

void vv_log_streams_init(vv_log_streams *s) {
    *s = (vv_log_streams){.wake_job = {.run = wake_all}};
    vv_timer_init(&s->tick, tick);
    vv_mutex_init(&s->mu.lock);
}

void vv_log_streams_start(vv_log_streams *s, const vv_log_streams_options *options) {
    s->options = *options;
}

void vv_log_streams_stop(vv_log_streams *s) {
    VV_ASSERT(s->mu.count == 0);
    if (s->options.timers)
        vv_timers_unset(s->options.timers, &s->tick);
}

void vv_log_streams_deinit(vv_log_streams *s) {
    vv_mutex_deinit(&s->mu.lock);
}
