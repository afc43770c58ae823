/*
 * repair_look.c - what there is of a damaged database, and what is lost. See repair.c.
 *
 * Everything is read as opening and varve_verify() would read it, so that what is sound here is sound there;
 * what they refuse is read again by those who take what is left of it (sst/salvage.c, wal/wal_salvage.c).
 */
#include "engine/db/repair_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

#define LOCK_NAME "LOCK"

/* Of a manifest, for each bit of which a checksum is made: that takes the square of it. */
#define MEND_BYTES_MAX (UINT64_C(64) << 10)

vv_status vv_repair_no_memory(vv_repair *j) {
    return vv_fail(j->err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
}

static void path_in(const char *dir, const char *name, char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s", dir, name);
}

void vv_repair_keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* none of these tables is ever obsolete */
}

static const char *words_of(vv_status st) {
    return st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code);
}

bool vv_repair_pace(void *arg, uint64_t bytes) {
    return vv_throttle_pass(&((vv_repair *)arg)->throttle, bytes);
}

/* ---- what is told ---- */

static void tell_damage(vv_repair *j, uint64_t offset, uint64_t bytes, vv_status st, const char *text) {
    varve_damage d = {
        .file = j->path, .offset = offset, .bytes = bytes, .status = vv_public(st), .text = text};
    j->out->damage_count++;
    vv_log(&j->logger, VV_LOG_WARN, "repair: %s", text);
    if (j->o->damaged)
        j->o->damaged(j->o->arg, &d);
}

static void tell_loss(vv_repair *j, const varve_damage *d) {
    j->out->loss_count++;
    vv_log(&j->logger, VV_LOG_WARN, "repair: %s", d->text);
    if (j->o->lost)
        j->o->lost(j->o->arg, d);
}

/* A range of the table at hand; where a key is not known, what the manifest says. */
static void tell_range(vv_repair *j, const vv_repair_table *t, const vv_repair_range *l) {
    char text[VV_DB_PATH_BYTES + 128];
    vv_slice first = vv_slice_make(l->first_key, l->first_key_bytes);
    vv_slice last = vv_slice_make(l->last_key, l->last_key_bytes);
    if (t->named && first.bytes == 0)
        first = vv_table_first_key(t->named);
    if (t->named && last.bytes == 0)
        last = vv_table_last_key(t->named);
    snprintf(text, sizeof text,
             "%s: what was written to a range of keys, %" PRIu64 " bytes at %" PRIu64 ", is lost", j->path,
             l->bytes, l->offset);
    varve_damage d = {.file = j->path,
                      .offset = l->offset,
                      .bytes = l->bytes,
                      .first_key = first.bytes ? first.data : NULL,
                      .first_key_bytes = first.bytes,
                      .last_key = last.bytes ? last.data : NULL,
                      .last_key_bytes = last.bytes,
                      .status = {.code = VARVE_CORRUPTION},
                      .text = text};
    j->out->may_resurrect = true;
    tell_loss(j, &d);
}

void vv_repair_forget_losses(vv_repair *j) {
    for (size_t i = 0; i < j->loss_count; i++) {
        vv_free(j->losses[i].first_key);
        vv_free(j->losses[i].last_key);
    }
    vv_free(j->losses);
    j->losses = NULL;
    j->loss_count = 0;
}

/* ---- the directory ---- */

static vv_status look_at_entry(void *arg, const char *name, vv_entry_kind kind) {
    vv_repair *j = arg;
    uint64_t number;
    j->seen_import |= strcmp(name, VV_IMPORT_NAME) == 0 || strcmp(name, VV_RESTORE_NAME) == 0;
    if (kind == VV_ENTRY_DIRECTORY)
        return VV_STATUS_OK;
    j->seen_log |= vv_wal_name_parse(name, ".log", &number);
    if (!vv_db_table_name_parse(name, &number))
        return VV_STATUS_OK;
    j->highest_number = VV_MAX(j->highest_number, number);
    vv_repair_table *grown = vv_realloc(j->tables, (j->table_count + 1) * sizeof *grown);
    if (!grown)
        return vv_repair_no_memory(j);
    j->tables = grown;
    j->tables[j->table_count++] = (vv_repair_table){.file_number = number};
    return VV_STATUS_OK;
}

