/*
 * progress.h - how far a long command is, as a line on stderr that is written over and over. Elsewhere than
 * on a terminal it is a line now and then, or nothing.
 */
#ifndef VV_CLI_PROGRESS_H
#define VV_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/varve.h"

/* The caller's. */
typedef struct vv_progress {
    FILE *out;
    bool terminal;
    uint64_t plain_ns; /* a line so often where there is no terminal; 0: none. The caller's to set */
    const char *name;
    uint64_t started_ns;
    uint64_t shown_ns;
    uint64_t first_bytes; /* that were done when it began to be shown */
    bool shown;
} vv_progress;

/* name is borrowed. */
void vv_progress_begin(vv_progress *p, FILE *out, const char *name);

/* A varve_progress_fn, with a vv_progress as arg; always true. total_bytes 0: not known. */
bool vv_progress_show(void *arg, uint64_t done_bytes, uint64_t total_bytes);

/* The line is gone, so that the answer or what failed stands in its place. */
void vv_progress_end(vv_progress *p);

/* "3.4 GiB" */
void vv_progress_bytes(char *buf, size_t buf_bytes, double bytes);

/* The line without its terminal's codes, into buf: for progress.c and its test. A rate of 0 is not known. */
void vv_progress_text(char *buf, size_t buf_bytes, const char *name, uint64_t done_bytes,
                      uint64_t total_bytes, double bytes_per_second);

#endif
