/*
 * wal_cursor.c - log cursors as users see them, and how those that have come to the end learn of more.
 *
 *   committing thread                                  a cursor's thread
 *   durable_lsn, visible_lsn stored                    nothing newer
 *   waiting? --> 0; descriptors made readable,         waiting := 1, on the list if it has a descriptor
 *                durable_fn called once                looks again: only then END
 *
 * The exchange on `waiting` on either side orders the two: either the commit finds it set, or the cursor,
 * which looks again behind it, finds what was committed. Without anybody waiting a commit pays for that one
 * exchange, once a group.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"

struct varve_wal_cursor {
    varve_db *db;
    vv_wal_cursor *log;
    bool visible_only;
    int fd; /* -1: not asked for */

    /* Under followers.lock. */
    struct varve_wal_cursor *next;
    bool listed;
};

/* ---- notification ---- */

static void make_readable(varve_wal_cursor *c) {
    uint64_t one = 1;
    ssize_t n;
    do {
        n = write(c->fd, &one, sizeof one);
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, so that it is readable. */
}

static void make_unreadable(varve_wal_cursor *c) {
    uint64_t count;
    ssize_t n;
    do {
        n = read(c->fd, &count, sizeof count);
    } while (n < 0 && errno == EINTR);
}

void vv_db_followers_notify(varve_db *db) {
    /* acquire and release: see above. */
    if (atomic_exchange_explicit(&db->followers.waiting, 0, memory_order_acq_rel) == 0)
        return;
    vv_mutex_lock(&db->followers.lock);
    for (varve_wal_cursor *c; (c = db->followers.first) != NULL;) {
        db->followers.first = c->next;
        c->listed = false;
        make_readable(c);
    }
    vv_mutex_unlock(&db->followers.lock);
    if (db->durable_fn)
        db->durable_fn(db->durable_arg);
}

void varve_want_notice(varve_db *db) {
    (void)atomic_exchange_explicit(&db->followers.waiting, 1, memory_order_acq_rel);
}

/* The cursor is about to say END: from here on it is told of more. */
static void wait_for_more(varve_wal_cursor *c) {
    varve_db *db = c->db;
    if (c->fd >= 0) {
        vv_mutex_lock(&db->followers.lock);
        make_unreadable(c);
        if (!c->listed) {
            c->next = db->followers.first;
            db->followers.first = c;
            c->listed = true;
        }
        vv_mutex_unlock(&db->followers.lock);
    }
    (void)atomic_exchange_explicit(&db->followers.waiting, 1, memory_order_acq_rel);
}

int varve_wal_cursor_notify_fd(varve_wal_cursor *c) {
    /* Readable at first: what is there already was announced to nobody. */
    if (c->fd < 0)
        c->fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    return c->fd;
}

/* ---- reading ---- */

static uint64_t limit(const varve_wal_cursor *c) {
    return c->visible_only ? atomic_load_explicit(&c->db->visible_lsn, memory_order_acquire) : UINT64_MAX;
}

varve_status varve_wal_cursor_open(varve_db *db, uint64_t after_lsn, varve_wal_cursor **cursor_out,
                                   uint64_t *oldest_lsn_out) {
    uint64_t oldest_lsn = 0;
    *cursor_out = NULL;
    if (oldest_lsn_out)
        *oldest_lsn_out = 0;
    vv_wal_stats stats;
    vv_wal_stats_get(db->wal, &stats);
    if (after_lsn > stats.durable_lsn)
        return vv_public(vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0));
    varve_wal_cursor *c = vv_alloc_zeroed(sizeof *c);
    if (!c)
        return vv_public(vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0));
    c->db = db;
    c->fd = -1;
    vv_status st = vv_wal_cursor_open(db->wal, after_lsn, &c->log, &oldest_lsn);
    if (vv_ok(st)) {
        *cursor_out = c;
        return vv_public(st);
    }
    vv_free(c);
    if (oldest_lsn_out)
        *oldest_lsn_out = oldest_lsn;
    return vv_public(st);
}

