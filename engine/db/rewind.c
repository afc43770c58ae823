/*
 * rewind.c - the end of the log is cut off: what a replica has that its primary has not.
 *
 *   log:   ......... lsn | tail ..........
 *
 *   tail --> NAME.tmp, synced --> CUT(lsn, NAME) --> NAME --> log up to lsn --> tables --> manifest
 *        --> no segments --> no CUT
 *
 * A log can't be cut in its middle: its frames speak for each other (wal_recover.c), and one that is cut
 * behind an acknowledged record is what damage looks like. So what stays of it goes into tables, the manifest
 * says that there is no log, and the next one begins anew, under an id of its own.
 *
 * The marker CUT (marker.h) is written when the tail is whole and synced in its file. Before that nothing was
 * changed; from then on each step may be done twice, and whoever opens the directory does them first:
 *
 *   - NAME.tmp gets its name, if it is still there;
 *   - if the manifest's flushed LSN is below lsn, the log is read from there up to lsn, into memtables and
 *     tables: as any recovery flushes, so that it may be cut short between two of them;
 *   - the manifest forgets what lies behind lsn, and the log;
 *   - only then segments go, in any order: nobody reads them any more.
 *
 * Why the tail survives: its file and its name are synced before the marker is, and until the marker is
 * there the log has it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "engine/db/archive_file.h"
#include "engine/db/db_impl.h"

#define STEP_CUT 1

static void path_in(const varve_db *db, const char *name, const char *suffix, char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s%s", db->dir, name, suffix);
}

static vv_wal_options log_options(const varve_db *db) {
    return (vv_wal_options){.backend = db->io,
                            .dir = db->dir,
                            .logger = &db->logger,
                            .segment_bytes = db->settings.wal_segment_bytes,
                            .slot_count = (uint32_t)db->settings.wal_slot_count,
                            .first_segment = db->state.manifest.first_segment,
                            .replay_after_lsn = db->state.manifest.flushed_lsn};
}

/* ---- from the marker on ---- */

typedef struct kept_part {
    vv_replay replay;
    uint64_t lsn;
} kept_part;

static vv_status keep_record(void *arg, const vv_record *rec) {
    kept_part *k = arg;
    return rec->first_lsn <= k->lsn ? vv_replay_record(&k->replay, rec) : VV_STATUS_OK;
}

/* What the log has up to lsn, into tables. */
static vv_status flush_kept(varve_db *db, uint64_t lsn, vv_error *err) {
    kept_part k = {.replay = {.db = db}, .lsn = lsn};
    vv_wal_options o = log_options(db);
    uint64_t last_lsn;
    VV_TRY(vv_db_flush_queue_create(db, &k.replay.queue, err));
    vv_status st = vv_wal_replay(&o, keep_record, &k, &last_lsn, err);
    if (vv_ok(st))
        st = vv_replay_finish(&k.replay);
    if (vv_ok(st) && vv_memtable_count(db->commit.active) > 0)
        st = vv_db_seal(db);
    vv_status flushed = VV_STATUS_OK;
    while (vv_ok(st) && vv_ok(flushed) && vv_db_flush_oldest(db, k.replay.queue, &flushed))
        ;
    vv_status_keep(&st, flushed);
    vv_db_flush_queue_destroy(db, k.replay.queue);
    if (vv_ok(st) && db->state.manifest.flushed_lsn != lsn)
        st = vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0),
                     "%s: the log ends with LSN %" PRIu64, db->dir, last_lsn);
    return vv_ok(st) ? st : vv_wrap(err, st, "flush the log up to LSN %" PRIu64, lsn);
}

/* All that the manifest says of LSNs that will be given out again. The promise stays: it is the directory's.
 */
static vv_status forget_behind(varve_db *db, uint64_t lsn, vv_error *err) {
    vv_manifest *m = &db->state.manifest;
    m->first_segment = 0;
    while (m->epochs.count > 1 && m->epochs.items[m->epochs.count - 1].first_lsn > lsn)
        m->epochs.count--;
    /* What was written under it, and is cut, must not be written under it again with other content. */
    m->epochs.newest_is_ours = false;
    for (uint32_t i = 0; i < m->slot_count; i++)
        m->slots[i].lsn = VV_MIN(m->slots[i].lsn, lsn);
    vv_db_slots_load(db, m);
    m->safe_compaction_lsn = VV_MIN(m->safe_compaction_lsn, lsn);
    if (m->commit_limit != VV_COMMIT_LIMIT_NONE)
        m->commit_limit = VV_MIN(m->commit_limit, lsn);
    m->generation++;
    db->epoch = vv_manifest_epoch(m);
    return vv_manifest_write(db->io, db->dir, m, db->state.view->version, NULL, err);
}

