/*
 * timer.h - one thread that calls back at a time: leases that run out, progress marks that are due.
 *
 * For some thousand timers with a precision of milliseconds. A timer is embedded in its owner's object.
 */
#ifndef VV_RPC_TIMER_H
#define VV_RPC_TIMER_H

#include "base/status.h"
#include "base/sync.h"

typedef struct vv_timer vv_timer;
struct vv_timer {
    /* On the timers' thread, without its lock. Must not block. The timer is unset then, and may be set again
     * or given back from here. */
    void (*fn)(vv_timer *timer);
    /* The timers' own: */
    uint64_t at_ns;
    size_t place; /* in the heap, from 1; 0: not set */
};

typedef struct vv_timers vv_timers;

vv_status vv_timers_create(vv_timers **out) VV_CHECKED;
/* No timer is set any more, or none will be missed. NULL is fine. */
void vv_timers_destroy(vv_timers *t);

/* Zero a timer and give it its function before it is first set. */
void vv_timer_init(vv_timer *timer, void (*fn)(vv_timer *timer));

/* Call timer->fn once when vv_clock_mono_ns() reaches at_ns; replaces an earlier time. Thread-safe.
 * NO_MEMORY: the timer is not set. */
vv_status vv_timers_set(vv_timers *t, vv_timer *timer, uint64_t at_ns) VV_CHECKED;

/*
 * Unset. When this returns, fn is not running (unless it is the caller) and won't; so the owner may be freed.
 * Must not be called with a lock held that fn takes.
 */
void vv_timers_unset(vv_timers *t, vv_timer *timer);

#endif
