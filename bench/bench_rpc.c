/*
 * bench_rpc - unary Get and durable Put through gRPC, loaded by h2load, against a server with empty handlers
 * in the same run; and the same operations through one KV.Pipeline stream.
 *
 *     bench_rpc [--rounds N] [--seconds S] [--connections N] [--streams N]
 *
 * h2load does not look at grpc-status: see load.h.
 */
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/load.h"
#include "bench/report.h"
#include "bench/server.h"

static int rounds = 3;
static int seconds = 3;
static int connections = 10;
static int streams = 50;
static const char *dir;

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
    load_write_body(dir, "put", put_message, sizeof put_message, put_body, sizeof put_body);
    load_write_body(dir, "get", get_message, sizeof get_message, get_body, sizeof get_body);
    load_write_pipeline(dir, "pipeline_get", false, pipeline_get_body, sizeof pipeline_get_body);
    load_write_pipeline(dir, "pipeline_put", true, pipeline_put_body, sizeof pipeline_put_body);
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
        report_add_rate(&empty, load_run(empty_server.address, "/varve.v1.KV/Get", get_body, connections,
                                         streams, seconds));
        report_add_rate(
            &put, load_run(varved.address, "/varve.v1.KV/Put", put_body, connections, streams, seconds));
        report_add_rate(
            &get, load_run(varved.address, "/varve.v1.KV/Get", get_body, connections, streams, seconds));
        report_add_rate(&pipeline_put, LOAD_PIPELINE_OPS * load_run(varved.address, "/varve.v1.KV/Pipeline",
                                                                    pipeline_put_body, 1, 1, seconds));
        report_add_rate(&pipeline_get, LOAD_PIPELINE_OPS * load_run(varved.address, "/varve.v1.KV/Pipeline",
                                                                    pipeline_get_body, 1, 1, seconds));
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
           LOAD_PIPELINE_MESSAGES, LOAD_PIPELINE_MESSAGE_OPS);
    report_line(&pipeline_get);
    report_line(&pipeline_put);
    report_ratio(&pipeline_get, &get, 8);
    report_ratio(&pipeline_put, &put, 8);
    report_dir_remove();
    return 0;
}
