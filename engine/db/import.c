/*
 * import.c - a directory that becomes a database: the other end of an export.
 *
 *   DIR/LOCK         held while the import is open, as a database has it
 *   DIR/IMPORT       says what the directory is: only one that has it, or is empty, is written to or swept
 *   DIR/NAME.part    a file on its way; as long as what is there of it
 *   DIR/NAME         a file that was whole, synced and had its checksum when it got this name
 *   DIR/MANIFEST     written last, when every NAME is there and its name is synced
 *
 *   file:  IDLE --open--> OPEN --close--> DONE
 *            ^-- abandon, failure --'
 *
 * What is believed of an earlier import: nothing. A file that is done is read and its checksum compared when
 * it is opened; of one that is not, the whole blocks that are there are read, so that the checksum goes on
 * from them. That holds whatever became of the machine in between: blocks that did not survive give another
 * checksum in the end, and the file begins anew. Where no checksum is known, nothing that is there counts.
 *
 * Why a finished import survives: each file was synced before it got its name, the names were synced before
 * the manifest was written, which is synced, renamed and synced like any other; at last the parent.
 *
 * Files are independent of each other: several threads may bring one each, through queues of their own.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"
#include "engine/sst/sink.h"

#define LOCK_NAME    "LOCK"
#define PART_SUFFIX  ".part"
#define QUEUE_DEPTH  4
#define BUFFER_BYTES (UINT32_C(1) << 20)

typedef enum file_state { FILE_IDLE, FILE_OPEN, FILE_DONE } file_state;

typedef struct import_entry {
    char name[32];
    uint64_t number; /* of the table */
    uint64_t size;
    uint64_t checksum;
    _Atomic int state; /* a file_state */
} import_entry;

struct varve_import {
    vv_io_backend *io;
    vv_logger logger;
    vv_file *lock;
    import_entry *entries; /* as they were given */
    import_entry **by_number;
    size_t count;
    bool marked; /* what the last look at the directory found */
    bool has_manifest;
    vv_error *err; /* of the look */
    char dir[VV_DB_PATH_BYTES];
};

struct varve_import_file {
    varve_import *import;
    import_entry *entry;
    vv_io_queue *queue;
    vv_file *file;
    uint64_t written; /* what was there included */
    bool has_sink;
    vv_sst_sink sink;
    char part[VV_DB_PATH_BYTES];
};

static void path_in(const varve_import *m, const char *name, const char *suffix,
                    char path[VV_DB_PATH_BYTES]) {
    snprintf(path, VV_DB_PATH_BYTES, "%s/%s%s", m->dir, name, suffix);
}

static vv_status no_memory(vv_error *err) {
    return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
}

/* The words of a failure that has none of its own. */
static vv_status say(vv_error *err, vv_status st, const char *path) {
    return vv_fail(err, st, "%s: %s", path, st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code));
}

/* ---- the files that are to come ---- */

static int compare_numbers(const void *a, const void *b) {
    uint64_t x = (*(import_entry *const *)a)->number, y = (*(import_entry *const *)b)->number;
    return (x > y) - (x < y);
}

static import_entry *entry_of(const varve_import *m, uint64_t number) {
    import_entry key = {.number = number}, *wanted = &key, **found;
    if (m->count == 0)
        return NULL;
    found = bsearch(&wanted, m->by_number, m->count, sizeof *m->by_number, compare_numbers);
    return found ? *found : NULL;
}

