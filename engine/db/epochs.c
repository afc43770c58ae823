/*
 * epochs.c - who wrote which part of the log, and who may go on.
 *
 *   epoch      1            2       3
 *   LSN        1 ........ 59 60 .. 80 81 ...          history: (1, 1), (2, 60), (3, 81), each with a random
 * id
 *
 * Each primary has an epoch of its own, and nobody else ever writes a record under it. So an LSN and the
 * epoch of its record name one record in the world, and with it everything before: whoever writes under an
 * epoch has the whole log that it began behind. That is what lets two databases find out where their logs
 * part by looking at two short lists.
 *
 * Invariants
 *   E1  A history is on disk before the first record of its newest epoch is in the log.
 *   E2  An epoch begins behind records that are durable: no crash can make the log end before that, and give
 *       the same LSNs out again under the wrong epoch.
 *   E3  A write of this database's own carries an epoch that this very directory began, and that begins at or
 *       before it. A directory that came to its records otherwise (a backup that was restored, a replica that
 *       nobody promoted, one that was rewound) begins an epoch before it writes: else two different logs
 *       would pass for the same.
 *   E4  The promise is never below the newest epoch, and never falls.
 *   E5  What was written before a promise, asynchronous writes too, is durable when the promise is: the
 * durable LSN that is told together with it leaves out nothing that was answered before.
 *
 * The history in the manifest is of the log, not of the tables: it may say where an epoch begins that lies
 * behind the flushed LSN. That is harmless: what is between is in the log, durable by E2, or, for a replica
 * that has taken over a primary's history, has not come yet. Whoever looks compares only as far as the log
 * goes. Only what leaves without the log, an export, has to be cut (export.c).
 *
 * Locking: all changes happen under commit.lock, so that none comes between a record and the epoch that it
 * carries; what is in state.manifest is read under state.lock.
 */
#include <inttypes.h>
#include <sys/random.h>

#include "engine/db/db_impl.h"

_Static_assert(sizeof(varve_epoch) == sizeof(vv_epoch) &&
                   offsetof(varve_epoch, first_lsn) == offsetof(vv_epoch, first_lsn) &&
                   offsetof(varve_epoch, id) == offsetof(vv_epoch, id) && VARVE_EPOCHS_MAX == VV_EPOCHS_MAX,
               "the public epoch is the manifest's");

static vv_status invalid(vv_sub sub) {
    return vv_status_make(VV_INVALID_ARGUMENT, sub, 0);
}

/* ---- comparing ---- */

/* The last LSN of the i-th epoch in a log that ends with last_lsn. */
static uint64_t epoch_end(const varve_epoch *epochs, size_t count, size_t i, uint64_t last_lsn) {
    return i + 1 < count ? VV_MIN(last_lsn, epochs[i + 1].first_lsn - 1) : last_lsn;
}

bool varve_epochs_common_lsn(const varve_epoch *a, size_t a_count, uint64_t a_last_lsn, const varve_epoch *b,
                             size_t b_count, uint64_t b_last_lsn, uint64_t *common_lsn_out) {
    *common_lsn_out = 0;
    if (a_last_lsn == 0 || b_last_lsn == 0)
        return true; /* an empty log is a part of any */
    /* The newest epoch that both know. Both have all that it began behind, as far as they go; within it, they
     * are the same until one of them ends it; behind that, no record of one is of an epoch of the other. */
    for (size_t i = a_count, j = b_count; i > 0 && j > 0;) {
        const varve_epoch *x = &a[i - 1], *y = &b[j - 1];
        if (x->epoch == y->epoch && x->id == y->id && x->first_lsn == y->first_lsn) {
            *common_lsn_out =
                VV_MIN(epoch_end(a, a_count, i - 1, a_last_lsn), epoch_end(b, b_count, j - 1, b_last_lsn));
            return true;
        }
        bool both = x->epoch == y->epoch;
        if (x->epoch >= y->epoch)
            i--;
        if (x->epoch < y->epoch || both)
            j--;
    }
    return false;
}

/* ---- changing: the single writer, commit.lock held ---- */

static void get(varve_db *db, vv_epoch_history *history_out, uint64_t *promised_out) {
    vv_mutex_lock(&db->state.lock);
    *history_out = db->state.manifest.epochs;
    *promised_out = db->state.manifest.promised_epoch;
    vv_mutex_unlock(&db->state.lock);
}