/* The manifest with one bit flipped, if its checksum says so. */
static bool mend_manifest(uint8_t *bytes, size_t count) {
    if (count > MEND_BYTES_MAX || count < 64)
        return false;
    for (size_t bit = 0; bit < count * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        if (vv_get_be64(bytes + count - 8) == vv_checksum(bytes, count - 8, 0))
            return true;
        bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
    }
    return false;
}

static vv_status read_file(vv_repair *j, uint8_t **out, size_t *bytes_out) {
    vv_file *file;
    uint64_t size;
    *out = NULL;
    VV_TRY(vv_file_open(j->io, j->path, VV_OPEN_READ, &file, j->err));
    vv_status st = vv_file_size(file, &size);
    if (vv_ok(st) && size <= MEND_BYTES_MAX) {
        *out = vv_alloc(size + 1);
        st = *out ? vv_file_read(file, *out, size, 0, bytes_out) : vv_repair_no_memory(j);
    }
    vv_file_close(file);
    return st;
}

/* A manifest that can't be read: put right, or lost. why: what reading it said. */
static vv_status recover_manifest(vv_repair *j, vv_status why, const char *words, vv_table ***tables,
                                  size_t *count) {
    uint8_t *bytes = NULL;
    size_t byte_count = 0;
    vv_status st = VV_STATUS_OK;
    tell_damage(j, 0, 0, why, words);
    if (!vv_is(why, VV_NOT_FOUND))
        st = read_file(j, &bytes, &byte_count);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    bool whole = bytes && byte_count >= 64 &&
                 vv_get_be64(bytes + byte_count - 8) == vv_checksum(bytes, byte_count - 8, 0);
    st = VV_STATUS_OK;
    if (whole && vv_is(why, VV_UNSUPPORTED)) {
        st = vv_fail(j->err, why, "%s", words);
    } else if (bytes && !whole && mend_manifest(bytes, byte_count)) {
        st = vv_manifest_decode(bytes, byte_count, j->path, &j->manifest, tables, count, vv_repair_keep_file,
                                NULL, NULL);
        j->has_manifest = vv_ok(st);
        if (!vv_is(st, VV_NO_MEMORY))
            st = VV_STATUS_OK;
    }
    vv_free(bytes);
    return st;
}

static vv_repair_table *find_table(vv_repair *j, uint64_t file_number) {
    for (size_t i = 0; i < j->table_count; i++)
        if (j->tables[i].file_number == file_number)
            return &j->tables[i];
    return NULL;
}

/* Tables that the manifest names and that are not there are lost; those that it does not name don't count. */
static vv_status match_tables(vv_repair *j, vv_table **named, size_t count) {
    for (size_t i = 0; i < count; i++) {
        vv_repair_table *t = find_table(j, named[i]->file_number);
        if (t) {
            vv_table_ref(named[i]);
            t->named = named[i];
            continue;
        }
        vv_repair_table gone = {.file_number = named[i]->file_number, .named = named[i]};
        vv_repair_range all = {.bytes = named[i]->summary.file_bytes};
        char text[VV_DB_PATH_BYTES + 64];
        vv_table_cache_path(j->dir, gone.file_number, j->path, sizeof j->path);
        snprintf(text, sizeof text, "%s: the manifest names this table, but it is missing", j->path);
        tell_damage(j, 0, all.bytes, vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0), text);
        tell_range(j, &gone, &all);
        j->out->tables_lost++;
    }
    size_t left = 0;
    for (size_t i = 0; i < j->table_count; i++)
        if (j->tables[i].named)
            j->tables[left++] = j->tables[i];
    j->table_count = left;
    return VV_STATUS_OK;
}

