/*
 * restore.c - a backup made a database again, and brought forward by an archive.
 *
 *   DEST/RESTORE/   tables, each checked; manifest; opened as a database; records of the archive applied;
 *                   flushed, closed
 *   DEST/           then all of it moves up, the manifest last
 *
 * While RESTORE is there and no manifest is, varve_open() refuses DEST: whenever the process dies, what it
 * leaves is no database, and the next restore to DEST removes it. Why a restored database survives: tables
 * and log were synced by whoever made them; their names are synced in DEST before the manifest gets its
 * name there, that is synced, and at last DEST's own name in its parent.
 *
 * Which records: of the archive's files, the last one that begins at or before the next LSN has it
 * (archive_dir.h). The epochs that they bring are added to the history that the backup has. Nothing is
 * promised to anybody and no epoch is begun: the first write of the restored database's own does that
 * (epochs.c), so that a restored directory may also become a follower.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/archive_dir.h"
#include "engine/db/table_copy.h"

#define LOCK_NAME    "LOCK"
#define QUEUE_DEPTH  8
#define BUFFER_COUNT 4
#define BUFFER_BYTES (UINT32_C(1) << 20)

/* Of the log that the records go through. Segments are filled with zeros before they are used, which for
 * larger ones takes longer than most restores have records for. */
#define SEGMENT_SIZE "8MiB"

typedef struct restore_job {
    const varve_restore_options *o;
    varve_restore_info *out;
    vv_error *err;
    vv_io_maker make_io;
    void *make_arg;
    vv_io_backend *io;
    char backup[VV_DB_PATH_BYTES];
    char dest[VV_DB_PATH_BYTES];
    char work[VV_DB_PATH_BYTES]; /* DEST/RESTORE */
    bool made_dir, made_lock;
    bool owns_dest; /* what is in it is ours to remove */
    vv_file *lock;

    vv_manifest manifest; /* of the backup */
    bool has_manifest;
    vv_table **tables;
    size_t table_count;
    vv_archive_dir archive;
    vv_throttle throttle;
    vv_table_copier copier;

    varve_db *db;      /* in `work` */
    uint64_t next_lsn; /* to be applied */
    bool done;         /* what was asked for is there */
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    size_t epoch_count;
} restore_job;

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0);
}

static vv_status internal(varve_status st) {
    return vv_status_make((vv_code)st.code, (vv_sub)st.reason, st.sys);
}

static void path_in(const char *dir, const char *name, char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s", dir, name);
}

static void keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* none of the backup's tables is ever obsolete */
}

/* ---- the directory ---- */

static bool is_data(const char *name) {
    size_t bytes = strlen(name);
    return (bytes > 4 && strcmp(name + bytes - 4, ".sst") == 0) || strncmp(name, "wal-", 4) == 0;
}

typedef struct dest_look {
    restore_job *j;
    bool lock;
    bool work; /* of a restore that was cut short: then what looks like data is its */
    char other[256];
    char data[256];
} dest_look;

static vv_status look_at_entry(void *arg, const char *name, vv_entry_kind kind) {
    dest_look *l = arg;
    if (strcmp(name, LOCK_NAME) == 0)
        l->lock = true;
    else if (strcmp(name, VV_RESTORE_NAME) == 0 && kind == VV_ENTRY_DIRECTORY)
        l->work = true;
    else
        snprintf(is_data(name) ? l->data : l->other, sizeof l->other, "%s", name);
    return VV_STATUS_OK;
}

static vv_status look_at_dest(restore_job *j, dest_look *l) {
    *l = (dest_look){.j = j};
    VV_TRY(vv_dir_list(j->io, j->dest, look_at_entry, l, j->err));
    const char *name = l->other[0] ? l->other : l->work ? "" : l->data;
    return name[0] ? vv_fail(j->err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "%s: is not empty: %s",
                             j->dest, name)
                   : VV_STATUS_OK;
}

typedef struct sweep {
    restore_job *j;
    const char *dir;
    bool all; /* else only data */
} sweep;