/* Names come from elsewhere, and become paths: nothing but a table's passes. */
static vv_status take_files(varve_import *m, const varve_export_file *files, size_t count, vv_error *err) {
    vv_status invalid = vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0);
    m->entries = vv_alloc_zeroed((count + 1) * sizeof *m->entries);
    m->by_number = vv_alloc_zeroed((count + 1) * sizeof(import_entry *));
    if (!m->entries || !m->by_number)
        return no_memory(err);
    m->count = count;
    for (size_t i = 0; i < count; i++) {
        import_entry *e = &m->entries[i];
        if (!vv_db_table_name_parse(files[i].name, &e->number) || files[i].size == 0)
            return vv_fail(err, invalid, "'%.64s', %" PRIu64 " bytes: no table of an export", files[i].name,
                           files[i].size);
        snprintf(e->name, sizeof e->name, "%s", files[i].name);
        e->size = files[i].size;
        e->checksum = files[i].checksum;
        m->by_number[i] = e;
    }
    if (count > 0)
        qsort(m->by_number, count, sizeof *m->by_number, compare_numbers);
    for (size_t i = 1; i < count; i++)
        if (m->by_number[i]->number == m->by_number[i - 1]->number)
            return vv_fail(err, invalid, "'%s' is there twice", m->by_number[i]->name);
    return VV_STATUS_OK;
}

/* ---- the directory ---- */

/* Is it a table's name, with or without .part? */
static bool parse_name(const char *name, uint64_t *number_out) {
    char bare[32];
    size_t bytes = strlen(name), suffix = strlen(PART_SUFFIX);
    if (vv_db_table_name_parse(name, number_out))
        return true;
    if (bytes <= suffix || bytes - suffix >= sizeof bare || strcmp(name + bytes - suffix, PART_SUFFIX) != 0)
        return false;
    memcpy(bare, name, bytes - suffix);
    bare[bytes - suffix] = '\0';
    return vv_db_table_name_parse(bare, number_out);
}

static vv_status look_at(void *arg, const char *name, vv_entry_kind kind) {
    varve_import *m = arg;
    uint64_t number;
    if (strcmp(name, VV_IMPORT_NAME) == 0)
        m->marked = true;
    if (strcmp(name, VV_MANIFEST_NAME) == 0)
        m->has_manifest = true;
    bool ours = parse_name(name, &number) || strcmp(name, LOCK_NAME) == 0 ||
                strcmp(name, VV_IMPORT_NAME) == 0 || strcmp(name, VV_MANIFEST_NAME) == 0 ||
                strcmp(name, VV_MANIFEST_TEMP_NAME) == 0;
    if (ours && kind == VV_ENTRY_FILE)
        return VV_STATUS_OK;
    return vv_fail(m->err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "%s: is no import: there is %s", m->dir,
                   name);
}

static vv_status refuse(void *arg, const char *name, vv_entry_kind kind) {
    varve_import *m = arg;
    (void)kind;
    if (strcmp(name, LOCK_NAME) == 0)
        return VV_STATUS_OK;
    return vv_fail(m->err, vv_status_make(VV_EXISTS, VV_SUB_NONE, 0), "%s: is no import: there is %s", m->dir,
                   name);
}

/* Ours to write to? Changes nothing. */
static vv_status look(varve_import *m, vv_error *err) {
    m->marked = m->has_manifest = false;
    m->err = err;
    VV_TRY(vv_dir_list(m->io, m->dir, look_at, m, err));
    return m->marked ? VV_STATUS_OK : vv_dir_list(m->io, m->dir, refuse, m, err);
}

static vv_status mark(varve_import *m, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    vv_file *file;
    path_in(m, VV_IMPORT_NAME, "", path);
    VV_TRY(vv_file_open(m->io, path, VV_OPEN_WRITE | VV_OPEN_CREATE, &file, err));
    vv_status st = vv_file_sync(file, VV_SYNC_FULL);
    vv_file_close(file);
    /* Before any other file: what is there without it is not touched again. */
    return vv_ok(st) ? vv_dir_sync(m->io, m->dir, err) : say(err, st, path);
}

static vv_status unmake(varve_import *m, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    path_in(m, VV_MANIFEST_NAME, "", path);
    VV_TRY(vv_path_unlink(m->io, path, err));
    return vv_dir_sync(m->io, m->dir, err);
}

static vv_status remove_strange(void *arg, const char *name, vv_entry_kind kind) {
    varve_import *m = arg;
    uint64_t number;
    char path[VV_DB_PATH_BYTES];
    (void)kind;
    bool goes = parse_name(name, &number) ? !entry_of(m, number) : strcmp(name, VV_MANIFEST_TEMP_NAME) == 0;
    if (!goes)
        return VV_STATUS_OK;
    path_in(m, name, "", path);
    return vv_path_unlink(m->io, path, m->err);
}

