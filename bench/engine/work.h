/*
 * work.h - the workloads by name, and what each needs.
 *
 * A workload runs on data: a set that all stores are given before its first round, and keep until the next
 * workload wants another. Its turn() is one store's part of one round; it adds one figure to each of the
 * workload's metrics.
 */
#ifndef VV_BENCH_WORK_H
#define VV_BENCH_WORK_H

#include "bench/engine/drive.h"
#include "bench/report.h"

typedef struct work_set {
    const char *what;
    uint64_t keys; /* loaded beforehand */
    size_t value_bytes;
    uint64_t memtable_bytes;
    uint64_t cache_bytes;
    bool durable;
    bool ascending; /* keys in the order of their numbers, loaded in that order */
    bool compacted; /* all in one sorted run, and opened again, with every key read once */
    bool cold;      /* files beside the page cache where the store can, and in no cache before each turn */
} work_set;

/* How long and how much, from the command line. */
typedef struct work_options {
    double seconds;  /* of a turn */
    uint64_t shrink; /* keys and operations are divided by this: --quick */
} work_options;

#define WORK_METRICS_MAX 4

typedef struct work_metric {
    const char *name; /* NULL: the workload's only or main one; else it is appended to its name */
    const char *unit;
    bool less_is_better;
} work_metric;

/* What data->picks are. */
typedef enum work_picks {
    PICKS_NONE,
    PICKS_ZIPF,      /* popular entries are anywhere */
    PICKS_ZIPF_RANKS /* the most popular one is 0, and so on */
} work_picks;

typedef struct work work;

/* d->s is open for workloads with a set; else NULL, and `kind` says whose turn it is. sides: one for each
 * metric. */
typedef void (*work_turn)(const work *w, const store_kind *kind, drive_data *d, const work_options *o,
                          uint64_t seed, report_side *const *sides);

struct work {
    const char *name;
    int threads;
    const char *what;
    const work_set *set; /* NULL: turn() sees to everything */
    work_turn turn;
    drive_group group;      /* of work_turn_simple(): for all stores... */
    drive_group peer_group; /* ...or for those without callbacks, if it has an op */
    unsigned needs;         /* store_ability */
    work_picks picks;
    bool writes;     /* stores are left to settle after a turn */
    bool on_request; /* not among those that run without being named */
    work_metric metrics[WORK_METRICS_MAX];
};

/* NULL names behind the last. In the order in which they run. */
extern const work works[];

/* One group of threads; its rate, and its latencies. */
void work_turn_simple(const work *w, const store_kind *kind, drive_data *d, const work_options *o,
                      uint64_t seed, report_side *const *sides);

/* Entries first to first + count - 1, in batches. */
void work_load(drive_data *d, uint64_t first, uint64_t count);

/* work_put.c, work_get.c, work_mixed.c */
void op_put_ascending(drive_thread *t);
void op_put_random(drive_thread *t);
void op_put_async(drive_thread *t);
void op_put_burst(drive_thread *t);
void op_put_batch(drive_thread *t);
void op_delete_ascending(drive_thread *t);
void op_get(drive_thread *t);
void op_get_missing(drive_thread *t);
void op_get_async(drive_thread *t);
void op_scan(drive_thread *t);
void op_mixed(drive_thread *t);
void op_overwrite(drive_thread *t);
void op_ycsb_a(drive_thread *t);
void op_ycsb_b(drive_thread *t);
void op_ycsb_c(drive_thread *t);
void op_ycsb_d(drive_thread *t);
void op_ycsb_e(drive_thread *t);
void op_ycsb_f(drive_thread *t);

void turn_read_while_writing(const work *w, const store_kind *kind, drive_data *d, const work_options *o,
                             uint64_t seed, report_side *const *sides);
void turn_get_cold(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
                   report_side *const *sides);
/* work_whole.c */
void turn_fill(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
               report_side *const *sides);
void turn_recovery(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
                   report_side *const *sides);
void turn_keys(const work *w, const store_kind *kind, drive_data *d, const work_options *o, uint64_t seed,
               report_side *const *sides);

/* The other half of workloads that need a process of their own: main() for `--child`. Returns the exit code.
 */
int work_child(int argc, char **argv);

/* Settings of a set for a store in dir; data_bytes_max leaves room for what is put on top of it. */
store_config work_config(const work_set *set, const char *dir, uint64_t shrink);

#endif