static vv_status sweep_entry(void *arg, const char *name, vv_entry_kind kind) {
    sweep *s = arg;
    char path[VV_DB_PATH_BYTES];
    if (kind == VV_ENTRY_DIRECTORY || (!s->all && !is_data(name)))
        return VV_STATUS_OK;
    path_in(s->dir, name, path);
    return vv_path_unlink(s->j->io, path, s->j->err);
}

static vv_status sweep_dir(restore_job *j, const char *dir, bool all) {
    sweep s = {.j = j, .dir = dir, .all = all};
    return vv_dir_list(j->io, dir, sweep_entry, &s, j->err);
}

/* Empty but for the lock, which is ours. RESTORE goes last: without it what is left would be taken for
 * somebody else's. */
static vv_status clear_dest(restore_job *j, const dest_look *l) {
    if (l->data[0]) {
        VV_TRY(sweep_dir(j, j->dest, false));
        VV_TRY(vv_dir_sync(j->io, j->dest, j->err));
    }
    if (!l->work)
        return VV_STATUS_OK;
    VV_TRY(sweep_dir(j, j->work, true));
    return vv_dir_remove(j->io, j->work, j->err);
}

static vv_status take_dest(restore_job *j) {
    char path[VV_DB_PATH_BYTES];
    dest_look l;
    vv_status st = vv_dir_create(j->io, j->dest, j->err);
    j->made_dir = vv_ok(st);
    if (!vv_ok(st) && !vv_is(st, VV_EXISTS))
        return st;
    VV_TRY(look_at_dest(j, &l));
    path_in(j->dest, LOCK_NAME, path);
    st = vv_lock_acquire(j->io, path, &j->lock, j->err);
    j->made_lock = !l.lock && !vv_is(st, VV_LOCKED);
    VV_TRY(st);
    /* Once more: somebody may have had the lock in between, and left. */
    VV_TRY(look_at_dest(j, &l));
    j->owns_dest = true;
    VV_TRY(clear_dest(j, &l));
    VV_TRY(vv_dir_create(j->io, j->work, j->err));
    /* Its name lasts before anything moves up, so that the next restore knows what it finds. */
    return vv_dir_sync(j->io, j->dest, j->err);
}

/* Take back everything that was made. */
static void remove_all(restore_job *j) {
    char path[VV_DB_PATH_BYTES];
    vv_error words, *err = j->err;
    j->err = &words; /* the failure before is what counts */
    if (j->owns_dest) {
        path_in(j->dest, VV_MANIFEST_NAME, path);
        vv_status_ignore(vv_path_unlink(j->io, path, NULL), "it is hardly ever there");
        vv_status_ignore(sweep_dir(j, j->dest, false), "what stays is no database");
        vv_status_ignore(sweep_dir(j, j->work, true), "what stays is no database");
        vv_status_ignore(vv_dir_remove(j->io, j->work, NULL), "what stays is no database");
    }
    if (j->made_lock) {
        path_in(j->dest, LOCK_NAME, path);
        vv_status_ignore(vv_path_unlink(j->io, path, NULL), "an empty file");
    }
    if (j->made_dir)
        vv_status_ignore(vv_dir_remove(j->io, j->dest, NULL), "an empty directory");
    j->err = err;
}

/* ---- what there is ---- */

static vv_status read_backup(restore_job *j) {
    vv_status st = vv_manifest_read(j->io, j->backup, &j->manifest, &j->tables, &j->table_count, keep_file,
                                    NULL, j->err);
    if (vv_is(st, VV_NOT_FOUND))
        return vv_fail(j->err, invalid(), "%s: is no backup: it has no " VV_MANIFEST_NAME, j->backup);
    VV_TRY(st);
    j->has_manifest = true;
    if (j->manifest.first_segment != 0)
        return vv_fail(j->err, invalid(),
                       "%s: has been opened as a database, and may have been written to; make a backup of it",
                       j->backup);
    j->out->backup_lsn = j->out->lsn = j->manifest.flushed_lsn;
    j->next_lsn = j->manifest.flushed_lsn + 1;
    if (j->o->to_lsn != 0 && j->o->to_lsn < j->manifest.flushed_lsn)
        return vv_fail(j->err, invalid(), "LSN %" PRIu64 " lies before the backup's, %" PRIu64, j->o->to_lsn,
                       j->manifest.flushed_lsn);
    if ((j->o->to_lsn > j->manifest.flushed_lsn || j->o->to_unix_ms != 0) && !j->o->archive_dir)
        return vv_fail(j->err, invalid(), "it takes an archive to go further than the backup, LSN %" PRIu64,
                       j->manifest.flushed_lsn);
    return VV_STATUS_OK;
}

