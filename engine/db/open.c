/*
 * open.c - opening, recovery and closing.
 *
 * Opening, in order: directory (created if missing), lock, an install that was begun completed, manifest (if
 * there is none: the directory's name synced in its parent, then the manifest created and synced before any
 * log or table exists: from then on its absence is damage, not newness), orphans removed, a cut of the log
 * that was begun completed, log replayed into memtables, threads started. Nothing on disk is changed before
 * lock and manifest are good.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"

#define LOCK_NAME               "LOCK"
#define TABLE_SUFFIX            ".sst"
#define LOG_PREFIX              "wal-"
#define SEGMENTS_AFTER_OPEN_MAX 4

static vv_status no_memory(vv_error *err) {
    return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
}

/* ---- the directory ---- */

void vv_db_parent(const char *dir, char buf[VV_DB_PATH_BYTES]) {
    snprintf(buf, VV_DB_PATH_BYTES, "%s", dir);
    char *slash = strrchr(buf, '/');
    if (!slash)
        snprintf(buf, VV_DB_PATH_BYTES, ".");
    else if (slash == buf)
        buf[1] = '\0';
    else
        *slash = '\0';
}

vv_status vv_db_dir_path(char to[VV_DB_PATH_BYTES], const char *path, vv_error *err) {
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    /* Room for the longest file name in it. */
    if (bytes == 0 || bytes + 64 > VV_DB_PATH_BYTES)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "'%s': not a usable path",
                       path);
    memcpy(to, path, bytes);
    to[bytes] = '\0';
    return VV_STATUS_OK;
}

static vv_status make_dir(varve_db *db, vv_error *err) {
    vv_status st = vv_dir_create(db->io, db->dir, err);
    if (!vv_is(st, VV_EXISTS))
        return st;
    if (err)
        err->text[0] = '\0'; /* no failure, and not the words of a later one */
    return VV_STATUS_OK;
}

/* A database is not durable if the name of its directory isn't. Done before there is a manifest, whoever made
 * the directory: an opening that was killed in between may have, without coming to this. */
vv_status vv_db_sync_parent(vv_io_backend *io, const vv_logger *lg, const char *dir, vv_error *err) {
    char parent[VV_DB_PATH_BYTES];
    vv_db_parent(dir, parent);
    vv_status st = vv_dir_sync(io, parent, err);
    if (!vv_is(st, VV_PERMISSION))
        return st;
    /* It is somebody else's, who gave us the directory in it, and its name is theirs to keep. */
    vv_log(lg, VV_LOG_WARN, "%s: may not be synced: the name of %s is as durable as its maker has made it",
           parent, dir);
    return VV_STATUS_OK;
}

static bool has_suffix(const char *name, const char *suffix) {
    size_t a = strlen(name), b = strlen(suffix);
    return a >= b && strcmp(name + a - b, suffix) == 0;
}

bool vv_db_table_name_parse(const char *name, uint64_t *file_number_out) {
    char ours[32];
    if (sscanf(name, "%16" SCNx64, file_number_out) != 1)
        return false;
    /* Scanning takes more than we write ("cafe.sst"). */
    snprintf(ours, sizeof ours, "%016" PRIx64 TABLE_SUFFIX, *file_number_out);
    return strcmp(name, ours) == 0;
}

static vv_status find_data(void *arg, const char *name, vv_entry_kind kind) {
    (void)kind;
    bool *found = arg;
    *found |= has_suffix(name, TABLE_SUFFIX) || strncmp(name, LOG_PREFIX, strlen(LOG_PREFIX)) == 0 ||
              strcmp(name, VV_IMPORT_NAME) == 0 || strcmp(name, VV_RESTORE_NAME) == 0;
    return VV_STATUS_OK;
}

vv_status vv_db_io_create(const varve_options *options, const vv_logger *lg, vv_io_backend **out,
                          vv_error *err) {
    vv_settings settings;
    if (options)
        settings = options->settings;
    else
        vv_config_defaults(vv_settings_table(), &settings);
    return vv_io_backend_create((vv_io_choice)settings.io_choice, lg, out, err);
}

