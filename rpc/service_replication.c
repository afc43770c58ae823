/*
 * service_replication.c - varve.v1.Replication: the table, Hello and Confirm.
 *
 * Confirm is answered on the thread that it arrives on. So is a Hello that only asks; one that wants a
 * promise is a worker's, since the promise is durable before it is answered, and since it waits for a
 * follower that is about to apply something (replication.h, promises).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "rpc/chunk_stream.h"
#include "rpc/node.h"
#include "rpc/replication_impl.h"
#include "rpc/status_map.h"

#define WORKER_COUNT 3
#define RETRY_MS     1000

/* ---- what has its words here ---- */

bool vv_replicas_check_database(vv_replicas *s, vv_slice id, vv_rpc_status *why) {
    uint8_t own[VARVE_DATABASE_ID_BYTES];
    varve_database_id(s->options.db, own);
    if (id.bytes == 0 || vv_slice_equal(id, vv_slice_make(own, sizeof own)))
        return true;
    vv_rpc_status_set(why, VV_RPC_FAILED_PRECONDITION, "WRONG_DATABASE", 0,
                      "the other one is a replica of another database");
    return false;
}

void vv_replicas_say_epoch_too_old(vv_rpc_status *why, uint64_t promised_epoch) {
    char epoch[24];
    vv_rpc_detail detail = {"epoch", epoch};
    snprintf(epoch, sizeof epoch, "%" PRIu64, promised_epoch);
    vv_rpc_status_set_details(why, VV_RPC_FAILED_PRECONDITION, "EPOCH_TOO_OLD", 0, &detail, 1,
                              "epoch %s has been promised", epoch);
}

bool vv_replicas_slot_name(vv_rpc_call *call, ProtobufCBinaryData name,
                           char out[VARVE_SLOT_NAME_BYTES_MAX + 1]) {
    bool good = name.len == 0 || vv_node_name_valid(vv_slice_make(name.data, name.len));
    if (good)
        snprintf(out, VARVE_SLOT_NAME_BYTES_MAX + 1, "%.*s", (int)name.len, (const char *)name.data);
    else
        vv_rpc_fail_with(call, VV_RPC_INVALID_ARGUMENT, "BAD_SLOT", 0,
                         "slot: allowed are 1 to %d letters, digits and ._:-, and not \"%s\"",
                         VARVE_SLOT_NAME_BYTES_MAX, VARVE_ARCHIVE_SLOT);
    return good;
}

void vv_replicas_say_too_many(vv_rpc_status *why) {
    vv_rpc_status_set(why, VV_RPC_RESOURCE_EXHAUSTED, "TOO_MANY_REPLICAS", RETRY_MS,
                      "there are %d slots already", VARVE_SLOTS_MAX);
}

/* ---- Confirm ---- */

static void on_confirm(vv_rpc_call *call, vv_slice request) {
    vv_replicas *s = call->service;
    vv_codec_arena arena;
    vv_codec_small buf;
    vv_codec_arena_init(&arena);
    const Varve__V1__ConfirmRequest *confirm =
        (void *)vv_codec_request(call, &arena, &varve__v1__confirm_request__descriptor, request);
    if (confirm && vv_replication_confirm(s->options.replication, confirm->session, confirm->durable_lsn)) {
        Varve__V1__ConfirmResponse r = VARVE__V1__CONFIRM_RESPONSE__INIT;
        r.committed_lsn = vv_replication_committed_lsn(s->options.replication);
        vv_codec_pack_small(&r.base, &buf);
        vv_rpc_reply(call, vv_rpc_body_copy(buf.data, buf.bytes));
    } else if (confirm) {
        vv_rpc_fail_with(call, VV_RPC_FAILED_PRECONDITION, "SESSION_UNKNOWN", 0,
                         "there is no stream of this session any more");
    }
    vv_codec_arena_deinit(&arena);
}

/* ---- Hello ---- */

/* A call on its way through a worker, which has it between submit and post. */
typedef struct hello_job {
    vv_job job;
    vv_rpc_call *call;
    vv_replicas *service;
    uint64_t epoch;
    varve_status status;
    varve_error words;
} hello_job;

typedef struct hello_state {
    hello_job *job;
} hello_state;

static hello_state *state_of(vv_rpc_call *call) {
    return (hello_state *)(void *)call->state;
}

static char *unconst(const char *text) {
    return (char *)(uintptr_t)text;
}

static ProtobufCBinaryData bytes_of(const char *text) {
    return (ProtobufCBinaryData){.data = (uint8_t *)unconst(text), .len = strlen(text)};
}

static void reply_hello(vv_rpc_call *call, vv_replicas *s) {
    vv_replication *r = s->options.replication;
    varve_epoch history[VARVE_EPOCHS_MAX];
    Varve__V1__Epoch epochs[VARVE_EPOCHS_MAX], *pointers[VARVE_EPOCHS_MAX];
    uint8_t id[VARVE_DATABASE_ID_BYTES];
    char primary[VV_ADDRESS_BYTES_MAX + 1];
    varve_stats stats;
    size_t count = varve_epochs_get(s->options.db, history);
    for (size_t i = 0; i < count; i++) {
        varve__v1__epoch__init(&epochs[i]);
        epochs[i].epoch = history[i].epoch;
        epochs[i].first_lsn = history[i].first_lsn;
        epochs[i].id = history[i].id;
        pointers[i] = &epochs[i];
    }
    varve_database_id(s->options.db, id);
    varve_stats_get(s->options.db, &stats);
    vv_replication_get_primary(r, primary);
    Varve__V1__HelloResponse m = VARVE__V1__HELLO_RESPONSE__INIT;
    m.database_id = (ProtobufCBinaryData){.data = id, .len = sizeof id};
    m.role = unconst(vv_role_name(vv_replication_role(r)));
    m.promised_epoch = stats.promised_epoch;
    m.history = pointers;
    m.n_history = count;
    m.durable_lsn = stats.durable_lsn;
    m.node = bytes_of(vv_replication_node(r));
    m.primary = bytes_of(primary);
    vv_codec_reply(call, &m.base);
}

