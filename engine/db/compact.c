/*
 * compact.c - the compaction thread: picks a merge, runs it, installs its result.
 *
 * A merge in order: outputs written and synced; directory synced; manifest replaced, naming the outputs and
 * no longer the inputs; new view; only then do the inputs lose their files, with their last reader. A crash
 * before the manifest leaves orphans, after it the new shape: never a mixture.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/db_impl.h"
#include "engine/lsm/compaction.h"

#define LEVEL_RATIO 10
/* After a failure; twice as long after each further one. */
#define RETRY_NS     VV_NS_PER_S
#define RETRY_NS_MAX (8 * VV_NS_PER_S)
/* Flushes that follow each other sooner are a burst. */
#define BURST_GAP_NS (500 * VV_NS_PER_MS)
/* How often one who waits for a merge is asked whether he goes on waiting. */
#define ASK_NS (50 * VV_NS_PER_MS)

vv_picker_options vv_db_picker_options(const varve_db *db) {
    return (vv_picker_options){.style = (vv_compaction_style)db->settings.compaction_style,
                               .levels = (uint32_t)db->settings.levels,
                               .threshold = (uint32_t)db->settings.compaction_threshold,
                               .level1_bytes =
                                   db->settings.memtable_bytes * db->settings.compaction_threshold,
                               .ratio = LEVEL_RATIO};
}

void vv_db_compaction_hint(varve_db *db) {
    vv_mutex_lock(&db->compaction.lock);
    db->compaction.hint = true;
    vv_cond_signal(&db->compaction.wanted);
    vv_mutex_unlock(&db->compaction.lock);
}

static uint64_t next_file_number(void *arg) {
    return vv_db_next_file_number(arg);
}

static bool keep_going(void *arg, uint64_t bytes) {
    varve_db *db = arg;
    atomic_fetch_add_explicit(&db->compaction.now_bytes, bytes, memory_order_relaxed);
    vv_db_pace_merge(db, bytes);
    db->compaction.no_room = !vv_db_space_for_merge(db);
    if (db->compaction.no_room)
        return false;
    return !atomic_load_explicit(&db->compaction.stop, memory_order_relaxed);
}

/* Outputs as tables. On failure those made so far are released. */
static vv_status make_tables(varve_db *db, const vv_compaction_plan *plan, vv_compaction_result *r,
                             vv_table **out) {
    uint64_t run = plan->output_run;
    for (size_t i = 0; i < r->output_count; i++) {
        /* A new run is newer than all others of its level: file numbers only grow. */
        if (run == 0)
            run = r->outputs[i].file_number;
        out[i] = vv_table_create(plan->output_level, run, r->outputs[i].file_number, &r->outputs[i].summary,
                                 vv_db_drop_table, db);
        if (!out[i]) {
            while (i > 0)
                vv_table_unref(out[--i]);
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        }
    }
    return VV_STATUS_OK;
}

