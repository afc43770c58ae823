/*
 * state.c - which view readers get, sealing, and the flusher.
 *
 * A flush in order: table written and synced; directory synced, so that its name survives; manifest replaced,
 * which says that the table exists and that the log is no longer needed up to its last LSN; only then the new
 * view, and only then may the log's segments be recycled. A crash between any two of these leaves either an
 * orphan file, removed by the next open, or a log that is replayed once more than needed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "engine/lsm/flush.h"

#define FLUSH_QUEUE_DEPTH  4
#define FLUSH_BUFFER_COUNT 4
#define FLUSH_BUFFER_BYTES (UINT32_C(1) << 20)
#define FLUSH_RETRY_NS     VV_NS_PER_S
/* While a full queue of memtables holds up the writer: how often it looks what others have confirmed. */
#define CONFIRM_NS (2 * VV_NS_PER_MS)

vv_view *vv_db_view(varve_db *db, uint64_t *lsn_out) {
    for (;;) {
        vv_view *view = vv_view_cell_acquire(&db->current);
        /* acquire: pairs with the writer's release, so that the memtable shows the entries up to here. */
        *lsn_out = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
        /* If the view is still the current one, it was so when the LSN was read, and the two belong together.
         */
        if (vv_view_cell_holds(&db->current, view))
            return view;
        vv_view_cell_release(&db->current, view);
    }
}

void vv_db_view_release(varve_db *db, vv_view *view) {
    vv_view_cell_release(&db->current, view);
}

/* Make `view` the current one; the old one lives on with its readers. The caller drops the reference that is
 * returned, outside the lock: with it may go tables, and their files. state.lock held. */
static vv_view *install_view(varve_db *db, vv_view *view_take) {
    vv_db_pace_observe(db, db->state.view, view_take);
    db->state.view = view_take;
    return vv_view_cell_replace(&db->current, view_take);
}

/* Wait for room in the queue of sealed memtables. state.lock held. */
static vv_status wait_for_room(varve_db *db) {
    bool stalled = false;
    while (db->state.view->sealed_count >= db->settings.immutable_count_max) {
        /* Flushing fails and nothing more fits: say so instead of waiting for ever. Nothing was changed. */
        if (!vv_ok(db->state.flush_status))
            return db->state.flush_status;
        if (!stalled)
            db->state.write_stalls++;
        stalled = true;
        if (!vv_db_commits_limited(db)) {
            vv_cond_wait(&db->state.flush_done, &db->state.lock);
            continue;
        }
        /* Answers that wait for others don't wait for the flush, too. */
        (void)vv_cond_wait_until(&db->state.flush_done, &db->state.lock, vv_clock_mono_ns() + CONFIRM_NS);
        vv_mutex_unlock(&db->state.lock);
        vv_db_confirm(db);
        vv_mutex_lock(&db->state.lock);
    }
    return VV_STATUS_OK;
}

/* The active memtable is new. While the log is replayed there is none to ask: recover() in open.c counts
 * then. */
static void count_log_from_here(varve_db *db) {
    if (!db->wal)
        return;
    vv_wal_stats stats;
    vv_wal_stats_get(db->wal, &stats);
    db->commit.memtable_wal_bytes = stats.written_bytes;
}

vv_status vv_db_seal(varve_db *db) {
    vv_memtable *fresh = NULL;
    vv_view *old = NULL;
    vv_retry_image *retry;
    VV_TRY(vv_retry_image_take(&db->commit.retry, &retry));
    vv_status st =
        vv_memtable_create((vv_memtable_type)db->settings.memtable_type, db->memtable_seed++, &fresh);
    if (!vv_ok(st)) {
        vv_retry_image_unref(retry);
        return st;
    }
    vv_mutex_lock(&db->state.lock);
    st = wait_for_room(db);
    if (vv_ok(st)) {
        const vv_view *now = db->state.view;
        vv_memtable *sealed[VV_IMMUTABLE_COUNT_LIMIT + 1];
        sealed[0] = now->active;
        for (uint32_t i = 0; i < now->sealed_count; i++)
            sealed[i + 1] = now->sealed[i];
        vv_view *next = vv_view_create(fresh, sealed, now->sealed_count + 1, now->version);
        if (next) {
            old = install_view(db, next);
            db->commit.active = fresh;
            db->state.sealed_retry[now->sealed_count] = retry;
            retry = NULL;
            count_log_from_here(db);
        } else {
            st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        }
        vv_cond_signal(&db->state.flush_wanted);
    }
    vv_mutex_unlock(&db->state.lock);
    vv_view_unref(old);
    vv_memtable_unref(fresh);
    vv_retry_image_unref(retry);
    return st;
}

