/*
 * client_grpc.c - the client that calls a varved, on the gRPC C core.
 *
 * One channel, one pluck queue, one unary call at a time: this thread starts a batch with everything that a
 * unary call needs and plucks its tag. Calls are never retried, by the core neither: whether to write
 * again after UNAVAILABLE is for who typed the command to say.
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/compiler.h"
#include "cli/bytes.h"
#include "cli/client.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "varve/v1/admin.pb-c.h"
#include "varve/v1/kv.pb-c.h"
#include "varve/v1/watch.pb-c.h"

#define ERROR_INFO_URL "type.googleapis.com/google.rpc.ErrorInfo"

typedef struct grpc_client {
    vv_client client; /* first: a vv_client * is one of these */
    grpc_channel *channel;
    grpc_completion_queue *queue;
    uint64_t timeout_us;
    char *authorization; /* "Bearer ..."; NULL: none */
} grpc_client;

/* ---- statuses ---- */

static const char *status_name(grpc_status_code code) {
    static const char *const names[] = {
        "OK",        "CANCELLED",       "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS",  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",    "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED",
    };
    return (unsigned)code < VV_ARRAY_COUNT(names) ? names[code] : "UNKNOWN";
}

/* The reason of the ErrorInfo that came with a status, if one did. */
static void read_reason(const grpc_metadata_array *trailers, vv_client_error *err) {
    for (size_t i = 0; i < trailers->count; i++) {
        const grpc_metadata *md = &trailers->metadata[i];
        if (grpc_slice_str_cmp(md->key, "grpc-status-details-bin") != 0)
            continue;
        Google__Rpc__Status *status =
            google__rpc__status__unpack(NULL, GRPC_SLICE_LENGTH(md->value), GRPC_SLICE_START_PTR(md->value));
        for (size_t d = 0; status && d < status->n_details; d++) {
            const Google__Protobuf__Any *any = status->details[d];
            if (strcmp(any->type_url, ERROR_INFO_URL) != 0)
                continue;
            Google__Rpc__ErrorInfo *info =
                google__rpc__error_info__unpack(NULL, any->value.len, any->value.data);
            if (info) {
                snprintf(err->reason, sizeof err->reason, "%s", info->reason);
                google__rpc__error_info__free_unpacked(info, NULL);
            }
        }
        if (status)
            google__rpc__status__free_unpacked(status, NULL);
    }
}

/* ---- one unary call ---- */

static grpc_byte_buffer *pack(const ProtobufCMessage *message) {
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice); /* the buffer holds a reference of its own */
    return buffer;
}

static ProtobufCMessage *unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *type) {
    grpc_byte_buffer_reader reader;
    if (!buffer || !grpc_byte_buffer_reader_init(&reader, buffer))
        return NULL;
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    ProtobufCMessage *message =
        protobuf_c_message_unpack(type, NULL, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    return message;
}

/* What the core fills in while a call is under way. */
typedef struct reply {
    grpc_metadata_array initial;
    grpc_metadata_array trailing;
    grpc_byte_buffer *message;
    grpc_status_code status;
    grpc_slice details;
    const char *core_error; /* from the core itself; NULL if the words came over the wire */
} reply;

/* A call with its deadline; and the header that goes with it, as many as *header_count_out. */
static grpc_call *create_call(grpc_client *c, const char *method, grpc_metadata *header,
                              size_t *header_count_out) {
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (c->timeout_us != 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_micros((int64_t)c->timeout_us, GPR_TIMESPAN));
    *header_count_out = c->authorization ? 1 : 0;
    *header = (grpc_metadata){.key = grpc_slice_from_static_string("authorization")};
    if (c->authorization)
        header->value = grpc_slice_from_static_string(c->authorization);
    return grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue,
                                    grpc_slice_from_static_string(method), NULL, deadline, NULL);
}

static grpc_op receive_status(reply *r) {
    return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                     .data.recv_status_on_client = {.trailing_metadata = &r->trailing,
                                                    .status = &r->status,
                                                    .status_details = &r->details,
                                                    .error_string = &r->core_error}};
}

