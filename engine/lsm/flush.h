/*
 * flush.h - a sealed memtable becomes a table.
 */
#ifndef VV_ENGINE_LSM_FLUSH_H
#define VV_ENGINE_LSM_FLUSH_H

#include "engine/mem/memtable.h"
#include "engine/sst/sst.h"

/*
 * Write every entry of `m` (all versions) to the table that `o` describes, and sync it. OK: the bytes of the
 * file survive power loss; its name does after the caller's sync of the directory. Otherwise the file, if it
 * is there, is the caller's to unlink. m is sealed and not empty. *out is the caller's to deinit.
 */
vv_status vv_flush_memtable(vv_memtable *m, const vv_sst_writer_options *o, vv_sst_summary *out,
                            vv_error *err) VV_CHECKED;

#endif
