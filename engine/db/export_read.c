/*
 * export_read.c - the bytes of an export's tables, for whoever takes them elsewhere.
 *
 * The file is read beside the page cache: each byte is read once, and what others need shall not go for it.
 * Direct I/O wants offset, length and address on block boundaries. A read that has them goes into the
 * caller's buffer; for another the whole blocks around it are read and copied, piece by piece. A reader has
 * no state but its file, so that any number of threads may read through one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/db/db_impl.h"

#define COPY_BYTES ((size_t)1 << 20)

struct varve_export_reader {
    vv_file *file;
    uint64_t size;
    const char *name; /* the export's */
};

static const varve_export_file *file_of(const varve_export *e, const char *name) {
    for (size_t i = 0; i < e->file_count; i++)
        if (strcmp(e->files[i].name, name) == 0)
            return &e->files[i];
    return NULL;
}

varve_status varve_export_open(varve_db *db, const varve_export *exported, const char *name,
                               varve_export_reader **out, varve_error *err) {
    char path[VV_DB_PATH_BYTES + 64];
    vv_error *words = vv_private_error(err);
    *out = NULL;
    const varve_export_file *f = file_of(exported, name);
    if (!f)
        return vv_public(
            vv_fail(words, vv_status_make(VV_NOT_FOUND, VV_SUB_NONE, 0), "%.64s: not in this export", name));
    varve_export_reader *r = vv_alloc_zeroed(sizeof *r);
    if (!r)
        return vv_public(
            vv_fail(words, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "%s: out of memory", f->name));
    snprintf(path, sizeof path, "%s/%s", db->dir, f->name);
    r->size = f->size;
    r->name = f->name;
    vv_status st = vv_file_open(db->io, path, VV_OPEN_READ | VV_OPEN_DIRECT, &r->file, words);
    if (vv_ok(st)) {
        *out = r;
        return vv_public(st);
    }
    vv_free(r);
    /* To the caller NOT_FOUND says that it gave a wrong name. */
    return vv_public(vv_is(st, VV_NOT_FOUND) ? vv_status_make(VV_CORRUPTION, VV_SUB_NONE, st.sys) : st);
}

/* Whole blocks, of which `bytes` at `offset` are wanted, by way of `copy`. */
static vv_status read_copied(const varve_export_reader *r, uint64_t offset, uint8_t *to, size_t bytes,
                             uint8_t *copy) {
    while (bytes > 0) {
        uint64_t from = offset / VV_IO_ALIGN_BYTES * VV_IO_ALIGN_BYTES;
        size_t skipped = (size_t)(offset - from), got;
        size_t piece = VV_MIN(bytes, COPY_BYTES - skipped);
        VV_TRY(vv_file_read(r->file, copy, vv_align_up(skipped + piece, VV_IO_ALIGN_BYTES), from, &got));
        if (got < skipped + piece)
            return vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0);
        memcpy(to, copy + skipped, piece);
        to += piece;
        offset += piece;
        bytes -= piece;
    }
    return VV_STATUS_OK;
}

/* `bytes` end within the file. */
static vv_status read_exactly(const varve_export_reader *r, uint64_t offset, void *buffer, size_t room,
                              size_t bytes) {
    size_t got;
    if (vv_file_aligned(r->file, buffer, room, offset)) {
        /* All of the room, which may go beyond the end of the file: its last block is read whole. */
        VV_TRY(vv_file_read(r->file, buffer, room, offset, &got));
        return got < bytes ? vv_status_make(VV_CORRUPTION, VV_SUB_TRUNCATED, 0) : VV_STATUS_OK;
    }
    uint8_t *copy = vv_alloc_aligned(VV_IO_ALIGN_BYTES, COPY_BYTES);
    if (!copy)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_status st = read_copied(r, offset, buffer, bytes, copy);
    vv_free(copy);
    return st;
}

varve_status varve_export_read(varve_export_reader *reader, uint64_t offset, void *buffer, size_t bytes,
                               size_t *read_out, varve_error *err) {
    vv_error *words = vv_private_error(err);
    *read_out = 0;
    uint64_t left = reader->size - VV_MIN(offset, reader->size);
    size_t wanted = (size_t)VV_MIN((uint64_t)bytes, left);
    if (wanted == 0)
        return vv_public(VV_STATUS_OK);
    vv_status st = read_exactly(reader, offset, buffer, bytes, wanted);
    if (!vv_ok(st))
        return vv_public(vv_fail(words, st, "%s: at %" PRIu64 ": %s", reader->name, offset,
                                 st.sub ? vv_sub_text(st.sub) : vv_code_text(st.code)));
    *read_out = wanted;
    return vv_public(st);
}

void varve_export_close(varve_export_reader *reader) {
    if (!reader)
        return;
    vv_file_close(reader->file);
    vv_free(reader);
}