static vv_status file_exists(vv_io_backend *io, const char *dir, const char *name, bool *out, vv_error *err) {
    char path[VV_DB_PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return vv_path_exists(io, path, out, err);
}

varve_status varve_exists(const char *path, bool *exists_out, varve_error *err) {
    vv_error *words = vv_private_error(err);
    char dir[VV_DB_PATH_BYTES];
    vv_io_backend *io = NULL;
    *exists_out = false;
    vv_status st = vv_db_dir_path(dir, path, words);
    if (vv_ok(st))
        st = vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &io, words);
    if (vv_ok(st))
        st = file_exists(io, dir, VV_MANIFEST_NAME, exists_out, words);
    if (vv_ok(st) && !*exists_out)
        st = file_exists(io, dir, VV_INSTALL_NAME, exists_out, words);
    vv_io_backend_destroy(io);
    return vv_public(st);
}

/* ---- the manifest ---- */

static vv_status create_manifest(varve_db *db, vv_error *err) {
    bool has_data = false;
    VV_TRY(vv_dir_list(db->io, db->dir, find_data, &has_data, err));
    if (has_data)
        return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                       "%s: there are tables or logs, or an import or a restore that was not finished, but "
                       "no " VV_MANIFEST_NAME,
                       db->dir);
    VV_TRY(vv_db_sync_parent(db->io, &db->logger, db->dir, err));
    vv_manifest *m = &db->state.manifest;
    *m = (vv_manifest){
        .generation = 1,
        .next_file_number = 1,
        .created_unix_ms = vv_clock_unix_ms(),
        .promised_epoch = 1,
        .commit_limit = VV_COMMIT_LIMIT_NONE,
        .epochs = {.count = 1, .newest_is_ours = true, .items[0] = {.epoch = 1, .first_lsn = 1}}};
    uint64_t *epoch_id = &m->epochs.items[0].id;
    if (getrandom(m->db_id, sizeof m->db_id, 0) != (ssize_t)sizeof m->db_id ||
        getrandom(epoch_id, sizeof *epoch_id, 0) != (ssize_t)sizeof *epoch_id)
        return vv_fail(err, vv_status_make(VV_INTERNAL, VV_SUB_NONE, 0), "no random bytes from the kernel");
    vv_version *empty = vv_version_create(NULL, 0);
    if (!empty)
        return no_memory(err);
    vv_status st = vv_manifest_write(db->io, db->dir, m, empty, NULL, err);
    vv_version_unref(empty);
    return st;
}

typedef struct sweep {
    varve_db *db;
    const vv_version *version;
    size_t found; /* tables of the version that are there */
    vv_error *err;
} sweep;

static bool version_has(const vv_version *v, uint64_t file_number) {
    for (size_t i = 0; i < v->table_count; i++)
        if (v->tables[i]->file_number == file_number)
            return true;
    return false;
}

/* Remove what a crash left behind: tables that no manifest came to name, a manifest that was not renamed. */
static vv_status sweep_entry(void *arg, const char *name, vv_entry_kind kind) {
    sweep *s = arg;
    char path[VV_DB_PATH_BYTES + 256];
    if (kind == VV_ENTRY_DIRECTORY)
        return VV_STATUS_OK;
    snprintf(path, sizeof path, "%s/%s", s->db->dir, name);
    /* An import is a database from now on. */
    if (strcmp(name, VV_IMPORT_NAME) == 0)
        return vv_path_unlink(s->db->io, path, s->err);
    uint64_t number;
    if (vv_db_table_name_parse(name, &number)) {
        if (version_has(s->version, number)) {
            s->found++;
            return VV_STATUS_OK;
        }
    } else if (strcmp(name, VV_MANIFEST_TEMP_NAME) != 0 &&
               strcmp(name, VV_INSTALL_NAME VV_MARKER_TEMP_SUFFIX) != 0 &&
               strcmp(name, VV_CUT_NAME VV_MARKER_TEMP_SUFFIX) != 0) {
        return VV_STATUS_OK;
    }
    vv_log(&s->db->logger, VV_LOG_INFO, "%s: removed, left behind by a crash", path);
    return vv_path_unlink(s->db->io, path, s->err);
}

