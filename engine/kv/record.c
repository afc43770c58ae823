#include "engine/kv/record.h"

_Static_assert(VV_RECORD_HEAD_BYTES == 8 + 4 + 4 + 8 + 8 + 8, "record head layout");
_Static_assert(VV_OP_HEAD_BYTES == 1 + 1 + 2 + 4 + 8, "op head layout");

static vv_status bad_layout(void) {
    return vv_status_make(VV_CORRUPTION, VV_SUB_BAD_LAYOUT, 0);
}

void vv_record_head_encode(uint8_t head[VV_RECORD_HEAD_BYTES], const vv_record *rec) {
    vv_put_be64(head, rec->first_lsn);
    vv_put_be32(head + 8, rec->op_count);
    vv_put_be32(head + 12, (uint32_t)rec->ops.bytes);
    vv_put_be64(head + 16, rec->epoch);
    vv_put_be64(head + 24, rec->client_id);
    vv_put_be64(head + 32, rec->sequence);
}

vv_status vv_record_decode(vv_reader *r, vv_record *out) {
    out->first_lsn = vv_read_be64(r);
    out->op_count = vv_read_be32(r);
    uint32_t ops_bytes = vv_read_be32(r);
    out->epoch = vv_read_be64(r);
    out->client_id = vv_read_be64(r);
    out->sequence = vv_read_be64(r);
    out->ops = vv_read_bytes(r, ops_bytes);
    if (r->bad || out->op_count == 0 || ops_bytes > VV_RECORD_OPS_BYTES_MAX ||
        (uint64_t)out->op_count * (VV_OP_HEAD_BYTES + 1) > ops_bytes || out->first_lsn == 0 ||
        out->first_lsn > VV_LSN_MAX - out->op_count)
        return bad_layout();
    return VV_STATUS_OK;
}

void vv_op_head_encode(uint8_t head[VV_OP_HEAD_BYTES], const vv_entry *e) {
    head[0] = e->kind;
    head[1] = e->flags;
    vv_put_be16(head + 2, (uint16_t)e->key.bytes);
    vv_put_be32(head + 4, (uint32_t)e->value.bytes);
    vv_put_be64(head + 8, e->expires_unix_ms);
}

vv_status vv_op_decode(vv_reader *r, vv_entry *e) {
    e->kind = vv_read_u8(r);
    e->flags = vv_read_u8(r);
    uint16_t key_bytes = vv_read_be16(r);
    uint32_t value_bytes = vv_read_be32(r);
    e->expires_unix_ms = vv_read_be64(r);
    e->key = vv_read_bytes(r, key_bytes);
    e->value = vv_read_bytes(r, value_bytes);
    if (r->bad || key_bytes == 0 || e->flags != 0)
        return bad_layout();
    if (e->kind != VV_KIND_PUT && !(e->kind == VV_KIND_DELETE && value_bytes == 0))
        return bad_layout();
    return VV_STATUS_OK;
}

vv_status vv_record_ops_check(const vv_record *rec) {
    vv_reader r = vv_reader_make(rec->ops);
    for (uint32_t i = 0; i < rec->op_count; i++) {
        vv_entry e;
        VV_TRY(vv_op_decode(&r, &e));
    }
    return r.left_bytes == 0 ? VV_STATUS_OK : bad_layout();
}
