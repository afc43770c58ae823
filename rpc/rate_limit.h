/*
 * rate_limit.h - how many operations a second: a token bucket in one atomic word.
 *
 * The generic cell rate algorithm (ITU-T Recommendation I.371, annex A, "virtual scheduling"): instead of a
 * count that somebody refills, a bucket keeps the time at which it will be full again. An operation moves
 * that time on by what it costs, 1/rate, and conforms if the time then lies no more than the burst ahead of
 * now.
 *
 *     debt          full_at <= now: the bucket is full
 *     |<------ burst ------>|
 *     now ................. full_at may reach here
 *
 * Many operations at once (a batch) are let in when the bucket has room for them or, when they are more than
 * it ever holds, when it is full; the bucket is then in debt, and what follows waits until that is paid. So a
 * batch larger than the burst is slowed and not impossible.
 */
#ifndef VV_RPC_RATE_LIMIT_H
#define VV_RPC_RATE_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define VV_RATE_MAX UINT64_C(1000000000)

/* Operations a second, and how many at once after a pause. A rate of 0 is no limit; a burst of 0 is one
 * second's worth. At most VV_RATE_MAX each. */
typedef struct vv_rate {
    uint64_t per_second;
    uint64_t burst;
} vv_rate;

typedef struct vv_rate_bucket {
    _Atomic uint64_t full_at_ns;
    _Atomic uint64_t per_second, burst; /* as set; each is looked at once for each check */
} vv_rate_bucket;

/* Full. */
void vv_rate_bucket_init(vv_rate_bucket *b, vv_rate rate);

/* From now on; what is owed stays owed. Thread-safe. */
void vv_rate_bucket_set(vv_rate_bucket *b, vv_rate rate);
vv_rate vv_rate_bucket_get(const vv_rate_bucket *b);

/*
 * Take `count` operations out at `now_ns` (vv_clock_mono_ns()). Thread-safe, lock-free.
 *
 * 0       they are taken.
 * others  nothing is: so many nanoseconds later they would be, if nobody else comes.
 */
uint64_t vv_rate_bucket_take(vv_rate_bucket *b, uint64_t count, uint64_t now_ns);

#endif
