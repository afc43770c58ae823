/*
 * replication_impl.h - what the files of varve.v1.Replication have in common: service_replication.c (the
 * table, Hello and Confirm), service_stream.c (StreamWal) and service_export.c (TakeSnapshot, FetchFile,
 * ReleaseSnapshot).
 */
#ifndef VV_RPC_REPLICATION_IMPL_H
#define VV_RPC_REPLICATION_IMPL_H

#include "rpc/codec.h"
#include "rpc/service.h"
#include "varve/v1/replication.pb-c.h"

/* Is it the id of this database, or none? False: *why says WRONG_DATABASE. */
bool vv_replicas_check_database(vv_replicas *s, vv_slice id, vv_rpc_status *why);

/* A higher epoch was promised than what somebody asks for or is. */
void vv_replicas_say_epoch_too_old(vv_rpc_status *why, uint64_t promised_epoch);

/* The slot that a request names: "" if it names none. False: it can't be a slot of a replica, and the call
 * has failed. */
bool vv_replicas_slot_name(vv_rpc_call *call, ProtobufCBinaryData name,
                           char out[VARVE_SLOT_NAME_BYTES_MAX + 1]);

/* There are VARVE_SLOTS_MAX slots. */
void vv_replicas_say_too_many(vv_rpc_status *why);

/* ---- StreamWal ---- */

void vv_stream_wal_on_call(vv_rpc_call *call, vv_slice request);
void vv_stream_wal_on_posted(vv_rpc_call *call);
void vv_stream_wal_on_written(vv_rpc_call *call);
void vv_stream_wal_on_cancelled(vv_rpc_call *call);
void vv_stream_wal_on_drain(vv_rpc_call *call);

/* In vv_replicas_start(), once the workers are there. */
void vv_streams_start(vv_replicas *s);

/* ---- TakeSnapshot, FetchFile (a chunk_stream.h), ReleaseSnapshot ---- */

void vv_take_snapshot_on_call(vv_rpc_call *call, vv_slice request);
void vv_take_snapshot_on_posted(vv_rpc_call *call);
void vv_take_snapshot_on_cancelled(vv_rpc_call *call);
void vv_fetch_file_on_call(vv_rpc_call *call, vv_slice request);
void vv_release_snapshot_on_call(vv_rpc_call *call, vv_slice request);

#endif
