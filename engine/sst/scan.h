/*
 * scan.h - reading a whole table in order, for compaction.
 *
 * Beside the block cache: what a compaction reads is read once, and must not push out what gets need.
 */
#ifndef VV_ENGINE_SST_SCAN_H
#define VV_ENGINE_SST_SCAN_H

#include "engine/sst/sst.h"

/*
 * A cursor over a table that goes forward only: seek_first, seek and next; the others are a programmer's
 * error and asserted. It reads large pieces ahead through `q`, the calling thread's, which any number of
 * scans may share: a scan that needs a piece that isn't there runs the queue, and the pieces of the others
 * arrive meanwhile. Every block is verified. Borrows both until it is destroyed; destroying it waits for what
 * is in flight. NO_MEMORY.
 *
 * Takes VV_SST_SCAN_BYTES, less for a small table, and the size of the largest block that is not within one
 * piece.
 */
#define VV_SST_SCAN_BYTES (UINT64_C(3) * (512 << 10))

vv_status vv_sst_scan_create(vv_sst_reader *r, vv_io_queue *q, vv_iter **out) VV_CHECKED;

#endif
