/*
 * throttle.c - long jobs that keep to a rate.
 */
#include <time.h>

#include "base/clock.h"
#include "engine/db/db_impl.h"

/* The longest sleep before the caller is asked again whether to go on. */
#define SLEEP_NS_MAX (20 * VV_NS_PER_MS)

void vv_throttle_init(vv_throttle *t, uint64_t bytes_per_second, varve_progress_fn progress, void *arg,
                      uint64_t total_bytes) {
    *t = (vv_throttle){.bytes_per_second = bytes_per_second,
                       .progress = progress,
                       .arg = arg,
                       .total_bytes = total_bytes,
                       .start_ns = vv_clock_mono_ns()};
}

static bool goes_on(const vv_throttle *t) {
    return !t->progress || t->progress(t->arg, t->done_bytes, t->total_bytes);
}

/* When what is done may be, by the rate. */
static uint64_t due_ns(const vv_throttle *t) {
    if (t->bytes_per_second == 0)
        return 0;
    return t->start_ns +
           (uint64_t)((double)t->done_bytes / (double)t->bytes_per_second * (double)VV_NS_PER_S);
}

bool vv_throttle_pass(vv_throttle *t, uint64_t bytes) {
    t->done_bytes += bytes;
    for (;;) {
        if (!goes_on(t))
            return false;
        uint64_t now_ns = vv_clock_mono_ns(), due = due_ns(t);
        if (now_ns >= due)
            return true;
        uint64_t sleep_ns = VV_MIN(due - now_ns, SLEEP_NS_MAX);
        struct timespec ts = {.tv_nsec = (long)sleep_ns};
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
    }
}
