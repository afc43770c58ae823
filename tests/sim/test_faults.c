/*
 * Each single I/O of small workloads fails in each way that it can.
 *
 *     VARVE_TEST_SEED      replays a run
 *     VARVE_SIM_STRIDE     every n-th fault; 1: each, the long mode
 *     VARVE_SIM_EVENT      this event alone
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/fail.h"
#include "tests/sim/workloads.h"
#include "tests/support/tempdir.h"

TestSuite(faults, .timeout = 36000);

static void check(const sim_workload *workload, uint32_t stride) {
    const char *wanted = getenv("VARVE_SIM_STRIDE");
    sim_fail_totals t =
        sim_fail_everywhere(workload, vv_test_seed(), wanted ? (uint32_t)atoi(wanted) : stride);
    fprintf(stderr, "%s: %" PRIu64 " events;", workload->name, t.events);
    for (vv_sim_fault f = 1; f < VV_SIM_FAULT_COUNT; f++)
        if (t.faults[f])
            fprintf(stderr, " %" PRIu64 " %s", t.faults[f], vv_sim_fault_name(f));
    fprintf(stderr, "\n");
    cr_assert_gt(t.faults[VV_SIM_FAULT_EIO], 0u);
}

#define X(name, recovery_stride, fault_stride)                                                               \
    Test(faults, name) {                                                                                     \
        check(&sim_workload_##name, fault_stride);                                                           \
    }
SIM_WORKLOADS(X)
#undef X
