/*
 * replay.c - from the log into memtables, at open.
 *
 * Nobody reads yet, so that a memtable is loaded rather than added to: a skip list copies each entry to where
 * it will stay and puts all into order at the end. A memtable that fills up is flushed at once: recovery
 * needs no more memtables than running does.
 */
#include "engine/db/db_impl.h"

static vv_status flush_if_full(vv_replay *r) {
    varve_db *db = r->db;
    if (vv_memtable_bytes(db->commit.active) < db->settings.memtable_bytes)
        return VV_STATUS_OK;
    vv_status st;
    VV_TRY(vv_memtable_load_end(db->commit.active));
    VV_TRY(vv_db_seal(db));
    (void)vv_db_flush_oldest(db, r->queue, &st);
    return st;
}

/* After a flush that the record itself has brought about: an image of the table goes with the memtable, which
 * did not have the record yet. */
static vv_status remember(varve_db *db, const vv_record *rec) {
    if (rec->client_id == 0 || rec->sequence == 0)
        return VV_STATUS_OK;
    VV_TRY(vv_retry_reserve(&db->commit.retry, rec->client_id));
    vv_retry_add(&db->commit.retry, rec->client_id, rec->sequence, rec->first_lsn + rec->op_count - 1);
    return VV_STATUS_OK;
}

vv_status vv_replay_record(void *arg, const vv_record *rec) {
    vv_replay *r = arg;
    varve_db *db = r->db;
    /* Between records: a memtable never lacks an entry below its last LSN, and what is flushed may be
     * forgotten by the log, which forgets whole records. */
    VV_TRY(flush_if_full(r));
    vv_reader reader = vv_reader_make(rec->ops);
    for (uint32_t i = 0; i < rec->op_count; i++) {
        vv_entry e;
        VV_TRY(vv_op_decode(&reader, &e));
        e.lsn = rec->first_lsn + i;
        VV_TRY(vv_memtable_load(db->commit.active, &e));
    }
    db->epoch = VV_MAX(db->epoch, rec->epoch);
    VV_TRY(remember(db, rec));
    r->records++;
    return VV_STATUS_OK;
}

vv_status vv_replay_finish(vv_replay *r) {
    return vv_memtable_load_end(r->db->commit.active);
}