/* An install (install.c) that was begun takes its files from here, perhaps. */
static vv_status refuse_while_installed(varve_import *m, vv_error *err) {
    char parent[VV_DB_PATH_BYTES], path[VV_DB_PATH_BYTES + 16];
    bool exists;
    vv_db_parent(m->dir, parent);
    snprintf(path, sizeof path, "%s/" VV_INSTALL_NAME, parent);
    VV_TRY(vv_path_exists(m->io, path, &exists, err));
    return exists ? vv_fail(err, vv_status_make(VV_BUSY, VV_SUB_NONE, 0),
                            "%s: something is being installed: open that database first", path)
                  : VV_STATUS_OK;
}

static vv_status begin(varve_import *m, const char *dir, const varve_export_file *files, size_t count,
                       vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    VV_TRY(vv_db_dir_path(m->dir, dir, err));
    VV_TRY(take_files(m, files, count, err));
    VV_TRY(refuse_while_installed(m, err));
    vv_status st = vv_dir_create(m->io, m->dir, err);
    if (!vv_ok(st) && !vv_is(st, VV_EXISTS))
        return st;
    if (err)
        err->text[0] = '\0';
    VV_TRY(look(m, err)); /* before a lock file is put where it does not belong */
    path_in(m, LOCK_NAME, "", path);
    VV_TRY(vv_lock_acquire(m->io, path, &m->lock, err));
    VV_TRY(look(m, err)); /* somebody may have had the lock in between */
    if (!m->marked)
        VV_TRY(mark(m, err));
    if (m->has_manifest)
        VV_TRY(unmake(m, err));
    return vv_dir_list(m->io, m->dir, remove_strange, m, err);
}

static void destroy(varve_import *m) {
    vv_file_close(m->lock);
    vv_io_backend_destroy(m->io);
    vv_free(m->entries);
    vv_free(m->by_number);
    vv_free(m);
}

vv_status vv_db_import_begin_on(vv_io_backend *io_take, const char *dir, const varve_options *options,
                                const varve_export_file *files, size_t file_count, varve_import **out,
                                vv_error *err) {
    *out = NULL;
    varve_import *m = vv_alloc_zeroed(sizeof *m);
    if (!m) {
        vv_io_backend_destroy(io_take);
        return no_memory(err);
    }
    m->io = io_take;
    if (options)
        m->logger = options->logger;
    vv_status st = m->io ? VV_STATUS_OK : vv_db_io_create(options, &m->logger, &m->io, err);
    if (vv_ok(st))
        st = begin(m, dir, files, file_count, err);
    m->err = NULL;
    if (!vv_ok(st)) {
        destroy(m);
        return vv_wrap(err, st, "import");
    }
    *out = m;
    return st;
}

varve_status varve_import_begin(const char *dir, const varve_options *options, const varve_export_file *files,
                                size_t file_count, varve_import **out, varve_error *err) {
    return vv_public(
        vv_db_import_begin_on(NULL, dir, options, files, file_count, out, vv_private_error(err)));
}

/* ---- one file ---- */

static void free_file(varve_import_file *f, file_state state) {
    if (f->has_sink)
        vv_sst_sink_deinit(&f->sink);
    vv_file_close(f->file);
    if (f->queue && f->queue->in_flight == 0) /* else it is broken, and stays */
        vv_io_queue_destroy(f->queue);
    /* release: whoever finds it so sees the file as it was left */
    atomic_store_explicit(&f->entry->state, state, memory_order_release);
    vv_free(f);
}

/* Add the first `bytes` bytes of a file to *sum. */
static vv_status sum_up(varve_import_file *f, vv_file *file, uint64_t bytes, vv_checksum_stream *sum) {
    vv_throttle t;
    vv_throttle_init(&t, 0, NULL, NULL, bytes);
    vv_checksum_stream_init(sum);
    return vv_db_stream(f->queue, file, NULL, bytes, &t, sum);
}

