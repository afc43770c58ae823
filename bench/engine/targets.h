/*
 * targets.h - what Varve is to reach in relation to its peers, in one run.
 */
#ifndef VV_BENCH_TARGETS_H
#define VV_BENCH_TARGETS_H

#include <stddef.h>

typedef struct target {
    const char *work;
    int threads;
    const char *metric; /* NULL: the workload's main one */
    const char *peer;   /* NULL: the figure itself, no relation */
    double ratio;       /* at least, or at most where less is better */
} target;

/* 0: there is none. */
double target_of(const char *work, int threads, const char *metric, const char *peer);

#endif