static vv_status read_archive(restore_job *j) {
    vv_archive_position end;
    if (!j->o->archive_dir)
        return VV_STATUS_OK;
    VV_TRY(vv_archive_dir_read(j->io, j->o->archive_dir, &j->archive, j->err));
    for (size_t i = 0; i < j->archive.count; i++) {
        char path[VV_ARCHIVE_PATH_BYTES + 64];
        vv_archive_dir_file(&j->archive, j->archive.files[i].number, path);
        if (!vv_ok(j->archive.files[i].status))
            return vv_fail(j->err, j->archive.files[i].status, "%s: header: %s", path,
                           vv_sub_text(j->archive.files[i].status.sub));
    }
    if (j->archive.count > 0 && memcmp(j->archive.db_id, j->manifest.db_id, sizeof j->archive.db_id) != 0)
        return vv_fail(j->err, invalid(), "%s: is the archive of another database than the backup",
                       j->archive.path);
    /* Before anything is copied for it. */
    VV_TRY(vv_archive_dir_compare(j->io, &j->archive, NULL, 0, 0, &end, j->err));
    end.last_lsn = VV_MAX(end.last_lsn, j->manifest.flushed_lsn);
    if (j->o->to_lsn > end.last_lsn && !end.damaged)
        return vv_fail(j->err, invalid(), "LSN %" PRIu64 " lies behind the end of the archive, %" PRIu64,
                       j->o->to_lsn, end.last_lsn);
    return VV_STATUS_OK;
}

/* ---- the tables ---- */

static vv_status bring_table(restore_job *j, const vv_table *t) {
    char from[VV_DB_PATH_BYTES], to[VV_DB_PATH_BYTES];
    vv_status st = VV_STATUS_OK;
    vv_table_cache_path(j->backup, t->file_number, from, sizeof from);
    vv_table_cache_path(j->work, t->file_number, to, sizeof to);
    if (j->o->mode == VARVE_BACKUP_LINK && vv_table_link(&j->copier, t, from, to, &st))
        return st;
    VV_TRY(st);
    return vv_table_copy(&j->copier, t, from, to);
}

/* About what has to be read and written. */
static uint64_t work_bytes(restore_job *j) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < j->table_count; i++)
        bytes += j->tables[i]->summary.file_bytes * (j->o->mode == VARVE_BACKUP_COPY ? 2 : 1);
    for (size_t i = 0; i < j->archive.count; i++) {
        char path[VV_ARCHIVE_PATH_BYTES + 64];
        vv_file *file;
        uint64_t size;
        const vv_archive_entry *next = i + 1 < j->archive.count ? &j->archive.files[i + 1] : NULL;
        if (next && next->first_lsn <= j->next_lsn)
            continue; /* it is not read */
        vv_archive_dir_file(&j->archive, j->archive.files[i].number, path);
        if (!vv_ok(vv_file_open(j->io, path, VV_OPEN_READ, &file, NULL)))
            continue;
        if (vv_ok(vv_file_size(file, &size)))
            bytes += size;
        vv_file_close(file);
    }
    return bytes;
}

static vv_status check_room(restore_job *j) {
    uint64_t bytes = 0, room;
    for (size_t i = 0; i < j->table_count && j->o->mode == VARVE_BACKUP_COPY; i++)
        bytes += j->tables[i]->summary.file_bytes;
    vv_status st = vv_dir_free_bytes(j->io, j->dest, &room, NULL);
    if (!vv_ok(st) || room >= bytes) /* a file system that does not tell has its own NO_SPACE */
        return VV_STATUS_OK;
    return vv_fail(j->err, vv_status_make(VV_NO_SPACE, VV_SUB_NONE, 0),
                   "%s: %" PRIu64 " bytes to copy, %" PRIu64 " are free", j->dest, bytes, room);
}

