/*
 * archive.c - everything that is written, copied to a directory as soon as it is durable.
 *
 *   log --cursor--> writer's buffer --> file --sync, once an interval--> slot confirmed: the log may forget
 *
 * One thread. It sleeps until the cursor's descriptor says that there is more, a sync is due, or it is told
 * to end. What is archived and synced is confirmed to its slot, and nothing else is: so whatever is
 * lost between the log and the archive's disk is still in the log, and is archived again. A file is begun
 * only when all of the one before it is synced, or when it replaces the rest of that one.
 *
 * Going on after a restart: the archive's last frames name the epoch that they belong to. The database's
 * history of epochs says how far both have the same log (archive_dir.h). Usually that is the end of the
 * archive: its last file is gone on with, behind its last whole frame. If the database was rewound
 * meanwhile, or restored, it is before that: a new file begins there, and replaces what the database does not
 * have any more. If the log does not reach back so far, records are missing: a gap, and a file behind it.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/archive_dir.h"
#include "engine/db/db_impl.h"

#define LOCK_NAME                "LOCK"
#define TEMP_SUFFIX              ".tmp"
#define FILE_BYTES_DEFAULT       (UINT64_C(64) << 20)
#define SYNC_INTERVAL_US_DEFAULT (UINT64_C(1000) * 1000)
#define RETRY_NS                 VV_NS_PER_S
#define OPEN_TRIES               10

struct varve_archive {
    varve_db *db;
    uint64_t file_bytes;
    uint64_t sync_interval_ns;
    vv_archive_dir dir; /* as found at the start; its path and database */
    vv_file *lock;
    int stop_fd; /* readable: end */
    _Atomic bool stopping;
    _Atomic uint64_t stop_lsn; /* how far to go then */
    pthread_t thread;

    /* The thread's own. */
    varve_wal_cursor *cursor; /* NULL: to be opened again behind synced_lsn */
    varve_wal_batch batch;    /* taken off the cursor and not added yet, if has_batch */
    bool has_batch;
    vv_archive_writer *writer; /* NULL: the next record begins a file */
    uint64_t next_number;
    uint64_t synced_lsn;  /* archived up to here */
    uint64_t begin_lsn;   /* not 0: a file at this LSN, without waiting for a record: it replaces others */
    uint64_t unix_ms;     /* of what was added last */
    uint64_t sync_due_ns; /* 0: all is synced */
    vv_epoch epoch;       /* that was looked up last */

    struct {
        vv_mutex lock;
        varve_archive_info info;
        uint64_t closed_bytes; /* of files of this run that are ended */
    } mu;
};

static vv_status internal(varve_status st) {
    return vv_status_make((vv_code)st.code, (vv_sub)st.reason, st.sys);
}

static const char *words_of(vv_status st) {
    return st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code);
}

/* ---- files ---- */

static void note_file(varve_archive *a) {
    vv_mutex_lock(&a->mu.lock);
    a->mu.info.file_count++;
    vv_mutex_unlock(&a->mu.lock);
}

static void note_progress(varve_archive *a) {
    uint64_t bytes = a->writer ? vv_archive_writer_bytes(a->writer) : 0;
    vv_mutex_lock(&a->mu.lock);
    a->mu.info.last_lsn = a->synced_lsn;
    a->mu.info.bytes = a->mu.closed_bytes + bytes;
    vv_mutex_unlock(&a->mu.lock);
}

static void close_writer(varve_archive *a) {
    if (!a->writer)
        return;
    vv_mutex_lock(&a->mu.lock);
    a->mu.closed_bytes += vv_archive_writer_bytes(a->writer);
    vv_mutex_unlock(&a->mu.lock);
    vv_archive_writer_close(a->writer);
    a->writer = NULL;
}

/* A file for records from first_lsn on. It gets its name when its header is synced, so that every file of
 * this name has one, and the name is synced before there is a record in it. */