/* ---- flush ---- */

vv_status vv_db_flush_queue_create(varve_db *db, vv_io_queue **out, vv_error *err) {
    vv_io_queue_options o = {.depth = FLUSH_QUEUE_DEPTH,
                             .pool_buffer_count = FLUSH_BUFFER_COUNT,
                             .pool_buffer_bytes = FLUSH_BUFFER_BYTES};
    VV_TRY(vv_io_queue_create(db->io, &o, out, err));
    atomic_fetch_add_explicit(&db->io_memory_bytes, FLUSH_BUFFER_COUNT * FLUSH_BUFFER_BYTES,
                              memory_order_relaxed);
    return VV_STATUS_OK;
}

void vv_db_flush_queue_destroy(varve_db *db, vv_io_queue *queue) {
    if (queue)
        atomic_fetch_sub_explicit(&db->io_memory_bytes, FLUSH_BUFFER_COUNT * FLUSH_BUFFER_BYTES,
                                  memory_order_relaxed);
    vv_io_queue_destroy(queue);
}

void vv_db_drop_table(void *arg, uint64_t file_number) {
    varve_db *db = arg;
    char path[VV_DB_PATH_BYTES];
    vv_table_cache_erase(db->tables, file_number);
    vv_block_cache_erase_file(db->blocks, file_number);
    vv_table_cache_path(db->dir, file_number, path, sizeof path);
    /* The manifest no longer names it: should the unlink not survive a crash, the next open removes it. */
    vv_status_ignore(vv_path_unlink(db->io, path, NULL), "an orphan is removed by the next open");
}

void vv_db_open_ahead(varve_db *db, uint64_t file_number) {
    vv_sst_reader *r;
    vv_status st = vv_table_cache_get(db->tables, file_number, &r, NULL);
    if (vv_ok(st))
        vv_table_cache_release(db->tables, r, VV_TABLE_PIN_SHARED);
    vv_status_ignore(st, "who reads the table opens it, and says what is wrong with it");
}

/* Whether gets look into tables at all: since the last flush for each 16th block of one. Else its blocks
 * would be put into the cache for nobody. */
static bool tables_are_read(varve_db *db) {
    vv_block_cache_stats s;
    vv_block_cache_stats_get(db->blocks, &s);
    uint64_t lookups = s.hits + s.misses;
    uint64_t before = atomic_exchange_explicit(&db->lookups_at_flush, lookups, memory_order_relaxed);
    return lookups - before >= db->settings.memtable_bytes / db->settings.block_bytes / 16;
}

/* Table file and its name, both durable. On failure nothing is left behind. */
static vv_status write_table(varve_db *db, vv_io_queue *queue, vv_memtable *m, uint64_t file_number,
                             vv_table **out, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    vv_sst_summary summary;
    vv_table_cache_path(db->dir, file_number, path, sizeof path);
    vv_sst_writer_options o = {.queue = queue,
                               .backend = db->io,
                               .path = path,
                               .block_bytes = (uint32_t)db->settings.block_bytes,
                               .block_units_max = VV_DB_UPPER_BLOCK_UNITS,
                               .filter_fp_rate = db->settings.filter_fp_rate,
                               .compression = (vv_compression)db->settings.compression,
                               .index_type = (vv_index_type)db->settings.index_type,
                               .cache = tables_are_read(db) ? db->blocks : NULL,
                               .file_number = file_number,
                               .memory_bytes = &db->io_memory_bytes};
    vv_status st = vv_flush_memtable(m, &o, &summary, err);
    if (vv_ok(st))
        st = vv_dir_sync(db->io, db->dir, err);
    if (vv_ok(st)) {
        *out = vv_table_create(0, file_number, file_number, &summary, vv_db_drop_table, db);
        if (*out) {
            vv_db_open_ahead(db, file_number);
            return VV_STATUS_OK;
        }
        st = vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s: out of memory", path);
    }
    vv_sst_summary_deinit(&summary);
    vv_block_cache_erase_file(db->blocks, file_number);
    vv_status_ignore(vv_path_unlink(db->io, path, NULL), "an orphan is removed by the next open");
    return st;
}

