/*
 * drive.h - threads that do one operation over and over on one store, and what they saw.
 *
 * Closed loop: each thread begins an operation when the one before is done; that measures what a store can
 * do. Open loop, with a rate: operations are due at fixed times, and a latency counts from when its operation
 * was due, so that what waits behind a slow one counts as slow too (G. Tene's "coordinated omission").
 */
#ifndef VV_BENCH_DRIVE_H
#define VV_BENCH_DRIVE_H

#include <pthread.h>
#include <stdatomic.h>

#include "bench/engine/store.h"

typedef struct drive_thread drive_thread;
typedef void (*drive_op)(drive_thread *t);

/* What operations work on: one for each store, kept over all rounds. */
typedef struct drive_data {
    store *s;
    uint64_t keys; /* entries 0 to keys - 1 are there */
    size_t value_bytes;
    bool ascending;          /* workload_key_ascending() made their keys */
    _Atomic uint64_t added;  /* entries behind `keys` that workloads have begun to add */
    _Atomic uint64_t passed; /* by workloads that go through the keys in order */
    const uint32_t *picks;   /* workload_zipf() over the keys; NULL if the workload has no use for it */
} drive_data;

/* Threads that do the same. */
typedef struct drive_group {
    drive_op op;
    int threads;
    size_t depth;    /* > 0: op() begins asynchronous operations, so many under way a thread */
    bool burst;      /* with depth: op() waits for what it began, and is timed as any other */
    uint64_t ops;    /* all threads together end after so many; 0: after `seconds` */
    double rate;     /* > 0: open loop, so many a second by all threads together */
    unsigned sample; /* look at the clock and record a latency every so many operations; 0 and 1: each */
} drive_group;

struct drive_thread {
    const store_kind *kind;
    store_session *session;
    drive_data *data;
    const drive_group *group;
    uint64_t random; /* state of workload_random() */
    uint64_t turn;   /* operations so far in this round */
    uint64_t pick;   /* place in data->picks */
    uint64_t moves;  /* what one op() counts as; 1 unless it sets it */
    char *value;     /* data->value_bytes to write */
    store_entry *entries;
    /* The driver's own. */
    pthread_t thread;
    _Atomic uint32_t *go;
    uint64_t deadline_ns;
    uint64_t ops_max;
    uint64_t start_ns; /* of the round */
    uint64_t end_ns;
    vv_histogram latency_ns;
};

#define DRIVE_ENTRIES_MAX 1024 /* room in `entries` */

typedef struct drive_result {
    double rate;   /* operations a second */
    double cpu_us; /* of the whole process, for an operation of any group */
    uint64_t ops;
    vv_histogram latency_ns;
} drive_result;

/* Let all groups work at once: each for `seconds` or its operations. seed: the same for all stores of a
 * round. */
void drive_run(drive_data *data, const drive_group *groups, size_t group_count, double seconds, uint64_t seed,
               drive_result *results_out);

#endif