typedef struct segment_sweep {
    varve_db *db;
    size_t found;
    vv_error *err;
} segment_sweep;

static vv_status remove_segment(void *arg, const char *name, vv_entry_kind kind) {
    segment_sweep *s = arg;
    char path[VV_DB_PATH_BYTES];
    uint64_t seq;
    (void)kind;
    if (!vv_wal_name_parse(name, ".log", &seq))
        return VV_STATUS_OK;
    s->found++;
    path_in(s->db, name, "", path);
    return vv_path_unlink(s->db->io, path, s->err);
}

/* Until none is found: a listing that others change may miss something. */
static vv_status remove_segments(varve_db *db, vv_error *err) {
    segment_sweep s = {.db = db, .err = err};
    do {
        s.found = 0;
        VV_TRY(vv_dir_list(db->io, db->dir, remove_segment, &s, err));
    } while (s.found > 0);
    return VV_STATUS_OK;
}

static vv_status name_tail(varve_db *db, const char *name, vv_error *err) {
    char temp[VV_DB_PATH_BYTES], path[VV_DB_PATH_BYTES];
    bool exists;
    path_in(db, name, VV_MARKER_TEMP_SUFFIX, temp);
    path_in(db, name, "", path);
    VV_TRY(vv_path_exists(db->io, temp, &exists, err));
    if (!exists) /* it has its name, or somebody has taken it elsewhere by now */
        return VV_STATUS_OK;
    VV_TRY(vv_path_rename(db->io, temp, path, err));
    return vv_dir_sync(db->io, db->dir, err);
}

static vv_status complete(varve_db *db, const vv_marker *marker, vv_error *err) {
    uint64_t lsn = marker->lsn;
    if (marker->step != STEP_CUT || db->state.manifest.flushed_lsn > lsn)
        return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                       "%s/" VV_CUT_NAME ": makes no sense", db->dir);
    if (marker->names[0][0])
        VV_TRY(name_tail(db, marker->names[0], err));
    if (db->state.manifest.flushed_lsn < lsn)
        VV_TRY(flush_kept(db, lsn, err));
    VV_TRY(forget_behind(db, lsn, err));
    VV_TRY(remove_segments(db, err));
    VV_TRY(vv_marker_remove(db->io, db->dir, VV_CUT_NAME, err));
    vv_log(&db->logger, VV_LOG_INFO, "%s: cut behind LSN %" PRIu64 "%s%s", db->dir, lsn,
           marker->names[0][0] ? ", what was behind it is in " : "", marker->names[0]);
    return VV_STATUS_OK;
}

vv_status vv_db_rewind_complete(varve_db *db, vv_error *err) {
    vv_marker marker;
    bool begun;
    VV_TRY(vv_marker_read(db->io, db->dir, VV_CUT_NAME, &marker, &begun, err));
    if (!begun)
        return VV_STATUS_OK;
    vv_status st = complete(db, &marker, err);
    return vv_ok(st) ? st : vv_wrap(err, st, "complete what " VV_CUT_NAME " began");
}

/* ---- before the marker ---- */

typedef struct tail {
    varve_db *db;
    uint64_t lsn; /* it begins behind this one */
    vv_archive_writer *writer;
    uint64_t unix_ms;
    vv_error *err;
    char temp[VV_DB_PATH_BYTES];
} tail;

static vv_status create_tail(tail *t) {
    vv_archive_head head = {.first_lsn = t->lsn + 1, .created_unix_ms = t->unix_ms};
    bool exists;
    memcpy(head.db_id, t->db->state.manifest.db_id, sizeof head.db_id);
    /* Of a try that was cut short before its marker. */
    VV_TRY(vv_path_exists(t->db->io, t->temp, &exists, t->err));
    if (exists)
        VV_TRY(vv_path_unlink(t->db->io, t->temp, t->err));
    return vv_archive_writer_create(t->db->io, t->temp, &head, &t->writer, t->err);
}

static vv_epoch find_epoch(const vv_epoch_history *h, uint64_t epoch) {
    for (uint32_t i = h->count; i > 0; i--)
        if (h->items[i - 1].epoch == epoch)
            return h->items[i - 1];
    return (vv_epoch){.epoch = epoch};
}