uint64_t vv_db_next_file_number(varve_db *db) {
    vv_mutex_lock(&db->state.lock);
    uint64_t number = db->state.manifest.next_file_number++;
    vv_mutex_unlock(&db->state.lock);
    return number;
}

/* ---- installing a change ---- */

static bool is_removed(const vv_edit *edit, const vv_table *t) {
    for (size_t i = 0; i < edit->removed_count; i++)
        if (edit->removed[i] == t)
            return true;
    return false;
}

static vv_version *edited_version(const vv_version *old, const vv_edit *edit) {
    vv_table **tables = vv_alloc((old->table_count + edit->added_count + 1) * sizeof(vv_table *));
    if (!tables)
        return NULL;
    size_t count = 0;
    for (size_t i = 0; i < old->table_count; i++)
        if (!is_removed(edit, old->tables[i]))
            tables[count++] = old->tables[i];
    for (size_t i = 0; i < edit->added_count; i++)
        tables[count++] = edit->added[i];
    vv_version *v = vv_version_create(tables, count);
    vv_free(tables);
    return v;
}

/* The oldest sealed memtable is in a table, and its image in the manifest on disk. state.lock held. */
static void retry_flushed(varve_db *db, uint32_t sealed_count) {
    vv_retry_image **sealed = db->state.sealed_retry;
    vv_retry_image_unref(db->state.flushed_retry);
    db->state.flushed_retry = sealed[0];
    memmove(sealed, sealed + 1, (sealed_count - 1) * sizeof *sealed);
    sealed[sealed_count - 1] = NULL;
}

/*
 * The newest view with another version and, after a flush, without its oldest memtable. *old_out: the
 * reference to the view before, which the caller drops outside the lock: with it may go tables, and their
 * files. state.lock held.
 */
static vv_status publish(varve_db *db, const vv_manifest *manifest, vv_version *version, bool flushed,
                         vv_view **old_out) {
    const vv_view *now = db->state.view;
    vv_view *next = vv_view_create(now->active, now->sealed, now->sealed_count - (flushed ? 1 : 0), version);
    if (!next)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    if (flushed)
        retry_flushed(db, now->sealed_count);
    *old_out = install_view(db, next);
    /* File numbers were taken meanwhile. */
    uint64_t next_file_number = VV_MAX(manifest->next_file_number, db->state.manifest.next_file_number);
    db->state.manifest = *manifest;
    db->state.manifest.next_file_number = next_file_number;
    if (flushed)
        db->state.flushes++;
    return VV_STATUS_OK;
}

static void make_obsolete(vv_table *const *tables, size_t count) {
    for (size_t i = 0; i < count; i++)
        atomic_store_explicit(&tables[i]->obsolete, true, memory_order_relaxed);
}

/* What is removed is added again elsewhere: the files stay, whatever becomes of the edit. */
static bool is_move(const vv_edit *edit) {
    return edit->added_count > 0 && edit->removed_count == edit->added_count &&
           edit->added[0]->moved_from == edit->removed[0];
}

/* Room for the added tables among the doubtful ones, made while failing is still free of consequences. */
static bool reserve_doubtful(varve_db *db, const vv_edit *edit) {
    size_t count = db->doubtful_count + edit->added_count;
    if (edit->added_count == 0)
        return true;
    vv_table **grown = vv_realloc(db->doubtful, count * sizeof *grown);
    if (grown)
        db->doubtful = grown;
    return grown != NULL;
}

static void keep_doubtful(varve_db *db, const vv_edit *edit) {
    for (size_t i = 0; i < edit->added_count; i++) {
        vv_table_ref(edit->added[i]);
        db->doubtful[db->doubtful_count++] = edit->added[i];
    }
}

static void unref_tables(vv_table **tables_take, size_t count) {
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables_take[i]);
    vv_free(tables_take);
}

