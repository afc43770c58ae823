#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "grpc/health/v1/health.pb-c.h"
#include "tests/rpc/server_fixture.h"
#include "tests/support/tempdir.h"

static void server_fini(void) {
    fixture_fini();
    vv_tempdir_cleanup();
}

TestSuite(server, .init = fixture_init, .fini = server_fini, .timeout = 120);

enum { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };

static int status_in(vv_slice message) {
    Grpc__Health__V1__HealthCheckResponse *response =
        grpc__health__v1__health_check_response__unpack(NULL, message.bytes, message.data);
    cr_assert_not_null(response);
    int status = (int)response->status;
    grpc__health__v1__health_check_response__free_unpacked(response, NULL);
    return status;
}

static vv_slice health_request(const char *service) {
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    request.service = (char *)(uintptr_t)service;
    return client_pack(&request);
}

static client_call *check(const char *service) {
    return client_start_unary(fx.client, "/grpc.health.v1.Health/Check", health_request(service),
                              CLIENT_DEADLINE_MS);
}

static int health(const char *service) {
    client_call *call = check(service);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    int status = status_in(client_response(call));
    client_call_destroy(call);
    return status;
}

static client_call *watch(const char *service) {
    client_call *call = client_start(fx.client, "/grpc.health.v1.Health/Watch", CLIENT_DEADLINE_MS);
    client_send(call, health_request(service));
    client_half_close(call);
    return call;
}

/* What a watch says next; 0: it has ended. */
static int next_status(client_call *call) {
    vv_slice message;
    return client_read(call, &message) ? status_in(message) : 0;
}

/* ---- addresses ---- */

Test(server, each_address_is_told_with_its_real_port) {
    fx.config.listen_count = 2;
    snprintf(fx.config.listen[1], sizeof fx.config.listen[1], "unix:%s", vv_tempdir_path("socket"));
    fixture_start();
    const char *address = vv_server_address(fx.server, 0);
    cr_assert_eq(strncmp(address, "127.0.0.1:", 10), 0);
    cr_assert_gt(atoi(address + 10), 0);
    cr_assert_str_eq(vv_server_address(fx.server, 1), fx.config.listen[1]);
    cr_assert_null(vv_server_address(fx.server, 2));
    client_call_destroy(call_put("key", "value"));
    client_destroy(fx.client);
    fx.client = client_create(vv_server_address(fx.server, 1));
    cr_assert_str_eq(get("key"), "value");
}

static void expect_no_start(const char *address, const char *words) {
    vv_server_config config = fx.config;
    snprintf(config.listen[0], sizeof config.listen[0], "%s", address);
    strcpy(config.data, vv_tempdir_path("second"));
    vv_server *second;
    vv_error err = {""};
    cr_assert_not(vv_ok(vv_server_start(&config, fx.engine, NULL, &second, &err)));
    cr_assert_null(second);
    cr_assert_not_null(strstr(err.text, address), "%s", err.text);
    cr_assert_not_null(strstr(err.text, words), "%s", err.text);
}

Test(server, an_address_in_use_is_refused_and_leaves_nothing_behind) {
    fixture_start();
    char address[64];
    snprintf(address, sizeof address, "%s", vv_server_address(fx.server, 0));
    client_call_destroy(call_put("key", "value"));
    expect_no_start(address, "in use");
    cr_assert_str_eq(get("key"), "value", "the first server lives on");
}

Test(server, a_unix_path_that_is_taken_is_refused) {
    char path[300], address[310];
    snprintf(path, sizeof path, "%s", vv_tempdir_path("taken"));
    snprintf(address, sizeof address, "unix:%s", path);
    fclose(fopen(path, "w"));
    expect_no_start(address, "no socket");
    unlink(path);

    /* What a server that was killed leaves behind is no obstacle. */
    struct sockaddr_un stale = {.sun_family = AF_UNIX};
    strcpy(stale.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&stale, sizeof stale), 0);
    close(fd);

    snprintf(fx.config.listen[0], sizeof fx.config.listen[0], "%s", address);
    fixture_start();
    expect_no_start(address, "another server");
    client_call_destroy(call_put("key", "value"));
    cr_assert_str_eq(get("key"), "value");
}

/* ---- bad input below and beside the messages ---- */

Test(server, unknown_methods_are_unimplemented) {
    fixture_start();
    for (int i = 0; i < 20; i++) { /* more than are armed */
        client_call *call =
            client_start_unary(fx.client, i % 2 ? "/varve.v1.KV/Frobnicate" : "/no.Such/Thing",
                               vv_slice_make("", 0), CLIENT_DEADLINE_MS);
        expect_end(call, GRPC_STATUS_UNIMPLEMENTED, "UNKNOWN_METHOD");
    }
}

