/*
 * fuzz_rpc_messages.c - every message that a server or a client of ours decodes, and those that are
 * written by hand.
 *
 *   input   [what:1][bytes]
 *
 *   what    the number of a message type in message_types.h; modulo their number and three more:
 *           entries for a ScanResponse, a batch of the log for a WatchResponse, and answers of a
 *           pipeline, each written by hand
 *
 * What holds for any bytes: what decodes can be packed, and if it decodes again (protobuf-c takes unknown
 * fields that it does not take back) it packs to the same bytes. A PipelineRequest means the same read by
 * hand (rpc/pipeline_codec.h) as by protobuf-c: the one takes what the other takes. What is written by
 * hand is what protobuf-c reads.
 *
 * Bound: decoding takes what codec.h says, the message's size and 16 MiB; no allocation is larger than
 * that.
 */
#include "base/alloc.h"
#include "engine/kv/record.h"
#include "rpc/codec.h"
#include "rpc/pipeline_codec.h"
#include "rpc/scan_chunk.h"
#include "rpc/watch_message.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/message_types.h"

enum { SCAN = VV_ARRAY_COUNT(message_types), WATCH, ANSWERS, WHATS };

#define BYTES_MAX ((size_t)64 << 10)

/* Which types decoded and which did not: protobuf-c is a library without instrumentation, so that libFuzzer
 * would see no difference between them. */
__attribute__((section("__libfuzzer_extra_counters"), used)) static uint8_t outcomes[2 * WHATS];

static vv_slice slice_of(ProtobufCBinaryData data) {
    return vv_slice_make(data.data, data.len);
}

/* ---- decoding ---- */

static uint8_t *pack(const ProtobufCMessage *m, size_t *bytes_out) {
    *bytes_out = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = malloc(*bytes_out + 1);
    FUZZ_CHECK(packed && protobuf_c_message_pack(m, packed) == *bytes_out);
    return packed;
}

static bool decode(const ProtobufCMessageDescriptor *type, vv_slice bytes, int rounds_left,
                   vv_slice expected) {
    vv_codec_arena arena;
    ProtobufCMessage *m;
    vv_codec_arena_init(&arena);
    vv_status st = vv_codec_decode(&arena, type, bytes, &m);
    FUZZ_CHECK(arena.used_bytes <= bytes.bytes + VV_CODEC_EXTRA_BYTES_MAX);
    if (vv_ok(st)) {
        size_t packed_bytes;
        uint8_t *packed = pack(m, &packed_bytes);
        vv_slice s = vv_slice_make(packed, packed_bytes);
        FUZZ_CHECK(expected.data == NULL || vv_slice_equal(s, expected), "%s", type->name);
        if (rounds_left > 0)
            (void)decode(type, s, rounds_left - 1, s);
        free(packed);
    }
    vv_codec_arena_deinit(&arena);
    return vv_ok(st);
}

/* ---- a pipeline's requests: by hand and by protobuf-c ---- */

static void compare_op(const vv_pipeline_op *have, uint64_t id, uint64_t sequence, const Varve__V1__Op *op) {
    vv_pipeline_kind kind = VV_PIPELINE_NONE;
    vv_slice key = {0}, value = {0};
    uint64_t ttl_ms = 0;
    if (op && op->op_case == VARVE__V1__OP__OP_PUT) {
        kind = VV_PIPELINE_PUT;
        key = slice_of(op->put->key);
        value = slice_of(op->put->value);
        ttl_ms = op->put->ttl_ms;
    } else if (op && op->op_case == VARVE__V1__OP__OP_DELETE) {
        kind = VV_PIPELINE_DELETE;
        key = slice_of(op->delete_->key);
    } else if (op && op->op_case == VARVE__V1__OP__OP_GET) {
        kind = VV_PIPELINE_GET;
        key = slice_of(op->get->key);
    }
    FUZZ_CHECK(have->kind == kind && have->id == id && have->sequence == sequence && have->ttl_ms == ttl_ms);
    FUZZ_CHECK(vv_slice_equal(have->key, key) && vv_slice_equal(have->value, value));
}