static bool run_batch(grpc_client *c, grpc_call *call, const grpc_op *ops, size_t count) {
    if (grpc_call_start_batch(call, ops, count, c, NULL) != GRPC_CALL_OK)
        return false;
    return grpc_completion_queue_pluck(c->queue, c, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).success != 0;
}

/* Send request to method and wait for everything that comes back, at most until the deadline. The call is the
 * caller's to unref once it has read the metadata, whose bytes are the call's. */
static grpc_call *exchange(grpc_client *c, const char *method, grpc_byte_buffer *request, reply *r) {
    grpc_metadata header;
    size_t header_count;
    grpc_call *call = create_call(c, method, &header, &header_count);
    grpc_op ops[6] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = header_count, .metadata = &header}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = request},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA,
         .data.recv_initial_metadata.recv_initial_metadata = &r->initial},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &r->message},
        receive_status(r),
    };
    /* A batch that receives the status always completes: by an answer, by the deadline, or by a connection
     * that is lost. */
    if (!run_batch(c, call, ops, VV_ARRAY_COUNT(ops)))
        r->status = GRPC_STATUS_INTERNAL;
    return call;
}

static void reply_init(reply *r) {
    *r = (reply){.status = GRPC_STATUS_UNKNOWN, .details = grpc_empty_slice()};
    grpc_metadata_array_init(&r->initial);
    grpc_metadata_array_init(&r->trailing);
}

static void reply_deinit(reply *r, grpc_call *call) {
    grpc_byte_buffer_destroy(r->message);
    grpc_slice_unref(r->details);
    gpr_free((void *)(uintptr_t)r->core_error);
    grpc_metadata_array_destroy(&r->initial);
    grpc_metadata_array_destroy(&r->trailing);
    grpc_call_unref(call);
}

/* The status into *err, with its reason; returns false. */
static bool fail_reply(const reply *r, vv_client_error *err) {
    char *details = grpc_slice_to_c_string(r->details);
    vv_client_fail(err, status_name(r->status), "", details);
    gpr_free(details);
    read_reason(&r->trailing, err);
    return false;
}

static bool fail_answer(vv_client_error *err) {
    return vv_client_fail(err, "INTERNAL", "", "the server's answer is not a message of its kind");
}

/* The unpacked answer, which the caller frees; NULL: *err. */
static ProtobufCMessage *unary(vv_client *client, const char *method, const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *answer_type, vv_client_error *err) {
    grpc_client *c = (grpc_client *)client;
    reply r;
    reply_init(&r);
    grpc_byte_buffer *buffer = pack(request);
    grpc_call *call = exchange(c, method, buffer, &r);
    grpc_byte_buffer_destroy(buffer);

    ProtobufCMessage *answer = NULL;
    if (r.status != GRPC_STATUS_OK)
        fail_reply(&r, err);
    else if (!(answer = unpack(r.message, answer_type)))
        fail_answer(err);
    reply_deinit(&r, call);
    return answer;
}

/* What to do with a message of a stream, which is freed afterwards. False: no more of them. */
typedef bool (*message_fn)(void *arg, const ProtobufCMessage *message);

/* The messages of a call, until there are no more, or enough. False: one is none. */
static bool read_stream(grpc_client *c, grpc_call *call, const ProtobufCMessageDescriptor *type,
                        message_fn fn, void *arg, bool *enough_out) {
    for (*enough_out = false; !*enough_out;) {
        grpc_byte_buffer *buffer = NULL;
        grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &buffer};
        if (!run_batch(c, call, &op, 1) || !buffer)
            return true; /* the status says why */
        ProtobufCMessage *message = unpack(buffer, type);
        grpc_byte_buffer_destroy(buffer);
        if (!message)
            return false;
        *enough_out = !fn(arg, message);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return true;
}

