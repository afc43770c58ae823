#include "rpc/rate_limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "rpc/limits.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"
#include "varve/v1/admin.pb-c.h"

TestSuite(rate_limit, .fini = vv_tempdir_cleanup, .timeout = 120);
TestSuite(rate_limit_calls, .init = fixture_init, .fini = fixture_fini, .timeout = 120);

/* ---- the bucket, on a clock of the test's ---- */

static const uint64_t S = VV_NS_PER_S;

static vv_rate_bucket bucket(uint64_t per_second, uint64_t burst) {
    vv_rate_bucket b;
    vv_rate_bucket_init(&b, (vv_rate){per_second, burst});
    return b;
}

Test(rate_limit, a_burst_and_then_the_rate) {
    vv_rate_bucket b = bucket(10, 5);
    uint64_t now = 1000 * S;
    for (int i = 0; i < 5; i++)
        cr_assert_eq(vv_rate_bucket_take(&b, 1, now), 0, "%d", i);
    cr_assert_eq(vv_rate_bucket_take(&b, 1, now), S / 10);
    cr_assert_eq(vv_rate_bucket_take(&b, 1, now + S / 20), S / 20, "what is told is the rest of the wait");
    cr_assert_eq(vv_rate_bucket_take(&b, 1, now + S / 10), 0);
    cr_assert_eq(vv_rate_bucket_take(&b, 1, now + S / 10), S / 10);
    now += 100 * S; /* a pause fills it to the burst and no further */
    for (int i = 0; i < 5; i++)
        cr_assert_eq(vv_rate_bucket_take(&b, 1, now), 0);
    cr_assert_neq(vv_rate_bucket_take(&b, 1, now), 0);
}

Test(rate_limit, rates_that_do_not_divide_a_second_give_their_burst_too) {
    for (uint64_t rate = 1; rate < 2000; rate += 7) {
        vv_rate_bucket b = bucket(rate, 0);
        for (uint64_t i = 0; i < rate; i++)
            cr_assert_eq(vv_rate_bucket_take(&b, 1, 5 * S), 0, "%lu of %lu", i, rate);
        cr_assert_neq(vv_rate_bucket_take(&b, 1, 5 * S), 0);
    }
}

Test(rate_limit, waiting_as_told_is_enough_and_a_nanosecond_less_is_not) {
    uint64_t seed = vv_test_seed();
    for (int round = 0; round < 200; round++) {
        vv_rate_bucket b = bucket(1 + vv_test_random(&seed) % 1000000, 1 + vv_test_random(&seed) % 1000);
        uint64_t now = 7 * S, taken_at = now;
        for (int i = 0; i < 100; i++) {
            uint64_t count = 1 + vv_test_random(&seed) % 2000; /* at times more than the burst */
            uint64_t wait = vv_rate_bucket_take(&b, count, now);
            if (wait > 0) {
                cr_assert_neq(vv_rate_bucket_take(&b, count, now + wait - 1), 0);
                now += wait;
                cr_assert_eq(vv_rate_bucket_take(&b, count, now), 0);
            }
            cr_assert_geq(now, taken_at);
            taken_at = now;
        }
    }
}

Test(rate_limit, a_batch_beyond_the_burst_leaves_a_debt) {
    vv_rate_bucket b = bucket(100, 10);
    cr_assert_eq(vv_rate_bucket_take(&b, 1, S), 0);
    cr_assert_eq(vv_rate_bucket_take(&b, 1000, S), S / 100, "it waits for a full bucket");
    cr_assert_eq(vv_rate_bucket_take(&b, 1000, S + S / 100), 0);
    /* 990 are owed, and one more has to be earned. */
    cr_assert_eq(vv_rate_bucket_take(&b, 1, S + S / 100), 991 * (S / 100));
}

