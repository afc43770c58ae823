#include "tests/rpc/server_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/sync.h"
#include "tests/support/tempdir.h"

fixture fx;
static pthread_t drain_thread;
static bool draining;

void fixture_init(void) {
    grpc_init();
    fx.engine = varve_options_create();
    vv_server_action action;
    vv_error err = {""};
    const char *const none[] = {NULL};
    cr_assert(vv_ok(vv_server_config_load(none, none, &fx.config, fx.engine, &action, &err)), "%s", err.text);
    fx.config.drain_timeout_us = 20000000;
    fx.config.rpc_threads = 2;
    fx.config.worker_threads = 2;
    vv_tempdir();
    strcpy(fx.config.data, vv_tempdir_path("data"));
    strcpy(fx.config.listen[0], "127.0.0.1:0");
}

void fixture_start(void) {
    vv_error err = {""};
    vv_status st = vv_server_start(&fx.config, fx.engine, fx.log, &fx.server, &err);
    cr_assert(vv_ok(st), "%s", err.text);
    fx.client = client_create(vv_server_address(fx.server, 0));
}

static void drain(void *arg) {
    vv_server_drain(arg);
}

void fixture_drain_begin(void) {
    draining = true;
    cr_assert(vv_ok(vv_thread_start(&drain_thread, "drain", drain, fx.server)));
}

void fixture_drain_end(void) {
    draining = false;
    vv_thread_join(drain_thread);
    size_t closed = engine_tap_closed();
    cr_assert(vv_ok(vv_server_stop(fx.server)));
    cr_assert_eq(engine_tap_closed(), closed + 1);
    fx.server = NULL;
}

void fixture_fini(void) {
    if (fx.server && !draining)
        fixture_drain_begin();
    if (fx.server)
        fixture_drain_end();
    if (fx.client)
        client_destroy(fx.client);
    varve_options_destroy(fx.engine);
    grpc_shutdown_blocking();
    vv_tempdir_cleanup();
}

int fixture_connect_raw(void) {
    const char *address = vv_server_address(fx.server, 0);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    struct timeval patience = {.tv_sec = 30};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

ssize_t fixture_receive(int fd, void *buf, size_t bytes) {
    ssize_t got;
    do /* the engine's rings belong to this thread too, and their news interrupts a call with a time-out */
        got = recv(fd, buf, bytes, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

client_call *start_put(const char *key, const char *value, int64_t deadline_ms) {
    Varve__V1__PutRequest put = VARVE__V1__PUT_REQUEST__INIT;
    put.key = BYTES(key);
    put.value = BYTES(value);
    return client_start_unary(fx.client, "/varve.v1.KV/Put", client_pack(&put), deadline_ms);
}

client_call *call_put(const char *key, const char *value) {
    client_call *call = start_put(key, value, CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

client_call *start_get(const char *key, int64_t deadline_ms) {
    Varve__V1__GetRequest request = VARVE__V1__GET_REQUEST__INIT;
    request.key = BYTES(key);
    return client_start_unary(fx.client, "/varve.v1.KV/Get", client_pack(&request), deadline_ms);
}

client_call *call_get(const char *key) {
    client_call *call = start_get(key, CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

client_call *call_delete(const char *key) {
    Varve__V1__DeleteRequest request = VARVE__V1__DELETE_REQUEST__INIT;
    request.key = BYTES(key);
    client_call *call =
        client_start_unary(fx.client, "/varve.v1.KV/Delete", client_pack(&request), CLIENT_DEADLINE_MS);
    client_wait(call);
    return call;
}

const char *get(const char *key) {
    static char text[4096];
    client_call *call = call_get(key);
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "get %s: %s", key, client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__GetResponse *response = varve__v1__get_response__unpack(NULL, bytes.bytes, bytes.data);
    cr_assert_not_null(response);
    bool found = response->found;
    snprintf(text, sizeof text, "%.*s", (int)response->value.len, (char *)response->value.data);
    varve__v1__get_response__free_unpacked(response, NULL);
    client_call_destroy(call);
    return found ? text : NULL;
}

void expect_end(client_call *call, grpc_status_code code, const char *reason) {
    grpc_status_code got = client_wait(call);
    cr_assert_eq(got, code, "code %d, not %d: %s", got, code, client_message(call));
    if (reason)
        cr_assert_str_eq(client_reason(call), reason, "%s: %s", client_reason(call), client_message(call));
    client_call_destroy(call);
}

uint64_t fixture_lsn_of(client_call *call) {
    cr_assert_eq(client_wait(call), GRPC_STATUS_OK, "%s", client_message(call));
    vv_slice bytes = client_response(call);
    Varve__V1__WriteResponse *r = varve__v1__write_response__unpack(NULL, bytes.bytes, bytes.data);
    uint64_t lsn = r->lsn;
    varve__v1__write_response__free_unpacked(r, NULL);
    client_call_destroy(call);
    return lsn;
}

uint64_t fixture_put(const char *key, const char *value) {
    return fixture_lsn_of(call_put(key, value));
}

uint64_t fixture_write_batch(const char *key, size_t count, size_t value_bytes) {
    Varve__V1__Op *ops = calloc(count, sizeof *ops), **list = calloc(count, sizeof *list);
    Varve__V1__PutOp *puts = calloc(count, sizeof *puts);
    char(*keys)[32] = calloc(count, sizeof *keys);
    uint8_t *value = malloc(value_bytes + 1);
    memset(value, 'v', value_bytes);
    for (size_t i = 0; i < count; i++) {
        varve__v1__op__init(&ops[i]);
        varve__v1__put_op__init(&puts[i]);
        snprintf(keys[i], sizeof keys[i], "%s%zu", key, i);
        puts[i].key = BYTES(keys[i]);
        puts[i].value = (ProtobufCBinaryData){value_bytes, value};
        ops[i].op_case = VARVE__V1__OP__OP_PUT;
        ops[i].put = &puts[i];
        list[i] = &ops[i];
    }
    Varve__V1__WriteRequest write = VARVE__V1__WRITE_REQUEST__INIT;
    write.ops = list;
    write.n_ops = count;
    uint64_t lsn = fixture_lsn_of(
        client_start_unary(fx.client, "/varve.v1.KV/Write", client_pack(&write), CLIENT_DEADLINE_MS));
    free(value);
    free(keys);
    free(puts);
    free(list);
    free(ops);
    return lsn;
}
