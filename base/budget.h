/*
 * budget.h - bytes that many share, and never more of them than a bound. Nobody waits for its turn: who gets
 * nothing does without.
 */
#ifndef VV_BASE_BUDGET_H
#define VV_BASE_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/compiler.h"

typedef struct vv_budget {
    uint64_t bytes_max;
    _Atomic uint64_t used_bytes;
} vv_budget;

static inline void vv_budget_init(vv_budget *b, uint64_t bytes_max) {
    b->bytes_max = bytes_max;
    atomic_init(&b->used_bytes, 0);
}

/* False: there is not so much left, and nothing was taken. Any thread. */
static inline bool VV_CHECKED
vv_budget_take(vv_budget *b, uint64_t bytes) {
    /* relaxed, here and below: only the number itself is shared. */
    uint64_t used = atomic_load_explicit(&b->used_bytes, memory_order_relaxed);
    do {
        if (bytes > b->bytes_max - used)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&b->used_bytes, &used, used + bytes, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static inline void vv_budget_give(vv_budget *b, uint64_t bytes) {
    uint64_t used = atomic_fetch_sub_explicit(&b->used_bytes, bytes, memory_order_relaxed);
    VV_ASSERT(used >= bytes);
}

static inline uint64_t vv_budget_used(vv_budget *b) {
    return atomic_load_explicit(&b->used_bytes, memory_order_relaxed);
}

#endif
