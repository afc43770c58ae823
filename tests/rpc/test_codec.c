#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "rpc/codec.h"
#include "tests/support/tempdir.h"
#include "varve/v1/kv.pb-c.h"

static vv_status decode(vv_slice bytes) {
    vv_codec_arena arena;
    ProtobufCMessage *message;
    vv_codec_arena_init(&arena);
    vv_status st = vv_codec_decode(&arena, &varve__v1__write_request__descriptor, bytes, &message);
    vv_codec_arena_deinit(&arena);
    return st;
}

static vv_status decode_literal(const char *bytes, size_t count) {
    return decode(vv_slice_make(bytes, count));
}

#define DECODE(literal) decode_literal(literal, sizeof(literal) - 1)

Test(codec, a_message_survives_the_way_out_and_back) {
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    enum { COUNT = 5000 };
    static Varve__V1__Op ops[COUNT], *list[COUNT];
    static Varve__V1__PutOp puts[COUNT];
    uint8_t value[200];
    memset(value, 0xa5, sizeof value);
    for (size_t i = 0; i < COUNT; i++) {
        varve__v1__op__init(&ops[i]);
        varve__v1__put_op__init(&puts[i]);
        puts[i].key.data = value;
        puts[i].key.len = 1 + i % 100;
        puts[i].value.data = value;
        puts[i].value.len = i % sizeof value;
        ops[i].op_case = VARVE__V1__OP__OP_PUT;
        ops[i].put = &puts[i];
        list[i] = &ops[i];
    }
    write.ops = list;
    write.n_ops = COUNT;
    size_t bytes = varve__v1__write_request__get_packed_size(&write);
    uint8_t *packed = malloc(bytes);
    varve__v1__write_request__pack(&write, packed);

    vv_codec_arena arena;
    ProtobufCMessage *message;
    vv_codec_arena_init(&arena);
    cr_assert(vv_ok(vv_codec_decode(&arena, &varve__v1__write_request__descriptor,
                                    vv_slice_make(packed, bytes), &message)));
    memset(packed, 0, bytes);
    free(packed); /* the message points into the arena alone */
    Varve__V1__WriteRequest *back = (void *)message;
    cr_assert_eq(back->n_ops, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert_eq(back->ops[i]->put->value.len, puts[i].value.len);
        if (puts[i].value.len > 0)
            cr_assert_eq(memcmp(back->ops[i]->put->value.data, value, puts[i].value.len), 0);
    }
    vv_codec_arena_deinit(&arena);
}

Test(codec, malformed_bytes_are_refused) {
    cr_expect_eq(DECODE("\xff").sub, VV_SUB_MALFORMED);
    cr_expect_eq(DECODE("\x0a").sub, VV_SUB_MALFORMED, "a length is missing");
    cr_expect_eq(DECODE("\x0a\x05\x0a\x03").sub, VV_SUB_MALFORMED, "cut in the middle");
    cr_expect_eq(DECODE("\x0a\xff\xff\xff\xff\x07").sub, VV_SUB_MALFORMED, "a length of 2^31 - 1");
    cr_expect_eq(DECODE("\x0a\x80\x80\x80\x80\x08").sub, VV_SUB_MALFORMED, "a length of 2^31");
    cr_expect_eq(DECODE("\x0a\xff\xff\xff\xff\x0f").sub, VV_SUB_MALFORMED, "a length of 2^32 - 1");
    cr_expect_eq(DECODE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").sub, VV_SUB_MALFORMED, "of 2^64 - 1");
    cr_expect_eq(DECODE("\x00\x00").sub, VV_SUB_MALFORMED, "field 0");
    cr_expect_eq(DECODE("\x0b\x0c").sub, VV_SUB_MALFORMED, "a group");
    cr_expect_eq(DECODE("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").sub, VV_SUB_MALFORMED, "varint");
    cr_expect(vv_ok(DECODE("")), "an empty message is one");
    cr_expect(vv_ok(DECODE("\x98\x06\x01")), "unknown fields are skipped");
}

/* Two bytes on the wire, a hundred in memory. */
Test(codec, amplification_ends_at_the_cap) {
    size_t bytes = (size_t)4 << 20;
    uint8_t *attack = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 2) {
        attack[i] = 0x0a; /* ops: an empty one */
        attack[i + 1] = 0;
    }
    vv_codec_arena arena;
    ProtobufCMessage *message;
    vv_codec_arena_init(&arena);
    vv_status st = vv_codec_decode(&arena, &varve__v1__write_request__descriptor,
                                   vv_slice_make(attack, bytes), &message);
    cr_assert_eq(st.code, VV_NO_MEMORY);
    cr_assert_null(message);
    cr_assert(arena.exhausted);
    cr_assert_leq(arena.used_bytes, bytes + VV_CODEC_EXTRA_BYTES_MAX);
    vv_codec_arena_deinit(&arena);
    free(attack);
}