static vv_status bring_tables(restore_job *j) {
    vv_io_queue_options o = {
        .depth = QUEUE_DEPTH, .pool_buffer_count = BUFFER_COUNT, .pool_buffer_bytes = BUFFER_BYTES};
    VV_TRY(check_room(j));
    vv_throttle_init(&j->throttle, 0, j->o->progress, j->o->arg, work_bytes(j));
    j->copier = (vv_table_copier){.io = j->io, .throttle = &j->throttle, .err = j->err};
    VV_TRY(vv_io_queue_create(j->io, &o, &j->copier.queue, j->err));
    for (size_t i = 0; i < j->table_count; i++)
        VV_TRY(bring_table(j, j->tables[i]));
    VV_TRY(vv_dir_sync(j->io, j->work, j->err));
    vv_version *version = vv_version_create(j->tables, j->table_count);
    if (!version)
        return vv_fail(j->err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
    vv_status st = vv_manifest_write(j->io, j->work, &j->manifest, version, NULL, j->err);
    vv_version_unref(version);
    return st;
}

/* ---- the archive ---- */

/* The epoch that the backup has at lsn. */
static const varve_epoch *epoch_at(const restore_job *j, uint64_t lsn) {
    const varve_epoch *e = &j->epochs[0];
    for (size_t i = 1; i < j->epoch_count && j->epochs[i].first_lsn <= lsn; i++)
        e = &j->epochs[i];
    return e;
}

static bool is_epoch(const varve_epoch *e, const vv_archive_frame *f) {
    return e->epoch == f->epoch.epoch && (e->id == f->epoch.id || e->id == 0 || f->epoch.id == 0);
}

static vv_status parted(restore_job *j, uint64_t lsn) {
    return vv_fail(j->err, invalid(),
                   "%s: has another history than the backup: they parted at or before LSN %" PRIu64,
                   j->archive.path, lsn);
}

/* The records at hand must go on with what the backup has, and not with what another primary wrote. */
static vv_status check_history(restore_job *j, const vv_archive_frame *f) {
    const varve_epoch *newest = &j->epochs[j->epoch_count - 1];
    uint64_t first_lsn = f->epoch.first_lsn ? f->epoch.first_lsn : VV_MAX(f->first_lsn, j->next_lsn);
    if (f->first_lsn < j->next_lsn && !is_epoch(epoch_at(j, f->first_lsn), f))
        return parted(j, f->first_lsn);
    if (f->last_lsn < j->next_lsn || is_epoch(newest, f))
        return VV_STATUS_OK;
    /* A primary that is new here: it must have begun behind what is here, and not before. */
    if (f->epoch.epoch <= newest->epoch || first_lsn < j->next_lsn)
        return parted(j, VV_MIN(first_lsn, j->next_lsn));
    if (j->epoch_count == VARVE_EPOCHS_MAX)
        memmove(j->epochs, j->epochs + 1, --j->epoch_count * sizeof *j->epochs);
    j->epochs[j->epoch_count++] =
        (varve_epoch){.epoch = f->epoch.epoch, .first_lsn = first_lsn, .id = f->epoch.id};
    varve_error words;
    vv_status st = internal(varve_follow_epochs(j->db, j->epochs, j->epoch_count, &words));
    return vv_ok(st) ? st : vv_fail(j->err, st, "%s", words.text);
}

/* Of the frame's records those that are wanted: behind what is there, up to the end. */
static vv_status choose(restore_job *j, const vv_archive_frame *f, uint64_t limit_lsn, vv_slice *out,
                        uint64_t *count_out) {
    vv_reader r = vv_reader_make(f->records);
    const uint8_t *from = NULL, *to = NULL;
    *count_out = 0;
    *out = vv_slice_make(NULL, 0);
    while (r.left_bytes > 0) {
        vv_record rec;
        const uint8_t *at = r.at;
        vv_status st = vv_record_decode(&r, &rec);
        if (!vv_ok(st))
            return vv_fail(j->err, st, "%s: LSN %" PRIu64 " and on: %s", j->archive.path, f->first_lsn,
                           vv_sub_text(st.sub));
        uint64_t last_lsn = rec.first_lsn + rec.op_count - 1;
        if (rec.first_lsn < j->next_lsn)
            continue;
        if (last_lsn >= limit_lsn)
            break;
        if (j->o->to_lsn != 0 && last_lsn > j->o->to_lsn) {
            j->done = true;
            break;
        }
        from = from ? from : at;
        to = r.at;
        ++*count_out;
    }
    if (from)
        *out = vv_slice_make(from, (size_t)(to - from));
    return VV_STATUS_OK;
}

/* ---- a moment before the backup ---- */

static vv_status backup_is_later(const restore_job *j, uint64_t lsn, uint64_t unix_ms) {
    return vv_fail(j->err, invalid(),
                   "the backup is of a later time: its LSN %" PRIu64 " was archived at Unix time %" PRIu64
                   " ms",
                   lsn, unix_ms);
}

/* A frame of after the moment has something that the backup has, too. One that has both that and what the
 * backup lacks has the time of its newest record; its others are not much older. */
static bool shows_later_backup(const restore_job *j, const vv_archive_frame *f) {
    return f->last_lsn < j->next_lsn ||
           (f->first_lsn < j->next_lsn && j->o->to_unix_ms + VV_ARCHIVE_FRAME_MS <= f->unix_ms);
}

/*
 * The file that goes on behind the backup begins with what the backup lacks: so the one before it tells when
 * the backup's newest record was archived. If there is none nobody knows, and the backup is taken for what
 * there was at that moment; what can't be read of it says nothing either.
 */
static vv_status check_backup_time(restore_job *j, size_t first) {
    const vv_archive_entry *files = j->archive.files;
    char path[VV_ARCHIVE_PATH_BYTES + 64];
    vv_error ignored;
    vv_archive_reader *r;
    vv_archive_frame f, last = {0};
    if (j->o->to_unix_ms == 0 || files[first].first_lsn != j->next_lsn)
        return VV_STATUS_OK;
    size_t i = first;
    while (i > 0 && !(vv_ok(files[i - 1].status) && files[i - 1].first_lsn < j->next_lsn))
        i--;
    if (i == 0)
        return VV_STATUS_OK;
    vv_archive_dir_file(&j->archive, files[i - 1].number, path);
    if (!vv_ok(vv_archive_reader_open(j->io, path, &r, &ignored)))
        return VV_STATUS_OK;
    while (vv_ok(vv_archive_reader_next(r, &f, &ignored)) && f.first_lsn < files[i - 1].limit_lsn)
        last = f;
    vv_archive_reader_close(r);
    return last.unix_ms > j->o->to_unix_ms ? backup_is_later(j, last.last_lsn, last.unix_ms) : VV_STATUS_OK;
}

/* ---- records ---- */

static vv_status use_frame(restore_job *j, const vv_archive_frame *f, uint64_t limit_lsn) {
    vv_slice records;
    uint64_t count, applied_lsn = 0;
    varve_error words;
    if (j->o->to_unix_ms != 0 && f->unix_ms > j->o->to_unix_ms) {
        j->done = true;
        return shows_later_backup(j, f) ? backup_is_later(j, VV_MIN(f->last_lsn, j->next_lsn - 1), f->unix_ms)
                                        : VV_STATUS_OK;
    }
    VV_TRY(check_history(j, f));
    VV_TRY(choose(j, f, limit_lsn, &records, &count));
    if (count == 0)
        return VV_STATUS_OK;
    vv_status st = internal(varve_apply(j->db, records.data, records.bytes, &applied_lsn, &words));
    if (!vv_ok(st))
        return vv_fail(j->err, st, "LSN %" PRIu64 " of the archive: %s", j->next_lsn, words.text);
    j->next_lsn = applied_lsn + 1;
    j->out->lsn = applied_lsn;
    j->out->unix_ms = f->unix_ms;
    j->out->records += count;
    return VV_STATUS_OK;
}

/* The records of one file that count. */
static vv_status use_file(restore_job *j, const vv_archive_entry *e) {
    char path[VV_ARCHIVE_PATH_BYTES + 64];
    vv_archive_reader *r;
    vv_archive_frame f;
    vv_archive_dir_file(&j->archive, e->number, path);
    VV_TRY(vv_archive_reader_open(j->io, path, &r, j->err));
    vv_status st = VV_STATUS_OK;
    while (vv_ok(st) && !j->done && vv_ok(st = vv_archive_reader_next(r, &f, j->err)) &&
           f.first_lsn < e->limit_lsn) {
        st = use_frame(j, &f, e->limit_lsn);
        if (vv_ok(st) && j->o->to_lsn != 0 && j->next_lsn > j->o->to_lsn)
            j->done = true;
        if (vv_ok(st) && !vv_throttle_pass(&j->throttle, VV_ARCHIVE_FRAME_HEAD_BYTES + f.records.bytes))
            st = vv_fail(j->err, vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0), "cancelled");
    }
    if (vv_is(st, VV_END))
        st = VV_STATUS_OK;
    vv_archive_reader_close(r);
    return st;
}

