/*
 * clock.h - time. Durations are monotonic nanoseconds; expiries are Unix milliseconds.
 */
#ifndef VV_BASE_CLOCK_H
#define VV_BASE_CLOCK_H

#include <stdint.h>

#define VV_NS_PER_US UINT64_C(1000)
#define VV_NS_PER_MS UINT64_C(1000000)
#define VV_NS_PER_S  UINT64_C(1000000000)

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t vv_clock_mono_ns(void);

/* CLOCK_REALTIME in milliseconds since 1970. */
uint64_t vv_clock_unix_ms(void);

#endif