static void compare_message(const vv_pipeline_message *m, const Varve__V1__PipelineRequest *r) {
    FUZZ_CHECK(m->client_id == r->client_id && m->packed == (r->n_more > 0));
    FUZZ_CHECK(m->durability == (uint64_t)r->durability, "%llu, protobuf-c has %d",
               (unsigned long long)m->durability, (int)r->durability);
    bool own = r->op || r->n_more == 0;
    FUZZ_CHECK(m->count == r->n_more + own);
    if (own)
        compare_op(&m->ops[0], r->id, r->sequence, r->op);
    for (size_t i = 0; i < r->n_more; i++)
        compare_op(&m->ops[i + own], r->more[i]->id, r->more[i]->sequence, r->more[i]->op);
}

static void pipeline(vv_slice bytes) {
    vv_pipeline_message m = {0};
    vv_codec_arena arena;
    ProtobufCMessage *oracle;
    vv_codec_arena_init(&arena);
    vv_status have = vv_pipeline_read(bytes, &m);
    vv_status want = vv_codec_decode(&arena, &varve__v1__pipeline_request__descriptor, bytes, &oracle);
    FUZZ_CHECK(vv_ok(have) == vv_ok(want), "by hand %s, protobuf-c %s", vv_code_name(have.code),
               vv_code_name(want.code));
    if (vv_ok(have))
        compare_message(&m, (const void *)oracle);
    vv_codec_arena_deinit(&arena);
    vv_pipeline_message_deinit(&m);
}

/* ---- what is written by hand ---- */

static void scan_response(vv_reader r) {
    vv_scan_chunk c = {0};
    vv_slice keys[64], values[64], token = {0};
    uint64_t lsns[64];
    size_t count = 0;
    while (count < VV_ARRAY_COUNT(keys) && r.left_bytes > 0) {
        lsns[count] = vv_read_u8(&r) % 3 ? vv_read_be64(&r) : 0;
        keys[count] = fuzz_take(&r, vv_read_u8(&r));
        values[count] = fuzz_take(&r, vv_read_be16(&r));
        if (!vv_scan_chunk_has_room(&c, keys[count], values[count])) {
            token = keys[count];
            break;
        }
        vv_status st = vv_scan_chunk_add(&c, keys[count], values[count], lsns[count]);
        FUZZ_CHECK(vv_ok(st));
        FUZZ_CHECK(vv_slice_equal(vv_scan_chunk_last_key(&c), keys[count]));
        count++;
    }
    uint8_t *at;
    vv_status st = vv_scan_chunk_add_token(&c, token.bytes, 32, &at);
    FUZZ_CHECK(vv_ok(st));
    memcpy(at, token.bytes ? token.data : "", token.bytes);
    Varve__V1__ScanResponse *o = varve__v1__scan_response__unpack(NULL, c.bytes, c.data);
    FUZZ_CHECK(o && o->n_entries == count && vv_slice_equal(slice_of(o->page_token), token));
    for (size_t i = 0; i < count; i++)
        FUZZ_CHECK(o->entries[i]->lsn == lsns[i] && vv_slice_equal(slice_of(o->entries[i]->key), keys[i]) &&
                   vv_slice_equal(slice_of(o->entries[i]->value), values[i]));
    varve__v1__scan_response__free_unpacked(o, NULL);
    vv_free(c.data);
}

