/*
 * bench_rpc - unary Get and durable Put through gRPC, loaded by h2load, against a server with empty handlers
 * in the same run; and the same operations through one KV.Pipeline stream.
 *
 *     bench_rpc [--rounds N] [--seconds S] [--connections N] [--streams N]
 *
 * h2load is a plain HTTP/2 load generator (nghttp2): a gRPC message is a POST whose body is five bytes of
 * framing and the encoded request. It does not look at grpc-status, so the Put is checked once by what stats
 * say.
 */
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/report.h"
#include "bench/server.h"

static int rounds = 3;
static int seconds = 3;
static int connections = 10;
static int streams = 50;
static const char *dir;

/* ---- load ---- */

static FILE *create_body(const char *name, char *path_out, size_t path_bytes) {
    snprintf(path_out, path_bytes, "%s/%s", dir, name);
    FILE *f = fopen(path_out, "wb");
    if (!f)
        report_die("%s: cannot be made", path_out);
    return f;
}

/* gRPC framing, then the message. */
static void add_message(FILE *f, const unsigned char *message, size_t bytes) {
    unsigned char head[5] = {0, 0, (unsigned char)(bytes >> 16), (unsigned char)(bytes >> 8),
                             (unsigned char)bytes};
    if (fwrite(head, 1, 5, f) != 5 || fwrite(message, 1, bytes, f) != bytes)
        report_die("write failed");
}

static void write_body(const char *name, const unsigned char *message, size_t bytes, char *path_out,
                       size_t path_bytes) {
    FILE *f = create_body(name, path_out, path_bytes);
    add_message(f, message, bytes);
    if (fclose(f) != 0)
        report_die("%s: write failed", path_out);
}

#define PIPELINE_MESSAGES    100 /* in a stream */
#define PIPELINE_MESSAGE_OPS 100
#define PIPELINE_OPS         (PIPELINE_MESSAGES * PIPELINE_MESSAGE_OPS)

/* One PipelineItem{id, op} in field `more`; keys of 16 bytes, all different, values of 100. */
static size_t put_item(unsigned char *to, unsigned index, bool is_put) {
    size_t op_bytes = is_put ? 2 + 16 + 2 + 100 : 2 + 16;
    const unsigned char head[] = {0x32,
                                  (unsigned char)(3 + 2 + 2 + op_bytes),
                                  0x08, /* id: two bytes as a varint */
                                  (unsigned char)(0x80 | (index & 0x7f)),
                                  (unsigned char)(0x01 + (index >> 7) % 0x7f),
                                  0x12,
                                  (unsigned char)(2 + op_bytes),
                                  is_put ? 0x0a : 0x1a,
                                  (unsigned char)op_bytes,
                                  0x0a,
                                  16};
    memcpy(to, head, sizeof head);
    char key[17];
    snprintf(key, sizeof key, "key%013u", index * 7919 % PIPELINE_OPS);
    memcpy(to + sizeof head, key, 16);
    if (!is_put)
        return sizeof head + 16;
    memcpy(to + sizeof head + 16, "\x12\x64", 2);
    memset(to + sizeof head + 18, 'v', 100);
    return sizeof head + 118;
}

static void write_pipeline(const char *name, bool is_put, char *path_out, size_t path_bytes) {
    FILE *f = create_body(name, path_out, path_bytes);
    for (unsigned m = 0; m < PIPELINE_MESSAGES; m++) {
        unsigned char message[PIPELINE_MESSAGE_OPS * 130];
        size_t bytes = 0;
        for (unsigned i = 0; i < PIPELINE_MESSAGE_OPS; i++)
            bytes += put_item(message + bytes, m * PIPELINE_MESSAGE_OPS + i, is_put);
        add_message(f, message, bytes);
    }
    if (fclose(f) != 0)
        report_die("%s: write failed", path_out);
}

