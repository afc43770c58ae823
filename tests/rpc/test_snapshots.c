#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"
#include "varve/v1/snapshots.pb-c.h"

TestSuite(snapshots, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

static client_call *call_message(const char *path, const void *message) {
    client_call *call = client_start_unary(fx.client, path, client_pack(message), CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

static Varve__V1__OpenResponse open_response(client_call *call) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__OpenResponse *response = varve__v1__open_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(response);
    Varve__V1__OpenResponse result = *response;
    varve__v1__open_response__free_unpacked(response, NULL);
    client_call_destroy(call);
    return result;
}

static client_call *call_open(uint64_t lease_ms) {
    Varve__V1__OpenRequest request = VARVE__V1__OPEN_REQUEST__INIT;
    request.lease_ms = lease_ms;
    return call_message("/varve.v1.Snapshots/Open", &request);
}

static client_call *call_renew(uint64_t id, uint64_t lease_ms) {
    Varve__V1__RenewRequest request = VARVE__V1__RENEW_REQUEST__INIT;
    request.id = id;
    request.lease_ms = lease_ms;
    return call_message("/varve.v1.Snapshots/Renew", &request);
}

static void release(uint64_t id) {
    Varve__V1__ReleaseRequest request = VARVE__V1__RELEASE_REQUEST__INIT;
    request.id = id;
    expect_end(call_message("/varve.v1.Snapshots/Release", &request), GRPC_STATUS_OK, NULL);
}

static client_call *start_get_at(uint64_t id, const char *key) {
    Varve__V1__GetRequest request = VARVE__V1__GET_REQUEST__INIT;
    request.key = BYTES(key);
    request.snapshot_id = id;
    return client_start_unary(fx.client, "/varve.v1.KV/Get", client_pack(&request), CLIENT_DEADLINE_MS);
}

static void expect_value(client_call *call, const char *value) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__GetResponse *response = varve__v1__get_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_eq(response->found, value != NULL);
    if (value) {
        cr_assert_eq(response->value.len, strlen(value));
        cr_assert_eq(memcmp(response->value.data, value, strlen(value)), 0);
    }
    varve__v1__get_response__free_unpacked(response, NULL);
    client_call_destroy(call);
}

static void put(const char *key, const char *value) {
    expect_end(call_put(key, value), GRPC_STATUS_OK, NULL);
}

Test(snapshots, a_read_at_a_snapshot_sees_its_state) {
    fixture_start();
    put("a", "old");
    Varve__V1__OpenResponse snapshot = open_response(call_open(0));
    cr_assert_eq(snapshot.lsn, 1);
    cr_assert(snapshot.id != 0);
    put("a", "new");
    put("b", "new");
    expect_value(start_get_at(snapshot.id, "a"), "old");
    expect_value(start_get_at(snapshot.id, "b"), NULL);
    cr_assert_str_eq(get("a"), "new");
    Varve__V1__OpenResponse renewed = open_response(call_renew(snapshot.id, 5000));
    cr_assert_eq(renewed.id, snapshot.id);
    cr_assert_eq(renewed.lsn, 1);
    cr_assert(renewed.expires_unix_ms > vv_clock_unix_ms());
    release(snapshot.id);
    release(snapshot.id);
    expect_end(start_get_at(snapshot.id, "a"), GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    expect_end(call_renew(snapshot.id, 0), GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
    release(12345);
}

Test(snapshots, a_lease_that_runs_out_is_unknown) {
    fixture_start();
    put("a", "old");
    Varve__V1__OpenResponse snapshot = open_response(call_open(1));
    client_call *call;
    while (client_wait(call = start_get_at(snapshot.id, "a")) == GRPC_STATUS_OK)
        client_call_destroy(call);
    expect_end(call, GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
}

Test(snapshots, too_many_are_refused) {
    fx.config.snapshots_per_user_max = 3;
    fixture_start();
    for (int i = 0; i < 3; i++)
        open_response(call_open(0));
    client_call *call = call_open(0);
    cr_assert_gt(client_retry_ms(call), 0);
    expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_SNAPSHOTS");
}

/* The get waits for the disk while its lease ends. */
Test(snapshots, a_read_under_way_outlives_its_lease) {
    fixture_start();
    put("a", "old");
    Varve__V1__OpenResponse snapshot = open_response(call_open(0));
    put("a", "new");
    engine_tap_hold_gets(true);
    client_call *call = start_get_at(snapshot.id, "a");
    engine_tap_wait_queued_gets(1);
    release(snapshot.id);
    open_response(call_open(0)); /* whatever it took the place of */
    engine_tap_hold_gets(false);
    expect_value(call, "old");
}

/* ---- KV.MultiGet ---- */

static uint8_t *keys_request(size_t count, size_t present, uint64_t id, size_t *bytes_out) {
    Varve__V1__MultiGetRequest request = VARVE__V1__MULTI_GET_REQUEST__INIT;
    ProtobufCBinaryData *keys = calloc(count, sizeof *keys);
    char *names = malloc(count * 16);
    for (size_t i = 0; i < count; i++) {
        snprintf(names + i * 16, 16, "key%zu", i % (present + 1));
        keys[i] = BYTES(names + i * 16);
    }
    request.keys = keys;
    request.n_keys = count;
    request.snapshot_id = id;
    *bytes_out = protobuf_c_message_get_packed_size(&request.base);
    uint8_t *packed = malloc(*bytes_out + 1);
    protobuf_c_message_pack(&request.base, packed);
    free(keys);
    free(names);
    return packed;
}

/* `count` keys, key0 to key<present> again and again, of which the last is not there. */
static client_call *start_multi_get(size_t count, size_t present, uint64_t id) {
    size_t bytes;
    uint8_t *packed = keys_request(count, present, id, &bytes);
    client_call *call = client_start_unary(fx.client, "/varve.v1.KV/MultiGet", vv_slice_make(packed, bytes),
                                           CLIENT_DEADLINE_MS);
    free(packed);
    return call;
}

static void expect_results(client_call *call, size_t count, size_t present) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__MultiGetResponse *response =
        varve__v1__multi_get_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(response);
    cr_assert_eq(response->n_results, count);
    for (size_t i = 0; i < count; i++) {
        const Varve__V1__GetResponse *r = response->results[i];
        size_t key = i % (present + 1);
        cr_assert_eq(r->found, key < present, "key %zu", i);
        if (!r->found)
            continue;
        char value[16];
        int value_bytes = key == 0 ? 0 : snprintf(value, sizeof value, "value%zu", key);
        cr_assert_eq(r->lsn, key + 1);
        cr_assert_eq(r->value.len, (size_t)value_bytes);
        cr_assert(value_bytes == 0 || memcmp(r->value.data, value, r->value.len) == 0);
    }
    varve__v1__multi_get_response__free_unpacked(response, NULL);
    client_call_destroy(call);
}

static void put_keys(size_t count) {
    for (size_t i = 0; i < count; i++) {
        char key[16], value[16];
        snprintf(key, sizeof key, "key%zu", i);
        snprintf(value, sizeof value, "value%zu", i);
        put(key, i == 0 ? "" : value);
    }
}

Test(multi_get, all_keys_are_answered_in_their_order, .init = fixture_init, .fini = fixture_fini,
     .timeout = 120) {
    fixture_start();
    put_keys(20);
    static const size_t counts[] = {0, 1, 21, 256, 257, 512, 1000, 10000};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        expect_results(start_multi_get(counts[i], 20, 0), counts[i], 20);
    expect_end(start_multi_get(10001, 20, 0), GRPC_STATUS_INVALID_ARGUMENT, "TOO_MANY_KEYS");
}

Test(multi_get, all_keys_are_of_one_state, .init = fixture_init, .fini = fixture_fini, .timeout = 120) {
    fixture_start();
    put_keys(20);
    Varve__V1__OpenResponse snapshot = open_response(call_open(0));
    for (int i = 0; i < 2; i++) {
        size_t count = i ? 600 : 200;
        engine_tap_hold_gets(true);
        client_call *at_snapshot = start_multi_get(count, 20, snapshot.id);
        engine_tap_wait_queued_gets(i ? 256 : 200); /* one turn is under way */
        engine_tap_hold_gets(false);
        expect_results(at_snapshot, count, 20);
        /* The state of the arrival, whatever comes before the block reads and between the turns. */
        engine_tap_hold_gets(true);
        client_call *now = start_multi_get(count, 20 + (size_t)i, 0);
        engine_tap_wait_queued_gets(i ? 256 : 200);
        put("key20", "value20");
        if (i)
            put("key21", "late");
        engine_tap_hold_gets(false);
        expect_results(now, count, 20 + (size_t)i);
    }
    expect_end(start_multi_get(3, 2, snapshot.id + 1), GRPC_STATUS_NOT_FOUND, "SNAPSHOT_UNKNOWN");
}

Test(multi_get, no_thread_waits_for_the_disk, .init = fixture_init, .fini = fixture_fini, .timeout = 120) {
    fx.config.rpc_threads = fx.config.worker_threads = 1;
    fixture_start();
    put_keys(20);
    engine_tap_hold_gets(true);
    client_call *few = start_multi_get(100, 20, 0), *many = start_multi_get(1000, 20, 0),
                *more = start_multi_get(1000, 20, 0);
    engine_tap_wait_queued_gets(100 + 256 + 256);
    put("other", "value");
    engine_tap_hold_gets(false);
    expect_results(few, 100, 20);
    expect_results(many, 1000, 20);
    expect_results(more, 1000, 20);
}

Test(multi_get, a_bad_key_or_block_fails_the_call, .init = fixture_init, .fini = fixture_fini,
     .timeout = 120) {
    fixture_start();
    put_keys(2);
    Varve__V1__MultiGetRequest request = VARVE__V1__MULTI_GET_REQUEST__INIT;
    ProtobufCBinaryData keys[] = {BYTES("key0"), BYTES(""), BYTES("key1")};
    request.keys = keys;
    request.n_keys = 3;
    expect_end(call_message("/varve.v1.KV/MultiGet", &request), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    engine_tap_fail_gets((varve_status){.code = VARVE_CORRUPTION});
    expect_end(start_multi_get(3, 2, 0), GRPC_STATUS_DATA_LOSS, "CORRUPTION");
    expect_end(start_multi_get(3000, 2, 0), GRPC_STATUS_DATA_LOSS, "CORRUPTION");
    engine_tap_fail_gets((varve_status){0});
    expect_results(start_multi_get(3, 2, 0), 3, 2);
}

Test(multi_get, an_answer_that_is_too_large_is_refused, .init = fixture_init, .fini = fixture_fini,
     .timeout = 120) {
    varve_error words;
    cr_assert(varve_ok(varve_options_set(fx.engine, "MAX_VALUE_SIZE", "64KiB", &words)));
    cr_assert(varve_ok(varve_options_set(fx.engine, "MAX_BATCH_SIZE", "128KiB", &words)));
    fixture_start();
    char *value = calloc(1, 60001);
    memset(value, 'v', 60000);
    put("key0", value); /* messages may have 128 KiB and 1 MiB */
    free(value);
    size_t bytes;
    for (int i = 0; i < 2; i++) {
        uint8_t *packed = keys_request(i ? 1000 : 100, 0, 0, &bytes);
        client_call *call = client_start_unary(fx.client, "/varve.v1.KV/MultiGet",
                                               vv_slice_make(packed, bytes), CLIENT_DEADLINE_MS);
        free(packed);
        expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE");
    }
    uint8_t *packed = keys_request(19, 0, 0, &bytes);
    client_call *call = client_start_unary(fx.client, "/varve.v1.KV/MultiGet", vv_slice_make(packed, bytes),
                                           CLIENT_DEADLINE_MS);
    free(packed);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    cr_assert_gt(client_response(call).bytes, 19 * 60000);
    client_call_destroy(call);
}

Test(multi_get, a_client_that_leaves_costs_nothing_afterwards, .init = fixture_init, .fini = fixture_fini,
     .timeout = 120) {
    fixture_start();
    put_keys(20);
    engine_tap_hold_gets(true);
    client_call *few = start_multi_get(100, 20, 0), *many = start_multi_get(1000, 20, 0);
    engine_tap_wait_queued_gets(100 + 256);
    client_cancel(few);
    client_cancel(many);
    expect_end(few, GRPC_STATUS_CANCELLED, NULL);
    expect_end(many, GRPC_STATUS_CANCELLED, NULL);
    engine_tap_hold_gets(false);
    put("after", "them");
}