void vv_db_forget_doubtful(varve_db *db) {
    unref_tables(db->doubtful, db->doubtful_count);
    db->doubtful = NULL;
    db->doubtful_count = 0;
}

vv_status vv_db_settle(varve_db *db, vv_error *err) {
    vv_mutex_lock(&db->install_lock);
    bool settled = db->doubtful_count == 0;
    vv_mutex_unlock(&db->install_lock);
    vv_edit nothing = {0};
    return settled ? VV_STATUS_OK : vv_db_install(db, &nothing, err);
}

vv_status vv_db_install(varve_db *db, const vv_edit *edit, vv_error *err) {
    vv_table **judged = NULL;
    size_t judged_count = 0;
    vv_mutex_lock(&db->install_lock);
    vv_mutex_lock(&db->state.lock);
    vv_version *old = db->state.view->version;
    vv_version_ref(old);
    vv_manifest manifest = db->state.manifest;
    /* Both images live as long as install_lock is held: only an installed flush drops one. */
    if (edit->flushed_lsn != 0)
        manifest.retry = vv_retry_image_bytes(db->state.sealed_retry[0]);
    vv_mutex_unlock(&db->state.lock);

    bool replaced = false;
    vv_view *old_view = NULL;
    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_version *next = edited_version(old, edit);
    if (!next || !reserve_doubtful(db, edit)) {
        st = vv_fail(err, st, "out of memory");
        goto out;
    }
    manifest.generation++;
    if (edit->safe_lsn)
        manifest.safe_compaction_lsn = *edit->safe_lsn;
    if (edit->promised_epoch)
        manifest.promised_epoch = *edit->promised_epoch;
    /* See commit_limit.c. While the log is replayed nothing is visible yet. */
    if (edit->commit_limit)
        manifest.commit_limit = *edit->commit_limit;
    else if (manifest.commit_limit != VV_COMMIT_LIMIT_NONE && db->wal)
        manifest.commit_limit = atomic_load_explicit(&db->visible_lsn, memory_order_acquire);
    if (edit->epochs)
        manifest.epochs = *edit->epochs;
    vv_db_slots_copy(db, &manifest);
    if (edit->flushed_lsn != 0) {
        manifest.flushed_lsn = edit->flushed_lsn;
        if (db->wal) /* else recovery flushes: the log is being read, and its oldest segment stays */
            manifest.first_segment = vv_wal_first_needed(db->wal, edit->flushed_lsn);
    }
    st = vv_manifest_write(db->io, db->dir, &manifest, next, &replaced, err);
    if (!vv_ok(st))
        goto out;
    vv_mutex_lock(&db->state.lock);
    st = publish(db, &manifest, next, edit->flushed_lsn != 0, &old_view);
    vv_mutex_unlock(&db->state.lock);
    /* Only now: a table that the manifest on disk may still name must keep its file. */
    if (vv_ok(st)) {
        if (!is_move(edit))
            make_obsolete(edit->removed, edit->removed_count);
        /* The manifest that is durable now names none of these. */
        make_obsolete(db->doubtful, db->doubtful_count);
        judged = db->doubtful;
        judged_count = db->doubtful_count;
        db->doubtful = NULL;
        db->doubtful_count = 0;
    }
    if (vv_ok(st) && edit->flushed_lsn != 0 && db->wal)
        vv_wal_release(db->wal, manifest.first_segment);
out:
    /* New tables stay, for now, if the manifest on disk may be the new one, and name them. Else they go: each
     * further try would leave others. */
    if (!vv_ok(st) && !is_move(edit)) {
        if (replaced)
            keep_doubtful(db, edit);
        else
            make_obsolete(edit->added, edit->added_count);
    }
    vv_mutex_unlock(&db->install_lock);
    unref_tables(judged, judged_count);
    vv_view_unref(old_view);
    vv_version_unref(next);
    vv_version_unref(old);
    return st;
}

/* ---- the flusher ---- */

