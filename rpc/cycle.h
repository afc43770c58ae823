/*
 * cycle.h - varved from its start to its end: runs of a server, and what is done between them.
 *
 *     [fetch a copy, if the directory is empty and another server is to be followed]
 *          |
 *          v      a plan of the follower's         cut a tail, or install a copy
 *       serve ------------------------------> stop ---------------> serve ...
 *          |
 *          '---- SIGTERM, SIGINT --> stop, end
 *
 * A server that is started again has the addresses of the first run, ports that were chosen included.
 */
#ifndef VV_RPC_CYCLE_H
#define VV_RPC_CYCLE_H

#include "base/log.h"
#include "base/status.h"
#include "engine/varve.h"
#include "rpc/config.h"

typedef struct vv_cycle_options {
    const vv_server_config *config; /* copied */
    varve_options *engine;
    /* What both were loaded from, to read it again; see vv_reload_options, as for `applied`. */
    const char *const *argv, *const *environment;
    void (*applied)(void *arg, const vv_server_config *config);
    const vv_logger *log;
    /* Called once for each address, METRICS_LISTEN last, when the server is ready. */
    void (*listening)(void *arg, const char *address);
    void *arg;
} vv_cycle_options;

/* Block the signals that vv_cycle_run() waits for: in main(), before the first thread is started. */
void vv_cycle_block_signals(void);

/*
 * Serve until SIGTERM or SIGINT. SIGHUP reads the configuration again (reload.h), or does so once there is a
 * server. Signals are waited for by the calling thread, and,
 * while a server drains, by one of its own.
 *
 * OK                            everything is on disk.
 * INVALID_ARGUMENT/BAD_OPTION   it is the configuration, or a file that it names.
 * others                        the server could not start, or not be closed; err has the words.
 */
vv_status vv_cycle_run(const vv_cycle_options *options, vv_error *err) VV_CHECKED;

#endif