static const vv_epoch *newest(const vv_epoch_history *h) {
    return &h->items[h->count - 1];
}

/* If it fails, the manifest on disk may be either one: nothing goes into the log before that is settled. */
static vv_status install(varve_db *db, const vv_epoch_history *history, uint64_t promised, vv_error *err) {
    vv_edit edit = {.epochs = history, .promised_epoch = &promised};
    vv_status st = vv_db_file_failure(vv_db_install(db, &edit, err));
    db->commit.epoch_in_doubt = !vv_ok(st);
    db->commit.epoch_is_ours = false;
    if (vv_ok(st))
        db->epoch = newest(history)->epoch;
    return st;
}

static vv_status begin(varve_db *db, uint64_t epoch, vv_error *err) {
    vv_epoch_history h;
    uint64_t promised;
    vv_epoch fresh = {.epoch = epoch, .first_lsn = db->commit.next_lsn};
    if (atomic_load_explicit(&db->wal_failed, memory_order_relaxed))
        return vv_fail(err, vv_status_make(VV_WAL_FAILED, VV_SUB_NONE, 0), "the log has failed");
    if (getrandom(&fresh.id, sizeof fresh.id, 0) != (ssize_t)sizeof fresh.id)
        return vv_fail(err, vv_status_make(VV_INTERNAL, VV_SUB_NONE, 0), "no random bytes from the kernel");
    if (db->commit.unsynced) { /* E2 */
        vv_status st = vv_db_sync_log(db, false);
        if (!vv_ok(st))
            return vv_fail(err, st, "sync of the log: %s", vv_code_text(st.code));
    }
    get(db, &h, &promised);
    /* Epochs that begin behind the end have no record here, and never will. */
    while (h.count > 0 && newest(&h)->first_lsn > fresh.first_lsn)
        h.count--;
    if (h.count == VV_EPOCHS_MAX)
        memmove(h.items, h.items + 1, --h.count * sizeof *h.items);
    h.items[h.count++] = fresh;
    h.newest_is_ours = true;
    VV_TRY(install(db, &h, VV_MAX(promised, epoch), err));
    db->commit.epoch_is_ours = true;
    vv_log(&db->logger, VV_LOG_INFO, "%s: epoch %" PRIu64 " begins with LSN %" PRIu64, db->dir, epoch,
           fresh.first_lsn);
    return VV_STATUS_OK;
}

/* The manifest on disk is what memory has. */
static vv_status settle(varve_db *db, vv_error *err) {
    vv_edit nothing = {0};
    if (db->commit.epoch_in_doubt)
        VV_TRY(vv_db_file_failure(vv_db_install(db, &nothing, err)));
    db->commit.epoch_in_doubt = false;
    return VV_STATUS_OK;
}

vv_status vv_db_epoch_ready(varve_db *db, bool own) {
    vv_epoch_history h;
    uint64_t promised;
    vv_error err = {.text = ""};
    vv_status st = settle(db, &err);
    if (vv_ok(st) && own) {
        get(db, &h, &promised);
        if (h.newest_is_ours && newest(&h)->first_lsn <= db->commit.next_lsn &&
            newest(&h)->epoch == db->epoch)
            db->commit.epoch_is_ours = true;
        else
            st = begin(db, VV_MAX(promised, db->epoch) + 1, &err);
    }
    if (!vv_ok(st))
        vv_log(&db->logger, VV_LOG_ERROR, "%s: a write needs an epoch: %s", db->dir, err.text);
    return st;
}

typedef struct epoch_change {
    uint64_t epoch;
    const varve_epoch *epochs;
    size_t count;
    vv_error *err;
} epoch_change;

static vv_status too_old(const epoch_change *c, uint64_t epoch, uint64_t known) {
    return vv_fail(c->err, invalid(VV_SUB_EPOCH_TOO_OLD), "epoch %" PRIu64 ": %" PRIu64 " is known already",
                   epoch, known);
}

