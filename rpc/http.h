/*
 * http.h - METRICS_LISTEN: what a server tells those who watch it, over plain HTTP.
 *
 *     /                the dashboard, one page without outside requests
 *     /dashboard.json  what it draws
 *     /metrics         the same for Prometheus, and more
 *     /healthz         200 while the process answers at all: what answers no more is to be restarted
 *     /readyz          200 while calls are served: 503 while it starts, fetches a copy, drains, has a log
 * that failed, or may not read for others' sake
 *
 * It only tells, and asks nobody who he is: whoever reaches the address sees all of it, names of users and
 * replicas among it, but neither keys nor values. It speaks no TLS. So it is nowhere unless METRICS_LISTEN
 * says where, and an address that is not loopback gets a warning.
 *
 * One thread answers, one request at a time; connections are few and end when nothing is asked for some
 * seconds. MAX_CONNECTIONS does not count them, so that a server is seen when it is full. It outlives a
 * server that is stopped to be started again: between two vv_http_show() there is none to tell of.
 */
#ifndef VV_RPC_HTTP_H
#define VV_RPC_HTTP_H

#include "base/log.h"
#include "base/status.h"
#include "rpc/metrics_source.h"

typedef struct vv_http vv_http;

typedef struct vv_http_options {
    const char *address; /* HOST:PORT or unix:PATH; a valid one */
    uint32_t unix_mode;
    const vv_logger *log; /* borrowed until stop; may be NULL */
} vv_http_options;

/* IO: the address can't be had; err says why. */
vv_status vv_http_start(const vv_http_options *options, vv_http **out, vv_error *err) VV_CHECKED;

/* With its real port. Valid until stop. */
const char *vv_http_address(const vv_http *h);

/* Tell of this server from now on, or of none (NULL). The source is copied; what it points to must stay until
 * it is replaced, which waits for the request that uses it. Any thread; h may be NULL. */
void vv_http_show(vv_http *h, const vv_metrics_source *source);

/* NULL is fine. */
void vv_http_stop(vv_http *h);

#endif
