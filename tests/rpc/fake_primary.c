#include "tests/rpc/fake_primary.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/codec.h"
#include "rpc/grpc_transport.h"
#include "rpc/status_map.h"

#define FRAMES_MAX  16
#define PATIENCE_NS (30 * VV_NS_PER_S)

typedef struct packed {
    uint8_t *data;
    size_t bytes;
} packed;

static struct {
    vv_grpc *transport;
    char address[32];
    vv_mutex lock;
    vv_cond changed;
    fake_words words;
    vv_rpc_call *call; /* of the stream */
    bool writing, posted;
    packed frames[FRAMES_MAX]; /* to be written */
    size_t frame_count;
    size_t streams, ended;
    uint64_t after_lsn, confirmed_lsn;
} fake;

static packed pack(const ProtobufCMessage *message) {
    packed p = {.bytes = protobuf_c_message_get_packed_size(message)};
    p.data = malloc(p.bytes + 1);
    protobuf_c_message_pack(message, p.data);
    return p;
}

/* ---- Hello, Confirm ---- */

typedef struct history {
    Varve__V1__Epoch epochs[4], *pointers[4];
} history;

static Varve__V1__Epoch **fill(history *h) {
    for (size_t i = 0; i < fake.words.history_count; i++) {
        varve__v1__epoch__init(h->pointers[i] = &h->epochs[i]);
        h->epochs[i].epoch = fake.words.history[i].epoch;
        h->epochs[i].first_lsn = fake.words.history[i].first_lsn;
        h->epochs[i].id = fake.words.history[i].id;
    }
    return h->pointers;
}

static void on_hello(vv_rpc_call *call, vv_slice request) {
    (void)request;
    static char role[] = "primary", node[] = "fake";
    Varve__V1__HelloResponse m = VARVE__V1__HELLO_RESPONSE__INIT;
    history h;
    vv_mutex_lock(&fake.lock);
    m.database_id = (ProtobufCBinaryData){.data = fake.words.database_id, .len = VARVE_DATABASE_ID_BYTES};
    m.role = fake.words.role ? (char *)(uintptr_t)fake.words.role : role;
    m.node = (ProtobufCBinaryData){.data = (uint8_t *)node, .len = strlen(node)};
    m.durable_lsn = fake.words.durable_lsn;
    m.history = fill(&h);
    m.n_history = fake.words.history_count;
    packed p = pack(&m.base);
    vv_mutex_unlock(&fake.lock);
    vv_rpc_reply(call, vv_rpc_body_copy(p.data, p.bytes));
    free(p.data);
}

static void on_confirm(vv_rpc_call *call, vv_slice request) {
    Varve__V1__ConfirmRequest *m = varve__v1__confirm_request__unpack(NULL, request.bytes, request.data);
    vv_mutex_lock(&fake.lock);
    fake.confirmed_lsn = VV_MAX(fake.confirmed_lsn, m->durable_lsn);
    vv_cond_broadcast(&fake.changed);
    vv_mutex_unlock(&fake.lock);
    varve__v1__confirm_request__free_unpacked(m, NULL);
    vv_rpc_reply(call, vv_rpc_body_copy("\x08\x00", 2));
}

/* ---- StreamWal; on the call's thread, with the lock ---- */

static void step(void) {
    if (fake.writing || fake.posted || !fake.call)
        return;
    if (fake.call->cancelled) {
        vv_rpc_call *call = fake.call;
        fake.call = NULL;
        fake.ended++;
        vv_cond_broadcast(&fake.changed);
        vv_rpc_fail_with(call, VV_RPC_CANCELLED, "CANCELLED", 0, "cancelled");
    } else if (fake.frame_count > 0) {
        packed p = fake.frames[0];
        memmove(fake.frames, fake.frames + 1, --fake.frame_count * sizeof p);
        fake.writing = true;
        vv_rpc_stream_write(fake.call, vv_rpc_body_copy(p.data, p.bytes));
        free(p.data);
    }
}

static void locked_step(vv_rpc_call *call, bool written, bool posted) {
    vv_mutex_lock(&fake.lock);
    fake.writing &= !written && !call->cancelled;
    fake.posted &= !posted;
    step();
    vv_mutex_unlock(&fake.lock);
}

static void on_written(vv_rpc_call *call) {
    locked_step(call, true, false);
}

static void on_posted(vv_rpc_call *call) {
    locked_step(call, false, true);
}

static void on_cancelled(vv_rpc_call *call) {
    locked_step(call, false, false);
}

static void drop_frames(void) {
    while (fake.frame_count > 0)
        free(fake.frames[--fake.frame_count].data);
}

static void push_first(void) {
    history h;
    Varve__V1__WalFrame m = VARVE__V1__WAL_FRAME__INIT;
    m.history = fill(&h);
    m.n_history = fake.words.history_count;
    m.epoch = fake.words.first_epoch ? fake.words.first_epoch
                                     : fake.words.history[fake.words.history_count - 1].epoch;
    m.durable_lsn = fake.words.durable_lsn;
    m.committed_lsn = UINT64_MAX;
    m.session = fake.streams;
    drop_frames();
    fake.frames[fake.frame_count++] = pack(&m.base);
}

static void refuse(vv_rpc_call *call) {
    vv_rpc_status status;
    vv_rpc_detail detail = {fake.words.detail_key, fake.words.detail};
    vv_rpc_status_set_details(&status, VV_RPC_FAILED_PRECONDITION, fake.words.refusal, 0, &detail,
                              fake.words.detail_key ? 1 : 0, "refused");
    fake.ended++;
    vv_rpc_fail(call, &status);
}