/* Send and read until the server closes the connection. */
static void expect_closed(const char *bytes, size_t count) {
    int fd = fixture_connect_raw();
    cr_assert_eq(send(fd, bytes, count, MSG_NOSIGNAL), (ssize_t)count);
    char buf[4096];
    ssize_t got;
    while ((got = fixture_receive(fd, buf, sizeof buf)) > 0)
        continue;
    cr_assert(got == 0 || errno == ECONNRESET, "the connection stays open");
    close(fd);
}

Test(server, plain_http_and_garbage_close_their_connection_only) {
    fixture_start();
    client_call_destroy(call_put("key", "value"));
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    expect_closed(http, sizeof http - 1);
    uint64_t seed = vv_test_seed();
    char garbage[512];
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < sizeof garbage; i++)
            garbage[i] = (char)vv_test_random(&seed);
        garbage[0] = '\x16'; /* never the first byte of HTTP/2 */
        expect_closed(garbage, sizeof garbage);
    }
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    expect_closed(preface, sizeof preface - 1);
    cr_assert_str_eq(get("key"), "value");
}

Test(server, silent_and_idle_connections_are_left_in_peace) {
    fixture_start();
    int silent = fixture_connect_raw();
    client_call_destroy(call_put("key", "value"));
    /* Time-outs that are too eager would have closed it before this. */
    struct timeval patience = {.tv_usec = 500000};
    setsockopt(silent, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char byte;
    ssize_t got;
    do
        got = fixture_receive(silent, &byte, 1); /* the server's settings may come */
    while (got > 0);
    cr_assert(got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK), "closed before its handshake timed out");
    close(silent);
    cr_assert_str_eq(get("key"), "value");
}

Test(server, a_message_beyond_the_limit_is_refused_and_the_connection_lives) {
    cr_assert(varve_ok(varve_options_set(fx.engine, "MAX_VALUE_SIZE", "1KiB", NULL)));
    cr_assert(varve_ok(varve_options_set(fx.engine, "MAX_BATCH_SIZE", "1MiB", NULL)));
    fixture_start();
    client_call_destroy(call_put("key", "value"));
    size_t bytes = (size_t)3 << 20;
    char *message = calloc(1, bytes);
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/Put", vv_slice_make(message, bytes), CLIENT_DEADLINE_MS);
    expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, NULL);
    free(message);
    cr_assert_str_eq(get("key"), "value");
}

Test(server, headers_beyond_the_limit_are_refused) {
    fixture_start();
    client_call_destroy(call_put("key", "value"));
    char *value = calloc(1, 20001);
    memset(value, 'h', 20000);
    client_call *call =
        client_start_with(fx.client, "/varve.v1.KV/Get", CLIENT_DEADLINE_MS, "x-large", value);
    expect_end(call, GRPC_STATUS_RESOURCE_EXHAUSTED, NULL);
    /* That closes the connection, too; a new one may have large headers within the limit. */
    client_destroy(fx.client);
    fx.client = client_create(vv_server_address(fx.server, 0));
    value[8000] = '\0';
    call = client_start_with(fx.client, "/no.Such/Thing", CLIENT_DEADLINE_MS, "x-large", value);
    expect_end(call, GRPC_STATUS_UNIMPLEMENTED, "UNKNOWN_METHOD");
    free(value);
    cr_assert_str_eq(get("key"), "value");
}

/* ---- health ---- */

Test(server, health_knows_the_server_and_every_service) {
    fixture_start();
    cr_assert_eq(health(""), SERVING);
    size_t count;
    const vv_rpc_service *services = vv_server_services(fx.server, &count);
    for (size_t i = 0; i < count; i++) {
        char name[128];
        const char *path = services[i].methods[0].path + 1;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(path, "/"), path);
        cr_expect_eq(health(name), SERVING, "%s", name);
        name[strlen(name) - 1] = '\0';
        expect_end(check(name), GRPC_STATUS_NOT_FOUND, "UNKNOWN_SERVICE");
    }
    expect_end(check("varve.v1.Nothing"), GRPC_STATUS_NOT_FOUND, "UNKNOWN_SERVICE");
}

Test(server, a_failed_log_turns_health_and_leaves_reads) {
    fixture_start();
    client_call_destroy(call_put("key", "value"));
    client_call *watching = watch("varve.v1.KV");
    cr_assert_eq(next_status(watching), SERVING);
    engine_tap_fail_writes((varve_status){.code = VARVE_WAL_FAILED, .sys = 5});
    expect_end(call_put("key", "other"), GRPC_STATUS_UNAVAILABLE, "WAL_FAILED");
    cr_assert_eq(next_status(watching), NOT_SERVING);
    cr_assert_eq(health(""), NOT_SERVING);
    cr_assert_str_eq(get("key"), "value");
    client_cancel(watching);
    expect_end(watching, GRPC_STATUS_CANCELLED, NULL);
}

Test(server, a_log_that_fails_while_nobody_writes_is_noticed) {
    fixture_start();
    client_call *watching = watch("varve.v1.Admin");
    cr_assert_eq(next_status(watching), SERVING);
    engine_tap_say_log_failed();
    cr_assert_eq(next_status(watching), NOT_SERVING);
    client_cancel(watching);
    expect_end(watching, GRPC_STATUS_CANCELLED, NULL);
}

