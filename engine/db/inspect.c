/*
 * inspect.c - what is in a file of a database, item by item, for those who look into one.
 *
 * What a file is its first bytes say, of a table its last ones. Where they are damaged the name is believed,
 * so that the damage is told as one of a table and not as a file that means nothing.
 */
#include "engine/db/inspect_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/archive_dir.h"
#include "engine/db/marker.h"
#include "engine/db/retry.h"

#define MANIFEST_BYTES_MAX (UINT64_C(1) << 30)

/* ---- items ---- */

static varve_field *add(vv_item *i, const char *name, varve_field_kind kind) {
    VV_ASSERT(i->item.field_count < VV_ITEM_FIELDS_MAX);
    varve_field *f = &i->fields[i->item.field_count++];
    *f = (varve_field){.name = name, .kind = kind};
    return f;
}

void vv_item_begin(vv_item *i, const char *kind) {
    i->item = (varve_item){.kind = kind, .fields = i->fields};
}

void vv_item_number(vv_item *i, const char *name, uint64_t number) {
    add(i, name, VARVE_FIELD_NUMBER)->number = number;
}

void vv_item_flag(vv_item *i, const char *name, bool flag) {
    add(i, name, VARVE_FIELD_FLAG)->number = flag;
}

static void add_data(vv_item *i, const char *name, varve_field_kind kind, const void *data, size_t bytes) {
    varve_field *f = add(i, name, kind);
    f->data = data;
    f->bytes = bytes;
}

void vv_item_text(vv_item *i, const char *name, const char *text) {
    add_data(i, name, VARVE_FIELD_TEXT, text, strlen(text));
}

void vv_item_bytes(vv_item *i, const char *name, vv_slice bytes) {
    add_data(i, name, VARVE_FIELD_BYTES, bytes.data, bytes.bytes);
}

void vv_item_id(vv_item *i, const char *name, const void *bytes, size_t count) {
    add_data(i, name, VARVE_FIELD_ID, bytes, count);
}

void vv_item_id_number(vv_item *i, const char *name, uint64_t number) {
    uint8_t *digits = i->digits[i->item.field_count];
    vv_put_be64(digits, number);
    vv_item_id(i, name, digits, sizeof i->digits[0]);
}

vv_status vv_item_tell(const vv_item *i, vv_inspection *j) {
    j->out->item_count++;
    j->stopped = !j->o->item(j->o->arg, &i->item);
    return j->stopped ? vv_status_make(VV_BUSY, VV_SUB_CANCELED, 0) : VV_STATUS_OK;
}

void vv_item_entry(vv_item *i, const vv_entry *e) {
    vv_item_number(i, "lsn", e->lsn);
    vv_item_text(i, "kind", e->kind == VV_KIND_DELETE ? "delete" : "put");
    vv_item_bytes(i, "key", e->key);
    if (e->kind == VV_KIND_DELETE)
        return;
    vv_item_number(i, "value_bytes", e->value.bytes);
    if (e->expires_unix_ms != 0)
        vv_item_number(i, "expires_unix_ms", e->expires_unix_ms);
    vv_item_bytes(i, "value", e->value);
}

void vv_inspect_damage(vv_inspection *j, uint64_t offset, uint64_t bytes, vv_status st, const char *what) {
    vv_error text;
    vv_status_ignore(vv_fail(&text, st, "%s: offset %" PRIu64 ": %s", j->path, offset, what),
                     "only its words are wanted");
    varve_damage d = {
        .file = j->path, .offset = offset, .bytes = bytes, .status = vv_public(st), .text = text.text};
    j->out->damage_count++;
    if (j->o->damaged)
        j->o->damaged(j->o->arg, &d);
}

static const char *words_of(vv_status st) {
    return st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code);
}

/* ---- counts ---- */