static void run_hello(vv_job *job) {
    hello_job *j = VV_CONTAINER_OF(job, hello_job, job);
    j->status = vv_replication_promise(j->service->options.replication, j->epoch, &j->words);
    vv_rpc_post_and_wake(j->call);
}

static void on_promised(vv_rpc_call *call) {
    hello_job *j = state_of(call)->job;
    vv_replicas *s = j->service;
    vv_rpc_status status;
    if (varve_ok(j->status)) {
        vv_log(s->options.log, VV_LOG_INFO, "replication: epoch %" PRIu64 " is promised", j->epoch);
        reply_hello(call, s);
    } else if (j->status.reason == VV_SUB_EPOCH_TOO_OLD) {
        varve_stats stats;
        varve_stats_get(s->options.db, &stats);
        vv_replicas_say_epoch_too_old(&status, VV_MAX(stats.promised_epoch, stats.epoch));
        vv_rpc_fail(call, &status);
    } else {
        vv_rpc_status_from_engine_words(&status, j->status, j->words.text);
        vv_rpc_fail(call, &status);
    }
    vv_free(j);
}

/* From here on the call is the worker's until on_promised(). */
static void submit_hello(vv_rpc_call *call, vv_replicas *s, uint64_t epoch) {
    hello_job *j = vv_alloc_zeroed(sizeof *j);
    if (j) {
        *j = (hello_job){.job = {.run = run_hello}, .call = call, .service = s, .epoch = epoch};
        state_of(call)->job = j;
        if (vv_workers_submit(s->workers, &j->job))
            return;
    }
    vv_free(j);
    vv_rpc_fail_with(call, VV_RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", RETRY_MS, "out of memory");
}

static void on_hello(vv_rpc_call *call, vv_slice request) {
    vv_replicas *s = call->service;
    vv_codec_arena arena;
    vv_rpc_status status;
    vv_codec_arena_init(&arena);
    const Varve__V1__HelloRequest *hello =
        (void *)vv_codec_request(call, &arena, &varve__v1__hello_request__descriptor, request);
    if (hello) {
        vv_slice id = vv_slice_make(hello->database_id.data, hello->database_id.len);
        if (!vv_replicas_check_database(s, id, &status))
            vv_rpc_fail(call, &status);
        else if (hello->promise_epoch != 0)
            submit_hello(call, s, hello->promise_epoch);
        else
            reply_hello(call, s);
    }
    vv_codec_arena_deinit(&arena);
}

/* ---- the service ---- */

#define METHOD(name) .path = "/" VV_REPLICATION_SERVICE_NAME "/" name, .access = VV_RPC_REPLICA

static const vv_rpc_method methods[] = {
    {METHOD("StreamWal"), .kind = VV_RPC_SERVER_STREAM, .on_call = vv_stream_wal_on_call,
     .on_written = vv_stream_wal_on_written, .on_posted = vv_stream_wal_on_posted,
     .on_cancelled = vv_stream_wal_on_cancelled, .on_drain = vv_stream_wal_on_drain},
    /* While the server drains too: writes in flight may wait for it. */
    {METHOD("Confirm"), .kind = VV_RPC_UNARY, .while_draining = true, .on_call = on_confirm},
    {METHOD("Hello"), .kind = VV_RPC_UNARY, .on_call = on_hello, .on_posted = on_promised},
    {METHOD("TakeSnapshot"), .kind = VV_RPC_UNARY, .on_call = vv_take_snapshot_on_call,
     .on_posted = vv_take_snapshot_on_posted, .on_cancelled = vv_take_snapshot_on_cancelled},
    {METHOD("FetchFile"), .kind = VV_RPC_SERVER_STREAM, .on_call = vv_fetch_file_on_call,
     .on_written = vv_chunk_stream_on_written, .on_posted = vv_chunk_stream_on_posted,
     .on_cancelled = vv_chunk_stream_on_cancelled, .on_drain = vv_chunk_stream_on_drain},
    {METHOD("ReleaseSnapshot"), .kind = VV_RPC_UNARY, .on_call = vv_release_snapshot_on_call},
};

void vv_replicas_init(vv_replicas *s) {
    *s = (vv_replicas){.workers = NULL};
    vv_log_streams_init(&s->streams);
}

vv_status vv_replicas_start(vv_replicas *s, const vv_replicas_options *options) {
    s->options = *options;
    vv_workers_options o = {.name = "varve-stream", .thread_count = WORKER_COUNT, .queue_max = UINT32_MAX};
    vv_status st = vv_workers_create(&o, &s->workers);
    if (vv_ok(st))
        vv_streams_start(s);
    return st;
}

void vv_replicas_stop(vv_replicas *s) {
    vv_log_streams_stop(&s->streams);
    vv_workers_destroy(s->workers);
    s->workers = NULL;
}

void vv_replicas_deinit(vv_replicas *s) {
    vv_log_streams_deinit(&s->streams);
}

vv_rpc_service vv_replication_service(vv_replicas *s) {
    return (vv_rpc_service){.methods = methods, .method_count = VV_ARRAY_COUNT(methods), .self = s};
}
