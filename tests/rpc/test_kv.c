#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/rpc/server_fixture.h"

TestSuite(kv, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

static Varve__V1__WriteResponse *write_response(client_call *call) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__WriteResponse *response = varve__v1__write_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(response);
    return response;
}

static uint64_t lsn_of(client_call *call) {
    Varve__V1__WriteResponse *response = write_response(call);
    cr_assert(response->applied);
    uint64_t lsn = response->lsn;
    varve__v1__write_response__free_unpacked(response, NULL);
    client_call_destroy(call);
    return lsn;
}

static client_call *call_message(const char *path, const void *message) {
    client_call *call = client_start_unary(fx.client, path, client_pack(message), CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

static client_call *call_bytes(const char *path, const char *bytes, size_t count) {
    return client_start_unary(fx.client, path, vv_slice_make(bytes, count), CLIENT_DEADLINE_MS);
}

/* An atomic write of two put_ops and a delete. */
static Varve__V1__Op ops[3], *op_list[3] = {&ops[0], &ops[1], &ops[2]};
static Varve__V1__PutOp put_ops[2];
static Varve__V1__DeleteOp del;
static Varve__V1__WriteRequest write_request(void) {
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    for (int i = 0; i < 3; i++)
        varve__v1__op__init(&ops[i]);
    for (int i = 0; i < 2; i++) {
        varve__v1__put_op__init(&put_ops[i]);
        put_ops[i].key = BYTES(i ? "b" : "a");
        put_ops[i].value = BYTES(i ? "2" : "1");
        ops[i].op_case = VARVE__V1__OP__OP_PUT;
        ops[i].put = &put_ops[i];
    }
    varve__v1__delete_op__init(&del);
    del.key = BYTES("c");
    ops[2].op_case = VARVE__V1__OP__OP_DELETE;
    ops[2].delete_ = &del;
    write.ops = op_list;
    write.n_ops = 3;
    return write;
}

Test(kv, what_is_put_is_found_until_it_is_deleted) {
    fixture_start();
    cr_assert_null(get("key"), "a missing key is found = false with status OK");
    cr_assert_eq(lsn_of(call_put("key", "value")), 1);
    cr_assert_str_eq(get("key"), "value");
    cr_assert_eq(lsn_of(call_put("key", "")), 2);
    cr_assert_str_eq(get("key"), "", "an empty value is one");
    cr_assert_eq(lsn_of(call_delete("key")), 3);
    cr_assert_null(get("key"));
    cr_assert_eq(lsn_of(call_delete("key")), 4, "deleting what is not there is no error");
}

Test(kv, a_write_applies_all_its_operations) {
    fixture_start();
    lsn_of(call_put("c", "3"));
    Varve__V1__WriteRequest write = write_request();
    write.durability = VARVE__V1__DURABILITY__DURABILITY_ASYNC;
    cr_assert_eq(lsn_of(call_message("/varve.v1.KV/Write", &write)), 4);
    cr_assert_str_eq(get("a"), "1");
    cr_assert_str_eq(get("b"), "2");
    cr_assert_null(get("c"));
}

Test(kv, values_of_every_size_come_back_whole) {
    fixture_start();
    static const size_t sizes[] = {
        1, 127, 128, 16383, 16384, 16385, 65536, (size_t)5 << 20, (size_t)32 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *value = malloc(sizes[i]);
        for (size_t b = 0; b < sizes[i]; b++)
            value[b] = (uint8_t)(b * 31 + i);
        Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
        put.key = BYTES("key");
        put.value = (ProtobufCBinaryData){sizes[i], value};
        cr_assert_eq(lsn_of(call_message("/varve.v1.KV/Put", &put)), i + 1);
        client_call *call = call_get("key");
        cr_assert_eq(client_wait(call), GRPC_STATUS_OK);
        vv_slice bytes = client_response(call);
        Varve__V1__GetResponse *response = varve__v1__get_response__unpack(NULL, bytes.bytes, bytes.data);
        cr_assert(response && response->found);
        cr_assert_eq(response->lsn, i + 1);
        cr_assert_eq(response->value.len, sizes[i]);
        cr_assert_eq(memcmp(response->value.data, value, sizes[i]), 0);
        varve__v1__get_response__free_unpacked(response, NULL);
        client_call_destroy(call);
        free(value);
    }
}

Test(kv, bad_arguments_are_refused_with_their_reason) {
    strcpy(fx.config.listen[0], "127.0.0.1:0");
    varve_error words;
    cr_assert(varve_ok(varve_options_set(fx.engine, "MAX_VALUE_SIZE", "1KiB", &words)));
    fixture_start();
    static char long_key[65537], large[2000];
    memset(long_key, 'k', 65536);
    memset(large, 'v', sizeof large - 1);
    expect_end(call_get(""), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    expect_end(call_put("", "v"), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    expect_end(call_delete(""), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    expect_end(call_get(long_key), GRPC_STATUS_INVALID_ARGUMENT, "KEY_TOO_LONG");
    expect_end(call_put(long_key, "v"), GRPC_STATUS_INVALID_ARGUMENT, "KEY_TOO_LONG");
    expect_end(call_put("large", large), GRPC_STATUS_INVALID_ARGUMENT, "VALUE_TOO_LARGE");

    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "BATCH_EMPTY");
    write = write_request();
    ops[1].op_case = VARVE__V1__OP__OP__NOT_SET;
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "OP_EMPTY");
    write = write_request();
    del.key.len = 0;
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    cr_assert_null(get("a"), "nothing of a refused write is applied");
    expect_end(call_bytes("/varve.v1.KV/Put", "\x0a\x01k\x18\x07", 5), GRPC_STATUS_INVALID_ARGUMENT,
               "BAD_DURABILITY");
    cr_assert_null(get("k"));
}

/* ---- expiry ---- */

static uint64_t expiry_of(const char *key) {
    client_call *call = call_get(key);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK);
    vv_slice bytes = client_response(call);
    Varve__V1__GetResponse *response = varve__v1__get_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert(response && response->found, "%s", key);
    uint64_t expires = response->expires_unix_ms;
    varve__v1__get_response__free_unpacked(response, NULL);
    client_call_destroy(call);
    return expires;
}

static client_call *put_with_ttl(const char *key, uint64_t ttl_ms) {
    Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
    put.key = BYTES(key);
    put.ttl_ms = ttl_ms;
    return call_message("/varve.v1.KV/Put", &put);
}

Test(kv, what_has_a_time_to_live_is_gone_when_it_is_over) {
    fixture_start();
    uint64_t before = vv_clock_unix_ms();
    lsn_of(put_with_ttl("hour", 3600000));
    cr_assert(expiry_of("hour") >= before + 3600000);
    cr_assert(expiry_of("hour") <= vv_clock_unix_ms() + 3600000);
    lsn_of(put_with_ttl("never", 0));
    cr_assert_eq(expiry_of("never"), 0);
    lsn_of(put_with_ttl("ages", UINT64_MAX));
    cr_assert_eq(expiry_of("ages"), UINT64_MAX, "a sum that overflows is no moment in the past");

    Varve__V1__WriteRequest write = write_request();
    put_ops[1].ttl_ms = 1;
    lsn_of(call_message("/varve.v1.KV/Write", &write));
    cr_assert_str_eq(get("a"), "1");
    while (get("b")) /* 1 ms */
        ;
}

/* ---- conditions ---- */

typedef struct condition_case {
    int kind; /* a Varve__V1__Condition__ExpectedCase */
    const char *key;
    uint64_t lsn;
    const char *value;
    bool held;
    uint64_t current;
} condition_case;

/* Put "x" under these conditions: are all results as they should be? */
static void check_conditional_write(const condition_case *cases, size_t count) {
    Varve__V1__Condition conditions[8], *list[8];
    bool all_hold = true;
    for (size_t i = 0; i < count; i++) {
        varve__v1__condition__init(list[i] = &conditions[i]);
        conditions[i].key = BYTES(cases[i].key);
        conditions[i].expected_case = (Varve__V1__Condition__ExpectedCase)cases[i].kind;
        if (cases[i].kind == VARVE__V1__CONDITION__EXPECTED_VALUE_EQUALS)
            conditions[i].value_equals = BYTES(cases[i].value);
        else if (cases[i].kind == VARVE__V1__CONDITION__EXPECTED_LSN_EQUALS)
            conditions[i].lsn_equals = cases[i].lsn;
        else
            conditions[i].absent = true;
        all_hold = all_hold && cases[i].held;
    }
    Varve__V1__PutOp put = VARVE__V1__PUT_OP__INIT;
    Varve__V1__Op op = VARVE__V1__OP__INIT, *only = &op;
    op.op_case = VARVE__V1__OP__OP_PUT;
    op.put = &put;
    put.key = BYTES("x");
    put.value = BYTES("written");
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    write.ops = &only;
    write.n_ops = 1;
    write.conditions = list;
    write.n_conditions = count;

    client_call *call = call_message("/varve.v1.KV/Write", &write);
    Varve__V1__WriteResponse *response = write_response(call);
    cr_assert_eq(response->applied, all_hold);
    cr_assert_eq(response->lsn > 0, all_hold);
    cr_assert_eq(response->n_conditions, all_hold ? 0 : count);
    for (size_t i = 0; !all_hold && i < count; i++) {
        cr_assert_eq(response->conditions[i]->held, cases[i].held, "condition %zu", i);
        cr_assert_eq(response->conditions[i]->current_lsn, cases[i].current, "condition %zu", i);
    }
    varve__v1__write_response__free_unpacked(response, NULL);
    client_call_destroy(call);
    cr_assert_eq(get("x") != NULL, all_hold);
    if (all_hold)
        lsn_of(call_delete("x"));
}

Test(kv, a_write_is_applied_only_if_all_its_conditions_hold) {
    fixture_start();
    enum {
        ABSENT = VARVE__V1__CONDITION__EXPECTED_ABSENT,
        LSN = VARVE__V1__CONDITION__EXPECTED_LSN_EQUALS,
        VALUE = VARVE__V1__CONDITION__EXPECTED_VALUE_EQUALS
    };
    uint64_t a = lsn_of(call_put("a", "1")), b = lsn_of(call_put("b", ""));
    lsn_of(call_put("gone", "1"));
    lsn_of(call_delete("gone"));
    check_conditional_write((condition_case[]){{ABSENT, "gone", 0, NULL, true, 0},
                                               {LSN, "a", a, NULL, true, a},
                                               {VALUE, "b", 0, "", true, b},
                                               {LSN, "none", 0, NULL, true, 0}},
                            4);
    check_conditional_write((condition_case[]){{ABSENT, "a", 0, NULL, false, a},
                                               {LSN, "a", a + 1, NULL, false, a},
                                               {VALUE, "a", 0, "2", false, a},
                                               {VALUE, "gone", 0, "1", false, 0},
                                               {LSN, "gone", 7, NULL, false, 0},
                                               {LSN, "b", 0, NULL, false, b},
                                               {VALUE, "a", 0, "1", true, a},
                                               {ABSENT, "none", 0, NULL, true, 0}},
                            8);
    check_conditional_write(
        (condition_case[]){{ABSENT, "none", 0, NULL, true, 0}, {ABSENT, "b", 0, NULL, false, b}}, 2);
}

Test(kv, conditions_that_expect_nothing_are_refused) {
    fixture_start();
    Varve__V1__WriteRequest write = write_request();
    Varve__V1__Condition condition = VARVE__V1__CONDITION__INIT, *conditions[1] = {&condition};
    write.conditions = conditions;
    write.n_conditions = 1;
    condition.key = BYTES("a");
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "CONDITION_EMPTY");
    condition.expected_case = VARVE__V1__CONDITION__EXPECTED_ABSENT;
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "CONDITION_EMPTY");
    condition.absent = true;
    condition.key = BYTES("");
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "KEY_EMPTY");
    condition.key = BYTES("a");
    write.n_ops = 0;
    expect_end(call_message("/varve.v1.KV/Write", &write), GRPC_STATUS_INVALID_ARGUMENT, "BATCH_EMPTY");
    cr_assert_null(get("a"));
}

