/*
 * follow_frame.h - a varve.v1.WalFrame, read where it lies: what a follower gets many thousand times a
 * second.
 */
#ifndef VV_RPC_FOLLOW_FRAME_H
#define VV_RPC_FOLLOW_FRAME_H

#include "base/slice.h"
#include "base/status.h"
#include "engine/varve.h"

#define VV_COMMITS_UNLIMITED UINT64_MAX

/* As in replication.proto. */
typedef struct vv_follow_frame {
    uint64_t epoch;
    uint64_t first_lsn, last_lsn;
    vv_slice records; /* within the message */
    uint64_t committed_lsn;
    uint64_t durable_lsn;
    uint64_t behind_bytes;
    uint64_t session;
    size_t history_count;
    varve_epoch history[VARVE_EPOCHS_MAX];
} vv_follow_frame;

/* CORRUPTION: MALFORMED, or the checksum of the records is another. */
vv_status vv_follow_frame_read(vv_slice message, vv_follow_frame *out, vv_error *err) VV_CHECKED;

#endif
