/*
 * backup.c - a second directory with the state of one LSN.
 *
 * In order: export taken, which keeps the tables' files; directory made; every table copied or linked, each
 * copy synced; names synced; every file read back and compared with the checksum that its table got when it
 * was written; then the manifest, written and synced like any other; at last the parent, which has the
 * directory's name. So a directory with a manifest is a whole backup, and one without is none: varve_open()
 * refuses it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "engine/db/table_copy.h"

#define LOCK_NAME "LOCK"

typedef struct backup_job {
    varve_db *db;
    const varve_backup_options *o;
    varve_backup_info *out;
    vv_error *err;
    char dest[VV_DB_PATH_BYTES];
    bool made_dir;
    bool saw_lock; /* of a backup that failed once, or of a process that died */
    bool made_lock;
    vv_file *lock;
    varve_export exported;
    bool owns_dest;    /* it was empty when we locked it: what is in it is ours */
    size_t made_count; /* of the export's files: there is something of these in dest */
    vv_table **base;   /* of the earlier backup */
    size_t base_count;
    vv_throttle throttle;
    vv_table_copier copier;
} backup_job;

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0);
}

static void keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* none of the base's tables is ever obsolete */
}

static const vv_table *table_of(const backup_job *j, size_t i) {
    return vv_db_export_version(&j->exported)->tables[i];
}

/* ---- the directory ---- */

static void path_in(const char *dir, const char *name, char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s", dir, name);
}

static vv_status refuse_entry(void *arg, const char *name, vv_entry_kind kind) {
    backup_job *j = arg;
    (void)kind;
    if (strcmp(name, LOCK_NAME) == 0) {
        j->saw_lock = true;
        return VV_STATUS_OK;
    }
    return vv_fail(j->err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "%s: is not empty: %s", j->dest, name);
}

/* An empty directory of ours, locked: whoever opens it as a database, or backs up into it, is refused. */
static vv_status take_dest(backup_job *j) {
    char path[VV_DB_PATH_BYTES];
    vv_status st = vv_dir_create(j->db->io, j->dest, j->err);
    j->made_dir = vv_ok(st);
    if (!vv_ok(st) && (!vv_is(st, VV_EXISTS) || j->o->must_create))
        return st;
    VV_TRY(vv_dir_list(j->db->io, j->dest, refuse_entry, j, j->err));
    bool made_lock = !j->saw_lock;
    path_in(j->dest, LOCK_NAME, path);
    st = vv_lock_acquire(j->db->io, path, &j->lock, j->err);
    /* Its file may be there without the lock; one that another has is his. */
    j->made_lock = made_lock && !vv_is(st, VV_LOCKED);
    VV_TRY(st);
    /* Once more: somebody may have had the lock in between, and left. */
    VV_TRY(vv_dir_list(j->db->io, j->dest, refuse_entry, j, j->err));
    j->owns_dest = true;
    return VV_STATUS_OK;
}

static void unlink_in_dest(backup_job *j, const char *name) {
    char path[VV_DB_PATH_BYTES];
    path_in(j->dest, name, path);
    vv_status_ignore(vv_path_unlink(j->db->io, path, NULL), "the failure before is what counts");
}

/* Take back everything that was made. */
static void remove_all(backup_job *j) {
    for (size_t i = 0; i < j->made_count; i++)
        unlink_in_dest(j, j->exported.files[i].name);
    if (j->owns_dest) {
        unlink_in_dest(j, VV_MANIFEST_TEMP_NAME);
        unlink_in_dest(j, VV_MANIFEST_NAME);
    }
    if (j->made_lock)
        unlink_in_dest(j, LOCK_NAME);
    if (j->made_dir)
        vv_status_ignore(vv_dir_remove(j->db->io, j->dest, NULL), "the failure before is what counts");
}

/* ---- the earlier backup ---- */

static vv_status read_base(backup_job *j) {
    vv_manifest m;
    vv_error words = {""};
    if (!j->o->base_dir)
        return VV_STATUS_OK;
    vv_status st =
        vv_manifest_read(j->db->io, j->o->base_dir, &m, &j->base, &j->base_count, keep_file, NULL, &words);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (!vv_ok(st))
        return vv_fail(j->err, invalid(), "%s: is no backup to build on: %s", j->o->base_dir, words.text);
    vv_manifest_deinit(&m);
    const vv_manifest *ours = vv_db_export_manifest(&j->exported);
    if (memcmp(m.db_id, ours->db_id, sizeof m.db_id) != 0)
        return vv_fail(j->err, invalid(), "%s: is a backup of another database", j->o->base_dir);
    return VV_STATUS_OK;
}

/* Does the earlier backup name the same table? By its checksum: after a restore a number may come again. */
static bool base_has(const backup_job *j, const vv_table *t) {
    for (size_t i = 0; i < j->base_count; i++) {
        const vv_sst_summary *s = &j->base[i]->summary;
        if (j->base[i]->file_number == t->file_number)
            return s->file_bytes == t->summary.file_bytes && s->file_checksum == t->summary.file_checksum &&
                   s->file_checksum != 0;
    }
    return false;
}

/* ---- one file ---- */

