#include "engine/db/archive_dir.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define NAME_FORMAT "%016" PRIx64 ".archive"

static vv_status no_memory(vv_error *err) {
    return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "out of memory");
}

void vv_archive_dir_file(const vv_archive_dir *dir, uint64_t number, char path[VV_ARCHIVE_PATH_BYTES + 64]) {
    snprintf(path, VV_ARCHIVE_PATH_BYTES + 64, "%s/" NAME_FORMAT, dir->path, number);
}

/* ---- what is there ---- */

/* Scanning takes more than we write: only the very name counts. */
static bool parse_name(const char *name, uint64_t *number_out) {
    char ours[40];
    if (sscanf(name, "%16" SCNx64, number_out) != 1)
        return false;
    snprintf(ours, sizeof ours, NAME_FORMAT, *number_out);
    return strcmp(name, ours) == 0;
}

static vv_status add_file(void *arg, const char *name, vv_entry_kind kind) {
    vv_archive_dir *dir = arg;
    uint64_t number;
    if (kind == VV_ENTRY_DIRECTORY || !parse_name(name, &number))
        return VV_STATUS_OK;
    if (dir->count == 0 || vv_is_power_of_two(dir->count)) {
        vv_archive_entry *grown = vv_realloc(dir->files, VV_MAX(8, 2 * dir->count) * sizeof *grown);
        if (!grown)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        dir->files = grown;
    }
    dir->files[dir->count++] = (vv_archive_entry){.number = number};
    return VV_STATUS_OK;
}

static int by_number(const void *a, const void *b) {
    uint64_t x = ((const vv_archive_entry *)a)->number, y = ((const vv_archive_entry *)b)->number;
    return (x > y) - (x < y);
}

/* The header of one file. known: db_id is that of an earlier one. */
static vv_status look_at(vv_io_backend *io, vv_archive_dir *dir, vv_archive_entry *e, bool *known,
                         vv_error *err) {
    char path[VV_ARCHIVE_PATH_BYTES + 64];
    vv_archive_reader *r;
    vv_archive_dir_file(dir, e->number, path);
    e->status = vv_archive_reader_open(io, path, &r, err);
    if (vv_is(e->status, VV_CORRUPTION))
        return VV_STATUS_OK;
    VV_TRY(e->status);
    const vv_archive_head *h = vv_archive_reader_head(r);
    e->first_lsn = h->first_lsn;
    bool same = !*known || memcmp(dir->db_id, h->db_id, sizeof dir->db_id) == 0;
    if (h->number != e->number)
        e->status = vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
    memcpy(dir->db_id, h->db_id, sizeof dir->db_id);
    *known = true;
    vv_archive_reader_close(r);
    return same ? VV_STATUS_OK
                : vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                          "%s: is of another database than the files before it", path);
}

static vv_status read_steps(vv_io_backend *io, vv_archive_dir *dir, vv_error *err) {
    bool known = false;
    uint64_t limit_lsn = UINT64_MAX;
    VV_TRY(vv_dir_list(io, dir->path, add_file, dir, err));
    if (dir->count > 0)
        qsort(dir->files, dir->count, sizeof *dir->files, by_number);
    for (size_t i = 0; i < dir->count; i++)
        VV_TRY(look_at(io, dir, &dir->files[i], &known, err));
    for (size_t i = dir->count; i-- > 0;) {
        dir->files[i].limit_lsn = limit_lsn;
        if (vv_ok(dir->files[i].status))
            limit_lsn = VV_MIN(limit_lsn, dir->files[i].first_lsn);
    }
    return VV_STATUS_OK;
}

vv_status vv_archive_dir_read(vv_io_backend *io, const char *path, vv_archive_dir *out, vv_error *err) {
    memset(out, 0, sizeof *out);
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    if (bytes == 0 || bytes >= sizeof out->path)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0), "'%s': not a usable path",
                       path);
    memcpy(out->path, path, bytes);
    vv_status st = read_steps(io, out, err);
    if (!vv_ok(st))
        vv_archive_dir_deinit(out);
    else if (err)
        err->text[0] = '\0'; /* of damaged headers */
    return vv_is(st, VV_NO_MEMORY) ? no_memory(err) : st;
}

