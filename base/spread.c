#include "base/spread.h"

#include "base/assert.h"

#define SUB_BITS     2
#define SUBS         (1u << SUB_BITS)
#define EXPONENT_MAX 26
#define OVERFLOW     (VV_SPREAD_BUCKETS - 1)

_Static_assert(OVERFLOW == SUBS * (EXPONENT_MAX - SUB_BITS + 1), "four buckets for each power of two");

/* The bounds are inclusive, so it is the number before a value that is cut into powers of two. */
static uint32_t bucket_of(uint64_t value) {
    uint64_t before = value > 0 ? value - 1 : 0;
    if (before < SUBS)
        return (uint32_t)before;
    if (before >> EXPONENT_MAX)
        return OVERFLOW;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(before) - SUB_BITS;
    return shift * SUBS + (uint32_t)(before >> shift);
}

uint64_t vv_spread_bound(uint32_t bucket) {
    VV_ASSERT(bucket < VV_SPREAD_BUCKETS);
    if (bucket == OVERFLOW)
        return UINT64_MAX;
    if (bucket < SUBS)
        return bucket + 1;
    return (uint64_t)(bucket % SUBS + SUBS + 1) << (bucket / SUBS - 1);
}

static void more(_Atomic uint64_t *at, uint64_t by) {
    uint64_t now = atomic_load_explicit(at, memory_order_relaxed);
    atomic_store_explicit(at, now + by, memory_order_relaxed);
}

void vv_spread_record(vv_spread *s, uint64_t value) {
    more(&s->counts[bucket_of(value)], 1);
    more(&s->sum, value);
}

void vv_spread_add(vv_spread *s, uint64_t value) {
    atomic_fetch_add_explicit(&s->counts[bucket_of(value)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->sum, value, memory_order_relaxed);
}

void vv_spread_collect(const vv_spread *s, vv_spread_copy *into) {
    for (uint32_t i = 0; i < VV_SPREAD_BUCKETS; i++)
        into->counts[i] += atomic_load_explicit(&s->counts[i], memory_order_relaxed);
    into->sum += atomic_load_explicit(&s->sum, memory_order_relaxed);
}

uint64_t vv_spread_count(const vv_spread_copy *c) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < VV_SPREAD_BUCKETS; i++)
        count += c->counts[i];
    return count;
}

uint64_t vv_spread_count_to(const vv_spread_copy *c, uint32_t exponent) {
    VV_ASSERT(exponent <= EXPONENT_MAX);
    uint64_t count = 0;
    for (uint32_t i = 0; i < VV_SPREAD_BUCKETS && vv_spread_bound(i) <= UINT64_C(1) << exponent; i++)
        count += c->counts[i];
    return count;
}
