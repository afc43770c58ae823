/*
 * repair.c - a damaged database made one that opens, from what is still whole of it.
 *
 *   look at everything --> dir/REPAIR: tables linked, or written anew --> manifest --> the log into tables
 *                      --> manifest --> install REPAIR in the place of the old files, which go to repair-TIME
 *
 * Looking changes nothing. What is made is a database of its own in REPAIR, and it takes the place of the old
 * one by install.c, whose marker is what makes the change one: until it is synced the old database is
 * untouched, and what is in REPAIR is thrown away by the next repair; from then on whoever opens the
 * directory completes it. So a repair that is killed at any place can be called again, and leaves nothing
 * half-done.
 *
 * The order of syncs: a table's bytes (its writer's, or it is a second name for bytes that were synced long
 * ago), the names in REPAIR, its manifest, and then install's own.
 *
 * Where tables may be put. A reader looks through the runs in order and stops at the first that has the key:
 * so a table that is written anew takes the level and the run of the one it comes from, whose place in the
 * order it has. When the manifest is lost, so is that order. Tables that don't overlap need none, and are
 * made one run. If any two overlap, all are merged into one run, by key and LSN, and everything is kept but
 * versions that a newer one hides: what the next compaction would have read and written anyway. The log's
 * records are newer than all tables: their flushes go to level 0, as ever.
 *
 * Which records. Those of a batch come together or not at all. A damaged log gives those up to the first that
 * is missing (wal_salvage.c); LSNs behind it will be given out again, and so the next write begins an epoch
 * (epochs.c), which tells replicas that the histories part here.
 */
#include "engine/db/repair_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "engine/db/table_copy.h"
#include "engine/lsm/compaction.h"

#define QUEUE_DEPTH  8
#define BUFFER_COUNT 4
#define BUFFER_BYTES (UINT32_C(1) << 20)

static void path_in(const char *dir, const char *name, char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s", dir, name);
}

static void ignore_loss(void *arg, const vv_sst_damage *d) {
    (void)arg;
    (void)d; /* told when the table was looked at */
}

static void log_lost_again(void *arg, const vv_wal_loss *l) {
    (void)arg;
    (void)l; /* told when the log was looked at */
}

/* ---- the new database: its tables ---- */

typedef struct sweep {
    vv_repair *j;
    const char *dir;
} sweep;

static vv_status remove_entry(void *arg, const char *name, vv_entry_kind kind) {
    const sweep *s = arg;
    char path[VV_DB_PATH_BYTES];
    if (kind == VV_ENTRY_DIRECTORY)
        return VV_STATUS_OK;
    path_in(s->dir, name, path);
    return vv_path_unlink(s->j->io, path, s->j->err);
}

/* REPAIR is ours: what is in it was left by a repair that was cut short before its end. */
static vv_status make_work(vv_repair *j) {
    sweep s = {.j = j, .dir = j->work};
    vv_status st = vv_dir_create(j->io, j->work, j->err);
    if (vv_is(st, VV_EXISTS))
        st = vv_dir_list(j->io, j->work, remove_entry, &s, j->err);
    return vv_ok(st) ? vv_dir_sync(j->io, j->dir, j->err) : st;
}

static vv_sst_writer_options writer_options(const vv_repair *j, const char *path) {
    return (vv_sst_writer_options){.queue = j->queue,
                                   .backend = j->io,
                                   .path = path,
                                   .block_bytes = (uint32_t)j->settings.block_bytes,
                                   .filter_fp_rate = j->settings.filter_fp_rate,
                                   .compression = (vv_compression)j->settings.compression,
                                   .index_type = (vv_index_type)j->settings.index_type};
}

static vv_status write_entry(void *arg, const vv_entry *e) {
    return vv_sst_writer_add(((vv_repair *)arg)->writer, e);
}

