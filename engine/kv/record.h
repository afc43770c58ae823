/*
 * record.h - a batch of operations as bytes: what a client hands to the writer, what the log keeps, and what
 * recovery reads back.
 *
 *   record   [first_lsn:8][op_count:4][ops_bytes:4][epoch:8][client_id:8][sequence:8]   40 bytes, then ops
 *   op       [kind:1][flags:1][key_bytes:2][value_bytes:4][expires_unix_ms:8]           16 bytes, key, value
 *
 * The operation at index i of a record has the LSN first_lsn + i. epoch counts the primaries that the log
 * has had; (client_id, sequence) names a write for retry safety, 0 for none.
 */
#ifndef VV_ENGINE_KV_RECORD_H
#define VV_ENGINE_KV_RECORD_H

#include "base/codec.h"
#include "base/status.h"
#include "engine/kv/entry.h"

#define VV_RECORD_HEAD_BYTES 40
#define VV_OP_HEAD_BYTES     16

/* The most bytes that the operations of one record take: fits the 32-bit length with room for framing, and
 * bounds what one write can make the log buffer. */
#define VV_RECORD_OPS_BYTES_MAX (UINT32_C(1) << 30)

typedef struct vv_record {
    uint64_t first_lsn;
    uint32_t op_count;
    uint64_t epoch;
    uint64_t client_id;
    uint64_t sequence;
    vv_slice ops; /* op_count operations, borrowed */
} vv_record;

/* Write the head of a record whose ops follow it. */
void vv_record_head_encode(uint8_t head[VV_RECORD_HEAD_BYTES], const vv_record *rec);

/* Take one record off the front of `r`, its ops borrowed from there. CORRUPTION if it does not fit or names
 * an impossible count or length; the ops themselves are checked by vv_record_ops_check(). */
vv_status vv_record_decode(vv_reader *r, vv_record *out) VV_CHECKED;

void vv_op_head_encode(uint8_t head[VV_OP_HEAD_BYTES], const vv_entry *e);

/* Take one op off the front of `r`. e->lsn is left alone. CORRUPTION if it makes no sense: unknown kind or
 * flags, an empty key, a tombstone with a value, a length past the end. */
vv_status vv_op_decode(vv_reader *r, vv_entry *e) VV_CHECKED;

/* Every op decodes, and there are exactly op_count of them. */
vv_status vv_record_ops_check(const vv_record *rec) VV_CHECKED;

#endif