Test(rate_limit, no_rate_is_no_limit_and_the_largest_numbers_do_not_overflow) {
    vv_rate_bucket b = bucket(0, 0);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(vv_rate_bucket_take(&b, UINT64_MAX, S), 0);
    b = bucket(1, 1);
    cr_assert_eq(vv_rate_bucket_take(&b, UINT64_MAX, S), 0);
    uint64_t wait = vv_rate_bucket_take(&b, UINT64_MAX, S);
    cr_assert_gt(wait, 0);
    cr_assert_eq(vv_rate_bucket_take(&b, UINT64_MAX, S + wait), 0);
    b = bucket(VV_RATE_MAX, VV_RATE_MAX);
    cr_assert_eq(vv_rate_bucket_take(&b, VV_RATE_MAX, S), 0);
    cr_assert_eq(vv_rate_bucket_take(&b, 1, S), 1);
}

typedef struct takers {
    vv_rate_bucket bucket;
    _Atomic uint64_t taken;
} takers;

static void take_many(void *arg) {
    takers *t = arg;
    for (int i = 0; i < 100000; i++)
        if (vv_rate_bucket_take(&t->bucket, 1, S) == 0)
            atomic_fetch_add(&t->taken, 1);
}

Test(rate_limit, threads_together_take_no_more_than_there_is) {
    takers t = {.taken = 0};
    vv_rate_bucket_init(&t.bucket, (vv_rate){1000, 50000});
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert(vv_ok(vv_thread_start(&threads[i], "taker", take_many, &t)));
    for (int i = 0; i < 4; i++)
        vv_thread_join(threads[i]);
    cr_assert_eq(atomic_load(&t.taken), 50000);
}

/* ---- the file ---- */

static vv_status load(const char *text, vv_limits **out, vv_error *err) {
    FILE *f = fopen(vv_tempdir_path("limits"), "w");
    fputs(text, f);
    fclose(f);
    vv_user_limits defaults = {.reads = {1, 2}, .writes = {3, 4}};
    return vv_limits_load(vv_tempdir_path("limits"), &defaults, out, err);
}

Test(rate_limit, a_file_sets_single_users_and_applying_it_again_forgets_the_rest) {
    vv_users users;
    vv_user_limits defaults = {.reads = {1, 2}, .writes = {3, 4}};
    vv_limits *limits;
    vv_error err = {""};
    vv_tempdir();
    cr_assert(vv_ok(vv_users_init(&users, &defaults, NULL)));
    cr_assert(vv_ok(load("a reads=100:200 # fast\n\"b c\" writes=0\n", &limits, &err)), "%s", err.text);
    vv_limits_apply(limits, &defaults, &users);
    vv_user *a = vv_users_get(&users, vv_slice_str("a")), *b = vv_users_get(&users, vv_slice_str("b c"));
    cr_assert_eq(vv_rate_bucket_get(&a->reads).per_second, 100);
    cr_assert_eq(vv_rate_bucket_get(&a->reads).burst, 200);
    cr_assert_eq(vv_rate_bucket_get(&a->writes).per_second, 3);
    cr_assert_eq(vv_rate_bucket_get(&b->reads).burst, 2);
    cr_assert_eq(vv_rate_bucket_get(&b->writes).per_second, 0);

    vv_user_limits set = {.reads = {9, 9}, .writes = {9, 9}};
    cr_assert(vv_ok(vv_rate_limit_set(&users, vv_slice_str("b c"), &set)));
    cr_assert(vv_ok(vv_rate_limit_set(&users, vv_slice_str("d"), &set)));
    cr_assert_eq(vv_rate_bucket_get(&b->writes).per_second, 9);
    vv_limits_apply(limits, &defaults, &users);
    cr_assert_eq(vv_rate_bucket_get(&b->writes).per_second, 0);
    cr_assert_eq(vv_rate_bucket_get(&vv_users_get(&users, vv_slice_str("d"))->reads).per_second, 1);
    vv_limits_destroy(limits);
    vv_limits_apply(NULL, &defaults, &users);
    cr_assert_eq(vv_rate_bucket_get(&a->reads).per_second, 1);
    vv_limits_apply(NULL, &set, &users);
    cr_assert_eq(vv_rate_bucket_get(&a->reads).per_second, 9);
    cr_assert_eq(vv_rate_bucket_get(&vv_users_get(&users, vv_slice_str("new"))->reads).per_second, 9);

    set.reads.per_second = VV_RATE_MAX + 1;
    cr_assert_not(vv_ok(vv_rate_limit_set(&users, vv_slice_str("d"), &set)));
    cr_assert_not(vv_ok(vv_rate_limit_set(&users, vv_slice_str(""), &defaults)));
    vv_users_deinit(&users);
}