static void on_stream(vv_rpc_call *call, vv_slice request) {
    Varve__V1__StreamWalRequest *m = varve__v1__stream_wal_request__unpack(NULL, request.bytes, request.data);
    vv_mutex_lock(&fake.lock);
    cr_assert_null(fake.call, "one at a time");
    fake.streams++;
    fake.after_lsn = m->after_lsn;
    if (fake.words.refusal) {
        refuse(call);
    } else {
        fake.call = call;
        fake.writing = fake.posted = false;
        push_first();
        step();
    }
    vv_cond_broadcast(&fake.changed);
    vv_mutex_unlock(&fake.lock);
    varve__v1__stream_wal_request__free_unpacked(m, NULL);
}

static const vv_rpc_method methods[] = {
    {.path = "/varve.v1.Replication/StreamWal",
     .kind = VV_RPC_SERVER_STREAM,
     .on_call = on_stream,
     .on_written = on_written,
     .on_posted = on_posted,
     .on_cancelled = on_cancelled},
    {.path = "/varve.v1.Replication/Confirm", .kind = VV_RPC_UNARY, .on_call = on_confirm},
    {.path = "/varve.v1.Replication/Hello", .kind = VV_RPC_UNARY, .on_call = on_hello},
};

/* ---- the test's side ---- */

void fake_primary_start(void) {
    vv_mutex_init(&fake.lock);
    vv_cond_init(&fake.changed);
    vv_error err;
    vv_grpc_options options = {.thread_count = 1,
                               .message_bytes_max = 1 << 20,
                               .memory_quota_bytes = 64 << 20,
                               .metadata_bytes_max = 16384,
                               .connection_streams_max = 100,
                               .keepalive_time_us = 60000000,
                               .keepalive_timeout_us = 20000000,
                               .handshake_timeout_us = 10000000,
                               .client_ping_us = 1000000};
    static const vv_rpc_service service = {.methods = methods, .method_count = VV_ARRAY_COUNT(methods)};
    int port;
    cr_assert(vv_ok(vv_grpc_create(&options, &fake.transport)));
    cr_assert(vv_ok(vv_grpc_listen(fake.transport, "127.0.0.1:0", &port, &err)), "%s", err.text);
    cr_assert(vv_ok(vv_grpc_start(fake.transport, &service, 1, &err)), "%s", err.text);
    snprintf(fake.address, sizeof fake.address, "127.0.0.1:%d", port);
}

void fake_primary_stop(void) {
    if (!fake.transport)
        return;
    vv_grpc_drain(fake.transport, 0);
    vv_grpc_stop(fake.transport);
    vv_grpc_destroy(fake.transport);
    drop_frames();
    vv_cond_deinit(&fake.changed);
    vv_mutex_deinit(&fake.lock);
}

const char *fake_primary_address(void) {
    return fake.address;
}

void fake_primary_say(const fake_words *words) {
    vv_mutex_lock(&fake.lock);
    fake.words = *words;
    vv_mutex_unlock(&fake.lock);
}

/* With the lock. */
static void await(bool (*holds)(uint64_t arg), uint64_t arg, const char *what) {
    uint64_t until = vv_clock_mono_ns() + PATIENCE_NS;
    bool time_left = true;
    while (!holds(arg) && time_left)
        time_left = vv_cond_wait_until(&fake.changed, &fake.lock, until);
    cr_assert(holds(arg), "%s %lu", what, arg);
}

static bool has_streams(uint64_t n) {
    return fake.streams >= n;
}

static bool has_ended(uint64_t n) {
    return fake.ended >= n;
}

static bool has_confirmed(uint64_t lsn) {
    return fake.confirmed_lsn >= lsn;
}

uint64_t fake_primary_await_stream(size_t n) {
    vv_mutex_lock(&fake.lock);
    await(has_streams, n, "stream");
    uint64_t lsn = fake.after_lsn;
    vv_mutex_unlock(&fake.lock);
    return lsn;
}

void fake_primary_await_end(size_t n) {
    vv_mutex_lock(&fake.lock);
    await(has_ended, n, "end of stream");
    vv_mutex_unlock(&fake.lock);
}

uint64_t fake_primary_await_confirmed(uint64_t lsn) {
    vv_mutex_lock(&fake.lock);
    await(has_confirmed, lsn, "confirmed LSN");
    lsn = fake.confirmed_lsn;
    vv_mutex_unlock(&fake.lock);
    return lsn;
}

size_t fake_primary_streams(void) {
    vv_mutex_lock(&fake.lock);
    size_t streams = fake.streams;
    vv_mutex_unlock(&fake.lock);
    return streams;
}

bool fake_primary_streaming(void) {
    vv_mutex_lock(&fake.lock);
    bool streaming = fake.call != NULL;
    vv_mutex_unlock(&fake.lock);
    return streaming;
}

void fake_primary_push(const Varve__V1__WalFrame *frame) {
    vv_mutex_lock(&fake.lock);
    if (fake.call) {
        cr_assert_lt(fake.frame_count, (size_t)FRAMES_MAX);
        fake.frames[fake.frame_count++] = pack(&frame->base);
        if (!fake.posted) {
            fake.posted = true;
            vv_rpc_post_and_wake(fake.call);
        }
    }
    vv_mutex_unlock(&fake.lock);
}
