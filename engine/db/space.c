/*
 * space.c - a disk that is getting full: who may still take what is left.
 *
 *   free < 2 memtables and those that wait, with a log segment each    log that only holds keep is let go; if
 *                                                                      that is not enough, puts are refused
 *   free < 1 memtable and those that wait, with a log segment each     merges give up
 *
 * A flush needs about what its memtable holds, and the log a segment meanwhile: while puts are refused, a
 * memtable is sealed when it holds a segment's worth of log, which comes back with its flush. Puts that would
 * leave less are refused while there is still a choice: what was acknowledged can be flushed, and deletes
 * find room. Looked at after each flush, each merge and each segment's worth of log, which are what fills the
 * disk, and for each put while puts are refused. A merge that gave up is told when there is room for all of
 * it: what it would free is what puts need next. The bounds are advice: should the disk be full all the same,
 * by somebody else, the log and the flush report it, and nothing is lost.
 */
#include <inttypes.h>

#include "engine/db/db_impl.h"

/* A merge asks once a MiB, and has as much again on its way to the disk as its buffers hold. */
#define MERGE_SLACK_BYTES (UINT64_C(5) << 20)

/* A file system that does not tell counts as empty: its own NO_SPACE comes soon enough. */
static uint64_t free_bytes(varve_db *db) {
    uint64_t bytes;
    return vv_ok(vv_dir_free_bytes(db->io, db->dir, &bytes, NULL)) ? bytes : UINT64_MAX;
}

static uint64_t sealed_and(const varve_db *db, uint64_t memtables) {
    uint64_t sealed = atomic_load_explicit(&db->flow.sealed_count, memory_order_relaxed);
    return (sealed + memtables) * (db->settings.memtable_bytes + db->settings.wal_segment_bytes);
}

/* What a merge may not take. */
static uint64_t kept_from_merges(const varve_db *db) {
    return sealed_and(db, 1) + MERGE_SLACK_BYTES;
}

/* Room, not only to begin: one that gives up has read and written for nothing. */
static void tell_merge(varve_db *db, uint64_t bytes) {
    uint64_t wanted = atomic_load_explicit(&db->compaction.wanted_bytes, memory_order_relaxed);
    uint64_t kept = kept_from_merges(db);
    if (wanted == 0 || wanted == VV_DB_ROOM_CAME || bytes < kept || bytes - kept < wanted)
        return;
    vv_mutex_lock(&db->compaction.lock);
    atomic_store_explicit(&db->compaction.wanted_bytes, VV_DB_ROOM_CAME, memory_order_relaxed);
    vv_cond_signal(&db->compaction.wanted);
    vv_mutex_unlock(&db->compaction.lock);
}

bool vv_db_space_look(varve_db *db) {
    uint64_t bytes = free_bytes(db);
    uint64_t reserve = sealed_and(db, 2);
    bool was_short = atomic_load_explicit(&db->space_short, memory_order_relaxed);
    /* A quarter of a memtable more to begin again, so that it does not go to and fro. */
    uint64_t wanted = reserve + (was_short ? db->settings.memtable_bytes / 4 : 0);
    tell_merge(db, bytes);
    /* Log that is there for readers alone is not worth a write. It is on its way when this returns; what went
     * since the first look is found free by the second, so that none is missed. */
    if (bytes < wanted) {
        uint64_t coming = vv_wal_give_way(db->wal, wanted - bytes);
        bytes = free_bytes(db);
        bytes += VV_MIN(coming, UINT64_MAX - bytes);
    }
    bool is_short = bytes < wanted;
    if (is_short == was_short ||
        !atomic_compare_exchange_strong_explicit(&db->space_short, &was_short, is_short, memory_order_relaxed,
                                                 memory_order_relaxed))
        return is_short;
    if (is_short)
        vv_log(&db->logger, VV_LOG_ERROR,
               "%s: %" PRIu64 " bytes are free, %" PRIu64
               " are needed for what was written: puts are refused, "
               "reads and deletes go on",
               db->dir, bytes, reserve);
    else
        vv_log(&db->logger, VV_LOG_INFO, "%s: there is space again: puts are accepted", db->dir);
    return is_short;
}

bool vv_db_space_for_merge(varve_db *db) {
    return free_bytes(db) >= kept_from_merges(db);
}
