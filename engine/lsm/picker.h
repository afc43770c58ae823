/*
 * picker.h - which tables to merge next, and to where. Pure functions on a version: no I/O, no locks.
 *
 * Tiered     A level takes up to `threshold` sorted runs; then all of them are merged into one run of the
 * next level. In the last level they become one run of that level. Writes each byte about once a level; a
 * read may have to look into (threshold - 1) runs a level. Leveled    Level 0 takes up to `threshold` flushed
 * runs; every other level is one run, whose size may be `ratio` times that of the level above. What is too
 * large gives the tables that are too much, one or some at a time, with all that they overlap, to the next
 * level; those that overlap nothing are not even read. Writes each byte about ratio / 2 times a level;
 * a read looks into one table a level.
 *
 * Bursts      A leveled merge rewrites what it meets, however little it brings: the more gathers before, the
 * less is written. While flushes follow each other closely level 0 is merged at half as many runs more, and
 * the other levels may be twice their size. And while level 2 is not much larger than what comes from level
 * 0, all goes through level 1 to level 2 at once. 2 GB of 1 KiB values, written at full speed in random
 * order, are so written 2.6 times by merges instead of 4 to 5.6 times.
 *
 * Tombstones  A deleted key costs every cursor that passes it, and a queue leaves nothing else behind: what
 * is mostly tombstones is merged before its size asks for it, where that costs little for each of them, and
 * only if nobody needs them any more. This ends: such a merge moves them a level down, or, in the last level,
 * drops them all.
 *
 * Damage      What can't be read can't be merged, and no merge may take newer runs past it, to a level behind
 * it, nor older ones before it. So while there is such a table, the runs between two of them, or before and
 * behind, are only merged among each other, in their place, where some of about the same size follow each
 * other: reads stay bounded and writers are not slowed. `compact` still tries everything, and the shape is
 * made good once the table is replaced.
 *
 * The shapes follow P. O'Neil et al., "The Log-Structured Merge-Tree", Acta Informatica 33 (1996), in the
 * forms that Cassandra (size-tiered) and LevelDB (leveled) made common.
 */
#ifndef VV_ENGINE_LSM_PICKER_H
#define VV_ENGINE_LSM_PICKER_H

#include "engine/lsm/version.h"

typedef enum vv_compaction_style { VV_COMPACTION_TIERED, VV_COMPACTION_LEVELED } vv_compaction_style;

#define VV_LEVELS_MAX 16

typedef struct vv_picker_options {
    vv_compaction_style style;
    uint32_t levels;       /* LSM_LEVELS, 2 to VV_LEVELS_MAX */
    uint32_t threshold;    /* COMPACTION_THRESHOLD, at least 2 */
    bool burst;            /* leveled: flushes follow each other closely, see above */
    uint64_t level1_bytes; /* leveled: of level 1; each further level has `ratio` times as much */
    uint32_t ratio;
    /* Tombstones up to here may be dropped at the bottom: no snapshot is older, all readers see them, and the
     * safe compaction LSN allows it. 0: none. */
    uint64_t drop_lsn;
} vv_picker_options;

/* What to do: merge `inputs` into tables of one run. Deinit releases the references. */
typedef struct vv_compaction_plan {
    vv_table **inputs; /* a reference each; in run order */
    size_t input_count;
    uint32_t output_level;
    /* Run number of the outputs; 0: a new one, newer than all runs of the level. */
    uint64_t output_run;
    /* No table outside the inputs that is older than they are overlaps their keys: nothing can resurface. */
    bool bottom;
    /* The inputs go there as they are: they overlap nothing there, nor each other, and a merge would drop
     * nothing that is known of. */
    bool move;
    uint64_t input_bytes;
} vv_compaction_plan;

void vv_compaction_plan_deinit(vv_compaction_plan *plan);

/*
 * Choose the most urgent merge. *found_out false: nothing to do. NO_MEMORY.
 * cursor_keys: leveled only; for each level, the last key that was compacted out of it, so that merges go
 * round the key space; owned by the caller, updated by vv_picker_advance().
 */
typedef struct vv_picker_cursor {
    uint8_t *key;
    size_t key_bytes;
} vv_picker_cursor;

vv_status vv_pick(const vv_version *version, const vv_picker_options *o,
                  const vv_picker_cursor cursors[VV_LEVELS_MAX], vv_compaction_plan *out,
                  bool *found_out) VV_CHECKED;

/* Everything into the last level: what `compact` asks for. */
vv_status vv_pick_all(const vv_version *version, const vv_picker_options *o, vv_compaction_plan *out,
                      bool *found_out) VV_CHECKED;

/* Remember where a leveled merge out of `level` ended. */
void vv_picker_advance(vv_picker_cursor cursors[VV_LEVELS_MAX], uint32_t level,
                       const vv_compaction_plan *plan);

/* Bytes that wait to be merged, by the rules above; 0 when the shape is as it should be. */
uint64_t vv_compaction_debt_bytes(const vv_version *version, const vv_picker_options *o);

#endif