/* ---- reads that wait for the disk ---- */

Test(kv, gets_that_wait_for_the_disk_hold_up_nothing) {
    fx.config.rpc_threads = 1;
    fixture_start();
    lsn_of(call_put("key", "value"));
    enum { COUNT = 100 };
    client_call *calls[COUNT];
    engine_tap_hold_gets(true);
    for (int i = 0; i < COUNT; i++)
        calls[i] = start_get(i % 2 ? "key" : "none", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued_gets(COUNT);
    lsn_of(call_put("other", "value")); /* on the same, the only thread */
    engine_tap_hold_gets(false);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_eq(client_wait(calls[i]), GRPC_STATUS_OK);
        cr_assert_eq(client_response(calls[i]).bytes > 0, i % 2, "found, or an empty message");
        client_call_destroy(calls[i]);
    }
}

Test(kv, a_get_whose_client_has_left_gives_its_value_back) {
    fixture_start();
    lsn_of(call_put("key", "value"));
    engine_tap_hold_gets(true);
    client_call *cancelled = start_get("key", CLIENT_DEADLINE_MS), *late = start_get("key", 3000);
    engine_tap_wait_queued_gets(2);
    client_cancel(cancelled);
    expect_end(cancelled, GRPC_STATUS_CANCELLED, NULL);
    expect_end(late, GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
    engine_tap_hold_gets(false);
    cr_assert_str_eq(get("key"), "value");
    fixture_drain_begin(); /* asserts at its end that nothing is pinned */
    fixture_drain_end();
}

Test(kv, malformed_messages_are_refused) {
    fixture_start();
    static const char *const paths[] = {"/varve.v1.KV/Get", "/varve.v1.KV/Put", "/varve.v1.KV/Delete",
                                        "/varve.v1.KV/Write", "/grpc.health.v1.Health/Check"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        expect_end(call_bytes(paths[i], "\x0a\x7f", 2), GRPC_STATUS_INVALID_ARGUMENT, "MALFORMED");
        client_call *call = client_start(fx.client, paths[i], CLIENT_DEADLINE_MS);
        client_half_close(call); /* no message at all */
        expect_end(call, GRPC_STATUS_INVALID_ARGUMENT, "MALFORMED");
    }
}

Test(kv, a_message_that_would_eat_memory_is_refused) {
    fixture_start();
    size_t bytes = (size_t)4 << 20;
    char *attack = malloc(bytes);
    for (size_t i = 0; i < bytes; i += 2) {
        attack[i] = 0x0a;
        attack[i + 1] = 0;
    }
    expect_end(call_bytes("/varve.v1.KV/Write", attack, bytes), GRPC_STATUS_RESOURCE_EXHAUSTED,
               "REQUEST_TOO_COMPLEX");
    free(attack);
    cr_assert_null(get("a"));
}

Test(kv, what_the_engine_refuses_at_once_is_answered) {
    fixture_start();
    engine_tap_refuse_at_once((varve_status){.code = VARVE_SHUTTING_DOWN});
    enum { COUNT = 200 };
    client_call *calls[COUNT];
    for (int i = 0; i < COUNT; i++)
        calls[i] = start_put("key", "value", CLIENT_DEADLINE_MS);
    for (int i = 0; i < COUNT; i++) {
        client_wait(calls[i]);
        cr_assert_eq(client_retry_ms(calls[i]), 1000);
        expect_end(calls[i], GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    }
}

Test(kv, a_damaged_block_is_data_loss_for_its_reader_alone) {
    fixture_start();
    lsn_of(call_put("key", "value"));
    engine_tap_fail_gets((varve_status){.code = VARVE_CORRUPTION});
    expect_end(call_get("key"), GRPC_STATUS_DATA_LOSS, "CORRUPTION");
    lsn_of(call_put("other", "value"));
    engine_tap_fail_gets((varve_status){0});
    cr_assert_str_eq(get("key"), "value");
}

Test(kv, a_full_disk_says_when_to_come_back) {
    fixture_start();
    engine_tap_fail_writes((varve_status){.code = VARVE_NO_SPACE, .sys = 28});
    client_call *call = call_put("key", "value");
    cr_assert_gt(client_retry_ms(call), 0);
    expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "NO_SPACE");
    engine_tap_fail_writes((varve_status){0});
    lsn_of(call_put("key", "value"));
}

Test(kv, a_thousand_concurrent_puts_are_all_answered) {
    fixture_start();
    enum { COUNT = 1000 };
    static client_call *calls[COUNT];
    static bool seen[COUNT + 1];
    for (int i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%d", i);
        calls[i] = start_put(key, key, CLIENT_DEADLINE_MS);
    }
    for (int i = 0; i < COUNT; i++) {
        uint64_t lsn = lsn_of(calls[i]);
        cr_assert(lsn >= 1 && lsn <= COUNT && !seen[lsn], "each has an LSN of its own");
        seen[lsn] = true;
    }
    cr_assert_str_eq(get("key0"), "key0");
    cr_assert_str_eq(get("key999"), "key999");
}

/* Commits and answers race in small bursts, at whose end nothing comes along to wake who was forgotten. */
Test(kv, no_answer_is_left_behind) {
    fixture_start();
    enum { ROUNDS = 2000, BURST = 6 };
    for (int round = 0; round < ROUNDS; round++) {
        client_call *calls[BURST];
        for (int i = 0; i < BURST; i++)
            calls[i] = start_put("key", "value", CLIENT_DEADLINE_MS);
        for (int i = 0; i < BURST; i++)
            lsn_of(calls[i]);
    }
}

Test(kv, a_write_whose_client_has_left_is_completed) {
    fixture_start();
    enum { COUNT = 50 };
    client_call *calls[COUNT];
    lsn_of(call_put("connected", "yes"));
    engine_tap_hold(true);
    for (int i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%d", i);
        calls[i] = start_put(key, "kept", i % 2 ? CLIENT_DEADLINE_MS : 4000);
    }
    engine_tap_wait_queued(COUNT);
    for (int i = 0; i < COUNT; i++) {
        if (i % 2)
            client_cancel(calls[i]);
        expect_end(calls[i], i % 2 ? GRPC_STATUS_CANCELLED : GRPC_STATUS_DEADLINE_EXCEEDED, NULL);
    }
    engine_tap_hold(false);
    lsn_of(call_put("after", "them")); /* the double commits in order */
    cr_assert_str_eq(get("key0"), "kept");
    cr_assert_str_eq(get("key49"), "kept");
}

Test(kv, a_batch_whose_client_has_left_is_not_half_visible) {
    fixture_start();
    lsn_of(call_put("c", "3"));
    engine_tap_hold(true);
    Varve__V1__WriteRequest write = write_request();
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/Write", client_pack(&write), CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(1);
    client_cancel(call);
    expect_end(call, GRPC_STATUS_CANCELLED, NULL);
    cr_assert_null(get("a"));
    cr_assert_str_eq(get("c"), "3");
    engine_tap_hold(false);
    lsn_of(call_put("after", "it")); /* commits come in order */
    cr_assert_str_eq(get("a"), "1");
    cr_assert_str_eq(get("b"), "2");
    cr_assert_null(get("c"));
}