void vv_entry_counts_add(vv_entry_counts *c, const vv_entry *e) {
    bool first = c->puts + c->deletes == 0;
    c->key_bytes += e->key.bytes;
    c->key_bytes_min = first ? e->key.bytes : VV_MIN(c->key_bytes_min, e->key.bytes);
    c->key_bytes_max = VV_MAX(c->key_bytes_max, e->key.bytes);
    c->value_bytes += e->value.bytes;
    c->value_bytes_max = VV_MAX(c->value_bytes_max, e->value.bytes);
    c->expiring += e->expires_unix_ms != 0;
    if (e->kind == VV_KIND_DELETE)
        c->deletes++;
    else
        c->puts++;
}

void vv_item_counts(vv_item *i, const vv_entry_counts *c) {
    vv_item_number(i, "puts", c->puts);
    vv_item_number(i, "deletes", c->deletes);
    vv_item_number(i, "expiring", c->expiring);
    vv_item_number(i, "key_bytes", c->key_bytes);
    vv_item_number(i, "key_bytes_min", c->key_bytes_min);
    vv_item_number(i, "key_bytes_max", c->key_bytes_max);
    vv_item_number(i, "value_bytes", c->value_bytes);
    vv_item_number(i, "value_bytes_max", c->value_bytes_max);
}

/* ---- tables ---- */

typedef struct table_walk {
    vv_inspection *j;
    vv_entry_counts counts;
    vv_status st; /* of telling: the callbacks below have no other way out */
    uint64_t stored_bytes, raw_bytes, block_bytes;
    uint64_t position; /* of the next entry in its block; of salvaged ones in the table */
} table_walk;

static void tell_table(table_walk *w, const vv_sst_reader *r) {
    vv_sst_description d;
    vv_item i;
    vv_sst_reader_describe(r, &d);
    vv_item_begin(&i, "table");
    vv_item_number(&i, "format_version", d.format_version);
    vv_item_number(&i, "file_bytes", d.file_bytes);
    vv_item_id_number(&i, "table_id", d.table_id);
    vv_item_number(&i, "created_unix_ms", d.created_unix_ms);
    vv_item_number(&i, "entries", d.item_count);
    vv_item_number(&i, "min_lsn", d.min_lsn);
    vv_item_number(&i, "max_lsn", d.max_lsn);
    vv_item_number(&i, "blocks", d.block_count);
    vv_item_number(&i, "block_bytes", d.block_bytes);
    vv_item_number(&i, "data_bytes", d.data_bytes);
    vv_item_number(&i, "index_bytes", d.index_bytes);
    vv_item_text(&i, "index_type", d.index_type == VV_INDEX_DENSE ? "dense" : "sparse");
    vv_item_number(&i, "filter_bytes", d.filter_bytes);
    vv_item_number(&i, "filter_probes", d.filter_probes);
    vv_item_bytes(&i, "first_key", d.first_key);
    vv_item_bytes(&i, "last_key", d.last_key);
    w->st = vv_item_tell(&i, w->j);
}

static void tell_table_entry(table_walk *w, const vv_entry *e) {
    vv_item i;
    vv_entry_counts_add(&w->counts, e);
    if (!w->j->o->entries || !vv_ok(w->st))
        return;
    vv_item_begin(&i, "entry");
    vv_item_entry(&i, e);
    w->st = vv_item_tell(&i, w->j);
}

static void tell_block(void *arg, const vv_sst_block_view *b) {
    static const char *const compressions[] = {"none", "lz4", "zstd"};
    table_walk *w = arg;
    uint32_t count = vv_sst_block_count(b->ready);
    vv_entry e;
    vv_item i;
    w->stored_bytes += b->stored_bytes;
    w->raw_bytes += b->raw_bytes;
    w->block_bytes += b->bytes;
    if (!vv_ok(w->st))
        return;
    vv_item_begin(&i, "block");
    vv_item_number(&i, "block", b->index);
    vv_item_number(&i, "offset", b->offset);
    vv_item_number(&i, "bytes", b->bytes);
    vv_item_number(&i, "stored_bytes", b->stored_bytes);
    vv_item_number(&i, "raw_bytes", b->raw_bytes);
    vv_item_text(&i, "compression", compressions[b->compression]);
    vv_item_number(&i, "entries", count);
    vv_sst_block_entry(b->ready, 0, &e);
    vv_item_bytes(&i, "first_key", e.key);
    vv_sst_block_entry(b->ready, count - 1, &e);
    vv_item_bytes(&i, "last_key", e.key);
    w->st = vv_item_tell(&i, w->j);
    for (uint32_t n = 0; n < count; n++) {
        vv_sst_block_entry(b->ready, n, &e);
        tell_table_entry(w, &e);
    }
}