/* Requests a second, as h2load counted those that succeeded. */
static double load(const char *address, const char *method, const char *body, int connection_count,
                   int stream_count) {
    char command[2048], line[512];
    snprintf(command, sizeof command,
             "h2load -D %d --warm-up-time=1 -c %d -m %d -t 1 -d '%s' -H 'content-type: application/grpc' "
             "-H 'te: trailers' 'http://%s%s' 2>&1",
             seconds, connection_count, stream_count, body, address, method);
    FILE *p = popen(command, "r");
    if (!p)
        report_die("h2load can't be started");
    double rate = 0;
    unsigned long failed = 1, errored = 1;
    while (fgets(line, sizeof line, p)) {
        (void)sscanf(line, "finished in %*[^,], %lf req/s", &rate);
        (void)sscanf(line,
                     "requests: %*u total, %*u started, %*u done, %*u succeeded, %lu failed, %lu errored",
                     &failed, &errored);
    }
    int status = pclose(p);
    if (status != 0 || rate <= 0 || failed || errored)
        report_die("h2load %s%s: status %d, %.0f requests a second, %lu failed, %lu errored", address, method,
                   status, rate, failed, errored);
    return rate;
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"connections", required_argument, NULL, 'c'},
                                            {"streams", required_argument, NULL, 'm'},
                                            {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'r': rounds = atoi(optarg); break;
        case 's': seconds = atoi(optarg); break;
        case 'c': connections = atoi(optarg); break;
        case 'm': streams = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (rounds < 1 || rounds > REPORT_ROUNDS_MAX || seconds < 1 || connections < 1 || streams < 1) {
        fprintf(stderr, "bench_rpc: every number is at least 1\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    static report_side empty, get, put, pipeline_get, pipeline_put;
    char pipeline_get_body[700], pipeline_put_body[700];
    server empty_server, varved;
    char empty_path[600], varved_path[600], data[700], log[700], put_body[700], get_body[700];
    /* PutRequest{key: 16 bytes, value: 100 bytes}; GetRequest{key}. */
    unsigned char put_message[2 + 16 + 2 + 100] = {0x0a, 16}, get_message[2 + 16] = {0x0a, 16};
    memset(put_message + 2, 'k', 16);
    memset(get_message + 2, 'k', 16);
    put_message[18] = 0x12;
    put_message[19] = 100;
    memset(put_message + 20, 'v', 100);

    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    dir = report_dir_create();
    write_body("put", put_message, sizeof put_message, put_body, sizeof put_body);
    write_body("get", get_message, sizeof get_message, get_body, sizeof get_body);
    write_pipeline("pipeline_get", false, pipeline_get_body, sizeof pipeline_get_body);
    write_pipeline("pipeline_put", true, pipeline_put_body, sizeof pipeline_put_body);
    snprintf(empty_path, sizeof empty_path, "%s/empty_server", report_bin_dir());
    snprintf(varved_path, sizeof varved_path, "%s/varved", report_bin_dir());
    snprintf(data, sizeof data, "--data=%s/data", dir);
    char threads[16];
    snprintf(threads, sizeof threads, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    snprintf(log, sizeof log, "%s/log", dir);
    server_start(&empty_server, (char *[]){empty_path, threads, NULL}, log);
    server_start(&varved, (char *[]){varved_path, data, (char[]){"--listen=127.0.0.1:0"}, NULL}, log);

    report_side_init(&empty, "empty handler");
    report_side_init(&get, "KV.Get, in memory");
    report_side_init(&put, "KV.Put, durable");
    report_side_init(&pipeline_get, "Pipeline, get");
    report_side_init(&pipeline_put, "Pipeline, durable put");
    report_machine();
    for (int i = 0; i < rounds; i++) {
        report_add_rate(&empty,
                        load(empty_server.address, "/varve.v1.KV/Get", get_body, connections, streams));
        report_add_rate(&put, load(varved.address, "/varve.v1.KV/Put", put_body, connections, streams));
        report_add_rate(&get, load(varved.address, "/varve.v1.KV/Get", get_body, connections, streams));
        report_add_rate(&pipeline_put, PIPELINE_OPS * load(varved.address, "/varve.v1.KV/Pipeline",
                                                           pipeline_put_body, 1, 1));
        report_add_rate(&pipeline_get, PIPELINE_OPS * load(varved.address, "/varve.v1.KV/Pipeline",
                                                           pipeline_get_body, 1, 1));
    }
    server_stop(&empty_server);
    server_stop(&varved);
    char title[160];
    snprintf(title, sizeof title,
             "unary calls by h2load, %d connections x %d streams, 16-byte keys, 100-byte values, %d rounds "
             "of %d s",
             connections, streams, rounds, seconds);
    report_header(title);
    report_line(&empty);
    report_line(&get);
    report_line(&put);
    report_ratio(&get, &empty, 0);
    report_ratio(&put, &empty, 0);
    printf("\none connection, one stream of KV.Pipeline at a time, %d messages of %d operations each, "
           "operations a "
           "second\n",
           PIPELINE_MESSAGES, PIPELINE_MESSAGE_OPS);
    report_line(&pipeline_get);
    report_line(&pipeline_put);
    report_ratio(&pipeline_get, &get, 8);
    report_ratio(&pipeline_put, &put, 8);
    report_dir_remove();
    return 0;
}
