/*
 * timer.c - a binary heap of times, and a thread that sleeps until the first of them.
 *
 * Invariant: heap[timer->place - 1] == timer for each set timer, and no child is earlier than its parent.
 */
#include "rpc/timer.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/clock.h"

struct vv_timers {
    pthread_t thread;
    struct {
        vv_mutex lock;
        vv_cond changed; /* the first time, or stop */
        vv_cond ran;     /* running has changed */
        vv_timer **heap;
        size_t count, capacity;
        vv_timer *running; /* its fn is being called */
        bool stop;
    } mu;
};

static void put(vv_timers *t, vv_timer *timer, size_t place) {
    t->mu.heap[place - 1] = timer;
    timer->place = place;
}

static void sift_up(vv_timers *t, vv_timer *timer, size_t place) {
    while (place > 1 && t->mu.heap[place / 2 - 1]->at_ns > timer->at_ns) {
        put(t, t->mu.heap[place / 2 - 1], place);
        place /= 2;
    }
    put(t, timer, place);
}

static void sift_down(vv_timers *t, vv_timer *timer, size_t place) {
    for (;;) {
        size_t child = 2 * place;
        if (child > t->mu.count)
            break;
        if (child < t->mu.count && t->mu.heap[child]->at_ns < t->mu.heap[child - 1]->at_ns)
            child++;
        if (t->mu.heap[child - 1]->at_ns >= timer->at_ns)
            break;
        put(t, t->mu.heap[child - 1], place);
        place = child;
    }
    put(t, timer, place);
}

static void take_out(vv_timers *t, vv_timer *timer) {
    size_t place = timer->place;
    timer->place = 0;
    vv_timer *last = t->mu.heap[--t->mu.count];
    if (last == timer)
        return;
    sift_up(t, last, place);
    sift_down(t, last, last->place);
}

static void run_timers(void *arg) {
    vv_timers *t = arg;
    vv_mutex_lock(&t->mu.lock);
    while (!t->mu.stop) {
        if (t->mu.count == 0) {
            vv_cond_wait(&t->mu.changed, &t->mu.lock);
            continue;
        }
        vv_timer *first = t->mu.heap[0];
        if (vv_clock_mono_ns() < first->at_ns) {
            (void)vv_cond_wait_until(&t->mu.changed, &t->mu.lock, first->at_ns);
            continue;
        }
        take_out(t, first);
        t->mu.running = first;
        vv_mutex_unlock(&t->mu.lock);
        first->fn(first); /* after this it may be gone */
        vv_mutex_lock(&t->mu.lock);
        t->mu.running = NULL;
        vv_cond_broadcast(&t->mu.ran);
    }
    vv_mutex_unlock(&t->mu.lock);
}

vv_status vv_timers_create(vv_timers **out) {
    *out = NULL;
    vv_timers *t = vv_alloc_zeroed(sizeof *t);
    if (!t)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_mutex_init(&t->mu.lock);
    vv_cond_init(&t->mu.changed);
    vv_cond_init(&t->mu.ran);
    vv_status st = vv_thread_start(&t->thread, "varve-timer", run_timers, t);
    if (vv_ok(st)) {
        *out = t;
        return st;
    }
    vv_cond_deinit(&t->mu.ran);
    vv_cond_deinit(&t->mu.changed);
    vv_mutex_deinit(&t->mu.lock);
    vv_free(t);
    return st;
}

void vv_timers_destroy(vv_timers *t) {
    if (!t)
        return;
    vv_mutex_lock(&t->mu.lock);
    t->mu.stop = true;
    vv_cond_signal(&t->mu.changed);
    vv_mutex_unlock(&t->mu.lock);
    vv_thread_join(t->thread);
    vv_cond_deinit(&t->mu.ran);
    vv_cond_deinit(&t->mu.changed);
    vv_mutex_deinit(&t->mu.lock);
    vv_free(t->mu.heap);
    vv_free(t);
}

void vv_timer_init(vv_timer *timer, void (*fn)(vv_timer *timer)) {
    *timer = (vv_timer){.fn = fn};
}

static vv_status make_room(vv_timers *t) {
    if (t->mu.count < t->mu.capacity)
        return VV_STATUS_OK;
    size_t capacity = t->mu.capacity ? 2 * t->mu.capacity : 64;
    vv_timer **heap = vv_alloc(capacity * sizeof *heap);
    if (!heap)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (t->mu.count > 0)
        memcpy(heap, t->mu.heap, t->mu.count * sizeof *heap);
    vv_free(t->mu.heap);
    t->mu.heap = heap;
    t->mu.capacity = capacity;
    return VV_STATUS_OK;
}

vv_status vv_timers_set(vv_timers *t, vv_timer *timer, uint64_t at_ns) {
    vv_mutex_lock(&t->mu.lock);
    if (timer->place > 0)
        take_out(t, timer);
    vv_status st = make_room(t);
    if (vv_ok(st)) {
        timer->at_ns = at_ns;
        sift_up(t, timer, ++t->mu.count);
        if (timer->place == 1)
            vv_cond_signal(&t->mu.changed);
    }
    vv_mutex_unlock(&t->mu.lock);
    return st;
}

void vv_timers_unset(vv_timers *t, vv_timer *timer) {
    vv_mutex_lock(&t->mu.lock);
    bool own = pthread_equal(pthread_self(), t->thread) != 0;
    for (;;) {
        if (timer->place > 0)
            take_out(t, timer);
        if (own || t->mu.running != timer)
            break;
        vv_cond_wait(&t->mu.ran, &t->mu.lock); /* its fn may set it again */
    }
    vv_mutex_unlock(&t->mu.lock);
}
