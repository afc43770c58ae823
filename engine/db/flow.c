#include "engine/db/flow.h"

#include "base/assert.h"
#include "base/clock.h"

#define STEP (VV_FLOW_FULL / 10) /* of pressure; each halves the rate */

/* How far `x` is between `low` and `high`. In double: bytes may be any 64 bits. */
static uint32_t between(double x, double low, double high) {
    if (x <= low)
        return 0;
    if (x >= high)
        return VV_FLOW_FULL;
    return (uint32_t)((x - low) / (high - low) * VV_FLOW_FULL);
}

static uint32_t memory_pressure(const vv_flow_inputs *in) {
    double half = VV_MAX(in->sealed_max / 2, 1u);
    /* The active memtable goes beyond its size by the last group; it counts as one all the same. */
    double active = VV_MIN((double)in->active_bytes / (double)in->memtable_bytes, 1.0);
    return between(in->sealed_count + active, half, (double)in->sealed_max + 1);
}

uint32_t vv_flow_pressure(const vv_flow_inputs *in) {
    VV_ASSERT(in->sealed_max > 0 && in->memtable_bytes > 0 && in->run_threshold > 0);
    uint32_t memory = memory_pressure(in);
    uint32_t runs = between(in->level0_runs, 2.0 * in->run_threshold, 5.0 * in->run_threshold);
    uint32_t debt = 0;
    if (in->debt_limit_bytes > 0)
        debt =
            between((double)in->debt_bytes, (double)in->debt_limit_bytes / 4, (double)in->debt_limit_bytes);
    return VV_MAX(VV_MAX(memory, runs), debt);
}

uint64_t vv_flow_delay_ns(uint32_t pressure, uint64_t bytes, uint64_t memtable_bytes) {
    const uint64_t max_ns = VV_FLOW_DELAY_US_MAX * VV_NS_PER_US;
    if (pressure == 0)
        return 0;
    pressure = VV_MIN(pressure, VV_FLOW_FULL);
    /* A power of two for each whole step, a straight line between them. */
    double factor = (double)(1u << (pressure / STEP)) * (1.0 + (double)(pressure % STEP) / STEP);
    double ns = (double)bytes / (double)memtable_bytes * ((double)VV_NS_PER_S / VV_FLOW_RATE_MAX) * factor;
    return ns >= (double)max_ns ? max_ns : (uint64_t)ns;
}
