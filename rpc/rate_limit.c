#include "rpc/rate_limit.h"

#include "base/clock.h"
#include "base/compiler.h"

/* A debt never grows beyond this: a batch's cost at a tiny rate must not overflow. */
#define DEBT_NS_MAX (UINT64_C(1000000) * VV_NS_PER_S)

/* What `count` operations cost, rounded up: never faster than the rate. */
static uint64_t cost_ns(uint64_t count, uint64_t per_second) {
    unsigned __int128 cost = (unsigned __int128)count * VV_NS_PER_S + per_second - 1;
    cost /= per_second;
    return cost < DEBT_NS_MAX ? (uint64_t)cost : DEBT_NS_MAX;
}

void vv_rate_bucket_set(vv_rate_bucket *b, vv_rate rate) {
    uint64_t burst = rate.burst > 0 ? rate.burst : rate.per_second;
    atomic_store_explicit(&b->burst, VV_MIN(burst, VV_RATE_MAX), memory_order_relaxed);
    atomic_store_explicit(&b->per_second, VV_MIN(rate.per_second, VV_RATE_MAX), memory_order_relaxed);
}

void vv_rate_bucket_init(vv_rate_bucket *b, vv_rate rate) {
    atomic_init(&b->full_at_ns, 0);
    vv_rate_bucket_set(b, rate);
}

vv_rate vv_rate_bucket_get(const vv_rate_bucket *b) {
    return (vv_rate){.per_second = atomic_load_explicit(&b->per_second, memory_order_relaxed),
                     .burst = atomic_load_explicit(&b->burst, memory_order_relaxed)};
}

uint64_t vv_rate_bucket_take(vv_rate_bucket *b, uint64_t count, uint64_t now_ns) {
    vv_rate rate = vv_rate_bucket_get(b);
    if (rate.per_second == 0 || count == 0)
        return 0;
    uint64_t burst = VV_MAX(rate.burst, 1);
    /* By the rounded cost of one: so many one by one fit in just as well as all at once. */
    uint64_t burst_ns = VV_MIN(burst * cost_ns(1, rate.per_second), DEBT_NS_MAX);
    uint64_t room_ns = count < burst ? cost_ns(count, rate.per_second) : burst_ns;
    uint64_t spent_ns = cost_ns(count, rate.per_second);
    /* Relaxed: the word guards nothing but itself. */
    uint64_t full_at_ns = atomic_load_explicit(&b->full_at_ns, memory_order_relaxed);
    for (;;) {
        uint64_t from_ns = VV_MAX(full_at_ns, now_ns);
        if (from_ns + room_ns > now_ns + burst_ns)
            return from_ns + room_ns - now_ns - burst_ns;
        if (atomic_compare_exchange_weak_explicit(&b->full_at_ns, &full_at_ns, from_ns + spent_ns,
                                                  memory_order_relaxed, memory_order_relaxed))
            return 0;
    }
}
