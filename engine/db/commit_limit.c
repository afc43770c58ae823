/*
 * commit_limit.c - what is committed here is shown only as far as others have confirmed it.
 *
 *   committed_lsn   in the log, the memtable and, while commits are limited, on the disk: the single writer
 *   limit           confirmed by others: whoever hears of it
 *   visible_lsn     the lower of the two: what readers, snapshots and conditions' answers tell of
 *
 * Nothing else is held up: memtables are sealed, flushed and merged with what is not visible yet, so that
 * followers that are gone never fill the memory. Merges keep each version behind visible_lsn for that
 * (lsm/compaction.h). What waits is answers, see answer.c.
 *
 * Who raises the limit leaves the rest to the writer thread. It is nudged only if the limit has hidden
 * something: the writer says so in `hides` and looks at the limit again, the other one raises the limit and
 * looks at `hides`; all seq_cst, so that one of them sees the other.
 *
 * That commits are limited stands in the manifest, with what was visible when it was written last. It is
 * never too high: a limit is a promise of others about a log, and a log that is cut and goes on in another
 * way (varve_rewind()) must not find an old one above its end. So opening lowers it to the log's end, too.
 *
 * Order of changes, so that a crash finds either, and no manifest that is written meanwhile undoes it: limits
 * begin in memory first and end in the manifest first; and manifests between are told only where the limit
 * is, not whether there is one.
 */
#include "engine/db/db_impl.h"

/* ---- the single writer: commit.lock is held ---- */

/* What merges had to keep only because nobody saw it. */
static void hint_merge(varve_db *db, uint64_t visible_lsn) {
    uint64_t awaited = atomic_load_explicit(&db->limit.merge_lsn, memory_order_seq_cst);
    if (awaited == 0 || visible_lsn < awaited)
        return;
    atomic_store_explicit(&db->limit.merge_lsn, 0, memory_order_relaxed);
    vv_db_compaction_hint(db);
}

void vv_db_publish(varve_db *db) {
    uint64_t lsn = db->commit.committed_lsn;
    uint64_t limit = atomic_load_explicit(&db->limit.lsn, memory_order_relaxed);
    bool hides = atomic_load_explicit(&db->limit.hides, memory_order_relaxed);
    if (limit == VV_COMMIT_LIMIT_NONE && !hides) {
        /* Pairs with the acquire of readers: they find the entries in the memtable. */
        atomic_store_explicit(&db->visible_lsn, lsn, memory_order_release);
        return;
    }
    if (limit < lsn) {
        atomic_store_explicit(&db->limit.hides, true, memory_order_seq_cst);
        limit = atomic_load_explicit(&db->limit.lsn, memory_order_seq_cst);
    }
    if (limit >= lsn)
        atomic_store_explicit(&db->limit.hides, false, memory_order_relaxed);
    lsn = VV_MIN(lsn, limit);
    if (lsn <= atomic_load_explicit(&db->visible_lsn, memory_order_relaxed))
        return;
    /* seq_cst: and vv_db_await_visible() sees it, or is seen. */
    atomic_store_explicit(&db->visible_lsn, lsn, memory_order_seq_cst);
    hint_merge(db, lsn);
}

void vv_db_confirm(varve_db *db) {
    if (!atomic_load_explicit(&db->limit.hides, memory_order_relaxed) && !db->waiting.first)
        return;
    uint64_t before = atomic_load_explicit(&db->visible_lsn, memory_order_relaxed);
    vv_db_publish(db);
    if (atomic_load_explicit(&db->visible_lsn, memory_order_relaxed) > before)
        vv_db_followers_notify(db);
    vv_db_answer_waiting(db);
}

static vv_status change_limit(varve_db *db, void *arg) {
    bool limited = *(const bool *)arg;
    if (limited == vv_db_commits_limited(db))
        return VV_STATUS_OK;
    uint64_t visible_lsn = atomic_load_explicit(&db->visible_lsn, memory_order_relaxed);
    atomic_store_explicit(&db->limit.lsn, limited ? visible_lsn : VV_COMMIT_LIMIT_NONE, memory_order_seq_cst);
    vv_db_confirm(db);
    return VV_STATUS_OK;
}

/* ---- others ---- */

void vv_db_limit_restore(varve_db *db, uint64_t last_lsn) {
    uint64_t limit = db->state.manifest.commit_limit;
    uint64_t visible_lsn = VV_MIN(limit, last_lsn);
    db->commit.committed_lsn = last_lsn;
    atomic_store_explicit(&db->limit.lsn, limit == VV_COMMIT_LIMIT_NONE ? limit : visible_lsn,
                          memory_order_relaxed);
    atomic_store_explicit(&db->limit.hides, visible_lsn < last_lsn, memory_order_relaxed);
    atomic_store_explicit(&db->visible_lsn, visible_lsn, memory_order_release);
}

uint64_t vv_db_await_visible(varve_db *db, uint64_t lsn) {
    if (atomic_load_explicit(&db->visible_lsn, memory_order_relaxed) < lsn)
        atomic_store_explicit(&db->limit.merge_lsn, lsn, memory_order_seq_cst);
    return atomic_load_explicit(&db->visible_lsn, memory_order_seq_cst);
}

void varve_set_commit_limit(varve_db *db, uint64_t lsn) {
    uint64_t now = atomic_load_explicit(&db->limit.lsn, memory_order_relaxed);
    lsn = VV_MIN(lsn, VV_COMMIT_LIMIT_NONE - 1);
    do {
        if (now == VV_COMMIT_LIMIT_NONE || lsn <= now)
            return;
    } while (!atomic_compare_exchange_weak_explicit(&db->limit.lsn, &now, lsn, memory_order_seq_cst,
                                                    memory_order_relaxed));
    if (atomic_load_explicit(&db->limit.hides, memory_order_seq_cst))
        vv_commit_queue_nudge(&db->commit.queue);
}

static void change(varve_db *db, bool limited) {
    vv_status_ignore(vv_db_call_writer(db, change_limit, &limited), "it can't fail");
}

static vv_status remember(varve_db *db, bool limited, vv_error *err) {
    vv_mutex_lock(&db->state.lock);
    bool remembered = (db->state.manifest.commit_limit != VV_COMMIT_LIMIT_NONE) == limited;
    vv_mutex_unlock(&db->state.lock);
    if (remembered)
        return VV_STATUS_OK;
    uint64_t limit =
        limited ? atomic_load_explicit(&db->visible_lsn, memory_order_acquire) : VV_COMMIT_LIMIT_NONE;
    vv_edit edit = {.commit_limit = &limit};
    vv_status st = vv_db_install(db, &edit, err);
    return vv_ok(st) ? st : vv_wrap(err, vv_db_file_failure(st), "commit limit");
}

varve_status varve_limit_commits(varve_db *db, bool limited, varve_error *err) {
    vv_error *e = vv_private_error(err);
    vv_mutex_lock(&db->limit.lock);
    if (limited)
        change(db, true);
    vv_status st = remember(db, limited, e);
    /* Ended, or not begun after all. */
    if (limited != vv_ok(st))
        change(db, false);
    vv_mutex_unlock(&db->limit.lock);
    return vv_public(st);
}
