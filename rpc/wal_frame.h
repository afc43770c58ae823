/*
 * wal_frame.h - WalFrame from the log's batches, field by field.
 *
 * Records are copied once, from where the log has them to the buffer that the network gets. They are the last
 * field of the message, so that all else is a short head before them.
 */
#ifndef VV_RPC_WAL_FRAME_H
#define VV_RPC_WAL_FRAME_H

#include "base/slice.h"
#include "engine/varve.h"

/* The records of a frame. Zeroed: none. */
typedef struct vv_wal_frame {
    uint8_t *records;
    size_t bytes;
    size_t capacity;
    uint64_t first_lsn, last_lsn; /* 0: there are none */
} vv_wal_frame;

/* The other fields. */
typedef struct vv_wal_frame_info {
    uint64_t epoch;
    uint64_t committed_lsn;
    uint64_t durable_lsn;
    uint64_t behind_bytes;
    uint64_t unix_us;
    uint64_t session;
    const varve_epoch *history;
    size_t history_count;
} vv_wal_frame_info;

/* A frame is never longer: protobuf's limit, with room for the head. */
#define VV_WAL_FRAME_BYTES_MAX (((size_t)1 << 31) - 65536)

/* NO_MEMORY; INVALID_ARGUMENT/BATCH_TOO_LARGE: it would not fit into a message of protobuf's. Then the frame
 * is as before. */
varve_status vv_wal_frame_add(vv_wal_frame *f, const varve_wal_batch *batch) VARVE_CHECKED;

/* No records; what it holds for the next is not more than `keep_bytes`. */
void vv_wal_frame_clear(vv_wal_frame *f, size_t keep_bytes);

/* All that stands before the records, which follow it (none do if there are none). Returns its bytes. */
#define VV_WAL_FRAME_EPOCH_BYTES_MAX 40
#define VV_WAL_FRAME_HEAD_BYTES_MAX  (192 + VARVE_EPOCHS_MAX * VV_WAL_FRAME_EPOCH_BYTES_MAX)
size_t vv_wal_frame_head(const vv_wal_frame *f, const vv_wal_frame_info *info, uint8_t *to);

#endif
