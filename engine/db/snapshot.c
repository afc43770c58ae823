/*
 * snapshot.c - named states of the database.
 *
 * A snapshot is an LSN in a list. Reads at it take the current view; merges keep for each snapshot the newest
 * version of every key that it sees. The LSN is chosen under the lock under which a merge collects the list
 * and looks what is visible: so a snapshot that a merge has not seen is at least as new as what was visible
 * then, and of all behind that the merge keeps every version.
 */
#include "base/alloc.h"
#include "engine/db/db_impl.h"

varve_snapshot *varve_snapshot_create(varve_db *db) {
    varve_snapshot *s = vv_alloc_zeroed(sizeof *s);
    if (!s)
        return NULL;
    vv_mutex_lock(&db->state.lock);
    s->lsn = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
    /* Newest last; LSNs never fall, so that the list stays sorted by itself. */
    s->prev = db->state.newest_snapshot;
    *(s->prev ? &s->prev->next : &db->state.snapshots) = s;
    db->state.newest_snapshot = s;
    vv_mutex_unlock(&db->state.lock);
    return s;
}

uint64_t varve_snapshot_lsn(const varve_snapshot *snapshot) {
    return snapshot->lsn;
}

void varve_snapshot_release(varve_db *db, varve_snapshot *snapshot) {
    if (!snapshot)
        return;
    vv_mutex_lock(&db->state.lock);
    *(snapshot->prev ? &snapshot->prev->next : &db->state.snapshots) = snapshot->next;
    *(snapshot->next ? &snapshot->next->prev : &db->state.newest_snapshot) = snapshot->prev;
    /* Nobody who makes a snapshot for one read wakes the compaction, unless it has held something back. */
    bool hint = !snapshot->prev && db->state.snapshots_seen;
    if (hint)
        db->state.snapshots_seen = false;
    vv_mutex_unlock(&db->state.lock);
    if (hint)
        vv_db_compaction_hint(db); /* tombstones that it needed may go now */
    vv_free(snapshot);
}

vv_status vv_db_snapshot_lsns(varve_db *db, uint64_t **out, size_t *count_out, uint64_t *visible_lsn_out) {
    for (size_t capacity = 64;; capacity *= 4) {
        uint64_t *lsns = vv_alloc(capacity * sizeof *lsns);
        size_t count = 0;
        if (!lsns)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        vv_mutex_lock(&db->state.lock);
        /* Under the lock, as above: a snapshot that is not in the list is at or behind this LSN. */
        *visible_lsn_out = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
        varve_snapshot *s = db->state.snapshots;
        db->state.snapshots_seen |= s != NULL;
        for (; s && count < capacity; s = s->next)
            if (count == 0 || lsns[count - 1] != s->lsn)
                lsns[count++] = s->lsn;
        vv_mutex_unlock(&db->state.lock);
        if (!s) {
            *out = lsns;
            *count_out = count;
            return VV_STATUS_OK;
        }
        vv_free(lsns);
    }
}
