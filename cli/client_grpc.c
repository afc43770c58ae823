/*
 * client_grpc.c - the client that calls a varved, as other varveds do (rpc/peer.h).
 *
 * One call at a time. Calls are never repeated: whether to write again after UNAVAILABLE is for who typed the
 * command to say.
 */
#include <grpc/support/log.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/compiler.h"
#include "cli/bytes.h"
#include "cli/client.h"
#include "grpc/health/v1/health.pb-c.h"
#include "rpc/call_log.h"
#include "rpc/peer.h"
#include "varve/v1/admin.pb-c.h"
#include "varve/v1/kv.pb-c.h"
#include "varve/v1/watch.pb-c.h"

typedef struct grpc_client {
    vv_client client; /* first: a vv_client * is one of these */
    vv_peer *peer;
    uint64_t timeout_ns; /* of a call from its start; UINT64_MAX: none */
} grpc_client;

/* ---- calls ---- */

static bool fail(vv_client_error *err, const vv_peer_error *why) {
    return vv_client_fail(err, vv_rpc_code_name(why->code), why->reason, why->message);
}

static bool fail_answer(vv_client_error *err) {
    return vv_client_fail(err, "INTERNAL", "", "the server's answer is not a message of its kind");
}

/* The caller deinits it. */
static vv_bytes pack(const ProtobufCMessage *message) {
    vv_bytes packed = {0};
    size_t bytes = protobuf_c_message_get_packed_size(message);
    packed.bytes += protobuf_c_message_pack(message, vv_bytes_reserve(&packed, bytes));
    return packed;
}

/* The unpacked answer, which the caller frees; NULL: *err. */
static ProtobufCMessage *unary(vv_client *client, const char *method, const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *answer_type, vv_client_error *err) {
    grpc_client *c = (grpc_client *)client;
    vv_bytes packed = pack(request);
    vv_peer_error why;
    uint8_t *reply;
    size_t reply_bytes;
    ProtobufCMessage *answer = NULL;
    if (!vv_peer_call(c->peer, method, vv_bytes_slice(&packed), c->timeout_ns, &reply, &reply_bytes, &why))
        fail(err, &why);
    else if (!(answer = protobuf_c_message_unpack(answer_type, NULL, reply_bytes, reply)))
        fail_answer(err);
    vv_free(reply);
    vv_bytes_deinit(&packed);
    return answer;
}

/* What to do with a message of a stream, which is freed afterwards. False: no more of them. */
typedef bool (*message_fn)(void *arg, const ProtobufCMessage *message);

/* What is left of the time that began at start_ns. */
static uint64_t time_left(const grpc_client *c, uint64_t start_ns) {
    if (c->timeout_ns == UINT64_MAX)
        return UINT64_MAX;
    uint64_t passed_ns = vv_clock_mono_ns() - start_ns;
    return passed_ns < c->timeout_ns ? c->timeout_ns - passed_ns : 0;
}

/* One request, many messages. On failure some may have come already. */
static bool stream(vv_client *client, const char *method, const ProtobufCMessage *request,
                   const ProtobufCMessageDescriptor *type, message_fn fn, void *arg, vv_client_error *err) {
    grpc_client *c = (grpc_client *)client;
    uint64_t start_ns = vv_clock_mono_ns();
    vv_bytes packed = pack(request);
    vv_peer_error why;
    vv_slice bytes;
    vv_peer_stream *s = vv_peer_stream_open(c->peer, method, vv_bytes_slice(&packed), &why);
    vv_peer_next next = s ? VV_PEER_MESSAGE : VV_PEER_FAILED;
    bool fine = true, enough = false;
    while (fine && !enough && s &&
           (next = vv_peer_stream_next(s, time_left(c, start_ns), &bytes, &why)) == VV_PEER_MESSAGE) {
        ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, bytes.bytes, bytes.data);
        fine = message != NULL;
        enough = fine && !fn(arg, message);
        if (message)
            protobuf_c_message_free_unpacked(message, NULL);
    }
    vv_peer_stream_close(s);
    vv_bytes_deinit(&packed);
    if (!fine)
        return fail_answer(err);
    return next == VV_PEER_FAILED ? fail(err, &why) : true;
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

static bool do_dashboard(vv_client *c, vv_bytes *json_out, vv_client_error *err) {
    Varve__V1__DashboardRequest request = VARVE__V1__DASHBOARD_REQUEST__INIT;
    ProtobufCMessage *message =
        unary(c, ADMIN "Dashboard", &request.base, &varve__v1__dashboard_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__DashboardResponse *r = (const Varve__V1__DashboardResponse *)message;
    vv_bytes_append(json_out, r->json.data, r->json.len);
    protobuf_c_message_free_unpacked(message, NULL);
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

static size_t take_keys(char to[VV_CLIENT_KEYS_MAX][48], char **keys, size_t count) {
    count = VV_MIN(count, (size_t)VV_CLIENT_KEYS_MAX);
    for (size_t i = 0; i < count; i++)
        snprintf(to[i], sizeof to[i], "%s", keys[i]);
    return count;
}

static bool do_reload(vv_client *c, vv_client_reload_report *out, vv_client_error *err) {
    Varve__V1__ReloadRequest request = VARVE__V1__RELOAD_REQUEST__INIT;
    ProtobufCMessage *message =
        unary(c, ADMIN "Reload", &request.base, &varve__v1__reload_response__descriptor, err);
    if (!message)
        return false;
    const Varve__V1__ReloadResponse *r = (const Varve__V1__ReloadResponse *)message;
    out->changed_count = take_keys(out->changed, r->changed, r->n_changed);
    out->restart_count = take_keys(out->restart_needed, r->restart_needed, r->n_restart_needed);
    protobuf_c_message_free_unpacked(message, NULL);
    return true;
}

/* ---- life ---- */

static bool do_close(vv_client *client, vv_client_error *err) {
    (void)err;
    grpc_client *c = (grpc_client *)client;
    vv_peer_destroy(c->peer);
    vv_free(c);
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
    .dashboard = do_dashboard,
    .status = do_status,
    .backup = do_backup,
    .verify = do_verify,
    .promote = do_promote,
    .reload = do_reload,
    .close = do_close,
};

/* What the core has to say about a failed connection stands in the status of the call, too. */
static void drop_log(gpr_log_func_args *args) {
    (void)args;
}

vv_client *vv_client_grpc_open(const vv_client_target *target, vv_client_error *err) {
    if (!getenv("GRPC_VERBOSITY"))
        gpr_set_log_function(drop_log);
    grpc_client *c = vv_alloc_zeroed(sizeof *c);
    if (!c) {
        vv_client_fail(err, "NO_MEMORY", "", "out of memory");
        return NULL;
    }
    c->client.ops = &grpc_ops;
    c->timeout_ns = target->timeout_us ? target->timeout_us * VV_NS_PER_US : UINT64_MAX;
    vv_peer_options options = {.address = target->address,
                               .token = target->token,
                               .token_file = target->token_file,
                               .tls_ca = target->tls_ca,
                               .tls_cert = target->tls_cert,
                               .tls_key = target->tls_key,
                               .patient = true};
    vv_error why = {""};
    vv_status st = vv_peer_create(&options, &c->peer, &why);
    if (!vv_ok(st)) {
        vv_client_fail(err, vv_code_name(st.code), "", why.text);
        vv_free(c);
        return NULL;
    }
    return &c->client;
}
