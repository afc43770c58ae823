/*
 * workloads.h - the small workloads that are crashed and failed at every I/O.
 */
#ifndef VV_TESTS_SIM_WORKLOADS_H
#define VV_TESTS_SIM_WORKLOADS_H

#include "tests/sim/world.h"

/* name, which of `stride` recoveries is crashed in the short mode, and which of the faults. */
#define SIM_WORKLOADS(X)                                                                                     \
    X(writes, 183, 5)                                                                                        \
    X(batches_and_async, 123, 5)                                                                             \
    X(flushes, 291, 7)                                                                                       \
    X(leveled_merges, 393, 11)                                                                               \
    X(tiered_merges, 393, 11)                                                                                \
    X(recycled_segments, 1803, 31)                                                                           \
    X(expiry, 291, 7)                                                                                        \
    X(manifest_changes, 183, 5)                                                                              \
    X(snapshot_export, 453, 11)                                                                              \
    X(rewind, 393, 11)                                                                                       \
    X(install, 453, 11)                                                                                      \
    X(import, 453, 11)                                                                                       \
    X(restore, 453, 11)

#define X(name, recovery_stride, fault_stride) extern const sim_workload sim_workload_##name;
SIM_WORKLOADS(X)
#undef X

#endif
