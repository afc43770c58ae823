/*
 * rpc_methods.h - the methods that varved serves, by number: the first byte of an input of fuzz_rpc_calls.
 * New ones go to the end, so that the corpus keeps its meaning.
 */
#ifndef VV_TESTS_FUZZ_RPC_METHODS_H
#define VV_TESTS_FUZZ_RPC_METHODS_H

#include "tests/fuzz/message_types.h"

static const struct {
    const char *path;
    const ProtobufCMessageDescriptor *request;
} rpc_methods[] = {
    {"/varve.v1.KV/Get", &varve__v1__get_request__descriptor},
    {"/varve.v1.KV/Put", &varve__v1__put_request__descriptor},
    {"/varve.v1.KV/Delete", &varve__v1__delete_request__descriptor},
    {"/varve.v1.KV/Write", &varve__v1__write_request__descriptor},
    {"/varve.v1.KV/MultiGet", &varve__v1__multi_get_request__descriptor},
    {"/varve.v1.KV/Scan", &varve__v1__scan_request__descriptor},
    {"/varve.v1.KV/Pipeline", &varve__v1__pipeline_request__descriptor},
    {"/varve.v1.Watch/Watch", &varve__v1__watch_request__descriptor},
    {"/varve.v1.Snapshots/Open", &varve__v1__open_request__descriptor},
    {"/varve.v1.Snapshots/Renew", &varve__v1__renew_request__descriptor},
    {"/varve.v1.Snapshots/Release", &varve__v1__release_request__descriptor},
    {"/varve.v1.Replication/StreamWal", &varve__v1__stream_wal_request__descriptor},
    {"/varve.v1.Replication/Confirm", &varve__v1__confirm_request__descriptor},
    {"/varve.v1.Replication/Hello", &varve__v1__hello_request__descriptor},
    {"/varve.v1.Replication/TakeSnapshot", &varve__v1__take_snapshot_request__descriptor},
    {"/varve.v1.Replication/FetchFile", &varve__v1__fetch_file_request__descriptor},
    {"/varve.v1.Replication/ReleaseSnapshot", &varve__v1__release_snapshot_request__descriptor},
    {"/varve.v1.Admin/Status", &varve__v1__status_request__descriptor},
    {"/varve.v1.Admin/Stats", &varve__v1__stats_request__descriptor},
    {"/varve.v1.Admin/Flush", &varve__v1__flush_request__descriptor},
    {"/varve.v1.Admin/Compact", &varve__v1__compact_request__descriptor},
    {"/varve.v1.Admin/SetSafeCompactionLsn", &varve__v1__set_safe_compaction_lsn_request__descriptor},
    {"/varve.v1.Admin/SetRateLimit", &varve__v1__set_rate_limit_request__descriptor},
    {"/varve.v1.Admin/Reload", &varve__v1__reload_request__descriptor},
    {"/varve.v1.Admin/Backup", &varve__v1__backup_request__descriptor},
    {"/varve.v1.Admin/Verify", &varve__v1__verify_request__descriptor},
    {"/varve.v1.Admin/Promote", &varve__v1__promote_request__descriptor},
    {"/grpc.health.v1.Health/Check", &grpc__health__v1__health_check_request__descriptor},
    {"/grpc.health.v1.Health/Watch", &grpc__health__v1__health_check_request__descriptor},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
     &grpc__reflection__v1__server_reflection_request__descriptor},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
     &grpc__reflection__v1__server_reflection_request__descriptor},
};

#endif
