#include "engine/db/gather.h"

#include "base/assert.h"

#define AVERAGE_OF 8

void vv_gather_committed(vv_gather *g, uint32_t answered, uint32_t queued, uint64_t commit_ns) {
    uint64_t others = g->commit_ns - g->commit_ns / AVERAGE_OF;
    g->commit_ns = g->commit_ns == 0 ? commit_ns : others + commit_ns / AVERAGE_OF;
    g->wanted = 0;
    if (answered == 0 || answered + queued < 2 || answered + queued > VV_GATHER_COUNT_MAX)
        return;
    if (g->skip > 0)
        g->skip--;
    else
        g->wanted = answered + queued;
}

uint64_t vv_gather_wait_ns(const vv_gather *g) {
    return VV_MIN(g->commit_ns, VV_GATHER_NS_MAX);
}

void vv_gather_done(vv_gather *g, uint32_t queued) {
    if (queued >= g->wanted) {
        g->skip_next = 0;
    } else {
        g->skip_next = g->skip_next == 0 ? 1 : VV_MIN(2 * g->skip_next, VV_GATHER_SKIP_MAX);
        g->skip = g->skip_next;
    }
    g->wanted = 0;
}