static vv_status gap(restore_job *j, uint64_t last_lsn) {
    return vv_fail(j->err, vv_status_make(VV_CORRUPTION, VV_SUB_LOG_GAP, 0),
                   "%s: LSN %" PRIu64 " to %" PRIu64
                   " are missing: an earlier LSN can be restored, or from a later backup",
                   j->archive.path, j->next_lsn, last_lsn);
}

/* The file that has the next LSN: the last that begins at or before it. From `from` on. */
static size_t file_of_next(const restore_job *j, size_t from) {
    size_t found = j->archive.count;
    for (size_t i = from; i < j->archive.count; i++)
        if (j->archive.files[i].first_lsn <= j->next_lsn)
            found = i;
    return found;
}

static vv_status use_archive(restore_job *j) {
    size_t i = 0;
    j->done = j->archive.count == 0 || (j->o->to_lsn != 0 && j->o->to_lsn < j->next_lsn);
    while (!j->done) {
        size_t next = file_of_next(j, i);
        if (next == j->archive.count) {
            /* What later files begin with shows whether there is a gap, or no more. */
            uint64_t first_lsn = UINT64_MAX;
            for (size_t k = i; k < j->archive.count; k++)
                first_lsn = VV_MIN(first_lsn, j->archive.files[k].first_lsn);
            return first_lsn == UINT64_MAX ? VV_STATUS_OK : gap(j, first_lsn - 1);
        }
        if (i == 0)
            VV_TRY(check_backup_time(j, next));
        VV_TRY(use_file(j, &j->archive.files[next]));
        i = next + 1;
    }
    return VV_STATUS_OK;
}

