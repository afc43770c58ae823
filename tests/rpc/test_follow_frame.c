#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "rpc/follow_frame.h"
#include "varve/v1/replication.pb-c.h"

static uint8_t packed[4096];
static vv_follow_frame frame;
static vv_error err;

static vv_slice pack(const Varve__V1__WalFrame *message) {
    cr_assert_leq(varve__v1__wal_frame__get_packed_size(message), sizeof packed);
    return vv_slice_make(packed, varve__v1__wal_frame__pack(message, packed));
}

static Varve__V1__WalFrame whole(void) {
    static Varve__V1__Epoch epochs[2];
    static Varve__V1__Epoch *history[] = {&epochs[0], &epochs[1]};
    static char records[] = "some records";
    Varve__V1__WalFrame message = VARVE__V1__WAL_FRAME__INIT;
    message.epoch = 7;
    message.first_lsn = 100;
    message.last_lsn = UINT64_C(1) << 40;
    message.records = (ProtobufCBinaryData){.data = (uint8_t *)records, .len = sizeof records};
    message.checksum = vv_checksum(records, sizeof records, 0);
    message.committed_lsn = UINT64_MAX;
    message.durable_lsn = UINT64_C(1) << 41;
    message.behind_bytes = 12345;
    message.unix_us = 99;
    message.session = 77;
    for (size_t i = 0; i < 2; i++) {
        varve__v1__epoch__init(&epochs[i]);
        epochs[i].epoch = i + 6;
        epochs[i].first_lsn = 1 + i * 50;
        epochs[i].id = UINT64_C(0xfedcba9876543210) + i;
    }
    message.n_history = 2;
    message.history = history;
    return message;
}

Test(follow_frame, is_what_protobuf_says) {
    Varve__V1__WalFrame message = whole();
    vv_slice bytes = pack(&message);
    cr_assert(vv_ok(vv_follow_frame_read(bytes, &frame, &err)), "%s", err.text);
    cr_expect_eq(frame.epoch, 7);
    cr_expect_eq(frame.first_lsn, 100);
    cr_expect_eq(frame.last_lsn, UINT64_C(1) << 40);
    cr_expect_eq(frame.records.bytes, message.records.len);
    cr_expect_eq(memcmp(frame.records.data, message.records.data, message.records.len), 0);
    cr_expect_eq(frame.committed_lsn, VV_COMMITS_UNLIMITED);
    cr_expect_eq(frame.durable_lsn, UINT64_C(1) << 41);
    cr_expect_eq(frame.behind_bytes, 12345);
    cr_expect_eq(frame.session, 77);
    cr_assert_eq(frame.history_count, 2);
    cr_expect_eq(frame.history[1].epoch, 7);
    cr_expect_eq(frame.history[1].first_lsn, 51);
    cr_expect_eq(frame.history[1].id, UINT64_C(0xfedcba9876543211));
    /* And nothing stays of it in the next. */
    cr_assert(vv_ok(vv_follow_frame_read((vv_slice){0}, &frame, &err)), "%s", err.text);
    cr_expect_eq(frame.epoch + frame.first_lsn + frame.last_lsn + frame.records.bytes + frame.committed_lsn +
                     frame.durable_lsn + frame.behind_bytes + frame.session + frame.history_count,
                 0);
}

Test(follow_frame, cut_or_changed_it_is_refused_or_says_the_same_of_its_records) {
    Varve__V1__WalFrame message = whole();
    vv_slice bytes = pack(&message);
    for (size_t cut = 0; cut < bytes.bytes; cut++) {
        uint8_t *copy = malloc(cut ? cut : 1); /* so that ASan sees who reads behind it */
        memcpy(copy, packed, cut);
        vv_status st = vv_follow_frame_read(vv_slice_make(copy, cut), &frame, &err);
        cr_expect(!vv_ok(st) || frame.records.bytes == 0 || frame.records.bytes == message.records.len);
        free(copy);
    }
    for (size_t i = 0; i < bytes.bytes; i++)
        for (int bit = 0; bit < 8; bit++) {
            packed[i] ^= (uint8_t)(1 << bit);
            vv_status st = vv_follow_frame_read(bytes, &frame, &err);
            if (vv_ok(st) && frame.records.bytes > 0)
                cr_expect(frame.records.bytes == message.records.len &&
                              memcmp(frame.records.data, message.records.data, message.records.len) == 0,
                          "byte %zu", i);
            packed[i] ^= (uint8_t)(1 << bit);
        }
}

Test(follow_frame, lsns_and_records_go_together) {
    Varve__V1__WalFrame message = whole();
    message.first_lsn = 0;
    cr_expect(vv_is(vv_follow_frame_read(pack(&message), &frame, &err), VV_CORRUPTION));
    message = whole();
    message.last_lsn = 99;
    cr_expect(vv_is(vv_follow_frame_read(pack(&message), &frame, &err), VV_CORRUPTION));
    message = whole();
    message.records.len = 0;
    cr_expect(vv_is(vv_follow_frame_read(pack(&message), &frame, &err), VV_CORRUPTION));
    message = whole();
    message.checksum++;
    vv_status st = vv_follow_frame_read(pack(&message), &frame, &err);
    cr_expect(vv_is(st, VV_CORRUPTION) && st.sub == VV_SUB_CHECKSUM);
}
