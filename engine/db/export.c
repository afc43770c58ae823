/*
 * export.c - the database as of one LSN, as files that stay.
 *
 * Tables hold what was flushed, all of it up to the manifest's flushed LSN and nothing beyond. So an export
 * is a reference to a version, taken together with the manifest that belongs to it; compaction may replace
 * the tables as it likes: a table's file goes with its last reference (lsm/version.h).
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"

#define NAME_BYTES 32

typedef struct export_state {
    vv_version *version;
    vv_retry_image *retry;
    vv_manifest manifest;
    uint8_t *bytes; /* of the manifest */
    varve_export_file *files;
    char (*names)[NAME_BYTES];
} export_state;

void vv_db_state_get(varve_db *db, vv_manifest *manifest_out, vv_version **version_out,
                     vv_retry_image **retry_out) {
    vv_mutex_lock(&db->state.lock);
    *manifest_out = db->state.manifest;
    *version_out = db->state.view->version;
    vv_version_ref(*version_out);
    *retry_out = db->state.flushed_retry;
    vv_retry_image_ref(*retry_out);
    vv_mutex_unlock(&db->state.lock);
}

vv_version *vv_db_export_version(const varve_export *e) {
    return ((const export_state *)e->state_)->version;
}

const vv_manifest *vv_db_export_manifest(const varve_export *e) {
    return &((const export_state *)e->state_)->manifest;
}

static void state_destroy(export_state *s) {
    if (s->version)
        vv_version_unref(s->version);
    vv_retry_image_unref(s->retry);
    vv_free(s->bytes);
    vv_free(s->files);
    vv_free(s->names);
    vv_free(s);
}

static void describe(export_state *s, size_t i) {
    const vv_table *t = s->version->tables[i];
    char path[NAME_BYTES + 8];
    vv_table_cache_path(".", t->file_number, path, sizeof path);
    snprintf(s->names[i], NAME_BYTES, "%s", strrchr(path, '/') + 1);
    s->files[i] = (varve_export_file){.name = s->names[i],
                                      .level = t->level,
                                      .size = t->summary.file_bytes,
                                      .checksum = t->summary.file_checksum};
}

/* What the manifest says of more than the tables. */
static void leave_behind(vv_manifest *m) {
    /* The log begins anew: there is none beside the tables. */
    m->first_segment = 0;
    /* Of an epoch that begins behind the tables there is nothing here. Who writes behind them without being
     * told another history begins an epoch of his own, or his log and ours would pass for the same. */
    while (m->epochs.count > 1 && m->epochs.items[m->epochs.count - 1].first_lsn > m->flushed_lsn)
        m->epochs.count--;
    m->epochs.newest_is_ours = false;
    /* Promises, limits (but see fill()) and slots are this directory's, and not of what it holds. */
    m->promised_epoch = vv_manifest_epoch(m);
    m->commit_limit = VV_COMMIT_LIMIT_NONE;
    m->slot_count = 0;
}

static vv_status fill(varve_db *db, export_state *s, varve_export *out) {
    /* Before the tables are taken: what is visible by then, they have or the log behind them. */
    uint64_t visible_lsn = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
    vv_db_state_get(db, &s->manifest, &s->version, &s->retry);
    bool limited = s->manifest.commit_limit != VV_COMMIT_LIMIT_NONE;
    leave_behind(&s->manifest);
    size_t count = s->version->table_count, bytes;
    s->files = vv_alloc((count + 1) * sizeof *s->files);
    s->names = vv_alloc((count + 1) * sizeof *s->names);
    if (!s->files || !s->names)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    for (size_t i = 0; i < count; i++)
        describe(s, i);
    /* Whoever makes a database of the files directly is a replica of this one: what is not confirmed yet it
     * may not show either. A backup, which has its manifest from s, is a database of its own. */
    vv_manifest sent = s->manifest;
    if (limited)
        sent.commit_limit = VV_MIN(visible_lsn, sent.flushed_lsn);
    VV_TRY(vv_manifest_encode(&sent, s->version, &s->bytes, &bytes));
    *out = (varve_export){.lsn = s->manifest.flushed_lsn,
                          .files = s->files,
                          .file_count = count,
                          .manifest = s->bytes,
                          .manifest_bytes = bytes,
                          .state_ = s};
    return VV_STATUS_OK;
}

varve_status varve_take_snapshot(varve_db *db, varve_export *out, varve_error *err) {
    vv_error *words = vv_private_error(err);
    *out = (varve_export){0};
    varve_status flushed = varve_flush(db);
    if (!varve_ok(flushed)) {
        vv_status st = vv_status_make((vv_code)flushed.code, (vv_sub)flushed.reason, flushed.sys);
        return vv_public(vv_fail(words, st, "snapshot: flush: %s", vv_code_text(flushed.code)));
    }
    export_state *s = vv_alloc_zeroed(sizeof *s);
    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (s)
        st = fill(db, s, out);
    if (vv_ok(st))
        return vv_public(st);
    if (s)
        state_destroy(s);
    return vv_public(vv_fail(words, st, "snapshot: out of memory"));
}

void varve_export_release(varve_db *db, varve_export *exported) {
    (void)db;
    if (exported->state_)
        state_destroy(exported->state_);
    *exported = (varve_export){0};
}
