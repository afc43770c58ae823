/*
 * swap.h - an object that many threads read and that is replaced now and then as a whole.
 *
 * A reader takes the object and a count on it with one atomic addition: the word that it adds to says in its
 * top bit which of two places is current, so there is no moment between looking and counting at which the
 * object could go. The one who replaces waits for the readers of the old object; they must not block.
 *
 *     head:  place (1 bit) | readers that have come to this place (63 bits)
 *
 * Invariant
 *   S1  A place's `left` is minus the readers that have left, until the place is replaced; then those that
 *       came are added, and it is the number of readers that are still there. 0 then: nobody.
 *
 * The idea of one word for pointer and count: A. Williams, "C++ Concurrency in Action" (2012), section 7.2.4,
 * split reference counts.
 */
#ifndef VV_BASE_SWAP_H
#define VV_BASE_SWAP_H

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define VV_SWAP_PLACE_SHIFT 63

typedef struct vv_swap_place {
    void *object;
    VV_CACHE_ALIGNED _Atomic int64_t left;
} vv_swap_place;

typedef struct vv_swap {
    VV_CACHE_ALIGNED _Atomic uint64_t head;
    vv_swap_place places[2];
} vv_swap;

/* object may be NULL. */
static inline void vv_swap_init(vv_swap *s, void *object) {
    atomic_init(&s->head, 0);
    for (int i = 0; i < 2; i++) {
        s->places[i].object = NULL;
        atomic_init(&s->places[i].left, 0);
    }
    s->places[0].object = object;
}

/* What is current; it stays until vv_swap_leave(place). Any thread; don't block in between. */
static inline void *vv_swap_enter(vv_swap *s, vv_swap_place **place_out) {
    /* Acquire: pairs with the exchange in vv_swap_replace(), which follows the filling of the place. */
    uint64_t head = atomic_fetch_add_explicit(&s->head, 1, memory_order_acquire);
    *place_out = &s->places[head >> VV_SWAP_PLACE_SHIFT];
    return (*place_out)->object;
}

static inline void vv_swap_leave(vv_swap_place *place) {
    /* Release: pairs with the acquire below. What was read is read before the object is given back. */
    atomic_fetch_sub_explicit(&place->left, 1, memory_order_release);
}

/* Put `object` in place of the current one, which is returned when nobody reads it any more. One at a time.
 */
static inline void *vv_swap_replace(vv_swap *s, void *object) {
    uint64_t now = atomic_load_explicit(&s->head, memory_order_relaxed) >> VV_SWAP_PLACE_SHIFT;
    vv_swap_place *old = &s->places[now], *next = &s->places[1 - now];
    next->object = object;
    atomic_store_explicit(&next->left, 0, memory_order_relaxed);
    uint64_t head =
        atomic_exchange_explicit(&s->head, (1 - now) << VV_SWAP_PLACE_SHIFT, memory_order_acq_rel);
    int64_t came = (int64_t)(head & ~(UINT64_C(1) << VV_SWAP_PLACE_SHIFT));
    int64_t there = atomic_fetch_add_explicit(&old->left, came, memory_order_acquire) + came;
    while (there != 0) {
        sched_yield();
        there = atomic_load_explicit(&old->left, memory_order_acquire);
    }
    return old->object;
}

#endif
