/*
 * fuzz_follow_frame.c - frames of the replication stream, as a follower gets them: read, then applied to
 * its database.
 *
 *   input   [flags:1][message]       flags   bit 0: the checksum of the records is made right
 *           [flags:1][records]               bit 1: these are the records alone, and the message is
 *                                            written around them as a primary does
 *                                            bit 2: they are applied, with LSNs that follow each other
 *                                            bit 3: and the database is opened again
 *
 * What holds for any bytes: a frame that is read means what protobuf-c says that it means, where that
 * takes it, too; its records lie within the message. What a primary writes is read as it was written.
 * Records that are applied have all been applied, those of a call that fails are a prefix; and a database
 * that is opened again ends where it ended.
 *
 * Bound: no allocation is larger than the 12.25 MiB of a recovery's window.
 */
#include "engine/db/db_impl.h"
#include "rpc/follow_frame.h"
#include "rpc/wal_frame.h"
#include "rpc/wal_frame_fields.h"
#include "rpc/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/small_db.h"
#include "varve/v1/replication.pb-c.h"

enum { FIX = 1, RECORDS = 2, APPLY = 4, AGAIN = 8 };

#define ALLOCATION_MAX ((size_t)13 << 20)

/* ---- reading ---- */

static void fix_checksum(uint8_t *message, size_t bytes) {
    vv_wire w = vv_wire_make(vv_slice_make(message, bytes));
    vv_wire_field f;
    vv_slice records = {0};
    uint8_t *checksum = NULL;
    while (w.at < w.end && vv_wire_next(&w, &f)) {
        if (f.type == VV_WIRE_BYTES && f.number == FRAME_RECORDS)
            records = f.bytes;
        if (f.type == VV_WIRE_FIXED64 && f.number == FRAME_CHECKSUM)
            checksum = message + (w.at - message) - 8;
    }
    uint64_t sum = records.bytes ? vv_checksum(records.data, records.bytes, 0) : 0;
    for (int i = 0; checksum && i < 8; i++)
        checksum[i] = (uint8_t)(sum >> 8 * i);
}

static void compare(const vv_follow_frame *f, const Varve__V1__WalFrame *o) {
    FUZZ_CHECK(f->epoch == o->epoch && f->first_lsn == o->first_lsn && f->last_lsn == o->last_lsn);
    FUZZ_CHECK(f->committed_lsn == o->committed_lsn && f->durable_lsn == o->durable_lsn);
    FUZZ_CHECK(f->behind_bytes == o->behind_bytes && f->session == o->session);
    FUZZ_CHECK(vv_slice_equal(f->records, vv_slice_make(o->records.data, o->records.len)));
    FUZZ_CHECK(f->history_count == o->n_history);
    for (size_t i = 0; i < o->n_history; i++)
        FUZZ_CHECK(f->history[i].epoch == o->history[i]->epoch && f->history[i].id == o->history[i]->id &&
                   f->history[i].first_lsn == o->history[i]->first_lsn);
}

/* As protobuf-c has it. */
static void ask_oracle(vv_slice message, const vv_follow_frame *f) {
    Varve__V1__WalFrame *oracle = varve__v1__wal_frame__unpack(NULL, message.bytes, message.data);
    if (!oracle)
        return;
    compare(f, oracle);
    varve__v1__wal_frame__free_unpacked(oracle, NULL);
}

/* ---- applying ---- */

static void apply(uint8_t *records, size_t bytes, bool again) {
    vv_io_backend *disk = fuzz_disk_create();
    varve_db *db = fuzz_db_open(disk);
    uint64_t applied = 0, next = 1;
    varve_error err;
    /* So that more than the first is looked at. */
    vv_reader r = vv_reader_make(vv_slice_make(records, bytes));
    while (r.left_bytes >= VV_RECORD_HEAD_BYTES) {
        vv_record rec;
        vv_put_be64(records + (bytes - r.left_bytes), next);
        if (!vv_ok(vv_record_decode(&r, &rec)))
            break;
        next += rec.op_count;
    }
    varve_status st = varve_apply(db, records, bytes, &applied, &err);
    FUZZ_CHECK(varve_ok(st) ? applied == next - 1 : applied < next, "%s", err.text);
    if (again) {
        st = varve_close(db);
        FUZZ_CHECK(varve_ok(st));
        db = fuzz_db_open(disk);
        FUZZ_CHECK(varve_durable_lsn(db) == applied);
    }
    st = varve_close(db);
    FUZZ_CHECK(varve_ok(st));
    vv_io_backend_destroy(disk);
}

/* ---- both ---- */

static void read_message(vv_slice message, uint8_t flags) {
    vv_follow_frame *f = calloc(1, sizeof *f);
    vv_error err;
    vv_status st = vv_follow_frame_read(message, f, &err);
    if (vv_ok(st)) {
        ask_oracle(message, f);
        uint8_t *records = fuzz_copy(f->records);
        if (flags & APPLY && f->records.bytes > 0)
            apply(records, f->records.bytes, flags & AGAIN);
        free(records);
    }
    free(f);
}

/* A message around records, as a primary writes it, is read as it was written. */
static void write_and_read(vv_slice records, uint8_t flags) {
    varve_epoch history[2] = {{.epoch = 1, .first_lsn = 1, .id = 9}, {.epoch = flags, .first_lsn = 3}};
    vv_wal_frame_info info = {.epoch = flags,
                              .committed_lsn = UINT64_MAX,
                              .durable_lsn = 7,
                              .unix_us = 1,
                              .session = 3,
                              .history = history,
                              .history_count = 2};
    vv_wal_frame w = {.records = fuzz_copy(records),
                      .bytes = records.bytes,
                      .capacity = records.bytes,
                      .first_lsn = records.bytes ? 1 : 0,
                      .last_lsn = records.bytes};
    uint8_t head[VV_WAL_FRAME_HEAD_BYTES_MAX];
    size_t head_bytes = vv_wal_frame_head(&w, &info, head);
    uint8_t *message = malloc(head_bytes + records.bytes);
    FUZZ_CHECK(message);
    memcpy(message, head, head_bytes);
    memcpy(message + head_bytes, w.records, records.bytes);
    vv_slice whole = vv_slice_make(message, head_bytes + records.bytes);
    vv_follow_frame *f = calloc(1, sizeof *f);
    vv_status st = vv_follow_frame_read(whole, f, NULL);
    FUZZ_CHECK(vv_ok(st) && vv_slice_equal(f->records, records) && f->history_count == 2);
    FUZZ_CHECK(f->epoch == info.epoch && f->committed_lsn == UINT64_MAX && f->durable_lsn == 7);
    free(f);
    free(w.records);
    read_message(whole, flags);
    free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    uint8_t flags = vv_read_u8(&r);
    vv_slice rest = fuzz_rest(&r);
    uint8_t *message = fuzz_copy(rest);
    fuzz_allocation_max(ALLOCATION_MAX);
    if (flags & RECORDS) {
        write_and_read(vv_slice_make(message, rest.bytes), flags);
    } else {
        if (flags & FIX)
            fix_checksum(message, rest.bytes);
        read_message(vv_slice_make(message, rest.bytes), flags);
    }
    fuzz_allocation_max(0);
    free(message);
    return 0;
}