void varve_wal_cursor_close(varve_wal_cursor *c) {
    if (!c)
        return;
    varve_db *db = c->db;
    vv_mutex_lock(&db->followers.lock);
    for (varve_wal_cursor **at = &db->followers.first; c->listed && *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    vv_mutex_unlock(&db->followers.lock);
    if (c->fd >= 0)
        (void)close(c->fd);
    vv_wal_cursor_close(c->log);
    vv_free(c);
}

varve_status varve_wal_cursor_next(varve_wal_cursor *c, varve_wal_batch *out) {
    vv_record rec;
    uint64_t oldest_lsn;
    *out = (varve_wal_batch){0};
    vv_status st = vv_wal_cursor_next(c->log, limit(c), &rec, &oldest_lsn);
    if (vv_is(st, VV_END)) {
        wait_for_more(c);
        st = vv_wal_cursor_next(c->log, limit(c), &rec, &oldest_lsn);
        /* Not at the end after all, while what made it so may have found nobody waiting. */
        if (!vv_is(st, VV_END) && c->fd >= 0)
            make_readable(c);
    }
    if (vv_is(st, VV_TRIMMED))
        out->first_lsn = oldest_lsn;
    if (!vv_ok(st))
        return vv_public(st);
    *out = (varve_wal_batch){.first_lsn = rec.first_lsn,
                             .last_lsn = rec.first_lsn + rec.op_count - 1,
                             .op_count = rec.op_count,
                             .epoch = rec.epoch,
                             .client_id = rec.client_id,
                             .sequence = rec.sequence,
                             .ops = rec.ops.data,
                             .ops_bytes = rec.ops.bytes};
    return vv_public(VV_STATUS_OK);
}

uint64_t varve_wal_cursor_lsn(const varve_wal_cursor *c) {
    return vv_wal_cursor_lsn(c->log);
}

void varve_wal_cursor_visible_only(varve_wal_cursor *c) {
    c->visible_only = true;
}

void varve_wal_cursor_rest(varve_wal_cursor *c) {
    vv_wal_cursor_rest(c->log);
}

void varve_wal_cursor_hold(varve_wal_cursor *c, uint64_t max_bytes) {
    vv_wal_cursor_hold(c->log, max_bytes);
}

bool varve_wal_cursor_holds(varve_wal_cursor *c) {
    return vv_wal_cursor_holds(c->log);
}

uint64_t varve_wal_cursor_behind_bytes(varve_wal_cursor *c) {
    return vv_wal_cursor_behind_bytes(c->log);
}

/* ---- operations ---- */

void varve_wal_ops_init(varve_wal_ops *ops, const varve_wal_batch *batch) {
    *ops = (varve_wal_ops){.at_ = batch->ops,
                           .left_bytes_ = batch->ops_bytes,
                           .lsn_ = batch->first_lsn,
                           .left_count_ = batch->op_count};
}

varve_status varve_wal_ops_next(varve_wal_ops *ops, varve_wal_op *out) {
    *out = (varve_wal_op){0};
    if (ops->left_count_ == 0)
        return vv_public(ops->left_bytes_ == 0 ? vv_status_make(VV_END, VV_SUB_NONE, 0)
                                               : vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0));
    vv_reader r = vv_reader_make(vv_slice_make(ops->at_, ops->left_bytes_));
    vv_entry e;
    vv_status st = vv_op_decode(&r, &e);
    if (!vv_ok(st))
        return vv_public(st);
    *out = (varve_wal_op){.is_delete = e.kind == VV_KIND_DELETE,
                          .key = e.key.data,
                          .key_bytes = e.key.bytes,
                          .value = e.value.data,
                          .value_bytes = e.value.bytes,
                          .lsn = ops->lsn_,
                          .expires_unix_ms = e.expires_unix_ms};
    ops->at_ = r.at;
    ops->left_bytes_ = r.left_bytes;
    ops->lsn_++;
    ops->left_count_--;
    return vv_public(VV_STATUS_OK);
}