/* A batch of a log: its operations are bytes that nobody has checked. */
static void watch_response(vv_reader r) {
    vv_watch_message m = {0};
    uint8_t how = vv_read_u8(&r);
    uint32_t op_count = vv_read_u8(&r);
    vv_watch_range range = {0};
    if (how & 1)
        range.prefix = vv_slice_str("k");
    if (how & 2)
        range.start = vv_slice_str("kb");
    if (how & 4)
        range.end = vv_slice_str("kx");
    vv_slice ops = fuzz_rest(&r);
    uint8_t *copy = fuzz_copy(ops), rest[VV_WATCH_REST_BYTES_MAX];
    varve_wal_batch batch = {.first_lsn = 5,
                             .last_lsn = 4 + (uint64_t)op_count,
                             .op_count = op_count,
                             .ops = copy,
                             .ops_bytes = ops.bytes};
    varve_status st = vv_watch_message_add(&m, &batch, &range, 1000);
    size_t rest_bytes = vv_watch_message_rest(rest, batch.last_lsn);
    uint8_t *whole = malloc(m.bytes + rest_bytes);
    FUZZ_CHECK(whole && (varve_ok(st) || m.bytes == 0));
    if (m.bytes)
        memcpy(whole, m.data, m.bytes);
    memcpy(whole + m.bytes, rest, rest_bytes);
    Varve__V1__WatchResponse *o = varve__v1__watch_response__unpack(NULL, m.bytes + rest_bytes, whole);
    FUZZ_CHECK(o && o->lsn == batch.last_lsn && o->n_events <= op_count);
    for (size_t i = 0; i < o->n_events; i++)
        FUZZ_CHECK(o->events[i]->key.len > 0 && o->events[i]->lsn >= 5 &&
                   o->events[i]->lsn <= batch.last_lsn);
    varve__v1__watch_response__free_unpacked(o, NULL);
    free(whole);
    free(copy);
    vv_watch_message_clear(&m, 0);
}

static void pipeline_answer(vv_reader r) {
    uint64_t id = vv_read_be64(&r), lsn = vv_read_be64(&r);
    uint8_t kind = vv_read_u8(&r) % 4;
    vv_slice bytes = fuzz_rest(&r);
    varve_value v = {.data = bytes.data, .bytes = bytes.bytes, .lsn = lsn, .expires_unix_ms = id};
    uint8_t *to = malloc(VV_PIPELINE_ANSWER_BYTES + bytes.bytes), *end = to;
    FUZZ_CHECK(to);
    if (kind == 0)
        end = vv_pipeline_put_found(to, id, &v);
    else if (kind == 1)
        end = vv_pipeline_put_missing(to, id);
    else if (kind == 2)
        end = vv_pipeline_put_written(to, id, lsn);
    Varve__V1__PipelineAnswer *o = varve__v1__pipeline_answer__unpack(NULL, (size_t)(end - to), to);
    FUZZ_CHECK(o && (kind == 3 || o->id == id));
    if (kind == 0)
        FUZZ_CHECK(o->result->get->found && vv_slice_equal(slice_of(o->result->get->value), bytes) &&
                   o->result->get->lsn == lsn && o->result->get->expires_unix_ms == id);
    else if (kind == 2)
        FUZZ_CHECK(o->result->write->lsn == lsn && o->result->write->applied);
    varve__v1__pipeline_answer__free_unpacked(o, NULL);
    free(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    vv_reader r = vv_reader_make(vv_slice_make(data, bytes));
    unsigned what = vv_read_u8(&r) % WHATS;
    if (r.left_bytes > BYTES_MAX)
        return 0;
    if (what == SCAN) {
        scan_response(r);
    } else if (what == WATCH) {
        watch_response(r);
    } else if (what == ANSWERS) {
        pipeline_answer(r);
    } else {
        vv_slice rest = fuzz_rest(&r);
        uint8_t *copy = fuzz_copy(rest);
        vv_slice message = vv_slice_make(copy, rest.bytes);
        fuzz_allocation_max(rest.bytes + VV_CODEC_EXTRA_BYTES_MAX + 4096);
        outcomes[2 * what + decode(message_types[what], message, 1, (vv_slice){0})]++;
        if (message_types[what] == &varve__v1__pipeline_request__descriptor)
            pipeline(message);
        fuzz_allocation_max(0);
        free(copy);
    }
    return 0;
}