/* A file that an earlier import has done: is it the one that is wanted? */
static vv_status check_done(varve_import_file *f, const char *path, bool *good_out, vv_error *err) {
    vv_file *file;
    uint64_t bytes;
    vv_checksum_stream sum;
    *good_out = false;
    if (f->entry->checksum == 0)
        return VV_STATUS_OK;
    VV_TRY(vv_file_open(f->import->io, path, VV_OPEN_READ | VV_OPEN_DIRECT, &file, err));
    vv_status st = vv_file_size(file, &bytes);
    if (vv_ok(st) && bytes == f->entry->size) {
        st = sum_up(f, file, bytes, &sum);
        *good_out = vv_ok(st) && vv_checksum_stream_get(&sum) == f->entry->checksum;
    }
    vv_file_close(file);
    /* What can't be read is fetched again. */
    return vv_is(st, VV_NO_MEMORY) ? say(err, st, path) : VV_STATUS_OK;
}

/* Open what is there of the file, or a new one; *sum is of the f->written bytes that count. */
static vv_status open_part(varve_import_file *f, vv_checksum_stream *sum, vv_error *err) {
    uint64_t bytes;
    VV_TRY(vv_file_open(f->import->io, f->part,
                        VV_OPEN_READ | VV_OPEN_WRITE | VV_OPEN_CREATE | VV_OPEN_DIRECT, &f->file, err));
    vv_status st = vv_file_size(f->file, &bytes);
    if (!vv_ok(st))
        return say(err, st, f->part);
    bytes = f->entry->checksum ? VV_MIN(bytes, f->entry->size) : 0;
    f->written = bytes / VV_IO_ALIGN_BYTES * VV_IO_ALIGN_BYTES;
    st = sum_up(f, f->file, f->written, sum);
    if (vv_is(st, VV_NO_MEMORY))
        return say(err, st, f->part);
    if (!vv_ok(st)) {
        f->written = 0;
        vv_checksum_stream_init(sum);
    }
    st = vv_file_truncate(f->file, f->written);
    return vv_ok(st) ? st : say(err, st, f->part);
}

/* A table whose checksum nobody noted: block by block. */
static void note_damage(void *arg, const vv_sst_damage *d) {
    vv_status_keep(arg, d->status);
}

static bool go_on(void *arg, uint64_t bytes) {
    (void)arg;
    (void)bytes;
    return true;
}

static vv_status check_blocks(const varve_import_file *f, vv_error *err) {
    vv_sst_reader *r;
    uint64_t blocks;
    vv_status damage = VV_STATUS_OK;
    vv_sst_verify_options o = {.damaged = note_damage, .pace = go_on, .arg = &damage};
    VV_TRY(vv_sst_reader_open(f->import->io, f->part, f->entry->number, &r, err));
    vv_status st = vv_sst_verify_blocks(r, &o, &blocks);
    vv_sst_reader_close(r);
    vv_status_keep(&st, damage);
    return vv_ok(st) ? st : say(err, st, f->part);
}

/* All bytes are there: sync, check, name. */
static vv_status complete(varve_import_file *f, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    const import_entry *e = f->entry;
    path_in(f->import, e->name, "", path);
    vv_status st = vv_sst_sink_finish(&f->sink);
    uint64_t sum = vv_sst_sink_checksum(&f->sink);
    if (!vv_ok(st))
        st = say(err, st, f->part);
    else if (e->checksum == 0)
        st = check_blocks(f, err);
    else if (sum != e->checksum)
        st =
            vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0),
                    "%s: checksum mismatch: is %016" PRIx64 ", was %016" PRIx64 " when the table was written",
                    e->name, sum, e->checksum);
    if (vv_ok(st))
        st = vv_path_rename(f->import->io, f->part, path, err);
    /* Also after a failed sync: nobody knows what is there. */
    if (!vv_ok(st))
        vv_status_ignore(vv_path_unlink(f->import->io, f->part, NULL), "the failure before is what counts");
    return st;
}