void vv_archive_dir_deinit(vv_archive_dir *dir) {
    vv_free(dir->files);
    dir->files = NULL;
    dir->count = 0;
}

/* ---- how far it goes with a database ---- */

/* Records of one primary, one behind the other. */
typedef struct run {
    uint64_t first_lsn;
    uint64_t last_lsn;
    vv_epoch epoch;
} run;

typedef struct run_list {
    run *runs;
    size_t count;
    bool damaged;
} run_list;

static vv_status add_frame(run_list *l, const vv_archive_frame *f, uint64_t last_lsn) {
    run *last = l->count ? &l->runs[l->count - 1] : NULL;
    if (last && last->epoch.epoch == f->epoch.epoch && last->epoch.id == f->epoch.id) {
        last->last_lsn = last_lsn;
        return VV_STATUS_OK;
    }
    if (l->count == 0 || vv_is_power_of_two(l->count)) {
        run *grown = vv_realloc(l->runs, VV_MAX(4, 2 * l->count) * sizeof *grown);
        if (!grown)
            return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
        l->runs = grown;
    }
    l->runs[l->count++] = (run){.first_lsn = f->first_lsn, .last_lsn = last_lsn, .epoch = f->epoch};
    return VV_STATUS_OK;
}

/* What counts of one file, as far as it can be read. */
static vv_status read_runs(vv_io_backend *io, const vv_archive_dir *dir, const vv_archive_entry *e,
                           run_list *out, vv_error *err) {
    char path[VV_ARCHIVE_PATH_BYTES + 64];
    vv_archive_reader *r;
    vv_archive_frame f;
    *out = (run_list){.damaged = !vv_ok(e->status)};
    if (out->damaged)
        return VV_STATUS_OK;
    vv_archive_dir_file(dir, e->number, path);
    VV_TRY(vv_archive_reader_open(io, path, &r, err));
    vv_status st = VV_STATUS_OK;
    while (vv_ok(st) && vv_ok(st = vv_archive_reader_next(r, &f, err)) && f.first_lsn < e->limit_lsn)
        st = add_frame(out, &f, VV_MIN(f.last_lsn, e->limit_lsn - 1));
    vv_archive_reader_close(r);
    out->damaged = vv_is(st, VV_CORRUPTION);
    if (vv_ok(st) || vv_is(st, VV_END) || out->damaged)
        return VV_STATUS_OK;
    vv_free(out->runs);
    return st;
}

/* How far the database has the epoch of these records; 0: not at all. */
static uint64_t end_of_epoch(const run *stretch, const varve_epoch *epochs, size_t count,
                             uint64_t db_last_lsn) {
    for (size_t i = 0; i < count; i++) {
        if (epochs[i].epoch != stretch->epoch.epoch)
            continue;
        /* An id that is not known speaks neither for nor against. */
        if (epochs[i].id != stretch->epoch.id && epochs[i].id != 0 && stretch->epoch.id != 0)
            return 0;
        return i + 1 < count ? VV_MIN(db_last_lsn, epochs[i + 1].first_lsn - 1) : db_last_lsn;
    }
    return 0;
}

vv_status vv_archive_dir_compare(vv_io_backend *io, const vv_archive_dir *dir, const varve_epoch *epochs,
                                 size_t epoch_count, uint64_t db_last_lsn, vv_archive_position *out,
                                 vv_error *err) {
    *out = (vv_archive_position){0};
    for (size_t i = dir->count; i-- > 0 && out->common_lsn == 0 && (epoch_count > 0 || out->last_lsn == 0);) {
        run_list l;
        VV_TRY(read_runs(io, dir, &dir->files[i], &l, err));
        if (i + 1 == dir->count)
            out->damaged = l.damaged;
        if (out->last_lsn == 0 && l.count > 0)
            out->last_lsn = l.runs[l.count - 1].last_lsn;
        for (size_t k = l.count; k-- > 0 && out->common_lsn == 0;) {
            uint64_t end =
                VV_MIN(l.runs[k].last_lsn, end_of_epoch(&l.runs[k], epochs, epoch_count, db_last_lsn));
            /* Else all of these records are another history's, or not known here. */
            if (end >= l.runs[k].first_lsn)
                out->common_lsn = end;
        }
        vv_free(l.runs);
    }
    return VV_STATUS_OK;
}