static void tell_block_damage(void *arg, const vv_sst_damage *d) {
    vv_inspection *j = ((table_walk *)arg)->j;
    vv_error text;
    vv_status_ignore(vv_fail(&text, d->status, "%s: data at %" PRIu64 ", %" PRIu64 " bytes: %s", j->path,
                             d->offset, d->bytes, words_of(d->status)),
                     "only its words are wanted");
    varve_damage damage = {.file = j->path,
                           .offset = d->offset,
                           .bytes = d->bytes,
                           .first_key = d->first_key.bytes ? d->first_key.data : NULL,
                           .first_key_bytes = d->first_key.bytes,
                           .last_key = d->last_key.bytes ? d->last_key.data : NULL,
                           .last_key_bytes = d->last_key.bytes,
                           .status = vv_public(d->status),
                           .text = text.text};
    j->out->damage_count++;
    if (j->o->damaged)
        j->o->damaged(j->o->arg, &damage);
}

static bool go_on(void *arg, uint64_t bytes) {
    (void)bytes;
    return vv_ok(((table_walk *)arg)->st);
}

static vv_status salvaged_entry(void *arg, const vv_entry *e) {
    table_walk *w = arg;
    tell_table_entry(w, e);
    return w->st;
}

static vv_status tell_table_summary(table_walk *w, bool has_blocks) {
    vv_item i;
    vv_item_begin(&i, "summary");
    vv_item_counts(&i, &w->counts);
    if (has_blocks) {
        vv_item_number(&i, "raw_bytes", w->raw_bytes);
        vv_item_number(&i, "stored_bytes", w->stored_bytes);
        vv_item_number(&i, "block_bytes", w->block_bytes);
    }
    return vv_item_tell(&i, w->j);
}

/* Footer, index or filter are damaged: the entries can still be found. */
static vv_status salvage_table(table_walk *w) {
    vv_sst_salvage_options o = {.backend = w->j->io,
                                .path = w->j->path,
                                .entry = salvaged_entry,
                                .lost = tell_block_damage,
                                .pace = go_on,
                                .arg = w};
    VV_TRY(vv_sst_salvage(&o, w->j->err));
    return tell_table_summary(w, false);
}

static vv_status inspect_table(vv_inspection *j) {
    table_walk w = {.j = j};
    vv_sst_reader *r;
    uint64_t offset, blocks;
    vv_error words = {""};
    vv_status st = vv_sst_reader_open_at(j->io, j->path, 0, &r, &offset, &words);
    if (vv_is(st, VV_CORRUPTION)) {
        vv_inspect_damage(j, offset, j->file_bytes - VV_MIN(offset, j->file_bytes), st, words_of(st));
        return salvage_table(&w);
    }
    if (!vv_ok(st)) {
        *j->err = words;
        return st;
    }
    vv_sst_verify_options o = {.damaged = tell_block_damage, .block = tell_block, .pace = go_on, .arg = &w};
    tell_table(&w, r);
    if (vv_ok(w.st))
        st = vv_sst_verify_blocks(r, &o, &blocks);
    vv_sst_reader_close(r);
    VV_TRY(w.st);
    VV_TRY(st);
    return tell_table_summary(&w, true);
}

/* ---- manifests ---- */

static void keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* files are only told of */
}

