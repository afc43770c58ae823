/*
 * line_limit.h - so many lines in a second and no more, so that whoever can cause lines can't fill a disk
 * with them. What is dropped is counted, to be said with the next line that is not.
 */
#ifndef VV_RPC_LINE_LIMIT_H
#define VV_RPC_LINE_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

typedef struct vv_line_limit {
    _Atomic uint32_t per_second;
    _Atomic uint64_t window; /* the second << 32 | lines in it */
    _Atomic uint64_t dropped;
} vv_line_limit;

static inline void vv_line_limit_init(vv_line_limit *l, uint32_t per_second) {
    atomic_init(&l->per_second, per_second);
    atomic_init(&l->window, 0);
    atomic_init(&l->dropped, 0);
}

/* From now on. Any thread. */
static inline void vv_line_limit_set(vv_line_limit *l, uint32_t per_second) {
    atomic_store_explicit(&l->per_second, per_second, memory_order_relaxed);
}

/* May a line be written at that time (vv_clock_mono_ns())? Any thread. */
static inline bool vv_line_limit_take(vv_line_limit *l, uint64_t now_ns) {
    uint64_t second = now_ns / VV_NS_PER_S << 32;
    uint64_t seen = atomic_load_explicit(&l->window, memory_order_relaxed), next;
    do {
        next = (seen & ~(uint64_t)UINT32_MAX) == second ? seen + 1 : second + 1;
        if ((uint32_t)next > atomic_load_explicit(&l->per_second, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&l->dropped, 1, memory_order_relaxed);
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&l->window, &seen, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* Lines dropped since this was last asked. */
static inline uint64_t vv_line_limit_dropped(vv_line_limit *l) {
    if (atomic_load_explicit(&l->dropped, memory_order_relaxed) == 0)
        return 0;
    return atomic_exchange_explicit(&l->dropped, 0, memory_order_relaxed);
}

#endif
