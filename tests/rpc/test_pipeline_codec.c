#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "rpc/pipeline_codec.h"
#include "tests/support/tempdir.h"
#include "varve/v1/kv.pb-c.h"

TestSuite(pipeline_codec, .timeout = 120);

static uint64_t random_state;

static uint64_t chance(uint64_t n) {
    return vv_test_random(&random_state) % n;
}

/* ---- reading, with protobuf-c as the oracle ---- */

static bool same_bytes(vv_slice a, ProtobufCBinaryData b) {
    return vv_slice_equal(a, vv_slice_make(b.data, b.len));
}

static void compare_op(const vv_pipeline_op *got, uint64_t id, uint64_t sequence, const Varve__V1__Op *op) {
    cr_assert_eq(got->id, id);
    cr_assert_eq(got->sequence, sequence);
    if (!op || op->op_case == VARVE__V1__OP__OP__NOT_SET) {
        cr_assert_eq(got->kind, VV_PIPELINE_NONE);
    } else if (op->op_case == VARVE__V1__OP__OP_PUT) {
        cr_assert_eq(got->kind, VV_PIPELINE_PUT);
        cr_assert(same_bytes(got->key, op->put->key));
        cr_assert(same_bytes(got->value, op->put->value));
        cr_assert_eq(got->ttl_ms, op->put->ttl_ms);
    } else if (op->op_case == VARVE__V1__OP__OP_DELETE) {
        cr_assert_eq(got->kind, VV_PIPELINE_DELETE);
        cr_assert(same_bytes(got->key, op->delete_->key));
    } else {
        cr_assert_eq(got->kind, VV_PIPELINE_GET);
        cr_assert(same_bytes(got->key, op->get->key));
    }
}

/* What protobuf-c makes of the bytes, and what we do: the same. True: they were valid. */
static bool compare(const uint8_t *data, size_t bytes, vv_pipeline_message *m) {
    Varve__V1__PipelineRequest *r = varve__v1__pipeline_request__unpack(NULL, bytes, data);
    vv_status st = vv_pipeline_read(vv_slice_make(data, bytes), m);
    if (!r) {
        cr_assert(vv_is(st, VV_INVALID_ARGUMENT));
        return false;
    }
    cr_assert(vv_ok(st));
    bool has_first = r->op || r->n_more == 0;
    cr_assert_eq(m->count, r->n_more + has_first);
    cr_assert_eq(m->client_id, r->client_id);
    cr_assert_eq((Varve__V1__Durability)m->durability, r->durability);
    cr_assert_eq(m->packed, r->n_more > 0);
    if (has_first)
        compare_op(&m->ops[0], r->id, r->sequence, r->op);
    for (size_t i = 0; i < r->n_more; i++)
        compare_op(&m->ops[i + has_first], r->more[i]->id, r->more[i]->sequence, r->more[i]->op);
    varve__v1__pipeline_request__free_unpacked(r, NULL);
    return true;
}

#define OPS 20

static uint8_t some_bytes[300];

static ProtobufCBinaryData random_bytes(size_t max) {
    return (ProtobufCBinaryData){.data = some_bytes, .len = chance(max + 1)};
}

static uint64_t random_number(void) {
    return vv_test_random(&random_state) >> chance(64);
}

/* A random message, packed; returns its bytes. */
static size_t random_message(uint8_t *to) {
    static Varve__V1__PipelineItem items[OPS], *more[OPS];
    static Varve__V1__Op ops[OPS + 1];
    static Varve__V1__PutOp puts[OPS + 1];
    static Varve__V1__DeleteOp deletes[OPS + 1];
    static Varve__V1__GetOp gets[OPS + 1];
    Varve__V1__PipelineRequest r = VARVE__V1__PIPELINE_REQUEST__INIT;
    for (size_t i = 0; i <= OPS; i++) {
        varve__v1__op__init(&ops[i]);
        varve__v1__put_op__init(&puts[i]);
        varve__v1__delete_op__init(&deletes[i]);
        varve__v1__get_op__init(&gets[i]);
        puts[i].key = deletes[i].key = gets[i].key = random_bytes(200);
        puts[i].value = random_bytes(299);
        puts[i].ttl_ms = chance(2) ? random_number() : 0;
        switch (chance(4)) {
        case 0:
            ops[i].op_case = VARVE__V1__OP__OP_PUT;
            ops[i].put = &puts[i];
            break;
        case 1:
            ops[i].op_case = VARVE__V1__OP__OP_DELETE;
            ops[i].delete_ = &deletes[i];
            break;
        case 2:
            ops[i].op_case = VARVE__V1__OP__OP_GET;
            ops[i].get = &gets[i];
            break;
        default: break;
        }
    }
    r.n_more = chance(3) ? chance(OPS + 1) : 0;
    r.more = more;
    for (size_t i = 0; i < r.n_more; i++) {
        varve__v1__pipeline_item__init(&items[i]);
        items[i].id = random_number();
        items[i].sequence = chance(2) ? random_number() : 0;
        items[i].op = chance(10) ? &ops[i] : NULL;
        more[i] = &items[i];
    }
    r.id = random_number();
    r.sequence = chance(2) ? random_number() : 0;
    r.client_id = chance(2) ? random_number() : 0;
    r.durability = (Varve__V1__Durability)chance(3);
    r.op = chance(4) ? &ops[OPS] : NULL;
    return varve__v1__pipeline_request__pack(&r, to);
}