static vv_status install(varve_db *db, const vv_compaction_plan *plan, const vv_compaction_options *o,
                         vv_compaction_result *r, vv_error *err) {
    vv_table **tables = vv_alloc((r->output_count + 1) * sizeof(vv_table *));
    if (!tables) {
        vv_compaction_result_unlink(r, o);
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
    }
    vv_status st = vv_dir_sync(db->io, db->dir, err);
    if (vv_ok(st))
        st = make_tables(db, plan, r, tables);
    if (!vv_ok(st)) {
        vv_compaction_result_unlink(r, o);
        vv_free(tables);
        return st;
    }
    for (size_t i = 0; i < r->output_count; i++)
        vv_db_open_ahead(db, r->outputs[i].file_number);
    vv_edit edit = {.added = tables,
                    .added_count = r->output_count,
                    .removed = plan->inputs,
                    .removed_count = plan->input_count};
    st =
        vv_db_install(db, &edit, err); /* if it fails, the outputs stay: the manifest on disk may name them */
    for (size_t i = 0; i < r->output_count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    return st;
}

static void count(varve_db *db, const vv_compaction_plan *plan, const vv_compaction_result *r) {
    vv_mutex_lock(&db->compaction.lock);
    db->compaction.runs++;
    db->compaction.read_bytes += plan->input_bytes;
    db->compaction.written_bytes += r->output_bytes;
    db->compaction.dropped_versions += r->dropped_versions;
    db->compaction.dropped_tombstones += r->dropped_tombstones;
    vv_mutex_unlock(&db->compaction.lock);
}

/* Say what is under way; NULL: nothing is. */
static void note_merge(varve_db *db, const vv_compaction_plan *plan, uint64_t start_ns) {
    varve_compaction_info now = {.running = plan != NULL};
    if (plan) {
        now.output_level = plan->output_level;
        now.input_level = plan->output_level;
        for (size_t i = 0; i < plan->input_count; i++)
            now.input_level = VV_MIN(now.input_level, plan->inputs[i]->level);
        now.input_tables = plan->input_count;
        now.input_bytes = plan->input_bytes;
        now.started_ns = start_ns;
    }
    vv_mutex_lock(&db->compaction.lock);
    db->compaction.now = now;
    vv_mutex_unlock(&db->compaction.lock);
    atomic_store_explicit(&db->compaction.now_bytes, 0, memory_order_relaxed);
}

static vv_status run_plan(varve_db *db, vv_io_queue *queue, const vv_compaction_plan *plan, vv_error *err) {
    uint64_t *snapshots = NULL;
    size_t snapshot_count = 0;
    uint64_t visible_lsn;
    uint64_t start_ns = vv_clock_mono_ns();
    VV_TRY(vv_db_snapshot_lsns(db, &snapshots, &snapshot_count, &visible_lsn));
    vv_mutex_lock(&db->state.lock);
    uint64_t safe_lsn = vv_db_safe_lsn(db);
    vv_mutex_unlock(&db->state.lock);
    uint32_t block_units = plan->output_level <= 1 ? VV_DB_UPPER_BLOCK_UNITS : 1;
    vv_compaction_options o = {.queue = queue,
                               .tables = db->tables,
                               .writer = {.backend = db->io,
                                          .block_bytes = (uint32_t)db->settings.block_bytes,
                                          .block_units_max = block_units,
                                          .filter_fp_rate = db->settings.filter_fp_rate,
                                          .compression = (vv_compression)db->settings.compression,
                                          .index_type = (vv_index_type)db->settings.index_type,
                                          .cache = db->blocks,
                                          .memory_bytes = &db->io_memory_bytes},
                               .dir = db->dir,
                               .read_bytes_max = VV_DB_MERGE_READ_BYTES_MAX,
                               .memory_bytes = &db->io_memory_bytes,
                               .output_bytes = db->settings.table_bytes_max,
                               .snapshots = snapshots,
                               .snapshot_count = snapshot_count,
                               .hidden_from_lsn = visible_lsn + 1,
                               .safe_lsn = safe_lsn,
                               .now_unix_ms = vv_clock_unix_ms(),
                               .next_file_number = next_file_number,
                               .pace = keep_going,
                               .arg = db};
    vv_compaction_result r;
    db->compaction.no_room = false;
    note_merge(db, plan, start_ns);
    vv_status st = vv_compaction_run(plan, &o, &r, err);
    if (vv_is(st, VV_BUSY) && db->compaction.no_room)
        st = vv_fail(err, vv_status_make(VV_NO_SPACE, VV_SUB_NONE, ENOSPC),
                     "compaction: the space that is left is needed for flushes");
    if (vv_is(st, VV_NO_SPACE))
        atomic_store_explicit(&db->compaction.wanted_bytes, plan->input_bytes, memory_order_relaxed);
    if (vv_ok(st)) {
        count(db, plan, &r);
        st = install(db, plan, &o, &r, err);
    }
    note_merge(db, NULL, 0);
    if (vv_ok(st))
        vv_spread_record(&db->compaction.merge_us, vv_spread_us(vv_clock_mono_ns() - start_ns));
    if (vv_ok(st))
        vv_log(&db->logger, VV_LOG_DEBUG,
               "merged %zu tables (%" PRIu64 " bytes) into %zu of level %u (%" PRIu64 " bytes) in %" PRIu64
               " ms",
               plan->input_count, plan->input_bytes, r.output_count, plan->output_level, r.output_bytes,
               (vv_clock_mono_ns() - start_ns) / VV_NS_PER_MS);
    vv_compaction_result_deinit(&r);
    vv_free(snapshots);
    return st;
}

/* The files stay as they are, so that the manifest that has their new places is all there is to be synced:
 * before and behind that each file is named, once. */
static vv_status move_tables(varve_db *db, const vv_compaction_plan *plan, vv_error *err) {
    vv_status st = vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    size_t count = 0;
    vv_table **moved = vv_alloc(plan->input_count * sizeof *moved);
    for (; moved && count < plan->input_count; count++) {
        moved[count] = vv_table_move(plan->inputs[count], plan->output_level, plan->output_run);
        if (!moved[count])
            break;
    }
    if (count < plan->input_count) {
        st = vv_fail(err, st, "out of memory");
        goto out;
    }
    vv_edit edit = {
        .added = moved, .added_count = count, .removed = plan->inputs, .removed_count = plan->input_count};
    st = vv_db_install(db, &edit, err);
    if (vv_ok(st))
        vv_log(&db->logger, VV_LOG_DEBUG, "moved %zu tables (%" PRIu64 " bytes) from level %u to level %u",
               count, plan->input_bytes, plan->inputs[0]->level, plan->output_level);
out:
    while (count > 0)
        vv_table_unref(moved[--count]);
    vv_free(moved);
    return st;
}

/* Up to where a merge at the bottom may drop tombstones. A snapshot that is made later is no older than what
 * is visible now. */
static uint64_t drop_lsn(varve_db *db) {
    vv_mutex_lock(&db->state.lock);
    uint64_t safe_lsn = vv_db_safe_lsn(db);
    uint64_t flushed_lsn = db->state.manifest.flushed_lsn;
    vv_db_slots_wait_for(db, safe_lsn && safe_lsn < flushed_lsn ? flushed_lsn : UINT64_MAX);
    uint64_t snapshot_lsn = db->state.snapshots ? db->state.snapshots->lsn : VV_LSN_MAX;
    db->state.snapshots_seen |= db->state.snapshots != NULL;
    vv_mutex_unlock(&db->state.lock);
    uint64_t visible_lsn = vv_db_await_visible(db, flushed_lsn);
    return VV_MIN(VV_MIN(snapshot_lsn, visible_lsn), safe_lsn ? safe_lsn : VV_LSN_MAX);
}

/* Memtables are flushed one after the other. The thread looks again when that is over. */
static bool in_burst(varve_db *db) {
    uint64_t over_ns = atomic_load_explicit(&db->flow.flushed_ns, memory_order_relaxed) + BURST_GAP_NS;
    if (atomic_load_explicit(&db->flow.flush_gap_ns, memory_order_relaxed) > BURST_GAP_NS ||
        vv_clock_mono_ns() >= over_ns)
        return false;
    db->compaction.look_again_ns = over_ns;
    return true;
}

/* One merge, if one is due. *found_out false: nothing to do. */
static vv_status compact_once(varve_db *db, vv_io_queue *queue, bool full, bool *found_out, vv_error *err) {
    uint64_t lsn;
    VV_TRY(vv_db_settle(db, err));
    vv_view *view = vv_db_view(db, &lsn);
    vv_picker_options o = vv_db_picker_options(db);
    o.drop_lsn = drop_lsn(db);
    o.burst = in_burst(db);
    vv_compaction_plan plan;
    vv_status st = full ? vv_pick_all(view->version, &o, &plan, found_out)
                        : vv_pick(view->version, &o, db->compaction.cursors, &plan, found_out);
    vv_db_view_release(db, view); /* the plan holds its inputs; the view would hold a memtable */
    if (!vv_ok(st) || !*found_out)
        return st;
    st = plan.move ? move_tables(db, &plan, err) : run_plan(db, queue, &plan, err);
    if (vv_ok(st) && !full && plan.output_level > 0)
        vv_picker_advance(db->compaction.cursors, plan.output_level - 1, &plan);
    vv_compaction_plan_deinit(&plan);
    vv_alloc_trim(); /* the merge's buffers, and the cached blocks of inputs that nobody else reads */
    return st;
}

/* Merge until nothing is due, or something fails. compaction.lock is not held. */
static vv_status work(varve_db *db, vv_io_queue **queue, bool full) {
    vv_error err = {.text = ""};
    vv_status st = VV_STATUS_OK;
    if (!*queue)
        st = vv_db_flush_queue_create(db, queue, &err);
    bool found = true;
    while (vv_ok(st) && found) {
        st = compact_once(db, *queue, full, &found, &err);
        full = false;
    }
    if (!vv_ok(st)) {
        /* A queue may have broken for good, and its pool with it: the next try gets a fresh one. */
        vv_db_flush_queue_destroy(db, *queue);
        *queue = NULL;
    }
    if (!vv_ok(st) && !vv_is(st, VV_BUSY))
        vv_log(&db->logger, VV_LOG_ERROR, "%s", err.text[0] ? err.text : vv_code_text(st.code));
    return st;
}

static bool room_came(varve_db *db) {
    return atomic_load_explicit(&db->compaction.wanted_bytes, memory_order_relaxed) == VV_DB_ROOM_CAME;
}

void vv_db_compactor(void *arg) {
    varve_db *db = arg;
    vv_io_queue *queue = NULL;
    uint64_t retry_ns = RETRY_NS;
    vv_thread_be_background();
    vv_mutex_lock(&db->compaction.lock);
    while (!atomic_load_explicit(&db->compaction.stop, memory_order_relaxed)) {
        bool full = db->compaction.full_asked > db->compaction.full_done;
        if (!db->compaction.hint && !full && db->compaction.look_again_ns == 0) {
            vv_cond_wait(&db->compaction.wanted, &db->compaction.lock);
            continue;
        }
        if (!db->compaction.hint && !full &&
            vv_cond_wait_until(&db->compaction.wanted, &db->compaction.lock, db->compaction.look_again_ns))
            continue;
        db->compaction.look_again_ns = 0;
        uint64_t asked = db->compaction.full_asked;
        db->compaction.hint = false;
        vv_mutex_unlock(&db->compaction.lock);
        atomic_store_explicit(&db->compaction.wanted_bytes, 0, memory_order_relaxed);
        vv_status st = work(db, &queue, full);
        (void)vv_db_space_look(db);
        vv_mutex_lock(&db->compaction.lock);
        if (full)
            db->compaction.full_status = vv_db_file_failure(st);
        db->compaction.full_done = asked;
        vv_cond_broadcast(&db->compaction.done);
        if (vv_ok(st)) {
            retry_ns = RETRY_NS;
            continue;
        }
        /* Hints don't end the wait, or each flush on a full disk would have a merge fail. Room does. */
        uint64_t deadline_ns = vv_clock_mono_ns() + retry_ns;
        retry_ns = VV_MIN(retry_ns * 2, RETRY_NS_MAX);
        db->compaction.hint = true;
        while (!atomic_load_explicit(&db->compaction.stop, memory_order_relaxed) &&
               db->compaction.full_asked == db->compaction.full_done && !room_came(db) &&
               vv_cond_wait_until(&db->compaction.wanted, &db->compaction.lock, deadline_ns))
            continue;
        if (room_came(db))
            retry_ns = RETRY_NS;
    }
    vv_mutex_unlock(&db->compaction.lock);
    vv_db_flush_queue_destroy(db, queue);
}

varve_status varve_compact(varve_db *db) {
    return varve_compact_while(db, NULL, NULL);
}

varve_status varve_compact_while(varve_db *db, varve_progress_fn go_on, void *arg) {
    varve_status flushed = varve_flush(db);
    if (!varve_ok(flushed))
        return flushed;
    vv_mutex_lock(&db->compaction.lock);
    uint64_t ticket = ++db->compaction.full_asked;
    vv_cond_signal(&db->compaction.wanted);
    bool waits = true;
    while (db->compaction.full_done < ticket && waits) {
        if (!go_on) {
            vv_cond_wait(&db->compaction.done, &db->compaction.lock);
            continue;
        }
        (void)vv_cond_wait_until(&db->compaction.done, &db->compaction.lock, vv_clock_mono_ns() + ASK_NS);
        vv_mutex_unlock(&db->compaction.lock);
        waits = go_on(arg, 0, 0);
        vv_mutex_lock(&db->compaction.lock);
    }
    vv_status st = db->compaction.full_status;
    if (db->compaction.full_done < ticket)
        st = vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0);
    vv_mutex_unlock(&db->compaction.lock);
    return vv_public(st);
}

varve_status varve_set_safe_compaction_lsn(varve_db *db, uint64_t lsn, varve_error *err) {
    vv_edit edit = {.safe_lsn = &lsn};
    vv_status st = vv_db_install(db, &edit, vv_private_error(err));
    if (!vv_ok(st))
        return vv_public(vv_wrap((vv_error *)err, vv_db_file_failure(st), "safe compaction LSN"));
    vv_db_compaction_hint(db); /* tombstones that it held may go now */
    return vv_public(st);
}