static vv_status begin_file(varve_archive *a, uint64_t first_lsn, vv_error *err) {
    char path[VV_ARCHIVE_PATH_BYTES + 64], temp[VV_ARCHIVE_PATH_BYTES + 80];
    vv_archive_writer *w;
    vv_io_backend *io = a->db->io;
    vv_archive_head head = {
        .number = a->next_number, .first_lsn = first_lsn, .created_unix_ms = vv_clock_unix_ms()};
    varve_database_id(a->db, head.db_id);
    vv_archive_dir_file(&a->dir, head.number, path);
    snprintf(temp, sizeof temp, "%s" TEMP_SUFFIX, path);
    vv_status st = vv_path_unlink(io, temp, NULL);
    if (!vv_ok(st) && !vv_is(st, VV_NOT_FOUND))
        return vv_fail(err, st, "%s: %s", temp, vv_code_text(st.code));
    VV_TRY(vv_archive_writer_create(io, temp, &head, &w, err));
    st = vv_path_rename(io, temp, path, err);
    if (vv_ok(st))
        st = vv_dir_sync(io, a->dir.path, err);
    if (!vv_ok(st)) {
        /* Whether the name is there is not known: another try takes the next number. */
        a->next_number++;
        vv_archive_writer_close(w);
        return st;
    }
    a->next_number++;
    a->writer = w;
    note_file(a);
    note_progress(a);
    return st;
}

static vv_status sync_file(varve_archive *a, vv_error *err) {
    if (!a->writer)
        return VV_STATUS_OK;
    vv_status st = vv_archive_writer_sync(a->writer);
    if (!vv_ok(st)) {
        char path[VV_ARCHIVE_PATH_BYTES + 64];
        vv_archive_dir_file(&a->dir, vv_archive_writer_head(a->writer)->number, path);
        st = vv_fail(err, st, "%s: %s", path, vv_code_text(st.code));
        if (vv_archive_writer_failed(a->writer)) {
            /* What was written since the last sync may be lost. The log has it: another file gets it. */
            close_writer(a);
            varve_wal_cursor_close(a->cursor);
            a->cursor = NULL;
            a->has_batch = false;
            a->begin_lsn = a->synced_lsn + 1;
            a->sync_due_ns = 0;
        }
        return st;
    }
    a->sync_due_ns = 0;
    a->synced_lsn = VV_MAX(a->synced_lsn, vv_archive_writer_synced_lsn(a->writer));
    note_progress(a);
    vv_status_ignore(internal(varve_slot_confirm(a->db, VARVE_ARCHIVE_SLOT, a->synced_lsn)),
                     "that the slot is lost shows when the cursor finds nothing");
    return st;
}

/* ---- the log ---- */

static void note_gap(varve_archive *a, uint64_t first_lsn, uint64_t last_lsn) {
    vv_mutex_lock(&a->mu.lock);
    a->mu.info.gaps++;
    vv_mutex_unlock(&a->mu.lock);
    vv_log(
        &a->db->logger, VV_LOG_WARN,
        "archive %s: LSN %" PRIu64 " to %" PRIu64
        " were gone from the log before they were archived: a restore can't go past them; make a new backup",
        a->dir.path, first_lsn, last_lsn);
}

/* The slot and the cursor at `after_lsn`, or where the log begins if that is later. */
static vv_status open_log(varve_archive *a, uint64_t after_lsn, uint64_t *from_out, vv_error *err) {
    vv_status st = VV_STATUS_OK;
    uint64_t oldest_lsn;
    *from_out = after_lsn;
    /* The log goes on being cut until the slot stands. */
    for (int i = 0; i < OPEN_TRIES; i++) {
        st = internal(varve_wal_cursor_open(a->db, *from_out, &a->cursor, &oldest_lsn));
        if (vv_is(st, VV_TRIMMED)) {
            *from_out = oldest_lsn - 1;
            continue;
        }
        if (!vv_ok(st))
            return vv_fail(err, st, "the log at LSN %" PRIu64 ": %s", *from_out, words_of(st));
        st = internal(varve_slot_create(a->db, VARVE_ARCHIVE_SLOT, *from_out, (varve_error *)err));
        if (vv_ok(st))
            return st;
        varve_wal_cursor_close(a->cursor);
        a->cursor = NULL;
        if (!vv_is(st, VV_TRIMMED))
            return vv_wrap(err, st, "slot");
    }
    return vv_fail(err, st, "the log is cut faster than it can be held");
}

