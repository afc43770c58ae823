/*
 * service.h - the services that varved offers, on any transport.
 */
#ifndef VV_RPC_SERVICE_H
#define VV_RPC_SERVICE_H

#include <stdatomic.h>

#include "base/log.h"
#include "base/sync.h"
#include "engine/varve.h"
#include "rpc/config.h"
#include "rpc/gate.h"
#include "rpc/leases.h"
#include "rpc/log_streams.h"
#include "rpc/lsn_waiters.h"
#include "rpc/page_token.h"
#include "rpc/replication.h"
#include "rpc/timer.h"
#include "rpc/transport.h"
#include "rpc/users.h"
#include "rpc/workers.h"

/* ---- health: grpc.health.v1 ---- */

typedef struct vv_health_watch vv_health_watch;

typedef struct vv_health {
    _Atomic bool serving;
    const vv_rpc_service *services; /* whose names are known */
    size_t service_count;
    /* Wakes the threads of posted calls (vv_rpc_post()). */
    void (*flush)(void *arg);
    void *flush_arg;
    struct {
        vv_mutex lock; /* also held while a watch's call is used, so that a post never overlaps that */
        vv_health_watch *watches;
        bool closing; /* watches are ended */
    } mu;
} vv_health;

/* Not serving yet. */
void vv_health_init(vv_health *h, void (*flush)(void *arg), void *flush_arg);
/* Before the first call: what is served. Borrowed until deinit. */
void vv_health_serve(vv_health *h, const vv_rpc_service *services, size_t count);
/* No call is left. */
void vv_health_deinit(vv_health *h);
/* Tell all watches when it changes. Any thread, but not a commit's callback. */
void vv_health_set(vv_health *h, bool serving);
/* Not serving for good: watches are told so and ended. */
void vv_health_close(vv_health *h);
vv_rpc_service vv_health_service(vv_health *h);

/* ---- the store: varve.v1.KV ---- */

#define VV_KV_SERVICE_NAME "varve.v1.KV"

typedef struct vv_kv_options {
    vv_replication *replication; /* whether writes are let in */
    vv_lsn_waiters *waiters;     /* whether reads are */
    vv_leases *leases;           /* the clients' snapshots */
    vv_timers *timers;
    vv_workers *workers;         /* for what takes long, one turn at a time */
    uint64_t response_bytes_max; /* what one message to a client may have in values */
    uint64_t scan_idle_us;       /* a client that takes no message of a scan for so long is given up */
    uint64_t value_bytes_max;    /* the engine's MAX_VALUE_SIZE */
    uint64_t pipeline_ops_max;   /* in flight in one pipeline */
    uint64_t quorum_timeout_us;  /* how long a write waits for followers */
} vv_kv_options;

typedef struct vv_kv {
    varve_db *db;
    vv_kv_options options;
    uint8_t token_secret[VV_PAGE_TOKEN_SECRET_BYTES];
    uint64_t hash_seed; /* for tables of clients' keys: not to be guessed */
    vv_health *health;  /* turns to NOT_SERVING when the log has failed */
    const vv_logger *log;
    _Atomic bool traced; /* unary calls tell the log where their time went. Anybody sets it */
    /* Values that are pinned while the network reads them. */
    _Atomic uint64_t pinned;
    struct {
        vv_mutex lock;
        vv_cond unpinned;
    } mu;
} vv_kv;

/* IO: the system has no random bytes. */
vv_status vv_kv_init(vv_kv *kv, const vv_kv_options *options, varve_db *db, vv_health *health,
                     const vv_logger *log) VV_CHECKED;
/* The transport has stopped. Waits until it has released the last value, which must come before
 * varve_close().
 */
void vv_kv_deinit(vv_kv *kv);
vv_rpc_service vv_kv_service(vv_kv *kv);

/* ---- snapshots: varve.v1.Snapshots ---- */

#define VV_SNAPSHOTS_SERVICE_NAME "varve.v1.Snapshots"

typedef struct vv_snapshots {
    vv_leases *leases;
    vv_lsn_waiters *waiters;
} vv_snapshots;

vv_rpc_service vv_snapshots_service(vv_snapshots *s);
/* End a call that names a snapshot which its user does not have. */
void vv_snapshots_fail_unknown(vv_rpc_call *call);

/* ---- the store as files, for replicas: a part of varve.v1.Replication ---- */

typedef struct vv_exports_options {
    vv_timers *timers;
    uint64_t count_max;              /* snapshots of files that are held at once */
    uint64_t lease_us, lease_us_max; /* theirs: when the client names none; the longest */
    uint64_t fetch_idle_us;          /* a client that takes no message of a file for so long is given up */
    uint64_t streams_max;            /* that there can be */
} vv_exports_options;

typedef struct vv_exports {
    vv_exports_options options;
    varve_db *db;
    vv_leases *leases;  /* of files */
    vv_workers *takers; /* of snapshots */
    vv_workers *readers;
} vv_exports;

