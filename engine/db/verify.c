/*
 * verify.c - looks for damage in the files of a running database: the manifest, the log as far as it is
 * needed, the tables.
 *
 * The tables are those of one version, which is held: none of their files goes away meanwhile. Each is opened
 * anew, so that nothing is believed because it was good when it was read before, and nothing that is read
 * here pushes anything out of a cache.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"

typedef struct verify_job {
    varve_db *db;
    const varve_verify_options *o;
    varve_verify_result *out;
    vv_throttle throttle;
    const char *path; /* of the file at hand */
} verify_job;

static void report(verify_job *j, const vv_sst_damage *d, const char *text) {
    varve_damage damage = {.file = j->path,
                           .offset = d->offset,
                           .bytes = d->bytes,
                           .first_key = d->first_key.data,
                           .first_key_bytes = d->first_key.bytes,
                           .last_key = d->last_key.data,
                           .last_key_bytes = d->last_key.bytes,
                           .status = vv_public(d->status),
                           .text = text};
    j->out->damage_count++;
    vv_log(&j->db->logger, VV_LOG_ERROR, "verify: %s", text);
    if (j->o->damaged)
        j->o->damaged(j->o->arg, &damage);
}

static const char *words_of(vv_status st) {
    return st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code);
}

static void block_damaged(void *arg, const vv_sst_damage *d) {
    verify_job *j = arg;
    vv_error text;
    vv_status_ignore(vv_fail(&text, d->status, "%s: data at %" PRIu64 ", %" PRIu64 " bytes: %s", j->path,
                             d->offset, d->bytes, words_of(d->status)),
                     "only its words are wanted");
    report(j, d, text.text);
}

static bool pace(void *arg, uint64_t bytes) {
    verify_job *j = arg;
    j->out->bytes += bytes;
    return vv_throttle_pass(&j->throttle, bytes);
}

/* Damage of a whole table: all of its keys may be lost. */
static void table_damaged(verify_job *j, const vv_table *t, uint64_t offset, vv_status st, const char *text) {
    vv_sst_damage d = {.offset = offset,
                       .bytes = t->summary.file_bytes - VV_MIN(offset, t->summary.file_bytes),
                       .first_key = vv_table_first_key(t),
                       .last_key = vv_table_last_key(t),
                       .status = st};
    report(j, &d, text);
}

static vv_status verify_table(verify_job *j, const vv_table *t) {
    char path[VV_DB_PATH_BYTES];
    vv_error words = {""};
    vv_sst_reader *r;
    uint64_t offset, blocks = 0;
    vv_table_cache_path(j->db->dir, t->file_number, path, sizeof path);
    j->path = path;
    j->out->file_count++;
    vv_status st = vv_sst_reader_open_at(j->db->io, path, t->file_number, &r, &offset, &words);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (!vv_ok(st)) {
        table_damaged(j, t, offset, st, words.text);
        return VV_STATUS_OK;
    }
    if (vv_sst_reader_item_count(r) != t->summary.item_count ||
        vv_sst_reader_max_lsn(r) != t->summary.max_lsn) {
        st = vv_fail(&words, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                     "%s: this is not the table that the manifest names", path);
        table_damaged(j, t, 0, st, words.text);
    }
    vv_sst_verify_options o = {.damaged = block_damaged, .pace = pace, .arg = j};
    st = vv_sst_verify_blocks(r, &o, &blocks);
    j->out->block_count += blocks;
    vv_sst_reader_close(r);
    return st;
}

static void keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* none of these tables is ever obsolete */
}

