#include <criterion/criterion.h>
#include <stdlib.h>

#include "engine/kv/record.h"
#include "tests/support/tempdir.h"

/* Ops: put "a" = "xyz" that expires, delete "bb". */
static size_t sample_ops(uint8_t *at) {
    uint8_t *start = at;
    vv_entry put = {.key = vv_slice_str("a"),
                    .value = vv_slice_str("xyz"),
                    .kind = VV_KIND_PUT,
                    .expires_unix_ms = UINT64_C(0x1122334455667788)};
    vv_op_head_encode(at, &put);
    memcpy(at + VV_OP_HEAD_BYTES, "axyz", 4);
    at += VV_OP_HEAD_BYTES + 4;
    vv_entry del = {.key = vv_slice_str("bb"), .kind = VV_KIND_DELETE};
    vv_op_head_encode(at, &del);
    memcpy(at + VV_OP_HEAD_BYTES, "bb", 2);
    at += VV_OP_HEAD_BYTES + 2;
    return (size_t)(at - start);
}

static size_t sample_record(uint8_t *at, vv_record *rec) {
    size_t ops_bytes = sample_ops(at + VV_RECORD_HEAD_BYTES);
    *rec = (vv_record){.first_lsn = UINT64_C(0x0102030405060708),
                       .op_count = 2,
                       .epoch = 3,
                       .client_id = UINT64_C(0xfffefdfcfbfaf9f8),
                       .sequence = 77,
                       .ops = vv_slice_make(at + VV_RECORD_HEAD_BYTES, ops_bytes)};
    vv_record_head_encode(at, rec);
    return VV_RECORD_HEAD_BYTES + ops_bytes;
}

static vv_status decode(const uint8_t *bytes, size_t count, vv_record *out) {
    vv_reader r = vv_reader_make(vv_slice_make(bytes, count));
    return vv_record_decode(&r, out);
}

Test(record, round_trip_keeps_every_field) {
    uint8_t bytes[256];
    vv_record in, out;
    size_t count = sample_record(bytes, &in);
    vv_reader r = vv_reader_make(vv_slice_make(bytes, count));
    cr_assert(vv_ok(vv_record_decode(&r, &out)));
    cr_assert_eq(r.left_bytes, 0);
    cr_assert_eq(out.first_lsn, in.first_lsn);
    cr_assert_eq(out.op_count, 2);
    cr_assert_eq(out.epoch, 3);
    cr_assert_eq(out.client_id, in.client_id);
    cr_assert_eq(out.sequence, 77);
    cr_assert(vv_ok(vv_record_ops_check(&out)));

    vv_reader ops = vv_reader_make(out.ops);
    vv_entry e = {.lsn = 9};
    cr_assert(vv_ok(vv_op_decode(&ops, &e)));
    cr_assert_eq(e.kind, VV_KIND_PUT);
    cr_assert(vv_slice_equal(e.key, vv_slice_str("a")));
    cr_assert(vv_slice_equal(e.value, vv_slice_str("xyz")));
    cr_assert_eq(e.expires_unix_ms, UINT64_C(0x1122334455667788));
    cr_assert_eq(e.lsn, 9, "the LSN is the caller's");
    cr_assert(vv_ok(vv_op_decode(&ops, &e)));
    cr_assert_eq(e.kind, VV_KIND_DELETE);
    cr_assert(vv_slice_equal(e.key, vv_slice_str("bb")));
    cr_assert_eq(e.value.bytes, 0);
    cr_assert_eq(ops.left_bytes, 0);
}

Test(record, layout_is_big_endian_and_does_not_change) {
    uint8_t bytes[256];
    vv_record rec;
    sample_record(bytes, &rec);
    static const uint8_t head[VV_RECORD_HEAD_BYTES] = {
        1, 2, 3, 4, 5,    6,    7,    8,    0,    0,    0,    2,    0, 0, 0, 38, 0, 0, 0, 0,
        0, 0, 0, 3, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8, 0, 0, 0, 0,  0, 0, 0, 77};
    cr_assert_eq(memcmp(bytes, head, sizeof head), 0);
    static const uint8_t op[VV_OP_HEAD_BYTES] = {1,    0,    0,    1,    0,    0,    0,    3,
                                                 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88};
    cr_assert_eq(memcmp(bytes + VV_RECORD_HEAD_BYTES, op, sizeof op), 0);
}

Test(record, every_shorter_prefix_is_refused) {
    uint8_t bytes[256];
    vv_record rec;
    size_t count = sample_record(bytes, &rec);
    for (size_t cut = 0; cut < count; cut++) {
        /* In an allocation of its own, so that a read past the end is seen. */
        uint8_t *copy = malloc(cut ? cut : 1);
        memcpy(copy, bytes, cut);
        vv_record out;
        cr_assert(vv_is(decode(copy, cut, &out), VV_CORRUPTION), "cut at %zu", cut);
        free(copy);
    }
}

Test(record, two_records_are_taken_one_after_the_other) {
    uint8_t bytes[512];
    vv_record rec, out;
    size_t count = sample_record(bytes, &rec);
    count += sample_record(bytes + count, &rec);
    vv_reader r = vv_reader_make(vv_slice_make(bytes, count));
    cr_assert(vv_ok(vv_record_decode(&r, &out)));
    cr_assert(vv_ok(vv_record_decode(&r, &out)));
    cr_assert(vv_ok(vv_record_ops_check(&out)));
    cr_assert_eq(r.left_bytes, 0);
    cr_assert(vv_is(vv_record_decode(&r, &out), VV_CORRUPTION));
}