static vv_status add_to_tail(void *arg, const vv_record *rec) {
    tail *t = arg;
    if (rec->first_lsn + rec->op_count - 1 <= t->lsn)
        return VV_STATUS_OK;
    if (rec->first_lsn <= t->lsn)
        return vv_fail(t->err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "LSN %" PRIu64 " lies within the batch of LSNs %" PRIu64 " to %" PRIu64, t->lsn,
                       rec->first_lsn, rec->first_lsn + rec->op_count - 1);
    if (!t->writer)
        VV_TRY(create_tail(t));
    vv_epoch epoch = find_epoch(&t->db->state.manifest.epochs, rec->epoch);
    vv_status st = vv_archive_writer_add(t->writer, rec, &epoch, t->unix_ms);
    return vv_ok(st) ? st : vv_fail(t->err, st, "%s: %s", t->temp, vv_code_text(st.code));
}

/* All behind lsn, in a file that survives power loss. *last_lsn_out: where the log ends. */
static vv_status save_tail(tail *t, uint64_t *last_lsn_out) {
    vv_wal_options o = log_options(t->db);
    VV_TRY(vv_wal_replay(&o, add_to_tail, t, last_lsn_out, t->err));
    if (t->lsn > *last_lsn_out)
        return vv_fail(t->err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "LSN %" PRIu64 " lies behind the end of the log, %" PRIu64, t->lsn, *last_lsn_out);
    if (!t->writer)
        return VV_STATUS_OK;
    vv_status st = vv_archive_writer_sync(t->writer);
    if (!vv_ok(st))
        return vv_fail(t->err, st, "%s: %s", t->temp, vv_code_text(st.code));
    return vv_dir_sync(t->db->io, t->db->dir, t->err);
}

static vv_status cut(varve_db *db, uint64_t lsn, const char *tail_path, uint64_t *cut_out, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    vv_marker marker = {.step = STEP_CUT, .lsn = lsn};
    tail t = {.db = db, .lsn = lsn, .unix_ms = vv_clock_unix_ms(), .err = err};
    uint64_t last_lsn;
    bool exists;
    VV_TRY(vv_db_name_in(db->dir, tail_path, marker.names[0], err));
    path_in(db, marker.names[0], "", path);
    path_in(db, marker.names[0], VV_MARKER_TEMP_SUFFIX, t.temp);
    VV_TRY(vv_path_exists(db->io, path, &exists, err));
    if (exists)
        return vv_fail(err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "%s: is there", path);
    if (lsn < db->state.manifest.flushed_lsn)
        return vv_fail(err, vv_status_make(VV_TRIMMED, VV_SUB_NONE, 0),
                       "tables hold all up to LSN %" PRIu64 " already", db->state.manifest.flushed_lsn);
    vv_status st = save_tail(&t, &last_lsn);
    bool saved = t.writer != NULL;
    vv_archive_writer_close(t.writer);
    if (!vv_ok(st)) {
        if (saved)
            vv_status_ignore(vv_path_unlink(db->io, t.temp, NULL), "the next try removes it");
        return st;
    }
    if (!saved)
        marker.names[0][0] = '\0';
    VV_TRY(vv_marker_write(db->io, db->dir, VV_CUT_NAME, &marker, err));
    VV_TRY(complete(db, &marker, err));
    *cut_out = last_lsn - lsn;
    return VV_STATUS_OK;
}

vv_status vv_db_rewind_on(vv_io_backend *io_take, const char *dir, const varve_options *options, uint64_t lsn,
                          const char *tail_path, uint64_t *cut_out, vv_error *err) {
    varve_db *db;
    vv_status st = vv_db_load_on(io_take, dir, options, &db, err);
    if (vv_ok(st)) {
        st = cut(db, lsn, tail_path, cut_out, err);
        vv_status_ignore(vv_db_unload(db), "no log was open");
    }
    return vv_ok(st) ? st : vv_wrap(err, st, "rewind to LSN %" PRIu64, lsn);
}

varve_status varve_rewind(const char *dir, const varve_options *options, uint64_t lsn, const char *tail_path,
                          uint64_t *cut_out, varve_error *err) {
    vv_error *words = vv_private_error(err);
    uint64_t ignored;
    bool exists;
    if (!cut_out)
        cut_out = &ignored;
    *cut_out = 0;
    varve_status there = varve_exists(dir, &exists, err);
    if (!varve_ok(there))
        return there;
    if (!exists)
        return vv_public(
            vv_fail(words, vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0), "%s: there is no database", dir));
    return vv_public(vv_db_rewind_on(NULL, dir, options, lsn, tail_path, cut_out, words));
}
