/* KV and Snapshots on servers that are not alone: who takes writes, who answers reads, and from when on. */
#include <string.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "varve/v1/replication.pb-c.h"
#include "varve/v1/snapshots.pb-c.h"

TestSuite(kv_replica, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

#define KV "/varve.v1.KV/"

/* Reads up to the end, for streams. */
static grpc_status_code ended(client_call *call) {
    vv_slice message;
    while (client_read(call, &message))
        continue;
    return client_wait(call);
}

static client_call *start_message(const char *path, const void *message, int64_t deadline_ms) {
    client_call *call = client_start(fx.client, path, deadline_ms);
    client_send(call, client_pack(message));
    client_half_close(call);
    return call;
}

/* ---- reads that want an LSN, each kind of them ---- */

typedef enum kind { GET, MULTI_GET, SCAN, OPEN, KINDS } kind;

typedef struct wanted {
    uint64_t min_lsn, snapshot_id;
    const char *page_token;
} wanted;

static client_call *start_read(kind k, wanted w, int64_t deadline_ms) {
    static ProtobufCBinaryData key;
    key = BYTES("key");
    Varve__V1__GetRequest get = VARVE__V1__GET_REQUEST__INIT;
    Varve__V1__MultiGetRequest multi_get = VARVE__V1__MULTI_GET_REQUEST__INIT;
    Varve__V1__ScanRequest scan = VARVE__V1__SCAN_REQUEST__INIT;
    Varve__V1__OpenRequest open = VARVE__V1__OPEN_REQUEST__INIT;
    get.key = key;
    multi_get.keys = &key;
    multi_get.n_keys = 1;
    get.min_lsn = multi_get.min_lsn = scan.min_lsn = open.min_lsn = w.min_lsn;
    get.snapshot_id = multi_get.snapshot_id = scan.snapshot_id = w.snapshot_id;
    scan.page_token = BYTES(w.page_token ? w.page_token : "");
    switch (k) {
    case GET: return start_message(KV "Get", &get, deadline_ms);
    case MULTI_GET: return start_message(KV "MultiGet", &multi_get, deadline_ms);
    case SCAN: return start_message(KV "Scan", &scan, deadline_ms);
    default: return start_message("/varve.v1.Snapshots/Open", &open, deadline_ms);
    }
}

static void read_ends(kind k, wanted w, grpc_status_code code, const char *reason) {
    client_call *call = start_read(k, w, CLIENT_DEADLINE_MS);
    ended(call);
    expect_end(call, code, reason);
}

/* The answer of a read has the key's value in it. */
static bool sees(client_call *call, kind k, const char *value) {
    vv_slice bytes;
    bool seen = client_read(call, &bytes) &&
                (k == OPEN || memmem(bytes.data, bytes.bytes, value, strlen(value)) != NULL);
    ended(call);
    expect_end(call, GRPC_STATUS_OK, NULL);
    return seen;
}

static void put(const char *value) {
    expect_end(call_put("key", value), GRPC_STATUS_OK, NULL);
}

Test(kv_replica, a_read_waits_for_the_lsn_that_it_wants_to_see) {
    fixture_start();
    put("first");
    client_call *reads[KINDS], *later[KINDS];
    for (kind k = 0; k < KINDS; k++) {
        cr_assert(sees(start_read(k, (wanted){.min_lsn = 1}, CLIENT_DEADLINE_MS), k, "first"));
        reads[k] = start_read(k, (wanted){.min_lsn = 2}, CLIENT_DEADLINE_MS);
        later[k] = start_read(k, (wanted){.min_lsn = 3}, CLIENT_DEADLINE_MS);
    }
    put("second");
    for (kind k = 0; k < KINDS; k++)
        cr_assert(sees(reads[k], k, "second"), "kind %d", k);
    put("third");
    for (kind k = 0; k < KINDS; k++)
        cr_assert(sees(later[k], k, "third"), "kind %d", k);
}

Test(kv_replica, a_read_that_waits_in_vain_ends_with_its_deadline) {
    fixture_start();
    for (kind k = 0; k < KINDS; k++) {
        client_call *call = start_read(k, (wanted){.min_lsn = UINT64_MAX}, 100);
        ended(call);
        expect_end(call, GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
    }
    put("others go on");
}

Test(kv_replica, a_read_that_waits_may_be_cancelled) {
    fixture_start();
    for (kind k = 0; k < KINDS; k++)
        for (int i = 0; i < 20; i++) {
            client_call *call = start_read(k, (wanted){.min_lsn = 1000}, CLIENT_DEADLINE_MS);
            if (i % 2)
                cr_assert(strcmp(get("key") ? get("key") : "", "x") != 0); /* it has arrived by now */
            client_cancel(call);
            ended(call);
            expect_end(call, GRPC_STATUS_CANCELLED, NULL);
        }
    put("others go on");
}

Test(kv_replica, a_drain_ends_reads_that_wait) {
    fixture_start();
    client_call *reads[KINDS];
    for (kind k = 0; k < KINDS; k++)
        reads[k] = start_read(k, (wanted){.min_lsn = 1000}, CLIENT_DEADLINE_MS);
    put("they have arrived by now");
    fixture_drain_begin();
    for (kind k = 0; k < KINDS; k++) {
        ended(reads[k]);
        expect_end(reads[k], GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    }
    fixture_drain_end();
}

Test(kv_replica, a_read_of_another_state_wants_no_lsn) {
    fixture_start();
    for (kind k = 0; k < OPEN; k++)
        read_ends(k, (wanted){.min_lsn = 1, .snapshot_id = 7}, GRPC_STATUS_INVALID_ARGUMENT, "BAD_MIN_LSN");
    read_ends(SCAN, (wanted){.min_lsn = 1, .page_token = "token"}, GRPC_STATUS_INVALID_ARGUMENT,
              "BAD_MIN_LSN");
}

Test(kv_replica, only_half_of_the_calls_may_wait) {
    fx.config.rpc_calls_max = 4;
    fixture_start();
    client_call *a = start_read(GET, (wanted){.min_lsn = 1}, CLIENT_DEADLINE_MS);
    client_call *b = start_read(OPEN, (wanted){.min_lsn = 1}, CLIENT_DEADLINE_MS);
    client_call *c = start_read(GET, (wanted){.min_lsn = 1}, CLIENT_DEADLINE_MS);
    put("there is room for this");
    client_call *calls[] = {a, b, c};
    int refused = 0;
    for (int i = 0; i < 3; i++) {
        refused += ended(calls[i]) == GRPC_STATUS_RESOURCE_EXHAUSTED;
        client_call_destroy(calls[i]);
    }
    cr_assert_leq(refused, 1, "those that came before the write");
}

/* ---- who takes writes ---- */

static void expect_not_primary(client_call *call) {
    ended(call);
    expect_end(call, GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
}

/* A put and a get through a pipeline; the answers, as bytes, are all in `all`. */
static size_t pipeline(uint8_t *all, size_t room) {
    Varve__V1__PipelineRequest request = VARVE__V1__PIPELINE_REQUEST__INIT;
    Varve__V1__Op op = VARVE__V1__OP__INIT;
    Varve__V1__PutOp put_op = VARVE__V1__PUT_OP__INIT;
    Varve__V1__GetOp get_op = VARVE__V1__GET_OP__INIT;
    put_op.key = get_op.key = BYTES("key");
    put_op.value = BYTES("from-a-pipeline");
    request.op = &op;
    client_call *call = client_start(fx.client, KV "Pipeline", CLIENT_DEADLINE_MS);
    request.id = 1;
    op.op_case = VARVE__V1__OP__OP_PUT;
    op.put = &put_op;
    client_send(call, client_pack(&request));
    request.id = 2;
    op.op_case = VARVE__V1__OP__OP_GET;
    op.get = &get_op;
    client_send(call, client_pack(&request));
    client_half_close(call);
    size_t bytes = 0;
    vv_slice message;
    while (client_read(call, &message)) {
        cr_assert_leq(bytes + message.bytes, room);
        memcpy(all + bytes, message.data, message.bytes);
        bytes += message.bytes;
    }
    expect_end(call, GRPC_STATUS_OK, NULL);
    return bytes;
}

static size_t count_of(const uint8_t *all, size_t bytes, const char *word) {
    size_t count = 0;
    for (const uint8_t *at = all; (at = memmem(at, bytes - (size_t)(at - all), word, strlen(word))) != NULL;
         at++)
        count++;
    return count;
}

static client_call *call_write(void) {
    static Varve__V1__PutOp put_op;
    static Varve__V1__Op op, *list[] = {&op};
    varve__v1__put_op__init(&put_op);
    varve__v1__op__init(&op);
    put_op.key = BYTES("key");
    op.op_case = VARVE__V1__OP__OP_PUT;
    op.put = &put_op;
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    write.ops = list;
    write.n_ops = 1;
    return start_message(KV "Write", &write, CLIENT_DEADLINE_MS);
}

Test(kv_replica, a_follower_refuses_writes_and_answers_reads) {
    fixture_start();
    put("value");
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fx.client = NULL;

    strcpy(fx.config.follow, "127.0.0.1:9"); /* where nobody is */
    fixture_start();
    expect_not_primary(call_put("key", "other"));
    expect_not_primary(call_delete("key"));
    expect_not_primary(call_write());
    for (kind k = 0; k < KINDS; k++)
        cr_assert(sees(start_read(k, (wanted){.min_lsn = 1}, CLIENT_DEADLINE_MS), k, "value"));
    uint8_t all[4096];
    size_t bytes = pipeline(all, sizeof all);
    cr_assert_eq(count_of(all, bytes, "NOT_PRIMARY"), 1, "the put, and not the get");
    cr_assert_eq(count_of(all, bytes, "value"), 1);
    cr_assert_str_eq(get("key"), "value");
}

Test(kv_replica, a_superseded_primary_answers_neither) {
    fixture_start();
    put("value");
    Varve__V1__HelloRequest hello = VARVE__V1__HELLO_REQUEST__INIT;
    hello.promise_epoch = 100;
    client_call *call = start_message("/varve.v1.Replication/Hello", &hello, CLIENT_DEADLINE_MS);
    ended(call);
    expect_end(call, GRPC_STATUS_OK, NULL);
    expect_not_primary(call_put("key", "other"));
    for (kind k = 0; k < KINDS; k++)
        read_ends(k, (wanted){0}, GRPC_STATUS_FAILED_PRECONDITION, "NOT_PRIMARY");
    uint8_t all[4096];
    cr_assert_eq(count_of(all, pipeline(all, sizeof all), "NOT_PRIMARY"), 2);
}

/* ---- writes that wait for followers ---- */

Test(kv_replica, a_write_that_nobody_confirms_is_told_so) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 100000;
    fixture_start();
    expect_end(call_put("key", "value"), GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    expect_end(call_delete("key"), GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    client_call *call = call_write();
    ended(call);
    expect_end(call, GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    uint8_t all[4096];
    cr_assert_geq(count_of(all, pipeline(all, sizeof all), "NOT_CONFIRMED"), 1);
    cr_assert_null(get("key"), "nobody sees what may yet be lost");
}

Test(kv_replica, what_may_have_been_seen_before_a_restart_is_waited_for) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 100000;
    fixture_start();
    expect_end(call_put("key", "value"), GRPC_STATUS_UNKNOWN, "NOT_CONFIRMED");
    fixture_drain_begin();
    fixture_drain_end();
    client_destroy(fx.client);
    fx.client = NULL;
    fixture_start();
    for (kind k = 0; k < KINDS; k++)
        read_ends(k, (wanted){0}, GRPC_STATUS_UNAVAILABLE, "NOT_CAUGHT_UP");
    uint8_t all[4096];
    cr_assert_eq(count_of(all, pipeline(all, sizeof all), "NOT_CAUGHT_UP"), 1);
}

Test(kv_replica, the_client_hears_of_it_before_its_deadline) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 3600000000;
    fixture_start();
    enum { CALLS = 4 };
    client_call *calls[CALLS];
    for (int i = 0; i < CALLS; i++)
        calls[i] = start_put("key", "value", 1500 + 500 * i);
    /* The time that is left for the answer is short: a busy machine may need more, but hardly each time. */
    int heard = 0;
    for (int i = 0; i < CALLS; i++) {
        bool in_time = client_wait(calls[i]) != GRPC_STATUS_DEADLINE_EXCEEDED;
        heard += in_time;
        expect_end(calls[i], in_time ? GRPC_STATUS_UNKNOWN : GRPC_STATUS_DEADLINE_EXCEEDED,
                   in_time ? "NOT_CONFIRMED" : NULL);
    }
    cr_assert_gt(heard, 0);
}

Test(kv_replica, a_drain_is_not_held_up_by_writes_that_nobody_confirms) {
    fx.config.quorum = 1;
    fx.config.quorum_timeout_us = 3600000000;
    fx.config.drain_timeout_us = 1000000;
    fixture_start();
    client_call *call = start_put("key", "value", CLIENT_DEADLINE_MS);
    cr_assert_null(get("key")); /* it has arrived by now */
    uint64_t begun_ns = vv_clock_mono_ns();
    fixture_drain_begin();
    fixture_drain_end();
    cr_assert_lt(vv_clock_mono_ns() - begun_ns, 10 * VV_NS_PER_S);
    client_wait(call);
    client_call_destroy(call);
}
