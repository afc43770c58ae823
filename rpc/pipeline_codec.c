/*
 * pipeline_codec.c - the messages of KV.Pipeline by hand.
 *
 * A message is read in one pass over its fields. Whatever is unusual (a field given twice where that means
 * merging, a group, a wire type that does not fit) makes the whole message go through protobuf-c, which
 * decides what it means or that it is malformed.
 */
#include "rpc/pipeline_codec.h"

#include <string.h>

#include "base/alloc.h"
#include "rpc/wire.h"
#include "varve/v1/kv.pb-c.h"

enum { REQUEST_ID = 1, REQUEST_OP, REQUEST_DURABILITY, REQUEST_CLIENT_ID, REQUEST_SEQUENCE, REQUEST_MORE };
enum { ITEM_ID = 1, ITEM_OP, ITEM_SEQUENCE };
enum { OP_PUT = 1, OP_DELETE, OP_GET };
enum { PUT_KEY = 1, PUT_VALUE, PUT_TTL };
enum { RESPONSE_ID = 1, RESPONSE_RESULT = 2 };
enum { RESULT_GET = 1, RESULT_WRITE, RESULT_ERROR };
enum { GET_FOUND = 1, GET_VALUE, GET_LSN, GET_EXPIRES };
enum { WRITE_LSN = 1, WRITE_APPLIED };

typedef enum outcome { READ, ODD, NO_MEMORY, TOO_MANY } outcome;

/* ---- reading ---- */

/* The fields of a put; a delete and a get have only the key. */
static bool read_op_fields(vv_slice bytes, vv_pipeline_op *op) {
    vv_wire w = vv_wire_make(bytes);
    vv_wire_field f;
    bool is_put = op->kind == VV_PIPELINE_PUT;
    while (w.at < w.end) {
        if (!vv_wire_next(&w, &f))
            return false;
        if (f.number == PUT_KEY && f.type == VV_WIRE_BYTES)
            op->key = f.bytes;
        else if (is_put && f.number == PUT_VALUE && f.type == VV_WIRE_BYTES)
            op->value = f.bytes;
        else if (is_put && f.number == PUT_TTL && f.type == VV_WIRE_VARINT)
            op->ttl_ms = f.value;
        else if (f.number <= (is_put ? PUT_TTL : PUT_KEY))
            return false;
    }
    return true;
}

static bool read_op(vv_slice bytes, vv_pipeline_op *op) {
    vv_wire w = vv_wire_make(bytes);
    vv_wire_field f;
    while (w.at < w.end) {
        if (!vv_wire_next(&w, &f))
            return false;
        if (f.number > OP_GET)
            continue;
        if (f.type != VV_WIRE_BYTES || op->kind != VV_PIPELINE_NONE)
            return false;
        op->kind = f.number == OP_PUT      ? VV_PIPELINE_PUT
                   : f.number == OP_DELETE ? VV_PIPELINE_DELETE
                                           : VV_PIPELINE_GET;
        if (!read_op_fields(f.bytes, op))
            return false;
    }
    return true;
}

static bool read_item(vv_slice bytes, vv_pipeline_op *op) {
    vv_wire w = vv_wire_make(bytes);
    vv_wire_field f;
    bool has_op = false;
    while (w.at < w.end) {
        if (!vv_wire_next(&w, &f))
            return false;
        if (f.number == ITEM_ID && f.type == VV_WIRE_VARINT) {
            op->id = f.value;
        } else if (f.number == ITEM_OP && f.type == VV_WIRE_BYTES && !has_op) {
            has_op = true;
            if (!read_op(f.bytes, op))
                return false;
        } else if (f.number == ITEM_SEQUENCE && f.type == VV_WIRE_VARINT) {
            op->sequence = f.value;
        } else if (f.number <= ITEM_SEQUENCE) {
            return false;
        }
    }
    return true;
}