/* The entries that are whole, in a table of their own. */
static vv_status rewrite_table(vv_repair *j, const vv_repair_table *t, uint64_t number, vv_sst_summary *out) {
    char path[VV_DB_PATH_BYTES];
    vv_table_cache_path(j->work, number, path, sizeof path);
    vv_sst_writer_options wo = writer_options(j, path);
    vv_table_cache_path(j->dir, t->file_number, j->path, sizeof j->path);
    vv_sst_salvage_options so = {.backend = j->io,
                                 .path = j->path,
                                 .entry = write_entry,
                                 .lost = ignore_loss,
                                 .pace = vv_repair_pace,
                                 .arg = j};
    VV_TRY(vv_sst_writer_create(&wo, &j->writer, j->err));
    vv_status st = vv_sst_salvage(&so, j->err);
    if (vv_ok(st))
        st = vv_sst_writer_finish(j->writer, out, j->err);
    vv_sst_writer_destroy(j->writer);
    j->writer = NULL;
    if (vv_ok(st) && out->item_count != t->read.item_count) { /* the device gives out now this and now that */
        vv_sst_summary_deinit(out);
        st = vv_fail(j->err, vv_status_make(VV_IO, VV_SUB_NONE, 0), "%s: reads differently each time",
                     j->path);
    }
    j->out->tables_rewritten += vv_ok(st);
    return st;
}

static vv_status copy_summary(vv_repair *j, const vv_sst_summary *from, vv_sst_summary *out) {
    *out = *from;
    bool first = vv_repair_copy_key(vv_slice_make(from->first_key, from->first_key_bytes), &out->first_key);
    bool last = vv_repair_copy_key(vv_slice_make(from->last_key, from->last_key_bytes), &out->last_key);
    if (first && last)
        return VV_STATUS_OK;
    vv_free(first ? out->first_key : NULL);
    vv_free(last ? out->last_key : NULL);
    *out = (vv_sst_summary){0};
    return vv_repair_no_memory(j);
}

/* A second name for the file or, where there are none, a copy; it was read and found whole. */
static vv_status bring_table(vv_repair *j, const vv_repair_table *t, vv_sst_summary *out) {
    char from[VV_DB_PATH_BYTES], to[VV_DB_PATH_BYTES];
    vv_table_cache_path(j->dir, t->file_number, from, sizeof from);
    vv_table_cache_path(j->work, t->file_number, to, sizeof to);
    VV_TRY(copy_summary(j, t->named ? &t->named->summary : &t->read, out));
    vv_status st = vv_path_link(j->io, from, to, j->err);
    if (vv_is(st, VV_UNSUPPORTED)) {
        uint32_t ignored_level = 0;
        vv_sst_summary summary;
        vv_table_copier copier = {
            .io = j->io, .queue = j->queue, .logger = &j->logger, .throttle = &j->throttle, .err = j->err};
        st = copy_summary(j, out, &summary);
        vv_table *table =
            vv_ok(st) ? vv_table_create(ignored_level, 1, t->file_number, &summary, vv_repair_keep_file, NULL)
                      : NULL;
        st = table ? vv_table_copy(&copier, table, from, to) : vv_repair_no_memory(j);
        if (table)
            vv_table_unref(table);
    }
    if (!vv_ok(st))
        vv_sst_summary_deinit(out);
    j->out->tables_kept += vv_ok(st);
    return st;
}

/* A table in REPAIR becomes one of the new database. */
static vv_status add_made(vv_repair *j, uint32_t level, uint64_t run, uint64_t number,
                          vv_sst_summary *summary_take) {
    vv_table *t = vv_table_create(level, run, number, summary_take, vv_repair_keep_file, NULL);
    vv_table **grown = t ? vv_realloc(j->made, (j->made_count + 1) * sizeof *grown) : NULL;
    if (!grown) {
        if (t)
            vv_table_unref(t);
        return vv_repair_no_memory(j);
    }
    j->made = grown;
    j->made[j->made_count++] = t;
    return VV_STATUS_OK;
}

static vv_status make_tables(vv_repair *j) {
    for (size_t i = 0; i < j->table_count; i++) {
        const vv_repair_table *t = &j->tables[i];
        uint64_t number = t->damaged ? j->highest_number + 1 : t->file_number;
        vv_sst_summary summary;
        if (!t->usable)
            continue;
        if (t->damaged) {
            j->highest_number = number;
            VV_TRY(rewrite_table(j, t, number, &summary));
        } else {
            VV_TRY(bring_table(j, t, &summary));
        }
        /* Without a manifest each is a run, for now. */
        VV_TRY(t->named ? add_made(j, t->named->level, t->named->run, number, &summary)
                        : add_made(j, 0, number, number, &summary));
    }
    return VV_STATUS_OK;
}

/* ---- without a manifest: one run of all tables ---- */

static int by_first_key(const void *a, const void *b) {
    return vv_slice_compare(vv_table_first_key(*(vv_table *const *)a),
                            vv_table_first_key(*(vv_table *const *)b));
}