static vv_status look_at_manifest(vv_repair *j) {
    vv_error words = {""};
    vv_table **tables = NULL;
    size_t count = 0;
    path_in(j->dir, VV_MANIFEST_NAME, j->path);
    vv_status st =
        vv_manifest_read(j->io, j->dir, &j->manifest, &tables, &count, vv_repair_keep_file, NULL, &words);
    j->has_manifest = vv_ok(st);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (vv_is(st, VV_NOT_FOUND)) {
        if (j->table_count == 0 && !j->seen_log)
            return vv_fail(j->err, st, "%s: there is no database", j->dir);
        if (j->seen_import)
            return vv_fail(j->err, vv_status_make(VV_CORRUPTION, VV_SUB_NONE, 0),
                           "%s: an import or a restore was begun here, and not finished: do that again",
                           j->dir);
        snprintf(words.text, sizeof words.text, "%.400s: is missing", j->path);
    }
    if (!vv_ok(st))
        st = recover_manifest(j, st, words.text, &tables, &count);
    if (vv_ok(st) && j->has_manifest) {
        st = match_tables(j, tables, count);
        j->flushed_lsn = j->manifest.flushed_lsn;
        j->highest_number = VV_MAX(j->highest_number, j->manifest.next_file_number - 1);
    }
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    j->out->manifest_rebuilt = vv_ok(st) && !j->has_manifest;
    j->out->may_resurrect |= j->out->manifest_rebuilt;
    return st;
}

/* ---- the tables ---- */

static void table_block_damaged(void *arg, const vv_sst_damage *d) {
    vv_repair *j = arg;
    vv_error text;
    vv_status_ignore(vv_fail(&text, d->status, "%s: data at %" PRIu64 ", %" PRIu64 " bytes: %s", j->path,
                             d->offset, d->bytes, words_of(d->status)),
                     "only its words are wanted");
    tell_damage(j, d->offset, d->bytes, d->status, text.text);
}

bool vv_repair_copy_key(vv_slice key, uint8_t **out) {
    *out = vv_alloc(key.bytes + 1);
    if (*out && key.bytes)
        memcpy(*out, key.data, key.bytes);
    return *out != NULL;
}

static void note_loss(void *arg, const vv_sst_damage *d) {
    vv_repair *j = arg;
    vv_repair_range l = {.offset = d->offset,
                         .bytes = d->bytes,
                         .first_key_bytes = d->first_key.bytes,
                         .last_key_bytes = d->last_key.bytes};
    vv_repair_range *grown = vv_realloc(j->losses, (j->loss_count + 1) * sizeof *grown);
    if (grown)
        j->losses = grown;
    if (!grown || !vv_repair_copy_key(d->first_key, &l.first_key) ||
        !vv_repair_copy_key(d->last_key, &l.last_key)) {
        vv_free(l.first_key);
        j->loss_status = vv_repair_no_memory(j);
        return;
    }
    j->losses[j->loss_count++] = l;
}

/* An entry of the table at hand, for its summary. */
static vv_status sum_entry(void *arg, const vv_entry *e) {
    vv_repair *j = arg;
    vv_sst_summary *to = j->sum_to;
    if (to->item_count == 0) {
        to->min_lsn = e->lsn;
        to->first_key_bytes = (uint32_t)e->key.bytes;
        if (!vv_repair_copy_key(e->key, &to->first_key))
            return vv_repair_no_memory(j);
    }
    to->min_lsn = VV_MIN(to->min_lsn, e->lsn);
    to->max_lsn = VV_MAX(to->max_lsn, e->lsn);
    to->item_count++;
    if (to->item_count > 1 && vv_slice_equal(vv_slice_make(to->last_key, to->last_key_bytes), e->key))
        return VV_STATUS_OK;
    to->key_count++;
    to->tombstone_count += e->kind == VV_KIND_DELETE; /* versions come newest first */
    uint8_t *key = vv_realloc(to->last_key, e->key.bytes);
    if (!key)
        return vv_repair_no_memory(j);
    memcpy(key, e->key.data, e->key.bytes);
    to->last_key = key;
    to->last_key_bytes = (uint32_t)e->key.bytes;
    return VV_STATUS_OK;
}

/* Read what can be read of the table; j->losses: what can't. */
static vv_status count_table(vv_repair *j, vv_repair_table *t) {
    vv_sst_salvage_options so = {.backend = j->io,
                                 .path = j->path,
                                 .entry = sum_entry,
                                 .lost = note_loss,
                                 .pace = vv_repair_pace,
                                 .arg = j};
    j->sum_to = &t->read;
    vv_status st = vv_sst_salvage(&so, j->err);
    t->read.file_bytes = t->bytes;
    vv_status_keep(&st, j->loss_status);
    /* A device that does not give it out: as if it was not there. */
    return vv_is(st, VV_IO) || vv_is(st, VV_CORRUPTION) ? VV_STATUS_OK : st;
}

