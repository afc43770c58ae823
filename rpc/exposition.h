/*
 * exposition.h - text that grows, and numbers in it as Prometheus reads them (text format 0.0.4).
 *
 *     vv_exposition_family(&e, "varve_flushes_total", "counter", "Memtables written to tables.");
 *     vv_exposition_number(&e, NULL, 0, 12);
 *
 *     # HELP varve_flushes_total Memtables written to tables.
 *     # TYPE varve_flushes_total counter
 *     varve_flushes_total 12
 *
 * A text for which there is no memory is marked as failed and gets no longer; so nobody looks before the end.
 */
#ifndef VV_RPC_EXPOSITION_H
#define VV_RPC_EXPOSITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/spread.h"

typedef struct vv_exposition {
    char *text; /* with a zero at its end; NULL: nothing yet */
    size_t bytes, capacity;
    bool failed;
    const char *family; /* borrowed */
} vv_exposition;

typedef struct vv_label {
    const char *name;
    const char *value; /* any bytes but zero; escaped */
} vv_label;

/* A zeroed one is empty. */
void vv_exposition_deinit(vv_exposition *e);

/* Text as it is. */
void vv_exposition_add(vv_exposition *e, const char *fmt, ...) VV_PRINTF(2, 3);

/* What follows is of this metric. All of its samples follow before the next. Names are literals. */
void vv_exposition_family(vv_exposition *e, const char *name, const char *type, const char *help);

/* One sample of it. An integer above 2^53 is given as it is, though its reader may round it. */
void vv_exposition_number(vv_exposition *e, const vv_label *labels, size_t count, uint64_t value);
void vv_exposition_real(vv_exposition *e, const vv_label *labels, size_t count, double value);

/* A histogram: buckets to 2^least, 2^(least + 1) ... 2^most, all and sum. unit: what 1 is in the metric's
 * unit. */
void vv_exposition_spread(vv_exposition *e, const vv_label *labels, size_t count,
                          const vv_spread_copy *spread, uint32_t least, uint32_t most, double unit);

/* A string of JSON, with its quotes. */
void vv_exposition_json_text(vv_exposition *e, const char *text);

#endif
