/*
 * histogram.h - the distribution of latencies or sizes in fixed memory.
 *
 * Log-linear buckets, after G. Tene's HdrHistogram: every power of two is cut into 64 equal buckets, so
 * that a value is known to 1/64 (1.6 %) of itself, over the whole range of uint64_t, in 30 KiB. Values carry
 * no unit of their own: what goes in as nanoseconds comes out as nanoseconds.
 *
 * Threads: one recorder at a time for each histogram; meanwhile any thread may merge from it. So each thread
 * records into its own, and who wants the whole merges them into a fresh one. All else is for a
 * histogram that nobody records into.
 */
#ifndef VV_BASE_HISTOGRAM_H
#define VV_BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define VV_HISTOGRAM_SUB_BITS 6
#define VV_HISTOGRAM_SUBS     (1u << VV_HISTOGRAM_SUB_BITS)
#define VV_HISTOGRAM_BUCKETS  ((64 - VV_HISTOGRAM_SUB_BITS + 1) * VV_HISTOGRAM_SUBS)

typedef struct vv_histogram {
    _Atomic uint64_t sum;
    _Atomic uint64_t min; /* UINT64_MAX while empty */
    _Atomic uint64_t max;
    _Atomic uint64_t counts[VV_HISTOGRAM_BUCKETS];
} vv_histogram;

/* Empty it; for fresh storage, too. */
void vv_histogram_init(vv_histogram *h);

/* A few nanoseconds; no locked instruction. */
void vv_histogram_record(vv_histogram *h, uint64_t value);

/* Add all of `from` to `into`. What is recorded into `from` meanwhile may or may not be part of it. */
void vv_histogram_merge(vv_histogram *into, const vv_histogram *from);

/* *out becomes what *now has more than *before, an earlier copy of it. Its minimum and maximum are those of
 * its buckets. */
void vv_histogram_since(vv_histogram *out, const vv_histogram *now, const vv_histogram *before);

uint64_t vv_histogram_count(const vv_histogram *h);

/* Exact; 0 when empty. */
uint64_t vv_histogram_min(const vv_histogram *h);
uint64_t vv_histogram_max(const vv_histogram *h);
double vv_histogram_mean(const vv_histogram *h);

/* The least value that `percent` (0 to 100) of the records do not exceed: never too small, and at most 1/64
 * too large. 0 is the minimum, 100 the maximum. 0 when empty. */
uint64_t vv_histogram_percentile(const vv_histogram *h, double percent);

#endif
