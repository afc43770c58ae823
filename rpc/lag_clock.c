#include "rpc/lag_clock.h"

#include <string.h>

void vv_lag_clock_init(vv_lag_clock *c, uint64_t applied_lsn) {
    *c = (vv_lag_clock){.step_ns = VV_LAG_STEP_NS, .applied_lsn = applied_lsn};
}

/* Two become one, with the time of the older: a lag may be told too long by a step, never too short. */
static void thin(vv_lag_clock *c) {
    for (size_t i = 0; 2 * i < c->count; i++) {
        size_t newer = 2 * i + 1 < c->count ? 2 * i + 1 : 2 * i;
        c->samples[i].at_ns = c->samples[2 * i].at_ns;
        c->samples[i].lsn = c->samples[newer].lsn;
    }
    c->count = (c->count + 1) / 2;
    c->step_ns *= 2;
}

void vv_lag_clock_heard(vv_lag_clock *c, uint64_t lsn, uint64_t now_ns) {
    if (lsn <= c->applied_lsn)
        return;
    if (c->count > 0) {
        uint64_t *newest = &c->samples[c->count - 1].lsn;
        if (lsn <= *newest)
            return;
        if (now_ns < c->samples[c->count - 1].at_ns + c->step_ns) {
            *newest = lsn;
            return;
        }
    }
    if (c->count == VV_LAG_SAMPLES)
        thin(c);
    c->samples[c->count].lsn = lsn;
    c->samples[c->count].at_ns = now_ns;
    c->count++;
}

void vv_lag_clock_applied(vv_lag_clock *c, uint64_t lsn) {
    if (lsn > c->applied_lsn)
        c->applied_lsn = lsn;
    size_t done = 0;
    while (done < c->count && c->samples[done].lsn <= c->applied_lsn)
        done++;
    c->count -= done;
    memmove(c->samples, c->samples + done, c->count * sizeof c->samples[0]);
    if (c->count < VV_LAG_SAMPLES / 4 && c->step_ns > VV_LAG_STEP_NS)
        c->step_ns /= 2; /* there is room for a finer one again */
}

uint64_t vv_lag_clock_behind_since(const vv_lag_clock *c) {
    return c->count > 0 ? c->samples[0].at_ns : 0;
}
