#include "rpc/watch_message.h"

#include <string.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "base/status.h"
#include "rpc/codec.h"

/* Fields of varve.v1.Event and WatchResponse (proto/varve/v1/watch.proto). */
enum { RESPONSE_EVENTS = 1, RESPONSE_LSN = 2 };
enum { EVENT_TYPE = 1, EVENT_KEY = 2, EVENT_VALUE = 3, EVENT_LSN = 4, EVENT_EXPIRES = 5 };
enum { TYPE_DELETE = 1 };

/* What an event takes beside its key and its value: six tags and six varints, with the one around it. */
#define EVENT_EXTRA_BYTES_MAX (6 * (1 + VV_CODEC_VARINT_BYTES_MAX))
#define CAPACITY_MIN          ((size_t)1024)

static varve_status failure(varve_code code, vv_sub reason) {
    return (varve_status){.code = (uint16_t)code, .reason = (uint16_t)reason};
}

static bool in_range(const vv_watch_range *range, vv_slice key) {
    if (range->start.bytes > 0 && vv_slice_compare(key, range->start) < 0)
        return false;
    if (range->end.bytes > 0 && vv_slice_compare(key, range->end) >= 0)
        return false;
    return key.bytes >= range->prefix.bytes &&
           (range->prefix.bytes == 0 || memcmp(key.data, range->prefix.data, range->prefix.bytes) == 0);
}

static varve_status reserve(vv_watch_message *m, size_t more_bytes) {
    if (more_bytes > VV_WATCH_EVENTS_BYTES_MAX - m->bytes)
        return failure(VARVE_INVALID_ARGUMENT, VV_SUB_BATCH_TOO_LARGE);
    size_t need = m->bytes + more_bytes;
    if (need <= m->capacity)
        return (varve_status){0};
    size_t capacity = VV_MAX(VV_MAX(need, 2 * m->capacity), CAPACITY_MIN);
    uint8_t *data = vv_realloc(m->data, capacity);
    if (!data)
        return failure(VARVE_NO_MEMORY, VV_SUB_NONE);
    m->data = data;
    m->capacity = capacity;
    return (varve_status){0};
}

static uint8_t *put_bytes(uint8_t *to, const void *data, size_t bytes) {
    if (bytes > 0)
        memcpy(to, data, bytes);
    return to + bytes;
}

/* There is room for it. */
static void put_event(vv_watch_message *m, const varve_wal_op *op, bool gone) {
    uint8_t before_key[32], before_value[16], behind[32];
    size_t value_bytes = gone ? 0 : op->value_bytes;
    uint8_t *at = vv_codec_put_uint(before_key, EVENT_TYPE, gone ? TYPE_DELETE : 0);
    size_t before_key_bytes = (size_t)(vv_codec_put_bytes_header(at, EVENT_KEY, op->key_bytes) - before_key);
    size_t before_value_bytes = 0;
    if (value_bytes > 0)
        before_value_bytes =
            (size_t)(vv_codec_put_bytes_header(before_value, EVENT_VALUE, value_bytes) - before_value);
    at = vv_codec_put_uint(behind, EVENT_LSN, op->lsn);
    at = vv_codec_put_uint(at, EVENT_EXPIRES, gone ? 0 : op->expires_unix_ms);
    size_t behind_bytes = (size_t)(at - behind);

    uint8_t *to = vv_codec_put_bytes_header(m->data + m->bytes, RESPONSE_EVENTS,
                                            before_key_bytes + op->key_bytes + before_value_bytes +
                                                value_bytes + behind_bytes);
    to = put_bytes(to, before_key, before_key_bytes);
    to = put_bytes(to, op->key, op->key_bytes);
    to = put_bytes(to, before_value, before_value_bytes);
    to = put_bytes(to, op->value, value_bytes);
    to = put_bytes(to, behind, behind_bytes);
    m->bytes = (size_t)(to - m->data);
}

varve_status vv_watch_message_add(vv_watch_message *m, const varve_wal_batch *batch,
                                  const vv_watch_range *range, uint64_t now_unix_ms) {
    size_t bytes_before = m->bytes;
    varve_wal_ops ops;
    varve_wal_op op;
    varve_wal_ops_init(&ops, batch);
    for (;;) {
        varve_status st = varve_wal_ops_next(&ops, &op);
        if (st.code == VARVE_END)
            return (varve_status){0};
        if (varve_ok(st) && !in_range(range, vv_slice_make(op.key, op.key_bytes)))
            continue;
        if (varve_ok(st))
            st = reserve(m, op.key_bytes + op.value_bytes + EVENT_EXTRA_BYTES_MAX);
        if (!varve_ok(st)) {
            m->bytes = bytes_before;
            return st;
        }
        bool expired = op.expires_unix_ms != 0 && op.expires_unix_ms <= now_unix_ms;
        put_event(m, &op, op.is_delete || expired);
    }
}

size_t vv_watch_message_rest(uint8_t rest[VV_WATCH_REST_BYTES_MAX], uint64_t lsn) {
    return (size_t)(vv_codec_put_uint(rest, RESPONSE_LSN, lsn) - rest);
}

void vv_watch_message_clear(vv_watch_message *m, size_t keep_bytes) {
    m->bytes = 0;
    if (m->capacity > keep_bytes) {
        vv_free(m->data);
        *m = (vv_watch_message){0};
    }
}
