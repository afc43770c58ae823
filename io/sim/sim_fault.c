/*
 * sim_fault.c - which faults there are, which operations they fit, and a plan of them by seed.
 */
#include "base/assert.h"
#include "io/sim/sim_impl.h"

const char *vv_sim_op_name(vv_sim_op op) {
    static const char *const names[] = {
#define X(name, text) text,
        VV_SIM_OPS(X)
#undef X
    };
    return op < VV_SIM_OP_COUNT ? names[op] : "?";
}

const char *vv_sim_fault_name(vv_sim_fault fault) {
    static const char *const names[] = {
#define X(name, text) text,
        VV_SIM_FAULTS(X)
#undef X
    };
    return fault < VV_SIM_FAULT_COUNT ? names[fault] : "?";
}

bool vv_sim_fault_fits(vv_sim_fault fault, vv_sim_op op) {
    switch (fault) {
    case VV_SIM_FAULT_NONE: return false;
    case VV_SIM_FAULT_EIO:
    case VV_SIM_FAULT_LATENCY: return true;
    case VV_SIM_FAULT_ENOSPC:
        return op == VV_SIM_CREATE || op == VV_SIM_WRITE || op == VV_SIM_SYNC || op == VV_SIM_ALLOCATE ||
               op == VV_SIM_RENAME || op == VV_SIM_LINK || op == VV_SIM_MKDIR || op == VV_SIM_DIR_SYNC;
    case VV_SIM_FAULT_PARTIAL:
    case VV_SIM_FAULT_MISDIRECTED:
    case VV_SIM_FAULT_LOST_WRITE: return op == VV_SIM_WRITE;
    case VV_SIM_FAULT_SHORT: return op == VV_SIM_WRITE || op == VV_SIM_READ;
    case VV_SIM_FAULT_EINTR: return op == VV_SIM_WRITE || op == VV_SIM_READ || op == VV_SIM_ALLOCATE;
    case VV_SIM_FAULT_BIT_FLIP: return op == VV_SIM_READ;
    case VV_SIM_FAULT_COUNT: break;
    }
    return false;
}

vv_sim_fault vv_sim_plan_fault(void *arg, const vv_sim_event *e) {
    const vv_sim_plan *p = arg;
    if (e->number < p->from_event || (p->to_event && e->number >= p->to_event))
        return VV_SIM_FAULT_NONE;
    uint64_t at = vv_sim_mix(p->seed, e->number, (uint64_t)e->op) % 1000000;
    for (vv_sim_fault f = VV_SIM_FAULT_NONE + 1; f < VV_SIM_FAULT_COUNT; f++) {
        if (!vv_sim_fault_fits(f, e->op))
            continue;
        if (at < p->per_million[f])
            return f;
        at -= p->per_million[f];
    }
    return VV_SIM_FAULT_NONE;
}
