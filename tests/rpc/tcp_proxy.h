/*
 * tcp_proxy.h - a link that fails: a TCP proxy in the test's own process.
 *
 * One thread. All functions are thread-safe.
 */
#ifndef VV_TESTS_RPC_TCP_PROXY_H
#define VV_TESTS_RPC_TCP_PROXY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tcp_proxy tcp_proxy;

/* to: "127.0.0.1:PORT" */
tcp_proxy *tcp_proxy_create(const char *to);
void tcp_proxy_destroy(tcp_proxy *p);

/* Where it listens; valid until destroy. */
const char *tcp_proxy_address(const tcp_proxy *p);

/* Once so many bytes more have come from the server, all connections are reset; new ones are served. Once. */
void tcp_proxy_cut_after(tcp_proxy *p, uint64_t bytes);
/* The same, and it is frozen then. */
void tcp_proxy_freeze_after(tcp_proxy *p, uint64_t bytes);
/* The same without a freeze and again and again, each time after 1 to 2 * bytes - 1 bytes. 0: no more. */
void tcp_proxy_cut_each(tcp_proxy *p, uint64_t bytes, uint64_t seed);
/* So often it has come to that. */
uint32_t tcp_proxy_cuts(tcp_proxy *p);

/* Frozen: connections stay open and nothing passes, as when a process is stopped or a cable is out. */
void tcp_proxy_freeze(tcp_proxy *p, bool frozen);

#endif