Test(rate_limit, a_file_with_a_mistake_is_refused_with_its_line) {
    static const char *const bad[] = {"a reads=",    "a reads=x",    "a reads=1:",  "a reads=1:2:3",
                                      "a writes=-1", "a reads",      "a rates=5",   "a reads=1000000001",
                                      "a reads=1x",  "a reads=1\na", "a reads=1 5", "\"a reads=1"};
    vv_tempdir();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        vv_limits *limits;
        vv_error err = {""};
        cr_expect_not(vv_ok(load(bad[i], &limits, &err)), "%s", bad[i]);
        cr_expect_null(limits);
        cr_expect_not_null(strstr(err.text, "limits:"), "%s", err.text);
    }
}

/* ---- calls ---- */

Test(rate_limit_calls, reads_and_writes_have_buckets_of_their_own) {
    fx.config.read_rate = 1;
    fx.config.read_burst = 3;
    fx.config.write_rate = 1;
    fx.config.write_burst = 2;
    fixture_start();
    uint64_t began_ns = vv_clock_mono_ns();
    for (int i = 0; i < 2; i++)
        expect_end(call_put("key", "value"), GRPC_STATUS_OK, NULL);
    client_call *put = call_put("key", "value");
    cr_assert_eq(client_wait(put), GRPC_STATUS_RESOURCE_EXHAUSTED);
    cr_assert_str_eq(client_reason(put), "RATE_LIMITED");
    int64_t passed_ms = (int64_t)((vv_clock_mono_ns() - began_ns) / VV_NS_PER_MS);
    cr_assert(client_retry_ms(put) <= 1000 && client_retry_ms(put) >= 1000 - passed_ms - 1, "%ld after %ld",
              client_retry_ms(put), passed_ms);
    client_call_destroy(put);
    for (int i = 0; i < 3; i++)
        expect_end(call_get("key"), GRPC_STATUS_OK, NULL);
    expect_end(call_get("key"), GRPC_STATUS_RESOURCE_EXHAUSTED, "RATE_LIMITED");
}

/* KV.Write of `count` puts. */
static client_call *write_many(size_t count) {
    Varve__V1__WriteRequest request = VARVE__V1__WRITE_REQUEST__INIT;
    Varve__V1__Op *ops = calloc(count, sizeof *ops), **list = calloc(count, sizeof(void *));
    Varve__V1__PutOp put = VARVE__V1__PUT_OP__INIT;
    put.key = BYTES("key");
    put.value = BYTES("value");
    for (size_t i = 0; i < count; i++) {
        varve__v1__op__init(&ops[i]);
        ops[i].op_case = VARVE__V1__OP__OP_PUT;
        ops[i].put = &put;
        list[i] = &ops[i];
    }
    request.ops = list;
    request.n_ops = count;
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/Write", client_pack(&request), CLIENT_DEADLINE_MS);
    free(ops);
    free(list);
    return call;
}

Test(rate_limit_calls, each_operation_of_a_batch_counts) {
    fx.config.write_rate = 1;
    fx.config.write_burst = 100;
    fixture_start();
    expect_end(write_many(60), GRPC_STATUS_OK, NULL);
    expect_end(write_many(60), GRPC_STATUS_RESOURCE_EXHAUSTED, "RATE_LIMITED");
    expect_end(write_many(20), GRPC_STATUS_OK, NULL);
}

/* MultiGet of `count` keys. */
static client_call *read_many(size_t count) {
    Varve__V1__MultiGetRequest request = VARVE__V1__MULTI_GET_REQUEST__INIT;
    ProtobufCBinaryData *keys = calloc(count, sizeof *keys);
    for (size_t i = 0; i < count; i++)
        keys[i] = BYTES("key");
    request.keys = keys;
    request.n_keys = count;
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/MultiGet", client_pack(&request), CLIENT_DEADLINE_MS);
    free(keys);
    return call;
}