/* Room for one more operation, zeroed. */
static outcome add_op(vv_pipeline_message *m, vv_pipeline_op **out) {
    if (m->count == VV_PIPELINE_MESSAGE_OPS_MAX)
        return TOO_MANY;
    if (m->count == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 16;
        vv_pipeline_op *ops = vv_realloc(m->ops, capacity * sizeof *ops);
        if (!ops)
            return NO_MEMORY;
        m->ops = ops;
        m->capacity = capacity;
    }
    *out = &m->ops[m->count++];
    **out = (vv_pipeline_op){0};
    return READ;
}

/* The message's own operation counts unless it is not there and `more` is. */
static void drop_absent_first(vv_pipeline_message *m, bool has_op) {
    if (has_op || m->count < 2)
        return;
    m->count--;
    memmove(m->ops, m->ops + 1, m->count * sizeof *m->ops);
}

static outcome read_by_hand(vv_slice bytes, vv_pipeline_message *m) {
    vv_wire w = vv_wire_make(bytes);
    vv_wire_field f;
    vv_pipeline_op *op;
    bool has_op = false;
    outcome result = add_op(m, &op);
    while (result == READ && w.at < w.end) {
        if (!vv_wire_next(&w, &f))
            return ODD;
        vv_pipeline_op *first = &m->ops[0];
        if (f.number == REQUEST_MORE && f.type == VV_WIRE_BYTES) {
            m->packed = true;
            result = add_op(m, &op);
            if (result == READ && !read_item(f.bytes, op))
                return ODD;
        } else if (f.number == REQUEST_OP && f.type == VV_WIRE_BYTES && !has_op) {
            has_op = true;
            if (!read_op(f.bytes, first))
                return ODD;
        } else if (f.number > REQUEST_MORE) {
            continue;
        } else if (f.type != VV_WIRE_VARINT || f.number == REQUEST_OP) {
            return ODD;
        } else if (f.number == REQUEST_ID) {
            first->id = f.value;
        } else if (f.number == REQUEST_DURABILITY) {
            m->durability = (uint32_t)f.value; /* an enum: protobuf takes the lower 32 bits */
        } else if (f.number == REQUEST_CLIENT_ID) {
            m->client_id = f.value;
        } else if (f.number == REQUEST_SEQUENCE) {
            first->sequence = f.value;
        } else {
            return ODD;
        }
    }
    if (result == READ)
        drop_absent_first(m, has_op);
    return result;
}

static vv_slice bytes_of(ProtobufCBinaryData data) {
    return vv_slice_make(data.data, data.len);
}

static void take_op(vv_pipeline_op *to, uint64_t id, uint64_t sequence, const Varve__V1__Op *op) {
    *to = (vv_pipeline_op){.id = id, .sequence = sequence};
    if (!op)
        return;
    if (op->op_case == VARVE__V1__OP__OP_PUT) {
        to->kind = VV_PIPELINE_PUT;
        to->key = bytes_of(op->put->key);
        to->value = bytes_of(op->put->value);
        to->ttl_ms = op->put->ttl_ms;
    } else if (op->op_case == VARVE__V1__OP__OP_DELETE) {
        to->kind = VV_PIPELINE_DELETE;
        to->key = bytes_of(op->delete_->key);
    } else if (op->op_case == VARVE__V1__OP__OP_GET) {
        to->kind = VV_PIPELINE_GET;
        to->key = bytes_of(op->get->key);
    }
}

static void release_arena(vv_pipeline_message *m) {
    if (m->arena)
        vv_codec_arena_deinit(m->arena);
    vv_free(m->arena);
    m->arena = NULL;
}

