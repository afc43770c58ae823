/*
 * server.h - a server as a process of its own, for as long as a benchmark needs it.
 */
#ifndef VV_BENCH_SERVER_H
#define VV_BENCH_SERVER_H

#include <sys/types.h>

typedef struct server {
    pid_t pid;
    int stdin_fd;
    char address[128];
} server;

/* Start a server that prints "listening on ADDRESS" when it is ready. What it logs is added to the file at
 * log_path. */
void server_start(server *s, char *const argv[], const char *log_path);

/* Drain it and wait for its end. */
void server_stop(server *s);

#endif