static vv_status tell_manifest(vv_inspection *j, const vv_manifest *m, const uint8_t *bytes, size_t tables) {
    vv_item i;
    vv_item_begin(&i, "manifest");
    vv_item_number(&i, "format_version", bytes[7]);
    vv_item_number(&i, "file_bytes", j->file_bytes);
    vv_item_id(&i, "db_id", m->db_id, sizeof m->db_id);
    vv_item_number(&i, "generation", m->generation);
    vv_item_number(&i, "created_unix_ms", m->created_unix_ms);
    vv_item_number(&i, "next_file_number", m->next_file_number);
    vv_item_number(&i, "flushed_lsn", m->flushed_lsn);
    vv_item_number(&i, "first_segment", m->first_segment);
    vv_item_number(&i, "safe_compaction_lsn", m->safe_compaction_lsn);
    vv_item_number(&i, "epoch", vv_manifest_epoch(m));
    vv_item_flag(&i, "epoch_is_ours", m->epochs.newest_is_ours);
    vv_item_number(&i, "promised_epoch", m->promised_epoch);
    vv_item_flag(&i, "commits_are_limited", m->commit_limit != VV_COMMIT_LIMIT_NONE);
    if (m->commit_limit != VV_COMMIT_LIMIT_NONE)
        vv_item_number(&i, "commit_limit", m->commit_limit);
    vv_item_number(&i, "tables", tables);
    return vv_item_tell(&i, j);
}

static vv_status tell_manifest_table(vv_inspection *j, const vv_table *t) {
    char name[32];
    vv_item i;
    snprintf(name, sizeof name, "%016" PRIx64 ".sst", t->file_number);
    vv_item_begin(&i, "table");
    vv_item_text(&i, "file", name);
    vv_item_number(&i, "level", t->level);
    vv_item_number(&i, "run", t->run);
    vv_item_number(&i, "file_bytes", t->summary.file_bytes);
    if (t->summary.file_checksum != 0)
        vv_item_id_number(&i, "file_checksum", t->summary.file_checksum);
    vv_item_number(&i, "entries", t->summary.item_count);
    vv_item_number(&i, "keys", t->summary.key_count);
    vv_item_number(&i, "tombstones", t->summary.tombstone_count);
    vv_item_number(&i, "min_lsn", t->summary.min_lsn);
    vv_item_number(&i, "max_lsn", t->summary.max_lsn);
    vv_item_bytes(&i, "first_key", vv_table_first_key(t));
    vv_item_bytes(&i, "last_key", vv_table_last_key(t));
    return vv_item_tell(&i, j);
}

static vv_status tell_epoch(vv_inspection *j, const vv_epoch *e) {
    vv_item i;
    vv_item_begin(&i, "epoch");
    vv_item_number(&i, "epoch", e->epoch);
    vv_item_number(&i, "first_lsn", e->first_lsn);
    vv_item_id_number(&i, "id", e->id);
    return vv_item_tell(&i, j);
}

static vv_status tell_slot(vv_inspection *j, const vv_slot_mark *s) {
    vv_item i;
    vv_item_begin(&i, "slot");
    vv_item_text(&i, "name", s->name);
    vv_item_number(&i, "lsn", s->lsn);
    vv_item_flag(&i, "lost", s->lost);
    return vv_item_tell(&i, j);
}

/* The image that engine/db/retry.h draws; what reads it for good has said that it is sound, or will not. */
static vv_status tell_clients(vv_inspection *j, vv_slice image) {
    vv_reader r = vv_reader_make(image);
    uint32_t clients = vv_read_be32(&r);
    for (uint32_t n = 0; n < clients && !r.bad; n++) {
        uint64_t client_id = vv_read_be64(&r), newest = 0, lsn = 0;
        uint32_t writes = vv_read_be32(&r);
        for (uint32_t k = 0; k < writes && !r.bad; k++) {
            newest = vv_read_be64(&r);
            lsn = vv_read_be64(&r);
        }
        if (r.bad)
            break;
        vv_item i;
        vv_item_begin(&i, "client");
        vv_item_id_number(&i, "client_id", client_id);
        vv_item_number(&i, "writes", writes);
        vv_item_number(&i, "newest_sequence", newest);
        vv_item_number(&i, "lsn", lsn);
        VV_TRY(vv_item_tell(&i, j));
    }
    return VV_STATUS_OK;
}