static vv_status name_missing_table(varve_db *db, const vv_version *version, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    bool exists = true;
    for (size_t i = 0; i < version->table_count && exists; i++) {
        vv_table_cache_path(db->dir, version->tables[i]->file_number, path, sizeof path);
        VV_TRY(vv_path_exists(db->io, path, &exists, err));
    }
    return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                   "%s: the manifest names this table, but it is missing", path);
}

static vv_status sweep_dir(varve_db *db, const vv_version *version, vv_error *err) {
    sweep s = {.db = db, .version = version, .err = err};
    /* The manifest that was read may be a rename that never got its sync: it must last before anything is
     * removed on its word. */
    VV_TRY(vv_dir_sync(db->io, db->dir, err));
    VV_TRY(vv_dir_list(db->io, db->dir, sweep_entry, &s, err));
    return s.found == version->table_count ? VV_STATUS_OK : name_missing_table(db, version, err);
}

/* The writes that clients did before flushed_lsn; the log's replay adds the others. */
static vv_status load_retry(varve_db *db, vv_error *err) {
    vv_manifest *m = &db->state.manifest;
    vv_status st = vv_retry_load(&db->commit.retry, m->retry, m->flushed_lsn);
    if (vv_ok(st))
        st = vv_retry_image_take(&db->commit.retry, &db->state.flushed_retry);
    vv_manifest_deinit(m);
    m->retry = vv_retry_image_bytes(db->state.flushed_retry);
    return vv_ok(st) ? st
                     : vv_fail(err, st, "%s/" VV_MANIFEST_NAME ": remembered writes: %s", db->dir,
                               vv_code_text(st.code));
}

/* Manifest, version and the first view with an empty memtable. */
static vv_status load_state(varve_db *db, vv_error *err) {
    vv_table **tables = NULL;
    size_t count = 0;
    vv_version *version = NULL;
    vv_memtable *active = NULL;
    vv_status st =
        vv_manifest_read(db->io, db->dir, &db->state.manifest, &tables, &count, vv_db_drop_table, db, err);
    if (vv_is(st, VV_NOT_FOUND))
        st = create_manifest(db, err);
    if (!vv_ok(st))
        return st;
    st = load_retry(db, err);
    version = vv_version_create(tables, count);
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    if (!version)
        return no_memory(err);
    if (!vv_ok(st))
        goto out;
    st = sweep_dir(db, version, err);
    if (!vv_ok(st))
        goto out;
    st = vv_memtable_create((vv_memtable_type)db->settings.memtable_type, db->memtable_seed++, &active);
    if (vv_ok(st)) {
        db->state.view = vv_view_create(active, NULL, 0, version);
        if (db->state.view) {
            vv_view_cell_init(&db->current, db->state.view);
            vv_db_pace_observe(db, NULL, db->state.view);
        } else {
            st = no_memory(err);
        }
    }
    db->commit.active = active;
    db->epoch = vv_manifest_epoch(&db->state.manifest);
    vv_db_slots_load(db, &db->state.manifest);
    vv_memtable_unref(active);
out:
    vv_version_unref(version);
    return st;
}

/* ---- the log ---- */

/* Release what tables hold, and say in the manifest, before a segment goes, which is the first that must be
 * there: from then on the absence of that one is damage. Before the first write is acknowledged, so that this
 * holds for a new log too. */
static vv_status trim_released(varve_db *db, vv_error *err) {
    vv_manifest *m = &db->state.manifest;
    uint64_t first = vv_wal_first_needed(db->wal, m->flushed_lsn);
    if (m->first_segment != first) {
        m->generation++;
        m->first_segment = first;
        VV_TRY(vv_manifest_write(db->io, db->dir, m, db->state.view->version, NULL, err));
    }
    vv_wal_release(db->wal, first);
    return VV_STATUS_OK;
}

