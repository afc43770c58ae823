/*
 * load.h - h2load (nghttp2), a plain HTTP/2 load generator, as a generator of gRPC calls: a call is a POST
 * whose body is five bytes of framing and the encoded request, for each message. It does not look at
 * grpc-status.
 */
#ifndef VV_BENCH_LOAD_H
#define VV_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>

/* Make the file `name` in `dir`, the body of calls with this one message. *path_out: where it is. */
void load_write_body(const char *dir, const char *name, const unsigned char *message, size_t bytes,
                     char *path_out, size_t path_bytes);

/* The same for a stream of KV.Pipeline: LOAD_PIPELINE_OPS puts or gets of different keys of 16 bytes, values
 * of 100. */
#define LOAD_PIPELINE_MESSAGES    100
#define LOAD_PIPELINE_MESSAGE_OPS 100
#define LOAD_PIPELINE_OPS         (LOAD_PIPELINE_MESSAGES * LOAD_PIPELINE_MESSAGE_OPS)
void load_write_pipeline(const char *dir, const char *name, bool is_put, char *path_out, size_t path_bytes);

/* Calls a second that succeeded, over so many seconds behind a first one that does not count. Ends the
 * program if one fails. */
double load_run(const char *address, const char *method, const char *body, int connection_count,
                int stream_count, int seconds);

#endif
