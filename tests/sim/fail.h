/*
 * fail.h - run a workload again and again, each time with another single I/O failing.
 *
 * A run without failures tells what the events are. Then, for each event and each fault that makes sense for
 * it, the run is repeated up to there, by the same seed, and that event has that fault. What goes on
 * afterwards is the workload's own; calls may fail as their comments in varve.h say. In the end everything
 * that can be read is compared with the model; the power is cut before the database is closed, and the image
 * recovered from without failures. Then each event of an opening after such a cut fails in the same way, and
 * the next opening must find everything.
 */
#ifndef VV_TESTS_SIM_FAIL_H
#define VV_TESTS_SIM_FAIL_H

#include "tests/sim/world.h"

typedef struct sim_fail_totals {
    uint64_t events;                     /* of the run and of an opening */
    uint64_t faults[VV_SIM_FAULT_COUNT]; /* runs with each */
} sim_fail_totals;

/* Fails the test with the command that repeats it. stride: every stride-th of the faults. */
sim_fail_totals sim_fail_everywhere(const sim_workload *workload, uint64_t seed, uint32_t stride);

#endif