static vv_status recover(varve_db *db, vv_error *err) {
    vv_io_queue *queue;
    uint64_t start_ns = vv_clock_mono_ns();
    VV_TRY(vv_db_flush_queue_create(db, &queue, err));
    vv_replay r = {.db = db, .queue = queue};
    vv_wal_options o = {.backend = db->io,
                        .dir = db->dir,
                        .logger = &db->logger,
                        .segment_bytes = db->settings.wal_segment_bytes,
                        .slot_count = (uint32_t)db->settings.wal_slot_count,
                        .first_segment = db->state.manifest.first_segment,
                        .replay_after_lsn = db->state.manifest.flushed_lsn,
                        .hold_lost = vv_db_slots_lost,
                        .hold_lost_arg = db};
    vv_status st = vv_wal_open(&o, vv_replay_record, &r, &db->wal, err);
    if (vv_ok(st))
        st = vv_replay_finish(&r);
    vv_db_flush_queue_destroy(db, queue);
    if (!vv_ok(st))
        return st;
    if (vv_memtable_count(db->commit.active) > 0) {
        /* What was replayed counts as if it was written into this memtable (the difference may wrap, and
         * wraps back): else a database that is often opened again would never reach MAX_WAL_SIZE. */
        vv_wal_stats stats;
        vv_wal_stats_get(db->wal, &stats);
        db->commit.memtable_wal_bytes = stats.written_bytes - stats.live_bytes;
    }
    st = vv_db_slots_hold(db);
    if (!vv_ok(st))
        return vv_fail(err, st, "slots: %s", vv_code_text(st.code));
    st = trim_released(db, err);
    if (!vv_ok(st))
        return st;
    uint64_t last_lsn = vv_wal_last_lsn(db->wal);
    db->commit.next_lsn = last_lsn + 1;
    vv_db_limit_restore(db, last_lsn);
    vv_log(&db->logger, VV_LOG_INFO,
           "opened %s: %zu tables, %" PRIu64 " log records replayed, last LSN %" PRIu64 ", %" PRIu64 " ms",
           db->dir, db->state.view->version->table_count, r.records, last_lsn,
           (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS);
    return VV_STATUS_OK;
}

/* ---- life ---- */

static vv_status create_caches(varve_db *db, vv_error *err) {
    vv_status st = vv_block_cache_create(vv_settings_cache_bytes(&db->settings), &db->blocks);
    if (vv_ok(st))
        st = vv_table_cache_create(db->io, db->dir, (uint32_t)db->settings.table_cache_count,
                                   db->settings.table_cache_bytes, &db->tables);
    return vv_ok(st) ? st : vv_wrap(err, st, "caches");
}

static vv_status start_threads(varve_db *db, vv_error *err) {
    vv_status st = vv_thread_start(&db->commit.thread, "varve-writer", vv_db_writer, db);
    if (!vv_ok(st))
        return vv_fail(err, st, "start the writer thread");
    db->commit.thread_started = true;
    st = vv_thread_start(&db->state.flusher, "varve-flush", vv_db_flusher, db);
    if (!vv_ok(st))
        return vv_fail(err, st, "start the flush thread");
    db->state.flusher_started = true;
    vv_db_compaction_hint(db);
    st = vv_thread_start(&db->compaction.thread, "varve-compact", vv_db_compactor, db);
    if (!vv_ok(st))
        return vv_fail(err, st, "start the compaction thread");
    db->compaction.thread_started = true;
    st = vv_thread_start(&db->reader.thread, "varve-read", vv_db_reader, db);
    if (!vv_ok(st))
        return vv_fail(err, st, "start the reader thread");
    db->reader.thread_started = true;
    return VV_STATUS_OK;
}

/* Each opening begins a new segment. A database that is opened often and written little would gather them
 * until its memtable is full: flush early instead. */
static vv_status trim_log(varve_db *db) {
    /* What is there for slots alone does not count. */
    vv_mutex_lock(&db->state.lock);
    uint64_t first = db->state.manifest.first_segment;
    vv_mutex_unlock(&db->state.lock);
    uint64_t count = vv_wal_first_needed(db->wal, UINT64_MAX) - first + 1;
    if (count <= SEGMENTS_AFTER_OPEN_MAX || vv_memtable_count(db->commit.active) == 0)
        return VV_STATUS_OK;
    vv_mutex_lock(&db->commit.lock);
    vv_status st = vv_db_seal(db);
    vv_mutex_unlock(&db->commit.lock);
    return st;
}

static varve_db *allocate(const varve_options *options) {
    varve_db *db = vv_alloc_aligned(_Alignof(varve_db), sizeof *db);
    if (!db)
        return NULL;
    memset(db, 0, sizeof *db);
    if (options) {
        db->settings = options->settings;
        db->logger = options->logger;
        db->group_fn = options->group_fn;
        db->group_arg = options->group_arg;
        db->durable_fn = options->durable_fn;
        db->durable_arg = options->durable_arg;
    } else {
        vv_config_defaults(vv_settings_table(), &db->settings);
    }
    /* A value that is accepted alone is accepted in a batch of one. */
    db->settings.batch_bytes_max = VV_MAX(db->settings.batch_bytes_max,
                                          db->settings.value_bytes_max + VV_KEY_BYTES_MAX + VV_OP_HEAD_BYTES);
    db->memtable_seed = vv_clock_mono_ns() | 1;
    atomic_init(&db->limit.lsn, VV_COMMIT_LIMIT_NONE);
    atomic_init(&db->compaction.rate, db->settings.compaction_rate);
    vv_commit_queue_init(&db->commit.queue);
    vv_retry_init(&db->commit.retry);
    vv_stack_init(&db->reader.queue);
    vv_stack_init(&db->reader.fetches);
    vv_budget_init(&db->reader.budget, VV_DB_CURSOR_READ_BYTES_MAX);
    db->reader.fetcher = (vv_sst_fetcher){.fetch = vv_db_fetch, .arg = db, .budget = &db->reader.budget};
    vv_mutex_init(&db->commit.lock);
    vv_mutex_init(&db->limit.lock);
    vv_mutex_init(&db->install_lock);
    vv_mutex_init(&db->reconfigure_lock);
    vv_mutex_init(&db->state.lock);
    vv_mutex_init(&db->compaction.lock);
    vv_mutex_init(&db->followers.lock);
    vv_mutex_init(&db->slots.change);
    vv_mutex_init(&db->slots.lock);
    db->slots.awaited_lsn = UINT64_MAX;
    vv_cond_init(&db->compaction.wanted);
    vv_cond_init(&db->compaction.done);
    vv_cond_init(&db->state.flush_wanted);
    vv_cond_init(&db->state.flush_done);
    return db;
}

/* Up to the manifest. */
static vv_status load_steps(varve_db *db, const char *path, vv_error *err) {
    char lock_path[VV_DB_PATH_BYTES + 8];
    VV_TRY(vv_db_dir_path(db->dir, path, err));
    if (!db->io)
        VV_TRY(vv_io_backend_create((vv_io_choice)db->settings.io_choice, &db->logger, &db->io, err));
    VV_TRY(make_dir(db, err));
    snprintf(lock_path, sizeof lock_path, "%s/" LOCK_NAME, db->dir);
    VV_TRY(vv_lock_acquire(db->io, lock_path, &db->lock_file, err));
    /* The log gives up for good when the sync of a name fails: not for want of a descriptor. */
    VV_TRY(vv_dir_hold(db->io, db->dir, err));
    VV_TRY(vv_db_install_complete(db->io, &db->logger, db->dir, err));
    VV_TRY(create_caches(db, err));
    VV_TRY(load_state(db, err));
    return vv_db_rewind_complete(db, err);
}

static vv_status run_steps(varve_db *db, vv_error *err) {
    VV_TRY(recover(db, err));
    (void)vv_db_space_look(db);
    VV_TRY(start_threads(db, err));
    vv_status st = trim_log(db);
    return vv_ok(st) ? st : vv_wrap(err, st, "flush the log");
}

/* Also undoes an opening that failed half-way. */
vv_status vv_db_unload(varve_db *db) {
    vv_status st = VV_STATUS_OK;
    atomic_store_explicit(&db->closing, true, memory_order_relaxed);
    if (db->commit.thread_started) {
        /* Behind everything that was pushed before; the answer means that all of it is durable. */
        vv_write stop;
        memset(&stop, 0, sizeof stop);
        stop.kind = VV_WRITE_STOP;
        vv_commit_queue_wait(&db->commit.queue, &stop, vv_commit_queue_push(&db->commit.queue, &stop));
        vv_thread_join(db->commit.thread);
        st = stop.status;
    }
    if (db->state.flusher_started) {
        vv_mutex_lock(&db->state.lock);
        db->state.stopping = true;
        vv_cond_signal(&db->state.flush_wanted);
        vv_mutex_unlock(&db->state.lock);
        vv_thread_join(db->state.flusher);
    }
    vv_db_reader_stop(db);
    if (db->compaction.thread_started) {
        atomic_store_explicit(&db->compaction.stop, true, memory_order_relaxed);
        vv_db_compaction_hint(db);
        vv_thread_join(db->compaction.thread);
        vv_db_slots_close(db);
    }
    vv_status_keep(&st, vv_wal_close(db->wal));
    if (db->state.view)
        vv_view_unref(vv_view_cell_replace(&db->current, NULL));
    vv_db_forget_doubtful(db);
    for (uint32_t i = 0; i < VV_ARRAY_COUNT(db->state.sealed_retry); i++)
        vv_retry_image_unref(db->state.sealed_retry[i]);
    vv_retry_image_unref(db->state.flushed_retry);
    vv_retry_deinit(&db->commit.retry);
    vv_table_cache_destroy(db->tables);
    vv_block_cache_destroy(db->blocks);
    vv_file_close(db->lock_file);
    vv_io_backend_destroy(db->io);
    vv_cond_deinit(&db->state.flush_wanted);
    vv_cond_deinit(&db->state.flush_done);
    for (uint32_t i = 0; i < VV_LEVELS_MAX; i++)
        vv_free(db->compaction.cursors[i].key);
    vv_cond_deinit(&db->compaction.wanted);
    vv_cond_deinit(&db->compaction.done);
    vv_mutex_deinit(&db->slots.lock);
    vv_mutex_deinit(&db->slots.change);
    vv_mutex_deinit(&db->followers.lock);
    vv_mutex_deinit(&db->compaction.lock);
    vv_mutex_deinit(&db->state.lock);
    vv_mutex_deinit(&db->install_lock);
    vv_mutex_deinit(&db->reconfigure_lock);
    vv_mutex_deinit(&db->limit.lock);
    vv_mutex_deinit(&db->commit.lock);
    vv_free(db);
    return st;
}

vv_status vv_db_load_on(vv_io_backend *io_take, const char *path, const varve_options *options,
                        varve_db **db_out, vv_error *err) {
    *db_out = NULL;
    varve_db *db = allocate(options);
    if (!db) {
        vv_io_backend_destroy(io_take);
        return no_memory(err);
    }
    db->io = io_take;
    vv_status st = load_steps(db, path, err);
    if (vv_ok(st))
        *db_out = db;
    else
        vv_status_ignore(vv_db_unload(db), "the first failure is the one to report");
    return st;
}

vv_status vv_db_open_on(vv_io_backend *io_take, const char *path, const varve_options *options,
                        varve_db **db_out, vv_error *err) {
    vv_status st = vv_db_load_on(io_take, path, options, db_out, err);
    if (vv_ok(st)) {
        st = run_steps(*db_out, err);
        if (vv_ok(st))
            return st;
        vv_status_ignore(vv_db_unload(*db_out), "the first failure is the one to report");
        *db_out = NULL;
    }
    return vv_wrap(err, st, "open %s", path);
}

varve_status varve_open(const char *path, const varve_options *options, varve_db **db_out, varve_error *err) {
    return vv_public(vv_db_open_on(NULL, path, options, db_out, vv_private_error(err)));
}

varve_status varve_reconfigure(varve_db *db, const varve_options *options, varve_error *err) {
    const vv_settings *s = &options->settings;
    vv_settings now = {.cache_capacity = s->cache_capacity, .block_bytes = db->settings.block_bytes};
    vv_mutex_lock(&db->reconfigure_lock);
    vv_status st = vv_block_cache_set_capacity(db->blocks, vv_settings_cache_bytes(&now));
    if (vv_ok(st))
        atomic_store_explicit(&db->compaction.rate, s->compaction_rate, memory_order_relaxed);
    else
        st = vv_fail(vv_private_error(err), st, "CACHE_CAPACITY: no memory for the tables of so many blocks");
    vv_mutex_unlock(&db->reconfigure_lock);
    vv_alloc_trim();
    return vv_public(st);
}

varve_status varve_close(varve_db *db) {
    return db ? vv_public(vv_db_unload(db)) : vv_public(VV_STATUS_OK);
}
