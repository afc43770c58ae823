/*
 * server_fixture.h - a server in the test's own process, on the engine double, with one client.
 */
#ifndef VV_TESTS_SERVER_FIXTURE_H
#define VV_TESTS_SERVER_FIXTURE_H

#include <criterion/criterion.h>
#include <sys/types.h>

#include "rpc/server.h"
#include "tests/rpc/client.h"
#include "tests/rpc/engine_tap.h"
#include "varve/v1/kv.pb-c.h"

typedef struct fixture {
    vv_server_config config; /* 127.0.0.1:0, two threads; change before fixture_start() */
    varve_options *engine;
    const vv_logger *log; /* of the test's own; NULL: none */
    vv_server *server;
    client *client;
} fixture;

extern fixture fx;

/* For TestSuite(): grpc_init and a configuration; stop what runs, grpc_shutdown. */
void fixture_init(void);
void fixture_fini(void);

void fixture_start(void);

/* Drain and stop on a thread of its own. */
void fixture_drain_begin(void);
void fixture_drain_end(void);

/* A bare TCP connection to the first address, whose reads wait for 30 s at most; and recv() on it that goes
 * on when it is interrupted. */
int fixture_connect_raw(void);
ssize_t fixture_receive(int fd, void *buf, size_t bytes);

/* One call from start to end; the caller destroys it. */
client_call *call_get(const char *key);
client_call *call_put(const char *key, const char *value);
client_call *call_delete(const char *key);

/* The same without waiting. */
client_call *start_get(const char *key, int64_t deadline_ms);
client_call *start_put(const char *key, const char *value, int64_t deadline_ms);

/* The value of a key, NULL if it is not there; valid until the next call of this. */
const char *get(const char *key);

/* Wait for the answer of a call that writes, and destroy it: the LSN that it says. */
uint64_t fixture_lsn_of(client_call *call);
uint64_t fixture_put(const char *key, const char *value);
/* One atomic write of `count` puts KEY0, KEY1, ... of `value_bytes` each. */
uint64_t fixture_write_batch(const char *key, size_t count, size_t value_bytes);

/* Wait for the call, check its code and reason (NULL: any), destroy it. */
void expect_end(client_call *call, grpc_status_code code, const char *reason);

#define BYTES(text) ((ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)(text), .len = strlen(text)})

#endif