/* The file may be replaced meanwhile, by a rename: what is read is whole, the old one or the new one. */
static vv_status verify_manifest(verify_job *j) {
    char path[VV_DB_PATH_BYTES + 16];
    vv_manifest m;
    vv_table **tables;
    size_t count;
    vv_error words = {""};
    snprintf(path, sizeof path, "%s/" VV_MANIFEST_NAME, j->db->dir);
    j->path = path;
    j->out->file_count++;
    vv_status st = vv_manifest_read(j->db->io, j->db->dir, &m, &tables, &count, keep_file, NULL, &words);
    for (size_t i = 0; vv_ok(st) && i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    if (vv_ok(st))
        vv_manifest_deinit(&m);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (!vv_ok(st)) {
        vv_sst_damage d = {.status = st};
        report(j, &d, words.text);
    }
    return VV_STATUS_OK;
}

/* The log cannot be read at the cursor: what is behind is not reached. */
static void log_damaged(verify_job *j, vv_wal_cursor *c, vv_status st) {
    char path[VV_DB_PATH_BYTES];
    vv_error text;
    vv_sst_damage d = {.status = st};
    vv_wal_cursor_place(c, path, sizeof path, &d.offset);
    j->path = path;
    vv_status_ignore(vv_fail(&text, st,
                             "%s: record %" PRIu64 " at %" PRIu64 ": %s; a flush puts what it holds into "
                             "a table",
                             path, vv_wal_cursor_lsn(c) + 1, d.offset, words_of(st)),
                     "only its words are wanted");
    report(j, &d, text.text);
}

/* What only the log and a memtable have, up to what is durable now. TRIMMED: it has gone into tables
 * meanwhile. */
static vv_status verify_log_once(verify_job *j, uint64_t limit_lsn) {
    vv_wal_cursor *c;
    vv_record rec;
    uint64_t oldest_lsn;
    vv_mutex_lock(&j->db->state.lock);
    uint64_t flushed_lsn = j->db->state.manifest.flushed_lsn;
    vv_mutex_unlock(&j->db->state.lock);
    if (flushed_lsn >= limit_lsn)
        return VV_STATUS_OK;
    VV_TRY(vv_wal_cursor_open(j->db->wal, flushed_lsn, &c, &oldest_lsn));
    vv_wal_cursor_from_disk(c);
    vv_status st;
    do {
        st = vv_wal_cursor_next(c, limit_lsn, &rec, &oldest_lsn);
        if (vv_ok(st) && !pace(j, rec.ops.bytes))
            st = vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0);
    } while (vv_ok(st));
    if (vv_is(st, VV_END) || vv_is(st, VV_WAL_FAILED))
        st = VV_STATUS_OK;
    if (vv_is(st, VV_CORRUPTION) || vv_is(st, VV_IO)) {
        log_damaged(j, c, st);
        st = VV_STATUS_OK;
    }
    vv_wal_cursor_close(c);
    return st;
}

static vv_status verify_log(verify_job *j) {
    vv_wal_stats wal;
    vv_wal_stats_get(j->db->wal, &wal);
    j->throttle.total_bytes += wal.live_bytes;
    vv_status st;
    do
        st = verify_log_once(j, wal.durable_lsn);
    while (vv_is(st, VV_TRIMMED));
    return st;
}

static uint64_t file_bytes_of(const vv_version *v) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < v->table_count; i++)
        bytes += v->tables[i]->summary.file_bytes;
    return bytes;
}

varve_status varve_verify(varve_db *db, const varve_verify_options *options, varve_verify_result *out,
                          varve_error *err) {
    static const varve_verify_options defaults;
    verify_job j = {.db = db, .o = options ? options : &defaults, .out = out};
    vv_manifest manifest;
    vv_retry_image *retry;
    vv_version *version;
    *out = (varve_verify_result){0};
    vv_db_state_get(db, &manifest, &version, &retry);
    vv_throttle_init(&j.throttle, j.o->bytes_per_second, j.o->progress, j.o->arg, file_bytes_of(version));
    vv_status st = verify_manifest(&j);
    if (vv_ok(st))
        st = verify_log(&j);
    for (size_t i = 0; i < version->table_count && vv_ok(st); i++)
        st = verify_table(&j, version->tables[i]);
    vv_version_unref(version);
    vv_retry_image_unref(retry);
    if (!vv_ok(st))
        st = vv_fail(vv_private_error(err), st, "verify: %s", words_of(st));
    return vv_public(st);
}
