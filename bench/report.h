/*
 * report.h - figures of several rounds, and what a line about them looks like.
 *
 * The machine is noisy: a benchmark runs its sides in turn, several rounds, and quotes medians with their
 * spread; only ratios between sides of one run mean something.
 */
#ifndef VV_BENCH_REPORT_H
#define VV_BENCH_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"

#define REPORT_ROUNDS_MAX 64

/* One side of a benchmark. */
typedef struct report_side {
    const char *name;
    double rates[REPORT_ROUNDS_MAX]; /* one figure a round, in `unit` */
    size_t rounds;
    double cpu_us[REPORT_ROUNDS_MAX]; /* processor time an operation: what load of others hardly changes */
    size_t cpu_rounds;                /* 0: not measured */
    vv_histogram latency_ns;          /* over all rounds; empty: not measured */
    /* For report_json(); "" and 0 if it says nothing of them. */
    const char *workload;
    const char *store;
    const char *unit; /* "ops/s" unless set */
    int threads;
} report_side;

void report_side_init(report_side *s, const char *name);
void report_add_rate(report_side *s, double rate);
void report_add_cpu(report_side *s, double us);
double report_median(const report_side *s);

/* "name   33120   (31002 - 34010)   p50 29.1  p99 61.0  p99.9 110.2 us   cpu 3.1 us". */
void report_header(const char *title);
void report_line(const report_side *s);

/* "a : b  =  0.92" with what was expected at least (0: nothing). */
void report_ratio(const report_side *a, const report_side *b, double at_least);
/* The same where less is better. */
void report_ratio_at_most(const report_side *a, const report_side *b, double at_most);

/* Machine, kernel, load and time, so that a figure can be placed. */
void report_machine(void);

/*
 * All of a run as one JSON object in the file at `path`, for plots:
 *
 *   {"machine": {...}, "commit": "...", "settings": {...}, "runs": [{"workload": "GetSSTable", "threads": 1,
 *    "store": "varve", "unit": "ops/s", "rounds": [...], "median": ..., "cpu_us": ...,
 *    "latency_us": {"p50": ..., "p90": ..., "p99": ..., "p999": ..., "max": ...}}]}
 *
 * settings: the members of that object, as JSON without the braces. Sides without rounds are left out, and
 * cpu_us (the median of processor time an operation) and latency_us where they were not measured.
 */
void report_json(const char *path, const char *settings, const report_side *const *sides, size_t count);

/* A fresh directory beside the benchmark's own binary, so that it is on the same disk; and its removal. */
const char *report_dir_create(void);
void report_dir_remove(void);
/* That directory. */
const char *report_work_dir(void);

/* Remove a directory and all in it. */
void report_tree_remove(const char *path);

/* The folder of the running program. */
const char *report_bin_dir(void);

/* End the program with a message; removes the directory. */
void report_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