/* No key is in two of them. */
static bool are_disjoint(vv_repair *j) {
    qsort(j->made, j->made_count, sizeof(vv_table *), by_first_key);
    for (size_t i = 1; i < j->made_count; i++)
        if (vv_slice_compare(vv_table_last_key(j->made[i - 1]), vv_table_first_key(j->made[i])) >= 0)
            return false;
    return true;
}

static uint64_t take_number(void *arg) {
    return ++((vv_repair *)arg)->highest_number;
}

static vv_status merge_made(vv_repair *j, vv_compaction_result *result) {
    vv_table_cache *cache;
    vv_compaction_plan plan = {.inputs = j->made, .input_count = j->made_count, .output_level = 0};
    vv_compaction_options co = {.queue = j->queue,
                                .writer = writer_options(j, NULL),
                                .dir = j->work,
                                .read_bytes_max = VV_DB_MERGE_READ_BYTES_MAX,
                                .output_bytes = j->settings.table_bytes_max,
                                .next_file_number = take_number,
                                .pace = vv_repair_pace,
                                .arg = j};
    VV_TRY(vv_table_cache_create(j->io, j->work, (uint32_t)j->settings.table_cache_count,
                                 j->settings.table_cache_bytes, &cache));
    co.tables = cache;
    vv_status st = vv_compaction_run(&plan, &co, result, j->err);
    vv_table_cache_destroy(cache);
    return st;
}

static void forget_made(vv_repair *j) {
    for (size_t i = 0; i < j->made_count; i++)
        vv_table_unref(j->made[i]);
    vv_free(j->made);
    j->made = NULL;
    j->made_count = 0;
}

static vv_status make_one_run(vv_repair *j) {
    uint32_t level = (uint32_t)j->settings.levels - 1;
    if (are_disjoint(j)) {
        for (size_t i = 0; i < j->made_count; i++) {
            j->made[i]->level = level;
            j->made[i]->run = 1;
        }
        return VV_STATUS_OK;
    }
    vv_compaction_result result;
    VV_TRY(merge_made(j, &result));
    forget_made(j); /* the names of the inputs are removed when REPAIR is loaded: no manifest names them */
    vv_status st = VV_STATUS_OK;
    for (size_t i = 0; i < result.output_count && vv_ok(st); i++)
        st = add_made(j, level, 1, result.outputs[i].file_number, &result.outputs[i].summary);
    j->out->tables_rewritten += j->out->tables_kept;
    j->out->tables_kept = 0;
    vv_compaction_result_deinit(&result);
    return st;
}

/* What only the manifest knew. The id is another: an archive, or a base of backups, must not be mistaken for
 * its. */
static vv_status invent_manifest(vv_repair *j) {
    vv_manifest *m = &j->manifest;
    *m = (vv_manifest){.created_unix_ms = vv_clock_unix_ms(),
                       .promised_epoch = 1,
                       .commit_limit = VV_COMMIT_LIMIT_NONE,
                       .epochs = {.count = 1, .items[0] = {.epoch = 1, .first_lsn = 1}}};
    uint64_t *id = &m->epochs.items[0].id;
    if (getrandom(m->db_id, sizeof m->db_id, 0) != (ssize_t)sizeof m->db_id ||
        getrandom(id, sizeof *id, 0) != (ssize_t)sizeof *id)
        return vv_fail(j->err, vv_status_make(VV_INTERNAL, VV_SUB_NONE, 0),
                       "no random bytes from the kernel");
    return VV_STATUS_OK;
}

static vv_status write_manifest(vv_repair *j) {
    vv_manifest *m = &j->manifest;
    if (!j->has_manifest)
        VV_TRY(invent_manifest(j));
    m->generation++;
    m->flushed_lsn = j->flushed_lsn;
    m->next_file_number = j->highest_number + 1;
    m->first_segment = 0;
    vv_version *version = vv_version_create(j->made, j->made_count);
    if (!version)
        return vv_repair_no_memory(j);
    vv_status st = vv_dir_sync(j->io, j->work, j->err);
    if (vv_ok(st))
        st = vv_manifest_write(j->io, j->work, m, version, NULL, j->err);
    vv_version_unref(version);
    return st;
}

/* ---- the new database: the log ---- */