Test(record, impossible_heads_are_refused) {
    uint8_t bytes[256];
    vv_record rec, out;
    size_t count = sample_record(bytes, &rec);
    uint8_t bad[256];

    memcpy(bad, bytes, count);
    vv_put_be64(bad, 0); /* LSNs begin at 1 */
    cr_assert(vv_is(decode(bad, count, &out), VV_CORRUPTION));
    vv_put_be64(bad, UINT64_MAX - 1); /* its LSNs would wrap */
    cr_assert(vv_is(decode(bad, count, &out), VV_CORRUPTION));

    memcpy(bad, bytes, count);
    vv_put_be32(bad + 8, 0);
    cr_assert(vv_is(decode(bad, count, &out), VV_CORRUPTION), "no ops");
    vv_put_be32(bad + 8, UINT32_MAX);
    cr_assert(vv_is(decode(bad, count, &out), VV_CORRUPTION), "more ops than bytes");

    memcpy(bad, bytes, count);
    vv_put_be32(bad + 12, UINT32_MAX);
    cr_assert(vv_is(decode(bad, count, &out), VV_CORRUPTION), "longer than what is there");
    vv_put_be32(bad + 12, 0);
    cr_assert(vv_is(decode(bad, count, &out), VV_CORRUPTION), "too short for its ops");
}

Test(record, ops_that_make_no_sense_are_refused) {
    uint8_t good[256], bad[256];
    size_t count = sample_ops(good);
    size_t second = VV_OP_HEAD_BYTES + 4;
    struct {
        size_t at;
        uint8_t value;
        const char *why;
    } cases[] = {
        {0, 0, "kind 0"},
        {0, 3, "a kind of the future"},
        {0, VV_KIND_DELETE, "a tombstone with a value"},
        {1, 1, "an unknown flag"},
        {3, 0, "an empty key"},
        {3, 200, "a key past the end"},
        {4, 0xff, "a value past the end"},
        {7, 2, "a value that is too short: what follows is no op"},
        {second, 9, "a bad second op"},
        {second + 3, 3, "a second key past the end"},
        {second + 3, 1, "a byte behind the last op"},
    };
    for (size_t i = 0; i < VV_ARRAY_COUNT(cases); i++) {
        memcpy(bad, good, count);
        bad[cases[i].at] = cases[i].value;
        vv_record rec = {.first_lsn = 1, .op_count = 2, .ops = vv_slice_make(bad, count)};
        vv_status st = vv_record_ops_check(&rec);
        cr_assert(vv_is(st, VV_CORRUPTION) && st.sub == VV_SUB_BAD_LAYOUT, "%s", cases[i].why);
    }
    for (uint32_t ops = 0; ops < 5; ops++) {
        vv_record rec = {.first_lsn = 1, .op_count = ops, .ops = vv_slice_make(good, count)};
        cr_assert_eq(vv_ok(vv_record_ops_check(&rec)), ops == 2, "%u ops", ops);
    }
}

Test(record, hostile_bytes_never_reach_outside) {
    uint64_t seed = vv_test_seed();
    uint8_t sample[256];
    vv_record rec;
    size_t sample_bytes = sample_record(sample, &rec);
    for (int round = 0; round < 200000; round++) {
        size_t count = (size_t)(vv_test_random(&seed) % (sample_bytes + 8));
        uint8_t *bytes = malloc(count ? count : 1);
        for (size_t i = 0; i < count; i++) /* a sample with some bytes spoilt, or noise altogether */
            bytes[i] = i < sample_bytes && (round & 3) ? sample[i] : (uint8_t)vv_test_random(&seed);
        for (uint64_t spoil = vv_test_random(&seed) % 4; spoil > 0 && count > 0; spoil--)
            bytes[vv_test_random(&seed) % count] = (uint8_t)vv_test_random(&seed);
        vv_record out;
        if (vv_ok(decode(bytes, count, &out))) {
            cr_assert_leq((const uint8_t *)out.ops.data + out.ops.bytes, bytes + count);
            if (vv_ok(vv_record_ops_check(&out))) {
                vv_reader r = vv_reader_make(out.ops);
                for (uint32_t i = 0; i < out.op_count; i++) {
                    vv_entry e;
                    cr_assert(vv_ok(vv_op_decode(&r, &e)));
                    cr_assert(e.key.bytes > 0);
                    cr_assert_leq((const uint8_t *)e.key.data + e.key.bytes + e.value.bytes, bytes + count);
                }
            }
        }
        free(bytes);
    }
}

Test(record, longest_key_and_empty_value_fit) {
    uint8_t *op = malloc(VV_OP_HEAD_BYTES + VV_KEY_BYTES_MAX);
    memset(op, 'k', VV_OP_HEAD_BYTES + VV_KEY_BYTES_MAX);
    vv_entry e = {.key = vv_slice_make(op + VV_OP_HEAD_BYTES, VV_KEY_BYTES_MAX), .kind = VV_KIND_PUT};
    vv_op_head_encode(op, &e);
    vv_reader r = vv_reader_make(vv_slice_make(op, VV_OP_HEAD_BYTES + VV_KEY_BYTES_MAX));
    vv_entry out;
    cr_assert(vv_ok(vv_op_decode(&r, &out)));
    cr_assert_eq(out.key.bytes, VV_KEY_BYTES_MAX);
    cr_assert_eq(out.value.bytes, 0);
    free(op);
}