/* The cursor again, after the slot was lost or a sync failed: behind what is archived. */
static vv_status reopen_log(varve_archive *a, vv_error *err) {
    uint64_t from;
    VV_TRY(open_log(a, a->synced_lsn, &from, err));
    a->has_batch = false;
    if (from == a->synced_lsn)
        return VV_STATUS_OK;
    note_gap(a, a->synced_lsn + 1, from);
    close_writer(a);
    a->synced_lsn = from;
    return VV_STATUS_OK;
}

/* The next batch of the log to a->batch. END: there is none. */
static vv_status take_batch(varve_archive *a, vv_error *err) {
    if (a->has_batch)
        return VV_STATUS_OK;
    vv_status st = internal(varve_wal_cursor_next(a->cursor, &a->batch));
    if (vv_is(st, VV_TRIMMED)) {
        /* What there is of the file first: it ends here. */
        VV_TRY(sync_file(a, err));
        close_writer(a);
        varve_wal_cursor_close(a->cursor);
        a->cursor = NULL;
        VV_TRY(reopen_log(a, err));
        st = internal(varve_wal_cursor_next(a->cursor, &a->batch));
    }
    a->has_batch = vv_ok(st);
    if (vv_ok(st) || vv_is(st, VV_END))
        return st;
    return vv_fail(err, st, "the log behind LSN %" PRIu64 ": %s", varve_wal_cursor_lsn(a->cursor),
                   words_of(st));
}

static const vv_epoch *find_epoch(varve_archive *a, uint64_t epoch) {
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    if (a->epoch.epoch == epoch)
        return &a->epoch;
    size_t count = varve_epochs_get(a->db, epochs);
    a->epoch = (vv_epoch){.epoch = epoch}; /* the history has forgotten the oldest */
    for (size_t i = 0; i < count; i++)
        if (epochs[i].epoch == epoch)
            a->epoch = (vv_epoch){.epoch = epoch, .first_lsn = epochs[i].first_lsn, .id = epochs[i].id};
    return &a->epoch;
}

/* The batch at hand to the file. */
static vv_status add_batch(varve_archive *a, vv_error *err) {
    const varve_wal_batch *b = &a->batch;
    if (a->writer && vv_archive_writer_bytes(a->writer) >= a->file_bytes) {
        VV_TRY(sync_file(a, err));
        close_writer(a);
    }
    if (!a->writer)
        VV_TRY(begin_file(a, b->first_lsn, err));
    vv_record rec = {.first_lsn = b->first_lsn,
                     .op_count = b->op_count,
                     .epoch = b->epoch,
                     .client_id = b->client_id,
                     .sequence = b->sequence,
                     .ops = vv_slice_make(b->ops, b->ops_bytes)};
    uint64_t unix_ms = VV_MAX(vv_clock_unix_ms(), a->unix_ms);
    vv_status st = vv_archive_writer_add(a->writer, &rec, find_epoch(a, b->epoch), unix_ms);
    if (!vv_ok(st))
        return vv_fail(err, st, "LSN %" PRIu64 ": %s", b->first_lsn, vv_code_text(st.code));
    a->unix_ms = unix_ms;
    a->has_batch = false;
    if (a->sync_due_ns == 0)
        a->sync_due_ns = vv_clock_mono_ns() + a->sync_interval_ns;
    return st;
}

/* What the archive has from begin_lsn on does not count any more. Where the log begins behind that, the file
 * stays empty: records are missing between it and the next. */
static vv_status replace_rest(varve_archive *a, vv_error *err) {
    VV_TRY(begin_file(a, a->begin_lsn, err));
    if (a->begin_lsn != a->synced_lsn + 1)
        close_writer(a);
    a->begin_lsn = 0;
    return VV_STATUS_OK;
}

