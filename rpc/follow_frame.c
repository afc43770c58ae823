#include "rpc/follow_frame.h"

#include <inttypes.h>

#include "base/checksum.h"
#include "rpc/wal_frame_fields.h"
#include "rpc/wire.h"

static bool read_epoch(vv_slice message, varve_epoch *out) {
    *out = (varve_epoch){0};
    vv_wire w = vv_wire_make(message);
    while (w.at < w.end) {
        vv_wire_field field;
        if (!vv_wire_next(&w, &field))
            return false;
        if (field.number == EPOCH_EPOCH && field.type == VV_WIRE_VARINT)
            out->epoch = field.value;
        else if (field.number == EPOCH_FIRST_LSN && field.type == VV_WIRE_VARINT)
            out->first_lsn = field.value;
        else if (field.number == EPOCH_ID && field.type == VV_WIRE_FIXED64)
            out->id = field.value;
    }
    return true;
}

static bool read_bytes(const vv_wire_field *field, vv_follow_frame *out) {
    if (field->number == FRAME_RECORDS)
        out->records = field->bytes;
    if (field->number != FRAME_HISTORY)
        return true;
    return out->history_count < VARVE_EPOCHS_MAX &&
           read_epoch(field->bytes, &out->history[out->history_count++]);
}

static void read_number(const vv_wire_field *field, vv_follow_frame *out) {
    switch (field->number) {
    case FRAME_EPOCH: out->epoch = field->value; break;
    case FRAME_FIRST_LSN: out->first_lsn = field->value; break;
    case FRAME_LAST_LSN: out->last_lsn = field->value; break;
    case FRAME_COMMITTED_LSN: out->committed_lsn = field->value; break;
    case FRAME_DURABLE_LSN: out->durable_lsn = field->value; break;
    case FRAME_BEHIND_BYTES: out->behind_bytes = field->value; break;
    case FRAME_SESSION: out->session = field->value; break;
    default: break;
    }
}

static vv_status malformed(vv_error *err, const char *words) {
    return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_MALFORMED, 0), "%s", words);
}

vv_status vv_follow_frame_read(vv_slice message, vv_follow_frame *out, vv_error *err) {
    uint64_t checksum = 0;
    /* Not the history, which is long and mostly absent. */
    out->epoch = out->first_lsn = out->last_lsn = 0;
    out->committed_lsn = out->durable_lsn = out->behind_bytes = out->session = 0;
    out->records = (vv_slice){0};
    out->history_count = 0;
    vv_wire w = vv_wire_make(message);
    while (w.at < w.end) {
        vv_wire_field field;
        if (!vv_wire_next(&w, &field) || (field.type == VV_WIRE_BYTES && !read_bytes(&field, out)))
            return malformed(err, "a frame that makes no sense");
        if (field.type == VV_WIRE_VARINT)
            read_number(&field, out);
        else if (field.type == VV_WIRE_FIXED64 && field.number == FRAME_CHECKSUM)
            checksum = field.value;
    }
    if ((out->first_lsn == 0) != (out->records.bytes == 0) || out->last_lsn < out->first_lsn)
        return malformed(err, "a frame whose LSNs make no sense");
    if (out->records.bytes > 0 && vv_checksum(out->records.data, out->records.bytes, 0) != checksum)
        return vv_fail(err, vv_status_make(VV_CORRUPTION, VV_SUB_CHECKSUM, 0),
                       "the records from LSN %" PRIu64 " were changed on their way", out->first_lsn);
    return VV_STATUS_OK;
}