static vv_status tell_manifest_parts(vv_inspection *j, const vv_manifest *m, const uint8_t *bytes,
                                     vv_table **tables, size_t table_count) {
    VV_TRY(tell_manifest(j, m, bytes, table_count));
    for (size_t i = 0; i < table_count; i++)
        VV_TRY(tell_manifest_table(j, tables[i]));
    for (uint32_t i = 0; i < m->epochs.count; i++)
        VV_TRY(tell_epoch(j, &m->epochs.items[i]));
    for (uint32_t i = 0; i < m->slot_count; i++)
        VV_TRY(tell_slot(j, &m->slots[i]));
    return m->retry.bytes > 0 ? tell_clients(j, m->retry) : VV_STATUS_OK;
}

static vv_status decode_manifest(vv_inspection *j, const uint8_t *bytes) {
    vv_manifest m;
    vv_table **tables;
    size_t count;
    vv_status st =
        vv_manifest_decode(bytes, j->file_bytes, j->path, &m, &tables, &count, keep_file, NULL, j->err);
    if (vv_is(st, VV_CORRUPTION)) {
        vv_inspect_damage(j, 0, j->file_bytes, st, words_of(st));
        return VV_STATUS_OK;
    }
    VV_TRY(st);
    st = tell_manifest_parts(j, &m, bytes, tables, count);
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    vv_manifest_deinit(&m);
    return st;
}

static vv_status inspect_manifest(vv_inspection *j) {
    size_t got;
    if (j->file_bytes > MANIFEST_BYTES_MAX) {
        vv_inspect_damage(j, 0, j->file_bytes, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                          "too long for a manifest");
        return VV_STATUS_OK;
    }
    uint8_t *bytes = vv_alloc(j->file_bytes + 1);
    if (!bytes)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_status st = vv_file_read(j->file, bytes, j->file_bytes, 0, &got);
    if (vv_ok(st)) {
        j->file_bytes = got; /* it may have been replaced by a shorter one meanwhile, never written to */
        st = decode_manifest(j, bytes);
    }
    vv_free(bytes);
    return st;
}

/* ---- markers ---- */

static vv_status inspect_marker(vv_inspection *j) {
    char dir[VV_DB_PATH_BYTES];
    const char *name = strrchr(j->path, '/');
    vv_marker m;
    bool there;
    vv_db_parent(j->path, dir);
    vv_status st = vv_marker_read(j->io, dir, name ? name + 1 : j->path, &m, &there, j->err);
    if (vv_is(st, VV_CORRUPTION)) {
        vv_inspect_damage(j, 0, j->file_bytes, st, words_of(st));
        return VV_STATUS_OK;
    }
    VV_TRY(st);
    vv_item i;
    vv_item_begin(&i, "marker");
    vv_item_number(&i, "step", m.step);
    vv_item_number(&i, "lsn", m.lsn);
    vv_item_text(&i, "first_name", m.names[0]);
    vv_item_text(&i, "second_name", m.names[1]);
    return vv_item_tell(&i, j);
}

/* ---- which kind ---- */

typedef struct kind {
    const char *magic; /* NULL: as the first bytes of nothing */
    size_t magic_bytes;
    vv_status (*inspect)(vv_inspection *j);
    bool (*is_name)(const char *name);
} kind;

static bool is_segment_name(const char *name) {
    uint64_t number;
    return vv_wal_name_parse(name, ".log", &number);
}

static bool is_table_name(const char *name) {
    uint64_t number;
    return vv_db_table_name_parse(name, &number);
}