/* All that there is, or until a sync is due. */
static vv_status copy(varve_archive *a, vv_error *err) {
    if (!a->cursor)
        VV_TRY(reopen_log(a, err));
    if (a->begin_lsn != 0)
        VV_TRY(replace_rest(a, err));
    while (a->sync_due_ns == 0 || vv_clock_mono_ns() < a->sync_due_ns) {
        if (!a->has_batch && atomic_load_explicit(&a->stopping, memory_order_acquire) &&
            varve_wal_cursor_lsn(a->cursor) >= atomic_load_explicit(&a->stop_lsn, memory_order_relaxed))
            return vv_status_make(VV_END, VV_SUB_NONE, 0);
        VV_TRY(take_batch(a, err));
        VV_TRY(add_batch(a, err));
    }
    return VV_STATUS_OK;
}

/* ---- the thread ---- */

/* Say it once when it begins to fail, and once when that is over. */
static void note_status(varve_archive *a, vv_status st, const char *words) {
    vv_mutex_lock(&a->mu.lock);
    vv_status before = internal(a->mu.info.status);
    a->mu.info.status = vv_public(st);
    vv_mutex_unlock(&a->mu.lock);
    if (!vv_ok(st) && st.code != before.code)
        vv_log(&a->db->logger, VV_LOG_ERROR,
               "archive %s: nothing behind LSN %" PRIu64 " is archived, tried again every second: %s",
               a->dir.path, a->synced_lsn, words);
    else if (vv_ok(st) && !vv_ok(before))
        vv_log(&a->db->logger, VV_LOG_INFO, "archive %s: goes on, up to LSN %" PRIu64, a->dir.path,
               a->synced_lsn);
}

/* Until there is more in the log, the time has come (0: none), or we are to end. */
static void wait_for(varve_archive *a, bool for_log, uint64_t until_ns) {
    struct pollfd fds[2] = {{.fd = a->stop_fd, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    if (atomic_load_explicit(&a->stopping, memory_order_acquire))
        return;
    if (for_log && a->cursor) {
        fds[1].fd = varve_wal_cursor_notify_fd(a->cursor);
        if (fds[1].fd < 0) /* out of descriptors: look again later */
            until_ns = VV_MIN(until_ns ? until_ns : UINT64_MAX, vv_clock_mono_ns() + RETRY_NS);
    }
    uint64_t now_ns = vv_clock_mono_ns();
    struct timespec timeout = {0};
    if (until_ns > now_ns) {
        timeout.tv_sec = (time_t)((until_ns - now_ns) / VV_NS_PER_S);
        timeout.tv_nsec = (long)((until_ns - now_ns) % VV_NS_PER_S);
    }
    (void)ppoll(fds, 2, until_ns ? &timeout : NULL, NULL);
}

static void run(void *arg) {
    varve_archive *a = arg;
    vv_error words;
    for (;;) {
        words.text[0] = '\0';
        bool stopping = atomic_load_explicit(&a->stopping, memory_order_acquire);
        vv_status st = copy(a, &words);
        bool at_end = vv_is(st, VV_END);
        if (at_end)
            st = VV_STATUS_OK;
        bool due = a->sync_due_ns != 0 && vv_clock_mono_ns() >= a->sync_due_ns;
        /* Also after a failure: the log may have ended, and what was read of it belongs to the disk. */
        if (due || (stopping && (at_end || !vv_ok(st))))
            vv_status_keep(&st, sync_file(a, &words));
        note_status(a, st, words.text);
        if (stopping && (at_end || !vv_ok(st)))
            return;
        if (!vv_ok(st))
            wait_for(a, false, vv_clock_mono_ns() + RETRY_NS);
        else if (at_end)
            wait_for(a, true, a->sync_due_ns);
    }
}

/* ---- starting and ending ---- */

typedef struct temp_list {
    varve_archive *a;
    vv_error *err;
} temp_list;

static vv_status remove_temp(void *arg, const char *name, vv_entry_kind kind) {
    temp_list *l = arg;
    char path[VV_ARCHIVE_PATH_BYTES + 300];
    static const char suffix[] = ".archive" TEMP_SUFFIX;
    size_t bytes = strlen(name);
    if (kind != VV_ENTRY_FILE || bytes != 16 + strlen(suffix) || strcmp(name + 16, suffix) != 0)
        return VV_STATUS_OK;
    snprintf(path, sizeof path, "%s/%s", l->a->dir.path, name);
    return vv_path_unlink(l->a->db->io, path, l->err);
}

static vv_status take_dir(varve_archive *a, const char *path, vv_error *err) {
    char lock_path[VV_ARCHIVE_PATH_BYTES + 8];
    vv_io_backend *io = a->db->io;
    vv_status st = vv_dir_create(io, path, err);
    if (!vv_ok(st) && !vv_is(st, VV_EXISTS))
        return st;
    if (strlen(path) >= VV_ARCHIVE_PATH_BYTES)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "the path is too long");
    snprintf(lock_path, sizeof lock_path, "%s/" LOCK_NAME, path);
    VV_TRY(vv_lock_acquire(io, lock_path, &a->lock, err));
    VV_TRY(vv_db_sync_parent(io, &a->db->logger, path, err));
    VV_TRY(vv_archive_dir_read(io, path, &a->dir, err));
    temp_list l = {.a = a, .err = err};
    VV_TRY(vv_dir_list(io, a->dir.path, remove_temp, &l, err));
    uint8_t db_id[VARVE_DATABASE_ID_BYTES];
    varve_database_id(a->db, db_id);
    for (size_t i = 0; i < a->dir.count; i++)
        if (vv_ok(a->dir.files[i].status) && memcmp(db_id, a->dir.db_id, sizeof db_id) != 0)
            return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                           "%s: is the archive of another database", a->dir.path);
    a->next_number = a->dir.count ? a->dir.files[a->dir.count - 1].number + 1 : 1;
    return VV_STATUS_OK;
}

