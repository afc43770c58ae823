#include "base/histogram.h"

#include <math.h>

#include "base/assert.h"
#include "base/compiler.h"

/*
 * Values below 64 have a bucket each. Above, with e the position of the highest bit (6 to 63), the six bits
 * below it choose one of the 64 buckets of that power of two, each 2^(e - 6) wide.
 */
static uint32_t bucket_of(uint64_t value) {
    if (value < VV_HISTOGRAM_SUBS)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - VV_HISTOGRAM_SUB_BITS;
    return shift * VV_HISTOGRAM_SUBS + (uint32_t)(value >> shift);
}

/* The largest value of a bucket. */
static uint64_t bucket_last(uint32_t bucket) {
    if (bucket < 2 * VV_HISTOGRAM_SUBS)
        return bucket;
    uint32_t shift = bucket / VV_HISTOGRAM_SUBS - 1;
    uint64_t first = (uint64_t)(bucket % VV_HISTOGRAM_SUBS + VV_HISTOGRAM_SUBS) << shift;
    return first + ((UINT64_C(1) << shift) - 1);
}

static uint64_t load(const _Atomic uint64_t *at) {
    return atomic_load_explicit(at, memory_order_relaxed);
}

/* One recorder at a time: a load and a store do, without the lock prefix of a read-modify-write. */
static void store(_Atomic uint64_t *at, uint64_t value) {
    atomic_store_explicit(at, value, memory_order_relaxed);
}

void vv_histogram_init(vv_histogram *h) {
    store(&h->sum, 0);
    store(&h->min, UINT64_MAX);
    store(&h->max, 0);
    for (uint32_t i = 0; i < VV_HISTOGRAM_BUCKETS; i++)
        store(&h->counts[i], 0);
}

void vv_histogram_record(vv_histogram *h, uint64_t value) {
    _Atomic uint64_t *count = &h->counts[bucket_of(value)];
    store(count, load(count) + 1);
    store(&h->sum, load(&h->sum) + value);
    if (value < load(&h->min))
        store(&h->min, value);
    if (value > load(&h->max))
        store(&h->max, value);
}

void vv_histogram_merge(vv_histogram *into, const vv_histogram *from) {
    for (uint32_t i = 0; i < VV_HISTOGRAM_BUCKETS; i++) {
        uint64_t count = load(&from->counts[i]);
        if (count)
            store(&into->counts[i], load(&into->counts[i]) + count);
    }
    store(&into->sum, load(&into->sum) + load(&from->sum));
    store(&into->min, VV_MIN(load(&into->min), load(&from->min)));
    store(&into->max, VV_MAX(load(&into->max), load(&from->max)));
}

void vv_histogram_since(vv_histogram *out, const vv_histogram *now, const vv_histogram *before) {
    vv_histogram_init(out);
    store(&out->sum, load(&now->sum) - load(&before->sum));
    for (uint32_t i = 0; i < VV_HISTOGRAM_BUCKETS; i++) {
        uint64_t count = load(&now->counts[i]) - load(&before->counts[i]);
        if (count == 0)
            continue;
        store(&out->counts[i], count);
        store(&out->max, bucket_last(i));
        if (load(&out->min) == UINT64_MAX)
            store(&out->min, i ? bucket_last(i - 1) + 1 : 0);
    }
}

/* Counted from the buckets, so that it agrees with them even in a merge from a busy histogram. */
uint64_t vv_histogram_count(const vv_histogram *h) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < VV_HISTOGRAM_BUCKETS; i++)
        count += load(&h->counts[i]);
    return count;
}

uint64_t vv_histogram_min(const vv_histogram *h) {
    uint64_t min = load(&h->min);
    return min == UINT64_MAX && load(&h->max) == 0 ? 0 : min;
}

uint64_t vv_histogram_max(const vv_histogram *h) {
    return load(&h->max);
}

double vv_histogram_mean(const vv_histogram *h) {
    uint64_t count = vv_histogram_count(h);
    return count ? (double)load(&h->sum) / (double)count : 0;
}

uint64_t vv_histogram_percentile(const vv_histogram *h, double percent) {
    VV_ASSERT(percent >= 0 && percent <= 100);
    uint64_t count = vv_histogram_count(h);
    if (count == 0 || percent <= 0)
        return vv_histogram_min(h);
    uint64_t rank = (uint64_t)ceil(percent * (double)count / 100);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < VV_HISTOGRAM_BUCKETS; i++) {
        seen += load(&h->counts[i]);
        if (seen >= rank && seen > 0)
            return VV_MAX(VV_MIN(bucket_last(i), vv_histogram_max(h)), vv_histogram_min(h));
    }
    return vv_histogram_max(h);
}