static bool is_manifest_name(const char *name) {
    return strcmp(name, VV_MANIFEST_NAME) == 0;
}

static bool is_archive_name(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && strcmp(dot, ".archive") == 0;
}

static bool is_marker_name(const char *name) {
    return strcmp(name, VV_INSTALL_NAME) == 0 || strcmp(name, VV_CUT_NAME) == 0;
}

static const kind kinds[] = {
    {"VARVWAL\0", 8, vv_inspect_segment, is_segment_name}, {"VARVMAN", 7, inspect_manifest, is_manifest_name},
    {"VARVARC", 7, vv_inspect_archive, is_archive_name},   {"VARVMRK", 7, inspect_marker, is_marker_name},
    {"VARVSST", 7, inspect_table, is_table_name},
};

static const kind *find_kind(vv_inspection *j, const uint8_t first[8], const uint8_t last[8]) {
    const char *name = strrchr(j->path, '/');
    name = name ? name + 1 : j->path;
    for (size_t i = 0; i < VV_ARRAY_COUNT(kinds); i++) {
        bool at_end = kinds[i].inspect == inspect_table;
        if (memcmp(at_end ? last : first, kinds[i].magic, kinds[i].magic_bytes) == 0)
            return &kinds[i];
    }
    for (size_t i = 0; i < VV_ARRAY_COUNT(kinds); i++)
        if (kinds[i].is_name(name))
            return &kinds[i];
    return NULL;
}

static vv_status inspect_file(vv_inspection *j) {
    uint8_t first[8] = {0}, last[8] = {0};
    size_t got;
    VV_TRY(vv_file_open(j->io, j->path, VV_OPEN_READ, &j->file, j->err));
    VV_TRY(vv_file_size(j->file, &j->file_bytes));
    VV_TRY(vv_file_read(j->file, first, sizeof first, 0, &got));
    if (j->file_bytes >= sizeof last)
        VV_TRY(vv_file_read(j->file, last, sizeof last, j->file_bytes - sizeof last, &got));
    const kind *k = find_kind(j, first, last);
    if (!k)
        return vv_fail(j->err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "this is no segment of a log, table, manifest, archive or marker");
    return k->inspect(j);
}

/* A directory stands for its manifest. */
static vv_status set_path(vv_inspection *j, const char *path) {
    char manifest[VV_DB_PATH_BYTES + sizeof VV_MANIFEST_NAME + 1];
    bool there;
    VV_TRY(vv_db_dir_path(j->path, path, j->err));
    snprintf(manifest, sizeof manifest, "%s/" VV_MANIFEST_NAME, j->path);
    /* Of a file: "not a directory", which is to say that it is not there. */
    if (vv_ok(vv_path_exists(j->io, manifest, &there, NULL)) && there && strlen(manifest) < sizeof j->path)
        memcpy(j->path, manifest, strlen(manifest) + 1);
    return VV_STATUS_OK;
}

varve_status varve_inspect(const char *path, const varve_inspect_options *options, varve_inspect_result *out,
                           varve_error *err) {
    vv_error own_words = {""};
    vv_error *words = vv_private_error(err);
    *out = (varve_inspect_result){0};
    vv_inspection *j = vv_alloc_zeroed(sizeof *j);
    if (!j)
        return vv_public(vv_fail(words, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory"));
    j->o = options;
    j->out = out;
    j->err = words ? words : &own_words;
    vv_status st = vv_io_backend_create(VV_IO_CHOICE_POSIX, NULL, &j->io, j->err);
    if (vv_ok(st))
        st = set_path(j, path);
    if (vv_ok(st))
        st = inspect_file(j);
    if (!vv_ok(st) && j->err->text[0] == '\0')
        st = vv_fail(j->err, st, "%s", words_of(st));
    vv_file_close(j->file);
    vv_io_backend_destroy(j->io);
    st = vv_ok(st) ? st : vv_wrap(j->err, st, "inspect %s", path);
    vv_free(j);
    return vv_public(st);
}
