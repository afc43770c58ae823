/*
 * load.c - h2load as a generator of gRPC calls.
 */
#include "bench/load.h"

#include <stdio.h>
#include <string.h>

#include "bench/report.h"

static FILE *create_body(const char *dir, const char *name, char *path_out, size_t path_bytes) {
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

void load_write_body(const char *dir, const char *name, const unsigned char *message, size_t bytes,
                     char *path_out, size_t path_bytes) {
    FILE *f = create_body(dir, name, path_out, path_bytes);
    add_message(f, message, bytes);
    if (fclose(f) != 0)
        report_die("%s: write failed", path_out);
}

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
    snprintf(key, sizeof key, "key%013u", index * 7919 % LOAD_PIPELINE_OPS);
    memcpy(to + sizeof head, key, 16);
    if (!is_put)
        return sizeof head + 16;
    memcpy(to + sizeof head + 16, "\x12\x64", 2);
    memset(to + sizeof head + 18, 'v', 100);
    return sizeof head + 118;
}

void load_write_pipeline(const char *dir, const char *name, bool is_put, char *path_out, size_t path_bytes) {
    FILE *f = create_body(dir, name, path_out, path_bytes);
    for (unsigned m = 0; m < LOAD_PIPELINE_MESSAGES; m++) {
        unsigned char message[LOAD_PIPELINE_MESSAGE_OPS * 130];
        size_t bytes = 0;
        for (unsigned i = 0; i < LOAD_PIPELINE_MESSAGE_OPS; i++)
            bytes += put_item(message + bytes, m * LOAD_PIPELINE_MESSAGE_OPS + i, is_put);
        add_message(f, message, bytes);
    }
    if (fclose(f) != 0)
        report_die("%s: write failed", path_out);
}

double load_run(const char *address, const char *method, const char *body, int connection_count,
                int stream_count, int seconds) {
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
