/*
 * lag_clock.h - since when a follower has not had everything that its primary had.
 *
 * "How many seconds behind?" asks when the oldest write that is missing here was first heard of. So what the
 * primary says of its durable LSN is noted with the time, some of it: a new sample at most every
 * VV_LAG_STEP_NS, and when all places are taken each two become one and the step is doubled. The answer is
 * exact to a step, which is small against a lag that needs it doubled.
 *
 * Not thread-safe.
 */
#ifndef VV_RPC_LAG_CLOCK_H
#define VV_RPC_LAG_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define VV_LAG_SAMPLES 64
#define VV_LAG_STEP_NS UINT64_C(5000000)

typedef struct vv_lag_clock {
    struct {
        uint64_t lsn, at_ns;
    } samples[VV_LAG_SAMPLES]; /* both ascending */
    size_t count;
    uint64_t step_ns;
    uint64_t applied_lsn;
} vv_lag_clock;

/* Everything is applied as far as it was heard of. */
void vv_lag_clock_init(vv_lag_clock *c, uint64_t applied_lsn);
/* The primary is at lsn, at the time now_ns. */
void vv_lag_clock_heard(vv_lag_clock *c, uint64_t lsn, uint64_t now_ns);
void vv_lag_clock_applied(vv_lag_clock *c, uint64_t lsn);
/* When the first LSN that is not applied yet was heard of; 0: all are. */
uint64_t vv_lag_clock_behind_since(const vv_lag_clock *c);

#endif
