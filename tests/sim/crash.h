/*
 * crash.h - run a workload once, cut the power after every single I/O of it, and look at what each cut
 * leaves.
 *
 * The run itself is never stopped: after each event of the simulated disk the power cut's images are taken, a
 * pointer for each page, together with what was acknowledged and told by then. When the run is over, each
 * image is opened and compared with the model; and each of these recoveries is a run of its own, after whose
 * events images are taken in turn, so that a crash of a recovery is recovered from, too.
 */
#ifndef VV_TESTS_SIM_CRASH_H
#define VV_TESTS_SIM_CRASH_H

#include "tests/sim/world.h"

typedef struct sim_crash_totals {
    uint64_t events;          /* of the run: each is a crash point */
    uint64_t images;          /* recovered from */
    uint64_t recovery_events; /* crash points in recoveries */
    uint64_t recovery_images; /* recovered from */
    uint64_t trace_hash;      /* of all of it: the same seed gives the same */
} sim_crash_totals;

/*
 * Fails the test with the command that repeats it if any image is wrong. stride: every stride-th image has
 * its recovery crashed after each event; the others are recovered from once.
 */
sim_crash_totals sim_crash_everywhere(const sim_workload *workload, uint64_t seed, uint32_t stride);

#endif
