#include "tests/rpc/client.h"

#include <criterion/criterion.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"

typedef struct tag {
    bool done, ok;
} tag;

struct client {
    grpc_channel *channel;
    grpc_completion_queue *queue;
};

struct client_call {
    client *owner;
    grpc_call *core;
    tag sent, answered, closed, read, ended;
    grpc_byte_buffer *message;
    grpc_slice message_bytes;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice details;
    char *details_text;
    char reason[64];
    int64_t retry_ms;
    bool reading;
    bool unary;
};

static client *create(const char *address, grpc_channel_credentials *credentials) {
    static char receive[] = GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, send[] = GRPC_ARG_MAX_SEND_MESSAGE_LENGTH;
    static char pool[] = GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL;
    grpc_arg args[] = {{.type = GRPC_ARG_INTEGER, .key = receive, .value.integer = -1},
                       {.type = GRPC_ARG_INTEGER, .key = send, .value.integer = -1},
                       {.type = GRPC_ARG_INTEGER, .key = pool, .value.integer = 1}};
    grpc_channel_args set = {.num_args = 3, .args = args};
    client *c = calloc(1, sizeof *c);
    c->channel = grpc_channel_create(address, credentials, &set);
    grpc_channel_credentials_release(credentials);
    c->queue = grpc_completion_queue_create_for_next(NULL);
    return c;
}

client *client_create(const char *address) {
    return create(address, grpc_insecure_credentials_create());
}

client *client_create_tls(const char *address, const char *ca, const char *certificate, const char *key) {
    grpc_ssl_pem_key_cert_pair pair = {.private_key = key, .cert_chain = certificate};
    return create(address, grpc_ssl_credentials_create(ca, certificate ? &pair : NULL, NULL, NULL));
}