static vv_status promise(varve_db *db, void *arg) {
    epoch_change *c = arg;
    vv_epoch_history h;
    uint64_t promised;
    get(db, &h, &promised);
    if (c->epoch < promised)
        return too_old(c, c->epoch, promised);
    /* E5. A log that has failed will never have more than it has now, and everybody was told. */
    if (db->commit.unsynced)
        vv_status_ignore(vv_db_sync_log(db, false), "latched, and said to whoever waits for it");
    VV_TRY(settle(db, c->err)); /* a promise that failed may be on disk, or not */
    if (c->epoch == promised)
        return VV_STATUS_OK;
    vv_edit edit = {.promised_epoch = &c->epoch};
    vv_status st = vv_db_file_failure(vv_db_install(db, &edit, c->err));
    if (!vv_ok(st)) {
        db->commit.epoch_in_doubt = true;
        db->commit.epoch_is_ours = false;
        return st;
    }
    /* Whoever is to confirm them follows somebody else from now on, and nobody needs to wait for that. */
    vv_db_answer_unconfirmed(db);
    return st;
}

static vv_status begin_asked(varve_db *db, void *arg) {
    epoch_change *c = arg;
    vv_epoch_history h;
    uint64_t promised;
    get(db, &h, &promised);
    if (c->epoch <= db->epoch || c->epoch <= newest(&h)->epoch || c->epoch < promised)
        return too_old(c, c->epoch, VV_MAX(promised, db->epoch));
    return begin(db, c->epoch, c->err);
}

static bool same(const vv_epoch_history *h, const varve_epoch *epochs, size_t count) {
    return h->count == count && memcmp(h->items, epochs, count * sizeof *epochs) == 0;
}

static vv_status follow(varve_db *db, void *arg) {
    epoch_change *c = arg;
    vv_epoch_history h;
    uint64_t promised, common_lsn, last_lsn = db->commit.next_lsn - 1;
    if (!vv_epochs_are_sound((const vv_epoch *)c->epochs, c->count))
        return vv_fail(c->err, invalid(VV_SUB_NONE), "this is no history of epochs");
    uint64_t epoch = c->epochs[c->count - 1].epoch;
    get(db, &h, &promised);
    if (epoch < promised)
        return too_old(c, epoch, promised);
    if (!varve_epochs_common_lsn((const varve_epoch *)h.items, h.count, last_lsn, c->epochs, c->count,
                                 UINT64_MAX, &common_lsn) ||
        common_lsn != last_lsn)
        return vv_fail(c->err, invalid(VV_SUB_NONE), "the log is not a part of the primary's");
    VV_TRY(settle(db, c->err));
    if (same(&h, c->epochs, c->count) && epoch == promised && !h.newest_is_ours)
        return VV_STATUS_OK;
    h.count = (uint32_t)c->count;
    h.newest_is_ours = false;
    memcpy(h.items, c->epochs, c->count * sizeof *c->epochs);
    return install(db, &h, epoch, c->err);
}

/* ---- callers ---- */

static varve_status change(varve_db *db, const char *what, vv_status (*fn)(varve_db *, void *),
                           epoch_change *c) {
    vv_status st = vv_db_call_writer(db, fn, c);
    return vv_public(vv_ok(st) ? st : vv_wrap(c->err, st, "%s", what));
}

varve_status varve_promise_epoch(varve_db *db, uint64_t epoch, varve_error *err) {
    return change(db, "promise an epoch", promise,
                  &(epoch_change){.epoch = epoch, .err = vv_private_error(err)});
}

varve_status varve_begin_epoch(varve_db *db, uint64_t epoch, varve_error *err) {
    return change(db, "begin an epoch", begin_asked,
                  &(epoch_change){.epoch = epoch, .err = vv_private_error(err)});
}

varve_status varve_follow_epochs(varve_db *db, const varve_epoch *epochs, size_t count, varve_error *err) {
    return change(db, "follow a primary", follow,
                  &(epoch_change){.epochs = epochs, .count = count, .err = vv_private_error(err)});
}

size_t varve_epochs_get(varve_db *db, varve_epoch out[VARVE_EPOCHS_MAX]) {
    vv_mutex_lock(&db->state.lock);
    size_t count = db->state.manifest.epochs.count;
    memcpy(out, db->state.manifest.epochs.items, count * sizeof *out);
    vv_mutex_unlock(&db->state.lock);
    return count;
}

void varve_database_id(varve_db *db, uint8_t out[VARVE_DATABASE_ID_BYTES]) {
    vv_mutex_lock(&db->state.lock);
    memcpy(out, db->state.manifest.db_id, VARVE_DATABASE_ID_BYTES);
    vv_mutex_unlock(&db->state.lock);
}