/* Go on with the last file, if it ends at `lsn` and has room. */
static vv_status resume_file(varve_archive *a, uint64_t lsn, vv_error *err) {
    char path[VV_ARCHIVE_PATH_BYTES + 64];
    uint64_t torn_bytes;
    if (a->dir.count == 0)
        return VV_STATUS_OK;
    vv_archive_dir_file(&a->dir, a->dir.files[a->dir.count - 1].number, path);
    VV_TRY(vv_archive_writer_resume(a->db->io, path, &a->writer, &torn_bytes, err));
    if (torn_bytes)
        vv_log(&a->db->logger, VV_LOG_INFO, "%s: cut by %" PRIu64 " bytes, a torn end behind LSN %" PRIu64,
               path, torn_bytes, vv_archive_writer_last_lsn(a->writer));
    a->unix_ms = vv_archive_writer_unix_ms(a->writer);
    if (vv_archive_writer_last_lsn(a->writer) != lsn || vv_archive_writer_bytes(a->writer) >= a->file_bytes) {
        vv_archive_writer_close(a->writer);
        a->writer = NULL;
        return VV_STATUS_OK;
    }
    note_file(a);
    return VV_STATUS_OK;
}

static vv_status place(varve_archive *a, vv_error *err) {
    varve_epoch epochs[VARVE_EPOCHS_MAX];
    vv_archive_position p;
    vv_wal_stats wal;
    uint64_t from;
    vv_wal_stats_get(a->db->wal, &wal);
    size_t count = varve_epochs_get(a->db, epochs);
    VV_TRY(vv_archive_dir_compare(a->db->io, &a->dir, epochs, count, wal.durable_lsn, &p, err));
    if (!p.damaged)
        VV_TRY(resume_file(a, p.common_lsn, err));
    else
        vv_log(&a->db->logger, VV_LOG_WARN, "archive %s: its last file is damaged behind LSN %" PRIu64,
               a->dir.path, p.last_lsn);
    VV_TRY(open_log(a, p.common_lsn, &from, err));
    a->synced_lsn = from;
    if (from != p.common_lsn) {
        close_writer(a);
        if (p.last_lsn != 0)
            note_gap(a, p.common_lsn + 1, from);
    }
    if (p.common_lsn < p.last_lsn)
        vv_log(&a->db->logger, VV_LOG_WARN,
               "archive %s: goes back from LSN %" PRIu64 " to %" PRIu64
               ", where the database's history has parted from it",
               a->dir.path, p.last_lsn, p.common_lsn);
    if (p.common_lsn < p.last_lsn || (p.damaged && p.last_lsn != 0))
        a->begin_lsn = p.common_lsn + 1;
    return VV_STATUS_OK;
}

