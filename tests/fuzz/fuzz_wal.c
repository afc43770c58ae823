/*
 * fuzz_wal.c - log segments through recovery and, in half of the runs, through a cursor and further
 * writing.
 *
 *   input   [flags:1][replay_after_lsn:1][first_segment:1] then files, each [number:1][bytes:2][bytes]
 *
 *   flags   bit 0: checksums are made right    bit 1: and the sizes in the headers
 *           bit 2: open for writing instead of replaying only
 *
 * A file's number has 7 bits; the uppermost makes it a raw file (.tmp) instead of a segment.
 *
 * What holds for any bytes: the records replayed are sound, in order and without a gap. A log that opens
 * can be read back with a cursor, byte by byte what was replayed; it takes another record; and opened once
 * more it replays the same and that record. Replaying changes nothing that a second replay would notice.
 *
 * Bound: no allocation is larger than the 12.25 MiB of recovery's window; payloads are never larger than
 * their file, which has at most 64 KiB here.
 */
#include <inttypes.h>

#include "base/checksum.h"
#include "engine/wal/wal.h"
#include "tests/fuzz/fixup.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mem_io.h"

#define FILES_MAX      6
#define ALLOCATION_MAX ((size_t)13 << 20)
#define SEGMENT_BYTES  ((uint64_t)16 << 10)

enum { FIX_CHECKSUMS = 1, FIX_SIZES = 2, OPEN = 4 };

/* What was seen of the records, in order. */
typedef struct seen {
    uint64_t count;
    uint64_t first_lsn;
    uint64_t last_lsn;
    uint64_t digest;
    uint64_t replay_after_lsn;
} seen;

static uint64_t digest_of(const vv_record *rec, uint64_t digest) {
    uint8_t head[VV_RECORD_HEAD_BYTES];
    vv_record_head_encode(head, rec);
    return vv_checksum(rec->ops.data, rec->ops.bytes, vv_checksum(head, sizeof head, digest));
}

static void see(seen *s, const vv_record *rec) {
    vv_status st = vv_record_ops_check(rec);
    FUZZ_CHECK(vv_ok(st) && rec->op_count > 0);
    FUZZ_CHECK(s->count == 0 || rec->first_lsn == s->last_lsn + 1);
    if (s->count++ == 0)
        s->first_lsn = rec->first_lsn;
    s->last_lsn = rec->first_lsn + rec->op_count - 1;
    FUZZ_CHECK(s->last_lsn > s->replay_after_lsn);
    s->digest = digest_of(rec, s->digest);
}

static vv_status replay(void *arg, const vv_record *rec) {
    see(arg, rec);
    return VV_STATUS_OK;
}

/* From the oldest record replayed to the end. */
static void read_back(vv_wal *w, const seen *replayed) {
    vv_wal_cursor *c;
    uint64_t oldest;
    vv_record rec;
    seen read = {.replay_after_lsn = replayed->replay_after_lsn};
    if (replayed->count == 0)
        return;
    vv_status st = vv_wal_cursor_open(w, replayed->first_lsn - 1, &c, &oldest);
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
    while (vv_ok(st = vv_wal_cursor_next(c, UINT64_MAX, &rec, &oldest)))
        see(&read, &rec);
    FUZZ_CHECK(vv_is(st, VV_END), "%s %s", vv_code_name(st.code), vv_sub_name(st.sub));
    FUZZ_CHECK(read.count == replayed->count && read.digest == replayed->digest);
    vv_wal_cursor_close(c);
}

static void append(vv_wal *w, seen *s) {
    static const uint8_t op[VV_OP_HEAD_BYTES + 1] = {VV_KIND_DELETE, 0, 0, 1, [VV_OP_HEAD_BYTES] = 'k'};
    vv_slice ops = vv_slice_make(op, sizeof op);
    vv_record rec = {.first_lsn = vv_wal_last_lsn(w) + 1, .op_count = 1, .epoch = 1, .ops = ops};
    vv_status st = vv_wal_append(w, &rec, &ops, 1);
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
    vv_wal_commit(w, true);
    st = vv_wal_sync(w);
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
    /* What was replayed may end behind a hole that SSTables fill. */
    if (s->count > 0 && s->last_lsn + 1 == rec.first_lsn)
        see(s, &rec);
    else
        *s = (seen){.replay_after_lsn = s->replay_after_lsn};
    if (s->count == 0)
        see(s, &rec);
}

static void go_on(vv_wal_options *o) {
    seen first = {.replay_after_lsn = o->replay_after_lsn}, second = first;
    vv_wal *w;
    vv_error err;
    vv_status st = vv_wal_open(o, replay, &first, &w, &err);
    if (!vv_ok(st))
        return;
    read_back(w, &first);
    append(w, &first);
    st = vv_wal_close(w);
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
    st = vv_wal_open(o, replay, &second, &w, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
    FUZZ_CHECK(second.count == first.count && second.digest == first.digest);
    st = vv_wal_close(w);
    FUZZ_CHECK(vv_ok(st), "%s", vv_code_name(st.code));
}

static void replay_twice(const vv_wal_options *o) {
    seen first = {.replay_after_lsn = o->replay_after_lsn}, second = first;
    uint64_t last_lsn, again;
    vv_error err;
    vv_status st = vv_wal_replay(o, replay, &first, &last_lsn, &err);
    if (!vv_ok(st))
        return;
    st = vv_wal_replay(o, replay, &second, &again, &err);
    FUZZ_CHECK(vv_ok(st), "%s", err.text);
    FUZZ_CHECK(first.count == second.count && first.digest == second.digest && last_lsn == again);
}

static void put_file(vv_io_backend *disk, vv_reader *r, uint8_t flags) {
    char path[64];
    uint8_t number = vv_read_u8(r);
    vv_slice bytes = fuzz_take(r, vv_read_be16(r));
    uint8_t *file = fuzz_copy(bytes);
    if (flags & FIX_CHECKSUMS)
        fuzz_fix_segment(file, bytes.bytes, flags & FIX_SIZES);
    snprintf(path, sizeof path, "/d/wal-%016" PRIx64 ".%s", (uint64_t)(number & 0x7f),
             number & 0x80 ? "tmp" : "log");
    fuzz_disk_put(disk, path, vv_slice_make(file, bytes.bytes));
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    vv_io_backend *disk = fuzz_disk_create();
    uint8_t flags = vv_read_u8(&r);
    vv_wal_options o = {.backend = disk,
                        .dir = "/d",
                        .segment_bytes = SEGMENT_BYTES,
                        .slot_count = 2,
                        .replay_after_lsn = vv_read_u8(&r),
                        .first_segment = vv_read_u8(&r)};
    for (int i = 0; i < FILES_MAX && r.left_bytes > 0; i++)
        put_file(disk, &r, flags);
    fuzz_allocation_max(ALLOCATION_MAX);
    if (flags & OPEN)
        go_on(&o);
    else
        replay_twice(&o);
    fuzz_allocation_max(0);
    vv_io_backend_destroy(disk);
    return 0;
}
