/*
 * wal_frame_fields.h - the fields of varve.v1.WalFrame and Epoch (proto/varve/v1/replication.proto), for
 * those who write them (wal_frame.c) and read them (follow_frame.c) by hand.
 */
#ifndef VV_RPC_WAL_FRAME_FIELDS_H
#define VV_RPC_WAL_FRAME_FIELDS_H

enum {
    FRAME_EPOCH = 1,
    FRAME_FIRST_LSN = 2,
    FRAME_LAST_LSN = 3,
    FRAME_RECORDS = 4,
    FRAME_CHECKSUM = 5,
    FRAME_COMMITTED_LSN = 6,
    FRAME_DURABLE_LSN = 7,
    FRAME_BEHIND_BYTES = 8,
    FRAME_UNIX_US = 9,
    FRAME_SESSION = 10,
    FRAME_HISTORY = 11
};
enum { EPOCH_EPOCH = 1, EPOCH_FIRST_LSN = 2, EPOCH_ID = 3 };

#endif
