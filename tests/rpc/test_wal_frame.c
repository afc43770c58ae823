/* WalFrame by hand says what protobuf-c reads. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "rpc/wal_frame.h"
#include "tests/support/tempdir.h"
#include "varve/v1/replication.pb-c.h"

static uint8_t head[VV_WAL_FRAME_HEAD_BYTES_MAX];

static Varve__V1__WalFrame *parse(const vv_wal_frame *f, size_t head_bytes) {
    cr_assert_leq(head_bytes, sizeof head);
    uint8_t *message = malloc(head_bytes + f->bytes);
    memcpy(message, head, head_bytes);
    if (f->bytes > 0)
        memcpy(message + head_bytes, f->records, f->bytes);
    Varve__V1__WalFrame *m = varve__v1__wal_frame__unpack(NULL, head_bytes + f->bytes, message);
    free(message);
    cr_assert_not_null(m);
    return m;
}

Test(wal_frame, a_heartbeat_has_no_records) {
    vv_wal_frame f = {.bytes = 0};
    vv_wal_frame_info info = {.epoch = 3, .committed_lsn = 4, .durable_lsn = 5, .unix_us = 6};
    Varve__V1__WalFrame *m = parse(&f, vv_wal_frame_head(&f, &info, head));
    cr_assert_eq(m->epoch, 3);
    cr_assert_eq(m->committed_lsn, 4);
    cr_assert_eq(m->durable_lsn, 5);
    cr_assert_eq(m->unix_us, 6);
    cr_assert_eq(m->first_lsn, 0);
    cr_assert_eq(m->checksum, 0);
    cr_assert_eq(m->records.len, 0);
    cr_assert_eq(m->n_history, 0);
    varve__v1__wal_frame__free_unpacked(m, NULL);
}

Test(wal_frame, the_longest_head_has_room) {
    static varve_epoch history[VARVE_EPOCHS_MAX];
    for (size_t i = 0; i < VARVE_EPOCHS_MAX; i++)
        history[i] = (varve_epoch){UINT64_MAX - i, UINT64_MAX - 2 * i, UINT64_MAX - 3 * i};
    uint8_t byte = 0;
    vv_wal_frame f = {
        .records = &byte, .bytes = 1, .capacity = 1, .first_lsn = UINT64_MAX, .last_lsn = UINT64_MAX};
    vv_wal_frame_info info = {.epoch = UINT64_MAX,
                              .committed_lsn = UINT64_MAX,
                              .durable_lsn = UINT64_MAX,
                              .behind_bytes = UINT64_MAX,
                              .unix_us = UINT64_MAX,
                              .session = UINT64_MAX,
                              .history = history,
                              .history_count = VARVE_EPOCHS_MAX};
    Varve__V1__WalFrame *m = parse(&f, vv_wal_frame_head(&f, &info, head));
    cr_assert_eq(m->session, UINT64_MAX);
    cr_assert_eq(m->behind_bytes, UINT64_MAX);
    cr_assert_eq(m->first_lsn, UINT64_MAX);
    cr_assert_eq(m->n_history, VARVE_EPOCHS_MAX);
    for (size_t i = 0; i < VARVE_EPOCHS_MAX; i++) {
        cr_assert_eq(m->history[i]->epoch, history[i].epoch);
        cr_assert_eq(m->history[i]->first_lsn, history[i].first_lsn);
        cr_assert_eq(m->history[i]->id, history[i].id);
    }
    varve__v1__wal_frame__free_unpacked(m, NULL);
}

/* Batches of a log, in one frame that grows, are applied by another database as they are. */
Test(wal_frame, records_are_whole_batches, .fini = vv_tempdir_cleanup) {
    varve_db *db, *other;
    varve_error err = {""};
    vv_tempdir();
    cr_assert(varve_ok(varve_open(vv_tempdir_path("a"), NULL, &db, &err)), "%s", err.text);
    cr_assert(varve_ok(varve_open(vv_tempdir_path("b"), NULL, &other, &err)), "%s", err.text);
    enum { PUTS = 300, VALUE_BYTES = 3000 };
    uint8_t value[VALUE_BYTES];
    for (int i = 0; i < PUTS; i++) {
        memset(value, i, sizeof value);
        cr_assert(varve_ok(varve_put(db, &i, sizeof i, value, (size_t)(i * 10), NULL, NULL)));
    }
    varve_wal_cursor *cursor;
    varve_wal_batch batch;
    vv_wal_frame f = {.bytes = 0};
    cr_assert(varve_ok(varve_wal_cursor_open(db, 0, &cursor, NULL)));
    while (varve_ok(varve_wal_cursor_next(cursor, &batch)))
        cr_assert(varve_ok(vv_wal_frame_add(&f, &batch)));
    varve_wal_cursor_close(cursor);
    cr_assert_eq(f.first_lsn, 1);
    cr_assert_eq(f.last_lsn, PUTS);
    vv_wal_frame_info info = {.epoch = 1};
    Varve__V1__WalFrame *m = parse(&f, vv_wal_frame_head(&f, &info, head));
    cr_assert_eq(m->checksum, vv_checksum(m->records.data, m->records.len, 0));
    uint64_t applied;
    cr_assert(varve_ok(varve_apply(other, m->records.data, m->records.len, &applied, &err)), "%s", err.text);
    cr_assert_eq(applied, PUTS);
    varve__v1__wal_frame__free_unpacked(m, NULL);
    vv_wal_frame_clear(&f, SIZE_MAX);
    cr_assert_not_null(f.records, "kept for the next");
    cr_assert_eq(f.first_lsn, 0);
    vv_wal_frame_clear(&f, 0);
    cr_assert_null(f.records);
    cr_assert(varve_ok(varve_close(db)));
    cr_assert(varve_ok(varve_close(other)));
}