static vv_status judge_damaged(vv_repair *j, vv_repair_table *t, vv_status why) {
    t->damaged = true;
    VV_TRY(count_table(j, t));
    t->usable = t->read.item_count > 0;
    if (!t->usable && vv_is(why, VV_UNSUPPORTED))
        return vv_fail(j->err, why, "%s: %s", j->path, words_of(why));
    bool all = t->named && t->named->summary.item_count == t->read.item_count;
    if (!all && j->loss_count == 0 && (t->named || !t->usable)) {
        vv_sst_damage d = {.bytes = t->bytes, .status = why};
        note_loss(j, &d);
    }
    for (size_t i = 0; i < j->loss_count && !all; i++)
        tell_range(j, t, &j->losses[i]);
    j->out->tables_lost += !t->usable;
    return j->loss_status;
}

/* The file of one table under the name of another has all its checksums right. */
static bool is_the_named(const vv_sst_reader *r, const vv_repair_table *t) {
    return !t->named || (vv_sst_reader_item_count(r) == t->named->summary.item_count &&
                         vv_sst_reader_max_lsn(r) == t->named->summary.max_lsn);
}

static vv_status look_at_table(vv_repair *j, vv_repair_table *t) {
    vv_error words = {""};
    vv_sst_reader *r;
    uint64_t offset, blocks, damages = j->out->damage_count;
    vv_table_cache_path(j->dir, t->file_number, j->path, sizeof j->path);
    vv_status st = vv_sst_reader_open_at(j->io, j->path, t->file_number, &r, &offset, &words);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (!vv_ok(st)) {
        tell_damage(j, offset, t->bytes - VV_MIN(offset, t->bytes), st, words.text);
        return judge_damaged(j, t, st);
    }
    if (!is_the_named(r, t)) {
        vv_sst_reader_close(r);
        st = vv_fail(&words, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                     "%s: this is not the table that the manifest names", j->path);
        vv_repair_range all = {.bytes = t->bytes};
        tell_damage(j, 0, t->bytes, st, words.text);
        tell_range(j, t, &all);
        t->damaged = true;
        j->out->tables_lost++;
        return VV_STATUS_OK;
    }
    vv_sst_verify_options vo = {.damaged = table_block_damaged, .pace = vv_repair_pace, .arg = j};
    st = vv_sst_verify_blocks(r, &vo, &blocks);
    vv_sst_reader_close(r);
    if (!vv_ok(st))
        return vv_fail(j->err, st, "%s", words_of(st));
    if (j->out->damage_count > damages)
        return judge_damaged(j, t, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0));
    t->usable = true;
    return j->has_manifest ? st : count_table(j, t);
}

static vv_status look_at_tables(vv_repair *j) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < j->table_count; i++) {
        vv_file *file;
        vv_table_cache_path(j->dir, j->tables[i].file_number, j->path, sizeof j->path);
        if (!vv_ok(vv_file_open(j->io, j->path, VV_OPEN_READ, &file, NULL)))
            continue; /* looking at it says why */
        vv_status_ignore(vv_file_size(file, &j->tables[i].bytes), "0, for the words of a report");
        vv_file_close(file);
        bytes += j->tables[i].bytes;
    }
    vv_throttle_init(&j->throttle, 0, j->o->progress, j->o->arg, bytes);
    for (size_t i = 0; i < j->table_count; i++) {
        vv_status st = look_at_table(j, &j->tables[i]);
        vv_repair_forget_losses(j);
        VV_TRY(st);
        if (!j->has_manifest)
            j->flushed_lsn = VV_MAX(j->flushed_lsn, j->tables[i].read.max_lsn);
    }
    return VV_STATUS_OK;
}

/* ---- the log ---- */