static vv_status flush_one(varve_db *db, vv_io_queue *queue, vv_memtable *m, vv_error *err) {
    vv_table *table = NULL;
    VV_TRY(vv_db_settle(db, err));
    /* The number is used up even if this flush fails: its file may be there. */
    VV_TRY(write_table(db, queue, m, vv_db_next_file_number(db), &table, err));
    vv_edit edit = {.added = &table, .added_count = 1, .flushed_lsn = m->last_lsn};
    vv_status st = vv_db_install(db, &edit, err);
    if (vv_ok(st)) {
        vv_mutex_lock(&db->state.lock);
        db->state.flush_bytes += table->summary.file_bytes;
        vv_mutex_unlock(&db->state.lock);
    }
    vv_table_unref(table);
    return st;
}

bool vv_db_flush_oldest(varve_db *db, vv_io_queue *queue, vv_status *st_out) {
    *st_out = VV_STATUS_OK;
    vv_mutex_lock(&db->state.lock);
    const vv_view *view = db->state.view;
    if (view->sealed_count == 0) {
        vv_mutex_unlock(&db->state.lock);
        return false;
    }
    vv_memtable *m = view->sealed[view->sealed_count - 1];
    vv_memtable_ref(m);
    vv_mutex_unlock(&db->state.lock);

    vv_error err = {.text = ""};
    uint64_t start_ns = vv_clock_mono_ns();
    vv_status st = flush_one(db, queue, m, &err);
    if (vv_ok(st))
        vv_spread_record(&db->state.flush_us, vv_spread_us(vv_clock_mono_ns() - start_ns));
    if (vv_ok(st))
        vv_log(&db->logger, VV_LOG_DEBUG,
               "flushed %" PRIu64 " entries up to LSN %" PRIu64 " in %" PRIu64 " ms", vv_memtable_count(m),
               m->last_lsn, (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS);
    else
        vv_log(&db->logger, VV_LOG_ERROR, "flush failed, to be tried again: %s", err.text);
    vv_memtable_unref(m);
    vv_alloc_trim(); /* the writer's buffers are not needed before the next memtable is full */
    *st_out = st;
    if (vv_ok(st)) {
        uint64_t now_ns = vv_clock_mono_ns();
        uint64_t gap_ns =
            now_ns - atomic_exchange_explicit(&db->flow.flushed_ns, now_ns, memory_order_relaxed);
        atomic_store_explicit(&db->flow.flush_gap_ns, gap_ns, memory_order_relaxed);
        vv_db_compaction_hint(db);
    }
    return true;
}

void vv_db_flusher(void *arg) {
    varve_db *db = arg;
    vv_io_queue *queue = NULL;
    vv_error err = {.text = ""};
    vv_thread_be_background();
    vv_mutex_lock(&db->state.lock);
    /* Closing waits for what is sealed, unless it can't be flushed: the log has it then. */
    while (!db->state.stopping || (db->state.view->sealed_count > 0 && vv_ok(db->state.flush_status))) {
        if (db->state.slots_stale) {
            db->state.slots_stale = false;
            vv_mutex_unlock(&db->state.lock);
            vv_db_slots_save(db);
            vv_mutex_lock(&db->state.lock);
            continue;
        }
        if (db->state.view->sealed_count == 0) {
            vv_cond_wait(&db->state.flush_wanted, &db->state.lock);
            continue;
        }
        vv_mutex_unlock(&db->state.lock);
        vv_status st = VV_STATUS_OK;
        if (!queue)
            st = vv_db_flush_queue_create(db, &queue, &err);
        if (vv_ok(st))
            (void)vv_db_flush_oldest(db, queue, &st);
        if (!vv_ok(st)) {
            /* A queue may have broken for good, and its pool with it: the next try gets a fresh one. */
            vv_db_flush_queue_destroy(db, queue);
            queue = NULL;
        }
        (void)vv_db_space_look(db);
        vv_mutex_lock(&db->state.lock);
        db->state.flush_status = vv_db_file_failure(st);
        vv_cond_broadcast(&db->state.flush_done);
        if (!vv_ok(st) && !db->state.stopping)
            (void)vv_cond_wait_until(&db->state.flush_wanted, &db->state.lock,
                                     vv_clock_mono_ns() + FLUSH_RETRY_NS);
    }
    vv_mutex_unlock(&db->state.lock);
    vv_db_flush_queue_destroy(db, queue);
}
