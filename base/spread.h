/*
 * spread.h - how values of one kind are spread, in 800 bytes: for figures that somebody collects now and
 * then.
 *
 * Log-linear buckets: 1, 2, 3 and 4 have one each, then each power of two is cut into four, up to 2^26; above
 * is one for all. A bucket has the values up to and with its bound, as Prometheus wants it, and so that what
 * is counted as "at most 2^n" is exactly that. Values carry no unit: microseconds reach to 67 s.
 *
 * It is to base/histogram.h as a gauge on the wall is to a stop-watch: a value is known to a quarter of
 * itself, and there may be thousands of them.
 *
 * Threads: vv_spread_record() has one recorder at a time, vv_spread_add() any number; anybody may read
 * meanwhile, and finds each counter as it was at some moment of the reading.
 */
#ifndef VV_BASE_SPREAD_H
#define VV_BASE_SPREAD_H

#include <stdatomic.h>
#include <stdint.h>

#define VV_SPREAD_BUCKETS 101

typedef struct vv_spread {
    _Atomic uint64_t sum;
    _Atomic uint64_t counts[VV_SPREAD_BUCKETS];
} vv_spread;

/* One that nobody records into. */
typedef struct vv_spread_copy {
    uint64_t sum;
    uint64_t counts[VV_SPREAD_BUCKETS];
} vv_spread_copy;

/* A few nanoseconds; no locked instruction. Zeroed storage is an empty spread. */
void vv_spread_record(vv_spread *s, uint64_t value);
/* The same for several recorders. */
void vv_spread_add(vv_spread *s, uint64_t value);

/* Add what has been recorded to a copy, which begins zeroed. */
void vv_spread_collect(const vv_spread *s, vv_spread_copy *into);

/* The largest value of a bucket; UINT64_MAX for the last. */
uint64_t vv_spread_bound(uint32_t bucket);

uint64_t vv_spread_count(const vv_spread_copy *c);
/* How many of them were at most 2^exponent (up to 26). */
uint64_t vv_spread_count_to(const vv_spread_copy *c, uint32_t exponent);

/* Nanoseconds as microseconds, rounded up: what took longer than a bound is not counted below it. */
static inline uint64_t vv_spread_us(uint64_t ns) {
    return (ns + 999) / 1000;
}

#endif