static vv_status start_sink(varve_import_file *f, const vv_checksum_stream *sum, vv_error *err) {
    vv_status st = vv_sst_sink_init(&f->sink, f->queue, f->file);
    if (!vv_ok(st))
        return say(err, st, f->part);
    f->has_sink = true;
    vv_sst_sink_resume(&f->sink, f->written, sum);
    return VV_STATUS_OK;
}

/* *state_out: OPEN, or DONE if nothing is missing. */
static vv_status open_file(varve_import_file *f, file_state *state_out, vv_error *err) {
    char path[VV_DB_PATH_BYTES];
    vv_checksum_stream sum;
    bool exists;
    vv_io_queue_options o = {
        .depth = QUEUE_DEPTH, .pool_buffer_count = QUEUE_DEPTH, .pool_buffer_bytes = BUFFER_BYTES};
    VV_TRY(vv_io_queue_create(f->import->io, &o, &f->queue, err));
    path_in(f->import, f->entry->name, "", path);
    VV_TRY(vv_path_exists(f->import->io, path, &exists, err));
    if (exists) {
        bool good;
        VV_TRY(check_done(f, path, &good, err));
        *state_out = good ? FILE_DONE : FILE_OPEN;
        if (good)
            return VV_STATUS_OK;
        VV_TRY(vv_path_unlink(f->import->io, path, err));
    }
    *state_out = FILE_OPEN;
    VV_TRY(open_part(f, &sum, err));
    if (f->written == f->entry->size && vv_checksum_stream_get(&sum) != f->entry->checksum) {
        /* Whole, and another file: anew. */
        f->written = 0;
        vv_checksum_stream_init(&sum);
        vv_status st = vv_file_truncate(f->file, 0);
        if (!vv_ok(st))
            return say(err, st, f->part);
    }
    VV_TRY(start_sink(f, &sum, err));
    if (f->written < f->entry->size)
        return VV_STATUS_OK;
    /* Only its name was missing. */
    *state_out = FILE_DONE;
    return complete(f, err);
}

varve_status varve_import_open(varve_import *import, size_t file_index, varve_import_file **out,
                               uint64_t *offset_out, varve_error *err) {
    vv_error *words = vv_private_error(err);
    *out = NULL;
    *offset_out = 0;
    if (file_index >= import->count)
        return vv_public(vv_fail(words, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                                 "there is no file %zu", file_index));
    import_entry *e = &import->entries[file_index];
    int state = FILE_IDLE;
    /* acquire: pairs with free_file(). */
    if (!atomic_compare_exchange_strong_explicit(&e->state, &state, FILE_OPEN, memory_order_acquire,
                                                 memory_order_acquire)) {
        if (state == FILE_DONE) {
            *offset_out = e->size;
            return vv_public(VV_STATUS_OK);
        }
        return vv_public(
            vv_fail(words, vv_status_make(VV_BUSY, VV_SUB_NONE, 0), "%s: is open already", e->name));
    }
    varve_import_file *f = vv_alloc_aligned(_Alignof(varve_import_file), sizeof *f);
    if (!f) {
        atomic_store_explicit(&e->state, FILE_IDLE, memory_order_relaxed);
        return vv_public(no_memory(words));
    }
    memset(f, 0, sizeof *f);
    f->import = import;
    f->entry = e;
    path_in(import, e->name, PART_SUFFIX, f->part);
    file_state reached;
    vv_status st = open_file(f, &reached, words);
    if (vv_ok(st) && reached == FILE_OPEN) {
        *offset_out = f->written;
        *out = f;
        return vv_public(st);
    }
    free_file(f, vv_ok(st) ? FILE_DONE : FILE_IDLE);
    if (vv_ok(st))
        *offset_out = e->size;
    return vv_public(st);
}