vv_wal_options vv_repair_log_options(const vv_repair *j) {
    return (vv_wal_options){.backend = j->io,
                            .dir = j->dir,
                            .logger = &j->logger,
                            .segment_bytes = j->settings.wal_segment_bytes,
                            .slot_count = (uint32_t)j->settings.wal_slot_count,
                            .first_segment = j->has_manifest ? j->manifest.first_segment : 0,
                            .replay_after_lsn = j->flushed_lsn,
                            .look_only = true};
}

static void log_lost(void *arg, const vv_wal_loss *l) {
    vv_repair *j = arg;
    varve_damage d = {.file = l->path,
                      .offset = l->offset,
                      .status = {.code = VARVE_CORRUPTION},
                      .text = l->text,
                      .first_lsn = l->first_lsn,
                      .last_lsn = l->last_lsn};
    if (l->first_lsn == 0)
        return; /* a damage that was told, or costs nothing that is known */
    j->out->may_resurrect = true;
    tell_loss(j, &d);
}

vv_status vv_repair_salvage_log(vv_repair *j, void (*lost)(void *arg, const vv_wal_loss *l),
                                vv_wal_replay_fn replay, uint64_t *last_lsn_out) {
    vv_wal_options wo = vv_repair_log_options(j);
    vv_wal_salvage_options so = {.keep_later = j->o->keep_later,
                                 .any_start = !j->has_manifest,
                                 .lost = lost,
                                 .replay = replay,
                                 .arg = j};
    return vv_wal_salvage(&wo, &so, last_lsn_out, j->err);
}

static vv_status look_at_log(vv_repair *j) {
    vv_wal_options o = vv_repair_log_options(j);
    vv_error words = {""};
    vv_status st = vv_wal_replay(&o, NULL, NULL, &j->out->last_lsn, &words);
    if (vv_is(st, VV_NO_MEMORY))
        return st;
    if (vv_ok(st))
        return st;
    j->log_damaged = true;
    path_in(j->dir, "log", j->path);
    tell_damage(j, 0, 0, st, words.text);
    return vv_repair_salvage_log(j, log_lost, NULL, &j->out->last_lsn);
}

/* ---- looking at everything ---- */

/* What a rewind or an install had begun. */
static vv_status look_at_markers(vv_repair *j) {
    vv_error words = {""};
    vv_marker install;
    bool begun;
    vv_status st = vv_marker_read(j->io, j->dir, VV_INSTALL_NAME, &install, &begun, &words);
    if (!vv_ok(st))
        return vv_fail(
            j->err, st,
            "%s; it says which directory of %s the new database is in: what was begun has to be completed by "
            "hand, and " VV_INSTALL_NAME " removed, before a repair",
            words.text, j->dir);
    if (begun && j->o->dry_run)
        return vv_fail(j->err, vv_status_make(VV_BUSY, VV_SUB_NONE, 0),
                       "%s: an install was begun here and is to be completed first: open the database",
                       j->dir);
    if (begun)
        VV_TRY(vv_db_install_complete(j->io, &j->logger, j->dir, j->err));
    path_in(j->dir, VV_CUT_NAME, j->path);
    st = vv_marker_read(j->io, j->dir, VV_CUT_NAME, &j->cut, &j->has_cut, &words);
    if (vv_ok(st))
        return st;
    j->has_cut = false;
    if (!vv_is(st, VV_CORRUPTION) && !vv_is(st, VV_UNSUPPORTED))
        return vv_fail(j->err, st, "%s", words.text);
    /* It was only going to take away: what it would have cut stays. */
    tell_damage(j, 0, 0, st, words.text);
    return VV_STATUS_OK;
}

vv_status vv_repair_look(vv_repair *j) {
    char path[VV_DB_PATH_BYTES + 8];
    bool exists;
    path_in(j->dir, LOCK_NAME, path);
    VV_TRY(vv_path_exists(j->io, j->dir, &exists, j->err));
    if (!exists)
        return vv_fail(j->err, vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0), "%s: there is no such directory",
                       j->dir);
    VV_TRY(vv_lock_acquire(j->io, path, &j->lock, j->err));
    VV_TRY(look_at_markers(j));
    VV_TRY(vv_dir_list(j->io, j->dir, look_at_entry, j, j->err));
    VV_TRY(look_at_manifest(j));
    VV_TRY(look_at_tables(j));
    return look_at_log(j);
}