static vv_status replay_record(void *arg, const vv_record *rec) {
    vv_repair *j = arg;
    if (j->has_cut && rec->first_lsn > j->cut.lsn)
        return VV_STATUS_OK; /* it is in the file that the rewind has made */
    return vv_replay_record(&j->replay, rec);
}

static vv_status flush_log(vv_repair *j, varve_db *db) {
    uint64_t last_lsn;
    VV_TRY(vv_db_flush_queue_create(db, &j->replay.queue, j->err));
    j->replay.db = db;
    vv_wal_options o = vv_repair_log_options(j);
    vv_status st = j->log_damaged ? vv_repair_salvage_log(j, log_lost_again, replay_record, &last_lsn)
                                  : vv_wal_replay(&o, replay_record, j, &last_lsn, j->err);
    if (vv_ok(st))
        st = vv_replay_finish(&j->replay);
    if (vv_ok(st) && vv_memtable_count(db->commit.active) > 0)
        st = vv_db_seal(db);
    vv_status flushed = VV_STATUS_OK;
    while (vv_ok(st) && vv_ok(flushed) && vv_db_flush_oldest(db, j->replay.queue, &flushed))
        ;
    vv_status_keep(&st, flushed);
    vv_db_flush_queue_destroy(db, j->replay.queue);
    return vv_ok(st) ? st : vv_wrap(j->err, st, "the log into tables");
}

/* What the manifest says of LSNs that will be given out again, and of what it did not know. */
static vv_status settle_manifest(vv_repair *j, varve_db *db) {
    vv_manifest *m = &db->state.manifest;
    uint64_t lsn = m->flushed_lsn;
    if (!j->has_manifest) {
        m->epochs.items[0].epoch = VV_MAX(db->epoch, 1);
        m->promised_epoch = m->epochs.items[0].epoch;
    }
    if (j->log_damaged || !j->has_manifest || j->has_cut) {
        while (m->epochs.count > 1 && m->epochs.items[m->epochs.count - 1].first_lsn > lsn)
            m->epochs.count--;
        m->epochs.newest_is_ours = false;
        for (uint32_t i = 0; i < m->slot_count; i++)
            m->slots[i].lsn = VV_MIN(m->slots[i].lsn, lsn);
        vv_db_slots_load(db, m);
        m->safe_compaction_lsn = VV_MIN(m->safe_compaction_lsn, lsn);
        if (m->commit_limit != VV_COMMIT_LIMIT_NONE)
            m->commit_limit = VV_MIN(m->commit_limit, lsn);
    }
    m->generation++;
    m->first_segment = 0;
    j->out->last_lsn = lsn;
    return vv_manifest_write(db->io, j->work, m, db->state.view->version, NULL, j->err);
}

static vv_status bring_log(vv_repair *j) {
    vv_io_backend *io;
    varve_db *db;
    VV_TRY(j->make_io(j->make_arg, &io, j->err));
    VV_TRY(vv_db_load_on(io, j->work, j->options, &db, j->err));
    vv_status st = flush_log(j, db);
    if (vv_ok(st))
        st = settle_manifest(j, db);
    vv_status_ignore(vv_db_unload(db), "no log was open");
    return st;
}

/* ---- the change ---- */

/* The tail that a rewind has cut off gets its name. */
static vv_status name_tail(vv_repair *j) {
    char temp[VV_DB_PATH_BYTES], path[VV_DB_PATH_BYTES];
    bool exists;
    if (!j->has_cut || !j->cut.names[0][0])
        return VV_STATUS_OK;
    path_in(j->dir, j->cut.names[0], path);
    snprintf(temp, sizeof temp, "%.3800s/%s" VV_MARKER_TEMP_SUFFIX, j->dir, j->cut.names[0]);
    VV_TRY(vv_path_exists(j->io, temp, &exists, j->err));
    return exists ? vv_path_rename(j->io, temp, path, j->err) : VV_STATUS_OK;
}

/* repair-TIME, or another such name that is free. */
static vv_status name_originals(vv_repair *j) {
    char path[VV_DB_PATH_BYTES];
    uint64_t ms = vv_clock_unix_ms();
    for (bool exists = true; exists; ms++) {
        time_t seconds = (time_t)(ms / 1000);
        struct tm tm;
        gmtime_r(&seconds, &tm);
        size_t bytes = strftime(j->out->originals, sizeof j->out->originals, "repair-%Y%m%dT%H%M%S", &tm);
        snprintf(j->out->originals + bytes, sizeof j->out->originals - bytes, ".%03uZ",
                 (unsigned)(ms % 1000));
        path_in(j->dir, j->out->originals, path);
        VV_TRY(vv_path_exists(j->io, path, &exists, j->err));
    }
    return VV_STATUS_OK;
}

