/*
 * report.h - figures of several rounds, and what a line about them looks like.
 *
 * The machine is noisy: a benchmark runs its sides in turn, several rounds, and quotes medians with their
 * spread; only ratios between sides of one run mean something.
 */
#ifndef VV_BENCH_REPORT_H
#define VV_BENCH_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"

#define REPORT_ROUNDS_MAX 64

/* One side of a benchmark. */
typedef struct report_side {
    const char *name;
    double rates[REPORT_ROUNDS_MAX]; /* operations a second, a round each */
    size_t rounds;
    vv_histogram latency_ns; /* over all rounds; empty: not measured */
} report_side;

void report_side_init(report_side *s, const char *name);
void report_add_rate(report_side *s, double rate);
double report_median(const report_side *s);

/* "name   33,120 /s  (31,002 - 34,010)   p50 29.1  p99 61.0  p99.9 110.2 us". */
void report_header(const char *title);
void report_line(const report_side *s);

/* "a : b  =  0.92" with what was expected at least (0: nothing). */
void report_ratio(const report_side *a, const report_side *b, double at_least);

/* Machine, kernel and time, so that a figure can be placed. */
void report_machine(void);

/* A fresh directory beside the benchmark's own binary, so that it is on the same disk; and its removal. */
const char *report_dir_create(void);
void report_dir_remove(void);

/* The folder of the running program. */
const char *report_bin_dir(void);

/* End the program with a message; removes the directory. */
void report_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
