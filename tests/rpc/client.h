/*
 * client.h - a gRPC client for tests, on the C core: calls by path with packed messages, unary or streamed.
 *
 * One thread per client. What goes wrong below the level of a status fails the test.
 */
#ifndef VV_TESTS_RPC_CLIENT_H
#define VV_TESTS_RPC_CLIENT_H

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>

#include "base/slice.h"

typedef struct client client;
typedef struct client_call client_call;

/* No call takes longer than this: a hanging server fails its test. */
#define CLIENT_DEADLINE_MS 20000

client *client_create(const char *address);
/* Over TLS: who signs servers, and the client's own certificate and key, NULL for none; all PEM. */
client *client_create_tls(const char *address, const char *ca, const char *certificate, const char *key);
void client_destroy(client *c);

/* Start a call. Messages and the end are waited for with the functions below. */
client_call *client_start(client *c, const char *path, int64_t deadline_ms);
/* The same with one header more. */
client_call *client_start_with(client *c, const char *path, int64_t deadline_ms, const char *key,
                               const char *value);
void client_send(client_call *call, vv_slice message);
void client_half_close(client_call *call);
/* The next message, valid until the next read or the end of the call; false: there is none any more. */
bool client_read(client_call *call, vv_slice *out);
void client_cancel(client_call *call);

/* A unary call under way: start, send, half-close, and a read that is not waited for. */
client_call *client_start_unary(client *c, const char *path, vv_slice request, int64_t deadline_ms);

/* Wait for the end. */
grpc_status_code client_wait(client_call *call);

/* After client_wait(). The one message of a unary call; empty when there was none. */
vv_slice client_response(client_call *call);
const char *client_message(client_call *call);
/* ErrorInfo.reason of grpc-status-details-bin, "" when there is none; domain and code are checked on the way.
 */
const char *client_reason(client_call *call);
/* An entry of ErrorInfo.metadata, "" when there is none; valid until the next call of this. */
const char *client_detail(client_call *call, const char *key);
/* RetryInfo in milliseconds, -1 when there is none. */
int64_t client_retry_ms(client_call *call);
void client_call_destroy(client_call *call);

/* Pack into a buffer that lives until the test ends. */
vv_slice client_pack(const void *message);

#endif
