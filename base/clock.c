#include "base/clock.h"

#include <time.h>

uint64_t vv_clock_mono_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * VV_NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t vv_clock_unix_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / VV_NS_PER_MS;
}
