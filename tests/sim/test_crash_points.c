/*
 * The power is cut after every single I/O of small workloads, and again after every I/O of the recoveries.
 *
 *     VARVE_TEST_SEED      replays a run
 *     VARVE_SIM_STRIDE     every n-th recovery is crashed, too; 1: each, the long mode
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/crash.h"
#include "tests/sim/workloads.h"
#include "tests/support/tempdir.h"

TestSuite(crash_points, .timeout = 36000);

static void check(const sim_workload *workload, uint32_t stride) {
    const char *wanted = getenv("VARVE_SIM_STRIDE");
    sim_crash_totals t =
        sim_crash_everywhere(workload, vv_test_seed(), wanted ? (uint32_t)atoi(wanted) : stride);
    fprintf(stderr,
            "%s: %" PRIu64 " crash points, %" PRIu64 " images; in recoveries %" PRIu64
            " crash points, %" PRIu64 " images; trace %016" PRIx64 "\n",
            workload->name, t.events, t.images, t.recovery_events, t.recovery_images, t.trace_hash);
    cr_assert_gt(t.events, 10u);
}

#define X(name, recovery_stride, fault_stride)                                                               \
    Test(crash_points, name) {                                                                               \
        check(&sim_workload_##name, recovery_stride);                                                        \
    }
SIM_WORKLOADS(X)
#undef X
