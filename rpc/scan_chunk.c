#include "rpc/scan_chunk.h"

#include <string.h>

#include "base/alloc.h"
#include "rpc/codec.h"

/* Most chunks of a scan are full, and a scan of a few entries should not touch as much memory. */
#define FIRST_BYTES ((size_t)4 << 10)
/* A token of a short key still fits without another allocation. */
#define FULL_BYTES (VV_SCAN_CHUNK_BYTES + 512)

/* ScanResponse.entries[i] with its tag: { key: 1, value: 2, lsn: 3 }. */
#define ENTRY_FIELD      1
#define TOKEN_FIELD      2
#define HEADER_BYTES_MAX (1 + VV_CODEC_VARINT_BYTES_MAX)

static vv_status reserve(vv_scan_chunk *c, size_t more) {
    size_t need = c->bytes + more;
    if (need <= c->capacity)
        return VV_STATUS_OK;
    size_t capacity = need <= FIRST_BYTES ? FIRST_BYTES : VV_MAX(need, FULL_BYTES);
    uint8_t *data = vv_realloc(c->data, capacity);
    if (!data)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    c->data = data;
    c->capacity = capacity;
    return VV_STATUS_OK;
}

static size_t varint_bytes(uint64_t value) {
    return (size_t)(70 - __builtin_clzll(value | 1)) / 7;
}

static size_t bytes_field_bytes(size_t bytes) {
    return bytes == 0 ? 0 : 1 + varint_bytes(bytes) + bytes;
}

static uint8_t *put_bytes(uint8_t *to, uint32_t field, vv_slice s) {
    if (s.bytes == 0)
        return to;
    to = vv_codec_put_bytes_header(to, field, s.bytes);
    memcpy(to, s.data, s.bytes);
    return to + s.bytes;
}

bool vv_scan_chunk_has_room(const vv_scan_chunk *c, vv_slice key, vv_slice value) {
    return c->entries == 0 ||
           c->bytes + key.bytes + value.bytes + 4 * HEADER_BYTES_MAX <= VV_SCAN_CHUNK_BYTES;
}

vv_status vv_scan_chunk_add(vv_scan_chunk *c, vv_slice key, vv_slice value, uint64_t lsn) {
    size_t bytes = bytes_field_bytes(key.bytes) + bytes_field_bytes(value.bytes) +
                   (lsn == 0 ? 0 : 1 + varint_bytes(lsn));
    VV_TRY(reserve(c, HEADER_BYTES_MAX + bytes));
    uint8_t *at = vv_codec_put_bytes_header(c->data + c->bytes, ENTRY_FIELD, bytes);
    at = put_bytes(at, 1, key);
    c->last_key_at = (size_t)(at - c->data) - key.bytes;
    c->last_key_bytes = key.bytes;
    at = put_bytes(at, 2, value);
    at = vv_codec_put_uint(at, 3, lsn);
    c->bytes = (size_t)(at - c->data);
    c->entries++;
    return VV_STATUS_OK;
}

vv_status vv_scan_chunk_add_token(vv_scan_chunk *c, size_t token_bytes, size_t scratch_bytes, uint8_t **out) {
    VV_TRY(reserve(c, HEADER_BYTES_MAX + token_bytes + scratch_bytes));
    *out = vv_codec_put_bytes_header(c->data + c->bytes, TOKEN_FIELD, token_bytes);
    c->bytes = (size_t)(*out - c->data) + token_bytes;
    return VV_STATUS_OK;
}
