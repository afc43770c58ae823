/*
 * server.h - a database, its services and a transport, put together and taken apart in the right order.
 */
#ifndef VV_RPC_SERVER_H
#define VV_RPC_SERVER_H

#include "base/log.h"
#include "base/status.h"
#include "engine/varve.h"
#include "rpc/config.h"
#include "rpc/follower.h"
#include "rpc/http.h"
#include "rpc/reload.h"
#include "rpc/transport.h"

typedef struct vv_server vv_server;

/*
 * Open the database and serve it. grpc_init() has been called; signals that the program waits for are
 * blocked.
 *
 * config is copied. engine gets the server's callbacks and is the caller's again afterwards. log is borrowed
 * until vv_server_stop(). On failure nothing is left behind; err has the words.
 *
 * INVALID_ARGUMENT/BAD_OPTION   it is the configuration, or a file that it names.
 */
vv_status vv_server_start(const vv_server_config *config, varve_options *engine, const vv_logger *log,
                          vv_server **out, vv_error *err) VV_CHECKED;

/*
 * One run among several of the same database (cycle.h). The caller's, until vv_server_stop().
 */
typedef struct vv_server_run {
    bool no_rewind;             /* of vv_follower_options */
    bool serve_first;           /* a plan that could be made before the start is made afterwards */
    void (*planned)(void *arg); /* stop this run, for its plan; called once at most, on any thread */
    void *arg;
    vv_http *http;     /* to tell of the server; NULL: nobody asks */
    vv_reload *reload; /* what reloads go by, borrowed; NULL: the configuration of the start */
    vv_plan plan;      /* filled in by vv_server_stop(): what is to be done before the next */
} vv_server_run;

/* As vv_server_start(). OK and *out NULL: it is not started, since there is a plan already. */
vv_status vv_server_start_run(const vv_server_config *config, varve_options *engine, const vv_logger *log,
                              vv_server_run *run, vv_server **out, vv_error *err) VV_CHECKED;

/* The index-th address with its real port, NULL behind the last. Valid until stop. */
const char *vv_server_address(const vv_server *s, size_t index);

/* What is served, for those who want to look at every method. Valid until stop. */
const vv_rpc_service *vv_server_services(const vv_server *s, size_t *count_out);

/*
 * As vv_reload_run(): configuration and files are read again, and applied as far as that is possible now; or
 * nothing changes. Logged with who asked for it: "SIGHUP". Any thread, not during the stop.
 */
vv_status vv_server_reload(vv_server *s, const char *who, vv_reload_report *report, vv_error *err) VV_CHECKED;

/*
 * Stop accepting and wait for the calls in flight, DRAIN_TIMEOUT at most; those that are left are cancelled.
 * Writes that the engine has are waited for in any case.
 */
void vv_server_drain(vv_server *s);

/* After a drain: close the database and release everything. The status says whether all that was written has
 * reached the disk. grpc_shutdown_blocking() may follow. */
vv_status vv_server_stop(vv_server *s) VV_CHECKED;

/* Cut a drain short. Any thread, before vv_server_stop(). */
void vv_server_cancel(vv_server *s);

#endif
