/*
 * grpc_transport.h - the transport of transport.h on the gRPC C core.
 *
 * Order of life: create, listen (once an address), start, flush ..., drain, stop, destroy. All but flush and
 * cancel belong to one thread. grpc_init() comes before listen, grpc_shutdown_blocking() after stop; both are
 * the program's.
 */
#ifndef VV_RPC_GRPC_TRANSPORT_H
#define VV_RPC_GRPC_TRANSPORT_H

#include "base/log.h"
#include "base/status.h"
#include "rpc/tls.h"
#include "rpc/transport.h"

typedef struct vv_grpc vv_grpc;

typedef struct vv_grpc_options {
    uint32_t thread_count; /* completion queues, one thread each; at least 1 */
    uint64_t message_bytes_max;
    uint64_t memory_quota_bytes;
    uint64_t metadata_bytes_max;
    uint64_t connection_streams_max;
    /* Microseconds; 0: never, for idle and age. */
    uint64_t connection_idle_us, connection_age_us, connection_age_grace_us;
    uint64_t keepalive_time_us, keepalive_timeout_us, handshake_timeout_us;
    uint64_t client_ping_us; /* a client that pings more often, without a call, is sent away */
    vv_tls *tls;             /* for TCP; NULL: none. Borrowed until destroy */
    uint32_t unix_mode;      /* of the files of unix sockets */
    vv_rpc_gate *gate;       /* may be NULL; borrowed until stop */
    const vv_logger *log;    /* borrowed until destroy */
} vv_grpc_options;

/* Memory only: flush may already be called. */
vv_status vv_grpc_create(const vv_grpc_options *options, vv_grpc **out) VV_CHECKED;

/*
 * Bind "HOST:PORT" or "unix:PATH"; *port_out is the real port, 0 for unix. Connections wait until start.
 * Unix sockets never speak TLS: who may use one is said by its mode and that of its directory.
 *
 * EXISTS             somebody serves there.
 * INVALID_ARGUMENT   a file that is no socket stands at PATH.
 * IO                 anything else; the reason is in the log.
 */
vv_status vv_grpc_listen(vv_grpc *t, const char *address, int *port_out, vv_error *err) VV_CHECKED;

/* Serve. services and their methods are borrowed until stop. */
vv_status vv_grpc_start(vv_grpc *t, const vv_rpc_service *services, size_t service_count,
                        vv_error *err) VV_CHECKED;

/*
 * Wake every thread that has posted calls waiting, with one event each. Any thread, never blocks; must have
 * returned before destroy, but may run beside all the rest.
 */
void vv_grpc_flush(vv_grpc *t);

/*
 * Stop accepting and wait until every call is over. Calls that are still open after timeout_us are cancelled;
 * those that wait for a post are waited for even then, so that nothing is posted to what is gone.
 */
void vv_grpc_drain(vv_grpc *t, uint64_t timeout_us);

/* Cut a drain short, also one that has not begun. Any thread. */
void vv_grpc_cancel(vv_grpc *t);

/* Release all that is the C core's. Needs no start; drains with no patience if that has not happened. */
void vv_grpc_stop(vv_grpc *t);

/* After stop. NULL is fine. */
void vv_grpc_destroy(vv_grpc *t);

/* Send what the C core has to say to `log` from now on, NULL: nowhere. Process-wide. */
void vv_grpc_log_to(const vv_logger *log);

#endif