Test(server, a_watch_tells_changes_and_is_ended_by_a_drain) {
    fixture_start();
    client_call *known = watch(""), *unknown = watch("varve.v1.Nothing");
    cr_assert_eq(next_status(known), SERVING);
    cr_assert_eq(next_status(unknown), SERVICE_UNKNOWN);
    fixture_drain_begin();
    cr_assert_eq(next_status(known), NOT_SERVING);
    cr_assert_eq(next_status(known), 0);
    expect_end(known, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    cr_assert_eq(next_status(unknown), 0);
    expect_end(unknown, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    fixture_drain_end();
}

Test(server, watches_may_leave_while_the_health_changes) {
    fixture_start();
    enum { COUNT = 200 };
    client_call *watches[COUNT];
    for (int i = 0; i < COUNT; i++) {
        watches[i] = watch("");
        if (i % 2)
            cr_assert_eq(next_status(watches[i]), SERVING);
        if (i % 3 == 0)
            client_cancel(watches[i]);
    }
    fixture_drain_begin();
    for (int i = 0; i < COUNT; i++) {
        while (next_status(watches[i]) != 0)
            continue;
        client_call_destroy(watches[i]);
    }
    fixture_drain_end();
}

/* ---- drain ---- */

Test(server, a_drain_finishes_writes_in_flight_and_takes_no_more) {
    fixture_start();
    client_call *watching = watch("");
    cr_assert_eq(next_status(watching), SERVING);
    engine_tap_hold(true);
    client_call *put = start_put("key", "value", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(1);
    fixture_drain_begin();
    cr_assert_eq(next_status(watching), NOT_SERVING);
    expect_end(watching, GRPC_STATUS_UNAVAILABLE, "SHUTTING_DOWN");
    client *late = client_create(vv_server_address(fx.server, 0));
    engine_tap_hold(false);
    expect_end(put, GRPC_STATUS_OK, "");
    fixture_drain_end();
    client_call *refused =
        client_start_unary(late, "/varve.v1.KV/Get", vv_slice_make("\x0a\x01k", 3), CLIENT_DEADLINE_MS);
    expect_end(refused, GRPC_STATUS_UNAVAILABLE, NULL);
    client_destroy(late);
}

Test(server, a_drain_cancels_what_outlasts_its_patience) {
    fx.config.drain_timeout_us = 50000;
    fixture_start();
    engine_tap_hold(true);
    client_call *put = start_put("key", "value", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(1);
    fixture_drain_begin();
    cr_assert_neq(client_wait(put), GRPC_STATUS_OK);
    cr_assert_neq(client_wait(put), GRPC_STATUS_DEADLINE_EXCEEDED);
    client_call_destroy(put);
    engine_tap_hold(false); /* the write itself is waited for */
    fixture_drain_end();
}

Test(server, a_second_signal_cuts_the_drain_short) {
    fx.config.drain_timeout_us = UINT64_C(3600000000);
    fixture_start();
    client_call *watching = watch("");
    cr_assert_eq(next_status(watching), SERVING);
    engine_tap_hold(true);
    client_call *put = start_put("key", "value", CLIENT_DEADLINE_MS);
    engine_tap_wait_queued(1);
    fixture_drain_begin();
    cr_assert_eq(next_status(watching), NOT_SERVING);
    client_call_destroy(watching);
    vv_server_cancel(fx.server);
    cr_assert_neq(client_wait(put), GRPC_STATUS_OK);
    client_call_destroy(put);
    engine_tap_hold(false);
    fixture_drain_end();
}

Test(server, it_may_be_started_again_at_once) {
    for (int round = 0; round < 3; round++) {
        fixture_start();
        client_call_destroy(call_put("key", "value"));
        fixture_drain_begin();
        fixture_drain_end();
        client_destroy(fx.client);
        fx.client = NULL;
    }
}

Test(server, a_drain_during_a_storm_loses_no_acknowledged_write) {
    fx.config.drain_timeout_us = UINT64_C(3600000000);
    fixture_start();
    enum { COUNT = 2000 };
    static client_call *calls[COUNT];
    static bool acknowledged[COUNT];
    for (int i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%d", i);
        calls[i] = start_put(key, "value", CLIENT_DEADLINE_MS);
        if (i == COUNT / 2)
            fixture_drain_begin();
    }
    for (int i = 0; i < COUNT; i++) {
        acknowledged[i] = client_wait(calls[i]) == GRPC_STATUS_OK;
        cr_assert_neq(client_wait(calls[i]), GRPC_STATUS_DEADLINE_EXCEEDED, "a call was left hanging");
        client_call_destroy(calls[i]);
    }
    fixture_drain_end();
    client_destroy(fx.client);
    fixture_start();
    for (int i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof key, "key%d", i);
        if (acknowledged[i])
            cr_assert_not_null(get(key), "%s was acknowledged", key);
    }
}