static vv_status bring(backup_job *j, size_t i) {
    const vv_table *t = table_of(j, i);
    char from[VV_DB_PATH_BYTES], to[VV_DB_PATH_BYTES];
    vv_status st = VV_STATUS_OK;
    path_in(j->db->dir, j->exported.files[i].name, from);
    path_in(j->dest, j->exported.files[i].name, to);
    if (j->o->mode == VARVE_BACKUP_LINK && vv_table_link(&j->copier, t, from, to, &st))
        return st;
    if (vv_ok(st) && base_has(j, t)) {
        char base[VV_DB_PATH_BYTES];
        path_in(j->o->base_dir, j->exported.files[i].name, base);
        if (vv_table_link(&j->copier, t, base, to, &st))
            return st;
    }
    VV_TRY(st);
    return vv_table_copy(&j->copier, t, from, to);
}

/* ---- all of it ---- */

/* What is certainly copied, by what is known beforehand. */
static uint64_t copy_bytes(const backup_job *j) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < j->exported.file_count; i++)
        if (j->o->mode == VARVE_BACKUP_COPY && !base_has(j, table_of(j, i)))
            bytes += j->exported.files[i].size;
    return bytes;
}

static vv_status check_room(backup_job *j, uint64_t bytes) {
    uint64_t room;
    vv_status st = vv_dir_free_bytes(j->db->io, j->dest, &room, NULL);
    if (!vv_ok(st) || room >= bytes) /* a file system that does not tell has its own NO_SPACE */
        return VV_STATUS_OK;
    return vv_fail(j->err, vv_status_make(VV_NO_SPACE, VV_SUB_NONE, 0),
                   "%s: %" PRIu64 " bytes to copy, %" PRIu64 " are free", j->dest, bytes, room);
}

/* What stands there is read as a database, and says what was exported. */
static vv_status check_manifest(backup_job *j) {
    vv_manifest m;
    vv_table **tables = NULL;
    size_t count = 0;
    VV_TRY(vv_manifest_read(j->db->io, j->dest, &m, &tables, &count, keep_file, NULL, j->err));
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    vv_manifest_deinit(&m);
    if (m.flushed_lsn != j->exported.lsn || count != j->exported.file_count)
        return vv_fail(j->err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                       "%s: the manifest is not read back as "
                       "it was written",
                       j->dest);
    return VV_STATUS_OK;
}

static vv_status fill_dest(backup_job *j) {
    uint64_t bytes = copy_bytes(j);
    VV_TRY(check_room(j, bytes));
    j->copier =
        (vv_table_copier){.io = j->db->io, .logger = &j->db->logger, .throttle = &j->throttle, .err = j->err};
    VV_TRY(vv_db_flush_queue_create(j->db, &j->copier.queue, j->err));
    vv_throttle_init(&j->throttle, j->o->bytes_per_second, j->o->progress, j->o->arg, bytes + j->out->bytes);
    for (size_t i = 0; i < j->exported.file_count; i++) {
        j->made_count = i + 1;
        VV_TRY(bring(j, i));
    }
    j->out->copied_bytes = j->copier.copied_bytes;
    /* Every name must last before the manifest speaks of it. */
    VV_TRY(vv_dir_sync(j->db->io, j->dest, j->err));
    VV_TRY(vv_manifest_write(j->db->io, j->dest, vv_db_export_manifest(&j->exported),
                             vv_db_export_version(&j->exported), NULL, j->err));
    VV_TRY(check_manifest(j));
    return vv_db_sync_parent(j->db->io, &j->db->logger, j->dest, j->err);
}

static vv_status run(backup_job *j, const char *dest) {
    VV_TRY(vv_db_dir_path(j->dest, dest, j->err));
    VV_TRY(take_dest(j));
    varve_status taken = varve_take_snapshot(j->db, &j->exported, (varve_error *)j->err);
    if (!varve_ok(taken))
        return vv_status_make((vv_code)taken.code, (vv_sub)taken.reason, taken.sys);
    VV_TRY(read_base(j));
    j->out->lsn = j->exported.lsn;
    j->out->file_count = j->exported.file_count + 1;
    j->out->bytes = j->exported.manifest_bytes;
    for (size_t i = 0; i < j->exported.file_count; i++)
        j->out->bytes += j->exported.files[i].size;
    return fill_dest(j);
}

varve_status varve_backup(varve_db *db, const char *dest, const varve_backup_options *options,
                          varve_backup_info *out, varve_error *err) {
    static const varve_backup_options defaults;
    varve_backup_info ignored;
    vv_error words = {""};
    backup_job j = {.db = db,
                    .o = options ? options : &defaults,
                    .out = out ? out : &ignored,
                    .err = err ? vv_private_error(err) : &words};
    uint64_t start_ns = vv_clock_mono_ns();
    *j.out = (varve_backup_info){0};
    vv_status st = run(&j, dest);
    if (!vv_ok(st))
        remove_all(&j);
    vv_file_close(j.lock);
    vv_db_flush_queue_destroy(db, j.copier.queue);
    for (size_t i = 0; i < j.base_count; i++)
        vv_table_unref(j.base[i]);
    vv_free(j.base);
    varve_export_release(db, &j.exported);
    if (vv_ok(st)) {
        j.err->text[0] = '\0'; /* of what was done in another way in the end */
        vv_log(&db->logger, VV_LOG_INFO,
               "backup to %s: LSN %" PRIu64 ", %" PRIu64 " files, %" PRIu64 " bytes, %" PRIu64
               " of them copied, in %" PRIu64 " ms",
               j.dest, j.out->lsn, j.out->file_count, j.out->bytes, j.out->copied_bytes,
               (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS);
        return vv_public(st);
    }
    *j.out = (varve_backup_info){0};
    return vv_public(vv_wrap(j.err, st, "backup"));
}