static vv_status discard_originals(vv_repair *j) {
    char path[VV_DB_PATH_BYTES];
    path_in(j->dir, j->out->originals, path);
    sweep s = {.j = j, .dir = path};
    VV_TRY(vv_dir_list(j->io, path, remove_entry, &s, j->err));
    VV_TRY(vv_dir_remove(j->io, path, j->err));
    j->out->originals[0] = '\0';
    return vv_dir_sync(j->io, j->dir, j->err);
}

static vv_status rebuild(vv_repair *j) {
    vv_io_queue_options qo = {
        .depth = QUEUE_DEPTH, .pool_buffer_count = BUFFER_COUNT, .pool_buffer_bytes = BUFFER_BYTES};
    VV_TRY(vv_io_queue_create(j->io, &qo, &j->queue, j->err));
    VV_TRY(make_work(j));
    VV_TRY(make_tables(j));
    if (!j->has_manifest)
        VV_TRY(make_one_run(j));
    VV_TRY(write_manifest(j));
    VV_TRY(bring_log(j));
    VV_TRY(name_tail(j));
    VV_TRY(name_originals(j));
    VV_TRY(vv_db_install_locked(j->io, &j->logger, j->dir, VV_REPAIR_NAME, j->out->originals, j->err));
    return j->o->discard_originals ? discard_originals(j) : VV_STATUS_OK;
}

static vv_status repair(vv_repair *j) {
    VV_TRY(vv_repair_look(j));
    j->out->sound = j->out->damage_count == 0 && j->has_manifest;
    if (j->out->sound || j->o->dry_run)
        return VV_STATUS_OK;
    return rebuild(j);
}

static void deinit(vv_repair *j) {
    forget_made(j);
    vv_repair_forget_losses(j);
    for (size_t i = 0; i < j->table_count; i++) {
        if (j->tables[i].named)
            vv_table_unref(j->tables[i].named);
        vv_sst_summary_deinit(&j->tables[i].read);
    }
    vv_free(j->tables);
    vv_manifest_deinit(&j->manifest);
    vv_io_queue_destroy(j->queue);
    vv_file_close(j->lock);
    vv_io_backend_destroy(j->io);
}

varve_status vv_db_repair_on(vv_io_maker make, void *arg, const char *dir, const varve_options *options,
                             const varve_repair_options *repair_options, varve_repair_result *out,
                             varve_error *err) {
    static const varve_repair_options defaults;
    vv_error *words = vv_private_error(err);
    vv_error own_words = {""};
    *out = (varve_repair_result){0};
    vv_repair *j = vv_alloc_zeroed(sizeof *j);
    if (!j)
        return vv_public(vv_fail(words, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory"));
    j->o = repair_options ? repair_options : &defaults;
    j->out = out;
    j->options = options;
    j->err = words ? words : &own_words;
    j->make_io = make;
    j->make_arg = arg;
    if (options) {
        j->settings = options->settings;
        j->logger = options->logger;
    } else {
        vv_config_defaults(vv_settings_table(), &j->settings);
    }
    vv_status st = vv_db_dir_path(j->dir, dir, j->err);
    path_in(j->dir, VV_REPAIR_NAME, j->work);
    if (vv_ok(st))
        st = make(arg, &j->io, j->err);
    if (vv_ok(st))
        st = repair(j);
    deinit(j);
    st = vv_ok(st) ? st : vv_wrap(j->err, st, "repair %s", dir);
    vv_free(j);
    return vv_public(st);
}

typedef struct io_choice {
    const varve_options *options;
} io_choice;

static vv_status make_backend(void *arg, vv_io_backend **out, vv_error *err) {
    const varve_options *options = ((const io_choice *)arg)->options;
    return vv_db_io_create(options, options ? &options->logger : NULL, out, err);
}

varve_status varve_repair(const char *dir, const varve_options *options,
                          const varve_repair_options *repair_options, varve_repair_result *out,
                          varve_error *err) {
    io_choice choice = {.options = options};
    return vv_db_repair_on(make_backend, &choice, dir, options, repair_options, out, err);
}