/* One request, many messages. On failure some may have come already. */
static bool stream(vv_client *client, const char *method, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *type, message_fn fn, void *arg, vv_client_error *err) {
    grpc_client *c = (grpc_client *)client;
    reply r;
    reply_init(&r);
    grpc_metadata header;
    size_t header_count;
    grpc_call *call = create_call(c, method, &header, &header_count);
    grpc_byte_buffer *buffer = pack(request);
    grpc_op ops[4] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA,
         .data.send_initial_metadata = {.count = header_count, .metadata = &header}},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &r.initial},
    };
    bool fine = true, enough = false;
    if (run_batch(c, call, ops, VV_ARRAY_COUNT(ops)))
        fine = read_stream(c, call, type, fn, arg, &enough);
    if (!fine || enough)
        grpc_call_cancel(call, NULL);
    grpc_byte_buffer_destroy(buffer);
    grpc_op last = receive_status(&r);
    (void)run_batch(c, call, &last, 1);
    if (!fine)
        fail_answer(err);
    else if (r.status != GRPC_STATUS_OK && !enough)
        fine = fail_reply(&r, err);
    reply_deinit(&r, call);
    return fine;
}

/* ---- the operations ---- */

/* protobuf-c has no const bytes; what it packs it only reads. */
static ProtobufCBinaryData borrow(vv_slice s) {
    return (ProtobufCBinaryData){.len = s.bytes, .data = (uint8_t *)(uintptr_t)s.data};
}

static Varve__V1__Durability durability(bool async) {
    return async ? VARVE__V1__DURABILITY__DURABILITY_ASYNC : VARVE__V1__DURABILITY__DURABILITY_SYNC;
}