varve_status varve_import_write(varve_import_file *file, const void *data, size_t bytes, varve_error *err) {
    vv_error *words = vv_private_error(err);
    if (bytes > file->entry->size - file->written)
        return vv_public(vv_fail(words, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                                 "%s: more than its %" PRIu64 " bytes", file->entry->name,
                                 file->entry->size));
    vv_status st = vv_sst_sink_append(&file->sink, data, bytes);
    if (!vv_ok(st))
        return vv_public(say(words, st, file->part));
    file->written += bytes;
    return vv_public(st);
}

varve_status varve_import_close(varve_import_file *file, varve_error *err) {
    vv_error *words = vv_private_error(err);
    if (file->written < file->entry->size) {
        vv_status st = vv_fail(words, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                               "%s: %" PRIu64 " of its %" PRIu64 " bytes are missing", file->entry->name,
                               file->entry->size - file->written, file->entry->size);
        varve_import_abandon(file);
        return vv_public(st);
    }
    vv_status st = complete(file, words);
    free_file(file, vv_ok(st) ? FILE_DONE : FILE_IDLE);
    return vv_public(st);
}

void varve_import_abandon(varve_import_file *file) {
    if (!file)
        return;
    vv_status_ignore(vv_sst_sink_pause(&file->sink), "what is there is read, and judged, by the next import");
    free_file(file, FILE_IDLE);
}

/* ---- the end ---- */

static vv_status check_all_done(const varve_import *m, vv_error *err) {
    for (size_t i = 0; i < m->count; i++)
        if (atomic_load_explicit(&m->entries[i].state, memory_order_acquire) != FILE_DONE)
            return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "%s is missing",
                           m->entries[i].name);
    return VV_STATUS_OK;
}

/* Does the manifest name these files, all of them and no other? */
static vv_status check_tables(const varve_import *m, vv_table *const *tables, size_t count, vv_error *err) {
    bool same = count == m->count;
    for (size_t i = 0; i < count && same; i++) {
        const vv_sst_summary *s = &tables[i]->summary;
        const import_entry *e = entry_of(m, tables[i]->file_number);
        same = e && e->size == s->file_bytes && e->checksum == s->file_checksum;
    }
    return same ? VV_STATUS_OK
                : vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0),
                          "the manifest is not that of these files");
}

static void keep_file(void *arg, uint64_t file_number) {
    (void)arg;
    (void)file_number; /* none of these tables is ever obsolete */
}

static vv_status finish(varve_import *m, const void *manifest, size_t manifest_bytes, vv_error *err) {
    vv_manifest decoded;
    vv_table **tables;
    size_t count;
    VV_TRY(check_all_done(m, err));
    VV_TRY(vv_manifest_decode(manifest, manifest_bytes, VV_MANIFEST_NAME, &decoded, &tables, &count,
                              keep_file, NULL, err));
    vv_version *version = NULL;
    vv_status st = check_tables(m, tables, count, err);
    if (vv_ok(st)) {
        version = vv_version_create(tables, count);
        st = version ? st : no_memory(err);
    }
    for (size_t i = 0; i < count; i++)
        vv_table_unref(tables[i]);
    vv_free(tables);
    decoded.first_segment = 0; /* its log begins here */
    /* Every name must last before the manifest speaks of it. */
    if (vv_ok(st))
        st = vv_dir_sync(m->io, m->dir, err);
    if (vv_ok(st))
        st = vv_manifest_write(m->io, m->dir, &decoded, version, NULL, err);
    if (vv_ok(st))
        st = vv_db_sync_parent(m->io, &m->logger, m->dir, err);
    if (version)
        vv_version_unref(version);
    vv_manifest_deinit(&decoded);
    return st;
}

varve_status varve_import_finish(varve_import *import, const void *manifest, size_t manifest_bytes,
                                 varve_error *err) {
    vv_error *words = vv_private_error(err);
    vv_status st = finish(import, manifest, manifest_bytes, words);
    if (!vv_ok(st))
        return vv_public(vv_wrap(words, st, "import"));
    destroy(import);
    return vv_public(st);
}

void varve_import_end(varve_import *import) {
    if (import)
        destroy(import);
}
