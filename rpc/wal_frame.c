#include "rpc/wal_frame.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checksum.h"
#include "base/compiler.h"
#include "base/status.h"
#include "rpc/codec.h"
#include "rpc/wal_frame_fields.h"

#define WIRE_FIXED64 1
#define CAPACITY_MIN ((size_t)4 << 10)

static uint8_t *put_fixed64(uint8_t *to, uint32_t field, uint64_t value) {
    to = vv_codec_put_varint(to, (uint64_t)field << 3 | WIRE_FIXED64);
    for (int i = 0; i < 8; i++)
        *to++ = (uint8_t)(value >> 8 * i);
    return to;
}

/* At least twice as much as before, so that a frame of small batches is copied once or twice on the way. */
static bool reserve(vv_wal_frame *f, size_t need) {
    size_t capacity = VV_MAX(VV_MAX(need, 2 * f->capacity), CAPACITY_MIN);
    uint8_t *records = vv_realloc(f->records, capacity);
    if (!records)
        return false;
    f->records = records;
    f->capacity = capacity;
    return true;
}

varve_status vv_wal_frame_add(vv_wal_frame *f, const varve_wal_batch *batch) {
    size_t room = f->capacity - f->bytes;
    size_t bytes = varve_wal_batch_encode(batch, f->capacity ? f->records + f->bytes : NULL, room);
    if (bytes > VV_WAL_FRAME_BYTES_MAX - f->bytes)
        return (varve_status){.code = VARVE_INVALID_ARGUMENT, .reason = VV_SUB_BATCH_TOO_LARGE};
    if (bytes > room) {
        if (!reserve(f, f->bytes + bytes))
            return (varve_status){.code = VARVE_NO_MEMORY};
        bytes = varve_wal_batch_encode(batch, f->records + f->bytes, f->capacity - f->bytes);
    }
    f->bytes += bytes;
    if (f->first_lsn == 0)
        f->first_lsn = batch->first_lsn;
    f->last_lsn = batch->last_lsn;
    return (varve_status){0};
}

void vv_wal_frame_clear(vv_wal_frame *f, size_t keep_bytes) {
    bool keep = f->capacity <= keep_bytes;
    if (!keep)
        vv_free(f->records);
    *f = (vv_wal_frame){.records = keep ? f->records : NULL, .capacity = keep ? f->capacity : 0};
}

static uint8_t *put_epoch(uint8_t *to, const varve_epoch *e) {
    uint8_t message[VV_WAL_FRAME_EPOCH_BYTES_MAX];
    uint8_t *at = vv_codec_put_uint(message, EPOCH_EPOCH, e->epoch);
    at = vv_codec_put_uint(at, EPOCH_FIRST_LSN, e->first_lsn);
    at = put_fixed64(at, EPOCH_ID, e->id);
    size_t bytes = (size_t)(at - message);
    to = vv_codec_put_bytes_header(to, FRAME_HISTORY, bytes);
    memcpy(to, message, bytes);
    return to + bytes;
}

size_t vv_wal_frame_head(const vv_wal_frame *f, const vv_wal_frame_info *info, uint8_t *to) {
    uint8_t *at = vv_codec_put_uint(to, FRAME_EPOCH, info->epoch);
    at = vv_codec_put_uint(at, FRAME_COMMITTED_LSN, info->committed_lsn);
    at = vv_codec_put_uint(at, FRAME_DURABLE_LSN, info->durable_lsn);
    at = vv_codec_put_uint(at, FRAME_BEHIND_BYTES, info->behind_bytes);
    at = vv_codec_put_uint(at, FRAME_UNIX_US, info->unix_us);
    at = vv_codec_put_uint(at, FRAME_SESSION, info->session);
    for (size_t i = 0; i < info->history_count; i++)
        at = put_epoch(at, &info->history[i]);
    if (f->bytes > 0) {
        at = vv_codec_put_uint(at, FRAME_FIRST_LSN, f->first_lsn);
        at = vv_codec_put_uint(at, FRAME_LAST_LSN, f->last_lsn);
        at = put_fixed64(at, FRAME_CHECKSUM, vv_checksum(f->records, f->bytes, 0));
        at = vv_codec_put_bytes_header(at, FRAME_RECORDS, f->bytes);
    }
    return (size_t)(at - to);
}
