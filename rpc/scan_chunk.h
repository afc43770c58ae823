/*
 * scan_chunk.h - one ScanResponse, written by hand: a scan would make three objects of each entry otherwise.
 */
#ifndef VV_RPC_SCAN_CHUNK_H
#define VV_RPC_SCAN_CHUNK_H

#include "base/slice.h"
#include "base/status.h"

/* A chunk is as large as this, or has one entry. */
#define VV_SCAN_CHUNK_BYTES ((size_t)64 << 10)

/* Zeroed: empty. data is vv_free()d by its owner. */
typedef struct vv_scan_chunk {
    uint8_t *data;
    size_t bytes, capacity;
    uint64_t entries;
    size_t last_key_at, last_key_bytes; /* of its last entry */
} vv_scan_chunk;

/* False: it would be too large with this one. */
bool vv_scan_chunk_has_room(const vv_scan_chunk *c, vv_slice key, vv_slice value);
/* NO_MEMORY: unchanged. */
vv_status vv_scan_chunk_add(vv_scan_chunk *c, vv_slice key, vv_slice value, uint64_t lsn) VV_CHECKED;

/* Room for page_token: its bytes, and scratch_bytes behind it, are to be written where *out points. */
vv_status vv_scan_chunk_add_token(vv_scan_chunk *c, size_t token_bytes, size_t scratch_bytes,
                                  uint8_t **out) VV_CHECKED;

static inline vv_slice vv_scan_chunk_last_key(const vv_scan_chunk *c) {
    return vv_slice_make(c->data + c->last_key_at, c->last_key_bytes);
}

#endif