static vv_status read_odd(vv_slice bytes, vv_pipeline_message *m) {
    m->arena = vv_alloc(sizeof *m->arena);
    if (!m->arena)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_codec_arena_init(m->arena);
    ProtobufCMessage *message;
    VV_TRY(vv_codec_decode(m->arena, &varve__v1__pipeline_request__descriptor, bytes, &message));
    const Varve__V1__PipelineRequest *r = (const void *)message;
    m->durability = (uint64_t)r->durability;
    m->client_id = r->client_id;
    m->packed = r->n_more > 0;
    m->count = 0;
    vv_pipeline_op *op;
    outcome result = add_op(m, &op);
    if (result == READ)
        take_op(op, r->id, r->sequence, r->op);
    for (size_t i = 0; result == READ && i < r->n_more; i++) {
        result = add_op(m, &op);
        if (result == READ)
            take_op(op, r->more[i]->id, r->more[i]->sequence, r->more[i]->op);
    }
    if (result == READ) {
        drop_absent_first(m, r->op != NULL);
        return VV_STATUS_OK;
    }
    return vv_status_make(result == TOO_MANY ? VV_BUSY : VV_NO_MEMORY, VV_SUB_NONE, 0);
}

vv_status vv_pipeline_read(vv_slice bytes, vv_pipeline_message *m) {
    release_arena(m);
    m->count = 0;
    m->client_id = 0;
    m->durability = 0;
    m->packed = false;
    switch (read_by_hand(bytes, m)) {
    case READ: return VV_STATUS_OK;
    case TOO_MANY: return vv_status_make(VV_BUSY, VV_SUB_NONE, 0);
    case NO_MEMORY: return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    case ODD: break;
    }
    return read_odd(bytes, m);
}

void vv_pipeline_message_deinit(vv_pipeline_message *m) {
    release_arena(m);
    vv_free(m->ops);
    *m = (vv_pipeline_message){0};
}

/* ---- writing ---- */

static size_t varint_bytes(uint64_t value) {
    return value == 0 ? 1 : (size_t)(70 - __builtin_clzll(value)) / 7;
}

/* Of a varint field with a number below 16; none for 0. */
static size_t uint_bytes(uint64_t value) {
    return value == 0 ? 0 : 1 + varint_bytes(value);
}

/* Of a bytes field with a number below 16. */
static size_t field_bytes(size_t bytes) {
    return 1 + varint_bytes(bytes) + bytes;
}

/* id, and the headers of the result and of its only field. */
static uint8_t *put_head(uint8_t *to, uint64_t id, uint32_t field, size_t bytes) {
    to = vv_codec_put_uint(to, RESPONSE_ID, id);
    to = vv_codec_put_bytes_header(to, RESPONSE_RESULT, field_bytes(bytes));
    return vv_codec_put_bytes_header(to, field, bytes);
}

uint8_t *vv_pipeline_put_found(uint8_t *to, uint64_t id, const varve_value *value) {
    size_t bytes = uint_bytes(1) + uint_bytes(value->lsn) + uint_bytes(value->expires_unix_ms);
    if (value->bytes > 0)
        bytes += field_bytes(value->bytes);
    to = put_head(to, id, RESULT_GET, bytes);
    to = vv_codec_put_uint(to, GET_FOUND, true);
    if (value->bytes > 0) {
        to = vv_codec_put_bytes_header(to, GET_VALUE, value->bytes);
        memcpy(to, value->data, value->bytes);
        to += value->bytes;
    }
    to = vv_codec_put_uint(to, GET_LSN, value->lsn);
    return vv_codec_put_uint(to, GET_EXPIRES, value->expires_unix_ms);
}

uint8_t *vv_pipeline_put_missing(uint8_t *to, uint64_t id) {
    return put_head(to, id, RESULT_GET, 0);
}

uint8_t *vv_pipeline_put_written(uint8_t *to, uint64_t id, uint64_t lsn) {
    to = put_head(to, id, RESULT_WRITE, uint_bytes(lsn) + uint_bytes(1));
    to = vv_codec_put_uint(to, WRITE_LSN, lsn);
    return vv_codec_put_uint(to, WRITE_APPLIED, true);
}

uint8_t *vv_pipeline_put_error(uint8_t *to, uint64_t id, vv_slice status) {
    to = put_head(to, id, RESULT_ERROR, status.bytes);
    memcpy(to, status.data, status.bytes);
    return to + status.bytes;
}
