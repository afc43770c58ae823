/*
 * flow.h - how much writers are slowed, so that flushes and merges keep up with them.
 *
 * Pressure says how far behind they are: 0, nothing to do about it, to VV_FLOW_FULL, at the limit. It is the
 * highest of
 *
 *   memory   memtables that wait for their flush, the share of the active one that is full included: from
 *            half of MAX_IMMUTABLE_COUNT to all of it (behind which a writer has to wait for a flush);
 *   runs     in level 0, each of which a read may have to look into: from 2 to 5 times COMPACTION_THRESHOLD;
 *   debt     bytes that wait to be merged: from a quarter of the limit to the limit.
 *
 * The allowed rate halves with each tenth of the pressure, from VV_FLOW_RATE_MAX memtables a second to a
 * 1024th of that. In memtables, because all three grow by memtables. With MAX_IMMUTABLE_COUNT 4, and whatever
 * MEMTABLE_SIZE, seven seconds pass between the first delay and the limit even if not a single flush ends
 * meanwhile: writers settle at the rate of what is slowest behind them, and meet no limit at full speed.
 *
 * Pure functions: no state, no clock.
 */
#ifndef VV_ENGINE_DB_FLOW_H
#define VV_ENGINE_DB_FLOW_H

#include <stdint.h>

#define VV_FLOW_FULL     1000u
#define VV_FLOW_RATE_MAX 64u /* memtables a second just above pressure 0 */

/* A single write, however large, causes no longer pause than this. */
#define VV_FLOW_DELAY_US_MAX 20000u

typedef struct vv_flow_inputs {
    uint32_t sealed_count;
    uint32_t sealed_max;     /* MAX_IMMUTABLE_COUNT, at least 1 */
    uint64_t active_bytes;   /* in the active memtable */
    uint64_t memtable_bytes; /* MEMTABLE_SIZE, not 0 */
    uint32_t level0_runs;
    uint32_t run_threshold;    /* COMPACTION_THRESHOLD, at least 1 */
    uint64_t debt_bytes;       /* waiting to be merged */
    uint64_t debt_limit_bytes; /* 0: no limit */
} vv_flow_inputs;

/* 0 to VV_FLOW_FULL. */
uint32_t vv_flow_pressure(const vv_flow_inputs *in);

/* How long the writer rests after `bytes`, in nanoseconds: many writes are too small for a microsecond each.
 * At most VV_FLOW_DELAY_US_MAX; 0 without pressure. */
uint64_t vv_flow_delay_ns(uint32_t pressure, uint64_t bytes, uint64_t memtable_bytes);

#endif