/* On failure, too, vv_exports_deinit() follows. */
vv_status vv_exports_init(vv_exports *e, const vv_exports_options *options, varve_db *db) VV_CHECKED;
/* The server drains: snapshots that wait to be taken are given up. Any thread. */
void vv_exports_stop(vv_exports *e);
/* No call is left; what is held is released. Also for a zeroed struct. */
void vv_exports_deinit(vv_exports *e);

/* ---- administration: varve.v1.Admin ---- */

#define VV_ADMIN_SERVICE_NAME "varve.v1.Admin"
/* Calls that may take long, of which one of each kind runs at a time: Compact, Backup, Verify, Promote. */
#define VV_ADMIN_LONG_KINDS 4

struct vv_reload_report;

typedef struct vv_admin_options {
    const char *backup_dir;    /* backups go below it; "": there are none */
    uint64_t bytes_per_second; /* of a backup or verification; 0: no limit. See vv_admin.bytes_per_second */
    vv_gate *gate;             /* for Stats and Dashboard */
    vv_leases *leases;         /* the same */
    const vv_exports *exports; /* the same */
    vv_replication *replication;
    varve_archive *archive;                 /* for Stats; NULL: none */
    const vv_server_config *config;         /* for Promote: PEERS */
    vv_users *users;                        /* for SetRateLimit */
    const struct vv_metrics_source *source; /* for Dashboard; filled before the first call */
    /* For Reload; on one of the administration's threads. NULL: it is UNIMPLEMENTED. */
    vv_status (*reload)(void *arg, struct vv_reload_report *report, vv_error *err);
    void *reload_arg;
} vv_admin_options;

typedef struct vv_admin {
    vv_admin_options options;
    varve_db *db;
    vv_health *health;
    const vv_logger *log;
    vv_workers *workers;
    vv_workers *promoter; /* one thread */
    uint64_t started_ns;
    _Atomic uint64_t bytes_per_second; /* of those that begin from now on. Anybody sets it */
    _Atomic bool running[VV_ADMIN_LONG_KINDS];
} vv_admin;

/* options: what it points to must outlive the service. INVALID_ARGUMENT, NOT_FOUND, PERMISSION: BACKUP_DIR is
 * no directory. */
vv_status vv_admin_init(vv_admin *admin, const vv_admin_options *options, varve_db *db, vv_health *health,
                        const vv_logger *log, vv_error *err) VV_CHECKED;
/* The server drains: long calls are given up. Any thread. */
void vv_admin_stop(vv_admin *admin);
/* No call is left. */
void vv_admin_deinit(vv_admin *admin);
vv_rpc_service vv_admin_service(vv_admin *admin);
/* ---- changes: varve.v1.Watch ---- */

#define VV_WATCH_SERVICE_NAME "varve.v1.Watch"

typedef struct vv_watches {
    varve_db *db;
    vv_workers *workers;
    vv_log_streams streams;
} vv_watches;

/* Before the database is opened: vv_watches_wake() is its durable callback. */
void vv_watches_init(vv_watches *s);
void vv_watches_wake(void *watches);
/* timers is borrowed until stop. On failure there is nothing to stop. */
vv_status vv_watches_start(vv_watches *s, varve_db *db, vv_timers *timers,
                           uint64_t progress_interval_us) VV_CHECKED;
/* No call is left. */
void vv_watches_stop(vv_watches *s);
/* The database is closed. */
void vv_watches_deinit(vv_watches *s);
vv_rpc_service vv_watch_service(vv_watches *s);

/* ---- replication: varve.v1.Replication ---- */

#define VV_REPLICATION_SERVICE_NAME "varve.v1.Replication"

typedef struct vv_replicas_options {
    varve_db *db;
    vv_replication *replication;
    vv_exports *exports;
    vv_timers *timers;
    uint64_t heartbeat_us; /* a stream says something at least so often */
    const vv_logger *log;
} vv_replicas_options;

typedef struct vv_replicas {
    vv_replicas_options options;
    vv_workers *workers; /* for streams, and for what blocks */
    vv_log_streams streams;
} vv_replicas;

/* Before the database is opened. */
void vv_replicas_init(vv_replicas *s);
/* Have all streams look whether there is more to be sent, or a reason to end: when more of the log is durable
 * or visible, and when the role has changed. Any thread; does not block. */
void vv_replicas_wake(vv_replicas *s);
/* What options point to is borrowed until stop. On failure there is nothing to stop. */
vv_status vv_replicas_start(vv_replicas *s, const vv_replicas_options *options) VV_CHECKED;
/* No call is left. */
void vv_replicas_stop(vv_replicas *s);
/* The database is closed. */
void vv_replicas_deinit(vv_replicas *s);
vv_rpc_service vv_replication_service(vv_replicas *s);

/* ---- reflection: grpc.reflection.v1 and v1alpha ---- */

typedef struct vv_reflection vv_reflection;

/* served: what list_services names; copied by reference (their methods' paths). */
vv_status vv_reflection_create(const vv_rpc_service *served, size_t served_count,
                               vv_reflection **out) VV_CHECKED;
void vv_reflection_destroy(vv_reflection *r);
vv_rpc_service vv_reflection_service(vv_reflection *r);

#endif