static bool do_get(vv_client *c, vv_slice key, vv_client_value *out, vv_client_error *err) {
    Varve__V1__GetRequest request = VARVE__V1__GET_REQUEST__INIT;
    request.key = borrow(key);
    ProtobufCMessage *message =
        unary(c, "/varve.v1.KV/Get", &request.base, &varve__v1__get_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__GetResponse *answer = (const Varve__V1__GetResponse *)message;
    out->found = answer->found;
    out->lsn = answer->lsn;
    out->expires_unix_ms = answer->expires_unix_ms;
    vv_bytes_append(&out->bytes, answer->value.data, answer->value.len);
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

static bool call_write(vv_client *c, const char *method, const ProtobufCMessage *request, uint64_t *lsn_out,
                       vv_client_error *err) {
    ProtobufCMessage *message = unary(c, method, request, &varve__v1__write_response__descriptor, err);
    if (!message)
        return false;
    *lsn_out = ((const Varve__V1__WriteResponse *)message)->lsn;
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

static bool do_put(vv_client *c, vv_slice key, vv_slice value, bool async, uint64_t *lsn_out,
                   vv_client_error *err) {
    Varve__V1__PutRequest request = VARVE__V1__PUT_REQUEST__INIT;
    request.key = borrow(key);
    request.value = borrow(value);
    request.durability = durability(async);
    return call_write(c, "/varve.v1.KV/Put", &request.base, lsn_out, err);
}

static bool do_del(vv_client *c, vv_slice key, bool async, uint64_t *lsn_out, vv_client_error *err) {
    Varve__V1__DeleteRequest request = VARVE__V1__DELETE_REQUEST__INIT;
    request.key = borrow(key);
    request.durability = durability(async);
    return call_write(c, "/varve.v1.KV/Delete", &request.base, lsn_out, err);
}

/* The messages of one operation, side by side so that a batch is two allocations. */
typedef struct op_messages {
    Varve__V1__Op op;
    Varve__V1__PutOp put;
    Varve__V1__DeleteOp del;
} op_messages;

static void fill_op(op_messages *m, const vv_client_op *op) {
    varve__v1__op__init(&m->op);
    if (op->kind == VV_CLIENT_PUT) {
        varve__v1__put_op__init(&m->put);
        m->put.key = borrow(op->key);
        m->put.value = borrow(op->value);
        m->op.op_case = VARVE__V1__OP__OP_PUT;
        m->op.put = &m->put;
    } else {
        varve__v1__delete_op__init(&m->del);
        m->del.key = borrow(op->key);
        m->op.op_case = VARVE__V1__OP__OP_DELETE;
        m->op.delete_ = &m->del;
    }
}

static bool do_write(vv_client *c, const vv_client_op *ops, size_t count, bool async, uint64_t *lsn_out,
                     vv_client_error *err) {
    bool fine = false;
    op_messages *messages = vv_alloc(count * sizeof *messages);
    Varve__V1__Op **pointers = vv_alloc(count * sizeof(Varve__V1__Op *));
    if (!messages || !pointers) {
        vv_client_fail(err, "NO_MEMORY", "", "out of memory");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        fill_op(&messages[i], &ops[i]);
        pointers[i] = &messages[i].op;
    }
    Varve__V1__WriteRequest request = VARVE__V1__WRITE_REQUEST__INIT;
    request.n_ops = count;
    request.ops = pointers;
    request.durability = durability(async);
    fine = call_write(c, "/varve.v1.KV/Write", &request.base, lsn_out, err);
out:
    vv_free(pointers);
    vv_free(messages);
    return fine;
}

typedef struct entries {
    vv_client_entry_fn fn;
    void *arg;
} entries;

static bool give_entries(void *arg, const ProtobufCMessage *message) {
    const entries *to = arg;
    const Varve__V1__ScanResponse *response = (const Varve__V1__ScanResponse *)message;
    for (size_t i = 0; i < response->n_entries; i++) {
        const Varve__V1__Entry *e = response->entries[i];
        varve_entry entry = {.key = e->key.data,
                             .key_bytes = e->key.len,
                             .value = e->value.data,
                             .value_bytes = e->value.len,
                             .lsn = e->lsn};
        to->fn(to->arg, &entry);
    }
    return true;
}

static void set_bound(const vv_bytes *bound, ProtobufCBinaryData *out) {
    if (bound)
        *out = borrow(vv_bytes_slice(bound));
}

static bool do_scan(vv_client *c, const vv_client_range *range, vv_client_entry_fn fn, void *arg,
                    vv_client_error *err) {
    Varve__V1__ScanRequest request = VARVE__V1__SCAN_REQUEST__INIT;
    set_bound(range->prefix, &request.prefix);
    set_bound(range->start, &request.start);
    set_bound(range->end, &request.end);
    request.limit = range->limit;
    request.reverse = range->reverse;
    request.keys_only = range->keys_only;
    entries to = {fn, arg};
    return stream(c, "/varve.v1.KV/Scan", &request.base, &varve__v1__scan_response__descriptor, give_entries,
                  &to, err);
}

typedef struct events {
    vv_client_event_fn fn;
    void *arg;
} events;

static bool give_events(void *arg, const ProtobufCMessage *message) {
    const events *to = arg;
    const Varve__V1__WatchResponse *response = (const Varve__V1__WatchResponse *)message;
    for (size_t i = 0; i < response->n_events; i++) {
        const Varve__V1__Event *e = response->events[i];
        bool is_delete = e->type == VARVE__V1__EVENT_TYPE__EVENT_TYPE_DELETE;
        vv_client_event event = {.kind = is_delete ? VV_CLIENT_EVENT_DELETE : VV_CLIENT_EVENT_PUT,
                                 .key = vv_slice_make(e->key.data, e->key.len),
                                 .value = vv_slice_make(e->value.data, e->value.len),
                                 .lsn = e->lsn,
                                 .expires_unix_ms = e->expires_unix_ms};
        if (!to->fn(to->arg, &event))
            return false;
    }
    vv_client_event mark = {.kind = VV_CLIENT_EVENT_MARK, .lsn = response->lsn};
    return to->fn(to->arg, &mark);
}

static bool do_watch(vv_client *c, const vv_client_range *range, uint64_t from_lsn, vv_client_event_fn fn,
                     void *arg, vv_client_error *err) {
    Varve__V1__WatchRequest request = VARVE__V1__WATCH_REQUEST__INIT;
    set_bound(range->prefix, &request.prefix);
    set_bound(range->start, &request.start);
    set_bound(range->end, &request.end);
    request.from_lsn = from_lsn;
    events to = {fn, arg};
    return stream(c, "/varve.v1.Watch/Watch", &request.base, &varve__v1__watch_response__descriptor,
                  give_events, &to, err);
}

static bool do_health(vv_client *c, const char *service, vv_client_health *out, vv_client_error *err) {
    static const vv_client_health meanings[] = {VV_CLIENT_HEALTH_UNKNOWN, VV_CLIENT_SERVING,
                                                VV_CLIENT_NOT_SERVING, VV_CLIENT_SERVICE_UNKNOWN};
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    request.service = (char *)(uintptr_t)service;
    ProtobufCMessage *message = unary(c, "/grpc.health.v1.Health/Check", &request.base,
                                      &grpc__health__v1__health_check_response__descriptor, err);
    if (!message)
        return false;
    unsigned status = (unsigned)((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
    *out = status < VV_ARRAY_COUNT(meanings) ? meanings[status] : VV_CLIENT_HEALTH_UNKNOWN;
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

/* ---- administration ---- */

#define ADMIN "/varve.v1.Admin/"

/* A call whose answer has nothing in it that is wanted. */
static bool admin_call(vv_client *c, const char *method, const ProtobufCMessage *request,
                       const ProtobufCMessageDescriptor *answer_type, vv_client_error *err) {
    ProtobufCMessage *message = unary(c, method, request, answer_type, err);
    if (message)
        protobuf_c_message_free_unpacked(message, NULL);
    return message != NULL;
}

static bool do_flush(vv_client *c, vv_client_error *err) {
    Varve__V1__FlushRequest request = VARVE__V1__FLUSH_REQUEST__INIT;
    return admin_call(c, ADMIN "Flush", &request.base, &varve__v1__flush_response__descriptor, err);
}

static bool do_compact(vv_client *c, vv_client_error *err) {
    Varve__V1__CompactRequest request = VARVE__V1__COMPACT_REQUEST__INIT;
    return admin_call(c, ADMIN "Compact", &request.base, &varve__v1__compact_response__descriptor, err);
}

static void copy_text(char *to, size_t to_bytes, ProtobufCBinaryData from) {
    snprintf(to, to_bytes, "%.*s", (int)VV_MIN(from.len, to_bytes - 1),
             from.data ? (const char *)from.data : "");
}

static void take_replicas(const Varve__V1__StatusResponse *r, vv_client_status *out) {
    out->replica_count = VV_MIN(r->n_replicas, VV_ARRAY_COUNT(out->replicas));
    for (size_t i = 0; i < out->replica_count; i++) {
        const Varve__V1__Replica *from = r->replicas[i];
        vv_client_replica *to = &out->replicas[i];
        *to = (vv_client_replica){.connected = from->connected,
                                  .lost = from->lost,
                                  .confirmed_lsn = from->confirmed_lsn,
                                  .lag_lsn = from->lag_lsn,
                                  .held_bytes = from->held_bytes};
        copy_text(to->slot, sizeof to->slot, from->slot);
        snprintf(to->peer, sizeof to->peer, "%s", from->peer);
    }
}

static bool do_status(vv_client *c, vv_client_status *out, vv_client_error *err) {
    Varve__V1__StatusRequest request = VARVE__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *message =
        unary(c, ADMIN "Status", &request.base, &varve__v1__status_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__StatusResponse *r = (const Varve__V1__StatusResponse *)message;
    *out = (vv_client_status){.serving = r->serving,
                              .wal_failed = r->wal_failed,
                              .last_lsn = r->last_lsn,
                              .durable_lsn = r->durable_lsn,
                              .flushed_lsn = r->flushed_lsn,
                              .safe_compaction_lsn = r->safe_compaction_lsn,
                              .epoch = r->epoch,
                              .promised_epoch = r->promised_epoch,
                              .uptime_ms = r->uptime_ms,
                              .connected = r->connected,
                              .applied_lsn = r->applied_lsn,
                              .lag_lsn = r->lag_lsn,
                              .lag_bytes = r->lag_bytes,
                              .lag_ms = r->lag_ms,
                              .quorum = r->quorum,
                              .committed_lsn = r->committed_lsn};
    copy_text(out->node, sizeof out->node, r->node);
    copy_text(out->primary, sizeof out->primary, r->primary);
    take_replicas(r, out);
    snprintf(out->version, sizeof out->version, "%s", r->version);
    snprintf(out->role, sizeof out->role, "%s", r->role);
    snprintf(out->io_backend, sizeof out->io_backend, "%s", r->io_backend);
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

static bool do_stats(vv_client *c, vv_client_stats *out, vv_client_error *err) {
    static vv_client_status status;
    Varve__V1__StatsRequest request = VARVE__V1__STATS_REQUEST__INIT;
    ProtobufCMessage *message =
        unary(c, ADMIN "Stats", &request.base, &varve__v1__stats_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__StatsResponse *r = (const Varve__V1__StatsResponse *)message;
    for (size_t i = 0; i < r->n_stats; i++)
        vv_client_stats_add(out, r->stats[i]->name, r->stats[i]->value);
    protobuf_c_message_free_unpacked(message, NULL);
    if (!do_status(c, &status, err))
        return false;
    out->wal_failed = status.wal_failed;
    snprintf(out->io_backend, sizeof out->io_backend, "%s", status.io_backend);
    return true;
}

static bool do_backup(vv_client *c, const vv_client_backup *backup, varve_backup_info *out,
                      vv_client_error *err) {
    Varve__V1__BackupRequest request = VARVE__V1__BACKUP_REQUEST__INIT;
    request.name = borrow(vv_slice_str(backup->dest));
    if (backup->incremental)
        request.incremental = borrow(vv_slice_str(backup->incremental));
    request.hard_links = backup->link;
    ProtobufCMessage *message =
        unary(c, ADMIN "Backup", &request.base, &varve__v1__backup_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__BackupResponse *r = (const Varve__V1__BackupResponse *)message;
    *out = (varve_backup_info){
        .lsn = r->lsn, .file_count = r->file_count, .bytes = r->bytes, .copied_bytes = r->copied_bytes};
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

static bool do_verify(vv_client *c, vv_client_damage_fn fn, void *arg, varve_verify_result *out,
                      vv_client_error *err) {
    Varve__V1__VerifyRequest request = VARVE__V1__VERIFY_REQUEST__INIT;
    ProtobufCMessage *message =
        unary(c, ADMIN "Verify", &request.base, &varve__v1__verify_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__VerifyResponse *r = (const Varve__V1__VerifyResponse *)message;
    for (size_t i = 0; i < r->n_damages; i++) {
        const Varve__V1__Damage *d = r->damages[i];
        bool has_keys = d->last_key.len > 0;
        varve_damage damage = {.file = d->file,
                               .offset = d->offset,
                               .first_key = has_keys ? d->first_key.data : NULL,
                               .first_key_bytes = d->first_key.len,
                               .last_key = has_keys ? d->last_key.data : NULL,
                               .last_key_bytes = d->last_key.len,
                               .text = d->message};
        fn(arg, &damage);
    }
    *out = (varve_verify_result){.file_count = r->file_count,
                                 .block_count = r->block_count,
                                 .bytes = r->bytes,
                                 .damage_count = r->damage_count};
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

static bool do_promote(vv_client *c, bool force, uint64_t *epoch_out, vv_client_error *err) {
    Varve__V1__PromoteRequest request = VARVE__V1__PROMOTE_REQUEST__INIT;
    request.force = force;
    ProtobufCMessage *message =
        unary(c, ADMIN "Promote", &request.base, &varve__v1__promote_response__descriptor, err);
    if (!message)
        return false;
    *epoch_out = ((const Varve__V1__PromoteResponse *)message)->epoch;
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

/* ---- life ---- */

static bool do_close(vv_client *client, vv_client_error *err) {
    (void)err;
    grpc_client *c = (grpc_client *)client;
    if (c->channel)
        grpc_channel_destroy(c->channel);
    if (c->queue) {
        grpc_completion_queue_shutdown(c->queue);
        grpc_completion_queue_destroy(c->queue);
    }
    vv_free(c->authorization);
    vv_free(c);
    grpc_shutdown_blocking();
    return true;
}

static const vv_client_ops grpc_ops = {
    .get = do_get,
    .put = do_put,
    .del = do_del,
    .write = do_write,
    .scan = do_scan,
    .watch = do_watch,
    .health = do_health,
    .flush = do_flush,
    .compact = do_compact,
    .stats = do_stats,
    .status = do_status,
    .backup = do_backup,
    .verify = do_verify,
    .promote = do_promote,
    .close = do_close,
};

/* What the core has to say about a failed connection stands in the status of the call, too. */
static void drop_log(gpr_log_func_args *args) {
    (void)args;
}

/* A small text file with a zero behind its end, the caller's to deinit; NULL: *err says why. */
static const char *read_text(const char *path, vv_bytes *out, vv_client_error *err) {
    FILE *file = fopen(path, "re");
    int error = file ? vv_bytes_read(out, file, (size_t)1 << 20) : errno;
    if (file)
        fclose(file);
    vv_bytes_push(out, '\0');
    if (error == 0)
        return (const char *)out->data;
    char words[256];
    snprintf(words, sizeof words, "%s: %s", path, strerror(error));
    vv_client_fail(err, "UNREADABLE_FILE", "", words);
    return NULL;
}

/* False: *err. */
static bool take_token(grpc_client *c, const vv_client_target *target, vv_client_error *err) {
    vv_bytes file = {0};
    const char *token = target->token_file ? read_text(target->token_file, &file, err) : target->token;
    bool taken = !target->token_file || token;
    if (token) {
        token += strspn(token, " \t\r\n");
        size_t bytes = strcspn(token, " \t\r\n");
        c->authorization = vv_alloc(sizeof "Bearer " + bytes);
        taken = c->authorization != NULL;
        if (taken)
            snprintf(c->authorization, sizeof "Bearer " + bytes, "Bearer %.*s", (int)bytes, token);
        else
            vv_client_fail(err, "NO_MEMORY", "", "out of memory");
    }
    vv_bytes_deinit(&file);
    return taken;
}

/* NULL: *err. */
static grpc_channel_credentials *make_credentials(const vv_client_target *target, vv_client_error *err) {
    if (!target->tls_ca)
        return grpc_insecure_credentials_create();
    vv_bytes files[3] = {{0}};
    const char *ca = read_text(target->tls_ca, &files[0], err);
    grpc_ssl_pem_key_cert_pair own = {0};
    bool complete = ca != NULL;
    if (complete && target->tls_cert) {
        own.cert_chain = read_text(target->tls_cert, &files[1], err);
        own.private_key = own.cert_chain ? read_text(target->tls_key, &files[2], err) : NULL;
        complete = own.private_key != NULL;
    }
    grpc_channel_credentials *credentials = NULL;
    if (complete)
        credentials = grpc_ssl_credentials_create(ca, target->tls_cert ? &own : NULL, NULL, NULL);
    if (complete && !credentials)
        vv_client_fail(err, "BAD_CREDENTIALS", "", "--tls-ca, --tls-cert or --tls-key is not usable");
    for (size_t i = 0; i < VV_ARRAY_COUNT(files); i++)
        vv_bytes_deinit(&files[i]);
    return credentials;
}

vv_client *vv_client_grpc_open(const vv_client_target *target, vv_client_error *err) {
    if (!getenv("GRPC_VERBOSITY"))
        gpr_set_log_function(drop_log);
    grpc_init();
    grpc_client *c = vv_alloc_zeroed(sizeof *c);
    if (!c) {
        grpc_shutdown_blocking();
        vv_client_fail(err, "NO_MEMORY", "", "out of memory");
        return NULL;
    }
    c->client.ops = &grpc_ops;
    c->timeout_us = target->timeout_us;
    c->queue = grpc_completion_queue_create_for_pluck(NULL);

    char max_receive[] = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, retries[] = GRPC_ARG_ENABLE_RETRIES;
    char proxy[] = GRPC_ARG_ENABLE_HTTP_PROXY;
    grpc_arg args[] = {
        {.type = GRPC_ARG_INTEGER,
         .key = max_receive,
         .value.integer = -1}, /* values are as big as they are */
        {.type = GRPC_ARG_INTEGER, .key = retries, .value.integer = 0},
        {.type = GRPC_ARG_INTEGER, .key = proxy, .value.integer = 0}, /* a database is no web page */
    };
    grpc_channel_args channel_args = {.num_args = VV_ARRAY_COUNT(args), .args = args};
    grpc_channel_credentials *credentials = take_token(c, target, err) ? make_credentials(target, err) : NULL;
    if (!credentials) {
        vv_client_error none;
        (void)vv_client_close(&c->client, &none);
        return NULL;
    }
    c->channel = grpc_channel_create(target->address, credentials, &channel_args);
    grpc_channel_credentials_release(credentials);
    return &c->client;
}
