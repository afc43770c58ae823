/*
 * look.c - what a database is doing, for those who watch it: how long things take, its shape, its merge.
 *
 * Nothing here is needed to work, so nothing here may cost: spreads are recorded by the one thread that does
 * the thing, once for a frame, a flush or a merge, and the locks are held for as long as it takes to copy.
 */
#include <string.h>

#include "base/compiler.h"
#include "engine/db/db_impl.h"

_Static_assert(VARVE_SPREAD_BUCKETS == VV_SPREAD_BUCKETS && sizeof(varve_spread) == sizeof(vv_spread_copy) &&
                   offsetof(varve_spread, counts) == offsetof(vv_spread_copy, counts),
               "the public spread is the internal copy");

void varve_spread_get(varve_db *db, varve_spread_kind kind, varve_spread *out) {
    vv_spread_copy copy = {0};
    switch (kind) {
    case VARVE_SPREAD_WAL_COMMIT_US: vv_wal_spreads_get(db->wal, &copy, NULL); break;
    case VARVE_SPREAD_WAL_COMMIT_RECORDS: vv_wal_spreads_get(db->wal, NULL, &copy); break;
    case VARVE_SPREAD_FLUSH_US: vv_spread_collect(&db->state.flush_us, &copy); break;
    case VARVE_SPREAD_COMPACTION_US: vv_spread_collect(&db->compaction.merge_us, &copy); break;
    }
    memcpy(out, &copy, sizeof *out);
}

uint64_t varve_spread_bound(size_t bucket) {
    return vv_spread_bound((uint32_t)VV_MIN(bucket, VV_SPREAD_BUCKETS - 1));
}

size_t varve_runs_get(varve_db *db, varve_run_info *runs, size_t max) {
    vv_mutex_lock(&db->state.lock);
    vv_version *v = db->state.view->version;
    vv_version_ref(v);
    vv_mutex_unlock(&db->state.lock);
    size_t count = v->run_count;
    for (size_t i = 0; i < count && i < max; i++) {
        const vv_run *run = &v->runs[i];
        runs[i] = (varve_run_info){.level = run->level, .table_count = run->table_count};
        for (size_t t = 0; t < run->table_count; t++) {
            const vv_sst_summary *s = &run->tables[t]->summary;
            runs[i].bytes += s->file_bytes;
            runs[i].entry_count += s->item_count;
            runs[i].tombstone_count += s->tombstone_count;
        }
    }
    vv_version_unref(v);
    return count;
}

void varve_compaction_get(varve_db *db, varve_compaction_info *out) {
    vv_mutex_lock(&db->compaction.lock);
    *out = db->compaction.now;
    vv_mutex_unlock(&db->compaction.lock);
    if (out->running)
        out->done_bytes = atomic_load_explicit(&db->compaction.now_bytes, memory_order_relaxed);
}
