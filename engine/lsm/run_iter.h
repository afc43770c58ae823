/*
 * run_iter.h - a cursor over the tables of one sorted run, one after the other.
 */
#ifndef VV_ENGINE_LSM_RUN_ITER_H
#define VV_ENGINE_LSM_RUN_ITER_H

#include "engine/lsm/version.h"
#include "engine/sst/block_cache.h"
#include "engine/sst/scan.h"
#include "engine/sst/table_cache.h"

/* Everything is borrowed until the cursor goes. A table is opened when the cursor gets to it.
 * fetcher: as for vv_sst_iter_create(). NO_MEMORY. */
vv_status vv_run_iter_create(const vv_run *run, vv_table_cache *tables, vv_block_cache *blocks,
                             const vv_sst_fetcher *fetcher, vv_iter **out) VV_CHECKED;

/* The same for a merge: forward only, beside the block cache (sst/scan.h). err, which may be NULL, gets the
 * words of what fails; it and the options are borrowed too. NO_MEMORY. */
vv_status vv_run_scan_create(const vv_run *run, vv_table_cache *tables, const vv_sst_scan_options *o,
                             vv_error *err, vv_iter **out) VV_CHECKED;

#endif
