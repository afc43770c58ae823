/*
 * apply.c - writing the log of another database: what a follower does with the records that it gets.
 *
 * Records keep all that they were given by the primary: LSNs, epoch, the client's name of the write. They
 * pass the commit queue as other writes do, many records as one vv_write, so that they reach the log in large
 * frames and the single writer stays the only one that appends. What differs, in append() and apply() of
 * write.c: nobody is asked whether the write was done before (the primary has asked, and its answer is the
 * log), nor for conditions; and the answer waits for no commit limit: it says "durable here", by which the
 * primary counts.
 *
 * Nothing is changed before all bytes were checked. The record that comes must begin at the next LSN: that is
 * looked at by the single writer, so that there is no gap whatever callers do.
 *
 * Why an applied record survives: varve_apply() is answered as a synchronous write is, after vv_wal_sync() of
 * the frames that hold the records (see write.c).
 */
#include <errno.h>
#include <inttypes.h>

#include "engine/db/db_impl.h"

/* Records of one write: as large as a group gets (write.c), so that a memtable doesn't overshoot by more. */
#define WRITE_BYTES_MAX (UINT64_C(8) << 20)

/* ---- the bytes ---- */

size_t varve_wal_batch_encode(const varve_wal_batch *batch, void *to, size_t room) {
    size_t bytes = VV_RECORD_HEAD_BYTES + batch->ops_bytes;
    if (bytes > room)
        return bytes;
    vv_record rec = {.first_lsn = batch->first_lsn,
                     .op_count = batch->op_count,
                     .epoch = batch->epoch,
                     .client_id = batch->client_id,
                     .sequence = batch->sequence,
                     .ops = vv_slice_make(batch->ops, batch->ops_bytes)};
    vv_record_head_encode(to, &rec);
    memcpy((uint8_t *)to + VV_RECORD_HEAD_BYTES, batch->ops, batch->ops_bytes);
    return bytes;
}

/* Add a record at the end of `w`, whose operations are checked meanwhile. */
static vv_status add_record(vv_write *w, const vv_record *rec) {
    vv_reader r = vv_reader_make(rec->ops);
    for (uint32_t i = 0; i < rec->op_count; i++) {
        vv_entry e;
        VV_TRY(vv_op_decode(&r, &e));
        w->data_bytes += e.key.bytes + e.value.bytes;
        w->deletes_only &= e.kind == VV_KIND_DELETE;
    }
    if (r.left_bytes != 0)
        return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    w->op_count += rec->op_count;
    return VV_STATUS_OK;
}

/* Take as many records off the front of `r` as go into one write, one at least. *next_lsn: where the first
 * has to begin, and then what follows the last. */
static vv_status take_write(vv_reader *r, uint64_t *next_lsn, vv_write *w, vv_error *err) {
    const uint8_t *start = r->at;
    memset(w, 0, sizeof *w);
    w->kind = VV_WRITE_OPS;
    w->sync = true;
    w->replicated = true;
    w->deletes_only = true;
    while (r->left_bytes > 0) {
        vv_reader ahead = *r;
        vv_record rec;
        vv_status st = vv_record_decode(&ahead, &rec);
        if (vv_ok(st) && w->op_count > 0 &&
            ((size_t)(ahead.at - start) > WRITE_BYTES_MAX || rec.op_count > UINT32_MAX - w->op_count))
            break;
        if (vv_ok(st))
            st = add_record(w, &rec);
        if (!vv_ok(st))
            return vv_fail(err, st, "the bytes behind LSN %" PRIu64 " are no record", *next_lsn - 1);
        if (rec.first_lsn != *next_lsn)
            return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NOT_NEXT, 0),
                           "a record begins at LSN %" PRIu64 ", not at %" PRIu64, rec.first_lsn, *next_lsn);
        *next_lsn = rec.first_lsn + rec.op_count;
        *r = ahead;
    }
    w->parts[0] = vv_slice_make(start, (size_t)((const uint8_t *)r->at - start));
    w->part_count = 1;
    return VV_STATUS_OK;
}

/* ---- the single writer: commit.lock is held ---- */

static vv_status append_record(varve_db *db, const vv_record *rec) {
    bool named = rec->client_id != 0 && rec->sequence != 0;
    if (named)
        VV_TRY(vv_retry_reserve(&db->commit.retry, rec->client_id));
    vv_status st = vv_db_file_failure(vv_wal_append(db->wal, rec, &rec->ops, 1));
    if (vv_ok(st) && named)
        vv_retry_add(&db->commit.retry, rec->client_id, rec->sequence, rec->first_lsn + rec->op_count - 1);
    return st;
}

void vv_db_append_records(varve_db *db, vv_write *w) {
    vv_reader r = vv_reader_make(w->parts[0]);
    w->first_lsn = db->commit.next_lsn;
    while (r.left_bytes > 0 && vv_ok(w->status)) {
        vv_record rec;
        w->status = vv_record_decode(&r, &rec);
        VV_ASSERT(vv_ok(w->status));
        if (rec.first_lsn != db->commit.next_lsn)
            w->status = vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NOT_NEXT, 0);
        else
            w->status = append_record(db, &rec);
        if (!vv_ok(w->status))
            return;
        w->appended = true;
        w->lsn = rec.first_lsn + rec.op_count - 1;
        db->commit.next_lsn = w->lsn + 1;
    }
}

void vv_db_apply_records(vv_memtable_adder *to, const vv_write *w) {
    vv_reader r = vv_reader_make(w->parts[0]);
    for (uint64_t lsn = w->first_lsn; lsn <= w->lsn;) {
        vv_record rec;
        vv_status st = vv_record_decode(&r, &rec);
        VV_ASSERT(vv_ok(st) && rec.first_lsn == lsn);
        vv_db_apply(to, rec.first_lsn, rec.op_count, rec.ops);
        lsn += rec.op_count;
    }
}

/* ---- callers ---- */

static vv_status check_rest(vv_reader r, uint64_t next_lsn, vv_error *err) {
    vv_write w;
    while (r.left_bytes > 0)
        VV_TRY(take_write(&r, &next_lsn, &w, err));
    return VV_STATUS_OK;
}

static vv_status apply(varve_db *db, vv_slice records, uint64_t *applied_lsn, vv_error *err) {
    uint64_t next_lsn = *applied_lsn + 1;
    vv_reader r = vv_reader_make(records);
    vv_write w;
    VV_TRY(vv_db_check_write(db, NULL));
    if (records.bytes == 0)
        return VV_STATUS_OK;
    VV_TRY(take_write(&r, &next_lsn, &w, err));
    VV_TRY(check_rest(r, next_lsn, err));
    for (;;) {
        vv_db_submit(db, &w);
        if (w.appended)
            *applied_lsn = w.lsn;
        if (!vv_ok(w.status) || r.left_bytes == 0)
            return w.status;
        VV_TRY(take_write(&r, &next_lsn, &w, err));
    }
}

varve_status varve_apply(varve_db *db, const void *records, size_t bytes, uint64_t *applied_lsn_out,
                         varve_error *err) {
    vv_error *e = vv_private_error(err);
    uint64_t applied_lsn = vv_wal_last_lsn(db->wal);
    vv_status st = apply(db, vv_slice_make(records, bytes), &applied_lsn, e);
    if (applied_lsn_out)
        *applied_lsn_out = applied_lsn;
    return vv_public(vv_ok(st) ? st : vv_wrap(e, st, "apply"));
}
