/*
 * message_types.h - the messages that servers, followers and the command decode, by number: the first byte
 * of an input of fuzz_rpc_messages. New ones go to the end, so that the corpus keeps its meaning.
 */
#ifndef VV_TESTS_FUZZ_MESSAGE_TYPES_H
#define VV_TESTS_FUZZ_MESSAGE_TYPES_H

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "varve/v1/admin.pb-c.h"
#include "varve/v1/kv.pb-c.h"
#include "varve/v1/replication.pb-c.h"
#include "varve/v1/snapshots.pb-c.h"
#include "varve/v1/watch.pb-c.h"

static const ProtobufCMessageDescriptor *const message_types[] = {
    /* requests */
    &varve__v1__get_request__descriptor,
    &varve__v1__put_request__descriptor,
    &varve__v1__delete_request__descriptor,
    &varve__v1__write_request__descriptor,
    &varve__v1__multi_get_request__descriptor,
    &varve__v1__scan_request__descriptor,
    &varve__v1__pipeline_request__descriptor,
    &varve__v1__watch_request__descriptor,
    &varve__v1__open_request__descriptor,
    &varve__v1__renew_request__descriptor,
    &varve__v1__release_request__descriptor,
    &varve__v1__stream_wal_request__descriptor,
    &varve__v1__confirm_request__descriptor,
    &varve__v1__hello_request__descriptor,
    &varve__v1__take_snapshot_request__descriptor,
    &varve__v1__fetch_file_request__descriptor,
    &varve__v1__release_snapshot_request__descriptor,
    &varve__v1__status_request__descriptor,
    &varve__v1__stats_request__descriptor,
    &varve__v1__flush_request__descriptor,
    &varve__v1__compact_request__descriptor,
    &varve__v1__set_safe_compaction_lsn_request__descriptor,
    &varve__v1__set_rate_limit_request__descriptor,
    &varve__v1__backup_request__descriptor,
    &varve__v1__verify_request__descriptor,
    &varve__v1__promote_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
    /* answers, which followers and the command decode */
    &varve__v1__hello_response__descriptor,
    &varve__v1__take_snapshot_response__descriptor,
    &varve__v1__fetch_file_response__descriptor,
    &varve__v1__confirm_response__descriptor,
    &varve__v1__wal_frame__descriptor,
    &varve__v1__get_response__descriptor,
    &varve__v1__write_response__descriptor,
    &varve__v1__scan_response__descriptor,
    &varve__v1__watch_response__descriptor,
    &varve__v1__status_response__descriptor,
    &varve__v1__stats_response__descriptor,
    &varve__v1__backup_response__descriptor,
    &varve__v1__verify_response__descriptor,
    &google__rpc__status__descriptor,
    &google__rpc__error_info__descriptor,
};

#endif
