/*
 * empty_server - the least that a unary server on the gRPC C core can do: every method is answered with an
 * empty message. What varved is measured against: the distance is what Varve itself costs.
 *
 *     empty_server THREADS        prints "listening on 127.0.0.1:PORT", ends with its standard input
 */
#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX     64
#define ARMED_PER_QUEUE 64

typedef struct call {
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_completion_queue *queue;
    grpc_byte_buffer *request;
    grpc_byte_buffer *reply;
    int cancelled;
    enum { ARMED, READING, ANSWERING } state;
} call;

static grpc_server *server;

static void arm(grpc_completion_queue *queue) {
    call *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->queue = queue;
    grpc_call_details_init(&c->details);
    grpc_metadata_array_init(&c->metadata);
    if (grpc_server_request_call(server, &c->call, &c->details, &c->metadata, queue, queue, c) !=
        GRPC_CALL_OK)
        abort();
}

static void start(call *c, const grpc_op *ops, size_t count) {
    if (grpc_call_start_batch(c->call, ops, count, c, NULL) != GRPC_CALL_OK)
        abort();
}

static void read_request(call *c) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->request;
    c->state = READING;
    start(c, &op, 1);
}

static void answer(call *c) {
    grpc_op ops[4];
    memset(ops, 0, sizeof ops);
    grpc_slice empty = grpc_empty_slice();
    c->reply = grpc_raw_byte_buffer_create(&empty, 1);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_SEND_MESSAGE;
    ops[1].data.send_message.send_message = c->reply;
    ops[2].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    ops[2].data.send_status_from_server.status = GRPC_STATUS_OK;
    ops[3].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
    ops[3].data.recv_close_on_server.cancelled = &c->cancelled;
    c->state = ANSWERING;
    start(c, ops, 4);
}

static void finish(call *c) {
    if (c->request)
        grpc_byte_buffer_destroy(c->request);
    if (c->reply)
        grpc_byte_buffer_destroy(c->reply);
    if (c->call)
        grpc_call_unref(c->call);
    grpc_call_details_destroy(&c->details);
    grpc_metadata_array_destroy(&c->metadata);
    free(c);
}

static void *serve(void *arg) {
    grpc_completion_queue *queue = arg;
    for (;;) {
        grpc_event e = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (e.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        call *c = e.tag;
        if (c->state == ARMED && e.success) {
            arm(queue);
            read_request(c);
        } else if (c->state == READING && e.success) {
            answer(c);
        } else {
            finish(c);
        }
    }
}

int main(int argc, char **argv) {
    int threads = argc == 2 ? atoi(argv[1]) : 0;
    if (threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: empty_server THREADS (1 to %d)\n", THREADS_MAX);
        return 2;
    }
    grpc_completion_queue *queues[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    grpc_init();
    server = grpc_server_create(NULL, NULL);
    for (int i = 0; i < threads; i++) {
        queues[i] = grpc_completion_queue_create_for_next(NULL);
        grpc_server_register_completion_queue(server, queues[i], NULL);
    }
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(server, "127.0.0.1:0", credentials);
    grpc_server_credentials_release(credentials);
    if (port == 0)
        return 1;
    grpc_server_start(server);
    for (int i = 0; i < threads; i++) {
        for (int k = 0; k < ARMED_PER_QUEUE; k++)
            arm(queues[i]);
        if (pthread_create(&ids[i], NULL, serve, queues[i]) != 0)
            return 1;
    }
    printf("listening on 127.0.0.1:%d\n", port);
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;

    grpc_completion_queue *down = grpc_completion_queue_create_for_pluck(NULL);
    grpc_server_shutdown_and_notify(server, down, NULL);
    grpc_server_cancel_all_calls(server);
    grpc_completion_queue_pluck(down, NULL, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    for (int i = 0; i < threads; i++) {
        grpc_completion_queue_shutdown(queues[i]);
        pthread_join(ids[i], NULL);
        grpc_completion_queue_destroy(queues[i]);
    }
    grpc_server_destroy(server);
    grpc_completion_queue_shutdown(down);
    grpc_completion_queue_destroy(down);
    grpc_shutdown_blocking();
    return 0;
}
