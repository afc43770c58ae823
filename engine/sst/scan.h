/*
 * scan.h - reading a whole table in order, for compaction.
 *
 * Beside the block cache: what a compaction reads is read once, and must not push out what gets need.
 */
#ifndef VV_ENGINE_SST_SCAN_H
#define VV_ENGINE_SST_SCAN_H

#include "engine/sst/sst.h"

/* More would not be faster; less than the least is not possible. */
#define VV_SST_SCAN_BYTES_MAX (UINT64_C(3) * (512 << 10))
#define VV_SST_SCAN_BYTES_MIN (UINT64_C(64) << 10)

typedef struct vv_sst_scan_options {
    vv_io_queue *queue; /* the calling thread's */
    /* What to take for reading ahead, between the two above; a small table takes less. Beside it comes the
     * size of the largest block that is compressed, or does not lie within one piece. */
    uint64_t window_bytes;
    struct vv_block_cache *cache;   /* NULL, or what says how warm each entry is */
    _Atomic uint64_t *memory_bytes; /* NULL, or a gauge to which the scan adds all that, while it takes it */
} vv_sst_scan_options;

/*
 * A cursor over a table that goes forward only: seek_first, seek and next; the others are a programmer's
 * error and asserted. It reads pieces ahead through the queue, which any number of scans may share: a scan
 * that needs a piece that isn't there runs the queue, and the pieces of the others arrive meanwhile. Every
 * block is verified. Borrows the reader, and what the options name, until it is destroyed; destroying it
 * waits for what is in flight. NO_MEMORY.
 */
vv_status vv_sst_scan_create(vv_sst_reader *r, const vv_sst_scan_options *o, vv_iter **out) VV_CHECKED;

#endif