void client_destroy(client *c) {
    grpc_channel_destroy(c->channel);
    grpc_completion_queue_shutdown(c->queue);
    while (grpc_completion_queue_next(c->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(c->queue);
    free(c);
}

static gpr_timespec in_ms(int64_t ms) {
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

static bool wait_tag(client *c, tag *t) {
    while (!t->done) {
        grpc_event event = grpc_completion_queue_next(c->queue, in_ms(2 * CLIENT_DEADLINE_MS), NULL);
        cr_assert_eq(event.type, GRPC_OP_COMPLETE, "the server hangs");
        tag *arrived = event.tag;
        arrived->done = true;
        arrived->ok = event.success != 0;
    }
    return t->ok;
}

static void start(client_call *call, const grpc_op *ops, size_t count, tag *t) {
    *t = (tag){0};
    cr_assert_eq(grpc_call_start_batch(call->core, ops, count, t, NULL), GRPC_CALL_OK);
}

client_call *client_start(client *c, const char *path, int64_t deadline_ms) {
    return client_start_with(c, path, deadline_ms, NULL, NULL);
}

client_call *client_start_with(client *c, const char *path, int64_t deadline_ms, const char *key,
                               const char *value) {
    client_call *call = calloc(1, sizeof *call);
    call->owner = c;
    call->retry_ms = -1;
    call->message_bytes = grpc_empty_slice();
    grpc_metadata_array_init(&call->initial);
    grpc_metadata_array_init(&call->trailing);
    grpc_slice method = grpc_slice_from_copied_string(path);
    call->core = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue, method, NULL,
                                          in_ms(deadline_ms), NULL);
    grpc_slice_unref(method);
    grpc_op status = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    status.data.recv_status_on_client.trailing_metadata = &call->trailing;
    status.data.recv_status_on_client.status = &call->code;
    status.data.recv_status_on_client.status_details = &call->details;
    start(call, &status, 1, &call->ended);
    grpc_op initial[2] = {{.op = GRPC_OP_SEND_INITIAL_METADATA}, {.op = GRPC_OP_RECV_INITIAL_METADATA}};
    initial[1].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
    grpc_metadata header = {.key = grpc_empty_slice(), .value = grpc_empty_slice()};
    if (key) {
        header.key = grpc_slice_from_copied_string(key);
        header.value = grpc_slice_from_copied_string(value);
        initial[0].data.send_initial_metadata.metadata = &header;
        initial[0].data.send_initial_metadata.count = 1;
    }
    start(call, initial, 1, &call->sent);
    start(call, initial + 1, 1, &call->answered);
    wait_tag(c, &call->sent); /* the header is borrowed until then */
    grpc_slice_unref(header.key);
    grpc_slice_unref(header.value);
    return call;
}

static grpc_byte_buffer *buffer_of(vv_slice message) {
    grpc_slice slice = grpc_slice_from_copied_buffer(message.data, message.bytes);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

void client_send(client_call *call, vv_slice message) {
    grpc_byte_buffer *buffer = buffer_of(message);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE};
    op.data.send_message.send_message = buffer;
    start(call, &op, 1, &call->closed);
    wait_tag(call->owner, &call->closed);
    grpc_byte_buffer_destroy(buffer);
}

void client_half_close(client_call *call) {
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    start(call, &op, 1, &call->closed);
    wait_tag(call->owner, &call->closed);
}

static void start_read(client_call *call) {
    if (call->message)
        grpc_byte_buffer_destroy(call->message);
    call->message = NULL;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->message;
    start(call, &op, 1, &call->read);
    call->reading = true;
}

static void finish_read(client_call *call) {
    if (!call->reading)
        return;
    wait_tag(call->owner, &call->read);
    call->reading = false;
    grpc_slice_unref(call->message_bytes);
    call->message_bytes = grpc_empty_slice();
    grpc_byte_buffer_reader reader;
    if (call->message && grpc_byte_buffer_reader_init(&reader, call->message)) {
        call->message_bytes = grpc_byte_buffer_reader_readall(&reader);
        grpc_byte_buffer_reader_destroy(&reader);
    }
}

bool client_read(client_call *call, vv_slice *out) {
    start_read(call);
    finish_read(call);
    *out = client_response(call);
    return call->message != NULL;
}

void client_cancel(client_call *call) {
    grpc_call_cancel(call->core, NULL);
}

client_call *client_start_unary(client *c, const char *path, vv_slice request, int64_t deadline_ms) {
    client_call *call = client_start(c, path, deadline_ms);
    grpc_byte_buffer *buffer = buffer_of(request);
    grpc_op ops[2] = {{.op = GRPC_OP_SEND_MESSAGE}, {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}};
    ops[0].data.send_message.send_message = buffer;
    start(call, ops, 2, &call->closed);
    call->unary = true;
    start_read(call);
    grpc_byte_buffer_destroy(buffer); /* the C core has its own reference to the slices */
    return call;
}

/* google.rpc.Status of the trailing metadata; NULL: none. */
static Google__Rpc__Status *rich_status(client_call *call) {
    for (size_t i = 0; i < call->trailing.count; i++)
        if (grpc_slice_str_cmp(call->trailing.metadata[i].key, "grpc-status-details-bin") == 0) {
            grpc_slice value = call->trailing.metadata[i].value;
            Google__Rpc__Status *status =
                google__rpc__status__unpack(NULL, GRPC_SLICE_LENGTH(value), GRPC_SLICE_START_PTR(value));
            cr_assert_not_null(status, "grpc-status-details-bin is no google.rpc.Status");
            return status;
        }
    return NULL;
}

static void read_details(client_call *call) {
    Google__Rpc__Status *status = rich_status(call);
    if (!status)
        return;
    cr_assert_eq(status->code, (int32_t)call->code);
    /* Where both sides see the deadline pass the words may be the C core's, with the server's metadata. */
    if (call->code != GRPC_STATUS_DEADLINE_EXCEEDED)
        cr_assert_str_eq(status->message, call->details_text);
    for (size_t i = 0; i < status->n_details; i++) {
        ProtobufCBinaryData value = status->details[i]->value;
        if (strcmp(status->details[i]->type_url, "type.googleapis.com/google.rpc.ErrorInfo") == 0) {
            Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, value.len, value.data);
            cr_assert_str_eq(info->domain, "varve");
            snprintf(call->reason, sizeof call->reason, "%s", info->reason);
            google__rpc__error_info__free_unpacked(info, NULL);
        } else {
            cr_assert_str_eq(status->details[i]->type_url, "type.googleapis.com/google.rpc.RetryInfo");
            Google__Rpc__RetryInfo *retry = google__rpc__retry_info__unpack(NULL, value.len, value.data);
            call->retry_ms = retry->retry_delay->seconds * 1000 + retry->retry_delay->nanos / 1000000;
            google__rpc__retry_info__free_unpacked(retry, NULL);
        }
    }
    google__rpc__status__free_unpacked(status, NULL);
}

grpc_status_code client_wait(client_call *call) {
    finish_read(call);
    wait_tag(call->owner, &call->ended);
    if (!call->details_text) {
        call->details_text = grpc_slice_to_c_string(call->details);
        read_details(call);
    }
    return call->code;
}

vv_slice client_response(client_call *call) {
    return vv_slice_make(GRPC_SLICE_START_PTR(call->message_bytes), GRPC_SLICE_LENGTH(call->message_bytes));
}

const char *client_message(client_call *call) {
    return call->details_text;
}

const char *client_reason(client_call *call) {
    return call->reason;
}

const char *client_detail(client_call *call, const char *key) {
    static char text[64];
    text[0] = '\0';
    Google__Rpc__Status *status = rich_status(call);
    for (size_t i = 0; status && i < status->n_details; i++) {
        ProtobufCBinaryData value = status->details[i]->value;
        if (!strstr(status->details[i]->type_url, "ErrorInfo"))
            continue;
        Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, value.len, value.data);
        for (size_t m = 0; m < info->n_metadata; m++)
            if (strcmp(info->metadata[m]->key, key) == 0)
                snprintf(text, sizeof text, "%s", info->metadata[m]->value);
        google__rpc__error_info__free_unpacked(info, NULL);
    }
    if (status)
        google__rpc__status__free_unpacked(status, NULL);
    return text;
}

int64_t client_retry_ms(client_call *call) {
    return call->retry_ms;
}

void client_call_destroy(client_call *call) {
    client_wait(call);
    wait_tag(call->owner, &call->answered);
    if (call->unary)
        wait_tag(call->owner, &call->closed);
    grpc_call_unref(call->core);
    if (call->message)
        grpc_byte_buffer_destroy(call->message);
    grpc_slice_unref(call->message_bytes);
    grpc_slice_unref(call->details);
    gpr_free(call->details_text);
    grpc_metadata_array_destroy(&call->initial);
    grpc_metadata_array_destroy(&call->trailing);
    free(call);
}

#define PACKED_MAX 64

static void *packed[PACKED_MAX];
static size_t packed_count;

vv_slice client_pack(const void *message) {
    size_t bytes = protobuf_c_message_get_packed_size(message);
    free(packed[packed_count % PACKED_MAX]);
    void *buf = malloc(bytes + 1);
    packed[packed_count++ % PACKED_MAX] = buf;
    return vv_slice_make(buf, protobuf_c_message_pack(message, buf));
}