static vv_status open_work(restore_job *j) {
    varve_error words = {""};
    varve_options *o = varve_options_create();
    if (!o)
        return vv_fail(j->err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
    vv_status st = internal(varve_options_set(o, "WAL_SEGMENT_SIZE", SEGMENT_SIZE, &words));
    vv_io_backend *io = NULL;
    if (!vv_ok(st))
        st = vv_fail(j->err, st, "%s", words.text);
    if (vv_ok(st))
        st = j->make_io(j->make_arg, &io, j->err);
    if (vv_ok(st))
        st = vv_db_open_on(io, j->work, o, &j->db, j->err);
    varve_options_destroy(o);
    if (!vv_ok(st))
        return st;
    j->epoch_count = varve_epochs_get(j->db, j->epochs);
    return st;
}

static vv_status close_work(restore_job *j) {
    vv_status st = internal(varve_flush(j->db));
    if (!vv_ok(st))
        return vv_fail(j->err, st, "flush: %s", vv_code_text(st.code));
    st = internal(varve_close(j->db));
    j->db = NULL;
    return vv_ok(st) ? st : vv_fail(j->err, st, "close: %s", vv_code_text(st.code));
}

static vv_status bring_forward(restore_job *j) {
    if (!j->o->archive_dir)
        return VV_STATUS_OK;
    VV_TRY(open_work(j));
    VV_TRY(use_archive(j));
    if (j->o->to_lsn >= j->next_lsn && !j->done)
        return vv_fail(j->err, invalid(), "LSN %" PRIu64 " lies behind the end of the archive, %" PRIu64,
                       j->o->to_lsn, j->next_lsn - 1);
    return close_work(j);
}

/* ---- moving up ---- */

static vv_status move_entry(void *arg, const char *name, vv_entry_kind kind) {
    restore_job *j = arg;
    char from[VV_DB_PATH_BYTES], to[VV_DB_PATH_BYTES];
    if (kind == VV_ENTRY_DIRECTORY || !is_data(name))
        return VV_STATUS_OK;
    path_in(j->work, name, from);
    path_in(j->dest, name, to);
    return vv_path_rename(j->io, from, to, j->err);
}

static vv_status move_up(restore_job *j) {
    char from[VV_DB_PATH_BYTES], to[VV_DB_PATH_BYTES];
    VV_TRY(vv_dir_list(j->io, j->work, move_entry, j, j->err));
    VV_TRY(vv_dir_sync(j->io, j->dest, j->err));
    path_in(j->work, VV_MANIFEST_NAME, from);
    path_in(j->dest, VV_MANIFEST_NAME, to);
    VV_TRY(vv_path_rename(j->io, from, to, j->err));
    VV_TRY(vv_dir_sync(j->io, j->dest, j->err));
    VV_TRY(sweep_dir(j, j->work, true));
    VV_TRY(vv_dir_remove(j->io, j->work, j->err));
    return vv_db_sync_parent(j->io, NULL, j->dest, j->err);
}

/* ---- all of it ---- */

static vv_status run(restore_job *j, const char *backup_dir, const char *dest) {
    VV_TRY(j->make_io(j->make_arg, &j->io, j->err));
    VV_TRY(vv_db_dir_path(j->backup, backup_dir, j->err));
    VV_TRY(vv_db_dir_path(j->dest, dest, j->err));
    if (strlen(j->dest) + sizeof VV_RESTORE_NAME + 64 > sizeof j->work)
        return vv_fail(j->err, invalid(), "'%s': the path is too long", dest);
    path_in(j->dest, VV_RESTORE_NAME, j->work);
    VV_TRY(read_backup(j));
    VV_TRY(read_archive(j));
    VV_TRY(take_dest(j));
    VV_TRY(bring_tables(j));
    VV_TRY(bring_forward(j));
    return move_up(j);
}

static void release(restore_job *j) {
    vv_file_close(j->lock);
    vv_io_queue_destroy(j->copier.queue);
    for (size_t i = 0; i < j->table_count; i++)
        vv_table_unref(j->tables[i]);
    vv_free(j->tables);
    if (j->has_manifest)
        vv_manifest_deinit(&j->manifest);
    vv_archive_dir_deinit(&j->archive);
    vv_io_backend_destroy(j->io);
    vv_free(j);
}

varve_status vv_db_restore_on(vv_io_maker make, void *arg, const char *backup_dir, const char *dest,
                              const varve_restore_options *options, varve_restore_info *out,
                              varve_error *err) {
    static const varve_restore_options defaults;
    varve_restore_info ignored;
    vv_error words = {""}, *to = err ? vv_private_error(err) : &words;
    out = out ? out : &ignored;
    *out = (varve_restore_info){0};
    restore_job *j = vv_alloc_zeroed(sizeof *j);
    if (!j)
        return vv_public(vv_fail(to, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory"));
    j->o = options ? options : &defaults;
    j->make_io = make;
    j->make_arg = arg;
    j->out = out;
    j->err = to;
    vv_status st = run(j, backup_dir, dest);
    if (j->db)
        vv_status_ignore(internal(varve_close(j->db)), "the failure before is what counts");
    if (!vv_ok(st) && j->io)
        remove_all(j);
    release(j);
    if (vv_ok(st)) {
        to->text[0] = '\0'; /* of what was done in another way in the end */
        return vv_public(st);
    }
    *out = (varve_restore_info){0};
    return vv_public(vv_wrap(to, st, "restore"));
}

static vv_status make_default(void *arg, vv_io_backend **out, vv_error *err) {
    (void)arg;
    return vv_db_io_create(NULL, NULL, out, err);
}

varve_status varve_restore(const char *backup_dir, const char *dest, const varve_restore_options *options,
                           varve_restore_info *out, varve_error *err) {
    return vv_db_restore_on(make_default, NULL, backup_dir, dest, options, out, err);
}
