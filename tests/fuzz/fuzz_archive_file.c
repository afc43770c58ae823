/*
 * fuzz_archive_file.c - files of an archive and tails that were cut off a log, which have one format; and
 * markers of what was begun in a directory (install, rewind).
 *
 *   input   [flags:1][file]      flags   bit 0: checksums are made right    bit 1: a marker
 *
 * What holds for any bytes: frames that are given follow each other without a gap, and their bytes lie
 * within the file. A file whose end is not damaged can be gone on with: what was in it is still there, and
 * so is the record that was added. A marker that is accepted can be written and read again.
 *
 * Bound: no allocation is larger than the writer's buffer of 1.5 MiB: no frame is longer than its file, of
 * at most 64 KiB here.
 */
#include "base/checksum.h"
#include "engine/db/archive_file.h"
#include "engine/db/marker.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mem_io.h"

#define PATH           "/d/0000000000000001.archive"
#define FILE_BYTES_MAX ((size_t)64 << 10)
#define ALLOCATION_MAX ((size_t)2 << 20)

enum { FIX = 1, MARKER = 2 };

typedef struct seen {
    vv_status status; /* why it ended */
    uint64_t frames;
    uint64_t last_lsn;
    uint64_t digest;
} seen;

static void see(seen *s, const vv_archive_frame *f) {
    FUZZ_CHECK(f->first_lsn == s->last_lsn + 1 && f->last_lsn >= f->first_lsn && f->record_count > 0);
    s->frames++;
    s->last_lsn = f->last_lsn;
    s->digest = vv_checksum(f->records.data, f->records.bytes, s->digest ^ f->unix_ms);
    vv_reader r = vv_reader_make(f->records);
    for (uint32_t i = 0; i < f->record_count; i++) { /* as those who apply them do */
        vv_record rec;
        if (!vv_ok(vv_record_decode(&r, &rec)) || !vv_ok(vv_record_ops_check(&rec)))
            break;
    }
}

/* False: it does not open. */
static bool read_all(vv_io_backend *disk, seen *s, vv_archive_head *head) {
    vv_archive_reader *r;
    vv_archive_frame f;
    vv_error err;
    *s = (seen){0};
    vv_status st = vv_archive_reader_open(disk, PATH, &r, &err);
    if (!vv_ok(st))
        return false;
    *head = *vv_archive_reader_head(r);
    s->last_lsn = head->first_lsn - 1;
    while (vv_ok(s->status = vv_archive_reader_next(r, &f, &err)))
        see(s, &f);
    FUZZ_CHECK(vv_is(s->status, VV_END) || vv_is(s->status, VV_CORRUPTION));
    vv_archive_reader_close(r);
    return true;
}

static void go_on(vv_io_backend *disk, const seen *before) {
    static const uint8_t op[VV_OP_HEAD_BYTES + 1] = {VV_KIND_DELETE, 0, 0, 1, [VV_OP_HEAD_BYTES] = 'k'};
    vv_archive_writer *w;
    vv_archive_head head;
    uint64_t torn_bytes;
    vv_epoch epoch = {.epoch = 1, .first_lsn = 1, .id = 1};
    vv_error err;
    vv_status st = vv_archive_writer_resume(disk, PATH, &w, &torn_bytes, &err);
    FUZZ_CHECK(vv_ok(st) == vv_is(before->status, VV_END), "%s", err.text);
    if (!vv_ok(st))
        return;
    FUZZ_CHECK(vv_archive_writer_last_lsn(w) == before->last_lsn);
    bool full = before->last_lsn >= UINT64_MAX - 2;
    vv_record rec = {
        .first_lsn = before->last_lsn + 1, .op_count = 1, .epoch = 1, .ops = vv_slice_make(op, sizeof op)};
    if (!full) {
        st = vv_archive_writer_add(w, &rec, &epoch, 7);
        FUZZ_CHECK(vv_ok(st));
    }
    st = vv_archive_writer_sync(w);
    FUZZ_CHECK(vv_ok(st));
    vv_archive_writer_close(w);
    seen after;
    FUZZ_CHECK(read_all(disk, &after, &head));
    FUZZ_CHECK(vv_is(after.status, VV_END) && after.frames == before->frames + !full);
    FUZZ_CHECK(after.last_lsn == before->last_lsn + !full);
}

static void archive(vv_io_backend *disk, vv_slice file) {
    seen s;
    vv_archive_head head;
    fuzz_disk_put(disk, PATH, file);
    if (read_all(disk, &s, &head))
        go_on(disk, &s);
}

static void marker(vv_io_backend *disk, vv_slice file) {
    vv_marker m, again;
    bool there;
    vv_error err;
    fuzz_disk_put(disk, "/d/" VV_INSTALL_NAME, file);
    vv_status st = vv_marker_read(disk, "/d", VV_INSTALL_NAME, &m, &there, &err);
    FUZZ_CHECK(there);
    if (!vv_ok(st))
        return;
    for (int i = 0; i < 2; i++)
        FUZZ_CHECK(strlen(m.names[i]) <= VV_MARKER_NAME_BYTES_MAX);
    st = vv_marker_write(disk, "/d", VV_INSTALL_NAME, &m, &err);
    FUZZ_CHECK(vv_ok(st));
    st = vv_marker_read(disk, "/d", VV_INSTALL_NAME, &again, &there, &err);
    FUZZ_CHECK(vv_ok(st) && there && m.step == again.step && m.lsn == again.lsn);
    FUZZ_CHECK(strcmp(m.names[0], again.names[0]) == 0 && strcmp(m.names[1], again.names[1]) == 0);
    st = vv_marker_remove(disk, "/d", VV_INSTALL_NAME, &err);
    FUZZ_CHECK(vv_ok(st));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    uint8_t flags = vv_read_u8(&r);
    vv_slice rest = fuzz_rest(&r);
    if (rest.bytes > FILE_BYTES_MAX)
        return 0;
    uint8_t *file = fuzz_copy(rest);
    vv_slice s = vv_slice_make(file, rest.bytes);
    vv_io_backend *disk = fuzz_disk_create();
    fuzz_allocation_max(ALLOCATION_MAX);
    if (flags & MARKER) {
        if (flags & FIX)
            fuzz_fix_end(file, rest.bytes);
        marker(disk, s);
    } else {
        if (flags & FIX)
            fuzz_fix_archive(file, rest.bytes);
        archive(disk, s);
    }
    fuzz_allocation_max(0);
    vv_io_backend_destroy(disk);
    free(file);
    return 0;
}
