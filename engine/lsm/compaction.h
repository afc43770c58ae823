/*
 * compaction.h - one merge: tables in, tables of one run out.
 *
 * What is dropped, and why it may be:
 *   - a version that a newer version of the key hides from every snapshot and from the present. Behind the
 *     present (the newest LSN that readers see) each version stays: readers may come to any of them;
 *   - a tombstone, and an expired entry, once nothing older can resurface: no snapshot is older, the merge is
 * at the bottom, and the safe compaction LSN allows it. The gate, from the distribution layer's design:
 *         bottom && (safe_lsn == 0 || (batch_max_lsn > 0 && batch_max_lsn <= safe_lsn))
 *     An expired entry that must stay becomes a tombstone: its value is reclaimed, what it hides stays
 * hidden.
 */
#ifndef VV_ENGINE_LSM_COMPACTION_H
#define VV_ENGINE_LSM_COMPACTION_H

#include "engine/lsm/picker.h"
#include "engine/sst/table_cache.h"

typedef struct vv_compaction_options {
    vv_io_queue *queue; /* the calling thread's: reads and writes go through it; pool as for flushes */
    vv_table_cache *tables;
    vv_sst_writer_options writer; /* path, file_number and queue are filled in */
    const char *dir;
    /* What all inputs together may take for reading ahead. Those of one run are read one after the other;
     * each run gets an equal share, but at least VV_SST_SCAN_BYTES_MIN, which it can't do without. */
    uint64_t read_bytes_max;
    _Atomic uint64_t *memory_bytes; /* NULL, or a gauge of what they do take */
    uint64_t output_bytes;          /* an output is closed at the first key behind this size */
    const uint64_t *snapshots;      /* ascending */
    size_t snapshot_count;
    uint64_t hidden_from_lsn; /* readers don't see this LSN and what is behind it yet; 0: they see all */
    uint64_t safe_lsn;        /* 0: no gate */
    uint64_t now_unix_ms;
    uint64_t (*next_file_number)(void *arg);
    /* Called now and then with the bytes that were read and written since the last call; may sleep to keep to
     * a rate. False: stop, the result is thrown away. */
    bool (*pace)(void *arg, uint64_t bytes);
    void *arg;
} vv_compaction_options;

typedef struct vv_compaction_result {
    struct vv_compaction_output {
        uint64_t file_number;
        vv_sst_summary summary;
    } * outputs; /* none, if everything was dropped */
    size_t output_count;
    uint64_t read_entries;
    uint64_t written_entries;
    uint64_t dropped_versions;
    uint64_t dropped_tombstones;
    uint64_t output_bytes;
} vv_compaction_result;

/*
 * Merge. OK: every output is synced; their names are durable after the caller's sync of the directory.
 * Otherwise what was written has been removed. BUSY: pace said stop. Outputs are the caller's to deinit.
 */
vv_status vv_compaction_run(const vv_compaction_plan *plan, const vv_compaction_options *o,
                            vv_compaction_result *out, vv_error *err) VV_CHECKED;

/* Summaries and array. */
void vv_compaction_result_deinit(vv_compaction_result *r);

/* Remove the files of the outputs: they will not be installed. */
void vv_compaction_result_unlink(const vv_compaction_result *r, const vv_compaction_options *o);

#endif