Test(rate_limit_calls, each_key_of_a_multi_get_counts) {
    fx.config.read_rate = 1;
    fx.config.read_burst = 100;
    fixture_start();
    expect_end(read_many(60), GRPC_STATUS_OK, NULL);
    expect_end(read_many(60), GRPC_STATUS_RESOURCE_EXHAUSTED, "RATE_LIMITED");
    expect_end(read_many(20), GRPC_STATUS_OK, NULL);
}

/* ---- room: calls and streams at once ---- */

/* Health watches are for all; a pipeline is a stream that counts. */
static client_call *open_pipeline(void) {
    return client_start(fx.client, "/varve.v1.KV/Pipeline", CLIENT_DEADLINE_MS);
}

/* A get is answered: the stream has its room. Streams that are opened together arrive in any order, on
 * several threads. */
static void await_admission(client_call *pipeline) {
    static const char get_k[] = "\x12\x05\x1a\x03\x0a\x01k";
    vv_slice answer;
    client_send(pipeline, vv_slice_make(get_k, sizeof get_k - 1));
    cr_assert(client_read(pipeline, &answer));
}

Test(rate_limit_calls, streams_have_a_bound_of_their_own_and_take_no_room_from_calls) {
    fx.config.rpc_streams_max = 3;
    fx.config.rpc_calls_max = 2;
    fixture_start();
    client_call *streams[3];
    for (int i = 0; i < 3; i++) {
        streams[i] = open_pipeline();
        await_admission(streams[i]);
    }
    client_call *refused = open_pipeline();
    cr_assert_eq(client_wait(refused), GRPC_STATUS_RESOURCE_EXHAUSTED);
    cr_assert_str_eq(client_reason(refused), "OVERLOADED");
    cr_assert_gt(client_retry_ms(refused), 0);
    client_call_destroy(refused);
    expect_end(call_put("key", "value"), GRPC_STATUS_OK, NULL);

    engine_tap_hold(true);
    client_call *held[2];
    for (int i = 0; i < 2; i++)
        held[i] = start_put("key", "value", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(2);
    expect_end(call_get("key"), GRPC_STATUS_RESOURCE_EXHAUSTED, "OVERLOADED");
    engine_tap_hold(false);
    for (int i = 0; i < 2; i++)
        expect_end(held[i], GRPC_STATUS_OK, NULL);
    expect_end(call_get("key"), GRPC_STATUS_OK, NULL);

    for (int i = 0; i < 3; i++) {
        client_half_close(streams[i]);
        expect_end(streams[i], GRPC_STATUS_OK, NULL);
    }
    client_call *again = open_pipeline(); /* their room is free again */
    client_half_close(again);
    expect_end(again, GRPC_STATUS_OK, NULL);
}

Test(rate_limit_calls, one_user_too_many_gets_no_limit) {
    FILE *f = fopen(vv_tempdir_path("tokens"), "w");
    cr_assert_not_null(f);
    fputs("default anonymous admin\n", f);
    for (int i = 1; i < VV_USERS_MAX; i++) /* "default" is one */
        fprintf(f, "user%d certificate read\n", i);
    cr_assert_eq(fclose(f), 0);
    strcpy(fx.config.tokens_file, vv_tempdir_path("tokens"));
    fixture_start();
    Varve__V1__SetRateLimitRequest set = VARVE__V1__SET_RATE_LIMIT_REQUEST__INIT;
    const char *path = "/varve.v1.Admin/SetRateLimit";
    set.user = BYTES("user1");
    expect_end(client_start_unary(fx.client, path, client_pack(&set), CLIENT_DEADLINE_MS), GRPC_STATUS_OK,
               NULL);
    set.user = BYTES("one more");
    expect_end(client_start_unary(fx.client, path, client_pack(&set), CLIENT_DEADLINE_MS),
               GRPC_STATUS_RESOURCE_EXHAUSTED, "TOO_MANY_USERS");
}