static uint8_t packed[OPS * 700], changed[2 * sizeof packed];

static void setup(void) {
    random_state = vv_test_seed() | 1;
    for (size_t i = 0; i < sizeof some_bytes; i++)
        some_bytes[i] = (uint8_t)chance(256);
}

Test(pipeline_codec, reads_what_protobuf_packs, .init = setup) {
    vv_pipeline_message m = {0};
    for (int i = 0; i < 3000; i++) {
        size_t bytes = random_message(packed);
        cr_assert(compare(packed, bytes, &m));
        cr_assert_null(m.arena, "the ordinary needs no help");
    }
    vv_pipeline_message_deinit(&m);
}

Test(pipeline_codec, agrees_with_protobuf_on_damaged_and_odd_messages, .init = setup) {
    vv_pipeline_message m = {0};
    size_t valid = 0, helped = 0;
    for (int i = 0; i < 20000; i++) {
        size_t bytes = random_message(packed);
        memcpy(changed, packed, bytes);
        switch (chance(4)) {
        case 0: /* a few bytes are others */
            for (uint64_t n = 1 + chance(3); n > 0 && bytes > 0; n--)
                changed[chance(VV_MIN(bytes, 40))] = (uint8_t)chance(256);
            break;
        case 1: /* cut */ bytes = chance(bytes + 1); break;
        case 2: /* one behind the other: fields come twice, and messages are merged */
            memcpy(changed + bytes, packed, bytes);
            bytes *= 2;
            break;
        default: { /* fields that nobody knows, and groups */
            static const uint8_t unknown[][4] = {
                {0xf8, 0x01, 0x05}, {0xfa, 0x01, 0x01, 0x00}, {0xfb, 0x01, 0xfc, 0x01}, {0x0b, 0x0c}};
            static const size_t unknown_bytes[] = {3, 4, 4, 2};
            size_t which = chance(VV_ARRAY_COUNT(unknown_bytes));
            memcpy(changed + bytes, unknown[which], unknown_bytes[which]);
            bytes += unknown_bytes[which];
        }
        }
        valid += compare(changed, bytes, &m);
        helped += m.arena != NULL;
    }
    cr_assert_gt(valid, 2000);
    cr_assert_lt(valid, 19000);
    cr_assert_gt(helped, 1000);
    vv_pipeline_message_deinit(&m);
}

/* ---- writing ---- */

static void check_answer(const uint8_t *from, const uint8_t *to, uint64_t id,
                         Varve__V1__PipelineResult__ResultCase result, const varve_value *value) {
    Varve__V1__PipelineAnswer *a = varve__v1__pipeline_answer__unpack(NULL, (size_t)(to - from), from);
    cr_assert_not_null(a);
    cr_assert_eq(a->id, id);
    cr_assert_eq(a->result->result_case, result);
    if (result == VARVE__V1__PIPELINE_RESULT__RESULT_GET) {
        cr_assert_eq(a->result->get->found, value->data != NULL);
        cr_assert(same_bytes(vv_slice_make(value->data, value->bytes), a->result->get->value));
        cr_assert_eq(a->result->get->lsn, value->lsn);
        cr_assert_eq(a->result->get->expires_unix_ms, value->expires_unix_ms);
    } else if (result == VARVE__V1__PIPELINE_RESULT__RESULT_WRITE) {
        cr_assert(a->result->write->applied);
        cr_assert_eq(a->result->write->lsn, value->lsn);
    } else {
        cr_assert_eq(a->result->error->code, 8);
        cr_assert_str_eq(a->result->error->message, "words");
    }
    varve__v1__pipeline_answer__free_unpacked(a, NULL);
}

Test(pipeline_codec, answers_are_what_protobuf_reads, .init = setup) {
    uint8_t buf[VV_PIPELINE_ANSWER_BYTES + sizeof some_bytes];
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    char words[] = "words";
    uint8_t details[64];
    status.code = 8;
    status.message = words;
    vv_slice error = vv_slice_make(details, google__rpc__status__pack(&status, details));
    for (int i = 0; i < 3000; i++) {
        uint64_t id = chance(2) ? random_number() : UINT64_MAX;
        varve_value v = {.data = some_bytes,
                         .bytes = chance(sizeof some_bytes + 1),
                         .lsn = chance(2) ? random_number() : UINT64_MAX,
                         .expires_unix_ms = chance(2) ? random_number() : UINT64_MAX};
        uint8_t *end = vv_pipeline_put_found(buf, id, &v);
        cr_assert_leq((size_t)(end - buf), VV_PIPELINE_ANSWER_BYTES + v.bytes);
        check_answer(buf, end, id, VARVE__V1__PIPELINE_RESULT__RESULT_GET, &v);
        end = vv_pipeline_put_written(buf, id, v.lsn);
        check_answer(buf, end, id, VARVE__V1__PIPELINE_RESULT__RESULT_WRITE, &v);
        end = vv_pipeline_put_error(buf, id, error);
        cr_assert_leq((size_t)(end - buf), VV_PIPELINE_ANSWER_BYTES + error.bytes);
        check_answer(buf, end, id, VARVE__V1__PIPELINE_RESULT__RESULT_ERROR, &v);
        v = (varve_value){0};
        end = vv_pipeline_put_missing(buf, id);
        check_answer(buf, end, id, VARVE__V1__PIPELINE_RESULT__RESULT_GET, &v);
    }
}