Test(codec, a_value_of_the_largest_size_is_not_amplification) {
    size_t value_bytes = (size_t)32 << 20;
    Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
    static uint8_t key[] = "k";
    put.key.data = key;
    put.key.len = 1;
    put.value.data = calloc(1, value_bytes);
    put.value.len = value_bytes;
    size_t bytes = varve__v1__put_request__get_packed_size(&put);
    uint8_t *packed = malloc(bytes);
    varve__v1__put_request__pack(&put, packed);
    vv_codec_arena arena;
    ProtobufCMessage *message;
    vv_codec_arena_init(&arena);
    cr_assert(vv_ok(vv_codec_decode(&arena, &varve__v1__put_request__descriptor, vv_slice_make(packed, bytes),
                                    &message)));
    cr_assert_eq(((Varve__V1__PutRequest *)(void *)message)->value.len, value_bytes);
    vv_codec_arena_deinit(&arena);
    free(packed);
    free(put.value.data);
}

Test(codec, random_bytes_never_do_harm) {
    uint64_t seed = vv_test_seed();
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[64];
        size_t count = vv_test_random(&seed) % sizeof bytes;
        for (size_t i = 0; i < count; i++) /* mostly small numbers: tags and lengths that mean something */
            bytes[i] = (uint8_t)(vv_test_random(&seed) % (round % 2 ? 256 : 32));
        vv_status_ignore(decode(vv_slice_make(bytes, count)), "any answer will do");
    }
}

Test(codec, each_allocation_may_fail) {
    /* Ten operations of 10 KB each: several chunks. */
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    Varve__V1__Op op = VARVE__V1__OP__INIT, *list[10];
    Varve__V1__PutOp put = VARVE__V1__PUT_OP__INIT;
    put.value.data = calloc(1, 10000);
    put.value.len = 10000;
    op.op_case = VARVE__V1__OP__OP_PUT;
    op.put = &put;
    for (size_t i = 0; i < VV_ARRAY_COUNT(list); i++)
        list[i] = &op;
    write.ops = list;
    write.n_ops = VV_ARRAY_COUNT(list);
    size_t bytes = varve__v1__write_request__get_packed_size(&write);
    uint8_t *packed = malloc(bytes);
    varve__v1__write_request__pack(&write, packed);
    bool succeeded = false;
    uint64_t n;
    for (n = 1; !succeeded; n++) {
        vv_alloc_fail_at(n);
        vv_status st = decode(vv_slice_make(packed, bytes));
        succeeded = vv_ok(st);
        cr_assert(succeeded || st.code == VV_NO_MEMORY);
    }
    vv_alloc_fail_at(0);
    cr_assert_geq(n, 3);
    free(packed);
    free(put.value.data);
}

Test(codec, pieces_written_by_hand_are_what_the_generated_code_reads) {
    static const uint64_t values[] = {0, 1, 127, 128, 300, 1u << 31, UINT64_MAX};
    for (size_t i = 0; i < VV_ARRAY_COUNT(values); i++) {
        uint8_t bytes[64], *at = bytes;
        at = vv_codec_put_uint(at, 1, true);
        at = vv_codec_put_uint(at, 3, values[i]);
        at = vv_codec_put_uint(at, 4, values[i]);
        at = vv_codec_put_bytes_header(at, 2, 3);
        memcpy(at, "abc", 3);
        at += 3;
        Varve__V1__GetResponse *got = varve__v1__get_response__unpack(NULL, (size_t)(at - bytes), bytes);
        cr_assert_not_null(got);
        cr_assert(got->found);
        cr_assert_eq(got->lsn, values[i]);
        cr_assert_eq(got->expires_unix_ms, values[i]);
        cr_assert_eq(got->value.len, 3);
        varve__v1__get_response__free_unpacked(got, NULL);
    }
}