static void release(varve_archive *a) {
    varve_wal_cursor_close(a->cursor);
    vv_archive_writer_close(a->writer);
    vv_archive_dir_deinit(&a->dir);
    vv_file_close(a->lock);
    if (a->stop_fd >= 0)
        (void)close(a->stop_fd);
    vv_mutex_deinit(&a->mu.lock);
    vv_free(a);
}

static vv_status start_steps(varve_archive *a, const char *path, vv_error *err) {
    a->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (a->stop_fd < 0)
        return vv_fail(err, vv_status_errno(errno), "eventfd");
    VV_TRY(take_dir(a, path, err));
    VV_TRY(place(a, err));
    note_progress(a);
    vv_log(&a->db->logger, VV_LOG_INFO, "archive %s: behind LSN %" PRIu64, a->dir.path, a->synced_lsn);
    vv_status st = vv_thread_start(&a->thread, "varve-archive", run, a);
    return vv_ok(st) ? st : vv_fail(err, st, "start the thread");
}

varve_status varve_archive_start(varve_db *db, const char *dir, const varve_archive_options *options,
                                 varve_archive **out, varve_error *err) {
    static const varve_archive_options defaults;
    const varve_archive_options *o = options ? options : &defaults;
    vv_error *words = vv_private_error(err);
    *out = NULL;
    varve_archive *a = vv_alloc_zeroed(sizeof *a);
    if (!a)
        return vv_public(vv_fail(words, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory"));
    a->db = db;
    a->file_bytes = o->file_bytes ? o->file_bytes : FILE_BYTES_DEFAULT;
    a->sync_interval_ns =
        (o->sync_interval_us ? o->sync_interval_us : SYNC_INTERVAL_US_DEFAULT) * VV_NS_PER_US;
    vv_mutex_init(&a->mu.lock);
    vv_status st = start_steps(a, dir, words);
    if (vv_ok(st)) {
        *out = a;
        return vv_public(st);
    }
    release(a);
    return vv_public(vv_wrap(words, st, "archive %s", dir));
}

void varve_archive_get(varve_archive *archive, varve_archive_info *out) {
    vv_mutex_lock(&archive->mu.lock);
    *out = archive->mu.info;
    vv_mutex_unlock(&archive->mu.lock);
}

void varve_archive_stop(varve_archive *a) {
    uint64_t one = 1;
    vv_wal_stats wal;
    if (!a)
        return;
    vv_wal_stats_get(a->db->wal, &wal);
    atomic_store_explicit(&a->stop_lsn, wal.durable_lsn, memory_order_relaxed);
    /* release: the thread's acquire finds stop_lsn. */
    atomic_store_explicit(&a->stopping, true, memory_order_release);
    (void)!write(a->stop_fd, &one, sizeof one);
    vv_thread_join(a->thread);
    varve_archive_info info;
    varve_archive_get(a, &info);
    vv_log(&a->db->logger, varve_ok(info.status) ? VV_LOG_INFO : VV_LOG_WARN,
           "archive %s: ended at LSN %" PRIu64 "%s%s", a->dir.path, a->synced_lsn,
           varve_ok(info.status) ? "" : ", not at the end: ",
           varve_ok(info.status) ? "" : words_of(internal(info.status)));
    release(a);
}
